"""Roles over the API: what instances have, asking, extending, ending, changes from outside, history."""

from django.shortcuts import get_object_or_404
from django.urls import path
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework import generics, serializers
from rest_framework.exceptions import ValidationError
from rest_framework.response import Response

from fleetops.identity.rest import ApiView, Asked, choice_in, flag_in
from fleetops.inventory.models import Instance
from fleetops.inventory.selection import select
from fleetops.targets import ExpressionError, parse

from . import privilege, rule_api, services
from .models import (
    ATTACH_PERMISSION,
    END_PERMISSION,
    VIEW_PERMISSION,
    Kind,
    RoleAttachment,
    RoleChange,
    RoleFinding,
)
from .services import LONGEST_MINUTES, Wish
from .states import OPEN, AttachmentState, FindingState

READ, WRITE = "roles:read", "roles:write"
MOST_POLICY = 20_000  # characters with their white space; privilege.check has the last word
SEE, ATTACH, DECIDE = (VIEW_PERMISSION,), (ATTACH_PERMISSION,), (END_PERMISSION,)

EXAMPLES = [
    OpenApiExample(
        "A lease",
        {
            "instance": "0197f3d2-5c1e-7c31-9c61-9d0f6f3d2b11",
            "profile_name": "fleetops-ssm-core",
            "minutes": 30,
            "reason": "INC-4711",
        },
        request_only=True,
    ),
    OpenApiExample(
        "For good",
        {"instance": "0197f3d2-5c1e-7c31-9c61-9d0f6f3d2b11", "profile_name": "fleetops-ssm-core", "minutes": None},
        request_only=True,
    ),
]


class OnInstance(serializers.ModelSerializer):
    """What says of which instance it is."""

    instance_id = serializers.CharField(source="instance.instance_id", read_only=True, help_text="AWS's id")
    instance_name = serializers.CharField(source="instance.__str__", read_only=True)
    account_id = serializers.CharField(source="instance.account.account_id", read_only=True)
    region = serializers.CharField(source="instance.region.name", read_only=True)


INSTANCE = ("instance", "instance_id", "instance_name", "account_id", "region")


class RoleAttachmentSerializer(OnInstance):
    """A role that was asked for on an instance; with `minutes` it is a lease."""

    kind = serializers.ChoiceField(choices=Kind.choices, read_only=True)
    what = serializers.CharField(read_only=True, help_text="in words")
    profile_name = serializers.CharField(read_only=True, help_text="instance profile; empty: none")
    state = serializers.ChoiceField(choices=AttachmentState.choices, read_only=True)
    words = serializers.CharField(read_only=True, help_text="why it is where it is")
    asked_by = serializers.CharField(source="asked_by_name", read_only=True)
    rule = serializers.CharField(source="rule_name", read_only=True, help_text="the rule that allowed it")
    ended_by = serializers.CharField(source="ended_by_name", read_only=True)
    url = serializers.SerializerMethodField(help_text="its page")

    class Meta:
        model = RoleAttachment
        fields = (
            "id",
            *INSTANCE,
            "kind",
            "what",
            "profile_name",
            "profile_arn",
            "role_name",
            "policy_name",
            "policy",
            "state",
            "words",
            "reason",
            "asked_by",
            "rule",
            "approval",
            "run",
            "minutes",
            "asked_at",
            "applied_at",
            "ends_at",
            "ends_with",
            "session_id",
            "ended_at",
            "ended_by",
            "url",
        )
        read_only_fields = fields

    def get_url(self, attachment: RoleAttachment) -> str:
        return self.context["request"].build_absolute_uri(attachment.get_absolute_url())


