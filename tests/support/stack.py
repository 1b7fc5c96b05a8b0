"""The whole product as `make up` runs it, in a home of its own, and the people who use it over HTTP and websockets."""

from __future__ import annotations

import contextlib
import functools
import html
import http.cookiejar
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from .ends import ends_with_tests
from .migrated import migrated_sqlite

ROOT = Path(__file__).resolve().parents[2]
ADMIN_PASSWORD = "a long enough password 42"
A_PAGE = 0.3  # seconds between two looks at a page


def until(condition: Callable[[], Any], *, seconds: float = 20, what: str = "", every: float = 0.05) -> Any:
    """Return what `condition` returns once it is true; AssertionError, naming `what`, after `seconds`.

    It is asked `every` so many seconds: A_PAGE where the answer is one, which takes its time from what is waited for.
    """
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        time.sleep(every)


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, nearest first."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += parents.get(each, [])
    return found[1:]


@dataclass
class Stack:
    """A running FleetOps."""

    home: Path
    process: subprocess.Popen
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    clock_file: Path = Path()  # where a test moves its clock, if it was given one

    @property
    def status(self) -> dict[str, Any]:
        return json.loads((self.home / "run" / "status.json").read_text())

    @property
    def handover(self) -> dict[str, Any]:
        return json.loads((self.home / "endpoint" / "handover.json").read_text())

    def fleetops_status(self) -> dict[str, Any]:
        """What `fleetops status --json` prints."""
        command = [sys.executable, "-m", "fleetops.cli.main", "status", "--json"]
        return json.loads(subprocess.check_output(command, cwd=ROOT, env=self.environment, text=True))

    def manage(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.environment,
            check=check,
            text=True,
            capture_output=True,
        )

    def pid(self, part: str) -> int:
        return self.status["parts"][part]["pid"]

    def kill(self, part: str) -> int:
        """Kill -9 one part, once it is there; returns the pid it had."""
        pid = until(lambda: self.pid(part), seconds=60, what=f"{part} runs")
        os.kill(pid, signal.SIGKILL)
        return pid

    def kill_below(self, part: str, command: str) -> int:
        """Kill -9 the first process below `part` whose command line matches; returns its pid."""
        for pid in descendants(self.pid(part)):
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                if re.search(command, line):
                    os.kill(pid, signal.SIGKILL)
                    return pid
        raise AssertionError(f"nothing below {part} runs {command}")

    def boto3(self, service: str) -> Any:
        """A client of the endpoint with the credentials that `fleetops status` offers."""
        account = self.handover["accounts"][0]
        keys = account["try_credentials"]
        return boto3.client(
            service,
            region_name=account["regions"][0],
            endpoint_url=self.handover["endpoint_url"],
            verify=self.handover["ca_file"],
            aws_access_key_id=keys["access_key_id"],
            aws_secret_access_key=keys["secret_access_key"],
        )

    def is_back(self, part: str, *, instead_of: int, seconds: float = 30) -> None:
        """Wait until the supervisor has another, ready process for `part`."""

        def ready() -> bool:
            now = self.status["parts"][part]
            return now["pid"] not in (None, instead_of) and now["state"] == "ready"

        until(ready, seconds=seconds, what=f"{part} is back")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.status['ports']['web']}"

    @property
    def terminal_url(self) -> str:
        return f"ws://127.0.0.1:{self.status['ports']['terminal']}"

    @functools.cached_property
    def admin(self) -> Person:
        """The administrator, logged in once: for who asks nothing of the log-in itself."""
        return self.log_in()

    def log_in(self, username: str = "admin", password: str = ADMIN_PASSWORD) -> Person:
        person = Person(self)
        person.log_in(username, password)
        return person


