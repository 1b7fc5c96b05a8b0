"""What the pages of roles show: leases with their time line, who has what, rules in use."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.db.models import Count, Q

from fleetops.identity.models import User
from fleetops.inventory.models import Instance, InstanceQuerySet
from fleetops.inventory.selection import select
from fleetops.targets import ExpressionError, parse

from .catalogue.models import Profile
from .models import Holding, Kind, Mode, RoleAttachment, RoleFinding, RoleRule
from .states import AttachmentState, FindingState

HOURS: Final = 8  # that the time line shows
SOON: Final = timedelta(hours=1)
NONE: Final = "none"  # as a filter: no role
HELD: Final = {"lease": "Leased", "permanent": "Attached here for good", "outside": "Changed outside", "other": "Other"}

S = AttachmentState
# Kind of state and word of each.
STATE_WORDS: Final = {
    S.ASKED: ("hold", "Waits for approval"),
    S.PENDING: ("run", "Being put in place"),
    S.ACTIVE: ("ok", "In place"),
    S.ENDING: ("run", "Being taken back"),
    S.ENDED: ("off", "Ended"),
    S.DENIED: ("bad", "Not approved"),
    S.CANCELLED: ("off", "Withdrawn"),
    S.FAILED: ("bad", "Failed"),
    S.CONFLICT: ("warn", "Conflict"),
}
FINDING_WORDS: Final = {
    FindingState.OPEN: ("warn", "Open"),
    FindingState.PUT_BACK: ("ok", "Put back"),
    FindingState.ACCEPTED: ("ok", "Accepted"),
    FindingState.GONE: ("off", "Gone by itself"),
}


def instances(user: User) -> InstanceQuerySet:
    """Those that can have a role: of EC2, and not gone."""
    return Instance.objects.visible_to(user).present().filter(instance_id__startswith="i-")


# --- leases ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class LeaseRow:
    """One lease, or several of one role on one instance, which end with the last of them."""

    lease: RoleAttachment  # the one that ends last
    others: list[RoleAttachment] = field(default_factory=list)
    back: str = ""  # what is put back at the end; "" for none
    width: float = 0.0  # percent of the time line
    is_soon: bool = False
    minutes_left: int = 0
    percent_over: float = 0.0  # of its time

    @property
    def left(self) -> str:
        return length_words(self.minutes_left)

    @property
    def holders(self) -> list[str]:
        return list(dict.fromkeys(each.asked_by_name for each in (self.lease, *self.others)))


def length_words(minutes: int) -> str:
    """ "24 min", "1 h 42 min", "3 d 2 h"."""
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min" if minutes % 60 else f"{minutes // 60} h"
    days, hours = divmod(minutes // 60, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def open_leases(user: User) -> Any:
    """Those that stand or are just being put in place or taken back, in order of their end."""
    found = RoleAttachment.objects.visible_to(user).open().exclude(state=S.ASKED).leases()
    return found.select_related("instance__account", "instance__region", "account", "region").order_by("ends_at", "pk")


def pending(user: User) -> Any:
    """Those that wait for others' approval."""
    found = RoleAttachment.objects.visible_to(user).filter(state=S.ASKED)
    return found.select_related("instance__account", "instance__region", "account", "region", "approval").order_by("pk")


