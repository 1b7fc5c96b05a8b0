"""The endpoint's channel half on a real TLS port, for tests: the hub, and around it only the routes that lead to it.

Signatures are the HTTP half's business and tested there; here the access key of a request names the node.
"""

import asyncio
import contextlib
import json
import re
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import uvicorn
from websockets.asyncio.client import ClientConnection, connect

from fleetops import clock
from fleetops.endpoint.ca import ensure_certificates
from fleetops.endpoint.hub import Hub, NodeKey, NotYours, Patience, SessionGone, SessionTask
from fleetops.node.spec import Credentials, NodeSpec
from fleetops.wire import (
    ChannelClosed,
    DataChannel,
    OutputReceived,
    Role,
    open_data_channel_client,
    payloads,
    token_answer,
)
from fleetops.wire.datachannel import SWEEP, State

ACCOUNT, REGION = "111122223333", "eu-west-1"
DOCUMENT = {"schemaVersion": "1.0", "sessionType": "Standard_Stream", "inputs": {}}
QUICK = Patience(opener=1.0, first_dial=3.0, agent_back=5.0, client_back=8.0, completion=1.0, tick=0.05)


def node_key(instance_id: str) -> NodeKey:
    return (ACCOUNT, REGION, instance_id)


def make_spec(home: Path, instance_id: str = "i-0aaaaaaaaaaaaaaaa", hostname: str = "pay-api-eu1a-01") -> NodeSpec:
    return NodeSpec(ACCOUNT, REGION, instance_id, hostname, hostname, str(home / instance_id), packages={"bash": "5.2"})


def key_for(instance_id: str) -> Credentials:
    return Credentials(instance_id, "secret")


@dataclass
class MemoryStore:
    """A Store that remembers what it was told."""

    connected: list[NodeKey] = field(default_factory=list)
    disconnected: list[NodeKey] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)
    ended: dict[str, tuple[str, str]] = field(default_factory=dict)
    kept: list[SessionTask] = field(default_factory=list)
    acks: list[payloads.AgentJobAck] = field(default_factory=list)
    replies: list[payloads.AgentJobReply] = field(default_factory=list)
    refused: int = 0  # so many answers of jobs are not taken, and cost their node its connection

    async def node_connected(self, key: NodeKey, agent_version: str, platform_type: str) -> None:
        self.connected.append(key)

    async def node_disconnected(self, key: NodeKey) -> None:
        self.disconnected.append(key)

    async def session_connected(self, session_id: str) -> None:
        self.sessions.append(session_id)

    async def session_ended(self, session_id: str, status: str, reason: str) -> None:
        assert session_id not in self.ended
        self.ended[session_id] = (status, reason)

    async def job_acknowledged(self, key: NodeKey, ack: payloads.AgentJobAck) -> None:
        self.acks.append(ack)

    async def job_replied(self, key: NodeKey, reply: payloads.AgentJobReply) -> None:
        if self.refused:
            self.refused -= 1
            raise ConnectionError("the store is away")
        self.replies.append(reply)

    async def open_sessions(self) -> list[SessionTask]:
        return self.kept


