"""How many nodes one endpoint process carries, and what they cost, beside a server that only passes the same frames on.

    python -m benchmarks.endpoint                                # all three, small: about two minutes
    python -m benchmarks.endpoint idle --nodes 1000 5000 10000   # memory of a node, connecting, heartbeats and pings
    python -m benchmarks.endpoint command --nodes 1000           # SendCommand by tag until all have answered
    python -m benchmarks.endpoint sessions --sessions 300        # echo and throughput with so many relayed at once

The nodes are simulated (benchmarks/agents.py), in processes of their own, over real TLS sockets of this machine, from
several loopback addresses; they sign and talk as the real agent does. "bare" is the least that can be measured beside:
uvicorn with the same TLS and websockets, and an application that checks nothing and keeps nothing. Memory is
proportional set size (PSS) of the server's process, CPU is its own. Single figures move with the machine's load, which
stands beside them; the ratio of two servers in one run moves less.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import select
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.agents import CHUNK, REGION, instance_id
from benchmarks.terminal import percentile, pss
from tests.support.endpoint import RunningEndpoint, running_endpoint

ROOT = Path(__file__).resolve().parent.parent
ACCOUNT = "111122223333"
TAG = "benchmark"
WORKERS = 2  # processes of simulated nodes
PARALLEL = 16  # of each, in what they do at once
KEYS = 300
PAUSE_SECONDS = 3.0  # for what was just done to settle


class Worker:
    """A process of benchmarks/agents.py."""

    def __init__(self, world: dict[str, Any], number: int) -> None:
        order = json.dumps({**world, "source": f"127.0.0.{number + 2}"})
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.agents", order],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def order(self, do: str, **order: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **order}) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the process of the nodes has ended"}
        if "error" in answer:
            raise SystemExit(f"simulated nodes: {answer['error']}")
        return answer

    def has_answered(self) -> bool:
        return bool(select.select([self.process.stdout], [], [], 0)[0])

    def do(self, do: str, **order: Any) -> Any:
        self.order(do, **order)
        return self.answer()["result"]

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


class Server:
    """What is measured: the endpoint, or the bare server."""

    name: str
    pid: int
    world: dict[str, Any]

    def start_sessions(self, names: list[str]) -> list[tuple[str, str]]:
        """(session id, the client's token) of a new session on each of these nodes."""
        raise NotImplementedError

    def send_command(self, count: int) -> None:
        """Begin a command on so many nodes."""
        raise NotImplementedError

    def finish_command(self) -> str:
        """Wait until the server says that the command has ended; what it wrote down of it."""
        raise NotImplementedError


class Ours(Server):
    name = "endpoint"

    def __init__(self, endpoint: RunningEndpoint) -> None:
        self.endpoint = endpoint
        self.pid = endpoint.process.pid
        role = endpoint.client("iam").get_role(RoleName="ssm-core")["Role"]
        self.world = {
            "port": int(endpoint.url.rpartition(":")[2]),
            "ca_file": endpoint.handover["ca_file"],
            "account": ACCOUNT,
            "role_id": role["RoleId"],
            "token_key": (endpoint.home / "keys" / "token.key").read_bytes().hex(),
        }
        self.ssm = endpoint.client("ssm")
        self.command_id = ""

    def start_sessions(self, names: list[str]) -> list[tuple[str, str]]:
        answers = [self.ssm.start_session(Target=name) for name in names]
        return [(answer["SessionId"], answer["TokenValue"]) for answer in answers]

    def send_command(self, count: int) -> None:
        answer = self.ssm.send_command(
            DocumentName="AWS-RunShellScript",
            Parameters={"commands": ["hostname"]},
            Targets=[{"Key": f"tag:{TAG}", "Values": ["yes"]}],
            MaxConcurrency="100%",
            MaxErrors="100%",
        )
        assert answer["Command"]["TargetCount"] == count, answer["Command"]["TargetCount"]
        self.command_id = answer["Command"]["CommandId"]

    def finish_command(self) -> str:
        while True:
            (command,) = self.ssm.list_commands(CommandId=self.command_id)["Commands"]
            if command["Status"] not in {"Pending", "InProgress"}:
                break
            time.sleep(0.02)
        with contextlib.closing(sqlite3.connect(self.endpoint.home / "endpoint.sqlite3")) as database:
            rows = database.execute(
                "SELECT count(*) FROM endpoint_invocation i JOIN endpoint_command c ON c.id = i.command_id "
                "WHERE c.command_id = ? AND i.state = 'Success' AND i.steps LIKE '%stdout%'",
                [self.command_id.replace("-", "")],
            ).fetchone()[0]
        return f"{command['Status']}, {command['CompletedCount']:,} completed, {rows:,} rows with output"


class Bare(Server):
    name = "bare"

    def __init__(self, process: subprocess.Popen[str], port: int, world: dict[str, Any], ca_file: str) -> None:
        self.pid = process.pid
        self.port, self.ca_file = port, ca_file
        self.world = {**world, "port": port}

    def _ask(self, path: str) -> str:
        import http.client
        import ssl

        context = ssl.create_default_context(cafile=self.ca_file)
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=300)
        with contextlib.closing(connection):
            connection.request("POST", path)
            return connection.getresponse().read().decode()

    def start_sessions(self, names: list[str]) -> list[tuple[str, str]]:
        return [(self._ask(f"/start/{name}"), "token") for name in names]

    def send_command(self, count: int) -> None:
        assert self._ask(f"/command/{count}") == "sent"

    def finish_command(self) -> str:
        return "nothing is kept"


