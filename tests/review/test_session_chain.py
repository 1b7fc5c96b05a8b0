"""The page of one session: every step from the request to the end, and what is missing."""

from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse

from fleetops.clock import now
from fleetops.policy import services as policy
from fleetops.policy.models import Rule
from fleetops.review import session_chain
from sessions_app import grants, services
from sessions_app.grants import Wish
from sessions_app.models import TerminalSession
from tests.factories import make_instance, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def session(roles) -> TerminalSession:
    """One that was asked for, approved, opened, revoked and ended."""
    Rule.objects.filter(name="Operators and administrators open shells").delete()
    policy.create_rule(
        actor="test", name="Ledger", everybody=True, deeds=["shell"], targets="all", approvals=1, confirmed=True
    )
    mei, rhea = make_user("mei.tanaka", role="operator"), make_user("rhea", role="administrator")
    instance = make_instance(name="pg-ledger-1")
    grant = grants.ask(mei, [instance], Wish(), reason="INC-1: lag", minutes=60)
    grants.vote(grant, actor=rhea, approve=True)
    session = services.open_session(instance, actor=mei)
    services.claim(session, owner="me", host="here")
    services.started(session, ssm_session_id="mei.tanaka-0a91c7")
    grants.revoke(grant, actor=rhea, reason="It is fixed")
    services.ended(session, reason="Ended: rhea revoked the grant: It is fixed.", sealed=True)
    return TerminalSession.objects.get(pk=session.pk)


def titles(chain) -> list[str]:
    return [link.title for link in chain.links]


def test_every_step_is_there_in_order_with_its_event(session):
    chain = session_chain.of(session)
    assert titles(chain) == [
        "mei.tanaka asked for a shell",
        "rhea approved",
        "The grant began",
        "mei.tanaka opened the session",
        "AssumeRole",
        "StartSession",
        "rhea revoked the grant",
        "Ended",
    ]
    assert chain.gaps == () and chain.unsealed == 7
    assert "By rule “Ledger”" in chain.links[3].text and "“INC-1: lag”" in chain.links[3].text
    assert "SourceIdentity mei.tanaka" in chain.links[4].text or "no role" in chain.links[4].text
    assert "mei.tanaka-0a91c7" in chain.links[5].text


def test_commands_are_one_link_and_a_disputed_one_is_counted(session):
    facts = {
        "session": session,
        "user": session.user,
        "user_name": session.user_name,
        "instance_id": session.instance_id,
        "instance_name": session.instance_name,
        "account_id": session.account_id,
        "started_at": session.started_at,
        "time_us": 0,
        "output_offset": 0,
        "source": "marks",
        "text": "ls",
    }
    session.commands.create(**facts, number=1, exit_code=0)
    session.commands.create(**facts, number=2, exit_code=2, is_disputed=True)
    link = next(link for link in session_chain.of(session).links if link.commands)
    assert (link.title, link.text) == ("2 commands", "1 failed, 1 disputed")


def test_what_is_missing_is_said(session):
    TerminalSession.objects.filter(pk=session.pk).update(sealed_at=None, terminate_due_at=now())
    session.refresh_from_db()
    gaps = session_chain.of(session).gaps
    assert "AWS has not confirmed its end yet." in gaps and "Its recording is not sealed to its end." in gaps
    other = TerminalSession(
        **{
            field.name: getattr(session, field.name)
            for field in TerminalSession._meta.concrete_fields
            if field.name not in {"id", "ssm_session_id"}
        }
    )
    other.save()
    gaps = session_chain.of(other).gaps
    assert gaps[0] == "Its opening is not in the audit log." and "Its end is not in the audit log." in gaps


def test_the_page_is_for_who_reviews_and_takes_few_queries(session, django_assert_max_num_queries):
    path = reverse("review:session", args=[session.pk])
    client = Client()
    client.force_login(make_user(role="auditor"), backend="django.contrib.auth.backends.ModelBackend")
    with django_assert_max_num_queries(16):
        text = client.get(path).content.decode()
    assert "mei.tanaka asked for a shell" in text and reverse("sessions:replay", args=[session.pk]) in text
    client.force_login(session.user, backend="django.contrib.auth.backends.ModelBackend")
    assert client.get(path).status_code == 403


def test_a_session_without_a_grant_has_a_chain_too(session):
    Rule.objects.filter(name="Ledger").delete()
    policy.create_rule(actor="test", name="Open", everybody=True, deeds=["shell"], targets="all", confirmed=True)
    policy.rules()
    plain = services.open_session(session.instance_row, actor=session.user)
    TerminalSession.objects.filter(pk=plain.pk).update(created_at=now() - timedelta(minutes=1))
    chain = session_chain.of(plain)
    assert titles(chain) == ["mei.tanaka opened the session", "AssumeRole"]
    assert chain.gaps == ("It is still open.",) and chain.asked_at is None
