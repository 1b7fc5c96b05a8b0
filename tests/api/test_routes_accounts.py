"""Accounts over the API: added, changed, checked, switched and removed by the rules of their pages."""

import uuid

import pytest
from django.contrib.auth.models import Permission

from fleetops.audit.models import AuditEvent
from fleetops.inventory import account_checks, accounts
from fleetops.inventory.account_rules import AccountFacts
from fleetops.inventory.accounts import facts_of
from fleetops.inventory.models import Account, AccountCheck
from fleetops.inventory.states import CheckState
from tests.api.test_tokens import told
from tests.factories import make_account, make_instance, make_region, make_session, make_user
from tests.inventory.test_accounts import certificate

pytestmark = pytest.mark.usefixtures("roles", "valkey")
LIST = "/api/v1/accounts/"
NUMBER = "222233334444"
ROLE = f"arn:aws:iam::{NUMBER}:role/FleetOps"
PAYMENTS = {
    "account_id": NUMBER,
    "name": "payments",
    "regions": ["eu-west-1"],
    "role_arn": ROLE,
    "external_id": "fleetops-7a4c",
}


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """No worker in these tests: who would carry out checks is told nothing, and remembered."""
    found = []
    monkeypatch.setattr("fleetops.inventory.tasks.check_account.delay", found.append)
    return found


@pytest.fixture
def chief(bearer):
    return bearer(make_user("chief", role="administrator"))


def payments(**changes) -> Account:
    given = PAYMENTS | {"regions": ("eu-west-1",)} | changes
    return accounts.add_account(AccountFacts(**given), actor="tests")


def change(program, account, **body):
    return program.patch(f"{LIST}{account.pk}/", body, content_type="application/json")


def test_an_account_is_added_and_its_connection_is_checked(chief, asked):
    answer = chief.post(LIST, PAYMENTS)
    body = answer.json()
    assert answer.status_code == 201, body
    assert (body["role_arn"], body["external_id"], body["regions"], body["enabled"]) == (
        ROLE,
        "fleetops-7a4c",
        ["eu-west-1"],
        True,
    )
    assert body["check"]["state"] == "waiting" and body["instances"] == 0
    assert asked == [str(AccountCheck.objects.get().pk)]
    event = AuditEvent.objects.get(action="inventory.account.add")
    assert (event.actor_name, event.source) == ("chief", "api") and event.details["via"].startswith("pipeline (fo_")
    assert chief.get(f"{LIST}{body['id']}/").json() == body
    assert {"id": body["id"], "account_id": NUMBER, "name": "payments", "regions": ["eu-west-1"]} in chief.get(
        LIST
    ).json()["results"]


@pytest.mark.parametrize(
    ("more", "field", "words"),
    [
        ({"account_id": "22"}, "account_id", "twelve digits"),
        ({"account_id": "111122223333", "role_arn": "", "external_id": ""}, "account_id", "linked already"),
        ({"name": ""}, "name", "blank"),
        ({"name": "Main"}, "name", "already"),
        ({"regions": []}, "regions", "at least one region"),
        ({"regions": ["eu-west-9"]}, "regions", "eu-west-9"),
        ({"regions": ["mars"]}, "regions", "mars"),
        ({"regions": "eu-west-1"}, "regions", "list"),
        ({"regions": ["eu-west-1", "cn-north-1"]}, "regions", "one partition"),
        ({"role_arn": "admin"}, "role_arn", "no role's ARN"),
        ({"role_arn": "arn:aws:iam::999988887777:role/x"}, "role_arn", "999988887777"),
        ({"external_id": "a b"}, "external_id", "no blanks"),
        ({"profile": "AKIA: secret"}, "profile", "keys are not kept"),
        ({"endpoint_url": "http://ssm.example.com"}, "endpoint_url", "Use https"),
        ({"ca_pem": "x"}, "ca_pem", "endpoint address"),
        ({"stream_hosts": ["here"]}, "stream_hosts", "HOST:PORT"),
        ({"secret_access_key": "x"}, "secret_access_key", "no such field"),
    ],
)
def test_what_is_no_account_is_told_by_field_and_nothing_is_kept(chief, asked, more, field, words):
    make_account(name="main")
    answer = chief.post(LIST, PAYMENTS | {"account_id": NUMBER} | more)
    assert told(answer, 400)
    assert words in " ".join(answer.json()["errors"][field]), answer.json()
    assert Account.objects.count() == 1 and asked == []


def test_a_private_key_is_refused_and_not_repeated(chief):
    pem = certificate() + "-----BEGIN PRIVATE KEY-----\nMIIB0451\n-----END PRIVATE KEY-----\n"
    answer = chief.post(LIST, PAYMENTS | {"endpoint_url": "https://ssm.example.com", "ca_pem": pem})
    assert "must stay where it was made" in told(answer, 400) and b"0451" not in answer.content
    assert not any("0451" in str(vars(event)) for event in AuditEvent.objects.all())


def test_a_part_of_an_account_is_changed_and_the_rest_stays(chief):
    account = payments(endpoint_url="https://ssm.example.com", ca_pem=certificate())
    before = facts_of(account)
    body = change(chief, account, name="pay", regions=["eu-west-1", "us-east-1"]).json()
    assert (body["name"], body["regions"], body["role_arn"]) == ("pay", ["eu-west-1", "us-east-1"], ROLE)
    account.refresh_from_db()
    after = facts_of(account)
    assert (after.ca_pem, after.stream_hosts) == (before.ca_pem, ("ssm.example.com:443",))
    event = AuditEvent.objects.get(action="inventory.account.update")
    assert event.details["before"] == {"name": "payments"} and event.details["after"] == {"name": "pay"}
    for wrong in ({"account_id": "111122223333"}, {"enabled": False}, {"regions": []}, {"role_arn": "x"}):
        assert told(change(chief, account, **wrong), 400)


