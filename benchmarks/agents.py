"""Simulated nodes and clients for benchmarks/endpoint.py: one process of many of them, over real TLS sockets.

Run by it as `python -m benchmarks.agents '{...}'`; takes one JSON order a line, and answers each with a line. A node
does what the real agent does: it reports, asks for its channel on the same connection, opens it with a signed upgrade,
pings it, takes jobs and answers them in four messages, and dials back for sessions. Its shell echoes, and streams when
it is asked to.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import ssl
import sys
import time
from collections import deque
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import uvloop
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from websockets.frames import apply_mask

from fleetops import clock
from fleetops.endpoint.calls import Principal
from fleetops.endpoint.credentials import TokenVault
from fleetops.messages import join, split
from fleetops.wire import (
    JobReceived,
    JobReplyAcknowledged,
    MessageType,
    PayloadType,
    SessionRequested,
    open_control_channel,
    open_data_channel_agent,
    open_data_channel_client,
    parse_token_answer,
    payloads,
)
from fleetops.wire.controlchannel import ControlChannel, ControlRole
from fleetops.wire.frames import PAYLOAD_OFFSET, milliseconds, pack, peek, to_wire_id

REGION = "eu-west-1"
INFORMATION = {
    "AgentName": "amazon-ssm-agent",
    "AgentVersion": "3.3.987.0",
    "PlatformType": "Linux",
    "PlatformName": "Ubuntu",
    "PlatformVersion": "24.04",
    "ComputerName": "simulated.internal",
    "IPAddress": "10.0.0.1",
}
CHUNK = b"." * 16_384  # of a stream
WINDOW = 16  # frames of a stream that are not acknowledged
PINGS, PONGS = 9, 10


def instance_id(number: int) -> str:
    return f"mi-{number:017x}"


class Link(asyncio.Protocol):
    """One TLS connection: HTTP requests one after another, and a websocket after an upgrade."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.answer: asyncio.Future[tuple[int, bytes]] | None = None
        self.is_websocket = False
        self.on_messages: Any = None  # called with the messages of one read
        self.pong: asyncio.Future[None] | None = None
        self.is_lost = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        for waiting in (self.answer, self.pong):
            if waiting is not None and not waiting.done():
                waiting.set_exception(ConnectionResetError("the connection is lost"))

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.is_websocket:
            self._read_answer()
        if self.is_websocket:
            self._read_messages()

    def _read_answer(self) -> None:
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0 or self.answer is None or self.answer.done():
            return
        head = bytes(self.buffer[:end]).decode("latin-1").split("\r\n")
        status, length = int(head[0].split()[1]), 0
        for line in head[1:]:
            name, _, value = line.partition(":")
            if name.lower() == "content-length":
                length = int(value)
        if len(self.buffer) < end + 4 + length:
            return
        body = bytes(self.buffer[end + 4 : end + 4 + length])
        del self.buffer[: end + 4 + length]
        self.is_websocket = status == 101
        self.answer.set_result((status, body))

    def _read_messages(self) -> None:
        while True:
            messages, position = split(bytes(self.buffer), masked=False)
            del self.buffer[:position]
            if messages and self.on_messages is not None:
                self.on_messages(messages)
            if len(self.buffer) < 2 or len(self.buffer) < 2 + (self.buffer[1] & 0x7F) or self.buffer[1] & 0x7F > 125:
                return
            kind, size = self.buffer[0] & 0x0F, self.buffer[1] & 0x7F
            if kind == 2:
                return  # the rest of a message is to come
            payload = bytes(self.buffer[2 : 2 + size])
            del self.buffer[: 2 + size]
            if kind == PINGS:
                self.send_frame(PONGS, payload)
            elif kind == PONGS and self.pong is not None and not self.pong.done():
                self.pong.set_result(None)
            elif kind == 8:
                self.transport.close()
                return

    def send_frame(self, kind: int, payload: bytes) -> None:
        mask = os.urandom(4)
        size = len(payload)
        head = bytes([0x80 | kind, 0x80 | size]) if size < 126 else bytes([0x80 | kind, 0xFE, size >> 8, size & 255])
        self.transport.write(head + mask + apply_mask(payload, mask))

    def send(self, frames: list[bytes]) -> None:
        self.transport.write(join(frames, masked=True))

    async def ask(self, head: str, body: bytes) -> tuple[int, bytes]:
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(head.encode() + body)
        return await self.answer


