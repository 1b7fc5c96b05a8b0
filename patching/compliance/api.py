"""Patch compliance over the API: who complies, now or at a moment; patches, CVEs, trends, files."""

import json
from datetime import timedelta
from typing import Any

from django.db.models import Q, QuerySet, Sum
from django.shortcuts import get_object_or_404
from django.urls import path
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics
from rest_framework.exceptions import ValidationError
from rest_framework.response import Response

from fleetops.identity.rest import ApiView, Cursor, choice_in
from fleetops.inventory.models import Instance

from . import asking, export, hub_api
from .asking import STATES, Scope
from .heat import heat
from .hub_api import AT, PERMISSIONS, READ, WHICH, scope_in
from .models import PatchSpan, Report, SpanCve, Trend
from .serializers import (
    ComplianceSummarySerializer,
    CveInstanceSerializer,
    CveSerializer,
    HeatRowSerializer,
    OneCveSerializer,
    PatchRowSerializer,
    ReportSerializer,
    SpanSerializer,
    StandingSerializer,
    TrendPointSerializer,
)
from .verdict import LACKING, PatchState
from .views import DAYS, with_details

KEPT = [each.value for each in PatchState if each not in {"INSTALLED_OTHER", "NOT_APPLICABLE"}]
GROUPED_BY = f"One of {', '.join(asking.GROUPINGS)}, or tag:KEY."
STATE = OpenApiParameter("state", str, enum=list(STATES))
FIND = OpenApiParameter("find", str, description="Words in CVE, package and title.")


class Ranked(Cursor):
    """Pages of sums, which have no key: `after` holds the last row's values of the view's `ranked` columns.

    The first of those falls, all others rise. A row whose count changes between two pages may come twice, or not.
    """

    def behind(self, queryset: QuerySet, request: Any, view: Any) -> QuerySet:  # type: ignore[override]
        first, *rest = view.ranked
        if after := request.query_params.get("after", ""):
            try:
                values = json.loads(after)
                count, *others = values
                assert isinstance(count, int) and all(isinstance(each, str) for each in others)
                assert len(others) == len(rest) and "\x00" not in after
            except (ValueError, TypeError, AssertionError):
                raise ValidationError({"after": ["Take it from “next”."]}) from None
            same = Q(**{first: count})
            found = Q(**{f"{first}__lt": count})
            for column, value in zip(rest, others, strict=True):
                found |= same & Q(**{f"{column}__gt": value})
                same &= Q(**{column: value})
            queryset = queryset.filter(found)
        self.ranked = view.ranked
        return queryset.order_by(f"-{first}", *rest)

    def link(self, request: Any, last: Any) -> str:  # type: ignore[override]
        query = request.query_params.copy()
        query["after"] = json.dumps([last[column] for column in self.ranked])
        return str(request.build_absolute_uri(f"{request.path}?{query.urlencode()}"))


def _words(request: Any) -> str:
    return str(request.query_params.get("find", "")).replace("\x00", "").strip()[:200]


def _instance(request: Any, pk: Any) -> Instance:
    rows = Instance.objects.visible_to(request.user).select_related("account", "region")
    return get_object_or_404(rows, pk=pk)


def _with_reports(scope: Scope, rows: list[Any]) -> list[Any]:
    told = scope.reports().filter(instance__in=[row.pk for row in rows])
    reports = {each.instance_id: each for each in told}
    for row in rows:
        _judge(row, reports.get(row.pk), scope)
    return rows


def _judge(row: Any, report: Report | None, scope: Scope) -> None:
    row.report, row.standing, row.is_old = report, "never_scanned", False
    if report is not None:
        row.standing = "compliant" if report.is_compliant else "not_compliant"
        row.is_old = report.ended_at < scope.at - asking.OLD


def _with_clocks(scope: Scope, rows: list[Any]) -> list[Any]:
    days = asking.slas()
    for row in rows:
        row.clock = asking.clock(row.severity, row.lacks_since, at=scope.at, days=days)
    return rows


