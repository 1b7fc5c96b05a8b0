"""The operating systems that Patch Manager knows, and what differs between their families.

Sources: botocore's model of ssm (OperatingSystem, PatchFilter, PatchRule); Systems Manager user guide,
"Package name formats for approved and rejected patch lists".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

# AWS's value -> what people read. In the order of the list.
OPERATING_SYSTEMS = {
    "AMAZON_LINUX_2023": "Amazon Linux 2023",
    "AMAZON_LINUX_2022": "Amazon Linux 2022",
    "AMAZON_LINUX_2": "Amazon Linux 2",
    "AMAZON_LINUX": "Amazon Linux 1",
    "UBUNTU": "Ubuntu",
    "DEBIAN": "Debian",
    "RASPBIAN": "Raspbian",
    "REDHAT_ENTERPRISE_LINUX": "Red Hat Enterprise Linux",
    "CENTOS": "CentOS",
    "ROCKY_LINUX": "Rocky Linux",
    "ALMA_LINUX": "AlmaLinux",
    "ORACLE_LINUX": "Oracle Linux",
    "SUSE": "SUSE Linux Enterprise",
    "MACOS": "macOS",
    "WINDOWS": "Windows",
}


class Family(StrEnum):
    """Whose package manager it is."""

    RPM = "rpm"
    APT = "apt"
    SUSE = "suse"
    MACOS = "macos"
    WINDOWS = "windows"


_FAMILIES = {
    "UBUNTU": Family.APT,
    "DEBIAN": Family.APT,
    "RASPBIAN": Family.APT,
    "SUSE": Family.SUSE,
    "MACOS": Family.MACOS,
    "WINDOWS": Family.WINDOWS,
}


@dataclass(frozen=True, slots=True)
class Traits:
    """What a baseline of a family can say."""

    keys: tuple[str, ...]  # of its filters
    has_delay: bool = True  # ApproveAfterDays and ApproveUntilDate
    has_non_security: bool = True
    has_sources: bool = True
    list_hint: str = ""  # one of the lists of names, explained


_TRAITS = {
    Family.RPM: Traits(
        ("PRODUCT", "CLASSIFICATION", "SEVERITY"),
        list_hint="One a line: name, name.arch, name-version-release.arch, or with one *; approved also "
        "CVE-2026-1234, an advisory as ALAS-2026-123, or a Bugzilla number",
    ),
    Family.APT: Traits(
        ("PRODUCT", "PRIORITY", "SECTION"),
        has_delay=False,
        list_hint="One a line: the package's name alone, without version and architecture",
    ),
    Family.SUSE: Traits(
        ("PRODUCT", "CLASSIFICATION", "SEVERITY"),
        list_hint="One a line: a patch as SUSE-SLE-Product-SLES-15-2026-123, a package as "
        "name-version-release.arch.rpm, or with one *",
    ),
    Family.MACOS: Traits(
        ("PRODUCT", "CLASSIFICATION"),
        has_non_security=False,
        has_sources=False,
        list_hint="One a line: the full name, as XProtectPlistConfigData",
    ),
    Family.WINDOWS: Traits(
        ("PATCH_SET", "PRODUCT_FAMILY", "PRODUCT", "CLASSIFICATION", "MSRC_SEVERITY"),
        has_non_security=False,
        has_sources=False,
        list_hint="One a line: KB5041585, or a bulletin as MS17-010",
    ),
}

KEY_NAMES = {
    "PRODUCT": "Products",
    "PRODUCT_FAMILY": "Product families",
    "CLASSIFICATION": "Classifications",
    "SEVERITY": "Severities",
    "MSRC_SEVERITY": "Severities (MSRC)",
    "PRIORITY": "Priorities",
    "SECTION": "Sections",
    "PATCH_SET": "Patch set",
}
# For which AWS lists the values [SSM, DescribePatchProperties]; the others are written by hand.
LISTED_KEYS = frozenset({"PRODUCT", "PRODUCT_FAMILY", "CLASSIFICATION", "MSRC_SEVERITY", "PRIORITY", "SEVERITY"})
PATCH_SETS = ("OS", "APPLICATION")


def family_of(operating_system: str) -> Family:
    return _FAMILIES.get(operating_system, Family.RPM)


def traits_of(operating_system: str) -> Traits:
    return _TRAITS[family_of(operating_system)]


# What agents report as PlatformName, the beginning of it, in lower case; the first that fits.
_PLATFORMS = (
    ("amazon linux", ""),  # by its version
    ("ubuntu", "UBUNTU"),
    ("raspbian", "RASPBIAN"),
    ("raspberry pi os", "RASPBIAN"),
    ("debian", "DEBIAN"),
    ("red hat", "REDHAT_ENTERPRISE_LINUX"),
    ("rhel", "REDHAT_ENTERPRISE_LINUX"),
    ("centos", "CENTOS"),
    ("rocky", "ROCKY_LINUX"),
    ("almalinux", "ALMA_LINUX"),
    ("oracle linux", "ORACLE_LINUX"),
    ("sles", "SUSE"),
    ("suse", "SUSE"),
)


def operating_system_of(platform_type: str, platform_name: str, platform_version: str) -> str:
    """AWS's value for what an agent reports of its platform; empty for one that Patch Manager does not know."""
    if platform_type == "Windows":
        return "WINDOWS"
    if platform_type == "MacOS":
        return "MACOS"
    name = platform_name.lower()
    for start, operating_system in _PLATFORMS:
        if name.startswith(start):
            return operating_system or _amazon(platform_version)
    return ""


def _amazon(version: str) -> str:
    year = re.match(r"\d+", version)
    return {"2": "AMAZON_LINUX_2", "2022": "AMAZON_LINUX_2022", "2023": "AMAZON_LINUX_2023"}.get(
        year.group() if year else "", "AMAZON_LINUX"
    )
