"""Machines outside EC2 over the API: the activations by which they come, and their end."""

import uuid

from django.http import Http404
from django.shortcuts import get_object_or_404
from django.urls import path
from django.views.decorators.debug import sensitive_variables
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.response import Response

from fleetops.aws.activations import LONGEST_DAYS, MOST_REGISTRATIONS
from fleetops.identity.rest import ApiView

from . import activations as services
from .activation_rules import Wanted, problems
from .models import Account, Instance, Region

SEE, CHANGE = ("inventory.view_account",), ("inventory.change_account",)


class ActivationSerializer(serializers.Serializer):
    """One activation, as AWS has it now."""

    activation_id = serializers.UUIDField(source="record.activation_id")
    account = serializers.UUIDField(source="region.account_id", help_text="the account's `id`")
    account_id = serializers.CharField(source="region.account.account_id")
    region = serializers.CharField(source="region.name")
    name = serializers.CharField(source="record.name", help_text="that its machines get")
    role = serializers.CharField(source="record.role")
    description = serializers.CharField(source="record.description")
    limit = serializers.IntegerField(source="record.limit", help_text="how many machines it lets in")
    count = serializers.IntegerField(source="record.count", help_text="how many have registered")
    is_expired = serializers.BooleanField(source="record.is_expired")
    expires_at = serializers.DateTimeField(source="record.expires_at", allow_null=True)
    created_at = serializers.DateTimeField(source="record.created_at", allow_null=True)
    made_by = serializers.CharField(help_text="as far as the audit log knows, else empty")
    tags = serializers.DictField(source="record.tags", child=serializers.CharField())


class FailingSerializer(serializers.Serializer):
    """A region that could not be read."""

    account_id = serializers.CharField()
    region = serializers.CharField()
    detail = serializers.CharField()


class ActivationsSerializer(serializers.Serializer):
    """The activations of the regions that could be read, the newest first."""

    results = ActivationSerializer(many=True)
    failing = FailingSerializer(many=True)


class MakeSerializer(serializers.Serializer):
    """What an activation is to be."""

    account = serializers.UUIDField(help_text="the account's `id`")
    region = serializers.CharField(max_length=32)
    role = serializers.CharField(help_text="IAM role of the machines, which SSM may assume", max_length=256)
    name = serializers.CharField(required=False, allow_blank=True, default="", max_length=256)
    limit = serializers.IntegerField(required=False, default=1, help_text=f"1 to {MOST_REGISTRATIONS}")
    days = serializers.IntegerField(required=False, default=1, help_text=f"1 to {LONGEST_DAYS}")
    tags = serializers.DictField(
        child=serializers.CharField(allow_blank=True, max_length=256), required=False, default=dict
    )
    note = serializers.CharField(required=False, allow_blank=True, default="", max_length=256)


class MadeSerializer(serializers.Serializer):
    """A new activation. Its code is told here and nowhere else."""

    activation_id = serializers.UUIDField()
    activation_code = serializers.CharField()


class Activations(ApiView):
    """The activations of one account, or of all."""

    scopes = {"GET": "machines:read", "POST": "machines:write"}
    permissions = {"GET": SEE, "POST": CHANGE}

    @extend_schema(
        operation_id="activations_list",
        parameters=[OpenApiParameter("account", OpenApiTypes.UUID, description="An account's `id`.")],
        responses=ActivationsSerializer,
    )
    def get(self, request):
        """Read them from AWS now. A region that cannot be read is in `failing`, and the others are there."""
        account = None
        if text := request.query_params.get("account", ""):
            account = _account(request, text)
        found = services.listing(services.regions_of(account))
        failing = [
            {"account_id": region.account.account_id, "region": region.name, "detail": text}
            for region, text in found.failing
        ]
        return Response(ActivationsSerializer({"results": found.rows, "failing": failing}).data)

    @extend_schema(operation_id="activations_make", request=MakeSerializer, responses={201: MadeSerializer})
    @sensitive_variables("made")
    def post(self, request):
        """Make one. The answer has its code, which nobody can read again; a second call makes a second one."""
        asked = MakeSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        said = dict(asked.validated_data)
        region = _region(request, said.pop("account"), said.pop("region"))
        wanted = Wanted(**said)
        if found := problems(wanted):
            raise ValidationError({name: [text] for name, text in found.items()})
        made = services.make(region, wanted, actor=request.user)
        told = MadeSerializer({"activation_id": made.activation_id, "activation_code": made.code})
        return Response(told.data, status=201)


class Activation(ApiView):
    """One activation."""

    scopes = {"DELETE": "machines:write"}
    permissions = {"DELETE": CHANGE}

    @extend_schema(operation_id="activations_delete", responses={204: None})
    def delete(self, request, pk, region, activation_id):
        """Let nobody in by it any more. The machines that came by it stay."""
        services.delete(_region(request, pk, region), str(activation_id), actor=request.user)
        return Response(status=204)


class Deregister(ApiView):
    """The end of a node that an activation made."""

    scopes = {"POST": "machines:write"}
    permissions = {"POST": CHANGE}

    @extend_schema(operation_id="instances_deregister", request=None, responses={204: None})
    def post(self, request, pk):
        """End it: its shells end, its key and credentials are good for nothing. It cannot be taken back."""
        visible = Instance.objects.visible_to(request.user).select_related("account", "region")
        services.deregister(get_object_or_404(visible, pk=pk), actor=request.user)
        return Response(status=204)


def _account(request, pk: str) -> Account:
    try:
        key = uuid.UUID(pk)
    except ValueError:
        raise Http404 from None
    return get_object_or_404(Account.objects.visible_to(request.user), pk=key)


def _region(request, pk, name: str) -> Region:
    visible = Account.objects.visible_to(request.user)
    regions = Region.objects.filter(account__in=visible, enabled=True).select_related("account")
    return get_object_or_404(regions, account=pk, name=name)


urlpatterns = [
    path("activations/", Activations.as_view(), name="activations"),
    path("activations/<uuid:pk>/<str:region>/<uuid:activation_id>/", Activation.as_view(), name="activation"),
    path("instances/<uuid:pk>/deregister/", Deregister.as_view(), name="deregister"),
]
