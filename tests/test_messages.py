"""Plain websocket messages, beside the library that reads and writes all kinds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side

from fleetops.messages import is_between_messages, join, split

MESSAGES = st.lists(st.binary(max_size=300) | st.sampled_from([b"x" * 125, b"y" * 126, b"z" * 65535]), max_size=6)
SIDES = pytest.mark.parametrize("reader", [Side.SERVER, Side.CLIENT])


def library_reads(reader: Side, data: bytes) -> list[Frame]:
    protocol = Protocol(reader)
    protocol.receive_data(data)
    assert protocol.parser_exc is None
    return protocol.events_received()


@SIDES
@given(messages=st.lists(st.binary(max_size=300) | st.sampled_from([b"z" * 65535, b"w" * 70000]), max_size=6))
def test_the_library_reads_what_join_writes(reader, messages):
    frames = library_reads(reader, join(messages, masked=reader is Side.SERVER))
    assert [bytes(frame.data) for frame in frames] == messages
    assert all(frame.opcode is Opcode.BINARY and frame.fin for frame in frames)


@SIDES
@given(messages=MESSAGES, cut=st.integers(0, 400_000))
def test_split_takes_whole_messages_and_leaves_the_rest_to_the_library(reader, messages, cut):
    masked = reader is Side.SERVER
    data = join(messages, masked=masked)
    taken, position = split(data[:cut], masked=masked)
    assert taken == messages[: len(taken)]
    assert [bytes(frame.data) for frame in library_reads(reader, data[position:])] == messages[len(taken) :]
    if cut >= len(data):
        assert position == len(data)


@SIDES
@pytest.mark.parametrize(
    "frame",
    [
        Frame(Opcode.TEXT, b"text"),
        Frame(Opcode.BINARY, b"part", fin=False),
        Frame(Opcode.PING, b"ping"),
        Frame(Opcode.CLOSE, b""),
        Frame(Opcode.BINARY, b"x" * 65536),
    ],
)
def test_split_stops_at_what_is_no_plain_message(reader, frame):
    masked = reader is Side.SERVER
    before = join([b"one", b"two"], masked=masked)
    data = before + frame.serialize(mask=masked) + join([b"three"], masked=masked)
    assert split(data, masked=masked) == ([b"one", b"two"], len(before))


@SIDES
def test_split_leaves_a_wrongly_masked_message_to_the_library(reader):
    masked = reader is Side.SERVER
    assert split(join([b"one"], masked=not masked), masked=masked) == ([], 0)


def test_split_may_not_go_before_a_library_that_is_amid_a_frame_or_a_message():
    protocol = Protocol(Side.CLIENT)
    assert is_between_messages(protocol)
    whole = join([b"message"], masked=False)
    protocol.receive_data(whole[:4])
    assert not is_between_messages(protocol)
    protocol.receive_data(whole[4:])
    assert is_between_messages(protocol)
    protocol.receive_data(Frame(Opcode.BINARY, b"part", fin=False).serialize(mask=False))
    assert not is_between_messages(protocol)
