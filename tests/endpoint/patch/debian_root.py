"""A Debian root made by debootstrap, kept as a tarball between sessions, and an apt repository of the tests' own."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.endpoint.patch.machines import Root

PROGRAMS = ("debootstrap", "apt-ftparchive", "gpg", "dpkg-deb", "tar")
KEY = "FleetOps tests <tests@fleetops.invalid>"


def mirror() -> tuple[str, str]:
    """This machine's own Debian mirror and release; ("", "") if it has none."""
    release = _os_release()
    if release.get("ID") != "debian" or not release.get("VERSION_CODENAME"):
        return "", ""
    codename = release["VERSION_CODENAME"]
    for path in (Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))):
        text = path.read_text(errors="replace") if path.is_file() else ""
        for stanza in re.split(r"\n\s*\n", text):
            suites = re.search(rf"^Suites:.*\b{codename}(\s|$)", stanza, re.MULTILINE)
            address = re.search(r"^URIs:\s*(https?://\S+)", stanza, re.MULTILINE)
            if suites and address:
                return address[1], codename
        if line := re.search(rf"^deb\s+(?:\[[^]]*\]\s+)?(https?://\S+)\s+{codename}\s", text, re.MULTILINE):
            return line[1], codename
    return "", ""


def make(path: Path) -> None:
    """Unpack the root at `path`; the first time on this machine debootstrap makes it, which takes a minute."""
    address, codename = mirror()
    kept = Path(tempfile.gettempdir()) / f"fleetops-tests-debian-{codename}.tar"
    if not (kept.exists() and kept.stat().st_uid == 0 and not kept.stat().st_mode & 0o022):
        command = ["debootstrap", "--variant=minbase", codename, str(path), address]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        shutil.rmtree(path / "var/cache/apt/archives", ignore_errors=True)
        (path / "var/cache/apt/archives/partial").mkdir(parents=True)
        fresh = kept.with_suffix(f".{os.getpid()}.new")
        subprocess.run(["tar", "-C", path, "--exclude=./dev/*", "-cf", fresh, "."], check=True, umask=0o077)
        fresh.replace(kept)
    else:
        path.mkdir()
        subprocess.run(["tar", "-C", path, "-xf", kept], check=True)


@dataclass(frozen=True)
class Deb:
    """One package of the tests' own; it holds nothing."""

    name: str
    version: str
    depends: str = ""
    priority: str = "optional"
    breaks: bool = False  # its installation fails

    def build(self, directory: Path) -> Path:
        tree = directory / f"tree-{self.name}-{self.version}"
        control = tree / "DEBIAN" / "control"
        control.parent.mkdir(parents=True)
        control.write_text(
            f"Package: {self.name}\nVersion: {self.version}\nArchitecture: all\nMaintainer: {KEY}\n"
            f"Section: misc\nPriority: {self.priority}\n"
            + (f"Depends: {self.depends}\n" if self.depends else "")
            + "Description: of a test\n"
        )
        if self.breaks:
            (control.parent / "preinst").write_text("#!/bin/sh\necho it breaks >&2\nexit 1\n")
            (control.parent / "preinst").chmod(0o755)
        file = directory / f"{self.name}_{self.version}_all.deb"
        subprocess.run(["dpkg-deb", "--build", "--root-owner-group", tree, file], check=True, capture_output=True)
        return file


def publish(
    root: Root, directory: Path, repositories: Mapping[str, tuple[str, Sequence[Deb]]], *, is_source: bool = True
) -> str:
    """Make signed repositories inside of `root`, and its only sources: by suite, the label and the packages.

    Returns the sources' lines; they are written down unless they are not to be the node's own.
    """
    keyring = f"/usr/share/keyrings/tests-{'-'.join(repositories)}.gpg"
    keys = Path(tempfile.mkdtemp(prefix="k"))  # short: gpg's sockets lie in there
    gpg = ["gpg", "--homedir", str(keys), "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]
    try:
        subprocess.run([*gpg, "--quick-gen-key", KEY, "rsa2048", "sign", "1d"], check=True, capture_output=True)
        exported = subprocess.run([*gpg, "--export"], check=True, capture_output=True).stdout
        (root.path / keyring[1:]).write_bytes(exported)
        lines = []
        for suite, (label, packages) in repositories.items():
            top = root.path / "repository" / suite
            pool, dist = top / "pool", top / "dists" / suite
            binary = dist / "main" / "binary-amd64"
            for made in (pool, binary):
                made.mkdir(parents=True)
            for package in packages:
                shutil.move(package.build(directory), pool)
            listed = subprocess.run(
                ["apt-ftparchive", "packages", "pool"], cwd=top, check=True, capture_output=True
            ).stdout
            (binary / "Packages").write_bytes(listed)
            options = {
                "Origin": "Debian",
                "Label": label,
                "Suite": suite,
                "Codename": suite,
                "Architectures": "amd64",
                "Components": "main",
            }
            named = [f"-oAPT::FTPArchive::Release::{name}={value}" for name, value in options.items()]
            release = subprocess.run(
                ["apt-ftparchive", *named, "release", "."], cwd=dist, check=True, capture_output=True
            ).stdout
            signed = subprocess.run([*gpg, "--clearsign"], input=release, check=True, capture_output=True).stdout
            (dist / "InRelease").write_bytes(signed)
            lines.append(f"deb [signed-by={keyring}] file:/repository/{suite} {suite} main\n")
    finally:
        subprocess.run(["gpgconf", "--homedir", str(keys), "--kill", "all"], check=False, capture_output=True)
        shutil.rmtree(keys, ignore_errors=True)
    if is_source:
        shutil.rmtree(root.path / "etc/apt/sources.list.d", ignore_errors=True)
        (root.path / "etc/apt/sources.list").write_text("".join(lines))
    return "".join(lines)


def _os_release() -> dict[str, str]:
    try:
        text = Path("/etc/os-release").read_text()
    except OSError:
        return {}
    pairs = (line.partition("=") for line in text.splitlines())
    return {name: value.strip('"') for name, _, value in pairs}
