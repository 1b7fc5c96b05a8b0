"""Leases against the real endpoint: profiles are put there and taken away, and a privilege ends by itself."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from fleetops.aws.clients import forget_clients
from fleetops.clock import now
from fleetops.errors import FieldError
from fleetops.inventory.models import Instance
from fleetops.roles import culprits, leasing, services
from fleetops.roles.models import Holding, RoleAttachment, RoleFinding
from fleetops.roles.services import Wish
from tests.factories import make_instance
from tests.inventory.conftest import link_all
from tests.support.endpoint import running_endpoint
from tests.support.faults import Faults

from .conftest import loop

pytestmark = pytest.mark.django_db

READ_ORDERS = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::orders"},
    }
)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    with running_endpoint(tmp_path_factory.mktemp("roles") / "endpoint") as running:
        yield running


@pytest.fixture
def faults(endpoint):
    made = Faults(endpoint.handover)
    yield made
    made.delete()


@pytest.fixture
def region(roles, endpoint):
    account, *_ = link_all(endpoint)
    yield account.regions.get(name="eu-west-1")
    forget_clients()


@pytest.fixture
def kafka(region, endpoint) -> Instance:
    """The demo machine without a role."""
    return make_instance(
        region=region,
        instance_id=endpoint.instance_id("kafka-events-eu1c-3"),
        name="kafka-events-eu1c-3",
        profile_arn="",
        ping_status="",
    )


@pytest.fixture
def pay_api(region, endpoint) -> Instance:
    return make_instance(
        region=region,
        instance_id=endpoint.instance_id("pay-api-eu1a-01"),
        name="pay-api-eu1a-01",
        profile_arn=f"arn:aws:iam::{region.account.account_id}:instance-profile/ssm-core",
    )


def profile(endpoint, instance: Instance) -> str:
    answer = endpoint.client("ec2").describe_instances(InstanceIds=[instance.instance_id])
    found = answer["Reservations"][0]["Instances"][0].get("IamInstanceProfile") or {}
    return found.get("Arn", "").rpartition("/")[2]


def test_the_profile_is_put_there_and_taken_away(endpoint, kafka, admin, rule):
    arn = services.find_profile(kafka, "ssm-core").arn
    attachment = services.ask(kafka, Wish(arn, 10), actor=admin)
    loop()
    assert profile(endpoint, kafka) == "ssm-core"
    attachment.refresh_from_db()
    assert attachment.state == "active"
    services.end(attachment, actor=admin)
    loop()
    attachment.refresh_from_db()
    assert (attachment.state, profile(endpoint, kafka)) == ("ended", "")


def test_what_somebody_else_attached_is_left_and_told(endpoint, kafka, admin, rule):
    ec2, iam = endpoint.client("ec2"), endpoint.client("iam")
    iam.create_instance_profile(InstanceProfileName="by-hand")
    iam.add_role_to_instance_profile(InstanceProfileName="by-hand", RoleName="ssm-core")
    attachment = services.ask(kafka, Wish(services.find_profile(kafka, "ssm-core").arn, 10), actor=admin)
    loop()
    (held,) = ec2.describe_iam_instance_profile_associations(
        Filters=[{"Name": "instance-id", "Values": [kafka.instance_id]}]
    )["IamInstanceProfileAssociations"]
    ec2.replace_iam_instance_profile_association(
        AssociationId=held["AssociationId"], IamInstanceProfile={"Name": "by-hand"}
    )
    services.end(attachment, actor=admin)
    loop()
    assert profile(endpoint, kafka) == "by-hand"
    finding = RoleFinding.objects.get()
    assert (finding.found_name, finding.expected_name) == ("by-hand", "no role")
    culprits.look()
    finding.refresh_from_db()
    assert finding.by.endswith("user/admin") and finding.done_at is not None
    services.put_back(finding, actor=admin)
    loop()
    assert profile(endpoint, kafka) == ""


@pytest.mark.parametrize(
    ("operation", "code", "status"),
    [
        ("AssociateIamInstanceProfile", "RequestLimitExceeded", 503),
        ("AssociateIamInstanceProfile", "UnauthorizedOperation", 403),
        ("DescribeIamInstanceProfileAssociations", "UnauthorizedOperation", 403),
        ("DescribeIamInstanceProfileAssociations", "InternalError", 500),
    ],
)
def test_a_refusal_is_told_in_words_and_gone_on_with(endpoint, kafka, admin, rule, faults, operation, code, status):
    attachment = services.ask(kafka, Wish(services.find_profile(kafka, "ssm-core").arn, 10), actor=admin)
    with faults.on("error", code=code, status=status, match={"operation": operation}):
        loop()
        attachment.refresh_from_db()
        assert attachment.state == "pending" and (code in attachment.words or operation in attachment.words)
        assert profile(endpoint, kafka) == ""
    loop()
    attachment.refresh_from_db()
    assert attachment.state == "active"
    services.end(attachment, actor=admin)
    loop()
    assert profile(endpoint, kafka) == ""


def test_a_profile_of_another_account_without_a_role_or_unknown_is_refused(endpoint, kafka):
    endpoint.client("iam").create_instance_profile(InstanceProfileName="empty")
    for name, words in (
        ("arn:aws:iam::999988887777:instance-profile/ssm-core", "of its own account"),
        ("empty", "has no role; EC2 needs exactly one"),
        ("nobody", "has no instance profile nobody"),
    ):
        with pytest.raises(FieldError, match=words):
            services.find_profile(kafka, name)


def test_a_profile_that_vanishes_before_its_turn_fails_the_lease_in_words(endpoint, kafka, admin, rule):
    iam = endpoint.client("iam")
    iam.create_instance_profile(InstanceProfileName="short-lived")
    iam.add_role_to_instance_profile(InstanceProfileName="short-lived", RoleName="ssm-core")
    attachment = services.ask(kafka, Wish(services.find_profile(kafka, "short-lived").arn, 10), actor=admin)
    iam.remove_role_from_instance_profile(InstanceProfileName="short-lived", RoleName="ssm-core")
    iam.delete_instance_profile(InstanceProfileName="short-lived")
    loop(2)
    attachment.refresh_from_db()
    assert attachment.state == "failed" and attachment.words
    assert profile(endpoint, kafka) == "" and Holding.objects.get().intent is None


def bring(attachment: RoleAttachment) -> None:
    from fleetops.roles import reconcile

    RoleAttachment.objects.filter(pk=attachment.pk).update(due_at=now())
    reconcile.note_ends(at=now())
    for each in leasing.due(at=now()):
        leasing.bring(each)
    attachment.refresh_from_db()


def decision(endpoint, instance: Instance, at: datetime) -> str:
    """What IAM's own evaluator says to the instance's credentials at a moment."""
    account = endpoint.account["account_id"]
    (result,) = endpoint.client("iam").simulate_principal_policy(
        PolicySourceArn=f"arn:aws:iam::{account}:role/ssm-core",
        ActionNames=["s3:ListBucket"],
        ResourceArns=["arn:aws:s3:::orders"],
        ContextEntries=[
            {
                "ContextKeyName": "ec2:SourceInstanceARN",
                "ContextKeyType": "string",
                "ContextKeyValues": [f"arn:aws:ec2:eu-west-1:{account}:instance/{instance.instance_id}"],
            },
            {
                "ContextKeyName": "aws:CurrentTime",
                "ContextKeyType": "date",
                "ContextKeyValues": [at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")],
            },
        ],
    )["EvaluationResults"]
    return result["EvalDecision"]


@pytest.mark.parametrize("is_full", [False, True], ids=["inline", "managed"])
def test_a_privilege_is_for_one_instance_and_ends_by_itself(endpoint, pay_api, kafka, admin, rule, is_full, faults):
    attachment = services.ask(
        pay_api, Wish(pay_api.profile_arn, 10, policy=READ_ORDERS, policy_name="read orders"), actor=admin
    )
    if is_full:
        match = {"operation": "PutRolePolicy"}
        with faults.on("error", code="LimitExceeded", status=409, match=match):
            bring(attachment)
    else:
        bring(attachment)
    assert (attachment.state, attachment.role_name, attachment.carrier) == (
        "active",
        "ssm-core",
        "managed" if is_full else "inline",
    )
    # Whatever becomes of FleetOps from here on:
    assert decision(endpoint, pay_api, now()) == "allowed"
    assert decision(endpoint, kafka, now()) == "implicitDeny"
    assert decision(endpoint, pay_api, now() + timedelta(minutes=11)) == "implicitDeny"

    services.extend(attachment, minutes=60, actor=admin)
    bring(attachment)
    assert decision(endpoint, pay_api, now() + timedelta(minutes=11)) == "allowed"
    services.end(attachment, actor=admin)
    bring(attachment)
    assert attachment.state == "ended"
    assert decision(endpoint, pay_api, now()) == "implicitDeny"
    iam = endpoint.client("iam")
    assert leasing.name_of(attachment) not in iam.list_role_policies(RoleName="ssm-core")["PolicyNames"]
    assert not iam.list_policies(Scope="Local", PathPrefix="/fleetops/")["Policies"]
    assert profile(endpoint, pay_api) == "ssm-core"


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("{", "not JSON"),
        ("[]", "Statement"),
        ('{"Statement": {"Effect": "Deny", "Action": "*", "Resource": "*"}}', "has to be Allow"),
        ('{"Statement": {"Effect": "Allow", "Resource": "*"}}', "names no Action"),
        ('{"Statement": {"Effect": "Allow", "Action": "*"}}', "names no Resource"),
        ('{"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*", "Principal": "*"}}', "Principal"),
        (
            '{"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*",'
            ' "Condition": {"DateLessThan": {"aws:currentTime": "2030-01-01T00:00:00Z"}}}}',
            "leave DateLessThan",
        ),
        (json.dumps({"Statement": [{"Effect": "Allow", "Action": "s3:" + "a" * 6000, "Resource": "*"}]}), "too long"),
    ],
)
def test_a_policy_that_cannot_be_leased_is_refused_in_words(pay_api, admin, rule, policy, words):
    with pytest.raises(FieldError, match=words):
        services.ask(pay_api, Wish(pay_api.profile_arn, 10, policy=policy), actor=admin)
    assert not RoleAttachment.objects.exists()
