"""The access policy over the API: the same rules, checks and history as on its pages."""

import uuid

import pytest
from django.contrib.auth.models import Group

from fleetops.audit.models import AuditEvent
from fleetops.policy import services
from fleetops.policy.models import Rule, RuleRevision
from tests.api.test_tokens import told
from tests.factories import make_instance, make_user

pytestmark = pytest.mark.usefixtures("roles", "valkey")
RULES = "/api/v1/policy/rules/"
SIMULATE = "/api/v1/policy/simulate/"
LEDGER = {"name": "Ledger", "effect": "allow", "groups": ["viewer"], "deeds": ["shell"], "targets": "cluster=ledger"}


@pytest.fixture
def chief(bearer):
    return bearer(make_user("chief", role="administrator"))


@pytest.fixture
def auditor(bearer):
    return bearer(make_user("aud", role="auditor"))


def make(name="Prod", **fields) -> Rule:
    return services.create_rule(
        actor="test", name=name, **({"everybody": True, "deeds": ["shell"], "targets": "env=prod"} | fields)
    )


def test_a_rule_is_made_and_holds_and_says_by_which_token(chief):
    mei = make_user("mei")
    answer = chief.post(
        RULES,
        LEDGER
        | {
            "users": ["mei"],
            "deeds": ["shell", "run_as"],
            "run_as": ["deploy-*", "app"],
            "days": [4, 0],
            "starts_at": "08:00",
            "ends_at": "18:30",
            "zone": "Europe/Berlin",
            "networks": ["10.0.0.0/8"],
            "needs_mfa": True,
            "approvals": 2,
            "approvers": ["administrator"],
            "grant_minutes": 30,
            "mfa_minutes": 15,
            "shell_user": "deploy",
            "session_documents": ["FleetOps-*"],
            "needs_moderator": True,
            "valid_until": "2030-01-01T12:00:00Z",
        },
    )
    body = answer.json()
    assert answer.status_code == 201, body
    assert (body["users"], body["groups"], body["run_as"]) == (["mei"], ["viewer"], ["app", "deploy-*"])
    assert (body["days"], body["starts_at"], body["version"], body["enabled"]) == ([0, 4], "08:00:00", 1, True)
    told_back = ("approvers", "grant_minutes", "mfa_minutes", "shell_user", "session_documents", "needs_moderator")
    assert [body[name] for name in told_back] == [["administrator"], 30, 15, "deploy", ["FleetOps-*"], True]
    rule = Rule.objects.get(pk=body["id"])
    assert list(rule.users.all()) == [mei] and rule.changed_by == "chief" and rule.needs_mfa
    assert str(rule.hours) == "Mon, Fri 08:00–18:30 Europe/Berlin"
    event = AuditEvent.objects.get(action="policy.rule.create", target_id=body["id"])
    assert (event.actor_name, event.source) == ("chief", "api") and event.details["via"].startswith("pipeline (fo_")
    assert chief.get(f"{RULES}{body['id']}/").json() == body
    assert body["url"].endswith(rule.get_absolute_url())


@pytest.mark.parametrize(
    ("more", "field", "words"),
    [
        ({"name": ""}, "name", "blank"),
        ({"name": "Prod"}, "name", "There is a rule “Prod” already"),
        ({"targets": "all"}, "confirm_all", "every instance"),
        ({"targets": "env=a or b=1 and c=2"}, "targets", "parentheses"),
        ({"deeds": ["fly"]}, "deeds.0", "not a valid choice"),
        ({"deeds": []}, "deeds", "at least one deed"),
        ({"groups": []}, "everybody", "Choose a group or a person"),
        ({"groups": ["kings"]}, "groups", "no role “kings”"),
        ({"users": ["nobody"]}, "users", "no user “nobody”"),
        ({"users": "mei"}, "users", "list"),
        ({"networks": ["here"]}, "networks", "here is no network"),
        ({"run_as": ["a b"]}, "run_as.0", "pattern"),
        ({"days": [7]}, "days.0", "6"),
        ({"days": [1]}, "starts_at", "Give both times"),
        ({"zone": "Mars/Base", "days": [1], "starts_at": "1:00", "ends_at": "2:00"}, "zone", "IANA"),
        ({"effect": "deny", "needs_mfa": True}, "effect", "A deny denies"),
        ({"role_arn": "oncall"}, "role_arn", "arn:aws:iam"),
        ({"needs_mfas": True}, "needs_mfas", "no such field"),
        ({"valid_from": "soon"}, "valid_from", "format"),
        ({"approvals": 99}, "approvals", "9"),
        ({"name": "a\x00b"}, "name", "Null"),
    ],
)
def test_what_cannot_be_a_rule_is_told_by_field_and_nothing_is_saved(chief, more, field, words):
    make()
    before = RuleRevision.objects.count()
    answer = chief.post(RULES, LEDGER | more)
    assert told(answer, 400)
    found = answer.json()["errors"]
    assert any(name == field or name.startswith(f"{field}.") or field.startswith(name) for name in found), found
    assert words in str(found), found
    assert RuleRevision.objects.count() == before


