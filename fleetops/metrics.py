"""What FleetOps counts, for Prometheus: all names stand here, and docs/observability.md says what each means.

Labels have few values: no instance, no user, no session. Each process counts for itself. A worker's pool is several
processes: they share files, and its main process adds them up; see `share_with_children`. What is counted in the
database a room tells by `ask`, and only `web` asks.
"""

from __future__ import annotations

import atexit
import hmac
import ipaddress
import logging
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final


def share_with_children() -> str:
    """Make the directory in which a worker's processes share their numbers; "" in every other process.

    prometheus_client reads where it is when it is first imported, so this stands before that import.
    """
    is_worker = "worker" in sys.argv and os.environ.get("FLEETOPS_METRICS_PORT", "0") not in {"", "0"}
    if not is_worker or not sys.argv[0].replace("\\", "/").endswith(("celery/__main__.py", "/celery")):
        return ""
    directory = tempfile.mkdtemp(prefix="fleetops-metrics-")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
    owner = os.getpid()

    def clean_up() -> None:
        if os.getpid() == owner:  # a child that ends leaves the others' files alone
            shutil.rmtree(directory, ignore_errors=True)

    atexit.register(clean_up)
    return directory


_SHARED: Final = share_with_children()

from django.conf import settings  # noqa: E402
from prometheus_client import (  # noqa: E402
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
    multiprocess,
)
from prometheus_client.core import GaugeMetricFamily  # noqa: E402

logger = logging.getLogger(__name__)

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_QUICK = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)  # seconds
_LONG = (0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 90, 180, 600, 1800)  # seconds

registry = CollectorRegistry()
if not _SHARED:
    ProcessCollector(registry=registry)

HTTP_REQUESTS = Counter(
    "fleetops_http_requests_total",
    "Pages and API calls answered.",
    ("method", "route", "status"),
    registry=registry,
)
HTTP_SECONDS = Histogram(
    "fleetops_http_request_seconds", "Time to answer one.", ("route",), buckets=_QUICK, registry=registry
)
AWS_CALLS = Counter(
    "fleetops_aws_calls_total",
    "Calls of AWS by outcome: ok, throttled, refused, failed.",
    ("service", "operation", "outcome"),
    registry=registry,
)
AWS_SECONDS = Histogram(
    "fleetops_aws_call_seconds", "Time of one call, repeats in it.", ("service",), buckets=_QUICK, registry=registry
)
AWS_THROTTLES = Counter(
    "fleetops_aws_throttles_total",
    "Calls that AWS wanted fewer of.",
    ("account", "region", "service"),
    registry=registry,
)
LOG_PUTS = Counter(
    "fleetops_log_puts_total",
    "Batches of sessions' events for CloudWatch Logs by outcome: ok, refused, unknown.",
    ("outcome",),
    registry=registry,
)
LOG_EVENTS = Counter(
    "fleetops_log_events_total",
    "Events of sessions that CloudWatch Logs has taken, by source: record, command, ended, input.",
    ("source",),
    registry=registry,
)
AWS_WAITS = Histogram(
    "fleetops_aws_wait_seconds",
    "Time that an attempt waited for the budget of AWS calls, of those that did, by priority.",
    ("priority",),
    buckets=_QUICK,
    registry=registry,
)
AWS_SLOWED = Counter(
    "fleetops_aws_throttled_attempts_total",
    "Attempts that AWS wanted fewer of, also those that were repeated; the budget learns from each.",
    ("account", "region", "operation"),
    registry=registry,
)
AWS_UNPACED = Counter(
    "fleetops_aws_unpaced_total", "Attempts without a budget, since Valkey did not answer.", registry=registry
)
TASK_RUNS = Counter(
    "fleetops_task_runs_total", "Tasks carried out, by outcome: done, failed.", ("task", "outcome"), registry=registry
)
TASK_SECONDS = Histogram("fleetops_task_seconds", "Time of one.", ("task",), buckets=_LONG, registry=registry)
TICKS = Counter("fleetops_beat_ticks_total", "Tasks that beat has handed out.", registry=registry)
TERMINAL_LIVE = Gauge(
    "fleetops_terminal_sessions_live",
    "Sessions that this process holds.",
    registry=registry,
    multiprocess_mode="livesum",
)
TERMINAL_OPENED = Counter("fleetops_terminal_sessions_opened_total", "Shells opened.", registry=registry)
TERMINAL_ENDED = Counter(
    "fleetops_terminal_sessions_ended_total",
    "Sessions ended, by reason: shell, person, idle, longest, detached, access, database, other.",
    ("reason",),
    registry=registry,
)
TERMINAL_BYTES = Counter(
    "fleetops_terminal_bytes_total", "Bytes of output (out) and keystrokes (in).", ("direction",), registry=registry
)
SPOOL_BYTES = Gauge(
    "fleetops_spool_bytes", "On disk in the spool of this host.", registry=registry, multiprocess_mode="max"
)
SPOOL_QUOTA = Gauge("fleetops_spool_quota_bytes", "What it may hold.", registry=registry, multiprocess_mode="max")

