"""What agents say of their nodes, and what is told of them."""

from collections.abc import Callable
from datetime import datetime

from fleetops.awsapi.errors import ApiError
from fleetops.endpoint.calls import Call
from fleetops.endpoint.nodes import Managed

from .shared import DEFAULT_PAGE, Part, Result, instance_id_of, read_token, target_arn, token

_INFORMATION_MEMBERS = {  # of UpdateInstanceInformation, with the most characters that we keep of each
    "AgentName": 64,
    "AgentStatus": 32,
    "AgentVersion": 32,
    "AvailabilityZone": 32,
    "AvailabilityZoneId": 32,
    "ComputerName": 255,
    "IPAddress": 46,
    "PlatformName": 128,
    "PlatformType": 16,
    "PlatformVersion": 64,
    "SSMConnectionChannel": 16,
}
_PLATFORM_TYPES = {"Linux", "Windows", "MacOS"}


class Nodes(Part):
    """Instance information, and whether a node is connected."""

    names = ("describe_instance_information", "get_connection_status")
    agent_names = ("update_instance_information",)

    async def update_instance_information(self, call: Call, parameters: Result) -> Result:
        instance_id = instance_id_of(parameters)
        await self.endpoint.authorizer.allow_node(call, instance_id, "ssm:UpdateInstanceInformation")
        information = {}
        for name, longest in _INFORMATION_MEMBERS.items():
            value = parameters.get(name)
            if value is None:
                continue
            if not isinstance(value, str) or len(value) > longest:
                raise ApiError(
                    "ValidationException",
                    f"1 validation error detected: Value at '{name[:1].lower()}{name[1:]}' failed to satisfy "
                    f"constraint: Member must have length less than or equal to {longest}",
                )
            information[name] = value
        platform = information.get("PlatformType", "Linux")
        if platform not in _PLATFORM_TYPES:
            raise ApiError("ValidationException", f"'{platform}' is not a platform type")
        await self.nodes.report((call.account_id, call.region, instance_id), information, call.now)
        return {}

    async def describe_instance_information(self, call: Call, parameters: Result) -> Result:
        await self.allow(call)
        if parameters.get("Filters") and parameters.get("InstanceInformationFilterList"):
            raise ApiError("ValidationException", "Filters and InstanceInformationFilterList cannot be used together.")
        filters = [(item["Key"], item["Values"]) for item in parameters.get("Filters", [])]
        filters += [(item["key"], item["valueSet"]) for item in parameters.get("InstanceInformationFilterList", [])]
        found = self.nodes.of_region(call.account_id, call.region)
        for key, values in filters:
            if key == "InstanceIds":
                self._check_owned(call, values)
            found = [node for node in found if self._matches(node, key, values, call.now)]
        size = parameters.get("MaxResults", DEFAULT_PAGE)
        after = read_token(parameters.get("NextToken"))
        found = [node for node in found if node.instance_id > after]
        page = found[:size]
        return {
            "InstanceInformationList": [self._information(node, call.now) for node in page],
            "NextToken": token(page[-1].instance_id) if len(found) > size else None,
        }

    async def get_connection_status(self, call: Call, parameters: Result) -> Result:
        target = parameters["Target"]
        await self.allow(call, [target_arn(call, target)])
        connected = self.endpoint.hub.is_connected((call.account_id, call.region, target))
        return {"Target": target, "Status": "connected" if connected else "notconnected"}

    def _check_owned(self, call: Call, instance_ids: list[str]) -> None:
        for instance_id in instance_ids:
            if self.nodes.find((call.account_id, call.region, instance_id)) is None:
                raise ApiError("InvalidInstanceId", f"{instance_id} is not a managed instance of this account.")

    def _matches(self, node: Managed, key: str, values: list[str], now: datetime) -> bool:
        information = node.information
        if key.startswith("tag:"):
            return node.tags.get(key.removeprefix("tag:")) in values
        held: dict[str, Callable[[], list[str]]] = {
            "InstanceIds": lambda: [node.instance_id],
            "AgentVersion": lambda: [information.get("AgentVersion", "")],
            "PingStatus": lambda: [self.nodes.ping_status(node, now)],
            "PlatformTypes": lambda: [information.get("PlatformType", "")],
            "IamRole": lambda: [node.iam_role],
            "ResourceType": lambda: ["ManagedInstance" if node.is_hybrid else "EC2Instance"],
            "SourceTypes": lambda: ["AWS::SSM::ManagedInstance" if node.is_hybrid else "AWS::EC2::Instance"],
            "SourceIds": lambda: [node.instance_id],
            "ActivationIds": lambda: [node.activation_id] if node.activation_id else [],
            "AssociationStatus": list,
            "tag-key": lambda: list(node.tags),
        }
        if key not in held:
            raise ApiError("InvalidFilterKey", f"Invalid filter key: {key}")
        return any(value in values for value in held[key]())

    def _information(self, node: Managed, now: datetime) -> Result:
        information = node.information
        return {
            "InstanceId": node.instance_id,
            "PingStatus": self.nodes.ping_status(node, now),
            "LastPingDateTime": self.nodes.last_ping(node, now),
            "AgentVersion": information.get("AgentVersion"),
            "IsLatestVersion": True,
            "PlatformType": information.get("PlatformType"),
            "PlatformName": information.get("PlatformName"),
            "PlatformVersion": information.get("PlatformVersion"),
            "ActivationId": node.activation_id or None,
            "IamRole": node.iam_role or None,
            "RegistrationDate": node.registered_at if node.is_hybrid else None,
            "ResourceType": "ManagedInstance" if node.is_hybrid else "EC2Instance",
            "Name": node.name or None,
            "IPAddress": information.get("IPAddress"),
            "ComputerName": information.get("ComputerName"),
            "SourceId": node.instance_id,
            "SourceType": "AWS::SSM::ManagedInstance" if node.is_hybrid else "AWS::EC2::Instance",
        }
