"""The endpoint as an ASGI application: one port for AWS's APIs and SSM's channels.

Each request goes the same way: read within a bound → authenticate → authorise → do → record. What is ours (SSM,
ssmmessages, ec2messages, STS, and single operations where moto is wrong) is answered by api/, the rest by moto's child.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import parse_qsl
from uuid import uuid4

from fleetops import clock
from fleetops.awsapi import json11, models, query, rest, s3body, sigv4
from fleetops.awsapi.errors import ApiError, identity_error, not_implemented, render
from fleetops.endpoint import answers, enrolment, faults, regions, resources, settings
from fleetops.endpoint.api import cloudtrail, ec2messages, iam, logs, moto, s3, securityhub, ssmmessages
from fleetops.endpoint.api.ssm import Ssm
from fleetops.endpoint.api.ssm.shared import agent_parameters
from fleetops.endpoint.api.sts import Sts
from fleetops.endpoint.calls import Answer, Call
from fleetops.endpoint.core import Endpoint
from fleetops.endpoint.patch import snapshots
from fleetops.endpoint.patch.node_reading import NodeReading
from fleetops.endpoint.trail import NotRecorded

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_AGENT_SERVICES = {"ssmmessages": "channel", "ec2messages": "json"}  # botocore has no model of them
_EC2_MESSAGES_PREFIX = "EC2WindowsMessageDeliveryService"
_HEARTBEATS = {"UpdateInstanceInformation"}
_CHANGING_NODES = {"ec2", "iam"}  # services in which a change may bear on what a node is
_UNKNOWN_BYTES = 2**20  # of a body, before it is known that its sender exists
_BODY_SECONDS = 30.0  # between two pieces of a body
_XML = "text/xml;charset=UTF-8"


class App:
    """The ASGI entry of one endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._ssm = Ssm(endpoint)
        self._sts = Sts(endpoint)
        endpoint.authorizer.tags_of = partial(resources.tags_of, endpoint)
        endpoint.lists.allow = NodeReading(endpoint).allow
        endpoint.automations.carry_out = self.carry_out

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if self._endpoint.faults is not None and scope["path"].startswith(faults.PATH):
                await self._answer_faults(self._endpoint.faults, scope, receive, send)
            else:
                await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = _call(scope)
        if call.request.method == "GET" and call.request.path.startswith(snapshots.PATH):
            await _send(send, call, await self._download(call))
            return
        try:
            _identify(call)
            if _may_be_large(call) and not enrolment.is_node_claim(call):
                await self._endpoint.authenticator.check_known(call)
            body = await _read_body(call, receive)
            if body is None:
                return  # the caller went away
            call.request = sigv4.Request(
                call.request.method, call.request.path, call.request.query, call.request.headers, body
            )
        except ApiError as error:
            answer = await self._recorded(call, _refusal(call, error))
        except Exception:  # the outermost loop of a request's reading
            answer = await self._recorded(call, _bug(call))
        else:
            try:
                answer = await self.carry_out(call)
            except faults.Dropped:
                await _drop(scope, receive)
                return
        if call.is_dropped:
            await _drop(scope, receive)
        else:
            await _send(send, call, answer)

    async def carry_out(self, call: Call) -> Answer:
        """Answer a call that has been read: authenticate, authorise, do, record. Raises Dropped.

        One that a service of ours makes has its principal already; all else is the same for it.
        """
        try:
            answer = await self._answer(call)
            answers.hold_answer(call, answer)
        except ApiError as error:
            answer = _refusal(call, error)
        except faults.Dropped:
            raise
        except Exception:  # the outermost loop of a request
            answer = _bug(call)
        return await self._recorded(call, answer)

    async def _recorded(self, call: Call, answer: Answer) -> Answer:
        """The answer, once its event is recorded; a refusal if it cannot be."""
        try:
            await self._record(call, answer)
        except ApiError as error:
            return _refusal(call, error)
        return answer

    async def _download(self, call: Call) -> Answer:
        """A snapshot of a patch baseline: its URL proves the caller, as a presigned one of S3 does."""
        call.protocol = "rest-xml"
        try:
            content = await self._endpoint.snapshots.download(call.request.path, call.request.query, call.now)
        except ApiError as error:
            return _refusal(call, error)
        return Answer(200, content, "application/json")

    async def _answer_faults(self, rules: faults.Faults, scope: Scope, receive: Receive, send: Send) -> None:
        call = _call(scope)
        try:
            body = await _read_body(call, receive)
        except ApiError as error:
            await _send(send, call, _refusal(call, error))
            return
        if body is not None:
            authorization = call.request.header("authorization") or ""
            status, content = rules.answer(call.request.method, call.request.path, authorization, body)
            await _send(send, call, Answer(status, content, "application/json"))

    async def _record(self, call: Call, answer: Answer) -> None:
        """Append the request's event. Raises ApiError: what is not recorded is not answered."""
        try:
            await self._endpoint.trail.record(call, answer)
        except NotRecorded:
            raise ApiError(
                "ServiceUnavailable", "The request could not be recorded, though it may have been carried out.", 503
            ) from None

    async def _answer(self, call: Call) -> Answer:
        match = ssmmessages.PATH.fullmatch(call.request.path)
        if match is not None:
            call.protocol = "channel"
            call.operation = "CreateControlChannel" if match["kind"] == "control" else "CreateDataChannel"
            call.read_only = False
            await self._authenticate(call)
            return await ssmmessages.create_channel(self._endpoint, call, match["kind"], match["id"])
        if call.request.header("x-amz-target") == f"AmazonSSM.{enrolment.REGISTER}" and call.claim is None:
            return await self._register(call)
        self._find_operation(call)
        if enrolment.is_node_claim(call):
            return await self._answer_node(call)
        await self._authenticate(call)
        self._refuse_unrecorded(call)
        assert call.claim is not None
        if call.claim.service == "ec2messages":
            return _json(await ec2messages.handle(self._endpoint, call))
        if call.service is None:
            raise not_implemented(f"the service {call.claim.service}")
        if call.service.signing_name == "ssm":
            return _own_json(call, await self._ssm.handle(call))
        if call.service.protocol in {"query", "ec2"} and call.operation not in call.service.operations:
            raise ApiError("InvalidAction", f"The action {call.operation} is not valid for this web service.", 400)
        if call.service.signing_name == "sts":
            operation = call.service.operation(call.operation)
            call.parameters = parameters = query.parse(operation, call.form, ec2=False)
            result = await self._sts.handle(call, parameters)
            return Answer(200, query.write(operation, result, call.request_id, ec2=False), _XML)
        if call.service.signing_name == "iam" and call.operation in iam.OPERATIONS:
            operation = call.service.operation(call.operation)
            call.parameters = parameters = query.parse(operation, call.form, ec2=False)
            result = await iam.handle(self._endpoint, call, parameters)
            return Answer(200, query.write(operation, result, call.request_id, ec2=False), _XML)
        return await self._answer_from_moto(call)

    async def _register(self, call: Call) -> Answer:
        """The one call that nobody signs: the activation's code alone proves it."""
        call.operation, call.read_only = enrolment.REGISTER, False
        call.service = models.service("ssm")
        call.parameters = parameters = agent_parameters(call.request.body)
        if self._endpoint.faults is not None:
            await self._endpoint.faults.meet(call)
        self._refuse_unrecorded(call)
        return _json(await self._endpoint.enrolment.register(call, parameters))

    async def _answer_node(self, call: Call) -> Answer:
        """The two calls that a hybrid node signs with its own key; for any other it has temporary credentials."""
        if call.service is None or call.operation not in enrolment.WITH_NODE_KEY:
            raise identity_error("unknown_key", call.protocol, "The security token included in the request is invalid.")
        call.read_only = call.operation == "RequestManagedInstanceRoleToken"
        node = self._endpoint.enrolment.authenticate(call)
        if self._endpoint.faults is not None:
            await self._endpoint.faults.meet(call)
        call.parameters = parameters = agent_parameters(call.request.body)
        if call.read_only:
            return _json(await self._endpoint.enrolment.role_token(node, call, parameters))
        self._refuse_unrecorded(call)
        return _json(await self._endpoint.enrolment.new_key(node, call, parameters))

    def _refuse_unrecorded(self, call: Call) -> None:
        """Return if what a request changes can be written down. Raises ApiError."""
        if self._endpoint.trail.is_failing and not call.read_only and not call.is_heartbeat:
            raise ApiError("ServiceUnavailable", "Nothing was changed: the endpoint cannot record the request.", 503)

    async def _authenticate(self, call: Call) -> None:
        """Find who calls; a fault that is asked for strikes here. Raises ApiError or Dropped."""
        if call.behalf is None:
            call.principal = await self._endpoint.authenticator.authenticate(call)
        if self._endpoint.faults is not None:
            await self._endpoint.faults.meet(call)

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
            host = call.request.header("host") or ""
            call.resource_path = rest.resource_path(call.request.path, host, is_s3=service.signing_name == "s3")
            call.operation = service.match_rest(call.request.method, call.resource_path, fields, names)
            # What it is called decides nothing alone: an unsafe method may change something, and is journalled.
            call.read_only = service.is_read(call.operation) and (
                call.request.method in {"GET", "HEAD"} or service.protocol == "rest-json"
            )

    async def _answer_from_moto(self, call: Call) -> Answer:
        assert call.service is not None
        endpoint = self._endpoint
        call.parameters = parameters = moto.checked_parameters(call)
        service = call.service.signing_name
        await resources.allow(endpoint, call)
        if service == "s3":
            s3body.check_digests(call.request.headers, call.request.body)
        if service == "cloudtrail" and call.operation == "LookupEvents":
            return _own_json(call, await cloudtrail.lookup_events(call, endpoint.reader))
        if service == "ec2" and call.operation == "DescribeRegions":
            return Answer(200, regions.describe_regions(call.form, call.request_id), _XML)
        if service == "ec2" and call.operation == "DescribeInstances":
            header, content = await endpoint.moto.ask(
                {
                    "ask": "instances",
                    "account": call.account_id,
                    "region": call.region,
                    "form": call.form,
                    "request_id": call.request_id,
                }
            )
            return moto.answer(header["status"], [("content-type", _XML)], content)
        if service == "s3":
            return await s3.answer(endpoint, call)
        if service == "logs" and call.operation in logs.OPERATIONS:
            return _own_json(call, await logs.handle(endpoint, call, parameters))
        if service == "securityhub" and call.operation in securityhub.OPERATIONS:
            return replace(
                _own_json(call, await securityhub.handle(endpoint, call, parameters)), content_type="application/json"
            )
        question, body = moto.question(call, changes=not call.read_only)
        header, content = await endpoint.moto.ask({"ask": "call", "call": question}, body)
        if service == "logs":
            made = moto.answer(header["status"], header["headers"], content)
            return await logs.after(endpoint, call, parameters, made)
        if not call.read_only:
            if service == "iam":
                endpoint.identities.forget()
            if service in _CHANGING_NODES and endpoint.on_change is not None and header["status"] < 400:
                try:
                    await endpoint.on_change(call.account_id, call.region if service == "ec2" else "")
                except ApiError as error:
                    # The change is done, and its answer stands; the fleet looks again by itself.
                    logger.warning("nodes not told of a change operation=%s reason=%s", call.operation, error)
        return moto.answer(header["status"], header["headers"], content)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = _call({**scope, "method": "GET"})
        call.protocol = "channel"
        match = ssmmessages.PATH.fullmatch(call.request.path)
        try:
            if match is None:
                raise ApiError("ResourceNotFoundException", "There is no such channel.", 404)
            call.operation = "OpenControlChannel" if match["kind"] == "control" else "OpenDataChannel"
            call.read_only = False
            call.claim = _claim(call)
            node = await ssmmessages.open_channel(self._endpoint, call, match["kind"], match["id"])
            await self._record(call, Answer(101, b""))
        except ApiError as error:
            await self._refuse_upgrade(call, error, scope, receive, send)
            return
        if match["kind"] == "data":
            await self._endpoint.hub.data_websocket(scope, receive, send, match["id"], node)
        elif node is not None:
            await self._endpoint.hub.control_websocket(scope, receive, send, node)

    async def _refuse_upgrade(self, call: Call, error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
        answer = _refusal(call, error)
        with contextlib.suppress(ApiError):
            await self._record(call, answer)
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
    if ssmmessages.PATH.fullmatch(call.request.path):
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
    if call.claim.service in models.OFFERED:
        call.service = models.service(call.claim.service)
        call.protocol = call.service.protocol
    elif call.protocol == "rest-xml":
        call.protocol = "rest-json"  # but for S3 no service that is left speaks XML without a form


def _may_be_large(call: Call) -> bool:
    """Whether the body is more than anybody at all may send; see `_read_body`."""
    declared = call.request.header("content-length") or "0"
    chunked = call.request.header("transfer-encoding") is not None
    return chunked or not declared.isdigit() or int(declared) > _UNKNOWN_BYTES


async def _read_body(call: Call, receive: Receive) -> bytes | None:
    """Read the body, with or without a Content-Length; None if the caller went away. Raises ApiError if too large."""
    is_s3 = call.service is not None and call.service.signing_name == "s3"
    limit = settings.LARGEST_S3_REQUEST_BYTES if is_s3 else settings.LARGEST_REQUEST_BYTES
    if (call.claim is None and call.protocol != "channel") or enrolment.is_node_claim(call):
        limit = min(limit, _UNKNOWN_BYTES)
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
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                message = await receive()
        except TimeoutError:
            raise ApiError("RequestTimeout", "The rest of the request did not come in time.", 408) from None
        if message["type"] == "http.disconnect":
            return None
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise too_large
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)


