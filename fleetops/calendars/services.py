"""Keeping calendars, fetching them, and asking them."""

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Q

from fleetops import vault
from fleetops.audit.record import record
from fleetops.clock import during, now
from fleetops.errors import FieldError, UserError, in_field
from fleetops.fetch import FetchFailed, FetchRefused, fetch
from fleetops.identity.models import User
from fleetops.targets import TargetFacts, parse

from . import periods
from .deeds import DEEDS, EVERYTHING
from .gate import Binding, Gate, gate
from .models import Calendar, CalendarSource, Entry, Repeat, text_of

logger = logging.getLogger(__name__)

MOST_ENTRIES = 200
LONGEST_ENTRY = timedelta(days=366)
_FIRST_YEAR, _LAST_YEAR = 2000, 2100
_CLAIM = timedelta(seconds=90)  # longer than a fetch may take
_LONGEST_WAIT = timedelta(hours=6)
_CONTENT = ("text", "host", "sealed_url", "read_at", "fetch_at", "failures", "error")
_RECORDED = ("name", "kind", "source", "note", "enabled", "deeds", "targets", "zone", "host")


# Asking


def bindings(deed: str, facts: TargetFacts, calendars: Collection[Calendar] | None = None) -> list[Binding]:
    """The calendars that bind `deed` on the instance of `facts`. Give `calendars` to ask for many with one query."""
    found = []
    for calendar in standing() if calendars is None else calendars:
        if (calendar.binds_everything or deed in calendar.deeds) and _expression(calendar.targets).matches(facts):
            found.append(Binding(calendar.name, calendar.is_freeze, calendar.text, calendar.zone))
    return found


def standing() -> list[Calendar]:
    """All calendars that are in force: one query."""
    return list(Calendar.objects.enabled().exclude(text=""))


def ask(deed: str, facts: TargetFacts, at: datetime, calendars: Collection[Calendar] | None = None) -> Gate:
    """May `deed` be done on the instance of `facts` at `at`; why not, and when that changes."""
    return _answer(tuple(bindings(deed, facts, calendars)), at)


# Ten thousand instances of one run are bound by a few sets of calendars.
_expression = lru_cache(maxsize=1024)(parse)
_answer = lru_cache(maxsize=16)(gate)


# Keeping


def create_calendar(*, actor: User, url: str = "", text: str = "", **fields: Any) -> Calendar:
    """Make a calendar. One that is fetched is fetched once, now: what cannot be read is not kept.

    Raises UserError (FetchRefused, FetchFailed, ExpressionError among them); nothing is changed then.
    """
    fields = _checked(fields)
    calendar = Calendar(created_by=actor, **fields)
    _fill(calendar, url, text)
    with _name_once(calendar.name), transaction.atomic():
        calendar.save(force_insert=True)
        _record("calendars.create", calendar, actor=actor, after=_facts(calendar))
    return calendar


def change_calendar(calendar: Calendar, *, actor: User, url: str = "", text: str = "", **fields: Any) -> Calendar:
    """Change a calendar; `url` and `text` stay as they are if they are not given. Raises as create_calendar does."""
    fields = _checked({"source": calendar.source, **fields})
    for name, value in fields.items():
        setattr(calendar, name, value)
    names = list(fields)
    if (url or text) and calendar.source != CalendarSource.OWN:
        _fill(calendar, url, text)
        names += _CONTENT
    with _name_once(calendar.name), transaction.atomic():
        before = _facts(_locked(calendar.pk))
        if calendar.source == CalendarSource.OWN:
            _fill(calendar, "", "")  # from its entries, which nobody adds to meanwhile
            names += _CONTENT
        calendar.save(update_fields=names)  # the rest may have been fetched anew meanwhile
        after = _facts(calendar)
        changed = {name for name in after if after[name] != before[name]}
        _record(
            "calendars.change",
            calendar,
            actor=actor,
            before={name: before[name] for name in sorted(changed)},
            after={name: after[name] for name in sorted(changed)},
            has_new_content=bool(url or text),
        )
    return calendar


