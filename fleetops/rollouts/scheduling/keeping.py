"""What a schedule plans, as it is kept; and as whom it is planned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any, Final

from fleetops.rollouts.models import START_PERMISSION
from fleetops.rollouts.plan import Wanted
from fleetops.web.context import within

from .models import RunSchedule

# Of a moment, and not of every one; and the seed, so that it is another canary each time.
_NOT_KEPT: Final = frozenset({"starts_at", "ends_by", "seed"})
_KEPT: Final = frozenset(each.name for each in fields(Wanted)) - _NOT_KEPT


def kept(wanted: Wanted) -> dict[str, Any]:
    """As JSON."""
    return {name: getattr(wanted, name) for name in sorted(_KEPT)}


def wanted_in(given: Mapping[str, Any], *, ends_by: datetime | None = None) -> Wanted:
    return Wanted(**{name: value for name, value in given.items() if name in _KEPT}, ends_by=ends_by)


def wanted_of(schedule: RunSchedule, now: datetime) -> Wanted:
    """What is planned for it now."""
    minutes = schedule.open_minutes
    return wanted_in(
        {**schedule.wanted, "name": schedule.name},
        ends_by=now + timedelta(minutes=minutes) if minutes else None,
    )


def trouble_with_owner(schedule: RunSchedule) -> str:
    """Why nothing can be planned for its owner; empty: nothing is wrong."""
    owner = schedule.owner
    if owner is None or not owner.is_active:
        return f"{schedule.owner_name}, for whom it ran, is gone. Somebody else may take it over."
    if not owner.has_perm(START_PERMISSION):
        return f"{owner.username}, for whom it runs, may not start runs any more. Somebody else may take it over."
    return ""


@contextmanager
def as_owner(schedule: RunSchedule) -> Iterator[None]:
    """The policy is asked with the circumstances in which the owner made it: address, and age of the second factor."""
    with within("worker", source_address=schedule.source_address or "-") as context:
        context.source_address = schedule.source_address
        at = schedule.mfa_at.timestamp() if schedule.mfa_at else None
        context.second_factor = lambda user_id: at if user_id == str(schedule.owner_id) else None
        yield
