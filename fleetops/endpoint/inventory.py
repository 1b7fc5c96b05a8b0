"""SSM Inventory: what nodes put of themselves, type by type, and how it is asked for.

A node's own report (AWS:InstanceInformation) and tags (AWS:Tag) are in memory; what it puts is one row for each type,
its content as text. A question about contents looks at the nodes in order of their ids, _CHUNK_NODES with one query,
until the page is full: the database leaves out what cannot match, and the rest is read here.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final
from uuid import UUID, uuid4

import orjson
from django.db import transaction
from django.db.models import Count, Q

from fleetops import clock
from fleetops.awsapi.errors import ApiError
from fleetops.endpoint.calls import NodeKey
from fleetops.endpoint.database import in_database
from fleetops.endpoint.inventory_types import COMPLIANCE_ITEM, INSTANCE, TAG, TYPES, version_key
from fleetops.endpoint.models import InventoryDeletion, InventoryItem, InventorySchema
from fleetops.endpoint.nodes import Managed, Nodes

Entry = Mapping[str, str]
Place = tuple[str, str]  # account id, region

# Quotas of AWS Systems Manager: "Inventory" in the general reference. The agent itself stops at 3 MiB for a type.
LARGEST_ITEM: Final = 2**20
LARGEST_CUSTOM_ITEM: Final = 200 * 1024
LARGEST_NODE: Final = 5 * 2**20
MOST_CUSTOM_TYPES: Final = 20
MOST_ATTRIBUTES: Final = 50
KEPT_DAYS: Final = 30  # "Systems Manager Inventory stores inventory data for 30 days" [user guide]
_LONGEST_VALUE: Final = 4096  # AttributeValue [botocore, ssm]
_CHUNK_NODES: Final = 200
_PRUNE_SECONDS: Final = 3600.0
_CONTEXT_KEYS: Final = {"ComplianceType", "ExecutionId", "ExecutionType", "ExecutionTime"}
_CUSTOM: Final = re.compile(r"Custom:[A-Za-z0-9_\-.:]+")
_STATES: Final = {
    "stopped": "Stopped",
    "stopping": "Stopped",
    "shutting-down": "Terminated",
    "terminated": "Terminated",
}


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition on an attribute of a type's entries."""

    type_name: str
    attribute: str
    operator: str  # Equal, NotEqual, BeginWith, LessThan, GreaterThan or Exists
    values: tuple[str, ...]

    def holds(self, entry: Entry) -> bool:
        held = entry.get(self.attribute)
        if self.operator == "NotEqual":
            return held not in self.values
        if held is None:
            return False
        match self.operator:
            case "Equal":
                return held in self.values
            case "BeginWith":
                return held.startswith(self.values)
            case "Exists":
                return True
        is_number = self.type_name in TYPES and self.attribute in TYPES[self.type_name].numbers
        order = [(_order(held, is_number), _order(value, is_number)) for value in self.values]
        return any(a < b for a, b in order) if self.operator == "LessThan" else any(a > b for a, b in order)


def read_filters(given: Iterable[Mapping[str, Any]], *, aggregated: bool = False) -> list[Filter]:
    """Filters as the API takes them. Raises ApiError (InvalidFilter)."""
    made = []
    for item in given:
        type_name, _, attribute = item["Key"].rpartition(".")
        known = TYPES.get(type_name)
        is_known = attribute in known.attributes if known is not None else bool(_CUSTOM.fullmatch(type_name))
        operator = item.get("Type", "Equal")
        if not is_known or not attribute:
            raise ApiError("InvalidFilter", f"{item['Key']} is not an attribute of an inventory type.")
        if operator == "Exists" and not aggregated:
            raise ApiError("InvalidFilter", "The Exists filter must be used with aggregators.")
        if any(len(value) > _LONGEST_VALUE for value in item["Values"]):
            raise ApiError("InvalidFilter", f"A value of {item['Key']} has more than {_LONGEST_VALUE} characters.")
        made.append(Filter(type_name, attribute, operator, tuple(item["Values"])))
    return made


def is_type(name: str) -> bool:
    """Whether there is such a type, or may be one that an account makes."""
    return name in TYPES or _CUSTOM.fullmatch(name) is not None


def matches(filters: Sequence[Filter], entries: Sequence[Entry]) -> bool:
    """Whether a node with these entries of one type meets all filters on that type.

    One and the same entry must meet them all. Where every filter says NotEqual, no entry may have one of the values;
    a node that has never put the type is not known to be without it, and does not match.
    """
    if all(item.operator == "NotEqual" for item in filters):
        return bool(entries) and all(item.holds(entry) for entry in entries for item in filters)
    return any(all(item.holds(entry) for item in filters) for entry in entries)


