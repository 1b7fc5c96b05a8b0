"""Grants: asked for, approved by others, used to open sessions, ended by themselves or by somebody."""

import json
from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse

from fleetops.approvals import services as approvals
from fleetops.approvals.models import ApprovalRequest
from fleetops.audit.models import AuditEvent
from fleetops.clock import now
from fleetops.errors import Denied, FieldError, UserError
from fleetops.identity.models import SecondFactor
from fleetops.inventory.models import Instance
from fleetops.notify.models import Notice
from fleetops.policy import services as policy
from fleetops.policy.models import Rule
from sessions_app import grants, services, upkeep
from sessions_app.grants import NotToBeHad, Wish
from sessions_app.models import Grant, TerminalSession
from sessions_app.states import GrantState, SessionKind, SessionState
from tests.api.conftest import Bearer, make_token
from tests.factories import make_grant, make_instance, make_session, make_user

pytestmark = pytest.mark.django_db
SHELLS = "Operators and administrators open shells"


@pytest.fixture
def people(roles):
    found = {role: make_user(role, role=role) for role in ("viewer", "operator", "auditor", "administrator")}
    return found | {"second": make_user("second", role="administrator"), "dba": make_user("dba", role="administrator")}


@pytest.fixture
def db1(people):
    """An instance on which operators have a shell once one administrator has approved it."""
    rule("Ledger", groups=[people["operator"].groups.get()], targets="cluster=ledger", approvals=1)
    return instance()


def instance():
    return make_instance(tags={"cluster": "ledger"})


def rule(name: str, **fields) -> Rule:
    if name != SHELLS:
        Rule.objects.filter(name=SHELLS).delete()
    given = {"targets": "all", "deeds": ["shell"], "confirmed": True} | fields
    if "groups" not in given and "users" not in given:
        given["everybody"] = True
    return policy.create_rule(actor="test", name=name, **given)


def client_of(user, **log_in) -> Client:
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    if log_in:
        session = client.session
        session.update(log_in)
        session.save()
    return client


def ask(user, *where, wish: Wish | None = None, minutes: int = 60, **more) -> Grant:
    return grants.ask(user, list(where), wish or Wish(), reason="INC-1: lag", minutes=minutes, **more)


def given(people, *where, **more) -> Grant:
    grant = ask(people["operator"], *where, **more)
    grants.vote(grant, actor=people["administrator"], approve=True)
    return grant


def connect(user, where, **form):
    return client_of(user).post(reverse("sessions:open"), {"instance": where.pk} | form)


# Asking


def test_a_denial_says_what_is_missing_and_leads_to_the_request(people, db1):
    answer = connect(people["operator"], db1)
    text = answer.content.decode()
    assert answer.status_code == 403 and "needs a request that 1 other person approved" in text
    assert f"{reverse('sessions:grant_ask')}?instance={db1.pk}" in text and "second factor" not in text
    for path in (db1.get_absolute_url(), reverse("inventory:fleet")):
        page = client_of(people["operator"]).get(path).content.decode()
        assert f"{reverse('sessions:grant_ask')}?instance={db1.pk}" in page, path


def test_what_lacks_a_second_factor_leads_to_the_page_that_asks_for_one(people, db1):
    Rule.objects.filter(name="Ledger").delete()
    rule("Factor", needs_mfa=True, mfa_minutes=15)
    stale = client_of(people["operator"], mfa_at=now().timestamp() - 3600)
    answer = stale.post(reverse("sessions:open"), {"instance": db1.pk})
    text = answer.content.decode()
    assert answer.status_code == 403 and "a second factor of the last 15 minutes" in text
    assert f'href="{reverse("identity:set_up")}"' in text
    SecondFactor.objects.create(user=people["operator"], sealed_secret="x", confirmed_at=now())
    text = stale.post(reverse("sessions:open"), {"instance": db1.pk}).content.decode()
    assert f'{reverse("identity:confirm")}?next={db1.get_absolute_url()}"' in text
    assert reverse("sessions:grant_ask") not in text
    fresh = client_of(people["operator"], mfa_at=now().timestamp())
    assert fresh.post(reverse("sessions:open"), {"instance": db1.pk}).status_code == 302


