"""What the operating system knows of processes: who descends from whom, who ends with whom, who holds a port.

Linux tells it in /proc and by prctl(2). Elsewhere `ps` tells the first; the rest is then left out, and the callers say
what that costs.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36
_PROC = Path("/proc")
# Loaded here, once: between fork and exec nothing may be imported.
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process signal `number` when the thread that started it ends (Linux)."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, instead of init (Linux)."""
    if _libc is not None:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def stand_back(nice: int) -> None:
    """Let others have the processor first: niced, and as a batch job, which takes it from nobody as it wakes.

    Where Linux makes a group of each session (autogroup: sched(7)), nice counts within that group alone. If the session
    is ours alone, as a supervisor starts us, the group is niced too. Between control groups neither counts: a container
    or a unit has to be given less by its own settings (`cpu_shares`, `CPUWeight`).
    """
    with contextlib.suppress(OSError):
        os.nice(nice)
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            (_PROC / "self" / "autogroup").write_text(str(nice))


@dataclass(frozen=True)
class Process:
    """One row of the process table. A zombie has ended and waits for its parent to ask how."""

    pid: int
    parent: int
    session: int
    is_zombie: bool


def process_table() -> dict[int, Process]:
    """Every process that this one may see, by pid."""
    if not (_PROC / "self" / "stat").exists():
        return _process_table_of_ps()
    table = {}
    for entry in os.listdir(_PROC):
        if entry.isdigit():
            with contextlib.suppress(OSError):  # it ended between the listing and here
                text = (_PROC / entry / "stat").read_text(errors="replace")
                # pid (command, which may hold anything) state ppid pgrp session; proc(5)
                state, parent, _, session = text[text.rindex(")") + 2 :].split()[:4]
                table[int(entry)] = Process(int(entry), int(parent), int(session), state in "ZX")
    return table


def _process_table_of_ps() -> dict[int, Process]:
    answer = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,pgid=,stat="], capture_output=True, text=True, check=True)
    table = {}
    for line in answer.stdout.splitlines():
        pid, parent, group, state = line.split()[:4]  # a part leads its session, and its group bears the same number
        table[int(pid)] = Process(int(pid), int(parent), int(group), state.startswith("Z"))
    return table


def descendants(pid: int) -> set[int]:
    """Children of `pid`, their children, and so on; zombies are left out."""
    table = process_table()
    children: dict[int, list[int]] = {}
    for process in table.values():
        children.setdefault(process.parent, []).append(process.pid)
    found: set[int] = set()
    ask = [pid]
    while ask:
        for child in children.get(ask.pop(), []):
            if child not in found:
                found.add(child)
                ask.append(child)
    return {child for child in found if not table[child].is_zombie}


def kill_session(leader: int) -> None:
    """SIGKILL whatever is left of the session that `leader` began."""
    if leader <= 1:
        raise ValueError(f"{leader} leads no session of ours")  # 0 would be the kernel's
    for process in process_table().values():
        if process.session == leader and not process.is_zombie:
            send(process.pid, signal.SIGKILL)


def kill_descendants(*, seconds: float) -> set[int]:
    """SIGKILL all descendants of this process until there are none; returns those left after `seconds`."""
    deadline = time.monotonic() + seconds
    while left := descendants(os.getpid()):
        if time.monotonic() > deadline:
            break
        for pid in left:
            send(pid, signal.SIGKILL)
        reap()
        time.sleep(0.01)  # the kernel ends them in its own time, and has no event for a grandchild
    reap()
    return left


def reap() -> dict[int, int]:
    """Take every child that has ended; returns exit codes by pid, negative for a signal."""
    ended = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            ended[pid] = os.waitstatus_to_exitcode(status)
    return ended


def send(pid: int, number: int) -> None:
    """Send a signal to a process that may just have ended."""
    if pid <= 1:
        raise ValueError(f"{pid} is no process of ours")  # to kill(2), 0 and below are whole groups
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def command_of(pid: int) -> str:
    """The command line of `pid`, shortened; "" if it cannot be read."""
    try:
        words = (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
    return words if len(words) <= 80 else words[:79] + "…"


def port_holder(port: int) -> int | None:
    """The pid that listens on TCP `port`, if /proc tells it to us (its owner is we or we are root)."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (_PROC / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()  # sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:  # 0A: LISTEN
                    inodes.add(f"socket:[{fields[9]}]")
    if not inodes:
        return None
    for entry in os.listdir(_PROC):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                for descriptor in os.listdir(_PROC / entry / "fd"):
                    with contextlib.suppress(OSError):
                        if os.readlink(_PROC / entry / "fd" / descriptor) in inodes:
                            return int(entry)
    return None
