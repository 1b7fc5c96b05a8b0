"""Our findings as Security Hub reads them (ASFF 2018-10-08). Pure.

The id is made of account, region, instance and baseline alone, so that it stays the same from run to run: Patch
Manager's own bear the id of a command, and each run may leave another. Source: botocore's model of securityhub;
Security Hub user guide, "Using BatchImportFindings".
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

SCHEMA: Final = "2018-10-08"
GENERATOR: Final = "fleetops-patch-compliance"
TYPE: Final = "Software & Configuration Checks/Patch Management/Compliance"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a finding says."""

    account_id: str
    region: str
    instance_id: str
    instance_name: str
    baseline_id: str
    is_failed: bool
    is_gone: bool  # the instance is: whatever it had is over
    began_at: datetime
    changed_at: datetime
    operation: str = ""
    reboot_option: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    installed: int = 0
    installed_other: int = 0
    pending_reboot: int = 0
    rejected: int = 0
    missing: int = 0
    failed: int = 0
    critical: int = 0
    security: int = 0


def product_arn(account_id: str, region: str) -> str:
    """The product of findings that an account makes itself."""
    return f"arn:aws:securityhub:{region}:{account_id}:product/{account_id}/default"


def finding_id(account_id: str, region: str, instance_id: str, baseline_id: str) -> str:
    return f"fleetops/patch/{account_id}/{region}/{instance_id}/{baseline_id.rpartition('/')[2]}"


def resource_arn(account_id: str, region: str, instance_id: str) -> str:
    if instance_id.startswith("mi-"):
        return f"arn:aws:ssm:{region}:{account_id}:managed-instance/{instance_id}"
    return f"arn:aws:ec2:{region}:{account_id}:instance/{instance_id}"


def severity(facts: Facts) -> str:
    """The label of the worst that keeps an instance from being compliant."""
    if not facts.is_failed:
        return "INFORMATIONAL"
    if facts.critical:
        return "CRITICAL"
    return "HIGH" if facts.security else "MEDIUM"


def render(facts: Facts) -> dict[str, Any]:
    """One finding. Note, Workflow, UserDefinedFields and VerificationState are people's: never in here."""
    label = severity(facts)
    name = facts.instance_name or facts.instance_id
    if facts.is_failed:
        title = f"{name} is not compliant with its patch baseline"[:256]
    else:
        title = f"{name} is compliant with its patch baseline"[:256]
    if facts.is_gone:
        title = f"{name} is gone"[:256]
    is_hybrid = facts.instance_id.startswith("mi-")
    summary = {
        "Id": facts.baseline_id[:256],
        "InstalledCount": facts.installed,
        "MissingCount": facts.missing,
        "FailedCount": facts.failed,
        "InstalledOtherCount": facts.installed_other,
        "InstalledRejectedCount": facts.rejected,
        "InstalledPendingReboot": facts.pending_reboot,  # without "Count", unlike all others
        "OperationStartTime": moment_of(facts.started_at),
        "OperationEndTime": moment_of(facts.ended_at),
        "RebootOption": facts.reboot_option,
        "Operation": facts.operation,
    }
    return {
        "SchemaVersion": SCHEMA,
        "Id": finding_id(facts.account_id, facts.region, facts.instance_id, facts.baseline_id),
        "ProductArn": product_arn(facts.account_id, facts.region),
        "GeneratorId": GENERATOR,
        "AwsAccountId": facts.account_id,
        "Types": [TYPE],
        "CreatedAt": moment_of(facts.began_at),
        "UpdatedAt": moment_of(facts.changed_at),
        "Severity": {"Label": label},
        "FindingProviderFields": {"Severity": {"Label": label}, "Types": [TYPE]},
        "Title": title,
        "Description": (
            f"{facts.missing} missing, {facts.failed} failed, {facts.pending_reboot} pending a restart, "
            f"{facts.rejected} rejected; by the {facts.operation or 'last report'} of "
            f"{moment_of(facts.ended_at) or 'an unknown moment'}."
        ),
        "Compliance": {"Status": "FAILED" if facts.is_failed else "PASSED"},
        "RecordState": "ACTIVE" if facts.is_failed else "ARCHIVED",
        "Resources": [
            {
                # ASFF has no type for a machine outside EC2.
                "Type": "Other" if is_hybrid else "AwsEc2Instance",
                "Id": resource_arn(facts.account_id, facts.region, facts.instance_id),
                "Partition": "aws",
                "Region": facts.region,
            }
        ],
        "PatchSummary": {key: value for key, value in summary.items() if value != ""},
    }


def moment_of(moment: datetime | None) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ") if moment else ""
