"""`python -m fleetops.endpoint`: the embedded AWS on one TLS port, with its demo nodes.

It prints `READY https://HOST:PORT` once it answers, and writes `handover.json` for those who use it. SIGTERM or Ctrl-C
ends it, and its children, within two seconds.
"""

import argparse
import asyncio
import contextlib
import fcntl
import gc
import json
import logging
import os
import resource
import signal
import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django
import uvicorn
from django.core.management import call_command

from fleetops import clock
from fleetops.endpoint.http import Http

logger = logging.getLogger("fleetops.endpoint")

_LARGEST_MESSAGE_BYTES = 262_144  # of a websocket
# For running requests; an idle TLS connection whose peer does not close it would hold us for ever.
_GRACE_SECONDS = 0.5
_OPEN_FILES = 65_536
# uvicorn's words for an idle connection at our end, and for a caller that went away before its websocket was there.
_NO_ERRORS = (
    "Cancel %s running task(s), timeout graceful shutdown",
    "ASGI callable returned without completing handshake",
)
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class Server(uvicorn.Server):
    """uvicorn without its signal handling: we end our children first, and then ourselves."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fleetops.endpoint", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="directory of all its state")
    parser.add_argument("--port", type=int, default=8443, help="0 for any free port")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--nodes", choices=("demo", "none"), default="demo")
    options = parser.parse_args()
    if options.nodes == "demo" and os.environ.get("FLEETOPS_PROFILE") == "production":
        print("Demo nodes are not for production: start the endpoint with --nodes none.", file=sys.stderr)
        return 1
    if clock.is_shifted() and os.environ.get("FLEETOPS_PROFILE") == "production":
        print("FLEETOPS_CLOCK_FILE shifts the clock for tests; production unsets it.", file=sys.stderr)
        return 1
    home = options.home.resolve()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.chmod(home, 0o700)
    lock = os.open(home / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"Another endpoint runs on {home}; stop it first, or give this one another --home.", file=sys.stderr)
        return 1
    try:
        listener = _listen(options.host, options.port)
    except OSError as error:
        print(
            f"Port {options.port} on {options.host} cannot be had: {error.strerror}. Choose another --port.",
            file=sys.stderr,
        )
        return 1
    os.environ["FLEETOPS_ENDPOINT_HOME"] = str(home)
    os.environ["DJANGO_SETTINGS_MODULE"] = "fleetops.endpoint.settings"
    os.umask(0o077)
    _allow_connections()
    django.setup()
    call_command("migrate", verbosity=0, interactive=False)
    sys.setswitchinterval(0.0005)  # sessions pass through the event loop; requests are answered in threads beside it
    runner = asyncio.Runner(loop_factory=_loop_factory())
    with runner:
        status = runner.run(_run(home, options.host, listener, with_nodes=options.nodes == "demo"))
        # All that must be done is done. Taking AWS's models and idle connections down would take seconds more.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(status)


def _allow_connections() -> None:
    """Raise our own limit on open files, which is 1,024 on many machines: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _loop_factory() -> Any:
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(1024)
    listener.setblocking(False)
    return listener


async def _run(home: Path, host: str, listener: socket.socket, *, with_nodes: bool) -> int:
    # Models can be imported only now that Django stands.
    from fleetops.endpoint.app import App
    from fleetops.endpoint.ca import ensure_certificates
    from fleetops.endpoint.core import Endpoint
    from fleetops.endpoint.fleet import Fleet
    from fleetops.endpoint.moto_client import MotoRefused
    from fleetops.endpoint.nodehost import NodeHost
    from fleetops.endpoint.seed import Seeder

    port = listener.getsockname()[1]
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    url = f"https://{place}"
    ensure_certificates(home, host, clock.real_now())
    endpoint = Endpoint(home, stream_host=place)
    logging.getLogger("uvicorn.error").addFilter(lambda record: not str(record.msg).startswith(_NO_ERRORS))
    server = Server(_config(home, App(endpoint)))
    stopped = asyncio.Event()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    hidden = [home, *([os.environ["FLEETOPS_HOME"]] if os.environ.get("FLEETOPS_HOME") else [])]
    nodes = (
        NodeHost(
            endpoint_url=url,
            ca_file=home / "ca.pem",
            hidden=hidden,
            is_loopback=host in _LOOPBACK,
            config_file=home / "nodes.json",
        )
        if with_nodes
        else None
    )
    fleet = Fleet(endpoint, nodes, home)
    await endpoint.start()
    serving: asyncio.Task[None] | None = None
    try:
        await _unless(stopped, endpoint.moto.ready())
        if stopped.is_set():
            return 0
        await endpoint.log_events.start()
        accounts = await Seeder(endpoint.moto, home, clock.now()).seed()
        hubs = [(account["account_id"], region) for account in accounts for region in account["regions"]]
        await endpoint.findings.enable_first(hubs, clock.now())
        await fleet.start()
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        _write_handover(home, url, place, accounts, endpoint.faults.token if endpoint.faults is not None else "")
        if nodes is not None:
            (home / "nodes").mkdir(exist_ok=True)
            await nodes.start()
        gc.freeze()  # see fleetops/__init__.py
        gc.set_threshold(10_000, 10, 10)
        print(f"READY {url}", flush=True)
        await _unless(stopped, asyncio.shield(serving))
    except MotoRefused:
        return 1
    finally:
        # From the outside in: nodes first, which still tell how their shells ended; then the channels; moto last.
        endpoint.close()
        await fleet.stop()
        if nodes is not None:
            await nodes.stop()
        server.should_exit = True
        if serving is not None:
            await serving
        await endpoint.stop()
    return 0


async def _unless(stopped: asyncio.Event, work: Any) -> None:
    """Wait for `work`, or until we are told to stop."""
    task, waiter = asyncio.ensure_future(work), asyncio.ensure_future(stopped.wait())
    await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    if task.done():
        task.result()
    else:
        task.cancel()


def _config(home: Path, app: Any) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        http=Http,
        ws="fleetops.batches:BatchedWebSocket",
        ws_per_message_deflate=False,
        ws_max_size=_LARGEST_MESSAGE_BYTES,
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        timeout_keep_alive=75,
        ssl_certfile=str(home / "server.pem"),
        ssl_keyfile=str(home / "server.key"),
        ssl_version=ssl.PROTOCOL_TLS_SERVER,
    )
    config.load()
    # Nobody comes back with a ticket, and each client would keep two: 8 KB for each end of a session.
    config.ssl.num_tickets = 0
    return config


def _write_handover(home: Path, url: str, place: str, accounts: list[dict[str, Any]], faults_token: str) -> None:
    from fleetops.endpoint.keys import write_private

    handover = {
        "endpoint_url": url,
        "ca_file": str(home / "ca.pem"),
        "stream_hosts": [place],
        "accounts": accounts,
    }
    if faults_token:
        handover["faults_token"] = faults_token
    write_private(home / "handover.json", json.dumps(handover, indent=1).encode())


if __name__ == "__main__":
    sys.exit(main())
