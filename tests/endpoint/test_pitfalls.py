"""What the real programs stumble over, and what a gateway must therefore never do, one test for each.

The others that ssm-protocol.md names stand where they belong: frames and channels in tests/wire; order, acknowledges,
pauses and the wait after a port session's handshake in test_relay; tokens, ends and time-outs in test_hub.
"""

import asyncio
import contextlib
import json
from uuid import uuid4

import pytest
from websockets.exceptions import ConnectionClosed

from fleetops import clock
from fleetops.endpoint.hub import TooManySessions
from fleetops.endpoint.relay import MOST_ABOVE, Acknowledged, Relay
from fleetops.wire import (
    DataChannel,
    InputReceived,
    Message,
    MessageType,
    Role,
    SessionRequested,
    TaskAcknowledged,
    payloads,
    peek,
    serialize,
    smux,
)
from tests.endpoint.test_hub import NODE, OTHER, Agent, open_both, send_all
from tests.endpoint.test_relay import Wire, frame, serving, settle
from tests.node.gateway import Gateway, Patience, eventually, make_task, node_key, running

GOOD = serialize(Message("output_stream_data", 0, b"good", 1, uuid4(), 1))


def _with(offset: int, octets: bytes) -> bytes:
    return GOOD[:offset] + octets + GOOD[offset + len(octets) :]


# Each would panic one of the real programs, or mislead it; see ssm-protocol.md, 2.5.
BAD_FRAMES = {
    "116 bytes": GOOD[:116],
    "117 bytes": GOOD[:117],
    "118 bytes": GOOD[:118],
    "119 bytes": GOOD[:119],
    "cut payload": GOOD[:-1],
    "longer payload": GOOD + b"x",
    "header length 0": _with(0, bytes(4)),
    "header length 115": _with(0, (115).to_bytes(4, "big")),
    "header length 117": _with(0, (117).to_bytes(4, "big")),
    "header length past the end": _with(0, (2**31).to_bytes(4, "big")),
    "digest": _with(80, b"x" * 32),
    "payload length": _with(116, (2**32 - 1).to_bytes(4, "big")),
    "no type": _with(4, b" " * 32),
    "type of zeros": _with(4, bytes(32)),
    "unknown type": _with(4, b"agent_job".ljust(32)),
    "a gateway's own word": _with(4, b"channel_closed".ljust(32)),
    "date 0": _with(40, bytes(8)),
    "nothing": b"",
    "text": "a text frame",
}


@pytest.fixture
async def gateway(tmp_path):
    async with running(Gateway(tmp_path)) as gateway:
        yield gateway


@pytest.fixture
async def agent(gateway):
    agent = Agent(gateway)
    await agent.connect()
    yield agent
    await agent.socket.close()


@pytest.fixture
async def other(gateway):
    """Another node, to which nothing of this may leak."""
    agent = Agent(gateway, OTHER)
    await agent.connect()
    yield agent
    await agent.socket.close()


async def say(socket, channel, text: str) -> None:
    channel.send_output(text.encode(), now=clock.steady())
    await send_all(socket, channel)


async def hear(socket, channel: DataChannel, text: bytes) -> None:
    """Wait until the agent's end has been typed `text`."""
    heard = b""
    async with asyncio.timeout(5):
        while text not in heard:
            channel.receive(await socket.recv(), now=clock.steady())
            heard += b"".join(event.data for event in channel.events() if isinstance(event, InputReceived))


async def test_no_bad_frame_reaches_the_other_end_or_another_node(gateway, agent, other):
    client, socket, channel = await open_both(gateway, agent)
    stranger = await gateway.open(OTHER)
    await other.next_event()
    far_socket, far = await other.open_data(stranger.session_id)

    seen = []
    receive = client.channel.receive
    client.channel.receive = lambda frame, *, now: (seen.append(frame), receive(frame, now=now))
    for bad in BAD_FRAMES.values():
        await socket.send(bad)
        await client.socket.send(bad)
    await say(socket, channel, "still here ")
    await client.see("still here ")
    await client.type("ls")
    await hear(socket, channel, b"ls")
    assert {peek(each).message_type for each in seen} <= {"output_stream_data", "acknowledge"}
    assert not any(bad in seen for bad in BAD_FRAMES.values())
    assert gateway.hub._sessions[client.session_id].relay.dropped == 2 * len(BAD_FRAMES)

    await say(far_socket, far, "undisturbed ")
    await stranger.see("undisturbed ")
    assert bytes(stranger.output) == b"undisturbed "
    assert gateway.hub._sessions[stranger.session_id].relay.dropped == 0


