"""Denying AWS credentials that were issued before a moment, as the IAM console's "Revoke sessions" does.

What FleetOps assumes for a person lives for up to an hour, in the memory of FleetOps's own processes, and never leaves
them. Whoever took it from there loses it by an inline policy of the role that denies everything to tokens issued
earlier (aws:TokenIssueTime). Of one person's alone: their RoleSessionName is in aws:userid. FleetOps may do that only
where the account lets it (iam:PutRolePolicy), and says so where it may not.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q

from fleetops.audit.record import Target, deny, record
from fleetops.aws import iam
from fleetops.aws.clients import ROLE_SECONDS, role_session_name
from fleetops.aws.errors import AwsError
from fleetops.clock import now
from fleetops.errors import Denied, UserError
from fleetops.identity.models import User
from fleetops.inventory.models import Account
from fleetops.policy.models import Rule

from .models import Grant, TerminalSession, TokenDenial

logger = logging.getLogger(__name__)

END_PERMISSION = "sessions_app.end_terminalsession"
POLICY_NAME = "AWSRevokeOlderSessions"  # the name that the IAM console gives it
LIFE = timedelta(seconds=ROLE_SECONDS)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has become of one role's denial, in words."""

    is_done: bool
    text: str


@dataclass(frozen=True, slots=True)
class RoleRow:
    """A role that sessions are opened under."""

    account: Account
    arn: str
    rules: tuple[str, ...]  # names of the rules that give it; none: it is the account's own
    denials: tuple[TokenDenial, ...]

    @property
    def is_own(self) -> bool:
        return not self.rules


def policy_document(before: datetime, user_name: str = "") -> dict[str, Any]:
    """Deny everything to tokens issued before that moment: of one person, or of all."""
    condition: dict[str, Any] = {"DateLessThan": {"aws:TokenIssueTime": before.strftime("%Y-%m-%dT%H:%M:%SZ")}}
    if user_name:
        condition["StringLike"] = {"aws:userid": f"*:{role_session_name(user_name)}"}
    statement = {"Effect": "Deny", "Action": ["*"], "Resource": ["*"], "Condition": condition}
    return {"Version": "2012-10-17", "Statement": [statement]}


def policy_name(user_name: str = "") -> str:
    return f"{POLICY_NAME}-{role_session_name(user_name)}" if user_name else POLICY_NAME


def may_deny(user: User) -> bool:
    return user.has_perm(END_PERMISSION)


# Deeds of people


def deny_older(grant: Grant, *, actor: User) -> list[Outcome]:
    """Deny the tokens of the grant's user that were issued until now, under each role that it was used with.

    Raises Denied, audited.
    """
    places = _places(grant)
    if not may_deny(actor):
        target = Target(grant._meta.label_lower, str(grant.pk), str(grant))
        deny("sessions.tokens.deny.refuse", actor=actor, target=target, reason="may not end sessions of others")
        raise Denied("Denying older tokens takes the permission “May end anybody's session”.")
    if not places:
        return [Outcome(False, "No session was opened by this grant, so there is no token to deny.")]
    return [deny_role(account, arn, user=grant.user, actor=actor) for account, arn in places]


def allow_again(grant: Grant, *, actor: User) -> list[Outcome]:
    """Take away the standing denials of the grant's user, under the roles that it was used with."""
    if not may_deny(actor):
        raise Denied("Denying older tokens takes the permission “May end anybody's session”.")
    return [allow_role(each, actor=actor) for each in standing(grant)["denials"]]


def deny_role(account: Account, role_arn: str, *, user: User | None, actor: User) -> Outcome:
    """Deny tokens of `role_arn` that were issued until now: those of `user`, or everybody's.

    Raises Denied, audited, if `actor` may not end sessions of others; UserError for everybody's of the account's own
    role, under which FleetOps itself reads the fleet.
    """
    target = Target("iam.role", role_arn, role_arn.rpartition("/")[2])
    name = "" if user is None else user.username
    where = {"account_id": account.account_id}
    if not may_deny(actor):
        deny(
            "sessions.tokens.deny.refuse", actor=actor, target=target, reason="may not end sessions of others", **where
        )
        raise Denied("Denying older tokens takes the permission “May end anybody's session”.")
    if user is None and role_arn == account.role_arn:
        raise UserError("FleetOps itself works under the account's own role: deny the tokens of one person.")
    # Whole seconds, as tokens bear them: one issued in this second is denied too.
    before = (now() + timedelta(seconds=1)).replace(microsecond=0)
    try:
        iam.put_role_policy(
            account.access(),
            _region(account),
            role_arn=role_arn,
            policy_name=policy_name(name),
            document=json.dumps(policy_document(before, name)),
            session_name=actor.username,
        )
    except AwsError as error:
        record(
            "sessions.tokens.deny", actor=actor, target=target, outcome="failed", reason=str(error), user=name, **where
        )
        return Outcome(False, f"Older tokens of {target.name} could not be denied. {error}")
    with transaction.atomic():
        standing_now = TokenDenial.objects.filter(role_arn=role_arn, user=user, removed_at=None)
        standing_now.update(removed_at=before, removed_by=actor.username)
        TokenDenial.objects.create(
            account_id=account.account_id,
            role_arn=role_arn,
            user=user,
            user_name=name,
            denied_before=before,
            created_by=actor.username,
        )
        record("sessions.tokens.deny", actor=actor, target=target, user=name, before=before.isoformat(), **where)
    logger.info("older tokens denied role=%s user=%s", role_arn, name or "everybody")
    whose = f"of {name} " if name else ""
    return Outcome(True, f"AWS denies tokens {whose}under {target.name} that were issued before {before:%H:%M:%S} UTC.")


