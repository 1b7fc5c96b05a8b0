"""The patches that the service itself knows: Windows' and Amazon Linux's, as AWS lists them.

Of other systems the nodes' own repositories decide, and DescribeAvailablePatches lists none of theirs. Windows' are a
small believable list, for no Windows node runs here; Amazon Linux's are those of the demo nodes (catalogue.py).
"""

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from fleetops.awsapi.errors import ApiError
from fleetops.endpoint.patch import catalogue
from fleetops.endpoint.patch.decide import holds
from fleetops.endpoint.patch.facts import Candidate, Filter
from fleetops.endpoint.patch.operating_systems import WINDOWS

_OF_WINDOWS: Final = ("PATCH_SET", "PRODUCT", "PRODUCT_FAMILY", "MSRC_SEVERITY", "CLASSIFICATION", "PATCH_ID")
_OF_LINUX: Final = (
    *("PRODUCT", "NAME", "SEVERITY", "CLASSIFICATION", "EPOCH", "VERSION", "RELEASE", "ARCH"),
    *("ADVISORY_ID", "CVE_ID", "BUGZILLA_ID"),
)
_LISTED_LINUX: Final = ("AMAZON_LINUX", "AMAZON_LINUX_2", "AMAZON_LINUX_2022", "AMAZON_LINUX_2023")
_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NAMESPACE: Final = uuid.UUID("6f1d5a0c-3c5b-4c7e-9a43-4a57c0ffee00")


def _windows(
    number: str, title: str, product: str, classification: str, severity: str, released: str, family: str = "Windows"
) -> Candidate:
    day = datetime.fromisoformat(released)
    return Candidate(
        name=f"KB{number}",
        title=f"{title} (KB{number})",
        product=product,
        product_family=family,
        patch_set="OS" if family == "Windows" else "APPLICATION",
        classification=classification,
        severity=severity,
        released_at=day.replace(hour=17, tzinfo=UTC),  # Microsoft releases at ten in the morning of Redmond
    )


def _cumulative(
    number: str, month: str, server: str, product: str, released: str, severity: str = "Critical"
) -> Candidate:
    title = f"{month} Cumulative Update for {server} for x64-based Systems"
    return _windows(number, title, product, "SecurityUpdates", severity, released)


_WINDOWS_PATCHES: Final = (
    _cumulative("5065426", "2026-09", "Windows Server 2025", "WindowsServer2025", "2026-09-08"),
    _cumulative("5065432", "2026-09", "Windows Server 2022", "WindowsServer2022", "2026-09-08"),
    _cumulative("5065428", "2026-09", "Windows Server 2019", "WindowsServer2019", "2026-09-08"),
    _cumulative("5066835", "2026-10", "Windows Server 2025", "WindowsServer2025", "2026-10-13"),
    _cumulative("5066782", "2026-10", "Windows Server 2022", "WindowsServer2022", "2026-10-13"),
    _cumulative("5066586", "2026-10", "Windows Server 2019", "WindowsServer2019", "2026-10-13", "Important"),
    _cumulative("5066836", "2026-10", "Windows Server 2016", "WindowsServer2016", "2026-10-13", "Important"),
    _cumulative("5068861", "2026-11", "Windows Server 2025", "WindowsServer2025", "2026-11-10"),
    _cumulative("5068787", "2026-11", "Windows Server 2022", "WindowsServer2022", "2026-11-10"),
    _windows(
        *("890830", "Windows Malicious Software Removal Tool x64 - v5.138", "WindowsServer2022"),
        *("UpdateRollups", "Unspecified", "2026-11-10"),
    ),
    _windows(
        *("5066129", "2026-10 Cumulative Update for .NET Framework 3.5 and 4.8.1", "WindowsServer2022"),
        *("SecurityUpdates", "Important", "2026-10-13"),
    ),
    _windows(
        *("2267602", "Security Intelligence Update for Microsoft Defender Antivirus", "MicrosoftDefenderAntivirus"),
        *("DefinitionUpdates", "Unspecified", "2026-11-24", "Microsoft Defender"),
    ),
    _windows(
        *("5002794", "Security Update for Microsoft Office 2016 64-Bit Edition", "Office 2016"),
        *("SecurityUpdates", "Important", "2026-10-13", "Office"),
    ),
    _windows(
        *("5065222", "Security Update for SQL Server 2019 RTM CU", "Microsoft SQL Server 2019"),
        *("SecurityUpdates", "Important", "2026-09-08", "SQL Server"),
    ),
)  # fmt: skip


def of_system(system: str, now: datetime) -> list[Candidate]:
    """What is known of an operating system's patches, the newest first."""
    known = _WINDOWS_PATCHES if system == WINDOWS else catalogue.candidates(system, now)
    return sorted(known, key=lambda patch: (patch.released_at or _LONG_AGO, patch.name), reverse=True)


def id_of(patch: Candidate) -> str:
    """What names a patch of Windows beside its article's number."""
    return str(uuid.uuid5(_NAMESPACE, f"{patch.name}/{patch.product}"))


def matching(filters: Sequence[Mapping[str, Any]], now: datetime) -> list[Candidate]:
    """What meets DescribeAvailablePatches' filters. Raises ApiError (ValidationException).

    Those of Linux are found by a PRODUCT alone: without one, or with Windows' keys, it is Windows' that are meant.
    """
    wanted = [Filter(one.get("Key", ""), tuple(one.get("Values", ()))) for one in filters]
    keys = {one.key for one in wanted}
    if unknown := sorted(keys - {*_OF_WINDOWS, *_OF_LINUX}):
        raise ApiError("ValidationException", f"Invalid filter key: {unknown[0]}.")
    if keys - set(_OF_WINDOWS) and "PRODUCT" not in keys:
        raise ApiError("ValidationException", "Filters for patches of Linux must name a PRODUCT.")
    known = of_system(WINDOWS, now) if keys <= set(_OF_WINDOWS) else []
    if "PRODUCT" in keys:
        known += [patch for system in _LISTED_LINUX for patch in of_system(system, now)]
    return [patch for patch in known if all(holds(one, patch) for one in wanted)]
