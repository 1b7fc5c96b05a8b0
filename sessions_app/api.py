"""Terminal sessions over the API: list them, open one, end one, look through a recording, take it away.

Where the policy wants to know why, the answer to a call without a reason is a 400 that says so, and nothing is audited:
it is no refusal yet.
"""

from django.core.exceptions import ValidationError as DjangoValidationError
from django.shortcuts import get_object_or_404
from django.urls import path
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import generics, serializers
from rest_framework.exceptions import ValidationError
from rest_framework.response import Response

from fleetops.errors import UserError
from fleetops.identity.models import ApiToken
from fleetops.identity.rest import ApiView, Asked
from fleetops.inventory.models import Instance

from . import downloads, exit_codes, grant_api, live, live_api, questions, recording, restricted_api, services
from .addresses import terminal_address
from .delivery import api as delivery_api
from .frontdoor import tokens
from .models import RecordingChunk, TerminalSession
from .states import Door, SessionKind, SessionState
from .transfers import api as transfer_api

# A file goes in the browser alone: transfers/views.py.
OPENED_KINDS = [kind for kind in SessionKind.values if kind != SessionKind.TRANSFER]


class PersonSerializer(serializers.Serializer):
    """Somebody at a live session."""

    name = serializers.CharField()
    mode = serializers.ChoiceField(choices=live.MODES, help_text="own: it is theirs; join: types too; watch")
    since = serializers.DateTimeField()


class SessionSerializer(serializers.ModelSerializer):
    """One Session Manager session."""

    user = serializers.CharField(source="user_name", read_only=True)
    instance = serializers.UUIDField(source="instance_row_id", read_only=True, allow_null=True)
    grant = serializers.UUIDField(source="grant_id", read_only=True, allow_null=True, help_text="that it was opened by")
    state = serializers.ChoiceField(choices=SessionState.choices, read_only=True)
    people = PersonSerializer(source="people_there", many=True, read_only=True, help_text="who is there now")
    is_whole = serializers.SerializerMethodField(help_text="ended, and its recording is sealed to its end")
    url = serializers.SerializerMethodField(help_text="its terminal, or its replay once it has ended")

    class Meta:
        model = TerminalSession
        fields = (
            "id",
            "user",
            "instance",
            "instance_id",
            "instance_name",
            "account_id",
            "region",
            "reason",
            "kind",
            "door",
            "document",
            "run_as",
            "no_marks",
            "grant",
            "deadline_at",
            "needs_moderator",
            "people",
            "state",
            "source_address",
            "created_at",
            "started_at",
            "ended_at",
            "end_reason",
            "end_requested_by",
            "output_bytes",
            "exit_code",
            "bytes_to_instance",
            "bytes_from_instance",
            "connections",
            "chain_head",
            "is_whole",
            "url",
        )
        read_only_fields = fields

    def get_is_whole(self, session: TerminalSession) -> bool:
        return session.sealed_at is not None

    def get_url(self, session: TerminalSession) -> str:
        return self.context["request"].build_absolute_uri(session.get_absolute_url())


WHY = OpenApiParameter("reason", str, description="Why, where the access policy wants to know.")


class OpenSerializer(serializers.Serializer):
    """On which instance to open a shell, and why."""

    instance = serializers.UUIDField(help_text="the instance's `id`")
    reason = serializers.CharField(max_length=256, required=False, allow_blank=True, default="")
    run_as = serializers.CharField(
        max_length=64, required=False, allow_blank=True, default="", help_text="OS user; empty: the usual one"
    )


