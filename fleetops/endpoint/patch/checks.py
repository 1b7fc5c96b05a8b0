"""A baseline as it is asked for, against what its operating system can do: told in words. The model was held before."""

import re
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any, Final

from fleetops.awsapi.errors import ApiError
from fleetops.endpoint.patch import operating_systems as systems
from fleetops.endpoint.patch.operating_systems import Family

_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
_LINUX: Final = frozenset({Family.RPM, Family.APT, Family.SUSE})
_NUMBER: Final = re.compile(r"[0-9]+")
_CVE: Final = re.compile(r"CVE-[0-9]{4}-[0-9]{4,}")
_ADVISORY: Final = re.compile(r"[A-Z][A-Z0-9]*(-[A-Z0-9.]+)*-[0-9]{4}[:-][0-9]+")
_RPM_NAME: Final = re.compile(r"[A-Za-z0-9_*][A-Za-z0-9._+:~^*-]*")
_APT_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
_MACOS_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._()+-]*")
_WINDOWS_NAME: Final = re.compile(r"KB[0-9]{5,8}|MS[0-9]{2}-[0-9]{3}")

_FORMATS: Final[Mapping[Family, str]] = {
    Family.RPM: "a package name with at most one wildcard (*), such as dbus-1.12.28-*.x86_64",
    Family.SUSE: "a patch's or package's full name with at most one wildcard (*), such as SUSE-SLE-Module-15-2026-*",
    Family.APT: "a bare package name, without version, architecture or wildcard, such as openssl",
    Family.MACOS: "a full name without a wildcard",
    Family.WINDOWS: "an article or bulletin, such as KB5031364 or MS10-048",
}


def invalid(message: str) -> ApiError:
    return ApiError("ValidationException", message)


def check(content: Mapping[str, Any], system: str) -> None:
    """Return if a baseline, in the members of CreatePatchBaseline, is sound. Raises ApiError (ValidationException)."""
    family = systems.FAMILIES[system]
    if any("\0" in source["Configuration"] for source in content.get("Sources", [])):
        raise invalid("The configuration of a source holds the character zero.")
    global_filters = content.get("GlobalFilters", {}).get("PatchFilters", [])
    _check_filters(global_filters, system, "GlobalFilters")
    for number, rule in enumerate(content.get("ApprovalRules", {}).get("PatchRules", []), 1):
        _check_rule(rule, system, f"Approval rule {number}")
        for one in rule["PatchFilterGroup"]["PatchFilters"]:
            _check_meets(one, global_filters, f"Approval rule {number}")
    _check_names(content.get("ApprovedPatches", []), family, "ApprovedPatches", may_be_id=True)
    _check_names(content.get("RejectedPatches", []), family, "RejectedPatches", may_be_id=False)
    if content.get("ApprovedPatchesEnableNonSecurity") and family not in _LINUX:
        raise invalid("ApprovedPatchesEnableNonSecurity applies to Linux managed nodes only.")
    if content.get("Sources") and family not in _LINUX:
        raise invalid("Sources apply to Linux managed nodes only.")
    if content.get("AvailableSecurityUpdatesComplianceStatus") and family != Family.WINDOWS:
        raise invalid("AvailableSecurityUpdatesComplianceStatus applies to Windows Server managed nodes only.")
    for source in content.get("Sources", []):
        for product in source["Products"]:
            if product != systems.ANY and product not in systems.PRODUCTS[system]:
                raise invalid(f"The source {source['Name']}: {product} is not a product of {system}.")


