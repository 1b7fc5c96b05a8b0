"""A recording as numbered events of text: what a session's stream in CloudWatch Logs holds of it.

Each event follows from the chunks alone, whoever reads them and wherever an event before ended: a worker that takes up
from a `Place` comes to the same events with the same numbers. So a line is told when it ends, with what backspaces and
carriage returns left of it; one that goes on for long is told in parts.

Files and models are not this module's: it is given the unpacked records of chunks.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from ..commandlog.marks import MOST_BYTES, OSC, MarkFilter
from ..journal import NOTE, OUTPUT, STATE, Record, note_of, state_of
from ..plaintext import PlainText, is_cut_off, without_overwritten

# Bytes of output in one line; what is longer goes on in the next. Full-screen programs send no line ends for long.
LINE_BYTES: Final = 8 * 1024
# A cut is made behind a whole character and a whole escape sequence, if one ends within so many bytes more.
_CUT_BYTES: Final = 4200
# A shell's mark is longer than that with a long command, and is never told: what is cut waits for its end.
_MARK_END: Final = re.compile(rb"[\x07\x1b\x18\x1a]|\xc2\x9c")  # as in commandlog/marks.py
# Bytes of output in one event. As JSON they are six times as much at most: below the 256 KiB of an event.
EVENT_BYTES: Final = 32 * 1024
EVENT_LINES: Final = 200
# An unfinished line is told after so many chunks all the same: it is 8 to 40 s old then, and not to be read each time.
LINE_CHUNKS: Final = 8


# In a place's `skip`, beside its bytes: a note stands between the pieces of a mark, and the rest of it is not told.
IN_MARK: Final = 1 << 30


class Place(NamedTuple):
    """Where the next event begins; see LogDelivery."""

    chunk: int = 1
    position: int = 0
    skip: int = 0


BEGIN: Final = Place()


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a source. `body`: its own fields beside those that all events of a session have."""

    number: int
    kind: str  # start, transcript, note, end; command, ended
    at_us: int  # microseconds since 1970 UTC
    body: dict[str, Any]
    place: Place = BEGIN  # behind it

    @property
    def at_ms(self) -> int:
        return self.at_us // 1000

    @property
    def at(self) -> datetime:
        return datetime.fromtimestamp(self.at_us / 1e6, UTC)


