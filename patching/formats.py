"""How lists of approved and rejected patches name a patch, family by family, and what is wrong with a line.

Source: Systems Manager user guide, "Package name formats for approved and rejected patch lists".
"""

from __future__ import annotations

import re

from .families import Family

LONGEST = 100  # characters of an entry [botocore's model of ssm, PatchId]
MOST_ENTRIES = 50  # of a list

_CVE = re.compile(r"CVE-[0-9]{4}-[0-9]{4,}")
_ADVISORY = re.compile(r"[A-Z][A-Z0-9]*(?:-[A-Z0-9.]+)*-[0-9]{4}[:-][0-9]+")
_NUMBER = re.compile(r"[0-9]+")
_RPM = re.compile(r"[A-Za-z0-9_*][A-Za-z0-9._+:~^*-]*")
_APT = re.compile(r"[a-z0-9][a-z0-9.+-]+")  # Debian policy, 5.6.1: two characters at least
_MACOS = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._()+-]*")
_ARTICLE = re.compile(r"KB[0-9]{5,8}")
_BULLETIN = re.compile(r"MS[0-9]{2}-[0-9]{3}")


def entries(text: str) -> list[str]:
    """The entries of a list as people write it: one a line, or with commas; empty ones left out."""
    return [entry for line in text.splitlines() for entry in (part.strip() for part in line.split(",")) if entry]


def problem(entry: str, family: Family, *, is_rejection: bool) -> str:
    """What is wrong with an entry, and what to write instead; "" for one that is right."""
    if len(entry) > LONGEST:
        return f"“{entry[:40]}…” has {len(entry)} characters; AWS takes {LONGEST}."
    return _PROBLEMS[family](entry, is_rejection)


def list_problems(found: list[str], family: Family, *, is_rejection: bool, has_lines: bool = False) -> list[str]:
    """All that is wrong with a list; `has_lines`: each with its line."""
    told = []
    for number, entry in enumerate(found, 1):
        where = f"Line {number}: " if has_lines else ""
        if wrong := problem(entry, family, is_rejection=is_rejection):
            told.append(f"{where}{wrong}")
        elif entry in found[: number - 1]:
            told.append(f"{where}“{entry}” is there twice. Take one of them out.")
    if len(found) > MOST_ENTRIES:
        told.append(f"There are {len(found)} entries; AWS takes {MOST_ENTRIES}. A wildcard or a rule may say the same.")
    return told


def _spaces(entry: str) -> str:
    joined = re.sub(r"\s+", "-", entry)
    return f"A name has no spaces. Did you mean {joined}?" if joined != entry else ""


def _rpm(entry: str, is_rejection: bool) -> str:
    if wrong := _spaces(entry):
        return wrong
    if is_rejection and (_CVE.fullmatch(entry) or _ADVISORY.fullmatch(entry) or _NUMBER.fullmatch(entry)):
        return f"A list of rejected patches names packages. Write the packages that {entry} is about."
    if entry.count("*") > 1:
        return f"“{entry}” has {entry.count('*')} wildcards; AWS takes one."
    if entry == "*":
        return "* is every package. A rule without filters approves all; to reject all, approve none."
    if "=" in entry:
        return f"Write {entry.replace('=', '-', 1)}: name and version are joined by a dash."
    if not _RPM.fullmatch(entry):
        return f"“{entry}” is no package name. Write one as kernel, kernel.x86_64 or kernel-6.1.1-2.amzn2023.x86_64."
    return ""


def _apt(entry: str, is_rejection: bool) -> str:
    if wrong := _spaces(entry):
        return wrong
    if _CVE.fullmatch(entry):
        return f"Lists of Debian and Ubuntu name packages. Write the packages that {entry} is about."
    if "*" in entry:
        return f"“{entry}” has a wildcard, which Debian and Ubuntu do not have. Write each package's name."
    for sign, what in (("=", "version"), (":", "architecture"), ("_", "version"), ("/", "suite")):
        name, found, _ = entry.partition(sign)
        if found and _APT.fullmatch(name):
            return f"Write {name} alone: AWS takes no {what} here. A pinned set holds exact versions."
    if entry != entry.lower() and _APT.fullmatch(entry.lower()):
        return f"Packages of Debian and Ubuntu are written small. Did you mean {entry.lower()}?"
    if not _APT.fullmatch(entry):
        return f"“{entry}” is no package name. Write one as openssl or libssl3."
    return ""


def _suse(entry: str, is_rejection: bool) -> str:
    if wrong := _spaces(entry):
        return wrong
    if entry.count("*") > 1:
        return f"“{entry}” has {entry.count('*')} wildcards; AWS takes one."
    if entry == "*":
        return "* is every patch. A rule without filters approves all; to reject all, approve none."
    if _CVE.fullmatch(entry):
        return f"Lists of SUSE name patches and packages. Write the patch that mends {entry}."
    if not _RPM.fullmatch(entry):
        return f"“{entry}” is no patch and no package. Write one as SUSE-SLE-Product-SLES-15-2026-123."
    return ""


def _macos(entry: str, is_rejection: bool) -> str:
    if "*" in entry:
        return f"“{entry}” has a wildcard, which macOS does not have. Write the full name."
    if not _MACOS.fullmatch(entry):
        return f"“{entry}” is no name of an update. Write one as XProtectPlistConfigData."
    return ""


def _windows(entry: str, is_rejection: bool) -> str:
    if _ARTICLE.fullmatch(entry) or _BULLETIN.fullmatch(entry):
        return ""
    digits = re.fullmatch(r"(?:KB)?[ -]?([0-9]{5,8})", entry, re.IGNORECASE)
    if digits:
        return f"Did you mean KB{digits[1]}?"
    if _BULLETIN.fullmatch(entry.upper()):
        return f"Did you mean {entry.upper()}?"
    if "*" in entry:
        return f"“{entry}” has a wildcard, which Windows does not have. Write each article, as KB5041585."
    return f"“{entry}” is no article. Write one as KB5041585, or a bulletin as MS17-010."


_PROBLEMS = {
    Family.RPM: _rpm,
    Family.APT: _apt,
    Family.SUSE: _suse,
    Family.MACOS: _macos,
    Family.WINDOWS: _windows,
}
