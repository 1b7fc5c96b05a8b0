"""Celery's part: keep the mirror of IAM fresh, and make the standard role. Safe to run at any time, however often."""

from celery import shared_task
from celery.exceptions import SoftTimeLimitExceeded

from fleetops.aws.governor import Priority, acting_for
from fleetops.clock import now
from fleetops.web.context import within

from . import services, standard


@shared_task(ignore_result=True)
@within("worker")
def read_due() -> None:
    """Give the accounts whose IAM is due, and standard roles that wait, to workers."""
    for pk in standard.claim_due(at=now()):
        make.delay(pk)
    for reading in services.claim_due(at=now()):
        read.delay(reading)


@shared_task(acks_late=True, ignore_result=True, soft_time_limit=120, time_limit=130)
@within("worker")
@acting_for(Priority.POLL)
def read(reading_id: int) -> None:
    """Read IAM of one claimed account."""
    try:
        services.read(reading_id, at=now())
    except SoftTimeLimitExceeded:
        services.fail(reading_id, "Reading IAM took longer than 120 s; it is tried again by itself.")


@shared_task(acks_late=True, ignore_result=True, soft_time_limit=90, time_limit=100)
@within("worker")
@acting_for(Priority.PERSON)
def make(pk: str) -> None:
    """Make or mend the standard role of one account that is claimed."""
    standard.work(pk)
