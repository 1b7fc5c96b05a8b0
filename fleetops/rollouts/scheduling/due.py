"""What is due: noticed once, planned once, started once. Every function may be called at any time, by several workers.

The database says what is due; beat only wakes. A moment becomes a row of its own (`take`), in the transaction in which
the schedule moves on to the next one. A row's plan is written in the transaction that moves the row, so there is one
plan or none; what was planned and not started is started by whoever looks next, and a run starts once, by its own
state. So a worker may die at any line.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import transaction
from django.db.models import Q

from fleetops.audit.record import record
from fleetops.clock import during
from fleetops.clock import now as clock_now
from fleetops.errors import Denied, UserError
from fleetops.notify import services as notify
from fleetops.rollouts import limits, plan, steering
from fleetops.rollouts.assess import ReasonMissing
from fleetops.rollouts.models import Run
from fleetops.rollouts.states import RunState
from fleetops.transitions import LostRace, move

from .keeping import as_owner, trouble_with_owner, wanted_of
from .models import Occurrence, RunSchedule
from .states import OCCURRENCE_MOVES, WORK, Cause, MissedRule, OccurrenceState, OverlapRule

logger = logging.getLogger(__name__)

TROUBLE, WAITS = "rollouts.schedule", "rollouts.waiting"  # topics of notices
GRACE: Final = timedelta(minutes=4)  # later than that, and it was missed; below the least distance of two moments
CLAIM: Final = timedelta(minutes=3)  # longer than a plan of 20,000 targets takes
MOST_MOMENTS: Final = 2000  # that are looked at of those that were missed
MOST_KEPT: Final = 50  # rows of what was missed at one time
KEPT_FOR: Final = timedelta(days=400)
_TOO_FAR: Final = timedelta(minutes=10)


# --- noticing --------------------------------------------------------------------------------------------------------


def take_due() -> int:
    """Make rows of all moments that have come; how many schedules were due."""
    due = RunSchedule.objects.filter(enabled=True, next_at__lte=clock_now()).order_by("next_at")
    keys = list(due.values_list("pk", flat=True)[:200])
    for pk in keys:
        take(pk)
    return len(keys)


def take(pk: Any) -> None:
    """Make a row of each moment of one schedule that has come, and say when it is due next."""
    with transaction.atomic():
        now = clock_now()
        due = RunSchedule.objects.filter(pk=pk, enabled=True, next_at__lte=now)
        held = due.select_for_update().first()
        if held is None or held.next_at is None:
            return
        try:
            moments, next_at = _moments(held, held.next_at, now), held.following(now)
        except UserError as error:  # a zone that this machine does not know any more
            switch_off(held, f"It cannot be read any more. {error}")
            return
        # Where no row can be locked, of two workers one writes this.
        if not due.filter(next_at=held.next_at).update(next_at=next_at):
            return
        known = set(held.occurrences.filter(due_at__in=moments).values_list("due_at", flat=True))
        rows = _rows(held, [each for each in moments if each not in known], now)
        Occurrence.objects.bulk_create(rows)
        if rows:
            _leave_unanswered(held)
        missed = [each for each in rows if each.cause == Cause.MISSED or each.state == OccurrenceState.ASKED]
        if missed:
            _tell_missed(held, missed, rows[-1])


def _moments(schedule: RunSchedule, first: datetime, now: datetime) -> list[datetime]:
    """From `first` to `now`; of one that comes often and was missed for long, those of the last two days."""
    found: list[datetime] = []
    for start in (first, max(first, now - timedelta(days=2))):
        found = [first] if start == first else []
        at: datetime | None = start
        while at is not None and len(found) <= MOST_MOMENTS and (at := schedule.following(at)) and at <= now:
            found.append(at)
        if len(found) <= MOST_MOMENTS:
            break
    return found


def _rows(schedule: RunSchedule, moments: list[datetime], now: datetime) -> list[Occurrence]:
    if not moments:
        return []
    *before, last = moments
    rows = [_row(schedule, each, OccurrenceState.SKIPPED, Cause.MISSED, "") for each in before[-MOST_KEPT:]]
    if last >= now - during(GRACE):
        words = "FleetOps was not running when it was due. The next was due already when it was back."
        rows.append(_row(schedule, last, OccurrenceState.DUE, "", ""))
    elif schedule.missed == MissedRule.SKIP:
        words = "FleetOps was not running when it was due, and the schedule leaves out what is missed."
        rows.append(_row(schedule, last, OccurrenceState.SKIPPED, Cause.MISSED, words))
    elif schedule.missed == MissedRule.ONCE:
        words = "FleetOps was not running when it was due. One run made up for all that was missed."
        made_up = f"It made up for what was missed{f', {len(moments)} moments' if before else ''}."
        rows.append(_row(schedule, last, OccurrenceState.DUE, "", made_up, wanted_at=now))
    else:
        words = "FleetOps was not running when it was due."
        asks = f"{words} {schedule.owner_name} may run it now, or leave it out."
        rows.append(_row(schedule, last, OccurrenceState.ASKED, "", asks))
    for each in rows[:-1]:
        each.words = words
    return rows


def _row(
    schedule: RunSchedule, due_at: datetime, state: str, cause: str, words: str, *, wanted_at: datetime | None = None
) -> Occurrence:
    return Occurrence(
        schedule=schedule, due_at=due_at, wanted_at=wanted_at or due_at, state=state, cause=cause, words=words
    )


def _leave_unanswered(schedule: RunSchedule) -> None:
    """What was asked of somebody about an earlier moment is out of date by a later one."""
    latest = schedule.occurrences.order_by("-due_at").values_list("pk", flat=True)[:1]
    for each in schedule.occurrences.filter(state=OccurrenceState.ASKED).exclude(pk=latest[0]):
        words = "It was missed, and nobody said that it is to run before the next was due."
        move(each, OccurrenceState.SKIPPED, OCCURRENCE_MOVES, cause=Cause.MISSED, words=words)


def _tell_missed(schedule: RunSchedule, missed: list[Occurrence], last: Occurrence) -> None:
    count = len(missed)
    text = "A moment was missed" if count == 1 else f"{count} moments were missed"
    text += f", the last at {missed[-1].due_at:%Y-%m-%d %H:%M} UTC. "
    text += last.words or "The next was due already when FleetOps was back."
    record("rollouts.schedule.miss", actor="worker", target=schedule, outcome="failed", reason=text, count=count)
    _complain(schedule, f"{schedule} was missed", text)
    logger.warning("schedule missed schedule=%s count=%d", schedule.pk, count)


def _complain(schedule: RunSchedule, title: str, text: str) -> None:
    notify.notify(
        TROUBLE,
        dedup_key=str(schedule.pk),
        title=title,
        text=text,
        url=schedule.get_absolute_url(),
        severity="warning",
    )


# --- work ------------------------------------------------------------------------------------------------------------


def claim_due() -> list[Any]:
    """Take the rows that a worker has to do something with, for a task each."""
    now = clock_now()
    free = Q(claimed_until=None) | Q(claimed_until__lte=now) | Q(claimed_until__gt=now + during(CLAIM + _TOO_FAR))
    open_ = Occurrence.objects.filter(free, state__in=WORK).order_by("wanted_at")
    found = list(open_.values_list("pk", "claimed_until")[:100])
    until = now + during(CLAIM)
    return [pk for pk, was in found if Occurrence.objects.filter(pk=pk, claimed_until=was).update(claimed_until=until)]


def carry_out(pk: Any) -> Any:
    """Plan the run of one row and start it, as far as that has not been done; the key of a run that goes now."""
    row = _read(pk)
    if row is not None and row.state == OccurrenceState.DUE:
        try:
            _plan(row)
        except LostRace:
            return None
        row = _read(pk)
    if row is not None and row.state == OccurrenceState.PLANNED:
        try:
            return _start(row)
        except LostRace:
            return None
    return None


def _read(pk: Any) -> Occurrence | None:
    return Occurrence.objects.select_related("schedule__owner", "run").filter(pk=pk).first()


def _plan(row: Occurrence) -> None:
    schedule, now = row.schedule, clock_now()
    if row.wanted_at < now - during(GRACE) and _is_left(row, now):
        return None
    if words := trouble_with_owner(schedule):
        return _refuse(row, Cause.OWNER, words, off=True)
    if not schedule.enabled and not row.asked_by:
        return _skip(row, Cause.PAUSED, f"It was paused before it was planned. {schedule.why_off}".strip())
    if words := _overlaps(schedule):
        return _skip(row, Cause.OVERLAP, words)

    def keep(run: Run) -> None:
        # Under the lock: another moment of the same schedule may be planned at the same time.
        held = RunSchedule.objects.select_for_update().filter(pk=schedule.pk).first()
        if held is None:
            raise LostRace(f"schedule {schedule.pk} is gone")
        if words := _overlaps(held):
            raise _Overlaps(words)
        _keep(row, run)

    try:
        with as_owner(schedule):
            plan.make(wanted_of(schedule, now), actor=schedule.owner, and_then=keep)
    except _Overlaps as error:
        _skip(row, Cause.OVERLAP, str(error))
    except plan.NoTarget as error:
        is_denied = error.cause == "denied"
        _refuse(row, Cause(error.cause), str(error), off=is_denied)
    except (Denied, ReasonMissing) as error:
        _refuse(row, Cause.DENIED, str(error), off=True)
    except UserError as error:
        _refuse(row, Cause.INVALID, str(error))


def _is_left(row: Occurrence, now: datetime) -> bool:
    """It was to run a while ago, and no worker came: the rule for what is missed holds for it as well."""
    rule = row.schedule.missed
    if rule == MissedRule.ONCE and not row.asked_by:
        Occurrence.objects.filter(pk=row.pk, state=row.state).update(wanted_at=now)
        return False
    words = "No worker came to it in time."
    if rule == MissedRule.ASK and not row.asked_by:
        with transaction.atomic():
            asks = f"{words} {row.schedule.owner_name} may run it now, or leave it out."
            move(row, OccurrenceState.ASKED, OCCURRENCE_MOVES, words=asks)
            _tell_missed(row.schedule, [row], row)
        return True
    with transaction.atomic():
        move(row, OccurrenceState.SKIPPED, OCCURRENCE_MOVES, cause=Cause.MISSED, words=words)
        _tell_missed(row.schedule, [row], row)
    return True


class _Overlaps(Exception):
    """Another run of the same schedule was first."""


def _overlaps(schedule: RunSchedule) -> str:
    """Which run of this schedule goes still, if it starts none beside it, in words."""
    if schedule.overlap != OverlapRule.SKIP:
        return ""
    going = Run.objects.open().filter(occurrences__schedule=schedule).order_by("id").first()
    if going is None:
        about = schedule.occurrences.filter(state=OccurrenceState.PLANNED).exclude(run=None).select_related("run")
        going = next((each.run for each in about), None)
    return f"{going} was still under way, and the schedule starts no second run beside it." if going else ""


def _keep(row: Occurrence, run: Run) -> None:
    """The plan stands, in this transaction: who starts it?"""
    schedule = row.schedule
    words = "" if schedule.starts_itself else f"Its plan waits for {schedule.owner_name} to start it."
    if schedule.starts_itself and (told := _drifted(schedule, run)):
        words = f"{told} It waits for {schedule.owner_name} to start it."
    _supersede(schedule)
    state = OccurrenceState.WAITING if words else OccurrenceState.PLANNED
    told_before = f"{row.words} {words}".strip()
    move(row, state, OCCURRENCE_MOVES, run=run, words=told_before[:512])
    targets = run.plan.get("targets", 0)
    record("rollouts.schedule.plan", actor="worker", target=schedule, run=str(run.pk), targets=targets, reason=words)
    if words:
        notify.notify(
            WAITS,
            dedup_key=str(schedule.pk),
            title=f"{run} waits for {schedule.owner_name} to start it",
            text=f"{words} It would reach {targets:,} targets.",
            url=run.get_absolute_url(),
            severity="info",
        )
    logger.info("schedule planned schedule=%s run=%s waits=%s", schedule.pk, run.pk, bool(words))


def _drifted(schedule: RunSchedule, run: Run) -> str:
    """More targets differ from those of the schedule's last run than it bears, in words; else empty."""
    if not schedule.drift:
        return ""
    last = Run.objects.started().filter(occurrences__schedule=schedule).exclude(pk=run.pk).order_by("-id").first()
    if last is None:
        return ""
    before, after = (
        set(each.targets.exclude(wave=None).values_list("account", "region", "instance_id")) for each in (last, run)
    )
    differ = len(before ^ after)
    if differ <= limits.parse(schedule.drift, what="The drift").of(len(before)):
        return ""
    return f"{differ:,} of its targets differ from the last run's {len(before):,}, more than {schedule.drift}."


