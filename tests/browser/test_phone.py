"""On a phone: the keys that its keyboard lacks, pages that fit, filters that are not typed."""

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from .conftest import take_log_in
from .test_one_click_shell import connect, wait_for_screen
from .test_terminal_page import run

pytestmark = pytest.mark.browser


@pytest.fixture
def phone(browser: Browser, stack):
    """The administrator's phone, logged in."""
    context = browser.new_context(
        base_url=stack.url,
        viewport={"width": 390, "height": 700},
        has_touch=True,
        is_mobile=True,
    )
    take_log_in(context, stack)
    page = context.new_page()
    page.goto("/fleet/")
    yield page
    context.close()


def press(page: Page, name: str) -> None:
    page.get_by_role("toolbar", name="Keys").get_by_role("button", name=name, exact=True).tap()


def test_esc_tab_arrows_and_ctrl_are_typed_by_touch(phone: Page):
    connect(phone)
    wait_for_screen(phone, r"[$#] $")
    run(phone, "echo first-$((1+1))", "^first-2$")
    press(phone, "Up")
    phone.keyboard.type("0")
    press(phone, "Left")
    phone.keyboard.type("9\n")
    wait_for_screen(phone, "^first-290$")  # the line came back, and the cursor went into it

    phone.keyboard.type("cat -v\n")
    press(phone, "Esc")
    press(phone, "~")
    press(phone, "Ctrl")
    ctrl = phone.get_by_role("button", name="Ctrl", exact=True)
    expect(ctrl).to_have_attribute("aria-pressed", "true")
    press(phone, "Right")
    phone.keyboard.type("\n")
    wait_for_screen(phone, r"\^\[~\^\[\[1;5C")
    expect(ctrl).to_have_attribute("aria-pressed", "false")  # it held for one key

    press(phone, "Ctrl")
    phone.keyboard.type("c")
    wait_for_screen(phone, r"[$#] $")  # what is typed while the shell takes its terminal back may be lost
    run(phone, "echo out-$((1+1))", "^out-2$")


def test_the_shell_s_page_fits_a_phone_and_shows_all_of_its_last_line(phone: Page):
    connect(phone)
    wait_for_screen(phone, r"[$#] $")
    run(phone, "seq 200", "^200$")
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    screen = phone.locator(".xterm-screen").bounding_box()
    around = phone.locator(".fo-term").bounding_box()
    assert screen["x"] + screen["width"] <= around["x"] + around["width"]
    assert screen["y"] + screen["height"] <= around["y"] + around["height"]
    expect(phone.get_by_role("button", name="End session")).to_be_in_viewport()
    expect(phone.get_by_role("button", name="Larger text (Ctrl +)")).to_be_in_viewport()


def test_a_mouse_s_page_has_no_row_of_keys_and_its_last_column_is_whole(admin: Page):
    connect(admin)
    wait_for_screen(admin, r"[$#] $")
    expect(admin.get_by_role("toolbar", name="Keys")).to_be_hidden()
    for width in (1440, 1203, 1000):
        admin.set_viewport_size({"width": width, "height": 701})
        admin.wait_for_function(
            """() => {
                const screen = document.querySelector(".xterm-screen").getBoundingClientRect();
                return screen.right <= innerWidth && innerWidth - screen.right < 40
                    && screen.bottom <= document.querySelector(".fo-statusbar").getBoundingClientRect().top;
            }"""
        )


def test_the_audit_log_is_filtered_by_touch(phone: Page):
    phone.goto("/audit/")
    phone.get_by_text("Filters", exact=True).tap()
    phone.get_by_role("group", name="Kind").get_by_role("checkbox", name="Login").tap()
    phone.wait_for_url("**/audit/**kind**")
    expect(phone.get_by_role("link", name="Remove kind login")).to_be_visible()
    expect(phone.get_by_role("row").filter(has_text="identity.login").first).to_be_visible()


def test_the_sidebar_s_count_follows_when_a_session_ends(admin: Page):
    connect(admin)
    wait_for_screen(admin, r"[$#] $")
    own = re.search(r"/sessions/([0-9a-f-]{36})/", admin.url)[1]
    admin.goto("/sessions/")
    count = admin.get_by_role("navigation", name="Main").get_by_role("link", name="Sessions").locator(".nav-count")
    expect(count).to_have_text(re.compile(r"^\d+ live$"))
    before = count.text_content()
    admin.locator(f'[id="s-{own}"]').get_by_role("button", name="End").click()
    admin.get_by_role("dialog").get_by_role("button", name="End session").click()
    expect(count).not_to_have_text(before, timeout=30_000)
