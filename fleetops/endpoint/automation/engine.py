"""All executions of runbooks: those under way are here in memory, the others in the database alone.

At most a hundred of an account and region are under way at once, of those with targets twenty-five; a thousand of each
wait. One that waits for an automation which it has started itself gives its place away meanwhile, or a hundred such
would wait for ever. Source: Systems Manager endpoints and quotas, "Automation".
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from datetime import timedelta
from typing import Any, Final
from uuid import UUID, uuid4

from django.db import Error as DatabaseError
from django.db import transaction

from fleetops import clock
from fleetops.awsapi.errors import ApiError
from fleetops.documents import InvalidDocument, InvalidParameters, automation
from fleetops.endpoint.auth import Identities
from fleetops.endpoint.commands import Commands
from fleetops.endpoint.database import in_database
from fleetops.endpoint.models import AutomationExecution, AutomationStep, TrailEvent
from fleetops.endpoint.states import AUTOMATION_OVER, AutomationStatus
from fleetops.endpoint.trail import Trail

from . import events
from .actions import ACTIONS
from .caller import CarryOut
from .controlled import Controlled
from .running import Row, Running

logger = logging.getLogger(__name__)

MOST_AT_ONCE: Final = 100
MOST_CONTROLLED_AT_ONCE: Final = 25
MOST_QUEUED: Final = 1_000
KEPT_DAYS: Final = 30  # of an execution's history [user guide, automation]
_AGAIN_SECONDS: Final = 1.0  # until a database that has failed is asked again
_TIDY_SECONDS: Final = 3600.0
_PATIENCE_SECONDS: Final = 3.0  # for the calls under way when this process ends
_MOST_EVENTS: Final = 10_000

Told = Callable[[Mapping[str, Any]], Awaitable[None]]
Kind = tuple[str, str, bool]  # account, region, whether it has targets
UnderWay = Running | Controlled


class Automations:
    """The executions."""

    def __init__(
        self,
        writer: Executor,
        reader: Executor,
        *,
        commands: Commands,
        identities: Identities,
        trail: Trail,
        tell: Told,
        host: str,
    ) -> None:
        """`tell` takes an event for EventBridge; `host` is HOST:PORT, where the endpoint's callers find it."""
        self.host = host
        self.trail = trail
        self._writer = writer
        self._reader = reader
        self.commands = commands
        self.identities = identities
        self._tell = tell
        self.carry_out: CarryOut  # app.py sets it
        self.is_closing = False
        self._running: dict[UUID, UnderWay] = {}
        self._places: Counter[Kind] = Counter()
        self._away: set[UUID] = set()  # those that have given their places away
        self._queues: dict[Kind, deque[UnderWay]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue(_MOST_EVENTS)
        self._keepers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Take up the executions that were under way when this process last ended."""

        def read() -> list[tuple[AutomationExecution, list[AutomationStep]]]:
            rows = AutomationExecution.objects.exclude(state__in=AUTOMATION_OVER).select_related("parent")
            return [(row, list(row.steps.all())) for row in rows.prefetch_related("steps").order_by("pk")]

        found = await in_database(self._reader, read)
        for row, steps in sorted(found, key=lambda each: each[0].state == AutomationStatus.PENDING):
            try:
                self._take_up(row, steps)
            except InvalidDocument as error:  # it was sound by what another version takes
                row.state, row.ended_at = AutomationStatus.FAILED, clock.now()
                row.failure_message = f"The runbook cannot be read any more: {error}"
                await self.save(row)
        self._keepers = [asyncio.create_task(self._tell_all()), asyncio.create_task(self._tidy_regularly())]

    async def stop(self) -> None:
        """End: what is under way stays in the database as it is. Calls that are being made may end first."""
        self.is_closing = True
        for under_way in self._running.values():
            under_way.woken.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_PATIENCE_SECONDS)
        tasks = [*self._tasks, *self._keepers]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # What the API asks

    async def begin(self, row: AutomationExecution, targets: Sequence[str] = ()) -> None:
        """Write a new execution down, with a step for each of its runbook's or its targets, and begin it.

        Raises ApiError if too many wait already.
        """
        kind = _kind(row)
        if row.parent is None and len(self._queues.get(kind, ())) >= MOST_QUEUED:
            raise ApiError(
                "AutomationExecutionLimitExceededException",
                "The number of simultaneously running Automation executions exceeded the allowable limit: "
                f"{MOST_QUEUED} wait already.",
            )
        if row.aim.get("is_controlled"):
            names = [(name, "aws:executeAutomation") for name in targets]
        else:
            names = [(step.name, step.action) for step in automation.parse(row.document_content).steps]
        steps = [
            AutomationStep(
                step_id=uuid4(), execution=row, name=name[:600], action=action, position=number, memo={"index": number}
            )
            for number, (name, action) in enumerate(names)
        ]

        def write() -> None:
            with transaction.atomic():
                row.save()
                for step in steps:
                    step.execution = row
                AutomationStep.objects.bulk_create(steps)

        await in_database(self._writer, write)
        logger.info("automation requested execution=%s document=%s", row.execution_id, row.document_name)
        self._take_up(row, steps)

    async def find(self, account_id: str, region: str, execution_id: str) -> AutomationExecution | None:
        """An execution as the database has it: what is in memory may be ahead of it."""
        try:
            wanted = UUID(execution_id)
        except ValueError:
            return None
        rows = AutomationExecution.objects.select_related("parent").filter(account_id=account_id, region=region)
        return await in_database(self._reader, rows.filter(execution_id=wanted).first)

    async def find_by_id(self, execution_id: UUID) -> AutomationExecution | None:
        """An execution: as it stands in memory if it is under way."""
        if execution_id in self._running:
            return self._running[execution_id].row
        rows = AutomationExecution.objects.select_related("parent").filter(execution_id=execution_id)
        return await in_database(self._reader, rows.first)

    async def parent_of(self, row: AutomationExecution) -> AutomationExecution | None:
        """The execution that has started one."""
        rows = AutomationExecution.objects.filter(children=row.pk)
        return await in_database(self._reader, rows.first)

    async def whole(self, found: AutomationExecution) -> tuple[AutomationExecution, list[AutomationStep]]:
        """An execution and its steps, which are never behind what it says of itself."""

        def read() -> tuple[AutomationExecution, list[AutomationStep]]:
            with transaction.atomic():
                row = AutomationExecution.objects.select_related("parent").get(pk=found.pk)
                return row, list(AutomationStep.objects.filter(execution=found.pk).select_related("loop"))

        return await in_database(self._reader, read)

    async def read(self, work: Callable[[], Any]) -> Any:
        return await in_database(self._reader, work)

    def under_way(self, row: AutomationExecution) -> UnderWay | None:
        return self._running.get(row.execution_id)

    async def stop_one(self, row: AutomationExecution, how: str) -> None:
        """Ask one to end: "Cancel" breaks off what runs, "Complete" lets the step that runs end."""
        under_way = self._running.get(row.execution_id)
        if under_way is None:
            return
        row = under_way.row
        if row.state in AUTOMATION_OVER:
            return
        row.stop = how
        kind = _kind(row)
        if under_way in self._queues.get(kind, ()):  # it has not begun, and does not
            self._queues[kind].remove(under_way)
            row.state, row.ended_at = AutomationStatus.CANCELLED, clock.now()
            del self._running[row.execution_id]
            self.tell(row, row)
        elif how == "Cancel" and row.state in {AutomationStatus.IN_PROGRESS, AutomationStatus.WAITING}:
            row.state = AutomationStatus.CANCELLING
            self.tell(row, row)
        await self.save(row, fields=("stop", "state", "ended_at"))
        under_way.woken.set()
        self._wake_parent(row)

    # What executions ask

    async def save(self, *rows: Row, fields: Sequence[str] | None = None) -> None:
        """Write rows down, all or none.

        Who only tells an execution something names the `fields`: the rest of the row may be ahead of its steps.
        """

        def write() -> None:
            with transaction.atomic():
                for row in rows:
                    row.save(update_fields=fields)

        await in_database(self._writer, write)

    async def begin_target(self, parent: AutomationExecution, index: int, made_id: UUID) -> AutomationExecution:
        """Begin the execution of one target of another."""
        given = {**parent.given, **parent.resolved[index]}
        row = AutomationExecution(
            execution_id=made_id,
            parent=parent,
            given=given,
            target=_shown(parent.resolved[index]),
            variables=dict(parent.variables),
            started_at=clock.now(),
            **{
                name: getattr(parent, name)
                for name in (
                    *("account_id", "region", "document_name", "document_version", "document_content"),
                    *("principal", "assume_role", "executed_by"),
                )
            },
        )
        try:
            row.parameters = automation.check_parameters(automation.parse(row.document_content), given)
        except InvalidParameters as error:
            row.state, row.ended_at, row.failure_message = AutomationStatus.FAILED, clock.now(), str(error)
            await self.save(row)
            return row
        await self.begin(row)
        return row

    async def was_recorded(self, request_id: str, name: str, row: AutomationExecution) -> str | None:
        """The error code with which CloudTrail has a request, "" for none; None if it does not have it."""
        rows = TrailEvent.objects.filter(
            account_id=row.account_id,
            region=row.region,
            name=name,
            happened_at__gte=row.started_at,
            body__contains=f'"{request_id}"',
        ).values_list("error_code", flat=True)
        return await in_database(self._reader, rows.first)

    def give_place(self, row: AutomationExecution) -> None:
        """It waits for another: somebody else may run meanwhile."""
        self._away.add(row.execution_id)
        self._places[_kind(row)] -= 1
        self._begin_queued(_kind(row))

    def take_place(self, row: AutomationExecution) -> None:
        """It goes on, whether or not there is a place: it has begun."""
        if row.execution_id in self._away:
            self._away.discard(row.execution_id)
            self._places[_kind(row)] += 1

    def tell(self, row: Row, execution: AutomationExecution) -> None:
        """EventBridge is told of a state, some time soon."""
        try:
            self._events.put_nowait(events.event(row, execution))
        except asyncio.QueueFull:
            logger.warning("an event of an automation is not told execution=%s", execution.execution_id)

    # Beginning and ending

    def _take_up(self, row: AutomationExecution, steps: list[AutomationStep]) -> None:
        self._running[row.execution_id] = under_way = self._made(row, steps)
        kind = _kind(row)
        queue = self._queues.setdefault(kind, deque())
        queue.append(under_way)
        if row.state == AutomationStatus.PENDING:
            self._begin_queued(kind)
        else:
            queue.remove(under_way)
            self._go(under_way)

    def _made(self, row: AutomationExecution, steps: list[AutomationStep]) -> UnderWay:
        for step in steps:
            step.execution = row
        if row.aim.get("is_controlled"):
            return Controlled(self, row, steps)
        return Running(self, row, steps, ACTIONS)

    def _begin_queued(self, kind: Kind) -> None:
        queue = self._queues.get(kind, deque())
        most = MOST_CONTROLLED_AT_ONCE if kind[2] else MOST_AT_ONCE
        while queue and self._places[kind] < most and not self.is_closing:
            self._go(queue.popleft())

    def _go(self, under_way: UnderWay) -> None:
        self._places[_kind(under_way.row)] += 1
        task = asyncio.create_task(self._run(under_way))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, under_way: UnderWay) -> None:
        row = under_way.row
        try:
            while True:
                try:
                    await under_way.run()
                    break
                except DatabaseError:
                    logger.exception(
                        "automation not written down, it goes on from there execution=%s", row.execution_id
                    )
                under_way = await self._read_again(row)
                row = under_way.row
        except Exception:  # of one execution, which must not stand in the way of the others
            logger.exception("automation failed within the endpoint execution=%s", row.execution_id)
            row.state, row.ended_at = AutomationStatus.FAILED, clock.now()
            row.failure_message = "The automation failed within the endpoint; its log says why."
            steps = [step for step in under_way.steps if step.started_at and step.state not in AUTOMATION_OVER]
            for step in steps:
                step.state, step.ended_at, step.failure_message = row.state, row.ended_at, row.failure_message
            await self.save(row, *steps)
        finally:
            kind = _kind(row)
            self.take_place(row)
            self._places[kind] -= 1
            if row.state in AUTOMATION_OVER:
                logger.info("automation ended execution=%s status=%s", row.execution_id, row.state)
                self._running.pop(row.execution_id, None)
                self._wake_parent(row)
            self._begin_queued(kind)

    async def _read_again(self, row: AutomationExecution) -> UnderWay:
        """An execution as the database has it, once it answers again: as after a kill."""
        while True:
            await asyncio.sleep(_AGAIN_SECONDS)
            try:
                found, steps = await self.whole(row)
            except DatabaseError:
                continue
            self._running[row.execution_id] = under_way = self._made(found, steps)
            return under_way

    def _wake_parent(self, row: AutomationExecution) -> None:
        if row.parent is not None and (parent := self._running.get(row.parent.execution_id)) is not None:
            parent.woken.set()

    async def _tell_all(self) -> None:
        while True:
            event = await self._events.get()
            try:
                await self._tell(event)
            except ApiError as error:
                logger.warning("an event of an automation is not told reason=%s", error)

    async def _tidy_regularly(self) -> None:
        while True:
            await asyncio.sleep(_TIDY_SECONDS)
            old = AutomationExecution.objects.filter(
                state__in=AUTOMATION_OVER, ended_at__lt=clock.now() - timedelta(days=KEPT_DAYS)
            )
            try:
                await in_database(self._writer, old.delete)
            except Exception:  # the outermost loop of the tidying: the next round looks again
                logger.exception("old automations not removed")


def _kind(row: AutomationExecution) -> Kind:
    return row.account_id, row.region, bool(row.aim.get("is_controlled"))


def _shown(parameters: Mapping[str, list[str]]) -> str:
    """What a target is called: its value, or of several parameters all of them."""
    values = [",".join(texts) for texts in parameters.values()]
    if len(values) == 1:
        return values[0][:600]
    return ",".join(f"{name}={value}" for name, value in zip(parameters, values, strict=True))[:600]
