"""Sessions in the database, and what the channel half tells the rest of the endpoint."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from datetime import datetime
from typing import Any

from fleetops import clock
from fleetops.endpoint.calls import NodeKey
from fleetops.endpoint.commands import Commands
from fleetops.endpoint.database import in_database
from fleetops.endpoint.hub import SessionTask
from fleetops.endpoint.models import Session
from fleetops.endpoint.nodes import Nodes
from fleetops.endpoint.states import ACTIVE, SESSION_MOVES, SessionStatus
from fleetops.transitions import IllegalMove, LostRace, move
from fleetops.wire import payloads

logger = logging.getLogger(__name__)

_PLATFORM_TYPES = {"linux": "Linux", "windows": "Windows", "macos": "MacOS"}
_FILTERS: dict[str, str] = {
    "Target": "target",
    "Owner": "owner_arn",
    "SessionId": "session_id",
}


class Sessions:
    """The sessions' rows. The database is asked in the executor's one thread, never on the event loop."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def add(self, session: Session) -> None:
        await self._run(session.save)

    async def remove(self, session: Session) -> None:
        """Take back a session that no agent was told of."""
        await self._run(session.delete)

    async def find(self, account_id: str, region: str, session_id: str) -> Session | None:
        rows = Session.objects.filter(account_id=account_id, region=region, session_id=session_id)
        return await self._run(rows.first)

    async def page(
        self,
        account_id: str,
        region: str,
        *,
        is_active: bool,
        filters: Sequence[tuple[str, str]],
        before: int | None,
        size: int,
    ) -> list[Session]:
        """The newest first, one more than `size` if there are more. Raises ValueError for an unknown filter."""
        rows = Session.objects.filter(account_id=account_id, region=region)
        rows = rows.active() if is_active else rows.history()
        for key, value in filters:
            rows = _filtered(rows, key, value)
        if before is not None:
            rows = rows.filter(pk__lt=before)
        return await self._run(lambda: list(rows.order_by("-pk")[: size + 1]))

    async def open(self) -> list[Session]:
        return await self._run(lambda: list(Session.objects.active().order_by("pk")))

    async def connected(self, session_id: str) -> None:
        await self._run(lambda: _move(session_id, SessionStatus.CONNECTED))

    async def end(self, session_id: str, status: str, reason: str) -> None:
        """Move a session to its end; one that has ended stays as it is."""
        to = SessionStatus.FAILED if status == "Failed" else SessionStatus.TERMINATED
        now = clock.now()
        await self._run(lambda: _move(session_id, to, ended_at=now, details=reason[:1024]))

    async def _run(self, work: Callable[[], Any]) -> Any:
        return await in_database(self._executor, work)


def _filtered(rows: Any, key: str, value: str) -> Any:
    if key in _FILTERS:
        return rows.filter(**{_FILTERS[key]: value})
    if key == "Status":
        return rows.filter(state=value)
    if key in {"InvokedAfter", "InvokedBefore"}:
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"The value of the filter {key} is no moment in ISO 8601") from None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=clock.now().tzinfo)
        return rows.filter(**{"started_at__gt" if key == "InvokedAfter" else "started_at__lt": moment})
    if key == "AccessType":
        return rows if value == "Standard" else rows.none()
    raise ValueError(f"Invalid filter key: {key}")


def _move(session_id: str, to: SessionStatus, **changes: Any) -> None:
    session = Session.objects.filter(session_id=session_id).first()
    if session is None or session.state == to or session.state not in ACTIVE:
        return
    try:
        move(session, to, SESSION_MOVES, **changes)
    except (IllegalMove, LostRace) as error:
        logger.info("session not moved session=%s reason=%s", session_id, error)


class HubStore:
    """The hub's `Store`: rows and node states behind its events."""

    def __init__(self, sessions: Sessions, nodes: Nodes, commands: Commands) -> None:
        self._sessions = sessions
        self._nodes = nodes
        self._commands = commands

    async def node_connected(self, key: NodeKey, agent_version: str, platform_type: str) -> None:
        self._nodes.channel_opened(key, clock.now())
        self._commands.node_connected(key)

    async def node_disconnected(self, key: NodeKey) -> None:
        self._nodes.channel_lost(key, clock.now())

    async def session_connected(self, session_id: str) -> None:
        await self._sessions.connected(session_id)

    async def session_ended(self, session_id: str, status: str, reason: str) -> None:
        await self._sessions.end(session_id, status, reason)

    async def job_acknowledged(self, key: NodeKey, ack: payloads.AgentJobAck) -> None:
        await self._commands.acknowledged(key, ack)

    async def job_replied(self, key: NodeKey, reply: payloads.AgentJobReply) -> None:
        await self._commands.replied(key, reply)

    async def open_sessions(self) -> list[SessionTask]:
        now = clock.now()
        return [
            SessionTask(
                session_id=row.session_id,
                key=(row.account_id, row.region, row.target),
                document_name=row.document_name,
                document_content=row.document_content,
                parameters=row.parameters,
                run_as_user=row.run_as_user,
                owner_arn=row.owner_arn,
                idle_seconds=row.idle_seconds,
                longest_seconds=row.longest_seconds,
                age_seconds=(now - row.started_at).total_seconds(),
            )
            for row in await self._sessions.open()
        ]
