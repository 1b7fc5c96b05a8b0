"""What the endpoint keeps secret, each in a file of mode 0600, written whole or not at all."""

import os
from pathlib import Path


def write_private(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write `path` atomically: under another name, to the disk, then renamed over it."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)


def key(directory: Path, name: str, length: int = 32) -> bytes:
    """The secret bytes called `name`, made at first use."""
    path = directory / name
    try:
        return path.read_bytes()
    except FileNotFoundError:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(path, os.urandom(length))
        return path.read_bytes()
