"""Every door of a session asks the policy: pages, websockets, and the owner of a shell that is open."""

from contextlib import contextmanager

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from fleetops.audit.models import AuditEvent
from fleetops.clock import now
from fleetops.policy import services as policy
from fleetops.policy.models import Rule
from fleetops.web.context import within
from sessions_app import services
from sessions_app.models import TerminalSession
from tests.factories import make_instance, make_session, make_user

from .conftest import until

pytestmark = pytest.mark.django_db(transaction=True)
SHELLS = "Operators and administrators open shells"


@pytest.fixture
def people(roles):
    return {role: make_user(role, role=role) for role in ("viewer", "operator", "auditor", "administrator")}


def rule(name: str = "test", **fields) -> Rule:
    given = {"everybody": True, "targets": "all", "deeds": ["shell"], "confirmed": True} | fields
    return policy.create_rule(actor="test", name=name, **given)


def deny(**fields) -> Rule:
    return rule("No", effect="deny", note="There is a freeze.", **fields)


def delete(found: Rule, *, actor) -> None:
    policy.delete_rule(found, actor=actor, version=Rule.objects.get(pk=found.pk).version)


def client_of(user, **log_in) -> Client:
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    if log_in:
        session = client.session
        session.update(log_in)
        session.save()
    return client


def connect(client, instance, **form):
    return client.post(reverse("sessions:open"), {"instance": instance.pk} | form)


# Opening


def test_a_rule_by_tag_lets_in_where_it_matches_and_a_denial_names_it_and_is_audited(people):
    prod, dev = make_instance(tags={"env": "prod"}), make_instance(tags={"env": "dev"})
    blocking = deny(targets="env=prod")
    client = client_of(people["operator"])
    assert connect(client, dev).status_code == 302
    answer = connect(client, prod)
    assert answer.status_code == 403
    assert "Rule “No” denies it: There is a freeze." in answer.content.decode()
    event = AuditEvent.objects.get(action="sessions.open.refuse")
    assert (event.outcome, event.details["rules"], event.target_id) == ("denied", ["No"], str(prod.pk))
    assert "denies it" in event.reason
    delete(blocking, actor=people["administrator"])
    assert connect(client, prod).status_code == 302  # at once: this very process had cached the rules


def test_a_rule_lets_in_whom_no_role_does(people):
    instance = make_instance(tags={"env": "dev"})
    client = client_of(people["viewer"])
    answer = connect(client, instance)
    assert answer.status_code == 403
    assert f"No rule of the access policy allows you to open a shell on {instance}." in answer.content.decode()
    rule(everybody=False, users=[people["viewer"]], targets="env=dev")
    assert connect(client, instance).status_code == 302
    assert AuditEvent.objects.get(action="sessions.open").details["rules"] == ["test"]


def test_where_a_reason_is_wanted_a_page_asks_for_it_and_goes_on(people):
    Rule.objects.filter(name=SHELLS).delete()
    rule("With a reason", needs_reason=True, everybody=False, users=[people["operator"]])
    instance, client = make_instance(), client_of(people["operator"])
    page = connect(client, instance)
    assert page.status_code == 200 and not TerminalSession.objects.exists()
    text = page.content.decode()
    assert "Rule “With a reason” lets you in once you have said why" in text and 'name="reason"' in text
    assert not AuditEvent.objects.filter(outcome="denied").exists()
    assert connect(client, instance, reason=" \n ").status_code == 400
    assert connect(client, instance, reason="INC-7: disk full").status_code == 302
    assert TerminalSession.objects.get().reason == "INC-7: disk full"


def test_where_a_second_factor_is_wanted_the_log_in_must_have_one_of_this_user(people):
    delete(Rule.objects.get(name=SHELLS), actor=people["administrator"])
    rule("Factor", needs_mfa=True)
    instance = make_instance()
    answer = connect(client_of(people["operator"]), instance)
    assert answer.status_code == 403 and "needs a log-in with a second factor" in answer.content.decode()
    assert connect(client_of(people["operator"], mfa_at=now().timestamp()), instance).status_code == 302
    session = TerminalSession.objects.get()
    assert session.mfa_at is not None and (now() - session.mfa_at).total_seconds() < 60


