"""The endpoint as an ASGI application: one port for AWS's APIs and SSM's channels.

Each request goes the same way: read within a bound → authenticate → authorise → do → record. What is ours (SSM,
ssmmessages, ec2messages, STS, and single operations where moto is wrong) is answered here, the rest by moto's child.
"""

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl
from uuid import uuid4

import orjson

from fleetops import clock
from fleetops.awsapi import json11, models, query, sigv4
from fleetops.awsapi.errors import ApiError, identity_error, not_implemented, render
from fleetops.endpoint import resources, settings
from fleetops.endpoint.api import cloudtrail, ec2messages
from fleetops.endpoint.api.ssm import Ssm
from fleetops.endpoint.api.sts import Sts
from fleetops.endpoint.auth import Authenticator, Authorizer, Identities, denied
from fleetops.endpoint.calls import Answer, Call, NodeKey, Principal
from fleetops.endpoint.credentials import Credentials, TokenVault
from fleetops.endpoint.hub import Hub, NotYours, SessionGone
from fleetops.endpoint.keys import key
from fleetops.endpoint.moto_client import MotoClient
from fleetops.endpoint.nodes import Nodes
from fleetops.endpoint.services import HubStore, Sessions
from fleetops.endpoint.trail import Trail

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_CHANNEL = re.compile(r"/v1/(?P<kind>control|data)-channel/(?P<id>[A-Za-z0-9._@-]{1,128})")
_AGENT_SERVICES = {"ssmmessages": "channel", "ec2messages": "json"}  # botocore has no model of them
_EC2_MESSAGES_PREFIX = "EC2WindowsMessageDeliveryService"
_NODE_CREDENTIALS = timedelta(hours=1)  # AWS's instance metadata gives six; renewed at half of it
_HOOKS_CHANGING_NODES = {"ec2", "iam"}
_ERROR_CODE = re.compile(rb"<Code>([^<]{1,128})</Code>")
_ERROR_MESSAGE = re.compile(rb"<Message>([^<]{0,1024})</Message>")
_LARGEST_RECORDED_BYTES = 100_000
_XML = "text/xml;charset=UTF-8"


