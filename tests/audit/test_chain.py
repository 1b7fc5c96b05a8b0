"""Sealing, and finding out whatever was done to the log afterwards."""

import json
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetops.audit import chain, tasks
from fleetops.audit.chain import Head, Sealer, verify
from fleetops.audit.models import AuditEvent, AuditSeal, SealerLease
from fleetops.audit.record import digest, record
from fleetops.clock import now

from .support import make_events, numbers, tampering


def test_rows_are_numbered_in_the_order_of_their_ids_and_verify(db):
    events = make_events(5)
    assert Sealer().seal() == 5
    in_order = sorted(event.pk for event in events)
    assert list(AuditSeal.objects.order_by("number").values_list("event_id", flat=True)) == in_order
    result = verify()
    assert (result.ok, result.sealed, result.unsealed, result.head.number) == (True, 5, 0, 5)
    assert chain.read_head() == result.head


def test_an_empty_log_verifies(db):
    assert verify().ok
    assert Sealer().seal() == 0
    assert (verify().ok, chain.read_head()) == (True, Head(0, chain.GENESIS))


def test_what_is_not_sealed_yet_is_told_apart(db):
    make_events(3)
    Sealer().seal()
    make_events(2)
    result = verify()
    assert (result.ok, result.sealed, result.unsealed) == (True, 3, 2)


def test_more_rows_than_one_batch_are_sealed_at_once(db, monkeypatch):
    monkeypatch.setattr(chain, "BATCH_ROWS", 4)
    monkeypatch.setattr(chain, "READ_ROWS", 3)
    make_events(10)
    assert Sealer().seal() == 10
    assert numbers() == list(range(1, 11))
    seen = []
    assert verify(seen.append).ok
    assert seen == [3, 6, 9, 10]


def test_a_row_that_commits_late_with_a_lower_id_is_sealed_behind_those_before_it(db):
    late = record("sessions.open", actor="worker")
    with tampering():
        AuditEvent.objects.filter(pk=late.pk).delete()
    make_events(2)
    sealer = Sealer()
    sealer.seal()
    late.save(force_insert=True)
    assert sealer.seal() == 1
    assert AuditSeal.objects.get(event=late).number == 3
    assert verify().ok


def test_a_row_that_was_open_for_longer_than_the_window_is_found_by_the_sweep(db, monkeypatch):
    sealer = Sealer()
    make_events(1)
    sealer.seal()
    monkeypatch.setattr(chain, "LATE_SECONDS", -60)
    make_events(1)
    assert sealer.seal() == 0
    monkeypatch.setattr(chain, "SWEEP_SECONDS", -1)
    assert sealer.seal(seconds=-1) == 1


def test_while_one_holds_the_lease_another_seals_nothing_and_takes_over_when_it_has_run_out(db):
    make_events(1)
    lease = SealerLease.objects.create(id=1, holder="another", until=now() + timedelta(seconds=60))
    sealer = Sealer()
    assert sealer.seal() == 0
    SealerLease.objects.filter(pk=lease.pk).update(until=now())
    assert sealer.seal() == 1
    assert SealerLease.objects.get().until <= now()


def test_a_sealer_that_has_lost_its_lease_stops(db):
    make_events(1)
    sealer = Sealer()
    sealer._take_lease()
    SealerLease.objects.update(holder="another")
    assert sealer._seal_batch(sweep=True) is None
    assert numbers() == []


# --- Tampering -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("action", "sessions.end"),
        ("outcome", "failed"),
        ("actor_name", "somebody.else"),
        ("reason", "because"),
        ("details", {"place": 99}),
        ("at", now()),
        ("source_address", "10.0.0.1"),
    ],
)
def test_a_changed_row_is_named(db, field, value):
    events = make_events(5)
    Sealer().seal()
    with tampering():
        AuditEvent.objects.filter(pk=events[2].pk).update(**{field: value})
    result = verify()
    assert (result.ok, result.problem_count) == (False, 1)
    assert str(events[2].pk) in result.first_bad and "number 3" in result.first_bad


def test_a_changed_row_whose_digest_was_copied_from_another_is_named(db):
    events = make_events(3)
    Sealer().seal()
    with tampering():
        AuditEvent.objects.filter(pk=events[1].pk).update(digest=events[0].digest)
    assert "number 2" in verify().first_bad


