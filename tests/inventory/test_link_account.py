"""Linking an AWS account by hand."""

import pytest
from django.core.management import CommandError, call_command

from fleetops.audit.models import AuditEvent
from fleetops.inventory.models import Account

pytestmark = pytest.mark.django_db

ACCOUNT = "222233334444"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/FleetOpsControlPlane"


def link(account_id: str = ACCOUNT, *arguments: str) -> None:
    call_command("link_account", account_id, "--name", "payments", "--region", "eu-west-1", *arguments)


def test_an_account_is_linked_with_its_role_and_regions_and_the_deed_is_audited():
    link(ACCOUNT, "--region", "us-east-1", "--role-arn", ROLE, "--external-id", "known-to-us")

    account = Account.objects.get()
    assert (account.account_id, account.name, account.role_arn, account.endpoint_url) == (ACCOUNT, "payments", ROLE, "")
    assert set(account.regions.values_list("name", flat=True)) == {"eu-west-1", "us-east-1"}
    assert AuditEvent.objects.get(action="inventory.account.link").target_name == "payments"


def test_linking_again_changes_the_row_and_makes_no_second_one():
    link()
    link(ACCOUNT, "--role-arn", ROLE)
    assert Account.objects.get().role_arn == ROLE


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("12345",), "twelve digits"),
        ((ACCOUNT, "--role-arn", "arn:aws:iam::999999999999:role/Other"), "This role is of account 999999999999"),
        ((ACCOUNT, "--external-id", "known-to-us"), "belongs to a role"),
        ((ACCOUNT, "--role-arn", ROLE, "--external-id", "known to us"), "no blanks"),
        ((ACCOUNT, "--region", "Ireland"), "is no region"),
    ],
)
def test_bad_input_is_told_and_changes_nothing(arguments, word):
    with pytest.raises(CommandError, match=word):
        link(*arguments)
    assert not Account.objects.exists()