class Gateway:
    """A hub behind uvicorn, with the flags of the real endpoint."""

    def __init__(self, home: Path, *, store: MemoryStore | None = None, patience: Patience = QUICK, port: int = 0):
        self.store = store or MemoryStore()
        self.home = home
        self.port = port
        self.information: list[dict[str, Any]] = []
        self.denied: set[str] = set()
        self.sweeps: list[asyncio.Task[None]] = []
        self.sockets: list[ClientConnection] = []  # of tests; what they leave open is ended in stop
        self._patience = patience

    async def start(self) -> None:
        ensure_certificates(self.home, "127.0.0.1", clock.now())
        self.hub = Hub(self.store, patience=self._patience)
        await self.hub.start()
        config = uvicorn.Config(
            self._app,
            host="127.0.0.1",
            port=self.port,
            ws="fleetops.batches:BatchedWebSocket",
            ws_per_message_deflate=False,
            ws_max_size=262144,
            http="httptools",
            interface="asgi3",
            proxy_headers=False,
            lifespan="off",
            log_level="error",
            access_log=False,
            timeout_graceful_shutdown=1,
            ssl_certfile=str(self.home / "server.pem"),
            ssl_keyfile=str(self.home / "server.key"),
        )
        self._server = uvicorn.Server(config)
        self._server.install_signal_handlers = lambda: None
        self._serving = asyncio.create_task(self._server._serve())
        while not self._server.started:
            assert not self._serving.done(), self._serving.exception()
            await asyncio.sleep(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]

    async def stop(self) -> None:
        await self.hub.stop()
        for sweep in self.sweeps:
            sweep.cancel()
        for socket in self.sockets:
            socket.transport.abort()
        await asyncio.gather(*[socket.wait_closed() for socket in self.sockets])
        self.sockets.clear()
        self._server.should_exit = True
        await self._serving

    async def connect(self, path: str, *, signer: str = "") -> ClientConnection:
        """Open a websocket; with a `signer` (an instance id) as that node's agent does."""
        headers = {"Authorization": f"AWS4-HMAC-SHA256 Credential={signer}/x"} if signer else {}
        socket = await connect(
            self.url.replace("https", "wss") + path,
            ssl=self.context,
            compression=None,
            max_size=None,
            ping_interval=None,
            additional_headers=headers,
        )
        self.sockets.append(socket)
        return socket

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.home / "ca.pem"))

    async def until_connected(self, instance_id: str, *, seconds: float = 20.0) -> None:
        await eventually(lambda: self.hub.is_connected(node_key(instance_id)), seconds=seconds)

    async def open(
        self,
        instance_id: str = "i-0aaaaaaaaaaaaaaaa",
        *,
        ours: bool = True,
        size: tuple[int, int] = (100, 30),
        kind: "type[Client] | None" = None,
        **changes,
    ) -> Any:
        """Start a session and open the client's end, of the class `kind`."""
        kind = kind or Client
        task = make_task(instance_id, client_is_ours=ours, **changes)
        token = await self.hub.start_session(task)
        client = kind(self, task.session_id, size=size)
        await client.connect(token)
        return client

    async def _app(self, scope, receive, send) -> None:
        headers = dict(scope["headers"])
        signed = re.search(r"Credential=([^/]+)/", headers.get(b"authorization", b"").decode())
        key = node_key(signed[1]) if signed else None
        kind, _, name = scope["path"].removeprefix("/v1/").partition("/")
        if scope["type"] == "websocket":
            if kind == "control-channel":
                await self.hub.control_websocket(scope, receive, send, key)
            else:
                await self.hub.data_websocket(scope, receive, send, name, key)
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        status, answer = await self._post(kind, name, key, body)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": answer.encode()})

    async def _post(self, kind: str, name: str, key: NodeKey, body: bytes) -> tuple[int, str]:
        if key[2] in self.denied:
            return 403, json.dumps({"__type": "AccessDeniedException", "message": "not allowed"})
        if kind == "control-channel":
            return 201, token_answer("CreateControlChannel", await self.hub.create_control_channel(key, "r"))
        if kind == "data-channel":
            try:
                return 201, token_answer("CreateDataChannel", await self.hub.create_data_channel(key, name))
            except SessionGone as error:
                return 400, str(error)
            except NotYours as error:
                return 403, str(error)
        self.information.append(json.loads(body))
        return 200, "{}"


def make_task(instance_id: str, **changes) -> SessionTask:
    values: dict[str, Any] = {
        "session_id": f"admin-{uuid4().hex[:17]}",
        "key": node_key(instance_id),
        "document_name": "SSM-SessionManagerRunShell",
        "document_content": DOCUMENT,
        "parameters": {},
        "run_as_user": "",
        "owner_arn": f"arn:aws:iam::{ACCOUNT}:user/admin",
        "idle_seconds": 0,
        "longest_seconds": 0,
        "client_is_ours": True,
    }
    return SessionTask(**{**values, **changes})


