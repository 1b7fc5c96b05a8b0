"""A websocket client on asyncio that sends at once and tells by callbacks: no task and no queue for each connection.

The protocol is the `websockets` library's; the pings are the real agent's.
Source: amazon-ssm-agent, agent/session/communicator/websocketchannel.go.
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from typing import Final, cast
from urllib.parse import urlsplit

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidState
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import CONNECTING, OPEN
from websockets.uri import parse_uri

from fleetops.messages import is_between_messages, join, split

OPEN_SECONDS: Final = 15.0  # for the connection and its upgrade, as for the agent's other calls
PING_SECONDS: Final = 54.0  # between two pings
FIRST_PONG_SECONDS: Final = 114.0  # until the first pong; each pong then gives 60 seconds more
PONG_SECONDS: Final = 60.0
MAX_MESSAGE: Final = 256 * 1024  # bytes; the largest frame that wire takes
WRITE_AHEAD: Final = 128 * 1024  # bytes in the transport's buffer from which on it is not writable


class Socket(asyncio.Protocol):
    """One websocket. `on_message` gets binary messages, `on_writable` is called when there is room again."""

    def __init__(self, url: str, headers: Mapping[str, str], on_message: Callable[[bytes], None]) -> None:
        self._protocol = ClientProtocol(parse_uri(url), max_size=MAX_MESSAGE)
        self._headers = headers
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []
        self._timers: list[asyncio.TimerHandle] = []
        self.on_writable: Callable[[], None] = lambda: None
        self.is_writable = True
        self.is_reading = True
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self.closed: asyncio.Future[str] = self._loop.create_future()  # the reason, when it ends

    @property
    def is_open(self) -> bool:
        return self._protocol.state is OPEN and not self._transport.is_closing()

    def send(self, *frames: bytes) -> None:
        """Send binary messages in one write; what can no longer go is lost, as on any broken connection."""
        if frames and self.is_open:
            self._transport.write(join(frames, masked=True))

    def send_text(self, text: str) -> None:
        if self.is_open:
            self._protocol.send_text(text.encode())
            self._flush()

    def set_reading(self, is_wanted: bool) -> None:
        """Read on, or leave what comes to TCP: then the other end cannot send for long."""
        if is_wanted is not self.is_reading and not self._transport.is_closing():
            self.is_reading = is_wanted
            (self._transport.resume_reading if is_wanted else self._transport.pause_reading)()

    def close(self) -> None:
        """End the connection: a close frame, then TCP's end; nothing is waited for."""
        if self.is_open:
            self._protocol.send_close(1000)
            self._flush()
        self._transport.close()

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_AHEAD)
        request = self._protocol.connect()
        for name, value in self._headers.items():
            if name.lower() != "host":  # the library writes its own, and the signature names the same
                request.headers[name] = value
        self._protocol.send_request(request)
        self._flush()

    def data_received(self, data: bytes) -> None:
        if is_between_messages(self._protocol):
            messages, position = split(data, masked=False)
            for message in messages:
                self._on_message(message)
            if position == len(data):
                return
            data = data[position:]
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                self._take(event)
            elif isinstance(event, Response):
                self._upgraded(event)
        self._flush()  # pongs, and the answer to a close frame
        if self._protocol.parser_exc is not None or (self._protocol.state not in (CONNECTING, OPEN)):
            self._transport.close()

    def pause_writing(self) -> None:
        self.is_writable = False

    def resume_writing(self) -> None:
        self.is_writable = True
        self.on_writable()

    def connection_lost(self, error: Exception | None) -> None:
        for timer in self._timers:
            timer.cancel()
        close = self._protocol.close_rcvd
        reason = (close.reason or f"code {close.code:d}") if close else str(error or "the connection was lost")
        if not self.opened.done():
            self.opened.set_exception(ConnectionError(reason))
        if not self.closed.done():
            self.closed.set_result(reason)
        self.is_writable = False

    def _upgraded(self, response: Response) -> None:
        if self.opened.done():
            return
        if self._protocol.handshake_exc is not None:
            body = (response.body or b"")[:200].decode(errors="replace")
            self.opened.set_exception(ConnectionError(f"status {response.status_code} {body}".strip()))
            self._transport.close()
            return
        self.opened.set_result(None)
        self._timers = [
            self._loop.call_later(PING_SECONDS, self._ping),
            self._loop.call_later(FIRST_PONG_SECONDS, self._silent),
        ]

    def _take(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.BINARY, Opcode.CONT, Opcode.TEXT):
            if frame.fin and not self._parts:
                self._on_message(bytes(frame.data))
                return
            self._parts.append(bytes(frame.data))
            if frame.fin:
                message, self._parts = b"".join(self._parts), []
                self._on_message(message)
        elif frame.opcode is Opcode.PONG:
            self._timers[1].cancel()
            self._timers[1] = self._loop.call_later(PONG_SECONDS, self._silent)

    def _ping(self) -> None:
        try:
            self._protocol.send_ping(b"keepalive")
        except InvalidState:
            return
        self._flush()
        self._timers[0] = self._loop.call_later(PING_SECONDS, self._ping)

    def _silent(self) -> None:
        self._transport.abort()

    def _flush(self) -> None:
        data = self._protocol.data_to_send()
        if data and not self._transport.is_closing():
            self._transport.write(data[0] if len(data) == 1 else b"".join(data))


async def open_websocket(
    url: str, headers: Mapping[str, str], context: ssl.SSLContext, on_message: Callable[[bytes], None]
) -> Socket:
    """Connect to a wss URL with these headers. Raises OSError (TimeoutError too) with the reason."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(OPEN_SECONDS):
        transport, socket = await loop.create_connection(
            lambda: Socket(url, headers, on_message), parts.hostname, parts.port or 443, ssl=context
        )
        try:
            await socket.opened
        except BaseException:
            transport.abort()
            raise
    return socket
