"""What the steps of a runbook do: the endpoint's calls, waits, choices. Those that run other things are in others.py.

Source: Systems Manager user guide, "Automation actions reference".
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from fleetops import clock
from fleetops.documents import automation
from fleetops.documents.automation_choice import NotComparable, holds
from fleetops.documents.automation_values import NoValue, as_text, duration, select, typed
from fleetops.endpoint.models import AutomationStep

from .errors import StepFailed
from .others import execute_automation, loop, run_command
from .running import Action, Running, Values

_LONGEST_SLEEP: Final = timedelta(seconds=604_799)  # [user guide, aws:sleep]
_FIRST_LOOK_SECONDS: Final = 1.0  # of a wait for a property; twice as long each time
_LONGEST_LOOK_SECONDS: Final = 15.0
_MOST_APPROVERS: Final = 10  # [user guide, aws:approve]
_STATES: Final = {"running": "StartInstances", "stopped": "StopInstances", "terminated": "TerminateInstances"}
_OF_CALL: Final = frozenset({"Service", "Api", "PropertySelector", "DesiredValues"})


def _rest(inputs: Mapping[str, Any]) -> Values:
    """The parameters of the call that a step makes."""
    return {name: value for name, value in inputs.items() if name not in _OF_CALL}


async def execute_aws_api(
    run: Running, step: automation.Step, row: AutomationStep, inputs: Mapping[str, Any]
) -> Values:
    result = await run.ask(row, inputs["Service"], inputs["Api"], _rest(inputs))
    return {"OutputPayload": result}


async def _property(run: Running, row: AutomationStep, inputs: Mapping[str, Any]) -> tuple[str, list[str], Values]:
    """A property of an API's answer as Python writes it, as AWS compares it; the values wanted; the answer."""
    result = await run.ask(row, inputs["Service"], inputs["Api"], _rest(inputs))
    value = select(inputs["PropertySelector"], result)
    wanted = inputs["DesiredValues"]
    desired = [_shown(item) for item in (wanted if isinstance(wanted, list) else [wanted])]
    # A path that may select several holds if all that it selects is wanted.
    if isinstance(value, list) and value and all(_shown(item) in desired for item in value):
        return desired[0], desired, result
    return _shown(value), desired, result


def _shown(value: Any) -> str:
    return str(value)


async def assert_property(
    run: Running, step: automation.Step, row: AutomationStep, inputs: Mapping[str, Any]
) -> Values:
    value, desired, result = await _property(run, row, inputs)
    if value not in desired:
        raise StepFailed(
            f"Property value '{value}' from the API output is not in the desired values. Desired values: {desired}.",
            stage="Verification",
        )
    return _declared(step, result)


async def wait_for_property(
    run: Running, step: automation.Step, row: AutomationStep, inputs: Mapping[str, Any]
) -> Values:
    seconds = _FIRST_LOOK_SECONDS
    while True:
        try:
            value, desired, result = await _property(run, row, inputs)
            if value in desired:
                return _declared(step, result)
        except NoValue:  # what it waits for is not there yet
            pass
        await run.sleep(row, seconds)
        seconds = min(_LONGEST_LOOK_SECONDS, seconds * 2)


def _declared(step: automation.Step, result: Values) -> Values:
    """The outputs that a step declares of an answer; the answer itself is none of them."""
    return {output.name: typed(select(output.selector, result), output.type) for output in step.outputs}


async def branch(run: Running, step: automation.Step, row: AutomationStep, inputs: Mapping[str, Any]) -> Values:
    tried: list[Any] = []
    row.memo["chosen"] = ""
    for rule in inputs["Choices"]:
        condition = run.resolve({name: value for name, value in rule.items() if name != "NextStep"})
        tried.append(condition)
        row.inputs = {"Choices": as_text(tried)}
        try:
            if holds(condition):
                row.memo["chosen"] = rule["NextStep"]
                return {}
        except NotComparable as error:
            raise StepFailed(f"The choice {rule['NextStep']} cannot be judged: {error}", stage="Verification") from None
    row.memo["chosen"] = inputs.get("Default", "")
    return {}


async def sleep(run: Running, step: automation.Step, row: AutomationStep, inputs: Mapping[str, Any]) -> Values:
    if "until" not in row.memo:
        row.memo["until"] = _end_of_sleep(inputs).isoformat()
        await run.engine.save(row)
    until = datetime.fromisoformat(row.memo["until"])
    while clock.now() < until:
        await run.pause(row, until)
    return {}


def _end_of_sleep(inputs: Mapping[str, Any]) -> datetime:
    if "Timestamp" in inputs:
        try:
            moment = datetime.fromisoformat(str(inputs["Timestamp"]))
        except ValueError:
            raise StepFailed(f"{inputs['Timestamp']} is no moment in ISO 8601", stage="Verification") from None
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    length = duration(inputs["Duration"])
    if length is None or length > _LONGEST_SLEEP:
        raise StepFailed(
            f"{inputs['Duration']} is no length in ISO 8601 of at most 604799 seconds", stage="Verification"
        )
    return clock.now() + length


