"""uvicorn's HTTP/1.1, with bounds on the head of a request: whoever sends it is not known before it has ended."""

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES: Final = 64 * 1024  # request line and headers; a presigned URL with a session token has some 3 KiB
HEAD_SECONDS: Final = 30.0  # for all of it, and for a new connection's first byte


class Http(HttpToolsProtocol):
    """One connection. uvicorn itself bounds only the time between two requests."""

    _left = HEAD_BYTES
    _in_head = True
    _heads = 0  # that were whole
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_here()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        was_in_head, heads = self._in_head, self._heads
        super().data_received(data)
        # Where a head ended in it, what was read was a body too: a whole request, and perhaps the next one's beginning.
        if was_in_head and self._in_head and heads == self._heads:
            self._left -= len(data)
            if self._left < 0 and not self.transport.is_closing():
                self.send_400_response("The head of the request is too large.")

    def on_message_begin(self) -> None:
        self._await_head()
        super().on_message_begin()
        self.scope["fleetops.abort"] = self._abort

    def on_headers_complete(self) -> None:
        self._heads += 1
        self._head_is_here()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._left, self._in_head = HEAD_BYTES, True

    def _abort(self) -> None:
        """Lose the connection, as a network does: what was read is not answered. For faults on demand."""
        self.transport.abort()

    def _await_head(self) -> None:
        self._head_is_here()
        self._left, self._in_head = HEAD_BYTES, True
        self._patience = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _head_is_here(self) -> None:
        self._in_head = False
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.send_400_response("The head of the request did not come in time.")
