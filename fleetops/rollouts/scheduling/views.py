"""Pages of schedules: the list, one with its history, making and changing one, and what people do with it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from fleetops import schedules
from fleetops.clock import now as clock_now
from fleetops.errors import Denied, FieldError, UserError
from fleetops.rollouts.models import SEE_PERMISSION, START_PERMISSION, STEER_PERMISSION, Run
from fleetops.rollouts.plan import Wanted
from fleetops.web.shortcuts import permission_required

from . import keeping, listing, presets, services, tasks, when
from .models import Occurrence, RunSchedule
from .states import MissedRule, OccurrenceState, OverlapRule

SEE = (SEE_PERMISSION, START_PERMISSION, STEER_PERMISSION)
STEER = (START_PERMISSION, STEER_PERMISSION)
ROWS, HISTORY = 25, 50
_LOCAL = "%Y-%m-%dT%H:%M"
_PLAIN = ("name", "zone", "drift", "open_minutes", "missed", "overlap", "starts", "from", "until", "targets", "reason")
_DEFAULTS = {"zone": "UTC", "missed": MissedRule.SKIP.value, "overlap": OverlapRule.SKIP.value, "starts": "itself"}


@require_safe
@permission_required(*SEE)
def schedules_list(request: HttpRequest) -> HttpResponse:
    """All that one may see, by name. Query: `q`, `page`. The part alone for htmx, which asks anew."""
    text = request.GET.get("q", "").replace("\x00", "").strip()[:200]
    found = RunSchedule.objects.visible_to(request.user)
    for word in text.split()[:8]:
        found = found.filter(name__icontains=word) | found.filter(owner_name__icontains=word)
    page = Paginator(found.distinct() if text else found, ROWS).get_page(request.GET.get("page"))
    rows = listing.dressed(page)
    context = {
        "page": page,
        "rows": rows,
        "text": text,
        "off": found.filter(enabled=False).count(),
        "may_start": request.user.has_perm(START_PERMISSION),
        "presets": presets.all_presets(),
    }
    is_part = getattr(request, "htmx", False) and not request.htmx.boosted
    return render(request, "rollouts/schedules/_list.html" if is_part else "rollouts/schedules/list.html", context)


@require_safe
@permission_required(*SEE)
def schedule(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """One: what it plans, when it is due, and what became of each moment."""
    found = _visible(request, pk)
    page = Paginator(found.occurrences.select_related("run"), HISTORY).get_page(request.GET.get("page"))
    listing.dress(found, listing.latest([found])[found.pk])
    seen = set(Run.objects.visible_to(request.user).filter(occurrences__schedule=found).values_list("pk", flat=True))
    for row in page:
        listing.with_words(row, found.zone)
        row.may_open = row.run_id in seen
    is_mine, may_steer = services.is_mine(found, request.user), services.may_steer(found, request.user)
    wanted = found.wanted
    context = {
        "schedule": found,
        "page": page,
        "wanted": wanted,
        "waves": listing.wave_words(wanted),
        "steps": [
            (label, step.get("document", ""))
            for label, name in (("Before", "steps_before"), ("Probe", "probes"), ("After", "steps_after"))
            for step in wanted.get(name) or ()
        ],
        "subject": _subject(found, services.may_read_parameters(found, request.user)),
        "is_moving": any(row.kind == "run" for row in page),
        "asked": [row for row in page if row.state == OccurrenceState.ASKED],
        "is_mine": is_mine,
        "may_steer": may_steer,
        "may_take": services.may_take(found, request.user),
        "ends": listing.in_zone(found.ends_at, found.zone),
        "starts": listing.in_zone(found.starts_at, found.zone) if found.starts_at else "",
    }
    return render(request, "rollouts/schedules/schedule.html", context)


def _subject(found: RunSchedule, is_whole: bool) -> list[tuple[str, str]]:
    """What its kind is told, as label and text; what documents are given only for who may read that."""
    lines = []
    for name, value in (found.wanted.get("subject") or {}).items():
        if name == "parameters":
            if is_whole:
                lines += [(key, ", ".join(map(str, texts))) for key, texts in (value or {}).items()]
            elif value:
                lines.append(("Parameters", "for its owner, and who may review commands"))
        elif value not in ("", None, [], {}) and name not in {"snapshot_id", "versions"}:
            lines.append((name.replace("_", " ").capitalize(), str(value)))
    return lines


# --- making and changing ---------------------------------------------------------------------------------------------


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(START_PERMISSION)
def create(request: HttpRequest) -> HttpResponse:
    """A new one: of a run (`run`), or ready made (`preset`)."""
    given = request.POST if request.method == "POST" else request.GET
    run = _run_of(request, given.get("run", ""))
    preset = presets.find(given.get("preset", "")) if run is None else None
    if run is None and preset is None:
        return render(request, "rollouts/schedules/choose.html", {"presets": presets.all_presets()})
    wanted = services.from_run(run, actor=request.user) if run is not None else keeping.wanted_in(preset.wanted)
    values = {**_DEFAULTS, "name": run.name if run is not None else preset.name, "targets": wanted.targets}
    parts = dict(when.DEFAULTS) if preset is None else when.parts_of(preset.expression, 0)
    if request.method != "POST":
        return _form(request, values, parts, run=run, preset=preset, wanted=wanted)
    values, parts = _posted(request, values), when.values_of(request.POST)
    try:
        if request.POST.get("go") == "when":
            return _form(request, values, parts, run=run, preset=preset, wanted=wanted)
        if preset is not None:
            wanted = keeping.wanted_in(
                {**preset.wanted, "targets": values["targets"], "reason": values.get("reason", "")}
            )
        made = services.create(wanted, actor=request.user, **_fields(values, parts))
    except Denied:
        raise
    except UserError as error:
        return _form(request, values, parts, run=run, preset=preset, wanted=wanted, error=error)
    messages.success(request, f"Scheduled: {made.in_words}.")
    return redirect(made)


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(START_PERMISSION)
def change(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """When it is due and by which rules; what it runs stays as it was planned."""
    found = _visible(request, pk)
    services.require_mine(found, request.user, "change")
    values = {
        **{name: getattr(found, name) for name in ("name", "zone", "drift", "missed", "overlap")},
        "open_minutes": str(found.open_minutes or ""),
        "starts": "itself" if found.starts_itself else "waits",
        "from": _local(found.starts_at, found.zone),
        "until": _local(found.ends_at, found.zone),
    }
    parts = when.parts_of(found.expression, found.offset_days)
    wanted = keeping.wanted_in(found.wanted)
    if request.method != "POST":
        return _form(request, values, parts, found=found, wanted=wanted)
    values, parts = _posted(request, {}), when.values_of(request.POST)
    try:
        if request.POST.get("go") == "when":
            return _form(request, values, parts, found=found, wanted=wanted)
        services.change(found, actor=request.user, **_fields(values, parts))
    except Denied:
        raise
    except UserError as error:
        return _form(request, values, parts, found=found, wanted=wanted, error=error)
    return redirect(found)


@require_safe
@permission_required(START_PERMISSION)
def preview(request: HttpRequest) -> HttpResponse:
    """The part of the form that says when: its inputs, in words, and the next moments."""
    return render(
        request,
        "rollouts/schedules/_when.html",
        _when(when.values_of(request.GET), request.GET.get("zone", "UTC"), {}),
    )


def _form(
    request: HttpRequest,
    values: Mapping[str, str],
    parts: Mapping[str, str],
    *,
    wanted: Wanted,
    run: Run | None = None,
    preset: presets.Preset | None = None,
    found: RunSchedule | None = None,
    error: UserError | None = None,
) -> HttpResponse:
    errors = dict(error.fields) if error else {}
    kept = RunSchedule(wanted=keeping.kept(wanted))
    context = {
        **_when(parts, values.get("zone", "UTC"), errors),
        "schedule": found,
        "run": run,
        "preset": preset,
        "values": values,
        "errors": errors,
        "error": str(error) if error and not errors.keys() & ({*_PLAIN, *when.FIELDS, "starts_at", "ends_at"}) else "",
        "what": listing.what(kept),
        "wanted": wanted,
        "waves": listing.wave_words(kept.wanted),
        "missed_rules": MissedRule.choices,
        "overlap_rules": OverlapRule.choices,
    }
    return render(request, "rollouts/schedules/form.html", context, status=400 if error else 200)


def _when(parts: Mapping[str, str], zone: str, errors: Mapping[str, str]) -> dict[str, Any]:
    shown: dict[str, Any] = {"said": "", "moments": [], "problem": ""}
    try:
        text, offset = when.expression_of(parts)
        schedule = schedules.parse(text, offset_days=offset)
        moment = clock_now()
        moments = schedule.coming(moment, zone, listing.COMING, anchor=moment)
        shown["said"], shown["text"] = schedule.in_words(), schedule.text
        shown["moments"] = [listing.in_zone(each, zone) for each in moments]
        if not moments:
            shown["problem"] = "It would never be due again."
    except UserError as error:
        shown["problem"] = str(error) if parts["how"] != "own" or parts["expression"] else ""
    return {
        **shown,
        "parts": parts,
        "inputs": when.INPUTS[parts["how"]],
        "hows": when.HOWS,
        "days": when.DAYS,
        "nths": when.NTHS,
        "errors": errors,
        "zone": zone,
    }


def _posted(request: HttpRequest, values: Mapping[str, str]) -> dict[str, str]:
    return {**values, **{name: request.POST[name].strip()[:4000] for name in _PLAIN if name in request.POST}}


def _fields(values: Mapping[str, str], parts: Mapping[str, str]) -> dict[str, Any]:
    """What the services take. Raises FieldError."""
    text, offset = when.expression_of(parts)
    minutes = values.get("open_minutes", "") or "0"
    if not (minutes.isascii() and minutes.isdigit() and len(minutes) < 7):
        raise FieldError("open_minutes", "Write a whole number of minutes, or nothing.")
    zone = values.get("zone", "") or "UTC"
    return {
        "name": values.get("name", ""),
        "expression": text,
        "offset_days": offset,
        "zone": zone,
        "starts_itself": values.get("starts") != "waits",
        "missed": values.get("missed", ""),
        "overlap": values.get("overlap", ""),
        "drift": values.get("drift", ""),
        "open_minutes": int(minutes),
        "starts_at": _moment(values.get("from", ""), zone, "from"),
        "ends_at": _moment(values.get("until", ""), zone, "until"),
    }


def _moment(text: str, zone: str, name: str) -> datetime | None:
    if not text:
        return None
    try:
        local = datetime.strptime(text[:16], _LOCAL)
    except ValueError:
        raise FieldError(name, "Write a moment of the schedule's zone as 2026-12-20T18:00.") from None
    try:
        return schedules.in_utc(local, schedules.zone_of(zone))
    except (OverflowError, UserError):
        return local.replace(tzinfo=UTC)  # the zone is told of by itself


def _local(moment: datetime | None, zone: str) -> str:
    if moment is None:
        return ""
    try:
        return moment.astimezone(schedules.zone_of(zone)).strftime(_LOCAL)
    except UserError:
        return moment.astimezone(UTC).strftime(_LOCAL)


def _run_of(request: HttpRequest, text: str) -> Run | None:
    if not text:
        return None
    try:
        return get_object_or_404(Run.objects.visible_to(request.user), pk=uuid.UUID(text))
    except ValueError:
        raise Http404 from None


# --- deeds -----------------------------------------------------------------------------------------------------------


@require_POST
@permission_required(*STEER)
def pause(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    found = _visible(request, pk)
    services.pause(found, actor=request.user, reason=request.POST.get("reason", ""))
    messages.success(request, "Paused. Nothing is due until it is resumed; what runs goes on.")
    return redirect(found)


@require_POST
@permission_required(START_PERMISSION)
def resume(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    found = _visible(request, pk)
    services.resume(found, actor=request.user)
    messages.success(request, f"It is due again: {listing.in_zone(found.next_at, found.zone)}.")
    return redirect(found)


@require_POST
@permission_required(START_PERMISSION)
def take(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    found = _visible(request, pk)
    services.take_over(found, actor=request.user)
    messages.success(request, "It runs for you from now on.")
    return redirect(found)


@require_POST
@permission_required(START_PERMISSION)
def run_now(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    found = _visible(request, pk)
    row = services.run_now(found, actor=request.user)
    tasks.carry_out.delay_on_commit(str(row.pk))
    messages.success(request, "Its run is being planned.")
    return redirect(found)


@require_POST
@permission_required(*STEER)
def delete(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    found = _visible(request, pk)
    services.delete(found, actor=request.user)
    messages.success(request, f"The schedule {found.name} is gone; its runs stay.")
    return redirect("schedules:list")


@require_POST
@permission_required(*STEER)
def answer(request: HttpRequest, pk: uuid.UUID, row_pk: uuid.UUID) -> HttpResponse:
    """Of a moment that was missed: `go` is run or skip."""
    found = _visible(request, pk)
    row = get_object_or_404(Occurrence.objects.select_related("schedule"), schedule=found, pk=row_pk)
    is_run = request.POST.get("go") == "run"
    services.answer(row, actor=request.user, run=is_run)
    if is_run:
        tasks.carry_out.delay_on_commit(str(row.pk))
    messages.success(request, "Its run is being planned." if is_run else "It is left out.")
    return redirect(found)


def _visible(request: HttpRequest, pk: uuid.UUID) -> RunSchedule:
    return get_object_or_404(RunSchedule.objects.visible_to(request.user).select_related("owner"), pk=pk)
