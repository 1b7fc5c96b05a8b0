"""A browser's terminal through a real terminal process: shells, reloads, losses, kills, floods, refusals."""

import contextlib
import time
import urllib.request
import uuid

import pytest
from django.contrib.sessions.models import Session as LogIn
from django.db import transaction
from django.urls import reverse
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from fleetops.audit.models import AuditEvent
from fleetops.identity.models import User
from fleetops.wire import MessageType, PayloadType
from fleetops.wire.frames import Message, serialize
from sessions_app import recording, services
from sessions_app.models import TerminalSession
from sessions_app.states import SessionState
from tests.factories import make_user

from .conftest import TerminalProcess, ended, opened, shell_of, until


def recorded(session) -> bytes:
    """All output in the recording."""
    pieces = (text for _, code, text in recording.events(list(session.chunks.order_by("number"))) if code == "o")
    return "".join(pieces).encode()


def test_a_shell_answers_and_its_end_is_told_in_words(terminal, gateway, instance, operator):
    session = opened(instance, operator, reason="look around")
    browser = terminal.browser(session, operator)
    assert browser.told("hello")["writable"] is True
    browser.until(r"\$ ")
    browser.run("echo $((6*7))", r"\r\n42\r\n")
    browser.run("stty size", r"30 100")
    browser.type("exit\r")

    told = browser.told("ended")
    assert told["text"] == "The shell has ended."
    assert told["replay"] == reverse("sessions:replay", args=[session.pk])
    assert browser.closed()[0] == 4409
    ended(session)
    assert session.state == SessionState.ENDED
    assert session.sealed_at
    assert recorded(session) == bytes(browser.output)
    assert gateway.called("StartSession")[0]["Reason"] == f"fleetops:{session.pk} look around"
    events = {event.action: event for event in AuditEvent.objects.filter(session_id=str(session.pk))}
    assert {"sessions.open", "sessions.start", "sessions.attach", "sessions.end"} <= set(events)
    assert events["sessions.end"].details["chain_head"] == session.chain_head


def test_a_reload_shows_the_same_shell_with_its_screen(terminal, operator, shell):
    session, browser, _ = shell
    browser.run("MARK=kept; echo first-$MARK", "first-kept")
    browser.close()

    again = terminal.browser(session, operator)
    again.until("first-kept")
    assert again.begin == 0
    again.run("echo again-$MARK", r"again-kept\r\n\$ $")
    again.close()

    third = terminal.browser(session, operator, start=again.offset - 5)
    third.until(r"\$ $")
    assert third.begin == again.offset - 5
    assert bytes(third.output) == bytes(again.output[-5:])
    third.close()


def test_two_browsers_share_a_shell_and_the_last_size_wins(terminal, operator, shell):
    session, browser, agent = shell
    browser.told("people", count=1)
    second = terminal.browser(session, operator, cols=80, rows=24)
    second.told("hello")
    browser.told("people", count=2)
    browser.told("size", cols=80, rows=24)
    second.run("stty size", "24 80")
    browser.until("24 80")
    browser.send({"type": "size", "cols": 120, "rows": 40})
    second.told("size", cols=120, rows=40)
    until(lambda: agent.sizes == [(100, 30), (80, 24), (120, 40)], what="the agent has the sizes")
    browser.messages.clear()
    second.close()
    browser.told("people", count=1)


def test_a_browser_that_sends_thousands_of_sizes_keeps_nobody_waiting(terminal, operator, shell):
    session, browser, _ = shell
    browser.type('stty -echo; while read -r line; do echo "<$line>"; done\r')  # readline would draw for each size
    for number in range(3000):
        browser.send({"type": "size", "cols": 80 + number % 2, "rows": 24})
    browser.send({"type": "size", "cols": 90, "rows": 20})
    browser.run("done", r"<done>", seconds=15)
    until(lambda: (session.refresh_from_db(), (session.cols, session.rows) == (90, 20))[1], what="the size is kept")


def test_an_end_that_somebody_asks_for_comes_at_once_and_in_words(terminal, gateway, operator, shell):
    session, browser, agent = shell
    services.request_end(session, actor=operator)
    assert browser.told("ended")["text"] == "Ended by mei.tanaka."
    ended(session)
    until(lambda: agent.is_over, what="AWS was told")


def test_a_lost_connection_to_the_instance_comes_back_to_the_same_shell(gateway, shell):
    _, browser, agent = shell
    browser.run("MARK=same", r"\$ ")
    gateway.cut(agent)
    browser.told("status", state="reconnecting")
    browser.type("echo typed-while-away-$MARK\r")
    browser.until("typed-while-away-same", seconds=15)
    assert gateway.called("ResumeSession")
    assert bytes(browser.output).count(b"\r\ntyped-while-away-same\r\n") == 1


