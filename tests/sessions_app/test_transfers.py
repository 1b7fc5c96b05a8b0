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

from fleetops.audit.models import AuditEvent
from fleetops.errors import Denied, FieldError, UserError
from fleetops.policy import services as policy
from fleetops.policy.models import Rule
from sessions_app import grants, recording, services
from sessions_app.states import TransferState
from sessions_app.transfers import services as transfers
from sessions_app.transfers.models import Transfer
from tests.factories import make_instance, make_user

from .conftest import Browser, TerminalProcess, ended, opened, until

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


@pytest.fixture
def shell_there(terminal, demo_instance, operator):
    """A shell on the same node, to look with: (its session, its browser)."""
    session = opened(demo_instance, operator)
    browser = terminal.browser(session, operator)
    browser.until(r"[$#] ", seconds=15)
    yield session, browser
    browser.close()


def left_behind(browser: Browser) -> bytes:
    """What uploads have left in the home of the user that they are not done with."""
    return browser.run("echo left: $(ls -A ~ | grep -c fleetops-) done", r"left: (\d+) done\r\n")[1]


def test_a_name_is_what_it_is_whatever_is_in_it(upload, download, shell_there):
    data = b"\x00\x03\x1b\n" + os.urandom(3000)
    up, told = upload("~/", data, name=NASTY)
    assert (told["type"], told["path"]) == ("done", up.path)
    assert up.path.endswith(f"/{NASTY}") and up.name == NASTY
    down, told, received = download(f"~/{NASTY}")
    assert told["type"] == "done" and received == data and down.name == NASTY
    assert "\n" not in str(down) and NASTY.strip() in str(down)
    _, browser = shell_there
    browser.run("ls -A ~ | grep -c '^[xy]$'; echo seen", r"[\r\n]0\r\nseen")  # nothing in it was carried out


def test_what_cannot_be_is_told_in_words_and_leaves_nothing(upload, download, shell_there):
    _, browser = shell_there
    browser.run("mkdir ~/sub ~/locked; chmod 500 ~/locked; echo one", r"[\r\n]one\r\n")
    browser.run("echo old >~/there; chmod 640 ~/there; echo two", r"[\r\n]two\r\n")
    browser.run("ln -s there ~/link; echo made", r"[\r\n]made\r\n")
    refusals = {
        "there": "There is a file of that name already",
        "link": "There is a file of that name already",
        "nowhere/file": "There is no such folder",
        "locked/file": "permission denied",
        "/etc/hosts": "permission denied",
    }
    for path, words in refusals.items():
        transfer, told = upload(path, b"new")
        assert told["type"] == "failed" and words in told["text"], (path, told)
        assert (transfer.state, transfer.error) == (TransferState.FAILED, told["text"])
    browser.run("mkfifo ~/pipe; echo three", r"[\r\n]three\r\n")
    transfer, told = upload("pipe", b"new", overwrite=True)
    assert "no regular file" in told["text"]
    for path, words in {"nowhere": "There is no such file", "sub": "no regular file"}.items():
        _, told, received = download(path)
        assert words in told["text"] and not received, (path, told)
    browser.run("cat ~/there", r"[\r\n]old\r\n")
    assert left_behind(browser) == b"0"
    transfer, told = upload("sub", b"in the folder", name="inside")
    assert transfer.path.endswith("/sub/inside") and told["type"] == "done"
    transfer, told = upload("there", b"newer", overwrite=True)
    assert told["type"] == "done"
    browser.run("cat ~/there; stat -c %a ~/there", r"newer640\r\n")
    assert upload("empty", b"")[1]["type"] == "done"
    _, told, received = download("empty")
    assert (told["type"], received) == ("done", b"")


