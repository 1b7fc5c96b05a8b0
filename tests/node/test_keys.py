"""Keys that a terminal turns into signals, and its size: they reach the program in front, and nothing around it."""

import contextlib
import os
import shutil
from pathlib import Path

import pytest

from fleetops import clock
from tests.node.conftest import running_node
from tests.node.gateway import Gateway, eventually, running

KINDS = [
    pytest.param(
        "bwrap", marks=pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
    ),
    "namespaces",
    "none",
]
# Says each signal and goes on. A shell runs its traps between two commands.
LISTENER = (
    "for name in INT QUIT TSTP; do trap \"echo came:$name\" $name; done; trap 'echo size:$(stty size)' WINCH; "
    "echo read''y; while :; do sleep 0.05; done"
)


def interactive(commands: str) -> dict:
    return {
        "schemaVersion": "1.0",
        "sessionType": "InteractiveCommands",
        "properties": {"linux": {"commands": commands}},
    }


@pytest.fixture(params=KINDS)
async def sandbox(request, tmp_path):
    """A gateway with one node whose shells are started in the way that is asked for."""
    if request.param == "none":  # its shells have to find their home, under an id of their own
        for parent in (tmp_path, *tmp_path.parents):
            if parent.stat().st_uid == os.getuid() and not parent.stat().st_mode & 0o001:
                parent.chmod(0o711)
    async with running(Gateway(tmp_path)) as gateway, running_node(gateway, kind=request.param) as node:
        yield gateway, node


async def test_a_key_that_is_a_signal_reaches_the_program_and_the_session_goes_on(sandbox):
    gateway, _ = sandbox
    client = await gateway.open(document_content=interactive(LISTENER))
    await client.see("ready")
    for key, name in (("\x03", "INT"), ("\x1c", "QUIT"), ("\x1a", "TSTP"), ("\x03", "INT")):
        client.output.clear()
        await client.type(key)
        await client.see(f"came:{name}")
    client.channel.send_size(91, 27, now=clock.steady())
    await client._flush()
    await client.see("size:27 91")
    assert client.closed is None


async def test_a_program_that_ctrl_c_ends_is_the_end_of_its_session(sandbox):
    gateway, _ = sandbox
    client = await gateway.open(document_content=interactive("echo read''y; exec cat"))
    await client.see("ready")
    await client.type("heard\r")
    await client.see("heard\r\nheard\r\n")
    await client.type("\x1a")  # nobody is there who could wake it, so the kernel does not stop it
    await client.type("again\r")
    await client.see("again\r\nagain\r\n")
    await client.type("\x03")
    await client.see_end()


async def test_a_shell_stops_its_jobs_and_takes_them_up_again(sandbox):
    gateway, _ = sandbox
    client = await gateway.open()
    await client.see(":~$ ")
    assert b"no job control" not in client.output
    # It starts nothing: a shell that is stopped between vfork and exec of what it starts is not seen to stop.
    job = """sh -c 'trap "echo wok""en" CONT; echo read""y; while :; do read -r line; done'"""
    await client.type(f"{job}\r")
    await client.see("ready")
    await client.type("\x1a")
    await client.see("Stopped")
    assert "Stopped" in await client.run("jobs")
    await client.type("fg\r")
    await client.see("woken")
    client.output.clear()
    await client.type("\x03")
    await client.see(":~$ ")
    assert await client.run("echo al''ive; : </dev/tty && echo it''s") == "alive\nits\n"


async def test_a_shell_gives_way_to_what_carries_its_output(sandbox):
    gateway, node = sandbox
    if node._launcher.kind == "none" or not os.access("/proc/self/autogroup", os.W_OK):
        pytest.skip("this kernel does not share out its processors by session, or not for all who ask at once")
    clients = [await gateway.open() for _ in range(3)]  # at once
    for client in clients:
        await client.see(":~$ ")
        assert "nice 10\n" in await client.run("cat /proc/self/autogroup")


async def test_a_shell_that_will_not_hang_up_is_gone_with_its_session(sandbox):
    gateway, node = sandbox
    client = await gateway.open(document_content=interactive(f"trap '' HUP TERM; {LISTENER}"))
    await client.see("ready")
    terminal = node._sessions[client.session_id][0]._terminal
    await gateway.hub.terminate_session(client.session_id, "Enough.")
    await client.see_end()
    await eventually(lambda: terminal._has_ended)
    await eventually(lambda: not listeners())


def listeners() -> list[str]:
    """The processes of this machine that listen for signals."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if LISTENER.encode() in path.read_bytes():
                found.append(path.parent.name)
    return found
