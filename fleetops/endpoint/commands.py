"""Run Command: a command from its request to the last answer of its last node.

All of it is on the event loop. What is under way is in memory too, and each change is in the database before its
consequence leaves: before a job is sent, and before a node's answer is acknowledged. After a kill the rows say what is
left to do: what no node has acknowledged is sent again under the same id, and a node that has it says so.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Protocol
from uuid import UUID, uuid4

from django.db import transaction
from django.db.models import QuerySet

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
FULL_SECONDS: Final = 2.0  # until a job is sent again to an agent whose buffer was full
LONGEST_WAIT_SECONDS: Final = 30.0  # between two tries; the wait doubles up to this
KEPT_DAYS: Final = 30  # a command's history [user guide, command history]
_TIDY_SECONDS: Final = 3600.0
_MOST_IN_ONE_WRITE: Final = 200
_LONGEST_TRACE: Final = 2500  # [SSM, InvocationTraceOutput]
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
    is_sending: bool = False
    next_try_at: float = 0.0  # by the monotonic clock
    wait_seconds: float = ACK_SECONDS
    cancel_told: bool = False

    @property
    def is_over(self) -> bool:
        return self.row.state in rules.OVER

    @property
    def is_taken(self) -> bool:
        return self.row.taken_at is not None

    def wait(self, seconds: float) -> None:
        """Try no sooner than after `seconds`; each further wait is twice as long, up to a bound."""
        self.next_try_at = clock.monotonic() + max(seconds, self.wait_seconds if seconds == ACK_SECONDS else 0.0)
        self.wait_seconds = min(LONGEST_WAIT_SECONDS, self.wait_seconds * 2)


@dataclass(slots=True, eq=False)
class _Running:
    """A command that has not ended."""

    row: Command
    invocations: dict[str, _Invocation] = field(default_factory=dict)
    waiting: deque[_Invocation] = field(default_factory=deque)  # for a place, in order; some may have ended there
    under_way: dict[str, _Invocation] = field(default_factory=dict)  # each holds one of the command's places
    # Counted, not looked for: each of a command's nodes answers several times.
    taken: int = 0  # acknowledged by their nodes, and not ended
    ended: int = 0
    errors: int = 0  # of those that have ended, as MaxErrors counts
    is_spent: bool = False  # too many errors: nothing more is sent

    def take_up(self, invocation: _Invocation) -> None:
        """Count an invocation in, as its row has it."""
        self.invocations[invocation.row.instance_id] = invocation
        if invocation.is_over:
            self._count_end(invocation)
            return
        self.taken += invocation.is_taken
        # What was told to a node may be there: it holds its place, and is told again.
        if invocation.row.sent_at is not None:
            self.under_way[invocation.row.instance_id] = invocation
        else:
            self.waiting.append(invocation)

    def note_taken(self, invocation: _Invocation) -> None:
        """Its node has it."""
        invocation.row.taken_at = clock.now()
        self.taken += not invocation.is_over

    def note_end(self, invocation: _Invocation) -> None:
        """It has ended, and gives its place back."""
        self.under_way.pop(invocation.row.instance_id, None)
        self.taken -= invocation.is_taken
        self._count_end(invocation)

    def _count_end(self, invocation: _Invocation) -> None:
        self.ended += 1
        self.errors += invocation.row.details in rules.ERRORS

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
            if invocation.is_taken or invocation.row.sent_at is not None:
                self._move(invocation, CommandStatus.CANCELLING, "Cancelling")
                invocation.next_try_at = 0.0  # the job may have left just now; its cancel waits for nothing
            else:
                self._end(running, invocation, "Cancelled")
        if not chosen and running.row.state != CommandStatus.CANCELLING:
            self._move_command(running, CommandStatus.CANCELLING, "Cancelling")
        self._advance(running)
        self._tell_those_due(running, running.under_way.values())
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

    async def counts(self, commands: Iterable[Command]) -> dict[int, list[str]]:
        """The details of the invocations of each command that have ended, by its row's key."""
        keys = [command.pk for command in commands]

        def read() -> dict[int, list[str]]:
            found: dict[int, list[str]] = {key: [] for key in keys}
            rows = Invocation.objects.filter(command__in=keys, state__in=rules.OVER)
            for key, details in rows.values_list("command", "details"):
                found[key].append(details)
            return found

        return await in_database(self._reader, read)

    # What the hub tells

    def node_connected(self, key: NodeKey) -> None:
        """A node has its control channel open: what it does not have yet is sent."""
        for command_id in list(self._by_node.get(key, ())):
            running = self._running[command_id]
            invocation = running.invocations[key[2]]
            invocation.next_try_at = 0.0
            invocation.cancel_told = False
            self._tell_those_due(running, [invocation])

    def node_gone(self, key: NodeKey) -> None:
        """A node is no longer managed: what it has not answered it will not."""
        for command_id in list(self._by_node.get(key, ())):
            running = self._running[command_id]
            invocation = running.invocations[key[2]]
            if not invocation.is_over:
                self._end(running, invocation, "Undeliverable")
            self._advance(running)

    async def acknowledged(self, key: NodeKey, ack: payloads.AgentJobAck) -> None:
        """A node takes a job, or says why not."""
        running, invocation = self._of_job(key, ack.job_id)
        if running is None or invocation is None or invocation.is_over or invocation.is_taken:
            return
        if ack.status_code in _TAKEN:
            running.note_taken(invocation)
            invocation.wait_seconds = ACK_SECONDS
            if invocation.row.state == CommandStatus.CANCELLING:
                self._dirt(invocation.row)
            else:
                self._move(invocation, CommandStatus.IN_PROGRESS, "InProgress")
        elif ack.status_code in _FULL:
            if invocation.row.state == CommandStatus.PENDING:
                self._move(invocation, CommandStatus.DELAYED, "Delayed")
            invocation.wait(FULL_SECONDS)
        else:
            invocation.row.trace_output = f"{ack.status_code} {ack.error_message}"[:_LONGEST_TRACE]
            self._end(running, invocation, "Failed")
        self._advance(running)
        await self._written()

    async def replied(self, key: NodeKey, reply: payloads.AgentJobReply) -> None:
        """A node says how a command fares. The last two of its replies come in either order: an end stays an end."""
        running, invocation = self._of_job(key, reply.job_id)
        if invocation is None or reply.topic.startswith("aws.ssm.cancelCommand"):
            if invocation is None:
                await self._late(key, reply)
            return
        assert running is not None
        try:
            content = payloads.ReplyContent.parse(reply.content)
        except RemoteProtocolError as error:
            logger.warning("a reply cannot be read instance=%s job=%s reason=%s", key[2], reply.job_id, error)
            return
        changed = _merge(invocation.row, content)
        if not invocation.is_taken:
            running.note_taken(invocation)
            changed = True
        if not invocation.is_over:
            details = rules.of_reply(content.document_status)
            if details is not None:
                self._end(running, invocation, details)
            elif invocation.row.state not in {CommandStatus.IN_PROGRESS, CommandStatus.CANCELLING}:
                self._move(invocation, CommandStatus.IN_PROGRESS, "InProgress")
        if changed:
            self._dirt(invocation.row)
        self._advance(running)
        await self._written()

    async def _late(self, key: NodeKey, reply: payloads.AgentJobReply) -> None:
        """A step's result that comes after its command has ended is kept; it changes no state."""
        command_id = _command_of(reply.job_id)
        try:
            content = payloads.ReplyContent.parse(reply.content)
        except RemoteProtocolError:
            return
        if command_id is None or not content.runtime_status:
            return

        def write() -> None:
            row = Invocation.objects.filter(
                command__command_id=command_id,
                command__account_id=key[0],
                command__region=key[1],
                instance_id=key[2],
            ).first()
            if row is not None and _merge(row, content):
                row.save(update_fields=["steps", "trace_output"])

        await in_database(self._writer, write)

    # How a command goes on

    def _take_up(self, row: Command, invocations: list[Invocation]) -> _Running:
        running = self._running[row.command_id] = _Running(row)
        for invocation in invocations:
            key = (row.account_id, row.region, invocation.instance_id)
            running.take_up(_Invocation(invocation, key))
            self._by_node.setdefault(key, set()).add(row.command_id)
        return running

    def _advance(self, running: _Running) -> None:
        """Send what may go now, end what is over. Safe to call at any moment."""
        row = running.row
        if not running.is_spent and rules.are_too_many(running.errors, row.max_errors, row.target_count):
            running.is_spent = True
            for invocation in running.invocations.values():
                if not invocation.is_over and invocation.row.sent_at is None:
                    self._end(running, invocation, "Terminated")
        if running.ended == len(running.invocations):
            self._finish(running)
            return
        taken = running.taken + running.ended
        most = rules.may_be_under_way(row.max_concurrency, row.target_count, taken)
        while running.waiting and len(running.under_way) < most:
            invocation = running.waiting.popleft()
            if not invocation.is_over:
                running.under_way[invocation.row.instance_id] = invocation
                self._tell_those_due(running, [invocation])

    def _tell_those_due(self, running: _Running, invocations: Iterable[_Invocation]) -> None:
        """Tell nodes what they have to be told, where a command's invocation holds a place and it is time."""
        now = clock.monotonic()
        for invocation in invocations:
            if invocation.is_over or invocation.is_sending or now < invocation.next_try_at:
                continue
            if invocation.row.instance_id in running.under_way and self._is_due(invocation):
                invocation.is_sending = True
                self._in_background(self._tell(running, invocation))

    def _is_due(self, invocation: _Invocation) -> bool:
        """Whether there is something to tell the node, and it is there."""
        if not self._jobs().is_connected(invocation.key):
            return False
        if invocation.row.state == CommandStatus.CANCELLING:
            return not invocation.cancel_told
        return not invocation.is_taken

    async def _tell(self, running: _Running, invocation: _Invocation) -> None:
        """Send a node its job, or the job that cancels it; that it is told is in the database first."""
        try:
            if invocation.row.sent_at is None:
                invocation.row.sent_at = clock.now()
                self._dirt(invocation.row)
                if running.row.state == CommandStatus.PENDING:
                    self._move_command(running, CommandStatus.IN_PROGRESS, "InProgress")
                await self._written()
            if invocation.is_over:
                return
            is_cancel = invocation.row.state == CommandStatus.CANCELLING
            job_id = running.job_id(invocation)
            if is_cancel:
                invocation.cancel_told = True
                job = payloads.AgentJob.cancel(f"aws.ssm.{uuid4()}.{invocation.row.instance_id}", job_id)
            else:
                job = payloads.AgentJob(job_id, self._content(running.row))
            sent = await self._jobs().send_job(invocation.key, job)
            if not sent:
                invocation.cancel_told = False
            invocation.wait(ACK_SECONDS)
        finally:
            invocation.is_sending = False

    @staticmethod
    def _content(row: Command) -> str:
        output = row.output
        return payloads.send_command_content(
            command_id=str(row.command_id),
            document_name=row.document_name,
            document_content=row.document_content,
            parameters=row.parameters,
            output_s3_bucket_name=output.get("bucket", ""),
            output_s3_key_prefix=output_prefix(row) if output.get("bucket") else "",
            cloudwatch_log_group_name=output.get("log_group", ""),
            cloudwatch_output_enabled=bool(output.get("to_logs")),
        )

    def _finish(self, running: _Running) -> None:
        row = running.row
        del self._running[row.command_id]
        for invocation in running.invocations.values():
            commands = self._by_node.get(invocation.key, set())
            commands.discard(row.command_id)
            if not commands:
                self._by_node.pop(invocation.key, None)
        details = [invocation.row.details for invocation in running.invocations.values()]
        was_cancelled = row.state == CommandStatus.CANCELLING
        state, words = rules.outcome(details, max_errors=row.max_errors, was_cancelled=was_cancelled)
        self._move_command(running, state, words)
        logger.info("command ended command=%s status=%s", row.command_id, words)

    async def _tick(self) -> None:
        tidied_at = 0.0
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                now = clock.now()
                for running in list(self._running.values()):
                    self._look_at_the_time(running, now)
                    self._advance(running)
                    self._tell_those_due(running, running.under_way.values())
                if clock.monotonic() - tidied_at > _TIDY_SECONDS:
                    tidied_at = clock.monotonic()
                    await self._tidy(now)
            except Exception:  # the outermost loop of the watch: the next round looks again
                logger.exception("commands not looked at")

    def _look_at_the_time(self, running: _Running, now: datetime) -> None:
        """End what was not delivered in time, and what has not ended in time."""
        row = running.row
        delivery = timedelta(seconds=row.timeout_seconds)
        execution = delivery + timedelta(seconds=row.execution_seconds)
        for invocation in running.invocations.values():
            if invocation.is_over:
                continue
            if not invocation.is_taken:
                if now - row.requested_at > delivery:
                    was_cancelled = invocation.row.state == CommandStatus.CANCELLING
                    self._end(running, invocation, "Cancelled" if was_cancelled else "DeliveryTimedOut")
            elif now - invocation.row.taken_at > execution:  # type: ignore[operator]
                self._end(running, invocation, "ExecutionTimedOut")

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

    def _end(self, running: _Running, invocation: _Invocation, details: str) -> None:
        invocation.row.ended_at = clock.now()
        self._move(invocation, rules.DETAILS[details], details)
        running.note_end(invocation)

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
    """How long a document's steps may run in all, by their timeoutSeconds; 3,600 each where none is said."""
    document = command_document.parse(content)
    total = 0
    for step in document.steps:
        inputs = command_document.prepared(step, parameters).inputs
        for one in inputs if isinstance(inputs, list) else [inputs]:
            given = one.get("timeoutSeconds") if isinstance(one, Mapping) else None
            text = str(given) if isinstance(given, int | str) else ""
            total += int(text) if text.isascii() and text.isdigit() else command_document.DEFAULT_TIMEOUT_SECONDS
    return total


