"""A new run that attaches or detaches a role on many instances: what is asked besides targets, waves and gates."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from fleetops.rollouts.forms import Asked
from fleetops.rollouts.models import START_PERMISSION
from fleetops.rollouts.wizard import Wizard, begin, go_on
from fleetops.web.shortcuts import permission_required

from .kind import ATTACH, DETACH, NAME
from .services import STANDARD_PROFILE

# The wizard has minutes of its own: how long a target is expected to take.
FIELDS = {
    "deed": "deed",
    "profile_name": "profile_name",
    "minutes": "lease_minutes",
    "cut_off_accepted": "cut_off_accepted",
}
DEEDS = (
    (ATTACH, "Attach", "for a while or for good; another role that is there is replaced without a gap"),
    (DETACH, "Detach", "for good; the agents lose their connection"),
)


@require_http_methods(["GET", "HEAD", "POST"])
@permission_required(START_PERMISSION)
def create(request: HttpRequest) -> HttpResponse:
    """Attach or detach in waves, step by step. `?q=` targets, `?deed=`; `go` says which button."""
    wizard = Wizard(
        kind=NAME,
        heading="Attach to many",
        action=reverse("roles:new_run"),
        part="roles/_new_run.html",
        back=("Cancel", reverse("rollouts:runs")),
        subject=lambda asked: {name: asked.text(field) for name, field in FIELDS.items()},
        context=_context,
        names=frozenset(FIELDS.values()),
    )
    return go_on(request, wizard) if request.method == "POST" else begin(request, wizard)


def _context(asked: Asked) -> dict[str, Any]:
    return {
        "deeds": DEEDS,
        "deed": asked.text("deed") or ATTACH,
        "profile_name": asked.text("profile_name") or STANDARD_PROFILE,
    }
