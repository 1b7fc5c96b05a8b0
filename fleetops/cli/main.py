"""The `fleetops` command.

    fleetops up                 start FleetOps in the foreground, as `make up` does once everything is built
    fleetops status [--json]    addresses, processes, and how to try the aws CLI on the embedded endpoint
    fleetops doctor [--json]    what is wrong with this installation, and what to do; ends with 0, 1 or 2
    fleetops manage ...         Django's manage.py, in the environment of this installation

Exit codes: 0 done, 1 it cannot be done (said in words), 2 wrong usage, 3 (status) FleetOps does not run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

from fleetops.cli import installation, status
from fleetops.errors import UserError

NOT_RUNNING = 3


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] == ["manage"]:  # before argparse, which would take manage.py's options for its own
            return manage(words[1:])
        chosen = parser().parse_args(words)
        return chosen.do(chosen)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `fleetops status | head` is no error
        return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="fleetops", description="FleetOps on this machine.")
    verbs = top.add_subparsers(required=True, metavar="VERB")
    up = verbs.add_parser("up", help="start FleetOps in the foreground")
    up.set_defaults(do=start)
    show = verbs.add_parser("status", help="addresses, processes, and how to try the aws CLI")
    show.add_argument("--json", action="store_true", help="for programs")
    show.set_defaults(do=show_status)
    doctor = verbs.add_parser("doctor", help="what is wrong with this installation, and what to do")
    doctor.add_argument("--json", action="store_true", help="for programs")
    doctor.set_defaults(do=look)
    verbs.add_parser("manage", help="Django's manage.py in this installation's environment: fleetops manage migrate")
    return top


def start(chosen: argparse.Namespace) -> int:
    os.chdir(installation.ROOT)
    os.execv(sys.executable, [sys.executable, "-m", "fleetops.supervisor"])


def manage(words: Sequence[str]) -> int:
    """Become manage.py, which finds the database, the broker and AWS where the running installation has them."""
    script = installation.ROOT / "manage.py"
    os.execve(sys.executable, [sys.executable, str(script), *words], {**os.environ, **installation.environment()})


def look(chosen: argparse.Namespace) -> int:
    return manage(["doctor", *(["--json"] if chosen.json else [])])


def show_status(chosen: argparse.Namespace) -> int:
    now = status.read()
    print(json.dumps(now, indent=2) if chosen.json else status.in_words(now))
    return 0 if now["running"] else NOT_RUNNING


if __name__ == "__main__":
    sys.exit(main())
