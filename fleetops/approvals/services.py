"""Asking for leave, giving it, using it: each in one transaction, with its audit event."""

import json
import logging
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.contrib.auth.models import Group
from django.core.serializers.json import DjangoJSONEncoder
from django.db import transaction

from fleetops.audit.record import Target, deny, record
from fleetops.clock import now
from fleetops.errors import Denied, UserError
from fleetops.identity.models import User
from fleetops.transitions import IllegalMove, LostRace, move

from .models import VOTE_PERMISSION, ApprovalRequest, Vote
from .states import APPROVAL_MOVES, ApprovalState

logger = logging.getLogger(__name__)

MOST_APPROVALS = 10
LONGEST = timedelta(days=30)
DEFAULT_APPROVERS = ("administrator",)
_BATCH = 200  # requests that one look ends


class ReasonMissing(UserError):
    """A denial without a word of why."""

    def __init__(self) -> None:
        super().__init__("Say why you deny it: who asked will read it.")
        self.fields = {"reason": str(self)}


def ask(
    *,
    deed: str,
    summary: str,
    requested_by: User,
    expires_at: datetime,
    details: Mapping[str, Any] | None = None,
    quorum: int = 1,
    approvers: Collection[str] = DEFAULT_APPROVERS,
    subject: Target | None = None,
    reason: str = "",
    account_id: str = "",
    region: str = "",
) -> ApprovalRequest:
    """Make the request of `requested_by` to do `deed`; joins the caller's transaction.

    `details` (JSON) is what will be done: `take` gives leave for exactly that. `approvers` are roles; `quorum` members
    of them, never the one who asks, have to approve before `expires_at`, and one denial ends it.

    Raises UserError for a quorum or an end out of bounds, or where too few people could approve for it ever to pass.
    """
    moment = now()
    if not 1 <= quorum <= MOST_APPROVALS:
        raise UserError(f"A request takes 1 to {MOST_APPROVALS} approvals, not {quorum}.")
    if not moment < expires_at <= moment + LONGEST:
        raise UserError(f"A request ends after now and within {LONGEST.days} days; choose such an end.")
    groups = list(Group.objects.filter(name__in=approvers))
    if missing := set(approvers) - {group.name for group in groups}:
        raise UserError(f"There is no role {', '.join(sorted(missing))} whose members could approve.")
    possible = possible_approvers(groups).exclude(pk=requested_by.pk).count()
    if possible < quorum:
        raise UserError(
            f"{quorum} other people would have to approve, and {possible or 'none'} could: give more people one of the "
            f"roles {', '.join(sorted(group.name for group in groups))}."
        )
    about = subject or Target("", "", "")
    with transaction.atomic():
        request = ApprovalRequest.objects.create(
            deed=deed,
            summary=summary[:256],
            details=_plain(details or {}),
            subject_kind=about.kind,
            subject_id=about.id,
            subject_name=about.name[:256],
            account_id=account_id,
            region=region,
            requested_by=requested_by,
            requested_by_name=requested_by.username,
            reason=_line(reason),
            quorum=quorum,
            created_at=moment,
            expires_at=expires_at,
        )
        request.approvers.set(groups)
        _record("approvals.request", request, actor=requested_by, reason=request.reason, quorum=quorum)
    logger.info("approval asked request=%s deed=%s user=%s", request.pk, deed, requested_by.username)
    return request


def possible_approvers(groups: Collection[Group]):
    """The people in `groups` who may answer a request now."""
    allowed = User.objects.with_perm(VOTE_PERMISSION, backend="django.contrib.auth.backends.ModelBackend")
    return allowed.filter(groups__in=groups, is_active=True).distinct()


def may_vote(request: ApprovalRequest, user: User) -> bool:
    """Whether `user` is somebody whom `request` asks; not whether they have answered already."""
    return request.requested_by_id != user.pk and not _why_not(request, user)


def standing_approvals(request: ApprovalRequest) -> int:
    """How many have approved it who might do so now: who has lost the role since counts no more."""
    possible = possible_approvers(list(request.approvers.all()))
    return request.votes.filter(approves=True, user__in=possible).count()


def _why_not(request: ApprovalRequest, user: User) -> str:
    if request.requested_by_id == user.pk:
        return "Nobody approves what they ask for themselves; somebody else has to."
    if not user.is_active or not user.has_perm(VOTE_PERMISSION):
        return "Approving needs the permission “May approve or deny what others ask for”."
    if not request.approvers.filter(pk__in=user.groups.values("pk")).exists():
        roles = ", ".join(request.approvers.values_list("name", flat=True))
        return f"Only members of these roles may answer this request: {roles}."
    return ""


