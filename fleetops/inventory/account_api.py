"""Accounts over the API: those whose fleet one sees, and, for who administers them, all that their pages do."""

from dataclasses import replace

from django.db.models import Count, Q
from django.shortcuts import get_object_or_404
from django.urls import path
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import generics, serializers
from rest_framework.exceptions import ValidationError
from rest_framework.response import Response

from fleetops.clock import now
from fleetops.identity.rest import ApiView, Asked

from . import account_checks, identity_checks, tasks
from . import accounts as services
from .account_forms import AccountForm
from .account_rules import COLUMNS, MOST_STREAM_HOSTS, SENSITIVE, AccountFacts
from .models import Account, AccountCheck, CheckRow, IdentityCheck
from .states import CheckResult, CheckState

READ, WRITE = "accounts:read", "accounts:write"
SEE_FLEET = ("inventory.view_instance",)
SEE, ADD = ("inventory.view_account",), ("inventory.add_account",)
CHANGE, REMOVE = ("inventory.change_account",), ("inventory.delete_account",)


class AccountSerializer(serializers.ModelSerializer):
    """An AWS account that FleetOps reads."""

    regions = serializers.SerializerMethodField()

    class Meta:
        model = Account
        fields = ("id", "account_id", "name", "regions")
        read_only_fields = fields

    def get_regions(self, account: Account) -> list[str]:
        return sorted(region.name for region in account.regions.all() if region.enabled)


class CheckedSerializer(serializers.Serializer):
    """One permission in one region."""

    region = serializers.CharField()
    action = serializers.CharField()
    purpose = serializers.CharField()
    is_optional = serializers.BooleanField()
    result = serializers.ChoiceField(choices=CheckResult.choices)
    text = serializers.CharField(help_text="in words, what is missing and how to mend it")


class CheckSummarySerializer(serializers.ModelSerializer):
    """A connection check, in short."""

    state = serializers.ChoiceField(choices=CheckState.choices, read_only=True)
    word = serializers.SerializerMethodField(help_text="what it comes to")
    works = serializers.SerializerMethodField(help_text="it was carried out, and nothing that is needed is missing")
    missing = serializers.SerializerMethodField(help_text="actions that the role lacks")

    class Meta:
        model = AccountCheck
        fields = (
            "id",
            "state",
            "word",
            "works",
            "missing",
            "asked_by",
            "created_at",
            "ended_at",
            "caller_arn",
            "error",
        )
        read_only_fields = fields

    def to_representation(self, check: AccountCheck):
        self.all_rows: list[CheckRow] = list(check.rows.all())
        self.verdict = account_checks.verdict(check, self.all_rows, now=now())
        return super().to_representation(check)

    def get_word(self, check: AccountCheck) -> str:
        return self.verdict.word

    def get_works(self, check: AccountCheck) -> bool:
        return self.verdict.kind == "ok"

    def get_missing(self, check: AccountCheck) -> list[str]:
        return list(self.verdict.missing)


class CheckSerializer(CheckSummarySerializer):
    """A connection check, permission by permission."""

    rows = serializers.SerializerMethodField()

    class Meta(CheckSummarySerializer.Meta):
        fields = (*CheckSummarySerializer.Meta.fields, "rows")
        read_only_fields = fields

    @extend_schema_field(CheckedSerializer(many=True))
    def get_rows(self, check: AccountCheck) -> list:
        return CheckedSerializer(self.all_rows, many=True).data


class AccountSettingsSerializer(AccountSerializer):
    """An account's settings. There is no secret among them: keys are where the AWS configuration files are."""

    stream_hosts = serializers.ListField(child=serializers.CharField(), read_only=True)
    instances = serializers.IntegerField(source="present", read_only=True, help_text="that are there now")
    check = serializers.SerializerMethodField(help_text="the last one; null: it was never checked")
    url = serializers.SerializerMethodField(help_text="its page")

    class Meta(AccountSerializer.Meta):
        fields = (*AccountSerializer.Meta.fields, *SENSITIVE, "enabled", "is_embedded", "instances", "check", "url")
        read_only_fields = fields

    @extend_schema_field(CheckSummarySerializer(allow_null=True))
    def get_check(self, account: Account) -> dict | None:
        check = account.checks.first()
        return CheckSummarySerializer(check).data if check else None

    def get_url(self, account: Account) -> str:
        return self.context["request"].build_absolute_uri(account.get_absolute_url())


