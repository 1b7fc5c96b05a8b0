"""An emergency planned and released: which nodes, which lists, which runs."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from django.conf import settings
from django.db import transaction

from fleetops.audit.record import deny, record
from fleetops.calendars.gate import gate
from fleetops.clock import now as clock_now
from fleetops.errors import Denied, FieldError, UserError
from fleetops.identity.models import User
from fleetops.inventory.models import Account, Region
from fleetops.policy import services as policy
from fleetops.rollouts import assess, limits, plan, steering
from fleetops.rollouts.assess import Assessed, ReasonMissing
from fleetops.rollouts.models import START_PERMISSION, Run
from fleetops.rollouts.states import RunState
from fleetops.targets import MOST_CONDITIONS, all_of, comparison
from patching import lists, pinned
from patching.families import OPERATING_SYSTEMS
from patching.pinned import Entry
from patching.verdict import IF_NEEDED, INSTALL, NO_REBOOT

from . import choose, found
from .choose import Candidate, Fix
from .found import Affected, Node
from .marks import Mark
from .models import Emergency, EmergencyTarget

logger = logging.getLogger(__name__)

KEPT: Final = timedelta(days=7)  # a plan that nobody starts, as rollouts keep theirs
MOST_SOAK: Final = 24 * 60
_NAMED: Final = 50  # instances that one audit event names
_MOST_IDS: Final = 150  # that one target expression has room for
_PLACEHOLDER: Final = "not said yet"  # a page shows who could be patched before anybody has said why


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person asks for."""

    what: str
    name: str
    scope: str = ""  # a target expression; empty: all that they see
    data: str | None = None  # an expression: what holds data; none: the setting's
    left_out: Collection[str] = ()  # keys of nodes
    without_replaceable: bool = False
    spread: str = "once"
    budget: str = "10%"  # of each run; the canary bears no failure
    soak_minutes: int = 5  # of the canary
    reboot_option: str = IF_NEEDED
    reason: str = ""

    @property
    def data_expression(self) -> str:
        return settings.EMERGENCY_DATA if self.data is None else self.data


@dataclass(frozen=True, slots=True)
class Choice:
    """One affected node, and what could be done with it."""

    node: Node
    problem: str = ""  # why it cannot be patched now
    is_denied: bool = False
    minutes: float = 0.0
    held: str = ""  # by a freeze or window, as it is now: it waits for its end

    @property
    def key(self) -> str:
        return str(self.node.instance.pk)

    @property
    def is_fit(self) -> bool:
        return not self.problem


@dataclass(slots=True)
class Picture:
    """What is known before a plan is made."""

    affected: Affected
    choices: list[Choice]
    wants_reason: bool = False  # the policy lets whoever says why
    fit: list[Choice] = field(default_factory=list)

    def counts(self) -> dict[Mark, int]:
        return {each: sum(choice.node.marked.mark is each for choice in self.choices) for each in Mark}


def look(user: User, asked: Asked) -> Picture:
    """Which nodes it affects, and which of them could be patched. Raises UserError."""
    affected = found.affected(user, asked.what, asked.name, scope=asked.scope, data=asked.data_expression)
    picture = Picture(affected, [])
    able = [each for each in affected.nodes if not each.problem]
    assessed, picture.wants_reason = _assessed(user, able, asked)
    by_key = {each.instance.pk: each for each in assessed}
    moment = clock_now()
    gates: dict[Any, str] = {}
    for node in affected.nodes:
        each = by_key.get(node.instance.pk)
        if each is None:
            picture.choices.append(Choice(node, node.problem))
            continue
        if each.bindings and each.bindings not in gates:
            holds = gate(each.bindings, moment).holds
            gates[each.bindings] = str(holds[0]) if holds else ""
        held = gates.get(each.bindings, "")
        picture.choices.append(Choice(node, each.skipped, each.is_denied, each.minutes, held))
    picture.fit = [each for each in picture.choices if each.is_fit]
    return picture