@pytest.mark.parametrize("missing", ["name", "effect", "deeds", "targets"])
def test_what_a_rule_must_have_is_asked_for(chief, missing):
    answer = chief.post(RULES, {name: value for name, value in LEDGER.items() if name != missing})
    assert told(answer, 400) and missing in answer.json()["errors"]


def test_a_part_of_a_rule_is_changed_and_the_rest_stays(chief):
    rule = make("Both", everybody=False, groups=[Group.objects.get(name="viewer")], needs_mfa=True)
    before = services.snapshot(rule)
    answer = chief.patch(f"{RULES}{rule.pk}/", '{"version": 1, "needs_reason": true}', content_type="application/json")
    assert answer.status_code == 200 and answer.json()["version"] == 2
    after = services.snapshot(Rule.objects.get(pk=rule.pk))
    assert services.difference(before, after) == [("needs_reason", False, True)]


def change(program, rule, **body):
    return program.patch(f"{RULES}{rule.pk}/", body, content_type="application/json")


def test_who_is_late_changes_and_deletes_nothing(chief):
    rule = make()
    services.set_enabled(rule, False, actor=make_user("eve"))
    for answer in (change(chief, rule, version=1, note="mine"), chief.delete(f"{RULES}{rule.pk}/?version=1")):
        assert "eve changed rule “Prod” meanwhile" in told(answer, 409)
    rule.refresh_from_db()
    assert rule.note == "" and rule.version == 2
    assert "version" in change(chief, rule, note="mine").json()["errors"]
    for query in ("", "?version=", "?version=x", "?version=²", "?version=9999999999"):
        assert told(chief.delete(f"{RULES}{rule.pk}/{query}"), 400)
    assert chief.delete(f"{RULES}{rule.pk}/?version=2").status_code == 204
    assert told(chief.get(f"{RULES}{rule.pk}/"), 404)
    history = chief.get("/api/v1/policy/history/", {"rule": str(rule.pk)}).json()["results"]
    assert [each["change"] for each in history] == ["delete", "disable", "create"] and history[0]["by"] == "chief"


def test_a_rule_that_is_for_all_stays_so_and_another_becomes_so_only_if_that_is_said(chief):
    wide, narrow = make("Wide", targets="all", confirmed=True), make()
    assert change(chief, wide, version=1, note="x").status_code == 200
    answer = change(chief, narrow, version=1, targets="all")
    assert told(answer, 400) and "confirm_all" in answer.json()["errors"]
    assert change(chief, narrow, version=1, targets="all", confirm_all=True).json()["targets"] == "all"


def test_a_rule_is_switched_off_and_on_as_often_as_one_likes(chief):
    rule = make()
    for enabled in (False, False, True):
        answer = chief.post(f"{RULES}{rule.pk}/enabled/", {"enabled": enabled})
        assert answer.status_code == 200 and answer.json()["enabled"] is enabled
    assert RuleRevision.objects.filter(rule_id=rule.pk).count() == 3
    assert told(chief.post(f"{RULES}{rule.pk}/enabled/", {"enabled": "perhaps"}), 400)


def test_rules_are_listed_and_filtered(auditor):
    make()
    make("Freeze", effect="deny", targets="cluster=db", note="Move", deeds=["shell", "associate"])
    make("Off", enabled=False)

    def names(**asked):
        return {row["name"] for row in auditor.get(RULES, asked).json()["results"]}

    assert len(names()) == 3 + len(services.DEFAULTS)
    assert names(q="freeze move") == {"Freeze"} and names(effect="deny") == {"Freeze"}
    assert names(deed="associate") == {"Freeze"} and names(enabled="false") == {"Off"}
    for query in ("effect=maybe", "deed=fly", "enabled=2", "page_size=0"):
        assert told(auditor.get(f"{RULES}?{query}"), 400)
    assert names(q="\x00") == names()


def test_who_may_only_read_changes_nothing_and_the_denial_is_audited(auditor):
    rule = make()
    for answer in (
        auditor.post(RULES, LEDGER),
        change(auditor, rule, version=1, note="x"),
        auditor.delete(f"{RULES}{rule.pk}/?version=1"),
        auditor.post(f"{RULES}{rule.pk}/enabled/", {"enabled": False}),
    ):
        assert "lacks the scope policy:write" in told(answer, 403)
    assert AuditEvent.objects.filter(outcome="denied", action="web.permission.refuse").count() == 4
    assert RuleRevision.objects.filter(rule_id=rule.pk).count() == 1


