"""Automations through a kill -9 of the endpoint, lost connections, and a clock that goes on meanwhile."""

import json

import pytest
from botocore.exceptions import ConnectionClosedError

from fleetops import clock
from tests.endpoint.jobs import HandAgent, until
from tests.support.endpoint import running_endpoint
from tests.support.faults import Faults

from .runbooks import api, becomes, ended, get, make, of_step, run, sleep, start, statuses, step


@pytest.fixture(scope="module")
def shifted(tmp_path_factory):
    """An endpoint of its own, and the file of its clock."""
    home = tmp_path_factory.mktemp("killed")
    path = home / "clock.json"
    clock.set_shift(path)
    with running_endpoint(home / "home", FLEETOPS_ENDPOINT_POLL_SECONDS="1", FLEETOPS_CLOCK_FILE=str(path)) as endpoint:
        yield endpoint, path


def killed(endpoint):
    endpoint.kill()
    endpoint.start_again()
    return endpoint.client("ssm")


def step_is(ssm, execution, name, status):
    return until(lambda: (found := get(ssm, execution)) and statuses(found)[name] == status and found)


def test_an_end_in_order_leaves_an_automation_where_it_is(shifted):
    endpoint, _ = shifted
    ssm = endpoint.client("ssm")
    execution = run(ssm, sleep("nap", "PT3S"), api("look", "sts", "GetCallerIdentity"))
    begun = of_step(step_is(ssm, execution, "nap", "InProgress"), "nap")["ExecutionStartTime"]
    endpoint.stop()
    ssm = endpoint.start_again().client("ssm")
    found = ended(ssm, execution)
    assert (found["AutomationExecutionStatus"], of_step(found, "nap")["ExecutionStartTime"]) == ("Success", begun)


def test_what_was_asked_to_stop_stops_after_a_kill_too(shifted):
    endpoint, _ = shifted
    ssm = endpoint.client("ssm")
    execution = run(ssm, sleep("nap", "PT1H", onCancel="step:tidy"), sleep("no", isEnd=True), sleep("tidy"))
    step_is(ssm, execution, "nap", "InProgress")
    inner = [sleep("pause", "PT1H"), sleep("onward")]
    loops = run(ssm, step("each", "loop", {"Iterators": ["a", "b"], "Steps": inner}))
    until(lambda: statuses(get(ssm, loops)).get("pause") == "InProgress")
    for one in (execution, loops):
        ssm.stop_automation_execution(AutomationExecutionId=one)
    ssm = killed(endpoint)
    found = ended(ssm, execution)
    assert found["AutomationExecutionStatus"] == "Cancelled"
    assert statuses(found) == {"nap": "Cancelled", "no": "Pending", "tidy": "Success"}
    assert statuses(ended(ssm, loops)) == {"each": "Cancelled", "pause": "Cancelled", "onward": "Pending"}


def test_what_changes_something_is_not_asked_for_twice(shifted):
    endpoint, _ = shifted
    ssm, faults = endpoint.client("ssm"), Faults(endpoint.handover)
    faults.put("slow", "latency", match={"operation": "CreateRole"}, seconds=60)
    trust = {"Version": "2012-10-17", "Statement": []}
    makes = api(
        "make",
        "iam",
        "CreateRole",
        RoleName="once",
        AssumeRolePolicyDocument=json.dumps(trust),
        step_={"maxAttempts": 3},
    )
    changes = run(ssm, makes, sleep("after"))
    step_is(ssm, changes, "make", "InProgress")
    faults.put("slower", "latency", match={"operation": "GetRole"}, seconds=60)
    reads = run(ssm, api("look", "iam", "GetRole", RoleName="ssm-core"))
    step_is(ssm, reads, "look", "InProgress")
    ssm = killed(endpoint)
    assert ended(ssm, reads)["AutomationExecutionStatus"] == "Success"
    found = ended(ssm, changes)
    assert statuses(found) == {"make": "Failed", "after": "Pending"}
    assert (
        "Automation was interrupted while CreateRole was under way: it may have been carried out; it is not repeated"
        in found["FailureMessage"]
    )


def test_a_lost_connection_is_told_and_only_a_read_is_made_again(shifted):
    endpoint, _ = shifted
    ssm, faults = endpoint.client("ssm"), Faults(endpoint.handover)
    with faults.on("drop", match={"operation": "CreateRole"}, when="after"):
        asked = api(
            "make", "iam", "CreateRole", RoleName="lost", AssumeRolePolicyDocument="{}", step_={"maxAttempts": 3}
        )
        found = ended(ssm, run(ssm, asked))
    assert "The connection was lost before CreateRole was answered" in found["FailureMessage"]
    with faults.on("drop", match={"operation": "GetRole"}, when="before", times=1):
        read = api("look", "iam", "GetRole", RoleName="ssm-core", step_={"maxAttempts": 2})
        assert ended(ssm, run(ssm, read))["AutomationExecutionStatus"] == "Success"


def test_a_throttled_call_is_made_again_and_one_of_unclear_outcome_is_not(shifted):
    endpoint, _ = shifted
    ssm, faults = endpoint.client("ssm"), Faults(endpoint.handover)
    makes = api("make", "sqs", "CreateQueue", QueueName="throttled", step_={"maxAttempts": 3})
    with faults.on("error", match={"operation": "CreateQueue"}, code="Throttling", status=400, times=1):
        assert ended(ssm, run(ssm, makes))["AutomationExecutionStatus"] == "Success"
    with faults.on("error", match={"operation": "CreateQueue"}, code="InternalFailure", status=500, times=1):
        found = ended(ssm, run(ssm, makes))
    assert "An error occurred (InternalFailure) when calling the CreateQueue operation" in found["FailureMessage"]


