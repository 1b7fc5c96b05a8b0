"""What the API tells of patch compliance."""

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from fleetops.identity.rest import Asked

from .models import Finding, Hub, PatchSpan, Report, SsmFinding

COUNTS = (
    *("installed", "installed_other", "pending_reboot", "rejected", "missing", "failed", "not_applicable"),
    *("available_security", "critical", "security", "other"),
)


class ReportSerializer(serializers.ModelSerializer):
    """One report of an instance; none is ever changed."""

    class Meta:
        model = Report
        fields = (
            *("id", "operation", "is_compliant", "ended_at", "started_at", "seen_at", "baseline_id", "snapshot_id"),
            *("patch_group", "override_list", "reboot_option", *COUNTS),
        )
        read_only_fields = fields


class InstanceRowSerializer(serializers.Serializer):
    """An instance as lists have it."""

    id = serializers.UUIDField(source="pk")
    instance_id = serializers.CharField()
    name = serializers.CharField()
    account_id = serializers.CharField(source="account.account_id")
    account_name = serializers.CharField(source="account.name")
    region = serializers.CharField(source="region.name")
    platform = serializers.CharField()


class StandingSerializer(InstanceRowSerializer):
    """How an instance stands, or stood at the moment that was asked for."""

    standing = serializers.ChoiceField(
        choices=["compliant", "not_compliant", "never_scanned"], help_text="by its last report until then"
    )
    is_old = serializers.BooleanField(help_text="that report was more than 7 days old")
    report = ReportSerializer(allow_null=True, help_text="null: it had never reported")


class ClockSerializer(serializers.Serializer):
    """By when a patch has to be installed."""

    due_at = serializers.DateTimeField()
    seconds_left = serializers.SerializerMethodField(help_text="below 0: past")
    is_past = serializers.SerializerMethodField()

    def get_seconds_left(self, clock: Any) -> int:
        return round(clock.left.total_seconds())

    def get_is_past(self, clock: Any) -> bool:
        return clock.left.total_seconds() <= 0


class SpanSerializer(serializers.ModelSerializer):
    """How one patch stands on an instance, and since when."""

    cves = serializers.SerializerMethodField()
    deadline = ClockSerializer(source="clock", allow_null=True, read_only=True, help_text="null: no deadline counts")

    class Meta:
        model = PatchSpan
        fields = (
            *("kb_id", "title", "classification", "severity", "state", "from_at", "to_at", "installed_at"),
            *("lacks_since", "cves", "deadline"),
        )
        read_only_fields = fields

    @extend_schema_field(serializers.ListField(child=serializers.CharField()))
    def get_cves(self, span: PatchSpan) -> list[str]:
        return sorted(each.cve for each in span.cves.all())


class CveInstanceSerializer(SpanSerializer):
    """A patch of a CVE on one instance."""

    instance = InstanceRowSerializer(read_only=True)

    class Meta(SpanSerializer.Meta):
        fields = ("instance", *SpanSerializer.Meta.fields)
        read_only_fields = fields


class CveSerializer(serializers.Serializer):
    """A CVE of which instances lack a patch."""

    cve = serializers.CharField()
    severity = serializers.CharField(help_text="the gravest of its open patches")
    instances = serializers.IntegerField(help_text="that lack a patch of it")
    patches = serializers.ListField(child=serializers.CharField(), source="names", help_text="names of those patches")
    since = serializers.DateTimeField(allow_null=True, help_text="the first instance was seen without it")
    deadline = ClockSerializer(source="clock", allow_null=True, help_text="of the first of them")


class OneCveSerializer(serializers.Serializer):
    """Who lacks a patch of a CVE, in numbers."""

    cve = serializers.CharField()
    is_known = serializers.BooleanField(help_text="some instance has told of it, ever")
    lacking = serializers.IntegerField(help_text="instances")
    mended = serializers.IntegerField(help_text="instances that have its patch installed")
    patches = serializers.ListField(child=serializers.CharField())


class PatchRowSerializer(serializers.Serializer):
    """A patch over all instances."""

    kb_id = serializers.CharField()
    title = serializers.CharField()
    classification = serializers.CharField()
    severity = serializers.CharField()
    state = serializers.CharField()
    instances = serializers.IntegerField()
    since = serializers.DateTimeField(allow_null=True)
    deadline = ClockSerializer(source="clock", allow_null=True)


