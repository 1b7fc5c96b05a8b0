"""The whole of `make up`, once it is built: starts, is watched, ends, and starts again with everything kept."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetops import processes
from tests.support.stack import ROOT, Person, Stack, running_stack, until

PARTS = ("valkey", "endpoint", "web", "terminal", "worker", "commandlog", "beat")


@pytest.fixture(scope="module")
def state(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("make-up") / "home"


@pytest.fixture(scope="module")
def stack(state) -> Iterator[Stack]:
    # No password is given: one is made up and shown. Nor a database: it is made from nothing.
    with running_stack(state, migrated=False, FLEETOPS_ADMIN_PASSWORD="", FLEETOPS_TASK_NICE="1") as running:
        yield running


def shown_password(text: str) -> list[str]:
    return re.findall(r"log in as admin / (\S+)", text)


def is_healthy(stack: Stack, part: str) -> bool:
    if part not in ("web", "terminal"):
        return True
    url = f"http://127.0.0.1:{stack.status['ports'][part]}/healthz"
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as answer:
        return answer.status == 200


def start_another(**settings: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "fleetops.supervisor"],
        cwd=ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=20,
    )


def gone(pids: set[int]) -> bool:
    return not {pid for pid, found in processes.process_table().items() if pid in pids and not found.is_zombie}


def test_everything_is_ready_and_says_where(stack, state):
    status = stack.status
    assert {name: part["state"] for name, part in status["parts"].items()} == dict.fromkeys(PARTS, "ready")
    assert all(is_healthy(stack, part) for part in PARTS)
    log = stack.log.read_text()
    assert f"FleetOps is ready: {stack.url}" in log
    assert re.search(rf"AWS endpoint: https://127\.0\.0\.1:{status['ports']['endpoint']}, \d+ nodes", log)
    assert {path.stat().st_mode & 0o777 for path in state.iterdir() if path.is_dir() and path.name != "static"} == {
        0o700
    }


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="this kernel does not share out by session")
def test_what_nobody_types_into_gives_way(stack):
    parts = stack.status["parts"]
    shares = {name: int(Path(f"/proc/{parts[name]['pid']}/autogroup").read_text().split()[-1]) for name in parts}
    niced = {name: share for name, share in shares.items() if share}
    assert niced == {"worker": 1, "commandlog": 10, "beat": 1}
    assert {name: os.getpriority(os.PRIO_PROCESS, parts[name]["pid"]) for name in niced} == niced


def test_the_made_up_password_is_shown_once_and_lets_its_owner_in(stack):
    (password,) = shown_password(stack.log.read_text())
    assert stack.log.read_text().count(password) == 1
    stack.log_in("admin", password)


def test_only_loopback_is_listened_on(stack):
    everybody = processes.descendants(stack.process.pid)
    listening = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                address, port = fields[1].split(":")
                if processes.port_holder(int(port, 16)) in everybody:
                    listening.add(address)
    assert listening == {"0100007F"}


def test_a_guesser_cannot_choose_the_address_that_is_counted(stack):
    person = Person(stack)

    def guess(number: int) -> int:
        token = re.search(r'csrfmiddlewaretoken" value="([^"]+)', person.get("/login/"))[1]
        form = {"csrfmiddlewaretoken": token, "username": "guessed", "password": "wrong"}
        headers = {"X-Forwarded-For": f"10.1.1.{number}", "Origin": stack.url}
        with pytest.raises(urllib.error.HTTPError) as refused:
            person.open("/login/", urllib.parse.urlencode(form).encode(), headers)
        refused.value.close()
        return refused.value.code

    assert [guess(number) for number in range(11)] == [400] * 9 + [429] * 2


def test_nobody_else_may_read_what_is_written_down(stack, state):
    person = stack.log_in("admin", shown_password(stack.log.read_text())[0])
    terminal = person.terminal(person.connect("pg-ledger-eu1a-1"))
    terminal.run("echo $((6*7)); exit", "42")
    terminal.until_told("ended")
    terminal.close()
    meant_for_others = {state / "endpoint" / "nodes", state / "static"}
    others = [
        path
        for path in state.rglob("*")
        if path.is_file() and path.stat().st_mode & 0o077 and not meant_for_others.intersection(path.parents)
    ]
    assert [path for path in others if path != stack.log] == []  # the test itself opened that one


def test_two_machines_of_one_id_have_each_their_own_shell(stack):
    """A hybrid node's id is given out by each account on its own: the demo has one in two of them."""
    person = stack.log_in("admin", shown_password(stack.log.read_text())[0])
    for name, account in (("lagos-pos-gw-012", "111122223333"), ("lab-pos-gw-01", "444455556666")):
        terminal = person.terminal(person.connect(name))
        terminal.run("echo =$(hostname)=; exit", f"={name}=", seconds=30)
        terminal.until_told("ended")
        terminal.close()
        assert name in person.get(f"/audit/?q=account:{account}+action:sessions.open")
        other = {"lagos-pos-gw-012": "lab-pos-gw-01"}.get(name, "lagos-pos-gw-012")
        assert other not in person.get(f"/audit/?q=account:{account}")


