"""Run Command by boto3, with agents by hand on real control channels."""

import json
from uuid import uuid4

import pytest
from botocore.exceptions import ClientError

from tests.endpoint.jobs import HandAgent, shell_step, until
from tests.support.endpoint import running_endpoint

SHELL = "AWS-RunShellScript"


def code(call, **parameters) -> str:
    with pytest.raises(ClientError) as refused:
        call(**parameters)
    return refused.value.response["Error"]["Code"]


@pytest.fixture
def ssm(aws):
    return aws.client("ssm")


@pytest.fixture(scope="module")
def ids(aws):
    """Three EC2 instances of the seed, which no demo node speaks for here."""
    found = []
    for page in (
        aws.client("ec2")
        .get_paginator("describe_instances")
        .paginate(Filters=[{"Name": "instance-state-name", "Values": ["running"]}])
    ):
        found += [item["InstanceId"] for group in page["Reservations"] for item in group["Instances"]]
    return sorted(found)[:3]


@pytest.fixture
def agents(aws, ids):
    connected = [HandAgent(aws, instance_id).connect() for instance_id in ids]
    yield connected
    for agent in connected:
        agent.close()


@pytest.fixture
def agent(agents):
    return agents[0]


def send(ssm, *instance_ids: str, **more) -> str:
    more = {"DocumentName": SHELL, "Parameters": {"commands": ["true"]}, "InstanceIds": list(instance_ids)} | more
    return ssm.send_command(**more)["Command"]["CommandId"]


def details(ssm, command_id: str) -> dict[str, str]:
    rows = ssm.list_command_invocations(CommandId=command_id)["CommandInvocations"]
    return {row["InstanceId"]: row["StatusDetails"] for row in rows}


def command(ssm, command_id: str) -> dict:
    (row,) = ssm.list_commands(CommandId=command_id)["Commands"]
    return row


def becomes(ssm, command_id: str, expected: str) -> dict:
    return until(lambda: (row := command(ssm, command_id))["StatusDetails"] == expected and row)


def test_a_command_that_ends_well(ssm, agent):
    answer = ssm.send_command(
        DocumentName=SHELL,
        Parameters={"commands": ["echo hi"], "workingDirectory": ["/tmp"]},
        InstanceIds=[agent.instance_id],
        Comment="fleetops:1",
    )["Command"]
    assert (answer["Status"], answer["TargetCount"], answer["MaxErrors"]) == ("Pending", 1, "0")
    job = agent.job()
    assert job.job.job_id == f"aws.ssm.{answer['CommandId']}.{agent.instance_id}"
    content = job.job.load_content()
    assert content["Parameters"]["commands"] == ["echo hi"]
    assert content["Parameters"]["executionTimeout"] == "3600"
    assert content["DocumentContent"]["schemaVersion"] == "1.2"
    assert content["CloudWatchOutputEnabled"] == "false"
    agent.run(job, out="hi\n")
    done = becomes(ssm, answer["CommandId"], "Success")
    assert (done["Status"], done["CompletedCount"], done["ErrorCount"]) == ("Success", 1, 0)
    got = ssm.get_command_invocation(CommandId=answer["CommandId"], InstanceId=agent.instance_id)
    assert (got["Status"], got["ResponseCode"], got["StandardOutputContent"]) == ("Success", 0, "hi\n")
    assert got["PluginName"] == "aws:runShellScript"
    assert got["Comment"] == "fleetops:1"
    listed = ssm.list_command_invocations(CommandId=answer["CommandId"], Details=True)["CommandInvocations"][0]
    assert [(plugin["Name"], plugin["Status"]) for plugin in listed["CommandPlugins"]] == [
        ("aws:runShellScript", "Success")
    ]


def test_a_script_that_fails_shows_its_code(ssm, agent):
    command_id = send(ssm, agent.instance_id)
    agent.run(agent.job(), "Failed", 3, err="failed to run commands: exit status 3")
    assert becomes(ssm, command_id, "Failed")["ErrorCount"] == 1
    got = ssm.get_command_invocation(CommandId=command_id, InstanceId=agent.instance_id)
    assert (got["Status"], got["StatusDetails"], got["ResponseCode"]) == ("Failed", "Failed", 3)
    assert got["StandardErrorContent"].endswith("exit status 3")


