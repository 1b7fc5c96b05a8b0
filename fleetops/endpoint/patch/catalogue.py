"""What the demo nodes' repositories hold: believable packages, and new versions of them as time goes by. All invented.

A package has a release every so many days, from a first day that follows from its name; a release's number, class,
severity and CVEs follow from the package and its place in the row. So the same moment has the same releases on every
node, and a fleet that is compliant today falls out of compliance by itself in a week or two.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from fleetops.endpoint.patch.facts import Candidate
from fleetops.endpoint.patch.table import Offer

HISTORY: Final = timedelta(days=150)  # for how long a repository keeps a version that a newer one has followed
BEGINNING: Final = datetime(2026, 1, 5, 6, 0, tzinfo=UTC)
_YOUNGEST: Final = 34  # days since a new demo node was last patched, and how many more that may be
_SPREAD: Final = 20


@dataclass(frozen=True, slots=True)
class Package:
    """One package of a platform. `version` has {n} where a release counts on from `first`."""

    name: str
    version: str
    first: int = 1
    every_days: int = 0  # 0 for one that is never released anew
    section: str = "libs"  # where apt is
    priority: str = "Optional"

    def at(self, number: int) -> str:
        return self.version.replace("{n}", str(self.first + number))


@dataclass(frozen=True, slots=True)
class Platform:
    """One platform: its architecture's name, how its notices speak, and its packages."""

    arch: str
    product: str
    system: str
    advisory: str  # "ALAS2023-{year}-{number}"; empty where notices have no names in the repository
    moderate: str  # what the third severity is called; empty where there are priorities and no severities
    packages: tuple[Package, ...]


def _rpm(end: str) -> tuple[Package, ...]:
    """What Amazon Linux and Red Hat have in common, each with its own end of a release."""
    moving = (
        ("openssl", "1:3.2.2-{n}", 1, 34),
        ("openssl-libs", "1:3.2.2-{n}", 1, 34),
        ("glibc", "2.34-{n}", 168, 55),
        ("glibc-common", "2.34-{n}", 168, 55),
        ("curl", "8.5.0-{n}", 1, 41),
        ("libcurl", "8.5.0-{n}", 1, 41),
        ("openssh-server", "8.7p1-{n}", 38, 62),
        ("openssh-clients", "8.7p1-{n}", 38, 62),
        ("systemd", "252.16-{n}", 1, 73),
        ("python3", "3.9.{n}-1", 20, 48),
        ("sudo", "1.9.15-1.p{n}", 5, 90),
        ("expat", "2.5.0-{n}", 1, 66),
        ("libxml2", "2.10.4-{n}", 1, 47),
        ("vim-minimal", "2:9.1.{n}-1", 1006, 15),
        ("krb5-libs", "1.21.3-{n}", 1, 80),
        ("tzdata", "2026{n}-1", 1, 60),
        ("bind-utils", "32:9.18.{n}-1", 28, 52),
        ("nghttp2", "1.59.0-{n}", 3, 95),
    )
    still = (
        *(("bash", "5.2.15-1"), ("coreutils", "8.32-30"), ("filesystem", "3.14-5"), ("gawk", "5.1.0-3")),
        *(("grep", "3.8-1"), ("gzip", "1.12-1"), ("less", "608-2"), ("libacl", "2.3.1-2"), ("libattr", "2.5.1-3")),
        *(("libcap", "2.48-2"), ("libselinux", "3.4-5"), ("ncurses-libs", "6.2-4"), ("pam", "1.5.1-8")),
        *(("pcre2", "10.40-1"), ("popt", "1.18-6"), ("procps-ng", "3.3.17-1"), ("readline", "8.1-2")),
        *(("sed", "4.8-7"), ("setup", "2.13.7-3"), ("shadow-utils", "2:4.9-12"), ("tar", "2:1.34-1")),
        *(("util-linux", "2.37.4-1"), ("which", "2.21-26"), ("xz-libs", "5.2.5-9"), ("zlib", "1.2.11-33")),
    )
    made = [Package(name, f"{version}{end}", first, days) for name, version, first, days in moving]
    return (*made, *(Package(name, f"{version}{end}") for name, version in still))


