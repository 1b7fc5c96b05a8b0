"""Pages of files to and from instances: the one of an instance, and the deed that begins a transfer."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.http import HttpResponseBadRequest, JsonResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_POST, require_safe

from fleetops.errors import Denied, UserError
from fleetops.inventory.models import Instance
from fleetops.policy.services import ReasonNeeded

from ..addresses import terminal_address
from ..models import Command, TerminalSession
from . import services
from .models import Transfer

SHOWN = 50


@require_safe
def files(request, pk):
    """Files to and from one instance: begin a transfer, and see the latest fifty that this user may see.

    Context: `instance`, `files` (see files_context; None if the policy lets nothing go), `transfers`. Template
    `sessions/files.html`.
    """
    visible = Instance.objects.visible_to(request.user).select_related("account", "region")
    instance = get_object_or_404(visible, pk=pk)
    found = Transfer.objects.visible_to(request.user).filter(session__instance_row=instance).select_related("session")
    context = {"instance": instance, "files": files_context(request, instance), "transfers": list(found[:SHOWN])}
    response = render(request, "sessions/files.html", context)
    response._csp_update = {"connect-src": [terminal_address(request)]}  # django-csp's own attribute
    return response


def files_context(request, instance: Instance | None, parent: TerminalSession | None = None) -> dict | None:
    """What `sessions/_files.html` shows; None if nothing may go from here.

    `parent`, `instance`, `limit` (bytes), `limit_words`, `as_user`.
    """
    if instance is None or not services.may_try(instance, request.user, parent=parent):
        return None
    return {
        "instance": instance,
        "parent": parent,
        "limit": services.limit_bytes(),
        "limit_words": services.in_bytes(services.limit_bytes()),
        "as_user": "" if parent is None else parent.run_as,
    }


def folder_of(parent: TerminalSession) -> str:
    """Where the shell was when it last told so."""
    told = Command.objects.filter(session=parent, cwd__startswith="/").order_by("-number")
    return told.values_list("cwd", flat=True).first() or ""


@require_POST
def begin(request):
    """Begin a transfer, as JSON: {"session", "path"}, or {"problem", "needs_reason"}.

    The form has `instance` or `parent` (a shell of one's own), `direction`, `path`, `name`, `size`, `overwrite` ("1"),
    `reason`. The file goes through the session's websocket: see engine.py.
    """
    given = request.POST
    parent = None
    try:
        if given.get("parent"):
            mine = TerminalSession.objects.filter(user_id=request.user.pk).select_related("grant")
            parent = get_object_or_404(mine, pk=given["parent"])
        wanted = parent.instance_row_id if parent is not None else given.get("instance", "")
        visible = Instance.objects.visible_to(request.user).select_related("account", "region")
        instance = get_object_or_404(visible, pk=wanted)
        size = int(given["size"]) if given.get("size") else None
    except (ValidationError, ValueError):
        return HttpResponseBadRequest("“instance”, “parent” or “size” is none.")
    path = given.get("path", "")
    if parent is not None and path and not path.startswith(("/", "~")):  # as the shell would take it
        path = f"{(folder_of(parent) or '~').rstrip('/')}/{path.removeprefix('./')}"
    try:
        transfer = services.begin(
            instance,
            actor=request.user,
            direction=given.get("direction", ""),
            path=path,
            name=given.get("name", ""),
            size=size,
            overwrite=given.get("overwrite") == "1",
            parent=parent,
            reason=given.get("reason", ""),
        )
    except ReasonNeeded as needed:
        return JsonResponse({"problem": str(needed), "needs_reason": True}, status=400)
    except UserError as error:
        status = 403 if isinstance(error, Denied) else 409
        return JsonResponse({"problem": str(error), "needs_reason": False}, status=status)
    return JsonResponse({"session": str(transfer.session_id), "path": path})
