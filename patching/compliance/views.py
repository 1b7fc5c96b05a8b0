"""Patch compliance: the whole, its instances, patches and CVEs, now and at any moment before."""

from __future__ import annotations

import uuid
from collections import Counter
from datetime import timedelta
from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import F
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from fleetops.inventory.models import Instance
from fleetops.targets import comparison
from fleetops.web.shortcuts import permission_required
from patching import groups

from . import asking, charts, export, heat, services
from .asking import STATES, Scope
from .models import Finding, Hub, PatchSpan, Reader, Report, Sla, SpanCve, SsmFinding, Trend
from .verdict import LACKING, PatchState

SEE = "inventory.view_instance"
CHANGE_SLA = "compliance.change_sla"
CHANGE_HUB = "compliance.change_hub"
ROWS = 100
MOST_TARGETS = 150  # ids that one target expression has room for
DAYS = 90
TAGS_READ, MOST_TAGS = 500, 30
MOST_CVES = 12  # on the overview
MOST_SPANS = 500
MOST_REPORTS = 50


def _tabs(request: HttpRequest) -> list[tuple[str, str]]:
    kept = request.GET.get("at", "")
    query = f"?at={kept}" if kept else ""
    return [
        (f"compliance:{name}", label, query)
        for name, label in (
            ("overview", "Overview"),
            ("instances", "Instances"),
            ("cves", "CVEs"),
            ("patches", "Patches"),
            ("hub", "Security Hub"),
            ("deadlines", "Deadlines"),
        )
    ]


def _shared(request: HttpRequest, scope: Scope) -> dict[str, Any]:
    query = request.GET.copy()
    query.pop("page", None)
    return {
        "tabs": _tabs(request),
        "scope": scope,
        "asked_at": request.GET.get("at", "") if scope.moment else "",
        "query": query.urlencode(),
        "failing": list(Reader.objects.exclude(error="").select_related("region__account")),
    }


def _is_part(request: HttpRequest) -> bool:
    return bool(getattr(request, "htmx", False)) and not request.htmx.boosted


@require_safe
@permission_required(SEE)
def overview(request: HttpRequest) -> HttpResponse:
    """How the fleet stands: figures, trend, deadlines, the most widespread CVEs, weeks by group, account, tag.

    Query: `q` (a target expression), `at` (a moment), `by` (asking.GROUPINGS, tag:KEY, or tag with `tag`, the key).
    """
    scope = asking.scope_of(request.user, request.GET)
    by = _axis(request.GET.get("by", ""), request.GET.get("tag", ""))
    points = _points(request, scope)
    rows = list(asking.open_cves(scope)[:MOST_CVES])
    clocks = asking.deadlines(scope)
    context = {
        **_shared(request, scope),
        "figures": asking.figures(scope),
        "deadlines": clocks,
        "cves": with_details(scope, rows),
        "most": max((each["instances"] for each in rows), default=0),
        "cve_count": asking.open_cves(scope).count(),
        "chart": charts.draw(points, until=scope.at, days=DAYS),
        "first_hour": points[0] if points else None,
        "second_hour": points[0].at + timedelta(hours=1) if points else None,
        "heat": heat.heat(scope, by),
        "by": by,
        "tag": by.removeprefix("tag:") if by.startswith("tag:") else "",
        "tags": _tags_of(scope),
        "groupings": list(asking.GROUPINGS.items()),
        "overdue": sum(each.past for each in clocks),
        "days": DAYS,
    }
    return render(request, "compliance/overview.html", context)


def _axis(by: str, tag: str) -> str:
    """What the heat is grouped by: patch groups where nothing else is meant."""
    if by == "tag":
        by = f"tag:{tag.strip()}"
    if by.startswith("tag:") and len(by) > 4:
        return by.replace("\x00", "")[:132]  # AWS's longest key, and ours before it
    return by if by in asking.GROUPINGS else "group"


