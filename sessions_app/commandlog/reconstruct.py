"""What was typed, read off the screen: for shells that do not tell it themselves, and beside those that do. No I/O.

A line is what stands between a prompt and the cursor at the moment that it is taken. That moment is known where the
shell's editor says when it reads (readline 8.1, zle and fish switch bracketed paste on and off), and else by the line
feed that leaves the line. Where the line begins is known by resting: when a key comes in, what stands before the cursor
is the prompt. What is not certain then waits until what follows makes it so: a list of completions, too, leaves the
line, but the prompt comes back with it.

Nothing that was printed in one go is taken for a line, whatever it looks like: before a line there is a prompt that
rested, and a key. What is typed where nothing is echoed never stands on a screen.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from wcwidth import wcswidth

from .screen import Screen

MOST_TEXT: Final = 16_384  # characters of one line; D's marks have the same bound
_SETTLE_US: Final = 700_000  # a line whose end the editor told: time for a prompt that asks for more of it
_SETTLE_UNSURE_US: Final = 3_000_000
REST_US: Final = 40_000  # without records of input: a pause of the output in which somebody may have typed
_ROWS_BACK: Final = 400
_PROMPTS_KEPT: Final = 24
_MOST_PROMPT: Final = 300

# How prompts of shells end. Those of other programs end so as well: they are told apart by what stands before.
_PROMPT_END: Final = re.compile(r"[$#%❯➜»λ▶⟩] {0,2}\Z")
_ARROW_END: Final = re.compile(r"(?:\APS .*|\A[A-Za-z]:\\.*|.*@.*|.*~)> ?\Z")  # PowerShell, cmd, fish
_OTHERS: Final = re.compile(
    r"""\s*(?:>>>|\.\.\.|In\s\[\d+\]:|\(gdb\)|\(Pdb\)|\(ipdb\)|irb\(.*|\[\d+\]\spry.*|mysql>|MariaDB\s\[.*|sqlite>|sftp>|ftp>
    |[\w.-]*[=\-*!^'"(~][>#]|[\w.]+>|[\d.:]+>|>|\d+:\d+>|jshell>|scala>|php\s>|SQL>)\s*\Z""",
    re.VERBOSE,
)
_MORE: Final = re.compile(
    r"""(?:>\x20|(?:(?:for|foreach|while|until|repeat|if|then|elif|else|case|select|function|always|cursh|subsh|quote
    |dquote|bquote|cmdsubst|mathsubst|math|cond|braceparam|array|heredocd?|(?:err)?pipe|cmdand|cmdor)\x20?)+>\x20?)""",
    re.VERBOSE,
)
_ASKS_WHETHER: Final = re.compile(r"possibilities\?|\(y or n\)|--More--|\? \[ynaq]|do you wish to see all", re.I)


@dataclass(frozen=True, slots=True)
class Typed:
    """A line that was taken by what showed the prompt."""

    text: str
    time_us: int  # since the session's start
    offset: int  # of output, about
    end_row: int
    prompt: str
    is_sure: bool  # the editor itself told that it took the line


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a line begins on the screen."""

    row: int
    col: int
    prompt: str
    right: str = ""  # a prompt at the right edge, which is no part of the line
    is_more: bool = False  # the prompt asks for the rest of a line


class LineReader:
    """Takes the records of a session in order; `take` gives the lines that are certain."""

    def __init__(self, cols: int = 80, rows: int = 24) -> None:
        self.screen = Screen(self, cols, rows)
        self.has_input = True  # records of input are there; without them a pause has to do
        self.is_console = False  # of Windows: it ends a row that is full as it ends a line
        self.pending: Typed | None = None
        self.prompted: list[int] = []  # moments at which a prompt was shown
        self._lines: list[Typed] = []
        self._place: _Place | None = None
        self._is_editor = False
        self._prompts: list[str] = []  # the latest last
        self._ahead = 0  # keys since the last line, while no prompt was there
        self._keys = 0  # since the line's prompt
        self._had_keys = False  # the editor had application keys on when a key came
        self._gives_keys_back = False  # and switches them off when it takes a line
        self._has_right = False  # the shell has a prompt at the right edge
        self._pasted = False  # the last line came in one go, and others may have come with it
        self._left: deque[str] = deque(maxlen=100)  # rows that were left while keys came ahead
        self._time_us = self._output_us = 0  # of the last record, and of the last output
        self._offset = 0

    # Records

    def output(self, data: bytes, time_us: int, offset: int) -> None:
        if not self.has_input and time_us - self._time_us >= REST_US:
            self._rest(is_key=False)
        self.settle(time_us)
        self._time_us = self._output_us = time_us
        self._offset = offset
        self.screen.feed(data)

    def key(self, time_us: int) -> None:
        """Something was typed; what, nobody says."""
        self.settle(time_us)
        self._time_us = time_us
        self._rest(is_key=True)

    def size(self, cols: int, rows: int) -> None:
        row, _ = self.screen.cursor
        before = self._place
        self.screen.resize(cols, rows)
        if before is not None:
            self._place = replace(before, row=before.row + self.screen.cursor[0] - row)

    def settle(self, time_us: int) -> None:
        """Decide on a line that waited long enough."""
        pending = self.pending
        if pending is None or time_us - pending.time_us < (_SETTLE_US if pending.is_sure else _SETTLE_UNSURE_US):
            return
        row, _ = self.screen.cursor
        shown = self.screen.row(row)
        if row == pending.end_row + 1 and _MORE.match(shown) and is_unfinished(pending.text):
            return
        if not pending.is_sure:
            if _ASKS_WHETHER.search(shown):
                return
            if self._is_back(pending, shown):
                self.pending = None
                return
        self._decided()

    def finish(self) -> None:
        """There is no more to come."""
        if self.pending is not None and not self._is_back(self.pending, self.screen.row(self.screen.cursor[0])):
            self._decided()
        self.pending = None

    def take(self) -> list[Typed]:
        """The lines that became certain since the last call."""
        lines, self._lines = self._lines, []
        return lines

    def take_for_mark(self) -> list[Typed]:
        """All lines up to now: the shell says that it runs what was typed."""
        if self.pending is not None:
            self._decided()
        return self.take()

    def after(self, typed: Typed) -> str:
        """The first row below a line: there a shell shows what it made of a history reference."""
        row, _ = self.screen.cursor
        return self.screen.text(typed.end_row + 1, 0, row) if row > typed.end_row else ""

    # What the screen tells

    def editor(self, is_on: bool) -> None:
        if is_on:
            self._is_editor = True
            self._place = None
            self._keys = 0
            self._had_keys = False
            self.prompted.append(self._time_us)
        elif self._is_editor:
            is_given_up = self._gives_keys_back and self.screen.has_application_keys
            self._gives_keys_back |= self._had_keys and not self.screen.has_application_keys
            row, col = self.screen.cursor
            if col == 0 and not self.screen.row(row).strip():
                row -= 1
            if is_given_up:
                self._give_up()
            else:
                self._line(row, is_sure=True)
            self._is_editor = False

    def line_left(self, row: int) -> None:
        if self._is_editor:
            return
        place = self._place
        if place is not None and self._gives_keys_back and self.screen.has_application_keys:
            self._give_up()
        elif place is not None:
            if self.is_console and self.screen.is_full(row):
                return
            if row >= self._last_row(place.row) and row >= place.row:
                self._gives_keys_back |= self._had_keys and not self.screen.has_application_keys
                self._line(row, is_sure=False)
        elif self._ahead or self._pasted:
            shown = self.screen.row(row).rstrip()
            self._left.append(shown)
            start = self._start_known(row)
            if start is not None:
                text = self.screen.text(start.row, start.col, row).strip()
                if text and (self._pasted or self._was_echoed(text, row)):
                    self._place = start
                    self._line(row, is_sure=False, is_ahead=True)

    def _was_echoed(self, text: str, row: int) -> bool:
        return any(left.endswith(text) for left in list(self._left)[:-1])

    # Prompts

    def _rest(self, *, is_key: bool) -> None:
        """Somebody types now: what stands before the cursor may be a prompt."""
        if self.screen.is_alternate:
            return
        self._had_keys |= self.screen.has_application_keys
        if self._place is not None:
            self._keys += is_key
            return
        row, col = self.screen.cursor
        head = self.screen.row(row, 0, col)
        place = self._place_at(row, col, head)
        if place is None:
            self._ahead += is_key
            return
        pending = self.pending
        if pending is not None:
            if not pending.is_sure and self._is_back(pending, self.screen.row(row)):
                self.pending = None  # a list of completions stands between: the same line is still being typed
            elif place.is_more:
                pass
            else:
                self._decided()
        self._place = place
        self._keys = int(is_key)
        self._had_keys = self.screen.has_application_keys
        self._ahead = 0
        self._pasted = False
        self._left.clear()
        if not place.is_more:
            if self._known(place.prompt) == place.prompt or not self._ends_known(place.prompt):
                self._learn(place.prompt)
            self.prompted.append(self._output_us)

    def _place_at(self, row: int, col: int, head: str) -> _Place | None:
        if (more := self._asks_for_more(row, head)) is not None:
            return more
        if not head.strip() or len(head) > _MOST_PROMPT:
            return None
        if not self._keys and not self._ahead and self._ends_known(head):
            place = _Place(row, col, head)  # whatever was printed before it
        elif (known := self._known(head) or self._known_inside(head)) is not None:
            place = _Place(row, wcswidth(known), known)
        elif (self._is_editor and not _OTHERS.match(head)) or looks_like_prompt(head, is_first=not self._prompts):
            like = self._alike(head)
            place = _Place(row, wcswidth(like), like) if like else _Place(row, col, head)
        else:
            return None
        if place.col == col and (right := self.screen.row(row, col).strip()):
            self._has_right = True
            return replace(place, right=right)
        return place

    def _ends_known(self, text: str) -> bool:
        return any(text.endswith(prompt) for prompt in self._prompts)

    def _asks_for_more(self, row: int, shown: str) -> _Place | None:
        """The place behind a prompt that asks for the rest of the line above it."""
        pending = self.pending
        if pending is None or row != pending.end_row + 1 or not is_unfinished(pending.text):
            return None
        more = _MORE.match(shown)
        return _Place(row, more.end(), more[0], is_more=True) if more is not None else None

    def _learn(self, prompt: str) -> None:
        if prompt in self._prompts:
            self._prompts.remove(prompt)
        self._prompts.append(prompt)
        del self._prompts[:-_PROMPTS_KEPT]

    def _known(self, text: str) -> str | None:
        found = [prompt for prompt in self._prompts if text.startswith(prompt)]
        return max(found, key=len, default=None)

    def _known_inside(self, text: str) -> str | None:
        """The front of a row up to the end of a prompt that an editor shows behind what was typed ahead."""
        places = [(text.find(prompt), prompt) for prompt in self._prompts if self._is_editor and len(prompt) > 3]
        found = [text[: at + len(prompt)] for at, prompt in places if at > 0]
        return min(found, key=len, default=None)

    def _alike(self, text: str) -> str:
        """The prompt at the front of a row, if it is one that was learned but for the directory in it."""
        for prompt in reversed(self._prompts):
            if found := re.match(_pattern(prompt), text):
                return found[0]
        return ""

    def _is_back(self, pending: Typed, shown: str) -> bool:
        """Whether the prompt stands there again with the very line that seemed to be taken."""
        return bool(pending.text) and shown.startswith(pending.prompt + pending.text.split("\n")[0])

    # Lines

    def _give_up(self) -> None:
        """The editor ceased to read without having taken the line: Ctrl-C in zsh."""
        place, self._place, self._keys = self._place, None, 0
        if place is not None and place.is_more:
            self.pending = None

    def _last_row(self, row: int) -> int:
        limit = row + _ROWS_BACK
        while row < limit and self.screen.goes_on(row):
            row += 1
        return row

    def _line(self, end_row: int, *, is_sure: bool, is_ahead: bool = False) -> None:
        """The line that ends in `end_row` was taken."""
        place = self._start(end_row)
        self._pasted = not self._is_editor and ((is_ahead and self._pasted) or self._keys == 1)
        self._place = None
        self._keys = 0
        self._ahead = max(0, self._ahead - 1) if is_ahead else 0
        if place is None:
            return
        pending = self.pending
        text = self.screen.text(place.row, place.col, end_row)[:MOST_TEXT]
        if self._has_right and not (place.row < end_row and self.screen.goes_on(place.row)):
            first, *others = text.split("\n")
            text = "\n".join([self._without_right(place, first), *others])
        if place.is_more and pending is not None:
            if text.endswith("^C"):
                self.pending = None
                return
            text = f"{pending.text}\n{text}"[:MOST_TEXT]
            self.pending = replace(pending, text=text, time_us=self._time_us, end_row=end_row)
            return
        if pending is not None:
            self._decided()
        text = text.strip()
        if not text or text.endswith("^C"):
            return
        self.pending = Typed(text, self._time_us, self._offset, end_row, place.prompt, is_sure)

    def _without_right(self, place: _Place, text: str) -> str:
        """Without what stands at the right edge, behind a gap."""
        shown = self.screen.row(place.row).rstrip()
        if place.right and text.endswith(" " + place.right):
            return text.removesuffix(place.right).rstrip()
        if len(shown) >= self.screen.cols - 1 and (found := re.search(r"\s{2,}\S+\Z", text)):
            return text[: found.start()]
        return text

    def _decided(self) -> None:
        if self.pending is not None:
            self._lines.append(self.pending)
            self.pending = None

    def _start(self, end_row: int) -> _Place | None:
        """Where the line that ends in a row begins: at its prompt, wherever redrawing has moved that."""
        place = self._place
        if place is not None and place.row <= end_row and self.screen.row(place.row, 0, place.col) == place.prompt:
            again = any(self._begins(row, place.prompt) for row in range(place.row + 1, end_row + 1))
            if not (self._is_editor and again):
                return place
        if (found := self._start_known(end_row)) is not None:
            return replace(found, right=place.right if place is not None else "")
        if place is not None:
            for row in range(end_row, max(self.screen.top, end_row - _ROWS_BACK) - 1, -1):
                if self._begins(row, place.prompt):
                    return replace(place, row=row)
            return None
        return self._guessed(end_row) if self._is_editor else None

    def _begins(self, row: int, prompt: str) -> bool:
        return self.screen.row(row).startswith(prompt) and not self.screen.goes_on(row - 1)

    def _start_known(self, end_row: int) -> _Place | None:
        """The nearest row at or above that begins with a prompt that was seen, or with one like it."""
        pending = self.pending
        most = _ROWS_BACK if self._is_editor else 0
        row = end_row
        for row in range(end_row, max(self.screen.top, end_row - most) - 1, -1):
            shown = self.screen.row(row)
            if (more := self._asks_for_more(row, shown)) is not None:
                return more
            if pending is not None and row <= pending.end_row:
                return None
            if row > self.screen.top and self.screen.goes_on(row - 1):
                continue
            prompt = self._known(shown) or self._known_inside(shown) or self._alike(shown)
            if prompt:
                return _Place(row, wcswidth(prompt), prompt)
        return None

    def _guessed(self, end_row: int) -> _Place | None:
        """The first line of a session may have been typed before its prompt was there."""
        row = end_row
        while row > self.screen.top and self.screen.goes_on(row - 1):
            row -= 1
        found = re.match(r".*?[^\s]*[$#%❯➜»>] ", self.screen.row(row))
        if found is None or _OTHERS.match(found[0]):
            return None
        self._learn(found[0])
        return _Place(row, wcswidth(found[0]), found[0])

    # Going on later

    def state(self) -> dict[str, Any]:
        return {
            "screen": self.screen.state(),
            "pending": asdict(self.pending) if self.pending else None,
            "place": asdict(self._place) if self._place else None,
            "editor": self._is_editor,
            "prompts": self._prompts,
            "counts": [self._ahead, self._keys, self._pasted, self._had_keys, self._gives_keys_back, self._has_right],
            "left": list(self._left),
            "at": [self._time_us, self._output_us, self._offset],
        }

    @classmethod
    def restore(cls, state: dict[str, Any]) -> LineReader:
        reader = cls()
        reader.screen = Screen.restore(reader, state["screen"])
        reader.pending = Typed(**state["pending"]) if state["pending"] else None
        reader._place = _Place(**state["place"]) if state["place"] else None
        reader._is_editor = state["editor"]
        reader._prompts = list(state["prompts"])
        reader._ahead, reader._keys, reader._pasted = state["counts"][:3]
        reader._had_keys, reader._gives_keys_back, reader._has_right = state["counts"][3:]
        reader._left.extend(state["left"])
        reader._time_us, reader._output_us, reader._offset = state["at"]
        return reader


def looks_like_prompt(text: str, *, is_first: bool = False) -> bool:
    """Whether a row that a cursor rests on reads like a shell's prompt. The first of a session may end in ">"."""
    if _OTHERS.match(text) and not (is_first and len(text.strip()) > 1):
        return False
    return bool(_PROMPT_END.search(text) or _ARROW_END.match(text)) or (is_first and text.rstrip().endswith(">"))


def _pattern(prompt: str) -> str:
    """What prompts look like that differ from this one in what stands in the middle: mostly the directory."""
    bare = prompt.rstrip()
    tail = re.escape(bare[-1:] + prompt[len(bare) :])
    if len(bare) > 1 and bare[-2] in "])}":
        tail = re.escape(bare[-2]) + tail
    head = re.match(r"[^\s:~/]*", bare)
    front = head[0] if head is not None else ""
    if not front or front == bare:
        front = bare[:1] if len(bare) > 3 else ""
        if not front:
            return re.escape(prompt)
    return rf"{re.escape(front)}[^\n]{{0,200}}?{tail}"


_WORD: Final = re.compile(r"[A-Za-z_]+|[(){}]")
_OPENS: Final = {"for", "while", "until", "if", "case", "select", "{", "("}
_CLOSES: Final = {"done", "fi", "esac", "}", ")"}


def is_unfinished(text: str) -> bool:
    """Whether a shell would ask for more: an open quote, a backslash or an operator at the end, an open construct."""
    depth = 0
    quote = ""
    plain: list[str] = []
    index = 0
    while index < len(text):
        character = text[index]
        if quote == "'":
            quote = "" if character == "'" else quote
        elif character == "\\":
            if index == len(text) - 1:
                return True
            index += 1
        elif quote:
            quote = "" if character == quote else quote
        elif character in "'\"`":
            quote = character
        else:
            plain.append(character)
        index += 1
    if quote:
        return True
    rest = "".join(plain)
    if re.search(r"(?:\||&&|\{|\()\s*\Z", rest) or re.search(r"<<-?\s*\w*", rest):
        here = re.search(r"<<-?\s*[\\'\"]?(\w+)", text)
        return here is None or not re.search(rf"\n\s*{re.escape(here[1])}\s*\Z", text)
    for word in _WORD.findall(rest):
        depth += (word in _OPENS) - (word in _CLOSES)
    return depth > 0 or bool(re.match(r"\s*(?:function\s+\w+|\w+\s*\(\))\s*\Z", rest))
