"""A terminal process as `make up` runs it, people with cookies, and browsers without a screen."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from django.test import Client
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from fleetops.inventory.models import Account
from sessions_app import services
from sessions_app.commandlog.marks import MarkFilter
from sessions_app.models import TerminalSession
from tests.factories import make_account, make_instance, make_region, make_user
from tests.support.ends import ends_with_tests
from tests.support.roles import make_roles

from .gateway import Gateway

ROOT = Path(__file__).resolve().parents[2]


def until(condition, *, seconds: float = 10, what: str = ""):
    """Return what `condition` returns once it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
        time.sleep(0.02)
    return value


def opened(instance, user, **fields) -> TerminalSession:
    return services.open_session(instance, actor=user, **fields)


def ended(session: TerminalSession, *, seconds: float = 10) -> TerminalSession:
    """Wait until the row says so."""
    until(lambda: (session.refresh_from_db(), not session.is_live)[1], seconds=seconds, what="the session has ended")
    return session


def shell_of(gateway, session):
    until(lambda: (session.refresh_from_db(), session.ssm_session_id)[1], what="the session was started")
    return gateway.shells[session.ssm_session_id]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class TerminalProcess:
    """One `uvicorn fleetops.asgi:terminal`."""

    def __init__(self, home: Path, log: Path, **settings: str) -> None:
        self.port = free_port()
        self.page_port = free_port()
        self.log = log
        self.environment = os.environ | {
            "FLEETOPS_HOME": str(home),
            "FLEETOPS_DATABASE_URL": f"sqlite:///{home}/test.sqlite3",
            "FLEETOPS_PORT": str(self.page_port),
            "FLEETOPS_TERMINAL_PORT": str(self.port),
            "FLEETOPS_SEAL_SECONDS": "1",
            "DJANGO_SETTINGS_MODULE": "fleetops.settings",
            **settings,
        }
        self.process: subprocess.Popen | None = None

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        command = [
            *(sys.executable, "-m", "uvicorn", "fleetops.asgi:terminal", "--host", "127.0.0.1"),
            *("--port", str(self.port), "--ws", "websockets-sansio", "--ws-per-message-deflate", "false"),
            *("--ws-max-size", "262144", "--timeout-graceful-shutdown", "4", "--no-access-log"),
            *("--loop", "uvloop", "--http", "httptools"),
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ends_with_tests(command), cwd=ROOT, env=self.environment, stdout=log, stderr=log
            )
        until(self._is_ready, seconds=20, what=f"the terminal process is ready; {self.log}")

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-4000:]
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.2):
            return True
        return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(5)

    def stop(self) -> None:
        """End it in order."""
        if self.is_running:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise

    def memory(self) -> int:
        """Bytes of memory that are its own, files left out."""
        fields = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return int(re.search(r"Anonymous: +(\d+) kB", fields)[1]) * 1024

    def browser(self, session, user, **options) -> Browser:
        return Browser(self, session, user, **options)


