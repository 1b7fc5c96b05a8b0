"""A database that goes away under a shell: keystrokes wait, then the session ends, for nobody could end it any more."""

import contextlib
import html
import tempfile
import time
from pathlib import Path

import pytest

from tests.support.postgres import Postgres, postgres_server
from tests.support.stack import Stack, running_stack, until

from .test_ends import assert_over
from .test_kills import assert_audit_verifies, open_shell

pytestmark = pytest.mark.chaos

HELD = "The database does not answer; what you type waits."
REASON = "FleetOps could not reach its database for 4 seconds, so nobody could be checked."


@pytest.fixture(scope="module")
def postgres() -> Postgres:
    # Not below pytest's directory, which only its own user may walk through: PostgreSQL does not run as root.
    with tempfile.TemporaryDirectory(prefix="fo-pg-") as directory, postgres_server(Path(directory)) as server:
        yield server


@pytest.fixture(scope="module")
def stack(tmp_path_factory, postgres) -> Stack:
    with running_stack(
        tmp_path_factory.mktemp("fo"),
        FLEETOPS_DATABASE_URL=postgres.url,
        FLEETOPS_DATABASE_HOLD_SECONDS="1",
        FLEETOPS_DATABASE_GONE_SECONDS="4",
    ) as running:
        yield running


@pytest.mark.timeout(180)
def test_without_a_database_input_is_held_then_the_session_ends_and_is_whole_once_it_is_back(stack, person, postgres):
    session_id, terminal = open_shell(person)
    terminal.run("echo be''fore", "before\r")

    stopped_at = time.monotonic()
    postgres.stop()
    until(lambda: (step(terminal), any(m.get("text") == HELD for m in terminal.messages))[1], what="input is held")
    assert not any(m.get("type") == "ended" for m in terminal.messages)  # held first, and not yet given up
    terminal.type("echo ne''ver\r")
    assert terminal.until_told("ended", seconds=15)["text"] == REASON
    assert time.monotonic() - stopped_at > 4  # FLEETOPS_DATABASE_GONE_SECONDS
    assert b"never" not in terminal.output

    # AWS is told without the database: what it knows of the account it remembers.
    ssm = stack.boto3("ssm")
    until(lambda: not ssm.describe_sessions(State="Active")["Sessions"], what="AWS has ended it")

    postgres.start()
    until(lambda: is_answering(person), seconds=60, what="pages are back")
    assert_over(stack, person, session_id, bytes(terminal.output), REASON)
    assert_audit_verifies(stack)


@pytest.mark.timeout(120)
def test_a_database_that_is_back_in_time_lets_the_input_through(stack, person, postgres):
    until(lambda: is_answering(person), seconds=60, what="pages are back")
    _, terminal = open_shell(person)
    postgres.stop()
    until(lambda: (step(terminal), any(m.get("text") == HELD for m in terminal.messages))[1], what="input is held")
    terminal.type("echo wai''ted\r")
    postgres.start()
    terminal.until("waited\r", seconds=15)
    terminal.type("exit\r")
    assert terminal.until_told("ended")["text"] == "The shell has ended."


def step(terminal) -> None:
    with contextlib.suppress(TimeoutError):
        terminal.step(0.2)


def is_answering(person) -> bool:
    with contextlib.suppress(OSError):
        return "pay-api" in html.unescape(person.get("/fleet/"))
    return False
