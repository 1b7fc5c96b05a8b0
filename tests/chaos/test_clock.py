"""The whole product under a clock file: days pass while a shell is open, forward and back, and nothing breaks."""

import sqlite3
from datetime import timedelta

import botocore.auth
import pytest

from fleetops import clock
from tests.support.clock import clock_file, following  # noqa: F401
from tests.support.stack import Person, Stack, Terminal, running_stack, until

from .test_ends import assert_over
from .test_kills import NODE, assert_audit_verifies, open_shell

pytestmark = pytest.mark.chaos

HOUR = 3600.0


def open_when_ready(person: Person) -> tuple[str, Terminal]:
    """Open a shell as soon as the node is back with new credentials, and has been read since."""

    def opened() -> tuple[str, Terminal] | None:
        try:
            return open_shell(person, NODE)
        except AssertionError as refused:  # the page says that what is known of the node is hours old
            assert "/sessions/" not in str(refused)
            return None

    return until(opened, seconds=60, what="a shell opens")


def refused_by_the_clock(stack: Stack) -> list[tuple[str, str]]:
    """Calls that the endpoint took for too old or too new, whoever made them: product, workers, nodes."""
    with sqlite3.connect(f"file:{stack.home}/endpoint/endpoint.sqlite3?mode=ro", uri=True) as database:
        wanted = "SELECT name, body FROM endpoint_trailevent WHERE body LIKE ? OR body LIKE ?"
        return database.execute(wanted, ("%Signature expired%", "%Signature not yet current%")).fetchall()


def calls_made(stack: Stack) -> int:
    with sqlite3.connect(f"file:{stack.home}/endpoint/endpoint.sqlite3?mode=ro", uri=True) as database:
        return database.execute("SELECT count(*) FROM endpoint_trailevent").fetchone()[0]


def test_days_pass_forward_and_back_while_a_shell_is_open(tmp_path, following):  # noqa: F811
    clock.sign_by_this(botocore.auth)
    settings = {"FLEETOPS_CLOCK_FILE": str(following), "FLEETOPS_SESSION_LONGEST_MINUTES": "1440"}
    with running_stack(tmp_path / "fo", **settings) as stack:
        person = stack.log_in()
        session_id, terminal = open_when_ready(person)
        began = clock.now()
        terminal.run("KEPT=yes; echo at-first-$KEPT", "at-first-yes")

        clock.set_shift(following, jump=20 * HOUR)
        terminal.run("echo hours-later-$KEPT", "hours-later-yes")
        _, second = open_when_ready(person)
        second.run("echo a-second-$((1+1))", "a-second-2")

        clock.set_shift(following, jump=-30 * HOUR)
        terminal.run("echo the-day-before-$KEPT", "the-day-before-yes")

        clock.set_shift(following, jump=12 * HOUR, rate=600)
        fast_until, number, before = clock.now() + timedelta(hours=1), 0, calls_made(stack)
        while clock.now() < fast_until:
            number += 1
            terminal.run(f"echo fast-{number}-$KEPT", f"fast-{number}-yes")
        until(lambda: calls_made(stack) > before, what="workers and nodes go on calling")
        open_when_ready(person)[1].run("echo a-third-$((1+2))", "a-third-3")

        clock.set_shift(following, jump=(began - clock.now()).total_seconds() + 25 * HOUR, rate=1)
        reason = "Ended: a session lasts at most 24 hours."
        assert terminal.until_told("ended")["text"] == reason
        assert_over(stack, person, session_id, bytes(terminal.output), reason)
        _, last = open_when_ready(person)
        last.run("echo and-$((2+2))", "and-4")
        assert not refused_by_the_clock(stack)
        assert_audit_verifies(stack)
