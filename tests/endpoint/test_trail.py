"""CloudTrail: an event for every request, append-only, without secrets."""

import json
import sqlite3

import orjson
import pytest
from botocore.exceptions import ClientError

from fleetops.endpoint.redaction import HIDDEN, redact
from tests.endpoint.agent import AgentClient
from tests.support.endpoint import until


def events(aws, key: str, value: str) -> list[dict]:
    """The whole events with one attribute, newest first."""
    pages = (
        aws.client("cloudtrail")
        .get_paginator("lookup_events")
        .paginate(LookupAttributes=[{"AttributeKey": key, "AttributeValue": value}])
    )
    return [json.loads(event["CloudTrailEvent"]) for page in pages for event in page["Events"]]


def test_a_changing_call_is_there_when_it_is_answered(aws):
    keys = aws.as_role("kofi", SourceIdentity="kofi@example.com")
    aws.client("logs", **keys).create_log_group(logGroupName="of-kofi")
    (event, *_) = events(aws, "EventName", "CreateLogGroup")
    assert event["userIdentity"]["arn"].endswith(":assumed-role/FleetOpsControlPlane/kofi")
    assert event["userIdentity"]["sessionContext"]["sourceIdentity"] == "kofi@example.com"
    assert event["userIdentity"]["sessionContext"]["sessionIssuer"]["userName"] == "FleetOpsControlPlane"
    assert event["requestParameters"] == {"logGroupName": "of-kofi"}
    assert (event["eventSource"], event["awsRegion"], event["sourceIPAddress"]) == (
        "logs.amazonaws.com",
        "eu-west-1",
        "127.0.0.1",
    )
    assert event["readOnly"] is False
    assert "Boto3" in event["userAgent"]


def test_reads_and_refusals_are_recorded_too(aws):
    aws.client("ec2").describe_vpcs()
    (event, *_) = until(lambda: events(aws, "EventName", "DescribeVpcs"))
    assert event["readOnly"] is True
    with pytest.raises(ClientError):
        aws.client("ssm").start_session(Target="i-0000000000000dead", Reason="see what happens")
    (event, *_) = events(aws, "ResourceName", "i-0000000000000dead")
    assert (event["eventName"], event["errorCode"]) == ("StartSession", "TargetNotConnected")
    assert event["requestParameters"]["reason"] == "see what happens"
    with pytest.raises(ClientError):
        aws.client("iam", user="fleetops").create_user(UserName="eve")
    (event, *_) = [item for item in events(aws, "EventName", "CreateUser") if "errorCode" in item]
    assert event["errorCode"] == "AccessDenied"
    assert event["userIdentity"]["userName"] == "fleetops"


def test_no_secret_and_no_token_is_in_the_trail(aws):
    keys = aws.as_role("maria")
    created = aws.client("iam").create_access_key(UserName="fleetops")["AccessKey"]
    aws.client("iam").delete_access_key(UserName="fleetops", AccessKeyId=created["AccessKeyId"])
    until(lambda: events(aws, "EventName", "AssumeRole"))
    with sqlite3.connect(aws.home / "endpoint.sqlite3") as database:
        bodies = "\n".join(body for (body,) in database.execute("SELECT body FROM endpoint_trailevent"))
    database.close()
    assert "HIDDEN_DUE_TO_SECURITY_REASONS" in bodies
    for secret in (
        keys["aws_secret_access_key"],
        keys["aws_session_token"],
        created["SecretAccessKey"],
        aws.account["try_credentials"]["secret_access_key"],
    ):
        assert secret not in bodies


def test_the_database_refuses_to_change_or_delete_an_event(aws):
    aws.client("sns").create_topic(Name="kept")
    database = sqlite3.connect(aws.home / "endpoint.sqlite3", timeout=20)
    for statement in ("UPDATE endpoint_trailevent SET name = 'x'", "DELETE FROM endpoint_trailevent"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            database.execute(statement)
    database.close()


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"MaxResults": 51}, "ValidationException"),
        ({"NextToken": "!"}, "InvalidNextTokenException"),
        ({"StartTime": 200.0, "EndTime": 100.0}, "InvalidTimeRangeException"),
        ({"LookupAttributes": [{"AttributeKey": "Colour", "AttributeValue": "x"}]}, "ValidationException"),
    ],
)
def test_a_bad_lookup_is_refused(aws, parameters, code):
    with pytest.raises(ClientError) as caught:
        aws.client("cloudtrail").lookup_events(**parameters)
    assert caught.value.response["Error"]["Code"] == code


def test_pages_go_back_in_time_and_end(aws):
    for number in range(7):
        aws.client("sns").create_topic(Name=f"page-{number}")
    pages = (
        aws.client("cloudtrail")
        .get_paginator("lookup_events")
        .paginate(
            LookupAttributes=[{"AttributeKey": "EventName", "AttributeValue": "CreateTopic"}],
            PaginationConfig={"PageSize": 3},
        )
    )
    found = [event for page in pages for event in page["Events"]]
    assert len(found) >= 7
    assert len({event["EventId"] for event in found}) == len(found)
    times = [event["EventTime"] for event in found]
    assert times == sorted(times, reverse=True)


