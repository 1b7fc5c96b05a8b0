"""Where sealed chunks of recordings are kept for good: by content address, so that a repeat changes nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import BinaryIO, Protocol
from uuid import uuid4

from django.conf import settings


class RecordingStore(Protocol):
    """A place for sealed chunks. `name` is the SHA-256 of the bytes, in hex: two chunks of one name are the same."""

    def put(self, name: str, path: Path) -> None:
        """Keep the bytes of `path` under `name`; when it returns they are safe. Raises OSError."""

    def open(self, name: str) -> BinaryIO:
        """Open a chunk for reading. Raises FileNotFoundError if it is not here, OSError if it cannot be read now."""


class DirectoryStore:
    """Chunks as files, in folders by the first digits of their names."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, name: str) -> Path:
        return self.directory / name[:2] / name[2:4] / f"{name}.zst"

    def put(self, name: str, path: Path) -> None:
        target = self.path(name)
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = target.with_name(f".{name}.{uuid4().hex}.part")
        try:
            shutil.copyfile(path, part)
            sync(part)
            part.replace(target)  # atomic: a reader sees all of it or nothing
        finally:
            part.unlink(missing_ok=True)
        sync(target.parent)

    def open(self, name: str) -> BinaryIO:
        return self.path(name).open("rb")


def recording_store() -> RecordingStore:
    """The store of this installation."""
    return DirectoryStore(settings.RECORDING_DIR)


def sync(path: Path) -> None:
    """Make a file's bytes, or a directory's names, survive a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
