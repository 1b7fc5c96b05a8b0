"""Leave to go through freezes: just those for which others were asked, until their end or the end of the leave."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from fleetops.approvals import services as approvals
from fleetops.approvals.states import ApprovalState
from fleetops.calendars import services as calendars
from fleetops.errors import UserError
from fleetops.inventory.models import Instance
from fleetops.inventory.selection import facts_of

from .models import Run
from .states import TargetState

logger = logging.getLogger(__name__)

DEED: Final = "override_freeze"


def freezes(run: Run, deeds: Sequence[str], *, at: datetime) -> list[dict[str, Any]]:
    """The freezes that hold at least one waiting target at `at`: [{calendar, name, until}]; none: no end in sight."""
    waiting = run.targets.filter(state=TargetState.QUEUED).exclude(instance_row=None)
    rows = Instance.objects.filter(pk__in=waiting.values("instance_row")).select_related("account", "region")
    facts = [facts_of(each) for each in rows]
    found = []
    for calendar in calendars.standing():
        if not calendar.is_freeze:
            continue
        answers = (calendars.ask(deed, its, at, [calendar]) for its in facts for deed in deeds)
        held = next((answer for answer in answers if not answer.is_open), None)
        if held is not None:
            until = held.changes_at.isoformat() if held.changes_at else None
            found.append({"calendar": str(calendar.pk), "name": str(calendar), "until": until})
    return found


def details(run: Run) -> dict[str, Any]:
    """What others let a run do: just that, for the plan and the freezes that they saw."""
    return {"run": str(run.pk), "plan": run.plan_hash, "freezes": run.override_freezes}


def take(run: Run) -> None:
    """Use the leave as soon as it is given. Under the lock of the run."""
    request = run.override
    if request is None or request.state != ApprovalState.APPROVED or run.actor is None:
        return
    try:
        run.override = approvals.take(request.pk, deed=DEED, details=details(run), actor=run.actor)
    except UserError as error:
        logger.warning("override not taken run=%s error=%s", run.pk, error)


def opened(run: Run, *, now: datetime) -> set[str]:
    """The keys of the calendars whose freezes the run may go through now."""
    request = run.override
    if request is None or request.used_at is None or now >= request.expires_at:
        return set()
    return {
        each["calendar"]
        for each in run.override_freezes
        if each["until"] is None or now < datetime.fromisoformat(each["until"])
    }


def drop(run: Run) -> None:
    """Whoever tries it again later asks anew. Under the lock of the run."""
    run.override, run.override_freezes = None, []
    Run.objects.filter(pk=run.pk).update(override=None, override_freezes=[])
