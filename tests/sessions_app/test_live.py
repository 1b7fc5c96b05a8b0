"""Others at a live session: they watch, join, moderate and say something; and when it ends is told beforehand."""

import hashlib
import socket
from datetime import timedelta

import pytest

from fleetops.audit.models import AuditEvent
from fleetops.clock import now, set_shift
from fleetops.errors import UserError
from fleetops.identity import tokens
from fleetops.policy import services as policy
from fleetops.policy.models import Rule
from fleetops.policy.services import PolicyDenied
from sessions_app import live, recording, services
from sessions_app.models import SessionMessage, TerminalSession
from tests.factories import make_session, make_user

from .conftest import TerminalProcess, ended, opened, shell_of, until


@pytest.fixture
def rhea(operator):
    """An auditor: sees everybody's sessions and opens no shell."""
    return make_user("rhea", role="auditor")


@pytest.fixture
def amara(operator):
    """An administrator: watches, and opens shells."""
    return make_user("amara", role="administrator")


def notes(browser) -> list[str]:
    return [message["note"]["text"] for message in browser.messages if message["type"] == "note"]


def recorded_notes(session) -> list[str]:
    chunks = list(session.chunks.order_by("number"))
    return [text for _, code, text in recording.events(chunks) if code == "m"]


def people(session) -> list[tuple[str, str]]:
    session.refresh_from_db()
    return sorted((each["name"], each["mode"]) for each in session.people)


def noted(browser, text: str) -> None:
    """Read until that note has come."""
    until(lambda: text in notes(browser) or browser.step(10), what=f"the note “{text}”; {notes(browser)}")


def test_who_watches_is_told_and_recorded_and_so_is_that_they_left(terminal, shell, rhea):
    session, browser, _ = shell
    watching = terminal.browser(session, rhea, watch=True)
    watching.told("hello", you={"id": str(rhea.pk), "name": "rhea", "mode": "watch"})
    noted(browser, "rhea watches.")
    told = browser.told("people", count=2)
    assert [(each["name"], each["mode"]) for each in told["people"]] == [("mei.tanaka", "own"), ("rhea", "watch")]
    until(lambda: people(session) == [("mei.tanaka", "own"), ("rhea", "watch")], what="the pages know who is there")
    watching.close()
    noted(browser, "rhea has left.")
    until(lambda: people(session) == [("mei.tanaka", "own")], what="the pages know that she left")
    browser.type("exit\r")
    browser.told("ended")
    assert recorded_notes(ended(session)) == ["rhea watches.", "rhea has left."]


def test_who_reloads_the_page_has_not_left(terminal, shell, rhea):
    session, browser, _ = shell
    first = terminal.browser(session, rhea, watch=True)
    noted(browser, "rhea watches.")
    first.close()
    second = terminal.browser(session, rhea, watch=True)
    second.told("hello")
    second.close()
    noted(browser, "rhea has left.")
    assert notes(browser) == ["rhea watches.", "rhea has left."]


def test_a_second_driver_joins_by_policy_and_it_is_told_who_types(terminal, shell, amara):
    session, browser, agent = shell
    joined = terminal.browser(session, amara, cols=70, rows=20, join=True)
    assert joined.told("hello")["writable"] is True
    joined.until(r"\$ ")
    assert agent.sizes == [(100, 30)]  # who joins does not change the size by coming
    noted(browser, "amara has joined and may type.")
    joined.run("echo by-amara", r"\r\nby-amara")
    browser.until(r"\r\nby-amara")
    browser.run("echo by-mei", r"\r\nby-mei")
    joined.until(r"\r\nby-mei")
    noted(browser, "mei.tanaka types.")
    assert notes(browser) == ["amara has joined and may type.", "amara types.", "mei.tanaka types."]
    assert (
        AuditEvent.objects.filter(action="sessions.join", actor_name="amara", session_id=str(session.pk)).count() == 1
    )
    joined.run("stty size", "30 100")
    joined.send({"type": "size", "cols": 70, "rows": 20})
    browser.told("size", cols=70, rows=20)


