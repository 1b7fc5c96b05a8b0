"""IAM's policy simulator, ours: it answers from the evaluator that decides on every request.

Source: IAM API reference, SimulatePrincipalPolicy, SimulateCustomPolicy, GetContextKeysForPrincipalPolicy and
GetContextKeysForCustomPolicy; the shapes of their answers are botocore's.
"""

import base64
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fleetops.awsapi import checks, iampolicy
from fleetops.awsapi.errors import ApiError
from fleetops.endpoint.calls import Call
from fleetops.endpoint.core import Endpoint

Result = dict[str, Any]
OPERATIONS = frozenset(
    {
        "SimulatePrincipalPolicy",
        "SimulateCustomPolicy",
        "GetContextKeysForPrincipalPolicy",
        "GetContextKeysForCustomPolicy",
    }
)

_SOURCE = re.compile(
    r"arn:aws:iam::(?P<account>\d{12}):(?P<kind>user|role|group)/(?:[^:]*/)?(?P<name>[\w+=,.@-]{1,128})"
)
_CALLER = re.compile(r"arn:aws:iam::(?P<account>\d{12}):user/.+")
_PAGE = 100
_MOST = 10_000  # pairs of an action and a resource in one request: each is worked out on the event loop


@dataclass(frozen=True, slots=True)
class _Source:
    """A policy that is simulated: as IAM's answer names it, and its text."""

    identifier: str
    kind: str
    text: str

    @property
    def policy(self) -> iampolicy.Policy:
        return iampolicy.parse(self.text)


async def handle(endpoint: Endpoint, call: Call, parameters: Result) -> Result:
    """Answer one call. Raises ApiError."""
    assert call.service is not None and call.principal is not None
    parameters = checks.check("iam", "query", call.service.operation(call.operation), parameters)
    arn = parameters.get("PolicySourceArn")
    call.resources = [arn] if arn is not None else []
    await endpoint.authorizer.allow(call, f"iam:{call.operation}", call.resources)
    identity = _given(parameters, "PolicyInputList")
    boundary = _given(parameters, "PermissionsBoundaryPolicyInputList")[:1]
    tags: dict[str, str] = {}
    if arn is not None:
        held, held_boundary, tags = await _held(endpoint, call, arn)
        identity = [*held, *identity]
        boundary = boundary or held_boundary
    if call.operation.startswith("GetContextKeys"):
        return {"ContextKeyNames": iampolicy.context_keys(source.policy for source in identity)}
    simulation = _Simulation(call, parameters, identity, boundary, tags)
    start = _start(parameters.get("Marker"))
    size = parameters.get("MaxItems", _PAGE)
    actions = parameters["ActionNames"]
    page = [simulation.of(action) for action in actions[start : start + size]]
    more = start + size < len(actions)
    return {
        "EvaluationResults": page,
        "IsTruncated": more,
        "Marker": base64.urlsafe_b64encode(str(start + size).encode()).decode() if more else None,
    }


class _Simulation:
    """One request: its policies, and what is asked of them."""

    def __init__(
        self,
        call: Call,
        parameters: Result,
        identity: Sequence[_Source],
        boundary: Sequence[_Source],
        tags: dict[str, str],
    ) -> None:
        arn = parameters.get("PolicySourceArn", "")
        self._sources = {"identity": identity, "boundary": boundary, "resource": _given_resource(parameters)}
        self._layers = iampolicy.Layers(
            [source.policy for source in identity], boundary[0].policy if boundary else None
        )
        self._resources = list(dict.fromkeys(parameters.get("ResourceArns") or ["*"]))
        if len(self._resources) * len(parameters["ActionNames"]) > _MOST:
            raise ApiError("InvalidInput", f"At most {_MOST} pairs of an action and a resource are simulated.", 400)
        self._context = _context(call, parameters, arn, tags)
        self._owned = self._own_policy(parameters, arn)

    def _own_policy(self, parameters: Result, arn: str) -> iampolicy.Owned | None:
        """The resource's policy, if one is given, towards the caller that is given or simulated. Raises ApiError."""
        if not self._sources["resource"]:
            return None
        caller = parameters.get("CallerArn") or (arn if _CALLER.fullmatch(arn) else "")
        if not (match := _CALLER.fullmatch(caller)):
            raise ApiError("InvalidInput", "A resource policy needs a CallerArn, the ARN of a user.", 400)
        owner = re.search(r"\d{12}", parameters.get("ResourceOwner", ""))
        accounts = {part for name in self._resources for part in name.split(":")[4:5] if part}
        owners = {owner[0]} if owner else accounts or {match["account"]}
        return iampolicy.Owned(
            self._sources["resource"][0].policy,
            iampolicy.Caller(caller, match["account"]),
            owners == {match["account"]},
        )

    def of(self, action: str) -> Result:
        """The answer for one action: on each resource, and on all of them together."""
        verdicts = [self._verdict(action, resource) for resource in self._resources]
        first = verdicts[0]
        if len(verdicts) == 1:
            return {"EvalActionName": action, "EvalResourceName": self._resources[0], **_renamed(first, "EvalDecision")}
        decisions = [verdict["decision"] for verdict in verdicts]
        together = next(
            (each for each in (iampolicy.EXPLICIT_DENY, iampolicy.IMPLICIT_DENY) if each in decisions),
            iampolicy.ALLOWED,
        )
        deciding = verdicts[decisions.index(together)]
        return {
            "EvalActionName": action,
            "EvalResourceName": self._resources[decisions.index(together)],
            **_renamed({**deciding, "MissingContextValues": []}, "EvalDecision"),
            "ResourceSpecificResults": [
                {"EvalResourceName": resource, **_renamed(verdict, "EvalResourceDecision")}
                for resource, verdict in zip(self._resources, verdicts, strict=True)
            ],
        }

    def _verdict(self, action: str, resource: str) -> Result:
        question = iampolicy.Question(action, resource, self._context)
        found = iampolicy.evaluate(self._layers, question, self._owned)
        policies = [source.policy for sources in self._sources.values() for source in sources]
        wanted = "Deny" if found.decision == iampolicy.EXPLICIT_DENY else "Allow"
        told: Result = {
            "decision": found.decision,
            "MatchedStatements": [self._statement(hit) for hit in found.hits if hit.effect == wanted],
            "MissingContextValues": iampolicy.missing_keys(policies, question),
        }
        if found.boundary_allows is not None:
            denies = any(hit.layer == "boundary" and hit.effect == "Deny" for hit in found.hits)
            told["PermissionsBoundaryDecisionDetail"] = {
                "AllowedByPermissionsBoundary": found.boundary_allows and not denies
            }
        return told

    def _statement(self, hit: iampolicy.Hit) -> Result:
        source = self._sources[hit.layer][hit.policy]
        told: Result = {"SourcePolicyId": source.identifier, "SourcePolicyType": source.kind}
        places = list(_places(source.text))
        if hit.statement < len(places):
            start, end = places[hit.statement]
            told |= {"StartPosition": _position(source.text, start), "EndPosition": _position(source.text, end)}
        return told


