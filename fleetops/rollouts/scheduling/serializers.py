"""Schedules as the API writes them, and what it takes."""

from collections.abc import Mapping
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from fleetops.rollouts.serializers import RunAskSerializer

from . import services
from .models import Occurrence, RunSchedule
from .states import MissedRule, OccurrenceState, OverlapRule

COMING = 5


class RunScheduleSerializer(serializers.ModelSerializer):
    """A run that comes again."""

    owner = serializers.CharField(source="owner_name", read_only=True)
    in_words = serializers.CharField(read_only=True)
    coming = serializers.SerializerMethodField(help_text="the next five moments, in UTC")
    wanted = serializers.SerializerMethodField(
        help_text="what is planned at each moment; `parameters` for its owner, and who may review commands"
    )
    missed = serializers.ChoiceField(choices=MissedRule.choices, read_only=True)
    overlap = serializers.ChoiceField(choices=OverlapRule.choices, read_only=True)
    url = serializers.SerializerMethodField()

    class Meta:
        model = RunSchedule
        fields = (
            *("id", "name", "enabled", "why_off", "expression", "offset_days", "zone", "in_words", "next_at", "coming"),
            *("starts_at", "ends_at", "starts_itself", "missed", "overlap", "drift", "open_minutes", "owner"),
            *("wanted", "created_at", "url"),
        )
        read_only_fields = fields

    @extend_schema_field(serializers.ListField(child=serializers.DateTimeField()))
    def get_coming(self, schedule: RunSchedule) -> list[str]:
        if not schedule.enabled or schedule.next_at is None:
            return []
        moments = [schedule.next_at]
        while len(moments) < COMING and (moment := schedule.following(moments[-1])) is not None:
            moments.append(moment)
        return [serializers.DateTimeField().to_representation(each) for each in moments]

    @extend_schema_field(serializers.DictField())
    def get_wanted(self, schedule: RunSchedule) -> dict[str, Any]:
        is_whole = services.may_read_parameters(schedule, self.context["request"].user)
        return dict(schedule.wanted) if is_whole else _without_parameters(schedule.wanted)

    def get_url(self, schedule: RunSchedule) -> str:
        return self.context["request"].build_absolute_uri(schedule.get_absolute_url())


def _without_parameters(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_parameters(each) for name, each in value.items() if name != "parameters"}
    return [_without_parameters(each) for each in value] if isinstance(value, list) else value


class RunMomentSerializer(serializers.ModelSerializer):
    """One moment at which a schedule was due: its run, or why it has none."""

    state = serializers.ChoiceField(choices=OccurrenceState.choices, read_only=True)
    cause = serializers.CharField(read_only=True, help_text="missed, overlap, denied, none, held, …; empty: none")
    run = serializers.UUIDField(source="run_id", read_only=True, allow_null=True)
    run_state = serializers.CharField(source="run.state", read_only=True, allow_null=True, default=None)

    class Meta:
        model = Occurrence
        fields = ("id", "due_at", "state", "cause", "words", "asked_by", "run", "run_state")
        read_only_fields = fields


class RunScheduleChangeSerializer(serializers.Serializer):
    """When, and by which rules."""

    name = serializers.CharField(max_length=128)
    expression = serializers.CharField(max_length=256, help_text="rate(…), cron(…) or at(…), as AWS writes them")
    offset_days = serializers.IntegerField(min_value=0, max_value=6, default=0)
    zone = serializers.CharField(max_length=64, default="UTC", help_text="IANA name")
    starts_at = serializers.DateTimeField(required=False, allow_null=True, default=None)
    ends_at = serializers.DateTimeField(required=False, allow_null=True, default=None)
    starts_itself = serializers.BooleanField(default=True, help_text="else its plan waits for the owner's start")
    missed = serializers.ChoiceField(choices=MissedRule.choices, default=MissedRule.SKIP.value)
    overlap = serializers.ChoiceField(choices=OverlapRule.choices, default=OverlapRule.SKIP.value)
    drift = serializers.CharField(max_length=8, required=False, allow_blank=True, default="", help_text="5, or 10%")
    open_minutes = serializers.IntegerField(min_value=0, default=0, help_text="0: no end")


class RunScheduleAskSerializer(RunScheduleChangeSerializer):
    """And what: a run that was planned, or what is to be planned."""

    run = serializers.UUIDField(required=False, allow_null=True, default=None, help_text="whose plan comes again")
    wanted = RunAskSerializer(required=False, allow_null=True, default=None)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if (attrs["run"] is None) == (attrs["wanted"] is None):
            raise serializers.ValidationError({"wanted": ["Say what is planned: by run, or by wanted, not by both."]})
        return attrs
