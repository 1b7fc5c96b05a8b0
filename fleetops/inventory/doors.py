"""May somebody open a shell on these instances? What lists and pages show of it; the door itself asks again."""

from collections.abc import Sequence
from uuid import UUID

from django.db.models import Q

from fleetops.identity.models import User
from fleetops.policy import services as policy
from fleetops.policy.decide import Decision, Deed
from fleetops.policy.fleet import Found
from fleetops.targets import Expression

from .models import Instance
from .selection import facts_of, select


def shells(user: User, instances: Sequence[Instance]) -> list[Decision]:
    """The decision for each, in two queries; their accounts and regions should have been loaded with them."""
    targets = [facts_of(instance) for instance in instances]
    return policy.decisions(user, Deed.SHELL, targets, context=policy.context(user)) if targets else []


class PolicyFleet:
    """What the pages of the policy ask of the inventory: see policy/fleet.py."""

    MOST = 8

    def find(self, text: str, user: User) -> list[Found]:
        visible = Instance.objects.visible_to(user).select_related("account", "region").order_by("gone_at", "name")
        text = text.replace("\x00", "").strip()
        exact = visible.filter(Q(instance_id=text) | Q(name=text) | _of_key(text))[: self.MOST]
        rows = list(exact) or list(
            visible.filter(Q(instance_id__icontains=text) | Q(name__icontains=text))[: self.MOST]
        )
        return [Found(facts_of(row), row.get_absolute_url(), str(row.pk)) for row in rows]

    def count(self, expression: Expression, user: User) -> int:
        return select(expression, Instance.objects.visible_to(user).present()).count()


def _of_key(text: str) -> Q:
    try:
        return Q(pk=UUID(text))
    except ValueError:
        return Q()
