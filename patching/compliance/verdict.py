"""What patch states mean, and how a patch's life goes on from one report to the next. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final


class PatchState(StrEnum):
    """How a patch stands on an instance [SSM, PatchComplianceDataState]."""

    INSTALLED = "INSTALLED"
    INSTALLED_OTHER = "INSTALLED_OTHER"
    INSTALLED_PENDING_REBOOT = "INSTALLED_PENDING_REBOOT"
    INSTALLED_REJECTED = "INSTALLED_REJECTED"
    MISSING = "MISSING"
    NOT_APPLICABLE = "NOT_APPLICABLE"
    FAILED = "FAILED"
    AVAILABLE_SECURITY_UPDATE = "AVAILABLE_SECURITY_UPDATE"


# [SSM user guide, "Patch compliance state values"]
NON_COMPLIANT: Final = frozenset(
    {PatchState.MISSING, PatchState.FAILED, PatchState.INSTALLED_PENDING_REBOOT, PatchState.INSTALLED_REJECTED}
)
LACKING: Final = frozenset({PatchState.MISSING, PatchState.FAILED})
# Read one by one, and kept. As the filter of DescribeInstancePatches spells them.
KEPT: Final = {
    PatchState.INSTALLED: "Installed",
    PatchState.INSTALLED_PENDING_REBOOT: "InstalledPendingReboot",
    PatchState.INSTALLED_REJECTED: "InstalledRejected",
    PatchState.MISSING: "Missing",
    PatchState.FAILED: "Failed",
    PatchState.AVAILABLE_SECURITY_UPDATE: "AvailableSecurityUpdate",
}


@dataclass(frozen=True, slots=True)
class Patch:
    """One patch of a report."""

    kb_id: str
    title: str
    classification: str
    severity: str
    state: str
    installed_at: datetime | None
    cves: tuple[str, ...]

    @property
    def name(self) -> tuple[str, str]:
        """What it is known by: several versions of one package may be told of at once."""
        return self.kb_id, self.title


@dataclass(frozen=True, slots=True)
class Open:
    """What is known of a patch up to now: a span that is open."""

    pk: int
    patch: Patch
    from_at: datetime
    lacks_since: datetime | None


@dataclass(frozen=True, slots=True)
class Begin:
    """A span to begin."""

    patch: Patch
    from_at: datetime
    lacks_since: datetime | None


@dataclass(frozen=True, slots=True)
class Change:
    """What a report changes: spans to begin, to end, to drop since they never had a length."""

    begin: tuple[Begin, ...] = ()
    end: tuple[int, ...] = ()
    drop: tuple[int, ...] = ()


def change(known: Sequence[Open], told: Sequence[Patch], *, at: datetime, is_install: bool) -> Change:
    """What the report that ended at `at` changes of what is `known`: the spans that are open.

    An Install tells of no missing patches (AWS's own words): one that was missing before and is not told of stays as it
    was, until a Scan says more; unless the same package is told of in another state, which it is by its kb_id.
    """
    begin, end, drop = [], [], []
    open_by_name = {each.patch.name: each for each in known}
    lacks = {each.patch.kb_id: each.lacks_since for each in known if each.lacks_since is not None}
    by_name = {patch.name: patch for patch in told if patch.state in KEPT}
    ids = {patch.kb_id for patch in told}
    for name, patch in by_name.items():
        was = open_by_name.get(name)
        if was is not None and was.patch == patch:
            continue
        if was is not None:
            (drop if was.from_at >= at else end).append(was.pk)
        since = lacks.get(patch.kb_id, at) if patch.state in LACKING else None
        begin.append(Begin(patch, at, since))
    for name, was in open_by_name.items():
        if name in by_name:
            continue
        if is_install and was.patch.state == PatchState.MISSING and was.patch.kb_id not in ids:
            continue
        (drop if was.from_at >= at else end).append(was.pk)
    return Change(tuple(begin), tuple(end), tuple(drop))


def is_compliant(*, missing: int, failed: int, pending_reboot: int, rejected: int) -> bool:
    """Whether a report with these counts is. AVAILABLE_SECURITY_UPDATE counts as its baseline says; see reading.py."""
    return not (missing or failed or pending_reboot or rejected)


def once(patches: Iterable[Patch]) -> list[Patch]:
    """Each patch once: where a node tells two states of one, the worse counts."""
    found: dict[tuple[str, str], Patch] = {}
    for patch in patches:
        other = found.get(patch.name)
        if other is None or (patch.state in NON_COMPLIANT and other.state not in NON_COMPLIANT):
            found[patch.name] = patch
    return list(found.values())
