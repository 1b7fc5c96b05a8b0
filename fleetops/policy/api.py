"""The access policy over the API: its rules, how they came to be, and what they would say."""

from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError as DjangoValidationError
from django.db.models import Q
from django.shortcuts import get_object_or_404
from django.urls import path
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework import generics, serializers
from rest_framework.exceptions import ValidationError
from rest_framework.response import Response

from fleetops.identity.models import User
from fleetops.identity.rest import ApiView, Asked, choice_in, flag_in, number_in

from . import questions, rule_fields, services
from .decide import DEED_NAMES
from .forms import SimulateForm
from .models import Effect, Rule, RuleRevision, Whose
from .services import CHANGE_PERMISSION, VIEW_PERMISSION

READ, WRITE = "policy:read", "policy:write"
SEE, CHANGE = (VIEW_PERMISSION,), (CHANGE_PERMISSION,)
MOST_PEOPLE = 1000  # named in one rule
ONE_WORD = r"^[^\s,]+$"  # the form separates by these

EXAMPLE = {
    "name": "On-call on the ledger",
    "note": "Ask #payments",
    "effect": "allow",
    "groups": ["operator"],
    "deeds": ["shell"],
    "targets": "env=prod and cluster=ledger",
    "needs_reason": True,
    "days": [0, 1, 2, 3, 4],
    "starts_at": "08:00",
    "ends_at": "18:00",
    "zone": "Europe/Berlin",
}


class RuleSerializer(serializers.ModelSerializer):
    """A rule of the access policy."""

    effect = serializers.ChoiceField(choices=Effect.choices, read_only=True)
    users = serializers.SlugRelatedField("username", many=True, read_only=True)
    groups = serializers.SlugRelatedField("name", many=True, read_only=True)
    deeds = serializers.ListField(child=serializers.CharField(), read_only=True)
    documents = serializers.ListField(child=serializers.CharField(), read_only=True)
    run_as = serializers.ListField(child=serializers.CharField(), read_only=True, help_text="OS users")
    session_documents = serializers.ListField(child=serializers.CharField(), read_only=True)
    destinations = serializers.ListField(child=serializers.CharField(), read_only=True, help_text="host:port")
    approvers = serializers.SlugRelatedField("name", many=True, read_only=True, help_text="roles that may approve")
    days = serializers.ListField(child=serializers.IntegerField(), read_only=True, help_text="0 is Monday")
    networks = serializers.ListField(child=serializers.CharField(), read_only=True)
    url = serializers.SerializerMethodField(help_text="its page")

    class Meta:
        model = Rule
        fields = (
            "id",
            *rule_fields.FIELDS,
            "enabled",
            "version",
            "created_at",
            "changed_at",
            "changed_by",
            "last_used_at",
            "url",
        )
        read_only_fields = fields

    def get_url(self, rule: Rule) -> str:
        return self.context["request"].build_absolute_uri(rule.get_absolute_url())