def test_the_last_two_replies_come_in_either_order_and_an_end_stays_an_end(ssm, agent):
    command_id = send(ssm, agent.instance_id)
    job = agent.job()
    agent.take(job)
    agent.reply(job.job.job_id, "Success")
    becomes(ssm, command_id, "Success")
    agent.reply(job.job.job_id, "InProgress", aws__runShellScript=shell_step("Success", 0, "late\n"))
    agent.reply(job.job.job_id, "Failed")

    def late():
        got = ssm.get_command_invocation(CommandId=command_id, InstanceId=agent.instance_id)
        return got["StandardOutputContent"] == "late\n" and got["Status"] == "Success"

    until(late)
    assert command(ssm, command_id)["StatusDetails"] == "Success"


def test_a_job_that_is_not_acknowledged_or_has_no_room_is_sent_again(ssm, agent):
    command_id = send(ssm, agent.instance_id)
    first = agent.job()
    again = agent.job()
    assert again.job.job_id == first.job.job_id
    agent.take(again, "51402", "ProcessorBufferFull")
    becomes_delayed = until(lambda: details(ssm, command_id)[agent.instance_id] == "Delayed")
    assert becomes_delayed
    third = agent.job()
    agent.take(third, "51405", "DuplicateCommand")
    agent.reply(third.job.job_id, "Success", aws__runShellScript=shell_step("Success", 0))
    becomes(ssm, command_id, "Success")


def test_a_job_that_the_agent_cannot_read_fails_with_its_words(ssm, agent):
    command_id = send(ssm, agent.instance_id)
    agent.take(agent.job(), "51406", "InvalidDocument")
    becomes(ssm, command_id, "Failed")
    (row,) = ssm.list_command_invocations(CommandId=command_id)["CommandInvocations"]
    assert row["TraceOutput"] == "51406 InvalidDocument"


def test_a_node_that_is_away_gets_its_job_when_it_is_back(ssm, agents):
    agent = agents[0]
    agent.close()
    until(lambda: ssm.get_connection_status(Target=agent.instance_id)["Status"] == "notconnected")
    command_id = send(ssm, agent.instance_id)
    assert details(ssm, command_id) == {agent.instance_id: "Pending"}
    agent.connect()
    agent.run(agent.job())
    becomes(ssm, command_id, "Success")


def test_a_cancelled_command(ssm, agent):
    command_id = send(ssm, agent.instance_id)
    job = agent.job()
    agent.take(job)
    agent.reply(job.job.job_id, "InProgress")
    until(lambda: details(ssm, command_id)[agent.instance_id] == "InProgress")
    ssm.cancel_command(CommandId=command_id)
    cancel = agent.job()
    assert cancel.job.is_cancel
    assert json.loads(cancel.job.content) == {"CancelMessageId": job.job.job_id}
    assert cancel.job.job_id != job.job.job_id
    assert command(ssm, command_id)["StatusDetails"] == "Cancelling"
    agent.take(cancel)
    agent.reply(cancel.job.job_id, "InProgress", "aws.ssm.cancelCommand")
    agent.reply(job.job.job_id, "Cancelled", aws__runShellScript=shell_step("Cancelled", 137))
    assert becomes(ssm, command_id, "Cancelled")["Status"] == "Cancelled"
    ssm.cancel_command(CommandId=command_id)
    assert command(ssm, command_id)["StatusDetails"] == "Cancelled"


def test_one_of_two_is_cancelled_before_its_node_was_told(ssm, agents):
    agents[1].close()
    until(lambda: ssm.get_connection_status(Target=agents[1].instance_id)["Status"] == "notconnected")
    command_id = send(ssm, agents[0].instance_id, agents[1].instance_id)
    agents[0].run(agents[0].job())
    ssm.cancel_command(CommandId=command_id, InstanceIds=[agents[1].instance_id])
    becomes(ssm, command_id, "Incomplete")
    assert details(ssm, command_id) == {agents[0].instance_id: "Success", agents[1].instance_id: "Cancelled"}
    agents[1].connect()
    assert agents[1].is_quiet(1.5)


def test_concurrency_holds_the_others_back_and_errors_end_them(ssm, agents):
    ids = [agent.instance_id for agent in agents]
    command_id = send(ssm, *ids, MaxConcurrency="1", MaxErrors="0")
    told = [agent for agent in agents if not agent.is_quiet(1.0)]
    assert len(told) == 1
    (first,) = told
    first.channel.events()
    job_id = f"aws.ssm.{command_id}.{first.instance_id}"
    first.reply(job_id, "Failed", aws__runShellScript=shell_step("Failed", 1))
    row = becomes(ssm, command_id, "Failed")
    assert (row["CompletedCount"], row["ErrorCount"]) == (3, 1)
    assert sorted(details(ssm, command_id).values()) == ["Failed", "Terminated", "Terminated"]
    others = [agent for agent in agents if agent is not first]
    assert all(agent.is_quiet(0.5) for agent in others)


