"""Steps that run something else, and wait for its end: a command, another automation, the steps of a loop."""

import json
from collections.abc import Mapping
from typing import Any, Final
from uuid import uuid4

from fleetops.documents import automation
from fleetops.documents.automation_actions import MOST_ITERATIONS
from fleetops.documents.automation_choice import NotComparable, holds
from fleetops.documents.automation_values import as_text, as_texts, resolve
from fleetops.endpoint import command_rules
from fleetops.endpoint.models import AutomationStep, Command
from fleetops.endpoint.states import AUTOMATION_OVER, AutomationStatus, CommandStatus

from .errors import LOST, StepCancelled, StepFailed, StepTimedOut
from .running import Running, Values

_MOST_INVOCATIONS: Final = 50  # whose output is read [SSM, ListCommandInvocations]
_POLL: Final = "Step fails when it is Poll action status for completion. "
_VERIFIED: Final = "Step fails when it is Execution complete: verified. "


def _lists(parameters: Any) -> dict[str, list[str]]:
    """Parameters as the API takes them: each a list of texts, whatever the runbook writes."""
    if not isinstance(parameters, Mapping):
        raise StepFailed("the parameters are no object", stage="Verification")
    return {
        str(name): [json.dumps(value)] if isinstance(value, Mapping) else as_texts(value)
        for name, value in parameters.items()
    }


async def _asked(run: Running, row: AutomationStep, operation: str, parameters: Values) -> StepFailed | None:
    """Ask SSM for what bears the step's id, and is looked for: the failure where no answer came. Raises StepFailed."""
    try:
        await run.ask(row, "ssm", operation, parameters, repeats=True)
    except StepFailed as failed:
        if failed.kind != LOST:
            raise
        return failed
    return None


# --- aws:runCommand ---


async def run_command(run: Running, step: automation.Step, row: AutomationStep, inputs: Mapping[str, Any]) -> Values:
    """Send one command and wait for it. Its id is the step's: it is looked for before it is sent, and so sent once."""
    place, made = (run.row.account_id, run.row.region), str(run.made_id(row))
    command = await run.engine.commands.find(*place, made)
    if command is None:
        parameters = dict(inputs)
        if "Parameters" in parameters:
            parameters["Parameters"] = _lists(parameters["Parameters"])
        if isinstance(parameters.get("InstanceIds"), str):
            parameters["InstanceIds"] = [parameters["InstanceIds"]]
        lost = await _asked(run, row, "SendCommand", parameters)
        command = await run.engine.commands.find(*place, made)
        if command is None and lost is not None:
            raise lost
    while command is not None and command.state not in command_rules.OVER:
        try:
            await run.pause(row, None)
        except (StepCancelled, StepTimedOut):
            await _cancel_command(run, row, command)
            raise
        command = await run.engine.commands.find(*place, made)
    if command is None:
        raise StepFailed(f"The command {made} is gone")
    values = await _of_command(run, row, command)
    row.values, row.response_code = values, values["ResponseCode"]
    row.outputs = {name: as_texts(value) for name, value in values.items()}
    if command.state != CommandStatus.SUCCESS:
        shown = ", ".join(f"{name}=[{values[name]}]" for name in ("Status", "ResponseCode", "Output", "CommandId"))
        words = f"Command failed executed because command returned unexpected invocation result: \n{{{shown}}}"
        raise StepFailed(_POLL + words, stage="Verification")
    return values


async def _of_command(run: Running, row: AutomationStep, command: Command) -> Values:
    parameters = {"CommandId": str(command.command_id), "Details": True, "MaxResults": _MOST_INVOCATIONS}
    found = (await run.ask(row, "ssm", "ListCommandInvocations", parameters))["CommandInvocations"]
    plugins = [plugin for each in found for plugin in each.get("CommandPlugins", [])]
    codes = [plugin["ResponseCode"] for plugin in plugins if "ResponseCode" in plugin]
    return {
        "CommandId": str(command.command_id),
        "Status": str(command.state),
        "ResponseCode": str(next((code for code in codes if code), codes[0] if codes else -1)),
        "Output": "\n".join(plugin.get("Output", "") for plugin in plugins),
    }


async def _cancel_command(run: Running, row: AutomationStep, command: Command) -> None:
    run.move(row, AutomationStatus.CANCELLING)
    await run.engine.save(row)
    try:
        named = {"CommandId": str(command.command_id)}
        await run.ask(row, "ssm", "CancelCommand", named, repeats=True, cancels=True)
    except StepFailed as error:  # it goes on, and the step does not
        row.response = str(error)


