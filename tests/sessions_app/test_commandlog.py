"""The command log as a process: journals read as they grow, places kept with rows, killed at any moment."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from fleetops.clock import now
from sessions_app import spool as spools
from sessions_app import upkeep
from sessions_app.commandlog import process
from sessions_app.commandlog.lag import lag_seconds, written
from sessions_app.commandlog.priority import NICE
from sessions_app.commandlog.process import CommandLog
from sessions_app.journal import Journal
from sessions_app.models import Command, CommandCursor, TerminalSession
from sessions_app.recording import Sealer
from sessions_app.states import SessionKind, SessionState
from tests.factories import make_session, make_user
from tests.support.ends import ends_with_tests
from tests.support.typist import NONCE

from .conftest import until

pytestmark = pytest.mark.django_db(transaction=True)

PROMPT = b"\x1b[?2004hroot@web:~# "
ROOT = Path(__file__).resolve().parents[2]
AUTOGROUP = Path("/proc/self/autogroup")
STANDS_BACK = f"""
import os
from sessions_app.commandlog.priority import stand_back
stand_back()
print(os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0))
if os.path.exists("{AUTOGROUP}"):
    print(open("{AUTOGROUP}").read().split()[-1])
"""


class Shell:
    """A journal as an owner writes it, and a shell that types into it."""

    def __init__(self, session: TerminalSession, *, marks: bool = False, step_us: int = 100_000) -> None:
        self._us = 10**15
        self._step = step_us
        self.journal = Journal(spools.session_directory(session.pk), clock_us=self._clock)
        self.session = session
        self.number = 0
        self.typed = 0
        if marks:
            self.mark("hello", "shell=bash")
        self.prompt(marks=marks)

    def _clock(self) -> int:
        self._us += self._step
        return self._us

    def show(self, data: bytes) -> None:
        self.journal.append_output([(data, self.journal.state.output_sequence + 1)])

    def mark(self, kind: str, fields: str) -> None:
        self.number += 1
        self.show(f"\x1b]7717;{NONCE};{kind};{self.number};{fields}\x07".encode())

    def prompt(self, *, marks: bool = False) -> None:
        if marks:
            self.mark("prompt", "cwd=/root;user=root;exit=0")
        self.show(PROMPT)

    def key(self, echo: bytes) -> None:
        self.typed += 1
        self.journal.append_input(self.typed, self.typed - 1)
        self.show(echo)

    def run(self, text: str, output: bytes = b"", *, marks: bool = False, status: int = 0) -> None:
        for letter in text.encode():
            self.key(bytes([letter]))
        self.key(b"\r\n\x1b[?2004l\r")
        if marks:
            self.mark("command", f"text={text.replace(' ', '%20')};cwd=/root;user=root")
        if output:
            self.show(output)
        if marks:
            self.mark("done", f"exit={status}")
        self.prompt(marks=marks)

    def seal(self, *, end: bool = False) -> None:
        sealer = Sealer(self.session, self.journal)
        while sealer.offset < self.journal.end:
            sealer.seal(self.journal.end)
        if end:
            TerminalSession.objects.filter(pk=self.session.pk).update(
                state=SessionState.ENDED, ended_at=now(), sealed_at=now()
            )


@pytest.fixture(name="session")
def _session(spool, settings):
    return make_session(
        user=make_user("mei.tanaka"),
        owner="127.0.0.1:1:word",
        owner_epoch=1,
        owner_seen_at=now(),
        owner_host=spools.host_name(),
        mark_nonce=NONCE,
    )


@pytest.fixture(name="shell")
def _shell(session):
    shell = Shell(session)
    yield shell
    shell.journal.close()


def read(log: CommandLog | None = None) -> CommandLog:
    """Read all that is there."""
    log = log or CommandLog()
    log._looked_at = -10.0
    while log.round():
        pass
    return log


def texts() -> list[str]:
    return list(Command.objects.order_by("session", "number").values_list("text", flat=True))


def test_a_line_becomes_a_row_as_soon_as_it_is_certain(session, shell):
    shell.run("uname -a", b"Linux\r\n")
    log = read()
    shell.run("ls", b"file\r\n")
    shell.key(b"x")  # the prompt has come to rest, so that `ls` is no half of a longer line
    read(log)
    row = Command.objects.get(text="uname -a")
    assert (row.number, row.source, row.user_name, row.os_user, row.exit_code) == (1, "screen", "mei.tanaka", "", None)
    assert row.started_at.timestamp() * 1e6 == pytest.approx(10**15 + 100_000 + row.time_us, abs=2)
    assert row.ended_at > row.started_at
    assert row.get_absolute_url().endswith(f"/{session.pk}/replay/?t={row.seconds:.3f}")
    assert texts() == ["uname -a", "ls"]


def test_what_the_shell_tells_is_kept_with_directory_user_and_exit_code(session):
    shell = Shell(session, marks=True)
    shell.run("false", marks=True, status=1)
    read()
    row = Command.objects.get()
    assert (row.source, row.text, row.cwd, row.os_user, row.exit_code) == ("marks", "false", "/root", "root", 1)
    assert not row.is_disputed and row.lasted > timedelta(0)


def test_its_process_stands_back_behind_terminals():
    told = subprocess.run(
        [sys.executable, "-c", STANDS_BACK], start_new_session=True, check=True, capture_output=True, text=True
    )
    assert told.stdout.split() == [str(NICE), str(os.SCHED_BATCH), *([str(NICE)] if AUTOGROUP.exists() else [])]


def test_a_line_that_the_screen_did_not_show_is_disputed_and_holds_both(session):
    shell = Shell(session, marks=True)
    for letter in b"rm -rf /":
        shell.key(bytes([letter]))
    shell.key(b"\r\n\x1b[?2004l\r")
    shell.mark("command", "text=ls;cwd=/root;user=root")
    read()
    row = Command.objects.get()
    assert (row.text, row.shown_text, row.is_disputed) == ("ls", "rm -rf /", True)
    assert row.dispute == "The screen showed another line."


def test_a_forged_mark_is_a_notice_and_never_a_command(session, shell):
    shell.run("cat x", b"\x1b]7717;" + b"f" * 32 + b";command;3;text=innocent\x07\r\n")
    shell.key(b"l")
    read()
    forged = Command.objects.get(source="forged")
    assert "Forged mark at byte" in forged.dispute and "does not know the session's secret" in forged.dispute
    assert list(Command.objects.real().values_list("text", flat=True)) == ["cat x"]


def test_values_that_are_named_as_secrets_are_left_out(session, shell, settings):
    settings.COMMAND_MASKS = ["password", "token"]
    shell.run("mysql --password hunter2 -e 'select 1'")
    shell.run("API_TOKEN=abc curl -H 'X-Token: def' https://x")
    shell.run("ls")
    shell.key(b"x")
    read()
    assert texts() == ["mysql --password •••• -e 'select 1'", "API_TOKEN=•••• curl -H 'X-Token: ••••' https://x", "ls"]
    assert list(Command.objects.order_by("number").values_list("is_masked", flat=True)) == [True, True, False]


def test_a_session_that_ended_while_nobody_looked_is_read_to_its_end(session, shell):
    for number in range(5):
        shell.run(f"echo {number}")
    shell.show(b"exit\r\n\x1b[?2004l\r")
    read()
    shell.seal(end=True)
    read()
    session.refresh_from_db()
    assert session.commands_done_at is not None
    assert texts() == [*(f"echo {number}" for number in range(5)), "exit"]
    assert CommandCursor.objects.get().state == {}
    assert written() == 6


def test_without_a_journal_it_reads_the_sealed_chunks(session, shell, settings):
    settings.COMMAND_MASKS = []
    for number in range(3):
        shell.run(f"echo {number}")
        shell.seal()
    shell.show(b"logout\r\n")
    shell.seal(end=True)
    shell.journal.close()
    upkeep.ship_chunks()
    spools.remove(session.pk)
    assert lag_seconds() >= 0
    read()
    session.refresh_from_db()
    assert session.commands_done_at is not None
    assert texts()[:3] == ["echo 0", "echo 1", "echo 2"]
    assert lag_seconds() == 0


def test_it_goes_on_in_the_chunks_where_the_journal_has_lost_its_front(session, shell):
    shell.run("echo first")
    log = read()
    log.close()
    for number in range(60):
        shell.run(f"cat big{number}", b"x" * 40_000 + b"\r\n")
        shell.seal()
    shell.journal.sealed = shell.journal.end
    assert shell.journal.drop_sealed(2 << 20) > 0
    shell.run("echo last")
    shell.key(b"x")
    read()
    assert texts() == ["echo first", *(f"cat big{number}" for number in range(60)), "echo last"]


def test_two_that_write_the_same_session_cannot_double_a_row(session, shell):
    shell.run("echo one")
    first, second = read(), read()
    shell.run("echo two")
    shell.key(b"x")
    read(first)
    read(second)  # finds that its place has moved, and begins again from there
    read(second)
    assert texts() == ["echo one", "echo two"]


def test_another_hosts_recording_is_read_once_that_host_has_been_silent(session, shell):
    shell.run("echo away")
    shell.show(b"exit\r\n")
    shell.seal(end=True)
    shell.journal.close()
    upkeep.ship_chunks()
    spools.remove(session.pk)
    TerminalSession.objects.update(owner_host="elsewhere")
    read()
    assert texts() == []
    TerminalSession.objects.update(ended_at=now() - process.FOREIGN_AFTER - timedelta(seconds=1))
    read()
    session.refresh_from_db()
    assert texts()[:1] == ["echo away"] and session.commands_done_at


def test_a_forward_has_no_commands(session):
    TerminalSession.objects.update(kind=SessionKind.FORWARD, state=SessionState.ENDED, ended_at=now())
    read()
    session.refresh_from_db()
    assert session.commands_done_at and not Command.objects.exists()


def test_a_chunk_that_is_nowhere_is_waited_for_and_then_given_up(session, shell, caplog):
    shell.run("echo here")
    shell.seal(end=True)
    shell.journal.close()
    spools.remove(session.pk)
    log = read()
    session.refresh_from_db()
    assert session.commands_done_at is None
    assert "cannot be read for its commands" in caplog.text
    TerminalSession.objects.update(ended_at=now() - process.GIVEN_UP_AFTER - timedelta(seconds=1))
    log._not_before.clear()
    read(log)
    session.refresh_from_db()
    assert session.commands_done_at


def test_output_that_a_fault_of_ours_meets_is_given_up_too_and_the_others_are_read(session, shell, monkeypatch, caplog):
    shell.run("echo here")
    shell.seal(end=True)
    other = make_session(user=session.user, state=SessionState.OPEN)
    healthy = Shell(other)
    healthy.run("echo other")

    def fault(self, *, is_done=False):
        if self.session.pk == session.pk:
            raise RuntimeError("a fault")
        return save(self, is_done=is_done)

    save = process.Follower.save
    monkeypatch.setattr(process.Follower, "save", fault)
    log = CommandLog()
    read(log)
    session.refresh_from_db()
    assert session.commands_done_at is None and "a fault" in caplog.text
    TerminalSession.objects.filter(pk=session.pk).update(ended_at=now() - process.GIVEN_UP_AFTER - timedelta(seconds=1))
    log._not_before.clear()
    read(log)
    session.refresh_from_db()
    assert session.commands_done_at and texts() == ["echo other"]
    log.close()
    healthy.journal.close()


def test_a_flood_is_read_in_little_time_and_what_follows_it_is_found(session, shell):
    """58 MB of `yes`: what is emulated of it is a few screens."""
    for letter in b"yes":
        shell.key(bytes([letter]))
    shell.key(b"\r\n\x1b[?2004l\r")
    for _ in range(60):
        shell.journal.append_output([(b"y\r\n" * 10_000, shell.journal.state.output_sequence + 1) for _ in range(32)])
    shell.key(b"^C\r\n")
    shell.prompt()
    shell.run("echo after")
    shell.key(b"x")
    log = CommandLog()
    began = time.process_time()
    read(log)
    assert texts() == ["yes", "echo after"]
    print(f"{shell.journal.size / 1e6:.0f} MB in {time.process_time() - began:.1f} s")


@pytest.mark.chaos
def test_killed_at_random_moments_it_neither_loses_nor_doubles_a_row(session, tmp_path, settings):
    """kill -9 of the real process, six times, while somebody types commands that bear numbers."""
    shell = Shell(session, marks=True, step_us=1000)
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "fleetops.settings",
        "FLEETOPS_HOME": str(settings.SPOOL_DIR.parent),
        "FLEETOPS_SPOOL_DIR": str(settings.SPOOL_DIR),
        "FLEETOPS_DATABASE_URL": f"sqlite:///{settings.DATABASES['default']['NAME']}",
    }
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    log = tmp_path / "commandlog.log"
    running: subprocess.Popen | None = None

    def start() -> subprocess.Popen:
        with log.open("ab") as file:
            command = ends_with_tests([sys.executable, ROOT / "manage.py", "commandlog"])
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)

    wanted = []
    for kill in range(6):
        running = start()
        ready_at = log.stat().st_size
        until(lambda at=ready_at: log.read_bytes()[at:].find(b"READY") >= 0, seconds=30, what="it is ready")
        began = Command.objects.count()
        for number in range(dice.randrange(5, 25)):
            wanted.append(f"echo {kill}-{number}")
            shell.run(wanted[-1], b"out\r\n", marks=True)
            time.sleep(dice.random() * 0.03)
        if dice.random() < 0.8:
            until(lambda count=began: Command.objects.count() > count, seconds=20, what="a row was written")
        time.sleep(dice.random() * 0.3)
        running.send_signal(signal.SIGKILL)
        running.wait(5)
    shell.seal(end=True)
    running = start()
    try:
        until(lambda: (session.refresh_from_db(), session.commands_done_at)[1], seconds=30, what="all is read")
    finally:
        running.terminate()
        assert running.wait(10) == 0, log.read_text()[-3000:]
    assert texts() == wanted
    assert set(Command.objects.values_list("source", "is_disputed")) == {("marks", False)}
    assert list(Command.objects.order_by("number").values_list("number", flat=True)) == list(range(1, len(wanted) + 1))
