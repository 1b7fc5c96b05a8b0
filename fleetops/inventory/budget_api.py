"""The API budget over the API: the buckets of AWS calls, and the ceilings that people set."""

from urllib.parse import urlencode

from django.shortcuts import get_object_or_404
from django.urls import path
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import exceptions, generics, serializers
from rest_framework.response import Response

from fleetops.aws.governor import Priority
from fleetops.clock import now
from fleetops.identity.rest import ApiView, Asked, Cursor

from . import budget as shaping
from . import ceilings as services
from .budget import Bucket, Filter, State
from .budget_facts import facts_for
from .models import Account, CallCeiling

SEE, CHANGE = ("inventory.view_account",), ("inventory.change_account",)


class GovernorAway(exceptions.APIException):
    """Nothing is counted now."""

    status_code = 503


class WaitingSerializer(serializers.Serializer):
    """Calls that wait at this moment."""

    person = serializers.IntegerField()
    run = serializers.IntegerField()
    poll = serializers.IntegerField()


class CeilingSerializer(serializers.Serializer):
    """How often at most an operation is called, as a person has said."""

    per_second = serializers.FloatField(help_text="calls a second")
    set_by = serializers.CharField()
    set_at = serializers.DateTimeField()


class BucketSerializer(serializers.Serializer):
    """The calls of one operation in one region of one account."""

    account_id = serializers.CharField()
    account_name = serializers.CharField(source="account")
    region = serializers.CharField(help_text="“global” for IAM")
    operation = serializers.CharField(help_text="as IAM writes it: ssm:StartSession")
    state = serializers.ChoiceField(choices=[state.value for state in State])
    per_second = serializers.FloatField(help_text="calls a second, on the average of the last 60 s")
    allowed_per_second = serializers.FloatField(source="allowed", help_text="that are let through now")
    most_per_second = serializers.FloatField(source="ceiling", help_text="that may be let through, if AWS takes them")
    waiting = serializers.SerializerMethodField()
    calls_last_hour = serializers.SerializerMethodField()
    throttled_last_hour = serializers.SerializerMethodField()
    ceiling = CeilingSerializer(source="limit", allow_null=True, help_text="a person’s; null: none is set")
    is_in_force = serializers.BooleanField(source="is_told", help_text="the governor goes by `ceiling`")

    @extend_schema_field(WaitingSerializer)
    def get_waiting(self, bucket: Bucket) -> dict[str, int]:
        return {each.value: bucket.waiting.get(each, 0) for each in Priority}

    def get_calls_last_hour(self, bucket: Bucket) -> int:
        return sum(map(shaping.calls, bucket.minutes))

    def get_throttled_last_hour(self, bucket: Bucket) -> int:
        return sum(minute.throttled for minute in bucket.minutes)


class CallCeilingSerializer(serializers.ModelSerializer):
    """A ceiling, and whether the governor has been told of it."""

    account_id = serializers.CharField(source="account.account_id")
    is_told = serializers.SerializerMethodField(help_text="false: Valkey does not answer; told as soon as it does")

    class Meta:
        model = CallCeiling
        fields = ("account_id", "region", "operation", "per_second", "set_by", "set_at", "is_told")
        read_only_fields = fields

    def get_is_told(self, ceiling: CallCeiling) -> bool:
        return ceiling.told_at is not None


class Wanted(Asked):
    """A ceiling to set."""

    per_second = serializers.FloatField(help_text="calls a second, 0.1 to 1000")


class BucketCursor(Cursor):
    """By place: a bucket is no row, and its account, region and operation are what stays of it."""

    def paginate_queryset(self, queryset, request, view=None) -> list[Bucket]:
        self.size = self._size(request.query_params.get("page_size", ""))
        after = request.query_params.get("after", "")
        left = sorted((each for each in queryset if _place(each) > after), key=_place)
        rows, self.next = left[: self.size], None
        if len(left) > self.size:
            query = {**request.query_params.dict(), "after": _place(rows[-1])}
            self.next = request.build_absolute_uri(f"{request.path}?{urlencode(query)}")
        return rows


def _place(bucket: Bucket) -> str:
    return f"{bucket.account_id} {bucket.region} {bucket.operation}"


class Buckets(ApiView, generics.ListAPIView):
    """The buckets that were called in the last hour or have a ceiling, by account, region and operation."""

    scopes = {"GET": "budget:read"}
    permissions = {"GET": SEE}
    serializer_class = BucketSerializer
    pagination_class = BucketCursor

    @extend_schema(
        operation_id="api_budget_list",
        parameters=[
            OpenApiParameter("q", str, description="As on the page: words, `account:…`, `operation:…` and so on."),
            OpenApiParameter("account", str, description="An account's number."),
            OpenApiParameter("region", str, description="A region, or its beginning: `eu`."),
            OpenApiParameter("operation", str, description="As IAM writes it, or a part of it."),
            OpenApiParameter("state", str, enum=[state.value for state in State]),
        ],
    )
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        given = self.request.query_params
        terms = [f"{key}:{given[key]}" for key in shaping.KEYS if given.get(key)]
        asked = Filter.of(" ".join([given.get("q", ""), *terms]))
        facts = facts_for(self.request.user)
        if facts.away:
            raise GovernorAway(facts.away)
        return [each for each in facts.buckets if asked.holds(each)]


class Ceiling(ApiView):
    """The ceiling of one operation in one region of one account."""

    scopes = {"PUT": "budget:write", "DELETE": "budget:write"}
    permissions = {"PUT": CHANGE, "DELETE": CHANGE}

    @extend_schema(operation_id="api_budget_set_ceiling", request=Wanted, responses=CallCeilingSerializer)
    def put(self, request, account_id, region, operation):
        account = self._account(request, account_id)
        per_second = Wanted.of(request)["per_second"]
        ceiling = services.set_ceiling(account, region, operation, per_second, actor=request.user, now=now())
        ceiling.refresh_from_db()
        return Response(CallCeilingSerializer(ceiling).data)

    @extend_schema(operation_id="api_budget_take_ceiling_away", responses={204: None})
    def delete(self, request, account_id, region, operation):
        visible = CallCeiling.objects.visible_to(request.user).in_force().select_related("account")
        ceiling = get_object_or_404(visible, account__account_id=account_id, region=region, operation=operation)
        services.take_away(ceiling, actor=request.user, now=now())
        return Response(status=204)

    def _account(self, request, account_id: str) -> Account:
        return get_object_or_404(Account.objects.visible_to(request.user), account_id=account_id)


urlpatterns = [
    path("api-budget/", Buckets.as_view(), name="budget"),
    path("api-budget/<str:account_id>/<str:region>/<str:operation>/ceiling/", Ceiling.as_view(), name="budget_ceiling"),
]
