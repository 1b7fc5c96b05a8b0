"""What beat and workers do with the outbox."""

from datetime import datetime
from uuid import UUID

from celery import shared_task

from fleetops.clock import now
from fleetops.web.context import within

from . import services


@shared_task(ignore_result=True)
@within("worker")
def deliver_due() -> None:
    """Claim what is to be sent, and give each to a worker; safe to call at any time."""
    for pk, claim in services.claim_due(at=now()):
        deliver.delay(str(pk), claim.isoformat())


@shared_task(acks_late=True, ignore_result=True, soft_time_limit=40, time_limit=50)
@within("worker")
def deliver(pk: str, claim: str) -> None:
    """Send one claimed delivery."""
    services.deliver(UUID(pk), datetime.fromisoformat(claim))


@shared_task(ignore_result=True)
@within("worker")
def tidy() -> None:
    """Forget old notices."""
    services.tidy(at=now())
