"""The journal and its snapshots: whatever is cut or changed, nothing that was answered is dropped in silence."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetops.endpoint import moto_process
from fleetops.endpoint.bodies import Bodies
from fleetops.endpoint.journal import Journal, OtherVersion, StateRefused

KEY = b"k" * 32
RECORDS = [({"request_id": str(n)}, b"body %d" % n * n) for n in range(6)]


def journal(directory, version="moto-1") -> Journal:
    return Journal(directory, KEY, version)


def written(directory) -> Journal:
    made = journal(directory)
    assert list(made.records()) == []
    for header, body in RECORDS:
        made.append(header, body)
    made.close()
    return made


def read(directory) -> list[tuple[dict, bytes]]:
    return [(record.header, record.body) for record in journal(directory).records()]


def test_what_was_written_is_read_in_order(tmp_path):
    written(tmp_path)
    assert read(tmp_path) == RECORDS


@settings(max_examples=60)
@given(cut=st.integers(0, 400))
def test_a_torn_end_costs_the_last_record_alone_and_more_can_follow(tmp_path_factory, cut):
    directory = tmp_path_factory.mktemp("journal")
    written(directory)
    path = directory / "journal-0"
    content = path.read_bytes()
    path.write_bytes(content[: max(0, len(content) - cut)])
    again = journal(directory)
    kept = [(record.header, record.body) for record in again.records()]
    assert kept == RECORDS[: len(kept)]
    again.append({"request_id": "new"}, b"")
    again.close()
    assert read(directory) == [*kept, ({"request_id": "new"}, b"")]


def test_damage_in_the_middle_is_refused_and_not_cut(tmp_path):
    written(tmp_path)
    path = tmp_path / "journal-0"
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    with pytest.raises(StateRefused, match="is damaged at byte 0"):
        read(tmp_path)
    assert path.read_bytes() == content


def test_a_snapshot_begins_the_journal_anew(tmp_path):
    made = written(tmp_path)
    made.replace(b"all of it")
    made.append({"request_id": "after"}, b"")
    made.close()
    again = journal(tmp_path)
    assert again.snapshot() == b"all of it"
    assert [record.header["request_id"] for record in again.records()] == ["after"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal-1", "snapshot-1", "version"]


@settings(max_examples=40)
@given(data=st.data())
def test_a_changed_snapshot_is_refused(tmp_path_factory, data):
    directory = tmp_path_factory.mktemp("snapshot")
    made = journal(directory)
    made.replace(b"state " * 20)
    made.close()
    path = directory / "snapshot-1"
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with pytest.raises(StateRefused, match="does not carry this endpoint's seal"):
        journal(directory).snapshot()


def test_a_snapshot_of_another_installation_or_number_is_refused(tmp_path):
    made = journal(tmp_path)
    made.replace(b"one")
    one = (tmp_path / "snapshot-1").read_bytes()
    made.replace(b"two")
    made.close()
    (tmp_path / "snapshot-2").write_bytes(one)
    with pytest.raises(StateRefused):
        journal(tmp_path).snapshot()
    with pytest.raises(StateRefused):
        Journal(tmp_path, b"x" * 32, "moto-1").snapshot()


def test_another_version_is_told(tmp_path):
    written(tmp_path)
    with pytest.raises(OtherVersion, match="moto-1"):
        journal(tmp_path, "moto-2")


def test_what_a_kill_within_a_snapshot_leaves_is_swept(tmp_path):
    made = written(tmp_path)
    made.replace(b"one")
    made.close()
    (tmp_path / "journal-0").write_bytes(b"old")
    (tmp_path / "snapshot-2.new").write_bytes(b"half")
    assert journal(tmp_path).snapshot() == b"one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal-1", "snapshot-1", "version"]


def test_a_full_disk_leaves_no_half_record(tmp_path):
    made = written(tmp_path)
    made = journal(tmp_path)
    list(made.records())
    made.append({"request_id": "a"}, b"")
    file = made._file

    class Full:
        def write(self, frame):
            file.write(frame[:10])
            return 10

        truncate, fileno, close = file.truncate, file.fileno, file.close

    made._file = Full()
    with pytest.raises(OSError, match="disk is full"):
        made.append({"request_id": "b"}, b"x" * 100)
    made._file = file
    made.append({"request_id": "c"}, b"")
    made.close()
    assert [header["request_id"] for header, _ in read(tmp_path)[-2:]] == ["a", "c"]


class Empty:
    """A moto that has no objects."""

    answered = None

    def named_bodies(self):
        return set()


class Mortal(Empty):
    """A moto that does not survive one call."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def call(self, header, body):
        if header["request_id"] == "deadly":
            raise KeyboardInterrupt
        self.ran.append(header["request_id"])
        return 200, [], b""


