"""What the door does for who has signed: AWS's operations in, in the words of FleetOps's own services.

Each runs in a thread, with the caller's context. Sessions are opened here, and begun by the terminal process.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.db.models import QuerySet

from fleetops.audit.record import Target, deny
from fleetops.awsapi.errors import ApiError
from fleetops.clock import now
from fleetops.errors import Denied, FieldError, UserError
from fleetops.identity.models import AccessKey, User
from fleetops.inventory.models import Instance
from fleetops.inventory.readiness import Status, readiness_of
from fleetops.policy.services import ReasonNeeded
from fleetops.web.shortcuts import PermissionMissing, require_permission

from .. import services
from ..models import TerminalSession
from ..questions import FORWARDING
from ..states import Door, SessionKind, SessionState
from . import targets, tokens

OPEN_PERMISSION = "sessions_app.open_terminalsession"
SEE_PERMISSION = "inventory.view_instance"
COMMANDS = frozenset({"AWS-StartNonInteractiveCommand"})  # documents without a terminal
NOBODYS_ACCOUNT = "000000000000"  # GetCallerIdentity has to name one, and FleetOps is none
_LIVE = (SessionState.OPENING, SessionState.OPEN)


@dataclass(frozen=True)
class Caller:
    """Who has signed."""

    key: AccessKey

    @property
    def user(self) -> User:
        """Limited to what a key is for."""
        return self.key.user

    def require(self, operation: str, permission: str) -> None:
        """Raises PermissionMissing, audited, unless the caller has the permission."""
        try:
            require_permission(self.user, permission)
        except PermissionMissing:
            target = Target("web.api", f"/aws/#{operation}", f"aws ssm {operation}")
            reason = f"lacks {permission}"
            deny("web.permission.refuse", actor=self.user, target=target, reason=reason, permission=permission)
            raise


def open_session(caller: Caller, asked: Mapping[str, Any]) -> TerminalSession:
    """StartSession, up to the row; the stream begins later."""
    caller.require("StartSession", OPEN_PERMISSION)
    instance = targets.find(asked["Target"], user=caller.user)
    document, parameters = asked.get("DocumentName", ""), asked.get("Parameters") or {}
    if any("\x00" in text for name, values in parameters.items() for text in (name, *values)):
        raise FieldError("Parameters", "A parameter holds no NUL.")  # nor does a database's text
    return services.open_session(
        instance,
        actor=caller.user,
        door=Door.CLI,
        kind=kind_of(document),
        document=document,
        parameters=parameters,
        reason=asked.get("Reason", ""),
    )


def kind_of(document: str) -> SessionKind:
    """What a session under this document carries. One of the account's own has a terminal; a port is refused there."""
    if document in FORWARDING:
        return SessionKind.FORWARD
    return SessionKind.COMMAND if document in COMMANDS else SessionKind.SHELL


def resumable(caller: Caller, session_id: str) -> TerminalSession:
    """The session of a client that comes again. Raises ApiError if there is none of theirs."""
    session = _session(TerminalSession.objects.filter(user_id=caller.user.pk, door=Door.CLI), session_id)
    session.user = caller.user
    return session


def word_for(caller: Caller, session: TerminalSession) -> str:
    return tokens.make(session, caller.key)


def terminate(caller: Caller, session_id: str) -> None:
    """TerminateSession: of one's own, or of who may end others'."""
    session = _session(services.endable_by(caller.user), session_id)
    services.request_end(session, actor=caller.user)


