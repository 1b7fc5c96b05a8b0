"""The verbs that ask a FleetOps over its API, as whoever is logged in."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import os
import re
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

from fleetops.cli import installation, profiles, tables
from fleetops.cli.client import Client, NeedsCode, base_url
from fleetops.cli.errors import DONE, NotLoggedIn, Refused, WrongUsage
from fleetops.cli.profiles import Profile
from fleetops.errors import UserError

FIRST_PAGE = 100  # rows without --all
COMPLETION_SECONDS = 2
MOST_COMPLETIONS = 50
# Column → where an instance has it.
INSTANCE_COLUMNS: dict[str, str] = {
    "name": "name",
    "id": "instance_id",
    "status": "status",
    "platform": "platform",
    "account": "account_name",
    "account-id": "account_id",
    "region": "region",
    "zone": "zone",
    "type": "instance_type",
    "ip": "private_ip",
    "agent": "agent_version",
    "profile": "profile",
    "tags": "tags",
    "seen": "last_ping_at",
    "url": "url",
}
SESSION_COLUMNS: dict[str, str] = {
    "id": "id",
    "user": "user",
    "instance": "instance_name",
    "instance-id": "instance_id",
    "account": "account_id",
    "region": "region",
    "state": "state",
    "started": "started_at",
    "ended": "ended_at",
    "reason": "reason",
    "url": "url",
}
EVENT_COLUMNS: dict[str, str] = {
    "at": "at",
    "who": "actor_name",
    "action": "action",
    "target": "target_name",
    "outcome": "outcome",
    "reason": "reason",
    "address": "source_address",
    "source": "source",
    "id": "id",
    "session": "session_id",
    "request": "request_id",
}
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?(?:Z|\+00:00)")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


# --- Where, and as whom ----------------------------------------------------------------------------------------------


def add_where(parser: argparse.ArgumentParser) -> None:
    """The options that every verb takes which asks a server."""
    names = parser.add_argument("--profile", default=os.environ.get("FLEETOPS_CLI_PROFILE") or profiles.DEFAULT)
    names.help = "which log-in, where there are several; else FLEETOPS_CLI_PROFILE, else “default”"
    names.completer = lambda typed: list(profiles.read())  # type: ignore[attr-defined]
    parser.add_argument("--url", default="", help="the server; else FLEETOPS_URL, else the profile's")
    parser.add_argument(
        "--ca-file", default="", help="CA certificates to trust; else FLEETOPS_CA_FILE, else the system's"
    )


def _profile(chosen: argparse.Namespace) -> Profile:
    """The log-in to use: what the line says, then the environment, then the profile."""
    kept = profiles.read().get(chosen.profile, Profile(url=""))
    url = chosen.url or os.environ.get("FLEETOPS_URL", "") or kept.url or _local_url()
    token = os.environ.get("FLEETOPS_TOKEN", "").strip()
    if not token and kept.token and url and kept.url and base_url(url) == base_url(kept.url):
        token = kept.token  # a token is for the server that gave it, and goes nowhere else
    ca_file = chosen.ca_file or os.environ.get("FLEETOPS_CA_FILE", "") or kept.ca_file
    return Profile(url=url, token=token, username=kept.username, expires_at=kept.expires_at, ca_file=ca_file)


def _local_url() -> str:
    """The FleetOps that runs on this machine, if one does."""
    with contextlib.suppress(UserError):
        if installation.is_running():
            port = installation.supervisor_status().get("ports", {}).get("web")
            return f"http://127.0.0.1:{port}" if port else ""
    return ""


def client_of(chosen: argparse.Namespace) -> Client:
    profile = _profile(chosen)
    if not profile.url or not profile.token:
        where = f" --profile {chosen.profile}" if chosen.profile != profiles.DEFAULT else ""
        raise NotLoggedIn(
            f"You are not logged in{f' to {profile.url}' if profile.url else ''}. Run: fleetops login{where}"
            f"{'' if profile.url else ' --url https://fleetops.example.com'}, or set FLEETOPS_URL and FLEETOPS_TOKEN."
        )
    return Client(profile.url, profile.token, ca_file=profile.ca_file)


# --- Log-in ----------------------------------------------------------------------------------------------------------


def login(chosen: argparse.Namespace) -> int:
    profile = _profile(chosen)
    if not profile.url:
        raise WrongUsage("Say where FleetOps is: fleetops login --url https://fleetops.example.com")
    url = base_url(profile.url)
    ca_file = os.path.abspath(profile.ca_file) if profile.ca_file else ""
    if chosen.token_stdin:
        token = sys.stdin.readline().strip()
        if not token:
            raise WrongUsage("There was no token on standard input.")
    else:
        token = _ask_for_token(Client(url, ca_file=ca_file), chosen)
    who = Client(url, token, ca_file=ca_file).get("users/me/")
    made = who["token"]
    kept = Profile(url=url, token=token, username=who["username"], expires_at=made["expires_at"], ca_file=ca_file)
    profiles.keep(chosen.profile, kept)
    print(f"Logged in to {url} as {tables.safe(who['username'])} until {shown(made['expires_at'])} UTC.")
    print(f"The token may: {tables.safe(', '.join(made['scopes']))}. It is kept in {profiles.path()}.")
    return DONE


def _ask_for_token(anonymous: Client, chosen: argparse.Namespace) -> str:
    if not chosen.password_stdin and not sys.stdin.isatty():
        raise WrongUsage("There is no terminal to ask for a password; use --token-stdin, or --password-stdin.")
    username = chosen.username or _answer(f"Username on {anonymous.url}: ")
    if chosen.password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = getpass.getpass(f"Password of {username}: ")
    asked: dict[str, Any] = {
        "username": username,
        "password": password,
        "name": chosen.name or f"fleetops on {socket.gethostname()}"[:64],
        "days": chosen.days,
    }
    if chosen.scopes:
        asked["scopes"] = [each for each in chosen.scopes.split(",") if each]
    if chosen.code:
        asked["code"] = chosen.code
    try:
        return str(anonymous.post("login/", asked)["token"])
    except NeedsCode:
        if chosen.code or not sys.stdin.isatty():
            raise
    asked["code"] = _answer("Code of your authenticator app, or a recovery code: ")
    return str(anonymous.post("login/", asked)["token"])


def _answer(question: str) -> str:
    try:
        return input(question).strip()
    except EOFError:
        raise WrongUsage("Nothing was entered.") from None


def logout(chosen: argparse.Namespace) -> int:
    """Revoke the profile's token and forget it."""
    kept = profiles.read().get(chosen.profile)
    if kept is None or not kept.token:
        raise NotLoggedIn(f"The profile “{chosen.profile}” is not logged in; there is nothing to revoke.")
    try:
        Client(kept.url, kept.token, ca_file=chosen.ca_file or kept.ca_file).delete("tokens/current/")
    except NotLoggedIn:
        profiles.forget(chosen.profile)  # it had ended already
        print(f"The token of {kept.url} held no longer; it is forgotten.")
        return DONE
    profiles.forget(chosen.profile)
    print(f"Logged out of {kept.url}: the token is revoked and forgotten.")
    return DONE


