"""What AWS-RunPatchBaseline found on nodes: the last report of each, what it comes to, and who is told.

A report and what follows from it (compliance, Security Hub's finding, the event that is still to be told) are one
transaction: after a kill all of it is there or none. The event leaves afterwards, and again at the next start if it was
not taken; its id makes a repeat harmless.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final
from uuid import uuid4

import orjson
from django.db import transaction

from fleetops.endpoint import compliance, findings
from fleetops.endpoint.calls import NodeKey
from fleetops.endpoint.database import in_database
from fleetops.endpoint.models import PatchReport
from fleetops.endpoint.nodes import Nodes
from fleetops.endpoint.patch.baselines import Place, patch_group_of
from fleetops.endpoint.patch.decide import gravest, is_security
from fleetops.endpoint.patch.facts import (
    NAMELESS,
    NON_COMPLIANT,
    Baseline,
    Operation,
    PatchFact,
    PatchState,
    RebootOption,
    Report,
)

logger = logging.getLogger(__name__)

DOCUMENT: Final = "AWS-RunPatchBaseline"
_MOST_AT_ONCE: Final = 500  # of rows in one statement
_AGAIN_SECONDS: Final = 5.0  # until events that were not taken are told again

Told = Callable[[Mapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the patches of a node come to."""

    status: str  # COMPLIANT or NON_COMPLIANT
    severity: str  # the gravest level of what is not compliant
    critical: int  # not compliant, and CRITICAL for the baseline
    security: int  # not compliant, and security's for who released it
    other: int  # not compliant, and neither


def is_bad(patch: PatchFact, baseline: Baseline) -> bool:
    """Whether a patch makes its node non-compliant. Source: user guide, "Patch compliance state values"."""
    if patch.state == PatchState.AVAILABLE_SECURITY_UPDATE:
        return baseline.available_security_updates_status == compliance.NON_COMPLIANT
    return patch.state in NON_COMPLIANT


def judge(patches: Iterable[PatchFact], baseline: Baseline) -> Judgement:
    """What patches come to under a baseline. A critical one may be security's as well, and counts as both."""
    bad = [patch for patch in patches if is_bad(patch, baseline)]
    critical = [patch.level == "CRITICAL" for patch in bad]
    security = [is_security(patch.classification) for patch in bad]
    return Judgement(
        status=compliance.NON_COMPLIANT if bad else compliance.COMPLIANT,
        severity=gravest(patch.level for patch in bad) if bad else "UNSPECIFIED",
        critical=sum(critical),
        security=sum(security),
        other=sum(not (one or two) for one, two in zip(critical, security, strict=True)),
    )


