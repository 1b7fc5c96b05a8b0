"""Runs over the API: plan one, start it, follow it, steer it; and the rules that keep clusters whole."""

from django.shortcuts import get_object_or_404
from django.urls import path
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics
from rest_framework.exceptions import ValidationError
from rest_framework.response import Response

from fleetops.identity.rest import ApiView

from . import plan, protection, steering, tasks
from .models import (
    SEE_PERMISSION,
    START_PERMISSION,
    STEER_PERMISSION,
    ClusterRule,
    GateCheck,
    Run,
    RunEvent,
    RunTarget,
)
from .scheduling.services import instead_of
from .serializers import (
    ClusterRuleSerializer,
    OneRolloutSerializer,
    PlanHashSerializer,
    RolloutSerializer,
    RunAbortSerializer,
    RunAskSerializer,
    RunDriftSerializer,
    RunEventSerializer,
    RunReasonNeededSerializer,
    RunReasonSerializer,
    RunRetrySerializer,
    RunTargetSerializer,
)
from .states import RunState, TargetState
from .waves import MOST_WAVES

SEE = (SEE_PERMISSION, START_PERMISSION, STEER_PERMISSION)
START, STEER = (START_PERMISSION,), (START_PERMISSION, STEER_PERMISSION)


class Runs(ApiView, generics.ListAPIView):
    """Runs that you may see, the newest first."""

    scopes = {"GET": "runs:read", "POST": "runs:write"}
    permissions = {"GET": SEE, "POST": START}
    serializer_class = RolloutSerializer
    queryset = Run.objects.none()

    @extend_schema(parameters=[OpenApiParameter("state", str, enum=RunState.values)])
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        found = Run.objects.visible_to(self.request.user)
        if state := self.request.query_params.get("state", ""):
            if state not in RunState.values:
                raise ValidationError({"state": [f"Write one of {', '.join(RunState.values)}."]})
            found = found.filter(state=state)
        return found

    @extend_schema(operation_id="runs_plan", request=RunAskSerializer, responses={201: OneRolloutSerializer})
    def post(self, request):
        """Plan a run; nothing is sent. Look at its `plan`, then release it with its `plan_hash`."""
        form = RunAskSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        return Response(_shown(plan.make(plan.Wanted(**form.validated_data), actor=request.user), request), status=201)


class One(ApiView):
    """One run."""

    scopes = {"GET": "runs:read", "DELETE": "runs:write"}
    permissions = {"GET": SEE, "DELETE": START}

    @extend_schema(operation_id="runs_get", responses=OneRolloutSerializer)
    def get(self, request, pk):
        """With its waves and gates, its plan, and how many targets there are of each state."""
        return Response(_shown(_visible(request, pk), request))

    @extend_schema(operation_id="runs_discard", responses={204: None})
    def delete(self, request, pk):
        """Discard a plan of your own that was not started."""
        plan.discard(get_object_or_404(Run.objects.filter(actor=request.user), pk=pk), actor=request.user)
        return Response(status=204)


class Drift(ApiView):
    """A plan against the fleet as it is."""

    scopes = {"GET": "runs:read"}
    permissions = {"GET": START}

    @extend_schema(operation_id="runs_drift", responses=RunDriftSerializer)
    def get(self, request, pk):
        """How the live fleet differs from a plan of your own."""
        run = get_object_or_404(Run.objects.filter(actor=request.user), pk=pk)
        found = plan.differences(run)
        gone = [{"name": each.name, "reason": each.reason} for each in found.gone]
        facts = {name: getattr(found, name) for name in ("count", "tolerated", "is_too_much", "words", "new")}
        return Response({**facts, "gone": gone})


