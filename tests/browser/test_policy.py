"""An administrator forbids shells on one node, asks what that means, and takes it back."""

import re

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser


def test_a_rule_closes_connect_and_opens_it_again(admin: Page):
    admin.get_by_role("link", name="Fleet").first.click()
    connect = admin.locator("button.fo-connect").first
    connect.wait_for(timeout=60_000)
    name = admin.locator("tr", has=connect).locator("a.fo-name").first.inner_text()

    admin.get_by_role("link", name="Policy").click()
    admin.get_by_role("link", name="Add rule").click()
    admin.get_by_label("Name", exact=True).fill("Not this one")
    admin.get_by_label("Note").fill("It is being moved.")
    admin.get_by_role("radio", name=re.compile("Deny")).check()
    admin.get_by_label("Everybody who may log in").check()
    admin.get_by_role("checkbox", name="Open a shell", exact=True).check()
    expression = admin.get_by_label("Instances", exact=True)
    expression.fill(f'name="{name}"')
    expect(admin.locator(".fo-preview")).to_contain_text(re.compile(r"1 of \d+ instances"))
    expression.press("Escape")
    admin.get_by_role("button", name="Add rule").click()
    expect(admin.get_by_role("row", name=re.compile("Not this one"))).to_contain_text("In force")

    admin.get_by_role("navigation", name="Views").get_by_role("link", name="Simulate").click()
    admin.get_by_label("Person").fill("admin")
    admin.get_by_label("On the instance").fill(name)
    admin.get_by_role("button", name="Ask").click()
    expect(admin.get_by_role("heading", name="Denied")).to_be_visible()
    expect(admin.get_by_text("Rule “Not this one” denies it: It is being moved.")).to_be_visible()

    admin.goto("/fleet/")
    row = admin.get_by_role("row", name=re.compile(re.escape(name)))
    row.get_by_role("link", name=f"See why you may not open a shell on {name}").click()
    expect(admin.get_by_role("heading", name="You may not open a shell here")).to_be_visible()
    expect(admin.get_by_role("button", name="Connect", exact=True)).to_be_disabled()
    instance = admin.url

    admin.goto("/settings/policy/")
    admin.get_by_role("row", name=re.compile("Not this one")).get_by_role(
        "button", name=re.compile("Switch off")
    ).click()
    admin.goto(instance)
    expect(admin.get_by_role("button", name="Connect", exact=True)).to_be_enabled()
