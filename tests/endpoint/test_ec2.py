"""EC2's DescribeInstances, ours: filters, pages, errors; and its answer in botocore's own words."""

import time

import pytest
from botocore.exceptions import ClientError
from botocore.validate import ParamValidator

from fleetops.awsapi.models import service
from fleetops.endpoint import ec2_instances
from fleetops.endpoint.seed import MACHINES

EC2_MACHINES = [machine for machine in MACHINES if machine.zone]


def listed(aws, **parameters) -> set[str]:
    pages = aws.client("ec2").get_paginator("describe_instances").paginate(**parameters)
    return {
        next((tag["Value"] for tag in instance.get("Tags", []) if tag["Key"] == "Name"), "")
        for page in pages
        for reservation in page["Reservations"]
        for instance in reservation["Instances"]
    }


@pytest.mark.parametrize(
    ("name", "values", "chosen"),
    [
        ("tag:env", ["dev", "staging"], lambda machine: machine.env in {"dev", "staging"}),
        ("tag:Name", ["pg-*-eu1?-*"], lambda machine: machine.name.startswith("pg-")),
        ("tag-key", ["cluster"], lambda machine: True),
        ("tag-key", ["nope"], lambda machine: False),
        ("instance-state-name", ["stopped"], lambda machine: machine.is_stopped),
        ("platform-details", ["Red Hat Enterprise Linux"], lambda machine: machine.platform == "rhel9"),
        ("platform", ["windows"], lambda machine: False),
        ("instance-type", ["t3.*"], lambda machine: machine.instance_type.startswith("t3.")),
        ("availability-zone", ["eu-west-1b"], lambda machine: machine.zone == "b"),
        ("metadata-options.http-tokens", ["required"], lambda machine: True),
        ("root-device-type", ["ebs"], lambda machine: True),
        (
            "iam-instance-profile.arn",
            ["arn:aws:iam::111122223333:instance-profile/ssm-core"],
            lambda machine: machine.has_profile,
        ),
        ("launch-time", ["2026-*"], lambda machine: True),
    ],
)
def test_a_filter_chooses(aws, name, values, chosen):
    expected = {machine.name for machine in EC2_MACHINES if chosen(machine)}
    assert listed(aws, Filters=[{"Name": name, "Values": values}]) & {machine.name for machine in MACHINES} == expected


def test_filters_are_all_needed(aws):
    filters = [{"Name": "tag:env", "Values": ["prod"]}, {"Name": "tag:cluster", "Values": ["pg-ledger"]}]
    assert listed(aws, Filters=filters) == {"pg-ledger-eu1a-1", "pg-ledger-eu1b-2", "pg-ledger-eu1c-3"}


def test_a_page_counts_instances(aws):
    client = aws.client("ec2")
    first = client.describe_instances(MaxResults=5)
    assert sum(len(reservation["Instances"]) for reservation in first["Reservations"]) == 5
    assert {machine.name for machine in EC2_MACHINES} <= listed(aws, PaginationConfig={"PageSize": 5})


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"InstanceIds": ["i-ffffffffffffffff0"]}, "InvalidInstanceID.NotFound"),
        ({"InstanceIds": ["nonsense"]}, "InvalidInstanceID.Malformed"),
        ({"Filters": [{"Name": "colour", "Values": ["red"]}]}, "InvalidParameterValue"),
        ({"MaxResults": 1}, "InvalidParameterValue"),
        ({"MaxResults": 5, "InstanceIds": ["i-ffffffffffffffff0"]}, "InvalidParameterCombination"),
        ({"DryRun": True}, "DryRunOperation"),
        ({"NextToken": "!"}, "InvalidParameterValue"),
    ],
)
def test_a_bad_request_is_refused_in_ec2s_codes(aws, parameters, code):
    with pytest.raises(ClientError) as caught:
        aws.client("ec2").describe_instances(**parameters)
    assert caught.value.response["Error"]["Code"] == code


def test_an_instance_shows_what_inventory_reads(aws):
    wanted = aws.instance_id("pg-ledger-eu1c-3")
    (reservation,) = aws.client("ec2").describe_instances(InstanceIds=[wanted])["Reservations"]
    (instance,) = reservation["Instances"]
    assert instance["PlatformDetails"] == "Red Hat Enterprise Linux"
    assert instance["IamInstanceProfile"]["Arn"].endswith(":instance-profile/ssm-core")
    assert instance["PrivateIpAddress"] == instance["NetworkInterfaces"][0]["PrivateIpAddress"]
    assert instance["SecurityGroups"]
    assert {"Name", "env", "cluster", "service", "team"} <= {tag["Key"] for tag in instance["Tags"]}


def fact(number: int) -> dict:
    return {
        "_reservation": f"r-{number // 3}",
        "_owner": "111122223333",
        "_platform": "",
        "_image_name": "debian-12",
        "InstanceId": f"i-{number:017x}",
        "ImageId": "ami-1",
        "State": {"Code": 16, "Name": "running"},
        "LaunchTime": 1795000000.0,
        "Placement": {"AvailabilityZone": "eu-west-1a", "GroupName": "", "Tenancy": "default"},
        "Tags": [{"Key": "Name", "Value": f"n{number}"}, {"Key": "odd[1]", "Value": "a*b"}],
        "IamInstanceProfile": None,
        "PrivateIpAddress": "10.0.0.1",
    }


def test_the_result_has_the_kinds_that_botocores_model_names():
    result = ec2_instances.describe([fact(n) for n in range(7)], {"MaxResults": 5})
    shape = service("ec2").operation("DescribeInstances").output_shape
    report = ParamValidator().validate(_without_none(result), shape)
    assert not report.has_errors(), report.generate_report()


def test_a_reservation_is_split_rather_than_a_page_made_longer():
    facts = [fact(n) for n in range(7)]
    seen, token = [], None
    while True:
        page = ec2_instances.describe(facts, {"MaxResults": 5, "NextToken": token})
        ids = [instance["InstanceId"] for item in page["Reservations"] for instance in item["Instances"]]
        assert len(ids) <= 5
        seen += ids
        token = page["NextToken"]
        if token is None:
            break
    assert seen == [item["InstanceId"] for item in facts]


@pytest.mark.parametrize(
    ("pattern", "matches"), [("a*b", True), (r"a\*b", True), (r"a\?b", False), ("[a]*b", False), ("a?b", True)]
)
def test_only_star_and_question_mark_are_wildcards(pattern, matches):
    found = ec2_instances.describe([fact(1)], {"Filters": [{"Name": "tag:odd[1]", "Values": [pattern]}]})
    assert bool(found["Reservations"]) is matches


def test_a_thousand_instances_are_answered_in_a_blink():
    facts = [fact(n) for n in range(1000)]
    began = time.process_time()
    status, body = ec2_instances.answer(facts, "eu-west-1", {"Action": "DescribeInstances", "MaxResults": "1000"}, "r")
    assert status == 200 and len(body) > 100_000
    assert time.process_time() - began < 1.0


def _without_none(value):
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    return value
