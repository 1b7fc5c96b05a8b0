"""Start one shell in namespaces of its own, where there is no bubblewrap. Run as a program, alone, without site.

It makes the shell's root in memory, binds into it what the caller names, gives up every privilege, and starts the shell
from process 1 of its namespace: the kernel spares that one what Ctrl-C does to any other program. The pseudo-terminal
is made inside, so that its name is right there; its master goes to the caller over the socket that is standard input,
if it is one. This process stays outside: when it is killed, so is everything inside.

Only the standard library, and nothing of ours: it runs as root, for some milliseconds.
"""

import argparse
import array
import contextlib
import ctypes
import fcntl
import os
import resource
import signal
import socket
import stat
import sys
import termios

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID = (
    0x20000,
    0x4000000,
    0x8000000,
    0x10000000,
    0x20000000,
)
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    0x1,
    0x2,
    0x4,
    0x8,
    0x20,
    0x1000,
    0x4000,
    0x40000,
)
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 1, 24, 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
TIOCGPTPEER = 0x5441  # opens the slave of a master without a path
_SOCKET = 0  # the descriptor on which the caller waits for the terminal

libc = ctypes.CDLL(None, use_errno=True)


def call(name, *arguments):
    """Call the C library; raises OSError."""
    if getattr(libc, name)(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def mount(source, target, kind=None, flags=0, data=None):
    encoded = [text.encode() if isinstance(text, str) else text for text in (source, target, kind, data)]
    call("mount", encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3])


def bind(descriptor, target, *, read_only):
    """Show what is open as `descriptor` at `target`; what is mounted below it comes along only if it is to be read."""
    mount(f"/proc/self/fd/{descriptor}", target, None, MS_BIND | (MS_REC if read_only else 0))
    flags = MS_BIND | MS_REMOUNT | MS_NOSUID | (MS_RDONLY if read_only else 0) | _kept_flags(target)
    mount(None, target, None, flags)


def _kept_flags(path):
    """The flags of a mount that a user namespace may not take away."""
    flags = os.statvfs(path).f_flag
    return (MS_NODEV if flags & 4 else 0) | (MS_NOEXEC if flags & 8 else 0)


