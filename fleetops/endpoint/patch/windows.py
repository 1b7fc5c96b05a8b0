"""What Microsoft releases for Windows and its applications: a small believable list, for no Windows node runs here.

Security updates are cumulative: each month's stands for all before it. So an installed one makes the older ones
inapplicable, and of those that a baseline approves the newest alone is missing. As at AWS it is the service that
decides which patches a Windows node is to have, and the node tells which of them it has.
"""

import hashlib
import re
from calendar import TUESDAY, monthcalendar
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from fleetops.endpoint.patch.decide import Deployment, decide
from fleetops.endpoint.patch.facts import Baseline, Candidate
from fleetops.endpoint.patch.operating_systems import SECURITY_CLASSES
from fleetops.endpoint.patch.table import Update

HISTORY: Final = timedelta(days=150)
_SERVERS: Final = ("2016", "2019", "2022", "2025")
_NOT_IN_A_CHAIN: Final = re.compile(r"^\d{4}-\d{2} | \(KB\d+\)$| - v[0-9.]+| CU\d+")


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


_KNOWN: Final = (
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

_KNOWN_MONTHS: Final = {(2026, 9), (2026, 10), (2026, 11)}


def patches(now: datetime) -> tuple[Candidate, ...]:
    """What there is at a moment, months that the list does not have made up by its rule."""
    return tuple(each for each in (*_KNOWN, *_made_up(now.year, now.month)) if each.released_at <= now)


@lru_cache(maxsize=8)
def _made_up(year: int, month: int) -> tuple[Candidate, ...]:
    found: list[Candidate] = []
    for back in range(HISTORY.days // 30 + 1):
        in_year, before = divmod(year * 12 + month - 1 - back, 12)
        if (in_year, before + 1) in _KNOWN_MONTHS:
            continue
        day = f"{in_year}-{before + 1:02}-{_second_tuesday(in_year, before + 1):02}"
        for server in _SERVERS:
            digits = int.from_bytes(hashlib.sha256(f"{server}/{day}".encode()).digest()[:4])
            name, product = f"Windows Server {server}", f"WindowsServer{server}"
            found.append(_cumulative(str(5_000_000 + digits % 999_999), day[:7], name, product, day))
    return tuple(found)


def _second_tuesday(year: int, month: int) -> int:
    return [week[TUESDAY] for week in monthcalendar(year, month) if week[TUESDAY]][1]


def installed(product: str, machine: str, now: datetime) -> dict[str, str]:
    """What a new machine has: what was released until some weeks ago, by its article, with the day of its release."""
    digest = int.from_bytes(hashlib.sha256(machine.encode()).digest()[:4])
    until = now - timedelta(days=50 + digest % 20)
    return {
        patch.name: f"{patch.released_at:%Y-%m-%d}"
        for patch in patches(now)
        if patch.product == product and patch.released_at is not None and patch.released_at <= until
    }


def updates(baseline: Baseline, *, taken_at: datetime, now: datetime) -> Iterable[Update]:
    """What a baseline says of each update that there is now; a rule's days are counted back from `taken_at`."""
    for patch in patches(now):
        if patch.released_at is None or patch.released_at > now:
            continue
        decision = decide(baseline, patch, now=taken_at)
        status, level = "", "UNSPECIFIED"
        if decision is not None and decision.is_approved:
            status, level = "approved", decision.level
        elif decision is not None and decision.status == Deployment.EXPLICIT_REJECTED:
            status = "rejected"
        elif patch.classification in SECURITY_CLASSES:
            status = "available"
        yield Update(patch, chain_of(patch), status, level)


def chain_of(patch: Candidate) -> str:
    """What all updates have in common of which a later one holds what the earlier ones do."""
    return f"{patch.product}/{_NOT_IN_A_CHAIN.sub('', _NOT_IN_A_CHAIN.sub('', patch.title))}"
