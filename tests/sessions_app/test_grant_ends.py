"""A grant's end closes the terminal, whoever else has died: worker and web are not there at all in these tests."""

from datetime import timedelta

import pytest
from django.db import transaction

from fleetops.audit.models import AuditEvent
from fleetops.clock import now
from fleetops.policy import services as policy
from fleetops.policy.models import Rule
from sessions_app import grants, services, upkeep
from sessions_app.models import Grant, TerminalSession
from sessions_app.states import SessionState
from tests.factories import make_grant, make_user

from .conftest import TerminalProcess, ended, free_port, opened, shell_of, until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def chief(operator):
    """Who approves; and from here on a shell takes an approval."""
    Rule.objects.filter(name="Operators and administrators open shells").delete()
    policy.create_rule(
        actor="test", name="Asked", everybody=True, deeds=["shell"], targets="all", approvals=1, confirmed=True
    )
    return make_user("rhea", role="administrator")


@pytest.fixture
def process(home, tmp_path, valkey, spool):
    """A terminal process whose broker is not there."""
    made = TerminalProcess(home, tmp_path / "alone.log", FLEETOPS_VALKEY_URL=f"redis://127.0.0.1:{free_port()}")
    made.start()
    yield made
    made.stop()


def granted(user, instance, *, seconds: float) -> Grant:
    return make_grant(user=user, instance=instance, ends_at=now() + timedelta(seconds=seconds))


def test_a_revoked_grant_closes_the_shell_in_words_and_tells_aws(terminal, gateway, instance, operator, chief):
    grant = grants.ask(operator, [instance], grants.Wish(), reason="INC-1", minutes=30)
    grants.vote(grant, actor=chief, approve=True)
    session = opened(instance, operator)
    browser = terminal.browser(session, operator)
    browser.until(r"\$ ")
    assert grants.revoke(grant, actor=chief, reason="It is fixed.") == 1
    assert browser.told("ended")["text"] == "Ended: rhea revoked the grant: It is fixed."
    agent = shell_of(gateway, session)
    until(lambda: agent.is_over, what="AWS has ended it")
    assert ended(session).state == SessionState.ENDED
    event = AuditEvent.objects.get(action="sessions.end")
    assert (event.session_id, event.reason) == (str(session.pk), session.end_reason)


def test_without_broker_worker_and_web_a_revoked_grant_closes_the_shell(process, gateway, instance, operator, chief):
    grant = granted(operator, instance, seconds=600)
    session = opened(instance, operator)
    browser = process.browser(session, operator)
    browser.until(r"\$ ")
    grants.revoke(grant, actor=chief, reason="Enough.")
    assert browser.told("ended")["text"] == "Ended: rhea revoked the grant: Enough."
    until(lambda: shell_of(gateway, session).is_over, what="AWS has ended it")


def test_without_broker_worker_and_web_a_grant_ends_by_itself(process, gateway, instance, operator, chief):
    grant = granted(operator, instance, seconds=4)
    session = opened(instance, operator)
    assert session.deadline_at == grant.ends_at
    browser = process.browser(session, operator)
    browser.until(r"\$ ")
    assert browser.told("deadlines")["grant"] <= 4
    assert browser.told("ended")["text"].startswith("Ended: its grant ended at ")
    assert ended(session).ended_at >= grant.ends_at
    until(lambda: shell_of(gateway, session).is_over, what="AWS has ended it")
    assert Grant.objects.get(pk=grant.pk).state == "active"  # nobody has written that down: no worker is there


def test_a_later_grant_for_the_same_puts_the_end_off(process, gateway, instance, operator, chief):
    first = granted(operator, instance, seconds=600)
    session = opened(instance, operator)
    browser = process.browser(session, operator)
    browser.until(r"\$ ")
    second = grants.ask(operator, [instance], grants.Wish(), reason="INC-1", minutes=30)
    grants.vote(second, actor=chief, approve=True)
    until(lambda: (browser.messages.clear(), browser.told("deadlines")["grant"] > 600)[1], what="it is told")
    Grant.objects.filter(pk=first.pk).update(starts_at=now() - timedelta(hours=1), ends_at=now())
    browser.run("echo st''ill", r"\r\nstill")
    session.refresh_from_db()
    assert session.is_live and session.grant == second


def test_a_grant_ends_while_the_database_does_not_answer(process, gateway, instance, operator, chief):
    """SQLite's write lock, held by the test, keeps the beat waiting as a lost server would."""
    granted(operator, instance, seconds=4)
    session = opened(instance, operator)
    browser = process.browser(session, operator)
    browser.until(r"\$ ")
    agent = shell_of(gateway, session)
    with transaction.atomic():
        TerminalSession.objects.filter(pk=session.pk).update(reason="locked")
        assert browser.told("ended", seconds=15)["text"].startswith("Ended: its grant ended at ")
        until(lambda: agent.is_over, what="AWS has ended it, without the database")
    assert ended(session, seconds=20).end_reason.startswith("Ended: its grant ended at ")


def test_a_grant_that_ended_while_its_owner_was_dead_ends_the_shell_before_anybody_types(
    process, gateway, instance, operator, chief
):
    grant = granted(operator, instance, seconds=600)
    session = opened(instance, operator)
    browser = process.browser(session, operator)
    browser.until(r"\$ ")
    agent = shell_of(gateway, session)
    process.kill()
    moment = now()
    Grant.objects.filter(pk=grant.pk).update(starts_at=moment - timedelta(hours=1), ends_at=moment)
    TerminalSession.objects.filter(pk=session.pk).update(deadline_at=moment)
    process.start()
    assert ended(session).end_reason.startswith("Ended: its grant ended at ")
    until(lambda: agent.is_over, what="AWS has ended it")
    assert b"typed" not in agent.inputs


def test_an_end_by_its_grant_that_aws_does_not_confirm_is_told_again(terminal, gateway, instance, operator, chief):
    granted(operator, instance, seconds=600)
    session = opened(instance, operator)
    browser = terminal.browser(session, operator)
    browser.until(r"\$ ")
    agent = shell_of(gateway, session)
    gateway.refuse["TerminateSession"] = (503, "ServiceUnavailable", "later")
    grants.revoke(Grant.objects.get(), actor=chief, reason="Enough.")
    browser.told("ended")
    assert ended(session).terminate_due_at is not None
    terminal.kill()
    gateway.refuse.clear()
    upkeep.confirm_ends(session.terminate_due_at)
    until(lambda: agent.is_over, what="AWS has ended it")
    session.refresh_from_db()
    assert session.terminate_due_at is None
    assert services.unconfirmed(now() + timedelta(hours=1)) == []