class RuleAsked(Asked):
    """All of a rule. What is left out is as on an empty form; rule_fields.problems has the last word."""

    name = serializers.CharField(max_length=rule_fields.MOST_NAME_CHARACTERS)
    note = serializers.CharField(max_length=500, required=False, allow_blank=True, help_text="denials show it")
    effect = serializers.ChoiceField(choices=Effect.choices)
    everybody = serializers.BooleanField(required=False)
    users = serializers.ListField(
        child=serializers.CharField(max_length=150), required=False, max_length=MOST_PEOPLE, help_text="usernames"
    )
    groups = serializers.ListField(
        child=serializers.CharField(max_length=150), required=False, max_length=MOST_PEOPLE, help_text="roles"
    )
    deeds = serializers.ListField(child=serializers.ChoiceField(choices=DEED_NAMES))
    whose = serializers.ChoiceField(choices=Whose.choices, required=False, help_text="of sessions and recordings")
    targets = serializers.CharField(max_length=4000, help_text="an expression, as env=prod; all for every instance")
    confirm_all = serializers.BooleanField(required=False, help_text="it may be for every instance")
    documents = serializers.ListField(
        child=serializers.RegexField(ONE_WORD, max_length=256), required=False, help_text="names, with *"
    )
    run_as = serializers.ListField(
        child=serializers.RegexField(ONE_WORD, max_length=64), required=False, help_text="OS users, with *"
    )
    shell_user = serializers.CharField(
        max_length=64, required=False, allow_blank=True, help_text="OS user that its shells run as"
    )
    session_documents = serializers.ListField(
        child=serializers.RegexField(ONE_WORD, max_length=256), required=False, help_text="that open shells; with *"
    )
    destinations = serializers.ListField(
        child=serializers.RegexField(ONE_WORD, max_length=300), required=False, help_text="host:port, with *"
    )
    days = serializers.ListField(
        child=serializers.IntegerField(min_value=0, max_value=6), required=False, help_text="0 is Monday"
    )
    starts_at = serializers.TimeField(required=False, allow_null=True)
    ends_at = serializers.TimeField(required=False, allow_null=True)
    zone = serializers.CharField(max_length=64, required=False, allow_blank=True, help_text="IANA name")
    networks = serializers.ListField(child=serializers.CharField(max_length=64), required=False, help_text="CIDR")
    needs_mfa = serializers.BooleanField(required=False)
    mfa_minutes = serializers.IntegerField(
        min_value=0, max_value=rule_fields.MOST_MFA_MINUTES, required=False, help_text="its age at most; 0: any"
    )
    needs_reason = serializers.BooleanField(required=False)
    needs_moderator = serializers.BooleanField(required=False, help_text="input waits for somebody to watch")
    approvers = serializers.ListField(
        child=serializers.CharField(max_length=150), required=False, max_length=MOST_PEOPLE, help_text="roles"
    )
    grant_minutes = serializers.IntegerField(
        min_value=0, max_value=rule_fields.MOST_GRANT_MINUTES, required=False, help_text="longest grant; 0: any"
    )
    approvals = serializers.IntegerField(min_value=0, max_value=rule_fields.MOST_APPROVALS, required=False)
    role_arn = serializers.CharField(max_length=256, required=False, allow_blank=True)
    valid_from = serializers.DateTimeField(required=False, allow_null=True)
    valid_until = serializers.DateTimeField(required=False, allow_null=True)

    def validate_users(self, names: list[str]) -> list[User]:
        return _named(User.objects.filter(username__in=names), "username", names, "user")

    def validate_groups(self, names: list[str]) -> list[Group]:
        return _named(Group.objects.filter(name__in=names), "name", names, "role")

    def validate_approvers(self, names: list[str]) -> list[Group]:
        return self.validate_groups(names)


class ChangeRuleSerializer(RuleAsked):
    """What of a rule is to be changed, and the version that was read."""

    version = serializers.IntegerField(min_value=1, help_text="as it was read; another one since is a 409")

    def to_internal_value(self, data):
        given = super().to_internal_value(data)
        if "version" not in given:
            raise ValidationError({"version": ["Send the version that you read, so that nobody's change is lost."]})
        return given


class SwitchSerializer(Asked):
    """On or off."""

    enabled = serializers.BooleanField()


def _named(found, field: str, names: list[str], what: str) -> list:
    rows = {getattr(row, field): row for row in found}
    if missing := [name for name in names if name not in rows]:
        raise ValidationError([f"There is no {what} “{missing[0]}”."])
    return list(rows.values())


class Rules(ApiView, generics.ListAPIView):
    """The rules of the access policy, the newest first."""

    scopes = {"GET": READ, "POST": WRITE}
    permissions = {"GET": SEE, "POST": CHANGE}
    serializer_class = RuleSerializer
    queryset = Rule.objects.none()

    @extend_schema(
        parameters=[
            OpenApiParameter("q", str, description="Words in name, note or expression."),
            OpenApiParameter("effect", str, enum=Effect.values),
            OpenApiParameter("deed", str, enum=DEED_NAMES),
            OpenApiParameter("enabled", bool),
        ]
    )
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        found = Rule.objects.prefetch_related("users", "groups", "approvers")
        for word in self.request.query_params.get("q", "").replace("\x00", "").split()[:12]:
            found = found.filter(Q(name__icontains=word) | Q(note__icontains=word) | Q(targets__icontains=word))
        if effect := choice_in(self.request, "effect", Effect.values):
            found = found.filter(effect=effect)
        if (enabled := flag_in(self.request, "enabled")) is not None:
            found = found.filter(enabled=enabled)
        if deed := choice_in(self.request, "deed", DEED_NAMES):
            # SQLite cannot look into a list; there are hundreds of rules at most.
            found = found.filter(pk__in=[pk for pk, deeds in Rule.objects.values_list("pk", "deeds") if deed in deeds])
        return found

    @extend_schema(
        operation_id="policy_rules_create",
        request=RuleAsked,
        responses={201: RuleSerializer},
        examples=[OpenApiExample("Shells in office hours", EXAMPLE, request_only=True)],
    )
    def post(self, request):
        """Make a rule. It holds within a second, everywhere; the audit log has all of it."""
        given = RuleAsked.of(request)
        confirmed = given.pop("confirm_all", False)
        rule = services.create_rule(actor=request.user, confirmed=confirmed, **given)
        return Response(_shown(request, rule), status=201)


