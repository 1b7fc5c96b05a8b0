"""The relay: order, loss of connections, one slow end, many busy sessions."""

import asyncio
import contextlib
import random
import tracemalloc
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetops.endpoint.channels import Peer
from fleetops.endpoint.relay import WAITING_FOR_AGENT, WAITING_FOR_CLIENT, Relay
from fleetops.wire import (
    DataChannel,
    InputReceived,
    Message,
    MessageType,
    OutputReceived,
    PublicationPaused,
    PublicationStarted,
    Role,
    peek,
    serialize,
)
from tests.endpoint.test_hub import NODE, Agent
from tests.node.gateway import Gateway, running

BIG = 32 * 1024


class Wire:
    """ASGI's receive and send without a socket: `come` is what the other end sends, `gone` what it gets."""

    def __init__(self) -> None:
        self.come: asyncio.Queue = asyncio.Queue()
        self.gone: asyncio.Queue = asyncio.Queue()
        self.is_cut = False
        self.room = asyncio.Event()
        self.room.set()
        self.peer = Peer(self.come.get, self._send)

    async def _send(self, message) -> None:
        await self.room.wait()
        if self.is_cut:
            raise ConnectionResetError
        if message["type"] == "websocket.send":
            self.gone.put_nowait(message["bytes"])

    def put(self, frame: bytes) -> None:
        self.come.put_nowait({"type": "websocket.receive", "bytes": frame})

    def cut(self) -> None:
        """End the connection; what the relay has not read yet is lost with it, as in a socket's buffer."""
        self.is_cut = True
        self.room.set()
        while not self.come.empty():
            self.come.get_nowait()
        self.come.put_nowait({"type": "websocket.disconnect", "code": 1006})

    def arrived(self) -> list[bytes]:
        frames = []
        while not self.gone.empty():
            frames.append(self.gone.get_nowait())
        return frames


def frame(message_type: str, sequence: int = 0, payload: bytes = b"x") -> bytes:
    return serialize(Message(message_type, sequence, payload, 1, uuid4(), 1))


@contextlib.asynccontextmanager
async def serving(relay: Relay, agent: Wire | None = None, client: Wire | None = None):
    tasks = []
    if agent is not None:
        tasks.append(asyncio.create_task(relay.serve_agent(agent.peer)))
    if client is not None:
        tasks.append(asyncio.create_task(relay.serve_client(client.peer)))
    await settle()
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def settle(turns: int = 30) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


async def test_frames_pass_as_they_are():
    relay, agent, client = Relay(is_port=False), Wire(), Wire()
    outward = [frame(MessageType.OUTPUT_STREAM_DATA, n, bytes([n])) for n in range(5)]
    inward = [frame(MessageType.INPUT_STREAM_DATA, n, bytes([n])) for n in range(5)]
    async with serving(relay, agent, client):
        for out, back in zip(outward, inward, strict=True):
            agent.put(out)
            client.put(back)
        await settle()
        assert client.arrived() == outward
        assert agent.arrived() == inward


@pytest.mark.parametrize(
    "rubbish",
    [
        b"",
        b"x" * 119,
        b"x" * 5000,
        frame("output_stream_data")[:-1],
        frame("output_stream_data")[:-1] + b"y",
        b"\x00\x00\x00\x75" + frame("output_stream_data")[4:],
        frame("something_else"),
        frame("channel_closed"),
        frame("interactive_shell"),
        frame("pause_publication"),
    ],
)
async def test_what_is_malformed_or_not_an_ends_to_say_is_never_forwarded(rubbish):
    relay, agent, client = Relay(is_port=False), Wire(), Wire()
    good_out, good_in = frame(MessageType.OUTPUT_STREAM_DATA), frame(MessageType.INPUT_STREAM_DATA)
    async with serving(relay, agent, client):
        for wire, good in ((agent, good_out), (client, good_in)):
            wire.put(rubbish)
            wire.put(good)
        await settle()
        assert client.arrived() == [good_out]
        assert agent.arrived() == [good_in]
        assert relay.dropped == 2


async def test_the_agents_state_stays_with_the_gateway():
    relay, agent, client = Relay(is_port=False), Wire(), Wire()
    channel = DataChannel(Role.AGENT, new_id=uuid4, session_id="s")
    async with serving(relay, agent, client):
        channel.send_state("Connected", now=1.0)
        agent.put(channel.data_to_send()[0])
        await settle()
        assert not relay.is_terminating
        channel.send_state("Terminating", now=1.0)
        agent.put(channel.data_to_send()[0])
        await settle()
        assert relay.is_terminating
        assert client.arrived() == []