def vote(request_id: UUID, *, actor: User, approve: bool, reason: str = "") -> ApprovalRequest:
    """Say yes or no to a request, once. The last approval of its quorum approves it; the first no denies it.

    Raises Denied, audited, if `actor` is not asked; ReasonMissing for a no without a reason; UserError if it is
    decided, ended, or answered by `actor` already.
    """
    request = ApprovalRequest.objects.get(pk=request_id)
    if why := _why_not(request, actor):
        deny("approvals.vote.refuse", actor=actor, target=_target(request), reason=why)
        raise Denied(why)
    if not approve and not _line(reason):
        raise ReasonMissing
    moment = now()
    with transaction.atomic():
        # Two votes at once wait for one another here: each counts what the other has said.
        request = ApprovalRequest.objects.select_for_update().get(pk=request_id)
        if request.state != ApprovalState.PENDING:
            raise UserError(
                f"This request is {request.get_state_display().lower()} already; nothing is left to answer."
            )
        if moment >= request.expires_at:
            raise UserError("The time to answer this request is over; it has to be asked anew.")
        _, is_new = Vote.objects.get_or_create(
            request=request,
            user=actor,
            defaults={"user_name": actor.username, "approves": approve, "reason": _line(reason), "at": moment},
        )
        if not is_new:
            raise UserError("You have answered this request already; an answer is not changed.")
        if not approve:
            move(request, ApprovalState.DENIED, APPROVAL_MOVES, decided_at=moment)
        elif standing_approvals(request) >= request.quorum:
            move(request, ApprovalState.APPROVED, APPROVAL_MOVES, decided_at=moment)
        action = "approvals.approve" if approve else "approvals.deny"
        _record(action, request, actor=actor, reason=_line(reason), state=str(request.state))
    logger.info("approval answered request=%s approves=%s state=%s", request.pk, approve, request.state)
    return request


def withdraw(request_id: UUID, *, actor: User) -> ApprovalRequest:
    """Take back one's own request. Raises Denied, audited, for somebody else's; UserError if it is over."""
    request = ApprovalRequest.objects.get(pk=request_id)
    if request.requested_by_id != actor.pk:
        deny("approvals.withdraw.refuse", actor=actor, target=_target(request), reason="somebody else's request")
        raise Denied("Only who asked takes a request back; you may deny it.")
    try:
        with transaction.atomic():
            move(request, ApprovalState.WITHDRAWN, APPROVAL_MOVES, decided_at=now())
            _record("approvals.withdraw", request, actor=actor)
    except (IllegalMove, LostRace):
        raise UserError("This request is over already; nothing is left to take back.") from None
    return request


def take(request_id: UUID, *, deed: str, details: Mapping[str, Any], actor: User) -> ApprovalRequest:
    """Use an approval for the deed that it was given for, once; in the transaction of the deed, so that both stand.

    Raises UserError if it is not approved, is used or has ended, is somebody else's, or if `deed` and `details` are not
    what was approved.
    """
    request = ApprovalRequest.objects.filter(pk=request_id).first()
    if request is None or request.requested_by_id != actor.pk:
        raise UserError("There is no such approval of yours; ask for one.")
    if request.deed != deed or request.details != _plain(details):
        raise UserError("This is not what was approved: something changed since. Ask anew for what is to be done now.")
    moment = now()
    if request.state == ApprovalState.APPROVED and moment >= request.expires_at:
        raise UserError("The approval has ended unused; ask for another.")
    if request.state == ApprovalState.APPROVED and (standing := standing_approvals(request)) < request.quorum:
        raise UserError(
            f"Somebody who approved it may no longer approve: {standing} of {request.quorum} approvals stand. Ask anew."
        )
    try:
        with transaction.atomic():
            move(request, ApprovalState.USED, APPROVAL_MOVES, used_at=moment)
            _record("approvals.use", request, actor=actor)
    except (IllegalMove, LostRace):
        request.refresh_from_db()
        raise UserError(f"The request is {request.get_state_display().lower()}, not approved and unused.") from None
    return request


def expire_due() -> int:
    """End what is past its time; safe to call at any time. Returns how many there were.

    A row that nobody has moved yet is over all the same: `vote` and `take` look at the time themselves.
    """
    moment = now()
    due = ApprovalRequest.objects.filter(state__in=list(APPROVAL_MOVES), expires_at__lte=moment)
    ended = 0
    for request in due.order_by("expires_at")[:_BATCH]:
        try:
            with transaction.atomic():
                move(request, ApprovalState.EXPIRED, APPROVAL_MOVES)
                _record("approvals.expire", request, actor="worker")
            ended += 1
        except LostRace:  # somebody answered or another worker was here
            continue
    return ended


def _record(action: str, request: ApprovalRequest, *, actor: User | str, reason: str = "", **details: Any) -> None:
    record(
        action,
        actor=actor,
        target=_target(request),
        reason=reason,
        account_id=request.account_id,
        region=request.region,
        deed=request.deed,
        subject=request.subject_name,
        **details,
    )


def _target(request: ApprovalRequest) -> Target:
    return Target(request._meta.label_lower, str(request.pk), request.summary)


def _plain(details: Mapping[str, Any]) -> Any:
    """`details` as the database gives them back."""
    return json.loads(json.dumps(details, cls=DjangoJSONEncoder, sort_keys=True))


def _line(text: str) -> str:
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())[:512]
