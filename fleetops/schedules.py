"""When something is due: AWS's expressions `rate(…)`, `cron(…)` and `at(…)`, read and computed. Pure.

Source: Systems Manager User Guide, "Reference: Cron and rate expressions for Systems Manager"; EventBridge Scheduler
User Guide, "Schedule types". What differs from cron on Unix: six fields (minute, hour, day of the month, month, day of
the week, year), Sunday is day 1 and Saturday day 7, exactly one of the two fields for days is `?`, and there are
`L` (the last), `15W` (the weekday nearest to the 15th, of the same month), `TUE#2` (the second Tuesday).

Where clocks change: what falls into the hour that is left out is due once, at the moment after it; what falls into the
hour that comes twice is due once, the first time. So several moments of a lost hour are one.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fleetops.errors import UserError

FIRST_YEAR, LAST_YEAR = 1970, 2199  # AWS's
MOST_OFFSET_DAYS: Final = 6  # AWS's ScheduleOffset
MOST_CHARACTERS: Final = 256
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
INSTANT: Final = timedelta(microseconds=1)  # the least by which two moments differ
_MINUTE: Final = timedelta(minutes=1)
_UNITS: Final = {"minute": _MINUTE, "hour": timedelta(hours=1), "day": timedelta(days=1)}
_LONGEST: Final = timedelta(days=3660)
_MONTH_NAMES: Final = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_MONTHS: Final = {name: n for n, name in enumerate(_MONTH_NAMES, 1)}
_DAYS: Final = {"SUN": 1, "MON": 2, "TUE": 3, "WED": 4, "THU": 5, "FRI": 6, "SAT": 7}
_DAY_WORDS: Final = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_NTH: Final = ("first", "second", "third", "fourth", "fifth")
_HOW: Final = "Write rate(1 day), cron(0 2 ? * SUN *) or at(2027-01-31T02:00:00)."


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a cron expression: its values, or a rule that needs the month to say which days they are."""

    text: str
    values: frozenset[int] = frozenset()
    rule: str = ""  # "", "?", "last", "last-weekday", "nearest", "nth"
    day: int = 0  # of the week (SUN is 1) or of the month; of "last": how many days before the last
    nth: int = 0

    @property
    def is_any(self) -> bool:
        return self.text in {"*", "?"}


@dataclass(frozen=True, slots=True)
class Schedule:
    """An expression that was read. `text` is as it is kept and shown."""

    text: str
    every: timedelta | None = None
    at: datetime | None = None  # without a zone
    cron: tuple[Field, ...] = ()
    offset_days: int = 0

    @property
    def is_once(self) -> bool:
        return self.at is not None

    def next(self, after: datetime, zone: str = "UTC", *, anchor: datetime = EPOCH) -> datetime | None:
        """The first moment later than `after`, in UTC; None if there is none. A rate counts from `anchor`, an instant.

        `after` and `anchor` are aware. Raises UserError for a zone that nobody knows.
        """
        found = zone_of(zone)
        if self.every is not None:
            if after < anchor:
                return anchor.astimezone(UTC)
            passed = (after - anchor) // self.every + 1
            try:
                return (anchor + passed * self.every).astimezone(UTC)
            except OverflowError:
                return None
        if self.at is not None:
            moment = in_utc(self.at, found)
            return moment if moment > after else None
        shift = timedelta(days=self.offset_days)
        try:
            start = after.astimezone(found).replace(tzinfo=None, fold=0) - shift
        except OverflowError:
            return None
        for nominal in _walk(self.cron, start):
            moment = in_utc(nominal + shift, found)
            if moment > after:
                return moment
        return None

    def between(
        self, start: datetime, end: datetime, zone: str = "UTC", *, anchor: datetime = EPOCH, most: int = 1000
    ) -> list[datetime]:
        """The moments after `start` and not after `end`, in order; the first `most` of them."""
        found: list[datetime] = []
        moment = self.next(start, zone, anchor=anchor)
        while moment is not None and moment <= end and len(found) < most:
            found.append(moment)
            moment = self.next(moment, zone, anchor=anchor)
        return found

    def coming(self, after: datetime, zone: str, count: int, *, anchor: datetime = EPOCH) -> list[datetime]:
        """The next `count` moments."""
        return self.between(after, datetime.max.replace(tzinfo=UTC), zone, anchor=anchor, most=count)

    def in_words(self) -> str:
        """ "at 02:00 on the second Tuesday of the month, 3 days later"."""
        if self.every is not None:
            return f"every {_rate_words(self.every)}"
        if self.at is not None:
            return f"once, on {self.at.day} {calendar.month_name[self.at.month]} {self.at:%Y at %H:%M:%S}"
        return _cron_words(self.cron) + _offset_words(self.offset_days)


