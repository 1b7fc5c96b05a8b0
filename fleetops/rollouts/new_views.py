"""Pages that lead to a plan: which document, on what, in which waves, behind which gates."""

from __future__ import annotations

import uuid
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from fleetops.errors import UserError
from fleetops.identity.models import User
from fleetops.identity.roles import ROLES
from fleetops.library.models import Document, DocumentVersion
from fleetops.runcommand import listing as documents
from fleetops.runcommand import plan as running
from fleetops.targets import ExpressionError, parse
from fleetops.web.shortcuts import permission_required

from . import assess, forms, kinds, limits, plan, rules
from .models import START_PERMISSION

KIND = "document"
MOST_WORDS = 8
MOST_OFFERED = 60  # documents to choose from


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(START_PERMISSION)
def create(request: HttpRequest) -> HttpResponse:
    """A document in waves, step by step. `?document=` its id, `?version=`, `?q=` targets; `go` says which button."""
    pk = request.POST.get("document") or request.GET.get("document", "")
    if not pk and request.method != "POST":
        return _choose(request)
    visible = Document.objects.visible_to(request.user).runnable().select_related("account", "region")
    try:
        document = get_object_or_404(visible, pk=uuid.UUID(pk))
    except ValueError:
        raise UserError("There is no such document. Choose one of the list.") from None
    version = (request.POST.get("version") or request.GET.get("version", ""))[:8]
    version = version if version.isdigit() else ""
    place = running.place_of(document, version, actor=request.user)
    context: dict[str, Any] = {"document": document, "version": version, "place": place}
    if request.method != "POST":
        posted = request.GET.copy()
        posted["targets"] = request.GET.get("q", "")[:4000]
        asked = forms.Asked(posted)
        asked.preset("careful")
        return _page(request, context, asked, "targets")
    asked = forms.Asked(request.POST)
    step, go = request.POST.get("step", "targets"), request.POST.get("go", "next")
    if step == "waves" and asked.change_waves(go):
        return _page(request, context, asked, step)
    try:
        if go == "back":
            return _page(request, context, asked, "waves" if step == "gates" else "targets")
        if step == "targets":
            subject = _subject(context, asked)
            _check_targets(request.user, asked, subject)
            return _page(request, context, asked, "waves")
        if step == "waves":
            _check_waves(asked)
            return _page(request, context, asked, "gates")
        if go == "more":
            return _page(request, context, asked, step)
        return redirect(plan.make(asked.wanted(KIND, _subject(context, asked)), actor=request.user))
    except UserError as error:
        return _page(request, context, asked, step, error)


def _subject(context: dict[str, Any], asked: forms.Asked) -> dict[str, Any]:
    """What the kind is told. Raises UserError."""
    place = context["place"]
    given = documents.given_in(asked.posted, place.read.parameters)
    if wrong := running.check(place, given):
        raise UserError(f"{context['document']} does not take these parameters: {wrong}.")
    return {
        "document": context["document"].name,
        "version": context["version"],
        "parameters": given,
        "timeout_seconds": asked.text("timeout_seconds"),
        "minutes": asked.text("minutes"),
        "wants_agent": "wants_agent" in asked.posted,
    }


def _check_targets(user: User, asked: forms.Asked, subject: dict[str, Any]) -> None:
    """What the first step can tell. Raises UserError."""
    kinds.find(KIND).check(subject)
    text = asked.text("targets").strip()
    if not text:
        raise _at("targets", "Say on which instances: env=prod, or all.")
    try:
        parse(text, words=True)
    except ExpressionError as error:
        raise _at("targets", str(error)) from None
    _, found = assess.found_by(text, user)
    if not found:
        raise _at("targets", "No instance matches. Write an expression that selects at least one.")


def _check_waves(asked: forms.Asked) -> None:
    rules.cleaned([{**each, "gates": ()} for each in asked.rules()])
    for name, what in (("concurrency", "The concurrency"), ("budget", "The error budget")):
        try:
            limits.parse(asked.text(name), what=what)
        except UserError as error:
            raise _at(name, str(error)) from None


def _at(field: str, text: str) -> UserError:
    error = UserError(text)
    error.fields = {field: text}
    return error


def _page(
    request: HttpRequest,
    context: dict[str, Any],
    asked: forms.Asked,
    step: str,
    error: UserError | None = None,
) -> HttpResponse:
    place = context["place"]
    shown = {name: str(asked.posted[f"p_{name}"]) for name in place.read.parameters if f"p_{name}" in asked.posted}
    fields = dict(error.fields) if error else {}
    if isinstance(error, assess.ReasonMissing):
        fields, step = {"reason": str(error)}, "targets"
    elif "targets" in fields:
        step = "targets"
    where = [key for key, _ in forms.STEPS]
    at = where.index(step)
    page = {
        **context,
        "step": step,
        "steps": [(label, number < at, number == at) for number, (_, label) in enumerate(forms.STEPS)],
        "versions": list(DocumentVersion.objects.filter(document=context["document"]).defer("content")),
        "fields": documents.fields(place.read.parameters, shown),
        "values": asked.values(),
        "waves": asked.waves,
        "wave_count": len(asked.waves),
        "is_strict": "is_strict" in asked.posted,
        "wants_agent": "wants_agent" in asked.posted,
        "before": asked.extras("before"),
        "after": asked.extras("after"),
        "probes": asked.extras("probe"),
        "carried": asked.carried(step),
        "errors": fields,
        "error": str(error) if error and not fields else "",
        "by": forms.BY,
        "presets": [(key, label) for key, (label, _) in forms.PRESETS.items()],
        "roles": list(ROLES),
        "most": limits.MOST,
    }
    return render(request, "rollouts/new.html", page, status=400 if error else 200)


def _choose(request: HttpRequest) -> HttpResponse:
    asked = request.GET.get("find", "").replace("\x00", "").strip()[:200]
    found = Document.objects.visible_to(request.user).runnable()
    for word in asked.split()[:MOST_WORDS]:
        found = found.filter(name__icontains=word) | found.filter(description__icontains=word)
    own: dict[str, Document] = {}
    aws: dict[str, Document] = {}
    for each in found.select_related("account", "region").order_by("name", "account__name", "region__name")[:2000]:
        (own if each.is_own else aws).setdefault(each.name, each)
    context = {
        "asked": asked,
        "targets": request.GET.get("q", "")[:4000],
        "others": [
            (each.label, reverse(each.url_name)) for each in kinds.all_kinds() if each.name != KIND and each.url_name
        ],
        "groups": [
            (title, list(group.values())[:MOST_OFFERED], max(0, len(group) - MOST_OFFERED))
            for title, group in (("Own", own), ("AWS's and others'", aws))
            if group
        ],
    }
    return render(request, "rollouts/choose.html", context)
