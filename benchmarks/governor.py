"""What polling costs a person who clicks Connect where AWS allows five calls a second, with and without the budget.

    python benchmarks/governor.py [--instances 10000] [--shells 40] [--json FILE] [--quick]

The whole product runs as `make up` runs it, on loopback: the click, the websocket, StartSession and the shell's first
output are real. The embedded endpoint knows so many hybrid nodes (written into its database as agents would have left
them: nobody starts 10,000 agents here) beside its demo nodes, and its fault rules allow five calls of SSM a second, all
operations together, with five at once: less than AWS's own buckets, which are one for each operation.

One worker reads that fleet, 50 nodes a call, while a person clicks Connect again and again. A click that AWS refuses is
clicked again at once, as people do; the time runs from the first click until the shell's first output. "Alone" is the
same while nobody reads the fleet. The product without the budget is the same with FLEETOPS_AWS_BUDGET=off.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sqlite3
import statistics
import sys
import tempfile
import time
import urllib.error
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.terminal import FleetOps, percentile
from tests.support.endpoint import start_endpoint, until
from tests.support.faults import Faults
from tests.support.stack import Person, Stack, running_stack

ACCOUNT, REGION, NODE = "111122223333", "eu-west-1", "pay-api-eu1a-01"
CALLS_A_SECOND = 5
FIRST_OUTPUT_SECONDS = 30
MOST_CLICKS = 50


def fill(home: Path, instances: int) -> None:
    """Give the endpoint in `home` so many nodes more."""
    endpoint = start_endpoint(home, nodes="demo")
    ssm = endpoint.client("ssm")
    until(
        lambda: any(
            each["PingStatus"] == "Online" for each in ssm.describe_instance_information()["InstanceInformationList"]
        ),
        seconds=60,
        what="a demo node is online",
    )
    endpoint.stop()
    endpoint.process.stdout.close()
    database = sqlite3.connect(home / "endpoint.sqlite3")
    ((told, at),) = database.execute(
        "SELECT information, registered_at FROM endpoint_node WHERE last_ping_at IS NOT NULL LIMIT 1"
    )
    database.executemany(
        "INSERT INTO endpoint_node (account_id, region, instance_id, information, tags, iam_role, name, registered_at,"
        " last_ping_at) VALUES (?, ?, ?, ?, '{}', 'fleet', ?, ?, ?)",
        [(ACCOUNT, REGION, f"mi-{number:017x}", told, f"filled-{number:05d}", at, at) for number in range(instances)],
    )
    database.commit()
    database.close()


class Rules:
    """The endpoint's rules, and what they have counted."""

    def __init__(self, stack: Stack) -> None:
        self.faults = Faults(stack.handover)
        self.faults.put("reads", "latency", match={"operation": "DescribeInstanceInformation"}, seconds=0)
        self.faults.put("five", "throttle", match={"service": "ssm"}, rate=CALLS_A_SECOND, burst=CALLS_A_SECOND)

    def counted(self) -> tuple[int, int]:
        """(calls that read the fleet, calls that were refused), refused ones in the first too."""
        rules = self.faults.rules()
        return rules["reads"]["matched"], rules["five"]["struck"]


def click(stack: Stack, person: Person) -> tuple[float, int]:
    """From the first click on Connect until the shell says something: seconds, and how many clicks it took."""
    began = time.perf_counter()
    for clicks in range(1, MOST_CLICKS):
        with contextlib.suppress(urllib.error.HTTPError, ConnectionError, AssertionError):
            shell = FleetOps(stack, person, NODE)
            deadline = time.perf_counter() + FIRST_OUTPUT_SECONDS
            while time.perf_counter() < deadline:
                message = shell.web.receive(1.0)
                if message is None:
                    continue
                if message[0] == 2:
                    took = time.perf_counter() - began
                    shell.type(b"exit\r")
                    shell.close()
                    return took, clicks
                if message[0] == 8 or b'"ended"' in message[1]:
                    break
            shell.close()
    raise SystemExit(f"no shell after {MOST_CLICKS} clicks")


def refresh(person: Person) -> None:
    person.post("/fleet/refresh/", next="/fleet/")


def is_read(person: Person, rules: Rules) -> bool:
    """Whether the fleet is being read, which is asked for if it is not."""
    before = rules.counted()[0]
    refresh(person)  # does nothing while it is read, nor within five seconds after it was begun
    time.sleep(1)
    return rules.counted()[0] > before


