"""Runs over the API: see their plans, start them, follow them, steer them."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from fleetops.cli import remote, tables
from fleetops.cli.errors import DONE, Refused

LOOK_SECONDS = 2.0  # between two looks of `watch`
_READINESS = {"open": "to be prepared", "failed": "could not be prepared", "waived": "goes unprepared"}
ENDS = {"succeeded": DONE, "failed": 1, "aborted": 1}
RUN_COLUMNS: dict[str, str] = {
    "id": "id",
    "name": "name",
    "state": "state",
    "waits-for": "waits_for",
    "targets": "targets",
    "user": "actor",
    "started": "started_at",
    "ended": "ended_at",
    "reason": "reason",
    "url": "url",
}
TARGET_COLUMNS: dict[str, str] = {
    "name": "instance_name",
    "instance-id": "instance_id",
    "wave": "wave",
    "state": "state",
    "attempt": "attempt",
    "says": "reason",
    "account": "account_id",
    "region": "region",
    "zone": "zone",
    "ended": "ended_at",
    "id": "id",
}


def listed(chosen: argparse.Namespace) -> int:
    """Runs, the newest first."""
    return remote.list_rows(chosen, "runs/", {"state": chosen.state} if chosen.state else {}, RUN_COLUMNS)


def targets(chosen: argparse.Namespace) -> int:
    """The targets of a run, and why some are left out."""
    query = {"state": chosen.state} if chosen.state else {}
    return remote.list_rows(chosen, f"runs/{chosen.id}/targets/", query, TARGET_COLUMNS)


def show(chosen: argparse.Namespace) -> int:
    """One run with its waves; of a plan what it would do, and the digest that `start` takes."""
    found = remote.client_of(chosen).get(f"runs/{chosen.id}/")
    if chosen.json:
        return _json(found)
    print(f"{tables.safe(found['name'])}: {found['state']}{_waits(found)}")
    print(_counts(found))
    for wave in found["waves"]:
        gates = "".join(f", {gate['kind']} {gate['state']}" for gate in wave["gates"])
        ready = "" if wave["readiness"] == "ready" else f", {_READINESS[wave['readiness']]}"
        print(f"  wave {wave['position']}, {tables.safe(wave['name'])}: {wave['state']}{ready}{gates}")
    for each in found["prepared"]:
        print(f"  pinned: {tables.safe(each['label'])}, {tables.safe(each['text'])}")
    if found["state"] == "draft":
        for each in found["plan"]["skipped"]:
            print(f"  {each['count']} skipped: {tables.safe(each['reason'])}")
        print(f"To start it: fleetops run start {found['id']} --plan {found['plan_hash']}")
    elif found["end_reason"]:
        print(tables.safe(found["end_reason"]))
    print(tables.safe(found["url"]))
    return DONE


def start(chosen: argparse.Namespace) -> int:
    """Let a plan of one's own go, as it was seen."""
    return _told(chosen, _post(chosen, "release", {"plan_hash": chosen.plan}))


def steer(chosen: argparse.Namespace) -> int:
    """Pause, resume, abort, try again what failed, let waves go unprepared."""
    body: dict[str, Any] = {"reason": chosen.reason}
    if getattr(chosen, "cancel", False):
        body["cancel"] = True
    if getattr(chosen, "wave", None) is not None:
        body["wave"] = chosen.wave
    deed = f"targets/{chosen.target}/retry" if getattr(chosen, "target", "") else chosen.deed
    return _told(chosen, _post(chosen, deed, body))


def watch(chosen: argparse.Namespace) -> int:
    """Follow a run until it ends: a line whenever something changes. Its exit code is 0 if all went well, else 1."""
    client, before = remote.client_of(chosen), None
    while True:
        found = client.get(f"runs/{chosen.id}/")
        now = (found["state"], found["waits_for"], found["counts"])
        if now != before:
            before = now
            facts = {"state": found["state"], "waits_for": found["waits_for"], "counts": found["counts"]}
            line = json.dumps(facts) if chosen.json else f"{found['state']}{_waits(found)}: {_counts(found)}"
            print(line, flush=True)
        if found["state"] in ENDS:
            return ENDS[found["state"]]
        if found["state"] == "draft":
            raise Refused("This is a plan that nobody has started.")
        if found["state"] == "stopped" and chosen.until_stopped:
            return 1
        time.sleep(LOOK_SECONDS)


