"""The terminal process's ASGI application: terminals' websockets, and the CLI's door below /aws/."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from uuid import UUID

from channels.auth import AuthMiddlewareStack

from .consumers import NOT_FOUND, TerminalConsumer
from .frontdoor import api, stream

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# Seconds after which a thread that seals recordings has to let the event loop go on. Python's own 5 ms are waited for
# again after each write, which lets threads in: of 200 busy sessions' time, a fifth went into that queue.
SWITCH_SECONDS = 0.0005

_PATH = re.compile(r"/ws/sessions/(?P<session>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/")


class TerminalApplication:
    """Routes what a terminal process is asked."""

    def __init__(self) -> None:
        self.consumer = TerminalConsumer()
        self._authenticated = AuthMiddlewareStack(self.consumer)
        self._front_door = api.FrontDoor(self.consumer)
        self._client_stream = stream.ClientStream(self.consumer)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            if found := _PATH.fullmatch(scope["path"]):
                scope["session_id"] = UUID(found["session"])
                # The session middleware wraps it, to set cookies that no terminal needs, at a price for each message.
                scope["send"] = send
                await self._authenticated(scope, receive, send)
            elif found := stream.PATH.fullmatch(scope["path"]):
                await self._client_stream(scope, receive, send, UUID(found["session"]))
            else:
                await receive()
                await send({"type": "websocket.accept"})
                await send({"type": "websocket.close", "code": NOT_FOUND, "reason": "There is nothing here."})
        elif scope["type"] == "http" and scope["path"] in api.PATHS:
            await self._front_door(scope, receive, send)
        elif scope["type"] == "http":
            await _answer_http(scope, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        """Start with the server, and let go of all sessions when it ends."""
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                sys.setswitchinterval(SWITCH_SECONDS)
                try:
                    await self.consumer.terminals.start()
                except Exception as error:  # the outermost loop: the server is told why, and ends
                    logger.exception("the terminal process cannot start")
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.consumer.terminals.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return


async def _answer_http(scope: Scope, send: Send) -> None:
    body = b"This port takes terminals' websockets, and the aws CLI at /aws/.\n"
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 404, "headers": headers})
    await send({"type": "http.response.body", "body": body if scope.get("method") != "HEAD" else b""})


def terminal_application() -> TerminalApplication:
    """The application that `uvicorn fleetops.asgi:terminal` serves."""
    return TerminalApplication()
