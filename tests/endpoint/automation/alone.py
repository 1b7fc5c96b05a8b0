"""Automations without an endpoint around them, killed at one moment after the other; run as a process: own settings.

    python -m tests.endpoint.automation.alone HOME [EVERY [FIRST]]

What is killed is the engine: at the moment chosen nothing that it writes or asks for comes back any more, and another
engine goes on from the database. The moments are before and after each write and each call. AWS is the one double: it
notes what it is asked for. Then the database refuses one write after the other, and nothing is killed.
EVERY: take but each so-manieth moment, from FIRST on.
"""

import asyncio
import contextlib
import json
import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from uuid import UUID, uuid4

ACCOUNT, REGION = "111122223333", "eu-west-1"
_SECONDS = 20


class Fate:
    """Counts the moments; at the one chosen everything stands still."""

    def __init__(self, at: int | None, is_refusal: bool = False) -> None:
        self.at = at
        self.is_refusal = is_refusal  # the write at this moment fails, and all goes on
        self.count = 0
        self.killed = asyncio.Event()
        self.loop = asyncio.get_running_loop()

    def strikes(self) -> bool:
        if self.killed.is_set():
            return True
        self.count += 1
        if self.count == self.at and not self.is_refusal:
            self.killed.set()
        return self.count == self.at


def refuse():
    from django.db import OperationalError

    raise OperationalError("the database is away")


class Writer(ThreadPoolExecutor):
    """The one thread that writes."""

    fate: Fate

    def submit(self, work, /, *arguments):
        if self.fate.is_refusal:
            return super().submit(refuse if self.fate.strikes() else work, *arguments)
        if self.fate.strikes():
            return Future()
        done = super().submit(work, *arguments)
        done.exception()  # wait for it
        return Future() if self.fate.strikes() else done


class Aws:
    """What is asked for, and what there is of it: it outlives every engine."""

    def __init__(self) -> None:
        self.tagged: list[str] = []
        self.commands: dict[str, object] = {}
        self.started: list[UUID] = []
        self.engine = None
        self.fate: Fate

    async def carry_out(self, call):
        from fleetops.endpoint.calls import Answer

        name = (call.request.header("x-amz-target") or "").rpartition(".")[2]
        if not self.fate.is_refusal and self.fate.strikes():
            await asyncio.Future()
        status, result = await self._do(call, name, json.loads(call.request.body or b"{}"))
        if not self.fate.is_refusal and self.fate.strikes():
            await asyncio.Future()
        return Answer(status, json.dumps(result).encode(), error_code=result.get("__type", ""))

    async def _do(self, call, name, members):
        from fleetops.endpoint.models import Command

        match name:
            case "AddTagsToResource":
                self.tagged.append(members["ResourceId"])
                return 200, {}
            case "SendCommand":
                made = str(call.behalf.made_id)
                assert made not in self.commands, "a command was sent twice"
                self.commands[made] = Command(command_id=call.behalf.made_id, state="Success")
                return 200, {"Command": {"CommandId": made}}
            case "ListCommandInvocations":
                plugin = {"Name": "x", "ResponseCode": 0, "Output": "hi"}
                return 200, {"CommandInvocations": [{"CommandPlugins": [plugin]}]}
            case "StartAutomationExecution":
                made = call.behalf.made_id
                parent = await self.engine.find_by_id(call.behalf.execution_id)
                await self.engine.begin(execution(CHILD, execution_id=made, parent=parent))
                self.started.append(made)
                return 200, {"AutomationExecutionId": str(made)}
            case "DescribeParameters":
                return 400, {"__type": "ValidationException", "message": "no"}
        return 200, {"InstanceInformationList": []}

    async def find(self, account, region, command_id):
        return self.commands.get(command_id)


