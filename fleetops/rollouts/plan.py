"""A run planned before anything is sent: who, in which wave, when, who not and why; kept with its digest.

`run.plan` (JSON) is what the plan page shows:

    seed, made_at, targets, matched, reboots, notes [text], skipped [{reason, count, denied}],
    waves [{position, name, targets, reboots, at_once, budget, minutes, starts_at, ends_at, soak_minutes, gates [text],
    slowed_by}], versions [{document, version}], calendars [{name, is_freeze, targets, is_open, opens_at, closes_at,
    holds}], clusters [{rule, most_out, clusters, targets, largest, out, full, full_count, slows}], starts_at,
    ends_at (none: not in sight), spare_minutes, calls
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from django.db import transaction

from fleetops.clock import now as clock_now
from fleetops.clock import uuid7
from fleetops.errors import Denied, UserError
from fleetops.identity.models import User
from fleetops.policy import services as policy
from fleetops.policy.decide import Context

from . import health, kinds, limits, preview, rules, versions
from .assess import Assessed, assess, counted, found_by
from .clusters import clusters_of, guards
from .leave import may_read_parameters
from .models import GateCheck, Run, RunTarget, TargetCluster, Wave
from .rows import insert
from .states import Readiness, RunState, TargetState
from .waves import Member, Waves, split

LIFE: Final = timedelta(hours=1)  # of a plan: after it the fleet is another, and it is to be made anew
KEPT: Final = timedelta(days=7)  # a draft that nobody starts


class NoTarget(UserError):
    """There is nobody to run it on. `cause`: none (nothing is selected), denied (each), held (by calendars), unfit."""

    def __init__(self, text: str, cause: str) -> None:
        super().__init__(text)
        self.cause = cause


@dataclass(frozen=True)
class Wanted:
    """What a person asks for; see the columns of Run. `waves`: see rules.py."""

    kind: str
    subject: Mapping[str, Any]
    targets: str
    name: str = ""
    waves: Sequence[Mapping[str, Any]] = ()
    concurrency: str = "10%"
    budget: str = "0"
    is_strict: bool = False
    steps_before: Sequence[Mapping[str, Any]] = ()
    steps_after: Sequence[Mapping[str, Any]] = ()
    probes: Sequence[Mapping[str, Any]] = ()
    starts_at: datetime | None = None
    ends_by: datetime | None = None
    cutoff_minutes: int = 0
    evidence_minutes: int = 30
    tolerance: str = "0"
    reason: str = ""
    seed: str = field(default="", compare=False)


def make(
    wanted: Wanted, *, actor: User, again_of: Run | None = None, and_then: Callable[[Run], None] | None = None
) -> Run:
    """Write down a run as it would go; nothing is sent. `and_then` is called with it in the same transaction.

    Raises UserError, in words, for zero targets (NoTarget), waves that overlap, a window that never opens, a document
    that does not exist and limits that contradict each other; assess.ReasonMissing if the policy wants to know why.
    Nothing is kept then.
    """
    moment = clock_now()
    if _has_nul(vars(wanted)):
        raise UserError("There is a NUL character in it, which no document takes and no row holds.")
    kind = kinds.find(wanted.kind)
    reason = " ".join("".join(each if each.isprintable() else " " for each in wanted.reason).split())[:256]
    context = policy.context(actor, reason=reason)
    subject = kind.check(wanted.subject)
    expression, instances = found_by(wanted.targets, actor, partial(kind.narrow, subject))
    if not instances:
        raise NoTarget("No instance matches. Write an expression that selects at least one.", "none")
    run = Run(
        kind=kind.name,
        name=" ".join(wanted.name.split())[:128] or f"{subject.get('document', kind.label)} on {expression}"[:128],
        subject=subject,
        targets_text=str(expression)[:4000],
        concurrency=wanted.concurrency.strip(),
        budget=wanted.budget.strip(),
        is_strict=wanted.is_strict,
        wave_rules=rules.cleaned(wanted.waves),
        steps_before=rules.documents(wanted.steps_before, "The step before"),
        steps_after=rules.documents(wanted.steps_after, "The step after"),
        probes=rules.documents(wanted.probes, "The probe"),
        starts_at=wanted.starts_at,
        ends_by=wanted.ends_by,
        cutoff_minutes=wanted.cutoff_minutes,
        evidence_minutes=wanted.evidence_minutes,
        tolerance=wanted.tolerance.strip() or "0",
        actor=actor,
        actor_name=actor.username,
        source_address=context.source_address,
        mfa_at=None if context.mfa_at is None else datetime.fromtimestamp(context.mfa_at, UTC),
        reason=reason,
        again_of=again_of,
        created_at=moment,
    )
    rules.check(run, actor=actor, now=moment)
    assessed = assess(run, instances, actor=actor, context=context, now=moment)
    fit = [each for each in assessed if not each.skipped]
    if not fit:
        # A denial is of one instance, by its name: of all of them it says the most.
        first = next((each.skipped for each in assessed if each.is_denied), "") or counted(assessed)[0]["reason"]
        is_denied = all(each.is_denied for each in assessed)
        is_held = any(each.is_held for each in assessed)
        cause = "denied" if is_denied else "held" if is_held else "unfit"
        raise NoTarget(f"There is no instance that it could run on. {first}", cause)
    protections = guards()
    clusters = {each.key: clusters_of(each.facts.account_id, each.facts.tags, protections) for each in fit}
    seed = wanted.seed or uuid7().hex
    waves = split(
        [Member(each.key, each.facts, tuple(clusters[each.key])) for each in fit],
        rules.waves(run.wave_rules),
        seed=seed,
    )
    total = len(fit)
    rules.check_waves(run, waves, total)
    by_key = {each.key: each.instance for each in fit}
    members = [[by_key[key] for key in each.keys] for each in waves.splits]
    notes = kind.check_waves(run, members)
    asked = [rules.of(run.wave_rules, each.rule).get("gates", ()) for each in waves.splits]
    elsewhere = health.check(run, list(zip(asked, members, strict=True)), actor=actor, context=context)
    run.versions = versions.planned(run, [*by_key.values(), *elsewhere])
    run.plan = preview.shown(run, waves, assessed, clusters, protections, seed=seed, now=moment)
    run.plan["notes"] += notes
    run.plan["versions"] = versions.shown(run.versions)
    run.plan_hash = digest(run, waves, assessed)
    _write(run, waves, assessed, clusters, and_then)
    return run


def _has_nul(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_nul(each) for each in (*value, *value.values()))
    return "\x00" in value if isinstance(value, str) else isinstance(value, list | tuple) and any(map(_has_nul, value))


def asked_for(run: Run, *, actor: User) -> Wanted:
    """What a run was made from. Raises Denied for one whose parameters `actor` may not read: they would have them."""
    given = [run.subject, *run.steps_before, *run.steps_after, *run.probes]
    given += [gate for rule in run.wave_rules for gate in rule.get("gates", ())]
    if any(each.get("parameters") for each in given) and not may_read_parameters(run, actor):
        raise Denied(f"Only {run.actor_name} may plan it again: others may not read what its documents are given.")
    return Wanted(
        kind=run.kind,
        subject=run.subject,
        targets=run.targets_text,
        name=run.name,
        waves=run.wave_rules,
        concurrency=run.concurrency,
        budget=run.budget,
        is_strict=run.is_strict,
        steps_before=run.steps_before,
        steps_after=run.steps_after,
        probes=run.probes,
        starts_at=run.starts_at if run.starts_at and run.starts_at > clock_now() else None,
        ends_by=run.ends_by,
        cutoff_minutes=run.cutoff_minutes,
        evidence_minutes=run.evidence_minutes,
        tolerance=run.tolerance,
        reason=run.reason,
        seed=run.plan.get("seed", ""),
    )


def again(run: Run, *, actor: User, and_then: Callable[[Run], None] | None = None) -> Run:
    """The same planned anew, for the fleet as it is now; a draft of one's own makes way for it. Raises as these do."""
    wanted = asked_for(run, actor=actor)
    with transaction.atomic():
        made = make(wanted, actor=actor, again_of=None if run.is_draft else run, and_then=and_then)
        if run.is_draft:
            discard(run, actor=actor)
    return made


