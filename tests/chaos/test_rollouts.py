"""Kill -9 of every process at random moments of a run in waves: it goes on, and each target got the document once."""

import contextlib
import json
import sqlite3
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from random import Random

import pytest

from benchmarks.agents import REGION, instance_id
from tests.support.endpoint import running_endpoint
from tests.support.ends import ends_with_tests
from tests.support.stack import A_PAGE, ROOT, Stack, running_stack, until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

SEED = 20261130
ACCOUNT = "111122223333"
PARTS = ("worker", "beat", "valkey", "web", "endpoint")
PER_CLUSTER, MOST_OUT, FAILING = 6, 2, (7, 23)

START = """
from fleetops.identity.models import User
from fleetops.rollouts import plan, steering
from fleetops.rollouts.models import ClusterRule
me = User.objects.get(username="admin")
ClusterRule.objects.get_or_create(tag="cluster", defaults={"most_out": %(most_out)d})
wanted = plan.Wanted(
    kind="document",
    subject={"document": "AWS-RunShellScript", "parameters": {"commands": ["true"]}},
    targets="tag:fleet=simulated",
    name="%(name)s",
    waves=[{"by": "canary", "value": "2"}, {"by": "percent", "value": "40", "soak_minutes": 0}, {"by": "rest"}],
    concurrency="%(at_once)d",
    budget="%(budget)d",
)
run = plan.make(wanted, actor=me)
steering.release(run, actor=me, plan_hash=run.plan_hash)
print("RUN", run.pk.hex)
"""


def cluster_of(number: int, count: int) -> int:
    return number % -(-count // PER_CLUSTER)


def at_once(count: int) -> int:
    """How many nodes may be at it: for what is left of a run's time to be enough for kills, larger runs go wider."""
    return 15 if count <= 60 else count // 10


def prepare(home: Path, count: int) -> None:
    """Rows of so many registered nodes in the endpoint's home: what enrolment would have made."""
    with running_endpoint(home):
        pass
    now = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    tags = [json.dumps({"fleet": "simulated", "cluster": f"c{cluster_of(n, count)}"}) for n in range(count)]
    with contextlib.closing(sqlite3.connect(home / "endpoint.sqlite3")) as database, database:
        database.executemany(
            "INSERT INTO endpoint_node (account_id, region, instance_id, information, tags, iam_role, name,"
            " registered_at, activation_id, fingerprint, public_key)"
            " VALUES (?, ?, ?, '{}', ?, 'ssm-core', '', ?, '', '', '')",
            [(ACCOUNT, REGION, instance_id(n), tags[n], now) for n in range(count)],
        )


@contextlib.contextmanager
def simulated(stack: Stack, count: int, log: Path):
    role = stack.boto3("iam").get_role(RoleName="ssm-core")["Role"]
    order = {
        "port": int(stack.handover["endpoint_url"].rpartition(":")[2]),
        "ca_file": stack.handover["ca_file"],
        "account": ACCOUNT,
        "role_id": role["RoleId"],
        "token_key": (stack.home / "endpoint" / "keys" / "token.key").read_bytes().hex(),
        "source": "127.0.0.1",
        "count": count,
        "log": str(log),
        "fails": FAILING,
    }
    command = ends_with_tests([sys.executable, "-m", "tests.support.nodes", json.dumps(order)])
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, env=stack.environment)
    try:
        yield
    finally:
        process.kill()
        process.wait()
        process.stdin.close()


def rows(stack: Stack, query: str, *values) -> list[tuple]:
    """What the product's database says, read beside it."""
    path = stack.home / "fleetops.sqlite3"
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=20)) as database:
        return database.execute(query, values).fetchall()


def one(stack: Stack, query: str, *values):
    return rows(stack, query, *values)[0][0]


def ready_for(stack: Stack, count: int) -> None:
    tagged = "SELECT count(*) FROM inventory_instancetag t JOIN inventory_instance i ON i.id = t.instance_id WHERE "
    tagged += "t.key = 'cluster' AND t.value LIKE 'c%' AND i.instance_id LIKE 'mi-000%' AND i.ping_status = 'Online'"
    until(lambda: one(stack, tagged) == count, seconds=400, what="all simulated nodes are online", every=A_PAGE)
    document = "SELECT count(*) FROM library_document WHERE name = 'AWS-RunShellScript'"
    until(lambda: one(stack, document), seconds=60, what="the documents have been read", every=A_PAGE)


