"""PowerShell sessions, against a simulated Windows agent (windows.py): nobody has run them on a real node yet."""

import json
from types import SimpleNamespace

import pytest

from fleetops.audit.models import AuditEvent
from fleetops.errors import UserError
from fleetops.policy import services as policy
from sessions_app import recording
from sessions_app.commandlog.reconstruct import LineReader

from .conftest import ended, opened, shell_of
from .windows import BANNER, FIRST_SIZE, PROMPT, WindowsShell


class Typing:
    """The console's own end, without a channel: what it shows for each key."""

    def __init__(self) -> None:
        self.shell = WindowsShell("", "", "")
        self.shown: list[bytes] = []
        self.shell.channel = SimpleNamespace(send_output=lambda data, now: self.shown.append(data))

    def key(self, text: str) -> list[bytes]:
        if text:
            self.shell._key(text)
        else:
            self.shell._show(BANNER + PROMPT)
            self.shell._resize(100, 30)
        shown, self.shown[:] = list(self.shown), []
        return shown


AT_PROMPT = r"PS C:\\Windows\\system32> "


@pytest.fixture
def powershell(terminal, gateway, instance, operator):
    """An open session with a browser at its prompt: (session, browser, the agent's end)."""
    gateway.kind = WindowsShell
    instance.platform_type, instance.platform_version = "Windows", "10.0.20348"
    instance.save()
    session = opened(instance, operator)
    browser = terminal.browser(session, operator)
    browser.until(AT_PROMPT)
    yield session, browser, shell_of(gateway, session)
    browser.close()


def cast_of(session) -> tuple[dict, list]:
    """The recording's head and its events."""
    text = b"".join(recording.cast(session, list(session.chunks.all()))).decode()
    head, *events = map(json.loads, text.splitlines())
    return head, events


def test_lines_end_with_cr_lf_and_letters_come_whatever_the_code_page_is(powershell):
    session, browser, shell = powershell
    browser.run("chcp", r"Active code page: 850\r\nPS ")
    browser.run("echo größer als 5 €, 日本語", "\r\ngrößer als 5 €, 日本語\r\nPS ")
    assert bytes(shell.inputs).decode() == "chcp\recho größer als 5 €, 日本語\r"  # Enter is CR and nothing else
    browser.type("exit\r")
    assert browser.told("ended")["text"] == "The shell has ended."
    ended(session)


def test_a_letter_that_is_typed_and_shown_in_pieces_is_whole(powershell):
    _, browser, _ = powershell
    for byte in "echo Größe".encode():
        browser.type(bytes([byte]))
    browser.run("", "\r\nGröße\r\nPS ")
    browser.run("repeat 日 1000", "(?:日+\r\n)+PS ")  # 3,000 bytes, cut every 1,024
    shown = bytes(browser.output).decode()
    assert shown.count("日") == 1000 + 1
    assert "\N{REPLACEMENT CHARACTER}" not in shown


def test_the_console_has_the_size_of_the_window_from_the_first_output_on(powershell):
    _, browser, shell = powershell
    assert FIRST_SIZE not in shell.sizes
    browser.run(r"[Console]::WindowWidth", r"\r\n100\r\nPS ")
    since = len(browser.output)
    browser.send({"type": "size", "cols": 120, "rows": 40})
    browser.until(r"\x1b\[2J[\s\S]*" + AT_PROMPT, since=since)  # painted anew
    browser.run(r"[Console]::WindowWidth", r"\r\n120\r\nPS ")
    assert shell.sizes == [(100, 30), (120, 40)]


def test_ctrl_c_stops_what_runs_and_clears_what_is_typed(powershell):
    _, browser, _ = powershell
    browser.run("Start-Sleep 600", r"Start-Sleep 600\r\n")
    browser.type("\x03")
    browser.run("echo again", r"\r\nagain\r\nPS ")
    browser.type("Remove-Item *")
    browser.until(r"Remove-Item \*")
    browser.type("\x03")
    browser.until(r"\^C\r\n" + AT_PROMPT)
    browser.run("echo kept", r"\r\nkept\r\nPS ")


