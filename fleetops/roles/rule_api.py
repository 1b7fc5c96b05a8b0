"""Rules of roles, the catalogue of IAM's roles, and the standard role, over the API."""

from django.shortcuts import get_object_or_404
from django.urls import path
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import generics, serializers
from rest_framework.exceptions import ValidationError
from rest_framework.response import Response

from fleetops.identity.rest import ApiView, Asked, choice_in, flag_in, number_in
from fleetops.inventory.models import Account

from . import editing, listing
from .catalogue import services as catalogue
from .catalogue import standard
from .catalogue.models import Making, Role
from .catalogue.states import MakingState
from .models import RULE_PERMISSION, VIEW_PERMISSION, Mode, RoleRule
from .services import LONGEST_MINUTES

READ, WRITE = "roles:read", "role_rules:write"
SEE, CHANGE = (VIEW_PERMISSION,), (RULE_PERMISSION,)
MOST_ACCOUNTS = 1000  # of one call
# What is left out of a new rule.
USUAL = {
    "mode": Mode.MAY.value,
    "most_minutes": 60,
    "allows_privileges": False,
    "approvals": 0,
    "approvers": (),
    "is_repairing": False,
    "is_enabled": True,
}


class RoleRuleSerializer(serializers.ModelSerializer):
    """Which instances may have a role, for how long and after how many approvals; or must have it."""

    mode = serializers.ChoiceField(choices=Mode.choices, read_only=True)
    approvers = serializers.SlugRelatedField("name", many=True, read_only=True, help_text="roles; none: administrators")

    class Meta:
        model = RoleRule
        fields = ("id", *editing.FIELDS, "approvers", "version", "created_at", "changed_at", "changed_by")
        read_only_fields = fields


class RoleRuleDetailSerializer(RoleRuleSerializer):
    """A rule, and how many instances it is for."""

    matching = serializers.IntegerField(allow_null=True, help_text="instances; null: its targets cannot be read")
    in_use = serializers.IntegerField(help_text="of these, that have the role")

    class Meta(RoleRuleSerializer.Meta):
        fields = (*RoleRuleSerializer.Meta.fields, "matching", "in_use")
        read_only_fields = fields


class RoleRuleAsked(Asked):
    """A rule. What is left out: it may be had for an hour, without approval, and the rule is on."""

    name = serializers.CharField(max_length=100)
    targets = serializers.CharField(max_length=2000, help_text="an expression, as env=prod; all for every instance")
    profile_name = serializers.CharField(max_length=128, help_text="of the instance profile; * for any characters")
    mode = serializers.ChoiceField(choices=Mode.choices, required=False)
    most_minutes = serializers.IntegerField(
        min_value=0, max_value=LONGEST_MINUTES, required=False, help_text="longest lease; 0: also for good"
    )
    allows_privileges = serializers.BooleanField(required=False, help_text="also policies put on this role for a while")
    approvals = serializers.IntegerField(min_value=0, max_value=editing.MOST_APPROVALS, required=False)
    approvers = serializers.ListField(child=serializers.CharField(max_length=150), required=False, help_text="roles")
    is_repairing = serializers.BooleanField(required=False, help_text="must: put it there; else it is only reported")
    is_enabled = serializers.BooleanField(required=False)


class ChangeRoleRuleSerializer(RoleRuleAsked):
    """What of a rule is to be changed, and the version that was read."""

    version = serializers.IntegerField(min_value=1, help_text="as it was read; another one since is a 409")

    def to_internal_value(self, data):
        given = super().to_internal_value(data)
        if "version" not in given:
            raise ValidationError({"version": ["Send the version that you read, so that nobody's change is lost."]})
        return given


class RoleRules(ApiView, generics.ListAPIView):
    """The rules of roles, the newest first."""

    scopes = {"GET": READ, "POST": WRITE}
    permissions = {"GET": SEE, "POST": CHANGE}
    serializer_class = RoleRuleSerializer
    queryset = RoleRule.objects.none()

    @extend_schema(
        parameters=[OpenApiParameter("mode", str, enum=Mode.values), OpenApiParameter("is_enabled", bool)],
    )
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        found = RoleRule.objects.prefetch_related("approvers")
        if mode := choice_in(self.request, "mode", Mode.values):
            found = found.filter(mode=mode)
        if (enabled := flag_in(self.request, "is_enabled")) is not None:
            found = found.filter(is_enabled=enabled)
        return found

    @extend_schema(
        operation_id="roles_rules_create",
        request=RoleRuleAsked,
        responses={201: RoleRuleDetailSerializer},
        examples=[
            OpenApiExample(
                "The ledger, for an hour",
                {"name": "Ledger", "targets": "cluster=ledger", "profile_name": "ledger-*", "approvals": 1},
                request_only=True,
            ),
            OpenApiExample(
                "All are managed",
                {
                    "name": "Managed",
                    "targets": "env=prod",
                    "profile_name": "fleetops-ssm-core",
                    "mode": "must",
                    "is_repairing": False,
                },
                request_only=True,
            ),
        ],
    )
    def post(self, request):
        """Make a rule. It holds from now on."""
        made = editing.create(USUAL | RoleRuleAsked.of(request), actor=request.user)
        return Response(_rule_shown(request, made), status=201)