def test_whom_the_policy_does_not_let_open_a_shell_there_may_not_join(terminal, shell, rhea):
    session, browser, agent = shell
    code, reason = terminal.browser(session, rhea, join=True).closed()
    assert code == 4403 and "open a shell" in reason
    assert AuditEvent.objects.get(action="sessions.attach.refuse").actor_name == "rhea"
    with pytest.raises(PolicyDenied):
        live.require_joining(session, actor=rhea)
    browser.run("echo alone", r"\r\nalone")
    assert b"rhea" not in agent.inputs and not notes(browser)


def test_a_stranger_neither_joins_nor_learns_that_there_is_a_session(terminal, shell):
    session, _, _ = shell
    assert terminal.browser(session, make_user("eve", role="operator"), join=True).closed()[0] == 4404


def test_a_second_driver_is_turned_away_with_the_right_to_be_one_and_the_shell_goes_on(terminal, shell, amara):
    session, browser, _ = shell
    joined = terminal.browser(session, amara, join=True)
    joined.until(r"\$ ")
    rule = Rule.objects.get(name="Auditors and administrators read recordings and watch")
    policy.set_enabled(rule, False, actor=amara)
    code, reason = joined.closed(seconds=6)
    assert code == 4403 and reason.startswith("Taken away by the access policy.")
    browser.run("echo still", r"\r\nstill")


def test_a_shell_that_needs_a_moderator_takes_no_keys_until_one_watches_and_none_once_they_left(
    terminal, gateway, instance, operator, rhea
):
    session = opened(instance, operator)
    TerminalSession.objects.filter(pk=session.pk).update(needs_moderator=True)
    browser = terminal.browser(session, operator)
    browser.told("status", state="open", text=live.NO_MODERATOR)
    browser.told("people", held=True)
    agent = shell_of(gateway, session)
    own = terminal.browser(session, operator, watch=True)  # nobody moderates themselves
    own.told("people", held=True, count=2)
    browser.type("echo un''seen\r")
    with pytest.raises(AssertionError):
        browser.until("unseen", seconds=1)
    assert b"echo" not in agent.inputs

    watching = terminal.browser(session, rhea, watch=True)
    browser.told("people", held=False)
    browser.type("echo se''en\r")
    browser.until(r"\r\nseen")
    assert b"un''seen" not in agent.inputs  # nor is it done behind the moderator's back as they come
    watching.close()
    browser.messages.clear()
    browser.told("status", state="open", text=live.NO_MODERATOR)
    browser.type("echo aga''in\r")
    with pytest.raises(AssertionError):
        browser.until("again", seconds=1)
    browser.close()
    own.close()
    services.request_end(session, actor=operator)
    assert recorded_notes(ended(session))[:4] == [
        live.NO_MODERATOR,
        "rhea watches.",
        "rhea moderates; input goes through.",
        live.NO_MODERATOR,
    ]


def test_a_message_is_shown_to_everybody_there_recorded_and_audited(terminal, shell, rhea):
    session, browser, agent = shell
    watching = terminal.browser(session, rhea, watch=True)
    watching.told("hello")
    session.refresh_from_db()
    message = live.send_message(session, actor=rhea, text="  Please stop:\nthere is a freeze. ")
    noted(browser, "rhea: Please stop: there is a freeze.")
    noted(watching, "rhea: Please stop: there is a freeze.")
    until(lambda: SessionMessage.objects.get(pk=message.pk).shown_at, what="it counts as shown")
    event = AuditEvent.objects.get(action="sessions.message")
    assert (event.actor_name, event.details) == ("rhea", {"text": "Please stop: there is a freeze."})
    assert b"freeze" not in agent.inputs and b"freeze" not in browser.output
    browser.type("exit\r")
    browser.told("ended")
    assert "rhea: Please stop: there is a freeze." in recorded_notes(ended(session))
    with pytest.raises(UserError, match="not open"):
        live.send_message(session, actor=rhea, text="too late")


