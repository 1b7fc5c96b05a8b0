"""Delivers sessions to CloudWatch Logs: each event is there, and there once, whatever is killed when.

A worker claims a session, makes its next events, writes down which of them it is about to put, and calls AWS. An answer
moves the session's place on. Without an answer (a lost connection, a fault of AWS's, a killed worker) the events may be
there or not: then the stream is read in the moments of those events before anything is put again. Events that are still
not there `settings.LOGS_SETTLE_SECONDS` after the call are put again, and only those; each bears its kind and number.

A worker whose claim has run out writes nothing more, and calls nothing: a call's time-outs end before its claim does.
The one hole that AWS leaves: PutLogEvents knows no token, so a call that stands still on its way for longer than that
(a frozen machine, a packet that comes minutes late) puts its events beside those that were put in its place. They bear
the same numbers, so that a reader can tell.

It reads sealed chunks, from the store or this host's spool: so any worker can do it, and an event is delivered some
`settings.SEAL_SECONDS` after it was shown.
"""

from __future__ import annotations

import contextvars
import logging
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

from django.conf import settings
from django.core.cache import cache
from django.db import connections
from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce
from redis.exceptions import RedisError

from fleetops import metrics
from fleetops.aws import calls, logs
from fleetops.aws.clients import AccountAccess
from fleetops.aws.errors import AwsError, Unavailable
from fleetops.clock import during, monotonic, now
from fleetops.errors import UserError

from ..models import Command, LogDelivery, RecordingChunk, TerminalSession
from ..services import account_of
from .batches import batches, moment_taken
from .lines import Event, Place, Reading
from .sources import Message, NotHere, Teller, of_commands, of_ends, of_recording, told

logger = logging.getLogger(__name__)

SESSION_NAME: Final = "fleetops-delivery"
CONNECT_SECONDS, READ_SECONDS = 4, 12  # of one call
CLAIM: Final = timedelta(seconds=60)  # renewed with each step
# What a claim must have left before AWS is called: the governor may keep a call waiting for 20 s.
_CALL_SECONDS: Final = 20.0 + CONNECT_SECONDS + READ_SECONDS + 4.0
AT_ONCE: Final = 8  # sessions, by one worker; a put takes AWS some 50 ms
ROUND_SECONDS: Final = 8.0
LOCK_SECONDS: Final = 20
_LOCK: Final = "sessions.delivery"
_DUE: Final = 200  # sessions looked up at a time
_COMMANDS: Final = 5_000  # delivered at a time, and kept as not ended yet
_LONGEST_WAIT: Final = timedelta(seconds=60)
_LOOK_AGAIN: Final = timedelta(seconds=2)


class Lost(Exception):
    """Another worker has the session: write nothing more."""


# Which


def due(moment: datetime) -> QuerySet[LogDelivery]:
    """Deliveries that have something to deliver and whom nobody is at; first who has waited longest."""
    chunks = RecordingChunk.objects.filter(session=OuterRef("pk"), number__gt=OuterRef("read_through"))
    commands = Command.objects.filter(session=OuterRef("pk"))
    ended = commands.filter(ended_at__isnull=False, number__lte=OuterRef("command_number"))
    count = ended.order_by().values("session").annotate(n=Count("pk")).values("n")
    done = Q(has_commands=False) | Q(session__commands_done_at__isnull=False)
    return (
        LogDelivery.objects.filter(
            Q(claimed_until=None) | Q(claimed_until__lt=moment), done_at=None, next_at__lte=moment
        )
        .annotate(ended_now=Coalesce(Subquery(count), 0))
        .filter(
            Q(sending_at__isnull=False)
            | Exists(chunks)
            | Q(session__sealed_at__isnull=False) & (Q(is_end_told=False) | done)
            | Q(has_commands=True) & Exists(commands.filter(number__gt=OuterRef("command_number")))
            | Q(has_commands=True, ended_now__gt=F("ended_count"))
        )
        .order_by("next_at")
    )


