"""Asking for roles, extending and ending: rows say what is wanted, and reconcile.py brings AWS there."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.db import transaction

from fleetops.approvals import services as approvals
from fleetops.approvals.models import ApprovalRequest
from fleetops.approvals.states import ApprovalState
from fleetops.audit.record import Target, deny, record
from fleetops.aws import profiles
from fleetops.aws.errors import AwsError
from fleetops.clock import now
from fleetops.errors import Denied, FieldError, UserError
from fleetops.identity.models import User
from fleetops.inventory.models import Instance
from fleetops.inventory.readiness import status_of
from fleetops.inventory.selection import facts_of
from fleetops.notify.services import notify, resolve
from fleetops.policy import services as policy
from fleetops.policy.decide import Context, Deed, says_something
from fleetops.rollouts.models import Run
from fleetops.transitions import IllegalMove, LostRace, move

from . import decide, privilege, rules
from .models import (
    ATTACH_PERMISSION,
    END_PERMISSION,
    EndsWith,
    Holding,
    Kind,
    RoleAttachment,
    RoleFinding,
    RoleRule,
)
from .states import ATTACHMENT_MOVES, FINDING_MOVES, HOLDS, AttachmentState, FindingState

logger = logging.getLogger(__name__)

DEED: Final = "roles.attach"  # as approvals store it
TOPIC_ASKED: Final = "roles.asked"
SESSION_NAME: Final = "fleetops-roles"
STANDARD_PROFILE: Final = "fleetops-ssm-core"
LONGEST_MINUTES: Final = 31 * 24 * 60
ANSWER_WITHIN: Final = timedelta(hours=24)
LOOK_AT_APPROVAL: Final = timedelta(seconds=5)

S = AttachmentState


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants on an instance. `minutes` None: for good. `profile_arn` empty, and no policy: no role."""

    profile_arn: str = ""
    minutes: int | None = None
    ends_with: str = EndsWith.TIME
    policy: str = ""  # a privilege: what is put on the role that the instance keeps
    policy_name: str = ""

    @property
    def kind(self) -> str:
        return Kind.PRIVILEGE if self.policy else Kind.PROFILE

    @property
    def profile_name(self) -> str:
        return self.profile_arn.rpartition("/")[2]

    @property
    def words(self) -> str:
        """ "ssm-core for 30 min", "no role, permanently", "read invoices for 60 min"."""
        what = self.policy_name if self.policy else self.profile_name or "no role"
        return f"{what}, permanently" if self.minutes is None else f"{what} for {self.minutes} min"


@dataclass(frozen=True, slots=True)
class Plan:
    """What asking would come to."""

    rule: decide.RuleFacts | None
    approvals: int
    approvers: tuple[str, ...]
    before: str  # what is put back at the end: a profile's name, "" for none
    cut_off: str  # in words, that and when the agent goes offline; empty: it does not


