"""What holds of a data channel whatever the way between its ends does, and whatever a peer sends."""

from __future__ import annotations

from contextlib import suppress
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetops.wire import (
    MAX_FRAME,
    DataChannel,
    InputReceived,
    OutputReceived,
    PublicationStarted,
    RemoteProtocolError,
    Role,
    SizeReceived,
    State,
    buffers,
    parse,
    payloads,
)

from .helpers import NOW, acknowledged, channel, frame, output, typed, vectors

ENDS = {Role.CLIENT: OutputReceived, Role.AGENT: InputReceived}


class Wire:
    """Two ends and a bad way between them: frames are lost, repeated, spoilt and put out of order."""

    def __init__(self, chance: Random, *, loss: float, repetition: float, damage: float) -> None:
        self.chance = chance
        self.loss, self.repetition, self.damage = loss, repetition, damage
        self.now = NOW
        self.agent = channel(Role.AGENT, max_payload=7)
        self.client = channel(Role.CLIENT, max_payload=5)
        self.got = {Role.CLIENT: b"", Role.AGENT: b""}

    def carry(self, sender: DataChannel, receiver: DataChannel, *, well: bool) -> None:
        sender.handle_timeout(now=self.now)
        frames = sender.data_to_send()
        if not well:
            frames += [item for item in frames if self.chance.random() < self.repetition]
            frames = [item for item in frames if self.chance.random() >= self.loss]
            self.chance.shuffle(frames)
        for item in frames:
            if not well and self.chance.random() < self.damage:
                spoilt = bytearray(item)
                spoilt[self.chance.randrange(80, len(item))] ^= 1 << self.chance.randrange(8)
                spoilt[112:116] = item[112:116]  # the payload type, which nothing guards
                if spoilt != item:
                    with pytest.raises(RemoteProtocolError):
                        receiver.receive(bytes(spoilt), now=self.now)
            receiver.receive(item, now=self.now)
        for event in receiver.events():
            if isinstance(event, ENDS[receiver.role]):
                self.got[receiver.role] += event.data

    def step(self, *, well: bool = False) -> None:
        self.now += 0.05
        self.carry(self.agent, self.client, well=well)
        self.carry(self.client, self.agent, well=well)

    def settle(self) -> None:
        """Let the way be good until nothing is under way; fails if that never comes."""
        for _ in range(3000):
            if not self.agent.unacknowledged and not self.client.unacknowledged:
                return
            self.step(well=True)
        raise AssertionError("the ends never came to rest")


share = st.floats(0, 0.6)
chunks = st.lists(st.binary(min_size=1, max_size=40), max_size=8)


@settings(max_examples=60)
@given(st.randoms(use_true_random=False), share, share, share, chunks, chunks)
def test_all_bytes_arrive_once_and_in_order_in_both_directions(chance, loss, repetition, damage, down, up):
    wire = Wire(chance, loss=loss, repetition=repetition, damage=damage)
    wire.agent.send_output(b"$", now=NOW)
    for index in range(max(len(down), len(up))):
        if index < len(down):
            wire.agent.send_output(down[index], now=wire.now)
        if index < len(up):
            while not wire.client.can_send:
                wire.step()
            wire.client.send_input(up[index], now=wire.now)
        wire.step()
    wire.settle()
    assert wire.got[Role.CLIENT] == b"$" + b"".join(down)
    assert wire.got[Role.AGENT] == b"".join(up)
    assert wire.agent.acknowledged_through == wire.agent.next_sequence - 1
    assert wire.client.expected_sequence == wire.agent.next_sequence


@settings(max_examples=40)
@given(
    st.randoms(use_true_random=False), share, chunks, st.lists(st.sampled_from(["pause", "start", "new"]), max_size=6)
)
def test_pauses_and_new_transports_lose_nothing(chance, loss, down, happenings):
    wire = Wire(chance, loss=loss, repetition=0.2, damage=0)
    wire.agent.send_output(b"$", now=NOW)
    for index in range(max(len(down), len(happenings))):
        if index < len(happenings):
            match happenings[index]:
                case "pause":
                    wire.agent.receive(frame("pause_publication"), now=wire.now)
                case "start":
                    wire.agent.receive(frame("start_publication"), now=wire.now)
                case "new":
                    wire.agent.reconnected(now=wire.now)
                    wire.client.reconnected(now=wire.now)
        if index < len(down):
            wire.agent.send_output(down[index], now=wire.now)
        wire.step()
    wire.agent.receive(frame("start_publication"), now=wire.now)
    wire.settle()
    assert wire.got[Role.CLIENT] == b"$" + b"".join(down)


@settings(max_examples=40)
@given(st.randoms(use_true_random=False), share, st.lists(st.booleans(), min_size=1, max_size=12), st.booleans())
def test_an_owner_may_die_at_any_moment_and_its_heir_misses_and_repeats_nothing(chance, loss, deaths, unsent):
    """The journal holds what was handed out and the numbers given; the dead owner's frames and stores are lost."""
    wire = Wire(chance, loss=loss, repetition=0.2, damage=0)
    wire.client = channel(Role.CLIENT, acknowledge_stored=False)
    typed_bytes = b""
    for index, dies in enumerate(deaths):
        wire.agent.send_output(b"<%d>" % index * 3, now=wire.now)
        wire.step()
        if wire.client.can_send:
            wire.client.send_input(b"%d" % index, now=wire.now)
            if not (unsent and dies):  # else the number is in the journal, and the frame dies with the owner
                wire.step()
            typed_bytes += b"%d" % index
        if dies:
            dead = wire.client
            open_numbers = range(dead.acknowledged_through + 1, dead.next_sequence)
            wire.client = channel(
                Role.CLIENT,
                next_sequence=dead.next_sequence,
                expected_sequence=dead.expected_sequence,
                acknowledge_stored=False,
            )
            wire.client.fill(open_numbers, 80, 24, now=wire.now)
    wire.settle()
    expected = b"".join(b"<%d>" % index * 3 for index in range(len(deaths)))
    assert wire.got[Role.CLIENT] == expected
    # What never left is gone, and was never typed twice.
    remaining = iter(typed_bytes)
    assert all(octet in remaining for octet in wire.got[Role.AGENT])


