"""uvicorn's websocket, which also hands over all messages of one read at once, and sends several in one write.

ASGI takes and gives one message at a time. Between processes that pass streams on, most of the cost is then a wake-up,
a pause of reading and a write for each frame, not the frames themselves.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import OPEN

from .messages import is_between_messages, join, split


class Inbox:
    """What has come and is not taken yet; asyncio.Queue for one reader, who may take all of it."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._waiting: asyncio.Future[None] | None = None

    def put_nowait(self, item: Any) -> None:
        self._items.append(item)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def empty(self) -> bool:
        return not self._items

    async def get(self) -> Any:
        await self._wait()
        return self._items.popleft()

    async def get_all(self) -> list[Any]:
        """Wait for something, and take all that is here. Cancelled, it takes nothing."""
        await self._wait()
        items = list(self._items)
        self._items.clear()
        return items

    async def _wait(self) -> None:
        while not self._items:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting


class BatchedWebSocket(WebSocketsSansIOProtocol):
    """For uvicorn's `ws` setting. An application that knows nothing of it sees plain ASGI."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.queue: Any = Inbox()

    def send_receive_event_to_app(self) -> None:
        # uvicorn stops reading at each message. Here reading stops when a read finds the one before it not taken yet:
        # at most two reads wait, 256 KiB each.
        was_paused, self.read_paused = self.read_paused, True
        super().send_receive_event_to_app()
        self.read_paused = was_paused

    def data_received(self, data: bytes) -> None:
        if not self.queue.empty() and not self.read_paused and not self.close_sent:
            self.read_paused = True
            self.transport.pause_reading()
        conn = self.conn
        if self.handshake_complete and not self.close_sent and is_between_messages(conn):
            messages, position = split(data, masked=True)
            for message in messages:
                self.queue.put_nowait({"type": "websocket.receive", "bytes": message})
            if position == len(data):
                return
            data = data[position:]
        super().data_received(data)

    async def receive_all(self) -> list[Any]:
        """All ASGI messages that are here, at least one."""
        messages: list[Any] = await self.queue.get_all()
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        return messages

    async def send_all(self, frames: Iterable[bytes]) -> None:
        """Send binary messages once there is room for the first; all or none. Raises as ASGI's send does."""
        await self.writable.wait()
        if self.disconnected:
            raise ClientDisconnected
        if self.close_sent:
            raise RuntimeError("a message after the close frame")
        if self.conn.state is not OPEN:
            raise ClientDisconnected
        self.transport.write(join(frames, masked=False))


def batched(receive: Callable[..., Any]) -> BatchedWebSocket | None:
    """The websocket behind an ASGI `receive`, if the server is uvicorn with BatchedWebSocket and nothing is between."""
    owner = getattr(receive, "__self__", None)
    return owner if isinstance(owner, BatchedWebSocket) else None
