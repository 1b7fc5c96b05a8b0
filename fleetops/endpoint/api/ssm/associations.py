"""What agents ask of State Manager, Patch Manager and Distributor before these are here.

There are no associations, no patch baselines and no packages yet: lists are empty, and whoever names one is told in
AWS's words that it does not exist. Without these answers an agent turns to older calls, or tries again for ever.
Source: ssm-protocol.md 6.4 and 6.6; real-agent-notes.md 4.
"""

from fleetops.awsapi.errors import ApiError
from fleetops.endpoint.calls import Call

from .shared import Part, Result, instance_id_of, read_number, target_arn

_UUID_CHARACTERS = 36
_LONGEST_PACKAGE = 256  # characters that we take of a package's name or version
_OPERATIONS = {"Install", "Uninstall", "Rollback", "InvalidOperation"}  # [agent SDK, ssm, Operation]


class Associations(Part):
    """Associations as agents and their users ask for them."""

    names = (
        "list_associations",
        "describe_association",
        "describe_instance_associations_status",
        "describe_effective_instance_associations",
        "update_association_status",
        "get_deployable_patch_snapshot_for_instance",
    )
    agent_names = (
        "list_instance_associations",
        "update_instance_association_status",
        "get_manifest",
        "put_configure_package_result",
    )

    # What agents call

    async def list_instance_associations(self, call: Call, parameters: Result) -> Result:
        await self.endpoint.authorizer.allow_node(call, instance_id_of(parameters), "ssm:ListInstanceAssociations")
        return {"Associations": []}

    async def update_instance_association_status(self, call: Call, parameters: Result) -> Result:
        """How an association fares on a node. Of one that does not exist nothing is kept."""
        instance_id = instance_id_of(parameters)
        await self.endpoint.authorizer.allow_node(call, instance_id, "ssm:UpdateInstanceAssociationStatus")
        association_id = parameters.get("AssociationId")
        if not isinstance(association_id, str) or len(association_id) != _UUID_CHARACTERS:
            raise _invalid("associationId", "Member must be the id of an association")
        if not isinstance(parameters.get("ExecutionResult"), dict):
            raise _invalid("executionResult", "Member must not be null")
        raise _no_association(association_id)

    async def get_manifest(self, call: Call, parameters: Result) -> Result:
        """A package of AWS's package service. The agent then looks for a document of that name, by GetDocument."""
        await self.allow(call)
        name = _text(parameters, "PackageName")
        _text(parameters, "PackageVersion")
        raise ApiError("ResourceNotFoundException", f"There is no package {name} in the package service.")

    async def put_configure_package_result(self, call: Call, parameters: Result) -> Result:
        """How a package was installed; CloudTrail keeps it, and there is no list of such results."""
        await self.allow(call)
        for name in ("PackageName", "PackageVersion"):
            _text(parameters, name)
        if parameters.get("Operation") not in _OPERATIONS:
            raise _invalid("operation", f"Member must satisfy enum value set: [{', '.join(sorted(_OPERATIONS))}]")
        for name in ("OverallTiming", "Result"):
            if isinstance(parameters.get(name), bool) or not isinstance(parameters.get(name), int):
                raise _invalid(f"{name[:1].lower()}{name[1:]}", "Member must be a number")
        return {}

    async def update_association_status(self, call: Call, parameters: Result) -> Result:
        """The older way of UpdateInstanceAssociationStatus."""
        instance_id = parameters["InstanceId"]
        await self.endpoint.authorizer.allow_node(call, instance_id, "ssm:UpdateAssociationStatus")
        self.managed(call, instance_id)
        raise _no_association(f"{parameters['Name']} of {instance_id}")

    async def get_deployable_patch_snapshot_for_instance(self, call: Call, parameters: Result) -> Result:
        """What a patch script asks for; it must not take an empty baseline for "nothing is missing"."""
        instance_id = parameters["InstanceId"]
        await self.endpoint.authorizer.allow_node(call, instance_id, "ssm:GetDeployablePatchSnapshotForInstance")
        node = self.managed(call, instance_id)
        platform = node.information.get("PlatformName") or "an operating system that nobody has reported"
        raise ApiError(
            "UnsupportedOperatingSystem", f"There is no patch baseline for {platform} ({instance_id}) at this endpoint."
        )

    # What others ask

    async def list_associations(self, call: Call, parameters: Result) -> Result:
        for item in parameters.get("AssociationFilterList", []):
            if item["key"] == "InstanceId" and call.principal is not None and call.principal.kind == "node":
                # An agent asks so for its own when ListInstanceAssociations fails.
                await self.endpoint.authorizer.allow_node(call, item["value"], "ssm:ListAssociations")
        await self.allow(call)
        read_number(parameters.get("NextToken"))
        return {"Associations": []}

    async def describe_association(self, call: Call, parameters: Result) -> Result:
        await self.allow(call)
        if "AssociationId" in parameters:
            raise _no_association(parameters["AssociationId"])
        if "Name" not in parameters or "InstanceId" not in parameters:
            raise ApiError("ValidationException", "Give an AssociationId, or a Name and an InstanceId.")
        self.managed(call, parameters["InstanceId"])
        raise _no_association(f"{parameters['Name']} of {parameters['InstanceId']}")

    async def describe_instance_associations_status(self, call: Call, parameters: Result) -> Result:
        await self._of_node(call, parameters)
        return {"InstanceAssociationStatusInfos": []}

    async def describe_effective_instance_associations(self, call: Call, parameters: Result) -> Result:
        await self._of_node(call, parameters)
        return {"Associations": []}

    async def _of_node(self, call: Call, parameters: Result) -> None:
        await self.allow(call, [target_arn(call, parameters["InstanceId"])])
        self.managed(call, parameters["InstanceId"])
        read_number(parameters.get("NextToken"))


def _no_association(which: str) -> ApiError:
    return ApiError("AssociationDoesNotExist", f"The association {which} does not exist.")


def _text(parameters: Result, name: str) -> str:
    value = parameters.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_PACKAGE:
        raise _invalid(f"{name[:1].lower()}{name[1:]}", f"Member must be a text of 1 to {_LONGEST_PACKAGE} characters")
    return value


def _invalid(name: str, told: str) -> ApiError:
    return ApiError(
        "ValidationException", f"1 validation error detected: Value at '{name}' failed to satisfy constraint: {told}"
    )