def whoami(chosen: argparse.Namespace) -> int:
    client = client_of(chosen)
    who = client.get("users/me/")
    if chosen.json:
        return print_json(who)
    token = who["token"]
    facts = [
        ("Server", client.url),
        ("User", who["username"] + (f" ({who['display_name']})" if who["display_name"] != who["username"] else "")),
        ("Roles", who["roles"] or "none"),
        ("Second factor", "set up" if who["has_second_factor"] else "none"),
        ("Token", f"{token['name']} ({token['prefix']}…)"),
        ("Scopes", token["scopes"]),
        ("Ends", f"{shown(token['expires_at'])} UTC"),
    ]
    _print_facts(facts)
    return DONE


# --- Lists -----------------------------------------------------------------------------------------------------------


def fleet_list(chosen: argparse.Namespace) -> int:
    query = {"q": " ".join(chosen.expression)} if chosen.expression else {}
    return list_rows(chosen, "instances/", query, INSTANCE_COLUMNS)


def session_list(chosen: argparse.Namespace) -> int:
    asked = {"state": chosen.state, "user": chosen.user}
    return list_rows(chosen, "sessions/", {key: value for key, value in asked.items() if value}, SESSION_COLUMNS)


def audit_list(chosen: argparse.Namespace) -> int:
    query = {"q": " ".join(chosen.filter)} if chosen.filter else {}
    return list_rows(chosen, "audit/events/", query, EVENT_COLUMNS)


def list_rows(
    chosen: argparse.Namespace,
    path: str,
    query: dict[str, str],
    columns: dict[str, str],
    shown: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> int:
    """Show what a path lists, as a table or as JSON; `shown` makes of a row what the table has."""
    names = _columns(chosen.columns, columns)
    rows: list[dict[str, Any]] = []
    has_more = False
    size = 500 if chosen.all else FIRST_PAGE
    for page, has_more in client_of(chosen).pages(path, {**query, "page_size": str(size)}):  # noqa: B007 (read below)
        rows += page
        if not chosen.all:
            break
    if chosen.json:
        print_json(rows)
    elif rows:
        tables.show(
            [name.upper() for name in names],
            [[_cell(row.get(columns[name])) for name in names] for row in map(shown, rows)],
        )
    else:
        print("Nothing matches." if query else "There is nothing.", file=sys.stderr)
    if has_more and not chosen.all:
        print(f"The first {len(rows)} are shown; --all shows the rest.", file=sys.stderr)
    return DONE


def _columns(text: str, known: dict[str, str]) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in known]:
        raise WrongUsage(f"There is no column {unknown[0]}; choose among {', '.join(known)}.")
    return names


