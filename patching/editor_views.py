"""The editor of a baseline, and beside it what would change on real nodes."""

from __future__ import annotations

import re
import uuid
from collections import Counter
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from fleetops.clock import now
from fleetops.errors import UserError
from fleetops.inventory.models import Instance, Region
from fleetops.web.shortcuts import permission_required

from . import content, groups, known, mirror, services
from .content import LEVELS, Content
from .drafts import Draft, filter_fields
from .families import OPERATING_SYSTEMS, Family, family_of, traits_of
from .listing import id_of
from .models import PatchBaseline
from .preview import Difference, compare
from .sound import Problem, is_date
from .views import copy_places, visible_baseline
from .writing import CHANGE_PERMISSION

ROWS_SHOWN = 12  # of what is newly approved, and of what no longer is
SHOWN_NAMES = 5


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(CHANGE_PERMISSION)
def create(request: HttpRequest) -> HttpResponse:
    """Make a baseline: `?system=UBUNTU` first, `?copy=<id>` to begin as another one; in one place or in several."""
    system = request.GET.get("system", "")
    begin = _begin(request)
    if begin is not None:
        system = begin.operating_system
    places = list(Region.objects.filter(enabled=True, account__enabled=True).select_related("account"))
    if system not in OPERATING_SYSTEMS or not places:
        counted: Counter[str] = Counter()
        for group in groups.overview(request.user):
            for part in group.parts.values():
                counted[part.operating_system] += part.nodes
        systems = [(value, name, counted.get(value, 0)) for value, name in OPERATING_SYSTEMS.items()]
        context = {"systems": systems, "has_regions": bool(places)}
        return render(request, "patching/choose.html", context)
    chosen = _chosen(request, places, begin)
    legal = known.legal_values(chosen[0], system, session_name=request.user.username, now=now())
    if request.method != "POST":
        draft = Draft.of(begin.said.with_name("") if begin is not None else Content(system))
        if begin is None:
            draft.do("add_rule")
        return _page(request, draft, legal, places=places, chosen=chosen)
    draft = Draft.posted(request.POST, system)
    tags = draft.tags()
    button = request.POST.get("do", "save")
    if button not in {"save", "preview"}:
        draft.do(button)
        draft.problems.clear()
        return _page(request, draft, legal, places=places, chosen=chosen)
    is_sound = draft.check(legal.values)
    if is_sound and button == "save":
        try:
            return _make(request, draft.content, tags, chosen)
        except UserError as error:
            draft.problems.append(Problem("", str(error)))
    return _page(request, draft, legal, places=places, chosen=chosen)


def _make(request: HttpRequest, said: Content, tags: dict[str, str], chosen: list[Region]) -> HttpResponse:
    taken = [each for each in copy_places(said) if each["there"] and each["region"] in chosen]
    if taken:
        names = ", ".join(str(each["region"]) for each in taken[:SHOWN_NAMES])
        raise UserError(f"There is a baseline {said.name} already in {names}. Change that one, or choose another name.")
    if len(chosen) == 1:
        made = services.create(chosen[0], said, tags=tags, actor=request.user)
        messages.success(
            request, f"Made the baseline {made}. It applies to no node until a group or a default names it."
        )
        return redirect(made)
    batch = services.copy(said, chosen, tags=tags, actor=request.user)
    return redirect("patching:writes", batch)


def _begin(request: HttpRequest) -> PatchBaseline | None:
    pk = id_of(request.GET.get("copy", ""))
    if pk is None:
        return None
    return PatchBaseline.objects.visible_to(request.user).select_related("region").filter(pk=pk).first()


