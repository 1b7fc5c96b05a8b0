"""The connection check against the real endpoint: what works, and in words what does not."""

import dataclasses
import json
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from botocore import auth as botocore_auth
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fleetops.audit.models import AuditEvent
from fleetops.aws import permissions, probes
from fleetops.clock import now
from fleetops.errors import UserError
from fleetops.inventory import account_checks
from fleetops.inventory.account_checks import verdict
from fleetops.inventory.models import AccountCheck, Instance, Region
from fleetops.inventory.services import write_profiles
from fleetops.inventory.states import CheckState
from tests.factories import make_account, make_region, make_user

pytestmark = pytest.mark.django_db


def checked(account, **facts):
    """The check of `account` with some facts of its access changed, carried out; by action, and the verdict."""
    for name, value in facts.items():
        setattr(account, name, value)
    account.save()
    check = account_checks.ask(account, actor="tests")
    account_checks.carry_out(check.pk)
    check.refresh_from_db()
    assert check.state == CheckState.DONE
    rows = list(check.rows.all())
    return {row.action: row for row in rows}, verdict(check, rows, now=now())


def results(rows) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for action, row in rows.items():
        found.setdefault(row.result, set()).add(action)
    return found


def a_ca() -> str:
    """A CA that signed nothing."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Other")])
    begin = datetime.now(UTC) - timedelta(days=1)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()


# --- what works ---


def test_all_that_fleetops_needs_is_there_in_both_accounts_and_all_regions(all_linked):
    for account in all_linked:
        check = account_checks.ask(account, actor="tests")
        assert check.rows.count() == account.regions.count() * (len(permissions.PERMISSIONS) + 4)
        account_checks.carry_out(check.pk)
        rows = list(check.rows.all())
        assert {(row.action, row.text) for row in rows if row.result != "ok"} == set()
        check.refresh_from_db()
        found = verdict(check, rows, now=now())
        assert (found.kind, found.word, found.allowed) == ("ok", "Works", len(rows))
        assert check.caller_arn == f"arn:aws:iam::{account.account_id}:user/fleetops"
        account.refresh_from_db()
        assert account.region_states["eu-west-1"] is True and account.region_states["eu-south-2"] is False


def test_under_the_generated_policy_all_is_allowed_and_without_one_action_that_one_is_missing(linked, endpoint):
    iam, account = endpoint.client("iam"), linked.account_id
    name = f"Generated{uuid.uuid4().hex[:6]}"
    arn = f"arn:aws:iam::{account}:role/{name}"
    trust = permissions.trust_policy(f"arn:aws:iam::{account}:user/fleetops", "own-id")
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))
    iam.put_user_policy(
        UserName="fleetops", PolicyName=name, PolicyDocument=json.dumps(permissions.caller_policy([arn]))
    )
    policy = permissions.policy(account, role=arn)
    iam.put_role_policy(RoleName=name, PolicyName="fleetops", PolicyDocument=json.dumps(policy))
    rows, found = checked(linked, role_arn=arn, external_id="own-id")
    assert results(rows) == {"ok": set(rows)} and found.word == "Works"

    for statement in policy["Statement"]:
        statement["Action"] = [each for each in statement["Action"] if each != "ssm:TerminateSession"]
    iam.put_role_policy(RoleName=name, PolicyName="fleetops", PolicyDocument=json.dumps(policy))
    rows, found = checked(linked)
    assert results(rows)["denied"] == {"ssm:TerminateSession"} and (found.kind, found.word) == (
        "warn",
        "Permission missing",
    )
    assert found.missing == ("ssm:TerminateSession",)
    assert "keeps the session until its time-out" in rows["ssm:TerminateSession"].text

    only = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "ec2:DescribeInstances", "Resource": "*"}],
    }
    iam.put_role_policy(RoleName=name, PolicyName="fleetops", PolicyDocument=json.dumps(only))
    rows, found = checked(linked)
    assert results(rows)["denied"] >= {"ssm:DescribeInstanceInformation", "ssm:DescribeSessions", "ec2:DescribeRegions"}
    # Without the simulator these show themselves only when they are used; the check does not guess.
    unread = {each.action for each in permissions.PERMISSIONS} - probes.READS.keys() - {"iam:SimulatePrincipalPolicy"}
    assert results(rows)["unknown"] == unread >= {"ssm:StartSession", "ssm:TerminateSession"}
    assert "simulator could tell, and does not" in rows["ssm:ListTagsForResource"].text
    assert "ec2:DescribeRegions" not in found.missing, "FleetOps works without it"


def test_a_hybrid_nodes_tags_are_read_where_there_is_a_node(linked):
    region = linked.regions.get()
    Instance.objects.create(account=linked, region=region, instance_id="mi-e1ed0650a3bc935bb")
    rows, _ = checked(linked)
    assert rows["ssm:ListTagsForResource"].result == "ok" and rows["ssm:ListTagsForResource"].text == ""


# --- what does not, in words ---


@pytest.mark.parametrize("external_id", ["", "northwind-guess"])
def test_a_wrong_external_id_is_told_with_who_asked_and_what_to_look_at(all_linked, external_id):
    account = all_linked[1]
    rows, found = checked(account, external_id=external_id)
    text = rows["sts:AssumeRole"].text
    assert (found.kind, found.word) == ("bad", "Role refused")
    assert "does not let arn:aws:iam::444455556666:user/fleetops assume" in text
    assert ("none is given here" if not external_id else "not the one that it asks for") in text
    assert rows["ssm:StartSession"].result == "skipped" and rows["sts:GetCallerIdentity"].result == "ok"


def test_a_trust_policy_that_forgets_the_session_tags_is_told(linked, endpoint):
    iam, name = endpoint.client("iam"), f"Untagged{uuid.uuid4().hex[:6]}"
    trust = permissions.trust_policy(f"arn:aws:iam::{linked.account_id}:user/fleetops")
    trust["Statement"][0]["Action"] = ["sts:AssumeRole"]
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))
    policy = json.dumps(permissions.policy(linked.account_id))
    iam.put_role_policy(RoleName=name, PolicyName="fleetops", PolicyDocument=policy)
    rows, found = checked(linked, role_arn=f"arn:aws:iam::{linked.account_id}:role/{name}")
    assert results(rows)["denied"] >= {"sts:TagSession", "sts:SetSourceIdentity"}
    assert "let the role's trust policy allow sts:SetSourceIdentity" in rows["sts:SetSourceIdentity"].text
    assert found.kind == "warn"


def test_a_ca_that_did_not_sign_the_endpoints_certificate(linked):
    rows, found = checked(linked, ca_pem=a_ca())
    assert "is not signed by the account's CA" in rows["sts:GetCallerIdentity"].text
    assert (found.kind, found.word) == ("bad", "Does not connect")
    assert results(rows)["skipped"] == set(rows) - {"sts:GetCallerIdentity"}


def test_an_endpoint_that_is_not_there(linked):
    rows, found = checked(linked, endpoint_url="https://127.0.0.1:1")
    assert "https://127.0.0.1:1 cannot be reached" in rows["sts:GetCallerIdentity"].text
    assert found.word == "Does not connect"


def test_a_region_that_is_off_is_told_apart_from_credentials_that_are_wrong(linked, home):
    Region.objects.create(account=linked, name="eu-south-2")
    check = account_checks.ask(linked, actor="tests")
    account_checks.carry_out(check.pk)
    (row,) = check.rows.filter(region="eu-south-2", action="sts:GetCallerIdentity")
    assert row.result == "broken" and row.text.startswith("eu-south-2 is off in this account")
    assert "Turn the region on in AWS" in row.text
    assert set(check.rows.filter(region="eu-west-1").values_list("result", flat=True)) == {"ok"}


def test_credentials_that_aws_does_not_know(linked, home):
    write_profiles(home / "aws" / "credentials", {"fleetops-unknown": ("AKIAUNKNOWNUNKNOWN00", "x" * 40)})
    rows, _ = checked(linked, profile="fleetops-unknown")
    text = rows["sts:GetCallerIdentity"].text
    assert "does not accept the credentials" in text and "check the access key" in text
    rows, _ = checked(linked, profile="nobody-wrote-it")
    assert "'nobody-wrote-it' is to be had" in rows["sts:GetCallerIdentity"].text


def test_credentials_of_another_account(all_linked):
    first, second = all_linked
    rows, found = checked(first, role_arn="", profile=second.profile)
    text = rows["sts:GetCallerIdentity"].text
    assert "which is in account 444455556666 and not in 111122223333" in text
    assert found.word == "Does not connect" and rows["ec2:DescribeInstances"].result == "skipped"
    assert "sts:AssumeRole" not in rows, "there is no role to assume"


def test_a_clock_that_is_wrong(linked, monkeypatch):
    late = datetime.now(UTC).replace(tzinfo=None) - timedelta(hours=1)
    monkeypatch.setattr(botocore_auth, "get_current_datetime", lambda remove_tzinfo=True: late)
    rows, _ = checked(linked)
    assert "set this machine's clock right" in rows["sts:GetCallerIdentity"].text


# --- one at a time, and what is left of them ---


def test_one_check_at_a_time_and_a_lost_one_gives_way(roles):
    account = make_region().account
    first = account_checks.ask(account, actor=make_user("chief"))
    assert account_checks.ask(account, actor="tests") == first
    assert first.asked_by == "chief"
    AccountCheck.objects.update(created_at=now() - account_checks.LONGEST)
    first.refresh_from_db()
    assert verdict(first, [], now=now()).word == "Check lost"
    second = account_checks.ask(account, actor="tests")
    first.refresh_from_db()
    assert second != first and (first.state, first.error[:10]) == ("failed", "The worker")
    assert AuditEvent.objects.filter(action="inventory.account.check", account_id=account.account_id).count() == 2


def test_a_check_that_was_taken_is_not_carried_out_again_and_old_ones_go(linked):
    for _ in range(account_checks.KEPT + 2):
        check = account_checks.ask(linked, actor="tests")
        AccountCheck.objects.filter(pk=check.pk).update(state=CheckState.DONE)
    assert linked.checks.count() == account_checks.KEPT
    check = account_checks.ask(linked, actor="tests")
    AccountCheck.objects.filter(pk=check.pk).update(state=CheckState.RUNNING)
    account_checks.carry_out(check.pk)
    check.refresh_from_db()
    assert (check.state, set(check.rows.values_list("result", flat=True).distinct().order_by())) == (
        "running",
        {"waiting"},
    )


def test_giving_up_says_why(linked):
    check = account_checks.ask(linked, actor="tests")
    account_checks.give_up(check.pk, "AWS did not answer within three minutes.")
    check.refresh_from_db()
    assert (check.state, check.error) == ("failed", "AWS did not answer within three minutes.")
    assert verdict(check, [], now=now()).word == "Check failed"
    account_checks.give_up(uuid.uuid4(), "gone meanwhile")


def test_without_a_region_there_is_nothing_to_check(db):
    with pytest.raises(UserError, match="Turn one on first"):
        account_checks.ask(make_account(), actor="tests")
    assert dataclasses.is_dataclass(verdict(None, [], now=now())) and verdict(None, [], now=now()).word == "Not checked"
