"""The baselines that every account has of AWS, one for each operating system, three for Windows. Nobody changes them.

Source: Systems Manager user guide, "Predefined and custom patch baselines". All their levels are UNSPECIFIED.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

from fleetops.endpoint.patch.operating_systems import ANY

OWNER: Final = "845259048710"  # AWS has an account of its own in each region; here one stands for all
CREATED_AT: Final = datetime(2026, 1, 1, tzinfo=UTC)
_DAYS: Final = 7

Filters = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Predefined:
    """One baseline of AWS's, as it is in one region."""

    baseline_id: str  # its ARN: AWS's own are named by nothing less
    name: str
    operating_system: str
    description: str
    is_default: bool  # where nobody has said otherwise
    content: Mapping[str, Any]  # in the members of CreatePatchBaseline


def _filters(given: Filters) -> dict[str, Any]:
    return {"PatchFilters": [{"Key": key, "Values": list(values)} for key, values in given.items()]}


def _rule(given: Filters, *, days: int | None = _DAYS, non_security: bool = False) -> dict[str, Any]:
    rule = {
        "PatchFilterGroup": _filters(given),
        "ComplianceLevel": "UNSPECIFIED",
        "EnableNonSecurity": non_security,
    }
    return rule if days is None else rule | {"ApproveAfterDays": days}


_URGENT: Final = _rule({"PRODUCT": [ANY], "CLASSIFICATION": ["Security"], "SEVERITY": ["Critical", "Important"]})
_BUGFIX: Final = _rule({"PRODUCT": [ANY], "CLASSIFICATION": ["Bugfix"]})
_PRIORITIES: Final = _rule(
    {"PRODUCT": [ANY], "PRIORITY": ["Required", "Important", "Standard", "Optional", "Extra"]}, days=None
)
_WINDOWS: Final = {"CLASSIFICATION": ["CriticalUpdates", "SecurityUpdates"], "MSRC_SEVERITY": ["Critical", "Important"]}
_RULES: Final[Mapping[tuple[str, str, str], Sequence[Mapping[str, Any]]]] = {
    # operating system, name, what it is called in the description
    ("AMAZON_LINUX", "AWS-AmazonLinuxDefaultPatchBaseline", "Amazon Linux"): (_URGENT, _BUGFIX),
    ("AMAZON_LINUX_2", "AWS-AmazonLinux2DefaultPatchBaseline", "Amazon Linux 2"): (_URGENT, _BUGFIX),
    ("AMAZON_LINUX_2022", "AWS-AmazonLinux2022DefaultPatchBaseline", "Amazon Linux 2022"): (_URGENT, _BUGFIX),
    ("AMAZON_LINUX_2023", "AWS-AmazonLinux2023DefaultPatchBaseline", "Amazon Linux 2023"): (_URGENT, _BUGFIX),
    ("ALMA_LINUX", "AWS-AlmaLinuxDefaultPatchBaseline", "Alma Linux"): (_URGENT, _BUGFIX),
    ("CENTOS", "AWS-CentOSDefaultPatchBaseline", "CentOS"): (_rule({"PRODUCT": [ANY]}, non_security=True),),
    ("DEBIAN", "AWS-DebianDefaultPatchBaseline", "Debian"): (_PRIORITIES,),
    ("MACOS", "AWS-MacOSDefaultPatchBaseline", "MacOS"): (_rule({"PRODUCT": [ANY], "CLASSIFICATION": [ANY]}, days=0),),
    ("ORACLE_LINUX", "AWS-OracleLinuxDefaultPatchBaseline", "Oracle Linux"): (
        _rule({"PRODUCT": [ANY], "CLASSIFICATION": ["Security"], "SEVERITY": ["Important", "Moderate"]}),
        _BUGFIX,
    ),
    ("RASPBIAN", "AWS-DefaultRaspbianPatchBaseline", "Raspbian"): (_PRIORITIES,),
    ("REDHAT_ENTERPRISE_LINUX", "AWS-RedHatDefaultPatchBaseline", "Redhat Enterprise Linux"): (_URGENT, _BUGFIX),
    ("ROCKY_LINUX", "AWS-RockyLinuxDefaultPatchBaseline", "Rocky Linux"): (_URGENT, _BUGFIX),
    ("SUSE", "AWS-SuseDefaultPatchBaseline", "Suse"): (_URGENT,),
    ("UBUNTU", "AWS-UbuntuDefaultPatchBaseline", "Ubuntu"): (_PRIORITIES,),
    ("WINDOWS", "AWS-DefaultPatchBaseline", "Windows"): (_rule(_WINDOWS),),
    ("WINDOWS", "AWS-WindowsPredefinedPatchBaseline-OS", "the Windows operating system"): (_rule(_WINDOWS),),
    ("WINDOWS", "AWS-WindowsPredefinedPatchBaseline-OS-Applications", "Windows and Microsoft's applications"): (
        _rule({"PATCH_SET": ["OS"], **_WINDOWS}),
        _rule({"PATCH_SET": ["APPLICATION"], "PRODUCT_FAMILY": [ANY], "CLASSIFICATION": [ANY]}),
    ),
}
_NOT_DEFAULT: Final = "AWS-WindowsPredefined"


@cache
def predefined(region: str) -> Mapping[str, Predefined]:
    """AWS's baselines of a region by their ARNs, in the order of their operating systems."""
    made = {}
    for (system, name, called), rules in sorted(_RULES.items()):
        digits = hashlib.sha256(f"{region}/{name}".encode()).hexdigest()[:16]
        arn = f"arn:aws:ssm:{region}:{OWNER}:patchbaseline/pb-0{digits}"
        content = {"OperatingSystem": system, "Name": name, "ApprovalRules": {"PatchRules": list(rules)}}
        description = f"Default Patch Baseline for {called} Provided by AWS."
        made[arn] = Predefined(arn, name, system, description, not name.startswith(_NOT_DEFAULT), content)
    return made


@cache
def default(region: str, system: str) -> Predefined:
    """AWS's own default for an operating system."""
    return next(one for one in predefined(region).values() if one.operating_system == system and one.is_default)
