"""The commands of one session, from its records in order: what the shell says, beside what its screen showed. No I/O.

Where the shell sends marks a command is what they say, and the screen is its witness: where that shows another line,
the row is disputed and holds both. What is typed into something that sends no marks (a nested shell, `ssh`, `sudo -i`)
is known from the screen alone. A mark that is not genuine never becomes a command: it becomes a notice.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Final

from wcwidth import wcwidth

from .marks import Kind, Mark, MarkReader
from .reconstruct import MOST_TEXT, LineReader, Typed

MARKS: Final = "marks"
SCREEN: Final = "screen"
FORGED: Final = "forged"

MOST_NOTICES: Final = 100  # in one session; who forges more is known by then
# Of output that comes between two keys only the first and the last bytes can matter to a line.
_FLOOD_HEAD: Final = 8 << 10
_FLOOD_TAIL: Final = 24 << 10
_SWITCHES: Final = re.compile(rb"\x1b\[\?[0-9;]{1,32}[hl]|\x1bc")
_MOST_LINES: Final = 200  # of a paste whose first lines are compared
_MOST_SWITCHES: Final = 12  # at the front of a flood, and at its end
_AROUND: Final = 4096  # bytes that are emulated on either side of a switch within a flood


@dataclass(slots=True)
class Row:
    """One command, or a notice. Times in microseconds since the session's start."""

    number: int
    source: str
    text: str
    time_us: int
    offset: int
    cwd: str = ""
    os_user: str = ""
    is_cut: bool = False
    is_disputed: bool = False
    dispute: str = ""
    shown_text: str = ""
    ended_us: int | None = None
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that was told before is over."""

    number: int
    ended_us: int
    exit_code: int | None


class SessionReader:
    """Takes output, keys and sizes; `take` gives what is new. Numbers go on from `number`."""

    def __init__(self, nonce: str, *, cols: int = 80, rows: int = 24, number: int = 0) -> None:
        self.number = number
        self._marks = MarkReader(nonce)
        self._lines = LineReader(cols, rows)
        self._offset = 0
        self._time_us = 0
        self._rows: list[Row] = []
        self._ended: list[Ended] = []
        self._at_prompt = False  # the shell has said that it waits for a line
        self._running: int | None = None  # the row that the shell's last command is
        self._shown: int | None = None  # the row of the screen's last line, as long as no prompt followed
        self._held: list[Typed] = []  # lines at the shell's prompt of which it has said nothing yet
        self._pasted = ""  # lines of a paste that the shell has not told of yet
        self._missed = 0
        self._notices = 0
        self._parts: list[tuple[int, int]] | None = None  # of a flood, what is emulated: offsets of output
        self._shown_to = 0

    @property
    def has_input(self) -> bool:
        return self._lines.has_input

    @has_input.setter
    def has_input(self, value: bool) -> None:
        self._lines.has_input = value

    @property
    def is_console(self) -> bool:
        return self._lines.is_console

    @is_console.setter
    def is_console(self, value: bool) -> None:
        self._lines.is_console = value

    # Records

    def output(self, data: bytes, time_us: int, offset: int) -> None:
        """Bytes that were shown; `offset` is that of the first in all output."""
        self._time_us = time_us
        at = 0
        for mark in self._marks.feed(data, offset):
            end = max(at, mark.end_offset - offset)
            self._show(data[at:end], time_us, offset + at)
            at = end
            self._mark(mark)
        self._show(data[at:] if at else data, time_us, offset + at)
        self._offset = offset + len(data)
        self._collect()

    def flood(self, pieces: Sequence[tuple[bytes, int, int]]) -> None:
        """The same of many pieces (data, time, offset) between which nothing was typed: not all of it is emulated."""
        first = pieces[0][2]
        joined = b"".join(data for data, _, _ in pieces)
        self._parts = [(first + start, first + end) for start, end in _worth(joined)]
        for data, time_us, offset in pieces:
            self.output(data, time_us, offset)
        self._parts = None

    def key(self, time_us: int) -> None:
        """Something was typed."""
        self._time_us = time_us
        self._lines.key(time_us)
        self._collect()

    def size(self, cols: int, rows: int) -> None:
        self._lines.size(cols, rows)

    def settle(self, time_us: int) -> None:
        """So much time has passed without a record."""
        self._lines.settle(time_us)
        self._collect()

    def finish(self) -> None:
        """There is no more to come."""
        self._lines.finish()
        self._collect()
        self._untold("The shell did not say that it ran this line.")

    def take(self) -> tuple[list[Row], list[Ended]]:
        """New rows, and ends of rows; an end may be that of a row that is new too."""
        rows, self._rows = self._rows, []
        ended, self._ended = self._ended, []
        return rows, ended

    # The screen

    def _show(self, data: bytes, time_us: int, offset: int) -> None:
        if self._parts is None:
            if data:
                self._lines.output(data, time_us, offset)
            return
        for start, end in self._parts:
            begin, stop = max(start, offset), min(end, offset + len(data))
            if begin < stop:
                if begin != self._shown_to:
                    self._lines.screen.skip()
                self._lines.output(data[begin - offset : stop - offset], time_us, begin)
                self._shown_to = stop

    def _collect(self) -> None:
        """Take the lines that the screen is sure of."""
        for moment in self._lines.prompted:
            if self._shown is not None:
                self._end(self._shown, moment, None)
                self._shown = None
        self._lines.prompted.clear()
        for typed in self._lines.take():
            if self._at_prompt:
                self._held.append(typed)
            else:
                self._line(typed)

    def _line(self, typed: Typed, dispute: str = "") -> None:
        row = self._row(SCREEN, typed.text, typed.time_us, typed.offset)
        row.is_cut = len(typed.text) >= MOST_TEXT
        row.is_disputed, row.dispute = bool(dispute), dispute or typed.doubt
        later = [moment for moment in self._lines.prompted if moment >= typed.time_us]
        if later:
            self._end(row.number, later[0], None)
        else:
            self._shown = row.number

    def _untold(self, why: str) -> None:
        """Lines that the shell's own prompt took, and that the shell says nothing of."""
        held, self._held = self._held, []
        for typed in held:
            self._line(typed, why)

    # Marks

    def _mark(self, mark: Mark) -> None:
        if not mark.is_genuine:
            self._notice(mark)
            return
        self._missed += mark.missed
        if mark.kind == Kind.PROMPT:
            self._prompt(mark)
        elif mark.kind == Kind.COMMAND:
            self._command(mark)
        elif mark.kind == Kind.DONE:
            self._take_lines()
            self._untold("A mark of the shell that should tell of this line is missing.")
            if self._running is not None:
                self._end(self._running, self._time_us, _number(mark.fields.get("exit", "")))
            self._running = None
            self._at_prompt = False

    def _take_lines(self) -> None:
        lines = self._lines.take_for_mark()
        if self._at_prompt:
            self._held += lines
        else:
            for typed in lines:
                self._line(typed)

    def _prompt(self, mark: Mark) -> None:
        self._take_lines()
        if mark.fields.get("exit") == "130" and len(self._held) == 1:
            self._held.clear()  # Ctrl-C: the line was given up
        self._untold("The shell did not say that it ran this line: it has an error, or was given up.")
        self._running = None
        self._at_prompt = True

    def _command(self, mark: Mark) -> None:
        self._take_lines()
        held, self._held = self._held, []
        text = mark.fields.get("text", "")
        # A line of the screen that waited is of the moment that it was taken.
        row = self._row(MARKS, text[:MOST_TEXT], held[-1].time_us if held else self._time_us, mark.offset)
        row.cwd, row.os_user = mark.fields.get("cwd", ""), mark.fields.get("user", "")
        row.is_cut = mark.is_cut or mark.fields.get("cut") == "1" or len(text) > MOST_TEXT
        shown = "\n".join(typed.text for typed in held) or self._pasted
        self._pasted = ""
        if not self._is_witnessed(text, shown, held, row.is_cut):
            row.is_disputed, row.shown_text = True, shown
            row.dispute = "The screen showed another line." if shown else "No such line was seen on the screen."
        if self._missed:
            row.is_disputed = True
            row.dispute = f"{row.dispute} {self._missed} marks of the shell before it are missing.".strip()
            self._missed = 0
        self._running = row.number
        self._at_prompt = False

    def _is_witnessed(self, text: str, shown: str, held: list[Typed], is_cut: bool) -> bool:
        """Whether the screen showed the line that the shell told."""
        if agree(text, shown, is_cut=is_cut):
            return True
        lines = shown.split("\n")
        for count in range(1, min(len(lines), _MOST_LINES)):
            if agree(text, "\n".join(lines[:count]), is_cut=is_cut):
                self._pasted = "\n".join(lines[count:])  # bash runs the lines of a paste one by one
                return True
        return bool(held) and _is_history(held[-1].text) and agree(text, self._lines.after(held[-1]), is_cut=is_cut)

    def _notice(self, mark: Mark) -> None:
        self._notices += 1
        if self._notices > MOST_NOTICES:
            return
        claimed = mark.fields.get("text", "")[:MOST_TEXT]
        row = self._row(FORGED, claimed, self._time_us, mark.offset)
        row.is_disputed = True
        row.dispute = f"Forged mark at byte {mark.offset}: {mark.problem}."
        if self._notices == MOST_NOTICES:
            row.dispute += " Further ones in this session are not listed."
        row.is_cut = mark.is_cut

    # Rows

    def _row(self, source: str, text: str, time_us: int, offset: int) -> Row:
        self.number += 1
        row = Row(self.number, source, text.replace("\x00", "\\x00"), time_us, offset)
        self._rows.append(row)
        return row

    def _end(self, number: int, moment: int, exit_code: int | None) -> None:
        self._ended.append(Ended(number, moment, exit_code))

    # Going on later

    @property
    def marks_offset(self) -> int:
        """Where a reader that goes on has to begin with marks; what lies before its own place is for marks alone."""
        return max(self._marks.resume_offset, self._offset - (256 << 10))

    def state(self) -> dict[str, Any]:
        """What is known, for JSON; not what `take` has not given yet."""
        return {
            "lines": self._lines.state(),
            "marks": [self._marks.number, self._marks.kind, self.marks_offset],
            "at": [self._time_us, self._offset],
            "prompt": self._at_prompt,
            "rows": [self._running, self._shown],
            "pasted": self._pasted,
            "held": [asdict(typed) for typed in self._held],
            "counts": [self._missed, self._notices],
        }

    @classmethod
    def restore(cls, nonce: str, state: dict[str, Any], *, number: int) -> SessionReader:
        reader = cls(nonce, number=number)
        reader._lines = LineReader.restore(state["lines"])
        reader._marks = MarkReader(nonce, number=state["marks"][0], kind=state["marks"][1])
        reader._time_us, reader._offset = state["at"]
        reader._at_prompt = state["prompt"]
        reader._running, reader._shown = state["rows"]
        reader._held = [Typed(**typed) for typed in state["held"]]
        reader._pasted = state["pasted"]
        reader._missed, reader._notices = state["counts"]
        return reader

    def marks_again(self, data: bytes, offset: int) -> None:
        """Output before our place that holds the beginning of a mark."""
        self._marks.feed(data, offset)


