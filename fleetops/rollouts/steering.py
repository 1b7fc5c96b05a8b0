"""What people do to a run: release it, pause, resume, abort, try again, leave out, overrule.

Each asks for the permission and, where more is sent by it, the policy; each is audited, refusals too; each happens
under the lock of the run, and looks at its state there: of two people who steer at once the second is told what the
first has done.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import timedelta
from typing import Final

from fleetops.approvals import services as approvals
from fleetops.approvals.states import ApprovalState
from fleetops.audit.record import deny, record
from fleetops.clock import now as clock_now
from fleetops.errors import Denied, UserError
from fleetops.identity.models import User
from fleetops.inventory.models import Instance
from fleetops.notify import services as notify
from fleetops.policy.decide import Deed
from fleetops.runcommand import orders
from fleetops.runcommand.states import OPEN as COMMAND_OPEN
from fleetops.transitions import move, move_all

from . import gates, kinds, overrides, plan, preparing
from .advancing import STOPPED, call_back, facts_of, tell
from .holding import go_on, hold, not_now, note, one_line, why_line
from .leave import may_steer, refusals, require, require_other, require_policy
from .models import START_PERMISSION, GateCheck, Run, RunTarget, Wave
from .sending import commands_of
from .states import (
    GATE_MOVES,
    OPEN,
    RUN_MOVES,
    TARGET_MOVES,
    WAVE_MOVES,
    GateState,
    RunState,
    TargetState,
    WaveState,
)

logger = logging.getLogger(__name__)

__all__ = [
    "abort",
    "ask_override",
    "may_steer",
    "overrule_gate",
    "pause",
    "release",
    "resume",
    "retry_failed",
    "roll_forward",
    "skip_target",
    "skip_wave",
    "waive_preparation",
]

# What a person has seen is what is started; after so long they look again.
PLAN_LIFE: Final = timedelta(hours=1)
OVERRIDE_HOURS: Final = 72
_NAMED: Final = 50  # instances that one audit event names


# --- release ---------------------------------------------------------------------------------------------------------


def release(run: Run, *, actor: User, plan_hash: str) -> None:
    """Let a plan go; `plan_hash` is what the person saw. Raises Denied, audited; UserError if it is out of date."""
    if run.actor_id != actor.pk:
        raise Denied("Somebody else made this plan; make one of your own.")
    if not actor.has_perm(START_PERMISSION):
        deny("rollouts.release.refuse", actor=actor, target=run, reason="may not start runs")
        raise Denied(f"Your roles do not hold the permission {START_PERMISSION}.")
    if not run.is_draft:
        raise UserError("This run has been started already.")
    if plan_hash != run.plan_hash:
        raise UserError("The plan is another by now than the one that you looked at. Look at it again.")
    if run.created_at < clock_now() - PLAN_LIFE:
        raise UserError("This plan is older than an hour, and the fleet is another by now. Plan it again.")
    targets = run.targets.filter(state=TargetState.QUEUED)
    if not targets.exists():
        raise UserError("The plan has no target; there is nothing to start.")
    rows = Instance.objects.filter(pk__in=targets.values("instance_row")).select_related("account", "region")
    if refused := refusals(run, list(rows), actor=actor):
        instance, words = refused[0]
        named = [str(each.instance_id) for each, _ in refused[:_NAMED]]
        deny("rollouts.release.refuse", actor=actor, target=run, reason=words, instances=named, count=len(refused))
        raise Denied(f"You may not run it on {instance}, and on {len(refused):,} of its targets in all. {words}")
    drift = plan.differences(run)
    if drift.is_too_much:
        raise UserError(f"{drift.words} The plan lets {drift.tolerated:,} differ. Plan it again.")
    left_out = {each.pk: each.reason for each in drift.gone}
    if len(left_out) >= targets.count():
        raise UserError(f"None of the targets could be reached now. {drift.words}")
    with hold(run) as (held, moment):
        if not held.is_draft or held.plan_hash != plan_hash:
            raise UserError("This run has been started already, or planned anew.")
        for pk, reason in left_out.items():
            target = held.targets.get(pk=pk)
            move(target, TargetState.SKIPPED, TARGET_MOVES, reason=reason[:512], ended_at=moment)
        move(held, RunState.RUNNING, RUN_MOVES, started_at=moment, seen_at=moment, due_at=moment)
        count = held.targets.filter(state=TargetState.QUEUED).count()
        tell(held, f"Released by {actor.username}: {count:,} targets, {held.waves.count()} waves.", now=moment)
        record(
            "rollouts.release",
            actor=actor,
            target=held,
            reason=held.reason,
            kind=held.kind,
            targets=count,
            left_out=len(left_out),
            waves=held.waves.count(),
            plan=held.plan_hash,
        )
    logger.info("run released run=%s targets=%d user=%s", run.pk, count, actor)


# --- pause, resume, abort --------------------------------------------------------------------------------------------


def pause(run: Run, *, actor: User, reason: str = "") -> None:
    """Send nothing more until it is resumed; what was sent goes on to its end. Raises Denied, UserError."""
    require(run, actor, "pause")
    with hold(run) as (held, moment):
        if held.state != RunState.RUNNING:
            raise not_now(held, "paused")
        move(held, RunState.PAUSED, RUN_MOVES)
        call_back(held, f"Paused by {actor.username} before it was sent.", now=moment)
        note(held, "pause", f"Paused by {actor.username}.", actor=actor, reason=reason, now=moment)


def resume(run: Run, *, actor: User, reason: str = "") -> None:
    """Go on after a pause, or after a stop with what the budget has left. Raises Denied, UserError."""
    require(run, actor, "resume")
    require_policy(run, actor, "resume")
    with hold(run) as (held, moment):
        if held.state not in {RunState.PAUSED, RunState.STOPPED}:
            raise not_now(held, "resumed")
        if held.state == RunState.STOPPED:
            if spent := _spent(held):
                raise UserError(f"{spent} Try the failed targets again, leave them out, or roll forward over them.")
            _revive(held, actor=actor)
        go_on(held, now=moment)
        note(held, "resume", f"Resumed by {actor.username}.", actor=actor, reason=reason, now=moment)


def abort(run: Run, *, actor: User, reason: str = "", cancel: bool = False) -> None:
    """Send nothing more, for good; what was sent is awaited, or AWS is asked to cancel it. Raises Denied, UserError.

    The steps after run in any case: what is out of service is brought back.
    """
    require(run, actor, "abort")
    with hold(run) as (held, moment):
        if not held.may_become(RunState.ABORTING):
            raise not_now(held, "aborted")
        line = one_line(reason)
        words = f"Aborted by {actor.username}. {line}".strip()
        move(held, RunState.ABORTING, RUN_MOVES, end_reason=words[:512])
        waiting = held.targets.filter(state=TargetState.QUEUED)
        move_all(waiting, TargetState.CANCELLED, TARGET_MOVES, reason="Aborted before its turn.", ended_at=moment)
        call_back(held, f"Aborted by {actor.username} before it was sent.", now=moment)
        cancelled = 0
        if cancel:
            under_way = held.targets.filter(state__in=[TargetState.PREPARING, TargetState.SENT], outcome="")
            theirs = commands_of(held).filter(pk__in=under_way.values("invocation__command"))
            cancelled = orders.call_off(theirs, words, by=actor.username, now=moment)
        for gate in GateCheck.objects.filter(wave__run=held, state=GateState.WAITING).select_related("approval"):
            gates.withdraw(gate, actor=actor)
        notify.resolve(STOPPED, dedup_key=str(held.pk))
        note(held, "abort", f"Aborted by {actor.username}.", actor=actor, reason=line, now=moment, cancelled=cancelled)


# --- after failures --------------------------------------------------------------------------------------------------


def retry_failed(
    run: Run, *, actor: User, wave: Wave | None = None, target: RunTarget | None = None, reason: str = ""
) -> int:
    """Queue targets that failed anew: one, those of a wave, or all; how many there are. Raises Denied, UserError."""
    require(run, actor, "retry")
    require_policy(run, actor, "retry")
    with hold(run) as (held, moment):
        if held.state not in {RunState.RUNNING, RunState.STOPPED, RunState.PAUSED, RunState.FAILED}:
            raise not_now(held, "tried again")
        failed = held.targets.filter(state=TargetState.FAILED, wave__isnull=False)
        failed = failed.exclude(wave__state__in=[WaveState.SKIPPED, WaveState.CANCELLED])
        if wave is not None:
            failed = failed.filter(wave=wave)
        if target is not None:
            failed = failed.filter(pk=target.pk)
        # While AWS still has the last attempt it might run twice.
        busy = failed.filter(invocation__state__in=list(COMMAND_OPEN)).count()
        keys = list(failed.exclude(invocation__state__in=list(COMMAND_OPEN)).values_list("pk", "wave"))
        if not keys:
            if busy:
                raise UserError("AWS still shows the commands of the targets that failed; wait for their end.")
            if target is not None:
                raise UserError(f"{target} has not failed; there is nothing to try again.")
            raise UserError("No target has failed; there is nothing to try again.")
        if held.ends_by is not None and moment >= held.ends_by:
            raise UserError("The run's end has passed, and nothing is sent after it. Plan a run of the failed ones.")
        again = [pk for pk, _ in keys]
        for start in range(0, len(again), 400):
            rows = RunTarget.objects.filter(pk__in=again[start : start + 400])
            move_all(rows, TargetState.QUEUED, TARGET_MOVES, reason="", ended_at=None, went_at=None, sent_at=None)
        for each in held.waves.filter(pk__in={pk for _, pk in keys}):
            _reopen(each, actor=actor)
        _recount(held)
        if held.state == RunState.STOPPED:
            _revive(held, actor=actor)
        if held.state == RunState.FAILED:
            overrides.drop(held)
        if held.state in {RunState.STOPPED, RunState.FAILED}:
            go_on(held, now=moment)
        told = f"{target or f'{len(again):,} targets'} {'is' if target else 'are'} tried again by {actor.username}."
        scope = {"position": wave.position} if wave is not None else {}
        scope |= {"instance": target.instance_id} if target is not None else {}
        note(
            held,
            "retry",
            told,
            actor=actor,
            reason=reason,
            now=moment,
            wave=wave,
            row=target,
            targets=len(again),
            **scope,
        )
    return len(again)


def roll_forward(run: Run, *, actor: User, reason: str) -> None:
    """Accept the failures so far: they count against no budget any more, and it goes on. Raises Denied, UserError."""
    why = why_line(reason)
    require(run, actor, "roll forward")
    require_policy(run, actor, "roll forward")
    with hold(run) as (held, moment):
        if held.state != RunState.STOPPED:
            raise not_now(held, "rolled forward")
        facts = facts_of(held)
        count = 0
        for each in held.waves.all():
            failed = next(one.failed for one in facts.waves if one.position == each.position)
            Wave.objects.filter(pk=each.pk).update(accepted_failures=failed)
            count += failed
        Run.objects.filter(pk=held.pk).update(accepted_failures=count)
        _revive(held, actor=actor)
        go_on(held, now=moment)
        told = f"Rolled forward over {count:,} failures by {actor.username}."
        note(held, "roll_forward", told, actor=actor, reason=why, now=moment, failures=count)


def waive_preparation(run: Run, *, actor: User, reason: str) -> None:
    """Let the waves that are not prepared go without what was to be made for them. Raises Denied, UserError."""
    why = why_line(reason)
    require(run, actor, "go on unprepared with")
    require_policy(run, actor, "go on unprepared with")
    with hold(run) as (held, moment):
        if not held.is_open or held.state == RunState.ABORTING:
            raise not_now(held, "changed")
        count = preparing.waive(held, f"Let go without by {actor.username}: {why}")
        if not count:
            raise UserError("No wave waits to be prepared; there is nothing to go without.")
        if (
            held.state == RunState.STOPPED
            and not _spent(held)
            and not held.waves.filter(state=WaveState.FAILED).exists()
        ):
            go_on(held, now=moment)
        told = f"{count} wave{'' if count == 1 else 's'} may go unprepared, says {actor.username}."
        note(held, "waive", told, actor=actor, reason=why, now=moment, waves=count)


def skip_target(target: RunTarget, *, actor: User, reason: str) -> None:
    """Leave out a target that has not been sent, or failed. Raises Denied, UserError."""
    why = why_line(reason)
    run = target.run
    require(run, actor, "leave targets out of")
    with hold(run) as (held, moment):
        if not held.is_open:
            raise not_now(held, "changed")
        found = held.targets.select_related("wave").get(pk=target.pk)
        if found.state not in {TargetState.QUEUED, TargetState.FAILED}:
            raise UserError(f"{found} is {found.get_state_display().lower()}; only what waits or failed is left out.")
        words = f"Left out by {actor.username}: {why}"[:512]
        move(found, TargetState.SKIPPED, TARGET_MOVES, reason=words, ended_at=moment)
        _recount(held)
        note(
            held,
            "target.skip",
            f"{found} is left out by {actor.username}.",
            actor=actor,
            reason=why,
            now=moment,
            row=found,
            instance=found.instance_id,
        )
    target.refresh_from_db()


def skip_wave(wave: Wave, *, actor: User, reason: str) -> None:
    """Leave out what a wave has not sent yet, its soak and its gates. Raises Denied, UserError."""
    why = why_line(reason)
    run = wave.run
    require(run, actor, "leave waves out of")
    if wave.gates.filter(kind="approval").exclude(state__in=[GateState.PASSED, GateState.OVERRULED]).exists():
        require_other(run, actor, "leave waves out of")
    require_policy(run, actor, "go on with")
    with hold(run) as (held, moment):
        if not held.is_open or held.state == RunState.ABORTING:
            raise not_now(held, "changed")
        found = held.waves.get(pk=wave.pk)
        if WaveState.SKIPPED not in WAVE_MOVES.get(WaveState(found.state), ()):
            raise UserError(f"{found} is {found.get_state_display().lower()}; it cannot be left out any more.")
        words = f"Its wave is left out by {actor.username}: {why}"[:512]
        waiting = held.targets.filter(wave=found, state=TargetState.QUEUED)
        count = move_all(waiting, TargetState.SKIPPED, TARGET_MOVES, reason=words, ended_at=moment)
        for gate in found.gates.exclude(state=GateState.PASSED).select_related("approval"):
            if gate.state != GateState.OVERRULED:
                gates.withdraw(gate, actor=actor)
                move(gate, GateState.OVERRULED, GATE_MOVES, ended_at=moment, words=words)
        if held.targets.filter(wave=found, state__in=list(OPEN)).exists():
            # What is out is awaited; then it is over, without soak and gates.
            Wave.objects.filter(pk=found.pk).update(soak_seconds=0, soak_left=None, reason=words)
        else:
            move(found, WaveState.SKIPPED, WAVE_MOVES, ended_at=moment, reason=words, soak_until=None)
        if held.state == RunState.STOPPED and not _spent(held):
            _revive(held, actor=actor)
            go_on(held, now=moment)
        told = f"Wave {found.position}, {found.name}, is left out by {actor.username}."
        note(
            held,
            "wave.skip",
            told,
            actor=actor,
            reason=why,
            now=moment,
            wave=found,
            position=found.position,
            targets=count,
        )
    wave.refresh_from_db()


def overrule_gate(gate: GateCheck, *, actor: User, reason: str) -> None:
    """Go on in spite of a gate. Raises Denied, UserError."""
    why = why_line(reason)
    run = gate.wave.run
    require(run, actor, "overrule gates of")
    if gate.kind == "approval":
        require_other(run, actor, "overrule gates of")
    require_policy(run, actor, "go on with")
    with hold(run) as (held, moment):
        if not held.is_open or held.state == RunState.ABORTING:
            raise not_now(held, "changed")
        found = GateCheck.objects.select_related("wave", "approval").get(pk=gate.pk)
        if GateState.OVERRULED not in GATE_MOVES.get(GateState(found.state), ()):
            raise UserError(f"The {found} is {found.get_state_display().lower()}; there is nothing to overrule.")
        gates.withdraw(found, actor=actor)
        words = f"Overruled by {actor.username}: {why}"[:512]
        move(found, GateState.OVERRULED, GATE_MOVES, ended_at=moment, words=words)
        says_no = GateCheck.objects.filter(wave__run=held, state=GateState.FAILED).exists()
        if held.state == RunState.STOPPED and not says_no and not _spent(held):
            for each in held.waves.filter(state=WaveState.FAILED):
                move(each, WaveState.RUNNING, WAVE_MOVES, reason="")  # what is left of its soak goes on
            go_on(held, now=moment)
        told = f"The {found} is overruled by {actor.username}."
        note(
            held,
            "gate.overrule",
            told,
            actor=actor,
            reason=why,
            now=moment,
            wave=found.wave,
            position=found.wave.position,
            gate=found.kind,
        )
    gate.refresh_from_db()


# --- freezes ---------------------------------------------------------------------------------------------------------


def ask_override(
    run: Run, *, actor: User, reason: str, approvers: Collection[str] = approvals.DEFAULT_APPROVERS
) -> None:
    """Ask others to let the run go through the freezes that hold it now, until they end; its windows bind it all the
    same. Raises Denied; UserError, also if none holds it.
    """
    why = why_line(reason)
    require(run, actor, "ask for")
    if run.actor_id != actor.pk:
        raise Denied(f"It is for {run.actor_name} to ask, as whom the run goes.")
    with hold(run) as (held, moment):
        if held.is_over or held.state == RunState.ABORTING:
            raise not_now(held, "let through a freeze")
        standing = held.override
        if standing is not None and standing.state in {ApprovalState.PENDING, ApprovalState.APPROVED}:
            raise UserError("That has been asked already; see the approvals.")
        deeds = [kinds.find(held.kind).deed, *([Deed.RUN_DOCUMENT.value] if held.steps_before else [])]
        at = max(moment, held.starts_at) if held.starts_at else moment
        held.override_freezes = overrides.freezes(held, deeds, at=at)
        if not held.override_freezes:
            raise UserError("No freeze holds a target that waits; there is nothing to go through.")
        names = "”, “".join(each["name"] for each in held.override_freezes)
        request = approvals.ask(
            deed=overrides.DEED,
            summary=f"Let {held} run through “{names}”"[:256],
            requested_by=actor,
            expires_at=moment + timedelta(hours=OVERRIDE_HOURS),
            details=overrides.details(held),
            approvers=approvers,
            subject=approvals.Target(held._meta.label_lower, str(held.pk), str(held)),
            reason=why,
        )
        Run.objects.filter(pk=held.pk).update(override=request, override_freezes=held.override_freezes)
        held.override = request
        told = f"{actor.username} asks to let it run through “{names}”."
        note(held, "override.ask", told, actor=actor, reason=why, now=moment, request=str(request.pk))


# --- within ----------------------------------------------------------------------------------------------------------


def _spent(run: Run) -> str:
    """Why it would stop again at once, as far as budgets go; empty if it would not."""
    facts = facts_of(run)
    if facts.counted > facts.budget:
        return f"{facts.counted:,} targets failed, and the run's budget bears {facts.budget:,}."
    for each in facts.waves:
        if each.state == WaveState.FAILED and each.budget is not None and each.counted > each.budget:
            return f"{each.counted:,} targets of wave {each.position} failed, and its budget bears {each.budget:,}."
    return ""


def _revive(run: Run, *, actor: User) -> None:
    """Let the waves that failed go on from where they were: gates that said no are asked anew, after a soak."""
    for each in run.waves.filter(state=WaveState.FAILED):
        _reopen(each, actor=actor)


def _reopen(wave: Wave, *, actor: User) -> None:
    if wave.state == WaveState.RUNNING:
        return
    if WaveState.RUNNING in WAVE_MOVES.get(WaveState(wave.state), ()):
        move(wave, WaveState.RUNNING, WAVE_MOVES, reason="", ended_at=None, soak_until=None, soak_left=None)
        gates.reset(wave, actor=actor)


def _recount(run: Run) -> None:
    """No more failures are accepted than stand."""
    count = 0
    facts = {each.position: each for each in facts_of(run).waves}
    for each in run.waves.all():
        accepted = min(each.accepted_failures, facts[each.position].failed)
        if accepted != each.accepted_failures:
            Wave.objects.filter(pk=each.pk).update(accepted_failures=accepted)
        count += accepted
    if count != run.accepted_failures:
        Run.objects.filter(pk=run.pk).update(accepted_failures=count)
