"""The audit log over the API."""

from django.shortcuts import get_object_or_404
from django.urls import path
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics, serializers
from rest_framework.exceptions import ValidationError
from rest_framework.response import Response

from fleetops.audit.models import AuditEvent, Outcome
from fleetops.clock import now
from fleetops.identity.rest import ApiView

from . import search

READ = ("audit.view_auditevent",)
# Parameters that stand for a filter of the page's language.
FILTERS = (
    *("who", "action", "kind", "outcome", "source", "session", "target"),
    *("account", "region", "address", "request", "since", "until"),
)


class EventSerializer(serializers.ModelSerializer):
    """One deed. `number` and `hash` are its link of the chain: null for the second until it is sealed."""

    outcome = serializers.ChoiceField(choices=Outcome.values, read_only=True)
    details = serializers.DictField(read_only=True)
    number = serializers.IntegerField(source="seal.number", read_only=True, allow_null=True, default=None)
    hash = serializers.CharField(source="seal.hash", read_only=True, allow_null=True, default=None)

    class Meta:
        model = AuditEvent
        fields = (
            "id",
            "at",
            "action",
            "outcome",
            "actor_kind",
            "actor_id",
            "actor_name",
            "source_address",
            "source",
            "request_id",
            "target_kind",
            "target_id",
            "target_name",
            "account_id",
            "region",
            "session_id",
            "reason",
            "details",
            "digest",
            "number",
            "hash",
        )
        read_only_fields = fields


class Events(ApiView, generics.ListAPIView):
    """Events, the newest first."""

    scopes = {"GET": "audit:read"}
    permissions = {"GET": READ}
    serializer_class = EventSerializer
    queryset = AuditEvent.objects.none()

    @extend_schema(
        parameters=[
            OpenApiParameter(
                "q", str, description="Words and filters, as on the audit page: `outcome:denied since:7d`."
            ),
            *(OpenApiParameter(name, str, description=f"As `{name}:` in `q`.") for name in FILTERS),
        ]
    )
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        asked = self.request.query_params
        terms = [search.Term(name, asked[name].replace('"', "")).text for name in FILTERS if asked.get(name)]
        found = search.parse(" ".join([asked.get("q", ""), *terms]), now=now())
        if found.problems:
            raise ValidationError({"q": found.problems})
        return found.apply(AuditEvent.objects.select_related("seal"))


class Event(ApiView):
    """One event."""

    scopes = {"GET": "audit:read"}
    permissions = {"GET": READ}

    @extend_schema(operation_id="audit_event", responses=EventSerializer)
    def get(self, request, pk):
        found = get_object_or_404(AuditEvent.objects.select_related("seal"), pk=pk)
        return Response(EventSerializer(found).data)


urlpatterns = [
    path("audit/events/", Events.as_view(), name="events"),
    path("audit/events/<uuid:pk>/", Event.as_view(), name="event"),
]
