"""CloudWatch Logs where it is about events: what is put into streams, and how it is read. The rest is moto's.

See log_events.py for why, and for how the two are held together. A token is a place: it leads on from there, forward
or backward, and at the end of a stream it is the same again.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

import orjson

from fleetops.awsapi.errors import ApiError, not_implemented
from fleetops.awsapi.logpattern import compile_pattern
from fleetops.endpoint import log_events
from fleetops.endpoint.calls import Answer, Call
from fleetops.endpoint.core import Endpoint
from fleetops.endpoint.log_events import DAY, EVENT_BYTES, Place
from fleetops.endpoint.models import LogEvent, LogStream

Result = dict[str, Any]

# What needs events and is not written: moto, which has none, would answer as if nothing had ever been logged.
_NOT_WRITTEN = {"StartLiveTail", "StartQuery", "CreateExportTask", "GetLogRecord", "GetLogFields", "GetLogObject"}
OPERATIONS = {"PutLogEvents", "GetLogEvents", "FilterLogEvents", "DescribeLogStreams"} | _NOT_WRITTEN

# Source of the limits: CloudWatch Logs API reference, PutLogEvents and GetLogEvents.
_BATCH_BYTES = 1_048_576
_SPAN = int(timedelta(hours=24).total_seconds() * 1000)
_OLDEST = int(timedelta(days=14).total_seconds() * 1000)
_NEWEST = int(timedelta(hours=2).total_seconds() * 1000)
_PAGE_EVENTS = 10_000
_PAGE_STREAMS = 50
_TOKEN = re.compile(r"([fb])/(\d{20})(\d{36})")
_GROUP_ARN = re.compile(r"arn:aws:logs:([\w-]+):(\d{12}):log-group:([^:*]+)(?::\*)?")
_LARGEST = 2**63 - 1


async def handle(endpoint: Endpoint, call: Call, parameters: Result) -> Result:
    """Answer one call of OPERATIONS. Raises ApiError."""
    if call.operation in _NOT_WRITTEN:
        raise not_implemented(call.operation)
    group = _group_name(call, parameters)
    name = parameters.get("logStreamName")
    found = await endpoint.moto.result(
        ask="log_group",
        account=call.account_id,
        region=call.region,
        group=group,
        streams=[name] if name is not None else parameters.get("logStreamNames"),
    )
    if found is None:
        raise ApiError("ResourceNotFoundException", "The specified log group does not exist.", 400)
    answers = {
        "PutLogEvents": _put,
        "GetLogEvents": _get,
        "FilterLogEvents": _filter,
        "DescribeLogStreams": _streams,
    }
    return await answers[call.operation](endpoint, call, parameters, group, found)


async def after(endpoint: Endpoint, call: Call, parameters: Result, answer: Answer) -> Answer:
    """What follows from a call that moto has answered; the answer for its caller."""
    if answer.status >= 400:
        return answer
    if call.operation in {"DeleteLogGroup", "DeleteLogStream"}:
        endpoint.log_events.emptied((call.account_id, call.region, str(parameters.get("logGroupName", ""))))
    elif call.operation == "DescribeLogGroups":
        told = orjson.loads(answer.body)
        for group in told.get("logGroups", []):
            group["storedBytes"] = await _stored_bytes(endpoint, call, group["logGroupName"])
        return replace(answer, body=orjson.dumps(told))
    return answer


async def _stored_bytes(endpoint: Endpoint, call: Call, group: str) -> int:
    rows = LogStream.objects.filter(account_id=call.account_id, region=call.region, group=group)
    sums = dict(await endpoint.log_events.read(lambda: list(rows.values_list("key", "stored_bytes"))))
    if not sums:
        return 0
    found = await endpoint.moto.result(ask="log_group", account=call.account_id, region=call.region, group=group)
    return sum(sums.get(stream["key"], 0) for stream in found["streams"].values()) if found else 0


async def _put(endpoint: Endpoint, call: Call, parameters: Result, group: str, found: Result) -> Result:
    stream = _stream(found, parameters["logStreamName"])
    now = int(call.now.timestamp() * 1000)
    events = [(event["timestamp"], event["message"].encode()) for event in parameters["logEvents"]]
    _check_batch(events)
    first, last, rejected = _accepted([timestamp for timestamp, _ in events], now, found["retention_days"])
    accepted = events[first:last]
    if accepted and accepted[-1][0] - accepted[0][0] > _SPAN:
        raise _invalid("The batch of log events in a single PutLogEvents request cannot span more than 24 hours.")
    row = LogStream(
        key=stream["key"],
        account_id=call.account_id,
        region=call.region,
        group=group,
        name=parameters["logStreamName"],
    )
    if accepted:
        await endpoint.log_events.insert(row, accepted, now)
    return {"nextSequenceToken": f"{now:056d}", "rejectedLogEventsInfo": rejected or None}


async def _get(endpoint: Endpoint, call: Call, parameters: Result, group: str, found: Result) -> Result:
    stream = _stream(found, parameters["logStreamName"])
    rows = _in_time(LogEvent.objects.filter(stream__key=stream["key"]), call, parameters, found)
    if "endTime" in parameters:
        rows = rows.filter(timestamp__lt=parameters["endTime"])
    limit = parameters.get("limit", _PAGE_EVENTS)
    token = parameters.get("nextToken")
    if token is None:
        is_forward, place = bool(parameters.get("startFromHead")), None
    else:
        is_forward, place = _read_token(token)
        rows = log_events.after(rows, place) if is_forward else log_events.before(rows, place)
    page = await endpoint.log_events.read(lambda: log_events.page(rows, limit, is_forward=is_forward))
    if page:
        first, last = (page[0].timestamp, page[0].pk), (page[-1].timestamp, page[-1].pk)
        forward, backward = _token("f", last), _token("b", first)
    elif place is None:
        forward, backward = _token("f", (0, 0)), _token("b", (0, 0))
    elif is_forward:
        # At the end: the same token again, and from the other the way back begins with the last event.
        forward, backward = _token("f", place), _token("b", (place[0], place[1] + 1))
    else:
        forward, backward = _token("f", (place[0], place[1] - 1) if place[1] else place), _token("b", place)
    return {
        "events": [
            {"timestamp": row.timestamp, "message": _text(row.message), "ingestionTime": row.ingested_at}
            for row in page
        ],
        "nextForwardToken": forward,
        "nextBackwardToken": backward,
    }


async def _filter(endpoint: Endpoint, call: Call, parameters: Result, group: str, found: Result) -> Result:
    names, prefix = parameters.get("logStreamNames"), parameters.get("logStreamNamePrefix")
    if names is not None and prefix is not None:
        raise _invalid("Cannot specify both logStreamNames and logStreamNamePrefix.")
    matches = compile_pattern(parameters.get("filterPattern", ""))
    if names is not None:
        chosen = [_stream(found, name)["key"] for name in names]
    else:
        chosen = [held["key"] for name, held in found["streams"].items() if name.startswith(prefix or "")]
    is_forward = bool(parameters.get("startFromHead", True))
    limit = parameters.get("limit", _PAGE_EVENTS)
    place = None
    if (token := parameters.get("nextToken")) is not None:
        told, place = _read_token(token)
        if told != is_forward:
            raise _invalid("The specified nextToken is invalid.")
    owner = (call.account_id, call.region, group)
    end = parameters.get("endTime")

    def search() -> tuple[list[Any], Place | None]:
        living = set(chosen)
        held = LogStream.objects.filter(account_id=owner[0], region=owner[1], group=owner[2])
        streams = {row.pk: row.name for row in held if row.key in living}
        rows = _in_time(LogEvent.objects.filter(stream__in=list(streams)), call, parameters, found)
        if end is not None:
            rows = rows.filter(timestamp__lte=end)
        if place is not None:
            rows = log_events.after(rows, place) if is_forward else log_events.before(rows, place)
        events, reached = log_events.search(rows, matches, limit, is_forward=is_forward)
        return [(streams[event.stream_id], event) for event in events], reached

    events, reached = await endpoint.log_events.read(search)
    return {
        "events": [
            {
                "logStreamName": name,
                "timestamp": event.timestamp,
                "message": _text(event.message),
                "ingestionTime": event.ingested_at,
                "eventId": f"{event.timestamp:020d}{event.pk:036d}",
            }
            for name, event in events
        ],
        "searchedLogStreams": [],
        "nextToken": _token("f" if is_forward else "b", reached) if reached is not None else None,
    }


async def _streams(endpoint: Endpoint, call: Call, parameters: Result, group: str, found: Result) -> Result:
    prefix, by_time = parameters.get("logStreamNamePrefix"), parameters.get("orderBy") == "LastEventTime"
    if prefix is not None and by_time:
        raise _invalid("Cannot order by LastEventTime with a logStreamNamePrefix.")
    held = LogStream.objects.filter(account_id=call.account_id, region=call.region, group=group)
    rows = {row.key: row for row in await endpoint.log_events.read(lambda: list(held))}
    names = {}
    for name, stream in found["streams"].items():
        if name.startswith(prefix or ""):
            row = rows.get(stream["key"])
            moment = (row.last_event_at or 0) if row is not None and by_time else 0
            names[moment, name] = (stream, row)
    order = sorted(names, reverse=bool(parameters.get("descending")))
    start = 0
    if (token := parameters.get("nextToken")) is not None:
        moment_text, _, name = token.partition("@")
        if not moment_text.isdigit():
            raise _invalid("The specified nextToken is invalid.")
        last = (int(moment_text), name)
        is_past = (lambda key: key < last) if parameters.get("descending") else (lambda key: key > last)
        start = next((number for number, key in enumerate(order) if is_past(key)), len(order))
    size = parameters.get("limit", _PAGE_STREAMS)
    page = order[start : start + size]
    return {
        "logStreams": [_described(name, *names[moment, name]) for moment, name in page],
        "nextToken": f"{page[-1][0]}@{page[-1][1]}" if start + size < len(order) else None,
    }


def _check_batch(events: Sequence[tuple[int, bytes]]) -> None:
    """Refuse a batch that breaks AWS's limits as a whole. Raises ApiError."""
    size = 0
    for _, message in events:
        event_size = len(message) + EVENT_BYTES
        if event_size > _BATCH_BYTES:
            raise _invalid(f"Log event too large: {event_size} bytes exceeds limit of {_BATCH_BYTES}")
        size += event_size
    if size > _BATCH_BYTES:
        raise _invalid(f"Upload too large: {size} bytes exceeds limit of {_BATCH_BYTES}")
    if any(later[0] < earlier[0] for earlier, later in pairwise(events)):
        raise _invalid("Log events in a single PutLogEvents request must be in chronological order.")


