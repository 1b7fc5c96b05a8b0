"""Grants: somebody asks for access for a while, others approve it, sessions are opened by it, and it ends by itself.

The request for approval is the truth, and the times: a grant begins with its last approval, whoever writes that down
and when. So `settle` may be called by anybody, at any time, any number of times. Sessions do not wait for it: their
owners look at the deadline and at the grant themselves.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Q

from fleetops.approvals import services as approvals
from fleetops.approvals.models import ApprovalRequest
from fleetops.approvals.states import ApprovalState
from fleetops.audit.record import Target, deny, record
from fleetops.clock import now
from fleetops.errors import Denied, FieldError, UserError
from fleetops.identity.models import User
from fleetops.inventory.models import Instance
from fleetops.inventory.selection import facts_of
from fleetops.notify.services import notify, resolve
from fleetops.policy import services as policy
from fleetops.policy.decide import Decision, DeedRequest, decide_session, deed_on, says_something
from fleetops.policy.rule_fields import OS_USER
from fleetops.policy.standing import Place
from fleetops.targets import TargetFacts
from fleetops.transitions import LostRace, move

from . import questions
from .models import Grant, GrantTarget, TerminalSession
from .states import GRANT_MOVES, GrantState, SessionKind
from .wake import notify_owner

logger = logging.getLogger(__name__)

DEED = "sessions.grant"
TOPIC_ASKED, TOPIC_DECIDED = "sessions.grant.asked", "sessions.grant.decided"
END_PERMISSION = "sessions_app.end_terminalsession"
MOST_INSTANCES = 50
SHORTEST_MINUTES = 5
ANSWER_WITHIN = timedelta(hours=24)  # of its start: nobody waits longer for an answer
FURTHEST_START = timedelta(days=14)
OPEN_REQUESTS = 20  # of one person
_BATCH = 200


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody asks for, apart from where and how long."""

    kind: str = SessionKind.SHELL
    run_as: str = ""
    document: str = ""
    destination: str = ""  # of a forwarded port, as decide.destination_of writes it

    @property
    def words(self) -> str:
        """ "a shell as root"."""
        user = f" as {self.run_as}" if self.run_as else ""
        if self.kind == SessionKind.FORWARD:
            return f"a port forwarded to {self.destination}"
        if self.kind == SessionKind.COMMAND:
            return f"a command by {self.document}{user}"
        if self.kind == SessionKind.TRANSFER:
            return f"file transfers{user}"
        return f"a shell{f' by {self.document}' if self.document else ''}{user}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What asking would come to."""

    asked: tuple[tuple[Instance, Decision], ...]  # those that need approval
    free: tuple[Instance, ...]  # open to this person without it
    quorum: int
    approvers: tuple[str, ...]  # roles
    longest_minutes: int
    rules: tuple[str, ...]
    needs_mfa: bool
    needs_moderator: bool


class NotToBeHad(Denied):
    """Not even an approval would open it."""


# Asking


def plan(
    actor: User, instances: Sequence[Instance], wish: Wish, *, reason: str = "", at: datetime | None = None
) -> Plan:
    """What it would take for `actor` to have `wish` on all of `instances` at the moment `at`, with a reason and a
    second factor.

    Raises NotToBeHad if one cannot be had; UserError if none needs an approval, or if different people would have to
    approve.
    """
    who, here = policy.actor_facts(actor), policy.context(actor, reason=reason or "asked")
    moment = at or here.at
    here = replace(here, at=moment, mfa_at=moment.timestamp())
    rules = policy.rules()
    asked: list[tuple[Instance, Decision]] = []
    free: list[Instance] = []
    for instance in instances:
        request = questions.opening(
            who,
            facts_of(instance),
            here,
            kind=wish.kind,
            document=wish.document,
            run_as=wish.run_as,
            destination=wish.destination,
        )
        decision = decide_session(request, rules)
        if decision.obligations.needs_moderator and questions.runs_at_once(wish.kind, wish.document):
            raise NotToBeHad(f"{decision.text} But it wants a moderator, whom a single command does not wait for.")
        if decision.allowed:
            free.append(instance)
        elif decision.may_ask:
            asked.append((instance, decision))
        else:
            raise NotToBeHad(f"You may not {deed_on(request)}, and asking does not help. {decision.text}")
    if not asked:
        raise UserError("Nothing of this needs an approval: open it.")
    wanted = [decision.obligations for _, decision in asked]
    roles = {tuple(sorted(each.approvers)) or approvals.DEFAULT_APPROVERS for each in wanted}
    if len(roles) > 1:
        names = "; ".join(sorted(", ".join(each) for each in roles))
        raise UserError(f"Different people approve these instances ({names}). Ask for them one after the other.")
    limits = [each.grant_minutes for each in wanted if each.grant_minutes]
    return Plan(
        asked=tuple(asked),
        free=tuple(free),
        quorum=max(each.approvals for each in wanted),
        approvers=roles.pop(),
        longest_minutes=min([settings.GRANT_LONGEST_MINUTES, *limits]),
        rules=tuple(dict.fromkeys(name for _, decision in asked for name in decision.rules)),
        needs_mfa=any(each.needs_mfa for each in wanted),
        needs_moderator=any(each.needs_moderator for each in wanted),
    )


