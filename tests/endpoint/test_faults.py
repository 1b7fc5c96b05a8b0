"""Faults on demand, each as boto3 sees it."""

import http.client
import time

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from fleetops.endpoint import faults as module
from fleetops.endpoint.faults import read_rule
from tests.endpoint.agent import AgentClient
from tests.support.endpoint import running_endpoint
from tests.support.faults import Faults, FaultsRefused


@pytest.fixture
def faults(aws):
    made = Faults(aws.handover)
    yield made
    made.delete()


def code_of(call, **parameters) -> tuple[str, int]:
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    return caught.value.response["Error"]["Code"], caught.value.response["ResponseMetadata"]["HTTPStatusCode"]


@pytest.mark.parametrize(
    ("service", "operation", "code", "status"),
    [
        ("ssm", "describe_instance_information", "ThrottlingException", 400),
        ("ec2", "describe_instances", "RequestLimitExceeded", 503),
        ("sts", "get_caller_identity", "Throttling", 400),
        ("iam", "list_roles", "Throttling", 400),
        ("s3", "list_buckets", "SlowDown", 503),
        ("securityhub", "get_findings", "TooManyRequestsException", 429),
    ],
)
def test_a_throttle_lets_so_many_through_and_then_speaks_each_services_own_words(
    aws, faults, service, operation, code, status
):
    faults.put("few", "throttle", rate=0.01, burst=2, match={"service": service})
    call = getattr(aws.client(service), operation)
    call()
    call()
    assert code_of(call) == (code, status)
    rule = faults.rules()["few"]
    assert (rule["matched"], rule["struck"]) == (3, 1)


def test_a_throttled_call_comes_through_again_at_the_rules_rate(monkeypatch):
    moment = [100.0]
    monkeypatch.setattr(module.clock, "monotonic", lambda: moment[0])
    rule = read_rule({"kind": "throttle", "rate": 5})
    assert [rule.strikes(moment[0]) for _ in range(7)] == [False] * 5 + [True] * 2
    moment[0] += 0.4  # two calls' worth
    assert [rule.strikes(moment[0]) for _ in range(3)] == [False, False, True]


def test_a_rule_strikes_only_what_it_matches(aws, faults):
    faults.put("one", "error", code="Sorry", status=500, match={"service": "ssm", "operation": "Describe*"})
    assert code_of(aws.client("ssm").describe_sessions, State="Active") == ("Sorry", 500)
    assert aws.client("ssm").list_documents()
    assert aws.client("ec2").describe_regions()
    faults.put("one", "error", code="Sorry", status=500, match={"region": "us-*"})
    assert aws.client("ssm").describe_sessions(State="Active")
    faults.put("one", "error", code="Sorry", status=500, match={"account": aws.staging["account_id"]})
    assert aws.client("sts").get_caller_identity()
    assert code_of(aws.staging_client("sts").get_caller_identity) == ("Sorry", 500)
    faults.put("one", "error", code="Sorry", status=500, match={"caller": "*:user/fleetops"})
    assert aws.client("sts").get_caller_identity()
    assert code_of(aws.client("sts", user="fleetops").get_caller_identity) == ("Sorry", 500)


def test_an_error_may_come_only_so_often_or_only_sometimes(aws, faults):
    call = aws.client("sts").get_caller_identity
    faults.put("one", "error", code="InternalFailure", status=500, message="Out of order", times=1)
    assert code_of(call) == ("InternalFailure", 500)
    assert call()["Account"]
    faults.put("one", "error", code="InternalFailure", status=500, probability=0.5, seed=7)
    struck = []
    for _ in range(20):
        try:
            call()
            struck.append(False)
        except ClientError:
            struck.append(True)
    faults.put("one", "error", code="InternalFailure", status=500, probability=0.5, seed=7)
    again = []
    for _ in range(20):
        try:
            call()
            again.append(False)
        except ClientError:
            again.append(True)
    assert 0 < sum(struck) < 20 and struck == again


def test_latency_delays_the_answer_and_nothing_else(aws, faults):
    faults.put("slow", "latency", seconds=0.3, match={"operation": "GetCallerIdentity"})
    began = time.monotonic()
    assert aws.client("sts").get_caller_identity()["Account"]
    assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize(("when", "is_there"), [("before", False), ("after", True)])
def test_a_lost_connection_leaves_the_outcome_unknown_to_the_caller_alone(aws, faults, when, is_there):
    name = f"lost-{when}"
    faults.put("lost", "drop", when=when, match={"operation": "CreateRole"})
    with pytest.raises(ConnectionClosedError):
        aws.client("iam").create_role(RoleName=name, AssumeRolePolicyDocument="{}")
    faults.delete("lost")
    roles = {role["RoleName"] for role in aws.client("iam").list_roles(MaxItems=1000)["Roles"]}
    assert (name in roles) is is_there
    events = aws.client("cloudtrail").lookup_events(
        LookupAttributes=[{"AttributeKey": "EventName", "AttributeValue": "CreateRole"}]
    )["Events"]
    assert any(name in event["CloudTrailEvent"] for event in events) is is_there


