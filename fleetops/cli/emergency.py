"""Emergencies over the API: one CVE or package, mended everywhere."""

from __future__ import annotations

import argparse
import json
import re
import sys
from typing import Any

from fleetops.cli import remote, tables
from fleetops.cli.errors import DONE

COLUMNS: dict[str, str] = {
    "id": "id",
    "name": "name",
    "what": "what",
    "user": "actor",
    "planned": "made_at",
    "began": "began_at",
    "reason": "reason",
    "url": "url",
}
_CVE = re.compile(r"CVE-", re.IGNORECASE)


def plan(chosen: argparse.Namespace) -> int:
    """Plan it; with --start, let it go at once."""
    client = remote.client_of(chosen)
    body: dict[str, Any] = {
        "what": "cve" if _CVE.match(chosen.name) else "package",
        "name": chosen.name,
        "scope": " ".join(chosen.on),
        "spread": "waves" if chosen.waves else "once",
        "soak_minutes": chosen.soak,
        "budget": chosen.budget,
        "reboot_option": "NoReboot" if chosen.no_reboot else "RebootIfNeeded",
        "without_replaceable": chosen.without_replaceable,
        "reason": chosen.reason,
    }
    if chosen.data is not None:
        body["data"] = chosen.data
    found = client.send("POST", "emergencies/", body)
    if chosen.start:
        hashes = {run["id"]: run["plan_hash"] for run in found["runs"]}
        found = client.send("POST", f"emergencies/{found['id']}/release/", {"plan_hashes": hashes})
    return _told(chosen, found)


def start(chosen: argparse.Namespace) -> int:
    """Let the plans of one's own emergency go."""
    client = remote.client_of(chosen)
    found = client.get(f"emergencies/{chosen.id}/")
    hashes = {run["id"]: run["plan_hash"] for run in found["runs"] if run["state"] == "draft"}
    return _told(chosen, client.send("POST", f"emergencies/{chosen.id}/release/", {"plan_hashes": hashes}))


def show(chosen: argparse.Namespace) -> int:
    """How far it has come."""
    return _told(chosen, remote.client_of(chosen).get(f"emergencies/{chosen.id}/"))


def listed(chosen: argparse.Namespace) -> int:
    """Emergencies, the newest first."""
    return remote.list_rows(chosen, "emergencies/", {}, COLUMNS)


def _told(chosen: argparse.Namespace, found: dict[str, Any]) -> int:
    if chosen.json:
        json.dump(found, sys.stdout, indent=2, ensure_ascii=False)
        print()
        return DONE
    state = "started" if found["began_at"] else "planned, nothing has been sent"
    print(f"{tables.safe(found['name'])}: {state}. {found['fixed']} of {found['affected']} affected nodes are fixed.")
    fixes = {each["key"]: each for each in found["fixes"]}
    for run in found["runs"]:
        fix = fixes.get(run["fix"], {})
        patches = ", ".join(each["title"] or each["id"] for each in fix.get("entries", ()))
        print(f"  {tables.safe(run['name'])}: {run['state']}, {run['targets']} nodes: {tables.safe(patches)}")
        if run["state"] == "draft":
            print(f"    goes first: {tables.safe(fix.get('canary_name', ''))}, since {tables.safe(fix.get('why', ''))}")
    for each in found["left"] if found["began_at"] else ():
        print(f"  not fixed: {tables.safe(each['name'])}: {tables.safe(each['why'])}")
    if not found["began_at"]:
        print(f"To start it: fleetops patch start {found['id']}")
    print(tables.safe(found["url"]))
    return DONE


def add_arguments(group: Any, verb: Any, list_verb: Any) -> None:
    """The verbs, below `fleetops patch`."""
    made = verb(group, "emergency", plan, "plan to mend one CVE or package everywhere: a canary, then all")
    made.add_argument("name", metavar="CVE", help="CVE-2026-12345; or a package, as openssl or KB5041585")
    made.add_argument("--on", nargs="+", default=[], metavar="EXPRESSION", help="only on these: env=prod")
    made.add_argument("--waves", action="store_true", help="after the canary 10, 30 and 60 %%, else all at once")
    made.add_argument("--soak", type=int, default=5, metavar="MINUTES", help="of the canary (%(default)s)")
    made.add_argument("--budget", default="10%", metavar="LIMIT", help="failures that each run bears: 3, or 10%%")
    made.add_argument("--no-reboot", action="store_true", help="restart nothing")
    made.add_argument("--data", default=None, metavar="EXPRESSION", help="nodes that hold data; else the setting's")
    made.add_argument("--without-replaceable", action="store_true", help="leave out members of Auto Scaling groups")
    made.add_argument("--reason", default="", help="for the audit log")
    made.add_argument("--start", action="store_true", help="start it at once, without a look at the plan")
    made.add_argument("--json", action="store_true", help="for programs")
    for name, do, about in (
        ("start", start, "start an emergency that you planned"),
        ("show", show, "how far an emergency has come, and what is left"),
    ):
        one = verb(group, name, do, about)
        one.add_argument("id", metavar="ID", help="as `fleetops patch list` shows it")
        one.add_argument("--json", action="store_true", help="for programs")
    list_verb(group, "list", listed, COLUMNS, "id,name,user,planned,began")
