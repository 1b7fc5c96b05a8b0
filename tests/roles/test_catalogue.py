"""The mirror of IAM and the standard role: pure words, and everything else against the real endpoint."""

import json
from datetime import timedelta

import pytest

from fleetops.audit.models import AuditEvent
from fleetops.aws.clients import forget_clients
from fleetops.clock import now
from fleetops.errors import Denied, UserError
from fleetops.roles.catalogue import services, standard, tasks, words
from fleetops.roles.catalogue.models import Making, Profile, Reading, Role
from tests.factories import make_user
from tests.inventory.conftest import link_all
from tests.support.endpoint import running_endpoint
from tests.support.faults import Faults

CORE = {"name": words.CORE_POLICY, "arn": words.core_arn("aws"), "text": ""}


def policy(*actions: str, effect: str = "Allow", name: str = "own") -> dict[str, str]:
    statement = {"Effect": effect, "Action": list(actions), "Resource": "*"}
    return {"name": name, "arn": "", "text": json.dumps({"Version": "2012-10-17", "Statement": [statement]})}


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policies", "lacks", "said"),
    [
        ([CORE], [], "the agent, nothing else"),
        ([CORE, policy("s3:GetObject", "s3:ListBucket")], [], "the agent, S3 read"),
        ([CORE, policy("s3:GetObject", "s3:PutObject", "kms:Decrypt")], [], "the agent, KMS, S3"),
        ([policy("*")], [], "everything"),
        ([policy("s3:GetObject", effect="Deny"), CORE], [], "the agent, nothing else"),
        ([policy("s3:GetObject")], list(words.CORE_ACTIONS), "no agent, S3 read"),
        ([policy("ssm:GetDocument")], ["ssm:UpdateInstanceInformation"], "the agent only in part: it cannot connect"),
        ([CORE], ["ssm:GetManifest"], f"the agent without 1 of {len(words.CORE_ACTIONS)} actions, nothing else"),
        ([CORE], None, "not asked yet, nothing else"),
        ([{"name": "Hidden", "arn": "arn:aws:iam::aws:policy/Hidden", "text": ""}], [], "the agent, Hidden"),
    ],
)
def test_what_a_role_allows_in_words(policies, lacks, said):
    assert words.allows(policies, lacks).startswith(said)


def test_many_services_are_counted():
    said = words.allows([policy(*(f"{name}:Do" for name in ("a", "b", "c", "d", "e", "f")))], [])
    assert said == "the agent, a, b, c, d, 2 more services"


def test_the_standard_roles_trust_is_recognised_in_any_spelling():
    spelled = {"Statement": {"Sid": "x", "Effect": "Allow", "Action": ["sts:AssumeRole"]}}
    spelled["Statement"]["Principal"] = {"Service": ["ec2.amazonaws.com"]}
    assert words.is_standard_trust(json.dumps(spelled), "aws") and words.trusts_ec2(json.dumps(spelled))
    assert not words.is_standard_trust(json.dumps(spelled), "aws-cn")
    spelled["Statement"]["Principal"]["Service"].append("lambda.amazonaws.com")
    assert not words.is_standard_trust(json.dumps(spelled), "aws") and words.trusts_ec2(json.dumps(spelled))
    assert not words.trusts_ec2('{"Statement": "none"}') and not words.trusts_ec2("no JSON")


def test_a_lease_on_the_standard_role_is_no_difference():
    trust = json.dumps(words.trust("aws"))
    lease = {"name": "fleetops-lease-1", "arn": "", "text": ""}
    assert words.differences(trust, [CORE, lease], "", "aws") == []
    found = words.differences('{"Statement": []}', [policy("s3:*")], "arn:aws:iam::1:policy/b", "aws")
    assert [each.what for each in found] == ["trust", "missing", "extra", "boundary"]
    assert [bool(each.repair) for each in found] == [True, True, True, False]


# --- against the endpoint --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    with running_endpoint(tmp_path_factory.mktemp("catalogue") / "endpoint") as running:
        yield running


@pytest.fixture
def account(roles, endpoint):
    account, *_ = link_all(endpoint)
    type(account).objects.exclude(pk=account.pk).update(enabled=False)
    yield account
    iam = endpoint.client("iam")
    for role in iam.list_roles()["Roles"]:
        if role["RoleName"] == words.STANDARD:
            _delete(iam)
    forget_clients()


