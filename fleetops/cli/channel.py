"""The client's end of a session's data channel: it comes back by itself when its connection is lost."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from uuid import uuid4

from fleetops.cli.errors import Refused, Unreachable
from fleetops.cli.websocket import Closed, Websocket
from fleetops.wire import (
    ChannelClosed,
    DataChannel,
    Event,
    ExitCodeReceived,
    HandshakeRequested,
    RemoteProtocolError,
    Role,
    open_data_channel_client,
    payloads,
)

CLIENT_VERSION = "1.2.650.0"  # of the plugin whose protocol this is
RETRY_SECONDS = 60  # the process that holds the session may be started anew meanwhile
PING_SECONDS = 30
_ENDED = range(4000, 5000)  # close codes by which FleetOps says that coming back is of no use

# Gives the way in: stream URL and token. It may block, and raises Refused if the session is over.
Renew = Callable[[], tuple[str, str]]


class Channel:
    """One session. `on_event` gets what it learns, in order, and may wait: then nothing more is read."""

    def __init__(
        self,
        session_id: str,
        way: tuple[str, str],
        renew: Renew,
        *,
        tls: ssl.SSLContext | None,
        on_event: Callable[[Event], Awaitable[None]],
    ) -> None:
        self._way: tuple[str, str] | None = way
        self._renew = renew
        self._tls = tls
        self._on_event = on_event
        self._client_id = str(uuid4())
        self._loop = asyncio.get_running_loop()
        self._socket: Websocket | None = None
        self._room = asyncio.Event()
        self.channel = DataChannel(Role.CLIENT, new_id=uuid4, session_id=session_id)
        self.exit_code: int | None = None
        self.farewell = ""  # why the session ended, in the server's words; empty for its natural end

    def now(self) -> float:
        return self._loop.time()

    async def run(self) -> None:
        """Hold the channel until the session is over. Raises Refused."""
        lost_at: float | None = None
        delay = 0.0
        while True:
            try:
                await self._connect()
                lost_at, delay = None, 0.0
                if await self._read():
                    return
            except (Closed, Unreachable) as error:
                if isinstance(error, Closed) and error.code in _ENDED:
                    raise Refused(error.reason) from None
                lost_at = lost_at or self.now()
                if self.now() - lost_at > RETRY_SECONDS:
                    raise Unreachable(f"The session could not be reached again for {RETRY_SECONDS} s.") from None
            self._socket = None
            await asyncio.sleep(delay)
            delay = min(2.0, delay * 2 or 0.1)

    async def _connect(self) -> None:
        url, token = self._way or await asyncio.to_thread(self._renew)
        self._way = None
        socket = await Websocket.open(url, tls=self._tls)
        opener = open_data_channel_client(uuid4(), token, client_id=self._client_id, client_version=CLIENT_VERSION)
        socket.send_text(opener)
        self._socket = socket
        self.channel.reconnected(now=self.now())
        self.flush()

    async def _read(self) -> bool:
        """Take what comes; returns True once the session is over. Raises Closed when the connection is."""
        assert self._socket is not None
        socket = self._socket
        repeating = asyncio.create_task(self._repeat(socket))
        try:
            while True:
                message = await socket.receive()
                try:
                    self.channel.receive(message, now=self.now())
                except RemoteProtocolError as error:
                    raise Refused(f"The server broke the protocol: {error}.") from None
                for event in self.channel.events():
                    if isinstance(event, ChannelClosed):
                        self.farewell = event.output.strip()
                        return True
                    await self._happen(event)
                self.flush()
                self._room.set()
        finally:
            repeating.cancel()
            socket.close()

    async def _happen(self, event: Event) -> None:
        if isinstance(event, HandshakeRequested):
            answer = payloads.answer_handshake(event.request, client_version=CLIENT_VERSION)
            self.channel.respond_handshake(answer, now=self.now())
        elif isinstance(event, ExitCodeReceived):
            self.exit_code = event.code
        await self._on_event(event)

    async def _repeat(self, socket: Websocket) -> None:
        """Send again what is not acknowledged, and say now and then that we are there."""
        pinged_at = self.now()
        while True:
            await asyncio.sleep(0.1)
            self.channel.handle_timeout(now=self.now())
            self.flush()
            if self.now() - pinged_at > PING_SECONDS:
                pinged_at = self.now()
                socket.ping()

    def flush(self) -> None:
        if self._socket is not None:
            self._socket.send(self.channel.data_to_send())

    async def send(self, data: bytes) -> None:
        """Send bytes, once there is room for them; kept until they have arrived, whatever happens to the connection."""
        for start in range(0, len(data), 1024):
            piece = data[start : start + 1024]
            while not self.channel.can_send or self.channel.unacknowledged_bytes > 256 * 1024:
                self._room.clear()
                await self._room.wait()
            self.channel.send_input(piece, now=self.now())
            self.flush()
