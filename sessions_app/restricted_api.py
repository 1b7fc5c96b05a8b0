"""Restricted shells over the API: which there are, and defining them."""

from collections.abc import Mapping

from django.shortcuts import get_object_or_404
from django.urls import path
from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers
from rest_framework.response import Response

from fleetops.errors import Denied
from fleetops.identity.rest import ApiView

from . import restricted
from .models import RestrictedShell


class ShellParameterSerializer(serializers.Serializer):
    """A value that is put into the command: it matches the whole pattern, or is one of the values."""

    name = serializers.CharField(max_length=64)
    description = serializers.CharField(max_length=256, required=False, allow_blank=True, default="")
    pattern = serializers.CharField(
        max_length=500, required=False, allow_blank=True, default="", help_text="a regular expression, ^ first, $ last"
    )
    values = serializers.ListField(child=serializers.CharField(max_length=1000), required=False, default=list)
    default = serializers.CharField(max_length=1000, required=False, allow_blank=True, default="")


class RestrictedShellSerializer(serializers.ModelSerializer):
    """A session that runs one program and nothing else."""

    document = serializers.CharField(read_only=True, help_text="by this name it is opened, and policies name it")
    name = serializers.CharField(max_length=63, help_text="it stays")
    parameters = ShellParameterSerializer(many=True, required=False, default=list)
    enabled = serializers.BooleanField(required=False, default=True)

    class Meta:
        model = RestrictedShell
        fields = (
            "id",
            "name",
            "document",
            "note",
            "linux",
            "macos",
            "windows",
            "parameters",
            "enabled",
            "version",
            "changed_at",
            "changed_by",
        )
        read_only_fields = ("id", "document", "version", "changed_at", "changed_by")
        validators: list = []


class RestrictedShells(ApiView, generics.ListAPIView):
    """Restricted shells, the newest first; disabled ones for who defines them."""

    scopes = {"GET": "restricted_shells:read", "POST": "restricted_shells:write"}
    serializer_class = RestrictedShellSerializer
    queryset = RestrictedShell.objects.none()

    def get_queryset(self):
        return _visible(self.request)

    @extend_schema(
        operation_id="restricted_shells_define",
        request=RestrictedShellSerializer,
        responses={201: RestrictedShellSerializer},
    )
    def post(self, request):
        """Define one."""
        _require(request)
        asked = RestrictedShellSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        given = dict(asked.validated_data)
        is_enabled = given.pop("enabled")
        row = restricted.define(actor=request.user, **given)
        if not is_enabled:
            restricted.set_enabled(row, False, actor=request.user)
        return Response(RestrictedShellSerializer(row).data, status=201)


class RestrictedShellItem(ApiView):
    """One restricted shell."""

    scopes = {"GET": "restricted_shells:read", "PUT": "restricted_shells:write"}

    @extend_schema(operation_id="restricted_shells_get", responses=RestrictedShellSerializer)
    def get(self, request, pk):
        return Response(RestrictedShellSerializer(get_object_or_404(_visible(request), pk=pk)).data)

    @extend_schema(
        operation_id="restricted_shells_change", request=RestrictedShellSerializer, responses=RestrictedShellSerializer
    )
    def put(self, request, pk):
        """Change all of it but its name; sessions that are open go on as they were started."""
        _require(request)
        row = get_object_or_404(RestrictedShell, pk=pk)
        body = request.data
        asked = RestrictedShellSerializer(data={**body, "name": row.name} if isinstance(body, Mapping) else body)
        asked.is_valid(raise_exception=True)
        given = dict(asked.validated_data)
        is_enabled = given.pop("enabled")
        restricted.change(row, actor=request.user, **given)
        restricted.set_enabled(row, is_enabled, actor=request.user)
        return Response(RestrictedShellSerializer(row).data)


def _visible(request):
    """All for who defines them; enabled ones for who may open shells."""
    if request.user.has_perm(restricted.CHANGE_PERMISSION):
        return RestrictedShell.objects.all()
    if not request.user.has_perm("sessions_app.open_terminalsession"):
        raise Denied("Your roles lack sessions_app.open_terminalsession; ask an administrator.")
    return RestrictedShell.objects.enabled()


def _require(request) -> None:
    if not request.user.has_perm(restricted.CHANGE_PERMISSION):
        raise Denied(f"Your roles lack {restricted.CHANGE_PERMISSION}; ask an administrator.")


urlpatterns = [
    path("restricted-shells/", RestrictedShells.as_view(), name="restricted_shells"),
    path("restricted-shells/<uuid:pk>/", RestrictedShellItem.as_view(), name="restricted_shell"),
]