class RoleAskSerializer(Asked):
    """What is wanted. Neither a profile nor a policy: that the instance has no role any more."""

    instance = serializers.UUIDField(help_text="our id")
    profile_name = serializers.CharField(
        max_length=256, required=False, allow_blank=True, default="", help_text="an instance profile of its account"
    )
    policy = serializers.CharField(
        max_length=MOST_POLICY,
        required=False,
        allow_blank=True,
        default="",
        help_text="of a privilege-only lease: a policy in JSON, put on the role that the instance has",
    )
    policy_name = serializers.CharField(max_length=128, required=False, allow_blank=True, default="")
    minutes = serializers.IntegerField(
        min_value=1, max_value=LONGEST_MINUTES, allow_null=True, help_text="of a lease; null: for good"
    )
    reason = serializers.CharField(max_length=512, required=False, allow_blank=True, default="")
    cut_off_accepted = serializers.BooleanField(
        required=False, default=False, help_text="the agent may go offline by it"
    )


class RolePlanSerializer(serializers.Serializer):
    """What asking would come to."""

    rule = serializers.CharField(source="rule.name", allow_null=True, default=None, help_text="that allows it")
    approvals = serializers.IntegerField(help_text="of others, before it begins")
    approvers = serializers.ListField(child=serializers.CharField(), help_text="roles")
    before = serializers.CharField(help_text="what is put back at the end of a lease; empty: no role")
    cut_off = serializers.CharField(help_text="that the agent goes offline, and for how long; empty: it does not")


class RoleMinutesSerializer(Asked):
    """How long from now."""

    minutes = serializers.IntegerField(min_value=1, max_value=LONGEST_MINUTES)


class RoleWhySerializer(Asked):
    """Why."""

    reason = serializers.CharField(max_length=512, required=False, allow_blank=True, default="")


class Attachments(ApiView, generics.ListAPIView):
    """What was asked for on instances, the newest first."""

    scopes = {"GET": READ, "POST": WRITE}
    permissions = {"GET": SEE, "POST": ATTACH}
    serializer_class = RoleAttachmentSerializer
    queryset = RoleAttachment.objects.none()

    @extend_schema(
        parameters=[
            OpenApiParameter("q", str, description="Instances: words, or an expression such as `env=prod`."),
            OpenApiParameter("instance", OpenApiTypes.UUID),
            OpenApiParameter("state", str, enum=AttachmentState.values),
            OpenApiParameter("kind", str, enum=Kind.values),
            OpenApiParameter("lease", bool, description="false: those for good."),
            OpenApiParameter("open", bool, description="true: those that wait, stand, or are being ended."),
        ]
    )
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        found = RoleAttachment.objects.visible_to(self.request.user).select_related(
            "instance__account", "instance__region"
        )
        found = of_instances(self.request, found)
        for name, values in (("state", AttachmentState.values), ("kind", Kind.values)):
            if value := choice_in(self.request, name, values):
                found = found.filter(**{name: value})
        if (lease := flag_in(self.request, "lease")) is not None:
            found = found.filter(minutes__isnull=not lease)
        if (is_open := flag_in(self.request, "open")) is not None:
            found = found.open() if is_open else found.exclude(state__in=list(OPEN))
        return found

    @extend_schema(
        operation_id="roles_attachments_ask",
        request=RoleAskSerializer,
        responses={201: RoleAttachmentSerializer},
        examples=EXAMPLES,
    )
    def post(self, request):
        """Ask for a role, a privilege, or that there be none. It begins within seconds, or once it is approved."""
        instance, wish, given = _wished(request)
        made = services.ask(
            instance,
            wish,
            actor=request.user,
            reason=given["reason"],
            cut_off_accepted=given["cut_off_accepted"],
        )
        return Response(_shown(request, made), status=201)


class Look(ApiView):
    """What asking would come to."""

    scopes = {"POST": WRITE}
    permissions = {"POST": ATTACH}

    @extend_schema(
        operation_id="roles_look", request=RoleAskSerializer, responses=RolePlanSerializer, examples=EXAMPLES
    )
    def post(self, request):
        """Which rule allows it, who approves it, what is put back, does it cut the agent off? Changes nothing."""
        instance, wish, given = _wished(request)
        plan = services.plan(instance, wish, actor=request.user, reason=given["reason"])
        return Response(RolePlanSerializer(plan).data)


class OneAttachment(ApiView):
    """One attachment."""

    scopes = {"GET": READ}
    permissions = {"GET": SEE}

    @extend_schema(operation_id="roles_attachments_get", responses=RoleAttachmentSerializer)
    def get(self, request, pk):
        return Response(_shown(request, _attachment(request, pk)))


