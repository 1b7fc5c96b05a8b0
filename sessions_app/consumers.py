"""The terminal's websocket: who is there, what they may, and which process has their session.

Plain ASGI and not a Channels consumer: Channels' dispatch closes old database connections in a thread before each
message, which costs more than all the rest of a keystroke. Who the user is still comes from Channels' middleware.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import orjson
from django.conf import settings
from django.http.request import validate_host
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from fleetops.batches import batched
from fleetops.clock import now
from fleetops.errors import UserError
from fleetops.identity.models import User
from fleetops.web.context import RequestContext, within

from . import live, services
from .models import TerminalSession
from .proxy import MAX_COLS, MAX_ROWS, Proxy
from .readers import CTRL_C, ENTER, Gone, Peer, Reader
from .states import SessionKind
from .terminals import Elsewhere, Ended, Terminals, Unreachable
from .visitors import TurnedAway

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

ATTACH_SECONDS = 10.0
MAX_INPUT = 64 * 1024  # bytes of one frame of keystrokes
MAX_CONTROL = 4096  # characters of a control message
RELAY_SECONDS = 5.0
REPLAY = "/sessions/{}/replay/"  # sessions:replay; to look it up would load every page into this process

NOT_LOGGED_IN = 4401
REFUSED = 4403
NOT_FOUND = 4404
NO_ATTACH = 4408
ENDED = 4409
BAD_MESSAGE = 4400
FAULT = 4500
RESTARTING = 1012


class Closed(Exception):
    """Close the websocket with this code and these words."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class AsgiPeer:
    """A browser's own websocket."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._batched = batched(receive)
        self._is_gone = False  # behind what was received last

    async def send_text(self, text: str) -> None:
        await self._put({"type": "websocket.send", "text": text})

    async def send_bytes(self, data: bytes) -> None:
        if self._batched is None:
            await self._put({"type": "websocket.send", "bytes": data})
            return
        try:
            await self._batched.send_all([data])
        except (OSError, RuntimeError) as error:
            raise Gone from error

    async def _put(self, message: dict[str, Any]) -> None:
        try:
            await self._send(message)
        except (OSError, RuntimeError) as error:  # uvicorn's words for a socket that is gone, or was closed by it
            raise Gone from error

    async def send_many(self, frames: list[bytes]) -> None:
        """Send several binary messages, in one write where that can be."""
        if self._batched is None:
            for frame in frames:
                await self.send_bytes(frame)
        elif frames:
            try:
                await self._batched.send_all(frames)
            except (OSError, RuntimeError) as error:
                raise Gone from error

    async def receive(self) -> str | bytes:
        return _data_of(await self._receive())

    async def receive_many(self) -> list[str | bytes]:
        """All messages that are here, at least one."""
        if self._batched is None:
            return [await self.receive()]
        if self._is_gone:
            raise Gone
        messages = await self._batched.receive_all()
        self._is_gone = messages[-1]["type"] != "websocket.receive"
        found = [_data_of(message) for message in messages if message["type"] == "websocket.receive"]
        if not found:
            raise Gone
        return found

    async def close(self, code: int, reason: str = "") -> None:
        with contextlib.suppress(OSError, RuntimeError):
            await self._send({"type": "websocket.close", "code": code, "reason": _short(reason)})


def _data_of(message: MutableMapping[str, Any]) -> str | bytes:
    if message["type"] != "websocket.receive":
        raise Gone
    data = message.get("bytes")
    return data if data is not None else message.get("text") or ""


class RelayPeer:
    """A browser whose websocket another terminal process holds."""

    def __init__(self, connection: ServerConnection | ClientConnection) -> None:
        self._connection = connection

    async def send_text(self, text: str) -> None:
        await self._put(text)

    async def send_bytes(self, data: bytes) -> None:
        await self._put(data)

    async def send_many(self, frames: list[bytes]) -> None:
        for frame in frames:
            await self._put(frame)

    async def receive_many(self) -> list[str | bytes]:
        return [await self.receive()]

    async def _put(self, message: str | bytes) -> None:
        try:
            await self._connection.send(message)
        except ConnectionClosed as error:
            raise Gone from error

    async def receive(self) -> str | bytes:
        try:
            return await self._connection.recv()
        except ConnectionClosed as error:
            raise Gone from error

    async def close(self, code: int, reason: str = "") -> None:
        await self._connection.close(code, _short(reason))


class TerminalConsumer:
    """Serves terminal websockets of one process."""

    def __init__(self) -> None:
        self.terminals = Terminals(self.serve_relayed)
        # Serves clients of the command line, in place of browsers: see frontdoor.stream.
        self.serve_client: Callable[[Proxy, RelayPeer, dict[str, Any]], Awaitable[None]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One browser's websocket, below Channels' authentication.

        `scope["session_id"]` names the session, `scope["send"]` is the server's own, around the middleware.
        """
        send = scope["send"]
        if (await receive())["type"] != "websocket.connect":
            return
        # Closed before it is accepted, a browser sees a bare 403 and no reason.
        await send({"type": "websocket.accept"})
        peer = AsgiPeer(receive, send)
        client = scope.get("client") or ("", 0)
        with within("browser", source_address=client[0]) as context:
            try:
                await self._serve_browser(scope, peer, context)
            except Closed as closed:
                await peer.close(closed.code, closed.reason)
            except Gone:
                pass
            except Exception:  # the outermost loop of a browser: it is told, and the others live on
                logger.exception("a terminal's websocket failed session=%s", scope["session_id"])
                await peer.close(FAULT, "FleetOps met a fault of its own; it is in the log.")

    async def _serve_browser(self, scope: Scope, peer: Peer, context: RequestContext) -> None:
        if not is_origin_allowed(scope):
            raise Closed(REFUSED, "Terminals open from FleetOps's own pages only.")
        user = scope["user"]
        if not user.is_authenticated:
            raise Closed(NOT_LOGGED_IN, "Log in to open a terminal.")
        context.user, context.session = str(user.pk), str(scope["session_id"])
        attach = await _first_message(peer)
        log_in = scope["session"]  # read by now, for the user
        mfa_at, reason = log_in.get("mfa_at"), services.reason_given(log_in, scope["session_id"])
        context.second_factor = lambda user_id: mfa_at
        watch, join = attach["watch"], attach["join"]
        session = await self._admit(scope["session_id"], user, watch=watch, join=join, reason=reason)
        if not session.is_live:
            await self._tell_end(peer, session)
        admitted = services.Pass(
            session_id=session.pk,
            user_id=user.pk,
            log_in_key=log_in.session_key or "",
            log_in_hash=user.get_session_auth_hash(),
            is_own=session.user_id == user.pk,
            watch=watch,
            join=join and session.user_id != user.pk,
            source_address=context.source_address,
            mfa_at=mfa_at,
            since=now(),
            reason=reason if watch or join else session.reason,
        )
        # Said by who admitted them, also to the process that they may be relayed to.
        mode = live.WATCH if watch else live.JOIN if admitted.join else live.OWN
        attach["who"] = {"id": str(user.pk), "name": user.username, "mode": mode}
        with self.terminals.visitors.present(admitted) as away:
            attached = asyncio.ensure_future(self._attach(session.pk, peer, attach))
            try:
                await asyncio.wait({attached, away}, return_when=asyncio.FIRST_COMPLETED)
                if away.done():
                    away.result()
            except TurnedAway as turned:
                raise Closed(REFUSED if turned.has_log_in else NOT_LOGGED_IN, str(turned)) from None
            finally:
                attached.cancel()
                await asyncio.gather(attached, return_exceptions=True)
            attached.result()

    async def _admit(self, session_id: UUID, user: User, *, watch: bool, join: bool, reason: str) -> TerminalSession:
        try:
            return await self.terminals.threads.database(
                services.admit, session_id, user=user, watch=watch, join=join, reason=reason
            )
        except services.NotFound as error:
            raise Closed(NOT_FOUND, str(error)) from None
        except UserError as error:
            raise Closed(REFUSED, str(error)) from None

    async def _attach(self, session_id: UUID, peer: Peer, attach: dict[str, Any]) -> None:
        """Show the session, wherever it is held, until either side ends it. Raises Closed, Gone."""
        try:
            owner = await self.terminals.find(session_id)
            if isinstance(owner, Elsewhere):
                await relay(owner, session_id, peer, attach)
            else:
                await self._show(owner, peer, attach)
        except Ended as ended:
            await self._tell_end(peer, ended.session)
        except Unreachable as error:
            raise Closed(FAULT, str(error)) from None

    async def _tell_end(self, peer: Peer, session: TerminalSession) -> None:
        await _say_ended(peer, session.pk, session.end_reason)
        raise Closed(ENDED, session.end_reason)

    async def _show(self, proxy: Proxy, peer: Peer, attach: dict[str, Any]) -> None:
        """Serve a browser from a session that this process owns. Raises Closed, Gone."""
        writable = not attach["watch"] and proxy.session.kind != SessionKind.FORWARD
        person = live.Person.of(attach.get("who"), proxy.session)
        reader = Reader(proxy, peer, writable=writable, person=person)
        proxy.add(reader, person)
        showing: asyncio.Task[None] | None = None
        try:
            if proxy.transfer is not None and writable and person.mode == live.OWN:
                await proxy.transfer.serve(peer, person)
                raise Closed(ENDED, proxy.transfer.text)
            if writable and person.mode == live.OWN:  # who joins takes the size as it is, until they type
                reader.size = (attach["cols"], attach["rows"])
                proxy.resize(*reader.size)
            showing = asyncio.create_task(reader.show(attach["from"]))
            listening = asyncio.create_task(_listen(proxy, reader))
            try:
                done, _ = await asyncio.wait({showing, listening}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (showing, listening):
                    task.cancel()
                await asyncio.gather(showing, listening, return_exceptions=True)
            for task in done:
                task.result()  # raises what went wrong
        finally:
            proxy.remove(reader)
        if proxy.is_over:
            await _say_ended(peer, proxy.session.pk, proxy.end_reason)
            raise Closed(ENDED, proxy.end_reason)
        raise Closed(RESTARTING, "The process that holds this session restarts; coming back.")

    async def serve_relayed(self, connection: ServerConnection) -> None:
        """Serve a browser that another terminal process has admitted and relays."""
        peer = RelayPeer(connection)
        try:
            hello = orjson.loads(await peer.receive())
            proxy = self.terminals.proxies.get(UUID(hello["session"]))
            if proxy is None or proxy.is_let_go:
                raise Closed(RESTARTING, "The session has moved; coming back.")
            if "client" in hello["attach"] and self.serve_client is not None:
                await self.serve_client(proxy, peer, hello["attach"])
            else:
                await self._show(proxy, peer, hello["attach"])
        except Closed as closed:
            await peer.close(closed.code, closed.reason)
        except Gone:
            pass


async def relay(owner: Elsewhere, session_id: UUID, peer: Peer, attach: dict[str, Any]) -> None:
    """Pass a browser's messages to the process that owns its session, and back. Raises Closed, Gone."""
    try:
        async with connect(
            owner.url,
            additional_headers={"Authorization": f"Bearer {owner.token}"},
            compression=None,
            max_size=1 << 19,
            max_queue=2,
            open_timeout=RELAY_SECONDS,
            proxy=None,
            user_agent_header=None,
        ) as connection:
            other = RelayPeer(connection)
            await other.send_text(orjson.dumps({"session": str(session_id), "attach": attach}).decode())
            tasks = {asyncio.create_task(_pass_on(peer, other)), asyncio.create_task(_pass_on(other, peer))}
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            code, reason = connection.close_code, connection.close_reason
    except (OSError, TimeoutError, InvalidHandshake, Gone):
        code, reason = None, ""
    if code is None or code < 4000:
        raise Closed(RESTARTING, "The process that holds this session restarts; coming back.")
    raise Closed(code, reason or "")


async def _pass_on(source: Peer, target: Peer) -> None:
    while True:
        message = await source.receive()
        if isinstance(message, str):
            await target.send_text(message)
        else:
            await target.send_bytes(message)
        await asyncio.sleep(0)  # others want their turn


async def _listen(proxy: Proxy, reader: Reader) -> None:
    """Take what one browser sends, until it is gone. Raises Gone, Closed."""
    peer = reader.peer
    while True:
        message = await peer.receive()
        if isinstance(message, bytes):
            if len(message) > MAX_INPUT:
                raise Closed(BAD_MESSAGE, f"Keystrokes come in frames of at most {MAX_INPUT} bytes.")
            if not reader.writable or not message:
                continue
            if CTRL_C in message:
                reader.interrupt()
            elif ENTER in message:
                reader.asked_anew()
            proxy.people.typed(reader.person)
            await proxy.type(message)
            continue
        control = _control(message)
        if control["type"] == "seen":
            reader.has_seen(_number(control.get("offset")))
        elif control["type"] == "size" and reader.writable:
            reader.size = _size(control)
            proxy.resize(*reader.size)
        elif control["type"] == "ping":  # a browser that slept asks whether its websocket still lives
            reader.tell({"type": "pong"})


async def _first_message(peer: Peer) -> dict[str, Any]:
    """The attach message, checked. Raises Closed."""
    try:
        async with asyncio.timeout(ATTACH_SECONDS):
            message = await peer.receive()
    except TimeoutError:
        raise Closed(NO_ATTACH, "The browser did not say what it wants to attach to.") from None
    if not isinstance(message, str):
        raise Closed(NO_ATTACH, "The first message has to be “attach”.")
    control = _control(message)
    if control["type"] != "attach":
        raise Closed(NO_ATTACH, "The first message has to be “attach”.")
    cols, rows = _size(control)
    start = control.get("from")
    return {
        "cols": cols,
        "rows": rows,
        "from": None if start is None else _number(start),
        "watch": control.get("watch") is True,
        "join": control.get("join") is True and control.get("watch") is not True,
    }


def _control(message: str) -> dict[str, Any]:
    if len(message) > MAX_CONTROL:
        raise Closed(BAD_MESSAGE, "A control message is too long.")
    try:
        control = orjson.loads(message)
    except orjson.JSONDecodeError:
        raise Closed(BAD_MESSAGE, "A control message is no JSON.") from None
    if not isinstance(control, dict) or not isinstance(control.get("type"), str):
        raise Closed(BAD_MESSAGE, "A control message has no type.")
    return control


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise Closed(BAD_MESSAGE, "A size or an offset is no number of at least 0.")
    return int(value)


def _size(control: dict[str, Any]) -> tuple[int, int]:
    """The size in a message, within what a terminal can have."""
    cols, rows = _number(control.get("cols")), _number(control.get("rows"))
    return max(1, min(cols, MAX_COLS)), max(1, min(rows, MAX_ROWS))


async def _say_ended(peer: Peer, session_id: UUID, reason: str) -> None:
    message = {"type": "ended", "text": reason, "replay": REPLAY.format(session_id)}
    await peer.send_text(orjson.dumps(message).decode())


def is_origin_allowed(scope: Scope) -> bool:
    """Whether the page that opens this websocket is one of ours.

    With TERMINAL_ORIGINS set, it is one of these. Else it has the host name by which the browser reached us, one that
    we answer to, and a port of ours: cookies know no ports, so another server on this machine must not come in on them.
    """
    headers = dict(scope["headers"])
    origin = headers.get(b"origin", b"").decode("latin-1")
    if settings.TERMINAL_ORIGINS:
        return origin in settings.TERMINAL_ORIGINS
    try:
        page, host = urlsplit(origin), urlsplit("//" + headers.get(b"host", b"").decode("latin-1"))
        if page.scheme not in ("http", "https") or not page.hostname or page.hostname != host.hostname:
            return False
        usual = 443 if page.scheme == "https" else 80
        port = page.port or usual
        name = f"[{page.hostname}]" if ":" in page.hostname else page.hostname
        return port in {settings.PORT, settings.TERMINAL_PORT, host.port or usual} and validate_host(
            name, settings.ALLOWED_HOSTS
        )
    except ValueError:  # a port that is none
        return False


def _short(reason: str) -> str:
    """What fits into a close frame: 123 bytes."""
    return reason.encode()[:123].decode(errors="ignore")