class Release(ApiView):
    """The start of a plan."""

    scopes = {"POST": "runs:write"}
    permissions = {"POST": START}

    @extend_schema(operation_id="runs_release", request=PlanHashSerializer, responses=OneRolloutSerializer)
    def post(self, request, pk):
        """Let a plan of your own go. It refuses if the plan is another, or the fleet differs too much from it."""
        run = get_object_or_404(Run.objects.filter(actor=request.user), pk=pk)
        form = PlanHashSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        steering.release(run, actor=request.user, plan_hash=form.validated_data["plan_hash"])
        return _went(run, request)


class Again(ApiView):
    """The same once more."""

    scopes = {"POST": "runs:write"}
    permissions = {"POST": START}

    @extend_schema(operation_id="runs_again", request=None, responses={201: OneRolloutSerializer})
    def post(self, request, pk):
        """Plan the same for the fleet as it is now; a draft of your own makes way for it."""
        return Response(_shown(_again(_visible(request, pk), request.user), request), status=201)


class Steer(ApiView):
    """What people do to a run."""

    scopes = {"POST": "runs:write"}
    permissions = {"POST": STEER}


class Pause(Steer):
    """A rest."""

    @extend_schema(operation_id="runs_pause", request=RunReasonSerializer, responses=OneRolloutSerializer)
    def post(self, request, pk):
        """Send nothing more until it is resumed; what was sent goes on to its end."""
        run, asked = _asked(request, pk, RunReasonSerializer)
        steering.pause(run, actor=request.user, reason=asked["reason"])
        return _went(run, request)


class Resume(Steer):
    """The end of a rest."""

    @extend_schema(operation_id="runs_resume", request=RunReasonSerializer, responses=OneRolloutSerializer)
    def post(self, request, pk):
        """Go on after a pause, or after a stop."""
        run, asked = _asked(request, pk, RunReasonSerializer)
        steering.resume(run, actor=request.user, reason=asked["reason"])
        return _went(run, request)


class Abort(Steer):
    """The end, for good."""

    @extend_schema(operation_id="runs_abort", request=RunAbortSerializer, responses=OneRolloutSerializer)
    def post(self, request, pk):
        """Send nothing more; what was sent is awaited, or AWS is asked to cancel it."""
        run, asked = _asked(request, pk, RunAbortSerializer)
        steering.abort(run, actor=request.user, reason=asked["reason"], cancel=asked["cancel"])
        return _went(run, request)


class Retry(Steer):
    """Another try."""

    @extend_schema(operation_id="runs_retry", request=RunRetrySerializer, responses=OneRolloutSerializer)
    def post(self, request, pk):
        """Try again what failed, of one wave or of all."""
        run, asked = _asked(request, pk, RunRetrySerializer)
        wave = None if asked["wave"] is None else get_object_or_404(run.waves, position=asked["wave"])
        steering.retry_failed(run, actor=request.user, wave=wave, reason=asked["reason"])
        return _went(run, request)


class RetryTarget(Steer):
    """Another try of one target."""

    @extend_schema(operation_id="runs_retry_target", request=RunReasonSerializer, responses=OneRolloutSerializer)
    def post(self, request, pk, target_pk):
        """Try one target again that failed."""
        run, asked = _asked(request, pk, RunReasonSerializer)
        target = get_object_or_404(run.targets, pk=target_pk)
        steering.retry_failed(run, actor=request.user, target=target, reason=asked["reason"])
        return _went(run, request)


class Waive(Steer):
    """On, unprepared."""

    @extend_schema(operation_id="runs_waive", request=RunReasonNeededSerializer, responses=OneRolloutSerializer)
    def post(self, request, pk):
        """Let waves go without what could not be made for them: of a run that pins its canary's patches, unpinned."""
        run, asked = _asked(request, pk, RunReasonNeededSerializer)
        steering.waive_preparation(run, actor=request.user, reason=asked["reason"])
        return _went(run, request)


