"""The fleet page stays true by itself, and still under the reader's hands."""

import re

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser
SOON = 45_000  # milliseconds: a refresh of the region, and a question of the page after it


def test_a_stopped_instance_turns_in_its_row_and_takes_nobodys_focus(admin: Page, stack):
    ec2 = stack.boto3("ec2")
    machines = [
        each
        for reservation in ec2.describe_instances(Filters=[{"Name": "tag:Name", "Values": ["pay-api-dev-01"]}])[
            "Reservations"
        ]
        for each in reservation["Instances"]
    ]
    instance_id = machines[0]["InstanceId"]
    row = admin.get_by_role("row").filter(has_text="pay-api-dev-01")
    expect(row.get_by_text("Online")).to_be_visible(timeout=SOON)
    other = admin.get_by_role("row").filter(has_text="pay-api-eu1a-01").get_by_role("button", name="Connect")
    other.focus()
    place = row.bounding_box()

    ec2.stop_instances(InstanceIds=[instance_id])
    try:
        expect(row.get_by_text("Stopped")).to_be_visible(timeout=SOON)
        expect(row.get_by_role("link", name="See why")).to_be_visible()
        expect(other).to_be_focused()
        assert row.bounding_box() == place
        expect(admin.locator(".fo-answer")).to_contain_text("2 are stopped")

        row.get_by_role("link", name="See why").click()
        expect(admin.get_by_text("EC2 says that this instance is stopped.")).to_be_visible()
        expect(admin.get_by_role("button", name="Connect")).to_be_disabled()
    finally:
        ec2.start_instances(InstanceIds=[instance_id])
    admin.get_by_role("button", name="Check again").click()
    expect(admin.get_by_role("button", name="Connect")).to_be_enabled(timeout=SOON)


def test_a_filter_is_typed_sent_and_taken_off_by_hand(admin: Page):
    expect(admin.get_by_role("row").filter(has_text="pay-api-eu1a-01")).to_be_visible(timeout=SOON)
    admin.keyboard.press("/")
    admin.keyboard.type("tag:env=staging")
    admin.keyboard.press("Enter")
    expect(admin.get_by_label("Remove filter env is staging")).to_be_visible()
    expect(admin.get_by_role("row").filter(has_text="web-checkout-stg-01")).to_be_visible()
    expect(admin.get_by_role("row").filter(has_text="pay-api-eu1a-01")).to_have_count(0)
    shared = admin.url
    admin.get_by_label("Remove filter env is staging").click()
    expect(admin.get_by_role("row").filter(has_text="pay-api-eu1a-01")).to_be_visible()
    admin.goto(shared)
    expect(admin.get_by_label("Remove filter env is staging")).to_be_visible()


def test_the_list_follows_an_expression_as_it_is_typed_and_offers_what_may_come(admin: Page):
    box = admin.get_by_role("combobox", name="Filter instances")
    rows = admin.locator("#fleet-rows tr")
    expect(rows.filter(has_text="pay-api-eu1a-01")).to_be_visible(timeout=SOON)
    everything = rows.count()

    box.press_sequentially("env=st")
    options = admin.get_by_role("option")
    expect(options.first).to_have_text(re.compile("^staging"))
    box.press("ArrowDown")
    expect(options.first).to_have_attribute("aria-selected", "true")
    box.press("Enter")  # takes it, and sends nothing yet
    expect(box).to_have_value("env=staging")
    expect(admin.locator("#fleet-count")).to_have_text(re.compile(r"\d+ match"))
    expect(rows.filter(has_text="web-checkout-stg-01")).to_be_visible()
    expect(rows.filter(has_text="pay-api-eu1a-01")).to_have_count(0)
    expect(box).to_be_focused()
    few = rows.count()
    assert 0 < few < everything

    box.press_sequentially(" and cluster=web or x=1")  # which cannot be read in one way
    expect(admin.locator("#fleet-problem")).to_contain_text("Say with parentheses what belongs together")
    assert rows.count() == few

    box.fill("not env=staging")
    expect(rows.filter(has_text="pay-api-eu1a-01")).to_be_visible()
    expect(rows.filter(has_text="web-checkout-stg-01")).to_have_count(0)
    expect(admin.locator("#fleet-problem")).to_be_empty()
    admin.reload()  # what is typed lives in the URL
    expect(admin.get_by_label("Remove filter env is not staging")).to_be_visible()


def test_a_filter_is_kept_under_a_name_and_opens_the_fleet(admin: Page):
    admin.goto("/fleet/?q=env=staging")
    admin.get_by_label("Saved filters").click()
    admin.get_by_label("Save this filter as").fill("Staging")
    admin.get_by_role("button", name="Save filter").click()
    expect(admin.get_by_text("Saved the filter Staging.")).to_be_visible()
    admin.goto("/fleet/filters/")
    admin.get_by_role("button", name="Open the fleet with Staging").click()
    admin.goto("/fleet/")
    expect(admin.get_by_label("Remove filter env is staging")).to_be_visible()
    admin.get_by_role("link", name=re.compile("^Clear")).click()
    expect(admin.get_by_role("row").filter(has_text="pay-api-eu1a-01")).to_be_visible(timeout=SOON)
    admin.goto("/fleet/filters/")
    admin.get_by_label("Change Staging").click()
    expect(admin.locator(".fo-preview")).to_contain_text(re.compile(r"\d+ of \d+ instances: \S+"))
    admin.get_by_role("button", name="Delete Staging").click()
    expect(admin.get_by_text("Deleted the filter Staging.")).to_be_visible()


@pytest.mark.parametrize("width", [390, 320])
def test_on_a_phone_nothing_goes_sideways_and_connect_is_there(admin: Page, width):
    expect(admin.get_by_role("row").filter(has_text="pay-api-eu1a-01")).to_be_visible(timeout=SOON)
    admin.set_viewport_size({"width": width, "height": 800})
    assert admin.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert admin.get_by_role("button", name="Connect").first.is_visible()
    admin.get_by_role("link", name="pay-api-eu1a-01").click()
    expect(admin.get_by_role("button", name="Connect")).to_be_visible()
    assert admin.evaluate("document.documentElement.scrollWidth <= innerWidth")