class Summary(ApiView):
    """How many instances comply."""

    scopes, permissions = {"GET": READ}, PERMISSIONS

    @extend_schema(operation_id="compliance", parameters=[WHICH, AT], responses=ComplianceSummarySerializer)
    def get(self, request):
        """Of all instances, or of those that an expression selects; now, or at a moment."""
        scope = scope_in(request)
        found = asking.figures(scope)
        facts = {name: getattr(found, name) for name in ("instances", "scanned", "compliant", "bad", "never", "old")}
        facts |= {"reboot": found.reboot, "share": found.share, "at": scope.at, "deadlines": asking.deadlines(scope)}
        return Response(ComplianceSummarySerializer(facts).data)


class Instances(ApiView, generics.ListAPIView):
    """Instances, each with its last report; those that never reported with none."""

    scopes, permissions = {"GET": READ}, PERMISSIONS
    serializer_class = StandingSerializer
    queryset = Instance.objects.none()
    newest_first = False

    @extend_schema(operation_id="compliance_instances", parameters=[WHICH, STATE, AT])
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        scope = scope_in(self.request)
        if scope.state == "never":
            found = scope.never()
        elif scope.state:
            found = scope.instances().filter(pk__in=scope.reports().values("instance"))
        else:
            found = scope.instances()
        return found.select_related("account", "region")

    def paginate_queryset(self, queryset):
        return _with_reports(scope_in(self.request), super().paginate_queryset(queryset))


class OneInstance(ApiView):
    """One instance at a moment."""

    scopes, permissions = {"GET": READ}, PERMISSIONS

    @extend_schema(operation_id="compliance_instance", parameters=[AT], responses=StandingSerializer)
    def get(self, request, pk):
        """Its last report until then. Its patches: `patches/`; all that it ever reported: `reports/`."""
        row = _instance(request, pk)
        scope = scope_in(request)
        told = Report.objects.filter(instance=row)
        if scope.moment:  # now all count: a node's clock may be ahead
            told = told.filter(ended_at__lte=scope.moment)
        _judge(row, told.order_by("-ended_at", "-id").first(), scope)
        return Response(StandingSerializer(row).data)


class InstanceReports(ApiView, generics.ListAPIView):
    """All reports of an instance, those that FleetOps read last first."""

    scopes, permissions = {"GET": READ}, PERMISSIONS
    serializer_class = ReportSerializer
    queryset = Report.objects.none()

    @extend_schema(operation_id="compliance_reports")
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        return Report.objects.filter(instance=_instance(self.request, self.kwargs["pk"]))


class InstancePatches(ApiView, generics.ListAPIView):
    """The patches of an instance, at a moment; what its baseline does not judge is only counted, in the report."""

    scopes, permissions = {"GET": READ}, PERMISSIONS
    serializer_class = SpanSerializer
    queryset = PatchSpan.objects.none()
    newest_first = False

    @extend_schema(
        operation_id="compliance_instance_patches", parameters=[OpenApiParameter("standing", str, enum=KEPT), AT]
    )
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        scope = scope_in(self.request)
        spans = PatchSpan.objects.filter(instance=_instance(self.request, self.kwargs["pk"]))
        spans = spans.open() if scope.moment is None else spans.at(scope.moment)
        if state := choice_in(self.request, "standing", KEPT):
            spans = spans.filter(state=state)
        return spans.prefetch_related("cves")

    def paginate_queryset(self, queryset):
        return _with_clocks(scope_in(self.request), super().paginate_queryset(queryset))


class Cves(ApiView, generics.ListAPIView):
    """CVEs that instances lack a patch of, the most widespread first."""

    scopes, permissions = {"GET": READ}, PERMISSIONS
    serializer_class = CveSerializer
    queryset = SpanCve.objects.none()
    pagination_class = Ranked
    ranked = ("instances", "cve")

    @extend_schema(operation_id="compliance_cves", parameters=[WHICH, FIND, AT])
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        return asking.open_cves(scope_in(self.request), _words(self.request))

    def paginate_queryset(self, queryset):
        return with_details(scope_in(self.request), super().paginate_queryset(queryset))