class CarrySerializer(OpenSerializer):
    """On which instance to open what, and why."""

    kind = serializers.ChoiceField(choices=OPENED_KINDS, required=False, default=SessionKind.SHELL)
    command = serializers.CharField(
        max_length=8192, required=False, default="", help_text="of kind command: a line of sh"
    )
    host = serializers.CharField(
        max_length=256, required=False, allow_blank=True, default="", help_text="of kind forward; empty: the instance"
    )
    port = serializers.IntegerField(min_value=1, max_value=65535, required=False, help_text="of kind forward")
    document = serializers.CharField(
        max_length=128, required=False, allow_blank=True, default="", help_text="of kind shell: a restricted shell's"
    )
    parameters = serializers.DictField(
        child=serializers.CharField(max_length=1000, allow_blank=True, trim_whitespace=False),
        required=False,
        default=dict,
        help_text="of the document",
    )
    attach = serializers.BooleanField(
        required=False,
        default=False,
        help_text="the answer's `stream` lets a program in, once and within two minutes, in place of a browser",
    )

    def validate(self, attrs):
        if attrs["kind"] == SessionKind.COMMAND and not attrs["command"].strip():
            raise ValidationError({"command": ["Say what is to be run."]})
        if attrs["kind"] == SessionKind.FORWARD and not attrs.get("port"):
            raise ValidationError({"port": ["Say which port is forwarded."]})
        if attrs["document"] and attrs["kind"] != SessionKind.SHELL:
            raise ValidationError({"document": ["Only shells are opened by a document here."]})
        if attrs["parameters"] and not attrs["document"]:
            raise ValidationError({"parameters": ["Say of which document."]})
        if attrs["kind"] != SessionKind.SHELL and not attrs["attach"]:
            raise ValidationError({"attach": ["A browser has no place for this; send attach: true."]})
        return attrs

    def asked_for(self) -> tuple[str, dict[str, list[str]]]:
        """The session document that does what is asked, and its parameters."""
        given = self.validated_data
        if given["kind"] == SessionKind.COMMAND:
            return exit_codes.COMMAND_DOCUMENT, {"command": [exit_codes.telling(given["command"])]}
        if given["kind"] == SessionKind.FORWARD:
            port = {"portNumber": [str(given["port"])]}
            if host := given["host"].strip():
                return questions.TO_A_HOST, port | {"host": [host]}
            return questions.TO_THE_INSTANCE, port
        return given["document"], {name: [text] for name, text in given["parameters"].items()}


class StreamSerializer(serializers.Serializer):
    """The way into a session's data channel, as the session-manager-plugin takes it. The token is good once."""

    url = serializers.CharField()
    token = serializers.CharField()


class OpenedSerializer(SessionSerializer):
    """A new session; with `attach`, the way into it."""

    stream = serializers.SerializerMethodField()

    class Meta(SessionSerializer.Meta):
        fields = (*SessionSerializer.Meta.fields, "stream")
        read_only_fields = fields

    @extend_schema_field(StreamSerializer(allow_null=True))
    def get_stream(self, session: TerminalSession) -> dict | None:
        return self.context["stream"]


class EndSerializer(Asked):
    """Why it is ended, where the access policy wants to know."""

    reason = serializers.CharField(max_length=256, required=False, allow_blank=True, default="")


class ActivitySerializer(serializers.Serializer):
    """What happens in a recording: times in seconds from its start, sizes in bytes."""

    duration = serializers.FloatField()
    output_bytes = serializers.IntegerField()
    stored_bytes = serializers.IntegerField()
    chunks = serializers.IntegerField()
    is_live = serializers.BooleanField()
    is_complete = serializers.BooleanField(help_text="ended, and sealed to its end")
    chain_head = serializers.CharField()
    cols = serializers.IntegerField()
    rows = serializers.IntegerField()
    activity = serializers.ListField(
        child=serializers.ListField(child=serializers.FloatField()), help_text="[from, to, bytes] of each chunk"
    )
    markers = serializers.ListField(child=serializers.DictField(), help_text="changes of the terminal's size")
    markers_end = serializers.FloatField(allow_null=True, help_text="to where they were looked for; null: to the end")
    faults = serializers.ListField(child=serializers.CharField(), help_text="why it is not what was sealed, in words")


