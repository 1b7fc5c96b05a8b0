"""A database that all migrations have been applied to: they take seconds, and many tests begin with an empty one."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def _of_this_run() -> Path:
    """The directory that all workers of this run share: a worker's own home lies in it."""
    home = Path(os.environ["FLEETOPS_HOME"])
    return home.parent if "PYTEST_XDIST_WORKER" in os.environ else home


def migrated_sqlite(path: Path) -> None:
    """Put a migrated SQLite database, with no row of ours in it, at `path`. Who asks first in this run makes it."""
    home = _of_this_run() / "migrated"
    made = home / "fleetops.sqlite3"
    home.mkdir(exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "is-made").exists():
            made.unlink(missing_ok=True)
            own = ("FLEETOPS_", "AWS_", "DJANGO_")
            environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
            environment["FLEETOPS_HOME"] = str(home)
            command = [sys.executable, "manage.py", "migrate", "--no-input", "--verbosity", "0"]
            subprocess.run(command, cwd=ROOT, env=environment, check=True)
            (home / "is-made").touch()
    shutil.copyfile(made, path)