def prepare(home: Path, count: int) -> None:
    """Put the rows of so many registered nodes into an endpoint's home: what enrolment would have made."""
    with running_endpoint(home):
        pass
    now = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    with contextlib.closing(sqlite3.connect(home / "endpoint.sqlite3")) as database, database:
        database.executemany(
            "INSERT INTO endpoint_node (account_id, region, instance_id, information, tags, iam_role, name,"
            " registered_at, activation_id, fingerprint, public_key)"
            " VALUES (?, ?, ?, '{}', ?, 'ssm-core', '', ?, '', '', '')",
            [
                (ACCOUNT, REGION, instance_id(number), json.dumps({TAG: "yes"} if number < tagged else {}), now)
                for tagged in [min(count, 1000)]
                for number in range(count)
            ],
        )


@contextlib.contextmanager
def running(count: int, *, with_bare: bool) -> Iterator[list[Server]]:
    """An endpoint that knows `count` nodes, and the bare server."""
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fo-bench-"))) / "endpoint"
        prepare(home, count)
        ours = Ours(stack.enter_context(running_endpoint(home, FLEETOPS_ENDPOINT_CHECK_ANSWERS="log")))
        servers: list[Server] = [ours]
        if with_bare:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.peers", "endpoint", str(home)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            assert process.stdout is not None
            port = int(process.stdout.readline())
            servers.append(Bare(process, port, ours.world, ours.endpoint.handover["ca_file"]))
        yield servers


@contextlib.contextmanager
def workers(server: Server, count: int, first: int = 0) -> Iterator[list[Worker]]:
    made = [Worker(server.world, first + number) for number in range(count)]
    try:
        yield made
    finally:
        for worker in made:
            worker.end()


