"""A deed that takes all three: leave of somebody else, no freeze, and people who are told of it."""

from datetime import timedelta

import pytest
from django.db import transaction

from fleetops.approvals import services as approvals
from fleetops.audit.record import Target
from fleetops.calendars import services as calendars
from fleetops.clock import now
from fleetops.errors import UserError
from fleetops.notify import services as notify
from fleetops.notify.models import Notice
from fleetops.targets import TargetFacts
from tests.factories import make_user

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("roles")]

NODE = TargetFacts("i-1", name="pay-api-1", account_id="111122223333", region="eu-west-1", tags={"env": "prod"})
DETAILS = {"instance": "i-1", "account": "111122223333", "what": "restart"}


def restart(*, actor, approval, done):
    """The demo deed: decided by calendars, used up from an approval and told, in one transaction."""
    gate = calendars.ask("run_document", NODE, now())
    if not gate.is_open:
        raise UserError(f"Not now: {gate.holds[0]}.")
    with transaction.atomic():
        approvals.take(approval.pk, deed="demo.restart", details=DETAILS, actor=actor)
        notify.notify("notify.test", dedup_key="restart i-1", title=f"{actor} restarts pay-api-1")
        done.append("restarted")


def test_a_deed_waits_for_leave_and_for_the_end_of_a_freeze_and_is_done_and_told_once():
    actor, approver = make_user(role="administrator"), make_user(role="administrator")
    done: list[str] = []
    asked = approvals.ask(
        deed="demo.restart",
        summary="Restart pay-api-1",
        requested_by=actor,
        expires_at=now() + timedelta(hours=1),
        details=DETAILS,
        subject=Target("inventory.instance", "i-1", "pay-api-1"),
    )
    freeze = calendars.create_calendar(actor=approver, name="Hold", source="own", targets="env=prod")
    here = now().replace(tzinfo=None)
    entry = calendars.add_entry(
        freeze, actor=approver, title="Incident", start=here - timedelta(hours=1), end=here + timedelta(hours=1)
    )
    approvals.vote(asked.pk, actor=approver, approve=True)
    with pytest.raises(UserError, match=r"Not now: frozen by “Hold” until .*: Incident"):
        restart(actor=actor, approval=asked, done=done)
    calendars.remove_entry(entry, actor=approver)
    restart(actor=actor, approval=asked, done=done)
    with pytest.raises(UserError, match="is used"):
        restart(actor=actor, approval=asked, done=done)
    assert done == ["restarted"]
    assert Notice.objects.get().repeats == 0
