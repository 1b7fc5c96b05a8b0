"""What the parts of SSM share: how one is written, ARNs, ids, and tokens of pages."""

import base64
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fleetops.awsapi import json11
from fleetops.awsapi.errors import ApiError
from fleetops.endpoint.calls import Call
from fleetops.endpoint.core import Endpoint
from fleetops.endpoint.nodes import Managed

Result = dict[str, Any]
Operation = Callable[[Call, Result], Awaitable[Result]]

CODEC = json11.Codec()
INSTANCE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")  # decisions.md 22
DEFAULT_PAGE = 50


class Part:
    """Some operations of SSM that belong together. A method's name in PascalCase is the operation's."""

    names: tuple[str, ...] = ()  # of methods
    agent_names: tuple[str, ...] = ()  # of methods that only agents call, and botocore's model lacks

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.nodes = endpoint.nodes

    def operations(self) -> Mapping[str, Operation]:
        return {_pascal(name): getattr(self, name) for name in self.names}

    def agent_operations(self) -> Mapping[str, Operation]:
        return {_pascal(name): getattr(self, name) for name in self.agent_names}

    async def allow(self, call: Call, resources: list[str] | None = None) -> None:
        """Return if the caller may do the call's operation on all of `resources`. Raises ApiError (access denied)."""
        await self.endpoint.authorizer.allow(call, f"ssm:{call.operation}", resources or ["*"])

    def managed(self, call: Call, instance_id: str) -> Managed:
        """The managed instance of this id. Raises ApiError (InvalidInstanceId)."""
        node = self.nodes.find((call.account_id, call.region, instance_id))
        if node is None or node.registered_at is None:
            raise ApiError("InvalidInstanceId", f"{instance_id} is not a managed instance of this account.")
        return node


def agent_parameters(body: bytes) -> Result:
    """The parameters of a call that only agents make; botocore has no model of it. Raises ApiError."""
    try:
        return CODEC.decode(body)
    except ValueError:
        raise ApiError("SerializationException", "The request body is not a JSON object.") from None


def target_arn(call: Call, target: str) -> str:
    if target.startswith("mi-"):
        return f"arn:aws:ssm:{call.region}:{call.account_id}:managed-instance/{target}"
    return f"arn:aws:ec2:{call.region}:{call.account_id}:instance/{target}"


def document_arn(call: Call, name: str) -> str:
    if name.startswith("arn:"):
        return name
    account = "" if name.startswith("AWS-") else call.account_id
    return f"arn:aws:ssm:{call.region}:{account}:document/{name}"


def baseline_arn(call: Call, baseline_id: str) -> str:
    if baseline_id.startswith("arn:"):
        return baseline_id
    return f"arn:aws:ssm:{call.region}:{call.account_id}:patchbaseline/{baseline_id}"


def instance_id_of(parameters: Result) -> str:
    instance_id = parameters.get("InstanceId")
    if not isinstance(instance_id, str) or not INSTANCE_ID.fullmatch(instance_id):
        raise ApiError(
            "ValidationException",
            "1 validation error detected: Value at 'instanceId' failed to satisfy constraint: Member must satisfy "
            f"regular expression pattern: {INSTANCE_ID.pattern}",
        )
    return instance_id


def _pascal(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def token(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


def read_number(token: str | None) -> int | None:
    """The row's number in a token; None for no token. Raises ApiError."""
    text = read_token(token)
    if text and not re.fullmatch(r"[0-9]{1,18}", text):
        raise ApiError("InvalidNextToken", "The specified token is not valid.")
    return int(text) if text else None


def read_token(token: str | None) -> str:
    if not token:
        return ""
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except ValueError:
        raise ApiError("InvalidNextToken", "The specified token is not valid.") from None
