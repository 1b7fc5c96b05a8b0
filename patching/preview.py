"""Which patches a baseline approves. Pure: `decide` is AWS's order of deciding, over patches that are known.

A rejected patch is rejected whatever else is said of it; one in the approved list is approved even if the global
filters leave it out; else one rule that approves is enough. Of all that approve it the gravest level counts. Sources:
Systems Manager user guide, "How patch baseline rules work on Linux-based systems" and "Release dates"; SSM, PatchRule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any

from .content import ANY, LEVELS, Content, Filter, Rule
from .families import Family, family_of

SECURITY_CLASSES = frozenset({"security", "securityupdates"})
# Whose repositories hold more than security updates.
_WITH_NON_SECURITY = frozenset({Family.RPM, Family.APT, Family.SUSE})


class Answer(StrEnum):
    APPROVED = "approved"
    WAITING = "waiting"  # by a rule, from a moment on
    REJECTED = "rejected"
    LEFT_OUT = "left out"  # no rule is about it


@dataclass(frozen=True, slots=True)
class Patch:
    """One patch that there is, as far as AWS tells of it."""

    name: str  # of the package; on Windows KB…
    version: str = ""
    release: str = ""
    epoch: str = ""
    arch: str = ""
    product: str = ""
    product_family: str = ""
    patch_set: str = "OS"
    classification: str = ""
    severity: str = ""  # on Debian and Ubuntu the priority
    section: str = ""
    released_at: datetime | None = None  # or last updated; None where nobody knows
    advisory_ids: tuple[str, ...] = ()
    cves: tuple[str, ...] = ()
    bugzilla_ids: tuple[str, ...] = ()

    @property
    def full_version(self) -> str:
        return f"{self.version}-{self.release}" if self.release else self.version

    @property
    def title(self) -> str:
        return f"{self.name} {self.full_version}".strip()

    @property
    def key(self) -> str:
        """One patch, whichever of AWS's calls told of it."""
        return f"{self.name}|{self.full_version}" if self.full_version else self.name

    def to_json(self) -> dict[str, Any]:
        """Without what is empty."""
        told = {name: value for name, value in asdict(self).items() if value}
        if self.released_at is not None:
            told["released_at"] = self.released_at.isoformat()
        return told

    @classmethod
    def of_json(cls, told: Mapping[str, Any]) -> Patch:
        given = dict(told)
        if given.get("released_at"):
            given["released_at"] = datetime.fromisoformat(given["released_at"])
        for name in ("advisory_ids", "cves", "bugzilla_ids"):
            given[name] = tuple(given.get(name, ()))
        return cls(**given)


@dataclass(frozen=True, slots=True)
class Decision:
    answer: Answer
    level: str = "UNSPECIFIED"
    from_at: datetime | None = None  # of one that waits: when it will be approved
    by: str = ""  # "rule 2", "the approved list", "the rejected list"

    @property
    def is_approved(self) -> bool:
        return self.answer == Answer.APPROVED


def decide(content: Content, patch: Patch, *, now: datetime) -> Decision:
    """What a baseline says of a patch at `now`."""
    family = family_of(content.operating_system)
    is_security = _is_security(patch, family)
    if is_listed(content.rejected, patch, family):
        return Decision(Answer.REJECTED, by="the rejected list")
    may_be_listed = is_security or content.approved_non_security or family not in _WITH_NON_SECURITY
    is_approved = may_be_listed and is_listed(content.approved, patch, family)
    approving: list[tuple[Rule, int]] = []
    waiting: list[tuple[datetime, Rule, int]] = []
    if all(holds(each, patch) for each in content.global_filters):
        for number, rule in enumerate(content.rules, 1):
            since = approval(rule, patch) if selects(rule, patch, family, is_security) else None
            if since == AT_ONCE or (since is not None and since <= now):
                approving.append((rule, number))
            elif since is not None:
                waiting.append((since, rule, number))
    if is_approved:
        level = min([content.approved_level, *(rule.level for rule, _ in approving)], key=LEVELS.index)
        return Decision(Answer.APPROVED, level, by="the approved list")
    if approving:
        rule, number = min(approving, key=lambda each: (LEVELS.index(each[0].level), each[1]))
        return Decision(Answer.APPROVED, rule.level, by=f"rule {number}")
    if waiting:
        soonest = min(since for since, _, _ in waiting)
        first = [(rule, number) for since, rule, number in waiting if since == soonest]
        rule, number = min(first, key=lambda each: (LEVELS.index(each[0].level), each[1]))
        return Decision(Answer.WAITING, rule.level, soonest, by=f"rule {number}")
    return Decision(Answer.LEFT_OUT)


