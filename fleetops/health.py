"""Is this process well? Ends with 0 if it is, else with 1 and the reason; made for a container's health check.

    python -m fleetops.health http HOST:PORT     web or terminal: its /healthz answers 200 within three seconds
    python -m fleetops.health pulse FILE         worker, beat, command log: has touched FILE within the last 30 seconds

A worker touches it from its main loop, when it has sent the broker its heartbeat, every two seconds; beat at each tick,
the command log at each round. None says that tasks succeed: the pages and /metrics do.
"""

import http.client
import os
import sys
import time
from pathlib import Path

STALE_SECONDS = 30  # fifteen heartbeats of a worker: a machine that swaps is slow, not dead
ANSWER_SECONDS = 3


def http_trouble(address: str) -> str:
    """What is wrong with the process that answers HTTP on `address`; "" for nothing."""
    hosts = [name.strip() for name in os.environ.get("FLEETOPS_ALLOWED_HOSTS", "").split(",")]
    host = next((name for name in hosts if name and name[0] not in ".*"), address)
    connection = http.client.HTTPConnection(address, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", "/healthz", headers={"Host": host})
        answer = connection.getresponse()
        return "" if answer.status == 200 else f"{address} answers {answer.status}: {answer.read(200)!r}"
    except (OSError, http.client.HTTPException) as error:
        return f"{address} does not answer: {error}"
    finally:
        connection.close()


def pulse_trouble(file: Path) -> str:
    """What is wrong with the process that touches `file`; "" for nothing."""
    try:
        age = time.time() - file.stat().st_mtime
    except OSError as error:
        return f"no sign of life: {file}: {error.strerror}"
    return "" if age < STALE_SECONDS else f"no sign of life for {age:.0f} s: {file}"


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or arguments[0] not in {"http", "pulse"}:
        print(__doc__, file=sys.stderr)
        return 2
    kind, where = arguments
    trouble = http_trouble(where) if kind == "http" else pulse_trouble(Path(where))
    if trouble:
        print(trouble, file=sys.stderr)
    return 1 if trouble else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