def _order(text: str, is_number: bool) -> Any:
    """How values compare: numbers as such, others like versions: 5.9 comes before 5.10."""
    if is_number:
        try:
            return [float(text)]
        except ValueError:
            return [float("inf")]
    return [int(part) if n % 2 else part for n, part in enumerate(re.split(r"([0-9]{1,18})", text))]


@dataclass(frozen=True, slots=True)
class Stored:
    """What a node has of one type."""

    type_name: str
    schema_version: str
    capture_time: str
    content_hash: str
    entries: Sequence[Entry]


@dataclass(frozen=True, slots=True)
class Deletion:
    """What DeleteInventory did, or would do."""

    type_name: str
    counts: Mapping[str, int] = field(default_factory=dict)  # by schema version
    deletion_id: UUID | None = None


class Inventory:
    """What nodes put. Rows are written in the writer's one thread, read in the reader's."""

    def __init__(self, writer: Executor, reader: Executor, nodes: Nodes) -> None:
        self._writer = writer
        self._reader = reader
        self._nodes = nodes
        self._pruned_at = clock.monotonic()

    # What a node puts

    async def put(self, key: NodeKey, items: Sequence[Mapping[str, Any]], now: datetime) -> None:
        """Take what a node put: all of it or, if an item is refused, nothing. Raises ApiError."""
        for item in items:
            _check(item)
        if len({item["TypeName"] for item in items}) < len(items):
            twice = Counter(item["TypeName"] for item in items).most_common(1)[0][0]
            raise _refused("InvalidItemContentException", twice, "The type is in the request more than once.")

        def write() -> None:
            with transaction.atomic():
                _write(key, items, now)
            if clock.monotonic() - self._pruned_at > _PRUNE_SECONDS:
                self._pruned_at = clock.monotonic()
                InventoryItem.objects.filter(put_at__lt=now - timedelta(days=KEPT_DAYS)).delete()

        await in_database(self._writer, write)

    async def node_gone(self, key: NodeKey) -> None:
        """Forget a node that is no longer managed."""
        rows = InventoryItem.objects.filter(account_id=key[0], region=key[1], instance_id=key[2])
        await in_database(self._writer, rows.delete)

    # What is asked of nodes

    async def entries(self, node: Managed, type_name: str, now: datetime) -> Stored | None:
        """What one node has of a type; None if it has put none of it."""
        return (await self.contents([node], type_name, now)).get(node.instance_id)

    async def contents(self, nodes: Sequence[Managed], type_name: str, now: datetime) -> dict[str, Stored]:
        """What some nodes of one region have of a type, by their ids."""
        if type_name in {INSTANCE, TAG}:
            return {node.instance_id: self._known(node, type_name, now) for node in nodes}
        if not nodes:
            return {}
        rows = _rows(nodes[0].key[:2], now).filter(
            type_name=type_name, instance_id__in=[node.instance_id for node in nodes]
        )

        def read() -> dict[str, Stored]:
            return {
                row.instance_id: Stored(
                    row.type_name, row.schema_version, row.capture_time, row.content_hash, orjson.loads(row.content)
                )
                for row in rows
            }

        return await in_database(self._reader, read)

    async def find(
        self, place: Place, filters: Sequence[Filter], now: datetime, *, after: str = "", limit: int | None = None
    ) -> list[Managed]:
        """The nodes of a region that meet all filters, by their ids: those after one, `limit` of them."""
        nodes = [node for node in self._nodes.registered_in(*place) if node.instance_id > after]
        by_type = _by_type(filters)
        known = {name: items for name, items in by_type.items() if name in {INSTANCE, TAG}}
        stored = {name: items for name, items in by_type.items() if name not in known}
        found: list[Managed] = []
        for start in range(0, len(nodes), _CHUNK_NODES):
            chunk = [node for node in nodes[start : start + _CHUNK_NODES] if self._meets(node, known, now)]
            if stored and chunk:
                ids = [node.instance_id for node in chunk]
                meeting = await in_database(self._reader, partial(_meeting, place, ids, stored, now))
                chunk = [node for node in chunk if node.instance_id in meeting]
            found += chunk
            if limit is not None and len(found) >= limit:
                break
            await asyncio.sleep(0)  # thousands of nodes are looked at on the event loop
        return found[:limit]

    async def count(
        self, nodes: Sequence[Managed], type_name: str, attributes: Sequence[str], now: datetime
    ) -> Counter[tuple[str, ...]]:
        """How many of the nodes have an entry with these values of the attributes."""
        counts: Counter[tuple[str, ...]] = Counter()
        for start in range(0, len(nodes), _CHUNK_NODES):
            chunk = nodes[start : start + _CHUNK_NODES]
            if type_name in {INSTANCE, TAG}:
                for node in chunk:
                    counts.update(_values(self._of_node(node, type_name, attributes, now), attributes))
                await asyncio.sleep(0)
                continue
            rows = _rows(chunk[0].key[:2], now).filter(
                type_name=type_name, instance_id__in=[node.instance_id for node in chunk]
            )
            contents = rows.values_list("content", flat=True)

            def read(contents: Any = contents) -> Counter[tuple[str, ...]]:
                return Counter(key for content in contents for key in _values(orjson.loads(content), attributes))

            counts.update(await in_database(self._reader, read))
        return counts

    def _meets(self, node: Managed, known: Mapping[str, Sequence[Filter]], now: datetime) -> bool:
        return all(
            matches(items, self._of_node(node, name, {item.attribute for item in items}, now))
            for name, items in known.items()
        )

    def _of_node(self, node: Managed, type_name: str, attributes: Iterable[str], now: datetime) -> list[dict[str, str]]:
        """What the endpoint itself knows of a node; of AWS:InstanceInformation only the attributes asked for."""
        if type_name == TAG:
            return [{"Key": key, "Value": value} for key, value in sorted(node.tags.items())]
        values = {name: _INSTANCE[name](node) if name in _INSTANCE else self._status(node, now) for name in attributes}
        return [{name: value for name, value in values.items() if value}]

    def _status(self, node: Managed, now: datetime) -> str:
        if node.ec2_state in _STATES:
            return _STATES[node.ec2_state]
        return "Active" if self._nodes.ping_status(node, now) == "Online" else "ConnectionLost"

    def _known(self, node: Managed, type_name: str, now: datetime) -> Stored:
        entries = self._of_node(node, type_name, TYPES[type_name].attributes, now)
        heard = self._nodes.last_ping(node, now) if type_name == INSTANCE else now
        return Stored(type_name, "1.0", f"{(heard or now).astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}", "", entries)

    # Types that accounts make

    async def schemas(self, place: Place) -> list[InventorySchema]:
        """The custom types of a region that are not disabled, by name and version."""
        rows = InventorySchema.objects.filter(account_id=place[0], region=place[1], is_disabled=False)
        found = await in_database(self._reader, lambda: list(rows))
        return sorted(found, key=lambda row: (row.type_name, version_key(row.version)))

    async def delete(
        self, place: Place, type_name: str, *, option: str, dry_run: bool, client_token: str | None, now: datetime
    ) -> Deletion:
        """Delete a custom type's data and, by `option`, the type. Raises ApiError (InvalidTypeNameException)."""

        def write() -> Deletion:
            here = {"account_id": place[0], "region": place[1]}
            if client_token is not None and not dry_run:
                before = InventoryDeletion.objects.filter(**here, client_token=client_token).first()
                if before is not None and before.type_name != type_name:
                    raise ApiError(
                        "InvalidDeleteInventoryParametersException", "The ClientToken was used for another type."
                    )
                if before is not None:
                    return Deletion(before.type_name, before.counts, before.deletion_id)
            schemas = InventorySchema.objects.filter(**here, type_name=type_name)
            if not schemas.exists():
                raise ApiError("InvalidTypeNameException", f"There is no custom inventory type {type_name}.")
            rows = InventoryItem.objects.filter(**here, type_name=type_name)
            counts = dict(rows.order_by("schema_version").values_list("schema_version").annotate(Count("pk")))
            if dry_run:
                return Deletion(type_name, counts)
            made = uuid4()
            with transaction.atomic():
                rows.delete()
                if option == "DeleteSchema":
                    schemas.delete()
                elif option == "DisableSchema":
                    schemas.update(is_disabled=True)
                InventoryDeletion.objects.create(
                    **here,
                    deletion_id=made,
                    type_name=type_name,
                    client_token=client_token,
                    counts=counts,
                    started_at=now,
                )
            return Deletion(type_name, counts, made)

        return await in_database(self._writer, write)

    async def deletions(
        self, place: Place, *, deletion_id: str | None, before: int | None, size: int
    ) -> list[InventoryDeletion]:
        """The newest first, one more than `size` if there are more. Raises ApiError (InvalidDeletionIdException)."""
        rows = InventoryDeletion.objects.filter(account_id=place[0], region=place[1])
        if deletion_id is not None:
            rows = rows.filter(deletion_id=deletion_id)
        if before is not None:
            rows = rows.filter(pk__lt=before)
        found = await in_database(self._reader, lambda: list(rows.order_by("-pk")[: size + 1]))
        if deletion_id is not None and not found:
            raise ApiError("InvalidDeletionIdException", f"There is no deletion {deletion_id}.")
        return found


