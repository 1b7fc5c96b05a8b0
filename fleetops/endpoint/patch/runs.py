"""AWS-RunPatchBaseline under way: what each node is sent, and what becomes of what it prints.

What a node gets depends on its baseline and snapshot, so the content of these documents is of one invocation each. It
is made anew whenever the job is sent again: under one snapshot's id it is the same, and a node that has it already
takes it once.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import uuid5

from fleetops import clock
from fleetops.awsapi.errors import ApiError
from fleetops.endpoint.calls import NodeKey
from fleetops.endpoint.models import Command, Invocation
from fleetops.endpoint.nodes import Nodes
from fleetops.endpoint.patch import document, report, table, windows
from fleetops.endpoint.patch.baselines import patch_group_of
from fleetops.endpoint.patch.facts import Report
from fleetops.endpoint.patch.operating_systems import FAMILIES, WINDOWS, of_platform, product_of
from fleetops.endpoint.patch.overrides import Lists, Unusable
from fleetops.endpoint.patch.records import PatchRecords
from fleetops.endpoint.patch.snapshots import Snapshot, Snapshots
from fleetops.wire import payloads

logger = logging.getLogger(__name__)

MARK: Final = "FLEETOPS-PATCH-REPORT "
LONGEST_TABLE: Final = 100_000  # bytes as it is sent; with the script it has to fit into one message, text within text
LONGEST_PLAIN: Final = 1024 * 1024  # bytes once it is unpacked


@dataclass(frozen=True, slots=True)
class Demo:
    """What a demo node's platform has in its repository now."""

    offers: tuple[table.Offer, ...]
    machine: str
    flaky: str


class PatchRuns:
    """What Run Command asks about the documents that patch."""

    def __init__(self, nodes: Nodes, snapshots: Snapshots, records: PatchRecords, lists: Lists) -> None:
        self._nodes = nodes
        self._snapshots = snapshots
        self._records = records
        self._lists = lists
        # What a demo node is offered; None for any other node. Set where demo nodes are known.
        self.demo: Callable[[NodeKey, datetime], Demo | None] = lambda key, now: None

    def is_ours(self, row: Command) -> bool:
        """Whether a command runs one of our documents; nobody else may have documents of these names."""
        return _name(row) in document.NAMES

    async def content(self, row: Command, key: NodeKey) -> Mapping[str, Any]:
        """A command's document as one node is sent it. Raises ApiError if it cannot be made now."""
        now = clock.now()
        demo = self.demo(key, now)
        node = self._nodes.find(key)
        system = of_platform(node.information) if node is not None else ""
        family = str(FAMILIES.get(system, ""))
        backend = "demo" if demo is not None else family
        if demo is not None and system == WINDOWS:
            backend = "demo-windows"
        try:
            if backend not in document.BACKENDS:
                raise Unusable(f"FleetOps's {_name(row)} has no package manager for {system or 'this platform'} yet.")
            text = await self._table(row, key, system, demo, now)
            if len(text) > LONGEST_PLAIN or len(document.carried(text)) > LONGEST_TABLE:
                raise Unusable("The baseline and the list of patches are too long for one command; nothing was done.")
        except Unusable as error:
            text = table.refused(str(error))
        except ApiError as error:
            if error.status >= 500:
                raise
            text = table.refused(error.message or error.code)
        return document.for_node(
            row.document_content,
            command_id=str(row.command_id),
            instance_id=key[2],
            table=text,
            backend=backend if backend in document.BACKENDS else "apt",
        )

    async def _table(self, row: Command, key: NodeKey, system: str, demo: Demo | None, now: datetime) -> str:
        """Raises Unusable or ApiError."""
        node = self._nodes.find(key)
        assert node is not None  # it has a system
        override, install_list = _given(row, "BaselineOverride"), _given(row, "InstallOverrideList")
        if override and install_list:
            raise Unusable("InstallOverrideList and BaselineOverride exclude each other; nothing was done.")
        baseline = await self._lists.baseline(key, str(row.command_id), override, system) if override else None
        wanted = None
        if install_list and _given(row, "Operation") == "Install":
            wanted = await self._lists.wanted(key, str(row.command_id), install_list)
        taken = await self._snapshot(row, key, baseline, now)
        setting = table.Setting(
            snapshot_id=taken.snapshot_id,
            family=str(FAMILIES[system]),
            product=product_of(node.information),
            patch_group=patch_group_of(node),
            is_override=taken.is_override,
            install_list=install_list,
            wanted=wanted,
            offers=demo.offers if demo is not None else (),
            updates=windows.updates(taken.baseline, taken_at=taken.taken_at, now=now) if system == WINDOWS else (),
            machine=demo.machine if demo is not None else "",
            flaky=demo.flaky if demo is not None else "",
            rendered_at=now if demo is not None else None,
        )
        return table.render(taken.baseline, now=taken.taken_at, setting=setting)

    async def _snapshot(
        self, row: Command, key: NodeKey, override: Mapping[str, Any] | None, now: datetime
    ) -> Snapshot:
        return await self._snapshots.take(key, _snapshot_id(row, key), override=override, now=now)

    def tells(self, content: payloads.ReplyContent) -> bool:
        """Whether a reply holds a part of a report."""
        return any(MARK in step.standard_output for step in (content.runtime_status or {}).values())

    def report(self, row: Command, invocation: Invocation) -> Report | None:
        """What a node has reported so far, if that is whole."""
        outputs = [str(step.get("stdout", "")) for step in invocation.steps.values()]
        try:
            return report.decode(outputs, command_id=str(row.command_id), instance_id=invocation.instance_id)
        except report.Unreported as error:
            logger.info(
                "patches not reported yet instance=%s command=%s reason=%s",
                *(invocation.instance_id, row.command_id, error),
            )
            return None

    async def keep(self, row: Command, key: NodeKey, found: Report) -> None:
        """Keep a report, and all that follows from it; one made under a BaselineOverride is for the reader alone."""
        if found.is_override:
            return
        now = clock.now()
        try:
            if found.snapshot_id.lower() != _snapshot_id(row, key).lower():
                raise ApiError("ValidationException", "The report names a snapshot that is not the command's.")
            taken = await self._snapshots.take(key, found.snapshot_id, now=now)
            if taken.is_override:  # whatever the node says of it
                return
            await self._records.store(
                key,
                found,
                baseline=taken.baseline,
                command_id=str(row.command_id),
                now=now,
                document_name=_name(row),
                execution_type="PatchPolicy" if _given(row, "AssociationId") else "Command",
            )
        except ApiError as error:  # a node that tells of too much, or has become another system's: its word is not kept
            logger.warning(
                "a patch report is not kept instance=%s command=%s reason=%s", key[2], row.command_id, error.message
            )


def _name(row: Command) -> str:
    return row.document_name.rpartition("/")[2]


def _snapshot_id(row: Command, key: NodeKey) -> str:
    """The snapshot that was asked for, or one of the node's own for this command."""
    return _given(row, "SnapshotId") or str(uuid5(row.command_id, key[2]))


def _given(row: Command, name: str) -> str:
    return str(row.parameters.get(name) or "")