class DeadlineSerializer(serializers.Serializer):
    """The deadline of a severity, and how the missing patches stand to it."""

    severity = serializers.CharField()
    days = serializers.IntegerField()
    past = serializers.IntegerField(help_text="missing patches, over all instances")
    soon = serializers.IntegerField(help_text="within 48 hours")
    later = serializers.IntegerField()


class DeadlinesAskedSerializer(Asked):
    """Days by severity; a severity that is left out has no deadline."""

    days = serializers.DictField(child=serializers.IntegerField(min_value=0))


class ComplianceSummarySerializer(serializers.Serializer):
    """How all instances of a filter stand."""

    at = serializers.DateTimeField()
    instances = serializers.IntegerField()
    scanned = serializers.IntegerField()
    compliant = serializers.IntegerField()
    not_compliant = serializers.IntegerField(source="bad")
    never_scanned = serializers.IntegerField(source="never")
    old = serializers.IntegerField(help_text="reports older than 7 days")
    pending_reboot = serializers.IntegerField(source="reboot")
    percent = serializers.FloatField(source="share", allow_null=True, help_text="of the scanned that comply")
    deadlines = DeadlineSerializer(many=True)


class TrendPointSerializer(serializers.Serializer):
    """How the fleet stood at the end of an hour."""

    hour = serializers.DateTimeField()
    instances = serializers.IntegerField()
    compliant = serializers.IntegerField()
    never_scanned = serializers.IntegerField()
    missing = serializers.IntegerField(help_text="patches")
    overdue = serializers.IntegerField(help_text="patches past their deadline")


class HeatCellSerializer(serializers.Serializer):
    at = serializers.DateTimeField()
    scanned = serializers.IntegerField()
    not_compliant = serializers.IntegerField(source="bad")


class HeatRowSerializer(serializers.Serializer):
    """One group at the end of each week, the oldest first; the last is now, or the moment that was asked for."""

    name = serializers.CharField()
    expression = serializers.CharField(help_text="that selects its instances; empty: none does")
    weeks = HeatCellSerializer(many=True, source="cells")


class HubSerializer(serializers.ModelSerializer):
    """Whether findings of a region go to Security Hub, and how that goes."""

    account_id = serializers.CharField(source="region.account.account_id", read_only=True)
    region = serializers.CharField(source="region.name", read_only=True)

    class Meta:
        model = Hub
        fields = ("id", "account_id", "region", "enabled", "sent_at", "read_at", "not_before", "error")
        read_only_fields = tuple(name for name in fields if name != "enabled")


class HubAskedSerializer(Asked):
    enabled = serializers.BooleanField()


class FindingSerializer(serializers.ModelSerializer):
    """A finding of FleetOps: one for each instance and baseline, whatever the run."""

    account_id = serializers.CharField(source="account.account_id", read_only=True)
    region = serializers.CharField(source="region.name", read_only=True)
    instance_id = serializers.CharField(source="aws_id", read_only=True)
    asff = serializers.SerializerMethodField(help_text="as it is to stand in Security Hub")

    class Meta:
        model = Finding
        fields = (
            *("account_id", "region", "instance_id", "instance_name", "baseline_id", "is_failed", "began_at"),
            *("changed_at", "sent_changed_at", "due_at", "tries", "workflow", "error", "asff"),
        )
        read_only_fields = fields

    @extend_schema_field(OpenApiTypes.OBJECT)
    def get_asff(self, finding: Finding) -> Any:
        return finding.asff


class SsmFindingSerializer(serializers.ModelSerializer):
    """One of Patch Manager's own findings, as Security Hub has it."""

    account_id = serializers.CharField(source="region.account.account_id", read_only=True)
    region = serializers.CharField(source="region.name", read_only=True)

    class Meta:
        model = SsmFinding
        fields = (
            *("account_id", "region", "finding_id", "resource_id", "title", "severity", "status", "workflow"),
            *("updated_at", "read_at"),
        )
        read_only_fields = fields
