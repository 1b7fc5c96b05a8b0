"""Every step of one session, from the request for it to the sealed recording, each with its event of the audit log."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Count, Q

from fleetops.audit.models import AuditEvent, Outcome
from fleetops.aws.clients import role_session_name
from fleetops.inventory.models import Account
from sessions_app.models import TerminalSession
from sessions_app.states import SessionState

# Events of a session that are links of their own, with their icon; the rest stand in the log.
ICONS = {
    "sessions.grant.ask": "key",
    "approvals.approve": "check",
    "approvals.deny": "x",
    "sessions.grant.start": "key",
    "sessions.open": "terminal",
    "sessions.start": "terminal",
    "sessions.start.fail": "circle-x",
    "sessions.watch": "eye",
    "sessions.join": "users",
    "sessions.message": "send",
    "sessions.resume": "refresh",
    "sessions.attach.refuse": "lock",
    "sessions.attach.revoke": "lock",
    "sessions.grant.revoke": "x",
    "sessions.end.request": "stop",
    "sessions.end": "stop",
    "sessions.end.confirm": "check",
    "sessions.recording.seal": "shield-check",
    "sessions.tokens.deny": "lock",
}
_BAD = frozenset({"sessions.start.fail", "sessions.attach.refuse", "sessions.attach.revoke", "approvals.deny"})


@dataclass(frozen=True, slots=True)
class Link:
    """One step. `event` is its row of the audit log; a step that is read from other rows has none."""

    at: datetime
    icon: str
    title: str
    text: str = ""
    event: AuditEvent | None = None
    is_bad: bool = False
    commands: int = 0  # of the link that tells of commands

    @property
    def is_sealed(self) -> bool:
        return self.event is not None and getattr(self.event, "seal", None) is not None


@dataclass(frozen=True, slots=True)
class SessionChain:
    """All steps, the first first, and what is missing."""

    links: tuple[Link, ...]
    gaps: tuple[str, ...]  # what a whole chain would have besides, in words
    asked_at: datetime | None  # of its grant

    @property
    def is_whole(self) -> bool:
        return not self.gaps

    @property
    def unsealed(self) -> int:
        return sum(link.event is not None and not link.is_sealed for link in self.links)


def of(session: TerminalSession) -> SessionChain:
    """Five queries."""
    about = Q(session_id=str(session.pk))
    grant = session.grant
    if grant is not None:
        about |= Q(target_kind="sessions_app.grant", target_id=str(grant.pk))
        about |= Q(target_kind="approvals.approvalrequest", target_id=str(grant.request_id), action__in=_VOTES)
    events = AuditEvent.objects.filter(about, action__in=ICONS).select_related("seal").order_by("at", "pk")
    links = [_link(event, session) for event in events]
    opened = next((link for link in links if link.event.action == "sessions.open"), None)
    if opened is not None:
        links.append(_assume_role(session, opened.at))
    if commands := _commands(session):
        links.append(commands)
    links.sort(key=lambda link: link.at)
    asked = next((link.at for link in links if link.event and link.event.action == "sessions.grant.ask"), None)
    return SessionChain(tuple(links), tuple(_gaps(session, links)), asked)


_VOTES = ("approvals.approve", "approvals.deny")


def _link(event: AuditEvent, session: TerminalSession) -> Link:
    return Link(
        at=event.at,
        icon=ICONS[event.action],
        title=_title(event, session),
        text=_text(event, session),
        event=event,
        is_bad=event.action in _BAD or event.outcome == Outcome.FAILED,
    )


def _title(event: AuditEvent, session: TerminalSession) -> str:
    who = event.actor_name
    match event.action:
        case "sessions.grant.ask":
            return f"{who} asked for {event.details.get('access', 'access')}"
        case "approvals.approve":
            return f"{who} approved"
        case "approvals.deny":
            return f"{who} denied it"
        case "sessions.grant.start":
            return "The grant began"
        case "sessions.open":
            return f"{who} opened the session"
        case "sessions.start":
            return "StartSession"
        case "sessions.start.fail":
            return "It could not be started"
        case "sessions.watch":
            return f"{who} watched"
        case "sessions.join":
            return f"{who} joined"
        case "sessions.message":
            return f"{who} sent a message"
        case "sessions.resume":
            return "Another process took it up"
        case "sessions.attach.refuse":
            return f"{who} was denied the terminal"
        case "sessions.attach.revoke":
            return f"{event.details.get('user') or who} lost the terminal"
        case "sessions.grant.revoke":
            return f"{who} revoked the grant"
        case "sessions.end.request":
            return f"{who} asked for its end"
        case "sessions.end":
            return "Ended"
        case "sessions.end.confirm":
            return "AWS confirmed its end"
        case "sessions.tokens.deny":
            return f"{who} denied older tokens"
        case _:
            return "Recording sealed"


def _text(event: AuditEvent, session: TerminalSession) -> str:
    details = event.details
    match event.action:
        case "sessions.grant.ask":
            where = ", ".join(details.get("instances", []))
            return f"{details.get('minutes')} min on {where}. “{event.reason}”"
        case "sessions.grant.start":
            return f"Until {details.get('ends_at', '')[:19].replace('T', ' ')} UTC, by {_names(details)}"
        case "sessions.open":
            parts = [f"By {_rules(details)}"]
            parts += [f"as {details['run_as']}"] if details.get("run_as") else []
            parts += [f"with {details['document']}"] if details.get("document") else []
            parts += [f"to {details['destination']}"] if details.get("destination") else []
            parts += [f"from {event.source_address}"] if event.source_address else []
            return ", ".join(parts) + (f". “{event.reason}”" if event.reason else ".")
        case "sessions.start":
            return f"AWS's session {details.get('ssm_session_id', '')}, CloudTrail knows it by that id"
        case "sessions.end":
            lasted = f" After {_length(session.lasted)}." if session.started_at else ""
            return f"{event.reason}{lasted} Head {details.get('chain_head', '')[:16] or 'none'}"
        case "sessions.recording.seal":
            return f"{details.get('output_bytes', 0):,} bytes shown, head {details.get('chain_head', '')[:16]}"
        case _:
            return event.reason


def _names(details: dict) -> str:
    return ", ".join(details.get("approvers", [])) or "nobody"


def _rules(details: dict) -> str:
    names = details.get("rules") or []
    return f"rule {' and '.join(f'“{name}”' for name in names)}" if names else "no rule that is named"


def _assume_role(session: TerminalSession, at: datetime) -> Link:
    """What it was opened as: told by the session's row, and by CloudTrail under these names."""
    own = Account.objects.filter(account_id=session.account_id).values_list("role_arn", flat=True).first()
    arn, name = session.role_arn or own or "", role_session_name(session.user_name)
    role = arn.rpartition("/")[2] or "the account's base credentials, no role"
    return Link(
        at=at + timedelta(microseconds=1),
        icon="users",
        title="AssumeRole",
        text=f"{role} as {name}, SourceIdentity {name}" if arn else role,
    )


