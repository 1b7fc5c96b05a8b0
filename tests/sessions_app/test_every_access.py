"""Every door to sessions refuses what the policy denies: who comes × which door × the deed that a rule denies.

The doors are collected from the addresses of pages and API, the ways to attach to a terminal, and the operations of the
front door: one that is new fails here until it says which deeds it asks for, or why none. Which roles a door lets in
where no rule says anything against it: tests/web/test_every_door.py and tests/api/test_every_door.py. That the
websocket and the front door turn what they are refused here into a closed door: test_policy.py, test_front_door*.py.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import get_resolver, reverse

from fleetops.audit.models import AuditEvent
from fleetops.awsapi.errors import ApiError
from fleetops.clock import now
from fleetops.errors import UserError
from fleetops.identity import access_keys
from fleetops.identity.models import User
from fleetops.policy import services as policy
from fleetops.policy.decide import DEED_NAMES
from sessions_app import live, services
from sessions_app.frontdoor import api as front_door
from sessions_app.frontdoor import operations
from sessions_app.models import TerminalSession
from tests.factories import make_instance, make_restricted_shell, make_session, make_transfer, make_user
from tests.test_two_accounts import text_of

pytestmark = pytest.mark.django_db
READ, WATCH, END, SHELL, TRANSFER = "read_recording", "watch_session", "end_session", "shell", "transfer"
# The session is the owner's; the others come with what their role gives.
TYPED = "needle-in-the-haystack"
PEOPLE = ("owner", "operator", "auditor", "administrator", "viewer")


@dataclass(frozen=True)
class Door:
    """A door that asks for `deeds`: each of them denied alone closes it."""

    deeds: tuple[str, ...]
    method: str = "GET"
    form: Callable[[TerminalSession], dict[str, Any]] = field(default=lambda session: {})
    query: str = ""
    way: Callable[[TerminalSession, User], Any] | None = None  # where it is no address
    shows: str = ""  # of a list that leaves out what somebody may not see: what it shows to whom it lets in


def instance_of(session: TerminalSession) -> dict[str, Any]:
    return {"instance": str(session.instance_row_id)}


def attach(*, watch: bool = False, join: bool = False) -> Callable[[TerminalSession, User], Any]:
    return lambda session, user: services.admit(session.pk, user=user, watch=watch, join=join, reason="why")


def aws(operation: Callable[[operations.Caller, TerminalSession], Any]) -> Callable[[TerminalSession, User], Any]:
    """An operation of the front door, by whoever has a key of that person."""

    def way(session: TerminalSession, user: User) -> Any:
        key, _ = access_keys.create(user, actor=user, name="laptop", expires_at=now() + timedelta(days=1), networks=[])
        key.user = user
        return operation(operations.Caller(key), session)

    return way


def file_of(session: TerminalSession) -> TerminalSession:
    """The session of a file that is on its way, begun from the owner's shell."""
    found = session.transfers.first()
    return (found or make_transfer(parent=session, state="running")).session


