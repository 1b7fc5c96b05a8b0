"""Configuration compliance: what was put for nodes, by type, and how it is counted.

One row for each node and type, which each put writes anew. A node is NON_COMPLIANT in a type if one of its items is; a
node of which nothing was put has no row, and counts nowhere.
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from django.db import transaction
from django.db.models import Count, Q

from fleetops.awsapi.errors import ApiError
from fleetops.endpoint.calls import NodeKey
from fleetops.endpoint.database import in_database
from fleetops.endpoint.inventory import Filter, Inventory, Place, read_filters
from fleetops.endpoint.inventory_types import INSTANCE, TAG
from fleetops.endpoint.models import Compliance

ASSOCIATION: Final = "Association"
PATCH: Final = "Patch"
SEVERITIES: Final = ("CRITICAL", "HIGH", "MEDIUM", "LOW", "INFORMATIONAL", "UNSPECIFIED")
COMPLIANT: Final = "COMPLIANT"
NON_COMPLIANT: Final = "NON_COMPLIANT"
MOST_CUSTOM_TYPES: Final = 10  # of one node [PutComplianceItems, ComplianceTypeCountLimitExceededException]
# Quotas of AWS Systems Manager: what one call may bring of a custom type. Of AWS's own none is documented.
LARGEST_CUSTOM: Final = 800 * 1024
LARGEST: Final = 4 * 2**20
_ROWS_AT_ONCE: Final = 20  # of items, which may be megabytes each
_NODE_KEYS: Final = (f"{INSTANCE}.", f"{TAG}.")
_PATCH_GROUP_TAGS: Final = ("Patch Group", "PatchGroup")
_OPERATORS: Final = {
    "EQUAL": "Equal",
    "NOT_EQUAL": "NotEqual",
    "BEGIN_WITH": "BeginWith",
    "LESS_THAN": "LessThan",
    "GREATER_THAN": "GreaterThan",
}
_COLUMNS: Final = {
    "ComplianceType": "compliance_type",
    "ResourceId": "resource_id",
    "ExecutionId": "execution_id",
    "ExecutionType": "execution_type",
    "ExecutionTime": "executed_at",
}
_SUMMARY_COLUMNS: Final = {"Status": "status", "Severity": "severity", "OverallSeverity": "severity"}
# Of an item and its details, as PutComplianceItems lists them.
_ITEM_KEYS: Final = {"Id", "Title", "Status", "Severity"}
_DETAIL_KEYS: Final = {
    *("DocumentName", "DocumentVersion", "Classification", "PatchBaselineId", "PatchSeverity", "PatchState"),
    *("PatchGroup", "InstalledTime"),
}

Item = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Filters:
    """Filters of a compliance list: on rows, on items, and on the nodes whose rows they are."""

    rows: Q
    items: Sequence[Filter] = ()
    nodes: Sequence[Filter] = ()
    patch_groups: Sequence[Filter] = ()

    def hold(self, item: Item) -> bool:
        return all(wanted.holds(_flat(item)) for wanted in self.items)


def read(given: Iterable[Mapping[str, Any]], *, of_items: bool) -> Filters:
    """Filters as the API takes them. Raises ApiError (InvalidFilter)."""
    rows, items, nodes, patch_groups = Q(), [], [], []
    columns = _COLUMNS if of_items else _COLUMNS | _SUMMARY_COLUMNS
    for one in given:
        key, values = one.get("Key", ""), one.get("Values", [])
        operator = _OPERATORS[one.get("Type", "EQUAL")]
        # A value with the character zero is no text to PostgreSQL.
        if not values or any("\0" in value for value in values):
            raise ApiError("InvalidFilter", f"The filter {key} has no values, or one that nothing can have.")
        made = Filter("", key, operator, tuple(values))
        if key in columns:
            rows &= _condition(columns[key], operator, values)
        elif key.startswith(_NODE_KEYS) and not of_items:
            nodes += read_filters([{"Key": key, "Values": values, "Type": operator}])
        elif key == "PatchGroup" and not of_items:
            patch_groups.append(made)
        elif of_items and key in _ITEM_KEYS | _DETAIL_KEYS:
            items.append(made)
        else:
            raise ApiError("InvalidFilter", f"Invalid filter key: {key}")
    return Filters(rows, items, nodes, patch_groups)


class ComplianceRecords:
    """What was put. Rows are written in the writer's one thread, read in the reader's."""

    def __init__(self, writer: Executor, reader: Executor, inventory: Inventory) -> None:
        self._writer = writer
        self._reader = reader
        self._inventory = inventory

    async def put(
        self,
        key: NodeKey,
        compliance_type: str,
        items: Sequence[Item],
        *,
        execution: Mapping[str, Any],
        content_hash: str = "",
        is_partial: bool = False,
    ) -> None:
        """Take what was put of one type for one node: in the place of what was there. Raises ApiError.

        What bears the hash of what is there is left alone. A partial put replaces only the items with its ids.
        """
        texts = (content_hash, execution.get("ExecutionId", ""), execution.get("ExecutionType", ""))
        if any("\0" in text for text in texts):
            raise ApiError(
                "InvalidItemContentException", "An id or a hash holds the character zero.", TypeName=compliance_type
            )

        def work() -> None:
            with transaction.atomic():
                write(
                    key,
                    compliance_type,
                    items,
                    execution=execution,
                    content_hash=content_hash,
                    is_partial=is_partial,
                )

        await in_database(self._writer, work)

    async def node_gone(self, key: NodeKey) -> None:
        """Forget a node that is no longer managed."""
        rows = Compliance.objects.filter(account_id=key[0], region=key[1], resource_id=key[2])
        await in_database(self._writer, rows.delete)

    async def items(
        self,
        place: Place,
        filters: Filters,
        *,
        resource_ids: Sequence[str],
        after: tuple[int, int],
        size: int,
    ) -> list[tuple[tuple[int, int], Compliance, Item]]:
        """Items in the order of their rows, one more than `size` if there are more, each with its place in it."""
        rows = Compliance.objects.filter(filters.rows, account_id=place[0], region=place[1], pk__gte=after[0])
        if resource_ids:
            rows = rows.filter(resource_id__in=resource_ids)
        rows = rows.order_by("pk")

        def look() -> list[tuple[tuple[int, int], Compliance, Item]]:
            found: list[tuple[tuple[int, int], Compliance, Item]] = []
            for row in rows.iterator(chunk_size=_ROWS_AT_ONCE):
                for n, item in enumerate(orjson.loads(row.items)):
                    if (row.pk, n) > after and filters.hold(item):
                        found.append(((row.pk, n), row, item))
                        if len(found) > size:
                            return found
            return found

        return await in_database(self._reader, look)

    async def resources(
        self, place: Place, filters: Filters, *, after: int, size: int, now: datetime
    ) -> list[Compliance]:
        """Rows without their items, one more than `size` if there are more."""
        rows = (await self._matching(place, filters, now)).filter(pk__gt=after).order_by("pk").defer("items")
        return await in_database(self._reader, lambda: list(rows[: size + 1]))

    async def counts(self, place: Place, filters: Filters, now: datetime) -> dict[str, dict[str, dict[str, int]]]:
        """How many nodes there are by type, status and severity."""
        rows = (await self._matching(place, filters, now)).order_by("compliance_type")
        grouped = rows.values_list("compliance_type", "status", "severity").annotate(Count("pk"))
        found: dict[str, dict[str, dict[str, int]]] = {}
        for name, status, severity, number in await in_database(self._reader, lambda: list(grouped)):
            found.setdefault(name, {}).setdefault(status, {})[severity] = number
        return found

    async def _matching(self, place: Place, filters: Filters, now: datetime) -> Any:
        rows = Compliance.objects.filter(filters.rows, account_id=place[0], region=place[1])
        if filters.nodes or filters.patch_groups:
            nodes = await self._inventory.find(place, filters.nodes, now)
            for wanted in filters.patch_groups:
                nodes = [
                    node
                    for node in nodes
                    if any(
                        wanted.holds({"PatchGroup": node.tags[tag]}) for tag in _PATCH_GROUP_TAGS if tag in node.tags
                    )
                ]
            rows = rows.filter(resource_id__in=[node.instance_id for node in nodes])
        return rows


def write(
    key: NodeKey,
    compliance_type: str,
    items: Sequence[Item],
    *,
    execution: Mapping[str, Any],
    content_hash: str = "",
    is_partial: bool = False,
    is_known_empty: bool = False,
) -> None:
    """Put items, in a transaction of the writer's. `is_known_empty`: without any a node complies. Raises ApiError."""
    here = {"account_id": key[0], "region": key[1], "resource_id": key[2]}
    is_custom = compliance_type.startswith("Custom:")
    row = Compliance.objects.filter(**here, compliance_type=compliance_type).first()
    if row is not None and content_hash and row.content_hash == content_hash:
        return
    kept: list[Item] = []
    if row is not None and is_partial:
        ids = {item.get("Id") for item in items}
        kept = [item for item in orjson.loads(row.items) if item.get("Id") not in ids]
    text = orjson.dumps([*kept, *items])
    largest = LARGEST_CUSTOM if is_custom else LARGEST
    if len(text) > largest:
        raise ApiError(
            "ItemSizeLimitExceededException",
            f"{compliance_type} is larger than {largest} bytes.",
            TypeName=compliance_type,
        )
    if row is None and is_custom:
        custom = Compliance.objects.filter(**here, compliance_type__startswith="Custom:")
        if custom.count() >= MOST_CUSTOM_TYPES:
            raise ApiError(
                "ComplianceTypeCountLimitExceededException",
                f"A node has at most {MOST_CUSTOM_TYPES} custom compliance types.",
            )
    if not kept and not items and not is_known_empty:
        if row is not None:
            row.delete()
        return
    row = row or Compliance(**here, compliance_type=compliance_type)
    _fill(row, [*kept, *items])
    row.items, row.content_hash = text.decode(), content_hash
    row.executed_at = execution["ExecutionTime"]
    row.execution_id = execution.get("ExecutionId", "")
    row.execution_type = execution.get("ExecutionType", "")
    row.save()


