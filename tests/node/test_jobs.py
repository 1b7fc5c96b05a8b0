"""Run Command from end to end: boto3, the endpoint, its demo nodes, and scripts that really run."""

import json
import os
import signal
import time

import pytest

from fleetops.endpoint.seed import ALL_MACHINES, NODE_ROLE
from tests.support.endpoint import RunningEndpoint, running_endpoint, until

SCRIPT = "AWS-RunShellScript"


@pytest.fixture(scope="module")
def aws(demo):
    return demo


@pytest.fixture(scope="module")
def ssm(aws):
    return aws.client("ssm")


@pytest.fixture(scope="module")
def node(aws, ssm):
    """A demo node that is online."""
    instance_id = demo_nodes(aws)[0]
    online(ssm, instance_id)
    return instance_id


def demo_nodes(aws: RunningEndpoint) -> list[str]:
    account = aws.account["account_id"]
    return [machine.instance_id for machine in ALL_MACHINES if machine.key[:2] == (account, "eu-west-1")]


def online(ssm, instance_id: str) -> None:
    until(lambda: ssm.get_connection_status(Target=instance_id)["Status"] == "connected", seconds=60)


def send(ssm, node: str, *lines: str, document: str = SCRIPT, parameters: dict | None = None, **more) -> str:
    given = parameters if parameters is not None else {"commands": list(lines)}
    answer = ssm.send_command(DocumentName=document, InstanceIds=[node], Parameters=given, **more)
    return answer["Command"]["CommandId"]


def ended(ssm, node: str, command_id: str, *, seconds: float = 60, plugin: str = "") -> dict:
    """GetCommandInvocation once it is over."""
    named = {"PluginName": plugin} if plugin else {}

    def look():
        row = ssm.get_command_invocation(CommandId=command_id, InstanceId=node, **named)
        return row if row["Status"] in {"Success", "Failed", "Cancelled", "TimedOut"} else None

    return until(look, seconds=seconds, what=command_id)


def run(ssm, node: str, *lines: str, **more) -> dict:
    return ended(ssm, node, send(ssm, node, *lines, **more))


def test_a_script_runs_on_the_node_with_what_the_agent_tells_it(ssm, node):
    command_id = send(
        ssm,
        node,
        "#!/bin/bash",
        'echo "$AWS_SSM_INSTANCE_ID $AWS_SSM_REGION_NAME ${BASH_VERSION:+bash}"',
        'echo "$SSM_COMMAND_ID"; hostname; pwd; id -un; tty || true; cat; env | grep -c "AWS_SECRET\\|FLEETOPS"',
        "echo aside >&2; exit 1",
    )
    row = ended(ssm, node, command_id)
    lines = row["StandardOutputContent"].splitlines()
    assert (row["Status"], row["ResponseCode"]) == ("Failed", 1)
    assert lines[0] == f"{node} eu-west-1 bash"
    assert lines[1] == command_id
    assert lines[3:6] == ["/home/ssm-user", "ssm-user", "not a tty"]
    assert lines[6] == "0"
    assert row["StandardErrorContent"] == "aside\nfailed to run commands: exit status 1"


def test_it_runs_in_the_directory_that_is_asked_for(ssm, node):
    parameters = {"commands": ["pwd"], "workingDirectory": ["/tmp"]}
    assert run(ssm, node, parameters=parameters)["StandardOutputContent"] == "/tmp\n"
    row = run(ssm, node, parameters={"commands": ["pwd"], "workingDirectory": ["/nowhere"]})
    assert (row["Status"], row["StandardOutputContent"]) == ("Failed", "")
    assert "/nowhere" in row["StandardErrorContent"]


def test_a_script_that_fails_shows_its_code(ssm, node):
    row = run(ssm, node, "echo before; exit 3")
    assert (row["Status"], row["ResponseCode"]) == ("Failed", 3)
    assert row["StandardOutputContent"] == "before\n"
    assert row["StandardErrorContent"] == "failed to run commands: exit status 3"