def _worth(data: bytes) -> list[tuple[int, int]]:
    """The parts of a flood that are worth being emulated: its first and its last bytes, and what lies around the
    moments at which a program or an editor begins or ends."""
    if len(data) <= _FLOOD_HEAD + _FLOOD_TAIL:
        return [(0, len(data))]
    parts = [(0, _FLOOD_HEAD)]
    switches = list(islice(_SWITCHES.finditer(data), 100_000))
    if len(switches) > 2 * _MOST_SWITCHES:  # the last ones tell how it stands now
        switches = switches[:_MOST_SWITCHES] + switches[-_MOST_SWITCHES:]
    for found in switches:
        start, end = max(0, found.start() - _AROUND), min(len(data), found.end() + _AROUND)
        if start <= parts[-1][1]:
            parts[-1] = (parts[-1][0], max(end, parts[-1][1]))
        else:
            parts.append((start, end))
    tail = data.find(b"\n", len(data) - _FLOOD_TAIL) + 1 or len(data) - _FLOOD_TAIL
    if tail <= parts[-1][1]:
        parts[-1] = (parts[-1][0], len(data))
    else:
        parts.append((tail, len(data)))
    return parts


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"-?[0-9]{1,9}", text) else None


# Comparing


def _is_history(text: str) -> bool:
    """Whether the shell puts something else in the place of what was typed."""
    return "!" in text or text.startswith("^")


