"""How far an emergency has come: which of its nodes are fixed by their own reports, and what holds up the others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fleetops.identity.models import User
from fleetops.rollouts.models import Run, RunTarget
from fleetops.rollouts.states import RunState, TargetState
from patching.compliance.models import PatchSpan, Report
from patching.verdict import INSTALL

from . import coverage
from .coverage import Coverage
from .models import Emergency, EmergencyTarget


@dataclass(frozen=True, slots=True)
class Standing:
    """One affected node now."""

    target: EmergencyTarget
    fixed_at: datetime | None
    words: str  # why it is not fixed
    is_gone: bool = False
    run_target: RunTarget | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """The whole, of the nodes that a person may see."""

    coverage: Coverage
    standings: list[Standing]

    @property
    def left(self) -> list[Standing]:
        return [each for each in self.standings if each.fixed_at is None]


def progress(emergency: Emergency, user: User) -> Progress:
    """How many of the affected nodes are fixed by their own reports, since when; the others with what holds them up.

    A node that is gone is affected no more: since AWS lists it no more.
    """
    rows = emergency.targets.visible_to(user).select_related("instance", "account", "region")
    targets = list(rows.order_by("instance__name", "instance__instance_id"))
    instances = [each.instance_id for each in targets]
    ids = {kb_id for each in targets for kb_id, _ in each.patches}
    spans: dict[Any, list[coverage.Span]] = defaultdict(list)
    told = PatchSpan.objects.filter(instance__in=instances, kb_id__in=ids)
    for instance, *facts in told.values_list("instance", "kb_id", "title", "state", "from_at", "to_at"):
        spans[instance].append(coverage.Span(*facts))
    runs = list(emergency.runs().exclude(state=RunState.DRAFT))
    proven = _proven(runs, [each.instance_id for each in targets if not each.patches])
    latest: dict[Any, RunTarget] = {}
    for one in RunTarget.objects.filter(run__in=runs, instance_row__in=instances).select_related("run").order_by("run"):
        latest[one.instance_row_id] = one
    began = emergency.began_at or emergency.made_at
    standings = []
    for each in targets:
        if each.instance.gone_at is not None:
            standings.append(Standing(each, each.instance.gone_at, "", True))
            continue
        if each.patches:
            fixed_at, words = coverage.fixed([tuple(patch) for patch in each.patches], spans[each.instance_id])
        else:
            fixed_at = proven.get(each.instance_id)
            words = "" if fixed_at else "No report proves that one of these runs has installed it there."
        run_target = latest.get(each.instance_id)
        if fixed_at is None:
            words = _why(each, words, run_target)
        standings.append(Standing(each, fixed_at, words, False, run_target))
    return Progress(coverage.coverage((each.fixed_at for each in standings), began_at=began), standings)


def _proven(runs: Sequence[Run], instances: Sequence[Any]) -> dict[Any, datetime]:
    """Of nodes that no report had called without it: when one told that a run's list is installed."""
    snapshots = [run.subject.get("snapshot_id") for run in runs]
    if not instances or not snapshots:
        return {}
    told = Report.objects.filter(
        instance__in=instances, snapshot_id__in=snapshots, operation=INSTALL, failed=0, pending_reboot=0
    )
    return dict(told.order_by("-ended_at").values_list("instance", "ended_at"))


def _why(target: EmergencyTarget, words: str, run_target: RunTarget | None) -> str:
    if run_target is None:
        return f"{target.reason or 'Not started.'} {words}".strip() if not target.is_chosen else f"Not started. {words}"
    state = TargetState(run_target.state)
    told = run_target.reason.strip()
    if state == TargetState.SUCCEEDED:
        return words
    return f"{state.label}{f': {told}' if told else '.'} {words}"
