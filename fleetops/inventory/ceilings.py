"""Ceilings that people set on the calls of an operation: what is in force stands in rows, and the governor is told."""

import contextlib
import logging
import math
from collections.abc import Iterable
from datetime import datetime
from functools import partial
from typing import Any

from django.db import transaction

from fleetops.audit.record import record
from fleetops.aws import governor
from fleetops.aws.errors import Unavailable
from fleetops.aws.permissions import NEEDS_NO_PERMISSION, PERMISSIONS
from fleetops.clock import now as clock_now
from fleetops.errors import UserError

from .models import Account, CallCeiling

logger = logging.getLogger(__name__)

LEAST, MOST = governor.LOWEST, governor.HIGHEST  # calls a second
GLOBAL = "global"  # the region of IAM's bucket, as the governor calls it
# SQS's permission is to delete a message; the call deletes several.
_CALLED = {"sqs:DeleteMessage": "sqs:DeleteMessageBatch"}
OPERATIONS = tuple(
    sorted({_CALLED.get(each.action, each.action) for each in PERMISSIONS} | NEEDS_NO_PERMISSION | {"sts:AssumeRole"})
)


def own_ceiling(operation: str) -> float:
    """The calls a second to which the governor lets an operation's rate grow where nobody has set a ceiling."""
    return governor.Bucket("", "", operation).budget.ceiling


def problems(account: Account | None, region: str, operation: str, per_second: float | None) -> dict[str, str]:
    """By field, in words, what is wrong with a ceiling; empty if all is well."""
    found: dict[str, str] = {}
    if account is None:
        found["account"] = "Choose an account of the list."
    elif not region:
        found["region"] = "Choose a region of the account."
    elif operation and operation.startswith("iam:") != (region == GLOBAL):
        found["region"] = f"IAM has one bucket for all regions: choose {GLOBAL} for it, and for nothing else."
    elif region != GLOBAL and region not in account.regions.values_list("name", flat=True):
        found["region"] = f"FleetOps has no region {region} in {account}."
    if operation not in OPERATIONS:
        named = f"FleetOps never calls {operation}. " if operation else ""
        found["operation"] = f"{named}Choose an operation of the list, such as ssm:StartSession."
    if per_second is None or not math.isfinite(per_second) or not LEAST <= per_second <= MOST:
        found["per_second"] = f"Give a number from {LEAST:g} to {MOST:,.0f} calls a second."
    return found


def set_ceiling(
    account: Account, region: str, operation: str, per_second: float, *, actor: Any, now: datetime
) -> CallCeiling:
    """Hold the calls of an operation to `per_second` (rounded to hundredths), from the moment that this commits.

    Raises UserError, by field, for what cannot be.
    """
    if found := problems(account, region, operation, per_second):
        error = UserError(" ".join(found.values()))
        error.fields = found
        raise error
    per_second = round(per_second, 2)
    with transaction.atomic():
        fresh = {"set_by": str(actor), "set_at": now}
        CallCeiling.objects.get_or_create(account=account, region=region, operation=operation, defaults=fresh)
        ceiling = CallCeiling.objects.select_for_update().get(account=account, region=region, operation=operation)
        before = ceiling.per_second
        if before != per_second:
            _change(ceiling, per_second, actor, now)
            _record("inventory.ceiling.set", ceiling, before, actor)
        transaction.on_commit(partial(tell, [ceiling.pk]))  # also if it says nothing new: Valkey may have lost it
    return ceiling


def take_away(ceiling: CallCeiling, *, actor: Any, now: datetime) -> None:
    """Hold the calls to no ceiling of ours any more. Raises UserError if somebody else was faster."""
    with transaction.atomic():
        ceiling = (
            CallCeiling.objects.select_for_update()
            .filter(pk=ceiling.pk)
            .exclude(per_second=None)
            .order_by("pk")
            .first()
        )
        if ceiling is None:
            raise UserError("This ceiling has been taken away already.")
        before = ceiling.per_second
        _change(ceiling, None, actor, now)
        _record("inventory.ceiling.remove", ceiling, before, actor)
        transaction.on_commit(partial(tell, [ceiling.pk]))


def tell(pks: Iterable[Any] | None = None) -> None:
    """Tell the governor what the rows say; of `pks` alone, if they are given.

    Told again it holds what it held, so that nothing need be known of what Valkey still has. While Valkey is away
    nobody is told, and the next round does it.
    """
    rows = CallCeiling.objects.select_related("account").order_by("pk")
    try:
        for row in rows if pks is None else rows.filter(pk__in=pks):
            governor.set_ceiling(row.account.account_id, row.region, row.operation, row.per_second)
            same = CallCeiling.objects.filter(pk=row.pk, set_at=row.set_at)  # unless it was changed meanwhile
            if row.per_second is None:
                same.delete()
            elif row.told_at is None:
                same.update(told_at=clock_now())
    except Unavailable as error:
        logger.warning("ceilings not told reason=%s", error)


def lift_strays() -> None:
    """Take away from the governor what no row says: a ceiling whose account was removed while Valkey was away."""
    numbers = list(Account.objects.values_list("account_id", flat=True))
    try:
        uses = governor.use(numbers, minutes=1)
    except Unavailable:
        return
    strays = {(use.account_id, use.region, use.operation) for use in uses if use.limit is not None}
    if strays:  # asked after the governor, so that what was set meanwhile is among the rows
        strays -= set(CallCeiling.objects.values_list("account__account_id", "region", "operation"))
    for place in strays:
        _forget(*place)
        logger.warning("ceiling lifted that no row says account=%s region=%s operation=%s", *place)


def let_go(account: Account) -> None:
    """Have the governor forget the ceilings of an account that is being removed, once that has committed."""
    for region, operation in account.call_ceilings.values_list("region", "operation"):
        transaction.on_commit(partial(_forget, account.account_id, region, operation))


def _forget(*place: str) -> None:
    with contextlib.suppress(Unavailable):  # `lift_strays` does it, should that account be linked again
        governor.set_ceiling(*place, None)


def _change(ceiling: CallCeiling, per_second: float | None, actor: Any, now: datetime) -> None:
    ceiling.per_second, ceiling.set_by, ceiling.set_at, ceiling.told_at = per_second, str(actor), now, None
    ceiling.save(update_fields=["per_second", "set_by", "set_at", "told_at"])


def _record(action: str, ceiling: CallCeiling, before: float | None, actor: Any) -> None:
    record(action, actor=actor, target=ceiling, operation=ceiling.operation, before=before, after=ceiling.per_second)
    logger.info(
        "ceiling changed account=%s region=%s operation=%s per_second=%s",
        *ceiling.place,
        ceiling.operation,
        ceiling.per_second,
    )
