"""An administrator watches what AWS is asked, and sets a ceiling and takes it away, much of it by keyboard."""

import re

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser
SOON = 30_000  # milliseconds: regions are read every 5 s in these tests


def test_what_aws_is_asked_is_seen_as_it_happens_and_is_limited(admin: Page):
    admin.get_by_role("link", name="API budget").click()
    expect(admin.get_by_role("progressbar").first).to_be_visible(timeout=SOON)
    expect(admin.locator("#budget-answer")).to_contain_text(re.compile("No person waits|All .* have room"))
    row = admin.get_by_role("row").filter(has_text="ec2:DescribeInstances").filter(has_text="eu-west-1").first
    expect(row).to_be_visible(timeout=SOON)

    # What is open stays open, and the focus stays where it is, while the page goes on.
    admin.get_by_text("In numbers").click()
    row.get_by_role("link", name="ec2:DescribeInstances", exact=True).focus()
    drawing = admin.locator("#budget svg[role=img]").first
    was = drawing.get_attribute("aria-label")
    expect(drawing).not_to_have_attribute("aria-label", was, timeout=SOON)
    expect(admin.get_by_role("columnheader", name="On the average")).to_be_visible()
    expect(row.get_by_role("link", name="ec2:DescribeInstances", exact=True)).to_be_focused()

    # Its one bucket by the keyboard, and from there to its limit.
    admin.keyboard.press("Enter")
    expect(admin.get_by_label("Remove filter operation:ec2:DescribeInstances")).to_be_visible()
    expect(admin.locator("#budget tbody tr[id^=b-]")).to_have_count(1)
    admin.get_by_role("link", name=re.compile("^Limit ec2:DescribeInstances")).click()
    admin.get_by_label("Calls a second").fill("7.5")
    admin.keyboard.press("Enter")
    ceiling = admin.get_by_role("row").filter(has_text="ec2:DescribeInstances")
    expect(ceiling).to_contain_text("In force")
    expect(ceiling).to_contain_text("by admin")

    admin.get_by_role("link", name="ec2:DescribeInstances").click()
    expect(admin.locator("#budget")).to_contain_text("of 7.5 a second")
    expect(admin.locator("#budget")).to_contain_text("admin set a ceiling for ec2:DescribeInstances")
    admin.get_by_role("link", name="Limits").click()
    admin.get_by_role("button", name=re.compile("Take away the ceiling of ec2:DescribeInstances")).click()
    expect(admin.get_by_text("No ceiling is set")).to_be_visible()
    admin.goto("/audit/?q=inventory.ceiling")
    for action in ("set", "remove"):
        expect(admin.get_by_text(f"inventory.ceiling.{action}").first).to_be_attached()
