"""Making a backup of a FleetOps that runs, and bringing one back where there is nothing yet."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.core.management import call_command
from django.db import DatabaseError, connection
from django.db.migrations.loader import MigrationLoader

from fleetops import vault
from fleetops.audit import chain
from fleetops.audit.record import Target, record
from fleetops.clock import monotonic, now
from fleetops.monitoring import unapplied_migrations
from sessions_app import recording
from sessions_app.models import TerminalSession
from sessions_app.store import DirectoryStore, recording_store

from . import database, shelf
from .shelf import Backup, BackupError, Beat

logger = logging.getLogger(__name__)

_CHUNK: Final = re.compile(r"([0-9a-f]{64})\.zst")
ELSEWHERE: Final = "elsewhere"  # recordings that are in a store of their own, which keeps them

Say = Callable[[str], None]


def nothing(*_: Any) -> None:
    """For who wants to hear nothing."""


# --- Making ----------------------------------------------------------------------------------------------------------


@dataclass
class _Copied:
    """What of a tree is in the backup."""

    digests: dict[str, str] = field(default_factory=dict)  # SHA-256 by path in the backup
    files: int = 0
    bytes: int = 0
    new_bytes: int = 0  # that the backup before did not have
    damaged: list[str] = field(default_factory=list)
    stamps: dict[Path, tuple[int, int]] = field(default_factory=dict)  # size and time of a source when it was copied


def make(directory: Path, *, say: Say = nothing, beat: Beat = nothing, full: bool = False) -> Backup:
    """Make one backup in `directory`; `full` copies every recording anew. Raises BackupError; then nothing is changed.

    Safe while FleetOps runs, and to kill: a directory that has the name of a backup is whole.
    """
    directory = directory.resolve()
    _outside(directory)
    _ready()
    began = monotonic()
    with shelf.locked(directory):
        before = None if full else next(reversed(shelf.whole(directory)), None)
        made_at = now()
        with shelf.new(directory, made_at, beat) as (part, name):
            spool = _Copied()
            _copy_spool(part, spool, beat)
            found = database.dump(part, beat)
            say(f"database: {_size((part / found.file).stat().st_size)}, {found.engine} {found.server}")
            _copy_spool(part, spool, beat)
            say(f"journals: {spool.files} files, {_size(spool.bytes)}")
            store = recording_store()
            kept = _Copied()
            if isinstance(store, DirectoryStore):
                _copy_recordings(store.directory, part, before, kept, beat)
                say(f"recordings: {kept.files} chunks, {_size(kept.bytes)}, of which {_size(kept.new_bytes)} are new")
            else:
                say("recordings: not in this backup. Their store keeps them; see docs/production.md")
            for chunk in kept.damaged:
                say(f"WARNING: the recordings hold {chunk}, whose bytes are not those that were sealed; it is left out")
                logger.error("a chunk is damaged in the recording store and in no new backup chunk=%s", chunk)
            digests = {found.file: found.sha256} | spool.digests | kept.digests
            lines = "".join(f"{digest}  {path}\n" for path, digest in sorted(digests.items()))
            manifest: dict[str, Any] = {
                "format": shelf.FORMAT,
                "made_at": made_at.isoformat(timespec="seconds"),
                "seconds": round(monotonic() - began, 1),
                "fleetops": _version(),
                "database": {
                    "engine": found.engine,
                    "server": found.server,
                    "client": found.client,
                    "file": found.file,
                    "size": (part / found.file).stat().st_size,
                    "sha256": found.sha256,
                    "migrations": found.migrations,
                },
                "audit": {"number": found.audit_number, "hash": found.audit_hash},
                "keys": {"audit": shelf.audit_fingerprint(settings.AUDIT_KEY), "master": _master_keys(found)},
                "journals": {"files": spool.files, "bytes": spool.bytes},
                "recordings": {
                    "kept": "here" if isinstance(store, DirectoryStore) else ELSEWHERE,
                    "chunks": kept.files,
                    "bytes": kept.bytes,
                    "new_bytes": kept.new_bytes,
                    "damaged": kept.damaged,
                },
                "files": {"count": len(digests), "sha256": shelf.write(part / shelf.FILES, lines.encode())},
            }
            shelf.write_manifest(part, manifest)
    backup = Backup(directory / name, manifest)
    _tell_of(backup)
    return backup


def _outside(directory: Path) -> None:
    for place in (settings.RECORDING_DIR, settings.SPOOL_DIR):
        if directory.is_relative_to(Path(place).resolve()):
            raise BackupError(f"{directory} lies in {place}, which is to be backed up; choose a directory outside.")


def _ready() -> None:
    """The database is one of this version: else nobody knows what it holds."""
    try:
        missing = unapplied_migrations()
    except DatabaseError as error:
        raise database.unreachable(error) from None
    if missing:
        raise BackupError(
            f"The database lacks {len(missing)} migrations of this version. Back it up with the version that it "
            "belongs to, or bring it up to this one: python -m fleetops.prepare"
        )


def _master_keys(found: database.Snapshot) -> list[dict[str, Any]]:
    """The keys of the ring that seal something in this snapshot, and how they are known again."""
    ring = vault.key_ring()
    keys = []
    for key_id, values in sorted(found.sealed_with.items()):
        key = ring.find(key_id)
        if key is None:
            logger.error("secrets in the database are sealed with a key that is not on the key ring key=%s", key_id)
        print_ = shelf.master_fingerprint(key.secret) if key else ""
        keys.append({"id": key_id, "fingerprint": print_, "values": values})
    return keys


def _copy_spool(part: Path, copied: _Copied, beat: Beat) -> None:
    """Copy journals that are new or have grown since the last look, and chunks on their way to the store."""
    root = settings.SPOOL_DIR
    for path in _files(root):
        beat()
        relative = path.relative_to(root)
        is_journal = path.suffix == ".seg" and len(relative.parts) == 2
        is_chunk = path.suffix == ".zst" and len(relative.parts) == 3
        if not (is_journal or is_chunk or str(relative) == ".host"):
            continue  # locks, and what is half written
        target = part / "spool" / relative
        try:
            stat = path.stat()
            stamp = (stat.st_size, stat.st_mtime_ns)
            if copied.stamps.get(path) == stamp:
                continue
            digest = shelf.copy(path, target, beat)
            copied.stamps[path] = stamp
        except FileNotFoundError:
            continue  # shipped, or dropped once it was sealed
        copied.digests[target.relative_to(part).as_posix()] = digest
        target.chmod(0o600)
    _count(part / "spool", copied)


def _count(root: Path, copied: _Copied) -> None:
    sizes = [path.stat().st_size for path in _files(root)]
    copied.files, copied.bytes = len(sizes), sum(sizes)


def _copy_recordings(root: Path, part: Path, before: Backup | None, copied: _Copied, beat: Beat) -> None:
    """Take every chunk of the store: as a link to the backup before, or as a copy that is what its name says."""
    for path in _files(root):
        name = _CHUNK.fullmatch(path.name)
        if name is None:
            continue  # half written
        beat()
        relative = Path("recordings") / path.relative_to(root)
        target = part / relative
        size = path.stat().st_size
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if before is None or not _linked(before.path / relative, target, size):
            if shelf.copy(path, target, beat) != name[1]:
                target.unlink()
                copied.damaged.append(name[1])
                continue
            copied.new_bytes += size
        copied.digests[relative.as_posix()] = name[1]
        copied.files += 1
        copied.bytes += size


def _linked(old: Path, target: Path, size: int) -> bool:
    try:
        if old.stat().st_size != size:
            return False
        os.link(old, target)
    except OSError:  # not there; or a file system that has no links, or no more of them: then it is copied
        return False
    return True


def _files(root: Path) -> Iterator[Path]:
    """Every file below `root`, in order; nothing if it is not there."""
    for directory, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            yield Path(directory, name)


def _tell_of(backup: Backup) -> None:
    """Write down that it was made: what the age of the newest backup is read from. Its failure costs no backup."""
    facts = backup.manifest
    try:
        record(
            "backup.make",
            actor="backup",
            target=Target("backup", backup.name, backup.name),
            number=facts["audit"]["number"],
            chunks=facts["recordings"]["chunks"],
            bytes=facts["database"]["size"] + facts["recordings"]["bytes"] + facts["journals"]["bytes"],
            seconds=facts["seconds"],
        )
    except DatabaseError as error:
        logger.error("a backup was made, and could not be written into the audit log backup=%s: %s", backup.name, error)
    finally:
        connection.close()


def _version() -> str:
    project = settings.BASE_DIR / "pyproject.toml"
    return str(tomllib.loads(project.read_text())["project"]["version"]) if project.exists() else "unknown"


def _size(number: int) -> str:
    if number < 1 << 20:
        return f"{number / 1024:.1f} KiB"
    return f"{number / (1 << 20):.1f} MiB" if number < 1 << 30 else f"{number / (1 << 30):.1f} GiB"


# --- Restoring -------------------------------------------------------------------------------------------------------


@dataclass
class Restored:
    """What a restore has shown."""

    audit: chain.Verification
    recordings: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        return not self.problems


def restore(backup: Backup, *, say: Say = nothing, beat: Beat = nothing) -> Restored:
    """Bring a backup back into the empty database and home that the settings name, and verify what came back.

    Raises BackupError before anything is changed, or once all that was changed is undone.
    """
    _may_restore(backup)
    say("reading every byte of the backup")
    if found := shelf.faults(backup, beat):
        raise BackupError(f"The backup is not whole: {'; '.join(found[:5])}. Nothing was changed; take another one.")
    places = {"spool": Path(settings.SPOOL_DIR), "recordings": Path(settings.RECORDING_DIR)}
    made: list[Path] = []
    try:
        for name, place in places.items():
            say(f"{name}: into {place}")
            _bring_back(backup, name, place, made, beat)
        say("database")
        # Last, and all of it or nothing: until it is there, there is no installation that looks whole.
        database.restore(backup.path / backup.manifest["database"]["file"], beat)
    except BaseException as error:
        for path in made:
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise BackupError(f"The backup could not be restored: {error}. Nothing was changed.") from None
        raise
    return _after(backup, say)


def _may_restore(backup: Backup) -> None:
    """Look at everything that can be wrong before anything is changed. Raises BackupError."""
    facts = backup.manifest["database"]
    engine = "sqlite" if connection.vendor == "sqlite" else "postgresql"
    if facts["engine"] != engine:
        raise BackupError(f"The backup is of {facts['engine']}, and FLEETOPS_DATABASE_URL names a {engine}.")
    known = set(MigrationLoader(None, ignore_no_migrations=True).disk_migrations)
    if newer := [
        f"{app}.{name}" for app, names in facts["migrations"].items() for name in names if (app, name) not in known
    ]:
        raise BackupError(
            f"The backup is of another or newer version of FleetOps ({backup.manifest['fleetops']}): this one does not "
            f"know {', '.join(newer[:3])}. Restore it with that version, and upgrade afterwards."
        )
    ring = vault.key_ring()
    for key in backup.manifest["keys"]["master"]:
        found = ring.find(key["id"])
        if found is None:
            raise BackupError(
                f"{key['values']} secrets of the backup are sealed with the master key {key['id']}, which is not on "
                f"the key ring {ring.path}. Put the key ring of that time there: without it they cannot be opened."
            )
        if key["fingerprint"] != shelf.master_fingerprint(found.secret):
            raise BackupError(
                f"The key ring {ring.path} has a key {key['id']}, but not the one of the backup. Put the right key "
                "ring there."
            )
    if engine == "postgresql":
        client, server = database.program("pg_restore")[1], database.server_version()
        if database.major(client) < database.major(facts["client"]):
            raise BackupError(
                f"pg_restore is of version {client}, and the backup was made by pg_dump {facts['client']}. Install "
                "that version or a newer one, and name its directory in FLEETOPS_PG_BIN."
            )
        if database.major(server) < database.major(facts["server"]):
            raise BackupError(f"The server is a PostgreSQL {server}, older than the backup's: {facts['server']}.")
    if not database.is_empty():
        raise BackupError(
            f"The database {connection.settings_dict['NAME']} is not empty. A restore goes into an empty one only: "
            "make one beside it, and name it in FLEETOPS_DATABASE_URL."
        )
    for name, place in (("FLEETOPS_SPOOL_DIR", settings.SPOOL_DIR), ("FLEETOPS_RECORDING_DIR", settings.RECORDING_DIR)):
        if there := next((path for path in _files(place) if path.name != ".host"), None):
            raise BackupError(
                f"{place} ({name}) is not empty: {there.relative_to(place)}. A restore goes into an empty home only; "
                "move what is there aside."
            )


def _bring_back(backup: Backup, part: str, place: Path, made: list[Path], beat: Beat) -> None:
    """Copy the files of one part; what is not on the backup's list stays where it is."""
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in shelf.listed(backup):
        if name.startswith(f"{part}/"):
            target = place / name.removeprefix(f"{part}/")
            made.append(target)
            shelf.copy(backup.path / name, target, beat)
            target.chmod(0o600)


