"""The command log over the API."""

from django.urls import path
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics, serializers
from rest_framework.exceptions import ValidationError
from rest_framework.negotiation import DefaultContentNegotiation

from fleetops.identity.rest import ApiView, Cursor

from . import command_search
from .models import Command
from .states import CommandSource

LOOKED_FOR = [
    OpenApiParameter("q", str, description="Stands in the text, in upper or lower case."),
    OpenApiParameter("user", str, description="The name of whose session it was."),
    OpenApiParameter("instance", str, description="The instance's AWS id, or a part of its name."),
    OpenApiParameter("account", str, description="The AWS account's id."),
    OpenApiParameter("source", str, enum=CommandSource.values, description="Who says that it was run."),
    OpenApiParameter("failed", str, enum=["1"], description="Only those with an exit code other than 0."),
    OpenApiParameter("disputed", str, enum=["1"], description="Only those on which screen and shell disagree."),
    OpenApiParameter("since", str, enum=list(command_search.SINCE), description="Not older than that."),
    OpenApiParameter("session", str, description="The `id` of a session."),
]


class SessionCommandSerializer(serializers.ModelSerializer):
    """One command of a session, or a notice of a forged mark, which is none."""

    user = serializers.CharField(source="user_name", read_only=True)
    session = serializers.UUIDField(source="session_id", read_only=True)
    seconds = serializers.FloatField(read_only=True, help_text="from the start of the recording")
    url = serializers.SerializerMethodField(help_text="that instant of the replay")

    class Meta:
        model = Command
        fields = (
            *("id", "session", "number", "user", "instance_id", "instance_name", "account_id", "source", "text"),
            *("is_cut", "is_masked", "is_disputed", "dispute", "shown_text", "started_at", "ended_at", "exit_code"),
            *("cwd", "os_user", "seconds", "output_offset", "url"),
        )
        read_only_fields = fields

    def get_url(self, command: Command) -> str:
        return self.context["request"].build_absolute_uri(command.get_absolute_url())


class Readable(Cursor):
    """Without what the policy does not let the caller read: nor does `next` tell that there was something."""

    def paginate_queryset(self, queryset, request, view=None):
        reader = command_search.Reader(request.user)
        self.size, self.next = self._size(request.query_params.get("page_size", "")), None
        ordered = self.behind(queryset, request, view)
        found = command_search.first_readable(
            ordered, reader, self.size + 1, lambda last: ordered.filter(pk__lt=last.pk)
        )
        if len(found) > self.size:
            self.next = self.link(request, found[self.size - 1])
        return found[: self.size]


class Commands(ApiView, generics.ListAPIView):
    """Commands that were typed in sessions, in the order in which they were written down, the newest first."""

    scopes = {"GET": "recordings:read"}
    serializer_class = SessionCommandSerializer
    pagination_class = Readable
    queryset = Command.objects.none()

    @extend_schema(operation_id="session_commands", parameters=LOOKED_FOR)
    def get(self, request, *args, **kwargs):
        """Those of sessions that the caller may replay. A look, which is audited once an hour."""
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        return _found(self.request)

    def paginate_queryset(self, queryset):
        rows = super().paginate_queryset(queryset)
        command_search.note_look(self.request.user, rows, command_search.filters_of(self.request.query_params))
        return rows


class OwnFormat(DefaultContentNegotiation):
    """`format` is a word of this route; it does not choose how answers are written."""

    def select_renderer(self, request, renderers, format_suffix=None):
        return renderers[0], renderers[0].media_type


class ExportCommands(ApiView):
    """The same as a file."""

    scopes = {"GET": "recordings:read"}
    content_negotiation_class = OwnFormat

    @extend_schema(
        operation_id="session_commands_export",
        parameters=[
            OpenApiParameter("format", str, enum=list(command_search.TYPES), required=True),
            *LOOKED_FOR,
        ],
        responses={(200, "application/x-ndjson"): OpenApiTypes.BINARY, (200, "text/csv"): OpenApiTypes.BINARY},
    )
    def get(self, request):
        """Up to 50,000 commands, the newest first: JSON line by line, or CSV. Audited."""
        form = request.query_params.get("format", "")
        if form not in command_search.TYPES:
            raise ValidationError({"format": ["Write csv or json."]})
        reader = command_search.Reader(request.user)
        filters = command_search.filters_of(request.query_params)
        return command_search.export(_found(request), reader, form=form, filters=filters)


def _found(request):
    try:
        return command_search.found(request.user, command_search.filters_of(request.query_params))
    except ValueError:
        raise ValidationError({"detail": ["A filter has a value that is not known."]}) from None


urlpatterns = [
    path("sessions/commands/", Commands.as_view(), name="session_commands"),
    path("sessions/commands/export/", ExportCommands.as_view(), name="session_commands_export"),
]