@pytest.mark.parametrize("name", BAD_FRAMES)
async def test_a_bad_frame_on_a_control_channel_is_passed_over(gateway, agent, other, name):
    await agent.socket.send(BAD_FRAMES[name])
    await gateway.hub.start_session(make_task(NODE))
    assert isinstance(await agent.next_event(), SessionRequested)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await other.socket.recv()
    assert gateway.hub.is_connected(node_key(OTHER))


@pytest.mark.parametrize("channel", ["control", "agent", "client"])
async def test_a_frame_over_the_limit_ends_that_connection_alone(gateway, agent, other, channel):
    client, socket, agent_channel = await open_both(gateway, agent)
    guilty = {"control": agent.socket, "agent": socket, "client": client.socket}[channel]
    with contextlib.suppress(ConnectionClosed):
        await guilty.send(b"x" * 300_000)
    async with asyncio.timeout(5):
        await guilty.wait_closed()
    assert guilty.close_code in (1009, 1006)
    assert gateway.hub.is_connected(node_key(OTHER))
    assert client.session_id in gateway.hub._sessions
    if channel == "client":
        await client.resume()
    elif channel == "agent":
        socket, _ = await agent.open_data(client.session_id)
        agent_channel.reconnected(now=clock.steady())
    await say(socket, agent_channel, "goes on ")
    await client.see("goes on ")


async def test_a_message_in_fragments_passes_whole(gateway, agent):
    client, socket, channel = await open_both(gateway, agent)
    channel.send_output(b"x" * 1000 + b"end", now=clock.steady())
    (whole,) = channel.data_to_send()
    await socket.send([whole[:1], whole[1:118], whole[118:119], whole[119:600], whole[600:]])
    await client.see("end")
    assert len(client.output) == 1003


async def test_pings_are_answered_with_their_own_payload(gateway, agent):
    """The agent takes a connection for dead that does not, 60 seconds after."""
    client, socket, _ = await open_both(gateway, agent)
    for each in (agent.socket, socket, client.socket):
        pong = await each.ping("keepalive")
        async with asyncio.timeout(5):
            await pong


@pytest.mark.parametrize("side", ["agent", "client"])
async def test_an_end_that_goes_without_a_close_frame_may_come_back(gateway, agent, side):
    """Neither program ever sends one: 1006 is how they leave."""
    client, socket, channel = await open_both(gateway, agent)
    relay = gateway.hub._sessions[client.session_id].relay
    if side == "agent":
        socket.transport.abort()
        await eventually(lambda: relay.agent.peer is None)
        socket, _ = await agent.open_data(client.session_id)
    else:
        client.abort()
        await eventually(lambda: relay.client.peer is None)
        await client.resume()
    await say(socket, channel, "back ")
    await client.see("back ")
    assert gateway.store.ended == {}


async def test_a_session_outlives_its_nodes_control_channel_and_is_not_started_twice(gateway, agent):
    """The agent drops a second start message without a word, and its session worker knows nothing of the loss."""
    client, socket, channel = await open_both(gateway, agent)
    agent.socket.transport.abort()
    await eventually(lambda: not gateway.hub.is_connected(node_key(NODE)))
    await say(socket, channel, "alone ")
    await client.see("alone ")
    back = Agent(gateway)
    await back.connect()
    await gateway.hub.start_session(make_task(NODE))
    event = await back.next_event()
    assert event.task.session_id != client.session_id
    await back.say(status="Success", session_id=client.session_id)
    await socket.close()
    await client.see_end()
    await back.socket.close()


async def test_the_end_of_a_session_is_acknowledged_though_nobody_knows_it(gateway, agent):
    """Else the agent tells it three times; one that we never had is acknowledged as well."""
    await agent.say(status="Failed", session_id="admin-unknown", output="x")
    event = await agent.next_event()
    assert isinstance(event, TaskAcknowledged)


async def test_what_the_client_is_told_in_the_end_is_as_the_plugin_reads_it(gateway, agent):
    client, _, _ = await open_both(gateway, agent)
    frames = []
    receive = client.channel.receive
    client.channel.receive = lambda frame, *, now: (frames.append(frame), receive(frame, now=now))
    await gateway.hub.terminate_session(client.session_id, "Ended by <policy> & friends.")
    await client.see_end()
    told = json.loads(frames[-1][120:])
    members = {"MessageType", "MessageId", "DestinationId", "SessionId", "SchemaVersion", "CreatedDate", "Output"}
    assert set(told) == members
    assert (told["MessageType"], told["SchemaVersion"], told["DestinationId"]) == ("channel_closed", 1, NODE)
    assert isinstance(told["CreatedDate"], str) and told["SessionId"] == client.session_id
    assert told["Output"] == "Ended by <policy> & friends."


