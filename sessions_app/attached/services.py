"""Attach a role for so many minutes, connect, detach afterwards.

The order's row and its lease say what is left to do, so that a crash at any step costs nothing: the lease ends at its
time whatever becomes of the order; `settle` may be called by anybody, at any time, any number of times.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.db import IntegrityError, transaction

from fleetops.approvals.models import ApprovalRequest
from fleetops.audit.record import deny, record
from fleetops.clock import now
from fleetops.errors import Denied, UserError
from fleetops.identity.models import User
from fleetops.inventory.models import Instance
from fleetops.inventory.readiness import Status, status_of
from fleetops.inventory.selection import facts_of
from fleetops.policy import services as policy
from fleetops.roles import services as roles
from fleetops.roles.models import ATTACH_PERMISSION, EndsWith
from fleetops.roles.services import Wish
from fleetops.roles.states import AttachmentState
from fleetops.transitions import LostRace, move
from sessions_app import questions
from sessions_app import services as sessions
from sessions_app.models import TerminalSession
from sessions_app.states import SessionKind

from .models import ConnectOrder
from .states import BEFORE_THE_SHELL, OPEN, ORDER_MOVES, OrderState

logger = logging.getLogger(__name__)

DEFAULT_MINUTES: Final = 60
# An agent that was refused asks again within 25 to 30 minutes [amazon-ssm-agent,
# credential refresher: sleeps of 1,500 to 1,800 s after a refusal].
LATEST: Final = timedelta(minutes=30)
_OVER: Final = frozenset({AttachmentState.ENDED, AttachmentState.ENDING})
_FAILED: Final = frozenset({AttachmentState.FAILED, AttachmentState.DENIED, AttachmentState.CANCELLED})


@dataclass(frozen=True, slots=True)
class Step:
    """One line of what is waited for. `state`: done, now, later, failed."""

    state: str
    text: str
    detail: str = ""
    at: datetime | None = None


def begin(
    instance: Instance,
    *,
    actor: User,
    minutes: int,
    ends_with: str = EndsWith.SESSION,
    profile_name: str = roles.STANDARD_PROFILE,
    reason: str = "",
) -> ConnectOrder:
    """Want a role on the instance for so long, and a shell on it once its agent answers.

    Raises PolicyDenied, audited, if the policy gives no shell there or no role; ReasonNeeded; what roles.ask raises;
    UserError where a shell can be opened at once; AwsError.
    """
    reason = sessions.one_line(reason)
    where = {"account_id": instance.account.account_id, "region": instance.region.name}
    if not actor.has_perm(ATTACH_PERMISSION) or not Instance.objects.visible_to(actor).filter(pk=instance.pk).exists():
        deny("sessions.attached.refuse", actor=actor, target=instance, reason="may not attach roles", **where)
        raise Denied("Attaching a role needs the permission “May ask for roles on instances”.")
    if status_of(instance) is Status.ONLINE:
        raise UserError(f"{instance} can be reached as it is: connect.")
    if (standing := _standing(instance, actor)) is not None:
        return standing
    try:
        _require_shell(instance, actor, reason)
        arn = roles.find_profile(instance, profile_name).arn
        wish = Wish(arn, minutes, ends_with)
        found = roles.plan(instance, wish, actor=actor, reason=reason)
    except policy.ReasonNeeded:
        raise
    except Denied as denied:
        deny("sessions.attached.refuse", actor=actor, target=instance, reason=str(denied)[:1000], **where)
        raise
    if found.approvals and not reason:
        error = UserError("Say why you need it: who approves it reads this.")
        error.fields = {"reason": str(error)}
        raise error
    try:
        with transaction.atomic():
            lease = roles.write(instance, wish, found, actor=actor, reason=reason)
            order = ConnectOrder.objects.create(user=actor, instance=instance, lease=lease, reason=reason)
            record(
                "sessions.attached.ask",
                actor=actor,
                target=instance,
                reason=reason,
                order=str(order.pk),
                role=lease.profile_name,
                **where,
            )
    except IntegrityError:  # asked twice at once: the first stands
        if (standing := _standing(instance, actor)) is not None:
            return standing
        raise
    logger.info("role asked for a shell order=%s instance=%s user=%s", order.pk, instance.instance_id, actor.username)
    return order


def _standing(instance: Instance, actor: User) -> ConnectOrder | None:
    found = ConnectOrder.objects.filter(user=actor, instance=instance, state__in=list(BEFORE_THE_SHELL))
    return found.select_related("instance__account", "instance__region", "lease").first()


def _require_shell(instance: Instance, actor: User, reason: str) -> None:
    """Whom the policy gives no shell a role is not attached for. A grant that they hold counts."""
    asked = questions.opening(
        policy.actor_facts(actor),
        facts_of(instance),
        policy.context(actor, reason=reason),
        kind=SessionKind.SHELL,
        document="",
        run_as="",
        destination="",
    )
    _, asked = sessions.grants.with_grant(asked, actor=actor, instance=instance, kind=SessionKind.SHELL, of=None)
    policy.require_request(asked)


def settle(order: ConnectOrder) -> None:
    """Bring the order to where its lease, its instance and its session have it."""
    order.refresh_from_db()
    lease, instance = order.lease, order.instance
    lease.refresh_from_db()
    if order.state == OrderState.OPENED:
        if order.session is None or not order.session.is_live:
            roles.sessions_ended([order.session_id] if order.session_id else [])
        if lease.state in _OVER | _FAILED:
            _move(order, OrderState.OVER, ended_at=now())
        return
    if order.state not in BEFORE_THE_SHELL:
        return
    if lease.state in _FAILED:
        _move(order, OrderState.FAILED, ended_at=now(), words=lease.words or "The role was not attached.")
    elif lease.state in _OVER or lease.state == AttachmentState.CONFLICT:
        words = lease.words or "The lease ended before a shell was opened."
        _move(order, OrderState.OVER, ended_at=now(), words=words[:512])
    elif lease.state == AttachmentState.ACTIVE:
        instance.refresh_from_db()
        is_online = status_of(instance) is Status.ONLINE
        if is_online and order.state != OrderState.READY:
            _move(order, OrderState.READY, ready_at=now())
        elif not is_online and order.state in {OrderState.ATTACHING, OrderState.READY}:
            _move(order, OrderState.WAITING)


def _move(order: ConnectOrder, to: OrderState, **changes: object) -> None:
    try:
        move(order, to, ORDER_MOVES, **changes)
    except LostRace:  # another look was first
        order.refresh_from_db()


def open_shell(order: ConnectOrder, *, actor: User) -> TerminalSession:
    """Open the shell of an order that is ready, by the door that every shell is opened by; its lease is bound to it.

    Raises UserError if it is not ready; what open_session raises.
    """
    settle(order)
    if order.state == OrderState.OPENED and order.session is not None:
        return order.session
    if order.state != OrderState.READY:
        raise UserError("The agent does not answer yet; the page says how far it has come.")

    def bind(session: TerminalSession) -> None:
        move(order, OrderState.OPENED, ORDER_MOVES, session=session, opened_at=now())
        roles.bind_session(order.lease, session.pk)

    try:
        return sessions.open_session(
            order.instance, actor=actor, reason=order.reason, about={"order": str(order.pk)}, also=bind
        )
    except LostRace:
        order.refresh_from_db()
        if order.session is None:
            raise UserError("The order has just been cancelled.") from None
        return order.session


def cancel(order: ConnectOrder, *, actor: User) -> None:
    """Give it up before the shell; the lease ends. Twice, or once the shell is open, it does nothing."""
    order.refresh_from_db()
    if order.state not in BEFORE_THE_SHELL:
        return
    try:
        with transaction.atomic():
            move(order, OrderState.CANCELLED, ORDER_MOVES, ended_at=now())
            record("sessions.attached.cancel", actor=actor, target=order.instance, order=str(order.pk))
    except LostRace:
        order.refresh_from_db()
        return
    roles.end(order.lease, actor=actor, reason="Who asked for it gave it up.")


def unsettled(limit: int = 500) -> list[ConnectOrder]:
    """Orders that are not over; and those that were cancelled by a process that died before it ended their lease."""
    open_ones = ConnectOrder.objects.filter(state__in=list(OPEN))
    half = ConnectOrder.objects.filter(
        state=OrderState.CANCELLED,
        lease__state__in=[AttachmentState.ASKED, AttachmentState.PENDING, AttachmentState.ACTIVE],
    )
    rows = (open_ones | half).select_related(
        "instance__account", "instance__region", "lease__instance", "lease__account", "lease__region", "session", "user"
    )
    return list(rows.order_by("id")[:limit])


def settle_all() -> None:
    """Every order as far as it goes now: by beat."""
    for order in unsettled():
        try:
            if order.state == OrderState.CANCELLED:
                roles.end(order.lease, actor="worker", reason="Who asked for it gave it up.")
            else:
                settle(order)
        except Exception:  # the outermost loop: one order by a bug would hold up all others
            logger.exception("order not settled order=%s", order.pk)


# --- what the page shows ---------------------------------------------------------------------------------------------


def steps(order: ConnectOrder) -> list[Step]:
    """What has been done, what is waited for, and what comes."""
    lease, instance = order.lease, order.instance
    failed = order.state in {OrderState.FAILED, OrderState.CANCELLED, OrderState.OVER} and order.opened_at is None
    found = [Step("done", f"{lease.profile_name} asked for", lease.reason, order.asked_at)]
    if lease.approval_id is not None:
        waits = lease.state == AttachmentState.ASKED
        found.append(
            Step("now" if waits else "failed" if lease.state == AttachmentState.DENIED else "done", *_approval(order))
        )
    is_attached = lease.applied_at is not None
    state = "done" if is_attached else "failed" if failed else "now" if lease.state == "pending" else "later"
    found.append(Step(state, f"{lease.profile_name} attached", "" if is_attached else lease.words, lease.applied_at))
    is_there = order.ready_at is not None
    state = "done" if is_there else "failed" if failed else "now" if is_attached else "later"
    found.append(Step(state, "The agent answers", "" if is_there else _expected(order, instance), order.ready_at))
    state = "done" if order.opened_at else "failed" if failed else "now" if is_there else "later"
    found.append(Step(state, "Shell opened", "", order.opened_at))
    return found


def _approval(order: ConnectOrder) -> tuple[str, str]:
    request = ApprovalRequest.objects.filter(pk=order.lease.approval_id).prefetch_related("approvers", "votes").first()
    if request is None:
        return "Approved", ""
    yes = sum(vote.approves for vote in request.votes.all())
    roles_named = ", ".join(group.name for group in request.approvers.all())
    return "Approved", f"{yes} of {request.quorum}, by {roles_named}"


def _expected(order: ConnectOrder, instance: Instance) -> str:
    """When the agent may be expected, from what is known of it."""
    seen = f"last heard of {instance.last_ping_at:%d %b %H:%M} UTC" if instance.last_ping_at else "never heard of"
    applied = order.lease.applied_at
    if applied is None:
        return seen
    passed = now() - applied
    left = int(max(timedelta(), LATEST - passed).total_seconds() // 60)
    if not left:
        return f"{seen}; it should have asked by now: restart amazon-ssm-agent, or look at why it cannot be reached"
    return f"{seen}; asks again within {left} min of now, at once if it is restarted"