class Endpoint:
    """Everything of one running endpoint, and its ASGI entry."""

    def __init__(self, home: Path, *, stream_host: str) -> None:
        """`stream_host` is HOST:PORT, as clients of the channels are told it."""
        self.home = home
        self.stream_host = stream_host
        self.closing = asyncio.Event()
        # One thread writes to the database, so that SQLite's writers never wait for each other; one only reads.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="database")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="database-reader")
        self.moto = MotoClient(home / "moto", home / "keys")
        self.vault = TokenVault(key(home / "keys", "token.key"))
        self.identities = Identities(self.moto)
        self.authenticator = Authenticator(self.identities, self.vault)
        self.authorizer = Authorizer(self.identities)
        self.nodes = Nodes(self._writer)
        self.sessions = Sessions(self._writer)
        self.trail = Trail(self._writer)
        self.hub = Hub(HubStore(self.sessions, self.nodes))
        self.nodes.is_connected = self.hub.is_connected
        self._ssm = Ssm(self)
        self._sts = Sts(self)
        # Told (account, region) after EC2 or IAM may have changed what an instance is; see fleet.py.
        self.on_change: Callable[[str, str], Awaitable[None]] | None = None

    async def start(self) -> None:
        self.moto.start()
        # Read while moto starts: a first request would otherwise hold up the loop, and every terminal on it.
        await asyncio.to_thread(_preload)
        await self.nodes.load()
        self.nodes.start()
        self.trail.start()
        await self.hub.start()

    async def stop(self) -> None:
        """End in order: no new work, then what is queued reaches the database, then moto."""
        self.closing.set()
        await self.hub.stop()
        await self.nodes.stop()
        await self.trail.stop()
        await self.moto.stop()
        self._writer.shutdown()
        self._reader.shutdown()

    # --- ASGI -------------------------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = _call(scope)
        try:
            _identify(call)
            body = await _read_body(call, receive)
            if body is None:
                return  # the caller went away
            call.request = sigv4.Request(
                call.request.method, call.request.path, call.request.query, call.request.headers, body
            )
            answer = await self._answer(call)
        except ApiError as error:
            answer = _refusal(call, error)
        except Exception:  # the outermost loop of a request: a bug of ours is AWS's InternalFailure to the caller
            logger.exception("request failed operation=%s request=%s", call.operation, call.request_id)
            answer = _refusal(call, ApiError("InternalFailure", "The request failed within the endpoint.", 500))
        try:
            await self.trail.record(call, answer)
        except RuntimeError:
            answer = _refusal(call, ApiError("ServiceUnavailable", "The request could not be recorded.", 503))
        await _send(send, call, answer)

    async def _answer(self, call: Call) -> Answer:
        match = _CHANNEL.fullmatch(call.request.path)
        if match is not None:
            call.protocol = "channel"
            call.operation = "CreateControlChannel" if match["kind"] == "control" else "CreateDataChannel"
            call.read_only = False
            call.principal = await self.authenticator.authenticate(call)
            return await self._create_channel(call, match["kind"], match["id"])
        self._find_operation(call)
        call.principal = await self.authenticator.authenticate(call)
        assert call.claim is not None
        if call.claim.service == "ec2messages":
            return _json(await ec2messages.handle(self, call))
        if call.service is None:
            raise not_implemented(f"the service {call.claim.service}")
        if call.service.signing_name == "ssm":
            return _json(await self._ssm.handle(call))
        if call.service.protocol in {"query", "ec2"} and call.operation not in call.service.operations:
            code, status = ("InvalidAction", 400)
            raise ApiError(code, f"The action {call.operation} is not valid for this web service.", status)
        if call.service.signing_name == "sts":
            operation = call.service.operation(call.operation)
            call.parameters = parameters = query.parse(operation, call.form, ec2=False)
            result = await self._sts.handle(call, parameters)
            return Answer(200, query.write(operation, result, call.request_id, ec2=False), _XML)
        return await self._answer_from_moto(call)

    def _find_operation(self, call: Call) -> None:
        """Name the operation of a request and whether it only reads. Raises ApiError."""
        target = call.request.header("x-amz-target") or ""
        prefix, _, name = target.rpartition(".")
        if call.claim is not None and call.claim.service in _AGENT_SERVICES:
            if prefix != _EC2_MESSAGES_PREFIX:
                raise ApiError("UnknownOperationException", "", 404)
            call.operation = name
            return
        service = call.service
        if service is None:
            call.operation = name or call.form.get("Action", "")
            return
        if service.protocol == "json":
            if prefix != service.target_prefix:
                raise ApiError("UnknownOperationException", "", 400)
            call.operation = name
            call.read_only = service.is_read(name)
            call.is_heartbeat = service.signing_name == "ssm" and name in _HEARTBEATS
            if service.signing_name != "ssm" and name not in service.operations:
                raise ApiError("UnknownOperationException", "", 400)
        elif service.protocol in {"query", "ec2"}:
            call.form = query.read_form(call.request.body, call.request.query)
            call.operation = query.read_action(call.form)
            call.read_only = service.is_read(call.operation)
        else:
            fields = dict(parse_qsl(call.request.query, keep_blank_values=True))
            names = {header for header, _ in call.request.headers}
            call.operation = service.match_rest(call.request.method, call.request.path, fields, names)
            call.read_only = service.is_read(call.operation)

    # --- moto -------------------------------------------------------------------------------------------------------

    async def _answer_from_moto(self, call: Call) -> Answer:
        assert call.service is not None and call.claim is not None and call.principal is not None
        parameters = _loose_parameters(call)
        call.parameters = parameters
        service = call.service.signing_name
        await self.authorizer.allow(call, resources.action(call), resources.find(call, parameters))
        if service == "cloudtrail" and call.operation == "LookupEvents":
            return _json(await cloudtrail.lookup_events(call, self._reader))
        if service == "ec2" and call.operation == "DescribeInstances":
            header, content = await self.moto.ask(
                {
                    "ask": "instances",
                    "account": call.account_id,
                    "region": call.region,
                    "form": call.form,
                    "request_id": call.request_id,
                }
            )
            return _from_moto(call, header["status"], [("content-type", _XML)], content)
        header, content = await self.moto.ask(
            {"ask": "call", "call": moto_call(call, changes=not call.read_only)}, call.request.body
        )
        if not call.read_only:
            if service == "iam":
                self.identities.forget()
            if service in _HOOKS_CHANGING_NODES and self.on_change is not None and header["status"] < 400:
                try:
                    await self.on_change(call.account_id, call.region if service == "ec2" else "")
                except ApiError as error:
                    # The change is done, and its answer stands; the fleet looks again by itself.
                    logger.warning("nodes not told of a change operation=%s reason=%s", call.operation, error)
        return _from_moto(call, header["status"], header["headers"], content)

    # --- Nodes ------------------------------------------------------------------------------------------------------

    async def allow_node(self, call: Call, instance_id: str, action: str) -> None:
        """Return if the caller may speak for a node: the node itself, or an identity whose policies allow the action.

        Raises ApiError (access denied).
        """
        principal = call.principal
        assert principal is not None
        call.resources = [instance_id]
        if principal.kind == "node" and principal.instance_id != instance_id:
            raise denied(call, action, f"arn:aws:ssm:{call.region}:{call.account_id}:*/{instance_id}", "implicitDeny")
        await self.authorizer.allow(call, action, ["*"])

    async def node_credentials(self, key: NodeKey, role_name: str) -> Credentials | None:
        """Credentials as instance metadata gives them: of the role, for this one node. None without the role."""
        account, _, instance_id = key
        role = await self.identities.identity(account, "role", role_name)
        if role is None:
            return None
        principal = Principal(
            kind="node",
            account_id=account,
            arn=f"arn:aws:sts::{account}:assumed-role/{role_name}/{instance_id}",
            user_id=f"{role['id']}:{instance_id}",
            name=role_name,
            access_key_id="",
            session_name=instance_id,
            role_arn=role["arn"],
            instance_id=instance_id,
        )
        return self.vault.issue(principal, _NODE_CREDENTIALS, clock.now())

    async def _create_channel(self, call: Call, kind: str, name: str) -> Answer:
        if call.request.method != "POST":
            raise ApiError("MethodNotAllowed", "A channel is made by POST and opened as a websocket.", 405)
        operation = call.operation
        try:
            if kind == "control":
                await self.allow_node(call, name, "ssmmessages:CreateControlChannel")
                token = await self.hub.create_control_channel((call.account_id, call.region, name), call.request_id)
            else:
                node = await self._session_node(call, name, "ssmmessages:CreateDataChannel")
                token = await self.hub.create_data_channel(node, name)
        except SessionGone as gone:
            raise ApiError("ResourceNotFoundException", str(gone), 404) from None
        except NotYours:
            raise identity_error("denied", "channel", f"The session {name} belongs to another node.") from None
        root = f"{operation}Response"
        xml = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} xmlns="http://ssmmessages.amazonaws.com/doc/2017-01-01/">'
            f"<MessageSchemaVersion>1.0</MessageSchemaVersion><TokenValue>{token}</TokenValue></{root}>"
        )
        return Answer(201, xml.encode(), "text/xml")

    async def _session_node(self, call: Call, session_id: str, action: str) -> NodeKey:
        """The node for which the caller opens a session's data channel: itself, or for other identities the target."""
        principal = call.principal
        assert principal is not None
        instance_id = principal.instance_id
        if not instance_id:
            session = await self.sessions.find(call.account_id, call.region, session_id)
            if session is None:
                raise SessionGone
            instance_id = session.target
        await self.allow_node(call, instance_id, action)
        call.resources.append(session_id)
        return (call.account_id, call.region, instance_id)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = _call({**scope, "method": "GET"})
        call.protocol = "channel"
        match = _CHANNEL.fullmatch(call.request.path)
        key: NodeKey | None = None
        try:
            if match is None:
                raise ApiError("ResourceNotFoundException", "There is no such channel.", 404)
            call.operation = "OpenControlChannel" if match["kind"] == "control" else "OpenDataChannel"
            call.read_only = False
            call.claim = _claim(call)
            if match["kind"] == "control" or call.claim is not None:
                call.principal = await self.authenticator.authenticate(call)
                if match["kind"] == "control":
                    await self.allow_node(call, match["id"], "ssmmessages:OpenControlChannel")
                    key = (call.account_id, call.region, match["id"])
                else:
                    key = await self._session_node(call, match["id"], "ssmmessages:OpenDataChannel")
        except SessionGone as gone:
            await self._refuse_upgrade(
                call, ApiError("ResourceNotFoundException", str(gone), 404), scope, receive, send
            )
            return
        except ApiError as error:
            await self._refuse_upgrade(call, error, scope, receive, send)
            return
        await self.trail.record(call, Answer(101, b""))
        assert match is not None
        if match["kind"] == "control":
            assert key is not None
            await self.hub.control_websocket(scope, receive, send, key)
        else:
            await self.hub.data_websocket(scope, receive, send, match["id"], key)

    async def _refuse_upgrade(self, call: Call, error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
        answer = _refusal(call, error)
        await self.trail.record(call, answer)
        await receive()  # websocket.connect
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": 1008, "reason": error.code})
            return
        await send(
            {
                "type": "websocket.http.response.start",
                "status": answer.status,
                "headers": [(b"content-type", answer.content_type.encode())],
            }
        )
        await send({"type": "websocket.http.response.body", "body": answer.body})


def _preload() -> None:
    for name in ("ssm", "ec2", "sts", "iam", "logs", "kms", "s3", "cloudtrail", "securityhub", "sns", "tagging", "sqs"):
        models.service(name)


_HEARTBEATS = {"UpdateInstanceInformation"}


def moto_call(call: Call, *, changes: bool) -> dict[str, Any]:
    """One call as moto's child takes it and its journal keeps it."""
    assert call.service is not None and call.claim is not None
    return {
        "request_id": call.request_id,
        "now": call.now.timestamp(),
        "seed": os.urandom(32).hex(),
        "account": call.account_id,
        "service": call.service.signing_name,
        "region": call.region,
        "access_key": call.claim.access_key_id,
        "method": call.request.method,
        "path": call.request.path,
        "query": call.request.query,
        # No credential of the caller goes into the journal.
        "headers": [
            (name, value)
            for name, value in call.request.headers
            if name not in {"authorization", "x-amz-security-token", "cookie"}
        ],
        "protocol": call.service.protocol,
        "operation": call.operation,
        "changes": changes,
    }


def _call(scope: Scope) -> Call:
    headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
    path = scope["raw_path"].decode("latin-1").partition("?")[0]
    request = sigv4.Request(scope["method"], path, scope["query_string"].decode("latin-1"), headers)
    client = scope.get("client")
    return Call(request, str(uuid4()), clock.now(), client[0] if client else "")


def _claim(call: Call) -> sigv4.Claim | None:
    try:
        return sigv4.read_claim(call.request)
    except sigv4.SignatureError as error:
        raise identity_error(error.kind, call.protocol, error.message) from None


def _identify(call: Call) -> None:
    """Find the service and protocol from the headers alone. Raises ApiError if the signature cannot be read."""
    if _CHANNEL.fullmatch(call.request.path):
        call.protocol = "channel"
    elif call.request.header("x-amz-target"):
        call.protocol = "json"
    elif (call.request.header("content-type") or "").startswith("application/x-www-form-urlencoded"):
        call.protocol = "query"
    else:
        call.protocol = "rest-xml"
    call.claim = _claim(call)
    if call.claim is None:
        return
    if call.claim.service in _AGENT_SERVICES:
        if call.protocol != "channel":
            call.protocol = _AGENT_SERVICES[call.claim.service]
        return
    call.service = models.service(call.claim.service)
    call.protocol = call.service.protocol


async def _read_body(call: Call, receive: Receive) -> bytes | None:
    """Read the body, with or without a Content-Length; None if the caller went away. Raises ApiError if too large."""
    is_s3 = call.service is not None and call.service.signing_name == "s3"
    limit = settings.LARGEST_S3_REQUEST_BYTES if is_s3 else settings.LARGEST_REQUEST_BYTES
    if call.claim is None and call.protocol != "channel":
        limit = min(limit, 2**20)  # nobody who signs nothing has more to say
    declared = call.request.header("content-length") or "0"
    chunks: list[bytes] = []
    size = 0
    too_large = ApiError(
        "EntityTooLarge" if is_s3 else "RequestEntityTooLargeException",
        f"The request is larger than {limit} bytes.",
        413,
    )
    if declared.isdigit() and int(declared) > limit:
        raise too_large
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise too_large
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)