Row = tuple[tuple[str, ...], float]
_asked: list[tuple[str, str, tuple[str, ...], Callable[[], Iterable[Row]], bool]] = []


def ask(
    name: str, about: str, labels: tuple[str, ...], rows: Callable[[], Iterable[Row]], *, database: bool = True
) -> None:
    """Have `rows` asked for a gauge's values at each scrape: of `web` alone if they are in the database."""
    _asked[:] = [each for each in _asked if each[0] != name]
    _asked.append((name, about, labels, rows, database))


def _gauges(*, database: bool) -> Iterator[GaugeMetricFamily]:
    is_up = 1.0
    for name, about, labels, rows, in_database in _asked:
        if in_database and not (database and is_up):
            continue
        family = GaugeMetricFamily(name, about, labels=labels)
        try:
            for values, number in rows():
                family.add_metric(values, number)
        except Exception:  # the outermost loop of a room: its trouble is no reason to tell nothing
            logger.warning("a metric could not be read metric=%s", name, exc_info=True)
            is_up = 0.0 if in_database else is_up
            continue
        yield family
    if database:
        yield GaugeMetricFamily("fleetops_database_up", "1 if all that is asked of it was answered.", value=is_up)


class _Asked:
    def __init__(self, *, database: bool) -> None:
        self.database = database

    def collect(self) -> Iterator[GaugeMetricFamily]:
        return _gauges(database=self.database)


def exposition(*, database: bool = False) -> bytes:
    """All numbers of this process in Prometheus's text format; with `database`, those that stand in it too."""
    if _SHARED:
        shared = CollectorRegistry()
        multiprocess.MultiProcessCollector(shared, _SHARED)  # type: ignore[no-untyped-call]
        return generate_latest(shared)
    asked = CollectorRegistry()
    asked.register(_Asked(database=database))
    return generate_latest(registry) + generate_latest(asked)


def may_scrape(address: str, headers: dict[str, str]) -> bool:
    """Whether somebody at `address` may read the numbers; `headers` with names in lower case.

    From this machine, but not through a proxy on it; from FLEETOPS_METRICS_NETWORKS; or with FLEETOPS_METRICS_TOKEN.
    """
    token = settings.METRICS_TOKEN
    given = headers.get("authorization", "")
    if token and hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        return True
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:
        found = found.ipv4_mapped
    if any(found in ipaddress.ip_network(network) for network in settings.METRICS_NETWORKS):
        return True
    return found.is_loopback and not {"x-forwarded-for", "forwarded", "via"} & headers.keys()


class _Handler(BaseHTTPRequestHandler):
    """/metrics of a process that serves nothing else."""

    timeout = 10  # seconds, for who connects and says nothing

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        if self.path.partition("?")[0] != "/metrics":
            status, body = 404, b"There is nothing here but /metrics.\n"
        elif not may_scrape(self.client_address[0], headers):
            status, body = 403, REFUSED
        else:
            status, body = 200, exposition()
        self.send_response(status)
        self.send_header("Content-Type", CONTENT_TYPE if status == 200 else "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        logger.debug("metrics asked for address=%s", self.client_address[0])


REFUSED: Final = (
    b"The numbers are for this machine, for FLEETOPS_METRICS_NETWORKS, and for who sends FLEETOPS_METRICS_TOKEN.\n"
)


def serve(port: int) -> ThreadingHTTPServer | None:
    """Answer /metrics on `port` from a thread: on loopback, unless others are named who may ask."""
    host = "0.0.0.0" if settings.METRICS_NETWORKS or settings.METRICS_TOKEN else "127.0.0.1"
    try:
        server = ThreadingHTTPServer((host, port), _Handler)
    except OSError as error:  # no numbers are no reason to do no work
        logger.warning("metrics are not to be had port=%d: %s", port, error.strerror)
        return None
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server


def child_ended(pid: int) -> None:
    """A process of the pool is gone: what it alone was does not count any more."""
    if _SHARED:
        multiprocess.mark_process_dead(pid, _SHARED)  # type: ignore[no-untyped-call]
