"""What an agent asks of State Manager, Patch Manager and the package service before these are here."""

import json

import pytest
from botocore.exceptions import ClientError

from tests.endpoint.agent import AgentClient

NODE, OTHER = "i-0a550c1a710000001", "i-0a550c1a710000002"
ASSOCIATION = "0f8fad5b-d9cb-469f-a165-70867728950e"
SNAPSHOT = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
RESULT = {
    "ErrorCode": "",
    "ExecutionDate": 1795455829.957,
    "ExecutionSummary": "Executing association",
    "Status": "InProgress",
}
PACKAGE = {
    "PackageName": "AmazonCloudWatchAgent",
    "PackageVersion": "1.2.3",
    "Operation": "Install",
    "OverallTiming": 12,
    "Result": 0,
    "Steps": [{"Action": "install", "Result": "0", "Timing": 3}],
}


def code(call, **parameters) -> str:
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    return caught.value.response["Error"]["Code"]


@pytest.fixture(scope="session")
def fleet(aws):
    for instance_id in (NODE, OTHER):
        AgentClient(aws).report(instance_id, AgentVersion="3.3.987.0", PlatformName="Ubuntu")


@pytest.fixture
def node(aws, fleet):
    """The node's own credentials."""
    return AgentClient(aws).as_node(aws, NODE)


def test_there_are_no_associations_for_an_agent(node):
    ask = {"InstanceId": NODE, "MaxResults": 20}
    assert node.call("AmazonSSM.ListInstanceAssociations", ask) == (200, {"Associations": []})


def test_there_are_no_associations_for_anybody(aws, fleet):
    client = aws.client("ssm")
    assert client.list_associations()["Associations"] == []
    named = [{"key": "Name", "value": "AWS-RunShellScript"}]
    assert client.list_associations(AssociationFilterList=named)["Associations"] == []
    assert client.describe_instance_associations_status(InstanceId=NODE)["InstanceAssociationStatusInfos"] == []
    assert client.describe_effective_instance_associations(InstanceId=NODE)["Associations"] == []


@pytest.mark.parametrize(
    ("operation", "parameters", "expected"),
    [
        ("describe_association", {"AssociationId": ASSOCIATION}, "AssociationDoesNotExist"),
        ("describe_association", {"Name": "AWS-RunShellScript", "InstanceId": NODE}, "AssociationDoesNotExist"),
        (
            "describe_association",
            {"Name": "AWS-RunShellScript", "InstanceId": "i-ffffffffffffffff0"},
            "InvalidInstanceId",
        ),
        ("describe_association", {"Name": "AWS-RunShellScript"}, "ValidationException"),
        ("describe_association", {"AssociationId": "one"}, "ValidationException"),
        ("describe_instance_associations_status", {"InstanceId": "i-ffffffffffffffff0"}, "InvalidInstanceId"),
        ("describe_effective_instance_associations", {"InstanceId": "i-ffffffffffffffff0"}, "InvalidInstanceId"),
        ("describe_effective_instance_associations", {"InstanceId": NODE, "MaxResults": 6}, "ValidationException"),
        ("describe_instance_associations_status", {"InstanceId": NODE, "NextToken": "???"}, "InvalidNextToken"),
        ("list_associations", {"AssociationFilterList": [{"key": "Colour", "value": "red"}]}, "ValidationException"),
        (
            "update_association_status",
            {
                "Name": "AWS-RunShellScript",
                "InstanceId": NODE,
                "AssociationStatus": {"Date": 1795455829, "Name": "Success", "Message": "done"},
            },
            "AssociationDoesNotExist",
        ),
        (
            "get_deployable_patch_snapshot_for_instance",
            {"InstanceId": "i-ffffffffffffffff0", "SnapshotId": SNAPSHOT},
            "InvalidInstanceId",
        ),
        (
            "get_deployable_patch_snapshot_for_instance",
            {"InstanceId": NODE, "SnapshotId": "one"},
            "ValidationException",
        ),
    ],
)
def test_what_is_not_there_is_told_in_awss_words(aws, fleet, operation, parameters, expected):
    assert code(getattr(aws.client("ssm"), operation), **parameters) == expected


@pytest.mark.parametrize(
    ("operation", "parameters", "expected"),
    [
        (
            "UpdateInstanceAssociationStatus",
            {"AssociationId": ASSOCIATION, "InstanceId": NODE, "ExecutionResult": RESULT},
            "AssociationDoesNotExist",
        ),
        ("UpdateInstanceAssociationStatus", {"InstanceId": NODE, "ExecutionResult": RESULT}, "ValidationException"),
        (
            "UpdateInstanceAssociationStatus",
            {"AssociationId": ASSOCIATION, "InstanceId": NODE, "ExecutionResult": "done"},
            "ValidationException",
        ),
        # The agent goes on to a document of that name when the words hold "ResourceNotFoundException".
        ("GetManifest", {"PackageName": "AWSPVDriver", "PackageVersion": "latest"}, "ResourceNotFoundException"),
        ("GetManifest", {"PackageName": "AWSPVDriver"}, "ValidationException"),
        ("PutConfigurePackageResult", PACKAGE | {"Operation": "Explode"}, "ValidationException"),
        ("PutConfigurePackageResult", PACKAGE | {"Result": "0"}, "ValidationException"),
        ("PutConfigurePackageResult", PACKAGE | {"PackageName": "x" * 10_000}, "ValidationException"),
        ("PutConfigurePackageResult", [], "SerializationException"),
    ],
)
def test_an_agent_is_told_so_too(node, operation, parameters, expected):
    status, answer = node.call(f"AmazonSSM.{operation}", parameters)
    assert (status, answer["__type"]) == (400, expected)


def test_the_result_of_a_package_is_taken(node):
    assert node.call("AmazonSSM.PutConfigurePackageResult", PACKAGE) == (200, {})


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        ("ListInstanceAssociations", {}),
        ("UpdateInstanceAssociationStatus", {"AssociationId": ASSOCIATION, "ExecutionResult": RESULT}),
        ("GetDeployablePatchSnapshotForInstance", {"SnapshotId": SNAPSHOT}),
        (
            "UpdateAssociationStatus",
            {"Name": "x-y", "AssociationStatus": {"Date": 1795455829, "Name": "Success", "Message": "done"}},
        ),
        ("DescribeInstanceAssociationsStatus", {}),
    ],
)
def test_a_node_asks_nothing_for_another(node, operation, parameters):
    status, answer = node.call(f"AmazonSSM.{operation}", {**parameters, "InstanceId": OTHER})
    assert (status, answer["__type"]) == (400, "AccessDeniedException")
    assert "Ubuntu" not in json.dumps(answer)
