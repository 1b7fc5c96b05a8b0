"""What the browser terminal is measured beside: a raw PTY's own server-less echo, a minimal bridge, and terminado.

Run as `python benchmarks/peers.py bridge|terminado`; prints its port and serves until it is killed.
"""

import asyncio
import os
import pty
import sys

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


if __name__ == "__main__":
    if sys.argv[1] == "bridge":
        import uvloop

        uvloop.run(bridge())
    else:
        terminado()
