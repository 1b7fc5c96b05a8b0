"""Run Command: a command from its request to the last answer of its last node.

All of it is on the event loop. What is under way is in memory too, and each change is in the database before its
consequence leaves: before a job is sent, and before a node's answer is acknowledged. After a kill the rows say what is
left to do: what no node has acknowledged is sent again under the same id, and a node that has it says so.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Protocol
from uuid import UUID, uuid4

from django.db import transaction
from django.db.models import Count, QuerySet

from fleetops import clock
from fleetops.documents import command as command_document
from fleetops.endpoint import command_rules as rules
from fleetops.endpoint.calls import NodeKey
from fleetops.endpoint.database import in_database
from fleetops.endpoint.models import Command, Invocation
from fleetops.endpoint.states import COMMAND_MOVES, INVOCATION_MOVES, CommandStatus
from fleetops.wire import RemoteProtocolError, payloads

logger = logging.getLogger(__name__)

TICK_SECONDS: Final = 0.5  # how often the time is looked at
ACK_SECONDS: Final = 3.0  # an agent acknowledges at once; one that has just started drops jobs in silence
SILENT_SECONDS: Final = 5.0  # a node that is away or says nothing for so long no longer holds up the ramp
FULL_SECONDS: Final = 2.0  # until a job is sent again to an agent whose buffer was full
LONGEST_WAIT_SECONDS: Final = 30.0  # between two tries; the wait doubles up to this
LONGEST_EXECUTION_SECONDS: Final = 172_800  # of a step [AWS-RunShellScript, executionTimeout]
_MOST_DIGITS: Final = 9  # of a time-out: one of more is longer than the longest in any case
KEPT_DAYS: Final = 30  # a command's history [user guide, command history]
_TIDY_SECONDS: Final = 3600.0
_OF_INVOCATION: Final = ("state", "details", "trace_output", "steps", "sent_at", "taken_at", "ended_at")
_OF_COMMAND: Final = ("state", "details")
_LONGEST_TRACE: Final = 2500  # [SSM, InvocationTraceOutput]
_LONGEST_WORD: Final = 1024  # of what a node says of a step beside its output: names, moments, an S3 key [S3, keys]
_UNFINISHED = frozenset({"InProgress", "SuccessAndReboot", "PassedAndReboot"})  # statuses of a step in a reply
_FULL = frozenset({"51401", "51402"})  # shutting down, no room: send it again
_TAKEN = frozenset({"200", "51405"})  # taken, and taken before

_STATUS_WORDS = {  # of a step in a reply, as CommandPluginStatus has them
    "Success": "Success",
    "Skipped": "Success",
    "SuccessAndReboot": "InProgress",
    "PassedAndReboot": "InProgress",
    "Failed": "Failed",
    "TimedOut": "TimedOut",
    "Cancelled": "Cancelled",
    "InProgress": "InProgress",
}


class Jobs(Protocol):
    """What the hub does for commands."""

    async def send_job(self, key: NodeKey, job: payloads.AgentJob) -> bool: ...
    def is_connected(self, key: NodeKey) -> bool: ...


@dataclass(slots=True, eq=False)
class _Invocation:
    """An invocation that has not ended, or has but lately."""

    row: Invocation
    key: NodeKey
    has_place: bool = False  # one of those that the command's concurrency gives
    place_at: float = 0.0  # when it got it, by the monotonic clock
    is_sending: bool = False
    is_told: bool = False  # the node may have the job
    next_try_at: float = 0.0  # by the monotonic clock
    wait_seconds: float = ACK_SECONDS
    cancel_job_id: str = ""  # of the job that cancels it
    cancel_is_taken: bool = False

    @property
    def is_over(self) -> bool:
        return self.row.state in rules.OVER

    @property
    def is_taken(self) -> bool:
        return self.row.taken_at is not None

    def wait(self, seconds: float | None = None) -> None:
        """Try no sooner than after `seconds`; where none is said, after twice the last wait, up to a bound."""
        if seconds is None:
            seconds, self.wait_seconds = self.wait_seconds, min(LONGEST_WAIT_SECONDS, self.wait_seconds * 2)
        self.next_try_at = clock.monotonic() + seconds


@dataclass(slots=True, eq=False)
class _Running:
    """A command that has not ended.

    It counts as it goes: each of its nodes has something to say some four times, and to look at all of them each time
    would cost the square of their number.
    """

    row: Command
    steps: frozenset[str]  # names of the document's steps
    invocations: dict[str, _Invocation] = field(default_factory=dict)
    waiting: deque[_Invocation] = field(default_factory=deque)  # for a place, in order
    ended: Counter[str] = field(default_factory=Counter)  # invocations that are over, by their details
    is_stopped: bool = False  # too many have failed: no other node is told
    places_taken: int = 0
    answered: int = 0  # acknowledged by their nodes, or over
    silent: int = 0  # hold a place, and have not been acknowledged for SILENT_SECONDS

    def add(self, invocation: _Invocation) -> None:
        self.invocations[invocation.row.instance_id] = invocation
        if invocation.is_over:
            self.ended[invocation.row.details] += 1
            self.answered += 1
            return
        self.answered += invocation.is_taken
        if invocation.row.sent_at is None:
            self.waiting.append(invocation)
        else:  # what was told to a node may be there: it holds its place, and is told again
            invocation.is_told = True
            self.give_place(invocation)

    def give_place(self, invocation: _Invocation) -> None:
        invocation.has_place, invocation.place_at = True, clock.monotonic()
        self.places_taken += 1

    @property
    def is_spent(self) -> bool:
        return rules.is_spent(self.row.max_errors, self.row.target_count, self.ended)

    @property
    def is_over(self) -> bool:
        return self.ended.total() == len(self.invocations)

    def job_id(self, invocation: _Invocation) -> str:
        return f"aws.ssm.{self.row.command_id}.{invocation.row.instance_id}"


class Commands:
    """All commands; those under way are here in memory, the others in the database alone."""

    def __init__(self, writer: Executor, reader: Executor, jobs: Callable[[], Jobs]) -> None:
        self._writer = writer
        self._reader = reader
        self._jobs = jobs
        self._running: dict[UUID, _Running] = {}
        self._by_node: dict[NodeKey, set[UUID]] = {}
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
        """Write a new command down, and begin it. An invocation that has ended already stays as it is."""

        def write() -> None:
            with transaction.atomic():
                row.save()
                for invocation in invocations:
                    invocation.command = row
                Invocation.objects.bulk_create(invocations)

        await in_database(self._writer, write)
        running = self._take_up(row, invocations)
        logger.info("command requested command=%s targets=%d", row.command_id, row.target_count)
        self._advance(running)
        await self._written()

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
            invocation.wait(FULL_SECONDS)
        else:
            invocation.row.trace_output = _kept(f"{ack.status_code} {ack.error_message}", _LONGEST_TRACE)
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
        if _merge(invocation.row, content, running.steps):
            self._dirt(invocation.row)
        details = rules.of_reply(content.document_status)
        if details is not None:
            self._end(running, invocation, details)
        elif invocation.row.state not in {CommandStatus.IN_PROGRESS, CommandStatus.CANCELLING}:
            self._move(invocation, CommandStatus.IN_PROGRESS, "InProgress")
        self._advance(running)
        await self._written()

    async def _late(self, key: NodeKey, job_id: str, content: payloads.ReplyContent) -> None:
        """A step's result, or a node's words, that come after the invocation has ended are kept; no state changes."""
        await self._written()  # a write of the end would undo it, and one that failed has to be made good first
        command_id = _command_of(job_id)
        if command_id is None or not (content.runtime_status or content.trace_output):
            return

        def write() -> None:
            rows = Invocation.objects.select_related("command").filter(
                command__command_id=command_id,
                command__account_id=key[0],
                command__region=key[1],
                instance_id=key[2],
            )
            row = rows.first()
            if row is not None and _merge(row, content, _step_names(row.command)):
                row.save(update_fields=["steps", "trace_output"])

        await in_database(self._writer, write)

    # How a command goes on

    def _take_up(self, row: Command, invocations: list[Invocation]) -> _Running:
        running = self._running[row.command_id] = _Running(row, _step_names(row))
        for invocation in invocations:
            key = (row.account_id, row.region, invocation.instance_id)
            running.add(_Invocation(invocation, key))
            self._by_node.setdefault(key, set()).add(row.command_id)
        return running

    def _advance(self, running: _Running) -> None:
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
        places = rules.may_be_under_way(row.max_concurrency, row.target_count, running.answered + running.silent)
        while running.waiting and running.places_taken < places:
            invocation = running.waiting.popleft()
            if not invocation.is_over:
                running.give_place(invocation)
                self._tell_if_due(running, invocation)

    def _tell_if_due(self, running: _Running, invocation: _Invocation) -> None:
        """Begin to tell a node what it does not have yet, if it is there and the time for it has come."""
        if invocation.is_over or invocation.is_sending or not invocation.has_place:
            return
        is_cancel = invocation.row.state == CommandStatus.CANCELLING
        if invocation.cancel_is_taken if is_cancel else invocation.is_taken:
            return
        if clock.monotonic() >= invocation.next_try_at and self._jobs().is_connected(invocation.key):
            invocation.is_sending = True
            self._in_background(self._tell(running, invocation))

    async def _tell(self, running: _Running, invocation: _Invocation) -> None:
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
                job = payloads.AgentJob(job_id, job_content(running.row))
            await self._jobs().send_job(invocation.key, job)
        finally:
            invocation.is_sending = False

    def _finish(self, running: _Running) -> None:
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

    def _look_at_the_time(self, running: _Running, now: datetime) -> None:
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

    def _of_job(self, key: NodeKey, job_id: str) -> tuple[_Running | None, _Invocation | None]:
        """The invocation that a node speaks of; none if it is another node's, or has ended with its command."""
        command_id = _command_of(job_id)
        running = self._running.get(command_id) if command_id is not None else None
        if running is None or (running.row.account_id, running.row.region) != key[:2]:
            return None, None
        if job_id.rpartition(".")[2] != key[2]:
            return None, None
        return running, running.invocations.get(key[2])

    def _take(self, running: _Running, invocation: _Invocation) -> None:
        """Its node has it."""
        if not invocation.is_taken:
            invocation.row.taken_at = clock.now()
            running.answered += 1
            self._dirt(invocation.row)

    def _end(self, running: _Running, invocation: _Invocation, details: str) -> None:
        running.places_taken -= invocation.has_place
        running.answered += not invocation.is_taken
        running.ended[details] += 1
        invocation.row.ended_at = clock.now()
        self._move(invocation, rules.DETAILS[details], details)

    def _move(self, invocation: _Invocation, state: CommandStatus, details: str) -> None:
        row = invocation.row
        assert state in INVOCATION_MOVES[CommandStatus(row.state)], (row.state, state)
        row.state, row.details = state, details
        self._dirt(row)

    def _move_command(self, running: _Running, state: CommandStatus, details: str) -> None:
        row = running.row
        assert state in COMMAND_MOVES[CommandStatus(row.state)], (row.state, state)
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


