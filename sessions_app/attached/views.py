"""Attach a role for so many minutes and connect: the form, how far it has come, the shell, giving it up."""

from __future__ import annotations

import uuid

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe
from django_htmx.http import HttpResponseClientRedirect

from fleetops.errors import Denied, FieldError, UserError
from fleetops.inventory.models import Instance
from fleetops.policy.services import ReasonNeeded
from fleetops.roles.models import ATTACH_PERMISSION, EndsWith
from fleetops.roles.services import STANDARD_PROFILE
from fleetops.web.shortcuts import permission_required

from . import services
from .models import ConnectOrder

_ENDS = (
    (EndsWith.SESSION.value, "With the session, at the latest after these minutes"),
    (EndsWith.TIME.value, "After these minutes, also when the session has ended before"),
)


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(ATTACH_PERMISSION)
def new(request: HttpRequest) -> HttpResponse:
    """The form for `?instance=`, its id; and what it asks for."""
    given = request.POST if request.method == "POST" else request.GET
    try:
        key = uuid.UUID(given.get("instance", ""))
    except ValueError:
        raise UserError("Choose an instance on the fleet page.") from None
    visible = Instance.objects.visible_to(request.user).select_related("account", "region")
    instance = get_object_or_404(visible, pk=key)
    values = {
        "profile_name": given.get("profile_name", "").strip() or STANDARD_PROFILE,
        "minutes": given.get("minutes", "").strip() or str(services.DEFAULT_MINUTES),
        "ends_with": given.get("ends_with", "") or EndsWith.SESSION.value,
        "reason": given.get("reason", ""),
    }
    errors: dict[str, str] = {}
    if request.method == "POST":
        try:
            if not values["minutes"].isascii() or not values["minutes"].isdigit() or len(values["minutes"]) > 6:
                raise FieldError("minutes", "Say for how many minutes, as a number.")
            made = services.begin(instance, actor=request.user, **{**values, "minutes": int(values["minutes"])})
            return redirect(made)
        except ReasonNeeded as needed:
            errors = {"reason": str(needed)}
        except Denied:
            raise
        except UserError as error:
            errors = dict(error.fields) or {"": str(error)}
    context = {"instance": instance, "values": values, "errors": errors, "error": errors.get("", ""), "ends": _ENDS}
    return render(request, "sessions/attached/new.html", context, status=400 if errors else 200)


def _own(request: HttpRequest, pk: uuid.UUID) -> ConnectOrder:
    rows = ConnectOrder.objects.visible_to(request.user).select_related(
        "instance__account", "instance__region", "lease__instance", "lease__account", "lease__region", "session"
    )
    return get_object_or_404(rows, pk=pk)


@require_safe
def order(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """How far it has come; the part alone for htmx, which asks anew until it is over."""
    found = _own(request, pk)
    services.settle(found)
    is_part = bool(getattr(request, "htmx", False)) and not request.htmx.boosted
    context = {"order": found, "steps": services.steps(found)}
    return render(request, "sessions/attached/_order.html" if is_part else "sessions/attached/order.html", context)


@require_POST
def open_shell(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    """The shell of an order that is ready, once. The page itself asks for it as soon as it shows that it is."""
    session = services.open_shell(_own(request, pk), actor=request.user)
    address = reverse("sessions:terminal", args=[session.pk])
    return HttpResponseClientRedirect(address) if request.htmx else redirect(address)


@require_POST
def cancel(request: HttpRequest, pk: uuid.UUID) -> HttpResponse:
    found = _own(request, pk)
    services.cancel(found, actor=request.user)
    return redirect(found)
