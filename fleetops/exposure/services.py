"""Closing SSH and RDP in security groups, and putting the rules there again as they were.

A closing is a row before AWS is asked. What a rule is makes it findable: a group has no two that let the same source in
by the same protocol and ports. So whoever goes on after a crash reads the group, and does only what is left to do.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from django.db import IntegrityError, transaction

from fleetops.audit.record import deny, record
from fleetops.aws import security_groups
from fleetops.aws.clients import AccountAccess
from fleetops.aws.errors import AwsError, Unavailable
from fleetops.aws.security_groups import InboundRule
from fleetops.clock import during
from fleetops.clock import now as clock_now
from fleetops.errors import Denied, UserError
from fleetops.identity.models import User
from fleetops.inventory.models import Instance
from fleetops.transitions import LostRace, move

from . import grades, reading
from .models import CLOSE_PERMISSION, Closing, Group
from .reading import CLAIM, SESSION_NAME
from .states import CLOSING_MOVES, UNDER_WAY, ClosingState

logger = logging.getLogger(__name__)

MOST_GROUPS: Final = 200  # of one request
_REST: Final = timedelta(seconds=5)  # real seconds until AWS is asked again
_BARRED: Final = "Closing and re-opening ports needs the permission “May close SSH and RDP in security groups”."


# --- asking ----------------------------------------------------------------------------------------------------------


def close(
    groups: Sequence[Group], *, actor: User, reason: str = "", rule_ids: Mapping[str, Sequence[str]]
) -> list[Closing]:
    """Have rules of groups taken away: `rule_ids` by the group's id, as they were shown. Each group by itself.

    Raises Denied, audited; UserError if nothing is left to close of a group, or it is being changed: then of none.
    """
    _require(actor, groups)
    if len(groups) > MOST_GROUPS:
        raise UserError(f"At most {MOST_GROUPS} groups at once.")
    made = []
    try:
        with transaction.atomic():
            for group in groups:
                shown = set(rule_ids.get(str(group.pk), ()))
                rules = [rule for rule in group.inbound() if rule.rule_id in shown]
                if not rules or len(rules) != len(shown):
                    raise UserError(f"The rules of {group} are others by now than the page showed; look at it again.")
                made.append(_make(group, rules, actor=actor, reason=reason))
    except IntegrityError:
        raise UserError("One of these groups is being changed just now; wait until that has ended.") from None
    return made


def _make(group: Group, rules: list[InboundRule], *, actor: User, reason: str) -> Closing:
    closing = Closing.objects.create(
        account=group.account,
        region=group.region,
        group_id=group.group_id,
        group_name=group.name,
        rules=[rule.as_json() for rule in rules],
        reason=reason[:256],
        asked_by=actor,
        asked_by_name=actor.username,
    )
    record("exposure.close", actor=actor, target=closing, reason=reason[:256], before=_told(rules), after=[])
    return closing


def reopen(closing: Closing, *, actor: User) -> None:
    """Have the rules put there again, as they were. Raises Denied, audited; UserError if they are not closed."""
    _require(actor, [closing])
    try:
        with transaction.atomic():
            if closing.state != ClosingState.CLOSED:
                raise UserError(f"{closing} is not closed by this; there is nothing to open again.")
            changes = {"reopened_by_name": actor.username, "words": "", "claimed_until": None}
            move(closing, ClosingState.REOPENING, CLOSING_MOVES, **changes)
            record("exposure.reopen", actor=actor, target=closing, before=[], after=_told(closing.inbound()))
    except LostRace:
        raise UserError(f"{closing} was changed by somebody else just now; look at it again.") from None
    except IntegrityError:
        raise UserError(f"{closing} is being changed just now; wait until that has ended.") from None


def locked_out(group: Group) -> list[Instance]:
    """Instances that nobody would reach any more by Session Manager either: those that are not Online now."""
    return list(group.instances.present().exclude(ping_status="Online").order_by("name", "instance_id"))


def _require(actor: User, rows: Sequence[Group | Closing]) -> None:
    if actor.has_perm(CLOSE_PERMISSION):
        return
    for row in rows:
        deny("exposure.refuse", actor=actor, target=row, reason="may not")
    raise Denied(_BARRED)


def _told(rules: Sequence[InboundRule]) -> list[dict[str, str]]:
    """Rules as the audit log keeps them."""
    return [
        {
            "rule": rule.rule_id,
            "opens": grades.opens(rule),
            "to": grades.source(rule),
            "description": rule.description,
        }
        for rule in rules
    ]


# --- doing -----------------------------------------------------------------------------------------------------------


def claim_due(*, at: datetime) -> list[str]:
    """Take what waits, or was left by a worker that died."""
    waiting = Closing.objects.filter(reading.free(at), state__in=UNDER_WAY).order_by("id")
    return [str(pk) for pk in waiting.values_list("pk", flat=True) if claim(pk, at=at)]


def claim(pk: UUID | str, *, at: datetime) -> bool:
    rows = Closing.objects.filter(reading.free(at), pk=pk, state__in=UNDER_WAY)
    return bool(rows.update(claimed_until=at + during(CLAIM)))


def work(pk: UUID | str) -> None:
    """Bring one that is claimed to its end, or as far as AWS lets it. Safe to call again at any time."""
    closing = Closing.objects.select_related("account", "region").get(pk=pk)
    try:
        if closing.state == ClosingState.CLOSING:
            _close(closing)
        elif closing.state == ClosingState.REOPENING:
            _reopen(closing)
    except LostRace:
        logger.info("closing moved by another worker closing=%s", closing.pk)
    except Unavailable as error:
        # Also where its outcome is unknown: the next look tells what was done.
        later = clock_now() + during(_REST)
        Closing.objects.filter(pk=closing.pk).update(claimed_until=later, words=f"{error} It is tried again."[:512])
        logger.warning("closing held up closing=%s code=%s", closing.pk, error.code)
    except AwsError as error:
        closing.refresh_from_db()
        is_certain = error.operation in {"ec2:RevokeSecurityGroupIngress", "ec2:AuthorizeSecurityGroupIngress"}
        if closing.called_at is not None and not is_certain:
            # A look was refused: what was asked for before may have been done.
            later = clock_now() + during(_REST)
            words = f"{error} It is tried again: it may have been done already."
            Closing.objects.filter(pk=closing.pk).update(claimed_until=later, words=words[:512])
            return
        _refused(closing, str(error))


def _close(closing: Closing) -> None:
    now_there = _there(closing)
    wanted = closing.inbound()
    changed = [rule for rule in wanted if (held := now_there.get(rule.rule_id)) and held.key != rule.key]
    left = [rule for rule in wanted if rule.rule_id in now_there]
    if changed:
        _refused(closing, "A rule was changed since it was shown. Nothing was taken away; look at it again.")
        return
    if closing.called_at is None:
        if not left:
            _refused(closing, "Somebody else has taken these rules away already; there is nothing to open again.")
            return
        # Only what is there is ours to take away, and so to put there again.
        closing.rules = [rule.as_json() for rule in left]
        closing.called_at = clock_now()
        Closing.objects.filter(pk=closing.pk).update(rules=closing.rules, called_at=closing.called_at)
    if left:
        ids = [rule.rule_id for rule in left]
        try:
            security_groups.revoke(*_where(closing), closing.group_id, ids, session_name=SESSION_NAME)
        except AwsError as error:
            if not error.code.endswith(".NotFound"):
                raise  # else another worker, whose claim had ended, was quicker: what AWS shows decides
        if set(ids) & _there(closing).keys():  # EC2 is eventually consistent: what it shows decides
            raise Unavailable("NotYet", "AWS still shows the rules.", operation="ec2:RevokeSecurityGroupIngress")
    _end(closing, ClosingState.CLOSED, "exposure.closed", before=_told(closing.inbound()), after=[])


def _reopen(closing: Closing) -> None:
    held = {rule.key for rule in _there(closing).values()}
    for rule in closing.inbound():
        if rule.key in held:
            continue  # put there before a crash, or by somebody else
        try:
            security_groups.authorize(*_where(closing), rule, session_name=SESSION_NAME)
        except AwsError as error:
            if error.code != "InvalidPermission.Duplicate":
                raise
    now_there = {rule.key: rule for rule in _there(closing).values()}
    missing = [rule for rule in closing.inbound() if rule.key not in now_there]
    if missing:
        raise Unavailable("NotYet", "AWS does not show the rules yet.", operation="ec2:AuthorizeSecurityGroupIngress")
    after = _told([now_there[rule.key] for rule in closing.inbound()])
    _end(closing, ClosingState.OPEN, "exposure.reopened", before=[], after=after)


def _there(closing: Closing) -> dict[str, InboundRule]:
    """The group's inbound rules as AWS shows them now, by id."""
    found = security_groups.rules(*_where(closing), [closing.group_id], session_name=SESSION_NAME)
    return {rule.rule_id: rule for rule in found}