def _renamed(verdict: Result, name: str) -> Result:
    return {name: verdict["decision"], **{key: value for key, value in verdict.items() if key != "decision"}}


def _context(call: Call, parameters: Result, arn: str, tags: dict[str, str]) -> dict[str, list[str]]:
    """The condition keys of a simulation: those that follow from who it is about, under those that are given."""
    context: dict[str, list[str]] = {}
    caller = parameters.get("CallerArn") or arn
    if match := _SOURCE.fullmatch(caller):
        context |= {"aws:principalarn": [caller], "aws:principalaccount": [match["account"]]}
        if match["kind"] == "user":
            context |= {"aws:username": [match["name"]], "aws:principaltype": ["User"]}
    context |= {f"aws:principaltag/{key.lower()}": [value] for key, value in tags.items()}
    for entry in parameters.get("ContextEntries", []):
        if "ContextKeyName" not in entry:
            raise ApiError("InvalidInput", "A context entry needs a ContextKeyName.", 400)
        context[entry["ContextKeyName"].lower()] = list(entry.get("ContextKeyValues", []))
    return context


async def _held(endpoint: Endpoint, call: Call, arn: str) -> tuple[list[_Source], list[_Source], dict[str, str]]:
    """The policies, the boundary and the tags that a user, role or group has. Raises ApiError (NoSuchEntity)."""
    match = _SOURCE.fullmatch(arn)
    identity = None
    if match is not None and match["account"] == call.account_id:
        identity = await endpoint.identities.identity(match["account"], match["kind"], match["name"])
    if identity is None or identity["arn"] != arn:
        raise ApiError("NoSuchEntity", f"The user, group or role with ARN {arn} cannot be found.", 404)
    policies = [
        _Source(identifier, kind, text)
        for (identifier, kind), text in zip(identity["sources"], identity["policies"], strict=True)
    ]
    boundary = identity["boundary"]
    held_boundary = [_Source(identity["boundary_arn"], "user-managed", boundary)] if boundary is not None else []
    return policies, held_boundary, identity["tags"]


def _given(parameters: Result, name: str) -> list[_Source]:
    """Policies of the request itself. Raises ApiError (InvalidInput)."""
    return [
        _checked(_Source(f"{name}.{number}", "none", text)) for number, text in enumerate(parameters.get(name, []), 1)
    ]


def _given_resource(parameters: Result) -> list[_Source]:
    text = parameters.get("ResourcePolicy")
    return [_checked(_Source("ResourcePolicy", "resource", text))] if text is not None else []


def _checked(source: _Source) -> _Source:
    if not source.policy or any("Effect" not in statement for statement in iampolicy.statements(source.policy)):
        raise ApiError("InvalidInput", f"{source.identifier} is no policy document.", 400)
    return source


def _start(marker: str | None) -> int:
    if not marker:
        return 0
    try:
        return max(0, min(int(base64.b64decode(marker, altchars=b"-_", validate=True)), 10**9))
    except ValueError:
        raise ApiError("InvalidInput", "The marker is not valid.", 400) from None


# --- Where a statement stands in its policy ---

_SPACE = re.compile(r"[ \t\r\n,:]*")


def _places(text: str) -> Iterator[tuple[int, int]]:
    """The start and end of each statement in a policy's text, as offsets; nothing for a text that is odd."""
    decoder = json.JSONDecoder()

    def skip(at: int) -> int:
        match = _SPACE.match(text, at)
        return match.end() if match is not None else at

    try:
        at = skip(text.index("{") + 1)
        while text[at] != "}":
            name, at = decoder.raw_decode(text, at)
            at = skip(at)
            if name != "Statement":
                _, at = decoder.raw_decode(text, at)
                at = skip(at)
                continue
            if text[at] != "[":
                yield at, decoder.raw_decode(text, at)[1]
                return
            at = skip(at + 1)
            while text[at] != "]":
                statement, end = decoder.raw_decode(text, at)
                if isinstance(statement, dict):  # what is none has no number either
                    yield at, end
                at = skip(end)
            return
    except (ValueError, IndexError):
        return


def _position(text: str, offset: int) -> dict[str, int]:
    """Line and column of an offset, both from 1."""
    return {"Line": text.count("\n", 0, offset) + 1, "Column": offset - text.rfind("\n", 0, offset)}