def _assessed(user: User, nodes: Sequence[Node], asked: Asked) -> tuple[list[Assessed], bool]:
    """What a run says of each; and whether it wants to know why."""
    if not nodes:
        return [], False
    subject = {"operation": INSTALL, "reboot_option": asked.reboot_option}
    run = Run(kind="patch", subject=subject)
    instances = [each.instance for each in nodes]

    def ask(reason: str) -> list[Assessed]:
        context = policy.context(user, reason=reason)
        return assess.assess(run, instances, actor=user, context=context, now=clock_now())

    try:
        return ask(asked.reason), False
    except ReasonMissing:
        return ask(_PLACEHOLDER), True


# --- the plan --------------------------------------------------------------------------------------------------------


def make(user: User, asked: Asked) -> Emergency:
    """Plan it: an emergency with a run for each list of patches; nothing is sent.

    Raises UserError for what cannot be, in words; Denied, audited, where the policy lets the person patch none of the
    nodes; AwsError if a list cannot be put where nodes read it.
    """
    _check(asked)
    picture = look(user, asked)
    if picture.wants_reason and not asked.reason.strip():
        raise FieldError("reason", "A rule of the access policy wants to know why. Say so in a few words.")
    _require_some(user, picture)
    left_out = set(asked.left_out)
    chosen, out = [], {}
    for each in picture.fit:
        if each.key in left_out:
            out[each.key] = f"Left out by {user.username}."
        elif asked.without_replaceable and each.node.marked.mark is Mark.REPLACEABLE:
            out[each.key] = f"To be replaced by its Auto Scaling group {each.node.marked.group}."
        else:
            chosen.append(each)
    if not chosen:
        raise UserError("All nodes that could be patched are left out. Choose at least one.")
    needs = [need for each in chosen for need in each.node.needs]
    made = choose.fixes(needs)
    by_key = {each.node.instance.pk: each for each in chosen}
    addresses = {fix.key: _put(fix, by_key, user) for fix in made}
    with transaction.atomic():
        emergency = _write(user, asked, picture, made, addresses, by_key, out)
        for fix in made:
            _plan(emergency, fix, addresses[fix.key], [by_key[key] for key in fix.nodes], asked, user)
        record(
            "patching.emergency.plan",
            actor=user,
            target=emergency,
            reason=emergency.reason,
            affected=len(picture.choices),
            nodes=len(chosen),
            runs=len(made),
            lists=[fix["digest"] for fix in emergency.fixes],
        )
    _drop_old(user)
    logger.info("emergency planned emergency=%s nodes=%d runs=%d user=%s", emergency.pk, len(chosen), len(made), user)
    return emergency


def _check(asked: Asked) -> None:
    if asked.spread not in choose.SPREADS:
        raise FieldError("spread", f"Choose one of {', '.join(choose.SPREADS)}.")
    if asked.reboot_option not in {IF_NEEDED, NO_REBOOT}:
        raise FieldError("reboot_option", f"Choose {IF_NEEDED} or {NO_REBOOT}.")
    if not 0 <= asked.soak_minutes <= MOST_SOAK:
        raise FieldError("soak_minutes", f"The canary soaks for 0 to {MOST_SOAK:,} minutes.")
    try:
        limits.parse(asked.budget, what="The error budget")
    except UserError as error:
        raise FieldError("budget", str(error)) from None


def _require_some(user: User, picture: Picture) -> None:
    """Raises UserError where there is nobody to patch; Denied, audited, where the policy says no to all."""
    affected = picture.affected
    if not affected.nodes:
        raise UserError(nobody(affected))
    if picture.fit:
        return
    if denied := [each for each in picture.choices if each.is_denied]:
        named = [each.node.instance.instance_id for each in denied[:_NAMED]]
        deny(
            "patching.emergency.refuse",
            actor=user,
            reason=denied[0].problem,
            name=affected.name,
            instances=named,
            count=len(denied),
        )
        raise Denied(f"You may patch none of the {len(denied):,} nodes that it affects. {denied[0].problem}")
    if any(each.node.problem for each in picture.choices) and not any(each.node.needs for each in picture.choices):
        raise UserError(f"Nothing that is known fixes it on these nodes. {picture.choices[0].problem}")
    raise UserError(f"None of the nodes that it affects can be patched now. {picture.choices[0].problem}")


