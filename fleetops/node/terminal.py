"""A shell on a pseudo-terminal, on the event loop: bytes out by a callback, bytes in at once, and its end told."""

import asyncio
import fcntl
import os
import signal
import socket
import struct
import subprocess
import termios
from collections.abc import Callable, Sequence
from typing import Final

from .sandbox import SHELL_UMASK, Place, StartFailed, begin, on_terminal

READ_SIZE: Final = 4096  # the kernel gives at most 4,095 bytes at a time
BURST: Final = 32 * 1024  # bytes handed on in one piece, and read without giving way to other sessions
# Seconds that a piece of a larger output waits for the rest. A lone keystroke's echo never waits.
GATHER: Final = 0.001
# The same in a flood, whose program writes more slowly than we could send: each frame costs every process on its way
# more than its bytes do, and a screen is drawn each 16 ms.
GATHER_IN_FLOOD: Final = 0.005
FLOOD_PAUSE: Final = 0.02  # seconds without a larger output, and it was no flood
SMALL: Final = 1024  # bytes: a read below this, with nothing before it, is no part of a larger output
# Bytes that wait for a program that does not read; more is not taken, and comes again a message at a time. A file that
# is sent to a terminal in parts (sessions_app/transfers) has less than this under way.
MAX_INPUT: Final = 256 * 1024
START_SECONDS: Final = 10.0  # for the launcher to make its sandbox


