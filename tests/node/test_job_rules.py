"""What a node does with jobs that it refuses, cancels before their turn, or cannot tell the end of."""

import asyncio
import json
import os
from uuid import uuid4

import pytest

from fleetops.node import jobs
from fleetops.wire import payloads
from tests.node.conftest import running_node
from tests.node.gateway import eventually, make_spec, node_key

NODE = "i-0aaaaaaaaaaaaaaaa"


def job(*lines: str, **changes) -> payloads.AgentJob:
    content = {
        "schemaVersion": "2.2",
        "mainSteps": [{"action": "aws:runShellScript", "name": "step", "inputs": {"runCommand": list(lines)}}],
    } | changes
    command_id = str(uuid4())
    return payloads.AgentJob(
        f"aws.ssm.{command_id}.{NODE}",
        payloads.send_command_content(
            command_id=command_id, document_name="Ours", document_content=content, parameters={}
        ),
    )


def told(gateway, sent: payloads.AgentJob) -> list[payloads.ReplyContent]:
    return [
        payloads.ReplyContent.parse(reply.content) for reply in gateway.store.replies if reply.job_id == sent.job_id
    ]


def end(gateway, sent: payloads.AgentJob) -> payloads.ReplyContent | None:
    return next((content for content in told(gateway, sent) if content.document_status != "InProgress"), None)


async def acknowledge(gateway, sent: payloads.AgentJob) -> str:
    before = len(gateway.store.acks)
    assert await gateway.hub.send_job(node_key(NODE), sent)
    await eventually(lambda: len(gateway.store.acks) > before)
    assert gateway.store.acks[-1].job_id == sent.job_id
    return gateway.store.acks[-1].status_code


async def test_the_answers_of_a_job_are_those_of_the_agent(gateway, node):
    sent = job("echo out; echo err >&2; exit 3")
    assert await acknowledge(gateway, sent) == "200"
    await eventually(lambda: end(gateway, sent) is not None)
    first, step, final = told(gateway, sent)
    assert (first.document_status, first.runtime_status, first.status_counts) == ("InProgress", None, None)
    assert (step.document_status, step.status_counts) == ("InProgress", {"Failed": 1})
    assert (final.document_status, final.runtime_status) == ("Failed", step.runtime_status)
    result = step.runtime_status["step"]
    assert (result.code, result.name) == (3, "aws:runShellScript")
    assert result.output == "out\n\n----------ERROR-------\nerr\nfailed to run commands: exit status 3"


async def test_a_command_is_taken_once(gateway, node):
    sent = job("true")
    assert await acknowledge(gateway, sent) == "200"
    assert await acknowledge(gateway, sent) == "51405"
    await eventually(lambda: end(gateway, sent) is not None)
    assert await acknowledge(gateway, sent) == "51405"  # still, when it is over


async def test_five_run_five_wait_and_the_next_has_no_room(gateway, node):
    sent = [job("sleep 600") for _ in range(11)]
    codes = [await acknowledge(gateway, each) for each in sent]
    assert codes == ["200"] * 10 + ["51402"]
    assert (len(node._jobs._running), len(node._jobs._waiting)) == (5, 5)
    waiting = sent[9]
    cancel = payloads.AgentJob.cancel(f"aws.ssm.{uuid4()}.{NODE}", waiting.job_id)
    assert await acknowledge(gateway, cancel) == "200"
    await eventually(lambda: end(gateway, waiting) is not None)
    final = end(gateway, waiting)
    assert (final.document_status, final.runtime_status["step"].code) == ("Cancelled", 1)  # it never began
    assert [content.document_status for content in told(gateway, cancel)] == ["InProgress"]
    assert await acknowledge(gateway, sent[10]) == "200"
    for each in sent[:9]:
        await acknowledge(gateway, payloads.AgentJob.cancel(f"aws.ssm.{uuid4()}.{NODE}", each.job_id))
    await eventually(lambda: all(end(gateway, each) for each in sent[:9]))
    assert {end(gateway, each).document_status for each in sent[:9]} == {"Cancelled"}


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("no JSON", "51408"),
        ("[]", "51408"),
        (json.dumps({"Parameters": {}, "DocumentContent": {"schemaVersion": "9"}}), "51406"),
    ],
)
async def test_what_cannot_be_read_is_refused_and_told_as_failed(gateway, node, content, code):
    sent = payloads.AgentJob(f"aws.ssm.{uuid4()}.{NODE}", content)
    assert await acknowledge(gateway, sent) == code
    await eventually(lambda: end(gateway, sent) is not None)
    assert end(gateway, sent).document_status == "Failed"
    assert end(gateway, sent).trace_output


async def test_an_id_that_would_lead_out_of_its_directory_is_refused(gateway, node):
    sent = job("true")
    for name in ("../../x", "x/y", "x" * 65):
        bad = payloads.AgentJob(f"aws.ssm.{name.replace('.', '')}.{NODE}", sent.content)
        assert await acknowledge(gateway, bad) == "51408"
    assert await acknowledge(gateway, payloads.AgentJob(f"aws.ssm.x.../.{NODE}", sent.content)) == "51408"


async def test_an_answer_that_nobody_took_is_told_again(gateway, node):
    sent = job("echo done")
    gateway.store.refused = 2
    await gateway.hub.send_job(node_key(NODE), sent)
    await eventually(lambda: gateway.store.refused == 0)
    await eventually(lambda: end(gateway, sent) is not None)
    assert end(gateway, sent).runtime_status["step"].standard_output == "done\n"
    await eventually(lambda: not node._jobs._untold and not list(node._directory.replies.iterdir()))


