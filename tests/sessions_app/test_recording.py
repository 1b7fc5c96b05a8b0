"""Recordings: sealed, chained, found whole or not, played, searched, shipped, and finished when an owner is gone."""

import contextlib
import hashlib
import json
from datetime import timedelta

import pytest
import zstandard
from django.db import OperationalError

from fleetops.audit.models import AuditEvent
from fleetops.clock import now
from sessions_app import recording, services, upkeep
from sessions_app import spool as spools
from sessions_app.commandlog.marks import OSC
from sessions_app.journal import OUTPUT, Journal, encode
from sessions_app.models import RecordingChunk, TerminalSession
from sessions_app.recording import Sealer
from sessions_app.states import SessionState
from sessions_app.store import DirectoryStore, recording_store
from tests.factories import make_session, make_user

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def session(spool, settings):
    return make_session(
        user=make_user("mei.tanaka"), owner="127.0.0.1:1:word", owner_epoch=1, owner_seen_at=now(), owner_host=_host()
    )


def _host():
    return spools.host_name()


@pytest.fixture
def journal(session):
    microseconds = iter(range(10**15, 10**16, 500_000))
    journal = Journal(spools.session_directory(session.pk), clock_us=lambda: next(microseconds))
    yield journal
    journal.close()


def append(journal, *pieces: bytes) -> None:
    for piece in pieces:
        journal.append_output([(piece, journal.state.output_sequence + 1)])


def seal(session, journal) -> Sealer:
    sealer = Sealer(session, journal)
    while sealer.offset < journal.end:
        sealer.seal(journal.end)
    session.refresh_from_db()
    return sealer


def chunks_of(session):
    return list(session.chunks.order_by("number"))


def path_of(session, number):
    return spools.chunk_path(session.pk, number, session.chunks.get(number=number).sha256)


def test_what_was_shown_comes_back_from_chunks_with_sizes_and_times_and_no_input(session, journal):
    journal.append_size(100, 30, 0, -1)
    append(journal, b"hello ", b"w\xc3")
    seal(session, journal)
    append(journal, b"\xb6rld\r\n")  # the other half of a character, in the next chunk
    journal.append_input(7, 6)
    journal.append_size(80, 24, 8, 7)
    seal(session, journal)

    assert [chunk.number for chunk in chunks_of(session)] == [1, 2]
    events = list(recording.events(chunks_of(session)))
    assert [(code, text) for _, code, text in events] == [
        ("r", "80x24"),
        ("r", "100x30"),
        ("o", "hello "),
        ("o", "w"),
        ("o", "örld\r\n"),
        ("r", "80x24"),
    ]
    times = [seconds for seconds, _, _ in events]
    assert times == sorted(times)
    assert session.output_bytes == 14
    for chunk in chunks_of(session):
        with recording.open_chunk(chunk) as file:
            assert all(record.kind != 3 for record in recording.chunk_records(file))


def test_a_cast_is_an_asciicast_of_either_version(session, journal):
    append(journal, b"one\r\n", b"two\r\n")
    seal(session, journal)
    header, *lines = b"".join(recording.cast(session, chunks_of(session))).splitlines()
    assert json.loads(header)["version"] == 2
    assert (json.loads(header)["width"], json.loads(header)["height"]) == (80, 24)
    assert [json.loads(line)[1:] for line in lines] == [["o", "one\r\n"], ["o", "two\r\n"]]
    absolute = [json.loads(line)[0] for line in lines]

    header, *lines = b"".join(recording.cast(session, chunks_of(session), version=3)).splitlines()
    assert json.loads(header)["term"] == {"cols": 80, "rows": 24, "type": "xterm-256color"}
    intervals = [json.loads(line)[0] for line in lines]
    assert sum(intervals) == pytest.approx(absolute[-1])
    assert intervals[1] == pytest.approx(absolute[1] - absolute[0])


