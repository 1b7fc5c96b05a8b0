"""A program of a command in the node's sandbox: no terminal, a process group of its own, its output in two files."""

import asyncio
import contextlib
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from .sandbox import SHELL_UMASK, Place, StartFailed, begin_script

READ_SIZE: Final = 64 * 1024  # bytes of output in memory at a time, of one stream
MAX_OUTPUT: Final = 64 * 1024 * 1024  # bytes of one stream that are kept; the rest is read and thrown away
TRUNCATED: Final = b"\n--output truncated--"
KILLED_CODE: Final = 137  # of a script that was killed for its time or by a cancel. appconfig, constants.go
DYING_SECONDS: Final = 5.0  # for a killed group to let go of its output

# Its arguments: a directory for the script, the directory to run it in, how many bytes of standard input are the
# environment, and where the directories of all commands lie; the script follows the environment. That is not given by
# execve, since the launcher would have it too, outside of the sandbox. As the agent does, `sh -c` runs the file, so
# that a first line with #! counts. plugins/runscript/runscript.go
_RUN_FILE: Final = (
    'umask 077; mkdir -p "$1" && head -c "$3" >"$1/_environment" && cat >"$1/_script.sh" && '
    'chmod 700 "$1/_script.sh" || exit 1; . "$1/_environment"; rm -f "$1/_environment"; umask 022; '
    'find "$4" -mindepth 1 -maxdepth 1 -mmin +1440 -exec rm -rf {} + 2>/dev/null; '  # those of the day before
    'if [ -n "$2" ]; then cd -- "$2" || exit 1; fi; exec sh -c \'"$0"\' "$1/_script.sh" </dev/null'
)
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Ending:
    """How a program ended: "exited", "timed out" or "cancelled", and its exit code."""

    way: str
    code: int


def write_script(file: Path, lines: Sequence[str], environment: Mapping[str, str]) -> int:
    """Write what `script_argv` takes as standard input; the bytes of environment in it. Raises StartFailed."""
    for name, value in environment.items():
        if not _NAME.fullmatch(name) or "\0" in value:
            raise StartFailed(f"{name} is no environment variable")
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items()).encode()
    file.write_bytes(exports + "\n".join(lines).encode(errors="replace") + b"\n")
    return len(exports)


def script_argv(directory: str, working_directory: str, environment_bytes: int, commands: str) -> list[str]:
    """The program that writes its standard input into `directory`/_script.sh, and becomes that script.

    `commands`: the directory of all commands, whose old ones it clears away.
    """
    return ["/bin/sh", "-c", _RUN_FILE, "sh", directory, working_directory, str(environment_bytes), commands]


