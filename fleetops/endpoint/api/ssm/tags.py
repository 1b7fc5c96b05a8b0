"""Tags of what SSM holds."""

from fleetops.awsapi.errors import ApiError
from fleetops.endpoint.aws_documents import AWS_DOCUMENTS
from fleetops.endpoint.calls import Call
from fleetops.endpoint.patch.baselines import Stored

from .shared import Part, Result, baseline_arn, document_arn

_MOST_TAGS = 50


class Tags(Part):
    """Add, remove and list the tags of a resource."""

    names = ("list_tags_for_resource", "add_tags_to_resource", "remove_tags_from_resource")

    async def list_tags_for_resource(self, call: Call, parameters: Result) -> Result:
        tags = await self._tags(call, parameters)
        return {"TagList": [{"Key": key, "Value": value} for key, value in sorted(tags.items())]}

    async def add_tags_to_resource(self, call: Call, parameters: Result) -> Result:
        tags = await self._tags(call, parameters) | {item["Key"]: item["Value"] for item in parameters["Tags"]}
        if len(tags) > _MOST_TAGS:
            raise ApiError("TooManyTagsError", f"A resource holds {_MOST_TAGS} tags at most.")
        await self._keep(call, parameters, tags)
        return {}

    async def remove_tags_from_resource(self, call: Call, parameters: Result) -> Result:
        gone = set(parameters["TagKeys"])
        tags = await self._tags(call, parameters)
        await self._keep(call, parameters, {key: value for key, value in tags.items() if key not in gone})
        return {}

    async def _tags(self, call: Call, parameters: Result) -> dict[str, str]:
        """A resource's tags, for a caller who may do the operation on it. Raises ApiError."""
        resource_id = parameters["ResourceId"]
        call.resources = [resource_id]
        if parameters["ResourceType"] == "Document":
            await self.allow(call, [document_arn(call, resource_id)])
            if resource_id in AWS_DOCUMENTS and call.read_only:
                return {}
            return await self.endpoint.documents.tags(call.account_id, call.region, resource_id)
        if parameters["ResourceType"] == "PatchBaseline":
            await self.allow(call, [baseline_arn(call, resource_id)])
            return dict((await self._baseline(call, resource_id)).tags)
        if parameters["ResourceType"] != "ManagedInstance":
            await self.allow(call)
            raise ApiError("InvalidResourceId", f"{resource_id} does not exist.")
        await self.allow(call, [f"arn:aws:ssm:{call.region}:{call.account_id}:managed-instance/{resource_id}"])
        node = self.nodes.find((call.account_id, call.region, resource_id))
        # An EC2 instance carries EC2's tags; AWS refuses it here.
        if node is None or not node.is_hybrid:
            raise ApiError("InvalidResourceId", f"{resource_id} is not a hybrid managed instance.")
        return node.tags

    async def _keep(self, call: Call, parameters: Result, tags: dict[str, str]) -> None:
        resource_id = parameters["ResourceId"]
        if parameters["ResourceType"] == "Document":
            await self.endpoint.documents.set_tags(call.account_id, call.region, resource_id, tags)
            return
        if parameters["ResourceType"] == "PatchBaseline":
            await self.endpoint.baselines.set_tags((call.account_id, call.region), resource_id, tags)
            return
        node = self.nodes.find((call.account_id, call.region, resource_id))
        assert node is not None
        await self.nodes.set_tags(node, tags)

    async def _baseline(self, call: Call, resource_id: str) -> Stored:
        """A baseline of the account's own. Raises ApiError (InvalidResourceId)."""
        try:
            found = await self.endpoint.baselines.find((call.account_id, call.region), resource_id)
        except ApiError:
            found = None
        if found is None or not found.is_own:
            raise ApiError("InvalidResourceId", f"{resource_id} is not a patch baseline of this account.")
        return found