def discard(run: Run, *, actor: User) -> None:
    """Delete a plan that was not started. Raises UserError if it was, or is somebody else's."""
    if run.actor_id != actor.pk:
        raise UserError("Somebody else made this plan.")
    if not Run.objects.filter(pk=run.pk, state=RunState.DRAFT).delete()[0]:
        raise UserError("This run has been started already; abort it instead.")


def drop_old_drafts(*, now: datetime) -> int:
    """Delete plans that nobody started within a week; how many."""
    return Run.objects.filter(state=RunState.DRAFT, created_at__lt=now - KEPT).delete()[1].get("rollouts.Run", 0)


# --- what has changed since ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gone:
    """A target of the plan that it would not reach now."""

    pk: Any  # of the RunTarget
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Drift:
    """How the live fleet differs from a plan. New ones are left out of the run, whatever their number."""

    new: tuple[str, ...]  # names of those that would be targets now, and are none of the plan
    gone: tuple[Gone, ...]
    tolerated: int

    @property
    def count(self) -> int:
        return len(self.new) + len(self.gone)

    @property
    def is_too_much(self) -> bool:
        return self.count > self.tolerated

    @property
    def words(self) -> str:
        """ "3 targets differ from the plan: web-1 is new; db-2: it cannot be reached." """
        if not self.count:
            return "The fleet is as it was planned."
        named = [f"{name} is new" for name in self.new[:3]]
        named += [f"{each.name}: {each.reason.rstrip('.')}" for each in self.gone[:3]]
        more = self.count - len(named)
        are = "target differs" if self.count == 1 else "targets differ"
        return f"{self.count:,} {are} from the plan: {'; '.join(named)}{f'; and {more:,} more' if more else ''}."


