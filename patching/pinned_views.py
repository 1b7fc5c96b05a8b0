"""Pinned patch sets: all of them, one with its list, and how one is frozen."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.text import slugify
from django.views.decorators.http import require_http_methods, require_safe

from fleetops.errors import UserError
from fleetops.inventory.models import Instance
from fleetops.web.shortcuts import permission_required

from . import pinned
from .listing import id_of
from .models import PinnedSet
from .views import ROWS, TABS, VIEW
from .writing import CHANGE_PERMISSION

MOST_CHOICES = 200


@require_safe
@permission_required(VIEW)
def sets(request: HttpRequest) -> HttpResponse:
    """All pinned sets, the newest first."""
    found = PinnedSet.objects.visible_to(request.user)
    page = Paginator(found, ROWS).get_page(request.GET.get("page"))
    rows = list(page)
    context = {"tabs": TABS, "page": page, "rows": rows, "may_change": request.user.has_perm(CHANGE_PERMISSION)}
    return render(request, "patching/sets.html", context)


@require_safe
@permission_required(VIEW)
def pinned_set(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """One set: what is in it, from which nodes, and whether it is whole."""
    found = get_object_or_404(PinnedSet.objects.visible_to(request.user), pk=pk)
    broken = ""
    text = ""
    try:
        text = pinned.override_list(found)
    except UserError as error:
        broken = str(error)
    context = {"set": found, "text": text, "broken": broken, "entries": found.entries}
    return render(request, "patching/set.html", context)


@require_safe
@permission_required(VIEW)
def override_list(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """The set as the YAML that AWS-RunPatchBaseline takes as InstallOverrideList."""
    found = get_object_or_404(PinnedSet.objects.visible_to(request.user), pk=pk)
    answer = HttpResponse(pinned.override_list(found), content_type="application/yaml; charset=utf-8")
    answer["Content-Disposition"] = f'attachment; filename="{slugify(found.name) or "patches"}.yaml"'
    return answer


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(CHANGE_PERMISSION)
def freeze(request: HttpRequest) -> HttpResponse:
    """Freeze what nodes have installed. Query: `q`, words in the names and ids of the nodes to choose from."""
    asked = request.GET.get("q", "").replace("\x00", "").strip()[:200]
    visible = Instance.objects.visible_to(request.user).present().exclude(ssm_read_at=None)
    wrong = ""
    if request.method == "POST":
        chosen = [pk for pk in map(id_of, request.POST.getlist("nodes")) if pk is not None]
        nodes = list(visible.filter(pk__in=chosen[: pinned.MOST_NODES + 1]).select_related("account", "region"))
        try:
            name = " ".join(request.POST.get("name", "").replace("\x00", "").split())
            if not 1 <= len(name) <= 128:
                raise UserError("Give the set a name of up to 128 characters.")
            since = _moment(request.POST.get("since", ""))
            made = pinned.freeze(nodes, name=name, since=since, actor=request.user)
        except UserError as error:
            wrong = str(error)
        else:
            count = len(made.entries)
            messages.success(request, f"Froze {count:,} patch{'' if count == 1 else 'es'} as {made}.")
            return redirect(made)
    choices = visible.select_related("account", "region")
    for word in asked.split()[:8]:
        choices = choices.filter(name__icontains=word) | choices.filter(instance_id__icontains=word)
    rows = list(choices.order_by("name", "instance_id")[: MOST_CHOICES + 1])
    context = {
        "rows": rows[:MOST_CHOICES],
        "has_more": len(rows) > MOST_CHOICES,
        "asked": asked,
        "wrong": wrong,
        "chosen": set(request.POST.getlist("nodes")),
        "name": request.POST.get("name", ""),
        "since": request.POST.get("since", ""),
        "most": pinned.MOST_NODES,
    }
    return render(request, "patching/freeze.html", context, status=400 if wrong else 200)


def _moment(text: str) -> datetime | None:
    """A browser's date and time, in UTC; None for nothing."""
    if not text.strip():
        return None
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise UserError(f"“{text[:40]}” is no date and time. Write one as 2026-11-30T14:00, in UTC.") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