def test_a_request_says_what_it_will_take_and_is_found_by_who_may_answer(people, db1):
    client = client_of(people["operator"])
    page = client.get(reverse("sessions:grant_ask"), {"instance": db1.pk})
    assert page.context["plan"].quorum == 1 and page.context["plan"].approvers == ("administrator",)
    assert "<b>1 approval</b> is needed" in page.content.decode()
    form = {"instance": db1.pk, "kind": "shell", "minutes": "30", "reason": "INC-1: lag"}
    answer = client.post(reverse("sessions:grant_ask"), form)
    grant = Grant.objects.get()
    assert answer.status_code == 302 and answer.url == grant.get_absolute_url()
    assert (grant.state, grant.minutes, grant.reason) == (GrantState.ASKED, 30, "INC-1: lag")
    assert [target.instance_row for target in grant.targets.all()] == [db1]
    notice = Notice.objects.get(topic="sessions.grant.asked")
    assert notice.url == grant.get_absolute_url() and notice.title == f"operator asks for a shell on {db1} for 30 min"
    event = AuditEvent.objects.get(action="sessions.grant.ask")
    assert (event.actor_name, event.reason, event.details["rules"]) == ("operator", "INC-1: lag", ["Ledger"])
    waiting = client_of(people["administrator"]).get(reverse("sessions:grants"))
    assert [row.pk for row in waiting.context["rows"]] == [grant.pk]
    assert not client_of(people["viewer"]).get(reverse("sessions:grants")).context["rows"]
    assert connect(people["operator"], db1).status_code == 403  # asked is not had


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"reason": "\u2800"}, "reason"),
        ({"reason": ""}, "reason"),
        ({"minutes": "4"}, "minutes"),
        ({"minutes": "481"}, "minutes"),
        ({"kind": "forward"}, "port"),
        ({"kind": "forward", "port": "70000"}, "port"),
        ({"kind": "forward", "port": "80", "host": "a b"}, "host"),
        ({"run_as": "a b"}, "run_as"),
        ({"expression": "cluster="}, "expression"),
        ({"expression": "cluster=none"}, "expression"),
        ({"instance": "01a22c7e-3a52-7bd4-9d5a-5a4f0f6d2f11"}, "instance"),
        ({"starts_at": "2099-01-01T00:00"}, "starts_at"),
    ],
)
def test_what_cannot_be_asked_for_is_told_in_its_field(people, db1, form, field):
    asked = {"instance": db1.pk, "kind": "shell", "minutes": "30", "reason": "INC-1"} | form
    rule("Forward", deeds=["forward", "run_as"], destinations=["*:*"], run_as=["*"], approvals=1)
    answer = client_of(people["operator"]).post(reverse("sessions:grant_ask"), asked)
    assert answer.status_code == 400 and field in answer.context["form"].errors
    assert not Grant.objects.exists()


def test_what_not_even_an_approval_opens_is_not_asked_for_and_that_is_audited(people, db1):
    rule("Freeze", effect="deny", targets="cluster=ledger")
    with pytest.raises(NotToBeHad, match=r"asking does not help\. Rule “Freeze” denies it"):
        ask(people["operator"], db1)
    assert AuditEvent.objects.get(action="sessions.grant.ask.refuse").outcome == "denied"
    assert connect(people["operator"], db1).status_code == 403
    answer = client_of(people["operator"]).post(
        reverse("sessions:grant_ask"), {"instance": db1.pk, "kind": "shell", "minutes": "30", "reason": "INC-1"}
    )
    assert answer.status_code == 403


def test_what_is_open_anyway_needs_no_request_and_whom_too_few_could_approve_is_told(people, db1):
    Rule.objects.all().delete()
    rule("Open")
    with pytest.raises(UserError, match="Nothing of this needs an approval"):
        ask(people["operator"], db1)
    Rule.objects.all().delete()
    rule("Nine", approvals=9)
    with pytest.raises(UserError, match="9 other people would have to approve, and 3 could"):
        ask(people["operator"], db1)


def test_instances_are_those_that_the_expression_selected_when_it_was_asked(people, db1):
    second = instance()
    form = {"expression": "cluster=ledger", "kind": "shell", "minutes": "30", "reason": "INC-1"}
    client_of(people["operator"]).post(reverse("sessions:grant_ask"), form)
    grant = Grant.objects.get()
    later = instance()
    grants.vote(grant, actor=people["administrator"], approve=True)
    assert {target.instance_row for target in grant.targets.all()} == {db1, second}
    assert [connect(people["operator"], each).status_code for each in (db1, second, later)] == [302, 302, 403]


