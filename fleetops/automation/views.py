"""Runbooks: what runs and ran, step by step and live; starting one; answering and stopping it; the blueprints."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from fleetops.errors import Denied, UserError
from fleetops.inventory.models import Region
from fleetops.library import parameter_forms
from fleetops.library.models import Document
from fleetops.policy.services import ReasonNeeded
from fleetops.web.shortcuts import permission_required

from . import blueprints, listing, services, tasks
from .models import OPEN, REVIEW_PERMISSION, RUN_PERMISSION, Execution

SEE = (RUN_PERMISSION, REVIEW_PERMISSION)
BLUEPRINT_PERMISSION = "library.change_document"
ROWS, OFFERED = 50, 200


@require_safe
@permission_required(*SEE)
def execution_list(request: HttpRequest) -> HttpResponse:
    """All that one may see, the newest first. Query: `q`, `state` (open, unwell), `page`. The part alone for htmx."""
    text = request.GET.get("q", "").replace("\x00", "").strip()[:200]
    state = request.GET.get("state", "")
    visible = Execution.objects.visible_to(request.user).filter(parent_id="")
    found = visible.select_related("account", "region__account").defer("steps", "outputs", "parameters")
    for word in text.split()[:8]:
        found = found.filter(document_name__icontains=word) | found.filter(actor_name__icontains=word)
    if state == "open":
        found = found.filter(status__in=OPEN)
    elif state == "unwell":
        found = found.exclude(status__in=[*OPEN, "Success", "CompletedWithSuccess"])
    page = Paginator(found, ROWS).get_page(request.GET.get("page"))
    context = {
        "page": page,
        "text": text,
        "state": state,
        "running": visible.open().count(),
        "waiting": visible.filter(status="Waiting").count(),
        "may_run": request.user.has_perm(RUN_PERMISSION),
    }
    is_part = bool(getattr(request, "htmx", False)) and not request.htmx.boosted
    return render(request, "automation/_list.html" if is_part else "automation/list.html", context)


def _visible(request: HttpRequest, pk: uuid.UUID) -> Execution:
    rows = Execution.objects.visible_to(request.user).select_related("account", "region__account", "actor")
    return get_object_or_404(rows, pk=pk)


@require_safe
@permission_required(*SEE)
def execution(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """One, step by step; asks anew while it is open. The part alone for htmx."""
    found = _visible(request, pk)
    if not found.is_open:
        services.read_now(found)
    children = services.children(found)
    parent = None
    if found.parent_id:
        parent = Execution.objects.visible_to(request.user).filter(execution_id=found.parent_id).first()
    document = Document.objects.visible_to(request.user).filter(region=found.region, name=found.document_name).first()
    context = {
        "execution": found,
        "steps": listing.steps(found, children),
        "children": children,
        "parent": parent,
        "document": document,
        "parameters": listing.texts(found.parameters),
        "outputs": listing.texts(found.outputs),
        "progress": listing.progress(found),
        "may_steer": found.is_open and services.may_steer(found, request.user),
    }
    is_part = bool(getattr(request, "htmx", False)) and not request.htmx.boosted
    return render(request, "automation/_execution.html" if is_part else "automation/execution.html", context)


@require_POST
def signal(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Answer what it waits for: `signal` Approve, Reject, Resume …, `comment`."""
    found = _visible(request, pk)
    kind = request.POST.get("signal", "")
    services.signal(
        found,
        kind,
        step=request.POST.get("step", "")[:128],
        comment=request.POST.get("comment", ""),
        actor=request.user,
    )
    messages.success(request, f"{kind} was sent.")
    tasks.advance.delay_on_commit(str(found.pk))
    return redirect(found)


