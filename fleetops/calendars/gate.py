"""May a deed be done now, as far as calendars go? Pure: the calendars that bind come in, an answer goes out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from .periods import HORIZON, Period, between

_STEP: Final = timedelta(days=35)  # expanded at a time, when looking ahead


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
    holds = _holds(bindings, at)
    return Gate(holds, _next_change(bindings, at, is_open=not holds))


def _holds(bindings: Sequence[Binding], at: datetime) -> tuple[Hold, ...]:
    holds = []
    instant = at + timedelta(microseconds=1)
    for binding in bindings:
        if binding.is_freeze:
            for period in between(binding.text, binding.zone, at, instant):
                holds.append(Hold(binding.name, period.title or "a freeze", period.end))
    windows = [binding for binding in bindings if not binding.is_freeze]
    if windows and not any(between(each.text, each.zone, at, instant) for each in windows):
        names = "”, “".join(each.name for each in windows)
        holds.append(Hold(names, "", _next_start(windows, at)))
    return tuple(holds)


def _next_start(windows: Sequence[Binding], at: datetime) -> datetime | None:
    for start, end in _spans(at):
        starts = [period.start for period in _all(windows, start, end) if period.start > at]
        if starts:
            return min(starts)
    return None


def _next_change(bindings: Sequence[Binding], at: datetime, *, is_open: bool) -> datetime | None:
    """The first moment after `at` at which the answer is the other one. Answers change at edges of periods alone."""
    freezes = [each for each in bindings if each.is_freeze]
    windows = [each for each in bindings if not each.is_freeze]
    for start, end in _spans(at):
        closed, opened = _all(freezes, start, end), _all(windows, start, end)
        edges = sorted({edge for period in (*closed, *opened) for edge in (period.start, period.end) if edge > at})
        for edge in edges:
            if edge >= end:
                break  # what holds there the next span knows
            frozen = any(period.holds(edge) for period in closed)
            is_open_then = not frozen and (not windows or any(period.holds(edge) for period in opened))
            if is_open_then != is_open:
                return edge
    return None


def _spans(at: datetime) -> Iterable[tuple[datetime, datetime]]:
    start = at
    while start < at + HORIZON:
        yield start, start + _STEP
        start += _STEP


def _all(bindings: Iterable[Binding], start: datetime, end: datetime) -> list[Period]:
    return [period for each in bindings for period in between(each.text, each.zone, start, end)]