class Terminal:
    """One running shell. `on_output` gets its bytes, `on_exit` is called once, behind the last of them."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        master: int,
        on_output: Callable[[bytes], None],
        on_exit: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._process = process
        self._master = master
        self._on_output = on_output
        self._on_exit = on_exit
        self._gathered: list[bytes] = []
        self._gathered_size = 0
        self._gathering: asyncio.TimerHandle | None = None
        self._flooded_at = 0.0  # when a larger output was last handed on; the event loop's seconds
        self._input = bytearray()
        self._is_reading = False
        self.is_wanted = True
        self._has_ended = False
        self._exited = False
        os.set_blocking(master, False)
        self._pidfd = os.pidfd_open(process.pid)
        self._loop.add_reader(self._pidfd, self._process_exited)
        self.resume()

    @property
    def takes_input(self) -> bool:
        """Whether `write` takes more."""
        return len(self._input) < MAX_INPUT

    def write(self, data: bytes) -> None:
        """Type into the terminal, now or as soon as it takes it; reading may be paused meanwhile."""
        if self._has_ended:
            return
        if not self._input:
            try:
                data = data[os.write(self._master, data) :]
            except BlockingIOError:
                pass
            except OSError:
                return
            if not data:
                return
            self._loop.add_writer(self._master, self._write_more)
        self._input += data

    def resize(self, cols: int, rows: int) -> None:
        """Set the size in characters; the kernel tells the program in front."""
        if not self._has_ended:
            _set_size(self._master, cols, rows)

    def pause(self) -> None:
        """Read no more: the program waits in its next write, once the kernel's buffer is full."""
        self.is_wanted = False
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self._master)

    def resume(self) -> None:
        self.is_wanted = True
        if not self._is_reading and not self._has_ended:
            self._is_reading = True
            self._loop.add_reader(self._master, self._read)
        if self._exited:
            self._read()

    def kill(self) -> None:
        """End the shell and all that it leads; on_exit follows, whether or not anybody reads on. Output is dropped."""
        self._on_output = _drop
        if self._exited:
            return  # its number may be another's by now
        for number in (signal.SIGHUP, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                return

    def _read(self) -> None:
        """Take what is there, up to a burst."""
        while True:
            try:
                data = os.read(self._master, READ_SIZE)
            except BlockingIOError:
                if self._exited:  # nothing will come, though a program that was left behind holds the terminal
                    self._end()
                return
            except OSError:  # EIO: nobody holds the terminal any more
                data = b""
            if not data:
                self._end()
                return
            if not self._gathered:
                is_flood = self._loop.time() - self._flooded_at < FLOOD_PAUSE
                if len(data) < SMALL and not is_flood:
                    self._on_output(data)
                    return
                self._gathering = self._loop.call_later(GATHER_IN_FLOOD if is_flood else GATHER, self._hand_on)
            self._gathered.append(data)
            self._gathered_size += len(data)
            if self._gathered_size >= BURST:
                self._hand_on()
                if not self._exited or not self.is_wanted:
                    return

    def _hand_on(self) -> None:
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        if self._gathered:
            data = b"".join(self._gathered)
            self._gathered.clear()
            self._gathered_size = 0
            if len(data) >= SMALL:
                self._flooded_at = self._loop.time()
            self._on_output(data)

    def _write_more(self) -> None:
        try:
            del self._input[: os.write(self._master, self._input)]
        except BlockingIOError:
            return
        except OSError:
            self._input.clear()
        if not self._input:
            self._loop.remove_writer(self._master)

    def _process_exited(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._process.wait()
        self._exited = True
        if self._on_output is _drop:
            self._end()
        elif self.is_wanted:
            self._read()

    def _end(self) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        self._hand_on()
        if self._is_reading:
            self._loop.remove_reader(self._master)
        self._loop.remove_writer(self._master)
        os.close(self._master)
        if not self._exited:  # the terminal was let go by a shell that lives on: there is nobody left to talk to
            self.kill()
        self._on_exit()


async def start_terminal(
    place: Place,
    argv: Sequence[str],
    size: tuple[int, int],
    on_output: Callable[[bytes], None],
    on_exit: Callable[[], None],
) -> Terminal:
    """Start `argv` in this node's sandbox on a terminal of `size` (columns, rows). Raises StartFailed."""
    command, environment, cwd = place.command(on_terminal(place, argv))
    try:
        if place.launcher.makes_terminal:
            process, master = await _start_with_socket(command, environment, cwd, size)
        else:
            process, master = _start_with_slave(place, command, environment, cwd, size)
    except OSError as error:
        raise StartFailed(f"Unable to start command: {error}") from None
    return Terminal(process, master, on_output, on_exit)


def _start_with_slave(
    place: Place, command: Sequence[str], environment: dict[str, str], cwd: str, size: tuple[int, int]
) -> tuple[subprocess.Popen[bytes], int]:
    master, slave = os.openpty()
    try:
        _set_size(master, *size)
        if place.uid is not None:
            os.fchown(slave, place.uid, -1)
        process = subprocess.Popen(
            begin(place, command, os.ttyname(slave)),
            env=environment,
            cwd=cwd,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            umask=SHELL_UMASK,
            **place.switch,
        )
    except BaseException:
        os.close(master)
        raise
    finally:
        os.close(slave)
    return process, master


async def _start_with_socket(
    command: Sequence[str], environment: dict[str, str], cwd: str, size: tuple[int, int]
) -> tuple[subprocess.Popen[bytes], int]:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = subprocess.Popen(
                command,
                env=environment,
                cwd=cwd,
                stdin=theirs,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
                umask=SHELL_UMASK,
            )
        ours.settimeout(START_SECONDS)
        _, descriptors, _, _ = await asyncio.to_thread(socket.recv_fds, ours, 64, 1)
        if descriptors:
            _set_size(descriptors[0], *size)
            ours.send(b"+")
    assert process.stderr is not None
    if not descriptors:
        process.kill()
        words = process.stderr.read().decode(errors="replace").strip()
        process.wait()
        raise OSError(words or "the sandbox could not be made")
    process.stderr.close()
    return process, descriptors[0]


def _drop(data: bytes) -> None:
    pass


def _set_size(master: int, cols: int, rows: int) -> None:
    # The kernel keeps 16 bits of each; nobody sees a terminal of more.
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", min(rows, 0xFFFF), min(cols, 0xFFFF), 0, 0))
