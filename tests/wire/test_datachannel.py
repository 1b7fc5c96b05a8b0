from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetops.wire import (
    MAX_PAYLOAD,
    Acknowledged,
    AgentStateChanged,
    ChannelClosed,
    DataChannel,
    ExitCodeReceived,
    Flag,
    FlagReceived,
    HandshakeCompleted,
    HandshakeRequested,
    HandshakeResponded,
    InputReceived,
    LocalProtocolError,
    MessageType,
    OutputReceived,
    PayloadType,
    PublicationPaused,
    PublicationStarted,
    RemoteProtocolError,
    RetransmissionGaveUp,
    Role,
    SizeReceived,
    State,
    buffers,
    parse,
    payloads,
)

from .helpers import (
    NOW,
    SESSION,
    acknowledged,
    acknowledges,
    channel,
    frame,
    opened_client,
    output,
    stream,
    typed,
    vectors,
)

REQUEST = payloads.HandshakeRequest.for_session("3.3.987.0", "Port", {"portNumber": "80"})
RESPONSE = payloads.answer_handshake(REQUEST, client_version="1.2.650.0")
COMPLETE = payloads.HandshakeComplete(1, "welcome")


def at(seconds: float):
    """A moment so many seconds after NOW. A relative tolerance would be half an hour."""
    return pytest.approx(NOW + seconds, rel=0, abs=1e-5)


def hand_over(sender: DataChannel, receiver: DataChannel, now: float = NOW) -> list[bytes]:
    """Carry all that waits from one end to the other."""
    frames = sender.data_to_send()
    for item in frames:
        receiver.receive(item, now=now)
    return frames


# Numbers, payloads, acknowledges


def test_each_end_counts_its_own_messages_from_zero_and_agents_mark_the_first():
    agent = channel(Role.AGENT)
    client = channel(Role.CLIENT)
    assert agent.send_output(b"$ ", now=NOW) == [0]
    assert agent.send_output(b"ls", now=NOW) == [1]
    first, second = [parse(item) for item in hand_over(agent, client)]
    assert (first.flags, second.flags) == (1, 0)
    assert client.send_input(b"x", now=NOW) == [0]
    message = parse(client.data_to_send()[-1])
    assert (message.message_type, message.flags, message.payload_type) == ("input_stream_data", 0, PayloadType.OUTPUT)
    assert message.created_ms == int(NOW * 1000)
    assert agent.next_sequence == 2
    assert client.expected_sequence == 2


def test_what_is_longer_than_a_payload_is_cut():
    client = opened_client(max_payload=4)
    assert client.send_input(b"0123456789", now=NOW) == [0, 1, 2]
    assert stream(client.data_to_send()) == [(0, b"0123"), (1, b"4567"), (2, b"89")]
    client.max_payload = 32 * 1024
    assert client.send_input(b"x" * 32 * 1024, now=NOW) == [3]


def test_nothing_is_sent_for_no_bytes():
    client = opened_client()
    assert client.send_input(b"", now=NOW) == []
    assert client.data_to_send() == []


def test_the_real_agents_frames_make_a_session():
    client = channel(Role.CLIENT)
    golden = {vector["name"]: bytes.fromhex(vector["hex"]) for vector in vectors("agent-message.json")["messages"]}
    for name in ("output-first-syn", "output-second", "stderr", "exit-code"):
        client.receive(golden[name], now=NOW)
    assert client.events() == [
        OutputReceived(b"sh-5.2$ ", 0, 1),
        OutputReceived(b"hello\r\n", 1, 1),
        OutputReceived(b"ls: cannot access x\n", 2, 11),
        ExitCodeReceived(2),
    ]
    acknowledge = parse(client.data_to_send()[0])
    expected = parse(golden["ack-of-output"])
    assert acknowledge.payload == expected.payload
    assert (acknowledge.flags, acknowledge.sequence) == (expected.flags, expected.sequence)


def test_the_real_plugins_frames_reach_the_agents_terminal():
    agent = channel(Role.AGENT, expected_sequence=7, next_sequence=1)
    for name in ("input-single-cr", "input-ctrl-c"):
        vector = next(vector for vector in vectors("agent-message.json")["messages"] if vector["name"] == name)
        agent.receive(bytes.fromhex(vector["hex"]), now=NOW)
    assert agent.events() == [InputReceived(b"\r", 7), InputReceived(b"\x03", 8)]


