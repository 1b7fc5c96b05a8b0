"""Sessions that run a program on the node: a shell or a command on a terminal, or a command without one."""

import asyncio
import contextlib
import logging
import os
import pwd
import re
import shlex
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Final

from fleetops.wire import PayloadType, payloads

from .sandbox import Place, StartFailed, shell_program
from .script import Running, signal_inside, start_program
from .session import Session
from .spec import Directory
from .terminal import MAX_INPUT, Terminal, start_terminal

logger = logging.getLogger(__name__)

FIRST_SIZE_SECONDS: Final = 0.25  # how long the shell waits for the client's size, so that its first prompt fits
DEFAULT_SIZE: Final = (80, 24)
MAX_HELD: Final = 16 * 1024 * 1024  # bytes of a command's output that wait for its end, where streams are not separate
START_FAILED: Final = "Unable to start command: "
NO_SHELL: Final = "this demo node simulates a Windows node for AWS-RunPatchBaseline; it has no PowerShell and no shell"
_PREFIX: Final = re.compile(r"[0-9a-zA-Z\r\n_:-]{0,30}")  # shell.go, separateOutputStreamPrefixRegex
_SIGNALS: Final = {0x03: signal.SIGINT, 0x1C: signal.SIGQUIT}


class ProgramSession(Session):
    """What all of them share: whose program it is, and which."""

    def _own_place(self, properties: dict[str, Any]) -> Place:
        """Where the program runs, and under which id. Raises StartFailed in the agent's words.

        Source: amazon-ssm-agent, agent/session/shell/shell_unix.go.
        """
        if self._spec.platform_type == "Windows":
            raise StartFailed(f"{START_FAILED}{NO_SHELL}")
        inputs = self._inputs()
        if properties.get("runAsElevated") is True or not _is_true(inputs.get("runAsEnabled")):
            return self._place
        user = str(self._task.run_as_user or inputs.get("runAsDefaultUser") or "").strip()
        if not user:
            raise StartFailed(f"{START_FAILED}please set the RunAs default user")
        if os.getuid() != 0:
            raise StartFailed(f"{START_FAILED}the agent must run as root to use RunAs")
        uid = _find_user(self._place, user)
        if uid is None:
            raise StartFailed(f"{START_FAILED}failed to start pty since RunAs user {user} does not exist")
        if uid == 0:
            raise StartFailed(f"{START_FAILED}invalid uid and gid")
        return replace(self._place, uid=uid, user=user)

    def _for_linux(self) -> dict[str, Any]:
        properties = self._properties().get("linux")
        return properties if isinstance(properties, dict) else {}

    def _commands(self) -> str:
        commands = str(self._for_linux().get("commands") or "")
        if not commands.strip():
            kind = self._task.document_content.get("sessionType")
            raise StartFailed(f"Commands cannot be empty for session type {kind}")
        return commands


class ShellSession(ProgramSession):
    """A shell on a terminal (Standard_Stream)."""

    def __init__(self, task: payloads.SessionTask, **more: Any) -> None:
        super().__init__(task, **more)
        self._terminal: Terminal | None = None
        self._size: tuple[int, int] | None = None
        self._size_came = asyncio.Event()
        self._shell_ended = asyncio.Event()
        self._early_input = bytearray()

    def _argv(self) -> list[str]:
        return [shell_program()]

    def _profile(self) -> str:
        """What is typed before anything else."""
        return str((self._inputs().get("shellProfile") or {}).get("linux") or "")

    async def _live(self) -> None:
        argv = self._argv()
        place = self._own_place(self._for_linux())
        self._send_output(self._banner())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_SIZE_SECONDS):
                await self._until(self._size_came.wait())
        self._terminal = await start_terminal(
            place, argv, self._size or DEFAULT_SIZE, self._send_output, self._shell_ended.set
        )
        if profile := self._profile():
            self._terminal.write(profile.encode() + b"\n")
        if self._early_input:
            self._terminal.write(bytes(self._early_input))
            self._early_input.clear()
        self._set_flow()
        await self._until(self._shell_ended.wait())

    def _banner(self) -> bytes:
        """The first output: it opens the client's end, whose size then comes before the shell's prompt."""
        platform = f"{self._spec.platform_name} {self._spec.platform_version}"
        if self._place.launcher.kind == "machine":
            user = pwd.getpwuid(os.getuid()).pw_name
            return f"{self._spec.hostname} ({platform}). This shell is in no sandbox, and runs as {user}.\r\n".encode()
        if self._place.launcher.kind == "none":
            place = "NOT in a sandbox: it can see and do what its user can on the machine that runs FleetOps"
        else:
            place = "in a sandbox on the machine that runs FleetOps"
        return f"{self._spec.hostname} ({platform}), a demo node. This shell is {place}.\r\n".encode()

    @property
    def _takes_input(self) -> bool:
        return self._terminal is None or self._terminal.takes_input

    def _take_input(self, data: bytes) -> None:
        if self._terminal is None:
            self._early_input += data[: MAX_INPUT - len(self._early_input)]
        else:
            self._terminal.write(data)

    def _take_size(self, cols: int, rows: int) -> None:
        self._size = (cols, rows)
        self._size_came.set()
        if self._terminal is not None:
            self._terminal.resize(cols, rows)

    def _set_flow(self) -> None:
        """Read the terminal only while its output can leave; what is typed goes to it at any time."""
        terminal = self._terminal
        if terminal is not None and self._may_send is not terminal.is_wanted:
            (terminal.resume if self._may_send else terminal.pause)()

    def _stop(self) -> None:
        if self._terminal is not None:
            self._terminal.kill()


