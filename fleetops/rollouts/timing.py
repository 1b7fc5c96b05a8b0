"""When a run would do what: how long a wave takes, and how that falls into windows and between freezes. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from fleetops.calendars.gate import Binding, gate

_MOST_CHANGES: Final = 120  # of open and closed that are looked at: half a year of nightly windows


@dataclass(frozen=True, slots=True)
class Span:
    """From the first moment at which something may be sent to the moment when all is done; that may be out of sight."""

    start: datetime
    end: datetime | None


def wave_minutes(minutes: Sequence[float], at_once: int, clusters: Iterable[tuple[float, int]] = ()) -> float:
    """How long targets that take `minutes` each need, `at_once` of them at a time.

    `clusters`: the minutes of each cluster's members together, and how many of them may be out at once.
    """
    if not minutes:
        return 0.0
    batches = math.ceil(len(minutes) / max(1, at_once)) * (sum(minutes) / len(minutes))
    held = max((together / max(1, most_out) for together, most_out in clusters), default=0.0)
    return max(batches, held, max(minutes))


def walk(
    bindings: Sequence[Binding],
    start: datetime,
    minutes: float,
    *,
    cutoff_minutes: int = 0,
    ends_by: datetime | None = None,
) -> Span | None:
    """When `minutes` of work are done that begin at `start` or once the calendars let them; None if nothing ever may.

    Nothing begins in the last `cutoff_minutes` before it closes, nor from `ends_by` on; what has begun goes on.
    """
    at, left, first = start, timedelta(minutes=minutes), None
    cutoff = timedelta(minutes=cutoff_minutes)
    for _ in range(_MOST_CHANGES):
        if ends_by is not None and at >= ends_by:
            break
        now = gate(tuple(bindings), at)
        if not now.is_open:
            if now.changes_at is None:
                break
            at = now.changes_at
            continue
        closes = now.changes_at - cutoff if now.changes_at else None
        if ends_by is not None:
            closes = min(closes, ends_by) if closes else ends_by
        if closes is not None and at >= closes:
            if now.changes_at is None:
                break
            at = now.changes_at
            continue
        first = first or at
        if closes is None or at + left <= closes:
            return Span(first, at + left)
        left -= closes - at
        if now.changes_at is None:
            break
        at = now.changes_at
    return Span(first, None) if first else None