def _accepted(timestamps: Sequence[int], now: int, retention_days: int) -> tuple[int, int, Result]:
    """From which event of a batch up to which it is taken, and what is told of the others."""
    rejected: Result = {}
    expired = sum(1 for at in timestamps if retention_days and at < now - retention_days * DAY)
    too_old = sum(1 for at in timestamps if at < now - _OLDEST)
    too_new = sum(1 for at in timestamps if at > now + _NEWEST)
    if expired:
        rejected["expiredLogEventEndIndex"] = expired
    if too_old:
        rejected["tooOldLogEventEndIndex"] = too_old
    if too_new:
        rejected["tooNewLogEventStartIndex"] = len(timestamps) - too_new
    return max(expired, too_old), len(timestamps) - too_new, rejected


def _in_time(rows: Any, call: Call, parameters: Result, found: Result) -> Any:
    start = parameters.get("startTime", 0)
    if found["retention_days"]:
        start = max(start, int(call.now.timestamp() * 1000) - found["retention_days"] * DAY)
    return rows.filter(timestamp__gte=start) if start else rows


def _described(name: str, stream: Result, row: LogStream | None) -> Result:
    told: Result = {
        "logStreamName": name,
        "creationTime": stream["created_at"],
        "arn": stream["arn"],
        "storedBytes": 0,  # so AWS says of every stream since June 2019; a group's are told
    }
    if row is not None and row.last_event_at is not None:
        told |= {
            "firstEventTimestamp": row.first_event_at,
            "lastEventTimestamp": row.last_event_at,
            "lastIngestionTime": row.last_ingested_at,
            "uploadSequenceToken": f"{row.last_ingested_at:056d}",
        }
    return told


