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

from .prompts import MORE, OTHERS, cannot_run, is_unfinished, looks_like_prompt, pattern
from .screen import Screen

MOST_TEXT: Final = 16_384  # characters of one line; D's marks have the same bound
_SETTLE_US: Final = 700_000  # a line whose end the editor told: time for a prompt that asks for more of it
_SETTLE_UNSURE_US: Final = 3_000_000
REST_US: Final = 40_000  # without records of input: a pause of the output in which somebody may have typed
_REST_AHEAD_US: Final = 20_000  # the same where keys were on their way
_AT_ONCE_US: Final = 10_000  # what a paste shows comes with shorter pauses, what is typed does not
_ZSH: Final = b"\x1b[27m\x1b[1m\x1b[0m    "  # before each prompt, it marks output that has no line end (PROMPT_SP)
_PAUSE_US: Final = 700_000  # without a key: nothing is on its way any more
_NEAR_US: Final = 5_000  # where a key is seen so soon, none is ever on its way as another is seen
_ROWS_BACK: Final = 400
_ROWS_AHEAD: Final = 100  # above a prompt, in which what was typed ahead of it is looked for
_PROMPTS_KEPT: Final = 24
_MOST_PROMPT: Final = 300

_ASKS_WHETHER: Final = re.compile(r"possibilities\?|\(y or n\)|--More--|\? \[ynaq]|do you wish to see all", re.I)


GIVEN_UP: Final = "Unsure: it may have been given up by Ctrl-C, which this shell does not show."
PASTED: Final = "Unsure: it came at once with what the line before it showed, as lines of a paste do."