class World:
    """What all nodes of this process share."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.port: int = order["port"]
        self.host = f"127.0.0.1:{self.port}"
        self.source: str = order["source"]
        self.context = ssl.create_default_context(cafile=order["ca_file"])
        self.account: str = order["account"]
        self.role_id: str = order["role_id"]
        self.vault = TokenVault(bytes.fromhex(order["token_key"]))
        self.nodes: list[Node] = []
        self.clients: list[Client] = []
        self.done = asyncio.Event()
        self.wanted = self.answered = 0

    async def link(self) -> Link:
        loop = asyncio.get_running_loop()
        local = (self.source, 0) if sys.platform == "linux" else None
        _, link = await loop.create_connection(
            Link, "127.0.0.1", self.port, ssl=self.context, server_hostname="127.0.0.1", local_addr=local
        )
        return link

    def credentials(self, name: str) -> Credentials:
        principal = Principal(
            kind="node",
            account_id=self.account,
            arn=f"arn:aws:sts::{self.account}:assumed-role/ssm-core/{name}",
            user_id=f"{self.role_id}:{name}",
            name="ssm-core",
            access_key_id="",
            session_name=name,
            role_arn=f"arn:aws:iam::{self.account}:role/ssm-core",
            node=(self.account, REGION, name),
        )
        made = self.vault.issue(principal, timedelta(hours=1), clock.now())
        return Credentials(made.access_key_id, made.secret_access_key, made.session_token)


class Node:
    """One simulated node."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.name = instance_id(number)
        self.credentials = world.credentials(self.name)
        self.control: Link | None = None
        self.http: Link | None = None
        self.channel = ControlChannel(ControlRole.AGENT, new_id=uuid4)
        self.final: UUID | None = None  # the last answer to a job

    def _head(self, method: str, path: str, body: bytes, headers: dict[str, str], service: str) -> str:
        signing = AWSRequest(method, f"https://{self.world.host}{path}", data=body, headers={"Host": self.world.host})
        for name, value in headers.items():
            if name.startswith(("Content-Type", "X-Amz")):
                signing.headers[name] = value
        SigV4Auth(self.credentials, service, REGION).add_auth(signing)
        lines = {**headers, **dict(signing.headers), "Content-Length": str(len(body))}
        return f"{method} {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n"

    async def post(self, link: Link, path: str, body: dict[str, Any], target: str = "") -> bytes:
        content = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if target:
            headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": target}
        head = self._head("POST", path, content, headers, "ssm" if target else "ssmmessages")
        status, answer = await link.ask(head, content)
        if status not in (200, 201):
            raise RuntimeError(f"{path}: {status} {answer[:200]!r}")
        return answer

    async def report(self, link: Link) -> None:
        await self.post(link, "/", {"InstanceId": self.name, **INFORMATION}, "AmazonSSM.UpdateInstanceInformation")

    async def channel_token(self, link: Link, path: str) -> str:
        body = {"MessageSchemaVersion": "1.0", "RequestId": str(uuid4())}
        return parse_token_answer((await self.post(link, path, body)).decode())

    async def upgrade(self, path: str, opener: str) -> Link:
        link = await self.world.link()
        headers = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        }
        status, body = await link.ask(self._head("GET", path, b"", headers, "ssmmessages"), b"")
        if status != 101:
            raise RuntimeError(f"{path}: {status} {body[:200]!r}")
        link.send_frame(1, opener.encode())
        return link

    async def connect(self) -> None:
        """Report and open the control channel; the connection of the calls ends, as the agent's does after a while."""
        link = await self.world.link()
        await self.report(link)
        path = f"/v1/control-channel/{self.name}"
        token = await self.channel_token(link, path)
        link.transport.close()
        self.control = await self.upgrade(path, open_control_channel(uuid4(), token, agent_version="3.3.987.0"))
        self.control.on_messages = self.on_control

    async def heartbeat(self, *, fresh: bool) -> None:
        if fresh:
            link = await self.world.link()
            await self.report(link)
            link.transport.close()
        else:
            if self.http is None or self.http.is_lost:
                self.http = await self.world.link()
            await self.report(self.http)

    async def ping(self) -> None:
        assert self.control is not None
        self.control.pong = asyncio.get_running_loop().create_future()
        self.control.send_frame(PINGS, b"keepalive")
        await self.control.pong

    def on_control(self, frames: list[bytes]) -> None:
        now = clock.steady()
        for frame in frames:
            self.channel.receive(frame, now=now)
        for event in self.channel.events():
            match event:
                case JobReceived():
                    self.answer_job(event, now)
                case JobReplyAcknowledged(message_id=message_id) if message_id == self.final:
                    self.world.answered += 1
                    if self.world.answered == self.world.wanted:
                        self.world.done.set()
                case SessionRequested(task=task):
                    spawn(Shell(self, task.session_id).open())
        if out := self.channel.data_to_send():
            assert self.control is not None
            self.control.send(out)

    def answer_job(self, event: JobReceived, now: float) -> None:
        """Take it, say that it runs, give its step's result, and then the end: as the real agent does."""
        self.channel.acknowledge_job(event, now=now)
        at = payloads.iso_time(milliseconds(now))
        output = f"{self.name}\n" * 3
        step = payloads.StepResult("Success", 0, "aws:runShellScript", output, at, at, standard_output=output)
        steps = {"aws:runShellScript": step}
        for status, results in (("InProgress", None), ("InProgress", steps), ("Success", steps)):
            content = payloads.ReplyContent(status, at, status_counts=None, runtime_status=results)
            reply = payloads.AgentJobReply(event.job.job_id, content.serialize(), "aws.ssm.sendCommand")
            self.final = self.channel.reply_job(reply, now=now)


