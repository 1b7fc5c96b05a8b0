"""Notices over the API: what was told and what came of it, the channels, and silences. No answer has a secret."""

from datetime import timedelta

from django.db.models import Count, Max, Q
from django.shortcuts import get_object_or_404
from django.urls import path
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework import generics, serializers
from rest_framework.exceptions import ValidationError
from rest_framework.response import Response

from fleetops.clock import now
from fleetops.identity.rest import ApiView, Asked, choice_in, flag_in

from . import services
from .models import Channel, ChannelKind, Delivery, DeliveryState, Notice, Silence
from .topics import EVERYTHING, SEVERITIES, TOPICS

READ, WRITE = "notices:read", "notices:write"
SEE, CHANGE = ("notify.view_channel",), ("notify.change_channel",)
MOST_HOURS = 720
CARRIED = (EVERYTHING, *TOPICS)


class DeliverySerializer(serializers.ModelSerializer):
    """One notice on one channel."""

    channel = serializers.UUIDField(source="channel_id", read_only=True)
    channel_name = serializers.CharField(source="channel.name", read_only=True)
    notice = serializers.UUIDField(source="notice_id", read_only=True)
    state = serializers.ChoiceField(choices=DeliveryState.choices, read_only=True)
    next_at = serializers.DateTimeField(read_only=True, help_text="when it is tried next, while it is pending")

    class Meta:
        model = Delivery
        fields = (
            "id",
            "notice",
            "channel",
            "channel_name",
            "is_end",
            "state",
            "attempts",
            "next_at",
            "give_up_at",
            "sent_at",
            "error",
        )
        read_only_fields = fields


class NoticeSerializer(serializers.ModelSerializer):
    """One thing that people should know, and what came of telling them."""

    severity = serializers.ChoiceField(choices=list(SEVERITIES), read_only=True)
    topic = serializers.CharField(read_only=True)
    is_open = serializers.SerializerMethodField(help_text="it is not over")
    deliveries = DeliverySerializer(many=True, read_only=True)
    url = serializers.SerializerMethodField(help_text="the page that shows what it is about; empty if there is none")

    class Meta:
        model = Notice
        fields = (
            "id",
            "topic",
            "severity",
            "title",
            "text",
            "account_id",
            "region",
            "created_at",
            "repeats",
            "last_at",
            "closed_at",
            "is_open",
            "silenced_by",
            "deliveries",
            "url",
        )
        read_only_fields = fields

    def get_is_open(self, notice: Notice) -> bool:
        return notice.closed_at is None

    def get_url(self, notice: Notice) -> str:
        return self.context["request"].build_absolute_uri(notice.url) if notice.url else ""


class Notices(ApiView, generics.ListAPIView):
    """Notices, the newest first, with what came of each delivery."""

    scopes = {"GET": READ}
    permissions = {"GET": SEE}
    serializer_class = NoticeSerializer
    queryset = Notice.objects.none()

    @extend_schema(
        parameters=[
            OpenApiParameter("open", bool, description="Not over yet, or over."),
            OpenApiParameter("topic", str, enum=list(TOPICS)),
            OpenApiParameter("severity", str, enum=list(SEVERITIES)),
        ]
    )
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        found = Notice.objects.visible_to(self.request.user).prefetch_related("deliveries__channel")
        if (is_open := flag_in(self.request, "open")) is not None:
            found = found.filter(closed_at__isnull=is_open)
        for name, values in (("topic", TOPICS), ("severity", SEVERITIES)):
            if value := choice_in(self.request, name, values):
                found = found.filter(**{name: value})
        return found


class OneNotice(ApiView):
    """One notice."""

    scopes = {"GET": READ}
    permissions = {"GET": SEE}

    @extend_schema(operation_id="notices_get", responses=NoticeSerializer)
    def get(self, request, pk):
        found = Notice.objects.visible_to(request.user).prefetch_related("deliveries__channel")
        return Response(NoticeSerializer(get_object_or_404(found, pk=pk), context={"request": request}).data)


# --- Channels --------------------------------------------------------------------------------------------------------


