"""Commands over the API: plan one, start it, follow it, read what each instance told, cancel it, run it again."""

from django.shortcuts import get_object_or_404
from django.urls import path
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics, serializers
from rest_framework.exceptions import ValidationError
from rest_framework.response import Response

from fleetops.identity.rest import ApiView
from fleetops.inventory.models import Instance
from fleetops.inventory.selection import select
from fleetops.library.models import Document
from fleetops.targets import MOST_CHARACTERS, ExpressionError, parse

from . import plan, services, tasks
from .models import REVIEW_PERMISSION, RUN_PERMISSION, Command, Invocation
from .states import CommandState, InvocationState

SEE, RUN = (RUN_PERMISSION, REVIEW_PERMISSION), (RUN_PERMISSION,)
CANCEL = (RUN_PERMISSION, services.CANCEL_PERMISSION)


class CommandSerializer(serializers.ModelSerializer):
    """A document on many instances."""

    state = serializers.ChoiceField(choices=CommandState.choices, read_only=True)
    actor = serializers.CharField(source="actor_name", read_only=True)
    parameters = serializers.DictField(child=serializers.ListField(child=serializers.CharField()), read_only=True)
    targets = serializers.CharField(source="targets_text", read_only=True)
    again_of = serializers.UUIDField(source="again_of_id", read_only=True, allow_null=True)
    url = serializers.SerializerMethodField()

    class Meta:
        model = Command
        fields = (
            "id",
            "state",
            "document_name",
            "document_version",
            "parameters",
            "targets",
            "reason",
            "timeout_seconds",
            "at_once",
            "most_failed",
            "actor",
            "again_of",
            "created_at",
            "started_at",
            "ended_at",
            "end_reason",
            "cancelled_by",
            "url",
        )
        read_only_fields = fields

    def get_url(self, command: Command) -> str:
        return self.context["request"].build_absolute_uri(command.get_absolute_url())


class OneCommandSerializer(CommandSerializer):
    """With how many instances there are of each state."""

    counts = serializers.SerializerMethodField()

    class Meta(CommandSerializer.Meta):
        fields = (*CommandSerializer.Meta.fields, "counts")
        read_only_fields = fields

    def get_counts(self, command: Command) -> dict[str, int]:
        return {state.value: count for state, count in command.invocations.counts().items()}


class InvocationSerializer(serializers.ModelSerializer):
    """A command on one instance."""

    instance = serializers.UUIDField(source="instance_row_id", read_only=True, allow_null=True)
    account_id = serializers.CharField(source="account.account_id", read_only=True)
    region = serializers.CharField(source="region.name", read_only=True)
    state = serializers.ChoiceField(choices=InvocationState.choices, read_only=True)

    class Meta:
        model = Invocation
        fields = (
            "id",
            "instance",
            "instance_id",
            "instance_name",
            "account_id",
            "region",
            "document_version",
            "state",
            "details",
            "exit_code",
            "head",
            "started_at",
            "ended_at",
        )
        read_only_fields = fields


class StepSerializer(serializers.Serializer):
    """What one step told: 24,000 characters of its output and 8,000 of its errors at most."""

    step = serializers.CharField()
    status = serializers.CharField()
    exit_code = serializers.IntegerField(allow_null=True)
    stdout = serializers.CharField()
    stderr = serializers.CharField()
    stdout_url = serializers.CharField()
    stderr_url = serializers.CharField()


class OutputSerializer(InvocationSerializer):
    """With the output of each step."""

    outputs = StepSerializer(many=True, read_only=True)

    class Meta(InvocationSerializer.Meta):
        fields = (*InvocationSerializer.Meta.fields, "outputs")
        read_only_fields = fields


class RunSerializer(serializers.Serializer):
    """Which document on which instances."""

    document = serializers.UUIDField(help_text="the document's `id`; on instances elsewhere the one of its name runs")
    version = serializers.RegexField(
        r"^[1-9][0-9]{0,7}$", required=False, allow_blank=True, default="", help_text="empty: the default"
    )
    parameters = serializers.DictField(
        child=serializers.ListField(child=serializers.CharField(allow_blank=True, trim_whitespace=False)),
        required=False,
        default=dict,
    )
    targets = serializers.CharField(max_length=MOST_CHARACTERS, help_text="a target expression")
    reason = serializers.CharField(max_length=256, required=False, allow_blank=True, default="")
    timeout_seconds = serializers.IntegerField(
        min_value=services.SHORTEST_TIMEOUT, max_value=services.LONGEST_TIMEOUT, default=3600
    )
    at_once = serializers.IntegerField(
        min_value=0, max_value=plan.MOST_INSTANCES, default=0, help_text="0: all at once"
    )
    most_failed = serializers.IntegerField(
        min_value=0, max_value=plan.MOST_INSTANCES, required=False, allow_null=True, default=None
    )
    start = serializers.BooleanField(default=True, help_text="false: a plan alone; start it by its own call")


class AgainSerializer(serializers.Serializer):
    """On which instances."""

    only_unwell = serializers.BooleanField(default=False, help_text="those on which it did not end well")