def _apt(end: str) -> tuple[Package, ...]:
    """What Debian and Ubuntu have in common, each with its own end of a version."""
    moving = (
        ("libc6", "2.36-9{end}{n}", 8, 58, "libs", "Optional"),
        ("libc-bin", "2.36-9{end}{n}", 8, 58, "libs", "Required"),
        ("curl", "7.88.1-10{end}{n}", 8, 38, "web", "Optional"),
        ("libcurl4", "7.88.1-10{end}{n}", 8, 38, "libs", "Optional"),
        ("openssh-server", "1:9.2p1-2{end}{n}", 3, 64, "net", "Optional"),
        ("openssh-client", "1:9.2p1-2{end}{n}", 3, 64, "net", "Standard"),
        ("systemd", "252.{n}-1{end}1", 31, 71, "admin", "Important"),
        ("libsystemd0", "252.{n}-1{end}1", 31, 71, "libs", "Optional"),
        ("sudo", "1.9.13p3-1{end}{n}", 1, 88, "admin", "Optional"),
        ("libexpat1", "2.5.0-1{end}{n}", 1, 61, "libs", "Optional"),
        ("libxml2", "2.9.14-1.3{end}{n}", 1, 45, "libs", "Optional"),
        ("vim-tiny", "2:9.0.1378-2{end}{n}", 1, 25, "editors", "Important"),
        ("libgnutls30", "3.7.9-2{end}{n}", 3, 54, "libs", "Optional"),
        ("libkrb5-3", "1.20.1-2{end}{n}", 2, 83, "libs", "Optional"),
        ("tzdata", "2026{n}-0{end}1", 1, 60, "localization", "Required"),
        ("bind9-dnsutils", "1:9.18.{n}-1{end}1", 28, 49, "net", "Standard"),
        ("python3.11-minimal", "3.11.2-6{end}{n}", 3, 42, "python", "Optional"),
        ("perl-base", "5.36.0-7{end}{n}", 1, 77, "perl", "Required"),
    )
    still = (
        *(("adduser", "3.134"), ("base-files", "12.4"), ("bash", "5.2.15-2"), ("coreutils", "9.1-1")),
        *(("dash", "0.5.12-2"), ("debianutils", "5.7-0.5"), ("diffutils", "1:3.8-4"), ("dpkg", "1.21.22")),
        *(("findutils", "4.9.0-4"), ("gawk", "1:5.2.1-2"), ("grep", "3.8-5"), ("gzip", "1.12-1")),
        *(("hostname", "3.23"), ("init", "1.65.2"), ("iproute2", "6.1.0-3"), ("less", "590-2.1")),
        *(("libacl1", "2.3.1-3"), ("libselinux1", "3.4-1"), ("libzstd1", "1.5.4"), ("login", "1:4.13")),
        *(("mount", "2.38.1-5"), ("netbase", "6.4"), ("passwd", "1:4.13"), ("procps", "2:4.0.2-3")),
        *(("sed", "4.9-1"), ("tar", "1.34"), ("util-linux", "2.38.1-5"), ("xz-utils", "5.4.1"), ("zlib1g", "1:1.2.13")),
    )
    made = [
        Package(name, version.replace("{end}", end), first, days, section, priority)
        for name, version, first, days, section, priority in moving
    ]
    return (*made, *(Package(name, version, priority="Required", section="admin") for name, version in still))


PLATFORMS: Final[Mapping[str, Platform]] = {
    "al2023": Platform(
        *("x86_64", "AmazonLinux2023", "AMAZON_LINUX_2023", "ALAS2023-{year}-{number}", "Medium"),
        (Package("kernel", "6.1.{n}-173.267.amzn2023", 130, 19), *_rpm(".amzn2023.0.2")),
    ),
    "rhel9": Platform(
        *("x86_64", "RedhatEnterpriseLinux9.6", "REDHAT_ENTERPRISE_LINUX", "RHSA-{year}:{number}", "Moderate"),
        (Package("kernel", "5.14.0-570.{n}.1.el9_6", 12, 23), *_rpm(".el9")),
    ),
    "sles15": Platform(
        *("x86_64", "Suse15.6", "SUSE", "SUSE-SLE-Module-Basesystem-15-SP6-{year}-{number}", "Moderate"),
        (Package("kernel-default", "6.4.0-150600.23.{n}.1", 25, 24), *_rpm(".150600.3")),
    ),
    "bookworm": Platform(
        *("amd64", "Debian12", "DEBIAN", "", ""),
        (
            Package("linux-image-amd64", "6.1.{n}-1", 124, 21, "kernel"),
            Package("openssl", "3.0.{n}-1~deb12u1", 11, 36, "utils"),
            Package("libssl3", "3.0.{n}-1~deb12u1", 11, 36),
            *_apt("+deb12u"),
        ),
    ),
    "jammy": Platform(
        *("amd64", "Ubuntu22.04", "UBUNTU", "", ""),
        (
            Package("linux-image-generic", "5.15.0.{n}.{n}", 130, 20, "kernel"),
            Package("openssl", "3.0.2-0ubuntu1.{n}", 12, 36, "utils"),
            Package("libssl3", "3.0.2-0ubuntu1.{n}", 12, 36),
            *_apt("ubuntu22.04."),
        ),
    ),
    "noble": Platform(
        *("amd64", "Ubuntu24.04", "UBUNTU", "", ""),
        (
            Package("linux-image-generic", "6.8.0-{n}.{n}", 58, 20, "kernel"),
            Package("openssl", "3.0.13-0ubuntu3.{n}", 1, 36, "utils"),
            Package("libssl3t64", "3.0.13-0ubuntu3.{n}", 1, 36),
            *_apt("ubuntu24.04."),
        ),
    ),
}
OF_PRODUCT: Final[Mapping[str, Platform]] = {platform.product: platform for platform in PLATFORMS.values()}