async def test_a_node_is_given_no_more_sessions_than_its_agent_can_run(gateway, agent, other, monkeypatch):
    """One more, and the real agent reads its control channel no longer."""
    monkeypatch.setattr("fleetops.endpoint.hub.SESSIONS_EACH", 2)
    first = make_task(NODE)
    await gateway.hub.start_session(first)
    await gateway.hub.start_session(make_task(NODE))
    with pytest.raises(TooManySessions, match="2 sessions open"):
        await gateway.hub.start_session(make_task(NODE))
    await gateway.hub.start_session(make_task(OTHER))
    await gateway.hub.terminate_session(first.session_id)
    await gateway.hub.start_session(make_task(NODE))


async def test_a_session_ends_at_its_longest_duration_by_the_shifted_clock(tmp_path, monkeypatch):
    file = tmp_path / "clock.json"
    monkeypatch.setattr(clock, "_file", file)
    async with running(Gateway(tmp_path)) as gateway:
        agent = Agent(gateway)
        await agent.connect()
        client, socket, channel = await open_both(gateway, agent, longest_seconds=8 * 3600)
        clock.set_shift(file, jump=7 * 3600)
        await asyncio.sleep(0.2)
        await say(socket, channel, "seven hours later ")
        await client.see("seven hours later ")
        clock.set_shift(file, jump=3600)
        assert "after 480 minutes, the longest that it may last" in (await client.see_end()).output


async def test_a_session_restored_after_a_restart_keeps_the_rest_of_its_duration(tmp_path):
    gateway = Gateway(tmp_path)
    gateway.store.kept = [
        make_task(NODE, session_id="admin-old", longest_seconds=3600, age_seconds=3601),
        make_task(NODE, session_id="admin-young", longest_seconds=3600, age_seconds=3000),
    ]
    async with running(gateway):
        await eventually(lambda: "admin-old" in gateway.store.ended)
        assert "admin-young" not in gateway.store.ended


# The relay alone


def acknowledge(sequence: int) -> bytes:
    payload = payloads.acknowledge("output_stream_data", str(uuid4()), sequence)
    return serialize(Message(MessageType.ACKNOWLEDGE, 0, payload, 0, uuid4(), 1))


async def test_what_the_client_acknowledged_and_the_agent_repeats_is_acknowledged_in_its_name():
    """The plugin acknowledges no message twice: the agent would repeat that one for the rest of the session.

    An acknowledge may be lost with the agent's connection, or overtake the agent's own book-keeping.
    """
    relay, agent, client = Relay(is_port=False), Wire(), Wire()
    channel = DataChannel(Role.AGENT, new_id=uuid4)
    numbers = channel.send_output(b"x" * 5_000, now=1.0)
    async with serving(relay, agent, client):
        for each in channel.data_to_send():
            agent.put(each)
        await settle()
        for number in numbers:
            client.put(acknowledge(number))
        await settle()
        assert len(agent.arrived()) == len(numbers)  # and the agent has taken in none of them
        before = len(client.arrived())
        assert before == len(numbers)
        for turn in range(len(numbers)):
            assert channel.unacknowledged == len(numbers) - turn
            channel.handle_timeout(now=10.0 * (turn + 1))
            for each in channel.data_to_send():
                agent.put(each)
            await settle()
            for each in agent.arrived():
                channel.receive(each, now=10.0 * (turn + 1))
        assert channel.unacknowledged == 0
        assert client.arrived() == []


async def test_what_the_client_has_not_acknowledged_is_acknowledged_by_nobody_else():
    relay, agent, client = Relay(is_port=False), Wire(), Wire()
    frames = [output(b"x", number) for number in range(3)]
    async with serving(relay, agent, client):
        for each in frames:
            agent.put(each)
        client.put(acknowledge(0))
        client.put(acknowledge(2))
        client.put(frame(MessageType.ACKNOWLEDGE, 0, b"no json"))
        await settle()
        agent.arrived(), client.arrived()
        for each in frames:
            agent.put(each)
        await settle()
        assert client.arrived() == [frames[1]]
        answers = [payloads.acknowledged_sequence(each[120:]) for each in agent.arrived()]
        assert answers == [0, 2]


def test_what_is_remembered_of_acknowledges_is_bounded():
    known = Acknowledged()
    for number in range(0, 40_000, 2):  # a gap behind each
        known.add(number)
    assert len(known._above) <= MOST_ABOVE
    assert 39_998 in known and 39_999 not in known
    in_order = Acknowledged()
    for number in [5, *range(7, 2_000), 6, 4]:
        in_order.add(number)
    assert len(in_order._above) <= 1
    assert all(number in in_order for number in range(4, 2_000)) and 3 not in in_order