class OneCve(ApiView):
    """One CVE over all instances."""

    scopes, permissions = {"GET": READ}, PERMISSIONS

    @extend_schema(operation_id="compliance_cve", parameters=[WHICH, AT], responses=OneCveSerializer)
    def get(self, request, name):
        """How many instances lack a patch of it, and how many have it. Which: `instances/`."""
        scope = scope_in(request)
        spans = scope.spans().filter(pk__in=SpanCve.objects.filter(cve=name.upper()).values("span"))
        visible = Instance.objects.visible_to(request.user)
        facts = {
            "cve": name.upper(),
            "is_known": SpanCve.objects.filter(cve=name.upper(), span__instance__in=visible).exists(),
            "lacking": spans.filter(state__in=LACKING).values("instance").distinct().count(),
            "mended": spans.filter(state__in=MENDED).values("instance").distinct().count(),
            "patches": sorted(set(spans.values_list("kb_id", flat=True)))[: asking.MOST_NAMES],
        }
        return Response(OneCveSerializer(facts).data)


MENDED = ("INSTALLED", "INSTALLED_PENDING_REBOOT")


class CveInstances(ApiView, generics.ListAPIView):
    """Who lacks a patch of a CVE, or has it; and since when (`from_at`)."""

    scopes, permissions = {"GET": READ}, PERMISSIONS
    serializer_class = CveInstanceSerializer
    queryset = PatchSpan.objects.none()
    newest_first = False

    @extend_schema(
        operation_id="compliance_cve_instances",
        parameters=[OpenApiParameter("which", str, enum=["lacking", "mended"], description="Empty: both."), WHICH, AT],
    )
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        scope = scope_in(self.request)
        spans = scope.spans().filter(pk__in=SpanCve.objects.filter(cve=self.kwargs["name"].upper()).values("span"))
        if which := choice_in(self.request, "which", ("lacking", "mended")):
            spans = spans.filter(state__in=LACKING if which == "lacking" else MENDED)
        return spans.select_related("instance__account", "instance__region").prefetch_related("cves")

    def paginate_queryset(self, queryset):
        return _with_clocks(scope_in(self.request), super().paginate_queryset(queryset))


class Patches(ApiView, generics.ListAPIView):
    """Patches that keep instances from complying, the most widespread first."""

    scopes, permissions = {"GET": READ}, PERMISSIONS
    serializer_class = PatchRowSerializer
    queryset = PatchSpan.objects.none()
    pagination_class = Ranked
    ranked = ("instances", "kb_id", "title", "state", "severity", "classification")

    @extend_schema(
        operation_id="compliance_patches",
        parameters=[
            WHICH,
            FIND,
            OpenApiParameter("standing", str, enum=KEPT, description="Only those that stand so."),
            OpenApiParameter("only", str, enum=["overdue"], description="Only those past a deadline."),
            AT,
        ],
    )
    def get(self, request, *args, **kwargs):
        return super().get(request, *args, **kwargs)

    def get_queryset(self):
        state = choice_in(self.request, "standing", KEPT)
        only = choice_in(self.request, "only", ("overdue",))
        return asking.patches(scope_in(self.request), _words(self.request), state, only_overdue=bool(only))

    def paginate_queryset(self, queryset):
        scope, days = scope_in(self.request), asking.slas()
        rows = super().paginate_queryset(queryset)
        for row in rows:
            row["clock"] = asking.clock(row["severity"], row["since"], at=scope.at, days=days)
        return rows


