"""Configuration compliance: what nodes and people put, and its lists and counts."""

from collections.abc import Mapping
from typing import Any

from fleetops.awsapi.errors import ApiError
from fleetops.endpoint import compliance
from fleetops.endpoint.calls import Call
from fleetops.endpoint.models import Compliance as Row

from .shared import DEFAULT_PAGE, INSTANCE_ID, Part, Result, read_number, read_token, target_arn, token

_RESOURCE_TYPE = "ManagedInstance"  # "currently the only supported resource type" [ListComplianceItems]


class Compliance(Part):
    """Compliance of nodes."""

    names = (
        "put_compliance_items",
        "list_compliance_items",
        "list_compliance_summaries",
        "list_resource_compliance_summaries",
    )

    async def put_compliance_items(self, call: Call, parameters: Result) -> Result:
        resource_id, name = parameters["ResourceId"], parameters["ComplianceType"]
        if not INSTANCE_ID.fullmatch(resource_id):
            raise ApiError("InvalidResourceId", f"{resource_id} is not the id of a managed instance.")
        await self.endpoint.authorizer.allow_node(call, resource_id, "ssm:PutComplianceItems")
        if parameters["ResourceType"] != _RESOURCE_TYPE:
            raise ApiError("InvalidResourceType", f"The only resource type is {_RESOURCE_TYPE}.")
        node = self.nodes.find((call.account_id, call.region, resource_id))
        if node is None or node.registered_at is None:
            raise ApiError("InvalidResourceId", f"{resource_id} is not a managed instance of this account.")
        if name not in {compliance.ASSOCIATION, compliance.PATCH} and not name.startswith("Custom:"):
            raise ApiError(
                "InvalidItemContentException",
                "A compliance type is Association, Patch, or begins with Custom:",
                TypeName=name,
            )
        is_partial = parameters.get("UploadType") == "PARTIAL"
        if is_partial and name != compliance.ASSOCIATION:
            raise ApiError("InvalidItemContentException", "PARTIAL is only for association compliance.", TypeName=name)
        await self.endpoint.compliance.put(
            node.key,
            name,
            parameters["Items"],
            execution=parameters["ExecutionSummary"],
            content_hash=parameters.get("ItemContentHash", ""),
            is_partial=is_partial,
        )
        return {}

    async def list_compliance_items(self, call: Call, parameters: Result) -> Result:
        resource_ids = parameters.get("ResourceIds", [])
        await self.allow(call, [target_arn(call, resource_id) for resource_id in resource_ids] or None)
        if len(resource_ids) > 1:
            raise ApiError("InvalidResourceId", "Only one resource id can be given.")
        for resource_id in resource_ids:
            if self.nodes.find((call.account_id, call.region, resource_id)) is None:
                raise ApiError("InvalidResourceId", f"{resource_id} is not a managed instance of this account.")
        if set(parameters.get("ResourceTypes", [])) - {_RESOURCE_TYPE}:
            raise ApiError("InvalidResourceType", f"The only resource type is {_RESOURCE_TYPE}.")
        size = parameters.get("MaxResults", DEFAULT_PAGE)
        found = await self.endpoint.compliance.items(
            (call.account_id, call.region),
            compliance.read(parameters.get("Filters", []), of_items=True),
            resource_ids=resource_ids,
            after=_read_place(parameters.get("NextToken")),
            size=size,
        )
        last = found[size - 1][0] if len(found) > size else None
        return {
            "ComplianceItems": [_item(row, item) for _, row, item in found[:size]],
            "NextToken": token(f"{last[0]}:{last[1]}") if last is not None else None,
        }

    async def list_compliance_summaries(self, call: Call, parameters: Result) -> Result:
        await self.allow(call)
        filters = compliance.read(parameters.get("Filters", []), of_items=False)
        counts = await self.endpoint.compliance.counts((call.account_id, call.region), filters, call.now)
        # As many types as anybody has made: a node may have ten, and the next one others.
        start, size = read_number(parameters.get("NextToken")) or 0, parameters.get("MaxResults", DEFAULT_PAGE)
        page = sorted(counts)[start : start + size]
        return {
            "ComplianceSummaryItems": [{"ComplianceType": name, **_summaries(counts[name])} for name in page],
            "NextToken": token(str(start + size)) if len(counts) > start + size else None,
        }

    async def list_resource_compliance_summaries(self, call: Call, parameters: Result) -> Result:
        await self.allow(call)
        size = parameters.get("MaxResults", DEFAULT_PAGE)
        rows = await self.endpoint.compliance.resources(
            (call.account_id, call.region),
            compliance.read(parameters.get("Filters", []), of_items=False),
            after=read_number(parameters.get("NextToken")) or 0,
            size=size,
            now=call.now,
        )
        page = rows[:size]
        return {
            "ResourceComplianceSummaryItems": [
                {
                    "ComplianceType": row.compliance_type,
                    "ResourceType": _RESOURCE_TYPE,
                    "ResourceId": row.resource_id,
                    "Status": row.status,
                    "OverallSeverity": row.severity,
                    "ExecutionSummary": _execution(row),
                    **_summaries(row.counts),
                }
                for row in page
            ],
            "NextToken": token(str(page[-1].pk)) if len(rows) > size else None,
        }


def _read_place(given: str | None) -> tuple[int, int]:
    """A row, and the item in it that was last told of."""
    if not given:
        return (0, -1)
    row, _, n = read_token(given).partition(":")
    if not (row.isascii() and row.isdigit() and n.isascii() and n.isdigit() and len(row) < 19 and len(n) < 19):
        raise ApiError("InvalidNextToken", "The specified token is not valid.")
    return int(row), int(n)


def _item(row: Row, item: Mapping[str, Any]) -> Result:
    return {
        "ComplianceType": row.compliance_type,
        "ResourceType": _RESOURCE_TYPE,
        "ResourceId": row.resource_id,
        "Id": item.get("Id"),
        "Title": item.get("Title"),
        "Status": item["Status"],
        "Severity": item["Severity"],
        "ExecutionSummary": _execution(row),
        "Details": item.get("Details", {}),
    }


def _execution(row: Row) -> Result:
    return {
        "ExecutionTime": row.executed_at,
        "ExecutionId": row.execution_id or None,
        "ExecutionType": row.execution_type or None,
    }


def _summaries(counts: Mapping[str, Mapping[str, int]]) -> Result:
    """Both halves of a summary, from numbers by status and severity."""
    halves = {}
    for status, name in ((compliance.COMPLIANT, "Compliant"), (compliance.NON_COMPLIANT, "NonCompliant")):
        numbers = counts.get(status, {})
        halves[f"{name}Summary"] = {
            f"{name}Count": sum(numbers.values()),
            "SeveritySummary": {f"{one.capitalize()}Count": numbers.get(one, 0) for one in compliance.SEVERITIES},
        }
    return halves
