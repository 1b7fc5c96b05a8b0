"""The journal keeps what was appended, whatever is cut off its end, and whoever reads it at whatever pace."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessions_app.journal import (
    INPUT,
    MARK,
    MOST_BUFFERS,
    OUTPUT,
    SEGMENT_BYTES,
    SIZE,
    STATE,
    Journal,
    JournalBusy,
    JournalFull,
    Resized,
    Segments,
    Shown,
)


def read_all(cursor, limit=1 << 16):
    """All that a cursor has now, as (output, sizes)."""
    output, sizes = b"", []
    while (piece := cursor.read(limit)) is not None:
        if isinstance(piece, Shown):
            output += piece.data
        else:
            sizes.append((piece.cols, piece.rows))
    return output, sizes


ACTS = st.lists(
    st.one_of(
        st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=4).map(lambda data: ("output", data)),
        st.just(("input", None)),
        st.just(("mark", None)),
        st.tuples(st.integers(1, 500), st.integers(1, 200)).map(lambda size: ("size", size)),
    ),
    max_size=20,
)


def perform(journal, acts):
    """Append; returns the output and, for each act, the journal's end and the output so far."""
    output, ends, sequence, ours = b"", [(journal.end, b"")], 0, 0
    for act, value in acts:
        if act == "output":
            numbered = []
            for data in value:
                numbered.append((data, sequence))
                sequence += 1
                output += data
            journal.append_output(numbered)
        elif act == "input":
            journal.append_input(ours, ours - 1)
            ours += 1
        elif act == "mark":
            journal.append_mark(sequence)
            sequence += 1
        else:
            journal.append_size(*value, ours, -1)
            ours += 1
        ends.append((journal.end, output))
    return output, ends


@settings(max_examples=60, deadline=None)
@given(acts=ACTS, data=st.data())
def test_whatever_is_torn_off_its_end_the_journal_goes_on_behind_the_last_whole_record(tmp_path_factory, acts, data):
    directory = tmp_path_factory.mktemp("journal")
    journal = Journal(directory)
    output, _ = perform(journal, acts)
    path, size = journal.segments[-1].path, journal.segments[-1].size
    journal.close()
    cut = data.draw(st.integers(0, size))
    os.truncate(path, cut)
    if data.draw(st.booleans()):
        with path.open("ab") as file:
            file.write(data.draw(st.binary(max_size=40)))

    journal = Journal(directory)
    kept, _ = read_all(journal.cursor(0))
    assert output.startswith(kept)
    assert journal.output_end == len(kept)
    journal.append_output([(b"and on", journal.state.output_sequence + 1)])
    assert read_all(journal.cursor(0))[0] == kept + b"and on"
    journal.close()
    again = Segments(directory)
    assert (again.end, again.output_end) == (journal.end, journal.output_end)


@settings(max_examples=60, deadline=None)
@given(acts=ACTS, limit=st.integers(64, 2000), data=st.data())
def test_a_reader_sees_every_byte_once_from_any_offset_and_the_sizes_in_their_places(
    tmp_path_factory, acts, limit, data
):
    journal = Journal(tmp_path_factory.mktemp("journal"))
    output, _ = perform(journal, acts)
    start = data.draw(st.integers(0, len(output)))
    cursor = journal.cursor(start)
    assert cursor.offset == start
    shown, sizes = read_all(cursor, limit)
    assert shown == output[start:]
    if start == 0:
        assert sizes == [value for act, value in acts if act == "size"]
    assert cursor.backlog == 0
    cursor.close()
    journal.close()


@settings(max_examples=40, deadline=None)
@given(acts=ACTS)
def test_the_next_owner_learns_the_numbers_that_were_used(tmp_path_factory, acts):
    directory = tmp_path_factory.mktemp("journal")
    journal = Journal(directory)
    perform(journal, acts)
    state = journal.state
    journal.close()
    again = Journal(directory)
    assert again.state == state
    assert not again.is_new
    again.close()


def test_only_one_process_holds_a_journal(tmp_path):
    journal = Journal(tmp_path)
    with pytest.raises(JournalBusy):
        Journal(tmp_path)
    journal.close()
    Journal(tmp_path).close()


