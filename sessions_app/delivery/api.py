"""Deliveries over the API: what an account wants, whether that works, and how far one session is."""

from django.shortcuts import get_object_or_404
from django.urls import path
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.response import Response

from fleetops.aws.logs import RETENTION_DAYS
from fleetops.clock import now
from fleetops.identity.rest import ApiView, Asked
from fleetops.inventory.models import Account

from .. import tasks
from ..models import TerminalSession
from . import checks, services
from .models import DeliverySettings, Strict

SEE, CHANGE = ("inventory.view_account",), ("inventory.change_account",)


class CheckedStepSerializer(serializers.Serializer):
    """One call that a delivery makes, in one region."""

    region = serializers.CharField()
    action = serializers.CharField()
    ok = serializers.BooleanField()
    text = serializers.CharField(help_text="in words, what is missing and how to mend it")


class DeliverySettingsSerializer(serializers.ModelSerializer):
    """Where the sessions of an account are delivered."""

    is_checking = serializers.SerializerMethodField()
    check_rows = CheckedStepSerializer(many=True, read_only=True)

    class Meta:
        model = DeliverySettings
        fields = (*services.FIELDS, "changed_at", "is_checking", "checked_at", "check_rows")
        read_only_fields = fields

    def get_is_checking(self, row: DeliverySettings) -> bool:
        return checks.is_running(row)


class ChangeDeliverySerializer(Asked):
    """What of it can be said; what is left out stays."""

    has_transcript = serializers.BooleanField(help_text="what terminals show goes to CloudWatch Logs")
    has_commands = serializers.BooleanField()
    log_group = serializers.CharField(max_length=512)
    retention_days = serializers.ChoiceField(RETENTION_DAYS, allow_null=True, help_text="null: as the group says")
    log_kms_key = serializers.CharField(max_length=256, allow_blank=True)
    strict = serializers.ChoiceField(
        Strict.choices, allow_blank=True, help_text="what happens to an Enter that is not confirmed within 5 s"
    )
    bucket = serializers.CharField(max_length=63, allow_blank=True, help_text="of finished recordings; empty: none")
    prefix = serializers.CharField(max_length=256, allow_blank=True)
    bucket_kms_key = serializers.CharField(max_length=256, allow_blank=True)


class SessionLogsSerializer(serializers.Serializer):
    """How far a session is in CloudWatch Logs."""

    log_group = serializers.CharField()
    log_stream = serializers.CharField()
    is_complete = serializers.BooleanField()
    state = serializers.CharField(help_text="in words")
    error = serializers.CharField(help_text="why it waits")
    events = serializers.IntegerField()
    delivered_at = serializers.DateTimeField(allow_null=True)


class SessionCopySerializer(serializers.Serializer):
    """The copy of a finished recording."""

    bucket = serializers.CharField()
    key = serializers.CharField()
    done_at = serializers.DateTimeField(allow_null=True)
    sha256 = serializers.CharField()
    size = serializers.IntegerField()
    error = serializers.CharField()


class SessionDeliverySerializer(serializers.Serializer):
    """Where one session is delivered, and how far that is."""

    logs = SessionLogsSerializer(allow_null=True)
    recording_copy = SessionCopySerializer(allow_null=True)


class AccountDelivery(ApiView):
    """An account's deliveries."""

    scopes = {"GET": "accounts:read", "PATCH": "accounts:write"}
    permissions = {"GET": SEE, "PATCH": CHANGE}

    @extend_schema(operation_id="accounts_delivery", responses=DeliverySettingsSerializer)
    def get(self, request, pk):
        return Response(DeliverySettingsSerializer(services.wanted(_account(request, pk))).data)

    @extend_schema(
        operation_id="accounts_delivery_change",
        request=ChangeDeliverySerializer(partial=True),
        responses=DeliverySettingsSerializer,
    )
    def patch(self, request, pk):
        """Change what is sent of it; it holds for sessions that are opened afterwards. A worker checks it."""
        account = _account(request, pk)
        if services.change(account, ChangeDeliverySerializer.of(request, partial=True), actor=request.user):
            services.ask_check(account, actor=request.user)
            tasks.check_delivery.delay(str(account.pk))
        return Response(DeliverySettingsSerializer(services.wanted(account)).data)


class CheckDelivery(ApiView):
    """The check of an account's deliveries."""

    scopes = {"POST": "accounts:write"}
    permissions = {"POST": CHANGE}

    @extend_schema(operation_id="accounts_delivery_check", request=None, responses={202: DeliverySettingsSerializer})
    def post(self, request, pk):
        """Have a worker make each call of a delivery once, and read its answers with GET."""
        account = _account(request, pk)
        row = services.ask_check(account, actor=request.user)
        tasks.check_delivery.delay(str(account.pk))
        return Response(DeliverySettingsSerializer(row).data, status=202)


class SessionDelivery(ApiView):
    """One session's deliveries."""

    scopes = {"GET": "sessions:read"}

    @extend_schema(operation_id="sessions_delivery", responses=SessionDeliverySerializer)
    def get(self, request, pk):
        """How far it is in CloudWatch Logs, and whether its recording is copied. Null: that is not wanted."""
        visible = services.with_lag(TerminalSession.objects.visible_to(request.user))
        session = get_object_or_404(visible, pk=pk)
        lag = services.lag_of(session, now())
        logs = None
        if lag is not None:
            row = session.log_delivery
            logs = {
                "log_group": row.log_group,
                "log_stream": row.log_stream,
                "is_complete": row.done_at is not None,
                "state": lag.text,
                "error": lag.error,
                "events": row.events,
                "delivered_at": row.delivered_at,
            }
        copy = getattr(session, "recording_copy", None)
        return Response(
            {
                "logs": logs and SessionLogsSerializer(logs).data,
                "recording_copy": None if copy is None else SessionCopySerializer(copy).data,
            }
        )


def _account(request, pk) -> Account:
    return get_object_or_404(Account.objects.visible_to(request.user), pk=pk)


urlpatterns = [
    path("accounts/<uuid:pk>/delivery/", AccountDelivery.as_view(), name="account_delivery"),
    path("accounts/<uuid:pk>/delivery/check/", CheckDelivery.as_view(), name="check_delivery"),
    path("sessions/<uuid:pk>/delivery/", SessionDelivery.as_view(), name="session_delivery"),
]
