"""Ends of commands that no node tells: time-outs, a cancel that is not heard, a database that is away."""

import json
import subprocess
import sys

import pytest

from fleetops import clock
from tests.endpoint.jobs import HandAgent, until
from tests.support.endpoint import ROOT, running_endpoint

SHELL = "AWS-RunShellScript"


@pytest.fixture(scope="module")
def shifted(tmp_path_factory):
    """An endpoint of its own, and the file of its clock."""
    home = tmp_path_factory.mktemp("shifted")
    path = home / "clock.json"
    clock.set_shift(path)
    with running_endpoint(home / "home", FLEETOPS_ENDPOINT_POLL_SECONDS="1", FLEETOPS_CLOCK_FILE=str(path)) as endpoint:
        yield endpoint, path


@pytest.fixture
def ssm(shifted):
    return shifted[0].client("ssm")


@pytest.fixture
def agent(shifted):
    endpoint, _ = shifted
    instances = endpoint.client("ec2").describe_instances(
        Filters=[{"Name": "instance-state-name", "Values": ["running"]}]
    )["Reservations"]
    agent = HandAgent(endpoint, sorted(item["InstanceId"] for group in instances for item in group["Instances"])[0])
    yield agent.connect()
    agent.close()


def send(ssm, instance_id: str, **parameters: list[str]) -> str:
    given = {"commands": ["true"], "executionTimeout": ["5"]} | parameters
    answer = ssm.send_command(
        DocumentName=SHELL, InstanceIds=[instance_id], Parameters=given, TimeoutSeconds=30, MaxErrors="0"
    )
    return answer["Command"]["CommandId"]


def ends(ssm, command_id: str, expected: str) -> None:
    def told() -> tuple[str, str]:
        (command,) = ssm.list_commands(CommandId=command_id)["Commands"]
        (invocation,) = ssm.list_command_invocations(CommandId=command_id)["CommandInvocations"]
        return command["StatusDetails"], invocation["StatusDetails"]

    until(lambda: told() == (expected, expected))


def test_what_is_not_delivered_in_time_has_ended_with_nothing_else_going_on(ssm, shifted, agent):
    agent.close()
    until(lambda: ssm.get_connection_status(Target=agent.instance_id)["Status"] == "notconnected")
    command_id = send(ssm, agent.instance_id)
    clock.set_shift(shifted[1], jump=31)
    ends(ssm, command_id, "DeliveryTimedOut")


def test_what_has_not_ended_in_time_has_ended_with_nothing_else_going_on(ssm, shifted, agent):
    command_id = send(ssm, agent.instance_id)
    agent.take(agent.job())
    until(lambda: ssm.list_commands(CommandId=command_id)["Commands"][0]["Status"] == "InProgress")
    clock.set_shift(shifted[1], jump=36)
    ends(ssm, command_id, "ExecutionTimedOut")


@pytest.mark.parametrize("seconds", ["9" * 12, "9" * 5000])
def test_a_time_out_that_no_clock_reaches_stands_in_nobodys_way(ssm, shifted, agent, seconds):
    step = {"action": "aws:runShellScript", "name": "long", "inputs": {"runCommand": ["x"], "timeoutSeconds": seconds}}
    content = {"schemaVersion": "2.2", "mainSteps": [step]}
    ssm.create_document(Name=f"Own-long-{len(seconds)}", DocumentType="Command", Content=json.dumps(content))
    endless = ssm.send_command(DocumentName=f"Own-long-{len(seconds)}", InstanceIds=[agent.instance_id])["Command"]
    job = agent.job()
    agent.take(job)
    command_id = send(ssm, agent.instance_id)
    agent.take(agent.job())
    until(lambda: ssm.list_commands(CommandId=command_id)["Commands"][0]["Status"] == "InProgress")
    clock.set_shift(shifted[1], jump=36)
    ends(ssm, command_id, "ExecutionTimedOut")
    agent.reply(job.job.job_id, "Success")
    ends(ssm, endless["CommandId"], "Success")


def test_a_cancel_is_told_again_until_it_is_acknowledged(ssm, agent):
    command_id = send(ssm, agent.instance_id)
    job = agent.job()
    agent.take(job)
    until(lambda: ssm.list_commands(CommandId=command_id)["Commands"][0]["Status"] == "InProgress")
    ssm.cancel_command(CommandId=command_id)
    first = agent.job()
    again = agent.job()
    assert again.job.is_cancel
    assert again.job.job_id == first.job.job_id
    agent.take(again)
    agent.reply(job.job.job_id, "Cancelled")
    ends(ssm, command_id, "Cancelled")


def test_what_is_larger_than_a_message_is_refused(ssm, agent):
    # Each quotation mark is three more in a text within a text within a text.
    with pytest.raises(ssm.exceptions.MaxDocumentSizeExceeded):
        send(ssm, agent.instance_id, commands=['"' * 70_000])


def test_a_database_that_is_away_loses_no_answer_and_sends_no_job_that_it_does_not_know(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.endpoint.commands_alone", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
