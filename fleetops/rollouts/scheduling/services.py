"""What people do with schedules: make, change, pause, resume, run now, take over, delete; audited, refusals too."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Final

from django.db import transaction

from fleetops import schedules
from fleetops.audit.record import deny, record
from fleetops.clock import now as clock_now
from fleetops.errors import Denied, FieldError, UserError, in_field
from fleetops.identity.models import User
from fleetops.notify import services as notify
from fleetops.policy import services as policy
from fleetops.rollouts import limits, plan
from fleetops.rollouts.assess import ReasonMissing
from fleetops.rollouts.models import START_PERMISSION, STEER_PERMISSION, Run
from fleetops.rollouts.plan import Wanted
from fleetops.runcommand.models import REVIEW_PERMISSION
from fleetops.transitions import IllegalMove, LostRace, move

from .due import TROUBLE, WAITS
from .keeping import kept, wanted_in, wanted_of
from .models import Occurrence, RunSchedule
from .states import OCCURRENCE_MOVES, Cause, MissedRule, OccurrenceState, OverlapRule

logger = logging.getLogger(__name__)

LEAST_DISTANCE: Final = timedelta(minutes=5)  # AWS's for cron; see aws-semantics of State Manager
LONGEST_OPEN: Final = 7 * 24 * 60  # minutes
MOST: Final = 1000  # schedules
FIELDS: Final = (
    *("name", "expression", "offset_days", "zone", "starts_at", "ends_at", "starts_itself", "missed", "overlap"),
    *("drift", "open_minutes"),
)


# --- may they? -------------------------------------------------------------------------------------------------------


def is_mine(schedule: RunSchedule, user: User) -> bool:
    return schedule.owner_id == user.pk and user.has_perm(START_PERMISSION)


def may_steer(schedule: RunSchedule, user: User) -> bool:
    """Pause, delete, leave out: one's own, or anybody's with the permission."""
    if is_mine(schedule, user):
        return True
    return user.has_perm(STEER_PERMISSION) and RunSchedule.objects.visible_to(user).filter(pk=schedule.pk).exists()


def may_take(schedule: RunSchedule, user: User) -> bool:
    may = user.has_perm(STEER_PERMISSION) and user.has_perm(START_PERMISSION) and schedule.owner_id != user.pk
    return may and (may_read_parameters(schedule, user) or not _has_parameters(schedule))


def may_read_parameters(schedule: RunSchedule, user: User) -> bool:
    return schedule.owner_id == user.pk or user.has_perm(REVIEW_PERMISSION)


def _has_parameters(schedule: RunSchedule) -> bool:
    wanted = schedule.wanted
    given = [wanted.get("subject", {})]
    given += [step for name in ("steps_before", "steps_after", "probes") for step in wanted.get(name) or ()]
    given += [gate for rule in wanted.get("waves") or () for gate in rule.get("gates") or ()]
    return any(each.get("parameters") for each in given)


def _refuse(schedule: RunSchedule | None, actor: User, what: str, reason: str) -> Denied:
    deny("rollouts.schedule.deny", actor=actor, target=schedule, reason=reason, deed=what)
    return Denied(reason)


def require_mine(schedule: RunSchedule, actor: User, what: str) -> None:
    if not is_mine(schedule, actor):
        raise _refuse(schedule, actor, what, f"Only {schedule.owner_name}, for whom it runs, may {what} this schedule.")


def _require_steer(schedule: RunSchedule, actor: User, what: str) -> None:
    if not may_steer(schedule, actor):
        reason = f"Only {schedule.owner_name}, and who holds the permission {STEER_PERMISSION}, may {what} it."
        raise _refuse(schedule, actor, what, reason)


# --- checking --------------------------------------------------------------------------------------------------------


def checked(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a schedule, completed. Raises FieldError."""
    if unknown := fields.keys() - set(FIELDS):
        raise LookupError(f"a schedule has no {', '.join(sorted(unknown))}")
    given = {
        "offset_days": 0,
        "zone": "UTC",
        "starts_at": None,
        "ends_at": None,
        "starts_itself": True,
        "missed": MissedRule.SKIP,
        "overlap": OverlapRule.SKIP,
        "drift": "",
        "open_minutes": 0,
        **fields,
    }
    given["name"] = " ".join("".join(each if each.isprintable() else " " for each in given["name"]).split())[:128]
    if not given["name"]:
        raise FieldError("name", "Give it a name, by which it is found again.")
    with in_field("expression"):
        schedule = schedules.parse(given["expression"], offset_days=given["offset_days"])
        _not_too_often(schedule)
    given["expression"] = schedule.text
    with in_field("zone"):
        schedules.zone_of(given["zone"])
    for name, values in (("missed", MissedRule), ("overlap", OverlapRule)):
        if given[name] not in values.values:
            raise FieldError(name, f"Write one of {', '.join(values.values)}.")
    if given["drift"].strip():
        with in_field("drift"):
            given["drift"] = str(limits.parse(given["drift"], what="The drift"))
    else:
        given["drift"] = ""
    if not 0 <= given["open_minutes"] <= LONGEST_OPEN:
        raise FieldError("open_minutes", f"At most {LONGEST_OPEN:,} minutes, a week.")
    if given["starts_at"] and given["ends_at"] and given["ends_at"] <= given["starts_at"]:
        raise FieldError("ends_at", "It would end before it begins.")
    return given


