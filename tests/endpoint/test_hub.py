"""The hub over real TLS websockets: who may open what, and how a session ends."""

import asyncio
import json
from uuid import uuid4

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from fleetops import clock
from fleetops.endpoint.hub import NotConnected, NotYours, Patience, SessionGone
from fleetops.wire import (
    ChannelClosed,
    DataChannel,
    Role,
    SessionRequested,
    TerminationRequested,
    open_control_channel,
    open_data_channel_agent,
    payloads,
)
from fleetops.wire.controlchannel import ControlChannel, ControlRole
from tests.node.gateway import QUICK, Client, Gateway, dial, eventually, make_task, node_key, running

NODE = "i-0aaaaaaaaaaaaaaaa"
OTHER = "i-0bbbbbbbbbbbbbbbb"


@pytest.fixture
async def gateway(tmp_path):
    async with running(Gateway(tmp_path)) as gateway:
        yield gateway


class Agent:
    """The agent's role, by hand: it does only what a test tells it to."""

    def __init__(self, gateway: Gateway, instance_id: str = NODE) -> None:
        self.gateway = gateway
        self.instance_id = instance_id
        self.control = ControlChannel(ControlRole.AGENT, new_id=uuid4)

    async def connect(self) -> None:
        key = node_key(self.instance_id)
        token = await self.gateway.hub.create_control_channel(key, "r")
        self.socket = await self.gateway.connect(f"/v1/control-channel/{self.instance_id}", signer=self.instance_id)
        await self.socket.send(open_control_channel(uuid4(), token, agent_version="3.3.987.0"))
        await self.gateway.until_connected(self.instance_id)

    async def next_event(self):
        """The next thing that the gateway says on the control channel."""
        async with asyncio.timeout(5):
            while True:
                self.control.receive(await self.socket.recv(), now=clock.steady())
                if events := self.control.events():
                    return events[0]

    async def say(self, *, status: str, session_id: str, output: str = "") -> None:
        complete = payloads.AgentTaskComplete(session_id, status, self.instance_id, output)
        self.control.complete_task(complete, now=clock.steady())
        for frame in self.control.data_to_send():
            await self.socket.send(frame)

    async def open_data(self, session_id: str) -> tuple[ClientConnection, DataChannel]:
        token = await self.gateway.hub.create_data_channel(node_key(self.instance_id), session_id)
        socket = await self.gateway.connect(f"/v1/data-channel/{session_id}", signer=self.instance_id)
        await socket.send(open_data_channel_agent(uuid4(), token, instance_id=self.instance_id))
        channel = DataChannel(Role.AGENT, new_id=uuid4, session_id=session_id)
        channel.send_state("Connected", now=clock.steady())
        await send_all(socket, channel)
        await eventually(lambda: self.gateway.hub._sessions[session_id].relay.agent.peer is not None)
        return socket, channel


async def send_all(socket: ClientConnection, channel: DataChannel) -> None:
    for frame in channel.data_to_send():
        await socket.send(frame)


@pytest.fixture
async def agent(gateway):
    agent = Agent(gateway)
    await agent.connect()
    yield agent
    await agent.socket.close()


async def refusal(socket: ClientConnection) -> str:
    """The reason with which the gateway closes the websocket."""
    with pytest.raises(ConnectionClosed) as closed:
        async with asyncio.timeout(5):
            await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code in (1008, 1009)
    return closed.value.rcvd.reason


# Tokens and openers


async def test_a_token_opens_one_channel_and_no_second_one(gateway, agent):
    task = make_task(NODE)
    token = await gateway.hub.start_session(task)
    first = await dial(gateway, task.session_id, token)
    await eventually(lambda: gateway.store.sessions == [task.session_id])
    assert "used before" in await refusal(await dial(gateway, task.session_id, token))
    assert first.close_code is None
    await first.close()


