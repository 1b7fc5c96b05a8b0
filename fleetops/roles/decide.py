"""Which instance profile an instance should have, and what is to be done about it. From facts alone."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Want:
    """An open attachment of an instance profile with an end."""

    profile: str  # ARN
    asked_at: datetime
    ends_at: datetime


def wanted(base: str, leases: Iterable[Want], *, at: datetime) -> str:
    """The profile that an instance should have at a moment; "" for none.

    Leases of one role hold it until the last of them ends. Leases of two roles at once are refused when they are asked
    for; should two have slipped in, the one that was asked for first keeps its role.
    """
    standing = [lease for lease in leases if lease.ends_at > at]
    return min(standing, key=lambda lease: lease.asked_at).profile if standing else base


class Step(StrEnum):
    SETTLED = "settled"  # AWS holds what it should
    CONFIRMED = "confirmed"  # what we were about to do is done: it is believed now, and looked at again
    ADOPTED = "adopted"  # somebody else did what we wanted
    CHANGE = "change"  # to be brought to what is wanted
    FOREIGN = "foreign"  # somebody else changed it: to be reported, and not touched
    WAIT = "wait"  # reported already; a person decides
    RETURNED = "returned"  # reported, and undone by somebody else since


def step(*, believed: str, wanted: str, intent: str | None, found: str, is_reported: bool) -> Step:
    """What follows from what AWS holds (`found`), what it held when we last looked, and what we were about to do.

    While a change from outside is reported nothing is done: a person says what becomes of it. `believed` is then what
    was there before that change.
    """
    if is_reported:
        return Step.RETURNED if found in {believed, wanted} else Step.WAIT
    if intent is not None and found == intent and intent != believed:
        return Step.CONFIRMED
    if found != believed:
        return Step.ADOPTED if found == wanted else Step.FOREIGN
    return Step.SETTLED if found == wanted else Step.CHANGE


@dataclass(frozen=True, slots=True)
class RuleFacts:
    """A rule that holds an instance, as it decides."""

    id: str
    name: str
    profile: str  # name, with * for any characters
    is_must: bool
    most_minutes: int
    allows_privileges: bool
    approvals: int
    approvers: tuple[str, ...] = ()


def granting(
    rules: Sequence[RuleFacts], profile: str, *, minutes: int | None, privilege: bool = False
) -> RuleFacts | None:
    """The rule by which an instance may have the profile of that name for so long (None: for good); of several the one
    that asks for the fewest approvals, then the first by name. None: no rule allows it.
    """
    found = [
        rule
        for rule in rules
        if matches(rule.profile, profile)
        and (not privilege or rule.allows_privileges)
        and (rule.most_minutes == 0 or (minutes is not None and minutes <= rule.most_minutes))
    ]
    return min(found, key=lambda rule: (rule.approvals, rule.name), default=None)


def matches(pattern: str, name: str) -> bool:
    """Whether an instance profile's name is one of those that a rule is for."""
    return fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))
