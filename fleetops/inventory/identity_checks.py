"""As whom FleetOps acts in an account, and whether that works: under its own role, and under those of sessions.

Of each role three things are asked: its trust policy is read and judged here (AWS's simulator does not know trust
policies), the role is assumed as for a person and let go again, and IAM's simulator is asked what its policies allow.
Nothing is changed by it.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from typing import Any, Final

from django.db import IntegrityError, transaction

from fleetops.audit.record import record
from fleetops.aws import iam, sts
from fleetops.aws.clients import AccountAccess
from fleetops.aws.errors import AwsError
from fleetops.aws.permissions import ASSUME_ACTIONS, OF_SESSIONS, PERMISSIONS, Permission, fill
from fleetops.aws.regions import partition_of
from fleetops.aws.ssm import RUN_AS_TAG, USER_TAG, person_tags
from fleetops.awsapi import iampolicy
from fleetops.clock import during
from fleetops.clock import now as clock_now
from fleetops.errors import UserError
from fleetops.policy.models import Rule
from fleetops.transitions import IllegalMove, LostRace, move

from . import features
from .models import Account, IdentityCheck
from .states import CHECK_MOVES, CheckResult, CheckState

logger = logging.getLogger(__name__)

LONGEST: Final = timedelta(seconds=200)  # as of a connection check
KEPT: Final = 5
PURPOSES: Final = {
    "sts:AssumeRole": "acts under the role",
    "sts:SetSourceIdentity": "has CloudTrail name the person behind each call",
    "sts:TagSession": "tells in the session's tags who is at work, and as which OS user",
}
TRIED: Final = "tried"  # in the place of an action: the role was really assumed
_SAMPLE: Final = {
    "instance": "i-0123456789abcdef0",
    "managed": "mi-0123456789abcdef0",
    "session": "fleetops-0123456789abcdef0",
}


@dataclass(frozen=True, slots=True)
class Found:
    """One question and its answer."""

    part: str  # "trust", "use" or "permissions"
    action: str
    purpose: str
    result: str  # CheckResult
    text: str = ""
    is_optional: bool = False


@dataclass(slots=True)
class RoleFound:
    """One role, and what was found of it."""

    arn: str  # empty: the account has no role, and the base credentials act themselves
    rules: list[str] = field(
        default_factory=list
    )  # names of those that open sessions under it; none: the account's own
    rows: list[Found] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check comes to: kind of glyph, a word, and what is missing of what is needed."""

    kind: str
    word: str
    missing: tuple[str, ...] = ()  # "role name: action"


def session_roles(account: Account) -> dict[str, list[str]]:
    """The roles of `account` under which enabled rules open sessions, and the names of these rules."""
    found: dict[str, list[str]] = {}
    for arn, name in Rule.objects.filter(enabled=True).exclude(role_arn="").values_list("role_arn", "name"):
        if arn.split(":")[4:5] == [account.account_id] and arn != account.role_arn:
            found.setdefault(arn, []).append(name)
    return {arn: sorted(names) for arn, names in sorted(found.items())}


def ask(account: Account, *, actor: Any) -> IdentityCheck:
    """A check of `account`, to be carried out by a worker; the one that is under way, if there is one.

    Raises UserError if no region of the account is on.
    """
    if not account.regions.filter(enabled=True).exists():
        raise UserError(f"No region of {account} is turned on, so there is nobody to ask. Turn one on first.")
    moment = clock_now()
    for stale in account.identity_checks.filter(state__in=list(CHECK_MOVES), created_at__lte=moment - during(LONGEST)):
        _fail(stale, "The worker that carried it out ended before it did.")
    try:
        with transaction.atomic():
            check = IdentityCheck.objects.create(account=account, asked_by=getattr(actor, "username", str(actor)))
            record("inventory.account.identity", actor=actor, target=account, account_id=account.account_id)
    except IntegrityError:
        return account.identity_checks.filter(state__in=list(CHECK_MOVES)).first() or ask(account, actor=actor)
    for old in account.identity_checks.order_by("-id")[KEPT:]:
        old.delete()
    return check


def carry_out(check_id: Any) -> None:
    """Ask AWS of each role, and write what was found. Does nothing if somebody is at it, or was."""
    check = IdentityCheck.objects.select_related("account").get(pk=check_id)
    try:
        move(check, CheckState.RUNNING, CHECK_MOVES, started_at=clock_now())
    except (LostRace, IllegalMove):
        return
    account = check.account
    region = account.regions.filter(enabled=True).order_by("name").values_list("name", flat=True)[0]
    look = _Look(account, region, name=f"fleetops-check-{check.pk.hex[-12:]}")
    try:
        caller = sts.get_caller_identity(look.base, region, session_name=look.name)
    except AwsError as error:
        _fail(check, str(error))
        return
    look.caller = caller.arn
    roles = [look.role(RoleFound(account.role_arn))]
    roles += [look.role(RoleFound(arn, names)) for arn, names in session_roles(account).items()]
    found = [asdict(each) for each in roles]
    move(check, CheckState.DONE, CHECK_MOVES, ended_at=clock_now(), caller_arn=caller.arn[:256], roles=found)
    logger.info("identity checked account=%s found=%s", account.account_id, verdict(check).word)