async def test_a_token_is_not_used_up_by_an_opener_that_was_refused(gateway, agent):
    task = make_task(NODE)
    token = await gateway.hub.start_session(task)
    socket = await dial(gateway, task.session_id, "x" + token)
    assert "does not open this channel" in await refusal(socket)
    await dial(gateway, task.session_id, token)
    await eventually(lambda: gateway.store.sessions == [task.session_id])


async def test_a_token_of_one_session_does_not_open_another(gateway, agent):
    mine, other = make_task(NODE), make_task(NODE)
    token = await gateway.hub.start_session(mine)
    await gateway.hub.start_session(other)
    assert "does not open" in await refusal(await dial(gateway, other.session_id, token))


async def test_a_token_is_good_for_its_life_only(tmp_path):
    async with running(Gateway(tmp_path, patience=Patience(token=0.1, tick=0.02))) as gateway:
        agent = Agent(gateway)
        await agent.connect()
        task = make_task(NODE)
        token = await gateway.hub.start_session(task)
        await asyncio.sleep(0.15)
        assert "does not open" in await refusal(await dial(gateway, task.session_id, token))


async def test_the_agents_token_does_not_open_the_clients_end(gateway, agent):
    task = make_task(NODE)
    await gateway.hub.start_session(task)
    token = await gateway.hub.create_data_channel(node_key(NODE), task.session_id)
    assert "does not open" in await refusal(await dial(gateway, task.session_id, token))


async def test_another_node_gets_no_token_and_no_way_in(gateway, agent):
    task = make_task(NODE)
    await gateway.hub.start_session(task)
    with pytest.raises(NotYours):
        await gateway.hub.create_data_channel(node_key(OTHER), task.session_id)
    token = await gateway.hub.create_data_channel(node_key(NODE), task.session_id)
    socket = await gateway.connect(f"/v1/data-channel/{task.session_id}", signer=OTHER)
    await socket.send(open_data_channel_agent(uuid4(), token, instance_id=NODE))
    assert "not of this session's agent" in await refusal(socket)


async def test_a_control_token_of_another_node_is_refused(gateway):
    token = await gateway.hub.create_control_channel(node_key(OTHER), "r")
    socket = await gateway.connect(f"/v1/control-channel/{NODE}", signer=NODE)
    await socket.send(open_control_channel(uuid4(), token, agent_version="3.3.987.0"))
    assert "does not open" in await refusal(socket)
    assert not gateway.hub.is_connected(node_key(NODE))


async def test_a_node_that_is_no_longer_managed_comes_in_by_no_token_of_before(gateway):
    token = await gateway.hub.create_control_channel(node_key(NODE), "r")
    socket = await gateway.connect(f"/v1/control-channel/{NODE}", signer=NODE)
    await gateway.hub.disconnect(node_key(NODE))
    await socket.send(open_control_channel(uuid4(), token, agent_version="3.3.987.0"))
    assert "does not open" in await refusal(socket)
    assert not gateway.hub.is_connected(node_key(NODE))


async def test_an_answer_that_could_not_be_written_down_is_never_acknowledged(gateway, agent, monkeypatch):
    """Not even by what waits to be sent to the same node meanwhile."""
    written = asyncio.Event()

    async def fails(key, reply):
        await written.wait()
        raise LookupError("the database is away")

    monkeypatch.setattr(gateway.store, "job_replied", fails, raising=False)
    agent.control.reply_job(payloads.AgentJobReply(f"aws.ssm.{uuid4()}.{NODE}", "{}", "aws.ssm.sendCommand"), now=0)
    await send_all(agent.socket, agent.control)
    control = gateway.hub._controls[node_key(NODE)]
    await eventually(control.lock.locked)
    job = payloads.AgentJob(f"aws.ssm.{uuid4()}.{NODE}", "{}")
    waiting = asyncio.create_task(gateway.hub.send_job(node_key(NODE), job))
    await asyncio.sleep(0)
    written.set()
    assert not await waiting
    with pytest.raises(ConnectionClosed):
        async with asyncio.timeout(5):
            await agent.socket.recv()


