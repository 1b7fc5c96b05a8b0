"""A new patch run: what is asked besides targets, waves and gates."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from fleetops.rollouts.forms import Asked
from fleetops.rollouts.models import START_PERMISSION
from fleetops.rollouts.wizard import Wizard, begin, go_on
from fleetops.web.shortcuts import permission_required

from .kind import NAME
from .verdict import IF_NEEDED, INSTALL, NO_REBOOT, SCAN

FIELDS = ("operation", "reboot_option", "override_list", "pin")
OPERATIONS = (
    (INSTALL, "Install", "what each node's baseline approves, and restarts by the rule below"),
    (SCAN, "Scan", "looks what is missing, and changes nothing"),
)
REBOOTS = (
    (IF_NEEDED, "If anything was installed or waits for a restart"),
    (NO_REBOOT, "Never: what needs one waits for it, and the node is not compliant until then"),
)


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(START_PERMISSION)
def create(request: HttpRequest) -> HttpResponse:
    """Patch in waves, step by step. `?q=` targets, `?operation=` Scan or Install; `go` says which button."""
    wizard = Wizard(
        kind=NAME,
        heading="Patch in waves",
        action=reverse("patching:new_run"),
        part="patching/_new_run.html",
        back=("Cancel", reverse("rollouts:runs")),
        subject=lambda asked: {name: asked.text(name) for name in FIELDS},
        context=_context,
        names=frozenset(FIELDS),
    )
    if request.method == "POST":
        return go_on(request, wizard)
    if request.GET.get("operation") == SCAN:
        # It changes nothing: all at once, and one that fails holds up no other.
        return begin(request, wizard, "once", {"concurrency": "100%", "budget": "100%"})
    return begin(request, wizard)


def _context(asked: Asked) -> dict[str, Any]:
    return {
        "operations": OPERATIONS,
        "reboots": REBOOTS,
        "operation": asked.text("operation") or INSTALL,
        "reboot_option": asked.text("reboot_option") or IF_NEEDED,
    }