def ask(
    actor: User,
    instances: Sequence[Instance],
    wish: Wish,
    *,
    reason: str,
    minutes: int,
    starts_at: datetime | None = None,
    expression: str = "",
) -> Grant:
    """Ask others to let `actor` have `wish` on `instances` for so many minutes, from their approval or `starts_at` on.

    Raises UserError, with its field, for what cannot be asked; NotToBeHad, audited; Denied, audited, for an instance
    that `actor` may not see.
    """
    moment = now()
    reason = _line(reason)
    if not says_something(reason):
        raise FieldError("reason", "Say why you need it: who approves it reads this.")
    if not instances:
        raise FieldError("instances", "Choose at least one instance.")
    if len(instances) > MOST_INSTANCES:
        raise FieldError("instances", f"At most {MOST_INSTANCES} instances in one request.")
    _check(wish)
    seen = set(Instance.objects.visible_to(actor).filter(pk__in=[each.pk for each in instances]).values_list("pk"))
    for each in instances:
        if (each.pk,) not in seen:
            _refuse(actor, each, "may not see the instance")
            raise Denied("You may not see this instance; ask an administrator for a role that lists instances.")
    if starts_at is not None and starts_at <= moment:
        starts_at = None
    if starts_at is not None and starts_at > moment + FURTHEST_START:
        raise FieldError("starts_at", f"It begins within {FURTHEST_START.days} days.")
    try:
        found = plan(actor, instances, wish, reason=reason, at=starts_at)
    except NotToBeHad as denied:
        _refuse(actor, instances[0], str(denied))
        raise
    if not SHORTEST_MINUTES <= minutes <= found.longest_minutes:
        raise FieldError("minutes", f"From {SHORTEST_MINUTES} to {found.longest_minutes} minutes.")
    chosen = [instance for instance, _ in found.asked]
    where = str(chosen[0]) if len(chosen) == 1 else f"{len(chosen)} instances"
    accounts, regions = {each.account.account_id for each in chosen}, {each.region.name for each in chosen}
    details = {
        "access": wish.words,
        "instances": [f"{each} ({each.instance_id})" for each in chosen],
        "minutes": minutes,
        "from": starts_at.isoformat() if starts_at else "the last approval",
    }
    with transaction.atomic():
        # Locked, so that two requests at once count one another.
        User.objects.select_for_update().get(pk=actor.pk)
        if Grant.objects.filter(user=actor, state=GrantState.ASKED).count() >= OPEN_REQUESTS:
            raise UserError(f"{OPEN_REQUESTS} of your requests wait already; take one back first.")
        request = approvals.ask(
            deed=DEED,
            summary=f"{actor.username} asks for {wish.words} on {where} for {minutes} min",
            requested_by=actor,
            expires_at=min((starts_at or moment) + ANSWER_WITHIN, moment + approvals.LONGEST),
            details=details,
            quorum=found.quorum,
            approvers=found.approvers,
            subject=Target("inventory.instance", str(chosen[0].pk), where),
            reason=reason,
            account_id=accounts.pop() if len(accounts) == 1 else "",
            region=regions.pop() if len(regions) == 1 else "",
        )
        grant = Grant.objects.create(
            user=actor,
            user_name=actor.username,
            request=request,
            kind=wish.kind,
            expression=expression,
            run_as=wish.run_as,
            document=wish.document,
            destination=wish.destination,
            reason=reason,
            asked_start_at=starts_at,
            minutes=minutes,
        )
        GrantTarget.objects.bulk_create(
            GrantTarget(
                grant=grant,
                instance_row=each,
                instance_id=each.instance_id,
                instance_name=str(each),
                account_id=each.account.account_id,
                region=each.region.name,
            )
            for each in chosen
        )
        _record(
            "sessions.grant.ask",
            grant,
            actor=actor,
            reason=reason,
            rules=found.rules,
            quorum=found.quorum,
            approvers=found.approvers,
            request=str(request.pk),
            **{key: details[key] for key in ("access", "instances", "minutes", "from")},
        )
        notify(
            TOPIC_ASKED,
            dedup_key=str(grant.pk),
            title=request.summary,
            text=f"Why: {reason}\nOpen the page, log in, and approve or deny it there.",
            url=grant.get_absolute_url(),
            account_id=request.account_id,
            region=request.region,
        )
    logger.info("grant asked grant=%s user=%s", grant.pk, actor.username)
    return grant


