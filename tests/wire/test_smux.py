from __future__ import annotations

from hashlib import sha256
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetops.wire import LocalProtocolError, RemoteProtocolError
from fleetops.wire.smux import FIRST_STREAM, MAX_DATA, Command, SmuxFrame, SmuxReader, push

from .helpers import vectors

TRANSCRIPTS = vectors("smux.json")["transcripts"]
SYN, FIN, PSH, NOP = Command

MEANINGS = {
    "client-closes-stream-at-once": [SmuxFrame(SYN, 3), SmuxFrame(FIN, 3)],
    "keepalive-nop-from-server": [SmuxFrame(NOP, 0)],
    "open-echo-close": [
        SmuxFrame(SYN, 3),
        SmuxFrame(PSH, 3, b"GET / HTTP/1.0\r\n\r\n"),
        SmuxFrame(PSH, 3, b"HTTP/1.0 200 OK\r\n\r\n"),
        SmuxFrame(FIN, 3),
        SmuxFrame(FIN, 3),
    ],
    "server-opened-stream": [SmuxFrame(SYN, 2)],
    "three-streams": [
        SmuxFrame(SYN, FIRST_STREAM),
        SmuxFrame(PSH, FIRST_STREAM, b"a"),
        SmuxFrame(SYN, FIRST_STREAM + 2),
        SmuxFrame(PSH, FIRST_STREAM + 2, b"b"),
        SmuxFrame(SYN, FIRST_STREAM + 4),
        SmuxFrame(PSH, FIRST_STREAM + 4, b"c"),
    ],
}


def test_no_transcript_is_left_out():
    assert MEANINGS.keys() | {"split-40000-bytes"} == TRANSCRIPTS.keys()


@pytest.mark.parametrize("name", MEANINGS)
def test_a_real_session_is_read(name):
    reader = SmuxReader()
    frames = [frame for write in TRANSCRIPTS[name] for frame in reader.feed(bytes.fromhex(write["hex"]))]
    assert frames == MEANINGS[name]
    assert reader.pending == 0


@pytest.mark.parametrize("name", MEANINGS)
def test_a_session_is_written_as_the_real_programs_write_it(name):
    assert [frame.serialize().hex() for frame in MEANINGS[name]] == [write["hex"] for write in TRANSCRIPTS[name]]


def test_a_long_write_is_cut_where_the_real_programs_cut_it():
    opening, *writes = TRANSCRIPTS["split-40000-bytes"]
    assert SmuxFrame(SYN, 3).serialize().hex() == opening["hex"]
    frames = push(3, b"Z" * 40_000)
    assert [len(frame) for frame in frames] == [write["length"] for write in writes]
    for frame, write in zip(frames, writes, strict=True):
        assert frame.hex().startswith(write["head_hex"])
        assert sha256(frame).hexdigest() == write["sha256"]


def test_no_data_makes_no_frame():
    assert push(3, b"") == []


frames = st.builds(
    lambda command, stream_id, data: SmuxFrame(command, stream_id, data if command is PSH else b""),
    st.sampled_from(Command),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=50),
)


@given(st.lists(frames, max_size=6), st.lists(st.integers(0, 400)))
def test_frames_come_out_whole_however_the_stream_is_cut(sent, cuts):
    stream = b"".join(frame.serialize() for frame in sent)
    borders = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    reader = SmuxReader()
    got = []
    for start, end in pairwise(borders):
        got += reader.feed(stream[start:end])
    assert got == sent
    assert reader.pending == 0


@given(st.binary(max_size=3 * MAX_DATA), st.integers(1, 5000))
def test_data_of_any_length_arrives_as_it_was(data, piece):
    stream = b"".join(push(3, data))
    reader = SmuxReader()
    got = b"".join(
        frame.data for start in range(0, len(stream), piece) for frame in reader.feed(stream[start : start + piece])
    )
    assert got == data


@given(st.lists(st.binary(max_size=100), max_size=10))
def test_garbage_is_the_peers_error_and_never_more_than_one_frame_is_kept(noise):
    reader = SmuxReader()
    for item in noise:
        try:
            reader.feed(item)
        except RemoteProtocolError:
            return
        assert reader.pending < 8 + 65_535


@pytest.mark.parametrize(
    "octets",
    ["0200000003000000", "0104000003000000", "0100010003000000", "0103010000000000"],
    ids=["version 2", "command 4", "a SYN with data", "a NOP with data"],
)
def test_what_version_1_does_not_know_is_the_peers_error(octets):
    with pytest.raises(RemoteProtocolError):
        SmuxReader().feed(bytes.fromhex(octets))


@pytest.mark.parametrize(
    "frame", [SmuxFrame(SYN, 3, b"x"), SmuxFrame(PSH, 3, bytes(65_536)), SmuxFrame(PSH, -1), SmuxFrame(PSH, 2**32)]
)
def test_a_frame_that_cannot_be_is_our_own_error(frame):
    with pytest.raises(LocalProtocolError):
        frame.serialize()
