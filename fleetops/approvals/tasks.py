"""What beat does for requests."""

from celery import shared_task

from fleetops.web.context import within

from . import services


@shared_task(ignore_result=True)
@within("worker")
def expire_due() -> None:
    """End the requests whose time is over; safe to call at any time."""
    services.expire_due()
