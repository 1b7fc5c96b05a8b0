"""What pages, API and CLI show of groups and closings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from django.db.models import Prefetch, QuerySet

from fleetops.aws.security_groups import InboundRule
from fleetops.identity.models import User
from fleetops.inventory.models import Instance

from . import grades
from .grades import Grade
from .models import Closing, Group
from .states import ClosingState

# Kind of state and word of each.
GRADE_WORDS: Final = {
    Grade.WORLD: ("bad", "The world"),
    Grade.PUBLIC: ("warn", "Public addresses"),
    Grade.PREFIX_LIST: ("warn", "Prefix list"),
    Grade.PRIVATE: ("off", "Private addresses"),
    Grade.GROUP: ("off", "A security group"),
}
STATE_WORDS: Final = {
    ClosingState.CLOSING: ("run", "Being closed"),
    ClosingState.CLOSED: ("ok", "Closed"),
    ClosingState.REOPENING: ("run", "Being opened again"),
    ClosingState.OPEN: ("warn", "Open again"),
    ClosingState.FAILED: ("bad", "Not closed"),
}


@dataclass(frozen=True, slots=True)
class RuleRow:
    """One rule, in words."""

    rule_id: str
    opens: str
    to: str
    kind: str
    word: str
    description: str
    is_wider: bool


@dataclass(frozen=True, slots=True)
class GroupRow:
    group: Group
    rules: tuple[RuleRow, ...]
    instances: tuple[Instance, ...]
    locked_out: tuple[Instance, ...]

    @property
    def warnings(self) -> list[str]:
        """What would be lost, and for whom."""
        found = []
        if self.locked_out:
            names = ", ".join(str(each) for each in self.locked_out[:10])
            more = f" and {len(self.locked_out) - 10} more" if len(self.locked_out) > 10 else ""
            found.append(
                f"Session Manager does not reach {names}{more}: without SSH or RDP nobody may reach "
                f"{'it' if len(self.locked_out) == 1 else 'them'} at all."
            )
        if any(rule.is_wider for rule in self.rules):
            found.append("A rule opens more than SSH and RDP: closing it takes all of that away.")
        if others := self.group.others:
            kinds = ", ".join(sorted({each["kind"].replace("_", " ") or "interface" for each in others}))
            many = "1 other interface has" if len(others) == 1 else f"{len(others)} other interfaces have"
            found.append(f"{many} this group too ({kinds}).")
        return found


def rule_row(rule: InboundRule) -> RuleRow:
    kind, word = GRADE_WORDS[grades.grade(rule)]
    opens, source = grades.opens(rule), grades.source(rule)
    return RuleRow(rule.rule_id, opens, source, kind, word, rule.description, grades.is_wider(rule))


def groups(user: User, *, account: str = "", grade: str = "") -> QuerySet[Group]:
    """Those that `user` may see, the worst first, with all that a row shows. Three queries once it is read."""
    found = Group.objects.visible_to(user).select_related("account", "region")
    if account:
        found = found.filter(account__account_id=account)
    if grade in set(Grade):
        found = found.filter(rank=grades.RANKS[Grade(grade)])
    members = Instance.objects.visible_to(user).present().order_by("name", "instance_id")
    return found.prefetch_related(Prefetch("instances", members))


def rows(found: Iterable[Group]) -> list[GroupRow]:
    made = []
    for group in found:
        instances = tuple(group.instances.all())
        out = tuple(each for each in instances if each.ping_status != "Online")
        made.append(GroupRow(group, tuple(map(rule_row, group.inbound())), instances, out))
    return made


def closings(user: User) -> QuerySet[Closing]:
    return Closing.objects.visible_to(user).select_related("account", "region")


def closing_row(closing: Closing) -> dict[str, Any]:
    kind, word = STATE_WORDS[ClosingState(closing.state)]
    return {"closing": closing, "kind": kind, "word": word, "rules": [rule_row(rule) for rule in closing.inbound()]}