# --- reading ---------------------------------------------------------------------------------------------------------


def zone_of(name: str) -> ZoneInfo:
    """Raises UserError."""
    try:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_+\-/]{0,63}", name):
            raise ValueError
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UserError(f"There is no time zone “{name[:64]}”. Write an IANA name: UTC, Europe/Berlin.") from None


def parse(text: str, *, offset_days: int = 0) -> Schedule:
    """Read an expression. Raises UserError that says what is wrong, and how it is written."""
    text = " ".join(text.split())
    if len(text) > MOST_CHARACTERS:
        raise UserError(f"A schedule has at most {MOST_CHARACTERS} characters.")
    found = re.fullmatch(r"(rate|cron|at)\s?\((.*)\)", text, re.IGNORECASE)
    if not found:
        raise UserError(f"“{text[:80]}” is no schedule. {_HOW}" if text else f"Say when. {_HOW}")
    what, inner = found[1].lower(), found[2].strip()
    if not 0 <= offset_days <= MOST_OFFSET_DAYS:
        raise UserError(f"The offset is 0 to {MOST_OFFSET_DAYS} days.")
    if offset_days and what != "cron":
        raise UserError("Only a cron expression takes an offset in days.")
    if what == "rate":
        return _rate(inner)
    if what == "at":
        return _at(inner)
    return _cron(inner, offset_days)


def _rate(inner: str) -> Schedule:
    found = re.fullmatch(r"(\d{1,6}) (minute|hour|day)(s?)", inner, re.IGNORECASE | re.ASCII)
    if not found or int(found[1]) < 1:
        raise UserError("A rate is a number and a unit: rate(30 minutes), rate(1 hour), rate(7 days).")
    count, unit = int(found[1]), found[2].lower()
    if (count == 1) == bool(found[3]):
        right = unit if count == 1 else f"{unit}s"
        raise UserError(f"AWS wants the unit to fit the number: rate({count} {right}).")
    every = count * _UNITS[unit]
    if every > _LONGEST:
        raise UserError("A rate is ten years at most.")
    return Schedule(f"rate({count} {unit}{'' if count == 1 else 's'})", every=every)


def _at(inner: str) -> Schedule:
    try:
        moment = datetime.strptime(inner, "%Y-%m-%dT%H:%M:%S")
    except ValueError:
        raise UserError("Write a moment as at(2027-01-31T02:00:00), in the schedule's own time zone.") from None
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        raise UserError(f"The year is {FIRST_YEAR} to {LAST_YEAR}.")
    return Schedule(f"at({moment:%Y-%m-%dT%H:%M:%S})", at=moment)


def _cron(inner: str, offset_days: int) -> Schedule:
    parts = inner.upper().split()
    if len(parts) == 7:
        if parts[0] != "0":
            raise UserError("Of seven fields the first is seconds: write 0, or leave it out.")
        parts = parts[1:]
    if len(parts) != 6:
        raise UserError(
            f"A cron expression has six fields, this one {len(parts)}: "
            "minute, hour, day of the month, month, day of the week, year. cron(0 2 ? * SUN *)"
        )
    minute, hour, month_day, month, week_day, year = parts
    if (month_day == "?") == (week_day == "?"):
        raise UserError("Of day of the month and day of the week exactly one is ?, the other says the days.")
    fields = (
        _plain(minute, "minute", 0, 59),
        _plain(hour, "hour", 0, 23),
        _month_day(month_day),
        _plain(month, "month", 1, 12, _MONTHS),
        _week_day(week_day),
        _plain(year, "year", FIRST_YEAR, LAST_YEAR),
    )
    return Schedule(f"cron({' '.join(parts)})", cron=fields, offset_days=offset_days)


def _plain(text: str, name: str, low: int, high: int, names: dict[str, int] | None = None) -> Field:
    """Values, lists, ranges and steps. A range may run over the end: FRI-MON, 22-3; not of years."""
    values: set[int] = set()
    for part in text.split(","):
        body, slash, step_text = part.partition("/")
        step = _number(step_text, f"the step of the {name}", 1, high) if slash else 1
        first, dash, last = body.partition("-")
        if body == "*":
            begin, end = low, high
        elif dash:
            begin, end = (_number(each, f"the {name}", low, high, names) for each in (first, last))
        else:
            begin = _number(body, f"the {name}", low, high, names)
            end = high if slash else begin
        if end < begin:
            if name == "year":
                raise UserError(f"{body} are no years: the first comes first.")
            end += high - low + 1
        values |= {low + (each - low) % (high - low + 1) for each in range(begin, end + 1, step)}
    return Field(text, frozenset(values))


