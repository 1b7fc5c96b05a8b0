"""What an iCalendar says of a stretch of time. Pure: text in, periods in UTC out.

One evaluator for calendars that are fetched, uploaded or kept here: an entry of our own is written as a VEVENT too.
Read by `icalendar`, repeated by `recurring-ical-events` (RFC 5545: RRULE, RDATE, EXDATE, RECURRENCE-ID).
"""

import hashlib
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import icalendar
import recurring_ical_events
from icalendar import Calendar as ICalendar

from fleetops.clock import now
from fleetops.errors import UserError

MOST_BYTES: Final = 1 << 20
MOST_EVENTS: Final = 2000
# Looking for what comes next ends here: past a year a calendar says nothing that anybody plans by.
HORIZON: Final = timedelta(days=400)
# A rule that repeats more often than hourly is no freeze and no window, and would take long to expand.
_TOO_OFTEN: Final = frozenset({"SECONDLY", "MINUTELY"})
# What one look ahead may cost. Some 0.1 ms each: a calendar of 40 daily series, or of 300 weekly ones, is within it.
MOST_PERIODS: Final = 20_000
# Repetitions are counted from the first one on, some 5 µs each, however long ago it was.
_MOST_STEPS: Final = 500_000
_A_DAY: Final = {"YEARLY": 1 / 365, "MONTHLY": 1 / 28, "WEEKLY": 1 / 7, "DAILY": 1, "HOURLY": 24}
# Looked through day by day; together with these a rule may fit no day at all, and be looked for until the year 9999.
_BY_DAY_OF: Final = ("BYMONTHDAY", "BYYEARDAY", "BYWEEKNO", "BYSETPOS", "BYEASTER")
_LONGEST_MONTHS: Final = dict(enumerate((31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31), start=1))
# From the first of a month: the look ahead from any moment of it lies within.
_SPAN: Final = HORIZON + timedelta(days=40)
_MOST_KEPT: Final = 1024  # calendars and months


@dataclass(frozen=True, slots=True, order=True)
class Period:
    """From `start` up to and without `end`, both in UTC."""

    start: datetime
    end: datetime
    title: str = ""

    def holds(self, at: datetime) -> bool:
        return self.start <= at < self.end


# What icalendar and recurring-ical-events raise for text that they cannot make sense of, their own errors among it.
_OF_PARSERS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


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
    try:
        _check(events, now())
        # Once as far as anybody asks: what cannot be expanded is told now and not when it should hold.
        list(_between(calendar, "UTC", now(), now() + HORIZON))
    except UserError:
        raise
    except _OF_PARSERS as error:
        raise UserError(f"An event of the calendar cannot be read: {_first_line(error)}.") from None
    return len(events)


def _check(events: Iterable[Any], moment: datetime) -> None:
    """Raise UserError for events that cannot hold, or would take long to expand."""
    steps = periods = 0.0
    for event in events:
        title = str(event.get("SUMMARY", "without a title"))[:80]
        if "DTSTART" not in event:
            raise UserError(f"The event “{title}” has no start (DTSTART).")
        _check_zone(event, title)
        for rule in _listed(event.get("RRULE")):
            _check_rule(rule, title)
            more_steps, more_periods = _cost(event, rule, moment)
            steps, periods = steps + more_steps, periods + more_periods
        periods += 1 + sum(len(each.dts) for each in _listed(event.get("RDATE")))
    if steps > _MOST_STEPS or periods > MOST_PERIODS:
        raise UserError(
            f"The calendar repeats too often to be read: it has over {MOST_PERIODS:,} periods a year, or series that "
            "began very long ago. Say it by fewer and longer events, and start series later."
        )


