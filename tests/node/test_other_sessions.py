"""Commands without a terminal, and ports: a client of wire's, the hub, a node, and real programs and servers."""

import asyncio
import contextlib
import hashlib
import os
import socket

import pytest

from fleetops.node import ports
from fleetops.wire import Flag
from tests.node.clients import HandshakingClient, ManyClient, OldClient
from tests.node.conftest import running_node
from tests.node.gateway import eventually


def command(words: str, **properties) -> dict:
    return {
        "schemaVersion": "1.0",
        "sessionType": "NonInteractiveCommands",
        "properties": {"linux": {"commands": words, **properties}},
    }


def port(number: int, **properties) -> dict:
    return {
        "schemaVersion": "1.0",
        "sessionType": "Port",
        "parameters": {"portNumber": {"type": "String", "default": "22"}},
        "properties": {"portNumber": str(number), **properties},
    }


def forwarding(number: int, **properties) -> dict:
    return port(number, type="LocalPortForwarding", localPortNumber="0", **properties)


@contextlib.asynccontextmanager
async def server(serve, host: str = "127.0.0.1", *, buffer: int = 0):
    """A TCP server on a free port; `serve` gets a reader and a writer. Gives its port.

    `buffer`: bytes that the kernel keeps of a connection that is not read, which are tens of megabytes otherwise.
    """
    running = await asyncio.start_server(serve, host, 0)
    if buffer:
        running.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    try:
        yield running.sockets[0].getsockname()[1]
    finally:
        running.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


# Commands without a terminal


async def test_a_command_is_executed_without_a_shell_and_both_streams_come_at_its_end(gateway, node):
    document = command("sh -c 'echo out; echo err >&2; tty; echo $0 $1; cat' first '$HOME; second'")
    client = await gateway.open(kind=HandshakingClient, document_content=document)
    assert (await client.see_end()).output == ""
    assert client.request.session_type == "NonInteractiveCommands"
    assert bytes(client.output) == b"out\nerr\nnot a tty\nfirst $HOME; second\n"
    assert (client.errors, client.exit_code) == (b"", None)


async def test_separate_streams_come_as_they_are_written_and_the_exit_code_behind_them(gateway, node):
    document = command(
        "sh -c 'echo out; echo err >&2; sleep 1; echo more; exit 3'",
        separateOutputStream=True,
        stdOutSeparatorPrefix="O:",
        stdErrSeparatorPrefix="E:",
    )
    client = await gateway.open(kind=HandshakingClient, document_content=document)
    await client.until(lambda: b"O:out\n" in client.output and b"E:err\n" in client.errors, "both streams")
    assert client.exit_code is None
    await client.see_end()
    assert bytes(client.output) == b"O:out\nO:more\n"
    assert client.exit_code == 3
    await eventually(lambda: client.session_id in gateway.store.ended)
    assert gateway.store.ended[client.session_id][0] == "Terminated"  # whatever the command returned


@pytest.mark.parametrize("kind", ["bwrap", "namespaces"])
async def test_ctrl_c_reaches_the_command_and_other_input_nobody(gateway, kind):
    async with running_node(gateway, kind=kind):
        await _interrupt(gateway)


async def _interrupt(gateway):
    script = 'trap "echo caught; exit 5" INT; echo ready; while :; do sleep 0.1; done'
    document = command(f"sh -c '{script}'", separateOutputStream="true")
    client = await gateway.open(kind=HandshakingClient, document_content=document)
    await client.see("ready")
    await client.type("exit\r\x03")
    await client.see_end()
    assert bytes(client.output) == b"ready\ncaught\n"
    assert client.exit_code == 5


async def test_much_output_of_a_command_is_all_there(gateway, node):
    document = command("seq 1 200000", separateOutputStream=True)
    client = await gateway.open(kind=HandshakingClient, document_content=document)
    await client.see_end(seconds=30)
    assert bytes(client.output).split() == [b"%d" % number for number in range(1, 200_001)]


async def test_terminate_kills_a_command(gateway, node):
    client = await gateway.open(kind=HandshakingClient, document_content=command("sleep 987654"))
    await client.ready()
    session = node._sessions[client.session_id][0]
    await eventually(lambda: session._program is not None)
    process = session._program._process
    await gateway.hub.terminate_session(client.session_id, "Enough.")
    await client.see_end()
    await eventually(lambda: process.poll() is not None)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (command("  "), "Commands cannot be empty for session type NonInteractiveCommands"),
        (command("echo 'open"), "No closing quotation"),
        (command("true", separateOutputStream=True, stdOutSeparatorPrefix="<b>"), "invalid stdOutSeparatorPrefix"),
    ],
)
async def test_a_command_that_cannot_start_says_why(gateway, node, document, words):
    client = await gateway.open(kind=HandshakingClient, document_content=document)
    assert words in (await client.see_end()).output


async def test_a_client_that_refuses_the_handshake_ends_the_session(gateway, node, monkeypatch):
    monkeypatch.setattr("fleetops.wire.payloads._SESSION_TYPES", ())
    client = await gateway.open(kind=HandshakingClient, document_content=command("true"))
    assert "SessionType failed on client with status 2" in (await client.see_end()).output


# One connection


async def test_ssh_goes_through_one_connection_and_ends_with_it(gateway, node):
    async def greet(reader, writer):
        writer.write(b"SSH-2.0-test\r\n")
        line = await reader.readline()
        writer.write(b"you said " + line)
        await writer.drain()
        writer.close()

    async with server(greet) as number:
        client = await gateway.open(kind=HandshakingClient, document_content=port(number))
        await client.see("SSH-2.0-test\r\n")
        assert client.request.properties == {"portNumber": str(number)}
        await client.send(b"hello\n")
        await client.see_end()
    assert bytes(client.output) == b"SSH-2.0-test\r\nyou said hello\n"