def complete_columns(known: dict[str, str]) -> Callable[[str], list[str]]:
    def offer(typed: str) -> list[str]:
        before, comma, _ = typed.rpartition(",")
        return [f"{before}{comma}{name}" for name in known if name not in before.split(",")]

    return offer


# --- One thing -------------------------------------------------------------------------------------------------------


def fleet_show(chosen: argparse.Namespace) -> int:
    client = client_of(chosen)
    found = client.get(f"instances/{instance_pk(client, chosen.name)}/")
    if chosen.json:
        return print_json(found)
    ready = found["readiness"]
    facts: list[tuple[str, object]] = [
        ("Name", found["name"]),
        ("Status", ready["word"]),
        ("Why", " ".join(part for part in (ready["reason"], ready["mend"]) if part)),
    ]
    facts += [
        (name.capitalize(), found[key]) for name, key in INSTANCE_COLUMNS.items() if name not in {"name", "status"}
    ]
    _print_facts([(name, _cell(value)) for name, value in facts if value not in ("", None, {}, [])])
    return DONE


def instances_named(client: Client, name: str) -> list[dict[str, Any]]:
    """The instances of that name, AWS id, or id of ours; at most 20."""
    if _UUID.fullmatch(name):
        return [client.get(f"instances/{name}/")]
    quoted = '"' + re.sub(r'([\\"*])', r"\\\1", name) + '"'
    found: list[dict[str, Any]] = client.get("instances/", {"q": f"name={quoted} or id={quoted}", "page_size": "20"})[
        "results"
    ]
    return found


def instance_pk(client: Client, name: str) -> str:
    """Our id of the instance of that name, or AWS id. Raises Refused if there is none, or more than one."""
    if _UUID.fullmatch(name):
        return name
    rows = instances_named(client, name)
    if not rows:
        raise Refused(
            f"No instance that you may see is called {name}. `fleetops fleet list {name}` searches for parts."
        )
    if len(rows) > 1:
        ids = ", ".join(f"{row['instance_id']} ({row['account_name']}, {row['region']})" for row in rows)
        raise Refused(f"{len(rows)} instances are called {name}: {tables.safe(ids)}. Name one by its id.")
    return str(rows[0]["id"])


def completing_client() -> Client | None:
    """For completion, which must not wait; None where nobody is logged in."""
    where = argparse.Namespace(profile=os.environ.get("FLEETOPS_CLI_PROFILE") or profiles.DEFAULT, url="", ca_file="")
    profile = _profile(where)
    if not profile.url or not profile.token:
        return None
    return Client(profile.url, profile.token, ca_file=profile.ca_file, timeout=COMPLETION_SECONDS)


def complete_instance(typed: str) -> list[str]:
    """Names of instances that begin so, asked of the server; nothing where that fails or takes long."""
    client = completing_client()
    if client is None:
        return []
    quoted = '"' + re.sub(r'([\\"*])', r"\\\1", typed) + '*"' if typed else ""
    query = {"q": f"name={quoted} or id={quoted}"} if quoted else {}
    rows = client.get("instances/", {**query, "page_size": str(MOST_COMPLETIONS)})["results"]
    # A name with spaces would have to be quoted for each shell in another way; its id need not.
    plain = re.compile(r"[A-Za-z0-9._/@+-]+")
    offers = []
    for row in rows:
        offers.append(row["name"] if plain.fullmatch(row["name"]) else row["instance_id"])
        if typed and row["instance_id"].startswith(typed):
            offers.append(row["instance_id"])
    return offers


def api_get(chosen: argparse.Namespace) -> int:
    """Whatever a path answers: JSON indented, a recording as it is."""
    found = client_of(chosen).get(chosen.path)
    if isinstance(found, str):
        sys.stdout.write(found)
        return DONE
    return print_json(found)


def api_send(chosen: argparse.Namespace) -> int:
    """Send a body, and print what comes back. What is secret in it comes by standard input: others see arguments."""
    text = sys.stdin.read() if chosen.body == "-" else chosen.body
    try:
        body = json.loads(text)
    except ValueError as error:
        raise WrongUsage(f"The body is no JSON: {error}.") from None
    if not isinstance(body, dict):
        raise WrongUsage('The body is an object: {"name": "value"}.')
    return print_json(client_of(chosen).send(chosen.method, chosen.path, body))


def api_delete(chosen: argparse.Namespace) -> int:
    client_of(chosen).delete(chosen.path)
    return DONE


# --- Print -----------------------------------------------------------------------------------------------------------


def print_json(value: Any) -> int:
    print(json.dumps(value, indent=2, ensure_ascii=True))
    return DONE


def _print_facts(facts: Sequence[tuple[str, object]]) -> None:
    widest = max(len(name) for name, _ in facts)
    for name, value in facts:
        print(f"{name:<{widest}}  {tables.safe(value)}")


def _cell(value: object) -> object:
    return shown(value) if isinstance(value, str) else value


def shown(text: str) -> str:
    """A moment as people read it; anything else as it is."""
    found = _MOMENT.fullmatch(text)
    return f"{found[1]} {found[2]}" if found else text