DOORS: dict[str, Door] = {
    "sessions:open": Door((SHELL,), "POST", instance_of),
    "sessions:open_as": Door(
        (SHELL,), "POST", lambda session: instance_of(session) | {"shell": str(make_restricted_shell().pk)}
    ),
    "sessions:transfer": Door(
        (TRANSFER,), "POST", lambda session: instance_of(session) | {"direction": "download", "path": "/etc/hosts"}
    ),
    "sessions:terminal": Door((WATCH,)),
    "sessions:pane": Door((WATCH,)),
    "sessions:message": Door((WATCH,), "POST", lambda session: {"text": "Hello"}),
    "sessions:end": Door((END,), "POST"),
    "sessions:reason": Door((END,), "POST", lambda session: {"for": "end", "reason": "why"}),
    "sessions:replay": Door((READ,)),
    "sessions:cast": Door((READ,)),
    "sessions:events": Door((READ,)),
    "sessions:search": Door((READ,), query="?q=x"),
    "sessions:commands": Door((READ,), shows=TYPED),
    "sessions:commands_csv": Door((READ,), shows=TYPED),
    "sessions:commands_json": Door((READ,), shows=TYPED),
    "api:session_commands": Door((READ,), shows=TYPED),
    "api:session_commands_export": Door((READ,), shows=TYPED, query="?format=csv"),
    "sessions:grant_ask": Door(
        (SHELL,), "POST", lambda session: instance_of(session) | {"kind": "shell", "minutes": "30", "reason": "why"}
    ),
    "api:sessions": Door((SHELL,), "POST", instance_of),
    "api:end_session": Door((END,), "POST"),
    "api:session_messages": Door((WATCH,), "POST", lambda session: {"text": "Hello"}),
    "api:recording": Door((READ,)),
    "api:replay": Door((READ,)),
    "api:search_recording": Door((READ,), query="?q=x"),
    "api:grants": Door((SHELL,), "POST", lambda session: instance_of(session) | {"minutes": 30, "reason": "why"}),
    "websocket:own": Door((SHELL,), way=attach()),
    "websocket:file": Door(
        (TRANSFER,), way=lambda session, user: services.admit(file_of(session).pk, user=user, watch=False, reason="why")
    ),
    "websocket:watch": Door((WATCH,), way=attach(watch=True)),
    "websocket:join": Door((WATCH, SHELL), way=attach(join=True)),
    "aws:StartSession": Door(
        (SHELL,),
        way=aws(lambda caller, session: operations.open_session(caller, {"Target": session.instance_id})),
    ),
    "aws:TerminateSession": Door(
        (END,), way=aws(lambda caller, session: operations.terminate(caller, str(session.pk)))
    ),
}
# Doors that ask for no deed of the policy, and why not.
FREE: dict[str, str] = {
    "attached:new": "asks for the role and the shell by itself, before anything is attached: test_attached.py",
    "attached:order": "one's own order alone",
    "attached:open": "one's own; the shell is opened by the service that sessions:open asks",
    "attached:cancel": "one's own; it takes away what was given",
    "sessions:list": "rows of sessions that one may see; what happened in them is behind other doors",
    "sessions:panel": "the same, of one instance",
    "sessions:files": "transfers that one may see, of one instance; beginning one asks",
    "api:transfers": "rows of sessions that one may see: names of files and their digests, nothing of what is in them",
    "api:transfer": "the same, one",
    "api:session": "the same, one",
    "sessions:restricted_shells": "what may be opened, for who defines it; opening asks by itself",
    "sessions:restricted_shell_add": "the same",
    "sessions:restricted_shell": "the same",
    "sessions:restricted_shell_enabled": "the same",
    "api:restricted_shells": "the same",
    "api:restricted_shell": "the same",
    "sessions:grants": "requests of one's own, and of others for who answers or reviews",
    "sessions:grant": "the same, one",
    "sessions:grant_of": "leads there",
    "sessions:grant_vote": "asks who may answer: fleetops.approvals; what is opened is asked for again when it is",
    "sessions:grant_withdraw": "gives something back",
    "sessions:grant_revoke": "takes something away",
    "sessions:grant_deny_tokens": "takes something away",
    "sessions:grant_allow_tokens": "of who may end sessions; no session is opened by it",
    "sessions:tokens": "the same",
    "api:grant": "as its page",
    "api:grant_vote": "as its page",
    "api:grant_withdraw": "as its page",
    "api:grant_revoke": "as its page",
    "api:session_delivery": "how far a session that one may see is in its log stream; nothing of what was said in it",
    "api:account_delivery": "settings of an account, for who administers accounts",
    "api:check_delivery": "the same",
    "deliveries:account": "the same",
    "deliveries:check": "the same",
    "deliveries:live": "the same",
    "api:session_stream": "the stream that it leads to attaches as a browser does: websocket:own",
    "aws:ResumeSession": "the stream that it leads to attaches as a browser does: websocket:own",
    "aws:DescribeSessions": "rows of sessions that one may see",
    "aws:GetConnectionStatus": "a fact of the inventory",
    "aws:DescribeInstanceInformation": "facts of the inventory",
}


def addresses(patterns, namespace: str = "") -> Iterator[str]:
    """The names of addresses that this room serves."""
    for pattern in patterns:
        if hasattr(pattern, "url_patterns"):
            yield from addresses(pattern.url_patterns, f"{pattern.namespace}:" if pattern.namespace else namespace)
        else:
            view = getattr(pattern.callback, "view_class", pattern.callback)
            if inspect.unwrap(view).__module__.startswith("sessions_app"):
                yield f"{namespace}{pattern.name}"


