"""A person asks for a shell, another approves it, and takes it away in the middle of `top`."""

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from .test_one_click_shell import wait_for_screen

pytestmark = pytest.mark.browser

PASSWORD = "yet another long password 42"
ASKS = f"""
from django.contrib.auth.models import Group
from fleetops.identity.models import User
from fleetops.policy.services import create_rule
user = User.objects.create_user("noor", password="{PASSWORD}")
user.groups.add(Group.objects.get(name="viewer"))
create_rule(
    actor="test", name="Noor asks", users=[user], deeds=["shell"], targets="all", approvals=1, confirmed=True
)
"""


@pytest.fixture
def noor(browser: Browser, stack) -> Page:
    """A viewer, in a browser of her own, whom a rule lets have a shell once it is approved."""
    stack.manage("shell", "-c", ASKS)
    context = browser.new_context(base_url=stack.url, viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto("/login/")
    page.get_by_label("Username").fill("noor")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/fleet/")
    yield page
    context.close()


def test_a_request_is_approved_by_another_and_its_grant_revoked_in_the_middle_of_top(admin: Page, noor: Page):
    row = noor.get_by_role("row").filter(has_text="pay-api-eu1a-01")
    expect(row).to_contain_text("Online", timeout=60_000)
    row.get_by_role("link", name="pay-api-eu1a-01").first.click()
    expect(noor.get_by_text("needs a request that 1 other person approved")).to_be_visible()
    noor.get_by_role("link", name="Ask for access").click()
    expect(noor.get_by_text("1 approval is needed")).to_be_visible()
    noor.get_by_label("Minutes").fill("30")
    noor.get_by_label("Reason").fill("INC-7: the pool is exhausted")
    noor.get_by_role("button", name="Send request").click()
    expect(noor.get_by_text("1 more approval is needed, from administrator; not from you")).to_be_visible()

    admin.goto("/sessions/access/")
    admin.get_by_role("link", name="noor").click()
    expect(admin.get_by_text("INC-7: the pool is exhausted")).to_be_visible()
    admin.get_by_role("button", name="Approve 30 min").click()
    expect(admin.get_by_text("Approved. noor may connect now.")).to_be_visible()

    noor.reload()
    expect(noor.get_by_role("timer")).to_contain_text(re.compile(r"(29|30):\d\d"))
    noor.get_by_role("button", name="Connect").click()
    noor.wait_for_url(re.compile(r"/sessions/[0-9a-f-]{36}/$"))
    wait_for_screen(noor, r"[$#] $")
    noor.keyboard.type("top\n")
    wait_for_screen(noor, "PID")

    admin.get_by_label("Reason").fill("The incident is over")
    admin.get_by_role("button", name="Revoke now").click()
    expect(admin.get_by_text("Revoked; 1 terminal closing.")).to_be_visible()
    expect(noor.get_by_text("Ended: admin revoked the grant: The incident is over.").first).to_be_visible()

    session = re.search(r"/sessions/([0-9a-f-]{36})/", noor.url)[1]
    admin.goto(f"/audit/session/{session}/")
    steps = admin.locator(".fo-chain h2")
    expect(steps.filter(has_text="Ended")).to_be_visible()
    told = [text for text in steps.all_inner_texts() if "command" not in text]
    assert told == [
        "noor asked for a shell",
        "admin approved",
        "The grant began",
        "noor opened the session",
        "AssumeRole",
        "StartSession",
        "admin revoked the grant",
        "Ended",
    ]
    noor.goto("/fleet/")
    noor.get_by_role("row").filter(has_text="pay-api-eu1a-01").get_by_role("link").first.click()
    expect(noor.get_by_role("link", name="Ask for access")).to_be_visible()  # and has nothing any more