def _tags_of(scope: Scope) -> list[str]:
    """Keys of tags to choose among: the commonest of some instances."""
    some = scope.instances().order_by().values_list("tags", flat=True)[:TAGS_READ]
    counts = Counter(key for tags in some for key in tags or {} if key not in groups.TAGS and key != "Name")
    return [key for key, _ in counts.most_common(MOST_TAGS)]


def _points(request: HttpRequest, scope: Scope) -> list[charts.Point]:
    """The trend of all that the user may see; an expression has none of its own."""
    if scope.text:
        return []
    regions = Instance.objects.visible_to(request.user).order_by().values("region").distinct()
    rows = Trend.objects.filter(region__in=regions, hour__gt=scope.at - timedelta(days=DAYS), hour__lte=scope.at)
    told = (
        (hour, instances - never, instances - never - compliant)
        for hour, instances, never, compliant in rows.values_list("hour", "instances", "never_scanned", "compliant")
    )
    return charts.summed(told)


def with_details(scope: Scope, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    details = asking.details_of(scope, [each["cve"] for each in rows])
    days = asking.slas()
    for each in rows:
        found = details.get(each["cve"], {"severity": "", "patches": []})
        each["severity"], each["names"] = found["severity"], found["patches"]
        each["clock"] = asking.clock(found["severity"], each["since"], at=scope.at, days=days)
    return rows


@require_safe
@permission_required(SEE)
def instances(request: HttpRequest) -> HttpResponse:
    """Instances and their last report, the worst first, in pages of 100. Query: `q`, `state`, `at`, `page`."""
    scope = asking.scope_of(request.user, request.GET)
    found: Any
    if scope.state == "never":
        found = scope.never().select_related("account", "region").order_by("name", "instance_id")
    else:
        found = scope.reports().select_related("instance__account", "instance__region")
        found = found.order_by("is_compliant", "-critical", "-missing", "-failed", "instance__name", "pk")
    page = Paginator(found, ROWS).get_page(request.GET.get("page"))
    context = {
        **_shared(request, scope),
        "page": page,
        "rows": [(each, None) if scope.state == "never" else (each.instance, each) for each in page],
        "states": STATES.items(),
        "old": scope.at - asking.OLD,
        "never": scope.never().count(),
        "patch": _patch_these(scope, found, page) if page else None,
    }
    return render(request, "compliance/_instances.html" if _is_part(request) else "compliance/instances.html", context)


def _patch_these(scope: Scope, found: Any, page: Any) -> tuple[str, str]:
    """A target expression for what a list shows, and what a button with it says.

    What a state selects no expression says: then by their ids, of all where they are few, else of this page.
    """
    if not scope.state:
        return scope.text or "all", "these"
    if page.paginator.count <= MOST_TARGETS:
        column = "instance_id" if scope.state == "never" else "instance__instance_id"
        ids = list(found.values_list(column, flat=True))
    else:
        ids = [each.instance_id if scope.state == "never" else each.instance.instance_id for each in page]
    return _these(ids, page.paginator.count)


def _these(ids: list[str], count: int) -> tuple[str, str]:
    ids = list(dict.fromkeys(ids))[:MOST_TARGETS]
    return str(comparison("id", *ids)), "these" if count <= len(ids) else f"these {len(ids)}"


@require_safe
@permission_required(SEE)
def instance(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """One instance at a moment: its report, its patches, and every report that it ever made. Query: `at`, `state`."""
    visible = Instance.objects.visible_to(request.user).select_related("account", "region")
    found = get_object_or_404(visible, pk=pk)
    scope = Scope(request.user, moment=asking.moment_in(request.GET.get("at", "")))
    reports = Report.objects.filter(instance=found)
    until = reports.filter(ended_at__lte=scope.at) if scope.moment else reports
    spans = PatchSpan.objects.filter(instance=found)
    spans = spans.open() if scope.moment is None else spans.at(scope.moment)
    counts = {each.value: 0 for each in PatchState}
    for state in spans.values_list("state", flat=True):
        counts[state] += 1
    state = request.GET.get("state", "")
    shown = spans.filter(state=state) if state in counts else spans
    days = asking.slas()
    first = F("lacks_since").asc(nulls_last=True)  # what it lacks is not cut off
    rows = list(shown.order_by(first, "kb_id", "pk").prefetch_related("cves")[:MOST_SPANS])
    rows.sort(key=lambda each: (each.state not in LACKING, asking.rank(each.severity), each.kb_id))
    for each in rows:
        each.clock = asking.clock(each.severity, each.lacks_since, at=scope.at, days=days)
    context = {
        **_shared(request, scope),
        "instance": found,
        "report": until.first(),
        "standing": getattr(found, "patch_standing", None),
        "spans": rows,
        "total": spans.count(),
        "counts": [(key, count) for key, count in counts.items() if count],
        "state": state if state in counts else "",
        "reports": list(reports[:MOST_REPORTS]),
        "most": MOST_SPANS,
    }
    return render(request, "compliance/instance.html", context)


@require_safe
@permission_required(SEE)
def cves(request: HttpRequest) -> HttpResponse:
    """CVEs that instances lack a patch of, the most widespread first. Query: `q`, `find` (words), `at`, `page`."""
    scope = asking.scope_of(request.user, request.GET)
    words = request.GET.get("find", "").replace("\x00", "").strip()[:200]
    page = Paginator(asking.open_cves(scope, words), ROWS).get_page(request.GET.get("page"))
    rows = with_details(scope, list(page))
    context = {
        **_shared(request, scope),
        "page": page,
        "cves": rows,
        "find": words,
        "most": max((each["instances"] for each in rows), default=0),
    }
    return render(request, "compliance/_cves.html" if _is_part(request) else "compliance/cves.html", context)


@require_safe
@permission_required(SEE)
def cve(request: HttpRequest, name: str) -> HttpResponse:
    """One CVE: who lacks a patch of it and since when, and when each of the others got one. Query: `q`, `at`."""
    scope = asking.scope_of(request.user, request.GET)
    with_it = SpanCve.objects.filter(cve=name.upper()).values("span")
    there = scope.instances()
    spans = PatchSpan.objects.filter(pk__in=with_it, instance__in=there).select_related("instance")
    now = scope.spans().filter(pk__in=with_it).select_related("instance__account", "instance__region")
    lacking = now.filter(state__in=LACKING).order_by("lacks_since", "instance__name")
    got = now.filter(state__in=["INSTALLED", "INSTALLED_PENDING_REBOOT"]).order_by("-from_at", "instance__name")
    if not spans.exists():
        lacking, got = lacking.none(), got.none()
    page = Paginator(lacking, ROWS).get_page(request.GET.get("page"))
    days = asking.slas()
    rows = list(page)
    for each in rows:
        each.clock = asking.clock(each.severity, each.lacks_since, at=scope.at, days=days)
    context = {
        **_shared(request, scope),
        "cve": name.upper(),
        "page": page,
        "rows": rows,
        "patch": _these([each.instance.instance_id for each in rows], page.paginator.count) if rows else None,
        "got": list(got[:ROWS]),
        "got_count": got.count(),
        "names": sorted(set(now.values_list("kb_id", flat=True)))[:20],
        "is_known": spans.exists(),
    }
    return render(request, "compliance/cve.html", context)


@require_safe
@permission_required(SEE)
def patches(request: HttpRequest) -> HttpResponse:
    """Patches that keep instances from complying. Query: `q`, `find`, `standing` (a state), `only`, `at`, `page`."""
    scope = asking.scope_of(request.user, request.GET)
    words = request.GET.get("find", "").replace("\x00", "").strip()[:200]
    state = request.GET.get("standing", "")
    state = state if state in {each.value for each in PatchState} else ""
    only_overdue = request.GET.get("only") == "overdue"
    found = asking.patches(scope, words, state, only_overdue=only_overdue)
    page = Paginator(found, ROWS).get_page(request.GET.get("page"))
    days = asking.slas()
    rows = list(page)
    for each in rows:
        each["clock"] = asking.clock(each["severity"], each["since"], at=scope.at, days=days)
    context = {
        **_shared(request, scope),
        "page": page,
        "patches": rows,
        "find": words,
        "standing": state,
        "only_overdue": only_overdue,
        "kept": [each.value for each in PatchState if each not in {"INSTALLED_OTHER", "NOT_APPLICABLE"}],
        "most": max((each["instances"] for each in rows), default=0),
    }
    return render(request, "compliance/_patches.html" if _is_part(request) else "compliance/patches.html", context)


@require_safe
@permission_required(SEE)
def take_away(request: HttpRequest, what: str, form: str) -> HttpResponse:
    """The instances or the patches of a scope as a file: csv or json. Audited."""
    return export.answer(request, asking.scope_of(request.user, request.GET), what=what, form=form)


@require_safe
@permission_required(SEE)
def report(request: HttpRequest) -> HttpResponse:
    """All of a scope on one page that prints well. Query: `q`, `state`, `at`."""
    scope = asking.scope_of(request.user, request.GET)
    found = scope.reports().filter(is_compliant=False).select_related("instance__account", "instance__region")
    found = found.order_by("-critical", "-missing", "instance__name", "pk")
    context = {
        **_shared(request, scope),
        "figures": asking.figures(scope),
        "deadlines": asking.deadlines(scope),
        "cves": with_details(scope, list(asking.open_cves(scope)[:ROWS])),
        "rows": list(found[: export.MOST_PRINTED]),
        "most": export.MOST_PRINTED,
        "count": found.count(),
    }
    return render(request, "compliance/report.html", context)


# --- Security Hub and deadlines --------------------------------------------------------------------------------------


@require_safe
@permission_required(SEE)
def hub(request: HttpRequest) -> HttpResponse:
    """Where findings go, how that goes; ours, and Patch Manager's own."""
    visible = Instance.objects.visible_to(request.user)
    regions = visible.order_by().values("region").distinct()
    ours = Finding.objects.filter(instance__in=visible).select_related("instance", "account", "region")
    theirs = SsmFinding.objects.filter(region__in=regions, instance__in=visible).select_related("instance", "region")
    context = {
        **_shared(request, Scope(request.user)),
        "hubs": list(Hub.objects.filter(region__in=regions).select_related("region__account")),
        "ours": list(ours.order_by("-is_failed", "-changed_at")[:ROWS]),
        "failed": ours.filter(is_failed=True).count(),
        "waiting": ours.exclude(due_at=None).count(),
        "theirs": list(theirs[:ROWS]),
        "their_count": theirs.count(),
        "may_change": request.user.has_perm(CHANGE_HUB),
    }
    return render(request, "compliance/hub.html", context)


@require_POST
@permission_required(CHANGE_HUB)
def switch_hub(request: HttpRequest, pk: int) -> HttpResponse:
    """Let findings of a region go to Security Hub, or not."""
    found = get_object_or_404(Hub.objects.select_related("region__account"), pk=pk)
    enabled = request.POST.get("enabled") == "1"
    services.switch_hub(found, enabled, actor=request.user)
    words = "go to Security Hub" if enabled else "no longer go to Security Hub"
    messages.success(request, f"Findings of {found.region} {words}.")
    return redirect("compliance:hub")


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(SEE)
def deadlines(request: HttpRequest) -> HttpResponse:
    """By when missing patches have to be installed, by severity; whoever may changes it."""
    may_change = request.user.has_perm(CHANGE_SLA)
    problem: dict[str, str] = {}
    if request.method == "POST":
        problem = services.change_slas(request.POST, actor=request.user)
        if not problem:
            messages.success(request, "The deadlines are changed; clocks count by them at once.")
            return redirect("compliance:deadlines")
    scope = Scope(request.user)
    context = {
        **_shared(request, scope),
        "rows": services.sla_rows(request.POST if problem else None),
        "problem": problem,
        "deadlines": asking.deadlines(scope),
        "may_change": may_change,
        "changed": Sla.objects.order_by("-changed_at").first(),
    }
    return render(request, "compliance/deadlines.html", context, status=400 if problem else 200)