class OneRoleRule(ApiView):
    """One rule of roles."""

    scopes = {"GET": READ, "PATCH": WRITE, "DELETE": WRITE}
    permissions = {"GET": SEE, "PATCH": CHANGE, "DELETE": CHANGE}

    @extend_schema(operation_id="roles_rules_get", responses=RoleRuleDetailSerializer)
    def get(self, request, pk):
        return Response(_rule_shown(request, _rule(pk)))

    @extend_schema(
        operation_id="roles_rules_change",
        request=ChangeRoleRuleSerializer(partial=True),
        responses=RoleRuleDetailSerializer,
    )
    def patch(self, request, pk):
        """Change what is sent of it; the rest stays. If its version is another one meanwhile: 409, and no change."""
        rule = _rule(pk)
        given = ChangeRoleRuleSerializer.of(request, partial=True)
        version = given.pop("version")
        editing.change(rule, editing.snapshot(rule) | given, version=version, actor=request.user)
        return Response(_rule_shown(request, _rule(pk)))

    @extend_schema(
        operation_id="roles_rules_delete",
        parameters=[OpenApiParameter("version", int, required=True, description="As it was read.")],
        responses={204: None},
    )
    def delete(self, request, pk):
        """Delete it; leases by it stand until their end. If its version is another one meanwhile: 409."""
        editing.delete(_rule(pk), version=number_in(request, "version"), actor=request.user)
        return Response(status=204)


# --- the catalogue ---------------------------------------------------------------------------------------------------


class RoleDifferenceSerializer(serializers.Serializer):
    """One thing that is not as the standard role has it."""

    words = serializers.CharField()
    repair = serializers.CharField(help_text="what puts it right; empty: only a person can")


class IamRoleSerializer(serializers.ModelSerializer):
    """A role that EC2 may assume, as it was last read of IAM."""

    account_id = serializers.CharField(source="account.account_id", read_only=True)
    allows = serializers.CharField(read_only=True, help_text="in words")
    lacks = serializers.ListField(
        child=serializers.CharField(), read_only=True, help_text="actions of what SSM needs that it does not allow"
    )
    is_simulated = serializers.BooleanField(read_only=True, help_text="IAM has been asked what it lacks")
    profiles = serializers.SlugRelatedField("name", many=True, read_only=True, help_text="instance profiles with it")
    url = serializers.SerializerMethodField(help_text="its page")

    class Meta:
        model = Role
        fields = (
            *("id", "account_id", "arn", "name", "profiles", "allows", "lacks", "is_simulated", "boundary_arn"),
            *("read_at", "url"),
        )
        read_only_fields = fields

    def get_url(self, role: Role) -> str:
        return self.context["request"].build_absolute_uri(role.get_absolute_url())


class RolePolicySerializer(serializers.Serializer):
    """One policy of a role."""

    name = serializers.CharField()
    arn = serializers.CharField(help_text="empty: an inline policy")
    text = serializers.CharField(help_text="JSON")


class IamRoleDetailSerializer(IamRoleSerializer):
    """A role with its policies; of a standard role, with how it differs."""

    trust = serializers.CharField(read_only=True, help_text="the trust policy, JSON")
    policies = RolePolicySerializer(many=True, read_only=True)
    tags = serializers.DictField(child=serializers.CharField(), read_only=True)
    differences = serializers.SerializerMethodField()

    class Meta(IamRoleSerializer.Meta):
        fields = (*IamRoleSerializer.Meta.fields, "trust", "policies", "tags", "differences")
        read_only_fields = fields

    @extend_schema_field(RoleDifferenceSerializer(many=True))
    def get_differences(self, role: Role) -> list[dict]:
        return RoleDifferenceSerializer(catalogue.differences(role), many=True).data


class Roles(ApiView, generics.ListAPIView):
    """Roles of all accounts that EC2 may assume, the newest first."""

    scopes = {"GET": READ}
    permissions = {"GET": SEE}
    serializer_class = IamRoleSerializer
    queryset = Role.objects.none()

    @extend_schema(
        parameters=[
            OpenApiParameter("account", str, description="AWS's number of an account."),
            OpenApiParameter("name", str),
        ]
    )
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        found = Role.objects.visible_to(self.request.user).select_related("account").prefetch_related("profiles")
        for name, column in (("account", "account__account_id"), ("name", "name")):
            if value := self.request.query_params.get(name, "").replace("\x00", ""):
                found = found.filter(**{column: value})
        return found