def _is_security(patch: Patch, family: Family) -> bool:
    """Whether it comes without "also what is no security update": rpm: a notice lists it; apt: out of security's."""
    if family in {Family.RPM, Family.SUSE}:
        return bool(patch.classification)  # which the notice says
    return family != Family.APT or patch.classification.casefold() in SECURITY_CLASSES


AT_ONCE = datetime(1970, 1, 1, tzinfo=UTC)


def approval(rule: Rule, patch: Patch) -> datetime | None:
    """Since when a rule that is about a patch approves it; None for never. Without a date the delay is none.

    A date that is none approves nothing: `sound` tells of it.
    """
    if patch.released_at is None:
        return AT_ONCE
    if rule.approve_until:
        try:
            last = date.fromisoformat(rule.approve_until)
        except ValueError:
            return None
        return patch.released_at if patch.released_at.astimezone(UTC).date() <= last else None
    if rule.approve_after_days is None:
        return AT_ONCE
    return patch.released_at + timedelta(days=rule.approve_after_days)


def selects(rule: Rule, patch: Patch, family: Family, is_security: bool) -> bool:
    """Whether a rule is about a patch, whenever it approves it."""
    if not is_security and not rule.non_security and family in _WITH_NON_SECURITY:
        return False
    if patch.patch_set != "OS" and not rule.values("PATCH_SET"):
        return False  # who says nothing of Windows' applications means the operating system alone
    return all(holds(each, patch) for each in rule.filters)


_MEMBERS: dict[str, Callable[[Patch], tuple[str, ...]]] = {
    "PRODUCT": lambda patch: (patch.product,),
    "PRODUCT_FAMILY": lambda patch: (patch.product_family,),
    "PATCH_SET": lambda patch: (patch.patch_set,),
    "CLASSIFICATION": lambda patch: (patch.classification,),
    "SEVERITY": lambda patch: (patch.severity,),
    "MSRC_SEVERITY": lambda patch: (patch.severity,),
    "PRIORITY": lambda patch: (patch.severity,),
    "SECTION": lambda patch: (patch.section,),
    "NAME": lambda patch: (patch.name,),
    "PATCH_ID": lambda patch: (patch.name,),
    "EPOCH": lambda patch: (patch.epoch or "0",),
    "VERSION": lambda patch: (patch.version,),
    "RELEASE": lambda patch: (patch.release,),
    "ARCH": lambda patch: (patch.arch,),
    "ADVISORY_ID": lambda patch: patch.advisory_ids,
    "CVE_ID": lambda patch: patch.cves,
    "BUGZILLA_ID": lambda patch: patch.bugzilla_ids,
}


def holds(wanted: Filter, patch: Patch) -> bool:
    """Whether a patch has one of a filter's values, in any case of letters; `*` is any."""
    if ANY in wanted.values:
        return True
    members = _MEMBERS.get(wanted.key)
    had = {_plain(value) for value in members(patch)} if members is not None else set()
    return any(_plain(value) in had for value in wanted.values)


def _plain(value: str) -> str:
    # AWS takes "AmazonLinux2" and "AmazonLinux2.0" for one.
    return (value.removesuffix(".0") if value.startswith("AmazonLinux") else value).casefold()


def is_listed(entries: Iterable[str], patch: Patch, family: Family) -> bool:
    """Whether an approved or rejected list names a patch, in the formats of its family."""
    entries = tuple(entries)
    if not entries:
        return False
    names = set(_names(patch, family))
    return any(entry in names or ("*" in entry and any(_glob(entry).fullmatch(n) for n in names)) for entry in entries)


def _names(patch: Patch, family: Family) -> Iterable[str]:
    """All that a list may call a patch [user guide, as in formats.py]."""
    name, arch, version, full = patch.name, patch.arch, patch.version, patch.full_version
    yield name
    if family == Family.APT:
        return
    yield from patch.advisory_ids
    if family == Family.WINDOWS:
        return
    if family == Family.MACOS:
        yield f"{name}-{version}"
        return
    if family == Family.RPM:
        yield from patch.cves
        yield from patch.bugzilla_ids
    yield from (f"{name}.{arch}", f"{name}-{version}", f"{name}-{full}", f"{name}-{full}.{arch}")
    if family == Family.SUSE:
        yield f"{name}-{full}.{arch}.rpm"
        return
    epoch = patch.epoch or "0"
    yield from (version, full, f"{epoch}:{full}", f"{name}-{epoch}:{full}", f"{name}-{epoch}:{full}.{arch}")
    yield from (f"{epoch}:{name}-{full}.{arch}", f"{name}.{arch}:{epoch}:{full}")


@lru_cache(maxsize=1024)
def _glob(entry: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in entry.split("*")), re.DOTALL)


# --- two baselines over all that is known ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """A patch of which the new baseline says something else than the old one."""

    patch: Patch
    before: Decision
    after: Decision
    needed_on: int = 0  # nodes of those that were asked
    installed_on: int = 0