# Answering


def test_an_approval_by_another_opens_it_and_the_session_has_the_grants_end(people, db1):
    grant = ask(people["operator"], db1)
    page = client_of(people["administrator"]).get(grant.get_absolute_url())
    assert page.context["may_vote"] and page.context["radius"]["others"] == []
    assert "INC-1: lag" in page.content.decode()
    answer = client_of(people["administrator"]).post(
        reverse("sessions:grant_vote", args=[grant.pk]), {"answer": "approve"}
    )
    assert answer.status_code == 302
    grant.refresh_from_db()
    request = grant.request
    assert (grant.state, grant.approvals, request.state) == (GrantState.ACTIVE, 1, "used")
    assert grant.starts_at == request.decided_at and grant.ends_at == grant.starts_at + timedelta(minutes=60)
    assert connect(people["operator"], db1).status_code == 302
    session = TerminalSession.objects.get()
    assert (session.grant, session.deadline_at, session.reason) == (grant, grant.ends_at, "INC-1: lag")
    assert AuditEvent.objects.get(action="sessions.open").details["grant"] == str(grant.pk)
    assert AuditEvent.objects.get(action="sessions.grant.start").actor_name == "administrator"
    assert Notice.objects.get(topic="sessions.grant.asked").closed_at is not None
    assert Notice.objects.get(topic="sessions.grant.decided").url == grant.get_absolute_url()
    fleet = client_of(people["operator"]).get(reverse("inventory:fleet")).content.decode()
    assert f'id="c-{db1.pk.hex}"' in fleet and "Ask for access to" not in fleet
    assert (
        "You may not open a shell here"
        not in client_of(people["operator"]).get(db1.get_absolute_url()).content.decode()
    )
    own = client_of(people["operator"]).get(grant.get_absolute_url())
    assert own.context["is_open"] and 3500 < own.context["seconds"] <= 3600 and not own.context["may_vote"]


def test_nobody_approves_their_own_and_one_no_ends_it(people, db1):
    Rule.objects.all().delete()
    rule("Two", approvals=2)
    mine = ask(people["administrator"], db1)
    with pytest.raises(Denied, match="Nobody approves what they ask for themselves"):
        grants.vote(mine, actor=people["administrator"], approve=True)
    grant = ask(people["operator"], db1)
    grants.vote(grant, actor=people["administrator"], approve=True)
    assert grant.state == GrantState.ASKED and connect(people["operator"], db1).status_code == 403
    denied = client_of(people["second"]).post(reverse("sessions:grant_vote", args=[grant.pk]), {"answer": "deny"})
    assert denied.status_code == 400 and "Say why you deny it" in denied.content.decode()
    grants.vote(grant, actor=people["second"], approve=False, reason="Not during the freeze.")
    assert (grant.state, grant.closed_by, grant.close_reason) == (GrantState.DENIED, "second", "Not during the freeze.")
    with pytest.raises(UserError):
        grants.vote(grant, actor=people["dba"], approve=True)
    assert connect(people["operator"], db1).status_code == 403


def test_an_approval_given_elsewhere_counts_at_the_next_connect_and_is_written_down_by_the_worker(people, db1):
    first, second = ask(people["operator"], db1), ask(people["operator"], instance())
    for grant in (first, second):
        approvals.vote(grant.request_id, actor=people["administrator"], approve=True)  # on the page of approvals
    assert connect(people["operator"], db1).status_code == 302
    assert Grant.objects.get(pk=second.pk).state == GrantState.ACTIVE  # looked at in one go
    third = ask(people["operator"], instance())
    approvals.vote(third.request_id, actor=people["administrator"], approve=True)
    grants.settle_due()
    third.refresh_from_db()
    assert third.state == GrantState.ACTIVE and third.starts_at == third.request.decided_at
    assert grants.settle_due() == 0


def test_the_roles_that_a_rule_names_approve_and_no_others(people, db1):
    Rule.objects.all().delete()
    auditors = people["auditor"].groups.get()
    from django.contrib.auth.models import Permission

    auditors.permissions.add(Permission.objects.get(codename="vote_approvalrequest"))
    rule("By auditors", approvals=1, approvers=[auditors], grant_minutes=30)
    with pytest.raises(FieldError, match="From 5 to 30 minutes"):
        ask(people["operator"], db1)
    grant = ask(people["operator"], db1, minutes=30)
    with pytest.raises(Denied, match="Only members of these roles may answer this request: auditor"):
        grants.vote(grant, actor=people["administrator"], approve=True)
    grants.vote(grant, actor=people["auditor"], approve=True)
    assert grant.state == GrantState.ACTIVE


