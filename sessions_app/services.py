"""What happens to terminal sessions in the database: each deed in one transaction, with its audit event."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.contrib.sessions.models import Session as LogIn
from django.db import transaction
from django.db.models import Q, QuerySet

from fleetops.audit.models import AuditEvent
from fleetops.audit.record import deny, record
from fleetops.clock import ago, now, real_now
from fleetops.errors import Denied, UserError
from fleetops.identity import access_keys
from fleetops.identity.models import User
from fleetops.inventory.models import Account, Instance
from fleetops.inventory.readiness import readiness_of
from fleetops.inventory.selection import facts_of
from fleetops.policy import services as policy
from fleetops.policy.decide import Context, Decision, Deed, DeedRequest, RuleFacts, decide_session
from fleetops.transitions import LostRace, move

from . import grants, questions, restricted
from .delivery import services as delivery
from .models import TerminalSession
from .states import SESSION_MOVES, Door, GrantState, SessionKind, SessionState
from .transfers import rows as transfers
from .wake import notify_owner

logger = logging.getLogger(__name__)

REVIEW_PERMISSION = "sessions_app.review_terminalsession"
END_PERMISSION = "sessions_app.end_terminalsession"

# An owner writes its heartbeat every 2 s; one that missed four is taken for dead where its lock cannot be asked.
OWNER_STALE_SECONDS = 9
# The host of a journal is given this long to come back before its sessions end in words.
HOST_GONE_SECONDS = 120
# A row whose browser never came.
NEVER_OPENED_SECONDS = 300
# AWS has not confirmed an end: its owner has asked for 15 s by then, and may be dead. Later the worker asks after half
# of the time that has passed, within these.
TERMINATE_FIRST_DELAY = timedelta(seconds=20)
TERMINATE_DELAYS = (timedelta(seconds=10), timedelta(minutes=10))
# Where StartSession was not answered: what AWS's lists do not show for so long was never opened (decision 12).
UNANSWERED_SHOWS = timedelta(seconds=60)
# AWS ends a session by itself that nobody is attached to, at most 60 minutes later; a day leaves room for any clock.
TERMINATE_GIVEN_UP = timedelta(days=1)
REASONS_KEPT = 50  # in one log-in
# A replay page goes on fetching for so long in the name of its one audit event.
LOOK_LASTS = timedelta(hours=1)


class NotFound(UserError):
    """There is no such session for this user."""


class LateOwner(Exception):
    """Another process owns the session now; let go of it and write nothing more."""


# Deeds of people


def open_session(
    instance: Instance,
    *,
    actor: User,
    reason: str = "",
    kind: SessionKind = SessionKind.SHELL,
    door: Door = Door.BROWSER,
    document: str = "",
    parameters: Mapping[str, Sequence[str]] | None = None,
    run_as: str = "",
    grant_of: TerminalSession | None = None,
    about: Mapping[str, str] | None = None,
    also: Callable[[TerminalSession], None] | None = None,
) -> TerminalSession:
    """Make the row of a new session on `instance`; the terminal process starts it when somebody attaches.

    Without a `document`, a shell is run under one of ours, or the account's own preferences. The grant of `grant_of`
    counts too, `about` is told in the audit log besides, and `also` belongs to the transaction that makes the row.

    Raises PolicyDenied, audited, if the policy says no; ReasonNeeded if it wants a reason; UserError if the instance
    cannot be reached now.
    """
    reason = one_line(reason)
    where = {"account_id": instance.account.account_id, "region": instance.region.name}
    if not Instance.objects.visible_to(actor).filter(pk=instance.pk).exists():
        told = {**where, **(about or {})}
        deny("sessions.open.refuse", actor=actor, target=instance, reason="may not see the instance", **told)
        raise Denied("You may not see this instance; ask an administrator for a role that lists instances.")
    destination = questions.destination_asked(document, parameters or {}) if kind == SessionKind.FORWARD else ""
    context = policy.context(actor, reason=reason)
    asked = questions.opening(
        policy.actor_facts(actor),
        facts_of(instance),
        context,
        kind=kind,
        document=document,
        run_as=run_as,
        destination=destination,
    )
    grant, asked = grants.with_grant(asked, actor=actor, instance=instance, kind=kind, of=grant_of)
    try:
        decision = policy.require_request(asked)
    except policy.ReasonNeeded:
        raise
    except policy.PolicyDenied as denied:
        deny(
            "sessions.open.refuse",
            actor=actor,
            target=instance,
            reason=denied.decision.text,
            rules=denied.decision.rules,
            **where,
            **(about or {}),
        )
        raise
    role_arn = decision.obligations.role_arn
    if role_arn and role_arn.split(":")[4] != instance.account.account_id:
        text = (
            f"Rule “{decision.rules[0]}” opens shells under {role_arn}, which is not a role of account "
            f"{instance.account.account_id}. Whoever administers the policy has to change the rule."
        )
        deny("sessions.open.refuse", actor=actor, target=instance, reason=text, rules=decision.rules, **where)
        raise UserError(text)
    if decision.obligations.needs_moderator and questions.runs_at_once(kind, document):
        # A moderator holds keys; this would be done before anybody was there to see it.
        what = "a file" if kind == SessionKind.TRANSFER else "a single command"
        text = f"{decision.text} But it wants a moderator, whom {what} does not wait for: open a shell."
        deny("sessions.open.refuse", actor=actor, target=instance, reason=text, rules=decision.rules, **where)
        raise UserError(text)
    as_user = "" if kind == SessionKind.FORWARD else run_as or decision.obligations.shell_user
    if as_user and instance.platform_type == "Windows":
        # The agent there takes no notice of it [amazon-ssm-agent, shell_windows.go]: the shell would be ssm-user's.
        text = f"On Windows the agent runs every shell as ssm-user, so {instance} gives none as {as_user}."
        deny("sessions.open.refuse", actor=actor, target=instance, reason=text, rules=decision.rules, **where)
        raise UserError(text)
    restricted.require_usable(instance, document, parameters or {})
    ready = readiness_of(instance, now=now())
    if not ready.can_connect:
        raise UserError(f"No shell can be opened on {instance} now. {ready.reason} {ready.mend}".strip())
    with transaction.atomic():
        session = TerminalSession.objects.create(
            user=actor,
            user_name=actor.username,
            instance_row=instance,
            instance_id=instance.instance_id,
            instance_name=str(instance),
            account_id=instance.account.account_id,
            region=instance.region.name,
            reason=asked.context.reason,
            source_address=context.source_address,
            mfa_at=questions.moment_of(context.mfa_at),
            role_arn=role_arn,
            grant=grant,
            deadline_at=None if grant is None else grant.ends_at,
            needs_moderator=decision.obligations.needs_moderator,
            kind=kind,
            door=door,
            document=document,
            parameters={name: list(values) for name, values in (parameters or {}).items()},
            run_as=as_user,
        )
        has_terminal = kind not in (SessionKind.FORWARD, SessionKind.TRANSFER)
        delivery.begin(session, instance.account, has_terminal=has_terminal)
        facts = {
            "role_arn": role_arn,
            "run_as": session.run_as,
            "document": document,
            "destination": destination,
            "grant": "" if grant is None else str(grant.pk),
            **(about or {}),
        }
        told = {name: value for name, value in facts.items() if value}
        _record(
            "sessions.open", session, actor=actor, target=instance, reason=session.reason, rules=decision.rules, **told
        )
        if also is not None:
            also(session)
    logger.info("session opened session=%s instance=%s user=%s", session.pk, session.instance_id, actor.username)
    return session


def one_line(reason: str, longest: int = 256) -> str:
    """A reason as AWS and every list want it: one line of characters that show."""
    return " ".join("".join(each if each.isprintable() else " " for each in reason).split())[:longest]


def endable_by(user: User) -> QuerySet[TerminalSession]:
    """The sessions of which `user` may know, to ask for their end."""
    if user.has_perm(END_PERMISSION):
        return TerminalSession.objects.all()
    return TerminalSession.objects.visible_to(user)


def request_end(session: TerminalSession, *, actor: User, reason: str = "") -> None:
    """Ask the owner of `session` to end it. It does so at once, or within a second if the message is lost.

    Ending one that has ended does nothing. Raises PolicyDenied, audited; ReasonNeeded.
    """
    _require(Deed.END_SESSION, session, actor=actor, refusal="sessions.end.request", reason=reason)
    with transaction.atomic():
        changed = (
            TerminalSession.objects.live()
            .filter(pk=session.pk, end_requested_at=None)
            .update(end_requested_at=now(), end_requested_by=actor.username)
        )
        if not changed:
            return
        _record("sessions.end.request", session, actor=actor, reason=one_line(reason))
        transaction.on_commit(lambda: notify_owner(session.pk))
    session.refresh_from_db()
    if session.owner_epoch == 0:  # its browser never came, so nobody will carry it out
        with contextlib.suppress(LateOwner):
            claim(session, owner="", host="")
            ended(session, reason=f"Ended by {actor.username} before it began.", actor=actor, sealed=True)


def attaching_deeds(*, watch: bool, join: bool) -> tuple[Deed, ...]:
    """What the policy is asked of who attaches.

    Who types into another's session has to be let watch it, and open such a shell there themselves.
    """
    if join:
        return (Deed.WATCH_SESSION, Deed.SHELL)
    return (Deed.WATCH_SESSION if watch else Deed.SHELL,)


def admit(session_id: UUID, *, user: User, watch: bool, join: bool = False, reason: str = "") -> TerminalSession:
    """Let a browser attach: the session's own user to work in it, a reviewer to watch or to `join` and type too, if
    the policy lets them.

    Raises NotFound if this user must not know of it, Denied if they may see but not attach. Both are audited, if there
    is such a session.
    """
    session = _with_facts(TerminalSession.objects.select_related("user")).filter(pk=session_id).first()
    if session is None:
        raise NotFound("There is no such session.")
    if session.user_id != user.pk and not user.has_perm(REVIEW_PERMISSION):
        _deny_attaching(session, user, "somebody else's session")
        raise NotFound("There is no such session.")
    if session.user_id != user.pk and not (watch or join):
        _deny_attaching(session, user, "may only watch")
        raise Denied("This session belongs to somebody else: you may watch it, not type into it.")
    join = join and session.user_id != user.pk
    if session.is_live:
        why = reason if watch or join else session.reason
        require_attaching(session, actor=user, watch=watch, join=join, reason=why)
    if (watch or join) and session.is_live and session.owner_epoch == 0:
        raise Denied("Nobody has opened this session's terminal yet; there is nothing to watch.")
    if session.is_live:
        with transaction.atomic():
            _record("sessions.join" if join else "sessions.watch" if watch else "sessions.attach", session, actor=user)
    return session


def require_attaching(session: TerminalSession, *, actor: User, watch: bool, join: bool, reason: str) -> None:
    """Ask the policy all that `attaching_deeds` names. Raises PolicyDenied, audited; ReasonNeeded."""
    if join and session.kind != SessionKind.SHELL:
        raise Denied("Only shells can be joined: this session has no keyboard to share.")
    for deed in attaching_deeds(watch=watch, join=join):
        _require(deed, session, actor=actor, refusal="sessions.attach.refuse", reason=reason)


def may_attach(session: TerminalSession, user: User, *, watch: bool, join: bool, reason: str = "") -> bool:
    """Whether that is worth a button; nothing is audited."""
    here, who, rules = policy.context(user, reason=one_line(reason)), policy.actor_facts(user), policy.rules()
    deeds = attaching_deeds(watch=watch, join=join)
    return all(decide_session(_asked(deed, session, who, here), rules).may_try for deed in deeds)


def _deny_attaching(session: TerminalSession, user: User, reason: str) -> None:
    where = {"account_id": session.account_id, "region": session.region}
    deny("sessions.attach.refuse", actor=user, target=session, session=session, reason=reason, **where)


@dataclass(frozen=True)
class Pass:
    """What a browser was let in with: it is there as long as this holds."""

    session_id: UUID
    user_id: UUID
    log_in_key: str  # of Django's session
    log_in_hash: str = field(repr=False)  # changes with the password
    is_own: bool  # the session is this user's
    watch: bool = False
    join: bool = False
    # What the policy was asked with.
    source_address: str = ""
    mfa_at: float | None = None
    reason: str = ""
    since: datetime | None = None  # when it was let in
    bearer: str = ""  # in place of a log-in: the key or token of a client of the command line


@dataclass(frozen=True)
class Refusal:
    """Why a browser may no longer be there."""

    reason: str
    has_log_in: bool


def recheck(passes: Iterable[Pass]) -> dict[Pass, Refusal]:
    """Those of the browsers that may no longer be where they are; each is audited. Six queries, however many.

    Whose own session it is, and may no longer have a shell there, is not among them: that session ends, see
    `heartbeat`. But who came to it from elsewhere than they opened it from, and may not from there, is.
    """
    wanted = list(passes)
    users = User.objects.prefetch_related("groups").in_bulk({each.user_id for each in wanted})
    log_ins = LogIn.objects.filter(session_key__in={each.log_in_key for each in wanted}, expire_date__gt=real_now())
    standing = set(log_ins.values_list("session_key", flat=True))
    bearers = access_keys.standing({each.bearer for each in wanted if each.bearer})
    reviewers = set(_allowed(REVIEW_PERMISSION).filter(pk__in=users).values_list("pk", flat=True))
    sessions = _with_facts(TerminalSession.objects).in_bulk({each.session_id for each in wanted})
    rules, moment = policy.rules(), now()
    refused: dict[Pass, Refusal] = {}
    by_rules: dict[Pass, Decision] = {}
    for each in wanted:
        user = users.get(each.user_id)
        if each.bearer and (user is None or each.bearer not in bearers):
            refused[each] = Refusal("The key with which you came no longer holds.", has_log_in=False)
        elif not each.bearer and (
            user is None or each.log_in_key not in standing or user.get_session_auth_hash() != each.log_in_hash
        ):
            refused[each] = Refusal("Your log-in has ended. Log in again to go on.", has_log_in=False)
        elif not each.is_own and each.user_id not in reviewers:
            refused[each] = Refusal("You may no longer watch sessions of others.", has_log_in=True)
        elif (session := sessions.get(each.session_id)) is not None:
            who = policy.actor_facts(user)
            here = Context(moment, each.source_address, each.mfa_at, each.reason, began_at=each.since)
            answers = (
                decide_session(_asked(deed, session, who, here), rules)
                for deed in attaching_deeds(watch=each.watch, join=each.join)
            )
            answer = next((each_answer for each_answer in answers if not each_answer.allowed), None)
            if answer is None:
                continue
            as_opened = questions.as_opened(session, who, moment)
            if not (each.watch or each.join) and not decide_session(as_opened, rules).allowed:
                continue  # its session ends, which says more
            by_rules[each] = answer
            refused[each] = Refusal(f"Taken away by the access policy. {answer.text}", has_log_in=True)
    if refused:
        with transaction.atomic():
            for each, refusal in refused.items():
                if session := sessions.get(each.session_id):
                    name = str(users.get(each.user_id, ""))
                    why = {"rules": by_rules[each].rules} if each in by_rules else {}
                    _record(
                        "sessions.attach.revoke", session, actor="terminal", reason=refusal.reason, user=name, **why
                    )
    return refused


def _allowed(permission: str) -> QuerySet[User]:
    """The users who hold `permission` and may log in."""
    return User.objects.with_perm(permission, backend="django.contrib.auth.backends.ModelBackend")


def require_watching(session: TerminalSession, *, actor: User, reason: str = "") -> None:
    """Let `actor` see the terminal of another's session. Raises PolicyDenied, audited; ReasonNeeded."""
    _require(Deed.WATCH_SESSION, session, actor=actor, refusal="sessions.attach.refuse", reason=reason)