def _not_too_often(schedule: schedules.Schedule) -> None:
    if schedule.every is not None:
        if schedule.every < LEAST_DISTANCE:
            raise UserError("A run comes every 5 minutes at most.")
    elif schedule.cron:
        minutes = sorted(schedule.cron[0].values)
        if len(schedule.cron[1].values) > 1:
            minutes.append(minutes[0] + 60)
        if any(after - before < 5 for before, after in pairwise(minutes)):
            raise UserError("A run comes every 5 minutes at most; name minutes that lie so far apart.")


def trial(wanted: Wanted, *, actor: User) -> tuple[int, str]:
    """What it would be now: targets, and what is the matter if there are none. Nothing is kept.

    Raises UserError if it can never be; Denied, audited, if the policy lets `actor` do it nowhere.
    """
    if not actor.has_perm(START_PERMISSION):
        raise _refuse(None, actor, "make", f"Your roles do not hold the permission {START_PERMISSION}.")
    try:
        with transaction.atomic():
            run = plan.make(wanted, actor=actor)
            transaction.set_rollback(True)
        return int(run.plan.get("targets", 0)), ""
    except plan.NoTarget as error:
        if error.cause == "denied":
            raise _refuse(None, actor, "make", str(error)) from None
        return 0, str(error)
    except ReasonMissing as error:
        raise FieldError("reason", str(error)) from None


# --- making and changing ---------------------------------------------------------------------------------------------


def create(wanted: Wanted, *, actor: User, **fields: Any) -> RunSchedule:
    """Have a run come again, for `actor`. Raises UserError, Denied."""
    given = checked(fields)
    moment = clock_now()
    schedule = RunSchedule(wanted=kept(wanted), anchor=moment, created_at=moment, **given)
    trial(wanted_of(schedule, moment), actor=actor)
    if RunSchedule.objects.count() >= MOST:
        raise UserError(f"There are {MOST:,} schedules already; delete one first.")
    _owned_by(schedule, actor)
    schedule.next_at = _next(schedule, moment)
    with transaction.atomic():
        schedule.save(force_insert=True)
        record("rollouts.schedule.create", actor=actor, target=schedule, after=facts(schedule))
    logger.info("schedule created schedule=%s user=%s", schedule.pk, actor)
    return schedule


def change(schedule: RunSchedule, *, actor: User, **fields: Any) -> None:
    """Give it all of these fields; what is run stays. Raises UserError, Denied."""
    require_mine(schedule, actor, "change")
    given = checked(fields)
    trial(wanted_of(RunSchedule(wanted=schedule.wanted, **given), clock_now()), actor=actor)
    with _held(schedule) as held:
        before = facts(held)
        for name, value in given.items():
            setattr(held, name, value)
        _owned_by(held, actor)
        if held.enabled:
            held.next_at = _next(held, clock_now())
        held.save()
        after = facts(held)
        changed = [name for name in after if after[name] != before[name]]
        if changed:
            record(
                "rollouts.schedule.change",
                actor=actor,
                target=held,
                before={name: before[name] for name in changed},
                after={name: after[name] for name in changed},
            )


def facts(schedule: RunSchedule) -> dict[str, Any]:
    """In JSON, for the audit log; without what documents are given."""
    found = {name: getattr(schedule, name) for name in FIELDS}
    for name in ("starts_at", "ends_at"):
        found[name] = found[name].isoformat() if found[name] else ""
    found |= {name: str(found[name]) for name in ("missed", "overlap")}
    wanted = schedule.wanted
    return {**found, "kind": wanted.get("kind", ""), "targets": wanted.get("targets", "")}


def from_run(run: Run, *, actor: User) -> Wanted:
    """What a run was made from, to come again. Raises Denied."""
    return wanted_in(kept(plan.asked_for(run, actor=actor)))


def _owned_by(schedule: RunSchedule, actor: User) -> None:
    """From now on the policy is asked for `actor`, with the circumstances of this request."""
    context = policy.context(actor)
    schedule.owner, schedule.owner_name = actor, actor.username
    schedule.source_address = context.source_address
    schedule.mfa_at = None if context.mfa_at is None else datetime.fromtimestamp(context.mfa_at, UTC)


def _next(schedule: RunSchedule, moment: datetime) -> datetime:
    found = schedule.following(moment)
    if found is None:
        raise FieldError("expression", "It would never be due again: its moments have passed, or there is no such day.")
    return found


