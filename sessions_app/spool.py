"""The spool: where the journals of the sessions owned on this host lie, and which host this is."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
from functools import lru_cache
from pathlib import Path
from uuid import UUID, uuid4

from django.conf import settings


def session_directory(session_id: UUID) -> Path:
    """The journal of a session, and its chunks until they are shipped."""
    return settings.SPOOL_DIR / str(session_id)


def chunk_path(session_id: UUID, number: int, sha256: str) -> Path:
    """A sealed chunk that the store does not have yet.

    The hash in the name keeps two owners apart that seal the same number, of whom the database lets one through.
    """
    return session_directory(session_id) / "chunks" / f"{number:08d}-{sha256[:32]}.zst"


def host_name() -> str:
    """The name of this spool: of the host, for people, with an id of its own, since host names of containers change.

    Whoever sees the same spool is the same host.
    """
    return _host_name(settings.SPOOL_DIR)


@lru_cache(maxsize=8)
def _host_name(spool: Path) -> str:
    spool.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = spool / ".host"
    if not path.exists():
        part = spool / f".host.{uuid4().hex}"
        name = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:63]
        part.write_text(f"{name}-{uuid4().hex[:12]}")
        with contextlib.suppress(FileExistsError):
            os.link(part, path)  # of two processes that start at once one name stays
        part.unlink()
    return path.read_text().strip()


def spool_bytes() -> int:
    """Bytes on disk of all that lies in the spool."""
    total = 0
    for directory, _, names in os.walk(settings.SPOOL_DIR):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(directory, name)).st_size
    return total


def remove(session_id: UUID) -> None:
    """Delete a session's directory: all of it is sealed and shipped."""
    shutil.rmtree(session_directory(session_id), ignore_errors=True)


def spooled() -> list[UUID]:
    """Sessions that have a directory here."""
    if not settings.SPOOL_DIR.is_dir():
        return []
    found = []
    for entry in os.scandir(settings.SPOOL_DIR):
        with contextlib.suppress(ValueError):
            found.append(UUID(entry.name))
    return found
