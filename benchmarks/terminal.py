"""How fast the browser terminal is, beside a raw PTY, a minimal websocket bridge and terminado, in one run.

    python benchmarks/terminal.py [--keys 300] [--megabytes 50] [--rounds 3] [--json FILE] [--quick]

Everything runs on this machine over loopback; the rounds of all terminals are interleaved, and a figure is the median
of the rounds. FleetOps goes through its whole chain: websocket, terminal process, TLS, endpoint, TLS, demo node,
PTY. The client is a plain socket, so that no client library is measured. CPU is that of all server processes, the
shell's command included; memory is proportional set size (PSS), of FleetOps that of the terminal process, the endpoint
and the nodes' process. A session's memory is what the second half of many sessions adds: the first fills pools.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import select
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Protocol

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.peers import spawn
from tests.support.stack import Person, Stack, descendants, running_stack

NODE = "pay-api-eu1a-01"
OTHERS = 10  # sessions that stream while another types
STALL_SECONDS = 10


class Shell(Protocol):
    """A shell somewhere behind a terminal."""

    def type(self, data: bytes) -> None: ...
    def read(self, timeout: float) -> bytes: ...  # b"" when nothing came
    def close(self) -> None: ...


class RawPty:
    """No terminal at all: what the PTY alone costs."""

    def __init__(self) -> None:
        _, self.descriptor = spawn()

    def type(self, data: bytes) -> None:
        os.write(self.descriptor, data)

    def read(self, timeout: float) -> bytes:
        ready, _, _ = select.select([self.descriptor], [], [], timeout)
        return os.read(self.descriptor, 65536) if ready else b""

    def close(self) -> None:
        os.close(self.descriptor)


class WebSocket:
    """A websocket client of a plain socket: no threads, no buffers but its own."""

    def __init__(self, port: int, path: str = "/", headers: dict[str, str] | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
            *(f"{name}: {value}" for name, value in (headers or {}).items()),
        ]
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        self.buffer = bytearray()
        while b"\r\n\r\n" not in self.buffer:
            self.buffer += self.socket.recv(65536) or self.fail("closed in the handshake")
        head, _, rest = bytes(self.buffer).partition(b"\r\n\r\n")
        if b" 101 " not in head.splitlines()[0]:
            self.fail(head.decode())
        self.buffer = bytearray(rest)

    @staticmethod
    def fail(why: str) -> bytes:
        raise SystemExit(f"websocket: {why}")

    def send(self, data: bytes, opcode: int = 2) -> None:
        size = len(data)
        head = bytes([0x80 | opcode]) + (
            bytes([0x80 | size]) if size < 126 else struct.pack(">BH", 0xFE, size) if size < 65536 else b""
        )
        self.socket.sendall(head + b"\0\0\0\0" + data)  # a mask of zeros leaves the bytes as they are

    def receive(self, timeout: float) -> tuple[int, bytes] | None:
        """One whole message as (opcode, payload); None when nothing came in time."""
        deadline = time.monotonic() + timeout
        while True:
            if frame := self._frame():
                opcode, payload = frame
                if opcode == 9:
                    self.send(payload, 10)
                    continue
                if opcode == 8:
                    self.fail(f"closed by the server: {payload[:2].hex()} {payload[2:]!r}")
                return opcode, payload
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.socket], [], [], left)[0]:
                return None
            self.buffer += self.socket.recv(262144) or self.fail("connection lost")

    def _frame(self) -> tuple[int, bytes] | None:
        buffer = self.buffer
        if len(buffer) < 2:
            return None
        size, start = buffer[1] & 0x7F, 2
        if size == 126:
            if len(buffer) < 4:
                return None
            size, start = struct.unpack_from(">H", buffer, 2)[0], 4
        elif size == 127:
            if len(buffer) < 10:
                return None
            size, start = struct.unpack_from(">Q", buffer, 2)[0], 10
        if len(buffer) < start + size:
            return None
        frame = buffer[0] & 0x0F, bytes(memoryview(buffer)[start : start + size])
        del buffer[: start + size]
        return frame


class Bridge:
    def __init__(self, port: int) -> None:
        self.web = WebSocket(port)

    def type(self, data: bytes) -> None:
        self.web.send(data)

    def read(self, timeout: float) -> bytes:
        message = self.web.receive(timeout)
        return message[1] if message else b""

    def close(self) -> None:
        self.web.socket.close()


class Terminado(Bridge):
    def type(self, data: bytes) -> None:
        self.web.send(json.dumps(["stdin", data.decode()]).encode(), 1)

    def read(self, timeout: float) -> bytes:
        message = self.web.receive(timeout)
        if not message:
            return b""
        kind, *rest = json.loads(message[1])
        return rest[0].encode() if kind == "stdout" else b""


class FleetOps:
    """A browser's terminal, with the browser's flow control."""

    def __init__(self, stack: Stack, person: Person, node: str = NODE) -> None:
        self.session_id = person.connect(node)
        self.person = person
        self.attach(stack)

    def attach(self, stack: Stack, start: int | None = None) -> None:
        headers = {"Cookie": self.person.cookie_header(), "Origin": stack.url}
        self.web = WebSocket(stack.status["ports"]["terminal"], f"/ws/sessions/{self.session_id}/", headers)
        attach = {"type": "attach", "cols": 100, "rows": 30, "from": start, "watch": False}
        self.web.send(json.dumps(attach).encode(), 1)
        self.offset = self.seen = 0

    def type(self, data: bytes) -> None:
        self.web.send(data)

    def read(self, timeout: float) -> bytes:
        deadline = time.monotonic() + timeout
        while message := self.web.receive(max(0.0, deadline - time.monotonic())):
            if message[0] == 1:
                continue
            data = message[1]
            self.offset = int.from_bytes(data[:8], "big") + len(data) - 8
            # As the page does: told when a good part of the window has reached the screen.
            if self.offset - self.seen >= 65536:
                self.seen = self.offset
                self.web.send(b'{"type":"seen","offset":%d}' % self.offset, 1)
            return data[8:]
        return b""

    def close(self) -> None:
        self.web.socket.close()
        with contextlib.suppress(OSError):
            self.person.post(f"/sessions/{self.session_id}/end/")


def read_until(shell: Shell, what: bytes, seconds: float) -> int:
    """Read until `what` has come; returns how many bytes came in all."""
    tail, total, deadline = b"", 0, time.monotonic() + seconds
    while time.monotonic() < deadline:
        data = shell.read(1.0)
        total += len(data)
        tail = (tail + data)[-4096 - len(data) :]
        if what in tail:
            return total
    raise SystemExit(f"no {what!r} within {seconds} s; last {tail[-200:]!r}")


def settle(shell: Shell) -> None:
    """Wait until a prompt answers, then be quiet."""
    shell.type(b"echo rea''dy\r")
    read_until(shell, b"ready", 30)
    while shell.read(0.3):
        pass


def echo_times(shell: Shell, keys: int) -> list[float]:
    """Seconds from each keystroke to its echo, typed into `cat` as a person types: one at a time."""
    settle(shell)
    shell.type(b"cat >/dev/null\r")
    while shell.read(0.3):
        pass
    times = []
    for number in range(keys):
        began = time.perf_counter()
        shell.type(b"x")
        while b"x" not in shell.read(5.0):
            if time.perf_counter() - began > 5:
                raise SystemExit("a keystroke was not echoed within 5 s")
        times.append(time.perf_counter() - began)
        if number % 64 == 63:  # a terminal's line holds 4,096 bytes at most
            shell.type(b"\r")
            while shell.read(0.05):
                pass
        time.sleep(0.003)
    shell.type(b"\x03")
    while shell.read(0.2):
        pass
    return times


def bulk(shell: Shell, megabytes: int) -> float:
    """Seconds for a command's output of so many megabytes to reach the client."""
    settle(shell)
    line = "0123456789abcdef" * 4
    count = megabytes * 1_000_000 // (len(line) + 2)  # the terminal sends CR LF for each line end
    shell.type(f"yes {line} | head -n {count}; echo all''there\r".encode())
    began = time.perf_counter()
    total = read_until(shell, b"allthere", 300)
    took = time.perf_counter() - began
    if total < count * (len(line) + 2):
        raise SystemExit(f"{total} bytes came of {count * (len(line) + 2)}")
    return took


