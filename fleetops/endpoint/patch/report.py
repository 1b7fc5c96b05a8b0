"""What a node's script printed, as a report: parts found, proven and put together, or nothing at all.

A report leaves in parts below an agent's limit of output, each with its number and digest, all with the digest of the
whole. One that is missing, altered or of another run means that nothing was reported, which is never compliant.
"""

import base64
import binascii
import hashlib
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import unquote

from fleetops.endpoint.patch.facts import LEVELS, Operation, PatchFact, PatchState, RebootOption, Report

MOST_BYTES: Final = 16 * 1024 * 1024  # of a whole report; 10,000 packages are some 2 MB
MOST_PATCHES: Final = 100_000

_PART: Final = re.compile(
    r"^FLEETOPS-PATCH-REPORT (\S{1,64}) (\S{1,64}) (\d{1,6}) (\d{1,3})/(\d{1,3}) ([0-9a-f]{64}) ([0-9a-f]{64})\n"
    r"([A-Za-z0-9+/=]+)\nFLEETOPS-PATCH-REPORT-END$",
    re.MULTILINE,
)
_LONGEST: Final = 512  # of a name, a version, a word
_ARTICLE: Final = re.compile(r"KB\d{1,10}")  # no name on Linux: there the architecture stands behind it
_CVE: Final = re.compile(r"CVE-\d{4}-\d{4,10}")


class Unreported(Exception):
    """There is no whole report; the text says why."""


@dataclass(frozen=True, slots=True)
class _Part:
    serial: int
    number: int
    total: int
    digest: str
    text: str


def decode(outputs: Iterable[str], *, command_id: str, instance_id: str) -> Report:
    """The last whole report among what the steps of one invocation printed. Raises Unreported.

    A run may report twice, before a restart and after it, or after a scan and an installation.
    """
    found: dict[int, dict[int, _Part]] = {}
    for output in outputs:
        for match in _PART.finditer(output.replace("\r\n", "\n")):
            run_id, node_id, serial, number, total, own, whole, text = match.groups()
            if run_id != command_id or node_id != instance_id:
                continue
            if hashlib.sha256(text.encode()).hexdigest() != own:
                continue
            found.setdefault(int(serial), {})[int(number)] = _Part(int(serial), int(number), int(total), whole, text)
    if not found:
        raise Unreported("the output holds no part of a report")
    trouble = Unreported("the report is not whole")
    for serial in sorted(found, reverse=True):
        try:
            return _read(_joined(list(found[serial].values())), command_id, instance_id, serial)
        except Unreported as error:
            trouble = error
    raise trouble


def _joined(parts: list[_Part]) -> str:
    first = parts[0]
    if any((part.total, part.digest) != (first.total, first.digest) for part in parts):
        raise Unreported("parts of different reports stand under one number")
    if {part.number for part in parts} != set(range(1, first.total + 1)):
        missing = sorted(set(range(1, first.total + 1)) - {part.number for part in parts})
        raise Unreported(f"of {first.total} parts of the report these are missing: {missing}")
    text = "".join(part.text for part in sorted(parts, key=lambda part: part.number))
    if hashlib.sha256(text.encode()).hexdigest() != first.digest:
        raise Unreported("the report is not what the node put together")
    try:
        packed = base64.b64decode(text, validate=True)
        unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        plain = unpacker.decompress(packed, MOST_BYTES)
    except (binascii.Error, zlib.error) as error:
        raise Unreported(f"the report cannot be unpacked: {error}") from None
    if not unpacker.eof:
        raise Unreported(f"the report is cut short, or has more than {MOST_BYTES} bytes")
    # Little that is packed may stand for millions of lines or words, each of which takes far more room than its bytes.
    if plain.count(b"\n") > MOST_PATCHES + 1000 or plain.count(b"\t") > 10 * MOST_PATCHES:
        raise Unreported(f"the report has more than {MOST_PATCHES} patches")
    return plain.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")  # which PostgreSQL does not take


def _read(text: str, command_id: str, instance_id: str, serial: int) -> Report:
    lines = [line.split("\t") for line in text.removesuffix("\n").split("\n")]
    if len(lines) < 3 or lines[0] != ["fleetops-patch-report", "1"]:
        raise Unreported("the report is of no kind that is known here")
    if lines[-1][0] != "end" or lines[1] != ["run", command_id, instance_id, str(serial)]:
        raise Unreported("the report has no end, or is of another run")
    head: dict[str, list[str]] = {}
    failures, patches = [], []
    for line in lines[2:-1]:
        if line[0] == "p":
            patches.append(_patch(line))
        elif line[0] == "failure":
            failures.append(" ".join(line[1:])[:_LONGEST])
        else:
            head[line[0]] = line[1:]
    if lines[-1][1:] != [str(len(patches))] or len(patches) > MOST_PATCHES:
        raise Unreported("the report does not hold as many patches as it says")
    if len({patch.kb_id for patch in patches}) != len(patches):
        raise Unreported("the report tells of one patch twice")
    try:
        return Report(
            operation=Operation(head["operation"][0]),
            snapshot_id=head["snapshot"][0][:64],
            baseline_id=head["baseline"][0][:_LONGEST],
            reboot_option=RebootOption(head["reboot_option"][0]),
            started_at=_moment(head["started"][0]),
            ended_at=_moment(head["ended"][0]),
            patches=tuple(patches),
            is_override=head["baseline"][1] == "1",
            install_override_list=unquote(head["list"][0])[:256],
            is_pending_reboot=head["pending"][0] == "1",
            last_no_reboot_install_at=_moment(head["last_no_reboot"][0]) if head["last_no_reboot"][0] != "-" else None,
            failures=tuple(failures),
        )
    except (KeyError, IndexError, ValueError) as error:
        raise Unreported(f"the report cannot be read: {error!r}") from None


def _patch(line: list[str]) -> PatchFact:
    try:
        _, state, package, version, classification, severity, installed, level, cves = line
        return PatchFact(
            title=(version if _ARTICLE.fullmatch(package) else f"{package}:{version}")[:_LONGEST],
            kb_id=package[:_LONGEST],
            classification=classification[:64],
            severity=severity[:64],
            state=PatchState(state),
            installed_at=_moment(installed) if installed else None,
            cves=tuple(cve for cve in cves.split(",") if _CVE.fullmatch(cve)),
            level=level if level in LEVELS else "UNSPECIFIED",
        )
    except ValueError as error:
        raise Unreported(f"a patch of the report cannot be read: {error}") from None


def _moment(text: str) -> datetime:
    """Raises ValueError."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
