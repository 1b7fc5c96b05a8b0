"""Several shells in one window, and several people at one shell."""

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from .test_one_click_shell import connect, wait_for_screen
from .test_terminal_page import PASTE, part, run

pytestmark = pytest.mark.browser

OTHER_PASSWORD = "another long password 42"
SECOND_PERSON = f"""
from django.contrib.auth.models import Group
from fleetops.identity.models import User
user = User.objects.create_user("amara", password="{OTHER_PASSWORD}")
user.groups.add(Group.objects.get(name="administrator"))
"""


def panes(page: Page, count: int) -> None:
    page.wait_for_function(
        "count => fleetopsTerminal.panes.length === count && fleetopsTerminal.panes.every(pane => pane.link.isOpen)",
        arg=count,
        timeout=20_000,
    )


def pane_shows(page: Page, number: int, pattern: str) -> None:
    page.wait_for_function(
        "([number, pattern]) => new RegExp(pattern, 'm').test(fleetopsTerminal.panes[number].text())",
        arg=[number, pattern],
        timeout=20_000,
    )


def text_of(page: Page, number: int) -> str:
    return page.evaluate("number => fleetopsTerminal.panes[number].text()", number)


def test_a_window_is_divided_types_into_all_its_shells_and_stands_again_after_a_reload(admin: Page):
    connect(admin)
    wait_for_screen(admin, r"[$#] $")
    run(admin, "echo first-$((1+1))", "^first-2$")
    admin.keyboard.press("Control+Shift+D")
    panes(admin, 2)
    wait_for_screen(admin, r"[$#] $")  # the new one has the keys
    run(admin, "echo second-$((1+1)); bind 'set enable-bracketed-paste off'", "^second-2$")
    admin.keyboard.press("Control+Shift+E")
    panes(admin, 3)
    wait_for_screen(admin, r"[$#] $")
    admin.keyboard.press("Control+Shift+ArrowUp")
    run(admin, "echo above-$((1+1))", "^above-2$")
    assert "above" in text_of(admin, 1)
    admin.keyboard.press("Control+Shift+ArrowLeft")
    wait_for_screen(admin, "^first-2$")

    wide = admin.evaluate("() => fleetopsTerminal.cols")
    admin.keyboard.press("Control+Shift+Alt+ArrowLeft")
    admin.wait_for_function("wide => fleetopsTerminal.cols < wide", arg=wide)
    line = admin.get_by_role("separator").first.bounding_box()
    admin.mouse.move(line["x"] + 4, line["y"] + 100)
    admin.mouse.down()
    admin.mouse.move(line["x"] + 200, line["y"] + 100, steps=4)
    admin.mouse.up()
    admin.wait_for_function("wide => fleetopsTerminal.cols > wide", arg=wide)

    admin.keyboard.press("Control+Shift+B")
    dialog = admin.get_by_role("dialog")
    expect(dialog).to_contain_text("Type into 3 terminals at once?")
    expect(dialog).to_contain_text("pay-api-eu1a-01")
    dialog.get_by_role("button", name="Type into 3").click()
    expect(admin.get_by_text("one of 3 that receive what you type")).to_have_count(3)
    admin.keyboard.type("echo all-$((1+1))\n")
    for number in range(3):
        pane_shows(admin, number, "^all-2$")
    admin.evaluate(PASTE, "echo pasted-$((1+1))\n")
    expect(dialog).to_contain_text("Paste 1 line into 3 terminals?")
    dialog.get_by_role("button", name="Cancel").click()
    admin.keyboard.press("Control+Shift+B")
    expect(admin.get_by_text("that receive what you type").first).to_be_hidden()
    run(admin, "echo one-$((1+1))", "^one-2$")
    assert "one-2" not in text_of(admin, 1) + text_of(admin, 2)

    admin.keyboard.type("vi -u NONE\n")
    wait_for_screen(admin, "^~ *$")
    admin.keyboard.type("iwritten in the editor")
    wait_for_screen(admin, "^written in the editor")
    address = admin.url
    admin.reload()
    panes(admin, 3)
    assert admin.url == address
    wait_for_screen(admin, "^written in the editor")
    admin.keyboard.press("Escape")
    admin.keyboard.type(":q!\n")
    wait_for_screen(admin, r"[$#] $")  # what is typed before, the editor takes with it
    run(admin, "echo out-$((1+1))", "^out-2$")
    pane_shows(admin, 1, "^second-2$")

    admin.goto(address.split("#")[0])  # as a log-in leads back: the address alone
    panes(admin, 3)
    wait_for_screen(admin, "^out-2$")

    admin.set_viewport_size({"width": 390, "height": 800})
    assert admin.evaluate("document.documentElement.scrollWidth") <= 390
    expect(admin.locator(".fo-term:not(.is-away)")).to_have_count(1)
    admin.get_by_label("Terminal shown").select_option(index=1)
    run(admin, "echo small-$((1+1))", "^small-2$")
    assert "small-2" in text_of(admin, 1)
    admin.set_viewport_size({"width": 1440, "height": 900})

    admin.keyboard.press("Control+Shift+X")
    dialog.get_by_role("button", name="End session").click()
    panes(admin, 2)
    admin.keyboard.press("Control+Shift+O")
    admin.keyboard.type("pay-api-eu1b")
    expect(dialog.get_by_role("option").first).to_contain_text("pay-api-eu1b-02")
    admin.keyboard.press("Enter")
    panes(admin, 3)
    wait_for_screen(admin, r"[$#] $")
    tabs = admin.get_by_role("navigation", name="Terminals")
    expect(tabs.locator(".fo-term-tab")).to_have_count(2)
    expect(tabs.locator(".fo-term-tab.active")).to_contain_text("pay-api-eu1b-02")
    admin.keyboard.press("Control+Shift+BracketRight")
    expect(tabs.locator(".fo-term-tab.active")).to_contain_text("pay-api-eu1a-01")


