"""The fleet over the API: accounts, regions, instances."""

from django.shortcuts import get_object_or_404
from django.urls import path
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import generics, serializers
from rest_framework.exceptions import ValidationError
from rest_framework.response import Response

from fleetops.clock import now
from fleetops.identity.rest import ApiView
from fleetops.targets import ExpressionError, parse

from . import account_api, activation_api, budget_api
from .models import Instance, Region
from .readiness import Status, readiness_of, status_of
from .selection import select

SEE = ("inventory.view_instance",)


class RegionSerializer(serializers.ModelSerializer):
    """A region of an account, and how fresh what is known of it is."""

    account_id = serializers.CharField(source="account.account_id", read_only=True)
    account_name = serializers.CharField(source="account.name", read_only=True)

    class Meta:
        model = Region
        fields = ("account_id", "account_name", "name", "enabled", "refreshed_at", "error")
        read_only_fields = fields


class InstanceSerializer(serializers.ModelSerializer):
    """A managed instance."""

    name = serializers.CharField(source="__str__", read_only=True)
    account_id = serializers.CharField(source="account.account_id", read_only=True)
    account_name = serializers.CharField(source="account.name", read_only=True)
    region = serializers.CharField(source="region.name", read_only=True)
    status = serializers.SerializerMethodField()
    platform = serializers.CharField(read_only=True)
    profile = serializers.CharField(source="profile_name", read_only=True, help_text="instance profile")
    is_hybrid = serializers.BooleanField(read_only=True, help_text="registered by an activation: EC2 does not know it")
    tags = serializers.DictField(child=serializers.CharField(), read_only=True)
    url = serializers.SerializerMethodField(help_text="its page")

    class Meta:
        model = Instance
        fields = (
            "id",
            "instance_id",
            "name",
            "account_id",
            "account_name",
            "region",
            "zone",
            "status",
            "platform",
            "platform_type",
            "instance_type",
            "agent_version",
            "private_ip",
            "profile",
            "is_hybrid",
            "tags",
            "last_ping_at",
            "launched_at",
            "url",
        )
        read_only_fields = fields

    @extend_schema_field(serializers.ChoiceField(choices=[status.value for status in Status]))
    def get_status(self, instance: Instance) -> str:
        return status_of(instance).value

    def get_url(self, instance: Instance) -> str:
        return self.context["request"].build_absolute_uri(instance.get_absolute_url())


class ReadinessSerializer(serializers.Serializer):
    """Can a shell be opened on it, and if not, why not, and what mends it?"""

    can_connect = serializers.BooleanField()
    word = serializers.CharField()
    reason = serializers.CharField()
    mend = serializers.CharField()
    is_stale = serializers.BooleanField(help_text="what is known is too old to be believed")


class InstanceDetailSerializer(InstanceSerializer):
    """A managed instance, and whether it can be reached."""

    readiness = serializers.SerializerMethodField()

    class Meta(InstanceSerializer.Meta):
        fields = (*InstanceSerializer.Meta.fields, "image_id", "computer_name", "changed_at", "gone_at", "readiness")
        read_only_fields = fields

    @extend_schema_field(ReadinessSerializer)
    def get_readiness(self, instance: Instance) -> dict:
        return ReadinessSerializer(readiness_of(instance, now=now())).data


class Regions(ApiView, generics.ListAPIView):
    """The regions that are read, and when each was last read whole."""

    scopes = {"GET": "fleet:read"}
    permissions = {"GET": SEE}
    serializer_class = RegionSerializer
    queryset = Region.objects.select_related("account")
    newest_first = False


class Instances(ApiView, generics.ListAPIView):
    """Instances, those that FleetOps has known longest first."""

    scopes = {"GET": "fleet:read"}
    permissions = {"GET": SEE}
    serializer_class = InstanceSerializer
    queryset = Instance.objects.none()
    newest_first = False

    @extend_schema(
        parameters=[
            OpenApiParameter(
                "q",
                str,
                description="Which: words, or an expression such as `env=prod and not status=stopped`. Empty: all.",
            )
        ]
    )
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        visible = Instance.objects.visible_to(self.request.user).present().select_related("account", "region")
        text = self.request.query_params.get("q", "").strip()
        try:
            return select(parse(text, words=True), visible) if text else visible
        except ExpressionError as error:
            raise ValidationError({"q": [str(error)]}) from None


class InstanceDetail(ApiView):
    """One instance, by our id."""

    scopes = {"GET": "fleet:read"}
    permissions = {"GET": SEE}

    @extend_schema(operation_id="instances_get", responses=InstanceDetailSerializer)
    def get(self, request, pk):
        visible = Instance.objects.visible_to(request.user).select_related("account", "region")
        instance = get_object_or_404(visible, pk=pk)
        return Response(InstanceDetailSerializer(instance, context={"request": request}).data)


urlpatterns = [
    *account_api.urlpatterns,
    path("regions/", Regions.as_view(), name="regions"),
    path("instances/", Instances.as_view(), name="instances"),
    path("instances/<uuid:pk>/", InstanceDetail.as_view(), name="instance"),
    *budget_api.urlpatterns,
    *activation_api.urlpatterns,
]
