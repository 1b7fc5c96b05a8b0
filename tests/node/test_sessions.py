"""Sessions from end to end: a client, the relay, a node, a shell on a real terminal."""

import asyncio
import os
import re
from dataclasses import replace

import pytest

from fleetops import clock
from fleetops.endpoint.hub import NotConnected
from fleetops.node.agent import STOPPED_TEXT
from fleetops.node.session import WINDOW
from tests.node.conftest import running_node
from tests.node.gateway import DOCUMENT, Gateway, eventually, key_for, make_spec, make_task, node_key, running

PROMPT = "ssm-user@pay-api-eu1a-01:~$ "
NODE = "i-0aaaaaaaaaaaaaaaa"


async def test_a_session_is_a_shell_that_answers_and_ends(gateway, node):
    client = await gateway.open()
    await client.see(PROMPT)
    assert await client.run("echo $((6*7))") == "42\n"
    await client.type("exit\r")
    assert (await client.see_end()).output == ""
    await eventually(lambda: client.session_id in gateway.store.ended)
    assert gateway.store.ended[client.session_id] == ("Terminated", "it ended")
    await eventually(lambda: not node._sessions and not node._untold)


async def test_the_first_prompt_has_the_clients_size_and_a_new_size_follows(gateway, node):
    client = await gateway.open(size=(133, 41))
    await client.see(PROMPT)
    assert "41 133" in await client.run("stty size")
    client.channel.send_size(90, 20, now=clock.steady())
    assert "20 90" in await client.run("stty size")


async def test_a_client_that_tells_no_size_gets_its_prompt_all_the_same(gateway, node):
    client = await gateway.open(size=(0, 0))
    client._size = None
    await client.see(PROMPT)
    assert "24 80" in await client.run("stty size")


