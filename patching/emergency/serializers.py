"""Emergencies as the API writes them, and what it takes."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from fleetops.identity.rest import Asked as AskedSerializer
from fleetops.rollouts.states import RunState
from fleetops.targets import MOST_CHARACTERS
from patching.verdict import IF_NEEDED, NO_REBOOT

from . import choose, progress
from .marks import Mark
from .models import Emergency, What


class OfferSerializer(serializers.Serializer):
    """A CVE or a package, with how many nodes lack its patch by their reports."""

    what = serializers.ChoiceField(choices=What.values)
    name = serializers.CharField()
    nodes = serializers.IntegerField()
    note = serializers.CharField(help_text="the packages; or that AWS's lists alone know it")


class AffectedNodeSerializer(serializers.Serializer):
    """One node that lacks it."""

    id = serializers.UUIDField(source="node.instance.pk")
    instance_id = serializers.CharField(source="node.instance.instance_id")
    name = serializers.CharField(source="node.instance")
    account_id = serializers.CharField(source="node.facts.account_id")
    region = serializers.CharField(source="node.facts.region")
    operating_system = serializers.CharField(source="node.system")
    mark = serializers.ChoiceField(source="node.marked.mark", choices=[each.value for each in Mark])
    why = serializers.CharField(source="node.marked.why", help_text="why it has its mark")
    scaling_group = serializers.CharField(source="node.marked.group")
    patches = serializers.SerializerMethodField(help_text="what it lacks, as an InstallOverrideList names it")
    reported_at = serializers.DateTimeField(source="node.reported_at", allow_null=True)
    problem = serializers.CharField(help_text="why it cannot be patched now; empty: it can")
    held = serializers.CharField(help_text="by a freeze or window, as it is now")

    @extend_schema_field(serializers.ListField(child=serializers.CharField()))
    def get_patches(self, choice: Any) -> list[str]:
        return [need.title or need.id for need in choice.node.needs]


class AffectedSerializer(serializers.Serializer):
    """Whom it affects, and how much is known."""

    what = serializers.ChoiceField(source="affected.what", choices=What.values)
    name = serializers.CharField(source="affected.name")
    is_known = serializers.BooleanField(source="affected.is_known")
    scanned = serializers.IntegerField(source="affected.scanned")
    never_scanned = serializers.IntegerField(source="affected.never")
    old_reports = serializers.IntegerField(source="affected.old", help_text="older than 7 days")
    without_cves = serializers.IntegerField(source="affected.silent", help_text="nodes whose reports name no CVEs: apt")
    have = serializers.IntegerField(source="affected.have", help_text="nodes that have its patch")
    packages = serializers.ListField(source="affected.packages", child=serializers.CharField())
    nodes = AffectedNodeSerializer(source="choices", many=True)


class EmergencyAskSerializer(AskedSerializer):
    """What is to be mended, and how. What is left out is as the page has it."""

    what = serializers.ChoiceField(choices=What.values)
    name = serializers.CharField(max_length=255, help_text="CVE-2026-12345, openssl, KB5041585")
    scope = serializers.CharField(max_length=MOST_CHARACTERS, required=False, allow_blank=True, default="")
    data = serializers.CharField(
        max_length=MOST_CHARACTERS,
        required=False,
        allow_blank=True,
        allow_null=True,
        default=None,
        help_text="a target expression: what holds data; none: the setting's",
    )
    left_out = serializers.ListField(child=serializers.UUIDField(), required=False, default=list)
    without_replaceable = serializers.BooleanField(required=False, default=False)
    spread = serializers.ChoiceField(choices=list(choose.SPREADS), required=False, default="once")
    budget = serializers.CharField(max_length=8, required=False, default="10%")
    soak_minutes = serializers.IntegerField(min_value=0, max_value=24 * 60, required=False, default=5)
    reboot_option = serializers.ChoiceField(choices=[IF_NEEDED, NO_REBOOT], required=False, default=IF_NEEDED)
    reason = serializers.CharField(max_length=256, required=False, allow_blank=True, default="")

    def validate_left_out(self, value: list[Any]) -> list[str]:
        return [str(each) for each in value]


class EmergencyReleaseSerializer(AskedSerializer):
    """The plans, as they were seen."""

    plan_hashes = serializers.DictField(
        child=serializers.CharField(max_length=64), help_text="of each run by its id: its plan_hash"
    )


class EmergencySerializer(serializers.ModelSerializer):
    """One emergency, with its lists."""

    what = serializers.ChoiceField(choices=What.values, read_only=True)
    actor = serializers.CharField(source="actor_name", read_only=True)
    asked = serializers.DictField(read_only=True)
    fixes = serializers.ListField(child=serializers.DictField(), read_only=True)
    url = serializers.SerializerMethodField()

    class Meta:
        model = Emergency
        fields = ("id", "what", "name", "reason", "asked", "fixes", "actor", "made_at", "began_at", "url")
        read_only_fields = fields

    def get_url(self, emergency: Emergency) -> str:
        return str(self.context["request"].build_absolute_uri(emergency.get_absolute_url()))


class EmergencyRunSerializer(serializers.Serializer):
    """One of its runs."""

    id = serializers.UUIDField()
    name = serializers.CharField()
    state = serializers.ChoiceField(choices=RunState.choices)
    plan_hash = serializers.CharField()
    fix = serializers.CharField(help_text="key of one of `fixes`")
    targets = serializers.IntegerField()


class EmergencyLeftSerializer(serializers.Serializer):
    """A node that is not fixed yet."""

    instance_id = serializers.CharField()
    name = serializers.CharField()
    account_id = serializers.CharField()
    region = serializers.CharField()
    why = serializers.CharField()


class OneEmergencySerializer(EmergencySerializer):
    """With its runs, and how far it has come."""

    runs = serializers.SerializerMethodField()
    affected = serializers.SerializerMethodField(help_text="nodes, when it was planned")
    fixed = serializers.SerializerMethodField(help_text="by their own reports")
    half_after_seconds = serializers.SerializerMethodField(help_text="null: half of them are not fixed yet")
    full_after_seconds = serializers.SerializerMethodField()
    left = serializers.SerializerMethodField()

    class Meta(EmergencySerializer.Meta):
        fields = (
            *EmergencySerializer.Meta.fields,
            *("runs", "affected", "fixed", "half_after_seconds", "full_after_seconds", "left"),
        )
        read_only_fields = fields

    def _made(self, emergency: Emergency) -> progress.Progress:
        if not hasattr(self, "_progress"):
            self._progress = progress.progress(emergency, self.context["request"].user)
        return self._progress

    @extend_schema_field(EmergencyRunSerializer(many=True))
    def get_runs(self, emergency: Emergency) -> list[dict[str, Any]]:
        return [
            {
                "id": str(run.pk),
                "name": run.name,
                "state": run.state,
                "plan_hash": run.plan_hash,
                "fix": run.subject.get("fix", ""),
                "targets": run.plan.get("targets", 0),
            }
            for run in emergency.runs().visible_to(self.context["request"].user)
        ]

    def get_affected(self, emergency: Emergency) -> int:
        return self._made(emergency).coverage.total

    def get_fixed(self, emergency: Emergency) -> int:
        return self._made(emergency).coverage.fixed

    def get_half_after_seconds(self, emergency: Emergency) -> float | None:
        after = self._made(emergency).coverage.half_after
        return None if after is None or emergency.began_at is None else after.total_seconds()

    def get_full_after_seconds(self, emergency: Emergency) -> float | None:
        after = self._made(emergency).coverage.full_after
        return None if after is None or emergency.began_at is None else after.total_seconds()

    @extend_schema_field(EmergencyLeftSerializer(many=True))
    def get_left(self, emergency: Emergency) -> list[dict[str, Any]]:
        return [
            {
                "instance_id": each.target.instance.instance_id,
                "name": str(each.target.instance),
                "account_id": each.target.account.account_id,
                "region": each.target.region.name,
                "why": each.words,
            }
            for each in self._made(emergency).left
        ]
