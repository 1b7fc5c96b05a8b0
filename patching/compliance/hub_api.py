"""Deadlines and findings over the API, and what all routes of compliance are asked."""

from typing import Any

from django.shortcuts import get_object_or_404
from django.urls import path
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics
from rest_framework.exceptions import ValidationError
from rest_framework.response import Response

from fleetops.identity.rest import ApiView, choice_in
from fleetops.inventory.models import Instance
from fleetops.targets import ExpressionError

from . import asking, services
from .asking import Scope
from .models import Finding, Hub, SsmFinding
from .serializers import (
    DeadlinesAskedSerializer,
    DeadlineSerializer,
    FindingSerializer,
    HubAskedSerializer,
    HubSerializer,
    SsmFindingSerializer,
)
from .views import CHANGE_HUB, CHANGE_SLA, SEE

READ, WRITE = "compliance:read", "compliance:write"
PERMISSIONS = {"GET": (SEE,)}
WHICH = OpenApiParameter(
    "q", str, description="Which instances: words, or an expression such as `env=prod`. Empty: all."
)
AT = OpenApiParameter("at", OpenApiTypes.DATETIME, description="A moment: all is as it was reported by then.")


def scope_in(request: Any) -> Scope:
    """The scope that a request names. Raises ValidationError, UserError."""
    try:
        return asking.scope_of(request.user, request.query_params)
    except ExpressionError as error:
        raise ValidationError({"q": [str(error)]}) from None


class Deadlines(ApiView):
    """By when missing patches have to be installed."""

    scopes = {"GET": READ, "PUT": WRITE}
    permissions = {"GET": (SEE,), "PUT": (CHANGE_SLA,)}
    pagination_class = None  # one for each severity

    @extend_schema(operation_id="compliance_deadlines", parameters=[WHICH, AT], responses=DeadlineSerializer(many=True))
    def get(self, request):
        """With how many missing patches are past, and will be."""
        return Response(DeadlineSerializer(asking.deadlines(scope_in(request)), many=True).data)

    @extend_schema(
        operation_id="compliance_deadlines_set",
        request=DeadlinesAskedSerializer,
        responses=DeadlineSerializer(many=True),
    )
    def put(self, request):
        """Set all of them: {"days": {"Critical": 7, "Important": 30}}."""
        days = DeadlinesAskedSerializer.of(request)["days"]
        if unknown := sorted(set(days) - set(services.SEVERITIES)):
            raise ValidationError({"days": [f"{unknown[0]} is none of {', '.join(services.SEVERITIES)}."]})
        asked = {f"days_{severity}": str(count) for severity, count in days.items()}
        if problem := services.change_slas(asked, actor=request.user):
            raise ValidationError({f"days.{severity}": [text] for severity, text in problem.items()})
        return Response(DeadlineSerializer(asking.deadlines(Scope(request.user)), many=True).data)


class Hubs(ApiView, generics.ListAPIView):
    """Security Hub, region by region."""

    scopes, permissions = {"GET": READ}, PERMISSIONS
    serializer_class = HubSerializer
    queryset = Hub.objects.none()
    newest_first = False

    @extend_schema(operation_id="compliance_hubs")
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        return _hubs(self.request)


class OneHub(ApiView):
    """Security Hub of a region."""

    scopes, permissions = {"PUT": WRITE}, {"PUT": (CHANGE_HUB,)}

    @extend_schema(operation_id="compliance_hub_switch", request=HubAskedSerializer, responses=HubSerializer)
    def put(self, request, pk):
        """Let findings of the region go there, or not."""
        found = get_object_or_404(_hubs(request), pk=pk)
        services.switch_hub(found, HubAskedSerializer.of(request)["enabled"], actor=request.user)
        return Response(HubSerializer(_hubs(request).get(pk=pk)).data)


def _hubs(request: Any) -> Any:
    regions = Instance.objects.visible_to(request.user).order_by().values("region").distinct()
    return Hub.objects.filter(region__in=regions).select_related("region__account")


class Findings(ApiView, generics.ListAPIView):
    """Findings of FleetOps, the newest first."""

    scopes, permissions = {"GET": READ}, PERMISSIONS
    serializer_class = FindingSerializer
    queryset = Finding.objects.none()

    @extend_schema(
        operation_id="compliance_findings",
        parameters=[OpenApiParameter("state", str, enum=["failed", "resolved", "waiting"])],
    )
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        visible = Instance.objects.visible_to(self.request.user)
        found = Finding.objects.filter(instance__in=visible).select_related("account", "region")
        state = choice_in(self.request, "state", ("failed", "resolved", "waiting"))
        if state == "waiting":
            return found.exclude(due_at=None)
        return found.filter(is_failed=state == "failed") if state else found


class AwsFindings(ApiView, generics.ListAPIView):
    """Findings that Patch Manager itself has sent to Security Hub, as last read there."""

    scopes, permissions = {"GET": READ}, PERMISSIONS
    serializer_class = SsmFindingSerializer
    queryset = SsmFinding.objects.none()

    @extend_schema(operation_id="compliance_aws_findings")
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        visible = Instance.objects.visible_to(self.request.user)
        return SsmFinding.objects.filter(instance__in=visible).select_related("region__account")


urlpatterns = [
    path("compliance/deadlines/", Deadlines.as_view(), name="compliance_deadlines"),
    path("compliance/hubs/", Hubs.as_view(), name="compliance_hubs"),
    path("compliance/hubs/<int:pk>/", OneHub.as_view(), name="compliance_hub"),
    path("compliance/findings/", Findings.as_view(), name="compliance_findings"),
    path("compliance/findings/aws/", AwsFindings.as_view(), name="compliance_aws_findings"),
]
