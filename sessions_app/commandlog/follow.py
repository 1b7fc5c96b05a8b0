"""Where a session's records come from: its journal in this host's spool, as it grows, or its sealed chunks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .. import recording
from ..journal import HEAD_BYTES, MAX_PAYLOAD, OUTPUT, Segment, decode, list_segments
from ..models import RecordingChunk, TerminalSession

_READ_BYTES = 1 << 18


class Piece(NamedTuple):
    """One record. `offset`: bytes of output before it."""

    kind: int
    time_us: int
    payload: bytes
    offset: int


class Gone(Exception):
    """The journal is not here, or no longer from this offset on."""


class Tail:
    """A place in a journal that another process writes. It holds one file open."""

    def __init__(self, directory: Path, output_offset: int) -> None:
        """Begin with the segment that has this offset of output. Raises Gone."""
        self._directory = directory
        self._fd = -1
        kept = [segment for segment in list_segments(directory) if segment.output_base <= output_offset]
        if not kept:
            raise Gone
        # Of segments without output between them the first: what was typed there counts.
        first = next(segment for segment in kept if segment.output_base == kept[-1].output_base)
        self._open(first)

    def _open(self, segment: Segment) -> None:
        self.close()
        try:
            self._fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise Gone from None
        self._segment, self._position, self._offset = segment, 0, segment.output_base

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def read(self, limit: int) -> list[Piece]:
        """What comes next, about `limit` bytes of it; nothing at the end for now. Raises Gone."""
        pieces: list[Piece] = []
        taken = 0
        while taken < limit:
            size = _READ_BYTES
            data = os.pread(self._fd, size, self._position)
            end = self._decode(data, pieces)
            if not end and len(data) == size:  # one record that is longer than what was read
                data = os.pread(self._fd, MAX_PAYLOAD + HEAD_BYTES, self._position)
                end = self._decode(data, pieces)
            if not end and not self._next():
                break
            self._position += end
            taken += end
        return pieces

    def _decode(self, data: bytes, pieces: list[Piece]) -> int:
        end = 0
        for record in decode(data):
            pieces.append(Piece(record.kind, record.time_us, bytes(record.payload), self._offset))
            if record.kind == OUTPUT:
                self._offset += len(record.payload)
            end = record.end
        return end

    def _next(self) -> bool:
        """Go on to the segment behind this one; a place that a crash cut off, or that is damaged, is passed over."""
        later = [segment for segment in list_segments(self._directory) if segment.base > self._segment.base]
        if not later:
            return False
        self._open(later[0])
        self._position = 0
        return True


def sealed(session: TerminalSession, output_offset: int) -> Iterator[Piece]:
    """The records of a session's sealed chunks from the one on that has this offset of output; no input is among them.

    Raises FileNotFoundError if a chunk is nowhere, ValueError if one is damaged.
    """
    offset = 0
    for chunk in RecordingChunk.objects.filter(session=session).order_by("number").iterator(chunk_size=100):
        if output_offset and offset + chunk.output_bytes <= output_offset:
            offset += chunk.output_bytes
            continue
        with recording.open_chunk(chunk) as file:
            for record in recording.chunk_records(file):
                yield Piece(record.kind, record.time_us, bytes(record.payload), offset)
                if record.kind == OUTPUT:
                    offset += len(record.payload)
