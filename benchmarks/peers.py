"""What the browser terminal is measured beside: a raw PTY's own server-less echo, a minimal bridge, and terminado.

And the endpoint: beside a server that only passes the same frames on.

Run as `python -m benchmarks.peers bridge|terminado|endpoint HOME`; prints its port and serves until it is killed.
"""

import asyncio
import os
import pty
import socket
import ssl
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

SHELL = ["/bin/sh"]


def spawn() -> tuple[int, int]:
    """A shell on a new PTY: (pid, file descriptor)."""
    pid, descriptor = pty.fork()
    if pid == 0:
        os.execvp(SHELL[0], SHELL)
    return pid, descriptor


async def bridge() -> None:
    """The least that can be called a browser terminal: one process, one websocket, one PTY, bytes as they are."""
    from websockets.asyncio.server import serve

    async def handle(socket):
        _, descriptor = spawn()
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(descriptor, readable.set)

        async def outward():
            while True:
                await readable.wait()
                readable.clear()
                try:
                    data = os.read(descriptor, 65536)
                except OSError:
                    return await socket.close()
                await socket.send(data)
                await asyncio.sleep(0)

        task = asyncio.create_task(outward())
        try:
            async for message in socket:
                os.write(descriptor, message)
        finally:
            task.cancel()
            loop.remove_reader(descriptor)
            os.close(descriptor)

    async with serve(handle, "127.0.0.1", 0, compression=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Future()


def terminado() -> None:
    """terminado's own websocket handler, a shell a connection."""
    import tornado.httpserver
    import tornado.ioloop
    import tornado.netutil
    import tornado.web
    from terminado import TermSocket, UniqueTermManager

    async def main():
        manager = UniqueTermManager(shell_command=SHELL)
        application = tornado.web.Application([(r"/", TermSocket, {"term_manager": manager})])
        sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
        tornado.httpserver.HTTPServer(application).add_sockets(sockets)
        print(sockets[0].getsockname()[1], flush=True)
        await asyncio.Future()

    asyncio.run(main())


_DOCUMENT = {"schemaVersion": "1.0", "sessionType": "Standard_Stream"}


class BareEndpoint:
    """The frames of benchmarks/endpoint.py between agents and clients; nothing is checked, signed, decided or kept."""

    def __init__(self) -> None:
        self.controls: dict[str, Any] = {}  # name -> its channel and ASGI's send
        self.ends: dict[str, list[Any]] = {}  # session -> its two websockets

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await self.http(scope, receive, send)
        elif scope["path"].startswith("/v1/control-channel/"):
            await self.control(scope["path"].rpartition("/")[2], receive, send)
        else:
            await self.data(scope["path"].rpartition("/")[2], receive, send)

    async def http(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        _, kind, *rest = scope["path"].split("/")
        body, status = b"{}", 200
        if kind == "v1":
            status = 201
            name = "CreateControlChannelResponse" if rest[0] == "control-channel" else "CreateDataChannelResponse"
            token = "<MessageSchemaVersion>1.0</MessageSchemaVersion><TokenValue>token</TokenValue>"
            body = f"<{name}>{token}</{name}>".encode()
        elif kind == "start":
            body = await self.start(rest[0])
        elif kind == "command":
            body = await self.command(int(rest[0]))
        head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": body})

    async def start(self, name: str) -> bytes:
        from fleetops.wire import payloads

        session_id = f"s-{uuid4().hex}"
        channel, send = self.controls[name]
        task = payloads.SessionTask(
            session_id, "SSM-SessionManagerRunShell", _DOCUMENT, {}, "", "", topic="interactive_shell"
        )
        channel.start_session(task, now=1.0)
        await self.flush(channel, send)
        return session_id.encode()

    async def command(self, count: int) -> bytes:
        from fleetops.wire import payloads

        for name, (channel, send) in sorted(self.controls.items())[:count]:
            job = payloads.AgentJob(f"aws.ssm.{uuid4()}.{name}", "x" * 2000)
            channel.send_job(job, now=1.0)
            await self.flush(channel, send)
        return b"sent"

    async def flush(self, channel: Any, send: Any) -> None:
        for frame in channel.data_to_send():
            await send({"type": "websocket.send", "bytes": frame})

    async def control(self, name: str, receive: Any, send: Any) -> None:
        from fleetops.wire.controlchannel import ControlChannel, ControlRole

        channel = ControlChannel(ControlRole.GATEWAY, new_id=uuid4)
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        self.controls[name] = (channel, send)
        while (message := await receive())["type"] == "websocket.receive":
            channel.receive(message["bytes"], now=1.0)
            channel.events()
            await self.flush(channel, send)

    async def data(self, session_id: str, receive: Any, send: Any) -> None:
        from fleetops.batches import batched

        mine = batched(receive)
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        ends = self.ends.setdefault(session_id, [])
        ends.append(mine)
        while True:
            messages = await mine.receive_all()
            if messages[-1]["type"] != "websocket.receive":
                return
            while len(ends) < 2:
                await asyncio.sleep(0.01)
            other = ends[1] if ends[0] is mine else ends[0]
            await other.send_all([message["bytes"] for message in messages])


def endpoint(home: Path) -> None:
    """uvicorn as the endpoint has it, with its certificate."""
    import resource

    import uvicorn

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    config = uvicorn.Config(
        BareEndpoint(),
        loop="uvloop",
        ws="fleetops.batches:BatchedWebSocket",
        ws_per_message_deflate=False,
        lifespan="off",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=75,
        ssl_certfile=str(home / "server.pem"),
        ssl_keyfile=str(home / "server.key"),
        ssl_version=ssl.PROTOCOL_TLS_SERVER,
    )
    config.load()
    config.ssl.num_tickets = 0
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    if sys.argv[1] == "endpoint":
        endpoint(Path(sys.argv[2]))
    elif sys.argv[1] == "bridge":
        import uvloop

        uvloop.run(bridge())
    else:
        terminado()