def execution(steps, **more):
    from fleetops import clock
    from fleetops.endpoint.automation.caller import written
    from fleetops.endpoint.calls import Principal
    from fleetops.endpoint.models import AutomationExecution

    principal = Principal("user", ACCOUNT, f"arn:aws:iam::{ACCOUNT}:user/a", "AIDA", "a", "AKIA")
    content = {
        "schemaVersion": "0.3",
        "parameters": {"Name": {"type": "String", "default": "x"}},
        "variables": {"seen": {"type": "Integer", "default": 0}},
        "mainSteps": steps,
    }
    return AutomationExecution(
        **{
            "execution_id": uuid4(),
            "account_id": ACCOUNT,
            "region": REGION,
            "document_name": "alone",
            "document_version": "1",
            "document_content": content,
            "parameters": {"Name": "x"},
            "variables": {"seen": 0},
            "principal": written(principal),
            "executed_by": principal.arn,
            "started_at": clock.now(),
            **more,
        }
    )


def step(name, action, inputs=None, **more):
    return {"name": name, "action": f"aws:{action}", "inputs": inputs or {}, **more}


def tag(name, resource, **more):
    asked = {"Service": "ssm", "Api": "AddTagsToResource", "ResourceType": "ManagedInstance"}
    return step(name, "executeAwsApi", {**asked, "ResourceId": resource, "Tags": [{"Key": "k", "Value": "v"}]}, **more)


def fails(name, **more):
    return step(name, "executeAwsApi", {"Service": "ssm", "Api": "DescribeParameters"}, **more)


def nap(name, duration="PT0S", **more):
    return step(name, "sleep", {"Duration": duration}, **more)


CHILD = [nap("childNap"), tag("childTag", "child")]
CASES = {
    "steps": [
        tag("first", "first"),
        step("look", "executeAwsApi", {"Service": "ssm", "Api": "DescribeInstanceInformation"}),
        step(
            "choose",
            "branch",
            {"Choices": [{"NextStep": "note", "Variable": "{{ Name }}", "StringEquals": "x"}], "Default": "never"},
        ),
        tag("never", "never"),
        step("note", "updateVariable", {"Name": "variable:seen", "Value": 7}),
        tag("last", "last"),
    ],
    "loop": [
        step(
            "each",
            "loop",
            {"Iterators": ["a", "b"], "Steps": [tag("one", "{{ each.CurrentIteratorValue }}1"), nap("two")]},
        ),
        tag("last", "last"),
    ],
    "others": [
        step("ask", "runCommand", {"DocumentName": "AWS-RunShellScript", "InstanceIds": ["i-1"]}),
        step("call", "executeAutomation", {"DocumentName": "child"}),
        tag("last", "last"),
    ],
    "failures": [
        fails("bad", onFailure="step:away"),
        tag("never", "never"),
        tag("away", "away"),
        step(
            "each",
            "loop",
            {"Iterators": ["a", "b"], "Steps": [tag("one", "{{ each.CurrentIteratorValue }}"), fails("two")]},
        ),
        tag("neither", "neither"),
    ],
    "targets": [tag("only", "{{ Name }}")],
    "stopped": [nap("long", "PT1H", onCancel="step:tidy"), tag("never", "never"), tag("tidy", "tidy")],
    "loop stopped": [
        step(
            "each",
            "loop",
            {
                "Iterators": ["a", "b"],
                "Steps": [nap("long", "PT1H", onCancel="step:tidy"), tag("tidy", "{{ each.CurrentIteratorValue }}")],
            },
        ),
        tag("never", "never"),
    ],
    "targets stopped": [nap("long", "PT1H")],
}


