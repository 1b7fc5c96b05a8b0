"""Two accounts and two regions in one endpoint, one hybrid node id in two of them, and regions that are off."""

import json

import pytest
from botocore.exceptions import ClientError

from fleetops.endpoint.seed import ACCOUNTS, ALL_MACHINES, MACHINES, SHARED_ID
from tests.support.endpoint import running_endpoint, start_endpoint, until

ROLE = "arn:aws:iam::444455556666:role/FleetOpsControlPlane"


def ids(client) -> set[str]:
    pages = client.get_paginator("describe_instance_information").paginate()
    return {node["InstanceId"] for page in pages for node in page["InstanceInformationList"]}


def online(client) -> set[str]:
    filters = [{"Key": "PingStatus", "Values": ["Online"]}]
    pages = client.get_paginator("describe_instance_information").paginate(Filters=filters)
    return {node["InstanceId"] for page in pages for node in page["InstanceInformationList"]}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """An endpoint with its demo nodes, those of the second account and the second region online."""
    with running_endpoint(tmp_path_factory.mktemp("accounts") / "home", nodes="demo") as endpoint:
        elsewhere = (endpoint.client("ssm", region="us-east-1"), endpoint.staging_client("ssm"))
        until(lambda: [len(online(each)) for each in elsewhere] == [4, 3], seconds=30, what="all nodes are online")
        until(lambda: SHARED_ID in online(endpoint.client("ssm")), seconds=30, what="the first of the two is online")
        yield endpoint


# --- two accounts ---


def test_each_account_and_region_lists_its_own_machines_and_no_others(fleet):
    def ec2(client):
        return {
            instance["InstanceId"]
            for reservation in client.describe_instances()["Reservations"]
            for instance in reservation["Instances"]
        }

    for client, place in (
        (fleet.client("ec2"), ("111122223333", "eu-west-1")),
        (fleet.client("ec2", region="us-east-1"), ("111122223333", "us-east-1")),
        (fleet.staging_client("ec2"), ("444455556666", "eu-west-1")),
        (fleet.staging_client("ec2", region="us-east-1"), ("444455556666", "us-east-1")),
    ):
        assert ec2(client) == {each.instance_id for each in ALL_MACHINES if each.key[:2] == place and each.zone}


def test_a_session_can_be_left_to_who_started_it(fleet):
    """The Systems Manager user guide's policy for one's own sessions alone, by aws:userid."""
    own = {"StringLike": {"ssm:resourceTag/aws:ssmmessages:session-id": ["${aws:userid}"]}}
    statements = [
        {"Effect": "Allow", "Action": ["ssm:StartSession", "ssm:DescribeSessions"], "Resource": "*"},
        {
            "Effect": "Allow",
            "Action": ["ssm:TerminateSession", "ssm:ResumeSession"],
            "Resource": "arn:aws:ssm:*:*:session/*",
            "Condition": own,
        },
    ]
    policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
    maria, kofi = (fleet.client("ssm", **fleet.as_role(name, Policy=policy)) for name in ("maria", "kofi"))
    session = maria.start_session(Target=SHARED_ID)["SessionId"]
    for call in (kofi.resume_session, kofi.terminate_session):
        with pytest.raises(ClientError, match="AccessDenied"):
            call(SessionId=session)
    assert maria.terminate_session(SessionId=session)["SessionId"] == session


def test_one_hybrid_id_is_two_machines_with_their_own_names_tags_and_shells(fleet):
    here, there = fleet.client("ssm"), fleet.staging_client("ssm")

    def told(ssm):
        (node,) = ssm.describe_instance_information(Filters=[{"Key": "InstanceIds", "Values": [SHARED_ID]}])[
            "InstanceInformationList"
        ]
        tags = ssm.list_tags_for_resource(ResourceType="ManagedInstance", ResourceId=SHARED_ID)["TagList"]
        return node["Name"], node["PlatformName"], {tag["Key"]: tag["Value"] for tag in tags}["env"]

    assert told(here) == ("lagos-pos-gw-012", "Ubuntu", "prod")
    assert told(there) == ("lab-pos-gw-01", "Debian GNU/Linux", "staging")
    assert SHARED_ID not in ids(fleet.client("ssm", region="us-east-1"))

    session = there.start_session(Target=SHARED_ID)["SessionId"]
    try:
        assert [each["SessionId"] for each in there.describe_sessions(State="Active")["Sessions"]] == [session]
        assert not here.describe_sessions(State="Active")["Sessions"]
        with pytest.raises(ClientError, match="DoesNotExist"):
            here.resume_session(SessionId=session)
    finally:
        there.terminate_session(SessionId=session)
    directories = {path.name for path in (fleet.home / "nodes").iterdir() if SHARED_ID in path.name}
    assert directories == {SHARED_ID, f"444455556666.eu-west-1.{SHARED_ID}"}