class PatchRecords:
    """The reports' rows. They are written in the writer's one thread, read in the reader's."""

    def __init__(self, writer: Executor, reader: Executor, nodes: Nodes, tell: Told) -> None:
        """`tell` takes an event for EventBridge."""
        self._writer = writer
        self._reader = reader
        self._nodes = nodes
        self._tell = tell
        self._telling: asyncio.Task[None] | None = None
        self._has_untold = asyncio.Event()

    def start(self) -> None:
        self._has_untold.set()  # what was not told before the last end
        self._telling = asyncio.create_task(self._tell_regularly())

    async def stop(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.gather(self._telling, return_exceptions=True)

    async def store(
        self,
        key: NodeKey,
        report: Report,
        *,
        baseline: Baseline,
        command_id: str,
        now: datetime,
        document_name: str = DOCUMENT,
        execution_type: str = "Command",
    ) -> bool:
        """Keep a node's report; False if it is not its state: made by a BaselineOverride, or older than what is there.

        The same report again is the same state. An Install lists no missing patches: run a Scan to be sure.
        """
        node = self._nodes.find(key)
        if report.is_override or node is None:
            return False
        group = patch_group_of(node)[:256]
        # By the node's clock, but never later than ours: a report from the future would be the last for ever.
        ended_at = min(report.ended_at, now)
        started_at = min(report.started_at, ended_at)

        def write() -> PatchReport | None:
            # In the writer's thread: a node may have thousands of them.
            patches = [patch for patch in report.patches if _is_told(patch, report.operation)]
            counts = Counter(patch.state for patch in patches)
            counts[PatchState.NOT_APPLICABLE] = report.counts[PatchState.NOT_APPLICABLE]
            judged = judge(patches, baseline)
            with transaction.atomic():
                row = _rows(key[:2]).filter(instance_id=key[2]).first()
                if row is not None and ended_at < row.ended_at:
                    return None
                before = row.status if row is not None else ""
                row = row or PatchReport(account_id=key[0], region=key[1], instance_id=key[2])
                row.patch_group, row.baseline_id = group, baseline.baseline_id
                row.snapshot_id, row.command_id = report.snapshot_id[:36].replace("\0", ""), command_id
                row.operation, row.reboot_option = report.operation, report.reboot_option
                row.install_override_list = report.install_override_list[:256].replace("\0", "")
                row.started_at, row.ended_at = started_at, ended_at
                row.no_reboot_install_at = _last_no_reboot(report) or row.no_reboot_install_at
                row.counts = {state.value: counts[state] for state in PatchState}
                row.critical_count, row.security_count, row.other_count = judged.critical, judged.security, judged.other
                row.status, row.severity = judged.status, judged.severity
                row.patches = orjson.dumps([_kept(patch) for patch in patches]).decode()
                if before != judged.status:
                    row.untold = _event(key, row, now)
                row.save()
                compliance.write(
                    key,
                    compliance.PATCH,
                    [
                        _item(patch, baseline, group, document_name)
                        for patch in patches
                        if patch.state != PatchState.NOT_APPLICABLE
                    ],
                    execution={
                        "ExecutionTime": ended_at,
                        "ExecutionId": command_id,
                        "ExecutionType": execution_type,
                    },
                    is_known_empty=True,
                )
                if judged.status == compliance.NON_COMPLIANT and findings.has_hub(key[:2]):
                    findings.keep(key[:2], _finding(key, row, document_name, now), now)
                return row

        row = await in_database(self._writer, write)
        if row is None:
            logger.info("an older patch report is not kept instance=%s command=%s", key[2], command_id)
            return False
        logger.info(
            "patch report kept instance=%s command=%s operation=%s status=%s",
            *(key[2], command_id, row.operation, row.status),
        )
        if row.untold is not None:
            self._has_untold.set()
        return True

    async def node_gone(self, key: NodeKey) -> None:
        """Forget a node that is no longer managed."""
        await in_database(self._writer, _rows(key[:2]).filter(instance_id=key[2]).delete)

    async def _tell_regularly(self) -> None:
        while True:
            await self._has_untold.wait()
            self._has_untold.clear()
            try:
                await self._tell_all()
            except Exception:  # the outermost loop of the teller: it is tried again
                logger.exception("events of compliance not told")
                self._has_untold.set()
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _tell_all(self) -> None:
        rows = PatchReport.objects.filter(untold__isnull=False).order_by("pk").values_list("pk", "untold")
        while untold := await in_database(self._reader, lambda: list(rows[:_MOST_AT_ONCE])):
            for _, event in untold:
                await self._tell(event)
            await in_database(self._writer, partial(_tick_off, untold))

    # Reading

    async def of_nodes(self, place: Place, instance_ids: Sequence[str]) -> list[PatchReport]:
        """The reports of some nodes, without their patches, by the nodes' ids."""
        rows = _rows(place).filter(instance_id__in=list(instance_ids)[:_MOST_AT_ONCE]).defer("patches")
        return await in_database(self._reader, lambda: list(rows.order_by("instance_id")))

    async def of_group(self, place: Place, group: str) -> list[PatchReport]:
        """The reports of the nodes of a patch group, without their patches, by the nodes' ids."""
        rows = _rows(place).filter(patch_group=group).defer("patches").order_by("instance_id")
        return await in_database(self._reader, lambda: list(rows))

    async def patches(self, key: NodeKey) -> list[dict[str, Any]]:
        """The patches of a node's last report, in DescribeInstancePatches' members; [] for one never scanned."""
        rows = _rows(key[:2]).filter(instance_id=key[2]).values_list("patches", flat=True)
        text = await in_database(self._reader, rows.first)
        return orjson.loads(text) if text else []


def _rows(place: tuple[str, ...]) -> Any:
    return PatchReport.objects.filter(account_id=place[0], region=place[1])


def _tick_off(told: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
    """Note what was told; what has come in its place meanwhile is still to be told."""
    with transaction.atomic():
        for number, event in told:
            PatchReport.objects.filter(pk=number, untold__id=event["id"]).update(untold=None)


def _is_told(patch: PatchFact, operation: Operation) -> bool:
    return not (operation == Operation.INSTALL and patch.state == PatchState.MISSING)


def _last_no_reboot(report: Report) -> datetime | None:
    """The last attempt to patch with NoReboot: this one, or what the node remembers."""
    if report.operation == Operation.INSTALL and report.reboot_option == RebootOption.NO:
        return report.last_no_reboot_install_at or report.started_at
    return report.last_no_reboot_install_at


def _kept(patch: PatchFact) -> dict[str, Any]:
    is_named = patch.state not in NAMELESS
    return {
        "Title": patch.title if is_named else "",
        "KBId": patch.kb_id,
        "Classification": patch.classification if is_named else "",
        "Severity": patch.severity if is_named else "",
        "State": patch.state.value,
        "InstalledTime": patch.installed_at.timestamp() if patch.installed_at is not None else 0.0,
        "CVEIds": ",".join(patch.cves),
    }


def _item(patch: PatchFact, baseline: Baseline, group: str, document_name: str) -> dict[str, Any]:
    """A patch as an item of compliance. Source: user guide, "Viewing compliance of patches"."""
    if patch.state in NAMELESS:  # thousands of them
        details = {"PatchBaselineId": baseline.baseline_id, "PatchState": patch.state.value}
        return {"Id": patch.kb_id, "Severity": patch.level, "Status": compliance.COMPLIANT, "Details": details}
    details = {
        "DocumentName": document_name,
        "DocumentVersion": "1",
        "PatchBaselineId": baseline.baseline_id,
        "PatchGroup": group,
        "PatchState": patch.state.value,
        "Classification": patch.classification,
        "PatchSeverity": patch.severity,
        "InstalledTime": f"{patch.installed_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" if patch.installed_at else "",
        "CVEIds": ",".join(patch.cves),
    }
    return {
        "Id": patch.kb_id,
        "Title": patch.title,
        "Severity": patch.level,
        "Status": compliance.NON_COMPLIANT if is_bad(patch, baseline) else compliance.COMPLIANT,
        "Details": {name: value for name, value in details.items() if value},
    }


def _event(key: NodeKey, row: PatchReport, now: datetime) -> dict[str, Any]:
    """Source: user guide, "Amazon EventBridge event examples for Systems Manager" (compliance)."""
    account_id, region, instance_id = key
    return {
        "version": "0",
        "id": str(uuid4()),
        "detail-type": "Configuration Compliance State Change",
        "source": "aws.ssm",
        "account": account_id,
        "time": f"{now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "region": region,
        "resources": [f"arn:aws:ssm:{region}:{account_id}:managed-instance/{instance_id}"],
        "detail": {
            "resource-type": "managed-instance",
            "resource-id": instance_id,
            "compliance-status": row.status.lower(),
            "compliance-type": compliance.PATCH,
            "patch-baseline-id": row.baseline_id,
            "severity": row.severity.lower(),
        },
    }


def _finding(key: NodeKey, row: PatchReport, document_name: str, now: datetime) -> dict[str, Any]:
    """Patch Manager's own finding on a node that does not comply: one for each run, for its id holds the command's.

    The resource is an EC2 instance whatever the node is, as AWS has it. Source: user guide, "Integrating Patch Manager
    with AWS Security Hub".
    """
    account_id, region, instance_id = key
    run = row.command_id or row.snapshot_id
    node = f"arn:aws:patchmanager:{region}:{account_id}:instance/{instance_id}"
    name = f"{node}/document/{document_name}/run-command/{run}"
    product = f"arn:aws:securityhub:{region}::product/aws/ssm-patch-manager"
    started_at, ended_at, at = (
        f"{one.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" for one in (row.started_at, row.ended_at, now)
    )
    console = f"https://{region}.console.aws.amazon.com/systems-manager/managed-instances/{instance_id}"
    return {
        "SchemaVersion": "2018-10-08",
        "Id": name,
        "ProductArn": product,
        "ProductName": "Systems Manager Patch Manager",
        "CompanyName": "AWS",
        "GeneratorId": run,
        "AwsAccountId": account_id,
        "Types": ["Software & Configuration Checks/Patch Management/Compliance"],
        "CreatedAt": ended_at,
        "UpdatedAt": at,
        "Severity": {"Label": "INFORMATIONAL" if row.severity == "UNSPECIFIED" else row.severity},
        "Title": "Systems Manager Patch Summary - Managed Instance Non-Compliant",
        "Description": "Whether each instance that is managed by AWS Systems Manager complies with the rules of the "
        "patch baseline that applies to it when a compliance Scan runs.",
        "Remediation": {
            "Recommendation": {
                "Text": "For how to bring instances into compliance, see 'Remediating out-of-compliance instances'.",
                "Url": "https://docs.aws.amazon.com/systems-manager/latest/userguide/patch-compliance-remediation.html",
            }
        },
        "SourceUrl": f"{console}/patch?region={region}",
        "ProductFields": {
            "aws/securityhub/FindingId": f"{product}/{name}",
            "aws/securityhub/ProductName": "Systems Manager Patch Manager",
            "aws/securityhub/CompanyName": "AWS",
        },
        "Resources": [{"Type": "AwsEc2Instance", "Id": instance_id, "Partition": "aws", "Region": region}],
        "PatchSummary": {
            "Id": row.baseline_id.rpartition("/")[2],
            "InstalledCount": row.counts[PatchState.INSTALLED],
            "MissingCount": row.counts[PatchState.MISSING],
            "FailedCount": row.counts[PatchState.FAILED],
            "InstalledOtherCount": row.counts[PatchState.INSTALLED_OTHER],
            "InstalledRejectedCount": row.counts[PatchState.INSTALLED_REJECTED],
            "InstalledPendingReboot": row.counts[PatchState.INSTALLED_PENDING_REBOOT],
            "OperationStartTime": started_at,
            "OperationEndTime": ended_at,
            "RebootOption": row.reboot_option,
            "Operation": row.operation.upper(),
        },
    }