def test_a_removed_row_is_named_whether_its_link_was_removed_with_it_or_not(db):
    events = make_events(5)
    Sealer().seal()
    with tampering():
        AuditEvent.objects.filter(pk=events[1].pk)._raw_delete(using="default")
    assert f"number 2: event {events[1].pk} was removed" in verify().first_bad
    with tampering():
        AuditSeal.objects.filter(number=2)._raw_delete(using="default")
    assert "number 2 is missing" in verify().first_bad


def test_a_removed_row_is_found_even_if_the_whole_chain_behind_it_was_made_anew(db):
    make_events(5)
    Sealer().seal()
    with tampering():
        forge_without(2)
    result = verify()
    assert "the end is cut off" in result.first_bad
    # The chain grows past the head that the sealer had written, and the sealer does not write over that proof.
    make_events(3)
    Sealer().seal()
    assert "number 5 is not the link that the sealer had written there" in verify().first_bad


def forge_without(number: int) -> None:
    """Remove a link and its row, and compute all that follow anew, as one can without the key."""
    kept = list(AuditSeal.objects.exclude(number=number).order_by("number").select_related("event"))
    gone = AuditSeal.objects.get(number=number)
    AuditSeal.objects.all()._raw_delete(using="default")
    AuditEvent.objects.filter(pk=gone.event_id)._raw_delete(using="default")
    previous = chain.GENESIS
    for place, seal in enumerate(kept, start=1):
        previous = chain.link_hash(previous, place, seal.event.pk, seal.event.digest)
        AuditSeal.objects.create(number=place, event=seal.event, hash=previous)


def test_the_end_cut_off_is_found_by_the_head_file(db):
    make_events(5)
    Sealer().seal()
    with tampering():
        last = AuditSeal.objects.get(number=5)
        AuditSeal.objects.filter(number=5)._raw_delete(using="default")
        AuditEvent.objects.filter(pk=last.event_id)._raw_delete(using="default")
    assert "the end is cut off" in verify().first_bad


def test_an_inserted_row_is_found_before_it_is_sealed_and_after(db):
    events = make_events(2)
    forged = AuditEvent(action="sessions.open", actor_kind="user", actor_name="mei.tanaka", digest=events[0].digest)
    forged.save(force_insert=True)
    assert str(forged.pk) in verify().first_bad
    Sealer().seal()
    assert str(forged.pk) in verify().first_bad


def test_swapped_rows_are_found(db):
    make_events(4)
    Sealer().seal()
    second, third = AuditSeal.objects.filter(number__in=[2, 3]).order_by("number")
    with tampering():
        AuditSeal.objects.filter(number__in=[2, 3])._raw_delete(using="default")
        AuditSeal.objects.create(number=2, event_id=third.event_id, hash=second.hash)
        AuditSeal.objects.create(number=3, event_id=second.event_id, hash=third.hash)
    result = verify()
    assert result.problem_count == 2 and "number 2" in result.first_bad


def test_a_head_file_that_is_gone_or_changed_is_told_and_not_written_anew(db, own_home):
    make_events(2)
    Sealer().seal()
    path = chain.head_path()
    path.unlink()
    make_events(1)
    Sealer().seal()
    assert not path.exists() and "is missing" in verify().first_bad

    chain.renew_head()
    assert verify().ok
    facts = json.loads(path.read_text())
    for text in (json.dumps(facts | {"number": 1}), "{}", "", "[]", '{"number":'):
        path.write_text(text)
        make_events(1)
        Sealer().seal()
        assert path.read_text() == text and "head file" in verify().first_bad


def test_another_key_verifies_nothing(db, settings):
    make_events(3)
    Sealer().seal()
    settings.AUDIT_KEY = "another key"
    assert verify().problem_count == 4  # three rows and the head


def test_a_look_can_go_on_from_where_an_earlier_one_ended(db):
    make_events(4)
    Sealer().seal()
    first = verify(at_most=3)
    assert (first.ok, first.sealed, first.head.number) == (True, 3, 3)
    make_events(2)
    Sealer().seal()
    second = verify(after=first.head)
    assert (second.ok, second.sealed, second.head.number) == (True, 3, 6)
    assert not verify(after=Head(3, "ab" * 32)).ok