def test_a_whole_recording_verifies_and_a_changed_one_says_where(session, journal):
    for text in (b"first", b"second", b"third"):
        append(journal, text)
        seal(session, journal)
    assert recording.verify(session).is_whole
    assert recording.verify(session).chunks == 3

    path = path_of(session, 2)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert recording.verify(session).faults == ["the bytes of chunk 2 were changed"]
    path.unlink()
    assert recording.verify(session).faults == ["the bytes of chunk 2 are missing"]
    path.write_bytes(whole)

    RecordingChunk.objects.filter(session=session, number=2).update(output_bytes=5)
    assert recording.verify(session).faults == ["the link of chunk 2 does not follow from the one before"]
    RecordingChunk.objects.filter(session=session, number=2).update(output_bytes=6)
    assert recording.verify(session).is_whole

    RecordingChunk.objects.filter(session=session, number=3).delete()
    assert "the last link is not the one that the session names" in recording.verify(session).faults


@pytest.mark.parametrize("change", ["flipped", "cut", "gone", "another", "row"])
def test_nothing_is_played_that_was_not_sealed(session, journal, change):
    for text in (b"first", b"second", b"third"):
        append(journal, text)
        seal(session, journal)
    path, first = path_of(session, 2), path_of(session, 1)
    whole = path.read_bytes()
    match change:
        case "flipped":
            path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        case "cut":
            path.write_bytes(whole[:10])  # zstd takes this for an empty frame that is still to come
        case "gone":
            path.unlink()
        case "another":
            path.write_bytes(first.read_bytes())  # a well-formed chunk, only not this one
        case "row":
            RecordingChunk.objects.filter(session=session, number=2).update(first_time_us=1)
    chunks = chunks_of(session)
    with pytest.raises(recording.Damaged, match=r"[Cc]hunk 2"):
        list(recording.events(chunks))
    lines = [json.loads(line)[2] for line in b"".join(recording.cast(session, chunks)).splitlines()[1:]]
    assert lines[0] == "first" and len(lines) == 2
    assert "FleetOps: " in lines[1] and "hunk 2 of this recording" in lines[1] and "left out" in lines[1]
    for read in (lambda: recording.index(session, chunks), lambda: recording.search(chunks, "third")):
        with pytest.raises(recording.Damaged):
            read()
    with pytest.raises(recording.Damaged, match="Chunk 1 of this recording is missing"):
        list(recording.events(chunks[1:]))


def test_a_chain_that_was_written_anew_does_not_fit_the_audit_log(session, journal):
    append(journal, b"true")
    seal(session, journal)
    services.ended(session, reason="The shell has ended.", sealed=True)
    assert recording.verify(session).is_whole
    chunk = chunks_of(session)[0]
    forged = path_of(session, 1).with_name("forged")
    forged.write_bytes(zstandard.compress(encode(OUTPUT, 1, 0, b"false")))
    chunk.sha256 = hashlib.sha256(forged.read_bytes()).hexdigest()
    forged.rename(spools.chunk_path(session.pk, 1, chunk.sha256))
    chunk.chain_hash = recording.link(str(session.pk), chunk)
    chunk.save()
    session.chain_head = chunk.chain_hash
    session.save()
    assert recording.verify(session).faults == ["the last link is not the one that the audit log names"]


def test_a_crash_between_the_file_and_its_row_costs_nothing(session, journal, monkeypatch):
    append(journal, b"first")
    sealer = Sealer(session, journal)

    def crash(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RecordingChunk, "save", crash)
        with pytest.raises(KeyboardInterrupt):
            sealer.seal(journal.end)
    assert list(spools.session_directory(session.pk).glob("chunks/*.zst"))
    assert not session.chunks.exists()

    append(journal, b"second")
    seal(session, journal)
    assert recording.verify(session).is_whole
    assert session.output_bytes == 11


def test_a_database_that_took_a_chunk_and_lost_its_answer_is_asked_before_the_next(session, journal, monkeypatch):
    append(journal, b"first")
    sealer = Sealer(session, journal)
    atomic = recording.transaction.atomic

    @contextlib.contextmanager
    def lost():
        with atomic():
            yield
        raise OperationalError("server closed the connection unexpectedly")

    with monkeypatch.context() as patch:
        patch.setattr(recording.transaction, "atomic", lost)
        with pytest.raises(OperationalError):
            sealer.seal(journal.end)
    append(journal, b"second")
    sealer.seal(journal.end)
    session.refresh_from_db()
    assert [chunk.number for chunk in chunks_of(session)] == [1, 2]
    assert recording.verify(session).is_whole
    assert session.output_bytes == 11