def require_reading(session: TerminalSession, *, actor: User, reason: str = "") -> None:
    """Let `actor` read the recording. Raises PolicyDenied, audited; ReasonNeeded."""
    _require(Deed.READ_RECORDING, session, actor=actor, refusal="sessions.recording.refuse", reason=reason)


def give_reason(log_in, session_id: UUID, reason: str) -> None:
    """Keep, in this log-in, why its user wants to see the session; the policy may ask for it."""
    log_in["reasons"] = dict(list(log_in.get("reasons", {}).items())[-REASONS_KEPT:]) | {str(session_id): reason}


def reason_given(log_in, session_id: UUID) -> str:
    return log_in.get("reasons", {}).get(str(session_id), "")


def record_view(session: TerminalSession, *, actor: User, reason: str = "") -> None:
    """Somebody looks at a recording. Raises what require_reading does."""
    require_reading(session, actor=actor, reason=reason)
    with transaction.atomic():
        _record("sessions.recording.view", session, actor=actor, reason=one_line(reason))


def record_look(session: TerminalSession, *, actor: User, reason: str = "") -> None:
    """What a recording shows is fetched, by its page or past it: a view, if there was none in this hour.

    Raises what require_reading does.
    """
    require_reading(session, actor=actor, reason=reason)
    looks = AuditEvent.objects.filter(session_id=str(session.pk), action="sessions.recording.view")
    if not looks.filter(actor_id=str(actor.pk), at__gt=now() - LOOK_LASTS).exists():
        with transaction.atomic():
            _record("sessions.recording.view", session, actor=actor, reason=one_line(reason))