async def run_program(
    place: Place,
    argv: Sequence[str],
    *,
    stdin: Path | None = None,
    stdout: Path,
    stderr: Path,
    seconds: float,
    cancelled: asyncio.Event,
    on_start: Callable[[int], None] = lambda pid: None,
) -> Ending:
    """Run `argv` until it has ended and nobody holds its output; kill its group after `seconds`, or once `cancelled`.

    What it writes is put behind what `stdout` and `stderr` hold. `on_start` gets the id of its process, which is
    its group's too. Raises StartFailed.
    """
    process = _start(place, argv, stdin=stdin)
    on_start(process.pid)
    ending = asyncio.create_task(_last(process, stdout, stderr))
    wanted = asyncio.create_task(cancelled.wait())
    way = "exited"
    try:
        await asyncio.wait([ending, wanted], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            way = "cancelled" if wanted.done() else "timed out"
    finally:
        wanted.cancel()
        if not ending.done():
            kill_group(process.pid)
            await asyncio.wait([ending], timeout=DYING_SECONDS)
            ending.cancel()
            process.poll()
    if way != "exited":
        return Ending(way, KILLED_CODE)
    ending.result()
    code = process.returncode
    return Ending(way, code if code >= 0 else 128 - code)


def kill_group(pid: int) -> None:
    """SIGKILL to a program and all that it leads."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def started_at(pid: int) -> str:
    """When a process was started, as the kernel counts: with its id it names one process for ever; "" if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _start(
    place: Place, argv: Sequence[str], *, stdin: Path | None = None, joined: bool = False
) -> subprocess.Popen[bytes]:
    command, environment, cwd = place.command(argv)
    command = begin_script(place, command)
    environment.pop("TERM")
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(stdin.open("rb")) if stdin is not None else subprocess.DEVNULL
        try:
            return subprocess.Popen(
                command,
                env=environment,
                cwd=cwd,
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if joined else subprocess.PIPE,
                start_new_session=True,
                umask=SHELL_UMASK,
                **place.switch,
            )
        except (OSError, ValueError) as error:
            raise StartFailed(f"Unable to start command: {error}") from None


class Running:
    """A program whose output is read as it comes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._readers: dict[int, asyncio.StreamReader] = {}
        self._transports: list[asyncio.ReadTransport] = []
        self._exiting = asyncio.create_task(_exited(process))
        self.pid = process.pid

    async def read_stdout(self) -> bytes:
        """What there is, at least a byte; empty at the end."""
        return await self._read(self._process.stdout)

    async def read_stderr(self) -> bytes:
        return await self._read(self._process.stderr)

    async def wait(self) -> int:
        """The exit code, once it has ended."""
        await self._exiting
        code = self._process.returncode
        return code if code >= 0 else 128 - code

    def kill(self) -> None:
        """End it and all that it leads, if it has not ended."""
        if not self._exiting.done():
            kill_group(self.pid)
        for transport in self._transports:
            transport.close()

    async def _read(self, pipe: IO[bytes] | None) -> bytes:
        assert pipe is not None
        reader = self._readers.get(pipe.fileno()) if not pipe.closed else None
        if reader is None:
            if pipe.closed:
                return b""
            reader, transport = await _open(pipe)
            self._readers[pipe.fileno()] = reader
            self._transports.append(transport)
        return await reader.read(READ_SIZE // 2)


def start_program(place: Place, argv: Sequence[str], *, joined: bool) -> Running:
    """Start `argv` on the node with no input. `joined`: its errors go where its output goes. Raises StartFailed."""
    return Running(_start(place, argv, joined=joined))


def signal_inside(place: Place, pid: int, number: int) -> None:
    """Send a signal to what `start_program` started, and to nothing that only holds the sandbox around it."""
    outer = {"bwrap": 2, "namespaces": 2}.get(place.launcher.kind, 0)
    parents = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
    layer = {pid}
    for depth in range(len(parents)):
        if depth >= outer:
            for process in layer:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process, number)
        layer = {child for child, parent in parents.items() if parent in layer}
        if not layer:
            return


async def _open(pipe: IO[bytes]) -> tuple[asyncio.StreamReader, asyncio.ReadTransport]:
    reader = asyncio.StreamReader(limit=READ_SIZE)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), pipe
    )
    return reader, transport


async def _last(process: subprocess.Popen[bytes], stdout: Path, stderr: Path) -> None:
    """Return when a process has ended and its output is in the files."""
    assert process.stdout is not None and process.stderr is not None
    await asyncio.gather(_copy(process.stdout, stdout), _copy(process.stderr, stderr), _exited(process))


async def _copy(pipe: IO[bytes], path: Path) -> None:
    """Put what comes out of a pipe into a file, up to MAX_OUTPUT."""
    reader, transport = await _open(pipe)
    try:
        with path.open("ab", buffering=0) as file:
            left = MAX_OUTPUT - file.tell()
            while chunk := await reader.read(READ_SIZE):
                if left > 0:
                    file.write(chunk[:left])
                    if len(chunk) > left:
                        file.write(TRUNCATED)
                    left -= len(chunk)
    finally:
        transport.close()


async def _exited(process: subprocess.Popen[bytes]) -> None:
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    descriptor = os.pidfd_open(process.pid)
    loop.add_reader(descriptor, lambda: done.done() or done.set_result(None))
    try:
        await done
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        if done.done() and not done.cancelled():
            process.wait()