class End:
    """One end of a data channel: numbers, acknowledges, and frames of its own kind."""

    sends: str
    hears: str

    def __init__(self) -> None:
        self.link: Link | None = None
        self.sequence = 0

    def attach(self, link: Link) -> None:
        self.link = link
        link.on_messages = self.on_messages

    def frame(self, payload: bytes) -> bytes:
        now = milliseconds(clock.steady())
        made = pack(self.sends, now, self.sequence, 0, to_wire_id(uuid4()), PayloadType.OUTPUT, payload)
        self.sequence += 1
        return made

    def on_messages(self, frames: list[bytes]) -> None:
        out: list[bytes] = []
        now = milliseconds(clock.steady())
        for frame in frames:
            kind, _, sequence, _ = peek(frame)
            if kind == MessageType.ACKNOWLEDGE:
                out += self.acknowledged()
            elif kind == self.hears:
                content = payloads.acknowledge_wire_id(kind, frame[64:80], sequence)  # its id as it stands there
                out.append(pack(MessageType.ACKNOWLEDGE, now, 0, 3, to_wire_id(uuid4()), 0, content))
                out += self.heard(frame[PAYLOAD_OFFSET:])
        if out and self.link is not None and not self.link.is_lost:
            self.link.send(out)

    def acknowledged(self) -> list[bytes]:
        return []

    def heard(self, payload: bytes) -> list[bytes]:
        return []


class Shell(End):
    """The agent's end: what is typed is echoed; `*N` streams N chunks."""

    sends, hears = MessageType.OUTPUT_STREAM_DATA, MessageType.INPUT_STREAM_DATA

    def __init__(self, node: Node, session_id: str) -> None:
        super().__init__()
        self.node, self.session_id = node, session_id
        self.left = 0

    async def open(self) -> None:
        path = f"/v1/data-channel/{self.session_id}"
        link = await self.node.world.link()
        token = await self.node.channel_token(link, path)
        link.transport.close()
        self.attach(await self.node.upgrade(path, open_data_channel_agent(uuid4(), token, instance_id=self.node.name)))

    def heard(self, payload: bytes) -> list[bytes]:
        if payload.startswith(b"*"):
            self.left = int(payload[1:])
            return [out for _ in range(WINDOW) for out in self.acknowledged()]
        return [self.frame(payload)]

    def acknowledged(self) -> list[bytes]:
        if self.left <= 0:
            return []
        self.left -= 1
        return [self.frame(CHUNK)]


