"""What happens to the row of a transfer, each move with its audit event; below services, which ends sessions."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from django.db import transaction

from fleetops.audit.record import record
from fleetops.clock import now
from fleetops.identity.models import User
from fleetops.transitions import IllegalMove, LostRace, move

from ..models import TerminalSession
from ..states import TRANSFER_MOVES, SessionKind, TransferState
from .models import Transfer

logger = logging.getLogger(__name__)


def of(session: TerminalSession) -> Transfer | None:
    """The transfer that a session carries."""
    if session.kind != SessionKind.TRANSFER:
        return None
    return Transfer.objects.select_related("session__user").get(session=session)


def why_over(session: TerminalSession) -> str:
    """Why a session that carries a file may not go on, in words: what it was begun from is over. Empty if it may."""
    transfer = session.transfer if session.kind == SessionKind.TRANSFER else None
    if transfer is None or transfer.parent is None or transfer.parent.is_live:
        return ""
    return "the shell that it was begun from has ended"


def started(transfer: Transfer, *, path: str, size: int) -> None:
    """The node has looked at the path and takes the file, or gives it."""
    with transaction.atomic():
        move(transfer, TransferState.RUNNING, TRANSFER_MOVES, started_at=now(), path=path, size=size)
        _record("sessions.transfer.start", transfer, actor=transfer.session.user, size=size)


def done(transfer: Transfer, *, size: int, sha256: str) -> None:
    """All of it is there, and both ends have this digest."""
    _end(transfer, TransferState.DONE, actor=transfer.session.user, size=size, sha256=sha256)


def failed(transfer: Transfer, *, error: str) -> None:
    _end(transfer, TransferState.FAILED, actor=transfer.session.user, error=error[:256])


def cancelled(transfer: Transfer, *, by: str) -> None:
    _end(transfer, TransferState.CANCELLED, actor=transfer.session.user, error=f"Cancelled by {by}."[:256])


def settle(session: TerminalSession, *, reason: str) -> None:
    """Its session is over: what it carried and was not done has failed. In the transaction of that end."""
    transfer = of(session)
    if transfer is not None and transfer.is_open:
        failed(transfer, error=reason)


def _end(transfer: Transfer, to: TransferState, *, actor: User | str, **changes: Any) -> None:
    """Again it does nothing."""
    with contextlib.suppress(IllegalMove, LostRace), transaction.atomic():
        move(transfer, to, TRANSFER_MOVES, ended_at=now(), **changes)
        details = {key: value for key, value in changes.items() if key not in ("size", "error")}
        _record(
            "sessions.transfer.end",
            transfer,
            actor=actor,
            outcome="done" if to == TransferState.DONE else "failed",
            reason=transfer.error,
            size=transfer.size,
            **details,
        )
        logger.info("transfer ended session=%s state=%s", transfer.session_id, to)


def _record(action: str, transfer: Transfer, *, actor: User | str, **details: Any) -> None:
    session = transfer.session
    more = {"parent": str(transfer.parent_id)} if transfer.parent_id else {}
    record(
        action,
        actor=actor,
        target=session,
        session=session,
        account_id=session.account_id,
        region=session.region,
        direction=transfer.direction,
        path=transfer.path,
        name=transfer.name,
        **details,
        **more,
    )