def test_what_a_client_sends_is_understood_by_an_agent():
    client = opened_client()
    agent = channel(Role.AGENT)
    client.send_size(120, 40, now=NOW)
    client.send_flag(Flag.TERMINATE_SESSION, now=NOW)
    client.send_input(b"x", now=NOW)
    hand_over(client, agent)
    assert agent.events() == [SizeReceived(120, 40), FlagReceived(2), InputReceived(b"x", 2)]


def test_what_an_agent_sends_is_understood_by_a_client():
    agent = channel(Role.AGENT)
    client = channel(Role.CLIENT)
    agent.send_state("Connected", now=NOW)
    agent.send_output(b"err", payload_type=PayloadType.STDERR, now=NOW)
    agent.send_flag(Flag.CONNECT_TO_PORT_ERROR, now=NOW)
    agent.send_output(payloads.exit_code(3), payload_type=PayloadType.EXIT_CODE, now=NOW)
    hand_over(agent, client)
    assert client.events() == [
        AgentStateChanged("Connected"),
        OutputReceived(b"err", 0, PayloadType.STDERR),
        FlagReceived(3),
        ExitCodeReceived(3),
    ]


def test_a_session_state_is_written_as_the_agent_writes_it():
    agent = channel(Role.AGENT)
    agent.send_state("Terminating", now=NOW)
    message = parse(agent.data_to_send()[0])
    golden = next(v for v in vectors("agent-message.json")["messages"] if v["name"] == "session-state-terminating")
    assert message.payload == bytes.fromhex(golden["payload_hex"])
    assert (message.flags, message.sequence) == (3, 0)


def test_a_message_in_order_is_acknowledged_behind_its_event():
    client = channel(Role.CLIENT)
    client.receive(output(0, b"a"), now=NOW)
    assert client.events() == [OutputReceived(b"a", 0, PayloadType.OUTPUT)]
    assert acknowledges(client.data_to_send()) == [0]


@pytest.mark.parametrize(("role", "message"), [(Role.CLIENT, output), (Role.AGENT, typed)])
def test_a_duplicate_is_acknowledged_again_and_not_handed_out_again(role, message):
    end = channel(role)
    for _ in range(3):
        end.receive(message(0, b"a"), now=NOW)
    assert len(end.events()) == 1
    assert acknowledges(end.data_to_send()) == [0, 0, 0]


@pytest.mark.parametrize(("role", "message"), [(Role.CLIENT, output), (Role.AGENT, typed)])
def test_a_message_before_its_turn_is_acknowledged_and_waits(role, message):
    end = channel(role)
    end.receive(message(2, b"c"), now=NOW)
    end.receive(message(2, b"c"), now=NOW)
    assert end.events() == []
    assert acknowledges(end.data_to_send()) == [2, 2]
    end.receive(message(1, b"b"), now=NOW)
    end.receive(message(0, b"a"), now=NOW)
    assert [event.data for event in end.events()] == [b"a", b"b", b"c"]
    assert acknowledges(end.data_to_send()) == [1, 0]


def test_an_owner_with_a_journal_acknowledges_only_what_it_was_handed():
    client = channel(Role.CLIENT, acknowledge_stored=False)
    for _ in range(2):
        client.receive(output(1, b"b"), now=NOW)
    assert client.data_to_send() == []
    client.receive(output(0, b"a"), now=NOW)
    assert [event.data for event in client.events()] == [b"a", b"b"]
    frames = client.data_to_send()
    assert acknowledges(frames) == [0, 1]
    assert str(parse(output(1, b"b")).message_id).encode() in frames[1]


def test_a_number_far_ahead_is_neither_kept_nor_acknowledged():
    client = channel(Role.CLIENT)
    client.receive(output(buffers.MAX_INCOMING_MESSAGES, b"x"), now=NOW)
    client.receive(output(2**63 - 1, b"x"), now=NOW)
    assert client.data_to_send() == []
    client.receive(output(buffers.MAX_INCOMING_MESSAGES - 1, b"x"), now=NOW)
    assert acknowledges(client.data_to_send()) == [buffers.MAX_INCOMING_MESSAGES - 1]


def test_a_negative_number_is_the_peers_error():
    with pytest.raises(RemoteProtocolError):
        channel(Role.CLIENT).receive(output(-1, b"x"), now=NOW)