class CutOff(UserError):
    """It would take the agent's credentials away; whoever has read the text may say so and ask again."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.fields = {"cut_off_accepted": text}


def find_profile(instance: Instance, name: str) -> profiles.Profile:
    """The instance profile of that name in the instance's account, with its one role.

    Raises FieldError if there is none, it has no role, or lies in another account; AwsError.
    """
    if not name:
        raise FieldError("profile_name", "Name an instance profile.")
    if name.startswith("arn:"):
        parts = name.split(":")
        if len(parts) < 6 or parts[4] != instance.account.account_id:
            raise FieldError(
                "profile_name",
                f"An instance takes profiles of its own account, {instance.account.account_id}, alone; create the role "
                "there.",
            )
        name = name.rpartition("/")[2]
    try:
        found = profiles.profile(instance.account.access(), instance.region.name, name, session_name=SESSION_NAME)
    except AwsError as error:
        if error.code in {"NoSuchEntity", "ValidationError"}:
            raise FieldError(
                "profile_name",
                f"Account {instance.account.account_id} has no instance profile {name}; create it under IAM roles.",
            ) from None
        raise
    if len(found.role_names) != 1:
        count = "no role" if not found.role_names else f"{len(found.role_names)} roles"
        raise FieldError(
            "profile_name", f"The instance profile {name} has {count}; EC2 needs exactly one. Mend it in IAM."
        )
    return found


# --- asking ----------------------------------------------------------------------------------------------------------


def plan(
    instance: Instance,
    wish: Wish,
    *,
    actor: User,
    reason: str = "",
    read: rules.Read | None = None,
    context: Context | None = None,
) -> Plan:
    """What it would take to have `wish`; changes nothing and calls nobody. `context` is this request's, unless given.

    Raises Denied if the policy or the rules do not allow it, ReasonNeeded, UserError if it cannot be.
    """
    _check(instance, wish)
    context = context or policy.context(actor, reason=reason)
    answer = policy.decision(actor, Deed.ATTACH_ROLE, target=facts_of(instance), context=context)
    if not answer.allowed and not answer.may_ask:
        policy.require(actor, Deed.ATTACH_ROLE, target=facts_of(instance), context=context)
    found = rules.of(instance, rules.enabled() if read is None else read)
    must = [rule for rule in found if rule.is_must]
    granting = None
    if must and wish.minutes is None and not any(decide.matches(rule.profile, wish.profile_name) for rule in must):
        raise Denied(f"Rule “{must[0].name}” says that this instance must have {must[0].profile}.")
    if wish.profile_arn or wish.policy:
        granting = decide.granting(found, wish.profile_name, minutes=wish.minutes, privilege=bool(wish.policy))
        if granting is None:
            raise Denied(_no_rule(found, wish))
    needed = max(granting.approvals if granting else 0, 0 if answer.allowed else answer.obligations.approvals)
    approvers = (granting.approvers if granting and granting.approvals else ()) or answer.obligations.approvers
    held = Holding.objects.filter(instance=instance).first()
    before = instance.profile_arn if held is None or held.base is None else held.base
    return Plan(granting, needed, approvers or approvals.DEFAULT_APPROVERS, _name(before), cut_off(instance, wish))


def _check(instance: Instance, wish: Wish) -> None:
    if instance.is_hybrid:
        raise UserError("A node outside EC2 has no instance profile: its role is part of its activation.")
    if instance.gone_at is not None:
        raise UserError("AWS lists this instance no more.")
    if wish.minutes is not None and not 1 <= wish.minutes <= LONGEST_MINUTES:
        raise FieldError("minutes", f"A lease takes 1 to {LONGEST_MINUTES:,} minutes.")
    if wish.ends_with not in EndsWith.values or (wish.ends_with == EndsWith.SESSION and wish.minutes is None):
        raise FieldError("ends_with", "A lease ends at its time, or with a session.")
    if wish.policy:
        if wish.minutes is None:
            raise FieldError("minutes", "A privilege is always for a while; say for how many minutes.")
        if not wish.profile_arn or wish.profile_arn != instance.profile_arn:
            raise UserError("A privilege is put on the role that the instance has, and it has another one, or none.")
    elif wish.minutes is not None and not wish.profile_arn:
        raise FieldError("profile_name", "A lease gives a role; to take one away for good, detach it.")


def _no_rule(found: list[decide.RuleFacts], wish: Wish) -> str:
    same = [rule for rule in found if decide.matches(rule.profile, wish.profile_name)]
    if not same:
        return f"No rule lets this instance have {wish.profile_name}. Who administers these rules can change that."
    if wish.policy and not any(rule.allows_privileges for rule in same):
        return f"No rule lets anybody put privileges on {wish.profile_name} here."
    longest = max(rule.most_minutes for rule in same)
    return f"Rule “{same[0].name}” gives {wish.profile_name} for at most {longest:,} minutes; ask for a lease of that."


def cut_off(instance: Instance, wish: Wish) -> str:
    """That the agent goes offline by it, in words; "" if it keeps a role.

    An agent that is refused sleeps 25 to 30 minutes before it asks again, and credentials that it holds stay good until
    they expire, up to six hours [amazon-ssm-agent, credential refresher; EC2 user guide, instance metadata].
    """
    if wish.policy or wish.profile_arn or not instance.profile_arn:
        return ""
    online = "It is online now. " if status_of(instance).value == "online" else ""
    return (
        f"{online}Without a role its agent cannot renew its credentials: it goes offline when those that it holds "
        "expire, within six hours. Once it has been refused it sleeps 25 to 30 minutes before it asks again, so that "
        "after another role is attached it may take so long to come back. A privilege-only lease leaves it connected."
    )


def ask(
    instance: Instance,
    wish: Wish,
    *,
    actor: User,
    reason: str = "",
    run: Run | None = None,
    cut_off_accepted: bool = False,
    read: rules.Read | None = None,
) -> RoleAttachment:
    """Want it: at once, or once others have approved it. The loop brings AWS there.

    Raises Denied, audited; CutOff; FieldError; UserError if a lease of another role stands, or it is there already.
    """
    reason = _line(reason)
    where = {"account_id": instance.account.account_id, "region": instance.region.name}
    if not actor.has_perm(ATTACH_PERMISSION) or not Instance.objects.visible_to(actor).filter(pk=instance.pk).exists():
        _refuse(instance, actor, "may not attach roles", where)
        raise Denied("Attaching roles needs the permission “May ask for roles on instances”.")
    try:
        found = plan(instance, wish, actor=actor, reason=reason, read=read)
    except policy.ReasonNeeded:
        raise
    except Denied as denied:
        _refuse(instance, actor, str(denied), where)
        raise
    if found.approvals and not says_something(reason):
        raise FieldError("reason", "Say why you need it: who approves it reads this.")
    if found.cut_off and not cut_off_accepted:
        raise CutOff(found.cut_off)
    with transaction.atomic():
        attachment = write(instance, wish, found, actor=actor, reason=reason, run=run)
    logger.info("role asked attachment=%s instance=%s user=%s", attachment.pk, instance.instance_id, actor.username)
    return attachment


def write(
    instance: Instance, wish: Wish, found: Plan, *, actor: User, reason: str = "", run: Run | None = None
) -> RoleAttachment:
    """Write down what `plan` has found good; in the caller's transaction. Raises UserError, FieldError as ask does."""
    text = privilege.check(wish.policy) if wish.policy else ""
    where = _where(instance)
    held = hold(instance)
    _check_against_open(instance, wish)
    attachment = RoleAttachment(
        instance=instance,
        account=instance.account,
        region=instance.region,
        instance_name=str(instance),
        kind=wish.kind,
        profile_arn=wish.profile_arn,
        policy=text,
        policy_name=_line(wish.policy_name)[:128] or ("privilege" if text else ""),
        reason=reason,
        asked_by=actor,
        asked_by_name=actor.username,
        rule=RoleRule.objects.filter(pk=found.rule.id).first() if found.rule else None,
        rule_name=found.rule.name if found.rule else "",
        run=run,
        minutes=wish.minutes,
        ends_with=wish.ends_with,
        asked_at=now(),
        state=S.ASKED if found.approvals else S.PENDING,
    )
    if found.approvals:
        attachment.approval = _ask_others(attachment, wish, found, actor)
        attachment.due_at = now() + LOOK_AT_APPROVAL
        attachment.words = f"Waits for {found.approvals} approval{'s' if found.approvals > 1 else ''}."
        attachment.save(force_insert=True)
        notify(
            TOPIC_ASKED,
            dedup_key=str(attachment.pk),
            title=attachment.approval.summary,
            text=f"Why: {reason}\nOpen the page, log in, and approve or deny it there.",
            url=attachment.approval.get_absolute_url(),
            **where,
        )
    else:
        attachment.save(force_insert=True)
        _begin(attachment, held, at=now())
    _record("roles.ask", attachment, actor=actor, reason=reason, words=wish.words, rule=attachment.rule_name)
    return attachment