def _check(wish: Wish) -> None:
    if wish.kind not in SessionKind.values:
        raise FieldError("kind", "Choose a shell, a command, a forwarded port or files.")
    if wish.run_as and not OS_USER.fullmatch(wish.run_as):
        raise FieldError("run_as", "That is no name of an OS user.")
    if (wish.kind == SessionKind.FORWARD) != bool(wish.destination):
        raise FieldError("destination", "Name host and port where a port is forwarded, and nowhere else.")
    if wish.kind == SessionKind.COMMAND and not wish.document:
        raise FieldError("document", "Name the session document that the command is run by.")
    if wish.kind == SessionKind.FORWARD and (wish.run_as or wish.document):
        raise FieldError("run_as", "A forwarded port has no OS user and no document.")
    if wish.kind == SessionKind.TRANSFER and wish.document:
        raise FieldError("document", "Files go by a document of FleetOps's own.")


def _refuse(actor: User, instance: Instance, reason: str) -> None:
    where = {"account_id": instance.account.account_id, "region": instance.region.name}
    deny("sessions.grant.ask.refuse", actor=actor, target=instance, reason=reason[:1000], **where)


# Answering


def vote(grant: Grant, *, actor: User, approve: bool, reason: str = "") -> ApprovalRequest:
    """Say yes or no to what is asked; the last yes begins the grant. Raises what approvals.vote does."""
    answered = approvals.vote(grant.request_id, actor=actor, approve=approve, reason=reason)
    settle(grant)
    return answered


def withdraw(grant: Grant, *, actor: User) -> None:
    """Take back one's own request. Raises what approvals.withdraw does."""
    approvals.withdraw(grant.request_id, actor=actor)
    settle(grant)


def settle(grant: Grant) -> None:
    """Bring the grant to where its request and the time have it; safe to call at any time."""
    grant.refresh_from_db()
    if grant.state == GrantState.ASKED:
        _decide(grant, ApprovalRequest.objects.get(pk=grant.request_id))
    if grant.state == GrantState.ACTIVE and grant.ends_at <= now():
        _close(grant, GrantState.ENDED, actor="worker", at=grant.ends_at)


_DECIDED = {
    ApprovalState.DENIED: GrantState.DENIED,
    ApprovalState.WITHDRAWN: GrantState.WITHDRAWN,
    ApprovalState.EXPIRED: GrantState.EXPIRED,
}


def _decide(grant: Grant, request: ApprovalRequest) -> None:
    is_late = request.state == ApprovalState.PENDING and now() >= request.expires_at
    votes = list(request.votes.all())
    yes = sum(vote.approves for vote in votes)
    is_approved = request.decided_at is not None and yes >= request.quorum and yes == len(votes)
    if is_approved and request.state != ApprovalState.WITHDRAWN:
        _begin(grant, request, yes)
        return
    if request.state == ApprovalState.PENDING and not is_late:
        return
    to = GrantState.EXPIRED if is_late else _DECIDED[ApprovalState(request.state)]
    no = next((vote for vote in votes if not vote.approves), None)
    by, why = (no.user_name, no.reason) if no else ("", "")
    _close(grant, to, actor=by or "worker", at=request.decided_at or now(), by=by, reason=why)


def _begin(grant: Grant, request: ApprovalRequest, yes: int) -> None:
    starts_at = max(request.decided_at, grant.asked_start_at or request.decided_at)
    ends_at = starts_at + timedelta(minutes=grant.minutes)
    names = [vote.user_name for vote in request.votes.all()]
    try:
        with transaction.atomic():
            move(grant, GrantState.ACTIVE, GRANT_MOVES, starts_at=starts_at, ends_at=ends_at, approvals=yes)
            if request.state == ApprovalState.APPROVED and now() < request.expires_at:
                approvals.take(request.pk, deed=DEED, details=request.details, actor=grant.user)
            _record(
                "sessions.grant.start",
                grant,
                actor=names[-1],
                approvers=names,
                starts_at=starts_at.isoformat(),
                ends_at=ends_at.isoformat(),
                extends=[str(pk) for pk in _extend(grant)],
            )
            _tell_decided(grant, f"{grant.user_name} may have {words(grant)} until {ends_at:%H:%M} UTC")
    except (LostRace, UserError):  # somebody else wrote it down, or it was taken back just now; the next look tells
        grant.refresh_from_db()
        return
    logger.info("grant begins grant=%s user=%s ends_at=%s", grant.pk, grant.user_name, ends_at.isoformat())


