"""A root where dnf is: this machine under an overlay, with an rpm database and a repository of the tests' own.

dnf, rpm and their libraries are this machine's (Debian's packages); whatever they change stays in the overlay.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.endpoint.patch.machines import Root

PROGRAMS = ("dnf", "rpm", "rpmbuild", "createrepo_c", "modifyrepo_c", "gpg")
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
    """One update notice."""

    number: str
    kind: str
    severity: str
    updated: str
    package: Rpm
    cves: Sequence[str] = ()
    also: Sequence[Rpm] = ()  # what it lists beside its package

    def xml(self) -> str:
        listed = "".join(
            f'<package name="{each.name}" version="{each.parts[0]}" release="{each.parts[1]}" epoch="{each.epoch}" '
            f'arch="noarch"><filename>{each.file}</filename></package>'
            for each in (self.package, *self.also)
        )
        references = "".join(f'<reference href="x" id="{cve}" type="cve" title="{cve}"/>' for cve in self.cves)
        severity = f"<severity>{self.severity}</severity>" if self.severity else ""
        return (
            f'<update from="tests" status="final" type="{self.kind}" version="1"><id>{self.number}</id>'
            f'<title>{self.package.name}</title><issued date="2026-01-01 00:00:00"/><updated date="{self.updated}"/>'
            f"{severity}<description>Severity: Low</description><references>{references}</references>"
            f'<pkglist><collection short="c"><name>c</name>{listed}</collection></pkglist></update>'
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
    index(packages, notices, directory)
    root.write(
        "/etc/yum.repos.d/tests.repo",
        f"[tests]\nname=tests\nbaseurl=file://{packages}\nenabled=1\ngpgcheck=0\nmetadata_expire=0\n",
    )


def index(packages: Path, notices: Sequence[Notice], directory: Path) -> None:
    """Make a repository of packages."""
    subprocess.run(["createrepo_c", "--quiet", packages], check=True, capture_output=True)
    info = directory / "updateinfo.xml"
    info.write_text('<?xml version="1.0"?><updates>' + "".join(notice.xml() for notice in notices) + "</updates>")
    subprocess.run(["modifyrepo_c", info, packages / "repodata"], check=True, capture_output=True)


def sign(packages: Path, directory: Path) -> Path:
    """Sign a repository with a key of its own; where its public half lies."""
    keys = Path(tempfile.mkdtemp(prefix="k"))  # short: gpg's sockets lie in there
    gpg = ["gpg", "--homedir", str(keys), "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]
    try:
        made = [*gpg, "--quick-gen-key", "Vendor <vendor@fleetops.invalid>", "rsa2048", "sign", "1d"]
        subprocess.run(made, check=True, capture_output=True)
        public = directory / "vendor.asc"
        public.write_bytes(subprocess.run([*gpg, "--armor", "--export"], check=True, capture_output=True).stdout)
        subprocess.run([*gpg, "--armor", "--detach-sign", packages / "repodata/repomd.xml"], check=True)
        return public
    finally:
        subprocess.run(["gpgconf", "--homedir", str(keys), "--kill", "all"], check=False, capture_output=True)
        shutil.rmtree(keys, ignore_errors=True)
