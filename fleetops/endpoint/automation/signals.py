"""What people tell an execution: approve, reject, go on, start a step, stop one. Source: SSM, SendAutomationSignal."""

from collections.abc import Mapping
from uuid import UUID

from fleetops import clock
from fleetops.awsapi.errors import ApiError
from fleetops.endpoint.calls import Principal
from fleetops.endpoint.models import AutomationExecution, AutomationStep
from fleetops.endpoint.states import AUTOMATION_OVER, AutomationStatus

from .engine import Automations
from .running import Running

_LONGEST_COMMENT = 1024
Payload = Mapping[str, list[str]]


async def send(engine: Automations, row: AutomationExecution, signal: str, payload: Payload, sender: Principal) -> None:
    """Take in one signal. Raises ApiError if the execution does not wait for it."""
    under_way = engine.under_way(row)
    told: AutomationStep | AutomationExecution
    if not isinstance(under_way, Running) or under_way.row.state in AUTOMATION_OVER:
        raise _invalid(f"The execution {row.execution_id} takes no signal: it is {row.state}.")
    match signal:
        case "Approve" | "Reject":
            told = _waiting(under_way, "aws:approve")
            _decide(told, signal, payload, sender)
        case "Resume":
            name = _named(payload)
            if under_way.row.mode == "Interactive" and under_way.row.memo.get("may") != name and name:
                told = _start(under_way, name)
            else:
                told = _waiting(under_way, "aws:pause", name)
                told.memo["resumed"] = sender.arn
        case "StartStep":
            told = _start(under_way, _named(payload))
        case "StopStep":
            told = _running(under_way, payload)
            told.memo["stopped"] = sender.arn
        case _:
            raise _invalid(f"The signal {signal} is of just-in-time access, and not of this execution.")
    await engine.save(told, fields=("memo",))
    under_way.woken.set()


def _waiting(run: Running, action: str, name: str = "") -> AutomationStep:
    for step in run.steps:
        if step.action == action and step.state == AutomationStatus.WAITING and name in {"", step.name}:
            return step
    raise _invalid(f"No step of the action {action} waits.")


def _decide(step: AutomationStep, signal: str, payload: Payload, sender: Principal) -> None:
    approvers = set(step.memo.get("approvers", ()))
    names = {sender.arn, sender.role_arn, sender.name if sender.kind == "user" else ""} - {""}
    if not approvers & names:
        raise _invalid(f"{sender.arn} is no approver of the step {step.name}.")
    decisions = step.memo.setdefault("decisions", [])
    if any(each["Approver"] == sender.arn for each in decisions):
        raise _invalid(f"{sender.arn} has decided about the step {step.name} already.")
    comment = " ".join(payload.get("Comment", []))[:_LONGEST_COMMENT]
    decisions.append({"Approver": sender.arn, "Decision": signal, "Comment": comment, "At": clock.now().isoformat()})


def _start(run: Running, name: str) -> AutomationExecution:
    if run.row.mode != "Interactive":
        raise _invalid("Steps are started by hand in the mode Interactive alone.")
    if not any(step.name == name for step in run.steps):
        raise ApiError("AutomationStepNotFoundException", f"There is no step {name}.")
    if run.row.current_step != name or run.row.state != AutomationStatus.WAITING:
        raise _invalid(f"The step {name} is not the one that waits to be started: {run.row.current_step} is.")
    run.row.memo["may"] = name
    return run.row


def _running(run: Running, payload: Payload) -> AutomationStep:
    wanted = (payload.get("StepExecutionId") or [""])[0]
    try:
        step_id = UUID(wanted)
    except ValueError:
        raise _invalid("StopStep names a StepExecutionId in its payload.") from None
    step = next((step for step in run.steps if step.step_id == step_id), None)
    if step is None:
        raise ApiError("AutomationStepNotFoundException", f"There is no step {wanted}.")
    if step.state not in {AutomationStatus.IN_PROGRESS, AutomationStatus.WAITING}:
        raise _invalid(f"The step {step.name} is {step.state}, and cannot be stopped.")
    return step


def _named(payload: Payload) -> str:
    return (payload.get("StepName") or [""])[0]


def _invalid(message: str) -> ApiError:
    return ApiError("InvalidAutomationSignalException", message)
