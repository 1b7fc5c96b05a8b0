"""Reports of patches, read from AWS: what each region's instances last reported, then patch by patch where that is new.

A summary costs one call for 50 instances, the patches of one instance one call for each 100 of them [aws-semantics, 1].
So summaries are polled, and patches are read for an instance whose report is newer than what we have of it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from django.conf import settings
from django.db import DatabaseError, transaction
from django.db.models import F, Q

from fleetops.aws.errors import AwsError
from fleetops.aws.patch_reports import MOST_SUMMARIES, PatchSummary, summaries
from fleetops.aws.patching import NodePatch, node_patch_pages
from fleetops.clock import monotonic
from fleetops.clock import now as clock_now
from fleetops.inventory.models import Instance, Region

from . import findings, standing, verdict
from .models import PatchSpan, Reader, Report, SpanCve, Standing
from .verdict import KEPT, Open, Patch

logger = logging.getLogger(__name__)

# As whom the worker calls AWS.
SESSION_NAME: Final = "fleetops-compliance"
CLAIM: Final = timedelta(seconds=120)  # longer than the task may live
AHEAD: Final = timedelta(minutes=5)  # that a node's clock may be
WORK_SECONDS: Final = 60.0  # of one task; the next goes on where it stopped
BATCH: Final = MOST_SUMMARIES
DETAILS: Final = 50  # instances of one task, and of one look at whether their reports are still the newest
DETAILS_CLAIM: Final = timedelta(seconds=150)
# Between two tries to read the patches of one instance, the longer the more went wrong.
PAUSES: Final = (15, 60, 300, 900)


# --- summaries -------------------------------------------------------------------------------------------------------


def claim_due(*, now: datetime) -> list[int]:
    """Take the regions whose reports are due, for a worker each; another call does not take them again."""
    on = Region.objects.filter(enabled=True, account__enabled=True)
    Reader.objects.bulk_create(
        [Reader(region=region) for region in on.filter(patch_reader=None)], ignore_conflicts=True
    )
    due = Q(read_at=None) | Q(read_at__lte=now - timedelta(seconds=settings.COMPLIANCE_SECONDS)) | ~Q(after="")
    free = Q(claimed_until=None) | Q(claimed_until__lte=now)
    return [
        pk
        for pk in Reader.objects.filter(due & free, region__in=on).values_list("pk", flat=True)
        if Reader.objects.filter(free, pk=pk).update(claimed_until=now + CLAIM)
    ]


def read(reader_id: int, *, now: datetime) -> None:
    """Read what the instances of one claimed region last reported; for WORK_SECONDS, the next call goes on."""
    reader = Reader.objects.select_related("region__account").get(pk=reader_id)
    region, until = reader.region, monotonic() + WORK_SECONDS
    began, after = (reader.began_at, reader.after) if reader.began_at and reader.after else (now, "")
    try:
        while batch := _next(region, after):
            if monotonic() >= until:
                break
            _read_some(region, batch)
            after = batch[-1].instance_id
    except AwsError as error:
        _keep(reader_id, began, after, claimed_until=clock_now() + timedelta(seconds=60), error=str(error)[:512])
        logger.warning("patch reports not read reader=%s code=%s", reader_id, error.code)
        return
    standing.tell(region)
    if batch:
        _keep(reader_id, began, after, claimed_until=None)
        return
    Reader.objects.filter(pk=reader_id).update(claimed_until=None, after="", began_at=None, read_at=began, error="")
    standing.keep_trend(region, at=clock_now())


def fail(reader_id: int, error: str) -> None:
    """Write down why a reading ended; it goes on where it was after a minute."""
    Reader.objects.filter(pk=reader_id).update(claimed_until=clock_now() + timedelta(seconds=60), error=error[:512])


def _keep(reader_id: int, began: datetime, after: str, **changes: Any) -> None:
    Reader.objects.filter(pk=reader_id).update(began_at=began, after=after, **changes)


def _next(region: Region, after: str) -> list[Instance]:
    there = Instance.objects.filter(region=region, instance_id__gt=after, gone_at=None).exclude(ssm_read_at=None)
    return list(there.order_by("instance_id")[:BATCH])


def _read_some(region: Region, instances: Sequence[Instance]) -> None:
    """Ask for these, and write down what is new."""
    by_id = {each.instance_id: each for each in instances}
    told = summaries(region.account.access(), region.name, instance_ids=list(by_id), session_name=SESSION_NAME)
    keep_summaries([(by_id[each.instance_id], each) for each in told if each.instance_id in by_id])


def keep_summaries(told: Sequence[tuple[Instance, PatchSummary]]) -> None:
    """Write down reports that are new, each once, and what stands since; `standing.tell` tells of it."""
    moment = clock_now()
    with transaction.atomic():
        instances = [instance.pk for instance, _ in told]
        held = Standing.objects.select_for_update().filter(instance__in=instances).select_related("report")
        known = {
            each.instance_id: each for each in held.order_by("pk")
        }  # as all do it, or two would wait for each other
        same: list[int] = []
        for instance, summary in told:
            if summary.ended_at is None:
                continue
            row = known.get(instance.pk)
            # A report that ended in the future, by a clock that was wrong, holds no other up.
            if row is not None and summary.ended_at <= row.report.ended_at <= moment + AHEAD:
                same.append(row.pk)
                continue
            if row is not None and summary.ended_at == row.report.ended_at:
                continue
            report = _report(instance, summary, moment)
            if row is None:
                fell_at = None if report.is_compliant else report.ended_at
                facts = {"report": report, "asked_at": moment, "due_at": moment, "fell_at": fell_at}
                row, is_mine = Standing.objects.get_or_create(instance=instance, defaults=facts)
                if not is_mine:
                    continue  # a run has just asked too, and written down its first; the next reading sees to the rest
            else:
                row.report, row.asked_at, row.due_at, row.tries = report, moment, moment, 0
                row.fell_at = None if report.is_compliant else (row.fell_at or report.ended_at)
                row.save(update_fields=["report", "asked_at", "due_at", "tries", "fell_at"])
            findings.note(row)
        Standing.objects.filter(pk__in=same).update(asked_at=moment)


def _report(instance: Instance, told: PatchSummary, moment: datetime) -> Report:
    counts = {
        "installed": told.installed,
        "installed_other": told.installed_other,
        "pending_reboot": told.pending_reboot,
        "rejected": told.rejected,
        "missing": told.missing,
        "failed": told.failed,
        "not_applicable": told.not_applicable,
        "available_security": told.available_security,
        "critical": told.critical,
        "security": told.security,
        "other": told.other,
    }
    judged = {name: counts[name] for name in ("missing", "failed", "pending_reboot", "rejected")}
    # Updates that wait for their delay are non-compliant where the baseline says so, and are counted nowhere else.
    is_counted = not told.available_security or not (told.critical + told.security + told.other) > sum(judged.values())
    report, _ = Report.objects.get_or_create(
        instance=instance,
        operation=told.operation,
        ended_at=told.ended_at,
        defaults={
            "account_id": instance.account_id,
            "region_id": instance.region_id,
            "baseline_id": told.baseline_id,
            "snapshot_id": told.snapshot_id,
            "patch_group": told.patch_group,
            "override_list": told.override_list[:512],
            "reboot_option": told.reboot_option,
            "started_at": told.started_at,
            "seen_at": moment,
            "is_compliant": verdict.is_compliant(**judged) and is_counted,
            **counts,
        },
    )
    return report


# --- patches ---------------------------------------------------------------------------------------------------------


def regions_with_details_due(*, now: datetime) -> list[int]:
    """Regions some of whose instances have reports whose patches have not been read."""
    due = Standing.objects.filter(due_at__lte=now, instance__region__enabled=True, instance__account__enabled=True)
    return sorted(set(due.values_list("instance__region_id", flat=True)))


def read_details(region_id: int, *, now: datetime) -> int:
    """Read the patches of some instances of a region whose reports are new; how many that were."""
    region = Region.objects.select_related("account").get(pk=region_id)
    due = Standing.objects.filter(due_at__lte=now, instance__region=region).order_by("due_at", "pk")
    mine = []
    for row in due.select_related("instance", "report")[:DETAILS]:
        if Standing.objects.filter(pk=row.pk, due_at=row.due_at).update(due_at=now + DETAILS_CLAIM):
            mine.append(row)
    until = monotonic() + WORK_SECONDS
    read: dict[int, tuple[Standing, list[Patch]]] = {}
    for number, row in enumerate(mine):
        if monotonic() >= until:
            Standing.objects.filter(pk__in=[each.pk for each in mine[number:]]).update(due_at=clock_now())
            break
        try:
            if (patches := _patches(region, row)) is not None:
                read[row.instance_id] = (row, patches)
        except AwsError as error:  # the region does not answer: what has been read is kept
            for each in mine[number:]:
                _put_off(each)
            logger.warning("patches not read region=%s code=%s", region_id, error.code)
            break
    try:
        return _keep_details(region, read)
    except AwsError as error:  # nobody says whether it is still the newest: it is read again
        for row, _ in read.values():
            _put_off(row)
        logger.warning("patches not kept region=%s code=%s", region_id, error.code)
        return 0


def _patches(region: Region, row: Standing) -> list[Patch] | None:
    """What the instance tells; None if AWS does not say of it, which is tried again. Raises AwsError, if of all."""
    pages = node_patch_pages(
        region.account.access(),
        region.name,
        instance_id=row.instance.instance_id,
        states=list(KEPT.values()),
        session_name=SESSION_NAME,
    )
    try:
        return verdict.once(_patch(each) for page in pages for each in page)
    except AwsError as error:
        if error.code not in {"InvalidInstanceId", "DoesNotExistException"}:
            raise
        _put_off(row)
        return None


def _patch(told: NodePatch) -> Patch:
    return Patch(
        told.kb_id[:255],
        told.title[:512],
        told.classification[:64],
        told.severity[:32],
        told.state,
        told.installed_at,
        tuple(sorted({cve[:20] for cve in told.cves})),
    )


def _put_off(row: Standing) -> None:
    later = clock_now() + timedelta(seconds=PAUSES[min(row.tries, len(PAUSES) - 1)])
    Standing.objects.filter(pk=row.pk).update(due_at=later, tries=F("tries") + 1)


def _keep_details(region: Region, read: Mapping[int, tuple[Standing, list[Patch]]]) -> int:
    """Write down the patches of those whose report has not changed while they were read; the others are due again."""
    if not read:
        return 0
    ids = [row.instance.instance_id for row, _ in read.values()]
    told = summaries(region.account.access(), region.name, instance_ids=ids, session_name=SESSION_NAME)
    ends = {each.instance_id: each.ended_at for each in told}
    newer = [(row.instance, each) for row, _ in read.values() for each in told if _is_newer(row, each)]
    kept = 0
    for row, patches in read.values():
        if ends.get(row.instance.instance_id) != row.report.ended_at:
            continue
        try:
            kept += keep_patches(row, patches)
        except (DatabaseError, ValueError):  # what one node tells, and no row can hold, keeps no other from being read
            logger.exception("patches not kept instance=%s", row.instance_id)
            _put_off(row)
    keep_summaries(newer)
    return kept


def _is_newer(row: Standing, told: PatchSummary) -> bool:
    is_it = told.instance_id == row.instance.instance_id
    return is_it and told.ended_at is not None and told.ended_at > row.report.ended_at


def keep_patches(row: Standing, patches: Sequence[Patch]) -> bool:
    """Write down the patches of a standing's report, once; False if somebody has, or if a newer report is known."""
    at = row.report.ended_at
    with transaction.atomic():
        held = Standing.objects.select_for_update().select_related("report").filter(pk=row.pk).first()
        if held is None or held.report_id != row.report_id or (held.detailed_at is not None and held.detailed_at >= at):
            return False
        spans = PatchSpan.objects.filter(instance=row.instance_id).open().prefetch_related("cves")
        known = [Open(each.pk, _patch_of(each), each.from_at, each.lacks_since) for each in spans]
        news = verdict.change(known, patches, at=at, is_install=row.report.operation == "Install")
        PatchSpan.objects.filter(pk__in=news.drop).delete()
        PatchSpan.objects.filter(pk__in=news.end).update(to_at=at)
        made = PatchSpan.objects.bulk_create(
            [
                PatchSpan(
                    instance_id=row.instance_id,
                    kb_id=each.patch.kb_id,
                    title=each.patch.title,
                    classification=each.patch.classification,
                    severity=each.patch.severity,
                    state=each.patch.state,
                    from_at=each.from_at,
                    installed_at=each.patch.installed_at,
                    lacks_since=each.lacks_since,
                )
                for each in news.begin
            ],
            batch_size=500,
        )
        SpanCve.objects.bulk_create(
            [
                SpanCve(span=span, cve=cve)
                for span, each in zip(made, news.begin, strict=True)
                for cve in each.patch.cves
            ],
            batch_size=1000,
        )
        Standing.objects.filter(pk=row.pk).update(detailed_at=at, due_at=None, tries=0)
    return True


def _patch_of(span: PatchSpan) -> Patch:
    return Patch(
        span.kb_id,
        span.title,
        span.classification,
        span.severity,
        span.state,
        span.installed_at,
        tuple(sorted(each.cve for each in span.cves.all())),
    )
