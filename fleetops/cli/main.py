"""The `fleetops` command.

On this machine:
    fleetops up                    start FleetOps in the foreground, as `make up` does once everything is built
    fleetops status [--json]       addresses, processes, and how to try the aws CLI on the embedded endpoint
    fleetops doctor [--json]       what is wrong with this installation, and what to do; ends with 0, 1 or 2
    fleetops manage ...            Django's manage.py, in the environment of this installation
    fleetops node register, run    make this machine a managed node of an endpoint, with an activation; see docs/cli.md

Over the REST API, of this machine's FleetOps or another:
    fleetops login, logout, whoami
    fleetops connect NAME [--command LINE | --forward [LOCAL:][HOST:]PORT]
    fleetops access request|list|approve|deny|revoke
    fleetops compliance list|show|cve|export
    fleetops role list|show|attach|detach|lease|extend|end|rules|findings|put-back|accept|history|standard
    fleetops schedule list|show|history|create|pause|resume|take|run|delete
    fleetops fleet list|show, session list, audit list, api get
    fleetops completion bash|zsh|fish

Exit codes: 0 done, 1 refused (said in words), 2 wrong usage, 3 unreachable (status: FleetOps does not run),
4 not logged in. docs/cli.md is the manual.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

from fleetops.cli import (
    access,
    completion,
    compliance,
    connect,
    emergency,
    installation,
    ports,
    remote,
    roles,
    runs,
    schedules,
    status,
)
from fleetops.cli.errors import DONE, REFUSED, UNREACHABLE, Refused
from fleetops.errors import UserError

NOT_RUNNING = UNREACHABLE
INTERRUPTED = 130  # what shells use for SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] == ["manage"]:  # before argparse, which would take manage.py's options for its own
            return manage(words[1:])
        if words[:1] == ["node"]:
            return run_node(words[1:])
        if words[:1] == ["__complete"]:
            return complete(words[1:])
        chosen = parser().parse_args(words)
        return chosen.do(chosen)
    except Refused as error:
        print(error, file=sys.stderr)
        return error.code
    except UserError as error:
        print(error, file=sys.stderr)
        return REFUSED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `fleetops status | head` is no error
        return DONE
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="fleetops",
        description="FleetOps from the command line.",
        epilog="Exit codes: 0 done, 1 refused, 2 wrong usage, 3 unreachable, 4 not logged in.",
        allow_abbrev=False,
    )
    verbs = top.add_subparsers(required=True, metavar="VERB")
    up = verbs.add_parser("up", help="start FleetOps in the foreground, on this machine")
    up.set_defaults(do=start)
    show = verbs.add_parser("status", help="what runs on this machine, and how to try the aws CLI")
    show.add_argument("--json", action="store_true", help="for programs")
    show.set_defaults(do=show_status)
    doctor = verbs.add_parser("doctor", help="what is wrong with this installation, and what to do")
    doctor.add_argument("--json", action="store_true", help="for programs")
    doctor.set_defaults(do=look)
    verbs.add_parser("manage", help="Django's manage.py in this installation's environment: fleetops manage migrate")
    node = _group(verbs, "node", "this machine as a managed node; fleetops node run --help")
    for verb in ("register", "run"):
        node.add_parser(verb)
    _add_log_in(verbs)
    fleet = _group(verbs, "fleet", "instances")
    listing = _list_verb(
        fleet, "list", remote.fleet_list, remote.INSTANCE_COLUMNS, "name,id,status,platform,account,region"
    )
    listing.add_argument(
        "expression", nargs="*", metavar="EXPRESSION", help="which: words, or as in: env=prod and not status=stopped"
    )
    one = _verb(fleet, "show", remote.fleet_show, "one instance, and whether it can be reached")
    name = one.add_argument("name", metavar="NAME", help="its name, or AWS's id")
    name.completer = remote.complete_instance  # type: ignore[attr-defined]
    one.add_argument("--json", action="store_true", help="for programs")
    connect.add_arguments(_verb(verbs, "connect", connect.connect, "a shell, a command or a port on an instance"))
    session = _group(verbs, "session", "terminal sessions")
    listing = _list_verb(
        session, "list", remote.session_list, remote.SESSION_COLUMNS, "id,user,instance,state,started,ended"
    )
    listing.add_argument("--state", choices=["live", "past"], default="")
    listing.add_argument("--user", default="", help="whose alone")
    access.add_arguments(_group(verbs, "access", "access for a while, by approval"), _verb, _list_verb)
    runs.add_arguments(_group(verbs, "run", "documents in waves"), _verb, _list_verb)
    schedules.add_arguments(_group(verbs, "schedule", "runs that come again"), _verb, _list_verb)
    roles.add_arguments(_group(verbs, "role", "IAM roles of instances, for good or for a while"), _verb, _list_verb)
    emergency.add_arguments(_group(verbs, "patch", "one CVE or package, mended everywhere"), _verb, _list_verb)
    ports.add_arguments(_group(verbs, "port", "SSH and RDP in security groups"), _verb, _list_verb)
    compliance.add_arguments(_group(verbs, "compliance", "who has which patches"), _verb, _list_verb)
    audit = _group(verbs, "audit", "the audit log")
    listing = _list_verb(audit, "list", remote.audit_list, remote.EVENT_COLUMNS, "at,who,action,target,outcome,reason")
    listing.add_argument(
        "filter", nargs="*", metavar="FILTER", help="words and filters as on the page: outcome:denied since:7d who:mei"
    )
    api = _group(verbs, "api", "any other call of the REST API")
    get = _verb(api, "get", remote.api_get, "what a path answers, as JSON")
    get.add_argument("path", metavar="PATH", help="below /api/v1/, as in: instances/?q=web")
    for method, about in (("post", "do or make something"), ("patch", "change something"), ("put", "set something")):
        send = _verb(api, method, remote.api_send, about)
        send.add_argument("path", metavar="PATH", help="below /api/v1/, as in: policy/rules/")
        send.add_argument(
            "body",
            metavar="BODY",
            nargs="?",
            default="{}",
            help="JSON, or - to read it from standard input (%(default)s)",
        )
        send.set_defaults(method=method.upper())
    gone = _verb(api, "delete", remote.api_delete, "delete something")
    gone.add_argument("path", metavar="PATH", help="below /api/v1/, as in: policy/rules/ID/?version=3")
    shells = verbs.add_parser("completion", help="print what a shell needs to complete this command")
    shells.add_argument("shell", choices=sorted(completion.SCRIPTS))
    shells.set_defaults(do=show_completion)
    return top


def _add_log_in(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    into = _verb(verbs, "login", remote.login, "get a token, and keep it")
    into.add_argument("--token-stdin", action="store_true", help="take a token that was made on the page")
    into.add_argument("--username", default="", help="else it is asked for")
    into.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    into.add_argument("--code", default="", help="of the second factor; else it is asked for where there is one")
    into.add_argument("--scopes", default="", help="of the token, with commas; else all that your roles allow")
    into.add_argument("--days", type=int, default=30, help="until the token ends (%(default)s)")
    into.add_argument("--name", default="", help="of the token; else that of this machine")
    _verb(verbs, "logout", remote.logout, "revoke the token and forget it")
    who = _verb(verbs, "whoami", remote.whoami, "who you are there, and what the token may")
    who.add_argument("--json", action="store_true", help="for programs")


def _group(verbs, name: str, about: str) -> argparse._SubParsersAction[argparse.ArgumentParser]:  # type: ignore[no-untyped-def]
    return verbs.add_parser(name, help=about, description=about).add_subparsers(required=True, metavar="VERB")


def _verb(verbs, name: str, do, about: str) -> argparse.ArgumentParser:  # type: ignore[no-untyped-def]
    made: argparse.ArgumentParser = verbs.add_parser(name, help=about, description=about, allow_abbrev=False)
    remote.add_where(made)
    made.set_defaults(do=do)
    return made


def _list_verb(verbs, name: str, do, columns: dict[str, str], usual: str) -> argparse.ArgumentParser:  # type: ignore[no-untyped-def]
    made = _verb(verbs, name, do, "list them")
    chosen = made.add_argument("--columns", default=usual, help=f"of {', '.join(columns)} (%(default)s)")
    chosen.completer = remote.complete_columns(columns)  # type: ignore[attr-defined]
    made.add_argument("--all", action="store_true", help="not only the first 100")
    made.add_argument("--json", action="store_true", help="for programs: what the API gives, whole")
    return made


def start(chosen: argparse.Namespace) -> int:
    os.chdir(installation.ROOT)
    os.execv(sys.executable, [sys.executable, "-m", "fleetops.supervisor"])


def manage(words: Sequence[str]) -> int:
    """Become manage.py, which finds the database, the broker and AWS where the running installation has them."""
    script = installation.ROOT / "manage.py"
    os.execve(sys.executable, [sys.executable, str(script), *words], {**os.environ, **installation.environment()})


def run_node(words: Sequence[str]) -> int:
    """Become the agent, which knows its own options."""
    os.execv(sys.executable, [sys.executable, "-m", "fleetops.node", *words])


def look(chosen: argparse.Namespace) -> int:
    return manage(["doctor", *(["--json"] if chosen.json else [])])


def show_status(chosen: argparse.Namespace) -> int:
    now = status.read()
    print(json.dumps(now, indent=2) if chosen.json else status.in_words(now))
    return DONE if now["running"] else NOT_RUNNING


def show_completion(chosen: argparse.Namespace) -> int:
    print(completion.SCRIPTS[chosen.shell], end="")
    return DONE


def complete(words: Sequence[str]) -> int:
    """What may stand for the last of `words`, a line each. Nothing where something fails: nobody reads why."""
    try:
        for each in completion.candidates(parser(), words):
            print(each)
    except UserError:
        return REFUSED
    return DONE


if __name__ == "__main__":
    sys.exit(main())
