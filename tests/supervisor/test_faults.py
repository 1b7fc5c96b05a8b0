"""What the supervisor does with parts that die, hang, refuse to stop, and leave processes behind."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fleetops import processes
from tests.support.stack import ROOT, until

STEADY = ["sh", "-c", "echo ready; exec sleep 600"]


@dataclass
class House:
    process: subprocess.Popen
    home: Path
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def status(self) -> dict:
        return json.loads((self.home / "run" / "status.json").read_text())

    def says(self, text: str, seconds: float = 10) -> None:
        def said() -> bool:
            assert self.process.poll() is None or text in self.said, f"ended without {text!r}:\n{self.said}"
            return text in self.said

        until(said, seconds=seconds, what=f"{text!r} in {self.log}")

    def everybody(self) -> set[int]:
        return processes.descendants(self.process.pid)


@contextlib.contextmanager
def house(home: Path, parts: dict[str, list[str]], **settings: str) -> Iterator[House]:
    """A small house that is starting; killed afterwards, should the test have failed to end it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("FLEETOPS_", "AWS_"))}
    ports = dict.fromkeys(("FLEETOPS_PORT", "FLEETOPS_TERMINAL_PORT", "FLEETOPS_ENDPOINT_PORT"), "0")
    home.mkdir(exist_ok=True)
    log = home / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.supervisor.small_house", json.dumps(parts)],
            cwd=ROOT,
            env=environment | ports | {"FLEETOPS_HOME": str(home)} | settings,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    running = House(process, home, log)
    try:
        yield running
    finally:
        for pid in {process.pid, *running.everybody()} if process.poll() is None else ():
            processes.send(pid, signal.SIGKILL)
        process.wait(5)


def gone(pids: set[int]) -> bool:
    return not {pid for pid, found in processes.process_table().items() if pid in pids and not found.is_zombie}


def test_a_part_that_dies_five_times_at_the_start_stops_everything_and_its_last_lines_are_shown(tmp_path):
    parts = {"web": STEADY, "worker": ["sh", "-c", "echo the disk is full; exit 7"]}
    with house(tmp_path / "home", parts) as running:
        assert running.process.wait(20) == 1
    assert len(re.findall(r"^worker +\| the disk is full$", running.said, re.MULTILINE)) == 5
    assert "worker ended with exit code 7; starting it again in 0.5 s" in running.said
    last = running.said.rpartition("worker ended 5 times")[2]
    assert "    the disk is full\n" in last
    assert "docs/running.md" in last
    assert "sh -c 'echo the disk is full; exit 7'" in last
    assert not (running.home / "run" / "status.json").exists()


def test_a_part_that_dies_is_started_again_and_the_others_are_left_alone(tmp_path):
    with house(tmp_path / "home", {"web": STEADY, "worker": STEADY}) as running:
        running.says("all is ready")
        before = running.status["parts"]
        os.kill(before["worker"]["pid"], signal.SIGKILL)
        running.says("worker ended by SIGKILL; starting it again in 0.5 s")
        running.says("worker is ready again")
        after = running.status["parts"]
        assert after["worker"] == {"pid": after["worker"]["pid"], "state": "ready", "restarts": 1}
        assert after["worker"]["pid"] != before["worker"]["pid"]
        assert after["web"] == before["web"]


def test_what_a_dead_part_had_started_is_ended_before_it_is_started_again(tmp_path):
    children = tmp_path / "children"
    parts = {"worker": ["sh", "-c", f"sleep 600 & echo $! >> {children}; echo ready; wait"]}
    with house(tmp_path / "home", parts) as running:
        running.says("all is ready")
        os.kill(running.status["parts"]["worker"]["pid"], signal.SIGKILL)
        running.says("worker is ready again")
        first, second = map(int, children.read_text().split())
        assert gone({first})
        assert not gone({second})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_stop_ends_all_in_reverse_order_and_leaves_nothing(tmp_path, number):
    told = "trap 'echo told; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    parts = {name: ["sh", "-c", told] for name in ("valkey", "endpoint", "web", "worker", "beat")}
    with house(tmp_path / "home", parts) as running:
        running.says("all is ready")
        everybody = running.everybody()
        running.process.send_signal(number)
        assert running.process.wait(5) == 0
        assert gone(everybody)
    assert len(everybody) >= 6
    order = [line.split()[0] for line in running.said.splitlines() if line.endswith("| told")]
    assert set(order[:3]) == {"beat", "worker", "web"}
    assert order[3:] == ["endpoint", "valkey"]
    assert not (running.home / "run" / "status.json").exists()


