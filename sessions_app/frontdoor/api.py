"""/aws/: the part of SSM's API that opens sessions, and GetCallerIdentity, for the unmodified aws CLI.

Signatures are checked on path and Host as they came, so a proxy in front has to pass both on unchanged.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any
from uuid import uuid4

from django.conf import settings
from django.db import DatabaseError

from fleetops.awsapi import json11, models, query, sigv4
from fleetops.awsapi.errors import Answer, ApiError, identity_error, render
from fleetops.clock import now
from fleetops.identity import access_keys
from fleetops.identity.pace import take_call
from fleetops.web.context import RequestContext, current, within

from ..consumers import Receive, Scope, Send, TerminalConsumer
from ..models import TerminalSession
from ..proxy import Proxy
from ..terminals import Ended, Unreachable
from . import operations
from .operations import Caller

logger = logging.getLogger(__name__)

PATHS = frozenset({"/aws", "/aws/"})
_BODY_BYTES = 64 * 1024
_BODY_SECONDS = 10.0
_BEGIN_SECONDS = 40.0  # StartSession itself is given 20, and another session may be in front of it
_LOOK_SECONDS = 0.02
_TARGET = "AmazonSSM."
_SERVICES = {"json": "ssm", "query": "sts"}


class FrontDoor:
    """Answers the API's requests of one terminal process."""

    def __init__(self, consumer: TerminalConsumer) -> None:
        self._terminals = consumer.terminals
        self._codec = json11.Codec()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = str(uuid4())
        address = (scope.get("client") or ("", 0))[0]
        headers = tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"])
        head = sigv4.Request(
            scope["method"], scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1"), headers
        )
        protocol = "json" if head.header("x-amz-target") is not None else "query"
        with within("cli", request_id=request_id, source_address=address) as context:
            try:
                body = await _body(receive)
                if body is None:
                    return  # the caller went away
                request = sigv4.Request(head.method, head.path, head.query, head.headers, body)
                answer = await self._answer(scope, request, protocol, context)
            except ApiError as error:
                answer = render(error, protocol, request_id)
            except DatabaseError:
                logger.warning("the database does not answer the door")
                answer = render(
                    ApiError("ServiceUnavailable", "FleetOps cannot answer now.", 503), protocol, request_id
                )
            except Exception:  # the outermost loop of a request: a bug of ours is AWS's InternalServerError
                logger.exception("a request at the door failed request=%s", request_id)
                text = f"FleetOps met a fault of its own; it is in the log under {request_id}."
                answer = render(ApiError("InternalServerError", text, 500), protocol, request_id)
        await _send(send, answer, request_id)

    async def _answer(self, scope: Scope, request: sigv4.Request, protocol: str, context: RequestContext) -> Answer:
        if request.method != "POST":
            raise ApiError("UnknownOperationException", "FleetOps's door takes POST requests of the aws CLI.", 405)
        caller = await self._in_thread(partial(_identify, request, protocol))
        if protocol == "query":
            return await self._in_thread(partial(_identity, caller, request, context.request_id))
        operation = (request.header("x-amz-target") or "").removeprefix(_TARGET)
        asked = await self._in_thread(partial(self._read, operation, request.body))
        result = await self._do(operation, caller, asked, scope, request)
        return 200, "application/x-amz-json-1.1", json11.dump(result)

    def _read(self, operation: str, body: bytes) -> dict[str, Any]:
        """The request, checked by AWS's own model. Raises ApiError."""
        ssm = models.service("ssm")
        if operation not in ssm.operations:
            raise ApiError("UnknownOperationException", f"There is no operation {operation[:64]}.")
        if operation not in _OFFERED:
            raise ApiError(
                "AccessDeniedException",
                f"This is FleetOps's door for sessions: it does not offer {operation}. For the rest of Systems Manager "
                "use AWS's own endpoint, without --endpoint-url.",
            )
        return self._codec.parse(ssm.operation(operation), body)

    async def _do(
        self, operation: str, caller: Caller, asked: dict[str, Any], scope: Scope, request: sigv4.Request
    ) -> dict[str, Any]:
        match operation:
            case "StartSession":
                session = await self._in_thread(partial(operations.open_session, caller, asked))
                await self._begin(session)
                return await self._stream(caller, session, scope, request)
            case "ResumeSession":
                session = await self._in_thread(partial(operations.resumable, caller, asked["SessionId"]))
                if not session.is_live:
                    return {"SessionId": asked["SessionId"]}  # so the plugin says that it is over, and ends
                return await self._stream(caller, session, scope, request)
            case "TerminateSession":
                await self._in_thread(partial(operations.terminate, caller, asked["SessionId"]))
                return {"SessionId": asked["SessionId"]}
            case "DescribeSessions":
                return await self._in_thread(partial(operations.describe_sessions, caller, asked))
            case "GetConnectionStatus":
                return await self._in_thread(partial(operations.connection_status, caller, asked["Target"]))
            case _:
                return await self._in_thread(partial(operations.describe_instances, caller, asked))

    async def _begin(self, session: TerminalSession) -> None:
        """Have StartSession called where the instance is, so that its refusal is ours. Raises ApiError."""
        try:
            async with asyncio.timeout(_BEGIN_SECONDS):
                owner = await self._terminals.find(session.pk)
                while isinstance(owner, Proxy) and owner.status == "opening" and not owner.is_let_go:
                    await asyncio.sleep(_LOOK_SECONDS)
        except Ended as ended:
            raise _not_begun(ended.session.end_reason) from None
        except Unreachable as error:
            raise _not_begun(str(error)) from None
        except TimeoutError:
            raise _not_begun("The instance does not answer yet; look under Sessions.") from None
        if isinstance(owner, Proxy) and owner.is_over:
            raise _not_begun(owner.end_reason)

    async def _stream(
        self, caller: Caller, session: TerminalSession, scope: Scope, request: sigv4.Request
    ) -> dict[str, Any]:
        word = await self._in_thread(partial(operations.word_for, caller, session))
        scheme = "wss" if scope.get("scheme") in ("https", "wss") else "ws"
        url = f"{scheme}://{request.header('host')}/aws/stream/{session.pk}"
        return {"SessionId": str(session.pk), "TokenValue": word, "StreamUrl": url}

    async def _in_thread(self, work: partial[Any]) -> Any:
        """Run an operation; what it raises is an ApiError, or a fault."""
        try:
            return await self._terminals.threads.database(work)
        except ApiError:
            raise
        except Exception as error:  # what operations can say in AWS's words; all else goes on up
            if (told := operations.in_aws_words(error)) is not None:
                raise told from None
            raise


