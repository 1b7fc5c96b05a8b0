from __future__ import annotations

import struct
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetops.wire import (
    MAX_FRAME,
    MAX_PAYLOAD,
    PAYLOAD_OFFSET,
    Head,
    LocalProtocolError,
    Message,
    MessageType,
    PayloadType,
    RemoteProtocolError,
    parse,
    peek,
    serialize,
)
from fleetops.wire.frames import from_wire_id, pack, to_wire_id, wire_id_text

from .helpers import vectors

GOLDEN = vectors("agent-message.json")["messages"]
PLAIN = Message("output_stream_data", 7, b"hello", PayloadType.OUTPUT, UUID(int=5), 1_700_000_000_000)


def golden_message(vector) -> Message:
    return Message(
        vector["message_type"],
        vector["sequence_number"],
        bytes.fromhex(vector["payload_hex"]),
        vector["payload_type"],
        UUID(vector["message_id"]),
        vector["created_date"],
        vector["flags"],
        vector["schema_version"],
    )


def mutated(offset: int, octets: bytes, frame: bytes | None = None) -> bytes:
    frame = frame or serialize(PLAIN)
    return frame[:offset] + octets + frame[offset + len(octets) :]


@pytest.mark.parametrize("vector", GOLDEN, ids=lambda vector: vector["name"])
def test_a_frame_of_the_real_programs_is_read(vector):
    assert parse(bytes.fromhex(vector["hex"])) == golden_message(vector)


@pytest.mark.parametrize("vector", GOLDEN, ids=lambda vector: vector["name"])
def test_a_frame_is_written_as_the_real_programs_write_it(vector):
    assert serialize(golden_message(vector)).hex() == vector["hex"]


@pytest.mark.parametrize("vector", GOLDEN, ids=lambda vector: vector["name"])
def test_the_channels_write_the_same_bytes_as_serialize(vector):
    message = golden_message(vector)
    wire_id = to_wire_id(message.message_id)
    fields = (message.message_type, message.created_ms, message.sequence, message.flags, wire_id)
    assert pack(*fields, message.payload_type, message.payload).hex() == vector["hex"]


@pytest.mark.parametrize("vector", GOLDEN, ids=lambda vector: vector["name"])
def test_a_relay_sees_the_head_of_a_frame(vector):
    expected = Head(vector["message_type"], vector["payload_type"], vector["sequence_number"], vector["payload_length"])
    assert peek(bytes.fromhex(vector["hex"])) == expected


messages = st.builds(
    Message,
    message_type=st.sampled_from(["output_stream_data", "acknowledge", "a type of tomorrow", "über"]),
    sequence=st.integers(-(2**63), 2**63 - 1),
    payload=st.binary(min_size=1, max_size=200),
    payload_type=st.integers(0, 2**32 - 1),
    message_id=st.uuids(),
    created_ms=st.integers(1, 2**64 - 1),
    flags=st.integers(0, 2**64 - 1),
    schema_version=st.integers(0, 2**32 - 1),
)


@given(messages)
def test_what_is_written_is_read_back(message):
    frame = serialize(message)
    assert parse(frame) == message
    assert peek(frame) == (message.message_type, message.payload_type, message.sequence, len(message.payload))


@given(st.uuids())
def test_an_id_keeps_its_value_with_its_halves_swapped(message_id):
    wire_id = to_wire_id(message_id)
    assert wire_id == message_id.bytes[8:] + message_id.bytes[:8]
    assert from_wire_id(wire_id) == message_id
    assert wire_id_text(wire_id) == str(message_id)


def readers():
    return pytest.mark.parametrize("read", [parse, peek])


@readers()
@pytest.mark.parametrize(
    "frame",
    [
        b"",
        serialize(PLAIN)[:119],
        mutated(0, struct.pack(">I", 117)),
        mutated(0, struct.pack(">I", 0)),
        mutated(0, struct.pack(">I", 2**32 - 1)),
        mutated(116, struct.pack(">I", 4)),
        mutated(116, struct.pack(">I", 6)),
        serialize(PLAIN)[:-1],
        serialize(PLAIN) + b"x",
        mutated(80, bytes(32)),
        mutated(120, b"H"),
        mutated(4, b" " * 32),
        mutated(4, bytes(32)),
        mutated(4, b"\xff"),
        mutated(40, bytes(8)),
    ],
    ids=[
        "empty",
        "one byte short of a header",
        "header length 117",
        "header length 0",
        "header length far out",
        "payload length too small",
        "payload length too large",
        "a byte is missing",
        "a byte too many",
        "no digest",
        "a changed payload",
        "type of spaces",
        "type of zeros",
        "type not UTF-8",
        "date 0",
    ],
)
def test_a_malformed_frame_is_the_peers_error(read, frame):
    with pytest.raises(RemoteProtocolError):
        read(frame)


@readers()
def test_a_frame_over_the_limit_is_refused_before_it_is_hashed(read):
    with pytest.raises(RemoteProtocolError, match="limit"):
        read(bytes(MAX_FRAME + 1))


@readers()
def test_the_largest_frame_is_read(read):
    frame = serialize(replace(PLAIN, payload=bytes(MAX_PAYLOAD)))
    assert len(frame) == MAX_FRAME
    assert read(frame).message_type == "output_stream_data"


@readers()
def test_an_empty_payload_is_read_as_go_reads_it_whatever_its_digest(read):
    frame = mutated(116, bytes(4))[:PAYLOAD_OFFSET]
    assert read(frame).sequence == 7


@readers()
@pytest.mark.parametrize("message_type", [MessageType.PAUSE_PUBLICATION, MessageType.START_PUBLICATION])
def test_date_and_digest_of_a_pause_are_not_checked(read, message_type):
    frame = serialize(replace(PLAIN, message_type=message_type))
    frame = mutated(40, bytes(8), mutated(80, bytes(32), frame))
    assert read(frame).message_type == message_type


@readers()
def test_a_type_may_be_padded_with_zeros(read):
    assert read(mutated(4, b"\0\0acknowledge ".ljust(32, b"\0"))).message_type == "acknowledge"


@given(st.binary(max_size=400))
def test_random_bytes_are_never_a_frame(noise):
    for read in (parse, peek):
        with pytest.raises(RemoteProtocolError):
            read(noise)


@given(st.sampled_from(GOLDEN), st.data())
def test_a_changed_frame_is_read_or_is_the_peers_error_and_nothing_else(vector, data):
    frame = bytearray.fromhex(vector["hex"])
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, min(len(frame), 140) - 1))] = data.draw(st.integers(0, 255))
    try:
        head = peek(bytes(frame))
    except RemoteProtocolError:
        with pytest.raises(RemoteProtocolError):
            parse(bytes(frame))
    else:
        message = parse(bytes(frame))
        assert head == (message.message_type, message.payload_type, message.sequence, len(message.payload))


@pytest.mark.parametrize(
    "change",
    [
        {"payload": b""},
        {"payload": bytes(MAX_PAYLOAD + 1)},
        {"created_ms": 0},
        {"created_ms": 2**64},
        {"message_id": UUID(int=0)},
        {"message_type": ""},
        {"message_type": "x" * 33},
        {"message_type": " padded"},
        {"message_type": "padded\0"},
        {"sequence": 2**63},
        {"payload_type": -1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_no_receiver_takes_is_not_written(change):
    with pytest.raises(LocalProtocolError):
        serialize(replace(PLAIN, **change))
