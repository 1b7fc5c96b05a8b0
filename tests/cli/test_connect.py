"""`fleetops connect` against the real product: a shell in a terminal, a command's exit code, a forwarded port."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Iterator

import pytest

from fleetops.cli import connect
from fleetops.cli.errors import WrongUsage
from tests.cli.conftest import COMMAND, Shell
from tests.support.stack import ROOT, until

NAME = "pay-api-dev-01"


@pytest.mark.parametrize(
    ("text", "forward"),
    [
        ("5432", (0, "", 5432)),
        ("15432:5432", (15432, "", 5432)),
        ("db.internal:5432", (0, "db.internal", 5432)),
        ("15432:db.internal:5432", (15432, "db.internal", 5432)),
        ("15432:[2001:db8::7]:5432", (15432, "2001:db8::7", 5432)),
    ],
)
def test_a_port_to_forward_is_read(text, forward):
    assert connect.parse_forward(text) == forward


@pytest.mark.parametrize("text", ["", "0", "65536", "70000:80", "db:", "a:b:c:5", ":5432:"])
def test_what_is_no_port_to_forward_is_told(text):
    with pytest.raises(WrongUsage, match="is no port to forward"):
        connect.parse_forward(text)


def test_a_command_passes_its_output_and_its_exit_code_on(log_in):
    shell = log_in()
    done = shell.run("connect", NAME, "--command", "echo out; exit 7")
    assert (done.returncode, done.stdout) == (7, "out\n"), done.stderr
    assert shell.ok("connect", NAME, "--command", "printf 'no line end'") == "no line end"
    rows = json.loads(shell.ok("session", "list", "--json"))
    row = next(row for row in rows if row["exit_code"] == 7)
    assert (row["kind"], row["door"], row["end_reason"]) == ("command", "cli", "The command has ended.")


def test_words_that_find_several_instances_name_them_and_open_none(log_in):
    shell = log_in()
    done = shell.run("connect", "pay-api", "--command", "true")
    assert done.returncode == 1 and NAME in done.stderr and "pay-api-stg-01" in done.stderr
    assert "matches nothing-like-it" in shell.run("connect", "nothing-like-it").stderr
    assert shell.ok("connect", "api-dev", "--command", "echo found") == "found\n"


class Screen:
    """A real terminal around the command."""

    def __init__(self, shell: Shell, *words: str) -> None:
        self.output = b""
        ours, theirs = pty.openpty()
        self.size(40, 120, ours)
        self.process = subprocess.Popen(
            [*COMMAND, *words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=ROOT,
            env=shell.env,
            start_new_session=True,
        )
        os.close(theirs)
        self.fd = ours

    def size(self, rows: int, cols: int, fd: int | None = None) -> None:
        fcntl.ioctl(self.fd if fd is None else fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def sees(self, pattern: str, *, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        since = len(self.output) if pattern.startswith("+") else 0
        while not re.search(pattern.lstrip("+").encode(), self.output[since:]):
            assert time.monotonic() < deadline, f"no {pattern} in {self.output[-800:]!r}"
            if select.select([self.fd], [], [], 0.2)[0]:
                with contextlib.suppress(OSError):
                    self.output += os.read(self.fd, 65536)

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())


def test_a_shell_has_the_terminals_size_and_outlives_the_process_that_holds_it(stack, log_in):
    screen = Screen(log_in(), "connect", NAME)
    screen.sees(r"\$ ")
    screen.type("stty size\r")
    screen.sees(r"40 120\r")
    screen.size(50, 100)
    screen.process.send_signal(signal.SIGWINCH)
    screen.type("sleep 0.5; stty size\r")
    screen.sees(r"50 100\r")
    screen.type("for i in $(seq 100 140); do echo n$i; sleep 0.1; done; echo all''done\r")
    screen.sees(r"n105\r")
    before = stack.kill("terminal")
    screen.sees(r"alldone\r", seconds=60)
    stack.is_back("terminal", instead_of=before)
    assert [int(n) for n in re.findall(rb"n(1\d\d)\r", screen.output)] == list(range(100, 141))
    screen.type("exit\r")
    assert screen.process.wait(20) == 0
    os.close(screen.fd)


@contextlib.contextmanager
def echo() -> Iterator[int]:
    """A port that sends back what it gets, in capitals."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data.upper())

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield server.getsockname()[1]
    server.close()


def test_a_port_is_forwarded_where_the_policy_says_so_and_ctrl_c_ends_it(stack, log_in):
    shell = log_in()
    with echo() as port:
        done = shell.run("connect", NAME, "--forward", str(port))
        assert done.returncode == 1 and "No rule of the access policy allows you to forward" in done.stderr
        rule = {
            "name": "Ports of tests",
            "effect": "allow",
            "deeds": ["forward"],
            "targets": f"name={NAME}",
            "everybody": True,
            "destinations": ["*:*"],
        }
        shell.ok("api", "post", "policy/rules/", json.dumps(rule))
        line = [*COMMAND, "connect", NAME, "--forward", f"127.0.0.1:{port}"]
        process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=shell.env)
        told = process.stderr.readline()
        local = int(re.match(r"127\.0\.0\.1:(\d+) is 127\.0\.0\.1:\d+ by way of", told)[1])
        sent = b"lower case " * 50_000
        with (
            socket.create_connection(("127.0.0.1", local)) as one,
            socket.create_connection(("127.0.0.1", local)) as two,
        ):
            threading.Thread(target=one.sendall, args=(sent,), daemon=True).start()
            two.sendall(b"two")
            assert two.recv(3) == b"TWO"
            got = b""
            while len(got) < len(sent):
                got += one.recv(65536)
        assert got == sent.upper()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        process.stderr.close()

    def over() -> bool:
        rows = json.loads(shell.ok("session", "list", "--json"))
        forwards = [row for row in rows if row["kind"] == "forward"]
        return bool(forwards) and all(row["connections"] == 2 for row in forwards)

    until(over, seconds=30, what="the forward is over, and counted", every=1)
