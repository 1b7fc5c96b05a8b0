"""Rules in the database: what may be saved, who is told, what is kept, and how soon another process knows."""

from datetime import time, timedelta

import pytest
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from fleetops.audit.models import AuditEvent
from fleetops.clock import now
from fleetops.errors import UserError
from fleetops.policy import services
from fleetops.policy.decide import DEED_WORDS, Context
from fleetops.policy.models import PolicyState, Rule, RuleRevision
from fleetops.targets import TargetFacts
from fleetops.web.context import within
from tests.factories import make_user

pytestmark = pytest.mark.django_db
PROD = TargetFacts("i-1", name="web-1", tags={"env": "prod"})


@pytest.fixture
def admin(roles):
    return make_user("admin", role="administrator")


def make(name="Test", *, actor="test", **fields) -> Rule:
    given = {"everybody": True, "deeds": ["shell"], "targets": "env=prod"} | fields
    return services.create_rule(actor=actor, name=name, **given)


def may(user, deed="shell", target=PROD, **fields) -> bool:
    return services.decision(user, deed, target=target, context=Context(now()), **fields).allowed


# What there is from the start


def test_with_the_rules_that_it_comes_with_each_role_may_what_it_always_might(roles):
    people = {role: make_user(role=role) for role in ("viewer", "operator", "patch_owner", "auditor", "administrator")}
    people["none"] = make_user()
    may_now = {
        deed: {name for name, user in people.items() if may(user, deed, owner="somebody else")}
        for deed in ("shell", "read_recording", "watch_session", "end_session", "forward", "run_as", "patch")
    }
    review = {"auditor", "administrator"}
    assert may_now == {
        "shell": {"operator", "administrator"},
        "read_recording": review,
        "watch_session": review,
        "end_session": {"administrator"},
        "forward": set(),
        "run_as": set(),
        "patch": {"patch_owner", "administrator"},
    }
    for deed in ("read_recording", "watch_session", "end_session"):
        assert all(may(user, deed, owner=user.pk) for user in people.values())


def test_a_default_that_was_deleted_does_not_come_back_and_a_changed_one_stays_changed(admin):
    assert Rule.objects.count() == len(services.DEFAULTS)
    shells, ends = Rule.objects.get(deeds=["shell"]), Rule.objects.get(deeds=["end_session"])
    services.delete_rule(shells, actor=admin, version=shells.version)
    services.set_enabled(ends, False, actor=admin)
    call_command("sync_roles", verbosity=0)
    assert not Rule.objects.filter(pk=shells.pk).exists() and not Rule.objects.filter(name=shells.name).exists()
    assert not Rule.objects.get(pk=ends.pk).enabled
    assert Rule.objects.count() == len(services.DEFAULTS) - 1


# Asking


def test_a_decision_takes_two_queries_and_six_more_after_a_change(admin):
    user = make_user(role="operator")
    may(user)
    with CaptureQueriesContext(connection) as queries:
        assert may(user)
    assert len(queries) == 2
    make(effect="deny")
    with CaptureQueriesContext(connection) as queries:
        assert not may(user)
    assert len(queries) == 7


def test_a_change_by_another_process_is_noticed_at_the_next_question(admin):
    user = make_user(role="operator")
    assert may(user)
    services._kept = services._Read(PolicyState.objects.get().stamp, ())  # what this process would have from before
    assert not may(user)
    make("Other")  # a new stamp, whoever wrote it
    assert may(user)


def test_rules_of_a_transaction_that_was_rolled_back_are_forgotten(admin):
    from django.db import transaction

    user = make_user(role="operator")
    with transaction.atomic():
        make(effect="deny")
        assert not may(user)
        transaction.set_rollback(True)
    assert may(user)
    make("Another", targets="env=dev")  # its version number is that of the one that never was
    assert may(user)


def test_require_raises_with_the_reasons_and_says_who_can_change_it(admin):
    viewer = make_user("vi", role="viewer")
    with pytest.raises(services.PolicyDenied) as refused:
        services.require(viewer, "shell", target=PROD, context=services.context(viewer))
    assert str(refused.value) == (
        "No rule of the access policy allows you to open a shell on web-1. Who administers the policy can change that."
    )
    make("Why", needs_reason=True)
    with pytest.raises(services.ReasonNeeded):
        services.require(viewer, "shell", target=PROD, context=services.context(viewer))
    with within("browser", source_address="10.1.1.1") as request:
        request.second_factor = lambda user_id: 7.0 if user_id == str(viewer.pk) else None
        context = services.context(viewer, reason="x")
        assert (context.source_address, context.mfa_at) == ("10.1.1.1", 7.0)
        assert services.context(admin).mfa_at is None
        assert services.require(viewer, "shell", target=PROD, context=context).rules == ("Why",)


