"""Celery's part: take each open command further. Safe to run at any time, any number of times."""

from celery import shared_task

from fleetops.aws.governor import Priority, acting_for
from fleetops.clock import now
from fleetops.web.context import within

from . import dispatching, services


@shared_task(ignore_result=True)
@within("worker")
def advance_due() -> None:
    """Give each open command that is due to a worker."""
    for command_id in dispatching.claim_due(now=now()):
        advance.delay(str(command_id))


@shared_task(acks_late=True, ignore_result=True, soft_time_limit=90, time_limit=100)
@within("worker")
@acting_for(Priority.RUN)
def advance(command_id: str) -> None:
    """Take one command one step further."""
    dispatching.advance(command_id)


@shared_task(ignore_result=True)
@within("worker")
def drop_old_drafts() -> None:
    """Forget plans that nobody started."""
    services.drop_old_drafts(now=now())