async def test_what_a_client_acknowledges_while_the_agent_is_away_is_kept_in_order():
    relay, client = Relay(is_port=False), Wire()
    frames = [frame(MessageType.ACKNOWLEDGE, n) for n in range(100)]
    async with serving(relay, client=client):
        for one in frames:
            client.put(one)
        await settle(200)
        agent = Wire()
        async with serving(relay, agent):
            await settle(200)
            assert agent.arrived() == frames


@pytest.mark.parametrize("side", ["agent", "client"])
async def test_an_end_that_is_away_stops_the_reading_of_the_other_at_a_bound(side):
    relay, wire = Relay(is_port=False), Wire()
    ends = {"agent": wire} if side == "agent" else {"client": wire}
    limit = WAITING_FOR_CLIENT if side == "agent" else WAITING_FOR_AGENT
    kind = MessageType.OUTPUT_STREAM_DATA if side == "agent" else MessageType.INPUT_STREAM_DATA
    one = frame(kind, 0, b"x" * BIG)
    async with serving(relay, **ends):
        for _ in range(200):
            wire.put(one)
        await settle(1000)
        lane = relay.to_client if side == "agent" else relay.to_agent
        assert limit < lane.size <= limit + len(one)
        assert wire.come.qsize() == 200 - lane.size // len(one)
        other = Wire()
        async with serving(relay, **{"client" if side == "agent" else "agent": other}):
            await settle(2000)
            assert len([got for got in other.arrived() if got == one]) == 200
            assert lane.size == 0


async def test_an_end_that_does_not_read_stops_the_reading_of_the_other():
    relay, agent, client = Relay(is_port=False), Wire(), Wire()
    client.room.clear()
    async with serving(relay, agent, client):
        for _ in range(100):
            agent.put(frame(MessageType.OUTPUT_STREAM_DATA, 0, b"x" * BIG))
        await settle(500)
        assert agent.come.qsize() == 99  # one is in hand
        client.room.set()
        await settle(1000)
        assert len(client.arrived()) == 100


async def test_a_client_that_hangs_makes_way_for_its_next_connection_and_nothing_is_lost():
    relay, agent, hung = Relay(is_port=False), Wire(), Wire()
    frames = [frame(MessageType.OUTPUT_STREAM_DATA, n) for n in range(10)]
    async with serving(relay, agent, hung):
        hung.room.clear()
        for one in frames:
            agent.put(one)
        await settle()
        fresh = Wire()
        taking_over = asyncio.create_task(relay.serve_client(fresh.peer))
        hung.cut()  # as uvicorn does once the close frame is out
        await settle(100)
        assert fresh.arrived() == frames
        taking_over.cancel()
        await asyncio.gather(taking_over, return_exceptions=True)


async def test_the_agent_is_paused_while_no_client_is_there():
    relay, agent, client = Relay(is_port=False), Wire(), Wire()
    channel = DataChannel(Role.AGENT, new_id=uuid4)

    def told():
        for one in agent.arrived():
            channel.receive(one, now=1.0)
        return [type(event) for event in channel.events()]

    async with serving(relay, agent, client):
        assert told() == []
        client.cut()
        await settle()
        assert told() == [PublicationPaused]
        back = Wire()
        async with serving(relay, client=back):
            assert told() == [PublicationStarted]


async def test_an_agent_that_comes_back_to_an_absent_client_is_paused_again():
    relay, agent, client = Relay(is_port=False), Wire(), Wire()
    async with serving(relay, agent, client):
        client.cut()
        await settle()
        again = Wire()
        async with serving(relay, again):
            assert [peek(one).message_type for one in again.arrived()] == ["pause_publication"]


async def test_what_is_for_the_client_waits_after_the_handshake_of_a_port_session():
    relay, agent, client = Relay(is_port=True), Wire(), Wire()
    complete = serialize(Message(MessageType.OUTPUT_STREAM_DATA, 1, b"{}", 7, uuid4(), 1))
    async with serving(relay, agent, client):
        agent.put(complete)
        agent.put(frame(MessageType.ACKNOWLEDGE))
        await settle(100)
        assert client.arrived() == [complete]
        await asyncio.sleep(0.2)
        assert len(client.arrived()) == 1


