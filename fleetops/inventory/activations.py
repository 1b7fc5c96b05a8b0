"""Machines outside EC2: activations made and taken away, the machines that came by them, and their end as nodes.

An activation is AWS's, and is read when somebody looks. Its code is handed to who made it, once; nothing here keeps it.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any
from uuid import uuid4

from django.db import DatabaseError, transaction
from django.views.decorators.debug import sensitive_variables

from fleetops.audit.models import AuditEvent, Outcome
from fleetops.audit.record import Target, record
from fleetops.aws import activations as aws
from fleetops.aws.activations import SERVICE, ActivationRecord, MadeActivation
from fleetops.aws.errors import AccessDenied, AwsError, Unavailable
from fleetops.aws.records import ManagedInstance
from fleetops.clock import now as clock_now
from fleetops.errors import UserError

from .activation_rules import Wanted, problems
from .models import Account, Instance, Region
from .services import SESSION_NAME, refresh_instances

logger = logging.getLogger(__name__)

MOST_LISTED = 500  # activations of a region
MOST_SHOWN = 100  # machines of one activation


@dataclass(frozen=True, slots=True)
class Listed:
    """One activation, as a row of the list."""

    region: Region
    record: ActivationRecord
    made_by: str  # as far as the audit log knows


@dataclass(frozen=True, slots=True)
class Listing:
    """What the regions told, the newest first, and which of them could not be read, and why."""

    rows: list[Listed] = field(default_factory=list)
    failing: list[tuple[Region, str]] = field(default_factory=list)
    cut: list[Region] = field(default_factory=list)  # that have more than MOST_LISTED


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Who has come by an activation. `record` is None for one that AWS does not have (any more)."""

    record: ActivationRecord | None = None
    nodes: Sequence[ManagedInstance] = ()
    instances: dict[str, Instance] = field(default_factory=dict)  # their rows, by AWS's id
    error: str = ""


# --- making one ------------------------------------------------------------------------------------------------------


@sensitive_variables("made")
def make(region: Region, wanted: Wanted, *, actor: Any) -> MadeActivation:
    """Have AWS make an activation in `region`. Whoever gets its code from here shows it once and forgets it.

    Raises UserError for what cannot be, and for a role that is not there or that SSM may not assume; AwsError if AWS
    refuses. Nothing is left behind then, unless the error says so.
    """
    if found := problems(wanted):
        raise UserError(" ".join(found.values()))
    account, place = region.account, f"{region.account} in {region.name}"
    if not (account.enabled and region.enabled):
        raise UserError(f"FleetOps does not read {place}, so the machine would not be seen. Turn it on first.")
    who = actor.get_username()
    about = _facts(wanted)
    try:
        _check_role(region, wanted.role)
        made, ends = _create(region, wanted, who)
    except AwsError as error:
        _record_failure("inventory.activation.create", region, Target("inventory.activation", "", wanted.name), actor,
                        error, **about)  # fmt: skip
        raise
    target = Target("inventory.activation", made.activation_id, wanted.name or made.activation_id)
    try:
        record(
            "inventory.activation.create",
            actor=actor,
            target=target,
            account_id=account.account_id,
            region=region.name,
            expires_at=ends,
            **about,
        )
    except DatabaseError:
        # What is not in the audit log must not let anybody in.
        _take_back(region, made.activation_id, who)
        raise
    logger.info(
        "activation made activation=%s account=%s region=%s", made.activation_id, account.account_id, region.name
    )
    return made


@sensitive_variables("made")
def _create(region: Region, wanted: Wanted, who: str) -> tuple[MadeActivation, datetime]:
    """One attempt; where its outcome is not known, what it may have made is looked for and taken away."""
    marker = f"fleetops:{uuid4()}"
    description = f"{marker} by {who[:64]}" + (f": {wanted.note}" if wanted.note else "")
    ends = clock_now() + timedelta(days=wanted.days)
    access = region.account.access()
    try:
        made = aws.create_activation(
            access,
            region.name,
            role=wanted.role,
            name=wanted.name,
            description=description,
            limit=wanted.limit,
            expires_at=ends,
            tags=wanted.tags,
            session_name=who,
            source_identity=who,
        )
    except Unavailable as error:
        if not error.is_outcome_unknown:
            raise
        raise _without_trace(region, marker, who, error) from None
    return made, ends