def test_secrets_are_hidden_wherever_a_form_puts_them():
    shown = redact(
        {
            "NewPassword": "a",
            "LaunchTemplateData.UserData": "b",
            "Entry.1.MessageBody": "c",
            "X-Amz-Security-Token": "d",
            "Tag.1.Value": "plain",
            "nested": {"list": [{"SecretString": "e", "Name": "n"}]},
        },
        "Something",
    )
    assert shown == {
        "newPassword": HIDDEN,
        "launchTemplateData.UserData": HIDDEN,
        "entry.1.MessageBody": HIDDEN,
        "x-Amz-Security-Token": HIDDEN,
        "tag.1.Value": "plain",
        "nested": {"list": [{"secretString": HIDDEN, "name": "n"}]},
    }
    assert redact({"Value": "p", "Name": "n"}, "PutParameter") == {"value": HIDDEN, "name": "n"}


def test_a_value_is_kept_in_bounds_whatever_it_is():
    deep: dict = {}
    for _ in range(900):
        deep = {"a": deep}
    wide = {f"k{number}": "x" * 5000 for number in range(5000)}
    assert len(orjson.dumps(redact({"deep": deep, "wide": wide}, ""))) < 300_000


def test_no_row_and_no_journal_bears_a_credential(aws):
    """All that the tests before this one have sent, looked through."""
    keys = aws.as_role("maria")
    aws.client("ssm", **keys).describe_sessions(State="Active")
    aws.client("sns", **keys).create_topic(Name="of-maria")
    with sqlite3.connect(aws.home / "endpoint.sqlite3") as database:
        rows = "\n".join(map(str, database.execute("SELECT * FROM endpoint_trailevent")))
    database.close()
    kept = rows.encode() + b"".join(path.read_bytes() for path in (aws.home / "moto").glob("journal-*"))
    kept += aws.log.read_bytes()
    for secret in (*keys.values(), *(aws.account[who]["secret_access_key"] for who in ("try_credentials",))):
        assert secret == keys["aws_access_key_id"] or secret.encode() not in kept
    assert b"IQoJb3JpZ2luX2Vj" not in kept
    assert b"AWS4-HMAC-SHA256 " not in kept


# --- LookupEvents ---


def looked_up(aws, key: str, value: str, **more) -> list[dict]:
    client = more.pop("client", None) or aws.client("cloudtrail")
    pages = client.get_paginator("lookup_events").paginate(
        LookupAttributes=[{"AttributeKey": key, "AttributeValue": value}], **more
    )
    return [event for page in pages for event in page["Events"]]


def test_an_event_is_found_by_each_of_its_attributes(aws):
    keys = aws.as_role("lookup-kofi", SourceIdentity="kofi@example.com")
    arn = aws.client("sns", **keys).create_topic(Name="looked-up")["TopicArn"]
    (event,) = looked_up(aws, "ResourceName", arn)
    assert (event["EventName"], event["EventSource"]) == ("CreateTopic", "sns.amazonaws.com")
    assert (event["Username"], event["ReadOnly"]) == ("lookup-kofi", "false")
    assert event["AccessKeyId"] == keys["aws_access_key_id"]
    assert event["Resources"] == [{"ResourceType": "AWS::SNS::Topic", "ResourceName": arn}]
    for key, value in [
        ("EventId", event["EventId"]),
        ("EventName", "CreateTopic"),
        ("ReadOnly", "false"),
        ("Username", "lookup-kofi"),
        ("ResourceType", "AWS::SNS::Topic"),
        ("ResourceName", arn),
        ("EventSource", "sns.amazonaws.com"),
        ("AccessKeyId", keys["aws_access_key_id"]),
    ]:
        found = looked_up(aws, key, value, PaginationConfig={"MaxItems": 500})
        assert event["EventId"] in {each["EventId"] for each in found}, key
        assert looked_up(aws, key, f"no-{value}") == ([] if key != "ReadOnly" else looked_up(aws, key, "false")), key


def test_a_lookup_keeps_to_its_time_and_shows_fifty_at_once(aws):
    topics = aws.client("sns")
    for number in range(52):
        topics.delete_topic(TopicArn=f"arn:aws:sns:eu-west-1:111122223333:timed-{number}")
    client = aws.client("cloudtrail")
    asked = {"LookupAttributes": [{"AttributeKey": "EventName", "AttributeValue": "DeleteTopic"}]}
    first = client.lookup_events(**asked)
    assert len(first["Events"]) == 50 and first["NextToken"]
    second = client.lookup_events(**asked, NextToken=first["NextToken"])["Events"]
    assert len(second) >= 2
    middle = second[0]["EventTime"]
    since = {event["EventId"] for event in looked_up(aws, "EventName", "DeleteTopic", StartTime=middle)}
    until_then = {event["EventId"] for event in looked_up(aws, "EventName", "DeleteTopic", EndTime=middle)}
    everything = {event["EventId"] for event in (*first["Events"], *second)}
    assert since | until_then >= everything
    assert second[0]["EventId"] in since | until_then
    assert looked_up(aws, "EventName", "DeleteTopic", StartTime=first["Events"][0]["EventTime"].timestamp() + 60) == []


