"""The rows of CloudWatch Logs' events: put in, read by pages, taken over from moto, removed when nobody has them.

Groups, streams, retention, tags and filters stay moto's: they are few and small, and half of moto's operations on them
would have to be written anew. The events are ours. The two are held together by the stream's key, which moto's child
draws for each stream that is made: a stream that is deleted and made again under its name has another, so that events
of the first can never show up in the second, whatever is killed when. Events whose key no stream has any more are
removed behind the answer, and whatever a kill has left of them at the next start.

Times are milliseconds since 1970. A place in a stream, or in several, is (timestamp, id of the event).
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from datetime import timedelta
from typing import Any

from django.db import connection, transaction
from django.db.models import F, Min

from fleetops import clock
from fleetops.awsapi.logpattern import Predicate
from fleetops.endpoint.database import in_database
from fleetops.endpoint.models import LogEvent, LogStream
from fleetops.endpoint.moto_client import MotoClient

logger = logging.getLogger(__name__)

Place = tuple[int, int]
GroupKey = tuple[str, str, str]  # account id, region, name

EVENT_BYTES = 26  # that each event counts besides its message, as AWS says
DAY = int(timedelta(days=1).total_seconds() * 1000)
_PAGE_BYTES = 1_048_576
# One search looks at so many events at most: its page may then be short or empty, and goes on from where it came to.
_SEARCHED_EVENTS = 50_000
_FETCHED_EVENTS = 500
_REMOVED_EVENTS = 5_000  # in one transaction: others write too
_TEND_SECONDS = 3600.0
_TAKEN_OVER_EVENTS = 500
_LARGEST = 2**63 - 1


class LogEvents:
    """The events of all streams."""

    def __init__(self, moto: MotoClient, writer: Executor, reader: Executor) -> None:
        """`writer` has the one thread that writes to the database, `reader` another one."""
        self._moto = moto
        self._writer = writer
        self._reader = reader
        self._task: asyncio.Task[None] | None = None
        self._emptied: asyncio.Queue[GroupKey] = asyncio.Queue()

    async def start(self) -> None:
        """Before anybody is served, and once moto is ready: take over what moto holds from before."""
        taken = 0
        while page := await self._moto.result(ask="kept_log_events", skip=taken, most=_TAKEN_OVER_EVENTS):
            await in_database(self._writer, lambda page=page: _take_over(page))
            taken += len(page)
        if taken:
            await self._moto.result(ask="drop_log_events")
            logger.info("events of an older version were taken over count=%s", taken)
        self._task = asyncio.create_task(self._tend())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def insert(self, stream: LogStream, events: Sequence[tuple[int, bytes]], now: int) -> None:
        """Add events (timestamp, message), in order, to a stream; its row is made if need be."""
        await in_database(self._writer, lambda: _insert(stream, events, now))

    async def read(self, work: Callable[[], Any]) -> Any:
        """Run `work`, which reads rows, off the event loop."""
        return await in_database(self._reader, work)

    def emptied(self, group: GroupKey) -> None:
        """A group or one of its streams was deleted: what nobody has any more is removed, soon."""
        self._emptied.put_nowait(group)

    async def _tend(self) -> None:
        """Remove the events of streams that are gone at once, and those that are too old each hour and at the start."""
        emptied: GroupKey | None = None
        while True:
            try:
                await self._remove(emptied)
            except Exception:  # the outermost loop: the next round tries again
                logger.exception("old log events not removed")
            emptied = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TEND_SECONDS):
                    emptied = await self._emptied.get()

    async def _remove(self, only: GroupKey | None) -> None:
        rows = LogStream.objects.all()
        if only is not None:
            rows = rows.filter(account_id=only[0], region=only[1], group=only[2])
        # Ours first, then moto's: a stream that had a row then and is not there now does not come back.
        held = await in_database(self._reader, lambda: list(rows))
        if not held:
            return
        if only is not None:
            found = await self._moto.result(ask="log_group", account=only[0], region=only[1], group=only[2])
            groups = [found] if found else []
        else:
            groups = await self._moto.result(ask="log_groups")
        days = {stream["key"]: group["retention_days"] for group in groups for stream in group["streams"].values()}
        now = int(clock.now().timestamp() * 1000)
        for row in held:
            if row.key not in days:
                await self._remove_events(row, _LARGEST)
                await in_database(self._writer, row.delete)
            elif days[row.key]:
                await self._remove_events(row, now - days[row.key] * DAY)

    async def _remove_events(self, row: LogStream, before: int) -> None:
        while await in_database(self._writer, lambda: _remove_some(row, before)):
            pass


def _insert(fresh: LogStream, events: Sequence[tuple[int, bytes]], now: int) -> None:
    """Add events, in order, to the stream whose row is or becomes `fresh`."""
    with transaction.atomic():
        row = _row(fresh)
        _add(row, [(at, now, message) for at, message in events])
        row.save()


def _take_over(page: Sequence[dict[str, Any]]) -> None:
    """Insert events that moto held, each once however often this is begun anew."""
    with transaction.atomic():
        rows: dict[str, LogStream] = {}
        events: dict[str, list[tuple[int, int, bytes]]] = {}
        for event in page:
            key = event["key"]
            if key not in rows:
                owner = {"account_id": event["account"], "region": event["region"]}
                rows[key] = _row(LogStream(key=key, group=event["group"], name=event["stream"], **owner))
            if event["position"] >= rows[key].taken_over:
                taken = (event["timestamp"], event["ingested_at"], event["message"].encode())
                events.setdefault(key, []).append(taken)
                rows[key].taken_over = event["position"] + 1
        for key, added in events.items():
            _add(rows[key], added)
            rows[key].save()


def _row(fresh: LogStream) -> LogStream:
    defaults = {name: getattr(fresh, name) for name in ("account_id", "region", "group", "name")}
    row, _ = LogStream.objects.get_or_create(key=fresh.key, defaults=defaults)
    return row


def _add(row: LogStream, events: Sequence[tuple[int, int, bytes]]) -> None:
    columns = [LogEvent._meta.get_field(name).column for name in ("stream", "timestamp", "ingested_at", "message")]
    names = ", ".join(connection.ops.quote_name(column) for column in columns)
    table = connection.ops.quote_name(LogEvent._meta.db_table)
    with connection.cursor() as cursor:
        # Ten times as fast as rows of Django's, and this thread is the one that writes the trail.
        cursor.executemany(
            f"INSERT INTO {table} ({names}) VALUES (%s, %s, %s, %s)",
            [(row.pk, *event) for event in events],
        )
    moments = [at for at, _, _ in events]
    row.first_event_at = min([*moments, *([row.first_event_at] if row.first_event_at is not None else [])])
    row.last_event_at = max([*moments, *([row.last_event_at] if row.last_event_at is not None else [])])
    row.last_ingested_at = max(ingested for _, ingested, _ in events)
    row.stored_bytes += sum(len(message) + EVENT_BYTES for _, _, message in events)


def _remove_some(row: LogStream, before: int) -> bool:
    """Remove a stream's oldest events before a moment, as many as go in one transaction; whether there are more."""
    with transaction.atomic():
        rows = LogEvent.objects.filter(stream=row, timestamp__lt=before).order_by("timestamp", "pk")
        found = [(event.pk, len(event.message) + EVENT_BYTES) for event in rows[:_REMOVED_EVENTS].iterator(200)]
        if not found:
            return False
        for at in range(0, len(found), _FETCHED_EVENTS):
            ids = [pk for pk, _ in found[at : at + _FETCHED_EVENTS]]
            LogEvent.objects.filter(pk__in=ids)._raw_delete(LogEvent.objects.db)
        oldest = LogEvent.objects.filter(stream=row).aggregate(oldest=Min("timestamp"))["oldest"]
        freed = sum(size for _, size in found)
        LogStream.objects.filter(pk=row.pk).update(first_event_at=oldest, stored_bytes=F("stored_bytes") - freed)
    return len(found) == _REMOVED_EVENTS