class HitSerializer(serializers.Serializer):
    """One line that bears what was looked for."""

    time = serializers.FloatField(help_text="seconds from the recording's start")
    text = serializers.CharField()


class FoundSerializer(serializers.Serializer):
    """Where something was shown."""

    q = serializers.CharField()
    hits = HitSerializer(many=True)
    has_more = serializers.BooleanField()


class Sessions(ApiView, generics.ListAPIView):
    """Sessions, the newest first: your own, or everybody's if you may review them."""

    scopes = {"GET": "sessions:read", "POST": "sessions:open"}
    serializer_class = SessionSerializer
    queryset = TerminalSession.objects.none()

    @extend_schema(
        parameters=[
            OpenApiParameter("state", str, enum=["live", "past"]),
            OpenApiParameter("user", str, description="A username."),
            OpenApiParameter("instance", OpenApiTypes.UUID, description="An instance's `id`."),
        ]
    )
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        asked = self.request.query_params
        found = TerminalSession.objects.visible_to(self.request.user)
        if state := asked.get("state", ""):
            if state not in {"live", "past"}:
                raise ValidationError({"state": ["Write live or past."]})
            live = [SessionState.OPENING, SessionState.OPEN]
            found = found.filter(state__in=live) if state == "live" else found.exclude(state__in=live)
        if user := asked.get("user", ""):
            found = found.filter(user_name=user.replace("\x00", ""))
        if instance := asked.get("instance", ""):
            try:
                found = found.filter(instance_row_id=instance)
            except (DjangoValidationError, ValueError):
                raise ValidationError({"instance": ["This is no instance's id."]}) from None
        return found

    @extend_schema(operation_id="sessions_open", request=CarrySerializer, responses={201: OpenedSerializer})
    def post(self, request):
        """Open a session. It begins when its owner opens `url` in a browser that is logged in to FleetOps; with
        `attach`, when their program opens `stream`."""
        asked = CarrySerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        given = asked.validated_data
        if given["attach"]:
            _bearer(request)
        visible = Instance.objects.visible_to(request.user).select_related("account", "region")
        instance = get_object_or_404(visible, pk=given["instance"])
        document, parameters = asked.asked_for()
        session = services.open_session(
            instance,
            actor=request.user,
            reason=given["reason"],
            run_as=given["run_as"].strip(),
            kind=SessionKind(given["kind"]),
            door=Door.CLI if given["attach"] else Door.BROWSER,
            document=document,
            parameters=parameters,
        )
        context = {"request": request, "stream": _stream(request, session) if given["attach"] else None}
        return Response(OpenedSerializer(session, context=context).data, status=201)


class SessionStream(ApiView):
    """The way back into a session of one's own that a program attached to."""

    scopes = {"POST": "sessions:open"}
    permissions = {"POST": ("sessions_app.open_terminalsession",)}

    @extend_schema(operation_id="sessions_stream", request=None, responses={201: StreamSerializer})
    def post(self, request, pk):
        """A new token for the stream, for a program that lost its connection."""
        mine = TerminalSession.objects.filter(user_id=request.user.pk, door=Door.CLI)
        session = get_object_or_404(mine, pk=pk)
        _bearer(request)
        if not session.is_live:
            raise UserError(session.end_reason or "The session is over.")
        return Response(_stream(request, session), status=201)


def _bearer(request) -> ApiToken:
    if not isinstance(request.auth, ApiToken):
        raise UserError("A program attaches with a token of its own; the pages' log-in opens terminals in the browser.")
    return request.auth


def _stream(request, session: TerminalSession) -> dict[str, str]:
    word = tokens.make(session, _bearer(request), is_ours=True)
    return {"url": f"{terminal_address(request)}/aws/stream/{session.pk}", "token": word}


class Session(ApiView):
    """One session."""

    scopes = {"GET": "sessions:read"}

    @extend_schema(operation_id="sessions_get", responses=SessionSerializer)
    def get(self, request, pk):
        session = get_object_or_404(TerminalSession.objects.visible_to(request.user), pk=pk)
        return Response(SessionSerializer(session, context={"request": request}).data)