def cpu(pid: int) -> float:
    """User and system seconds of one process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load() -> str:
    return f"{os.getloadavg()[0]:.1f}"


def all_of_them(crew: list[Worker], do: str, **order: Any) -> list[Any]:
    for worker in crew:
        worker.order(do, **order)
    return [result for worker in crew for result in worker.answer()["result"] or ()]


def timed(server: Server, deed: Any) -> tuple[float, float, Any]:
    """(seconds, CPU seconds of the server, what the deed returned)."""
    before, began = cpu(server.pid), time.perf_counter()
    result = deed()
    return time.perf_counter() - began, cpu(server.pid) - before, result


def connect(crew: list[Worker], count: int) -> list[float]:
    """Connect `count` nodes, an equal share in each process."""
    share = count // len(crew)
    for number, worker in enumerate(crew):
        worker.order("connect", first=number * share, count=share, parallel=PARALLEL)
    return [seconds for worker in crew for seconds in worker.answer()["result"]]


def idle(server: Server, count: int, seconds: float) -> dict[str, Any]:
    with workers(server, WORKERS) as crew:
        row: dict[str, Any] = {"server": server.name, "nodes": count, "load": load()}
        before = pss([server.pid])
        took, used, times = timed(server, lambda: connect(crew, count))
        row |= {
            "connects/s": count / took,
            "connect ms CPU": used / count * 1e3,
            "connect p99 s": percentile(times, 0.99),
        }
        time.sleep(PAUSE_SECONDS)
        row["KB a node"] = (pss([server.pid]) - before) * 1024 / count
        row["MB"] = pss([server.pid])
        _, used, _ = timed(server, lambda: time.sleep(seconds))
        row["idle CPU %"] = used / seconds * 100
        some = min(1000, count) // WORKERS
        for name, do, order in (
            ("heartbeat ms CPU", "heartbeat", {"fresh": False}),
            ("with its TLS", "heartbeat", {"fresh": True}),
            ("ping ms CPU", "ping", {}),
        ):
            if do == "heartbeat" and not order["fresh"]:
                all_of_them(crew, do, count=some, parallel=PARALLEL, **order)  # the connections that they keep
            _, used, _ = timed(
                server, lambda do=do, order=order: all_of_them(crew, do, count=some, parallel=PARALLEL, **order)
            )
            row[name] = used / (some * WORKERS) * 1e3
        row["load after"] = load()
        return row


def command(server: Server, count: int, rounds: int) -> dict[str, Any]:
    targets = min(count, 1000)
    with workers(server, WORKERS) as crew:
        connect(crew, count)
        time.sleep(PAUSE_SECONDS)
        row: dict[str, Any] = {"server": server.name, "nodes": count, "targets": targets, "load": load()}
        taken, used, told = [], [], ""
        share = count // WORKERS
        for _ in range(rounds):
            for number, worker in enumerate(crew):
                worker.do("expect", count=max(0, min(share, targets - number * share)))

            def run() -> str:
                server.send_command(targets)
                for worker in crew:
                    worker.order("wait")
                for worker in crew:
                    worker.answer()
                return server.finish_command()

            seconds, cpu_seconds, told = timed(server, run)
            taken.append(seconds)
            used.append(cpu_seconds)
            time.sleep(1)
        row |= {
            "seconds": statistics.median(taken),
            "CPU s": statistics.median(used),
            "ms CPU a node": statistics.median(used) / targets * 1e3,
            "kept": told,
            "load after": load(),
        }
        return row


def sessions(server: Server, count: int, streaming: int, every: float, megabytes: int) -> dict[str, Any]:
    # The probe has its own node and client in a process of its own, so that it waits for the server and not for them.
    with workers(server, 1) as nodes, workers(server, 1, 1) as clients, workers(server, 1, 2) as probes:
        (node,), (client,), (probe,) = nodes, clients, probes
        node.do("connect", first=0, count=count, parallel=PARALLEL)
        probe.do("connect", first=count, count=1, parallel=1)
        probe.do("clients", sessions=server.start_sessions([instance_id(count)]))
        row: dict[str, Any] = {"server": server.name, "sessions": count, "load": load()}
        probe.do("echo", keys=50)
        alone = probe.do("echo", keys=KEYS)
        before = pss([server.pid])
        names = [instance_id(number) for number in range(count)]
        seconds, used, opened = timed(server, lambda: server.start_sessions(names))
        row["starts/s"] = count / seconds
        seconds, used_open, _ = timed(server, lambda: client.do("clients", sessions=opened))
        row["start ms CPU"] = (used + used_open) / count * 1e3
        time.sleep(PAUSE_SECONDS)
        row["KB a session"] = (pss([server.pid]) - before) * 1024 / count
        client.do("type", every=every)
        time.sleep(1)
        began, before_cpu = time.perf_counter(), cpu(server.pid)
        under = probe.do("echo", keys=KEYS)
        row["CPU % typing"] = (cpu(server.pid) - before_cpu) / (time.perf_counter() - began) * 100
        others = client.do("quiet")
        time.sleep(1)
        row |= {
            "alone p50": statistics.median(alone) * 1e3,
            "alone p99": percentile(alone, 0.99) * 1e3,
            "typing p50": statistics.median(under) * 1e3,
            "typing p99": percentile(under, 0.99) * 1e3,
            "the others p50": statistics.median(others) * 1e3,
        }
        chunks = max(1, megabytes * 1_000_000 // len(CHUNK) // count)
        total = chunks * count * len(CHUNK) / 1e6
        client.order("stream", chunks=chunks, count=count)
        seconds, used, _ = timed(server, client.answer)
        row |= {"MB/s": total / seconds, "CPU s/MB": used / total}
        client.order("stream", chunks=chunks * 8 * count // streaming, count=streaming)
        time.sleep(0.5)
        flooded: list[float] = []
        while not client.has_answered():
            flooded += probe.do("echo", keys=3)
        client.answer()
        flooded = flooded[:-3]  # in the last of them the streams have ended
        if not flooded:
            raise SystemExit("the streams ended before an echo could be timed beside them: ask for more --megabytes")
        row[f"{streaming} stream p50"] = statistics.median(flooded) * 1e3
        row["p99"] = percentile(flooded, 0.99) * 1e3
        row["keys"] = len(flooded)
        row["load after"] = load()
        return row


def show(rows: list[dict[str, Any]]) -> None:
    """A table, and under each pair of the same size how many times the bare server's figure ours is."""
    names = list(rows[0])
    table = [names]
    for row in rows:
        table.append([_text(row.get(name, "")) for name in names])
        ours = next((one for one in rows if one["server"] == "endpoint" and one[names[1]] == row[names[1]]), None)
        if row["server"] == "bare" and ours is not None:
            table.append(["ratio", *[_ratio(ours.get(name), row.get(name)) for name in names[1:]]])
    widths = [max(len(line[number]) for line in table) for number in range(len(names))]
    for number, line in enumerate(table):
        print("| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    print(flush=True)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _ratio(ours: Any, bare: Any) -> str:
    return f"{ours / bare:.3g}" if isinstance(ours, float) and isinstance(bare, float) and bare else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modes", nargs="*", choices=["idle", "command", "sessions", []], default=[])
    parser.add_argument("--nodes", type=int, nargs="+", default=[1000])
    parser.add_argument("--sessions", type=int, default=300)
    parser.add_argument("--streaming", type=int, default=30, help="of the sessions, while an echo is timed")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two keys of each session")
    parser.add_argument("--megabytes", type=int, default=60, help="streamed through all sessions together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idle-seconds", type=float, default=20.0)
    parser.add_argument("--no-bare", action="store_true")
    options = parser.parse_args()
    modes = options.modes or ["idle", "command", "sessions"]
    cpus = os.cpu_count()
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    print(
        f"{cpus} CPUs ({model[1] if model else '?'}), Python {sys.version.split()[0]}, load {load()}, {files:,} files\n"
    )
    with_bare = not options.no_bare
    if "idle" in modes:
        rows: list[dict[str, Any]] = []
        for count in options.nodes:
            with running(count, with_bare=with_bare) as servers:
                rows += [idle(server, count, options.idle_seconds) for server in servers]
            show(rows)
    if "command" in modes:
        rows = []
        for count in options.nodes:
            with running(count, with_bare=with_bare) as servers:
                rows += [command(server, count, options.rounds) for server in servers]
        show(rows)
    if "sessions" in modes:
        with running(options.sessions + 1, with_bare=with_bare) as servers:
            show(
                [
                    sessions(server, options.sessions, options.streaming, options.every, options.megabytes)
                    for server in servers
                ]
            )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
