"""The connection check: what FleetOps may do in an account, asked of AWS permission by permission, region by region.

Nothing is changed by it. What can be read is read; the rest is asked of IAM's simulator; what neither can tell shows
itself when it is used, and the check says so.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction

from fleetops.audit.record import record
from fleetops.aws import iam, probes, sts
from fleetops.aws.clients import AccountAccess
from fleetops.aws.ec2 import region_states
from fleetops.aws.errors import AccessDenied, AwsError
from fleetops.aws.permissions import PERMISSIONS, Permission, fill
from fleetops.aws.regions import home_of, partition_of
from fleetops.aws.ssm import USER_TAG
from fleetops.clock import during
from fleetops.clock import now as clock_now
from fleetops.errors import UserError
from fleetops.transitions import IllegalMove, LostRace, move

from .models import Account, AccountCheck, CheckRow
from .states import CHECK_MOVES, CheckResult, CheckState

logger = logging.getLogger(__name__)

# Longer than the task may live: a check that is open for longer has lost its worker.
LONGEST = timedelta(seconds=200)
KEPT = 5  # checks of an account, the newest
_CALLER, _ASSUME = "sts:GetCallerIdentity", "sts:AssumeRole"
_SIMULATE = "iam:SimulatePrincipalPolicy"
_ROLE_STEPS = (
    (_ASSUME, "acts under the account's role"),
    ("sts:TagSession", "says in the session's tags who is at work"),
    ("sts:SetSourceIdentity", "has CloudTrail name the person behind each call"),
)
_SAMPLE = {
    "instance": "i-0123456789abcdef0",
    "managed": "mi-0123456789abcdef0",
    "session": "fleetops-0123456789abcdef0",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check comes to, for a list: kind of glyph, a word, and how many of how many."""

    kind: str
    word: str
    allowed: int = 0
    asked: int = 0
    missing: tuple[str, ...] = ()  # actions


# --- asking for one --------------------------------------------------------------------------------------------------


def ask(account: Account, *, actor: Any) -> AccountCheck:
    """A check of `account`, to be carried out by a worker; the one that is under way, if there is one.

    Raises UserError if no region of the account is on.
    """
    regions = list(account.regions.filter(enabled=True).order_by("name").values_list("name", flat=True))
    if not regions:
        raise UserError(f"No region of {account} is turned on, so there is nothing to check. Turn one on first.")
    moment = clock_now()
    for stale in account.checks.filter(state__in=list(CHECK_MOVES), created_at__lte=moment - during(LONGEST)):
        _fail(stale, "The worker that carried it out ended before it did.")
    try:
        with transaction.atomic():
            check = AccountCheck.objects.create(account=account, asked_by=_name(actor))
            steps = list(_steps(account))
            CheckRow.objects.bulk_create(
                CheckRow(
                    parent=check, region=region, position=position, action=action, purpose=purpose, is_optional=optional
                )
                for region in regions
                for position, (action, purpose, optional) in enumerate(steps)
            )
            record("inventory.account.check", actor=actor, target=account, account_id=account.account_id)
    except IntegrityError:
        return account.checks.filter(state__in=list(CHECK_MOVES)).first() or ask(account, actor=actor)
    for old in account.checks.order_by("-id")[KEPT:]:
        old.delete()
    return check


def is_overdue(check: AccountCheck, *, now: datetime) -> bool:
    """Whether nobody can be at it any more."""
    return check.is_open and check.created_at <= now - during(LONGEST)


def verdict(check: AccountCheck | None, rows: Sequence[CheckRow], *, now: datetime) -> Verdict:
    """What a check found, in a word."""
    if check is None:
        return Verdict("wait", "Not checked")
    if check.is_open:
        return Verdict("bad", "Check lost") if is_overdue(check, now=now) else Verdict("run", "Checking")
    if check.state == CheckState.FAILED:
        return Verdict("bad", "Check failed")
    allowed = sum(row.result == CheckResult.OK for row in rows)
    missing = tuple(
        dict.fromkeys(row.action for row in rows if row.result == CheckResult.DENIED and not row.is_optional)
    )
    if any(row.result == CheckResult.BROKEN for row in rows):
        return Verdict("bad", "Does not connect", allowed, len(rows), missing)
    if _ASSUME in missing:
        return Verdict("bad", "Role refused", allowed, len(rows), missing)
    if missing:
        return Verdict("warn", "Permission missing", allowed, len(rows), missing)
    return Verdict("ok", "Works", allowed, len(rows))


