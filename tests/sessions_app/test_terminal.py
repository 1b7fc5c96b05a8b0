"""A browser's terminal through a real terminal process: shells, reloads, losses, kills, floods, refusals."""

from sessions_app import services
from sessions_app.states import SessionState

from .conftest import until


def opened(instance, user, **fields):
    return services.open_session(instance, actor=user, **fields)


def ended(session):
    """Wait until the row says so."""
    until(lambda: (session.refresh_from_db(), not session.is_live)[1], what="the session has ended")
    return session


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
    assert told["replay"] == f"/sessions/{session.pk}/replay/"
    assert browser.closed()[0] == 4409
    ended(session)
    assert session.state == SessionState.ENDED
    assert session.sealed_at and session.chain_head
    assert gateway.called("StartSession")[0]["Reason"] == f"fleetops:{session.pk} look around"