class Browser:
    """A terminal page without its screen."""

    def __init__(
        self,
        terminal: TerminalProcess,
        session: TerminalSession,
        user,
        *,
        cols: int = 100,
        rows: int = 30,
        start: int | None = None,
        watch: bool = False,
        join: bool = False,
        origin: str | None = None,
        attach: bool = True,
    ) -> None:
        self.output = bytearray()
        self.raw = bytearray()  # with the marks of the shell
        self._marks = MarkFilter()
        self.begin: int | None = None
        self.offset = start or 0
        self.messages: list[dict] = []
        headers = {}
        self.log_in_key = ""
        if user is not None:
            client = Client()
            client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
            self.log_in_key = client.cookies["fleetops_session"].value
            headers["Cookie"] = f"fleetops_session={self.log_in_key}"
        self._exits = contextlib.ExitStack()
        connecting = connect(
            f"ws://127.0.0.1:{terminal.port}/ws/sessions/{getattr(session, 'pk', session)}/",
            additional_headers=headers,
            origin=origin if origin is not None else f"http://127.0.0.1:{terminal.page_port}",
            max_size=2**20,
            max_queue=32,
            compression=None,
            close_timeout=0.5,
            proxy=None,
        )
        self.socket = self._exits.enter_context(connecting)
        if attach:
            with contextlib.suppress(ConnectionClosed):  # refused before it asked
                self.send({"type": "attach", "cols": cols, "rows": rows, "from": start, "watch": watch, "join": join})

    def send(self, message: dict) -> None:
        self.socket.send(json.dumps(message))

    def type(self, text: str | bytes) -> None:
        self.socket.send(text.encode() if isinstance(text, str) else text)

    def step(self, timeout: float | None = 10) -> None:
        message = self.socket.recv(timeout)
        if isinstance(message, str):
            self.messages.append(json.loads(message))
            return
        offset = int.from_bytes(message[:8], "big")
        if self.begin is None:
            self.begin = offset
        self.offset = offset + len(message) - 8
        self.raw += message[8:]
        self.output += self._marks.feed(message[8:])  # as a terminal shows it
        self.send({"type": "seen", "offset": self.offset})

    def until(self, pattern: str | bytes, *, seconds: float = 10, since: int = 0) -> re.Match[bytes]:
        expression = re.compile(pattern.encode() if isinstance(pattern, str) else pattern)
        deadline = time.monotonic() + seconds
        while not (found := expression.search(self.output, since)):
            since = max(since, len(self.output) - 4096)  # a flood is not searched from its start each time
            left = deadline - time.monotonic()
            assert left > 0, f"no {pattern!r} in {bytes(self.output[-1000:])!r}; told {self.messages[-5:]}"
            with contextlib.suppress(TimeoutError):
                self.step(left)
        return found

    def run(self, command: str, expect: str, *, seconds: float = 10) -> re.Match[bytes]:
        since = len(self.output)
        self.type(command + "\r")
        return self.until(expect, seconds=seconds, since=since)

    def told(self, kind: str, *, seconds: float = 10, **fields) -> dict:
        """Read until a control message of that type, with these fields, has come."""
        deadline = time.monotonic() + seconds
        while True:
            for message in self.messages:
                if message["type"] == kind and fields.items() <= message.items():
                    return message
            left = deadline - time.monotonic()
            assert left > 0, f"never told {kind} {fields}; told {self.messages}"
            with contextlib.suppress(TimeoutError):
                self.step(left)

    def closed(self, *, seconds: float = 10) -> tuple[int, str]:
        """Read until the websocket is closed; returns code and reason."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(ConnectionClosed):
            while True:
                left = deadline - time.monotonic()
                assert left > 0, f"not closed; told {self.messages[-5:]}"
                with contextlib.suppress(TimeoutError):
                    self.step(left)
        return self.socket.close_code, self.socket.close_reason

    def close(self) -> None:
        self._exits.close()


@pytest.fixture
def spool(settings):
    """The spool that terminal processes of this run share."""
    return settings.SPOOL_DIR


@pytest.fixture
def gateway(tmp_path):
    gateway = Gateway(tmp_path / "gateway")
    gateway.start()
    yield gateway
    gateway.stop()


@pytest.fixture
def account(transactional_db, gateway, home) -> Account:
    """An account whose calls go to the gateway."""
    credentials = home / "aws" / "credentials"
    credentials.parent.mkdir(exist_ok=True)
    credentials.write_text("[fleetops-test]\naws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = example\n")
    return make_account(
        profile="fleetops-test",
        endpoint_url=gateway.url,
        ca_pem=gateway.ca_pem,
        stream_hosts=[f"127.0.0.1:{gateway.port}"],
    )


@pytest.fixture
def instance(account):
    return make_instance(region=make_region(account=account))


@pytest.fixture
def operator(transactional_db):
    make_roles()
    return make_user("mei.tanaka", role="operator")


@pytest.fixture(scope="module")
def shared_terminal(home, tmp_path_factory, valkey):
    """A terminal process for a module's tests; one that a test has ended is started again for the next."""
    process = TerminalProcess(home, tmp_path_factory.mktemp("terminal") / "terminal.log")
    yield process
    process.stop()
    log = process.log.read_text()
    assert "Traceback" not in log, log[-6000:]


@pytest.fixture
def terminal(shared_terminal, spool, transactional_db):
    if not shared_terminal.is_running:
        shared_terminal.start()
    return shared_terminal


@pytest.fixture
def shell(terminal, gateway, instance, operator):
    """An open session with a browser at its prompt: (session, browser, the gateway's shell)."""
    session = opened(instance, operator)
    browser = terminal.browser(session, operator)
    browser.until(r"\$ ")
    yield session, browser, shell_of(gateway, session)
    browser.close()


@pytest.fixture(scope="session")
def demo_endpoint(home):
    """The real endpoint with its demo nodes; its hand-over."""
    directory = home / "endpoint"
    log = home / "endpoint.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            ends_with_tests([sys.executable, "-m", "fleetops.endpoint", "--home", directory, "--port", "0"]),
            cwd=ROOT,
            env=os.environ | {"FLEETOPS_HOME": str(home)},
            stdout=output,
            stderr=output,
        )

    def ready():
        assert process.poll() is None, log.read_text()[-4000:]
        return "node connected" in log.read_text() and (directory / "handover.json").exists()

    try:
        until(ready, seconds=40, what=f"the endpoint is ready; {log}")
        yield json.loads((directory / "handover.json").read_text())
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def demo_instance(demo_endpoint, home, transactional_db):
    """A demo node that is online."""
    given = demo_endpoint["accounts"][0]
    keys = given["product_credentials"]
    credentials = home / "aws" / "credentials"
    credentials.parent.mkdir(exist_ok=True)
    credentials.write_text(
        f"[fleetops-demo]\naws_access_key_id = {keys['access_key_id']}\n"
        f"aws_secret_access_key = {keys['secret_access_key']}\n"
    )
    account = make_account(
        given["account_id"],
        role_arn=given["role_arn"],
        external_id=given["external_id"],
        profile="fleetops-demo",
        endpoint_url=demo_endpoint["endpoint_url"],
        ca_pem=Path(demo_endpoint["ca_file"]).read_text(),
        stream_hosts=demo_endpoint["stream_hosts"],
    )
    log = (home / "endpoint.log").read_text()
    instance_id = re.search(r"node connected instance=(\S+)", log)[1]
    return make_instance(region=make_region(given["regions"][0], account=account), instance_id=instance_id)