def test_the_first_rule_that_strikes_decides_and_delays_add_up(aws, faults):
    faults.put("a-delay", "latency", seconds=0.15)
    faults.put("b-delay", "latency", seconds=0.15)
    faults.put("c-first", "error", code="First", status=500)
    faults.put("d-second", "error", code="Second", status=500)
    began = time.monotonic()
    assert code_of(aws.client("sts").get_caller_identity) == ("First", 500)
    assert time.monotonic() - began >= 0.3
    assert faults.rules()["d-second"]["matched"] == 0


def test_calls_of_nodes_are_struck_only_where_the_caller_is_named(aws, faults):
    instance_id = "i-0fa0175000000000a"
    node = AgentClient(aws).as_node(aws, instance_id)
    faults.put("all", "error", code="Sorry", status=500, match={"service": "ssm*"})
    assert node.report(instance_id, AgentVersion="3.3.987.0") == (200, {})
    assert node.post(f"/v1/control-channel/{instance_id}")[0] == 201
    faults.put("all", "error", code="Sorry", status=500, match={"service": "ssm*", "caller": f"*/{instance_id}"})
    status, answer = node.report(instance_id, AgentVersion="3.3.987.0")
    assert (status, answer["__type"]) == (500, "Sorry")
    faults.put("all", "throttle", rate=0.01, match={"caller": f"*/{instance_id}", "operation": "CreateControlChannel"})
    assert node.post(f"/v1/control-channel/{instance_id}")[0] == 201
    status, body = node.post(f"/v1/control-channel/{instance_id}")
    assert status == 400 and b"ThrottlingException" in body
    assert node.report(instance_id, AgentVersion="3.3.987.0") == (200, {})
    faults.put("all", "drop", when="before", match={"caller": f"*/{instance_id}"})
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        node.report(instance_id, AgentVersion="3.3.999.0")
    told = aws.client("ssm").describe_instance_information(Filters=[{"Key": "InstanceIds", "Values": [instance_id]}])
    assert told["InstanceInformationList"][0]["AgentVersion"] == "3.3.987.0"


def test_there_are_so_many_rules_and_each_is_so_long(aws, faults):
    for n in range(200):
        faults.put(f"rule-{n}", "latency", seconds=0, match={"service": "none"})
    with pytest.raises(FaultsRefused, match="200 rules are enough"):
        faults.put("more", "latency", seconds=0)
    faults.put("rule-7", "latency", seconds=1, match={"service": "none"})
    with pytest.raises(FaultsRefused, match="smaller than this") as caught:
        faults.put("rule-8", "error", code="x", status=500, message="y" * 20_000)
    assert caught.value.status == 413 and len(faults.rules()) == 200
    faults.delete()
    assert faults.rules() == {}


def test_rules_are_nobodys_without_the_token(aws, faults):
    for token in ("", "wrong", aws.account["try_credentials"]["secret_access_key"]):
        with pytest.raises(FaultsRefused, match="faults_token") as caught:
            Faults(aws.handover, token=token).rules()
        assert caught.value.status == 403
    assert (aws.home / "handover.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"kind": "earthquake"}, "kind is one of throttle, error, latency, drop, lie"),
        ({"kind": "throttle"}, "throttle needs rate"),
        ({"kind": "throttle", "rate": 0}, "rate is a number from 0.01"),
        ({"kind": "throttle", "rate": True}, "rate is a number"),
        ({"kind": "latency", "seconds": 1, "rate": 1}, "latency takes no rate"),
        ({"kind": "drop", "when": "later"}, "before"),
        ({"kind": "drop", "when": "after", "match": {"bucket": "x"}}, "match holds patterns of"),
        ({"kind": "drop", "when": "after", "match": {"service": ""}}, "a pattern is a text"),
        ({"kind": "error", "code": "X", "status": 200}, "status is a number from 400 to 599"),
        ({"kind": "error", "code": "X", "status": 500, "probability": 2}, "probability is a number from 0 to 1"),
    ],
)
def test_a_rule_that_is_wrong_is_told_so_and_changes_nothing(aws, faults, rule, words):
    facts = {name: value for name, value in rule.items() if name != "kind"}
    with pytest.raises(FaultsRefused, match=words) as caught:
        faults.put("wrong", rule["kind"], **facts)
    assert caught.value.status == 400 and faults.rules() == {}


def test_a_deleted_rule_is_gone_and_one_that_was_never_there_is_told(aws, faults):
    faults.put("one", "error", code="Sorry", status=500)
    faults.delete("one")
    assert aws.client("sts").get_caller_identity()
    with pytest.raises(FaultsRefused, match="there is no rule one"):
        faults.delete("one")
    with pytest.raises(FaultsRefused, match="an id is"):
        faults.put("a/b", "error", code="Sorry", status=500)


def test_outside_the_embedded_profile_there_are_no_faults(tmp_path):
    with running_endpoint(tmp_path / "endpoint", FLEETOPS_PROFILE="production") as plain:
        assert "faults_token" not in plain.handover
        with pytest.raises(FaultsRefused) as caught:
            Faults(plain.handover, token="").put("one", "error", code="Sorry", status=500)
        assert "AuthorizationHeaderMalformed" in str(caught.value)  # as for any path that AWS does not know
        assert plain.client("sts").get_caller_identity()