def offers(platform: Platform, now: datetime) -> tuple[Offer, ...]:
    """What the repository of a platform holds at a moment, version by version."""
    return _offers(platform.product, now.replace(minute=0, second=0, microsecond=0))


@lru_cache(maxsize=32)
def _offers(product: str, now: datetime) -> tuple[Offer, ...]:
    platform = OF_PRODUCT[product]
    made: list[Offer] = []
    for package in platform.packages:
        if not package.every_days:
            continue
        newest = _newest(package, now)
        released = [number for number in range(newest + 1) if _released_at(package, number) >= now - HISTORY]
        for number in released or [newest]:
            made.append(_offer(platform, package, number, newest - number + 1))
    return tuple(made)


def installed(platform: Platform, machine: str, now: datetime) -> dict[str, str]:
    """What a new machine has: all of it as old as its last patching, some weeks ago."""
    at = now - timedelta(days=_YOUNGEST + _digest(machine) % _SPREAD)
    return {package.name: package.at(_newest(package, at)) for package in platform.packages}


def candidates(system: str, now: datetime) -> Iterable[Candidate]:
    """The newest offers for an operating system as patches, with their releases' dates."""
    for platform in PLATFORMS.values():
        if platform.system != system:
            continue
        for offer in offers(platform, now):
            epoch, _, full = offer.version.rpartition(":")
            version, _, release = full.rpartition("-")
            yield Candidate(
                name=offer.name,
                version=version,
                release=release,
                epoch=epoch,
                arch=offer.arch,
                title=f"{offer.name}.{offer.arch}:{offer.version}",
                product=platform.product,
                classification=offer.classification,
                severity=offer.severity,
                priority=offer.priority,
                section=offer.section,
                is_security=offer.is_security,
                released_at=offer.released_at,
                advisory_ids=(offer.advisory,) if offer.advisory else (),
                cves=offer.cves,
            )


def _newest(package: Package, now: datetime) -> int:
    """The number of a package's last release before a moment; 0 for the first, which was always there."""
    if not package.every_days:
        return 0
    return max(0, (now - _released_at(package, 0)) // timedelta(days=package.every_days))


def _released_at(package: Package, number: int) -> datetime:
    offset = timedelta(hours=_digest(package.version.partition("{")[0]) % (package.every_days * 24))
    return BEGINNING + offset + timedelta(days=package.every_days) * number


def _offer(platform: Platform, package: Package, number: int, rank: int) -> Offer:
    # Packages of one source are released together: what follows from the version's pattern is the same for all of them.
    chance = _digest(f"{platform.system}/{package.version}/{number}")
    is_security = chance % 10 < 8
    released_at = _released_at(package, number)
    count = 1 + chance // 10 % 3 if is_security else 0
    cves = tuple(f"CVE-{released_at.year}-{20_000 + (chance >> 8) % 9_000 * 3 + place}" for place in range(count))
    grave = ("Critical", "Important", "Important", platform.moderate, "Low")[chance // 100 % 5]
    is_rpm = bool(platform.moderate)
    classification = "Security" if is_security else ("Bugfix" if is_rpm else "Other")
    severity = (grave if is_security else "") if is_rpm else package.priority
    return Offer(
        package.name,
        platform.arch,
        package.at(number),
        rank,
        classification,
        severity,
        "" if is_rpm else package.priority,
        "" if is_rpm else package.section,
        released_at,
        cves,
        is_security or is_rpm,
        platform.advisory.format(year=released_at.year, number=1_000 + (chance >> 20) % 8_000),
    )


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