def _supersede(schedule: RunSchedule) -> None:
    """Plans of earlier moments that nobody has started make way."""
    for each in schedule.occurrences.filter(state=OccurrenceState.WAITING).select_related("run"):
        if each.run is not None and not Run.objects.filter(pk=each.run.pk, state=RunState.DRAFT).delete()[0]:
            continue  # it has been started in this moment
        words = f"{schedule.owner_name} did not start it before the next was due."
        move(each, OccurrenceState.SKIPPED, OCCURRENCE_MOVES, cause=Cause.SUPERSEDED, words=words, run=None)


def _start(row: Occurrence) -> Any:
    """Release its run, if nobody has; the run's key."""
    schedule, run = row.schedule, row.run
    if run is None:
        _skip(row, Cause.DISCARDED, "Its plan was discarded before it started.")
        return None
    if run.is_draft and run.created_at < clock_now() - plan.LIFE:
        with transaction.atomic():  # nobody came for an hour; the fleet is another
            move(row, OccurrenceState.DUE, OCCURRENCE_MOVES, run=None, claimed_until=None)
            Run.objects.filter(pk=run.pk, state=RunState.DRAFT).delete()
        return None
    if run.is_draft:
        if words := trouble_with_owner(schedule):
            return _refuse(row, Cause.OWNER, words, off=True)
        try:
            with as_owner(schedule):
                steering.release(run, actor=schedule.owner, plan_hash=run.plan_hash)
        except UserError as error:
            fresh = Run.objects.filter(pk=run.pk).first()
            if fresh is None or fresh.is_draft:
                is_denied = isinstance(error, Denied)
                return _refuse(row, Cause.DENIED if is_denied else Cause.INVALID, str(error), off=is_denied)
    with transaction.atomic():
        move(row, OccurrenceState.STARTED, OCCURRENCE_MOVES)
        _well(schedule)
    return run.pk