def _listed(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _check_zone(event: Any, title: str) -> None:
    """A zone that nobody knows would be read as the calendar's own, hours away from what is meant."""
    for name in ("DTSTART", "DTEND"):
        value = event.get(name)
        zone = value.params.get("TZID") if value is not None and hasattr(value, "params") else None
        if zone and getattr(value.dt, "tzinfo", None) is None and isinstance(value.dt, datetime):
            raise UserError(
                f"The event “{title}” is in the time zone “{zone}”, which neither this machine knows nor the calendar "
                "describes; use one as Europe/Berlin."
            )


def _check_rule(rule: Any, title: str) -> None:
    every = _values(rule, "FREQ")
    seldom = f"The event “{title}” repeats in a way that may never come true"
    if set(every) & _TOO_OFTEN or len(_values(rule, "BYMINUTE")) > 1 or len(_values(rule, "BYSECOND")) > 1:
        raise UserError(f"The event “{title}” repeats more often than hourly; say it by one longer event.")
    if int((_values(rule, "INTERVAL") or ["1"])[0]) < 1:
        raise UserError(f"{seldom}: its INTERVAL has to be 1 at least.")
    days = [name for name in _BY_DAY_OF if name in rule]
    if set(every) & {"DAILY", "HOURLY"}:
        interval = int((_values(rule, "INTERVAL") or ["1"])[0])
        if days or (interval > 1 and any(name in rule for name in ("BYDAY", "BYHOUR", "BYMINUTE", "BYSECOND"))):
            raise UserError(f"{seldom}; write it as a weekly, monthly or yearly one.")
    months = [int(each) for each in _values(rule, "BYMONTH") if each.isdigit()] or list(_LONGEST_MONTHS)
    longest = max(_LONGEST_MONTHS.get(each, 0) for each in months)
    wanted = [abs(int(each)) for each in _values(rule, "BYMONTHDAY")]
    if (wanted and min(wanted) > longest) or any(abs(int(each)) > 31 for each in _values(rule, "BYSETPOS")):
        raise UserError(f"{seldom}: there is no such day.")


def _values(rule: Any, name: str) -> list[str]:
    return [str(each).upper() for each in _listed(rule.get(name))]


def _cost(event: Any, rule: Any, moment: datetime) -> tuple[float, float]:
    """About how many repetitions are counted, and how many lie within sight, at most."""
    start = event["DTSTART"].dt
    days = ((moment + HORIZON).date() - (start.date() if isinstance(start, datetime) else start)).days
    length = (_nominal(_end_of(event)) - _nominal(start)).days
    interval = int((_values(rule, "INTERVAL") or ["1"])[0])
    a_day = max((_A_DAY.get(each, 24) for each in _values(rule, "FREQ")), default=24) / interval
    for name in ("BYHOUR", "BYDAY", "BYMONTHDAY", "BYYEARDAY", "BYMONTH", "BYWEEKNO"):
        if name == "BYHOUR" or not {"DAILY", "HOURLY"} & set(_values(rule, "FREQ")):
            a_day *= max(len(_values(rule, name)), 1)
    count = [float(each) for each in _values(rule, "COUNT")]
    seen = min(max(days, 0), HORIZON.days + max(length, 0)) * a_day
    return max(days, 0) * a_day, min([seen, *count]) + 1


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


# (digest of the text, zone, first of the month) → periods from then on. The texts themselves are not kept.
_kept: OrderedDict[tuple[bytes, str, datetime], list[Period]] = OrderedDict()
_lock = threading.Lock()


def between(text: str, zone: str, start: datetime, end: datetime) -> list[Period]:
    """The periods of calendar `text` that touch [start, end), in order; at most HORIZON from `start` on.

    Days without a time of day, and times without a zone, are meant in `zone` (IANA). Expanding is slow: it is done
    once for a calendar and a month, and what was found is kept for whoever asks next.
    """
    first = start.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    if end > first + _SPAN:
        raise ValueError(f"{end} is more than {HORIZON.days} days after {start}")
    key = (hashlib.blake2b(text.encode(), digest_size=16).digest(), zone, first)
    with _lock:
        found = _kept.get(key)
        if found is not None:
            _kept.move_to_end(key)
    if found is None:
        found = sorted(_between(_read(text), zone, first, first + _SPAN))
        with _lock:
            _kept[key] = found
            while len(_kept) > _MOST_KEPT:
                _kept.popitem(last=False)
    last = bisect_left(found, end, key=lambda period: period.start)
    return [period for period in found[:last] if start < period.end]


def _between(calendar: ICalendar, zone: str, start: datetime, end: datetime) -> Iterator[Period]:
    # A day earlier and later: a time without a zone is up to 14 h away from where the library looks for it.
    day = timedelta(days=1)
    found: Iterable[Any] = recurring_ical_events.of(calendar).between(start - day, end + day)
    for event in found:
        if str(event.get("STATUS", "")).upper() == "CANCELLED":
            continue
        begins = _moment(event["DTSTART"].dt, zone)
        ends = _moment(_end_of(event), zone)
        if ends <= begins:  # it starts in the hour that the clocks leave out: it lasts as long as on other days
            ends = begins + max(_nominal(_end_of(event)) - _nominal(event["DTSTART"].dt), timedelta(0))
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


def _nominal(value: date | datetime) -> datetime:
    """What a clock on the wall shows then."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=None)
    return datetime(value.year, value.month, value.day)


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
