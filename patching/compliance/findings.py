"""Findings of ours in Security Hub: written down with the report that made them, then sent until they are there."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q

from fleetops.aws import securityhub as aws
from fleetops.aws.errors import AwsError
from fleetops.aws.securityhub import FindingRecord
from fleetops.clock import now as clock_now
from fleetops.inventory.models import Instance, Region
from fleetops.notify import services as notify

from . import asff
from .models import Finding, Hub, SsmFinding, Standing

logger = logging.getLogger(__name__)

SESSION_NAME: Final = "fleetops-compliance"
TOPIC: Final = "patching.findings"
CLAIM: Final = timedelta(seconds=120)
MOST_SENT: Final = 1000  # of one task: ten calls
PAUSES: Final = (10, 60, 300, 900, 3600)  # seconds between two tries of one finding
AWAY: Final = timedelta(minutes=5)  # after a call was refused as a whole
# Security Hub drops a finding that nobody has updated for 90 days: what still holds is sent again before.
KEPT_ALIVE: Final = timedelta(days=60)


# --- what is to stand there ------------------------------------------------------------------------------------------


def note(row: Standing) -> None:
    """Write down what Security Hub is to say of an instance whose report is new; in the caller's transaction.

    An instance that has always been compliant leaves no finding. One whose baseline is another now has that of the old
    one resolved.
    """
    report, instance = row.report, row.instance
    moment = clock_now()
    others = Finding.objects.filter(region=instance.region_id, aws_id=instance.instance_id, is_failed=True)
    for other in others.exclude(baseline_id=report.baseline_id).select_related("account", "region"):
        _resolve(other, moment, is_gone=False)
    held = Finding.objects.filter(
        account=instance.account_id,
        region=instance.region_id,
        aws_id=instance.instance_id,
        baseline_id=report.baseline_id,
    ).first()
    if held is None and report.is_compliant:
        return
    if held is None:
        held = Finding(
            account_id=instance.account_id,
            region_id=instance.region_id,
            instance=instance,
            aws_id=instance.instance_id,
            baseline_id=report.baseline_id,
            began_at=moment,
            is_failed=True,
        )
    elif report.is_compliant and not held.is_failed:
        return
    held.instance, held.instance_name = instance, str(instance)
    held.is_failed = not report.is_compliant
    # Security Hub takes an update only if it is later than the one before.
    held.changed_at = max(moment, (held.changed_at or moment) + timedelta(microseconds=1)) if held.pk else moment
    held.asff = asff.render(
        asff.Facts(
            account_id=instance.account.account_id,
            region=instance.region.name,
            instance_id=instance.instance_id,
            instance_name=str(instance),
            baseline_id=report.baseline_id,
            is_failed=held.is_failed,
            is_gone=False,
            began_at=held.began_at,
            changed_at=held.changed_at,
            operation=report.operation,
            reboot_option=report.reboot_option,
            started_at=report.started_at,
            ended_at=report.ended_at,
            installed=report.installed,
            installed_other=report.installed_other,
            pending_reboot=report.pending_reboot,
            rejected=report.rejected,
            missing=report.missing,
            failed=report.failed,
            critical=report.critical,
            security=report.security,
        )
    )
    held.due_at, held.tries = moment, 0
    held.save()


def resolve_gone(*, now: datetime) -> int:
    """Resolve the findings of instances that are no more; how many those were."""
    gone = Finding.objects.filter(is_failed=True).filter(Q(instance=None) | Q(instance__gone_at__isnull=False))
    found = list(gone.select_related("account", "region")[:MOST_SENT])
    for each in found:
        with transaction.atomic():
            _resolve(each, now, is_gone=True)
    return len(found)


def _resolve(finding: Finding, moment: datetime, *, is_gone: bool) -> None:
    changed = max(moment, finding.changed_at + timedelta(microseconds=1))
    text = asff.render(
        asff.Facts(
            account_id=finding.account.account_id,
            region=finding.region.name,
            instance_id=finding.aws_id,
            instance_name=finding.instance_name,
            baseline_id=finding.baseline_id,
            is_failed=False,
            is_gone=is_gone,
            began_at=finding.began_at,
            changed_at=changed,
        )
    )
    Finding.objects.filter(pk=finding.pk, is_failed=True).update(
        is_failed=False, asff=text, changed_at=changed, due_at=moment, tries=0
    )


# --- sending ---------------------------------------------------------------------------------------------------------


def claim_due(*, now: datetime) -> list[int]:
    """Take the regions whose findings are due, or whose own are to be read, for a worker each."""
    on = Region.objects.filter(enabled=True, account__enabled=True)
    for region in on.filter(security_hub=None).select_related("account"):
        # An endpoint of one's own costs nothing; AWS's Security Hub does, and somebody turns it on.
        Hub.objects.get_or_create(region=region, defaults={"enabled": bool(region.account.endpoint_url)})
    waiting = Finding.objects.filter(due_at__lte=now).values("region")
    is_due = (
        Q(region__in=waiting) | Q(read_at=None) | Q(read_at__lte=now - timedelta(seconds=settings.FINDINGS_SECONDS))
    )
    is_free = (Q(claimed_until=None) | Q(claimed_until__lte=now)) & (Q(not_before=None) | Q(not_before__lte=now))
    return [
        pk
        for pk in Hub.objects.filter(is_due & is_free, enabled=True, region__in=on).values_list("pk", flat=True)
        if Hub.objects.filter(is_free, pk=pk).update(claimed_until=now + CLAIM)
    ]


def work(hub_id: int, *, now: datetime) -> None:
    """Send what is due of one claimed region, then read Patch Manager's own findings if it is time."""
    hub = Hub.objects.select_related("region__account").get(pk=hub_id)
    try:
        _revive(hub.region, now)
        sent = _send(hub.region, now)
        read = hub.read_at is None or hub.read_at <= now - timedelta(seconds=settings.FINDINGS_SECONDS)
        if read:
            _read(hub.region)
    except AwsError as error:
        _failed(hub, error)
        return
    changes: dict[str, Any] = {"claimed_until": None, "not_before": None, "error": ""}
    if sent:
        changes["sent_at"] = clock_now()
    if read:
        changes["read_at"] = now
    Hub.objects.filter(pk=hub_id).update(**changes)
    with transaction.atomic():
        notify.resolve(TOPIC, dedup_key=f"hub:{hub_id}")


