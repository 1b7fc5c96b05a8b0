"""Runs as the API writes them, and what it takes."""

from collections.abc import Mapping
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from fleetops.identity.models import User
from fleetops.targets import MOST_CHARACTERS

from .leave import may_read_parameters
from .models import ClusterRule, GateCheck, Run, RunEvent, RunTarget, Wave
from .states import GateState, Readiness, RunState, TargetState, WaveState
from .waves import MOST_WAVES


class RolloutSerializer(serializers.ModelSerializer):
    """A document in waves."""

    state = serializers.ChoiceField(choices=RunState.choices, read_only=True)
    actor = serializers.CharField(source="actor_name", read_only=True)
    targets = serializers.CharField(source="targets_text", read_only=True)
    subject = serializers.SerializerMethodField(
        help_text="what its kind is told; `parameters` for whose run it is, and who may review commands"
    )
    url = serializers.SerializerMethodField()

    class Meta:
        model = Run
        fields = (
            *("id", "kind", "name", "state", "waits_for", "subject", "targets", "reason", "actor"),
            *("concurrency", "budget", "is_strict", "tolerance", "starts_at", "ends_by", "cutoff_minutes"),
            *("evidence_minutes", "plan_hash", "created_at", "started_at", "ended_at", "end_reason", "url"),
        )
        read_only_fields = fields

    @extend_schema_field(serializers.DictField())
    def get_subject(self, run: Run) -> dict[str, Any]:
        return _told(run.subject, run, self.context["request"].user)

    def get_url(self, run: Run) -> str:
        return self.context["request"].build_absolute_uri(run.get_absolute_url())


class RunGateSerializer(serializers.ModelSerializer):
    """What has to be true after a wave."""

    state = serializers.ChoiceField(choices=GateState.choices, read_only=True)
    settings = serializers.SerializerMethodField(
        help_text="what it asks; `parameters` for whose run it is, and who may review commands"
    )
    approval = serializers.UUIDField(source="approval_id", read_only=True, allow_null=True)

    class Meta:
        model = GateCheck
        fields = ("id", "position", "kind", "settings", "state", "approval", "words", "began_at", "ended_at")
        read_only_fields = fields

    @extend_schema_field(serializers.DictField())
    def get_settings(self, gate: GateCheck) -> dict[str, Any]:
        return _told(gate.settings, gate.wave.run, self.context["request"].user)


def _told(facts: Mapping[str, Any], run: Run, user: User) -> dict[str, Any]:
    """Without what documents are given, unless `user` may read that."""
    is_whole = may_read_parameters(run, user)
    return {name: value for name, value in facts.items() if is_whole or name != "parameters"}


class RunWaveSerializer(serializers.ModelSerializer):
    """Targets that go together."""

    state = serializers.ChoiceField(choices=WaveState.choices, read_only=True)
    readiness = serializers.ChoiceField(
        choices=Readiness.choices, read_only=True, help_text="whether what it needs was made: pinned patches"
    )
    gates = RunGateSerializer(many=True, read_only=True)

    class Meta:
        model = Wave
        fields = (
            *("position", "name", "state", "concurrency", "budget", "soak_seconds", "started_at", "soak_until"),
            *("ended_at", "reason", "readiness", "readiness_words", "gates"),
        )
        read_only_fields = fields


class OneRolloutSerializer(RolloutSerializer):
    """With its waves, its plan, and how many targets there are of each state."""

    waves = RunWaveSerializer(many=True, read_only=True)
    plan = serializers.DictField(read_only=True, help_text="what the page of the plan shows")
    counts = serializers.SerializerMethodField()
    prepared = serializers.SerializerMethodField(help_text="what was made for its later waves: pinned patches")

    class Meta(RolloutSerializer.Meta):
        fields = (*RolloutSerializer.Meta.fields, "waves", "plan", "counts", "prepared")
        read_only_fields = fields

    @extend_schema_field(serializers.ListField(child=serializers.DictField(child=serializers.CharField())))
    def get_prepared(self, run: Run) -> list[dict[str, str]]:
        return list(run.preparation.get("shown", []))

    def get_counts(self, run: Run) -> dict[str, int]:
        return {state.value: count for state, count in run.targets.counts().items()}


class RunTargetSerializer(serializers.ModelSerializer):
    """One instance in a run, or why it is left out."""

    instance = serializers.UUIDField(source="instance_row_id", read_only=True, allow_null=True)
    account_id = serializers.CharField(source="account.account_id", read_only=True)
    region = serializers.CharField(source="region.name", read_only=True)
    wave = serializers.IntegerField(source="wave.position", read_only=True, allow_null=True, default=None)
    state = serializers.ChoiceField(choices=TargetState.choices, read_only=True)
    facts = serializers.DictField(read_only=True)

    class Meta:
        model = RunTarget
        fields = (
            *("id", "position", "wave", "instance", "instance_id", "instance_name", "account_id", "region", "zone"),
            *("state", "step", "attempt", "reason", "facts", "went_at", "sent_at", "ran_at", "rebooted_at"),
            *("reported_at", "probed_at", "ended_at"),
        )
        read_only_fields = fields