def test_a_door_writes_down_that_a_rule_decided_at_most_once_a_minute(admin):
    rule = make()
    viewer = make_user(role="viewer")
    assert rule.last_used_at is None
    services.require(viewer, "shell", target=PROD, context=services.context(viewer))
    rule.refresh_from_db()
    first = rule.last_used_at
    assert first is not None and rule.version == 1
    with CaptureQueriesContext(connection) as queries:
        services.require(viewer, "shell", target=PROD, context=services.context(viewer))
    assert not [query for query in queries if query["sql"].startswith("UPDATE")]


def test_who_may_tells_of_everybody_in_few_queries(admin):
    for _ in range(5):
        make_user(role="operator")
    make_user("gone", role="operator", is_active=False)
    services.rules()
    with CaptureQueriesContext(connection) as queries:
        found = services.who_may("shell", target=PROD, context=Context(now()))
    assert len(queries) == 3
    assert sum(answer.allowed for _, answer in found) == 6 and "gone" not in {user.username for user, _ in found}
    assert (found[0][1].allowed and not found[-1][1].allowed) or len(found) == 6


def test_a_simulation_says_the_same_as_the_door(admin):
    make("No", effect="deny", note="Freeze")
    answer, said = services.simulate(make_user(role="operator"), "shell", target=PROD, context=Context(now()))
    assert not answer.allowed and answer.text == "Rule “No” denies it: Freeze."
    assert [(each.rule.name, each.verdict) for each in said][:2] == [
        ("No", "denies"),
        ("Operators and administrators open shells", "allows"),
    ]


# Saving


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"name": " "}, "name", "Give the rule a name"),
        ({"deeds": []}, "deeds", "at least one deed"),
        ({"deeds": ["shell", "fly"]}, "deeds", "at least one deed"),
        ({"everybody": False}, "everybody", "Choose a group or a person"),
        ({"targets": ""}, "targets", "Write which instances"),
        ({"targets": "env=prod and"}, "targets", ""),
        ({"targets": "a=1 and b=2 or c=3"}, "targets", "parentheses"),
        ({"targets": "all"}, "confirm_all", "every instance"),
        ({"targets": "name=*"}, "targets", "Write all if that is meant"),
        ({"targets": "env=prod and not env=prod"}, "targets", "no instance"),
        ({"whose": "own"}, "whose", "Make two rules"),
        ({"deeds": ["run_as"]}, "run_as", "Name the OS users"),
        ({"deeds": ["run_document"]}, "documents", "Name the documents"),
        ({"effect": "deny", "needs_mfa": True}, "effect", "A deny denies"),
        ({"days": [0, 7], "starts_at": time(8), "ends_at": time(9), "zone": "UTC"}, "days", "from 0, Monday"),
        ({"days": [0], "zone": "UTC"}, "starts_at", "Give both times"),
        ({"starts_at": time(8), "ends_at": time(9)}, "days", "Choose the days"),
        ({"days": [0], "starts_at": time(8), "ends_at": time(9), "zone": "Mars"}, "zone", "IANA"),
        ({"days": [0], "starts_at": time(8), "ends_at": time(9), "zone": "../etc"}, "zone", "IANA"),
        ({"valid_from": now(), "valid_until": now() - timedelta(1)}, "valid_until", "end before it begins"),
        ({"networks": ["10.0.0.1/8"]}, "networks", "is no network"),
        ({"networks": ["10.0.0.0/8"] * 51}, "networks", "At most 50"),
        ({"approvals": 10}, "approvals", "From 0 to 9"),
        ({"role_arn": "role/x"}, "role_arn", "arn:aws:iam"),
        ({"role_arn": "arn:iam::role/x"}, "role_arn", "arn:aws:iam"),
        ({"name": "x" * 101}, "name", "At most 100"),
        ({"role_arn": "arn:aws:iam::111122223333:role/x", "deeds": ["patch"]}, "role_arn", "shells and files alone"),
    ],
)
def test_what_is_no_rule_is_told_by_field_and_not_saved(db, fields, field, words):
    with pytest.raises(services.RuleProblems) as refused:
        make(**fields)
    assert list(refused.value.fields) == [field] and words in refused.value.fields[field]
    assert not Rule.objects.exists()


def test_everybody_and_somebody_together_is_told(admin):
    with pytest.raises(services.RuleProblems, match="not both"):
        make(users=[admin])


def test_a_name_is_there_once(admin):
    first = make()
    with pytest.raises(services.RuleProblems, match="already"):
        make()
    other = make("Other")
    with pytest.raises(services.RuleProblems, match="already"):
        services.change_rule(other, actor=admin, version=1, name="Test", everybody=True, deeds=["shell"], targets="a=1")
    assert {first.name, other.name} <= set(Rule.objects.values_list("name", flat=True))


