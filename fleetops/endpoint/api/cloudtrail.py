"""CloudTrail's LookupEvents, from the endpoint's own record of every request."""

import base64
from concurrent.futures import Executor
from typing import Any

from django.core.exceptions import ValidationError

from fleetops.awsapi import json11
from fleetops.awsapi.errors import ApiError
from fleetops.endpoint.calls import Call
from fleetops.endpoint.database import in_database
from fleetops.endpoint.models import TrailEvent
from fleetops.endpoint.resource_table import type_of

Result = dict[str, Any]
_codec = json11.Codec()
_DEFAULT_PAGE = 50
_ATTRIBUTES = {
    "EventId": "event_id",
    "EventName": "name",
    "Username": "username",
    "EventSource": "source",
    "AccessKeyId": "access_key_id",
}


async def lookup_events(call: Call, executor: Executor) -> Result:
    """Answer one LookupEvents call: the newest events first. Raises ApiError."""
    assert call.service is not None
    parameters = _codec.parse(call.service.operation("LookupEvents"), call.request.body)
    call.parameters = parameters
    start, end = parameters.get("StartTime"), parameters.get("EndTime")
    if start and end and start > end:
        raise ApiError("InvalidTimeRangeException", "The start time is after the end time.")
    attributes = parameters.get("LookupAttributes", [])
    if len(attributes) > 1:
        raise ApiError("InvalidLookupAttributesException", "You can only specify one lookup attribute.")
    rows = TrailEvent.objects.filter(account_id=call.account_id, region=call.region)
    if start:
        rows = rows.filter(happened_at__gte=start)
    if end:
        rows = rows.filter(happened_at__lte=end)
    for attribute in attributes:
        rows = _filtered(rows, attribute["AttributeKey"], attribute["AttributeValue"])
    size = min(parameters.get("MaxResults", _DEFAULT_PAGE), _DEFAULT_PAGE)
    if token := parameters.get("NextToken"):
        try:
            rows = rows.filter(pk__lt=min(int(base64.b64decode(token, altchars=b"-_", validate=True)), 2**63 - 1))
        except ValueError:
            raise ApiError("InvalidNextTokenException", "The next token is not valid.") from None
    query = rows.order_by("-pk")[: size + 1]
    found = await in_database(executor, lambda: list(query))
    page = found[:size]
    more = len(found) > size
    return {
        "Events": [_event(row) for row in page],
        "NextToken": base64.urlsafe_b64encode(str(page[-1].pk).encode()).decode() if more else None,
    }


def _filtered(rows: Any, key: str, value: str) -> Any:
    if key in _ATTRIBUTES:
        try:
            return rows.filter(**{_ATTRIBUTES[key]: value})
        except ValidationError:  # no event's id
            return rows.none()
    if key == "ReadOnly":
        return rows.filter(read_only=value.lower() == "true")
    if key == "ResourceName":
        return rows.filter(resource_names__contains=f"\n{value}\n")
    if key == "ResourceType":
        return rows.filter(resource_types__contains=f"\n{value}\n")
    return rows.none()


def _event(row: TrailEvent) -> Result:
    return {
        "EventId": str(row.event_id),
        "EventName": row.name,
        "ReadOnly": "true" if row.read_only else "false",
        "AccessKeyId": row.access_key_id or None,
        "EventTime": row.happened_at,
        "EventSource": row.source,
        "Username": row.username or None,
        "Resources": [
            {"ResourceType": type_of(name) or None, "ResourceName": name}
            for name in row.resource_names.split("\n")
            if name
        ],
        "CloudTrailEvent": row.body,
    }
