"""Terminals on a demo node, through the real endpoint."""

from .conftest import ended, opened


def test_a_shell_on_a_demo_node_answers_and_ends(terminal, demo_instance, operator):
    session = opened(demo_instance, operator)
    browser = terminal.browser(session, operator)
    browser.until(r"[$#] ", seconds=15)
    browser.run("echo $((6*7))", r"[\r\n]42\r\n")
    browser.run("stty size", r"30 100")
    browser.type("exit\r")
    assert browser.told("ended")["text"]
    assert browser.closed()[0] == 4409
    ended(session)
