"""Cluster protection: never more members of a cluster out of service at once than a rule lets, whatever a run says.

A cluster is the members of one account that bear one tag with one value, wherever they are. A target takes a slot of
each of its clusters when it goes, by inserting a row that is unique on (cluster, slot), and keeps it until its end; so
two runs cannot fill one place twice. Members that are offline, stopped, or of which nobody knows anything are out of
service as well, without a slot.

Slots are inserted in one order by everybody, so that nobody waits for who waits for them. Whoever picks takes the
lowest numbers that are free, fewer than there are places: of two who pick at once one finds its row taken and waits.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from fleetops.clock import now
from fleetops.inventory.models import Instance, InstanceTag
from fleetops.inventory.readiness import Status, status_of

from .models import ClusterRule, ClusterSlot, RunTarget

LONGEST: Final = 400  # characters of a cluster's name
_CHUNK: Final = 400  # values in one query


@dataclass(frozen=True, slots=True)
class Guard:
    """One rule that is in force."""

    tag: str
    values: str
    most_out: int


def guards() -> tuple[Guard, ...]:
    """The rules that are in force; one query."""
    rows = ClusterRule.objects.filter(enabled=True).values_list("tag", "values", "most_out")
    return tuple(Guard(*row) for row in rows)


def name(account_id: str, tag: str, value: str) -> str:
    """How a cluster is called in rows: "111122223333 cluster=db-1"."""
    return f"{account_id} {tag}={value}"[:LONGEST]


def clusters_of(account_id: str, tags: Mapping[str, str], rules: Iterable[Guard]) -> dict[str, int]:
    """The clusters of an instance, with how many of each may be out at once; of several rules the strictest holds."""
    found: dict[str, int] = {}
    for rule in rules:
        value = tags.get(rule.tag, "")
        if value and fits(rule.values, value):
            cluster = name(account_id, rule.tag, value)
            found[cluster] = min(found.get(cluster, rule.most_out), rule.most_out)
    return found


def fits(pattern: str, value: str) -> bool:
    """Whether a value is one of those that a rule holds for; `*` stands for any run of characters, case counts."""
    return pattern == "*" or _pattern(pattern).fullmatch(value) is not None


@lru_cache(maxsize=256)
def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(each) for each in pattern.split("*")), re.DOTALL)


@dataclass(frozen=True, slots=True)
class Places:
    """Of one cluster: how many may be out, which slots are taken, and who is out of service without one."""

    most_out: int
    taken: frozenset[int]
    away: frozenset[Any]  # instances, by their row

    def free(self, *, for_instance: Any = None) -> list[int]:
        """The slots that may be taken now, lowest first. An instance that is away is not counted against itself."""
        left = self.most_out - len(self.taken) - len(self.away - {for_instance})
        numbers = (number for number in range(self.most_out) if number not in self.taken)
        return [number for number, _ in zip(numbers, range(max(0, left)), strict=False)]


def places(wanted: Mapping[str, int]) -> dict[str, Places]:
    """How the clusters stand; `wanted` is what `clusters_of` told of those who want to go. A few queries for all."""
    if not wanted:
        return {}
    taken: dict[str, set[int]] = defaultdict(set)
    holders: dict[str, set[Any]] = defaultdict(set)
    for chunk in _chunks(wanted):
        slots = ClusterSlot.objects.filter(cluster__in=chunk)
        for cluster, slot, instance in slots.values_list("cluster", "slot", "target__instance_row"):
            taken[cluster].add(slot)
            holders[cluster].add(instance)
    away = _away(wanted)
    return {
        cluster: Places(most_out, frozenset(taken[cluster]), frozenset(away[cluster] - holders[cluster]))
        for cluster, most_out in wanted.items()
    }


def _away(wanted: Collection[str]) -> dict[str, set[Any]]:
    """By cluster the members that are not online."""
    pairs = {pair for cluster in wanted for pair in _pairs(cluster)}
    keys, values = {tag for tag, _ in pairs}, {value for _, value in pairs}
    found: dict[str, set[Any]] = defaultdict(set)
    for chunk in _chunks(values):
        rows = InstanceTag.objects.filter(key__in=keys, value__in=chunk, instance__gone_at=None)
        for row in rows.select_related("instance__account").defer("instance__tags"):
            cluster = name(row.instance.account.account_id, row.key, row.value)
            if cluster in wanted and status_of(row.instance) is not Status.ONLINE:
                found[cluster].add(row.instance_id)
    return found


def _pairs(cluster: str) -> list[tuple[str, str]]:
    """Tag and value in a cluster's name; several readings where one of them has a = in it."""
    pieces = cluster.partition(" ")[2].split("=")
    return [("=".join(pieces[:at]), "=".join(pieces[at:])) for at in range(1, len(pieces))]


def take(wishes: Mapping[RunTarget, Mapping[str, int]]) -> dict[RunTarget, str]:
    """Take a slot of each of its clusters for each target; in the caller's transaction.

    `wishes`: by target, in the order in which they go, its clusters and their slots. Returns those that got none, each
    with the cluster that was full: another run was quicker. They hold nothing then.
    """
    rows = sorted((cluster, slot, target.pk) for target, mine in wishes.items() for cluster, slot in mine.items())
    moment = now()
    ClusterSlot.objects.bulk_create(
        (ClusterSlot(cluster=cluster, slot=slot, target_id=pk, taken_at=moment) for cluster, slot, pk in rows),
        batch_size=200,
        ignore_conflicts=True,
    )
    held: dict[Any, set[str]] = defaultdict(set)
    for chunk in _chunks([target.pk for target in wishes]):
        for pk, cluster in ClusterSlot.objects.filter(target__in=chunk).values_list("target", "cluster"):
            held[pk].add(cluster)
    missed = {
        target: next(iter(sorted(lacking)))
        for target, mine in wishes.items()
        if (lacking := mine.keys() - held[target.pk])
    }
    release([target.pk for target in missed])
    return missed


def release(targets: Collection[Any]) -> None:
    """Give back all slots of these targets, by their keys; in the caller's transaction."""
    for chunk in _chunks(targets):
        ClusterSlot.objects.filter(target__in=chunk).delete()


def _chunks(values: Iterable[Any]) -> Iterable[Sequence[Any]]:
    every = list(values)
    return (every[start : start + _CHUNK] for start in range(0, len(every), _CHUNK))


def instance_clusters(instance: Instance, rules: Iterable[Guard]) -> dict[str, int]:
    """The clusters of a row, whose account has been loaded with it."""
    return clusters_of(instance.account.account_id, instance.tags, rules)