def test_to_stop_a_machine_stops_the_one_of_that_account(fleet):
    ssm, ec2 = fleet.staging_client("ssm"), fleet.staging_client("ec2")
    machine = next(each for each in ALL_MACHINES if each.name == "pay-api-stg-01")
    before = ids(fleet.client("ssm"))
    ec2.stop_instances(InstanceIds=[machine.instance_id])
    try:
        until(lambda: machine.instance_id not in ids(ssm))
        assert ids(fleet.client("ssm")) == before
    finally:
        ec2.start_instances(InstanceIds=[machine.instance_id])
    until(lambda: machine.instance_id in online(ssm))


# --- the external id ---


@pytest.mark.parametrize("given", [{}, {"ExternalId": "northwind-fleetops"}, {"ExternalId": "NORTHWIND-FLEETOPS-7D41"}])
def test_a_role_that_asks_for_an_external_id_is_not_assumed_without_the_right_one(aws, given):
    sts = aws.staging_client("sts", user="fleetops")
    with pytest.raises(ClientError) as caught:
        sts.assume_role(RoleArn=ROLE, RoleSessionName="maria", **given)
    assert caught.value.response["Error"]["Code"] == "AccessDenied"
    assert "is not authorized to perform: sts:AssumeRole" in caught.value.response["Error"]["Message"]


def test_with_the_external_id_the_role_is_assumed_also_with_tags_and_a_source_identity(aws):
    given = {"ExternalId": aws.staging["external_id"], "SourceIdentity": "maria"}
    tags = [{"Key": "FleetOpsUser", "Value": "maria"}]
    answer = aws.staging_client("sts", user="fleetops").assume_role(
        RoleArn=ROLE, RoleSessionName="maria", Tags=tags, **given
    )
    assert answer["AssumedRoleUser"]["Arn"].startswith("arn:aws:sts::444455556666:assumed-role/")


def test_the_first_accounts_user_may_not_assume_the_second_accounts_role(aws):
    with pytest.raises(ClientError, match="AccessDenied"):
        aws.client("sts", user="fleetops").assume_role(
            RoleArn=ROLE, RoleSessionName="maria", ExternalId=aws.staging["external_id"]
        )


# --- regions that are off ---


@pytest.mark.parametrize(
    ("service", "call", "code"),
    [
        ("sts", lambda client: client.get_caller_identity(), "InvalidClientTokenId"),
        ("ssm", lambda client: client.describe_instance_information(), "UnrecognizedClientException"),
        ("ec2", lambda client: client.describe_instances(), "AuthFailure"),
    ],
)
def test_a_region_that_is_off_knows_nobody(aws, service, call, code):
    with pytest.raises(ClientError) as caught:
        call(aws.client(service, region="eu-south-2"))
    assert caught.value.response["Error"]["Code"] == code


def test_a_region_that_there_is_not_is_no_scope_of_a_signature(aws):
    with pytest.raises(ClientError) as caught:
        aws.client("ssm", region="eu-nowhere-1").describe_instance_information()
    assert caught.value.response["Error"]["Code"] == "InvalidSignatureException"
    assert "valid region, not 'eu-nowhere-1'" in caught.value.response["Error"]["Message"]


def test_describe_regions_tells_which_are_off_when_asked_for_all(aws):
    ec2 = aws.client("ec2")
    enabled = {region["RegionName"]: region["OptInStatus"] for region in ec2.describe_regions()["Regions"]}
    assert set(enabled.values()) == {"opt-in-not-required"} and "eu-west-1" in enabled
    everywhere = {each["RegionName"]: each["OptInStatus"] for each in ec2.describe_regions(AllRegions=True)["Regions"]}
    assert everywhere["eu-south-2"] == "not-opted-in" and enabled.keys() < everywhere.keys()
    (named,) = ec2.describe_regions(RegionNames=["me-south-1"])["Regions"]
    assert named["OptInStatus"] == "not-opted-in"
    with pytest.raises(ClientError, match="DryRunOperation"):
        ec2.describe_regions(DryRun=True)
    with pytest.raises(ClientError, match="Invalid region provided"):
        ec2.describe_regions(RegionNames=["eu-nowhere-1"])


# --- homes from before there were two ---


def test_a_home_from_before_gains_the_second_account_and_region_and_keeps_what_it_had(tmp_path):
    endpoint = start_endpoint(tmp_path / "home")
    try:
        kept = next(each for each in MACHINES if each.name == "pay-api-dev-01").instance_id
        endpoint.client("ec2").terminate_instances(InstanceIds=[kept])
        endpoint.stop()
        told = json.loads((endpoint.home / "account.json").read_text())
        old = told | {"regions": ["eu-west-1"], "instance_ids": [machine.instance_id for machine in MACHINES]}
        (endpoint.home / "account.json").write_text(json.dumps(old))
        (endpoint.home / "account-444455556666.json").unlink()

        endpoint.start_again()
        first, second = endpoint.handover["accounts"]
        assert first == told
        assert second["instance_ids"] == [machine.instance_id for machine in ACCOUNTS[1].machines]
        (reservation,) = endpoint.client("ec2").describe_instances(InstanceIds=[kept])["Reservations"]
        assert reservation["Instances"][0]["State"]["Name"] == "terminated", "what its user ended is not made anew"
        assert len(endpoint.client("ec2", region="us-east-1").describe_instances()["Reservations"]) == 4
    finally:
        endpoint.stop()
        endpoint.process.stdout.close()
