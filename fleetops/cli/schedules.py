"""Schedules of runs over the API: make them, see what became of each moment, pause, resume, run now."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from fleetops.cli import remote, tables
from fleetops.cli.errors import DONE

COLUMNS: dict[str, str] = {
    "id": "id",
    "name": "name",
    "enabled": "enabled",
    "when": "in_words",
    "expression": "expression",
    "zone": "zone",
    "next": "next_at",
    "user": "owner",
    "why-off": "why_off",
    "url": "url",
}
MOMENT_COLUMNS: dict[str, str] = {
    "due": "due_at",
    "state": "state",
    "cause": "cause",
    "says": "words",
    "run": "run",
    "run-state": "run_state",
    "id": "id",
}


def listed(chosen: argparse.Namespace) -> int:
    """Schedules, the newest first."""
    return remote.list_rows(chosen, "schedules/", {}, COLUMNS)


def history(chosen: argparse.Namespace) -> int:
    """What became of each moment of one schedule."""
    return remote.list_rows(chosen, f"schedules/{chosen.id}/moments/", {}, MOMENT_COLUMNS)


def show(chosen: argparse.Namespace) -> int:
    """One schedule, with its next five moments."""
    return _told(chosen, remote.client_of(chosen).get(f"schedules/{chosen.id}/"))


def create(chosen: argparse.Namespace) -> int:
    """Have the run of a plan come again."""
    body = {
        "run": chosen.run,
        "name": chosen.name,
        "expression": chosen.when,
        "offset_days": chosen.offset,
        "zone": chosen.zone,
        "missed": chosen.missed,
        "overlap": chosen.overlap,
        "starts_itself": not chosen.waits,
        "drift": chosen.drift,
    }
    return _told(chosen, remote.client_of(chosen).send("POST", "schedules/", body))


def steer(chosen: argparse.Namespace) -> int:
    """Pause, resume, take over."""
    body = {"reason": chosen.reason} if chosen.deed == "pause" else {}
    return _told(chosen, remote.client_of(chosen).send("POST", f"schedules/{chosen.id}/{chosen.deed}/", body))


def run(chosen: argparse.Namespace) -> int:
    """One run now, by the rules of the schedule."""
    found = remote.client_of(chosen).send("POST", f"schedules/{chosen.id}/run/", {})
    if chosen.json:
        return _json(found)
    print(f"Its run is being planned; see fleetops schedule history {chosen.id}.")
    return DONE


def delete(chosen: argparse.Namespace) -> int:
    """For good; its runs stay."""
    remote.client_of(chosen).send("DELETE", f"schedules/{chosen.id}/")
    print("Deleted.")
    return DONE


def _told(chosen: argparse.Namespace, found: dict[str, Any]) -> int:
    if chosen.json:
        return _json(found)
    state = "on" if found["enabled"] else f"off. {tables.safe(found['why_off'])}"
    print(f"{tables.safe(found['name'])}: {found['in_words']} ({found['zone']}), for {found['owner']}; {state}")
    for moment in found["coming"]:
        print(f"  {moment}")
    print(found["id"])
    print(tables.safe(found["url"]))
    return DONE


def _json(value: Any) -> int:
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    print()
    return DONE


def add_arguments(group: Any, verb: Any, list_verb: Any) -> None:
    """The verbs, below `fleetops schedule`."""
    list_verb(group, "list", listed, COLUMNS, "id,name,enabled,when,next,user")
    _one(verb, group, "show", show, "one schedule, with its next five moments")
    moments = list_verb(group, "history", history, MOMENT_COLUMNS, "due,state,cause,says,run-state")
    moments.add_argument("id", metavar="ID")
    made = verb(group, "create", create, "have the run of a plan come again, for you")
    made.add_argument("--run", required=True, metavar="ID", help="whose plan comes again: see fleetops run list")
    made.add_argument("--when", required=True, metavar="EXPRESSION", help="as AWS writes it: 'cron(0 2 ? * SUN *)'")
    made.add_argument("--name", required=True)
    made.add_argument("--zone", default="UTC", help="IANA name; UTC if it is not given")
    made.add_argument("--offset", type=int, default=0, metavar="DAYS", help="days after each moment of a cron")
    made.add_argument("--missed", choices=["skip", "once", "ask"], default="skip", help="if FleetOps was not running")
    made.add_argument("--overlap", choices=["skip", "beside"], default="skip", help="if its last run still goes")
    made.add_argument("--waits", action="store_true", help="its plans wait for you to start them")
    made.add_argument("--drift", default="", metavar="LIMIT", help="wait if more targets differ from the last run's")
    made.add_argument("--json", action="store_true", help="for programs")
    deeds = (
        ("pause", "due no more, until it is resumed"),
        ("resume", "due again from now on"),
        ("take", "from now on it runs for you"),
    )
    for name, about in deeds:
        one = _one(verb, group, name, steer, about)
        one.set_defaults(deed=name)
        if name == "pause":
            one.add_argument("--reason", default="", help="for the audit log")
    _one(verb, group, "run", run, "one run now, by its rules")
    gone = verb(group, "delete", delete, "for good; its runs stay")
    gone.add_argument("id", metavar="ID")


def _one(verb: Any, group: Any, name: str, do: Any, about: str) -> Any:
    made = verb(group, name, do, about)
    made.add_argument("id", metavar="ID", help="as `fleetops schedule list` shows it")
    made.add_argument("--json", action="store_true", help="for programs")
    return made
