"""Baselines between the members of SSM's API and what the rooms of Patch Manager tell each other."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from fleetops.endpoint.patch.facts import Baseline, Filter, Rule, Source

# What CreatePatchBaseline makes of a member that is not given.
DEFAULTS: Mapping[str, Any] = {
    "GlobalFilters": {"PatchFilters": []},
    "ApprovalRules": {"PatchRules": []},
    "ApprovedPatches": [],
    "ApprovedPatchesComplianceLevel": "UNSPECIFIED",
    "ApprovedPatchesEnableNonSecurity": False,
    "RejectedPatches": [],
    "RejectedPatchesAction": "ALLOW_AS_DEPENDENCY",
    "Sources": [],
}
# The members that a baseline is made of, beside its name, description and operating system.
MEMBERS = (*DEFAULTS, "AvailableSecurityUpdatesComplianceStatus")


def told(content: Mapping[str, Any]) -> dict[str, Any]:
    """A baseline's members as GetPatchBaseline tells them, with what was not given as it is then."""
    shown = {name: content.get(name, default) for name, default in DEFAULTS.items()}
    rules = shown["ApprovalRules"]["PatchRules"]
    shown["ApprovalRules"] = {
        "PatchRules": [{"ComplianceLevel": "UNSPECIFIED", "EnableNonSecurity": False, **rule} for rule in rules]
    }
    if status := content.get("AvailableSecurityUpdatesComplianceStatus"):
        shown["AvailableSecurityUpdatesComplianceStatus"] = status
    return shown


def read(content: Mapping[str, Any], *, baseline_id: str, name: str, operating_system: str) -> Baseline:
    """A baseline, in the API's members, as a node obeys it."""
    members = told(content)
    return Baseline(
        baseline_id=baseline_id,
        name=name,
        operating_system=operating_system,
        global_filters=_filters(members["GlobalFilters"]),
        rules=tuple(_rule(rule) for rule in members["ApprovalRules"]["PatchRules"]),
        approved=tuple(members["ApprovedPatches"]),
        approved_level=members["ApprovedPatchesComplianceLevel"],
        approved_enable_non_security=members["ApprovedPatchesEnableNonSecurity"],
        rejected=tuple(members["RejectedPatches"]),
        rejected_action=members["RejectedPatchesAction"],
        sources=tuple(Source(one["Name"], tuple(one["Products"]), one["Configuration"]) for one in members["Sources"]),
        available_security_updates_status=members.get("AvailableSecurityUpdatesComplianceStatus", ""),
    )


def _filters(group: Mapping[str, Any]) -> tuple[Filter, ...]:
    return tuple(Filter(one["Key"], tuple(one["Values"])) for one in group.get("PatchFilters", ()))


def _rule(rule: Mapping[str, Any]) -> Rule:
    until = rule.get("ApproveUntilDate")
    return Rule(
        filters=_filters(rule["PatchFilterGroup"]),
        approve_after_days=rule.get("ApproveAfterDays"),
        approve_until=date.fromisoformat(until) if until else None,
        compliance_level=rule["ComplianceLevel"],
        enable_non_security=rule["EnableNonSecurity"],
    )


def written(baseline: Baseline) -> dict[str, Any]:
    """A baseline in the API's members again: `read` of it is the same baseline."""
    content: dict[str, Any] = {
        "GlobalFilters": _group(baseline.global_filters),
        "ApprovalRules": {"PatchRules": [_written_rule(rule) for rule in baseline.rules]},
        "ApprovedPatches": list(baseline.approved),
        "ApprovedPatchesComplianceLevel": baseline.approved_level,
        "ApprovedPatchesEnableNonSecurity": baseline.approved_enable_non_security,
        "RejectedPatches": list(baseline.rejected),
        "RejectedPatchesAction": baseline.rejected_action,
        "Sources": [
            {"Name": one.name, "Products": list(one.products), "Configuration": one.configuration}
            for one in baseline.sources
        ],
    }
    if baseline.available_security_updates_status:
        content["AvailableSecurityUpdatesComplianceStatus"] = baseline.available_security_updates_status
    return content


def _group(filters: Sequence[Filter]) -> dict[str, Any]:
    return {"PatchFilters": [{"Key": one.key, "Values": list(one.values)} for one in filters]}


def _written_rule(rule: Rule) -> dict[str, Any]:
    content: dict[str, Any] = {
        "PatchFilterGroup": _group(rule.filters),
        "ComplianceLevel": rule.compliance_level,
        "EnableNonSecurity": rule.enable_non_security,
    }
    if rule.approve_after_days is not None:
        content["ApproveAfterDays"] = rule.approve_after_days
    if rule.approve_until is not None:
        content["ApproveUntilDate"] = rule.approve_until.isoformat()
    return content