async def test_sessions_that_stream_do_not_keep_another_waiting():
    """Ten agents that always have a frame, and clients that always take it: an echo passes after one frame of each."""
    relays = [(Relay(is_port=False), Wire(), Wire()) for _ in range(11)]
    one = frame(MessageType.OUTPUT_STREAM_DATA, 0, b"x" * BIG)
    async with contextlib.AsyncExitStack() as stack:
        for relay, agent, client in relays:
            await stack.enter_async_context(serving(relay, agent, client))
        for _, agent, _ in relays[1:]:
            for _ in range(2_000):
                agent.put(one)
        await settle(10)
        before = sum(client.gone.qsize() for _, _, client in relays[1:])
        relays[0][1].put(frame(MessageType.OUTPUT_STREAM_DATA))
        while relays[0][2].gone.empty():
            await asyncio.sleep(0)
        passed = sum(client.gone.qsize() for _, _, client in relays[1:]) - before
        assert passed <= 3 * len(relays)


@given(seed=st.integers(0, 10_000), cuts=st.integers(0, 6))
@settings(max_examples=30, deadline=None)
def test_bytes_arrive_in_order_and_once_whatever_connections_are_lost(seed, cuts):
    asyncio.run(_lose_connections(random.Random(seed), cuts))


async def _lose_connections(chance: random.Random, cuts: int) -> None:
    relay = Relay(is_port=False)
    channels = {side: DataChannel(side, new_id=uuid4) for side in Role}
    serve = {Role.AGENT: relay.serve_agent, Role.CLIENT: relay.serve_client}
    got = {side: bytearray() for side in Role}
    sent = {side: bytearray() for side in Role}
    now = 1_000.0
    wires: dict[Role, Wire] = {}
    tasks: list[asyncio.Task] = []

    def dial(side: Role) -> None:
        wires[side] = Wire()
        tasks.append(asyncio.create_task(serve[side](wires[side].peer)))
        channels[side].reconnected(now=now)

    def move(side: Role) -> None:
        channel = channels[side]
        for one in wires[side].arrived():
            channel.receive(one, now=now)
        for event in channel.events():
            if isinstance(event, (OutputReceived, InputReceived)):
                got[side] += event.data
            elif isinstance(event, PublicationStarted):
                channel.reconnected(now=now)
        channel.handle_timeout(now=now)
        for one in channel.data_to_send():
            wires[side].put(one)

    for side in Role:
        dial(side)
    cut_at = set(chance.sample(range(5, 60), cuts))
    for step in range(400):
        now += 0.05
        if step in cut_at:
            side = chance.choice(list(Role))
            wires[side].cut()
            if chance.random() < 0.5:
                await settle(chance.randrange(10))
            dial(side)
        if step < 60:
            for side in Role:
                channel = channels[side]
                if channel.can_send and (side is Role.AGENT or got[Role.CLIENT]):
                    data = chance.randbytes(chance.randrange(1, 3000))
                    sent[side] += data
                    (channel.send_output if side is Role.AGENT else channel.send_input)(data, now=now)
        for side in Role:
            move(side)
        await settle(10)
        if step > 60 and got[Role.CLIENT] == sent[Role.AGENT] and got[Role.AGENT] == sent[Role.CLIENT]:
            break
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert got[Role.CLIENT] == sent[Role.AGENT]
    assert got[Role.AGENT] == sent[Role.CLIENT]


async def test_a_client_that_stops_reading_costs_the_relay_no_memory_that_grows(tmp_path):
    """Through real TLS sockets: an agent that sends what it can, a client that reads nothing."""
    async with running(Gateway(tmp_path)) as gateway:
        agent = Agent(gateway)
        await agent.connect()
        client = await gateway.open(NODE)
        client.socket.transport.pause_reading()
        socket, _ = await agent.open_data(client.session_id)
        one = frame(MessageType.OUTPUT_STREAM_DATA, 0, b"x" * BIG)
        sent = 0
        tracemalloc.start()
        try:
            with contextlib.suppress(TimeoutError):
                while sent < 2_000:
                    async with asyncio.timeout(1.0):
                        await socket.send(one)
                    sent += 1
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert sent < 2_000  # it was stopped: the rest is in the kernel's buffers
        assert peak < 3 * 1024 * 1024
        # And the way in is open all the same.
        await client.socket.send(frame(MessageType.INPUT_STREAM_DATA, 0, b"\x03"))
        async with asyncio.timeout(5):
            while peek(await socket.recv()).message_type != MessageType.INPUT_STREAM_DATA:
                pass
