"""What beat and workers do for the fleet."""

from celery import shared_task
from celery.exceptions import SoftTimeLimitExceeded

from fleetops.aws.governor import Priority, acting_for
from fleetops.clock import now
from fleetops.web.context import within

from . import account_checks, ceilings, events, identity_checks, services


@shared_task(ignore_result=True)
@within("worker")
def refresh_due_regions() -> None:
    """Claim the regions whose time has come, and give each to a worker; safe to call at any time."""
    for region_id in services.claim_due_regions(now=now()):
        refresh_region.delay(region_id)


# Acknowledged late and given to another worker when this one dies; its claim then stands or has ended by itself.
@shared_task(acks_late=True, ignore_result=True, soft_time_limit=90, time_limit=100)
@within("worker")
@acting_for(Priority.POLL)
def refresh_region(region_id: int) -> None:
    """Read one claimed region from AWS."""
    try:
        services.refresh_region(region_id, now=now())
    except SoftTimeLimitExceeded:
        services.fail_refresh(region_id, "Reading this region took longer than 90 s; it is tried again by itself.")


@shared_task(ignore_result=True, soft_time_limit=170, time_limit=180)
@within("worker")
@acting_for(Priority.PERSON)
def check_account(check_id: str) -> None:
    """Carry out one connection check."""
    try:
        account_checks.carry_out(check_id)
    except SoftTimeLimitExceeded:
        account_checks.give_up(check_id, "AWS did not answer within three minutes; check the network, then try again.")
    except Exception:  # the outermost loop of a check: its page says that it is over, and the worker's log why
        account_checks.give_up(check_id, "FleetOps failed at it; the worker's log says why.")
        raise


@shared_task(ignore_result=True, soft_time_limit=170, time_limit=180)
@within("worker")
@acting_for(Priority.PERSON)
def check_identity(check_id: str) -> None:
    """Look at the roles of an account once."""
    try:
        identity_checks.carry_out(check_id)
    except SoftTimeLimitExceeded:
        identity_checks.give_up(check_id, "AWS did not answer within three minutes; check the network, then try again.")
    except Exception:  # the outermost loop of a check: its page says that it is over, and the worker's log why
        identity_checks.give_up(check_id, "FleetOps failed at it; the worker's log says why.")
        raise


@shared_task(ignore_result=True)
@within("worker")
def read_queues() -> None:
    """Give each region's queue of events to a worker."""
    for region_id in events.queues_to_read(now=now()):
        read_queue.delay(region_id)


# Not acknowledged late: its messages come again by themselves, and the next tick reads the queue anew.
@shared_task(ignore_result=True, soft_time_limit=45, time_limit=50)
@within("worker")
@acting_for(Priority.POLL)
def read_queue(region_id: int) -> None:
    """Read what has happened to a region's instances."""
    events.read_queue(region_id, now=now())


@shared_task(ignore_result=True)
@within("worker")
def tell_ceilings() -> None:
    """Tell the governor what people have set: Valkey may have lost it, or have been away."""
    ceilings.tell()


@shared_task(ignore_result=True)
@within("worker")
def lift_stray_ceilings() -> None:
    """Take away from the governor what nobody has set."""
    ceilings.lift_strays()