def nobody(affected: Affected) -> str:
    """Why no node is affected, as far as that is known."""
    if not affected.is_known:
        where = "no report of a node and none of AWS's lists of patches names it"
        words = f"Nothing here knows {affected.name}: {where}."
    else:
        has = (
            f" {affected.have:,} {'node has' if affected.have == 1 else 'nodes have'} its patch."
            if affected.have
            else ""
        )
        words = f"{affected.name} is known, and affects no node that you see.{has}"
    if affected.never:
        words += f" {affected.never:,} {'was' if affected.never == 1 else 'were'} never scanned: scan them first."
    if affected.silent:
        words += (
            f" {affected.silent:,} run Debian or Ubuntu, whose reports name no CVEs: choose the package there instead."
        )
    return words


def _put(fix: Fix, by_key: Mapping[Any, Choice], user: User) -> dict[str, str]:
    """The address of a list in each account and region of its nodes. Raises UserError, AwsError."""
    text = pinned.render([Entry(*each) for each in fix.entries])
    places: dict[str, tuple[Account, Region]] = {}
    for key in fix.nodes:
        instance = by_key[key].node.instance
        places[f"{instance.account.account_id}/{instance.region.name}"] = (instance.account, instance.region)
    return {
        place: lists.put(account, region.name, text, session_name=user.username)
        for place, (account, region) in sorted(places.items())
    }


def _write(
    user: User,
    asked: Asked,
    picture: Picture,
    made: Sequence[Fix],
    addresses: Mapping[str, Mapping[str, str]],
    by_key: Mapping[Any, Choice],
    out: Mapping[str, str],
) -> Emergency:
    fixes = []
    for fix in made:
        canary, why = _canary([by_key[key] for key in fix.nodes])
        entries = [Entry(*each) for each in fix.entries]
        fixes.append(
            {
                "key": fix.key,
                "systems": list(fix.systems),
                "label": label_of(fix),
                "entries": [{"id": each.id, "title": each.title} for each in entries],
                "digest": pinned.digest_of(entries),
                "nodes": len(fix.nodes),
                "canary": canary.node.instance.instance_id,
                "canary_name": str(canary.node.instance),
                "why": why,
                "lists": dict(addresses[fix.key]),
                "notes": list(fix.notes),
            }
        )
    emergency = Emergency.objects.create(
        what=picture.affected.what,
        name=picture.affected.name,
        reason=" ".join("".join(each if each.isprintable() else " " for each in asked.reason).split())[:256],
        asked={
            "scope": asked.scope,
            "data": asked.data_expression,
            "spread": asked.spread,
            "budget": asked.budget,
            "soak_minutes": asked.soak_minutes,
            "reboot_option": asked.reboot_option,
        },
        fixes=fixes,
        actor=user,
        actor_name=user.username,
    )
    fix_of = {key: fix.key for fix in made for key in fix.nodes}
    EmergencyTarget.objects.bulk_create(
        [
            EmergencyTarget(
                emergency=emergency,
                instance=each.node.instance,
                account=each.node.instance.account,
                region=each.node.instance.region,
                fix=fix_of.get(each.node.instance.pk, ""),
                is_chosen=each.node.instance.pk in fix_of,
                reason=(each.problem or out.get(each.key, ""))[:512],
                mark=each.node.marked.mark.value,
                patches=[list(patch) for patch in each.node.patches],
            )
            for each in picture.choices
        ],
        batch_size=500,
    )
    return emergency


def label_of(fix: Fix) -> str:
    names = " and ".join(OPERATING_SYSTEMS.get(each, each) for each in fix.systems)
    return f"{names} {', '.join(fix.versions)}".strip()


def _canary(choices: Sequence[Choice]) -> tuple[Choice, str]:
    first, why = choose.canary(
        [
            Candidate(each.key, str(each.node.instance), each.node.marked.mark, each.minutes, bool(each.held))
            for each in choices
        ]
    )
    return next(each for each in choices if each.key == first.key), why


