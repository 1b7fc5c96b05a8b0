"""The websocket of a client of the command line: /aws/stream/<session>, as StartSession has told it.

Nobody is logged in here and nothing is signed: the word in the client's first frame is all that it shows. It ends as a
browser does, when its session ends or it may no longer be there; but a client is told so in a message of its protocol.
A websocket that is merely closed makes the plugin ask for a new word (ResumeSession) and come again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from typing import Any
from uuid import UUID

from fleetops.errors import UserError
from fleetops.web.context import within
from fleetops.wire import ClientOpener, RemoteProtocolError, parse_opener

from .. import live
from ..carried import STREAM_ENDS
from ..consumers import (
    ATTACH_SECONDS,
    BAD_MESSAGE,
    ENDED,
    FAULT,
    NO_ATTACH,
    REFUSED,
    RESTARTING,
    AsgiPeer,
    Closed,
    Receive,
    RelayPeer,
    Scope,
    Send,
    TerminalConsumer,
    relay,
)
from ..proxy import Proxy
from ..readers import Gone
from ..terminals import Elsewhere, Ended, Unreachable
from ..visitors import TurnedAway
from . import tokens
from .channel import ClientEnd, ClientGone, closing
from .kept import KeptFile

logger = logging.getLogger(__name__)

PATH = re.compile(r"/aws/stream/(?P<session>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
LAST_SECONDS = 2.0  # a client is given to take the last of the output, and then to go
_CLIENT_ID = re.compile(r"[0-9A-Za-z-]{1,64}")


class Told(Exception):
    """The client is to be told this in its own protocol, and then closed."""

    def __init__(self, text: str, code: int = REFUSED) -> None:
        super().__init__(text)
        self.code = code


class ClientStream:
    """Serves clients' websockets of one terminal process."""

    def __init__(self, consumer: TerminalConsumer) -> None:
        self._terminals = consumer.terminals
        consumer.serve_client = self.serve_owned

    async def __call__(self, scope: Scope, receive: Receive, send: Send, session_id: UUID) -> None:
        if (await receive())["type"] != "websocket.connect":
            return
        await send({"type": "websocket.accept"})
        peer = AsgiPeer(receive, send)
        address = (scope.get("client") or ("", 0))[0]
        with within("cli", source_address=address):
            try:
                await self._serve(peer, session_id)
            except Told as told:
                await _say(peer, session_id, str(told))
                await peer.close(told.code, str(told))
            except Closed as closed:
                await peer.close(closed.code, closed.reason)
            except Gone:
                pass
            except Exception:  # the outermost loop of a client: it is told, and the others live on
                logger.exception("a client's websocket failed session=%s", session_id)
                await peer.close(FAULT, "FleetOps met a fault of its own; it is in the log.")

    async def _serve(self, peer: AsgiPeer, session_id: UUID) -> None:
        opener = await _opener(peer)
        try:
            let_in = await self._terminals.threads.database(tokens.spend, opener.token, session_id)
        except tokens.NotLetIn as error:
            raise Closed(REFUSED, str(error)) from None  # the plugin asks for another
        except UserError as error:
            raise Told(str(error)) from None
        session = let_in.session
        if not session.is_live:
            raise Told(farewell(session), ENDED)
        client = {"id": opener.client_id, "ours": let_in.is_ours}
        who = {"id": str(session.user_id), "name": let_in.name, "mode": live.OWN}
        with self._terminals.visitors.present(let_in.admitted) as away:
            attached = asyncio.ensure_future(self._attach(session_id, peer, {"client": client, "who": who}))
            try:
                await asyncio.wait({attached, away}, return_when=asyncio.FIRST_COMPLETED)
                if away.done():
                    away.result()
            except TurnedAway as turned:
                raise Told(str(turned)) from None
            finally:
                attached.cancel()
                await asyncio.gather(attached, return_exceptions=True)
            attached.result()

    async def _attach(self, session_id: UUID, peer: AsgiPeer, attach: dict[str, Any]) -> None:
        """Serve the client, wherever its session is held. Raises Closed, Gone, Told."""
        try:
            owner = await self._terminals.find(session_id)
            if isinstance(owner, Elsewhere):
                await relay(owner, session_id, peer, attach)
            else:
                await self.serve_owned(owner, peer, attach)
        except Ended as ended:
            raise Told(farewell(ended.session), ENDED) from None
        except Unreachable as error:
            raise Closed(FAULT, str(error)) from None

    async def serve_owned(self, proxy: Proxy, peer: AsgiPeer | RelayPeer, attach: dict[str, Any]) -> None:
        """Serve a client from a session that this process owns. Raises Closed, Gone."""
        try:
            client = _client_of(proxy, attach["client"])
        except ClientGone as error:
            await _say(peer, proxy.session.pk, str(error))
            raise Closed(REFUSED, str(error)) from None
        before, client.peer = client.peer, peer
        if before is not None:
            await before.close(RESTARTING, "The client came again.")
        person = live.Person.of(attach.get("who"), proxy.session)
        proxy.add(client, person)
        try:
            client.connected()
            showing = asyncio.create_task(_show(client, peer))
            listening = asyncio.create_task(_listen(client, peer))
            try:
                done, _ = await asyncio.wait({showing, listening}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (showing, listening):
                    task.cancel()
                await asyncio.gather(showing, listening, return_exceptions=True)
            for task in done:
                task.result()  # raises what went wrong
        except ClientGone as error:
            proxy.end(str(error), kind="client")
            await _say(peer, proxy.session.pk, str(error))
            raise Closed(REFUSED, str(error)) from None
        finally:
            if client.peer is peer:
                client.peer = None
                proxy.remove(client)
        if proxy.is_over:
            await _say(peer, proxy.session.pk, farewell_of(proxy))
            with contextlib.suppress(TimeoutError, Gone):
                async with asyncio.timeout(LAST_SECONDS):  # it closes once it has read that
                    while True:
                        await peer.receive()
            raise Closed(ENDED, proxy.end_reason)
        raise Closed(RESTARTING, "The process that holds this session restarts; coming back.")


async def _opener(peer: AsgiPeer) -> ClientOpener:
    """The client's first frame. Raises Closed."""
    try:
        async with asyncio.timeout(ATTACH_SECONDS):
            message = await peer.receive()
        opener = parse_opener(message if isinstance(message, str) else message.decode("utf-8", "replace"))
    except TimeoutError:
        raise Closed(NO_ATTACH, "The client did not open its channel.") from None
    except RemoteProtocolError:
        raise Closed(BAD_MESSAGE, "The first frame is not what opens a channel.") from None
    if not isinstance(opener, ClientOpener) or not _CLIENT_ID.fullmatch(opener.client_id):
        raise Closed(BAD_MESSAGE, "The first frame does not open a client's channel.")
    return opener


def _client_of(proxy: Proxy, asked: dict[str, Any]) -> ClientEnd:
    """The client that comes again, or a new one. Raises ClientGone."""
    client = proxy.client
    if client is None or client.kept.client_id != asked["id"]:
        if proxy.carried is not None:
            file, kept = proxy.carried.file, proxy.carried.kept
        else:
            file = KeptFile(proxy.journal.directory)
            kept = file.read()
        client = ClientEnd(proxy, asked["id"], is_ours=asked["ours"] is True, file=file, kept=kept)
        proxy.client = client
    return client


async def _show(client: ClientEnd, peer: AsgiPeer | RelayPeer) -> None:
    """Send what there is, until the session is over or no longer this process's. Raises Gone, ClientGone."""
    proxy = client.proxy
    loop = asyncio.get_running_loop()
    leave_at, through = 0.0, -1
    while True:
        client.wakes.clear()
        client.pump()
        await peer.send_many(client.frames())
        wait = client.timeout()
        if proxy.is_over:
            if not leave_at or client.channel.acknowledged_through > through:
                leave_at, through = loop.time() + LAST_SECONDS, client.channel.acknowledged_through
            if client.is_drained or loop.time() >= leave_at:
                return
            wait = min(leave_at - loop.time(), LAST_SECONDS if wait is None else wait)
        elif proxy.is_let_go:
            return
        try:
            async with asyncio.timeout(wait):
                await client.wakes.wait()
        except TimeoutError:
            client.repeat()


async def _listen(client: ClientEnd, peer: AsgiPeer | RelayPeer) -> None:
    """Take what the client sends, until it is gone. Raises Gone, Closed."""
    await client.go_on()
    while True:
        messages = await peer.receive_many()
        try:
            await client.take([message for message in messages if isinstance(message, bytes)])
        except RemoteProtocolError as error:
            logger.warning("a client broke the protocol session=%s: %s", client.session_id, error)
            raise Closed(BAD_MESSAGE, "This is no frame of the data channel.") from None


async def _say(peer: AsgiPeer | RelayPeer, session_id: UUID, text: str) -> None:
    with contextlib.suppress(Gone):
        await peer.send_bytes(closing(str(session_id), text))


def farewell(session) -> str:
    """What a client says when it finds its session over; nothing, its own words, for a natural end."""
    return "" if session.end_reason in STREAM_ENDS.values() else session.end_reason


def farewell_of(proxy: Proxy) -> str:
    return "" if proxy.end_reason in STREAM_ENDS.values() else proxy.end_reason