def test_a_second_browser_sees_the_same_screen(powershell, terminal, operator):
    session, browser, shell = powershell
    browser.run("echo before", r"\r\nbefore\r\nPS ")
    again = terminal.browser(session, operator)
    again.until(r"\r\nbefore\r\nPS ")
    again.run("echo after", r"\r\nafter\r\nPS ")
    again.close()
    assert bytes(shell.inputs) == b"echo before\recho after\r"


def test_the_recording_has_what_was_shown_and_marks_letters_of_a_code_page(powershell):
    """A command that writes into a pipe writes the code page's bytes: they pass as they are, and are no UTF-8."""
    session, browser, _ = powershell
    browser.run("echo größer", "\r\ngrößer\r\nPS ")
    browser.run("raw größer", b"\r\ngr\x94\xe1er\r\n" + PROMPT.encode().replace(b"\\", b"\\\\"))
    browser.type("exit\r")
    browser.told("ended")
    ended(session)
    head, events = cast_of(session)
    shown = "".join(text for _, kind, text in events if kind == "o")
    assert "\r\ngrößer\r\nPS " in shown
    assert "\r\ngr\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}er\r\n" in shown
    assert head["version"] in (2, 3)


@pytest.mark.parametrize("is_console", [True, False])
def test_commands_are_read_off_the_consoles_screen_long_ones_too(is_console):
    """winpty ends each full row with CR LF, as if the line had ended; and no mark of a program comes through it."""
    console = Typing()
    lines = LineReader(*FIRST_SIZE)
    lines.is_console = is_console
    typed = ["echo größer", "repeat 日 200", "echo " + "x" * 150, "nonsense", "echo done"]
    moment = offset = 0
    for text in ["", *(key for line in typed for key in line + "\r")]:
        if text:
            moment += 80_000
            lines.key(moment)
        for data in console.key(text):
            lines.output(data, moment := moment + 5_000, offset)
            offset += len(data)
        if text in ("", "\r"):
            lines.settle(moment := moment + 4_000_000)
        if not text:
            lines.size(100, 30)
    lines.finish()
    found = [line.text for line in lines.take()]
    assert (found == typed) is is_console
    assert len(found) == len(typed)


def test_a_shell_as_another_user_is_not_to_be_had_on_windows(instance, operator):
    """The agent takes no notice of run-as there: the shell would be of ssm-user, who administers the machine."""
    instance.platform_type = "Windows"
    instance.save()
    rule = {"everybody": True, "targets": "all", "confirmed": True}
    policy.create_rule(actor="test", name="App", deeds=["shell", "run_as"], run_as=["app"], **rule)
    with pytest.raises(UserError, match="runs every shell as ssm-user"):
        opened(instance, operator, run_as="app")
    event = AuditEvent.objects.get(action="sessions.open.refuse")
    assert (event.outcome, event.target_id) == ("denied", str(instance.pk))
    instance.platform_type = "Linux"
    instance.save()
    assert opened(instance, operator, run_as="app").run_as == "app"


@pytest.mark.parametrize(
    ("platform_type", "version", "build"),
    [("Windows", "10.0.20348", 20348), ("Windows", "", 1), ("Linux", "10.0.20348", 0), ("MacOS", "14.5", 0)],
)
def test_a_page_says_which_console_it_is(client, instance, operator, platform_type, version, build):
    instance.platform_type, instance.platform_version = platform_type, version
    instance.save()
    session = opened(instance, operator)
    client.force_login(operator, backend="django.contrib.auth.backends.ModelBackend")
    page = client.get(f"/sessions/{session.pk}/").content.decode()
    assert ("data-windows" in page) is bool(build)
    assert not build or f'data-windows="{build}"' in page
