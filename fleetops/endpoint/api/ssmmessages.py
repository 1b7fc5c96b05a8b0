"""ssmmessages: the calls by which agents and clients open SSM's channels."""

import re

from fleetops.awsapi.errors import ApiError, identity_error
from fleetops.endpoint.calls import Answer, Call, NodeKey
from fleetops.endpoint.core import Endpoint
from fleetops.endpoint.hub import NotYours, SessionGone

PATH = re.compile(r"/v1/(?P<kind>control|data)-channel/(?P<id>[A-Za-z0-9._@-]{1,128})")


async def create_channel(endpoint: Endpoint, call: Call, kind: str, name: str) -> Answer:
    """Answer CreateControlChannel (of the node `name`) or CreateDataChannel (of that session). Raises ApiError."""
    if call.request.method != "POST":
        raise ApiError("MethodNotAllowed", "A channel is made by POST and opened as a websocket.", 405)
    try:
        if kind == "control":
            await endpoint.authorizer.allow_node(call, name, "ssmmessages:CreateControlChannel")
            token = await endpoint.hub.create_control_channel((call.account_id, call.region, name), call.request_id)
        else:
            node = await _session_node(endpoint, call, name, "ssmmessages:CreateDataChannel")
            token = await endpoint.hub.create_data_channel(node, name)
    except SessionGone as gone:
        raise _gone(gone) from None
    except NotYours:
        raise identity_error("denied", "channel", f"The session {name} belongs to another node.") from None
    root = f"{call.operation}Response"
    xml = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} xmlns="http://ssmmessages.amazonaws.com/doc/2017-01-01/">'
        f"<MessageSchemaVersion>1.0</MessageSchemaVersion><TokenValue>{token}</TokenValue></{root}>"
    )
    return Answer(201, xml.encode(), "text/xml")


async def open_channel(endpoint: Endpoint, call: Call, kind: str, name: str) -> NodeKey | None:
    """The node whose end a websocket's upgrade opens; None for a client, whose token decides later. Raises ApiError."""
    if kind == "data" and call.claim is None:
        return None
    call.principal = await endpoint.authenticator.authenticate(call)
    if kind == "control":
        await endpoint.authorizer.allow_node(call, name, "ssmmessages:OpenControlChannel")
        return (call.account_id, call.region, name)
    try:
        return await _session_node(endpoint, call, name, "ssmmessages:OpenDataChannel")
    except SessionGone as gone:
        raise _gone(gone) from None


async def _session_node(endpoint: Endpoint, call: Call, session_id: str, action: str) -> NodeKey:
    """The node for which the caller opens a session's data channel: itself, or for other identities the target."""
    principal = call.principal
    assert principal is not None
    instance_id = principal.node[2] if principal.node is not None else ""
    if not instance_id:
        session = await endpoint.sessions.find(call.account_id, call.region, session_id)
        if session is None:
            raise SessionGone
        instance_id = session.target
    await endpoint.authorizer.allow_node(call, instance_id, action)
    call.resources.append(session_id)
    return (call.account_id, call.region, instance_id)


def _gone(gone: SessionGone) -> ApiError:
    return ApiError("ResourceNotFoundException", str(gone), 404)