async def test_much_goes_both_ways_through_one_connection(gateway, node):
    data = os.urandom(2_000_000)
    async with server(echo) as number:
        client = await gateway.open(kind=HandshakingClient, document_content=port(number))
        await client.ready()
        await client.send(data)
        await client.until(lambda: len(client.output) == len(data), "all of it")
    assert hashlib.sha256(client.output).digest() == hashlib.sha256(data).digest()


async def test_a_port_that_is_closed_fails_the_session_in_words(gateway, node):
    async with server(echo) as number:
        pass
    client = await gateway.open(kind=HandshakingClient, document_content=port(number))
    assert f"Unable to connect to localhost:{number}" in (await client.see_end()).output


async def test_an_old_client_gets_one_connection_after_the_other(gateway, node):
    async with server(echo) as number:
        client = await gateway.open(kind=OldClient, document_content=forwarding(number))
        await client.ready()
        await client.send(b"one")
        await client.see("one")
        client.channel.send_flag(Flag.DISCONNECT_TO_PORT, now=0)
        await client.send(b"two")
        await client.see("onetwo")
        await client.terminate()
        await eventually(lambda: client.session_id not in node._sessions)


# Many connections


async def test_three_connections_at_once_do_not_meet(gateway, node):
    datas = [os.urandom(300_000) for _ in range(3)]
    async with server(echo) as number:
        client = await gateway.open(kind=ManyClient, document_content=forwarding(number))
        await client.ready()
        streams = [await client.dial() for _ in datas]
        for start in range(0, 300_000, 50_000):
            for stream, data in zip(streams, datas, strict=True):
                await client.push(stream, data[start : start + 50_000])
        for stream, data in zip(streams, datas, strict=True):
            await client.until(lambda stream=stream, data=data: len(client.streams[stream]) == len(data), "an echo")
            assert bytes(client.streams[stream]) == data
            await client.finish(stream)
        await client.until(lambda: client.finished == set(streams), "three ends")
        session = node._sessions[client.session_id][0]
        assert session._carrier._streams == {}
        await client.terminate()
        await eventually(lambda: client.session_id not in node._sessions)


async def test_a_server_that_ends_its_connection_ends_the_stream_and_not_the_session(gateway, node):
    async def farewell(reader, writer):
        writer.write(b"bye")
        writer.close()

    async with server(farewell) as number:
        client = await gateway.open(kind=ManyClient, document_content=forwarding(number))
        await client.ready()
        for _ in range(2):
            stream = await client.dial()
            await client.until(lambda stream=stream: stream in client.finished, "its end")
            assert client.streams[stream] == b"bye"


async def test_a_connection_that_is_refused_is_told_by_a_flag_and_others_go_on(gateway, node):
    async with server(echo) as number:
        client = await gateway.open(kind=ManyClient, document_content=forwarding(number))
        await client.ready()
        first = await client.dial()
        await client.push(first, b"x")
        await client.until(lambda: client.streams[first] == b"x", "an echo")
    refused = await client.dial()
    await client.until(lambda: refused in client.finished, "the end of the second")
    assert client.flags == [Flag.CONNECT_TO_PORT_ERROR]
    await client.push(first, b"y")
    await client.until(lambda: client.streams[first] == b"xy", "an echo")


async def test_a_host_that_the_node_reaches_is_forwarded_to(gateway, node):
    async with server(echo, "127.0.0.2") as number:
        client = await gateway.open(kind=ManyClient, document_content=forwarding(number, host="127.0.0.2"))
        await client.ready()
        stream = await client.dial()
        await client.push(stream, b"there")
        await client.until(lambda: client.streams[stream] == b"there", "an echo")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (forwarding(80, host="169.254.169.254"), "Forwarding to IP address 169.254.169.254 is forbidden."),
        (forwarding(80, host="::ffff:169.254.169.254"), "is forbidden."),
        (forwarding(53, host="fd00:ec2::253"), "is forbidden."),
        (port(0), "0 is no port number"),
    ],
)
async def test_what_nobody_is_forwarded_to(gateway, node, document, words):
    client = await gateway.open(kind=ManyClient, document_content=document)
    assert words in (await client.see_end()).output


async def test_a_port_that_does_not_read_stops_the_client_and_costs_little(gateway, node, monkeypatch):
    monkeypatch.setattr(ports, "MAX_INPUT", 100_000)
    release = asyncio.Event()
    received = 0

    async def slow(reader, writer):
        nonlocal received
        await release.wait()
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                received += len(data)
        writer.close()

    async with server(slow, buffer=64 * 1024) as number:
        client = await gateway.open(kind=ManyClient, document_content=forwarding(number))
        await client.ready()
        stream = await client.dial()
        sending = asyncio.create_task(client.push(stream, b"z" * 9_000_000))
        session = node._sessions[client.session_id][0]
        await eventually(lambda: session._carrier is not None and session._carrier.waiting >= 100_000)
        await asyncio.sleep(0.5)
        assert session._carrier.waiting < 100_000 + 512 * 1024
        assert not sending.done()
        release.set()
        await sending
        await eventually(lambda: received == 9_000_000, seconds=60)


async def test_what_is_no_stream_of_connections_ends_the_session(gateway, node):
    async with server(echo) as number:
        client = await gateway.open(kind=ManyClient, document_content=forwarding(number))
        await client.ready()
        await client.send(b"\x07rubbish!")
        assert "cannot be read" in (await client.see_end()).output