class OneRole(ApiView):
    """One role."""

    scopes = {"GET": READ}
    permissions = {"GET": SEE}

    @extend_schema(operation_id="roles_catalogue_get", responses=IamRoleDetailSerializer)
    def get(self, request, pk):
        return Response(IamRoleDetailSerializer(_role(request, pk), context={"request": request}).data)


class PutRightSerializer(Asked):
    """What was shown: `repair` of each of the role's differences that has one."""

    changes = serializers.ListField(child=serializers.CharField(max_length=512), min_length=1, max_length=100)


class RoleMakingSerializer(serializers.ModelSerializer):
    """The last time that somebody had a standard role made or put right."""

    state = serializers.ChoiceField(choices=MakingState.choices, read_only=True)
    steps = serializers.ListField(child=serializers.CharField(), read_only=True, help_text="what was done")
    words = serializers.CharField(read_only=True, help_text="why it failed; ask again, and it goes on from there")
    asked_by = serializers.CharField(source="asked_by_name", read_only=True)

    class Meta:
        model = Making
        fields = ("state", "puts_right", "steps", "words", "asked_by", "asked_at", "ended_at")
        read_only_fields = fields


class StandardRoleSerializer(serializers.Serializer):
    """How the standard role stands in one account."""

    account_id = serializers.CharField(source="account.account_id")
    account_name = serializers.CharField(source="account.name")
    word = serializers.CharField(help_text="there, not there, half made, differs, not read yet")
    is_there = serializers.BooleanField()
    differences = RoleDifferenceSerializer(many=True)
    role = serializers.UUIDField(source="role.pk", allow_null=True, default=None)
    making = RoleMakingSerializer(allow_null=True)


class RoleAccountsSerializer(Asked):
    """In which accounts."""

    accounts = serializers.ListField(
        child=serializers.CharField(max_length=12), required=False, min_length=1, max_length=MOST_ACCOUNTS
    )


class StandardRole(ApiView):
    """The standard role, `fleetops-ssm-core`, with its instance profile of the same name."""

    scopes = {"GET": READ, "POST": WRITE}
    permissions = {"GET": SEE, "POST": CHANGE}
    pagination_class = None

    @extend_schema(operation_id="roles_standard", responses=StandardRoleSerializer(many=True))
    def get(self, request):
        """How it stands in each account, as that was last read of IAM."""
        return Response(StandardRoleSerializer(catalogue.standing(), many=True).data)

    @extend_schema(
        operation_id="roles_standard_make",
        request=RoleAccountsSerializer,
        responses={202: StandardRoleSerializer(many=True)},
        examples=[OpenApiExample("In one account", {"accounts": ["111122223333"]}, request_only=True)],
    )
    def post(self, request):
        """Have it made in these accounts, or wherever it is not there. What is there already is taken as it is."""
        numbers = RoleAccountsSerializer.of(request).get("accounts")
        if numbers is None:
            accounts = [each["account"] for each in catalogue.standing() if not (each["is_there"] or each["is_making"])]
        else:
            accounts = list(Account.objects.filter(account_id__in=numbers, enabled=True))
            if strange := sorted(set(numbers) - {each.account_id for each in accounts}):
                raise ValidationError({"accounts": [f"FleetOps works in no account {strange[0]}."]})
        standard.ask(accounts, actor=request.user)
        told = catalogue.standing([each.pk for each in accounts])
        return Response(StandardRoleSerializer(told, many=True).data, status=202)


class PutRight(ApiView):
    """A standard role that differs."""

    scopes = {"POST": WRITE}
    permissions = {"POST": CHANGE}

    @extend_schema(
        operation_id="roles_standard_right", request=PutRightSerializer, responses={202: RoleMakingSerializer}
    )
    def post(self, request, pk):
        """Have it put right by exactly these changes; 409 if it differs otherwise by now."""
        found = _role(request, pk)
        making = standard.ask_right(found, PutRightSerializer.of(request)["changes"], actor=request.user)
        return Response(RoleMakingSerializer(making).data, status=202)


def _rule(pk) -> RoleRule:
    return get_object_or_404(RoleRule.objects.prefetch_related("approvers"), pk=pk)


def _rule_shown(request, rule: RoleRule) -> dict:
    [row] = listing.rule_rows([rule], request.user)
    rule.matching, rule.in_use = row.matching, row.in_use
    return RoleRuleDetailSerializer(rule).data


def _role(request, pk) -> Role:
    return get_object_or_404(Role.objects.visible_to(request.user).select_related("account"), pk=pk)


urlpatterns = [
    path("roles/rules/", RoleRules.as_view(), name="role_rules"),
    path("roles/rules/<uuid:pk>/", OneRoleRule.as_view(), name="role_rule"),
    path("roles/catalogue/", Roles.as_view(), name="roles"),
    path("roles/catalogue/<uuid:pk>/", OneRole.as_view(), name="role"),
    path("roles/catalogue/<uuid:pk>/right/", PutRight.as_view(), name="role_right"),
    path("roles/standard/", StandardRole.as_view(), name="role_standard"),
]
