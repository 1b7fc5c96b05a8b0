"""Which instances a run would reach, and which not and why: asked for its plan, and again before it starts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from fleetops.calendars import services as calendars
from fleetops.calendars.gate import Binding
from fleetops.errors import UserError
from fleetops.identity.models import User
from fleetops.inventory.models import Instance, InstanceQuerySet
from fleetops.inventory.readiness import Status, status_of, status_words
from fleetops.inventory.selection import facts_of, select
from fleetops.library.models import Document
from fleetops.policy import services as policy
from fleetops.policy.decide import WITH_DOCUMENT, Context, Decision, Deed, DeedRequest, decide
from fleetops.targets import Expression, ExpressionError, TargetFacts, parse

from . import kinds, limits
from .models import Run
from .timing import walk


class ReasonMissing(UserError):
    """The policy would allow it to whoever says why."""


@dataclass(frozen=True, slots=True)
class Assessed:
    """One instance: what a run would need for it, or why it is left out."""

    instance: Instance
    facts: TargetFacts
    skipped: str = ""
    is_denied: bool = False
    minutes: float = 0.0
    reboots: bool = False
    bindings: tuple[Binding, ...] = field(default=(), compare=False)
    is_held: bool = False  # skipped for its calendars

    @property
    def key(self) -> tuple[str, str, str]:
        return self.facts.account_id, self.facts.region, self.facts.instance_id


EXTRA_MINUTES: Final = 1.0  # of a step before or after, or a probe


def found_by(
    text: str, actor: User, narrow: Callable[[InstanceQuerySet], InstanceQuerySet] | None = None
) -> tuple[Expression, list[Instance]]:
    """The instances that `actor` may see of those that an expression selects, cut down to what a kind of run is about.

    Raises UserError.
    """
    try:
        expression = parse(text, words=True)
    except ExpressionError as error:
        error.fields = {"targets": str(error)}
        raise
    chosen = select(expression, Instance.objects.visible_to(actor).present())
    if narrow is not None:
        chosen = narrow(chosen)
    rows = chosen.prefetch_related("account", "region").order_by("name", "instance_id")[: limits.MOST + 1]
    found = list(rows)
    if len(found) > limits.MOST:
        raise UserError(f"A run has at most {limits.MOST:,} targets; select fewer.")
    return expression, found


def assess(run: Run, instances: Sequence[Instance], *, actor: User, context: Context, now: datetime) -> list[Assessed]:
    """The word on each instance, in the order given; `run` need not be saved yet.

    Raises UserError if its kind cannot be run at all, or one of its documents is nowhere.
    """
    kind = kinds.find(run.kind)
    facts = [facts_of(each) for each in instances]
    wants = _documents_wanted(run)
    places = {(each.account_id, each.region_id) for each in instances}
    lacks = _lacking(wants, places)
    denied = _denied(run, kind.deed, facts, wants, actor=actor, context=context)
    bound = _bound(kind.deed, facts)
    closed: dict[tuple[Binding, ...], str] = {}
    needs_agent = kind.needs_agent or bool(wants)
    skipped = [
        _unreachable(each, now, needs_agent=needs_agent) or lacks.get((each.account_id, each.region_id), "")
        for each in instances
    ]
    fit = [each for each, why in zip(instances, skipped, strict=True) if not why]
    fitness = iter(kind.fitness(run, fit))
    extra = EXTRA_MINUTES * len(wants)
    made = []
    for each, its, why, no, bindings in zip(instances, facts, skipped, denied, bound, strict=True):
        if why:
            made.append(Assessed(each, its, why))
            continue
        found = next(fitness)
        if found.skipped:
            made.append(Assessed(each, its, found.skipped))
        elif no is not None:
            made.append(Assessed(each, its, no.text, is_denied=True))
        else:
            if bindings not in closed:
                closed[bindings] = _never(run, bindings, now)
            facts_here = (found.minutes + extra, found.reboots, bindings, bool(closed[bindings]))
            made.append(Assessed(each, its, closed[bindings], False, *facts_here))
    return made


def _unreachable(instance: Instance, now: datetime, *, needs_agent: bool) -> str:
    if needs_agent and status_of(instance) is not Status.ONLINE:
        return f"It cannot be reached: {status_words(instance, now=now)[1].lower()}."
    if not instance.account.enabled or not instance.region.enabled:
        return "Its account or region is turned off in FleetOps."
    return ""


# --- documents besides the kind's own --------------------------------------------------------------------------------


def _documents_wanted(run: Run) -> list[tuple[str, str]]:
    """What each is for, and its name."""
    named = (("the step before", run.steps_before), ("the step after", run.steps_after), ("the probe", run.probes))
    return [(what, str(each["document"])) for what, all_ in named for each in all_]


def _lacking(wants: Sequence[tuple[str, str]], places: Collection[tuple[Any, int]]) -> dict[tuple[Any, int], str]:
    """Where one of the documents is not. Raises UserError if one is nowhere."""
    if not wants or not places:
        return {}
    there: dict[str, set[tuple[Any, int]]] = {name: set() for _, name in wants}
    rows = Document.objects.runnable().filter(name__in=list(there), region__in=[region for _, region in places])
    for name, account, region in rows.values_list("name", "account", "region"):
        there[name].add((account, region))
    lacking: dict[tuple[Any, int], str] = {}
    for what, name in wants:
        if not there[name] & set(places):
            raise UserError(f"There is no document {name} to run, {what}, where the targets are.")
        for place in set(places) - there[name]:
            lacking.setdefault(place, f"There is no document {name}, {what}, in its account and region.")
    return lacking


# --- policy ----------------------------------------------------------------------------------------------------------


def _denied(
    run: Run,
    deed: str,
    facts: Sequence[TargetFacts],
    wants: Sequence[tuple[str, str]],
    *,
    actor: User,
    context: Context,
) -> list[Decision | None]:
    """The decision on each that says no; of the kind's deed first, then of other documents. Raises ReasonMissing."""
    rules, who = policy.rules(), policy.actor_facts(actor)
    own = str(run.subject.get("document", "")) if deed in WITH_DOCUMENT else ""
    asked = dict.fromkeys([(deed, own), *((str(Deed.RUN_DOCUMENT), name) for _, name in wants)])
    answers: list[Decision | None] = [None] * len(facts)
    for one, document in asked:
        mine = [rule for rule in rules if one in rule.deeds]
        for at, its in enumerate(facts):
            if answers[at] is None:
                answer = decide(DeedRequest(who, one, context, its, document=document), mine)
                if not answer.allowed:
                    if answer.wants_only_a_reason:
                        raise ReasonMissing("A rule of the access policy wants to know why. Say so in a few words.")
                    answers[at] = answer
    return answers


