"""Celery's part: beat wakes, the database says what is due. Safe to run at any time, any number of times."""

from celery import shared_task

from fleetops.aws.governor import Priority, acting_for
from fleetops.clock import now
from fleetops.web.context import within

from . import services


@shared_task(ignore_result=True)
@within("worker")
def wake() -> None:
    """Give each execution that is due, and each region that is to be listed, to a worker."""
    moment = now()
    for pk in services.claim_due(at=moment):
        advance.delay(str(pk))
    for pk in services.claim_regions(at=moment):
        list_region.delay(pk)


@shared_task(acks_late=True, ignore_result=True, soft_time_limit=50, time_limit=55)
@within("worker")
@acting_for(Priority.RUN)
def advance(pk: str) -> None:
    """Start one execution, or read how far it has come."""
    services.advance(pk)


@shared_task(ignore_result=True, soft_time_limit=50, time_limit=55)
@within("worker")
@acting_for(Priority.POLL)
def list_region(pk: int) -> None:
    """List what a region has begun."""
    services.list_region(pk)
