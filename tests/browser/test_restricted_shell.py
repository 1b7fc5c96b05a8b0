"""An administrator defines a restricted shell, and it is opened in place of a whole one."""

import re

import pytest
from playwright.sync_api import Page, expect

from .test_one_click_shell import wait_for_screen

pytestmark = pytest.mark.browser

COMMAND = 'while read -r line; do echo "{{ word }} got $line"; [ "$line" != bye ] || exit 0; done'


def test_a_restricted_shell_is_defined_and_opened_and_runs_nothing_else(admin: Page):
    admin.goto("/sessions/shells/")
    admin.get_by_role("link", name="New restricted shell").click()
    admin.get_by_label("Name", exact=True).fill("parrot")
    admin.get_by_label("Linux").fill(COMMAND)
    admin.get_by_label("Name 1").fill("word")
    admin.get_by_label("Pattern 1").fill("^(?:polly|coco)$")
    admin.get_by_role("button", name="Save").click()
    expect(admin.get_by_text("FleetOps-parrot", exact=True)).to_be_visible()

    admin.goto("/fleet/")
    row = admin.get_by_role("row").filter(has_text="pay-api-eu1a-01")
    expect(row).to_contain_text("Online", timeout=60_000)
    row.get_by_role("link", name="pay-api-eu1a-01").first.click()
    admin.get_by_role("link", name="Open as…").click()
    admin.get_by_label("word").fill("polly")
    admin.get_by_role("button", name="Open").click()
    admin.wait_for_url(re.compile(r"/sessions/[0-9a-f-]{36}/$"))
    wait_for_screen(admin, "demo node")
    admin.keyboard.type("$(id)\n")
    wait_for_screen(admin, re.escape("polly got $(id)"))
    admin.keyboard.type("bye\n")
    expect(admin.get_by_text("The shell has ended").first).to_be_visible()
