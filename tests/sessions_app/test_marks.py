"""Marks in a shell's output: found whatever the cuts, told from forgeries, taken out for who shows output."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions_app.commandlog.marks import MOST_BYTES, MOST_MISSED, OSC, MarkFilter, MarkReader

NONCE = "0123456789abcdefghijKLMNOPQRSTUV"


def mark(kind: str, number: int, nonce: str = NONCE, end: bytes = b"\x07", **fields: bytes) -> bytes:
    parts = [nonce.encode(), kind.encode(), b"%d" % number]
    for name, value in fields.items():
        quoted = b"".join(b"%c" % c if 32 <= c < 127 and c not in b"%;" else b"%%%02X" % c for c in value)
        parts.append(name.encode() + b"=" + quoted)
    return OSC + b";".join(parts) + end


HELLO = mark("hello", 1, shell=b"bash")
PROMPT = mark("prompt", 2, cwd=b"/", user=b"anna", exit=b"0")


def read(data: bytes, cuts=(), *, reader: MarkReader | None = None):
    reader = reader or MarkReader(NONCE)
    places = [0, *sorted(cuts), len(data)]
    found = []
    for start, stop in itertools.pairwise(places):
        found += reader.feed(data[start:stop], start)
    return found


def test_the_marks_of_a_shell_are_read_with_their_places_and_fields():
    command = mark("command", 3, text="é;%\n\x1b\x07 $(x)".encode(), cwd=b"/tmp", user=b"anna")
    data = b"motd\r\n" + HELLO + PROMPT + b"$ x\r\n" + command + b"out" + mark("done", 4, exit=b"1")
    found = read(data)
    assert [(each.kind, each.number, each.is_genuine, each.problem) for each in found] == [
        ("hello", 1, True, ""),
        ("prompt", 2, True, ""),
        ("command", 3, True, ""),
        ("done", 4, True, ""),
    ]
    assert found[2].fields == {"text": "é;%\n\x1b\x07 $(x)", "cwd": "/tmp", "user": "anna"}
    assert data[found[2].offset : found[2].end_offset] == command


@given(st.binary(max_size=60), st.lists(st.integers(0, 400), max_size=12), st.sampled_from([b"\x07", b"\x1b\\"]))
def test_any_bytes_of_a_command_arrive_whatever_the_cuts(text, cuts, end):
    data = b"a\x1b" + HELLO + b"\x1b]" + PROMPT + b"b\x1b]77" + mark("command", 3, end=end, text=text, cwd=b"/") + b"c"
    found = read(data, [cut for cut in cuts if cut < len(data)])
    assert [each.is_genuine for each in found] == [True, True, True]
    assert found[2].raw["text"] == text
    assert data[found[2].end_offset :] == b"c"


@given(
    st.lists(
        st.sampled_from([HELLO, PROMPT, b"x", b"\x1b", b"\x1b]", b"\x1b]0;title\x07", b"\xc2", b"\n", OSC]), max_size=12
    ),
    st.data(),
)
def test_a_filter_shows_the_same_whatever_the_cuts_and_no_mark(parts, data):
    output = b"".join(parts)
    cuts = data.draw(st.lists(st.integers(0, len(output)), max_size=8))
    whole, cut = MarkFilter(), MarkFilter()
    places = [0, *sorted(cuts), len(output)]
    shown = b"".join(cut.feed(output[a:b]) for a, b in itertools.pairwise(places))
    assert shown == whole.feed(output)
    assert OSC not in shown
    if OSC not in parts:
        assert output.replace(HELLO, b"").replace(PROMPT, b"").startswith(shown)


@pytest.mark.parametrize(
    "forged, problem",
    [
        (mark("prompt", 3, "x" * 32), "it does not know the session's secret"),
        (mark("prompt", 3, ""), "it does not know the session's secret"),
        (PROMPT, "its number was used before"),
        (HELLO, "its number was used before"),
        (mark("hello", 3), "it comes in the wrong order"),
        (mark("hello", 4), "it comes in the wrong order"),
        (mark("done", 3, exit=b"0"), "it comes in the wrong order"),
        (mark("root", 3), "there is no such kind of mark"),
        (mark("prompt", -3), "it has no number"),
        (mark("command", 4 + MOST_MISSED, text=b"id"), "its number is too far ahead"),
        (mark("command", 3, text=b"id")[:-3] + b"\nlog line\n\x07", "it is broken: something else was written into it"),
        (mark("command", 3, text=b"id")[:-1] + b"\x18", "it is broken: something else was written into it"),
        (mark("command", 3, text=b"x" * MOST_BYTES), "it is too long"),
    ],
    ids=lambda value: value[-30:] if isinstance(value, str) else None,
)
def test_a_forged_or_broken_mark_is_told_and_changes_nothing(forged, problem):
    data = HELLO + PROMPT + forged + mark("command", 3, text=b"true")
    for cuts in [(), range(1, len(data), 997), range(len(HELLO + PROMPT), len(HELLO + PROMPT) + 60)]:
        found = read(data, cuts)
        assert [(each.is_genuine, each.problem) for each in found] == [
            (True, ""),
            (True, ""),
            (False, problem),
            (True, ""),
        ]
        assert data[found[2].offset : found[2].end_offset] == forged
        assert found[3].fields["text"] == "true"


def test_without_a_nonce_nothing_is_genuine():
    assert [each.is_genuine for each in read(HELLO + mark("hello", 1, ""), reader=MarkReader(""))] == [False, False]


def test_marks_that_went_missing_are_counted():
    found = read(HELLO + PROMPT + mark("prompt", 5, exit=b"0"))
    assert (found[2].is_genuine, found[2].missed) == (True, 2)


def test_a_mark_that_never_ends_is_held_in_bounded_memory_and_told_as_cut():
    reader = MarkReader(NONCE)
    reader.feed(HELLO + PROMPT, 0)
    offset = start = len(HELLO + PROMPT)
    chunk = b"x" * 10_000
    for piece in [OSC + NONCE.encode() + b";command;3;text=", *[chunk] * 200]:
        assert reader.feed(piece, offset) == []
        offset += len(piece)
        assert reader.resume_offset == start
        assert len(reader._held) <= MOST_BYTES + len(OSC) + 1
    [cut] = reader.feed(b"\x07$ ", offset)
    assert (cut.is_cut, cut.is_genuine, cut.offset, cut.end_offset) == (True, False, start, offset + 1)
    assert reader.resume_offset == offset + 3


def test_a_second_reader_goes_on_where_the_first_was():
    data = HELLO + PROMPT + mark("command", 3, text=b"make") + b"out" + mark("done", 4, exit=b"2") + b"tail\x1b]7"
    whole = read(data)
    for cut in range(len(data)):
        first = MarkReader(NONCE)
        found = first.feed(data[:cut], 0)
        second = MarkReader(NONCE, number=first.number, kind=first.kind)
        assert found + second.feed(data[first.resume_offset :], first.resume_offset) == whole


def test_noise_is_never_genuine():
    noise = random.Random(5)
    data = b"".join(
        noise.choice([OSC, NONCE.encode(), b";", b"hello;1", b"\x07", b"\x1b", b"\\", b"%", b"="])
        for _ in range(20_000)
    )
    found = read(data, range(0, len(data), 61))
    assert len(found) > 100
    assert all(each.number == 1 for each in found if each.is_genuine)