async def test_the_shell_has_a_clean_environment(gateway, node, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not for shells")
    monkeypatch.setenv("FLEETOPS_HOME", "/somewhere")
    client = await gateway.open()
    await client.see(PROMPT)
    environment = await client.run("env")
    names = {line.partition("=")[0] for line in environment.splitlines() if "=" in line}
    assert names - {"_", "OLDPWD", "SHLVL", "PWD"} == {"HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TERM", "USER"}
    assert "TERM=xterm-256color" in environment
    assert "LANG=C.UTF-8" in environment


async def test_our_own_client_gets_large_frames_and_any_other_1024_bytes(gateway, node):
    for ours, least, most in ((True, 8_000, 32 * 1024), (False, 900, 1024)):
        client = await gateway.open(ours=ours)
        await client.see(PROMPT)
        client.frame_sizes.clear()
        await client.run("head -c 600000 /dev/zero | tr '\\0' x", seconds=30)
        assert max(client.frame_sizes) <= most
        assert max(client.frame_sizes) >= least


async def test_all_output_before_the_end_arrives(gateway, node):
    client = await gateway.open()
    await client.see(PROMPT)
    client.output.clear()
    await client.type("exec seq 1 200000\r")
    await client.see_end(seconds=30)
    numbers = re.findall(rb"(\d+)\r\n", bytes(client.output))
    assert numbers[1:] == [b"%d" % n for n in range(1, 200_001)]  # the first stands in the command


async def test_ctrl_c_in_a_flood_acts_at_once(gateway, node):
    client = await gateway.open()
    await client.see(PROMPT)
    client.keeps_output = False
    await client.type("yes\r")
    await eventually(lambda: client.received > 5_000_000, seconds=20)
    client.keeps_output = True
    so_far = client.received
    await client.type("\x03")
    await client.see(PROMPT)
    # What was on its way, here and in the relay, and no more of the flood.
    assert client.received - so_far < 4 * 1024 * 1024


async def test_ctrl_c_acts_for_a_client_that_did_not_read(gateway, node):
    client = await gateway.open()
    await client.see(PROMPT)
    client.keeps_output = False
    await client.type("yes\r")
    await eventually(lambda: client.received > 1_000_000)
    client.stop_reading()
    session = node._sessions[client.session_id][0]
    await eventually(lambda: not session._terminal.is_wanted)  # the program waits
    assert session._channel.unacknowledged_bytes < WINDOW + 2 * 32 * 1024
    await client.type("\x03")
    client.keeps_output = True
    client.read_on()
    await client.see(PROMPT)


async def test_a_client_that_is_lost_finds_the_same_shell_and_all_its_output(gateway, node):
    client = await gateway.open()
    await client.see(PROMPT)
    await client.run("mark=kept")
    client.output.clear()
    await client.type("for n in $(seq 1 30000); do echo $n; done; echo $mark\r")
    await eventually(lambda: client.received > 20_000)
    client.abort()
    session = node._sessions[client.session_id][0]
    await eventually(lambda: session._channel.is_paused)
    await client.resume()
    text = await client.see("\r\nkept", seconds=20)
    assert re.findall(r"(\d+)\r\n", text) == [str(n) for n in range(1, 30_001)]


async def test_a_shell_that_ends_while_its_client_is_away_keeps_its_last_words(gateway, node):
    client = await gateway.open()
    await client.see(PROMPT)
    await client.type("sleep 0.3; echo fare''well; exit\r")
    await client.see("exit")
    client.abort()
    session = node._sessions[client.session_id][0]
    await eventually(lambda: session._terminal._exited)
    await client.resume()
    await client.see("farewell")
    await client.see_end()


async def test_a_shell_survives_the_loss_of_its_data_channel(gateway, node):
    client = await gateway.open()
    await client.see(PROMPT)
    await client.run("mark=kept")
    session = node._sessions[client.session_id][0]
    session._socket._transport.abort()
    assert "kept" in await client.run("echo $mark")


async def test_a_shell_survives_the_endpoints_process(tmp_path):
    gateway = Gateway(tmp_path)
    await gateway.start()
    async with running_node(gateway):
        client = await gateway.open()
        await client.see(PROMPT)
        await client.run("mark=kept")
        await client.close()
        gateway.store.kept = [make_task(NODE, session_id=client.session_id)]
        await gateway.stop()
        await gateway.start()
        await client.resume()
        assert "kept" in await client.run("echo $mark", seconds=20)
        await gateway.until_connected(NODE)
        await client.type("exit\r")
        await client.see_end()
    await gateway.stop()


async def test_a_session_that_the_endpoint_forgot_ends_on_the_node(tmp_path):
    gateway = Gateway(tmp_path)
    await gateway.start()
    async with running_node(gateway) as node:
        client = await gateway.open()
        await client.see(PROMPT)
        await client.close()
        await gateway.stop()
        await gateway.start()
        await eventually(lambda: not node._sessions)
    await gateway.stop()


async def test_terminate_kills_the_shell_and_what_it_runs(gateway, node):
    client = await gateway.open()
    await client.see(PROMPT)
    await client.type("sleep 987654\r")
    terminal = node._sessions[client.session_id][0]._terminal
    await gateway.hub.terminate_session(client.session_id, "Enough.")
    assert (await client.see_end()).output == "Enough."
    await eventually(lambda: terminal._has_ended)
    assert terminal._process.poll() is not None


async def test_a_node_without_credentials_is_offline_and_its_shells_go_on(gateway, node):
    client = await gateway.open()
    await client.see(PROMPT)
    node.set_credentials(None)
    await eventually(lambda: not gateway.hub.is_connected(node_key(NODE)))
    with pytest.raises(NotConnected):
        await gateway.hub.start_session(make_task(NODE))
    assert "5" in await client.run("echo $((2+3))")
    node.set_credentials(key_for(NODE))
    await gateway.until_connected(NODE)


async def test_a_node_that_is_stopped_is_offline_and_its_shells_are_dead(gateway, node):
    client = await gateway.open()
    await client.see(PROMPT)
    terminal = node._sessions[client.session_id][0]._terminal
    node.set_running(False)
    await eventually(lambda: not gateway.hub.is_connected(node_key(NODE)))
    await eventually(lambda: terminal._has_ended)
    assert (await client.see_end()).output == STOPPED_TEXT
    node.set_running(True)
    await gateway.until_connected(NODE)


async def test_a_node_that_is_refused_opens_no_channel_until_it_may(tmp_path):
    async with running(Gateway(tmp_path)) as gateway:
        gateway.denied.add(NODE)
        node = running_node(gateway)
        entering = asyncio.ensure_future(node.__aenter__())
        await asyncio.sleep(0.3)
        assert not gateway.hub.is_connected(node_key(NODE))
        gateway.denied.clear()
        await entering
        await node.__aexit__(None, None, None)


async def test_a_node_tells_who_it_is(gateway, node):
    await eventually(lambda: len(gateway.information) >= 2)
    empty, full = gateway.information[:2]
    assert set(empty) == {"AgentName", "AgentVersion", "InstanceId", "PlatformType"}
    assert full["ComputerName"] == "pay-api-eu1a-01"
    assert (full["PlatformName"], full["PlatformVersion"]) == ("Debian GNU/Linux", "12")
    assert full["AgentName"] == "amazon-ssm-agent"


async def test_two_sessions_on_two_nodes_do_not_meet(gateway, node):
    other = make_spec(gateway.home, "i-0bbbbbbbbbbbbbbbb", "pg-ledger-eu1a-1")
    async with running_node(gateway, spec=other):
        first, second = await gateway.open(), await gateway.open("i-0bbbbbbbbbbbbbbbb")
        await first.see(PROMPT)
        await second.see("ssm-user@pg-ledger-eu1a-1:~$ ")
        await first.run("echo secret > ~/note; echo secret > /tmp/note; chmod 777 ~ ~/note /tmp/note")
        assert "secret" not in await second.run("cat ~/note /tmp/note; ls -A ~ /tmp /home")
        assert "i-0aaaaaaaaaaaaaaaa" not in await second.run(
            "cat /proc/mounts | grep -v /home/ssm-user | grep -v /etc/"
        )


def run_as(user: str) -> dict:
    return {**DOCUMENT, "inputs": {"runAsEnabled": True, "runAsDefaultUser": user}}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({**DOCUMENT, "sessionType": "Dream"}, "Plugin with name Dream is not supported"),
        ({**DOCUMENT, "sessionType": "InteractiveCommands"}, "Commands cannot be empty"),
        (run_as("bob"), "RunAs user bob does not exist" if os.getuid() == 0 else "the agent must run as root"),
        (run_as("root"), "invalid uid and gid" if os.getuid() == 0 else "the agent must run as root"),
        (run_as(""), "please set the RunAs default user"),
    ],
)
async def test_a_session_that_cannot_start_says_why(gateway, node, document, words):
    client = await gateway.open(document_content=document)
    assert words in (await client.see_end()).output
    assert gateway.store.ended[client.session_id][0] == "Failed"


