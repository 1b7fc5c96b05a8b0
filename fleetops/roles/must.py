"""Rules that say which role an instance must have: who has another is reported, or gets it."""

from __future__ import annotations

import logging
from typing import Final

from django.db import IntegrityError, transaction
from django.db.models import F, Q, QuerySet

from fleetops.audit.record import record
from fleetops.aws import profiles
from fleetops.aws.errors import AwsError
from fleetops.aws.regions import partition_of
from fleetops.clock import now
from fleetops.inventory.models import Instance
from fleetops.inventory.selection import select
from fleetops.transitions import LostRace, move

from . import rules, services
from .models import Holding, Kind, Mode, RoleAttachment, RoleFinding, RoleRule
from .reconcile import _record
from .states import FINDING_MOVES, AttachmentState, FindingState

logger = logging.getLogger(__name__)

MOST_AT_ONCE: Final = 500  # instances of one rule that one look reports or repairs


def look() -> None:
    """Report or repair what rules want and AWS does not hold, from what the inventory knows; no call for each."""
    for rule, targets in rules.enabled():
        if rule.mode == Mode.MUST:
            matching = select(targets, Instance.objects.present().filter(ec2_state__in=["running", "stopped"]))
            _look(rule, matching)
    _close_stale()


def _look(rule: RoleRule, matching) -> None:
    ending = f"instance-profile/{rule.profile_name}"
    lacking = matching.exclude(profile_arn__endswith=f"/{rule.profile_name}").exclude(profile_arn__endswith=ending)
    # An instance that others have a lease on, or about which a question is open, is not the rule's business now.
    asked = RoleFinding.objects.filter(state=FindingState.OPEN).values("instance")
    # Somebody has said that what it has may stay, and it has that still.
    accepted = RoleFinding.objects.filter(
        state=FindingState.ACCEPTED, rule=rule, found=F("instance__profile_arn")
    ).values("instance")
    # The loop is at it, or has put the role there since the inventory last read the instance.
    held = (
        Q(due_at__lte=now())
        | Q(intent__isnull=False)
        | Q(
            Q(instance__ec2_read_at=None) | Q(looked_at__gte=F("instance__ec2_read_at")),
            believed__endswith=f"/{rule.profile_name}",
        )
    )
    under_way = Holding.objects.filter(held).values("instance")
    rows = lacking.exclude(pk__in=_busy().values("instance")).exclude(pk__in=under_way).exclude(pk__in=asked)
    rows = rows.exclude(pk__in=accepted).select_related("account", "region")
    there: dict[tuple[str, str], str] = {}
    for instance in rows[:MOST_AT_ONCE]:
        place = (instance.account.account_id, instance.region.name)
        if rule.is_repairing:
            if place not in there:
                there[place] = _arn(instance, rule.profile_name)
            if there[place]:
                _repair(rule, instance, there[place])
        else:
            _report(rule, instance)


def _busy() -> QuerySet[RoleAttachment]:
    """What a rule waits for: leases, and what is not yet settled. A permanent role that stands holds no rule up."""
    return RoleAttachment.objects.open().filter(kind=Kind.PROFILE).exclude(minutes=None, state=AttachmentState.ACTIVE)


def _arn(instance: Instance, name: str) -> str:
    """The profile's ARN in the instance's account; "" if it is not there or AWS does not tell: looked for again."""
    try:
        found = profiles.profile(
            instance.account.access(), instance.region.name, name, session_name=services.SESSION_NAME
        )
    except AwsError as error:
        logger.warning("no profile of a rule account=%s code=%s", instance.account.account_id, error.code)
        return ""
    return found.arn if len(found.role_names) == 1 else ""


def _repair(rule: RoleRule, instance: Instance, arn: str) -> None:
    moment = now()
    with transaction.atomic():
        held = services.hold(instance)
        if _busy().filter(instance=instance).exists():
            return
        attachment = RoleAttachment.objects.create(
            instance=instance,
            account=instance.account,
            region=instance.region,
            instance_name=str(instance),
            profile_arn=arn,
            rule=rule,
            rule_name=rule.name,
            reason=f"Rule “{rule.name}” says that it must have it.",
            asked_by_name="FleetOps",
            asked_at=moment,
        )
        services._begin(attachment, held, at=moment)
        _record("roles.ask", attachment, reason=attachment.reason, rule=rule.name)


def _report(rule: RoleRule, instance: Instance) -> None:
    expected = (
        f"arn:{partition_of(instance.region.name)}:iam::{instance.account.account_id}:"
        f"instance-profile/{rule.profile_name}"
    )
    try:
        with transaction.atomic():
            finding = RoleFinding.objects.create(
                instance=instance,
                account=instance.account,
                region=instance.region,
                rule=rule,
                expected=expected,
                found=instance.profile_arn,
            )
            record(
                "roles.finding.open",
                actor="worker",
                target=finding.instance,
                finding=str(finding.pk),
                reason=f"Rule “{rule.name}” says that it must have it.",
                expected=finding.expected_name,
                found=finding.found_name,
            )
    except IntegrityError:  # another worker was quicker
        return


def _close_stale() -> None:
    """Reports of rules that no longer hold."""
    for finding in RoleFinding.objects.filter(state=FindingState.OPEN, rule__isnull=False).select_related(
        "instance", "rule"
    )[:MOST_AT_ONCE]:
        is_there = finding.instance.profile_arn.rpartition("/")[2] == finding.rule.profile_name
        if is_there or finding.instance.gone_at is not None or not finding.rule.is_enabled:
            try:
                with transaction.atomic():
                    move(finding, FindingState.GONE, FINDING_MOVES, decided_at=now(), decided_by_name="AWS")
            except LostRace:
                continue
