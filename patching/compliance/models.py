"""What instances report of their patches: each report for good, and from when to when each patch stood how."""

from __future__ import annotations

from datetime import datetime

from django.db import models
from django.db.models import F, Q

from fleetops.clock import now, uuid7
from fleetops.inventory.models import Account, Instance, Region

from .verdict import PatchState

SEE_PERMISSION = "inventory.view_instance"


class Reader(models.Model):
    """The reports of one region: when they were read, and by whom they are read now."""

    region = models.OneToOneField(Region, on_delete=models.CASCADE, related_name="patch_reader")
    claimed_until = models.DateTimeField(null=True, help_text="a worker reads it until then; nobody else does")
    after = models.CharField(max_length=64, blank=True, help_text="the instance id after which a reading goes on")
    began_at = models.DateTimeField(null=True, help_text="when the reading that goes on began")
    read_at = models.DateTimeField(null=True, help_text="when the last whole reading began that has ended")
    error = models.CharField(max_length=512, blank=True, help_text="why the last reading failed; empty if it did not")

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"patch reports of {self.region}"


class ReportQuerySet(models.QuerySet):
    def at(self, moment: datetime) -> ReportQuerySet:
        """Of each instance the last report that had ended by `moment`."""
        told = Report.objects.filter(instance_id=models.OuterRef("pk"), ended_at__lte=moment)
        # By nothing else: the index has this order; PostgreSQL would sort dozens of rows to order two of one moment.
        newest = told.order_by("-ended_at").values("pk")[:1]
        # By instance, of which there are far fewer than of reports.
        return self.filter(pk__in=Instance.objects.order_by().values_list(models.Subquery(newest)))