@pytest.mark.parametrize(
    "first",
    ["", "{", "[]", '{"TokenValue": 5}', '{"MessageSchemaVersion": "1.0"}', "x" * 20_000, b"\x00" * 130],
    ids=["empty", "cut", "list", "number", "no token", "long", "binary"],
)
async def test_a_first_frame_that_is_no_opener_closes_that_connection_alone(gateway, agent, first):
    task = make_task(NODE)
    token = await gateway.hub.start_session(task)
    good = await dial(gateway, task.session_id, token)
    bad = await gateway.connect(f"/v1/data-channel/{task.session_id}")
    await bad.send(first)
    assert "opening message" in await refusal(bad)
    await good.ping()
    assert gateway.hub.is_connected(node_key(NODE))


async def test_a_first_frame_of_ten_megabytes_closes_that_connection_alone(gateway, agent):
    bad = await gateway.connect("/v1/data-channel/admin-1")
    with pytest.raises(ConnectionClosed):
        await bad.send("x" * 10_000_000)
        await bad.recv()
    assert bad.close_code in (1009, 1006)
    assert gateway.hub.is_connected(node_key(NODE))


async def test_an_opener_that_does_not_come_is_not_waited_for(gateway):
    socket = await gateway.connect("/v1/data-channel/admin-1")
    assert "no opening message within 1 s" in await refusal(socket)


async def test_tokens_that_nobody_uses_do_not_pile_up(gateway):
    for _ in range(1_000):
        await gateway.hub.create_control_channel(node_key(NODE), "r")
    assert sum(len(live) for live in gateway.hub._tokens._out.values()) <= 8


# Control channels


async def test_a_new_control_channel_takes_the_old_ones_place(gateway, agent):
    again = Agent(gateway)
    await again.connect()
    with pytest.raises(ConnectionClosed) as closed:
        await agent.socket.recv()
    assert closed.value.rcvd.code == 1000
    assert gateway.hub.is_connected(node_key(NODE))
    assert gateway.store.disconnected == []
    await again.socket.close()
    await eventually(lambda: gateway.store.disconnected == [node_key(NODE)])
    assert not gateway.hub.is_connected(node_key(NODE))


async def test_rubbish_on_a_control_channel_is_passed_over(gateway, agent):
    for rubbish in (b"", b"x" * 119, b"\x00" * 500):
        await agent.socket.send(rubbish)
    await agent.socket.send("text")
    task = make_task(NODE)
    await gateway.hub.start_session(task)
    assert isinstance(await agent.next_event(), SessionRequested)


async def test_a_node_that_is_not_connected_starts_no_session(gateway):
    with pytest.raises(NotConnected):
        await gateway.hub.start_session(make_task(NODE))


async def test_the_start_message_is_what_the_real_agent_reads(gateway, agent):
    task = make_task(NODE, client_is_ours=False, parameters={"a": "b"})
    await gateway.hub.start_session(task)
    frame = await agent.socket.recv()
    message = json.loads(frame[120:])
    assert frame[4:36].rstrip() == b"interactive_shell"
    assert list(message) == ["Content", "TaskId", "Topic", "SchemaVersion"]
    assert (message["TaskId"], message["Topic"], message["SchemaVersion"]) == (task.session_id, "interactive_shell", 1)
    assert json.loads(message["Content"]) == {
        "DocumentName": task.document_name,
        "DocumentContent": task.document_content,
        "SessionId": task.session_id,
        "Parameters": {"a": "b"},
        "RunAsUser": "",
        "SessionOwner": task.owner_arn,
    }


async def test_a_node_that_is_ours_is_told_when_the_client_is_too(gateway, agent):
    await gateway.hub.start_session(make_task(NODE, client_is_ours=True))
    event = await agent.next_event()
    assert event.task.document_content["clientName"] == "fleetops"


