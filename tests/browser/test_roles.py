"""An instance without a role: why, a lease, a shell, its end; and a privilege that leaves the role where it is."""

import re

import pytest
from playwright.sync_api import Page, expect

from fleetops import clock
from tests.support.stack import Stack, until

from .test_one_click_shell import wait_for_screen

pytestmark = pytest.mark.browser

RULE = """
from fleetops.roles.models import RoleRule
RoleRule.objects.get_or_create(
    name="Privileges on ssm-core", defaults={"targets": "all", "profile_name": "ssm-core", "allows_privileges": True}
)
"""
POLICY = '{"Statement": {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::orders"}}'


def of_instance(page: Page, name: str) -> None:
    page.goto("/fleet/")
    page.get_by_role("link", name=name, exact=True).first.click(timeout=60_000)
    page.wait_for_url(re.compile(r"/[0-9a-f-]{36}/$"))


def profile(stack: Stack, name: str) -> str:
    ec2 = stack.boto3("ec2")
    found = ec2.describe_instances(Filters=[{"Name": "tag:Name", "Values": [name]}])["Reservations"][0]["Instances"][0]
    return (found.get("IamInstanceProfile") or {}).get("Arn", "").rpartition("/")[2]


@pytest.mark.timeout(240)
def test_a_role_is_leased_for_a_shell_and_gone_after_two_minutes(admin: Page, stack: Stack):
    name = "kafka-events-eu1c-3"
    admin.goto("/roles/catalogue/")
    admin.get_by_role("button", name=re.compile("Create standard role in")).click()
    expect(admin.get_by_role("region", name="Standard role").get_by_role("link")).to_have_count(2, timeout=60_000)

    of_instance(admin, name)
    expect(admin.get_by_text("No instance profile is attached")).to_be_visible()
    admin.get_by_role("link", name="Attach for 60 min and connect").click()
    admin.get_by_label("For so many minutes").fill("2")
    admin.get_by_label("After these minutes, also when the session has ended before").check()
    admin.get_by_label("Reason (optional)").fill("INC-4807: the broker stands still")
    admin.get_by_role("button", name="Attach and connect").click()
    admin.wait_for_url(re.compile(r"/sessions/[0-9a-f-]{36}/$"), timeout=90_000)
    wait_for_screen(admin, r"[$#] $")
    admin.keyboard.type("echo leased-$((1+1))\n")
    wait_for_screen(admin, "^leased-2$")
    assert profile(stack, name) == "fleetops-ssm-core"

    clock.set_shift(stack.clock_file, jump=121)
    until(lambda: profile(stack, name) == "", seconds=60, what="the role is gone")
    of_instance(admin, name)
    expect(admin.get_by_text("No instance profile is attached")).to_be_visible(timeout=60_000)
    admin.goto("/audit/?q=kind:role")
    for words in ("asked for a role on", "put a role in place on", "ended a role on", "put back what was there"):
        expect(admin.get_by_text(words).first).to_be_visible()


@pytest.mark.timeout(120)
def test_a_privilege_alone_is_leased_and_the_role_stays(admin: Page, stack: Stack):
    stack.manage("shell", "-c", RULE)
    of_instance(admin, "pay-api-eu1a-01")
    admin.goto(f"/roles/new/?instance={re.search('[0-9a-f-]{36}', admin.url)[0]}")
    admin.get_by_role("radio", name=re.compile("rivilege")).check()
    admin.get_by_text("The policy, for privilege only").click()
    admin.get_by_label("What it is called").fill("read orders")
    admin.locator("textarea[name=policy]").fill(POLICY)
    admin.get_by_label("Minutes").fill("30")
    admin.get_by_role("button", name="Attach", exact=True).click()
    expect(admin.get_by_text("In place", exact=True).first).to_be_visible(timeout=60_000)
    iam = stack.boto3("iam")
    (policy,) = [each for each in iam.list_role_policies(RoleName="ssm-core")["PolicyNames"] if "lease" in each]
    text = str(iam.get_role_policy(RoleName="ssm-core", PolicyName=policy)["PolicyDocument"])
    assert "ec2:SourceInstanceARN" in text and "aws:CurrentTime" in text
    assert profile(stack, "pay-api-eu1a-01") == "ssm-core"
    admin.get_by_role("link", name=re.compile("^End")).or_(
        admin.get_by_role("button", name=re.compile("^End"))
    ).first.click()
    admin.get_by_role("button", name=re.compile("^End")).first.click()
    until(
        lambda: policy not in iam.list_role_policies(RoleName="ssm-core")["PolicyNames"], seconds=60, what="it is gone"
    )
