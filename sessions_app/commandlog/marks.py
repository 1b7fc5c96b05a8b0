"""Marks: what an integrated shell says of itself in its own output, and a reader of them. Standard library, no I/O.

A mark is an OSC sequence with a private number, which terminals swallow without showing anything:

    mark   = ESC "]7717;" nonce ";" kind ";" number *( ";" field ) end
    nonce  = 32 letters and digits, new for each session; only its shell and we know it
    kind   = "hello" / "prompt" / "command" / "done"
    number = decimal; 1 for the shell's hello, and one more with each mark of that shell
    field  = name "=" value          ; name: small letters
    value  = *( %x20-24 / %x26-3A / %x3C-7E / "%" 2HEXDIG )   ; any other byte, ";" and "%" as %XX
    end    = BEL / ESC "\"

    hello    shell, version: "bash", "5.2.15(1)-release". Once, before all others
    prompt   cwd, user, exit: the shell waits for a line. exit: of what ran before it
    command  text, cwd, user: an interactive line is about to run, whole, with its line ends; cut=1: text is longer
    done     exit: the line that the last command mark told is over, unless a part of it runs in the background

Free text is written as %XX and not in base64, since a shell can do that by itself: no process for each command, and no
`base64` needed on the node. The shells' side is in shells/. What a shell never says with a mark is not known from
marks: what is typed into another program (a nested shell, `ssh`, `vim`, a password prompt) is that program's.

What a mark proves. Output of a program, a file that is shown, another user's message on the terminal cannot forge
marks, for they do not know the nonce; a mark that was recorded before and is shown again has a number that is used up.
Both are told (`is_genuine` false, `problem` in words), and change nothing. The user of the shell can forge: whoever
owns a shell can read its variables, and can make it say anything. The recording is the proof, marks an index into it.

Limits: a mark of more than MOST_BYTES is told as cut, and is not genuine: our shells cut a text at 16,384 bytes. Marks
that went missing (`missed`) are told up to MOST_MISSED in a row; a number further ahead is taken for a forgery.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

OSC: Final = b"\x1b]7717;"
MOST_BYTES: Final = 65_536  # of one mark: 16,384 bytes of text, each as %XX, and room for cwd and user
MOST_MISSED: Final = 16
NONCE: Final = re.compile(r"[A-Za-z0-9]{32}")

# What ends an OSC sequence in a terminal (xterm, xterm.js): BEL, ESC (then "\" belongs to it), CAN, SUB, C1's ST.
_ENDS: Final = re.compile(rb"[\x07\x1b\x18\x1a]|\xc2\x9c")
_ESCAPED: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_CLEAN: Final = re.compile(rb"(?:[ -$&-~]|%[0-9A-Fa-f]{2})*")


class Kind(StrEnum):
    """What a mark says."""

    HELLO = "hello"
    PROMPT = "prompt"
    COMMAND = "command"
    DONE = "done"


_FOLLOWS: Final[Mapping[str, frozenset[str]]] = {  # which kinds may come after which; "" before the first
    "": frozenset({Kind.HELLO}),
    Kind.HELLO: frozenset({Kind.PROMPT}),
    Kind.PROMPT: frozenset({Kind.PROMPT, Kind.COMMAND}),  # a prompt again: Enter alone, Ctrl-C
    Kind.COMMAND: frozenset({Kind.DONE}),
    Kind.DONE: frozenset({Kind.PROMPT, Kind.COMMAND}),  # a command: the next line of a paste
}


@dataclass(frozen=True, slots=True)
class Mark:
    """One mark in the output of a session; or what looks like one, if it is not genuine."""

    kind: str  # a Kind, if it is genuine
    fields: Mapping[str, str]  # for people: a byte that is no UTF-8, and NUL, are shown as \xff, \x00
    offset: int  # in the output, of its first byte
    end_offset: int  # of the byte after its last
    is_genuine: bool
    problem: str = ""  # in words, why it is not genuine
    number: int = 0
    missed: int = 0  # marks of this shell that never came between the one before and this one
    is_cut: bool = False
    raw: Mapping[str, bytes] = field(default_factory=dict)  # the fields byte for byte


class MarkReader:
    """Finds marks in output that comes in any pieces, and tells genuine ones from others.

    It holds at most MOST_BYTES of an unfinished mark. To go on later from where another reader was, give `number` and
    `kind` of the last genuine mark, and feed from `resume_offset` on.
    """

    def __init__(self, nonce: str, *, number: int = 0, kind: str = "") -> None:
        """`nonce` is the session's; with an empty one nothing is genuine."""
        self.number = number
        self.kind = kind
        self._nonce = nonce.encode()
        self._held = b""  # of what may become a mark, or is one that has not ended
        self._dropped = 0  # bytes of it that are no longer held
        self._end = 0

    @property
    def resume_offset(self) -> int:
        """Where a new reader has to begin to miss nothing: the start of an unfinished mark, or the end of what came."""
        return self._end - len(self._held) - self._dropped

    def feed(self, data: bytes, offset: int) -> list[Mark]:
        """The marks that end in `data`, which is the output from `offset` on. Pieces come in order, without gaps."""
        marks: list[Mark] = []
        self._end = offset + len(data)
        buffer = self._held + data
        searched = max(len(self._held) - 1, 0)  # no mark ends in what is held; its last byte may begin an end
        dropped, self._held, self._dropped = self._dropped, b"", 0
        at = 0
        while True:
            start = 0 if dropped else buffer.find(OSC, at)
            if start < 0:
                self._held = buffer[len(buffer) - _could_begin(buffer[at:]) :]
                return marks
            end = _ENDS.search(buffer, max(start + len(OSC), searched))
            is_whole = end is not None and not (end[0] == b"\x1b" and end.end() == len(buffer))
            if end is None or not is_whole:
                self._hold(buffer[start:], dropped)
                return marks
            stop = end.end()
            if end[0] == b"\x1b":
                # ESC alone ends the sequence too, and begins the next one.
                stop = stop + 1 if buffer[stop : stop + 1] == b"\\" else end.start()
            body = buffer[start + len(OSC) : end.start()][:MOST_BYTES]
            is_cut = dropped > 0 or end.start() - start - len(OSC) > MOST_BYTES
            is_ended = end[0] == b"\x07" or (end[0] == b"\x1b" and stop > end.start())
            first = self._end - len(buffer) - dropped + start
            marks.append(self._judge(body, first, self._end - len(buffer) + stop, is_cut=is_cut, is_ended=is_ended))
            at, dropped = stop, 0

    def _hold(self, rest: bytes, dropped: int) -> None:
        """Keep an unfinished mark: its beginning, and of what is too long only the last byte, to see its end."""
        most = len(OSC) + MOST_BYTES
        if len(rest) > most + 1:
            self._dropped = dropped + len(rest) - most - 1
            rest = rest[:most] + rest[-1:]
        else:
            self._dropped = dropped
        self._held = rest

    def _judge(self, body: bytes, offset: int, end_offset: int, *, is_cut: bool, is_ended: bool) -> Mark:
        nonce, _, rest = body.partition(b";")
        kind, _, rest = rest.partition(b";")
        number, _, rest = rest.partition(b";")
        raw: dict[str, bytes] = {}
        for part in rest.split(b";") if rest else ():
            name, _, value = part.partition(b"=")
            raw[_text(name)] = _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), value)
        count = int(number) if re.fullmatch(rb"[0-9]{1,15}", number) else -1
        problem = self._problem(nonce, _text(kind), count)
        if is_cut:
            problem = problem or "it is too long"
        elif not is_ended or not _CLEAN.fullmatch(body):
            problem = problem or "it is broken: something else was written into it"
        missed = 0
        if not problem:
            missed = count - self.number - 1
            self.number, self.kind = count, _text(kind)
        return Mark(
            _text(kind),
            {name: _text(value) for name, value in raw.items()},
            offset,
            end_offset,
            not problem,
            problem,
            max(count, 0),
            missed,
            is_cut,
            raw,
        )

    def _problem(self, nonce: bytes, kind: str, number: int) -> str:
        if not self._nonce or not hmac.compare_digest(nonce, self._nonce):
            return "it does not know the session's secret"
        if kind not in _FOLLOWS or not kind:
            return "there is no such kind of mark"
        if number < 0:
            return "it has no number"
        if number <= self.number:
            return "its number was used before"
        if number > self.number + 1 + MOST_MISSED:
            return "its number is too far ahead"
        if number == self.number + 1 and kind not in _FOLLOWS[self.kind]:
            return "it comes in the wrong order"
        if kind == Kind.HELLO and self.kind:
            return "it comes in the wrong order"
        return ""


