"""Patch groups: which nodes are in which, which baseline each has, and how they are registered."""

from __future__ import annotations

import re

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.http import urlencode
from django.views.decorators.http import require_POST, require_safe

from fleetops.inventory.models import Instance, Region
from fleetops.web.shortcuts import permission_required

from . import groups as grouping
from . import halfway, services
from .listing import id_of
from .models import Mirror, PatchBaseline, Write
from .states import Deed
from .views import ROWS, TABS, VIEW
from .writing import CHANGE_PERMISSION


@require_safe
@permission_required(VIEW)
def groups(request: HttpRequest) -> HttpResponse:
    """All groups, with their nodes by operating system and the baseline of each; last the nodes in none.

    Query: `q` (part of a name), `page`.
    """
    asked = request.GET.get("q", "").replace("\x00", "").strip()[:200]
    found = grouping.overview(request.user)
    named = [each for each in found if each.name]
    without = [each for each in found if not each.name]
    shown = [each for each in named if asked.casefold() in each.name.casefold()]
    page = Paginator(shown, ROWS).get_page(request.GET.get("page"))
    mirrors = Mirror.objects.filter(region__enabled=True).select_related("region__account")
    context = {
        "tabs": TABS,
        "page": page,
        "rows": list(page),
        "asked": asked,
        "query": urlencode({"q": asked}) if asked else "",
        "total": len(named),
        "without": without,
        "nodes_in": sum(each.nodes for each in named),
        "nodes_without": sum(each.nodes for each in without),
        "unregistered": sum(not each.is_registered for each in named),
        "failing": list(mirrors.exclude(error="")),
        "half": halfway.pending(Write.objects.filter(deed=Deed.REGISTER)),
        "may_change": request.user.has_perm(CHANGE_PERMISSION),
    }
    return render(request, "patching/groups.html", context)


@require_safe
@permission_required(VIEW)
def group(request: HttpRequest) -> HttpResponse:
    """One group of a region, `?region=<key>&name=web`, with its nodes; without a name the nodes in none."""
    region = _region(request.GET.get("region", ""))
    name = request.GET.get("name", "").replace("\x00", "")[:256]
    found = next(
        (each for each in grouping.overview(request.user, regions=[region]) if each.name == name),
        grouping.Group(name, region),
    )
    nodes = grouping.with_group(Instance.objects.visible_to(request.user).present().filter(region=region))
    nodes = nodes.filter(patch_group=name).select_related("account", "region")
    page = Paginator(nodes, ROWS).get_page(request.GET.get("page"))
    rows = list(page)
    baselines = grouping.baselines_of(rows)
    for row in rows:
        row.baseline, row.system = baselines[row], grouping.system_of(row)
    context = {
        "group": found,
        "region": region,
        "page": page,
        "rows": rows,
        "query": urlencode({"region": region.pk, "name": name}),
        "choices": list(PatchBaseline.objects.present().filter(region=region).order_by("operating_system", "name")),
        "may_change": request.user.has_perm(CHANGE_PERMISSION) and bool(name),
    }
    return render(request, "patching/group.html", context)


@require_POST
@permission_required(CHANGE_PERMISSION)
def register(request: HttpRequest) -> HttpResponse:
    """Register a group for a baseline; from another one it moves."""
    baseline = _baseline(request)
    name = services.check_group_name(request.POST.get("name", ""))
    services.register(baseline, name, actor=request.user)
    messages.success(request, f"The group {name} has {baseline} now, for {baseline.get_operating_system_display()}.")
    return redirect(_back(request, baseline, name))


@require_POST
@permission_required(CHANGE_PERMISSION)
def deregister(request: HttpRequest) -> HttpResponse:
    """Take a group from a baseline: its nodes have the default one then."""
    baseline = _baseline(request)
    name = request.POST.get("name", "")[:256]
    services.deregister(baseline, name, actor=request.user)
    messages.success(request, f"The group {name} has {baseline} no more; its nodes have the default one.")
    return redirect(_back(request, baseline, name))


def _back(request: HttpRequest, baseline: PatchBaseline, name: str) -> str:
    """To the page from which it was asked: the baseline's, or the group's."""
    if request.POST.get("back") == "baseline":
        return baseline.get_absolute_url()
    return f"{reverse('patching:group')}?{urlencode({'region': baseline.region_id, 'name': name})}"


def _baseline(request: HttpRequest) -> PatchBaseline:
    rows = PatchBaseline.objects.visible_to(request.user).select_related("account", "region__account")
    return get_object_or_404(rows, pk=id_of(request.POST.get("baseline", "")))


def _region(text: str) -> Region:
    pk = int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None
    return get_object_or_404(Region.objects.select_related("account"), pk=pk)