async def test_an_agent_that_comes_back_while_its_client_is_away_stays_paused_in_the_end(tmp_path):
    """Any acknowledge ends a pause, so those that waited for the agent must not come behind it."""
    async with running(Gateway(tmp_path, patience=Patience(pause=0.1, tick=0.02))) as gateway:
        agent = Agent(gateway)
        await agent.connect()
        client, socket, channel = await open_both(gateway, agent)
        relay = gateway.hub._sessions[client.session_id].relay
        socket.transport.abort()
        await eventually(lambda: relay.agent.peer is None)
        await client.socket.send(acknowledge(0))
        await eventually(lambda: relay.to_agent.size > 0)
        client.abort()
        await eventually(lambda: relay.client.peer is None)
        socket, _ = await agent.open_data(client.session_id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                while True:
                    channel.receive(await socket.recv(), now=clock.steady())
        assert relay.to_agent.size == 0
        assert channel.is_paused


def output(data: bytes, sequence: int) -> bytes:
    return frame(MessageType.OUTPUT_STREAM_DATA, sequence, data)


@pytest.mark.parametrize("side", ["agent", "client"])
async def test_keep_alives_of_a_forwarded_port_do_not_keep_an_idle_session(side):
    """One comes every ten seconds where a plugin is older than 1.2.332."""
    relay, agent, client = Relay(is_port=True), Wire(), Wire()
    kind = MessageType.OUTPUT_STREAM_DATA if side == "agent" else MessageType.INPUT_STREAM_DATA
    wire = agent if side == "agent" else client
    keep_alive = smux.SmuxFrame(smux.Command.NOP, 0).serialize()
    async with serving(relay, agent, client):
        began = relay.moved_at
        relay._clock = lambda: began + 5
        for sequence in range(3):
            wire.put(frame(kind, sequence, keep_alive))
        await settle()
        assert relay.moved_at == began
        wire.put(frame(kind, 3, smux.push(3, b"data")[0]))
        await settle()
        assert relay.moved_at == began + 5


async def test_bytes_of_a_shell_that_look_like_a_keep_alive_count():
    relay, agent, client = Relay(is_port=False), Wire(), Wire()
    async with serving(relay, agent, client):
        began = relay.moved_at
        relay._clock = lambda: began + 5
        agent.put(output(smux.SmuxFrame(smux.Command.NOP, 0).serialize(), 0))
        await settle()
        assert relay.moved_at == began + 5


async def test_a_repeated_message_and_an_acknowledge_do_not_keep_an_idle_session():
    relay, agent, client = Relay(is_port=False), Wire(), Wire()
    async with serving(relay, agent, client):
        agent.put(output(b"x", 0))
        await settle()
        began = relay.moved_at
        relay._clock = lambda: began + 5
        agent.put(output(b"x", 0))
        client.put(acknowledge(0))
        await settle()
        assert relay.moved_at == began
        assert len(client.arrived()) == 2


async def test_what_waits_for_a_client_is_held_back_behind_the_handshake_of_a_port_session_too():
    """The plugin's reader dies of whatever comes before its multiplexer stands; it may have been away meanwhile."""
    relay, agent, client = Relay(is_port=True), Wire(), Wire()
    complete = serialize(Message(MessageType.OUTPUT_STREAM_DATA, 1, b"{}", 7, uuid4(), 1))
    behind = [frame(MessageType.ACKNOWLEDGE), output(b"x", 2)]
    async with serving(relay, agent):
        for each in (complete, *behind):
            agent.put(each)
        await eventually(lambda: relay.to_client.size == sum(map(len, [complete, *behind])))
        async with serving(relay, client=client):
            agent.put(output(b"y", 3))
            await settle(100)
            assert client.arrived() == [complete]
            await asyncio.sleep(0.2)
            assert len(client.arrived()) == 3


async def test_versions_pass_untouched():
    """Both programs decide by the other's version about multiplexing, and must come to the same answer."""
    relay, agent, client = Relay(is_port=True), Wire(), Wire()
    request = payloads.HandshakeRequest.for_session("2.3.722.0", "Port", {"portNumber": "80"})
    response = payloads.answer_handshake(request, client_version="1.1.69.0")
    asked = serialize(Message(MessageType.OUTPUT_STREAM_DATA, 0, request.serialize(), 5, uuid4(), 1))
    answered = serialize(Message(MessageType.INPUT_STREAM_DATA, 0, response.serialize(), 6, uuid4(), 1))
    async with serving(relay, agent, client):
        agent.put(asked)
        client.put(answered)
        await settle()
        assert (client.arrived(), agent.arrived()) == ([asked], [answered])


async def test_a_client_that_is_closing_does_not_end_the_agents_loop():
    relay, agent, client = Relay(is_port=False), Wire(), Wire()
    frames = [output(b"x", n) for n in range(5)]
    async with serving(relay, agent):
        async with serving(relay, client=client):
            client.is_cut = True  # every write to it fails; that it is gone is not known yet
            for each in frames:
                agent.put(each)
            await settle()
        fresh = Wire()
        async with serving(relay, client=fresh):
            await settle()
            assert fresh.arrived() == frames