def _number(text: str, name: str, low: int, high: int, names: dict[str, int] | None = None) -> int:
    if names and text in names:
        return names[text]
    if text.isascii() and text.isdigit() and len(text) <= 4 and low <= int(text) <= high:
        return int(text)
    also = f", or {next(iter(names))} to {list(names)[-1]}" if names else ""
    raise UserError(f"“{text[:20]}” cannot be {name}: that is {low} to {high}{also}.")


def _month_day(text: str) -> Field:
    if text == "?":
        return Field(text, rule="?")
    if text == "L":
        return Field(text, rule="last")
    if found := re.fullmatch(r"L-(\d{1,2})", text, re.ASCII):
        return Field(text, rule="last", day=_number(found[1], "the days before the last", 1, 30))
    if found := re.fullmatch(r"(\w+)W", text):
        return Field(text, rule="nearest", day=_number(found[1], "the day of the month", 1, 31))
    if "W" in text or "L" in text:
        raise UserError(f"“{text[:20]}” is no day of the month: L and 15W stand alone in their field.")
    return _plain(text, "day of the month", 1, 31)


def _week_day(text: str) -> Field:
    name = "the day of the week"
    if text == "?":
        return Field(text, rule="?")
    if text == "L":
        return Field(text, frozenset({7}))
    if found := re.fullmatch(r"(\w+)L", text):
        return Field(text, rule="last-weekday", day=_number(found[1], name, 1, 7, _DAYS))
    if found := re.fullmatch(r"(\w+)#(\w+)", text):
        day = _number(found[1], name, 1, 7, _DAYS)
        return Field(text, rule="nth", day=day, nth=_number(found[2], "the week of the month", 1, 5))
    if "#" in text:
        raise UserError(f"“{text[:20]}” is no day of the week: TUE#2 stands alone in its field.")
    return _plain(text, "day of the week", 1, 7, _DAYS)


# --- computing -------------------------------------------------------------------------------------------------------