class InteractiveSession(ShellSession):
    """A command on a terminal (InteractiveCommands)."""

    def _argv(self) -> list[str]:
        return [shell_program(), "-c", self._commands()]

    def _profile(self) -> str:
        return ""


class CommandSession(ProgramSession):
    """A command without a terminal (NonInteractiveCommands): its words are executed, and no shell reads them.

    Where outputs are separate they are sent as they come, and the exit code behind them; else both in one, at the end.
    Source: amazon-ssm-agent, agent/session/plugins/singlecommand and agent/session/shell/shell.go.
    """

    needs_handshake: ClassVar[bool] = True

    def __init__(self, task: payloads.SessionTask, **more: Any) -> None:
        super().__init__(task, **more)
        self._program: Running | None = None

    async def _live(self) -> None:
        properties = self._for_linux()
        try:
            argv = shlex.split(self._commands())
        except ValueError as error:
            raise StartFailed(f"{START_FAILED}{error}") from None
        is_separate = _is_true(properties.get("separateOutputStream"))
        prefixes = []
        for name in ("stdOutSeparatorPrefix", "stdErrSeparatorPrefix"):
            text = str(properties.get(name) or "")
            if not _PREFIX.fullmatch(text):
                raise StartFailed(f"invalid {name} {text}, it has to match {_PREFIX.pattern}")
            prefixes.append(text.encode())
        try:
            self._program = start_program(self._own_place(properties), argv, joined=not is_separate)
        except StartFailed as error:
            self._send_output(str(error).encode(), PayloadType.STDERR)
            raise
        if is_separate:
            code = await self._until(self._stream(self._program, *prefixes))
            self._send_output(payloads.exit_code(code), PayloadType.EXIT_CODE)
        else:
            await self._until(self._send_at_end(self._program))

    async def _stream(self, program: Running, stdout_prefix: bytes, stderr_prefix: bytes) -> int:
        """Send both streams as they come; the exit code."""

        async def pass_on(read: Callable[[], Any], prefix: bytes, payload_type: int) -> None:
            is_line_start = True
            while data := await read():
                await self._send_when_possible((prefix if is_line_start else b"") + data, payload_type)
                is_line_start = data.endswith(b"\n")

        await asyncio.gather(
            pass_on(program.read_stdout, stdout_prefix, PayloadType.OUTPUT),
            pass_on(program.read_stderr, stderr_prefix, PayloadType.STDERR),
        )
        return await program.wait()

    async def _send_at_end(self, program: Running) -> None:
        held = bytearray()
        while data := await program.read_stdout():
            held += data[: MAX_HELD - len(held)]
        await program.wait()
        for start in range(0, len(held), 16 * 1024):
            await self._send_when_possible(bytes(held[start : start + 16 * 1024]))

    def _take_input(self, data: bytes) -> None:
        """Only the two signals mean anything; the rest is dropped."""
        if self._program is not None:
            for byte in data:
                if number := _SIGNALS.get(byte):
                    signal_inside(self._place, self._program.pid, number)

    def _stop(self) -> None:
        if self._program is not None:
            self._program.kill()


def _is_true(value: Any) -> bool:
    return value is True or str(value).lower() in {"true", "1", "t"}


def _find_user(place: Place, user: str) -> int | None:
    """The id of a user of the node; None if it has none of that name."""
    if place.launcher.is_bare:
        try:
            return pwd.getpwnam(user).pw_uid
        except KeyError:
            return None
    for line in Path(Directory(place.spec.home).etc / "passwd").read_text().splitlines():
        fields = line.split(":")
        if fields[0] == user:
            return int(fields[2])
    return None