def test_networks_and_approvals_are_asked_at_the_door(people):
    delete(Rule.objects.get(name=SHELLS), actor=people["administrator"])
    inside = rule("Inside", networks=["10.0.0.0/8"])
    instance, client = make_instance(), client_of(people["operator"])
    assert "holds only from 10.0.0.0/8 (this comes from 127.0.0.1)" in connect(client, instance).content.decode()
    assert client.post(reverse("sessions:open"), {"instance": instance.pk}, REMOTE_ADDR="10.9.8.7").status_code == 302
    delete(inside, actor=people["administrator"])
    rule("Two", approvals=2)
    assert "a request that 2 other people approved" in connect(client, instance).content.decode()


def test_a_session_is_opened_under_the_role_that_its_rule_names_if_that_is_one_of_its_account(people):
    delete(Rule.objects.get(name=SHELLS), actor=people["administrator"])
    instance, client = make_instance(), client_of(people["operator"])
    named = rule("Role", role_arn=f"arn:aws:iam::{instance.account.account_id}:role/oncall")
    assert connect(client, instance).status_code == 302
    assert TerminalSession.objects.get().role_arn == named.role_arn
    other = make_instance()
    Rule.objects.filter(pk=named.pk).update(role_arn="arn:aws:iam::999988887777:role/oncall")
    policy.set_enabled(named, False, actor=people["administrator"])
    policy.set_enabled(named, True, actor=people["administrator"])
    answer = connect(client, other)
    assert answer.status_code == 409 and "is not a role of account" in answer.content.decode()


def test_a_shell_ends_once_no_rule_gives_the_role_that_it_is_open_under(people):
    role = "arn:aws:iam::111122223333:role/oncall"
    giving = rule("Role", role_arn=role, everybody=False, users=[people["operator"]])
    session = make_session(user=people["operator"], owner="me", owner_epoch=1, role_arn=role)
    assert services.heartbeat("me", [session.pk], beat=False)[session.pk].taken_away == ""
    delete(giving, actor=people["administrator"])
    assert f"under the IAM role {role} any more" in (
        services.heartbeat("me", [session.pk], beat=False)[session.pk].taken_away
    )
    with pytest.raises(policy.PolicyDenied, match="any more"):
        services.admit(session.pk, user=people["operator"], watch=False)
    event = AuditEvent.objects.get(action="sessions.attach.refuse")
    assert (event.account_id, event.region) == (session.account_id, session.region)


def test_a_deny_by_tag_holds_for_a_hybrid_node_until_its_tags_are_read(people):
    node = make_instance(instance_id="mi-0123456789abcdef0", tags_read_at=None)
    deny(targets="env=prod")
    client = client_of(people["operator"])
    answer = connect(client, node)
    assert answer.status_code == 403 and "tags of the instance have not been read yet" in answer.content.decode()
    type(node).objects.filter(pk=node.pk).update(tags_read_at=now())
    assert connect(client, node).status_code == 302


# Recordings, watching, ending


@pytest.fixture
def foreign(people):
    """A live session of the administrator on an instance of prod."""
    return make_session(user=people["administrator"], instance=make_instance(tags={"env": "prod"}))


@pytest.mark.parametrize("name", ["replay", "cast", "events", "search"])
def test_each_way_to_read_a_recording_asks(people, foreign, name):
    client = client_of(people["auditor"])
    url = reverse(f"sessions:{name}", args=[foreign.pk])
    assert client.get(url).status_code == 200
    deny(deeds=["read_recording"], targets="env=prod")
    answer = client.get(url)
    assert answer.status_code == 403 and "Rule “No” denies it" in answer.content.decode()
    event = AuditEvent.objects.get(action="sessions.recording.refuse")
    assert (event.session_id, event.details["rules"]) == (str(foreign.pk), ["No"])
    if name == "cast":
        assert client.get(url, {"play": "1"}).status_code == 403


def test_ones_own_recording_is_a_rule_too(people):
    session = make_session(user=people["operator"])
    client = client_of(people["operator"])
    assert client.get(reverse("sessions:replay", args=[session.pk])).status_code == 200
    deny(deeds=["read_recording"], whose="own")
    assert client.get(reverse("sessions:replay", args=[session.pk])).status_code == 403


def test_watching_and_ending_ask(people, foreign):
    blocking = deny(deeds=["watch_session", "end_session"], targets="env=prod", whose="others")
    assert client_of(people["auditor"]).get(reverse("sessions:terminal", args=[foreign.pk])).status_code == 403
    other = make_session(user=people["operator"], instance=foreign.instance_row)
    assert client_of(people["administrator"]).post(reverse("sessions:end", args=[other.pk])).status_code == 403
    assert client_of(people["administrator"]).post(reverse("sessions:end", args=[foreign.pk])).status_code == 302
    policy.set_enabled(blocking, False, actor=people["administrator"])
    assert client_of(people["administrator"]).post(reverse("sessions:end", args=[other.pk])).status_code == 302


