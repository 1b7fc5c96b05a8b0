"""Celery's part: read what instances report of their patches. Safe to run at any time, any number of times."""

from celery import shared_task
from celery.exceptions import SoftTimeLimitExceeded

from fleetops.aws.governor import Priority, acting_for
from fleetops.clock import now
from fleetops.web.context import within

from . import findings, reading, standing


@shared_task(ignore_result=True)
@within("worker")
def read_due() -> None:
    """Give the regions whose reports are due to workers, and those with reports whose patches are not read."""
    for reader_id in reading.claim_due(now=now()):
        read_reports.delay(reader_id)
    for region_id in reading.regions_with_details_due(now=now()):
        read_patches.delay(region_id)


@shared_task(acks_late=True, ignore_result=True, soft_time_limit=90, time_limit=100)
@within("worker")
@acting_for(Priority.POLL)
def read_reports(reader_id: int) -> None:
    """Read the summaries of one claimed region."""
    try:
        reading.read(reader_id, now=now())
    except SoftTimeLimitExceeded:
        reading.fail(reader_id, "Reading the patch reports took longer than 90 s; it goes on by itself.")


@shared_task(acks_late=True, ignore_result=True, soft_time_limit=90, time_limit=100)
@within("worker")
@acting_for(Priority.POLL)
def read_patches(region_id: int) -> None:
    """Read the patches of some instances of a region, one by one."""
    reading.read_details(region_id, now=now())


@shared_task(ignore_result=True)
@within("worker")
def tell_due() -> None:
    """Give the regions with findings to send to workers; resolve those of instances that are gone; tell of SLAs."""
    findings.resolve_gone(now=now())
    standing.tell_all()
    standing.tell_overdue(at=now())
    for hub_id in findings.claim_due(now=now()):
        send_findings.delay(hub_id)


@shared_task(acks_late=True, ignore_result=True, soft_time_limit=90, time_limit=100)
@within("worker")
@acting_for(Priority.POLL)
def send_findings(hub_id: int) -> None:
    """Send what is due of one claimed region to Security Hub."""
    findings.work(hub_id, now=now())