def sample(stack: Stack, person: Person, rules: Rules, shells: int, *, reading: bool) -> dict[str, Any]:
    """Click Connect every other second until there were so many shells, with the fleet being read, or with nobody."""
    took: list[float] = []
    clicks = left_out = 0
    began, (reads, refused) = time.perf_counter(), rules.counted()
    while len(took) < shells:
        if reading:
            until(lambda: is_read(person, rules), seconds=120, what="the fleet is being read")
        seconds, number = click(stack, person)
        after = rules.counted()[0]
        time.sleep(1.5)
        # A sample counts only if the fleet was read before, during and after it; or not at all.
        if reading == (rules.counted()[0] > after):
            took.append(seconds)
            clicks += number
        else:
            left_out += 1
    lasted = time.perf_counter() - began
    now_reads, now_refused = rules.counted()
    return {
        "shells": len(took),
        "clicks refused": clicks - len(took),
        "p50 s": statistics.median(took),
        "p95 s": percentile(took, 0.95),
        "worst s": max(took),
        "reads a second": (now_reads - reads) / lasted,
        "refused a second": (now_refused - refused) / lasted,
        "left out": left_out,
    }


def whole(stack: Stack, person: Person, rules: Rules) -> dict[str, float]:
    """One whole reading of the fleet without anybody else: seconds, calls, and those refused."""

    def age() -> float:
        found = re.search(
            rf'fleetops_inventory_age_seconds{{account="{ACCOUNT}",region="{REGION}"}} ([\d.e+-]+)',
            person.get("/metrics"),
        )
        return float(found[1]) if found else 1e9

    until(lambda: age() < 1e9, seconds=900, what="the fleet has been read for the first time")
    time.sleep(6)
    reads, refused = rules.counted()
    began, before = time.perf_counter(), age()
    refresh(person)
    until(lambda: age() < before, seconds=900, what="the fleet has been read whole")
    seconds = time.perf_counter() - began
    now_reads, now_refused = rules.counted()
    return {"seconds": seconds, "calls": now_reads - reads, "refused": now_refused - refused}


def measure(options: argparse.Namespace, filled: Path, *, budget: str) -> dict[str, Any]:
    with contextlib.ExitStack() as stack_of:
        home = Path(stack_of.enter_context(tempfile.TemporaryDirectory(prefix="fo-bench-")))
        filled_into(filled, home / "endpoint")
        stack = stack_of.enter_context(
            running_stack(home, FLEETOPS_INVENTORY_SECONDS="86400", FLEETOPS_AWS_BUDGET=budget)
        )
        person = stack.log_in()
        rules = Rules(stack)
        person.instance_pk(NODE)
        print(f"budget {budget}: a whole reading", file=sys.stderr)
        figures: dict[str, Any] = {"whole": whole(stack, person, rules)}
        click(stack, person)  # the first assumes the role
        time.sleep(6)  # people may ask for a reading five seconds after the last began
        for name, reading in (("alone", False), ("reading", True)):
            print(f"budget {budget}: {name}", file=sys.stderr)
            figures[name] = sample(stack, person, rules, options.shells, reading=reading)
        return figures


def filled_into(filled: Path, place: Path) -> None:
    import shutil

    shutil.copytree(filled, place, ignore=shutil.ignore_patterns("*.sock", "*.lock"))


def table(found: dict[str, dict[str, Any]]) -> str:
    """Each situation beside the same product's own while nobody reads the fleet."""
    lines = [
        "| Connect | shells | clicks refused | p50 s | p95 s | worst s | × alone, p50 | × alone, p95 |"
        " calls refused a second |",
        "| --- |" + " --- |" * 8,
    ]
    for budget, words in (("on", "with the budget"), ("off", "without it")):
        alone = found[budget]["alone"]
        for name, row in ((f"{words}, alone", alone), (f"{words}, fleet being read", found[budget]["reading"])):
            lines.append(
                f"| {name} | {row['shells']} | {row['clicks refused']} | {row['p50 s']:.2f} | {row['p95 s']:.2f} "
                f"| {row['worst s']:.2f} | {row['p50 s'] / alone['p50 s']:.2f} | {row['p95 s'] / alone['p95 s']:.2f} "
                f"| {row['refused a second']:.2f} |"
            )
    lines += ["", "| a whole reading | seconds | calls | of them refused |", "| --- | --- | --- | --- |"]
    for budget, name in (("on", "with the budget"), ("off", "without it")):
        row = found[budget]["whole"]
        lines.append(f"| {name} | {row['seconds']:.0f} | {row['calls']} | {row['refused']} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, default=10_000)
    parser.add_argument("--shells", type=int, default=40, help="in each of the four situations")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="few of all, to see that it runs")
    options = parser.parse_args()
    if options.quick:
        options.instances, options.shells = 2000, 4
    with tempfile.TemporaryDirectory(prefix="fo-bench-") as directory:
        filled = Path(directory) / "endpoint"
        fill(filled, options.instances)
        found = {budget: measure(options, filled, budget=budget) for budget in ("on", "off")}
    print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