def _after(backup: Backup, say: Say) -> Restored:
    """Bring what came back to this version, put the head of the chain in its place, and prove all of it."""
    if unapplied_migrations():
        say("migrating it to this version")
        call_command("migrate", interactive=False, verbosity=0)
    # The chain may have gone on after the backup; how far, only the head file of that time knows.
    lost = 0
    with contextlib.suppress(chain.HeadUnreadable):
        if (head := chain.read_head()) is not None:
            lost = max(0, head.number - backup.manifest["audit"]["number"])
    chain.write_head(chain.Head(backup.manifest["audit"]["number"], backup.manifest["audit"]["hash"]))
    say("verifying the audit log")
    result = Restored(chain.verify())
    result.problems += [f"audit log: {problem}" for problem in result.audit.problems]
    say("verifying the recordings")
    for session in TerminalSession.objects.filter(chunks__isnull=False).distinct().iterator(chunk_size=500):
        result.recordings += 1
        result.problems += [f"recording {session.pk}: {fault}" for fault in recording.verify(session).faults]
    record(
        "backup.restore",
        actor="backup",
        target=Target("backup", backup.name, backup.name),
        outcome="done" if result.is_whole else "failed",
        reason=result.problems[0] if result.problems else "",
        made_at=backup.manifest["made_at"],
        number=backup.manifest["audit"]["number"],
        events_lost=lost,
        problems=len(result.problems),
    )
    if lost:
        say(f"the head file knew of {lost} further audit events, which came after the backup and are lost")
    return result
