"""A recording as numbered events: the same wherever one begins, with every line; batches within AWS's limits."""

import json
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetops.aws.logs import BATCH_BYTES, BATCH_EVENTS, EVENT_OVERHEAD, SPAN_MS
from sessions_app.commandlog.marks import OSC
from sessions_app.delivery import lines
from sessions_app.delivery.batches import MESSAGE_BYTES, batches, moment_taken
from sessions_app.delivery.lines import Reading, shown
from sessions_app.journal import NOTE, OUTPUT, SIZE, STATE, State, decode, encode

STARTED_US = 1_800_000_000_000_000
DAY_MS, HOUR_MS = 86_400_000, 3_600_000


def chunks_of(steps):
    """Chunks from steps: bytes shown, a note (str), a pause in microseconds (int), or None: the chunk ends."""
    made, records, at = [], [encode(STATE, 0, -1, State(started_us=STARTED_US).pack())], 0
    for step in [*steps, None]:
        if step is None:
            if records:
                made.append(b"".join(records))
            records = []
        elif isinstance(step, int):
            at += step
        elif isinstance(step, str):
            records.append(encode(NOTE, at, 0, json.dumps({"type": "test", "text": step}).encode()))
        else:
            records.append(encode(OUTPUT, at, 1, step))
            records.append(encode(SIZE, at, 1, b"\x00\x50\x00\x18" + bytes(8)))
    return list(enumerate(made, 1))


def told(chunks, *, place=lines.BEGIN, number=0, started_us=0, is_last=True, has_transcript=True):
    reading = Reading(place=place, number=number, started_us=started_us, has_transcript=has_transcript)
    begun = [(each, decode(data)) for each, data in chunks if each >= place.chunk]
    return list(reading.events(begun, is_last=is_last)), reading


SMALL = {"LINE_BYTES": 16, "EVENT_BYTES": 48, "EVENT_LINES": 3, "LINE_CHUNKS": 2}
STEPS = st.lists(
    st.one_of(
        st.none(),
        st.integers(0, 3_000_000),
        st.sampled_from(["a note", "another"]),
        st.lists(
            st.sampled_from(
                [b"\n", b"\r\n", b"ab", "é€".encode(), b"\x1b[31m", b"\x1b[", b"\x1b]0;t\x07", b"x" * 20, OSC, b"\x07"]
            ),
            min_size=1,
            max_size=6,
        ).map(b"".join),
    ),
    max_size=25,
)


@pytest.fixture(autouse=True, scope="module")
def small():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setattr(lines, name, value)
        yield


@given(STEPS)
def test_from_whatever_place_one_goes_on_the_same_events_come_with_the_same_numbers(steps):
    chunks = chunks_of(steps)
    events, _ = told(chunks)
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    for done, event in enumerate(events, 1):
        rest, _ = told(chunks, place=event.place, number=event.number, started_us=STARTED_US)
        assert rest == events[done:]


@given(STEPS)
def test_who_reads_each_chunk_as_it_comes_tells_what_who_reads_all_at_the_end_tells(steps):
    chunks = chunks_of(steps)
    place, number, seen = lines.BEGIN, 0, []
    for end in range(1, len(chunks) + 1):
        events, reading = told(chunks[:end], place=place, number=number, started_us=STARTED_US, is_last=False)
        seen += events
        place, number = reading.rest, reading.number
        assert reading.read_through == end or not [each for each, _ in chunks[:end] if each >= place.chunk]
    events, _ = told(chunks, place=place, number=number, started_us=STARTED_US)
    assert seen + events == told(chunks)[0]


@given(st.lists(st.one_of(st.none(), st.text("abc é\n", min_size=1, max_size=40).map(str.encode)), max_size=20))
def test_every_line_is_told_once_and_whole_however_it_was_cut(steps):
    events, _ = told(chunks_of(steps))
    text = ""
    for event in events:
        text += "\n".join(event.body["sessionData"]) + ("" if event.body.get("goesOn") else "\n")
    whole = b"".join(step for step in steps if step).decode()
    assert text.removesuffix("\n") == whole.removesuffix("\n")


def test_moments_do_not_go_back_and_notes_stand_where_they_happened():
    events, _ = told(chunks_of([b"one\n", 5_000_000, "joined", b"tw", 1, "left", b"o\n", None, b"three"]))
    told_of = [event.body.get("sessionData") or event.body["note"]["text"] for event in events]
    assert told_of == [["one"], "joined", ["tw"], "left", ["o"], ["three"]]
    assert [event.at_us - STARTED_US for event in events] == [0, 5_000_000, 5_000_001, 5_000_001, 5_000_001, 5_000_001]