def hold(instance: Instance) -> Holding:
    """The instance's holding, locked, in the caller's transaction; a new one knows nothing of AWS yet."""
    Holding.objects.get_or_create(
        instance=instance, defaults={"account_id": instance.account_id, "region_id": instance.region_id}
    )
    return Holding.objects.select_for_update().get(pk=instance.pk)


def _check_against_open(instance: Instance, wish: Wish) -> None:
    moment = now()
    standing = RoleAttachment.objects.holding(moment).filter(
        instance=instance, kind=Kind.PROFILE, minutes__isnull=False
    )
    if wish.policy or wish.minutes is None:
        return
    other = standing.exclude(profile_arn=wish.profile_arn).first()
    if other is not None:
        raise UserError(
            f"{other.asked_by_name} has a lease of {other.profile_name} here until {_time(other.ends_at)}, and an "
            "instance has one role at a time: yours would end theirs early. Wait for its end, or ask for a "
            "privilege-only lease."
        )


def _ask_others(attachment: RoleAttachment, wish: Wish, found: Plan, actor: User) -> ApprovalRequest:
    return approvals.ask(
        deed=DEED,
        summary=f"{actor.username} asks for {wish.words} on {attachment.instance_name}",
        requested_by=actor,
        expires_at=now() + ANSWER_WITHIN,
        details=_details(attachment),
        quorum=found.approvals,
        approvers=found.approvers,
        subject=Target("inventory.instance", str(attachment.instance_id), attachment.instance_name),
        reason=attachment.reason,
        account_id=attachment.account.account_id,
        region=attachment.region.name,
    )


