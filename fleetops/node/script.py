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

from .sandbox import SHELL_UMASK, Launcher, begin_script, is_reachable
from .spec import Directory, NodeSpec

READ_SIZE: Final = 64 * 1024  # bytes of output in memory at a time, of one stream
MAX_OUTPUT: Final = 64 * 1024 * 1024  # bytes of one stream that are kept; the rest is read and thrown away
TRUNCATED: Final = b"\n--output truncated--"
KILLED_CODE: Final = 137  # of a script that was killed for its time or by a cancel. appconfig, constants.go
DYING_SECONDS: Final = 5.0  # for a killed group to let go of its output

# Its arguments: a directory for the script, the directory to run it in, and how many bytes of standard input are the
# environment; the script follows them. The environment is not given by execve, since the launcher would have it too,
# outside of the sandbox. As the agent does, `sh -c` runs the file, so that a first line with #! counts.
# plugins/runscript/runscript.go
_RUN_FILE: Final = (
    'umask 077; mkdir -p "$1" && head -c "$3" >"$1/_environment" && cat >"$1/_script.sh" && '
    'chmod 700 "$1/_script.sh" || exit 1; . "$1/_environment"; rm -f "$1/_environment"; umask 022; '
    'if [ -n "$2" ]; then cd -- "$2" || exit 1; fi; exec sh -c \'"$0"\' "$1/_script.sh" </dev/null'
)
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class ScriptFailed(Exception):
    """The program could not be started; the text says why."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node's programs run."""

    launcher: Launcher
    spec: NodeSpec
    uid: int | None
    hidden: tuple[str, ...]

    @property
    def var(self) -> str:
        """The node's /var, as its programs see it."""
        return str(Directory(self.spec.home).var) if self.launcher.kind == "none" else "/var"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a program ended: "exited", "timed out" or "cancelled", and its exit code."""

    way: str
    code: int


def write_script(file: Path, lines: Sequence[str], environment: Mapping[str, str]) -> int:
    """Write what `script_argv` takes as standard input; the bytes of environment in it. Raises ScriptFailed."""
    for name, value in environment.items():
        if not _NAME.fullmatch(name) or "\0" in value:
            raise ScriptFailed(f"{name} is no environment variable")
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items()).encode()
    file.write_bytes(exports + "\n".join(lines).encode(errors="replace") + b"\n")
    return len(exports)


def script_argv(directory: str, working_directory: str, environment_bytes: int) -> list[str]:
    """The program that writes its standard input into `directory`/_script.sh, and becomes that script."""
    return ["/bin/sh", "-c", _RUN_FILE, "sh", directory, working_directory, str(environment_bytes)]


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
    its group's too. Raises ScriptFailed.
    """
    process = _start(place, argv, stdin)
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


def _start(place: Place, argv: Sequence[str], stdin: Path | None) -> subprocess.Popen[bytes]:
    launcher, uid = place.launcher, place.uid
    directory = Directory(place.spec.home)
    is_bare = launcher.kind == "none"
    if is_bare and uid is not None and not is_reachable(directory.home):
        raise ScriptFailed("this machine offers no sandbox, and the state directory is closed to others")
    command = launcher.command(place.spec, uid, place.hidden, argv)
    if launcher.kind != "namespaces":  # which gives way by itself
        command = begin_script(command, limited=uid is not None)
    environment = launcher.environment(directory, uid)
    environment.pop("TERM")
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(stdin.open("rb")) if stdin is not None else subprocess.DEVNULL
        try:
            return subprocess.Popen(
                command,
                env=environment,
                cwd=str(directory.home) if is_bare else "/",
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                umask=SHELL_UMASK,
                **({"user": uid, "group": uid, "extra_groups": []} if is_bare and uid is not None else {}),
            )
        except (OSError, ValueError) as error:
            raise ScriptFailed(str(error)) from None


async def _last(process: subprocess.Popen[bytes], stdout: Path, stderr: Path) -> None:
    """Return when a process has ended and its output is in the files."""
    assert process.stdout is not None and process.stderr is not None
    await asyncio.gather(_copy(process.stdout, stdout), _copy(process.stderr, stderr), _exited(process))


async def _copy(pipe: IO[bytes], path: Path) -> None:
    """Put what comes out of a pipe into a file, up to MAX_OUTPUT."""
    reader = asyncio.StreamReader(limit=READ_SIZE)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), pipe
    )
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
