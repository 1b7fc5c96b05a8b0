"""Files to and from instances over the API: what went, and by whom. What was in them is nowhere."""

from __future__ import annotations

from django.core.exceptions import ValidationError as DjangoValidationError
from django.shortcuts import get_object_or_404
from django.urls import path
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics, serializers
from rest_framework.exceptions import ValidationError
from rest_framework.response import Response

from fleetops.identity.rest import ApiView

from ..states import TransferDirection, TransferState
from .models import Transfer


class TransferSerializer(serializers.ModelSerializer):
    """One file that went, or was to go, to an instance or from one."""

    session = serializers.UUIDField(source="session_id", read_only=True, help_text="that carried it")
    parent = serializers.UUIDField(
        source="parent_id", read_only=True, allow_null=True, help_text="the shell that it was begun from"
    )
    user = serializers.CharField(source="session.user_name", read_only=True)
    instance = serializers.UUIDField(source="session.instance_row_id", read_only=True, allow_null=True)
    instance_id = serializers.CharField(source="session.instance_id", read_only=True)
    instance_name = serializers.CharField(source="session.instance_name", read_only=True)
    account_id = serializers.CharField(source="session.account_id", read_only=True)
    region = serializers.CharField(source="session.region", read_only=True)
    run_as = serializers.CharField(source="session.run_as", read_only=True)
    direction = serializers.ChoiceField(choices=TransferDirection.choices, read_only=True)
    state = serializers.ChoiceField(choices=TransferState.choices, read_only=True)

    class Meta:
        model = Transfer
        fields = (
            *("id", "session", "parent", "user", "instance", "instance_id", "instance_name", "account_id", "region"),
            *("run_as", "direction", "state", "path", "name", "overwrite", "size", "sha256", "error"),
            *("created_at", "started_at", "ended_at"),
        )
        read_only_fields = fields


class Transfers(ApiView, generics.ListAPIView):
    """Transfers of files, the newest first: of your own sessions, or of everybody's if you may review them."""

    scopes = {"GET": "sessions:read"}
    serializer_class = TransferSerializer
    queryset = Transfer.objects.none()

    @extend_schema(
        parameters=[
            OpenApiParameter("session", OpenApiTypes.UUID, description="The shell that they were begun from."),
            OpenApiParameter("instance", OpenApiTypes.UUID, description="An instance's `id`."),
            OpenApiParameter("user", str, description="A username."),
            OpenApiParameter("direction", str, enum=TransferDirection.values),
            OpenApiParameter("state", str, enum=TransferState.values),
            OpenApiParameter("sha256", str, description="Of what is in the file, in hex."),
        ]
    )
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        asked = self.request.query_params
        found = Transfer.objects.visible_to(self.request.user).select_related("session")
        for name, values in (("direction", TransferDirection.values), ("state", TransferState.values)):
            if value := asked.get(name, ""):
                if value not in values:
                    raise ValidationError({name: [f"Write one of {', '.join(values)}."]})
                found = found.filter(**{name: value})
        for name, column in (("session", "parent_id"), ("instance", "session__instance_row_id")):
            if value := asked.get(name, ""):
                try:
                    found = found.filter(**{column: value})
                except (DjangoValidationError, ValueError):
                    raise ValidationError({name: ["This is no id."]}) from None
        if user := asked.get("user", ""):
            found = found.filter(session__user_name=user.replace("\x00", ""))
        if sha256 := asked.get("sha256", ""):
            found = found.filter(sha256=sha256.lower().replace("\x00", ""))
        return found


class OneTransfer(ApiView):
    """One transfer of a file."""

    scopes = {"GET": "sessions:read"}

    @extend_schema(operation_id="transfers_get", responses=TransferSerializer)
    def get(self, request, pk):
        found = Transfer.objects.visible_to(request.user).select_related("session")
        return Response(TransferSerializer(get_object_or_404(found, pk=pk)).data)


urlpatterns = [
    path("transfers/", Transfers.as_view(), name="transfers"),
    path("transfers/<uuid:pk>/", OneTransfer.as_view(), name="transfer"),
]
