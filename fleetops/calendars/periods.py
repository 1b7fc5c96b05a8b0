"""What an iCalendar says of a stretch of time. Pure: text in, periods in UTC out.

One evaluator for calendars that are fetched, uploaded or kept here: an entry of our own is written as a VEVENT too.
Read by `icalendar`, repeated by `recurring-ical-events` (RFC 5545: RRULE, RDATE, EXDATE, RECURRENCE-ID).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any, Final
from zoneinfo import ZoneInfo

import icalendar
import recurring_ical_events
from icalendar import Calendar as ICalendar

from fleetops.errors import UserError

MOST_BYTES: Final = 1 << 20
MOST_EVENTS: Final = 2000
# Looking for what comes next ends here: past a year a calendar says nothing that anybody plans by.
HORIZON: Final = timedelta(days=400)
# A rule that repeats more often than hourly is no freeze and no window, and would take long to expand.
_TOO_OFTEN: Final = frozenset({"SECONDLY", "MINUTELY"})


@dataclass(frozen=True, slots=True, order=True)
class Period:
    """From `start` up to and without `end`, both in UTC."""

    start: datetime
    end: datetime
    title: str = ""

    def holds(self, at: datetime) -> bool:
        return self.start <= at < self.end


def examine(text: str | bytes) -> int:
    """The number of events in an iCalendar that may be kept.

    Raises UserError, saying what to mend, for what is none, or is larger than a calendar of freezes should ever be.
    """
    if len(text) > MOST_BYTES:
        raise UserError(f"The calendar has more than {MOST_BYTES // 1024} KiB; export the events that matter alone.")
    calendar = _read(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)
    events = calendar.walk("VEVENT")
    if len(events) > MOST_EVENTS:
        raise UserError(f"The calendar has {len(events):,} events; at most {MOST_EVENTS:,} can be read.")
    for event in events:
        title = str(event.get("SUMMARY", "without a title"))[:80]
        if "DTSTART" not in event:
            raise UserError(f"The event “{title}” has no start (DTSTART).")
        rules = event.get("RRULE", [])
        for rule in rules if isinstance(rules, list) else [rules]:
            if _TOO_OFTEN & {str(each).upper() for each in rule.get("FREQ", [])}:
                raise UserError(f"The event “{title}” repeats more often than hourly; say it by one longer event.")
    try:
        # All of them are expanded once, over a day: what cannot be expanded is told now and not when it should hold.
        list(_between(calendar, "UTC", datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)))
    except Exception as error:  # the two libraries raise whatever their parsers do
        raise UserError(f"An event of the calendar cannot be read: {_first_line(error)}.") from None
    return len(events)


def _read(text: str) -> ICalendar:
    try:
        calendar = ICalendar.from_ical(text)
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise UserError(f"This is no iCalendar file: {_first_line(error)}.") from None
    if not isinstance(calendar, ICalendar):
        raise UserError("This is no iCalendar file: it begins with something else than VCALENDAR.")
    return calendar


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160].rstrip(".")


@lru_cache(maxsize=64)
def _parsed(text: str) -> ICalendar:
    return _read(text)


def between(text: str, zone: str, start: datetime, end: datetime) -> list[Period]:
    """The periods of calendar `text` that touch [start, end), in order.

    Days without a time of day, and times without a zone, are meant in `zone` (IANA).
    """
    return sorted(_between(_parsed(text), zone, start, end))


def _between(calendar: ICalendar, zone: str, start: datetime, end: datetime) -> Iterator[Period]:
    # A day earlier and later: a time without a zone is up to 14 h away from where the library looks for it.
    day = timedelta(days=1)
    found: Iterable[Any] = recurring_ical_events.of(calendar).between(start - day, end + day)
    for event in found:
        if str(event.get("STATUS", "")).upper() == "CANCELLED":
            continue
        begins = _moment(event["DTSTART"].dt, zone)
        ends = _moment(_end_of(event), zone)
        if ends > begins and begins < end and start < ends:
            yield Period(begins, ends, str(event.get("SUMMARY", ""))[:200])


def _end_of(event: Any) -> date | datetime:
    if "DTEND" in event:
        end: date | datetime = event["DTEND"].dt
        return end
    begins: date | datetime = event["DTSTART"].dt
    if "DURATION" in event:
        length: timedelta = event["DURATION"].dt
        return begins + length
    # RFC 5545, 3.6.1: a day lasts its day; a moment, no time at all.
    return begins if isinstance(begins, datetime) else begins + timedelta(days=1)


def _moment(value: date | datetime, zone: str) -> datetime:
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if value.tzinfo is None:
        value = value.replace(tzinfo=ZoneInfo(zone))
    return value.astimezone(UTC)


def event_text(
    uid: str, title: str, start: datetime, end: datetime, zone: str, *, repeat: str = "", until: date | None = None
) -> str:
    """One VEVENT of our own. `start` and `end` are times of day in `zone`; `repeat` is an RRULE without UNTIL."""
    event = icalendar.Event()
    event.add("UID", uid)
    event.add("SUMMARY", title)
    event.add("DTSTART", start.replace(tzinfo=ZoneInfo(zone)))
    event.add("DTEND", end.replace(tzinfo=ZoneInfo(zone)))
    if repeat:
        rule = icalendar.vRecur.from_ical(repeat)
        if until:
            last = datetime(until.year, until.month, until.day, 23, 59, 59, tzinfo=ZoneInfo(zone))
            rule["UNTIL"] = [last.astimezone(UTC)]
        event.add("RRULE", rule)
    text: bytes = event.to_ical()
    return text.decode()


def calendar_text(name: str, events: Iterable[str]) -> str:
    """A whole iCalendar of events that `event_text` wrote."""
    title = icalendar.vText(name).to_ical().decode()
    head = f"BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//FleetOps//calendars//EN\r\nX-WR-CALNAME:{title}\r\n"
    return f"{head}{''.join(events)}END:VCALENDAR\r\n"
