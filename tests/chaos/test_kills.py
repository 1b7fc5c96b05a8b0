"""Kill -9 of each process in a session's middle: what was shown is recorded, and the product recovers by itself."""

import json
import re

import pytest
from websockets.exceptions import ConnectionClosed

from tests.support.stack import A_PAGE, Person, Stack, Terminal, until

pytestmark = pytest.mark.chaos

NODE = "pay-api-eu1a-01"
PROMPT = rb"[$#] $"

NODES_ONLINE = 19  # of the seed's 21, one is stopped and one has no instance profile


def open_shell(person: Person, name: str = NODE) -> tuple[str, Terminal]:
    session_id = person.connect(name)
    terminal = person.terminal(session_id)
    terminal.until(PROMPT)
    return session_id, terminal


def attach_again(person: Person, session_id: str, *, start: int | None = None, seconds: float = 30) -> Terminal:
    """As the page does: try until a terminal process answers."""

    def attached() -> Terminal | None:
        try:
            terminal = person.terminal(session_id, start=start)
            terminal.until_told("hello", seconds=5)
            return terminal
        except (OSError, ConnectionClosed):
            return None

    return until(attached, seconds=seconds, what="a terminal process takes the session over")


def recorded(person: Person, session_id: str) -> bytes:
    """The output that the recording holds, byte for byte."""
    lines = person.get(f"/sessions/{session_id}/cast/").splitlines()
    events = [json.loads(line) for line in lines[1:]]
    return "".join(data for _, kind, data in events if kind == "o").encode()


def end(person: Person, terminal: Terminal) -> None:
    terminal.type("exit\r")
    terminal.until_told("ended", seconds=20)


def assert_recording_holds(person: Person, session_id: str, shown: bytes) -> None:
    def is_held() -> bool:
        return bytes(shown) in recorded(person, session_id)

    until(is_held, seconds=30, what="the recording holds what was shown", every=A_PAGE)


def assert_audit_verifies(stack: Stack) -> None:
    def verdict() -> dict | None:
        found = json.loads(stack.manage("audit_verify", "--json", check=False).stdout)
        return found if found["unsealed"] == 0 else None

    found = until(verdict, seconds=20, what="every audit row is sealed", every=A_PAGE)
    assert found["ok"], found


def test_a_killed_terminal_process_gives_the_same_shell_back_and_loses_nothing_that_was_shown(stack, person):
    session_id, terminal = open_shell(person)
    terminal.run("KEPT=yes; echo begin-$KEPT", "begin-yes")
    terminal.type("for n in $(seq 1 20000); do echo line-$n; done\r")
    terminal.until("line-3000\r")

    killed = stack.kill("terminal")
    with pytest.raises((ConnectionClosed, OSError)):
        while True:
            terminal.step(10)
    stack.is_back("terminal", instead_of=killed)

    again = attach_again(person, session_id, start=terminal.offset)
    again.until("line-20000\r", seconds=30)
    shown = bytes(terminal.output) + bytes(again.output)
    numbers = [int(number) for number in re.findall(rb"line-(\d+)\r", shown)]
    assert numbers == list(range(1, 20001))
    again.run("echo still-$KEPT", "still-yes")
    shown = bytes(terminal.output) + bytes(again.output)
    assert_recording_holds(person, session_id, shown)
    end(person, again)
    assert_audit_verifies(stack)


@pytest.mark.parametrize("part", ["web", "worker", "beat", "valkey"])
def test_a_shell_does_not_notice_that_another_part_was_killed(stack, person, part):
    session_id, terminal = open_shell(person)

    killed = stack.kill(part)
    terminal.run(f"echo after-{part}", f"after-{part}\r")
    stack.is_back(part, instead_of=killed)

    terminal.run(f"echo later-{part}", f"later-{part}\r")
    end(person, terminal)
    assert_recording_holds(person, session_id, bytes(terminal.output))
    assert_audit_verifies(stack)


