"""The mirror of security groups: what is due is claimed and read, a region at a time, never an instance at a time."""

from __future__ import annotations

import logging
from collections import defaultdict
from datetime import datetime, timedelta
from typing import Final

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q

from fleetops.aws import security_groups
from fleetops.aws.errors import AwsError
from fleetops.clock import during
from fleetops.clock import now as clock_now
from fleetops.inventory.models import Instance, Region

from . import grades
from .models import Group, Reading

logger = logging.getLogger(__name__)

SESSION_NAME: Final = "fleetops-exposure"
CLAIM: Final = timedelta(seconds=150)  # real seconds; the task that holds it is killed before
_FACTS: Final = ("name", "vpc_id", "description", "rules", "rank", "others", "read_at")
_MOST_OTHERS: Final = 100  # interfaces of one group that are kept by name


def free(at: datetime) -> Q:
    """Claimed by nobody, or by somebody who is dead by now; a clock that was set back leaves no claim for ever."""
    return Q(claimed_until=None) | Q(claimed_until__lte=at) | Q(claimed_until__gt=at + 2 * during(CLAIM))


def claim_due(*, at: datetime) -> list[int]:
    """Take the regions whose groups are due, for a worker each; another call does not take them again.

    None before its instances were read: its groups would be on none of them, and so not shown.
    """
    on = Region.objects.filter(enabled=True, account__enabled=True).exclude(refreshed_at=None)
    missing = [Reading(region=each) for each in on.filter(exposure_reading=None)]
    if missing:
        Reading.objects.bulk_create(missing, ignore_conflicts=True)
    old = at - timedelta(seconds=settings.EXPOSURE_SECONDS)
    due = Q(read_at=None) | Q(read_at__lte=old) | Q(asked_at__gt=F("read_at"))
    rows = Reading.objects.filter(due, free(at), region__in=on)
    return [
        pk
        for pk in rows.values_list("pk", flat=True)
        if Reading.objects.filter(free(at), pk=pk).update(claimed_until=at + during(CLAIM))
    ]


def ask_again(regions: list[Region], *, at: datetime) -> None:
    """Have regions read at once: something was changed there, or somebody wants to see it."""
    Reading.objects.filter(region__in=regions).update(asked_at=at)


def read(reading_id: int, *, at: datetime) -> None:
    """Read one claimed region into our rows; a group that exposes nothing any more goes."""
    reading = Reading.objects.select_related("region__account").get(pk=reading_id)
    region = reading.region
    access = region.account.access()
    try:
        exposing = [
            rule for rule in security_groups.rules(access, region.name, session_name=SESSION_NAME) if grades.ports(rule)
        ]
        ids = sorted({rule.group_id for rule in exposing})
        named = security_groups.groups(access, region.name, ids, session_name=SESSION_NAME)
        held = security_groups.interfaces(access, region.name, ids, session_name=SESSION_NAME)
    except AwsError as error:
        fail(reading_id, str(error))
        return
    rules = defaultdict(list)
    for rule in exposing:
        rules[rule.group_id].append(rule)
    count = _write(region, {each.group_id: each for each in named}, rules, held, at=at)
    Reading.objects.filter(pk=reading_id).update(read_at=at, error="", claimed_until=None)
    logger.info("security groups read region=%s exposing=%d interfaces=%d", region, count, len(held))


def fail(reading_id: int, error: str) -> None:
    """Write down why a reading failed. It is tried again after a minute."""
    later = clock_now() + timedelta(seconds=60)
    Reading.objects.filter(pk=reading_id).update(claimed_until=later, error=error[:512])
    logger.warning("security groups not read reading=%s error=%s", reading_id, error)


def _write(
    region: Region,
    named: dict[str, security_groups.GroupRecord],
    rules: dict[str, list[security_groups.InboundRule]],
    held: list[security_groups.Interface],
    *,
    at: datetime,
) -> int:
    ours = dict(
        Instance.objects.present()
        .filter(region=region, instance_id__in={each.instance_id for each in held if each.instance_id})
        .values_list("instance_id", "pk")
    )
    members, others = defaultdict(set), defaultdict(list)
    for each in held:
        for group_id in each.group_ids:
            if each.instance_id in ours:
                members[group_id].add(ours[each.instance_id])
            elif len(others[group_id]) < _MOST_OTHERS:
                others[group_id].append(
                    {"id": each.interface_id, "kind": each.kind, "description": each.description or each.instance_id}
                )
    shown = {group_id for group_id in rules if group_id in named and members[group_id]}
    with transaction.atomic():
        Group.objects.filter(region=region).exclude(group_id__in=shown).delete()
        rows = {row.group_id: row for row in Group.objects.filter(region=region)}
        for group_id in shown:
            record, row = named[group_id], rows.get(group_id)
            row = row or Group(account=region.account, region=region, group_id=group_id)
            row.name, row.vpc_id, row.description = record.name, record.vpc_id, record.description
            row.rules = [rule.as_json() for rule in rules[group_id]]
            row.rank = min(grades.RANKS[grades.grade(rule)] for rule in rules[group_id])
            row.others, row.read_at = others[group_id], at
            rows[group_id] = row
        fresh = [row for row in rows.values() if row._state.adding]
        known = [row for row in rows.values() if not row._state.adding]
        Group.objects.bulk_create(fresh, batch_size=200)
        Group.objects.bulk_update(known, _FACTS, batch_size=200)
        links = Group.instances.through
        wanted = {(rows[group_id].pk, pk) for group_id in shown for pk in members[group_id]}
        there = {(link.group_id, link.instance_id): link.pk for link in links.objects.filter(group__region=region)}
        links.objects.filter(pk__in=[pk for pair, pk in there.items() if pair not in wanted]).delete()
        links.objects.bulk_create(
            [links(group_id=group, instance_id=instance) for group, instance in wanted - there.keys()], batch_size=500
        )
    return len(shown)
