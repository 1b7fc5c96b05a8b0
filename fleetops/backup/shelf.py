"""The directory that backups stand in: their names, their manifests, and whether they are whole."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import hmac
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from django.conf import settings

from fleetops.errors import UserError

FORMAT: Final = 1  # of a backup; one with a higher number is a newer FleetOps's
MANIFEST: Final = "manifest.json"
FILES: Final = "files.sha256"
_NAME: Final = re.compile(r"\d{8}T\d{6}Z(-\d+)?")
_PIECE: Final = 1 << 20  # bytes read at once
_PART: Final = ".part-"  # being made, or left by one that was killed
_GONE: Final = ".gone-"  # being removed

Beat = Callable[[], None]  # called now and then by what takes long


class BackupError(UserError):
    """What a person can mend; nothing was changed."""


@dataclass(frozen=True)
class Backup:
    """One backup and what its manifest says."""

    path: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def made_at(self) -> datetime:
        return datetime.fromisoformat(self.manifest["made_at"])


def audit_fingerprint(key: str) -> str:
    """What a manifest says of an audit key: enough to know it again, nothing of it."""
    return hmac.new(key.encode(), b"fleetops backup audit key", hashlib.sha256).hexdigest()[:16]


def master_fingerprint(secret: bytes) -> str:
    """The same of a master key."""
    return hmac.new(secret, b"fleetops backup master key", hashlib.sha256).hexdigest()[:16]


def seal_of(manifest: dict[str, Any]) -> str:
    """HMAC-SHA256 under the audit key over a manifest without its seal: nobody else can put another in its place."""
    plain = {name: value for name, value in manifest.items() if name != "seal"}
    text = "fleetops backup manifest\n" + json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hmac.new(settings.AUDIT_KEY.encode(), text.encode(), hashlib.sha256).hexdigest()


# --- Names -----------------------------------------------------------------------------------------------------------


def names(directory: Path) -> list[str]:
    """The backups in `directory`, oldest first; what is being made or removed is none."""
    try:
        found = [entry.name for entry in os.scandir(directory) if entry.is_dir() and _NAME.fullmatch(entry.name)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BackupError(f"{directory} cannot be read: {error.strerror}.") from None
    return sorted(found, key=lambda name: (name[:16], int(name[17:] or 0)))


def read(path: Path) -> Backup:
    """The backup at `path`, if its manifest is there and ours. Raises BackupError."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        version, fingerprint = int(manifest["format"]), str(manifest["keys"]["audit"])
    except FileNotFoundError:
        raise BackupError(f"{path} is no backup: it has no {MANIFEST}.") from None
    except OSError as error:
        raise BackupError(f"{path / MANIFEST} cannot be read: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError):
        raise BackupError(f"{path / MANIFEST} is damaged; take another backup.") from None
    if version > FORMAT:
        raise BackupError(f"{path} was made by a newer FleetOps; restore it with that version.")
    if fingerprint != audit_fingerprint(settings.AUDIT_KEY):
        raise BackupError(
            f"{path} was made under another audit key ({fingerprint}; this one is "
            f"{audit_fingerprint(settings.AUDIT_KEY)}). Set FLEETOPS_AUDIT_KEY to the key of that time: without it "
            "the audit log of the backup cannot be verified."
        )
    if not hmac.compare_digest(str(manifest.get("seal", "")).encode(), seal_of(manifest).encode()):
        raise BackupError(f"{path / MANIFEST} was changed after the backup was made; take another backup.")
    return Backup(path, manifest)


def whole(directory: Path) -> list[Backup]:
    """The backups whose manifest is ours and fits their list of files, oldest first. The files are not read."""
    found = []
    for name in names(directory):
        with contextlib.suppress(BackupError, OSError):
            backup = read(directory / name)
            database = backup.manifest["database"]
            if (backup.path / database["file"]).stat().st_size == database["size"]:
                listed(backup)
                found.append(backup)
    return found


def listed(backup: Backup) -> dict[str, str]:
    """SHA-256 of each file of a backup, by its path in it. Raises BackupError if the list is not the manifest's."""
    try:
        data = (backup.path / FILES).read_bytes()
    except OSError as error:
        raise BackupError(f"{backup.path / FILES} cannot be read: {error.strerror}.") from None
    if hashlib.sha256(data).hexdigest() != backup.manifest["files"]["sha256"]:
        raise BackupError(f"{backup.path / FILES} was changed after the backup was made; take another backup.")
    lines = (line.partition("  ") for line in data.decode().splitlines())
    return {path: digest for digest, _, path in lines}


def faults(backup: Backup, beat: Beat = lambda: None) -> list[str]:
    """Read every byte of a backup, and say in words what is not as it was made."""
    found = []
    for name, digest in listed(backup).items():
        beat()
        try:
            with (backup.path / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    found.append(f"{name} was changed or cut short")
        except FileNotFoundError:
            found.append(f"{name} is missing")
        except OSError as error:
            found.append(f"{name} cannot be read: {error.strerror}")
    return found


# --- Making and removing ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One process at a time makes or removes backups here."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BackupError(f"Backups cannot be written to {directory}: {error.strerror}.") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BackupError(f"Another process is making a backup in {directory}; wait until it is done.") from None
    else:
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def new(directory: Path, made_at: datetime, beat: Beat = lambda: None) -> Iterator[tuple[Path, str]]:
    """A directory to fill, and the name that it gets when the block ends, whole and on the disk. Removed if it fails.

    The caller holds the lock, so that what others have left half made is nobody's any more.
    """
    _sweep(directory)
    taken = set(names(directory))
    first = f"{made_at:%Y%m%dT%H%M%SZ}"
    name = next(each for each in (first, *(f"{first}-{n}" for n in range(2, 1000))) if each not in taken)
    part = directory / f"{_PART}{name}"
    try:
        part.mkdir(mode=0o700)
        yield part, name
        # The names of linked files, too. It is fast however many there are: the first brings most of it to the disk.
        for each, _, _ in os.walk(part):
            beat()
            _sync_directory(Path(each))
        os.rename(part, directory / name)
        _sync_directory(directory)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise _in_words(directory, error) from None
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _in_words(directory: Path, error: OSError) -> BackupError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return BackupError(f"The disk of {directory} is full. No backup was made; those that were there still are.")
    where = f": {error.filename}" if error.filename else ""
    return BackupError(f"The backup could not be made ({error.strerror or error}{where}). Nothing was changed.")


def prune(directory: Path, keep: int) -> list[str]:
    """Remove whole backups but the newest `keep`, of which the last is never removed; returns the names that went.

    What is damaged counts for nothing and stays for a person to look at.
    """
    if keep < 1:
        raise BackupError("At least one backup is kept.")
    with locked(directory):
        _sweep(directory)
        old = whole(directory)[:-keep]
        for backup in old:
            # Under another name first: killed half way, it is no backup that looks whole.
            gone = directory / f"{_GONE}{backup.name}"
            backup.path.rename(gone)
            shutil.rmtree(gone)
        return [backup.name for backup in old]


def _sweep(directory: Path) -> None:
    """Remove what killed processes have left."""
    for entry in list(os.scandir(directory)):
        if entry.name.startswith((_PART, _GONE)):
            shutil.rmtree(entry.path, ignore_errors=True)


def write(path: Path, data: bytes) -> str:
    """Write a file to the disk; returns its SHA-256."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(data).hexdigest()


def write_manifest(part: Path, manifest: dict[str, Any]) -> None:
    """Seal a manifest and write it: the last file of a backup."""
    manifest["seal"] = seal_of(manifest)
    write(part / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())


def copy(source: Path, target: Path, beat: Beat = lambda: None) -> str:
    """Copy what a file holds now, to the disk; returns the SHA-256 of what was copied. Raises OSError."""
    digest = hashlib.sha256()
    with source.open("rb") as given:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with target.open("wb") as taken:
            while piece := given.read(_PIECE):
                taken.write(piece)
                digest.update(piece)
                beat()
            taken.flush()
            os.fsync(taken.fileno())
    return digest.hexdigest()


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