def _details(attachment: RoleAttachment) -> dict[str, Any]:
    """What is approved, and nothing else."""
    return {
        "attachment": str(attachment.pk),
        "what": attachment.what if attachment.kind == Kind.PROFILE else attachment.policy_name,
        "profile": attachment.profile_arn,
        "policy": attachment.policy,
        "minutes": attachment.minutes,
        "instance": attachment.instance_name,
    }


def _begin(attachment: RoleAttachment, held: Holding, *, at: datetime) -> None:
    """It counts from `at` on; in the caller's transaction, under the holding's lock."""
    changes: dict[str, Any] = {"words": "", "due_at": None}
    if attachment.minutes is not None:
        changes["ends_at"] = at + timedelta(minutes=attachment.minutes)
    if attachment.kind == Kind.PRIVILEGE:
        changes["due_at"] = at
    else:
        if attachment.minutes is None:
            _supersede(attachment, at)
            held.base = attachment.profile_arn
        held.due_at, held.failures = at, 0
        held.save(update_fields=["base", "due_at", "failures"])
    RoleAttachment.objects.filter(pk=attachment.pk).update(**changes)
    for name, value in changes.items():
        setattr(attachment, name, value)


def _supersede(attachment: RoleAttachment, at: datetime) -> None:
    """A permanent attachment takes the place of the one before it."""
    earlier = RoleAttachment.objects.filter(
        instance=attachment.instance_id, kind=Kind.PROFILE, minutes=None, state__in=[S.PENDING, S.ACTIVE, S.CONFLICT]
    ).exclude(pk=attachment.pk)
    for each in earlier:
        move(each, S.ENDED, ATTACHMENT_MOVES, ended_at=at, due_at=None, words=f"Replaced by {attachment.what}.")


def settle_approval(attachment: RoleAttachment) -> None:
    """Bring an attachment that waits for approval to where its request has it; safe to call at any time."""
    request = ApprovalRequest.objects.filter(pk=attachment.approval_id).first()
    moment = now()
    if request is not None and request.state == ApprovalState.PENDING and moment < request.expires_at:
        RoleAttachment.objects.filter(pk=attachment.pk, state=S.ASKED).update(due_at=moment + LOOK_AT_APPROVAL)
        return
    resolve(TOPIC_ASKED, dedup_key=str(attachment.pk))
    if request is not None and request.state == ApprovalState.APPROVED and attachment.asked_by is not None:
        try:
            with transaction.atomic():
                held = hold(attachment.instance)
                _check_against_open(attachment.instance, _wish_of(attachment))
                approvals.take(request.pk, deed=DEED, details=_details(attachment), actor=attachment.asked_by)
                move(attachment, S.PENDING, ATTACHMENT_MOVES)
                _begin(attachment, held, at=moment)
                _record("roles.begin", attachment, actor="worker", request=str(request.pk))
            return
        except LostRace:
            return
        except UserError as error:
            why = str(error)
    else:
        why = f"The request was {request.get_state_display().lower()}." if request is not None else "It has no request."
    try:
        with transaction.atomic():
            move(attachment, S.DENIED, ATTACHMENT_MOVES, ended_at=moment, due_at=None, words=why[:512])
            _record("roles.end", attachment, actor="worker", reason=why)
    except LostRace:
        pass


def _wish_of(attachment: RoleAttachment) -> Wish:
    return Wish(
        attachment.profile_arn, attachment.minutes, attachment.ends_with, attachment.policy, attachment.policy_name
    )


# --- extending and ending --------------------------------------------------------------------------------------------