@contextmanager
def _held(schedule: RunSchedule) -> Any:
    """The row under its lock."""
    with transaction.atomic():
        held = RunSchedule.objects.select_for_update().filter(pk=schedule.pk).first()
        if held is None:
            raise UserError("This schedule is no longer there.")
        yield held
    for field in held._meta.concrete_fields:
        setattr(schedule, field.attname, getattr(held, field.attname))


# --- steering --------------------------------------------------------------------------------------------------------


def pause(schedule: RunSchedule, *, actor: User, reason: str = "") -> None:
    """Due no more, until it is resumed; runs that go already go on. Raises Denied, UserError."""
    _require_steer(schedule, actor, "pause")
    with _held(schedule) as held:
        if not held.enabled:
            raise UserError("It is off already.")
        line = " ".join(reason.split())[:256]
        held.enabled, held.next_at = False, None
        held.why_off = f"Paused by {actor.username}. {line}".strip()
        held.save(update_fields=["enabled", "next_at", "why_off"])
        record("rollouts.schedule.pause", actor=actor, target=held, reason=line)


def resume(schedule: RunSchedule, *, actor: User) -> None:
    """Due again from now on; what would have been due meanwhile is not missed. Raises Denied, UserError."""
    require_mine(schedule, actor, "resume")
    trial(wanted_of(schedule, clock_now()), actor=actor)
    with _held(schedule) as held:
        if held.enabled:
            raise UserError("It is on already.")
        _owned_by(held, actor)
        held.enabled, held.why_off, held.next_at = True, "", _next(held, clock_now())
        held.save()
        record("rollouts.schedule.resume", actor=actor, target=held)
        notify.resolve(TROUBLE, dedup_key=str(held.pk))


def take_over(schedule: RunSchedule, *, actor: User) -> None:
    """From now on it runs for `actor`, by what the policy lets them do. Raises Denied, UserError."""
    if not may_take(schedule, actor):
        reason = f"Only who may start runs, holds the permission {STEER_PERMISSION} and may read what its documents "
        raise _refuse(schedule, actor, "take over", f"{reason}are given may take over a schedule of somebody else.")
    trial(wanted_of(schedule, clock_now()), actor=actor)
    with _held(schedule) as held:
        before = held.owner_name
        _owned_by(held, actor)
        held.save()
        record("rollouts.schedule.take", actor=actor, target=held, before={"owner": before})


def run_now(schedule: RunSchedule, *, actor: User) -> Occurrence:
    """One run besides the moments of the schedule, by its rules. Raises Denied, UserError."""
    require_mine(schedule, actor, "run")
    trial(wanted_of(schedule, clock_now()), actor=actor)
    with _held(schedule) as held:
        if held.occurrences.filter(state__in=[OccurrenceState.DUE, OccurrenceState.PLANNED]).exists():
            raise UserError("A run of it is being planned in this moment.")
        moment = clock_now()
        row = Occurrence.objects.create(
            schedule=held,
            due_at=moment,
            wanted_at=moment,
            asked_by=actor.username,
            words=f"Wanted by {actor.username}.",
        )
        record("rollouts.schedule.run", actor=actor, target=held)
    return row


def answer(row: Occurrence, *, actor: User, run: bool) -> None:
    """Say of a moment that was missed whether it is made up for. Raises Denied, UserError."""
    schedule = row.schedule
    if run:
        require_mine(schedule, actor, "run")
        trial(wanted_of(schedule, clock_now()), actor=actor)
    else:
        _require_steer(schedule, actor, "skip a moment of")
    to = OccurrenceState.DUE if run else OccurrenceState.SKIPPED
    words = f"It was missed. {actor.username} had it {'run later' if run else 'left out'}."
    facts: dict[str, Any] = {"words": words}
    facts |= {"wanted_at": clock_now(), "asked_by": actor.username} if run else {"cause": Cause.MISSED}
    try:
        with transaction.atomic():
            if row.state != OccurrenceState.ASKED:
                raise UserError("Nothing is asked about this moment any more.")
            move(row, to, OCCURRENCE_MOVES, **facts)
            action = "rollouts.schedule.run" if run else "rollouts.schedule.skip"
            record(action, actor=actor, target=schedule, reason=words, due_at=row.due_at.isoformat())
            notify.resolve(TROUBLE, dedup_key=str(schedule.pk))
    except (LostRace, IllegalMove):
        raise UserError("Somebody else was quicker; look at it again.") from None


def delete(schedule: RunSchedule, *, actor: User) -> None:
    """For good, with its history; runs stay. Raises Denied."""
    _require_steer(schedule, actor, "delete")
    with transaction.atomic():
        record("rollouts.schedule.delete", actor=actor, target=schedule, before=facts(schedule))
        for topic in (TROUBLE, WAITS):
            notify.resolve(topic, dedup_key=str(schedule.pk))
        schedule.delete()


def instead_of(draft: Run) -> Callable[[Run], None]:
    """For plan.again: a moment that waited for `draft` to be started waits for the plan that takes its place."""

    def relink(made: Run) -> None:
        Occurrence.objects.filter(run=draft, state=OccurrenceState.WAITING).update(run=made)

    return relink