def released(stack: Stack, name: str, *, count: int, budget: int) -> str:
    code = START % {"name": name, "most_out": MOST_OUT, "at_once": at_once(count), "budget": budget}
    told = stack.manage("shell", "-c", code, check=False)
    line = next((line for line in told.stdout.splitlines() if line.startswith("RUN ")), None)
    assert line, told.stdout + told.stderr
    return line.split()[1]


def state(stack: Stack, run: str) -> str:
    return one(stack, "SELECT state FROM rollouts_run WHERE id = ?", run)


def kill_at_random(stack: Stack, run: str, random: Random, most: int) -> list[str]:
    killed = []
    while len(killed) < most and state(stack, run) == "running":
        time.sleep(random.uniform(0.5, 3))
        part = random.choice(PARTS)
        pid = stack.kill(part)
        killed.append(part)
        stack.is_back(part, instead_of=pid, seconds=90)
    return killed


def check_what_ran(log: Path, *, before: int, count: int) -> None:
    """Each node got the document once; never too many were at it, nor too many of a cluster."""
    lines = [json.loads(line) for line in log.read_text().splitlines()[before:]]
    begun = [line for line in lines if line["what"] == "begins"]
    assert Counter(line["node"] for line in begun) == {instance_id(n): 1 for n in range(count)}
    at_it: set[str] = set()
    cluster = {instance_id(n): cluster_of(n, count) for n in range(count)}
    for line in sorted(lines, key=lambda line: line["at"]):
        (at_it.add if line["what"] == "begins" else at_it.discard)(line["node"])
        assert len(at_it) <= at_once(count)
        assert max(Counter(cluster[node] for node in at_it).values(), default=0) <= MOST_OUT


def check_the_end(stack: Stack, run: str, count: int) -> None:
    ends = dict(rows(stack, "SELECT state, count(*) FROM rollouts_runtarget WHERE run_id = ? GROUP BY state", run))
    assert ends == {"succeeded": count - len(FAILING), "failed": len(FAILING)}
    assert state(stack, run) == "failed"
    waves = rows(stack, "SELECT state FROM rollouts_wave WHERE run_id = ? ORDER BY position", run)
    assert waves == [("succeeded",)] * len(waves) and waves
    assert one(stack, "SELECT count(*) FROM rollouts_clusterslot") == 0
    open_ = "SELECT count(*) FROM runcommand_dispatch WHERE state NOT IN ('done', 'refused', 'cancelled')"
    until(lambda: one(stack, open_) == 0, seconds=60, what="every dispatch has ended", every=A_PAGE)


def test_a_run_of_60_ends_right_whatever_is_killed(tmp_path):
    count, random, log = 60, Random(SEED), tmp_path / "ran.jsonl"
    prepare(tmp_path / "fo" / "endpoint", count)
    with running_stack(tmp_path / "fo") as stack, simulated(stack, count, log):
        ready_for(stack, count)
        run = released(stack, "chaos", count=count, budget=len(FAILING))
        killed = kill_at_random(stack, run, random, most=6)
        until(lambda: state(stack, run) in {"failed", "succeeded", "stopped"}, seconds=330, what="its end", every=0.5)
        check_the_end(stack, run, count)
        check_what_ran(log, before=0, count=count)
        assert len(killed) >= 3, killed
        verdict = until(
            lambda: (
                (found := json.loads(stack.manage("audit_verify", "--json", check=False).stdout))["unsealed"] == 0
                and found
            ),
            seconds=60,
            what="every audit row is sealed",
            every=A_PAGE,
        )
        assert verdict["ok"], verdict


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(SEED + 1, SEED + 6))
def test_twenty_runs_of_300_end_right_whatever_is_killed(tmp_path, seed):
    """Four runs for each seed, on a home of its own."""
    count, random, log = 300, Random(seed), tmp_path / "ran.jsonl"
    prepare(tmp_path / "fo" / "endpoint", count)
    totals: dict[str, int] = defaultdict(int)
    with running_stack(tmp_path / "fo") as stack, simulated(stack, count, log):
        ready_for(stack, count)
        for number in range(4):
            before = len(log.read_text().splitlines()) if log.exists() else 0
            run = released(stack, f"chaos {number + 1}", count=count, budget=len(FAILING))
            for part in kill_at_random(stack, run, random, most=20):
                totals[part] += 1
            until(lambda run=run: state(stack, run) in {"failed", "succeeded", "stopped"}, seconds=900, what="its end")
            check_the_end(stack, run, count)
            check_what_ran(log, before=before, count=count)
    assert set(totals) == set(PARTS), totals
