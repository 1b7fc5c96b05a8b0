"""ec2messages, the agent's older way to ask for work: an empty long poll, so that an agent is calm."""

import asyncio
import contextlib
from typing import Any

from fleetops.awsapi import json11
from fleetops.awsapi.errors import ApiError
from fleetops.endpoint import settings
from fleetops.endpoint.calls import Call
from fleetops.endpoint.core import Endpoint

_CALM = {"AcknowledgeMessage", "SendReply", "FailMessage", "DeleteMessage"}


async def handle(endpoint: Endpoint, call: Call) -> dict[str, Any]:
    """Answer one call of ec2messages. Raises ApiError."""
    try:
        parameters = json11.Codec.decode(call.request.body)
    except ValueError:
        raise ApiError("SerializationException", "The request body is not a JSON object.") from None
    call.parameters = parameters
    if call.operation == "GetMessages":
        destination = parameters.get("Destination")
        if not isinstance(destination, str) or not destination:
            raise ApiError(
                "ValidationException",
                "Value 'null' at 'destination' failed to satisfy constraint: Member must not be null",
            )
        await endpoint.authorizer.allow_node(call, destination, "ec2messages:GetMessages")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(endpoint.closing.wait(), settings.POLL_SECONDS)
        return {
            "Destination": destination,
            "MessagesRequestId": str(parameters.get("MessagesRequestId", "")),
            "Messages": [],
        }
    if call.operation in _CALM:
        await endpoint.authorizer.allow(call, f"ec2messages:{call.operation}", ["*"])
        return {}
    raise ApiError("UnknownOperationException", "", 400)
