"""Strict logging on a demo node: a line is in CloudWatch Logs before the shell has it, or what was chosen happens."""

import json
import re

import pytest

from fleetops.aws.clients import forget_clients
from sessions_app.delivery import services as deliveries
from sessions_app.models import TerminalSession
from sessions_app.strict import HELD, line_at_cursor
from tests.support.faults import Faults

from .conftest import TerminalProcess, ended, opened

PUT = {"service": "logs", "operation": "PutLogEvents"}


@pytest.fixture(scope="module")
def shared_terminal(home, tmp_path_factory, valkey):
    log = tmp_path_factory.mktemp("terminal") / "terminal.log"
    process = TerminalProcess(home, log, FLEETOPS_STRICT_SECONDS="1.5")
    yield process
    process.stop()
    assert "Traceback" not in log.read_text(), log.read_text()[-6000:]


@pytest.fixture
def faults(demo_endpoint):
    faults = Faults(demo_endpoint)
    yield faults
    faults.delete()


@pytest.fixture
def strict(terminal, demo_instance, operator):
    """Open a shell whose account holds lines so; gives (session, browser)."""
    browsers = []

    def open_shell(policy: str):
        deliveries.change(demo_instance.account, {"strict": policy}, actor="tests")
        session = opened(demo_instance, operator)
        browser = terminal.browser(session, operator)
        browsers.append(browser)
        browser.until(r"[$#] $")
        return session, browser

    yield open_shell
    for browser in browsers:
        browser.close()
    forget_clients()


def put(demo_instance, session: TerminalSession) -> list[dict]:
    """What is in the session's stream at this moment, of lines that were held."""
    from fleetops.aws import logs

    row = session.log_delivery
    where = {"group": row.log_group, "stream": row.log_stream, "session_name": "tests"}
    found = logs.read_events(demo_instance.account.access(), session.region, from_ms=0, to_ms=2**42, **where)
    events = [json.loads(text) for text in found]
    return [event["input"] for event in events if event["fleetops"]["event"] == "input"]


def commands(demo_instance, session) -> list[str]:
    """The lines without their prompts."""
    return [re.split(r"[$#] ", each["line"], maxsplit=1)[-1] for each in put(demo_instance, session)]


def test_a_line_is_in_the_log_when_its_output_comes_also_as_it_was_edited(strict, demo_instance):
    session, browser = strict("pass")
    browser.run("echo hello-$((40+2))", r"hello-42\r\n(?s:.*)[$#] $")  # its prompt too: keys before it are echoed raw
    assert commands(demo_instance, session) == ["echo hello-$((40+2))"]
    browser.type("echo ad")
    browser.until("echo ad")
    browser.type("\x1b[D\x1b[Dre\x05\x7f\x7fady\r")  # two to the left, re, to the end, two away, ady
    browser.until("ready\r")
    assert commands(demo_instance, session)[1:] == ["echo ready"]


def test_of_a_paste_each_line_is_held_in_its_turn(strict, demo_instance):
    session, browser = strict("end")
    browser.type("echo one-$((1))\recho two-$((2))\recho three-$((3))\r")
    browser.until("three-3")
    assert commands(demo_instance, session) == ["echo one-$((1))", "echo two-$((2))", "echo three-$((3))"]
    shown = bytes(browser.output)
    assert shown.index(b"one-1") < shown.index(b"two-2") < shown.index(b"three-3")


def test_a_ctrl_c_throws_away_what_waits_and_the_browser_is_heard_meanwhile(strict, demo_instance, faults):
    session, browser = strict("pass")
    with faults.on("latency", match=PUT, seconds=1.2):
        browser.type("".join(f"echo pasted-$(({n}))\r" for n in range(30)))
        browser.told("status", state="open", text=HELD)
        browser.send({"type": "ping"})
        browser.told("pong")
        browser.type("\x03")
        browser.until(rb"(?s)\^C.*[$#] $")  # what is typed before the shell reads again is lost with the rest
    browser.run("echo alone-$((1))", "alone-1")
    assert b"pasted-29" not in browser.output
    assert commands(demo_instance, session)[-1] == "echo alone-$((1))" and len(commands(demo_instance, session)) < 30