def delete_calendar(calendar: Calendar, *, actor: User) -> None:
    with transaction.atomic():
        _record("calendars.delete", calendar, actor=actor, before=_facts(calendar))
        calendar.delete()


def add_entry(
    calendar: Calendar,
    *,
    actor: User,
    title: str,
    start: datetime,
    end: datetime,
    repeat: str = "",
    until: date | None = None,
) -> Entry:
    """Put a period into a calendar that is kept here. `start` and `end` are times of its zone, without a zone.

    Raises UserError for a period that ends before it starts, lasts over a year, or overlaps its own repetition.
    """
    if calendar.source != CalendarSource.OWN:
        raise UserError(f"“{calendar}” comes from elsewhere; change it there.")
    length = end - start
    if length <= timedelta(0):
        raise FieldError("end", "The end has to come after the start.")
    if start.year < _FIRST_YEAR or max(end.year, until.year if until else 0) > _LAST_YEAR:
        raise FieldError("start", f"Periods lie in the years {_FIRST_YEAR} to {_LAST_YEAR}; choose others.")
    if length > LONGEST_ENTRY:
        raise FieldError("end", "A period lasts a year at most; disable the calendar's subject itself for longer.")
    longest = {Repeat.DAILY: 1, Repeat.WEEKDAYS: 1, Repeat.WEEKLY: 7, Repeat.MONTHLY: 28, Repeat.MONTHLY_WEEKDAY: 28}
    if (days := longest.get(Repeat(repeat))) and length > timedelta(days=days):
        raise FieldError("end", "The period is longer than the time after which it repeats; make it shorter.")
    if until and until < start.date():
        raise FieldError("until", "It would end to repeat before it starts; choose a later last day.")
    with transaction.atomic():
        calendar = _locked(calendar.pk)
        if calendar.entries.count() >= MOST_ENTRIES:
            raise UserError(f"A calendar holds {MOST_ENTRIES} entries at most; begin another one.")
        entry = Entry.objects.create(
            calendar=calendar,
            title=title.strip(),
            starts=start.isoformat(timespec="minutes"),
            ends=end.isoformat(timespec="minutes"),
            repeat=repeat,
            until=until,
        )
        _rewrite(calendar)
        _record("calendars.entry.add", calendar, actor=actor, entry=_entry_facts(entry))
    return entry


def remove_entry(entry: Entry, *, actor: User) -> None:
    with transaction.atomic():
        calendar = _locked(entry.calendar_id)
        _record("calendars.entry.remove", calendar, actor=actor, entry=_entry_facts(entry))
        entry.delete()
        _rewrite(calendar)


def _locked(pk: UUID) -> Calendar:
    """A calendar as it is now, and stays until the transaction ends. Raises UserError if it is gone."""
    calendar = Calendar.objects.select_for_update().filter(pk=pk).first()
    if calendar is None:
        raise UserError("Somebody has deleted this calendar meanwhile.")
    return calendar


def _rewrite(calendar: Calendar) -> None:
    calendar.text, calendar.read_at = text_of(calendar), now()
    periods.examine(calendar.text)
    calendar.save(update_fields=["text", "read_at"])