@dataclass(frozen=True, slots=True)
class Typed:
    """A line that was taken by what showed the prompt."""

    text: str
    time_us: int  # since the session's start
    offset: int  # of output, about
    end_row: int
    prompt: str
    is_sure: bool  # the editor itself told that it took the line
    doubt: str = ""  # why it may not have been run, in words


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
        self._echoes = 0  # records of output since the line's prompt
        self._at_once = True  # and they came without a pause
        self._was: _Place | None = None  # where the line began that a line feed has left
        self._is_zsh = False  # it was zsh that showed a prompt since the last line
        self._tail = b""  # of the latest output
        self._has_drawn = False  # and a program had the alternate screen
        self._keys_us: deque[int] = deque(maxlen=64)  # moments of the latest keys
        self._asked_us = -1  # of the first key after a pause, until something is shown
        self._flights_us: deque[int] = deque(maxlen=5)  # the latest times from such a key to what was shown
        self._end_row = 0  # of the last line
        self._time_us = self._output_us = 0  # of the last record, and of the last output
        self._offset = 0

    # Records

    def output(self, data: bytes, time_us: int, offset: int) -> None:
        if self._asked_us >= 0:
            seen_us, self._asked_us = time_us - self._asked_us, -1
            if seen_us < _PAUSE_US:
                self._flights_us.append(seen_us)
        if time_us - self._output_us >= (REST_US if not self.has_input else _REST_AHEAD_US if self._ahead else 1 << 62):
            self._rest(is_key=False)
        self.settle(time_us)
        self._at_once &= not self._echoes or time_us - self._output_us < _AT_ONCE_US
        self._echoes += 1
        self._time_us = self._output_us = time_us
        self._offset = offset
        self.screen.feed(data)
        self._is_zsh |= _ZSH in self._tail + data
        self._tail = data[-len(_ZSH) :]
        self._has_drawn |= self.screen.is_alternate
        if self._was is not None:
            self._look_back(self._was)

    def key(self, time_us: int) -> None:
        """Something was typed; what, nobody says."""
        self.settle(time_us)
        if not self._keys_us or time_us - self._keys_us[-1] >= _PAUSE_US:
            self._asked_us = time_us
        self._keys_us.append(time_us)
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
        if self._place is not None and self._place.is_more:
            return  # the rest of it is being typed
        row, _ = self.screen.cursor
        shown = self.screen.row(row)
        if row == pending.end_row + 1 and MORE.match(shown) and is_unfinished(pending.text):
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
            self._was = place
        elif place is not None:
            if self.is_console and self.screen.is_full(row):
                return
            if row >= self._last_row(place.row) and row >= place.row:
                self._gives_keys_back |= self._had_keys and not self.screen.has_application_keys
                self._line(row, is_sure=False)
        elif self._ahead or self._pasted:
            start = self._start_known(row)
            if start is not None:
                text = self._without_right(start, self.screen.text(start.row, start.col, row)).strip()
                if text and (self._pasted or self._was_echoed(text, start.row)):
                    self._place = start
                    self._line(row, is_sure=False, is_ahead=True)

    def _was_echoed(self, text: str, row: int) -> bool:
        """Whether the terminal itself showed it below the last line, before there was a prompt."""
        for above in range(row - 1, max(self._end_row, row - _ROWS_AHEAD, self.screen.top - 1), -1):
            shown = self.screen.row(above).rstrip()
            if shown.endswith(text) and self._known(shown) is None:
                return True
        return False

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
        place = None if is_key and self._is_coming() else self._place_at(row, col, head)
        if place is None:
            self._ahead += is_key or not self.has_input
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
        self._keys = int(is_key) + (self._ahead if self.has_input else 0)
        self._had_keys = self.screen.has_application_keys
        self._ahead = 0
        self._pasted = False
        self._echoes, self._at_once, self._was = 0, True, None
        if not place.is_more:
            if self._known(place.prompt) == place.prompt or not self._ends_known(place.prompt):
                self._learn(place.prompt)
            self.prompted.append(self._output_us)

    def _is_coming(self) -> bool:
        """Whether a key came so soon behind what was shown that it was no answer to it: more of it may come."""
        return self._flight_us >= 2 * _REST_AHEAD_US and self._time_us - self._output_us < _AT_ONCE_US

    def _place_at(self, row: int, col: int, head: str) -> _Place | None:
        if (more := self._asks_for_more(row, head)) is not None:
            return more
        if not head.strip() or len(head) > _MOST_PROMPT:
            return None
        if self._ahead and (front := self._behind_ahead(head)):
            place = _Place(row, wcswidth(front), front)
        elif not self._keys and not self._ahead and self._ends_known(head):
            place = _Place(row, col, head)  # whatever was printed before it
        elif (known := self._known(head) or self._known_inside(head)) is not None:
            place = _Place(row, wcswidth(known), known)
        elif (self._is_editor and not OTHERS.match(head)) or looks_like_prompt(head, is_first=not self._prompts):
            like = self._alike(head)
            place = _Place(row, wcswidth(like), like) if like else _Place(row, col, head)
        else:
            return None
        if place.col == col and (right := self.screen.row(row, col).strip()):
            self._has_right = True
            return replace(place, right=right)
        return place

    def _behind_ahead(self, head: str) -> str:
        """The front of a row up to the end of a prompt that came behind what was typed ahead, and shows it again."""
        for prompt in reversed(self._prompts):
            at = head.rfind(prompt)
            if at > 0 and len(prompt) > 3 and head[:at].endswith(head[at + len(prompt) :]):
                return head[: at + len(prompt)]
        return ""

    def _ends_known(self, text: str) -> bool:
        return any(text.endswith(prompt) for prompt in self._prompts)

    def _asks_for_more(self, row: int, shown: str) -> _Place | None:
        """The place behind a prompt that asks for the rest of the line above it."""
        pending = self.pending
        if pending is None or row != pending.end_row + 1 or not is_unfinished(pending.text):
            return None
        more = MORE.match(shown)
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
            if found := re.match(pattern(prompt), text):
                return found[0]
        return ""

    def _look_back(self, was: _Place) -> None:
        """Take up the line again that something shown below it, a list of completions or a search, seemed to end."""
        row, col = self.screen.cursor
        if row == was.row and col >= was.col and self.screen.row(row, 0, was.col) == was.prompt:
            self._place = was
        elif not self.has_input and not self._pasted and (pending := self.pending) is not None:
            if row <= self._end_row or self.screen.row(row, 0, col) != pending.prompt + pending.text:
                return
            self._place = replace(was, row=row)
        else:
            return
        self.pending = self._was = None
        self._echoes = max(1, self._echoes)

    def _is_back(self, pending: Typed, shown: str) -> bool:
        """Whether the prompt stands there again with the very line that seemed to be taken."""
        return bool(pending.text) and shown.startswith(pending.prompt + pending.text.split("\n")[0])

    # Lines

    @property
    def _flight_us(self) -> int:
        """How long it takes from a key to what it does on the screen."""
        return sorted(self._flights_us)[len(self._flights_us) // 2] if self._flights_us else 0

    def _in_flight(self) -> int:
        """How many keys came after the one that did what is shown now."""
        since_us = self._time_us - self._flight_us * 3 // 4
        return sum(at_us > since_us for at_us in self._keys_us) if self._flight_us >= _NEAR_US else 0

    def _give_up(self) -> None:
        """The editor ceased to read without having taken the line: Ctrl-C in zsh."""
        place, self._place, self._keys = self._place, None, 0
        self._ahead = self._in_flight()
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
        self._end_row = end_row
        self._was = None if is_sure or is_ahead else place
        keys, self._keys = self._keys, 0
        self._place = None
        self._ahead = max(0, self._ahead - 1) if is_ahead else self._in_flight()
        was_pasted, self._pasted = self._pasted, False
        self._is_zsh = self._has_drawn = False
        if place is None:
            return
        pending = self.pending
        text = self.screen.text(place.row, place.col, end_row)[:MOST_TEXT]
        at_once = self._at_once and keys * 4 <= len(text)
        self._pasted = not self._is_editor and (keys == 1 or at_once or (is_ahead and was_pasted))
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
        doubt = PASTED if is_ahead and was_pasted else ""
        self.pending = Typed(text, self._time_us, self._offset, end_row, place.prompt, is_sure, doubt)

    def _without_right(self, place: _Place, text: str) -> str:
        """Without what stands at the right edge, behind a gap."""
        shown = self.screen.row(place.row).rstrip()
        if place.right and text.endswith(" " + place.right):
            return text.removesuffix(place.right).rstrip()
        if len(shown) >= self.screen.cols - 1 and (found := re.search(r"\s{2,}\S+\Z", text)):
            return text[: found.start()]
        return text

    def _decided(self) -> None:
        pending, self.pending = self.pending, None
        if pending is not None and self._may_be_given_up(pending):
            if cannot_run(pending.text):
                return
            pending = replace(pending, doubt=GIVEN_UP)
        if pending is not None:
            self._lines.append(pending)

    def _may_be_given_up(self, pending: Typed) -> bool:
        """Whether nothing was shown between a line and the same prompt again, in a zsh that shows no ^C."""
        row, col = self.screen.cursor
        return (
            self._is_zsh
            and not self._has_drawn
            and not self._gives_keys_back
            and row == pending.end_row + 1
            and self.screen.row(row, 0, col).startswith(pending.prompt)
        )

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
        if found is None or OTHERS.match(found[0]):
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
            "more": [self._echoes, self._at_once, self._end_row, self._is_zsh, self._has_drawn],
            "tail": self._tail.hex(),
            "keys": [self._asked_us, *self._keys_us],
            "flights": list(self._flights_us),
            "was": asdict(self._was) if self._was else None,
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
        reader._echoes, reader._at_once, reader._end_row, reader._is_zsh, reader._has_drawn = state.get(
            "more", [0, True, 0, False, False]
        )
        reader._asked_us, *keys_us = state.get("keys", [-1])
        reader._flights_us.extend(state.get("flights", []))
        reader._tail = bytes.fromhex(state.get("tail", ""))
        reader._keys_us.extend(keys_us)
        reader._was = _Place(**state["was"]) if state.get("was") else None
        reader._time_us, reader._output_us, reader._offset = state["at"]
        return reader