class Client:
    """The client's end of a session: a real channel on a real websocket, reading all the time unless told not to."""

    def __init__(self, gateway: Gateway, session_id: str, *, size: tuple[int, int] = (100, 30)) -> None:
        self.gateway = gateway
        self.session_id = session_id
        self.channel = DataChannel(Role.CLIENT, new_id=uuid4, session_id=session_id)
        self.output = bytearray()
        self.received = 0
        self.frame_sizes: list[int] = []
        self.closed: ChannelClosed | None = None
        self.socket: ClientConnection | None = None
        self._size: tuple[int, int] | None = size
        self._reading: asyncio.Task[None] | None = None
        self._sweeping: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self.keeps_output = True

    async def connect(self, token: str) -> None:
        self.socket = await dial(self.gateway, self.session_id, token)
        self.channel.reconnected(now=clock.steady())
        await self._flush()
        self._reading = asyncio.create_task(self._read())
        if self._sweeping is None:
            self._sweeping = asyncio.create_task(self._sweep())
            self.gateway.sweeps.append(self._sweeping)

    async def resume(self) -> None:
        await self.connect(self.gateway.hub.resume_session(self.session_id))

    async def type(self, text: str) -> None:
        self.channel.send_input(text.encode(), now=clock.steady())
        await self._flush()

    async def see(self, text: str, *, seconds: float = 20.0) -> str:
        """Wait until `text` stands in the output."""
        return (await self._await(lambda: text.encode() in self.output, seconds, text)).decode(errors="replace")

    async def see_end(self, *, seconds: float = 20.0) -> ChannelClosed:
        await self._await(lambda: self.closed is not None, seconds, "the end")
        assert self.closed is not None
        return self.closed

    async def run(self, command: str, *, seconds: float = 20.0) -> str:
        """Type a command and return what it wrote."""
        mark = uuid4().hex[:8]
        self.output.clear()
        # The quotes keep the echo of the command itself from being taken for its output.
        await self.type(f"echo beg''in{mark}; {command}; echo en''d{mark}\r")
        text = await self.see(f"end{mark}", seconds=seconds)
        return text.partition(f"begin{mark}\r\n")[2].partition(f"end{mark}")[0].replace("\r", "")

    def stop_reading(self) -> None:
        assert self._reading is not None
        self._reading.cancel()

    def read_on(self) -> None:
        self._reading = asyncio.create_task(self._read())

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        if self.socket is not None:
            await self.socket.close()

    def abort(self) -> None:
        """Lose the connection without a word."""
        assert self.socket is not None and self._reading is not None
        self._reading.cancel()
        self.socket.transport.abort()

    async def _await(self, condition, seconds: float, what: str) -> bytes:
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(
                f"{what!r} did not come; closed={self.closed} tail={bytes(self.output[-500:])}"
            ) from None
        return bytes(self.output)

    async def _read(self) -> None:
        assert self.socket is not None
        with contextlib.suppress(Exception):
            async for frame in self.socket:
                self.channel.receive(frame, now=clock.steady())
                for event in self.channel.events():
                    self.happened(event)
                if self._size and self.channel.can_send:
                    self.channel.send_size(*self._size, now=clock.steady())
                    self._size = None
                await self._flush()
                self._news.set()

    def happened(self, event: object) -> None:
        match event:
            case OutputReceived(data=data):
                self.received += len(data)
                self.frame_sizes.append(len(data))
                if self.keeps_output:
                    self.output += data
            case ChannelClosed():
                self.closed = event

    async def _sweep(self) -> None:
        """Repeat what the agent does not acknowledge."""
        while True:
            await asyncio.sleep(SWEEP)
            self.channel.handle_timeout(now=clock.steady())
            with contextlib.suppress(Exception):
                await self._flush()

    async def _flush(self) -> None:
        assert self.socket is not None
        for frame in self.channel.data_to_send():
            await self.socket.send(frame)


async def dial(gateway: Gateway, session_id: str, token: str) -> ClientConnection:
    """Open the client's websocket and send its opener."""
    socket = await gateway.connect(f"/v1/data-channel/{session_id}?role=publish_subscribe")
    await socket.send(open_data_channel_client(uuid4(), token, client_id=str(uuid4()), client_version="1.2.999.0"))
    return socket


async def eventually(condition, *, seconds: float = 20.0, what: str = "") -> None:
    """Wait until `condition()` is true."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"it did not come about: {what or condition}") from None


@contextlib.asynccontextmanager
async def running(gateway: Gateway) -> AsyncIterator[Gateway]:
    await gateway.start()
    try:
        yield gateway
    finally:
        await gateway.stop()


def is_open(client: Client) -> bool:
    return client.channel.state is State.OPEN
