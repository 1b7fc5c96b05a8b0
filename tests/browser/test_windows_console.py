"""What a browser does about a Windows console. The node is a demo node: only the page is told that it runs Windows."""

import pytest
from playwright.sync_api import Page

from .test_one_click_shell import connect, wait_for_screen

pytestmark = pytest.mark.browser

AS_WINDOWS = """new MutationObserver(() => {
    for (const terminal of document.querySelectorAll(".fo-term")) terminal.dataset.windows = "20348";
}).observe(document, { childList: true, subtree: true });"""
ROWS = """() => {
    const { active } = fleetopsTerminal.terminal.buffer;
    const rows = Array.from({ length: active.length }, (_, y) => active.getLine(y).translateToString(true));
    return rows.filter((row) => /^x+$/.test(row)).map((row) => row.length);
}"""


def long_row(page: Page) -> tuple[int, list[int]]:
    """Show a row that is as wide as the screen, then take columns away; its width, and what rows are left."""
    page.set_viewport_size({"width": 1300, "height": 700})
    page.goto("/fleet/")
    connect(page)
    wait_for_screen(page, r"[$#] $")
    page.keyboard.type("clear; printf 'x%.0s' $(seq $COLUMNS); echo; PS1='over> '\n")
    wait_for_screen(page, "^over> ")
    width = page.evaluate("() => fleetopsTerminal.cols")
    page.set_viewport_size({"width": 900, "height": 700})
    page.wait_for_function("width => fleetopsTerminal.cols < width", arg=width)
    return width, page.evaluate(ROWS)


def test_rows_of_a_windows_console_are_not_broken_again_by_a_smaller_window(admin: Page):
    width, rows = long_row(admin)
    assert len(rows) == 2 and sum(rows) == width  # elsewhere the line goes on in the next row

    admin.add_init_script(AS_WINDOWS)
    width, rows = long_row(admin)
    assert admin.evaluate("() => fleetopsTerminal.terminal.options.windowsPty") == {
        "backend": "winpty",
        "buildNumber": 20348,
    }
    assert rows == [width]  # until the console paints itself anew