def _check_rule(rule: Mapping[str, Any], system: str, where: str) -> None:
    family = systems.FAMILIES[system]
    filters = rule["PatchFilterGroup"]["PatchFilters"]
    _check_filters(filters, system, where)
    days, until = rule.get("ApproveAfterDays"), rule.get("ApproveUntilDate")
    if days is not None and until is not None:
        raise invalid(f"{where}: ApproveAfterDays and ApproveUntilDate cannot be used together.")
    if family == Family.APT:
        if days is not None or until is not None:
            raise invalid(
                f"{where}: ApproveAfterDays and ApproveUntilDate are not supported for {system}: its repositories give "
                "no dates, and what matches is approved at once."
            )
    elif days is None and until is None:
        raise invalid(f"{where}: one of ApproveAfterDays and ApproveUntilDate is required.")
    if until is not None:
        try:
            if not _DATE.fullmatch(until):
                raise ValueError
            date.fromisoformat(until)
        except ValueError:
            raise invalid(f"{where}: ApproveUntilDate {until} is not a date in the format YYYY-MM-DD.") from None
    if rule.get("EnableNonSecurity") and family not in _LINUX:
        raise invalid(f"{where}: EnableNonSecurity applies to Linux managed nodes only.")
    if family == Family.WINDOWS:
        _check_patch_set({one["Key"]: one["Values"] for one in filters}, where)


def _check_patch_set(filters: Mapping[str, list[str]], where: str) -> None:
    """Products and families of one patch set are not in the other: together they would match nothing."""
    sets = set(filters.get("PATCH_SET", ["OS"]))
    if {"OS", "APPLICATION"} <= sets or systems.ANY in sets:
        return
    is_os = "OS" in sets
    for key, of_system in (("PRODUCT_FAMILY", {"Windows"}), ("PRODUCT", set(systems.WINDOWS_PRODUCTS))):
        for value in filters.get(key, []):
            if value != systems.ANY and (value in of_system) != is_os:
                told = "OS" if is_os else "APPLICATION"
                raise invalid(f"{where}: the {key} {value} is not in the PATCH_SET {told}, so that it matches nothing.")


def _check_filters(filters: Iterable[Mapping[str, Any]], system: str, where: str) -> None:
    seen = set()
    for one in filters:
        key, given = one["Key"], one["Values"]
        if key in seen:
            raise invalid(f"{where}: the filter key {key} is given more than once.")
        seen.add(key)
        legal = systems.values(system, key)
        if legal is None:
            raise invalid(
                f"{where}: {key} is not a filter key for {system}. Its keys are {', '.join(systems.keys(system))}."
            )
        if twice := next((value for n, value in enumerate(given) if value in given[:n]), None):
            raise invalid(f"{where}: the value {twice} of {key} is given more than once.")
        if legal and (unknown := next((value for value in given if value not in {systems.ANY, *legal}), None)):
            raise invalid(f"{where}: {unknown} is not a value of {key} for {system}. See DescribePatchProperties.")


def _check_meets(one: Mapping[str, Any], global_filters: Iterable[Mapping[str, Any]], where: str) -> None:
    """A rule that wants what the global filters leave out contradicts them."""
    for other in global_filters:
        if one["Key"] != other["Key"] or systems.ANY in {*one["Values"], *other["Values"]}:
            continue
        if not set(one["Values"]) & set(other["Values"]):
            raise invalid(f"{where} contradicts GlobalFilters: no {one['Key']} is in both, so that it matches nothing.")


def _check_names(names: Iterable[str], family: Family, where: str, *, may_be_id: bool) -> None:
    seen = set()
    for name in names:
        if name in seen:
            raise invalid(f"{where}: {name} is given more than once.")
        seen.add(name)
        if not is_name(name, family, may_be_id=may_be_id):
            words = _FORMATS[family]
            if family == Family.RPM and may_be_id:
                words += ", an advisory, a CVE or a Bugzilla number"
            raise invalid(f"{where}: {name} is not in a format that is supported: {words}.")


def is_name(name: str, family: Family, *, may_be_id: bool) -> bool:
    """Whether a list of a family can name a patch so; `may_be_id`: by what it mends too, as approved lists may."""
    if family == Family.WINDOWS:
        return _WINDOWS_NAME.fullmatch(name) is not None
    if family == Family.APT:
        return _APT_NAME.fullmatch(name) is not None
    if family == Family.MACOS:
        return _MACOS_NAME.fullmatch(name) is not None
    if name.count("*") > 1 or _RPM_NAME.fullmatch(name) is None:
        return False
    is_id = any(pattern.fullmatch(name) for pattern in (_NUMBER, _CVE, _ADVISORY))
    return family == Family.SUSE or may_be_id or not is_id
