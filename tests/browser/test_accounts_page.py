"""An administrator adds an account, reads in words what is wrong with it, mends it, and takes it out again."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser
SOON = 30_000  # milliseconds: a worker asks AWS some dozen things


def test_an_account_is_added_checked_mended_and_removed(admin: Page, stack):
    staging = stack.handover["accounts"][1]
    admin.get_by_role("link", name="Accounts").click()
    row = admin.get_by_role("row").filter(has_text="northwind-staging")
    row.get_by_role("button", name="Check northwind-staging").click()
    expect(row.get_by_text("Works")).to_be_visible(timeout=SOON)

    # An account whose endpoint is named without its CA, and whose credentials are of another account.
    admin.get_by_role("link", name="Add account").click()
    admin.get_by_label("Account number").fill("777788889999")
    admin.get_by_label("Name", exact=True).fill("research")
    admin.get_by_label("eu-west-1", exact=True).check()
    admin.get_by_label("External id").fill("")
    admin.get_by_label("Profile of the base credentials").fill(f"fleetops-{staging['account_id']}")
    admin.get_by_label("Endpoint address").fill(stack.handover["endpoint_url"])
    admin.get_by_role("button", name="Add and check").click()
    expect(admin.locator("#check")).to_contain_text("is not signed by the account's CA", timeout=SOON)
    expect(admin.locator("#check")).to_contain_text("Does not connect")

    admin.get_by_role("link", name="Change").click()
    admin.get_by_label("CA certificate").fill(Path(stack.handover["ca_file"]).read_text())
    admin.get_by_role("button", name="Save").click()
    admin.get_by_role("button", name="Check again").click()
    said = re.compile("which is in account 444455556666 and not in 777788889999")
    expect(admin.locator("#check")).to_contain_text(said, timeout=SOON)

    remove = admin.get_by_role("button", name="Remove research")
    expect(remove).to_be_disabled()
    admin.get_by_role("button", name="Disable research").click()
    admin.get_by_label("Type 777788889999").fill("777788889999")
    remove.click()
    expect(admin.get_by_role("row").filter(has_text="research")).to_have_count(0)
    expect(admin.get_by_text("2 accounts are read")).to_be_visible()

    admin.goto("/audit/?q=account:777788889999")
    for action in ("add", "check", "update", "disable", "remove"):
        expect(admin.get_by_text(f"inventory.account.{action}").first).to_be_attached()
