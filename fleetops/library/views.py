"""The library: all documents, one with its versions, and how they change."""

from __future__ import annotations

import re
import uuid

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from fleetops.clock import now
from fleetops.errors import UserError
from fleetops.inventory.models import Account
from fleetops.web.shortcuts import permission_required

from . import content, services
from .content import ContentError
from .forms import DocumentForm, VersionForm
from .listing import FILTERS, filtered
from .models import Document, DocumentVersion, Shelf

ROWS = 100
MAY_RUN = "runcommand.run_command"
_OWNERS = (("", "All"), ("own", "Own"), ("aws", "AWS's"), ("shared", "Shared with us"))
_TEMPLATE = """\
{
  "schemaVersion": "2.2",
  "description": "What it does, in a sentence",
  "parameters": {
    "word": {
      "type": "String",
      "description": "What to say",
      "default": "hello"
    }
  },
  "mainSteps": [
    {
      "action": "aws:runShellScript",
      "name": "say",
      "precondition": { "StringEquals": ["platformType", "Linux"] },
      "inputs": { "runCommand": ["echo {{ word }}"] }
    }
  ]
}
"""


@require_safe
@permission_required("library.view_document")
def documents(request: HttpRequest) -> HttpResponse:
    """All documents, by name: a page of 100.

    Query: `q` (words in name and description), `owner` ("own", "aws", "shared"), `type`, `account`, `region`, `page`.
    """
    asked = {key: request.GET.get(key, "").replace("\x00", "").strip()[:200] for key in FILTERS}
    found = filtered(Document.objects.visible_to(request.user).present(), asked)
    page = Paginator(found.select_related("account", "region"), ROWS).get_page(request.GET.get("page"))
    query = request.GET.copy()
    query.pop("page", None)
    shelves = list(Shelf.objects.filter(region__enabled=True).select_related("region__account"))
    visible = Document.objects.visible_to(request.user).present()
    context = {
        "page": page,
        "rows": list(page),
        "asked": asked,
        "query": query.urlencode(),
        "owners": _OWNERS,
        "types": sorted(set(visible.order_by().values_list("document_type", flat=True).distinct()) - {""}),
        "accounts": list(Account.objects.values("account_id", "name")),
        "failing": [each for each in shelves if each.error],
        "is_reading": not shelves or any(each.read_at is None and not each.error for each in shelves),
        "total": visible.count() if any(asked.values()) else page.paginator.count,
        "own": visible.own().count(),
        "may_change": request.user.has_perm(services.CHANGE_PERMISSION),
        "may_run": request.user.has_perm(MAY_RUN),
    }
    is_part = getattr(request, "htmx", False) and not request.htmx.boosted
    return render(request, "library/_list.html" if is_part else "library/list.html", context)


