"""Buttons beside a change that stands half way: go on with it, or take it back."""

from __future__ import annotations

import uuid

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.views.decorators.http import require_POST

from fleetops.web.shortcuts import permission_required

from . import halfway
from .models import Write
from .writing import CHANGE_PERMISSION


@require_POST
@permission_required(CHANGE_PERMISSION)
def resume(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Have the rest done."""
    write = halfway.resume(_write(pk), actor=request.user)
    messages.success(request, f"The rest is being written to {write.region}.")
    return redirect("patching:writes", write.batch)


@require_POST
@permission_required(CHANGE_PERMISSION)
def roll_back(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Have things put back as they were before."""
    write = halfway.roll_back(_write(pk), actor=request.user)
    messages.success(request, f"It is being put back as it was in {write.region}.")
    return redirect("patching:writes", write.batch)


def _write(pk: uuid.UUID) -> Write:
    return get_object_or_404(Write.objects.select_related("region__account", "baseline"), pk=pk)
