"""Which version of a document a run sends: the one that was the default when it was planned, in each region.

So that nothing is sent which nobody has seen, if a default is changed between plan and wave.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fleetops.inventory.models import Instance
from fleetops.runcommand import orders

from .models import Run


def planned(run: Run, instances: Sequence[Instance]) -> dict[str, dict[str, str]]:
    """The defaults, where these instances are, of all documents of the run that name no version."""
    places = {(each.account_id, each.region_id) for each in instances}
    found = {}
    for name in sorted(set(_unversioned(run))):
        there = orders.versions(name, "", places)
        found[name] = {_key(*place): there[place] for place in sorted(there, key=str)}
    return found


def resolved(run: Run, name: str, version: str, places: Any) -> dict[tuple[Any, Any], str]:
    """By account and region (keys), what is sent there; without those that have no such document."""
    there = orders.versions(name, version, places)
    then = {} if version else run.versions.get(name, {})
    return {place: then.get(_key(*place), now) for place, now in there.items()}


def shown(versions: Mapping[str, Mapping[str, str]]) -> list[dict[str, str]]:
    """For the plan's page: "3", or "2, 3" where regions differ."""
    rows = []
    for name, places in versions.items():
        counts: dict[str, int] = defaultdict(int)
        for version in places.values():
            counts[version] += 1
        rows.append({"document": name, "version": ", ".join(sorted(counts))})
    return rows


def _unversioned(run: Run) -> Iterator[str]:
    gates = [gate for rule in run.wave_rules for gate in rule.get("gates", ()) if gate["kind"] == "document"]
    for each in (run.subject, *run.steps_before, *run.steps_after, *run.probes, *gates):
        if each.get("document") and not each.get("version"):
            yield str(each["document"])


def _key(account: Any, region: Any) -> str:
    return f"{account}/{region}"