class Commands(ApiView, generics.ListAPIView):
    """Commands, the newest first: your own, or everybody's if you may review them."""

    scopes = {"GET": "commands:read", "POST": "commands:run"}
    permissions = {"GET": SEE, "POST": RUN}
    serializer_class = CommandSerializer
    queryset = Command.objects.none()

    @extend_schema(
        parameters=[
            OpenApiParameter("state", str, enum=CommandState.values),
            OpenApiParameter("document", str, description="A document's name."),
        ]
    )
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        asked = self.request.query_params
        found = Command.objects.visible_to(self.request.user)
        if state := asked.get("state", ""):
            if state not in CommandState.values:
                raise ValidationError({"state": [f"Write one of {', '.join(CommandState.values)}."]})
            found = found.filter(state=state)
        if document := asked.get("document", ""):
            found = found.filter(document_name=document.replace("\x00", ""))
        return found

    @extend_schema(operation_id="commands_run", request=RunSerializer, responses={201: OneCommandSerializer})
    def post(self, request):
        """Run a document. What is left out, and why, stands in the command's invocations, as `skipped`."""
        form = RunSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        asked = form.validated_data
        visible = Document.objects.visible_to(request.user).runnable().select_related("account", "region")
        document = get_object_or_404(visible, pk=asked["document"])
        try:
            expression = parse(asked["targets"])
        except ExpressionError as error:
            raise ValidationError({"targets": [str(error)]}) from None
        command = services.draft(
            document,
            version=asked["version"],
            parameters=asked["parameters"],
            instances=select(expression, Instance.objects.visible_to(request.user).present()),
            targets_text=str(expression),
            reason=asked["reason"],
            timeout_seconds=asked["timeout_seconds"],
            at_once=asked["at_once"],
            most_failed=asked["most_failed"],
            actor=request.user,
        )
        if asked["start"]:
            _start(command, request.user)
        return Response(_shown(command, request), status=201)


class One(ApiView):
    """One command."""

    scopes = {"GET": "commands:read"}
    permissions = {"GET": SEE}

    @extend_schema(operation_id="commands_get", responses=OneCommandSerializer)
    def get(self, request, pk):
        """With how many instances there are of each state."""
        return Response(_shown(_visible(request, pk), request))


class Start(ApiView):
    """The start of a plan."""

    scopes = {"POST": "commands:run"}
    permissions = {"POST": RUN}

    @extend_schema(operation_id="commands_start", request=None, responses=OneCommandSerializer)
    def post(self, request, pk):
        """Let a plan of your own go, on the instances that stand in it. The policy is asked once more."""
        command = get_object_or_404(Command.objects.filter(actor=request.user), pk=pk)
        _start(command, request.user)
        return Response(_shown(command, request))


class Cancel(ApiView):
    """The cancel of a command."""

    scopes = {"POST": "commands:run"}
    permissions = {"POST": CANCEL}

    @extend_schema(operation_id="commands_cancel", request=None, responses={202: OneCommandSerializer})
    def post(self, request, pk):
        """Send it to nobody any more, and ask AWS to cancel what it has. What an agent runs already may go on."""
        command = get_object_or_404(services.cancellable_by(request.user), pk=pk)
        if services.cancel(command, actor=request.user):
            tasks.advance.delay_on_commit(str(command.pk))
        return Response(_shown(command, request), status=202)


class Again(ApiView):
    """The same once more."""

    scopes = {"POST": "commands:run"}
    permissions = {"POST": RUN}

    @extend_schema(operation_id="commands_again", request=AgainSerializer, responses={201: OneCommandSerializer})
    def post(self, request, pk):
        """Run the document of a command that has ended once more, with its parameters, on its instances."""
        before = _visible(request, pk)
        form = AgainSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        command = services.again(before, only_unwell=form.validated_data["only_unwell"], actor=request.user)
        _start(command, request.user)
        return Response(_shown(command, request), status=201)


class Invocations(ApiView, generics.ListAPIView):
    """A command on its instances, and why it does not run on some."""

    scopes = {"GET": "commands:read"}
    permissions = {"GET": SEE}
    serializer_class = InvocationSerializer
    queryset = Invocation.objects.none()

    @extend_schema(parameters=[OpenApiParameter("state", str, enum=InvocationState.values)])
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        found = _visible(self.request, self.kwargs["pk"]).invocations.select_related("account", "region")
        if state := self.request.query_params.get("state", ""):
            if state not in InvocationState.values:
                raise ValidationError({"state": [f"Write one of {', '.join(InvocationState.values)}."]})
            found = found.filter(state=state)
        return found.defer("outputs")


class OneInvocation(ApiView):
    """A command on one instance."""

    scopes = {"GET": "commands:read"}
    permissions = {"GET": SEE}

    @extend_schema(operation_id="commands_output", responses=OutputSerializer)
    def get(self, request, pk, invocation_pk):
        """With what each step told there. A look at another's is audited."""
        rows = Invocation.objects.filter(command=_visible(request, pk))
        row = get_object_or_404(rows.select_related("command", "account", "region", "dispatch"), pk=invocation_pk)
        services.record_look(row, actor=request.user)
        services.read_output(row, actor=request.user)
        return Response(OutputSerializer(row).data)


def _start(command: Command, user) -> None:
    services.start(command, actor=user)
    tasks.advance.delay_on_commit(str(command.pk))


def _visible(request, pk) -> Command:
    return get_object_or_404(Command.objects.visible_to(request.user), pk=pk)


def _shown(command: Command, request) -> dict:
    return OneCommandSerializer(command, context={"request": request}).data


urlpatterns = [
    path("commands/", Commands.as_view(), name="commands"),
    path("commands/<uuid:pk>/", One.as_view(), name="command"),
    path("commands/<uuid:pk>/start/", Start.as_view(), name="command_start"),
    path("commands/<uuid:pk>/cancel/", Cancel.as_view(), name="command_cancel"),
    path("commands/<uuid:pk>/again/", Again.as_view(), name="command_again"),
    path("commands/<uuid:pk>/invocations/", Invocations.as_view(), name="invocations"),
    path("commands/<uuid:pk>/invocations/<uuid:invocation_pk>/", OneInvocation.as_view(), name="invocation"),
]
