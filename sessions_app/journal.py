"""One session's journal: what was shown, when, and which numbers were used, in segment files that are only appended to.

The owner of a session writes it before it acknowledges anything; browsers, recordings and the next owner read it, each
at its own pace. A process that is killed loses nothing that was appended: the bytes are in the page cache. Only a torn
last record can be left, and it is cut off when the journal is opened again.

A segment's name tells where it begins: `<bytes of journal before it>-<bytes of output before it>.seg`, both in 16 hex
digits. Its first record is a STATE, so that the last segment alone tells an owner how to go on.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import orjson

from fleetops.clock import steady

SEGMENT_BYTES = 1 << 20  # what a quota can drop at once, and what is scanned to find an offset
MAX_PAYLOAD = 1 << 18  # of one record: one frame of the protocol is smaller
MOST_BUFFERS = os.sysconf("SC_IOV_MAX")  # of one writev
PIECE_BYTES = 1 << 16  # read at once, and the most that one websocket message shows

STATE = 1  # payload: see State. At the start of each segment
OUTPUT = 2  # payload: bytes that were shown; sequence: the agent's number of the message that bore them
INPUT = 3  # payload: see _USED. Sequence: our last number that bore keystrokes. Never their text
SIZE = 4  # payload: see _SIZE. Sequence: our number that bore the size
MARK = 5  # no payload; sequence: an agent's number that bore no output (a handshake, a flag)
NOTE = 6  # payload: a JSON object with "type" and "text": what happened besides output; see Proxy.note
FRAME = 7  # payload: see Framed. Not shown, and not in recordings
PASSED = 8  # payload: bytes of a forwarded port; sequence as of OUTPUT. Not shown, and not in recordings

# crc of all that follows it, length of the payload, kind, time (us since the session's start), sequence
_HEAD = struct.Struct(">IIBQq")
_REST = struct.Struct(">IBQq")
HEAD_BYTES = _HEAD.size
_STATE = struct.Struct(">QqqqHH")
_USED = struct.Struct(">q")  # all of ours through this number are acknowledged
_SIZE = struct.Struct(">HHq")  # cols, rows, acknowledged through


class JournalBusy(Exception):
    """Another process holds this journal."""


class JournalFull(Exception):
    """There is no room for the record: the disk or the quota is full. Nothing was written."""


class Framed(bytes):
    """A message of the agent that bears no output: its payload type (one byte), then its payload.

    Type OUTPUT or STDERR without a payload: what is shown from here on is of that type.
    """

    kind = FRAME


class Passed(bytes):
    """Bytes of a forwarded port."""

    kind = PASSED


class Record(NamedTuple):
    """One record. `time_us`: microseconds since the session's start; `end`: the journal's offset just behind it."""

    kind: int
    time_us: int
    sequence: int
    payload: memoryview | bytes
    end: int
    raw: memoryview | bytes  # the whole record, as it lies in the file


@dataclass(slots=True)
class State:
    """What a new owner has to know."""

    started_us: int = 0  # when the journal began, microseconds since 1970 UTC
    output_sequence: int = -1  # the agent's last number that we hold
    input_sequence: int = -1  # the last number that we may have used
    acknowledged: int = -1  # of ours, all through this one are known to have arrived
    cols: int = 80
    rows: int = 24

    def pack(self) -> bytes:
        return _STATE.pack(
            self.started_us, self.output_sequence, self.input_sequence, self.acknowledged, self.cols, self.rows
        )

    def apply(self, kind: int, sequence: int, payload: memoryview | bytes) -> None:
        """Take in one record."""
        if kind in (OUTPUT, MARK, FRAME, PASSED):
            self.output_sequence = max(self.output_sequence, sequence)
        elif kind == INPUT:
            self.input_sequence = max(self.input_sequence, sequence)
            self.acknowledged = _USED.unpack(payload)[0]
        elif kind == SIZE:
            if sequence >= 0:
                self.input_sequence = max(self.input_sequence, sequence)
            self.cols, self.rows, self.acknowledged = _SIZE.unpack(payload)
        elif kind == STATE:
            (
                self.started_us,
                self.output_sequence,
                self.input_sequence,
                self.acknowledged,
                self.cols,
                self.rows,
            ) = _STATE.unpack(payload)


@dataclass(slots=True)
class Segment:
    """One file. `base` and `output_base`: bytes of journal and of output before it; `size`: bytes that are whole."""

    base: int
    output_base: int
    path: Path
    size: int = 0

    @property
    def end(self) -> int:
        return self.base + self.size


def size_of(payload: memoryview | bytes) -> tuple[int, int]:
    """The columns and rows of a SIZE record."""
    cols, rows, _ = _SIZE.unpack(payload)
    return cols, rows


def note_of(payload: memoryview | bytes) -> dict[str, Any]:
    """The object of a NOTE record."""
    found: dict[str, Any] = orjson.loads(payload)
    return found


def state_of(payload: memoryview | bytes) -> State:
    """The State of a STATE record."""
    state = State()
    state.apply(STATE, 0, payload)
    return state


def encode(kind: int, time_us: int, sequence: int, payload: bytes | memoryview) -> bytes:
    """Write one record as bytes."""
    return _head(kind, time_us, sequence, payload) + payload


def _head(kind: int, time_us: int, sequence: int, payload: bytes | memoryview) -> bytes:
    rest = _REST.pack(len(payload), kind, time_us, sequence)
    return crc32(payload, crc32(rest)).to_bytes(4, "big") + rest


def decode(data: bytes | memoryview, base: int = 0, *, check: bool = True) -> Iterator[Record]:
    """Yield the whole records at the front of `data`, which begins at journal offset `base`.

    Ends at the first that is cut short or, with `check`, whose checksum is wrong.
    """
    view = memoryview(data)
    position, size = 0, len(view)
    while position + HEAD_BYTES <= size:
        crc, length, kind, time_us, sequence = _HEAD.unpack_from(view, position)
        end = position + HEAD_BYTES + length
        if length > MAX_PAYLOAD or end > size:
            return
        if check and crc32(view[position + 4 : end]) != crc:
            return
        yield Record(kind, time_us, sequence, view[position + HEAD_BYTES : end], base + end, view[position:end])
        position = end


def list_segments(directory: Path) -> list[Segment]:
    """The segments of a journal, oldest first. Sizes are the files' own: the last may have a torn tail."""
    segments = []
    try:
        entries = list(os.scandir(directory))
    except FileNotFoundError:
        return []
    for entry in entries:
        if entry.name.endswith(".seg") and len(entry.name) == 37:
            base, output_base = int(entry.name[:16], 16), int(entry.name[17:33], 16)
            segments.append(Segment(base, output_base, directory / entry.name, entry.stat().st_size))
    return sorted(segments, key=lambda segment: segment.base)


