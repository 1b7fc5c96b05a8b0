"""What keeps moto's state over a kill: a journal of every changing call, and sealed snapshots that shorten it.

A directory holds one snapshot at most (`snapshot-N`) and the journal of the calls after it (`journal-N`). A record is
written before its call runs, so a kill at any moment loses nothing that was answered. It is in the page cache then,
which outlives the process; a power cut can lose the last second (see `Journal.sync`).
"""

import hashlib
import hmac
import json
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Lengths of header and body, the CRC-32 of these two, and the CRC-32 of header and body. The first tells a damaged
# length, which may point anywhere, from a write that was torn.
_RECORD = struct.Struct(">IIII")
_LENGTHS = struct.Struct(">II")
_SEAL_BYTES = 32
# 2 had S3's bodies and the events of CloudWatch Logs within; it is read, and 3 is written.
JOURNAL_FORMAT = 3
OLDER_FORMATS = (2,)


class StateRefused(Exception):
    """A snapshot does not carry our seal, or the journal is damaged; the text says what to do."""


class OtherVersion(Exception):
    """The state was written by another version of moto."""


@dataclass(frozen=True, slots=True)
class Record:
    header: dict[str, Any]
    body: bytes


class Journal:
    """The journal and snapshot of one directory, for one process (the caller holds the lock)."""

    def __init__(self, directory: Path, key: bytes, version: str, older: Sequence[str] = ()) -> None:
        """`key` seals snapshots; `version` names what writes them. State of the `older` versions can be read too:
        `is_older` then, and the caller calls `renew` before it appends anything.

        Raises OtherVersion if the directory's state is of another version.
        """
        self._directory = directory
        self._key = key
        self._version = version
        self._older = older
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._stamp = directory / "version"
        if not self._stamp.exists():
            self._stamp.write_text(version)
        written = self._stamp.read_text()
        if written not in (version, *older):
            raise OtherVersion(written)
        self.is_older = written != version
        self._number = max((_number(path) for path in directory.glob("snapshot-*[0-9]")), default=0)
        self._sweep()
        self._file: Any = None
        self.entries = 0
        self.bytes = 0

    def snapshot(self) -> bytes | None:
        """The newest snapshot's content, its seal checked; None if there is none. Raises StateRefused."""
        if not self._number:
            return None
        path = self._directory / f"snapshot-{self._number}"
        sealed = path.read_bytes()
        seal, content = sealed[:_SEAL_BYTES], sealed[_SEAL_BYTES:]
        # A kill within `renew` leaves a new seal under an old stamp.
        versions = (self._version, *self._older) if self.is_older else (self._version,)
        seals = [self._seal(content, self._number, version) for version in versions]
        if not any(hmac.compare_digest(seal, made) for made in seals):
            raise StateRefused(
                f"{path} does not carry this endpoint's seal: it was changed, or belongs to another installation. "
                f"Restore it from a backup, or move {self._directory} away to start with fresh demo data."
            )
        return zlib.decompress(content)

    def renew(self, content: bytes) -> None:
        """Write state of an older version anew, with `content` as its snapshot. Raises OSError; all is then as before.

        Whoever reads the older version alone must not find a call that it would run wrongly: from here on it refuses.
        """
        self.replace(content)
        fresh = self._stamp.with_name("version.new")
        fresh.write_text(self._version)
        os.replace(fresh, self._stamp)
        self.is_older = False

    def records(self) -> Iterator[Record]:
        """The calls since the snapshot, oldest first. A torn last record was never run, and is cut off.

        Raises StateRefused if a record is damaged and others follow it: to cut there would lose what was answered.
        """
        path = self._path(self._number)
        if not path.exists():
            return
        with path.open("r+b") as file:
            size = os.fstat(file.fileno()).st_size
            while self.bytes < size:
                record, end = _read(file, size)
                if record is None and end < size:
                    raise StateRefused(
                        f"{path} is damaged at byte {self.bytes}, and calls follow it. Restore it from a backup, or "
                        f"move {self._directory} away to start with fresh demo data."
                    )
                if record is None:
                    break
                self.bytes = end
                self.entries += 1
                yield record
            file.truncate(self.bytes)

    def append(self, header: dict[str, Any], body: bytes) -> None:
        """Write one record; it is with the kernel when this returns. Raises OSError, and nothing is written then."""
        if self._file is None:
            self._file = self._open(self._number)
        head = json.dumps(header, separators=(",", ":")).encode()
        lengths = _LENGTHS.pack(len(head), len(body))
        frame = (
            _RECORD.pack(len(head), len(body), zlib.crc32(lengths), zlib.crc32(body, zlib.crc32(head))) + head + body
        )
        try:
            if self._file.write(frame) != len(frame):
                raise OSError("the disk is full: a call could not be written to moto's journal")
        except OSError:
            # What was written of it must not stand before the next record.
            self._file.truncate(self.bytes)
            raise
        self.entries += 1
        self.bytes += len(frame)

    def sync(self) -> None:
        """Bring what was appended to the disk."""
        if self._file is not None:
            os.fdatasync(self._file.fileno())

    def replace(self, content: bytes) -> None:
        """Begin anew from a snapshot of the state as it is now. A kill within leaves the old pair or the new one.

        Raises OSError if it cannot be written; all is then as before.
        """
        number = self._number + 1
        packed = zlib.compress(content, 1)
        path = self._directory / f"snapshot-{number}"
        fresh = path.with_name(f"{path.name}.new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(self._seal(packed, number, self._version) + packed)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            fresh.unlink()  # on a full disk, the room that it takes is the journal's
            raise
        # The new journal is there, and empty, before the snapshot that it follows takes effect.
        self._path(number).unlink(missing_ok=True)
        following = self._open(number)
        os.replace(fresh, path)
        if self._file is not None:
            self._file.close()
        self._file = following
        old, self._number = self._number, number
        self.entries = self.bytes = 0
        (self._directory / f"snapshot-{old}").unlink(missing_ok=True)
        self._path(old).unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove what a kill within `replace` has left of the pair before."""
        for path in [*self._directory.glob("snapshot-*"), *self._directory.glob("journal-*")]:
            if path.suffix == ".new" or _number(path) < self._number:
                path.unlink()

    def close(self) -> None:
        if self._file is not None:
            self.sync()
            self._file.close()
            self._file = None

    def _seal(self, content: bytes, number: int, version: str) -> bytes:
        # The number is sealed with it, so that an older snapshot cannot be put in a newer one's place.
        return hmac.digest(self._key, f"{version}\n{number}\n".encode() + content, hashlib.sha256)

    def _path(self, number: int) -> Path:
        return self._directory / f"journal-{number}"

    def _open(self, number: int) -> Any:
        descriptor = os.open(self._path(number), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return os.fdopen(descriptor, "ab", buffering=0)


def _read(file: Any, size: int) -> tuple[Record | None, int]:
    """The next record and where it ends; None for one that is torn (it reaches the file's end) or damaged."""
    start = file.read(_RECORD.size)
    if len(start) < _RECORD.size:
        return None, size
    head_length, body_length, digest_of_lengths, digest = _RECORD.unpack(start)
    if not start.strip(b"\0"):
        return None, size  # a power cut can leave zeros where a write had begun
    if zlib.crc32(start[: _LENGTHS.size]) != digest_of_lengths:
        return None, file.tell()
    end = file.tell() + head_length + body_length
    if end > size:
        return None, size
    head, body = file.read(head_length), file.read(body_length)
    if zlib.crc32(body, zlib.crc32(head)) != digest:
        return None, end
    return Record(json.loads(head), body), end


def _number(path: Path) -> int:
    suffix = path.name.rpartition("-")[2]
    return int(suffix) if suffix.isdigit() else 0