def test_a_cancelled_script_is_dead(ssm, node):
    command_id = send(ssm, node, "echo begun >/tmp/../var/tmp/begun; sleep 600; echo late >/var/tmp/late")
    until(lambda: run(ssm, node, "cat /var/tmp/begun")["Status"] == "Success", seconds=60)
    ssm.cancel_command(CommandId=command_id)
    row = ended(ssm, node, command_id)
    assert (row["Status"], row["ResponseCode"]) == ("Cancelled", 137)
    assert run(ssm, node, "ps -e 2>/dev/null | grep -q 'sleep 600' || echo none")["StandardOutputContent"] == "none\n"
    assert run(ssm, node, "test ! -e /var/tmp/late")["Status"] == "Success"


def test_a_script_that_takes_too_long_is_killed(ssm, node):
    row = run(ssm, node, parameters={"commands": ["echo on; sleep 600"], "executionTimeout": ["5"]})
    assert (row["StatusDetails"], row["ResponseCode"]) == ("ExecutionTimedOut", 137)
    assert row["StandardOutputContent"] == "on\n"


def test_long_output_is_cut_as_the_agent_cuts_it(ssm, node):
    command_id = send(ssm, node, "head -c 30000 /dev/zero | tr '\\0' x; head -c 9000 /dev/zero | tr '\\0' y >&2")
    row = ended(ssm, node, command_id)
    assert len(row["StandardOutputContent"]) == 24_000
    assert row["StandardOutputContent"].endswith("x--output truncated--")
    assert len(row["StandardErrorContent"]) == 8_000
    (invocation,) = ssm.list_command_invocations(CommandId=command_id, Details=True)["CommandInvocations"]
    text = invocation["CommandPlugins"][0]["Output"]
    assert len(text) <= 2_500
    assert "\n---Output truncated---\n----------ERROR-------\ny" in text
    assert text.endswith("y\n---Error truncated----")


def test_sixteen_at_once_all_run_and_each_once(ssm, node):
    run(ssm, node, "rm -f /var/tmp/sixteen")
    sent = [send(ssm, node, f"echo {number} >>/var/tmp/sixteen; sleep 1") for number in range(16)]
    assert {ended(ssm, node, command_id, seconds=120)["Status"] for command_id in sent} == {"Success"}
    lines = run(ssm, node, "cat /var/tmp/sixteen")["StandardOutputContent"].split()
    assert sorted(map(int, lines)) == list(range(16))


STEPS = {
    "schemaVersion": "2.2",
    "parameters": {"word": {"type": "String", "default": "x"}},
    "mainSteps": [
        {"action": "aws:runShellScript", "name": "first", "inputs": {"runCommand": ["echo one {{ word }}"]}},
        {
            "action": "aws:runPowerShellScript",
            "name": "windows",
            "precondition": {"StringEquals": ["platformType", "Windows"]},
            "inputs": {"runCommand": ["echo never"]},
        },
        {
            "action": "aws:runShellScript",
            "name": "breaks",
            "inputs": {"runCommand": ["exit 7"], "onFailure": "exit"},
        },
        {"action": "aws:runShellScript", "name": "after", "inputs": {"runCommand": ["echo never"]}},
        {
            "action": "aws:runShellScript",
            "name": "last",
            "inputs": {"runCommand": ["echo last"], "finallyStep": "true"},
        },
    ],
}


def test_steps_with_preconditions_and_what_follows_a_failure(ssm, node):
    ssm.create_document(Name="Steps", Content=json.dumps(STEPS), DocumentType="Command", DocumentFormat="JSON")
    command_id = send(ssm, node, document="Steps", parameters={"word": ["of five"]})
    assert ended(ssm, node, command_id, plugin="first")["StandardOutputContent"] == "one of five\n"
    last = ended(ssm, node, command_id, plugin="last")
    assert (last["Status"], last["StandardOutputContent"]) == ("Success", "last\n")
    (row,) = until(
        lambda: [
            row
            for row in ssm.list_command_invocations(CommandId=command_id, Details=True)["CommandInvocations"]
            if row["Status"] == "Failed"
        ]
    )
    plugins = {plugin["Name"]: plugin for plugin in row["CommandPlugins"]}
    assert list(plugins) == ["first", "windows", "breaks", "after", "last"]
    assert plugins["windows"]["Output"].startswith("Step execution skipped due to unsupported plugin")
    assert (plugins["breaks"]["Status"], plugins["breaks"]["ResponseCode"]) == ("Failed", 7)
    assert "Step was found to have onFailure property" in plugins["breaks"]["Output"]
    assert "skipped due to prior step with an exit condition" in plugins["after"]["Output"]