def _extend(grant: Grant) -> list[UUID]:
    """Have sessions that are open by an earlier grant of just this go on by this one; returns their ids.

    Not by one that begins later: until then there would be none.
    """
    if grant.starts_at > now():
        return []
    same = TerminalSession.objects.live().filter(
        user_id=grant.user_id,
        deadline_at__lt=grant.ends_at,
        grant__state=GrantState.ACTIVE,
        grant__kind=grant.kind,
        grant__run_as=grant.run_as,
        grant__document=grant.document,
        grant__destination=grant.destination,
        instance_row__in=grant.targets.values("instance_row"),
    )
    found = list(same.values_list("pk", flat=True))
    TerminalSession.objects.live().filter(pk__in=found).update(grant=grant, deadline_at=grant.ends_at)
    return found


def _close(grant: Grant, to: GrantState, *, actor: User | str, at: datetime, by: str = "", reason: str = "") -> bool:
    """Write down that the grant is over; False if somebody else did."""
    is_decision = to in {GrantState.DENIED, GrantState.EXPIRED, GrantState.WITHDRAWN}
    try:
        with transaction.atomic():
            move(grant, to, GRANT_MOVES, closed_at=at, closed_by=by, close_reason=reason[:256])
            _record("sessions.grant.end", grant, actor=actor, reason=reason, state=str(to))
            if is_decision:
                _tell_decided(grant, f"{grant.user_name} may not have {words(grant)}: {to.label.lower()}")
    except LostRace:
        grant.refresh_from_db()
        return False
    logger.info("grant over grant=%s state=%s", grant.pk, to)
    return True


def _tell_decided(grant: Grant, title: str) -> None:
    resolve(TOPIC_ASKED, dedup_key=str(grant.pk))
    notify(TOPIC_DECIDED, dedup_key=str(grant.pk), title=title, url=grant.get_absolute_url())
    # It does not hold on: it was told.
    resolve(TOPIC_DECIDED, dedup_key=str(grant.pk))


def settle_due() -> int:
    """Write down what has become of grants; returns how many were looked at. For the worker's beat."""
    moment = now()
    decided = ~Q(request__state=ApprovalState.PENDING) | Q(request__expires_at__lte=moment)
    over = Q(state=GrantState.ACTIVE, ends_at__lte=moment)
    due = Grant.objects.filter(Q(decided, state=GrantState.ASKED) | over).order_by("pk")[:_BATCH]
    found = list(due)
    for grant in found:
        settle(grant)
    return len(found)


# Having


def usable(actor: User, instance: Instance, kind: str, moment: datetime | None = None) -> list[Grant]:
    """The grants by which `actor` may open sessions of that kind on `instance` now; those that end last come first."""
    for grant in Grant.objects.filter(user=actor, state=GrantState.ASKED).exclude(request__state=ApprovalState.PENDING):
        settle(grant)
    moment = moment or now()
    found = Grant.objects.filter(
        user=actor,
        kind=kind,
        state=GrantState.ACTIVE,
        starts_at__lte=moment,
        ends_at__gt=moment,
        targets__instance_row=instance,
    )
    return list(found.order_by("-ends_at"))


def held(user: User, targets: Sequence[TargetFacts]) -> dict[Place, tuple[int, str]]:
    """The grants for plain shells by which `user` could connect to these now; see policy/standing.py. One query."""
    moment = now()
    there = GrantTarget.objects.filter(
        grant__user=user,
        grant__kind=SessionKind.SHELL,
        grant__run_as="",
        grant__document="",
        grant__state=GrantState.ACTIVE,
        grant__starts_at__lte=moment,
        grant__ends_at__gt=moment,
        instance_id__in={target.instance_id for target in targets},
    )
    rows = there.values_list("account_id", "region", "instance_id", "grant__approvals", "grant__reason")
    found: dict[Place, tuple[int, str]] = {}
    for account_id, region, instance_id, approvals_given, reason in rows:
        place = (account_id, region, instance_id)
        if approvals_given > found.get(place, (0, ""))[0]:
            found[place] = (approvals_given, reason)
    return found


