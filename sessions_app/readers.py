"""One browser that shows a session: its place in the journal, its pace, and what it is told besides.

Nothing here holds output. A browser that does not read stands still in the journal, with at most WINDOW_BYTES sent and
not yet shown; the disk has the rest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Protocol

import orjson

from .journal import PIECE_BYTES, Cursor, Resized
from .live import Person
from .proxy import Proxy

WINDOW_BYTES = 512 * 1024  # sent, and not yet on the browser's screen
KEPT_BYTES = 2 << 20  # a new browser is shown all that was ever shown, if it is not more
RESTORED_BYTES = 1 << 20  # else so much of its end
SKIP_FROM_BYTES = 256 * 1024  # what a reader may be behind before Ctrl-C makes it skip
SKIP_TO_BYTES = 64 * 1024  # how much of the end it is shown then
INTERRUPT_SECONDS = 1.0  # output that was under way still comes for so long after Ctrl-C
NOTES_WAITING = 50  # that a browser has not taken; the recording has them all
CTRL_C = 0x03
ENTER = 0x0D

FULL_RESET = b"\x1bc"  # RIS: for a terminal that is shown output from the middle
SOFT_RESET = (
    b"\x18\x1b[!p\x1b[0m\x1b(B"  # cancels a cut sequence, then modes, colours and character set; the text stays
)


class Gone(Exception):
    """The browser is not there any more."""


class Peer(Protocol):
    """A browser's websocket, or another terminal process that relays one. Each call raises Gone."""

    async def send_text(self, text: str) -> None: ...

    async def send_bytes(self, data: bytes) -> None: ...

    async def receive(self) -> str | bytes:
        """The next message."""

    async def close(self, code: int, reason: str = "") -> None:
        """Close it, with words of at most 123 bytes; never raises."""


