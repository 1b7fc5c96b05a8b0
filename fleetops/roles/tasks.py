"""Celery's part: beat wakes, the database says what is due. Safe to run at any time, any number of times."""

from celery import shared_task

from fleetops.aws.governor import Priority, acting_for
from fleetops.clock import now
from fleetops.web.context import within

from . import culprits, leasing, must, reconcile, services
from .models import RoleAttachment
from .states import AttachmentState


@shared_task(ignore_result=True)
@within("worker")
def wake() -> None:
    """End leases whose time has come, begin those that were approved, and give what is due to a worker each."""
    moment = now()
    reconcile.note_ends(at=moment)
    waiting = RoleAttachment.objects.filter(state=AttachmentState.ASKED, due_at__lte=moment)
    reconcile.each(
        waiting.select_related("instance__account", "instance__region", "account", "region", "asked_by")[:200],
        services.settle_approval,
    )
    reconcile.note_drift(at=moment)
    for account, region, keys in reconcile.claim_due(at=moment):
        bring.delay(account, region, keys)
    if leasing.due(at=moment):
        bring_privileges.delay()


@shared_task(acks_late=True, ignore_result=True, soft_time_limit=100, time_limit=110)
@within("worker")
@acting_for(Priority.RUN)
def bring(account: str, region: str, keys: list[str]) -> None:
    """Take holdings of one account and region as far as they go now."""
    reconcile.bring(keys)


@shared_task(acks_late=True, ignore_result=True, soft_time_limit=100, time_limit=110)
@within("worker")
@acting_for(Priority.RUN)
def bring_privileges() -> None:
    """Put, renew and take away privileges; two at once do the same, which changes nothing."""
    reconcile.each(leasing.due(at=now()), leasing.bring)


@shared_task(ignore_result=True)
@within("worker")
def look_for_rules() -> None:
    """Which instances lack what a rule says they must have; and who changed what was changed outside."""
    must.look()
    culprits.look()
