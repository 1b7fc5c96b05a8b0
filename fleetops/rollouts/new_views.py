"""Pages that lead to a plan: which document, on what, in which waves, behind which gates."""

from __future__ import annotations

import uuid
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from fleetops.errors import UserError
from fleetops.library import parameter_forms
from fleetops.library.models import Document, DocumentVersion
from fleetops.runcommand import plan as running
from fleetops.web.shortcuts import permission_required

from . import forms, kinds
from .models import START_PERMISSION
from .wizard import Wizard, begin, go_on

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
    wizard = _wizard(document, version, running.place_of(document, version, actor=request.user))
    return go_on(request, wizard) if request.method == "POST" else begin(request, wizard)


def _wizard(document: Document, version: str, place: running.Place) -> Wizard:
    def subject(asked: forms.Asked) -> dict[str, Any]:
        given = parameter_forms.given_in(asked.posted, place.read.parameters)
        if wrong := running.check(place, given):
            raise UserError(f"{document} does not take these parameters: {wrong}.")
        return {
            "document": document.name,
            "version": version,
            "parameters": given,
            "timeout_seconds": asked.text("timeout_seconds"),
            "minutes": asked.text("minutes"),
            "wants_agent": "wants_agent" in asked.posted,
        }

    def context(asked: forms.Asked) -> dict[str, Any]:
        shown = {name: str(asked.posted[f"p_{name}"]) for name in place.read.parameters if f"p_{name}" in asked.posted}
        return {
            "document": document,
            "version": version,
            "place": place,
            "versions": list(DocumentVersion.objects.filter(document=document).defer("content")),
            "fields": parameter_forms.fields(place.read.parameters, shown),
            "wants_agent": "wants_agent" in asked.posted,
        }

    return Wizard(
        kind=KIND,
        heading=f"{document} in waves",
        action=reverse("rollouts:new"),
        part="rollouts/_new_subject.html",
        back=("Another document", reverse("rollouts:new")),
        subject=subject,
        context=context,
        names=frozenset({"document", "version", "timeout_seconds", "minutes", "wants_agent"}),
        hidden=(("document", str(document.pk)),),
    )


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
