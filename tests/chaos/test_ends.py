"""Ends that nobody asks for: idle, too long, alone. Each is told, audited, sealed, and carried out at AWS."""

import html
import re

import pytest

from tests.support.stack import A_PAGE, Person, Stack, Terminal, running_stack, until

from .test_kills import assert_audit_verifies, open_shell, recorded

pytestmark = pytest.mark.chaos


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> Stack:
    with running_stack(
        tmp_path_factory.mktemp("fo"),
        FLEETOPS_SESSION_IDLE_MINUTES="0.1",
        FLEETOPS_SESSION_LONGEST_MINUTES="0.15",
        FLEETOPS_SESSION_DETACHED_MINUTES="0.05",
    ) as running:
        yield running


def assert_over(stack: Stack, person: Person, session_id: str, shown: bytes, reason: str) -> None:
    """The session has ended in these words wherever anybody looks, and holds all that was shown."""

    def replay() -> str | None:
        page = html.unescape(person.get(f"/sessions/{session_id}/replay/"))
        return page if "Complete" in page else None

    page = until(replay, seconds=30, what="the recording is sealed to its end", every=A_PAGE)
    assert reason in page
    assert "is not what was sealed" not in page
    assert recorded(person, session_id) == shown
    assert f"terminal ended the session {reason}" in audited(person, session_id)
    ssm_id = re.search(r"AWS session</dt><dd><span class=\"fo-id\">([^<]+)", page)[1]
    until(lambda: status_at_aws(stack, ssm_id) == "Terminated", what="AWS has ended it")


def audited(person: Person, session_id: str) -> str:
    """What the audit page tells of a session, as it reads."""
    page = person.get(f"/audit/?q=session:{session_id}")
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", page)).split())


def status_at_aws(stack: Stack, ssm_id: str) -> str | None:
    asked = {"State": "History", "Filters": [{"key": "SessionId", "value": ssm_id}]}
    return next((each["Status"] for each in stack.boto3("ssm").describe_sessions(**asked)["Sessions"]), None)


@pytest.fixture(scope="module")
def begun(person) -> dict[str, tuple[str, Terminal]]:
    """Shells whose ends are near, opened at once so that they are waited for together."""
    idle, busy, left = (open_shell(person) for _ in range(3))
    busy[1].type("while :; do echo busy; read -t 1 x; done\r")
    terminal = left[1]
    terminal.run("echo last-seen", "last-seen\r")
    terminal.until(rb"[$#] $", since=len(terminal.output) - 60)
    terminal.close()
    return {"idle": idle, "busy": busy, "left": left}


def test_a_session_in_which_nothing_happens_ends_in_words(stack, person, begun):
    session_id, terminal = begun["idle"]
    assert terminal.until_told("ended", seconds=15)["text"] == "Ended after 6 seconds without input or output."
    assert_over(stack, person, session_id, bytes(terminal.output), "Ended after 6 seconds without input or output.")


def test_a_session_that_is_worked_in_ends_at_its_longest_duration(stack, person, begun):
    session_id, terminal = begun["busy"]
    assert terminal.until_told("ended", seconds=25)["text"] == "Ended: a session lasts at most 9 seconds."
    assert_over(stack, person, session_id, bytes(terminal.output), "Ended: a session lasts at most 9 seconds.")


def test_a_session_that_no_browser_comes_back_to_ends_in_words(stack, person, begun):
    session_id, terminal = begun["left"]
    assert_over(stack, person, session_id, bytes(terminal.output), "Ended after 3 seconds without a browser.")
    late = Terminal(person, session_id)
    assert late.until_told("ended")["text"] == "Ended after 3 seconds without a browser."
    assert_audit_verifies(stack)


def test_a_browser_that_comes_back_in_time_finds_its_shell(stack, person):
    session_id, terminal = open_shell(person)
    terminal.run("KEPT=yes; echo set", "set\r")
    terminal.close()
    back = Terminal(person, session_id)
    back.run("echo still-$KEPT", "still-yes")
    back.type("exit\r")
    assert back.until_told("ended")["text"] == "The shell has ended."
