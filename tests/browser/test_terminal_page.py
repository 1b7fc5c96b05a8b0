"""What a person does around the shell: paste, find, a second window, watching the list, going back to a moment."""

import re

import pytest
from playwright.sync_api import Page, expect

from .test_one_click_shell import connect, wait_for_screen

pytestmark = pytest.mark.browser

PASTE = """text => {
    const data = new DataTransfer();
    data.setData("text/plain", text);
    const event = new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
    document.querySelector(".xterm-helper-textarea").dispatchEvent(event);
}"""


def run(page: Page, command: str, answer: str) -> None:
    page.keyboard.type(command + "\n")
    wait_for_screen(page, answer)


def part(page: Page, name: str):
    return page.locator(f'[data-part="{name}"]')


def test_lines_that_would_run_one_by_one_are_shown_before_they_are_pasted(admin: Page):
    connect(admin)
    wait_for_screen(admin, r"[$#] $")
    run(admin, "bind 'set enable-bracketed-paste off'; echo off-$((1+1))", "^off-2$")
    admin.evaluate(PASTE, "echo pasted-$((20+1))\necho pasted-$((20+2))\n")

    dialog = admin.get_by_role("dialog")
    expect(dialog).to_contain_text("Paste 2 lines?")
    expect(dialog).to_contain_text("echo pasted-$((20+2))")
    dialog.get_by_role("button", name="Paste 2 lines").click()
    wait_for_screen(admin, "^pasted-22$")

    admin.evaluate(PASTE, "echo never\necho never\n")
    admin.get_by_role("button", name="Cancel").click()
    run(admin, "echo over-$((1+1))", "^over-2$")
    assert "never" not in admin.evaluate("() => fleetopsTerminal.text()")


def test_words_are_found_in_the_scroll_back_and_counted(admin: Page):
    connect(admin)
    wait_for_screen(admin, r"[$#] $")
    run(admin, "for n in 1 2 3; do echo needle-$n; done; seq 60", "^60$")
    admin.keyboard.press("Control+Shift+F")
    admin.keyboard.type("needle-")
    expect(part(admin, "count")).to_have_text(re.compile(r"^\d of [34]$"))
    admin.keyboard.press("Escape")
    run(admin, "echo typed-$((1+1))", "^typed-2$")


def test_two_windows_show_one_shell_and_its_size_is_that_of_the_one_in_which_one_types(admin: Page):
    connect(admin)
    wait_for_screen(admin, r"[$#] $")
    other = admin.context.new_page()
    other.set_viewport_size({"width": 900, "height": 600})
    other.goto(admin.url)
    wait_for_screen(other, r"[$#] $")
    expect(part(admin, "size")).to_contain_text("set in another window")
    expect(part(admin, "people")).to_contain_text("2 windows")

    admin.bring_to_front()
    rows = admin.evaluate("() => fleetopsTerminal.rows")
    admin.keyboard.type("stty size; echo both-$((1+1))\n")
    wait_for_screen(admin, "^both-2$")
    wait_for_screen(other, "^both-2$")
    shown = admin.evaluate("() => `${fleetopsTerminal.rows} ${fleetopsTerminal.cols}`")
    assert rows < int(shown.split()[0])
    wait_for_screen(admin, f"^{shown}$")


def test_what_a_node_calls_itself_is_text_and_its_old_questions_stay_unanswered(admin: Page):
    connect(admin)
    wait_for_screen(admin, r"[$#] $")
    run(admin, r"printf '\033]0;<b>root</b>\007'; echo named-$((1+1))", "^named-2$")
    expect(part(admin, "title")).to_have_text("<b>root</b>")
    assert admin.title().startswith("<b>root</b>")

    # The terminal is asked where its cursor is, and its answer is read; one that is there before `read` is not shown.
    run(admin, r"stty -echo; printf '\033[6n'; read -rsd R answer; stty echo; echo asked-$((1+1))", "^asked-2$")
    admin.reload()
    wait_for_screen(admin, "^asked-2$")
    run(admin, "echo still-$((1+1))", "^still-2$")
    typed = admin.evaluate("() => fleetopsTerminal.text().match(/^.*echo still.*$/m)[0]")
    assert re.search(r"[$#] echo still-\$\(\(1\+1\)\)$", typed), "an answer to the old question stands before it"


def test_the_list_of_sessions_ends_one_and_its_replay_finds_a_word_and_keeps_the_moment(admin: Page):
    connect(admin, "pay-worker-eu1a-01")
    wait_for_screen(admin, r"[$#] $")
    run(admin, "echo mark-$((40+2))", "^mark-42$")
    session = re.search(r"/sessions/([0-9a-f-]{36})/", admin.url)[1]

    admin.goto("/sessions/")
    row = admin.locator(f"#s-{session}")
    expect(row).to_contain_text("Live")
    row.get_by_role("button", name="End").click()
    dialog = admin.get_by_role("dialog")
    expect(dialog).to_contain_text("pay-worker-eu1a-01")
    dialog.get_by_role("button", name="End session").click()
    expect(row).to_contain_text("Ended", timeout=15_000)

    row.get_by_role("link", name="Replay").click()
    admin.wait_for_function("() => window.fleetopsReplay && window.fleetopsReplay.loaded")
    admin.get_by_label("Search what was shown").fill("mark-42")
    admin.keyboard.press("Enter")
    admin.wait_for_function("() => /^mark-42/m.test(window.fleetopsReplay.text())")
    expect(admin.locator(".fo-scrub .mark")).not_to_have_count(0)

    admin.goto(f"/sessions/{session}/replay/?t=0.01")
    admin.wait_for_function("() => window.fleetopsReplay && window.fleetopsReplay.loaded")
    assert "mark-42" not in admin.evaluate("() => window.fleetopsReplay.text()")


def test_the_palette_connects_and_a_chosen_theme_stays(admin: Page):
    admin.goto("/sessions/")
    admin.get_by_role("button", name=re.compile("dark theme")).click()
    admin.reload()
    expect(admin.locator("html")).to_have_attribute("data-bs-theme", "dark")

    admin.keyboard.press("Control+k")
    admin.keyboard.type("pay-api-eu1b")
    expect(admin.get_by_role("dialog").get_by_role("option").first).to_contain_text("pay-api-eu1b-02")
    admin.keyboard.press("Enter")
    admin.wait_for_url(re.compile(r"/sessions/[0-9a-f-]{36}/$"))
    wait_for_screen(admin, r"[$#] $")
