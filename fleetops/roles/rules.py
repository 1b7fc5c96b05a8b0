"""Which rules hold an instance."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from fleetops.inventory.models import Instance
from fleetops.inventory.selection import facts_of
from fleetops.targets import Expression, ExpressionError, parse

from .decide import RuleFacts
from .models import Mode, RoleRule

logger = logging.getLogger(__name__)

Read = Sequence[tuple[RoleRule, Expression]]


def enabled() -> Read:
    """All rules that are on, with their targets read. Two queries."""
    found = []
    for rule in RoleRule.objects.filter(is_enabled=True).prefetch_related("approvers"):
        try:
            found.append((rule, parse(rule.targets)))
        except ExpressionError:  # written by another version: it allows nothing
            logger.warning("a rule of roles cannot be read any more rule=%s", rule.pk)
    return found


def of(instance: Instance, read: Read) -> list[RuleFacts]:
    """Those that hold the instance, whose account and region should have been loaded with it."""
    facts = facts_of(instance)
    return [facts_of_rule(rule) for rule, targets in read if targets.matches(facts)]


def facts_of_rule(rule: RoleRule) -> RuleFacts:
    return RuleFacts(
        id=str(rule.pk),
        name=rule.name,
        profile=rule.profile_name,
        is_must=rule.mode == Mode.MUST,
        most_minutes=rule.most_minutes,
        allows_privileges=rule.allows_privileges,
        approvals=rule.approvals,
        approvers=tuple(sorted(group.name for group in rule.approvers.all())),
    )
