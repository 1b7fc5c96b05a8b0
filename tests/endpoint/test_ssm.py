"""SSM through real boto3, over loopback TLS, without any node: what is checked and how it is told."""

import threading
import xml.etree.ElementTree as ET

import pytest
from botocore.exceptions import ClientError

from tests.endpoint.agent import AgentClient
from tests.support.endpoint import until

AGENT = "AmazonSSM.UpdateInstanceInformation"


def code(call, **parameters) -> str:
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    return caught.value.response["Error"]["Code"]


@pytest.fixture(scope="session")
def agent(aws):
    """Speaks UpdateInstanceInformation and its like, which boto3 does not have: by a model of their own."""
    return AgentClient(aws)


@pytest.fixture(scope="session")
def reported(aws, agent):
    """Seven nodes that an agent has spoken for, as an identity with the permission (the agent's CustomIdentity)."""
    names = [f"i-{n:017x}" for n in range(7)]
    for n, name in enumerate(names):
        agent.report(
            name,
            AgentVersion="3.3.987.0",
            ComputerName=f"host-{n}",
            PlatformName="Ubuntu" if n % 2 else "Debian GNU/Linux",
            PlatformVersion="24.04",
            IPAddress=f"10.0.0.{n}",
            AgentStatus="Active",
        )
    return names


def test_an_agents_short_report_takes_nothing_away(aws, agent, reported):
    agent.report(reported[0], AgentVersion="3.3.988.0")
    found = aws.client("ssm").describe_instance_information(Filters=[{"Key": "InstanceIds", "Values": [reported[0]]}])
    (node,) = found["InstanceInformationList"]
    assert (node["AgentVersion"], node["ComputerName"], node["PlatformName"]) == (
        "3.3.988.0",
        "host-0",
        "Debian GNU/Linux",
    )
    assert (node["PingStatus"], node["ResourceType"]) == ("Online", "EC2Instance")


def test_pages_hold_what_was_asked_for_and_come_to_an_end(aws, reported):
    pages = list(
        aws.client("ssm").get_paginator("describe_instance_information").paginate(PaginationConfig={"PageSize": 5})
    )
    assert all(len(page["InstanceInformationList"]) <= 5 for page in pages)
    ids = [node["InstanceId"] for page in pages for node in page["InstanceInformationList"]]
    assert ids == sorted(set(ids))
    assert set(reported) <= set(ids)


@pytest.mark.parametrize(
    ("parameters", "found"),
    [
        ({"Filters": [{"Key": "PlatformTypes", "Values": ["Linux"]}]}, True),
        ({"Filters": [{"Key": "PlatformTypes", "Values": ["Windows"]}]}, False),
        ({"Filters": [{"Key": "PingStatus", "Values": ["Online"]}]}, True),
        ({"Filters": [{"Key": "PingStatus", "Values": ["ConnectionLost"]}]}, False),
        ({"Filters": [{"Key": "ResourceType", "Values": ["EC2Instance"]}]}, True),
        ({"Filters": [{"Key": "AgentVersion", "Values": ["3.3.987.0"]}]}, True),
        ({"Filters": [{"Key": "tag:env", "Values": ["prod"]}]}, False),
        ({"InstanceInformationFilterList": [{"key": "PlatformTypes", "valueSet": ["Linux"]}]}, True),
    ],
)
def test_filters_choose(aws, reported, parameters, found):
    answer = aws.client("ssm").describe_instance_information(**parameters)
    ids = {node["InstanceId"] for node in answer["InstanceInformationList"]}
    assert (reported[3] in ids) is found


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"MaxResults": 51}, "ValidationException"),
        ({"MaxResults": 4}, "ValidationException"),
        ({"NextToken": "\u00ff"}, "InvalidNextToken"),
        ({"Filters": [{"Key": "Colour", "Values": ["red"]}]}, "InvalidFilterKey"),
        ({"Filters": [{"Key": "InstanceIds", "Values": ["i-ffffffffffffffff0"]}]}, "InvalidInstanceId"),
        ({"InstanceInformationFilterList": [{"key": "Nope", "valueSet": ["x"]}]}, "ValidationException"),
    ],
)
def test_a_bad_listing_is_refused(aws, parameters, expected):
    assert code(aws.client("ssm").describe_instance_information, **parameters) == expected


def test_another_region_sees_none_of_it(aws, reported):
    assert aws.client("ssm", region="us-east-1").describe_instance_information()["InstanceInformationList"] == []


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"Target": "i-ffffffffffffffff0"}, "TargetNotConnected"),
        ({"Target": "i-00000000000000001"}, "TargetNotConnected"),
        ({}, "ValidationException"),
        ({"Target": "i-1", "Reason": "r" * 257}, "ValidationException"),
        ({"Target": "i-1", "DocumentName": "No-Such-Document"}, "InvalidDocument"),
        (
            {"Target": "i-1", "DocumentName": "AWS-StartPortForwardingSession", "Parameters": {"x": ["1"]}},
            "InvalidParameters",
        ),
        (
            {
                "Target": "i-1",
                "DocumentName": "AWS-StartPortForwardingSession",
                "Parameters": {"portNumber": ["99999"]},
            },
            "InvalidParameters",
        ),
    ],
)
def test_a_session_that_cannot_start_says_why(aws, reported, parameters, expected):
    assert code(aws.client("ssm").start_session, **parameters) == expected


def test_target_not_connected_arrives_as_its_own_exception(aws):
    client = aws.client("ssm")
    with pytest.raises(client.exceptions.TargetNotConnected, match="i-00000000000000001 is not connected"):
        client.start_session(Target="i-00000000000000001")
    assert client.describe_sessions(State="Active")["Sessions"] == []


