"""What AWS says of baselines, groups and defaults, read into our rows; and what a version is."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Q

from fleetops.aws import patching as aws
from fleetops.aws.errors import AccessDenied, AwsError, Unavailable
from fleetops.aws.patching import BaselineRecord, GroupRecord
from fleetops.clock import now as clock_now
from fleetops.inventory.models import Region

from .content import Content
from .families import OPERATING_SYSTEMS
from .models import AWS_OWNER, OWN, BaselineVersion, Mirror, PatchBaseline, PatchGroup, Write
from .states import Deed, Origin, WriteState

logger = logging.getLogger(__name__)

# As whom the worker calls AWS; CloudTrail shows it as the role session's name.
SESSION_NAME = "fleetops-patching"
# Longer than the reading task may live, so that a claim never ends under its worker.
CLAIM = timedelta(seconds=120)
# A baseline that was read so lately is not read again for a page.
FRESH = timedelta(seconds=20)
# AWS changes its own baselines rarely: their content is read so often.
_AWS_EVERY = timedelta(hours=24)
_LISTED = ("name", "description", "operating_system", "owner", "is_default", "gone_at")


def claim_due(*, now: datetime) -> list[int]:
    """Take the regions whose baselines are due, for a worker each; another call does not take them again."""
    on = Region.objects.filter(enabled=True, account__enabled=True)
    Mirror.objects.bulk_create(
        [Mirror(region=region) for region in on.filter(patch_mirror=None)], ignore_conflicts=True
    )
    due = Q(read_at=None) | Q(read_at__lte=now - timedelta(seconds=settings.BASELINES_SECONDS))
    free = Q(claimed_until=None) | Q(claimed_until__lte=now)
    return [
        pk
        for pk in Mirror.objects.filter(due & free, region__in=on).values_list("pk", flat=True)
        if Mirror.objects.filter(free, pk=pk).update(claimed_until=now + CLAIM)
    ]


def read(mirror_id: int, *, now: datetime) -> None:
    """Read all baselines, groups and defaults of one claimed region; what AWS lists no more is gone."""
    mirror = Mirror.objects.select_related("region__account").get(pk=mirror_id)
    region = mirror.region
    access, who = region.account.access(), {"session_name": SESSION_NAME}
    try:
        listed = [each for page in aws.baseline_pages(access, region.name, **who) for each in page]
        groups = [each for page in aws.group_pages(access, region.name, **who) for each in page]
        with transaction.atomic():
            _write_listed(region, listed, now=now)
            _write_groups(region, groups, now=now)
        for row in _to_be_read(region, now=now):
            asked_at = clock_now()
            try:
                told = aws.get_baseline(access, region.name, baseline_id=row.baseline_id, **who)
            except AwsError as error:
                if not aws.is_missing(error):
                    raise
                # Deleted since it was listed.
                PatchBaseline.objects.filter(pk=row.pk, gone_at=None).update(gone_at=clock_now())
                continue
            keep(row, told, origin=Origin.AWS, asked_at=asked_at)
    except AwsError as error:
        fail(mirror_id, str(error))
        return
    Mirror.objects.filter(pk=mirror_id).update(claimed_until=None, read_at=now, error="")
    logger.info("baselines read account=%s region=%s count=%d", region.account.account_id, region.name, len(listed))


def fail(mirror_id: int, error: str) -> None:
    """Write down why a reading failed. It is tried again after a minute."""
    later = clock_now() + timedelta(seconds=60)
    Mirror.objects.filter(pk=mirror_id).update(claimed_until=later, error=error[:512])
    logger.warning("baselines not read mirror=%s error=%s", mirror_id, error)


def _to_be_read(region: Region, *, now: datetime) -> list[PatchBaseline]:
    stale = Q(owner=OWN) | Q(read_at=None) | Q(read_at__lte=now - _AWS_EVERY)
    return list(PatchBaseline.objects.filter(stale, region=region).present().select_related("account", "region"))


def owner_of(record: BaselineRecord, account_id: str) -> str:
    """AWS's own are listed by their ARNs, which name an account of AWS."""
    parts = record.baseline_id.split(":")
    return AWS_OWNER if parts[0] == "arn" and len(parts) > 4 and parts[4] != account_id else OWN


def _write_listed(region: Region, found: list[BaselineRecord], *, now: datetime) -> None:
    known = {row.baseline_id: row for row in PatchBaseline.objects.select_for_update().filter(region=region)}
    has_settled = _settled_since(region, now)
    made, changed = [], []
    for each in found:
        if each.operating_system not in OPERATING_SYSTEMS:
            continue  # one that this version does not know
        facts = {
            "name": each.name,
            "description": each.description,
            "operating_system": each.operating_system,
            "owner": owner_of(each, region.account.account_id),
            "is_default": each.is_default,
            "gone_at": None,
        }
        row = known.pop(each.baseline_id, None)
        if row is None:
            made.append(PatchBaseline(account=region.account, region=region, baseline_id=each.baseline_id, **facts))
            continue
        if row.read_at is not None and row.read_at >= now:  # written here while AWS was listing
            continue
        if row.gone_at is not None and row.gone_at >= now:  # deleted while AWS was listing
            continue
        if has_settled:
            facts.pop("is_default")
        if any(getattr(row, name) != value for name, value in facts.items()):
            for name, value in facts.items():
                setattr(row, name, value)
            changed.append(row)
    PatchBaseline.objects.bulk_create(made)
    PatchBaseline.objects.bulk_update(changed, _LISTED)
    # One that was made while AWS was listing is not gone.
    gone = [row.pk for row in known.values() if row.gone_at is None]
    PatchBaseline.objects.filter(pk__in=gone).exclude(read_at__gte=now).update(gone_at=now)