def test_a_call_that_moto_does_not_survive_is_skipped_in_the_end(tmp_path):
    call = {"service": "sns", "operation": "Publish", "protocol": "query", "changes": True}
    made = journal(tmp_path)
    for name in ("first", "deadly"):
        made.append({"request_id": name, **call}, b"")
    made.close()
    for _ in range(2):
        held = journal(tmp_path)
        with pytest.raises(KeyboardInterrupt):
            moto_process.Child(Mortal(), held, tmp_path / "attempts", Bodies(tmp_path / "bodies")).restore()
        held.close()
    for _ in range(2):
        moto, held = Mortal(), journal(tmp_path)
        child = moto_process.Child(moto, held, tmp_path / "attempts", Bodies(tmp_path / "bodies"))
        child.restore()
        assert moto.ran == ["first"]
        answer, content = child.answer({"ask": "call", "call": {"request_id": "deadly", **call}}, b"")
        assert answer["status"] == 500
        assert b"InternalFailure" in content
        held.close()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_damage_costs_more_than_the_last_record_in_silence(tmp_path_factory, data):
    directory = tmp_path_factory.mktemp("damage")
    written(directory)
    path = directory / "journal-0"
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        kept = read(directory)
    except StateRefused:
        assert path.read_bytes() == content
    else:
        assert kept == RECORDS[:-1]


def test_zeros_after_a_power_cut_are_a_torn_end(tmp_path):
    written(tmp_path)
    with (tmp_path / "journal-0").open("ab") as file:
        file.write(bytes(500))
    assert read(tmp_path) == RECORDS


def test_a_snapshot_that_cannot_be_written_leaves_all_as_it_was(tmp_path, monkeypatch):
    made = written(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            made.replace(b"all of it")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal-0", "version"]
    made.append({"request_id": "after"}, b"")
    made.close()
    assert read(tmp_path) == [*RECORDS, ({"request_id": "after"}, b"")]


class Steady(Empty):
    """A moto that does what it is told."""

    def call(self, header, body):
        return 200, [], b"done"

    def dump(self):
        return b"state"


CALL = {"service": "sns", "operation": "Publish", "protocol": "query", "changes": True}


def test_a_call_that_cannot_be_journalled_is_not_run(tmp_path, monkeypatch):
    held = journal(tmp_path)
    child = moto_process.Child(Steady(), held, tmp_path / "attempts", Bodies(tmp_path / "bodies"))
    monkeypatch.setattr(held, "append", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    answer, content = child.answer({"ask": "call", "call": {"request_id": "a", **CALL}}, b"")
    assert answer["status"] == 503
    assert b"Nothing was changed" in content
    monkeypatch.undo()
    answer, _ = child.answer({"ask": "call", "call": {"request_id": "a", **CALL}}, b"")
    assert answer["status"] == 200
    held.close()


def test_a_call_is_answered_where_the_snapshot_after_it_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(moto_process, "_MOST_ENTRIES", 1)
    held = journal(tmp_path)
    child = moto_process.Child(Steady(), held, tmp_path / "attempts", Bodies(tmp_path / "bodies"))
    tries = []

    def full(content):
        tries.append(content)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(held, "replace", full)
    for number in range(3):
        answer, _ = child.answer({"ask": "call", "call": {"request_id": str(number), **CALL}}, b"")
        assert answer["status"] == 200
    assert len(tries) == 1
    held.close()
