"""Schedules of runs over the API."""

from django.shortcuts import get_object_or_404
from django.urls import path
from drf_spectacular.utils import extend_schema
from rest_framework import generics
from rest_framework.response import Response

from fleetops.identity.rest import ApiView
from fleetops.rollouts.models import SEE_PERMISSION, START_PERMISSION, STEER_PERMISSION, Run
from fleetops.rollouts.serializers import RunReasonSerializer

from . import keeping, services, tasks
from .models import Occurrence, RunSchedule
from .serializers import (
    RunMomentSerializer,
    RunScheduleAskSerializer,
    RunScheduleChangeSerializer,
    RunScheduleSerializer,
)

SEE = (SEE_PERMISSION, START_PERMISSION, STEER_PERMISSION)
START, STEER = (START_PERMISSION,), (START_PERMISSION, STEER_PERMISSION)


class Schedules(ApiView, generics.ListAPIView):
    """Schedules that you may see, the newest first."""

    scopes = {"GET": "runs:read", "POST": "runs:write"}
    permissions = {"GET": SEE, "POST": START}
    serializer_class = RunScheduleSerializer
    queryset = RunSchedule.objects.none()

    def get_queryset(self):
        return RunSchedule.objects.visible_to(self.request.user)

    @extend_schema(
        operation_id="schedules_create", request=RunScheduleAskSerializer, responses={201: RunScheduleSerializer}
    )
    def post(self, request):
        """Have a run come again, for you; the policy is asked now, and at each moment."""
        form = RunScheduleAskSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        asked = dict(form.validated_data)
        run, wanted = asked.pop("run"), asked.pop("wanted")
        if run is not None:
            found = get_object_or_404(Run.objects.visible_to(request.user), pk=run)
            what = services.from_run(found, actor=request.user)
        else:
            what = keeping.wanted_in(wanted)
        return Response(_shown(services.create(what, actor=request.user, **asked), request), status=201)


class One(ApiView):
    """One schedule."""

    scopes = {"GET": "runs:read", "PUT": "runs:write", "DELETE": "runs:write"}
    permissions = {"GET": SEE, "PUT": START, "DELETE": STEER}

    @extend_schema(operation_id="schedules_get", responses=RunScheduleSerializer)
    def get(self, request, pk):
        """With its next five moments."""
        return Response(_shown(_visible(request, pk), request))

    @extend_schema(
        operation_id="schedules_change", request=RunScheduleChangeSerializer, responses=RunScheduleSerializer
    )
    def put(self, request, pk):
        """Give one of your own all of these fields; what it runs stays."""
        found = _visible(request, pk)
        services.require_mine(found, request.user, "change")
        form = RunScheduleChangeSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        services.change(found, actor=request.user, **form.validated_data)
        return Response(_shown(found, request))

    @extend_schema(operation_id="schedules_delete", responses={204: None})
    def delete(self, request, pk):
        """For good, with its history; its runs stay."""
        services.delete(_visible(request, pk), actor=request.user)
        return Response(status=204)


class Pause(ApiView):
    """A rest."""

    scopes = {"POST": "runs:write"}
    permissions = {"POST": STEER}

    @extend_schema(operation_id="schedules_pause", request=RunReasonSerializer, responses=RunScheduleSerializer)
    def post(self, request, pk):
        """Due no more, until it is resumed; runs that go already go on."""
        found = _visible(request, pk)
        sent = RunReasonSerializer(data=request.data)
        sent.is_valid(raise_exception=True)
        services.pause(found, actor=request.user, reason=sent.validated_data["reason"])
        return Response(_shown(found, request))


class Resume(ApiView):
    """The end of a rest."""

    scopes = {"POST": "runs:write"}
    permissions = {"POST": START}

    @extend_schema(operation_id="schedules_resume", request=None, responses=RunScheduleSerializer)
    def post(self, request, pk):
        """Due again from now on."""
        found = _visible(request, pk)
        services.resume(found, actor=request.user)
        return Response(_shown(found, request))


class Take(ApiView):
    """Another owner."""

    scopes = {"POST": "runs:write"}
    permissions = {"POST": START}

    @extend_schema(operation_id="schedules_take", request=None, responses=RunScheduleSerializer)
    def post(self, request, pk):
        """From now on it runs for you."""
        found = _visible(request, pk)
        services.take_over(found, actor=request.user)
        return Response(_shown(found, request))


class RunNow(ApiView):
    """A run besides."""

    scopes = {"POST": "runs:write"}
    permissions = {"POST": START}

    @extend_schema(operation_id="schedules_run", request=None, responses={201: RunMomentSerializer})
    def post(self, request, pk):
        """One run now, by the rules of the schedule."""
        row = services.run_now(_visible(request, pk), actor=request.user)
        tasks.carry_out.delay_on_commit(str(row.pk))
        return Response(RunMomentSerializer(row).data, status=201)


class Moments(ApiView, generics.ListAPIView):
    """What became of each moment, the newest first."""

    scopes = {"GET": "runs:read"}
    permissions = {"GET": SEE}
    serializer_class = RunMomentSerializer
    queryset = Occurrence.objects.none()

    def get_queryset(self):
        return _visible(self.request, self.kwargs["pk"]).occurrences.select_related("run")


class Answer(ApiView):
    """What is said of a moment that was missed."""

    scopes = {"POST": "runs:write"}
    permissions = {"POST": STEER}
    is_run = False

    @extend_schema(operation_id="schedules_skip_moment", request=None, responses=RunMomentSerializer)
    def post(self, request, pk, row_pk):
        """Leave it out."""
        return self._answer(request, pk, row_pk)

    def _answer(self, request, pk, row_pk):
        rows = Occurrence.objects.filter(schedule=_visible(request, pk)).select_related("schedule", "run")
        row = get_object_or_404(rows, pk=row_pk)
        services.answer(row, actor=request.user, run=self.is_run)
        if self.is_run:
            tasks.carry_out.delay_on_commit(str(row.pk))
        return Response(RunMomentSerializer(row).data)


class RunMoment(Answer):
    """The same."""

    permissions = {"POST": START}
    is_run = True

    @extend_schema(operation_id="schedules_run_moment", request=None, responses=RunMomentSerializer)
    def post(self, request, pk, row_pk):
        """Make up for it now."""
        return self._answer(request, pk, row_pk)


def _visible(request, pk) -> RunSchedule:
    return get_object_or_404(RunSchedule.objects.visible_to(request.user).select_related("owner"), pk=pk)


def _shown(schedule: RunSchedule, request) -> dict:
    return RunScheduleSerializer(schedule, context={"request": request}).data


urlpatterns = [
    path("schedules/", Schedules.as_view(), name="schedules"),
    path("schedules/<uuid:pk>/", One.as_view(), name="schedule"),
    path("schedules/<uuid:pk>/pause/", Pause.as_view(), name="schedule_pause"),
    path("schedules/<uuid:pk>/resume/", Resume.as_view(), name="schedule_resume"),
    path("schedules/<uuid:pk>/take/", Take.as_view(), name="schedule_take"),
    path("schedules/<uuid:pk>/run/", RunNow.as_view(), name="schedule_run"),
    path("schedules/<uuid:pk>/moments/", Moments.as_view(), name="schedule_moments"),
    path("schedules/<uuid:pk>/moments/<uuid:row_pk>/run/", RunMoment.as_view(), name="schedule_run_moment"),
    path("schedules/<uuid:pk>/moments/<uuid:row_pk>/skip/", Answer.as_view(), name="schedule_skip_moment"),
]
