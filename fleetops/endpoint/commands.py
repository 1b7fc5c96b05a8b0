"""Run Command: a command from its request to the last answer of its last node.

All of it is on the event loop. What is under way is in memory too, and each change is in the database before its
consequence leaves: before a job is sent, and before a node's answer is acknowledged. After a kill the rows say what is
left to do: what no node has acknowledged is sent again under the same id, and a node that has it says so.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Executor
from datetime import datetime, timedelta
from typing import Any, Final, Protocol
from uuid import UUID, uuid4

from django.conf import settings
from django.db import transaction
from django.db.models import Count, QuerySet

from fleetops import clock
from fleetops.endpoint import command_rules as rules
from fleetops.endpoint.calls import NodeKey
from fleetops.endpoint.database import in_database
from fleetops.endpoint.models import Command, Invocation
from fleetops.endpoint.states import COMMAND_MOVES, INVOCATION_MOVES, CommandStatus
from fleetops.endpoint.underway import (
    ACK_SECONDS,
    LONGEST_TRACE,
    RunningCommand,
    RunningInvocation,
    job_content,
    kept,
    merge,
    step_names,
)
from fleetops.wire import RemoteProtocolError, payloads

logger = logging.getLogger(__name__)

TICK_SECONDS: Final = 0.5  # how often the time is looked at
SILENT_SECONDS: Final = 5.0  # a node that is away or says nothing for so long no longer holds up the ramp
FULL_SECONDS: Final = 2.0  # until a job is sent again to an agent whose buffer was full
KEPT_DAYS: Final = 30  # a command's history [user guide, command history]
_TIDY_SECONDS: Final = 3600.0
_OF_INVOCATION: Final = ("state", "details", "trace_output", "steps", "sent_at", "taken_at", "ended_at")
_OF_COMMAND: Final = ("state", "details")
_FULL = frozenset({"51401", "51402"})  # shutting down, no room: send it again
_TAKEN = frozenset({"200", "51405"})  # taken, and taken before


class Jobs(Protocol):
    """What the hub does for commands."""

    async def send_job(self, key: NodeKey, job: payloads.AgentJob) -> bool: ...
    def is_connected(self, key: NodeKey) -> bool: ...


class Patching(Protocol):
    """What the documents that patch ask for beside: a content for each node, and their reports kept."""

    def is_ours(self, row: Command) -> bool: ...
    async def content(self, row: Command, key: NodeKey) -> Mapping[str, Any]: ...
    def tells(self, content: payloads.ReplyContent) -> bool: ...
    def report(self, row: Command, invocation: Invocation) -> Any | None: ...
    async def keep(self, row: Command, key: NodeKey, found: Any) -> None: ...


class _NoPatching:
    """Where nothing patches."""

    def is_ours(self, row: Command) -> bool:
        return False

    def tells(self, content: payloads.ReplyContent) -> bool:
        return False

    def report(self, row: Command, invocation: Invocation) -> None:
        return None

    async def content(self, row: Command, key: NodeKey) -> Mapping[str, Any]:
        return row.document_content

    async def keep(self, row: Command, key: NodeKey, found: Any) -> None:
        return None


class Commands:
    """All commands; those under way are here in memory, the others in the database alone."""

    def __init__(self, writer: Executor, reader: Executor, jobs: Callable[[], Jobs]) -> None:
        self._writer = writer
        self._reader = reader
        self._jobs = jobs
        self.patching: Patching = _NoPatching()  # core.py sets another
        self._running: dict[UUID, RunningCommand] = {}
        self._by_node: dict[NodeKey, set[UUID]] = {}
        self._coming: Counter[tuple[str, str]] = Counter()  # invocations being written down, by account and region
        self._dirty: dict[int, Invocation | Command] = {}
        self._waiting: list[asyncio.Future[None]] = []
        self._is_writing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take up the commands that were under way when this process last ended."""

        def read() -> list[tuple[Command, list[Invocation]]]:
            rows = Command.objects.exclude(state__in=rules.OVER).prefetch_related("invocations").order_by("pk")
            return [(row, list(row.invocations.all())) for row in rows]

        for row, invocations in await in_database(self._reader, read):
            self._take_up(row, invocations)
        self._ticking = asyncio.create_task(self._tick())

    async def stop(self) -> None:
        tasks = [task for task in (self._ticking, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # What the API asks

    async def send(self, row: Command, invocations: list[Invocation]) -> None:
        """Write a new command down, and begin it. An invocation that has ended already stays as it is.

        One with which the account would have more invocations pending than it may is cancelled instead, whole.
        """
        place = (row.account_id, row.region)
        open_ones = [one for one in invocations if one.state not in rules.OVER]
        if len(open_ones) + self._pending(place) > settings.MOST_PENDING:
            row.state, row.details = CommandStatus.CANCELLED, "RateExceeded"
            for one in open_ones:
                one.state, one.details, one.ended_at = CommandStatus.CANCELLED, "Cancelled", row.requested_at
            open_ones = []

        def write() -> None:
            with transaction.atomic():
                row.save()
                for invocation in invocations:
                    invocation.command = row
                Invocation.objects.bulk_create(invocations)

        self._coming[place] += len(open_ones)
        try:
            await in_database(self._writer, write)
        finally:
            self._coming[place] -= len(open_ones)
        logger.info("command requested command=%s targets=%d", row.command_id, row.target_count)
        if row.state in rules.OVER:
            logger.warning("command refused command=%s status=%s", row.command_id, row.details)
            return
        running = self._take_up(row, invocations)
        self._advance(running)
        await self._written()

    def _pending(self, place: tuple[str, str]) -> int:
        """How many invocations of an account and region no node has acknowledged."""
        commands = (one for one in self._running.values() if (one.row.account_id, one.row.region) == place)
        return self._coming[place] + sum(one.pending for one in commands)

    async def cancel(self, row: Command, instance_ids: Iterable[str]) -> None:
        """Cancel what has not ended, everywhere or on the nodes named; one that has ended stays as it is."""
        running = self._running.get(row.command_id)
        if running is None:
            return
        chosen = set(instance_ids)
        for invocation in running.invocations.values():
            if invocation.is_over or (chosen and invocation.row.instance_id not in chosen):
                continue
            if not invocation.is_told:
                self._end(running, invocation, "Cancelled")
            elif invocation.row.state != CommandStatus.CANCELLING:
                self._move(invocation, CommandStatus.CANCELLING, "Cancelling")
                invocation.wait_seconds, invocation.next_try_at = ACK_SECONDS, 0.0
                self._tell_if_due(running, invocation)
        if not chosen and running.row.state != CommandStatus.CANCELLING:
            self._move_command(running, CommandStatus.CANCELLING, "Cancelling")
        self._advance(running)
        await self._written()

    async def find(self, account_id: str, region: str, command_id: str) -> Command | None:
        rows = Command.objects.filter(account_id=account_id, region=region, command_id=_uuid(command_id))
        return await in_database(self._reader, rows.first)

    async def find_invocation(self, account_id: str, region: str, command_id: str, instance_id: str) -> Any:
        rows = Invocation.objects.select_related("command").filter(
            command__account_id=account_id,
            command__region=region,
            command__command_id=_uuid(command_id),
            instance_id=instance_id,
        )
        return await in_database(self._reader, rows.first)

    async def read(self, rows: "QuerySet[Any]") -> list[Any]:
        return await in_database(self._reader, lambda: list(rows))

    async def counts(self, commands: Iterable[Command]) -> dict[int, Counter[str]]:
        """How many invocations of each command have ended, by its row's key and their details."""
        keys = [command.pk for command in commands]

        def read() -> dict[int, Counter[str]]:
            found: dict[int, Counter[str]] = {key: Counter() for key in keys}
            rows = Invocation.objects.filter(command__in=keys, state__in=rules.OVER).values_list("command", "details")
            for key, details, number in rows.annotate(number=Count("pk")):
                found[key][details] = number
            return found

        return await in_database(self._reader, read)

    # What the hub tells

    def node_connected(self, key: NodeKey) -> None:
        """A node has its control channel open: what it does not have yet is sent."""
        for command_id in self._by_node.get(key, ()):
            running = self._running[command_id]
            invocation = running.invocations[key[2]]
            invocation.next_try_at = 0.0
            invocation.cancel_is_taken = False
            self._tell_if_due(running, invocation)

    async def node_gone(self, key: NodeKey) -> None:
        """A node is no longer managed: what it has not answered it will not."""
        for command_id in list(self._by_node.get(key, ())):
            running = self._running[command_id]
            invocation = running.invocations[key[2]]
            if not invocation.is_over:
                self._end(running, invocation, "Undeliverable")
            self._advance(running)
        await self._written()

    async def acknowledged(self, key: NodeKey, ack: payloads.AgentJobAck) -> None:
        """A node takes a job, or says why not."""
        running, invocation = self._of_job(key, ack.job_id)
        if running is None or invocation is None:
            self._cancel_acknowledged(key, ack)
            return
        if invocation.is_over or invocation.is_taken:
            return
        if ack.status_code in _TAKEN:
            self._take(running, invocation)
            if invocation.row.state != CommandStatus.CANCELLING:
                self._move(invocation, CommandStatus.IN_PROGRESS, "InProgress")
        elif ack.status_code in _FULL:
            if invocation.row.state == CommandStatus.PENDING:
                self._move(invocation, CommandStatus.DELAYED, "Delayed")
            running.was_put_off = True
            invocation.wait(FULL_SECONDS)
        else:
            invocation.row.trace_output = kept(f"{ack.status_code} {ack.error_message}", LONGEST_TRACE)
            self._end(running, invocation, "Failed")
        self._advance(running)
        await self._written()

    def _cancel_acknowledged(self, key: NodeKey, ack: payloads.AgentJobAck) -> None:
        """A node has the job that cancels another; until it says so, it is told again."""
        for command_id in self._by_node.get(key, ()):
            invocation = self._running[command_id].invocations[key[2]]
            if invocation.cancel_job_id == ack.job_id and ack.status_code in _TAKEN:
                invocation.cancel_is_taken = True

    async def replied(self, key: NodeKey, reply: payloads.AgentJobReply) -> None:
        """A node says how a command fares. The last two of its replies come in either order: an end stays an end."""
        if reply.topic.startswith("aws.ssm.cancelCommand"):
            return
        try:
            content = payloads.ReplyContent.parse(reply.content)
        except RemoteProtocolError as error:
            logger.warning("a reply cannot be read instance=%s job=%s reason=%s", key[2], reply.job_id, error)
            return
        running, invocation = self._of_job(key, reply.job_id)
        if running is None or invocation is None or invocation.is_over:
            await self._late(key, reply.job_id, content)
            return
        self._take(running, invocation)
        report = None
        if merge(invocation.row, content, running.steps):
            self._dirt(invocation.row)
            invocation.has_news |= self.patching.is_ours(running.row) and self.patching.tells(content)
        if invocation.has_news:
            report = self.patching.report(running.row, invocation.row)
        details = rules.of_reply(content.document_status)
        if details is not None:
            self._end(running, invocation, details)
        elif invocation.row.state not in {CommandStatus.IN_PROGRESS, CommandStatus.CANCELLING}:
            self._move(invocation, CommandStatus.IN_PROGRESS, "InProgress")
        if report is not None:
            await self.patching.keep(running.row, key, report)
        invocation.has_news = False
        self._advance(running)
        await self._written()

    async def _late(self, key: NodeKey, job_id: str, content: payloads.ReplyContent) -> None:
        """A step's result, or a node's words, that come after the invocation has ended are kept; no state changes."""
        await self._written()  # a write of the end would undo it, and one that failed has to be made good first
        command_id = _command_of(job_id)
        if command_id is None or not (content.runtime_status or content.trace_output):
            return

        def write() -> Invocation | None:
            rows = Invocation.objects.select_related("command").filter(
                command__command_id=command_id,
                command__account_id=key[0],
                command__region=key[1],
                instance_id=key[2],
            )
            row = rows.first()
            if row is None or not merge(row, content, step_names(row.command)):
                return None
            row.save(update_fields=["steps", "trace_output"])
            return row

        row = await in_database(self._writer, write)
        if row is not None and self.patching.is_ours(row.command) and self.patching.tells(content):
            report = self.patching.report(row.command, row)
            if report is not None:
                await self.patching.keep(row.command, key, report)

    # How a command goes on

    def _take_up(self, row: Command, invocations: list[Invocation]) -> RunningCommand:
        running = self._running[row.command_id] = RunningCommand(row, step_names(row))
        for invocation in invocations:
            key = (row.account_id, row.region, invocation.instance_id)
            running.add(RunningInvocation(invocation, key))
            self._by_node.setdefault(key, set()).add(row.command_id)
        return running

    def _advance(self, running: RunningCommand) -> None:
        """Give away the places that are free, end what is over. Safe to call at any moment."""
        if running.is_spent and not running.is_stopped:
            running.is_stopped = True
            for invocation in running.invocations.values():
                if not invocation.is_over and not invocation.is_told:
                    self._end(running, invocation, "Terminated")
        if running.is_over:
            self._finish(running)
            return
        row = running.row
        if row.state == CommandStatus.IN_PROGRESS and row.details != running.progress:
            row.details = running.progress
            self._dirt(row)
        places = rules.may_be_under_way(row.max_concurrency, row.target_count, running.answered + running.silent)
        while running.waiting and running.places_taken < places:
            invocation = running.waiting.popleft()
            if not invocation.is_over:
                running.give_place(invocation)
                self._tell_if_due(running, invocation)

    def _tell_if_due(self, running: RunningCommand, invocation: RunningInvocation) -> None:
        """Begin to tell a node what it does not have yet, if it is there and the time for it has come."""
        if invocation.is_over or invocation.is_sending or not invocation.has_place:
            return
        is_cancel = invocation.row.state == CommandStatus.CANCELLING
        if invocation.cancel_is_taken if is_cancel else invocation.is_taken:
            return
        if clock.monotonic() >= invocation.next_try_at and self._jobs().is_connected(invocation.key):
            invocation.is_sending = True
            self._in_background(self._tell(running, invocation))

    async def _tell(self, running: RunningCommand, invocation: RunningInvocation) -> None:
        """Send a node its job, or the job that cancels it; that it is told is in the database first."""
        try:
            if invocation.is_over:
                return
            invocation.wait()
            if invocation.row.sent_at is None:
                invocation.row.sent_at = clock.now()
                self._dirt(invocation.row)
                if running.row.state == CommandStatus.PENDING:
                    self._move_command(running, CommandStatus.IN_PROGRESS, "InProgress")
            await self._written()  # and what an earlier try could not write
            if invocation.is_over:
                return
            job_id = running.job_id(invocation)
            if invocation.row.state == CommandStatus.CANCELLING:
                invocation.cancel_job_id = invocation.cancel_job_id or f"aws.ssm.{uuid4()}.{invocation.key[2]}"
                job = payloads.AgentJob.cancel(invocation.cancel_job_id, job_id)
            else:
                invocation.is_told = True
                content = None
                if self.patching.is_ours(running.row):
                    content = await self.patching.content(running.row, invocation.key)
                job = payloads.AgentJob(job_id, job_content(running.row, content))
            await self._jobs().send_job(invocation.key, job)
        finally:
            invocation.is_sending = False

    def _finish(self, running: RunningCommand) -> None:
        row = running.row
        del self._running[row.command_id]
        for invocation in running.invocations.values():
            commands = self._by_node.get(invocation.key, set())
            commands.discard(row.command_id)
            if not commands:
                self._by_node.pop(invocation.key, None)
        details = list(running.ended.elements())
        was_cancelled = row.state == CommandStatus.CANCELLING
        state, words = rules.outcome(details, max_errors=row.max_errors, was_cancelled=was_cancelled)
        self._move_command(running, state, words)
        logger.info("command ended command=%s status=%s", row.command_id, words)

    async def _tick(self) -> None:
        tidied_at = 0.0
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = clock.now()
            for running in list(self._running.values()):
                try:
                    self._look_at_the_time(running, now)
                    self._advance(running)
                except Exception:  # of one command, which must not stand in the way of the others
                    logger.exception("command not looked at command=%s", running.row.command_id)
            try:
                await self._written()
                if clock.monotonic() - tidied_at > _TIDY_SECONDS:
                    tidied_at = clock.monotonic()
                    await self._tidy(now)
            except Exception:  # the outermost loop of the watch: the next round looks again
                logger.exception("commands not looked at")

    def _look_at_the_time(self, running: RunningCommand, now: datetime) -> None:
        """End what was not delivered in time, and what has not ended in time; tell again what was not heard."""
        row = running.row
        delivery = timedelta(seconds=row.timeout_seconds)
        execution = delivery + timedelta(seconds=row.execution_seconds)
        long_ago = clock.monotonic() - SILENT_SECONDS
        running.silent = 0
        for invocation in running.invocations.values():
            if invocation.is_over:
                continue
            taken_at = invocation.row.taken_at
            running.silent += taken_at is None and invocation.has_place and invocation.place_at < long_ago
            if taken_at is None and now - row.requested_at > delivery:
                was_cancelled = invocation.row.state == CommandStatus.CANCELLING
                self._end(running, invocation, "Cancelled" if was_cancelled else "DeliveryTimedOut")
            elif taken_at is not None and now - taken_at > execution:
                self._end(running, invocation, "ExecutionTimedOut")
            else:
                self._tell_if_due(running, invocation)

    async def _tidy(self, now: datetime) -> None:
        old = Command.objects.filter(state__in=rules.OVER, requested_at__lt=now - timedelta(days=KEPT_DAYS))
        await in_database(self._writer, old.delete)

    # Small things

    def _of_job(self, key: NodeKey, job_id: str) -> tuple[RunningCommand | None, RunningInvocation | None]:
        """The invocation that a node speaks of; none if it is another node's, or has ended with its command."""
        command_id = _command_of(job_id)
        running = self._running.get(command_id) if command_id is not None else None
        if running is None or (running.row.account_id, running.row.region) != key[:2]:
            return None, None
        if job_id.rpartition(".")[2] != key[2]:
            return None, None
        return running, running.invocations.get(key[2])

    def _take(self, running: RunningCommand, invocation: RunningInvocation) -> None:
        """Its node has it."""
        if not invocation.is_taken:
            invocation.row.taken_at = clock.now()
            running.answered += 1
            self._dirt(invocation.row)

    def _end(self, running: RunningCommand, invocation: RunningInvocation, details: str) -> None:
        running.places_taken -= invocation.has_place
        running.answered += not invocation.is_taken
        running.ended[details] += 1
        invocation.row.ended_at = clock.now()
        self._move(invocation, rules.DETAILS[details], details)

    def _move(self, invocation: RunningInvocation, state: CommandStatus, details: str) -> None:
        row = invocation.row
        assert state in INVOCATION_MOVES[CommandStatus(row.state)], (row.state, state)
        assert details in rules.INVOCATION_DETAILS, details
        row.state, row.details = state, details
        self._dirt(row)

    def _move_command(self, running: RunningCommand, state: CommandStatus, details: str) -> None:
        row = running.row
        assert state in COMMAND_MOVES[CommandStatus(row.state)], (row.state, state)
        assert details in rules.COMMAND_DETAILS, details
        row.state, row.details = state, details
        self._dirt(row)

    def _dirt(self, row: Invocation | Command) -> None:
        self._dirty[id(row)] = row

    async def _written(self) -> None:
        """Return when everything that has changed until now is in the database; many callers share one transaction."""
        if not self._dirty and not self._is_writing:
            return
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        if not self._is_writing:
            self._is_writing = True
            self._in_background(self._write_all())
        await done

    async def _write_all(self) -> None:
        try:
            while self._dirty or self._waiting:
                waiting, self._waiting = self._waiting, []
                rows, self._dirty = list(self._dirty.values()), {}
                try:
                    await in_database(self._writer, lambda rows=rows: _save(rows))
                except Exception as error:  # told to everybody who waits for it; the rows are written next time
                    self._dirty = {id(row): row for row in rows} | self._dirty
                    for done in waiting:
                        if not done.done():
                            done.set_exception(error)
                    if not self._waiting:
                        return
                    continue
                for row in rows:
                    if isinstance(row, Invocation) and row.state in rules.OVER and id(row) not in self._dirty:
                        row.steps = {}  # what its node printed is in the database, and not kept here as well
                for done in waiting:
                    if not done.done():
                        done.set_result(None)
        finally:
            self._is_writing = False

    def _in_background(self, deed: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(deed)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("a command failed in the background", exc_info=error)


def _save(rows: list[Invocation | Command]) -> None:
    """Write rows down, all or none. One by one: bulk_update takes five times as long to make its statement."""
    with transaction.atomic():
        for row in rows:
            names = _OF_INVOCATION if isinstance(row, Invocation) else _OF_COMMAND
            type(row)._default_manager.filter(pk=row.pk).update(**{name: getattr(row, name) for name in names})


def _command_of(job_id: str) -> UUID | None:
    parts = job_id.split(".")
    return _uuid(parts[2]) if len(parts) == 4 else None


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
