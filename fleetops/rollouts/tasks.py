"""Celery's part: take each open run further. Safe to run at any time, any number of times."""

from celery import shared_task

from fleetops.aws.governor import Priority, acting_for
from fleetops.clock import now
from fleetops.runcommand import tasks as runcommand
from fleetops.web.context import within

from . import advancing, plan


@shared_task(ignore_result=True)
@within("worker")
def advance_due() -> None:
    """Give each open run that is due to a worker."""
    for run_id in advancing.claim_due(now=now()):
        advance_run.delay(str(run_id))


@shared_task(acks_late=True, ignore_result=True, soft_time_limit=90, time_limit=100)
@within("worker")
@acting_for(Priority.RUN)
def advance_run(run_id: str) -> None:
    """Take one run one step further, and have the commands that it made sent at once."""
    for command_id in advancing.advance(run_id):
        runcommand.advance.delay(str(command_id))


@shared_task(ignore_result=True)
@within("worker")
def drop_old_drafts() -> None:
    """Forget plans that nobody started."""
    plan.drop_old_drafts(now=now())