class Segments:
    """A journal as readers see it: the segments that are there, and how far they are whole.

    Of another process's journal this is a snapshot, whose torn tail was left out when it was taken.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.segments = list_segments(directory)
        self.state = State()
        self.last_time_us = 0
        self.output_end = 0  # bytes of output in all
        self._measure()

    def _measure(self) -> None:
        """Find where the last segment is whole, and what its records tell."""
        while self.segments:
            last = self.segments[-1]
            size, output = 0, 0
            for record in _scan(last):
                self.state.apply(record.kind, record.sequence, record.payload)
                self.last_time_us = max(self.last_time_us, record.time_us)
                output += len(record.payload) if record.kind == OUTPUT else 0
                size = record.end - last.base
            if size:
                last.size = size
                self.output_end = last.output_base + output
                return
            self._forget_empty(self.segments.pop())

    def _forget_empty(self, segment: Segment) -> None:
        """Nothing whole is in this segment; a reader only leaves it out."""

    @property
    def base(self) -> int:
        """The journal's offset where what is kept begins."""
        return self.segments[0].base if self.segments else 0

    @property
    def output_base(self) -> int:
        """Bytes of output that are no longer kept."""
        return self.segments[0].output_base if self.segments else 0

    @property
    def end(self) -> int:
        """The journal's offset behind the last whole record."""
        return self.segments[-1].end if self.segments else 0

    @property
    def size(self) -> int:
        """Bytes kept on disk."""
        return sum(segment.size for segment in self.segments)

    def records(self, start: int, end: int) -> Iterator[Record]:
        """Yield the records between two journal offsets that are record boundaries, in bounded memory.

        Raises LookupError if `start` is no longer kept, ValueError if a record there is damaged.
        """
        if start >= end:
            return
        segments = list(self.segments)
        index = bisect_right(segments, start, key=lambda segment: segment.base) - 1
        if index < 0:
            raise LookupError(f"the journal begins at {self.base}, {start} is no longer kept")
        for segment in segments[index:]:
            if segment.base >= end:
                return
            stop = min(segment.end, end)
            position = start = max(start, segment.base)
            for record in _scan(segment, start - segment.base, stop - segment.base):
                position = record.end
                yield record
            if position != stop:
                raise ValueError(f"a damaged record at {position} of {segment.path.name}")