class ChannelSerializer(serializers.ModelSerializer):
    """A way to reach people. Of a webhook only the host is told: whoever has its address may send, too."""

    kind = serializers.ChoiceField(choices=ChannelKind.choices, read_only=True)
    topic = serializers.CharField(read_only=True, help_text="what it carries; * for everything")
    severity = serializers.ChoiceField(choices=list(SEVERITIES), read_only=True, help_text="the least it carries")
    waiting = serializers.IntegerField(read_only=True, help_text="deliveries that are still to be sent")
    failed = serializers.IntegerField(read_only=True)
    last_sent_at = serializers.DateTimeField(read_only=True, allow_null=True)
    url = serializers.SerializerMethodField(help_text="its page")

    class Meta:
        model = Channel
        fields = (
            "id",
            "name",
            "kind",
            "address",
            "topic",
            "severity",
            "enabled",
            "created_at",
            "waiting",
            "failed",
            "last_sent_at",
            "url",
        )
        read_only_fields = fields

    def get_url(self, channel: Channel) -> str:
        return self.context["request"].build_absolute_uri(channel.get_absolute_url())


class ChangeChannelSerializer(Asked):
    """What of a channel can be changed: another address is another channel."""

    topic = serializers.ChoiceField(choices=CARRIED)
    severity = serializers.ChoiceField(choices=SEVERITIES)
    enabled = serializers.BooleanField()


class NewChannelSerializer(Asked):
    """A channel to be made."""

    name = serializers.CharField(max_length=80)
    kind = serializers.ChoiceField(choices=ChannelKind.choices)
    address = serializers.CharField(
        max_length=1000,
        write_only=True,
        help_text="e-mail addresses with commas, the webhook's URL, or the topic's ARN",
    )
    key = serializers.CharField(
        min_length=services.LEAST_KEY,
        max_length=256,
        required=False,
        write_only=True,
        help_text="of a signed webhook: with which its receiver checks the signature",
    )
    topic = serializers.ChoiceField(choices=CARRIED, required=False)
    severity = serializers.ChoiceField(choices=SEVERITIES, required=False)

    def validate(self, given):
        if given["kind"] == ChannelKind.WEBHOOK and not given.get("key"):
            raise ValidationError(
                {
                    "key": [
                        "Send the key with which notices are signed: the receiver has to know it, and no answer tells."
                    ]
                }
            )
        return given


class Channels(ApiView, generics.ListAPIView):
    """The channels, the newest first."""

    scopes = {"GET": READ, "POST": WRITE}
    permissions = {"GET": SEE, "POST": CHANGE}
    serializer_class = ChannelSerializer
    queryset = Channel.objects.none()

    def get_queryset(self):
        return _channels(self.request)

    @extend_schema(
        operation_id="channels_create",
        request=NewChannelSerializer,
        responses={201: ChannelSerializer},
        examples=[
            OpenApiExample(
                "Mail",
                {"name": "On-call", "kind": "email", "address": "oncall@example.com", "severity": "warning"},
                request_only=True,
            )
        ],
    )
    def post(self, request):
        """Make a channel. Neither a webhook's address nor its key is in any answer."""
        channel, _ = services.create_channel(actor=request.user, **NewChannelSerializer.of(request))
        return Response(_shown(request, channel.pk), status=201)


class OneChannel(ApiView):
    """One channel."""

    scopes = {"GET": READ, "PATCH": WRITE, "DELETE": WRITE}
    permissions = {"GET": SEE, "PATCH": CHANGE, "DELETE": CHANGE}

    @extend_schema(operation_id="channels_get", responses=ChannelSerializer)
    def get(self, request, pk):
        return Response(_shown(request, pk))

    @extend_schema(
        operation_id="channels_change", request=ChangeChannelSerializer(partial=True), responses=ChannelSerializer
    )
    def patch(self, request, pk):
        """Change what it carries, or switch it off and on."""
        channel = _channel(request, pk)
        kept = {name: getattr(channel, name) for name in ("topic", "severity", "enabled")}
        services.change_channel(
            channel, actor=request.user, **(kept | ChangeChannelSerializer.of(request, partial=True))
        )
        return Response(_shown(request, pk))

    @extend_schema(operation_id="channels_delete", responses={204: None})
    def delete(self, request, pk):
        """Delete it, with what was still to be sent by it."""
        services.delete_channel(_channel(request, pk), actor=request.user)
        return Response(status=204)


class SendTest(ApiView):
    """A test of a channel."""

    scopes = {"POST": WRITE}
    permissions = {"POST": CHANGE}

    @extend_schema(operation_id="channels_test", request=None, responses={202: NoticeSerializer})
    def post(self, request, pk):
        """Have a worker send a notice by this channel alone; its delivery tells what came of it."""
        notice = services.send_test(_channel(request, pk), actor=request.user)
        return Response(NoticeSerializer(notice, context={"request": request}).data, status=202)