class Report(models.Model):
    """One report of one instance, as AWS summed it up. Never changed, never overwritten by a later one."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="patch_reports")
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="+")
    region = models.ForeignKey(Region, on_delete=models.CASCADE, related_name="+")
    operation = models.CharField(max_length=8, help_text="Scan or Install")
    baseline_id = models.CharField(max_length=128, blank=True)
    snapshot_id = models.CharField(max_length=64, blank=True, help_text="tells which run made it, where one did")
    patch_group = models.CharField(max_length=256, blank=True)
    override_list = models.CharField(max_length=512, blank=True, help_text="InstallOverrideList")
    reboot_option = models.CharField(max_length=16, blank=True)
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(help_text="when the operation ended, by the node")
    seen_at = models.DateTimeField(default=now, help_text="when FleetOps read it")
    installed = models.PositiveIntegerField(default=0)
    installed_other = models.PositiveIntegerField(default=0)
    pending_reboot = models.PositiveIntegerField(default=0)
    rejected = models.PositiveIntegerField(default=0, help_text="installed though the baseline rejects them")
    missing = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    not_applicable = models.PositiveIntegerField(default=0)
    available_security = models.PositiveIntegerField(default=0)
    critical = models.PositiveIntegerField(default=0, help_text="non-compliant ones at CRITICAL")
    security = models.PositiveIntegerField(default=0, help_text="non-compliant ones of the class Security")
    other = models.PositiveIntegerField(default=0, help_text="non-compliant ones besides")
    is_compliant = models.BooleanField(default=False)

    objects = ReportQuerySet.as_manager()

    class Meta:
        ordering = ["-ended_at", "-id"]
        constraints = [
            models.UniqueConstraint(fields=["instance", "operation", "ended_at"], name="patch_report_once"),
        ]
        indexes = [
            models.Index(fields=["instance", "-ended_at"], name="patch_report_newest"),
            models.Index(fields=["ended_at"], name="patch_report_ended"),
            models.Index(fields=["snapshot_id"], name="patch_report_snapshot", condition=~Q(snapshot_id="")),
        ]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.operation} of {self.instance} at {self.ended_at:%Y-%m-%d %H:%M}"

    @property
    def non_compliant(self) -> int:
        """How many patches keep it from being compliant."""
        return self.missing + self.failed + self.pending_reboot + self.rejected


class Standing(models.Model):
    """How an instance stands now: its newest report, and how far the patches of it have been read one by one."""

    instance = models.OneToOneField(Instance, on_delete=models.CASCADE, related_name="patch_standing")
    report = models.ForeignKey(Report, on_delete=models.CASCADE, related_name="+")
    asked_at = models.DateTimeField(help_text="when AWS last told that this is its newest report")
    detailed_at = models.DateTimeField(null=True, help_text="`ended_at` of the report whose patches are in PatchSpan")
    due_at = models.DateTimeField(null=True, help_text="when its patches are read next; none: they are")
    tries = models.PositiveSmallIntegerField(default=0, help_text="readings in a row that came to nothing")
    fell_at = models.DateTimeField(null=True, help_text="since when it has not been compliant; none: it is")
    is_told = models.BooleanField(default=False, help_text="people were told that it is not compliant, and of no end")

    class Meta:
        indexes = [models.Index(fields=["due_at"], name="standing_due", condition=Q(due_at__isnull=False))]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.instance}: {'compliant' if self.report.is_compliant else 'not compliant'}"


class PatchSpanQuerySet(models.QuerySet):
    def open(self) -> PatchSpanQuerySet:
        """As the patches stand now."""
        return self.filter(to_at=None)

    def at(self, moment: datetime) -> PatchSpanQuerySet:
        """As they stood at `moment`."""
        return self.filter(Q(to_at=None) | Q(to_at__gt=moment), from_at__lte=moment)


class PatchSpan(models.Model):
    """From when to when one patch stood in one state on one instance, as its reports tell.

    Kept for what Patch Manager judges: a patch that is INSTALLED_OTHER or NOT_APPLICABLE is only counted, in Report.
    """

    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="patch_spans")
    kb_id = models.CharField(max_length=255, help_text="AWS's KBId: openssl.x86_64, libssl3, KB5031364")
    title = models.CharField(max_length=512, blank=True)
    classification = models.CharField(max_length=64, blank=True)
    severity = models.CharField(max_length=32, blank=True)
    state = models.CharField(max_length=26, choices=[(each.value, each.value) for each in PatchState])
    from_at = models.DateTimeField(help_text="`ended_at` of the first report that says so")
    to_at = models.DateTimeField(null=True, help_text="`ended_at` of the first report that no longer does; none: now")
    installed_at = models.DateTimeField(null=True)
    # Since when the instance lacks it, kept while it goes from MISSING to FAILED and back: what SLA clocks count from.
    lacks_since = models.DateTimeField(null=True)

    objects = PatchSpanQuerySet.as_manager()

    class Meta:
        ordering = ["instance", "kb_id", "-from_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["instance", "kb_id", "title"], name="span_open_once_a_patch", condition=Q(to_at=None)
            ),
            models.CheckConstraint(condition=Q(to_at=None) | Q(to_at__gt=F("from_at")), name="span_has_a_length"),
        ]
        indexes = [
            models.Index(fields=["state", "lacks_since"], name="span_lacking", condition=Q(to_at=None)),
            models.Index(fields=["kb_id", "state"], name="span_patch", condition=Q(to_at=None)),
            models.Index(fields=["instance", "from_at"], name="span_of_instance"),
        ]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.kb_id} {self.state}"


class SpanCve(models.Model):
    """A CVE that a patch of a span mends."""

    span = models.ForeignKey(PatchSpan, on_delete=models.CASCADE, related_name="cves")
    cve = models.CharField(max_length=20, help_text="CVE-2026-12345")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["span", "cve"], name="cve_once_a_span")]
        indexes = [models.Index(fields=["cve"], name="span_cve")]
        default_permissions = ()

    def __str__(self) -> str:
        return self.cve


class Sla(models.Model):
    """By when a missing patch has to be installed, counted from when an instance was first seen without it."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    severity = models.CharField(max_length=32, unique=True, help_text="as patches have it: Critical, Important, …")
    days = models.PositiveSmallIntegerField()
    changed_at = models.DateTimeField(default=now)
    changed_by = models.CharField(max_length=150, blank=True)

    class Meta:
        ordering = ["days", "severity"]
        default_permissions = ()
        permissions = [("change_sla", "May say by when missing patches have to be installed")]

    def __str__(self) -> str:
        return f"{self.severity}: {self.days} days"


