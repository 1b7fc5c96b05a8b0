"""The targets of an execution: which values of its parameter they are found to be.

Source: SSM, StartAutomationExecution; Systems Manager user guide, "Mapping targets for an automation".
"""

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from fleetops.awsapi.errors import ApiError
from fleetops.documents.automation import Runbook
from fleetops.endpoint.calls import Call
from fleetops.endpoint.core import Endpoint

from . import caller
from .errors import StepFailed

_PAGE = 1000  # instances in one answer [EC2, DescribeInstances]
_INSTANCES = ("AWS::EC2::Instance", "InstanceIds", "ParameterValues")

Target = dict[str, list[str]]


async def resolved(endpoint: Endpoint, call: Call, aim: Mapping[str, Any], runbook: Runbook) -> list[Target]:
    """For each target the parameters that it gives; [] where none are asked for. Raises ApiError."""
    targets, maps, name = aim.get("Targets"), aim.get("TargetMaps"), aim.get("TargetParameterName", "")
    if targets and maps:
        raise _wrong("Targets and TargetMaps cannot both be given.")
    if maps:
        for each in maps:
            for key in each:
                _check_name(runbook, key)
        return [{key: list(values) for key, values in each.items()} for each in maps]
    if bool(targets) != bool(name):
        raise _wrong("Targets and TargetParameterName are given together or not at all.")
    if not targets:
        return []
    _check_name(runbook, name)
    found: list[str] = []
    for target in targets:
        found += await _values(endpoint, call, target.get("Key", ""), target.get("Values", []))
    found = list(dict.fromkeys(found))
    if not found:
        raise ApiError("InvalidTarget", "The targets resolve to nothing.")
    return [{name: [value]} for value in found]


def _check_name(runbook: Runbook, name: str) -> None:
    if name not in runbook.parameters:
        raise _wrong(f"{name} is no parameter of the runbook.")


async def _values(endpoint: Endpoint, call: Call, key: str, values: list[str]) -> list[str]:
    """What one target stands for: values as they are, or the instances that it selects."""
    if key in _INSTANCES and values and "*" not in values:
        return values
    filters: list[dict[str, Any]] = []
    if key in {"AWS::EC2::Instance", "InstanceIds"}:
        pass  # "*": all of them
    elif key.startswith("tag:"):
        filters.append({"Name": key, "Values": values or ["*"]})
    elif key == "tag-key":
        filters.append({"Name": "tag-key", "Values": values})
    elif key.lower().startswith(("resourcegroup", "resource-groups:")):
        raise ApiError("InvalidTarget", "This endpoint has no resource groups.")
    else:
        raise ApiError("InvalidTarget", f"{key} is no key of a target.")
    nodes = endpoint.nodes.of_region(call.account_id, call.region)
    hybrid = [node.instance_id for node in nodes if node.is_hybrid and _has(node.tags, key, values)]
    return [*await _instances(endpoint, call, filters), *hybrid]


def _has(tags: Mapping[str, str], key: str, values: list[str]) -> bool:
    if key == "tag-key":
        return bool(set(values) & set(tags))
    if not key.startswith("tag:"):
        return False  # they are no EC2 instances
    name = key.removeprefix("tag:")
    return name in tags and (not values or tags[name] in values)


async def _instances(endpoint: Endpoint, call: Call, filters: list[dict[str, Any]]) -> list[str]:
    """The instances that are there, as the caller itself may see them. Raises ApiError."""
    assert call.principal is not None
    states = ["pending", "running", "stopping", "stopped"]
    asking = caller.Caller(
        endpoint.automations.carry_out,
        endpoint.identities,
        endpoint.trail,
        host=endpoint.stream_host,
        region=call.region,
        starter=call.principal,
        role="",
        execution=uuid4(),
    )
    parameters: dict[str, Any] = {
        "Filters": [*filters, {"Name": "instance-state-name", "Values": states}],
        "MaxResults": _PAGE,
    }
    found: list[str] = []
    while True:
        try:
            answer = await asking.call(
                caller.operation("ec2", "DescribeInstances"), parameters, made_id=uuid4(), request_id=str(uuid4())
            )
        except StepFailed as error:
            raise ApiError("InvalidTarget", f"The targets cannot be resolved: {error}") from None
        found += [one["InstanceId"] for item in answer.get("Reservations", []) for one in item.get("Instances", [])]
        if not answer.get("NextToken"):
            return found
        parameters["NextToken"] = answer["NextToken"]


def _wrong(message: str) -> ApiError:
    return ApiError("InvalidAutomationExecutionParametersException", message)
