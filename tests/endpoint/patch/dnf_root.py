"""A root where dnf is: this machine under an overlay, with an rpm database and a repository of the tests' own.

dnf, rpm and their libraries are this machine's (Debian's packages); whatever they change stays in the overlay.
"""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.endpoint.patch.machines import Root

PROGRAMS = ("dnf", "rpm", "rpmbuild", "createrepo_c", "modifyrepo_c")
# The upper directory lies in memory: an overlay cannot stand on another one.
MOUNTS = (
    'mkdir -p "$ROOT" "$ROOT.layers" && mount -t tmpfs tmpfs "$ROOT.layers" && '
    'mkdir "$ROOT.layers/upper" "$ROOT.layers/work" && '
    'mount -t overlay overlay -o "lowerdir=/,upperdir=$ROOT.layers/upper,workdir=$ROOT.layers/work" "$ROOT" || exit 1'
)


@dataclass(frozen=True)
class Rpm:
    """One package of the tests' own; it holds nothing."""

    name: str
    version: str  # [epoch:]version-release
    requires: str = ""
    breaks: bool = False

    @property
    def epoch(self) -> str:
        return self.version.partition(":")[0] if ":" in self.version else "0"

    @property
    def parts(self) -> list[str]:
        return self.version.rpartition(":")[2].split("-")

    @property
    def file(self) -> str:
        return f"{self.name}-{'-'.join(self.parts)}.noarch.rpm"


@dataclass(frozen=True)
class Notice:
    """One update notice, of one package."""

    number: str
    kind: str
    severity: str
    updated: str
    package: Rpm
    cves: Sequence[str] = ()

    def xml(self) -> str:
        version, release = self.package.parts
        references = "".join(f'<reference href="x" id="{cve}" type="cve" title="{cve}"/>' for cve in self.cves)
        severity = f"<severity>{self.severity}</severity>" if self.severity else ""
        return (
            f'<update from="tests" status="final" type="{self.kind}" version="1"><id>{self.number}</id>'
            f'<title>{self.package.name}</title><issued date="2026-01-01 00:00:00"/><updated date="{self.updated}"/>'
            f"{severity}<description>Severity: Low</description><references>{references}</references>"
            f'<pkglist><collection short="c"><name>c</name><package name="{self.package.name}" version="{version}" '
            f'release="{release}" epoch="{self.package.epoch}" arch="noarch"><filename>{self.package.file}</filename>'
            "</package></collection></pkglist></update>"
        )


def build(packages: Sequence[Rpm], directory: Path) -> Path:
    """Where the packages lie."""
    for number, package in enumerate(packages):
        version, release = package.parts
        spec = directory / f"{number}.spec"
        spec.write_text(
            f"Name: {package.name}\nEpoch: {package.epoch}\nVersion: {version}\nRelease: {release}\nSummary: x\n"
            "License: MIT\nBuildArch: noarch\n"
            + (f"Requires: {package.requires}\n" if package.requires else "")
            + "%description\nx\n%files\n"
            + ("%pre\nexit 1\n" if package.breaks else "")
        )
    top = directory / "top"
    specs = sorted(map(str, directory.glob("*.spec")))
    command = ["rpmbuild", "-bb", "--quiet", "--define", f"_topdir {top}", *specs]
    subprocess.run(command, check=True, capture_output=True)
    return top / "RPMS" / "noarch"


def publish(root: Root, packages: Path, notices: Sequence[Notice], directory: Path) -> None:
    """Make the repository, and dnf's only source."""
    subprocess.run(["createrepo_c", "--quiet", packages], check=True, capture_output=True)
    info = directory / "updateinfo.xml"
    info.write_text('<?xml version="1.0"?><updates>' + "".join(notice.xml() for notice in notices) + "</updates>")
    subprocess.run(["modifyrepo_c", info, packages / "repodata"], check=True, capture_output=True)
    root.write(
        "/etc/yum.repos.d/tests.repo",
        f"[tests]\nname=tests\nbaseurl=file://{packages}\nenabled=1\ngpgcheck=0\nmetadata_expire=0\n",
    )