class EndSession(ApiView):
    """The end of a session."""

    scopes = {"POST": "sessions:end"}

    @extend_schema(operation_id="sessions_end", request=EndSerializer, responses={202: SessionSerializer})
    def post(self, request, pk):
        """Ask for the end: your own session's, or anybody's with the permission. The shell is gone within seconds."""
        session = get_object_or_404(services.endable_by(request.user), pk=pk)
        services.request_end(session, actor=request.user, reason=EndSerializer.of(request)["reason"])
        return Response(SessionSerializer(session, context={"request": request}).data, status=202)


class Recording(ApiView):
    """The recording of a session."""

    scopes = {"GET": "recordings:read"}

    @extend_schema(
        operation_id="sessions_recording",
        parameters=[
            OpenApiParameter("version", int, enum=[2, 3], description="Of the asciicast format; 2 if left out."),
            WHY,
        ],
        responses={(200, "application/x-asciicast"): OpenApiTypes.BINARY},
    )
    def get(self, request, pk):
        """Download it as an asciicast, as far as it is sealed. That is audited."""
        version = 3 if request.query_params.get("version") == "3" else 2
        session, chunks = _recorded(request, pk)
        return downloads.download(session, chunks, actor=request.user, version=version, reason=_reason(request))


class Replay(ApiView):
    """What there is to see in a recording."""

    scopes = {"GET": "recordings:read"}

    @extend_schema(operation_id="sessions_replay", parameters=[WHY], responses=ActivitySerializer)
    def get(self, request, pk):
        """Its length, what happens when, and whether it is what was sealed. That somebody looked is audited."""
        session, chunks = _recorded(request, pk)
        services.record_view(session, actor=request.user, reason=_reason(request))
        found = recording.index(session, chunks) | {"faults": recording.verify(session).faults}
        return Response(ActivitySerializer(found).data)


class SearchRecording(ApiView):
    """What was shown in a recording."""

    scopes = {"GET": "recordings:read"}

    @extend_schema(
        operation_id="sessions_search",
        parameters=[OpenApiParameter("q", str, required=True, description="In upper or lower case."), WHY],
        responses=FoundSerializer,
    )
    def get(self, request, pk):
        """Where `q` was shown, line by line; at most 200 hits. A look, which is audited once an hour."""
        wanted = request.query_params.get("q", "")[:200]
        if not wanted:
            raise ValidationError({"q": ["Write what is to be looked for."]})
        session, chunks = _recorded(request, pk)
        services.record_look(session, actor=request.user, reason=_reason(request))
        hits, has_more = recording.search(chunks, wanted)
        return Response(FoundSerializer({"q": wanted, "hits": hits, "has_more": has_more}).data)


def _recorded(request, pk) -> tuple[TerminalSession, list[RecordingChunk]]:
    session = get_object_or_404(TerminalSession.objects.visible_to(request.user), pk=pk)
    return session, list(session.chunks.order_by("number"))


def _reason(request) -> str:
    return services.one_line(request.query_params.get("reason", ""))


urlpatterns = [
    *grant_api.urlpatterns,
    *delivery_api.urlpatterns,
    *live_api.urlpatterns,
    *restricted_api.urlpatterns,
    *transfer_api.urlpatterns,
    path("sessions/", Sessions.as_view(), name="sessions"),
    path("sessions/<uuid:pk>/", Session.as_view(), name="session"),
    path("sessions/<uuid:pk>/stream/", SessionStream.as_view(), name="session_stream"),
    path("sessions/<uuid:pk>/end/", EndSession.as_view(), name="end_session"),
    path("sessions/<uuid:pk>/recording/", Recording.as_view(), name="recording"),
    path("sessions/<uuid:pk>/replay/", Replay.as_view(), name="replay"),
    path("sessions/<uuid:pk>/search/", SearchRecording.as_view(), name="search_recording"),
]