def test_who_cancels_leaves_nothing(carry, shell_there):
    _, browser = shell_there
    transfer, carrier = carry("upload", "~/half", name="half", size=4 * MIB)
    carrier.send_file(b"x" * 4 * MIB, until_taken=100_000)
    assert left_behind(browser) == b"1"
    carrier.send({"type": "cancel"})
    told = carrier.outcome()
    assert told["type"] == "failed" and told["cancelled"] and told["text"] == "Cancelled by mei.tanaka."
    assert _over(transfer).state == TransferState.CANCELLED
    until(lambda: left_behind(browser) == b"0", what="it was removed")
    browser.run("ls ~/half", r"No such file|cannot access")
    event = AuditEvent.objects.get(action="sessions.transfer.end")
    assert (event.outcome, event.reason, event.details["direction"]) == ("failed", told["text"], "upload")


def test_a_page_that_is_closed_leaves_nothing(carry, shell_there):
    _, browser = shell_there
    transfer, carrier = carry("upload", "~/half", name="half", size=4 * MIB)
    carrier.send_file(b"x" * 4 * MIB, until_taken=100_000)
    carrier.close()
    assert _over(transfer).error == "The browser went away in the midst of it."
    until(lambda: left_behind(browser) == b"0", what="it was removed")


def test_a_killed_owner_leaves_nothing_and_says_so(carry, terminal, operator, shell_there):
    session, _ = shell_there
    transfer, carrier = carry("upload", "~/half", name="half", size=4 * MIB)
    carrier.send_file(b"x" * 4 * MIB, until_taken=100_000)
    terminal.kill()
    terminal.start()
    assert _over(transfer).state == TransferState.FAILED
    assert transfer.error == "FleetOps was stopped in the midst of the transfer. Begin it again."
    again = terminal.browser(session, operator)
    again.until(r"[$#] ", seconds=20)
    until(lambda: left_behind(again) == b"0", what="it was removed")
    again.run("ls ~/half", r"No such file|cannot access")
    again.close()


def test_a_file_ends_with_the_shell_that_it_was_begun_from(carry, terminal, operator, shell_there):
    session, _ = shell_there
    transfer, carrier = carry("upload", "half", name="half", size=4 * MIB, parent=session)
    carrier.send_file(b"x" * 4 * MIB, until_taken=100_000)
    services.request_end(session, actor=operator)
    told = carrier.outcome(seconds=6)
    assert told["text"] == "Ended: the shell that it was begun from has ended."
    assert _over(transfer).state == TransferState.FAILED
    event = AuditEvent.objects.get(action="sessions.transfer.end")
    assert (event.details["parent"], event.details["path"]) == (str(session.pk), transfer.path)


def test_a_file_goes_by_the_grant_of_its_shell_and_ends_with_it(terminal, demo_instance, operator, allowed):
    allowed.delete()
    Rule.objects.filter(name="Operators and administrators open shells").delete()
    policy.create_rule(
        actor="test",
        name="Asked",
        everybody=True,
        deeds=["shell", "transfer"],
        targets="all",
        approvals=1,
        confirmed=True,
    )
    with pytest.raises(policy.PolicyDenied, match="needs a request"):
        transfers.begin(demo_instance, actor=operator, direction="download", path="/etc/hosts")
    denied = AuditEvent.objects.get(action="sessions.open.refuse")
    assert (denied.details["direction"], denied.details["path"]) == ("download", "/etc/hosts")
    chief = make_user("rhea", role="administrator")
    grant = grants.ask(operator, [demo_instance], grants.Wish(), reason="INC-1", minutes=30)
    grants.vote(grant, actor=chief, approve=True)
    session = opened(demo_instance, operator)
    shell = terminal.browser(session, operator)
    shell.until(r"[$#] ", seconds=15)
    transfer = transfers.begin(
        demo_instance, actor=operator, direction="upload", path="half", name="half", size=4 * MIB, parent=session
    )
    assert (transfer.session.grant, transfer.session.reason) == (grant, "INC-1")
    carrier = Carrier(terminal, transfer, operator)
    carrier.send_file(b"x" * 4 * MIB, until_taken=100_000)
    assert grants.revoke(grant, actor=chief, reason="It is fixed.") == 2
    assert carrier.outcome(seconds=6)["text"] == "Ended: rhea revoked the grant: It is fixed."
    assert _over(transfer).state == TransferState.FAILED
    for each in (carrier, shell):
        each.close()