def test_who_wants_to_see_or_end_may_have_to_say_why_first(people, foreign):
    for name in ("Auditors and administrators read recordings and watch", "Administrators end sessions"):
        delete(Rule.objects.get(name=name), actor=people["administrator"])
    rule(
        needs_reason=True,
        everybody=False,
        users=[people["auditor"]],
        deeds=["read_recording", "watch_session", "end_session"],
    )
    client = client_of(people["auditor"])
    reason = reverse("sessions:reason", args=[foreign.pk])
    for name in ("replay", "terminal"):
        client = client_of(people["auditor"])
        page = client.get(reverse(f"sessions:{name}", args=[foreign.pk]))
        assert page.url == f"{reason}?for={name}"
        assert client.get(page.url).status_code == 200
        assert client.post(reason, {"for": name, "reason": " "}).status_code == 400
        back = client.post(reason, {"for": name, "reason": "review of INC-7"})
        assert back.url == reverse(f"sessions:{name}", args=[foreign.pk])
        assert client.get(back.url).status_code == 200
    assert AuditEvent.objects.get(action="sessions.recording.view").reason == "review of INC-7"
    page = client.post(reverse("sessions:end", args=[foreign.pk]))
    assert page.url == f"{reason}?for=end"
    htmx = client.post(reverse("sessions:end", args=[foreign.pk]), headers={"HX-Request": "true"})
    assert htmx["HX-Redirect"] == page.url
    client.post(reason, {"for": "end", "reason": "left open"})
    foreign.refresh_from_db()
    assert foreign.end_requested_by == "auditor"
    assert AuditEvent.objects.get(action="sessions.end.request").reason == "left open"
    assert client.get(reason, {"for": "fun"}).status_code == 400
    assert client_of(people["viewer"]).get(reason).status_code == 404


# Over the websocket


def opened(instance, user, **context) -> TerminalSession:
    with within("browser", source_address="127.0.0.1") as request:
        request.second_factor = lambda user_id: context.get("mfa_at")
        return services.open_session(instance, actor=user, reason=context.get("reason", ""))


@pytest.fixture
def shell(terminal, instance, operator):
    session = opened(instance, operator)
    browser = terminal.browser(session, operator)
    browser.until(r"\$ $")
    yield session, browser
    browser.close()
    services.request_end(session, actor=operator)
    until(lambda: (session.refresh_from_db(), not session.is_live)[1], what="the session has ended")


def test_a_rule_that_changes_closes_the_shell_within_two_seconds_in_words(shell, operator):
    _, browser = shell
    begun = now()
    deny(targets=f"id={shell[0].instance_id}")
    told = browser.told("ended", seconds=6)["text"]
    assert (now() - begun).total_seconds() < 2.5
    assert told == "Ended: the access policy takes it away. Rule “No” denies it: There is a freeze."
    event = until(lambda: AuditEvent.objects.filter(action="sessions.end").first(), what="it is written down")
    assert event.reason == told


def test_a_shell_is_refused_at_the_websocket_in_words_once_the_policy_says_no(terminal, instance, operator):
    session = opened(instance, operator)
    deny()
    code, reason = terminal.browser(session, operator).closed()
    assert code == 4403 and reason.startswith(f"You may not open a shell on {instance}. Rule “No” denies it")
    event = AuditEvent.objects.get(action="sessions.attach.refuse")
    assert event.details["rules"] == ["No"]
    services.request_end(session, actor=operator)


def test_who_watches_by_websocket_brings_the_reason_that_the_page_asked_for(people, foreign):
    delete(Rule.objects.get(deeds=["read_recording", "watch_session"]), actor=people["administrator"])
    rule(needs_reason=True, deeds=["watch_session"])
    log_in = client_of(people["auditor"]).session
    reason = services.reason_given(log_in, foreign.pk)
    TerminalSession.objects.filter(pk=foreign.pk).update(owner_epoch=1)
    with pytest.raises(policy.ReasonNeeded):
        services.admit(foreign.pk, user=people["auditor"], watch=True, reason=reason)
    for number in range(60):  # only the latest are kept in a log-in
        services.give_reason(log_in, number, "old")
    services.give_reason(log_in, foreign.pk, "review")
    assert len(log_in["reasons"]) <= services.REASONS_KEPT + 1
    reason = services.reason_given(log_in, foreign.pk)
    assert services.admit(foreign.pk, user=people["auditor"], watch=True, reason=reason).pk == foreign.pk


