"""A Windows machine's end of a session: amazon-ssm-agent with winpty and PowerShell, as far as a terminal notices.

Not a real node: what is shared with Linux is from the agent's source (agent/session/shell/shell.go, shell_windows.go,
winpty/winpty.go, agent/session/config/config.go), what winpty does with the console from its documentation. The agent
starts the console with 200 columns and 60 rows and sends at most 1,024 bytes a message, whole characters only. winpty
reads the console's cells and paints them, in UTF-8 whatever the code page is: each row ends with CR LF, a row that was
too long is two, a new size paints all anew, and of what programs print only what is on the screen comes along. Input
is UTF-8 too; CR is Enter, LF is Ctrl-J, and Ctrl-C is a byte 3.
"""

from __future__ import annotations

import asyncio
import codecs
from dataclasses import dataclass, field
from uuid import uuid4

from fleetops.clock import steady
from fleetops.wire import DataChannel, InputReceived, RemoteProtocolError, Role, SizeReceived

from .gateway import Shell

FIRST_SIZE = (200, 60)  # shell_windows.go, defaultConsoleCol and defaultConsoleRow
PAYLOAD = 1024  # config.go, StreamDataPayloadSize
BANNER = "Windows PowerShell\nCopyright (C) Microsoft Corporation. All rights reserved.\n\n"
PROMPT = "PS C:\\Windows\\system32> "
CODE_PAGE = 850


@dataclass(eq=False)
class WindowsShell(Shell):
    """PowerShell in a console. It knows a handful of commands."""

    size: tuple[int, int] = FIRST_SIZE
    rows: list[str] = field(default_factory=lambda: [""])  # of the console, with what has scrolled away
    line: str = ""  # what is typed
    running: asyncio.TimerHandle | None = None
    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )
    _held: bytes = b""  # the beginning of a character

    def start(self) -> None:
        self.channel = DataChannel(Role.AGENT, new_id=uuid4, session_id=self.session_id, max_payload=PAYLOAD)

    def watch(self) -> None:
        asyncio.get_running_loop().call_later(0.05, self._begin)

    def _begin(self) -> None:
        self._show(BANNER + PROMPT)
        self._soon(self.flush())

    async def receive(self, frame: bytes) -> None:
        try:
            self.channel.receive(frame, now=steady())
        except RemoteProtocolError:
            return
        for event in self.channel.events():
            if isinstance(event, InputReceived):
                self.inputs += event.data
                for character in self._decoder.decode(event.data):
                    self._key(character)
            elif isinstance(event, SizeReceived):
                self.sizes.append((event.cols, event.rows))
                self._resize(event.cols, event.rows)
        await self.flush()

    def kill(self) -> None:
        self.is_over = True
        if self.running is not None:
            self.running.cancel()

    # The keyboard

    def _key(self, character: str) -> None:
        if character == "\x03":
            self._interrupt()
        elif self.running is not None:
            return
        elif character == "\r":
            line, self.line = self.line.strip(), ""
            self._show("\n")
            self._run(line)
        elif character == "\n":  # Ctrl-J: PSReadLine goes on in a further line
            self.line += "\n"
            self._show("\n>> ")
        elif character in "\x7f\b":
            if self.line:
                self.line = self.line[:-1]
                self.rows[-1] = self.rows[-1][:-1]
                self._send("\b\x1b[K")
        elif character >= " ":
            self.line += character
            self._show(character)

    def _interrupt(self) -> None:
        if self.running is not None:
            self.running.cancel()
            self.running = None
            self._show("\n" + PROMPT)
        else:
            self.line = ""
            self._show("^C\n" + PROMPT)

    # The commands

    def _run(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        match name.lower():
            case "":
                pass
            case "exit":
                self._soon(self.close(""))
                return
            case "echo" | "write-output":
                self._show(rest + "\n")
            case "[console]::windowwidth":
                self._show(f"{self.size[0]}\n")
            case "chcp":
                self._show(f"Active code page: {CODE_PAGE}\n")
            case "repeat":
                text, _, times = rest.rpartition(" ")
                self._show(text * int(times) + "\n")
            case "raw":  # a command without a console writes its code page into a pipe
                self.channel.send_output(rest.encode(f"cp{CODE_PAGE}") + b"\r\n", now=steady())
            case "start-sleep":
                self.running = asyncio.get_running_loop().call_later(float(rest), self._wake)
                return
            case _:
                self._show(f"{name} : The term '{name}' is not recognized as the name of a cmdlet.\n")
        self._show(PROMPT)

    def _wake(self) -> None:
        self.running = None
        self._show(PROMPT)
        self._soon(self.flush())

    # The console, and winpty

    def _show(self, text: str) -> None:
        """Write into the console: long rows are broken at its width. winpty sends the cells that have changed."""
        painted = ""
        for character in text:
            if character == "\n" or _cells(self.rows[-1]) + _cells(character) > self.size[0]:
                self.rows.append("")
                painted += "\r\n"
            if character != "\n":
                self.rows[-1] += character
                painted += character
        self._send(painted)

    def _resize(self, cols: int, rows: int) -> None:
        """The console has another window: all that is in it is painted anew."""
        self.size = (cols, rows)
        seen = self.rows[-rows:]
        self._send("\x1b[0m\x1b[H\x1b[2J" + "\r\n".join(seen))

    def _send(self, text: str) -> None:
        """What the agent reads 1,024 bytes at a time; the beginning of a character waits for its rest."""
        data = text.encode()
        for start in range(0, len(data), PAYLOAD):
            piece = self._held + data[start : start + PAYLOAD]
            whole = piece.decode(errors="ignore").encode()
            self._held = piece[len(whole) :]
            self.channel.send_output(whole, now=steady())

    def _soon(self, coroutine) -> None:
        self.tasks.add(task := asyncio.get_running_loop().create_task(coroutine))
        task.add_done_callback(self.tasks.discard)


def _cells(text: str) -> int:
    return sum(2 if character > "\u2e80" else 1 for character in text)