class ChangeAccountSerializer(Asked):
    """What of an account can be said. AccountForm and the rules below it have the last word."""

    name = serializers.CharField(max_length=64)
    regions = serializers.ListField(
        child=serializers.CharField(max_length=32), max_length=100, help_text="that are read"
    )
    role_arn = serializers.CharField(max_length=256, required=False, allow_blank=True, help_text="role to assume")
    external_id = serializers.CharField(max_length=128, required=False, allow_blank=True)
    profile = serializers.CharField(
        max_length=64, required=False, allow_blank=True, help_text="base credentials: a profile of the AWS files"
    )
    endpoint_url = serializers.CharField(
        max_length=256, required=False, allow_blank=True, help_text="empty: AWS itself"
    )
    ca_pem = serializers.CharField(max_length=65536, required=False, allow_blank=True, help_text="CA of endpoint_url")
    stream_hosts = serializers.ListField(
        child=serializers.RegexField(r"^[^\s,]+$", max_length=256),
        required=False,
        max_length=MOST_STREAM_HOSTS,
        help_text="host:port that may appear in a StreamUrl",
    )


class NewAccountSerializer(ChangeAccountSerializer):
    """An account to be added."""

    account_id = serializers.CharField(max_length=32, help_text="AWS's twelve digits")


class SwitchAccountSerializer(Asked):
    """Read it and open shells there, or neither."""

    enabled = serializers.BooleanField()


class Accounts(ApiView, generics.ListAPIView):
    """The accounts whose instances you may see."""

    scopes = {"GET": "fleet:read", "POST": WRITE}
    permissions = {"GET": SEE_FLEET, "POST": ADD}
    serializer_class = AccountSerializer
    queryset = Account.objects.prefetch_related("regions")
    newest_first = False

    @extend_schema(
        operation_id="accounts_add",
        request=NewAccountSerializer,
        responses={201: AccountSettingsSerializer},
        examples=[
            OpenApiExample(
                "By a role",
                {
                    "account_id": "222233334444",
                    "name": "payments",
                    "regions": ["eu-west-1", "us-east-1"],
                    "role_arn": "arn:aws:iam::222233334444:role/FleetOps",
                    "external_id": "fleetops-7a4c",
                },
                request_only=True,
            )
        ],
    )
    def post(self, request):
        """Add an account; it is read and its connection checked within seconds. Its role takes who administers."""
        facts = _facts(NewAccountSerializer.of(request))
        account = services.add_account(facts, actor=request.user)
        tasks.check_account.delay(str(account_checks.ask(account, actor=request.user).pk))
        return Response(_shown(request, account.pk), status=201)


class OneAccount(ApiView):
    """One account's settings."""

    scopes = {"GET": READ, "PATCH": WRITE, "DELETE": WRITE}
    permissions = {"GET": SEE, "PATCH": CHANGE, "DELETE": REMOVE}

    @extend_schema(operation_id="accounts_get", responses=AccountSettingsSerializer)
    def get(self, request, pk):
        return Response(_shown(request, pk))

    @extend_schema(
        operation_id="accounts_change",
        request=ChangeAccountSerializer(partial=True),
        responses=AccountSettingsSerializer,
    )
    def patch(self, request, pk):
        """Change what is sent of it; the rest stays. Where it is and as whom FleetOps acts takes who administers."""
        account = _account(request, pk)
        facts = _facts(ChangeAccountSerializer.of(request, partial=True), account)
        services.change_account(account, facts, actor=request.user)
        return Response(_shown(request, pk))

    @extend_schema(
        operation_id="accounts_remove",
        parameters=[OpenApiParameter("confirm", str, required=True, description="Its number: AWS's twelve digits.")],
        responses={204: None},
    )
    def delete(self, request, pk):
        """Take a disabled account out of FleetOps. Its sessions, recordings and audit rows stay."""
        account = _account(request, pk)
        services.require_confirmed(account, request.query_params.get("confirm", ""))
        services.remove_account(account, actor=request.user)
        return Response(status=204)


class EnableAccount(ApiView):
    """An account's switch."""

    scopes = {"POST": WRITE}
    permissions = {"POST": CHANGE}

    @extend_schema(operation_id="accounts_enable", request=SwitchAccountSerializer, responses=AccountSettingsSerializer)
    def post(self, request, pk):
        """Read it and open shells there, or neither. Sessions that are open go on."""
        services.set_enabled(_account(request, pk), SwitchAccountSerializer.of(request)["enabled"], actor=request.user)
        return Response(_shown(request, pk))


class Checks(ApiView):
    """An account's connection check."""

    scopes = {"GET": READ, "POST": WRITE}
    permissions = {"GET": SEE, "POST": CHANGE}

    @extend_schema(operation_id="accounts_check_get", responses=CheckSerializer)
    def get(self, request, pk):
        """The last one, permission by permission, as far as it has come."""
        check = get_object_or_404(AccountCheck.objects.filter(account=_account(request, pk))[:1])
        return Response(CheckSerializer(check).data)

    @extend_schema(operation_id="accounts_check", request=None, responses={202: CheckSerializer})
    def post(self, request, pk):
        """Have a worker ask AWS what FleetOps may do there; the one that is under way, if there is one."""
        check = account_checks.ask(_account(request, pk), actor=request.user)
        tasks.check_account.delay(str(check.pk))
        return Response(CheckSerializer(check).data, status=202)


