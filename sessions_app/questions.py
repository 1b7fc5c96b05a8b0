"""What the policy is asked about a session: to be opened, or open."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address

from fleetops.errors import FieldError
from fleetops.inventory.selection import facts_of
from fleetops.policy.decide import ActorFacts, Context, Deed, DeedRequest, destination_of
from fleetops.targets import TargetFacts

from .models import TerminalSession
from .states import SessionKind

# AWS's documents that forward a port, with the port that each has where none is named. Another's parameters could not
# be judged: its defaults are in it.
FORWARDING: Mapping[str, str] = {
    "AWS-StartPortForwardingSession": "80",
    "AWS-StartPortForwardingSessionToRemoteHost": "80",
    "AWS-StartSSHSession": "22",
}
TO_THE_INSTANCE = "AWS-StartPortForwardingSession"
TO_A_HOST = "AWS-StartPortForwardingSessionToRemoteHost"
# AWS's documents that run what their parameters say as soon as they begin.
AT_ONCE = frozenset({"AWS-StartNonInteractiveCommand", "AWS-StartInteractiveCommand"})
# A name, or an IPv6 address with its zone.
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*(?:%[A-Za-z0-9._-]{1,32})?")
# What some resolvers take for an IPv4 address in another spelling: 127.1, 0x7f.1, 2130706433, 0177.0.0.1.
_LIKE_AN_ADDRESS = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9A-Fa-f]*)")


def deed_of(kind: str) -> Deed:
    """What somebody does who opens a session of that kind."""
    if kind == SessionKind.TRANSFER:
        return Deed.TRANSFER
    return Deed.FORWARD if kind == SessionKind.FORWARD else Deed.SHELL


def destination_asked(document: str, parameters: Mapping[str, Sequence[str]]) -> str:
    """Where a session forwards its port to, "host:port". Raises FieldError if that cannot be told."""
    if document not in FORWARDING:
        names = ", ".join(FORWARDING)
        raise FieldError("document", f"Ports are forwarded by AWS's own documents alone: {names}.")
    port = _one(parameters, "portNumber") or FORWARDING[document]
    host = _one(parameters, "host") if document == TO_A_HOST else "localhost"
    if not host:
        raise FieldError("host", "Name the host that the port is forwarded to.")
    if not port.isascii() or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise FieldError("portNumber", "A port is a number from 1 to 65535.")
    if not _HOST.fullmatch(host.removeprefix("[").removesuffix("]")):
        raise FieldError("host", "That is no name and no address of a host.")
    if _LIKE_AN_ADDRESS.fullmatch(host.rstrip(".")) and not _is_address(host.rstrip(".")):
        raise FieldError("host", "Write an IPv4 address as four numbers: 127.0.0.1.")
    return destination_of(host, str(int(port)))


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def runs_at_once(kind: str, document: str) -> bool:
    """Whether such a session does something before anybody has typed a key."""
    name = document.rpartition("/")[2].partition(":")[0]  # behind an ARN, before a version
    return kind in (SessionKind.COMMAND, SessionKind.TRANSFER) or name in AT_ONCE


def _one(parameters: Mapping[str, Sequence[str]], name: str) -> str:
    values = parameters.get(name) or ()
    if len(values) > 1:
        raise FieldError(name, "Give one value.")
    return values[0] if values else ""


def opening(
    who: ActorFacts,
    target: TargetFacts | None,
    context: Context,
    *,
    kind: str = SessionKind.SHELL,
    document: str = "",
    run_as: str = "",
    destination: str = "",
) -> DeedRequest:
    """May `who` open such a session there?"""
    deed = deed_of(kind)
    if deed == Deed.FORWARD:
        return DeedRequest(who, deed, context, target, destination=destination)
    return DeedRequest(who, deed, context, target, document=document, run_as=run_as)


def going_on(session: TerminalSession, who: ActorFacts, context: Context) -> DeedRequest:
    """May `who` have this session, as it is open? Its own user has the approvals of its grant, while that holds."""
    grant, is_own = session.grant, who.id == str(session.user_id)
    if is_own:
        approvals = grant.approvals if grant is not None and grant.holds(context.at) else 0
        context = replace(context, approvals=approvals, began_at=session.created_at)
    asked = opening(
        who,
        target_of(session),
        context,
        kind=session.kind,
        document=session.document,
        run_as=session.run_as,
        destination=_destination_of(session),
    )
    return replace(asked, owner=str(session.user_id), under=session.role_arn, is_moderated=session.needs_moderator)


def _destination_of(session: TerminalSession) -> str:
    """Where it forwards its port to; nowhere that a rule allows if that can no longer be told."""
    if session.kind != SessionKind.FORWARD:
        return ""
    try:
        return destination_asked(session.document, session.parameters)
    except FieldError:
        return ""


def as_opened(session: TerminalSession, who: ActorFacts, moment: datetime) -> DeedRequest:
    """Could its user open it now as they did: from there, with that second factor and reason, under that role?"""
    mfa_at = None if session.mfa_at is None else session.mfa_at.timestamp()
    return going_on(session, who, Context(moment, session.source_address, mfa_at, session.reason))


def target_of(session: TerminalSession) -> TargetFacts | None:
    """The instance that it is on; None if its account is no longer linked, so that nothing is known of it."""
    return None if session.instance_row is None else facts_of(session.instance_row)


def moment_of(unix: float | None) -> datetime | None:
    return None if unix is None else datetime.fromtimestamp(unix, UTC)
