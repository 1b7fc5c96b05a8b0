"""A websocket as the channel half of the endpoint uses it, and the tokens that open one.

The sockets themselves, their pings and the limit on a message are uvicorn's; here is only what stands on ASGI's
`receive` and `send`.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

from fleetops.batches import batched
from fleetops.wire import AgentOpener, ClientOpener, ControlOpener, RemoteProtocolError, parse_opener

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Opener = ControlOpener | AgentOpener | ClientOpener

# What ASGI's `send` raises once the other end is gone: uvicorn's ClientDisconnected is an OSError; a RuntimeError is
# its word for a message after a close frame that it sent by itself (a ping that nobody answered, a shutdown).
_LOST: Final = (OSError, RuntimeError)

OPENER_SECONDS: Final = 15.0  # the real agent gives its own calls as long
TOKEN_SECONDS: Final = 300.0  # the life of a token that nobody used
TOKENS_EACH: Final = 8  # live tokens for one purpose; of more the oldest goes, so that no caller makes us grow
CLOSE_SECONDS: Final = 5.0  # for a close frame to leave; a peer that does not read is not waited for

NORMAL: Final = 1000
FAILED: Final = 1011  # websocket's "internal error"
REFUSED: Final = 1008  # websocket's "policy violation"; AWS's own code is not known


class Gone(ConnectionError):
    """The other end is gone. A class of its own, so that an error of ours, of a disk perhaps, is not taken for it."""


class Refused(Exception):
    """The websocket does not open; the text says why, and goes into the close frame."""


class Peer:
    """One accepted websocket. `send` may be called from several tasks: each message goes out whole."""

    __slots__ = ("_batched", "_last", "_receive", "_send", "is_closed")

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._batched = batched(receive)
        self._last: Message | None = None
        self.is_closed = False

    async def receive_all(self) -> list[Message]:
        """The ASGI messages that have come, at least one. Cancelled, it takes none. The end is told at each call."""
        if self._last is not None:
            return [self._last]
        if self._batched is not None:
            messages = await self._batched.receive_all()
        else:
            # Neither receive nor send of ASGI gives way while there is something to read and room to write: without
            # this, a session that streams keeps all others waiting.
            await asyncio.sleep(0)
            messages = [await self._receive()]
        if messages[-1]["type"] != "websocket.receive":
            self._last = messages[-1]
        return messages

    async def accept(self) -> bool:
        """Complete the upgrade; False if the caller went away before."""
        if (await self._receive())["type"] != "websocket.connect":
            return False
        try:
            await self._send({"type": "websocket.accept"})
        except _LOST:
            return False
        return True

    async def opener(self, seconds: float) -> Opener:
        """Read the first frame, which is text, within `seconds`.

        Raises Refused if it does not come, is no opener, or the connection ends; uvicorn itself ends one whose frame
        is over its limit.
        """
        try:
            async with asyncio.timeout(seconds):
                message = await self._receive()
        except TimeoutError:
            raise Refused(f"no opening message within {seconds:g} s") from None
        if message["type"] != "websocket.receive":
            raise Refused("the connection ended before its opening message")
        text = message.get("text")
        if text is None:
            raise Refused("the first frame is to be the opening message, as text")
        try:
            return parse_opener(text)
        except RemoteProtocolError:
            raise Refused("the first frame is no opening message") from None

    async def send(self, frame: bytes) -> None:
        """Send one binary message; waits while the peer does not read. Raises Gone."""
        if self.is_closed:
            raise Gone("the websocket is closed")
        try:
            await self._send({"type": "websocket.send", "bytes": frame})
        except _LOST as error:
            raise Gone(str(error)) from error

    async def send_all(self, frames: list[bytes]) -> None:
        """Send binary messages in one go. Errors as of send; none has gone then, or the connection is lost anyway."""
        if self._batched is None:
            for frame in frames:
                await self.send(frame)
        elif self.is_closed:
            raise Gone("the websocket is closed")
        else:
            try:
                await self._batched.send_all(frames)
            except _LOST as error:
                raise Gone(str(error)) from error

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Send a close frame, once; never raises, and does not wait for a peer that does not read."""
        if self.is_closed:
            return
        self.is_closed = True
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._send({"type": "websocket.close", "code": code, "reason": reason[:120]})
        except (*_LOST, TimeoutError):
            pass


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a token opens: a control channel ("control", its node) or one end of a session ("agent" or "client")."""

    kind: str
    subject: Any  # NodeKey, or the session's id


class Tokens:
    """Tokens that are out. Each opens one websocket, once, within TOKEN_SECONDS."""

    def __init__(self, seconds: float = TOKEN_SECONDS) -> None:
        self._seconds = seconds
        self._out: dict[Purpose, dict[str, float]] = {}  # purpose -> token -> when it ends

    def issue(self, purpose: Purpose, now: float) -> str:
        """Make a token; `now` is monotonic seconds."""
        live = self._out.setdefault(purpose, {})
        if len(live) >= TOKENS_EACH:
            del live[next(iter(live))]
        token = secrets.token_urlsafe(48)
        live[token] = now + self._seconds
        return token

    def spend(self, purpose: Purpose, token: str, now: float) -> bool:
        """Use a token up. False, and nothing is used, if it is not for this purpose, was used, or is too old."""
        live = self._out.get(purpose)
        ends_at = live.pop(token, None) if live else None
        if not live:
            self._out.pop(purpose, None)
        return ends_at is not None and now < ends_at

    def revoke(self, purpose: Purpose) -> None:
        """Forget all tokens for this purpose."""
        self._out.pop(purpose, None)

    def sweep(self, now: float) -> None:
        """Forget those whose time is over."""
        for purpose, live in list(self._out.items()):
            for token in [token for token, ends_at in live.items() if ends_at <= now]:
                del live[token]
            if not live:
                del self._out[purpose]