def _commands(session: TerminalSession) -> Link | None:
    failed = Count("pk", filter=~Q(exit_code=None) & ~Q(exit_code=0))
    disputed = Count("pk", filter=Q(is_disputed=True))
    found = session.commands.aggregate(count=Count("pk"), failed=failed, disputed=disputed)
    first = session.commands.order_by("started_at").values_list("started_at", flat=True).first()
    if first is None:
        return None
    parts = [f"{found['failed']} failed" if found["failed"] else "none failed"]
    parts += [f"{found['disputed']} disputed"] if found["disputed"] else []
    count = found["count"]
    return Link(
        at=first,
        icon="prompt",
        title=f"{count} command{'' if count == 1 else 's'}",
        text=", ".join(parts),
        commands=count,
    )


def _gaps(session: TerminalSession, links: Iterable[Link]) -> list[str]:
    there = {link.event.action for link in links if link.event is not None}
    gaps = []
    if "sessions.open" not in there:
        gaps.append("Its opening is not in the audit log.")
    if session.started_at is not None and "sessions.start" not in there:
        gaps.append("Its StartSession is not in the audit log.")
    if session.grant_id is not None and not {"sessions.grant.ask", "sessions.grant.start"} <= there:
        gaps.append("The request for its grant, or the grant's beginning, is not in the audit log.")
    if session.is_live:
        gaps.append("It is still open.")
    elif not {"sessions.end", "sessions.start.fail"} & there:
        gaps.append("Its end is not in the audit log.")
    elif session.terminate_due_at is not None:
        gaps.append("AWS has not confirmed its end yet.")
    if session.state == SessionState.ENDED and session.sealed_at is None:
        gaps.append("Its recording is not sealed to its end.")
    return gaps


def _length(length: timedelta) -> str:
    minutes, seconds = divmod(int(length.total_seconds()), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