def test_a_session_that_aws_has_forgotten_ends_in_words(gateway, shell):
    session, browser, agent = shell
    gateway.refuse["ResumeSession"] = (400, "DoesNotExistException", "no such session")
    gateway.cut(agent)
    assert browser.told("ended", seconds=15)["text"] == "AWS has ended the session."
    assert ended(session).state == SessionState.ENDED


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("TargetNotConnected", "not connected to Session Manager"),
        ("AccessDeniedException", "let the account's role allow ssm:StartSession"),
        ("ThrottlingException", "asks for fewer calls"),
    ],
)
def test_a_session_that_cannot_start_says_why(terminal, gateway, instance, operator, code, words):
    gateway.refuse["StartSession"] = (400, code, "no")
    session = opened(instance, operator)
    browser = terminal.browser(session, operator)
    assert words in browser.told("ended")["text"]
    assert browser.closed()[0] == 4409
    assert ended(session).state == SessionState.FAILED
    assert len(gateway.called("StartSession")) == 1
    failed = AuditEvent.objects.get(action="sessions.start.fail")
    assert failed.outcome == "failed"


def test_a_start_that_was_never_answered_leaves_no_shell_behind(terminal, gateway, instance, operator):
    gateway.swallow.add("StartSession")
    session = opened(instance, operator)
    browser = terminal.browser(session, operator)
    assert browser.told("ended")["text"]
    assert ended(session).state == SessionState.FAILED
    (agent,) = gateway.shells.values()
    until(lambda: agent.is_over, what="the unanswered session was ended")


# Who may


def test_a_page_of_somebody_else_cannot_open_a_terminal(terminal, shell, operator):
    session, _, _ = shell
    for origin in (
        "http://evil.example",
        f"http://127.0.0.1:{terminal.port + 1}",
        "null",
        f"http://[::1]:{terminal.page_port}",
    ):
        stranger = terminal.browser(session, operator, origin=origin)
        code, reason = stranger.closed()
        assert (code, reason) == (4403, "Terminals open from FleetOps's own pages only.")
    assert not stranger.output


def test_without_a_log_in_there_is_no_terminal(terminal, shell):
    session, _, _ = shell
    assert terminal.browser(session, None, attach=False).closed() == (4401, "Log in to open a terminal.")


def test_a_session_of_another_user_is_not_there_and_the_try_is_audited(terminal, shell):
    session, _, _ = shell
    stranger = make_user("eve", role="operator")
    assert terminal.browser(session, stranger).closed()[0] == 4404
    assert AuditEvent.objects.get(action="sessions.attach.refuse").actor_name == "eve"


def test_a_reviewer_may_watch_and_not_type(terminal, shell):
    session, browser, agent = shell
    reviewer = make_user("rhea", role="auditor")
    assert terminal.browser(session, reviewer).closed()[0] == 4403
    watching = terminal.browser(session, reviewer, cols=20, rows=5, watch=True)
    assert watching.told("hello")["writable"] is False
    watching.type("echo nobody\r")
    browser.run("echo shown", r"\r\nshown")
    watching.until(r"\r\nshown")
    assert b"nobody" not in agent.inputs
    assert agent.sizes == [(100, 30)]
    assert AuditEvent.objects.filter(action="sessions.watch", actor_name="rhea").count() == 1


def test_a_browser_whose_log_in_ends_is_turned_away_and_the_shell_waits(terminal, operator, shell):
    session, browser, _ = shell
    other = terminal.browser(session, operator)
    other.until(r"\$ ")
    LogIn.objects.get(session_key=other.log_in_key).delete()  # what a log-out in another tab does
    assert other.closed(seconds=6) == (4401, "Your log-in has ended. Log in again to go on.")
    browser.run("echo still", r"\r\nstill")
    event = AuditEvent.objects.get(action="sessions.attach.revoke")
    assert (event.session_id, event.details) == (str(session.pk), {"user": "mei.tanaka"})

    operator.set_password("another horse battery")
    operator.save()
    assert browser.closed(seconds=6)[0] == 4401
    back = terminal.browser(session, operator)
    back.run("echo here", r"\r\nhere")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"is_active": False}, "Ended: the account of mei.tanaka may no longer log in."),
        (
            {"groups": []},
            "Ended: the access policy takes it away. No rule allows mei.tanaka to open a shell on {node}.",
        ),
    ],
)
def test_a_shell_ends_with_the_right_to_have_it(operator, shell, change, words):
    session, browser, agent = shell
    words = words.format(node=session.instance_name)
    if "groups" in change:
        operator.groups.clear()
    else:
        User.objects.filter(pk=operator.pk).update(**change)
    assert browser.told("ended", seconds=6)["text"] == words
    code, reason = browser.closed()
    assert (code, reason) == (4409, words.encode()[:123].decode())  # what a close frame holds
    assert ended(session).end_reason == words
    assert AuditEvent.objects.get(action="sessions.end").reason == words
    until(lambda: agent.is_over, what="AWS was told")


