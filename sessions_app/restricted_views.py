"""Pages of restricted shells: define them, and open one on an instance."""

from __future__ import annotations

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpResponseBadRequest
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from fleetops.errors import FieldError, UserError
from fleetops.inventory.models import Instance
from fleetops.inventory.selection import facts_of
from fleetops.policy import services as policy
from fleetops.policy.services import ReasonNeeded
from fleetops.web.shortcuts import permission_required

from . import questions, restricted, services
from .models import RestrictedShell
from .restricted_forms import OpenAsForm, RestrictedShellForm


@require_safe
@permission_required(restricted.CHANGE_PERMISSION)
def shell_list(request):
    """All restricted shells, also disabled ones. Context: `shells`. One query of its own."""
    return render(request, "sessions/restricted_list.html", {"shells": list(RestrictedShell.objects.all())})


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(restricted.CHANGE_PERMISSION)
def add(request):
    """Define one. Context: `form`, `shell` (None)."""
    form = RestrictedShellForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        try:
            row = restricted.define(actor=request.user, **form.fields_given)
        except FieldError as error:
            form.show(error.fields)
        else:
            messages.success(request, f"{row.document} can be opened now, by whom the access policy lets.")
            return redirect(row)
    return _form(request, form, None)


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(restricted.CHANGE_PERMISSION)
def shell(request, pk):
    """One, to be changed. Context: `form`, `shell`."""
    row = get_object_or_404(RestrictedShell, pk=pk)
    form = RestrictedShellForm(request.POST if request.method == "POST" else None, shell=row)
    if request.method == "POST" and form.is_valid():
        try:
            restricted.change(row, actor=request.user, **form.fields_given)
        except FieldError as error:
            form.show(error.fields)
        else:
            messages.success(request, "It is changed; sessions that are open go on as they were started.")
            return redirect(row)
    return _form(request, form, row)


def _form(request, form: RestrictedShellForm, row: RestrictedShell | None):
    context = {"form": form, "shell": row, "plain_pattern": restricted.PLAIN_PATTERN}
    return render(request, "sessions/restricted_form.html", context, status=400 if form.errors else 200)


@require_POST
@permission_required(restricted.CHANGE_PERMISSION)
def set_enabled(request, pk):
    """Let it be opened (`enabled` is 1), or no more."""
    row = get_object_or_404(RestrictedShell, pk=pk)
    restricted.set_enabled(row, request.POST.get("enabled") == "1", actor=request.user)
    return redirect(row)


@require_http_methods(["GET", "HEAD", "POST"])
def open_as(request):
    """The restricted shells of the instance `instance`, each with its parameters; a POST with `shell` opens one.

    Context: `instance`, `choices` ([{"shell", "form", "answer" (the policy's Decision), "problem"}]), `reason`,
    `needed` (ReasonNeeded, or None). Template `sessions/open_as.html`.
    """
    asked = request.POST if request.method == "POST" else request.GET
    try:
        instance = get_object_or_404(
            Instance.objects.visible_to(request.user).select_related("account", "region"), pk=asked.get("instance", "")
        )
    except ValidationError:
        return HttpResponseBadRequest("“instance” is no instance's id.")
    chosen = request.POST.get("shell", "")
    problem, needed, status = "", None, 200
    if request.method == "POST":
        row = _chosen(instance, chosen)
        form = OpenAsForm(request.POST, shell=row)
        try:
            session = services.open_session(
                instance,
                actor=request.user,
                reason=request.POST.get("reason", ""),
                document=row.document,
                parameters=form.parameters,
            )
        except ReasonNeeded as error:
            needed, status = error, 400
        except restricted.BadParameters as error:
            problem, status = str(error), 400
        else:
            return redirect("sessions:terminal", pk=session.pk)
    who, here, rules = policy.actor_facts(request.user), policy.context(request.user), policy.rules()
    choices = []
    for row in restricted.openable(instance):
        is_chosen = str(row.pk) == chosen
        request_for = questions.opening(who, facts_of(instance), here, document=row.document)
        choices.append(
            {
                "shell": row,
                "form": OpenAsForm(request.POST if is_chosen else None, shell=row),
                "answer": policy.decide_session(request_for, rules),
                "problem": problem if is_chosen else "",
            }
        )
    context = {"instance": instance, "choices": choices, "reason": request.POST.get("reason", ""), "needed": needed}
    return render(request, "sessions/open_as.html", context, status=status)


def _chosen(instance: Instance, pk: str) -> RestrictedShell:
    """Raises UserError."""
    for row in restricted.openable(instance):
        if str(row.pk) == pk:
            return row
    raise UserError("This restricted shell cannot be opened here now; go back and choose again.")