def test_a_long_journal_is_cut_into_segments_that_each_tell_how_to_go_on(tmp_path):
    journal = Journal(tmp_path)
    journal.append_size(132, 43, 0, -1)
    journal.append_input(1, 0)
    block = bytes(range(256)) * 128
    for number in range(100):
        journal.append_output([(block, number)])
    assert len(journal.segments) == 4
    for segment in journal.segments[:-1]:
        assert segment.size <= SEGMENT_BYTES
        segment.path.unlink()
    state = journal.state
    journal.close()

    again = Journal(tmp_path)
    assert again.state == state
    assert (again.state.cols, again.state.rows, again.state.input_sequence) == (132, 43, 1)
    assert again.output_end == 100 * len(block)
    again.close()


def test_a_torn_first_record_of_a_new_segment_leaves_the_one_before(tmp_path):
    journal = Journal(tmp_path)
    for number in range(40):
        journal.append_output([(b"x" * 32768, number)])
    last = journal.segments[-1]
    journal.close()
    os.truncate(last.path, 10)

    again = Journal(tmp_path)
    assert not last.path.exists()
    assert again.output_end == last.output_base
    again.close()


def test_a_full_quota_drops_sealed_segments_only_and_tells_readers_by_a_jump(tmp_path):
    journal = Journal(tmp_path, quota_bytes=4 * SEGMENT_BYTES)
    cursor = journal.cursor(0)
    block = b"y" * 32768
    with pytest.raises(JournalFull):
        for number in range(1000):
            journal.append_output([(block, number)])
    full = journal.end
    assert journal.output_base == 0

    journal.sealed = journal.end
    journal.append_output([(block, 1000)])
    assert journal.output_base > 0
    assert journal.end > full
    offset, shown = 0, 0
    while (piece := cursor.read()) is not None:
        offset, shown = piece.offset + len(piece.data), shown + len(piece.data)
    assert offset == journal.output_end
    # The first segment, open already, was read to its end; those dropped behind it were missed, if any.
    assert shown <= journal.output_end
    late = journal.cursor(0)
    assert late.offset == journal.output_base
    journal.close()


def test_records_come_back_as_they_were_written(tmp_path):
    journal = Journal(tmp_path, clock_us=iter(range(1_000_000, 2_000_000, 10)).__next__)
    journal.append_output([(b"a", 0), (b"b", 1)])
    middle = journal.end
    journal.append_mark(2)
    journal.append_input(0, -1)
    journal.append_size(100, 30, 1, 0)
    records = list(journal.records(0, journal.end))
    assert [record.kind for record in records] == [STATE, OUTPUT, OUTPUT, MARK, INPUT, SIZE]
    assert [record.kind for record in journal.records(middle, journal.end)] == [MARK, INPUT, SIZE]
    times = [record.time_us for record in records]
    assert times == sorted(times)
    journal.close()


def test_thousands_of_messages_that_come_in_one_go_are_taken(tmp_path):
    """More than the system writes at once: what waited behind a lost message."""
    numbered = [(b"%05d\n" % n, n) for n in range(2 * MOST_BUFFERS)]
    journal = Journal(tmp_path)
    journal.append_output(numbered)
    assert read_all(journal.cursor(0))[0] == b"".join(data for data, _ in numbered)
    journal.close()


def test_a_damaged_record_in_the_middle_is_found_when_it_is_read(tmp_path):
    journal = Journal(tmp_path)
    for number in range(10):
        journal.append_output([(b"z" * 100, number)])
    with journal.segments[0].path.open("r+b") as file:
        file.seek(500)
        file.write(b"?")
    with pytest.raises(ValueError, match="damaged"):
        list(journal.records(0, journal.end))
    journal.close()


def test_a_reader_that_follows_is_woken_and_gets_what_was_appended(tmp_path):
    journal = Journal(tmp_path)
    woken = []
    journal.listeners.append(lambda: woken.append(1))
    cursor = journal.cursor(0)
    assert cursor.read() is None
    journal.append_output([(b"hello", 0)])
    journal.append_size(90, 20, 0, -1)
    assert woken == [1, 1]
    assert cursor.read() == Shown(0, b"hello")
    assert cursor.read() == Resized(90, 20)
    journal.close()