class Client(End):
    """The client's end of a session."""

    sends, hears = MessageType.INPUT_STREAM_DATA, MessageType.OUTPUT_STREAM_DATA

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.typed: deque[float] = deque()
        self.times: list[float] = []
        self.received = self.wanted = 0
        self.came = asyncio.Event()

    async def open(self, session_id: str, token: str) -> None:
        link = await self.world.link()
        head = (
            f"GET /v1/data-channel/{session_id}?role=publish_subscribe HTTP/1.1\r\nHost: {self.world.host}\r\n"
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        status, body = await link.ask(head, b"")
        if status != 101:
            raise RuntimeError(f"client: {status} {body[:200]!r}")
        link.send_frame(
            1, open_data_channel_client(uuid4(), token, client_id=str(uuid4()), client_version="1.2.707.0").encode()
        )
        self.attach(link)

    def type(self, data: bytes) -> None:
        assert self.link is not None
        self.typed.append(time.perf_counter())
        self.link.send([self.frame(data)])

    def heard(self, payload: bytes) -> list[bytes]:
        self.received += len(payload)
        if self.typed:
            self.times.append(time.perf_counter() - self.typed.popleft())
        if self.received >= self.wanted:
            self.came.set()
        return []

    async def echo(self, keys: int, pause: float) -> None:
        """Type keys one at a time, `pause` seconds after each echo; the times stand in `times`."""
        self.times = []
        for _ in range(keys):
            self.came.clear()
            self.wanted = self.received + 1
            self.type(b"x")
            await asyncio.wait_for(self.came.wait(), 30)
            await asyncio.sleep(pause)

    async def stream(self, chunks: int) -> None:
        """Have the shell stream, and read it."""
        self.came.clear()
        self.wanted = self.received + chunks * len(CHUNK)
        self.type(b"*%d" % chunks)
        await asyncio.wait_for(self.came.wait(), 300)

    async def keep_typing(self, every: float, first: float) -> None:
        await asyncio.sleep(first)
        while True:
            self.type(b"x")
            await asyncio.sleep(every)


_tasks: set[asyncio.Task[Any]] = set()


def spawn(deed: Any) -> asyncio.Task[Any]:
    task = asyncio.create_task(deed)
    _tasks.add(task)
    task.add_done_callback(_done)
    return task


def _done(task: asyncio.Task[Any]) -> None:
    _tasks.discard(task)
    if not task.cancelled() and (error := task.exception()):
        print(f"simulated nodes: {error!r}", file=sys.stderr)


async def many(deeds: list[Any], parallel: int) -> list[float]:
    """Run deeds, so many at a time; the seconds of each. The first error ends it."""
    room = asyncio.Semaphore(parallel)

    async def one(deed: Any) -> float:
        async with room:
            began = time.perf_counter()
            await deed()
            return time.perf_counter() - began

    return await asyncio.gather(*[one(deed) for deed in deeds])


async def obey(world: World, order: dict[str, Any], typing: list[asyncio.Task[Any]]) -> Any:
    match order["do"]:
        case "connect":
            nodes = [Node(world, number) for number in range(order["first"], order["first"] + order["count"])]
            world.nodes += nodes
            return await many([node.connect for node in nodes], order["parallel"])
        case "heartbeat":
            nodes = world.nodes[: order["count"]]
            fresh = order["fresh"]
            return await many([lambda node=node: node.heartbeat(fresh=fresh) for node in nodes], order["parallel"])
        case "ping":
            nodes = world.nodes[: order["count"]]
            return await many([node.ping for node in nodes], order["parallel"])
        case "expect":
            world.wanted, world.answered = order["count"], 0
            world.done.clear()
            return None
        case "wait":
            if world.wanted:
                await asyncio.wait_for(world.done.wait(), 300)
            return world.answered
        case "clients":
            clients = [Client(world) for _ in order["sessions"]]
            world.clients += clients
            pairs = zip(clients, order["sessions"], strict=True)
            await many([lambda client=client, each=each: client.open(*each) for client, each in pairs], 8)
            # The shells have dialled when each has echoed a key.
            await asyncio.gather(*[client.echo(1, 0) for client in clients])
        case "type":
            every = order["every"]
            typing += [
                spawn(client.keep_typing(every, every * number / len(world.clients)))
                for number, client in enumerate(world.clients)
            ]
        case "quiet":
            for task in typing:
                task.cancel()
            typing.clear()
            times = [seconds for client in world.clients for seconds in client.times]
            for client in world.clients:
                client.times, client.typed = [], deque()
            return times
        case "echo":
            client = world.clients[0]
            await client.echo(order["keys"], 0.003)
            return client.times
        case "stream":
            await asyncio.gather(*[client.stream(order["chunks"]) for client in world.clients[: order["count"]]])
    return None


async def main() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    world = World(json.loads(sys.argv[1]))
    orders = asyncio.StreamReader(limit=2**22)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    typing: list[asyncio.Task[Any]] = []
    while line := await orders.readline():
        answer: dict[str, Any] = {}
        began = time.perf_counter()
        try:
            answer["result"] = await obey(world, json.loads(line), typing)
        except Exception as error:
            answer["error"] = f"{line.decode()[:60]}: {error!r}"
        answer["seconds"] = time.perf_counter() - began
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        uvloop.run(main())
