"""The browsers of one terminal process, and whether each may still be where it was let in.

Who may attach is asked once, when a browser comes. What is taken away later (a log-out in another tab, a new password,
a role) is found here within two seconds, by the process that holds the browser's websocket, wherever the session is
held. A session whose own user may no longer have it is ended by its owner: services.heartbeat.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import DatabaseError

from . import services
from .services import Pass
from .threads import Threads

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.5


class TurnedAway(Exception):
    """The browser has to go; `has_log_in` tells whether its log-in still stands. The text is for its user."""

    def __init__(self, reason: str, *, has_log_in: bool) -> None:
        super().__init__(reason)
        self.has_log_in = has_log_in


class Visitors:
    """Who is there now."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._waiting: dict[Pass, set[asyncio.Future[None]]] = {}

    @contextmanager
    def present(self, admitted: Pass) -> Iterator[asyncio.Future[None]]:
        """Count a browser in for the block; the future raises TurnedAway when it may no longer be there."""
        away: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        together = self._waiting.setdefault(admitted, set())
        together.add(away)
        try:
            yield away
        finally:
            together.discard(away)
            if not together and self._waiting.get(admitted) is together:
                del self._waiting[admitted]
            if away.done():
                away.exception()  # it may have come too late for anybody to ask
            else:
                away.cancel()

    async def look(self) -> None:
        """Ask for all of them at once, every LOOK_SECONDS. Without a database it is asked again; sessions end then."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if not self._waiting:
                continue
            try:
                refused = await self._threads.beat(services.recheck, list(self._waiting))
            except DatabaseError as error:
                logger.warning("it cannot be asked who may still be here: %s", error)
                continue
            except Exception:  # the outermost loop
                logger.exception("it could not be asked who may still be here")
                continue
            for admitted, refusal in refused.items():
                logger.info("turned away session=%s user=%s: %s", admitted.session_id, admitted.user_id, refusal.reason)
                for away in self._waiting.pop(admitted, ()):
                    if not away.done():
                        away.set_exception(TurnedAway(refusal.reason, has_log_in=refusal.has_log_in))