def test_another_automation_of_which_no_answer_came_is_found_and_not_started_twice(shifted):
    endpoint, _ = shifted
    ssm, faults = endpoint.client("ssm"), Faults(endpoint.handover)
    inner = make(ssm, sleep("nap"))
    outer = make(ssm, step("call", "executeAutomation", {"DocumentName": inner}, maxAttempts=3))
    execution = start(ssm, outer)
    assert ended(ssm, execution)["AutomationExecutionStatus"] == "Success"
    # It strikes the call of the person, and then that of the automation.
    faults.put("lost", "drop", match={"operation": "StartAutomationExecution"}, when="after", times=2)
    with pytest.raises(ConnectionClosedError):
        start(ssm, outer)
    (last,) = ssm.describe_automation_executions(
        Filters=[{"Key": "DocumentNamePrefix", "Values": [outer]}], MaxResults=1
    )["AutomationExecutionMetadataList"]
    assert ended(ssm, last["AutomationExecutionId"])["AutomationExecutionStatus"] == "Success"
    filters = [{"Key": "ParentExecutionId", "Values": [last["AutomationExecutionId"]]}]
    assert len(ssm.describe_automation_executions(Filters=filters)["AutomationExecutionMetadataList"]) == 1


def test_a_kill_loses_no_automation_and_repeats_nothing(shifted):
    endpoint, file = shifted
    ssm = endpoint.client("ssm")
    agent = HandAgent(endpoint, endpoint.instance_id("web-checkout-eu1b-08")).connect()
    naps = run(ssm, api("before", "sqs", "CreateQueue", QueueName="once"), sleep("nap", "PT1H"), sleep("after"))
    step_is(ssm, naps, "nap", "InProgress")
    approvers = {"Approvers": ["admin", "arn:aws:iam::111122223333:role/ssm-core"], "MinRequiredApprovals": 2}
    asks = run(ssm, step("ask", "approve", approvers), sleep("after"))
    becomes(ssm, asks, "Waiting")
    ssm.send_automation_signal(AutomationExecutionId=asks, SignalType="Approve")
    inputs = {
        "DocumentName": "AWS-RunShellScript",
        "InstanceIds": [agent.instance_id],
        "Parameters": {"commands": ["x"]},
    }
    commands = run(ssm, step("ask", "runCommand", inputs))
    job = agent.job()
    waits = make(ssm, sleep("nap", "PT1H"), parameters={"Name": {"type": "String", "default": "x"}})
    calls = run(ssm, step("call", "executeAutomation", {"DocumentName": waits}))
    child = until(lambda: of_step(get(ssm, calls), "call").get("Outputs", {}).get("ExecutionId"))[0]
    targets = [{"Key": "ParameterValues", "Values": ["a", "b", "c"]}]
    wide = start(ssm, waits, TargetParameterName="Name", Targets=targets, MaxConcurrency="2")
    until(lambda: list(statuses(get(ssm, wide)).values()).count("InProgress") == 2)
    each = {"Iterators": ["a", "b"], "Steps": [sleep("pause", "PT1H"), sleep("onward")]}
    loops = run(ssm, step("each", "loop", each))
    until(lambda: statuses(get(ssm, loops)).get("pause") == "InProgress")
    agent.close()

    ssm = killed(endpoint)
    assert {get(ssm, one)["AutomationExecutionStatus"] for one in (naps, commands, calls, child, wide, loops)} == {
        "InProgress"
    }
    agent = HandAgent(endpoint, agent.instance_id).connect()
    again = agent.job()
    assert again.job.job_id == job.job.job_id  # the same command, told again
    agent.run(again)
    found = ended(ssm, commands)
    agent.close()
    assert found["AutomationExecutionStatus"] == "Success"
    assert len(ssm.list_commands(InstanceId=agent.instance_id)["Commands"]) == 1

    clock.set_shift(file, jump=3600)
    assert statuses(ended(ssm, naps)) == {"before": "Success", "nap": "Success", "after": "Success"}
    assert ended(ssm, calls)["AutomationExecutionStatus"] == ended(ssm, child)["AutomationExecutionStatus"] == "Success"
    step_is(ssm, wide, "c", "InProgress")
    until(lambda: [one["StepStatus"] for one in get(ssm, loops)["StepExecutions"]].count("InProgress") == 2)
    clock.set_shift(file, jump=3600)
    assert set(statuses(ended(ssm, wide)).values()) == {"Success"}
    rounds = ended(ssm, loops)["StepExecutions"]
    assert [one["ParentStepDetails"]["IteratorValue"] for one in rounds if one["StepName"] == "onward"] == ["a", "b"]
    events = endpoint.client("cloudtrail").lookup_events(
        LookupAttributes=[{"AttributeKey": "EventName", "AttributeValue": "CreateQueue"}]
    )["Events"]
    assert len([one for one in events if '"once"' in one["CloudTrailEvent"]]) == 1

    clock.set_shift(file, jump=7 * 86_400)  # nobody else has approved
    late = ended(ssm, asks)
    assert (late["AutomationExecutionStatus"], statuses(late)) == ("TimedOut", {"ask": "TimedOut", "after": "Pending"})
    assert json.loads(of_step(late, "ask")["Outputs"]["ApproverDecisions"][0])["Decision"] == "Approve"