class RunEventSerializer(serializers.ModelSerializer):
    """A line of the timeline."""

    wave = serializers.IntegerField(source="wave.position", read_only=True, allow_null=True, default=None)
    target = serializers.UUIDField(source="target_id", read_only=True, allow_null=True)

    class Meta:
        model = RunEvent
        fields = ("id", "at", "tone", "text", "wave", "target")
        read_only_fields = fields


class RunDriftSerializer(serializers.Serializer):
    """How the live fleet differs from a plan."""

    count = serializers.IntegerField()
    tolerated = serializers.IntegerField()
    is_too_much = serializers.BooleanField(help_text="the run would refuse to start")
    words = serializers.CharField()
    new = serializers.ListField(child=serializers.CharField(), help_text="names; they are left out")
    gone = serializers.ListField(child=serializers.DictField(child=serializers.CharField()))


class RunStepSerializer(serializers.Serializer):
    """A document besides the run's own."""

    document = serializers.CharField(max_length=256)
    version = serializers.CharField(max_length=8, required=False, allow_blank=True, default="")
    parameters = serializers.DictField(
        child=serializers.ListField(child=serializers.CharField(allow_blank=True, trim_whitespace=False)),
        required=False,
        default=dict,
    )
    on_failure = serializers.BooleanField(required=False, help_text="of a step after: also after a failure")


class RunWaveAskSerializer(serializers.Serializer):
    """How a wave is made, and what comes after it."""

    by = serializers.ChoiceField(choices=["canary", "percent", "count", "tag", "zone", "list", "rest"])
    value = serializers.CharField(max_length=4000, required=False, allow_blank=True, default="")
    name = serializers.CharField(max_length=64, required=False, allow_blank=True, default="")
    concurrency = serializers.CharField(max_length=8, required=False, allow_blank=True, default="")
    budget = serializers.CharField(max_length=8, required=False, allow_blank=True, default="")
    soak_minutes = serializers.IntegerField(min_value=0, required=False, default=0)
    gates = serializers.ListField(
        child=serializers.DictField(),
        required=False,
        default=list,
        help_text="{kind: approval, quorum, approvers}, {kind: document, document, parameters, targets}, "
        "{kind: alarm, names, account_id, region}, {kind: probe, url}",
    )


class RunAskSerializer(serializers.Serializer):
    """What is run on what, in which waves."""

    kind = serializers.CharField(max_length=32, default="document")
    subject = serializers.DictField(help_text="of the kind document: {document, version, parameters}")
    targets = serializers.CharField(max_length=MOST_CHARACTERS, help_text="a target expression")
    name = serializers.CharField(max_length=128, required=False, allow_blank=True, default="")
    waves = RunWaveAskSerializer(many=True, required=False, default=list)
    concurrency = serializers.CharField(max_length=8, default="10%", help_text="5, or 10%")
    budget = serializers.CharField(max_length=8, default="0", help_text="failures that it bears: 5, or 10%")
    is_strict = serializers.BooleanField(default=False)
    steps_before = RunStepSerializer(many=True, required=False, default=list)
    steps_after = RunStepSerializer(many=True, required=False, default=list)
    probes = RunStepSerializer(many=True, required=False, default=list)
    starts_at = serializers.DateTimeField(required=False, allow_null=True, default=None)
    ends_by = serializers.DateTimeField(required=False, allow_null=True, default=None)
    cutoff_minutes = serializers.IntegerField(min_value=0, default=0)
    evidence_minutes = serializers.IntegerField(min_value=1, default=30)
    tolerance = serializers.CharField(max_length=8, default="0")
    reason = serializers.CharField(max_length=256, required=False, allow_blank=True, default="")


class PlanHashSerializer(serializers.Serializer):
    """Which plan was looked at."""

    plan_hash = serializers.CharField(max_length=64)


class RunReasonSerializer(serializers.Serializer):
    """Why."""

    reason = serializers.CharField(max_length=256, required=False, allow_blank=True, default="")


class RunReasonNeededSerializer(serializers.Serializer):
    """Why; it has to be said."""

    reason = serializers.CharField(max_length=256)


class RunAbortSerializer(RunReasonSerializer):
    """Whether AWS is asked to cancel what runs already."""

    cancel = serializers.BooleanField(default=False)


class RunRetrySerializer(RunReasonSerializer):
    """Of which wave; none: of all."""

    wave = serializers.IntegerField(required=False, allow_null=True, default=None, min_value=1, max_value=MOST_WAVES)


class ClusterRuleSerializer(serializers.ModelSerializer):
    """How many members of a cluster may be out of service at once."""

    values = serializers.CharField(max_length=256, default="*", help_text="a pattern: * for any characters")
    most_out = serializers.IntegerField(min_value=1, max_value=1000)

    class Meta:
        model = ClusterRule
        fields = ("id", "tag", "values", "most_out", "enabled", "created_at")
        read_only_fields = ("id", "created_at")
        validators = ()  # whether it is the only one of its kind says the database