@dataclass(slots=True)
class Difference:
    """What changes with a baseline, over the patches that are known."""

    known: int = 0
    approved_before: int = 0
    approved: int = 0
    waiting: int = 0
    rejected: int = 0
    undated: int = 0  # of the approved ones: nobody knows their date, so that no delay was counted
    newly_approved: list[Row] = field(default_factory=list)
    no_longer: list[Row] = field(default_factory=list)
    nodes: int = 0  # that were asked
    fall_out: list[str] = field(default_factory=list)  # ids of those that comply, and would come to miss something


def older_on(patch: Patch, nodes: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Which of `nodes` (see `compare`) lack a patch, or have its package since before it was released."""
    found = []
    for node, held in nodes.items():
        if (value := held.get(patch.key)) is not None:
            found += [node] if _state(value) in _NEEDED else []
            continue
        since = held.get(patch.name, "").partition("@")[2]
        if since and patch.released_at is not None and datetime.fromisoformat(since) < patch.released_at:
            found.append(node)
    return found


# States as DescribeInstancePatches spells them.
_INSTALLED = {"INSTALLED", "INSTALLED_OTHER", "INSTALLED_PENDING_REBOOT"}
_NEEDED = {"MISSING", "FAILED", "AVAILABLE_SECURITY_UPDATE"}
_NON_COMPLIANT = {"MISSING", "FAILED", "INSTALLED_REJECTED", "INSTALLED_PENDING_REBOOT"}


def compare(
    old: Content | None,
    new: Content,
    patches: Sequence[Patch],
    nodes: Mapping[str, Mapping[str, str]],
    *,
    now: datetime,
) -> Difference:
    """What `new` approves and `old` does not, and the other way round.

    `nodes`: states by "package|version" and by package (or article), of each node that was asked; after an @ since when
    it is there, where that is known.
    """
    found = Difference(known=len(patches), nodes=len(nodes))
    nothing = Decision(Answer.LEFT_OUT)
    decided = [
        (patch, decide(old, patch, now=now) if old is not None else nothing, decide(new, patch, now=now))
        for patch in patches
    ]
    # Of several versions of a package the newest that is approved is what a node gets.
    newest_before = _newest(patch for patch, before, _ in decided if before.is_approved)
    newest_after = _newest(patch for patch, _, after in decided if after.is_approved)
    falling: set[str] = set()
    for patch, before, after in decided:
        found.approved += after.is_approved
        found.approved_before += before.is_approved
        found.waiting += after.answer == Answer.WAITING
        found.rejected += after.answer == Answer.REJECTED
        found.undated += after.is_approved and patch.released_at is None
        if before.is_approved == after.is_approved:
            continue
        newest = newest_after if after.is_approved else newest_before
        is_newest = newest.get(patch.name) is patch
        needing = [node for node, held in nodes.items() if _needs(held, patch, is_newest=is_newest)]
        installed = sum(_state(held.get(patch.key, "")) in _INSTALLED for held in nodes.values())
        row = Row(patch, before, after, len(needing), installed)
        if after.is_approved:
            found.newly_approved.append(row)
            falling.update(needing)
        else:
            found.no_longer.append(row)
    found.fall_out = sorted(
        node for node in falling if not _NON_COMPLIANT.intersection(map(_state, nodes[node].values()))
    )
    found.newly_approved.sort(key=_order)
    found.no_longer.sort(key=_order)
    return found


def _newest(patches: Iterable[Patch]) -> dict[str, Patch]:
    """Of each package the patch that was released last."""
    found: dict[str, Patch] = {}
    for patch in patches:
        other = found.get(patch.name)
        if other is None or (patch.released_at or AT_ONCE) >= (other.released_at or AT_ONCE):
            found[patch.name] = patch
    return found


def _needs(held: Mapping[str, str], patch: Patch, *, is_newest: bool) -> bool:
    """Whether a node would come to miss a patch: it says so, or has an older version of what is newest.

    Of a package that its baseline leaves out a node tells neither version nor class, only since when it is there: if
    that is before the patch was released, it is an older one. What a node says nothing of it does not have.
    """
    value = held.get(patch.key)
    if value is not None:
        return _state(value) in _NEEDED
    value = held.get(patch.name)
    if value is None or not (patch.full_version and is_newest):
        return False
    since = value.partition("@")[2]
    if since and patch.released_at is not None:
        return datetime.fromisoformat(since) < patch.released_at
    return any(key.startswith(f"{patch.name}|") for key in held)


def _state(value: str) -> str:
    return value.partition("@")[0]


def _order(row: Row) -> tuple[int, int, str]:
    return (-row.needed_on, LEVELS.index(row.after.level), row.patch.title)