def _failed(hub: Hub, error: AwsError) -> None:
    later = clock_now() + (timedelta(seconds=15) if getattr(error, "is_throttled", False) else AWAY)
    Hub.objects.filter(pk=hub.pk).update(claimed_until=None, not_before=later, error=str(error)[:512])
    logger.warning("findings not sent region=%s code=%s", hub.region_id, error.code)
    if getattr(error, "is_throttled", False):
        return
    with transaction.atomic():
        notify.notify(
            TOPIC,
            dedup_key=f"hub:{hub.pk}",
            title=f"Findings of {hub.region} cannot be sent to Security Hub",
            text=str(error),
            url="/compliance/security-hub/",
            severity="warning",
            account_id=hub.region.account.account_id,
            region=hub.region.name,
        )


def _revive(region: Region, now: datetime) -> None:
    """What still holds and has not been said for long is said again."""
    old = Finding.objects.filter(region=region, is_failed=True, due_at=None, changed_at__lte=now - KEPT_ALIVE)
    for each in old[:MOST_SENT]:
        text = dict(each.asff) | {"UpdatedAt": asff.moment_of(now)}
        Finding.objects.filter(pk=each.pk, due_at=None).update(asff=text, changed_at=now, due_at=now)


def _send(region: Region, now: datetime) -> int:
    due = list(Finding.objects.filter(region=region, due_at__lte=now).order_by("due_at", "pk")[:MOST_SENT])
    sent = 0
    for start in range(0, len(due), aws.MOST_IMPORTED):
        sent += _send_some(region, due[start : start + aws.MOST_IMPORTED])
    return sent


