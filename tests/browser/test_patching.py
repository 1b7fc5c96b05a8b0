"""Patching from the first scan to a fleet that complies, with a node that fails in between."""

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.endpoint import until

from .conftest import Stack

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]  # three runs on real nodes, a restart in each
TARGETS = "name=web-checkout-*"
# Its first installation of one package fails: fleetops/endpoint/patch/catalogue.py.
BROKEN = "web-checkout-eu1b-08"
APPROVER = """
from django.contrib.auth.models import Group
from fleetops.identity.models import User
paula = User.objects.create_user("paula", password="correct horse battery")
paula.groups.add(Group.objects.get(name="patch_owner"))
"""
# A minute is the shortest soak that a person may ask for, and too long for a test.
SHORT_SOAK = """
from fleetops.rollouts.models import Wave
Wave.objects.filter(run__state="draft").update(soak_seconds=2)
"""
TOLD = f"""
from fleetops.notify.models import Notice
told = Notice.objects.filter(topic="patching.compliance", title__startswith="{BROKEN}")
print(told.count(), told.filter(closed_at=None).count())
"""


def counted(stack: Stack) -> str:
    """How many notices there are of the broken node, and how many of them stand."""
    return stack.manage("shell", "-v0", "-c", TOLD).stdout.strip().splitlines()[-1]


def next_step(page: Page) -> None:
    page.get_by_role("button", name="Next", exact=True).last.click()


def test_from_a_scan_through_a_failed_wave_to_a_fleet_that_complies(admin: Page, stack: Stack, browser: Browser):
    def is_ready() -> bool:
        admin.goto("/fleet/?q=name%3Dweb-checkout-*+and+status%3Donline")
        return admin.locator("#fleet-rows tr").count() == 3

    until(is_ready, seconds=90, what="three nodes are online")

    def is_known() -> bool:
        admin.goto("/documents/?q=AWS-RunPatchBaseline")
        return admin.get_by_role("link", name="AWS-RunPatchBaseline", exact=True).count() > 0

    until(is_known, seconds=90, what="the documents have been read")
    stack.manage("shell", "-v0", "-c", APPROVER)

    # The scan: a run as any other, all at once.
    admin.goto("/compliance/")
    admin.get_by_role("link", name="Scan", exact=True).click()
    admin.get_by_label("Run it on").fill(TARGETS)
    next_step(admin)
    next_step(admin)
    admin.get_by_role("button", name="See the plan").click()
    admin.get_by_role("button", name=re.compile("Start on 3")).click()
    badge = admin.locator("#run-badge")
    expect(badge).to_contain_text("Finished", timeout=90_000)
    admin.goto("/compliance/instances/?state=bad")
    expect(admin.locator(".fo-answer")).to_contain_text("3 instances do not comply")
    hub = "/compliance/security-hub/"

    def finding(word: str) -> bool:
        admin.goto(hub)
        row = admin.get_by_role("region", name="Findings of FleetOps").get_by_role("row").filter(has_text=BROKEN)
        return row.filter(has_text=word).filter(has_text="Sent").count() == 1

    until(lambda: finding("Failed"), seconds=60, what="Security Hub has the finding")
    until(lambda: counted(stack) == "1 1", seconds=60, what="somebody is told of it, once")

    # The plan: a canary, its soak and an approval, then two waves.
    admin.goto(f"/patching/runs/new/?q={TARGETS.replace('=', '%3D')}")
    admin.get_by_label("Name of the run").fill("Checkout, November")
    next_step(admin)
    admin.get_by_role("button", name="Canary, then the rest").click()
    admin.get_by_role("button", name="Add a wave").click()
    waves = [("list", "name=web-checkout-eu1a-07", "Canary"), ("list", f"name={BROKEN}", "Early"), ("rest", "", "")]
    for number, (by, value, name) in enumerate(waves, 1):
        admin.locator(f"#id_w{number}_by").select_option(by)
        admin.locator(f"#id_w{number}_value").fill(value)
        admin.locator(f"#id_w{number}_name").fill(name)
    next_step(admin)
    admin.locator("#id_w1_soak").fill("1")
    admin.locator("#id_w1_quorum").fill("1")
    admin.locator("#id_w1_approvers").select_option("patch_owner")
    admin.get_by_role("button", name="See the plan").click()
    expect(admin.locator(".fo-answer")).to_contain_text("3 instances in 3 waves")
    stack.manage("shell", "-v0", "-c", SHORT_SOAK)
    admin.get_by_role("button", name=re.compile("Start on 3")).click()
    expect(admin.locator("#lane-then-1")).to_contain_text("Waits", timeout=90_000)
    run = admin.url

    other = browser.new_context(base_url=stack.url)
    paula = other.new_page()
    paula.goto("/login/")
    paula.get_by_label("Username").fill("paula")
    paula.get_by_label("Password").fill("correct horse battery")
    paula.get_by_role("button", name="Log in").click()
    paula.wait_for_url("**/fleet/")
    paula.goto(run)
    paula.get_by_role("link", name="Approve or deny").click()
    paula.get_by_role("button", name="Approve").click()
    expect(paula.locator("main")).to_contain_text("Approved")
    other.close()

    # One node fails; the budget bears none; it is tried again.
    expect(badge).to_contain_text("Stopped, needs you", timeout=90_000)
    expect(admin.locator("#lane-3")).to_contain_text("Waiting")
    admin.locator("#run-actions").get_by_role("button", name="Retry it").click()
    expect(badge).to_contain_text("Finished", timeout=120_000)
    expect(admin.locator("#run-answer")).to_contain_text("All 3 targets are done and proven")

    # All comply; the finding is resolved, and who was told once was told of the end.
    admin.goto("/compliance/instances/?state=good")
    expect(admin.locator(".fo-answer")).to_contain_text("3 instances comply")
    until(lambda: finding("Resolved"), seconds=60, what="the finding is resolved")
    until(lambda: counted(stack) == "1 0", seconds=60, what="who was told is told of the end")
