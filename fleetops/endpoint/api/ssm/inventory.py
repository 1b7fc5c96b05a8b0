"""SSM Inventory: what nodes put, and how it is listed, filtered, counted and deleted."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fleetops.awsapi.errors import ApiError
from fleetops.endpoint.calls import Call
from fleetops.endpoint.inventory import Filter, Stored, is_type, read_filters
from fleetops.endpoint.inventory_types import COUNTED, INSTANCE, TYPES
from fleetops.endpoint.models import InventoryDeletion
from fleetops.endpoint.nodes import Managed

from .shared import DEFAULT_PAGE, Part, Result, read_number, read_token, target_arn, token

_SCHEMA_PAGE = 200
_TYPE = re.compile(r"(AWS|Custom):.*", re.DOTALL)


class Inventory(Part):
    """Inventory of nodes, and its custom types."""

    names = (
        "put_inventory",
        "get_inventory",
        "list_inventory_entries",
        "get_inventory_schema",
        "delete_inventory",
        "describe_inventory_deletions",
    )

    async def put_inventory(self, call: Call, parameters: Result) -> Result:
        instance_id = parameters["InstanceId"]
        await self.endpoint.authorizer.allow_node(call, instance_id, "ssm:PutInventory")
        node = self.managed(call, instance_id)
        await self.endpoint.inventory.put(node.key, parameters["Items"], call.now)
        return {}

    async def get_inventory(self, call: Call, parameters: Result) -> Result:
        await self.allow(call)
        if "Aggregators" in parameters:
            return await self._aggregated(call, parameters)
        filters = read_filters(parameters.get("Filters", []))
        type_name = next((item["TypeName"] for item in parameters.get("ResultAttributes", [])), INSTANCE)
        if not is_type(type_name):
            raise ApiError("InvalidResultAttributeException", f"{type_name} is not a type of inventory.")
        size = parameters.get("MaxResults", DEFAULT_PAGE)
        found = await self.endpoint.inventory.find(
            (call.account_id, call.region),
            filters,
            call.now,
            after=read_token(parameters.get("NextToken")),
            limit=size + 1,
        )
        page = found[:size]
        contents = await self.endpoint.inventory.contents(page, type_name, call.now)
        return {
            "Entities": [{"Id": node.instance_id, "Data": _data(contents.get(node.instance_id))} for node in page],
            "NextToken": token(page[-1].instance_id) if len(found) > size else None,
        }

    async def list_inventory_entries(self, call: Call, parameters: Result) -> Result:
        instance_id, type_name = parameters["InstanceId"], parameters["TypeName"]
        await self.allow(call, [target_arn(call, instance_id)])
        node = self.managed(call, instance_id)
        if not is_type(type_name):
            raise ApiError("InvalidTypeNameException", f"{type_name} is not a type of inventory.")
        given = parameters.get("Filters", [])
        # An attribute may be named alone here: the type is known.
        filters = read_filters(
            [item if ":" in item["Key"] else item | {"Key": f"{type_name}.{item['Key']}"} for item in given]
        )
        if any(item.type_name != type_name for item in filters):
            raise ApiError("InvalidFilter", f"The entries of {type_name} have attributes of their own alone.")
        stored = await self.endpoint.inventory.entries(node, type_name, call.now)
        answer: Result = {"InstanceId": instance_id, "TypeName": type_name, "Entries": []}
        if stored is None:
            return answer
        entries = [entry for entry in stored.entries if all(item.holds(entry) for item in filters)]
        start, size = read_number(parameters.get("NextToken")) or 0, parameters.get("MaxResults", DEFAULT_PAGE)
        return answer | {
            "SchemaVersion": stored.schema_version,
            "CaptureTime": stored.capture_time,
            "Entries": entries[start : start + size],
            "NextToken": token(str(start + size)) if len(entries) > start + size else None,
        }

    async def get_inventory_schema(self, call: Call, parameters: Result) -> Result:
        await self.allow(call)
        wanted = parameters.get("TypeName", "")
        if wanted and not _TYPE.fullmatch(wanted):
            raise ApiError("InvalidTypeNameException", f"{wanted} is not the name of an inventory type.")
        if parameters.get("SubType"):
            schemas = []  # of ours none has any
        elif parameters.get("Aggregator"):
            schemas = [_schema(name, TYPES[name].versions[-1], attributes) for name, attributes in COUNTED.items()]
        else:
            schemas = [
                _schema(name, version, known.attributes, known.numbers)
                for name, known in TYPES.items()
                for version in known.versions
            ]
            custom = await self.endpoint.inventory.schemas((call.account_id, call.region))
            schemas += [_schema(row.type_name, row.version, row.attributes) for row in custom if row.attributes]
        schemas = [schema for schema in schemas if schema["TypeName"].startswith(wanted)]
        start, size = read_number(parameters.get("NextToken")) or 0, parameters.get("MaxResults", _SCHEMA_PAGE)
        return {
            "Schemas": schemas[start : start + size],
            "NextToken": token(str(start + size)) if len(schemas) > start + size else None,
        }

    async def delete_inventory(self, call: Call, parameters: Result) -> Result:
        await self.allow(call)
        type_name = parameters["TypeName"]
        if type_name in TYPES or not is_type(type_name):
            raise ApiError("InvalidTypeNameException", "Only a custom inventory type can be deleted.")
        deletion = await self.endpoint.inventory.delete(
            (call.account_id, call.region),
            type_name,
            option=parameters.get("SchemaDeleteOption", ""),
            dry_run=parameters.get("DryRun", False),
            client_token=parameters.get("ClientToken"),
            now=call.now,
        )
        is_done = deletion.deletion_id is not None
        return {
            "DeletionId": str(deletion.deletion_id) if is_done else None,
            "TypeName": type_name,
            "DeletionSummary": _summary(deletion.counts, is_done=is_done),
        }

    async def describe_inventory_deletions(self, call: Call, parameters: Result) -> Result:
        await self.allow(call)
        size = parameters.get("MaxResults", DEFAULT_PAGE)
        rows = await self.endpoint.inventory.deletions(
            (call.account_id, call.region),
            deletion_id=parameters.get("DeletionId"),
            before=read_number(parameters.get("NextToken")),
            size=size,
        )
        page = rows[:size]
        return {
            "InventoryDeletions": [_deletion(row) for row in page],
            "NextToken": token(str(page[-1].pk)) if len(rows) > size else None,
        }

    async def _aggregated(self, call: Call, parameters: Result) -> Result:
        """Counts in the place of nodes: one list of entries for each expression and group, paged as one."""
        filters = read_filters(parameters.get("Filters", []), aggregated=True)
        plans = [_plan(aggregator) for aggregator in parameters["Aggregators"]]
        place = (call.account_id, call.region)
        nodes = await self.endpoint.inventory.find(place, filters, call.now)
        counted: list[tuple[str, str, dict[str, str]]] = []  # the key of Data, the type, the entry
        for type_name, attributes, groups in plans:
            if attributes:
                counts = await self.endpoint.inventory.count(nodes, type_name, attributes, call.now)
                counted += [
                    (type_name, type_name, {**dict(zip(attributes, values, strict=True)), "Count": str(number)})
                    for values, number in sorted(counts.items())
                ]
            counted += [await self._group(call, nodes, filters, name, wanted) for name, wanted in groups]
        start, size = read_number(parameters.get("NextToken")) or 0, parameters.get("MaxResults", DEFAULT_PAGE)
        entities: list[dict[str, Any]] = []
        for key, type_name, entry in counted[start : start + size]:
            if not entities or key not in entities[-1]["Data"]:
                entities.append({"Data": {key: {"TypeName": type_name, "SchemaVersion": "1.0", "Content": []}}})
            entities[-1]["Data"][key]["Content"].append(entry)
        return {
            "Entities": entities,
            "NextToken": token(str(start + size)) if len(counted) > start + size else None,
        }

    async def _group(
        self, call: Call, nodes: Sequence[Managed], filters: Sequence[Filter], name: str, wanted: Sequence[Filter]
    ) -> tuple[str, str, dict[str, str]]:
        """How many of the nodes are in a group, and how many not."""
        place = (call.account_id, call.region)
        inside = {node.instance_id for node in await self.endpoint.inventory.find(place, wanted, call.now)}
        count = sum(node.instance_id in inside for node in nodes)
        entry = {"matchingCount": str(count), "notMatchingCount": str(len(nodes) - count)}
        return name, wanted[0].type_name, entry


Plan = tuple[str, list[str], list[tuple[str, list[Filter]]]]  # type, attributes, groups


def _plan(aggregator: Mapping[str, Any]) -> Plan:
    """What an aggregator counts: attributes of one type together, and groups. Raises ApiError."""
    type_name, attributes, groups = "", [], []
    level: Mapping[str, Any] | None = aggregator
    while level is not None:
        for group in level.get("Groups", []):
            try:
                groups.append((group["Name"], read_filters(group["Filters"], aggregated=True)))
            except ApiError as error:
                raise ApiError("InvalidInventoryGroupException", error.message) from None
        if expression := level.get("Expression"):
            name, _, attribute = expression.rpartition(".")
            known = TYPES.get(name)
            is_known = attribute in known.attributes if known is not None else name.startswith("Custom:")
            if not is_known or type_name not in {"", name}:
                raise ApiError("InvalidAggregatorException", f"{expression} cannot be counted here.")
            type_name = name
            attributes.append(attribute)
        nested = level.get("Aggregators", [])
        if len(nested) > 1:
            raise ApiError("InvalidAggregatorException", "An aggregator has at most one within it.")
        level = nested[0] if nested else None
    if not attributes and not groups:
        raise ApiError("InvalidAggregatorException", "An aggregator has an Expression or Groups.")
    return type_name, attributes, groups


def _data(stored: Stored | None) -> dict[str, Result]:
    if stored is None:
        return {}
    return {
        stored.type_name: {
            "TypeName": stored.type_name,
            "SchemaVersion": stored.schema_version,
            "CaptureTime": stored.capture_time,
            "ContentHash": stored.content_hash or None,
            "Content": stored.entries,
        }
    }


def _schema(name: str, version: str, attributes: Sequence[str], numbers: frozenset[str] = frozenset()) -> Result:
    return {
        "TypeName": name,
        "Version": version,
        "Attributes": [
            {"Name": attribute, "DataType": "number" if attribute in numbers else "string"} for attribute in attributes
        ],
    }


def _summary(counts: Mapping[str, int], *, is_done: bool) -> Result:
    total = sum(counts.values())
    return {
        "TotalCount": total,
        "RemainingCount": 0 if is_done else total,
        "SummaryItems": [
            {"Version": version, "Count": number, "RemainingCount": 0 if is_done else number}
            for version, number in sorted(counts.items())
        ],
    }


def _deletion(row: InventoryDeletion) -> Result:
    return {
        "DeletionId": str(row.deletion_id),
        "TypeName": row.type_name,
        "DeletionStartTime": row.started_at,
        "LastStatus": "Complete",
        "LastStatusMessage": "Deletion is complete.",
        "DeletionSummary": _summary(row.counts, is_done=True),
        "LastStatusUpdateTime": row.started_at,
    }
