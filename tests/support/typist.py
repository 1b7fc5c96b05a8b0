"""Somebody at a terminal: a real shell on a pty, keys as they are typed, and all of it kept as a journal has it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import random
import re
import select
import signal
import struct
import subprocess
import termios
import time
from dataclasses import dataclass
from pathlib import Path

from sessions_app.commandlog.reader import Ended, Row, SessionReader

PATIENCE = 30.0  # seconds; what comes is waited for
QUIET = 0.05  # seconds without output after which a shell that has shown its prompt waits
NONCE = "0123456789abcdefghijKLMNOPQRSTUV"
SIGN = "ops@web-1"  # in each prompt

Event = tuple[str, int, bytes]  # "o" output, "i" a key, "r" a size "COLSxROWS"; microseconds; bytes


@dataclass
class Found:
    """What a reader made of it."""

    rows: list[Row]
    ended: list[Ended]

    @property
    def commands(self) -> list[Row]:
        return [row for row in self.rows if row.source != "forged"]

    @property
    def notices(self) -> list[Row]:
        return [row for row in self.rows if row.source == "forged"]


class Typist:
    """`command` on a terminal of its own, and one who types into it."""

    def __init__(
        self, command: list[str], home: Path, *, cols: int = 100, rows: int = 30, sign: str = SIGN, **more: str
    ):
        self.events: list[Event] = [("r", 0, f"{cols}x{rows}".encode())]
        self.output = b""
        self.home = home
        self.shell, self.is_old, self.has_marks = "", False, False
        self.sign = sign.encode()
        self._began = time.monotonic()
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=home,
            env={
                "PATH": os.environ["PATH"],
                "TERM": "xterm-256color",
                "LANG": "C.UTF-8",
                "HOME": str(home),
                "USER": "ops",
                "PAGER": "less",
                "LESS": "",
                "PYTHONSTARTUP": "",
            }
            | more,
        )
        os.close(slave)

    def _now(self) -> int:
        return int((time.monotonic() - self._began) * 1e6)

    def read(self, seconds: float) -> bool:
        """Take what comes within `seconds`; False if nothing came."""
        if not select.select([self._master], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self._master, 32_768)
        except OSError:
            return False
        self.output += data
        self.events.append(("o", self._now(), data))
        return bool(data)

    def quiet(self, seconds: float = QUIET) -> None:
        end = time.monotonic() + PATIENCE
        while self.read(seconds):
            assert time.monotonic() < end, self.output[-2000:]

    def until(self, text: str | re.Pattern[bytes], *, start: int) -> None:
        """Wait for a text behind byte `start` of the output, and for what comes with it."""
        pattern = text if isinstance(text, re.Pattern) else re.compile(re.escape(text.encode()))
        end = time.monotonic() + PATIENCE
        while not pattern.search(self.output, start):
            assert time.monotonic() < end, (pattern, self.output[-2000:])
            self.read(0.2)
        self.quiet()

    def prompt(self, start: int) -> None:
        """Wait for the next prompt behind byte `start` of the output."""
        self.until(re.compile(re.escape(self.sign)), start=start)

    def key(self, data: str | bytes) -> None:
        """One key, or what a terminal sends at once."""
        data = data.encode() if isinstance(data, str) else data
        self.events.append(("i", self._now(), b""))
        os.write(self._master, data)

    def back_by(self, data: str) -> None:
        """One key, and what comes up to the prompt that it brings back."""
        start = len(self.output)
        self.key(data)
        self.prompt(start)

    def type(self, text: str, *, wait: float = 0.3) -> None:
        """Key by key; each one's echo is waited for, so long as there is one."""
        for character in text:
            self.key(character)
            if wait:
                self.read(wait)
        self.quiet(0.02)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.key(key)
            self.read(0.3)
            self.quiet(0.03)

    def enter(self, *, until: str | None = None) -> None:
        """Enter, and what comes up to the next prompt, or to a text."""
        start = len(self.output)
        self.key("\r")
        if until is None:
            self.prompt(start)
        else:
            self.until(until, start=start)

    def line(self, text: str, *, until: str | None = None) -> None:
        self.type(text)
        self.enter(until=until)

    def paste(self, text: str) -> None:
        """What a browser's terminal sends for a paste; in brackets if the editor has asked for it."""
        is_on = self.output.rfind(b"\x1b[?2004h") > self.output.rfind(b"\x1b[?2004l")
        text = text.replace("\n", "\r")
        self.key(f"\x1b[200~{text}\x1b[201~" if is_on else text)
        self.read(1.0)
        self.quiet(QUIET if is_on or "\r" not in text else 0.5)

    def resize(self, cols: int, rows: int) -> None:
        self.events.append(("r", self._now(), f"{cols}x{rows}".encode()))
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
        self.read(0.5)
        self.quiet()

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGHUP)
        self.process.kill()
        self.process.wait(PATIENCE)
        os.close(self._master)


def over(events: list[Event], seed: int, *, latency_ms: int, cut: float = 0.3) -> list[Event]:
    """The same as somebody slower types it, over a longer way: what is shown is there that much later, in other pieces.

    Each key comes 60 to 180 ms later than it did, one of twenty after seconds of thought; so several are on their way.
    """
    rng = random.Random(seed)
    shift, moved = 0, []
    for kind, time_us, data in events[1:]:
        if kind == "i":
            shift += rng.randint(60_000, 180_000) + (rng.randint(800_000, 3_000_000) if rng.random() < 0.05 else 0)
            moved.append((kind, time_us + shift, data))
            continue
        at = time_us + shift + latency_ms * 1000
        if kind == "o" and moved and moved[-1][0] == "o" and at - moved[-1][1] < 5000:
            moved[-1] = (kind, moved[-1][1], moved[-1][2] + data)
        elif kind == "o" and len(data) > 1 and rng.random() < cut:
            place = rng.randrange(1, len(data))
            moved += [(kind, at, data[:place]), (kind, at + 5000, data[place:])]
        else:
            moved.append((kind, at, data))
    return [events[0], *sorted(moved, key=lambda event: event[1])]


def read_back(events: list[Event], *, nonce: str = "", has_input: bool = True, restart_every: int = 0) -> Found:
    """What the reader makes of a journal; with `restart_every` another one goes on after so many records."""
    import json

    cols, rows = map(int, events[0][2].split(b"x"))
    reader = SessionReader(nonce, cols=cols, rows=rows)
    reader.has_input = has_input
    found, offset, last = Found([], []), 0, 0
    shown = b""
    for number, (kind, time_us, data) in enumerate(events[1:], 1):
        last = time_us
        if kind == "o":
            reader.output(data, time_us, offset)
            offset += len(data)
            shown += data
        elif kind == "r":
            reader.size(*map(int, data.split(b"x")))
        elif has_input:
            reader.key(time_us)
        new, ended = reader.take()
        found.rows += new
        found.ended += ended
        if restart_every and number % restart_every == 0:
            state = json.loads(json.dumps(reader.state()))
            again = SessionReader.restore(nonce, state, number=reader.number)
            again.has_input = has_input
            again.marks_again(shown[state["marks"][2] :], state["marks"][2])
            reader = again
    reader.settle(last + 10_000_000)
    reader.finish()
    new, ended = reader.take()
    found.rows += new
    found.ended += ended
    for end in found.ended:
        row = found.rows[end.number - 1]
        row.ended_us, row.exit_code = end.ended_us, end.exit_code
    return found