# How sessions end


async def open_both(gateway, agent, **changes) -> tuple[Client, ClientConnection, DataChannel]:
    client = await gateway.open(NODE, **changes)
    await agent.next_event()
    socket, channel = await agent.open_data(client.session_id)
    return client, socket, channel


async def test_an_agent_that_does_not_come_ends_the_session_in_words(tmp_path):
    async with running(Gateway(tmp_path, patience=Patience(first_dial=1.5, tick=0.02))) as gateway:
        agent = Agent(gateway)
        await agent.connect()
        client = await gateway.open(NODE)
        closed = await client.see_end()
        assert "did not open the session within 1.5 seconds" in closed.output
        assert gateway.store.ended[client.session_id][0] == "Failed"
        with pytest.raises(SessionGone, match="already terminated"):
            await gateway.hub.create_data_channel(node_key(NODE), client.session_id)


async def test_a_session_that_fails_says_why_and_may_be_told_twice(gateway, agent):
    client, socket, _ = await open_both(gateway, agent)
    await socket.close()
    for _ in range(2):
        await agent.say(status="Failed", session_id=client.session_id, output="Unable to start command: no shell")
    assert (await client.see_end()).output == "Unable to start command: no shell"
    assert gateway.store.ended == {client.session_id: ("Failed", "Unable to start command: no shell")}
    for _ in range(2):  # both are acknowledged
        event = await agent.next_event()
        assert event.task_id == client.session_id


async def test_an_agents_word_about_another_nodes_session_counts_for_nothing(gateway, agent):
    client, _, _ = await open_both(gateway, agent)
    stranger = Agent(gateway, OTHER)
    await stranger.connect()
    await stranger.say(status="Success", session_id=client.session_id)
    await stranger.next_event()
    assert gateway.store.ended == {}
    assert client.closed is None


async def test_the_last_output_comes_before_the_end(gateway, agent):
    client, socket, channel = await open_both(gateway, agent)
    await agent.say(status="Success", session_id=client.session_id)  # overtakes the output, on another connection
    for _ in range(100):
        channel.send_output(b"x" * 1000, now=clock.steady())
    await send_all(socket, channel)
    closing = asyncio.create_task(socket.close())
    await client.see_end()
    assert len(client.output) == 100_000
    closing.cancel()  # the closing of TLS under it may take its time
    await asyncio.gather(closing, return_exceptions=True)


async def test_terminate_tells_both_ends_and_both_channels(gateway, agent):
    client, socket, channel = await open_both(gateway, agent)
    await gateway.hub.terminate_session(client.session_id, "Ended by the administrator.")
    assert (await client.see_end()).output == "Ended by the administrator."
    assert isinstance(await agent.next_event(), TerminationRequested)
    async with asyncio.timeout(5):
        while not channel.events():
            channel.receive(await socket.recv(), now=clock.steady())
    assert gateway.store.ended[client.session_id] == ("Terminated", "Ended by the administrator.")
    await gateway.hub.terminate_session(client.session_id)
    with pytest.raises(SessionGone):
        gateway.hub.resume_session(client.session_id)


async def test_a_session_that_ended_while_its_node_was_away_is_ended_there_when_it_is_back(gateway, agent):
    client, _, _ = await open_both(gateway, agent)
    await agent.socket.close()
    await eventually(lambda: not gateway.hub.is_connected(node_key(NODE)))
    await gateway.hub.terminate_session(client.session_id)
    back = Agent(gateway)
    await back.connect()
    event = await back.next_event()
    assert isinstance(event, TerminationRequested)
    assert event.session_id == client.session_id