class SendAgain(ApiView):
    """A delivery that failed."""

    scopes = {"POST": WRITE}
    permissions = {"POST": CHANGE}

    @extend_schema(operation_id="deliveries_again", request=None, responses={202: DeliverySerializer})
    def post(self, request, pk):
        """Put it back into the outbox."""
        visible = Delivery.objects.visible_to(request.user).select_related("channel", "notice")
        delivery = get_object_or_404(visible, pk=pk)
        services.send_again(delivery, actor=request.user)
        return Response(DeliverySerializer(get_object_or_404(visible, pk=pk)).data, status=202)


# --- Silences --------------------------------------------------------------------------------------------------------


class SilenceSerializer(serializers.ModelSerializer):
    """While it lasts, notices that fit are kept and not sent."""

    topic = serializers.CharField(read_only=True, help_text="* for everything")
    created_by = serializers.CharField(source="created_by_name", read_only=True)
    holds = serializers.SerializerMethodField()

    class Meta:
        model = Silence
        fields = ("id", "topic", "match", "reason", "until", "holds", "created_at", "created_by")
        read_only_fields = fields

    def get_holds(self, silence: Silence) -> bool:
        return now() < silence.until


class NewSilenceSerializer(Asked):
    """What is to be silent, why, and for how long."""

    topic = serializers.ChoiceField(choices=CARRIED)
    match = serializers.CharField(
        max_length=200, required=False, allow_blank=True, default="", help_text="part of the title; empty: any"
    )
    reason = serializers.CharField(max_length=256)
    hours = serializers.IntegerField(min_value=1, max_value=MOST_HOURS)


class Silences(ApiView, generics.ListAPIView):
    """Silences, the newest first, those that are over too."""

    scopes = {"GET": READ, "POST": WRITE}
    permissions = {"GET": SEE, "POST": CHANGE}
    serializer_class = SilenceSerializer
    queryset = Silence.objects.none()

    @extend_schema(parameters=[OpenApiParameter("holds", bool, description="In force, or over.")])
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        found = Silence.objects.visible_to(self.request.user)
        if (holds := flag_in(self.request, "holds")) is not None:
            in_force = Q(until__gt=now())
            found = found.filter(in_force if holds else ~in_force)
        return found

    @extend_schema(
        operation_id="silences_add",
        request=NewSilenceSerializer,
        responses={201: SilenceSerializer},
        examples=[
            OpenApiExample(
                "For the night",
                {"topic": "inventory.region", "match": "eu-west-1", "reason": "AWS works on it", "hours": 12},
                request_only=True,
            )
        ],
    )
    def post(self, request):
        """Keep what fits from being sent; it is listed all the same."""
        given = NewSilenceSerializer.of(request)
        until = now() + timedelta(hours=given.pop("hours"))
        silence = services.add_silence(actor=request.user, until=until, **given)
        return Response(SilenceSerializer(silence).data, status=201)


class EndSilence(ApiView):
    """The end of a silence."""

    scopes = {"POST": WRITE}
    permissions = {"POST": CHANGE}

    @extend_schema(operation_id="silences_end", request=None, responses=SilenceSerializer)
    def post(self, request, pk):
        """End it now; what fell into it stays unsent. Ending one that is over does nothing."""
        silence = get_object_or_404(Silence.objects.visible_to(request.user), pk=pk)
        services.end_silence(silence, actor=request.user)
        silence.refresh_from_db()
        return Response(SilenceSerializer(silence).data)


def _channels(request):
    return Channel.objects.visible_to(request.user).annotate(
        failed=Count("deliveries", filter=Q(deliveries__state=DeliveryState.FAILED)),
        waiting=Count("deliveries", filter=Q(deliveries__state=DeliveryState.PENDING)),
        last_sent_at=Max("deliveries__sent_at"),
    )


def _channel(request, pk) -> Channel:
    return get_object_or_404(_channels(request), pk=pk)


def _shown(request, pk) -> dict:
    return ChannelSerializer(_channel(request, pk), context={"request": request}).data


urlpatterns = [
    path("notices/", Notices.as_view(), name="notices"),
    path("notices/<uuid:pk>/", OneNotice.as_view(), name="notice"),
    path("notices/channels/", Channels.as_view(), name="channels"),
    path("notices/channels/<uuid:pk>/", OneChannel.as_view(), name="channel"),
    path("notices/channels/<uuid:pk>/test/", SendTest.as_view(), name="test_channel"),
    path("notices/deliveries/<uuid:pk>/again/", SendAgain.as_view(), name="send_again"),
    path("notices/silences/", Silences.as_view(), name="silences"),
    path("notices/silences/<uuid:pk>/end/", EndSilence.as_view(), name="end_silence"),
]