def differences(run: Run, *, context: Context | None = None) -> Drift:
    """What the live fleet says now against the plan. Raises UserError if the run cannot be planned any more at all."""
    actor = run.actor
    if actor is None:
        raise UserError("Whoever made this plan is gone; make one of your own.")
    moment = clock_now()
    context = context or policy.context(actor, reason=run.reason)
    _, instances = found_by(run.targets_text, actor, partial(kinds.find(run.kind).narrow, run.subject))
    assessed = {each.key: each for each in assess(run, instances, actor=actor, context=context, now=moment)}
    rows = run.targets.exclude(state=TargetState.SKIPPED).values_list(
        "account__account_id", "region__name", "instance_id", "pk", "instance_name"
    )
    planned = {tuple(row[:3]): row[3:] for row in rows}
    new = [str(each.instance) for key, each in assessed.items() if key not in planned and not each.skipped]
    gone = []
    for key, (pk, name) in planned.items():
        found = assessed.get(key)
        if found is None:
            gone.append(Gone(pk, name, "the expression does not select it any more."))
        elif found.skipped:
            gone.append(Gone(pk, name, found.skipped))
    allowed = limits.parse(run.tolerance or "0", what="The tolerance").of(len(planned))
    return Drift(tuple(new), tuple(gone), allowed)


# --- the digest ------------------------------------------------------------------------------------------------------


def digest(run: Run, waves: Waves, assessed: Sequence[Assessed]) -> str:
    """SHA-256 of all that the plan says will be done, to whom, and what is left out."""
    said = {
        "kind": run.kind,
        "subject": run.subject,
        "targets": run.targets_text,
        "concurrency": run.concurrency,
        "budget": run.budget,
        "strict": run.is_strict,
        "before": run.steps_before,
        "after": run.steps_after,
        "probes": run.probes,
        "starts_at": run.starts_at,
        "ends_by": run.ends_by,
        "cutoff": run.cutoff_minutes,
        "evidence": run.evidence_minutes,
        "tolerance": run.tolerance,
        "rules": run.wave_rules,
        "versions": run.versions,
        "waves": [[each.name, each.keys] for each in waves.splits],
        "skipped": [[each.key, each.skipped] for each in assessed if each.skipped],
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


# --- writing ---------------------------------------------------------------------------------------------------------


# Of a target, in the order in which `_write` gives them; the rest is as a model has it from the start.
_COLUMNS: Final = (
    *("id", "run", "wave", "position", "instance_row", "account", "region"),
    *("instance_id", "instance_name", "zone", "state", "reason"),
)


def _write(
    run: Run,
    waves: Waves,
    assessed: Sequence[Assessed],
    clusters: Mapping[Any, Mapping[str, int]],
    and_then: Callable[[Run], None] | None = None,
) -> None:
    by_key = {each.key: each for each in assessed}
    made, gates = [], []
    kind = kinds.find(run.kind)
    for number, each in enumerate(waves.splits, 1):
        rule = rules.of(run.wave_rules, each.rule)
        wave = Wave(
            run=run,
            position=number,
            name=each.name[:64],
            concurrency=rule.get("concurrency", ""),
            budget=rule.get("budget", ""),
            soak_seconds=60 * int(rule.get("soak_minutes", 0)),
            readiness=Readiness.OPEN if kind.prepares(run, number) else Readiness.READY,
        )
        made.append(wave)
        for at, gate in enumerate(rule.get("gates", []), 1):
            settings = {name: value for name, value in gate.items() if name != "kind"}
            gates.append(GateCheck(wave=wave, position=at, kind=gate["kind"], settings=settings))
    with transaction.atomic():
        run.save(force_insert=True)
        Wave.objects.bulk_create(made)
        GateCheck.objects.bulk_create(gates)
        going = [(by_key[key], wave.pk) for each, wave in zip(waves.splits, made, strict=True) for key in each.keys]
        going += [(each, None) for each in assessed if each.skipped]
        rows = [_row(run, each, wave, position) for position, (each, wave) in enumerate(going, 1)]
        insert(RunTarget, _COLUMNS, rows)
        members = [
            (row[0], cluster)
            for row, (each, _) in zip(rows, going, strict=True)
            for cluster in clusters.get(each.key, ())
        ]
        insert(TargetCluster, ("target", "cluster"), members)
        if and_then is not None:
            and_then(run)


def _row(run: Run, one: Assessed, wave: Any, position: int) -> tuple[Any, ...]:
    its = one.instance
    return (
        *(uuid7(), run.pk, wave, position, its.pk, its.account_id, its.region_id),
        *(its.instance_id, str(its)[:255], its.zone),
        *((TargetState.SKIPPED.value, one.skipped[:512]) if one.skipped else (TargetState.QUEUED.value, "")),
    )
