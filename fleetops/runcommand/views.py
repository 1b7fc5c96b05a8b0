"""Pages of commands: run a document, look at its plan, follow it, see what each instance told."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import Count, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from fleetops.aws.errors import AwsError
from fleetops.errors import UserError
from fleetops.inventory.models import Instance
from fleetops.inventory.selection import select
from fleetops.library import parameter_forms
from fleetops.library.content import Read
from fleetops.library.models import Document, DocumentVersion
from fleetops.targets import ExpressionError, parse
from fleetops.web.shortcuts import permission_required

from . import listing, plan, services, tasks
from .forms import RunForm
from .models import REVIEW_PERMISSION, RUN_PERMISSION, Command, Invocation
from .states import CommandState, InvocationState

PAGE_SIZE = 50
PANEL_SIZE = 8
MOST_WORDS = 8
MOST_OFFERED = 60  # documents to choose from
SURE_FROM = 100  # instances from which on their number has to be typed
_MOST_REASONS = 20
_STATES = (("", "All"), ("open", "Running"), ("failed", "Failed"), ("succeeded", "Succeeded"), ("draft", "Not started"))
_OF_STATE = {
    "open": [CommandState.RUNNING, CommandState.CANCELLING],
    "failed": [CommandState.FAILED, CommandState.CANCELLED],
    "succeeded": [CommandState.SUCCEEDED],
    "draft": [CommandState.DRAFT],
}


@require_safe
@permission_required(RUN_PERMISSION, REVIEW_PERMISSION)
def commands(request: HttpRequest) -> HttpResponse:
    """Commands, the newest first: a page of 50. Query: `q` (words in document, person, reason, instances), `state`."""
    asked = {key: request.GET.get(key, "").replace("\x00", "").strip()[:200] for key in ("q", "state")}
    visible = Command.objects.visible_to(request.user)
    found = visible
    for word in asked["q"].split()[:MOST_WORDS]:
        found = found.filter(
            Q(document_name__icontains=word)
            | Q(actor_name__icontains=word)
            | Q(reason__icontains=word)
            | Q(targets_text__icontains=word)
        )
    if asked["state"] in _OF_STATE:
        found = found.filter(state__in=_OF_STATE[asked["state"]])
    else:
        found = found.started()
    page = Paginator(found.order_by("-id"), PAGE_SIZE).get_page(request.GET.get("page"))
    counts = Invocation.objects.of_commands([each.pk for each in page if not each.is_over])
    query = request.GET.copy()
    query.pop("page", None)
    context = {
        "page": page,
        "rows": [listing.with_numbers(each, counts.get(each.pk, each.counts)) for each in page],
        "asked": asked,
        "query": query.urlencode(),
        "states": _STATES,
        "has_filter": any(asked.values()),
        "running": visible.open().count(),
        "sees_all": request.user.has_perm(REVIEW_PERMISSION),
        "may_run": request.user.has_perm(RUN_PERMISSION),
    }
    is_part = getattr(request, "htmx", False) and not request.htmx.boosted
    return render(request, "runcommand/_list.html" if is_part else "runcommand/list.html", context)


# --- run a document --------------------------------------------------------------------------------------------------


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(RUN_PERMISSION)
def create(request: HttpRequest) -> HttpResponse:
    """Choose a document; then fill its form, which leads to a plan. `?document=` its id, `?version=`, `?q=` targets."""
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
    place = plan.place_of(document, version, actor=request.user)
    form = RunForm(
        request.POST if request.method == "POST" else None, initial={"targets": request.GET.get("q", "")[:4000]}
    )
    if request.method == "POST" and form.is_valid():
        made = _drafted(request, document, version, place.read, form)
        if made is not None:
            return redirect(made)
    context = {
        "document": document,
        "version": version,
        "versions": list(DocumentVersion.objects.filter(document=document).defer("content")),
        "place": place,
        "form": form,
        "fields": parameter_forms.fields(place.read.parameters, _shown(request, place.read)),
        "most": plan.MOST_INSTANCES,
    }
    status = 400 if request.method == "POST" else 200
    return render(request, "runcommand/form.html", context, status=status)


def _choose(request: HttpRequest) -> HttpResponse:
    asked = request.GET.get("find", "").replace("\x00", "").strip()[:200]
    found = Document.objects.visible_to(request.user).runnable()
    for word in asked.split()[:MOST_WORDS]:
        found = found.filter(Q(name__icontains=word) | Q(description__icontains=word))
    own: dict[str, Document] = {}
    aws: dict[str, Document] = {}
    for each in found.select_related("account", "region").order_by("name", "account__name", "region__name")[:2000]:
        # One of each name: where it does not lie, the plan says so.
        (own if each.is_own else aws).setdefault(each.name, each)
    context = {
        "asked": asked,
        "targets": request.GET.get("q", "")[:4000],
        "groups": [
            (title, list(group.values())[:MOST_OFFERED], max(0, len(group) - MOST_OFFERED))
            for title, group in (("Own", own), ("AWS's and others'", aws))
            if group
        ],
    }
    return render(request, "runcommand/choose.html", context)


def _shown(request: HttpRequest, read: Read) -> dict[str, str]:
    """What the inputs hold: what was sent, if anything was."""
    return {name: str(request.POST[f"p_{name}"]) for name in read.parameters if f"p_{name}" in request.POST}


def _drafted(request: HttpRequest, document: Document, version: str, read: Read, form: RunForm) -> Command | None:
    """The plan that the form asks for; None, with an error in the form, if there can be none."""
    asked = form.cleaned_data
    try:
        expression = parse(asked["targets"], words=True)
    except ExpressionError as error:
        form.add_error("targets", str(error))
        return None
    try:
        return services.draft(
            document,
            version=version,
            parameters=parameter_forms.given_in(request.POST, read.parameters),
            instances=select(expression, Instance.objects.visible_to(request.user).present()),
            targets_text=str(expression),
            reason=asked["reason"],
            timeout_seconds=asked["timeout_seconds"],
            at_once=asked["at_once"] or 0,
            most_failed=asked["most_failed"],
            actor=request.user,
        )
    except services.ReasonMissing as error:
        form.add_error("reason", str(error))
    except UserError as error:
        form.add_error(None, str(error))
    return None


# --- one command -----------------------------------------------------------------------------------------------------


@require_safe
@permission_required(RUN_PERMISSION, REVIEW_PERMISSION)
def command(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """A plan with who is left out and why; once it is started, how it goes. Query: `show`, `q`, `page`."""
    found = _visible(request, pk)
    context = _context(request, found)
    if found.is_draft:
        context["reasons"] = list(
            found.invocations.filter(state=InvocationState.SKIPPED)
            .order_by()
            .values("details")
            .annotate(count=Count("pk"))
            .order_by("-count", "details")[:_MOST_REASONS]
        )
        context["places"] = list(
            found.invocations.filter(state=InvocationState.PLANNED)
            .order_by()
            .values("account__name", "region__name", "document_version")
            .annotate(count=Count("pk"))
            .order_by("account__name", "region__name")
        )
        return render(request, "runcommand/plan.html", context)
    return render(request, "runcommand/command.html", context)


@require_safe
@permission_required(RUN_PERMISSION, REVIEW_PERMISSION)
def live(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """What an open page shows anew every 3 s while the command runs."""
    return render(request, "runcommand/_live.html", _context(request, _visible(request, pk)) | {"is_update": True})


def _context(request: HttpRequest, found: Command) -> dict[str, Any]:
    counts = found.invocations.counts()
    show = request.GET.get("show", "")
    show = show if show in listing.FILTERS else ""
    text = request.GET.get("q", "").replace("\x00", "").strip()[:200]
    rows = found.invocations.select_related("account", "region").defer("outputs")
    if show:
        rows = rows.filter(state__in=list(listing.FILTERS[show]))
    if text:
        rows = rows.filter(Q(instance_name__icontains=text) | Q(instance_id__icontains=text))
    paginator = Paginator(rows, listing.ROWS)
    if not text:
        states = listing.FILTERS[show] if show else set(InvocationState)
        paginator.count = sum(counts[InvocationState(state)] for state in states)
    page = paginator.get_page(request.GET.get("page"))
    numbers = listing.figures(counts)
    query = request.GET.copy()
    query.pop("page", None)
    mine = found.actor_id == request.user.pk
    return {
        "command": listing.with_state_words(found),
        "counts": counts,
        "numbers": numbers,
        "bar": listing.bar(counts),
        "tabs": listing.tabs(counts, show),
        "show": show,
        "text": text,
        "page": page,
        "rows": [listing.with_words(each) for each in page],
        "query": query.urlencode(),
        "here": request.GET.urlencode(),
        "may_start": found.is_draft and mine and request.user.has_perm(RUN_PERMISSION),
        "may_cancel": found.state == CommandState.RUNNING
        and (mine or request.user.has_perm(services.CANCEL_PERMISSION)),
        "may_again": found.is_over and request.user.has_perm(RUN_PERMISSION),
        "must_type": numbers["planned"] > SURE_FROM,
        "errors": list(
            found.dispatches.open().exclude(error="").values("error", "account__name", "region__name").distinct()[:5]
        )
        if found.is_open
        else [],
        "is_mine": mine,
    }


@require_POST
@permission_required(RUN_PERMISSION)
def start(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Let a plan go; for more than 100 instances their number has been typed."""
    found = get_object_or_404(Command.objects.filter(actor=request.user), pk=pk)
    planned = found.invocations.filter(state=InvocationState.PLANNED).count()
    typed = request.POST.get("count", "").replace(",", "").strip()
    if planned > SURE_FROM and typed != str(planned):
        messages.warning(request, f"Type {planned} to start it: it is for {planned:,} instances.")
        return redirect(found)
    services.start(found, actor=request.user)
    tasks.advance.delay_on_commit(str(found.pk))
    return redirect(found)


