"""The lines of a chart, as points of an SVG. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

WIDTH, HEIGHT, LEFT, BOTTOM = 820, 240, 40, 20


@dataclass(frozen=True, slots=True)
class Point:
    """How a fleet stood at a moment."""

    at: datetime
    scanned: int
    bad: int

    @property
    def percent(self) -> float:
        return 100.0 * self.bad / self.scanned if self.scanned else 0.0


@dataclass(frozen=True, slots=True)
class Chart:
    """Where things are drawn."""

    line: str  # of a polyline
    area: str  # of a polygon
    last: tuple[float, float]
    levels: tuple[tuple[float, str], ...]  # y, label
    moments: tuple[tuple[float, str], ...]  # x, label
    first_percent: float
    now_percent: float
    days: int


def summed(rows: Iterable[tuple[datetime, int, int]]) -> list[Point]:
    """(hour, scanned, bad) of regions, added up hour by hour."""
    hours: dict[datetime, list[int]] = defaultdict(lambda: [0, 0])
    for hour, scanned, bad in rows:
        hours[hour][0] += scanned
        hours[hour][1] += bad
    return [Point(hour, *counts) for hour, counts in sorted(hours.items())]


def draw(points: Sequence[Point], *, until: datetime, days: int) -> Chart | None:
    """The share of instances that do not comply; None with fewer than two points, of which no line can be made."""
    if len(points) < 2:
        return None
    start = max(until - timedelta(days=days), points[0].at)
    span = max(until - start, timedelta(hours=1))
    top = _top(max(each.percent for each in points))

    def place(each: Point) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - 8) * min(1.0, max(0.0, (each.at - start) / span))
        y = (HEIGHT - BOTTOM) * (1 - each.percent / top) + 6
        return round(x, 1), round(y, 1)

    drawn = [place(each) for each in points]
    line = " ".join(f"{x},{y}" for x, y in drawn)
    floor = HEIGHT - BOTTOM + 6
    levels = tuple((round((HEIGHT - BOTTOM) * (1 - part / 4) + 6, 1), f"{top * part / 4:g}%") for part in range(5))
    moments = tuple(
        (round(LEFT + (WIDTH - LEFT - 8) * part / 4, 1), f"{start + span * part / 4:%-d %b}") for part in range(4)
    )
    return Chart(
        line=line,
        area=f"{drawn[0][0]},{floor} {line} {drawn[-1][0]},{floor}",
        last=drawn[-1],
        levels=levels,
        moments=moments,
        first_percent=points[0].percent,
        now_percent=points[-1].percent,
        days=max(1, round(span / timedelta(days=1))),
    )


def _top(highest: float) -> float:
    for level in (4.0, 8.0, 12.0, 20.0, 40.0, 60.0, 80.0):
        if highest <= level * 0.95:
            return level
    return 100.0
