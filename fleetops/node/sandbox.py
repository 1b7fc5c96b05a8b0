"""What a shell of a demo node can see and touch, and the three ways of starting one.

`bwrap` where bubblewrap is installed, else `namespaces` (launcher.py, with the kernel's own calls), else `none`. The
first two give the shell a root of its own, made of the machine's programs read-only (/usr, /etc) and the node's own
home, /var and /tmp; nothing else of the machine is there: no state directory, no key, no other node. It has processes,
a host name and pseudo-terminals of its own, no capability, and no way to get one. If FleetOps runs as root, each node's
shells run under an id of their own, whatever the launcher.
"""

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .spec import Directory, NodeSpec

USER: Final = "ssm-user"  # as the real agent names it
HOME: Final = f"/home/{USER}"
FIRST_UID: Final = 64_000  # above the ids that distributions give to people and services, below those of containers
MAX_PROCESSES: Final = 512  # of one node's shells, when they have an id of their own
PROBE_SECONDS: Final = 10.0
# Bytes of memory that files below these places may take: of one shell, and gone with it. As in launcher.py.
_IN_MEMORY: Final = {"/dev/shm": 64 << 20, "/tmp": 256 << 20, "/run": 16 << 20}
SHELL_UMASK: Final = 0o022  # whatever ours is; the root of a sandbox is made under it too

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PROGRAMS: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_READ_ONLY: Final = (*_PROGRAMS, "/etc")
_LAUNCHER: Final = Path(__file__).with_name("launcher.py")

# Shells give way to FleetOps itself: where the kernel shares out processor time by session (autogroup), ten busy shells
# would otherwise get ten times what the programs get that carry their output.
NICE: Final = 10

# Where memory runs out, the kernel ends shells before it ends any part of FleetOps; anybody may raise their own score.
# The limit comes by `-p` in dash and by `-u` in bash; the terminal becomes the controlling one because a leader of a
# session opens it.
# Not so with bubblewrap, which would be in the terminal's foreground group and die of each Ctrl-C: there the shell
# leads a session of its own, made inside, with the terminal that it inherits. Whoever has no rights may tell a session
# to give way once in 100 ms, of all sessions of the machine (kernel/sched/autogroup.c).
_GO_FIRST: Final = "ulimit -c 0; {limit} {{ echo 1000 >/proc/self/oom_score_adj; }} 2>/dev/null; "
_GIVE_WAY: Final = _GO_FIRST + "{{ echo {nice} >/proc/self/autogroup; }} 2>/dev/null; "
_ON_TERMINAL: Final = 'tty=$1; shift; exec {nice}"$@" 0<>"$tty" 1>&0 2>&0'
_BEGIN: Final = _GIVE_WAY + _ON_TERMINAL.replace("{nice}", "nice -n {nice} ")
_BEGIN_SCRIPT: Final = _GIVE_WAY + 'exec nice -n {nice} "$@"'
_BEGIN_BWRAP: Final = _GO_FIRST + 'exec nice -n {nice} "$@"'
_INSIDE: Final = (
    "n=5; [ ! -w /proc/self/autogroup ] || while ! {{ echo {nice} >/proc/self/autogroup; }} 2>/dev/null; do "
    'n=$((n-1)); [ $n -gt 0 ] || break; sleep 0.1; done; exec "$@"'
)
_LIMIT: Final = f"ulimit -p {MAX_PROCESSES} 2>/dev/null || ulimit -u {MAX_PROCESSES} 2>/dev/null;"


class StartFailed(Exception):
    """A program or a session could not be started; the text says why."""