@contextmanager
def one_at_a_time() -> Iterator[bool]:
    """Whether nobody else delivers now: two would take both of a small installation's workers.

    A worker that is killed in it holds it for LOCK_SECONDS; without Valkey nobody is held off.
    """
    try:
        is_mine = cache.add(_LOCK, "1", LOCK_SECONDS)
    except RedisError:
        yield True
        return
    try:
        yield is_mine
    finally:
        if is_mine:
            with suppress(RedisError):
                cache.delete(_LOCK)


def deliver_due(*, seconds: float = ROUND_SECONDS) -> int:
    """Deliver what is due, several sessions at once, for about so long; returns how many were taken up."""
    until = monotonic() + seconds
    away: dict[tuple[str, str], UserError] = {}
    taken = 0
    while monotonic() < until and (found := list(due(now()).values_list("pk", flat=True)[:_DUE])):
        waiting = deque(found)
        if len(found) == 1:
            _work_off(waiting, until, away)
        else:
            _work_off_at_once(waiting, until, away)
        taken += len(found)
    return taken


def _work_off_at_once(waiting: deque[UUID], until: float, away: dict[tuple[str, str], UserError]) -> None:
    def in_thread() -> None:
        try:
            _work_off(waiting, until, away)
        finally:
            connections.close_all()  # this thread's own

    threads = min(AT_ONCE, len(waiting))
    with ThreadPoolExecutor(threads, "delivery") as pool:
        for each in [pool.submit(contextvars.copy_context().run, in_thread) for _ in range(threads)]:
            each.result()


def _work_off(waiting: deque[UUID], until: float, away: dict[tuple[str, str], UserError]) -> None:
    while monotonic() < until:
        try:
            session_id = waiting.popleft()
        except IndexError:
            return
        try:
            deliver(session_id, until=until, away=away)
        except Exception:  # the outermost loop of a delivery: the others go on, and the next round tries it again
            logger.exception("a delivery failed session=%s", session_id)


def deliver(
    session_id: UUID, *, until: float | None = None, away: dict[tuple[str, str], UserError] | None = None
) -> None:
    """Deliver what there is of one session. Does nothing if somebody is at it.

    `away`: accounts and regions that could not be reached in this round, and why; they are not called again in it.
    """
    claim = uuid4()
    moment = now()
    free = Q(claimed_until=None) | Q(claimed_until__lt=moment)
    mine = LogDelivery.objects.filter(free, pk=session_id, done_at=None)
    if not mine.update(claim=claim, claimed_until=moment + during(CLAIM)):
        return
    row = LogDelivery.objects.select_related("session").get(pk=session_id)
    delivery = _Delivery(row, claim, until=monotonic() + ROUND_SECONDS if until is None else until)
    place = (row.session.account_id, row.session.region)
    try:
        if away is not None and (reason := away.get(place)):
            delivery.failed(reason)
        else:
            delivery.run()
    except Lost:
        logger.warning("another worker has the delivery session=%s", session_id)
    except NotHere:
        delivery.later(_LOOK_AGAIN)
    except UserError as error:
        if away is not None and isinstance(error, Unavailable):
            away[place] = error
        delivery.failed(error)
    finally:
        LogDelivery.objects.filter(pk=session_id, claim=claim).update(claim=None, claimed_until=None)


