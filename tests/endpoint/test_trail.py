"""CloudTrail: an event for every request, append-only, without secrets."""

import json
import sqlite3

import orjson
import pytest
from botocore.exceptions import ClientError

from fleetops.endpoint.redaction import HIDDEN, redact
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