def _delete(iam) -> None:
    for profile in iam.list_instance_profiles()["InstanceProfiles"]:
        for role in profile["Roles"]:
            if profile["InstanceProfileName"] == words.STANDARD:
                iam.remove_role_from_instance_profile(InstanceProfileName=words.STANDARD, RoleName=role["RoleName"])
        if profile["InstanceProfileName"] == words.STANDARD:
            iam.delete_instance_profile(InstanceProfileName=words.STANDARD)
    for each in iam.list_attached_role_policies(RoleName=words.STANDARD)["AttachedPolicies"]:
        iam.detach_role_policy(RoleName=words.STANDARD, PolicyArn=each["PolicyArn"])
    for each in iam.list_role_policies(RoleName=words.STANDARD)["PolicyNames"]:
        iam.delete_role_policy(RoleName=words.STANDARD, PolicyName=each)
    iam.delete_role(RoleName=words.STANDARD)


@pytest.fixture
def faults(endpoint):
    made = Faults(endpoint.handover)
    yield made
    made.delete()


def read() -> None:
    Reading.objects.update(claimed_until=None)
    for pk in services.claim_due(at=now()):
        services.read(pk, at=now())


def make() -> None:
    for pk in standard.claim_due(at=now()):
        standard.work(pk)


@pytest.mark.django_db
def test_roles_for_ec2_are_mirrored_with_what_they_allow(account, endpoint):
    read()
    core = Role.objects.get(name="ssm-core")
    assert core.is_simulated and core.lacks == []
    assert [each["name"] for each in core.policies if each["arn"]] == [words.CORE_POLICY]
    assert "ssm:UpdateInstanceInformation" in next(each["text"] for each in core.policies if each["arn"])
    assert Profile.objects.get(name="ssm-core").role == core
    assert not Role.objects.filter(name="ssm-hybrid").exists(), "SSM may assume it, EC2 may not"
    # Nothing is due, and another reading asks nobody about policies that are the same.
    assert services.claim_due(at=now()) == []
    asked = core.simulated_at
    services.ask_again(account, at=now())
    read()
    core.refresh_from_db()
    assert core.simulated_at == asked


@pytest.mark.django_db
def test_a_reading_that_fails_says_so_and_keeps_what_was_read(account, faults):
    read()
    there = Role.objects.count()
    faults.put("no", "error", match={"operation": "GetAccountAuthorizationDetails"}, code="AccessDenied", status=403)
    services.ask_again(account, at=now())
    read()
    reading = Reading.objects.get()
    assert "GetAccountAuthorizationDetails" in reading.error or "AccessDenied" in reading.error
    assert Role.objects.count() == there
    assert services.claim_due(at=now() + timedelta(seconds=61)) == [reading.pk], "it is tried again"


@pytest.mark.django_db
def test_the_standard_role_is_made_once_and_found_complete(account, endpoint):
    mei = make_user("mei", role="administrator")
    standard.ask([account], actor=mei)
    make()
    making = Making.objects.get()
    assert (making.state, making.words) == ("done", "")
    assert len(making.steps) == 4
    iam = endpoint.client("iam")
    profile = iam.get_instance_profile(InstanceProfileName=words.STANDARD)["InstanceProfile"]
    assert [each["RoleName"] for each in profile["Roles"]] == [words.STANDARD]
    read()
    [found] = services.standing()
    assert (found["word"], found["is_there"], found["differences"]) == ("there", True, [])
    standard.ask([account], actor=mei)
    make()
    making.refresh_from_db()
    assert (making.state, making.steps) == ("done", []), "all was there"
    done = AuditEvent.objects.filter(action__startswith="roles.standard.").values_list("action", flat=True)
    assert sorted(done) == ["roles.standard.done"] * 2 + ["roles.standard.make"] * 2


