"""A node that lies, on demand: faults of the kind "lie" (faults.py), for whoever must not believe all that he is told.

    nothing    the node is given no command; that it was taken, and every step a success, is said in its name
    other      its acknowledges and replies speak of another job: of the node `claims`, or of one that nobody has
    twice      each of them comes twice
    late       its replies come `seconds` later
    backwards  the replies of a command come in the wrong order: those of `seconds` from the first, the last one first
    compliant  whatever compliance it puts, every item is COMPLIANT
    report     its own report holds `information` in the place of what it says
    claim      its calls to SSM name the node `claims` in the place of itself

All this is done where its words arrive, so that any agent, real ones too, can be made a liar. What a node says under
other credentials than those of a node is left as it is.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, Final
from uuid import uuid4

from fleetops import clock
from fleetops.endpoint.calls import Call, NodeKey
from fleetops.endpoint.commands import Commands, Jobs
from fleetops.endpoint.faults import Faults, Rule
from fleetops.endpoint.nodes import Nodes
from fleetops.endpoint.services import HubStore, Sessions
from fleetops.wire import payloads
from fleetops.wire.errors import RemoteProtocolError

logger = logging.getLogger(__name__)

_DEFAULT_SECONDS: Final = 1.0


class LyingStore(HubStore):
    """What the hub tells of nodes, false where a rule asks for it."""

    def __init__(self, sessions: Sessions, nodes: Nodes, commands: Commands, faults: Faults) -> None:
        super().__init__(sessions, nodes, commands)
        self._faults = faults
        self._tasks: set[asyncio.Task[None]] = set()
        self._held: dict[tuple[NodeKey, str], list[payloads.AgentJobReply]] = {}

    async def job_acknowledged(self, key: NodeKey, ack: payloads.AgentJobAck) -> None:
        if rule := self._faults.lie(key, "other"):
            ack = replace(ack, job_id=_other_job(rule, ack.job_id))
        await super().job_acknowledged(key, ack)
        if self._faults.lie(key, "twice"):
            await super().job_acknowledged(key, ack)

    async def job_replied(self, key: NodeKey, reply: payloads.AgentJobReply) -> None:
        if rule := self._faults.lie(key, "other"):
            reply = replace(reply, job_id=_other_job(rule, reply.job_id))
        if rule := self._faults.lie(key, "late"):
            self._later(rule, partial(self._tell, key, reply))
        elif rule := self._faults.lie(key, "backwards"):
            held = self._held.setdefault((key, reply.job_id), [])
            held.append(reply)
            if len(held) == 1:
                self._later(rule, partial(self._tell_held, key, reply.job_id))
        else:
            await self._tell(key, reply)

    async def _tell(self, key: NodeKey, reply: payloads.AgentJobReply) -> None:
        await super().job_replied(key, reply)
        if self._faults.lie(key, "twice"):
            await super().job_replied(key, reply)

    async def _tell_held(self, key: NodeKey, job_id: str) -> None:
        for reply in reversed(self._held.pop((key, job_id), [])):
            await self._tell(key, reply)

    def _later(self, rule: Rule, deed: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def wait() -> None:
            await asyncio.sleep(rule.seconds or _DEFAULT_SECONDS)
            await deed()

        _start(self._tasks, wait())


class LyingJobs:
    """The hub as commands see it: a node that lies about a command is not given it."""

    def __init__(self, hub: Jobs, commands: Commands, faults: Faults) -> None:
        self._hub = hub
        self._commands = commands
        self._faults = faults
        self._tasks: set[asyncio.Task[None]] = set()

    def is_connected(self, key: NodeKey) -> bool:
        return self._hub.is_connected(key)

    async def send_job(self, key: NodeKey, job: payloads.AgentJob) -> bool:
        if job.is_cancel or not self.is_connected(key) or not self._faults.lie(key, "nothing"):
            return await self._hub.send_job(key, job)
        _start(self._tasks, self._pretend(key, job))
        return True

    async def _pretend(self, key: NodeKey, job: payloads.AgentJob) -> None:
        """Say what a node says that has done all of it."""
        now = payloads.iso_time(int(clock.now().timestamp() * 1000))
        await self._commands.acknowledged(key, payloads.AgentJobAck(job.job_id, uuid4(), now))
        done = {
            name: payloads.StepResult("Success", 0, action, start_date_time=now, end_date_time=now)
            for name, action in _steps(job).items()
        }
        for status, steps in (("InProgress", None), ("InProgress", done), ("Success", done)):
            content = payloads.ReplyContent(status, now, runtime_status=steps)
            await self._commands.replied(key, payloads.AgentJobReply(job.job_id, content.serialize()))


def twist(faults: Faults, call: Call, parameters: dict[str, Any]) -> None:
    """Make false what a node says in a call to SSM, where a rule asks for it: the parameters are changed in place."""
    key = call.principal.node if call.principal is not None else None
    if key is None:
        return
    if call.operation == "PutComplianceItems" and faults.lie(key, "compliant"):
        for item in parameters["Items"]:
            item["Status"] = "COMPLIANT"
    if call.operation == "UpdateInstanceInformation" and (rule := faults.lie(key, "report")):
        parameters |= rule.information
    named = [name for name in ("InstanceId", "ResourceId") if parameters.get(name) == key[2]]
    if named and (rule := faults.lie(key, "claim")):
        parameters |= dict.fromkeys(named, rule.claims)


def _other_job(rule: Rule, job_id: str) -> str:
    """aws.ssm.COMMAND.NODE with another node, or with a command that there is not."""
    head, _, node = job_id.rpartition(".")
    return f"{head}.{rule.claims}" if rule.claims else f"aws.ssm.{uuid4()}.{node}"


def _steps(job: payloads.AgentJob) -> dict[str, str]:
    """The steps of a command's document by name, with their actions; of schema 1.x the plugins."""
    try:
        document = job.load_content().get("DocumentContent")
    except RemoteProtocolError:
        return {}
    if not isinstance(document, dict):
        return {}
    steps = document.get("mainSteps")
    if isinstance(steps, list):
        return {str(step.get("name")): str(step.get("action")) for step in steps if isinstance(step, dict)}
    plugins = document.get("runtimeConfig")
    return {str(name): str(name) for name in plugins} if isinstance(plugins, dict) else {}


def _start(tasks: set[asyncio.Task[None]], deed: Coroutine[Any, Any, None]) -> None:
    def done(task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("a lie failed in the background", exc_info=error)

    task = asyncio.create_task(deed)
    tasks.add(task)
    task.add_done_callback(done)