def test_a_reviewer_who_is_none_any_more_sees_nothing_more(terminal, shell):
    session, browser, _ = shell
    reviewer = make_user("rhea", role="auditor")
    watching = terminal.browser(session, reviewer, watch=True)
    watching.told("hello")
    reviewer.groups.clear()
    assert watching.closed(seconds=6) == (4403, "You may no longer watch sessions of others.")
    assert AuditEvent.objects.get(action="sessions.attach.revoke").details == {"user": "rhea"}
    browser.run("echo on", r"\r\non")


def test_no_such_session(terminal, operator):
    assert terminal.browser("00000000-0000-7000-8000-000000000000", operator).closed()[0] == 4404


def test_a_first_message_that_is_no_attach_is_refused(terminal, shell, operator):
    session, _, _ = shell
    for message in ("no json", "[]", '{"type": "size"}', '{"type":"attach","cols":"x"}', b"typed"):
        hasty = terminal.browser(session, operator, attach=False)
        hasty.socket.send(message)
        assert hasty.closed()[0] in (4400, 4408)


def test_a_first_frame_of_10_mb_closes_that_websocket_and_disturbs_nothing_else(terminal, shell, operator):
    session, browser, _ = shell
    before = terminal.memory()
    rude = terminal.browser(session, operator, attach=False)
    with contextlib.suppress(ConnectionClosed):
        rude.socket.send(b"x" * 10_000_000)
    assert rude.closed()[0] in (1009, 1006)
    assert terminal.memory() - before < 3_000_000
    browser.run("echo fine", r"\r\nfine")


def test_a_session_that_is_over_says_so_and_shows_the_way_to_its_recording(terminal, shell, operator):
    session, browser, _ = shell
    browser.type("exit\r")
    ended(session)
    late = terminal.browser(session, operator)
    assert late.told("ended")["replay"] == reverse("sessions:replay", args=[session.pk])
    assert late.closed() == (4409, "The shell has ended.")


# What a gateway may do wrong


def output_frame(sequence: int, payload: bytes, payload_type: int = PayloadType.OUTPUT) -> bytes:
    return serialize(
        Message(MessageType.OUTPUT_STREAM_DATA, sequence, payload, payload_type, uuid.uuid4(), 1_700_000_000_000)
    )


LIES = {
    "rubbish": b"\x00" * 300,
    "cut short": output_frame(0, b"x")[:118],
    "a wrong digest": output_frame(0, b"x")[:-1] + b"y",
    "a wrong length": output_frame(0, b"x") + b"more",
    "a negative number": output_frame(-5, b"x"),
    "a challenge nobody agreed on": output_frame(0, b"{}", PayloadType.ENC_CHALLENGE_REQUEST),
    "a size that goes the other way": output_frame(0, b'{"cols":1,"rows":1}', PayloadType.SIZE),
}


def test_a_gateway_that_lies_ends_its_own_session_in_words_and_no_other(terminal, gateway, shell, instance, operator):
    _, browser, _ = shell
    liars = {}
    for name, lie in LIES.items():
        session = opened(instance, operator)
        gateway.lies[f"fleetops:{session.pk}"] = lie
        liars[name] = terminal.browser(session, operator)
    too_large = opened(instance, operator)
    gateway.lies[f"fleetops:{too_large.pk}"] = b"\x00" * 300_000
    large = terminal.browser(too_large, operator)
    large.told("status", state="reconnecting")
    gateway.lies.pop(f"fleetops:{too_large.pk}")
    large.until(r"\$ ", seconds=15)
    for name, liar in liars.items():
        assert "does not speak the Session Manager protocol" in liar.told("ended", seconds=15)["text"], name
    browser.run("echo fine", r"\r\nfine")


# Floods