def test_an_end_that_the_database_did_not_take_can_be_written_again(session, journal, monkeypatch):
    append(journal, b"shown")
    seal(session, journal)

    def away(*args, **kwargs):
        raise OperationalError("the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(services, "record", away)
        with pytest.raises(OperationalError):
            services.ended(session, reason="over", sealed=True)
    assert session.is_live
    services.ended(session, reason="over", sealed=True)
    session.refresh_from_db()
    assert (session.is_live, session.end_reason) == (False, "over")


def test_a_late_owner_writes_no_chunk(session, journal):
    append(journal, b"shown")
    late = TerminalSession.objects.get(pk=session.pk)
    services.claim(session, owner="127.0.0.1:2:other", host=_host())
    with pytest.raises(services.LateOwner):
        Sealer(late, journal).seal(journal.end)
    assert not session.chunks.exists()
    with pytest.raises(services.LateOwner):
        services.ended(late, reason="late", sealed=True)
    with pytest.raises(services.LateOwner):
        services.claim(late, owner="127.0.0.1:3:third", host=_host())


def test_two_owners_that_seal_the_same_number_do_not_harm_each_other(session, journal):
    append(journal, b"first")
    late = Sealer(TerminalSession.objects.get(pk=session.pk), journal)
    services.claim(session, owner="127.0.0.1:2:other", host=_host())
    append(journal, b"second")
    seal(session, journal)
    with pytest.raises(services.LateOwner):
        late.seal(journal.end - 31)
    assert recording.verify(session).is_whole


def test_a_flood_is_cut_into_chunks_of_bounded_size(session, journal, monkeypatch):
    monkeypatch.setattr(recording, "MAX_CHUNK_BYTES", 1 << 20)
    block = b"all work and no play\r\n" * 1400
    for _ in range(200):
        append(journal, block)
    seal(session, journal)
    assert len(chunks_of(session)) == 6
    assert session.output_bytes == 200 * len(block)
    assert recording.verify(session).is_whole
    text = "".join(text for _, code, text in recording.events(chunks_of(session)) if code == "o")
    assert text.encode() == block * 200


def test_shipping_moves_chunks_into_the_store_once_and_they_read_on_from_there(session, journal):
    append(journal, b"one")
    seal(session, journal)
    append(journal, b"two")
    seal(session, journal)
    assert upkeep.ship_chunks() == 2
    assert upkeep.ship_chunks() == 0
    for chunk in chunks_of(session):
        assert chunk.sent_at
        assert not spools.chunk_path(session.pk, chunk.number, chunk.sha256).exists()
        recording_store().open(chunk.sha256).close()
    assert recording.verify(session).is_whole


def test_a_store_keeps_a_chunk_by_its_hash_and_leaves_no_halves(tmp_path):
    store = DirectoryStore(tmp_path / "store")
    source = tmp_path / "chunk"
    source.write_bytes(b"sealed")
    store.put("ab" * 32, source)
    store.put("ab" * 32, source)
    with store.open("ab" * 32) as file:
        assert file.read() == b"sealed"
    assert [path.name for path in (tmp_path / "store").rglob("*") if path.is_file()] == ["ab" * 32 + ".zst"]
    with pytest.raises(FileNotFoundError):
        store.open("cd" * 32)


@pytest.mark.parametrize("end", [b"\x07", b"\x1b\\"])
def test_search_finds_nothing_in_a_mark_however_long_its_command_is(session, journal, end):
    mark = OSC + b"n" * 32 + b";command;3;text=" + b"needle-" * 9000 + b";cwd=/;user=mei" + end
    shown = b"mei$ typed " + mark + b"needle shown\r\n"
    append(journal, *(shown[at : at + 1024] for at in range(0, len(shown), 1024)))
    seal(session, journal)
    hits, _ = recording.search(chunks_of(session), "needle")
    assert [hit["text"] for hit in hits] == ["mei$ typed needle shown"]
    assert recording.search(chunks_of(session), "7717")[0] == []


def test_search_finds_what_was_shown_through_colours_pieces_and_backspaces(session, journal):
    append(
        journal,
        b"\x1b]0;title says needle\x07$ gr\x1b[1;3",
        b"1mep\x1b[0m lines\r\n",
        b"find the NEE\x1b[32mDLE\x1b[0m here\r\n",
        b"nope\b\b\b\bneex\bdle too\r\n",
        b"overwritten\rneedle left\r\n",
        b"the last neEdle has no end",
    )
    seal(session, journal)
    hits, has_more = recording.search(chunks_of(session), "needle")
    assert [hit["text"] for hit in hits] == [
        "find the NEEDLE here",
        "needle too",
        "needle left",
        "the last neEdle has no end",
    ]
    assert not has_more
    assert [hit["time"] for hit in hits] == sorted(hit["time"] for hit in hits)
    assert recording.search(chunks_of(session), "grep lines")[0][0]["text"] == "$ grep lines"
    assert recording.search(chunks_of(session), "e", most=2)[1]
    assert recording.search(chunks_of(session), "") == ([], False)


def test_the_index_tells_a_player_what_there_is(session, journal):
    append(journal, b"x" * 10)
    journal.append_size(120, 40, 1, 0)
    seal(session, journal)
    index = recording.index(session, chunks_of(session))
    assert index["output_bytes"] == 10
    assert [marker["label"] for marker in index["markers"]] == ["80 × 24", "120 × 40"]
    assert index["markers_end"] is None
    assert index["duration"] > 0
    assert index["activity"][0][2] == 10


# Upkeep


def later(session, **fields):
    TerminalSession.objects.filter(pk=session.pk).update(**fields)
    session.refresh_from_db()


def test_a_session_whose_owner_does_not_come_back_ends_in_words_with_all_of_its_recording(
    session, journal, account, gateway
):
    append(journal, b"shown and not sealed")
    later(session, owner_seen_at=now() - timedelta(minutes=5), account_id=account.account_id, ssm_session_id="")
    upkeep.tidy()
    session.refresh_from_db()
    assert session.is_live  # the lock says that its owner lives

    journal.close()
    upkeep.tidy()
    session.refresh_from_db()
    assert session.state == SessionState.ENDED
    assert session.end_reason == "The process that held the session did not come back."
    assert session.sealed_at
    assert recording.verify(session).is_whole
    assert AuditEvent.objects.get(action="sessions.end").details["chain_head"] == session.chain_head


def test_a_session_whose_host_is_gone_ends_in_words(session, account, gateway):
    later(
        session,
        owner_host="elsewhere-1",
        owner_seen_at=now() - timedelta(minutes=5),
        account_id=account.account_id,
        ssm_session_id="",
    )
    upkeep.tidy()
    session.refresh_from_db()
    assert session.state == SessionState.ENDED
    assert session.end_reason.startswith("The host that held the session is gone.")
    assert session.sealed_at is None


def test_what_an_owner_could_not_seal_is_sealed_later(session, journal):
    append(journal, b"the disk was full")
    services.ended(session, reason="x", sealed=False)
    journal.close()
    upkeep.tidy()
    session.refresh_from_db()
    assert session.sealed_at
    assert recording.verify(session).is_whole
    assert AuditEvent.objects.get(action="sessions.recording.seal").details["chain_head"] == session.chain_head


def test_a_terminal_that_nobody_opened_is_closed(spool):
    waiting = make_session(user=make_user(), state=SessionState.OPENING, ssm_session_id="", started_at=None)
    upkeep.tidy()
    waiting.refresh_from_db()
    assert waiting.is_live
    later(waiting, created_at=now() - timedelta(minutes=6))
    upkeep.tidy()
    waiting.refresh_from_db()
    assert waiting.state == SessionState.FAILED
    assert waiting.end_reason == "Nobody opened its terminal for five minutes."


def test_the_spool_is_cleared_once_the_store_has_everything(session, journal):
    append(journal, b"shown")
    seal(session, journal)
    services.ended(session, reason="The shell has ended.", sealed=True)
    journal.close()
    upkeep.tidy()
    assert spools.session_directory(session.pk).exists()
    later(session, ended_at=now() - timedelta(hours=2))
    upkeep.tidy()
    assert spools.session_directory(session.pk).exists()  # a chunk is not in the store yet
    upkeep.ship_chunks()
    upkeep.tidy()
    assert not spools.session_directory(session.pk).exists()
    assert recording.verify(session).is_whole