def record_download(session: TerminalSession, *, actor: User, version: int, reason: str = "") -> None:
    """Somebody takes a recording away. Raises what require_reading does."""
    require_reading(session, actor=actor, reason=reason)
    with transaction.atomic():
        _record("sessions.recording.download", session, actor=actor, reason=one_line(reason), asciicast_version=version)


def recheck_reader(session: TerminalSession, *, actor: User, stands: bool, reason: str = "") -> str:
    """Why `actor`, who reads the recording, may no longer, in words, and audited; empty if they still may.

    `stands`: whether the log-in or token by which they came still counts.
    """
    user = User.objects.filter(pk=actor.pk, is_active=True).first()
    why: dict[str, Any] = {}
    if user is None or not stands:
        text = "Your log-in has ended. Log in again to go on."
    elif not TerminalSession.objects.visible_to(user).filter(pk=session.pk).exists():
        text = "You may no longer read recordings of others."
    else:
        answer = policy.decision(
            user,
            Deed.READ_RECORDING,
            target=questions.target_of(session),
            owner=session.user_id,
            context=policy.context(user, reason=one_line(reason)),
        )
        if answer.allowed:
            return ""
        text, why = f"Taken away by the access policy. {answer.text}", {"rules": answer.rules}
    where = {"account_id": session.account_id, "region": session.region}
    deny("sessions.recording.revoke", actor=actor, target=session, session=session, reason=text, **where, **why)
    return text


