"""What the API tells of baselines, groups and pinned sets, and what it takes."""

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from fleetops.identity.rest import Asked

from . import pinned
from .families import OPERATING_SYSTEMS
from .models import BaselineVersion, PatchBaseline, PinnedSet, Write
from .states import Deed, WriteState

SYSTEMS = list(OPERATING_SYSTEMS)


@extend_schema_field(OpenApiTypes.OBJECT)
class ContentField(serializers.JSONField):
    """What a baseline says, in the members of GetPatchBaseline."""


class BaselineSerializer(serializers.ModelSerializer):
    """One baseline of an account and region."""

    account_id = serializers.CharField(source="account.account_id", read_only=True)
    region = serializers.CharField(source="region.name", read_only=True)
    operating_system = serializers.ChoiceField(choices=SYSTEMS, read_only=True)
    content = ContentField(read_only=True, help_text="in the members of GetPatchBaseline")
    tags = serializers.DictField(child=serializers.CharField(), read_only=True)
    groups = serializers.SlugRelatedField("name", many=True, read_only=True)
    is_drifted = serializers.BooleanField(read_only=True, help_text="changed outside FleetOps, and not accepted yet")

    class Meta:
        model = PatchBaseline
        fields = (
            *("id", "baseline_id", "name", "description", "operating_system", "account_id", "region", "owner"),
            *("is_default", "groups", "content", "tags", "version", "kept_version", "is_drifted"),
            *("made_at", "changed_at", "read_at", "gone_at"),
        )
        read_only_fields = fields


class BaselineVersionSerializer(serializers.ModelSerializer):
    """What a baseline said from a moment on."""

    content = ContentField(read_only=True)
    origin = serializers.CharField(read_only=True, help_text="fleetops, or aws: written outside FleetOps")

    class Meta:
        model = BaselineVersion
        fields = ("number", "content", "origin", "actor_name", "seen_at")
        read_only_fields = fields


class BaselineContentSerializer(Asked):
    """What a baseline is to say. What is left out is AWS's default."""

    content = ContentField(help_text="in the members of GetPatchBaseline: Name, ApprovalRules, RejectedPatches, …")


class BaselineChangeSerializer(BaselineContentSerializer):
    """A change of a baseline."""

    based_on = serializers.IntegerField(min_value=1, help_text="the version that it was written over")


class NewBaselineSerializer(BaselineContentSerializer):
    """A baseline to be made."""

    account_id = serializers.CharField(max_length=12)
    region = serializers.CharField(max_length=32)
    operating_system = serializers.ChoiceField(choices=SYSTEMS)
    tags = serializers.DictField(child=serializers.CharField(max_length=256, allow_blank=True), required=False)


class BaselinePlaceSerializer(Asked):
    account_id = serializers.CharField(max_length=12)
    region = serializers.CharField(max_length=32)


class BaselineCopySerializer(Asked):
    """Where else a baseline is to stand."""

    places = BaselinePlaceSerializer(many=True)


class GroupNameSerializer(Asked):
    name = serializers.CharField(max_length=256)


class SeenVersionSerializer(Asked):
    version = serializers.IntegerField(min_value=1, help_text="the one that you have seen")


class BaselineWriteSerializer(serializers.ModelSerializer):
    """What became of one change in one place."""

    account_id = serializers.CharField(source="region.account.account_id", read_only=True)
    region = serializers.CharField(source="region.name", read_only=True)
    deed = serializers.ChoiceField(choices=Deed.choices, read_only=True)
    state = serializers.ChoiceField(choices=WriteState.choices, read_only=True)
    baseline = serializers.PrimaryKeyRelatedField(read_only=True)

    class Meta:
        model = Write
        fields = ("id", "batch", "account_id", "region", "deed", "name", "baseline", "state", "text", "ended_at")
        read_only_fields = fields


class PreviewPatchSerializer(serializers.Serializer):
    """A patch of which the draft says something else."""

    patch = serializers.CharField(source="patch.title")
    severity = serializers.CharField(source="patch.severity")
    classification = serializers.CharField(source="patch.classification")
    released_at = serializers.DateTimeField(source="patch.released_at", allow_null=True)
    answer = serializers.CharField(source="after.answer", help_text="approved, waiting, rejected, left out")
    by = serializers.CharField(source="after.by")
    level = serializers.CharField(source="after.level")
    needed_on = serializers.IntegerField(help_text="nodes of those that were asked")
    installed_on = serializers.IntegerField()


class BaselinePreviewSerializer(serializers.Serializer):
    """What changes with a draft, over the patches that are known."""

    known = serializers.IntegerField()
    approved_before = serializers.IntegerField()
    approved = serializers.IntegerField()
    waiting = serializers.IntegerField()
    rejected = serializers.IntegerField()
    undated = serializers.IntegerField(help_text="approved ones without a release date: no days were counted")
    nodes = serializers.IntegerField(help_text="that were asked")
    fall_out = serializers.ListField(child=serializers.CharField(), help_text="ids of instances")
    newly_approved = PreviewPatchSerializer(many=True)
    no_longer = PreviewPatchSerializer(many=True)
    read_at = serializers.DateTimeField(allow_null=True, help_text="null: not read yet; ask again in some seconds")


class GroupPartSerializer(serializers.Serializer):
    """The nodes of a group that have one operating system."""

    operating_system = serializers.CharField(help_text="empty for one that Patch Manager does not know")
    nodes = serializers.IntegerField()
    baseline = serializers.UUIDField(source="baseline.pk", allow_null=True, default=None)
    is_registered = serializers.BooleanField(help_text="else it is the default")


class PatchGroupSerializer(serializers.Serializer):
    """A patch group of a region; with an empty name its nodes in none."""

    name = serializers.CharField()
    account_id = serializers.CharField(source="region.account.account_id")
    region = serializers.CharField(source="region.name")
    nodes = serializers.IntegerField()
    systems = GroupPartSerializer(many=True)


class PinnedSetSerializer(serializers.ModelSerializer):
    """A pinned patch set."""

    operating_system = serializers.ChoiceField(choices=SYSTEMS, read_only=True)
    entries = serializers.ListField(child=serializers.DictField(child=serializers.CharField()), read_only=True)
    nodes = serializers.ListField(child=serializers.DictField(), read_only=True)

    class Meta:
        model = PinnedSet
        fields = ("id", "name", "operating_system", "digest", "entries", "nodes", "run_id", "made_at", "actor_name")
        read_only_fields = fields


class FreezeSerializer(Asked):
    """What is to be frozen."""

    name = serializers.CharField(max_length=128)
    instances = serializers.ListField(child=serializers.UUIDField(), max_length=pinned.MOST_NODES + 1)
    since = serializers.DateTimeField(required=False, allow_null=True, help_text="installed then or later")