class Forward(Steer):
    """On, over failures."""

    @extend_schema(operation_id="runs_forward", request=RunReasonNeededSerializer, responses=OneRolloutSerializer)
    def post(self, request, pk):
        """Accept the failures so far: they count against no budget any more, and it goes on."""
        run, asked = _asked(request, pk, RunReasonNeededSerializer)
        steering.roll_forward(run, actor=request.user, reason=asked["reason"])
        return _went(run, request)


class Override(Steer):
    """Leave to go through freezes."""

    @extend_schema(operation_id="runs_override", request=RunReasonNeededSerializer, responses=OneRolloutSerializer)
    def post(self, request, pk):
        """Ask others to let the run go through freezes."""
        run, asked = _asked(request, pk, RunReasonNeededSerializer)
        steering.ask_override(run, actor=request.user, reason=asked["reason"])
        return _went(run, request)


class SkipTarget(Steer):
    """A target that is left out."""

    @extend_schema(operation_id="runs_skip_target", request=RunReasonNeededSerializer, responses=OneRolloutSerializer)
    def post(self, request, pk, target_pk):
        """Leave out a target that has not been sent, or failed."""
        run, asked = _asked(request, pk, RunReasonNeededSerializer)
        target = get_object_or_404(run.targets, pk=target_pk)
        steering.skip_target(target, actor=request.user, reason=asked["reason"])
        return _went(run, request)


class SkipWave(Steer):
    """A wave that is left out."""

    @extend_schema(operation_id="runs_skip_wave", request=RunReasonNeededSerializer, responses=OneRolloutSerializer)
    def post(self, request, pk, position):
        """Leave out what a wave has not sent yet, its soak and its gates."""
        run, asked = _asked(request, pk, RunReasonNeededSerializer)
        wave = get_object_or_404(run.waves, position=min(position, MOST_WAVES + 1))
        steering.skip_wave(wave, actor=request.user, reason=asked["reason"])
        return _went(run, request)


class Overrule(Steer):
    """On, in spite of a gate."""

    @extend_schema(operation_id="runs_overrule", request=RunReasonNeededSerializer, responses=OneRolloutSerializer)
    def post(self, request, pk, gate_pk):
        """Go on in spite of a gate."""
        run, asked = _asked(request, pk, RunReasonNeededSerializer)
        gate = get_object_or_404(GateCheck.objects.filter(wave__run=run), pk=gate_pk)
        steering.overrule_gate(gate, actor=request.user, reason=asked["reason"])
        return _went(run, request)


class Targets(ApiView, generics.ListAPIView):
    """The targets of a run, and why some are left out."""

    scopes = {"GET": "runs:read"}
    permissions = {"GET": SEE}
    serializer_class = RunTargetSerializer
    queryset = RunTarget.objects.none()
    newest_first = False

    @extend_schema(parameters=[OpenApiParameter("state", str, enum=TargetState.values)])
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        found = _visible(self.request, self.kwargs["pk"]).targets.select_related("account", "region", "wave")
        if state := self.request.query_params.get("state", ""):
            if state not in TargetState.values:
                raise ValidationError({"state": [f"Write one of {', '.join(TargetState.values)}."]})
            found = found.filter(state=state)
        return found


class Events(ApiView, generics.ListAPIView):
    """What happened, the newest first."""

    scopes = {"GET": "runs:read"}
    permissions = {"GET": SEE}
    serializer_class = RunEventSerializer
    queryset = RunEvent.objects.none()

    def get_queryset(self):
        return _visible(self.request, self.kwargs["pk"]).events.select_related("wave")


class ClusterRules(ApiView, generics.ListAPIView):
    """The rules that keep clusters whole."""

    scopes = {"GET": "runs:read", "POST": "cluster_rules:write"}
    permissions = {"GET": SEE, "POST": (protection.PERMISSION,)}
    serializer_class = ClusterRuleSerializer
    queryset = ClusterRule.objects.all()

    @extend_schema(
        operation_id="cluster_rules_create", request=ClusterRuleSerializer, responses={201: ClusterRuleSerializer}
    )
    def post(self, request):
        """Make a rule; it binds every run from now on."""
        form = ClusterRuleSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        return Response(
            ClusterRuleSerializer(protection.create(actor=request.user, **form.validated_data)).data, status=201
        )