@require_safe
@permission_required("library.view_document")
def document(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """One document: its versions, what one of them says (`?version=2`, else the default), and its parameters."""
    found = _visible(request, pk)
    problem = services.look(found, actor=request.user, now=now())
    chosen, read, unreadable = None, None, ""
    try:
        chosen = services.version(found, _version_asked(request), actor=request.user)
        read = services.read(chosen)
    except ContentError as error:
        unreadable = str(error)
    except UserError as error:
        problem = problem or str(error)
    versions = list(found.versions.defer("content"))
    context = {
        "document": found,
        "version": chosen,
        "versions": versions,
        "read": read,
        "parameters": list(read.parameters.values()) if read else [],
        "unreadable": unreadable,
        "problem": problem,
        "before": next((each.number for each in versions if chosen and each.number < chosen.number), None),
        "elsewhere": list(
            Document.objects.visible_to(request.user)
            .present()
            .filter(name=found.name)
            .exclude(pk=found.pk)
            .select_related("account", "region")[:50]
        ),
        "may_change": found.is_own and found.gone_at is None and request.user.has_perm(services.CHANGE_PERMISSION),
        "may_run": found.is_runnable and request.user.has_perm(MAY_RUN),
        "may_review": request.user.has_perm("audit.view_auditevent"),
    }
    return render(request, "library/document.html", context)


@require_safe
@permission_required("library.view_document")
def compare(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Two versions side by side: `?left=1&right=2`."""
    found = _visible(request, pk)
    numbers = list(found.versions.values_list("number", flat=True))
    left, right = (_number(request.GET.get(side, "")) for side in ("left", "right"))
    if left not in numbers or right not in numbers:
        raise UserError(f"Choose two of the versions of {found}.")
    texts = [services.version(found, str(number), actor=request.user) for number in (left, right)]
    context = {
        "document": found,
        "versions": numbers,
        "left": texts[0],
        "right": texts[1],
        "rows": content.compare(texts[0].content, texts[1].content),
    }
    return render(request, "library/compare.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(services.CHANGE_PERMISSION)
def create(request: HttpRequest) -> HttpResponse:
    """Make a document; checked before AWS is asked, and the error says where."""
    form = DocumentForm(request.POST if request.method == "POST" else None, initial={"text": _TEMPLATE})
    if request.method == "POST" and form.is_valid():
        asked = form.cleaned_data
        try:
            made = services.create(
                asked["region"],
                name=asked["name"],
                text=asked["text"],
                document_type=asked["document_type"],
                document_format=asked["document_format"],
                version_name=asked["version_name"],
                actor=request.user,
            )
        except UserError as error:
            _tell(form, error)
        else:
            messages.success(request, f"Made the document {made}.")
            return redirect(made)
    context = {"form": form, "document": None, "has_regions": form.fields["region"].queryset.exists()}
    return render(request, "library/form.html", context, status=_status(request, form))


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(services.CHANGE_PERMISSION)
def edit(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Add a version, which begins as the latest one, or as `?version=2`."""
    found = _visible(request, pk)
    form = VersionForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        asked = form.cleaned_data
        try:
            made = services.add_version(
                found,
                text=asked["text"],
                document_format=asked["document_format"],
                version_name=asked["version_name"],
                make_default=asked["make_default"],
                actor=request.user,
            )
        except UserError as error:
            _tell(form, error)
        else:
            is_default = " It is the default now." if asked["make_default"] else ""
            messages.success(request, f"Added version {made.number} to {found}.{is_default}")
            return redirect(f"{found.get_absolute_url()}?version={made.number}")
    elif request.method != "POST":
        services.look(found, actor=request.user, now=now())
        which = _version_asked(request) or found.latest_version
        base = services.version(found, which, actor=request.user)
        document_format = "YAML" if base.document_format == "YAML" else "JSON"
        form = VersionForm(initial={"text": base.content, "document_format": document_format})
    context = {"form": form, "document": found, "has_regions": True}
    return render(request, "library/form.html", context, status=_status(request, form))


@require_POST
@permission_required(services.CHANGE_PERMISSION)
def set_default(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    found = _visible(request, pk)
    number = _number(request.POST.get("version", ""))
    version = get_object_or_404(DocumentVersion, document=found, number=number)
    services.set_default(found, version.number, actor=request.user)
    messages.success(request, f"Version {version.number} of {found} is the default now.")
    return redirect(found)


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(services.CHANGE_PERMISSION)
def delete(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Ask whether it is meant, with the document's name typed; then delete it."""
    found = _visible(request, pk)
    wrong = ""
    if request.method == "POST":
        if request.POST.get("name", "").strip() == found.name:
            services.delete(found, actor=request.user)
            messages.success(request, f"Deleted the document {found}.")
            return redirect("library:list")
        wrong = "This is not its name."
    context = {"document": found, "wrong": wrong, "versions": found.versions.count()}
    return render(request, "library/delete.html", context, status=400 if wrong else 200)


def _visible(request: HttpRequest, pk: uuid.UUID) -> Document:
    return get_object_or_404(Document.objects.visible_to(request.user).select_related("account", "region"), pk=pk)


def _version_asked(request: HttpRequest) -> str:
    text = request.GET.get("version", "")
    return text if re.fullmatch(r"[1-9][0-9]{0,7}", text) else ""


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"[0-9]{1,8}", text) else 0


def _tell(form: VersionForm, error: UserError) -> None:
    form.add_error("text" if isinstance(error, ContentError) else None, str(error))


def _status(request: HttpRequest, form: VersionForm) -> int:
    return 400 if request.method == "POST" and form.errors else 200
