"""S3's bodies: a file for each, named after its SHA-256. moto, its journal and its snapshots hold only references.

The endpoint receives a body: it writes it to `incoming/`, brings it to the disk and names it to moto's child. The child
adopts it (a second link to the file, under its digest) before the call goes into the journal. So a body is there before
any call that names it; and what a kill leaves in `incoming/` belongs to no call, and is emptied at the next start.

A reference is a list of segments (digest, offset, length): a range, a copy or a completed multipart upload is a list
of its own and copies nothing. Only the child removes a body, and only when neither moto nor the journal names it.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from fleetops import clock

Segment = tuple[str, int, int]  # the body's SHA-256 in hex, where to begin in it, how many bytes

# An unnamed body stays for so long after it was seen to be one: an answer that names it may be on its way.
_GRACE_SECONDS = 600.0
_PIECE_BYTES = 256 * 1024  # what is read at a time


class Bodies:
    """The bodies of one endpoint, in one directory; the endpoint and moto's child each have one of these."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._incoming = directory / "incoming"
        self._incoming.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._unnamed: dict[str, float] = {}  # digest → monotonic seconds of the sweep that first saw it unnamed

    # --- The endpoint's side ----------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Before anybody is served: remove what the process before this one had received and not seen answered."""
        for path in self._incoming.iterdir():
            path.unlink()

    def receive(self, data: bytes, name: str) -> dict[str, Any]:
        """Bring one body to the disk, as `name` (of the request); what the child is told of it. Raises OSError.

        To be followed by `forget(name)` when the child has answered.
        """
        if data:
            try:
                _write(self._incoming / name, data)
            except OSError:
                self.forget(name)
                raise
        return {
            "name": name,
            "sha256": hashlib.sha256(data).hexdigest(),
            "md5": hashlib.md5(data, usedforsecurity=False).hexdigest(),
            "bytes": len(data),
        }

    def forget(self, name: str) -> None:
        """The child has answered: what it took has a link of its own."""
        (self._incoming / name).unlink(missing_ok=True)

    # --- The child's side -------------------------------------------------------------------------------------------

    def adopt(self, received: dict[str, Any]) -> None:
        """Give a received body its lasting name; it is on the disk when this returns. Raises OSError."""
        digest = received["sha256"]
        if not received["bytes"]:
            return
        self._unnamed.pop(digest, None)
        path = self._path(digest)
        _make(path.parent)
        if not path.exists():
            source = self._incoming / received["name"]
            try:
                os.link(source, path)
            except FileExistsError:
                pass
            except FileNotFoundError:
                raise
            except OSError:  # a file system without hard links
                fresh = path.with_suffix(".new")
                shutil.copyfile(source, fresh)
                _sync(fresh)
                os.replace(fresh, path)
        _sync(path.parent)

    def hold(self, data: bytes) -> tuple[Segment, ...]:
        """Keep bytes that came in no request of now (an older journal or snapshot has them within). Raises OSError."""
        if not data:
            return ()
        digest = hashlib.sha256(data).hexdigest()
        path = self._path(digest)
        if not path.exists():
            _make(path.parent)
            fresh = path.with_suffix(".new")
            _write(fresh, data)
            os.replace(fresh, path)
            _sync(path.parent)
        return ((digest, 0, len(data)),)

    def sweep(self, named: set[str], *, at_once: bool = False) -> tuple[int, int]:
        """Remove the bodies that are not in `named`; how many were removed, and how many of `named` are missing.

        What is unnamed now may still be on its way to a reader: it goes at a later sweep, unless `at_once`.
        """
        now = clock.monotonic()
        present: set[str] = set()
        unnamed: dict[str, float] = {}
        removed = 0
        for shelf in os.scandir(self._directory):
            if len(shelf.name) != 2:
                continue
            for entry in os.scandir(shelf.path):
                if entry.name in named:
                    present.add(entry.name)
                    continue
                since = unnamed[entry.name] = self._unnamed.get(entry.name, now)
                if at_once or now - since >= _GRACE_SECONDS:
                    with contextlib.suppress(OSError):
                        os.unlink(entry.path)
                        del unnamed[entry.name]
                        removed += 1
        self._unnamed = unnamed
        return removed, len(named - present)

    # --- Both -------------------------------------------------------------------------------------------------------

    def open(self, segments: Sequence[Sequence[Any]]) -> "Reader":
        """The bytes of a reference. Raises OSError if its first body is not there."""
        return Reader(self, [(str(digest), int(offset), int(length)) for digest, offset, length in segments])

    def file(self, digest: str) -> BinaryIO:
        return self._path(digest).open("rb")

    def _path(self, digest: str) -> Path:
        return self._directory / digest[:2] / digest


class Reader:
    """The bytes of a list of segments, a piece at a time. Files are opened ahead: who began to read can end."""

    def __init__(self, bodies: Bodies, segments: Sequence[Segment]) -> None:
        self.length = sum(length for _, _, length in segments)
        self._bodies = bodies
        self._segments = segments
        self._file: BinaryIO | None = None
        if segments:
            self._file = bodies.file(segments[0][0])

    def pieces(self) -> Iterator[bytes]:
        """Raises OSError if a body is not there, or shorter than it was."""
        for number, (digest, offset, length) in enumerate(self._segments):
            file = self._file if number == 0 and self._file is not None else self._bodies.file(digest)
            self._file = file
            file.seek(offset)
            while length:
                piece = file.read(min(length, _PIECE_BYTES))
                if not piece:
                    raise OSError(f"the body {digest} is shorter than it was")
                length -= len(piece)
                yield piece
            self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def cut(segments: Iterable[Segment], start: int, end: int) -> tuple[Segment, ...]:
    """The bytes from `start` up to `end`, as a reference of their own."""
    found, at = [], 0
    for digest, offset, length in segments:
        first, last = max(start - at, 0), min(end - at, length)
        if first < last:
            found.append((digest, offset + first, last - first))
        at += length
    return tuple(found)


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _make(shelf: Path) -> None:
    if not shelf.exists():
        shelf.mkdir(mode=0o700)
        _sync(shelf.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