def _post(chosen: argparse.Namespace, deed: str, body: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = remote.client_of(chosen).send("POST", f"runs/{chosen.id}/{deed}/", body)
    return found


def _told(chosen: argparse.Namespace, found: dict[str, Any]) -> int:
    if chosen.json:
        return _json(found)
    print(f"{tables.safe(found['name'])}: {found['state']}{_waits(found)}. {_counts(found)}")
    return DONE


def _waits(run: dict[str, Any]) -> str:
    return f", waits for {tables.safe(run['waits_for'])}" if run["waits_for"] else ""


def _counts(run: dict[str, Any]) -> str:
    """ "10 targets: 7 succeeded, 3 queued; 2 skipped"."""
    counts = {state: count for state, count in run["counts"].items() if count}
    left_out = counts.pop("skipped", 0)
    parts = ", ".join(f"{count} {state}" for state, count in counts.items())
    return f"{sum(counts.values())} targets: {parts or 'none'}{f'; {left_out} skipped' if left_out else ''}"


def _json(value: Any) -> int:
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    print()
    return DONE


def add_arguments(group: Any, verb: Any, list_verb: Any) -> None:
    """The verbs, below `fleetops run`."""
    states = ["draft", "running", "paused", "stopped", "aborting", "succeeded", "failed", "aborted"]
    listing = list_verb(group, "list", listed, RUN_COLUMNS, "id,name,state,user,started,ended")
    listing.add_argument("--state", choices=states, default="")
    one = _one(verb, group, "show", show, "one run, its waves, and of a plan what it would do")
    one.add_argument("--json", action="store_true", help="for programs")
    members = list_verb(group, "targets", targets, TARGET_COLUMNS, "name,wave,state,says")
    members.add_argument("id", metavar="ID")
    members.add_argument("--state", default="", help="failed, queued, skipped, …")
    going = _one(verb, group, "start", start, "start a plan of your own, exactly as it was seen")
    going.add_argument("--plan", required=True, metavar="HASH", help="its digest, as `show` prints it")
    going.add_argument("--json", action="store_true", help="for programs")
    deeds = (
        ("pause", "pause", "send nothing more until it is resumed"),
        ("resume", "resume", "go on after a pause, or after a stop"),
        ("retry", "retry", "try again all that failed, or one target"),
        ("waive", "waive", "let waves go without what could not be made for them: unpinned"),
        ("abort", "abort", "send nothing more, for good"),
    )
    for name, deed, about in deeds:
        made = _one(verb, group, name, steer, about)
        made.set_defaults(deed=deed)
        made.add_argument("--reason", default="", help="for the audit log")
        made.add_argument("--json", action="store_true", help="for programs")
        if deed == "retry":
            which = made.add_mutually_exclusive_group()
            which.add_argument("--target", metavar="ID", default="", help="one, as `fleetops run targets` shows its id")
            which.add_argument("--wave", metavar="N", type=int, help="those of one wave")
        if deed == "abort":
            made.add_argument("--cancel", action="store_true", help="ask AWS to cancel what runs already")
    follow = _one(verb, group, "watch", watch, "follow a run until it ends; exit code 1 if not all went well")
    follow.add_argument("--json", action="store_true", help="a JSON object a line")
    follow.add_argument("--until-stopped", action="store_true", help="end with 1 as well when it stops for a person")


def _one(verb: Any, group: Any, name: str, do: Any, about: str) -> Any:
    made = verb(group, name, do, about)
    made.add_argument("id", metavar="ID", help="as `fleetops run list` shows it")
    return made