# --- calendars -------------------------------------------------------------------------------------------------------


def _bound(deed: str, facts: Iterable[TargetFacts]) -> list[tuple[Binding, ...]]:
    """The calendars that bind each. Equal ones are one object."""
    standing = calendars.standing()
    if not standing:
        return [() for _ in facts]
    made: dict[tuple[Binding, ...], tuple[Binding, ...]] = {}
    found = []
    for its in facts:
        bindings = tuple(calendars.bindings(deed, its, standing))
        found.append(made.setdefault(bindings, bindings))
    return found


def _never(run: Run, bindings: tuple[Binding, ...], now: datetime) -> str:
    """Why nothing may ever be sent where these calendars bind; empty if something may."""
    if not bindings:
        return ""
    start = max(now, run.starts_at) if run.starts_at else now
    if walk(bindings, start, 1, cutoff_minutes=run.cutoff_minutes, ends_by=run.ends_by):
        return ""
    names = "”, “".join(binding.name for binding in bindings)
    if run.ends_by and walk(bindings, start, 1, cutoff_minutes=run.cutoff_minutes):
        return f"Held by “{names}” until after the run has to end."
    if run.cutoff_minutes and walk(bindings, start, 1):
        return f"No window of “{names}” is longer than the cut-off of {run.cutoff_minutes} minutes."
    return (
        f"No window of “{names}” opens in sight."
        if any(not each.is_freeze for each in bindings)
        else (f"Frozen by “{names}”, and no end of it is in sight.")
    )


def counted(reasons: Iterable[Assessed]) -> list[dict[str, Any]]:
    """Reasons for which instances are left out, with how many, the most frequent first."""
    counts: dict[str, dict[str, Any]] = {}
    for each in reasons:
        if each.skipped:
            row = counts.setdefault(each.skipped, {"reason": each.skipped, "count": 0, "denied": each.is_denied})
            row["count"] += 1
    return sorted(counts.values(), key=lambda row: (-row["count"], row["reason"]))