def test_a_request_is_taken_back_or_ends_unanswered(people, db1):
    grant = ask(people["operator"], db1)
    assert client_of(people["operator"]).post(reverse("sessions:grant_withdraw", args=[grant.pk])).status_code == 302
    grant.refresh_from_db()
    assert grant.state == GrantState.WITHDRAWN
    other = ask(people["operator"], db1)
    ApprovalRequest.objects.filter(pk=other.request_id).update(expires_at=now())
    grants.settle_due()
    other.refresh_from_db()
    assert other.state == GrantState.EXPIRED


def test_what_is_taken_back_after_its_approval_and_before_anybody_wrote_that_down_does_not_begin(people, db1):
    grant = ask(people["operator"], db1)
    approvals.vote(grant.request_id, actor=people["administrator"], approve=True)
    approvals.withdraw(grant.request_id, actor=people["operator"])
    assert connect(people["operator"], db1).status_code == 403
    grant.refresh_from_db()
    assert grant.state == GrantState.WITHDRAWN


# Having


def test_a_grant_is_for_its_person_its_instances_its_kind_and_its_os_user_alone(people, db1):
    Rule.objects.all().delete()
    rule("Asked", approvals=1, deeds=["shell", "run_as", "forward"], run_as=["*"], destinations=["*:*"])
    second = instance()
    given(people, db1)
    assert connect(people["operator"], second).status_code == 403
    assert connect(people["operator"], db1, run_as="root").status_code == 403
    assert connect(people["viewer"], db1).status_code == 403
    port = {"portNumber": ["5432"]}
    with pytest.raises(policy.PolicyDenied):
        forward(people["operator"], db1, port)
    assert connect(people["operator"], db1).status_code == 302
    given(people, db1, wish=Wish(run_as="root"))
    assert connect(people["operator"], db1, run_as="root").status_code == 302
    assert TerminalSession.objects.latest("pk").run_as == "root"
    given(people, db1, wish=Wish(kind=SessionKind.FORWARD, destination="localhost:5432"))
    assert forward(people["operator"], db1, port).grant is not None
    with pytest.raises(policy.PolicyDenied):
        forward(people["operator"], db1, {"portNumber": ["5433"]})


def forward(user, where, parameters, document="AWS-StartPortForwardingSession") -> TerminalSession:
    return services.open_session(where, actor=user, kind=SessionKind.FORWARD, document=document, parameters=parameters)


def test_a_forwarded_port_is_judged_by_host_and_port_and_no_other_document_forwards_one(people, db1):
    rule("Ports", deeds=["forward"], destinations=["localhost:22", "db.internal:5432"])
    user = people["operator"]
    assert forward(user, db1, {}, document="AWS-StartSSHSession").kind == SessionKind.FORWARD
    remote = {"host": ["DB.internal"], "portNumber": ["5432"]}
    assert forward(user, db1, remote, document="AWS-StartPortForwardingSessionToRemoteHost").parameters == remote
    with pytest.raises(policy.PolicyDenied, match=r"forward a port to localhost:80 on"):
        forward(user, db1, {})
    for parameters, document in (
        ({"portNumber": ["5432"]}, "Acme-Forward"),
        ({"portNumber": ["x"]}, "AWS-StartPortForwardingSession"),
        ({"portNumber": ["22", "80"]}, "AWS-StartPortForwardingSession"),
        ({"portNumber": ["22"]}, "AWS-StartPortForwardingSessionToRemoteHost"),
        ({"portNumber": ["5432"], "host": ["db.internal@evil"]}, "AWS-StartPortForwardingSessionToRemoteHost"),
    ):
        with pytest.raises(FieldError):
            forward(user, db1, parameters, document=document)