def test_parts_that_ignore_the_request_are_killed(tmp_path):
    deaf = ["sh", "-c", "trap '' TERM QUIT INT; echo ready; while :; do sleep 1; done"]
    with house(tmp_path / "home", dict.fromkeys(("valkey", "endpoint", "web", "worker"), deaf)) as running:
        running.says("all is ready")
        everybody = running.everybody()
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(10) == 0
        assert gone(everybody)
    assert "web did not stop in time; killed it" in running.said


def test_a_second_request_kills_at_once(tmp_path):
    deaf = ["sh", "-c", "trap '' TERM QUIT INT; echo ready; while :; do sleep 1; done"]
    with house(tmp_path / "home", {"web": deaf}) as running:
        running.says("all is ready")
        everybody = running.everybody()
        running.process.send_signal(signal.SIGINT)
        running.says("stopping; Ctrl-C again kills at once")
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(5) == 130  # which says that it did not wait for the parts
        assert gone(everybody)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's part of it (prctl) is Linux's")
@pytest.mark.parametrize("victim", ["outer", "inner"])
def test_a_kill_of_either_supervisor_leaves_nothing_not_even_what_ran_away_into_a_session_of_its_own(tmp_path, victim):
    runaway = "import subprocess, sys, time; subprocess.Popen(['sleep', '600'], start_new_session=True); "
    runaway += "print('ready', flush=True); time.sleep(600)"
    with house(tmp_path / "home", {"web": [sys.executable, "-c", runaway], "worker": STEADY}) as running:
        running.says("all is ready")
        everybody = running.everybody()
        (inner,) = {pid for pid in everybody if processes.process_table()[pid].parent == running.process.pid}
        os.kill(running.process.pid if victim == "outer" else inner, signal.SIGKILL)
        code = running.process.wait(5)
        assert len(everybody) == 4  # the inner supervisor, two parts, the runaway
        until(lambda: gone(everybody), seconds=5, what=f"{everybody} are gone")
    if victim == "inner":
        assert code == 1
        assert "The supervisor ended by SIGKILL" in running.said


def test_a_stop_during_the_start_is_no_failure(tmp_path):
    never = ["sh", "-c", "exec sleep 600"]
    with house(tmp_path / "home", {"valkey": STEADY, "web": never}) as running:
        until(lambda: "web" in running.said or running.everybody(), what="it starts")
        running.says("valkey is ready")
        everybody = running.everybody()
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(5) == 0
        assert gone(everybody)


def test_what_a_part_prints_cannot_steer_the_terminal_nor_fill_the_memory(tmp_path):
    noise = "import sys, time; sys.stdout.buffer.write(b'\\x1b]0;owned\\x07' + b'x' * 100_000 + b'\\xff\\nready\\n'); "
    noise += "sys.stdout.flush(); time.sleep(600)"
    with house(tmp_path / "home", {"web": [sys.executable, "-c", noise]}) as running:
        running.says("all is ready")
        shown = [line for line in running.said.splitlines() if line.startswith("web ")]
        assert re.match(r"web +\| \?\]0;owned\?xxx", shown[0])
        assert max(map(len, shown)) < 17_000
        assert "\x1b" not in running.said


def test_a_reader_that_goes_away_does_not_end_the_parts(tmp_path):
    with house(tmp_path / "home", {"web": STEADY}) as running:
        running.says("all is ready")
    read, write = os.pipe()
    environment = {**os.environ, "FLEETOPS_HOME": str(tmp_path / "piped")}
    environment |= dict.fromkeys(("FLEETOPS_PORT", "FLEETOPS_TERMINAL_PORT", "FLEETOPS_ENDPOINT_PORT"), "0")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.supervisor.small_house", json.dumps({"web": STEADY})],
        cwd=ROOT,
        env=environment,
        stdout=write,
    )
    try:
        os.close(write)
        os.close(read)
        status = tmp_path / "piped" / "run" / "status.json"
        until(lambda: status.exists() and json.loads(status.read_text())["state"] == "ready", what="ready, unread")
    finally:
        process.terminate()
    assert process.wait(5) == 0