def test_a_script_that_asks_for_a_restart_is_run_again_after_it(ssm, node):
    row = run(
        ssm, node, "if [ -e /var/tmp/restarted ]; then echo after; exit 0; fi; touch /var/tmp/restarted; exit 194"
    )
    assert (row["Status"], row["StandardOutputContent"]) == ("Success", "after\n")


def test_the_agents_own_update_is_there_already_and_packages_are_not_pretended(ssm, node):
    row = run(ssm, node, document="AWS-UpdateSSMAgent", parameters={})
    assert row["Status"] == "Success"
    assert "already been installed" in row["StandardOutputContent"]
    parameters = {"action": ["Install"], "name": ["NoSuchPackage"]}
    row = run(ssm, node, document="AWS-ConfigureAWSPackage", parameters=parameters)
    assert row["Status"] == "Failed"
    assert "NoSuchPackage is no package of this node" in row["StandardErrorContent"]


def test_a_document_runs_another_from_ssm_and_from_the_nodes_disk(ssm, node):
    inner = {
        "schemaVersion": "2.2",
        "parameters": {"word": {"type": "String"}},
        "mainSteps": [
            {"action": "aws:runShellScript", "name": "say", "inputs": {"runCommand": ["echo inner {{ word }}"]}}
        ],
    }
    names = ("documentType", "documentPath", "documentParameters")
    outer = {
        "schemaVersion": "2.2",
        "parameters": {name: {"type": "String"} for name in names},
        "mainSteps": [
            {
                "action": "aws:runDocument",
                "name": "other",
                "inputs": {name: f"{{{{ {name} }}}}" for name in names},
            }
        ],
    }
    for name, content in (("Inner", inner), ("Outer", outer)):
        ssm.create_document(Name=name, Content=json.dumps(content), DocumentType="Command", DocumentFormat="JSON")
    assert run(ssm, node, f"echo '{json.dumps(inner)}' >/var/tmp/inner.json")["Status"] == "Success"
    for kind, path in (("SSMDocument", "Inner"), ("LocalPath", "/var/tmp/inner.json")):
        given = {"documentType": [kind], "documentPath": [path], "documentParameters": ['{"word":"voice"}']}
        row = run(ssm, node, document="Outer", parameters=given)
        assert (row["Status"], row["StandardOutputContent"]) == ("Success", "inner voice\n"), row
    given["documentPath"] = ["/var/tmp/no-such.json"]
    row = run(ssm, node, document="Outer", parameters=given)
    assert row["Status"] == "Failed"
    assert "There was an error while preparing documents" in row["StandardErrorContent"]


def test_inventory_is_gathered_and_told(ssm, node):
    content = {
        "schemaVersion": "2.2",
        "mainSteps": [{"action": "aws:softwareInventory", "name": "gather", "inputs": {"networkConfig": "Disabled"}}],
    }
    ssm.create_document(Name="Gather", Content=json.dumps(content), DocumentType="Command", DocumentFormat="JSON")
    row = run(ssm, node, document="Gather", parameters={})
    assert (row["Status"], row["StandardErrorContent"]) == ("Success", "")
    assert "inventory data has been uploaded" in row["StandardOutputContent"]
    entries = ssm.list_inventory_entries(InstanceId=node, TypeName="AWS:Application", MaxResults=50)["Entries"]
    installed = run(ssm, node, "cat /var/lib/packages/installed")["StandardOutputContent"].split()
    assert {entry["Name"]: entry["Version"] for entry in entries} == dict(
        zip(installed[::2], installed[1::2], strict=True)
    )
    assert ssm.list_inventory_entries(InstanceId=node, TypeName="AWS:Network")["Entries"] == []