@require_POST
@permission_required(RUN_PERMISSION, services.CANCEL_PERMISSION)
def cancel(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    found = get_object_or_404(services.cancellable_by(request.user), pk=pk)
    if services.cancel(found, actor=request.user):
        messages.success(request, "Cancelled. What an agent runs already may go on to its end.")
        tasks.advance.delay_on_commit(str(found.pk))
    else:
        messages.info(request, "It was over already.")
    return redirect(found)


@require_POST
@permission_required(RUN_PERMISSION)
def again(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """A plan of the same; `only=unwell` where it did not end well."""
    found = _visible(request, pk)
    return redirect(services.again(found, only_unwell=request.POST.get("only") == "unwell", actor=request.user))


@require_safe
@permission_required(RUN_PERMISSION, REVIEW_PERMISSION)
def invocation(request: HttpRequest, pk: uuid.UUID, invocation_pk: uuid.UUID) -> HttpResponse:
    """What a command told on one instance; htmx gets the part that changes while it runs."""
    found = _visible(request, pk)
    rows = Invocation.objects.filter(command=found).select_related("account", "region", "dispatch", "instance_row")
    row = get_object_or_404(rows, pk=invocation_pk)
    row.command = listing.with_state_words(found)
    if not request.htmx:
        services.record_look(row, actor=request.user)
    problem = ""
    try:
        services.read_output(row, actor=request.user)
    except AwsError as error:
        problem = str(error)
    others = found.invocations.only("pk", "command_id")
    after = Q(instance_name__gt=row.instance_name) | Q(instance_name=row.instance_name, pk__gt=row.pk)
    before = Q(instance_name__lt=row.instance_name) | Q(instance_name=row.instance_name, pk__lt=row.pk)
    context = {
        "command": found,
        "invocation": listing.with_words(row),
        "problem": problem,
        "previous": others.filter(before).order_by("-instance_name", "-pk").first(),
        "next": others.filter(after).order_by("instance_name", "pk").first(),
        "is_update": bool(request.htmx),
    }
    return render(request, "runcommand/_output.html" if request.htmx else "runcommand/invocation.html", context)


@require_safe
@permission_required("inventory.view_instance")
def panel(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """The latest commands on one instance that this user may see, as a part of its page."""
    instance = get_object_or_404(Instance.objects.visible_to(request.user), pk=pk)
    rows = (
        Invocation.objects.filter(instance_row=instance, command__in=Command.objects.visible_to(request.user).started())
        .exclude(state=InvocationState.SKIPPED)
        .select_related("command")
        .defer("outputs")
        .order_by("-id")[:PANEL_SIZE]
    )
    context = {
        "instance": instance,
        "rows": [listing.with_words(each) for each in rows],
        "may_run": request.user.has_perm(RUN_PERMISSION),
    }
    return render(request, "runcommand/_panel.html", context)


def _visible(request: HttpRequest, pk: uuid.UUID) -> Command:
    return get_object_or_404(Command.objects.visible_to(request.user).select_related("actor"), pk=pk)