def test_ctrl_c_in_a_flood_skips_what_was_not_shown_and_the_recording_has_all_of_it(terminal, shell):
    session, browser, _ = shell
    browser.type("yes 0123456789012345678901234567890123456789012345678901234567890123456789\r")
    browser.until(r"9\r\n0123456789")
    time.sleep(1.5)  # the browser looks away; this is the flood's time, not a wait for something
    browser.type(b"\x03")
    behind = len(browser.output)
    told = browser.told("skipped", why="interrupt")
    browser.until(r"\$ $", since=len(browser.output))
    # What the browser still had to take: its window, and the end that it is shown; not the backlog.
    assert len(browser.output) - behind < 2 * 1024 * 1024
    assert told["bytes"] > 256 * 1024
    browser.run("echo after", r"\r\nafter")
    shown = browser.offset
    browser.type("exit\r")
    browser.told("ended")
    ended(session)
    assert session.output_bytes >= shown
    assert len(recorded(session)) == session.output_bytes
    assert recording.verify(session).is_whole


def test_what_is_asked_for_right_after_a_ctrl_c_is_shown_in_full(shell):
    _, browser, _ = shell
    browser.type(b"\x03")
    browser.until(r"\^C\r\n\$ $")
    browser.type("seq 400000; echo do''ne\r")
    browser.until(r"\r\ndone\r\n", seconds=30)
    numbers = bytes(browser.output).split(b"do''ne\r\n")[1].split(b"done")[0].split()
    assert numbers == [b"%d" % n for n in range(1, 400001)]
    assert not [message for message in browser.messages if message["type"] == "skipped"]


def test_a_browser_that_does_not_read_costs_no_memory_and_misses_nothing(terminal, shell):
    _, browser, _ = shell
    browser.run("seq 500000", r"\r\n500000\r\n\$ $", seconds=30)
    before = terminal.memory()
    browser.type("seq 1500000; echo do''ne\r")
    highest = 0
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        highest = max(highest, terminal.memory())
        time.sleep(0.05)
    assert highest - before < 3_000_000
    browser.until(r"\r\ndone\r\n", seconds=30)
    numbers = bytes(browser.output).split(b"do''ne\r\n")[1].split(b"done")[0].split()
    assert numbers == [b"%d" % n for n in range(1, 1500001)]


def test_one_session_that_floods_leaves_another_its_echo(terminal, instance, operator, shell):
    _, browser, _ = shell
    other = opened(instance, operator)
    flooding = terminal.browser(other, operator)
    flooding.until(r"\$ ")
    flooding.type("yes\r")
    flooding.until(r"y\r\ny\r\n")
    for number in range(20):
        browser.run(f"echo turn-{number}", rf"\r\nturn-{number}\r\n", seconds=3)  # starved, a turn never came
    flooding.type(b"\x03")
    flooding.close()


# Processes


def test_a_process_that_ends_in_order_hands_its_sessions_to_the_next_one(terminal, operator, shell):
    session, browser, _ = shell
    browser.run("MARK=kept", r"\$ ")
    terminal.stop()
    assert browser.closed()[0] == 1012
    session.refresh_from_db()
    assert session.is_live
    assert session.owner_seen_at is None
    terminal.start()
    again = terminal.browser(session, operator, start=browser.offset)
    again.run("echo still-$MARK", "still-kept")
    assert again.begin == browser.offset
    again.close()


def test_kill_9_in_a_flood_loses_nothing_that_was_shown_and_the_shell_goes_on(terminal, operator, shell):
    session, browser, _ = shell
    browser.run("MARK=kept", r"\$ ")
    browser.type("seq 500000; echo do''ne\r")
    browser.until(r"\r\n9\d{4}\r\n")
    terminal.kill()
    browser.closed()
    terminal.start()
    again = terminal.browser(session, operator, start=browser.offset)
    again.until(r"\r\ndone\r\n", seconds=30)
    shown = bytes(browser.output) + bytes(again.output)
    numbers = shown.split(b"do''ne\r\n")[1].split(b"done")[0].split()
    assert numbers == [b"%d" % n for n in range(1, 500001)]
    again.run("echo still-$MARK", "still-kept")
    shown = bytes(browser.output) + bytes(again.output)
    again.type("exit\r")
    again.told("ended")
    ended(session)
    assert recorded(session).startswith(shown)
    assert recording.verify(session).is_whole
    assert AuditEvent.objects.filter(action="sessions.resume", session_id=str(session.pk)).exists()


def test_a_session_that_no_browser_comes_back_for_is_taken_over_all_the_same(terminal, gateway, shell):
    session, _, agent = shell
    session.refresh_from_db()
    epoch = session.owner_epoch
    terminal.kill()
    terminal.start()
    until(lambda: (session.refresh_from_db(), session.owner_epoch > epoch)[1], seconds=12, what="it was taken over")
    until(lambda: agent.send is not None, what="its data channel is open again")


