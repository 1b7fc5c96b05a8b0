"""How many automations are under way at once, what EventBridge is told, and the unmodified CLI."""

import json

import pytest

from tests.endpoint.jobs import until
from tests.endpoint.test_cli import aws as aws_cli
from tests.endpoint.test_ec2_events import Rule

from .runbooks import api, becomes, ended, make, sleep, start, statuses, step


@pytest.fixture
def ssm(aws):
    return aws.client("ssm")


def children(ssm, execution, status):
    filters = [{"Key": "ParentExecutionId", "Values": [execution]}, {"Key": "ExecutionStatus", "Values": [status]}]
    pages = ssm.get_paginator("describe_automation_executions").paginate(Filters=filters)
    return [one["AutomationExecutionId"] for page in pages for one in page["AutomationExecutionMetadataList"]]


def test_a_hundred_are_under_way_at_once_and_the_next_waits(ssm):
    name = make(ssm, sleep("nap", "PT1H"), parameters={"Name": {"type": "String"}})
    maps = [{"Name": [str(number)]} for number in range(101)]
    whole = start(ssm, name, TargetMaps=maps, MaxConcurrency="100%")
    until(lambda: len(children(ssm, whole, "InProgress")) == 100)
    (waits,) = children(ssm, whole, "Pending")
    ssm.stop_automation_execution(AutomationExecutionId=children(ssm, whole, "InProgress")[0])
    becomes(ssm, waits, "InProgress")
    ssm.stop_automation_execution(AutomationExecutionId=whole)
    assert ended(ssm, whole)["ProgressCounters"]["CancelledSteps"] == 101


def test_one_that_waits_for_another_gives_its_place_away(ssm):
    """A hundred that start one each would otherwise wait for ever."""
    inner = make(ssm, sleep("nap"))
    name = make(
        ssm,
        step("call", "executeAutomation", {"DocumentName": inner}),
        parameters={"Name": {"type": "String"}},
    )
    maps = [{"Name": [str(number)]} for number in range(100)]
    found = ended(ssm, start(ssm, name, TargetMaps=maps, MaxConcurrency="100"))
    assert found["ProgressCounters"]["SuccessSteps"] == 100


def test_eventbridge_is_told_of_each_state(ssm, aws):
    rule = Rule(aws, {"source": ["aws.ssm"], "detail-type": [{"prefix": "EC2 Automation"}]})
    name = make(ssm, sleep("nap"), api("look", "iam", "GetRole", RoleName="nobody"))
    found = ended(ssm, start(ssm, name))
    heard: list[dict] = []

    def listen() -> bool:
        events = [json.loads(body) for body in rule.bodies()]
        heard.extend(one for one in events if one["detail"]["ExecutionId"] == found["AutomationExecutionId"])
        return len(heard) >= 6

    until(listen)
    said = [(event["detail"].get("StepName", ""), event["detail"]["Status"]) for event in heard]
    assert said == [
        ("", "InProgress"),
        ("nap", "InProgress"),
        ("nap", "Success"),
        ("look", "InProgress"),
        ("look", "Failed"),
        ("", "Failed"),
    ]
    last = heard[-1]
    assert last["detail-type"] == "EC2 Automation Execution Status-change Notification"
    assert last["resources"][0].endswith(f":automation-execution/{found['AutomationExecutionId']}")
    assert (last["detail"]["Definition"], last["detail"]["ExecutedBy"]) == (name, found["ExecutedBy"])


def test_the_cli_runs_a_runbook(ssm, aws):
    name = make(ssm, step("hold", "pause"), parameters={"Names": {"type": "StringList"}})
    words = ("start-automation-execution", "--document-name", name, "--parameters", "Names=a,b")
    execution = json.loads(aws_cli(aws, "ssm", *words).stdout)["AutomationExecutionId"]
    becomes(ssm, execution, "Waiting")
    signal = ("send-automation-signal", "--automation-execution-id", execution, "--signal-type", "Resume")
    told = aws_cli(aws, "ssm", *signal)
    assert told.returncode == 0, told.stderr
    assert statuses(ended(ssm, execution)) == {"hold": "Success"}
    shown = aws_cli(aws, "ssm", "get-automation-execution", "--automation-execution-id", execution)
    assert json.loads(shown.stdout)["AutomationExecution"]["Parameters"] == {"Names": ["a", "b"]}
