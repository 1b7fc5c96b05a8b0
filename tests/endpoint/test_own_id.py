"""A node is good for its own id alone: whatever an agent may call, against every other id that there could be."""

import pytest

from tests.endpoint.agent import AgentClient
from tests.endpoint.operations import ssm_operations

OWN, OTHER = "i-0aaaaaaaaaaaaaaa1", "i-0bbbbbbbbbbbbbbb2"
POLL = "EC2WindowsMessageDeliveryService.GetMessages"
ASSOCIATION = "11111111-2222-3333-4444-555555555555"
RESULT = {"ExecutionDate": 1.0, "Status": "Success"}
ITEM = {"TypeName": "AWS:Application", "SchemaVersion": "1.1", "CaptureTime": "2026-11-30T10:00:00Z"}
FINDING = {"Severity": "LOW", "Status": "COMPLIANT"}
# Operation → the parameters with which a node speaks for an id.
CALLS = {
    "UpdateInstanceInformation": lambda name: {"InstanceId": name, "AgentVersion": "3.3.987.0"},
    "ListInstanceAssociations": lambda name: {"InstanceId": name},
    "UpdateInstanceAssociationStatus": lambda name: {
        "InstanceId": name,
        "AssociationId": ASSOCIATION,
        "ExecutionResult": RESULT,
    },
    "UpdateAssociationStatus": lambda name: {
        "InstanceId": name,
        "Name": "AWS-X",
        "AssociationStatus": {"Date": 1.0, "Name": "Success", "Message": "x"},
    },
    "ListAssociations": lambda name: {"AssociationFilterList": [{"key": "InstanceId", "value": name}]},
    "PutInventory": lambda name: {"InstanceId": name, "Items": [ITEM]},
    "PutComplianceItems": lambda name: {
        "ResourceId": name,
        "ResourceType": "ManagedInstance",
        "ComplianceType": "Custom:Mine",
        "ExecutionSummary": {"ExecutionTime": 1.0},
        "Items": [FINDING],
    },
    "GetDeployablePatchSnapshotForInstance": lambda name: {"InstanceId": name, "SnapshotId": ASSOCIATION},
}
# What AWS's policy for nodes lets them do besides, and that is about no node.
ABOUT_NO_NODE = {
    *("DescribeAssociation", "DescribeDocument", "GetDocument", "GetManifest", "GetParameter", "GetParameters"),
    "PutConfigurePackageResult",
}


def refused(status: int, body) -> str:
    """The code of a refusal to know, to let or to read; "" for any other answer."""
    told = body["__type"] if isinstance(body, dict) and "__type" in body else str(body)
    codes = ("AccessDeniedException", "UnrecognizedClientException", "ValidationException")
    return next((code for code in codes if code in told), "")


def every_call(client: AgentClient, name: str) -> dict[str, str]:
    """Each call that an agent makes for its id, made for `name`: how it is refused."""
    found = {
        operation: refused(*client.call(f"AmazonSSM.{operation}", parameters(name)))
        for operation, parameters in CALLS.items()
    }
    poll = {"Destination": name, "MessagesRequestId": "m-1", "VisibilityTimeoutInSeconds": 10}
    found["GetMessages"] = refused(*client.call(POLL, poll, service="ec2messages"))
    found["CreateControlChannel"] = refused(*client.post(f"/v1/control-channel/{name}"))
    # Asked for and not taken up: the upgrade's answer is all that we want.
    found["OpenControlChannel"] = refused(*client.upgrade(f"/v1/control-channel/{name}"))
    return found


@pytest.fixture(scope="module")
def agent(aws):
    return AgentClient(aws)


@pytest.mark.parametrize(
    ("credentials", "asked", "expected"),
    [
        pytest.param((OWN, None), OWN, "", id="itself"),
        pytest.param((OWN, None), OTHER, "AccessDeniedException", id="another node"),
        pytest.param((OWN, None), "mi-0123456789abcdef0", "AccessDeniedException", id="a hybrid node"),
        pytest.param((OWN, ("444455556666", "eu-west-1", OWN)), OWN, "AccessDeniedException", id="of another account"),
        pytest.param((OWN, ("111122223333", "us-east-1", OWN)), OWN, "AccessDeniedException", id="of another region"),
        pytest.param(
            ("mi-0000000000000dead", None), "mi-0000000000000dead", "UnrecognizedClientException", id="deregistered"
        ),
    ],
)
def test_a_node_may_do_for_its_own_id_alone_what_an_agent_does(aws, agent, credentials, asked, expected):
    name, node = credentials
    found = every_call(agent.as_node(aws, name, node=node), asked)
    assert found == dict.fromkeys(found, expected)


def test_a_data_channel_is_opened_by_the_node_of_its_session_alone(aws, agent):
    client = agent.as_node(aws, OWN)
    for answer in (client.post("/v1/data-channel/maria-0123456789abcdef0"),):
        assert answer[0] in {403, 404}


def test_no_call_of_an_agent_is_left_out(aws):
    """Neither of those that the parts answer to agents alone, nor of those that AWS's policy lets a node do."""
    iam = aws.client("iam")
    arn = "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"
    version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
    document = iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]
    allowed = {action for statement in document["Statement"] for action in statement["Action"]}
    of_ssm = {action.removeprefix("ssm:") for action in allowed if action.startswith("ssm:")}
    _, of_agents = ssm_operations()
    assert of_ssm | of_agents <= set(CALLS) | ABOUT_NO_NODE
    others = allowed - {f"ssm:{name}" for name in of_ssm}
    assert others == {
        *(f"ec2messages:{name}" for name in ("AcknowledgeMessage", "DeleteMessage", "FailMessage", "GetEndpoint")),
        *("ec2messages:GetMessages", "ec2messages:SendReply"),
        *(f"ssmmessages:{verb}{kind}Channel" for verb in ("Create", "Open") for kind in ("Control", "Data")),
    }