@require_POST
def stop(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Cancel it, or have it end after the step that runs (`kind` Complete)."""
    found = _visible(request, pk)
    services.stop(found, kind=request.POST.get("kind", "Cancel"), actor=request.user)
    messages.success(request, "It is being stopped.")
    tasks.advance.delay_on_commit(str(found.pk))
    return redirect(found)


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(RUN_PERMISSION)
def new(request: HttpRequest) -> HttpResponse:
    """Choose a runbook (`?find=`), or the form of one (`document`, its id; `of`, an execution that is done again)."""
    given = request.POST if request.method == "POST" else request.GET
    if not given.get("document"):
        return _choose(request)
    runbooks = Document.objects.visible_to(request.user).present().filter(document_type="Automation")
    try:
        document = get_object_or_404(
            runbooks.select_related("account", "region__account"), pk=uuid.UUID(given.get("document", ""))
        )
    except ValueError:
        raise UserError("There is no such runbook. Choose one of the list.") from None
    _, runbook = services.read_runbook(document, actor=request.user)
    values = listing.form_values(given, _again(request, given.get("of", "")), runbook.parameters)
    errors: dict[str, str] = {}
    if request.method == "POST":
        try:
            made = services.start(
                document,
                parameters=parameter_forms.given_in(values, runbook.parameters),
                target_parameter=values["target_parameter"],
                targets=values["targets"].split(),
                max_concurrency=values["max_concurrency"],
                max_errors=values["max_errors"],
                reason=values["reason"],
                actor=request.user,
            )
            tasks.advance.delay_on_commit(str(made.pk))
            return redirect(made)
        except ReasonNeeded as needed:
            errors = {"reason": str(needed)}
        except Denied:
            raise
        except UserError as error:
            errors = dict(error.fields) or {"": str(error)}
    shown = {name: values[f"p_{name}"] for name in runbook.parameters if f"p_{name}" in values}
    context = {
        "document": document,
        "runbook": runbook,
        "fields": parameter_forms.fields(runbook.parameters, shown),
        "values": values,
        "errors": errors,
        "error": errors.get("", ""),
    }
    return render(request, "automation/new.html", context, status=400 if errors else 200)


def _again(request: HttpRequest, key: str) -> Execution | None:
    try:
        return Execution.objects.visible_to(request.user).filter(pk=uuid.UUID(key)).first() if key else None
    except ValueError:
        return None


def _choose(request: HttpRequest) -> HttpResponse:
    text = request.GET.get("find", "").replace("\x00", "").strip()[:200]
    found = Document.objects.visible_to(request.user).present().filter(document_type="Automation")
    for word in text.split()[:8]:
        found = found.filter(name__icontains=word) | found.filter(description__icontains=word)
    rows = found.select_related("account", "region__account").order_by("name", "account__name", "region__name")
    return render(request, "automation/choose.html", {"rows": list(rows[:OFFERED]), "text": text})


@require_safe
@permission_required(*SEE)
def blueprint_list(request: HttpRequest) -> HttpResponse:
    """Runbooks that FleetOps brings, and where they are."""
    regions = list(Region.objects.filter(enabled=True, account__enabled=True).select_related("account"))
    context = {
        "rows": blueprints.standing(regions),
        "texts": [(name, blueprints.text_of(name)) for name in blueprints.NAMES],
        "may_put": request.user.has_perm(BLUEPRINT_PERMISSION),
    }
    return render(request, "automation/blueprints.html", context)


@require_POST
@permission_required(BLUEPRINT_PERMISSION)
def put_blueprint(request: HttpRequest) -> HttpResponse:
    """Have the blueprint `name` in `region`, its id, as it is here."""
    key: Any = request.POST.get("region", "")
    if not (key.isascii() and key.isdigit()):
        raise UserError("Choose a region of the list.")
    region = get_object_or_404(Region.objects.filter(enabled=True).select_related("account"), pk=int(key[:12]))
    name = request.POST.get("name", "")
    blueprints.put(name, region, actor=request.user)
    messages.success(request, f"{name} is in {region}.")
    return redirect("automation:blueprints")
