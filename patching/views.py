"""Baselines: all of them, one, its versions, and what is done with a click."""

from __future__ import annotations

import re
import uuid

from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from fleetops.clock import now
from fleetops.errors import UserError
from fleetops.inventory.models import Account, Region
from fleetops.web.shortcuts import permission_required

from . import content, groups, halfway, mirror, services
from .families import OPERATING_SYSTEMS
from .listing import FILTERS, filtered
from .models import BaselineVersion, Mirror, PatchBaseline, Write
from .states import WriteState
from .writing import CHANGE_PERMISSION

VIEW = "patching.view_patchbaseline"
ROWS = 100
TABS = (
    ("patching:baselines", "Baselines"),
    ("patching:groups", "Patch groups"),
    ("patching:sets", "Pinned sets"),
    ("patching:lists", "Lists"),
)


@require_safe
@permission_required(VIEW)
def baselines(request: HttpRequest) -> HttpResponse:
    """All baselines, by name: a page of 100.

    Query: `q` (words in name, description and groups), `owner` ("own", "aws"), `system`, `account`, `region`,
    `only` ("drifted", "default"), `page`.
    """
    asked = {key: request.GET.get(key, "").replace("\x00", "").strip()[:200] for key in FILTERS}
    visible = PatchBaseline.objects.visible_to(request.user).present()
    found = filtered(visible, asked).select_related("account", "region").prefetch_related("groups")
    found = found.order_by("-owner", "name", "account__name", "region__name", "pk")  # one's own before AWS's
    page = Paginator(found, ROWS).get_page(request.GET.get("page"))
    rows = list(page)
    counts = groups.counts_of(rows, request.user)
    for row in rows:
        row.nodes = counts.get(row.pk, 0)
    query = request.GET.copy()
    query.pop("page", None)
    mirrors = list(Mirror.objects.filter(region__enabled=True).select_related("region__account"))
    context = {
        "tabs": TABS,
        "page": page,
        "rows": rows,
        "asked": asked,
        "query": query.urlencode(),
        "systems": OPERATING_SYSTEMS.items(),
        "accounts": list(Account.objects.values("account_id", "name")),
        "failing": [each for each in mirrors if each.error],
        "is_reading": not mirrors or any(each.read_at is None and not each.error for each in mirrors),
        "half": halfway.pending(Write.objects.all()),
        "total": visible.count() if any(asked.values()) else page.paginator.count,
        "own": visible.own().count(),
        "drifted": visible.drifted().count(),
        "may_change": request.user.has_perm(CHANGE_PERMISSION),
    }
    is_part = getattr(request, "htmx", False) and not request.htmx.boosted
    return render(request, "patching/_baselines.html" if is_part else "patching/baselines.html", context)