class OneRule(ApiView):
    """One rule of the access policy."""

    scopes = {"GET": READ, "PATCH": WRITE, "DELETE": WRITE}
    permissions = {"GET": SEE, "PATCH": CHANGE, "DELETE": CHANGE}

    @extend_schema(operation_id="policy_rules_get", responses=RuleSerializer)
    def get(self, request, pk):
        return Response(_shown(request, _rule(pk)))

    @extend_schema(
        operation_id="policy_rules_change",
        request=ChangeRuleSerializer(partial=True),
        responses=RuleSerializer,
        examples=[OpenApiExample("Ask for a reason", {"version": 3, "needs_reason": True}, request_only=True)],
    )
    def patch(self, request, pk):
        """Change what is sent of it; the rest stays. If its version is another one meanwhile: 409, and no change."""
        rule = _rule(pk)
        given = ChangeRuleSerializer.of(request, partial=True)
        version, confirmed = given.pop("version"), given.pop("confirm_all", rule.targets == "all")
        fields = {name: getattr(rule, name) for name in rule_fields.FIELDS}
        fields |= {name: list(getattr(rule, name).all()) for name in ("users", "groups", "approvers")}
        services.change_rule(rule, actor=request.user, version=version, confirmed=confirmed, **(fields | given))
        return Response(_shown(request, _rule(pk)))

    @extend_schema(
        operation_id="policy_rules_delete",
        parameters=[OpenApiParameter("version", int, required=True, description="As it was read.")],
        responses={204: None},
    )
    def delete(self, request, pk):
        """Delete it; its history stays. If its version is another one meanwhile: 409, and it stays too."""
        services.delete_rule(_rule(pk), actor=request.user, version=number_in(request, "version"))
        return Response(status=204)


class EnableRule(ApiView):
    """A rule's switch."""

    scopes = {"POST": WRITE}
    permissions = {"POST": CHANGE}

    @extend_schema(operation_id="policy_rules_enable", request=SwitchSerializer, responses=RuleSerializer)
    def post(self, request, pk):
        """Switch it on or off. Doing it again does nothing."""
        rule = _rule(pk)
        services.set_enabled(rule, SwitchSerializer.of(request)["enabled"], actor=request.user)
        return Response(_shown(request, _rule(pk)))


class RevisionSerializer(serializers.ModelSerializer):
    """One change of one rule; it outlives the rule."""

    before = serializers.DictField(read_only=True, help_text="all of the rule; empty where there was none")
    after = serializers.DictField(read_only=True)

    class Meta:
        model = RuleRevision
        fields = ("id", "rule_id", "rule_name", "change", "at", "by", "before", "after")
        read_only_fields = fields


class Revisions(ApiView, generics.ListAPIView):
    """Every change of every rule, the newest first."""

    scopes = {"GET": READ}
    permissions = {"GET": SEE}
    serializer_class = RevisionSerializer
    queryset = RuleRevision.objects.none()

    @extend_schema(parameters=[OpenApiParameter("rule", OpenApiTypes.UUID, description="A rule's `id`.")])
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        found = RuleRevision.objects.all()
        if rule := self.request.query_params.get("rule", ""):
            try:
                found = found.filter(rule_id=rule)
            except (DjangoValidationError, ValueError):
                raise ValidationError({"rule": ["This is no rule's id."]}) from None
        return found


class PartSerializer(serializers.Serializer):
    """What one rule says to a question."""

    rule = serializers.UUIDField(source="rule.id")
    name = serializers.CharField(source="rule.name")
    verdict = serializers.CharField(help_text="denies, allows, lacks (a condition is not met) or silent")
    text = serializers.CharField()


