"""A document on the fleet: from a filter to what each node said, by the real worker and demo nodes."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.support.endpoint import until

pytestmark = pytest.mark.browser


def test_a_document_runs_on_what_the_filter_lets_through(admin: Page):
    def documents_are_read() -> bool:
        admin.goto("/documents/?q=AWS-RunShellScript")
        return admin.get_by_role("link", name="AWS-RunShellScript", exact=True).count() > 0

    until(documents_are_read, seconds=60, what="the worker has read the documents")
    admin.goto("/fleet/")
    row = admin.get_by_role("row").filter(has_text="pay-api-eu1a-01")
    expect(row).to_contain_text("Online", timeout=60_000)
    admin.goto("/fleet/?q=name%3Dpay-api-*+and+status%3Donline")
    expect(admin.locator("#fleet-rows tr").first).to_be_visible()
    count = admin.locator("#fleet-rows tr").count()
    admin.get_by_role("link", name="Run a document on these").click()
    admin.get_by_label("Find a document").fill("RunShell")
    admin.get_by_role("button", name="Find").click()
    admin.get_by_role("link", name="AWS-RunShellScript").click()

    targets = admin.get_by_label("Run it on")
    expect(targets).to_have_value(re.compile("pay-api"))
    expect(admin.locator("#id_targets-preview")).to_contain_text(f"{count} of ")
    admin.get_by_label("commands", exact=True).fill('sleep 8\necho "hello from $(hostname)"\ncd /nowhere || exit 3')
    admin.locator("#id_reason").fill("a story")
    admin.get_by_role("button", name="See the plan").click()
    expect(admin.locator(".fo-answer")).to_contain_text(f"It would run on {count} instance")
    admin.get_by_role("button", name=f"Run on {count} instance").click()

    # What somebody types stays under their hands while the page follows.
    search = admin.get_by_label("Filter by instance")
    search.press_sequentially("pay")
    for _ in range(2):
        with admin.expect_response(lambda answer: "/live/" in answer.url):
            pass
    expect(search).to_have_value("pay")
    expect(search).to_be_focused()
    search.fill("")

    expect(admin.locator("#command-badge")).to_contain_text("Failed", timeout=60_000)
    expect(admin.locator("#command-answer")).to_contain_text(f"{count} failed")
    first = admin.locator(".fo-run-table tbody tr").first
    expect(first).to_contain_text("3")
    first.get_by_role("link").click()
    expect(admin.locator("#output")).to_contain_text("hello from")
    expect(admin.locator("#output")).to_contain_text("exit code 3")

    admin.go_back()
    admin.get_by_role("button", name="Run again where it did not end well").click()
    expect(admin.locator(".fo-answer")).to_contain_text(f"It would run on {count} instance")
    admin.goto("/audit/?q=runcommand.start")
    expect(admin.locator("main")).to_contain_text("AWS-RunShellScript by admin")
    expect(admin.locator("main")).not_to_contain_text("hello from")
