"""IAM's policy simulator, ours: it answers from the evaluator that decides on every request."""

import re
from typing import Any

from fleetops.awsapi import iampolicy, json11
from fleetops.awsapi.errors import ApiError
from fleetops.endpoint.calls import Call
from fleetops.endpoint.core import Endpoint

Result = dict[str, Any]
OPERATIONS = frozenset({"SimulatePrincipalPolicy", "SimulateCustomPolicy"})

_codec = json11.Codec()
_SOURCE = re.compile(r"arn:aws:iam::(?P<account>\d{12}):(?P<kind>user|role)/(?:[^:]*/)?(?P<name>[\w+=,.@-]{1,128})")


async def handle(endpoint: Endpoint, call: Call, parameters: Result) -> Result:
    """Answer one call. Raises ApiError."""
    assert call.service is not None and call.principal is not None
    try:
        parameters = _codec.check(call.service.operation(call.operation).input_shape, parameters)
    except ApiError as error:
        raise ApiError("ValidationError", error.message, 400) from None
    call.resources = [parameters["PolicySourceArn"]] if "PolicySourceArn" in parameters else []
    await endpoint.authorizer.allow(call, f"iam:{call.operation}", call.resources)
    given = [_parsed(text) for text in parameters.get("PolicyInputList", [])]
    boundaries = [_parsed(text) for text in parameters.get("PermissionsBoundaryPolicyInputList", [])]
    layers = iampolicy.Layers(given, boundaries[0] if boundaries else None)
    if call.operation == "SimulatePrincipalPolicy":
        held = await _layers(endpoint, call, parameters["PolicySourceArn"])
        layers = iampolicy.Layers([*held.identity, *given], layers.boundary or held.boundary)
    context = {
        entry["ContextKeyName"].lower(): list(entry.get("ContextKeyValues", []))
        for entry in parameters.get("ContextEntries", [])
    }
    if "PolicySourceArn" in parameters:
        context.setdefault("aws:principalarn", [parameters["PolicySourceArn"]])
    results = [
        {
            "EvalActionName": action,
            "EvalResourceName": resource,
            "EvalDecision": iampolicy.decide(layers, iampolicy.Question(action, resource, context)),
            "MatchedStatements": [],
            "MissingContextValues": [],
        }
        for action in parameters["ActionNames"]
        for resource in parameters.get("ResourceArns") or ["*"]
    ]
    return {"EvaluationResults": results, "IsTruncated": False}


async def _layers(endpoint: Endpoint, call: Call, arn: str) -> iampolicy.Layers:
    match = _SOURCE.fullmatch(arn)
    identity = None
    if match is not None and match["account"] == call.account_id:
        identity = await endpoint.identities.identity(match["account"], match["kind"], match["name"])
    if identity is None or identity["arn"] != arn:
        raise ApiError("NoSuchEntity", f"The user or role with ARN {arn} cannot be found.", 404)
    boundary = identity["boundary"]
    return iampolicy.Layers(
        [iampolicy.parse(text) for text in identity["policies"]], iampolicy.parse(boundary) if boundary else None
    )


def _parsed(text: str) -> iampolicy.Policy:
    policy = iampolicy.parse(text)
    if not policy:
        raise ApiError("InvalidInput", "The policy failed simulation: it is not JSON.", 400)
    return policy