@given(st.permutations(range(6)), st.lists(st.integers(0, 5)))
def test_output_comes_out_in_order_and_once_whatever_order_it_arrives_in(order, repeats):
    client = channel(Role.CLIENT)
    for number in [*order, *repeats]:
        client.receive(output(number, b"%d" % number), now=0.0)
    assert b"".join(event.data for event in client.events()) == b"012345"


def within_bounds(end: DataChannel) -> None:
    assert len(end._incoming) <= buffers.MAX_INCOMING_MESSAGES
    assert end._incoming.size <= buffers.MAX_INCOMING_BYTES
    assert end.unacknowledged <= buffers.MAX_OUTGOING_MESSAGES
    assert end.unacknowledged_bytes <= buffers.MAX_OUTGOING_BYTES
    assert len(end._events) <= 2 * buffers.MAX_EVENTS
    assert end._event_bytes <= buffers.MAX_EVENT_BYTES + buffers.MAX_INCOMING_BYTES + MAX_FRAME
    assert len(end._outbox) <= buffers.MAX_ACKNOWLEDGES + buffers.MAX_OUTGOING_MESSAGES


GOLDEN = [bytes.fromhex(vector["hex"]) for vector in vectors("agent-message.json")["messages"]]


@given(st.sampled_from(Role), st.sampled_from(State), st.lists(st.binary(max_size=300), max_size=5))
def test_random_bytes_are_the_peers_error_and_nothing_else(role, state, noise):
    end = channel(role, state=state)
    for item in noise:
        with pytest.raises(RemoteProtocolError):
            end.receive(item, now=NOW)
    assert (end.state, end.events(), end.data_to_send()) == (state, [], [])


messages = st.builds(
    frame,
    st.sampled_from(
        ["input_stream_data", "output_stream_data", "acknowledge", "pause_publication", "start_publication"]
        + ["agent_session_state", "interactive_shell"]
    ),
    st.binary(min_size=1, max_size=60)
    | st.sampled_from([parse(item).payload for item in GOLDEN])
    | st.integers(-2, 20).map(lambda n: payloads.acknowledge("x", "0" * 8 + "-0000-0000-0000-" + "0" * 12, n)),
    st.integers(0, 8) | st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 13) | st.integers(0, 2**32 - 1),
)


@settings(max_examples=150)
@given(st.sampled_from(Role), st.sampled_from(State), st.lists(messages | st.sampled_from(GOLDEN), max_size=15))
def test_well_formed_nonsense_is_the_peers_error_and_keeps_the_bounds(role, state, items):
    end = channel(role, state=state)
    for item in items:
        before = end.expected_sequence
        with suppress(RemoteProtocolError):
            end.receive(item, now=NOW)
        assert end.expected_sequence >= before
        within_bounds(end)


@given(st.sampled_from(Role), st.sampled_from(GOLDEN), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255))))
def test_a_changed_frame_is_taken_in_or_is_the_peers_error(role, item, changes):
    changed = bytearray(item)
    for offset, octet in changes:
        changed[offset % len(changed)] = octet
    end = channel(role)
    with suppress(RemoteProtocolError):
        end.receive(bytes(changed), now=NOW)
    within_bounds(end)


def test_a_flood_that_nobody_fetches_keeps_every_bound():
    large, small = bytes(200_000), b"x"
    client = channel(Role.CLIENT)
    for sequence in [*range(1, 12_000), 2**40]:
        client.receive(output(sequence, large if sequence % 100 == 0 else small), now=NOW)
    for sequence in range(200):
        client.receive(output(sequence, large), now=NOW)
        client.receive(output(0, small), now=NOW)
        client.receive(frame("agent_session_state", b"{}"), now=NOW)
        within_bounds(client)
    agent = channel(Role.AGENT)
    for _ in range(12_000):
        agent.receive(frame("pause_publication"), now=NOW)
        agent.receive(frame("start_publication"), now=NOW)
    within_bounds(agent)
    for sequence in range(12_000):
        agent.receive(typed(sequence, b'{"cols":1,"rows":1}', 3), now=NOW)
        agent.receive(acknowledged(sequence), now=NOW)
    within_bounds(agent)
    assert agent.events().count(PublicationStarted()) < buffers.MAX_EVENTS


def test_the_stream_goes_on_after_the_flood_is_fetched():
    agent = channel(Role.AGENT)
    size = b'{"cols":1,"rows":1}'
    for sequence in range(buffers.MAX_EVENTS + 5):
        agent.receive(typed(sequence, size, 3), now=NOW)
    assert len(agent.events()) == buffers.MAX_EVENTS
    for sequence in range(buffers.MAX_EVENTS, buffers.MAX_EVENTS + 5):
        agent.receive(typed(sequence, size, 3), now=NOW)
    assert agent.events() == [SizeReceived(1, 1)] * 5