async def test_an_idle_session_ends_in_words_and_acknowledges_do_not_keep_it(gateway, agent):
    client, socket, channel = await open_both(gateway, agent, idle_seconds=1)
    for _ in range(6):
        channel.send_output(b"x", now=clock.steady())
        await send_all(socket, channel)
        await asyncio.sleep(0.25)
    assert client.closed is None  # output kept it
    assert "Nothing was typed or shown for 1 seconds" in (await client.see_end(seconds=4)).output


async def test_a_session_lasts_no_longer_than_it_may(gateway, agent):
    client, _, _ = await open_both(gateway, agent, longest_seconds=1)
    assert "the longest that it may last" in (await client.see_end(seconds=4)).output


async def test_an_agent_that_said_terminating_and_went_needs_no_other_word(gateway, agent):
    client, socket, channel = await open_both(gateway, agent)
    channel.send_state("Terminating", now=clock.steady())
    await send_all(socket, channel)
    await socket.close()
    assert (await client.see_end()).output == ""
    assert gateway.store.ended[client.session_id][0] == "Terminated"


async def test_a_client_that_stays_away_ends_the_session(tmp_path):
    patience = Patience(client_back=0.2, tick=0.02)
    async with running(Gateway(tmp_path, patience=patience)) as gateway:
        agent = Agent(gateway)
        await agent.connect()
        client, socket, channel = await open_both(gateway, agent)
        client.abort()
        await eventually(lambda: client.session_id in gateway.store.ended)
        async with asyncio.timeout(5):
            while not any(isinstance(event, ChannelClosed) for event in channel.events()):
                channel.receive(await socket.recv(), now=clock.steady())


async def test_after_a_restart_the_agent_and_the_client_find_their_session_again(tmp_path):
    gateway = Gateway(tmp_path)
    async with running(gateway):
        agent = Agent(gateway)
        await agent.connect()
        client, _, channel = await open_both(gateway, agent)
        task = make_task(NODE, session_id=client.session_id)
    gateway.store.kept = [task]
    async with running(gateway):
        await agent.connect()
        socket, _ = await agent.open_data(client.session_id)
        channel.send_output(b"here again", now=clock.steady())
        await client.resume()
        await send_all(socket, channel)
        await client.see("here again")


async def test_after_a_restart_a_session_whose_agent_stays_away_ends_in_words(tmp_path):
    gateway = Gateway(tmp_path, patience=Patience(agent_back=0.2, tick=0.02))
    gateway.store.kept = [make_task(NODE, session_id="admin-kept")]
    async with running(gateway):
        await eventually(lambda: "admin-kept" in gateway.store.ended)
    assert "went away and was not back" in gateway.store.ended["admin-kept"][1]


async def test_an_unknown_session_is_ended_at_a_node_that_still_has_it(gateway, agent):
    with pytest.raises(SessionGone):
        await gateway.hub.create_data_channel(node_key(NODE), "admin-forgotten")
    event = await agent.next_event()
    assert isinstance(event, TerminationRequested)
    assert event.session_id == "admin-forgotten"


async def test_an_answer_that_cannot_be_written_down_ends_the_connection_and_is_logged(gateway, agent, caplog):
    gateway.store.refused = 1
    reply = payloads.AgentJobReply(f"aws.ssm.{uuid4()}.{NODE}", "{}", "aws.ssm.sendCommand")
    agent.control.reply_job(reply, now=clock.steady())
    for frame in agent.control.data_to_send():
        await agent.socket.send(frame)
    with pytest.raises(ConnectionClosed) as closed:
        async with asyncio.timeout(5):
            await agent.socket.recv()
    assert closed.value.rcvd.code == 1011
    (record,) = [record for record in caplog.records if "control channel failed" in record.message]
    assert NODE in record.message and "the store is away" in str(record.exc_info[1])
    await eventually(lambda: not gateway.hub.is_connected(node_key(NODE)))


def test_the_real_agents_times_are_the_defaults():
    assert (Patience().opener, Patience().token, Patience().first_dial) == (15.0, 300.0, 30.0)
    assert QUICK.first_dial < Patience().first_dial