def _well(schedule: RunSchedule) -> None:
    """It goes again: what was told of it is over."""
    notify.resolve(TROUBLE, dedup_key=str(schedule.pk))
    notify.resolve(WAITS, dedup_key=str(schedule.pk))


def _skip(row: Occurrence, cause: Cause, words: str) -> None:
    with transaction.atomic():
        move(row, OccurrenceState.SKIPPED, OCCURRENCE_MOVES, cause=cause, words=words[:512])
        record("rollouts.schedule.skip", actor="worker", target=row.schedule, reason=words, cause=str(cause))
    logger.info("schedule skipped schedule=%s cause=%s", row.schedule_id, cause)


def _refuse(row: Occurrence, cause: Cause, words: str, *, off: bool = False) -> None:
    """No run comes of it. `off`: nor of any later one, until somebody has looked at it."""
    schedule = row.schedule
    with transaction.atomic():
        run, row.run = row.run, None
        move(row, OccurrenceState.REFUSED, OCCURRENCE_MOVES, cause=cause, words=words[:512], run=None)
        if run is not None:
            Run.objects.filter(pk=run.pk, state=RunState.DRAFT).delete()
        record(
            "rollouts.schedule.refuse",
            actor="worker",
            target=schedule,
            outcome="denied" if cause in {Cause.DENIED, Cause.OWNER} else "failed",
            reason=words,
            cause=str(cause),
        )
        if off:
            switch_off(schedule, words)
        _complain(schedule, f"{schedule} did not run", words + (" The schedule is off now." if off else ""))
    logger.warning("schedule refused schedule=%s cause=%s", schedule.pk, cause)