def _plan(
    emergency: Emergency,
    fix: Fix,
    addresses: Mapping[str, str],
    choices: Sequence[Choice],
    asked: Asked,
    user: User,
) -> Run:
    canary, _ = _canary(choices)
    facts = canary.node.facts
    first = all_of(
        comparison("id", facts.instance_id),
        comparison("account", facts.account_id),
        comparison("region", facts.region),
    )
    label = label_of(fix)
    wanted = plan.Wanted(
        kind="patch",
        subject={
            "operation": INSTALL,
            "reboot_option": asked.reboot_option,
            "lists": dict(addresses),
            "emergency": str(emergency.pk),
            "fix": fix.key,
        },
        targets=_targets(choices, asked),
        name=f"{emergency.name}: {label}",
        waves=choose.wave_rules(asked.spread, str(first), nodes=len(choices), soak_minutes=asked.soak_minutes),
        concurrency="100%",
        budget=asked.budget,
        reason=asked.reason,
    )
    return plan.make(wanted, actor=user)


def _targets(choices: Sequence[Choice], asked: Asked) -> str:
    """The nodes by their ids, or what they were chosen from where there are too many; the kind cuts it down to them."""
    ids = sorted({each.node.facts.instance_id for each in choices})
    text = str(comparison("id", *ids))
    if len(ids) <= min(_MOST_IDS, MOST_CONDITIONS) and len(text) <= 4000:
        return text
    return asked.scope.strip() or "all"


def _drop_old(user: User) -> None:
    """Plans of one's own that nobody started; their runs are dropped by themselves."""
    Emergency.objects.filter(actor=user, began_at=None, made_at__lt=clock_now() - KEPT).delete()


# --- release ---------------------------------------------------------------------------------------------------------


def release(emergency: Emergency, *, actor: User, plan_hashes: Mapping[str, str], gone: list[Run]) -> None:
    """Let its plans go that have not been yet; `plan_hashes`: by the run's key what the person saw.

    Those that went are added to `gone`, also if another cannot.

    Raises Denied, audited; UserError, which says how many went, if one of them cannot.
    """
    if emergency.actor_id != actor.pk:
        deny("patching.emergency.refuse", actor=actor, target=emergency, reason="somebody else's plan")
        raise Denied("Somebody else made this plan; make one of your own.")
    if not actor.has_perm(START_PERMISSION):
        deny("patching.emergency.refuse", actor=actor, target=emergency, reason="may not start runs")
        raise Denied(f"Your roles do not hold the permission {START_PERMISSION}.")
    drafts = list(emergency.runs().filter(state=RunState.DRAFT, actor=actor))
    if not drafts:
        raise UserError("All of its runs have been started already." if emergency.began_at else "Its plan is gone.")
    if any(str(run.pk) not in plan_hashes for run in drafts):
        raise UserError("It has another run by now than you looked at. Look at the plan again.")
    for run in drafts:
        try:
            steering.release(run, actor=actor, plan_hash=plan_hashes[str(run.pk)])
        except UserError as error:
            if not gone:
                raise
            raise UserError(f"{len(gone)} of {len(drafts)} runs were started; {run} was not. {error}") from None
        gone.append(run)
        if emergency.began_at is None:
            _begin(emergency, actor)


def ask_overrides(runs: Sequence[Run], *, actor: User, reason: str) -> int:
    """Ask others to let the runs through freezes that a freeze holds now; how many. Raises UserError."""
    held = [run for run in runs if any(each["is_freeze"] and not each["is_open"] for each in run.plan["calendars"])]
    for run in held:
        steering.ask_override(run, actor=actor, reason=reason)
    return len(held)


def discard(emergency: Emergency, *, actor: User) -> None:
    """Delete a plan that was not started, with its runs' plans. Raises UserError."""
    if emergency.began_at is not None:
        raise UserError("It has been started already; abort its runs instead.")
    with transaction.atomic():
        for run in emergency.runs().filter(state=RunState.DRAFT):
            plan.discard(run, actor=actor)
        record("patching.emergency.discard", actor=actor, target=emergency)
        emergency.delete()


def _begin(emergency: Emergency, actor: User) -> None:
    with transaction.atomic():
        moment = clock_now()
        if Emergency.objects.filter(pk=emergency.pk, began_at=None).update(began_at=moment):
            record("patching.emergency.release", actor=actor, target=emergency, reason=emergency.reason)
        emergency.refresh_from_db(fields=["began_at"])