def _fill(row: Compliance, items: Iterable[Item]) -> None:
    """What a row says of its items as a whole."""
    counts: dict[str, dict[str, int]] = {COMPLIANT: {}, NON_COMPLIANT: {}}
    for item in items:
        by_severity = counts[item["Status"]]
        by_severity[item["Severity"]] = by_severity.get(item["Severity"], 0) + 1
    bad = counts[NON_COMPLIANT]
    row.counts = counts
    row.status = NON_COMPLIANT if bad else COMPLIANT
    row.severity = next((name for name in SEVERITIES if name in bad), "UNSPECIFIED")


def _flat(item: Item) -> dict[str, str]:
    """An item with its details beside it; its own members come first."""
    return {**item.get("Details", {}), **{name: item[name] for name in _ITEM_KEYS if name in item}}


def _condition(column: str, operator: str, values: Sequence[str]) -> Q:
    given: Sequence[Any] = values
    if column == "executed_at":
        try:
            moments = [datetime.fromisoformat(value) for value in values]
        except ValueError:
            raise ApiError("InvalidFilter", "A value of ExecutionTime is no moment in ISO 8601.") from None
        given = [moment if moment.tzinfo else moment.replace(tzinfo=UTC) for moment in moments]
        if operator == "BeginWith":
            raise ApiError("InvalidFilter", "ExecutionTime takes no BEGIN_WITH.")
    if operator in {"Equal", "NotEqual"}:
        equal = Q(**{f"{column}__in": given})
        return equal if operator == "Equal" else ~equal
    lookup = {"BeginWith": "startswith", "LessThan": "lt", "GreaterThan": "gt"}[operator]
    either = Q()
    for value in given:
        either |= Q(**{f"{column}__{lookup}": value})
    return either
