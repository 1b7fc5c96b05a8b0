"""The bound on the head of a request, where one read holds more than the head."""

import asyncio
import socket

import pytest
import uvicorn

from fleetops.endpoint.http import HEAD_BYTES, Http


async def count(scope, receive, send) -> None:
    """Answer with the length of the body."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


@pytest.fixture
async def port():
    server = uvicorn.Server(uvicorn.Config(count, port=0, http=Http, lifespan="off", log_level="error"))
    serving = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


async def answers(port: int, request: bytes) -> bytes:
    """What comes for bytes that all lie there before the server reads the first: nothing here gives way to it."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1024 * 1024)
        client.connect(("127.0.0.1", port))
        await asyncio.sleep(0.1)
        client.sendall(request)
        client.setblocking(False)
        loop, answer = asyncio.get_running_loop(), b""
        async with asyncio.timeout(10):
            while data := await loop.sock_recv(client, 65_536):
                answer += data
        return answer


async def test_a_request_that_comes_whole_in_one_read_is_no_head(port):
    body = b"x" * (HEAD_BYTES + 1000)
    head = b"PUT / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer = await answers(port, head + body)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert str(len(body)).encode() in answer


async def test_a_head_without_end_is_refused(port):
    answer = await answers(port, b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * (HEAD_BYTES + 1000))
    assert answer.startswith(b"HTTP/1.1 400"), answer
