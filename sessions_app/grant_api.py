"""Grants over the API: ask for access, see who has it until when, answer, take back, revoke."""

from django.shortcuts import get_object_or_404
from django.urls import path
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework import generics, serializers
from rest_framework.exceptions import ValidationError
from rest_framework.response import Response

from fleetops.approvals.models import ApprovalRequest
from fleetops.clock import now
from fleetops.identity.rest import ApiView, Asked, choice_in

from . import grants
from .grant_forms import AskForm
from .models import Grant, GrantTarget
from .states import GrantState, SessionKind

SHOWS = ("waiting", "mine", "open", "all")


class GrantTargetSerializer(serializers.ModelSerializer):
    """One instance that a grant is for."""

    instance = serializers.UUIDField(source="instance_row_id", read_only=True, allow_null=True)

    class Meta:
        model = GrantTarget
        fields = ("instance", "instance_id", "instance_name", "account_id", "region")
        read_only_fields = fields


class GrantSerializer(serializers.ModelSerializer):
    """A request for access, and the grant that it became."""

    user = serializers.CharField(source="user_name", read_only=True)
    kind = serializers.ChoiceField(choices=SessionKind.choices, read_only=True)
    state = serializers.ChoiceField(choices=GrantState.choices, read_only=True)
    is_open = serializers.SerializerMethodField(help_text="sessions may be opened by it now")
    targets = GrantTargetSerializer(many=True, read_only=True)
    request = serializers.UUIDField(source="request_id", read_only=True, help_text="its request for approval")
    quorum = serializers.IntegerField(source="request.quorum", read_only=True, help_text="approvals that it takes")
    url = serializers.SerializerMethodField(help_text="its page")

    class Meta:
        model = Grant
        fields = (
            "id",
            "user",
            "state",
            "is_open",
            "kind",
            "run_as",
            "document",
            "destination",
            "targets",
            "reason",
            "minutes",
            "asked_start_at",
            "starts_at",
            "ends_at",
            "approvals",
            "quorum",
            "request",
            "created_at",
            "closed_at",
            "closed_by",
            "close_reason",
            "url",
        )
        read_only_fields = fields

    def get_is_open(self, grant: Grant) -> bool:
        return grant.holds(now())

    def get_url(self, grant: Grant) -> str:
        return self.context["request"].build_absolute_uri(grant.get_absolute_url())


class GrantAskSerializer(Asked):
    """Where, what, how long and why. `instance` or `expression` says where."""

    instance = serializers.UUIDField(required=False, help_text="an instance's `id`")
    expression = serializers.CharField(max_length=4000, required=False, help_text="those that it selects now")
    kind = serializers.ChoiceField(choices=SessionKind.choices, required=False, default=SessionKind.SHELL)
    run_as = serializers.CharField(max_length=64, required=False, allow_blank=True, help_text="OS user")
    document = serializers.CharField(max_length=128, required=False, allow_blank=True, help_text="session document")
    host = serializers.CharField(max_length=253, required=False, allow_blank=True, help_text="of a forwarded port")
    port = serializers.IntegerField(min_value=1, max_value=65535, required=False)
    minutes = serializers.IntegerField(min_value=grants.SHORTEST_MINUTES, max_value=10080)
    starts_at = serializers.DateTimeField(required=False, help_text="not before; else from the last approval on")
    reason = serializers.CharField(max_length=256)


class GrantVoteSerializer(Asked):
    """Yes or no, and why."""

    answer = serializers.ChoiceField(choices=["approve", "deny"])
    reason = serializers.CharField(max_length=512, required=False, allow_blank=True, default="")


class GrantRevokeSerializer(Asked):
    """Why; whose terminal closes reads it there."""

    reason = serializers.CharField(max_length=256, required=False, allow_blank=True, default="")


