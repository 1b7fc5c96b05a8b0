"""Celery's part: keep the mirror of documents fresh. Safe to run at any time, any number of times."""

from celery import shared_task
from celery.exceptions import SoftTimeLimitExceeded

from fleetops.aws.governor import Priority, acting_for
from fleetops.clock import now
from fleetops.web.context import within

from . import services


@shared_task(ignore_result=True)
@within("worker")
def read_due_shelves() -> None:
    """Give the regions whose documents are due to workers."""
    for shelf_id in services.claim_due_shelves(now=now()):
        read_shelf.delay(shelf_id)


@shared_task(acks_late=True, ignore_result=True, soft_time_limit=90, time_limit=100)
@within("worker")
@acting_for(Priority.POLL)
def read_shelf(shelf_id: int) -> None:
    """Read the documents of one claimed region."""
    try:
        services.read_shelf(shelf_id, now=now())
    except SoftTimeLimitExceeded:
        services.fail_shelf(shelf_id, "Reading the documents took longer than 90 s; it is tried again by itself.")
