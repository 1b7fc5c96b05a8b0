"""Who is at a live session besides its own user, what they may do there, and when it ends.

Three parts: `People` is what an owner knows of who is there, and tells and records; `Deadlines` is what it tells of the
session's ends; the functions below are the deeds of people on another's live session, each with its audit event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from django.conf import settings
from django.db import transaction

from fleetops.audit.record import record
from fleetops.clock import now
from fleetops.errors import UserError
from fleetops.identity.models import User

from . import services
from .models import SessionMessage, TerminalSession
from .states import SessionKind

OWN, JOIN, WATCH = "own", "join", "watch"
MODES = (OWN, JOIN, WATCH)
LEFT_SECONDS = 3.0  # who reloads the page has not left
TOLD_SECONDS = 15.0  # a browser counts on its own from what it was told; so often it is told again
NO_MODERATOR = "Input is held until a moderator watches: what you type is not sent."
LONGEST_MESSAGE = 500
MOST_MESSAGES = 20  # to one session that have not been shown


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody at a session. `mode`: own (it is theirs), join (types too), watch."""

    id: str
    name: str
    mode: str = OWN

    @classmethod
    def of(cls, facts: dict[str, str] | None, session: TerminalSession) -> Person:
        """From what the process that admitted them says; without it, the session's own user."""
        if facts is None or facts.get("mode") not in MODES:
            return cls(str(session.user_id), session.user_name)
        return cls(facts["id"], facts["name"], facts["mode"])


class Held(Protocol):
    """The proxy, as this module sees it."""

    session: TerminalSession
    active_at: float

    @property
    def is_finishing(self) -> bool: ...

    @property
    def is_let_go(self) -> bool: ...

    def note(self, kind: str, text: str, **facts: Any) -> None: ...

    def hold_input(self, is_held: bool, why: str) -> None: ...


class People:
    """Who is at one session now. Windows of one person in one mode count once; all come and go here."""

    def __init__(
        self, proxy: Held, *, tell: Callable[[dict[str, Any]], None], keep: Callable[[list[dict[str, Any]]], None]
    ) -> None:
        """`tell` says a message to everybody who is there; `keep` writes down who is, for the pages."""
        self._proxy = proxy
        self._tell = tell
        self._keep = keep
        self._here: dict[object, Person] = {}
        self._since: dict[Person, datetime] = {}
        self._leaving: dict[Person, asyncio.TimerHandle] = {}
        self._kept: list[dict[str, Any]] = proxy.session.people
        self._loop = asyncio.get_running_loop()
        self.typist = Person(str(proxy.session.user_id), proxy.session.user_name)
        self._is_held = False
        self._moderate()

    def came(self, listener: object, who: Person | None) -> None:
        person = who or Person(str(self._proxy.session.user_id), self._proxy.session.user_name)
        is_new = person not in self._since
        self._here[listener] = person
        if is_new:
            self._since[person] = now()
        if leaving := self._leaving.pop(person, None):
            leaving.cancel()
        elif is_new and not self._is_own(person):
            joins = person.mode == JOIN
            words = f"{person.name} has joined and may type." if joins else f"{person.name} watches."
            self._note(person.mode, words, person)
        self._changed()

    def went(self, listener: object) -> None:
        person = self._here.pop(listener, None)
        if person is not None and person not in self._here.values():
            if self._is_own(person):
                del self._since[person]
            else:
                self._leaving[person] = self._loop.call_later(LEFT_SECONDS, self._left, person)
        self._changed()

    def _left(self, person: Person) -> None:
        self._leaving.pop(person, None)
        self._since.pop(person, None)
        self._note("left", f"{person.name} has left.", person)

    def _is_own(self, person: Person) -> bool:
        return person.id == str(self._proxy.session.user_id)

    def typed(self, who: Person) -> None:
        """Somebody's keys go to the shell; told and recorded when it is another than before."""
        if who.id != self.typist.id:
            self.typist = who
            self._note("typing", f"{who.name} types.", who)
            self.tell()

    def tell(self) -> None:
        """Say who is there."""
        self._tell(
            {
                "type": "people",
                "count": len(self._here),
                "people": self.present(),
                "typist": self.typist.id,
                "held": self._is_held,
            }
        )

    def present(self) -> list[dict[str, Any]]:
        """Each person once a mode: id, name, mode, how many windows, since when."""
        windows: dict[Person, int] = {}
        for person in self._here.values():
            windows[person] = windows.get(person, 0) + 1
        return [
            {
                "id": person.id,
                "name": person.name,
                "mode": person.mode,
                "windows": count,
                "since": self._since[person].isoformat(timespec="seconds"),
            }
            for person, count in windows.items()
        ]

    def _changed(self) -> None:
        self._moderate()
        self.tell()
        present = [{key: each[key] for key in ("id", "name", "mode", "since")} for each in self.present()]
        if present != self._kept and not self._proxy.is_let_go:
            self._kept = present
            self._keep(present)

    def _moderate(self) -> None:
        """Hold input while the policy wants a moderator and none is there."""
        others = [each for each in self._here.values() if not self._is_own(each)]
        is_held = self._proxy.session.needs_moderator and not others
        if is_held == self._is_held:
            return
        self._is_held = is_held
        self._proxy.hold_input(is_held, NO_MODERATOR)
        if is_held:
            self._note("held", NO_MODERATOR, None)
        else:
            self._note("moderated", f"{others[0].name} moderates; input goes through.", others[0])

    def _note(self, kind: str, text: str, person: Person | None) -> None:
        if not self._proxy.is_let_go and not self._proxy.is_finishing:
            self._proxy.note(kind, text, **({} if person is None else {"user": person.name}))


