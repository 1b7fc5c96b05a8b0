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


def test_a_person_is_found_and_chosen_by_keyboard_among_many(admin: Page, stack):
    stack.manage("shell", "-c", MANY_PEOPLE)
    admin.goto("/settings/policy/new/")
    admin.get_by_label("Name", exact=True).fill("For one of many")
    search = admin.get_by_label("Find people")
    expect(admin.get_by_role("button", name="Find")).to_have_count(0)  # it is searched while one types
    search.press_sequentially("night-4711")
    found = admin.get_by_role("group", name="People found")
    expect(found.get_by_role("checkbox")).to_have_count(1)
    search.press("ArrowDown")
    admin.keyboard.press("Space")
    chosen = admin.locator(".fo-pick", has=search).locator("[data-pick=chosen]")
    expect(chosen.get_by_role("checkbox", name="night-4711")).to_be_checked()
    expect(search).to_be_focused()
    search.fill("night-12")
    expect(found.get_by_text("There are more")).to_be_visible()
    search.fill("night-4711")
    expect(found.get_by_text("Nothing else has")).to_have_count(0)
    expect(found.get_by_role("checkbox")).to_have_count(0)  # it is chosen already
    search.press("Enter")
    expect(admin).to_have_url(re.compile("/settings/policy/new/$"))
    admin.get_by_role("checkbox", name="Open a shell", exact=True).check()
    admin.get_by_label("Instances", exact=True).fill("env=nowhere")
    admin.get_by_role("button", name="Add rule").click()
    expect(admin.get_by_role("row", name=re.compile("For one of many"))).to_contain_text("night-4711")


MANY_PEOPLE = """
from fleetops.identity.models import User
User.objects.bulk_create(User(username=f"night-{n}", password="!") for n in range(5000))
"""
