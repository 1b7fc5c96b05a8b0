"""Patch Manager's states: what was found on nodes and groups, and the snapshot by which a node is judged."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from fleetops.awsapi.errors import ApiError
from fleetops.endpoint.calls import Call
from fleetops.endpoint.models import PatchReport
from fleetops.endpoint.patch.baselines import patch_group_of
from fleetops.endpoint.patch.facts import PatchState
from fleetops.endpoint.patch.operating_systems import product_of

from .patching import filtered, paged
from .shared import DEFAULT_PAGE, Part, Result, target_arn

# The counts of a state, and the states that they count.
_COUNTS = {
    "InstalledCount": PatchState.INSTALLED,
    "InstalledOtherCount": PatchState.INSTALLED_OTHER,
    "InstalledPendingRebootCount": PatchState.INSTALLED_PENDING_REBOOT,
    "InstalledRejectedCount": PatchState.INSTALLED_REJECTED,
    "MissingCount": PatchState.MISSING,
    "FailedCount": PatchState.FAILED,
    "NotApplicableCount": PatchState.NOT_APPLICABLE,
    "AvailableSecurityUpdateCount": PatchState.AVAILABLE_SECURITY_UPDATE,
}
_FILTERED_COUNTS = (
    *[name for name in _COUNTS if name != "AvailableSecurityUpdateCount"],
    "UnreportedNotApplicableCount",
)
_OPERATORS: dict[str, Callable[[int, int], bool]] = {
    "Equal": lambda one, other: one == other,
    "NotEqual": lambda one, other: one != other,
    "LessThan": lambda one, other: one < other,
    "GreaterThan": lambda one, other: one > other,
}
# Filters spell a state "InstalledPendingReboot", answers "INSTALLED_PENDING_REBOOT".
_SPELLED = {"".join(part.capitalize() for part in state.value.split("_")): state.value for state in PatchState}


class PatchStates(Part):
    """States of nodes, patches and groups."""

    names = (
        "get_deployable_patch_snapshot_for_instance",
        "describe_instance_patch_states",
        "describe_instance_patch_states_for_patch_group",
        "describe_instance_patches",
        "describe_patch_group_state",
    )

    async def get_deployable_patch_snapshot_for_instance(self, call: Call, parameters: Result) -> Result:
        instance_id, snapshot_id = parameters["InstanceId"], parameters["SnapshotId"]
        assert call.principal is not None
        if call.principal.node is not None:
            await self.endpoint.authorizer.allow_node(call, instance_id, f"ssm:{call.operation}")
        else:
            await self.allow(call, [target_arn(call, instance_id)])
        key = (call.account_id, call.region, instance_id)
        snapshot = await self.endpoint.snapshots.take(
            key, snapshot_id, override=parameters.get("BaselineOverride"), now=call.now
        )
        host = call.request.header("host") or self.endpoint.stream_host
        return {
            "InstanceId": instance_id,
            "SnapshotId": snapshot_id,
            "Product": product_of(self.managed(call, instance_id).information) or snapshot.baseline.operating_system,
            "SnapshotDownloadUrl": f"https://{host}{self.endpoint.snapshots.query(snapshot, call.now)}",
        }

    async def describe_instance_patch_states(self, call: Call, parameters: Result) -> Result:
        await self.allow(call)
        found = await self.endpoint.patch_records.of_nodes((call.account_id, call.region), parameters["InstanceIds"])
        page, more = paged(found, parameters, DEFAULT_PAGE)
        return {"InstancePatchStates": [_state(row) for row in page], "NextToken": more}

    async def describe_instance_patch_states_for_patch_group(self, call: Call, parameters: Result) -> Result:
        await self.allow(call)
        found = await self.endpoint.patch_records.of_group((call.account_id, call.region), parameters["PatchGroup"])
        for one in parameters.get("Filters", []):
            key, value = one["Key"], one["Values"][0]
            if key not in _FILTERED_COUNTS:
                raise ApiError(
                    "InvalidFilter", f"Invalid filter key: {key}. The keys are {', '.join(_FILTERED_COUNTS)}."
                )
            if not (value.isascii() and value.isdigit() and len(value) < 10):
                raise ApiError("InvalidFilter", f"The value of {key} must be an integer greater than or equal to 0.")
            holds = _OPERATORS[one["Type"]]
            found = [row for row in found if holds(_count(row, key), int(value))]
        page, more = paged(found, parameters, DEFAULT_PAGE)
        return {"InstancePatchStates": [_state(row) for row in page], "NextToken": more}

    async def describe_instance_patches(self, call: Call, parameters: Result) -> Result:
        await self.allow(call)
        node = self.managed(call, parameters["InstanceId"])
        found = await self.endpoint.patch_records.patches(node.key)
        tests: dict[str, Callable[[dict[str, Any], Sequence[str]], bool]] = {
            "Classification": lambda one, values: one["Classification"] in values,
            "KBId": lambda one, values: one["KBId"] in values,
            "Severity": lambda one, values: one["Severity"] in values,
            "State": lambda one, values: one["State"] in {_SPELLED.get(value, value) for value in values},
        }
        page, more = paged(filtered(found, parameters.get("Filters", []), tests), parameters, DEFAULT_PAGE)
        return {
            "Patches": [
                {
                    **one,
                    "InstalledTime": datetime.fromtimestamp(one["InstalledTime"], UTC),
                    "CVEIds": one["CVEIds"] or None,
                }
                for one in page
            ],
            "NextToken": more,
        }

    async def describe_patch_group_state(self, call: Call, parameters: Result) -> Result:
        await self.allow(call)
        group, place = parameters["PatchGroup"], (call.account_id, call.region)
        rows = await self.endpoint.patch_records.of_group(place, group)

        def having(name: str) -> int:
            return sum(_count(row, name) > 0 for row in rows)

        return {
            "Instances": sum(patch_group_of(node) == group for node in self.nodes.registered_in(*place)),
            "InstancesWithInstalledPatches": having("InstalledCount"),
            "InstancesWithInstalledOtherPatches": having("InstalledOtherCount"),
            "InstancesWithInstalledPendingRebootPatches": having("InstalledPendingRebootCount"),
            "InstancesWithInstalledRejectedPatches": having("InstalledRejectedCount"),
            "InstancesWithMissingPatches": having("MissingCount"),
            "InstancesWithFailedPatches": having("FailedCount"),
            "InstancesWithNotApplicablePatches": having("NotApplicableCount"),
            "InstancesWithUnreportedNotApplicablePatches": having("UnreportedNotApplicableCount"),
            "InstancesWithCriticalNonCompliantPatches": sum(row.critical_count > 0 for row in rows),
            "InstancesWithSecurityNonCompliantPatches": sum(row.security_count > 0 for row in rows),
            "InstancesWithOtherNonCompliantPatches": sum(row.other_count > 0 for row in rows),
            "InstancesWithAvailableSecurityUpdates": having("AvailableSecurityUpdateCount"),
        }


def _count(row: PatchReport, name: str) -> int:
    """A count of a report; of what does not apply all is in NotApplicableCount."""
    state = _COUNTS.get(name)
    return row.counts.get(state.value, 0) if state is not None else 0


def _state(row: PatchReport) -> Result:
    return {
        "InstanceId": row.instance_id,
        "PatchGroup": row.patch_group,
        "BaselineId": row.baseline_id,
        "SnapshotId": row.snapshot_id or None,
        "InstallOverrideList": row.install_override_list or None,
        **{name: _count(row, name) for name in _COUNTS},
        "UnreportedNotApplicableCount": 0,
        "OperationStartTime": row.started_at,
        "OperationEndTime": row.ended_at,
        "Operation": row.operation,
        "LastNoRebootInstallOperationTime": row.no_reboot_install_at,
        "RebootOption": row.reboot_option,
        "CriticalNonCompliantCount": row.critical_count,
        "SecurityNonCompliantCount": row.security_count,
        "OtherNonCompliantCount": row.other_count,
    }