@pytest.mark.parametrize("role", ["viewer", "operator", "patch_owner"])
def test_who_may_not_read_the_policy_gets_none_of_it(bearer, role):
    user = make_user(role="administrator")
    program = bearer(user, "policy:read", "policy:write")
    user.groups.set([Group.objects.get(name=role)])
    rule = make()
    for path in (RULES, f"{RULES}{rule.pk}/", "/api/v1/policy/history/", f"{SIMULATE}?person=x&deed=shell"):
        assert "policy.view_rule" in told(program.get(path), 403)
    assert "policy.change_rule" in told(program.post(RULES, LEDGER), 403)


def test_what_is_not_there_is_a_404(chief):
    assert told(chief.get(f"{RULES}{uuid.uuid4()}/"), 404)
    assert told(chief.delete(f"{RULES}{uuid.uuid4()}/?version=1"), 404)
    assert told(chief.get("/api/v1/policy/history/?rule=x"), 400)


# Simulate


def test_a_simulation_says_whether_and_why(auditor):
    make_user("mei", role="operator")
    instance = make_instance(name="db-1", tags={"env": "prod"})
    make("No prod", effect="deny", note="Freeze")
    asked = {"person": "mei", "deed": "shell", "instance": "db-1"}
    body = auditor.get(SIMULATE, asked).json()
    assert body["allowed"] is False and "Rule “No prod” denies it: Freeze." in body["reasons"][0]
    assert {each["name"]: each["verdict"] for each in body["said"]} == {
        "No prod": "denies",
        "Operators and administrators open shells": "allows",
    }
    assert body["target"]["instance_id"] == instance.instance_id and body["others"] == 0
    Rule.objects.get(name="No prod").delete()
    make("Soft", effect="deny", networks=["10.0.0.0/8"])
    assert auditor.get(SIMULATE, asked | {"address": "192.0.2.1"}).json()["allowed"] is True
    assert auditor.get(SIMULATE, asked | {"address": "10.1.1.1"}).json()["allowed"] is False


def test_what_somebody_brings_can_be_supposed(auditor):
    Rule.objects.all().delete()
    make(needs_mfa=True, needs_reason=True, approvals=1, targets="all", confirmed=True)
    make_user("mei", role="operator")
    asked = {"person": "mei", "deed": "shell"}
    brought = {"has_mfa": "true", "has_reason": "true", "approvals": "1", "at": "2026-11-24T12:00:00Z"}
    body = auditor.get(SIMULATE, asked | brought).json()
    assert body["allowed"] is True and body["at"] == "2026-11-24T12:00:00Z"
    for name in ("has_mfa", "has_reason"):
        body = auditor.get(SIMULATE, asked | brought | {name: "false"}).json()
        assert body["allowed"] is False and body["unmet"] == [name.removeprefix("has_")]


def test_a_simulation_says_that_the_pages_would_not_get_them_there(auditor):
    make_user("nobody")
    make()
    body = auditor.get(SIMULATE, {"person": "nobody", "deed": "read_recording", "owner": "other"}).json()
    assert body["allowed"] is False and "sessions of others" in body["cannot_see"]
    own = auditor.get(SIMULATE, {"person": "nobody", "deed": "read_recording", "owner": "own"}).json()
    assert own["allowed"] is True


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"deed": "shell"}, "person"),
        ({"person": "who", "deed": "shell"}, "person"),
        ({"person": "aud", "deed": "fly"}, "deed"),
        ({"person": "aud", "deed": "shell", "at": "soon"}, "at"),
        ({"person": "aud", "deed": "shell", "address": "here"}, "address"),
        ({"person": "aud", "deed": "shell", "approvals": "-1"}, "approvals"),
        ({"person": "aud", "deed": "shell", "has_mfa": "0"}, "has_mfa"),
        ({"person": "aud", "deed": "shell", "has_mfaa": "true"}, "has_mfaa"),
        ({"person": "aud", "deed": "shell", "instance": "nil"}, "instance"),
        ({"person": "aud", "deed": "shell", "instance": "web"}, "instance"),
    ],
)
def test_a_question_that_makes_no_sense_is_told(auditor, asked, field):
    for name in ("web-1", "web-2"):
        make_instance(name=name)
    answer = auditor.get(SIMULATE, asked)
    assert told(answer, 400) and list(answer.json()["errors"]) == [field]


def test_nothing_is_written_by_a_simulation(auditor):
    auditor.get(SIMULATE, {"person": "aud", "deed": "shell"})
    before = (AuditEvent.objects.count(), list(Rule.objects.values_list("last_used_at", flat=True)))
    assert auditor.get(SIMULATE, {"person": "aud", "deed": "shell"}).status_code == 200
    assert (AuditEvent.objects.count(), list(Rule.objects.values_list("last_used_at", flat=True))) == before
