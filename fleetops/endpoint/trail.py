"""CloudTrail: an event for every request, appended in batches by one writer.

A changing call is answered after its event is in the database. A read's event is queued; a kill loses those of the last
moment at most. The queue is bounded: when it is full, requests wait.
"""

import asyncio
import logging
import re
from concurrent.futures import Executor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import orjson
from django.db import DatabaseError
from django.db.models import Q

from fleetops import clock
from fleetops.endpoint import settings
from fleetops.endpoint.calls import Answer, Call, Principal
from fleetops.endpoint.database import in_database
from fleetops.endpoint.models import TrailEvent
from fleetops.endpoint.redaction import LONGEST_TEXT, MOST_MEMBERS, redact
from fleetops.endpoint.resource_table import type_of

logger = logging.getLogger(__name__)

_QUEUE_EVENTS = 5000
_BATCH_EVENTS = 500
_PRUNE_SECONDS = 3600.0
_HEARTBEAT = "UpdateInstanceInformation"
_UNPRINTABLE = re.compile("[\x00\r\n]")  # PostgreSQL takes no zero; a line break ends a name


class NotRecorded(Exception):
    """The event is not in the database; its log says why."""


class Trail:
    """Takes events and writes them."""

    def __init__(self, executor: Executor) -> None:
        """`executor` has the one thread that writes to the database."""
        self._executor = executor
        self._queue: asyncio.Queue[tuple[TrailEvent, asyncio.Future[None] | None]] = asyncio.Queue(_QUEUE_EVENTS)
        self._task: asyncio.Task[None] | None = None
        self._pruned_at = 0.0
        # Whether the last batch could not be written: changes are then refused before they are done, and the events of
        # these refusals are what finds out that it works again.
        self.is_failing = False

    def start(self) -> None:
        self._task = asyncio.create_task(self._write())

    async def stop(self) -> None:
        """Write what is queued, then end."""
        if self._task is not None:
            try:
                async with asyncio.timeout(1.0):
                    await self._queue.join()
            except TimeoutError:
                logger.warning("trail events lost count=%s", self._queue.qsize())
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def record(self, call: Call, answer: Answer) -> None:
        """Append the event of one request; for a changing call, return when it is in the database.

        Raises NotRecorded if it cannot be written.
        """
        events = _events(call, answer)
        if call.read_only or call.is_heartbeat:
            for event in events:
                await self._queue.put((event, None))
            return
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for event in events[1:]:
            await self._queue.put((event, None))
        await self._queue.put((events[0], written))
        await written

    async def _write(self) -> None:
        while True:
            batch = [await self._queue.get()]
            while len(batch) < _BATCH_EVENTS and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            try:
                events = [event for event, _ in batch]
                await in_database(self._executor, partial(_insert, events))
            except Exception as fault:  # the outermost loop: a full disk must not end the writer
                if not self.is_failing:
                    logger.exception("trail events not written count=%s", len(batch))
                self.is_failing = True
                for _, written in batch:
                    if written is not None and not written.done():
                        written.set_exception(NotRecorded(str(fault)))
            else:
                if self.is_failing:
                    logger.warning("trail events are written again")
                self.is_failing = False
                for _, written in batch:
                    if written is not None and not written.done():
                        written.set_result(None)
            for _ in batch:
                self._queue.task_done()
            if clock.monotonic() - self._pruned_at > _PRUNE_SECONDS:
                self._pruned_at = clock.monotonic()
                try:
                    await in_database(self._executor, partial(_prune, clock.now()))
                except DatabaseError:
                    logger.exception("old trail events not removed")


def _insert(events: list[TrailEvent]) -> None:
    TrailEvent.objects.bulk_create(events)


def _prune(now: datetime) -> None:
    TrailEvent.objects.filter(happened_at__lt=now - timedelta(days=settings.TRAIL_DAYS)).delete()
    # Ten thousand nodes that report every five minutes make three million events of that a day.
    is_plenty = Q(read_only=True) | Q(name=_HEARTBEAT)
    TrailEvent.objects.filter(is_plenty, happened_at__lt=now - timedelta(days=settings.TRAIL_READ_DAYS)).delete()


def _events(call: Call, answer: Answer) -> list[TrailEvent]:
    """The event of a request, and the one that the owner of another account's resource sees of it."""
    if call.principal is None and call.behalf is not None:  # a service of ours, by itself
        return [_event(call, answer, call.owner_id)]
    if not call.owner_id or call.owner_id == call.account_id:
        return [_event(call, answer, call.account_id)]
    shared = str(uuid4())
    return [_event(call, answer, account, shared) for account in (call.account_id, call.owner_id)]


