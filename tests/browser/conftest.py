"""Chromium, and the whole product for it to look at."""

import os
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from fleetops import clock
from tests.support.stack import ADMIN_PASSWORD, Stack, running_stack

# The one without windows needs half the time: each visitor of a test is a window of the other.
CHROMIUMS = [Path("/usr/bin", name) for name in ("chromium-headless-shell", "chromium")]
CHROMIUM = next((path for path in CHROMIUMS if path.exists()), CHROMIUMS[-1])
# As root Chromium refuses its own sandbox; the rest keeps it from calling home.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="package")
def stack(tmp_path_factory) -> Stack:
    file = tmp_path_factory.mktemp("clock") / "clock.json"
    clock.set_shift(file)
    with running_stack(tmp_path_factory.mktemp("fo"), FLEETOPS_CLOCK_FILE=str(file)) as running:
        running.clock_file = file
        yield running


# Of this package and no longer: while it is open, an event loop runs in this thread, and tests with loops of their own
# could not run.
@pytest.fixture(scope="package")
def browser() -> Browser:
    if not CHROMIUM.exists():
        if os.environ.get("CI"):
            pytest.fail("There is no Chromium; .ci/run installs it.")
        pytest.skip("Browser tests need Chromium: install Debian's package chromium.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, stack: Stack) -> Page:
    """A page of a new visitor, which fails the test if the browser's console had an error."""
    context = browser.new_context(base_url=stack.url, viewport={"width": 1440, "height": 900})
    page = context.new_page()
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    yield page
    context.close()
    # A navigation that the test itself makes cuts requests off; that is no error of the page.
    assert [trouble for trouble in troubles if not re.search("net::ERR_ABORTED|409|403", trouble)] == []


def log_in(page: Page) -> None:
    page.goto("/login/")
    page.get_by_label("Username").fill("admin")
    page.get_by_label("Password").fill(ADMIN_PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/fleet/")


def take_log_in(context: BrowserContext, stack: Stack) -> None:
    """Log in without the page: its form is gone through once, in test_one_click_shell's first story.

    It is one log-in for all: who ends it, or needs one of their own, takes `log_in`.
    """
    for cookie in stack.admin.cookies:
        context.add_cookies([{"name": cookie.name, "value": cookie.value or "", "url": stack.url}])


@pytest.fixture
def admin(page: Page, stack: Stack) -> Page:
    """The administrator at the fleet."""
    take_log_in(page.context, stack)
    page.goto("/fleet/")
    return page