def describe_sessions(caller: Caller, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Sessions that the caller may see; live ones, or those of the last 30 days."""
    visible = TerminalSession.objects.visible_to(caller.user)
    is_active = asked["State"] == "Active"
    rows = visible.filter(state__in=_LIVE) if is_active else visible.exclude(state__in=_LIVE)
    for each in asked.get("Filters") or ():
        rows = _filtered(rows, each["key"], each["value"])
    rows, token = _page(rows.order_by("-pk"), asked, default=50, descending=True)
    return {"Sessions": [_session_facts(row) for row in rows], "NextToken": token}


def _filtered(rows: QuerySet[TerminalSession], key: str, value: str) -> QuerySet[TerminalSession]:
    value = value.replace("\x00", "")
    match key:
        case "Target":
            return rows.filter(instance_id=value)
        case "SessionId":
            return rows.filter(pk=UUID(value)) if _is_uuid(value) else rows.none()
        case "Owner":
            return rows.filter(user_name=value.rpartition("/")[2])
        case "InvokedAfter" | "InvokedBefore":
            try:
                moment = datetime.fromisoformat(value)
            except ValueError:
                raise ApiError(
                    "InvalidFilterKey", f"{value} is no moment; write one as 2026-11-30T00:00:00Z."
                ) from None
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            return rows.filter(**{f"created_at__{'gte' if key == 'InvokedAfter' else 'lt'}": moment})
        case "Status":
            states = {
                "Connected": [SessionState.OPEN],
                "Connecting": [SessionState.OPENING],
                "Terminated": [SessionState.ENDED],
                "Failed": [SessionState.FAILED],
            }
            return rows.filter(state__in=states.get(value, []))
    raise ApiError("InvalidFilterKey", f"FleetOps does not filter sessions by {key}.")


def _session_facts(row: TerminalSession) -> dict[str, Any]:
    status = {
        SessionState.OPENING: "Connecting",
        SessionState.OPEN: "Connected",
        SessionState.ENDED: "Terminated",
        SessionState.FAILED: "Failed",
    }
    return {
        "SessionId": str(row.pk),
        "Target": row.instance_id,
        "Status": status[SessionState(row.state)],
        "StartDate": row.created_at,
        "EndDate": row.ended_at,
        "DocumentName": row.document or None,
        "Owner": arn_of(row.user_name),
        "Reason": row.reason or None,
        "Details": row.end_reason or None,
    }


def connection_status(caller: Caller, target: str) -> dict[str, Any]:
    """Whether a session could be opened on it."""
    caller.require("GetConnectionStatus", SEE_PERMISSION)
    instance = targets.find(target, user=caller.user)
    is_connected = readiness_of(instance, now=now()).can_connect
    return {"Target": target, "Status": "connected" if is_connected else "notconnected"}


_PING = {Status.ONLINE: "Online", Status.LOST: "ConnectionLost", Status.GONE: "Inactive", Status.STOPPED: "Inactive"}


def describe_instances(caller: Caller, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The instances that the caller may see, of all accounts; `Name` tells their name here."""
    caller.require("DescribeInstanceInformation", SEE_PERMISSION)
    rows = Instance.objects.visible_to(caller.user).filter(gone_at=None).exclude(ping_status="")
    conditions = [(each["Key"], each["Values"]) for each in asked.get("Filters") or ()]
    conditions += [(each["key"], each["valueSet"]) for each in asked.get("InstanceInformationFilterList") or ()]
    for key, values in conditions:
        rows = _filtered_instances(rows, key, [value.replace("\x00", "") for value in values])
    found, token = _page(rows.select_related("account", "region").order_by("pk"), asked, default=50, descending=False)
    return {"InstanceInformationList": [_instance_facts(row) for row in found], "NextToken": token}


def _filtered_instances(rows: QuerySet[Instance], key: str, values: list[str]) -> QuerySet[Instance]:
    fields = {
        "InstanceIds": "instance_id",
        "PingStatus": "ping_status",
        "PlatformTypes": "platform_type",
        "AgentVersion": "agent_version",
        "ResourceType": "resource_type",
    }
    if key in fields:
        return rows.filter(**{f"{fields[key]}__in": values})
    if key.startswith("tag:"):
        name = key.removeprefix("tag:")
        wanted = set(values)
        return rows.filter(pk__in=[row.pk for row in rows.only("pk", "tags") if row.tags.get(name) in wanted])
    raise ApiError("InvalidFilterKey", f"FleetOps does not filter instances by {key[:100]}.")


def _instance_facts(row: Instance) -> dict[str, Any]:
    return {
        "InstanceId": row.instance_id,
        "PingStatus": _PING.get(readiness_of(row, now=now()).status, "ConnectionLost"),
        "LastPingDateTime": row.last_ping_at,
        "AgentVersion": row.agent_version or None,
        "PlatformType": row.platform_type or None,
        "PlatformName": row.platform_name or None,
        "PlatformVersion": row.platform_version or None,
        "ResourceType": row.resource_type or None,
        "IPAddress": row.private_ip or None,
        "Name": row.name or None,
        "ComputerName": row.computer_name or None,
        "SourceId": row.instance_id,
    }


def identity(caller: Caller) -> dict[str, str]:
    return {"UserId": str(caller.user.pk), "Account": NOBODYS_ACCOUNT, "Arn": arn_of(caller.user.username)}


def arn_of(username: str) -> str:
    return f"arn:aws:iam::{NOBODYS_ACCOUNT}:user/{username}"


# Errors


def in_aws_words(error: Exception) -> ApiError | None:
    """The error that a CLI shows; None for a fault of ours."""
    if isinstance(error, ReasonNeeded):
        return ApiError("AccessDeniedException", f"{error} Say why: --reason TEXT.")
    if isinstance(error, Denied):
        return ApiError("AccessDeniedException", str(error))
    if isinstance(error, targets.NotFound):
        return ApiError("TargetNotConnected", str(error))
    if isinstance(error, (FieldError, targets.Ambiguous)):
        return ApiError("ValidationException", str(error))
    if isinstance(error, UserError):
        return ApiError("TargetNotConnected", str(error))
    return None


# Small things


def _session(rows: QuerySet[TerminalSession], session_id: str) -> TerminalSession:
    found = rows.filter(pk=UUID(session_id)).first() if _is_uuid(session_id) else None
    if found is None:
        raise ApiError("DoesNotExistException", f"There is no session {session_id[:96]} that you may have.")
    return found


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


def _page(rows: QuerySet, asked: Mapping[str, Any], *, default: int, descending: bool) -> tuple[list[Any], str | None]:
    """One page of rows that are ordered by key, and the token of the next."""
    if token := asked.get("NextToken"):
        try:
            after = UUID(bytes=base64.urlsafe_b64decode(token + "=="))
        except (ValueError, binascii.Error):
            raise ApiError("InvalidNextToken", "The specified token isn't valid.") from None
        rows = rows.filter(**{f"pk__{'lt' if descending else 'gt'}": after})
    size = asked.get("MaxResults") or default
    found = list(rows[: size + 1])
    if len(found) <= size:
        return found, None
    last = found[size - 1].pk
    return found[:size], base64.urlsafe_b64encode(last.bytes).decode().rstrip("=")
