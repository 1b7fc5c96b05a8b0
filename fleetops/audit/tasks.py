"""What beat asks of the audit log."""

from celery import shared_task

from fleetops.web.context import within

from . import services
from .chain import Sealer

# One in each process: it remembers when it last swept over everything.
_sealer = Sealer()


@shared_task(acks_late=True, ignore_result=True, soft_time_limit=20, time_limit=30)
def seal() -> None:
    """Seal the rows of the last second, and whatever was left over; returns after a few seconds at most."""
    _sealer.seal(seconds=5)


# Acknowledged early: it may take longer than the broker waits before it gives a task to another worker.
@shared_task(acks_late=False, ignore_result=True, soft_time_limit=1700, time_limit=1800)
@within("worker")
def verify() -> None:
    """Recompute the whole chain, and write down what came of it."""
    services.verify_and_record(actor="worker")
