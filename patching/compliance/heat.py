"""How much of each group did not comply at the end of each week: a heat map. One query, whatever the axis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.db.models import OuterRef, Q, Subquery

from fleetops.targets import comparison
from patching.families import OPERATING_SYSTEMS, operating_system_of
from patching.groups import TAGS as GROUP_TAGS

from .asking import Scope
from .models import Report

WEEKS: Final = 12  # columns, the last of them now
MOST_ROWS: Final = 50
UNKNOWN_SYSTEM: Final = "Not known to Patch Manager"
# Percent that do not comply, from which on a cell has this warmth; below the first it is none. As design 08 has them.
WARMTHS: Final = (0.0, 4.0, 8.0, 14.0, 25.0)
WORDS: Final = ("all comply", "few do not comply", "some do not comply", "many do not comply", "very many", "worst")


@dataclass(frozen=True, slots=True)
class Cell:
    """One group at one moment."""

    at: datetime
    is_now: bool
    scanned: int = 0
    bad: int = 0

    @property
    def percent(self) -> float | None:
        """None where nothing had been scanned: unknown, which is not compliant."""
        return 100.0 * self.bad / self.scanned if self.scanned else None

    @property
    def warmth(self) -> int:
        """0 to 5, for the colour."""
        if not self.bad:
            return 0
        return sum((self.percent or 0.0) > least for least in WARMTHS)

    @property
    def shown(self) -> str:
        """What stands in the cell: no 0 where some do not comply, no 100 where some do."""
        if self.percent is None:
            return "–"
        if self.bad and self.percent < 1:
            return "<1"
        return "99" if self.bad < self.scanned and self.percent > 99 else f"{self.percent:.0f}"

    @property
    def words(self) -> str:
        if self.percent is None:
            return "nothing was scanned"
        return f"{self.bad:,} of {self.scanned:,} do not comply, {self.percent:.1f}%"


@dataclass(frozen=True, slots=True)
class Row:
    """One group over the weeks."""

    name: str
    expression: str  # which instances it is made of; empty where no expression says it
    cells: tuple[Cell, ...]

    @property
    def now(self) -> Cell:
        return self.cells[-1]


@dataclass(frozen=True, slots=True)
class Heat:
    """Groups, the worst first, by the ends of weeks."""

    by: str
    moments: tuple[datetime, ...]
    rows: tuple[Row, ...]

    @property
    def left_out(self) -> int:
        return max(0, len(self.rows) - MOST_ROWS)

    @property
    def shown(self) -> tuple[Row, ...]:
        return self.rows[:MOST_ROWS]


def ends_of_weeks(at: datetime, weeks: int = WEEKS) -> tuple[datetime, ...]:
    """Midnights from Sunday to Monday, UTC, the oldest first; the last is `at` itself."""
    monday = at.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=at.weekday())
    if monday >= at:
        monday -= timedelta(days=7)
    return (*(monday - timedelta(weeks=back) for back in range(weeks - 2, -1, -1)), at)


def heat(scope: Scope, by: str) -> Heat:
    """By `by`, of asking.GROUPINGS or `tag:KEY`; an instance counts for the group that it is in at the last moment."""
    moments = ends_of_weeks(scope.at)
    told = Report.objects.filter(instance=OuterRef("pk")).order_by("-ended_at")  # as the index has it
    found = scope.ever().filter(Q(gone_at=None) | Q(gone_at__gt=moments[0]))
    stood = {f"at_{n}": Subquery(told.filter(ended_at__lte=at).values("is_compliant")[:1]) for n, at in _named(moments)}
    columns, name_of = _axis(by)
    if by in {"group", "baseline"}:
        stood["axis"] = Subquery(told.filter(ended_at__lte=scope.at).values(columns[0])[:1])
        columns = ("axis",)
    weeks = [f"at_{number}" for number, _ in _named(moments)]
    rows = found.order_by().annotate(**stood).values_list("gone_at", *weeks, *columns)
    counted: dict[str, list[list[int]]] = {}
    for gone_at, *told_then in rows.iterator(chunk_size=2000):
        counts = None
        for number, is_compliant in enumerate(told_then[: len(moments)]):
            if is_compliant is None or (gone_at is not None and gone_at <= moments[number]):
                continue
            if counts is None:
                counts = counted.setdefault(name_of(*told_then[len(moments) :]), [[0, 0] for _ in moments])
            counts[number][0] += 1
            counts[number][1] += not is_compliant
    made = [_row(by, name, counts, moments) for name, counts in counted.items()]
    made.sort(key=lambda row: (-(row.now.percent if row.now.percent is not None else -1.0), row.name))
    return Heat(by, moments, tuple(made))


def _named(moments: tuple[datetime, ...]) -> list[tuple[int, datetime]]:
    return list(enumerate(moments))


def _axis(by: str) -> tuple[tuple[str, ...], Callable[..., str]]:
    """The columns of an instance by which it is grouped, and the group's name out of them."""
    if by.startswith("tag:"):
        key = by.removeprefix("tag:")
        return ("tags",), lambda tags: str((tags or {}).get(key, ""))
    if by == "system":
        return ("platform_type", "platform_name", "platform_version"), _system
    return (_COLUMNS[by],), lambda value: str(value or "")


_COLUMNS: Final = {
    "account": "account__name",
    "region": "region__name",
    "platform": "platform_name",
    "group": "patch_group",  # these two of the last report
    "baseline": "baseline_id",
}


def _system(kind: str, name: str, version: str) -> str:
    return OPERATING_SYSTEMS.get(operating_system_of(kind, name, version), UNKNOWN_SYSTEM)


def _row(by: str, name: str, counts: list[list[int]], moments: tuple[datetime, ...]) -> Row:
    last = len(moments) - 1
    cells = tuple(Cell(at, n == last, *counts[n]) for n, at in _named(moments))
    return Row(name, expression_of(by, name), cells)


def expression_of(by: str, name: str) -> str:
    """A target expression for the instances of a group; empty where none says it."""
    if not name:
        return ""
    if by.startswith("tag:"):
        return str(comparison("tag", name, tag=by.removeprefix("tag:")))
    if by == "group":
        return " or ".join(str(comparison("tag", name, tag=tag)) for tag in GROUP_TAGS)
    if by in {"account", "region"}:
        return str(comparison(by, name))
    if by == "platform":  # of any version
        typed = str(comparison(by, name))
        return f'{typed[:-1]}*"' if typed.endswith('"') else f"{typed}*"
    return ""
