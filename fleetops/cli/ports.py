"""Port 22 over the API: security groups that open SSH or RDP on instances, closed and opened again."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from fleetops.cli import remote, tables
from fleetops.cli.errors import DONE, WrongUsage

CLOSINGS: dict[str, str] = {
    "id": "id",
    "group": "group_name",
    "sg": "group_id",
    "account": "account",
    "region": "region",
    "state": "state",
    "user": "asked_by_name",
    "asked": "asked_at",
    "words": "words",
    "reason": "reason",
}


def listed(chosen: argparse.Namespace) -> int:
    """Groups that open SSH or RDP, the worst first."""
    found = remote.client_of(chosen).get("exposure/groups/")
    if chosen.json:
        json.dump(found, sys.stdout, indent=2, ensure_ascii=False)
        print()
        return DONE
    for group in found:
        _tell(group)
    if not found:
        print("Nothing lets SSH or RDP in, as it was last read.")
    return DONE


def close(chosen: argparse.Namespace) -> int:
    """Show what would be lost; with --yes, close it."""
    client = remote.client_of(chosen)
    known = {group["group_id"]: group for group in client.get("exposure/groups/")}
    if unknown := [name for name in chosen.groups if name not in known]:
        raise WrongUsage(f"No such group opens SSH or RDP: {', '.join(unknown)}")
    groups = [known[name] for name in dict.fromkeys(chosen.groups)]
    for group in groups:
        _tell(group)
    if not chosen.yes:
        print("Nothing was changed. To close these: the same with --yes.")
        return DONE
    body = {"groups": [group["id"] for group in groups], "reason": chosen.reason}
    for closing in client.send("POST", "exposure/closings/", body):
        print(
            f"Being closed: {tables.safe(closing['group_name'])}. To open it again: fleetops port open {closing['id']}"
        )
    return DONE


def reopen(chosen: argparse.Namespace) -> int:
    """Put the rules of a closing there again."""
    found = remote.client_of(chosen).send("POST", f"exposure/closings/{chosen.id}/reopen/", {})
    print(f"Being opened again: {tables.safe(found['group_name'])}.")
    return DONE


def closed(chosen: argparse.Namespace) -> int:
    """What was closed, the newest first."""
    return remote.list_rows(chosen, "exposure/closings/", {}, CLOSINGS)


def _tell(group: dict[str, Any]) -> None:
    names = ", ".join(group["instances"][:5]) + (" …" if len(group["instances"]) > 5 else "")
    where = f"{group['account']} {group['region']}"
    print(f"{group['group_id']} {tables.safe(group['name'])} ({where}) on {len(group['instances'])}: {names}")
    for rule in group["rules"]:
        about = f" “{tables.safe(rule['description'])}”" if rule["description"] else ""
        print(f"  {rule['opens']} to {tables.safe(rule['to'])} ({rule['grade'].lower()}){about}")
    for words in group["warnings"]:
        print(f"  ! {tables.safe(words)}")


def add_arguments(group: Any, verb: Any, list_verb: Any) -> None:
    """The verbs, below `fleetops port`."""
    one = verb(group, "list", listed, "security groups that open SSH or RDP on instances")
    one.add_argument("--json", action="store_true", help="for programs")
    one = verb(group, "close", close, "what closing them would take away; with --yes, close them")
    one.add_argument("groups", nargs="+", metavar="GROUP", help="sg-…")
    one.add_argument("--yes", action="store_true", help="close them")
    one.add_argument("--reason", default="", help="for the audit log")
    one = verb(group, "open", reopen, "open again what was closed, as it was")
    one.add_argument("id", metavar="ID", help="as `fleetops port closed` shows it")
    list_verb(group, "closed", closed, CLOSINGS, "id,group,account,region,state,user,asked,words")
