"""What AWS tells by itself: EventBridge's events from an SQS queue, so that a stopped instance shows in seconds.

Only EC2 tells of states and tags. SSM sends no event for an agent that comes or goes: that is always polled. What else
AWS tells, rooms above hear of by hearing.py: how commands fare.
"""

import json
import logging
import re
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q

from fleetops.audit.record import record
from fleetops.aws import sqs
from fleetops.aws.errors import AwsError
from fleetops.aws.records import QueueMessage
from fleetops.clock import during
from fleetops.errors import UserError

from . import hearing, services
from .models import Region

logger = logging.getLogger(__name__)

# Longer than the task that reads a queue may live.
CLAIM = timedelta(seconds=60)
# A message that was received and not deleted comes again after this time: longer than its instance takes to be read.
HIDDEN_SECONDS = 60
WAIT_SECONDS = 1  # asks all of SQS's servers; without waiting, SQS asks some and may find none of few messages
MOST_MESSAGES = 200  # of one task; what is left waits for the next, 5 s later
# https://sqs.eu-west-1.amazonaws.com/111122223333/fleet-events; the endpoint's have its own host.
_QUEUE_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+/\d{12}/[A-Za-z0-9_-]{1,80}")
_INSTANCE_ARN = re.compile(r"arn:aws[a-z-]*:ec2:[a-z0-9-]+:\d{12}:instance/(i-[0-9a-f]{8,17})")
_INSTANCE_ID = re.compile(r"i-[0-9a-f]{8,17}")


def set_queue(region: Region, url: str, *, actor: Any) -> None:
    """Read events of `region` from the queue at `url`, or from none; audited if that changes anything.

    Raises UserError if it is no address of an SQS queue.
    """
    if url and not _QUEUE_URL.fullmatch(url):
        raise UserError(
            f"{url} is no address of an SQS queue. It looks like "
            f"https://sqs.{region.name}.amazonaws.com/{region.account.account_id}/fleet-events; a FIFO queue does not "
            "take EventBridge's events without a group."
        )
    before = region.queue_url
    if before == url:
        return
    with transaction.atomic():
        Region.objects.filter(pk=region.pk).update(
            queue_url=url, queue_error="", queue_read_at=None, queue_event_at=None
        )
        record(
            "inventory.region.queue",
            actor=actor,
            target=region.account,
            account_id=region.account.account_id,
            region=region.name,
            before=before,
            after=url,
        )
    region.queue_url = url


def instances_in(message: QueueMessage, region: Region) -> set[str]:
    """The instances of `region` of which a message tells something that the fleet shows; none if of nothing else."""
    try:
        event = json.loads(message.body)
        is_ours = event["account"] == region.account.account_id and event["region"] == region.name
        kind, detail, resources = (event["source"], event["detail-type"]), event["detail"], event["resources"]
        if is_ours and kind == ("aws.ec2", "EC2 Instance State-change Notification"):
            found = {detail["instance-id"]}
        elif is_ours and kind == ("aws.tag", "Tag Change on Resource") and detail["service"] == "ec2":
            found = {match[1] for arn in resources if (match := _INSTANCE_ARN.fullmatch(arn))}
        else:
            return set()
        return {each for each in found if _INSTANCE_ID.fullmatch(each)}
    except (ValueError, KeyError, TypeError):
        logger.warning("event not understood account=%s region=%s", region.account.account_id, region.name)
        return set()


def queues_to_read(*, now: datetime) -> list[int]:
    """Regions that have a queue which nobody reads at this moment."""
    free = Q(queue_claimed_until=None) | Q(queue_claimed_until__lte=now)
    regions = Region.objects.filter(free, enabled=True, account__enabled=True).exclude(queue_url="")
    return list(regions.values_list("pk", flat=True))


def read_queue(region_id: int, *, now: datetime) -> int:
    """Take what the queue of a region holds, read just the instances that it names, then delete it; returns how many.

    A message is deleted after what it tells of has been written: a worker that dies in between leaves it to the next.
    Events that come twice, or in another order, do no harm: they say which instance to look at, not what to write.
    """
    region = Region.objects.select_related("account").filter(pk=region_id, enabled=True).exclude(queue_url="").first()
    until = now + during(CLAIM)
    if region is None or not _claim(region, now, until):
        return 0
    access, messages, error = region.account.access(), [], ""
    wanted: list[str] = []
    try:
        while len(messages) < MOST_MESSAGES:
            received = sqs.receive(
                access,
                region.name,
                region.queue_url,
                session_name=services.SESSION_NAME,
                wait_seconds=0 if messages else WAIT_SECONDS,
                hidden_seconds=HIDDEN_SECONDS,
            )
            messages += received
            if not received:
                break
        wanted = sorted(set().union(*(instances_in(message, region) for message in messages)))
        services.refresh_instances(region, wanted, now=now)
        hearing.hand_over([message.body for message in messages], region)
        sqs.delete(access, region.name, region.queue_url, messages, session_name=services.SESSION_NAME)
    except AwsError as failed:
        error = str(failed)
        logger.warning("queue not read account=%s region=%s error=%s", region.account.account_id, region.name, failed)
    told = {"queue_claimed_until": None, "queue_error": error[:512]} | ({} if error else {"queue_read_at": now})
    if wanted and not error:
        told["queue_event_at"] = now
    Region.objects.filter(pk=region.pk, queue_claimed_until=until).update(**told)
    return 0 if error else len(messages)


def _claim(region: Region, now: datetime, until: datetime) -> bool:
    free = Q(queue_claimed_until=None) | Q(queue_claimed_until__lte=now)
    return bool(Region.objects.filter(free, pk=region.pk).update(queue_claimed_until=until))
