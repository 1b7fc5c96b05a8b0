"""The command log's story: typed in a demo node's shell, found among all commands, seen again at its instant."""

import re
import time

import pytest
from playwright.sync_api import Page, expect

from .conftest import log_in
from .test_one_click_shell import connect, wait_for_screen

pytestmark = pytest.mark.browser


def reloaded_until(page: Page, locator, *, seconds: float = 30) -> None:
    """Reload the page until it shows something: the command log is a process of its own."""
    deadline = time.monotonic() + seconds
    while not locator.is_visible():
        assert time.monotonic() < deadline, page.locator("main").inner_text()[:2000]
        page.wait_for_timeout(500)
        page.reload()


def test_a_command_is_found_and_leads_to_its_instant(page: Page):
    log_in(page)
    connect(page)
    wait_for_screen(page, r"[$#] $")
    page.keyboard.type("echo first-$((40+2))\n")
    wait_for_screen(page, r"^first-42$")
    page.keyboard.type("ls /nowhere-at-all\n")
    wait_for_screen(page, r"No such file")
    page.wait_for_timeout(1500)  # the pause that the replay has before the next
    page.keyboard.type("echo second-$((50+2))\n")
    wait_for_screen(page, r"^second-52$")
    session = re.search(r"/sessions/([0-9a-f-]{36})/", page.url)[1]
    page.keyboard.type("exit\n")
    expect(page.get_by_text("This session has ended").first).to_be_visible(timeout=15_000)

    page.goto("/sessions/")
    page.get_by_role("link", name="Commands", exact=True).and_(page.locator(".nav-tabs a")).click()
    page.wait_for_url("**/sessions/commands/")
    page.get_by_label("Search commands").fill("NOWHERE-at")
    page.wait_for_url(re.compile(r"q=NOWHERE-at"))
    row = page.get_by_role("row").filter(has_text="ls /nowhere-at-all")
    reloaded_until(page, row)
    expect(row).to_contain_text("Shell")  # its own marks tell
    page.get_by_label("Failed").check()
    expect(row).to_be_visible()
    row.get_by_role("link", name="ls /nowhere-at-all").click()

    page.wait_for_url(re.compile(rf"/sessions/{session}/replay/\?t="))
    page.wait_for_function("() => window.fleetopsReplay?.loaded && /first-42/.test(window.fleetopsReplay.text())")
    shown = page.evaluate("() => window.fleetopsReplay.text()")
    assert "nowhere-at-all" in shown and "second-52" not in shown
    beside = page.locator("[data-part=commands] .fo-cmd")
    expect(beside).to_have_count(4)
    expect(page.get_by_text("disputed")).to_have_count(0)  # also where it was typed before the prompt was there
    expect(page.locator("[data-part=commands] .fo-cmd.active")).to_contain_text("ls /nowhere-at-all")
    expect(page.locator(".fo-scrub .mark.is-failed")).to_have_count(1)
    beside.nth(3).click()
    page.wait_for_function("() => /^second-52$/m.test(window.fleetopsReplay.text())")
    expect(page.locator("[data-part=commands] .fo-cmd.active")).to_contain_text("exit")
