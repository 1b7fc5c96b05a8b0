"""Is a patch approved under a baseline, since when, and at which level? Facts in, a decision out.

The order is AWS's: a rejected patch is rejected whatever else is said of it; one in the approved list is approved even
if the global filters leave it out; then the rules, of which one that approves is enough. Of several that approve, the
gravest level counts. Source: user guide, "How patch baseline rules work on Linux-based systems"; SSM, PatchRule.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from functools import lru_cache

from fleetops.endpoint.patch.facts import LEVELS, Baseline, Candidate, Filter, Rule
from fleetops.endpoint.patch.operating_systems import ANY, FAMILIES, SECURITY_CLASSES, Family

# Families whose repositories hold more than security updates; elsewhere nobody asks.
_WITH_NON_SECURITY = frozenset({Family.RPM, Family.APT, Family.SUSE})


class Deployment(StrEnum):
    """[SSM, PatchDeploymentStatus]"""

    APPROVED = "APPROVED"
    PENDING_APPROVAL = "PENDING_APPROVAL"
    EXPLICIT_APPROVED = "EXPLICIT_APPROVED"
    EXPLICIT_REJECTED = "EXPLICIT_REJECTED"


@dataclass(frozen=True, slots=True)
class Decision:
    """What a baseline says of a patch; for one that it says nothing of there is none."""

    status: Deployment
    level: str = "UNSPECIFIED"
    approved_at: datetime | None = None  # by a rule: since when, or when it will be; None for at once or never

    @property
    def is_approved(self) -> bool:
        return self.status in {Deployment.APPROVED, Deployment.EXPLICIT_APPROVED}


def decide(baseline: Baseline, patch: Candidate, *, now: datetime) -> Decision | None:
    """What `baseline` says of `patch` at `now`; None if it is not of the baseline."""
    family = FAMILIES[baseline.operating_system]
    if is_listed(baseline.rejected, patch, family):
        return Decision(Deployment.EXPLICIT_REJECTED)
    is_explicit = is_listed(baseline.approved, patch, family) and (
        patch.is_security or baseline.approved_enable_non_security or family not in _WITH_NON_SECURITY
    )
    approving, waiting = [], []
    if all(holds(wanted, patch) for wanted in baseline.global_filters):
        for rule in baseline.rules:
            since = approval(rule, patch) if selects(rule, patch, family) else None
            if since is not None:
                (approving if since <= now else waiting).append((rule.compliance_level, since))
    if is_explicit:
        levels = [baseline.approved_level, *(level for level, _ in approving)]
        return Decision(Deployment.EXPLICIT_APPROVED, gravest(levels))
    if approving:
        return Decision(Deployment.APPROVED, gravest(level for level, _ in approving), _told(approving, patch))
    if waiting:
        soonest = min(since for _, since in waiting)
        level = gravest(level for level, since in waiting if since == soonest)
        return Decision(Deployment.PENDING_APPROVAL, level, soonest)
    return None


def selects(rule: Rule, patch: Candidate, family: Family) -> bool:
    """Whether a rule is about a patch, whenever it approves it."""
    if not patch.is_security and not rule.enable_non_security and family in _WITH_NON_SECURITY:
        return False
    if patch.patch_set != "OS" and all(wanted.key != "PATCH_SET" for wanted in rule.filters):
        return False  # who says nothing of Windows' applications means the operating system alone
    return all(holds(wanted, patch) for wanted in rule.filters)


_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


def approval(rule: Rule, patch: Candidate) -> datetime | None:
    """Since when a rule that selects a patch approves it; None for never, the first moment of all for at once."""
    released_at = patch.released_at
    if released_at is None:
        return _BEGINNING  # without a date the delay is none
    if rule.approve_until is not None:
        day_ends = datetime.combine(rule.approve_until, time.min, UTC) + timedelta(days=1)
        return released_at if released_at < day_ends else None
    if rule.approve_after_days is None:
        return _BEGINNING
    return released_at + timedelta(days=rule.approve_after_days)


def _told(approving: list[tuple[str, datetime]], patch: Candidate) -> datetime | None:
    since = min(since for _, since in approving)
    return since if since > _BEGINNING else patch.released_at


def gravest(levels: Iterable[str]) -> str:
    return min(levels, key=LEVELS.index)


_MEMBERS = {
    "PRODUCT": lambda patch: (patch.product,),
    "PRODUCT_FAMILY": lambda patch: (patch.product_family,),
    "PATCH_SET": lambda patch: (patch.patch_set,),
    "CLASSIFICATION": lambda patch: (patch.classification,),
    "SEVERITY": lambda patch: (patch.severity,),
    "MSRC_SEVERITY": lambda patch: (patch.severity,),
    "PRIORITY": lambda patch: (patch.priority,),
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


def holds(wanted: Filter, patch: Candidate) -> bool:
    """Whether a patch has one of a filter's values; `*` is any. Repositories spell them as they like: in any case."""
    if ANY in wanted.values:
        return True
    had = {_plain(value) for value in _MEMBERS[wanted.key](patch)}
    return any(_plain(value) in had for value in wanted.values)


def _plain(value: str) -> str:
    # AWS takes "AmazonLinux2" and "AmazonLinux2.0" for one.
    return (value.removesuffix(".0") if value.startswith("AmazonLinux") else value).casefold()


def is_listed(entries: Iterable[str], patch: Candidate, family: Family) -> bool:
    """Whether an approved or rejected list names a patch, in the formats of its family."""
    names: frozenset[str] | None = None
    for entry in entries:
        if names is None:
            names = frozenset(_names(patch, family))
        if entry in names or ("*" in entry and any(_glob(entry).fullmatch(name) for name in names)):
            return True
    return False


def _names(patch: Candidate, family: Family) -> Iterable[str]:
    """All that a list may call a patch. Source: user guide, "Package name formats for approved and rejected lists"."""
    yield patch.name
    if family == Family.APT:
        return
    yield from patch.advisory_ids
    if family == Family.WINDOWS:
        return
    if family == Family.MACOS:
        yield f"{patch.name}-{patch.version}"
        return
    if family == Family.RPM:
        yield from patch.cves
        yield from patch.bugzilla_ids
    name, arch, version, release = patch.name, patch.arch, patch.version, patch.release
    full = f"{version}-{release}"
    yield f"{name}.{arch}"
    yield f"{name}-{version}"
    yield f"{name}-{full}"
    yield f"{name}-{full}.{arch}"
    if family == Family.SUSE:
        yield f"{name}-{full}.{arch}.rpm"
        return
    yield version
    yield full
    epoch = patch.epoch or "0"
    yield f"{epoch}:{full}"
    yield f"{name}-{epoch}:{full}"
    yield f"{name}-{epoch}:{full}.{arch}"
    yield f"{epoch}:{name}-{full}.{arch}"
    yield f"{name}.{arch}:{epoch}:{full}"


@lru_cache(maxsize=1024)
def _glob(entry: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in entry.split("*")), re.DOTALL)


def is_security(classification: str) -> bool:
    """Whether patches of a class count as security's where those are counted."""
    return classification in SECURITY_CLASSES
