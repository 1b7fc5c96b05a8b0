"""IAM roles over the API: who has which, leases and their ends, rules, what was changed outside, the standard role."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from fleetops.cli import remote, tables
from fleetops.cli.errors import DONE, Refused, WrongUsage

COLUMNS: dict[str, str] = {
    "id": "id",
    "instance": "instance_name",
    "instance-id": "instance_id",
    "account": "account_id",
    "region": "region",
    "what": "what",
    "state": "state",
    "user": "asked_by",
    "rule": "rule",
    "ends": "ends_at",
    "asked": "asked_at",
    "reason": "reason",
    "says": "words",
    "url": "url",
}
RULE_COLUMNS: dict[str, str] = {
    "id": "id",
    "name": "name",
    "targets": "targets",
    "mode": "mode",
    "role": "profile_name",
    "longest": "most_minutes",
    "approvals": "approvals",
    "enabled": "is_enabled",
}
FINDING_COLUMNS: dict[str, str] = {
    "id": "id",
    "instance": "instance_name",
    "expected": "expected",
    "found": "found",
    "by": "by",
    "at": "found_at",
    "rule": "rule",
    "state": "state",
}
CHANGE_COLUMNS: dict[str, str] = {
    "at": "at",
    "instance": "instance_name",
    "instance-id": "instance_id",
    "account": "account_id",
    "region": "region",
    "before": "before",
    "after": "after",
    "ours": "is_ours",
    "by": "by",
    "id": "id",
}
STANDARD_COLUMNS = ("ACCOUNT", "NAME", "STANDS", "DIFFERS", "LAST")


def listed(chosen: argparse.Namespace) -> int:
    """What was asked for and is open; with --past, all that ever was."""
    query = _expression(chosen)
    if not chosen.past:
        query["open"] = "true"
    if chosen.leases:
        query["lease"] = "true"
    return remote.list_rows(chosen, "roles/attachments/", query, COLUMNS)


def history(chosen: argparse.Namespace) -> int:
    """Each change of what instances have."""
    return remote.list_rows(chosen, "roles/history/", _expression(chosen), CHANGE_COLUMNS)


def _expression(chosen: argparse.Namespace) -> dict[str, str]:
    return {"q": " ".join(chosen.expression)} if chosen.expression else {}


def rules(chosen: argparse.Namespace) -> int:
    """Which instances may, or must, have which role."""
    return remote.list_rows(chosen, "roles/rules/", {}, RULE_COLUMNS)


def findings(chosen: argparse.Namespace) -> int:
    """What was changed outside FleetOps and is open."""
    return remote.list_rows(chosen, "roles/findings/", {}, FINDING_COLUMNS)


def decide(chosen: argparse.Namespace) -> int:
    """Put back, or accept, what was changed outside."""
    found = remote.client_of(chosen).send("POST", f"roles/findings/{chosen.id}/{chosen.deed}/", {})
    if chosen.json:
        return _json(found)
    what = found["expected"] if chosen.deed == "put-back" else found["found"]
    print(f"{tables.safe(found['instance_name'])}: {tables.safe(what or 'no role')} is what it should have.")
    return DONE


def attach(chosen: argparse.Namespace) -> int:
    """A role, for good."""
    return _ask(chosen, {"profile_name": chosen.role, "minutes": None})


def detach(chosen: argparse.Namespace) -> int:
    """No role, for good."""
    return _ask(chosen, {"minutes": None})


def lease(chosen: argparse.Namespace) -> int:
    """A role, or a privilege on the role that is there, for a while."""
    if bool(chosen.role) == bool(chosen.policy):
        raise WrongUsage("Name a role, or a file with a policy by --policy; one of the two.")
    if not chosen.policy:
        return _ask(chosen, {"profile_name": chosen.role, "minutes": chosen.minutes})
    try:
        text = sys.stdin.read() if chosen.policy == "-" else Path(chosen.policy).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{chosen.policy} cannot be read: {error}.") from None
    return _ask(chosen, {"policy": text, "policy_name": chosen.called, "minutes": chosen.minutes})


def _ask(chosen: argparse.Namespace, wanted: dict[str, Any]) -> int:
    client = remote.client_of(chosen)
    is_detachment = not wanted.get("profile_name") and not wanted.get("policy")
    accepted = is_detachment and chosen.cut_off
    body = {
        **wanted,
        "instance": remote.instance_pk(client, chosen.name),
        "reason": chosen.reason,
        "cut_off_accepted": accepted,
    }
    if chosen.look:
        return _look(chosen, body, client.send("POST", "roles/attachments/look/", body))
    if is_detachment and not accepted:
        cut_off = client.send("POST", "roles/attachments/look/", body)["cut_off"]
        if cut_off:
            raise Refused(f"{tables.safe(cut_off)}\nIf that is meant: --cut-off")
    return _told(chosen, client.send("POST", "roles/attachments/", body))


def _look(chosen: argparse.Namespace, body: dict[str, Any], found: dict[str, Any]) -> int:
    """What asking would come to."""
    if chosen.json:
        return _json(found)
    if found["rule"]:
        print(f"Rule “{tables.safe(found['rule'])}” allows it.")
    if count := found["approvals"]:
        who = tables.safe(" or ".join(found["approvers"]))
        print(f"It waits for {count} approval{'s' if count > 1 else ''} of {who}.")
    else:
        print("It begins at once.")
    if body["minutes"] is not None and "policy" not in body:
        print(f"At its end {tables.safe(found['before']) or 'no role'} is put back.")
    if found["cut_off"]:
        print(tables.safe(found["cut_off"]))
    return DONE


def standard(chosen: argparse.Namespace) -> int:
    """How the standard role stands in each account; with --make, have it made."""
    client = remote.client_of(chosen)
    if chosen.accounts and not chosen.make:
        raise WrongUsage("Accounts are named to have the role made in them: --make.")
    if chosen.make:
        found = client.send("POST", "roles/standard/", {"accounts": chosen.accounts} if chosen.accounts else {})
    else:
        found = client.get("roles/standard/")
    if chosen.json:
        return _json(found)
    if found:
        tables.show(STANDARD_COLUMNS, map(_standing, found))
    else:
        print("It is there in every account." if chosen.make else "There is no account.", file=sys.stderr)
    return DONE


def _standing(row: dict[str, Any]) -> list[str]:
    making = row["making"] or {}
    last = " ".join(part for part in (making.get("state", ""), making.get("words", "")) if part)
    return [row["account_id"], row["account_name"], row["word"], " ".join(d["words"] for d in row["differences"]), last]


def extend(chosen: argparse.Namespace) -> int:
    """A later end."""
    body = {"minutes": chosen.minutes}
    return _told(chosen, remote.client_of(chosen).send("POST", f"roles/attachments/{chosen.id}/extend/", body))


def end(chosen: argparse.Namespace) -> int:
    """The end before its time; what was there before is put back."""
    body = {"reason": chosen.reason}
    return _told(chosen, remote.client_of(chosen).send("POST", f"roles/attachments/{chosen.id}/end/", body))


def show(chosen: argparse.Namespace) -> int:
    """One attachment, and what became of it."""
    return _told(chosen, remote.client_of(chosen).get(f"roles/attachments/{chosen.id}/"))


def _told(chosen: argparse.Namespace, found: dict[str, Any]) -> int:
    if chosen.json:
        return _json(found)
    until = ""
    if found["minutes"] is not None:
        until = (
            f", until {found['ends_at']}" if found["ends_at"] else f", for {found['minutes']} min once it is approved"
        )
    what, name, words = (tables.safe(found[key]) for key in ("what", "instance_name", "words"))
    print(f"{what} on {name}: {found['state']}{until}.{' ' + words if words else ''}")
    print(found["id"])
    print(tables.safe(found["url"]))
    return DONE


def _json(value: Any) -> int:
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    print()
    return DONE


def add_arguments(group: Any, verb: Any, list_verb: Any) -> None:
    """The verbs, below `fleetops role`."""
    listing = list_verb(group, "list", listed, COLUMNS, "id,instance,what,state,user,ends")
    listing.add_argument("expression", nargs="*", metavar="EXPRESSION", help="on which instances: words, or env=prod")
    listing.add_argument("--leases", action="store_true", help="only those with an end")
    listing.add_argument("--past", action="store_true", help="also what is over")
    list_verb(group, "rules", rules, RULE_COLUMNS, "name,targets,mode,role,longest,approvals,enabled")
    list_verb(group, "findings", findings, FINDING_COLUMNS, "id,instance,expected,found,by,at")
    changes = list_verb(group, "history", history, CHANGE_COLUMNS, "at,instance,before,after,by")
    changes.add_argument("expression", nargs="*", metavar="EXPRESSION", help="on which instances: words, or env=prod")
    made = verb(group, "standard", standard, "how the standard role stands in each account, or make it there")
    made.add_argument("--make", action="store_true", help="in the accounts named, or wherever it is not there")
    made.add_argument("accounts", metavar="ACCOUNT", nargs="*", help="AWS's number")
    made.add_argument("--json", action="store_true", help="for programs")
    for name, do, about in (
        ("attach", attach, "give an instance a role for good"),
        ("lease", lease, "give an instance a role, or a privilege, for a while"),
        ("detach", detach, "take an instance's role away for good"),
    ):
        made = verb(group, name, do, about)
        instance = made.add_argument("name", metavar="NAME", help="the instance's name, or AWS's id")
        instance.completer = remote.complete_instance
        if name == "attach":
            made.add_argument("role", metavar="ROLE", help="an instance profile of its account")
        if name == "lease":
            made.add_argument("role", metavar="ROLE", nargs="?", default="", help="an instance profile of its account")
            made.add_argument(
                "--policy", default="", metavar="FILE", help="a policy on the role that it keeps; - reads it"
            )
            made.add_argument("--called", default="", metavar="WORDS", help="what the policy is called")
            made.add_argument("--minutes", type=int, default=60, help="until its end (%(default)s)")
        if name == "detach":
            made.add_argument("--cut-off", action="store_true", help="though its agent goes offline by it")
        made.add_argument("--reason", default="", help="for the audit log, and for who approves it")
        made.add_argument("--look", action="store_true", help="only say what it would come to")
        made.add_argument("--json", action="store_true", help="for programs")
    for name, do, about in (
        ("show", show, "one attachment, and what became of it"),
        ("extend", extend, "have a lease end later"),
        ("end", end, "end a lease now, or take a request back"),
    ):
        one = verb(group, name, do, about)
        one.add_argument("id", metavar="ID", help="as `fleetops role list` shows it")
        if name == "extend":
            one.add_argument("--minutes", type=int, required=True, help="from now on")
        if name == "end":
            one.add_argument("--reason", default="", help="for the audit log")
        one.add_argument("--json", action="store_true", help="for programs")
    for name, about in (("put-back", "have put back what was changed outside"), ("accept", "accept it")):
        one = verb(group, name, decide, about)
        one.add_argument("id", metavar="ID", help="as `fleetops role findings` shows it")
        one.add_argument("--json", action="store_true", help="for programs")
        one.set_defaults(deed=name)