def test_what_is_typed_unseen_is_not_in_the_log(strict, demo_instance):
    session, browser = strict("pass")
    browser.run("stty -echo; printf 'Pass''word: '; read word; stty echo; echo got-${#word}", "Password: ")
    browser.type("hunter2\r")
    browser.until("got-7")
    told = put(demo_instance, session)
    assert told[1]["line"] == "Password:" and "hunter2" not in json.dumps(told)


def test_a_throttle_lets_the_line_pass_with_a_note_and_says_so_meanwhile(strict, demo_instance, faults):
    session, browser = strict("pass")
    browser.run("echo before-$((1))", "before-1")
    with faults.on("error", match=PUT, code="ThrottlingException", status=400):
        browser.type("echo passed-$((2))\r")
        browser.told("status", state="open", text=HELD)
        note = browser.told("note")["note"]
        assert note["type"] == "unconfirmed" and "asks for fewer calls" in note["why"]
        browser.until("passed-2")
    browser.run("echo after-$((3))", "after-3")
    assert commands(demo_instance, session) == ["echo before-$((1))", "echo after-$((3))"]
    assert browser.messages[-1].get("text") != HELD


def test_or_it_ends_the_session_in_words_and_the_line_is_never_sent(strict, demo_instance, faults):
    session, browser = strict("end")
    browser.run("echo before-$((1))", "before-1")
    with faults.on("error", match=PUT, code="AccessDeniedException", status=400):
        browser.type("touch /tmp/was-sent; echo was-$((2))\r")
        text = browser.told("ended")["text"]
    assert text.startswith("Ended: CloudWatch Logs did not confirm a line in time.") and "logs:PutLogEvents" in text
    assert ended(session).end_reason == text[:256]
    assert b"was-2" not in browser.output


def test_a_lost_answer_is_looked_for_and_the_line_is_there_once(strict, demo_instance, faults):
    session, browser = strict("end")
    browser.run("echo before-$((1))", "before-1")
    with faults.on("drop", match=PUT, when="after", times=1):
        browser.run("echo lost-$((2))", "lost-2")
    assert commands(demo_instance, session) == ["echo before-$((1))", "echo lost-$((2))"]
    assert not [message for message in browser.messages if message["type"] == "note"]


def test_other_accounts_sessions_are_not_held(strict, demo_instance, faults):
    session, browser = strict("")
    with faults.on("error", match=PUT, code="ThrottlingException", status=400):
        browser.run("echo free-$((1))", "free-1")
    assert not hasattr(session, "log_delivery")


@pytest.mark.parametrize(
    ("output", "line", "is_full_screen"),
    [
        (b"motd\r\n\x1b[32m$ \x1b[0mls -la", "$ ls -la", False),
        (b"$ echo ab\x1b[D\x1b[4hX\x1b[4l", "$ echo aXb", False),
        (b"$ lss\x08\x1b[K -l", "$ ls -l", False),
        (b"x" * 30 + b"\r\n$ " + b"abcdefghij" * 3, "$ " + "abcdefghij" * 3, False),
        (b"$ vi\r\n\x1b[?1049h\x1b[2J\x1b[H~\r\n~\x1b[10;1H:!rm -rf x", ":!rm -rf x", True),
        (b"$ vi\r\n\x1b[?1049h\x1b[2J\x1b[?1049l$ ls", "$ ls", False),
        (b"", "", False),
    ],
)
def test_the_line_is_what_stands_where_the_cursor_is(output, line, is_full_screen):
    assert line_at_cursor(output, 20, 12) == (line, is_full_screen)
