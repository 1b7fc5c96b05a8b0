"""Celery's part: beat looks at all orders that are not over. Safe to run at any time, any number of times."""

from celery import shared_task

from fleetops.web.context import within

from . import services


@shared_task(ignore_result=True)
@within("worker")
def settle() -> None:
    """Bring each order as far as it goes now; end leases whose session has ended."""
    services.settle_all()
