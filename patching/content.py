"""What a baseline says, as a value: read from AWS's answer, written as AWS's request, told in lines to be compared.

Two of AWS's answers that mean the same give equal values: what AWS fills in is filled in here, and the order of filters
and of their values, which means nothing, is ours.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .families import KEY_NAMES, traits_of

# The worst first [SSM, PatchComplianceLevel].
LEVELS = ("CRITICAL", "HIGH", "MEDIUM", "LOW", "INFORMATIONAL", "UNSPECIFIED")
ACTIONS = ("ALLOW_AS_DEPENDENCY", "BLOCK")
ANY = "*"


@dataclass(frozen=True, slots=True)
class Filter:
    """A patch has to have one of the values; `*` is any."""

    key: str
    values: tuple[str, ...]

    @property
    def title(self) -> str:
        return KEY_NAMES.get(self.key, self.key.replace("_", " ").capitalize())

    def __str__(self) -> str:
        return f"{self.title}: {', '.join(self.values)}"


@dataclass(frozen=True, slots=True)
class Rule:
    """One approval rule: all of its filters have to fit."""

    filters: tuple[Filter, ...] = ()
    approve_after_days: int | None = None  # 0 to 360
    approve_until: str = ""  # YYYY-MM-DD; empty: the rule counts days
    level: str = "UNSPECIFIED"
    non_security: bool = False

    def values(self, key: str) -> tuple[str, ...]:
        return next((each.values for each in self.filters if each.key == key), ())

    @property
    def when(self) -> str:
        """When it approves, in words."""
        if self.approve_until:
            return f"released until {self.approve_until}"
        if not self.approve_after_days:
            return "at once"
        return f"after {self.approve_after_days} day{'' if self.approve_after_days == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class Source:
    """A repository that Linux nodes use for a run. Where a baseline has any, nodes use no others.

    Source: Systems Manager user guide, "How to specify an alternative patch source repository (Linux)".
    """

    name: str
    products: tuple[str, ...]
    configuration: str


@dataclass(frozen=True, slots=True)
class Content:
    """All that a person can write into a baseline."""

    operating_system: str
    name: str = ""
    description: str = ""
    global_filters: tuple[Filter, ...] = ()
    rules: tuple[Rule, ...] = ()
    approved: tuple[str, ...] = ()
    approved_level: str = "UNSPECIFIED"
    approved_non_security: bool = False
    rejected: tuple[str, ...] = ()
    rejected_action: str = "ALLOW_AS_DEPENDENCY"
    sources: tuple[Source, ...] = ()
    security_updates: str = ""  # COMPLIANT, NON_COMPLIANT; of Windows alone

    @classmethod
    def of_aws(cls, operating_system: str, told: Mapping[str, Any]) -> Content:
        """Out of what GetPatchBaseline answers."""
        has_delay = traits_of(operating_system).has_delay
        return cls(
            operating_system=operating_system,
            name=told.get("Name") or "",
            description=told.get("Description") or "",
            global_filters=_filters(operating_system, told.get("GlobalFilters") or {}),
            rules=tuple(
                _rule(operating_system, each, has_delay)
                for each in (told.get("ApprovalRules") or {}).get("PatchRules") or ()
            ),
            approved=tuple(sorted(set(told.get("ApprovedPatches") or ()))),
            approved_level=told.get("ApprovedPatchesComplianceLevel") or "UNSPECIFIED",
            approved_non_security=bool(told.get("ApprovedPatchesEnableNonSecurity")),
            rejected=tuple(sorted(set(told.get("RejectedPatches") or ()))),
            rejected_action=told.get("RejectedPatchesAction") or "ALLOW_AS_DEPENDENCY",
            sources=tuple(
                Source(each["Name"], tuple(sorted(each.get("Products", []))), each.get("Configuration", ""))
                for each in told.get("Sources") or ()
            ),
            security_updates=(told.get("AvailableSecurityUpdatesComplianceStatus") or "")
            if operating_system == "WINDOWS"
            else "",
        )

    def to_aws(self) -> dict[str, Any]:
        """As CreatePatchBaseline and UpdatePatchBaseline with Replace take it, but for the operating system."""
        told: dict[str, Any] = {
            "Name": self.name,
            "GlobalFilters": {"PatchFilters": [_filter_to_aws(each) for each in self.global_filters]},
            "ApprovalRules": {"PatchRules": [_rule_to_aws(each) for each in self.rules]},
            "ApprovedPatches": list(self.approved),
            "ApprovedPatchesComplianceLevel": self.approved_level,
            "RejectedPatches": list(self.rejected),
            "RejectedPatchesAction": self.rejected_action,
            "Sources": [
                {"Name": each.name, "Products": list(each.products), "Configuration": each.configuration}
                for each in self.sources
            ],
        }
        if traits_of(self.operating_system).has_non_security:
            told["ApprovedPatchesEnableNonSecurity"] = self.approved_non_security
        if self.description:
            told["Description"] = self.description
        if self.security_updates:
            told["AvailableSecurityUpdatesComplianceStatus"] = self.security_updates
        return told

    @property
    def digest(self) -> str:
        """Equal exactly if two say the same; in hex."""
        told = [self.operating_system, self.to_aws()]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def lines(self) -> list[str]:
        """All of it, a fact a line, to be read and compared."""
        lines = [f"name: {self.name}"]
        lines += [f"description: {self.description}"] if self.description else []
        lines += _titled("only patches with", (str(each) for each in self.global_filters))
        for number, rule in enumerate(self.rules, 1):
            facts = [str(each) for each in rule.filters] or ["all patches"]
            facts.append(f"approved {rule.when}")
            facts.append(f"counts as {rule.level.lower()}")
            facts += ["also what is no security update"] if rule.non_security else []
            lines += _titled(f"rule {number}", facts)
        lines += _titled("always approved", self.approved)
        if self.approved:
            lines.append(f"  counts as {self.approved_level.lower()}")
            lines += ["  also what is no security update"] if self.approved_non_security else []
        lines += _titled("rejected", self.rejected)
        lines.append(f"a rejected dependency: {'blocked' if self.rejected_action == 'BLOCK' else 'allowed'}")
        for source in self.sources:
            products = f"products: {', '.join(source.products)}"
            lines += _titled(f"source {source.name}", [products, *source.configuration.splitlines()])
        if self.security_updates:
            lines.append(f"security updates that are not approved yet: {self.security_updates.lower()}")
        return lines

    def with_name(self, name: str) -> Content:
        return replace(self, name=name)


def compare(old: Content, new: Content) -> list[tuple[str, str]]:
    """What differs, as lines with their kinds: "", "del" or "add"; empty if nothing does."""
    found = []
    for line in difflib.ndiff(old.lines(), new.lines()):
        if line[0] != "?":
            found.append(({"-": "del", "+": "add"}.get(line[0], ""), line[2:]))
    return found if any(kind for kind, _ in found) else []


def changed_only(found: list[tuple[str, str]], *, around: int = 1) -> list[tuple[str, str]]:
    """Of a comparison the lines that differ, with so many beside them."""
    near = [index for index, (kind, _) in enumerate(found) if kind]
    return [each for index, each in enumerate(found) if any(abs(index - changed) <= around for changed in near)]


def _titled(title: str, facts: Iterable[str]) -> list[str]:
    listed = [f"  {each}" for each in facts]
    return [f"{title}:", *listed] if listed else []


def _filters(operating_system: str, group: Mapping[str, Any]) -> tuple[Filter, ...]:
    keys = traits_of(operating_system).keys
    found = [Filter(each["Key"], tuple(sorted(set(each["Values"])))) for each in group.get("PatchFilters") or ()]
    return tuple(sorted(found, key=lambda each: (keys.index(each.key) if each.key in keys else len(keys), each.key)))


def _rule(operating_system: str, told: Mapping[str, Any], has_delay: bool) -> Rule:
    until = told.get("ApproveUntilDate") or ""
    days = told.get("ApproveAfterDays")
    return Rule(
        filters=_filters(operating_system, told.get("PatchFilterGroup") or {}),
        # Where there is no delay AWS may say 0 for what nobody has said.
        approve_after_days=None if until or (not has_delay and not days) else days,
        approve_until=until,
        level=told.get("ComplianceLevel") or "UNSPECIFIED",
        non_security=bool(told.get("EnableNonSecurity")),
    )


def _filter_to_aws(each: Filter) -> dict[str, Any]:
    return {"Key": each.key, "Values": list(each.values)}


def _rule_to_aws(rule: Rule) -> dict[str, Any]:
    told: dict[str, Any] = {
        "PatchFilterGroup": {"PatchFilters": [_filter_to_aws(each) for each in rule.filters]},
        "ComplianceLevel": rule.level,
        "EnableNonSecurity": rule.non_security,
    }
    if rule.approve_until:
        told["ApproveUntilDate"] = rule.approve_until
    elif rule.approve_after_days is not None:
        told["ApproveAfterDays"] = rule.approve_after_days
    return told