class MarkFilter:
    """Takes marks out of output that comes in any pieces, for who shows it. It takes out forged ones as well.

    It holds back at most a beginning of a mark (seven bytes, which no terminal shows), and drops the rest as it comes.
    """

    def __init__(self) -> None:
        self._held = b""
        self._is_inside = False

    def feed(self, data: bytes) -> bytes:
        """`data` without marks."""
        if not self._held and not self._is_inside and b"\x1b" not in data:
            return data
        buffer, self._held = self._held + data, b""
        shown: list[bytes] = []
        at = 0
        while True:
            if self._is_inside:
                end = _ENDS.search(buffer, at)
                if end is None:
                    self._held = b"\xc2" if buffer.endswith(b"\xc2") else b""
                    return b"".join(shown)
                at = end.end()
                if end[0] == b"\x1b":
                    if at == len(buffer):
                        self._held = b"\x1b"
                        return b"".join(shown)
                    at = at + 1 if buffer[at : at + 1] == b"\\" else end.start()
                self._is_inside = False
            start = buffer.find(OSC, at)
            if start < 0:
                held = _could_begin(buffer[at:])
                shown.append(buffer[at : len(buffer) - held])
                self._held = buffer[len(buffer) - held :]
                return b"".join(shown)
            shown.append(buffer[at:start])
            at, self._is_inside = start + len(OSC), True


def _could_begin(data: bytes) -> int:
    """How many of the last bytes of `data` may be the beginning of a mark."""
    for length in range(min(len(OSC) - 1, len(data)), 0, -1):
        if data.endswith(OSC[:length]):
            return length
    return 0


def _text(value: bytes) -> str:
    return value.decode(errors="backslashreplace").replace("\x00", "\\x00")