# What the policy is asked


def _with_facts(sessions) -> QuerySet[TerminalSession]:
    """With the rows that the policy is asked about."""
    return sessions.select_related("instance_row__account", "instance_row__region", "grant")


def _require(deed: Deed, session: TerminalSession, *, actor: User, refusal: str, reason: str) -> None:
    """Ask the policy of a deed on a session; SHELL stands for having it, whatever its kind.

    Raises PolicyDenied, audited as `refusal`; ReasonNeeded, which is not.
    """
    here = policy.context(actor, reason=one_line(reason))
    try:
        policy.require_request(_asked(deed, session, policy.actor_facts(actor), here))
    except policy.ReasonNeeded:
        raise
    except policy.PolicyDenied as denied:
        deny(
            refusal,
            actor=actor,
            target=session,
            session=session,
            reason=denied.decision.text,
            rules=denied.decision.rules,
            account_id=session.account_id,
            region=session.region,
        )
        raise


def _asked(deed: Deed, session: TerminalSession, who: policy.ActorFacts, here: Context) -> DeedRequest:
    if deed == Deed.SHELL:
        return questions.going_on(session, who, here)
    return DeedRequest(who, deed, here, questions.target_of(session), owner=str(session.user_id))


# Deeds of owners


@dataclass(frozen=True)
class Orders:
    """What the database tells an owner about one of its sessions."""

    is_mine: bool
    end_requested_by: str = ""
    taken_away: str = ""  # in words, why its user may no longer have it
    deadline_at: datetime | None = None  # when its grant ends, which a later grant puts off


