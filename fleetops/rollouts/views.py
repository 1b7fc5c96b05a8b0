"""Pages of runs: the list, a new one step by step, its plan, and how it goes."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.dateparse import parse_datetime
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST, require_safe

from fleetops.approvals.models import ApprovalRequest
from fleetops.clock import now as clock_now
from fleetops.runcommand.models import Command, Invocation
from fleetops.web.shortcuts import permission_required

from . import cells as cell_letters
from . import listing, plan, rules, steering
from .leave import is_other as is_other_than
from .models import SEE_PERMISSION, START_PERMISSION, STEER_PERMISSION, Run, RunTarget
from .scheduling.services import instead_of
from .states import GateState, Readiness, RunState, TargetState, WaveState

PAGE_SIZES = (25, 50, 100)
MOST_WORDS = 8
EVENTS_SHOWN = 8
EVENTS_A_PAGE = 100
MOST_NAMES = 800
SEE = (SEE_PERMISSION, START_PERMISSION, STEER_PERMISSION)
STEER = (START_PERMISSION, STEER_PERMISSION)
NOT_READY = (Readiness.OPEN, Readiness.FAILED)
SET_ASIDE = (GateState.PASSED, GateState.OVERRULED)
_STATES = (
    ("", "All"),
    ("open", "Under way"),
    ("waits", "Needs you"),
    ("succeeded", "Finished"),
    ("failed", "Failed"),
    ("draft", "Drafts"),
)
_OF_STATE = {
    "open": [RunState.RUNNING, RunState.PAUSED, RunState.STOPPED, RunState.ABORTING],
    "waits": [RunState.PAUSED, RunState.STOPPED],
    "failed": [RunState.FAILED, RunState.ABORTED],
    "succeeded": [RunState.SUCCEEDED],
    "draft": [RunState.DRAFT],
}


@require_safe
@permission_required(*SEE)
def runs(request: HttpRequest) -> HttpResponse:
    """Runs, the newest first. Query: `q` (words in name, person, targets), `state`, `rows` (25, 50, 100), `page`."""
    asked = {key: request.GET.get(key, "").replace("\x00", "").strip()[:200] for key in ("q", "state", "rows")}
    visible = Run.objects.visible_to(request.user)
    found = visible
    for word in asked["q"].split()[:MOST_WORDS]:
        found = found.filter(Q(name__icontains=word) | Q(actor_name__icontains=word) | Q(targets_text__icontains=word))
    if asked["state"] in _OF_STATE:
        found = found.filter(state__in=_OF_STATE[asked["state"]])
    size = int(asked["rows"]) if asked["rows"] in {str(each) for each in PAGE_SIZES} else PAGE_SIZES[0]
    page = Paginator(found.prefetch_related("waves"), size).get_page(request.GET.get("page"))
    counts = listing.counts_of_runs(page)
    query = request.GET.copy()
    query.pop("page", None)
    context = {
        "page": page,
        "rows": [_row(each, counts[each.pk]) for each in page],
        "asked": asked,
        "query": query.urlencode(),
        "states": _STATES,
        "sizes": PAGE_SIZES,
        "size": size,
        "has_filter": bool(asked["q"] or asked["state"]),
        "running": visible.filter(state=RunState.RUNNING).count(),
        "waiting": visible.filter(state__in=_OF_STATE["waits"]).count(),
        "may_start": request.user.has_perm(START_PERMISSION),
    }
    is_part = getattr(request, "htmx", False) and not request.htmx.boosted
    return render(request, "rollouts/_list.html" if is_part else "rollouts/list.html", context)


def _row(run: Run, counts: listing.Counts) -> Run:
    listing.with_words(run)
    run.numbers = listing.figures(counts)
    run.bar = listing.bar(counts)
    waves = list(run.waves.all())
    current = next((each for each in waves if each.state not in {WaveState.SUCCEEDED, WaveState.SKIPPED}), None)
    run.wave_words = f"wave {current.position} of {len(waves)}" if run.is_open and current else _waves(len(waves))
    return run


def _waves(count: int) -> str:
    return "1 wave" if count == 1 else f"{count} waves"


# --- one run ---------------------------------------------------------------------------------------------------------


@require_safe
@permission_required(*SEE)
def run(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """A plan with what it would do; once it is started, its waves as they go."""
    found = visible_run(request, pk)
    if found.is_draft:
        return render(request, "rollouts/plan.html", _plan_context(request, found))
    return render(request, "rollouts/run.html", dashboard(request, found))


@require_safe
@permission_required(*SEE)
def live(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """What an open page shows anew while the run goes, cells aside."""
    found = visible_run(request, pk)
    if found.is_draft:
        raise Http404
    return render(request, "rollouts/_live.html", dashboard(request, found) | {"is_update": True})


@require_safe
@permission_required(*SEE)
def cells(request: HttpRequest, pk: uuid.UUID) -> JsonResponse:
    """The cells that changed since `since`, a cursor that the last answer gave; without it all of them."""
    found = visible_run(request, pk)
    answer = cell_letters.delta(found, request.GET.get("since", "")[:32])
    waves = {str(position): state for position, state in found.waves.values_list("position", "state")}
    return JsonResponse({**answer, "open": found.is_open, "state": found.state, "waves": waves})


@require_safe
@permission_required(*SEE)
def names(request: HttpRequest, pk: uuid.UUID) -> JsonResponse:
    """Names of targets by their positions: `from`, and 800 of them at most."""
    found = visible_run(request, pk)
    first = _number(request.GET.get("from", ""), 1)
    rows = found.targets.filter(position__gte=first, position__lt=first + MOST_NAMES).exclude(wave=None)
    return JsonResponse(
        {"from": first, "names": list(rows.order_by("position").values_list("instance_name", flat=True))}
    )


@require_safe
@permission_required(*SEE)
def cell(request: HttpRequest, pk: uuid.UUID, position: int) -> JsonResponse:
    """One target as the line below the cells says it."""
    found = visible_run(request, pk)
    target = get_object_or_404(found.targets.select_related("run"), position=position_of(str(position)))
    listing.target_with_words(target)
    return JsonResponse(
        {
            "name": target.instance_name,
            "kind": target.kind,
            "word": target.word,
            "said": listing.said(target),
            "url": _target_url(found, target),
        }
    )


def dashboard(request: HttpRequest, found: Run) -> dict[str, Any]:
    """What the page of a run shows that was started."""
    moment = clock_now()
    waves = list(found.waves.prefetch_related("gates__approval"))
    by_wave = listing.wave_counts(found)
    counts = {state: sum(each[state] for each in by_wave.values()) for state in TargetState}
    numbers = listing.figures(counts)
    has_cards = numbers["total"] <= listing.MOST_CARDS
    targets: dict[Any, list[RunTarget]] = {}
    if has_cards:
        for target in found.targets.exclude(wave=None).order_by("position"):
            listing.target_with_words(target)
            target.said, target.took = listing.said(target), listing.length(listing.took(target))
            target.phases = listing.phases(found, target)
            targets.setdefault(target.wave_id, []).append(target)
    asked = [gate.approval_id for wave in waves for gate in wave.gates.all() if gate.approval_id]
    asked += [found.override_id] if found.override_id else []
    visible_approvals = set(
        ApprovalRequest.objects.visible_to(request.user).filter(pk__in=asked).values_list("pk", flat=True)
        if asked
        else ()
    )
    may_steer, is_other = steering.may_steer(found, request.user), is_other_than(found, request.user)
    position = 1
    lanes = []
    for wave in waves:
        mine = by_wave.get(wave.pk, dict.fromkeys(TargetState, 0))
        wave.kind, wave.word = listing.WAVE_WORDS[WaveState(wave.state)]
        wave.soak = listing.length(wave.soak_seconds) if wave.soak_seconds else ""
        for gate in wave.gates.all():
            gate.kind_of_state, gate.word = listing.GATE_WORDS[GateState(gate.state)]
            gate.may_answer = gate.approval_id in visible_approvals
            is_standing = gate.state in {GateState.FAILED, GateState.WAITING}
            gate.may_overrule = may_steer and is_standing and (gate.kind != "approval" or is_other)
            gate.said = rules.gate_words({"kind": gate.kind, **gate.settings})
        numbers_here = listing.figures(mine)
        is_now = wave.state in {WaveState.RUNNING, WaveState.SOAKING, WaveState.GATED, WaveState.FAILED}
        lanes.append(
            {
                "wave": wave,
                "numbers": numbers_here,
                "bar": listing.bar(mine),
                "targets": targets.get(wave.pk, []),
                "gates": list(wave.gates.all()),
                "first": position,
                "is_now": is_now and found.is_open,
                "is_canvas": numbers_here["total"] > listing.MOST_BUTTONS,
                "may_skip": wave.state not in {WaveState.SUCCEEDED, WaveState.SKIPPED, WaveState.CANCELLED}
                and (is_other or all(each.kind != "approval" or each.state in SET_ASIDE for each in wave.gates.all())),
            }
        )
        position += numbers_here["total"]
    if lanes and not any(lane["is_now"] for lane in lanes):
        pending = (lane for lane in lanes if lane["wave"].state == WaveState.PENDING)
        (next(pending, None) or lanes[0])["is_open"] = True
    causes, cause_count = listing.causes(found)
    held = listing.held(found.targets.all())
    return {
        **_frame(request, found, counts=counts),
        "lanes": lanes,
        "numbers": numbers,
        "bar": listing.bar(counts),
        "key": [(label, kind, sum(counts[state] for state in states)) for label, kind, states in listing.KEY],
        "has_cards": has_cards,
        "codes": listing.CODES,
        "pace": listing.pace(found, now=moment),
        "eta": listing.eta(found, waves, by_wave, now=moment),
        "budget": listing.budget(found, counts),
        "held": held,
        # For whoever made it; asked already, it is not asked again.
        "may_override": found.actor_id == request.user.pk
        and found.is_open
        and any("rozen by" in each["reason"] for each in held)
        and (found.override is None or found.override.state not in {"pending", "approved"}),
        "sees_override": found.override_id in visible_approvals,
        "causes": causes,
        "cause_count": cause_count,
        "skipped": found.plan.get("skipped", [])[:3],
        "events": list(found.events.select_related("target")[:EVENTS_SHOWN]),
        "now_wave": next((lane["wave"] for lane in lanes if lane["is_now"]), None),
        "wave_count": len(waves),
        "may_steer": may_steer,
        "may_pause": may_steer and found.state == RunState.RUNNING,
        "may_resume": may_steer and found.state in {RunState.PAUSED, RunState.STOPPED},
        "may_abort": may_steer and found.state in {RunState.RUNNING, RunState.PAUSED, RunState.STOPPED},
        "must_type": numbers["total"] > listing.SURE_FROM,
        "may_retry": may_steer and numbers["failed"] and found.state != RunState.ABORTING,
        "may_forward": may_steer and found.state == RunState.STOPPED and numbers["failed"],
        "prepared": found.preparation.get("shown", []),
        "unready": [each for each in waves if each.readiness != Readiness.READY and each.state == WaveState.PENDING],
        "may_waive": may_steer
        and found.is_open
        and found.state != RunState.ABORTING
        and any(each.readiness in NOT_READY and each.state == WaveState.PENDING for each in waves),
    }


def _frame(request: HttpRequest, found: Run, *, counts: listing.Counts | None = None) -> dict[str, Any]:
    """What all pages of one run share: its title, tabs and numbers."""
    if counts is None:
        by_wave = listing.wave_counts(found)
        counts = {state: sum(each[state] for each in by_wave.values()) for state in TargetState}
    return {
        "run": listing.with_words(found),
        "counts": counts,
        "target_count": sum(counts.values()),
        "failed_count": counts[TargetState.FAILED],
        "event_count": found.events.count(),
        "is_mine": found.actor_id == request.user.pk,
    }


# --- its tabs --------------------------------------------------------------------------------------------------------


@require_safe
@permission_required(*SEE)
def targets(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """The targets as a table: what the cells show, in words. Query: `show`, `q`, `page`."""
    found = visible_run(request, pk)
    show = request.GET.get("show", "")
    show = show if show in listing.FILTERS else ""
    text = request.GET.get("q", "").replace("\x00", "").strip()[:200]
    page = Paginator(listing.shown_rows(found, show, text), listing.ROWS).get_page(request.GET.get("page"))
    query = request.GET.copy()
    query.pop("page", None)
    rows = []
    for target in page:
        listing.target_with_words(target)
        target.said, target.took, target.run = listing.said(target), listing.length(listing.took(target)), found
        rows.append(target)
    every = found.targets.counts()
    held_count = found.targets.filter(state=TargetState.QUEUED).exclude(reason="").count()
    context = {
        **_frame(request, found),
        "tab": "targets",
        "filters": listing.tabs(every, held_count, show),
        "show": show,
        "text": text,
        "page": page,
        "rows": rows,
        "query": query.urlencode(),
    }
    return render(request, "rollouts/targets.html", context)


@require_safe
@permission_required(*SEE)
def failures(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Failures by their cause, and all targets that failed."""
    found = visible_run(request, pk)
    causes, cause_count = listing.causes(found, most=50)
    page = Paginator(listing.shown_rows(found, "failed", ""), listing.ROWS).get_page(request.GET.get("page"))
    for target in page:
        listing.target_with_words(target)
        target.said, target.run = listing.said(target), found
    context = {
        **_frame(request, found),
        "tab": "failures",
        "causes": causes,
        "cause_count": cause_count,
        "page": page,
        "may_retry": steering.may_steer(found, request.user) and found.state != RunState.ABORTING,
    }
    return render(request, "rollouts/failures.html", context)