@pytest.mark.parametrize(
    "host",
    [
        *("169.254.169.254", "[::ffff:169.254.169.254]", "::FFFF:A9FE:A9FE", "169.254.169.254.", "metadata.internal."),
        *("METADATA.internal", "0xa9fea9fe", "2852039166", "169.254.43518", "0251.0376.0251.0376", "0xA9.254.0xa9.254"),
        *("169.254.169.254%lo", "fd00:ec2::254%eth0", "\uff11\uff16\uff19.254.169.254", "metadata\u3002internal"),
    ],
)
def test_no_spelling_of_a_host_gets_around_a_rule_that_denies_it(people, db1, host):
    rule("Anywhere", deeds=["forward"], destinations=["*:80"])
    rule(
        "No metadata",
        effect="deny",
        deeds=["forward"],
        destinations=["169.254.169.254:*", "[fd00:ec2::254]:*", "metadata.internal:*"],
    )
    asked = {"portNumber": ["80"], "host": [host]}
    with pytest.raises((policy.PolicyDenied, FieldError)):
        forward(people["operator"], db1, asked, document="AWS-StartPortForwardingSessionToRemoteHost")
    assert not TerminalSession.objects.exists()
    free = {"portNumber": ["80"], "host": ["2001:db8::1"]}
    assert forward(people["operator"], db1, free, document="AWS-StartPortForwardingSessionToRemoteHost").pk


def test_a_rule_gives_its_os_user_and_its_moderator_to_the_session(people, db1):
    rule("Deploy", shell_user="deploy", needs_moderator=True)
    assert connect(people["operator"], db1).status_code == 302
    session = TerminalSession.objects.get()
    assert (session.run_as, session.needs_moderator) == ("deploy", True)
    TerminalSession.objects.update(owner="me", owner_epoch=1)
    assert services.heartbeat("me", [session.pk], beat=False)[session.pk].taken_away == ""
    given_before = Rule.objects.get(name="Deploy")
    policy.change_rule(given_before, actor=people["administrator"], version=1, confirmed=True, **fields(given_before))
    taken = services.heartbeat("me", [session.pk], beat=False)[session.pk].taken_away
    assert "No rule allows operator to run a shell as a named OS user (deploy)" in taken


def test_a_rule_that_wants_a_moderator_lets_nothing_be_done_before_one_is_there(people, db1):
    """A moderator holds keys; a command in a document's parameters needs none."""
    Rule.objects.all().delete()
    rule("Watched", needs_moderator=True, session_documents=["*"])
    user = people["operator"]
    assert services.open_session(db1, actor=user).needs_moderator
    for kind, document in (
        (SessionKind.COMMAND, "AWS-StartNonInteractiveCommand"),
        (SessionKind.SHELL, "AWS-StartInteractiveCommand"),
        (SessionKind.SHELL, "arn:aws:ssm:eu-west-1::document/AWS-StartInteractiveCommand"),
        (SessionKind.SHELL, "AWS-StartNonInteractiveCommand:1"),
    ):
        with pytest.raises(UserError, match="open a shell"):
            services.open_session(
                db1, actor=user, kind=kind, document=document, parameters={"command": ["touch /tmp/unseen"]}
            )
    assert TerminalSession.objects.count() == 1
    assert AuditEvent.objects.filter(action="sessions.open.refuse").count() == 4
    rule("Watched and approved", needs_moderator=True, approvals=1)
    Rule.objects.get(name="Watched").delete()
    with pytest.raises(NotToBeHad, match="moderator"):  # nor is anybody asked to approve it
        ask(user, db1, wish=Wish(kind=SessionKind.COMMAND, document="AWS-StartNonInteractiveCommand"))
    assert ask(user, db1).pk


def test_a_port_is_forwarded_on_windows_whatever_user_a_rule_gives_to_shells(people, db1):
    Instance.objects.filter(pk=db1.pk).update(platform_type="Windows")
    db1.refresh_from_db()
    rule("Both", deeds=["shell", "forward"], shell_user="deploy", destinations=["localhost:3389"])
    assert forward(people["operator"], db1, {"portNumber": ["3389"]}).run_as == ""


def fields(found: Rule) -> dict:
    return {"name": found.name, "everybody": True, "targets": "all", "deeds": ["shell"], "shell_user": "app"}


def test_other_conditions_stand_beside_the_approval(people, db1):
    Rule.objects.all().delete()
    rule("Both", approvals=1, needs_mfa=True)
    given(people, db1)
    answer = connect(people["operator"], db1)
    assert answer.status_code == 403 and "needs a log-in with a second factor" in answer.content.decode()
    assert "a request that" not in answer.content.decode()
    fresh = client_of(people["operator"], mfa_at=now().timestamp())
    assert fresh.post(reverse("sessions:open"), {"instance": db1.pk}).status_code == 302


