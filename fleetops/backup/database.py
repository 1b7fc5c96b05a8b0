"""The database in one snapshot, into a file and back: PostgreSQL by its own programs, SQLite by its online backup."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import select
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from django.apps import apps
from django.conf import settings
from django.db import DatabaseError, connection, transaction

from fleetops import vault
from fleetops.audit.chain import GENESIS
from fleetops.audit.models import AuditSeal

from .shelf import BackupError, Beat

LOCK_WAIT: Final = "60s"  # for a table that a migration holds
CONNECT_SECONDS: Final = "10"
_PIECE: Final = 1 << 20
_SHOWN: Final = 600  # characters of what a program says of its failure


@dataclass
class Snapshot:
    """What the manifest says of the database, as it is in the file."""

    engine: str
    file: str
    server: str  # version
    client: str = ""  # version of pg_dump
    sha256: str = ""
    migrations: dict[str, list[str]] = field(default_factory=dict)
    audit_number: int = 0
    audit_hash: str = GENESIS
    sealed_with: dict[str, int] = field(default_factory=dict)  # values by master key


def _look(cursor: Any, found: Snapshot) -> None:
    """Read what the manifest tells, in the same snapshot; `cursor` is Django's or sqlite3's."""
    cursor.execute("SELECT app, name FROM django_migrations ORDER BY id")
    for app, name in cursor.fetchall():
        found.migrations.setdefault(app, []).append(name)
    cursor.execute(f"SELECT number, hash FROM {AuditSeal._meta.db_table} ORDER BY number DESC LIMIT 1")
    for number, its_hash in cursor.fetchall():
        found.audit_number, found.audit_hash = number, its_hash
    for column in vault.columns():
        model = apps.get_model(column.model)._meta
        name = model.get_field(column.field).column
        cursor.execute(f'SELECT "{name}" FROM "{model.db_table}" WHERE "{name}" <> \'\'')
        for (value,) in cursor.fetchall():
            key = vault.key_id_of(value)
            found.sealed_with[key] = found.sealed_with.get(key, 0) + 1
    found.sealed_with.pop("", None)


def dump(part: Path, beat: Beat) -> Snapshot:
    """Write the database into `part`. Raises BackupError, OSError."""
    try:
        return _dump_sqlite(part) if connection.vendor == "sqlite" else _dump_postgresql(part, beat)
    except DatabaseError as error:
        raise unreachable(error) from None
    finally:
        connection.close()


def unreachable(error: Exception) -> BackupError:
    return BackupError(f"The database does not answer as it should: {_first_lines(str(error))} Nothing was changed.")


def is_empty() -> bool:
    """Whether the database that the settings name holds no table. Raises BackupError."""
    if connection.vendor == "sqlite":
        path = Path(connection.settings_dict["NAME"])
        if not path.exists():
            return True
    try:
        return not connection.introspection.table_names()
    except DatabaseError as error:
        raise unreachable(error) from None
    finally:
        connection.close()


def restore(file: Path, beat: Beat) -> None:
    """Fill the empty database from `file`, all of it or nothing. Raises BackupError, OSError."""
    connection.close()
    if connection.vendor == "sqlite":
        _restore_sqlite(file)
    else:
        _restore_postgresql(file, beat)


# --- SQLite ----------------------------------------------------------------------------------------------------------


def _dump_sqlite(part: Path) -> Snapshot:
    path = part / "database.sqlite3"
    given = Path(connection.settings_dict["NAME"]).resolve()
    found = Snapshot("sqlite", path.name, sqlite3.sqlite_version)
    with contextlib.ExitStack() as stack:
        try:
            source = sqlite3.connect(f"{given.as_uri()}?mode=ro", uri=True, timeout=20)
            stack.callback(source.close)
            copy = sqlite3.connect(path)
            stack.callback(copy.close)
            # All pages in one step: one read transaction, for which no writer waits, where many would begin anew after
            # each write of another process.
            source.backup(copy, pages=-1)
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, which needs none beside it
            _look(copy.cursor(), found)
        except sqlite3.Error as error:
            raise _sqlite_trouble(part.parent, error) from None
    _sync(path)
    with path.open("rb") as file:
        found.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _sqlite_trouble(directory: Path, error: sqlite3.Error) -> BackupError:
    if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:
        return BackupError(f"The disk of {directory} is full. No backup was made; those that were there still are.")
    return unreachable(error)


def _restore_sqlite(file: Path) -> None:
    target = Path(connection.settings_dict["NAME"])
    fresh = target.with_name(f"{target.name}.restoring")
    try:
        shutil.copyfile(file, fresh)
        os.chmod(fresh, 0o600)
        _sync(fresh)
        for tail in ("-wal", "-shm"):  # of an empty database that somebody has opened
            target.with_name(target.name + tail).unlink(missing_ok=True)
        fresh.replace(target)
        _sync(target.parent)
    finally:
        fresh.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- PostgreSQL ------------------------------------------------------------------------------------------------------


def program(name: str) -> tuple[str, str]:
    """Path and version of one of PostgreSQL's client programs. Raises BackupError."""
    path = shutil.which(name, path=settings.PG_BIN or None)
    where = f"in FLEETOPS_PG_BIN={settings.PG_BIN}" if settings.PG_BIN else "on PATH"
    if path is None:
        raise BackupError(
            f"{name} is not {where}. Install PostgreSQL's client programs (Debian, Ubuntu: postgresql-client) of the "
            "server's version or a newer one, and name their directory in FLEETOPS_PG_BIN if it is not on PATH."
        )
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, env=_environment(), timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackupError(f"{path} cannot be started: {error}.") from None
    if (version := re.search(r"\) (\d+[.\w]*)", said.stdout)) is None:
        raise BackupError(f"{path} does not tell its version: {_first_lines(said.stderr or said.stdout)}")
    return path, version[1]


