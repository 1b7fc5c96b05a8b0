"""The calls that an agent makes, signed with its role's credentials.

Source: amazon-ssm-agent, agent/session/service/service.go and agent/ssm/service.go.
"""

import asyncio
import contextlib
import http.client
import json
import random
import ssl
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import quote, urlsplit
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
        await self.call("ssm", "AmazonSSM.UpdateInstanceInformation", body)

    async def call(self, service: str, target: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """An operation of a service that speaks AWS's JSON; `target` as in X-Amz-Target. Raises CallFailed."""
        headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": target}
        answer = await self._post("/", service, json.dumps(body).encode(), headers, wanted=200)
        try:
            value = json.loads(answer or "{}")
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise CallFailed(f"{target} did not answer with a JSON object")
        return value

    async def call_anonymously(self, target: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """An operation of SSM that nobody signs. Raises CallFailed."""
        return await self._call_alone(target, body, None)

    async def call_with_key(
        self, target: str, body: Mapping[str, Any], signer: botocore.auth.SigV4Auth
    ) -> dict[str, Any]:
        """An operation of SSM that the machine's own key signs; as the real agent does, its body goes in chunks."""
        return await self._call_alone(target, body, signer)

    async def _call_alone(
        self, target: str, body: Mapping[str, Any], signer: botocore.auth.SigV4Auth | None
    ) -> dict[str, Any]:
        url = f"{self._base}/"
        payload = json.dumps(body).encode()
        headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": target}
        chunks: bytes | Iterator[bytes] = payload
        if signer is not None:
            request = AWSRequest("POST", url, data=payload, headers={"Host": urlsplit(url).netloc, **headers})
            clock.sign_by_this(botocore.auth)
            signer.add_auth(request)
            headers = {name: str(value) for name, value in request.headers.items()}
            headers |= {"X-Amz-Content-Sha256": sha256(payload).hexdigest(), "Transfer-Encoding": "chunked"}
            chunks = iter([payload])
        status, answer = await asyncio.to_thread(self._send, url, chunks, headers)
        if status != 200:
            raise CallRefused(status, answer)
        try:
            return dict(json.loads(answer))
        except (ValueError, TypeError):
            raise CallFailed(f"{target} did not answer with a JSON object") from None

    async def put_object(self, bucket: str, key: str, path: Path) -> None:
        """Upload a file to S3. Raises CallFailed."""
        await asyncio.to_thread(self._put_object, self._object_url(bucket, key), path)

    async def get_object(self, bucket: str, key: str, path: Path, *, limit: int) -> None:
        """Download an object of at most `limit` bytes into a file. Raises CallFailed."""
        await asyncio.to_thread(self._get_object, self._object_url(bucket, key), path, limit)

    def _object_url(self, bucket: str, key: str) -> str:
        return f"{self._base}/{bucket}/{quote(key, safe='/~')}"

    def _put_object(self, url: str, path: Path) -> None:
        with path.open("rb") as file:
            signed = self._sign("PUT", url, "s3", file, {"Content-Length": str(path.stat().st_size)})
            file.seek(0)
            with self._talking("PUT", url, file, signed) as response:
                if response.status != 200:
                    raise CallRefused(response.status, response.read(_MAX_ANSWER).decode(errors="replace"))

    def _get_object(self, url: str, path: Path, limit: int) -> None:
        with self._talking("GET", url, None, self._sign("GET", url, "s3", b"", {})) as response:
            if response.status != 200:
                raise CallRefused(response.status, response.read(_MAX_ANSWER).decode(errors="replace"))
            with path.open("wb") as file:
                while chunk := response.read(64 * 1024):
                    if file.tell() + len(chunk) > limit:
                        raise CallFailed(f"the object has more than {limit} bytes")
                    file.write(chunk)

    @contextlib.contextmanager
    def _talking(
        self, method: str, url: str, body: IO[bytes] | bytes | Iterator[bytes] | None, headers: Mapping[str, str]
    ) -> Iterator[http.client.HTTPResponse]:
        """One request on a connection of its own, in a thread. Raises CallFailed."""
        parts = urlsplit(url)
        connection = http.client.HTTPSConnection(
            parts.hostname or "", parts.port, timeout=CALL_SECONDS, context=self._context
        )
        try:
            named = {**headers, "User-Agent": _USER_AGENT}
            # The library cuts a body into chunks only if the caller has not said that it is cut already.
            connection.request(
                method, parts.path, body=body, headers=named, encode_chunked="Transfer-Encoding" in named
            )
            yield connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise CallFailed(f"{self._base} cannot be reached: {error}") from None
        finally:
            connection.close()

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
        status, answer = await asyncio.to_thread(self._send, url, body, signed)
        if status != wanted:
            raise CallRefused(status, answer)
        return answer

    def _send(self, url: str, body: bytes | Iterator[bytes], headers: Mapping[str, str]) -> tuple[int, str]:
        with self._talking("POST", url, body, headers) as response:
            return response.status, response.read(_MAX_ANSWER).decode(errors="replace")

    def _sign(
        self, method: str, url: str, service: str, body: bytes | IO[bytes], headers: Mapping[str, str]
    ) -> dict[str, str]:
        if self.credentials is None:
            raise CallFailed("the node has no credentials")
        key = self.credentials
        request = AWSRequest(method, url, data=body, headers={"Host": urlsplit(url).netloc, **headers})
        signing_key = SigningKey(key.access_key_id, key.secret_access_key, key.session_token or None)
        clock.sign_by_this(botocore.auth)
        signer = botocore.auth.S3SigV4Auth if service == "s3" else botocore.auth.SigV4Auth
        signer(signing_key, service, self._spec.region).add_auth(request)
        return {name: str(value) for name, value in request.headers.items()}


def answer_says(error: CallFailed, text: str) -> bool:
    """Whether the endpoint's refusal holds `text`."""
    return isinstance(error, CallRefused) and text in error.body