def test_a_second_factor_is_of_the_log_in_that_attaches(terminal, instance, operator):
    delete(Rule.objects.get(name=SHELLS), actor=operator)
    rule("Factor", needs_mfa=True)
    session = opened(instance, operator, mfa_at=now().timestamp())
    code, reason = terminal.browser(session, operator).closed()
    assert code == 4403 and "second factor" in reason
    services.request_end(session, actor=operator)


def test_who_watches_is_turned_away_when_the_rule_changes_and_the_shell_stays(terminal, shell):
    session, browser = shell
    reviewer = make_user("rhea", role="auditor")
    watching = terminal.browser(session, reviewer, watch=True)
    watching.told("hello")
    deny(deeds=["watch_session"])
    code, reason = watching.closed(seconds=6)
    assert code == 4403 and reason.startswith("Taken away by the access policy. Rule “No” denies it")
    assert AuditEvent.objects.get(action="sessions.attach.revoke").details == {"user": "rhea", "rules": ["No"]}
    browser.run("echo still", r"\r\nstill")


def test_a_shell_outlives_the_death_of_its_owner_only_if_the_policy_still_allows_it(terminal, shell):
    session, _ = shell
    terminal.kill()
    deny()
    terminal.start()
    until(lambda: (session.refresh_from_db(), not session.is_live)[1], seconds=15, what="the session has ended")
    assert session.end_reason.startswith("Ended: the access policy takes it away. Rule “No”")


# Queries


@contextmanager
def at_most(number: int):
    with CaptureQueriesContext(
        connection,
    ) as queries:
        yield
    assert len(queries) <= number, [query["sql"][:200] for query in queries]


def test_live_sessions_are_decided_on_again_in_four_queries_however_many(people):
    instances = [make_instance(tags={"env": "prod"}) for _ in range(5)]
    users = [make_user(role="operator") for _ in range(5)]
    sessions = [
        make_session(user=user, instance=instance, owner="me", owner_epoch=1)
        for user in users
        for instance in instances
    ]
    for number in range(10):
        rule(f"r{number}", targets=f"env=e{number}")
    policy.rules()
    with at_most(4):
        orders = services.heartbeat("me", [session.pk for session in sessions], beat=True)
    assert all(order.is_mine and not order.taken_away for order in orders.values())
    deny(everybody=False, users=[users[0]], targets=f"id={instances[0].instance_id}")
    with at_most(9):  # the rules are read anew
        orders = services.heartbeat("me", [session.pk for session in sessions], beat=True)
    taken = {pk for pk, order in orders.items() if order.taken_away}
    assert taken == {sessions[0].pk}


def test_who_is_there_is_asked_again_in_six_queries_however_many(people):
    instance = make_instance()
    passes = []
    for _ in range(8):
        user = make_user(role="auditor")
        client = client_of(user)
        passes.append(
            services.Pass(
                session_id=make_session(user=people["operator"], instance=instance).pk,
                user_id=user.pk,
                log_in_key=client.session.session_key,
                log_in_hash=user.get_session_auth_hash(),
                is_own=False,
                watch=True,
            )
        )
    policy.rules()
    with at_most(6):
        assert services.recheck(passes) == {}
    deny(deeds=["watch_session"], everybody=False, users=[passes[0].user_id])
    refused = services.recheck(passes)
    assert list(refused) == [passes[0]] and refused[passes[0]].has_log_in


def test_who_comes_to_their_own_shell_from_where_the_policy_forbids_it_is_turned_away_alone(people):
    session = make_session(user=people["operator"], source_address="10.1.1.1")
    client = client_of(people["operator"])
    fields = {
        "session_id": session.pk,
        "user_id": people["operator"].pk,
        "log_in_key": client.session.session_key,
        "log_in_hash": people["operator"].get_session_auth_hash(),
        "is_own": True,
    }
    inside = services.Pass(**fields, source_address="10.1.1.1")
    outside = services.Pass(**fields, source_address="203.0.113.9")
    deny(networks=["203.0.113.0/24"])
    assert list(services.recheck([inside, outside])) == [outside]
    deny_all = rule("All", effect="deny")
    assert services.recheck([inside, outside]) == {}  # the session itself ends, see heartbeat
    delete(deny_all, actor=people["administrator"])
