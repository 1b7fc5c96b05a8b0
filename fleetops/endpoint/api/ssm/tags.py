"""Tags of what SSM holds."""

from fleetops.awsapi.errors import ApiError, not_implemented
from fleetops.endpoint import session_documents
from fleetops.endpoint.calls import Call
from fleetops.endpoint.nodes import Managed

from .shared import Part, Result

_MOST_TAGS = 50


class Tags(Part):
    """Add, remove and list the tags of a resource."""

    names = ("list_tags_for_resource", "add_tags_to_resource", "remove_tags_from_resource")

    async def list_tags_for_resource(self, call: Call, parameters: Result) -> Result:
        await self.allow(call, self._tagged_arns(call, parameters))
        node = self._tagged(call, parameters)
        tags = sorted(node.tags.items()) if node is not None else []
        return {"TagList": [{"Key": key, "Value": value} for key, value in tags]}

    async def add_tags_to_resource(self, call: Call, parameters: Result) -> Result:
        await self.allow(call, self._tagged_arns(call, parameters))
        node = self._tagged(call, parameters)
        if node is None:
            raise not_implemented(f"tags of a {parameters['ResourceType']}")
        tags = node.tags | {item["Key"]: item["Value"] for item in parameters["Tags"]}
        if len(tags) > _MOST_TAGS:
            raise ApiError("TooManyTagsError", f"A resource holds {_MOST_TAGS} tags at most.")
        await self.nodes.set_tags(node, tags)
        return {}

    async def remove_tags_from_resource(self, call: Call, parameters: Result) -> Result:
        await self.allow(call, self._tagged_arns(call, parameters))
        node = self._tagged(call, parameters)
        if node is not None:
            gone = set(parameters["TagKeys"])
            await self.nodes.set_tags(node, {key: value for key, value in node.tags.items() if key not in gone})
        return {}

    def _tagged(self, call: Call, parameters: Result) -> Managed | None:
        resource_id = parameters["ResourceId"]
        call.resources = [resource_id]
        if parameters["ResourceType"] == "Document":
            session_documents.find(resource_id)
            return None
        if parameters["ResourceType"] != "ManagedInstance":
            raise ApiError("InvalidResourceId", f"{resource_id} does not exist.")
        node = self.nodes.find((call.account_id, call.region, resource_id))
        # An EC2 instance carries EC2's tags; AWS refuses it here.
        if node is None or not node.is_hybrid:
            raise ApiError("InvalidResourceId", f"{resource_id} is not a hybrid managed instance.")
        return node

    def _tagged_arns(self, call: Call, parameters: Result) -> list[str]:
        if parameters["ResourceType"] != "ManagedInstance":
            return []
        return [f"arn:aws:ssm:{call.region}:{call.account_id}:managed-instance/{parameters['ResourceId']}"]
