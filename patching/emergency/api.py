"""Emergencies over the API: whom a CVE or package affects, a plan for it, its start, and how far it has come."""

from django.shortcuts import get_object_or_404
from django.urls import path
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics
from rest_framework.response import Response

from fleetops.identity.rest import ApiView
from fleetops.rollouts import tasks as rollout_tasks
from fleetops.rollouts.models import SEE_PERMISSION, START_PERMISSION, Run

from . import found, services
from .models import Emergency, What
from .serializers import (
    AffectedSerializer,
    EmergencyAskSerializer,
    EmergencyReleaseSerializer,
    EmergencySerializer,
    OfferSerializer,
    OneEmergencySerializer,
)
from .services import Asked

SEE, START = (SEE_PERMISSION, START_PERMISSION), (START_PERMISSION,)
READ, WRITE = "runs:read", "runs:write"


class Emergencies(ApiView, generics.ListAPIView):
    """Emergencies that you may see, the newest first."""

    scopes = {"GET": READ, "POST": WRITE}
    permissions = {"GET": SEE, "POST": START}
    serializer_class = EmergencySerializer
    queryset = Emergency.objects.none()

    @extend_schema(operation_id="emergencies")
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        return Emergency.objects.visible_to(self.request.user)

    @extend_schema(
        operation_id="emergencies_plan", request=EmergencyAskSerializer, responses={201: OneEmergencySerializer}
    )
    def post(self, request):
        """Plan one: a run for each list of patches. Nothing is sent; look at its runs' plans, then release it."""
        form = EmergencyAskSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        return Response(_shown(services.make(request.user, Asked(**form.validated_data)), request), status=201)


class Offers(ApiView):
    """CVEs and packages by a few words."""

    scopes = {"GET": READ}
    permissions = {"GET": START}
    pagination_class = None  # a list that is never long

    @extend_schema(
        operation_id="emergencies_find",
        parameters=[OpenApiParameter("find", str, description="words; empty: the most widespread of all")],
        responses=OfferSerializer(many=True),
    )
    def get(self, request):
        """The most widespread first."""
        return Response(
            OfferSerializer(found.offers(request.user, request.query_params.get("find", "")), many=True).data
        )


class Affected(ApiView):
    """Nodes that lack a patch."""

    scopes = {"GET": READ}
    permissions = {"GET": START}

    @extend_schema(
        operation_id="emergencies_affected",
        parameters=[
            OpenApiParameter("what", str, enum=What.values, required=True),
            OpenApiParameter("name", str, required=True, description="CVE-2026-12345, openssl"),
            OpenApiParameter("q", str, description="only those that a target expression selects"),
        ],
        responses=AffectedSerializer,
    )
    def get(self, request):
        """Whom a CVE or package affects, of the nodes that you may see, and which of them could be patched."""
        given = request.query_params
        asked = Asked(given.get("what", ""), given.get("name", ""), scope=given.get("q", ""))
        return Response(AffectedSerializer(services.look(request.user, asked)).data)


class One(ApiView):
    """One emergency."""

    scopes = {"GET": READ, "DELETE": WRITE}
    permissions = {"GET": SEE, "DELETE": START}

    @extend_schema(operation_id="emergencies_get", responses=OneEmergencySerializer)
    def get(self, request, pk):
        """With its runs, and how far it has come."""
        return Response(_shown(get_object_or_404(Emergency.objects.visible_to(request.user), pk=pk), request))

    @extend_schema(operation_id="emergencies_discard", responses={204: None})
    def delete(self, request, pk):
        """Discard a plan of your own that was not started."""
        services.discard(get_object_or_404(Emergency.objects.filter(actor=request.user), pk=pk), actor=request.user)
        return Response(status=204)


class Release(ApiView):
    """The start of its runs."""

    scopes = {"POST": WRITE}
    permissions = {"POST": START}

    @extend_schema(
        operation_id="emergencies_release", request=EmergencyReleaseSerializer, responses=OneEmergencySerializer
    )
    def post(self, request, pk):
        """Let the plans of your own go that have not been yet, exactly as they were seen."""
        emergency = get_object_or_404(Emergency.objects.filter(actor=request.user), pk=pk)
        form = EmergencyReleaseSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        gone: list[Run] = []
        try:
            services.release(emergency, actor=request.user, plan_hashes=form.validated_data["plan_hashes"], gone=gone)
        finally:  # those that went, though another did not
            for run in gone:
                rollout_tasks.advance_run.delay_on_commit(str(run.pk))
        return Response(_shown(emergency, request))


def _shown(emergency: Emergency, request) -> dict:
    return OneEmergencySerializer(emergency, context={"request": request}).data


urlpatterns = [
    path("emergencies/", Emergencies.as_view(), name="emergencies"),
    path("emergencies/find/", Offers.as_view(), name="emergency_offers"),
    path("emergencies/affected/", Affected.as_view(), name="emergency_affected"),
    path("emergencies/<uuid:pk>/", One.as_view(), name="emergency"),
    path("emergencies/<uuid:pk>/release/", Release.as_view(), name="emergency_release"),
]