def _checked(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, held against what they mean. Raises UserError."""
    checked = dict(fields)
    deeds = list(dict.fromkeys(checked.get("deeds", [EVERYTHING])))
    if EVERYTHING in deeds:
        deeds = [EVERYTHING]
    if not deeds or set(deeds) - set(DEEDS) - {EVERYTHING}:
        raise FieldError("deeds", "Choose what the calendar binds: one kind of action at least, or everything.")
    checked["deeds"] = deeds
    with in_field("targets"):
        checked["targets"] = str(parse(checked.get("targets", "all")))
    zone = checked.get("zone", "UTC")
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise FieldError("zone", f"“{zone}” is no time zone; write it as Europe/Berlin.") from None
    return checked


def _fill(calendar: Calendar, url: str, text: str) -> None:
    """Give a calendar that is not saved yet its content."""
    moment = now()
    if calendar.source == CalendarSource.URL:
        if not url:
            raise FieldError("url", "Give the address of the calendar: https://…, as its owner publishes it.")
        try:
            calendar.text = _fetched(url)
        except FetchRefused as refused:
            refused.fields = {"url": str(refused)}
            raise
        calendar.host = urlsplit(url).hostname or ""
        calendar.sealed_url = vault.seal(url, context=vault.context_of(calendar, "sealed_url"))
        calendar.fetch_at, calendar.failures, calendar.error = moment + _interval(0), 0, ""
    elif calendar.source == CalendarSource.UPLOAD:
        if not text:
            raise FieldError("text", "Choose the file of the calendar (.ics).")
        with in_field("text"):
            periods.examine(text)
        calendar.text = text
    else:
        calendar.text = text_of(calendar)
    calendar.read_at = moment


@contextmanager
def _name_once(name: str) -> Iterator[None]:
    """Tell a name that is taken in words."""
    try:
        yield
    except IntegrityError:
        raise FieldError("name", f"There is a calendar “{name}” already; choose another name.") from None


def file_of(calendar: Calendar) -> str:
    """The calendar as iCalendar, for other programs."""
    return text_of(calendar) if calendar.source == CalendarSource.OWN else calendar.text


# Fetching


def require_address(calendar: Calendar) -> None:
    """Raises UserError for a calendar that is not fetched from anywhere."""
    if calendar.source != CalendarSource.URL:
        raise UserError(f"“{calendar}” is not fetched from anywhere; there is nothing to fetch.")


def claim_due(*, at: datetime) -> list[UUID]:
    """Claim the calendars whose time to be fetched has come."""
    claimed = []
    for pk in Calendar.objects.due(at).values_list("pk", flat=True)[:50]:
        free = Q(claimed_until=None) | Q(claimed_until__lte=at)
        if Calendar.objects.filter(free, pk=pk).update(claimed_until=at + during(_CLAIM)):
            claimed.append(pk)
    return claimed


def refetch(pk: UUID) -> None:
    """Fetch a calendar anew. If that fails its last good copy stays in force, and the row says why and since when."""
    calendar = Calendar.objects.filter(pk=pk, source=CalendarSource.URL).first()
    if calendar is None:
        return
    sealed = calendar.sealed_url
    try:
        changes: dict[str, Any] = {"text": _fetched(calendar.url()), "read_at": now(), "failures": 0, "error": ""}
    except UserError as error:
        changes = {"failures": calendar.failures + 1, "error": str(error)[:512]}
        logger.warning("calendar not fetched calendar=%s failures=%s", pk, changes["failures"])
    changes |= {"claimed_until": None, "fetch_at": now() + _interval(changes["failures"])}
    # Unless somebody has given it another address meanwhile.
    with transaction.atomic():
        Calendar.objects.filter(pk=pk, sealed_url=sealed).update(**changes)
        if changes["failures"] == 1:  # told once, not each time
            _record("calendars.fetch.fail", calendar, actor="worker", reason=changes["error"])


def _fetched(url: str) -> str:
    answer = fetch(url, headers={"Accept": "text/calendar"}, max_bytes=periods.MOST_BYTES)
    if answer.status != 200:
        raise FetchFailed(f"The calendar's address answers {answer.status}; check that it is public or still shared.")
    text = answer.body.decode("utf-8", "replace")
    periods.examine(text)
    return text


def _interval(failures: int) -> timedelta:
    """How long until the next fetch: the set time, doubled with each failure up to six hours."""
    usual = timedelta(minutes=settings.CALENDAR_FETCH_MINUTES)
    return min(usual * 2 ** min(failures, 10), max(_LONGEST_WAIT, usual))


def _facts(calendar: Calendar) -> dict[str, Any]:
    return {name: getattr(calendar, name) for name in _RECORDED}


def _entry_facts(entry: Entry) -> dict[str, Any]:
    until = entry.until.isoformat() if entry.until else ""
    return {"title": entry.title, "starts": entry.starts, "ends": entry.ends, "repeat": entry.repeat, "until": until}


def _record(action: str, calendar: Calendar, *, actor: User | str, reason: str = "", **details: Any) -> None:
    record(action, actor=actor, target=calendar, reason=reason, **details)
