"""What follows from a report: who is told, and what charts keep."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from django.db import transaction
from django.db.models import Count, Q, Sum

from fleetops.inventory.models import Instance, Region
from fleetops.notify import services as notify
from fleetops.notify.models import Notice

from .models import PatchSpan, Sla, Standing, Trend
from .verdict import LACKING

TOPIC: Final = "patching.compliance"
SLA_TOPIC: Final = "patching.sla"
# So many that fall at one reading are told one by one; more of them in one notice, since one cause made them fall.
MOST_TOLD: Final = 20


def tell_fallen(region: Region, fallen: Sequence[Standing]) -> None:
    """Tell that these are compliant no more: each once while it lasts."""
    if not fallen:
        return
    place = {"account_id": region.account.account_id, "region": region.name}
    if len(fallen) > MOST_TOLD:
        title = f"{len(fallen):,} instances of {region} have fallen out of patch compliance"
        with transaction.atomic():
            notify.notify(
                TOPIC, dedup_key=_key_of(region), title=title, url="/compliance/", severity="critical", **place
            )
        return
    for row in fallen:
        report = row.report
        text = (
            f"{report.missing} missing, {report.failed} failed, {report.pending_reboot} pending a restart, "
            f"{report.rejected} rejected. {report.operation} of {report.ended_at:%Y-%m-%d %H:%M} UTC."
        )
        with transaction.atomic():
            notify.notify(
                TOPIC,
                dedup_key=_key_of(row.instance),
                title=f"{row.instance} has fallen out of patch compliance",
                text=text,
                url=f"/compliance/instances/{row.instance_id}/",
                severity="critical" if report.critical else "warning",
                **place,
            )


def tell_recovered(row: Standing) -> None:
    """Close what was told of an instance; in the caller's transaction. A region's notice ends with its last one."""
    notify.resolve(TOPIC, dedup_key=_key_of(row.instance))
    region = row.instance.region
    left = Standing.objects.filter(instance__region=region, instance__gone_at=None).exclude(fell_at=None)
    if not left.exclude(pk=row.pk).exists():
        notify.resolve(TOPIC, dedup_key=_key_of(region))


def _key_of(subject: Instance | Region) -> str:
    return f"{subject._meta.model_name}:{subject.pk}"


def overdue(*, at: datetime) -> Q:
    """Of open spans: those past the SLA of their severity."""
    found = Q(pk__in=[])
    for sla in Sla.objects.all():
        found |= Q(severity__iexact=sla.severity, lacks_since__lte=at - timedelta(days=sla.days))
    return found & Q(state__in=LACKING)


def tell_overdue(*, at: datetime) -> None:
    """Tell, once for each region while it lasts, that patches are missing past their SLA; and that none are."""
    late = PatchSpan.objects.open().filter(overdue(at=at), instance__gone_at=None)
    counts = (
        late.order_by().values("instance__region").annotate(patches=Count("pk"), nodes=Count("instance", distinct=True))
    )
    by_region = {each["instance__region"]: each for each in counts}
    for region in Region.objects.filter(enabled=True, account__enabled=True).select_related("account"):
        key = f"sla:{region.pk}"
        with transaction.atomic():
            if (found := by_region.get(region.pk)) is None:
                notify.resolve(SLA_TOPIC, dedup_key=key)
                continue
            if Notice.objects.filter(topic=SLA_TOPIC, dedup_key=key, closed_at=None).exists():
                continue
            nodes = f"{found['nodes']:,} instance{'' if found['nodes'] == 1 else 's'}"
            notify.notify(
                SLA_TOPIC,
                dedup_key=key,
                title=f"{found['patches']:,} missing patches on {nodes} of {region} are past their SLA",
                url="/compliance/patches/?only=overdue",
                severity="critical",
                account_id=region.account.account_id,
                region=region.name,
            )


def keep_trend(region: Region, *, at: datetime) -> None:
    """How the region stands in this hour; the last reading of an hour counts."""
    there = Instance.objects.filter(region=region, gone_at=None).exclude(ssm_read_at=None)
    rows = Standing.objects.filter(instance__in=there)
    spans = PatchSpan.objects.open().filter(instance__in=there)
    Trend.objects.update_or_create(
        region=region,
        hour=at.replace(minute=0, second=0, microsecond=0),
        defaults={
            "instances": there.count(),
            "compliant": rows.filter(fell_at=None).count(),
            "never_scanned": there.filter(patch_standing=None).count(),
            "missing": rows.aggregate(sum=Sum("report__missing"))["sum"] or 0,
            "overdue": spans.filter(overdue(at=at)).count(),
        },
    )