@pytest.fixture(scope="module")
def bucket(aws, node):
    """A bucket that the nodes' role may write to."""
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="outputs", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    allowed = {"Effect": "Allow", "Action": ["s3:*", "logs:*"], "Resource": "*"}
    aws.client("iam").put_role_policy(
        RoleName=NODE_ROLE,
        PolicyName="outputs",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [allowed]}),
    )
    return "outputs"


def test_output_beyond_the_limit_is_whole_in_s3_and_in_the_logs(aws, ssm, node, bucket):
    command_id = send(
        ssm,
        node,
        "seq 1 20000; echo wrong >&2",
        OutputS3BucketName=bucket,
        OutputS3KeyPrefix="runs/all",
        CloudWatchOutputConfig={"CloudWatchOutputEnabled": True},
    )
    row = ended(ssm, node, command_id)
    assert (row["Status"], row["StandardErrorContent"]) == ("Success", "wrong\n")
    s3 = aws.client("s3")
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket=bucket, Prefix="runs/all/")["Contents"]]
    start = f"runs/all/{command_id}/{node}/awsrunShellScript/"
    assert sorted(keys) == [f"{start}0.awsrunShellScript/stderr", f"{start}0.awsrunShellScript/stdout"], keys
    body = s3.get_object(Bucket=bucket, Key=f"{start}0.awsrunShellScript/stdout")["Body"].read()
    assert body.decode().split() == [str(number) for number in range(1, 20_001)]
    logs = aws.client("logs")
    streams = logs.describe_log_streams(logGroupName=f"/aws/ssm/{SCRIPT}", logStreamNamePrefix=command_id)
    assert len(streams["logStreams"]) == 2
    stderr = next(item["logStreamName"] for item in streams["logStreams"] if item["logStreamName"].endswith("stderr"))
    events = logs.get_log_events(logGroupName=f"/aws/ssm/{SCRIPT}", logStreamName=stderr)["events"]
    assert [event["message"] for event in events] == ["wrong"]


def test_output_that_no_bucket_takes_is_complained_of_and_changes_no_status(ssm, node, bucket):
    row = run(ssm, node, "echo fine", OutputS3BucketName="no-such-bucket-here")
    assert row["Status"] == "Success"
    assert "Failed to upload the output to s3" in row["StandardErrorContent"]


def test_nothing_runs_twice_when_the_nodes_process_is_killed(tmp_path):
    with running_endpoint(tmp_path / "home", nodes="demo") as aws:
        ssm = aws.client("ssm")
        node = demo_nodes(aws)[0]
        online(ssm, node)
        sent = [
            send(ssm, node, f"echo begun{number} >>/var/tmp/kept; sleep 8; echo done{number} >>/var/tmp/kept")
            for number in range(8)
        ]

        def begun() -> bool:
            row = ssm.list_command_invocations(CommandId=sent[7])["CommandInvocations"][0]
            home = next((tmp_path / "home").glob(f"**/{node}"))
            kept = home / "var/tmp/kept"
            return row["Status"] == "InProgress" and kept.exists() and len(kept.read_text().split()) == 5

        until(begun, seconds=60)
        pid = aws.child("fleetops.node")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        rows = [ended(ssm, node, command_id, seconds=120) for command_id in sent]
        states = [row["Status"] for row in rows]
        assert states.count("Failed") == 5, states
        assert states.count("Success") == 3, states
        for row in rows:
            if row["Status"] == "Failed":
                assert "was restarted while this step ran" in row["StandardErrorContent"]
        time.sleep(1)
        lines = run(ssm, node, "cat /var/tmp/kept")["StandardOutputContent"].split()
        assert sorted(line for line in lines if line.startswith("begun")) == [f"begun{n}" for n in range(8)]
        assert len([line for line in lines if line.startswith("done")]) == 3