# --- carrying it out -------------------------------------------------------------------------------------------------


def carry_out(check_id: Any) -> None:
    """Ask AWS, row by row; each answer is written as it comes, so that who watches sees it. Does nothing if taken."""
    check = AccountCheck.objects.select_related("account").get(pk=check_id)
    try:
        move(check, CheckState.RUNNING, CHECK_MOVES, started_at=clock_now())
    except (LostRace, IllegalMove):  # somebody is at it, or was
        return
    account = check.account
    access = account.access()
    rows: dict[str, list[CheckRow]] = {}
    for row in check.rows.all():
        rows.setdefault(row.region, []).append(row)
    for region, its_rows in rows.items():
        _Region(check, access, region, its_rows).ask()
    with transaction.atomic():
        move(check, CheckState.DONE, CHECK_MOVES, ended_at=clock_now())
        if account.region_states:
            Account.objects.filter(pk=account.pk).update(region_states=account.region_states)
    found = verdict(check, list(check.rows.all()), now=clock_now())
    logger.info("account checked account=%s found=%s missing=%s", account.account_id, found.word, found.missing)


def give_up(check_id: Any, error: str) -> None:
    """Write down that a check ended before its time."""
    check = AccountCheck.objects.filter(pk=check_id).first()
    if check is not None and check.is_open:
        _fail(check, error)