def give_up(check_id: Any, error: str) -> None:
    """Write down that a check ended before its time."""
    check = IdentityCheck.objects.filter(pk=check_id).first()
    if check is not None and check.is_open:
        _fail(check, error)


def verdict(check: IdentityCheck | None) -> Verdict:
    """What a check found, in a word."""
    if check is None:
        return Verdict("wait", "Not checked")
    if check.is_open:
        is_lost = check.created_at <= clock_now() - during(LONGEST)
        return Verdict("bad", "Check lost") if is_lost else Verdict("run", "Checking")
    if check.state == CheckState.FAILED:
        return Verdict("bad", "Check failed")
    missing = tuple(
        f"{role['arn'].rpartition('/')[2] or 'base credentials'}: {row['action']}"
        for role in check.roles
        for row in role["rows"]
        if row["result"] in {CheckResult.DENIED, CheckResult.BROKEN} and not row["is_optional"]
    )
    refused = any(row["action"] == TRIED and row["result"] != "ok" for role in check.roles for row in role["rows"])
    if refused:
        return Verdict("bad", "Role refused", missing)
    return Verdict("warn", "Permission missing", missing) if missing else Verdict("ok", "Works")


class _Look:
    """What is asked of AWS for one check, in one region: IAM and its answers are the same in all."""

    def __init__(self, account: Account, region: str, *, name: str) -> None:
        self.account, self.region, self.name = account, region, name
        self.access = account.access()
        self.base = replace(self.access, role_arn="", external_id="")
        self.caller = ""

    def role(self, found: RoleFound) -> RoleFound:
        access = replace(self.access, role_arn=found.arn)
        if found.arn:
            trust = list(self._trust(found.arn))
            found.rows += trust
            tried = self._tried(access, trust)
            found.rows.append(tried)
            if tried.result != CheckResult.OK and not found.rules:
                return found  # nobody is there who could ask the simulator
        found.rows += self._permissions(found)
        return found

    # --- whom the role trusts

    def _trust(self, arn: str) -> Iterator[Found]:
        try:
            policy = iam.trust_policy(self.access, self.region, role_arn=arn, session_name=self.name)
        except AwsError as error:
            text = f"Its trust policy cannot be read; whether it lets FleetOps in shows below. {error}"
            yield Found("trust", "iam:GetRole", "reads whom the role trusts", CheckResult.UNKNOWN, text, True)
            return
        caller = caller_of(self.caller)
        for action in ASSUME_ACTIONS:
            text = why_not_trusted(policy, caller, action, self._context())
            yield Found("trust", action, PURPOSES[action], CheckResult.DENIED if text else CheckResult.OK, text)

    def _context(self) -> dict[str, list[str]]:
        """What STS tells conditions of the request that opens a session for a person."""
        context = {
            "sts:rolesessionname": [self.name],
            "sts:sourceidentity": [self.name],
            "aws:principalarn": [iam.principal_of(self.caller)],
            "aws:principalaccount": self.caller.split(":")[4:5],
            "aws:tagkeys": [USER_TAG, RUN_AS_TAG],
            f"aws:requesttag/{USER_TAG}".lower(): [self.name],
            f"aws:requesttag/{RUN_AS_TAG}".lower(): ["nobody"],
            "aws:requestedregion": [self.region],
            "aws:securetransport": ["true"],
            "aws:currenttime": [clock_now().strftime("%Y-%m-%dT%H:%M:%SZ")],
        }
        if self.account.external_id:
            context["sts:externalid"] = [self.account.external_id]
        return context

    def _tried(self, access: AccountAccess, trust: list[Found]) -> Found:
        """Assume it as for a person: under a new name, or credentials of before would hide a trust that is gone."""
        purpose = "is assumed, now, with a person's name, source identity and tags"
        tags = person_tags(access, self.name, self.name, "nobody")
        try:
            who = sts.get_caller_identity(
                access, self.region, session_name=self.name, source_identity=self.name, tags=tags
            )
        except AwsError as error:
            text = str(error)
            if error.cause == "permission" and trust and all(row.result == CheckResult.OK for row in trust):
                text = (
                    f"The role trusts {iam.principal_of(self.caller)}, so what is missing is on that side: let its own "
                    f"policy, and its permissions boundary, allow {', '.join(ASSUME_ACTIONS)} on this role. {text}"
                )
            result = CheckResult.DENIED if error.cause == "permission" else CheckResult.BROKEN
            return Found("use", TRIED, purpose, result, text)
        return Found("use", TRIED, purpose, CheckResult.OK, f"as {who.arn}")

    # --- what the role may do

    def _permissions(self, found: RoleFound) -> Iterator[Found]:
        """By IAM's simulator, in one call for all that have their resources in common."""
        principal = found.arn or iam.principal_of(self.caller)
        groups: dict[tuple[str, ...], list[Permission]] = {}
        for each in self._wanted(found):
            groups.setdefault(each.resources, []).append(each)
            if each.extra:
                extra = replace(each, resources=each.extra, purpose=each.extra_purpose, missing="", is_optional=True)
                groups.setdefault(each.extra, []).append(extra)
        for patterns, wanted in groups.items():
            try:
                answers = self._simulated(principal, patterns, [each.action for each in wanted])
            except AwsError as error:
                text = f"IAM's simulator could tell, and does not; it shows itself when it is used. {error}"
                for each in wanted:
                    yield Found("permissions", each.action, each.purpose, CheckResult.UNKNOWN, text, each.is_optional)
                continue
            for each in wanted:
                said = answers.get(each.action.lower(), "IAM's simulator did not answer.")
                result = CheckResult.DENIED if said else CheckResult.OK
                text = f"{each.missing} {said}".strip() if said else ""
                yield Found("permissions", each.action, each.purpose, result, text, each.is_optional)

    def _wanted(self, found: RoleFound) -> list[Permission]:
        actions = OF_SESSIONS if found.rules else set(features.actions_of(features.used(self.account)))
        return [each for each in PERMISSIONS if each.action in actions]

    def _simulated(self, principal: str, patterns: tuple[str, ...], actions: list[str]) -> Mapping[str, str]:
        """By action, in lower case, what is refused, in words; "" for an action that is allowed on all resources."""
        places = {"partition": partition_of(self.region), "account": self.account.account_id, "region": self.region}
        verdicts = iam.simulate(
            self.access,
            self.region,
            principal_arn=principal,
            actions=actions,
            resources=[fill(pattern, **places, role=principal, **_SAMPLE) for pattern in patterns],
            session_name=self.name,
        )
        refused: dict[str, list[iam.Verdict]] = {}
        for each in verdicts:
            refused.setdefault(each.action.lower(), [])
            if not each.is_allowed:
                refused[each.action.lower()].append(each)
        return {action: _said(each) for action, each in refused.items()}