def _without_trace(region: Region, marker: str, who: str, error: Unavailable) -> Unavailable:
    """`error`, with what became of the activation whose code nobody has."""
    try:
        lost = [
            each.activation_id
            for each in aws.activations(region.account.access(), region.name, session_name=SESSION_NAME)
            if each.description.startswith(marker)
        ]
        for activation_id in lost:
            aws.delete_activation(
                region.account.access(), region.name, activation_id, session_name=who, source_identity=who
            )
    except AwsError:
        lost = []
    if lost:
        text = f"{error} AWS had made the activation; nobody has its code, and it is deleted again."
    else:
        text = (
            f"{error} Should AWS have made the activation all the same, the list shows it as {marker}; nobody has its "
            "code: delete it."
        )
    told = Unavailable(error.code, error.message, operation=error.operation, text=text)
    told.is_outcome_unknown, told.is_throttled = True, error.is_throttled
    return told


def _take_back(region: Region, activation_id: str, who: str) -> None:
    try:
        aws.delete_activation(
            region.account.access(), region.name, activation_id, session_name=who, source_identity=who
        )
    except AwsError as error:
        logger.error(
            "activation that is not in the audit log could not be deleted activation=%s error=%s", activation_id, error
        )


def _check_role(region: Region, role: str) -> None:
    """Say what is wrong with a role in more words than AWS does. Raises UserError; AWS itself asks again."""
    try:
        trusts = aws.trusts_ssm(region.account.access(), region.name, role, session_name=SESSION_NAME)
    except AccessDenied as error:
        if error.cause != "permission":
            raise
        return  # we may not look
    if trusts is None:
        raise UserError(
            f"There is no IAM role {role} in account {region.account.account_id}. Give one that SSM may assume and "
            "that has the policy AmazonSSMManagedInstanceCore; AWS's console makes one under Systems Manager, Hybrid "
            "Activations."
        )
    if not trusts:
        raise UserError(
            f"SSM may not assume the role {role}, so a machine would get no credentials. Its trust policy needs a "
            f"statement that allows sts:AssumeRole to the service {SERVICE}; a role for EC2 instances has another."
        )


# --- looking ---------------------------------------------------------------------------------------------------------


def listing(regions: Iterable[Region]) -> Listing:
    """The activations of `regions`, as AWS has them now: one call for each region and each 50 of them."""
    found = Listing()
    for region in regions:
        try:
            told = aws.activations(region.account.access(), region.name, session_name=SESSION_NAME)
            records = list(islice(told, MOST_LISTED + 1))
        except AwsError as error:
            found.failing.append((region, str(error)))
            continue
        if len(records) > MOST_LISTED:
            found.cut.append(region)
        makers = _makers(region, [each.activation_id for each in records])
        found.rows.extend(Listed(region, each, makers.get(each.activation_id, "")) for each in records[:MOST_LISTED])
    found.rows.sort(key=lambda row: (row.record.created_at is None, row.record.created_at or clock_now()), reverse=True)
    return found


def arrivals(region: Region, activation_id: str, *, now: datetime) -> Arrivals:
    """Who has come by an activation, as AWS has it now; who is new, or has changed, is put into the fleet too."""
    access = region.account.access()
    try:
        told = aws.activations(access, region.name, session_name=SESSION_NAME, activation_ids=[activation_id])
        # AWS may leave a filter out of account that it does not know; another activation is never shown for this one.
        found = next((each for each in told if each.activation_id == activation_id), None)
        nodes = aws.nodes_of(access, region.name, activation_id, session_name=SESSION_NAME, most=MOST_SHOWN)
        ids = [node.instance_id for node in nodes]
        rows = _rows(region, ids)
        stale = [
            node.instance_id
            for node in nodes
            if node.instance_id not in rows or rows[node.instance_id].ping_status != node.ping_status
        ]
        if stale:
            refresh_instances(region, stale, now=now)
            rows = _rows(region, ids)
    except AwsError as error:
        return Arrivals(error=str(error))
    return Arrivals(found, nodes, rows)