MOVES = st.sampled_from(["change", "remove row", "remove both", "swap", "cut", "rehash", "insert", "forge"])


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(count=st.integers(3, 9), where=st.integers(0, 8), move=MOVES, data=st.data())
def test_any_tampering_is_found(db, own_home, count, where, move, data):
    with transaction.atomic():
        make_events(count)
        Sealer().seal()
        assert verify().ok
        number = where % count + 1
        seal = AuditSeal.objects.select_related("event").get(number=number)
        seals, rows = AuditSeal.objects.filter(number=number), AuditEvent.objects.filter(pk=seal.event_id)
        with tampering():
            if move == "change":
                name = data.draw(st.sampled_from(["actor_name", "reason", "target_name", "region", "digest"]))
                old = getattr(seal.event, name)
                rows.update(**{name: data.draw(st.text("abcdef0123456789", min_size=1, max_size=8).filter(old.__ne__))})
            elif move == "remove row":
                rows._raw_delete(using="default")
            elif move == "remove both":
                seals._raw_delete(using="default")
                rows._raw_delete(using="default")
            elif move == "swap":
                other = AuditSeal.objects.get(number=number % count + 1)
                AuditSeal.objects.filter(number__in=[number, other.number])._raw_delete(using="default")
                AuditSeal.objects.create(number=number, event_id=other.event_id, hash=seal.hash)
                AuditSeal.objects.create(number=other.number, event_id=seal.event_id, hash=other.hash)
            elif move == "cut":
                gone = list(AuditSeal.objects.filter(number__gte=number).values_list("event_id", flat=True))
                AuditSeal.objects.filter(number__gte=number)._raw_delete(using="default")
                AuditEvent.objects.filter(pk__in=gone)._raw_delete(using="default")
            elif move == "rehash":
                seals.update(hash=data.draw(st.binary(min_size=32, max_size=32)).hex())
            elif move == "insert":
                forged = AuditEvent(
                    action="sessions.end", actor_kind="system", actor_name="x", digest=seal.event.digest
                )
                forged.save(force_insert=True)
            else:
                forge_without(number)
        result = verify()
        assert not result.ok and result.first_bad
        # Sealing on does not heal it.
        make_events(2)
        Sealer().seal()
        assert not verify().ok
        transaction.set_rollback(True)
    chain.head_path().unlink()


# --- The tasks -------------------------------------------------------------------------------------------------------


def test_beat_has_rows_sealed_and_the_whole_proven(db):
    make_events(3)
    tasks.seal()
    assert numbers() == [1, 2, 3]
    tasks.verify()
    event = AuditEvent.objects.get(action="audit.verify")
    assert (event.actor_name, event.source, event.details["sealed"]) == ("worker", "worker", 3)


# --- The command -----------------------------------------------------------------------------------------------------


def test_the_command_says_that_the_chain_is_whole(db, capsys):
    make_events(3)
    Sealer().seal()
    call_command("audit_verify")
    assert "chain whole: 3 events sealed" in capsys.readouterr().out
    event = AuditEvent.objects.get(action="audit.verify")
    assert (event.outcome, event.source, event.details["number"]) == ("done", "command", 3)


def test_the_command_names_the_row_and_fails(db, capsys):
    events = make_events(3)
    Sealer().seal()
    with tampering():
        AuditEvent.objects.filter(pk=events[1].pk).update(reason="x")
    with pytest.raises(CommandError, match=str(events[1].pk)) as failed:
        call_command("audit_verify", "--json")
    assert failed.value.returncode == 1
    facts = json.loads(capsys.readouterr().out)
    assert (facts["ok"], facts["sealed"], facts["problem_count"]) == (False, 3, 1)
    assert AuditEvent.objects.get(action="audit.verify").outcome == "failed"


def test_a_head_that_is_renewed_is_written_down(db, capsys):
    make_events(1)
    Sealer().seal()
    chain.head_path().unlink()
    with pytest.raises(CommandError):
        call_command("audit_verify", "--renew-head")
    call_command("audit_verify")
    assert AuditEvent.objects.get(action="audit.head.renew").details["number"] == 1


def test_a_digest_covers_every_field(db):
    event = record("sessions.open", actor="worker")
    covered = digest(event)
    for column in AuditEvent._meta.concrete_fields:
        if column.attname in {"digest", "id", "at"}:
            continue
        before = getattr(event, column.attname)
        setattr(event, column.attname, {"x": 1} if column.attname == "details" else "changed")
        assert digest(event) != covered, column.attname
        setattr(event, column.attname, before)
    assert digest(event) == covered
