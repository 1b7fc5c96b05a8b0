"""A run, one step further. `advance` may be called at any time, any number of times, by several workers at once.

What is left to do stands in the rows, and nowhere else. One look at a run has two parts:

  1. Ask what takes time: the kind about proofs, CloudWatch about alarms; have the kind prepare the next wave.
  2. In one transaction, under the lock of the run: write down what commands, kinds and gates have told; ask the planner
     for one step after the other; make the commands of whoever goes. All of it stands, or none of it.

So a worker may die at any line. What it had not committed is done by the next look; the commands that it had made are
sent by runcommand, which sends none twice. People steer under the same lock: of a pause and a look that come together
one is first, and the other sees it.

Time that nobody watched counts for nothing: if a clock is put, or no worker ran, soaks and the waiting for proofs go on
from where they were.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import transaction
from django.db.models import Count, F, Q

from fleetops.audit.record import record
from fleetops.clock import during
from fleetops.clock import now as clock_now
from fleetops.errors import UserError
from fleetops.notify import services as notify
from fleetops.runcommand import orders
from fleetops.runcommand.states import InvocationState
from fleetops.transitions import move, move_all

from . import evidence, gates, limits, overrides, planner, preparing, sending
from .kinds import RunKind, find
from .models import GateCheck, Run, RunEvent, Wave
from .planner import Decision, RunFacts, WaveFacts
from .sending import Sent
from .states import RUN_MOVES, TARGET_MOVES, WAVE_MOVES, RunState, TargetState, WaveState

logger = logging.getLogger(__name__)

CLAIM: Final = timedelta(seconds=30)  # of a run by the task that beat asks for
GATHER: Final = timedelta(seconds=3)  # freed places are gathered for so long into one call (decision 13)
SOON: Final = timedelta(seconds=2)  # between two looks while something is under way
REST: Final = timedelta(seconds=60)  # after all of a large wave that is held was looked at in turns
LATER: Final = timedelta(seconds=15)  # while it waits for a time, a calendar, a gate
UNWATCHED: Final = timedelta(minutes=2)  # longer than that between two looks, and the time does not count
MOST_MOVES: Final = 300  # of one look: a hundred waves, each skipped
STOPPED, ENDED = "rollouts.stopped", "rollouts.ended"


def claim_due(*, now: datetime) -> list[Any]:
    """Take the open runs that are due, for a task each; also those that a clock set back would keep waiting."""
    too_far = now + during(timedelta(minutes=10))
    due = Run.objects.open().filter(Q(due_at__lte=now) | Q(due_at__gt=too_far)).order_by("due_at")
    found = list(due.values_list("pk", "due_at")[:200])
    return [pk for pk, at in found if Run.objects.filter(pk=pk, due_at=at).update(due_at=now + during(CLAIM))]


def advance(run_id: Any) -> list[Any]:
    """Take one run one step further; the keys of the commands that were made, which may go at once."""
    commands, has_run = _look(run_id)
    if has_run:  # a proof may be there already, and a place free the sooner
        commands += _look(run_id)[0]
    return commands


def _look(run_id: Any) -> tuple[list[Any], bool]:
    """One look; also whether the commands of some targets have ended well by it."""
    run = Run.objects.open().filter(pk=run_id).first()
    if run is None:
        return [], False
    try:
        kind = find(run.kind)
    except UserError as error:  # parked; see kinds.find
        Run.objects.filter(pk=run.pk).update(waits_for=str(error)[:512], due_at=clock_now() + during(LATER))
        logger.warning("run parked run=%s kind=%s", run.pk, run.kind)
        return [], False
    judged = evidence.judge(run, kind, now=clock_now())
    sights = gates.look(run) if run.state == RunState.RUNNING else {}
    prepared = preparing.ask(run, kind)
    with transaction.atomic():
        held = _locked(run_id)
        if held is None:
            return [], False
        now = clock_now()
        _note_time(held, now=now)
        overrides.take(held)
        if held.ends_by is not None and now >= held.ends_by:
            call_back(held, "The run's end came before it was sent.", now=now)
        sent = Sent()
        due = evidence.take(held, judged, now=now)
        if held.state == RunState.RUNNING:
            gates.take(held, sights, now=now)
            preparing.take(held, prepared, now=now)
        sent.is_more = due.is_more
        decision = _move(held, kind, due, sent, now=now)
        _set_due(held, decision, sent, now=now)
    return sent.commands, due.ran > 0


def _locked(run_id: Any) -> Run | None:
    """The run as it stands, and stays until the transaction ends; None if it is not open."""
    return Run.objects.open().select_for_update().filter(pk=run_id).first()


def _note_time(run: Run, *, now: datetime) -> None:
    """Soaks and proofs are not older by time that nobody watched, nor by a clock that was put."""
    passed = now - run.seen_at if run.seen_at else timedelta()
    if passed > during(UNWATCHED) or passed < timedelta(seconds=-1):
        run.waves.exclude(soak_until=None).filter(state=WaveState.SOAKING).update(soak_until=F("soak_until") + passed)
        run.targets.exclude(proof_by=None).filter(ended_at=None).update(proof_by=F("proof_by") + passed)
        if run.sends_at is not None:
            run.sends_at = None
        logger.warning("run not watched run=%s seconds=%d", run.pk, passed.total_seconds())
    run.seen_at = now


# --- facts -----------------------------------------------------------------------------------------------------------


def facts_of(run: Run) -> RunFacts:
    """What the planner decides from; three queries."""
    rows: dict[Any, list[tuple[str, str, int]]] = defaultdict(list)
    found = run.targets.exclude(wave=None).order_by().values_list("wave", "state", "outcome").annotate(Count("pk"))
    for wave, state, outcome, count in found:
        rows[wave].append((state, outcome, count))
    asked: dict[Any, list[tuple[str, str]]] = defaultdict(list)
    of_run = GateCheck.objects.filter(wave__run=run).order_by("wave", "position")
    for wave, state, words in of_run.values_list("wave", "state", "words"):
        asked[wave].append((state, words))
    waves, total = [], 0
    for wave in run.waves.order_by("position"):
        mine = rows[wave.pk]
        size = sum(count for state, _, count in mine if state != TargetState.SKIPPED)
        total += size
        waves.append(
            WaveFacts(
                position=wave.position,
                state=wave.state,
                **evidence.counts_of(mine),
                concurrency=limits.concurrency(wave.concurrency, size) if wave.concurrency else None,
                budget=limits.budget(wave.budget, size) if wave.budget else None,
                accepted=wave.accepted_failures,
                soak_seconds=wave.soak_seconds if wave.soak_left is None else wave.soak_left,
                soak_until=wave.soak_until,
                gates=tuple(asked[wave.pk]),
                readiness=wave.readiness,
                readiness_words=wave.readiness_words,
            )
        )
    return RunFacts(
        state=run.state,
        waves=tuple(waves),
        concurrency=limits.concurrency(run.concurrency, total),
        budget=limits.budget(run.budget, total),
        is_strict=run.is_strict,
        starts_at=run.starts_at,
        ends_by=run.ends_by,
        cutoff=timedelta(minutes=run.cutoff_minutes),
        sends_at=run.sends_at,
    )


# --- moves -----------------------------------------------------------------------------------------------------------


def _move(run: Run, kind: RunKind, due: evidence.Due, sent: Sent, *, now: datetime) -> Decision:
    """One step after the other, until nothing moves."""
    decision = Decision()
    has_all = not due.is_more  # else there may be failures that nobody has counted
    for _ in range(MOST_MOVES):
        decision = planner.next_step(facts_of(run), now)
        if decision.moves:
            _apply(run, kind, decision, sent, now=now)
            continue
        if due.steps:
            # Failures that this finds count before anybody else goes.
            mine, due = due, evidence.Due()
            sending.carry_on(run, kind, mine, sent, may_send=decision.may_send, now=now)
            continue
        if decision.room and decision.wave is not None and has_all:
            before, sent.is_more = sent.gone, False
            wave = run.waves.get(position=decision.wave)
            sending.send(run, kind, wave, decision.room, sent, now=now)
            if sent.is_more and sent.gone < sending.MOST_AT_ONCE:
                continue  # somebody failed at once, and the budget may be spent
            if sent.gone > before:
                run.sends_at = now + GATHER
                continue
        break
    return decision


def _apply(run: Run, kind: RunKind, decision: Decision, sent: Sent, *, now: datetime) -> None:
    positions = (decision.fail, decision.start, decision.soak, decision.ask, decision.succeed)
    position = next((each for each in positions if each is not None), None)
    wave = run.waves.get(position=position) if position is not None else None
    if decision.stop:
        _stop(run, wave, decision.stop, now=now)
    elif wave is not None and decision.start is not None:
        began = {} if wave.started_at else {"started_at": now}
        is_first = wave.state == WaveState.PENDING
        move(wave, WaveState.RUNNING, WAVE_MOVES, soak_until=None, soak_left=None, **began)
        if is_first:
            tell(run, f"Wave {wave.position}, {wave.name}, has started.", wave=wave, now=now)
            record("rollouts.wave.start", actor=run.actor or run.actor_name, target=run, wave=wave.position)
    elif wave is not None and decision.soak is not None:
        until = now + timedelta(seconds=wave.soak_seconds if wave.soak_left is None else wave.soak_left)
        move(wave, WaveState.SOAKING, WAVE_MOVES, soak_until=until)
        tell(run, f"Wave {wave.position} soaks until {until:%H:%M:%S} UTC.", wave=wave, tone="wait", now=now)
    elif wave is not None and decision.ask is not None:
        move(wave, WaveState.GATED, WAVE_MOVES)
        sent.commands += gates.ask(run, wave, now=now)
    elif wave is not None and decision.succeed is not None:
        move(wave, WaveState.SUCCEEDED, WAVE_MOVES, ended_at=now)
        tell(run, f"Wave {wave.position}, {wave.name}, has ended well.", wave=wave, tone="good", now=now)
    elif decision.end is not None:
        _end(run, kind, decision.end, now=now)


def _stop(run: Run, wave: Wave | None, words: str, *, now: datetime) -> None:
    """Nothing more is sent, nor what was made and has not gone."""
    if wave is not None and WaveState.FAILED in WAVE_MOVES.get(WaveState(wave.state), ()):
        left: int | None = None
        if wave.state == WaveState.SOAKING and wave.soak_until is not None:
            left = max(0, math.ceil((wave.soak_until - now).total_seconds()))
        elif wave.state == WaveState.GATED:
            left = 0  # it has soaked
        move(wave, WaveState.FAILED, WAVE_MOVES, reason=words[:512], soak_until=None, soak_left=left)
    move(run, RunState.STOPPED, RUN_MOVES, end_reason=words[:512])
    call_back(run, f"The run stopped before it was sent. {words}", now=now)
    tell(run, f"Stopped: {words}", wave=wave, tone="bad", now=now)
    record("rollouts.run.stop", actor="worker", target=run, reason=words, outcome="failed")
    notify.notify(
        STOPPED,
        dedup_key=str(run.pk),
        title=f"{run} has stopped",
        text=words,
        url=run.get_absolute_url(),
        severity="critical",
    )
    logger.warning("run stopped run=%s reason=%s", run.pk, words)


def _end(run: Run, kind: RunKind, state: RunState, *, now: datetime) -> None:
    """The run is over: what has not gone never goes."""
    words = {
        RunState.ABORTED: "The run was aborted before it was sent.",
        RunState.FAILED: "The run ended before its turn came.",
    }.get(state, "")
    left = run.targets.filter(state=TargetState.QUEUED)
    count = move_all(left, TargetState.CANCELLED, TARGET_MOVES, reason=words, ended_at=now)
    move_all(
        run.waves.exclude(state__in=[WaveState.SUCCEEDED, WaveState.SKIPPED, WaveState.FAILED]),
        WaveState.CANCELLED,
        WAVE_MOVES,
        ended_at=now,
        soak_until=None,
    )
    counts = {each.value: number for each, number in run.targets.counts().items() if number}
    failed = counts.get(TargetState.FAILED, 0)
    told = f"It failed on {failed:,} of its targets." if failed else ""
    if count and state == RunState.FAILED:
        told = f"{told} {count:,} were not reached in time.".strip()
    changes: dict[str, Any] = {"ended_at": now, "counts": counts, "waits_for": ""}
    if state == RunState.FAILED:
        changes["end_reason"] = told[:512]
    move(run, state, RUN_MOVES, **changes)
    kind.finished(run)
    tone = {RunState.SUCCEEDED: "good", RunState.FAILED: "bad"}.get(state, "info")
    tell(run, f"The run has {state}. {told}".strip(), tone=tone, now=now)
    record(
        "rollouts.run.end",
        actor="worker",
        target=run,
        outcome="done" if state == RunState.SUCCEEDED else "failed",
        reason=told,
        state=str(state),
        targets=counts,
    )
    notify.resolve(STOPPED, dedup_key=str(run.pk))
    if state == RunState.FAILED:
        notify.notify(
            ENDED,
            dedup_key=str(run.pk),
            title=f"{run} has failed",
            text=told,
            url=run.get_absolute_url(),
            severity="warning",
        )
    logger.info("run ended run=%s state=%s failed=%d", run.pk, state, failed)


def call_back(run: Run, words: str, *, now: datetime) -> None:
    """Keep from being sent what was made for targets that have not had the document yet."""
    unsent = run.targets.filter(state__in=[TargetState.PREPARING, TargetState.SENT], outcome="")
    waiting = unsent.filter(invocation__state=InvocationState.PLANNED)
    made = sending.commands_of(run).filter(pk__in=waiting.values("invocation__command"))
    orders.recall(made, words, now=now)


def tell(
    run: Run, text: str, *, wave: Wave | None = None, target: Any = None, tone: str = "info", now: datetime
) -> None:
    """Write a line of the run's timeline."""
    RunEvent.objects.create(run=run, wave=wave, target=target, at=now, tone=tone, text=text[:512])


def _set_due(run: Run, decision: Decision, sent: Sent, *, now: datetime) -> None:
    """When it is looked at next, and what it waits for."""
    changes: dict[str, Any] = {"seen_at": run.seen_at, "sends_at": run.sends_at}
    if run.is_over:
        changes |= {"due_at": None}
    else:
        is_out = bool(run.targets.filter(state__in=list(evidence.IN_FLIGHT)).exists())
        moments = [each for each in (decision.at, sent.at) if each is not None and each > now]
        soonest = SOON if is_out or sent.is_more or (sent.is_in_turns and run.looked_through) else LATER
        if sent.is_in_turns and not is_out and not run.looked_through:
            soonest = REST
        at: datetime | None = min([now + during(soonest), *(max(each, now + during(SOON)) for each in moments)])
        if run.state in {RunState.PAUSED, RunState.STOPPED} and not is_out:
            at = None  # until a person does something
        words = decision.waits_for or sent.waits_for
        changes |= {"due_at": at, "waits_for": words[:512]}
    Run.objects.filter(pk=run.pk).update(**changes)
