"""The operating systems that Patch Manager knows: who runs one, which products it has, what a filter may say of it.

Source: the SSM API reference (PatchFilter, DescribePatchProperties) and the user guide's tables of prerequisites. What
AWS reads out of its own repositories day by day (products) stands here as a list.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

WINDOWS: Final = "WINDOWS"
MACOS: Final = "MACOS"


class Family(StrEnum):
    """How packages are named and chosen."""

    RPM = "rpm"
    APT = "apt"
    SUSE = "suse"
    MACOS = "macos"
    WINDOWS = "windows"


FAMILIES: Final[Mapping[str, Family]] = {
    "AMAZON_LINUX": Family.RPM,
    "AMAZON_LINUX_2": Family.RPM,
    "AMAZON_LINUX_2022": Family.RPM,
    "AMAZON_LINUX_2023": Family.RPM,
    "CENTOS": Family.RPM,
    "ORACLE_LINUX": Family.RPM,
    "REDHAT_ENTERPRISE_LINUX": Family.RPM,
    "ROCKY_LINUX": Family.RPM,
    "ALMA_LINUX": Family.RPM,
    "SUSE": Family.SUSE,
    "DEBIAN": Family.APT,
    "RASPBIAN": Family.APT,
    "UBUNTU": Family.APT,
    MACOS: Family.MACOS,
    WINDOWS: Family.WINDOWS,
}

# What begins a PlatformName as the agent reports it; the first that fits.
_PLATFORMS: Final = (
    ("ubuntu", "UBUNTU"),
    ("raspbian", "RASPBIAN"),
    ("raspberry pi os", "RASPBIAN"),
    ("debian", "DEBIAN"),
    ("red hat", "REDHAT_ENTERPRISE_LINUX"),
    ("centos", "CENTOS"),
    ("oracle", "ORACLE_LINUX"),
    ("sles", "SUSE"),
    ("suse", "SUSE"),
    ("rocky", "ROCKY_LINUX"),
    ("almalinux", "ALMA_LINUX"),
    ("macos", MACOS),
    ("mac os", MACOS),
)
_AMAZON: Final = {"2": "AMAZON_LINUX_2", "2022": "AMAZON_LINUX_2022", "2023": "AMAZON_LINUX_2023"}
_WINDOWS_YEAR: Final = re.compile(r"\b(20\d\d)( R2)?\b")


def of_platform(information: Mapping[str, Any]) -> str:
    """The operating system of a node by what its agent reports of it; "" for one that Patch Manager does not know."""
    name = str(information.get("PlatformName", "")).lower()
    if information.get("PlatformType") == "Windows":
        return WINDOWS
    if information.get("PlatformType") == "MacOS":
        return MACOS
    if name.startswith("amazon linux"):
        version = str(information.get("PlatformVersion", "")).partition(".")[0]
        return _AMAZON.get(version, "AMAZON_LINUX")
    return next((system for start, system in _PLATFORMS if name.startswith(start)), "")


def product_of(information: Mapping[str, Any]) -> str:
    """The product of a node as PRODUCT filters name it: "Ubuntu22.04", "Debian12", "RedhatEnterpriseLinux9.6"."""
    system = of_platform(information)
    name, version = str(information.get("PlatformName", "")), str(information.get("PlatformVersion", ""))
    if system == WINDOWS:
        year = _WINDOWS_YEAR.search(name)
        return f"WindowsServer{year[1]}{'R2' if year[2] else ''}" if year is not None else ""
    major, _, rest = version.partition(".")
    if system in {"DEBIAN", "RASPBIAN", "AMAZON_LINUX_2022", "AMAZON_LINUX_2023"}:
        return f"{_PRODUCTS_BEGIN[system]}{major}" if major else ""
    if system == "AMAZON_LINUX_2":
        return "AmazonLinux2"
    if system not in _PRODUCTS_BEGIN or not version:
        return ""
    minor = rest.partition(".")[0]
    return f"{_PRODUCTS_BEGIN[system]}{major}{f'.{minor}' if minor else ''}"


_PRODUCTS_BEGIN: Final = {
    "AMAZON_LINUX": "AmazonLinux",
    "AMAZON_LINUX_2022": "AmazonLinux",
    "AMAZON_LINUX_2023": "AmazonLinux",
    "CENTOS": "CentOS",
    "ORACLE_LINUX": "OracleLinux",
    "REDHAT_ENTERPRISE_LINUX": "RedhatEnterpriseLinux",
    "ROCKY_LINUX": "RockyLinux",
    "ALMA_LINUX": "AlmaLinux",
    "SUSE": "Suse",
    "DEBIAN": "Debian",
    "RASPBIAN": "Raspbian",
    "UBUNTU": "Ubuntu",
    MACOS: "MacOS",
}


def _numbered(begin: str, *numbers: str) -> tuple[str, ...]:
    return tuple(f"{begin}{number}" for number in numbers)


def _minors(begin: str, **last: int) -> tuple[str, ...]:
    """Each minor version of some majors: `_8=10` is 8, 8.0 to 8.10."""
    made: list[str] = []
    for major, minor in last.items():
        made.append(f"{begin}{major[1:]}")
        made += [f"{begin}{major[1:]}.{n}" for n in range(minor + 1)]
    return tuple(made)


WINDOWS_PRODUCTS: Final = (
    *_numbered("WindowsServer", "2012", "2012R2", "2016", "2019", "2022", "2025"),
    *("Windows10", "Windows10LTSB", "Windows11"),
)
# Of applications that Microsoft releases: family → products.
APPLICATION_PRODUCTS: Final[Mapping[str, tuple[str, ...]]] = {
    "Developer Tools, Runtimes, and Redistributables": (".NET 8.0", ".NET 9.0", "Visual Studio 2022"),
    "Exchange": ("Exchange Server 2016", "Exchange Server 2019"),
    "Microsoft Defender": ("MicrosoftDefenderAntivirus",),
    "Office": ("Office 2013", "Office 2016", "Office 2019"),
    "SQL Server": ("Microsoft SQL Server 2017", "Microsoft SQL Server 2019", "Microsoft SQL Server 2022"),
}

PRODUCTS: Final[Mapping[str, tuple[str, ...]]] = {
    "AMAZON_LINUX": tuple(
        f"AmazonLinux{year}.{month}"
        for year in range(2012, 2019)
        for month in ("03", "09")
        if (year, month) != (2018, "09")
    ),
    "AMAZON_LINUX_2": ("AmazonLinux2", "AmazonLinux2.0"),
    "AMAZON_LINUX_2022": ("AmazonLinux2022",),
    "AMAZON_LINUX_2023": ("AmazonLinux2023", "AmazonLinux2023.0"),
    "CENTOS": (*_minors("CentOS", _6=10, _7=9, _8=5), "CentOS9", "CentOS10"),
    "ORACLE_LINUX": _minors("OracleLinux", _7=9, _8=10, _9=7, _10=1),
    "REDHAT_ENTERPRISE_LINUX": _minors("RedhatEnterpriseLinux", _6=10, _7=9, _8=10, _9=7, _10=1),
    "ROCKY_LINUX": _minors("RockyLinux", _8=10, _9=7, _10=1),
    "ALMA_LINUX": _minors("AlmaLinux", _8=10, _9=7, _10=1),
    "SUSE": _minors("Suse", _12=5, _15=7, _16=0),
    "DEBIAN": _numbered("Debian", *map(str, range(8, 14))),
    "RASPBIAN": _numbered("Raspbian", *map(str, range(9, 14))),
    "UBUNTU": tuple(
        f"Ubuntu{year}.{month}" for year in range(14, 27) for month in ("04", "10") if year < 26 or month == "04"
    ),
    MACOS: (*_minors("MacOS", _11=7, _12=7, _13=7, _14=8, _15=7, _26=1),),
    WINDOWS: WINDOWS_PRODUCTS,
}

_RPM_CLASSES: Final = ("Security", "Bugfix", "Enhancement", "Recommended", "Newpackage")
_AMAZON_SEVERITIES: Final = ("Critical", "Important", "Medium", "Low")
_RPM_SEVERITIES: Final = ("Critical", "Important", "Moderate", "Low", "None")
_PRIORITIES: Final = ("Required", "Important", "Standard", "Optional", "Extra")
_WINDOWS_CLASSES: Final = (
    *("CriticalUpdates", "DefinitionUpdates", "Drivers", "FeaturePacks", "SecurityUpdates", "ServicePacks"),
    *("Tools", "UpdateRollups", "Updates", "Upgrades"),
)
# What counts as a security fix wherever one is counted.
SECURITY_CLASSES: Final = frozenset({"Security", "SecurityUpdates"})
ANY: Final = "*"


def values(system: str, key: str) -> tuple[str, ...] | None:
    """The legal values of a filter key; () for one of which only the length counts, None for one that it has not."""
    family = FAMILIES[system]
    if key == "PRODUCT":
        if family == Family.WINDOWS:
            return (*WINDOWS_PRODUCTS, *(name for names in APPLICATION_PRODUCTS.values() for name in names))
        return PRODUCTS[system]
    held: Mapping[str, tuple[str, ...]]
    if family == Family.WINDOWS:
        held = {
            "PATCH_SET": ("OS", "APPLICATION"),
            "PRODUCT_FAMILY": ("Windows", *APPLICATION_PRODUCTS),
            "CLASSIFICATION": _WINDOWS_CLASSES,
            "MSRC_SEVERITY": ("Critical", "Important", "Moderate", "Low", "Unspecified"),
        }
    elif family == Family.APT:
        held = {"PRIORITY": _PRIORITIES, "SECTION": ()}  # SECTION: older copies of the API reference
    elif family == Family.MACOS:
        held = {"CLASSIFICATION": ("Security", "Recommended")}
    elif family == Family.SUSE:
        held = {
            "CLASSIFICATION": ("Security", "Recommended", "Optional", "Feature", "Document", "Yast"),
            "SEVERITY": ("Critical", "Important", "Moderate", "Low"),
        }
    else:
        severities = _AMAZON_SEVERITIES if system.startswith("AMAZON") else _RPM_SEVERITIES
        held = {"CLASSIFICATION": _RPM_CLASSES, "SEVERITY": severities}
    return held.get(key)


def keys(system: str) -> tuple[str, ...]:
    """The filter keys that an operating system's baselines take."""
    return {
        Family.WINDOWS: ("PATCH_SET", "PRODUCT", "PRODUCT_FAMILY", "CLASSIFICATION", "MSRC_SEVERITY"),
        Family.APT: ("PRODUCT", "PRIORITY", "SECTION"),
        Family.MACOS: ("PRODUCT", "CLASSIFICATION"),
    }.get(FAMILIES[system], ("PRODUCT", "CLASSIFICATION", "SEVERITY"))


def properties(system: str, key: str, patch_set: str) -> tuple[str, ...] | None:
    """The values of a property as DescribePatchProperties lists them, of one patch set; None if there is none."""
    if key not in {"PRODUCT", "PRODUCT_FAMILY", "CLASSIFICATION", "MSRC_SEVERITY", "PRIORITY", "SEVERITY"}:
        return None
    if system == WINDOWS and key == "PRODUCT":
        if patch_set == "OS":
            return WINDOWS_PRODUCTS
        return tuple(name for names in APPLICATION_PRODUCTS.values() for name in names)
    if system == WINDOWS and key == "PRODUCT_FAMILY":
        return ("Windows",) if patch_set == "OS" else tuple(APPLICATION_PRODUCTS)
    return values(system, key)