@pytest.mark.django_db
@pytest.mark.parametrize(
    "operation", ["CreateRole", "AttachRolePolicy", "CreateInstanceProfile", "AddRoleToInstanceProfile"]
)
def test_a_step_that_aws_refuses_is_told_and_gone_on_from(account, faults, operation):
    mei = make_user("mei", role="administrator")
    faults.put("no", "error", match={"operation": operation}, code="AccessDenied", status=403)
    standard.ask([account], actor=mei)
    make()
    making = Making.objects.get()
    assert making.state == "failed" and making.words and making.claimed_until is None
    faults.delete("no")
    before = len(making.steps)
    standard.ask([account], actor=mei)
    make()
    making.refresh_from_db()
    assert (making.state, len(making.steps)) == ("done", 4 - before)


@pytest.mark.django_db
def test_a_worker_that_died_is_followed_by_another(account):
    standard.ask([account], actor=make_user("mei", role="administrator"))
    [taken] = standard.claim_due(at=now())
    assert standard.claim_due(at=now()) == []
    Making.objects.update(state="running")
    assert standard.claim_due(at=now() + 2 * standard.CLAIM) == [taken]
    standard.work(taken)
    assert Making.objects.get().state == "done"


@pytest.mark.django_db
def test_a_name_that_is_taken_by_something_else_is_refused(account, endpoint):
    mei = make_user("mei", role="administrator")
    iam = endpoint.client("iam")
    trust = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole"}]}
    trust["Statement"][0]["Principal"] = {"Service": "lambda.amazonaws.com"}
    iam.create_role(RoleName=words.STANDARD, AssumeRolePolicyDocument=json.dumps(trust))
    standard.ask([account], actor=mei)
    make()
    making = Making.objects.get()
    assert making.state == "failed" and "for something else" in making.words and making.steps == []
    assert iam.list_attached_role_policies(RoleName=words.STANDARD)["AttachedPolicies"] == []


@pytest.mark.django_db
def test_what_differs_is_shown_and_put_right_as_it_was_shown(account, endpoint):
    mei = make_user("mei", role="administrator")
    standard.ask([account], actor=mei)
    make()
    iam = endpoint.client("iam")
    iam.detach_role_policy(RoleName=words.STANDARD, PolicyArn=words.core_arn("aws"))
    iam.put_role_policy(RoleName=words.STANDARD, PolicyName="extra", PolicyDocument=policy("s3:*")["text"])
    iam.put_role_policy(
        RoleName=words.STANDARD, PolicyName="fleetops-lease-1", PolicyDocument=policy("s3:GetObject")["text"]
    )
    services.ask_again(account, at=now())
    read()
    role = Role.objects.get(name=words.STANDARD)
    shown = [each.repair for each in services.differences(role)]
    assert len(shown) == 2 and services.standing()[0]["word"] == "differs"
    with pytest.raises(UserError, match="differs otherwise"):
        standard.ask_right(role, shown[:1], actor=mei)
    # Somebody adds another policy after the page was shown: it stays.
    iam.put_role_policy(RoleName=words.STANDARD, PolicyName="later", PolicyDocument=policy("sqs:*")["text"])
    standard.ask_right(role, shown, actor=mei)
    make()
    assert Making.objects.get().state == "done"
    assert set(iam.list_role_policies(RoleName=words.STANDARD)["PolicyNames"]) == {"fleetops-lease-1", "later"}
    attached = iam.list_attached_role_policies(RoleName=words.STANDARD)["AttachedPolicies"]
    assert [each["PolicyName"] for each in attached] == [words.CORE_POLICY]


@pytest.mark.django_db
def test_only_who_may_change_rules_makes_it_and_a_denial_is_audited(account):
    with pytest.raises(Denied):
        standard.ask([account], actor=make_user("omar", role="operator"))
    assert not Making.objects.exists()
    assert AuditEvent.objects.get(action="roles.standard.refuse").actor_name == "omar"


@pytest.mark.django_db
def test_the_tasks_take_what_is_due(account, monkeypatch):
    taken = []
    monkeypatch.setattr(tasks.read, "delay", lambda pk: taken.append(("read", pk)))
    monkeypatch.setattr(tasks.make, "delay", lambda pk: taken.append(("make", pk)))
    standard.ask([account], actor=make_user("mei", role="administrator"))
    tasks.read_due()
    assert [name for name, _ in taken] == ["make", "read"]