def test_a_node_that_is_away_holds_its_place_and_not_the_others_up(ssm, agents):
    away, *there = agents
    away.close()
    until(lambda: ssm.get_connection_status(Target=away.instance_id)["Status"] == "notconnected")
    command_id = send(ssm, *(agent.instance_id for agent in agents))
    for agent in there:
        agent.run(agent.job(seconds=20))
    until(lambda: sorted(details(ssm, command_id).values()) == ["Pending", "Success", "Success"])
    away.connect()
    away.run(away.job())
    becomes(ssm, command_id, "Success")


def test_within_the_errors_allowed_all_get_it(ssm, agents):
    ids = [agent.instance_id for agent in agents]
    command_id = send(ssm, *ids, MaxConcurrency="100%", MaxErrors="1")
    agents[0].run(agents[0].job(), "Failed", 1)
    for agent in agents[1:]:
        agent.run(agent.job())
    row = becomes(ssm, command_id, "Incomplete")
    assert (row["Status"], row["ErrorCount"]) == ("Failed", 1)


def test_targets_by_tag(aws, ssm, agents):
    ec2 = aws.client("ec2")
    mine = [agents[0].instance_id, agents[1].instance_id]
    ec2.create_tags(Resources=mine, Tags=[{"Key": "job", "Value": "batch"}])
    target = [{"Key": "tag:job", "Values": ["batch", "other"]}]
    until(lambda: len(_described(ssm, "tag:job", "batch")) == 2)
    command_id = send(ssm, InstanceIds=[], Targets=target)
    for agent in agents[:2]:
        agent.run(agent.job())
    becomes(ssm, command_id, "Success")
    assert set(details(ssm, command_id)) == set(mine)
    nobody = send(ssm, InstanceIds=[], Targets=[{"Key": "tag:job", "Values": ["nobody"]}])
    row = command(ssm, nobody)
    assert (row["Status"], row["StatusDetails"], row["TargetCount"]) == ("Success", "NoInstancesInTag", 0)
    narrow = [*target, {"Key": "InstanceIds", "Values": [agents[2].instance_id]}]
    assert command(ssm, send(ssm, InstanceIds=[], Targets=narrow))["TargetCount"] == 0


def _described(ssm, key: str, value: str) -> list:
    return ssm.describe_instance_information(Filters=[{"Key": key, "Values": [value]}])["InstanceInformationList"]


