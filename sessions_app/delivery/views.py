"""The pages of an account's deliveries: where its sessions go, and whether that works."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from fleetops.errors import FieldError
from fleetops.inventory.models import Account
from fleetops.web.shortcuts import permission_required, require_permission

from .. import tasks
from . import checks, services
from .forms import DeliveryForm
from .models import DeliverySettings

CHANGE = "inventory.change_account"


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required("inventory.view_account")
def account(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Where the sessions of an account are delivered; a POST changes it and has a worker check it."""
    found = _account(request, pk)
    row = services.wanted(found)
    if request.method == "POST":
        require_permission(request.user, CHANGE)
    form = DeliveryForm(request.POST if request.method == "POST" else None, initial=DeliveryForm.initial_of(row))
    if request.method == "POST" and form.is_valid():
        try:
            changed = services.change(found, form.cleaned_data, actor=request.user)
        except FieldError as error:
            for name, text in error.fields.items():
                form.add_error(name, text)
        else:
            if changed:
                services.ask_check(found, actor=request.user)
                tasks.check_delivery.delay(str(found.pk))
                messages.success(request, "Changed. Sessions that are opened from now on are delivered so.")
            else:
                messages.success(request, "Nothing was changed.")
            return redirect("deliveries:account", pk=found.pk)
    context = {"form": form, **_context(request, found, row)}
    return render(request, "sessions/delivery.html", context, status=400 if form.errors else 200)


@require_POST
@permission_required(CHANGE)
def check(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """Have a worker make each call of a delivery once."""
    found = _account(request, pk)
    row = services.ask_check(found, actor=request.user)
    tasks.check_delivery.delay(str(found.pk))
    if request.htmx:
        return render(request, "sessions/_delivery_check.html", _context(request, found, row))
    return redirect("deliveries:account", pk=found.pk)


@require_safe
@permission_required("inventory.view_account")
def live(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """The check of an open page, as it stands."""
    found = _account(request, pk)
    return render(request, "sessions/_delivery_check.html", _context(request, found, services.wanted(found)))


def _account(request: HttpRequest, pk: uuid.UUID) -> Account:
    return get_object_or_404(Account.objects.visible_to(request.user), pk=pk)


def _context(request: HttpRequest, account: Account, row: DeliverySettings) -> dict[str, Any]:
    return {
        "account": account,
        "row": row,
        "is_running": checks.is_running(row),
        "is_lost": row.check_asked_at is not None and row.checked_at is None and not checks.is_running(row),
        "bad": sum(not each["ok"] for each in row.check_rows),
        "waiting": services.waiting_in(account),
        "may_change": request.user.has_perm(CHANGE),
    }
