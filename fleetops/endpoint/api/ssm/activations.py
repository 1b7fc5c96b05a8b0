"""Hybrid activations, and what is done to the nodes that came by them."""

from datetime import datetime

from fleetops.awsapi.errors import ApiError
from fleetops.endpoint.calls import Call
from fleetops.endpoint.enrolment import SERVICE, has_expired
from fleetops.endpoint.models import Activation
from fleetops.endpoint.nodes import Managed

from .shared import DEFAULT_PAGE, Part, Result, read_number, target_arn, token


class Activations(Part):
    """Activations of a region; a node's role, and its end as a managed one."""

    names = (
        "create_activation",
        "delete_activation",
        "describe_activations",
        "deregister_managed_instance",
        "update_managed_instance_role",
    )

    async def create_activation(self, call: Call, parameters: Result) -> Result:
        await self.allow(call)
        role = parameters["IamRole"]
        await self._allow_pass(call, role)
        ends: datetime | None = parameters.get("ExpirationDate")
        row, code = await self.endpoint.enrolment.create(
            call,
            role=role.rpartition("/")[2],
            description=parameters.get("Description", ""),
            instance_name=parameters.get("DefaultInstanceName", ""),
            limit=parameters.get("RegistrationLimit", 1),
            expires_at=ends,
            tags={item["Key"]: item["Value"] for item in parameters.get("Tags", [])},
        )
        call.resources = [str(row.activation_id)]
        call.response_elements = {"ActivationId": str(row.activation_id)}
        return {"ActivationId": str(row.activation_id), "ActivationCode": code}

    async def delete_activation(self, call: Call, parameters: Result) -> Result:
        await self.allow(call)
        call.resources = [parameters["ActivationId"]]
        await self.endpoint.enrolment.delete(call.account_id, call.region, parameters["ActivationId"])
        return {}

    async def describe_activations(self, call: Call, parameters: Result) -> Result:
        await self.allow(call)
        rows = await self.endpoint.enrolment.activations(call.account_id, call.region)
        for item in parameters.get("Filters", []):
            key, values = item.get("FilterKey"), item.get("FilterValues", [])
            held = {
                "ActivationIds": lambda row: str(row.activation_id),
                "DefaultInstanceName": lambda row: row.instance_name,
                "IamRole": lambda row: row.iam_role,
            }
            if key not in held:
                raise ApiError("InvalidFilter", f"Invalid filter key: {key}")
            rows = [row for row in rows if held[key](row) in values]
        after = read_number(parameters.get("NextToken")) or 0
        rows = [row for row in rows if row.pk > after]
        page = rows[: parameters.get("MaxResults", DEFAULT_PAGE)]
        return {
            "ActivationList": [_described(row, call.now) for row in page],
            "NextToken": token(str(page[-1].pk)) if len(page) < len(rows) else None,
        }

    async def deregister_managed_instance(self, call: Call, parameters: Result) -> Result:
        """The node is no longer managed: its channel is closed, and its key and credentials are good for nothing."""
        node = await self._hybrid(call, parameters["InstanceId"])
        await self.nodes.forget(node)
        await self.endpoint.hub.disconnect(node.key)
        await self.endpoint.commands.node_gone(node.key)
        await self.endpoint.inventory.node_gone(node.key)
        await self.endpoint.compliance.node_gone(node.key)
        await self.endpoint.patch_records.node_gone(node.key)
        return {}

    async def update_managed_instance_role(self, call: Call, parameters: Result) -> Result:
        node = await self._hybrid(call, parameters["InstanceId"])
        role = parameters["IamRole"]
        await self._allow_pass(call, role)
        await self.endpoint.enrolment.check_role(call.account_id, role)
        node.iam_role = role.rpartition("/")[2]
        await self.nodes.keep(node)
        return {}

    async def _hybrid(self, call: Call, instance_id: str) -> Managed:
        call.resources = [instance_id]
        await self.allow(call, [target_arn(call, instance_id)])
        node = self.nodes.find((call.account_id, call.region, instance_id))
        if node is None or not node.is_hybrid:
            raise ApiError("InvalidInstanceId", f"{instance_id} is not a hybrid managed instance.")
        return node

    async def _allow_pass(self, call: Call, role: str) -> None:
        """Who gives a role to SSM must be allowed to pass it on."""
        arn = f"arn:aws:iam::{call.account_id}:role/{role}"
        context = {"iam:passedtoservice": [SERVICE]}
        await self.endpoint.authorizer.allow(call, "iam:PassRole", [arn], context)


def _described(row: Activation, now: datetime) -> Result:
    return {
        "ActivationId": str(row.activation_id),
        "Description": row.description,
        "DefaultInstanceName": row.instance_name,
        "IamRole": row.iam_role,
        "RegistrationLimit": row.limit,
        # The model has it from 1; what nobody has used yet has no count.
        "RegistrationsCount": row.count or None,
        "ExpirationDate": row.expires_at,
        "Expired": has_expired(row, now),
        "CreatedDate": row.created_at,
        "Tags": [{"Key": key, "Value": value} for key, value in sorted(row.tags.items())],
    }