def test_a_message_needs_words_and_the_right_to_watch(terminal, shell, rhea):
    session, _, _ = shell
    session.refresh_from_db()
    with pytest.raises(UserError, match="Write what"):
        live.send_message(session, actor=rhea, text=" \n ")
    with pytest.raises(PolicyDenied):
        live.send_message(session, actor=make_user("eve", role="operator"), text="hello")
    assert not SessionMessage.objects.exists()


def test_a_message_reaches_who_another_process_serves_under_their_own_names(terminal, home, tmp_path, shell, rhea):
    session, browser, _ = shell
    second = TerminalProcess(home, tmp_path / "second.log")
    second.start()
    try:
        watching = second.browser(session, rhea, watch=True)
        watching.until(r"\$ ")
        noted(browser, "rhea watches.")
        session.refresh_from_db()
        live.send_message(session, actor=rhea, text="from afar")
        noted(watching, "rhea: from afar")
    finally:
        second.stop()


def test_when_a_session_ends_is_told_in_seconds_from_now(terminal, gateway, instance, operator, settings):
    session = opened(instance, operator)
    TerminalSession.objects.filter(pk=session.pk).update(deadline_at=now() + timedelta(minutes=10))
    browser = terminal.browser(session, operator)
    browser.until(r"\$ ")
    told = until(
        lambda: (
            next((m for m in browser.messages if m["type"] == "deadlines" and m["longest"]), None) or browser.step(10)
        ),
        what="the deadlines with a start",
    )
    assert 0 < told["idle"] <= told["idle_of"] == settings.SESSION_IDLE_SECONDS
    assert 0 < told["longest"] <= told["longest_of"] == settings.SESSION_LONGEST_SECONDS
    assert 0 < told["grant"] <= 600
    assert told["grant"] <= told["grant_of"] <= 660


def test_the_message_of_the_day_is_noted_in_each_recording(home, tmp_path, valkey, spool, gateway, instance, operator):
    process = TerminalProcess(home, tmp_path / "motd.log", FLEETOPS_MESSAGE_OF_THE_DAY="Change freeze\nuntil Friday")
    process.start()
    try:
        session = opened(instance, operator)
        browser = process.browser(session, operator)
        browser.until(r"\$ ")
        assert b"freeze" not in browser.output
        browser.type("exit\r")
        browser.told("ended")
        assert recorded_notes(ended(session)) == ["Change freeze until Friday"]
    finally:
        process.stop()


def test_a_browser_that_asks_whether_anybody_is_there_is_answered(shell):
    _, browser, _ = shell
    browser.send({"type": "ping"})
    browser.told("pong")


def test_a_laptop_that_slept_for_ten_minutes_comes_back_to_the_same_screen(
    home, tmp_path, valkey, spool, gateway, instance, operator
):
    clock = tmp_path / "clock.json"
    set_shift(clock)
    process = TerminalProcess(home, tmp_path / "asleep.log", FLEETOPS_CLOCK_FILE=str(clock))
    process.start()
    try:
        session = opened(instance, operator)
        browser = process.browser(session, operator)
        browser.until(r"\$ ")
        browser.run("MARK=kept; (sleep 1; seq 20000; echo do''ne) &", r"\$ ")
        browser.socket.socket.shutdown(socket.SHUT_RDWR)  # cut off without a word: no close frame
        set_shift(clock, jump=600)
        again = process.browser(session, operator, start=browser.offset)
        again.until(r"\r\ndone\r\n", seconds=15)
        assert again.begin == browser.offset
        numbers = [line for line in bytes(again.output).split() if line.isdigit() and len(line) > 2]
        assert numbers == [b"%d" % n for n in range(100, 20001)]
        again.run("echo still-$MARK", "still-kept")
    finally:
        process.stop()