@require_safe
@permission_required(*SEE)
def events(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """The whole timeline, a page of 100."""
    found = visible_run(request, pk)
    page = Paginator(found.events.select_related("target"), EVENTS_A_PAGE).get_page(request.GET.get("page"))
    return render(request, "rollouts/events.html", {**_frame(request, found), "tab": "events", "page": page})


@require_safe
@permission_required(*SEE)
def plan_of(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """The plan as it was when the run started; a draft's is its page."""
    found = visible_run(request, pk)
    if found.is_draft:
        return redirect(found)
    return render(request, "rollouts/plan_of.html", {**_plan_context(request, found), "tab": "plan"})


@require_safe
@permission_required(*SEE)
def target(request: HttpRequest, pk: uuid.UUID, target_pk: uuid.UUID) -> HttpResponse:
    """One target: how far its evidence goes, with times, and its way out. For htmx the drawer alone."""
    found = visible_run(request, pk)
    rows = found.targets.select_related("account", "region", "wave", "invocation__command", "instance_row")
    row = get_object_or_404(rows, pk=target_pk)
    row.run = found
    listing.target_with_words(row)
    may_see_output = bool(
        row.invocation_id
        and Command.objects.visible_to(request.user).filter(pk=row.invocation.command_id).exists()
        and any(request.user.has_perm(each) for each in ("runcommand.run_command", "runcommand.review_command"))
    )
    others = (
        found.targets.filter(state=TargetState.FAILED, reason=row.reason).exclude(pk=row.pk).count()
        if row.state == TargetState.FAILED and row.reason
        else 0
    )
    attempts = (
        Invocation.objects.filter(command__origin=f"rollouts:{found.pk}", instance_id=row.instance_id)
        .filter(account=row.account, region=row.region)
        .select_related("command")
        .defer("outputs")
        .order_by("id")
    )
    may_steer = steering.may_steer(found, request.user)
    context = {
        **_frame(request, found),
        "tab": "targets",
        "target": row,
        "said": listing.said(row),
        "took": listing.length(listing.took(row)),
        "phases": listing.phases(found, row),
        "facts": list(row.facts.items()),
        "output": row.invocation if may_see_output else None,
        "commands": list(attempts[:30]),
        "may_see_output": may_see_output,
        "others": others,
        "target_events": list(row.events.all()[:10]),
        "close_url": _way_back(request.GET.get("from", "")),
        "may_retry": may_steer and row.state == TargetState.FAILED and found.state != RunState.ABORTING,
        "may_skip": may_steer
        and row.state in {TargetState.QUEUED, TargetState.FAILED}
        and found.state != RunState.ABORTING,
    }
    is_part = getattr(request, "htmx", False) and not request.htmx.boosted
    return render(request, "rollouts/_drawer.html" if is_part else "rollouts/target.html", context)


# --- the plan --------------------------------------------------------------------------------------------------------


def _plan_context(request: HttpRequest, found: Run) -> dict[str, Any]:
    made = found.plan
    may_start = found.is_draft and found.actor_id == request.user.pk and request.user.has_perm(START_PERMISSION)
    rows = [_plan_row(each, made) for each in made.get("waves", [])]
    return {
        **_frame(request, found),
        "plan": made,
        "waves": rows,
        "axis": _axis(made),
        "starts_at": _moment(made.get("starts_at")),
        "ends_at": _moment(made.get("ends_at")),
        "calendars": [
            {**each, "opens_at": _moment(each["opens_at"]), "closes_at": _moment(each["closes_at"])}
            for each in made.get("calendars", [])
        ],
        "skipped_count": sum(each["count"] for each in made.get("skipped", [])),
        "may_start": may_start,
        "is_old": found.is_draft and found.created_at < clock_now() - plan.LIFE,
        "must_type": made.get("targets", 0) > listing.SURE_FROM,
        "tolerated": made.get("targets", 0),
    }


def _plan_row(each: dict[str, Any], made: dict[str, Any]) -> dict[str, Any]:
    """A wave of the plan, with where its bar begins and ends of 100."""
    start, end = _moment(each["starts_at"]), _moment(each["ends_at"])
    span = _span(made)
    row = {**each, "start": start, "end": end, "x": None, "width": None}
    row["soak"] = listing.length(60 * each["soak_minutes"]) if each["soak_minutes"] else ""
    if span and start and end:
        first, length = span
        row["x"] = round(100 * (start - first).total_seconds() / length, 2)
        row["width"] = round(max(1.0, 100 * (end - start).total_seconds() / length), 2)
    return row


def _span(made: dict[str, Any]) -> tuple[Any, float] | None:
    first = _moment(made.get("starts_at"))
    ends = [moment for each in made.get("waves", []) if (moment := _moment(each["ends_at"]))]
    if first is None or not ends:
        return None
    return first, max((max(ends) - first).total_seconds(), 60.0)


def _axis(made: dict[str, Any]) -> list[Any]:
    """Moments at the quarters of the drawing."""
    span = _span(made)
    if span is None:
        return []
    first, length = span
    return [first + timedelta(seconds=length * quarter / 4) for quarter in range(4)]


def _moment(text: str | None) -> Any:
    return parse_datetime(text) if text else None


@require_POST
@permission_required(START_PERMISSION)
def again(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Plan the same for the fleet as it is now; a draft of one's own makes way for it."""
    found = visible_run(request, pk)
    made = plan.again(found, actor=request.user, and_then=instead_of(found))
    return redirect(made)


@require_POST
@permission_required(START_PERMISSION)
def discard(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    found = visible_run(request, pk)
    plan.discard(found, actor=request.user)
    messages.success(request, f"The plan {found} is gone; nothing was sent.")
    return redirect("rollouts:runs")


# --- shared ----------------------------------------------------------------------------------------------------------


def visible_run(request: HttpRequest, pk: uuid.UUID) -> Run:
    return get_object_or_404(Run.objects.visible_to(request.user).select_related("actor", "override"), pk=pk)


def _target_url(found: Run, target: RunTarget) -> str:
    return reverse("rollouts:target", args=[found.pk, target.pk])


def _way_back(address: str) -> str:
    """`address` if it is one of ours; else nothing: "//example.com" is somebody else's."""
    is_ours = address.startswith("/") and url_has_allowed_host_and_scheme(address, allowed_hosts=None)
    return address if is_ours else ""


def position_of(text: str) -> int:
    """A wave's or target's position, as it was sent. Raises Http404 for what no row has."""
    if not (text.isascii() and text.isdigit() and len(text) < 7):
        raise Http404
    return int(text)


def _number(text: str, default: int) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 7 else default
