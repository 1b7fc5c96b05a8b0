"""Who may start a run, who may steer one, and what the policy says of all that it would still do."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from fleetops.audit.record import deny
from fleetops.errors import Denied
from fleetops.identity.models import User
from fleetops.inventory.models import Instance
from fleetops.policy import services as policy
from fleetops.policy.decide import Deed
from fleetops.runcommand import plan as commands
from fleetops.runcommand.models import REVIEW_PERMISSION

from . import health, kinds
from .models import START_PERMISSION, STEER_PERMISSION, GateCheck, Run
from .states import OPEN, GateState, TargetState

_NAMED: Final = 50  # instances that one audit event names
_SET_ASIDE: Final = (GateState.PASSED, GateState.OVERRULED)


def may_steer(run: Run, user: User) -> bool:
    """Whether `user` may do to this run what stands below: their own run, or anybody's with the permission."""
    if run.actor_id == user.pk and user.has_perm(START_PERMISSION):
        return True
    return user.has_perm(STEER_PERMISSION) and Run.objects.visible_to(user).filter(pk=run.pk).exists()


def require(run: Run, actor: User, what: str) -> None:
    """Raises Denied, audited."""
    if may_steer(run, actor):
        return
    reason = f"Only {run.actor_name}, and who holds the permission {STEER_PERMISSION}, may {what} this run."
    deny("rollouts.steer.refuse", actor=actor, target=run, reason=reason, deed=what)
    raise Denied(reason)


def is_other(run: Run, user: User) -> bool:
    """Whether `user` steers runs of others, and this is one."""
    return user.has_perm(STEER_PERMISSION) and run.actor_id != user.pk


def require_other(run: Run, actor: User, what: str) -> None:
    """Of an approval that others were to give: who asked for the run sets it aside as little as they give it.

    Raises Denied, audited.
    """
    if is_other(run, actor):
        return
    reason = f"An approval is pending there: only somebody else than {run.actor_name}, who holds the permission "
    reason += f"{STEER_PERMISSION}, may {what} this run."
    deny("rollouts.steer.refuse", actor=actor, target=run, reason=reason, deed=what)
    raise Denied(reason)


def may_read_parameters(run: Run, user: User) -> bool:
    """Whether `user` may read what documents of the run are given: their own, or with the permission to review."""
    return run.actor_id == user.pk or user.has_perm(REVIEW_PERMISSION)


def require_policy(run: Run, actor: User, what: str) -> None:
    """More is sent by it: the policy has to let `actor` do the run's deed on all that is still to come.

    Raises Denied, audited.
    """
    states = [*OPEN, TargetState.FAILED]
    targets = run.targets.filter(state__in=states, wave__isnull=False).exclude(instance_row=None)
    rows = Instance.objects.filter(pk__in=targets.values("instance_row")).select_related("account", "region")
    if refused := refusals(run, list(rows), actor=actor):
        instance, words = refused[0]
        named = [str(each.instance_id) for each, _ in refused[:_NAMED]]
        deny(
            "rollouts.steer.refuse",
            actor=actor,
            target=run,
            reason=words,
            deed=what,
            instances=named,
            count=len(refused),
        )
        raise Denied(f"You may not {what} this run on {instance}, and {len(refused):,} of its targets in all. {words}")


def refusals(run: Run, instances: Collection[Instance], *, actor: User) -> list[tuple[Instance, str]]:
    """The instances on which the policy does not let `actor` do all that the run does, with its words."""
    kind = kinds.find(run.kind)
    rows = list(instances)
    own = str(run.subject.get("document", ""))
    asked = dict.fromkeys([(kind.deed, own)])
    for step in (*run.steps_before, *run.steps_after, *run.probes):
        asked[Deed.RUN_DOCUMENT.value, str(step.get("document", ""))] = None
    context = policy.context(actor, reason=run.reason)
    found: dict[Any, tuple[Instance, str]] = {}
    for deed, document in asked:
        answers = commands.decisions(actor, rows, document, context=context, deed=deed)
        for each, answer in zip(rows, answers, strict=True):
            if not answer.allowed:
                found.setdefault(each.pk, (each, answer.text))
    for gate in GateCheck.objects.filter(wave__run=run, kind="document").exclude(state__in=_SET_ASIDE):
        document = str(gate.settings.get("document", ""))
        if gate.settings.get("targets"):
            looked_at = health.elsewhere(gate.settings, run.actor)
        else:
            own_rows = run.targets.filter(wave=gate.wave_id).values_list("instance_row", flat=True)
            members = set(own_rows)
            looked_at = [each for each in rows if each.pk in members]
        answers = commands.decisions(actor, looked_at, document, context=context)
        for each, answer in zip(looked_at, answers, strict=True):
            if not answer.allowed:
                found.setdefault(each.pk, (each, f"The health document {document}: {answer.text}"))
    return list(found.values())