@require_safe
@permission_required(VIEW)
def baseline(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """One baseline: what it approves, on how many nodes, its groups and versions, and what was changed elsewhere."""
    found = visible_baseline(request, pk)
    problem = mirror.look(found, session_name=request.user.username, now=now())
    versions = list(found.versions.all()[:50])
    by_number = {each.number: each for each in versions}
    chosen = by_number.get(_number(request.GET.get("version", ""))) or by_number.get(found.version)
    kept = by_number.get(found.kept_version)
    nodes = groups.nodes_of(found, request.user)
    by_group = nodes.order_by().values("patch_group").annotate(count=Count("pk"))
    may_change = request.user.has_perm(CHANGE_PERMISSION)
    context = {
        "baseline": found,
        "said": chosen.said if chosen else found.said,
        "version": chosen,
        "versions": versions,
        "before": next((each.number for each in versions if chosen and each.number < chosen.number), None),
        "problem": problem,
        "drift": content.changed_only(content.compare(kept.said, found.said)) if found.is_drifted and kept else [],
        "kept": kept,
        "groups": list(found.groups.all()),
        "nodes": nodes.count(),
        "by_group": list(by_group.order_by("patch_group")[:50]),
        "half": halfway.pending(found.writes.all()),
        "open_write": found.writes.filter(state=WriteState.OPEN).first(),
        "elsewhere": list(
            PatchBaseline.objects.visible_to(request.user)
            .present()
            .filter(name=found.name, operating_system=found.operating_system)
            .exclude(pk=found.pk)
            .select_related("account", "region")[:50]
        ),
        "may_change": may_change and found.gone_at is None,
        "may_edit": may_change and found.gone_at is None and found.is_own,
        "may_review": request.user.has_perm("audit.view_auditevent"),
    }
    return render(request, "patching/baseline.html", context)


@require_safe
@permission_required(VIEW)
def compare(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Two versions: `?left=1&right=2`."""
    found = visible_baseline(request, pk)
    sides = [
        BaselineVersion.objects.filter(baseline=found, number=_number(request.GET.get(side, "")))
        .select_related("baseline")
        .first()
        for side in ("left", "right")
    ]
    if None in sides:
        raise UserError(f"Choose two of the versions of {found}.")
    left, right = sides
    context = {
        "baseline": found,
        "versions": list(found.versions.values_list("number", flat=True)),
        "left": left,
        "right": right,
        "lines": content.compare(left.said, right.said),
    }
    return render(request, "patching/compare.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(CHANGE_PERMISSION)
def copy(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Choose places; then have each say the same. Where one of that name is, it is changed."""
    found = visible_baseline(request, pk)
    services.require_own(found)
    places = copy_places(found.said, found.region_id)
    wrong = ""
    if request.method == "POST":
        chosen = set(request.POST.getlist("places"))
        regions = [each["region"] for each in places if str(each["region"].pk) in chosen]
        try:
            batch = services.copy(found.said, regions, tags=found.tags, actor=request.user)
        except UserError as error:
            wrong = str(error)
        else:
            return redirect("patching:writes", batch)
    context = {"baseline": found, "places": places, "wrong": wrong}
    return render(request, "patching/copy.html", context, status=400 if wrong else 200)


def copy_places(said: content.Content, but_region: int | None = None) -> list[dict]:
    """Every region that is on, and what stands there under the name: "", "same" or "differs"."""
    regions = Region.objects.filter(enabled=True, account__enabled=True).exclude(pk=but_region)
    there = PatchBaseline.objects.present().own().filter(name=said.name, operating_system=said.operating_system)
    held = {row.region_id: row for row in there}
    return [
        {
            "region": region,
            "there": held.get(region.pk),
            "is_same": region.pk in held and held[region.pk].said.digest == said.digest,
        }
        for region in regions.select_related("account")
    ]


@require_safe
@permission_required(VIEW)
def writes(request: HttpRequest, batch: uuid.UUID) -> HttpResponse:
    """What became of one click, place by place."""
    rows = list(Write.objects.filter(batch=batch).select_related("region__account", "baseline"))
    if not rows:
        return get_object_or_404(Write, batch=batch)  # there is none
    context = {
        "rows": rows,
        "name": rows[0].name,
        "open": sum(each.is_open for each in rows),
        "done": sum(each.state == WriteState.DONE for each in rows),
        "failed": sum(each.state in {WriteState.REFUSED, WriteState.CONFLICT} for each in rows),
        "batch": batch,
        "half": halfway.pending(Write.objects.filter(batch=batch)),
    }
    is_part = getattr(request, "htmx", False) and not request.htmx.boosted
    return render(request, "patching/_writes.html" if is_part else "patching/writes.html", context)


@require_POST
@permission_required(CHANGE_PERMISSION)
def make_default(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    found = visible_baseline(request, pk)
    services.make_default(found, actor=request.user)
    messages.success(
        request, f"{found} is the default of {found.get_operating_system_display()} in {found.region} now."
    )
    return redirect(found)


@require_POST
@permission_required(CHANGE_PERMISSION)
def accept(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Take what was changed outside FleetOps as it is."""
    found = visible_baseline(request, pk)
    services.accept(found, number=_number(request.POST.get("version", "")), actor=request.user)
    messages.success(request, f"Accepted what AWS says of {found}.")
    return redirect(found)


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(CHANGE_PERMISSION)
def delete(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Ask whether it is meant, with the baseline's name typed; then delete it."""
    found = visible_baseline(request, pk)
    wrong = ""
    if request.method == "POST":
        if request.POST.get("name", "").strip() == found.name:
            services.delete(found, actor=request.user)
            messages.success(request, f"Deleted the baseline {found}.")
            return redirect("patching:baselines")
        wrong = "This is not its name."
    context = {"baseline": found, "wrong": wrong, "nodes": groups.nodes_of(found, request.user).count()}
    return render(request, "patching/delete.html", context, status=400 if wrong else 200)


def visible_baseline(request: HttpRequest, pk: uuid.UUID) -> PatchBaseline:
    return get_object_or_404(
        PatchBaseline.objects.visible_to(request.user).select_related("account", "region__account"), pk=pk
    )


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"[0-9]{1,8}", text) else 0