def cpu_seconds(pid: int) -> float:
    """User and system seconds of `pid`, what is below it, and the children that it has waited for."""
    ticks = 0
    for each in [pid, *descendants(pid)]:
        with contextlib.suppress(OSError, IndexError):
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(int(fields[number]) for number in (11, 12, 13, 14))
    return ticks / os.sysconf("SC_CLK_TCK")


def pss(pids: list[int]) -> float:
    """Megabytes of these processes."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def chain(stack: Stack) -> list[int]:
    """The processes that a session passes: the terminal process, the endpoint, and the nodes' process."""
    endpoint = stack.pid("endpoint")
    for pid in descendants(endpoint):
        with contextlib.suppress(OSError):
            if b"fleetops.node\0host" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return [stack.pid("terminal"), endpoint, pid]
    raise SystemExit("the nodes' process is not there")


def stalled_reader(open_shell, pids: list[int]) -> tuple[float, float]:
    """A reader that stops for ten seconds in a flood: (megabytes grown at worst, seconds until Ctrl-C has acted)."""
    shell = open_shell()
    settle(shell)
    flood = b"yes 0123456789abcdef0123456789abcdef0123456789abcdef\r"
    shell.type(flood)  # once with a reader that reads: buffers of a first flood are not what stopping costs
    until = time.monotonic() + 2
    while time.monotonic() < until:
        shell.read(0.1)
    shell.type(b"\x03")
    while shell.read(0.5):
        pass
    before = pss(pids)
    shell.type(flood)
    worst, deadline = 0.0, time.monotonic() + STALL_SECONDS
    while time.monotonic() < deadline:
        time.sleep(0.5)
        worst = max(worst, pss(pids) - before)
    shell.type(b"\x03echo sto''pped\r")
    began = time.perf_counter()
    with contextlib.suppress(SystemExit):
        read_until(shell, b"stopped", 60)
    took = time.perf_counter() - began
    shell.close()
    return worst, took


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def measure(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    with contextlib.ExitStack() as stack_of:
        home = Path(stack_of.enter_context(tempfile.TemporaryDirectory(prefix="fo-bench-")))
        stack = stack_of.enter_context(running_stack(home))
        person = stack.log_in()
        peers: dict[str, subprocess.Popen] = {}
        ports: dict[str, int] = {}
        for name in ("bridge", "terminado"):
            command = [sys.executable, str(Path(__file__).with_name("peers.py")), name]
            peers[name] = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # they complain about each client that goes
                text=True,
            )
            stack_of.callback(peers[name].kill)
            ports[name] = int(peers[name].stdout.readline())
        openers = {
            "raw PTY": RawPty,
            "bridge": lambda: Bridge(ports["bridge"]),
            "terminado": lambda: Terminado(ports["terminado"]),
            "FleetOps": lambda: FleetOps(stack, person),
        }
        pids = {"bridge": peers["bridge"].pid, "terminado": peers["terminado"].pid, "FleetOps": stack.process.pid}
        measured = {"bridge": [pids["bridge"]], "terminado": [pids["terminado"]], "FleetOps": chain(stack)}
        rounds: dict[str, dict[str, list[float]]] = {name: {} for name in openers}

        def note(name: str, figure: str, value: float) -> None:
            rounds[name].setdefault(figure, []).append(value)

        for number in range(options.rounds):
            for name, opener in openers.items():
                print(f"round {number + 1}: {name}", file=sys.stderr)
                shell = opener()
                times = echo_times(shell, options.keys)
                note(name, "echo p50 ms", statistics.median(times) * 1000)
                note(name, "echo p99 ms", percentile(times, 0.99) * 1000)
                cpu = cpu_seconds(pids[name]) if name in pids else None
                took = bulk(shell, options.megabytes)
                note(name, "bulk MB/s", options.megabytes / took)
                if cpu is not None:
                    note(name, "CPU s/MB", (cpu_seconds(pids[name]) - cpu) / options.megabytes)
                shell.close()
        for name in pids:
            print(f"ten streaming: {name}", file=sys.stderr)
            shell = openers[name]()
            settle(shell)
            others = [openers[name]() for _ in range(OTHERS)]
            for other in others:
                settle(other)
                other.type(b"yes\r")
            drains = [drain(other) for other in others]
            times = echo_times(shell, options.keys // 3)
            note(name, "echo p50 ms, 10 streaming", statistics.median(times) * 1000)
            for other, stop in zip(others, drains, strict=True):
                stop()
                other.type(b"\x03")
                other.close()
            shell.close()
            time.sleep(2)
            worst, stop_seconds = stalled_reader(openers[name], measured[name])
            note(name, "stalled reader MB", worst)
            note(name, "Ctrl-C after it s", stop_seconds)
            time.sleep(2)
            idle: list[Shell] = []
            levels = []
            for _ in range(2):
                idle += [openers[name]() for _ in range(options.sessions)]
                for each in idle[-options.sessions :]:
                    settle(each)
                time.sleep(6)  # past a sealing of each recording
                levels.append(pss(measured[name]))
            note(name, "MB a session", (levels[1] - levels[0]) / options.sessions)
            for each in idle:
                each.close()
        return {
            name: {figure: statistics.median(values) for figure, values in figures.items()}
            for name, figures in rounds.items()
        }


def drain(shell: Shell):
    """Read in a process of its own until told to stop, as a browser does in the background."""
    pid = os.fork()
    if pid == 0:
        try:
            while True:
                shell.read(1.0)
        finally:
            os._exit(0)

    def stop() -> None:
        os.kill(pid, 9)
        os.waitpid(pid, 0)

    return stop


def table(figures: dict[str, dict[str, float]]) -> str:
    columns = list(dict.fromkeys(column for row in figures.values() for column in row))
    lines = ["| terminal | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
    for name, row in figures.items():
        cells = [f"{row[column]:.3g}" if column in row else "–" for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=int, default=300)
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--sessions", type=int, default=20, help="half of the sessions opened to measure the memory of one"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it runs")
    options = parser.parse_args()
    if options.quick:
        options.keys, options.megabytes, options.rounds, options.sessions = 60, 10, 1, 5
    figures = measure(options)
    print(table(figures))
    ours = figures["FleetOps"]
    print(f"\necho p50: {ours['echo p50 ms'] / figures['terminado']['echo p50 ms']:.2f} × terminado's (aim: below 1)")
    ratio = ours["echo p50 ms, 10 streaming"] / figures["bridge"]["echo p50 ms, 10 streaming"]
    print(f"echo p50 with {OTHERS} streaming: {ratio:.2f} × the bridge's (aim: at most 3)")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
