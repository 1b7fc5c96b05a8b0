"""The calls that an automation makes: of the endpoint itself, as the one who started it, or as the role it is given.

A call goes the way of every request: authorise → do → record. It needs no signature, for its principal is known.
"""

import re
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any
from urllib.parse import urlencode
from uuid import NAMESPACE_OID, UUID, uuid4, uuid5

from botocore import xform_name
from botocore.awsrequest import HeadersDict
from botocore.exceptions import ParamValidationError
from botocore.model import ListShape, MapShape, OperationModel, Shape, StructureShape
from botocore.parsers import create_parser
from botocore.serialize import create_serializer
from botocore.validate import ParamValidator

from fleetops import clock
from fleetops.awsapi import iampolicy, models, sigv4
from fleetops.awsapi.errors import ApiError
from fleetops.endpoint.auth import Identities
from fleetops.endpoint.calls import Answer, Behalf, Call, Principal
from fleetops.endpoint.faults import Dropped
from fleetops.endpoint.trail import NotRecorded, Trail

from .errors import LOST, StepFailed

SERVICE = "ssm.amazonaws.com"
ROLE_ARN = re.compile(r"arn:aws:iam::(?P<account>\d{12}):role/(?:[^:]*/)?(?P<name>[\w+=,.@-]{1,64})")
_AGAIN_SECONDS = 3600.0  # until a role is assumed anew

# What a service says when a call has come too soon, and when nobody knows whether it was carried out.
THROTTLES = frozenset(
    {"Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException", "SlowDown"}
)
UNCLEAR = frozenset({"InternalFailure", "InternalError", "ServiceUnavailable"})

CarryOut = Callable[[Call], Awaitable[Answer]]