class _Region:
    """The rows of one region, and what is asked for each."""

    def __init__(self, check: AccountCheck, access: AccountAccess, region: str, rows: list[CheckRow]) -> None:
        self.check, self.account, self.access, self.region = check, check.account, access, region
        self.rows = {row.action: row for row in rows}
        # A name that was never used: credentials that are still good from before would hide a trust that is gone.
        self.name = f"fleetops-check-{check.pk.hex[-12:]}"
        self.hybrid_id = (
            check.account.instances.filter(region__name=region, instance_id__startswith="mi-", gone_at=None)
            .values_list("instance_id", flat=True)
            .first()
            or ""
        )
        self.simulator_error: AwsError | None = None

    def ask(self) -> None:
        if not self._is_known() or (self.access.role_arn and not self._is_let_in()):
            self._skip_the_rest()
            return
        for permission in PERMISSIONS:
            if permission.action in self.rows:
                self._permission(permission)

    def _is_known(self) -> bool:
        """Whether AWS takes the base credentials, here, and for this account."""
        base = replace(self.access, role_arn="", external_id="")
        try:
            caller = sts.get_caller_identity(base, self.region, session_name=self.name)
        except AwsError as error:
            return self._write(_CALLER, CheckResult.BROKEN, self._why_unknown(error, base))
        if not self.check.caller_arn:
            self.check.caller_arn = caller.arn[:256]
            self.check.save(update_fields=["caller_arn"])
        if not self.access.role_arn and caller.account_id != self.account.account_id:
            text = (
                f"The credentials are {caller.arn}, which is in account {caller.account_id} and not in "
                f"{self.account.account_id}. Give a role of this account, or the profile that belongs to it."
            )
            return self._write(_CALLER, CheckResult.BROKEN, text)
        return self._write(_CALLER, CheckResult.OK, f"as {caller.arn}")

    def _why_unknown(self, error: AwsError, base: AccountAccess) -> str:
        home = home_of(self.region)
        if error.cause != "credentials" or home == self.region:
            return str(error)
        try:
            sts.get_caller_identity(base, home, session_name=self.name)
        except AwsError:
            return str(error)
        return (
            f"{self.region} is off in this account: AWS takes the credentials in {home}, and not here ({error.code}). "
            "Turn the region on in AWS, or off in the account's settings here."
        )

    def _is_let_in(self) -> bool:
        """Whether the role can be assumed, and with the person's name on it."""
        try:
            caller = sts.get_caller_identity(self.access, self.region, session_name=self.name)
        except AwsError as error:
            if isinstance(error, AccessDenied) and error.cause == "permission":
                return self._write(_ASSUME, CheckResult.DENIED, self._why_refused(error))
            return self._write(_ASSUME, CheckResult.BROKEN, str(error))
        if caller.account_id != self.account.account_id:
            text = (
                f"Behind the role is account {caller.account_id}, and not {self.account.account_id}. Correct its ARN."
            )
            return self._write(_ASSUME, CheckResult.BROKEN, text)
        self._write(_ASSUME, CheckResult.OK, f"as {caller.arn}")
        for action, given in (
            ("sts:TagSession", {"tags": ((USER_TAG, self.name),)}),
            ("sts:SetSourceIdentity", {"source_identity": self.name}),
        ):
            try:
                sts.get_caller_identity(self.access, self.region, session_name=f"{self.name}-{action[4:7]}", **given)
            except AwsError as error:
                missing = f"No shell can be opened: let the role's trust policy allow {action}."
                self._write(action, _result_of(error), f"{missing} {_said(error)}")
            else:
                self._write(action, CheckResult.OK)
        return True

    def _why_refused(self, error: AccessDenied) -> str:
        if self.access.external_id:
            other = "or the external id given here is not the one that it asks for"
        else:
            other = "or it asks for an external id, and none is given here"
        return (
            f"AWS does not let {self.check.caller_arn} assume {self.access.role_arn}. Either the role is not there, or "
            f"its trust policy does not name that caller, {other}, or the caller's own policy does not allow it "
            f"sts:AssumeRole on this role. {_said(error)}"
        )

    def _permission(self, permission: Permission) -> None:
        probe = probes.READS.get(permission.action) or (
            probes.HYBRID_READS.get(permission.action) if self.hybrid_id else None
        )
        if probe is None:
            self._simulate(permission)
            return
        try:
            if permission.action == "ec2:DescribeRegions":
                self.account.region_states = region_states(self.access, self.region, session_name=self.name)
            else:
                probe(self.access, self.region, self.name, self.hybrid_id)
        except AwsError as error:
            self._write(permission.action, _result_of(error), f"{permission.missing} {_said(error)}")
        else:
            self._write(permission.action, CheckResult.OK)

    def _simulate(self, permission: Permission) -> None:
        unknown = "It cannot be checked without doing it, and shows itself when it is used."
        if self.simulator_error is not None:
            self._not_simulated(permission, self.simulator_error, unknown)
            return
        places = {"partition": partition_of(self.region), "account": self.account.account_id, "region": self.region}
        principal = self.access.role_arn or iam.principal_of(self.check.caller_arn)
        resources = [fill(pattern, **places, role=principal, **_SAMPLE) for pattern in permission.resources]
        try:
            found = iam.simulate(
                self.access,
                self.region,
                principal_arn=principal,
                actions=[permission.action],
                resources=resources,
                session_name=self.name,
            )
        except AwsError as error:
            self.simulator_error = error
            self._not_simulated(
                permission, error, f"{unknown} IAM's simulator could tell, and does not. {_said(error)}"
            )
            return
        refused = [each for each in found if not each.is_allowed]
        if refused:
            on = ", ".join(each.resource for each in refused if each.resource != "*")
            text = f"{permission.missing} IAM's simulator says {refused[0].decision}{f' on {on}' if on else ''}."
            self._write(permission.action, CheckResult.DENIED, text)
        else:
            self._write(permission.action, CheckResult.OK, "by IAM's simulator")

    def _not_simulated(self, permission: Permission, error: AwsError, text: str) -> None:
        if permission.action == _SIMULATE:
            self._write(_SIMULATE, _result_of(error), f"{permission.missing} {_said(error)}")
        else:
            self._write(permission.action, CheckResult.UNKNOWN, text)

    def _skip_the_rest(self) -> None:
        CheckRow.objects.filter(parent=self.check, region=self.region, result=CheckResult.WAITING).update(
            result=CheckResult.SKIPPED
        )

    def _write(self, action: str, result: str, text: str = "") -> bool:
        """Keep an answer; True if it is a yes."""
        row = self.rows[action]
        row.result, row.text = result, text.strip()[:1024]
        row.save(update_fields=["result", "text"])
        return result == CheckResult.OK


def _steps(account: Account) -> Iterator[tuple[str, str, bool]]:
    yield _CALLER, "is known to AWS", False
    if account.role_arn:
        yield from ((action, purpose, False) for action, purpose in _ROLE_STEPS)
    yield from ((each.action, each.purpose, each.is_optional) for each in PERMISSIONS)


def _result_of(error: AwsError) -> str:
    return CheckResult.DENIED if error.cause == "permission" else CheckResult.BROKEN


def _said(error: AwsError) -> str:
    return f"AWS: {error.code}. {error.message}".strip() if error.cause == "permission" else str(error)


def _fail(check: AccountCheck, error: str) -> None:
    try:
        move(check, CheckState.FAILED, CHECK_MOVES, ended_at=clock_now(), error=error[:512])
    except LostRace:
        logger.info("check ended meanwhile account=%s", check.account_id)


def _name(actor: Any) -> str:
    return actor if isinstance(actor, str) else actor.get_username()