def claim(session: TerminalSession, *, owner: str, host: str) -> int:
    """Make `owner` the owner of a live session, if nobody has changed that since `session` was read; returns the epoch.

    The caller holds the journal's lock, or knows by its heartbeat that the owner before is dead. Raises LateOwner.
    """
    moment = now()
    epoch = session.owner_epoch + 1
    changed = (
        TerminalSession.objects.live()
        .filter(
            pk=session.pk,
            state=session.state,
            owner=session.owner,
            owner_epoch=session.owner_epoch,
            owner_seen_at=session.owner_seen_at,
        )
        .update(owner=owner, owner_host=host, owner_epoch=epoch, owner_seen_at=moment)
    )
    if not changed:
        raise LateOwner(str(session.pk))
    session.owner, session.owner_host, session.owner_epoch, session.owner_seen_at = owner, host, epoch, moment
    return epoch


def heartbeat(owner: str, session_ids: Iterable[UUID], *, beat: bool) -> dict[UUID, Orders]:
    """Say that `owner` lives, if `beat`, and read what it should know of its sessions.

    Each is decided on again, by the rules of this moment. At most four queries, however many.
    """
    wanted = list(session_ids)
    if not wanted:
        return {}
    if beat:
        TerminalSession.objects.live().filter(owner=owner, pk__in=wanted).update(owner_seen_at=now())
    orders = dict.fromkeys(wanted, Orders(is_mine=False))
    rows = TerminalSession.objects.live().filter(owner=owner, pk__in=wanted)
    rules, moment = policy.rules(), now()
    with_parents = _with_facts(rows).select_related("user", "transfer__parent")
    for row in with_parents.prefetch_related("user__groups"):
        taken_away = _taken_away(row, rules, moment)
        asked_by = (row.end_requested_by or "somebody") if row.end_requested_at else ""
        orders[row.pk] = Orders(True, asked_by, taken_away, row.deadline_at)
    return orders


