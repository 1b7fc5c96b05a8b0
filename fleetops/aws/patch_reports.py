"""Patch Manager: what instances last reported, summed up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from .clients import AccountAccess, client
from .errors import aws_call

MOST_SUMMARIES: Final = 50  # ids of one DescribeInstancePatchStates [botocore's model of ssm]


@dataclass(frozen=True, slots=True)
class PatchSummary:
    """One InstancePatchState: the last report of an instance, in numbers."""

    instance_id: str
    operation: str  # Scan or Install
    started_at: datetime | None
    ended_at: datetime | None
    baseline_id: str = ""
    snapshot_id: str = ""
    patch_group: str = ""
    override_list: str = ""
    reboot_option: str = ""
    owner: str = ""  # OwnerInformation
    installed: int = 0
    installed_other: int = 0
    pending_reboot: int = 0
    rejected: int = 0
    missing: int = 0
    failed: int = 0
    not_applicable: int = 0
    available_security: int = 0
    critical: int = 0
    security: int = 0
    other: int = 0
    last_no_reboot_at: datetime | None = None  # when an Install that was not to restart last ended


def summaries(
    access: AccountAccess, region: str, *, instance_ids: Sequence[str], session_name: str
) -> list[PatchSummary]:
    """What these instances last reported, at most MOST_SUMMARIES of them; those that never did are left out."""
    if not instance_ids:
        return []
    ssm = client("ssm", access, region, session_name=session_name)
    request: dict[str, Any] = {"InstanceIds": list(instance_ids), "MaxResults": 100}
    found: list[PatchSummary] = []
    while True:
        with aws_call("ssm:DescribeInstancePatchStates", where=f"{access.account_id} {region}"):
            answer = ssm.describe_instance_patch_states(**request)
        found += map(_summary, answer.get("InstancePatchStates", []))
        if not answer.get("NextToken"):
            return found
        request["NextToken"] = answer["NextToken"]


def _summary(answer: Mapping[str, Any]) -> PatchSummary:
    return PatchSummary(
        instance_id=answer["InstanceId"],
        operation=answer.get("Operation", ""),
        started_at=answer.get("OperationStartTime"),
        ended_at=answer.get("OperationEndTime"),
        baseline_id=answer.get("BaselineId", ""),
        snapshot_id=answer.get("SnapshotId") or "",
        patch_group=answer.get("PatchGroup") or "",
        override_list=answer.get("InstallOverrideList") or "",
        reboot_option=answer.get("RebootOption") or "",
        owner=answer.get("OwnerInformation") or "",
        installed=answer.get("InstalledCount") or 0,
        installed_other=answer.get("InstalledOtherCount") or 0,
        pending_reboot=answer.get("InstalledPendingRebootCount") or 0,
        rejected=answer.get("InstalledRejectedCount") or 0,
        missing=answer.get("MissingCount") or 0,
        failed=answer.get("FailedCount") or 0,
        # Beyond a limit a node only counts those that do not apply.
        not_applicable=(answer.get("NotApplicableCount") or 0) + (answer.get("UnreportedNotApplicableCount") or 0),
        available_security=answer.get("AvailableSecurityUpdateCount") or 0,
        critical=answer.get("CriticalNonCompliantCount") or 0,
        security=answer.get("SecurityNonCompliantCount") or 0,
        other=answer.get("OtherNonCompliantCount") or 0,
        last_no_reboot_at=answer.get("LastNoRebootInstallOperationTime"),
    )