async def pause(run: Running, step: automation.Step, row: AutomationStep, inputs: Mapping[str, Any]) -> Values:
    """Wait for the signal Resume."""
    while not row.memo.get("resumed"):
        await run.await_person(row)
        await run.pause(row, None)
    return {}


async def approve(run: Running, step: automation.Step, row: AutomationStep, inputs: Mapping[str, Any]) -> Values:
    """Wait for enough of those who are named, each of whom counts once; one rejection is enough for the other end.

    Nobody is told by SNS: a NotificationArn is taken, and left.
    """
    approvers = inputs["Approvers"]
    approvers = approvers if isinstance(approvers, list) else [approvers]
    try:
        least = int(inputs.get("MinRequiredApprovals", 1))
    except (TypeError, ValueError):
        raise StepFailed("MinRequiredApprovals is no number", stage="Verification") from None
    if len(approvers) > _MOST_APPROVERS or not 1 <= least <= len(approvers):
        raise StepFailed(
            f"{least} of {len(approvers)} approvers cannot be had: at most {_MOST_APPROVERS} are named, and as many as "
            "have to approve",
            stage="Verification",
        )
    row.memo["approvers"] = [str(each) for each in approvers]
    while True:
        decisions = row.memo.setdefault("decisions", [])
        given = [each["Decision"] for each in decisions]
        if "Reject" in given:
            row.values = {"ApprovalStatus": "Rejected", "ApproverDecisions": decisions}
            row.outputs = {"ApprovalStatus": ["Rejected"], "ApproverDecisions": [as_text(one) for one in decisions]}
            last = decisions[-1]
            raise StepFailed(
                f"Automation step was rejected by {last['Approver']}: {last['Comment'] or 'no comment'}",
                kind="Rejected",
                is_final=True,
            )
        if given.count("Approve") >= least:
            return {"ApprovalStatus": "Approved", "ApproverDecisions": decisions}
        row.outputs = {"ApprovalStatus": ["Waiting"], "ApproverDecisions": [as_text(one) for one in decisions]}
        await run.await_person(row)
        await run.pause(row, None)


async def update_variable(
    run: Running, step: automation.Step, row: AutomationStep, inputs: Mapping[str, Any]
) -> Values:
    name = str(inputs["Name"]).removeprefix("variable:")
    kind, _ = run.runbook.variables[name]
    run.row.variables[name] = typed(inputs["Value"], kind)
    return {}


async def change_instance_state(
    run: Running, step: automation.Step, row: AutomationStep, inputs: Mapping[str, Any]
) -> Values:
    ids, wanted = inputs["InstanceIds"], str(inputs["DesiredState"]).lower()
    ids = ids if isinstance(ids, list) else [ids]
    if wanted not in _STATES:
        raise StepFailed(f"DesiredState is running, stopped or terminated, not {wanted}", stage="Verification")
    if as_text(inputs.get("CheckStateOnly", False)).lower() != "true":
        more = {"Force": inputs["Force"]} if "Force" in inputs and wanted == "stopped" else {}
        # A second time it changes nothing.
        await run.ask(row, "ec2", _STATES[wanted], {"InstanceIds": ids, **more}, repeats=True)
    seconds = _FIRST_LOOK_SECONDS
    while True:
        found = await run.ask(row, "ec2", "DescribeInstances", {"InstanceIds": ids})
        states = select("$.Reservations[*].Instances[*].State.Name", found)
        if len(states) == len(ids) and set(states) == {wanted}:
            return {"InstanceIds": ids, "InstanceStates": states}
        await run.sleep(row, seconds)
        seconds = min(_LONGEST_LOOK_SECONDS, seconds * 2)


async def create_tags(run: Running, step: automation.Step, row: AutomationStep, inputs: Mapping[str, Any]) -> Values:
    kind, ids = inputs.get("ResourceType", "EC2"), inputs["ResourceIds"]
    ids = ids if isinstance(ids, list) else [ids]
    if kind == "EC2":
        await run.ask(row, "ec2", "CreateTags", {"Resources": ids, "Tags": inputs["Tags"]}, repeats=True)
        return {}
    for each in ids:
        parameters = {"ResourceType": kind, "ResourceId": each, "Tags": inputs["Tags"]}
        await run.ask(row, "ssm", "AddTagsToResource", parameters, repeats=True)
    return {}


ACTIONS: Final[Mapping[str, Action]] = {
    "aws:approve": approve,
    "aws:assertAwsResourceProperty": assert_property,
    "aws:branch": branch,
    "aws:changeInstanceState": change_instance_state,
    "aws:createTags": create_tags,
    "aws:executeAutomation": execute_automation,
    "aws:executeAwsApi": execute_aws_api,
    "aws:loop": loop,
    "aws:pause": pause,
    "aws:runCommand": run_command,
    "aws:sleep": sleep,
    "aws:updateVariable": update_variable,
    "aws:waitForAwsResourceProperty": wait_for_property,
}