def test_fleetops_status_tells_how_to_try_the_aws_cli(stack):
    now = stack.fleetops_status()
    assert now["running"]
    assert now["state"] == "ready"
    assert now["addresses"]["web"] == stack.url
    account, other = now["endpoint"]["accounts"]
    assert account["instance_ids"] and other["instance_ids"]
    assert (account["regions"], other["regions"]) == (["eu-west-1", "us-east-1"], ["eu-west-1"])
    aws = [
        Path(sys.executable).with_name("aws"),
        "sts",
        "get-caller-identity",
        "--query",
        "Account",
        "--output",
        "text",
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    answer = subprocess.run(
        list(map(str, aws)), env=environment | now["try"], capture_output=True, text=True, timeout=60
    )
    assert answer.stdout.strip() == account["account_id"], answer.stderr
    words = subprocess.run(
        [sys.executable, "-m", "fleetops.cli.main", "status"],
        cwd=ROOT,
        env=stack.environment,
        capture_output=True,
        text=True,
    )
    assert words.returncode == 0
    for name, value in now["try"].items():
        assert f"export {name}={value}" in words.stdout
    assert all(each in words.stdout for told in (account, other) for each in (told["name"], *told["instance_ids"]))


def test_fleetops_manage_acts_on_this_home(stack):
    code = "from django.conf import settings as s; print(s.HOME, s.TERMINAL_PORT, s.VALKEY_URL)"
    answer = subprocess.run(
        [sys.executable, "-m", "fleetops.cli.main", "manage", "shell", "-c", code],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("FLEETOPS_")}
        | {"FLEETOPS_HOME": str(stack.home)},
        capture_output=True,
        text=True,
    )
    told = stack.status["environment"]["FLEETOPS_VALKEY_URL"]
    assert f"{stack.home} {stack.status['ports']['terminal']} {told}" in answer.stdout, answer.stderr


def test_a_second_start_on_the_same_home_is_refused_and_says_who_holds_it(stack):
    answer = start_another(FLEETOPS_HOME=str(stack.home))
    assert answer.returncode == 1
    assert f"FleetOps is running on {stack.home} already at {stack.url} (pid {stack.process.pid})" in answer.stderr
    assert all(part["restarts"] == 0 for part in stack.status["parts"].values())


def test_a_taken_port_is_refused_before_anything_is_started(stack, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        answer = start_another(
            FLEETOPS_HOME=str(tmp_path / "other"),
            FLEETOPS_PORT="0",
            FLEETOPS_TERMINAL_PORT="0",
            FLEETOPS_ENDPOINT_PORT=port,
        )
    assert answer.returncode == 1
    assert f"Port {port} is taken by pid {os.getpid()}" in answer.stdout
    assert "FLEETOPS_ENDPOINT_PORT=" in answer.stdout
    assert not (tmp_path / "other" / "fleetops.sqlite3").exists()


@pytest.mark.parametrize("part", PARTS)
def test_a_killed_part_comes_back_and_takes_no_other_with_it(stack, part):
    before = stack.status["parts"]
    killed = stack.kill(part)
    stack.is_back(part, instead_of=killed)
    assert is_healthy(stack, part)
    after = stack.status["parts"]
    assert {name: now for name, now in after.items() if name != part} == {
        name: then for name, then in before.items() if name != part
    }
    assert after[part]["restarts"] == before[part]["restarts"] + 1


def test_the_worker_goes_on_after_its_broker_was_killed(stack):
    """The audit chain is sealed by a task that beat sends through the broker: so the three have found each other."""
    stack.log_in("admin", shown_password(stack.log.read_text())[0])

    def all_sealed() -> bool:
        return json.loads(stack.manage("audit_verify", "--json", check=False).stdout)["unsealed"] == 0

    until(all_sealed, seconds=20, what="the log-in's audit row is sealed")


def test_a_stop_leaves_nothing_and_the_next_start_keeps_everything(stack, state):
    """Last in this module: it ends the stack and starts it anew."""
    (password,) = shown_password(stack.log.read_text())
    handover = stack.handover
    environment = stack.status["environment"]
    # The same ports again, as whoever has not set them to 0 has them.
    ports = {name: value for name, value in environment.items() if name.endswith("PORT")}
    everybody = processes.descendants(stack.process.pid)
    assert len(everybody) > len(PARTS)
    stack.process.send_signal(signal.SIGTERM)
    assert stack.process.wait(10) == 0
    assert gone(everybody)
    told = [sys.executable, "-m", "fleetops.cli.main", "status"]
    assert subprocess.run(told, cwd=ROOT, env=stack.environment, capture_output=True).returncode == 3

    with running_stack(state, FLEETOPS_ADMIN_PASSWORD="", **ports) as again:
        assert len(shown_password(again.log.read_text())) == 1  # the first start's, in the same file
        again.log_in("admin", password)
        kept = again.handover
        assert kept["accounts"] == handover["accounts"]
        assert Path(kept["ca_file"]).read_bytes() == Path(handover["ca_file"]).read_bytes()

        everybody = processes.descendants(again.process.pid)
        again.process.kill()
        again.process.wait(5)
        until(lambda: gone(everybody), seconds=6, what=f"all of {everybody} are gone after kill -9 of the supervisor")
