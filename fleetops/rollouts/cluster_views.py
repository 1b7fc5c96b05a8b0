"""Pages of cluster protection: the rules, with how the clusters stand now."""

from __future__ import annotations

import uuid

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from fleetops.errors import UserError
from fleetops.web.shortcuts import permission_required

from . import protection
from .forms import ClusterRuleForm
from .models import SEE_PERMISSION, ClusterRule
from .protection import PERMISSION


@require_safe
@permission_required(SEE_PERMISSION, PERMISSION)
def rules(request: HttpRequest) -> HttpResponse:
    """All rules. The part alone for htmx, which asks anew."""
    every = list(ClusterRule.objects.all())
    standing = protection.standing(every, request.user)
    context = {
        "rows": [(each, standing[each.pk]) for each in every],
        "full": sum(each.full for each in standing.values()),
        "out": sum(each.out for each in standing.values()),
        "may_change": request.user.has_perm(PERMISSION),
    }
    is_part = getattr(request, "htmx", False) and not request.htmx.boosted
    return render(request, "rollouts/_clusters.html" if is_part else "rollouts/clusters.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(PERMISSION)
def create(request: HttpRequest) -> HttpResponse:
    form = ClusterRuleForm(request.POST if request.method == "POST" else None, initial={"most_out": 1, "enabled": True})
    if request.method == "POST" and form.is_valid():
        try:
            protection.create(actor=request.user, **form.cleaned_data)
        except UserError as error:
            form.add_error(next(iter(error.fields), None), str(error))
        else:
            messages.success(request, "The rule holds for every run from now on.")
            return redirect("rollouts:clusters")
    return _form(request, form, None)


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(PERMISSION)
def change(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    rule = get_object_or_404(ClusterRule, pk=pk)
    # Without the row: whether it is the only one of its kind says the database.
    form = ClusterRuleForm(request.POST if request.method == "POST" else None, initial=protection.facts(rule))
    if request.method == "POST" and form.is_valid():
        try:
            protection.change(rule, actor=request.user, **form.cleaned_data)
        except UserError as error:
            form.add_error(next(iter(error.fields), None), str(error))
        else:
            return redirect("rollouts:clusters")
    return _form(request, form, rule)


def _form(request: HttpRequest, form: ClusterRuleForm, rule: ClusterRule | None) -> HttpResponse:
    status = 400 if request.method == "POST" else 200
    return render(request, "rollouts/cluster_form.html", {"form": form, "rule": rule}, status=status)


@require_POST
@permission_required(PERMISSION)
def delete(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    rule = get_object_or_404(ClusterRule, pk=pk)
    protection.delete(rule, actor=request.user)
    messages.success(request, f"The rule is gone: {rule}.")
    return redirect("rollouts:clusters")