class Reader:
    """Shows one session to one browser."""

    def __init__(self, proxy: Proxy, peer: Peer, *, writable: bool, person: Person) -> None:
        self.proxy = proxy
        self.peer = peer
        self.writable = writable
        self.person = person
        self.size: tuple[int, int] | None = None  # the browser's own, as it last told
        self.seen = 0  # all output before this offset is on its screen
        self._cursor: Cursor | None = None
        self._wake = asyncio.Event()
        self._told: dict[str, dict[str, Any]] = {}  # by type: a later one takes the place of one not sent yet
        self._notes: deque[dict[str, Any]] = deque(maxlen=NOTES_WAITING)
        self._interrupted_until = 0.0
        self._asked_anew_at: int | None = None  # output's end at the first Enter after a Ctrl-C
        self._waits_for_window = False
        self._time = asyncio.get_running_loop().time

    # What the proxy does

    def wake(self) -> None:
        self._wake.set()

    def tell(self, message: dict[str, Any]) -> None:
        if message["type"] == "note":  # each of them is news
            self._notes.append(message)
        else:
            self._told[message["type"]] = message
        self._wake.set()

    # What the browser does

    def has_seen(self, offset: int) -> None:
        """The browser's screen has come so far."""
        cursor = self._cursor
        if cursor is not None and self.seen < offset <= cursor.offset:
            self.seen = offset
            if self._waits_for_window:
                self._waits_for_window = False
                self._wake.set()

    def interrupt(self) -> None:
        """Ctrl-C: whoever types it does not want to see what is still to come."""
        self._interrupted_until = self._time() + INTERRUPT_SECONDS
        self._asked_anew_at = None
        self._wake.set()

    def asked_anew(self) -> None:
        """Enter after a Ctrl-C: what comes from here on may be the answer, and is not left out."""
        if self._interrupted_until and self._asked_anew_at is None:
            self._asked_anew_at = self.proxy.journal.output_end

    # Showing

    async def show(self, start: int | None) -> None:
        """Show the session from offset `start` on, or as a new terminal needs it (None), until it is over.

        Raises Gone when the browser is. Returns if the session is over, or not this process's any more.
        """
        proxy, journal = self.proxy, self.proxy.journal
        is_cut = False
        if start is None:
            is_cut = journal.output_base > 0 or journal.output_end > KEPT_BYTES
            start = max(journal.output_base, journal.output_end - RESTORED_BYTES) if is_cut else 0
        self._cursor = cursor = journal.cursor(start)
        try:
            if is_cut:
                _to_safe_boundary(cursor)
            self.seen = cursor.offset
            await self._say(
                {
                    "type": "hello",
                    "session": str(proxy.session.pk),
                    "state": proxy.status,
                    "cols": proxy.cols,
                    "rows": proxy.rows,
                    "offset": cursor.offset,
                    # What was asked of a terminal before this has its answer; shown again, it must not get another.
                    "end": journal.output_end,
                    "writable": self.writable,
                    "you": {"id": self.person.id, "name": self.person.name, "mode": self.person.mode},
                }
            )
            if proxy.status_text:
                await self._say({"type": "status", "state": proxy.status, "text": proxy.status_text})
            if cursor.offset > start and not is_cut:
                await self._say({"type": "skipped", "bytes": cursor.offset - start, "why": "quota"})
            if is_cut:
                await self._show(cursor.offset - len(FULL_RESET), FULL_RESET)
                proxy.nudge()
            await self._follow(cursor, resizes_from=journal.end)
        finally:
            cursor.close()

    async def _follow(self, cursor: Cursor, *, resizes_from: int) -> None:
        proxy = self.proxy
        expected = cursor.offset
        while True:
            while self._notes:
                await self._say(self._notes.popleft())
            if self._told:
                for message in list(self._told.values()):
                    self._told.pop(message["type"], None)
                    await self._say(message)
            if self._interrupted_until:
                if self._time() > self._interrupted_until:
                    self._interrupted_until = 0.0  # what comes now was asked for after the Ctrl-C
                else:
                    end = proxy.journal.output_end if self._asked_anew_at is None else self._asked_anew_at
                    if end - cursor.offset > SKIP_FROM_BYTES:
                        expected = await self._skip(cursor, end)
            if cursor.offset - self.seen < WINDOW_BYTES:
                piece = cursor.read(PIECE_BYTES)
                if isinstance(piece, Resized):
                    if cursor.journal_offset > resizes_from and (piece.cols, piece.rows) != self.size:
                        await self._say({"type": "size", "cols": piece.cols, "rows": piece.rows})
                    continue
                if piece is not None:
                    if piece.offset > expected:
                        self.seen = max(self.seen, piece.offset)
                        await self._say({"type": "skipped", "bytes": piece.offset - expected, "why": "quota"})
                        await self._show(piece.offset - len(SOFT_RESET), SOFT_RESET)
                    expected = piece.offset + len(piece.data)
                    await self._show(piece.offset, piece.data)
                    if len(piece.data) > 4096:
                        # A socket with room takes a message without a pause; others want their turn.
                        await asyncio.sleep(0)
                    continue
                if self._told or self._notes:
                    continue
                if proxy.is_over or proxy.is_let_go:
                    return
            elif proxy.is_let_go and not proxy.is_over:
                return
            else:
                self._waits_for_window = True
            self._wake.clear()
            await self._wake.wait()

    async def _skip(self, cursor: Cursor, end: int) -> int:
        """Leave out all but the last of what lies before `end`; returns the offset that is shown next."""
        start = cursor.offset
        cursor.seek(end - SKIP_TO_BYTES)
        _to_safe_boundary(cursor)
        # What was sent before is on its way; it does not count against what is shown now.
        self.seen = max(self.seen, cursor.offset - WINDOW_BYTES // 2)
        await self._say({"type": "skipped", "bytes": cursor.offset - start, "why": "interrupt"})
        await self._show(cursor.offset - len(SOFT_RESET), SOFT_RESET)
        return cursor.offset

    async def _show(self, offset: int, data: bytes) -> None:
        await self.peer.send_bytes(offset.to_bytes(8, "big") + data)

    async def _say(self, message: dict[str, Any]) -> None:
        await self.peer.send_text(orjson.dumps(message).decode())


def _to_safe_boundary(cursor: Cursor) -> None:
    """Move a cursor that stands anywhere to where a terminal may begin: behind a newline, else at a character."""
    start = cursor.offset
    piece = cursor.read(SKIP_TO_BYTES)
    while isinstance(piece, Resized):
        piece = cursor.read(SKIP_TO_BYTES)
    if piece is None:
        return
    newline = piece.data.find(b"\n")
    if newline >= 0:
        start = piece.offset + newline + 1
    else:
        start = piece.offset + next((n for n, byte in enumerate(piece.data[:4]) if byte & 0xC0 != 0x80), 0)
    cursor.seek(start)
