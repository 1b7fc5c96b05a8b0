"""What all that people do to a run has in common: its lock, reasons in words, the timeline and the audit log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from django.db import transaction

from fleetops.audit.record import record
from fleetops.clock import now as clock_now
from fleetops.errors import FieldError, UserError
from fleetops.identity.models import User
from fleetops.notify import services as notify
from fleetops.transitions import IllegalMove, LostRace, move

from . import preparing
from .advancing import ENDED, STOPPED, tell
from .models import Run, RunTarget, Wave
from .states import RUN_MOVES, RunState

logger = logging.getLogger(__name__)


@contextmanager
def hold(run: Run) -> Iterator[tuple[Run, datetime]]:
    """The run under its lock, to be changed. It is looked at again at once afterwards."""
    with transaction.atomic():
        held = Run.objects.select_for_update().filter(pk=run.pk).first()
        if held is None:
            raise UserError("This run is no longer there.")
        moment = clock_now()
        try:
            yield held, moment
        except (LostRace, IllegalMove):
            raise UserError("Somebody else was quicker; look at the run again.") from None
        if held.is_open:
            Run.objects.filter(pk=held.pk).update(due_at=moment, waits_for="")
            held.due_at, held.waits_for = moment, ""
    for field in held._meta.concrete_fields:
        setattr(run, field.attname, getattr(held, field.attname))


def one_line(reason: str) -> str:
    return " ".join("".join(each if each.isprintable() else " " for each in reason).split())[:256]


def why_line(reason: str) -> str:
    """Raises UserError if nobody could read later why it was done."""
    if not (found := one_line(reason)):
        raise FieldError("reason", "Say why in a few words: who reads the log later will want to know.")
    return found


def not_now(run: Run, what: str) -> UserError:
    return UserError(f"This run is {run.get_state_display().lower()}; it cannot be {what} now.")


def note(
    run: Run,
    deed: str,
    told: str,
    *,
    actor: User,
    reason: str,
    now: datetime,
    wave: Wave | None = None,
    row: RunTarget | None = None,
    **facts: Any,
) -> None:
    """In the timeline and in the audit log."""
    line = one_line(reason)
    tell(run, f"{told} {line}".strip(), wave=wave, target=row, now=now)
    record(f"rollouts.{deed}", actor=actor, target=run, reason=line, **facts)
    logger.info("run steered run=%s deed=%s user=%s", run.pk, deed, actor)


def go_on(run: Run, *, now: datetime) -> None:
    """Let the run go on; what was told of its stop or its end is over."""
    preparing.reopen(run)
    move(run, RunState.RUNNING, RUN_MOVES, end_reason="", ended_at=None, due_at=now, counts={})
    notify.resolve(STOPPED, dedup_key=str(run.pk))
    notify.resolve(ENDED, dedup_key=str(run.pk))
