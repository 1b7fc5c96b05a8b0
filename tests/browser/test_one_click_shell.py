"""The main job: log in, Connect, type, leave; the recording replays it and the audit log shows it."""

import re

import pytest
from playwright.sync_api import Page, expect

from .conftest import log_in

pytestmark = pytest.mark.browser


def screen(page: Page) -> str:
    """What the terminal shows, as text: xterm.js's own rows."""
    return page.evaluate("() => window.fleetopsTerminal.text()")


def wait_for_screen(page: Page, pattern: str) -> None:
    page.wait_for_function(
        "pattern => window.fleetopsTerminal && new RegExp(pattern, 'm').test(window.fleetopsTerminal.text())",
        arg=pattern,
        timeout=20_000,
    )


def connect(page: Page, name: str = "pay-api-eu1a-01") -> None:
    row = page.get_by_role("row").filter(has_text=name)
    expect(row).to_contain_text("Online", timeout=60_000)
    row.get_by_role("button", name="Connect").click()
    page.wait_for_url(re.compile(r"/sessions/[0-9a-f-]{36}/$"))


def test_a_person_connects_types_and_leaves_and_the_recording_and_the_audit_log_tell_of_it(page: Page):
    log_in(page)
    connect(page)
    wait_for_screen(page, r"[$#] $")
    page.keyboard.type("echo $((6*7))\n")
    wait_for_screen(page, r"^42$")
    page.keyboard.type("exit\n")
    expect(page.get_by_text("This session has ended").first).to_be_visible(timeout=15_000)

    page.get_by_role("link", name=re.compile("replay|recording", re.I)).first.click()
    page.wait_for_url("**/replay/**")
    page.get_by_role("button", name=re.compile("^Play")).click()
    page.wait_for_function("() => /^42$/m.test(window.fleetopsReplay.text())", timeout=20_000)

    page.goto("/audit/?q=session:" + re.search(r"/sessions/([0-9a-f-]{36})/", page.url)[1])
    for deed in ("sessions.open", "sessions.start", "sessions.end"):
        expect(page.get_by_text(deed).first).to_be_visible()


def test_a_reload_shows_the_same_shell_with_its_screen(admin: Page):
    connect(admin, "pay-api-eu1b-02")
    wait_for_screen(admin, r"[$#] $")
    admin.keyboard.type("MARK=kept; echo first-$MARK\n")
    wait_for_screen(admin, r"^first-kept$")

    admin.reload()

    wait_for_screen(admin, r"^first-kept$")
    admin.keyboard.type("echo again-$MARK\n")
    wait_for_screen(admin, r"^again-kept$")


def test_the_shell_has_the_size_of_the_window_from_its_first_prompt(admin: Page):
    connect(admin)
    wait_for_screen(admin, r"[$#] $")
    admin.keyboard.type("stty size\n")
    size = admin.evaluate("() => `${window.fleetopsTerminal.rows} ${window.fleetopsTerminal.cols}`")
    wait_for_screen(admin, f"^{size}$")


def test_the_token_of_a_session_never_reaches_the_browser(admin: Page):
    frames: list[str] = []
    admin.on("websocket", lambda socket: socket.on("framereceived", lambda frame: frames.append(str(frame))))
    connect(admin)
    wait_for_screen(admin, r"[$#] $")
    everything = admin.content() + "".join(frames)
    assert frames and "TokenValue" not in everything and "data-channel" not in everything


def test_a_reason_is_one_menu_away_and_is_kept_with_the_session(admin: Page):
    admin.get_by_role("link", name="pay-api-eu1a-01").first.click()
    menu = admin.get_by_label("Connect with a reason")
    expect(menu).to_be_visible()
    menu.press("Enter")
    expect(admin.get_by_label("Reason", exact=True)).to_be_focused()
    admin.keyboard.press("Escape")
    expect(admin.get_by_label("Reason", exact=True)).to_be_hidden()
    menu.press("Enter")
    expect(admin.get_by_label("Reason", exact=True)).to_be_focused()
    admin.keyboard.type("INC-4711: checkout is slow\n")
    admin.wait_for_url(re.compile(r"/sessions/[0-9a-f-]{36}/$"))
    wait_for_screen(admin, r"[$#] $")
    admin.keyboard.type("exit\n")
    expect(admin.get_by_text("This session has ended").first).to_be_visible(timeout=15_000)
    admin.goto("/sessions/")
    expect(admin.get_by_role("cell", name="INC-4711: checkout is slow").first).to_be_visible()


def test_an_instance_that_cannot_be_reached_offers_no_reason_either(admin: Page):
    admin.get_by_role("link", name="pg-report-eu1a-1").first.click()
    expect(admin.get_by_role("button", name="Connect", exact=True)).to_be_disabled()
    expect(admin.get_by_label("Connect with a reason")).to_be_hidden()


@pytest.mark.parametrize(
    "path", ["/fleet/", "/sessions/", "/audit/", "/audit/?q=session:01a2110f-825c-7ec1-a92b-d7e092432285"]
)
@pytest.mark.parametrize("width", [1440, 390])
def test_a_page_fits_its_window_and_works_by_keyboard(admin: Page, path: str, width: int):
    admin.set_viewport_size({"width": width, "height": 900})
    admin.goto(path)
    assert admin.evaluate("() => document.documentElement.scrollWidth") <= width
    admin.keyboard.press("Control+k")
    expect(admin.get_by_role("dialog")).to_be_visible()
    admin.keyboard.press("Escape")
    expect(admin.get_by_role("dialog")).to_be_hidden()
