"""Requests for approval over the API: read them, answer them, take one's own back."""

from django.db.models import Count, Q
from django.shortcuts import get_object_or_404
from django.urls import path
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework import generics, serializers
from rest_framework.response import Response

from fleetops.clock import now
from fleetops.identity.rest import ApiView, Asked, choice_in

from . import services
from .models import ApprovalRequest, Vote
from .states import OPEN_STATES, ApprovalState

READ, WRITE = "approvals:read", "approvals:write"
SHOWS = ("waiting", "mine", "all")


class VoteSerializer(serializers.ModelSerializer):
    """What one person said."""

    user = serializers.CharField(source="user_name", read_only=True)

    class Meta:
        model = Vote
        fields = ("user", "approves", "reason", "at")
        read_only_fields = fields


class RequestSerializer(serializers.ModelSerializer):
    """One deed that waits for the leave of others."""

    requested_by = serializers.CharField(source="requested_by_name", read_only=True)
    state = serializers.SerializerMethodField(help_text="expired also while no worker has written that down yet")
    approvals = serializers.IntegerField(source="yes", read_only=True, help_text="so many of `quorum`")
    url = serializers.SerializerMethodField(help_text="its page")

    class Meta:
        model = ApprovalRequest
        fields = (
            "id",
            "deed",
            "summary",
            "subject_kind",
            "subject_id",
            "subject_name",
            "account_id",
            "region",
            "requested_by",
            "reason",
            "state",
            "approvals",
            "quorum",
            "created_at",
            "expires_at",
            "decided_at",
            "used_at",
            "url",
        )
        read_only_fields = fields

    def get_state(self, request: ApprovalRequest) -> str:
        is_over = request.state in OPEN_STATES and not request.is_open(now())
        return str(ApprovalState.EXPIRED if is_over else request.state)

    def get_url(self, request: ApprovalRequest) -> str:
        return self.context["request"].build_absolute_uri(request.get_absolute_url())


class RequestDetailSerializer(RequestSerializer):
    """One request with its answers, and what exactly is approved."""

    details = serializers.DictField(read_only=True, help_text="what will be done: this, and nothing else, is approved")
    approvers = serializers.SlugRelatedField("name", many=True, read_only=True, help_text="roles that may answer")
    votes = VoteSerializer(many=True, read_only=True)
    may_answer = serializers.SerializerMethodField(help_text="it waits for you")

    class Meta(RequestSerializer.Meta):
        fields = (*RequestSerializer.Meta.fields, "details", "approvers", "votes", "may_answer")
        read_only_fields = fields

    def get_may_answer(self, request: ApprovalRequest) -> bool:
        user = self.context["request"].user
        return ApprovalRequest.objects.waiting_for(user, now()).filter(pk=request.pk).exists()


class AnswerRequestSerializer(Asked):
    """Yes or no, and why."""

    answer = serializers.ChoiceField(choices=["approve", "deny"])
    reason = serializers.CharField(max_length=512, required=False, allow_blank=True, default="")


class Requests(ApiView, generics.ListAPIView):
    """Requests for approval, the newest first: your own, those that you may answer, or all if you may read them."""

    scopes = {"GET": READ}
    serializer_class = RequestSerializer
    queryset = ApprovalRequest.objects.none()

    @extend_schema(
        parameters=[
            OpenApiParameter("show", str, enum=SHOWS, description="`waiting`: for your answer; `mine`: asked by you."),
            OpenApiParameter("state", str, enum=ApprovalState.values),
        ]
    )
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        user, moment = self.request.user, now()
        show = choice_in(self.request, "show", SHOWS)
        if show == "waiting":
            found = ApprovalRequest.objects.waiting_for(user, moment)
        else:
            found = ApprovalRequest.objects.visible_to(user)
        if show == "mine":
            found = found.filter(requested_by_id=user.pk)
        state = choice_in(self.request, "state", ApprovalState.values)
        if state in OPEN_STATES:
            found = found.filter(state=state, expires_at__gt=moment)
        elif state == ApprovalState.EXPIRED:
            found = found.filter(Q(state=state) | Q(state__in=OPEN_STATES, expires_at__lte=moment))
        elif state:
            found = found.filter(state=state)
        return _counted(found)


class OneRequest(ApiView):
    """One request."""

    scopes = {"GET": READ}

    @extend_schema(operation_id="approvals_get", responses=RequestDetailSerializer)
    def get(self, request, pk):
        return Response(_shown(request, _request(request, pk)))


class AnswerRequest(ApiView):
    """An answer to a request."""

    scopes = {"POST": WRITE}

    @extend_schema(
        operation_id="approvals_vote",
        request=AnswerRequestSerializer,
        responses=RequestDetailSerializer,
        examples=[
            OpenApiExample("Yes", {"answer": "approve"}, request_only=True),
            OpenApiExample("No", {"answer": "deny", "reason": "Not before the weekend."}, request_only=True),
        ],
    )
    def post(self, request, pk):
        """Say yes or no, once: nobody answers what they ask for themselves. To deny takes a reason."""
        found = _request(request, pk)
        given = AnswerRequestSerializer.of(request)
        services.vote(found.pk, actor=request.user, approve=given["answer"] == "approve", reason=given["reason"])
        return Response(_shown(request, _request(request, pk)))


class WithdrawRequest(ApiView):
    """The end of one's own request."""

    scopes = {"POST": WRITE}

    @extend_schema(operation_id="approvals_withdraw", request=None, responses=RequestDetailSerializer)
    def post(self, request, pk):
        """Take back what you asked for yourself."""
        services.withdraw(_request(request, pk).pk, actor=request.user)
        return Response(_shown(request, _request(request, pk)))


def _counted(found):
    return found.annotate(yes=Count("votes", filter=Q(votes__approves=True), distinct=True))


def _request(request, pk) -> ApprovalRequest:
    return get_object_or_404(_counted(ApprovalRequest.objects.visible_to(request.user)), pk=pk)


def _shown(request, found: ApprovalRequest) -> dict:
    return RequestDetailSerializer(found, context={"request": request}).data


urlpatterns = [
    path("approvals/", Requests.as_view(), name="approvals"),
    path("approvals/<uuid:pk>/", OneRequest.as_view(), name="approval"),
    path("approvals/<uuid:pk>/vote/", AnswerRequest.as_view(), name="vote"),
    path("approvals/<uuid:pk>/withdraw/", WithdrawRequest.as_view(), name="withdraw"),
]
