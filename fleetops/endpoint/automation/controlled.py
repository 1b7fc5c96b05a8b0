"""An execution with targets: one execution of its own for each, so many at once, until too many have failed."""

import asyncio
from typing import Any, Final
from uuid import UUID, uuid5

from fleetops import clock
from fleetops.endpoint import command_rules
from fleetops.endpoint.models import AutomationExecution, AutomationStep
from fleetops.endpoint.states import AUTOMATION_MOVES, AUTOMATION_OVER, AutomationStatus

from .running import Engine

DEFAULT_CONCURRENCY: Final = "10"  # [SSM, StartAutomationExecution]
DEFAULT_ERRORS: Final = "0"
_LOOK_SECONDS: Final = 0.5
_FAILURES: Final = frozenset({AutomationStatus.FAILED, AutomationStatus.TIMED_OUT})


class Controlled:
    """An execution with targets that has not ended; each of its steps is a target."""

    def __init__(self, engine: Engine, row: AutomationExecution, steps: list[AutomationStep]) -> None:
        self.engine = engine
        self.row = row
        self.steps = steps
        self.woken = asyncio.Event()
        total = len(steps)
        aim = row.aim
        self._most = max(1, command_rules.number_of(aim.get("MaxConcurrency", DEFAULT_CONCURRENCY), total))
        self._errors = command_rules.number_of(aim.get("MaxErrors", DEFAULT_ERRORS), total)

    async def run(self) -> None:
        """Go on until all have ended that may begin. Safe to begin again after a kill, at any moment."""
        row = self.row
        if row.state == AutomationStatus.PENDING:
            self._move(row, AutomationStatus.IN_PROGRESS)
            await self.engine.save(row)
        while True:
            if self.engine.is_closing:
                raise asyncio.CancelledError
            await self._look()
            if self._is_stopped:
                break_off = [step for step in self.steps if step.state == AutomationStatus.PENDING]
                await self._end_all(break_off)
            elif not await self._begin_more() and not self._open:
                break
            if not self._open and self._is_stopped:
                break
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self.woken.wait()
                self.woken.clear()
            except TimeoutError:
                pass
        await self._finish()

    @property
    def _open(self) -> list[AutomationStep]:
        return [step for step in self.steps if step.state == AutomationStatus.IN_PROGRESS]

    @property
    def _failed(self) -> int:
        return sum(step.state in _FAILURES for step in self.steps)

    @property
    def _is_stopped(self) -> bool:
        return bool(self.row.stop) or self._failed > self._errors

    async def _look(self) -> None:
        """Take in which targets have ended; tell them to, if they shall."""
        for step in self._open:
            child = await self.engine.find_by_id(_made(step))
            if child is None:  # killed between the note and the execution itself
                index = int(step.memo["index"])
                if self.row.stop:
                    self._move(step, AutomationStatus.CANCELLED)
                    step.ended_at = clock.now()
                    await self.engine.save(step)
                else:
                    await self.engine.begin_target(self.row, index, _made(step))
            elif child.state in AUTOMATION_OVER:
                step.ended_at = child.ended_at or clock.now()
                step.outputs = {"ExecutionId": [str(child.execution_id)], "Status": [str(child.state)]}
                step.failure_message = child.failure_message
                self._move(step, AutomationStatus(child.state))
                await self.engine.save(step)
            elif self.row.stop == "Cancel" and not child.stop:
                await self.engine.stop_one(child, "Cancel")

    async def _begin_more(self) -> bool:
        """Begin with as many targets as may be under way; whether any has not begun or not ended."""
        for step in self.steps:
            if len(self._open) >= self._most:
                break
            if step.state != AutomationStatus.PENDING:
                continue
            step.started_at = clock.now()
            step.outputs = {"ExecutionId": [str(_made(step))]}
            self._move(step, AutomationStatus.IN_PROGRESS)
            await self.engine.save(step)
            await self.engine.begin_target(self.row, int(step.memo["index"]), _made(step))
        return any(step.state not in AUTOMATION_OVER for step in self.steps)

    async def _end_all(self, steps: list[AutomationStep]) -> None:
        """What has not begun does not begin any more."""
        for step in steps:
            step.ended_at = clock.now()
            self._move(step, AutomationStatus.CANCELLED)
        if steps:
            await self.engine.save(*steps)

    async def _finish(self) -> None:
        row = self.row
        state = AutomationStatus.SUCCESS
        if row.stop == "Cancel":
            state = AutomationStatus.CANCELLED
        elif self._failed > self._errors:
            state = AutomationStatus.FAILED
            row.failure_message = f"{self._failed} of {len(self.steps)} targets failed, and {self._errors} may."
        row.ended_at = clock.now()
        self._move(row, state)
        await self.engine.save(row)

    def _move(self, row: Any, state: AutomationStatus) -> None:
        assert state == row.state or state in AUTOMATION_MOVES[AutomationStatus(row.state)], (row.state, state)
        if row.state != state:
            row.state = state
            self.engine.tell(row, self.row)


def _made(step: AutomationStep) -> UUID:
    """The id of a target's own execution."""
    return uuid5(step.step_id, "target")
