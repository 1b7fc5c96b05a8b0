"""A run that pins its canary's patches: what its first wave installed is exactly what every later wave installs.

After the first wave and its soak, what its nodes that ended well have installed since the run began is frozen, one set
for each operating system, once; before each later wave its list is put where that wave's nodes read it. A target that
is sent again afterwards gets the list too, whatever its wave.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from django.urls import reverse

from fleetops.aws.errors import Unavailable
from fleetops.clock import monotonic
from fleetops.errors import UserError
from fleetops.inventory.models import Instance
from fleetops.rollouts.kinds import Preparation
from fleetops.rollouts.models import Run, RunTarget, Wave
from fleetops.rollouts.states import Readiness, TargetState

from . import lists, pinned
from .families import OPERATING_SYSTEMS
from .groups import system_of
from .models import PinnedSet

SESSION_NAME: Final = "fleetops-patching"
LONGEST_PUT: Final = 40.0  # seconds after which the next look goes on to put lists
_NAMED: Final = 3  # instances that a refusal names


def is_wanted(run: Run) -> bool:
    return bool(run.subject.get("pin"))


def check_waves(run: Run, waves: Sequence[Sequence[Instance]]) -> list[str]:
    """What there is to say of waves, the first of which the others follow. Raises UserError."""
    if len(waves) < 2:
        raise UserError("To pin patches takes a first wave that the others follow: make a canary, and the rest.")
    canary: dict[str, int] = defaultdict(int)
    for each in waves[0]:
        canary[system_of(each)] += 1
    lacking: dict[str, list[str]] = defaultdict(list)
    for wave in waves[1:]:
        for each in wave:
            system = system_of(each)
            if not pinned.takes_list(system):
                what = OPERATING_SYSTEMS.get(system, "a system that Patch Manager does not know")
                raise UserError(
                    f"{each} runs {what}, for which AWS-RunPatchBaseline takes no list: it cannot be pinned."
                )
            if system not in canary:
                lacking[system].append(str(each))
    for system, names in lacking.items():
        more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
        raise UserError(
            f"No node of the first wave runs {OPERATING_SYSTEMS[system]}, so that nothing could be pinned for "
            f"{', '.join(names[:_NAMED])}{more}. Put one of each operating system into the first wave."
        )
    for system, count in canary.items():
        if count > pinned.MOST_NODES:
            raise UserError(
                f"The first wave has {count:,} nodes of {OPERATING_SYSTEMS.get(system, 'one system')}; patches are "
                f"pinned from {pinned.MOST_NODES} at most. Make it smaller."
            )
    places = {(each.account, each.region.name) for wave in waves for each in wave}
    for account, region in sorted(places, key=lambda place: (place[0].name, place[1])):
        lists.address_for(account, region)
    return [f"What wave 1 installs is frozen after its soak, and is all that later waves install. {lists.NODES_READ}"]


def prepare(run: Run, wave: Wave) -> Preparation:
    """Freeze what the first wave installed, unless that is done, and put it where the nodes of `wave` read it."""
    try:
        return _prepare(run, wave)
    except Unavailable as error:
        return Preparation(Readiness.OPEN, str(error))
    except UserError as error:
        return Preparation(Readiness.FAILED, str(error))


def _prepare(run: Run, wave: Wave) -> Preparation:
    wanted: set[str] = set()  # operating systems of later waves
    places: dict[tuple[Any, Any, str], Instance] = {}  # one of each place and system of those that come until this wave
    canary: dict[str, list[Instance]] = defaultdict(list)
    rows = run.targets.exclude(wave=None).exclude(state=TargetState.SKIPPED).exclude(instance_row=None)
    for target in rows.select_related("wave", "instance_row__account", "instance_row__region").iterator():
        instance = target.instance_row
        system = system_of(instance)
        if target.wave.position > 1:
            wanted.add(system)
        elif target.state == TargetState.SUCCEEDED:
            canary[system].append(instance)
        if target.wave.position <= wave.position:
            places.setdefault((instance.account_id, instance.region_id, system), instance)
    sets = {system: _set_of(run, system, canary[system]) for system in sorted(wanted)}
    texts = {system: pinned.override_list(found) for system, found in sets.items()}
    addresses = dict(run.preparation.get("lists", {}))
    session_name = run.actor.username if run.actor else SESSION_NAME
    wanting = [instance for (_, _, system), instance in places.items() if system in texts]
    # By place, for which wave it was put last: days later it is put again.
    put_for = dict(run.preparation.get("put_for", {}))
    began = monotonic()
    for number, instance in enumerate(wanting):
        key = _key(instance)
        if put_for.get(key) == wave.position:
            continue
        if monotonic() - began > LONGEST_PUT:
            words = f"{number:,} of {len(wanting):,} lists lie where nodes read them."
            return Preparation(Readiness.OPEN, words, {"lists": addresses, "put_for": put_for})
        text = texts[system_of(instance)]
        addresses[key] = lists.put(instance.account, instance.region.name, text, session_name=session_name)
        put_for[key] = wave.position
    words = ", ".join(f"{len(found.entries):,} of {OPERATING_SYSTEMS[system]}" for system, found in sets.items())
    return Preparation(
        Readiness.READY,
        f"Pinned patches: {words}.",
        {
            "sets": {system: {"id": str(found.pk), "digest": found.digest} for system, found in sets.items()},
            "lists": addresses,
            "put_for": put_for,
            "shown": [_shown(system, found) for system, found in sets.items()],
        },
    )


def _set_of(run: Run, system: str, canary: Sequence[Instance]) -> PinnedSet:
    """The set of an operating system, frozen once for the run. Raises UserError, AwsError."""
    found = PinnedSet.objects.filter(run_id=run.pk, operating_system=system).first()
    if found is not None:
        return found
    name = OPERATING_SYSTEMS.get(system, system)
    if not canary:
        raise UserError(f"No node of the first wave that runs {name} has ended well, so that there is nothing to pin.")
    if run.started_at is None:
        raise UserError("It is not known when the run began.")
    return pinned.freeze(
        canary,
        name=f"{name}, wave 1 of {run}",
        since=run.started_at.replace(microsecond=0),  # package managers tell whole seconds
        actor=run.actor or run.actor_name,
        run_id=run.pk,
    )


def list_for(run: Run, target: RunTarget) -> str:
    """The address of the list that a target installs; empty: none, as its wave goes without. Raises UserError."""
    position = target.wave.position if target.wave is not None else 1
    if position in run.preparation.get("waived", ()):
        return ""
    if target.instance_row is not None:
        address: str = run.preparation.get("lists", {}).get(_key(target.instance_row), "")
        if address or position == 1:
            return address
    raise UserError("The pinned patches do not lie where this node reads them; it would install everything.")


def _key(instance: Instance) -> str:
    return f"{instance.account_id}/{instance.region_id}/{system_of(instance)}"


def _shown(system: str, found: PinnedSet) -> Mapping[str, str]:
    count = len(found.entries)
    return {
        "label": OPERATING_SYSTEMS.get(system, system),
        "text": f"{count:,} patch{'' if count == 1 else 'es'}, sha256 {found.digest[:4]}…{found.digest[-4:]}",
        "url": reverse("patching:pinned_set", args=[found.pk]),
    }