class Trend(models.Model):
    """How a region stood at the end of an hour, for charts; kept when instances are long gone."""

    region = models.ForeignKey(Region, on_delete=models.CASCADE, related_name="patch_trend")
    hour = models.DateTimeField(help_text="its beginning, UTC")
    instances = models.PositiveIntegerField()
    compliant = models.PositiveIntegerField()
    never_scanned = models.PositiveIntegerField()
    missing = models.PositiveIntegerField(help_text="patches, of all instances")
    overdue = models.PositiveIntegerField(default=0, help_text="patches past their SLA")

    class Meta:
        ordering = ["hour"]
        constraints = [models.UniqueConstraint(fields=["region", "hour"], name="trend_once_an_hour")]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.region} {self.hour:%Y-%m-%d %H:00}"


class Hub(models.Model):
    """Security Hub of one region: whether findings go there, and how that goes."""

    region = models.OneToOneField(Region, on_delete=models.CASCADE, related_name="security_hub")
    enabled = models.BooleanField(default=False)
    claimed_until = models.DateTimeField(null=True, help_text="a worker sends until then; nobody else does")
    not_before = models.DateTimeField(null=True, help_text="after a failure: when it is tried again")
    sent_at = models.DateTimeField(null=True, help_text="when findings last arrived")
    read_at = models.DateTimeField(null=True, help_text="when SSM's own findings were last read")
    error = models.CharField(max_length=512, blank=True, help_text="why the last call failed; empty if it did not")

    class Meta:
        default_permissions = ()
        permissions = [("change_hub", "May let findings go to Security Hub, or not")]

    def __str__(self) -> str:
        return f"Security Hub of {self.region}"


class Finding(models.Model):
    """One finding of ours in Security Hub: of an instance under a baseline, the same for good (see findings.py)."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="+")
    region = models.ForeignKey(Region, on_delete=models.CASCADE, related_name="patch_findings")
    instance = models.ForeignKey(Instance, on_delete=models.SET_NULL, null=True, related_name="patch_findings")
    aws_id = models.CharField(max_length=64, help_text="of the instance, which may be gone")
    instance_name = models.CharField(max_length=255)
    baseline_id = models.CharField(max_length=128)
    asff = models.JSONField(default=dict, help_text="as it is to stand in Security Hub")
    is_failed = models.BooleanField(help_text="the instance is not compliant; else the finding is resolved")
    began_at = models.DateTimeField(help_text="CreatedAt")
    changed_at = models.DateTimeField(help_text="UpdatedAt of `asff`")
    sent_changed_at = models.DateTimeField(null=True, help_text="`changed_at` of what Security Hub has taken")
    told_failed = models.BooleanField(null=True, help_text="the workflow status that we set last: new, or resolved")
    due_at = models.DateTimeField(null=True, help_text="when it is sent next; none: Security Hub has it")
    tries = models.PositiveSmallIntegerField(default=0)
    workflow = models.CharField(max_length=10, blank=True, help_text="as last seen there: NEW, NOTIFIED, SUPPRESSED, …")
    error = models.CharField(max_length=512, blank=True)

    class Meta:
        ordering = ["-changed_at", "-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["account", "region", "aws_id", "baseline_id"], name="finding_once_a_baseline"
            )
        ]
        indexes = [models.Index(fields=["region", "due_at"], name="finding_due", condition=Q(due_at__isnull=False))]
        default_permissions = ()

    def __str__(self) -> str:
        return f"finding of {self.instance_name or self.aws_id}"


class SsmFinding(models.Model):
    """One of Patch Manager's own findings, as Security Hub has it."""

    region = models.ForeignKey(Region, on_delete=models.CASCADE, related_name="ssm_findings")
    finding_id = models.CharField(max_length=512)
    instance = models.ForeignKey(Instance, on_delete=models.SET_NULL, null=True, related_name="ssm_findings")
    resource_id = models.CharField(max_length=512)
    title = models.CharField(max_length=256)
    severity = models.CharField(max_length=16)
    status = models.CharField(max_length=16, blank=True, help_text="Compliance.Status")
    workflow = models.CharField(max_length=10, blank=True)
    updated_at = models.DateTimeField(null=True)
    read_at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["-updated_at", "-id"]
        constraints = [models.UniqueConstraint(fields=["region", "finding_id"], name="ssm_finding_once")]
        default_permissions = ()

    def __str__(self) -> str:
        return self.title