def test_as_whom_fleetops_acts_is_said_by_who_administers_alone(bearer):
    helper = make_user("helper")
    for name in ("view_account", "change_account", "add_account"):
        helper.user_permissions.add(Permission.objects.get(codename=name))
    program = bearer(helper, "accounts:read", "accounts:write")
    account = payments()
    assert "identity.administer" in told(change(program, account, role_arn=f"{ROLE}2"), 403)
    other = PAYMENTS | {"account_id": "333344445555", "name": "other", "role_arn": ROLE.replace(NUMBER, "333344445555")}
    assert "identity.administer" in told(program.post(LIST, other), 403)
    assert AuditEvent.objects.filter(outcome="denied").count() == 2
    assert change(program, account, name="pay").json()["name"] == "pay"
    account.refresh_from_db()
    assert account.role_arn == ROLE and Account.objects.count() == 1
    assert "inventory.delete_account" in told(program.delete(f"{LIST}{account.pk}/?confirm={NUMBER}"), 403)


def test_of_an_embedded_account_the_connection_is_not_changed(chief):
    account = make_account(is_embedded=True)
    make_region(account=account)
    assert "comes from the embedded endpoint" in told(change(chief, account, endpoint_url="https://x.example.com"), 409)
    assert change(chief, account, name="demo").json()["name"] == "demo"
    assert "would come back" in told(chief.delete(f"{LIST}{account.pk}/?confirm={account.account_id}"), 409)


def test_an_account_is_removed_once_it_is_disabled_by_who_names_its_number(chief):
    account = payments()
    session = make_session(user=make_user("mei", role="operator"), instance=make_instance(region=account.regions.get()))
    path = f"{LIST}{account.pk}/"
    for query in ("", "?confirm=", "?confirm=111122223333"):
        assert list(chief.delete(path + query).json()["errors"]) == ["confirm"]
    assert "Disable payments first" in told(chief.delete(f"{path}?confirm={NUMBER}"), 409)
    for _ in range(2):
        assert chief.post(f"{path}enabled/", {"enabled": False}).json()["enabled"] is False
    assert AuditEvent.objects.filter(action="inventory.account.disable").count() == 1
    assert "has a shell open" in told(chief.delete(f"{path}?confirm={NUMBER}"), 409)
    type(session).objects.update(state="ended")
    assert chief.delete(f"{path}?confirm={NUMBER}").status_code == 204
    assert told(chief.get(path), 404) and not Account.objects.exists()


def test_a_check_is_asked_for_once_and_told_permission_by_permission(chief, asked):
    account = payments()
    path = f"{LIST}{account.pk}/check/"
    assert told(chief.get(path), 404)  # it was never checked
    first, again = chief.post(path), chief.post(path)
    assert first.status_code == again.status_code == 202 and first.json()["id"] == again.json()["id"]
    assert asked == [first.json()["id"]] * 2
    check = AccountCheck.objects.get()
    body = chief.get(path).json()
    assert body["word"] == "Checking" and body["works"] is False
    assert {row["result"] for row in body["rows"]} == {"waiting"} and body["rows"][0]["region"] == "eu-west-1"
    check.rows.update(result="ok")
    check.rows.filter(action="ssm:StartSession").update(result="denied", text="No shell can be opened.")
    AccountCheck.objects.update(state=CheckState.DONE)
    body = chief.get(path).json()
    assert (body["word"], body["missing"]) == ("Permission missing", ["ssm:StartSession"])
    assert chief.get(f"{LIST}{account.pk}/").json()["check"]["missing"] == ["ssm:StartSession"]
    account.regions.update(enabled=False)
    assert "nothing to check" in told(chief.post(path), 409)


def test_who_sees_the_fleet_does_not_see_as_whom_fleetops_acts(bearer):
    account = payments()
    account_checks.ask(account, actor="tests")
    viewer = bearer(make_user(role="viewer"))
    assert b"FleetOps" not in viewer.get(LIST).content and b"7a4c" not in viewer.get(LIST).content
    for path in ("", "check/"):
        assert "lacks the scope accounts:read" in told(viewer.get(f"{LIST}{account.pk}/{path}"), 403)
    demoted = make_user(role="administrator")
    program = bearer(demoted, "accounts:read", "accounts:write")
    demoted.groups.clear()
    assert "inventory.view_account" in told(program.get(f"{LIST}{account.pk}/"), 403)
    assert "inventory.add_account" in told(program.post(LIST, PAYMENTS), 403)
    assert "inventory.change_account" in told(program.post(f"{LIST}{account.pk}/enabled/", {"enabled": False}), 403)
    assert Account.objects.get().enabled


def test_what_is_not_there_is_a_404(chief):
    for path in ("", "check/"):
        assert told(chief.get(f"{LIST}{uuid.uuid4()}/{path}"), 404)
    assert told(chief.delete(f"{LIST}{uuid.uuid4()}/"), 404)
    assert told(chief.post(f"{LIST}{payments().pk}/enabled/", {}), 400)