def build_root(options, root):
    """Put the shell's root together at `root`, a directory that is covered by it."""
    # Opened first: they may lie in what is covered, or behind a directory that only root may enter.
    sources = [*options.read_only, *(source for source, _ in (*options.file, *options.bind))]
    opened = {path: os.open(path, os.O_PATH) for path in sources if os.path.exists(path)}
    mount("tmpfs", root, "tmpfs", MS_NOSUID, "mode=0755,size=64m")
    inside = lambda path: root + path  # noqa: E731
    for path in options.read_only:
        if os.path.islink(path):
            os.symlink(os.readlink(path), inside(path))
        elif os.path.isdir(path):
            os.mkdir(inside(path))
            bind(opened[path], inside(path), read_only=True)
    for source, target in options.file:
        bind(opened[source], inside(target), read_only=True)
    for path, size in (("/tmp", "256m"), ("/run", "16m")):
        os.mkdir(inside(path))
        mount("tmpfs", inside(path), "tmpfs", MS_NOSUID | MS_NODEV, f"mode=1777,size={size}")
    for source, target in options.bind:
        os.makedirs(inside(target), exist_ok=True)
        bind(opened[source], inside(target), read_only=False)
    for path in options.hide:
        mount("tmpfs", inside(path), "tmpfs", MS_NOSUID | MS_NODEV, "mode=0000,size=4k")
    os.mkdir(inside("/proc"))
    mount("proc", inside("/proc"), "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    build_devices(inside("/dev"))
    for descriptor in opened.values():
        os.close(descriptor)


def build_devices(dev):
    os.mkdir(dev)
    mount("tmpfs", dev, "tmpfs", MS_NOSUID, "mode=0755,size=1m")
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        path = f"{dev}/{name}"
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o666))
        mount(f"/dev/{name}", path, None, MS_BIND)
    for name, target in (
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ):
        os.symlink(target, f"{dev}/{name}")
    for name in ("pts", "shm"):
        os.mkdir(f"{dev}/{name}")
    mount("devpts", f"{dev}/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
    mount("tmpfs", f"{dev}/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777,size=64m")


def enter_root(root):
    """Make `root` the root, and let go of the old one."""
    os.chdir(root)
    call("syscall", pivot_root_number(), b".", b".")
    call("umount2", b".", MNT_DETACH)
    os.chdir("/")
    mount(None, "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID)


def pivot_root_number():
    """The number of a system call for which the C library has no function."""
    return {"x86_64": 155, "aarch64": 41}.get(os.uname().machine, 217)


def open_terminal():
    """Make a pseudo-terminal in the new root, give its master away, and make its slave ours; no-op without a socket."""
    try:
        if not stat.S_ISSOCK(os.fstat(_SOCKET).st_mode):
            return None
    except OSError:
        return None
    master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
    fcntl.ioctl(master, 0x40045431, array.array("i", [0]))  # TIOCSPTLCK: unlock
    slave = fcntl.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY)
    with socket.socket(fileno=_SOCKET) as caller:
        socket.send_fds(caller, [b"terminal"], [master])
        caller.recv(1)  # the caller sets the size first
    os.close(master)
    return slave


def give_way(nice):
    """Lower our share of the processors, and that of our session where the kernel counts by session."""
    os.nice(nice)
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as file:
        file.write(str(nice))
    # Where memory runs out, the kernel ends shells before it ends any part of FleetOps.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def give_up_privileges(uid, processes):
    """Become `uid` (if given) without groups or capabilities, and without a way to get any."""
    for capability in range(64):
        if libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) < 0:
            break
    libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    if uid is not None:
        if processes:
            resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    else:
        drop_capabilities()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def drop_capabilities():
    """capset(2) to nothing, version 3: three sets of two words."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    call("capset", header, (ctypes.c_uint32 * 6)())


def enter_user_namespace():
    """Get the right to mount, without root: the same id inside as outside."""
    uid, gid = os.getuid(), os.getgid()
    call("unshare", CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def run_inside(options):
    """In the child, process 1 of its namespace: build the root, start the shell in it, and end with it."""
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    call("sethostname", options.hostname.encode(), len(options.hostname.encode()))
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    build_root(options, "/tmp")
    enter_root("/tmp")
    slave = open_terminal()
    shell = os.fork()
    if shell == 0:
        become_shell(options, slave)
    if slave is not None:
        os.close(slave)
    give_up_privileges(options.uid, options.processes)
    # The kernel forgets this wish when an id changes.
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    ended = None
    while ended != shell:  # others are orphans
        ended, status = os.wait()
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def become_shell(options, slave):
    """Take the terminal, if there is one, give up every privilege, and become the shell."""
    if slave is not None:
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        if options.uid is not None:
            os.fchown(slave, options.uid, -1)
        for descriptor in (0, 1, 2):
            os.dup2(slave, descriptor)
        os.close(slave)
    give_way(options.nice)
    os.chdir(options.chdir)
    give_up_privileges(options.uid, options.processes)
    os.closerange(3, 256)
    try:
        os.execvp(options.argv[0], options.argv)
    except OSError as error:
        os.write(2, f"{options.argv[0]}: {error.strerror}\n".encode())
        os._exit(127)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--hostname", required=True)
    parser.add_argument("--uid", type=int)
    parser.add_argument("--processes", type=int, default=0)
    parser.add_argument("--nice", type=int, default=0)
    parser.add_argument("--read-only", action="append", default=[])
    parser.add_argument("--file", action="append", nargs=2, default=[])
    parser.add_argument("--bind", action="append", nargs=2, default=[])
    parser.add_argument("--hide", action="append", default=[])
    parser.add_argument("--chdir", default="/")
    parser.add_argument("argv", nargs="+")
    options = parser.parse_args()

    if os.getuid() != 0:
        enter_user_namespace()
    # With whoever started us, all inside ends: also a script without a terminal, whose end nothing else would bring.
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    call("unshare", CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID)
    child = os.fork()
    if child == 0:
        try:
            run_inside(options)
        except BaseException as error:
            os.write(2, f"the sandbox could not be made: {error}\n".encode())
            os._exit(126)
    with contextlib.suppress(OSError):
        os.close(_SOCKET)
    # Only the child may be ended by what reaches the terminal.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status) & 0xFF)


if __name__ == "__main__":
    main()