def test_a_process_killed_while_a_session_starts_ends_it_in_words(terminal, gateway, instance, operator):
    session = opened(instance, operator)
    TerminalSession.objects.filter(pk=session.pk).update(owner_epoch=1, owner="127.0.0.1:1:dead")
    browser = terminal.browser(session, operator)
    assert "while the session was being started" in browser.told("ended")["text"]
    assert ended(session).state == SessionState.FAILED


def test_a_browser_that_reaches_the_wrong_process_is_relayed_to_the_right_one(
    terminal, home, tmp_path, operator, shell
):
    session, browser, _ = shell
    second = TerminalProcess(home, tmp_path / "second.log")
    second.start()
    try:
        other = second.browser(session, operator, cols=90, rows=20)
        other.until(r"\$ ")
        other.run("echo relayed", r"\r\nrelayed")
        browser.until(r"\r\nrelayed")
        browser.told("size", cols=90, rows=20)
        session.refresh_from_db()
        assert session.owner_epoch == 1

        terminal.kill()
        assert other.closed()[0] == 1012
        again = second.browser(session, operator, start=other.offset)
        again.run("echo moved", r"\r\nmoved", seconds=15)
        session.refresh_from_db()
        assert session.owner_epoch == 2
        again.type("exit\r")
        assert again.told("ended")["text"] == "The shell has ended."
        assert again.closed()[0] == 4409
    finally:
        second.stop()


def test_a_relayed_browser_is_turned_away_too(terminal, home, tmp_path, operator, shell):
    session, _, _ = shell
    second = TerminalProcess(home, tmp_path / "second.log")
    second.start()
    try:
        other = second.browser(session, operator)
        other.until(r"\$ ")
        LogIn.objects.get(session_key=other.log_in_key).delete()
        assert other.closed(seconds=6)[0] == 4401
    finally:
        second.stop()


def test_the_relay_door_opens_to_nobody_without_its_word(terminal, shell):
    session, _, _ = shell
    session.refresh_from_db()
    host, port, _ = session.owner.split(":")
    with pytest.raises(InvalidStatus), connect(f"ws://{host}:{port}/relay", proxy=None):
        pass


def test_the_health_check_answers(terminal):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{terminal.port}/healthz", timeout=5) as answer:
        assert answer.read() == b"ok\n"


def test_a_full_quota_drops_what_is_recorded_tells_the_reader_and_loses_nothing_of_the_recording(
    home, tmp_path, valkey, spool, gateway, instance, operator
):
    process = TerminalProcess(home, tmp_path / "small.log", FLEETOPS_SESSION_QUOTA_MIB="8")
    process.start()
    try:
        session = opened(instance, operator)
        browser = process.browser(session, operator)
        browser.until(r"\$ ")
        browser.type("seq 4000000; echo do''ne\r")
        browser.until(r"\r\n1000\r\n")
        until(lambda: (session.refresh_from_db(), session.output_bytes > 25_000_000)[1], seconds=40, what="it floods")
        told = browser.told("skipped", why="quota", seconds=20)
        assert told["bytes"] > 0
        browser.until(r"\r\ndone\r\n", seconds=20)
        browser.type("exit\r")
        browser.told("ended")
        ended(session)
        shown = b"".join(recorded(session).split(b"do''ne\r\n")[1].split(b"done")[0].split())
        assert shown == b"".join(b"%d" % n for n in range(1, 4000001))
        size = sum(path.stat().st_size for path in (spool / str(session.pk)).glob("*.seg"))
        assert size <= 8 << 20
    finally:
        process.stop()


def test_watching_starts_no_session(terminal, gateway, instance, operator):
    session = opened(instance, operator)
    reviewer = make_user("rhea", role="auditor")
    assert "nothing to watch" in terminal.browser(session, reviewer, watch=True).closed()[1]
    assert not gateway.called("StartSession")


def test_without_its_database_keystrokes_wait_until_it_is_back(
    home, tmp_path, valkey, spool, gateway, instance, operator
):
    """SQLite's write lock, held by the test, keeps the beat waiting as a lost server would."""
    process = TerminalProcess(home, tmp_path / "held.log")
    process.start()
    try:
        session = opened(instance, operator)
        browser = process.browser(session, operator)
        browser.until(r"\$ ")
        agent = shell_of(gateway, session)
        with transaction.atomic():
            TerminalSession.objects.filter(pk=session.pk).update(reason="locked")
            browser.told("status", state="open", text="The database does not answer; what you type waits.")
            browser.type("echo wai''ted\r")
            with contextlib.suppress(TimeoutError):
                browser.step(0.3)
            assert b"echo" not in agent.inputs
        browser.until(r"\r\nwaited", seconds=15)
    finally:
        process.stop()
