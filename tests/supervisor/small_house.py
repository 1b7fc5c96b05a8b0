"""A supervisor over small parts that can be told to misbehave: forces the faults that the real ones do not show.

    python -m tests.supervisor.small_house '{"name": ["command", ...], ...}'

A part is ready once it prints "ready". FLEETOPS_HOME is where it lives. There is no database to prepare.
"""

import asyncio
import json
import sys
from pathlib import Path

from fleetops import supervisor


class SmallHouse(supervisor.Supervisor):
    async def prepare(self) -> None:
        self.prepared.set()

    async def link_endpoint(self) -> None:
        pass

    def greet(self) -> None:
        self.log.say("all is ready")


def supervise(home: Path) -> int:
    plan = supervisor.make_plan(home)
    parts = {
        name: supervisor.Part(name, command, ready_line="^ready$") for name, command in json.loads(sys.argv[1]).items()
    }
    return asyncio.run(SmallHouse(plan, supervisor.Log(sys.stdout), parts).run())


if __name__ == "__main__":
    sys.exit(supervisor.main(supervise))
