"""What a task is for the log and the numbers: the request that it belongs to, how long it took, what came of it.

Read by `fleetops.celery`. A page's request id goes with each task that it hands over, in the message's headers.
"""

from __future__ import annotations

import logging
import logging.config
from typing import Any

from celery import signals
from celery.utils.dispatch.signal import Signal
from django.conf import settings

from fleetops import metrics
from fleetops.aws import governor
from fleetops.clock import monotonic, uuid7
from fleetops.presence import Presence
from fleetops.web.context import RequestContext, current

logger = logging.getLogger(__name__)

HEADER = "fleetops_request_id"
_began: dict[str, float] = {}  # by task id, in this process
_beat: Presence | None = None
_worker: Presence | None = None


def _connect(signal: Signal):  # type: ignore[no-untyped-def]
    return signal.connect(weak=False)


@_connect(signals.setup_logging)
def _log_as_all_others_do(**_: Any) -> None:
    """Celery's lines in the format of the others; without this it would set up its own."""
    logging.config.dictConfig(settings.LOGGING)


@_connect(signals.before_task_publish)
def _hand_on(headers: dict[str, Any], **_: Any) -> None:
    if request_id := current.get().request_id:
        headers[HEADER] = request_id
    if _beat is not None:
        metrics.TICKS.inc()
        _beat.tell()


@_connect(signals.task_prerun)
def _begin(task_id: str, task: Any, **_: Any) -> None:
    _began[task_id] = monotonic()
    if not task.request.is_eager and not task.request.called_directly:
        current.set(RequestContext(task.request.get(HEADER) or uuid7().hex, source="worker"))
        # Whoever is more than that says so, with `acting_for`.
        governor.act_for(governor.Priority.POLL)


@_connect(signals.task_postrun)
def _end(task_id: str, task: Any, state: str | None = None, **_: Any) -> None:
    began = _began.pop(task_id, None)
    outcome = "done" if state == "SUCCESS" else "failed"
    metrics.TASK_RUNS.labels(task.name, outcome).inc()
    if began is not None:
        metrics.TASK_SECONDS.labels(task.name).observe(monotonic() - began)
    logger.debug("task ended task=%s outcome=%s id=%s", task.name, outcome, task_id)
    if not task.request.is_eager and not task.request.called_directly:
        current.set(RequestContext())


@_connect(signals.worker_ready)
def _worker_is_ready(**_: Any) -> None:
    global _worker
    _worker = Presence("worker")
    _worker.tell()
    if settings.METRICS_PORT:
        metrics.serve(settings.METRICS_PORT)


@_connect(signals.heartbeat_sent)
def _worker_lives(**_: Any) -> None:
    if _worker is not None:
        _worker.tell()


@_connect(signals.worker_shutting_down)
def _worker_ends(**_: Any) -> None:
    governor.stop()
    if _worker is not None:
        _worker.end()


@_connect(signals.worker_process_shutdown)
def _child_ends(pid: int | None = None, **_: Any) -> None:
    if pid is not None:
        metrics.child_ended(pid)


@_connect(signals.beat_init)
def _beat_is_ready(**_: Any) -> None:
    global _beat
    _beat = Presence("beat")
    _beat.tell()
    if settings.METRICS_PORT:
        metrics.serve(settings.METRICS_PORT + 1)