_OFFERED = frozenset(
    {
        "StartSession",
        "ResumeSession",
        "TerminateSession",
        "DescribeSessions",
        "GetConnectionStatus",
        "DescribeInstanceInformation",
    }
)


def _identify(request: sigv4.Request, protocol: str) -> Caller:
    """Who has signed. Raises ApiError."""
    try:
        claim = sigv4.read_claim(request)
        if claim is None:
            raise sigv4.SignatureError("missing", "The request is not signed: the CLI has no credentials.")
        if claim.service != _SERVICES[protocol]:
            raise sigv4.SignatureError(
                "signature", f"Credential should be scoped to correct service: '{_SERVICES[protocol]}'."
            )
        key, secret = access_keys.find(claim.access_key_id)
        try:
            sigv4.check_time(claim, now())
            sigv4.check_signature(request, claim, secret)
        except sigv4.SignatureError as error:
            access_keys.refused_signature(key, reason=_REFUSED.get(error.kind, "wrong signature"))
            raise
        address = current.get().source_address
        access_keys.let_in(key, address=address)
    except sigv4.SignatureError as error:
        raise identity_error(error.kind, protocol, error.message) from None
    except access_keys.KeyRefused as refused:
        raise identity_error(refused.kind, protocol, str(refused)) from None
    if wait := take_call(f"door-{key.key_id}", settings.API_CALLS_PER_MINUTE):
        raise ApiError("ThrottlingException", f"These were too many calls for one minute; go on in {wait} s.")
    context = current.get()
    context.via, context.user = f"{key.name} ({key.key_id})", str(key.user_id)
    return Caller(key)


_REFUSED = {"skew": "another time than ours", "signature": "wrong signature"}


def _identity(caller: Caller, request: sigv4.Request, request_id: str) -> Answer:
    """sts:GetCallerIdentity, the one operation of STS here."""
    action = query.read_action(query.read_form(request.body, request.query))
    sts = models.service("sts")
    if action not in sts.operations:
        raise ApiError("InvalidAction", f"The action {action} is not valid for this web service.")
    if action != "GetCallerIdentity":
        raise ApiError("AccessDenied", f"FleetOps's door tells who you are; it does not offer {action}.", 403)
    body = query.write(sts.operation(action), operations.identity(caller), request_id, ec2=False)
    return 200, "text/xml", body


def _not_begun(reason: str) -> ApiError:
    return ApiError("TargetNotConnected", reason or "The session ended before it began.")


async def _body(receive: Receive) -> bytes | None:
    """All of a request's body; None if the caller went away. Raises ApiError."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > _BODY_BYTES:
                    raise ApiError("RequestEntityTooLarge", f"A request has at most {_BODY_BYTES} bytes.", 413)
                if not message.get("more_body"):
                    return b"".join(parts)
    except TimeoutError:
        raise ApiError("RequestTimeout", "The request's body did not come.", 408) from None


async def _send(send: Send, answer: Answer, request_id: str) -> None:
    status, content_type, body = answer
    headers = [
        (b"content-type", content_type.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"x-amzn-requestid", request_id.encode()),
        (b"cache-control", b"no-store"),  # an answer may bear a word for a stream
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