@pytest.mark.parametrize("part", ["valkey", pytest.param("worker", marks=pytest.mark.long)])
def test_a_session_is_whole_in_cloudwatch_logs_whatever_was_killed_meanwhile(stack, person, part):
    session_id, terminal = open_shell(person)
    for n in range(3):
        terminal.run(f"echo logged-$(({n}))", f"logged-{n}\r")
        killed = stack.kill(part)
        terminal.run(f"echo again-$(({n}))", f"again-{n}\r")
        stack.is_back(part, instead_of=killed)
    end(person, terminal)

    logs = stack.boto3("logs")

    def told() -> list[dict] | None:
        for group in logs.describe_log_groups(logGroupNamePrefix="/fleetops/sessions")["logGroups"]:
            where = {"logGroupName": group["logGroupName"]}
            for stream in logs.get_paginator("describe_log_streams").paginate(**where).search("logStreams[]"):
                if stream["logStreamName"].endswith(session_id):
                    page = logs.get_log_events(**where, logStreamName=stream["logStreamName"], startFromHead=True)
                    events = [json.loads(event["message"]) for event in page["events"]]
                    return events if any(event["fleetops"]["event"] == "end" for event in events) else None
        return None

    # A killed worker's claim is over a minute later.
    events = until(told, seconds=120, what="the end of the session is in CloudWatch Logs", every=A_PAGE)
    recording = [event for event in events if event["fleetops"]["event"] not in ("command", "ended")]
    assert [event["fleetops"]["n"] for event in recording] == list(range(1, len(recording) + 1))
    lines = [line for event in recording for line in event.get("sessionData", ())]
    assert [line for line in lines if re.fullmatch(r"(logged|again)-\d", line)] == [
        f"{word}-{n}" for n in range(3) for word in ("logged", "again")
    ]


def test_a_killed_endpoint_comes_back_with_its_state_and_the_shell_ends_in_words_or_goes_on(stack, person):
    def online() -> int:
        return json.loads(person.get("/fleet/preview/?text=status%3Donline"))["count"]

    until(lambda: online() == NODES_ONLINE, seconds=60, what="every node has been read", every=A_PAGE)
    before = json.loads(person.get("/fleet/palette/?q="))["instances"]
    session_id, terminal = open_shell(person)
    terminal.run("echo before", "before\r")

    killed = stack.kill("endpoint")
    stack.is_back("endpoint", instead_of=killed, seconds=40)

    # The demo nodes die with the endpoint that started them, and their shells with them.
    ended = terminal.until_told("ended", seconds=60)
    assert ended["text"]
    assert_recording_holds(person, session_id, bytes(terminal.output))
    until(
        lambda: json.loads(person.get("/fleet/palette/?q="))["instances"] == before,
        seconds=60,
        what="the fleet is as it was",
        every=A_PAGE,
    )
    _, another = open_shell(person)
    another.run("echo recovered", "recovered\r")
    end(person, another)
    assert_audit_verifies(stack)


def test_a_killed_shell_host_ends_its_sessions_in_words_and_its_nodes_come_back(stack, person):
    session_id, terminal = open_shell(person)
    terminal.run("echo before", "before\r")
    stack.kill_below("endpoint", r"fleetops\.node")

    assert terminal.until_told("ended", seconds=60)["text"]
    assert_recording_holds(person, session_id, bytes(terminal.output))
    _, another = until_connected(person)
    another.run("echo recovered", "recovered\r")
    end(person, another)


def test_a_killed_moto_comes_back_with_every_acknowledged_change(stack, person):
    ec2 = stack.boto3("ec2")
    group = ec2.create_security_group(GroupName="kept", Description="made before the kill")["GroupId"]
    _, terminal = open_shell(person)

    stack.kill_below("endpoint", r"moto")

    terminal.run("echo not-noticed", "not-noticed\r")
    found = until(lambda: ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"], seconds=30)
    assert found[0]["GroupName"] == "kept"
    end(person, terminal)


def until_connected(person: Person) -> tuple[str, Terminal]:
    """Open a shell as soon as the node is there again."""

    def opened():
        try:
            session_id = person.connect(NODE)
            terminal = person.terminal(session_id)
            terminal.until(PROMPT, seconds=10)
            return session_id, terminal
        except (AssertionError, OSError, ConnectionClosed):
            return None

    return until(opened, seconds=60, what="the node takes sessions again")