def _send_some(region: Region, some: Sequence[Finding]) -> int:
    access = region.account.access()
    who = {"session_name": SESSION_NAME}
    refused = {
        each.finding_id: f"{each.code}: {each.message}"
        for each in aws.import_findings(access, region.name, findings=[each.asff for each in some], **who)
    }
    taken = [each for each in some if each.asff["Id"] not in refused]
    wrong = _set_workflows(region, [each for each in taken if each.told_failed != each.is_failed])
    for each in some:
        words = refused.get(each.asff["Id"]) or wrong.get(each.asff["Id"], "")
        mine = Finding.objects.filter(pk=each.pk, changed_at=each.changed_at)  # a newer one is due by itself
        if words:
            later = clock_now() + timedelta(seconds=PAUSES[min(each.tries, len(PAUSES) - 1)])
            mine.update(due_at=later, tries=F("tries") + 1, error=words[:512])
        else:
            mine.update(due_at=None, tries=0, error="", sent_changed_at=each.changed_at)
            Finding.objects.filter(pk=each.pk).update(told_failed=each.is_failed)
    return len(taken) - len(wrong)


def _set_workflows(region: Region, some: Sequence[Finding]) -> dict[str, str]:
    """Say which are resolved and which are new again; what somebody has suppressed stays so. Those that failed, why."""
    if not some:
        return {}
    access, product = region.account.access(), asff.product_arn(region.account.account_id, region.name)
    ids = [each.asff["Id"] for each in some]
    there = aws.by_ids(access, region.name, product_arn=product, finding_ids=ids, session_name=SESSION_NAME)
    wanted: dict[str, list[str]] = {"NEW": [], "RESOLVED": []}
    for each in some:
        seen = there.get(each.asff["Id"])
        if seen is None:
            continue  # it shows a little later; what was imported says FAILED or PASSED all the same
        Finding.objects.filter(pk=each.pk).update(workflow=seen.workflow[:10])
        status = "NEW" if each.is_failed else "RESOLVED"
        if seen.workflow == "SUPPRESSED" or seen.workflow == status or (each.is_failed and seen.workflow == "NOTIFIED"):
            continue
        wanted[status].append(each.asff["Id"])
    wrong = {each.asff["Id"]: "Security Hub does not show it yet." for each in some if each.asff["Id"] not in there}
    for status, finding_ids in wanted.items():
        if finding_ids:
            refusals = aws.set_workflow(
                access,
                region.name,
                product_arn=product,
                finding_ids=finding_ids,
                status=status,
                session_name=SESSION_NAME,
            )
            wrong |= {each.finding_id: f"{each.code}: {each.message}" for each in refusals}
    return wrong


# --- Patch Manager's own ---------------------------------------------------------------------------------------------


def _read(region: Region) -> None:
    """Read the findings that Patch Manager itself has sent; those that are archived or gone are dropped."""
    account = region.account
    filters = {
        "ProductArn": [
            {"Value": f"arn:aws:securityhub:{region.name}::product{aws.PATCH_MANAGER}", "Comparison": "EQUALS"}
        ],
        "RecordState": [{"Value": "ACTIVE", "Comparison": "EQUALS"}],
    }
    moment = clock_now()
    instances = dict(Instance.objects.filter(region=region).values_list("instance_id", "pk"))
    for page in aws.findings(account.access(), region.name, filters=filters, session_name=SESSION_NAME):
        rows = {each.finding_id[:512]: _ssm_finding(region, each, instances, moment) for each in page}
        SsmFinding.objects.bulk_create(
            rows.values(),
            update_conflicts=True,
            unique_fields=["region", "finding_id"],
            update_fields=[
                "instance",
                "resource_id",
                "title",
                "severity",
                "status",
                "workflow",
                "updated_at",
                "read_at",
            ],
        )
    SsmFinding.objects.filter(region=region, read_at__lt=moment).delete()


_TOLD: Final = ("instance", "resource_id", "title", "severity", "status", "workflow", "updated_at", "read_at")


def _ssm_finding(region: Region, told: FindingRecord, instances: Mapping[str, Any], moment: datetime) -> SsmFinding:
    resource = told.resource_ids[0] if told.resource_ids else ""
    return SsmFinding(
        region=region,
        finding_id=told.finding_id[:512],
        instance_id=instances.get(resource.rpartition("/")[2]),
        resource_id=resource[:512],
        title=told.title[:256],
        severity=told.severity[:16],
        status=told.status[:16],
        workflow=told.workflow[:10],
        updated_at=told.updated_at,
        read_at=moment,
    )
