"""Bring privileges to AWS: a policy of our own on a role, with the instance and the end in its conditions.

The name of the policy has the lease's id in it: nobody else's is ever written or deleted, and one that was put there
before a crash is found again. All of it may be done again at any time.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import transaction
from django.db.models import F, Q

from fleetops.aws import iam, profiles, role_policies
from fleetops.aws.errors import AwsError, Unavailable
from fleetops.aws.regions import partition_of
from fleetops.clock import now
from fleetops.transitions import LostRace, move

from . import privilege
from .models import Carrier, Kind, RoleAttachment, RoleChange
from .reconcile import _pause, _record
from .services import SESSION_NAME
from .states import ATTACHMENT_MOVES, AttachmentState

logger = logging.getLogger(__name__)

S = AttachmentState
CLAIM: Final = timedelta(seconds=60)
_FULL: Final = frozenset({"LimitExceeded", "LimitExceededException"})
_HOPELESS: Final = frozenset({"NoSuchEntity", "MalformedPolicyDocument", "UnmodifiableEntity", "ValidationError"})


def due(*, at: datetime) -> list[RoleAttachment]:
    """Privileges to be put in place, renewed or taken away."""
    rows = RoleAttachment.objects.filter(
        Q(state__in=[S.PENDING, S.ENDING])
        | Q(state=S.ACTIVE, carried_until__isnull=False) & ~Q(carried_until=F("ends_at")),
        kind=Kind.PRIVILEGE,
        due_at__lte=at,
    )
    return list(rows.select_related("instance", "account", "region").order_by("due_at")[:200])


def bring(attachment: RoleAttachment) -> None:
    """One step of one privilege. What AWS refuses is told in its row, and tried again where that can help."""
    try:
        if attachment.state == S.ENDING:
            _take_away(attachment)
        else:
            _put(attachment)
    except AwsError as error:
        _failed(attachment, error)
    except LostRace:
        logger.info("privilege moved by another worker attachment=%s", attachment.pk)


def name_of(attachment: RoleAttachment) -> str:
    return f"fleetops-lease-{attachment.pk}"


def _put(attachment: RoleAttachment) -> None:
    access, region, until = attachment.account.access(), attachment.region.name, attachment.ends_at
    if until is None or until <= now():
        return  # note_ends moves it
    if not attachment.role_name:
        found = profiles.profile(access, region, attachment.profile_name, session_name=SESSION_NAME)
        if not found.role_names:
            _give_up(attachment, f"The instance profile {found.name} has no role any more.")
            return
        attachment.role_name = found.role_names[0]
        RoleAttachment.objects.filter(pk=attachment.pk).update(role_name=attachment.role_name)
    instance = attachment.instance.instance_id
    partition = partition_of(region)
    arn = f"arn:{partition}:ec2:{region}:{attachment.account.account_id}:instance/{instance}"
    text = privilege.bounded(attachment.policy, instance_arn=arn, until=until)
    if attachment.carrier == Carrier.INLINE:
        try:
            iam.put_role_policy(
                access,
                region,
                role_arn=attachment.role_name,
                policy_name=name_of(attachment),
                document=text,
                session_name=SESSION_NAME,
            )
        except AwsError as error:
            if error.code not in _FULL:
                raise
            # The role's inline policies are full: as a policy of its own. Written down first, so that its end finds it.
            attachment.carrier = Carrier.MANAGED
            RoleAttachment.objects.filter(pk=attachment.pk).update(carrier=Carrier.MANAGED)
    if attachment.carrier == Carrier.MANAGED:
        role_policies.put_managed(
            access,
            region,
            role=attachment.role_name,
            name=name_of(attachment),
            arn=_managed(attachment),
            text=text,
            session_name=SESSION_NAME,
        )
    with transaction.atomic():
        # It may have been ended, or extended again, while AWS was asked: the next look goes on from there.
        row = RoleAttachment.objects.select_for_update().get(pk=attachment.pk)
        row.carried_until, row.failures = until, 0
        row.due_at = now() if row.ends_at != until or row.state == S.ENDING else None
        row.save(update_fields=["carried_until", "failures", "due_at"])
        if row.state == S.PENDING:
            move(row, S.ACTIVE, ATTACHMENT_MOVES, applied_at=now(), words="")
            RoleChange.objects.create(
                instance=attachment.instance, privilege=f"+ {row.what}", by=row.asked_by_name, attachment=row
            )
            _record("roles.applied", row, policy=name_of(row))
    logger.info("privilege put attachment=%s role=%s", attachment.pk, attachment.role_name)


def _take_away(attachment: RoleAttachment) -> None:
    access, region = attachment.account.access(), attachment.region.name
    if attachment.role_name:
        asked = {"session_name": SESSION_NAME}
        iam.delete_role_policy(access, region, role_arn=attachment.role_name, policy_name=name_of(attachment), **asked)
        if attachment.carrier == Carrier.MANAGED:
            role_policies.drop_managed(access, region, role=attachment.role_name, arn=_managed(attachment), **asked)
    with transaction.atomic():
        move(attachment, S.ENDED, ATTACHMENT_MOVES, ended_at=now(), due_at=None, carried_until=None)
        if attachment.applied_at is not None:
            RoleChange.objects.create(
                instance=attachment.instance, privilege=f"− {attachment.what}", by="FleetOps", attachment=attachment
            )
        _record("roles.ended", attachment, policy=name_of(attachment))
    logger.info("privilege taken away attachment=%s role=%s", attachment.pk, attachment.role_name)


def _failed(attachment: RoleAttachment, error: AwsError) -> None:
    logger.warning("privilege not settled attachment=%s code=%s", attachment.pk, error.code)
    if attachment.state == S.PENDING and error.code in _HOPELESS and not isinstance(error, Unavailable):
        _give_up(attachment, str(error))
        return
    failures = attachment.failures + 1
    RoleAttachment.objects.filter(pk=attachment.pk).update(
        failures=failures, words=str(error)[:512], due_at=now() + _pause(failures)
    )


def _give_up(attachment: RoleAttachment, why: str) -> None:
    try:
        with transaction.atomic():
            if attachment.carrier == Carrier.MANAGED:
                # Its policy may be there already, on no role: it is taken away as at the lease's end.
                move(attachment, S.ENDING, ATTACHMENT_MOVES, due_at=now(), words=why[:512])
                return
            move(attachment, S.FAILED, ATTACHMENT_MOVES, ended_at=now(), due_at=None, words=why[:512])
            _record("roles.ended", attachment, reason=why)
    except LostRace:
        pass


def _managed(attachment: RoleAttachment) -> str:
    return role_policies.managed_arn(
        attachment.account.account_id, name_of(attachment), partition=partition_of(attachment.region.name)
    )


def details(attachment: RoleAttachment) -> dict[str, Any]:
    """What the page shows of the policy as it stands in AWS."""
    return {"name": name_of(attachment), "role": attachment.role_name, "carrier": attachment.carrier}