_INSTANCE: Final[Mapping[str, Callable[[Managed], str]]] = {
    "AgentType": lambda node: node.information.get("AgentName", ""),
    "AgentVersion": lambda node: node.information.get("AgentVersion", ""),
    "ComputerName": lambda node: node.information.get("ComputerName", ""),
    "InstanceId": lambda node: node.instance_id,
    "IpAddress": lambda node: node.information.get("IPAddress", ""),
    "PlatformName": lambda node: node.information.get("PlatformName", ""),
    "PlatformType": lambda node: node.information.get("PlatformType", ""),
    "PlatformVersion": lambda node: node.information.get("PlatformVersion", ""),
    "ResourceType": lambda node: "ManagedInstance" if node.is_hybrid else "EC2Instance",
}


def _refused(code: str, type_name: str, message: str) -> ApiError:
    return ApiError(code, message, TypeName=type_name)


def _check(item: Mapping[str, Any]) -> None:
    """What can be said of an item by itself. Raises ApiError."""
    name, version, context = item["TypeName"], item["SchemaVersion"], item.get("Context")
    known = TYPES.get(name)
    if not is_type(name):
        raise ApiError("InvalidTypeNameException", f"{name} is not a type of inventory.")
    if known is not None and not known.is_put:
        raise ApiError("InvalidTypeNameException", f"{name} is not put: it is made of what the service knows.")
    # With hashes alone the real agent gives every item the version of the last one in its list: they share one variable
    # [agent/plugins/inventory/datauploader/uploader.go].
    if known is not None and item.get("Content") is not None and version not in known.versions:
        raise ApiError(
            "UnsupportedInventorySchemaVersionException",
            f"{name} has the schema versions {', '.join(known.versions)}, not {version}.",
        )
    if context and name != COMPLIANCE_ITEM:
        raise _refused("UnsupportedInventoryItemContextException", name, f"{name} takes no Context.")
    if context and (unknown := sorted(context.keys() - _CONTEXT_KEYS)):
        raise ApiError("InvalidInventoryItemContextException", f"A Context has no {', '.join(unknown)}.")
    # PostgreSQL's columns hold no zero; contents are kept as JSON, in which it is written otherwise.
    names = [] if known is not None else [name for entry in item.get("Content") or () for name in entry]
    if any("\0" in text for text in (*names, *(context or {}).values(), item.get("ContentHash", ""))):
        raise _refused("InvalidItemContentException", name, "A name or a hash holds the character zero.")
    if item.get("Content") is None and not item.get("ContentHash"):
        raise _refused("InvalidItemContentException", name, "An item has Content, or the ContentHash of what was put.")