class Deadlines:
    """When a session ends by itself: idle, at its longest, with its grant. Browsers count on from what is told."""

    def __init__(self, proxy: Held, *, tell: Callable[[dict[str, Any]], None]) -> None:
        self._proxy = proxy
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._told_at = 0.0
        self._told: tuple[Any, ...] = ()

    def tell(self) -> None:
        """Say how many seconds are left, now; None where there is no such end."""
        session, moment = self._proxy.session, now()
        idle = settings.SESSION_IDLE_SECONDS - (self._loop.time() - self._proxy.active_at)
        longest = None
        if session.started_at is not None:
            longest = settings.SESSION_LONGEST_SECONDS - (moment - session.started_at).total_seconds()
        grant = None if session.deadline_at is None else (session.deadline_at - moment).total_seconds()
        self._told_at, self._told = self._loop.time(), self._facts()
        self._tell(
            {
                "type": "deadlines",
                "idle": round(idle, 1),
                "idle_of": settings.SESSION_IDLE_SECONDS,
                "longest": None if longest is None else round(longest, 1),
                "longest_of": settings.SESSION_LONGEST_SECONDS,
                "grant": None if grant is None else round(grant, 1),
                "grant_of": (
                    None
                    if session.deadline_at is None
                    else round((session.deadline_at - session.created_at).total_seconds(), 1)
                ),
            }
        )

    def look(self) -> None:
        """Say it again if it is news, now and then at most. Called each second."""
        facts = self._facts()
        is_due = self._loop.time() - self._told_at >= TOLD_SECONDS
        if facts[:2] != self._told[:2] or (facts != self._told and is_due):
            self.tell()

    def _facts(self) -> tuple[Any, ...]:
        session = self._proxy.session
        return session.deadline_at, session.started_at, self._proxy.active_at


# Deeds of people, and what owners read and write


def require_joining(session: TerminalSession, *, actor: User, reason: str = "") -> None:
    """Let `actor` type into another's session. Raises PolicyDenied, audited; ReasonNeeded; Denied if it is no shell."""
    services.require_attaching(session, actor=actor, watch=False, join=True, reason=reason)


def may_join(session: TerminalSession, user: User, *, reason: str = "") -> bool:
    """Whether a button to join is worth showing: nothing is audited."""
    if session.kind != SessionKind.SHELL or not session.is_live or session.owner_epoch == 0:
        return False
    return services.may_attach(session, user, watch=False, join=True, reason=reason)


def send_message(session: TerminalSession, *, actor: User, text: str, reason: str = "") -> SessionMessage:
    """Say something to who is at a live session: its owner shows and records it within a second.

    Raises UserError if there is nothing to say or nobody to say it to; PolicyDenied, audited; ReasonNeeded.
    """
    said = services.one_line(text, LONGEST_MESSAGE)
    if not said:
        raise UserError("Write what is to be said.")
    if not session.is_live or session.owner_epoch == 0:
        raise UserError("This session is not open, so nobody would see the message.")
    services.require_watching(session, actor=actor, reason=reason)
    if session.messages.filter(shown_at=None).count() >= MOST_MESSAGES:
        raise UserError(f"{MOST_MESSAGES} messages wait to be shown there. Wait until they have been.")
    with transaction.atomic():
        message = SessionMessage.objects.create(session=session, author=actor, author_name=actor.username, text=said)
        record(
            "sessions.message",
            actor=actor,
            target=session,
            session=session,
            account_id=session.account_id,
            region=session.region,
            text=said,
        )
        transaction.on_commit(lambda: services.notify_owner(session.pk))
    return message


def unshown(owner: str) -> list[SessionMessage]:
    """What was said to sessions of `owner` and not shown yet, the oldest first. One query."""
    waiting = SessionMessage.objects.filter(shown_at=None, session__owner=owner)
    return list(waiting.order_by("id")[:200])


def shown(messages: Iterable[SessionMessage]) -> None:
    """They are in the journal, and were told."""
    SessionMessage.objects.filter(pk__in=[each.pk for each in messages]).update(shown_at=now())


def keep_people(session_id: UUID, people: list[dict[str, Any]]) -> None:
    """Write down who is there, for the pages."""
    TerminalSession.objects.filter(pk=session_id).update(people=people)