def extend(attachment: RoleAttachment, *, minutes: int, actor: User) -> None:
    """Have a lease end so many minutes from now, if that is later than it would.

    Raises Denied, audited, if the policy or the rules do not allow it to `actor`; UserError if it is over, or if it
    takes others' approval: that is asked for by a lease of its own.
    """
    instance, moment = attachment.instance, now()
    if attachment.state not in {S.PENDING, S.ACTIVE} or attachment.ends_at is None or attachment.ends_at <= moment:
        raise UserError("Only a lease that stands can be extended; ask for another.")
    if not actor.has_perm(ATTACH_PERMISSION):
        _refuse(instance, actor, "may not attach roles", _where(instance))
        raise Denied("Extending a lease needs the permission “May ask for roles on instances”.")
    try:
        found = plan(instance, _longer(attachment, minutes), actor=actor, reason=attachment.reason)
    except Denied as denied:
        _refuse(instance, actor, str(denied), _where(instance))
        raise
    if found.approvals:
        raise UserError("A longer time takes others' approval: ask for a new lease; both may stand at once.")
    ends_at = moment + timedelta(minutes=minutes)
    if ends_at <= attachment.ends_at:
        raise FieldError("minutes", f"It ends at {_time(attachment.ends_at)} anyway; choose a later end, or end it.")
    with transaction.atomic():
        held = hold(instance)
        due = {"due_at": moment} if attachment.kind == Kind.PRIVILEGE else {}
        changed = RoleAttachment.objects.filter(
            pk=attachment.pk, state__in=[S.PENDING, S.ACTIVE], ends_at__gt=moment
        ).update(ends_at=ends_at, **due)
        if not changed:
            raise UserError("The lease has ended just now; ask for another.")
        Holding.objects.filter(pk=held.pk).update(due_at=moment)
        attachment.ends_at = ends_at
        _record("roles.extend", attachment, actor=actor, ends_at=ends_at.isoformat())


def _longer(attachment: RoleAttachment, minutes: int) -> Wish:
    return Wish(attachment.profile_arn, minutes, attachment.ends_with, attachment.policy, attachment.policy_name)


def end(attachment: RoleAttachment, *, actor: User | str, reason: str = "") -> None:
    """End it now: what was there before is put back. Twice does nothing.

    Raises Denied, audited, for others' attachments without the permission; UserError for a permanent one.
    """
    if isinstance(actor, User):
        is_own = attachment.asked_by_id == actor.pk and actor.has_perm(ATTACH_PERMISSION)
        if not is_own and not actor.has_perm(END_PERMISSION):
            deny(
                "roles.end.refuse",
                actor=actor,
                target=attachment.instance,
                reason="somebody else's",
                **_where(attachment.instance),
            )
            raise Denied("Ending what others have asked for needs the permission “May end what others have asked for”.")
    if attachment.minutes is None and attachment.state != S.ASKED:
        raise UserError("A permanent attachment has no end; attach another role, or detach it.")
    moment = now()
    name = actor.username if isinstance(actor, User) else actor
    with transaction.atomic():
        held = hold(attachment.instance)
        attachment.refresh_from_db()
        if attachment.state not in HOLDS | {S.ASKED}:
            return
        if attachment.state == S.ASKED:
            move(attachment, S.CANCELLED, ATTACHMENT_MOVES, ended_at=moment, ended_by_name=name, due_at=None, words="")
            request = attachment.approval
            if request is not None and isinstance(actor, User) and request.requested_by_id == actor.pk:
                transaction.on_commit(lambda: _withdraw(request.pk, actor))
        else:
            due = moment if attachment.kind == Kind.PRIVILEGE else None
            move(attachment, S.ENDING, ATTACHMENT_MOVES, ended_by_name=name, due_at=due, words=_line(reason))
            Holding.objects.filter(pk=held.pk).update(due_at=moment)
        _record("roles.end", attachment, actor=actor, reason=_line(reason))


def _withdraw(request: UUID, actor: User) -> None:
    try:
        approvals.withdraw(request, actor=actor)
    except UserError:  # answered just now; nobody uses it
        logger.info("request not withdrawn request=%s", request)


def bind_session(attachment: RoleAttachment, session_id: UUID) -> None:
    """Say with which session a lease ends that ends with one."""
    RoleAttachment.objects.filter(pk=attachment.pk, session_id=None).update(session_id=session_id)
    attachment.refresh_from_db(fields=["session_id"])


def sessions_ended(session_ids: Iterable[UUID]) -> int:
    """End the leases that end with these sessions; how many there were."""
    found = RoleAttachment.objects.filter(
        session_id__in=list(session_ids), ends_with=EndsWith.SESSION, state__in=list(HOLDS)
    )
    ended = 0
    for each in found.select_related("instance__account", "instance__region", "account", "region"):
        end(each, actor="worker", reason="The session that it was for has ended.")
        ended += 1
    return ended