def output_prefix(row: Command) -> str:
    """Where a command's output stands in its bucket; the agent puts command and node behind it itself."""
    return str(row.output.get("prefix", ""))


def step_status(step: Mapping[str, Any]) -> str:
    """A step's status in a reply as CommandPluginStatus has it."""
    return _STATUS_WORDS.get(str(step.get("status", "")), "Pending")


def _merge(row: Invocation, content: payloads.ReplyContent) -> bool:
    """Take in the results of steps; a result that is final is not replaced by one that is not. True if any is new."""
    changed = False
    for name, step in (content.runtime_status or {}).items():
        known = row.steps.get(name)
        if known is not None and known["status"] not in {"InProgress", "SuccessAndReboot", "PassedAndReboot"}:
            continue
        row.steps[name] = {
            "status": step.status,
            "code": step.code,
            "plugin": step.name,
            "output": step.output[:2500],
            "stdout": step.standard_output[:24_000],
            "stderr": step.standard_error[:24_000],
            "started_at": step.start_date_time,
            "ended_at": step.end_date_time,
            "bucket": step.output_s3_bucket_name,
            "prefix": step.output_s3_key_prefix,
        }
        changed = True
    if content.trace_output and content.trace_output != row.trace_output:
        row.trace_output = content.trace_output[:_LONGEST_TRACE]
        changed = True
    return changed


def _save(rows: list[Invocation | Command]) -> None:
    invocations = [row for row in rows if isinstance(row, Invocation)]
    commands = [row for row in rows if isinstance(row, Command)]
    with transaction.atomic():
        # All of them are there, so this updates; bulk_update would write a condition for each row and column.
        Invocation.objects.bulk_create(
            invocations,
            batch_size=_MOST_IN_ONE_WRITE,
            update_conflicts=True,
            unique_fields=["id"],
            update_fields=["state", "details", "trace_output", "steps", "sent_at", "taken_at", "ended_at"],
        )
        Command.objects.bulk_update(commands, ["state", "details"], batch_size=_MOST_IN_ONE_WRITE)


def _command_of(job_id: str) -> UUID | None:
    parts = job_id.split(".")
    return _uuid(parts[2]) if len(parts) == 4 else None


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
