"""The unmodified aws CLI against an endpoint with demo nodes, and those nodes as EC2 and IAM change."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.endpoint import running_endpoint, until

AWS = Path(sys.executable).with_name("aws")
NODES = "fleetops.node"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """An endpoint with its demo nodes, all of them online."""
    with running_endpoint(tmp_path_factory.mktemp("fleet") / "home", nodes="demo") as endpoint:
        until(lambda: len(online(endpoint)) == 12, seconds=30, what="twelve nodes are online")
        yield endpoint


def online(endpoint) -> set[str]:
    filters = [{"Key": "PingStatus", "Values": ["Online"]}]
    pages = endpoint.client("ssm").get_paginator("describe_instance_information").paginate(Filters=filters)
    return {node["InstanceId"] for page in pages for node in page["InstanceInformationList"]}


def connection(endpoint, instance_id: str) -> str:
    return endpoint.client("ssm").get_connection_status(Target=instance_id)["Status"]


def aws(endpoint, *words: str, path: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    keys = endpoint.account["try_credentials"]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return subprocess.run(
        [str(AWS), "--endpoint-url", endpoint.url, "--output", "json", *words],
        env={
            **inherited,
            "PATH": f"{path}{os.pathsep}{os.environ['PATH']}" if path else os.environ["PATH"],
            "AWS_ACCESS_KEY_ID": keys["access_key_id"],
            "AWS_SECRET_ACCESS_KEY": keys["secret_access_key"],
            "AWS_DEFAULT_REGION": "eu-west-1",
            "AWS_CA_BUNDLE": endpoint.handover["ca_file"],
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_who_am_i_with_right_and_wrong_credentials(fleet):
    right = aws(fleet, "sts", "get-caller-identity")
    assert json.loads(right.stdout)["Arn"] == "arn:aws:iam::111122223333:user/admin"
    wrong_secret = aws(fleet, "sts", "get-caller-identity", AWS_SECRET_ACCESS_KEY="wrong")
    assert wrong_secret.returncode != 0 and "SignatureDoesNotMatch" in wrong_secret.stderr
    wrong_key = aws(fleet, "sts", "get-caller-identity", AWS_ACCESS_KEY_ID="AKIAWRONG00000000000")
    assert wrong_key.returncode != 0 and "InvalidClientTokenId" in wrong_key.stderr


def test_instances_as_ec2_and_as_ssm_see_them(fleet):
    described = json.loads(aws(fleet, "ec2", "describe-instances").stdout)
    ec2 = {instance["InstanceId"] for item in described["Reservations"] for instance in item["Instances"]}
    assert len(ec2) == 12
    information = json.loads(aws(fleet, "ssm", "describe-instance-information").stdout)["InstanceInformationList"]
    assert {node["PingStatus"] for node in information} == {"Online"}
    managed = {node["InstanceId"] for node in information}
    unwell = {fleet.instance_id("pg-report-eu1a-1"), fleet.instance_id("kafka-events-eu1c-3")}
    assert {name for name in managed if name.startswith("i-")} == ec2 - unwell
    assert len([name for name in managed if name.startswith("mi-")]) == 2
    assert "AuthFailure" in aws(fleet, "ec2", "describe-instances", AWS_SECRET_ACCESS_KEY="wrong").stderr


@pytest.fixture
def plugin(tmp_path):
    """A stand-in for session-manager-plugin: it writes down its arguments and leaves."""
    script = tmp_path / "session-manager-plugin"
    script.write_text(
        f"#!{sys.executable}\n"
        "import json, os, pathlib, sys\n"
        "if sys.argv[1:] == ['--version']:\n"
        "    print('1.2.764.0')\n"
        "else:\n"
        "    arguments = [os.environ.get(word, word) for word in sys.argv[1:]]\n"
        f"    pathlib.Path({str(tmp_path / 'arguments.json')!r}).write_text(json.dumps(arguments))\n"
    )
    script.chmod(0o755)
    return tmp_path


def test_start_session_hands_the_plugin_its_stream_and_terminate_session_ends_it(fleet, plugin):
    target = fleet.instance_id("pay-api-eu1a-01")
    started = aws(fleet, "ssm", "start-session", "--target", target, "--reason", "look around", path=str(plugin))
    assert started.returncode == 0, started.stderr
    response, region, operation, _, parameters, url = json.loads((plugin / "arguments.json").read_text())
    answer = json.loads(response)
    place = fleet.handover["stream_hosts"][0]
    assert answer["StreamUrl"] == f"wss://{place}/v1/data-channel/{answer['SessionId']}?role=publish_subscribe"
    assert answer["SessionId"].startswith("admin-") and answer["TokenValue"]
    assert (region, operation, url) == ("eu-west-1", "StartSession", fleet.url)
    assert json.loads(parameters)["Target"] == target
    active = json.loads(aws(fleet, "ssm", "describe-sessions", "--state", "Active").stdout)["Sessions"]
    assert [(item["SessionId"], item["Reason"]) for item in active] == [(answer["SessionId"], "look around")]
    resumed = json.loads(aws(fleet, "ssm", "resume-session", "--session-id", answer["SessionId"]).stdout)
    assert resumed["TokenValue"] != answer["TokenValue"]
    ended = aws(fleet, "ssm", "terminate-session", "--session-id", answer["SessionId"])
    assert json.loads(ended.stdout) == {"SessionId": answer["SessionId"]}
    history = json.loads(aws(fleet, "ssm", "describe-sessions", "--state", "History").stdout)["Sessions"]
    assert ("Terminated", answer["SessionId"]) in {(item["Status"], item["SessionId"]) for item in history}


def run_command(fleet, *words: str) -> dict:
    """What an `aws ssm` call prints, which has to succeed."""
    done = aws(fleet, "ssm", *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if done.stdout else {}


def test_a_command_is_sent_waited_for_and_read(fleet):
    node = fleet.instance_id("pay-api-eu1a-01")
    sent = run_command(
        fleet,
        *("send-command", "--document-name", "AWS-RunShellScript", "--instance-ids", node, "--comment", "look"),
        *("--parameters", 'commands=["echo out","echo err >&2"]', "--timeout-seconds", "60"),
    )["Command"]
    assert (sent["Status"], sent["InstanceIds"], sent["TargetCount"]) == ("Pending", [node], 1)
    where = ["--command-id", sent["CommandId"], "--instance-id", node]
    assert run_command(fleet, "wait", "command-executed", *where) == {}
    got = run_command(fleet, "get-command-invocation", *where)
    assert (got["Status"], got["StatusDetails"], got["ResponseCode"]) == ("Success", "Success", 0)
    assert (got["StandardOutputContent"], got["StandardErrorContent"]) == ("out\n", "err\n")
    (listed,) = run_command(fleet, "list-command-invocations", "--command-id", sent["CommandId"], "--details")[
        "CommandInvocations"
    ]
    assert (listed["InstanceId"], listed["Comment"]) == (node, "look")
    (plugin,) = listed["CommandPlugins"]
    assert (plugin["Name"], plugin["Status"], plugin["ResponseCode"]) == ("aws:runShellScript", "Success", 0)
    assert plugin["Output"].startswith("out\n")
    (command,) = run_command(fleet, "list-commands", "--command-id", sent["CommandId"])["Commands"]
    assert (command["StatusDetails"], command["CompletedCount"]) == ("Success", 1)


def test_a_command_that_fails_ends_the_wait_and_one_that_lasts_is_cancelled(fleet):
    node = fleet.instance_id("pay-api-eu1a-01")
    shell = ["send-command", "--document-name", "AWS-RunShellScript", "--instance-ids", node, "--parameters"]
    failing = run_command(fleet, *shell, "commands=exit 3")["Command"]["CommandId"]
    ssm = fleet.client("ssm")

    def status(command_id: str) -> str:
        return ssm.list_commands(CommandId=command_id)["Commands"][0]["StatusDetails"]

    until(lambda: status(failing) == "Failed", what="the command has failed")
    waited = aws(fleet, "ssm", "wait", "command-executed", "--command-id", failing, "--instance-id", node)
    assert waited.returncode == 255 and "terminal failure state" in waited.stderr
    got = run_command(fleet, "get-command-invocation", "--command-id", failing, "--instance-id", node)
    assert (got["Status"], got["ResponseCode"]) == ("Failed", 3)
    lasting = run_command(fleet, *shell, "commands=sleep 300")["Command"]["CommandId"]
    until(lambda: status(lasting) == "InProgress", what="the node has the command")
    assert run_command(fleet, "cancel-command", "--command-id", lasting) == {}
    until(lambda: status(lasting) == "Cancelled", what="the command is cancelled")
    unknown = aws(fleet, "ssm", "cancel-command", "--command-id", "0" * 8 + "-0000-0000-0000-" + "0" * 12)
    assert unknown.returncode != 0 and "InvalidCommandId" in unknown.stderr


def test_a_target_that_is_not_there_is_told(fleet, plugin):
    stopped = fleet.instance_id("pg-report-eu1a-1")
    refused = aws(fleet, "ssm", "start-session", "--target", stopped, path=str(plugin))
    assert refused.returncode != 0
    assert f"TargetNotConnected) when calling the StartSession operation: {stopped} is not connected." in refused.stderr


def test_a_node_goes_with_its_instance_profile_and_comes_back_with_it(fleet):
    ec2, node = fleet.client("ec2"), fleet.instance_id("pay-worker-eu1a-01")
    held = [{"Name": "instance-id", "Values": [node]}]
    (association,) = ec2.describe_iam_instance_profile_associations(Filters=held)["IamInstanceProfileAssociations"]
    ec2.disassociate_iam_instance_profile(AssociationId=association["AssociationId"])
    until(lambda: node not in online(fleet), seconds=20, what="the node without a profile is offline")
    with pytest.raises(fleet.client("ssm").exceptions.TargetNotConnected):
        fleet.client("ssm").start_session(Target=node)
    ec2.associate_iam_instance_profile(InstanceId=node, IamInstanceProfile={"Name": "ssm-core"})
    until(lambda: node in online(fleet), seconds=20, what="the node with its profile is back")


def test_a_node_without_a_profile_comes_up_when_it_gets_one(fleet):
    node = fleet.instance_id("kafka-events-eu1c-3")
    fleet.client("ec2").associate_iam_instance_profile(InstanceId=node, IamInstanceProfile={"Name": "ssm-core"})
    until(lambda: node in online(fleet), seconds=20)
    (reservation,) = fleet.client("ec2").describe_instances(InstanceIds=[node])["Reservations"]
    assert reservation["Instances"][0]["IamInstanceProfile"]["Arn"].endswith("/ssm-core")


def test_a_stopped_instance_is_no_longer_listed_and_a_started_one_is_online_again(fleet):
    ec2, node = fleet.client("ec2"), fleet.instance_id("web-checkout-stg-01")
    ec2.stop_instances(InstanceIds=[node])
    information = fleet.client("ssm").describe_instance_information()["InstanceInformationList"]
    assert node not in {item["InstanceId"] for item in information}
    ec2.start_instances(InstanceIds=[node])
    until(lambda: node in online(fleet), seconds=20)


def test_a_role_without_its_policy_keeps_new_channels_away(fleet):
    iam, policy = fleet.client("iam"), "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"
    iam.detach_role_policy(RoleName="ssm-hybrid", PolicyArn=policy)
    try:
        os.kill(fleet.child(NODES), signal.SIGKILL)
        hybrid = fleet.instance_id("lagos-pos-gw-011")
        ordinary = fleet.instance_id("pay-api-eu1a-01")
        refused = [{"AttributeKey": "ResourceName", "AttributeValue": hybrid}]
        until(
            lambda: any(
                '"AccessDeniedException"' in event["CloudTrailEvent"]
                for event in fleet.client("cloudtrail").lookup_events(LookupAttributes=refused)["Events"]
            ),
            seconds=40,
            what="the node was refused",
        )
        until(lambda: connection(fleet, ordinary) == "connected", seconds=40)
        assert connection(fleet, hybrid) == "notconnected"
    finally:
        iam.attach_role_policy(RoleName="ssm-hybrid", PolicyArn=policy)


def test_a_killed_endpoint_finds_its_nodes_and_sessions_again(fleet):
    node = fleet.instance_id("pg-ledger-eu1a-1")
    until(lambda: node in online(fleet), seconds=30)
    until(
        lambda: fleet.client("ssm").get_connection_status(Target=node)["Status"] == "connected",
        seconds=30,
        what="the node has its channel",
    )
    started = fleet.client("ssm").start_session(Target=node)
    fleet.kill()
    until(lambda: fleet.child(NODES) is None)
    fleet.start_again()
    active = fleet.client("ssm").describe_sessions(
        State="Active", Filters=[{"key": "SessionId", "value": started["SessionId"]}]
    )
    assert len(active["Sessions"]) == 1
    until(lambda: fleet.client("ssm").get_connection_status(Target=node)["Status"] == "connected", seconds=30)
    said = len(fleet.log.read_text())
    fleet.stop()
    assert fleet.process.returncode == 0
    lines = fleet.log.read_text()[said:].splitlines()
    assert not [line for line in lines if " INFO " not in line], "an ordinary stop is quiet"
    line = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (INFO|WARNING|ERROR) +[a-z_.]+ ")
    assert not [text for text in fleet.log.read_text().splitlines() if not line.match(text)], "all lines are alike"