# --- what was changed outside ----------------------------------------------------------------------------------------


def put_back(finding: RoleFinding, *, actor: User) -> None:
    """Have the instance again what it should have. Raises Denied, audited; UserError if it is decided already."""
    _decide(finding, FindingState.PUT_BACK, actor=actor)


def accept(finding: RoleFinding, *, actor: User) -> None:
    """Take what was found for what the instance has from now on; leases of another role end. Raises as put_back."""
    _decide(finding, FindingState.ACCEPTED, actor=actor)


def _decide(finding: RoleFinding, to: FindingState, *, actor: User) -> None:
    if not actor.has_perm(END_PERMISSION):
        deny("roles.finding.refuse", actor=actor, target=finding, reason="may not", **_where(finding.instance))
        raise Denied("Deciding on changes from outside needs the permission “May end what others have asked for”.")
    if to == FindingState.PUT_BACK:
        context = policy.context(actor)
        try:
            policy.require(actor, Deed.ATTACH_ROLE, target=facts_of(finding.instance), context=context)
        except policy.ReasonNeeded:
            raise
        except Denied as denied:
            deny("roles.finding.refuse", actor=actor, target=finding, reason=str(denied), **_where(finding.instance))
            raise
    moment = now()
    try:
        with transaction.atomic():
            held = hold(finding.instance)
            move(finding, to, FINDING_MOVES, decided_at=moment, decided_by_name=actor.username)
            settle_finding(held, finding, accepted=to == FindingState.ACCEPTED, at=moment)
            _record_finding(f"roles.finding.{to}", finding, actor=actor)
    except (LostRace, IllegalMove):
        raise UserError("This has been decided already; look again.") from None


def settle_finding(held: Holding, finding: RoleFinding, *, accepted: bool, at: datetime) -> None:
    """Go on from a finding; in the caller's transaction, under the holding's lock."""
    if finding.rule_id is not None:
        if not accepted:
            held.base, held.due_at = finding.expected, at
            held.save(update_fields=["base", "due_at"])
            standing = RoleAttachment.objects.filter(
                instance=held.pk, kind=Kind.PROFILE, minutes=None, state__in=[S.PENDING, S.ACTIVE]
            )
            for each in standing.exclude(profile_arn=finding.expected):
                words = f"{finding.expected_name} was put there, which a rule wants."
                move(each, S.ENDED, ATTACHMENT_MOVES, ended_at=at, due_at=None, words=words)
        return
    # What was found is what there is; from it the loop goes to what is wanted.
    held.believed, held.intent, held.due_at, held.failures = finding.found, None, at, 0
    if accepted:
        held.base = finding.found
    held.save(update_fields=["base", "believed", "intent", "due_at", "failures"])
    for each in RoleAttachment.objects.filter(instance=held.pk, state=S.CONFLICT):
        if accepted and each.profile_arn != finding.found:
            words = f"{finding.found_name} was found there, and accepted."
            move(each, S.ENDED, ATTACHMENT_MOVES, ended_at=at, words=words)
        else:
            move(each, S.PENDING, ATTACHMENT_MOVES, words="")


# --- for all of them -------------------------------------------------------------------------------------------------


def _refuse(instance: Instance, actor: User, reason: str, where: dict[str, str]) -> None:
    deny("roles.ask.refuse", actor=actor, target=instance, reason=reason[:1000], **where)


def _where(instance: Instance) -> dict[str, str]:
    return {"account_id": instance.account.account_id, "region": instance.region.name}


def _record(action: str, attachment: RoleAttachment, *, actor: User | str, reason: str = "", **details: Any) -> None:
    record(
        action,
        actor=actor,
        target=attachment.instance,  # where a person looks for it
        reason=reason,
        attachment=str(attachment.pk),
        what=attachment.what,
        role=attachment.profile_name,
        **details,
    )


def _record_finding(action: str, finding: RoleFinding, *, actor: User | str) -> None:
    record(
        action,
        actor=actor,
        target=finding.instance,
        finding=str(finding.pk),
        expected=finding.expected_name,
        found=finding.found_name,
    )


def _name(arn: str) -> str:
    return arn.rpartition("/")[2]


def _time(moment: datetime | None) -> str:
    return f"{moment:%d %b %H:%M} UTC" if moment else "its end"


def _line(text: str) -> str:
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())[:512]