def test_a_node_of_another_platform_is_not_sent_to(ssm, agent):
    agent.close()
    agent.connect(PlatformType="Windows")
    good = {"DocumentName": SHELL, "Parameters": {"commands": ["x"]}}
    assert code(ssm.send_command, **good, InstanceIds=[agent.instance_id]) == "UnsupportedPlatformType"
    target = [{"Key": "InstanceIds", "Values": [agent.instance_id]}]
    assert details(ssm, send(ssm, InstanceIds=[], Targets=target)) == {agent.instance_id: "InvalidPlatform"}
    agent.close()
    agent.connect(PlatformType="Linux")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"InstanceIds": ["i-0ffffffffffffff0d"]}, "InvalidInstanceId"),
        ({"InstanceIds": []}, "ValidationException"),
        ({"DocumentName": "No-Such"}, "InvalidDocument"),
        ({"DocumentName": "AWS-StartSSHSession"}, "InvalidDocument"),
        ({"DocumentVersion": "9"}, "InvalidDocumentVersion"),
        ({"DocumentHash": "0" * 64}, "InvalidDocument"),
        ({"Parameters": {}}, "InvalidParameters"),
        ({"Parameters": {"commands": ["x"], "surprise": ["y"]}}, "InvalidParameters"),
        ({"Parameters": {"commands": ["x"], "executionTimeout": ["soon"]}}, "InvalidParameters"),
        ({"TimeoutSeconds": 29}, "ValidationException"),
        ({"MaxErrors": "many"}, "ValidationException"),
        ({"OutputS3KeyPrefix": "logs"}, "InvalidOutputFolder"),
        ({"NotificationConfig": {"NotificationArn": "arn:aws:sns:eu-west-1:1:t"}}, "InvalidNotificationConfig"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_nothing(ssm, agent, change, expected):
    before = ssm.list_commands(MaxResults=1)["Commands"]
    good = {"DocumentName": SHELL, "Parameters": {"commands": ["true"]}, "InstanceIds": [agent.instance_id]}
    assert code(ssm.send_command, **(good | change)) == expected
    assert ssm.list_commands(MaxResults=1)["Commands"] == before


def test_an_instance_named_twice_and_both_kinds_of_targets_are_refused(ssm, agent):
    twice = [agent.instance_id, agent.instance_id]
    assert code(send, ssm=ssm, InstanceIds=twice) == "DuplicateInstanceId"
    both = [{"Key": "InstanceIds", "Values": [agent.instance_id]}]
    assert code(send, ssm=ssm, InstanceIds=[agent.instance_id], Targets=both) == "ValidationException"


def test_lists_are_paged_filtered_and_of_one_account(aws, ssm, agent):
    made = [send(ssm, agent.instance_id) for _ in range(3)]
    for _ in made:
        agent.run(agent.job())
    for command_id in made:
        becomes(ssm, command_id, "Success")
    page = ssm.list_commands(InstanceId=agent.instance_id, MaxResults=2)
    assert [row["CommandId"] for row in page["Commands"]] == made[:0:-1]
    rest = ssm.list_commands(InstanceId=agent.instance_id, MaxResults=2, NextToken=page["NextToken"])
    assert rest["Commands"][0]["CommandId"] == made[0]
    done = [{"key": "Status", "value": "Success"}, {"key": "ExecutionStage", "value": "Complete"}]
    assert {row["CommandId"] for row in ssm.list_commands(Filters=done)["Commands"]} >= set(made)
    assert ssm.list_commands(Filters=[{"key": "DocumentName", "value": "Other"}])["Commands"] == []
    assert code(ssm.list_commands, CommandId=str(uuid4())) == "InvalidCommandId"
    assert code(ssm.cancel_command, CommandId=str(uuid4())) == "InvalidCommandId"
    unknown = {"CommandId": str(uuid4()), "InstanceId": agent.instance_id}
    assert code(ssm.get_command_invocation, **unknown) == "InvocationDoesNotExist"
    known = {"CommandId": made[0], "InstanceId": agent.instance_id}
    assert code(ssm.get_command_invocation, **known, PluginName="another") == "InvalidPluginName"
    keys = aws.staging["try_credentials"]
    other = aws.client("ssm", aws_access_key_id=keys["access_key_id"], aws_secret_access_key=keys["secret_access_key"])
    assert code(other.list_commands, CommandId=made[0]) == "InvalidCommandId"
    assert code(other.get_command_invocation, **known) == "InvocationDoesNotExist"


def test_a_reply_for_an_unknown_job_or_another_nodes_changes_nothing(ssm, agents):
    command_id = send(ssm, agents[0].instance_id)
    job = agents[0].job()
    agents[1].reply(job.job.job_id, "Success", aws__runShellScript=shell_step("Success", 0, "a lie"))
    agents[1].reply(f"aws.ssm.{uuid4()}.{agents[1].instance_id}", "Success")
    agents[1].reply("no job id at all", "Success")
    agents[0].run(job, "Failed", 1)
    becomes(ssm, command_id, "Failed")
    got = ssm.get_command_invocation(CommandId=command_id, InstanceId=agents[0].instance_id)
    assert got["StandardOutputContent"] == ""


def test_a_command_outlives_the_endpoint(tmp_path):
    """Killed while one node works and another is away; afterwards the first answers, and the second gets its job."""
    with running_endpoint(tmp_path / "home", FLEETOPS_ENDPOINT_POLL_SECONDS="1") as endpoint:
        ssm = endpoint.client("ssm")
        found = endpoint.client("ec2").describe_instances(
            Filters=[{"Name": "instance-state-name", "Values": ["running"]}]
        )["Reservations"]
        ids = sorted(item["InstanceId"] for group in found for item in group["Instances"])[:2]
        agents = [HandAgent(endpoint, instance_id).connect() for instance_id in ids]
        agents[1].close()
        until(lambda: ssm.get_connection_status(Target=ids[1])["Status"] == "notconnected")
        command_id = send(ssm, *ids)
        job = agents[0].job()
        agents[0].take(job)
        until(lambda: details(ssm, command_id)[ids[0]] == "InProgress")
        endpoint.kill()
        endpoint.start_again()
        ssm = endpoint.client("ssm")
        agents[0].connect()
        assert agents[0].is_quiet(1.0)  # it has acknowledged its job
        agents[0].reply(job.job.job_id, "Success", aws__runShellScript=shell_step("Success", 0))
        agents[1].connect()
        agents[1].run(agents[1].job())
        becomes(ssm, command_id, "Success")
        for agent in agents:
            agent.close()