def test_what_is_saved_is_canonical(admin):
    rule = make("  Two   words ", targets="env=prod   AND not  cluster=db", networks=["10.0.0.0/8"], zone="UTC")
    assert (rule.name, rule.targets, rule.zone) == ("Two words", "env=prod and cluster!=db", "")


def test_each_change_is_kept_and_audited_with_what_was_before(admin):
    rule = make(actor=admin)
    fields = {"name": "Test", "everybody": True, "deeds": ["shell"], "targets": "env=dev"}
    services.change_rule(rule, actor=admin, version=1, **fields)
    rule.refresh_from_db()
    services.change_rule(rule, actor=admin, version=2, **fields)  # nothing new: nothing kept
    services.set_enabled(rule, False, actor=admin)
    services.set_enabled(rule, False, actor=admin)
    services.set_enabled(rule, True, actor=admin)
    rule.refresh_from_db()
    services.delete_rule(rule, actor=admin, version=rule.version)
    kept = list(RuleRevision.objects.filter(rule_id=rule.pk).order_by("id"))
    assert [each.change for each in kept] == ["create", "update", "disable", "enable", "delete"]
    assert {each.by for each in kept} == {"admin"} and {each.rule_name for each in kept} == {"Test"}
    assert services.difference(kept[1].before, kept[1].after) == [("targets", "env=prod", "env=dev")]
    assert kept[0].before == {} and kept[-1].after == {} and kept[-1].before["targets"] == "env=dev"
    events = list(AuditEvent.objects.filter(action__startswith="policy.rule.", target_id=str(rule.pk)).order_by("id"))
    assert [event.action.rpartition(".")[2] for event in events] == [each.change for each in kept]
    assert events[1].details == {"before": {"targets": "env=prod"}, "after": {"targets": "env=dev"}}
    assert events[2].details == {"before": {"enabled": True}, "after": {"enabled": False}}


def test_who_saves_what_another_changed_meanwhile_is_told_so(admin):
    rule = make()
    services.set_enabled(rule, False, actor=admin)
    fields = {"name": "Test", "everybody": True, "deeds": ["shell"], "targets": "env=dev"}
    with pytest.raises(UserError, match="admin changed rule “Test” meanwhile"):
        services.change_rule(rule, actor=admin, version=1, **fields)
    with pytest.raises(UserError, match="admin changed rule “Test” meanwhile"):
        services.delete_rule(rule, actor=admin, version=1)
    assert Rule.objects.filter(pk=rule.pk).exists()
    services.delete_rule(rule, actor=admin, version=2)
    with pytest.raises(UserError, match="was deleted meanwhile"):
        services.change_rule(rule, actor=admin, version=2, **fields)


def test_no_rule_shuts_administrators_out_of_the_policy(admin, client):
    """Who may edit rules is a permission of roles, not a rule; so the worst rule can be taken back."""
    rule = make("Nobody anything", effect="deny", targets="all", confirmed=True, deeds=list(DEED_WORDS))
    client.force_login(admin, backend="django.contrib.auth.backends.ModelBackend")
    assert not may(admin)
    assert client.get(rule.get_absolute_url()).status_code == 200
    assert client.post(f"{rule.get_absolute_url()}delete/", {"version": rule.version}).status_code == 302
    assert may(admin)


def test_networks_that_cannot_be_read_any_more_shut_the_rule_and_not_the_product(admin):
    user = make_user(role="operator")
    rule = make("Odd", effect="deny", networks=["::ffff:10.0.0.0/104"])
    assert rule.networks == ["10.0.0.0/8"]
    Rule.objects.filter(pk=rule.pk).update(networks=["over there"])
    services.set_enabled(rule, False, actor=admin)
    assert may(user)
    services.set_enabled(rule, True, actor=admin)
    assert not may(user)


def test_rules_that_change_while_they_are_read_are_read_again(admin, monkeypatch):
    user, real = make_user(role="operator"), services.facts_of
    made = []

    def meanwhile(rule):
        if not made:
            made.append(make("No", effect="deny"))
        return real(rule)

    monkeypatch.setattr(services, "facts_of", meanwhile)
    services.set_enabled(Rule.objects.get(deeds=["end_session"]), False, actor=admin)
    assert not may(user)


def test_a_rule_that_this_version_cannot_read_denies_and_allows_nothing(admin):
    user = make_user(role="operator")
    rule = make("Odd", effect="deny")
    Rule.objects.filter(pk=rule.pk).update(targets="?? from another version")
    services.set_enabled(rule, False, actor=admin)
    assert may(user)
    services.set_enabled(rule, True, actor=admin)
    assert not may(user)
