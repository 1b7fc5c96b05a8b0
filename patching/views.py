"""Baselines: all of them, and one."""

from __future__ import annotations

import uuid

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_safe

from fleetops.web.shortcuts import permission_required

from .models import PatchBaseline

VIEW = "patching.view_patchbaseline"
ROWS = 100


@require_safe
@permission_required(VIEW)
def baselines(request: HttpRequest) -> HttpResponse:
    """All baselines, by name: a page of 100."""
    found = PatchBaseline.objects.visible_to(request.user).present().select_related("account", "region")
    page = Paginator(found, ROWS).get_page(request.GET.get("page"))
    return render(request, "patching/baselines.html", {"page": page, "rows": list(page)})


@require_safe
@permission_required(VIEW)
def baseline(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    found = get_object_or_404(PatchBaseline.objects.visible_to(request.user).select_related("account", "region"), pk=pk)
    return render(request, "patching/baseline.html", {"baseline": found})
