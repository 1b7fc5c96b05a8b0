"""One execution under way: it walks from step to step, and every step of the way is in the database before the next.

After a kill it goes on where its rows say. A call that only reads, and one with a token, is made again; a command and
another execution are looked for first. What changes something and takes no token is asked for once: the step then fails
in words that say what CloudTrail knows of it, as it would at a fault of AWS's own, and maxAttempts does not repeat it.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol
from uuid import UUID, uuid4, uuid5

from fleetops import clock
from fleetops.documents import automation
from fleetops.documents.automation_values import NoValue, as_texts, resolve, select, typed
from fleetops.endpoint.auth import Identities
from fleetops.endpoint.commands import Commands
from fleetops.endpoint.faults import Dropped
from fleetops.endpoint.models import AutomationExecution, AutomationStep
from fleetops.endpoint.states import AUTOMATION_MOVES, AUTOMATION_OVER, AutomationStatus
from fleetops.endpoint.trail import Trail

from . import caller
from .errors import LOST, StepCancelled, StepFailed, StepTimedOut

logger = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 0.5  # between two looks at what a step waits for
_AGAIN_SECONDS: Final = 1.0  # until a step that has failed is tried again
_MOST_THROTTLED: Final = 5  # attempts at a call that is throttled, as boto3 has it
_THROTTLED_SECONDS: Final = 0.5  # before the second attempt; twice as long each time
_BRIEF: Final = 100_000  # characters of an answer that are kept as OutputPayload
_NO_OUTPUT: Final = "No output available yet because the step is not successfully executed"
# Seconds that a step has where it does not say [user guide, aws:approve, aws:waitForAwsResourceProperty].
_TIMEOUTS: Final = {"aws:approve": 604_800, "aws:waitForAwsResourceProperty": 3_600}

Row = AutomationExecution | AutomationStep
Values = dict[str, Any]


class Engine(Protocol):
    """What an execution needs of what knows them all."""

    carry_out: caller.CarryOut
    commands: Commands
    identities: Identities
    trail: Trail
    host: str  # HOST:PORT, where the endpoint's callers find it

    is_closing: bool  # this process is about to end: nothing new is begun

    async def save(self, *rows: Row) -> None: ...
    async def find_by_id(self, execution_id: UUID) -> AutomationExecution | None: ...
    async def begin_target(self, parent: AutomationExecution, index: int, made_id: UUID) -> AutomationExecution: ...
    async def stop_one(self, row: AutomationExecution, how: str) -> None: ...
    async def was_recorded(self, request_id: str, name: str, row: AutomationExecution) -> str | None: ...
    def give_place(self, row: AutomationExecution) -> None: ...
    def take_place(self, row: AutomationExecution) -> None: ...
    def tell(self, row: Row, execution: AutomationExecution) -> None: ...


Action = Callable[["Running", automation.Step, AutomationStep, Mapping[str, Any]], Awaitable[Values]]


class Running:
    """An execution that has not ended."""

    def __init__(
        self, engine: Engine, row: AutomationExecution, steps: list[AutomationStep], actions: Mapping[str, Action]
    ) -> None:
        self.engine = engine
        self.row = row
        self.steps = steps
        self.woken = asyncio.Event()  # a signal has come, or somebody wants it stopped
        self.runbook = automation.parse(row.document_content)
        self._actions = actions
        self._caller = caller.Caller(
            engine.carry_out,
            engine.identities,
            engine.trail,
            host=engine.host,
            region=row.region,
            starter=caller.read(row.principal),
            role=row.assume_role,
            execution=row.execution_id,
        )

    # The way through the steps

    async def run(self) -> None:
        """Walk until the end. Safe to begin again after a kill, at any moment."""
        row = self.row
        if row.state == AutomationStatus.PENDING:
            self.move(row, AutomationStatus.IN_PROGRESS)
            await self.engine.save(row)
        name = str(row.memo.get("next", self.runbook.steps[0].name))
        while name and self.may_go_on(name):
            step = self.runbook.step(name)
            assert step is not None, name
            try:
                await self._may_start(step)
            except StepCancelled:
                break
            name = await self.perform(step, self.row_of(name), row.memo)
        await self._finish()

    def may_go_on(self, name: str) -> bool:
        """Whether a step may begin; one that has begun goes on in any case, and breaks off by itself."""
        row = self.row_of(name)
        has_begun = row.started_at is not None and row.state not in AUTOMATION_OVER
        return has_begun or not self.row.stop or (self.row.stop == "Cancel" and self._is_cancelled)

    async def _finish(self) -> None:
        row = self.row
        state = AutomationStatus(row.memo.get("verdict", AutomationStatus.SUCCESS))
        if row.stop == "Cancel":
            state = AutomationStatus.CANCELLED
        row.outputs = self._outputs()
        row.ended_at = clock.now()
        self.move(row, state)
        await self.engine.save(row)

    def _outputs(self) -> dict[str, list[str]]:
        found = {}
        for name in self.runbook.outputs:
            try:
                found[name] = as_texts(self.known(name))
            except NoValue:
                found[name] = [_NO_OUTPUT]
        return found

    async def _may_start(self, step: automation.Step) -> None:
        """In the mode Interactive each step waits for its signal."""
        row = self.row
        if row.mode != "Interactive" or self.row_of(step.name).started_at is not None:
            return
        while row.memo.get("may") != step.name:
            if row.state == AutomationStatus.IN_PROGRESS:
                row.current_step, row.current_action = step.name, step.action
                self.move(row, AutomationStatus.WAITING)
                await self.engine.save(row)
            await self.pause(None, None)
        self.move(row, AutomationStatus.IN_PROGRESS)

    async def perform(self, step: automation.Step, row: AutomationStep, track: MutableMapping[str, Any]) -> str:
        """Carry out one step; the name of the next, "" at the end. `track` keeps the way that is gone."""
        self._stay()
        error: StepFailed | None = None
        try:
            if row.state not in AUTOMATION_OVER:
                await self._begin(step, row)
                values = await self._try(step, row)
                row.values = values
                row.outputs = {name: as_texts(value) for name, value in values.items()}
                self._end(row, AutomationStatus.SUCCESS)
        except StepFailed as failed:
            error = failed
            row.failure_message, row.failure_details = failed.message, failed.details
            is_late = isinstance(failed, StepTimedOut)
            self._end(row, AutomationStatus.TIMED_OUT if is_late else AutomationStatus.FAILED)
        except StepCancelled:
            self._end(row, AutomationStatus.CANCELLED)
        following = self._following(step, row, track)
        track["next"] = following
        if error is not None and track.get("verdict"):
            self.row.failure_message = error.message
        if self.row.state == AutomationStatus.WAITING:
            self.move(self.row, AutomationStatus.IN_PROGRESS)
        await self.save(row)
        return following

    async def _begin(self, step: automation.Step, row: AutomationStep) -> None:
        if row.started_at is None:
            row.started_at = clock.now()
            self.move(row, AutomationStatus.IN_PROGRESS)
            self.row.current_step, self.row.current_action = step.name, step.action
            await self.save(row)

    async def _try(self, step: automation.Step, row: AutomationStep) -> Values:
        """The step's outputs, at the first attempt that succeeds. Raises StepFailed, StepCancelled."""
        most = 1
        while True:
            try:
                most = self.number(step.max_attempts, 1)
                seconds = self.number(step.timeout_seconds, _TIMEOUTS.get(step.action, 0))
                if seconds and "deadline" not in row.memo:
                    row.memo["deadline"] = (clock.now() + timedelta(seconds=seconds)).isoformat()
                    await self.engine.save(row)
                return await self._attempt(step, row)
            except NoValue as missing:
                raise StepFailed(str(missing), stage="Verification", kind="InputValidation") from None
            except StepFailed as failed:
                attempt = int(row.memo.get("attempt", 1))
                if failed.is_final or isinstance(failed, StepTimedOut) or attempt >= most:
                    raise
                self.check(row)
                row.memo = {"attempt": attempt + 1}
                await self.engine.save(row)
                await self.sleep(row, _AGAIN_SECONDS)

    async def _attempt(self, step: automation.Step, row: AutomationStep) -> Values:
        action = self._actions.get(step.action)
        if action is None:
            raise StepFailed(f"This endpoint does not run {step.action}.", kind="NotSupported", is_final=True)
        if step.action in {"aws:branch", "aws:loop"}:
            inputs = step.inputs  # resolved as far as it goes
        else:
            inputs = {key: value for key, value in self.resolve(step.inputs).items() if value is not None}
            row.inputs = {key: json.dumps(value, default=str) for key, value in inputs.items()}
        values = await action(self, step, row, inputs)
        answer = values.get("OutputPayload")
        for output in step.outputs:
            if output.name not in values:
                values[output.name] = typed(
                    select(output.selector, answer if answer is not None else values), output.type
                )
        if answer is not None and len(json.dumps(answer, default=str)) > _BRIEF:
            del values["OutputPayload"]
        return values

    def _following(self, step: automation.Step, row: AutomationStep, track: MutableMapping[str, Any]) -> str:
        """Which step comes next, and what becomes of the whole if there is none."""
        onward = "" if step.is_end else step.next_step or self.runbook.after(step.name)
        if row.state == AutomationStatus.SUCCESS:
            return str(row.memo.get("chosen") or onward)
        if row.state == AutomationStatus.CANCELLED:
            track["verdict"] = AutomationStatus.CANCELLED
            if step.after_cancel:
                self.row.memo["cancelled"] = True  # what comes now is what cleans up
            return step.after_cancel
        if step.is_critical or step.on_failure == "Abort":
            track["verdict"] = row.state
        if step.on_failure == "Abort":
            return ""
        return step.after_failure or onward

    # What a step asks

    def resolve(self, value: Any) -> Any:
        """A value of the document with its references replaced. Raises NoValue."""
        return resolve(value, self.known)

    def known(self, name: str) -> Any:
        """What a reference stands for. Raises NoValue."""
        row, now = self.row, self.row.started_at.astimezone(UTC)
        system = {
            "global:ACCOUNT_ID": row.account_id,
            "global:AWS_PARTITION": "aws",
            "global:DATE": f"{now:%Y-%m-%d}",
            "global:DATE_TIME": f"{now:%Y-%m-%d_%H.%M.%S}",
            "global:REGION": row.region,
            "automation:EXECUTION_ID": str(row.execution_id),
        }
        if name in system:
            return system[name]
        family, colon, rest = name.partition(":")
        if colon:
            if family == "variable" and rest in row.variables:
                return row.variables[rest]
            raise NoValue(f"{{{{ {name} }}}} has no value")
        if name in row.parameters:
            return row.parameters[name]
        step, _, path = name.partition(".")
        value: Any = next((each.values for each in reversed(self.steps) if each.name == step and each.values), None)
        if isinstance(value, dict) and path in value:
            return value[path]
        for part in path.split("."):
            if not isinstance(value, dict) or part not in value:
                raise NoValue(f"{{{{ {name} }}}} has no value: {_NO_OUTPUT}")
            value = value[part]
        return value

    def number(self, given: int | str | None, default: int) -> int:
        if given is None:
            return default
        try:
            return int(self.resolve(given))
        except (TypeError, ValueError):
            raise StepFailed(f"{given} is no number", stage="Verification") from None

    def made_id(self, row: AutomationStep) -> UUID:
        """The id of what this attempt of a step makes."""
        return uuid5(row.step_id, str(row.memo.get("attempt", 1)))

    async def ask(
        self,
        row: AutomationStep,
        service: str,
        api: str,
        parameters: Mapping[str, Any],
        *,
        repeats: bool = False,
        cancels: bool = False,
    ) -> Values:
        """Call one operation for a step. `repeats`: a second time does no harm; `cancels`: it is what breaks it off.

        Raises StepFailed, StepCancelled.
        """
        wanted = caller.operation(service, api)
        is_once = wanted.changes and not wanted.has_token and not repeats
        if is_once and (before := row.memo.get("asked")):
            raise StepFailed(await self._unknown(before, wanted.model.name), kind="UnknownOutcome", is_final=True)
        for attempt in range(_MOST_THROTTLED):
            if cancels:
                self._stay()
            else:
                self.check(row)
            try:
                return await self._ask(row, wanted, parameters, is_once=is_once)
            except caller.CallFailed as failed:
                if failed.code not in caller.THROTTLES or cancels:
                    failed.is_final = is_once and failed.code in caller.UNCLEAR
                    raise
                if attempt == _MOST_THROTTLED - 1:
                    raise
            await self.sleep(row, _THROTTLED_SECONDS * 2**attempt)
        raise AssertionError  # the last attempt returns or raises

    async def _ask(
        self, row: AutomationStep, wanted: caller.Operation, parameters: Mapping[str, Any], *, is_once: bool
    ) -> Values:
        request_id = str(uuid4())
        if is_once:
            row.memo["asked"] = request_id
            await self.engine.save(row)
        try:
            return await self._caller.call(wanted, parameters, made_id=self.made_id(row), request_id=request_id)
        except Dropped:
            words = f"The connection was lost before {wanted.model.name} was answered"
            if is_once:
                words += "; it changes something, so it is not repeated"
            raise StepFailed(words, kind=LOST, is_final=is_once) from None
        finally:
            row.memo.pop("asked", None)

    async def _unknown(self, request_id: str, name: str) -> str:
        """What can be said of a call under which this process was killed."""
        code = await self.engine.was_recorded(request_id, name, self.row)
        if code is None:
            known = "it may have been carried out"
        else:
            known = f"it was refused ({code})" if code else "it was carried out, and its answer is lost"
        return f"Automation was interrupted while {name} was under way: {known}; it is not repeated"

    # Waiting

    def check(self, row: AutomationStep | None) -> None:
        """Return if the step may go on. Raises StepCancelled, StepTimedOut."""
        self._stay()
        if (self.row.stop == "Cancel" and not self._is_cancelled) or (row is not None and row.memo.get("stopped")):
            raise StepCancelled
        if row is not None and (limit := row.memo.get("deadline")) and clock.now() >= datetime.fromisoformat(limit):
            raise StepTimedOut

    async def pause(self, row: AutomationStep | None, until: datetime | None) -> None:
        """Return at `until`, or sooner, at the latest after half a second: the step looks again at what it waits for.

        Raises StepCancelled, StepTimedOut.
        """
        self.check(row)
        seconds = _LOOK_SECONDS
        if until is not None:
            seconds = min(seconds, max(0.0, (until - clock.now()).total_seconds()))
        try:
            async with asyncio.timeout(seconds):
                await self.woken.wait()
            self.woken.clear()
        except TimeoutError:
            pass
        self.check(row)

    async def sleep(self, row: AutomationStep, seconds: float) -> None:
        """Wait for so long by the endpoint's clock. Raises StepCancelled, StepTimedOut."""
        until = clock.now() + timedelta(seconds=seconds)
        while clock.now() < until:
            await self.pause(row, until)

    async def await_person(self, row: AutomationStep) -> None:
        """The step and the whole wait for somebody."""
        if row.state == AutomationStatus.IN_PROGRESS:
            self.move(row, AutomationStatus.WAITING)
        if self.row.state == AutomationStatus.IN_PROGRESS:
            self.move(self.row, AutomationStatus.WAITING)
        await self.save(row)

    def _stay(self) -> None:
        """Go no further when the process is about to end; the rows say where to go on."""
        if self.engine.is_closing:
            raise asyncio.CancelledError

    # Rows

    @property
    def _is_cancelled(self) -> bool:
        """Whether what runs now is what cleans up after the cancelling."""
        return bool(self.row.memo.get("cancelled"))

    def row_of(self, name: str) -> AutomationStep:
        """A step's row; of one within a loop that of the last iteration."""
        return next(row for row in reversed(self.steps) if row.name == name)

    async def save(self, row: AutomationStep) -> None:
        await self.engine.save(row, self.row)

    def move(self, row: Row, state: AutomationStatus) -> None:
        assert state == row.state or state in AUTOMATION_MOVES[AutomationStatus(row.state)], (row.state, state)
        if row.state != state:
            row.state = state
            self.engine.tell(row, self.row)

    def _end(self, row: AutomationStep, state: AutomationStatus) -> None:
        row.ended_at = clock.now()
        row.started_at = row.started_at or row.ended_at
        self.move(row, state)
