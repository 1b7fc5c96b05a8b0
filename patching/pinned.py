"""Pinned patch sets: exactly what some nodes have installed, frozen, for later waves to install and nothing else.

A set is rendered as the YAML that AWS-RunPatchBaseline takes as InstallOverrideList [Systems Manager user guide,
"AWS-RunPatchBaseline", parameter InstallOverrideList]: `id` names package and architecture (Linux) or an article
(Windows), `title` the exact version (Linux alone).
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import yaml
from django.db import transaction

from fleetops.audit.record import record
from fleetops.aws import patching as aws
from fleetops.aws.patching import NodePatch
from fleetops.clock import now as clock_now
from fleetops.errors import UserError
from fleetops.identity.models import User
from fleetops.inventory.models import Instance
from fleetops.rollouts.models import Run

from .families import OPERATING_SYSTEMS, Family, family_of
from .groups import system_of
from .known import split_title
from .models import PinnedSet

logger = logging.getLogger(__name__)

MOST_NODES = 50  # that one set is frozen from
MOST_ENTRIES = 3000
STATES = ("Installed", "InstalledPendingReboot")  # as the filter spells them
_WITH_LIST = frozenset({Family.RPM, Family.APT, Family.SUSE, Family.WINDOWS})


@dataclass(frozen=True, slots=True)
class Entry:
    """One patch of a set."""

    id: str  # "openssl.x86_64", "libssl3", "KB5041585"
    title: str = ""  # "openssl.x86_64:1:3.0.8-1.amzn2023.0.1"; of Linux alone


def entry_of(told: NodePatch, operating_system: str) -> Entry:
    """One entry in the family's form. Raises UserError for what the family cannot name exactly."""
    family = family_of(operating_system)
    if family == Family.WINDOWS:
        return Entry(told.kb_id)
    name, arch, epoch, full = split_title(told.title, told.kb_id)
    if not full:
        raise UserError(f"No version is told of {told.kb_id}, so it cannot be pinned. Scan the node again.")
    whole = f"{name}.{arch}" if arch else name
    if family == Family.APT:  # {name}.{architecture}:{version}
        version = f"{epoch}:{full}" if epoch else full
        return Entry(whole, f"{whole if arch else f'{name}.*'}:{version}")
    # {name}.{architecture}:{epoch}:{version}-{release}
    return Entry(whole, f"{whole}:{epoch or '0'}:{full}")


def render(entries: Sequence[Entry]) -> str:
    """The list as nodes read it. The same entries give the same text, to the byte."""
    rows = [{"id": each.id, "title": each.title} if each.title else {"id": each.id} for each in _sorted(entries)]
    return yaml.safe_dump({"patches": rows}, sort_keys=False, allow_unicode=True, width=1000)


def digest_of(entries: Sequence[Entry]) -> str:
    return hashlib.sha256(render(entries).encode()).hexdigest()


def entries_of(pinned: PinnedSet) -> list[Entry]:
    """Its entries. Raises UserError if the row is not what was frozen."""
    found = [Entry(each["id"], each.get("title", "")) for each in pinned.entries]
    if digest_of(found) != pinned.digest:
        raise UserError(f"The set {pinned} is not what was frozen: its digest does not fit. It is not used.")
    return found


def takes_list(system: str) -> bool:
    """Whether AWS-RunPatchBaseline takes a list of patches on this operating system."""
    return bool(system) and family_of(system) in _WITH_LIST


def override_list(pinned: PinnedSet) -> str:
    """The InstallOverrideList of a set. Raises UserError if the row is not what was frozen."""
    return render(entries_of(pinned))


def _sorted(entries: Sequence[Entry]) -> list[Entry]:
    return sorted(set(entries), key=lambda each: (each.id, each.title))


