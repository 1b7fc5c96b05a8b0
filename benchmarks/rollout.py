"""What a run in waves costs: planning it, and carrying it through on simulated targets while AWS's limits hold.

    python benchmarks/rollout.py [--targets 10000] [--naive 500] [--json FILE] [--quick]

AWS is a server of the benchmark's own on loopback: SendCommand, ListCommands, ListCommandInvocations and
GetCommandInvocation over real HTTP, each with a token bucket of so many calls a second (RATES; what AWS grants is not
published, and these are less than it usually does); a call beyond it is a ThrottlingException. Its nodes take 3 to 8 s
for a command, one in two hundred fails. The planner, the engine, Run Command, boto3 and the database (SQLite in a file,
or FLEETOPS_DATABASE_URL) are the product's, carried on by one thread as beat and workers would.

The least number of calls that any programme could make: a SendCommand for each 50 targets, and one page of
ListCommandInvocations for each of them, at its end.

Meanwhile a process of its own asks for the dashboard's cells as an open page does. Its lag is the time from the moment
that the engine writes down as a target's end to the answer that tells it.

Beside it stands the same work as one plain Celery task a target, as Celery's examples show it: SendCommand for one
instance, then GetCommandInvocation every 2 s until its end, sixteen at a time, tried again when AWS throttles
(plain_tasks.py, on a worker of its own over the same Valkey).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.terminal import percentile
from tests.support.valkey import running_valkey

ROOT = Path(__file__).resolve().parent.parent
ACCOUNT, REGION = "111122223333", "eu-west-1"
RATES = {"SendCommand": 5.0, "ListCommandInvocations": 10.0, "GetCommandInvocation": 10.0, "ListCommands": 5.0}
SECONDS = (3.0, 8.0)  # of a command on a node
FAILS = 200  # one in so many
PAGE_EVERY = 0.5  # seconds between two answers that a page asks for: POLL_MS of static/src/js/cells.js
NAIVE_AT_ONCE = 16


# --- a loopback AWS --------------------------------------------------------------------------------------------------


class LoopbackAws:
    """Commands and their ends, by the clock; counts calls and throttles."""

    def __init__(self) -> None:
        self.commands: dict[str, tuple[str, dict[str, tuple[float, bool]]]] = {}
        self.calls: dict[str, int] = {}
        self.throttled: dict[str, int] = {}
        self.buckets = {name: (rate * 2, time.monotonic()) for name, rate in RATES.items()}
        self.lock = threading.Lock()
        self.random = random.Random(6)

    def answer(self, operation: str, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self.lock:
            left, at = self.buckets[operation]
            now, rate = time.monotonic(), RATES[operation]
            left = min(rate * 2, left + (now - at) * rate)
            if left < 1:
                self.buckets[operation] = (left, now)
                self.throttled[operation] = self.throttled.get(operation, 0) + 1
                return 400, {"__type": "ThrottlingException", "message": "Rate exceeded"}
            self.buckets[operation] = (left - 1, now)
            self.calls[operation] = self.calls.get(operation, 0) + 1
            return 200, getattr(self, operation)(asked, now)

    def SendCommand(self, asked: dict[str, Any], now: float) -> dict[str, Any]:
        command = str(uuid.uuid4())
        ends = {
            each: (now + self.random.uniform(*SECONDS), self.random.randrange(FAILS) == 0)
            for each in asked["InstanceIds"]
        }
        self.commands[command] = (asked.get("Comment", ""), ends)
        return {"Command": {"CommandId": command, "TargetCount": len(ends)}}

    def ListCommands(self, asked: dict[str, Any], now: float) -> dict[str, Any]:
        newest = list(self.commands.items())[-50:]
        return {"Commands": [{"CommandId": each, "Comment": comment} for each, (comment, _) in reversed(newest)]}

    def ListCommandInvocations(self, asked: dict[str, Any], now: float) -> dict[str, Any]:
        _, ends = self.commands[asked["CommandId"]]
        return {"CommandInvocations": [{"InstanceId": each, **self._status(end, now)} for each, end in ends.items()]}

    def GetCommandInvocation(self, asked: dict[str, Any], now: float) -> dict[str, Any]:
        return self._status(self.commands[asked["CommandId"]][1][asked["InstanceId"]], now)

    @staticmethod
    def _status(end: tuple[float, bool], now: float) -> dict[str, Any]:
        at, fails = end
        if now < at:
            return {"Status": "InProgress", "StatusDetails": "InProgress", "CommandPlugins": []}
        status, code = ("Failed", 1) if fails else ("Success", 0)
        step = {"Name": "aws:runShellScript", "Status": status, "ResponseCode": code, "Output": "done\n"}
        return {"Status": status, "StatusDetails": status, "CommandPlugins": [step]}


def serve() -> None:
    """The server's process: POST / is AWS; GET tells of the calls, and begins to count anew."""
    aws = LoopbackAws()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self, status: int, told: dict[str, Any]) -> None:
            body = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.reply(*aws.answer(self.headers["X-Amz-Target"].rpartition(".")[2], asked))

        def do_GET(self) -> None:
            with aws.lock:
                told = {"calls": aws.calls, "throttled": aws.throttled}
                aws.calls, aws.throttled = {}, {}
            self.reply(200, told)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), server.shutdown()), daemon=True).start()  # until our parent ends
    server.serve_forever()