def _where(closing: Closing) -> tuple[AccountAccess, str]:
    return closing.account.access(), closing.region.name


def _end(closing: Closing, state: ClosingState, action: str, **details: object) -> None:
    moment = clock_now()
    stamp = {"closed_at": moment} if state == ClosingState.CLOSED else {"reopened_at": moment}
    with transaction.atomic():
        move(closing, state, CLOSING_MOVES, words="", claimed_until=None, **stamp)
        record(action, actor="worker", target=closing, **details)
    reading.ask_again([closing.region], at=moment)
    logger.info("closing ended closing=%s state=%s", closing.pk, state)


def _refused(closing: Closing, why: str) -> None:
    """Nothing was taken away; or, of a re-opening, it stays closed until somebody asks again."""
    is_closing = closing.state == ClosingState.CLOSING
    to, action = (
        (ClosingState.FAILED, "exposure.close.fail") if is_closing else (ClosingState.CLOSED, "exposure.reopen.fail")
    )
    try:
        with transaction.atomic():
            move(closing, to, CLOSING_MOVES, words=why[:512], claimed_until=None)
            record(action, actor="worker", target=closing, reason=why[:512])
    except LostRace:
        logger.info("closing moved by another worker closing=%s", closing.pk)
        return
    reading.ask_again([closing.region], at=clock_now())
    logger.warning("closing refused closing=%s why=%s", closing.pk, why)