def test_what_is_recorded_is_facts_and_no_bytes(carry, terminal, operator, shell_there):
    session, browser = shell_there
    data = os.urandom(MIB)
    digest = hashlib.sha256(data).hexdigest()
    transfer, carrier = carry("upload", "noted", name="noted", size=MIB, parent=session)
    carrier.send_file(data)
    assert carrier.outcome()["type"] == "done"
    _over(transfer)
    note = browser.told("note", seconds=10)["note"]
    assert note["type"] == "transfer" and note["sha256"] == digest and note["size"] == MIB
    own = transfer.session
    until(lambda: (own.refresh_from_db(), own.sealed_at)[1], what="its recording is sealed")
    assert own.output_bytes == 0 and sum(chunk.size for chunk in own.chunks.all()) < 20_000
    notes = [text for _, code, text in recording.events(list(own.chunks.order_by("number"))) if code == "m"]
    assert any(digest in each for each in notes)


def test_another_page_does_not_carry_it_too(carry, terminal, operator):
    transfer, carrier = carry("upload", "~/twice", name="twice", size=2 * MIB)
    carrier.send_file(b"x" * 2 * MIB, until_taken=1)
    other = Carrier(terminal, transfer, operator)
    assert other.outcome()["text"] == "It is being carried by another page."
    other.close()
    carrier.send({"type": "cancel"})
    carrier.outcome()


def test_no_file_beyond_the_limit_goes_either_way(demo_instance, operator, upload, home, tmp_path, spool):
    with pytest.raises(UserError, match=r"512 MiB go \(FLEETOPS_TRANSFER_MAX_MIB\)"):
        transfers.begin(
            demo_instance, actor=operator, direction="upload", path="x", name="x", size=transfers.limit_bytes() + 1
        )
    upload("two", b"x" * 2 * MIB)
    small = TerminalProcess(home, tmp_path / "small.log", FLEETOPS_TRANSFER_MAX_MIB="1")
    small.start()
    try:
        transfer = transfers.begin(demo_instance, actor=operator, direction="download", path="two")
        carrier = Carrier(small, transfer, operator)
        assert carrier.outcome()["text"].startswith("The file has 2 MiB; at most 1 MiB go")
        assert not carrier.received and _over(transfer).state == TransferState.FAILED
        carrier.close()
    finally:
        small.stop()


def test_from_another_ones_shell_and_to_windows_no_file_goes(instance, operator, allowed):
    session = opened(instance, make_user("brandon", role="operator"))
    asked = {"actor": operator, "direction": "download", "path": "/etc/hosts"}
    with pytest.raises(Denied, match="a shell of your own"):
        transfers.begin(instance, **asked, parent=session)
    instance.platform_type = "Windows"
    instance.save()
    with pytest.raises(UserError, match="Linux and macOS alone"):
        transfers.begin(instance, **asked)
    assert not Transfer.objects.exists()


@pytest.mark.parametrize(
    ("facts", "field"),
    [
        ({"path": " "}, "path"),
        ({"path": "a\0b"}, "path"),
        ({"path": "x" * 4096}, "path"),
        ({"path": "\ud800"}, "path"),
        ({"name": "a/.."}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"size": None}, "size"),
        ({"size": -1}, "size"),
        ({"direction": "sideways"}, "direction"),
    ],
)
def test_what_cannot_be_asked_for_is_told_by_field(db, facts, field):
    user = make_user("somebody")
    asked = {"direction": "upload", "path": "/srv/x", "name": "x", "size": 1} | facts
    with pytest.raises(FieldError) as error:
        transfers.begin(make_instance(), actor=user, **asked)
    assert list(error.value.fields) == [field]