def test_a_chain_of_roles_shows_whose_it_is_all_along(aws):
    iam = aws.client("iam")
    trust = {
        "Effect": "Allow",
        "Principal": {"AWS": "arn:aws:iam::111122223333:root"},
        "Action": ["sts:AssumeRole", "sts:SetSourceIdentity"],
    }
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    arn = iam.create_role(RoleName="chain-end", AssumeRolePolicyDocument=document)["Role"]["Arn"]
    keys = aws.as_role("maria", SourceIdentity="maria@example.com")
    made = aws.client("sts", **keys).assume_role(RoleArn=arn, RoleSessionName="onward")["Credentials"]
    event = next(each for each in events(aws, "ResourceName", arn) if each["eventName"] == "AssumeRole")
    assert event["userIdentity"]["arn"].endswith(":assumed-role/FleetOpsControlPlane/maria")
    assert event["userIdentity"]["sessionContext"]["sourceIdentity"] == "maria@example.com"
    assert event["requestParameters"]["roleSessionName"] == "onward"
    assert event["responseElements"]["sourceIdentity"] == "maria@example.com"
    assert {"ARN": arn, "accountId": "111122223333", "type": "AWS::IAM::Role"} in event["resources"]
    onward = {
        "aws_access_key_id": made["AccessKeyId"],
        "aws_secret_access_key": made["SecretAccessKey"],
        "aws_session_token": made["SessionToken"],
    }
    with pytest.raises(ClientError):
        aws.client("sns", **onward).create_topic(Name="not-allowed")
    (event,) = [each for each in events(aws, "Username", "onward") if each["eventName"] == "CreateTopic"]
    assert event["errorCode"] == "AuthorizationError"
    context = event["userIdentity"]["sessionContext"]
    assert context["sourceIdentity"] == "maria@example.com"
    assert (context["sessionIssuer"]["arn"], context["sessionIssuer"]["userName"]) == (arn, "chain-end")
    assert event["userIdentity"]["principalId"] == f"{context['sessionIssuer']['principalId']}:onward"


def test_a_node_is_named_by_its_id(aws):
    own = "i-0cccccccccccccccc"
    agent = AgentClient(aws).as_node(aws, own)
    assert agent.report(own, AgentVersion="3.3.987.0")[0] == 200
    assert agent.report("i-0ddddddddddddddd1", AgentVersion="3.3.987.0")[0] == 400
    found = until(lambda: found if len(found := looked_up(aws, "Username", own)) == 2 else None)
    bodies = [json.loads(event["CloudTrailEvent"]) for event in found]
    assert [body.get("errorCode") for body in bodies] == ["AccessDeniedException", None]
    assert bodies[1]["userIdentity"]["arn"] == f"arn:aws:sts::111122223333:assumed-role/ssm-core/{own}"
    assert found[1]["Resources"] == [{"ResourceType": "AWS::EC2::Instance", "ResourceName": own}]


def test_the_owner_of_a_role_that_another_account_assumes_sees_it_too(aws):

    arn = "arn:aws:iam::444455556666:role/for-the-other"
    trust = {"Effect": "Allow", "Principal": {"AWS": "111122223333"}, "Action": "sts:AssumeRole"}
    aws.staging_client("iam").create_role(
        RoleName="for-the-other",
        AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
    )
    aws.client("sts").assume_role(RoleArn=arn, RoleSessionName="visitor")
    (here,) = events(aws, "ResourceName", arn)
    theirs = looked_up(aws, "ResourceName", arn, client=aws.staging_client("cloudtrail"))
    (there,) = [each for each in theirs if each["EventName"] == "AssumeRole"]
    body = json.loads(there["CloudTrailEvent"])
    assert body["sharedEventID"] == here["sharedEventID"]
    assert (body["recipientAccountId"], body["userIdentity"]["type"]) == ("444455556666", "AWSAccount")
    assert body["userIdentity"]["accountId"] == "111122223333"
    assert "Username" not in there


def test_a_sessions_events_are_there_and_hide_its_token(aws):
    with pytest.raises(ClientError):
        aws.client("ssm").terminate_session(SessionId="admin-0123456789abcdef0")
    (event, *_) = events(aws, "ResourceName", "admin-0123456789abcdef0")
    assert (event["eventName"], event["errorCode"]) == ("TerminateSession", "DoesNotExistException")