async def _drop(scope: Scope, receive: Receive) -> None:
    """Lose the caller's connection; the server goes on when it has noticed."""
    scope["fleetops.abort"]()
    while (await receive())["type"] != "http.disconnect":
        pass


def _json(result: dict[str, Any]) -> Answer:
    return Answer(200, json11.dump(result))


def _own_json(call: Call, result: dict[str, Any]) -> Answer:
    """A result of ours, held to its model; what only agents call has none."""
    if call.service is not None and call.operation in call.service.operations:
        answers.hold_result(call.service.operation(call.operation), result)
    return Answer(200, json11.dump(result), is_held=True)


def _bug(call: Call) -> Answer:
    """A bug of ours, which is being handled: AWS's InternalFailure to the caller."""
    logger.exception("request failed operation=%s request=%s", call.operation, call.request_id)
    return _refusal(call, ApiError("InternalFailure", "The request failed within the endpoint.", 500))


def _refusal(call: Call, error: ApiError) -> Answer:
    status, kind, body = render(error, call.protocol, call.request_id)
    headers = (("x-amzn-errortype", error.code),)
    return Answer(status, body, kind, headers, error.code, error.message)


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
        length = answer.reader.length if answer.reader is not None else len(answer.body)
        headers.append((b"content-length", str(length).encode()))
    if answer.status in {408, 413}:
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    if answer.reader is not None:
        # The server holds the next piece back while the caller does not read.
        pieces = answer.reader.pieces()
        try:
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        finally:
            answer.reader.close()
    await send({"type": "http.response.body", "body": b"" if is_head else answer.body})