async def test_an_end_outlives_the_process_of_its_node(gateway):
    sent = job("sleep 0.5; echo done")
    spec = make_spec(gateway.home)
    async with running_node(gateway, spec=spec) as node:
        assert await acknowledge(gateway, sent) == "200"
        node.set_credentials(None)  # it goes offline, and the script goes on
        await eventually(lambda: not gateway.hub.is_connected(node_key(NODE)))
        await eventually(lambda: len(node._jobs._untold) == 2)
    assert end(gateway, sent) is None
    async with running_node(gateway, spec=spec):
        await eventually(lambda: end(gateway, sent) is not None)
    assert end(gateway, sent).document_status == "Success"


async def test_what_was_not_begun_is_begun_after_a_restart_and_what_ran_is_told_as_failed(gateway):
    spec = make_spec(gateway.home)
    mark = gateway.home / NODE / "var/tmp/mark"
    sent = [job("echo x >>/var/tmp/mark; sleep 600") for _ in range(5)] + [job("echo y >>/var/tmp/mark")]
    async with running_node(gateway, spec=spec):
        for each in sent:
            assert await acknowledge(gateway, each) == "200"
        await eventually(lambda: mark.exists() and mark.read_text() == "x\n" * 5)
    async with running_node(gateway, spec=spec):
        await eventually(lambda: all(end(gateway, each) for each in sent))
    assert mark.read_text() == "x\n" * 5 + "y\n"
    assert [end(gateway, each).document_status for each in sent] == ["Failed"] * 5 + ["Success"]
    assert end(gateway, sent[0]).runtime_status["step"].standard_error == jobs.LOST_TEXT


async def test_a_node_that_is_stopped_tells_what_it_left_undone(gateway, node):
    sent = job("sleep 600")
    assert await acknowledge(gateway, sent) == "200"
    await eventually(lambda: next(iter(node._jobs._running), None) and next(iter(node._jobs._running)).process)
    node.set_running(False)
    await eventually(lambda: not gateway.hub.is_connected(node_key(NODE)))
    node.set_running(True)
    await eventually(lambda: end(gateway, sent) is not None)
    assert end(gateway, sent).document_status == "Failed"
    assert jobs.STOPPED_TEXT in end(gateway, sent).runtime_status["step"].standard_error


async def test_much_output_costs_no_memory_and_is_bounded_on_the_disk(gateway, node, monkeypatch):
    monkeypatch.setattr("fleetops.node.script.MAX_OUTPUT", 1_000_000)
    sent = job("head -c 5000000 /dev/zero | tr '\\0' z; sleep 600")
    assert await acknowledge(gateway, sent) == "200"
    output = node._directory.jobs / sent.command_id / "0/stdout"
    mark = b"--output truncated--"
    await eventually(lambda: output.exists() and output.read_bytes().endswith(mark), seconds=20)
    await asyncio.sleep(0.1)
    assert output.stat().st_size < 1_000_000 + 100
    await acknowledge(gateway, payloads.AgentJob.cancel(f"aws.ssm.{uuid4()}.{NODE}", sent.job_id))
    await eventually(lambda: end(gateway, sent) is not None)


async def test_a_script_in_namespaces_of_our_own_runs_and_is_cancelled(gateway):
    """Where there is no bubblewrap."""
    async with running_node(gateway, kind="namespaces"):
        sent = job("id -un; hostname; cat; exit 4")
        assert await acknowledge(gateway, sent) == "200"
        await eventually(lambda: end(gateway, sent) is not None)
        result = end(gateway, sent).runtime_status["step"]
        assert (result.code, result.standard_output) == (4, "ssm-user\npay-api-eu1a-01\n")
        sent = job("echo on; sleep 600")
        assert await acknowledge(gateway, sent) == "200"
        output = gateway.home / NODE / "jobs" / sent.command_id / "0/stdout"
        await eventually(lambda: output.exists() and output.read_text() == "on\n")
        await acknowledge(gateway, payloads.AgentJob.cancel(f"aws.ssm.{uuid4()}.{NODE}", sent.job_id))
        await eventually(lambda: end(gateway, sent) is not None)
        result = end(gateway, sent).runtime_status["step"]
        assert (result.status, result.code) == ("Cancelled", 137)


async def test_scripts_of_the_day_before_are_cleared_away(gateway, node):
    old, new = job("true"), job("true")
    commands = gateway.home / NODE / "var/lib/amazon/ssm" / NODE / "document/orchestration"
    assert await acknowledge(gateway, old) == "200"
    await eventually(lambda: end(gateway, old) is not None)
    os.utime(commands / old.command_id, (0, 0))
    assert await acknowledge(gateway, new) == "200"
    await eventually(lambda: end(gateway, new) is not None)
    assert [path.name for path in commands.iterdir()] == [new.command_id]


async def test_an_environment_reaches_the_script_and_not_what_starts_it(gateway, node):
    steps = [
        {
            "action": "aws:runShellScript",
            "name": "step",
            "inputs": {
                "runCommand": ['echo "$WORD|$LD_PRELOAD"'],
                "environment": {"WORD": 'it\'s "one" $HOME', "LD_PRELOAD": "/no/such.so"},
            },
        }
    ]
    sent = job(mainSteps=steps)
    assert await acknowledge(gateway, sent) == "200"
    await eventually(lambda: end(gateway, sent) is not None)
    result = end(gateway, sent).runtime_status["step"]
    assert result.standard_output == 'it\'s "one" $HOME|/no/such.so\n'
