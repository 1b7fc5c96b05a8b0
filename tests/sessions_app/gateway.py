"""A small gateway with an agent in it, to force what a real one seldom does: lies, losses, silence, floods on demand.

It answers the few calls of SSM that a session needs, over TLS, and joins each session's websocket to a real shell on a
PTY. What a test wants to go wrong it says on the Gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import termios
import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from fleetops.clock import now, steady
from fleetops.endpoint.ca import ensure_certificates
from fleetops.wire import (
    ClientOpener,
    DataChannel,
    InputReceived,
    RemoteProtocolError,
    Role,
    SizeReceived,
    parse_opener,
)


@dataclass(eq=False)
class Shell:
    """One session: the agent's end of its data channel, and the shell."""

    session_id: str
    reason: str
    target: str
    token: str = ""
    channel: DataChannel = None
    pid: int = 0
    fd: int = -1
    send: Any = None  # of the websocket that is there now
    is_over: bool = False
    sizes: list[tuple[int, int]] = field(default_factory=list)
    inputs: bytearray = field(default_factory=bytearray)
    openers: list[ClientOpener] = field(default_factory=list)
    timer: Any = None
    tasks: set = field(default_factory=set)
    acknowledged: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self) -> None:
        self.channel = DataChannel(Role.AGENT, new_id=uuid.uuid4, session_id=self.session_id, max_payload=32768)
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.environ.update(PS1="$ ", HISTFILE="", TERM="xterm-256color")
            os.environ.pop("ENV", None)
            for number in (
                signal.SIGINT,
                signal.SIGQUIT,
                signal.SIGHUP,
            ):  # tests may run in the background
                signal.signal(number, signal.SIG_DFL)
            os.execv("/bin/sh", ["sh", "-i"])
        os.set_blocking(self.fd, False)

    def watch(self) -> None:
        asyncio.get_running_loop().add_reader(self.fd, self._read)

    def _read(self) -> None:
        loop = asyncio.get_running_loop()
        if self.channel.unacknowledged_bytes > 1 << 20:
            loop.remove_reader(self.fd)
            self.timer = loop.call_later(0.005, self.watch)
            return
        try:
            data = os.read(self.fd, 32768)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            loop.remove_reader(self.fd)
            self.tasks.add(loop.create_task(self.close("")))
            return
        self.channel.send_output(data, now=steady())
        self.tasks.add(task := loop.create_task(self.flush()))
        task.add_done_callback(self.tasks.discard)

    async def flush(self) -> None:
        frames = self.channel.data_to_send()
        if self.send is None:
            return
        for frame in frames:
            with contextlib.suppress(OSError, RuntimeError):
                await self.send({"type": "websocket.send", "bytes": frame})

    async def receive(self, frame: bytes) -> None:
        with contextlib.suppress(RemoteProtocolError):
            self.channel.receive(frame, now=steady())
        for event in self.channel.events():
            if isinstance(event, InputReceived):
                self.inputs += event.data
                with contextlib.suppress(BlockingIOError):
                    os.write(self.fd, event.data)
            elif isinstance(event, SizeReceived):
                self.sizes.append((event.cols, event.rows))
                fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", event.rows, event.cols, 0, 0))
        await self.flush()

    async def close(self, text: str) -> None:
        """The session is over, for this reason."""
        if self.is_over:
            return
        for _ in range(100):
            if not self.channel.unacknowledged:
                break
            await asyncio.sleep(0.01)
        self.is_over = True
        self.channel.close(text, now=steady())
        await self.flush()
        self.kill()

    def kill(self) -> None:
        self.is_over = True
        if self.fd >= 0:
            asyncio.get_running_loop().remove_reader(self.fd)
            if self.timer is not None:
                self.timer.cancel()
            os.close(self.fd)
            self.fd = -1
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)


