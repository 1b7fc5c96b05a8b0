"""CloudWatch Logs: groups and streams are made, events put and read again.

A put is tried once: it takes no token, so that who gets no answer has to look before it puts again (see
sessions_app/delivery). The limits of one put are the caller's to keep.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .clients import AccountAccess, client
from .errors import AwsError, aws_call

# PutLogEvents, API reference: of one put. Each event counts its UTF-8 bytes and 26 more.
BATCH_EVENTS: Final = 10_000
BATCH_BYTES: Final = 1_048_576
EVENT_OVERHEAD: Final = 26
EVENT_BYTES: Final = 256 * 1024  # what AWS took when it said so last, its overhead included; more since, unpublished
SPAN_MS: Final = 24 * 3600 * 1000
OLDEST_MS: Final = 14 * 24 * 3600 * 1000  # before AWS's now
NEWEST_MS: Final = 2 * 3600 * 1000  # after it
# PutRetentionPolicy takes these and no others, in days [botocore's model of logs].
RETENTION_DAYS: Final = (
    *(1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096),
    *(1827, 2192, 2557, 2922, 3288, 3653),
)
_THERE: Final = "ResourceAlreadyExistsException"
NOT_THERE: Final = "ResourceNotFoundException"


@dataclass(frozen=True, slots=True)
class Rejected:
    """Of a put, the events that AWS did not take: those before `first`, and those from `last` on."""

    first: int
    last: int

    def __bool__(self) -> bool:
        return True


def put_events(
    access: AccountAccess,
    region: str,
    *,
    group: str,
    stream: str,
    events: Sequence[tuple[int, bytes]],
    session_name: str,
) -> Rejected | None:
    """Put events, (milliseconds since 1970 UTC, UTF-8), in the order of their moments; what was not taken, if any.

    Raises AwsError: NOT_THERE if there is no such stream; Unavailable, whose `is_outcome_unknown` says whether they may
    have been taken all the same.
    """
    logs = client("logs", access, region, session_name=session_name, attempts=1)
    listed = [{"timestamp": at, "message": message.decode()} for at, message in events]
    with aws_call("logs:PutLogEvents", where=f"{access.account_id} {region}"):
        answer = logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=listed)
    about: dict[str, int] = answer.get("rejectedLogEventsInfo") or {}
    first = max(about.get("tooOldLogEventEndIndex", 0), about.get("expiredLogEventEndIndex", 0))
    last = about.get("tooNewLogEventStartIndex", len(events))
    return Rejected(first, last) if first > 0 or last < len(events) else None


def read_events(
    access: AccountAccess,
    region: str,
    *,
    group: str,
    stream: str,
    from_ms: int,
    to_ms: int,
    session_name: str,
) -> Iterator[str]:
    """The messages of a stream whose moments lie from `from_ms` to `to_ms`, that one included; oldest first."""
    logs = client("logs", access, region, session_name=session_name)
    token = ""
    while True:
        place: dict[str, Any] = {"nextToken": token} if token else {}
        with aws_call("logs:GetLogEvents", where=f"{access.account_id} {region}"):
            answer = logs.get_log_events(
                logGroupName=group,
                logStreamName=stream,
                startTime=from_ms,
                endTime=to_ms + 1,
                startFromHead=True,
                **place,
            )
        for event in answer["events"]:
            yield event["message"]
        if answer["nextForwardToken"] == token:
            return  # so AWS says that this was the end
        token = answer["nextForwardToken"]


def make_group(access: AccountAccess, region: str, *, group: str, kms_key: str, session_name: str) -> bool:
    """Make a log group, encrypted under `kms_key` if one is named; False if it was there."""
    logs = client("logs", access, region, session_name=session_name)
    key = {"kmsKeyId": kms_key} if kms_key else {}
    try:
        with aws_call("logs:CreateLogGroup", where=f"{access.account_id} {region}"):
            logs.create_log_group(logGroupName=group, **key)
    except AwsError as error:
        if error.code != _THERE:
            raise
        return False
    return True


def make_stream(access: AccountAccess, region: str, *, group: str, stream: str, session_name: str) -> None:
    """Make a log stream, unless it is there. Raises AwsError, NOT_THERE if there is no such group."""
    logs = client("logs", access, region, session_name=session_name)
    try:
        with aws_call("logs:CreateLogStream", where=f"{access.account_id} {region}"):
            logs.create_log_stream(logGroupName=group, logStreamName=stream)
    except AwsError as error:
        if error.code != _THERE:
            raise


def keep_for(access: AccountAccess, region: str, *, group: str, days: int, session_name: str) -> None:
    """Say how long a group keeps its events; of RETENTION_DAYS."""
    logs = client("logs", access, region, session_name=session_name)
    with aws_call("logs:PutRetentionPolicy", where=f"{access.account_id} {region}"):
        logs.put_retention_policy(logGroupName=group, retentionInDays=days)


def encrypt(access: AccountAccess, region: str, *, group: str, kms_key: str, session_name: str) -> None:
    """Have a group that is there encrypt what comes from now on under a key of KMS."""
    logs = client("logs", access, region, session_name=session_name)
    with aws_call("logs:AssociateKmsKey", where=f"{access.account_id} {region}"):
        logs.associate_kms_key(logGroupName=group, kmsKeyId=kms_key)
