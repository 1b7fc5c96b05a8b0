"""Patch Manager's baselines: made, changed, registered, and what they approve. States of nodes: patch_states.py."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from fleetops.awsapi.errors import ApiError
from fleetops.endpoint.calls import Call
from fleetops.endpoint.patch import available, operating_systems, shapes
from fleetops.endpoint.patch.baselines import Stored
from fleetops.endpoint.patch.decide import decide
from fleetops.endpoint.patch.facts import Candidate

from .shared import DEFAULT_PAGE, Part, Result, baseline_arn, read_number, token

T = TypeVar("T")
_LONGEST_PAGE = 100  # [SSM, PatchBaselineMaxResults]
_WINDOWS = operating_systems.WINDOWS
_INVALID = "ValidationException"  # the models of these lists have no InvalidFilter


class Patching(Part):
    """Baselines."""

    names = (
        "create_patch_baseline",
        "update_patch_baseline",
        "delete_patch_baseline",
        "get_patch_baseline",
        "describe_patch_baselines",
        "get_default_patch_baseline",
        "register_default_patch_baseline",
        "register_patch_baseline_for_patch_group",
        "deregister_patch_baseline_for_patch_group",
        "get_patch_baseline_for_patch_group",
        "describe_patch_groups",
        "describe_available_patches",
        "describe_patch_properties",
        "describe_effective_patches_for_patch_baseline",
    )

    async def create_patch_baseline(self, call: Call, parameters: Result) -> Result:
        await self.allow(call)
        baseline_id = await self.endpoint.baselines.create(_place(call), parameters, now=call.now)
        call.resources = [baseline_arn(call, baseline_id)]
        return self._changed(call, {"BaselineId": baseline_id})

    async def update_patch_baseline(self, call: Call, parameters: Result) -> Result:
        await self._allow(call, parameters["BaselineId"])
        found = await self.endpoint.baselines.update(_place(call), parameters, now=call.now)
        return _told(found)

    async def delete_patch_baseline(self, call: Call, parameters: Result) -> Result:
        await self._allow(call, parameters["BaselineId"])
        await self.endpoint.baselines.delete(_place(call), parameters["BaselineId"])
        return self._changed(call, {"BaselineId": parameters["BaselineId"]})

    async def get_patch_baseline(self, call: Call, parameters: Result) -> Result:
        await self._allow(call, parameters["BaselineId"])
        found = await self.endpoint.baselines.find(_place(call), parameters["BaselineId"])
        return _told(found) | {"PatchGroups": list(found.groups)}

    async def describe_patch_baselines(self, call: Call, parameters: Result) -> Result:
        await self.allow(call)
        found = await self.endpoint.baselines.listed(_place(call))
        tests: Mapping[str, Callable[[Stored, Sequence[str]], bool]] = {
            "NAME_PREFIX": lambda one, values: one.name.startswith(tuple(values)),
            "OWNER": lambda one, values: ("Self" if one.is_own else "AWS") in values,
            "OPERATING_SYSTEM": lambda one, values: one.operating_system in values,
        }
        page, more = paged(filtered(found, parameters.get("Filters", []), tests, _INVALID), parameters, _LONGEST_PAGE)
        return {"BaselineIdentities": [_identity(one) for one in page], "NextToken": more}

    async def get_default_patch_baseline(self, call: Call, parameters: Result) -> Result:
        system = parameters.get("OperatingSystem", _WINDOWS)
        baseline_id = await self.endpoint.baselines.default(_place(call), system)
        await self._allow(call, baseline_id)
        return {"BaselineId": baseline_id, "OperatingSystem": system}

    async def register_default_patch_baseline(self, call: Call, parameters: Result) -> Result:
        await self._allow(call, parameters["BaselineId"])
        baseline_id = await self.endpoint.baselines.register_default(_place(call), parameters["BaselineId"])
        return self._changed(call, {"BaselineId": baseline_id})

    async def register_patch_baseline_for_patch_group(self, call: Call, parameters: Result) -> Result:
        await self._allow(call, parameters["BaselineId"])
        group = parameters["PatchGroup"]
        baseline_id = await self.endpoint.baselines.register_group(_place(call), parameters["BaselineId"], group)
        return self._changed(call, {"BaselineId": baseline_id, "PatchGroup": group})

    async def deregister_patch_baseline_for_patch_group(self, call: Call, parameters: Result) -> Result:
        await self._allow(call, parameters["BaselineId"])
        group = parameters["PatchGroup"]
        baseline_id = await self.endpoint.baselines.deregister_group(_place(call), parameters["BaselineId"], group)
        return self._changed(call, {"BaselineId": baseline_id, "PatchGroup": group})

    async def get_patch_baseline_for_patch_group(self, call: Call, parameters: Result) -> Result:
        """The baseline "that should be used" for a group: the one registered for it, or else the default."""
        group, system = parameters["PatchGroup"], parameters.get("OperatingSystem", _WINDOWS)
        baselines, place = self.endpoint.baselines, _place(call)
        baseline_id = await baselines.of_group(place, group, system) or await baselines.default(place, system)
        await self._allow(call, baseline_id)
        return {"BaselineId": baseline_id, "PatchGroup": group, "OperatingSystem": system}

    async def describe_patch_groups(self, call: Call, parameters: Result) -> Result:
        await self.allow(call)
        listed = await self.endpoint.baselines.listed(_place(call))
        found = sorted(
            ((group, one) for one in listed for group in one.groups),
            key=lambda pair: (pair[0], pair[1].operating_system),
        )
        tests: Mapping[str, Callable[[tuple[str, Stored], Sequence[str]], bool]] = {
            "NAME_PREFIX": lambda pair, values: pair[0].startswith(tuple(values)),
            "OPERATING_SYSTEM": lambda pair, values: pair[1].operating_system in values,
        }
        page, more = paged(filtered(found, parameters.get("Filters", []), tests, _INVALID), parameters, _LONGEST_PAGE)
        return {
            "Mappings": [{"PatchGroup": group, "BaselineIdentity": _identity(one)} for group, one in page],
            "NextToken": more,
        }

    async def describe_available_patches(self, call: Call, parameters: Result) -> Result:
        await self.allow(call)
        found = available.matching(parameters.get("Filters", []), call.now)
        page, more = paged(found, parameters, _LONGEST_PAGE)
        return {"Patches": [_patch(one) for one in page], "NextToken": more}

    async def describe_patch_properties(self, call: Call, parameters: Result) -> Result:
        await self.allow(call)
        system, key = parameters["OperatingSystem"], parameters["Property"]
        if parameters.get("PatchSet") and system != _WINDOWS:
            raise ApiError(
                "ValidationException", "PatchSet is not applicable for the Linux or macOS operating systems."
            )
        legal = operating_systems.properties(system, key, parameters.get("PatchSet", "OS"))
        if legal is None:
            keys = ", ".join(operating_systems.keys(system))
            raise ApiError("ValidationException", f"{key} is not a property for {system}. Its properties are {keys}.")
        page, more = paged(legal, parameters, DEFAULT_PAGE)
        return {"Properties": [{"Name": name} for name in page], "NextToken": more}

    async def describe_effective_patches_for_patch_baseline(self, call: Call, parameters: Result) -> Result:
        await self._allow(call, parameters["BaselineId"])
        found = await self.endpoint.baselines.find(_place(call), parameters["BaselineId"])
        if found.operating_system != _WINDOWS:
            raise ApiError(
                "UnsupportedOperatingSystem",
                "Effective patches are listed for baselines of Windows only: on Linux it is the node that evaluates.",
            )
        baseline = found.facts
        decided = [(patch, decide(baseline, patch, now=call.now)) for patch in available.of_system(_WINDOWS, call.now)]
        page, more = paged([pair for pair in decided if pair[1] is not None], parameters, _LONGEST_PAGE)
        return {
            "EffectivePatches": [
                {
                    "Patch": _patch(patch),
                    "PatchStatus": {
                        "DeploymentStatus": decision.status.value,
                        "ComplianceLevel": decision.level,
                        "ApprovalDate": decision.approved_at,
                    },
                }
                for patch, decision in page
                if decision is not None
            ],
            "NextToken": more,
        }

    async def _allow(self, call: Call, baseline_id: str) -> None:
        arn = baseline_arn(call, baseline_id)
        call.resources = [arn]
        await self.allow(call, [arn])

    def _changed(self, call: Call, result: Result) -> Result:
        call.response_elements = result
        return result


def paged(found: Sequence[T], parameters: Result, default: int) -> tuple[Sequence[T], str | None]:
    """One page of a list, and the token of the next. Raises ApiError (InvalidNextToken)."""
    start, size = read_number(parameters.get("NextToken")) or 0, parameters.get("MaxResults", default)
    end = start + size
    return found[start:end], token(str(end)) if len(found) > end else None


def filtered(
    found: Sequence[T],
    filters: Sequence[Mapping[str, Any]],
    tests: Mapping[str, Callable[[T, Sequence[str]], bool]],
    code: str = "InvalidFilter",
) -> list[T]:
    """What meets all filters. Raises ApiError for a key that there is not."""
    held = list(found)
    for one in filters:
        key, values = one.get("Key", ""), one.get("Values", [])
        if key not in tests:
            raise ApiError(code, f"Invalid filter key: {key}. The keys are {', '.join(tests)}.")
        held = [item for item in held if tests[key](item, values)]
    return held


def _place(call: Call) -> tuple[str, str]:
    return call.account_id, call.region


def _told(one: Stored) -> Result:
    return {
        "BaselineId": one.baseline_id,
        "Name": one.name,
        "OperatingSystem": one.operating_system,
        **shapes.told(one.content),
        "CreatedDate": one.created_at,
        "ModifiedDate": one.modified_at,
        "Description": one.description or None,
    }


def _identity(one: Stored) -> Result:
    return {
        "BaselineId": one.baseline_id,
        "BaselineName": one.name,
        "OperatingSystem": one.operating_system,
        "BaselineDescription": one.description or None,
        "DefaultBaseline": one.is_default,
    }


def _patch(patch: Candidate) -> Result:
    """A patch in the API's members: those of Windows or those of Linux."""
    told: Result = {
        "ReleaseDate": patch.released_at,
        "Title": patch.title,
        "Product": patch.product,
        "ProductFamily": patch.product_family,
        "Classification": patch.classification,
    }
    if patch.name.startswith("KB"):
        return told | {
            "Id": available.id_of(patch),
            "ContentUrl": f"https://support.microsoft.com/en-us/kb/{patch.name.removeprefix('KB')}",
            "Vendor": "Microsoft",
            "MsrcSeverity": patch.severity,
            "KbNumber": patch.name,
            "Language": "All",
        }
    return told | {
        "Severity": patch.severity,
        "Name": patch.name,
        "Epoch": int(patch.epoch or "0"),
        "Version": patch.version,
        "Release": patch.release,
        "Arch": patch.arch,
        "AdvisoryIds": list(patch.advisory_ids),
        "CVEIds": list(patch.cves),
        "BugzillaIds": list(patch.bugzilla_ids),
    }