class CallFailed(StepFailed):
    """The service has refused a call. `code`: AWS's name of the error."""

    def __init__(self, code: str, message: str, operation: str) -> None:
        super().__init__(f"An error occurred ({code}) when calling the {operation} operation: {message}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a service that the endpoint serves."""

    service: models.Service
    model: OperationModel
    changes: bool

    @property
    def has_token(self) -> bool:
        """Whether a call with the same token is carried out once however often it is made."""
        return bool(self.model.idempotent_members)


def operation(service: Any, api: Any) -> Operation:
    """What a step's Service and Api name: a client of boto3, and an operation in either spelling. Raises StepFailed."""
    name = models.signing_name(str(service).lower())
    try:
        found = models.service(name)
    except ApiError:
        raise StepFailed(f"This endpoint does not serve {service}: Unknown service", stage="Verification") from None
    pascal = str(api) if str(api) in found.operations else _snakes(name).get(str(api).lower(), "")
    if not pascal:
        raise StepFailed(f"{service} has no API {api}", stage="Verification")
    return Operation(found, found.operation(pascal), not found.is_read(pascal))


@cache
def _snakes(signing_name: str) -> Mapping[str, str]:
    names = models.service(signing_name).operations
    return {xform_name(name): name for name in names} | {name.lower(): name for name in names}


class Caller:
    """Makes the calls of one execution."""

    def __init__(
        self,
        carry_out: CarryOut,
        identities: Identities,
        trail: Trail,
        *,
        host: str,
        region: str,
        starter: Principal,
        role: str,
        execution: UUID,
    ) -> None:
        self._carry_out = carry_out
        self._identities = identities
        self._trail = trail
        self._host = host
        self._region = region
        self._starter = starter
        self._role = role
        self._execution = execution
        self._acting: Principal | None = None
        self._acting_since = 0.0

    async def call(
        self,
        wanted: Operation,
        parameters: Mapping[str, Any],
        *,
        made_id: UUID,
        request_id: str,
    ) -> dict[str, Any]:
        """Make one call; its result, as JSON has it. Raises StepFailed, CallFailed; Dropped if no answer came."""
        principal = await self._principal()
        given = _checked(wanted, parameters, made_id)
        call = _call(wanted, given, self._host, self._region, principal.access_key_id, request_id)
        call.principal = principal
        call.behalf = Behalf(SERVICE, not self._role, self._execution, made_id)
        answer = await self._carry_out(call)
        if call.is_dropped:
            raise Dropped
        return _result(wanted, answer)

    async def _principal(self) -> Principal:
        """As whom the execution acts: a role is assumed as it stands now, and anew each hour. Raises StepFailed."""
        if not self._role:
            return self._starter
        if self._acting is None or clock.monotonic() - self._acting_since > _AGAIN_SECONDS:
            acting = await assumed(self._identities, self._role, self._execution)
            if acting is None:
                raise StepFailed("The defined assume role is unable to be assumed.", stage="Verification")
            await self._record(acting)
            self._acting, self._acting_since = acting, clock.monotonic()
        return self._acting

    async def _record(self, acting: Principal) -> None:
        """CloudTrail has it that Automation has assumed a role. Raises StepFailed."""
        parameters = {"RoleArn": self._role, "RoleSessionName": acting.session_name}
        call = _call(operation("sts", "AssumeRole"), parameters, self._host, self._region, "", str(uuid4()))
        call.operation, call.read_only, call.parameters = "AssumeRole", False, parameters
        call.behalf = Behalf(SERVICE, False, self._execution, self._execution)
        call.resources, call.owner_id = [self._role], acting.account_id
        try:
            await self._trail.record(call, Answer(200, b""))
        except NotRecorded:
            raise StepFailed("Nothing was done: the endpoint cannot record the request.", kind=LOST) from None


async def assumed(identities: Identities, role_arn: str, execution: UUID) -> Principal | None:
    """The session of a role that Automation may assume; None if it may not, or there is no such role."""
    match = ROLE_ARN.fullmatch(role_arn)
    role = await identities.identity(match["account"], "role", match["name"]) if match is not None else None
    if match is None or role is None or role["arn"] != role_arn:
        return None
    context = {"aws:sourceaccount": [match["account"]]}
    if not iampolicy.trusts(iampolicy.parse(role["trust"]), SERVICE, "sts:AssumeRole", context):
        return None
    session = f"Automation-{execution}"
    return Principal(
        kind="role",
        account_id=match["account"],
        arn=f"arn:aws:sts::{match['account']}:assumed-role/{match['name']}/{session}",
        user_id=f"{role['id']}:{session}",
        name=match["name"],
        access_key_id="",
        session_name=session,
        role_arn=role_arn,
        tags=dict(role["tags"]),
        issued_at=clock.now(),
    )


def written(principal: Principal) -> dict[str, Any]:
    """A principal as a row keeps it; no secret is in it."""
    issued = principal.issued_at
    return asdict(principal) | {"issued_at": issued.isoformat() if issued is not None else None}


def read(kept: Mapping[str, Any]) -> Principal:
    """What `written` wrote."""
    policies, node, issued = kept["session_policies"], kept["node"], kept["issued_at"]
    return Principal(
        **{
            **kept,
            "transitive_keys": tuple(kept["transitive_keys"]),
            "session_policies": tuple(policies) if policies is not None else None,
            "node": (node[0], node[1], node[2]) if node is not None else None,
            "issued_at": datetime.fromisoformat(issued) if issued else None,
        }
    )


# --- A request as boto3 would send it, and its answer ---


def _checked(wanted: Operation, parameters: Mapping[str, Any], made_id: UUID) -> dict[str, Any]:
    """The parameters as the model has them, with a token where it takes one. Raises StepFailed."""
    shape = wanted.model.input_shape
    given = _shaped(shape, dict(parameters)) if shape is not None else dict(parameters)
    for name in wanted.model.idempotent_members:
        given.setdefault(name, str(uuid5(NAMESPACE_OID, f"{made_id}.{name}")))
    if shape is None:
        return {}
    try:
        report = ParamValidator().validate(given, shape)
        if report.has_errors():
            raise ParamValidationError(report=report.generate_report())
    except ParamValidationError as error:
        raise StepFailed(str(error).replace("\n", " "), stage="Verification") from None
    if wanted.model.has_streaming_output or wanted.model.has_event_stream_output:
        raise StepFailed(f"{wanted.model.name} answers with a stream, which a step cannot read", stage="Verification")
    return given


def _shaped(shape: Shape, value: Any) -> Any:
    """A value in the type that the model has: a parameter comes as a text where a number or a switch is meant."""
    if isinstance(shape, StructureShape) and isinstance(value, Mapping):
        return {
            key: _shaped(shape.members[key], item) if key in shape.members else item
            for key, item in value.items()
            if item is not None
        }
    if isinstance(shape, ListShape) and isinstance(value, list):
        return [_shaped(shape.member, item) for item in value]
    if isinstance(shape, MapShape) and isinstance(value, Mapping):
        return {key: _shaped(shape.value, item) for key, item in value.items()}
    kind = shape.type_name
    if isinstance(value, str):
        if kind in {"integer", "long"} and re.fullmatch(r"-?[0-9]{1,18}", value, re.ASCII):
            return int(value)
        if kind == "boolean" and value.lower() in {"true", "false"}:
            return value.lower() == "true"
    elif kind == "string" and isinstance(value, bool):
        return "true" if value else "false"
    elif kind == "string" and isinstance(value, int | float):
        return str(value)
    return value


def _call(wanted: Operation, parameters: dict[str, Any], host: str, region: str, key: str, request_id: str) -> Call:
    service = wanted.service
    made = create_serializer(service.protocol, include_validation=False).serialize_to_request(parameters, wanted.model)
    fields, body = made["query_string"], made["body"]
    if isinstance(body, dict):  # a form
        body = urlencode(body)
    headers = [("host", host), ("user-agent", SERVICE)]
    headers += [(name.lower(), str(value)) for name, value in made["headers"].items()]
    request = sigv4.Request(
        made["method"],
        made["url_path"],
        urlencode(fields, doseq=True) if isinstance(fields, dict) else fields,
        headers,
        body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else body.read(),
    )
    now = clock.now()
    call = Call(request, request_id, now, SERVICE)
    sent = f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}"
    call.claim = sigv4.Claim(key, sent[:8], region, service.signing_name, (), "", sent, None)
    call.service, call.protocol = service, service.protocol
    return call


def _result(wanted: Operation, answer: Answer) -> dict[str, Any]:
    if answer.reader is not None:
        answer.reader.close()
        raise StepFailed(f"{wanted.model.name} answers with a stream, which a step cannot read")
    headers = HeadersDict()
    headers["content-type"] = answer.content_type
    for name, value in answer.headers:
        headers[name] = value
    parsed = create_parser(wanted.service.protocol).parse(
        {"status_code": answer.status, "headers": headers, "body": answer.body}, wanted.model.output_shape
    )
    parsed.pop("ResponseMetadata", None)
    if answer.status >= 300:
        error = parsed.get("Error", {})
        code = answer.error_code or error.get("Code") or str(answer.status)
        raise CallFailed(code, error.get("Message") or answer.error_message, wanted.model.name)
    plain: dict[str, Any] = _plain(parsed)
    return plain


def _plain(value: Any) -> Any:
    """A parsed value as JSON can hold it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, bytes):
        return b64encode(value).decode()
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}")  # PostgreSQL takes no zero
    return value
