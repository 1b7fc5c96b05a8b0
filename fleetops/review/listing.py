"""The audit page's parts: facets, histogram, groups, pages by key. Questions to the database, no decisions."""

import uuid
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

from django.db.models import Count, Max, Min, Q, QuerySet
from django.db.models.functions import TruncDay, TruncHour, TruncMinute

from fleetops.audit.models import AuditEvent, Outcome

from .search import Search
from .words import KINDS, SOURCES, kind_of

ROWS = 100
BARS = 60
MOST_NAMES = 6  # of one facet
BAR_HEIGHT = 54


@dataclass
class Page:
    """Rows of one page, newest first, and the ids to go on from."""

    rows: list[AuditEvent]
    older: uuid.UUID | None
    newer: uuid.UUID | None


def page(rows: QuerySet, *, before: uuid.UUID | None = None, after: uuid.UUID | None = None) -> Page:
    """One page by key: rows older than `before`, or the ROWS next newer than `after`, or the newest."""
    if after is not None:
        found = list(rows.filter(pk__gt=after).order_by("pk")[: ROWS + 1])
        more_newer, found = len(found) > ROWS, found[:ROWS][::-1]
        return Page(found, found[-1].pk if found else None, found[0].pk if found and more_newer else None)
    older_rows = rows if before is None else rows.filter(pk__lt=before)
    found = list(older_rows.order_by("-pk")[: ROWS + 1])
    more_older, found = len(found) > ROWS, found[:ROWS]
    newer = found[0].pk if found and before is not None else None
    return Page(found, found[-1].pk if more_older else None, newer)


def grouped(rows: list[AuditEvent], *, now: datetime) -> list[tuple[str, list[AuditEvent]]]:
    """Rows under the hour of today, or the day, in which they fall."""

    def heading(event: AuditEvent) -> str:
        if event.at.date() == now.date():
            return f"{event.at:%H:00}"
        day = f"{event.at.day} {event.at:%B}"
        return day if event.at.year == now.year else f"{day} {event.at.year}"

    return [(title, list(events)) for title, events in groupby(rows, heading)]


@dataclass(frozen=True)
class Choice:
    """One line of a facet."""

    label: str
    count: int
    chosen: bool
    url: str


def facets(rows: QuerySet, search: Search) -> list[tuple[str, list[Choice]]]:
    """What the found rows could be narrowed by, with counts. A facet that is in use also shows what else it had.

    Two queries, and one more for each facet in use.
    """
    sums = {key: _sums(rows, search, key) for key in ("outcome", "kind", "who", "source")}
    labels = {
        "outcome": dict(Outcome.choices),
        "kind": {kind: label for kind, (label, _) in KINDS.items()},
        "who": {},
        "source": SOURCES,
    }
    titles = {"outcome": "Outcome", "kind": "Kind", "who": "Who", "source": "Source"}
    result = []
    for key, title in titles.items():
        chosen = [value for term in search.terms if term.key == key for value in term.values]
        names = [name for name in labels[key] if sums[key][name]] or [name for name, _ in sums[key].most_common()]
        names = [name for name in names if name][:MOST_NAMES]
        names += [value for value in chosen if value not in names]
        choices = [
            Choice(labels[key].get(name, name), sums[key][name], name in chosen, search.toggled(key, name))
            for name in names
        ]
        if choices:
            result.append((title, choices))
    return result


def _sums(rows: QuerySet, search: Search, key: str) -> Counter:
    column = {"outcome": "outcome", "kind": "action", "who": "actor_name", "source": "source"}[key]
    found = search.apply(rows, but=key).order_by()
    counts: Counter = Counter()
    for value, count in found.values_list(column).annotate(count=Count("pk")):
        counts[kind_of(value) if key == "kind" else value] += count
    return counts


@dataclass(frozen=True)
class Bar:
    """One column of the histogram, in the SVG's units; `title` says it in words."""

    x: int
    events_y: float
    events_height: float
    bad_y: float
    bad_height: float
    title: str
    url: str


@dataclass
class Histogram:
    bars: list[Bar]
    total: int
    bad: int
    start: datetime
    end: datetime
    width: int
    height: int = BAR_HEIGHT

    @property
    def middle(self) -> datetime:
        return self.start + (self.end - self.start) / 2


def histogram(found: QuerySet, search: Search, *, now: datetime) -> Histogram | None:
    """Events of the searched time in at most BARS columns; None if there are none. At most two queries."""
    start, end = search.since, search.until or now
    if start is None:
        bounds = found.order_by().aggregate(first=Min("at"), last=Max("at"))
        if bounds["first"] is None:
            return None
        start = bounds["first"]
        end = search.until or max(bounds["last"] + timedelta(seconds=1), start + timedelta(minutes=1))
    span = end - start
    if span <= timedelta(0):
        return None
    grain = TruncMinute if span <= timedelta(days=2) else TruncHour if span <= timedelta(days=60) else TruncDay
    least = {TruncMinute: 60, TruncHour: 3600, TruncDay: 86400}[grain]
    # Whole grains a column, so that no column is emptier than its neighbours by a rounding alone.
    step = max(least, -(-int(span.total_seconds()) // BARS // least) * least)
    origin = int(start.timestamp()) // least * least
    bad = Count("pk", filter=~Q(outcome=Outcome.DONE))
    events, bads = Counter(), Counter()
    for moment, count, bad_count in (
        found.order_by().annotate(slot=grain("at")).values_list("slot").annotate(count=Count("pk"), bad=bad)
    ):
        slot = (int(moment.timestamp()) - origin) // step
        events[slot] += count
        bads[slot] += bad_count
    if not events:
        return None
    columns = max(int(end.timestamp() - origin) // step + 1, max(events) + 1)
    scale = (BAR_HEIGHT - 2) / max(events.values())
    bars = []
    for slot in range(columns):
        if not events[slot]:
            continue
        since = datetime.fromtimestamp(origin + slot * step, tz=start.tzinfo)
        until = since + timedelta(seconds=step)
        bad_height = max(bads[slot] * scale, 2.0) if bads[slot] else 0.0
        height = max((events[slot] - bads[slot]) * scale, 1.0) if events[slot] > bads[slot] else 0.0
        title = f"{events[slot]:,} event{'s' if events[slot] != 1 else ''}"
        if bads[slot]:
            title += f", {bads[slot]:,} denied or failed"
        bars.append(
            Bar(
                x=slot * 10,
                events_y=round(BAR_HEIGHT - height, 2),
                events_height=round(height, 2),
                bad_y=round(max(BAR_HEIGHT - height - bad_height - (1 if height else 0), 0), 2),
                bad_height=round(bad_height, 2),
                title=f"{title}, {since:%d %b %H:%M} to {until:%H:%M} UTC",
                url=search.between(since, until),
            )
        )
    return Histogram(bars, sum(events.values()), sum(bads.values()), start, end, columns * 10)
