"""A session's screen, as text: what stood where, and which rows are one line. No I/O.

Pyte keeps the cells and moves the cursor. The sequences are cut here, because pyte's own parser shows parts of those
that it does not know (DCS, kitty's keys, colons in SGR), and because colours need not be kept: that makes it some five
times as fast. What an application draws on the alternate screen is not kept at all.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections import deque
from typing import Any, Final, Protocol

import pyte
from pyte.screens import Char
from wcwidth import wcwidth

HISTORY_ROWS: Final = 500  # above the screen; a pasted script may be longer than the screen is high
MOST_COLS: Final = 2000
MOST_ROWS: Final = 500
_MOST_COUNT: Final = 4096  # of one CSI, so that no sequence of ten bytes keeps us busy

_TEXT: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f]+")
_CSI: Final = re.compile(r"(?:\x1b\[|\x9b)([<-?]?)([0-;]*)([ -/]*)([@-~])")
_STRING: Final = re.compile(r"\x1b[\]PX^_]|[\x90\x98\x9d\x9e\x9f]")
_STRING_END: Final = re.compile(r"[\x07\x18\x1a\x9c]|\x1b\\?")
_ESCAPE: Final = re.compile(r"\x1b([ -/]*)([0-~])")
_UNFINISHED: Final = re.compile(r"\x1b(?:\[[<-?]?[0-;]*[ -/]*|[ -/]*)\Z|\x9b[<-?]?[0-;]*[ -/]*\Z")
_SWITCH: Final = re.compile(r"\x1b\[\?([0-9;]{1,32})([hl])|\x1bc")  # all that counts on the alternate screen
_ALTERNATE: Final = {"47", "1047", "1049"}
_PASTE: Final = "2004"  # readline, zle and fish take pastes whole while they read a line
_KEPT_REST: Final = 256  # characters of an unfinished sequence


class Listener(Protocol):
    """Is told what matters to whoever reads lines, at the moment that it happens."""

    def line_left(self, row: int) -> None:
        """A line feed takes the cursor off this row, counted from the session's first; told before it does."""

    def editor(self, is_on: bool) -> None:
        """A line editor begins, or ceases, to read."""


