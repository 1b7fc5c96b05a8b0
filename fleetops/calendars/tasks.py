"""What beat and workers do for calendars."""

from uuid import UUID

from celery import shared_task

from fleetops.clock import now
from fleetops.web.context import within

from . import services


@shared_task(ignore_result=True)
@within("worker")
def fetch_due() -> None:
    """Claim the calendars whose time has come, and give each to a worker; safe to call at any time."""
    for pk in services.claim_due(at=now()):
        refetch.delay(str(pk))


@shared_task(acks_late=True, ignore_result=True, soft_time_limit=50, time_limit=60)
@within("worker")
def refetch(pk: str) -> None:
    """Fetch one claimed calendar."""
    services.refetch(UUID(pk))
