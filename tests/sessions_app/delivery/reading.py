"""What a stream of CloudWatch Logs holds of a session."""

import json

from sessions_app.delivery.models import LogDelivery


def read(endpoint, row: LogDelivery) -> list[tuple[int, dict]]:
    """All that the stream holds, as (moment, event)."""
    client = endpoint.client("logs", region=row.session.region)
    where = {"logGroupName": row.log_group, "logStreamName": row.log_stream, "startFromHead": True}
    found, token = [], ""
    while True:
        page = client.get_log_events(**where, **({"nextToken": token} if token else {}))
        found += [(event["timestamp"], json.loads(event["message"])) for event in page["events"]]
        if page["nextForwardToken"] == token:
            return found
        token = page["nextForwardToken"]


def numbers(found, *kinds: str) -> list[int]:
    kinds = kinds or ("start", "transcript", "note", "end")
    return [event["fleetops"]["n"] for _, event in found if event["fleetops"]["event"] in kinds]


def lines(found) -> list[str]:
    return [line for _, event in found for line in event.get("sessionData", ())]


def once_each(found) -> None:
    """Every event of the recording is there, once, in its order."""
    assert numbers(found) == list(range(1, len(numbers(found)) + 1))
    assert [at for at, _ in found] == sorted(at for at, _ in found)
