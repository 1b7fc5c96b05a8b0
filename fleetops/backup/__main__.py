"""Backups, and the way back. The manual: docs/production.md.

    python -m fleetops.backup make DIR [--full]
    python -m fleetops.backup keep DIR [--every-hours 24] [--keep 14]    for as long as it runs
    python -m fleetops.backup list DIR
    python -m fleetops.backup verify DIR[/NAME]
    python -m fleetops.backup restore DIR/NAME --into FLEETOPS_HOME

Ends with 0 if it is done, with 1 and the reason if not, with 2 if it was asked wrongly.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fleetops.settings")

import django
from django.core.exceptions import ImproperlyConfigured

try:
    django.setup()
except ImproperlyConfigured as refused:
    sys.exit(str(refused))

from django.conf import settings
from django.db import DatabaseError, connection

from fleetops import pulse
from fleetops.backup import services, shelf
from fleetops.backup.shelf import BackupError
from fleetops.clock import monotonic, now
from fleetops.errors import UserError
from fleetops.notify.services import notify, resolve
from fleetops.web.context import within

logger = logging.getLogger("fleetops.backup")

RETRY_SECONDS = 300.0  # after a failure; less if backups are due more often
LOOK_SECONDS = 5.0  # between two signs of life
TOPIC = "backup"


def say(text: str) -> None:
    print(text, flush=True)


def make(directory: Path, *, full: bool) -> int:
    backup = services.make(directory, say=say, full=full)
    say(f"made {backup.path} in {backup.manifest['seconds']} s; keep its keys apart: {_keys(backup)}")
    return 0


def _keys(backup: shelf.Backup) -> str:
    keys = backup.manifest["keys"]
    return ", ".join([f"audit key {keys['audit']}", *(f"master key {key['id']}" for key in keys["master"])])


def keep(directory: Path, *, every: timedelta, number: int) -> int:
    """Make one whenever the newest is `every` old, and keep `number` of them; ends when it is told to."""
    tries_at = monotonic()
    seen: list[str] | None = None  # what the directory held when `newest` was read, which costs more than a look
    newest: datetime | None = None
    while True:
        pulse.touch()
        if monotonic() >= tries_at:
            try:
                if (names := shelf.names(directory)) != seen:
                    # One of a time to come was made by a clock that was wrong, and puts no other off.
                    made = [backup.made_at for backup in shelf.whole(directory) if backup.made_at <= now()]
                    seen, newest = names, max(made, default=None)
            except BackupError:
                newest = None  # the attempt says what is wrong
            if (newest is None or now() - newest >= every) and not _one_more(directory, number):
                tries_at = monotonic() + min(RETRY_SECONDS, every.total_seconds())
        time.sleep(LOOK_SECONDS)


def _one_more(directory: Path, number: int) -> bool:
    try:
        backup = services.make(directory, beat=pulse.touch)
        gone = shelf.prune(directory, number)
    except BackupError as error:
        _tell_of_failure(str(error))
        return False
    except Exception:  # the outermost loop: people are told, and the next one is made in time
        logger.exception("a backup failed")
        _tell_of_failure("The log of the backup service says why.")
        return False
    logger.info("backup made backup=%s seconds=%s removed=%s", backup.name, backup.manifest["seconds"], len(gone))
    try:
        resolve(TOPIC, dedup_key=TOPIC)
    except DatabaseError:
        logger.warning("that backups are made again could not be told")
    finally:
        connection.close()
    return True


def _tell_of_failure(why: str) -> None:
    logger.error("no backup was made: %s", why)
    try:
        notify(TOPIC, dedup_key=TOPIC, title="No backup of FleetOps was made", text=why, severity="critical")
    except DatabaseError:
        logger.warning("that no backup was made could not be told: the database does not answer")
    finally:
        connection.close()


def show(directory: Path) -> int:
    names = shelf.names(directory)
    if not names:
        say(f"{directory} holds no backup")
    for name in names:
        try:
            facts = shelf.read(directory / name).manifest
        except BackupError as error:
            say(f"{name}  DAMAGED: {error}")
            continue
        recordings = facts["recordings"]
        chunks = f"{recordings['chunks']} chunks of recordings"
        if recordings["kept"] == services.ELSEWHERE:
            chunks = "recordings elsewhere"
        size = (facts["database"]["size"] + recordings["new_bytes"] + facts["journals"]["bytes"]) / (1 << 20)
        say(f"{name}  {facts['database']['engine']}, {chunks}, audit to {facts['audit']['number']}, {size:.1f} MiB new")
    return 0


def verify(path: Path) -> int:
    """Read every byte of one backup, or of all in a directory."""
    paths = [path] if (path / shelf.MANIFEST).exists() else [path / name for name in shelf.names(path)]
    if not paths:
        raise BackupError(f"{path} is no backup, and holds none.")
    bad = 0
    for each in paths:
        try:
            found = shelf.faults(shelf.read(each))
        except BackupError as error:
            found = [str(error)]
        bad += bool(found)
        say(f"{each.name}  " + ("whole" if not found else f"NOT whole: {'; '.join(found[:20])}"))
    return 1 if bad else 0


def restore(path: Path, into: Path) -> int:
    if into.resolve() != settings.HOME:
        raise BackupError(
            f"--into names {into}, and FLEETOPS_HOME is {settings.HOME}. Set the settings of the FleetOps that is to "
            "have the backup, FLEETOPS_HOME and FLEETOPS_DATABASE_URL among them, and name the same home here."
        )
    result = services.restore(shelf.read(path.resolve()), say=say)
    say(
        f"restored {path.name}: {result.audit.sealed} audit events in a chain that is "
        f"{'whole' if result.audit.ok else 'NOT whole'}, {result.recordings} recordings"
    )
    for problem in result.problems[:20]:
        say(f"BAD  {problem}")
    return 0 if result.is_whole else 1


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m fleetops.backup", description="Backups, and the way back.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    made = verbs.add_parser("make", help="make one backup")
    made.add_argument("directory", type=Path)
    made.add_argument("--full", action="store_true", help="copy every recording anew, with no link to older backups")
    kept = verbs.add_parser("keep", help="make one now and then, and remove the oldest")
    kept.add_argument("directory", type=Path)
    kept.add_argument("--every-hours", type=_hours, default=24.0, metavar="H")
    kept.add_argument("--keep", type=_positive, default=14, metavar="N")
    verbs.add_parser("list", help="what there is").add_argument("directory", type=Path)
    verbs.add_parser("verify", help="read every byte of one, or of all").add_argument("path", type=Path)
    restored = verbs.add_parser("restore", help="into an empty database and an empty home")
    restored.add_argument("path", type=Path)
    restored.add_argument("--into", type=Path, required=True, metavar="HOME", help="FLEETOPS_HOME, to be sure")
    given = parser.parse_args(arguments)
    os.umask(0o077)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is half made is removed
    try:
        with within("command"):
            if given.verb == "make":
                return make(given.directory, full=given.full)
            if given.verb == "keep":
                return keep(given.directory, every=timedelta(hours=given.every_hours), number=given.keep)
            if given.verb == "list":
                return show(given.directory)
            if given.verb == "verify":
                return verify(given.path)
            return restore(given.path, given.into)
    except (UserError, ImproperlyConfigured) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _hours(text: str) -> float:
    hours = float(text)
    if not 0 < hours <= 8784:
        raise argparse.ArgumentTypeError("takes hours, more than 0 and at most a year")
    return hours


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("takes a whole number from 1 on")
    return number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
