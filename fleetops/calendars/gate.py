"""May a deed be done now, as far as calendars go? Pure: the calendars that bind come in, an answer goes out."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from .periods import HORIZON, Period, between


@dataclass(frozen=True, slots=True)
class Binding:
    """One calendar that binds the deed and target in question."""

    name: str
    is_freeze: bool  # else it opens windows
    text: str  # iCalendar
    zone: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Why a deed has to wait."""

    calendar: str
    title: str  # of the freeze; empty where no window is open
    until: datetime | None  # UTC; None if that is not within sight

    def __str__(self) -> str:
        until = f" until {self.until:%Y-%m-%d %H:%M} UTC" if self.until else ""
        if not self.title:
            return f"no window of “{self.calendar}” is open{until}"
        return f"frozen by “{self.calendar}”{until}: {self.title}"


@dataclass(frozen=True, slots=True)
class Gate:
    """Open, or held; and when that changes."""

    holds: tuple[Hold, ...]
    changes_at: datetime | None  # when it opens, or, if it is open, when it closes; None: not within 400 days

    @property
    def is_open(self) -> bool:
        return not self.holds


def gate(bindings: Sequence[Binding], at: datetime) -> Gate:
    """What `bindings` say at `at`: open outside of all freezes and, if any calendar gives windows, inside one of them.

    The windows of several calendars add to each other; every freeze holds.
    """
    coming = [(each, between(each.text, each.zone, at, at + HORIZON)) for each in bindings]
    holds = [
        Hold(binding.name, period.title or "a freeze", period.end)
        for binding, periods in coming
        if binding.is_freeze
        for period in periods
        if period.holds(at)
    ]
    windows = [(binding, periods) for binding, periods in coming if not binding.is_freeze]
    if windows and not any(period.holds(at) for _, periods in windows for period in periods):
        names = "”, “".join(binding.name for binding, _ in windows)
        starts = [period.start for _, periods in windows for period in periods if period.start > at]
        holds.append(Hold(names, "", min(starts, default=None)))
    return Gate(tuple(holds), _next_change(coming, at, is_open=not holds))


def _next_change(coming: Sequence[tuple[Binding, Sequence[Period]]], at: datetime, *, is_open: bool) -> datetime | None:
    """The first moment after `at` at which the answer is the other one. Answers change at edges of periods alone."""
    freezes = windows = 0  # how many hold
    edges: list[
        tuple[datetime, int, int]
    ] = []  # when, and how many more or fewer freezes and windows hold from then on
    for binding, periods in coming:
        freeze, window = int(binding.is_freeze), int(not binding.is_freeze)
        for period in periods:
            if period.start > at:
                edges.append((period.start, freeze, window))
            else:
                freezes, windows = freezes + freeze, windows + window
            if period.end < at + HORIZON:  # what holds after it nobody has looked at
                edges.append((period.end, -freeze, -window))
    has_windows = any(not binding.is_freeze for binding, _ in coming)
    moment: datetime
    for moment, at_once in groupby(sorted(edges), key=lambda edge: edge[0]):
        for _, freeze, window in at_once:
            freezes, windows = freezes + freeze, windows + window
        if (not freezes and (windows > 0 or not has_windows)) != is_open:
            return moment
    return None
