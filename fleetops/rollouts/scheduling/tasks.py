"""Celery's part: beat wakes, the database says what is due. Safe to run at any time, any number of times."""

from celery import shared_task

from fleetops.aws.governor import Priority, acting_for
from fleetops.rollouts.tasks import advance_run
from fleetops.web.context import within

from . import due


@shared_task(ignore_result=True)
@within("worker")
def wake() -> None:
    """Note which schedules are due, and give what is to be planned or started to a worker each."""
    due.take_due()
    due.settle()
    for pk in due.claim_due():
        carry_out.delay(str(pk))


@shared_task(acks_late=True, ignore_result=True, soft_time_limit=150, time_limit=160)
@within("worker")
@acting_for(Priority.RUN)
def carry_out(pk: str) -> None:
    """Plan and start the run of one moment."""
    if run := due.carry_out(pk):
        advance_run.delay(str(run))


@shared_task(ignore_result=True)
@within("worker")
def drop_old() -> None:
    """Forget what was due more than a year ago."""
    due.drop_old()