def test_sessions_that_do_not_exist(aws):
    client = aws.client("ssm")
    assert code(client.resume_session, SessionId="maria-0000000000000000a") == "DoesNotExistException"
    assert code(client.terminate_session, SessionId="maria-0000000000000000a") == "DoesNotExistException"
    assert client.describe_sessions(State="History", Filters=[{"key": "Owner", "value": "nobody"}])["Sessions"] == []


def test_connection_status_of_a_node_without_a_channel(aws, reported):
    answer = aws.client("ssm").get_connection_status(Target=reported[0])
    assert (answer["Target"], answer["Status"]) == (reported[0], "notconnected")


def test_tags_of_a_hybrid_node(aws):
    client = aws.client("ssm")
    node = aws.instance_id("lagos-pos-gw-011")
    place = {"ResourceType": "ManagedInstance", "ResourceId": node}
    client.add_tags_to_resource(**place, Tags=[{"Key": "shift", "Value": "night"}])
    assert {"Key": "shift", "Value": "night"} in client.list_tags_for_resource(**place)["TagList"]
    found = client.describe_instance_information(Filters=[{"Key": "tag:shift", "Values": ["night"]}])
    assert [item["InstanceId"] for item in found["InstanceInformationList"]] == [node]
    client.remove_tags_from_resource(**place, TagKeys=["shift"])
    assert "shift" not in {tag["Key"] for tag in client.list_tags_for_resource(**place)["TagList"]}
    assert code(client.list_tags_for_resource, ResourceType="ManagedInstance", ResourceId="mi-0") == "InvalidResourceId"


def test_what_aws_has_and_we_have_not_is_told_so(aws):
    client = aws.client("ssm")
    assert code(client.start_automation_execution, DocumentName="AWS-RestartEC2Instance") == "NotImplemented"


def test_what_nobody_has_is_an_unknown_operation(agent):
    status, answer = agent.call("AmazonSSM.FlyToTheMoon", {})
    assert (status, answer["__type"]) == (400, "UnknownOperationException")
    status, answer = agent.call("Somebody.StartSession", {})
    assert (status, answer["__type"]) == (400, "UnknownOperationException")


def test_a_node_may_speak_for_itself_alone(aws, agent):
    """With the credentials that the endpoint gives a demo node; made here from the same vault key."""
    own, other = aws.instance_id("pay-api-eu1a-01"), aws.instance_id("pay-api-eu1b-02")
    node = agent.as_node(aws, own)
    assert node.report(own, AgentVersion="3.3.987.0")[0] == 200
    status, answer = node.report(other, AgentVersion="3.3.987.0")
    assert (status, answer["__type"]) == (400, "AccessDeniedException")
    poll = {"Destination": other, "MessagesRequestId": "m-1", "VisibilityTimeoutInSeconds": 10}
    status, answer = node.call("EC2WindowsMessageDeliveryService.GetMessages", poll, service="ec2messages")
    assert (status, answer["__type"]) == (400, "AccessDeniedException")
    for elsewhere in (("999999999999", "eu-west-1", own), ("111122223333", "us-east-1", own)):
        status, answer = agent.as_node(aws, own, node=elsewhere).report(own, AgentVersion="3.3.987.0")
        assert (status, answer["__type"]) == (400, "AccessDeniedException"), "the same id is another node elsewhere"
    assert node.post(f"/v1/control-channel/{own}")[0] == 201
    status, body = node.post(f"/v1/control-channel/{other}")
    assert status == 403
    assert b"<AccessDeniedException>" in body
    assert node.call("AmazonSSM.ListInstanceAssociations", {"InstanceId": own}) == (200, {"Associations": []})
    assert node.call("AmazonSSM.StartSession", {"Target": other})[1]["__type"] == "AccessDeniedException"


def test_a_channel_is_made_with_201_and_a_token_that_is_a_direct_child(aws, agent):
    status, body = agent.post("/v1/control-channel/i-00000000000000001")
    assert status == 201
    tokens = [child for child in ET.fromstring(body) if child.tag.endswith("TokenValue")]
    assert len(tokens) == 1 and tokens[0].text
    status, body = agent.post("/v1/data-channel/maria-0000000000000000a")
    assert status == 404 and b"Session is already terminated" in body


def test_an_upgrade_that_nobody_signed_or_signed_wrong_is_refused(aws, agent):
    assert agent.upgrade("/v1/control-channel/i-00000000000000001", signed=False)[0] == 403
    status, body = agent.upgrade("/v1/control-channel/i-00000000000000001", secret="wrong")
    assert status == 403 and b"InvalidSignatureException" in body
    assert agent.upgrade("/v1/elsewhere", signed=False)[0] in {403, 404}


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, "ValidationException"),
        ({"InstanceId": "../etc"}, "ValidationException"),
        ({"InstanceId": "i-1", "AgentVersion": "x" * 100}, "ValidationException"),
        ({"InstanceId": "i-1", "PlatformType": "BeOS"}, "ValidationException"),
    ],
)
def test_a_bad_report_is_refused(agent, parameters, expected):
    status, answer = agent.call(AGENT, parameters)
    assert (status, answer["__type"]) == (400, expected)


def test_an_empty_poll_waits_and_comes_back_empty(aws, agent):
    answers = []
    body = {"Destination": "i-00000000000000001", "MessagesRequestId": "m-1", "VisibilityTimeoutInSeconds": 10}
    poll = threading.Thread(
        target=lambda: answers.append(
            agent.call("EC2WindowsMessageDeliveryService.GetMessages", body, service="ec2messages")
        )
    )
    poll.start()
    poll.join(0.5)
    assert answers == []
    until(lambda: answers, seconds=20)
    poll.join()
    assert answers == [(200, {"Destination": "i-00000000000000001", "MessagesRequestId": "m-1", "Messages": []})]