class RoleCheckedSerializer(serializers.Serializer):
    """One question about a role, and its answer."""

    part = serializers.ChoiceField(
        choices=["trust", "use", "permissions"], help_text="whom it trusts; whether it was assumed; what it may do"
    )
    action = serializers.CharField(help_text="as IAM writes it; tried: the role was really assumed")
    purpose = serializers.CharField()
    result = serializers.ChoiceField(choices=CheckResult.choices)
    text = serializers.CharField(help_text="in words, what is missing and how to mend it")
    is_optional = serializers.BooleanField()


class RoleSerializer(serializers.Serializer):
    """A role under which FleetOps acts, and what was found of it."""

    arn = serializers.CharField(help_text="empty: the base credentials act themselves")
    rules = serializers.ListField(
        child=serializers.CharField(),
        help_text="of the access policy, that open sessions under it; none: its own",
    )
    rows = RoleCheckedSerializer(many=True)


class IdentitySerializer(serializers.ModelSerializer):
    """As whom FleetOps acts in an account: one look at its roles."""

    state = serializers.ChoiceField(choices=CheckState.choices, read_only=True)
    word = serializers.SerializerMethodField(help_text="what it comes to")
    works = serializers.SerializerMethodField(help_text="nothing that is needed is missing")
    missing = serializers.SerializerMethodField(help_text="by role, what it lacks")
    roles = RoleSerializer(many=True, read_only=True)

    class Meta:
        model = IdentityCheck
        fields = (
            *("id", "state", "word", "works", "missing", "asked_by", "created_at", "ended_at", "caller_arn", "error"),
            "roles",
        )
        read_only_fields = fields

    def get_word(self, check: IdentityCheck) -> str:
        return identity_checks.verdict(check).word

    def get_works(self, check: IdentityCheck) -> bool:
        return identity_checks.verdict(check).kind == "ok"

    def get_missing(self, check: IdentityCheck) -> list[str]:
        return list(identity_checks.verdict(check).missing)


class Identity(ApiView):
    """The roles under which FleetOps acts in an account, its own and those of the access policy's rules."""

    scopes = {"GET": READ, "POST": WRITE}
    permissions = {"GET": SEE, "POST": CHANGE}

    @extend_schema(operation_id="accounts_identity_get", responses=IdentitySerializer)
    def get(self, request, pk):
        """The last look at them: whom each trusts, whether it could be assumed for a person, what it may do."""
        check = get_object_or_404(IdentityCheck.objects.filter(account=_account(request, pk))[:1])
        return Response(IdentitySerializer(check).data)

    @extend_schema(operation_id="accounts_identity", request=None, responses={202: IdentitySerializer})
    def post(self, request, pk):
        """Have a worker look at them; the look that is under way, if there is one."""
        check = identity_checks.ask(_account(request, pk), actor=request.user)
        tasks.check_identity.delay(str(check.pk))
        return Response(IdentitySerializer(check).data, status=202)


def _facts(given: dict, account: Account | None = None) -> AccountFacts:
    """What was sent, held against the page's form. Raises ValidationError."""
    said = AccountForm.initial_of(account) if account else {}
    said |= {name: "\n".join(value) if name == "stream_hosts" else value for name, value in given.items()}
    # The form would leave as they are the fields that it shows off; whoever sends another value is told by the service.
    form = AccountForm(said, account=account, initial=AccountForm.initial_of(account) if account else None)
    if not form.is_valid():
        raise ValidationError({name or "": errors for name, errors in form.errors.items()})
    facts = form.facts()
    if account is not None and account.is_embedded:
        sent = {name: tuple(value) if name == "stream_hosts" else value for name, value in given.items()}
        facts = replace(facts, **{name: value for name, value in sent.items() if name in COLUMNS})
    return facts


def _account(request, pk) -> Account:
    return get_object_or_404(Account.objects.visible_to(request.user), pk=pk)


def _shown(request, pk) -> dict:
    counted = Account.objects.visible_to(request.user).annotate(
        present=Count("instances", filter=Q(instances__gone_at=None))
    )
    account = get_object_or_404(counted.prefetch_related("regions"), pk=pk)
    return AccountSettingsSerializer(account, context={"request": request}).data


urlpatterns = [
    path("accounts/", Accounts.as_view(), name="accounts"),
    path("accounts/<uuid:pk>/", OneAccount.as_view(), name="account"),
    path("accounts/<uuid:pk>/check/", Checks.as_view(), name="check_account"),
    path("accounts/<uuid:pk>/enabled/", EnableAccount.as_view(), name="enable_account"),
    path("accounts/<uuid:pk>/identity/", Identity.as_view(), name="account_identity"),
]