def _taken_away(session: TerminalSession, rules: Sequence[RuleFacts], moment: datetime) -> str:
    """Why its user may no longer have the session, in words; empty if they may."""
    if not session.user.is_active:
        return f"the account of {session.user_name} may no longer log in"
    if session.grant is not None and (over := grants.why_over(session.grant, moment)):
        return over
    if over := transfers.why_over(session):
        return over
    answer = decide_session(questions.as_opened(session, policy.actor_facts(session.user), moment), rules)
    return "" if answer.allowed else f"the access policy takes it away. {answer.text.removesuffix('.')}"


def release(owner: str) -> None:
    """Let go of all sessions of `owner`, which ends in order: the next one need not wait."""
    TerminalSession.objects.live().filter(owner=owner).update(owner_seen_at=None)


def started(session: TerminalSession, *, ssm_session_id: str) -> None:
    """StartSession has answered. Raises LateOwner."""
    with _all_or_nothing(session):
        _fence(session)
        _move(session, SessionState.OPEN, ssm_session_id=ssm_session_id, started_at=now())
        _record("sessions.start", session, actor=session.user, ssm_session_id=ssm_session_id)
    logger.info("session started session=%s instance=%s", session.pk, session.instance_id)


def resumed(session: TerminalSession) -> None:
    """A new owner goes on with the session. Raises LateOwner; Denied, in words, if its user may no longer have it."""
    if taken_away := _taken_away(session, policy.rules(), now()):
        raise Denied(f"Ended: {taken_away}.")
    with transaction.atomic():
        _fence(session)
        _record("sessions.resume", session, actor="terminal", owner_epoch=session.owner_epoch)


