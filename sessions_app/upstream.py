"""The websocket towards SSM: bytes in, whole messages out, in the very callback of the socket.

No task and no queue stand between the socket and the proxy: what arrives is handed over at once, all messages of one
read together, and the event loop turns to the other sockets after each read. So one session that floods cannot keep
another waiting longer than a read takes.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from functools import lru_cache
from typing import cast
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import OPEN
from websockets.uri import parse_uri

from fleetops.messages import is_between_messages, join, split
from fleetops.wire.frames import MAX_FRAME
from fleetops.wire.payloads import open_data_channel_client

logger = logging.getLogger(__name__)

_DATA = (Opcode.BINARY, Opcode.TEXT, Opcode.CONT)

# Four numeric parts, above 1.2.331: see "Version rules" of the protocol.
CLIENT_VERSION = "1.2.650.0"
DIAL_SECONDS = 10.0
# The plugin pings every 5 minutes; load balancers and NATs in between forget a connection sooner.
PING_SECONDS = 30.0
# A gateway that does not answer two pings in a row is gone, whatever TCP still believes.
SILENCE_SECONDS = 75.0


class UpstreamLost(Exception):
    """The websocket could not be opened; the text says why, without token or URL."""


class Upstream(asyncio.Protocol):
    """The client's end of one websocket of a data channel.

    `on_messages` gets all messages of one read; `on_lost` is called once, with a few words for the log.
    """

    def __init__(
        self,
        stream_url: str,
        *,
        on_messages: Callable[[list[bytes]], None],
        on_lost: Callable[[Upstream, str], None],
        on_writable: Callable[[], None],
    ) -> None:
        self._on_messages = on_messages
        self._on_lost = on_lost
        self._on_writable = on_writable
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._websocket = ClientProtocol(parse_uri(stream_url), max_size=MAX_FRAME)
        self._transport: asyncio.Transport | None = None
        self._parts: list[bytes] = []
        self._ping: asyncio.TimerHandle | None = None
        self._heard_at = self._loop.time()
        self._is_ours = True  # False once we have let go of it: on_lost is not called then
        self.can_write = True
        self._is_paused = False

    async def open(self, token: str, client_id: UUID) -> None:
        """Wait for the end of the handshake, then send the opener. Raises UpstreamLost."""
        try:
            await asyncio.wait_for(asyncio.shield(self._opened), DIAL_SECONDS)
        except TimeoutError:
            self.close()
            raise UpstreamLost(f"no answer within {DIAL_SECONDS:.0f} s") from None
        self._websocket.send_text(
            open_data_channel_client(uuid4(), token, client_id=str(client_id), client_version=CLIENT_VERSION).encode()
        )
        self._flush()

    def send(self, frames: list[bytes]) -> None:
        """Send messages; what a dead socket loses is repeated by the data channel over the next one."""
        transport = self._transport
        if frames and self._websocket.state is OPEN and transport is not None and not transport.is_closing():
            transport.write(join(frames, masked=True))

    def pause(self) -> None:
        """Read nothing more for now."""
        if not self._is_paused and self._transport is not None and not self._transport.is_closing():
            self._is_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._is_paused and self._transport is not None and not self._transport.is_closing():
            self._is_paused = False
            self._heard_at = self._loop.time()
            self._transport.resume_reading()

    def close(self) -> None:
        """Let go of the socket without a word, as the plugin does; on_lost is not called."""
        self._is_ours = False
        self._opened.cancel()
        self._shut()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._websocket.send_request(self._websocket.connect())
        self._flush()
        self._ping = self._loop.call_later(PING_SECONDS, self._send_ping)

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        websocket = self._websocket
        messages: list[bytes] = []
        if is_between_messages(websocket):
            messages, position = split(data, masked=False)
            if position == len(data):
                self._on_messages(messages)
                return
            data = data[position:]
        websocket.receive_data(data)
        for event in websocket.events_received():
            if isinstance(event, Frame):
                if event.opcode in _DATA:
                    if event.fin and not self._parts:
                        messages.append(bytes(event.data))
                    else:
                        self._parts.append(bytes(event.data))
                        if event.fin:
                            messages.append(b"".join(self._parts))
                            self._parts.clear()
            elif isinstance(event, Response) and not self._opened.done():
                self._answered(websocket.handshake_exc)
        if messages:
            self._on_messages(messages)
        if websocket.writes:  # a pong, or the answer to a close
            self._flush()
        if websocket.close_expected():
            self._shut()
        elif websocket.handshake_exc is not None and not self._opened.done():
            self._answered(websocket.handshake_exc)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        """A gateway that sends and does not read would make our acknowledges pile up."""
        self.can_write = False
        self.pause()

    def resume_writing(self) -> None:
        self.can_write = True
        self._on_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._ping is not None:
            self._ping.cancel()
            self._ping = None
        close = self._websocket.close_rcvd
        reason = f"closed with {close.code} {close.reason}".strip() if close else f"{exc}" if exc else "connection lost"
        if not self._opened.done():
            self._answered(UpstreamLost(reason))
        elif self._is_ours:
            self._is_ours = False
            self._on_lost(self, reason)

    # Ours

    def _answered(self, error: Exception | None) -> None:
        if error is None:
            self._opened.set_result(None)
            return
        self._is_ours = False
        self._opened.set_exception(error if isinstance(error, UpstreamLost) else UpstreamLost(str(error)))
        self._shut()

    def _flush(self) -> None:
        data = self._websocket.data_to_send()
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if len(data) == 1:
            transport.write(data[0])
        elif data:
            transport.write(b"".join(data))

    def _send_ping(self) -> None:
        self._ping = None
        if self._transport is None or self._transport.is_closing():
            return
        if not self._is_paused and self._loop.time() - self._heard_at > SILENCE_SECONDS:
            self._transport.abort()
            return
        if self._websocket.state is OPEN:
            self._websocket.send_ping(b"keepalive")
            self._flush()
        self._ping = self._loop.call_later(PING_SECONDS, self._send_ping)

    def _shut(self) -> None:
        if self._ping is not None:
            self._ping.cancel()
            self._ping = None
        if self._transport is not None:
            self._transport.abort()


@lru_cache(maxsize=64)
def _tls(ca_pem: str) -> ssl.SSLContext:
    """The context of an account: its own CA, else the system's."""
    return ssl.create_default_context(cadata=ca_pem or None)


async def dial(
    stream_url: str,
    token: str,
    *,
    ca_pem: str,
    client_id: UUID,
    on_messages: Callable[[list[bytes]], None],
    on_lost: Callable[[Upstream, str], None],
    on_writable: Callable[[], None],
) -> Upstream:
    """Open the websocket that StartSession or ResumeSession told of, and send the opener.

    Raises UpstreamLost.
    """
    parts = urlsplit(stream_url)
    if parts.scheme != "wss" or not parts.hostname:
        raise UpstreamLost("the stream's address is not wss")
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(DIAL_SECONDS):
            _, upstream = await loop.create_connection(
                lambda: Upstream(stream_url, on_messages=on_messages, on_lost=on_lost, on_writable=on_writable),
                parts.hostname,
                parts.port or 443,
                ssl=_tls(ca_pem),
                server_hostname=parts.hostname,
            )
    except TimeoutError:
        raise UpstreamLost(f"no connection within {DIAL_SECONDS:.0f} s") from None
    except (OSError, InvalidHandshake) as error:
        raise UpstreamLost(str(error)) from None
    await upstream.open(token, client_id)
    return upstream
