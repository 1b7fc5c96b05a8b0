"""When a schedule is due, as people fill it in: every day, every second Tuesday, or an expression of their own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from fleetops.errors import FieldError

HOWS: Final = (
    ("daily", "Every day"),
    ("weekdays", "Monday to Friday"),
    ("weekly", "Every week"),
    ("monthly", "Monthly, by date"),
    ("nth", "Monthly, by weekday"),
    ("rate", "Every few hours"),
    ("own", "Own expression"),
)
DAYS: Final = (
    *(("MON", "Monday"), ("TUE", "Tuesday"), ("WED", "Wednesday"), ("THU", "Thursday"), ("FRI", "Friday")),
    *(("SAT", "Saturday"), ("SUN", "Sunday")),
)
NTHS: Final = (("1", "First"), ("2", "Second"), ("3", "Third"), ("4", "Fourth"), ("L", "Last"))
FIELDS: Final = ("how", "time", "day", "nth", "month_day", "hours", "offset_days", "expression")
DEFAULTS: Final = {
    "how": "daily",
    "time": "02:00",
    "day": "SUN",
    "nth": "2",
    "month_day": "1",
    "hours": "6",
    "offset_days": "0",
    "expression": "",
}
# Which inputs each way has besides.
INPUTS: Final = {
    "daily": ("time",),
    "weekdays": ("time",),
    "weekly": ("day", "time"),
    "monthly": ("month_day", "time"),
    "nth": ("nth", "day", "offset_days", "time"),
    "rate": ("hours",),
    "own": ("expression", "offset_days"),
}
_CRON: Final = re.compile(r"cron\((\d{1,2}) (\d{1,2}) (\S+) \* (\S+) \*\)")


def values_of(given: Mapping[str, str]) -> dict[str, str]:
    """What the inputs hold."""
    found = {name: str(given.get(name, DEFAULTS[name])).strip()[:256] for name in FIELDS}
    if found["how"] not in INPUTS:
        found["how"] = DEFAULTS["how"]
    return found


def expression_of(values: Mapping[str, str]) -> tuple[str, int]:
    """The expression, and the days after it. Raises FieldError."""
    how = values["how"]
    offset = _number(values["offset_days"] or "0", "offset_days", 0, 6) if "offset_days" in INPUTS[how] else 0
    if how == "own":
        return values["expression"], offset
    if how == "rate":
        hours = _number(values["hours"], "hours", 1, 8784)
        return f"rate({hours} hour{'' if hours == 1 else 's'})", 0
    found = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", values["time"], re.ASCII)
    if not found:
        raise FieldError("time", "Write a time of day as 02:00.")
    at = f"{int(found[2])} {int(found[1])}"
    if how == "monthly":
        if values["month_day"] == "L":
            return f"cron({at} L * ? *)", 0
        return f"cron({at} {_number(values['month_day'], 'month_day', 1, 31)} * ? *)", 0
    day = values["day"]
    if day not in dict(DAYS):
        raise FieldError("day", "Choose a day of the week.")
    if how == "nth":
        if values["nth"] not in dict(NTHS):
            raise FieldError("nth", "Choose the first to the fourth, or the last.")
        which = f"{day}L" if values["nth"] == "L" else f"{day}#{values['nth']}"
        return f"cron({at} ? * {which} *)", offset
    if how == "daily":
        return f"cron({at} * * ? *)", 0
    return f"cron({at} ? * {'MON-FRI' if how == 'weekdays' else day} *)", 0


def parts_of(expression: str, offset_days: int) -> dict[str, str]:
    """The inputs that make an expression: those of a simple way if there is one, else the expression itself."""
    own = {**DEFAULTS, "how": "own", "expression": expression, "offset_days": str(offset_days)}
    if found := re.fullmatch(r"rate\((\d+) hours?\)", expression):
        return {**own, "how": "rate", "hours": found[1]}
    found = _CRON.fullmatch(expression)
    if not found:
        return own
    minute, hour, month_day, week_day = found.groups()
    parts = {**own, "time": f"{int(hour):02}:{int(minute):02}"}
    if which := re.fullmatch(r"([A-Z]{3})(?:#([1-4])|(L))", week_day):
        return {**parts, "how": "nth", "day": which[1], "nth": which[2] or which[3]}
    if offset_days:
        return own
    if (month_day, week_day) == ("*", "?"):
        return {**parts, "how": "daily"}
    if (month_day, week_day) == ("?", "MON-FRI"):
        return {**parts, "how": "weekdays"}
    if month_day == "?" and week_day in dict(DAYS):
        return {**parts, "how": "weekly", "day": week_day}
    if week_day == "?" and re.fullmatch(r"\d{1,2}|L", month_day):
        return {**parts, "how": "monthly", "month_day": month_day}
    return own


def _number(text: str, name: str, low: int, high: int) -> int:
    if text.isascii() and text.isdigit() and len(text) < 6 and low <= int(text) <= high:
        return int(text)
    raise FieldError(name, f"Write a whole number from {low} to {high:,}.")
