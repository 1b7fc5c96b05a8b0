"""Patch compliance over the API: who complies, one instance, one CVE, files; now or at any moment."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fleetops.cli import remote, tables
from fleetops.cli.client import Client
from fleetops.cli.errors import DONE, Refused

STATES = ("bad", "good", "never", "old", "reboot", "overdue")
WORDS = {"compliant": "compliant", "not_compliant": "not compliant", "never_scanned": "never scanned"}
MOST_COMPLETIONS = 50
MOST_SHOWN = 100  # patches of one instance without --json
INSTANCE_COLUMNS: dict[str, str] = {
    "name": "name",
    "instance-id": "instance_id",
    "state": "standing",
    "missing": "missing",
    "failed": "failed",
    "restart": "pending_reboot",
    "rejected": "rejected",
    "critical": "critical",
    "reported": "ended_at",
    "operation": "operation",
    "group": "patch_group",
    "baseline": "baseline_id",
    "snapshot": "snapshot_id",
    "platform": "platform",
    "account": "account_name",
    "account-id": "account_id",
    "region": "region",
    "id": "id",
}
CVE_COLUMNS: dict[str, str] = {
    "cve": "cve",
    "severity": "severity",
    "instances": "instances",
    "patches": "patches",
    "since": "since",
    "due": "due_at",
}
LACKING_COLUMNS: dict[str, str] = {
    "name": "name",
    "instance-id": "instance_id",
    "patch": "title",
    "state": "state",
    "severity": "severity",
    "since": "from_at",
    "due": "due_at",
    "account": "account_name",
    "region": "region",
}


def listed(chosen: argparse.Namespace) -> int:
    """Instances and their last reports."""
    return remote.list_rows(chosen, "compliance/instances/", _asked(chosen), INSTANCE_COLUMNS, _row)


def show(chosen: argparse.Namespace) -> int:
    """One instance: its report, and what keeps it from complying."""
    client = remote.client_of(chosen)
    pk = remote.instance_pk(client, chosen.name)
    at = {"at": chosen.at} if chosen.at else {}
    found = client.get(f"compliance/instances/{pk}/", at)
    found["patches"] = _patches(client, pk, at, whole=chosen.json)
    if chosen.json:
        return remote.print_json(found)
    report = found["report"]
    print(f"{tables.safe(found['name'] or found['instance_id'])}: {WORDS[found['standing']]}")
    if report is None:
        print("It has never told of its patches. Unknown is not compliant: scan it.")
        return DONE
    print(
        f"  by the {report['operation']} of {remote.shown(report['ended_at'])}, baseline {report['baseline_id'] or '?'}"
        f"{', more than 7 days old' if found['is_old'] else ''}"
    )
    counts = ("missing", "failed", "pending_reboot", "rejected", "installed")
    print("  " + ", ".join(f"{report[name]} {name.replace('_', ' ')}" for name in counts))
    rows = [
        (each["kb_id"], each["title"], each["state"], each["severity"], _due(each), each["cves"])
        for each in found["patches"]
    ]
    if rows:
        tables.show(["PATCH", "TITLE", "STATE", "SEVERITY", "DUE", "CVES"], rows)
    return DONE


def cve(chosen: argparse.Namespace) -> int:
    """All open CVEs; or of one who lacks a patch of it, or has it."""
    query = _asked(chosen)
    if not chosen.name:
        if chosen.find:
            query["find"] = chosen.find
        chosen.columns = chosen.columns or "cve,severity,instances,patches,due"
        return remote.list_rows(chosen, "compliance/cves/", query, CVE_COLUMNS, _cve_row)
    client = remote.client_of(chosen)
    if not chosen.json:
        found = client.get(f"compliance/cves/{chosen.name}/", query)
        if not found["is_known"]:
            raise Refused(f"No instance has ever told of {found['cve']}.")
        print(f"{found['cve']}: {found['lacking']} lack a patch of it, {found['mended']} have it", file=sys.stderr)
    chosen.columns = chosen.columns or "name,patch,state,severity,since,due"
    query["which"] = "mended" if chosen.mended else "lacking"
    return remote.list_rows(chosen, f"compliance/cves/{chosen.name}/instances/", query, LACKING_COLUMNS, _lacking_row)


def export(chosen: argparse.Namespace) -> int:
    """All rows as CSV or JSON, into a file or to standard output."""
    blocks = remote.client_of(chosen).blocks(f"compliance/export/{chosen.what}.{chosen.format}", _asked(chosen))
    if not chosen.output:
        for block in blocks:
            sys.stdout.buffer.write(block)
        sys.stdout.buffer.flush()
        return DONE
    part = Path(f"{chosen.output}.part")
    try:
        with part.open("wb") as out:
            for block in blocks:
                out.write(block)
        os.replace(part, chosen.output)  # whole, or not at all
    except OSError as error:
        raise Refused(f"{chosen.output} cannot be written: {error.strerror}.") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return DONE


def _asked(chosen: argparse.Namespace) -> dict[str, str]:
    given = {
        "q": " ".join(getattr(chosen, "expression", None) or []) or getattr(chosen, "q", ""),
        "state": getattr(chosen, "state", ""),
        "at": chosen.at,
    }
    return {name: value for name, value in given.items() if value}


def _patches(client: Client, pk: str, at: dict[str, str], *, whole: bool) -> list[dict[str, Any]]:
    """Those that keep it from complying; with `whole` all that its baseline judges."""
    rows: list[dict[str, Any]] = []
    for page, _ in client.pages(f"compliance/instances/{pk}/patches/", {**at, "page_size": "500"}):
        rows += page if whole else [each for each in page if each["state"] != "INSTALLED"]
        if not whole and len(rows) >= MOST_SHOWN:
            print(f"The first {MOST_SHOWN} patches are shown; --json has all.", file=sys.stderr)
            return rows[:MOST_SHOWN]
    return rows


def _row(each: dict[str, Any]) -> dict[str, Any]:
    report = each["report"] or {}
    return {**report, **each, "standing": WORDS[each["standing"]]}


def _cve_row(each: dict[str, Any]) -> dict[str, Any]:
    return {**each, "due_at": _due(each)}


def _lacking_row(each: dict[str, Any]) -> dict[str, Any]:
    return {**each, **each["instance"], "due_at": _due(each)}


def _due(each: dict[str, Any]) -> str:
    clock = each["deadline"]
    return f"{remote.shown(clock['due_at'])}{' (past)' if clock['is_past'] else ''}" if clock else ""


def complete_cve(typed: str) -> list[str]:
    """CVEs that instances lack a patch of and that begin so, asked of the server; nothing where that fails."""
    client = remote.completing_client()
    if client is None:
        return []
    rows = client.get("compliance/cves/", {"find": typed, "page_size": str(MOST_COMPLETIONS)})["results"]
    return [each["cve"] for each in rows]


def add_arguments(group: Any, verb: Callable[..., Any], list_verb: Callable[..., Any]) -> None:
    """The verbs, below `fleetops compliance`."""
    usual = "name,state,missing,failed,restart,reported,account,region"
    listing = list_verb(group, "list", listed, INSTANCE_COLUMNS, usual)
    listing.add_argument("expression", nargs="*", metavar="EXPRESSION", help="which, as in: env=prod")
    listing.add_argument("--state", choices=STATES, default="", help="bad: not compliant; never: never scanned; …")
    _at(listing)
    one = verb(group, "show", show, "one instance, and what keeps it from complying")
    one.add_argument("name", metavar="NAME", help="its name, or AWS's id").completer = remote.complete_instance
    one.add_argument("--json", action="store_true", help="for programs")
    _at(one)
    holes = list_verb(group, "cve", cve, CVE_COLUMNS | LACKING_COLUMNS, "")
    holes.description = "open CVEs; of one, who lacks a patch of it"
    holes.add_argument("name", nargs="?", default="", metavar="CVE", help="CVE-2026-12345").completer = complete_cve
    holes.add_argument("--find", default="", help="words in CVE, package and title")
    holes.add_argument("--mended", action="store_true", help="of one CVE: who has its patch instead")
    _which(holes)
    _at(holes)
    file = verb(group, "export", export, "all rows as a file")
    file.add_argument("what", choices=["instances", "patches"])
    file.add_argument("--format", choices=["csv", "json"], default="csv")
    file.add_argument("--output", default="", metavar="FILE", help="else standard output")
    file.add_argument("--state", choices=STATES, default="")
    _which(file)
    _at(file)


def _which(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-q", default="", metavar="EXPRESSION", help="of which instances, as in: -q env=prod")


def _at(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--at", default="", metavar="MOMENT", help="as it was reported by then: 2026-11-01T00:00, UTC")
