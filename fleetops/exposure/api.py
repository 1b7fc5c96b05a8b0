"""Port 22 over the API: what opens SSH or RDP on instances, closing it and opening it again."""

from django.shortcuts import get_object_or_404
from django.urls import path
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics, serializers
from rest_framework.response import Response

from fleetops.errors import UserError
from fleetops.identity.rest import ApiView, Asked, choice_in

from . import listing, services, tasks
from .grades import Grade
from .models import CLOSE_PERMISSION, SEE_PERMISSION, Closing, Group

READ, WRITE = "exposure:read", "exposure:write"
SEE, CLOSE = (SEE_PERMISSION,), (CLOSE_PERMISSION,)


class OpenRuleSerializer(serializers.Serializer):
    """One inbound rule."""

    rule_id = serializers.CharField()
    opens = serializers.CharField(help_text="in words: SSH; tcp 1 to 65535, with SSH and RDP")
    to = serializers.CharField(help_text="a CIDR, a prefix list or a security group")
    grade = serializers.CharField(source="word", help_text="whom it lets in, in words")
    description = serializers.CharField()


class GroupSerializer(serializers.Serializer):
    """A security group that opens SSH or RDP on instances."""

    id = serializers.UUIDField(source="group.pk")
    group_id = serializers.CharField(source="group.group_id", help_text="AWS's: sg-…")
    name = serializers.CharField(source="group.name")
    account = serializers.CharField(source="group.account.account_id")
    region = serializers.CharField(source="group.region.name")
    vpc_id = serializers.CharField(source="group.vpc_id")
    rules = OpenRuleSerializer(many=True)
    instances = serializers.SerializerMethodField()
    warnings = serializers.ListField(child=serializers.CharField(), help_text="what would be lost, and for whom")
    read_at = serializers.DateTimeField(source="group.read_at")

    def get_instances(self, row: listing.GroupRow) -> list[str]:
        return [each.instance_id for each in row.instances]


class ClosingSerializer(serializers.ModelSerializer):
    """Rules of one group that were taken away."""

    account = serializers.CharField(source="account.account_id", read_only=True)
    region = serializers.CharField(source="region.name", read_only=True)
    rules = serializers.SerializerMethodField(help_text="as they were")

    class Meta:
        model = Closing
        fields = (
            *("id", "group_id", "group_name", "account", "region", "rules", "state", "words", "reason"),
            *("asked_by_name", "asked_at", "closed_at", "reopened_by_name", "reopened_at"),
        )
        read_only_fields = fields

    def get_rules(self, closing: Closing) -> list[dict[str, str]]:
        return OpenRuleSerializer([listing.rule_row(rule) for rule in closing.inbound()], many=True).data


class CloseSerializer(Asked):
    """Which groups, by their id here; all their rules that open SSH or RDP are taken away, or those named."""

    groups = serializers.ListField(child=serializers.UUIDField(), min_length=1, max_length=services.MOST_GROUPS)
    rule_ids = serializers.ListField(
        child=serializers.CharField(max_length=64), required=False, help_text="only these: sgr-…"
    )
    reason = serializers.CharField(required=False, allow_blank=True, max_length=256, default="")


class Groups(ApiView):
    """Security groups that open SSH or RDP."""

    scopes = {"GET": READ}
    permissions = {"GET": SEE}
    pagination_class = None  # a fleet has few of them, and whoever acts wants them all

    @extend_schema(
        operation_id="exposure_groups",
        parameters=[
            OpenApiParameter("account", str, description="AWS's twelve digits"),
            OpenApiParameter("grade", str, enum=[grade.value for grade in Grade], description="of the worst rule"),
        ],
        responses=GroupSerializer(many=True),
    )
    def get(self, request):
        """The worst first."""
        grade = choice_in(request, "grade", ["", *(each.value for each in Grade)])
        found = listing.groups(request.user, account=request.query_params.get("account", ""), grade=grade)
        return Response(GroupSerializer(listing.rows(found), many=True).data)


class Closings(ApiView, generics.ListAPIView):
    """What was closed and opened again."""

    scopes = {"GET": READ, "POST": WRITE}
    permissions = {"GET": SEE, "POST": CLOSE}
    serializer_class = ClosingSerializer
    queryset = Closing.objects.none()

    @extend_schema(operation_id="exposure_closings")
    def get(self, request, *args, **kwargs):
        """The newest first."""
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        return listing.closings(self.request.user)

    @extend_schema(
        operation_id="exposure_close", request=CloseSerializer, responses={201: ClosingSerializer(many=True)}
    )
    def post(self, request):
        """Close SSH and RDP in groups. Look at their warnings first: nothing is refused for them."""
        asked = CloseSerializer.of(request)
        chosen = list(Group.objects.visible_to(request.user).filter(pk__in=asked["groups"]).select_related("region"))
        if len(chosen) != len(set(asked["groups"])):
            raise UserError("One of these groups is not open, or not known.")
        only = set(asked.get("rule_ids", ()))
        ids = {str(each.pk): [rule.rule_id for rule in each.inbound()] for each in chosen}
        if only:
            ids = {key: [rule_id for rule_id in found if rule_id in only] for key, found in ids.items()}
        made = services.close(chosen, actor=request.user, rule_ids=ids, reason=asked["reason"])
        for closing in made:
            tasks.start(closing)
        return Response(ClosingSerializer(made, many=True).data, status=201)


class OneClosing(ApiView):
    """One closing."""

    scopes = {"GET": READ}
    permissions = {"GET": SEE}

    @extend_schema(operation_id="exposure_closing", responses=ClosingSerializer)
    def get(self, request, pk):
        """How far it has come."""
        return Response(ClosingSerializer(get_object_or_404(listing.closings(request.user), pk=pk)).data)


class Reopen(ApiView):
    """The rules as they were."""

    scopes = {"POST": WRITE}
    permissions = {"POST": CLOSE}

    @extend_schema(operation_id="exposure_reopen", request=None, responses=ClosingSerializer)
    def post(self, request, pk):
        """Put the rules of a closing there again, with their descriptions and tags."""
        closing = get_object_or_404(listing.closings(request.user), pk=pk)
        services.reopen(closing, actor=request.user)
        tasks.start(closing)
        return Response(ClosingSerializer(closing).data)


urlpatterns = [
    path("exposure/groups/", Groups.as_view(), name="exposure_groups"),
    path("exposure/closings/", Closings.as_view(), name="exposure_closings"),
    path("exposure/closings/<uuid:pk>/", OneClosing.as_view(), name="exposure_closing"),
    path("exposure/closings/<uuid:pk>/reopen/", Reopen.as_view(), name="exposure_reopen"),
]