def test_every_door_has_been_decided_on():
    there = set(addresses(get_resolver().url_patterns))
    there |= (
        {"websocket:file"}
        | {f"websocket:{mode}" for mode in live.MODES}
        | {f"aws:{name}" for name in front_door._OFFERED}
    )
    assert there == DOORS.keys() | FREE.keys(), "say here what it asks for, or why nothing"
    assert not DOORS.keys() & FREE.keys()


def test_every_deed_on_sessions_stands_behind_a_door():
    asked = {deed for door in DOORS.values() for deed in door.deeds}
    # As a named user, to a forwarded place: tests of these rooms; the rest is of other rooms.
    elsewhere = {"run_as", "forward", "run_document", "patch", "associate", "attach_role"}
    assert asked == set(DEED_NAMES) - elsewhere


@pytest.fixture
def people(roles) -> dict[str, User]:
    found = {name: make_user(name, role=name) for name in PEOPLE if name != "owner"}
    return found | {"owner": make_user("owner", role="operator")}


@pytest.fixture
def session(people) -> TerminalSession:
    """A live shell of the owner. Opening one is let by the rules for some, and asked for by the rest."""
    policy.create_rule(
        actor="test", name="Asked", everybody=True, deeds=[SHELL], targets="all", confirmed=True, approvals=1
    )
    policy.create_rule(actor="test", name="Files", everybody=True, deeds=[TRANSFER], targets="all", confirmed=True)
    made = make_session(user=people["owner"], instance=make_instance(), owner="me", owner_epoch=1)
    made.commands.create(
        number=1,
        user=made.user,
        user_name=made.user_name,
        instance_id=made.instance_id,
        instance_name=made.instance_name,
        account_id=made.account_id,
        source="marks",
        text=TYPED,
        started_at=now(),
        time_us=0,
        output_offset=0,
    )
    return made


def gets_in(name: str, session: TerminalSession, user: User) -> bool:
    """Whether the door lets that person do what it is there for."""
    door = DOORS[name]
    if door.way is not None:
        try:
            door.way(session, user)
        except (UserError, ApiError):
            return False
        return True
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    of_many = {
        "sessions:open",
        "sessions:transfer",
        "sessions:open_as",
        "sessions:grant_ask",
        "api:sessions",
        "api:grants",
    }
    takes_pk = not door.shows and name not in of_many
    path = reverse(name, args=[session.pk] if takes_pk else []) + door.query
    form = door.form(session)
    if door.method == "GET":
        answer = client.get(path)
    elif name.startswith("api:"):
        answer = client.post(path, json.dumps(form), content_type="application/json")
    else:
        answer = client.post(path, form)
    assert answer.status_code < 500
    if door.shows:
        return answer.status_code == 200 and door.shows in text_of(answer)
    return answer.status_code < 300 or (answer.status_code == 302 and "login" not in answer.url)


@pytest.mark.parametrize("name", DOORS)
def test_a_door_lets_somebody_in_while_no_rule_denies_it(session, people, name):
    """Else the next test could not fail."""
    assert [person for person in PEOPLE if gets_in(name, session, people[person])], name


# What these ask of others does not concern whose session it is: the page of one's own terminal, whose websocket asks,
# and to join what is one's own.
OF_OTHERS = {("sessions:terminal", WATCH), ("sessions:pane", WATCH), ("websocket:join", WATCH)}
CASES = [(name, deed) for name, door in DOORS.items() for deed in door.deeds]


@pytest.mark.parametrize(("name", "deed"), CASES)
@pytest.mark.parametrize("person", PEOPLE)
def test_a_door_refuses_what_a_rule_denies_whoever_comes(session, people, name, deed, person):
    rule = policy.create_rule(
        actor="test",
        name="No",
        effect="deny",
        everybody=True,
        deeds=[deed],
        targets="all",
        confirmed=True,
        note="Freeze",
    )
    if person == "owner" and (name, deed) in OF_OTHERS:
        assert gets_in(name, session, people[person])
        return
    assert not gets_in(name, session, people[person])
    session.refresh_from_db()
    assert session.end_requested_at is None and not session.messages.exists()
    assert not TerminalSession.objects.exclude(pk=session.pk).exclude(transfer__parent=session).exists()
    event = AuditEvent.objects.filter(outcome="denied", actor_name=people[person].username).last()
    if event is not None and "rules" in event.details:
        assert event.details["rules"] == [rule.name] and "Freeze" in event.reason