def in_utc(local: datetime, zone: ZoneInfo) -> datetime:
    """The instant at which clocks of `zone` first show `local`, or first show a later time if they leave it out."""
    first = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if first.astimezone(zone).replace(tzinfo=None, fold=0) == local:
        return first
    # Left out. Read by the offset from after the change it lies before it; by the one from before, after it.
    before, after = local.replace(tzinfo=zone, fold=1).astimezone(UTC), first
    old = before.astimezone(zone).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = before + timedelta(seconds=int((after - before).total_seconds()) // 2)
        if middle.astimezone(zone).utcoffset() == old:
            before = middle
        else:
            after = middle
    return after


def _walk(cron: tuple[Field, ...], start: datetime) -> Iterator[datetime]:
    """Local times that the fields name, in order, from the minute of `start` on."""
    minutes, hours = sorted(cron[0].values), sorted(cron[1].values)
    months, years = cron[3].values, cron[5].values
    floor = start.replace(second=0, microsecond=0)
    for year in range(max(start.year, FIRST_YEAR), LAST_YEAR + 1):
        if year not in years:
            continue
        for month in range(start.month if year == start.year else 1, 13):
            if month not in months:
                continue
            for day in _days(cron[2], cron[4], year, month):
                if (year, month, day) < (start.year, start.month, start.day):
                    continue
                for hour in hours:
                    for minute in minutes:
                        moment = datetime(year, month, day, hour, minute)
                        if moment >= floor:
                            yield moment


def _days(month_day: Field, week_day: Field, year: int, month: int) -> list[int]:
    """Days of that month that are meant, in order."""
    first = _weekday(year, month, 1)
    last = calendar.monthrange(year, month)[1]
    match month_day.rule, week_day.rule:
        case "last", _:
            return [last - month_day.day] if last > month_day.day else []
        case "nearest", _:
            return [_nearest(month_day.day, year, month, last)] if month_day.day <= last else []
        case "", _:
            return [day for day in range(1, last + 1) if day in month_day.values]
        case _, "last-weekday":
            return [last - (_weekday(year, month, last) - week_day.day) % 7]
        case _, "nth":
            day = 1 + (week_day.day - first) % 7 + 7 * (week_day.nth - 1)
            return [day] if day <= last else []
    return [day for day in range(1, last + 1) if 1 + (first - 1 + day - 1) % 7 in week_day.values]


def _weekday(year: int, month: int, day: int) -> int:
    """AWS's number: Sunday is 1."""
    return date(year, month, day).isoweekday() % 7 + 1


def _nearest(day: int, year: int, month: int, last: int) -> int:
    """The Monday to Friday nearest to a day, of the same month."""
    match _weekday(year, month, day):
        case 7:
            return day - 1 if day > 1 else day + 2
        case 1:
            return day + 1 if day < last else day - 2
    return day


# --- words -----------------------------------------------------------------------------------------------------------


def _rate_words(every: timedelta) -> str:
    for unit in ("day", "hour", "minute"):
        if not every % _UNITS[unit]:
            count = every // _UNITS[unit]
            return unit if count == 1 else f"{count:,} {unit}s"
    return str(every)


def _offset_words(days: int) -> str:
    return f", {days} day{'s' if days > 1 else ''} later" if days else ""


def _cron_words(cron: tuple[Field, ...]) -> str:
    minute, hour, month_day, month, week_day, year = cron
    days = _day_words(month_day, week_day)
    parts = [_time_words(minute, hour), days]
    if not month.is_any:
        parts.append(f"in {_listed([calendar.month_name[each] for each in sorted(month.values)])}")
    if not year.is_any:
        parts.append(f"in {_ranges(sorted(year.values))}")
    return " ".join(each for each in parts if each)


def _time_words(minute: Field, hour: Field) -> str:
    minutes, hours = sorted(minute.values), sorted(hour.values)
    if len(minutes) * len(hours) <= 4:
        return f"at {_listed([f'{h:02}:{m:02}' for h in hours for m in minutes])}"
    pace, hour_pace = _pace(minutes, 60), _pace(hours, 24)
    if len(minutes) == 1:
        if hour_pace == 1:
            return f"every hour at minute {minutes[0]}"
        if hour_pace:
            return f"every {hour_pace} hours, from {hours[0]:02}:{minutes[0]:02} on,"
        return f"at minute {minutes[0]} of the hours {_ranges(hours)}"
    said = "every minute" if pace == 1 else f"every {pace} minutes" if pace else f"at the minutes {_ranges(minutes)}"
    return said if len(hours) == 24 else f"{said} of the hours {_ranges(hours)}"


def _pace(values: list[int], whole: int) -> int:
    """The even step by which values go round the clock; 0 if they do not."""
    step = values[1] - values[0] if len(values) > 1 else 0
    return step if step and whole % step == 0 and values == list(range(values[0], whole, step)) else 0


def _day_words(month_day: Field, week_day: Field) -> str:
    if month_day.rule == "last":
        ago = f"{month_day.day} day{'s' if month_day.day > 1 else ''} before " if month_day.day else "on "
        return f"{ago}the last day of the month"
    if month_day.rule == "nearest":
        return f"on the weekday nearest to the {_ordinal(month_day.day)} of the month"
    if week_day.rule == "last-weekday":
        return f"on the last {_DAY_WORDS[week_day.day - 1]} of the month"
    if week_day.rule == "nth":
        return f"on the {_NTH[week_day.nth - 1]} {_DAY_WORDS[week_day.day - 1]} of the month"
    if month_day.rule == "?":
        values = sorted(week_day.values)
        if len(values) == 7:
            return "every day"
        if values == [2, 3, 4, 5, 6]:
            return "from Monday to Friday"
        return f"on {_listed([_DAY_WORDS[each - 1] for each in values])}"
    values = sorted(month_day.values)
    if len(values) == 31:
        return "every day"
    return f"on the {_listed([_ordinal(each) for each in values])} of the month"


def _ordinal(n: int) -> str:
    tail = "th" if n % 100 in {11, 12, 13} else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{tail}"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _ranges(values: list[int]) -> str:
    """ "9 to 17", "1, 3 and 5"."""
    runs: list[list[int]] = []
    for each in values:
        if runs and each == runs[-1][-1] + 1:
            runs[-1].append(each)
        else:
            runs.append([each])
    words = []
    for run in runs:
        words += [f"{run[0]} to {run[-1]}"] if len(run) > 2 else [str(each) for each in run]
    return _listed(words)
