"""Who goes now, and the commands made for it: one for all targets that get the same, in one account and region.

In the transaction that moves the targets, under the lock of their run. Nothing here calls AWS: runcommand sends what
was made, once, and finds again what may have gone.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from django.db.models import OuterRef, QuerySet, Subquery

from fleetops.calendars import services as calendars
from fleetops.calendars.models import Calendar
from fleetops.errors import UserError
from fleetops.inventory.selection import facts_of
from fleetops.policy.decide import Deed
from fleetops.runcommand import orders
from fleetops.runcommand.models import Bound, Command, Invocation
from fleetops.runcommand.states import OPEN as COMMAND_OPEN
from fleetops.transitions import LostRace, move_all

from . import clusters, overrides, planner, versions
from .evidence import AFTER, BEFORE, MAIN, PROBE, Due, bring_back, decide, not_brought_back
from .kinds import Call, RunKind
from .models import START_PERMISSION, Run, RunTarget, Wave
from .states import TARGET_MOVES, Outcome, TargetState

logger = logging.getLogger(__name__)

MOST_AT_ONCE: Final = 500  # targets that go in one step; the others go in the next, at once
STEP_SECONDS: Final = 600  # until a step's document that no agent has taken is given up
MOST_LOOKED_AT: Final = 2000  # candidates that one step looks at; the next goes on where it came to
_LOOKED_AT: Final = 500  # candidates that are read at a time
_CHUNK: Final = 400


@dataclass(slots=True)
class Sent:
    """What one look has made and found."""

    commands: list[Any] = field(default_factory=list)  # their keys
    gone: int = 0  # targets that went
    held: int = 0  # targets that wait although there is room
    waits_for: str = ""
    at: datetime | None = None  # when a calendar lets somebody go
    is_more: bool = False
    is_in_turns: bool = False  # the wave has more targets that are held than one look reads


def origin_of(run: Run) -> str:
    """How commands of the run are marked."""
    return f"rollouts:{run.pk}"


def commands_of(run: Run) -> QuerySet[Command]:
    return Command.objects.filter(origin=origin_of(run))


def bound_of(run: Run, *, now: datetime) -> str:
    """Which calendars a command of the run waits for: `send` has asked them of each target."""
    return Bound.WINDOWS if overrides.opened(run, now=now) else Bound.CALENDARS


# --- who goes --------------------------------------------------------------------------------------------------------


def send(run: Run, kind: RunKind, wave: Wave, room: int, sent: Sent, *, now: datetime) -> None:
    """Let up to `room` targets of the wave go, in their order, but for those that something holds."""
    room_now = min(room, MOST_AT_ONCE)
    opened = overrides.opened(run, now=now)
    standing = [each for each in calendars.standing() if not (each.is_freeze and str(each.pk) in opened)]
    rules = clusters.guards()
    waiting = (
        run.targets.filter(wave=wave, state=TargetState.QUEUED)
        .exclude(invocation__state__in=list(COMMAND_OPEN))  # tried again while AWS still has the last attempt
        .select_related("instance_row__account", "instance_row__region")
        .order_by("position")
    )
    deeds = [kind.deed] + ([Deed.RUN_DOCUMENT.value] if run.steps_before and kind.deed != Deed.RUN_DOCUMENT else [])
    going: dict[RunTarget, dict[str, int]] = {}
    used: dict[str, set[int]] = defaultdict(set)
    words: dict[Any, str] = {}
    last, moments = run.looked_through or -1, [sent.at] if sent.at else []
    due = Due()
    looked_at = 0
    while len(going) < room_now:
        rows = list(waiting.filter(position__gt=last)[:_LOOKED_AT]) if looked_at < MOST_LOOKED_AT else []
        if not rows:
            break
        looked_at += len(rows)
        last = rows[-1].position
        by_key = {each.pk: each for each in rows}
        for each in rows:
            each.run, each.wave = run, wave
        gone = [each for each in rows if each.instance_row is None or each.instance_row.gone_at is not None]
        if gone and not going:
            # They fail, as if they had gone; nobody goes beside them, since the budget may be spent by it.
            _start(gone[:room_now], run, now=now)
            for each in gone[:room_now]:
                decide(run, each, Outcome.BAD, "The instance is gone.", due, now=now)
            sent.is_more = True
            return
        if gone:  # those before them go first
            rows = [each for each in rows if each.position < gone[0].position]
            room_now = len(going) + min(room_now - len(going), len(rows))
            sent.is_more = True
        wanted = {each.pk: clusters.instance_clusters(each.instance_row, rules) for each in rows}
        places = clusters.places(_strictest(wanted.values()))
        candidates = [_candidate(run, each, wanted[each.pk], places, deeds, standing, now) for each in rows]
        picked = planner.pick(candidates, room_now - len(going), used=used)
        for key, slots in picked.going.items():
            going[by_key[key]] = slots
            for cluster, slot in slots.items():
                used[cluster].add(slot)
        words |= {key: text for key, text in picked.waiting.items() if by_key[key].reason != text}
        sent.held += len(picked.waiting)
        if picked.waiting and not sent.waits_for:
            sent.waits_for = next(iter(picked.waiting.values()))
        moments += [picked.at] if picked.at else []
    sent.at = min(moments, default=None)
    # Thousands that are held are looked at in turns.
    was_cut = run.looked_through
    if len(going) >= room_now:  # whoever stands behind the last one that goes has not been looked at
        last = max((target.position for target in going), default=last)
    is_cut = (bool(was_cut) or looked_at >= MOST_LOOKED_AT) and waiting.filter(position__gt=last).exists()
    run.looked_through = last if is_cut else 0
    if was_cut != run.looked_through:
        Run.objects.filter(pk=run.pk).update(looked_through=run.looked_through)
    sent.is_in_turns = is_cut or bool(was_cut)
    sent.is_more = sent.is_more or bool(was_cut and not looked_at)  # what is left stands before
    if sent.held > 1:
        some = " of those that were looked at" if sent.is_in_turns else ""
        sent.waits_for = f"{sent.waits_for} {sent.held:,} targets{some} are held."
    _tell(words)
    sent.is_more = sent.is_more or (len(going) == MOST_AT_ONCE and room > MOST_AT_ONCE)
    missed = clusters.take({target: slots for target, slots in going.items() if slots})
    _tell({target.pk: f"Waits for a place in {cluster}." for target, cluster in missed.items()})
    chosen = [target for target in going if target not in missed]
    sent.gone += len(chosen)
    _start(chosen, run, now=now)
    for target in chosen:
        due.add(target, *((BEFORE, 1) if run.steps_before else (MAIN, 0)))
    carry_on(run, kind, due, sent, may_send=True, now=now)


def _candidate(
    run: Run,
    target: RunTarget,
    wanted: Mapping[str, int],
    places: Mapping[str, clusters.Places],
    deeds: Sequence[str],
    standing: Sequence[Calendar],
    now: datetime,
) -> planner.Candidate:
    free = {cluster: places[cluster].free(for_instance=target.instance_row_id) for cluster in sorted(wanted)}
    if standing:
        facts, cutoff = facts_of(target.instance_row), timedelta(minutes=run.cutoff_minutes)
        for deed in deeds:
            gate = calendars.ask(deed, facts, now, standing)
            if not gate.is_open:
                return planner.Candidate(target.pk, f"Held: {gate.holds[0]}.", gate.changes_at, free)
            if cutoff and gate.changes_at is not None and now >= gate.changes_at - cutoff:
                words = f"Held: it may no longer be done from {gate.changes_at:%H:%M} UTC on, and that is near."
                return planner.Candidate(target.pk, words, gate.changes_at, free)
    return planner.Candidate(target.pk, free=free)


def _strictest(wanted: Iterable[Mapping[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in wanted:
        for cluster, most_out in each.items():
            found[cluster] = min(found.get(cluster, most_out), most_out)
    return found


def _tell(words: Mapping[Any, str]) -> None:
    """Write down why targets wait."""
    by_words: dict[str, list[Any]] = defaultdict(list)
    for key, text in words.items():
        by_words[text[:512]].append(key)
    for text, keys in by_words.items():
        for start in range(0, len(keys), _CHUNK):
            RunTarget.objects.filter(pk__in=keys[start : start + _CHUNK], state=TargetState.QUEUED).update(reason=text)


def _start(targets: Sequence[RunTarget], run: Run, *, now: datetime) -> None:
    """A new attempt of each begins."""
    to = TargetState.PREPARING if run.steps_before else TargetState.SENT
    stamps = ("ran_at", "rebooted_at", "reported_at", "probed_at", "ended_at", "proof_by", "invocation")
    changes: dict[str, Any] = dict.fromkeys(stamps, None) | {"went_at": now, "reason": "", "outcome": "", "facts": {}}
    changes |= {"step": f"{BEFORE} 1"} if run.steps_before else {"step": "", "sent_at": now}
    for target in targets:
        target.attempt += 1
    _move(targets, to, **changes)
    for attempt in {target.attempt for target in targets}:
        keys = [target.pk for target in targets if target.attempt == attempt]
        for start in range(0, len(keys), _CHUNK):
            RunTarget.objects.filter(pk__in=keys[start : start + _CHUNK]).update(attempt=attempt)


def _move(targets: Sequence[RunTarget], to: str, **changes: Any) -> None:
    """Move them all, as `move` does each. Only who holds the lock of the run moves its targets."""
    for start in range(0, len(targets), _CHUNK):
        chunk = [target.pk for target in targets[start : start + _CHUNK]]
        moved = move_all(RunTarget.objects.filter(pk__in=chunk), to, TARGET_MOVES, **changes)
        if moved != len(chunk):
            raise LostRace(f"{len(chunk) - moved} targets that were to become {to!r} have been moved")
    for target in targets:
        target.state = to
        for name, value in changes.items():
            setattr(target, name, value)


# --- the commands ----------------------------------------------------------------------------------------------------


def carry_on(run: Run, kind: RunKind, due: Due, sent: Sent, *, may_send: bool, now: datetime) -> None:
    """Give each target its next step. Without `may_send` those that were only prepared are brought back instead."""
    while due.steps:
        later = Due()
        for (step, number), targets in sorted(due.steps.items()):
            if step in {BEFORE, MAIN} and not may_send:
                for target in targets:
                    decide(run, target, Outcome.AGAIN, "Called back before it was sent.", later, now=now)
            else:
                _order(run, kind, step, number, targets, later, sent, now=now)
        later.settle()
        due = later


def _order(
    run: Run,
    kind: RunKind,
    step: str,
    number: int,
    targets: Sequence[RunTarget],
    later: Due,
    sent: Sent,
    *,
    now: datetime,
) -> None:
    """Make the commands of one step, by account, region and what is run; who cannot get one fails in words."""
    text = f"{step} {number}" if step else ""
    fresh = [target for target in targets if step == MAIN and target.state == TargetState.PREPARING]
    _move(fresh, TargetState.SENT, sent_at=now)
    if step == MAIN and kind.carries_out:
        _carry_out(run, kind, targets, later, now=now)
        return
    groups: dict[tuple[Any, ...], list[RunTarget]] = defaultdict(list)
    calls: dict[tuple[Any, ...], Call] = {}
    for target in targets:
        target.step = text
        try:
            call = kind.call_for(run, target) if step == MAIN else _call_of(_steps(run, step)[number - 1])
        except UserError as error:
            _without(run, target, step, number, str(error), later, now=now)
            continue
        calls[call.key] = call
        groups[target.account_id, target.region_id, call.key].append(target)
    for (account, region, key), members in groups.items():
        call = calls[key]
        there = versions.resolved(run, call.document_name, call.document_version, [(account, region)])
        version = there.get((account, region))
        if version is None:
            words = f"There is no document {call.document_name} in its account and region."
            for target in members:
                _without(run, target, step, number, words, later, now=now)
            continue
        instances = [target.instance_row for target in members]
        made = orders.place(_the_order(run, kind, call, step, number, now=now), instances, version, now=now)
        for target in members:
            target.invocation = made[target.instance_row_id]
            target.due_at = None
        _note_invocations(members, step=text)
        sent.commands.append(members[0].invocation.command_id)
        logger.info("command made run=%s step=%s instances=%d", run.pk, text or "main", len(members))


def _carry_out(run: Run, kind: RunKind, targets: Sequence[RunTarget], later: Due, *, now: datetime) -> None:
    """Have a kind do it that sends nothing: its targets wait for its word at once."""
    refused = kind.carry_out(run, targets)
    for target in targets:
        target.step = ""
        if target.pk in refused:
            decide(run, target, Outcome.BAD, refused[target.pk], later, now=now)
    begun = [target for target in targets if target.pk not in refused]
    for start in range(0, len(begun), _CHUNK):
        keys = [each.pk for each in begun[start : start + _CHUNK]]
        RunTarget.objects.filter(pk__in=keys).update(step="")
    proof_by = now + timedelta(minutes=run.evidence_minutes)
    _move(begun, TargetState.RAN, ran_at=now, due_at=now, proof_by=proof_by, reason="")
    logger.info("targets carried out run=%s instances=%d refused=%d", run.pk, len(begun), len(refused))


def _note_invocations(members: Sequence[RunTarget], *, step: str) -> None:
    """Which invocation each waits for from now on."""
    command = members[0].invocation.command_id
    mine = Invocation.objects.filter(
        command=command, account=OuterRef("account"), region=OuterRef("region"), instance_id=OuterRef("instance_id")
    )
    for start in range(0, len(members), _CHUNK):
        rows = RunTarget.objects.filter(pk__in=[each.pk for each in members[start : start + _CHUNK]])
        rows.update(step=step, invocation=Subquery(mine.values("pk")[:1]), due_at=None)
    if decided := [each for each in members if each.outcome]:
        RunTarget.objects.bulk_update(decided, ["outcome", "reason", "facts"], batch_size=200)


def _without(run: Run, target: RunTarget, step: str, number: int, words: str, later: Due, *, now: datetime) -> None:
    """A step of a target cannot be made at all."""
    if step != AFTER:
        decide(run, target, Outcome.BAD, words, later, now=now)
        return
    not_brought_back(target, words)
    bring_back(run, target, number + 1, later, now=now)


def _steps(run: Run, step: str) -> list[dict[str, Any]]:
    return {BEFORE: run.steps_before, PROBE: run.probes, AFTER: run.steps_after}[step]


def _call_of(step: Mapping[str, Any]) -> Call:
    """The document of a step, as the run's row holds it."""
    parameters = step.get("parameters") or {}
    return Call(
        document_name=str(step["document"]),
        parameters={name: tuple(map(str, texts)) for name, texts in parameters.items()},
        document_version=str(step.get("version") or ""),
        timeout_seconds=int(step.get("timeout_seconds") or STEP_SECONDS),
    )


def _the_order(run: Run, kind: RunKind, call: Call, step: str, number: int, *, now: datetime) -> orders.Order:
    """A step before or the document itself waits for calendars; what proves or brings back a target waits for none."""
    return orders.Order(
        document_name=call.document_name,
        document_version=call.document_version,
        parameters=call.parameters,
        timeout_seconds=call.timeout_seconds,
        origin=origin_of(run),
        origin_name=f"{run}, {step} {number}" if step else str(run),
        actor=run.actor,
        actor_name=run.actor_name,
        deed=kind.deed if step == MAIN else Deed.RUN_DOCUMENT.value,
        permission=START_PERMISSION,
        bound_by=bound_of(run, now=now) if step in {BEFORE, MAIN} else Bound.NOTHING,
        reason=run.reason,
        source_address=run.source_address,
        mfa_at=run.mfa_at,
    )