class Extend(ApiView):
    """A lease's end."""

    scopes = {"POST": WRITE}
    permissions = {"POST": ATTACH}

    @extend_schema(
        operation_id="roles_attachments_extend",
        request=RoleMinutesSerializer,
        responses={200: RoleAttachmentSerializer},
    )
    def post(self, request, pk):
        """Have it end so many minutes from now, if that is later than it would."""
        found = _attachment(request, pk)
        services.extend(found, actor=request.user, **RoleMinutesSerializer.of(request))
        return Response(_shown(request, found))


class End(ApiView):
    """The end of a lease before its time."""

    scopes = {"POST": WRITE}
    permissions = {"POST": ATTACH + DECIDE}

    @extend_schema(
        operation_id="roles_attachments_end", request=RoleWhySerializer, responses={202: RoleAttachmentSerializer}
    )
    def post(self, request, pk):
        """End it now; what was there before is put back. Of one that waits for approval: take it back."""
        found = _attachment(request, pk)
        services.end(found, actor=request.user, **RoleWhySerializer.of(request))
        return Response(_shown(request, _attachment(request, pk)), status=202)


# --- what appeared outside, and history ------------------------------------------------------------------------------


class RoleFindingSerializer(OnInstance):
    """Something that AWS holds and nobody asked for here, or that a rule wants and that is not there."""

    expected = serializers.CharField(source="expected_name", read_only=True, help_text="instance profile")
    found = serializers.CharField(source="found_name", read_only=True)
    rule = serializers.CharField(source="rule.name", read_only=True, default="", help_text="that it is against")
    by = serializers.CharField(read_only=True, help_text="who did it, where CloudTrail tells")
    state = serializers.ChoiceField(choices=FindingState.choices, read_only=True)
    decided_by = serializers.CharField(source="decided_by_name", read_only=True)

    class Meta:
        model = RoleFinding
        fields = (
            "id",
            *INSTANCE,
            "expected",
            "found",
            "rule",
            "by",
            "done_at",
            "state",
            "found_at",
            "decided_at",
            "decided_by",
        )
        read_only_fields = fields


class Findings(ApiView, generics.ListAPIView):
    """What was changed outside FleetOps, the newest first; those that are open, unless `state` says otherwise."""

    scopes = {"GET": READ}
    permissions = {"GET": SEE}
    serializer_class = RoleFindingSerializer
    queryset = RoleFinding.objects.none()

    @extend_schema(
        parameters=[
            OpenApiParameter("q", str, description="Instances: words, or an expression such as `env=prod`."),
            OpenApiParameter("instance", OpenApiTypes.UUID),
            OpenApiParameter("state", str, enum=FindingState.values),
        ]
    )
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        state = choice_in(self.request, "state", FindingState.values) or FindingState.OPEN
        found = RoleFinding.objects.visible_to(self.request.user).filter(state=state)
        return of_instances(self.request, found).select_related("instance__account", "instance__region", "rule")


class _Decide(ApiView):
    scopes = {"POST": WRITE}
    permissions = {"POST": DECIDE}

    def decided(self, request, pk, do) -> Response:
        visible = RoleFinding.objects.visible_to(request.user)
        related = ("instance__account", "instance__region", "account", "region", "rule")
        finding = get_object_or_404(visible.select_related(*related), pk=pk)
        do(finding, actor=request.user)
        return Response(RoleFindingSerializer(finding).data, status=202)


class PutBack(_Decide):
    """A change from outside."""

    @extend_schema(operation_id="roles_findings_put_back", request=None, responses={202: RoleFindingSerializer})
    def post(self, request, pk):
        """Have the instance again what it should have."""
        return self.decided(request, pk, services.put_back)


class Accept(_Decide):
    """A change from outside."""

    @extend_schema(operation_id="roles_findings_accept", request=None, responses={202: RoleFindingSerializer})
    def post(self, request, pk):
        """Take what was found for what the instance has from now on; leases of another role end."""
        return self.decided(request, pk, services.accept)