class Gateway:
    """The gateway, in a thread of its own."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        ensure_certificates(directory, "127.0.0.1", now())
        self.ca_pem = (directory / "ca.pem").read_text()
        self.shells: dict[str, Shell] = {}
        self.kind: type[Shell] = Shell  # of what StartSession starts
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.refuse: dict[str, tuple[int, str, str]] = {}  # operation: status, code, message
        self.hold: set[str] = set()  # operations that get no answer at all
        self.swallow: set[str] = set()  # operations that are carried out and never answered
        self.lies: dict[str, bytes] = {}  # by the first word of a session's reason: the first frame of each websocket
        self._transports: set[asyncio.Transport] = set()
        self.loop: asyncio.AbstractEventLoop
        config = uvicorn.Config(
            self._application,
            host="127.0.0.1",
            port=0,
            ssl_keyfile=str(directory / "server.key"),
            ssl_certfile=str(directory / "server.pem"),
            log_config=None,
            log_level="warning",
            interface="asgi3",
            ws="fleetops.batches:BatchedWebSocket",
            ws_per_message_deflate=False,
            lifespan="off",
            loop="none",
            timeout_graceful_shutdown=0,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        async def serve() -> None:
            self.loop = asyncio.get_running_loop()
            await self._server.serve()
            for transport in self._transports:
                transport.abort()  # TLS would wait for an answer from who is gone
            await asyncio.sleep(0.1)
            for shell in self.shells.values():
                shell.kill()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())

    def start(self) -> None:
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            self._thread.join(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def called(self, operation: str) -> list[dict[str, Any]]:
        return [body for name, body in self.calls if name == operation]

    def do(self, coroutine) -> Any:
        """Run something in the gateway's loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    def cut(self, shell: Shell) -> None:
        """Drop the client's websocket."""

        async def drop() -> None:
            send, shell.send = shell.send, None
            if send is not None:
                with contextlib.suppress(OSError, RuntimeError):
                    await send({"type": "websocket.close", "code": 1011})

        self.do(drop())

    # ASGI

    async def _application(self, scope, receive, send) -> None:
        self._transports |= {connection.transport for connection in self._server.server_state.connections}
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)

    async def _http(self, scope, receive, send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = dict(scope["headers"])
        operation = headers[b"x-amz-target"].decode().partition(".")[2]
        parameters = json.loads(body)
        self.calls.append((operation, parameters))
        if operation in self.hold:
            await asyncio.Event().wait()
        if operation in self.refuse:
            status, code, text = self.refuse[operation]
            await self._answer(send, {"__type": code, "message": text}, status)
            return
        if not hasattr(self, f"_{operation}"):  # session documents, which FleetOps can do without
            text = f"User is not authorized to perform: ssm:{operation}"
            await self._answer(send, {"__type": "AccessDeniedException", "message": text}, 400)
            return
        answer = getattr(self, f"_{operation}")(parameters)
        if operation in self.swallow:
            await self._answer(send, {"__type": "InternalServerError", "message": "lost"}, 500)
            return
        await self._answer(send, answer)

    async def _answer(self, send, answer: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(answer).encode()
        headers = [(b"content-type", b"application/x-amz-json-1.1"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _opened(self, shell: Shell) -> dict[str, Any]:
        shell.token = uuid.uuid4().hex
        path = f"/v1/data-channel/{shell.session_id}?role=publish_subscribe"
        return {
            "SessionId": shell.session_id,
            "TokenValue": shell.token,
            "StreamUrl": f"wss://127.0.0.1:{self.port}{path}",
        }

    def _StartSession(self, parameters):
        shell = self.kind(f"user-{uuid.uuid4().hex[:17]}", parameters.get("Reason", ""), parameters["Target"])
        shell.start()
        shell.watch()
        self.shells[shell.session_id] = shell
        return self._opened(shell)

    def _ResumeSession(self, parameters):
        shell = self.shells[parameters["SessionId"]]
        return {"SessionId": shell.session_id} if shell.is_over else self._opened(shell)

    def _TerminateSession(self, parameters):
        shell = self.shells[parameters["SessionId"]]
        shell.tasks.add(asyncio.get_running_loop().create_task(shell.close("terminated")))
        return {"SessionId": shell.session_id}

    def _DescribeSessions(self, parameters):
        return {
            "Sessions": [
                {"SessionId": shell.session_id, "Target": shell.target, "Status": "Connected", "Reason": shell.reason}
                for shell in self.shells.values()
                if not shell.is_over
            ]
        }

    async def _websocket(self, scope, receive, send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        shell = self.shells[scope["path"].rpartition("/")[2]]
        opener = parse_opener((await receive()).get("text", ""))
        if opener.token != shell.token:
            await send({"type": "websocket.close", "code": 1008})
            return
        shell.token = ""
        shell.openers.append(opener)
        shell.send = send
        if lie := self.lies.get(shell.reason.split(" ")[0]):
            await send({"type": "websocket.send", "bytes": lie})
        shell.channel.reconnected(now=steady())
        await shell.flush()
        sweeping = asyncio.create_task(self._sweep(shell))
        try:
            while (message := await receive())["type"] == "websocket.receive":
                await shell.receive(message["bytes"])
        finally:
            sweeping.cancel()
            if shell.send is send:
                shell.send = None

    async def _sweep(self, shell: Shell) -> None:
        while True:
            await asyncio.sleep(0.1)
            shell.channel.handle_timeout(now=steady())
            await shell.flush()