def test_another_person_watches_says_something_joins_and_ends_the_session(admin: Page, browser: Browser, stack):
    stack.manage("shell", "-c", SECOND_PERSON)
    connect(admin, "pay-worker-eu1a-01")
    wait_for_screen(admin, r"[$#] $")
    address = admin.url
    context = browser.new_context(base_url=stack.url, viewport={"width": 1100, "height": 700})
    for cookie in stack.log_in("amara", OTHER_PASSWORD).cookies:
        context.add_cookies([{"name": cookie.name, "value": cookie.value or "", "url": stack.url}])
    other = context.new_page()
    try:
        other.goto("/sessions/?state=live")
        row = other.get_by_role("row").filter(has_text="pay-worker-eu1a-01")
        row.get_by_role("link", name="Watch").click()
        wait_for_screen(other, r"[$#] $")
        expect(admin.get_by_text("amara watches.")).to_be_visible()
        expect(part(admin, "people")).to_contain_text("2 people")
        run(admin, "echo seen-$((1+1))", "^seen-2$")
        wait_for_screen(other, "^seen-2$")
        other.keyboard.type("echo never\n")
        assert other.evaluate("() => fleetopsTerminal.cols") == admin.evaluate("() => fleetopsTerminal.cols")

        other.get_by_role("button", name="Message").click()
        other.get_by_role("textbox", name="Message").fill("Stop here, the freeze begins")
        other.keyboard.press("Enter")
        expect(admin.get_by_text("Stop here, the freeze begins").first).to_be_visible()
        admin.get_by_role("button", name="Dismiss the message").click()

        other.get_by_role("link", name="Join").click()
        wait_for_screen(other, r"[$#] $")
        expect(admin.get_by_text("amara has joined and may type.")).to_be_visible()
        other.keyboard.type("echo joined-$((1+1))\n")
        wait_for_screen(admin, "^joined-2$")
        assert "never" not in admin.evaluate("() => fleetopsTerminal.text()")
        part(admin, "people").locator("summary").click()
        expect(part(admin, "people")).to_contain_text("has joined, types too")

        other.get_by_role("button", name="End session").click()
        other.get_by_role("dialog").get_by_role("button", name="End session").click()
        expect(admin.get_by_text("Ended by amara.").first).to_be_visible(timeout=15_000)
    finally:
        context.close()
    session = re.search(r"/sessions/([0-9a-f-]{36})/", address)[1]
    admin.goto(f"/sessions/{session}/replay/")
    for note in ("amara watches.", "amara: Stop here, the freeze begins", "amara types."):
        expect(admin.get_by_role("button", name=note)).to_be_visible()
    admin.get_by_role("button", name="amara types.").click()
    expect(part(admin, "passing")).to_have_text("amara types.")
    admin.goto(f"/audit/?q=session:{session}")
    for deed in ("sessions.watch", "sessions.message", "sessions.join"):
        expect(admin.get_by_text(deed).first).to_be_visible()


def test_a_computer_that_slept_finds_its_connection_dead_and_comes_back_to_its_screen(admin: Page):
    connect(admin)
    wait_for_screen(admin, r"[$#] $")
    run(admin, "MARK=kept; (sleep 1; echo meanwhile-$((1+1))) &", r"[$#] $")
    # The socket is dead and does not say so, and ten minutes passed between two looks at the clock.
    admin.evaluate(
        "() => { const { link } = fleetopsTerminal.panes[0]; link.socket.onmessage = null; link.lookedAt -= 600_000; }"
    )
    wait_for_screen(admin, "meanwhile-2")  # right behind the prompt
    run(admin, "echo still-$MARK", "^still-kept$")
    assert admin.evaluate("() => fleetopsTerminal.text().match(/meanwhile-2/g).length") == 1
