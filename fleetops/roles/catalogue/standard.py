"""Making the standard role in an account, and putting it right: one step after the other, each found done or done.

Whoever dies in between is followed by another, who looks what is there. AWS's failure of a step is kept in words, and
asking again goes on from there.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.db import transaction
from django.db.models import Q

from fleetops.audit.record import deny, record
from fleetops.aws import iam, profiles, role_list
from fleetops.aws.errors import AwsError
from fleetops.aws.regions import partition_of
from fleetops.aws.role_list import RoleRecord
from fleetops.clock import during
from fleetops.clock import now as clock_now
from fleetops.errors import Denied, UserError
from fleetops.identity.models import User
from fleetops.inventory.models import Account
from fleetops.roles.models import RULE_PERMISSION
from fleetops.transitions import IllegalMove, LostRace, move

from . import services, words
from .models import Making, Role
from .services import SESSION_NAME
from .states import MAKING_MOVES, MakingState

logger = logging.getLogger(__name__)

CLAIM: Final = timedelta(seconds=120)  # real seconds; the task that holds it is killed before
ABOUT: Final = "Instances with it are managed by AWS Systems Manager. Made by FleetOps."
_BARRED: Final = (
    "Making and mending the standard role needs the permission “May change which instances may have which role”."
)


# --- asking ----------------------------------------------------------------------------------------------------------


def ask(accounts: Sequence[Account], *, actor: User) -> list[Making]:
    """Have the standard role made in these accounts; what is there already is taken as it is.

    Raises Denied, audited.
    """
    _require(actor, accounts)
    return [_ask(account, actor=actor, changes=[], puts_right=False) for account in accounts]


def ask_right(role: Role, shown: Sequence[str], *, actor: User) -> Making:
    """Have a standard role put right, by exactly the changes that were shown, in words.

    Raises Denied, audited; UserError if it differs otherwise by now, or not at all.
    """
    _require(actor, [role.account])
    found = [each for each in services.differences(role) if each.repair]
    if not found:
        raise UserError("It is as it should be, as it was last read.")
    if [each.repair for each in found] != list(shown):
        raise UserError("It differs otherwise by now than the page showed; look at it again.")
    return _ask(role.account, actor=actor, changes=[each.as_json() for each in found], puts_right=True)


def _require(actor: User, accounts: Sequence[Account]) -> None:
    if actor.has_perm(RULE_PERMISSION):
        return
    for account in accounts:
        deny("roles.standard.refuse", actor=actor, target=account, reason="may not", account_id=account.account_id)
    raise Denied(_BARRED)


def _ask(account: Account, *, actor: User, changes: list[dict[str, str]], puts_right: bool) -> Making:
    asked = {
        "changes": changes,
        "puts_right": puts_right,
        "steps": [],
        "words": "",
        "asked_by_name": actor.username,
        "asked_at": clock_now(),
        "claimed_until": None,
        "ended_at": None,
    }
    with transaction.atomic():
        making, is_new = Making.objects.get_or_create(account=account, defaults=asked)
        if not is_new:
            try:
                move(making, MakingState.WAITING, MAKING_MOVES, **asked)
            except (LostRace, IllegalMove):
                raise UserError(f"It is being made in {account} just now.") from None
        details = {"changes": [each["repair"] for each in changes]} if changes else {}
        record("roles.standard.right" if puts_right else "roles.standard.make", actor=actor, target=making, **details)
    return making


# --- doing -----------------------------------------------------------------------------------------------------------


def claim_due(*, at: datetime) -> list[str]:
    """Take what waits, or was left by a worker that died."""
    free = Q(claimed_until=None) | Q(claimed_until__lte=at) | Q(claimed_until__gt=at + 2 * during(CLAIM))
    taken = []
    for pk in Making.objects.filter(free, state__in=[MakingState.WAITING, MakingState.RUNNING]).values_list(
        "pk", flat=True
    ):
        if claim(pk, at=at):
            taken.append(str(pk))
    return taken


def claim(pk: UUID | str, *, at: datetime) -> bool:
    free = Q(claimed_until=None) | Q(claimed_until__lte=at) | Q(claimed_until__gt=at + 2 * during(CLAIM))
    open_ = Making.objects.filter(free, pk=pk, state__in=[MakingState.WAITING, MakingState.RUNNING])
    return bool(open_.update(claimed_until=at + during(CLAIM)))


def work(pk: UUID | str) -> None:
    """Carry out one that is claimed."""
    making = Making.objects.select_related("account").get(pk=pk)
    try:
        move(making, MakingState.RUNNING, MAKING_MOVES)
    except LostRace:
        return
    steps = Steps(making)
    try:
        steps.take()
    except (AwsError, UserError) as error:
        _end(making, MakingState.FAILED, f"{steps.at}: {error}" if isinstance(error, AwsError) else str(error))
        return
    _end(making, MakingState.DONE, "")


def _end(making: Making, state: MakingState, why: str) -> None:
    moment = clock_now()
    try:
        with transaction.atomic():
            move(making, state, MAKING_MOVES, words=why[:512], ended_at=moment, claimed_until=None)
            action = "roles.standard.done" if state == MakingState.DONE else "roles.standard.fail"
            record(action, actor="worker", target=making, reason=why[:512], steps=making.steps)
    except LostRace:
        return
    services.ask_again(making.account, at=moment)
    logger.info("standard role account=%s state=%s steps=%d", making.account.account_id, state, len(making.steps))


class Steps:
    """The steps in one account, in their order."""

    def __init__(self, making: Making) -> None:
        self.making = making
        self.at = "Reading the role"  # what is being done, for AWS's refusal
        self._access = making.account.access()
        self._region = services.region_of(making.account)
        self._partition = partition_of(self._region)

    def take(self) -> None:
        """Raises AwsError; UserError if the name is taken by something else."""
        role = self._read()
        if role is None:
            trust = json.dumps(words.trust(self._partition))
            self._do(
                f"Making the role {words.STANDARD}", role_list.create_role, trust=trust, tags=words.TAG, about=ABOUT
            )
            role = self._read()
            if role is None:
                raise UserError("IAM does not show the role that was just made; ask again in a minute.")
        elif not self.making.puts_right:
            self._refuse_strange(role)
        if self.making.puts_right:
            self._put_right(role)
        if not any(each.arn == words.core_arn(self._partition) for each in role.policies):
            arn = words.core_arn(self._partition)
            self._do(f"Attaching {words.CORE_POLICY}", role_list.attach, policy_arn=arn)
        if not words.TAG.items() <= role.tags.items():
            self._do("Tagging the role", role_list.tag_role, tags=words.TAG)
        self._fill_profile(role)

    def _read(self) -> RoleRecord | None:
        self.at = "Reading the role"
        return role_list.role(self._access, self._region, words.STANDARD, session_name=SESSION_NAME)

    def _refuse_strange(self, role: RoleRecord) -> None:
        """A role of that name is taken if instances can have it; one that is for something else is not ours."""
        if words.trusts_ec2(role.trust):
            return
        raise UserError(
            f"Account {self.making.account.account_id} has a role {words.STANDARD} that EC2 may not assume: it is for "
            "something else, and stays as it is. Rename it, or look at its differences and put it right."
        )

    def _put_right(self, role: RoleRecord) -> None:
        """Only what was shown, and is still so."""
        policies = [{"name": each.name, "arn": each.arn} for each in role.policies]
        still = words.differences(role.trust, policies, role.boundary_arn, self._partition)
        for each in still:
            if each.as_json() not in self.making.changes:
                continue
            if each.what == "trust":
                trust = json.dumps(words.trust(self._partition))
                self._do("Setting the trust policy", role_list.set_trust, trust=trust)
            elif each.what == "extra" and each.arn:
                self._do(f"Detaching {each.policy}", role_list.detach, policy_arn=each.arn)
            elif each.what == "extra":
                self.at = f"Deleting the inline policy {each.policy}"
                iam.delete_role_policy(
                    self._access,
                    self._region,
                    role_arn=words.STANDARD,
                    policy_name=each.policy,
                    session_name=SESSION_NAME,
                )
                self._done()

    def _fill_profile(self, role: RoleRecord) -> None:
        self.at = "Reading the instance profile"
        try:
            found = profiles.profile(self._access, self._region, words.STANDARD, session_name=SESSION_NAME)
        except AwsError as error:
            if error.code != "NoSuchEntity":
                raise
            self._do(f"Making the instance profile {words.STANDARD}", role_list.create_profile)
            held: tuple[str, ...] = ()
        else:
            held = found.role_names
        if held == (role.name,):
            return
        if held:
            raise UserError(
                f"The instance profile {words.STANDARD} of account {self.making.account.account_id} holds the role "
                f"{held[0]}: it is for something else, and stays as it is. Take that role out of it in IAM first."
            )
        self._do("Putting the role into the instance profile", role_list.fill_profile, role_name=role.name)

    def _do(self, what: str, call: Callable[..., None], **given: Any) -> None:
        self.at = what
        try:
            call(self._access, self._region, words.STANDARD, session_name=SESSION_NAME, **given)
        except AwsError as error:
            if error.code != "EntityAlreadyExists":  # another worker, or somebody else, was quicker: it is there
                raise
        self._done()

    def _done(self) -> None:
        self.making.steps = [*self.making.steps, self.at]
        Making.objects.filter(pk=self.making.pk).update(steps=self.making.steps)
