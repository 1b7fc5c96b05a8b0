"""Which patches fix it for whom, who goes first, and in which waves. Pure: what nodes lack comes in, lists go out."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from .marks import Mark

# Key → label and the percents of the waves after the canary; what is left goes in a last wave.
SPREADS: Final = {
    "once": ("Canary of one, then all at once", ()),
    "waves": ("Canary of one, then waves of 10, 30 and 60 %", (10, 30)),
}
_NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)


# --- lists -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Need:
    """One patch that one node lacks, as a list names it."""

    node: Hashable
    system: str  # AWS's name of the operating system
    version: str  # of the operating system, as the node reports it
    id: str  # "openssl.x86_64", "libssl3", "KB5041585"
    title: str = ""  # the exact version; empty on Windows
    told_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Fix:
    """One list of patches, and the nodes that install it."""

    systems: tuple[str, ...]
    versions: tuple[str, ...]  # of the operating system, where it had to be split by them
    entries: tuple[tuple[str, str], ...]  # id and title, sorted
    nodes: tuple[Hashable, ...]
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The same for the same entries."""
        return hashlib.sha256(repr(self.entries).encode()).hexdigest()[:16]


def fixes(needs: Iterable[Need]) -> list[Fix]:
    """As few lists as there can be, the one of most nodes first.

    The nodes of an operating system share a list, unless they need different versions of one package: then those of
    each of its versions do ("deb11" and "deb12"). If they differ still, the version of the newest report goes.
    """
    by_system: dict[str, list[Need]] = defaultdict(list)
    for each in needs:
        by_system[each.system].append(each)
    parts: list[tuple[str, str, list[Need]]] = []
    for system, mine in sorted(by_system.items()):
        if not _differ(mine):
            parts.append((system, "", mine))
            continue
        by_version: dict[str, list[Need]] = defaultdict(list)
        for each in mine:
            by_version[each.version].append(each)
        parts += [(system, version, some) for version, some in sorted(by_version.items())]
    found: dict[tuple[tuple[str, str], ...], Fix] = {}
    for system, version, some in parts:
        entries, notes = _one_version(some)
        nodes = tuple(dict.fromkeys(each.node for each in some))
        same = found.get(entries)
        found[entries] = Fix(
            tuple(dict.fromkeys([*(same.systems if same else ()), system])),
            tuple(dict.fromkeys([*(same.versions if same else ()), *filter(None, [version])])),
            entries,
            (*(same.nodes if same else ()), *nodes),
            (*(same.notes if same else ()), *notes),
        )
    return sorted(found.values(), key=lambda fix: (-len(fix.nodes), fix.systems, fix.versions))


def _titles(needs: Iterable[Need]) -> dict[str, dict[str, datetime]]:
    """By id the titles, each with when it was last told of."""
    found: dict[str, dict[str, datetime]] = defaultdict(dict)
    for each in needs:
        told = found[each.id]
        told[each.title] = max(told.get(each.title, _NEVER), each.told_at or _NEVER)
    return found


def _differ(needs: Iterable[Need]) -> bool:
    return any(len(titles) > 1 for titles in _titles(needs).values())


def _one_version(needs: Sequence[Need]) -> tuple[tuple[tuple[str, str], ...], list[str]]:
    entries, notes = [], []
    for id_, titles in _titles(needs).items():
        newest = max(titles, key=lambda title: (titles[title], title))
        entries.append((id_, newest))
        if others := sorted(titles.keys() - {newest}):
            notes.append(
                f"Of {id_} these nodes tell of different versions; {newest} goes, which the newest report names, "
                f"and not {', '.join(others[:3])}."
            )
    return tuple(sorted(entries)), notes


# --- the canary ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that could go first."""

    key: Hashable
    name: str
    mark: Mark
    minutes: float
    is_held: bool = False  # by a freeze or a window, as it is now


def canary(candidates: Sequence[Candidate]) -> tuple[Candidate, str]:
    """Who goes first, and why: it holds no data, nothing holds it up, and it is the quickest. Needs at least one."""
    best = min(candidates, key=lambda each: (each.mark is Mark.DATA, each.is_held, each.minutes, each.name))
    if best.mark is Mark.DATA:
        why = "all of them hold data; it is the quickest of them"
    elif best.is_held:
        why = "it holds no data, and is the quickest; a freeze holds all of those"
    else:
        why = "it is online, holds no data, nothing holds it up, and it is the quickest"
    return best, why


def wave_rules(spread: str, canary_expression: str, *, nodes: int, soak_minutes: int) -> list[dict[str, Any]]:
    """The rules of a run's waves. The canary bears no failure: if it fails, nobody else is touched."""
    first = {
        "by": "list",
        "value": canary_expression,
        "name": "Canary",
        "budget": "0",
        "soak_minutes": soak_minutes if nodes > 1 else 0,
    }
    _, percents = SPREADS[spread]
    later = [{"by": "percent", "value": str(percent)} for percent in percents] if nodes > 2 else []
    return [first, *later, *([{"by": "rest"}] if nodes > 1 else [])]
