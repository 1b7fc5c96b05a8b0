"""Roles over the API: what they say, what they do, and what they refuse."""

from datetime import timedelta

import pytest

from fleetops.audit.models import AuditEvent
from fleetops.clock import now
from fleetops.roles import services
from fleetops.roles.catalogue.models import Making, Reading
from fleetops.roles.models import RoleAttachment, RoleRule
from fleetops.roles.services import Wish
from tests.api.conftest import bearer  # noqa: F401
from tests.factories import make_account, make_iam_role, make_instance, make_lease, make_role_finding, make_user

from .conftest import CORE, loop

pytestmark = pytest.mark.django_db
READ = '{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}}'
AT = "/api/v1/roles"


@pytest.fixture
def program(admin, bearer):  # noqa: F811
    return bearer(admin)


@pytest.fixture
def profiles(monkeypatch):
    """IAM knows each name that is asked for, without a call; the endpoint's own answer is tested in test_endpoint."""
    from fleetops.aws.profiles import Profile

    def found(access, region, name, *, session_name):
        return Profile(f"arn:aws:iam::111122223333:instance-profile/{name}", name, (name,), (f"arn:…:role/{name}",))

    monkeypatch.setattr("fleetops.roles.services.profiles.profile", found)


def ask(program, instance, **wanted):
    return program.post(f"{AT}/attachments/", {"instance": str(instance.pk), "minutes": 30, **wanted})


def test_a_lease_is_looked_at_asked_for_extended_and_ended(program, rule, aws, bare, profiles):
    looked = program.post(
        f"{AT}/attachments/look/", {"instance": str(bare.pk), "profile_name": "core", "minutes": 30}
    ).json()
    assert looked["rule"] == "All may" and looked["approvals"] == 0 and looked["before"] == ""
    assert not RoleAttachment.objects.exists()
    made = ask(program, bare, profile_name="core", reason="INC-1")
    assert made.status_code == 201, made.content
    told = made.json()
    assert (told["state"], told["profile_name"], told["asked_by"], told["instance_name"]) == (
        *("pending", "core"),
        *("mei", "bare"),
    )
    loop(3)
    one = f"{AT}/attachments/{told['id']}/"
    assert program.get(one).json()["state"] == "active" and aws.profile(bare.instance_id) == CORE
    assert program.post(f"{one}extend/", {"minutes": 1}).status_code == 400
    longer = program.post(f"{one}extend/", {"minutes": 90})
    assert longer.status_code == 200 and longer.json()["ends_at"] > told["ends_at"]
    ended = program.post(f"{one}end/", {"reason": "done"})
    assert ended.status_code == 202 and ended.json()["state"] == "ending"
    loop(3)
    assert program.get(one).json()["state"] == "ended" and aws.profile(bare.instance_id) == ""
    changes = program.get(f"{AT}/history/", {"instance": str(bare.pk)}).json()["results"]
    assert [(each["before"], each["after"], each["is_ours"]) for each in changes] == [
        ("core", "", True),
        ("", "core", True),
    ]


def test_for_good_is_said_and_never_meant_by_leaving_something_out(program, rule, aws, bare, profiles):
    silent = program.post(f"{AT}/attachments/", {"instance": str(bare.pk), "profile_name": "core"})
    assert silent.status_code == 400 and "minutes" in silent.json()["errors"]
    made = ask(program, bare, profile_name="core", minutes=None)
    assert made.status_code == 201 and made.json()["minutes"] is None and made.json()["ends_at"] is None


def test_a_detachment_that_cuts_the_agent_off_is_accepted_first(program, rule, aws):
    node = make_instance(name="node", profile_arn=CORE)
    refused = ask(program, node, minutes=None)
    assert refused.status_code == 400 and "25 to 30 minutes" in refused.json()["errors"]["cut_off_accepted"][0]
    assert ask(program, node, minutes=None, cut_off_accepted=True).json()["what"] == "no role"


def test_a_privilege_is_put_on_the_role_that_is_there(program, rule, aws):
    node = make_instance(name="node", profile_arn=CORE)
    wrong = ask(program, node, policy="{")
    assert wrong.status_code == 400 and "policy" in wrong.json()["errors"]
    both = ask(program, node, policy=READ, profile_name="core")
    assert both.status_code == 400 and "profile_name" in both.json()["errors"]
    made = ask(program, node, policy=READ, policy_name="read invoices").json()
    assert (made["kind"], made["policy_name"], made["profile_arn"]) == ("privilege", "read invoices", CORE)


def test_what_no_rule_allows_is_refused_and_audited(program, aws, bare, profiles):
    RoleRule.objects.all().delete()
    refused = ask(program, bare, profile_name="core")
    assert refused.status_code == 403 and "No rule lets" in refused.json()["detail"]
    assert AuditEvent.objects.filter(action="roles.ask.refuse", actor_name="mei").count() == 1


def test_the_list_is_filtered_and_costs_the_same_however_long(program, admin, rule, aws, django_assert_max_num_queries):
    for number in range(12):
        make_lease(make_instance(name=f"web-{number}", tags={"env": "prod" if number % 2 else "dev"}), user=admin)
    for_good = make_lease(make_instance(name="db"), user=admin, minutes=None)
    with django_assert_max_num_queries(12):
        rows = program.get(f"{AT}/attachments/").json()["results"]
    assert len(rows) == 13 and rows[0]["id"] == str(for_good.pk)
    for query, count in (
        ({"q": "env=prod"}, 6),
        ({"lease": "false"}, 1),
        ({"state": "ended"}, 0),
        ({"open": "true", "kind": "profile"}, 13),
        ({"open": "false"}, 0),
        ({"instance": str(for_good.instance_id)}, 1),
    ):
        assert len(program.get(f"{AT}/attachments/", query).json()["results"]) == count, query
    for wrong in ({"q": "env=("}, {"instance": "x"}, {"state": "x"}, {"open": "x"}):
        assert program.get(f"{AT}/attachments/", wrong).status_code == 400, wrong