class TargetSerializer(serializers.Serializer):
    """The instance in question."""

    instance_id = serializers.CharField()
    name = serializers.CharField()
    account_id = serializers.CharField()
    region = serializers.CharField()


class AnswerSerializer(serializers.Serializer):
    """May they, and why?"""

    allowed = serializers.BooleanField(help_text="the rules let them, and the pages get them there")
    person = serializers.CharField(source="person.username")
    deed = serializers.CharField()
    target = TargetSerializer(allow_null=True)
    at = serializers.DateTimeField(source="moment")
    reasons = serializers.SerializerMethodField()
    unmet = serializers.ListField(
        child=serializers.CharField(),
        source="decision.unmet",
        help_text="what the nearest allow lacks: hours, network, mfa, reason, approval",
    )
    role_arn = serializers.CharField(source="decision.obligations.role_arn", help_text="IAM role of the session")
    shell_user = serializers.CharField(source="decision.obligations.shell_user", help_text="OS user that it gives")
    needs_moderator = serializers.BooleanField(source="decision.obligations.needs_moderator")
    cannot_see = serializers.CharField(help_text="why the pages do not get them there; empty if they do")
    hidden = serializers.CharField(help_text="how they get there, if no list of theirs shows it")
    others = serializers.IntegerField(allow_null=True, help_text="how many others may; null: not counted")
    said = PartSerializer(many=True, help_text="rules that apply")
    silent = PartSerializer(many=True, help_text="rules that do not")

    def get_reasons(self, answer: questions.Answer) -> list[str]:
        return [reason.text for reason in answer.decision.reasons]


class Simulate(ApiView):
    """What the rules would say."""

    scopes = {"GET": READ}
    permissions = {"GET": SEE}

    @extend_schema(
        operation_id="policy_simulate",
        parameters=[
            OpenApiParameter("person", str, required=True, description="A username."),
            OpenApiParameter("deed", str, required=True, enum=DEED_NAMES),
            OpenApiParameter("instance", str, description="`id`, AWS's id, or name. Empty: on none in particular."),
            OpenApiParameter("at", OpenApiTypes.DATETIME, description="Left out: now."),
            OpenApiParameter("address", str, description="From where, as 192.0.2.7."),
            OpenApiParameter("owner", str, enum=["other", "own"], description="Whose the session is."),
            OpenApiParameter("document", str),
            OpenApiParameter("run_as", str, description="The OS user."),
            OpenApiParameter("destination", str, description="Of a forwarded port, as db.internal:5432."),
            OpenApiParameter("has_mfa", bool, description="They logged in with a second factor."),
            OpenApiParameter("has_reason", bool, description="They say why."),
            OpenApiParameter("approvals", int, description="So many others approved it."),
        ],
        responses=AnswerSerializer,
    )
    def get(self, request):
        """May this person do that there, and why? What is left out is not known to the rules. Nothing is changed."""
        given = request.query_params.dict()
        if unknown := given.keys() - SimulateForm.base_fields.keys():
            raise ValidationError({name: ["There is no such parameter here."] for name in unknown})
        # A form takes any word in a box for a tick.
        form = SimulateForm(given | {name: flag_in(request, name) or False for name in ("has_mfa", "has_reason")})
        if not form.is_valid():
            raise ValidationError(form.errors)
        answer = questions.ask(form.cleaned_data, by=request.user)
        if not isinstance(answer, questions.Answer):
            asked = form.cleaned_data["instance"]
            fitting = ", ".join(f"{each.facts.name or each.facts.instance_id} ({each.key})" for each in answer)
            text = f"Several fit; send the id of one: {fitting}." if fitting else f"You see no instance “{asked}”."
            raise ValidationError({"instance": [text]})
        return Response(AnswerSerializer(answer).data)


def _rule(pk) -> Rule:
    return get_object_or_404(Rule.objects.prefetch_related("users", "groups", "approvers"), pk=pk)


def _shown(request, rule: Rule) -> dict:
    return RuleSerializer(rule, context={"request": request}).data


urlpatterns = [
    path("policy/rules/", Rules.as_view(), name="rules"),
    path("policy/rules/<uuid:pk>/", OneRule.as_view(), name="rule"),
    path("policy/rules/<uuid:pk>/enabled/", EnableRule.as_view(), name="enable_rule"),
    path("policy/history/", Revisions.as_view(), name="rule_history"),
    path("policy/simulate/", Simulate.as_view(), name="simulate"),
]