def _write(key: NodeKey, items: Sequence[Mapping[str, Any]], now: datetime) -> None:
    place = {"account_id": key[0], "region": key[1]}
    held = {row.type_name: row for row in InventoryItem.objects.filter(**place, instance_id=key[2]).defer("content")}
    schemas = _Schemas(place, items)
    sizes = {name: row.size for name, row in held.items()}
    written, touched = [], []
    for item in items:
        name, version, digest = item["TypeName"], item["SchemaVersion"], item.get("ContentHash", "")
        if item.get("Content") is not None and schemas.is_disabled(name, version):
            continue
        row = held.get(name)
        is_same = row is not None and bool(digest) and row.content_hash == digest
        # With the hash alone the version says nothing; see _check.
        is_same = is_same and (item.get("Content") is None or row.schema_version == version)
        if row is not None and is_same:
            # The node's word is taken for it: what a hash is made over is the agent's own matter.
            row.capture_time, row.put_at = item["CaptureTime"], now
            touched.append(row)
            continue
        if item.get("Content") is None:
            raise _refused(
                "ItemContentMismatchException", name, f"The ContentHash is not that of the {name} that was last put."
            )
        content = orjson.dumps(item["Content"])
        largest = LARGEST_CUSTOM_ITEM if name.startswith("Custom:") else LARGEST_ITEM
        if len(content) > largest:
            raise _refused("ItemSizeLimitExceededException", name, f"{name} is larger than {largest} bytes.")
        sizes[name] = len(content)
        schemas.learn(name, version, item["Content"])
        written.append(
            InventoryItem(
                **place,
                instance_id=key[2],
                type_name=name,
                schema_version=version,
                capture_time=item["CaptureTime"],
                content_hash=digest,
                context=item.get("Context", {}),
                content=content.decode(),
                size=len(content),
                put_at=now,
            )
        )
    if sum(sizes.values()) > LARGEST_NODE:
        raise ApiError("TotalSizeLimitExceededException", f"The node's inventory is larger than {LARGEST_NODE} bytes.")
    schemas.save()
    InventoryItem.objects.bulk_update(touched, ["capture_time", "put_at"])
    InventoryItem.objects.bulk_create(
        written,
        update_conflicts=True,
        unique_fields=["account_id", "region", "instance_id", "type_name"],
        update_fields=["schema_version", "capture_time", "content_hash", "context", "content", "size", "put_at"],
    )


