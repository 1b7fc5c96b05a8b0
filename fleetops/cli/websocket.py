"""A websocket's client end with the standard library alone: whole messages in and out. Source: RFC 6455."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import ssl
from urllib.parse import urlsplit

from fleetops.cli.errors import Unreachable

OPEN_SECONDS = 15
MOST_BYTES = 1 << 20  # of one message
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


class Closed(Exception):
    """The other end has closed, or is gone."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason or f"closed with {code}")
        self.code = code
        self.reason = reason


class Websocket:
    """One connection. Not for several readers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, url: str, *, tls: ssl.SSLContext | None) -> Websocket:
        """Raises Unreachable."""
        parts = urlsplit(url)
        is_secure = parts.scheme == "wss"
        host, port = parts.hostname or "", parts.port or (443 if is_secure else 80)
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                reader, writer = await asyncio.open_connection(
                    host, port, ssl=tls if is_secure else None, server_hostname=host if is_secure else None
                )
                key = base64.b64encode(os.urandom(16))
                path = parts.path + (f"?{parts.query}" if parts.query else "")
                writer.write(
                    f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    f"Sec-WebSocket-Key: {key.decode()}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
                )
                head = await reader.readuntil(b"\r\n\r\n")
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise Unreachable(
                f"The session's stream at {parts.netloc} cannot be reached: {error or 'no answer'}."
            ) from None
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        expected = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest()).decode()
        if " 101 " not in f"{status} " or headers.get("sec-websocket-accept") != expected:
            writer.close()
            raise Unreachable(f"{parts.netloc} does not open the session's stream: {status}.")
        return cls(reader, writer)

    async def receive(self) -> bytes:
        """The next message; pings are answered on the way. Raises Closed."""
        message = b""
        while True:
            opcode, is_last, data = await self._frame()
            if opcode == _PING:
                self._write(_PONG, data)
            elif opcode == _CLOSE:
                self.close()
                raise Closed(int.from_bytes(data[:2], "big") or 1005, data[2:].decode("utf-8", "replace"))
            elif opcode in (_CONTINUATION, _TEXT, _BINARY):
                message += data
                if len(message) > MOST_BYTES:
                    raise Closed(1009, "a message is too long")
                if is_last:
                    return message

    async def _frame(self) -> tuple[int, bool, bytes]:
        try:
            first, length = await self._reader.readexactly(2)
            if length == 126:
                length = int.from_bytes(await self._reader.readexactly(2), "big")
            elif length == 127:
                length = int.from_bytes(await self._reader.readexactly(8), "big")
            if length > MOST_BYTES:
                raise Closed(1009, "a message is too long")
            return first & 0x0F, bool(first & 0x80), await self._reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise Closed(1006, "the connection was lost") from error

    def send_text(self, text: str) -> None:
        self._write(_TEXT, text.encode())

    def send(self, messages: list[bytes]) -> None:
        for message in messages:
            self._write(_BINARY, message)

    def ping(self) -> None:
        self._write(_PING, b"keepalive")

    def _write(self, opcode: int, data: bytes) -> None:
        if self._writer.is_closing():
            return
        size = len(data)
        if size < 126:
            head = bytes((0x80 | opcode, 0x80 | size))
        elif size < 65536:
            head = bytes((0x80 | opcode, 0x80 | 126)) + size.to_bytes(2, "big")
        else:
            head = bytes((0x80 | opcode, 0x80 | 127)) + size.to_bytes(8, "big")
        mask = os.urandom(4)
        whole = int.from_bytes((mask * (size // 4 + 1))[:size], "big") ^ int.from_bytes(data, "big")
        self._writer.write(head + mask + whole.to_bytes(size, "big"))

    async def drain(self) -> None:
        """Wait until the other end takes more. Raises Closed."""
        try:
            await self._writer.drain()
        except OSError as error:
            raise Closed(1006, "the connection was lost") from error

    def close(self) -> None:
        self._writer.close()