# --- what is measured ------------------------------------------------------------------------------------------------


def memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(targets: int, naive: int, port: int) -> dict[str, Any]:
    """All figures, in this process, with a home and a database of its own."""
    import http.client

    import django

    django.setup()
    from django.core.management import call_command

    from fleetops.clock import now
    from fleetops.inventory.models import Account, Instance, InstanceTag, Region
    from fleetops.policy import services as policy
    from fleetops.rollouts import advancing, plan, steering
    from fleetops.runcommand import dispatching
    from fleetops.runcommand.models import Dispatch
    from tests.factories import make_document, make_user

    call_command("migrate", verbosity=0)
    call_command("sync_roles", verbosity=0)
    policy.make_defaults()
    account = Account.objects.create(account_id=ACCOUNT, name="platform-prod", endpoint_url=f"http://127.0.0.1:{port}")
    region = Region.objects.create(account=account, name=REGION)
    make_document("say-it", region=region)
    rows = Instance.objects.bulk_create(
        Instance(
            account=account,
            region=region,
            instance_id=f"i-{number:017x}",
            name=f"node-{number:05d}",
            ec2_state="running",
            profile_arn=f"arn:aws:iam::{ACCOUNT}:instance-profile/ssm-core",
            ping_status="Online",
            last_ping_at=now(),
            ec2_read_at=now(),
            ssm_read_at=now(),
            platform_type="Linux",
            tags={"env": "prod"},
        )
        for number in range(targets)
    )
    InstanceTag.objects.bulk_create(InstanceTag(instance=each, key="env", value="prod") for each in rows)
    actor = make_user("bench", role="administrator")

    def told() -> dict[str, Any]:
        asked = http.client.HTTPConnection("127.0.0.1", port)
        asked.request("GET", "/")
        return json.loads(asked.getresponse().read())

    wanted = plan.Wanted(
        kind="document",
        subject={"document": "say-it"},
        targets="env=prod",
        waves=[{"by": "canary", "value": "1"}, {"by": "percent", "value": "10"}, {"by": "rest"}],
        concurrency="10%",
        budget="5%",
    )
    began, used = time.perf_counter(), time.process_time()
    run = plan.make(wanted, actor=actor)
    figures: dict[str, Any] = {
        "targets": targets,
        "plan s": time.perf_counter() - began,
        "plan CPU s": time.process_time() - used,
    }
    steering.release(run, actor=actor, plan_hash=run.plan_hash)
    told()
    page = subprocess.Popen([sys.executable, __file__, "--page", str(run.pk)], stdout=subprocess.PIPE, text=True)
    assert page.stdout is not None
    page.stdout.readline()  # it has all cells
    before, began, used, looks = memory_mb(), time.perf_counter(), time.process_time(), 0
    while run.is_open:
        made = [key for run_id in advancing.claim_due(now=now()) for key in advancing.advance(run_id)]
        for command in [*made, *dispatching.claim_due(now=now())]:
            dispatching.advance(command)
        run.refresh_from_db()
        looks += 1
        time.sleep(0.2)
    spent, seconds, calls = time.process_time() - used, time.perf_counter() - began, told()
    seen = json.loads(page.communicate(timeout=60)[0])
    ended = dict(run.targets.exclude(ended_at=None).values_list("position", "ended_at"))
    lags = [at - ended[int(position)].timestamp() for position, at in seen["ends"].items()]
    least = 2 * -(-targets // 50)
    figures |= {
        "state": run.state,
        "ends": run.counts,
        "seconds": seconds,
        "targets/s": targets / seconds,
        "CPU ms a target": spent / targets * 1000,
        "memory MB": memory_mb() - before,
        "calls": sum(calls["calls"].values()),
        "calls by operation": calls["calls"],
        "throttled": calls["throttled"],
        "least calls": least,
        "calls / least": sum(calls["calls"].values()) / least,
        "SendCommands": Dispatch.objects.count(),
        "looks": looks,
        "dashboard": {
            "ends seen": len(lags),
            "lag s, median": statistics.median(lags),
            "lag s, p99": percentile(lags, 0.99),
            "answer ms, median": statistics.median(seen["answers"]) * 1000,
            "answer ms, p99": percentile(seen["answers"], 0.99) * 1000,
        },
    }
    figures["one task a target"] = plainly(naive, port, told)
    return figures


def plainly(count: int, port: int, told: Any) -> dict[str, Any]:
    """One plain Celery task a target."""
    from django.conf import settings

    os.environ |= {"PLAIN_BROKER": settings.CELERY_BROKER_URL, "PLAIN_AWS": f"http://127.0.0.1:{port}"}
    from celery import group

    from benchmarks import plain_tasks

    command = [sys.executable, "-m", "celery", "--quiet", "-A", "benchmarks.plain_tasks", "worker"]
    command += ["--pool", "threads", "--concurrency", str(NAIVE_AT_ONCE), "--loglevel", "ERROR", "--without-mingle"]
    worker = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        name = f"i-{0:017x}"
        group(plain_tasks.run.s(name) for _ in range(NAIVE_AT_ONCE))().get()  # it is up, and has its connections
        told()
        began, used = time.perf_counter(), cpu_of(worker.pid)
        group(plain_tasks.run.s(f"i-{number:017x}") for number in range(count))().get()
        spent, seconds, calls = cpu_of(worker.pid) - used, time.perf_counter() - began, told()
    finally:
        worker.terminate()
        worker.wait(30)
    return {
        "targets": count,
        "seconds": seconds,
        "targets/s": count / seconds,
        "CPU ms a target": spent / count * 1000,
        "calls": sum(calls["calls"].values()),
        "calls / least": sum(calls["calls"].values()) / (2 * -(-count // 50)),
        "throttled": sum(calls["throttled"].values()),
    }


def cpu_of(pid: int) -> float:
    """Seconds of processor time that a process has had; proc(5)."""
    text = Path(f"/proc/{pid}/stat").read_text()
    user, system = text[text.rindex(")") + 2 :].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def look_on(run_id: str) -> None:
    """A page that is open while the run goes; prints {ends: {position: when it was told}, answers: [seconds]}."""
    import django

    django.setup()
    from django.test import Client
    from django.test.utils import setup_test_environment

    from fleetops.identity.models import User
    from fleetops.rollouts.listing import CODE_OF
    from fleetops.rollouts.states import TargetState

    over = {CODE_OF[TargetState.SUCCEEDED], CODE_OF[TargetState.FAILED]}
    setup_test_environment()
    client = Client()
    client.force_login(User.objects.get(username="bench"))
    cursor, letters, ends, answers = "", [], {}, []
    while True:
        began = time.perf_counter()
        told = client.get(f"/runs/{run_id}/cells/?since={cursor}").json()
        answers.append(time.perf_counter() - began)
        at = time.time()
        before, letters = letters, [*told["all"]] if "all" in told else letters[:]
        for place, letter in told.get("changed", ()):
            letters[place] = letter
        cursor = told["cursor"]
        if before:
            for place, (old, new) in enumerate(zip(before, letters, strict=True)):
                if old != new and new in over:
                    ends[place + 1] = at
        else:
            print("looking", flush=True)
        if not told["open"]:
            break
        time.sleep(PAGE_EVERY)
    print(json.dumps({"ends": ends, "answers": answers}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, default=10_000)
    parser.add_argument("--naive", type=int, default=500, help="targets of one plain task each")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="few targets, to see that it runs")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--page", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    if options.page:
        look_on(options.page)
        return
    if options.quick:
        options.targets, options.naive = 300, 32
    with tempfile.TemporaryDirectory(prefix="fo-bench-") as home, running_valkey(Path(home) / "run"):
        os.environ |= {
            "DJANGO_SETTINGS_MODULE": "fleetops.settings",
            "FLEETOPS_HOME": home,
            "FLEETOPS_LOG_LEVEL": "ERROR",
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        command = [sys.executable, __file__, "--serve"]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None and server.stdin is not None
        try:
            figures = measure(options.targets, options.naive, int(server.stdout.readline()))
        finally:
            server.stdin.close()
            server.wait(10)
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
