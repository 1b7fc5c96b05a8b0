"""Events in batches as PutLogEvents takes them; decides from numbers, and knows neither sessions nor AWS."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Protocol, TypeVar

from fleetops.aws.logs import BATCH_BYTES, BATCH_EVENTS, EVENT_BYTES, EVENT_OVERHEAD, NEWEST_MS, OLDEST_MS, SPAN_MS

# What a message may have: the rest is for the overhead that AWS counts, and the flag of an event that comes late.
MESSAGE_BYTES: Final = EVENT_BYTES - EVENT_OVERHEAD - 64
_LATE_BYTES: Final = 64  # of that flag, kept free for each event
_MARGIN_MS: Final = 3600 * 1000  # our clock and AWS's may differ, and a put may wait
_DAY_MS: Final = 24 * 3600 * 1000


class Sized(Protocol):
    """What is put together: its moment, in milliseconds since 1970 UTC, and the bytes of its message."""

    @property
    def at_ms(self) -> int: ...

    @property
    def message_bytes(self) -> int: ...


T = TypeVar("T", bound=Sized)


def batches(events: Iterable[T]) -> Iterator[list[T]]:
    """Events in batches within AWS's limits, each in the order of its moments; none is left out, none comes twice.

    Numbers that follow each other stay in one batch or in neighbours: only within a batch is anything reordered.
    Raises ValueError for an event that no batch can hold.
    """
    batch: list[T] = []
    size = low = high = 0
    for event in events:
        if event.message_bytes > MESSAGE_BYTES:
            raise ValueError(f"an event of {event.message_bytes} bytes; the most is {MESSAGE_BYTES}")
        added = event.message_bytes + EVENT_OVERHEAD + _LATE_BYTES
        span = max(high, event.at_ms) - min(low, event.at_ms) if batch else 0
        if batch and (len(batch) == BATCH_EVENTS or size + added > BATCH_BYTES or span > SPAN_MS):
            yield sorted(batch, key=_moment)
            batch, size = [], 0
        low, high = (min(low, event.at_ms), max(high, event.at_ms)) if batch else (event.at_ms, event.at_ms)
        batch.append(event)
        size += added
    if batch:
        yield sorted(batch, key=_moment)


def _moment(event: Sized) -> int:
    return event.at_ms


def moment_taken(at_ms: int, *, now_ms: int, retention_days: int | None) -> int:
    """The moment under which AWS takes an event of `at_ms` when its clock stands at `now_ms`: its own, if it does.

    Else the nearest that it takes: after a long outage an event bears a later moment than its own, and says so.
    """
    kept = min(OLDEST_MS, retention_days * _DAY_MS) if retention_days else OLDEST_MS
    return min(max(at_ms, now_ms - kept + _MARGIN_MS), now_ms + NEWEST_MS - _MARGIN_MS)
