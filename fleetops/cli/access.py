"""Access for a while, over the API: ask for it, answer what others ask, take it away."""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any

from fleetops.cli import remote, tables
from fleetops.cli.errors import DONE, WrongUsage

SHOWS = ("waiting", "mine", "open", "all")
GRANT_COLUMNS: dict[str, str] = {
    "id": "id",
    "user": "user",
    "state": "state",
    "kind": "kind",
    "instances": "instances",
    "as": "run_as",
    "to": "destination",
    "minutes": "minutes",
    "ends": "ends_at",
    "reason": "reason",
    "url": "url",
}
_TO = re.compile(r"(?:(?P<host>[^\s:]+|\[[0-9A-Fa-f:.]+\]):)?(?P<port>[0-9]{1,5})")


def request(chosen: argparse.Namespace) -> int:
    """Ask others for access to an instance."""
    client = remote.client_of(chosen)
    body: dict[str, Any] = {"minutes": chosen.minutes, "reason": chosen.reason}
    if chosen.where:
        body["expression"] = chosen.name
    else:
        body["instance"] = remote.instance_pk(client, chosen.name)
    if chosen.run_as:
        body["run_as"] = chosen.run_as
    if chosen.forward:
        found = _TO.fullmatch(chosen.forward)
        if found is None:
            raise WrongUsage("--forward takes PORT or HOST:PORT.")
        body |= {"kind": "forward", "port": int(found["port"]), "host": found["host"] or ""}
    made = client.send("POST", "grants/", body)
    print(f"Asked. {made['quorum']} approval{'' if made['quorum'] == 1 else 's'} needed: {tables.safe(made['url'])}")
    print(made["id"])
    return DONE


def show(chosen: argparse.Namespace) -> int:
    """Requests and grants."""
    query = {"show": chosen.show} if chosen.show else {}
    return remote.list_rows(chosen, "grants/", query, GRANT_COLUMNS, _row)


def _row(grant: dict[str, Any]) -> dict[str, Any]:
    names = [target["instance_name"] for target in grant["targets"]]
    return grant | {"instances": names[0] if len(names) == 1 else f"{len(names)} instances"}


def answer(chosen: argparse.Namespace) -> int:
    """Approve or deny what somebody asks for."""
    body = {"answer": chosen.answer, "reason": chosen.reason}
    found = remote.client_of(chosen).send("POST", f"grants/{chosen.id}/vote/", body)
    return _told(found)


def revoke(chosen: argparse.Namespace) -> int:
    """End a grant now."""
    found = remote.client_of(chosen).send("POST", f"grants/{chosen.id}/revoke/", {"reason": chosen.reason})
    return _told(found)


def _told(grant: dict[str, Any]) -> int:
    until = f" until {tables.safe(grant['ends_at'])}" if grant["is_open"] else ""
    print(f"{tables.safe(grant['user'])}: {grant['state']}{until}", file=sys.stdout)
    return DONE


def add_arguments(group: Any, verb: Any, list_verb: Any) -> None:
    """The verbs, below `fleetops access`."""
    asking = verb(group, "request", request, "ask others for a shell, or a forwarded port, for a while")
    name = asking.add_argument("name", metavar="NAME", help="an instance's name, or AWS's id")
    name.completer = remote.complete_instance
    asking.add_argument("--where", action="store_true", help="NAME is an expression: those that it selects now")
    asking.add_argument("--minutes", type=int, default=60, help="how long (%(default)s)")
    asking.add_argument("--reason", required=True, help="why; who approves reads it")
    asking.add_argument("--run-as", default="", metavar="USER", help="as that user of the operating system")
    asking.add_argument("--forward", default="", metavar="[HOST:]PORT", help="a port there, and no shell")
    listing = list_verb(group, "list", show, GRANT_COLUMNS, "id,user,state,kind,instances,minutes,ends,reason")
    listing.add_argument("--show", choices=SHOWS, default="", help="waiting for your answer, yours, open now")
    for word in ("approve", "deny"):
        voting = verb(group, word, answer, f"{word} what somebody asks for")
        voting.add_argument("id", metavar="ID")
        voting.add_argument("--reason", default="", help="needed to deny" if word == "deny" else "if you like")
        voting.set_defaults(answer=word)
    ending = verb(group, "revoke", revoke, "end a grant now: its terminals close; or give up your own")
    ending.add_argument("id", metavar="ID")
    ending.add_argument("--reason", default="", help="needed for another's; shown in the terminal that closes")