def resize(session_id: UUID, cols: int, rows: int) -> None:
    """Keep the size for who opens the session's pages."""
    TerminalSession.objects.filter(pk=session_id).update(cols=cols, rows=rows)


def ended(
    session: TerminalSession,
    *,
    reason: str,
    actor: User | str = "terminal",
    sealed: bool,
    is_unconfirmed: bool = False,
) -> None:
    """The session is over, for the reason given in words; `sealed`: its last chunk is.

    `is_unconfirmed`: AWS has to end it too, and has not said yet that it has. A session that never became a shell has
    failed. Raises LateOwner.
    """
    moment = now()
    with _all_or_nothing(session):
        _fence(session)
        has_failed = session.state == SessionState.OPENING
        _move(
            session,
            SessionState.FAILED if has_failed else SessionState.ENDED,
            ended_at=moment,
            end_reason=reason[:256],
            sealed_at=moment if sealed else None,
            terminate_due_at=moment + TERMINATE_FIRST_DELAY if is_unconfirmed else None,
        )
        transfers.settle(session, reason=reason)
        session.refresh_from_db(fields=["chain_head", "output_bytes"])
        _record(
            "sessions.start.fail" if has_failed else "sessions.end",
            session,
            actor=actor,
            outcome="failed" if has_failed else "done",
            reason=reason,
            chain_head=session.chain_head,
            output_bytes=session.output_bytes,
            chunks=session.chunks.count(),
        )
    logger.info("session ended session=%s instance=%s reason=%s", session.pk, session.instance_id, reason)


def end_confirmed(session_id: UUID) -> None:
    """AWS has said to the owner of the session that it is over."""
    TerminalSession.objects.filter(pk=session_id).update(terminate_due_at=None)


def unconfirmed(moment: datetime) -> list[TerminalSession]:
    """Sessions of whose end AWS has to be told again now, at most 200, the most urgent first."""
    due = TerminalSession.objects.filter(terminate_due_at__lte=moment)
    return list(due.order_by("terminate_due_at")[:200])


def end_confirmed_late(session: TerminalSession) -> None:
    """AWS has confirmed to a worker what the owner of the session could not make it confirm."""
    with transaction.atomic():
        if _unconfirmed_row(session).update(terminate_due_at=None):
            _record("sessions.end.confirm", session, actor="worker", ssm_session_id=session.ssm_session_id)


def end_not_confirmed(session: TerminalSession, moment: datetime, *, reason: str) -> None:
    """AWS has not confirmed again, for `reason`: it is asked later, for a day."""
    least, most = TERMINATE_DELAYS
    age = moment - (session.ended_at or moment)
    if age < TERMINATE_GIVEN_UP:
        _unconfirmed_row(session).update(terminate_due_at=moment + max(least, min(age / 2, most)))
        return
    with transaction.atomic():
        if _unconfirmed_row(session).update(terminate_due_at=None):
            _record("sessions.end.confirm", session, actor="worker", outcome="failed", reason=reason[:256])


