"""Schedules and their moments in words, for pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from django.db.models import F, Window
from django.db.models.functions import RowNumber

from fleetops.clock import now as clock_now
from fleetops.errors import UserError
from fleetops.rollouts import kinds, listing, rules
from fleetops.schedules import zone_of

from .models import Occurrence, RunSchedule
from .states import Cause, OccurrenceState

STRIP: Final = 30  # moments that are drawn
COMING: Final = 5
_BAD: Final = {Cause.DENIED, Cause.OWNER, Cause.INVALID}


def outcome(row: Occurrence) -> tuple[str, str]:
    """Kind and word of one moment: of its run, or of why it has none."""
    match row.state:
        case OccurrenceState.STARTED if row.run is not None:
            return listing.with_words(row.run).kind_of_state, row.run.word
        case OccurrenceState.STARTED:
            return "off", "Started"
        case OccurrenceState.DUE | OccurrenceState.PLANNED:
            return "run", "Being planned"
        case OccurrenceState.WAITING:
            return "hold", "Waits for a Start"
        case OccurrenceState.ASKED:
            return "hold", "Missed: run it?"
    word = Cause(row.cause).label if row.cause else row.get_state_display()
    if row.state == OccurrenceState.REFUSED:
        return ("bad" if row.cause in _BAD else "warn"), word
    return ("warn" if row.cause == Cause.MISSED else "off"), word


def with_words(row: Occurrence, zone: str) -> Occurrence:
    row.kind, row.word = outcome(row)
    row.shown_at = in_zone(row.due_at, zone)
    return row


def in_zone(moment: datetime | None, zone: str) -> str:
    """ "Tue 12 Jan 2027, 02:00 CET"; a zone that nobody knows any more is UTC."""
    if moment is None:
        return ""
    try:
        local = moment.astimezone(zone_of(zone))
    except UserError:
        local = moment.astimezone(UTC)
    name = local.tzname() or ""
    if not name.isalpha():  # of zones without a name of their own it is the offset
        offset = f"{local:%z}"
        name = f"UTC{offset[:3]}:{offset[3:5]}"
    return f"{local:%a} {local.day} {local:%b %Y, %H:%M} {name}"


def latest(schedules: Sequence[RunSchedule]) -> dict[Any, list[Occurrence]]:
    """By schedule the last moments, the oldest first. One query."""
    number = Window(RowNumber(), partition_by=F("schedule"), order_by=F("due_at").desc())
    rows = Occurrence.objects.filter(schedule__in=schedules).annotate(number=number).filter(number__lte=STRIP)
    found: dict[Any, list[Occurrence]] = {each.pk: [] for each in schedules}
    for row in rows.select_related("run").order_by("due_at"):
        found[row.schedule_id].append(row)
    return found


def dressed(schedules: Iterable[RunSchedule]) -> list[RunSchedule]:
    """With all that the list shows of them."""
    rows = list(schedules)
    moments = latest(rows)
    for each in rows:
        dress(each, moments[each.pk])
    return rows


def dress(schedule: RunSchedule, moments: list[Occurrence]) -> RunSchedule:
    now = clock_now()
    schedule.kind, schedule.word = state_of(schedule)
    try:
        schedule.said = schedule.in_words
        schedule.coming_at = schedule.coming(now, COMING) if schedule.enabled else []
    except UserError as error:
        schedule.said, schedule.coming_at = str(error), []
    schedule.coming_shown = [in_zone(each, schedule.zone) for each in schedule.coming_at]
    schedule.strip = [with_words(each, schedule.zone) for each in moments]
    schedule.last = schedule.strip[-1] if schedule.strip else None
    schedule.strip_said = said(schedule.strip)
    schedule.what = what(schedule)
    return schedule


def said(strip: Sequence[Occurrence]) -> str:
    """ "Last 12: 9 Finished, 2 Missed, 1 Failed"."""
    counts = Counter(each.word for each in strip)
    words = ", ".join(f"{count} {word}" for word, count in counts.most_common())
    return f"Last {len(strip)}: {words}" if strip else "It has not been due yet"


def state_of(schedule: RunSchedule) -> tuple[str, str]:
    if not schedule.enabled:
        return ("hold", "Paused") if schedule.why_off.startswith("Paused by") else ("bad", "Off")
    return ("ok", "On") if schedule.next_at else ("off", "Over")


def what(schedule: RunSchedule) -> str:
    """ "Scan", "AWS-RunShellScript"."""
    subject = schedule.wanted.get("subject", {})
    kind = str(schedule.wanted.get("kind", ""))
    if kind == "document":
        return str(subject.get("document", ""))
    try:
        label = kinds.find(kind).label
    except UserError:
        label = kind
    return f"{label}: {str(subject.get('operation', '')).lower()}".removesuffix(": ")


def wave_words(wanted: dict[str, Any]) -> list[str]:
    """A line a wave."""
    lines: list[str] = []
    if [each.get("by") for each in wanted.get("waves") or ()] == ["rest"] and not wanted["waves"][0].get("gates"):
        return ["all in one"]
    for number, rule in enumerate(wanted.get("waves") or (), 1):
        line = " ".join(filter(None, (str(rule.get("by", "")), str(rule.get("value", "")))))
        if soak := int(rule.get("soak_minutes") or 0):
            line += f", then soaks {soak} min"
        gates = [rules.gate_words(each) for each in rule.get("gates") or ()]
        lines.append(f"{number}: {line}" + (f", then {' and '.join(gates)}" if gates else ""))
    return lines or ["all in one"]