def execution_seconds(content: Mapping[str, Any], parameters: Mapping[str, Any]) -> int:
    """How long a document's steps may run in all, by their timeoutSeconds: 3,600 each where none is said."""
    document = command_document.parse(content)
    total = 0
    for step in document.steps:
        inputs = command_document.prepared(step, parameters).inputs
        for one in inputs if isinstance(inputs, list) else [inputs]:
            given = one.get("timeoutSeconds") if isinstance(one, Mapping) else None
            text = str(given)[:_MOST_DIGITS] if isinstance(given, int | str) else ""
            seconds = int(text) if text.isascii() and text.isdigit() else command_document.DEFAULT_TIMEOUT_SECONDS
            total += min(seconds, LONGEST_EXECUTION_SECONDS)
    return total


def job_content(row: Command) -> str:
    """What a node is told of a command. The agent itself puts command and node behind the prefix of its output."""
    output = row.output
    return payloads.send_command_content(
        command_id=str(row.command_id),
        document_name=row.document_name,
        document_content=row.document_content,
        parameters=row.parameters,
        output_s3_bucket_name=output.get("bucket", ""),
        output_s3_key_prefix=output.get("prefix", "") if output.get("bucket") else "",
        cloudwatch_log_group_name=output.get("log_group", ""),
        cloudwatch_output_enabled=bool(output.get("to_logs")),
    )