@dataclass
class Reading:
    """One pass over a recording from a place on. `events` is a generator; what stands here is so far."""

    place: Place
    number: int  # of the last event before
    started_us: int  # of the journal, microseconds since 1970 UTC; 0 until a chunk has told
    has_transcript: bool
    # Where a later pass begins if nothing was told since: at the unfinished line, or at the chunk that comes next.
    rest: Place = BEGIN
    read_through: int = 0  # the last chunk that was read to its end
    _line: bytearray = field(default_factory=bytearray)
    _line_place: Place | None = None
    _line_chunks: int = 0
    _lines: list[str] = field(default_factory=list)
    _lines_bytes: int = 0
    _lines_us: int = 0
    _lines_place: Place = BEGIN
    _goes_on: bool = False
    _in_mark: bool = False  # what is shown belongs to a mark whose front was told with the line before a note

    def __post_init__(self) -> None:
        self.rest = self.place
        self._in_mark = bool(self.place.skip & IN_MARK)

    def events(self, chunks: Iterable[tuple[int, Iterable[Record]]], *, is_last: bool) -> Iterator[Event]:
        """The events of these chunks, (number, records), from the place's on; `is_last`: there will be no more.

        Then the unfinished line is told too.
        """
        last_us = self.started_us
        for number, records in chunks:
            position = 0
            for record in records:
                size = len(record.raw)
                if record.kind == STATE and not self.started_us:
                    self.started_us = state_of(record.payload).started_us
                if (number, position) >= (self.place.chunk, self.place.position):
                    last_us = self.started_us + record.time_us
                    if record.kind == OUTPUT and self.has_transcript:
                        yield from self._shown(record, number, position, last_us)
                    elif record.kind == NOTE:
                        yield from self._noted(record, number, position, last_us)
                position += size
            yield from self._chunk_ends(number, position, last_us)
        if is_last:
            yield from self._line_ends(self.rest_behind(), last_us, goes_on=False)
            yield from self._told()

    def rest_behind(self) -> Place:
        """The place behind all that was read."""
        return Place(self.read_through + 1) if self.read_through else self.place

    def _shown(self, record: Record, chunk: int, position: int, at_us: int) -> Iterator[Event]:
        data = bytes(record.payload)
        is_first = (chunk, position) == self.place[:2]
        begin = self.place.skip & ~IN_MARK if is_first else 0
        if self._in_mark:
            over = _MARK_END.search(data, begin)
            if over is None:
                return
            begin, self._in_mark = over.start() if over[0] == b"\x1b" else over.end(), False
        while begin < len(data):
            newline = data.find(b"\n", begin)
            end = newline + 1 if newline >= 0 else len(data)
            room = LINE_BYTES - len(self._line)
            if end - begin > room:
                end = begin + max(1, room)  # at a line that is being cut, byte by byte
                if room <= 0 and is_in_mark(self._line) and self._line[-1] != 0x1B:  # or up to what may end the mark
                    over = _MARK_END.search(data, begin)
                    end = over.end() if over else len(data)
            if self._line_place is None:
                self._line_place, self._line_chunks = Place(chunk, position, begin), 0
            self._line += data[begin:end]
            begin = end
            behind = Place(chunk, position, end) if end < len(data) else Place(chunk, position + len(record.raw))
            if self._line.endswith(b"\n"):
                yield from self._line_ends(behind, at_us, goes_on=False)
            elif len(self._line) >= LINE_BYTES and may_be_cut(self._line):
                yield from self._line_ends(behind, at_us, goes_on=True)

    def _noted(self, record: Record, chunk: int, position: int, at_us: int) -> Iterator[Event]:
        if is_in_mark(self._line):
            self._in_mark = True
        flag = IN_MARK if self._in_mark else 0
        yield from self._line_ends(Place(chunk, position, flag), at_us, goes_on=True)
        yield from self._told()
        about = note_of(record.payload)
        facts = {key: value for key, value in about.items() if key not in ("type", "text")}
        note = {"type": str(about.get("type", ""))[:64], "text": str(about.get("text", ""))[:4096]}
        body = {"note": note | ({"facts": facts} if facts and len(str(facts)) < 8192 else {})}
        yield self._next("note", at_us, body, Place(chunk, position + len(record.raw), flag))

    def _chunk_ends(self, number: int, size: int, at_us: int) -> Iterator[Event]:
        """Events end with their chunk, so that they do not hang on whether the next is there already."""
        yield from self._told()
        self.read_through = number
        if self._line:
            self._line_chunks += 1
            if self._line_chunks >= LINE_CHUNKS and not is_in_mark(self._line):
                yield from self._line_ends(Place(number + 1), at_us, goes_on=True)
                yield from self._told()
        self.rest = self._line_place or Place(number + 1, 0, IN_MARK if self._in_mark else 0)

    def _line_ends(self, behind: Place, at_us: int, *, goes_on: bool) -> Iterator[Event]:
        """Take the line into the event that is being made, and give that out if it is full or a second old."""
        if not self._line:
            return
        size = len(self._line)
        is_full = self._lines_bytes + size > EVENT_BYTES or len(self._lines) >= EVENT_LINES
        if self._lines and (is_full or at_us // 1_000_000 != self._lines_us // 1_000_000):
            yield from self._told()
        if not self._lines:
            self._lines_us = at_us
        self._lines.append(shown(bytes(self._line)))
        self._lines_bytes += size
        self._lines_place, self._goes_on = behind, goes_on
        self._line.clear()
        self._line_place = None
        if goes_on:
            yield from self._told()

    def _told(self) -> Iterator[Event]:
        if not self._lines:
            return
        body: dict[str, Any] = {"sessionData": list(self._lines)}
        if self._goes_on:
            body["goesOn"] = True  # the last line does, in the next event
        event = self._next("transcript", self._lines_us, body, self._lines_place)
        self._lines.clear()
        self._lines_bytes = 0
        self._goes_on = False
        yield event

    def _next(self, kind: str, at_us: int, body: dict[str, Any], behind: Place) -> Event:
        self.number += 1
        self.rest = behind
        return Event(self.number, kind, at_us, body, behind)


def may_be_cut(line: bytearray) -> bool:
    """Whether a line that is too long may be cut behind its last byte: not in a character or an escape sequence."""
    if is_in_mark(line):
        return False
    if len(line) >= LINE_BYTES + _CUT_BYTES:
        return True
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    decoder.decode(bytes(line[-4:]))
    if decoder.getstate()[0]:
        return False
    escape = line.rfind(b"\x1b", max(0, len(line) - _CUT_BYTES))
    return escape < 0 or not is_cut_off(line[escape:].decode(errors="replace"))


def is_in_mark(line: bytearray) -> bool:
    """Whether its last bytes are those of a mark that goes on, and is no longer than marks are."""
    begin = line.rfind(OSC, max(0, len(line) - MOST_BYTES))
    if begin < 0:
        return False
    over = _MARK_END.search(line, begin + len(OSC))
    return over is None or (over[0] == b"\x1b" and over.end() == len(line))


_LINE_END = re.compile(r"[\r\n]+\Z")


def shown(line: bytes) -> str:
    """A line as a terminal shows it, about: without what it obeys, and what was overwritten."""
    text = PlainText().feed(MarkFilter().feed(line).decode(errors="replace"))
    return without_overwritten(_LINE_END.sub("", text))