def allow_role(denial: TokenDenial, *, actor: User) -> Outcome:
    """Take a standing denial away. Raises Denied, audited."""
    target = Target("iam.role", denial.role_arn, denial.role_arn.rpartition("/")[2])
    where = {"account_id": denial.account_id}
    if not may_deny(actor):
        deny(
            "sessions.tokens.deny.refuse", actor=actor, target=target, reason="may not end sessions of others", **where
        )
        raise Denied("Denying older tokens takes the permission “May end anybody's session”.")
    account = Account.objects.filter(account_id=denial.account_id).first()
    if account is None:
        return Outcome(False, f"Account {denial.account_id} is no longer linked to FleetOps.")
    try:
        iam.delete_role_policy(
            account.access(),
            _region(account),
            role_arn=denial.role_arn,
            policy_name=policy_name(denial.user_name),
            session_name=actor.username,
        )
    except AwsError as error:
        return Outcome(False, f"The denial at {target.name} could not be taken away. {error}")
    with transaction.atomic():
        changed = TokenDenial.objects.filter(pk=denial.pk, removed_at=None)
        if changed.update(removed_at=now(), removed_by=actor.username):
            record("sessions.tokens.allow", actor=actor, target=target, user=denial.user_name, **where)
    return Outcome(True, f"The denial of older tokens at {target.name} is taken away.")


# For pages


def standing(grant: Grant) -> dict[str, Any]:
    """What the page of a grant says of tokens: `roles` that it was used with, standing `denials`, `minutes` of life."""
    places = _places(grant)
    arns = [arn for _, arn in places]
    denials = TokenDenial.objects.filter(role_arn__in=arns, user=grant.user, removed_at=None)
    return {"roles": arns, "denials": list(denials), "minutes": int(LIFE.total_seconds() // 60)}


def roles(accounts: Iterable[Account]) -> list[RoleRow]:
    """The roles that sessions are opened under: each account's own, and those that rules give."""
    found: dict[tuple[str, str], list[str]] = {}
    by_id = {account.account_id: account for account in accounts}
    for account in by_id.values():
        if account.role_arn:
            found[account.account_id, account.role_arn] = []
    for arn, name in Rule.objects.exclude(role_arn="").values_list("role_arn", "name"):
        if (account_id := arn.split(":")[4]) in by_id:
            found.setdefault((account_id, arn), []).append(name)
    denials = list(TokenDenial.objects.filter(removed_at=None))
    return [
        RoleRow(by_id[account_id], arn, tuple(names), tuple(each for each in denials if each.role_arn == arn))
        for (account_id, arn), names in sorted(found.items())
    ]


# For who assumes roles


def issued_after(session: TerminalSession, role_arn: str) -> str:
    """Since when this person's tokens of the role have to be; empty if none is denied. Kept clients go by it."""
    mine = Q(user_id=session.user_id) | Q(user=None)
    latest = TokenDenial.objects.filter(mine, role_arn=role_arn).order_by("-denied_before").first()
    return "" if latest is None else latest.denied_before.isoformat()


def _places(grant: Grant) -> list[tuple[Account, str]]:
    used = set(TerminalSession.objects.filter(grant=grant).values_list("account_id", "role_arn"))
    accounts = {each.account_id: each for each in Account.objects.filter(account_id__in=[pk for pk, _ in used])}
    places = {(pk, arn or accounts[pk].role_arn) for pk, arn in used if pk in accounts}
    return [(accounts[pk], arn) for pk, arn in sorted(places) if arn]


def _region(account: Account) -> str:
    region = account.regions.order_by("name").values_list("name", flat=True).first()
    return region or "us-east-1"  # IAM is one for all regions
