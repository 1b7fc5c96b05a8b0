"""Who changed a role outside FleetOps, where CloudTrail tells: asked for an hour after it was found."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from django.db.models import Q

from fleetops.aws import cloudtrail
from fleetops.aws.cloudtrail import TrailEvent
from fleetops.aws.errors import AwsError
from fleetops.clock import now

from .models import RoleFinding
from .services import SESSION_NAME
from .states import FindingState

logger = logging.getLogger(__name__)

NAMES: Final = (
    "AssociateIamInstanceProfile",
    "ReplaceIamInstanceProfileAssociation",
    "DisassociateIamInstanceProfile",
)
EVERY: Final = timedelta(minutes=2)
FOR_SO_LONG: Final = timedelta(hours=1)  # CloudTrail tells within 15 minutes
BACK: Final = timedelta(hours=24)  # how long before we found it somebody may have done it
MOST_AT_ONCE: Final = 200


def look() -> None:
    """Ask for findings of which nobody is known yet: three calls for each region that has some."""
    moment = now()
    due = RoleFinding.objects.filter(
        Q(looked_up_at=None) | Q(looked_up_at__lte=moment - EVERY),
        state=FindingState.OPEN,
        rule=None,
        by="",
        found_at__gt=moment - FOR_SO_LONG,
    )
    places: dict[tuple[object, object], list[RoleFinding]] = defaultdict(list)
    for finding in due.select_related("instance", "account", "region").order_by("found_at")[:MOST_AT_ONCE]:
        places[finding.account_id, finding.region_id].append(finding)
    for findings in places.values():
        _ask(findings)
        RoleFinding.objects.filter(pk__in=[each.pk for each in findings]).update(looked_up_at=now())


def _ask(findings: Sequence[RoleFinding]) -> None:
    first = findings[0]
    told: list[TrailEvent] = []
    try:
        for name in NAMES:
            told += cloudtrail.events_named(
                first.account.access(),
                first.region.name,
                name,
                since=first.found_at - BACK,
                session_name=SESSION_NAME,
            )
    except AwsError as error:
        logger.info("nobody told of findings account=%s code=%s", first.account.account_id, error.code)
        return
    theirs = sorted((each for each in told if not each.by.endswith(f"/{SESSION_NAME}")), key=lambda each: each.at)
    for finding in findings:
        about = [each for each in theirs if f'"{finding.instance.instance_id}"' in each.text]
        if about:
            RoleFinding.objects.filter(pk=finding.pk).update(by=about[-1].by[:256], done_at=about[-1].at)
