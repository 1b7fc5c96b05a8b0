"""Backups of a FleetOps that works meanwhile, on PostgreSQL and SQLite, and the way back."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from fleetops import clock, metrics
from fleetops.audit.record import record
from tests.support.migrated import migrated_sqlite
from tests.support.postgres import Postgres, client_programs, postgres_server
from tests.support.stack import until

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "a-hidden-word"  # of the database


@dataclass
class House:
    """One installation's settings: commands run below them."""

    home: Path
    url: str
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        own = ("FLEETOPS_", "AWS_", "DJANGO_", "PG")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        self.environment |= {"FLEETOPS_HOME": str(self.home), "FLEETOPS_PG_BIN": str(client_programs())}
        if self.url:
            self.environment["FLEETOPS_DATABASE_URL"] = self.url

    def run(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", *arguments]
        return subprocess.run(command, cwd=ROOT, env=self.environment | settings, capture_output=True, text=True)

    def start(self, *arguments: str, **settings: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", *arguments]
        return subprocess.Popen(
            command, cwd=ROOT, env=self.environment | settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def backup(self, *arguments: str | Path, **settings: str) -> str:
        """`fleetops.backup`, which succeeds; what it said."""
        done = self.run("fleetops.backup", *map(str, arguments), **settings)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def refused(self, *arguments: str | Path, **settings: str) -> str:
        """`fleetops.backup`, which does nothing; the reason that it gave, in words and without a traceback."""
        done = self.run("fleetops.backup", *map(str, arguments), **settings)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert PASSWORD not in done.stdout + done.stderr
        return done.stderr

    def look(self) -> dict[str, Any]:
        done = self.run("tests.production.filling", "look")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    # Not below pytest's directory, which only its own user may walk through: PostgreSQL does not run as root.
    with (
        tempfile.TemporaryDirectory(prefix="fo-pg-") as directory,
        postgres_server(Path(directory), password=PASSWORD) as server,
    ):
        yield server


def new_house(home: Path, postgres: Postgres | None) -> House:
    """An installation with nothing in it; its database has the name of its home's directory."""
    home.mkdir(parents=True)
    if postgres is None:
        return House(home, "")
    name = "house" + "".join(letter for letter in (home.parent.name + home.name).lower() if letter.isalnum())[-50:]
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        # As in production: of a role that is no superuser.
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
        connection.execute(f"CREATE DATABASE {name} OWNER {name}")
    return House(home, postgres.url_of(name).replace("//fleetops:", f"//{name}:"))


def filled_house(home: Path, postgres: Postgres | None) -> House:
    house = new_house(home, postgres)
    if postgres is None:
        migrated_sqlite(home / "fleetops.sqlite3")
    for command in (["fleetops.prepare", "--no-static"], ["tests.production.filling", "fill"]):
        done = house.run(*command, FLEETOPS_ADMIN_PASSWORD="a long enough password 42")
        assert done.returncode == 0, done.stderr
    return house


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory) -> House:
    """An installation in which there is something: for what is the same whatever the database."""
    return filled_house(tmp_path_factory.mktemp("small") / "home", None)


@pytest.fixture(scope="module")
def on_postgres(tmp_path_factory, postgres) -> House:
    return filled_house(tmp_path_factory.mktemp("large") / "home", postgres)


@pytest.fixture(params=["on_sqlite", "on_postgres"])
def house(request) -> House:
    return request.getfixturevalue(request.param)


def elsewhere(house: House, home: Path, postgres: Postgres) -> House:
    """Another machine, with the keys and nothing else."""
    other = new_house(home, postgres if house.url else None)
    (other.home / "secrets").mkdir(mode=0o700)
    for key in ("audit.key", "master.key", "django.key"):
        shutil.copy(house.home / "secrets" / key, other.home / "secrets" / key)
    return other


@contextlib.contextmanager
def at_work(house: House, told: Path) -> Iterator[None]:
    """Rows, journals and chunks are written meanwhile; `told` holds the number of the last line."""
    process = house.start("tests.production.filling", "write", str(told))
    try:
        until(lambda: told.exists() and int(told.read_text()) > 20, what="something is written")
        assert process.poll() is None
        yield
        assert process.poll() is None, "what writes has stopped"
    finally:
        process.kill()
        process.wait()


def whole(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("2*") if path.is_dir())


def tree(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@contextlib.contextmanager
def program(directory: Path, name: str, script: str) -> Iterator[str]:
    """A directory of client programs in which one is replaced by a script, to force a fault."""
    directory.mkdir()
    for real in client_programs().iterdir():
        (directory / real.name).symlink_to(real)
    (directory / name).unlink()
    (directory / name).write_text(f"#!/bin/sh\n{script}\n")
    (directory / name).chmod(0o755)
    yield str(directory)


def test_what_was_there_when_a_backup_began_comes_back_while_others_write(house, postgres, tmp_path):
    """Ends with a working installation elsewhere: log-in, secrets, audit chain, both recordings, every line of one."""
    shelf, told = tmp_path / "shelf", tmp_path / "told"
    with at_work(house, told):
        before = int(told.read_text())
        house.backup("make", shelf)
        (first,) = whole(shelf)
        until(lambda: int(told.read_text()) > before + 100, what="it is written on")
        before = int(told.read_text())
        house.backup("make", shelf)
    after = int(told.read_text())
    second = whole(shelf)[-1]
    assert "NOT" not in house.backup("verify", shelf)

    # The second costs what is new: a chunk of the first is one file with it.
    old = [path.relative_to(first) for path in (first / "recordings").rglob("*.zst")]
    assert old
    assert all((first / path).samefile(second / path) for path in old)

    other = elsewhere(house, tmp_path / "elsewhere", postgres)
    said = other.backup("restore", second, "--into", other.home)
    assert "a chain that is whole, 2 recordings" in said
    found = other.look()
    assert found["chain"] == []
    assert found["recordings"] == {"done": [], "open": []}
    assert found["done"] == "line 0\r\n"
    assert found["lines"] == list(range(len(found["lines"])))  # none is missing, none comes twice
    assert before <= found["lines"][-1] <= after
    assert (found["logs_in"], found["unsent"]) == (True, 0)
    assert found["hook"] == "https://hooks.example.com/a-hidden-word"
    manifest = json.loads((second / "manifest.json").read_text())
    assert found["restored"]["number"] == manifest["audit"]["number"] > 0
    assert "is not empty" in other.refused("restore", second, "--into", other.home)


def test_a_backup_holds_no_key(on_sqlite, tmp_path):
    house = on_sqlite
    house.backup("make", tmp_path / "shelf")
    secrets = [path.read_text().strip() for path in (house.home / "secrets").glob("*.key")]
    secrets.append(json.loads((house.home / "secrets" / "master.key").read_text().splitlines()[0])["key"])
    assert len(secrets) == 4
    for name, data in tree(tmp_path / "shelf").items():
        assert not [1 for secret in secrets if secret.encode() in data], name
    (path,) = whole(tmp_path / "shelf")
    manifest = json.loads((path / "manifest.json").read_text())
    assert [key["id"] for key in manifest["keys"]["master"]] == [
        json.loads((house.home / "secrets" / "master.key").read_text().splitlines()[0])["id"]
    ]
    assert path.stat().st_mode & 0o077 == 0


def test_without_its_keys_a_backup_is_not_restored_and_nothing_is_changed(on_sqlite, postgres, tmp_path):
    house, other = on_sqlite, elsewhere(on_sqlite, tmp_path / "elsewhere", postgres)
    house.backup("make", tmp_path / "shelf")
    (path,) = whole(tmp_path / "shelf")
    keys = other.home / "secrets"

    right = (keys / "audit.key").read_text()
    (keys / "audit.key").write_text("another key, and a long enough one, of another house")
    assert "another audit key" in other.refused("restore", path, "--into", other.home)
    (keys / "audit.key").write_text(right)

    right = (keys / "master.key").read_text()
    ring = json.loads(right.splitlines()[0])
    (keys / "master.key").write_text(json.dumps(ring | {"id": "20260101-abcdef01"}) + "\n")
    said = other.refused("restore", path, "--into", other.home)
    assert f"1 secrets of the backup are sealed with the master key {ring['id']}" in said
    # A key of the same name is another one all the same.
    (keys / "master.key").write_text(json.dumps(ring | {"key": "A" * 43 + "="}) + "\n")
    assert "but not the one of the backup" in other.refused("restore", path, "--into", other.home)
    (keys / "master.key").write_text(right)

    other.backup("restore", path, "--into", other.home)  # which nothing of this has stood in the way of


def test_a_restore_goes_into_an_empty_installation_only(on_sqlite, postgres, tmp_path):
    house, other = on_sqlite, elsewhere(on_sqlite, tmp_path / "elsewhere", postgres)
    house.backup("make", tmp_path / "shelf")
    (path,) = whole(tmp_path / "shelf")
    assert "is not empty" in house.refused("restore", path, "--into", house.home)
    assert "--into names" in house.refused("restore", path, "--into", other.home)

    stray = other.home / "recordings" / "ab" / "stray"
    stray.parent.mkdir(parents=True)
    stray.write_text("of somebody")
    assert "recordings (FLEETOPS_RECORDING_DIR) is not empty: ab/stray" in other.refused(
        "restore", path, "--into", other.home
    )
    stray.unlink()
    other.backup("restore", path, "--into", other.home)
    assert "is not empty" in other.refused("restore", path, "--into", other.home)


def test_what_was_changed_or_cut_short_is_found_and_not_restored(on_sqlite, postgres, tmp_path):
    house, other = on_sqlite, elsewhere(on_sqlite, tmp_path / "elsewhere", postgres)
    house.backup("make", tmp_path / "shelf")
    (path,) = whole(tmp_path / "shelf")
    database = next(path.glob("database.*"))
    chunk = next(path.rglob("recordings/**/*.zst"))
    journal = next(path.rglob("*.seg"))
    right = {part: part.read_bytes() for part in (database, chunk, journal)}
    database.write_bytes(right[database][:-1])
    chunk.unlink()
    journal.write_bytes(right[journal] + b"more")
    said = house.run("fleetops.backup", "verify", str(path)).stdout
    assert f"{database.name} was changed or cut short" in said
    assert f"{chunk.relative_to(path)} is missing" in said
    assert f"{journal.relative_to(path)} was changed or cut short" in said
    assert "is not whole" in other.refused("restore", path, "--into", other.home)
    for part, data in right.items():
        part.write_bytes(data)
    # Whoever changes a part and its digest lacks the key that seals the manifest.
    listing = path / "files.sha256"
    right = listing.read_bytes()
    listing.write_bytes(right.replace(b"0", b"1", 1))
    assert "was changed after the backup was made" in other.refused("restore", path, "--into", other.home)
    listing.write_bytes(right)
    manifest = path / "manifest.json"
    facts = json.loads(manifest.read_text())
    facts["audit"]["number"] = 1
    manifest.write_text(json.dumps(facts))
    assert "was changed after the backup was made" in other.refused("restore", path, "--into", other.home)
    assert not (other.home / "recordings").exists()


def has_begun(process: subprocess.Popen[bytes], shelf: Path) -> bool:
    return bool(list(shelf.glob(".part-*/*"))) or process.poll() is not None


def test_a_killed_backup_leaves_nothing_that_looks_whole(house, tmp_path):
    """Killed at moments all over it; what has a name is whole, and the next one sweeps the rest away."""
    shelf = tmp_path / "shelf"
    for number in range(1, 5):
        process = house.start("fleetops.backup", "make", str(shelf))
        # From its first file on: later each time.
        until(functools.partial(has_begun, process, shelf), what="it has begun")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.03 * number)
        process.kill()
        process.wait()
    done = house.run("fleetops.backup", "verify", str(shelf))
    assert "NOT" not in done.stdout
    assert len(done.stdout.splitlines()) == len(whole(shelf))
    house.backup("make", shelf)
    assert not list(shelf.glob(".part-*"))


def test_a_backup_that_is_told_to_stop_tidies_up(on_postgres, tmp_path):
    house = on_postgres
    shelf = tmp_path / "shelf"
    slow = f'{client_programs() / "pg_dump"} "$@"; case "$*" in *--version*) ;; *) sleep 60 ;; esac'
    with program(tmp_path / "slow", "pg_dump", slow) as programs:
        process = house.start("fleetops.backup", "make", str(shelf), FLEETOPS_PG_BIN=programs)
        until(lambda: list(shelf.glob(".part-*/database.dump")), what="it has begun")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143
    assert [path.name for path in shelf.iterdir()] == [".lock"]


def test_only_one_makes_a_backup_at_a_time(on_postgres, tmp_path):
    house = on_postgres
    shelf = tmp_path / "shelf"
    slow = f'{client_programs() / "pg_dump"} "$@"; case "$*" in *--version*) ;; *) sleep 60 ;; esac'
    with program(tmp_path / "slow", "pg_dump", slow) as programs:
        process = house.start("fleetops.backup", "make", str(shelf), FLEETOPS_PG_BIN=programs)
        until(lambda: list(shelf.glob(".part-*/database.dump")), what="it has begun")
        assert "Another process is making a backup" in house.refused("make", shelf)
        process.kill()
        process.wait()


def test_of_older_backups_so_many_are_kept_and_the_last_whole_one_always(on_sqlite, tmp_path):
    house = on_sqlite
    shelf = tmp_path / "shelf"
    for _ in range(3):
        house.backup("make", shelf)
    names = [path.name for path in whole(shelf)]
    assert len(names) == 3
    # What is damaged counts for nothing: it neither stays instead of a whole one nor goes away unseen.
    damaged = shelf / names[-1] / "manifest.json"
    damaged.write_text("{")
    process = house.start(
        *("fleetops.backup", "keep", str(shelf), "--every-hours", "0.0001", "--keep", "1"),
        FLEETOPS_PULSE_FILE=str(tmp_path / "pulse"),
    )
    try:
        gone = {shelf / name for name in names[:2]}
        until(lambda: not gone & set(whole(shelf)), seconds=30, what="the older ones are gone")
        until((tmp_path / "pulse").exists, what="it tells that it lives")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    left = [path.name for path in whole(shelf)]
    assert names[-1] in left
    assert len(left) == 2
    said = house.backup("list", shelf)
    assert f"{names[-1]}  DAMAGED" in said
    assert house.run("fleetops.backup", "verify", str(shelf)).stdout.count("NOT whole") == 1


def test_the_service_makes_one_when_it_is_due_and_not_at_each_start(on_sqlite, tmp_path):
    house = on_sqlite
    shelf = tmp_path / "shelf"
    pulse = tmp_path / "pulse"
    for _ in range(2):
        pulse.unlink(missing_ok=True)
        process = house.start("fleetops.backup", "keep", str(shelf), FLEETOPS_PULSE_FILE=str(pulse))
        try:
            until(lambda: whole(shelf) and pulse.exists(), seconds=30, what="there is one")
            process.send_signal(signal.SIGTERM)
        finally:
            assert process.wait(20) == 143
    assert len(whole(shelf)) == 1


def test_a_backup_from_a_time_to_come_puts_no_other_off(on_sqlite, tmp_path):
    house = on_sqlite
    shelf = tmp_path / "shelf"
    clock.set_shift(tmp_path / "clock.json", jump=30 * 24 * 3600)
    house.backup("make", shelf, FLEETOPS_CLOCK_FILE=str(tmp_path / "clock.json"))
    process = house.start("fleetops.backup", "keep", str(shelf), FLEETOPS_PULSE_FILE=str(tmp_path / "pulse"))
    try:
        until(lambda: len(whole(shelf)) == 2, seconds=30, what="there is one of today")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def test_a_failure_is_told_to_people_and_its_end_too(on_postgres, tmp_path):
    house = on_postgres
    shelf = tmp_path / "shelf"
    with program(
        tmp_path / "failing", "pg_dump", "test \"$1\" = --version && echo 'pg_dump (PostgreSQL) 99.0'"
    ) as programs:
        process = house.start(
            *("fleetops.backup", "keep", str(shelf), "--every-hours", "0.001"), FLEETOPS_PG_BIN=programs
        )
        try:
            until(lambda: notices(house)[:1] == [(True, "pg_dump ended with 1: .")], seconds=30, what="it is told")
            os.remove(Path(programs) / "pg_dump")
            (Path(programs) / "pg_dump").symlink_to(client_programs() / "pg_dump")
            until(lambda: whole(shelf), seconds=30, what="it is tried again")
            until(lambda: not notices(house)[0][0], seconds=30, what="its end is told")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def test_the_age_of_the_newest_backup_is_a_number_once_there_is_one(db):
    age = re.compile(rb"^fleetops_backup_age_seconds ([0-9.e-]+)$", re.MULTILINE)
    assert not age.search(metrics.exposition(database=True))
    record("backup.make", actor="backup")
    assert float(age.search(metrics.exposition(database=True))[1]) < 3600


def notices(house: House) -> list[tuple[bool, str]]:
    """Of a backup that was not made: whether it stands open, and the beginning of its text."""
    with psycopg.connect(house.url) as connection:
        rows = connection.execute("SELECT closed_at, text FROM notify_notice WHERE topic = 'backup'").fetchall()
    return [(closed_at is None, text[: len("pg_dump ended with 1: .")]) for closed_at, text in rows]


# --- Bad input, in words ---------------------------------------------------------------------------------------------


def test_a_full_disk_is_told_and_what_was_there_stays(house, tmp_path):
    shelf = tmp_path / "shelf"
    house.backup("make", shelf)
    before = tree(shelf)
    # Of a file of at most 64 KiB; past it a write fails, as on a disk that is full.
    limited = "import resource, signal, runpy, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limited += "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536)); sys.argv = ['backup', 'make', sys.argv[1]]; "
    limited += "runpy.run_module('fleetops.backup', run_name='__main__')"
    command = [sys.executable, "-c", limited, str(shelf)]
    done = subprocess.run(command, cwd=ROOT, env=house.environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert tree(shelf) == before


def test_what_is_asked_wrongly_is_told(on_sqlite, tmp_path):
    house = on_sqlite
    assert "is no backup, and holds none" in house.refused("verify", tmp_path)
    assert "it has no manifest.json" in house.refused("restore", tmp_path, "--into", house.home)
    assert house.run("fleetops.backup", "make").returncode == 2
    assert house.run("fleetops.backup", "keep", str(tmp_path), "--keep", "0").returncode == 2
    inside = house.home / "recordings" / "shelf"
    assert "choose a directory outside" in house.refused("make", inside)
    assert not inside.exists()
    assert "cannot be written" in house.refused("make", "/proc/shelf")


def test_missing_and_older_programs_and_a_wrong_password_are_told(on_postgres, tmp_path):
    house = on_postgres
    shelf = tmp_path / "shelf"
    assert "pg_dump is not in FLEETOPS_PG_BIN" in house.refused("make", shelf, FLEETOPS_PG_BIN=str(tmp_path))
    with program(tmp_path / "old", "pg_dump", "echo 'pg_dump (PostgreSQL) 9.6.24'") as programs:
        assert "is of version 9.6.24 and the server of" in house.refused("make", shelf, FLEETOPS_PG_BIN=programs)
    wrong = house.url.replace(f":{PASSWORD}@", ":wrong@")
    assert "password authentication failed" in house.refused("make", shelf, FLEETOPS_DATABASE_URL=wrong)
    assert not whole(shelf)

    seen = tmp_path / "seen"
    with program(
        tmp_path / "open", "pg_dump", f'echo "$@" >> {seen}; exec {client_programs() / "pg_dump"} "$@"'
    ) as programs:
        house.backup("make", shelf, FLEETOPS_PG_BIN=programs)
    assert "--format=custom" in seen.read_text()
    assert PASSWORD not in seen.read_text()


def test_a_restore_that_fails_half_way_leaves_nothing(on_postgres, postgres, tmp_path):
    house, other = on_postgres, elsewhere(on_postgres, tmp_path / "elsewhere", postgres)
    house.backup("make", tmp_path / "shelf")
    (path,) = whole(tmp_path / "shelf")
    failing = f'case "$*" in *--version*) exec {client_programs() / "pg_restore"} "$@" ;; esac; echo no >&2; exit 1'
    with program(tmp_path / "failing", "pg_restore", failing) as programs:
        said = other.refused("restore", path, "--into", other.home, FLEETOPS_PG_BIN=programs)
    assert "pg_restore ended with 1: no." in said
    assert not tree(other.home / "recordings")
    assert not tree(other.home / "spool")
    other.backup("restore", path, "--into", other.home)
