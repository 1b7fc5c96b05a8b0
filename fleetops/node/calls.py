"""The calls that an agent makes, signed with its role's credentials.

Source: amazon-ssm-agent, agent/session/service/service.go and agent/ssm/service.go.
"""

import asyncio
import http.client
import json
import random
import ssl
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlsplit
from uuid import uuid4

import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as SigningKey

from fleetops import clock
from fleetops.wire import RemoteProtocolError, parse_token_answer
from fleetops.wire.payloads import CreateChannel

from .spec import Credentials, NodeSpec, Options
from .websocket import Socket, open_websocket

CALL_SECONDS: Final = 15.0
AGENT_NAME: Final = "amazon-ssm-agent"  # the only name that SSM's API takes
_USER_AGENT: Final = "fleetops-node"
_MAX_ANSWER: Final = 256 * 1024  # bytes


class CallFailed(Exception):
    """The endpoint could not be reached, or did not answer as it should."""


class CallRefused(CallFailed):
    """The endpoint answered with an error. `body` holds its words."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"status {status}: {body[:300]}")
        self.status = status
        self.body = body


class Retry:
    """The delays before the tries that follow a failure: random at first, then doubling up to a cap, in seconds."""

    def __init__(self, first: tuple[float, float], cap: float, *, jitter: float = 0.0, scale: float = 1.0) -> None:
        self._first = first
        self._cap = cap
        self._jitter = jitter
        self._scale = scale
        self._delay = 0.0

    def next(self) -> float:
        self._delay = min(self._cap, self._delay * 2 if self._delay else random.uniform(*self._first))
        return self._delay * (1 + random.uniform(0, self._jitter)) * self._scale

    def reset(self) -> None:
        self._delay = 0.0


class Endpoint:
    """One node's view of the endpoint."""

    def __init__(self, spec: NodeSpec, options: Options, context: ssl.SSLContext) -> None:
        self._spec = spec
        self._base = options.endpoint.rstrip("/")
        self._context = context
        self.credentials: Credentials | None = None

    async def update_information(self, **fields: str) -> None:
        """UpdateInstanceInformation, with AgentName, AgentVersion, InstanceId, PlatformType and `fields`."""
        body = {
            "AgentName": AGENT_NAME,
            "AgentVersion": self._spec.agent_version,
            "InstanceId": self._spec.instance_id,
            "PlatformType": self._spec.platform_type,
            **fields,
        }
        headers = {
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": "AmazonSSM.UpdateInstanceInformation",
        }
        await self._post("/", "ssm", json.dumps(body).encode(), headers, wanted=200)

    async def create_channel(self, kind: str, name: str) -> str:
        """Return the token of a new "control-channel" (of the node `name`) or "data-channel" (of that session)."""
        client_id = "" if kind == "data-channel" else None
        body = CreateChannel(str(uuid4()), client_id).serialize()
        headers = {"Content-Type": "application/json"}
        answer = await self._post(f"/v1/{kind}/{name}", "ssmmessages", body, headers, wanted=201)
        try:
            return parse_token_answer(answer)
        except RemoteProtocolError as error:
            raise CallFailed(str(error)) from None

    async def open_channel(self, path_and_query: str, on_message: Callable[[bytes], None]) -> Socket:
        """Open a signed websocket. Raises CallFailed."""
        url = self._base + path_and_query
        headers = self._sign("GET", url, "ssmmessages", b"", {})
        try:
            return await open_websocket("wss" + url.removeprefix("https"), headers, self._context, on_message)
        except OSError as error:
            raise CallFailed(f"the websocket did not open: {error}") from None

    async def _post(self, path: str, service: str, body: bytes, headers: Mapping[str, str], *, wanted: int) -> str:
        url = self._base + path
        signed = self._sign("POST", url, service, body, headers)
        try:
            status, answer = await asyncio.to_thread(self._send, url, body, {**signed, "User-Agent": _USER_AGENT})
        except (OSError, http.client.HTTPException) as error:
            raise CallFailed(f"{self._base} cannot be reached: {error}") from None
        if status != wanted:
            raise CallRefused(status, answer)
        return answer

    def _send(self, url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, str]:
        parts = urlsplit(url)
        connection = http.client.HTTPSConnection(
            parts.hostname or "", parts.port, timeout=CALL_SECONDS, context=self._context
        )
        try:
            connection.request("POST", parts.path, body=body, headers=dict(headers))
            response = connection.getresponse()
            return response.status, response.read(_MAX_ANSWER).decode(errors="replace")
        finally:
            connection.close()

    def _sign(self, method: str, url: str, service: str, body: bytes, headers: Mapping[str, str]) -> dict[str, str]:
        if self.credentials is None:
            raise CallFailed("the node has no credentials")
        key = self.credentials
        request = AWSRequest(method, url, data=body, headers={"Host": urlsplit(url).netloc, **headers})
        signing_key = SigningKey(key.access_key_id, key.secret_access_key, key.session_token or None)
        clock.sign_by_this(botocore.auth)
        botocore.auth.SigV4Auth(signing_key, service, self._spec.region).add_auth(request)
        return {name: str(value) for name, value in request.headers.items()}


def answer_says(error: CallFailed, text: str) -> bool:
    """Whether the endpoint's refusal holds `text`."""
    return isinstance(error, CallRefused) and text in error.body
