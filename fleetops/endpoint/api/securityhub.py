"""Security Hub where it is about findings, and whether it is enabled. The rest is moto's.

Source: Security Hub API reference; the rules of findings are in finding_rules.py and finding_filters.py.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fleetops.awsapi.errors import ApiError
from fleetops.endpoint.api.ssm.shared import read_token, token
from fleetops.endpoint.calls import Call
from fleetops.endpoint.core import Endpoint
from fleetops.endpoint.finding_rules import texts
from fleetops.endpoint.findings import MOST_AT_ONCE, Place, no_access

Result = dict[str, Any]

_PAGE = 100
_LONGEST_NOTE = 512
_FOUND_BY = {"FindingIdentifiers"}


async def handle(endpoint: Endpoint, call: Call, parameters: Result) -> Result:
    """Answer one call of OPERATIONS. Raises ApiError."""
    return await OPERATIONS[call.operation](endpoint, call, parameters)


async def _enable(endpoint: Endpoint, call: Call, parameters: Result) -> Result:
    await endpoint.findings.enable(
        _place(call),
        generator=parameters.get("ControlFindingGenerator", "SECURITY_CONTROL"),
        tags=parameters.get("Tags", {}),
        now=call.now,
    )
    return {}


async def _disable(endpoint: Endpoint, call: Call, parameters: Result) -> Result:
    await endpoint.findings.disable(_place(call))
    return {}


async def _describe(endpoint: Endpoint, call: Call, parameters: Result) -> Result:
    hub = await endpoint.findings.hub(_place(call))
    if hub is None:
        raise no_access(_place(call))
    arn = f"arn:aws:securityhub:{call.region}:{call.account_id}:hub/default"
    if parameters.get("HubArn", arn) != arn:
        raise ApiError("ResourceNotFoundException", f"There is no hub {parameters['HubArn']}.", 404)
    assert hub.subscribed_at is not None
    return {
        "HubArn": arn,
        "SubscribedAt": hub.subscribed_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "AutoEnableControls": hub.controls_enabled,
        "ControlFindingGenerator": hub.generator,
    }


async def _import(endpoint: Endpoint, call: Call, parameters: Result) -> Result:
    findings = parameters["Findings"]
    failed = await endpoint.findings.take(_place(call), findings, call.now)
    return {
        "FailedCount": len(failed),
        "SuccessCount": len(findings) - len(failed),
        "FailedFindings": [
            {"Id": name, "ErrorCode": "InvalidInput", "ErrorMessage": reason} for name, reason in failed
        ],
    }


async def _get(endpoint: Endpoint, call: Call, parameters: Result) -> Result:
    given = read_token(parameters.get("NextToken"))
    if not (given.isascii() and (given or "0").isdigit() and len(given) < 10):
        raise ApiError("InvalidInputException", "The NextToken is not valid.", 400)
    start, size = int(given or 0), parameters.get("MaxResults", _PAGE)
    found, has_more = await endpoint.findings.page(
        _place(call),
        parameters.get("Filters", {}),
        parameters.get("SortCriteria", []),
        start=start,
        size=size,
        now=call.now,
    )
    return {"Findings": found, "NextToken": token(str(start + size)) if has_more else None}


async def _update(endpoint: Endpoint, call: Call, parameters: Result) -> Result:
    identifiers = parameters["FindingIdentifiers"]
    changes: Mapping[str, Any] = {name: value for name, value in parameters.items() if name not in _FOUND_BY}
    if not 1 <= len(identifiers) <= MOST_AT_ONCE:
        raise ApiError("InvalidInputException", f"A request names 1 to {MOST_AT_ONCE} findings.", 400)
    if not changes:
        raise ApiError("InvalidInputException", "A request changes something of the findings that it names.", 400)
    if any("\0" in text for text in texts(parameters)):
        raise ApiError("InvalidInputException", "A text holds the character zero.", 400)
    if len(changes.get("Note", {}).get("Text", "")) > _LONGEST_NOTE:
        raise ApiError("InvalidInputException", f"A note has at most {_LONGEST_NOTE} characters.", 400)
    missing = await endpoint.findings.change(_place(call), identifiers, changes, call.now)
    return {
        "ProcessedFindings": [one for one in identifiers if one not in missing],
        "UnprocessedFindings": [
            {"FindingIdentifier": one, "ErrorCode": "FindingNotFound", "ErrorMessage": "Finding Not Found"}
            for one in missing
        ],
    }


def _place(call: Call) -> Place:
    return call.account_id, call.region


OPERATIONS: Mapping[str, Callable[[Endpoint, Call, Result], Awaitable[Result]]] = {
    "EnableSecurityHub": _enable,
    "DisableSecurityHub": _disable,
    "DescribeHub": _describe,
    "BatchImportFindings": _import,
    "GetFindings": _get,
    "BatchUpdateFindings": _update,
}