def _group_name(call: Call, parameters: Result) -> str:
    """The group that a call means, by its name or ARN. Raises ApiError."""
    name, identifier = parameters.get("logGroupName"), parameters.get("logGroupIdentifier")
    if (name is None) == (identifier is None):
        raise _invalid("Exactly one of logGroupName and logGroupIdentifier must be specified.")
    if name is not None:
        return str(name)
    if not identifier.startswith("arn:"):
        return str(identifier)
    match = _GROUP_ARN.fullmatch(identifier)
    if match is None:
        raise _invalid("The specified logGroupIdentifier is invalid.")
    if (match[1], match[2]) != (call.region, call.account_id):
        raise ApiError("ResourceNotFoundException", "The specified log group does not exist.", 400)
    return match[3]


def _stream(found: Result, name: str) -> Result:
    stream: Result | None = found["streams"].get(name)
    if stream is None:
        raise ApiError("ResourceNotFoundException", "The specified log stream does not exist.", 400)
    return stream


def _token(direction: str, place: Place) -> str:
    return f"{direction}/{place[0]:020d}{place[1]:036d}"


def _read_token(token: str) -> tuple[bool, Place]:
    """Whether a token leads forward, and from where. Raises ApiError."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise _invalid("The specified nextToken is invalid.")
    return match[1] == "f", (min(int(match[2]), _LARGEST), min(int(match[3]), _LARGEST))


def _text(message: bytes) -> str:
    return bytes(message).decode()


def _invalid(message: str) -> ApiError:
    return ApiError("InvalidParameterException", message, 400)