def _event(call: Call, answer: Answer, account_id: str, shared_id: str = "") -> TrailEvent:
    event_id = uuid4()
    is_own = account_id == call.account_id or call.principal is None
    source = f"{call.service.signing_name if call.service else 'unknown'}.amazonaws.com"
    body: dict[str, Any] = {
        "eventVersion": "1.11",
        "userIdentity": user_identity(call) if is_own else _stranger(call),
        "eventTime": f"{call.now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "eventSource": source,
        "eventName": call.operation or "Unknown",
        "awsRegion": call.region,
        "sourceIPAddress": call.source_address,
        "userAgent": call.user_agent[:LONGEST_TEXT],
        "requestParameters": redact(call.parameters, call.operation) if call.parameters else None,
        "responseElements": redact(call.response_elements, call.operation) if call.response_elements else None,
        "requestID": call.request_id,
        "eventID": str(event_id),
        "readOnly": call.read_only,
        "resources": _resources(call.resources),
        "eventType": "AwsApiCall",
        "managementEvent": True,
        "recipientAccountId": account_id,
        "eventCategory": "Management",
    }
    if shared_id:
        body["sharedEventID"] = shared_id
    if answer.error_code:
        body["errorCode"] = answer.error_code
        body["errorMessage"] = answer.error_message[:LONGEST_TEXT]
    return TrailEvent(
        event_id=event_id,
        account_id=account_id,
        region=call.region[:32],
        happened_at=call.now,
        source=source[:64],
        name=(call.operation or "Unknown")[:128],
        username=call.principal.username[:128] if call.principal and is_own else "",
        access_key_id=(call.claim.access_key_id if call.claim and is_own else "")[:128],
        read_only=call.read_only,
        error_code=answer.error_code[:128],
        resource_names=_lines(call.resources),
        resource_types=_lines([kind for name in call.resources[:MOST_MEMBERS] if (kind := type_of(name))]),
        body=orjson.dumps(body).decode(),
    )


def _resources(names: list[str]) -> list[dict[str, str]]:
    """The event's `resources`: those of which the ARN is known."""
    shown = []
    for name in names[:MOST_MEMBERS]:
        if name.startswith("arn:"):
            account, kind = name.split(":", 5)[4:5], type_of(name)
            shown.append(
                {"ARN": name[:LONGEST_TEXT]}
                | ({"accountId": account[0]} if account and account[0] else {})
                | ({"type": kind} if kind else {})
            )
    return shown


def _stranger(call: Call) -> dict[str, Any]:
    """The caller as another account sees it."""
    principal = call.principal
    assert principal is not None
    return {"type": "AWSAccount", "principalId": principal.user_id, "accountId": principal.account_id}


def user_identity(call: Call) -> dict[str, Any]:
    """CloudTrail's userIdentity. Source: the CloudTrail user guide, "userIdentity element"."""
    principal: Principal | None = call.principal
    if principal is None and call.behalf is not None:
        return {"type": "AWSService", "invokedBy": call.behalf.service}
    if principal is None:
        return {"type": "Unknown", "accessKeyId": call.claim.access_key_id[:128] if call.claim else ""}
    identity: dict[str, Any] = {
        "type": "IAMUser" if principal.kind == "user" else "AssumedRole",
        "principalId": principal.user_id,
        "arn": principal.arn,
        "accountId": principal.account_id,
        "accessKeyId": principal.access_key_id,
        **({"invokedBy": call.behalf.service} if call.behalf is not None else {}),
    }
    attributes = {
        "creationDate": f"{principal.issued_at:%Y-%m-%dT%H:%M:%SZ}" if principal.issued_at else "",
        "mfaAuthenticated": "false",
    }
    if principal.kind == "user":
        identity["userName"] = principal.name
        return identity | ({"sessionContext": {"attributes": attributes}} if principal.issued_at else {})
    context: dict[str, Any] = {
        "sessionIssuer": {
            "type": "Role",
            "principalId": principal.user_id.partition(":")[0],
            "arn": principal.role_arn,
            "accountId": principal.account_id,
            "userName": principal.name,
        },
        "attributes": attributes,
    }
    if principal.source_identity:
        context["sourceIdentity"] = principal.source_identity
    return identity | {"sessionContext": context}


def _lines(names: list[str]) -> str:
    """Names as a column that can be searched for one of them: one a line, a line break before and after each."""
    shown = [_UNPRINTABLE.sub("", name)[:LONGEST_TEXT] for name in names[:MOST_MEMBERS]]
    return "".join(f"\n{name}" for name in shown) + "\n" if shown else ""