@dataclass(frozen=True, slots=True)
class Launcher:
    """A way of starting shells. `uid` None: they run under the id of this process."""

    # "bwrap", "namespaces", "none", or "machine": the node is this machine, and is not to be shut in.
    kind: str

    @property
    def is_bare(self) -> bool:
        """Whether nothing is around a program."""
        return self.kind in {"none", "machine"}

    @property
    def makes_terminal(self) -> bool:
        """Whether the launcher makes the pseudo-terminal itself, and passes its master over a socket."""
        return self.kind == "namespaces"

    def command(self, spec: NodeSpec, uid: int | None, hidden: Sequence[str], argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` as a shell of this node; its terminal, or socket, comes last in `start`."""
        directory = Directory(spec.home)
        if self.kind == "bwrap":
            return _bwrap(directory, spec.hostname, uid, hidden, argv)
        if self.kind == "namespaces":
            return _namespaces(directory, spec.hostname, uid, hidden, argv)
        return list(argv)

    def environment(self, directory: Directory, uid: int | None) -> dict[str, str]:
        """All that the shell inherits: nothing of ours, no credentials."""
        own = pwd.getpwuid(os.getuid())
        user = own.pw_name if self.is_bare and uid is None else USER
        home = {"none": str(directory.home), "machine": own.pw_dir}.get(self.kind, HOME)
        return {
            "PATH": _PATH,
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
            "HOME": home,
            "USER": user,
            "LOGNAME": user,
            "SHELL": shell_program(),
        }


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node's programs run, and under which id. `user` is given for one that is not the node's own."""

    launcher: Launcher
    spec: NodeSpec
    uid: int | None  # None: that of this process
    hidden: tuple[str, ...]
    user: str = ""

    @property
    def switch(self) -> dict[str, Any]:
        """Arguments of Popen that start a program under `uid`, where no launcher does it."""
        if self.uid is None or not self.launcher.is_bare:
            return {}
        if not self.user:
            return {"user": self.uid, "group": self.uid, "extra_groups": []}
        group = pwd.getpwnam(self.user).pw_gid
        return {"user": self.uid, "group": group, "extra_groups": os.getgrouplist(self.user, group)}

    @property
    def var(self) -> str:
        """The node's /var, as its programs see it."""
        return str(Directory(self.spec.home).var) if self.launcher.is_bare else "/var"

    def command(self, argv: Sequence[str]) -> tuple[list[str], dict[str, str], str]:
        """What to start so that `argv` runs there, with which environment, in which directory. Raises StartFailed."""
        directory = Directory(self.spec.home)
        if self.launcher.kind == "none" and self.uid is not None and not is_reachable(directory.home):
            raise StartFailed(
                "This machine offers no sandbox, FleetOps runs as root, and its state directory is closed to others, "
                "so no demo shell is started. Install bubblewrap, or run FleetOps as an ordinary user."
            )
        environment = self.launcher.environment(directory, self.uid)
        if self.user:
            environment |= {"USER": self.user, "LOGNAME": self.user, "HOME": f"/home/{self.user}"}
        cwd = environment["HOME"] if self.launcher.is_bare and not self.user else "/"
        return self.launcher.command(self.spec, self.uid, self.hidden, argv), environment, cwd


def shell_program() -> str:
    return "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"


def on_terminal(place: Place, argv: Sequence[str]) -> list[str]:
    """What the launcher has to start so that `argv` leads the session of a terminal."""
    if place.launcher.kind != "bwrap":
        return list(argv)
    return ["setsid", "-c", "/bin/sh", "-c", _INSIDE.format(nice=NICE), "sh", *argv]


def begin(place: Place, command: Sequence[str], terminal: str) -> list[str]:
    """Wrap a command so that `terminal` (a path) is its controlling terminal; the caller makes it lead a session."""
    limit = _LIMIT if place.uid is not None else ""
    if place.launcher.kind == "bwrap":  # see on_terminal
        return ["/bin/sh", "-c", _BEGIN_BWRAP.format(limit=limit, nice=NICE), "sh", *command]
    if place.launcher.kind == "machine":  # it is what this machine is for, and gives way to nothing
        script = _ON_TERMINAL.replace("{nice}", "")
    else:
        script = _BEGIN.format(limit=limit, nice=NICE)
    return ["/bin/sh", "-c", script, "sh", terminal, *command]


def begin_script(place: Place, command: list[str]) -> list[str]:
    """Wrap a command that has no terminal."""
    if place.launcher.kind in {"machine", "namespaces"}:  # the latter's launcher gives way by itself
        return command
    script = _BEGIN_SCRIPT.format(limit=_LIMIT if place.uid is not None else "", nice=NICE)
    return ["/bin/sh", "-c", script, "sh", *command]


def choose(kinds: Sequence[str], directory: Path) -> Launcher:
    """Return the first launcher of `kinds` that works here; each is tried with a real command.

    `directory` is an empty one for the try. "none" always works; without it in `kinds` a LookupError may come.
    """
    spec = NodeSpec("0" * 12, "local", "i-probe", "probe", "probe", str(directory))
    for kind in kinds:
        launcher = Launcher(kind)
        if kind == "none" or _works(launcher, spec):
            return launcher
    raise LookupError(f"none of {', '.join(kinds)} works on this machine")


def is_reachable(path: Path) -> bool:
    """Whether any id may enter the directory that holds `path`."""
    return all(parent.stat().st_mode & 0o001 for parent in path.resolve().parents)


def prepare(spec: NodeSpec, uid: int | None, *, is_open: bool = False) -> None:
    """Make the node's directory, or bring it up to date; what the shells wrote stays.

    Home and /var belong to `uid`; the rest belongs to us, and shells see only the files that are meant for /etc.
    `is_open`: `uid` has to find its home from outside, since there is no sandbox.
    """
    directory = Directory(spec.home)
    ours = (directory.sessions, directory.jobs, directory.replies)
    for path in (directory.root, directory.etc, *ours):
        path.mkdir(parents=True, exist_ok=True)
    directory.root.chmod(0o711 if is_open else 0o700)
    for path in ours:
        path.chmod(0o700)
    user = uid if uid is not None else os.getuid()
    group = uid if uid is not None else os.getgid()
    shell = shell_program()
    files = {
        "os-release": _os_release(spec),
        "hostname": f"{spec.hostname}\n",
        "hosts": f"127.0.0.1 localhost\n127.0.1.1 {spec.hostname}\n::1 localhost\n",
        "passwd": (
            "root:x:0:0:root:/root:/usr/sbin/nologin\n"
            f"{USER}:x:{user}:{group}:SSM session user:{HOME}:{shell}\n"
            "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
        ),
        "group": f"root:x:0:\n{USER}:x:{group}:\nnogroup:x:65534:\n",
    }
    for name, text in files.items():
        _write(directory.etc / name, text)
    prompt = r"PS1='\u@" + spec.hostname + r":\w\$ '"
    packages = "".join(f"{name}\t{version}\n" for name, version in sorted(spec.packages.items()))
    _make_tree(
        directory.home, 0o700, uid, {".bashrc": f"{prompt}\nalias ls='ls --color=auto'\n", ".profile": f"{prompt}\n"}
    )
    _make_tree(directory.var, 0o755, uid, {"lib/packages/installed": packages, "log/.keep": "", "tmp/.keep": ""})


def choose_uid(spec: NodeSpec) -> int | None:
    """The id for this node's shells: the one that its home has, else the first that no node beside it has.

    None if we are not root, and cannot give any.
    """
    if os.getuid() != 0:
        return None
    home = Directory(spec.home).home
    if home.exists() and home.stat().st_uid >= FIRST_UID:
        return home.stat().st_uid
    beside = Path(spec.home).parent
    taken = {other.stat().st_uid for other in beside.glob("*/home")} if beside.exists() else set()
    uid = FIRST_UID
    while uid in taken:
        uid += 1
    return uid


def _bwrap(
    directory: Directory, hostname: str, uid: int | None, hidden: Sequence[str], argv: Sequence[str]
) -> list[str]:
    command = [shutil.which("bwrap") or "bwrap", "--die-with-parent", "--unshare-pid", "--unshare-ipc"]
    command += ["--unshare-uts", "--hostname", hostname]
    for path in _READ_ONLY:
        if os.path.islink(path):
            command += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            command += ["--ro-bind", path, path]
    command += ["--proc", "/proc", "--dev", "/dev"]
    for path, size in _IN_MEMORY.items():
        command += ["--perms", "1777", "--size", str(size), "--tmpfs", path]
    command += ["--bind", str(directory.var), "/var", "--perms", "0755", "--dir", "/home"]
    command += ["--bind", str(directory.home), HOME]
    for name, target in etc_files(directory):
        command += ["--ro-bind", name, target]
    for path in covered(hidden):
        command += ["--perms", "0000", "--size", "4096", "--tmpfs", path]
    command += ["--remount-ro", "/dev", "--remount-ro", "/"]  # in memory too, and without a limit
    # Not --chdir: bubblewrap would go there as root without root's rights.
    argv = ["/bin/sh", "-c", 'cd; exec "$@"', "sh", *argv]
    if uid is None:
        command += ["--unshare-user", "--uid", str(os.getuid()), "--gid", str(os.getgid())]
        return [*command, "--", *argv]
    command += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP"]
    drop = [shutil.which("setpriv") or "setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    drop += ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
    return [*command, "--", *drop, "--", *argv]


def _namespaces(
    directory: Directory, hostname: str, uid: int | None, hidden: Sequence[str], argv: Sequence[str]
) -> list[str]:
    command = [sys.executable, "-I", "-S", str(_LAUNCHER), "--hostname", hostname]
    if uid is not None:
        command += ["--uid", str(uid), "--processes", str(MAX_PROCESSES)]
    command += ["--nice", str(NICE)]
    for path in _READ_ONLY:
        command += ["--read-only", path]
    for name, target in etc_files(directory):
        command += ["--file", name, target]
    for path in covered(hidden):
        command += ["--hide", path]
    command += ["--bind", str(directory.var), "/var", "--bind", str(directory.home), HOME, "--chdir", HOME]
    return [*command, "--", *argv]


def etc_files(directory: Directory) -> list[tuple[str, str]]:
    """The node's own files, and where they are seen: behind the link, where the machine's file is one."""
    pairs = []
    for name in ("os-release", "hostname", "hosts", "passwd", "group"):
        target = os.path.realpath(f"/etc/{name}")
        if os.path.isfile(target) and target.startswith(("/etc/", "/usr/")):
            pairs.append((str(directory.etc / name), target))
    return pairs


def covered(hidden: Sequence[str]) -> list[str]:
    """Those of the directories to hide that lie in what is shown; all others are not there to begin with."""
    paths = {os.path.realpath(path) for path in hidden}
    shown = tuple(f"{os.path.realpath(path)}/" for path in _READ_ONLY)
    return sorted(path for path in paths if path.startswith(shown) and os.path.isdir(path))


def _works(launcher: Launcher, spec: NodeSpec) -> bool:
    """Run `true` as a shell of a node would be run."""
    needed = ("bwrap", "setsid", *(("setpriv",) if os.getuid() == 0 else ()))
    if launcher.kind == "bwrap" and not all(map(shutil.which, needed)):
        return False
    uid = FIRST_UID if os.getuid() == 0 else None
    try:
        prepare(spec, uid)
        command = launcher.command(spec, uid, (), ["/bin/sh", "-c", "exit 0"])
        finished = subprocess.run(
            command,
            env=launcher.environment(Directory(spec.home), uid),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_SECONDS,
            umask=SHELL_UMASK,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return finished.returncode == 0


def _os_release(spec: NodeSpec) -> str:
    """What `/etc/os-release` says of a platform, in os-release(5)'s form."""
    name = spec.platform_name
    ids = {"Amazon Linux": "amzn", "Ubuntu": "ubuntu", "Debian": "debian", "Red Hat": "rhel", "SUSE": "sles"}
    own_id = next((value for start, value in ids.items() if name.startswith(start)), "linux")
    return (
        f'PRETTY_NAME="{name} {spec.platform_version}"\nNAME="{name}"\n'
        f'VERSION_ID="{spec.platform_version}"\nVERSION="{spec.platform_version}"\nID={own_id}\n'
    )


def _write(path: Path, text: str) -> None:
    """Replace a file whole, so that no shell ever reads half of it."""
    try:
        if path.read_text() == text:
            return
    except OSError:
        pass
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(text)
    fresh.chmod(0o644)
    fresh.replace(path)


def _make_tree(top: Path, mode: int, uid: int | None, files: Mapping[str, str]) -> None:
    """Make a directory that is then the shells' own, with its first files.

    One that is there is left alone: what is in it may be a link to anywhere, and we may be root.
    """
    if top.exists():
        return
    fresh = top.with_name(f"{top.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode)
    fresh.chmod(mode)
    for name, text in files.items():
        path = fresh / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for path in fresh.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    if uid is not None:
        for path in (fresh, *fresh.rglob("*")):
            os.chown(path, uid, uid)
    fresh.rename(top)