def agree(told: str, shown: str, *, is_cut: bool = False) -> bool:
    """Whether the screen showed the line that the shell told, but for what a screen cannot tell.

    Spaces, line ends and semicolons may differ: bash joins the lines of a command by semicolons, and a row ends where
    the screen does. A control character is shown as ^X. Of characters of no fixed width only the others are compared.
    """
    first, second = _bare(told), _bare(shown)
    if first == second:
        return True
    if is_cut and second[: len(first)] == first and first:
        return True
    if len(second) >= _comparable(MOST_TEXT) and first.startswith(second):
        return True
    if any(not each.isascii() and (wcwidth(each) != 1 or unicodedata.combining(each)) for each in told):
        first, second = _ascii(first), _ascii(second)
    return first == second


def _comparable(size: int) -> int:
    return size // 2


def _bare(text: str) -> str:
    text = unicodedata.normalize("NFC", text).replace("\\\n", "")
    shown = "".join(each if each >= " " or each in "\n\t\r" else f"^{chr(ord(each) + 64)}" for each in text)
    return re.sub(r"[\s;]+", "", shown)


def _ascii(text: str) -> str:
    return "".join(each for each in text if each.isascii())


def masked(text: str, names: Collection[str]) -> str:
    """The text without the values of what is named so: `password=…`, `X-Token: …`, `--secret …`. Others stay."""
    if not names:
        return text
    joined = "|".join(re.escape(name) for name in names)
    value = r"""(?:"[^"]*"|'[^']*'|[^\s;|&'"]+)"""
    named = rf"(?:{joined})[A-Za-z0-9_]{{0,40}}(?:=|:\s?)|--?[a-z-]{{0,40}}(?:{joined})\s+"
    return re.sub(rf"({named}){value}", r"\1••••", text, flags=re.IGNORECASE)