@contextlib.contextmanager
def running_stack(home: Path, *, migrated: bool = True, **settings: str) -> Iterator[Stack]:
    """Start everything in `home`; `settings` are further environment variables. Ends it afterwards, and checks how.

    A home without a database is given one that is migrated; not `migrated`, the product makes its own, as at first.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("FLEETOPS_", "AWS_"))}
    environment |= {
        "FLEETOPS_HOME": str(home),
        "FLEETOPS_PORT": "0",
        "FLEETOPS_TERMINAL_PORT": "0",
        "FLEETOPS_ENDPOINT_PORT": "0",
        "FLEETOPS_ADMIN_PASSWORD": ADMIN_PASSWORD,
        "FLEETOPS_INVENTORY_SECONDS": "5",
        "DJANGO_SETTINGS_MODULE": "fleetops.settings",
        **settings,
    }
    home.mkdir(parents=True, exist_ok=True)
    database = home / "fleetops.sqlite3"
    is_test = "FLEETOPS_HOME" in os.environ  # not a benchmark, which shares neither database nor machine with others
    if is_test:  # a worker that stands back would wait for other tests
        environment.setdefault("FLEETOPS_TASK_NICE", "0")
    if migrated and is_test and not database.exists() and "FLEETOPS_DATABASE_URL" not in settings:
        migrated_sqlite(database)
    log = home / "supervisor.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            ends_with_tests([sys.executable, "-m", "fleetops.supervisor"]),
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    stack = Stack(home, process, log, environment)

    def ready() -> bool:
        if process.poll() is not None:
            raise AssertionError(f"the supervisor ended with {process.returncode}:\n{log.read_text()[-6000:]}")
        try:
            return stack.status.get("state") == "ready"
        except (FileNotFoundError, json.JSONDecodeError):
            return False

    try:
        until(ready, seconds=180, what=f"the stack is ready; see {log}")
        # What an installed service would read from its environment, `manage.py` and `fleetops` read here.
        stack.environment |= stack.status.get("environment", {})
        yield stack
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


class Person:
    """Somebody with a browser: cookies, forms, terminals."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.cookies = http.cookiejar.CookieJar()
        self.opener = urllib.request.build_opener(
            urllib.request.HTTPCookieProcessor(self.cookies), urllib.request.ProxyHandler({})
        )

    def get(self, path: str) -> str:
        return self.open(path).read().decode()

    def open(self, path: str, data: bytes | None = None, headers: dict[str, str] | None = None):
        return self.opener.open(urllib.request.Request(self.stack.url + path, data, headers or {}), timeout=20)

    def post(self, path: str, **fields: str):
        """Send a form; follows the redirect. The answer has `.url`."""
        token = next((c.value for c in self.cookies if c.name == "fleetops_csrf"), "")
        body = urllib.parse.urlencode({"csrfmiddlewaretoken": token, **fields}).encode()
        return self.open(path, body, {"Referer": self.stack.url + path, "Origin": self.stack.url})

    def log_in(self, username: str, password: str) -> None:
        self.get("/login/")
        answer = self.post("/login/", username=username, password=password)
        assert "/login/" not in answer.url, "the log-in was refused"

    def instance_pk(self, name: str) -> str:
        """Our id of the instance of that name, once the fleet page's data has it online."""

        def found() -> str | None:
            for row in json.loads(self.get(f"/fleet/palette/?q={urllib.parse.quote(name)}"))["instances"]:
                if row["name"] == name and row["status"] == "Online":
                    return row["id"]
            return None

        return until(found, seconds=60, what=f"{name} is online", every=A_PAGE)

    def connect(self, name: str) -> str:
        """Click Connect; returns the session's id."""
        answer = self.post("/sessions/open/", instance=self.instance_pk(name))
        found = re.search(r"/sessions/([0-9a-f-]{36})/", answer.url)
        assert found, html.unescape(answer.read().decode())[:2000]
        return found[1]

    def cookie_header(self) -> str:
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in self.cookies)

    def terminal(self, session_id: str, **options: Any) -> Terminal:
        return Terminal(self, session_id, **options)


# What an integrated shell tells of itself; no terminal shows it. sessions_app/commandlog/marks.py
_MARK = re.compile(rb"\x1b\]7717;[^\x07\x1b]*\x07")


class Terminal:
    """A browser's terminal without its screen: attaches, types, and keeps every byte that it was shown."""

    def __init__(
        self,
        person: Person,
        session_id: str,
        *,
        cols: int = 100,
        rows: int = 30,
        start: int | None = None,
        reads: bool = True,
    ) -> None:
        self.output = bytearray()
        self.first_offset: int | None = None
        self.offset = start or 0
        self.messages: list[dict[str, Any]] = []
        self._open = contextlib.ExitStack()
        connecting = connect(
            f"{person.stack.terminal_url}/ws/sessions/{session_id}/",
            additional_headers={"Cookie": person.cookie_header()},
            origin=person.stack.url,
            max_size=2**20,
            max_queue=4,
            compression=None,
            proxy=None,
        )
        self.socket: ClientConnection = self._open.enter_context(connecting)
        self.send({"type": "attach", "cols": cols, "rows": rows, "from": start, "watch": False})

    def send(self, message: dict[str, Any]) -> None:
        self.socket.send(json.dumps(message))

    def type(self, text: str | bytes) -> None:
        self.socket.send(text.encode() if isinstance(text, str) else text)

    def step(self, timeout: float | None = None) -> bytes:
        """Take one message; returns the output in it. TimeoutError, ConnectionClosed as websockets raises them."""
        message = self.socket.recv(timeout)
        if isinstance(message, str):
            self.messages.append(json.loads(message))
            return b""
        begin = int.from_bytes(message[:8], "big")
        data = message[8:]
        if self.first_offset is None:
            self.first_offset = begin
        self.offset = begin + len(data)
        self.output += data
        with contextlib.suppress(ConnectionClosed):  # what it said before it closed is still to be read
            self.send({"type": "seen", "offset": self.offset})
        return data

    def until(self, pattern: str | bytes, *, seconds: float = 15, since: int = 0) -> re.Match[bytes]:
        """Read until the output, from byte `since` of what this terminal was shown, matches."""
        expression = re.compile(pattern.encode() if isinstance(pattern, str) else pattern)
        deadline = time.monotonic() + seconds
        while True:
            if found := expression.search(_MARK.sub(b"", self.output[since:])):
                return found
            left = deadline - time.monotonic()
            if left <= 0:
                raise AssertionError(f"no {pattern!r} in {bytes(self.output[-2000:])!r}; told {self.messages[-5:]}")
            with contextlib.suppress(TimeoutError):
                self.step(left)

    def run(self, command: str, expect: str, *, seconds: float = 15) -> re.Match[bytes]:
        """Type a line and read until `expect` stands in what follows."""
        since = len(self.output)
        self.type(command + "\r")
        return self.until(expect, seconds=seconds, since=since)

    def until_told(self, kind: str, *, seconds: float = 15) -> dict[str, Any]:
        """Read until a control message of that type has come."""
        deadline = time.monotonic() + seconds
        while True:
            for message in self.messages:
                if message["type"] == kind:
                    return message
            left = deadline - time.monotonic()
            if left <= 0:
                raise AssertionError(f"never told {kind!r}; told {self.messages}")
            with contextlib.suppress(TimeoutError):
                self.step(left)

    def close(self) -> None:
        self._open.close()
