"""Run Command without an endpoint around it, in a database of its own; run as a process, for its settings are its own.

    python -m tests.endpoint.commands_alone HOME

Nodes are a list of what was sent to them. The database refuses what it is told to: the one double, to force a fault.
"""

import asyncio
import contextlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

NAME = "run"
DOCUMENT = {
    "schemaVersion": "2.2",
    "description": "One step",
    "mainSteps": [{"action": "aws:runShellScript", "name": NAME, "inputs": {"runCommand": ["true"]}}],
}
ACCOUNT, REGION = "111122223333", "eu-west-1"


class Writer(ThreadPoolExecutor):
    """The one thread that writes; it fails while `is_away`."""

    is_away = False

    def submit(self, work, /, *arguments):
        from django.db import OperationalError

        def refuse():
            raise OperationalError("the database is away")

        return super().submit(refuse if self.is_away else work, *arguments)


class Nodes:
    """What the hub does for commands."""

    def __init__(self) -> None:
        self.sent = []  # (key, job)

    def is_connected(self, key) -> bool:
        return True

    async def send_job(self, key, job) -> bool:
        self.sent.append((key, job))
        return True


async def settle() -> None:
    """Let everything that can go on without the time do so."""
    for _ in range(50):
        await asyncio.sleep(0.005)


async def play() -> None:
    from django.db import OperationalError

    from fleetops import clock
    from fleetops.endpoint.commands import Commands
    from fleetops.endpoint.models import Command, Invocation
    from fleetops.wire import payloads

    writer, reader = Writer(1), ThreadPoolExecutor(1)
    nodes = Nodes()
    commands = Commands(writer, reader, lambda: nodes)  # not started: nothing looks at the time

    def command(targets: int) -> Command:
        return Command(
            command_id=uuid4(),
            account_id=ACCOUNT,
            region=REGION,
            document_name="one",
            document_content=DOCUMENT,
            timeout_seconds=3600,
            execution_seconds=3600,
            max_concurrency="100%",
            max_errors="0",
            target_count=targets,
            requested_at=clock.now(),
        )

    def invocations(*names: str) -> list[Invocation]:
        return [Invocation(instance_id=name) for name in names]

    def key(name: str) -> tuple[str, str, str]:
        return (ACCOUNT, REGION, name)

    def reply(row: Command, name: str, status: str, **steps: str) -> payloads.AgentJobReply:
        results = {
            step: payloads.StepResult("Success", 0, "aws:runShellScript", out, "", "", standard_output=out)
            for step, out in steps.items()
        }
        content = payloads.ReplyContent(status, "", runtime_status=results)
        text = content.serialize().replace("HALF", "\\ud800")  # which our own end would not say
        return payloads.AgentJobReply(f"aws.ssm.{row.command_id}.{name}", text, "aws.ssm.sendCommand")

    async def stored(row: Command, name: str) -> Invocation:
        rows = Invocation.objects.filter(command=row.pk, instance_id=name)
        return (await commands.read(rows))[0]

    # An answer that could not be written down is not taken for heard, and neither is its repetition.
    row = command(1)
    await commands.send(row, invocations("i-1"))
    await settle()
    writer.is_away = True
    for _ in range(2):
        try:
            await commands.replied(key("i-1"), reply(row, "i-1", "Success", run="hi"))
        except OperationalError:
            continue
        raise AssertionError("an answer that is written nowhere was taken")
    assert (await stored(row, "i-1")).state == "Pending"
    writer.is_away = False
    await commands.replied(key("i-1"), reply(row, "i-1", "Success", run="hi"))
    kept = await stored(row, "i-1")
    assert (kept.state, kept.steps[NAME]["stdout"]) == ("Success", "hi"), kept.steps

    # No job leaves before its row says so, at the second try too.
    nodes.sent.clear()
    row = command(1)
    writing = commands._written

    async def fails() -> None:
        raise OperationalError("the database is away")

    commands._written = fails
    with contextlib.suppress(OperationalError):
        await commands.send(row, invocations("i-2"))
    await settle()
    commands.node_connected(key("i-2"))
    await settle()
    assert nodes.sent == []
    commands._written = writing

    # One that is cancelled while it is written down as told is never told, and has ended.
    await commands.cancel(row, ["i-2"])
    commands.node_connected(key("i-2"))
    await settle()
    assert nodes.sent == []
    assert (await stored(row, "i-2")).details == "Cancelled"

    # What a node printed is in the database alone once it is there, and a late word adds to it.
    row = command(2)
    await commands.send(row, invocations("i-3", "i-4"))
    await settle()
    await commands.replied(key("i-3"), reply(row, "i-3", "Success", run="whole", another="not of this document"))
    running = commands._running[row.command_id]
    assert running.invocations["i-3"].row.steps == {}
    await commands.replied(key("i-3"), reply(row, "i-3", "InProgress", run="again"))
    kept = await stored(row, "i-3")
    assert {name: step["stdout"] for name, step in kept.steps.items()} == {NAME: "whole"}
    await commands.replied(key("i-4"), reply(row, "i-4", "Success", run="zero \0, half HALF"))
    kept = await stored(row, "i-4")
    assert kept.steps[NAME]["stdout"] == "zero \N{REPLACEMENT CHARACTER}, half ?", kept.steps
    assert row.details == "Success"
    assert row.command_id not in commands._running

    await commands.stop()
    writer.shutdown()
    reader.shutdown()


def main(home: str) -> None:
    os.environ["FLEETOPS_ENDPOINT_HOME"] = home
    os.environ["DJANGO_SETTINGS_MODULE"] = "fleetops.endpoint.settings"
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    asyncio.run(play())


if __name__ == "__main__":
    main(sys.argv[1])