def _said(refused: list[iam.Verdict]) -> str:
    if not refused:
        return ""
    on = ", ".join(each.resource for each in refused if each.resource != "*")
    return f"IAM's simulator says {refused[0].decision}{f' on {on}' if on else ''}."


def caller_of(arn: str) -> iampolicy.Caller:
    """What trust policies know of a caller whom GetCallerIdentity names so."""
    principal = iam.principal_of(arn)
    role = principal if principal != arn else ""
    return iampolicy.Caller(arn, account_id=arn.split(":")[4] if arn.count(":") >= 5 else "", role_arn=role)


def why_not_trusted(
    policy: Mapping[str, Any], caller: iampolicy.Caller, action: str, context: Mapping[str, list[str]]
) -> str:
    """Why a trust policy does not let `caller` do `action`, in words that say what to change; "" if it does."""
    who = caller.role_arn or caller.arn
    granted = iampolicy.grant(policy, caller, action, context)
    if granted and granted != "denied":
        return ""
    if granted == "denied":
        return f"A statement of the trust policy denies {action} to {who}; an allowing one does not help against it."
    statements = iampolicy.statements(policy)
    allowing = [each for each in statements if each.get("Effect") == "Allow"]
    bare = [{name: value for name, value in each.items() if name != "Condition"} for each in allowing]
    if iampolicy.grant({**policy, "Statement": bare}, caller, action, context):
        keys = ", ".join(iampolicy.context_keys([{**policy, "Statement": allowing}]))
        external = " The external id given here may be another one." if "sts:ExternalId" in keys else ""
        return f"The trust policy allows {action} under conditions that are not met: on {keys}.{external}"
    anything = [{**each, "Action": "*"} for each in bare if "NotAction" not in each]
    if iampolicy.grant({**policy, "Statement": anything}, caller, action, context):
        return f"The trust policy names {who}, and not {action}: add it to the actions of that statement."
    return f"The trust policy does not name {who}: add it as a principal."


def _fail(check: IdentityCheck, error: str) -> None:
    try:
        move(check, CheckState.FAILED, CHECK_MOVES, ended_at=clock_now(), error=error[:512])
    except LostRace:
        logger.info("identity check ended meanwhile account=%s", check.account_id)