# --- aws:executeAutomation ---


async def execute_automation(
    run: Running, step: automation.Step, row: AutomationStep, inputs: Mapping[str, Any]
) -> Values:
    """Start another automation and wait for it; its id is the step's, so it is started once."""
    made = run.made_id(row)
    child = await run.engine.find_by_id(made)
    if child is None:
        parameters = {name: value for name, value in inputs.items() if name != "RuntimeParameters"}
        if "RuntimeParameters" in inputs:
            parameters["Parameters"] = _lists(inputs["RuntimeParameters"])
        lost = await _asked(run, row, "StartAutomationExecution", parameters)
        child = await run.engine.find_by_id(made)
        if child is None and lost is not None:
            raise lost
    row.outputs = {"ExecutionId": [str(made)]}
    await run.engine.save(row)
    run.engine.give_place(run.row)
    try:
        while child is not None and child.state not in AUTOMATION_OVER:
            try:
                await run.pause(row, None)
            except (StepCancelled, StepTimedOut):
                await run.engine.stop_one(child, "Cancel")
                raise
            child = await run.engine.find_by_id(made)
    finally:
        run.engine.take_place(run.row)
    if child is None:
        raise StepFailed(f"The automation {made} is gone")
    output = [text for texts in child.outputs.values() for text in texts]
    values: Values = {"ExecutionId": str(made), "Status": str(child.state), "Output": output}
    row.values = values
    row.outputs = {name: as_texts(value) for name, value in values.items() if value != []}
    if child.state != AutomationStatus.SUCCESS:
        shown = f"{{Status=[{child.state}], Output=[{', '.join(output)}], ExecutionId=[{made}]}}"
        words = f"Failed to run automation with executionId: {made} Failed : {shown}"
        raise StepFailed(_VERIFIED + words, stage="Verification")
    return values


# --- aws:loop ---


async def loop(run: Running, step: automation.Step, row: AutomationStep, inputs: Mapping[str, Any]) -> Values:
    """Walk through the steps within, for each value or while a condition holds."""
    values = _iterators(run, inputs)
    most = len(values) if values is not None else run.number(inputs["MaxIterations"], 0)
    if most > MOST_ITERATIONS:
        raise StepFailed(f"a loop has at most {MOST_ITERATIONS} iterations", stage="Verification")
    row.inputs = {"MaxIterations": str(most)}
    while True:
        number = int(row.memo.get("iteration", 0))
        if not row.memo.get("next"):
            if (verdict := row.memo.get("verdict")) == AutomationStatus.CANCELLED:
                raise StepCancelled
            if verdict:
                raise StepFailed(f"A step of the loop ended as {verdict} in iteration {number}", is_final=True)
            if number >= most or (values is None and number and not _goes_on(run, inputs)):
                break
            run.check(row)
            number += 1
            await _begin_iteration(run, step, row, number, values[number - 1] if values is not None else None)
        while name := str(row.memo["next"]):
            if not run.may_go_on(name):
                raise StepCancelled
            inner = run.runbook.step(name)
            assert inner is not None
            await run.perform(inner, run.row_of(name), row.memo)
            await run.engine.save(row)
    return dict(row.values)


def _iterators(run: Running, inputs: Mapping[str, Any]) -> list[Any] | None:
    if "Iterators" not in inputs:
        return None
    found = run.resolve(inputs["Iterators"])
    return found if isinstance(found, list) else [found]


def _goes_on(run: Running, inputs: Mapping[str, Any]) -> bool:
    try:
        return holds(resolve(inputs["LoopCondition"], run.known))
    except NotComparable as error:
        raise StepFailed(f"The loop's condition cannot be judged: {error}", stage="Verification") from None


async def _begin_iteration(run: Running, step: automation.Step, row: AutomationStep, number: int, value: Any) -> None:
    """Rows for an iteration, in one transaction with the note that it has begun."""
    position = max(each.position for each in run.steps)
    rows = [
        AutomationStep(
            step_id=uuid4(),
            execution=run.row,
            name=inner.name,
            action=inner.action,
            position=position + offset,
            loop=row,
            iteration=number,
            iterator_value="" if value is None else as_text(value),
        )
        for offset, inner in enumerate(step.steps, 1)
    ]
    row.memo |= {"iteration": number, "next": step.steps[0].name}
    row.values = {"CurrentIteration": number, **({} if value is None else {"CurrentIteratorValue": value})}
    await run.engine.save(row, *rows)
    run.steps += rows