def test_a_grant_that_begins_later_is_not_had_before(people, db1):
    grant = given(people, db1, starts_at=now() + timedelta(hours=2))
    assert grant.starts_at > now() and connect(people["operator"], db1).status_code == 403
    assert "Begins later" in client_of(people["operator"]).get(grant.get_absolute_url()).content.decode()


def test_a_second_grant_for_the_same_puts_the_end_of_what_is_open_off(people, db1):
    first = given(people, db1, minutes=10)
    session = live(people, db1, first)
    second = given(people, db1, minutes=60)
    session.refresh_from_db()
    assert (session.grant, session.deadline_at) == (second, second.ends_at)
    assert services.heartbeat("me", [session.pk], beat=False)[session.pk].deadline_at == second.ends_at
    grants.revoke(first, actor=people["second"], reason="not needed twice")
    assert taken_away(session) == ""
    given(people, instance(), minutes=120)  # of another instance
    given(people, db1, minutes=120, starts_at=now() + timedelta(hours=1))  # later
    session.refresh_from_db()
    assert session.grant == second
    event = AuditEvent.objects.filter(action="sessions.grant.start").order_by("pk")[1]
    assert event.details["extends"] == [str(session.pk)]


# Ending


def live(people, where, grant) -> TerminalSession:
    return make_session(
        user=people["operator"],
        instance=where,
        grant=grant,
        deadline_at=grant.ends_at,
        owner="me",
        owner_epoch=1,
        owner_seen_at=now(),
    )


def taken_away(session) -> str:
    return services.heartbeat("me", [session.pk], beat=False)[session.pk].taken_away


def test_revoking_takes_the_session_away_in_words_and_connect_with_it(people, db1):
    grant = given(people, db1)
    session = live(people, db1, grant)
    assert taken_away(session) == ""
    with pytest.raises(FieldError, match="whose terminal closes reads it there"):
        grants.revoke(grant, actor=people["administrator"])
    answer = client_of(people["second"]).post(
        reverse("sessions:grant_revoke", args=[grant.pk]), {"reason": "The incident is over."}
    )
    assert answer.status_code == 302
    assert taken_away(session) == "second revoked the grant: The incident is over"
    event = AuditEvent.objects.get(action="sessions.grant.revoke")
    assert event.details["sessions"] == [str(session.pk)] and event.reason == "The incident is over."
    with pytest.raises(policy.PolicyDenied):
        services.admit(session.pk, user=people["operator"], watch=False)
    assert connect(people["operator"], db1).status_code == 403
    with pytest.raises(UserError, match="This grant is revoked"):
        grants.revoke(grant, actor=people["administrator"], reason="again")


def test_who_has_a_grant_gives_it_up_and_others_may_not_revoke_it(people, db1):
    grant = given(people, db1)
    assert not grants.may_revoke(grant, people["viewer"])
    assert client_of(people["viewer"]).post(reverse("sessions:grant_revoke", args=[grant.pk])).status_code == 404
    refused = client_of(people["auditor"]).post(reverse("sessions:grant_revoke", args=[grant.pk]), {"reason": "x"})
    assert refused.status_code == 403
    assert AuditEvent.objects.get(action="sessions.grant.revoke.refuse").actor_name == "auditor"
    assert client_of(people["operator"]).post(reverse("sessions:grant_revoke", args=[grant.pk])).status_code == 302
    grant.refresh_from_db()
    assert (grant.state, grant.closed_by) == (GrantState.REVOKED, "operator")


def test_at_its_end_the_session_is_taken_away_whether_or_not_anybody_has_written_it_down(people, db1):
    grant = given(people, db1)
    session = live(people, db1, grant)
    Grant.objects.filter(pk=grant.pk).update(starts_at=now() - timedelta(hours=1), ends_at=now())
    assert taken_away(session).startswith("its grant ended at ")
    assert connect(people["operator"], db1).status_code == 403
    grants.settle_due()
    grant.refresh_from_db()
    assert (grant.state, grant.closed_at) == (GrantState.ENDED, grant.ends_at)


def test_a_rule_that_comes_to_ask_for_more_approvals_takes_the_session_away(people, db1):
    session = live(people, db1, given(people, db1))
    found = Rule.objects.get(name="Ledger")
    given_now = {
        "name": "Ledger",
        "groups": list(found.groups.all()),
        "targets": "cluster=ledger",
        "deeds": ["shell"],
        "approvals": 2,
    }
    policy.change_rule(found, actor=people["administrator"], version=1, **given_now)
    assert "2 other people approved" in taken_away(session)