class _Cells(pyte.Screen):
    """Pyte's screen, which knows which of its rows go on in the next one, and what scrolled off its top."""

    def __init__(self, cols: int, rows: int) -> None:
        self.scrolled = 0  # rows that are above the screen
        self.history: deque[dict[int, Char] | None] = deque(maxlen=HISTORY_ROWS)
        self._plain: dict[str, Char] = {}
        super().__init__(cols, rows)

    def row(self, y: int, start: int = 0, stop: int = MOST_COLS) -> str:
        """The text of a row between two columns, with the spaces at its end."""
        return _text(self.line(y), start, min(self.columns, stop))

    def line(self, y: int) -> dict[int, Char] | None:
        """The cells of a row; rows above the screen have numbers below 0."""
        if y >= 0:
            return self.buffer.get(y)
        return self.history[y] if -y <= len(self.history) else None

    def is_wrapped(self, y: int) -> bool:
        """Whether the line goes on in the next row."""
        return getattr(self.line(y), "is_wrapped", False)

    def draw(self, data: str) -> None:
        cursor, plain = self.cursor, self._plain
        columns = self.columns
        line = self.buffer[cursor.y]
        inserts = pyte.modes.IRM in self.mode
        for character in data:
            width = 1 if character < "\x7f" else wcwidth(character)
            if width <= 0:
                self._combine(character)
                continue
            if cursor.x + width > columns:
                if pyte.modes.DECAWM in self.mode:
                    line.is_wrapped = True
                    cursor.x = 0
                    self.index()
                    line = self.buffer[cursor.y]
                else:
                    cursor.x = columns - width
            if inserts:
                self.insert_characters(width)
            cell = plain.get(character)
            if cell is None:
                if len(plain) > 4096:
                    plain.clear()
                cell = plain[character] = Char(character)
            line[cursor.x] = cell
            if width == 2:
                line[cursor.x + 1] = Char("")
            cursor.x += width

    def _combine(self, character: str) -> None:
        line = self.buffer[self.cursor.y]
        x = self.cursor.x - 1
        if x > 0 and x in line and not line[x].data:
            x -= 1  # the second cell of a wide one
        if x in line and unicodedata.combining(character) and len(line[x].data) < 8:
            line[x] = Char(unicodedata.normalize("NFC", line[x].data + character))

    def index(self) -> None:
        if self.margins is not None:
            super().index()
            self.dirty.clear()
        elif self.cursor.y < self.lines - 1:
            self.cursor.y += 1
        else:  # by far the most frequent
            buffer = self.buffer
            self.history.append(buffer.pop(0, None))
            self.scrolled += 1
            moved = {y - 1: line for y, line in buffer.items()}
            buffer.clear()
            buffer.update(moved)

    def erase_in_line(self, how: int = 0, *args: Any, **kwargs: Any) -> None:
        line = self.buffer.get(self.cursor.y)
        if not line:
            return
        for x in [x for x in line if (how == 2) or (x >= self.cursor.x if how == 0 else x <= self.cursor.x)]:
            del line[x]
        if how != 1:
            line.is_wrapped = False

    def erase_in_display(self, how: int = 0, *args: Any, **kwargs: Any) -> None:
        if how == 3:
            return  # the terminal's history alone
        rows = {0: range(self.cursor.y + 1, self.lines), 1: range(self.cursor.y)}.get(how, range(self.lines))
        for y in rows:
            self.buffer.pop(y, None)
        if how in (0, 1):
            self.erase_in_line(how)

    def tab(self) -> None:
        self.cursor.x = min((self.cursor.x // 8 + 1) * 8, self.columns - 1)

    def reflow(self, cols: int, rows: int) -> None:
        """Take another size: lines that were longer than a row are cut anew, as the browser's terminal does it."""
        lines: list[list[Char]] = [[]]
        at = (0, 0)  # line and cell of the cursor
        used = max([self.cursor.y, *(y for y, line in self.buffer.items() if line)])
        for y in range(used + 1):
            line = self.buffer.get(y) or {}
            is_wrapped = self.is_wrapped(y)
            width = self.columns if is_wrapped else (max(line) + 1 if line else 0)
            if y == self.cursor.y:
                width = max(width, min(self.cursor.x, self.columns))
                at = (len(lines) - 1, len(lines[-1]) + self.cursor.x)
            lines[-1] += [line[x] if x in line else Char(" ") for x in range(min(width, self.columns))]
            if not is_wrapped:
                lines.append([])
        if not lines[-1]:
            lines.pop()
        self.buffer.clear()
        self.margins = None
        self.columns, self.lines = cols, rows
        cut: list[tuple[list[Char], bool]] = []
        place = (0, 0)
        for number, cells in enumerate(lines):
            pieces = [cells[start : start + cols] for start in range(0, max(len(cells), 1), cols)]
            if number == at[0]:
                place = (len(cut) + min(at[1] // cols, len(pieces) - 1), 0)
                place = (place[0], min(at[1] - (place[0] - len(cut)) * cols, cols))
            cut += [(piece, index < len(pieces) - 1) for index, piece in enumerate(pieces)]
        above = max(0, min(len(cut) - rows, place[0]), place[0] - rows + 1)
        for y, (cells, is_wrapped) in enumerate(cut[: above + rows], -above):
            line = self.buffer[y]
            line.update(enumerate(cells))
            line.is_wrapped = is_wrapped
            if y < 0:
                self.history.append(self.buffer.pop(y))
                self.scrolled += 1
        self.cursor.y, self.cursor.x = place[0] - above, place[1]


class Screen:
    """Takes output, keeps the screen, and tells its listener of what matters."""

    def __init__(self, listener: Listener, cols: int = 80, rows: int = 24) -> None:
        self._listener = listener
        self._cells = _Cells(*_bounded(cols, rows))
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""  # an unfinished sequence
        self._in_string = False  # of an OSC, DCS and the like: nothing of it is shown
        self.is_alternate = False
        self.has_application_keys = False  # zle switches them on while it reads, where it is set up to
        self._place = (0, 0)  # of the cursor, before the alternate screen
        self._went_down = False  # the cursor, without a line feed, since something was drawn
        self._last = " "

    # What stands there

    @property
    def cols(self) -> int:
        return self._cells.columns

    @property
    def cursor(self) -> tuple[int, int]:
        """The row, counted from the first of the session, and the column."""
        return self._cells.scrolled + self._cells.cursor.y, self._cells.cursor.x

    @property
    def top(self) -> int:
        """The first row that is still known."""
        return self._cells.scrolled - len(self._cells.history)

    @property
    def bottom(self) -> int:
        """The last row on which anything stands."""
        rows = [y for y, line in self._cells.buffer.items() if line and self._cells.row(y).strip()]
        return self._cells.scrolled + max(rows, default=0)

    def row(self, row: int, start: int = 0, stop: int = MOST_COLS) -> str:
        """The text of a row between two columns."""
        return self._cells.row(row - self._cells.scrolled, start, stop)

    def goes_on(self, row: int) -> bool:
        """Whether the line goes on in the next row: the terminal cut it there, or both are full and not empty."""
        y = row - self._cells.scrolled
        if self._cells.is_wrapped(y):
            return True
        return self.is_full(row) and bool(self._cells.row(y + 1).strip())

    def is_full(self, row: int) -> bool:
        """Whether something stands at the row's right edge."""
        last = (self._cells.line(row - self._cells.scrolled) or {}).get(self._cells.columns - 1)
        return last is not None and last.data != " "

    def text(self, row: int, start: int, last: int) -> str:
        """What stands from a cell to the end of row `last`, as lines; spaces at the ends of lines are left out."""
        pieces: list[str] = []
        for each in range(row, last + 1):
            text = self.row(each, start if each == row else 0)
            if each < last and self.goes_on(each):
                width = self.cols - (start if each == row else 0)
                pieces.append(text if len(text) >= width or not text.isascii() else text.ljust(width))
            else:
                pieces.append(text.rstrip() + "\n")
        return "".join(pieces).rstrip()

    # What comes

    def resize(self, cols: int, rows: int) -> None:
        cols, rows = _bounded(cols, rows)
        if (cols, rows) != (self._cells.columns, self._cells.lines):
            self._cells.reflow(cols, rows)

    def feed(self, data: bytes) -> None:
        text = self._rest + self._decoder.decode(data)
        self._rest = ""
        at, size = 0, len(text)
        while at < size:
            if self._in_string:
                at = self._string_end(text, at)
            elif self.is_alternate:
                at = self._alternate(text, at)
            else:
                at = self._one(text, at)

    def skip(self) -> None:
        """Something was left out: what was begun there does not go on here."""
        self._rest, self._in_string = "", False
        self._decoder.reset()

    def _one(self, text: str, at: int) -> int:
        """Obey what begins at `at`; returns where the next begins."""
        cells = self._cells
        if found := _TEXT.match(text, at):
            if self._went_down:
                self._went_down = False
                if not cells.cursor.x:  # zsh leaves a line so where there is a row below it already
                    self._listener.line_left(cells.scrolled + cells.cursor.y - 1)
            cells.draw(found[0])
            self._last = found[0][-1]
            return found.end()
        character = text[at]
        if character in "\n\x0b\x0c":
            self._listener.line_left(cells.scrolled + cells.cursor.y)
            cells.linefeed()
        elif character == "\r":
            cells.cursor.x = 0
        elif character == "\b":
            cells.backspace()
        elif character == "\t":
            cells.tab()
        elif character == "\x1b" or character >= "\x80":
            return self._sequence(text, at)
        return at + 1

    def _sequence(self, text: str, at: int) -> int:
        if found := _CSI.match(text, at):
            self._control(*found.groups())
            return found.end()
        if found := _STRING.match(text, at):
            self._in_string = True
            return found.end()
        if _UNFINISHED.match(text, at) and len(text) - at <= _KEPT_REST:
            self._rest = text[at:]
            return len(text)
        if found := _ESCAPE.match(text, at):
            if not found[1]:
                self._escape(found[2])
            return found.end()
        if text[at] == "\x85":
            self._escape("E")
        elif text[at] == "\x84":
            self._escape("D")
        return at + 1

    def _string_end(self, text: str, at: int) -> int:
        end = _STRING_END.search(text, at)
        if end is None:
            return len(text)
        if end[0] == "\x1b" and end.end() == len(text):
            self._rest = "\x1b"
            return len(text)
        self._in_string = False
        # ESC ends it too, and begins the next sequence.
        return end.start() if end[0] == "\x1b" else end.end()

    def _alternate(self, text: str, at: int) -> int:
        """Nothing here is kept; look for the way back alone."""
        found = _SWITCH.search(text, at)
        if found is None:
            begin = text.rfind("\x1b", max(at, len(text) - 40))
            if begin >= 0 and _UNFINISHED.match(text, begin):
                self._rest = text[begin:]
            return len(text)
        if found[0] == "\x1bc":
            self._escape("c")
        else:
            self._modes(found[1], found[2] == "h")
        return found.end()

    def _escape(self, final: str) -> None:
        cells = self._cells
        if final in "DE":
            self._listener.line_left(cells.scrolled + cells.cursor.y)
            cells.index()
            if final == "E":
                cells.cursor.x = 0
        elif final == "M":
            cells.reverse_index()
        elif final == "7":
            cells.save_cursor()
        elif final == "8":
            cells.restore_cursor()
        elif final == "c":
            self.is_alternate = False
            cells.reset()
            self._turn_over()

    def _turn_over(self) -> None:
        """The screen is empty: its rows count as new ones."""
        self._cells.scrolled += self._cells.lines
        self._cells.history.clear()

    def _control(self, prefix: str, parameters: str, between: str, final: str) -> None:
        if prefix == "?" and final in "hl":
            self._modes(parameters, final == "h")
            return
        if prefix or between or ":" in parameters or final == "m":
            return
        cells = self._cells
        numbers = [min(int(part), _MOST_COUNT) if part.isdigit() else 0 for part in parameters.split(";")[:8]]
        if final == "J":
            is_all = numbers[0] == 2 or (numbers[0] == 0 and not (cells.cursor.x or cells.cursor.y))
            cells.erase_in_display(numbers[0])
            if is_all:
                self._turn_over()
        elif final == "b":
            cells.draw(self._last * min(numbers[0] or 1, cells.columns * 2))
        elif final in "hl":
            if 4 in numbers:
                (cells.set_mode if final == "h" else cells.reset_mode)(4)
        elif final in _CONTROLS:
            self._went_down = final == "B" or (self._went_down and final not in "AHfd")
            getattr(cells, _CONTROLS[final])(*numbers[:2] if final in "Hfr" else numbers[:1])

    def _modes(self, parameters: str, is_on: bool) -> None:
        for number in parameters.split(";"):
            if number in _ALTERNATE:
                if is_on and not self.is_alternate:
                    self._place = (self._cells.cursor.y, self._cells.cursor.x)
                elif not is_on and self.is_alternate:
                    self._cells.margins = None
                    self._cells.cursor.y = min(self._place[0], self._cells.lines - 1)
                    self._cells.cursor.x = min(self._place[1], self._cells.columns)
                self.is_alternate = is_on
            elif number == _PASTE:
                if not self.is_alternate:  # vim has it on too
                    self._listener.editor(is_on)
            elif number == "1":
                self.has_application_keys = is_on
            elif number in {"6", "7"}:
                (self._cells.set_mode if is_on else self._cells.reset_mode)(int(number), private=True)

    # Going on later

    def state(self) -> dict[str, Any]:
        """All that is known, for JSON; of what scrolled off the newest rows alone."""
        cells = self._cells
        return {
            "size": [cells.columns, cells.lines],
            "rows": [[cells.row(y), cells.is_wrapped(y)] for y in range(-min(50, len(cells.history)), cells.lines)],
            "scrolled": cells.scrolled,
            "cursor": [cells.cursor.x, cells.cursor.y],
            "margins": list(cells.margins) if cells.margins else None,
            "modes": [mode for mode in (pyte.modes.IRM, pyte.modes.DECAWM, pyte.modes.DECOM) if mode in cells.mode],
            "alternate": [self.is_alternate, *self._place],
            "keys": self.has_application_keys,
            "rest": self._rest,
            "string": self._in_string,
            "undecoded": self._decoder.getstate()[0].hex(),
        }

    @classmethod
    def restore(cls, listener: Listener, state: dict[str, Any]) -> Screen:
        screen = cls(listener, *state["size"])
        cells = screen._cells
        for y, (text, is_wrapped) in enumerate(state["rows"], cells.lines - len(state["rows"])):
            cells.cursor.y, cells.cursor.x = y, 0
            line = cells.buffer[y]
            x = 0
            for character in text:
                width = wcwidth(character)
                if width <= 0:
                    cells.cursor.x = x
                    cells._combine(character)
                    continue
                line[x] = Char(character)
                if width == 2:
                    line[x + 1] = Char("")
                x += width
            line.is_wrapped = is_wrapped
            if y < 0:
                cells.history.append(cells.buffer.pop(y))
        cells.cursor.x, cells.cursor.y = state["cursor"]
        cells.scrolled = state["scrolled"]
        if state["margins"]:
            cells.margins = pyte.screens.Margins(*state["margins"])
        cells.mode -= {pyte.modes.IRM, pyte.modes.DECAWM, pyte.modes.DECOM}
        cells.mode |= set(state["modes"])
        screen.is_alternate, *place = state["alternate"]
        screen._place = (place[0], place[1])
        screen.has_application_keys = state["keys"]
        screen._rest, screen._in_string = state["rest"], state["string"]
        screen._decoder.setstate((bytes.fromhex(state["undecoded"]), 0))
        return screen


_CONTROLS: Final = {
    "@": "insert_characters",
    "A": "cursor_up",
    "B": "cursor_down",
    "C": "cursor_forward",
    "D": "cursor_back",
    "E": "cursor_down1",
    "F": "cursor_up1",
    "G": "cursor_to_column",
    "H": "cursor_position",
    "K": "erase_in_line",
    "L": "insert_lines",
    "M": "delete_lines",
    "P": "delete_characters",
    "X": "erase_characters",
    "`": "cursor_to_column",
    "a": "cursor_forward",
    "d": "cursor_to_line",
    "e": "cursor_down",
    "f": "cursor_position",
    "r": "set_margins",
}


def _text(line: dict[int, Char] | None, start: int, stop: int) -> str:
    if not line:
        return ""
    return "".join(line[x].data if x in line else " " for x in range(start, min(max(line) + 1, stop)))


def _bounded(cols: int, rows: int) -> tuple[int, int]:
    return max(2, min(cols, MOST_COLS)), max(1, min(rows, MOST_ROWS))