def _scan(segment: Segment, position: int = 0, stop: int | None = None) -> Iterator[Record]:
    """Yield the whole records of a segment from a file position on, reading about a quarter of it at a time."""
    stop = segment.size if stop is None else stop
    wanted = SEGMENT_BYTES // 4
    with segment.path.open("rb", buffering=0) as file:
        while position < stop:
            data = os.pread(file.fileno(), min(wanted, stop - position), position)
            end = position
            for record in decode(data, segment.base + position):
                end = record.end - segment.base
                yield record
            if end == position:
                if len(data) == stop - position or wanted > MAX_PAYLOAD + HEAD_BYTES:
                    return  # cut short, or damaged
                wanted = MAX_PAYLOAD + HEAD_BYTES + 1
            position = end


class Journal(Segments):
    """The journal of its owner, the one process that may append to it. Not for several threads."""

    def __init__(
        self, directory: Path, *, quota_bytes: int = 1 << 62, clock_us: Callable[[], int] = lambda: int(steady() * 1e6)
    ) -> None:
        """Take the lock, cut a torn tail, and go on there.

        Raises JournalBusy if another process has the journal.
        """
        self.directory = directory
        self.quota_bytes = quota_bytes
        self.clock_us = clock_us  # microseconds since 1970 UTC
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = _lock(self.directory)
        self._fd = -1
        self.listeners: list[Callable[[], None]] = []  # in the order in which they are told
        self.sealed = 0  # journal offset up to which chunks are safe; what lies before it may be dropped
        try:
            super().__init__(directory)
            self.is_new = not self.segments
            self.bytes_on_disk = sum(segment.size for segment in self.segments)
            if self.segments:
                last = self.segments[-1]
                os.truncate(last.path, last.size)
                self._fd = os.open(last.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            else:
                self.state.started_us = self.clock_us()
                self._begin_segment()
        except BaseException:
            self.close()
            raise

    def _forget_empty(self, segment: Segment) -> None:
        segment.path.unlink(missing_ok=True)

    @property
    def size(self) -> int:
        return self.bytes_on_disk

    def time_us(self) -> int:
        """Microseconds since the session's start, never going back."""
        self.last_time_us = max(self.last_time_us, self.clock_us() - self.state.started_us)
        return self.last_time_us

    # Appending

    def append_output(self, outputs: Sequence[tuple[bytes, int]]) -> None:
        """Append what came in one go: (bytes, the agent's number) each. One write, then readers are woken.

        Bytes are output, unless they say that they are Framed or Passed.

        Raises JournalFull if nothing could be written.
        """
        time_us = self.time_us()
        buffers: list[bytes] = []
        size = output = 0
        for data, sequence in outputs:
            if isinstance(data, (Framed, Passed)):
                buffers.append(_head(data.kind, time_us, sequence, data))
            else:
                buffers.append(_head(OUTPUT, time_us, sequence, data))
                output += len(data)
            buffers.append(data)
            size += HEAD_BYTES + len(data)
        self._write(buffers, size)
        self.output_end += output
        self.state.output_sequence = max(self.state.output_sequence, outputs[-1][1])
        for wake in self.listeners:
            wake()

    def append_mark(self, sequence: int) -> None:
        """Note that the agent's messages through this number were taken; the last bore no output."""
        self._append(MARK, sequence, b"")

    def append_input(self, sequence: int, acknowledged: int) -> None:
        """Note, before they are sent, that our numbers through `sequence` bear keystrokes."""
        self._append(INPUT, sequence, _USED.pack(acknowledged))

    def append_size(self, cols: int, rows: int, sequence: int, acknowledged: int) -> None:
        """Note a size before it is sent; `sequence` -1 for one that is not sent yet."""
        self._append(SIZE, sequence, _SIZE.pack(cols, rows, acknowledged))
        for wake in self.listeners:
            wake()

    def append_note(self, payload: bytes) -> None:
        """Note what happened besides: a JSON object."""
        self._append(NOTE, 0, payload)
        for wake in self.listeners:
            wake()

    def _append(self, kind: int, sequence: int, payload: bytes) -> None:
        self._write([encode(kind, self.time_us(), sequence, payload)], HEAD_BYTES + len(payload))
        self.state.apply(kind, sequence, payload)

    def _write(self, buffers: list[bytes], size: int) -> None:
        last = self.segments[-1]
        if last.size + size > SEGMENT_BYTES and last.size > 2 * (HEAD_BYTES + _STATE.size):
            self._begin_segment()
            last = self.segments[-1]
        if self.bytes_on_disk + size > self.quota_bytes:
            self.drop_sealed(self.bytes_on_disk + size - self.quota_bytes)
            if self.bytes_on_disk + size > self.quota_bytes:
                raise JournalFull("the session's quota is full of what is not sealed yet")
        try:
            # A lost message that comes at last brings all that waited behind it, thousands at once.
            written = os.writev(self._fd, buffers if len(buffers) <= MOST_BUFFERS else [b"".join(buffers)])
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise JournalFull(str(error)) from error
            raise
        if written != size:  # the disk filled up half way: no record may be half there
            os.ftruncate(self._fd, last.size)
            raise JournalFull("the disk is full")
        last.size += size
        self.bytes_on_disk += size

    def _begin_segment(self) -> None:
        """Open the next file, beginning with all that an owner has to know."""
        base = self.end
        path = self.directory / f"{base:016x}-{self.output_end:016x}.seg"
        record = encode(STATE, self.time_us(), self.state.output_sequence, self.state.pack())
        try:
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise JournalFull(str(error)) from error
            raise
        try:
            whole = os.write(fd, record) == len(record)
        except OSError as error:
            os.close(fd)
            path.unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise JournalFull(str(error)) from error
            raise
        if not whole:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise JournalFull("the disk is full")
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        self.segments.append(Segment(base, self.output_end, path, len(record)))
        self.bytes_on_disk += len(record)

    def drop_sealed(self, size: int, *, keep: int = 0) -> int:
        """Delete oldest segments, of those that chunks hold, until `size` bytes are gone; returns how many went.

        The last segment stays, and so do the newest `keep` bytes.
        """
        dropped = 0
        while dropped < size and len(self.segments) > 1:
            first = self.segments[0]
            if first.end > self.sealed or self.bytes_on_disk - first.size < keep:
                break
            first.path.unlink(missing_ok=True)
            del self.segments[0]
            self.bytes_on_disk -= first.size
            dropped += first.size
        return dropped

    def close(self) -> None:
        """Give the journal free for the next owner; again it does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # Reading

    def cursor(self, output_offset: int) -> Cursor:
        """A reader's place, at this offset of output or at the first that is still kept."""
        return Cursor(self, output_offset)


def _lock(directory: Path) -> int:
    """Take the lock that its process keeps until it ends, however it ends; returns the file descriptor that holds it.

    Raises JournalBusy if another has it.
    """
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise JournalBusy(directory.name) from None
    return fd


class Shown(NamedTuple):
    """Output to show: its first byte's offset in all output of the session."""

    offset: int
    data: bytes


class Resized(NamedTuple):
    """The terminal's size changed here."""

    cols: int
    rows: int


class Cursor:
    """A reader's place in a journal. It holds one file open and nothing in memory.

    A segment that is dropped under a reader is read on to its end; what is missing behind it shows as a jump of the
    offset.
    """

    def __init__(self, journal: Segments, output_offset: int) -> None:
        self._journal = journal
        self._fd = -1
        self._segment: Segment | None = None
        self.seek(output_offset)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def seek(self, output_offset: int) -> None:
        """Go to an offset of output; to the first that is kept, or behind the last, if it lies outside of them."""
        segments = self._journal.segments
        index = max(0, bisect_right(segments, output_offset, key=lambda segment: segment.output_base) - 1)
        # Of segments without output that share an offset the last was found; the offset is the same in all of them.
        self._open(segments[index])
        self.offset = max(segments[index].output_base, min(output_offset, self._journal.output_end))
        self._skip = self.offset - segments[index].output_base  # bytes of output to pass over

    def _open(self, segment: Segment) -> None:
        self.close()
        self._fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        self._segment = segment
        self._position = 0
        self._skip = 0

    @property
    def journal_offset(self) -> int:
        """Where in the journal this place is."""
        return self._segment.base + self._position if self._segment else 0

    @property
    def backlog(self) -> int:
        """Bytes of output that this reader has not taken yet."""
        return self._journal.output_end - self.offset

    def read(self, limit: int = PIECE_BYTES) -> Shown | Resized | None:
        """Take what comes next: about `limit` bytes of output or less, or a size; None at the end for now.

        Output goes on exactly where it stopped, unless a segment is gone: then `offset` jumps.
        """
        pieces: list[memoryview] = []
        taken = 0
        while True:
            segment = self._segment
            assert segment is not None
            available = segment.size - self._position
            if available <= 0:
                if taken or not self._next_segment(segment):
                    break
                continue
            data = self._pread(min(available, limit + HEAD_BYTES))
            view = memoryview(data)
            position, size = 0, len(view)
            while position + HEAD_BYTES <= size:
                _, length, kind, _, _ = _HEAD.unpack_from(view, position)
                end = position + HEAD_BYTES + length
                if kind == OUTPUT and self._skip >= length:
                    self._skip -= length
                elif end > size:
                    break
                elif kind == OUTPUT:
                    if taken and taken + length > limit:
                        break
                    pieces.append(view[position + HEAD_BYTES + self._skip : end])
                    taken += length - self._skip
                    self._skip = 0
                elif kind == SIZE and not self._skip:
                    if taken:
                        break
                    self._position += end
                    return Resized(*size_of(view[position + HEAD_BYTES : end]))
                position = end
            self._position += position
            if taken:
                break
            if not position:  # one record that is longer than what was read
                needed = HEAD_BYTES + _HEAD.unpack_from(view)[1]
                data = self._pread(needed)
                data = data[HEAD_BYTES + self._skip :]
                self._skip = 0
                self._position += needed
                pieces, taken = [memoryview(data)], len(data)
                break
        if not taken:
            return None
        offset = self.offset
        self.offset += taken
        return Shown(offset, pieces[0].tobytes() if len(pieces) == 1 else b"".join(pieces))

    def _pread(self, size: int) -> bytes:
        return os.pread(self._fd, size, self._position)

    def _next_segment(self, segment: Segment) -> bool:
        """Go on to the segment behind `segment`, or to the first that is still kept; False if there is none yet."""
        segments = self._journal.segments
        if segment is segments[-1]:
            return False
        index = bisect_right(segments, segment.base, key=lambda other: other.base)
        if index >= len(segments):
            return False
        skip = self._skip
        self._open(segments[index])
        if segments[index].output_base > self.offset:
            self.offset = segments[index].output_base
        else:
            self._skip = skip
        return True