def step_status(step: Mapping[str, Any]) -> str:
    """A step's status in a reply as CommandPluginStatus has it."""
    return _STATUS_WORDS.get(str(step.get("status", "")), "Pending")


def _step_names(row: Command) -> frozenset[str]:
    return frozenset(step.name for step in command_document.parse(row.document_content).steps)


def _merge(row: Invocation, content: payloads.ReplyContent, names: frozenset[str]) -> bool:
    """Take in the results of the steps called `names`; a result that is final is not replaced. True if any is new."""
    changed = False
    for name, step in (content.runtime_status or {}).items():
        known = row.steps.get(name)
        if name not in names or (known is not None and known["status"] not in _UNFINISHED):
            continue
        row.steps[name] = {
            "status": _kept(step.status, _LONGEST_WORD),
            "code": step.code,
            "plugin": _kept(step.name, _LONGEST_WORD),
            "output": _kept(step.output, 2500),
            "stdout": _kept(step.standard_output, 24_000),
            "stderr": _kept(step.standard_error, 24_000),
            "started_at": _kept(step.start_date_time, _LONGEST_WORD),
            "ended_at": _kept(step.end_date_time, _LONGEST_WORD),
            "bucket": _kept(step.output_s3_bucket_name, _LONGEST_WORD),
            "prefix": _kept(step.output_s3_key_prefix, _LONGEST_WORD),
        }
        changed = True
    trace = _kept(content.trace_output, _LONGEST_TRACE)
    if trace and trace != row.trace_output:
        row.trace_output = trace
        changed = True
    return changed


def _kept(text: str, longest: int) -> str:
    """What a node says, as every database takes it: PostgreSQL has neither zeros nor halves of characters."""
    return text[:longest].replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


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
