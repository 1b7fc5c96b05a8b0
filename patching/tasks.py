"""Celery's part: keep the mirror fresh, carry out and heal changes. Safe to run at any time, any number of times."""

import uuid

from celery import shared_task
from celery.exceptions import SoftTimeLimitExceeded

from fleetops.aws.governor import Priority, acting_for
from fleetops.clock import now
from fleetops.web.context import within

from . import known, mirror, writing


@shared_task(ignore_result=True)
@within("worker")
def read_due() -> None:
    """Give the regions whose baselines are due to workers."""
    for mirror_id in mirror.claim_due(now=now()):
        read_mirror.delay(mirror_id)


@shared_task(acks_late=True, ignore_result=True, soft_time_limit=90, time_limit=100)
@within("worker")
@acting_for(Priority.POLL)
def read_mirror(mirror_id: int) -> None:
    """Read the baselines and groups of one claimed region."""
    try:
        mirror.read(mirror_id, now=now())
    except SoftTimeLimitExceeded:
        mirror.fail(mirror_id, "Reading the baselines took longer than 90 s; it is tried again by itself.")


@shared_task(ignore_result=True)
@within("worker")
def heal_due() -> None:
    """Give changes that nobody carries out to workers."""
    for write_id in writing.due(now=now()):
        write_out.delay(str(write_id))


@shared_task(acks_late=True, ignore_result=True, soft_time_limit=90, time_limit=100)
@within("worker")
def write_out(write_id: str) -> None:
    """Carry out one change, unless somebody does."""
    writing.heal(uuid.UUID(write_id), now=now())


@shared_task(ignore_result=True)
@within("worker")
def read_asked() -> None:
    """Give the patches that a preview waits for to workers."""
    for known_id in known.asked(now=now()):
        read_known.delay(known_id)


@shared_task(acks_late=True, ignore_result=True, soft_time_limit=90, time_limit=100)
@within("worker")
@acting_for(Priority.RUN)
def read_known(known_id: int) -> None:
    """Read the patches of one operating system, for whoever looks at a preview."""
    try:
        known.read(known_id, now=now())
    except SoftTimeLimitExceeded:
        known.fail(known_id, "Reading the patches took longer than 90 s. Load the page again to try once more.")
