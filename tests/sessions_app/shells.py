"""A real shell on a pty, started as the agent starts our session document, and what its marks say."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

from fleetops import clock
from sessions_app.commandlog.marks import Mark, MarkReader

NONCE = "0123456789abcdefghijKLMNOPQRSTUV"
PATIENCE = 20.0  # seconds; what comes is waited for, not the time


class Shell:
    """`commands` by `sh -c` on a terminal of its own, in `home`; its output is read while something is waited for."""

    def __init__(self, commands: str, home: Path, *, shell: str = "/bin/sh", nonce: str = NONCE, **environment: str):
        self.output = b""
        self.marks: list[Mark] = []
        self.reader = MarkReader(nonce)
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
        self.process = subprocess.Popen(
            ["setsid", "--ctty", shell, "-c", commands],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd="/",
            env={
                "PATH": os.environ["PATH"],
                "TERM": "xterm-256color",
                "LANG": "C.UTF-8",
                "HOME": str(home),
                **environment,
            },
        )
        os.close(slave)

    def type(self, text: str | bytes) -> None:
        data = text.encode() if isinstance(text, str) else text
        while data:
            _, writable, _ = select.select([], [self._master], [], PATIENCE)
            assert writable, self.output
            data = data[os.write(self._master, data[:512]) :]
            self.read(0)

    def read(self, seconds: float) -> bool:
        """Take what comes within `seconds`; False if nothing came, or the shell is over."""
        if not select.select([self._master], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self._master, 65_536)
        except OSError:
            return False
        self.marks += self.reader.feed(data, len(self.output))
        self.output += data
        return bool(data)

    def until(self, is_so, what: str = "") -> None:
        end = clock.steady() + PATIENCE
        while not is_so():
            assert clock.steady() < end, (what, self.marks[-3:], self.output[-2000:])
            self.read(0.2)

    def prompts(self) -> int:
        return sum(mark.kind == "prompt" and mark.is_genuine for mark in self.marks)

    def until_prompt(self, count: int | None = None) -> None:
        wanted = count if count is not None else self.prompts() + 1
        self.until(lambda: self.prompts() >= wanted, f"prompt {wanted}")

    def interrupt(self) -> None:
        """Press Ctrl-C until a prompt comes: readline may miss one that comes just before it waits for a key."""
        before, end = self.prompts(), clock.steady() + PATIENCE
        while self.prompts() == before:
            assert clock.steady() < end, (self.marks[-3:], self.output[-2000:])
            self.type(b"\x03")
            for _ in range(5):
                if self.prompts() == before:
                    self.read(0.2)

    def run(self, line: str | bytes) -> bytes:
        """Type a line, wait for the next prompt, and return what was shown in between."""
        before, start = self.prompts(), len(self.output)
        self.type((line.encode() if isinstance(line, str) else line) + b"\r")
        self.until_prompt(before + 1)
        return self.output[start:]

    def told(self) -> list[tuple[str | None, int | None]]:
        """Each command that marks told, with its exit code; None: no text, no end."""
        found: list[tuple[str | None, int | None]] = []
        for mark in self.marks:
            assert mark.is_genuine, mark
            assert not mark.missed, mark
            if mark.kind == "command":
                found.append((mark.fields.get("text"), None))
            elif mark.kind == "done":
                found[-1] = (found[-1][0], int(mark.fields["exit"]))
        return found

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGHUP)
        self.process.kill()
        self.process.wait(PATIENCE)
        os.close(self._master)


@contextlib.contextmanager
def running(commands: str, home: Path, **more: str) -> Iterator[Shell]:
    shell = Shell(commands, home, **more)
    try:
        yield shell
    finally:
        shell.close()
