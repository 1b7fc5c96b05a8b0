"""Celery's part: ship recordings, and look after what lost its owner. Safe to run at any time, any number of times."""

from uuid import UUID

from celery import shared_task

from fleetops.aws.governor import Priority, acting_for
from fleetops.clock import now
from fleetops.web.context import within

from . import grants, session_documents, upkeep
from .delivery import checks, copies, logs
from .delivery import services as deliveries


@shared_task(acks_late=True, ignore_result=True)
@within("worker")
def ship_chunks() -> None:
    """Bring sealed chunks into the recording store."""
    upkeep.ship_chunks()


@shared_task(acks_late=True, ignore_result=True)
@within("worker")
@acting_for(Priority.RUN)  # it ends shells that should be over
def tidy() -> None:
    """End and seal sessions whose owner is gone for good, and clear the spool."""
    upkeep.tidy()


@shared_task(acks_late=True, ignore_result=True)
@within("worker")
def settle_grants() -> None:
    """Write down which grants have begun and ended; sessions do not wait for it."""
    grants.settle_due()


@shared_task(acks_late=True, ignore_result=True)
@within("worker")
@acting_for(Priority.RUN)
def deliver_logs() -> None:
    """Deliver what sessions have for CloudWatch Logs. One worker at a time; claims hold where that is not known."""
    with logs.one_at_a_time() as is_mine:
        if is_mine:
            logs.deliver_due()


@shared_task(acks_late=True, ignore_result=True)
@within("worker")
@acting_for(Priority.RUN)
def copy_recordings() -> None:
    """Copy finished recordings into the buckets that their accounts name."""
    copies.copy_due()


@shared_task(acks_late=True, ignore_result=True)
@within("worker")
def tell_late_deliveries() -> None:
    """Tell people of sessions that have waited for ten minutes to be delivered."""
    deliveries.tell_late(now())


@shared_task(acks_late=True, ignore_result=True)
@within("worker")
@acting_for(Priority.PERSON)
def check_delivery(account_id: str) -> None:
    """Make each call of an account's deliveries once, for whoever asked."""
    checks.carry_out(UUID(account_id))


@shared_task(ignore_result=True)
@within("worker")
def prepare_documents() -> None:
    """Give each region whose session documents are to be looked after to a worker."""
    for region in session_documents.regions_due(now()):
        prepare_region.delay(region.pk)


@shared_task(acks_late=True, ignore_result=True, soft_time_limit=50, time_limit=60)
@within("worker")
@acting_for(Priority.POLL)
def prepare_region(region_id: int) -> None:
    """Have our session documents in one region, so that no click waits for them."""
    session_documents.prepare(region_id)