def _unconfirmed_row(session: TerminalSession) -> QuerySet[TerminalSession]:
    """The session's row, unless somebody else has asked AWS since it was read."""
    return TerminalSession.objects.filter(pk=session.pk, terminate_due_at=session.terminate_due_at)


def sealed_late(session: TerminalSession) -> None:
    """The last chunk of a session that had ended before was sealed; its audit event has the hash.

    Raises LateOwner.
    """
    with transaction.atomic():
        _fence(session, is_live=False)
        TerminalSession.objects.filter(pk=session.pk).update(sealed_at=now())
        session.refresh_from_db(fields=["chain_head", "output_bytes", "sealed_at"])
        _record(
            "sessions.recording.seal",
            session,
            actor="worker",
            chain_head=session.chain_head,
            output_bytes=session.output_bytes,
        )


# Looking after sessions


def account_of(session: TerminalSession) -> Account:
    """The account a session lives in. Raises UserError if its row is gone."""
    account = Account.objects.filter(account_id=session.account_id).first()
    if account is None:
        raise UserError(f"Account {session.account_id} is no longer linked to FleetOps.")
    return account


def held_elsewhere(host: str, *, owner: str) -> list[UUID]:
    """Live sessions with a journal on `host` that another owner has, or had: their locks tell whether it lives."""
    return list(
        TerminalSession.objects.live()
        .filter(owner_host=host)
        .exclude(owner=owner)
        .order_by("pk")
        .values_list("pk", flat=True)[:1000]
    )


def lost_hosts() -> list[TerminalSession]:
    """Live sessions whose owner has been silent for so long that its host must be gone.

    Where the grant of one is over, nobody waits for its host: it ends as soon as its owner is taken for dead.
    """
    gone, silent = ago(HOST_GONE_SECONDS), ago(OWNER_STALE_SECONDS)
    is_over = Q(deadline_at__lte=now()) | Q(grant__state=GrantState.REVOKED)
    return list(
        TerminalSession.objects.live()
        .exclude(owner_host="")
        .filter(
            Q(owner_seen_at__lt=gone)
            | Q(owner_seen_at=None, created_at__lt=gone)
            | (is_over & (Q(owner_seen_at__lt=silent) | Q(owner_seen_at=None)))
        )
        .select_related("user")[:100]
    )


def never_opened() -> list[TerminalSession]:
    """Sessions whose browser never attached."""
    gone = ago(NEVER_OPENED_SECONDS)
    return list(TerminalSession.objects.filter(state=SessionState.OPENING, owner_epoch=0, created_at__lt=gone)[:100])


def _move(session: TerminalSession, to: SessionState, **changes) -> None:
    try:
        move(session, to, SESSION_MOVES, **changes)
    except LostRace as error:
        raise LateOwner(str(error)) from error


@contextlib.contextmanager
def _all_or_nothing(session: TerminalSession) -> Iterator[None]:
    """A transaction; if the database does not take it, `session` is as it was, so that it can be tried again."""
    before = dict(session.__dict__)
    try:
        with transaction.atomic():
            yield
    except BaseException:
        session.__dict__.update(before)
        raise


def _fence(session: TerminalSession, *, is_live: bool = True) -> None:
    """Make sure, inside the transaction, that no later owner has taken the session."""
    rows = TerminalSession.objects.filter(pk=session.pk, owner_epoch=session.owner_epoch)
    if is_live:
        rows = rows.filter(state=session.state)
    # An update, not a select: on PostgreSQL it locks the row until the transaction ends.
    if not rows.update(owner_epoch=session.owner_epoch):
        raise LateOwner(str(session.pk))


def _record(action: str, session: TerminalSession, *, actor, target=None, **details) -> None:
    """Write an audit event that names the session, its account and its region."""
    record(
        action,
        actor=actor,
        target=target if target is not None else session,
        session=session,
        account_id=session.account_id,
        region=session.region,
        **details,
    )
