"""Files to and from an instance: through the terminal process and a session of the real endpoint, on a demo node."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from fleetops.policy import services as policy
from sessions_app.states import TransferState
from sessions_app.transfers import services as transfers
from sessions_app.transfers.models import Transfer

from .conftest import Browser, ended

MIB = 2**20
NASTY = "-n 'it\"s' $(touch x) `y` ünï \\ {{ path }}\n\n"


class Carrier(Browser):
    """A page that carries a file, without its screen."""

    def __init__(self, terminal, transfer: Transfer, user) -> None:
        self.received = bytearray()
        super().__init__(terminal, transfer.session, user)

    def step(self, timeout: float | None = 10) -> None:
        message = self.socket.recv(timeout)
        if isinstance(message, str):
            self.messages.append(json.loads(message))
        else:
            self.received += message

    def has_taken(self) -> int:
        return max((each["bytes"] for each in self.messages if each["type"] == "taken"), default=0)

    def send_file(self, data: bytes, *, until_taken: int | None = None) -> None:
        """Send as much as the window lets; all of it, or until so many bytes have been taken."""
        window = self.told("ready", seconds=20)["window"]
        sent = 0
        while sent < len(data):
            while sent < len(data) and sent - self.has_taken() < window:
                self.socket.send(data[sent : sent + 65536])
                sent += len(data[sent : sent + 65536])
            if until_taken is not None and self.has_taken() >= until_taken:
                return
            if sent < len(data):
                self.step()
                if self.messages[-1]["type"] == "failed":
                    return

    def outcome(self, *, seconds: float = 30) -> dict[str, Any]:
        """How it ended, as it was told."""
        deadline = time.monotonic() + seconds
        while not (found := [each for each in self.messages if each["type"] in ("done", "failed", "ended")]):
            assert time.monotonic() < deadline, self.messages[-5:]
            with contextlib.suppress(TimeoutError):
                self.step(1)
        return found[0]


@pytest.fixture
def allowed(operator):
    """The rule by which files may go."""
    return policy.create_rule(
        actor="test", name="Files", everybody=True, deeds=["transfer"], targets="all", confirmed=True
    )


@pytest.fixture
def carry(allowed, terminal, demo_instance, operator):
    """Begin a transfer, and open its page: (transfer, carrier)."""
    with contextlib.ExitStack() as exits:

        def begin(direction: str, path: str, **facts: Any) -> tuple[Transfer, Carrier]:
            transfer = transfers.begin(demo_instance, actor=operator, direction=direction, path=path, **facts)
            return transfer, exits.enter_context(contextlib.closing(Carrier(terminal, transfer, operator)))

        yield begin


@pytest.fixture
def upload(carry):
    def do(path: str, data: bytes, **facts: Any) -> tuple[Transfer, dict[str, Any]]:
        transfer, carrier = carry("upload", path, name=facts.pop("name", "file"), size=len(data), **facts)
        with contextlib.suppress(ConnectionClosed):
            if "ready" in _first(carrier):
                carrier.send_file(data)
        return _over(transfer), carrier.outcome()

    return do


@pytest.fixture
def download(carry):
    def do(path: str, **facts: Any) -> tuple[Transfer, dict[str, Any], bytes]:
        transfer, carrier = carry("download", path, **facts)
        outcome = carrier.outcome()
        return _over(transfer), outcome, bytes(carrier.received)

    return do


def _first(carrier: Carrier) -> set[str]:
    while not (kinds := {each["type"] for each in carrier.messages} & {"ready", "failed", "ended"}):
        carrier.step(20)
    return kinds


def _over(transfer: Transfer) -> Transfer:
    ended(transfer.session, seconds=20)
    transfer.refresh_from_db()
    return transfer


def test_ten_megabytes_go_up_and_come_down_as_they_are(upload, download, capsys):
    data = os.urandom(10 * MIB)
    digest = hashlib.sha256(data).hexdigest()
    began = time.monotonic()
    up, told = upload("big", data)
    went_up = time.monotonic() - began
    assert told["type"] == "done" and told["sha256"] == digest
    assert (up.state, up.size, up.sha256) == (TransferState.DONE, 10 * MIB, digest)
    assert up.path.endswith("/big") and up.path.startswith("/")
    began = time.monotonic()
    down, told, received = download("big")
    came_down = time.monotonic() - began
    assert told["type"] == "done" and received == data
    assert (down.state, down.size, down.sha256) == (TransferState.DONE, 10 * MIB, digest)
    with capsys.disabled():
        print(f" up {10 / went_up:.1f} MiB/s, down {10 / came_down:.1f} MiB/s, sessions begun and ended among it")
