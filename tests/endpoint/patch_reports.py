"""Reports kept as the endpoint keeps them when a node's command ends: by its own code, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_SCRIPT = """
import asyncio, json, os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "fleetops.endpoint.settings"
import django
django.setup()
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from fleetops.endpoint.nodes import Nodes
from fleetops.endpoint.patch.baselines import Baselines
from fleetops.endpoint.patch.facts import Operation, PatchFact, PatchState, RebootOption, Report
from fleetops.endpoint.patch.records import PatchRecords

def moment(text):
    return datetime.fromisoformat(text) if text else None

def fact(given):
    name, version, state = given["name"], given.get("version", "1.0-1"), PatchState(given["state"])
    return PatchFact(f"{name}:{version}", name, given.get("classification", ""), given.get("severity", ""), state,
                     moment(given.get("installed_at")), tuple(given.get("cves", ())), given.get("level", "UNSPECIFIED"))

async def main():
    one = ThreadPoolExecutor(1)
    nodes = Nodes(one)
    await nodes.load()
    async def tell(event):
        raise AssertionError("nobody listens")
    baselines, records = Baselines(one, one, nodes), PatchRecords(one, one, nodes, tell)
    kept = []
    for given in json.load(sys.stdin):
        key = tuple(given["key"])
        node = nodes.find(key)
        node.tags |= given.get("tags", {})
        baseline = await baselines.effective(key)
        report = Report(Operation(given["operation"]), given["snapshot_id"], baseline.baseline_id,
                        RebootOption(given.get("reboot_option", "RebootIfNeeded")), moment(given["started_at"]),
                        moment(given["ended_at"]), tuple(map(fact, given["patches"])),
                        given.get("not_applicable", 0), given.get("is_override", False))
        kept.append(await records.store(key, report, baseline=baseline, command_id=given["command_id"],
                                        now=report.ended_at))
    one.shutdown()
    print(json.dumps(kept))

asyncio.run(main())
"""
COMMAND = "11111111-2222-4333-8444-555555555555"
SNAPSHOT = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"


def report(instance_id: str, *patches: dict[str, Any], ended_at: str = "2026-11-20T10:05:00Z", **more: Any) -> Any:
    """One report, as `keep` takes it."""
    return {
        "key": ["111122223333", "eu-west-1", instance_id],
        "operation": "Scan",
        "snapshot_id": SNAPSHOT,
        "command_id": COMMAND,
        "started_at": "2026-11-20T10:00:00Z",
        "ended_at": ended_at,
        "patches": list(patches),
        **more,
    }


def keep(endpoint: Any, *reports: Any) -> list[bool]:
    """Keep reports in an endpoint's database, in order; whether each became its node's state."""
    root = Path(__file__).resolve().parents[2]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLEETOPS_")}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        cwd=root,
        env=environment | {"FLEETOPS_ENDPOINT_HOME": str(endpoint.home)},
        input=json.dumps(reports),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