def test_where_the_owner_is_dead_a_session_whose_grant_is_over_is_ended_without_waiting_for_its_host(people, db1):
    grant = given(people, db1)
    session = live(people, db1, grant)
    TerminalSession.objects.filter(pk=session.pk).update(owner_host="gone", owner_seen_at=now() - timedelta(seconds=10))
    upkeep.tidy()
    session.refresh_from_db()
    assert session.state == SessionState.OPEN  # its host may come back
    grants.revoke(grant, actor=people["second"], reason="enough")
    upkeep.tidy()
    session.refresh_from_db()
    assert (session.state, session.end_reason) == (SessionState.ENDED, "Ended: second revoked the grant: enough.")
    assert session.terminate_due_at is not None  # AWS is told until it confirms: tests of upkeep.confirm_ends


# Pages and API


def test_who_sees_a_grant(people, db1):
    grant = given(people, db1)
    for name, status in (("operator", 200), ("viewer", 404), ("auditor", 200), ("administrator", 200)):
        assert client_of(people[name]).get(grant.get_absolute_url()).status_code == status, name
    page = client_of(people["administrator"]).get(reverse("sessions:grant_of", args=[grant.request_id]))
    assert page.url == grant.get_absolute_url()
    shown = client_of(people["administrator"]).get(reverse("approvals:request", args=[grant.request_id]))
    assert reverse("sessions:grant_of", args=[grant.request_id]) in shown.content.decode()


@pytest.mark.parametrize("show", ["waiting", "mine", "open", "all", "nonsense"])
def test_the_list_takes_few_queries_however_many_rows(people, django_assert_max_num_queries, show):
    for _ in range(12):
        make_grant(user=people["operator"], ends_at=now() + timedelta(hours=1))
    client = client_of(people["administrator"])
    client.get(reverse("sessions:grants"))
    with django_assert_max_num_queries(16):
        assert client.get(reverse("sessions:grants"), {"show": show}).status_code == 200


def test_the_approver_reads_who_else_may_and_what_the_person_did_there(people, db1):
    rule("Chief", users=[people["dba"]], targets="cluster=ledger")
    make_session(user=people["operator"], instance=db1, state=SessionState.ENDED)
    make_session(user=people["viewer"], instance=db1)
    standing = make_grant(user=people["operator"], ends_at=now() + timedelta(hours=1))
    grant = ask(people["operator"], db1)
    page = client_of(people["administrator"]).get(grant.get_absolute_url())
    radius = page.context["radius"]
    assert (radius["others"], radius["sessions"]) == (["dba"], 1)
    assert [each.user_name for each in radius["live"]] == ["viewer"] and radius["grants"][0][0] == standing


def test_a_program_asks_and_another_approves_and_revokes(people, db1):
    asks = Bearer(make_token(people["operator"], "access:ask", "sessions:read"))
    answers = Bearer(make_token(people["administrator"], "approvals:write", "sessions:end", "sessions:read"))

    def post(client, path, body):
        return client.post(path, json.dumps(body))

    bad = post(asks, reverse("api:grants"), {"minutes": 60, "reason": "INC-1"})
    assert bad.status_code == 400 and "expression" in bad.json()["errors"]
    made = post(asks, reverse("api:grants"), {"instance": str(db1.pk), "minutes": 60, "reason": "INC-1"})
    assert made.status_code == 201 and made.json()["state"] == "asked" and not made.json()["is_open"]
    pk = made.json()["id"]
    waiting = answers.get(reverse("api:grants"), {"show": "waiting"}).json()["results"]
    assert [each["id"] for each in waiting] == [pk]
    voted = post(answers, reverse("api:grant_vote", args=[pk]), {"answer": "approve"})
    assert voted.json()["state"] == "active" and voted.json()["is_open"]
    assert [each["id"] for each in asks.get(reverse("api:grants"), {"show": "open"}).json()["results"]] == [pk]
    assert post(answers, reverse("api:grant_revoke", args=[pk]), {}).status_code == 400
    revoked = post(answers, reverse("api:grant_revoke", args=[pk]), {"reason": "done"})
    assert (revoked.json()["state"], revoked.json()["close_reason"]) == ("revoked", "done")
    assert asks.get(reverse("api:grants"), {"instance": "x"}).status_code == 400
