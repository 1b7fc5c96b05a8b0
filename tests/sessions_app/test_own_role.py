"""A rule names the IAM role that a shell is opened under: what the endpoint's CloudTrail has of it."""

import json
import uuid

import pytest

from fleetops.audit.models import AuditEvent
from fleetops.policy import services as policy
from fleetops.policy.models import Rule
from sessions_app import streams
from sessions_app.states import SessionState
from tests.support.endpoint import RunningEndpoint

from .conftest import ended, opened, until

PEOPLE = ("sts:AssumeRole", "sts:SetSourceIdentity", "sts:TagSession")


@pytest.fixture
def aws(demo_endpoint, home) -> RunningEndpoint:
    return RunningEndpoint(home / "endpoint", None, demo_endpoint, home / "endpoint.log")


@pytest.fixture
def role(aws):
    """`role(trusted)` makes a role that may open sessions, and that trusts FleetOps's own user or not; its ARN."""

    def make(*, trusted: bool) -> str:
        iam, name = aws.client("iam"), f"oncall-{uuid.uuid4().hex[:8]}"
        caller = aws.client("sts", user="fleetops").get_caller_identity()["Arn"]
        principal = {"AWS": caller} if trusted else {"Service": "ec2.amazonaws.com"}
        trust = {"Effect": "Allow", "Principal": principal, "Action": list(PEOPLE)}
        arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=document(trust))["Role"]["Arn"]
        sessions = {"Effect": "Allow", "Action": ["ssm:StartSession", "ssm:ResumeSession"], "Resource": "*"}
        iam.put_role_policy(RoleName=name, PolicyName="sessions", PolicyDocument=document(sessions))
        assume = {"Effect": "Allow", "Action": list(PEOPLE), "Resource": arn}
        iam.put_user_policy(UserName="fleetops", PolicyName=name, PolicyDocument=document(assume))
        return arn

    return make


def document(statement: dict) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def events(aws, name: str) -> list[dict]:
    """All CloudTrail events of an operation, newest first."""
    asked = {"LookupAttributes": [{"AttributeKey": "EventName", "AttributeValue": name}]}
    pages = aws.client("cloudtrail").get_paginator("lookup_events").paginate(**asked)
    return [json.loads(event["CloudTrailEvent"]) for page in pages for event in page["Events"]]


def assumed(aws, arn: str) -> list[dict]:
    return [event for event in events(aws, "AssumeRole") if event["requestParameters"].get("roleArn") == arn]


def in_the_accounts_role(aws) -> set[str]:
    """The events by which the account's own role was assumed in Mei's name."""
    found = assumed(aws, aws.account["role_arn"])
    return {each["eventID"] for each in found if each["requestParameters"]["roleSessionName"] == "mei.tanaka"}


def started(aws, session) -> list[dict]:
    marker = f"fleetops:{session.pk}"
    return [each for each in events(aws, "StartSession") if marker in each["requestParameters"].get("reason", "")]


def give(user, arn: str, **more: str) -> None:
    """One rule alone: `user` opens shells, under that role."""
    Rule.objects.all().delete()
    fields = {"users": [user], "deeds": ["shell"], "targets": "all", "role_arn": arn, "confirmed": True, **more}
    policy.create_rule(actor="tests", name="On call", **fields)
    own = {"users": [user], "deeds": ["end_session", "read_recording"], "targets": "all", "confirmed": True}
    policy.create_rule(actor="tests", name="Own", **own)


def test_a_shell_is_opened_under_the_role_of_its_rule_in_the_name_of_its_user(
    aws, role, terminal, demo_instance, operator
):
    arn = role(trusted=True)
    give(operator, arn)
    earlier = in_the_accounts_role(aws)  # other tests have opened shells in her name
    session = opened(demo_instance, operator, reason="INC-4821")
    browser = terminal.browser(session, operator)
    browser.until(r"[$#] ", seconds=20)
    (assuming,) = until(lambda: assumed(aws, arn), what="AssumeRole is in CloudTrail")
    given = assuming["requestParameters"]
    assert (given["roleArn"], given["roleSessionName"], given["sourceIdentity"]) == (arn, "mei.tanaka", "mei.tanaka")
    assert given["tags"] == [{"key": "FleetOpsUser", "value": "mei.tanaka"}] and "errorCode" not in assuming
    (starting,) = started(aws, session)
    who = starting["userIdentity"]
    assert who["arn"].endswith(f":assumed-role/{arn.rpartition('/')[2]}/mei.tanaka")
    assert who["sessionContext"]["sourceIdentity"] == "mei.tanaka"
    assert starting["requestParameters"]["target"] == demo_instance.instance_id
    # The account's own role did nothing in her name: it alone ends sessions.
    assert in_the_accounts_role(aws) == earlier
    opening = AuditEvent.objects.get(action="sessions.open", session_id=str(session.pk))
    assert (opening.details["role_arn"], opening.details["rules"]) == (arn, ["On call"])
    browser.type("exit\r")
    browser.told("ended")
    assert ended(session).state == SessionState.ENDED


def test_the_os_user_of_a_session_is_told_in_a_tag_of_its_role(aws, role, demo_instance, operator):
    arn = role(trusted=True)
    give(operator, arn, shell_user="deploy")
    session = opened(demo_instance, operator)
    session.ssm_session_id = streams.start(session).session_id
    assert streams.terminate(session)
    (assuming,) = until(lambda: assumed(aws, arn), what="AssumeRole is in CloudTrail")
    tags = {each["key"]: each["value"] for each in assuming["requestParameters"]["tags"]}
    assert tags == {"FleetOpsUser": "mei.tanaka", "SSMSessionRunAs": "deploy"}
    (starting,) = started(aws, session)
    assert starting["userIdentity"]["arn"].endswith(f":assumed-role/{arn.rpartition('/')[2]}/mei.tanaka")


def test_a_role_that_cannot_be_assumed_is_told_and_no_session_is_begun(aws, role, terminal, demo_instance, operator):
    arn = role(trusted=False)
    give(operator, arn)
    active = {each["SessionId"] for each in aws.client("ssm").describe_sessions(State="Active")["Sessions"]}
    session = opened(demo_instance, operator)
    browser = terminal.browser(session, operator)
    text = browser.told("ended", seconds=20)["text"]
    assert "sts:AssumeRole" in text and arn.rpartition("/")[2] in text
    session = ended(session)
    assert session.state == SessionState.FAILED and session.ssm_session_id == ""
    assert "sts:AssumeRole" in session.end_reason
    (refused, *_) = until(lambda: assumed(aws, arn), what="AssumeRole is in CloudTrail")
    assert refused["errorCode"] == "AccessDenied"
    assert started(aws, session) == []
    now_active = {each["SessionId"] for each in aws.client("ssm").describe_sessions(State="Active")["Sessions"]}
    assert now_active <= active
    failing = AuditEvent.objects.get(action="sessions.start.fail", session_id=str(session.pk))
    assert failing.outcome == "failed" and "sts:AssumeRole" in failing.reason
    give(operator, role(trusted=True))  # whoever administers the policy gives a role that works
    again = opened(demo_instance, operator)
    browser = terminal.browser(again, operator)
    browser.until(r"[$#] ", seconds=20)
    browser.type("exit\r")
    browser.told("ended")
    ended(again)
