"""Celery's part: keep security groups in view, close and re-open. Safe to run at any time, however often."""

from celery import shared_task
from celery.exceptions import SoftTimeLimitExceeded

from fleetops.aws.governor import Priority, acting_for
from fleetops.clock import now
from fleetops.web.context import within

from . import reading, services
from .models import Closing


@shared_task(ignore_result=True)
@within("worker")
def wake() -> None:
    """Give the regions that are due, and what waits to be closed or opened, to workers."""
    for pk in services.claim_due(at=now()):
        work.delay(pk)
    for reading_id in reading.claim_due(at=now()):
        read.delay(reading_id)


@shared_task(acks_late=True, ignore_result=True, soft_time_limit=120, time_limit=130)
@within("worker")
@acting_for(Priority.POLL)
def read(reading_id: int) -> None:
    """Read the security groups of one claimed region."""
    try:
        reading.read(reading_id, at=now())
    except SoftTimeLimitExceeded:
        reading.fail(reading_id, "Reading took longer than 120 s; it is tried again by itself.")


@shared_task(acks_late=True, ignore_result=True, soft_time_limit=90, time_limit=100)
@within("worker")
@acting_for(Priority.PERSON)
def work(pk: str) -> None:
    """Close or re-open the rules of one group that is claimed."""
    services.work(pk)


def start(closing: Closing) -> None:
    """Have a worker take one that was just asked for; beat would find it within seconds."""
    if services.claim(closing.pk, at=now()):
        work.delay_on_commit(str(closing.pk))