def maker_of(region: Region, activation_id: str) -> str:
    """Who made it, as far as the audit log knows."""
    return _makers(region, [activation_id]).get(activation_id, "")


def _rows(region: Region, ids: Sequence[str]) -> dict[str, Instance]:
    rows = region.instances.filter(instance_id__in=ids, gone_at=None).select_related("account", "region")
    return {row.instance_id: row for row in rows}


def _makers(region: Region, ids: Sequence[str]) -> dict[str, str]:
    made = AuditEvent.objects.filter(
        action="inventory.activation.create",
        outcome=Outcome.DONE,
        account_id=region.account.account_id,
        region=region.name,
        target_id__in=ids,
    )
    return dict(made.values_list("target_id", "actor_name"))


# --- the ends --------------------------------------------------------------------------------------------------------


def delete(region: Region, activation_id: str, *, actor: Any) -> None:
    """Take an activation away: nobody registers by it any more, and who did stays. Raises UserError."""
    who, target = actor.get_username(), Target("inventory.activation", activation_id, activation_id)
    try:
        aws.delete_activation(
            region.account.access(), region.name, activation_id, session_name=who, source_identity=who
        )
    except AwsError as error:
        if error.code in {"InvalidActivation", "InvalidActivationId"}:
            raise UserError(
                f"{region.account} has no activation {activation_id} in {region.name}; somebody may have deleted it."
            ) from None
        _record_failure("inventory.activation.delete", region, target, actor, error)
        raise
    record(
        "inventory.activation.delete",
        actor=actor,
        target=target,
        account_id=region.account.account_id,
        region=region.name,
    )
    logger.info("activation deleted activation=%s account=%s", activation_id, region.account.account_id)


def deregister(instance: Instance, *, actor: Any) -> None:
    """End a hybrid node as one: its key and its credentials are good for nothing, and AWS lists it no more.

    Raises UserError for an instance of EC2, or one that is gone; AwsError if AWS refuses.
    """
    check_deregistrable(instance)
    who, region = actor.get_username(), instance.region
    try:
        aws.deregister(
            instance.account.access(), region.name, instance.instance_id, session_name=who, source_identity=who
        )
    except AwsError as error:
        if error.code == "InvalidInstanceId":
            raise UserError(
                f"{instance.account} does not have {instance.instance_id} in {region.name} any more. It leaves the "
                "fleet when the region is read next."
            ) from None
        _record_failure("inventory.instance.deregister", region, instance, actor, error)
        raise
    moment = clock_now()
    with transaction.atomic():
        Instance.objects.filter(pk=instance.pk, gone_at=None).update(gone_at=moment, changed_at=moment, ping_status="")
        record(
            "inventory.instance.deregister",
            actor=actor,
            target=instance,
            account_id=instance.account.account_id,
            region=region.name,
            instance_id=instance.instance_id,
        )
    logger.info("node deregistered instance=%s account=%s", instance.instance_id, instance.account.account_id)


def check_deregistrable(instance: Instance) -> None:
    """Raises UserError if there is nothing to deregister."""
    if not instance.is_hybrid:
        raise UserError(
            f"{instance} is an instance of EC2: it was not registered by an activation, and leaves the fleet when it "
            "is terminated."
        )
    if instance.gone_at is not None:
        raise UserError(f"{instance} is gone already: AWS lists it no more.")


def _record_failure(action: str, region: Region, target: Any, actor: Any, error: AwsError, **details: Any) -> None:
    record(
        action,
        actor=actor,
        target=target,
        outcome=Outcome.FAILED,
        reason=str(error),
        account_id=region.account.account_id,
        region=region.name,
        **details,
    )


def _facts(wanted: Wanted) -> dict[str, Any]:
    """What the audit log keeps of what was asked."""
    return {
        "iam_role": wanted.role,
        "limit": wanted.limit,
        "days": wanted.days,
        "tags": dict(wanted.tags),
        "note": wanted.note,
    }


def regions_of(account: Account | None = None) -> list[Region]:
    """The regions in which an activation can be made or looked for, of one account or of all."""
    regions = Region.objects.filter(enabled=True, account__enabled=True).select_related("account")
    return list(regions.filter(account=account) if account else regions)