def test_a_paste_of_a_megabyte_arrives_byte_for_byte(terminal, demo_instance, operator):
    session = opened(demo_instance, operator)
    browser = terminal.browser(session, operator)
    browser.until(r"[$#] ", seconds=15)
    text = b"".join(b"%06d %s\n" % (n, hashlib.sha256(b"%d" % n).hexdigest().encode()) for n in range(15_000))
    assert len(text) > 1 << 20
    browser.run(f"stty raw -echo; echo rea''dy; head -c {len(text)} | sha256sum; stty sane", "ready")
    for at in range(0, len(text), 32768):
        browser.type(text[at : at + 32768])
    browser.until(hashlib.sha256(text).hexdigest(), seconds=60)
    browser.type("exit\r")
    ended(session)


# Pages


def test_who_may_watch_writes_to_a_session_on_its_page(client, terminal, shell, rhea):
    session, browser, _ = shell
    client.force_login(rhea, backend="django.contrib.auth.backends.ModelBackend")
    page = client.get(f"/sessions/{session.pk}/message/")
    assert "What do you want to tell mei.tanaka?" in page.content.decode()
    answer = client.post(f"/sessions/{session.pk}/message/", {"text": " "})
    assert answer.status_code == 400 and "Write what is to be said." in answer.content.decode()
    answer = client.post(f"/sessions/{session.pk}/message/", {"text": "on its page"})
    assert answer.status_code == 302
    noted(browser, "rhea: on its page")
    assert (
        client.post(f"/sessions/{session.pk}/message/", {"text": ""}, headers={"accept": "text/plain"}).status_code
        == 409
    )


@pytest.mark.django_db
def test_a_pane_is_the_part_of_a_page_and_says_when_it_is_over(client, roles):
    user = make_user("mei", role="operator")
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    session = make_session(user=user, state="open")
    part = client.get(f"/sessions/{session.pk}/pane/").content.decode()
    assert part.count("<section") == 2 and "<html" not in part and str(session.pk) in part
    TerminalSession.objects.filter(pk=session.pk).update(state="ended", end_reason="The shell has ended.")
    over = client.get(f"/sessions/{session.pk}/pane/")
    assert (over.status_code, over.content) == (410, b"The shell has ended.")


@pytest.mark.django_db
def test_a_window_of_terminals_opens_another_session_without_leaving(client, roles, instance):
    user = make_user("mei", role="operator")
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    answer = client.post("/sessions/open/", {"instance": str(instance.pk)}, headers={"accept": "application/json"})
    assert TerminalSession.objects.get(pk=answer.json()["id"]).user == user
    policy.create_rule(
        actor="test", name="No", effect="deny", everybody=True, targets="all", deeds=["shell"], confirmed=True
    )
    refused = client.post("/sessions/open/", {"instance": str(instance.pk)}, headers={"accept": "application/json"})
    assert refused.status_code == 409 and "No" in refused.json()["problem"]
    assert refused.json()["needs_reason"] is False


def test_a_program_reads_who_is_there_and_says_something_to_them(client, terminal, shell, rhea):
    session, browser, _ = shell
    watching = terminal.browser(session, rhea, watch=True)
    watching.told("hello")
    until(lambda: len(people(session)) == 2, what="the pages know who is there")
    expires = now() + timedelta(days=1)
    scopes = ["sessions:read", "sessions:message"]
    _, key = tokens.create(rhea, actor=rhea, name="bot", scopes=scopes, networks=[], expires_at=expires)
    headers = {"authorization": f"Bearer {key}"}
    there = client.get(f"/api/v1/sessions/{session.pk}/", headers=headers).json()["people"]
    assert [(each["name"], each["mode"]) for each in there] == [("mei.tanaka", "own"), ("rhea", "watch")]
    url = f"/api/v1/sessions/{session.pk}/messages/"
    said = client.post(url, {"text": "by a program"}, content_type="application/json", headers=headers)
    assert (said.status_code, said.json()["author"]) == (201, "rhea")
    noted(browser, "rhea: by a program")