class _Delivery:
    """One worker at one session, for one go."""

    def __init__(self, row: LogDelivery, claim: UUID, *, until: float) -> None:
        self.row = row
        self.session: TerminalSession = row.session
        self._claim = claim
        self._claimed_at = monotonic()
        self._until = until
        self._access: AccountAccess | None = None
        self._teller: Teller | None = None

    @property
    def access(self) -> AccountAccess:
        if self._access is None:
            account = account_of(self.session).access()
            self._access = replace(account, connect_timeout_seconds=CONNECT_SECONDS, read_timeout_seconds=READ_SECONDS)
        return self._access

    @property
    def teller(self) -> Teller:
        if self._teller is None:
            self._teller = Teller(self.session, self.access)
        return self._teller

    def run(self) -> None:
        """Go as far as there is something, and time. Raises Lost, NotHere, UserError."""
        if self.row.sending is not None and not self._is_settled():
            return
        if not self.row.events:
            self._make_stream()
        is_told = self.row.is_end_told or self._recording()
        commands_done = not self.row.has_commands or self._commands()
        if is_told and commands_done:
            self._save(done_at=now())
            logger.info("all of a session is in CloudWatch Logs session=%s", self.session.pk)

    def failed(self, error: UserError) -> None:
        """Write down why it has to wait, and for how long."""
        row = self.row
        wait = min(_LONGEST_WAIT, timedelta(seconds=2 ** min(row.tries, 6)))
        if row.sending is not None:
            wait = min(wait, _LOOK_AGAIN)
        moment = now()
        try:
            self._save(
                tries=min(row.tries + 1, 1000),
                waiting_since=row.waiting_since or moment,
                error=str(error)[:512],
                next_at=moment + during(wait),
            )
        except Lost:
            return
        logger.warning("a session is not delivered yet session=%s tries=%d: %s", self.session.pk, row.tries, error)

    def later(self, wait: timedelta) -> None:
        LogDelivery.objects.filter(pk=self.row.pk, claim=self._claim).update(next_at=now() + during(wait))

    # The recording

    def _recording(self) -> bool:
        """Deliver what is sealed of the recording; whether its end is delivered."""
        row = self.row
        reading = self._reading()
        is_end = False
        for batch in batches(map(self.teller.message, of_recording(self.session, reading))):
            last = max(batch, key=lambda message: message.event.number).event
            is_end = last.kind == "end"
            numbers = [message.event.number for message in batch]
            sending = {"source": "record", "numbers": [min(numbers), last.number], "place": list(last.place)}
            self._put(batch, sending | {"is_end": is_end, "started_us": reading.started_us})
            if not is_end and monotonic() > self._until:
                return False
        if not is_end and (Place(row.chunk, row.position, row.skip), row.read_through) != (
            reading.rest,
            max(row.read_through, reading.read_through),
        ):
            self._save(
                **_columns(reading.rest),
                read_through=max(row.read_through, reading.read_through),
                started_us=reading.started_us,
            )
        return is_end

    def _reading(self) -> Reading:
        row = self.row
        return Reading(
            place=Place(row.chunk, row.position, row.skip),
            number=row.number,
            started_us=row.started_us,
            has_transcript=row.has_transcript,
        )

    # Commands

    def _commands(self) -> bool:
        """Deliver the commands that there are; whether there will be no more."""
        row = self.row
        is_done = self.session.commands_done_at is not None  # as read before the rows are
        while starts := of_commands(self.session, row.command_number, _COMMANDS):
            self._put_all("command", starts)
        if row.open_commands and (ends := of_ends(self.session, row.open_commands)):
            self._put_all("ended", ends)
        return is_done

    def _put_all(self, source: str, events: list[Event]) -> None:
        for batch in batches(map(self.teller.message, events)):
            self._put(batch, {"source": source, "numbers": sorted(message.event.number for message in batch)})

    # Putting

    def _put(self, batch: list[Message], sending: dict[str, Any]) -> None:
        """Put a batch. What `sending` says of it is written down before, and what came of it after."""
        late = self._send(batch, sending, is_fresh=True)
        self._confirm(sending, late=late)

    def _send(self, batch: Iterable[Message], sending: dict[str, Any], *, is_fresh: bool) -> int:
        """Have AWS take these events; returns how many of them bear a later moment than their own.

        `is_fresh`: none of what `sending` names can be there yet, so that a refusal undoes it.
        """
        moments = [(self._moment(message), message) for message in batch]
        late = 0
        for is_last_try in (False, True):
            late += sum(at != message.at_ms for at, message in moments)
            before_at = self.row.sending_at
            self._about_to_send(moments, sending)
            listed = [
                (at, self.teller.text(message.event, is_late=True) if at != message.at_ms else message.text)
                for at, message in moments
            ]
            try:
                rejected = self._call(listed)
            except AwsError as error:
                if _is_unknown(error):
                    self._save(sending_at=now())  # it may be carried out until now
                elif is_fresh:
                    self._save(sending=None, sending_at=None)
                else:  # nothing of this is there; of what was put before it, for the same numbers, something may be
                    self._save(sending_at=before_at)
                raise
            if rejected is None:
                return late
            is_fresh = False
            # The group keeps for less long than the settings say, or the clocks differ: what was not taken comes under
            # the moment that AWS's clock has now.
            moments = moments[: rejected.first] + moments[max(rejected.first, rejected.last) :]
            at = self._aws_now_ms()
            moments = [(at, message) for _, message in moments]
            if is_last_try:
                break
        # What was taken of them is found by its number when the rest is put again.
        raise UserError("CloudWatch Logs does not take the events for their moments; compare this machine's clock.")

    def _about_to_send(self, moments: list[tuple[int, Message]], sending: dict[str, Any]) -> None:
        at_ms = [at for at, _ in moments]
        before = self.row.sending or {}
        sending["from_ms"] = min([*at_ms, before.get("from_ms", at_ms[0])])
        sending["to_ms"] = max([*at_ms, before.get("to_ms", at_ms[0])])
        self._save(sending=dict(sending), sending_at=now())

    def _call(self, listed: list[tuple[int, bytes]]) -> logs.Rejected | None:
        for is_last_try in (False, True):
            self._hold_claim()
            try:
                return logs.put_events(
                    self.access,
                    self.session.region,
                    group=self.row.log_group,
                    stream=self.row.log_stream,
                    events=listed,
                    session_name=SESSION_NAME,
                )
            except AwsError as error:
                metrics.LOG_PUTS.labels("unknown" if _is_unknown(error) else "refused").inc()
                if error.code == logs.NOT_THERE and not is_last_try:
                    self._make_stream()
                    continue
                raise
        raise AssertionError  # the second try returns or raises

    def _confirm(self, sending: dict[str, Any], *, late: int = 0) -> None:
        """AWS has the events: go on behind them."""
        row = self.row
        source, numbers = sending["source"], sending["numbers"]
        if source == "record":
            place = Place(*sending["place"])
            count = numbers[1] - numbers[0] + 1
            moved: dict[str, Any] = {
                **_columns(place),
                "number": numbers[1],
                "read_through": max(row.read_through, place.chunk - 1),
                "is_end_told": sending["is_end"],
                "started_us": sending["started_us"],
            }
        elif source == "command":
            count = len(numbers)
            waiting = [*row.open_commands, *numbers][-_COMMANDS:]
            moved = {"command_number": numbers[-1], "open_commands": waiting}
        else:
            count = len(numbers)
            gone = set(numbers)
            moved = {
                "open_commands": [number for number in row.open_commands if number not in gone],
                "ended_count": row.ended_count + count,
            }
        self._save(
            **moved,
            sending=None,
            sending_at=None,
            events=row.events + count,
            late_events=row.late_events + late,
            delivered_at=now(),
            waiting_since=None,
            error="",
            tries=0,
        )
        metrics.LOG_PUTS.labels("ok").inc()
        metrics.LOG_EVENTS.labels(source).inc(count)

    # After an unknown outcome

    def _is_settled(self) -> bool:
        """Find out what came of a put without an answer, and put again what is missing; False: it is too early."""
        sending = self.row.sending
        assert sending is not None and self.row.sending_at is not None
        missing = self._missing(sending)
        if not missing:
            logger.info("a put without an answer had been taken session=%s", self.session.pk)
            self._confirm(sending)
            return True
        if now() - self.row.sending_at < during(timedelta(seconds=settings.LOGS_SETTLE_SECONDS)):
            self._save(next_at=now() + during(_LOOK_AGAIN), waiting_since=self.row.waiting_since or now())
            return False
        logger.info("a put without an answer is made again session=%s events=%d", self.session.pk, len(missing))
        batch = [self.teller.message(event) for event in self._again(sending) if event.number in missing]
        if {message.event.number for message in batch} != missing:
            raise UserError("Events that were put before cannot be made again: the recording is not what it was.")
        batch.sort(key=lambda message: message.at_ms)
        self._confirm(sending, late=self._send(batch, sending, is_fresh=False))
        return True

    def _missing(self, sending: dict[str, Any]) -> set[int]:
        """The numbers of `sending` that the stream does not hold."""
        source, numbers = sending["source"], sending["numbers"]
        missing = set(range(numbers[0], numbers[1] + 1)) if source == "record" else set(numbers)
        kinds = {"record": {"start", "transcript", "note", "end"}, "command": {"command"}, "ended": {"ended"}}[source]
        self._hold_claim()
        try:
            for text in logs.read_events(
                self.access,
                self.session.region,
                group=self.row.log_group,
                stream=self.row.log_stream,
                from_ms=sending["from_ms"],
                to_ms=sending["to_ms"],
                session_name=SESSION_NAME,
            ):
                event = told(text)
                if event is not None and event[0] in kinds:
                    missing.discard(event[1])
                self._hold_claim()
        except AwsError as error:
            if error.code != logs.NOT_THERE:  # without the stream none of them is there
                raise
        return missing

    def _again(self, sending: dict[str, Any]) -> Iterable[Event]:
        """The events of a put, made anew from where it began."""
        source, numbers = sending["source"], sending["numbers"]
        if source == "command":
            return of_commands(self.session, numbers[0] - 1, numbers[-1] - numbers[0] + 1)
        if source == "ended":
            return of_ends(self.session, numbers)
        found = []
        for event in of_recording(self.session, self._reading()):
            if event.number > numbers[1]:
                break
            found.append(event)
        return found

    # AWS

    def _make_stream(self) -> None:
        """Make the stream, and the group if there is none."""
        row, region = self.row, self.session.region
        for is_last_try in (False, True):
            self._hold_claim()
            try:
                return logs.make_stream(
                    self.access, region, group=row.log_group, stream=row.log_stream, session_name=SESSION_NAME
                )
            except AwsError as error:
                if error.code != logs.NOT_THERE or is_last_try:
                    raise
            make_group(self.access, region, row)
        return None

    def _moment(self, message: Message) -> int:
        return moment_taken(message.at_ms, now_ms=self._aws_now_ms(), retention_days=self.row.retention_days)

    def _aws_now_ms(self) -> int:
        """AWS's clock, as its last answer told it."""
        return round((now().timestamp() - calls.skew_seconds.get(self.access.account_id, 0.0)) * 1000)

    # The claim

    def _hold_claim(self) -> None:
        """Raises Lost where a call could outlive the claim; renews it where it has grown old."""
        if CLAIM.total_seconds() - (monotonic() - self._claimed_at) < _CALL_SECONDS:
            self._save()

    def _save(self, **columns: Any) -> None:
        """Write to the row, and renew the claim. Raises Lost."""
        at = monotonic()
        mine = LogDelivery.objects.filter(pk=self.row.pk, claim=self._claim)
        if not mine.update(claimed_until=now() + during(CLAIM), **columns):
            raise Lost(str(self.row.pk))
        self._claimed_at = at
        for name, value in columns.items():
            setattr(self.row, name, value)


def make_group(access: AccountAccess, region: str, row: LogDelivery) -> None:
    """Make the log group that a delivery names, with its key and for how long it keeps events."""
    made = logs.make_group(access, region, group=row.log_group, kms_key=row.kms_key, session_name=SESSION_NAME)
    if made and row.retention_days:
        logs.keep_for(access, region, group=row.log_group, days=row.retention_days, session_name=SESSION_NAME)


def _is_unknown(error: AwsError) -> bool:
    return isinstance(error, Unavailable) and error.is_outcome_unknown


def _columns(place: Place) -> dict[str, int]:
    return {"chunk": place.chunk, "position": place.position, "skip": place.skip}