class RoleChangeSerializer(OnInstance):
    """One change of what an instance has."""

    before = serializers.SerializerMethodField(help_text="instance profile; empty: none")
    after = serializers.SerializerMethodField()
    by = serializers.CharField(read_only=True)

    class Meta:
        model = RoleChange
        fields = ("id", *INSTANCE, "at", "before", "after", "is_ours", "by", "attachment")
        read_only_fields = fields

    def get_before(self, change: RoleChange) -> str:
        return change.before.rpartition("/")[2]

    def get_after(self, change: RoleChange) -> str:
        return change.after.rpartition("/")[2]


class History(ApiView, generics.ListAPIView):
    """Each change of what instances have, made by FleetOps or seen by it, the newest first."""

    scopes = {"GET": READ}
    permissions = {"GET": SEE}
    serializer_class = RoleChangeSerializer
    queryset = RoleChange.objects.none()

    @extend_schema(
        parameters=[
            OpenApiParameter("q", str, description="Instances: words, or an expression such as `env=prod`."),
            OpenApiParameter("instance", OpenApiTypes.UUID),
        ]
    )
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        found = RoleChange.objects.visible_to(self.request.user)
        return of_instances(self.request, found).select_related("instance__account", "instance__region")


def of_instances(request, rows):
    """Those on the instances that the query names. Raises ValidationError."""
    if asked := request.query_params.get("instance", ""):
        try:
            rows = rows.filter(instance=serializers.UUIDField().run_validation(asked))
        except ValidationError:
            raise ValidationError({"instance": ["This is no instance's id."]}) from None
    text = request.query_params.get("q", "").replace("\x00", "").strip()
    if text:
        try:
            chosen = select(parse(text, words=True), Instance.objects.visible_to(request.user))
        except ExpressionError as error:
            raise ValidationError({"q": [str(error)]}) from None
        rows = rows.filter(instance__in=chosen.order_by())
    return rows


def _wished(request) -> tuple[Instance, Wish, dict]:
    """The instance, what is wanted on it, and what else was sent. Raises Http404, FieldError, AwsError."""
    given = RoleAskSerializer.of(request)
    visible = Instance.objects.visible_to(request.user).select_related("account", "region")
    instance = get_object_or_404(visible, pk=given["instance"])
    minutes, name = given["minutes"], given["profile_name"].strip()
    if given["policy"].strip():
        if name:
            raise ValidationError({"profile_name": ["A privilege is put on the role that is there; leave this out."]})
        text = privilege.check(given["policy"].strip())
        return instance, Wish(instance.profile_arn, minutes, policy=text, policy_name=given["policy_name"]), given
    if not name:
        return instance, Wish(minutes=minutes), given
    return instance, Wish(services.find_profile(instance, name).arn, minutes), given


def _attachment(request, pk) -> RoleAttachment:
    related = ("instance__account", "instance__region", "account", "region", "approval")
    return get_object_or_404(RoleAttachment.objects.visible_to(request.user).select_related(*related), pk=pk)


def _shown(request, attachment: RoleAttachment) -> dict:
    return RoleAttachmentSerializer(attachment, context={"request": request}).data


urlpatterns = [
    path("roles/attachments/", Attachments.as_view(), name="role_attachments"),
    path("roles/attachments/look/", Look.as_view(), name="role_look"),
    path("roles/attachments/<uuid:pk>/", OneAttachment.as_view(), name="role_attachment"),
    path("roles/attachments/<uuid:pk>/extend/", Extend.as_view(), name="role_extend"),
    path("roles/attachments/<uuid:pk>/end/", End.as_view(), name="role_end"),
    path("roles/findings/", Findings.as_view(), name="role_findings"),
    path("roles/findings/<uuid:pk>/put-back/", PutBack.as_view(), name="role_put_back"),
    path("roles/findings/<uuid:pk>/accept/", Accept.as_view(), name="role_accept"),
    path("roles/history/", History.as_view(), name="role_history"),
    *rule_api.urlpatterns,
]
