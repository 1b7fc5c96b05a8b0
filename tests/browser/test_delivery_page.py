"""An administrator has lines held for CloudWatch Logs, opens a shell, and reads on its replay where it went."""

import re

import pytest
from playwright.sync_api import Page, expect

from .test_one_click_shell import connect, wait_for_screen

pytestmark = pytest.mark.browser
SOON = 30_000  # milliseconds: pieces of a recording are sealed after 5 s, and delivered after that


def test_a_session_goes_where_its_account_wants_it_and_its_replay_says_so(admin: Page, stack):
    admin.get_by_role("link", name="Accounts").click()
    admin.get_by_role("link", name="northwind-prod").click()
    admin.get_by_role("link", name="Deliveries").click()
    expect(admin.get_by_text("a stream each, as they happen")).to_be_visible()
    admin.get_by_label("If it is not confirmed in time").select_option("pass")
    admin.get_by_label("Bucket").fill("fleetops-copies")
    stack.boto3("s3").create_bucket(
        Bucket="fleetops-copies", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    admin.get_by_role("button", name="Save and check").click()
    expect(admin.locator("#delivery-check")).to_contain_text("Works", timeout=SOON)
    expect(admin.locator("#delivery-check")).to_contain_text("s3:PutObject")

    admin.goto("/fleet/")
    connect(admin, "pay-api-eu1b-02")
    wait_for_screen(admin, r"[$#] $")
    admin.keyboard.type("echo held-$((40+2))\n")
    wait_for_screen(admin, r"^held-42$")
    admin.keyboard.type("exit\n")
    expect(admin.get_by_text("This session has ended").first).to_be_visible(timeout=SOON)

    admin.get_by_role("link", name=re.compile("replay|recording", re.I)).first.click()
    admin.wait_for_url("**/replay/**")

    def delivered() -> bool:
        admin.reload()
        evidence = admin.get_by_role("main")
        return "Complete, " in evidence.inner_text() and "In the bucket" in evidence.inner_text()

    for _ in range(30):
        if delivered():
            break
        admin.wait_for_timeout(1000)
    expect(admin.get_by_text("Complete, ")).to_be_visible()
    expect(admin.get_by_text("In the bucket")).to_be_visible()
    admin.goto("/sessions/")
    expect(admin.get_by_role("row").filter(has_text="pay-api-eu1b-02").first).to_contain_text("Complete")
    # As it was, for the stories that follow.
    admin.goto("/settings/accounts/")
    admin.get_by_role("link", name="northwind-prod").click()
    admin.get_by_role("link", name="Deliveries").click()
    admin.get_by_label("If it is not confirmed in time").select_option("")
    admin.get_by_label("Bucket").fill("")
    admin.get_by_role("button", name="Save and check").click()
    expect(admin.get_by_text("No recording is copied.")).to_be_visible()