def switch_off(schedule: RunSchedule, words: str) -> None:
    """It is due no more until a person turns it on again. Joins the caller's transaction."""
    if RunSchedule.objects.filter(pk=schedule.pk, enabled=True).update(
        enabled=False, why_off=words[:512], next_at=None
    ):
        record("rollouts.schedule.off", actor="worker", target=schedule, outcome="failed", reason=words)


# --- looking after ---------------------------------------------------------------------------------------------------


def settle() -> None:
    """See of plans that wait whether somebody has started or discarded them."""
    waiting = Occurrence.objects.filter(state=OccurrenceState.WAITING).select_related("schedule", "run")
    for row in waiting.filter(Q(run=None) | ~Q(run__state=RunState.DRAFT))[:200]:
        try:
            with transaction.atomic():
                if row.run is None:
                    words = "Its plan was discarded, or nobody started it within a week."
                    move(row, OccurrenceState.SKIPPED, OCCURRENCE_MOVES, cause=Cause.DISCARDED, words=words)
                    notify.resolve(WAITS, dedup_key=str(row.schedule_id))
                else:
                    move(row, OccurrenceState.STARTED, OCCURRENCE_MOVES)
                    _well(row.schedule)
        except LostRace:
            continue


def drop_old() -> int:
    """Forget what was due more than a year ago."""
    old = Occurrence.objects.filter(due_at__lt=clock_now() - KEPT_FOR).exclude(state__in=WORK)
    return old.delete()[0]
