"""What follows from a report: who is told, and what charts keep."""

from __future__ import annotations

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
# So many of a region are told of one by one; of more in one notice, since one cause made them fall.
MOST_TOLD: Final = 20
MOST_AT_ONCE: Final = 2000


def tell(region: Region) -> None:
    """Tell of instances that have fallen out of compliance, each once while it lasts, and of those that comply again.

    What was told stands in the rows: a worker that dies before it has told leaves it to the next.
    """
    with transaction.atomic():
        rows = Standing.objects.select_for_update(of=("self",)).filter(instance__region=region).order_by("pk")
        rows = rows.select_related("report", "instance")
        over = Q(fell_at=None) | Q(instance__gone_at__isnull=False)
        for row in rows.filter(over, is_told=True)[:MOST_AT_ONCE]:
            notify.resolve(TOPIC, dedup_key=_key_of(row.instance))
            Standing.objects.filter(pk=row.pk).update(is_told=False)
        fallen = list(rows.exclude(over).filter(is_told=False)[:MOST_AT_ONCE])
        standing = Standing.objects.filter(instance__region=region, is_told=True).count()
        Standing.objects.filter(pk__in=[row.pk for row in fallen]).update(is_told=True)
        if not fallen:
            if not standing:
                notify.resolve(TOPIC, dedup_key=_key_of(region))
        elif standing + len(fallen) > MOST_TOLD:
            _tell_of_many(region, standing + len(fallen))
        else:
            for row in fallen:
                _tell_of(region, row)


def _tell_of_many(region: Region, count: int) -> None:
    notify.notify(
        TOPIC,
        dedup_key=_key_of(region),
        title=f"{count:,} instances of {region} have fallen out of patch compliance",
        url="/compliance/instances/?state=bad",
        severity="critical",
        account_id=region.account.account_id,
        region=region.name,
    )


def _tell_of(region: Region, row: Standing) -> None:
    report = row.report
    text = (
        f"{report.missing} missing, {report.failed} failed, {report.pending_reboot} pending a restart, "
        f"{report.rejected} rejected. {report.operation} of {report.ended_at:%Y-%m-%d %H:%M} UTC."
    )
    notify.notify(
        TOPIC,
        dedup_key=_key_of(row.instance),
        title=f"{row.instance} has fallen out of patch compliance",
        text=text,
        url=f"/compliance/instances/{row.instance_id}/",
        severity="critical" if report.critical else "warning",
        account_id=region.account.account_id,
        region=region.name,
    )


def tell_all() -> None:
    """In each region where there is something to tell."""
    over = Q(fell_at=None) | Q(instance__gone_at__isnull=False)
    news = Standing.objects.filter(Q(over, is_told=True) | (~over & Q(is_told=False)))
    for region in Region.objects.filter(pk__in=news.values("instance__region")).select_related("account"):
        tell(region)


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
