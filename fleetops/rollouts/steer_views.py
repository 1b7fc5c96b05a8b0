"""What people do to a run from its pages. Who may, and whether it can be done now, says steering.py."""

from __future__ import annotations

import uuid

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.views.decorators.http import require_POST

from fleetops.web.shortcuts import permission_required

from . import listing, steering, tasks
from .models import START_PERMISSION, GateCheck, Run
from .states import TargetState
from .views import STEER, position_of, visible_run


def _reason(request: HttpRequest) -> str:
    text = request.POST.get("reason", "")
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())[:256]


def _done(found: Run, request: HttpRequest, text: str) -> HttpResponse:
    messages.success(request, text)
    tasks.advance_run.delay_on_commit(str(found.pk))
    return redirect(found)


@require_POST
@permission_required(START_PERMISSION)
def start(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Let a plan go, exactly the one that was on the page; for more than 100 targets their number has been typed."""
    found = get_object_or_404(Run.objects.filter(actor=request.user), pk=pk)
    planned = found.targets.exclude(state=TargetState.SKIPPED).count()
    typed = request.POST.get("count", "").replace(",", "").strip()
    if found.is_draft and planned > listing.SURE_FROM and typed != str(planned):
        messages.warning(request, f"Type {planned} to start it: it is for {planned:,} targets.")
        return redirect(found)
    steering.release(found, actor=request.user, plan_hash=request.POST.get("plan_hash", ""))
    tasks.advance_run.delay_on_commit(str(found.pk))
    return redirect(found)


@require_POST
@permission_required(*STEER)
def pause(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    found = visible_run(request, pk)
    steering.pause(found, actor=request.user, reason=_reason(request))
    return _done(found, request, "Paused. What was sent goes on to its end; nothing more is sent.")


@require_POST
@permission_required(*STEER)
def resume(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    found = visible_run(request, pk)
    steering.resume(found, actor=request.user, reason=_reason(request))
    return _done(found, request, "It goes on.")


@require_POST
@permission_required(*STEER)
def abort(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """For good. `cancel` asks AWS to end what runs already."""
    found = visible_run(request, pk)
    total = found.targets.exclude(wave=None).count()
    if total > listing.SURE_FROM and request.POST.get("count", "").replace(",", "").strip() != str(total):
        messages.warning(request, f"Type {total} to abort it: it has {total:,} targets. Nothing was changed.")
        return redirect(found)
    steering.abort(found, actor=request.user, reason=_reason(request), cancel="cancel" in request.POST)
    return _done(found, request, "Aborted: nothing more is sent. What was sent is awaited.")


@require_POST
@permission_required(*STEER)
def retry(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """All targets that failed, or those of `wave`, a position."""
    found = visible_run(request, pk)
    position = request.POST.get("wave", "")
    wave = get_object_or_404(found.waves, position=position_of(position)) if position else None
    count = steering.retry_failed(found, actor=request.user, wave=wave, reason=_reason(request))
    return _done(found, request, f"{count:,} {'target is' if count == 1 else 'targets are'} tried again.")


@require_POST
@permission_required(*STEER)
def retry_target(request: HttpRequest, pk: uuid.UUID, target_pk: uuid.UUID) -> HttpResponse:
    found = visible_run(request, pk)
    target = get_object_or_404(found.targets, pk=target_pk)
    steering.retry_failed(found, actor=request.user, target=target, reason=_reason(request))
    return _done(found, request, f"{target} is tried again.")


@require_POST
@permission_required(*STEER)
def waive(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Let waves go without what could not be made for them."""
    found = visible_run(request, pk)
    steering.waive_preparation(found, actor=request.user, reason=_reason(request))
    return _done(found, request, "The waves that are not prepared go without.")


@require_POST
@permission_required(*STEER)
def forward(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    found = visible_run(request, pk)
    steering.roll_forward(found, actor=request.user, reason=_reason(request))
    return _done(found, request, "The failures so far are accepted; it goes on.")


@require_POST
@permission_required(*STEER)
def skip_target(request: HttpRequest, pk: uuid.UUID, target_pk: uuid.UUID) -> HttpResponse:
    found = visible_run(request, pk)
    target = get_object_or_404(found.targets, pk=target_pk)
    steering.skip_target(target, actor=request.user, reason=_reason(request))
    return _done(found, request, f"{target} is left out.")


@require_POST
@permission_required(*STEER)
def skip_wave(request: HttpRequest, pk: uuid.UUID, position: int) -> HttpResponse:
    found = visible_run(request, pk)
    wave = get_object_or_404(found.waves, position=position_of(str(position)))
    steering.skip_wave(wave, actor=request.user, reason=_reason(request))
    return _done(found, request, f"What {wave} had not sent is left out.")


@require_POST
@permission_required(*STEER)
def overrule(request: HttpRequest, pk: uuid.UUID, gate_pk: uuid.UUID) -> HttpResponse:
    """Go on in spite of a gate."""
    found = visible_run(request, pk)
    gate = get_object_or_404(GateCheck.objects.filter(wave__run=found), pk=gate_pk)
    steering.overrule_gate(gate, actor=request.user, reason=_reason(request))
    return _done(found, request, "The gate is overruled; it goes on.")


@require_POST
@permission_required(*STEER)
def override(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Ask others to let the run go through freezes."""
    found = visible_run(request, pk)
    steering.ask_override(found, actor=request.user, reason=_reason(request))
    messages.success(request, "Others are asked to let it go through freezes.")
    return redirect(found)