def _loose_parameters(call: Call) -> dict[str, Any]:
    """The parameters of a call that moto answers, as far as the trail and the policies want to know them."""
    if call.form:
        return {name: value for name, value in call.form.items() if name not in {"Action", "Version"}}
    if call.protocol in {"json", "rest-json"} and len(call.request.body) <= _LARGEST_RECORDED_BYTES:
        try:
            return json11.Codec.decode(call.request.body)
        except ValueError:
            return {}
    return {}


def _json(result: dict[str, Any]) -> Answer:
    return Answer(200, json11.dump(result))


def _refusal(call: Call, error: ApiError) -> Answer:
    status, kind, body = render(error, call.protocol, call.request_id)
    headers = (("x-amzn-errortype", error.code),)
    return Answer(status, body, kind, headers, error.code, error.message)


def _from_moto(call: Call, status: int, headers: list[tuple[str, str]], content: bytes) -> Answer:
    kind = next((value for name, value in headers if name == "content-type"), "application/octet-stream")
    others = tuple((name, value) for name, value in headers if name != "content-type")
    code = message = ""
    if status >= 400:
        code, message = _told_error(status, headers, content)
    return Answer(status, content, kind, others, code, message)


def _told_error(status: int, headers: list[tuple[str, str]], content: bytes) -> tuple[str, str]:
    for name, value in headers:
        if name == "x-amzn-errortype":
            return value, ""
    if match := _ERROR_CODE.search(content):
        message = _ERROR_MESSAGE.search(content)
        return match[1].decode(errors="replace"), message[1].decode(errors="replace") if message else ""
    try:
        body = orjson.loads(content)
        return str(body.get("__type", status)).rpartition("#")[2], str(body.get("message", ""))
    except (ValueError, AttributeError):
        return str(status), ""


async def _send(send: Send, call: Call, answer: Answer) -> None:
    headers = [
        (b"content-type", answer.content_type.encode("latin-1")),
        (b"x-amzn-requestid", call.request_id.encode()),
        (b"date", f"{call.now:%a, %d %b %Y %H:%M:%S} GMT".encode()),
    ]
    names = {name for name, _ in answer.headers}
    headers += [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in answer.headers]
    is_head = call.request.method == "HEAD"
    if "content-length" not in names and not (is_head or answer.status == 204):
        headers.append((b"content-length", str(len(answer.body)).encode()))
    if answer.status == 413:
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if is_head else answer.body})
