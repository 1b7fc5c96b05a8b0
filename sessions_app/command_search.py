"""Which commands somebody may read, and looking through them. The policy is asked of each session, as for its replay.

What is found is read in batches of rows; sessions that the policy leaves out cost no more than that.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from uuid import UUID

import orjson
from django.db import transaction
from django.db.models import Q
from django.http import HttpResponse

from fleetops.audit.models import AuditEvent
from fleetops.audit.record import record
from fleetops.clock import now
from fleetops.identity.models import User
from fleetops.policy import services as policy
from fleetops.policy.decide import Deed, DeedRequest, decide

from . import questions
from .models import Command, CommandQuerySet, TerminalSession
from .services import LOOK_LASTS, one_line
from .states import CommandSource

PAGE_SIZE = 100
MOST_EXPORTED = 50_000  # some 20 MB, made in memory
MOST_EXPORTED_TEXT = 32 << 20  # characters of commands: one may have 16,384
_BATCH = 2000
_MOST_REFUSED = 500  # sessions that one query leaves out
ABOUT_CONTENT = ("q", "source", "failed", "disputed")  # filters by what was typed, and what became of it
FIELDS = ("q", "user", "instance", "account", "source", "failed", "disputed", "since", "session")
SINCE = {"1h": timedelta(hours=1), "24h": timedelta(hours=24), "7d": timedelta(days=7), "30d": timedelta(days=30)}
TYPES = {"csv": "text/csv; charset=utf-8", "json": "application/x-ndjson"}
COLUMNS = (
    *("started_at", "ended_at", "user", "instance_id", "instance_name", "account_id", "session", "number", "source"),
    *("text", "exit_code", "cwd", "os_user", "is_disputed", "dispute", "shown_text", "is_cut", "is_masked", "seconds"),
)


def filters_of(asked: Mapping[str, str]) -> dict[str, str]:
    """What is looked for, out of a query string."""
    return {name: asked.get(name, "").replace("\x00", "").strip()[:200] for name in FIELDS}


def found(user: User, filters: Mapping[str, str]) -> CommandQuerySet:
    """Commands that `user` may see and that fit. What the policy says of them is not asked yet.

    Raises ValueError if `session` is no id, or another filter has a value that it does not know.
    """
    rows = Command.objects.visible_to(user)
    if text := filters["q"]:
        rows = rows.filter(Q(text__icontains=text) | Q(is_disputed=True, shown_text__icontains=text))
    if filters["user"]:
        rows = rows.filter(user_name=filters["user"])
    if name := filters["instance"]:
        rows = rows.filter(Q(instance_id=name) | Q(instance_name__icontains=name))
    if filters["account"]:
        rows = rows.filter(account_id=filters["account"])
    if source := filters["source"]:
        if source not in CommandSource.values:
            raise ValueError("source")
        rows = rows.filter(source=source)
    if filters["failed"]:
        rows = rows.filter(exit_code__isnull=False).exclude(exit_code=0)
    if filters["disputed"]:
        rows = rows.filter(is_disputed=True)
    if since := filters["since"]:
        if since not in SINCE:
            raise ValueError("since")
        rows = rows.filter(started_at__gte=now() - SINCE[since])
    if filters["session"]:
        rows = rows.filter(session_id=UUID(filters["session"]))
    return rows


class Reader:
    """What one person may read of recordings, asked of each session once. Two queries, and one for each batch."""

    def __init__(self, actor: User, *, reason_for: Callable[[UUID], str] = lambda pk: "") -> None:
        """`reason_for` a session: why they want to see it, as they have said it."""
        self.actor = actor
        self._reason_for = reason_for
        self._rules = [rule for rule in policy.rules() if Deed.READ_RECORDING in rule.deeds]
        self._who = policy.actor_facts(actor)
        self._answers: dict[UUID, bool] = {}
        self.has_left_out = False  # something was asked for and not given
        self.over: set[UUID] = set()  # sessions that have ended

    def readable(self, rows: Sequence[Command]) -> list[Command]:
        """Those of `rows` that may be read."""
        unknown = {row.session_id for row in rows} - self._answers.keys()
        if unknown:
            sessions = TerminalSession.objects.filter(pk__in=unknown)
            for session in sessions.select_related("instance_row__account", "instance_row__region"):
                self._answers[session.pk] = self._may(session)
                if not session.is_live:
                    self.over.add(session.pk)
        found = [row for row in rows if self._answers.get(row.session_id)]
        self.has_left_out |= len(found) < len(rows)
        return found

    def refused(self) -> list[UUID]:
        """Sessions that are known not to be readable, as many as a query may leave out."""
        return list(islice((pk for pk, may in self._answers.items() if not may), _MOST_REFUSED))

    def _may(self, session: TerminalSession) -> bool:
        here = policy.context(self.actor, reason=one_line(self._reason_for(session.pk)))
        target = questions.target_of(session)
        asked = DeedRequest(self._who, Deed.READ_RECORDING, here, target, owner=str(session.user_id))
        return decide(asked, self._rules).allowed


@dataclass
class Page:
    rows: list[Command] = field(default_factory=list)
    next: str = ""  # "before" of the next page


def page(rows: CommandQuerySet, reader: Reader, *, before: str = "", size: int = PAGE_SIZE) -> Page:
    """The newest rows before a place that may be read. One query, and more where the policy leaves many out.

    Raises ValueError if `before` is no place.
    """
    ordered = _behind(rows.order_by("-started_at", "-id"), before)
    found = first_readable(ordered, reader, size + 1, lambda last: _behind(ordered, _place(last)))
    return Page(found[:size], _place(found[size - 1]) if len(found) > size else "")


def first_readable(
    ordered: CommandQuerySet, reader: Reader, most: int, behind: Callable[[Command], CommandQuerySet]
) -> list[Command]:
    """The first `most` rows that may be read, if there are so many; `behind` a row is the rest.

    However many may not be read, the search goes on behind them: to say where it ended would tell that they are there.
    What is known not to be readable is left out of the next query, and each asks for more.
    """
    rows, step, found = ordered, most, []
    while True:
        batch = list(rows[:step])
        found += reader.readable(batch)
        if len(found) >= most or len(batch) < step:
            return found[:most]
        rows = behind(batch[-1]).exclude(session_id__in=reader.refused())
        step = min(max(2 * step, PAGE_SIZE), _BATCH)


def _place(row: Command) -> str:
    return f"{row.started_at.isoformat()}_{row.pk}"


def _behind(rows: CommandQuerySet, before: str) -> CommandQuerySet:
    if not before:
        return rows
    moment, _, pk = before.partition("_")
    at = datetime.fromisoformat(moment)
    if at.tzinfo is None:
        raise ValueError("no time zone")
    # Said so, and not as "earlier, or as early and …": SQLite reads that by two indexes, and sorts all that it finds.
    return rows.filter(started_at__lte=at).exclude(started_at=at, id__gte=UUID(pk))


# Audit


def note_look(actor: User, rows: list[Command], filters: Mapping[str, str]) -> None:
    """Somebody read what others typed: audited once an hour."""
    if not any(row.user_id != actor.pk for row in rows):
        return
    looks = AuditEvent.objects.filter(action="sessions.commands.view", actor_id=str(actor.pk))
    if not looks.filter(at__gt=now() - LOOK_LASTS).exists():
        with transaction.atomic():
            record("sessions.commands.view", actor=actor, looked_for={k: v for k, v in filters.items() if v})


# Taking away


def export(rows: CommandQuerySet, reader: Reader, *, form: str, filters: Mapping[str, str]) -> HttpResponse:
    """The newest rows as a file, as many as one may have: CSV, or JSON line by line. Audited."""
    taken, is_cut = _taken(rows, reader)
    with transaction.atomic():
        asked = {name: value for name, value in filters.items() if value}
        record("sessions.commands.export", actor=reader.actor, format=form, rows=len(taken), looked_for=asked)
    response = HttpResponse((_csv if form == "csv" else _json)(taken), content_type=TYPES[form])
    name = f"commands-newest-{len(taken)}" if is_cut else "commands"
    response["Content-Disposition"] = f'attachment; filename="{name}.{form}"'
    response["Cache-Control"] = "no-store"
    return response


def _taken(rows: CommandQuerySet, reader: Reader) -> tuple[list[Command], bool]:
    """The newest that may be read, as far as a file may be long; and whether that was not all."""
    taken: list[Command] = []
    before, size = "", 0
    while True:
        batch = page(rows, reader, before=before, size=min(_BATCH, MOST_EXPORTED - len(taken)))
        for row in batch.rows:
            size += len(row.text) + len(row.shown_text)
            if size > MOST_EXPORTED_TEXT:
                return taken, True
            taken.append(row)
        if not (before := batch.next) or len(taken) >= MOST_EXPORTED:
            return taken, bool(before)


def facts(row: Command) -> dict[str, object]:
    """One row, for programs."""
    names = {"user": "user_name", "session": "session_id"}
    found = {name: getattr(row, names.get(name, name)) for name in COLUMNS}
    return found | {"session": str(row.session_id)}


def _json(rows: list[Command]) -> bytes:
    return b"".join(orjson.dumps(facts(row), option=orjson.OPT_APPEND_NEWLINE) for row in rows)


def _csv(rows: list[Command]) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    writer.writerows([_cell(value) for value in facts(row).values()] for row in rows)
    return out.getvalue()


def _cell(value: object) -> object:
    """A text that a spreadsheet would take for a formula, with an apostrophe before it."""
    if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"}:
        return "'" + value
    return value.isoformat() if isinstance(value, datetime) else value
