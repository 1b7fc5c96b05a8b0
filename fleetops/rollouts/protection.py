"""Cluster rules: made, changed and deleted by people, audited; and how the clusters stand now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Count

from fleetops.audit.record import record
from fleetops.errors import FieldError
from fleetops.identity.models import User
from fleetops.inventory.models import Instance, InstanceTag

from .clusters import fits, name
from .models import ClusterRule, ClusterSlot

PERMISSION = "rollouts.change_clusterrule"
_FIELDS = ("tag", "values", "most_out", "enabled")


def facts(rule: ClusterRule) -> dict[str, Any]:
    return {each: getattr(rule, each) for each in _FIELDS}


def create(*, actor: User, **fields: Any) -> ClusterRule:
    """Make a rule; it holds from the next look of every run on. Raises UserError if there is one for these already."""
    rule = ClusterRule(**fields)
    with _once(), transaction.atomic():
        rule.save(force_insert=True)
        record("rollouts.cluster.create", actor=actor, target=rule, after=facts(rule))
    return rule


def change(rule: ClusterRule, *, actor: User, **fields: Any) -> None:
    """Raises UserError if there is one for these already."""
    with _once(), transaction.atomic():
        held = ClusterRule.objects.select_for_update().get(pk=rule.pk)
        before = facts(held)
        for key, value in fields.items():
            setattr(held, key, value)
        held.save(update_fields=list(fields))
        after = facts(held)
        changed = [key for key in after if after[key] != before[key]]
        if changed:
            record(
                "rollouts.cluster.change",
                actor=actor,
                target=held,
                before={key: before[key] for key in changed},
                after={key: after[key] for key in changed},
            )


def delete(rule: ClusterRule, *, actor: User) -> None:
    with transaction.atomic():
        record("rollouts.cluster.delete", actor=actor, target=rule, before=facts(rule))
        rule.delete()


@contextmanager
def _once() -> Iterator[None]:
    """Tell a rule that is there already in words."""
    try:
        yield
    except IntegrityError:
        raise FieldError("values", "There is a rule for this tag and these values already; change that one.") from None


@dataclass(frozen=True, slots=True)
class Standing:
    """How the clusters of one rule stand now, of the instances that the person may see."""

    clusters: int  # of at least one member
    members: int
    largest: int
    out: int  # members that are away, or taken out by a run
    full: int  # clusters that let nobody go now


def standing(rules: list[ClusterRule], user: User) -> dict[Any, Standing]:
    """By rule. Four queries, however many there are."""
    tags = {each.tag for each in rules}
    seen = Instance.objects.visible_to(user).present()
    rows = InstanceTag.objects.filter(instance__in=seen, key__in=tags).exclude(value="").order_by()
    groups = ("instance__account__account_id", "key", "value")
    sizes = {tuple(row[:3]): row[3] for row in rows.values_list(*groups).annotate(Count("pk"))}
    away = rows.exclude(instance__ping_status="Online", instance__ec2_state__in=["", "running"])
    gone = {tuple(row[:3]): row[3] for row in away.values_list(*groups).annotate(Count("pk"))}
    slots = Counter(dict(ClusterSlot.objects.order_by().values_list("cluster").annotate(Count("pk"))))
    found = {}
    for rule in rules:
        mine = {key: count for key, count in sizes.items() if key[1] == rule.tag and fits(rule.values, key[2])}
        out = {key: gone.get(key, 0) + slots[name(*key)] for key in mine}
        found[rule.pk] = Standing(
            clusters=len(mine),
            members=sum(mine.values()),
            largest=max(mine.values(), default=0),
            out=sum(out.values()),
            full=sum(count >= rule.most_out for count in out.values()),
        )
    return found
