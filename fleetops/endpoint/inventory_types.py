"""The types of SSM Inventory that AWS names: their versions and attributes, and whether nodes put them.

Sources: amazon-ssm-agent, agent/plugins/inventory/model/model.go and the gatherers' schema versions; SSM user guide,
"Metadata collected by inventory".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

INSTANCE: Final = "AWS:InstanceInformation"
TAG: Final = "AWS:Tag"
COMPLIANCE_ITEM: Final = "AWS:ComplianceItem"


@dataclass(frozen=True, slots=True)
class InventoryType:
    """One type of AWS's own."""

    attributes: tuple[str, ...]
    versions: tuple[str, ...] = ("1.0",)  # the newest last
    numbers: frozenset[str] = frozenset()
    is_put: bool = True  # by nodes; what is not is made of what the endpoint knows by itself


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_COMPONENT = "Name ApplicationType Publisher Version InstalledTime Architecture URL"
_PATCH_COUNTS = _names(
    "InstalledCount InstalledOtherCount InstalledPendingRebootCount InstalledRejectedCount NotApplicableCount "
    "MissingCount FailedCount"
)

TYPES: Final[Mapping[str, InventoryType]] = {
    "AWS:AWSComponent": InventoryType(_names(_COMPONENT)),
    "AWS:Application": InventoryType(_names(f"{_COMPONENT} Release Epoch Summary PackageId"), ("1.0", "1.1")),
    "AWS:BillingInfo": InventoryType(("BillingProductId",)),
    COMPLIANCE_ITEM: InventoryType(
        _names(
            "ComplianceType ExecutionId ExecutionType ExecutionTime Id Title Status Severity DocumentName "
            "DocumentVersion Classification PatchBaselineId PatchSeverity PatchState PatchGroup InstalledTime"
        )
    ),
    "AWS:File": InventoryType(
        _names(
            "Name Size Description FileVersion InstalledDate ModificationTime LastAccessTime ProductName InstalledDir "
            "CompanyName ProductVersion ProductLanguage"
        )
    ),
    "AWS:InstanceDetailedInformation": InventoryType(
        _names("CPUModel CPUSpeedMHz CPUs CPUSockets CPUCores CPUHyperThreadEnabled OSServicePack KernelVersion"),
        numbers=frozenset({"CPUSpeedMHz", "CPUs", "CPUSockets", "CPUCores"}),
    ),
    INSTANCE: InventoryType(
        _names(
            "AgentType AgentVersion ComputerName InstanceId InstanceStatus IpAddress PlatformName PlatformType "
            "PlatformVersion ResourceType"
        ),
        is_put=False,
    ),
    "AWS:Network": InventoryType(_names("Name SubnetMask Gateway DHCPServer DNSServer MacAddress IPV4 IPV6")),
    "AWS:PatchCompliance": InventoryType(_names("Title KBId Classification Severity State InstalledTime")),
    "AWS:PatchSummary": InventoryType(
        (
            *_names("PatchGroup BaselineId SnapshotId OwnerInformation"),
            *_PATCH_COUNTS,
            *_names("OperationType OperationStartTime OperationEndTime RebootOption"),
        ),
        numbers=frozenset(_PATCH_COUNTS),
    ),
    "AWS:Service": InventoryType(
        _names("Name DisplayName ServiceType Status DependentServices ServicesDependedOn StartType")
    ),
    TAG: InventoryType(("Key", "Value"), is_put=False),
    "AWS:WindowsRegistry": InventoryType(_names("KeyPath ValueName ValueType Value")),
    "AWS:WindowsRole": InventoryType(
        _names(
            "Name DisplayName Description Path FeatureType DependsOn SubFeatures ServerComponentDescriptor Parent "
            "Installed InstalledState"
        )
    ),
    "AWS:WindowsUpdate": InventoryType(_names("HotFixId Description InstalledTime InstalledBy")),
}
# What GetInventorySchema shows of the types that can be counted by attribute, as AWS documents it.
COUNTED: Final = {INSTANCE: ("PlatformName", "PlatformType", "PlatformVersion")}


def version_key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
