"""One deed, one row; and what must never be in it."""

import pytest
from django.db import transaction

from fleetops.audit.models import AuditEvent
from fleetops.audit.record import ACTIONS, LocalError, Target, deny, digest, record
from fleetops.web.context import within
from tests.factories import make_instance, make_session, make_user


def test_a_row_names_who_what_where_and_why(db):
    user, instance = make_user("mei.tanaka"), make_instance(name="pay-api-eu1a-01")
    session = make_session(user=user, instance=instance)
    with within("browser", request_id="r1", source_address="10.8.4.21"):
        record("sessions.open", actor=user, target=instance, session=session, reason="INC-4821", columns=80)
    event = AuditEvent.objects.get()
    assert (event.actor_kind, event.actor_id, event.actor_name) == ("user", str(user.pk), "mei.tanaka")
    assert (event.target_kind, event.target_name) == ("inventory.instance", "pay-api-eu1a-01")
    assert (event.session_id, event.account_id, event.region) == (str(session.pk), session.account_id, "eu-west-1")
    assert (event.source, event.source_address, event.request_id) == ("browser", "10.8.4.21", "r1")
    assert (event.outcome, event.reason, event.details) == ("done", "INC-4821", {"columns": 80})
    assert event.digest == digest(event)


def test_without_a_target_the_session_is_the_target(db):
    session = make_session(user=make_user())
    event = record("sessions.end", actor="terminal", session=session)
    assert (event.actor_kind, event.actor_name) == ("system", "terminal")
    assert (event.target_kind, event.target_id) == ("sessions_app.terminalsession", str(session.pk))


def test_nobody_is_called_by_name(db):
    event = record("identity.login.refuse", actor=None, target=Target("identity.user", "", "an unknown name"))
    assert (event.actor_kind, event.actor_name, event.target_name) == ("anonymous", "anonymous", "an unknown name")


def test_an_action_that_is_not_listed_is_our_mistake(db):
    with pytest.raises(LocalError, match=r"sessions\.opne"):
        record("sessions.opne", actor="worker")
    assert not AuditEvent.objects.exists()
    assert len(set(ACTIONS)) == len(ACTIONS)


@pytest.mark.parametrize(
    "details",
    [
        {"token": "x"},
        {"TokenValue": "x"},
        {"client_secret": "x"},
        {"password": "x"},
        {"newPassword": "x"},
        {"headers": {"Authorization": "x"}},
        {"calls": [{"SecretAccessKey": "x"}]},
        {"stream_url": "wss://x"},
        {"StreamUrl": "wss://x"},
        {"api_key": "x"},
    ],
)
def test_a_detail_that_looks_like_a_secret_is_refused(db, details):
    with pytest.raises(LocalError, match="looks like a secret"):
        record("sessions.start", actor="terminal", **details)
    assert not AuditEvent.objects.exists()


@pytest.mark.parametrize("key", ["broken", "keyboard", "secretary", "columns", "chain_head", "ssm_session_id"])
def test_a_plain_detail_is_not_taken_for_a_secret(db, key):
    record("sessions.start", actor="terminal", **{key: "x"})


def test_a_rollback_takes_the_row_of_the_deed_with_it(transactional_db):
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        record("sessions.open", actor="worker")
        raise ZeroDivisionError
    assert not AuditEvent.objects.exists()


def test_a_denial_stands_though_the_deed_is_rolled_back(transactional_db):
    user = make_user()
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        record("sessions.open", actor=user)
        raise ZeroDivisionError
    deny("sessions.attach.refuse", actor=user, reason="another user's session")
    event = AuditEvent.objects.get()
    assert (event.action, event.outcome, event.reason) == ("sessions.attach.refuse", "denied", "another user's session")


def test_a_denial_inside_of_a_transaction_is_our_mistake_and_told_at_once(transactional_db):
    with pytest.raises(RuntimeError, match="durable"), transaction.atomic():
        deny("sessions.attach.refuse", actor=None, reason="x")
    assert not AuditEvent.objects.exists()


def test_text_that_a_database_cannot_hold_is_mended_and_cut_before_it_is_digested(db):
    record("sessions.open", actor="worker", reason="a\x00b\ud800" + "é" * 400, note="\x00", big=1e20, part=0.25)
    event = AuditEvent.objects.get()
    assert event.reason.startswith("a\ufffdb?é") and event.reason.endswith("…") and len(event.reason) == 256
    assert event.details == {"note": "\ufffd", "big": 10**20, "part": 0.25}
    assert event.digest == digest(event)