def _chosen(request: HttpRequest, places: list[Region], begin: PatchBaseline | None) -> list[Region]:
    asked = set(request.POST.getlist("places") or request.GET.getlist("place"))
    found = [each for each in places if str(each.pk) in asked]
    if not found and begin is not None:
        found = [each for each in places if each.pk == begin.region_id]
    return found or places[:1]


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(CHANGE_PERMISSION)
def edit(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Change a baseline; `?version=3` begins as an older version of it."""
    found = visible_baseline(request, pk)
    services.require_own(found)
    legal = known.legal_values(found.region, found.operating_system, session_name=request.user.username, now=now())
    if request.method != "POST":
        problem = mirror.look(found, session_name=request.user.username, now=now())
        services.require_present(found)
        number = _number(request.GET.get("version", ""))
        older = found.versions.filter(number=number).first() if number else None
        return _page(request, Draft.of(older.said if older else found.said), legal, baseline=found, problem=problem)
    draft = Draft.posted(request.POST, found.operating_system)
    button = request.POST.get("do", "save")
    if button not in {"save", "preview"}:
        draft.do(button)
        draft.problems.clear()
        return _page(request, draft, legal, baseline=found)
    is_sound = draft.check(legal.values)
    if is_sound and button == "save":
        try:
            based_on = _number(request.POST.get("based_on", ""))
            services.update(found, draft.content, based_on=based_on, actor=request.user)
        except UserError as error:
            draft.problems.append(Problem("", str(error)))
            found = visible_baseline(request, pk)
            mirror.look(found, session_name=request.user.username, now=now())  # what differs is shown beside it
        else:
            messages.success(request, f"{found} has version {found.version} now, in AWS too.")
            return redirect(found)
    return _page(request, draft, legal, baseline=found)


@require_POST
@permission_required(CHANGE_PERMISSION)
def preview(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """The part of the page that says what would change, out of the form as it stands."""
    found = visible_baseline(request, pk)
    draft = Draft.posted(request.POST, found.operating_system)
    legal = known.legal_values(found.region, found.operating_system, session_name=request.user.username, now=now())
    draft.check(legal.values)
    return render(request, "patching/_preview.html", _preview(request, draft, found.region, found))


@require_POST
@permission_required(CHANGE_PERMISSION)
def preview_new(request: HttpRequest) -> HttpResponse:
    """The same of a baseline that is to be made."""
    system = request.POST.get("system", "")
    places = list(Region.objects.filter(enabled=True, account__enabled=True).select_related("account"))
    if system not in OPERATING_SYSTEMS or not places:
        raise UserError("Choose an operating system, and where the baseline is to lie.")
    chosen = _chosen(request, places, None)
    draft = Draft.posted(request.POST, system)
    legal = known.legal_values(chosen[0], system, session_name=request.user.username, now=now())
    draft.check(legal.values)
    return render(request, "patching/_preview.html", _preview(request, draft, chosen[0], None))


def _page(
    request: HttpRequest,
    draft: Draft,
    legal: known.Legal,
    *,
    baseline: PatchBaseline | None = None,
    places: list[Region] | None = None,
    chosen: list[Region] | None = None,
    problem: str = "",
) -> HttpResponse:
    region = baseline.region if baseline is not None else (chosen or [])[0]
    system = draft.content.operating_system
    context = {
        **_preview(request, draft, region, baseline),
        "baseline": baseline,
        "system": system,
        "system_name": OPERATING_SYSTEMS[system],
        "traits": traits_of(system),
        "is_windows": family_of(system) == Family.WINDOWS,
        "rules": draft.rule_fields(legal.values),
        "global_filters": filter_fields(system, "global", draft.content.global_filters, legal.values),
        "sources": draft.source_fields(),
        "levels": LEVELS,
        "legal": legal,
        "places": places or [],
        "chosen": {each.pk for each in chosen or []},
        "errors": {name: draft.of_field(name) for name in _FIELDS},
        "form_errors": draft.of_field(""),
        "problem": problem,
        "groups": list(baseline.groups.values_list("name", flat=True)) if baseline else [],
        "next_version": baseline.version + 1 if baseline else 1,
    }
    is_wrong = request.method == "POST" and bool(draft.problems)
    return render(request, "patching/editor.html", context, status=400 if is_wrong else 200)


_FIELDS = ("name", "description", "global", "approved", "rejected", "sources", "security_updates", "tags")


def _preview(request: HttpRequest, draft: Draft, region: Region, baseline: PatchBaseline | None) -> dict[str, Any]:
    """What a draft changes, over the patches that the region knows of. Context of patching/_preview.html."""
    said, moment = draft.content, now()
    row, is_due = known.ask(region, said.operating_system, now=moment)
    old = baseline.said if baseline is not None else None
    nodes: dict[str, dict[str, str]] = dict(row.nodes)
    users = 0
    if baseline is not None:
        using = groups.nodes_of(baseline, request.user)
        users = using.count()
        asked = {str(pk) for pk in using.filter(pk__in=list(nodes)).values_list("pk", flat=True)}
        nodes = {node: held for node, held in nodes.items() if node in asked}
    undatable = [rule.approve_until for rule in said.rules if rule.approve_until and not is_date(rule.approve_until)]
    is_countable = not draft.problems and not undatable
    found = compare(old, said, known.patches_of(row), nodes, now=moment) if is_countable else Difference()
    fall_out = Instance.objects.visible_to(request.user).filter(pk__in=found.fall_out[:SHOWN_NAMES])
    return {
        "draft": draft,
        "baseline": baseline,
        "found": found,
        "undatable": undatable,
        "newly": found.newly_approved[:ROWS_SHOWN],
        "no_longer": found.no_longer[:ROWS_SHOWN],
        "users": users,
        "fall_out": list(fall_out),
        "known": row,
        "is_reading": is_due or (row.read_at is None and not row.error),
        "lists_patches": known.lists_patches(said.operating_system),
        "diff": content.changed_only(content.compare(old, said)) if old is not None else [],
        "is_same": old is not None and old.digest == said.digest,
        "preview_system": OPERATING_SYSTEMS[said.operating_system],
    }


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"[0-9]{1,8}", text) else 0