class Grants(ApiView, generics.ListAPIView):
    """Requests for access and grants, the newest first: your own, what you may answer, or all if you may review."""

    scopes = {"GET": "sessions:read", "POST": "access:ask"}
    serializer_class = GrantSerializer
    queryset = Grant.objects.none()

    @extend_schema(
        parameters=[
            OpenApiParameter("show", str, enum=SHOWS, description="`waiting`: for your answer; `open`: now."),
            OpenApiParameter("instance", OpenApiTypes.UUID, description="An instance's `id`."),
        ]
    )
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        user, moment = self.request.user, now()
        found = Grant.objects.visible_to(user).select_related("request").prefetch_related("targets")
        show = choice_in(self.request, "show", SHOWS)
        if show == "waiting":
            found = found.filter(request__in=ApprovalRequest.objects.waiting_for(user, moment), state=GrantState.ASKED)
        elif show == "mine":
            found = found.filter(user=user)
        elif show == "open":
            found = found.filter(state=GrantState.ACTIVE, starts_at__lte=moment, ends_at__gt=moment)
        if instance := self.request.query_params.get("instance", ""):
            try:
                found = found.filter(targets__instance_row=serializers.UUIDField().to_internal_value(instance))
            except ValidationError:
                raise ValidationError({"instance": ["This is no instance's id."]}) from None
        return found

    @extend_schema(
        operation_id="grants_ask",
        request=GrantAskSerializer,
        responses={201: GrantSerializer},
        examples=[
            OpenApiExample(
                "A shell for an hour",
                {
                    "instance": "01a22c7e-3a52-7bd4-9d5a-5a4f0f6d2f11",
                    "minutes": 60,
                    "reason": "INC-4821, replication lag",
                },
                request_only=True,
            )
        ],
    )
    def post(self, request):
        """Ask others for access. It begins with their last approval, and ends by itself."""
        given = GrantAskSerializer.of(request)
        form = AskForm(given, user=request.user)
        if not form.is_valid():
            raise ValidationError(form.errors)
        grant = grants.ask(
            request.user,
            form.instances,
            form.wish,
            reason=given["reason"],
            minutes=given["minutes"],
            starts_at=given.get("starts_at"),
            expression=given.get("expression", ""),
        )
        return Response(_shown(request, grant), status=201)


class OneGrant(ApiView):
    """One request for access, and its grant."""

    scopes = {"GET": "sessions:read"}

    @extend_schema(operation_id="grants_get", responses=GrantSerializer)
    def get(self, request, pk):
        return Response(_shown(request, _grant(request, pk)))


class VoteGrant(ApiView):
    """An answer to a request for access."""

    scopes = {"POST": "approvals:write"}

    @extend_schema(operation_id="grants_vote", request=GrantVoteSerializer, responses=GrantSerializer)
    def post(self, request, pk):
        """Say yes or no, once; the last yes begins the grant. To deny takes a reason."""
        grant, given = _grant(request, pk), GrantVoteSerializer.of(request)
        grants.vote(grant, actor=request.user, approve=given["answer"] == "approve", reason=given["reason"])
        return Response(_shown(request, _grant(request, pk)))


class WithdrawGrant(ApiView):
    """The end of one's own request."""

    scopes = {"POST": "access:ask"}

    @extend_schema(operation_id="grants_withdraw", request=None, responses=GrantSerializer)
    def post(self, request, pk):
        """Take back what you asked for."""
        grants.withdraw(_grant(request, pk), actor=request.user)
        return Response(_shown(request, _grant(request, pk)))


class RevokeGrant(ApiView):
    """The end of a grant before its time."""

    scopes = {"POST": "sessions:end"}

    @extend_schema(operation_id="grants_revoke", request=GrantRevokeSerializer, responses=GrantSerializer)
    def post(self, request, pk):
        """Revoke it, or give up your own: its terminals close within two seconds. Another's takes a reason."""
        grants.revoke(_grant(request, pk), actor=request.user, reason=GrantRevokeSerializer.of(request)["reason"])
        return Response(_shown(request, _grant(request, pk)))


def _grant(request, pk) -> Grant:
    return get_object_or_404(Grant.objects.visible_to(request.user).select_related("request", "user"), pk=pk)


def _shown(request, grant: Grant) -> dict:
    return GrantSerializer(grant, context={"request": request}).data


urlpatterns = [
    path("grants/", Grants.as_view(), name="grants"),
    path("grants/<uuid:pk>/", OneGrant.as_view(), name="grant"),
    path("grants/<uuid:pk>/vote/", VoteGrant.as_view(), name="grant_vote"),
    path("grants/<uuid:pk>/withdraw/", WithdrawGrant.as_view(), name="grant_withdraw"),
    path("grants/<uuid:pk>/revoke/", RevokeGrant.as_view(), name="grant_revoke"),
]
