"""What the governor and our rows know of the API budget, for whoever may see it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from fleetops.aws import governor
from fleetops.aws.errors import Unavailable
from fleetops.clock import real_now
from fleetops.identity.models import User

from . import budget
from .budget import Bucket, Limit
from .models import Account, CallCeiling


@dataclass(slots=True)
class Facts:
    """What the governor and our rows say of the accounts that a user may see."""

    names: dict[str, str]  # of the accounts, by their numbers
    limits: list[Limit]
    buckets: list[Bucket] = field(default_factory=list)
    lessons: Sequence[governor.Lesson] = ()
    away: str = ""  # why the governor tells nothing


def facts_for(user: User) -> Facts:
    """Two queries, and two questions to Valkey."""
    names = dict(Account.objects.visible_to(user).values_list("account_id", "name"))
    rows = CallCeiling.objects.visible_to(user).in_force()
    columns = ("account__account_id", "region", "operation", "per_second", "set_by", "set_at")
    facts = Facts(names, [Limit(*row) for row in rows.values_list(*columns)])
    try:
        uses = governor.use(names, minutes=budget.MINUTES) if names else []
        facts.lessons = governor.lessons(names) if names else []
    except Unavailable as error:
        facts.away = str(error)
        return facts
    # By the system's clock: the governor counts by Valkey's.
    facts.buckets = budget.buckets(uses, names=names, limits=facts.limits, now=real_now())
    return facts