def after(rows: Any, place: Place) -> Any:
    """The events behind a place."""
    return rows.filter(timestamp__gte=place[0]).exclude(timestamp=place[0], pk__lte=place[1])


def before(rows: Any, place: Place) -> Any:
    """The events in front of a place."""
    return rows.filter(timestamp__lte=place[0]).exclude(timestamp=place[0], pk__gte=place[1])


def page(rows: Any, limit: int, *, is_forward: bool) -> list[LogEvent]:
    """As many events as go on a page from where it begins, the oldest first."""
    order = ("timestamp", "pk") if is_forward else ("-timestamp", "-pk")
    found: list[LogEvent] = []
    size = 0
    for event in rows.order_by(*order)[:limit].iterator(chunk_size=200):
        size += len(event.message) + EVENT_BYTES
        if found and size > _PAGE_BYTES:
            break
        found.append(event)
    return found if is_forward else found[::-1]


def search(rows: Any, matches: Predicate, limit: int, *, is_forward: bool) -> tuple[list[LogEvent], Place | None]:
    """The events of a page that match, and the place up to which was searched; None if that is the end."""
    order = ("timestamp", "pk") if is_forward else ("-timestamp", "-pk")
    places = list(rows.order_by(*order).values_list("timestamp", "pk")[: _SEARCHED_EVENTS + 1])
    found: list[LogEvent] = []
    size = 0
    reached: Place | None = None
    for at in range(0, min(len(places), _SEARCHED_EVENTS), _FETCHED_EVENTS):
        wanted = places[at : min(at + _FETCHED_EVENTS, _SEARCHED_EVENTS)]
        held = LogEvent.objects.in_bulk([pk for _, pk in wanted])
        for place in wanted:
            event = held.get(place[1])
            if event is not None and matches(bytes(event.message).decode()):
                size += len(event.message) + EVENT_BYTES
                if len(found) == limit or (found and size > _PAGE_BYTES):
                    return found, reached
                found.append(event)
            reached = place
    return found, reached if len(places) > _SEARCHED_EVENTS else None