def lease_rows(leases: Iterable[RoleAttachment], *, at: datetime) -> list[LeaseRow]:
    """With what is put back, and where they end on the time line. One query."""
    leases = list(leases)
    bases = dict(
        Holding.objects.filter(instance__in=[each.instance_id for each in leases]).values_list("instance", "base")
    )
    grouped: dict[tuple[Any, ...], list[RoleAttachment]] = defaultdict(list)
    for each in leases:
        own = each.pk if each.kind == Kind.PRIVILEGE or each.state not in {S.ACTIVE, S.PENDING} else None
        grouped[each.instance_id, each.profile_arn, own].append(each)
    rows = []
    for same in grouped.values():
        last = max(same, key=lambda each: each.ends_at)
        left = max(last.ends_at - at, timedelta())
        whole = max(timedelta(minutes=last.minutes or 1), left, timedelta(minutes=1))
        back = (
            last.profile_name if last.kind == Kind.PRIVILEGE else (bases.get(last.instance_id) or "").rpartition("/")[2]
        )
        rows.append(
            LeaseRow(
                last,
                [each for each in same if each is not last],
                back=back,
                width=round(min(100.0, 100 * (left / timedelta(hours=HOURS))), 2),
                is_soon=left <= SOON,
                minutes_left=-(-int(left.total_seconds()) // 60),
                percent_over=round(100 * (1 - left / whole), 1),
            )
        )
    return sorted(rows, key=lambda row: row.lease.ends_at)


def hours(at: datetime) -> list[tuple[float, str]]:
    """The full hours of the time line: percent from its left, and the hour."""
    first = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    found = ((first + timedelta(hours=number)) for number in range(HOURS))
    return [(round(100 * ((each - at) / timedelta(hours=HOURS)), 2), f"{each:%H}") for each in found]


@dataclass(frozen=True, slots=True)
class Day:
    """A day of the calendar of ends."""

    date: Any
    leases: list[RoleAttachment]
    is_today: bool


def calendar(leases: Sequence[RoleAttachment], *, at: datetime, weeks: int = 5) -> list[list[Day]]:
    """Weeks from this one's Monday on, each day with the leases that end on it (UTC)."""
    today = at.astimezone(UTC).date()
    monday = today - timedelta(days=today.weekday())
    by_day: dict[Any, list[RoleAttachment]] = defaultdict(list)
    for each in leases:
        by_day[each.ends_at.astimezone(UTC).date()].append(each)
    return [
        [
            Day(date, by_day.get(date, []), date == today)
            for date in (monday + timedelta(days=7 * week + day) for day in range(7))
        ]
        for week in range(weeks)
    ]


# --- who has what ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Has:
    """One instance profile's name, over all accounts."""

    name: str  # "" for none
    instances: int = 0
    leases: int = 0
    allows: str = ""


def who_has_what(user: User) -> list[Has]:
    """The names with how many instances have them, the most first; at the end those with none. Three queries."""
    found: dict[str, Has] = {}
    counted = instances(user).order_by().values_list("profile_arn").annotate(Count("pk"))
    for arn, count in counted:
        name = arn.rpartition("/")[2]
        found.setdefault(name, Has(name)).instances += count
    leased = open_leases(user).order_by().filter(kind=Kind.PROFILE).values_list("profile_arn").annotate(Count("pk"))
    for arn, count in leased:
        name = arn.rpartition("/")[2]
        found.setdefault(name, Has(name)).leases += count
    said: dict[str, set[str]] = defaultdict(set)
    for name, allows in Profile.objects.filter(name__in=list(found)).values_list("name", "role__allows"):
        said[name].add(allows or "")
    for name, has in found.items():
        has.allows = next(iter(said[name])) if len(said[name]) == 1 else ("differs by account" if said[name] else "")
    return sorted(found.values(), key=lambda has: (not has.name, -has.instances, has.name))


@dataclass(frozen=True, slots=True)
class Row:
    """An instance, and what it has."""

    instance: Instance
    open: list[RoleAttachment]
    finding: RoleFinding | None
    holding: Holding | None
    last: RoleAttachment | None  # the permanent one that stands

    @property
    def words(self) -> tuple[str, str]:
        """Kind of state, and how it came to have that role."""
        if self.finding is not None:
            return "warn", "changed outside FleetOps" if self.finding.rule_id is None else "not what its rule wants"
        if self.holding is not None and self.holding.words and self.holding.failures:
            return "bad", "cannot be changed"
        leases = [each for each in self.open if each.is_lease and each.state != S.ASKED]
        if leases:
            return "run" if any(each.state != S.ACTIVE for each in leases) else "hold", "a lease"
        if self.last is not None:
            return ("ok", "attached here") if self.last.state == S.ACTIVE else ("run", "being attached")
        return ("off", "as it was found") if self.instance.profile_arn else ("bad", "no role: it cannot be reached")


def rows(found: Sequence[Instance]) -> list[Row]:
    """With what is open on each. Three queries, however many."""
    keys = [each.pk for each in found]
    attachments: dict[Any, list[RoleAttachment]] = defaultdict(list)
    for each in RoleAttachment.objects.filter(instance__in=keys).open().order_by("ends_at", "pk"):
        attachments[each.instance_id].append(each)
    findings = {
        each.instance_id: each for each in RoleFinding.objects.filter(instance__in=keys, state=FindingState.OPEN)
    }
    holdings = Holding.objects.in_bulk(keys)
    return [
        Row(
            each,
            attachments[each.pk],
            findings.get(each.pk),
            holdings.get(each.pk),
            next((one for one in attachments[each.pk] if not one.is_lease and one.kind == Kind.PROFILE), None),
        )
        for each in found
    ]


def filtered(user: User, *, text: str, role: str, held: str) -> InstanceQuerySet:
    """Instances by an expression, a role's name (NONE: without one) and how they hold it. Raises ExpressionError."""
    found = instances(user)
    if text.strip():
        found = select(parse(text, words=True), found)
    if role == NONE:
        found = found.filter(profile_arn="")
    elif role:
        found = found.filter(profile_arn__endswith=f"/{role}")
    open_ = RoleAttachment.objects.open().exclude(state=S.ASKED)
    outside = RoleFinding.objects.filter(state=FindingState.OPEN).values("instance")
    if held == "lease":
        found = found.filter(pk__in=open_.filter(minutes__isnull=False).values("instance"))
    elif held == "permanent":
        found = found.filter(pk__in=open_.filter(minutes=None).values("instance"))
    elif held == "outside":
        found = found.filter(pk__in=outside)
    elif held == "other":
        found = found.exclude(pk__in=open_.values("instance")).exclude(pk__in=outside)
    return found


# --- rules -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RuleRow:
    rule: RoleRule
    matching: int | None  # instances; None: its expression cannot be read
    in_use: int  # of these, that have the role

    @property
    def longest(self) -> str:
        if self.rule.mode == Mode.MUST:
            return "always"
        return length_words(self.rule.most_minutes) if self.rule.most_minutes else "permanent"

    @property
    def approval(self) -> str:
        if not self.rule.approvals:
            return "no approval"
        names = [group.name.replace("_", " ") for group in self.rule.approvers.all()]
        return f"{self.rule.approvals} of {' or '.join(names) or 'administrator'}"


def rule_rows(rules: Iterable[RoleRule], user: User) -> list[RuleRow]:
    """Each with how many instances it is for; one query a rule."""
    return [_rule_row(rule, user) for rule in rules]


def _rule_row(rule: RoleRule, user: User) -> RuleRow:
    try:
        found = select(parse(rule.targets), instances(user))
    except ExpressionError:
        return RuleRow(rule, None, 0)
    counted = found.order_by().aggregate(
        matching=Count("pk"), in_use=Count("pk", filter=has_profile(rule.profile_name))
    )
    return RuleRow(rule, counted["matching"], counted["in_use"])


def has_profile(pattern: str) -> Q:
    """Instances whose profile's name is one of those that a rule is for."""
    if pattern == "*":
        return ~Q(profile_arn="")
    if "*" not in pattern:
        return Q(profile_arn__endswith=f"/{pattern}")
    return Q(profile_arn__regex="/" + "[^/]*".join(re.escape(part) for part in pattern.split("*")) + "$")


def findings(user: User) -> Any:
    found = RoleFinding.objects.visible_to(user).filter(state=FindingState.OPEN)
    return found.select_related("instance__account", "instance__region", "account", "region", "rule")


def counts(user: User) -> dict[str, int]:
    """Beside the tabs. Six queries."""
    return {
        "attachments": instances(user).exclude(profile_arn="").count(),
        "leases": open_leases(user).count(),
        "pending": RoleAttachment.objects.visible_to(user).filter(state=S.ASKED).count(),
        "rules": RoleRule.objects.count(),
        "roles": Profile.objects.visible_to(user).count(),
        "findings": RoleFinding.objects.visible_to(user).filter(state=FindingState.OPEN).count(),
    }


def counted(rows: Any, arns: Sequence[str]) -> dict[str, int]:
    """How many of the rows, instances or attachments, have each of these profiles. One query."""
    found = rows.filter(profile_arn__in=arns).order_by().values_list("profile_arn").annotate(Count("pk"))
    return dict(found)
