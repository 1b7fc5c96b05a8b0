"""A baseline as a flat table: what a node's script reads, a line for each thing and tabs between its fields.

Moments are worked out here, so that awk only compares texts: a rule's cut-off is the last moment of release that it
approves. Whatever is not plain is written as %XX, so that no value can end the script that carries it.
"""

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from fleetops.endpoint.patch.facts import Baseline, Candidate, Rule, Source

_NOT_PLAIN: Final = re.compile(rb"[^A-Za-z0-9 ._+:~*?@/,()=^-]")
_MAIN: Final = re.compile(r"^[ \t]*\[main\][ \t]*$", re.MULTILINE)
_ADDRESS: Final = re.compile(r"^[ \t]*(baseurl|mirrorlist|metalink)[ \t]*=", re.MULTILINE)
_FAMILIES: Final = {"apt": "apt", "rpm": "rpm", "suse": "suse"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """One entry of an InstallOverrideList."""

    package: str  # name, or name.architecture; with wildcards
    version: str = ""  # with wildcards; empty for any


@dataclass(frozen=True, slots=True)
class Offer:
    """One version of a package in a demo node's repository."""

    name: str
    arch: str
    version: str
    rank: int  # 1 for the newest
    classification: str
    severity: str
    priority: str
    section: str
    released_at: datetime
    cves: tuple[str, ...]
    is_security: bool  # as facts.Candidate has it
    advisory: str


@dataclass(frozen=True, slots=True)
class Update:
    """One update of Windows or of an application on it, and what the baseline says of it."""

    patch: Candidate
    chain: str  # what it has in common with those that it stands for, or that stand for it
    status: str  # "approved", "rejected"; "available" for a security update that is neither; "" for any other
    level: str


@dataclass(frozen=True, slots=True)
class Setting:
    """What a run is told beside the baseline."""

    snapshot_id: str
    family: str
    product: str
    patch_group: str = ""
    is_override: bool = False
    install_list: str = ""  # its address
    wanted: Sequence[Wanted] | None = None  # the entries of the list; None where there is none
    offers: Iterable[Offer] = field(default=())
    updates: Iterable[Update] = field(default=())  # of a Windows node
    machine: str = "x86_64"  # architecture of a demo node's packages
    flaky: str = ""  # on a demo node: its first patch fails once for each such word
    rendered_at: datetime | None = None  # a demo node's time


def render(baseline: Baseline, *, now: datetime, setting: Setting) -> str:
    """The table of a node under `baseline`; days are counted back from `now`."""
    rows: list[tuple[object, ...]] = [
        ("snapshot", setting.snapshot_id),
        ("baseline", baseline.baseline_id),
        ("name", baseline.name),
        ("override", int(setting.is_override)),
        ("group", setting.patch_group),
        ("family", _FAMILIES.get(setting.family, setting.family)),
        ("product", setting.product),
        ("list", setting.install_list),
        ("approved_level", baseline.approved_level),
        ("approved_non_security", int(baseline.approved_enable_non_security)),
        ("rejected_action", baseline.rejected_action),
    ]
    rows += [("global", one.key, *one.values) for one in baseline.global_filters]
    for number, rule in enumerate(baseline.rules, 1):
        rows.append(("rule", number, rule.compliance_level, int(rule.enable_non_security), cut_off(rule, now)))
        rows += [("filter", number, one.key, *one.values) for one in rule.filters]
    rows += [("approved", pattern) for pattern in baseline.approved]
    rows += [("rejected", pattern) for pattern in baseline.rejected]
    if setting.wanted is not None:
        # A list without entries installs nothing; it is not the same as no list.
        rows += [("install", one.package, one.version) for one in setting.wanted] or [("install", "", "")]
    for source in baseline.sources:
        if any(product in {setting.product, "*"} for product in source.products):
            rows.append(("source", base64.b64encode(_configuration(source, setting.family).encode()).decode()))
    rows += [
        (
            *("offer", one.name, one.arch, one.version, one.rank, one.classification, one.severity, one.priority),
            *(one.section, moment(one.released_at), ",".join(one.cves), int(one.is_security), one.advisory),
        )
        for one in setting.offers
    ]
    for one in setting.updates:
        patch = one.patch
        released = f"{patch.released_at:%Y-%m-%d}" if patch.released_at is not None else ""
        named = patch.title if patch.title.endswith(f"({patch.name})") else f"{patch.title} ({patch.name})"
        row = ("update", patch.name, one.chain, released, patch.product, named, patch.classification, patch.severity)
        rows.append((*row, one.status, one.level))
    if setting.offers:
        rows.append(("machine", setting.machine))
    if setting.flaky:
        rows.append(("flaky", setting.flaky))
    if setting.rendered_at is not None:
        rows.append(("rendered", int(setting.rendered_at.timestamp())))
    return _written(rows)


def _configuration(source: Source, family: str) -> str:
    """A repository's configuration as its package manager reads it: to dnf and zypper `main` names no repository.

    AWS's examples call every one of them that [SSM, PatchSource].
    """
    if family in {"rpm", "suse"} and _ADDRESS.search(source.configuration):
        return _MAIN.sub(f"[{source.name}]", source.configuration)
    return source.configuration


def refused(words: str) -> str:
    """The table of a node that is to do nothing but say why."""
    return _written([("error", words)])


def cut_off(rule: Rule, now: datetime) -> str:
    """The last moment of release that a rule approves; "-" where it does not ask."""
    if rule.approve_until is not None:
        return f"{rule.approve_until:%Y-%m-%d}T23:59:59Z"
    if rule.approve_after_days is None:
        return "-"
    return moment(now - timedelta(days=rule.approve_after_days))


def moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _written(rows: Iterable[tuple[object, ...]]) -> str:
    return "".join("\t".join(_plain(str(value)) for value in row) + "\n" for row in rows)


def _plain(value: str) -> str:
    return _NOT_PLAIN.sub(lambda found: b"%%%02X" % found[0][0], value.encode(errors="replace")).decode()
