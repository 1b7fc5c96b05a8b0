"""AWS is told of an end until it confirms, whoever dies in between."""

from datetime import timedelta

import pytest

from fleetops.audit.models import AuditEvent
from fleetops.clock import now
from sessions_app import services, upkeep
from sessions_app.models import TerminalSession
from sessions_app.states import SessionState
from tests.factories import make_user

from .conftest import ended, opened, until

AWAY = (503, "ServiceUnavailable", "later")


@pytest.fixture
def unconfirmed(terminal, gateway, operator, shell):
    """A session that has ended while AWS could not be told, and whose owner was killed: (session, agent)."""
    session, browser, agent = shell
    gateway.refuse["TerminateSession"] = AWAY
    services.request_end(session, actor=operator)
    assert browser.told("ended")["text"] == "Ended by mei.tanaka."
    ended(session)
    terminal.kill()
    return session, agent


def test_an_end_that_aws_did_not_confirm_is_told_again_after_its_owner_was_killed(gateway, unconfirmed):
    session, agent = unconfirmed
    due = session.terminate_due_at
    assert due > now()
    before = len(gateway.called("TerminateSession"))
    upkeep.tidy()
    assert len(gateway.called("TerminateSession")) == before  # not yet

    upkeep.confirm_ends(due)
    session.refresh_from_db()
    assert session.terminate_due_at > due
    assert not agent.is_over

    gateway.refuse.clear()
    TerminalSession.objects.filter(pk=session.pk).update(terminate_due_at=now())
    upkeep.tidy()
    until(lambda: agent.is_over, what="AWS has ended it")
    session.refresh_from_db()
    assert session.terminate_due_at is None
    assert session.sealed_at
    event = AuditEvent.objects.get(action="sessions.end.confirm")
    assert (event.session_id, event.outcome, event.actor_name) == (str(session.pk), "done", "worker")
    upkeep.confirm_ends(now() + timedelta(days=2))  # again it does nothing
    assert AuditEvent.objects.filter(action="sessions.end.confirm").count() == 1


def test_the_page_says_that_aws_has_not_confirmed(client, unconfirmed):
    session, _ = unconfirmed
    client.force_login(make_user("rhea", role="auditor"), backend="django.contrib.auth.backends.ModelBackend")
    assert "Its end is not confirmed" in client.get(f"/sessions/{session.pk}/replay/").content.decode()


def test_what_aws_does_not_confirm_within_a_day_is_given_up_and_audited(unconfirmed):
    session, _ = unconfirmed
    upkeep.confirm_ends(session.ended_at + timedelta(days=1, seconds=1))
    session.refresh_from_db()
    assert session.terminate_due_at is None
    event = AuditEvent.objects.get(action="sessions.end.confirm")
    assert event.outcome == "failed"
    assert "ServiceUnavailable" in event.reason


def test_an_end_that_aws_confirms_leaves_nothing_to_do(terminal, gateway, operator, shell):
    session, browser, agent = shell
    services.request_end(session, actor=operator)
    browser.told("ended")
    until(lambda: agent.is_over, what="AWS has ended it")
    ended(session)
    until(lambda: (session.refresh_from_db(), session.terminate_due_at is None)[1], what="it is confirmed")
    assert len(gateway.called("TerminateSession")) == 1


def test_an_account_that_is_away_is_asked_once_a_round(terminal, gateway, operator, unconfirmed):
    session, _ = unconfirmed
    for number in range(3):
        TerminalSession.objects.create(
            user=operator,
            user_name=operator.username,
            instance_id=session.instance_id,
            instance_name=session.instance_name,
            account_id=session.account_id,
            region=session.region,
            state=SessionState.ENDED,
            ssm_session_id=f"mei-{number}",
            ended_at=now(),
            sealed_at=now(),
            terminate_due_at=now(),
        )
    gateway.calls.clear()
    upkeep.confirm_ends(session.terminate_due_at)
    assert len({call["SessionId"] for call in gateway.called("TerminateSession")}) == 1
    assert not services.unconfirmed(session.terminate_due_at)


def test_a_start_that_was_never_answered_is_found_and_ended_after_its_owner_was_killed(
    terminal, gateway, instance, operator
):
    gateway.swallow.add("StartSession")
    gateway.refuse["DescribeSessions"] = AWAY
    session = opened(instance, operator)
    browser = terminal.browser(session, operator)
    assert browser.told("ended")["text"]
    terminal.kill()
    assert ended(session).state == SessionState.FAILED
    (agent,) = gateway.shells.values()
    gateway.refuse.clear()
    upkeep.confirm_ends(session.terminate_due_at)
    until(lambda: agent.is_over, what="the unanswered session was ended")
    session.refresh_from_db()
    assert session.terminate_due_at is None


def test_a_start_that_aws_shows_nothing_of_for_a_minute_was_none(terminal, gateway, instance, operator):
    gateway.refuse["StartSession"] = (500, "InternalServerError", "no")
    session = opened(instance, operator)
    assert terminal.browser(session, operator).told("ended")["text"]
    ended(session)
    upkeep.confirm_ends(session.terminate_due_at)
    session.refresh_from_db()
    assert session.terminate_due_at  # AWS's lists may show it later
    upkeep.confirm_ends(session.ended_at + timedelta(seconds=61))
    session.refresh_from_db()
    assert session.terminate_due_at is None