async def test_a_node_that_simulates_windows_opens_no_shell_and_says_why(gateway):
    spec = replace(make_spec(gateway.home), platform_type="Windows")
    async with running_node(gateway, spec=spec):
        client = await gateway.open()
        assert "it has no PowerShell and no shell" in (await client.see_end()).output


@pytest.mark.skipif(os.getuid() != 0, reason="only root can run a shell as somebody else")
async def test_a_shell_runs_as_the_user_that_is_asked_for(gateway, node):
    client = await gateway.open(document_content=run_as("ssm-user"), run_as_user="nobody")
    await client.see("$ ")
    assert await client.run("id -un; echo $USER") == "nobody\nnobody\n"


async def test_a_command_document_runs_its_command_with_the_callers_parameters(gateway, node):
    document = {
        "schemaVersion": "1.0",
        "sessionType": "InteractiveCommands",
        "parameters": {"what": {"type": "String", "default": "nothing"}},
        "properties": {"linux": {"commands": "echo it is {{ what }}", "runAsElevated": False}},
    }
    client = await gateway.open(document_content=document, parameters={"what": ["forty-two"]})
    await client.see_end()
    assert b"it is forty-two\r\n" in client.output


async def test_a_shell_profile_is_typed(gateway, node):
    document = {**DOCUMENT, "inputs": {"shellProfile": {"linux": "greeting=hello"}}}
    client = await gateway.open(document_content=document)
    await client.see("greeting=hello")
    assert "hello" in await client.run("echo $greeting")


async def test_rubbish_from_the_gateway_disturbs_no_session(gateway, node):
    client = await gateway.open()
    await client.see(PROMPT)
    peer = gateway.hub._sessions[client.session_id].relay.agent.peer
    for rubbish in (b"", b"x" * 119, b"\x00" * 300):
        await peer.send(rubbish)
    assert "5" in await client.run("echo $((2+3))")


async def test_a_name_that_would_leave_its_directory_starts_nothing(gateway, node):
    task = make_task(NODE, session_id="../../evil")
    await gateway.hub.start_session(task)
    await gateway.open()  # behind it on the same channel
    assert list(node._sessions) != [task.session_id]
    assert not (gateway.home.parent / "evil").exists()
