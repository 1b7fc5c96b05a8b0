"""CloudTrail: who did what."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from .clients import AccountAccess, client
from .errors import aws_call

PAGE: Final = 50  # events of a page, the most that AWS gives [CloudTrail API reference, LookupEvents]


@dataclass(frozen=True, slots=True)
class TrailEvent:
    """One call that was carried out, as CloudTrail tells it, up to 15 minutes after it."""

    event_id: str
    name: str  # AssociateIamInstanceProfile
    at: datetime
    by: str  # ARN; the account's number for its root
    text: str  # the event as JSON: what it was asked, and what AWS answered


def events_named(
    access: AccountAccess, region: str, name: str, *, since: datetime, session_name: str
) -> list[TrailEvent]:
    """The newest 50 calls of an operation: whom an association was of stands in its answer, not among its resources.

    Raises AwsError.
    """
    trail = client("cloudtrail", access, region, session_name=session_name)
    with aws_call("cloudtrail:LookupEvents", where=f"{access.account_id} {region}"):
        answer = trail.lookup_events(
            LookupAttributes=[{"AttributeKey": "EventName", "AttributeValue": name}], StartTime=since, MaxResults=PAGE
        )
    found = []
    for each in answer.get("Events", []):
        text = each.get("CloudTrailEvent") or "{}"
        body = json.loads(text)
        if not body.get("errorCode"):
            who = body.get("userIdentity") or {}
            by = who.get("arn") or who.get("accountId") or each.get("Username", "")
            found.append(TrailEvent(each["EventId"], each["EventName"], each["EventTime"], by, text))
    return found
