"""One transfer in the process that owns its session: between the browser's websocket and the node's script.

Bytes pass through; nothing of them is journalled or recorded. A few parts are under way to or from the
node, and the browser sends no more than WINDOW_BYTES before the node has the first of them; so memory is bounded, and
the slower side holds back the other. A transfer is never gone on with by another process: who takes its session over
has the node drop what it has, and ends it.

To the browser: {"type": "ready", "path", "size", "window"}; {"type": "taken", "bytes"} as the node has an upload; bytes
of a download; {"type": "checking"}; {"type": "done", "bytes", "sha256", "path", "text"} or {"type": "failed", "text",
"cancelled"}. From it: bytes of an upload, {"type": "cancel"}, {"type": "ping"}.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import orjson
from django.db import DatabaseError

from ..live import Person
from ..readers import Gone, Peer
from ..states import TransferDirection, TransferState
from . import node, rows
from .models import Transfer
from .services import in_bytes, limit_bytes, too_large

if TYPE_CHECKING:
    from ..proxy import Proxy

logger = logging.getLogger(__name__)

WINDOW_BYTES: Final = 4 * node.UPLOAD_PART_BYTES
FRAME_BYTES: Final = 64 * 1024  # of what the browser sends at once
STALLED_SECONDS: Final = 60.0  # without a sign of either side
CHECK_BYTES_A_SECOND: Final = 5 << 20  # a digest is waited for as long as a slow disk takes
STOP_SECONDS: Final = 1.0  # for the node to drop what it has
# What a node of ours has said and nobody has heard: parts that were asked for, a line behind each, the first and last.
MOST_SAID: Final = 4 * node.DOWNLOADS_AHEAD
BEGIN_SECONDS: Final = 30.0  # a session that is taken over is waited for
RETRY_SECONDS: Final = 2.0


class Stopped(Exception):
    """It ends without having been done, for this reason. `is_told`: the node knows."""

    def __init__(self, reason: str, *, to: TransferState = TransferState.FAILED, is_told: bool = False) -> None:
        super().__init__(reason)
        self.to = to
        self.is_told = is_told


class TransferEnd:
    """A listener of its proxy, for the one browser that carries the file."""

    def __init__(self, proxy: Proxy, transfer: Transfer, *, parent: Callable[[], Proxy | None]) -> None:
        self.seen = 0
        self.text = ""  # how it ended
        self._proxy = proxy
        self._transfer = transfer
        self._parent = parent
        self._reader = node.NodeReader()
        self._said: deque[node.Said | bytes] = deque()
        self._incoming = bytearray()
        self._received = 0  # of an upload, from the browser
        self._why: Stopped | None = None
        self._wake = asyncio.Event()
        self._working: asyncio.Task[None] | None = None

    # What the proxy does

    def wake(self) -> None:
        self._wake.set()

    def tell(self, message: dict[str, Any]) -> None:
        """Of what other browsers are told, nothing concerns a file."""

    def take(self, data: bytes) -> None:
        """The node has written this."""
        try:
            self._said += self._reader.feed(data)
            if len(self._said) > MOST_SAID:
                self._said.clear()
                raise ValueError("more than it was asked for")
        except ValueError as error:  # binascii's too
            logger.warning("the node's side of a transfer is not ours session=%s: %s", self._proxy.session.pk, error)
            self._stop_for(Stopped("The instance answered with what is no part of a file."))
        self._wake.set()

    async def leave(self, reason: str) -> None:
        """The session is about to end: let the node drop what it has, and write down how it went."""
        working = self._working
        if working is None:
            await self._stop_node()
        elif not working.done():
            self._stop_for(Stopped(reason))
            await asyncio.wait({working}, timeout=STOP_SECONDS + RETRY_SECONDS)

    async def abandon(self) -> None:
        """Another process had begun it, and is gone: have the node drop what it has, and end."""
        proxy = self._proxy
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BEGIN_SECONDS):
                while not (proxy.is_finishing or (proxy.status == "open" and proxy.can_send)):
                    await asyncio.sleep(0.1)
        proxy.end("FleetOps was stopped in the midst of the transfer. Begin it again.")

    # The browser

    async def serve(self, peer: Peer, person: Person) -> None:
        """Carry the file for this browser; `text` tells how it went. Raises Gone if it is already being carried."""
        if self._working is not None:
            with contextlib.suppress(Gone):
                await _say(peer, {"type": "failed", "text": "It is being carried by another page.", "cancelled": False})
            return
        proxy = self._proxy
        proxy.add(self, person)
        self._working = asyncio.create_task(self._work(peer))
        listening = asyncio.create_task(self._listen(peer))
        try:
            await asyncio.wait({listening, self._working}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({self._working})
        finally:
            self._stop_for(Stopped("The browser may no longer be there."))
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            proxy.remove(self)

    async def _listen(self, peer: Peer) -> None:
        try:
            while True:
                message = await peer.receive()
                if isinstance(message, bytes):
                    self._received += len(message)
                    self._incoming += message
                    if len(message) > FRAME_BYTES or len(self._incoming) > WINDOW_BYTES + FRAME_BYTES:
                        self._stop_for(Stopped("The browser sent more than it was asked for."))
                        return
                    self._wake.set()
                    continue
                match orjson.loads(message).get("type") if len(message) < 4096 else None:
                    case "cancel":
                        by = self._proxy.session.user_name
                        self._stop_for(Stopped(f"Cancelled by {by}.", to=TransferState.CANCELLED))
                    case "ping":
                        await _say(peer, {"type": "pong"})
        except Gone:
            self._stop_for(Stopped("The browser went away in the midst of it."))
        except (orjson.JSONDecodeError, AttributeError):
            self._stop_for(Stopped("The browser sent what is no message."))

    def _stop_for(self, why: Stopped) -> None:
        if self._why is None:
            self._why = why
        self._wake.set()

    # The file

    async def _work(self, peer: Peer) -> None:
        proxy, transfer = self._proxy, self._transfer
        try:
            size, digest = await self._carry(peer)
        except Stopped as stopped:
            await self._stopped(peer, stopped)
        except Exception:  # the outermost loop of a transfer: its browser is told, and the others live on
            logger.exception("a transfer failed session=%s", proxy.session.pk)
            await self._stopped(peer, Stopped("FleetOps met a fault of its own; it is in the log."))
        else:
            await self._write(rows.done, size=size, sha256=digest)
            verb = "Uploaded" if transfer.direction == TransferDirection.UPLOAD else "Downloaded"
            self.text = f"{verb} {transfer.shown_path}, {in_bytes(size)}, SHA-256 {digest}."
            self._note(size=size, sha256=digest)
            done = {"type": "done", "bytes": size, "sha256": digest, "path": transfer.path, "text": self.text}
            with contextlib.suppress(Gone):
                await _say(peer, done)
        proxy.end(self.text, kind="transfer")

    async def _stopped(self, peer: Peer, stopped: Stopped) -> None:
        if self._proxy.is_let_go:  # another process has it, and ends it
            self.text = "The process that carried the file restarts. Begin it again."
        else:
            self.text = str(stopped)
            if not stopped.is_told:
                await self._stop_node()
            if stopped.to == TransferState.CANCELLED:
                await self._write(rows.cancelled, by=self._proxy.session.user_name)
            else:
                await self._write(rows.failed, error=self.text)
            self._note()
        is_cancelled = stopped.to == TransferState.CANCELLED
        with contextlib.suppress(Gone):
            await _say(peer, {"type": "failed", "text": self.text, "cancelled": is_cancelled})

    async def _write(self, deed: Callable[..., None], **facts: Any) -> None:
        """Write down how it went, however long the database takes to come back."""
        while True:
            try:
                await self._proxy.threads.database(deed, self._transfer, **facts)
                return
            except DatabaseError as error:
                logger.warning("a transfer waits for the database session=%s: %s", self._proxy.session.pk, error)
                await asyncio.sleep(RETRY_SECONDS)

    def _note(self, **facts: Any) -> None:
        """Tell it in the recordings of its own session and of the shell that it was begun from."""
        transfer = self._transfer
        about = {"direction": transfer.direction, "path": transfer.shown_path, "session": str(transfer.session_id)}
        self._proxy.note("transfer", self.text, **about, **facts)
        parent = self._parent()
        if parent is not None and not parent.is_finishing and not parent.is_let_go:
            verb = "Upload to" if transfer.direction == TransferDirection.UPLOAD else "Download of"
            text = self.text if facts else f"{verb} {transfer.shown_path}: {self.text}"
            parent.note("transfer", text, **about, **facts)

    async def _carry(self, peer: Peer) -> tuple[int, str]:
        """Carry the file; its size and digest. Raises Stopped."""
        transfer = self._transfer
        ready = await self._hear("ready")
        is_upload = transfer.direction == TransferDirection.UPLOAD
        if is_upload:
            size = transfer.size or 0
        else:
            size = int(ready.words[0]) if ready.words and ready.words[0].isdecimal() else 0
            if size > limit_bytes():
                raise Stopped(too_large(size))
        await self._write(rows.started, path=ready.path or transfer.path, size=size)
        try:
            shown = {"type": "ready", "path": transfer.path, "size": size, "window": WINDOW_BYTES}
            await _say(peer, shown)
            if is_upload:
                may_send_ahead = ready.words[:1] == ("b",)
                return await self._upload(peer, size, ahead=node.UPLOADS_AHEAD if may_send_ahead else 1)
            return await self._download(peer)
        except Gone:
            raise Stopped("The browser went away in the midst of it.") from None

    async def _upload(self, peer: Peer, size: int, *, ahead: int) -> tuple[int, str]:
        digest = hashlib.sha256()
        if self._proxy.is_embedded:
            self._proxy.channel.max_payload = node.OUR_PAYLOAD
        under_way: deque[int] = deque()
        sent = taken = 0

        def is_part_here() -> bool:
            return len(self._incoming) >= min(node.UPLOAD_PART_BYTES, size - sent) > 0

        while taken < size:
            await self._until(lambda: bool(self._said) or (is_part_here() and len(under_way) < ahead))
            if self._received > size:
                raise Stopped("The file grew while it was sent.")
            if self._said:
                self._expect("part")
                taken += under_way.popleft()
                self._moved(taken)
                await _say(peer, {"type": "taken", "bytes": taken})
                continue
            part = bytes(self._incoming[: node.UPLOAD_PART_BYTES])
            del self._incoming[: node.UPLOAD_PART_BYTES]
            sent += len(part)
            digest.update(part)
            encoded = base64.b64encode(part)
            under_way.append(len(part))
            await self._proxy.type_now(node.line("p", str(len(encoded))) + encoded)
        await _say(peer, {"type": "checking"})
        await self._proxy.type_now(node.line("s", digest.hexdigest()))
        said = await self._hear("sum", seconds=STALLED_SECONDS + size / CHECK_BYTES_A_SECOND)
        if said.words[:1] != (digest.hexdigest(),):
            raise Stopped("What the instance has is not what was sent: the digests differ.", is_told=True)
        return size, digest.hexdigest()

    async def _download(self, peer: Peer) -> tuple[int, str]:
        digest = hashlib.sha256()
        size = 0
        await self._proxy.type_now(node.line("n") * node.DOWNLOADS_AHEAD)
        while True:
            await self._until(lambda: bool(self._said))
            part = self._said.popleft()
            if not isinstance(part, bytes):
                if part.verb == "fail":
                    raise Stopped(part.failure, is_told=True)
                continue
            if not part:
                break
            if self._why is not None:  # a slow browser always finds a part waiting
                raise self._why
            size += len(part)
            if size > limit_bytes():
                raise Stopped(too_large(size))
            digest.update(part)
            await peer.send_bytes(part)  # waits while the browser does not read
            self._moved(size)
            await self._proxy.type_now(node.line("n"))
        await _say(peer, {"type": "checking"})
        await self._proxy.type_now(node.line("s"))
        seconds = STALLED_SECONDS + size / CHECK_BYTES_A_SECOND
        while True:  # parts that were asked for ahead are empty
            await self._until(lambda: bool(self._said), seconds=seconds)
            said = self._said.popleft()
            if isinstance(said, bytes) or said.verb == "part":
                continue
            if said.verb == "fail":
                raise Stopped(said.failure, is_told=True)
            if said.words[:1] != (digest.hexdigest(),):
                raise Stopped("The file changed while it was read: the digests differ. Try again.", is_told=True)
            return size, digest.hexdigest()

    def _moved(self, size: int) -> None:
        """Something of it has arrived: the shell that it was begun from is not idle."""
        parent = self._parent()
        if parent is not None:
            parent.active_at = asyncio.get_running_loop().time()

    async def _hear(self, verb: str, *, seconds: float = STALLED_SECONDS) -> node.Said:
        """The node's next line, which has to begin with that word. Raises Stopped."""
        await self._until(lambda: bool(self._said), seconds=seconds)
        return self._expect(verb)

    def _expect(self, verb: str) -> node.Said:
        said = self._said.popleft()
        while isinstance(said, bytes) and not said and self._said:  # of an upload, a part's line alone
            said = self._said.popleft()
        if isinstance(said, bytes):
            raise Stopped("The instance answered with what is no part of a file.")
        if said.verb == "fail":
            raise Stopped(said.failure, is_told=True)
        if said.verb != verb:
            raise Stopped("The instance answered with what is no part of a file.")
        return said

    async def _until(self, condition: Callable[[], bool], *, seconds: float = STALLED_SECONDS) -> None:
        """Wait for something to happen. Raises Stopped; what the node has said is heard before."""
        while not condition():
            if self._why is not None:
                raise self._why
            if self._proxy.is_let_go:
                raise Stopped("The process that carried the file restarts. Begin it again.")
            self._wake.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._wake.wait()
            except TimeoutError:
                raise Stopped("Nothing has moved for a minute.") from None

    async def _stop_node(self) -> None:
        """Ctrl-C: the script removes what it has written, says so and ends."""
        if not self._proxy.send_last(node.STOP):
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                while not any(isinstance(each, node.Said) and each.verb == "fail" for each in self._said):
                    self._said.clear()
                    self._wake.clear()
                    await self._wake.wait()


async def _say(peer: Peer, message: dict[str, Any]) -> None:
    await peer.send_text(orjson.dumps(message).decode())