def freeze(
    instances: Collection[Instance],
    *,
    name: str,
    since: datetime | None,
    actor: User | str,
    run_id: uuid.UUID | None = None,
) -> PinnedSet:
    """Freeze what `instances` have installed since a moment (None: all that their baseline calls installed).

    The nodes are asked of AWS, not of our rows. A run gives one set for each operating system, once. Raises UserError
    if they differ, have installed nothing, or have no operating system in common; AwsError if AWS cannot be asked.
    """
    instances = sorted(instances, key=lambda each: each.instance_id)
    if not instances:
        raise UserError("Choose at least one node to freeze the patches of.")
    if len(instances) > MOST_NODES:
        raise UserError(f"A set is frozen from {MOST_NODES} nodes at most; a canary is smaller than that.")
    systems = {system_of(each) for each in instances}
    if len(systems) > 1:
        names = " and ".join(sorted(OPERATING_SYSTEMS.get(each, "an unknown system") for each in systems))
        raise UserError(f"These nodes run {names}. A set is of one operating system: freeze one for each.")
    system = systems.pop()
    if not takes_list(system):
        what = OPERATING_SYSTEMS.get(system, "what these nodes run")
        raise UserError(f"AWS-RunPatchBaseline takes no list of patches for {what}, so that nothing can be pinned.")
    session_name = actor if isinstance(actor, str) else actor.username
    held: dict[str, tuple[Entry, Instance]] = {}
    nodes: list[dict[str, Any]] = []
    for instance in instances:
        installed = _installed(instance, since, session_name)
        for told in installed:
            entry = entry_of(told, system)
            other, first = held.setdefault(entry.id, (entry, instance))
            if other != entry:
                raise UserError(
                    f"{first} has installed {other.title or other.id}, and {instance} {entry.title or entry.id}. A set "
                    "holds one version of each package: freeze one of them alone."
                )
        nodes.append(
            {
                "instance_id": instance.instance_id,
                "name": str(instance),
                "account_id": instance.account.account_id,
                "region": instance.region.name,
                "patches": len(installed),
                "last_installed_at": max((each.installed_at for each in installed if each.installed_at), default=None),
            }
        )
    entries = _sorted([entry for entry, _ in held.values()])
    if not entries:
        when = f" since {since:%Y-%m-%d %H:%M} UTC" if since else ""
        raise UserError(f"These nodes have installed nothing{when} that their baseline is about. There is no set.")
    if len(entries) > MOST_ENTRIES:
        raise UserError(f"These are {len(entries):,} patches; a set holds {MOST_ENTRIES:,}. Freeze since a later time.")
    return _keep(entries, nodes, name=name, system=system, actor=actor, run_id=run_id)


def _installed(instance: Instance, since: datetime | None, session_name: str) -> list[NodePatch]:
    pages = aws.node_patch_pages(
        instance.account.access(),
        instance.region.name,
        instance_id=instance.instance_id,
        states=STATES,
        session_name=session_name,
    )
    found = [each for page in pages for each in page]
    if since is None:
        return found
    return [each for each in found if each.installed_at is not None and each.installed_at >= since]


def _keep(
    entries: list[Entry],
    nodes: list[dict[str, Any]],
    *,
    name: str,
    system: str,
    actor: User | str,
    run_id: uuid.UUID | None,
) -> PinnedSet:
    digest = digest_of(entries)
    with transaction.atomic():
        if run_id is not None:
            # Of two who freeze for one run at once the second waits here, and takes what the first has frozen.
            Run.objects.select_for_update().filter(pk=run_id).first()
            before = PinnedSet.objects.filter(run_id=run_id, operating_system=system).first()
            if before is not None:
                return before
        pinned = PinnedSet.objects.create(
            name=name[:128],
            operating_system=system,
            entries=[{"id": each.id, "title": each.title} for each in entries],
            digest=digest,
            nodes=[_plain(each) for each in nodes],
            run_id=run_id,
            made_at=clock_now(),
            actor_name=actor if isinstance(actor, str) else actor.username,
        )
        facts = {"digest": digest, "patches": len(entries), "nodes": [each["instance_id"] for each in nodes]}
        record("patching.set.freeze", actor=actor, target=pinned, run=str(run_id or ""), **facts)
    logger.info("patches frozen set=%s patches=%d nodes=%d", pinned.pk, len(entries), len(nodes))
    return pinned


def _plain(node: dict[str, Any]) -> dict[str, Any]:
    at = node["last_installed_at"]
    return node | {"last_installed_at": at.isoformat() if at else None}
