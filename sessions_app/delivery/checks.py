"""Does delivery work? Each call that it makes is made once, with an event and an object that say what they are."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import orjson

from fleetops.aws import logs, s3
from fleetops.aws.clients import AccountAccess
from fleetops.aws.errors import AwsError
from fleetops.clock import during, now
from fleetops.inventory.models import Account

from .logs import SESSION_NAME
from .models import DeliverySettings

logger = logging.getLogger(__name__)

STREAM: Final = "fleetops-check"
OBJECT: Final = "fleetops-check.txt"
_CONTENT: Final = b"FleetOps puts this object to see whether it may.\n"
LONGEST: Final = timedelta(seconds=120)  # a check that is open for longer has lost its worker


def is_running(row: DeliverySettings) -> bool:
    asked_at = row.check_asked_at
    return asked_at is not None and row.checked_at is None and now() - asked_at < during(LONGEST)


def carry_out(account_id: UUID) -> None:
    """Make the check that somebody asked for, and write down what came of each step."""
    row = DeliverySettings.objects.select_related("account").get(pk=account_id)
    rows = list(_answers(row, row.account))
    DeliverySettings.objects.filter(pk=row.pk, check_asked_at=row.check_asked_at).update(
        checked_at=now(), check_rows=rows
    )
    bad = [each["action"] for each in rows if not each["ok"]]
    logger.info("delivery checked account=%s bad=%s", row.account.account_id, ",".join(bad))


def _answers(row: DeliverySettings, account: Account) -> Iterator[dict[str, Any]]:
    access = account.access()
    regions = list(account.regions.filter(enabled=True).order_by("name").values_list("name", flat=True))
    for region in regions:
        if row.has_logs:
            for action, step in _logs_steps(row, access, region):
                yield _answer(region, action, step)
    if row.bucket and regions:
        yield _answer(regions[0], "s3:PutObject", lambda: _put_object(row, access, regions[0]))


def _answer(region: str, action: str, step: Callable[[], object]) -> dict[str, Any]:
    try:
        step()
    except AwsError as error:
        return {"region": region, "action": action, "ok": False, "text": str(error)}
    return {"region": region, "action": action, "ok": True, "text": ""}


def _logs_steps(
    row: DeliverySettings, access: AccountAccess, region: str
) -> Iterator[tuple[str, Callable[[], object]]]:
    group, name = row.log_group, SESSION_NAME
    moment = round(now().timestamp() * 1000)
    message = orjson.dumps({"fleetops": {"event": "check"}, "text": "FleetOps puts this event to see whether it may."})
    yield (
        "logs:CreateLogGroup",
        lambda: logs.make_group(access, region, group=group, kms_key=row.log_kms_key, session_name=name),
    )
    if days := row.retention_days:
        yield (
            "logs:PutRetentionPolicy",
            lambda: logs.keep_for(access, region, group=group, days=days, session_name=name),
        )
    if key := row.log_kms_key:
        yield (
            "logs:AssociateKmsKey",
            lambda: logs.encrypt(access, region, group=group, kms_key=key, session_name=name),
        )
    yield (
        "logs:CreateLogStream",
        lambda: logs.make_stream(access, region, group=group, stream=STREAM, session_name=name),
    )
    yield (
        "logs:PutLogEvents",
        lambda: logs.put_events(
            access, region, group=group, stream=STREAM, events=[(moment, message)], session_name=name
        ),
    )
    yield (
        "logs:GetLogEvents",
        lambda: list(
            logs.read_events(
                access, region, group=group, stream=STREAM, from_ms=moment, to_ms=moment, session_name=name
            )
        ),
    )


def _put_object(row: DeliverySettings, access: AccountAccess, region: str) -> None:
    s3.put(
        access,
        region,
        bucket=row.bucket,
        key="/".join(filter(None, (row.prefix, OBJECT))),
        body=_CONTENT,
        sha256=hashlib.sha256(_CONTENT).hexdigest(),
        session_name=SESSION_NAME,
        content_type="text/plain",
        kms_key=row.bucket_kms_key,
    )