def with_grant(
    asked: DeedRequest, *, actor: User, instance: Instance, kind: str, of: TerminalSession | None = None
) -> tuple[Grant | None, DeedRequest]:
    """The question with the approvals of a grant, where it is approvals that lack; the grant that they are of.

    The grant by which the shell `of` is open counts too, for what is done from it.
    """
    rules = policy.rules()
    if "approval" not in decide_session(asked, rules).unmet:
        return None, asked
    best: tuple[Grant | None, DeedRequest] = (None, asked)
    there = [
        grant
        for grant in usable(actor, instance, kind, asked.context.at)
        if (grant.run_as, grant.document, grant.destination) == (asked.run_as, asked.document, asked.destination)
    ]
    if of is not None and of.grant is not None and of.grant.holds(asked.context.at):
        there.append(of.grant)
    for grant in there:
        here = replace(asked.context, approvals=grant.approvals, reason=asked.context.reason or grant.reason)
        request = replace(asked, context=here)
        answer = decide_session(request, rules)
        if answer.allowed:
            return grant, request
        if "approval" not in answer.unmet and best[0] is None:
            best = grant, request  # it lacks something else, which is what the person is told
    return best


def why_over(grant: Grant, moment: datetime) -> str:
    """Why sessions of this grant have to end, in words; empty while it holds."""
    if grant.state == GrantState.REVOKED:
        why = f": {grant.close_reason.rstrip('.')}" if grant.close_reason else ""
        return f"{grant.closed_by} revoked the grant{why}"
    if not grant.holds(moment):
        return at_its_end(grant.ends_at)
    return ""


def at_its_end(ends_at: datetime | None) -> str:
    return "its grant is over" if ends_at is None else f"its grant ended at {ends_at:%H:%M:%S} UTC"


# Ending


def may_revoke(grant: Grant, user: User) -> bool:
    """Whose it is gives it up; who may approve it, or end anybody's sessions, takes it away."""
    return grant.user_id == user.pk or user.has_perm(END_PERMISSION) or approvals.may_vote(grant.request, user)


def revoke(grant: Grant, *, actor: User, reason: str = "") -> int:
    """End the grant now; its live sessions are closed by their owners within two seconds. Returns how many there are.

    Raises Denied, audited, if `actor` may not; FieldError without a reason, for another's; UserError if it is over.
    """
    reason = _line(reason)
    if not may_revoke(grant, actor):
        deny("sessions.grant.revoke.refuse", actor=actor, target=_target(grant), reason="may not revoke it")
        raise Denied("Who asked for a grant gives it up; who may approve it, or end sessions of others, revokes it.")
    if grant.user_id != actor.pk and not says_something(reason):
        raise FieldError("reason", "Say why: whose terminal closes reads it there.")
    settle(grant)
    if grant.state != GrantState.ACTIVE:
        raise UserError(f"This grant is {grant.get_state_display().lower()}; nothing is left to revoke.")
    with transaction.atomic():
        if not _close(grant, GrantState.REVOKED, actor=actor, at=now(), by=actor.username, reason=reason):
            raise UserError("Somebody ended this grant in this moment.")
        live = list(TerminalSession.objects.live().filter(grant=grant).values_list("pk", flat=True))
        _record("sessions.grant.revoke", grant, actor=actor, reason=reason, sessions=[str(pk) for pk in live])
        for pk in live:
            transaction.on_commit(lambda pk=pk: notify_owner(pk))
    return len(live)


# Words


def words(grant: Grant) -> str:
    """ "a shell as root on 3 instances"."""
    names = list(grant.targets.values_list("instance_name", flat=True)[:2])
    where = names[0] if len(names) == 1 else f"{grant.targets.count()} instances"
    return f"{wish_of(grant).words} on {where}"


def wish_of(grant: Grant) -> Wish:
    return Wish(grant.kind, grant.run_as, grant.document, grant.destination)


def instances_of(grant: Grant) -> Collection[Instance]:
    """Its instances that there still are."""
    found = Instance.objects.filter(pk__in=grant.targets.exclude(instance_row=None).values("instance_row"))
    return list(found.select_related("account", "region"))


def _record(action: str, grant: Grant, *, actor: User | str, reason: str = "", **details) -> None:
    request = grant.request
    record(
        action,
        actor=actor,
        target=_target(grant),
        reason=reason,
        account_id=request.account_id,
        region=request.region,
        **details,
    )


def _target(grant: Grant) -> Target:
    return Target(grant._meta.label_lower, str(grant.pk), f"{grant.user_name}: {words(grant)}"[:256])


def _line(text: str) -> str:
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())[:256]