class _Schemas:
    """The custom types of a region while one request is taken: what it adds is saved at its end."""

    def __init__(self, place: Mapping[str, str], items: Sequence[Mapping[str, Any]]) -> None:
        self._place = place
        self._rows: dict[tuple[str, str], InventorySchema] = {}
        self._changed: dict[tuple[str, str], InventorySchema] = {}
        if any(item["TypeName"].startswith("Custom:") for item in items):
            self._rows = {(row.type_name, row.version): row for row in InventorySchema.objects.filter(**place)}

    def is_disabled(self, name: str, version: str) -> bool:
        """Whether this version, or a later one, was disabled."""
        return any(
            row.is_disabled and row.type_name == name and version_key(version) <= version_key(row.version)
            for row in self._rows.values()
        )

    def learn(self, name: str, version: str, entries: Sequence[Entry]) -> None:
        """Take up a custom type and its attributes. Raises ApiError."""
        if not name.startswith("Custom:"):
            return
        names = {other for other, _ in self._rows}
        if name not in names and len(names) >= MOST_CUSTOM_TYPES:
            raise ApiError(
                "CustomSchemaCountLimitExceededException",
                f"There are {MOST_CUSTOM_TYPES} custom inventory types; delete one to make another.",
            )
        row = self._rows.get((name, version)) or InventorySchema(**self._place, type_name=name, version=version)
        attributes = sorted(set(row.attributes).union(*entries))
        if len(attributes) > MOST_ATTRIBUTES:
            raise _refused(
                "InvalidItemContentException", name, f"A custom type has at most {MOST_ATTRIBUTES} attributes."
            )
        if row.pk is None or attributes != row.attributes:
            row.attributes = attributes
            self._rows[(name, version)] = self._changed[(name, version)] = row

    def save(self) -> None:
        for row in self._changed.values():
            row.save()


def _rows(place: Sequence[str], now: datetime) -> Any:
    return InventoryItem.objects.filter(
        account_id=place[0], region=place[1], put_at__gte=now - timedelta(days=KEPT_DAYS)
    )


def _by_type(filters: Iterable[Filter]) -> dict[str, list[Filter]]:
    found: dict[str, list[Filter]] = {}
    for item in filters:
        found.setdefault(item.type_name, []).append(item)
    return found


def _meeting(place: Place, ids: Sequence[str], stored: Mapping[str, Sequence[Filter]], now: datetime) -> set[str]:
    """Of some nodes those whose stored contents meet the filters, by type. One query."""
    wanted = Q()
    for name, filters in stored.items():
        condition = Q(type_name=name)
        for item in filters:
            condition &= _hint(item)
        wanted |= condition
    met: dict[str, set[str]] = {}
    rows = _rows(place, now).filter(wanted, instance_id__in=ids)
    for instance_id, name, content in rows.values_list("instance_id", "type_name", "content"):
        if matches(stored[name], orjson.loads(content)):
            met.setdefault(instance_id, set()).add(name)
    return {instance_id for instance_id, names in met.items() if len(names) == len(stored)}


def _hint(item: Filter) -> Q:
    """What the text of a content that may match holds."""
    hint = Q()
    if item.operator in {"Equal", "BeginWith"}:
        for value in item.values:
            pair = orjson.dumps({item.attribute: value}).decode()[1:-1]
            hint |= Q(content__contains=pair if item.operator == "Equal" else pair[:-1])
    return hint


def _values(entries: Iterable[Entry], attributes: Sequence[str]) -> set[tuple[str, ...]]:
    """The different values of the attributes; an entry that lacks one does not count."""
    return {tuple(entry[name] for name in attributes) for entry in entries if all(name in entry for name in attributes)}
