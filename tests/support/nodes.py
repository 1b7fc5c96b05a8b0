"""Simulated nodes that go on whatever is killed: they connect again, and answer again what was not heard.

    python -m tests.support.nodes '{"port": …, "count": 60, "log": "…", …}'

Each keeps what the real agent keeps on its disk: which commands it has, and which answers nobody has acknowledged. What
it runs is written down, a line for each beginning and end, so that a test sees what really ran and when.
"""

import asyncio
import contextlib
import json
import os
import sys
import time
from random import Random
from typing import Any
from uuid import UUID, uuid4

import uvloop

from benchmarks.agents import Node, World, spawn
from fleetops import clock
from fleetops.wire import JobReceived, JobReplyAcknowledged, payloads
from fleetops.wire.controlchannel import ControlChannel, ControlRole
from fleetops.wire.frames import milliseconds

_LOST = (OSError, RuntimeError, asyncio.IncompleteReadError, AttributeError)


class Keeper(Node):
    """One node; `fails`: its documents end with an error."""

    def __init__(self, world: World, number: int, log: int, seconds: tuple[float, float], fails: bool) -> None:
        super().__init__(world, number)
        self.log, self.seconds, self.fails = log, seconds, fails
        self.random = Random(number)
        self.known: dict[str, str] = {}  # job → its end, empty while it runs
        self.unheard: dict[str, UUID | None] = {}  # job → the message of its end that is not acknowledged

    def note(self, what: str, job: JobReceived) -> None:
        line = {"at": time.time(), "node": self.name, "what": what, "command": job.job.command_id}
        os.write(self.log, (json.dumps(line) + "\n").encode())

    async def live(self) -> None:
        while True:
            with contextlib.suppress(*_LOST):
                self.credentials = self.world.credentials(self.name)
                self.channel = ControlChannel(ControlRole.AGENT, new_id=uuid4)
                await asyncio.wait_for(self.connect(), 20)
                for job in list(self.unheard):
                    self.tell_end(job)
                beats = 0
                while self.control is not None and not self.control.is_lost:
                    await asyncio.sleep(0.2)
                    beats += 1
                    if beats % 100 == 0:  # as one that pings: it is heard of
                        await asyncio.wait_for(self.heartbeat(fresh=True), 20)
            await asyncio.sleep(self.random.uniform(0.3, 1.0))

    def on_control(self, frames: list[bytes]) -> None:
        now = clock.steady()
        for frame in frames:
            self.channel.receive(frame, now=now)
        for event in self.channel.events():
            match event:
                case JobReceived():
                    self.channel.acknowledge_job(event, now=now)
                    if event.job.is_cancel:
                        continue
                    if event.job.job_id not in self.known:
                        self.known[event.job.job_id] = ""
                        spawn(self.run(event))
                    elif self.known[event.job.job_id]:
                        self.tell_end(event.job.job_id)
                case JobReplyAcknowledged(message_id=message_id):
                    self.unheard = {job: its for job, its in self.unheard.items() if its != message_id}
        self.flush()

    async def run(self, job: JobReceived) -> None:
        self.note("begins", job)
        await asyncio.sleep(self.random.uniform(*self.seconds))
        self.note("ends", job)
        self.known[job.job.job_id] = "Failed" if self.fails else "Success"
        self.unheard[job.job.job_id] = None
        self.tell_end(job.job.job_id)

    def tell_end(self, job_id: str) -> None:
        now = clock.steady()
        at, status = payloads.iso_time(milliseconds(now)), self.known[job_id]
        code = 1 if status == "Failed" else 0
        step = payloads.StepResult(status, code, "aws:runShellScript", "done\n", at, at, standard_output="done\n")
        content = payloads.ReplyContent(
            status, at, status_counts=None, runtime_status={"aws:runShellScript": step}
        ).serialize()
        self.unheard[job_id] = self.channel.reply_job(
            payloads.AgentJobReply(job_id, content, "aws.ssm.sendCommand"), now=now
        )
        self.flush()

    def flush(self) -> None:
        out = self.channel.data_to_send()
        if out and self.control is not None and not self.control.is_lost:
            self.control.send(out)


async def main(order: dict[str, Any]) -> None:
    world = World(order)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    fails = set(order.get("fails", ()))
    seconds = tuple(order.get("seconds", (0.3, 1.0)))
    nodes = [Keeper(world, number, log, seconds, number in fails) for number in range(order["count"])]
    for node in nodes:
        spawn(node.live())
        await asyncio.sleep(0.02)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # ends with who started it


if __name__ == "__main__":
    uvloop.run(main(json.loads(sys.argv[1])))