async def play(name, at, *, is_refusal=False):
    """One case, killed at one moment, or refused one write: what it came to, and how many moments there were."""
    from django.db import OperationalError

    from fleetops.endpoint.automation import engine as module
    from fleetops.endpoint.automation.engine import Automations
    from fleetops.endpoint.models import AutomationExecution

    aws, reader = Aws(), ThreadPoolExecutor(1)

    async def told(event):
        return None

    def engine(fate):
        writer = Writer(1)
        writer.fate = aws.fate = fate
        made = Automations(writer, reader, commands=aws, identities=None, trail=None, tell=told, host="localhost:1")
        made.carry_out, aws.engine = aws.carry_out, made
        return made

    more = {}
    if name.startswith("targets"):
        resolved = [{"Name": [value]} for value in "abc"]
        more = {"aim": {"is_controlled": True, "MaxConcurrency": "2"}, "resolved": resolved}
    row = execution(CASES[name], **more)
    module._AGAIN_SECONDS = 0.01
    first = Fate(at, is_refusal)
    running = engine(first)
    await running.start()
    try:
        await one_of(running.begin(row, list("abc") if more else ()), first)
    except OperationalError:
        return {"state": "never begun", "moments": first.count, "tagged": aws.tagged}
    await one_of(ends(running, row, name), first)
    moments = first.count
    if first.killed.is_set():
        for task in [*running._tasks, *running._keepers]:
            task.cancel()
        await asyncio.sleep(0)
        running = engine(Fate(None))
        await running.start()
        if await running.find_by_id(row.execution_id) is None:
            return {"state": "never begun", "moments": moments, "tagged": aws.tagged}
        await ends(running, row, name)
    await running.stop()

    def read():
        found = AutomationExecution.objects.get(execution_id=row.execution_id)
        every = [one for each in AutomationExecution.objects.all() for one in each.steps.all()]
        mine = [(each.name, str(each.state)) for each in found.steps.all()]
        words = " ".join(each.failure_message for each in every)
        open_ = [f"{each.name} {each.state}" for each in every if each.started_at and not each.ended_at]
        result = {"state": str(found.state), "steps": mine, "words": words, "open": open_, "variables": found.variables}
        AutomationExecution.objects.all().delete()
        return result

    result = await asyncio.get_running_loop().run_in_executor(reader, read)
    reader.shutdown()
    return result | {
        "moments": moments,
        "tagged": sorted(aws.tagged),
        "commands": len(aws.commands),
        "started": len(aws.started),
    }


async def ends(running, row, name):
    """Wait for the end; what is to be stopped is stopped once it has begun."""
    from django.db import OperationalError

    async with asyncio.timeout(_SECONDS):
        while running.under_way(row) is not None:
            found = await running.find_by_id(row.execution_id)
            if "stopped" in name and found is not None and not found.stop:
                under_way = running.under_way(found)
                inner = [step for step in under_way.steps if step.name in {"long", "a", "b"}] if under_way else []
                if any(step.state == "InProgress" for step in inner):
                    with contextlib.suppress(OperationalError):
                        await running.stop_one(found, "Cancel")
            await asyncio.sleep(0.001)


async def one_of(work, fate):
    """Until `work` is done, or everything has been killed."""
    task, killed = asyncio.ensure_future(work), asyncio.ensure_future(fate.killed.wait())
    await asyncio.wait({task, killed}, return_when=asyncio.FIRST_COMPLETED)
    killed.cancel()
    if not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.05)
    elif not fate.killed.is_set():
        task.result()


def main() -> None:
    home, every, begin = sys.argv[1], int((sys.argv[2:] + ["1"])[0]), int((sys.argv[3:] + ["1"])[0])
    os.environ |= {"DJANGO_SETTINGS_MODULE": "fleetops.endpoint.settings", "FLEETOPS_ENDPOINT_HOME": home}
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    results = {}
    for name in CASES:
        whole = asyncio.run(play(name, None))
        writes = asyncio.run(play(name, None, is_refusal=True))["moments"]
        results[name] = {
            "whole": whole,
            "killed": {at: asyncio.run(play(name, at)) for at in range(begin, whole["moments"] + 1, every)},
            "refused": {at: asyncio.run(play(name, at, is_refusal=True)) for at in range(begin, writes + 1, every)},
        }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