@pytest.mark.parametrize("end", [b"\x07", b"\x1b\\"])
@pytest.mark.parametrize("piece", [7, 1024, 40_000])
def test_nothing_of_a_mark_is_told_however_long_its_command_is(piece, end):
    command = b"secret-" * 4286  # 30,002 characters
    mark = OSC + b"n" * 32 + b";command;3;text=" + command + b";cwd=/;user=mei" + end
    shown = b"mei$ " + b"typed " * 4 + mark + b"and its output" + mark + b"\r\nmore\r\n"
    pieces = [shown[at : at + piece] for at in range(0, len(shown), piece)]
    # A chunk ends after each 400 pieces: the line is older than LINE_CHUNKS then, in the middle of a mark.
    steps = [step for n, each in enumerate(pieces, 1) for step in ([each, None] if n % 400 == 0 else [each])]
    events, _ = told(chunks_of(steps))
    text = "".join("".join(event.body["sessionData"]) for event in events)
    assert text == "mei$ " + "typed " * 4 + "and its outputmore"


@pytest.mark.parametrize("end", [b"\x07", b"\x1b\\"])
@pytest.mark.parametrize("gaps", [["a note"], ["a note", None, "another"], [None, "a note", b"piece", None]])
def test_nothing_of_a_mark_is_told_with_a_note_between_its_pieces(gaps, end):
    chunks = chunks_of([b"mei$ ls\r\n" + OSC + b"nonce;command;3;te", *gaps, b"xt=secret", *gaps, end + b"output\r\n"])
    events, _ = told(chunks)
    text = "".join("".join(event.body.get("sessionData", ())) for event in events)
    assert text == "mei$ lsoutput"
    assert [event.body["note"]["text"] for event in events if event.kind == "note"] == [
        gap for gap in gaps * 2 if isinstance(gap, str)
    ]
    for done, event in enumerate(events, 1):
        assert told(chunks, place=event.place, number=event.number, started_us=STARTED_US)[0] == events[done:]


def test_a_mark_without_an_end_holds_up_no_line():
    flood = [b"x" * 1024] * 90
    events, _ = told(chunks_of([OSC, *flood, b"\r\nmore\r\n"]))
    assert events[-1].body["sessionData"][-1].endswith("more")
    assert len(events) > 1


def test_without_a_transcript_only_notes_are_told_and_nothing_is_read_twice():
    events, reading = told(chunks_of([b"one\n", "joined", None, b"two\n"]), has_transcript=False, is_last=False)
    assert [event.kind for event in events] == ["note"]
    assert reading.rest == (3, 0, 0) and reading.read_through == 2


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"\x1b[1;32mmei\x1b[0m$ ls\r\n", "mei$ ls"),
        (b"10 %\r50 %\r100 %\n", "100 %"),
        (b"lsx\b \b -l\r\n", "ls -l"),
        (b"\x1b]0;title\x07text\x1b]133;A;secret\x1b\\\n", "text"),
        (b"caf\xc3\xa9 \xff\n", "café �"),
        (b"\x1b[31", ""),
    ],
)
def test_a_line_is_told_as_it_is_shown(line, text):
    assert shown(line) == text


# --- batches ---


@dataclass(frozen=True)
class Sized:
    number: int
    at_ms: int
    message_bytes: int


@given(
    st.lists(
        st.tuples(st.integers(0, 3 * DAY_MS), st.one_of(st.integers(1, 200), st.integers(100_000, MESSAGE_BYTES))),
        max_size=60,
    )
)
def test_batches_hold_to_awss_limits_lose_nothing_and_keep_numbers_together(facts):
    events = [Sized(number, at, size) for number, (at, size) in enumerate(facts)]
    made = list(batches(events))
    begun = 0
    for batch in made:
        assert sorted(each.number for each in batch) == list(range(begun, begun + len(batch)))
        begun += len(batch)
        assert len(batch) <= BATCH_EVENTS
        assert sum(each.message_bytes + EVENT_OVERHEAD for each in batch) <= BATCH_BYTES
        assert batch[-1].at_ms - batch[0].at_ms <= SPAN_MS
        assert all(a.at_ms <= b.at_ms for a, b in pairwise(batch))
    assert begun == len(events)


def test_ten_thousand_small_events_fill_a_batch_and_one_that_none_can_hold_is_refused():
    assert [len(batch) for batch in batches(Sized(n, 0, 1) for n in range(25_000))] == [10_000, 10_000, 5_000]
    with pytest.raises(ValueError, match="the most is"):
        list(batches([Sized(0, 0, MESSAGE_BYTES + 1)]))


@pytest.mark.parametrize(
    ("age_ms", "retention_days", "moved_ms"),
    [
        (0, None, 0),
        (13 * DAY_MS, None, 0),
        (20 * DAY_MS, None, 6 * DAY_MS + HOUR_MS),
        (2 * DAY_MS, 1, DAY_MS + HOUR_MS),
        (-90 * 60_000, None, -30 * 60_000),
    ],
)
def test_an_event_bears_its_own_moment_where_aws_takes_it_and_else_the_nearest(age_ms, retention_days, moved_ms):
    now_ms = 1_800_000_000_000
    at = now_ms - age_ms
    assert moment_taken(at, now_ms=now_ms, retention_days=retention_days) == at + moved_ms