def test_changes_from_outside_are_listed_and_decided_on(program, aws):
    first, second = make_role_finding(make_instance()), make_role_finding(make_instance())
    listed = program.get(f"{AT}/findings/").json()["results"]
    assert {each["id"] for each in listed} == {str(first.pk), str(second.pk)}
    assert (listed[0]["expected"], listed[0]["found"]) == ("ssm-core", "stranger")
    assert program.post(f"{AT}/findings/{first.pk}/put-back/").json()["state"] == "put_back"
    assert program.post(f"{AT}/findings/{second.pk}/accept/").json()["decided_by"] == "mei"
    assert program.post(f"{AT}/findings/{second.pk}/accept/").status_code == 409
    assert program.get(f"{AT}/findings/").json()["results"] == []
    assert len(program.get(f"{AT}/findings/", {"state": "accepted"}).json()["results"]) == 1


def test_anothers_lease_is_ended_by_who_may(bearer, admin, rule, aws, bare):  # noqa: F811
    lease = services.ask(bare, Wish(CORE, 10), actor=admin)
    omar = bearer(make_user("omar", role="operator"))
    assert omar.post(f"{AT}/attachments/{lease.pk}/end/").status_code == 403
    assert AuditEvent.objects.filter(action="roles.end.refuse", actor_name="omar").exists()
    reader = bearer(make_user("vera", role="viewer"))
    assert reader.get(f"{AT}/attachments/{lease.pk}/").status_code == 200
    assert ask(reader, bare, profile_name="core").status_code == 403


def test_a_rule_is_made_changed_and_deleted(program):
    RoleRule.objects.all().delete()
    make_instance(tags={"cluster": "ledger"}, profile_arn="arn:aws:iam::111122223333:instance-profile/ledger-db")
    made = program.post(
        f"{AT}/rules/",
        {"name": "Ledger", "targets": "cluster=ledger", "profile_name": "ledger-*", "approvers": ["auditor"]},
    )
    assert made.status_code == 201, made.content
    rule = made.json()
    assert (rule["most_minutes"], rule["mode"], rule["is_enabled"]) == (60, "may", True)
    assert (rule["approvers"], rule["matching"], rule["in_use"]) == (["auditor"], 1, 1)
    one = f"{AT}/rules/{rule['id']}/"
    changed = program.patch(one, {"version": 1, "approvals": 2}, content_type="application/json")
    assert changed.status_code == 200 and changed.json()["approvals"] == 2
    assert (changed.json()["version"], changed.json()["approvers"]) == (2, ["auditor"])
    assert program.patch(one, {"version": 1, "approvals": 0}, content_type="application/json").status_code == 409
    for wrong, field in (
        ({"version": 2, "targets": "env=("}, "targets"),
        ({"version": 2, "mode": "must"}, "profile_name"),
        ({"version": 2, "approvers": ["nobody"]}, "approvers"),
        ({"approvals": 1}, "version"),
    ):
        answer = program.patch(one, wrong, content_type="application/json")
        assert answer.status_code == 400 and field in answer.json()["errors"], answer.content
    assert len(program.get(f"{AT}/rules/", {"mode": "may"}).json()["results"]) == 1
    assert program.get(f"{AT}/rules/", {"is_enabled": "false"}).json()["results"] == []
    assert program.delete(f"{one}?version=1").status_code == 409
    assert program.delete(f"{one}?version=2").status_code == 204
    assert not RoleRule.objects.exists()


def test_the_catalogue_and_the_standard_role(program, django_assert_max_num_queries):
    account, other = make_account(), make_account("444455556666")
    role = make_iam_role(account, "fleetops-ssm-core", trust='{"Statement": []}')
    Reading.objects.create(account=account, read_at=now() - timedelta(minutes=1))
    with django_assert_max_num_queries(12):
        listed = program.get(f"{AT}/catalogue/", {"account": "111122223333"}).json()["results"]
    assert [(each["name"], each["profiles"]) for each in listed] == [("fleetops-ssm-core", ["fleetops-ssm-core"])]
    assert program.get(f"{AT}/catalogue/", {"name": "nothing"}).json()["results"] == []
    whole = program.get(f"{AT}/catalogue/{role.pk}/").json()
    repairs = [each["repair"] for each in whole["differences"]]
    assert len(repairs) == 2
    assert program.post(f"{AT}/catalogue/{role.pk}/right/", {"changes": repairs[:1]}).status_code == 409
    right = program.post(f"{AT}/catalogue/{role.pk}/right/", {"changes": repairs})
    assert right.status_code == 202 and right.json()["puts_right"]
    strange = program.post(f"{AT}/standard/", {"accounts": ["999900001111"]})
    assert strange.status_code == 400 and "999900001111" in strange.json()["detail"]
    made = program.post(f"{AT}/standard/", {"accounts": ["444455556666"]})
    assert made.status_code == 202 and [each["account_id"] for each in made.json()] == ["444455556666"]
    assert Making.objects.get(account=other).asked_by_name == "mei"
    standing = {each["account_id"]: each for each in program.get(f"{AT}/standard/").json()}
    assert standing["444455556666"]["making"]["state"] == "waiting" and standing["111122223333"]["role"] == str(role.pk)