class TrendOf(ApiView):
    """The fleet hour by hour."""

    scopes, permissions = {"GET": READ}, PERMISSIONS
    pagination_class = None  # at most an hour of each of 90 days

    @extend_schema(
        operation_id="compliance_trend",
        parameters=[
            AT,
            OpenApiParameter("days", int, description=f"How far back: 1 to {DAYS}, which it is if it is left out."),
            OpenApiParameter("account", str, description="Twelve digits."),
            OpenApiParameter("region", str),
        ],
        responses=TrendPointSerializer(many=True),
    )
    def get(self, request):
        """The oldest hour first; instances that are gone by now count in the hours in which they were there."""
        scope, text = scope_in(request), request.query_params.get("days", str(DAYS))
        if not (text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= DAYS):
            raise ValidationError({"days": [f"Write a number from 1 to {DAYS}."]})
        regions = Instance.objects.visible_to(request.user).order_by().values("region").distinct()
        rows = Trend.objects.filter(
            region__in=regions, hour__gt=scope.at - timedelta(days=int(text)), hour__lte=scope.at
        )
        for name, column in (("account", "region__account__account_id"), ("region", "region__name")):
            if value := request.query_params.get(name, "").replace("\x00", ""):
                rows = rows.filter(**{column: value})
        names = ("instances", "compliant", "never_scanned", "missing", "overdue")
        summed = rows.order_by().values("hour").annotate(**{f"all_{name}": Sum(name) for name in names})
        points = [
            {"hour": each["hour"], **{name: each[f"all_{name}"] for name in names}} for each in summed.order_by("hour")
        ]
        return Response(TrendPointSerializer(points, many=True).data)


class Heat(ApiView):
    """Groups by weeks."""

    scopes, permissions = {"GET": READ}, PERMISSIONS
    pagination_class = None  # of a query that reads all

    @extend_schema(
        operation_id="compliance_heat",
        parameters=[WHICH, AT, OpenApiParameter("by", str, description=GROUPED_BY, required=True)],
        responses=HeatRowSerializer(many=True),
    )
    def get(self, request):
        """How many of each group did not comply at the end of each of the last weeks; the worst group first."""
        by = request.query_params.get("by", "")
        if by not in asking.GROUPINGS and not (by.startswith("tag:") and 4 < len(by) <= 132 and "\x00" not in by):
            raise ValidationError({"by": [f"Write {GROUPED_BY}"]})
        return Response(HeatRowSerializer(heat(scope_in(request), by).rows, many=True).data)


class Export(ApiView):
    """All rows as a file."""

    scopes, permissions = {"GET": READ}, PERMISSIONS

    @extend_schema(
        operation_id="compliance_export",
        parameters=[
            OpenApiParameter("what", str, OpenApiParameter.PATH, enum=["instances", "patches"]),
            OpenApiParameter("form", str, OpenApiParameter.PATH, enum=["csv", "json"]),
            WHICH,
            STATE,
            AT,
        ],
        responses={(200, "text/csv"): OpenApiTypes.STR, (200, "application/json"): OpenApiTypes.STR},
    )
    def get(self, request, what, form):
        """As they are read, however many they are. Audited."""
        return export.answer(request, scope_in(request), what=what, form=form)


urlpatterns = [
    path("compliance/", Summary.as_view(), name="compliance"),
    path("compliance/instances/", Instances.as_view(), name="compliance_instances"),
    path("compliance/instances/<uuid:pk>/", OneInstance.as_view(), name="compliance_instance"),
    path("compliance/instances/<uuid:pk>/reports/", InstanceReports.as_view(), name="compliance_reports"),
    path("compliance/instances/<uuid:pk>/patches/", InstancePatches.as_view(), name="compliance_instance_patches"),
    path("compliance/cves/", Cves.as_view(), name="compliance_cves"),
    path("compliance/cves/<str:name>/", OneCve.as_view(), name="compliance_cve"),
    path("compliance/cves/<str:name>/instances/", CveInstances.as_view(), name="compliance_cve_instances"),
    path("compliance/patches/", Patches.as_view(), name="compliance_patches"),
    path("compliance/trend/", TrendOf.as_view(), name="compliance_trend"),
    path("compliance/heat/", Heat.as_view(), name="compliance_heat"),
    path("compliance/export/<str:what>.<str:form>", Export.as_view(), name="compliance_export"),
    *hub_api.urlpatterns,
]