def test_what_waits_before_its_turn_is_bounded_in_bytes():
    client = channel(Role.CLIENT)
    data = bytes(MAX_PAYLOAD)
    fits = buffers.MAX_INCOMING_BYTES // MAX_PAYLOAD
    for sequence in range(1, fits + 10):
        client.receive(output(sequence, data), now=NOW)
    assert acknowledges(client.data_to_send()) == list(range(1, fits + 1))
    client.receive(output(0, b"x"), now=NOW)
    client.events()
    client.data_to_send()
    client.receive(output(fits + 2, data), now=NOW)
    assert acknowledges(client.data_to_send()) == [fits + 2]


def test_what_the_owner_does_not_fetch_is_bounded_and_comes_again():
    client = channel(Role.CLIENT)
    data = bytes(MAX_PAYLOAD)
    for sequence in range(100):
        client.receive(output(sequence, data), now=NOW)
    taken = client.expected_sequence
    assert taken == -(-buffers.MAX_EVENT_BYTES // MAX_PAYLOAD)
    assert len(client.events()) == taken
    assert acknowledges(client.data_to_send()) == list(range(taken))
    client.receive(output(taken, b"x"), now=NOW)
    assert client.events() == [OutputReceived(b"x", taken, 1)]


def test_acknowledges_that_nobody_fetches_are_bounded():
    client = opened_client()
    for _ in range(buffers.MAX_ACKNOWLEDGES + 100):
        client.receive(output(0, b"$ "), now=NOW)
    assert len(client.data_to_send()) == buffers.MAX_ACKNOWLEDGES
    client.receive(output(0, b"$ "), now=NOW)
    assert acknowledges(client.data_to_send()) == [0]


def test_an_acknowledge_takes_out_that_one_message_wherever_it_stands():
    client = opened_client(max_payload=1)
    client.send_input(b"abc", now=NOW)
    client.receive(acknowledged(1), now=NOW)
    assert client.events() == [Acknowledged(1)]
    assert (client.unacknowledged, client.unacknowledged_bytes, client.acknowledged_through) == (2, 2, -1)
    client.receive(acknowledged(0), now=NOW)
    assert client.acknowledged_through == 1
    client.receive(acknowledged(2), now=NOW)
    assert client.acknowledged_through == 2
    assert client.unacknowledged == 0


def test_an_acknowledge_of_an_unknown_number_means_nothing():
    client = opened_client()
    client.send_input(b"a", now=NOW)
    for sequence in (5, -1, 2**62):
        client.receive(acknowledged(sequence), now=NOW)
    assert client.events() == []
    assert client.unacknowledged == 1


@pytest.mark.parametrize("role", Role)
def test_messages_that_mean_nothing_here_are_skipped(role):
    end = channel(role)
    mine = "output_stream_data" if role is Role.AGENT else "input_stream_data"
    for message_type in ("interactive_shell", "agent_job", "a type of tomorrow", mine):
        end.receive(frame(message_type, b"{}"), now=NOW)
    assert end.events() == []
    assert end.data_to_send() == []


def test_a_payload_type_of_tomorrow_is_output_to_a_client_and_nothing_to_an_agent():
    client = channel(Role.CLIENT)
    client.receive(output(0, b"?", 99), now=NOW)
    assert client.events() == [OutputReceived(b"?", 0, 99)]
    agent = channel(Role.AGENT)
    agent.receive(typed(0, b"?", 99), now=NOW)
    assert agent.events() == []
    assert acknowledges(agent.data_to_send()) == [0]


@pytest.mark.parametrize(
    ("role", "item"),
    [
        (Role.CLIENT, output(0, b"{", PayloadType.HANDSHAKE_REQUEST)),
        (Role.CLIENT, output(0, b"EXIT", PayloadType.EXIT_CODE)),
        (Role.CLIENT, output(0, b"123", PayloadType.FLAG)),
        (Role.CLIENT, output(0, b"{}", PayloadType.SIZE)),
        (Role.CLIENT, output(0, b"{}", PayloadType.HANDSHAKE_RESPONSE)),
        (Role.CLIENT, output(0, b"{}", PayloadType.ENC_CHALLENGE_REQUEST)),
        (Role.AGENT, typed(0, b"[]", PayloadType.SIZE)),
        (Role.AGENT, typed(0, b"{}", PayloadType.HANDSHAKE_REQUEST)),
        (Role.AGENT, typed(0, b"{}", PayloadType.ENC_CHALLENGE_RESPONSE)),
        (Role.CLIENT, frame("acknowledge", b"no json")),
        (Role.CLIENT, frame("agent_session_state", b"no json")),
        (Role.CLIENT, b"no frame"),
    ],
)
def test_what_cannot_be_read_is_the_peers_error_and_changes_nothing(role, item):
    end = channel(role)
    with pytest.raises(RemoteProtocolError):
        end.receive(item, now=NOW)
    assert (end.state, end.expected_sequence, end.events(), end.data_to_send()) == (State.NEW, 0, [], [])


def test_an_unreadable_message_is_refused_before_its_turn_too_so_it_cannot_block_the_stream():
    agent = channel(Role.AGENT)
    with pytest.raises(RemoteProtocolError):
        agent.receive(typed(1, b"[]", PayloadType.SIZE), now=NOW)
    agent.receive(typed(0, b"a", PayloadType.OUTPUT), now=NOW)
    agent.receive(typed(1, b'{"cols":1,"rows":2}', PayloadType.SIZE), now=NOW)
    assert agent.events() == [InputReceived(b"a", 0), SizeReceived(1, 2)]


# Bounds of what is under way


def test_a_sender_whose_buffer_is_full_is_told_so_and_nothing_is_lost():
    agent = channel(Role.AGENT, max_payload=32 * 1024)
    assert agent.window_left == buffers.MAX_OUTGOING_BYTES
    agent.send_output(bytes(agent.window_left - 1), now=NOW)
    assert (agent.can_send, agent.window_left) == (True, 1)
    sequence = agent.next_sequence
    with pytest.raises(LocalProtocolError, match="1 left"):
        agent.send_output(b"xy", now=NOW)
    assert agent.next_sequence == sequence
    agent.send_output(b"x", now=NOW)
    assert not agent.can_send
    agent.receive(acknowledged(0), now=NOW)
    assert (agent.can_send, agent.window_left) == (True, 32 * 1024)


def test_the_number_of_messages_under_way_is_bounded_too():
    client = opened_client(max_payload=1)
    client.send_input(bytes(client.window_left), now=NOW)
    assert client.unacknowledged == buffers.MAX_OUTGOING_MESSAGES
    assert not client.can_send
    with pytest.raises(LocalProtocolError):
        client.send_size(80, 24, now=NOW)


@pytest.mark.parametrize("size", [0, -1, MAX_PAYLOAD + 1])
def test_a_payload_size_that_no_frame_holds_is_our_own_error(size):
    with pytest.raises(LocalProtocolError):
        channel(Role.AGENT, max_payload=size)


def test_numbers_count_from_zero():
    with pytest.raises(LocalProtocolError):
        channel(Role.AGENT, next_sequence=-1)


# Timers


def test_the_head_alone_is_repeated_with_the_same_bytes():
    client = opened_client(max_payload=1)
    client.send_input(b"ab", now=NOW)
    first, _ = client.data_to_send()
    assert client.next_timeout() == at(0.2)
    client.handle_timeout(now=NOW + 0.19)
    assert client.data_to_send() == []
    client.handle_timeout(now=NOW + 0.21)
    assert client.data_to_send() == [first]


def test_repeats_come_at_200_then_400_then_800_milliseconds_and_then_each_second():
    client = opened_client()
    client.send_input(b"a", now=NOW)
    gaps = []
    last = NOW
    for _ in range(6):
        due = client.next_timeout()
        client.handle_timeout(now=due)
        gaps.append(round(due - last, 3))
        last = due
    assert gaps == [0.2, 0.4, 0.8, 1.0, 1.0, 1.0]


def test_the_time_out_follows_the_round_trip_as_in_the_real_programs():
    estimate = buffers.RoundTrip()
    estimate.sample(0.2)
    assert estimate.variation == pytest.approx(0.025)
    assert estimate.mean == pytest.approx(0.1125)
    assert estimate.timeout == pytest.approx(0.2125)
    for _ in range(200):
        estimate.sample(0.001)
    assert estimate.timeout == pytest.approx(0.011, abs=1e-3)
    for _ in range(50):
        estimate.sample(5.0)
    assert estimate.timeout == 1.0


def test_an_acknowledge_is_a_measurement_only_if_the_message_was_sent_once():
    client = opened_client()
    client.send_input(b"a", now=NOW)
    client.handle_timeout(now=NOW + 0.5)
    client.receive(acknowledged(0), now=NOW + 0.5)
    client.send_input(b"b", now=NOW + 1)
    assert client.next_timeout() == at(1.2)
    client.receive(acknowledged(1), now=NOW + 1.3)
    client.send_input(b"c", now=NOW + 2)
    assert client.next_timeout() == at(2.325)


def test_a_new_head_that_is_late_waits_for_the_next_sweep():
    client = opened_client(max_payload=1)
    client.send_input(b"ab", now=NOW)
    client.handle_timeout(now=NOW + 5)
    client.receive(acknowledged(0), now=NOW + 5.01)
    assert client.next_timeout() == at(5.1)


def test_there_is_no_time_out_when_nothing_is_under_way():
    client = opened_client()
    assert client.next_timeout() is None
    client.handle_timeout(now=NOW)
    client.send_input(b"a", now=NOW)
    client.receive(acknowledged(0), now=NOW)
    assert client.next_timeout() is None


def test_a_client_stops_repeating_after_five_minutes_and_says_so_once():
    client = opened_client()
    client.send_input(b"a", now=NOW)
    repeats = 0
    while (due := client.next_timeout()) is not None:
        client.data_to_send()
        client.handle_timeout(now=due)
        repeats += len(client.data_to_send())
    assert due is None
    assert client.events() == [RetransmissionGaveUp()]
    assert 295 < repeats < 305
    client.handle_timeout(now=NOW + 1000)
    assert client.events() == []
    client.receive(acknowledged(0), now=NOW + 1000)
    client.send_input(b"b", now=NOW + 1000)
    assert client.next_timeout() is not None


def test_the_five_minutes_of_a_message_begin_when_it_becomes_the_head():
    client = opened_client(max_payload=1)
    client.send_input(b"ab", now=NOW)
    client.receive(acknowledged(0), now=NOW + 299)
    client.handle_timeout(now=NOW + 301)
    assert client.events() == [Acknowledged(0)]


def test_an_agent_never_gives_up():
    agent = channel(Role.AGENT)
    agent.send_output(b"a", now=NOW)
    agent.data_to_send()
    agent.handle_timeout(now=NOW + 10_000)
    assert agent.events() == []
    assert len(agent.data_to_send()) == 1


# A pause


def test_a_paused_agent_numbers_and_keeps_what_it_is_given_and_repeats_nothing():
    agent = channel(Role.AGENT)
    agent.send_output(b"a", now=NOW)
    agent.data_to_send()
    for _ in range(2):
        agent.receive(frame("pause_publication"), now=NOW)
    assert agent.events() == [PublicationPaused()]
    assert agent.is_paused
    assert agent.send_output(b"b", now=NOW) == [1]
    assert agent.next_timeout() is None
    agent.handle_timeout(now=NOW + 10)
    assert agent.data_to_send() == []


@pytest.mark.parametrize(
    "item",
    [frame("start_publication"), typed(0, b"x"), acknowledged(99)],
    ids=["start_publication", "any input", "any acknowledge"],
)
def test_a_pause_ends_and_what_was_kept_goes_out_in_order(item):
    agent = channel(Role.AGENT)
    agent.receive(frame("pause_publication"), now=NOW)
    agent.send_output(b"a", now=NOW)
    agent.send_output(b"b", now=NOW)
    agent.receive(item, now=NOW + 1)
    assert stream(agent.data_to_send()) == [(0, b"a"), (1, b"b")]
    assert PublicationStarted() in agent.events()
    assert agent.next_timeout() == at(1.2)


def test_a_message_that_was_never_sent_cannot_be_acknowledged():
    agent = channel(Role.AGENT)
    agent.receive(frame("pause_publication"), now=NOW)
    agent.send_output(b"a", now=NOW)
    agent.receive(acknowledged(0), now=NOW)
    assert agent.unacknowledged == 1
    assert stream(agent.data_to_send()) == [(0, b"a")]


def test_a_start_without_a_pause_means_nothing():
    agent = channel(Role.AGENT)
    agent.receive(frame("start_publication"), now=NOW)
    assert agent.events() == []


def test_a_client_pays_no_heed_to_a_pause():
    client = opened_client()
    client.receive(frame("pause_publication"), now=NOW)
    assert not client.is_paused
    client.send_input(b"a", now=NOW)
    assert len(client.data_to_send()) == 1
    assert client.events() == []


# A new transport


def test_after_a_new_transport_the_head_is_repeated_at_once_and_the_rest_as_it_is_acknowledged():
    agent = channel(Role.AGENT, max_payload=1)
    agent.send_output(b"abc", now=NOW)
    agent.data_to_send()
    agent.reconnected(now=NOW + 1)
    assert stream(agent.data_to_send()) == [(0, b"a")]
    agent.receive(acknowledged(0), now=NOW + 1.01)
    assert stream(agent.data_to_send()) == [(1, b"b")]
    agent.send_output(b"d", now=NOW + 1.02)
    assert stream(agent.data_to_send()) == [(3, b"d")]
    agent.receive(acknowledged(1), now=NOW + 1.03)
    assert stream(agent.data_to_send()) == [(2, b"c")]
    agent.receive(acknowledged(2), now=NOW + 1.04)
    assert agent.data_to_send() == []


def test_a_new_transport_ends_a_pause():
    agent = channel(Role.AGENT)
    agent.send_output(b"a", now=NOW)
    agent.data_to_send()
    agent.receive(frame("pause_publication"), now=NOW)
    agent.send_output(b"b", now=NOW)
    agent.reconnected(now=NOW + 1)
    assert not agent.is_paused
    assert stream(agent.data_to_send()) == [(0, b"a"), (1, b"b")]
    assert agent.events() == [PublicationPaused(), PublicationStarted()]


def test_a_client_that_gave_up_goes_on_with_a_new_transport():
    client = opened_client()
    client.send_input(b"a", now=NOW)
    client.handle_timeout(now=NOW + 301)
    assert client.next_timeout() is None
    client.data_to_send()
    client.reconnected(now=NOW + 400)
    assert stream(client.data_to_send()) == [(0, b"a")]
    assert client.next_timeout() == at(400.4)


def test_a_new_transport_without_anything_under_way_sends_nothing():
    client = opened_client()
    client.reconnected(now=NOW)
    assert client.data_to_send() == []


# After the death of an owner


def test_a_new_owner_goes_on_where_the_dead_one_stopped():
    agent = channel(Role.AGENT)
    dead = channel(Role.CLIENT)
    agent.send_output(b"one", now=NOW)
    hand_over(agent, dead)
    dead.send_input(b"a", now=NOW)
    hand_over(dead, agent)
    agent.send_output(b"two", now=NOW)  # the dead owner never gets it

    heir = channel(Role.CLIENT, next_sequence=1, expected_sequence=1)
    assert heir.state is State.OPEN
    hand_over(agent, heir)
    assert heir.events() == [OutputReceived(b"two", 1, 1)]
    assert heir.send_input(b"b", now=NOW) == [1]
    hand_over(heir, agent)
    assert [event.data for event in agent.events() if isinstance(event, InputReceived)] == [b"a", b"b"]


def test_numbers_that_may_never_have_left_are_filled_with_sizes_and_keep_nobody_waiting():
    agent = channel(Role.AGENT, next_sequence=1)
    agent.receive(typed(0, b"a"), now=NOW)  # number 0 arrived; 1 and 2 were written down and never sent
    heir = channel(Role.CLIENT, next_sequence=3, expected_sequence=1)
    assert heir.acknowledged_through == 2
    heir.fill([2, 0, 1], 80, 24, now=NOW)
    assert (heir.unacknowledged, heir.acknowledged_through, heir.next_sequence) == (3, -1, 3)
    heir.send_input(b"b", now=NOW)
    hand_over(heir, agent)
    assert agent.events() == [
        InputReceived(b"a", 0),
        SizeReceived(80, 24),
        SizeReceived(80, 24),
        InputReceived(b"b", 3),
    ]
    hand_over(agent, heir)
    assert heir.unacknowledged == 0
    assert heir.acknowledged_through == 3


def test_filled_numbers_are_repeated_like_any_other_the_lowest_first():
    heir = channel(Role.CLIENT, next_sequence=9, expected_sequence=1)
    heir.send_input(b"b", now=NOW)
    heir.fill([4], 80, 24, now=NOW)
    heir.data_to_send()
    heir.handle_timeout(now=NOW + 1)
    assert stream(heir.data_to_send()) == [(4, b'{"cols":80,"rows":24}')]
    heir.receive(acknowledged(4), now=NOW + 1)
    assert heir.acknowledged_through == 8


@pytest.mark.parametrize("numbers", [[3], [-1], [2]], ids=["not given out yet", "negative", "under way"])
def test_only_a_gap_is_filled(numbers):
    heir = channel(Role.CLIENT, next_sequence=2, expected_sequence=1)
    heir.send_input(b"x", now=NOW)
    with pytest.raises(LocalProtocolError):
        heir.fill(numbers, 80, 24, now=NOW)
    assert heir.unacknowledged == 1


def test_an_heir_may_take_over_in_the_midst_of_a_handshake():
    heir = channel(Role.CLIENT, next_sequence=1, expected_sequence=1, state=State.ANSWERED)
    assert not heir.can_send
    heir.receive(output(1, COMPLETE.serialize(), PayloadType.HANDSHAKE_COMPLETE), now=NOW)
    assert heir.state is State.OPEN


# The handshake


def test_a_handshake_goes_to_and_fro_before_any_data():
    agent = channel(Role.AGENT)
    client = channel(Role.CLIENT)
    assert agent.request_handshake(REQUEST, now=NOW) == 0
    hand_over(agent, client)
    assert client.events() == [HandshakeRequested(REQUEST)]
    assert client.respond_handshake(RESPONSE, now=NOW) == 0
    hand_over(client, agent)
    assert agent.events() == [Acknowledged(0), HandshakeResponded(RESPONSE)]
    assert agent.complete_handshake("welcome", now=NOW + 0.25) == 1
    hand_over(agent, client)
    assert client.events() == [Acknowledged(0), HandshakeCompleted(250_000_000, "welcome")]
    assert client.can_send
    assert agent.can_send


def test_input_during_the_handshake_is_acknowledged_and_dropped():
    agent = channel(Role.AGENT)
    agent.request_handshake(REQUEST, now=NOW)
    agent.data_to_send()
    agent.receive(typed(0, b"too early"), now=NOW)
    agent.receive(typed(1, RESPONSE.serialize(), PayloadType.HANDSHAKE_RESPONSE), now=NOW)
    agent.receive(typed(2, b"too early"), now=NOW)
    assert agent.events() == [HandshakeResponded(RESPONSE)]
    assert acknowledges(agent.data_to_send()) == [0, 1, 2]


def test_a_client_holds_its_tongue_until_the_stream_is_open():
    client = channel(Role.CLIENT)
    assert not client.can_send
    with pytest.raises(LocalProtocolError):
        client.send_input(b"x", now=NOW)
    with pytest.raises(LocalProtocolError):
        client.send_size(80, 24, now=NOW)
    client.receive(output(0, REQUEST.serialize(), PayloadType.HANDSHAKE_REQUEST), now=NOW)
    client.respond_handshake(RESPONSE, now=NOW)
    with pytest.raises(LocalProtocolError):
        client.send_input(b"x", now=NOW)


def test_a_forbidden_message_that_waited_does_not_block_what_waited_behind_it():
    client = channel(Role.CLIENT)
    client.receive(output(1, COMPLETE.serialize(), PayloadType.HANDSHAKE_COMPLETE), now=NOW)
    client.receive(output(2, b"c"), now=NOW)
    with pytest.raises(RemoteProtocolError):
        client.receive(output(0, b"a"), now=NOW)
    assert [event.data for event in client.events()] == [b"a", b"c"]
    assert client.expected_sequence == 3


def test_a_handshake_too_large_for_a_frame_is_our_own_error():
    agent = channel(Role.AGENT)
    request = payloads.HandshakeRequest.for_session("3.3.987.0", "Port", {"host": "x" * MAX_PAYLOAD})
    with pytest.raises(LocalProtocolError):
        agent.request_handshake(request, now=NOW)
    assert agent.state is State.NEW


# The end


@pytest.mark.parametrize("role", Role)
def test_a_closed_channel_says_why_and_is_deaf(role):
    end = channel(role)
    closing = channel(Role.AGENT)
    closing.close("Session timed out.", now=NOW)
    closing.close("again", now=NOW)
    (item,) = hand_over(closing, end)
    assert end.events() == [ChannelClosed("Session timed out.", SESSION)]
    assert end.state is State.CLOSED
    assert end.next_timeout() is None
    for late in (item, output(0, b"x"), typed(0, b"x"), acknowledged(0)):
        end.receive(late, now=NOW)
    end.reconnected(now=NOW)
    assert end.events() == []
    assert end.data_to_send() == []


def test_an_unreadable_channel_closed_closes_without_a_text():
    client = opened_client()
    client.receive(frame("channel_closed", b"no json"), now=NOW)
    assert client.events() == [ChannelClosed("", "")]


def test_a_closed_channel_forgets_what_was_under_way():
    agent = channel(Role.AGENT)
    agent.send_output(b"a", now=NOW)
    agent.receive(typed(1, b"x"), now=NOW)
    agent.close(now=NOW)
    assert agent.unacknowledged == agent.unacknowledged_bytes == 0
    assert not agent.can_send
    assert agent.next_timeout() is None
    agent.handle_timeout(now=NOW + 5)
    assert [parse(item).message_type for item in agent.data_to_send()] == [
        MessageType.OUTPUT_STREAM_DATA,
        MessageType.ACKNOWLEDGE,
        MessageType.CHANNEL_CLOSED,
    ]


def test_channel_closed_is_heard_even_by_an_owner_that_fetches_nothing():
    client = opened_client()
    for sequence in range(1, 60):
        client.receive(output(sequence, bytes(MAX_PAYLOAD)), now=NOW)
    client.receive(frame("channel_closed"), now=NOW)
    assert client.state is State.CLOSED


def test_a_clock_at_zero_still_makes_messages_that_receivers_take():
    client = channel(Role.CLIENT)
    client.receive(output(0, b"a"), now=0.0)
    assert parse(client.data_to_send()[0]).created_ms == 1


def test_ids_come_from_the_owner():
    given_id = UUID("dd01e56b-ff48-483e-a508-b5f073f31b16")
    agent = DataChannel(Role.AGENT, new_id=lambda: given_id)
    agent.send_output(b"a", now=NOW)
    assert parse(agent.data_to_send()[0]).message_id == given_id


# An end that is silent about what it has


def test_in_order_all_that_is_under_way_goes_out_again_at_once_by_a_new_transport():
    agent = channel(Role.AGENT, is_in_order=True)
    for n in range(3):
        agent.send_output(b"%d" % n, now=NOW)
    agent.data_to_send()
    agent.reconnected(now=NOW + 1)
    assert [parse(each).sequence for each in agent.data_to_send()] == [0, 1, 2]


def test_in_order_an_acknowledge_speaks_for_all_below_it():
    agent = channel(Role.AGENT, is_in_order=True)
    for n in range(4):
        agent.send_output(b"%d" % n, now=NOW)
    agent.receive(acknowledged(2), now=NOW)
    assert (agent.acknowledged_through, agent.unacknowledged) == (2, 1)
    agent.receive(acknowledged(0), now=NOW)
    assert agent.acknowledged_through == 2
    agent.receive(acknowledged(3), now=NOW)
    assert agent.unacknowledged == 0 and agent.next_timeout() is None


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 12))
def test_a_client_that_says_nothing_of_what_it_has_gets_each_byte_once_from_an_heir(sent, kept, more):
    """The plugin drops what it has, silently; the heir begins where the dead owner last knew that it stood."""
    agent, plugin = channel(Role.AGENT, is_in_order=True), channel(Role.CLIENT)
    numbers = [agent.send_output(b"%02d" % n, now=NOW)[0] for n in range(sent)]
    for each in agent.data_to_send():
        plugin.receive(each, now=NOW)
    plugin.data_to_send()  # lost with the owner
    begin = min(kept, len(numbers))
    heir = channel(Role.AGENT, is_in_order=True, next_sequence=begin, state=State.OPEN)
    for n in range(begin, sent + more):
        heir.send_output(b"%02d" % n, now=NOW)
    for each in heir.data_to_send():
        if parse(each).sequence >= plugin.expected_sequence:
            plugin.receive(each, now=NOW)
    for each in plugin.data_to_send():
        heir.receive(each, now=NOW)
    shown = b"".join(event.data for event in plugin.events() if isinstance(event, OutputReceived))
    assert shown == b"".join(b"%02d" % n for n in range(sent + more))
    assert heir.unacknowledged == 0 or not more
