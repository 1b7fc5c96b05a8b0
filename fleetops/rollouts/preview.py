"""What a plan says of itself: when which wave goes, what binds it, what slows it down; as JSON, for its page."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from django.db.models import Count

from fleetops.calendars.gate import Binding, gate
from fleetops.inventory.models import Instance

from . import rules
from .assess import Assessed, counted
from .clusters import Guard, fits
from .clusters import name as cluster_name
from .models import ClusterSlot, Run
from .timing import walk, wave_minutes
from .waves import Waves

PER_CALL: Final = 50  # instances of one SendCommand


def shown(
    run: Run,
    waves: Waves,
    assessed: Sequence[Assessed],
    clusters: Mapping[Any, Mapping[str, int]],
    protections: Sequence[Guard],
    *,
    seed: str,
    now: datetime,
) -> dict[str, Any]:
    by_key = {each.key: each for each in assessed}
    fit = [each for each in assessed if not each.skipped]
    out = _out_now(protections, fit)
    timed, end = _timed(run, waves, by_key, clusters, out, now=now)
    start = min((each["starts_at"] for each in timed if each["starts_at"]), default=None)
    calls = 0
    for each in waves.splits:
        places = Counter(key[:2] for key in each.keys)
        calls += sum(-(-count // PER_CALL) for count in places.values())
    return {
        "seed": seed,
        "made_at": now.isoformat(),
        "targets": len(fit),
        "matched": len(assessed),
        "reboots": sum(each.reboots for each in fit),
        "notes": list(waves.notes),
        "skipped": counted(assessed),
        "waves": timed,
        "calendars": _calendars(fit, start=max(now, run.starts_at) if run.starts_at else now),
        "clusters": _cluster_rows(protections, fit, clusters, out, waves),
        "starts_at": start,
        "ends_at": end.isoformat() if end else None,
        "spare_minutes": int((run.ends_by - end).total_seconds() // 60) if run.ends_by and end else None,
        "calls": calls * (1 + len(run.steps_before) + len(run.steps_after) + len(run.probes)),
    }


def _timed(
    run: Run,
    waves: Waves,
    by_key: Mapping[Any, Assessed],
    clusters: Mapping[Any, Mapping[str, int]],
    out: Mapping[str, int],
    *,
    now: datetime,
) -> tuple[list[dict[str, Any]], datetime | None]:
    """The waves one after the other, with when each is expected; and when the last is done."""
    total = sum(len(each.keys) for each in waves.splits)
    at: datetime | None = max(now, run.starts_at) if run.starts_at else now
    timed = []
    for position, each in enumerate(waves.splits, 1):
        rule = rules.of(run.wave_rules, each.rule)
        mine = [by_key[key] for key in each.keys]
        at_once = rules.at_once(run, rule, len(mine), total)
        held: dict[str, list[float]] = defaultdict(list)
        most: dict[str, int] = {}
        for one in mine:
            for cluster, most_out in clusters[one.key].items():
                held[cluster].append(one.minutes)
                most[cluster] = max(1, most_out - out.get(cluster, 0))
        minutes = wave_minutes([one.minutes for one in mine], at_once)
        slow = {name: sum(took) / most[name] for name, took in held.items() if sum(took) / most[name] > minutes}
        slowest = max(slow, key=lambda name: slow[name], default="")
        minutes = max(minutes, slow.get(slowest, 0))
        start = end = None
        if at is not None:
            spans = [
                walk(bindings, at, minutes, cutoff_minutes=run.cutoff_minutes, ends_by=run.ends_by)
                for bindings in {one.bindings for one in mine}
            ]
            start = min((span.start for span in spans if span), default=None)
            ends = [span.end if span else None for span in spans]
            end = None if None in ends else max(ends)  # type: ignore[type-var]
        soak = int(rule.get("soak_minutes", 0))
        timed.append(
            {
                "position": position,
                "name": each.name,
                "targets": len(mine),
                "reboots": sum(one.reboots for one in mine),
                "at_once": at_once,
                "budget": str(rule.get("budget", "")),
                "minutes": round(minutes, 1),
                "starts_at": start.isoformat() if start else None,
                "ends_at": end.isoformat() if end else None,
                "soak_minutes": soak,
                "gates": [rules.gate_words(gate_) for gate_ in rule.get("gates", [])],
                "slowed_by": slowest.partition(" ")[2],
            }
        )
        at = end + timedelta(minutes=soak) if end else None
    return timed, at


def _calendars(fit: Sequence[Assessed], *, start: datetime) -> list[dict[str, Any]]:
    """The calendars that bind targets, and what they say at the start."""
    counts: Counter[Binding] = Counter()
    for bindings, count in Counter(each.bindings for each in fit).items():
        for binding in bindings:
            counts[binding] += count
    rows = []
    for binding, count in counts.items():
        found = gate((binding,), start)
        changes = found.changes_at.isoformat() if found.changes_at else None
        rows.append(
            {
                "name": binding.name,
                "is_freeze": binding.is_freeze,
                "targets": count,
                "is_open": found.is_open,
                "opens_at": None if found.is_open else changes,
                "closes_at": changes if found.is_open else None,
                "holds": str(found.holds[0]) if found.holds else "",
            }
        )
    return sorted(rows, key=lambda row: (not row["is_freeze"], row["name"]))


# --- clusters --------------------------------------------------------------------------------------------------------


def _out_now(protections: Sequence[Guard], fit: Sequence[Assessed]) -> dict[str, int]:
    """Cluster → how many of its members are out of service as it is, or taken out by another run. Two queries."""
    if not protections or not fit:
        return {}
    tags = {each.tag for each in protections}
    accounts = {each.instance.account_id for each in fit}
    rows = (
        Instance.objects.present()
        .filter(account__in=accounts, tag_rows__key__in=tags)
        .exclude(ping_status="Online", ec2_state__in=["", "running"])
        .values_list("account__account_id", "tag_rows__key", "tag_rows__value")
        .annotate(count=Count("pk"))
        .order_by()
    )
    out = Counter({cluster_name(account, key, value): count for account, key, value, count in rows})
    out.update(dict(ClusterSlot.objects.values_list("cluster").annotate(count=Count("pk")).order_by()))
    return dict(out)


def _cluster_rows(
    protections: Sequence[Guard],
    fit: Sequence[Assessed],
    clusters: Mapping[Any, Mapping[str, int]],
    out: Mapping[str, int],
    waves: Waves,
) -> list[dict[str, Any]]:
    """What each rule of cluster protection does to the run."""
    together: Counter[tuple[int, str]] = Counter()
    for number, each in enumerate(waves.splits):
        for key in each.keys:
            together.update((number, cluster) for cluster in clusters[key])
    rows = []
    for rule in protections:
        sizes: Counter[str] = Counter()
        for each in fit:
            value = each.facts.tags.get(rule.tag, "")
            if value and fits(rule.values, value):
                sizes[cluster_name(each.facts.account_id, rule.tag, value)] += 1
        if not sizes:
            continue
        full = sorted(name.partition("=")[2] for name in sizes if out.get(name, 0) >= rule.most_out)
        rows.append(
            {
                "rule": f"{rule.tag}={rule.values}",
                "most_out": rule.most_out,
                "clusters": len(sizes),
                "targets": sum(sizes.values()),
                "largest": max(sizes.values()),
                "out": sum(out.get(name, 0) for name in sizes),
                "full": full[:5],
                "full_count": len(full),
                "slows": any(count > rule.most_out for (_, name), count in together.items() if name in sizes),
            }
        )
    return rows
