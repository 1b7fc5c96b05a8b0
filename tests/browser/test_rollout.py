"""A document in waves: planned, let go after an approval, stopped by a node that fails, mended, and at its end well."""

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.endpoint import until

from .conftest import Stack

pytestmark = [pytest.mark.browser, pytest.mark.long]  # test_patching.py tells the same of patches, in `make test`
TARGETS = "name=pay-api-* and status=online"
BROKEN = "pay-api-eu1b-02"
# A node with this file fails once.
COMMANDS = '[ ! -e "$HOME/broken" ] || { rm "$HOME/broken"; echo "the disk is full"; exit 3; }'
BREAK = f"""
from fleetops.identity.models import User
from fleetops.inventory.models import Instance
from fleetops.library.models import Document
from fleetops.runcommand import services
node = Instance.objects.get(name="{BROKEN}")
document = Document.objects.get(name="AWS-RunShellScript", account=node.account, region=node.region)
admin = User.objects.get(username="admin")
chosen = Instance.objects.filter(pk=node.pk)
made = services.draft(document, parameters={{"commands": ['touch "$HOME/broken"']}}, instances=chosen, actor=admin)
services.start(made, actor=admin)
print(made.pk)
"""
SECOND = """
from django.contrib.auth.models import Group
from fleetops.identity.models import User
priya = User.objects.create_user("priya", password="correct horse battery")
priya.groups.add(Group.objects.get(name="administrator"))
"""
# A minute is the shortest soak that a person may ask for, and too long for a test.
SHORT_SOAK = """
from fleetops.rollouts.models import Wave
Wave.objects.filter(run__state="draft").update(soak_seconds=2)
"""


def test_a_run_stops_at_a_failure_and_ends_well_once_that_is_mended(admin: Page, stack: Stack, browser: Browser):
    def is_ready() -> bool:
        admin.goto("/documents/?q=AWS-RunShellScript")
        is_read = admin.get_by_role("link", name="AWS-RunShellScript", exact=True).count() > 0
        admin.goto(f"/fleet/?q=name%3D{BROKEN}+and+status%3Donline")
        return is_read and admin.locator("#fleet-rows tr").count() == 1

    until(is_ready, seconds=90, what="documents are read, and the node is online")
    stack.manage("shell", "-v0", "-c", SECOND)
    command = stack.manage("shell", "-v0", "-c", BREAK).stdout.strip().splitlines()[-1]
    admin.goto(f"/commands/{command}/")
    expect(admin.locator("#command-badge")).to_contain_text("Succeeded", timeout=60_000)

    admin.goto("/runs/")
    expect(admin.locator("main")).to_contain_text("No run yet")
    admin.locator(".page-actions").get_by_role("link", name="New run").click()
    admin.get_by_label("Find a document").fill("RunShell")
    admin.get_by_role("button", name="Find").click()
    admin.get_by_role("link", name="AWS-RunShellScript").click()
    admin.get_by_label("Run it on").fill(TARGETS)
    admin.get_by_label("Name of the run").fill("Payments, a check")
    admin.get_by_label("commands", exact=True).fill(COMMANDS)
    admin.get_by_role("button", name="Next").last.click()

    # A canary by name, one wave with the node that is broken, and the rest.
    admin.get_by_role("button", name="Canary, then the rest").click()
    admin.get_by_role("button", name="Add a wave").click()
    for number, (by, value, name) in enumerate(
        [("list", "name=pay-api-eu1a-01", "Canary"), ("list", f"name={BROKEN}", "Early"), ("rest", "", "")], 1
    ):
        admin.locator(f"#id_w{number}_by").select_option(by)
        admin.locator(f"#id_w{number}_value").fill(value)
        admin.locator(f"#id_w{number}_name").fill(name)
    admin.get_by_role("button", name="Next").last.click()
    admin.locator("#id_w1_soak").fill("1")
    admin.locator("#id_w1_quorum").fill("1")
    admin.get_by_role("button", name="See the plan").click()
    expect(admin.locator(".fo-answer")).to_contain_text("instances in 3 waves")
    expect(admin.locator("main")).to_contain_text("approval by administrator")
    stack.manage("shell", "-v0", "-c", SHORT_SOAK)
    admin.get_by_role("button", name=re.compile("Start on")).click()

    # The canary, its soak, and the approval of somebody else.
    canary = admin.locator(".fo-target").filter(has_text="pay-api-eu1a-01")
    expect(canary).to_contain_text("Proven", timeout=60_000)
    expect(admin.locator("#lane-then-1")).to_contain_text("Waits", timeout=60_000)
    run = admin.url
    other = browser.new_context(base_url=stack.url)
    priya = other.new_page()
    priya.goto("/login/")
    priya.get_by_label("Username").fill("priya")
    priya.get_by_label("Password").fill("correct horse battery")
    priya.get_by_role("button", name="Log in").click()
    priya.wait_for_url("**/fleet/")
    priya.goto(run)
    priya.get_by_role("link", name="Approve or deny").click()
    priya.get_by_role("button", name="Approve").click()
    expect(priya.locator("main")).to_contain_text("Approved")
    other.close()

    # One node fails, and the budget bears none.
    badge = admin.locator("#run-badge")
    expect(badge).to_contain_text("Stopped, needs you", timeout=60_000)
    failed = admin.locator(".fo-target").filter(has_text=BROKEN)
    expect(failed).to_contain_text("Failed")
    expect(admin.locator("#run-live")).to_contain_text("1 of 0")
    expect(admin.locator("#lane-3")).to_contain_text("Waiting")
    failed.click()
    drawer = admin.locator("#drawer")
    expect(drawer).to_contain_text("exit code 3")
    drawer.get_by_role("link", name="Full output").click()
    expect(admin.locator("#output")).to_contain_text("the disk is full")
    admin.goto(run)

    # What somebody types stays under their hands while the page follows.
    admin.get_by_text("Roll forward").click()
    reason = admin.locator("#forward-reason")
    reason.fill("known")
    admin.wait_for_timeout(4000)
    expect(reason).to_have_value("known")
    admin.keyboard.press("Escape")
    expect(reason).not_to_be_visible()

    admin.locator("#run-actions").get_by_role("button", name="Retry it").click()
    expect(badge).to_contain_text("Finished", timeout=90_000)
    expect(admin.locator("#run-answer")).to_contain_text(re.compile(r"All \d+ targets are done and proven"))
    admin.goto("/audit/?q=action:rollouts.retry")
    expect(admin.locator("main")).to_contain_text("Payments, a check")