def _settled_since(region: Region, moment: datetime) -> bool:
    """Whether a default or a group was written here after AWS was asked: what it told then is older."""
    deeds = (Deed.DEFAULT, Deed.REGISTER, Deed.DEREGISTER)
    written = Write.objects.filter(region=region, deed__in=deeds)
    return written.filter(Q(state=WriteState.OPEN) | Q(ended_at__gte=moment)).exists()


def _write_groups(region: Region, found: Iterable[GroupRecord], *, now: datetime) -> None:
    if _settled_since(region, now):
        return
    baselines = dict(PatchBaseline.objects.filter(region=region).values_list("baseline_id", "pk"))
    told = {
        (each.name, each.operating_system): baselines[each.baseline_id]
        for each in found
        if each.baseline_id in baselines
    }
    kept = set()
    for row in PatchGroup.objects.filter(region=region):
        key = (row.name, row.operating_system)
        if told.get(key) == row.baseline_id:
            kept.add(key)
        else:
            row.delete()
    PatchGroup.objects.bulk_create(
        PatchGroup(
            account=region.account, region=region, name=name, operating_system=system, baseline_id=pk, read_at=now
        )
        for (name, system), pk in told.items()
        if (name, system) not in kept
    )
    PatchGroup.objects.filter(region=region).update(read_at=now)


def keep(
    baseline: PatchBaseline,
    told: BaselineRecord,
    *,
    origin: Origin,
    asked_at: datetime,
    actor_name: str = "",
) -> bool:
    """Write what AWS says of a baseline into its row: a new version if that is something else. Whether it was.

    What somebody outside FleetOps has changed since it was last written here stands as a difference until it is
    accepted, or written over. `asked_at`: what was written here since then is newer, and stays.
    """
    with transaction.atomic():
        row = PatchBaseline.objects.select_for_update().get(pk=baseline.pk)
        if origin == Origin.AWS:
            is_underway = row.writes.filter(state=WriteState.OPEN, deed__in=(Deed.UPDATE, Deed.DELETE)).exists()
            is_gone = row.gone_at is not None and row.gone_at > asked_at
            if is_underway or is_gone or (row.read_at is not None and row.read_at > asked_at):
                _refresh(baseline, row)
                return False
        said = Content.of_aws(row.operating_system, told.content)
        is_new = row.version == 0 or row.said.digest != said.digest
        if is_new:
            row.version += 1
            BaselineVersion.objects.create(
                baseline=row, number=row.version, content=said.to_aws(), origin=origin, actor_name=actor_name
            )
        if origin == Origin.OURS or not row.is_own or row.version == 1:
            row.kept_version = row.version
        elif is_new:
            last = row.versions.filter(number=row.kept_version).first()
            if last is not None and last.said.digest == said.digest:
                row.kept_version = row.version  # somebody has put back what was
        if row.kept_version == row.version:
            row.drifted_at = None
        elif row.drifted_at is None:
            row.drifted_at = clock_now()
        row.name, row.description, row.content = said.name, said.description, said.to_aws()
        row.made_at, row.changed_at, row.gone_at = told.created_at, told.modified_at, None
        row.read_at = clock_now()
        row.save()
    _refresh(baseline, row)
    if is_new and row.is_drifted:
        logger.warning("baseline changed outside baseline=%s version=%d", row.pk, row.version)
    return is_new


def _refresh(baseline: PatchBaseline, row: PatchBaseline) -> None:
    for field in PatchBaseline._meta.concrete_fields:
        setattr(baseline, field.attname, getattr(row, field.attname))


def look(baseline: PatchBaseline, *, session_name: str, now: datetime) -> str:
    """Read one baseline anew, unless it was a moment ago; why that failed, or ""."""
    if baseline.read_at is not None and baseline.read_at > now - FRESH:
        return ""
    access, region = baseline.account.access(), baseline.region.name
    asked_at = clock_now()
    try:
        told = aws.get_baseline(access, region, baseline_id=baseline.baseline_id, session_name=session_name)
    except AwsError as error:
        if aws.is_missing(error):
            PatchBaseline.objects.filter(pk=baseline.pk, gone_at=None).update(gone_at=now)
            baseline.gone_at = baseline.gone_at or now
        return str(error)
    keep(baseline, told, origin=Origin.AWS, asked_at=asked_at)
    if baseline.is_own:
        try:
            tags = aws.baseline_tags(access, region, baseline_id=baseline.baseline_id, session_name=session_name)
        except (AccessDenied, Unavailable):
            return ""  # the page does without
        except AwsError as error:
            return str(error)
        if tags != baseline.tags:
            PatchBaseline.objects.filter(pk=baseline.pk).update(tags=tags)
            baseline.tags = tags
    return ""