class OneClusterRule(ApiView):
    """One rule."""

    scopes = {"PUT": "cluster_rules:write", "DELETE": "cluster_rules:write"}
    permissions = {"PUT": (protection.PERMISSION,), "DELETE": (protection.PERMISSION,)}

    @extend_schema(operation_id="cluster_rules_change", request=ClusterRuleSerializer, responses=ClusterRuleSerializer)
    def put(self, request, pk):
        """Give a rule all of its fields."""
        rule = get_object_or_404(ClusterRule, pk=pk)
        form = ClusterRuleSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        protection.change(rule, actor=request.user, **form.validated_data)
        rule.refresh_from_db()
        return Response(ClusterRuleSerializer(rule).data)

    @extend_schema(operation_id="cluster_rules_delete", responses={204: None})
    def delete(self, request, pk):
        """Delete a rule."""
        protection.delete(get_object_or_404(ClusterRule, pk=pk), actor=request.user)
        return Response(status=204)


def _again(run: Run, user) -> Run:
    return plan.again(run, actor=user, and_then=instead_of(run))


def _visible(request, pk) -> Run:
    return get_object_or_404(Run.objects.visible_to(request.user), pk=pk)


def _asked(request, pk, form) -> tuple[Run, dict]:
    """The run, and what was sent."""
    run = _visible(request, pk)
    sent = form(data=request.data)
    sent.is_valid(raise_exception=True)
    return run, sent.validated_data


def _went(run: Run, request) -> Response:
    tasks.advance_run.delay_on_commit(str(run.pk))
    return Response(_shown(Run.objects.get(pk=run.pk), request))


def _shown(run: Run, request) -> dict:
    return OneRolloutSerializer(run, context={"request": request}).data


urlpatterns = [
    path("runs/", Runs.as_view(), name="runs"),
    path("runs/<uuid:pk>/", One.as_view(), name="run"),
    path("runs/<uuid:pk>/drift/", Drift.as_view(), name="run_drift"),
    path("runs/<uuid:pk>/release/", Release.as_view(), name="run_release"),
    path("runs/<uuid:pk>/again/", Again.as_view(), name="run_again"),
    path("runs/<uuid:pk>/pause/", Pause.as_view(), name="run_pause"),
    path("runs/<uuid:pk>/resume/", Resume.as_view(), name="run_resume"),
    path("runs/<uuid:pk>/abort/", Abort.as_view(), name="run_abort"),
    path("runs/<uuid:pk>/retry/", Retry.as_view(), name="run_retry"),
    path("runs/<uuid:pk>/forward/", Forward.as_view(), name="run_forward"),
    path("runs/<uuid:pk>/waive/", Waive.as_view(), name="run_waive"),
    path("runs/<uuid:pk>/override/", Override.as_view(), name="run_override"),
    path("runs/<uuid:pk>/targets/", Targets.as_view(), name="run_targets"),
    path("runs/<uuid:pk>/targets/<uuid:target_pk>/skip/", SkipTarget.as_view(), name="run_skip_target"),
    path("runs/<uuid:pk>/targets/<uuid:target_pk>/retry/", RetryTarget.as_view(), name="run_retry_target"),
    path("runs/<uuid:pk>/waves/<int:position>/skip/", SkipWave.as_view(), name="run_skip_wave"),
    path("runs/<uuid:pk>/gates/<uuid:gate_pk>/overrule/", Overrule.as_view(), name="run_overrule"),
    path("runs/<uuid:pk>/events/", Events.as_view(), name="run_events"),
    path("cluster-rules/", ClusterRules.as_view(), name="cluster_rules"),
    path("cluster-rules/<uuid:pk>/", OneClusterRule.as_view(), name="cluster_rule"),
]