def major(version: str) -> int:
    return int(re.match(r"\d+", version)[0])  # type: ignore[index]


def server_version() -> str:
    """Of the PostgreSQL that the settings name: 15.8. Raises BackupError."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SHOW server_version")
            return str(cursor.fetchone()[0]).split()[0]
    except DatabaseError as error:
        raise unreachable(error) from None


def _environment() -> dict[str, str]:
    """Of the client programs: the password goes in here, where other users cannot read it, as on a command line."""
    names = connection.settings_dict
    own = {name: value for name, value in os.environ.items() if not name.startswith(("FLEETOPS_", "AWS_", "DJANGO_"))}
    own |= {"LC_ALL": "C", "PGAPPNAME": "fleetops-backup", "PGCONNECT_TIMEOUT": CONNECT_SECONDS}
    if names.get("PASSWORD"):
        own["PGPASSWORD"] = names["PASSWORD"]
    return own


def _where() -> list[str]:
    names = connection.settings_dict
    given = {"host": names["HOST"], "port": names["PORT"], "username": names["USER"], "dbname": names["NAME"]}
    return ["--no-password", *(f"--{name}={value}" for name, value in given.items() if value)]


def _dump_postgresql(part: Path, beat: Beat) -> Snapshot:
    path, client = program("pg_dump")
    server = server_version()
    if major(client) < major(server):
        raise BackupError(
            f"{path} is of version {client} and the server of {server}: it cannot dump a newer one. Install the "
            f"client programs of version {major(server)}, and name their directory in FLEETOPS_PG_BIN."
        )
    found = Snapshot("postgresql", "database.dump", server, client)
    with _snapshot() as (cursor, snapshot):
        _look(cursor, found)
        command = [path, "--format=custom", f"--snapshot={snapshot}", f"--lock-wait-timeout={LOCK_WAIT}", *_where()]
        # Through a pipe: if this process is killed, pg_dump ends at its next write.
        with (part / found.file).open("wb") as file:
            found.sha256 = _into(command, file, beat)
    return found


@contextlib.contextmanager
def _snapshot() -> Iterator[tuple[Any, str]]:
    """A transaction that sees one moment, and the name by which pg_dump sees the same one."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        cursor.execute("SELECT pg_export_snapshot()")
        yield cursor, cursor.fetchone()[0]


def _into(command: list[str], file: BinaryIO, beat: Beat) -> str:
    """Run a program, its output into `file` and onto the disk; returns the SHA-256 of it."""
    digest = hashlib.sha256()
    with tempfile.TemporaryFile() as complaint:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaint, env=_environment())
        try:
            assert process.stdout is not None
            descriptor = process.stdout.fileno()
            while True:
                beat()
                if not select.select([descriptor], [], [], 5)[0]:
                    continue
                if not (piece := os.read(descriptor, _PIECE)):
                    break
                file.write(piece)
                digest.update(piece)
            file.flush()
            os.fsync(file.fileno())
            code = process.wait()
        finally:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
        if code:
            complaint.seek(0)
            raise _failed(command[0], code, complaint.read())
    return digest.hexdigest()


def _restore_postgresql(file: Path, beat: Beat) -> None:
    path, _ = program("pg_restore")
    options = ["--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges"]
    with tempfile.TemporaryFile() as complaint:
        process = subprocess.Popen([path, *options, *_where(), str(file)], stderr=complaint, env=_environment())
        try:
            while process.poll() is None:
                beat()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(5)
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            complaint.seek(0)
            raise _failed(path, process.returncode, complaint.read())


def _failed(path: str, code: int, complaint: bytes) -> BackupError:
    said = _first_lines(complaint.decode(errors="replace"))
    return BackupError(f"{Path(path).name} ended with {code}: {said} Nothing was changed.")


def _first_lines(text: str) -> str:
    """What a program or a driver complains of, in a line of bounded length; neither ever says a password."""
    line = "; ".join(part.strip() for part in text.splitlines() if part.strip())[:_SHOWN]
    return line if line.endswith(".") else f"{line}."
