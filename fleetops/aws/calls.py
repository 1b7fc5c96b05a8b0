"""Each call of AWS in the log and in the numbers, whoever makes it; and our request id in CloudTrail's userAgent.

Logged are names, numbers and AWS's request id; never a parameter, an answer, a token or a signature.
"""

from __future__ import annotations

import email.utils
import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from fleetops import metrics
from fleetops.clock import monotonic, now

from .errors import THROTTLED, Unavailable

logger = logging.getLogger(__name__)

SLOW_SECONDS: Final = 2.0
_BEGAN: Final = "fleetops_began"
_MODEL: Final = "fleetops_model"
_NO_TOKEN: Final = re.compile(r"[^A-Za-z0-9._-]")

_request_id: Callable[[], str] = lambda: ""  # noqa: E731
# By account: how far this machine's clock is ahead of AWS's, in seconds, as its last answer said; to the second.
skew_seconds: dict[str, float] = {}


def take_request_id_from(source: Callable[[], str]) -> None:
    """Have `source` say to which request of ours a call belongs; "" for none."""
    global _request_id
    _request_id = source


def watch(client: Any, *, account: str, region: str) -> None:
    """Log and count every call of `client`."""

    def begin(model: Any, context: dict[str, Any], **_: Any) -> None:
        context[_BEGAN], context[_MODEL] = monotonic(), model

    def name_request(request: Any, **_: Any) -> None:
        # Not part of the signature. botocore writes the header anew for each attempt, before this.
        if request_id := _NO_TOKEN.sub("", _request_id())[:64]:
            agent = request.headers["User-Agent"]
            agent = agent.decode() if isinstance(agent, bytes) else agent
            request.headers.replace_header("User-Agent", f"{agent} fleetops-request/{request_id}")

    def finish(http_response: Any, parsed: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
        about = parsed.get("ResponseMetadata", {})
        code = str(parsed.get("Error", {}).get("Code") or "")
        status = int(about.get("HTTPStatusCode") or http_response.status_code)
        _note_skew(account, about.get("HTTPHeaders", {}).get("date", ""))
        outcome = "ok"
        if status >= 300:
            outcome = "throttled" if code in THROTTLED else "failed" if status >= 500 else "refused"
        tell(context, outcome, code or str(status), int(about.get("RetryAttempts") or 0) + 1, about)

    def fail(exception: Exception, context: dict[str, Any], **_: Any) -> None:
        if isinstance(exception, Unavailable) and exception.is_paced and not exception.is_outcome_unknown:
            return  # AWS was not called
        attempts = int(context.get("retries", {}).get("attempt", 1))
        tell(context, "failed", type(exception).__name__, attempts, {})

    def tell(context: dict[str, Any], outcome: str, status: str, attempts: int, about: dict[str, Any]) -> None:
        if _BEGAN not in context:
            return
        seconds = monotonic() - context[_BEGAN]
        model = context[_MODEL]
        service, operation = str(model.service_model.endpoint_prefix), str(model.name)
        metrics.AWS_CALLS.labels(service, operation, outcome).inc()
        metrics.AWS_SECONDS.labels(service).observe(seconds)
        if outcome == "throttled":
            metrics.AWS_THROTTLES.labels(account, region, service).inc()
        level = logging.DEBUG
        if outcome != "ok":
            level = logging.WARNING if outcome in {"failed", "throttled"} else logging.INFO
        elif seconds > SLOW_SECONDS:
            level = logging.INFO
        logger.log(
            level,
            "AWS called service=%s operation=%s account=%s region=%s status=%s seconds=%.3f attempts=%d aws_request=%s",
            service,
            operation,
            account,
            region,
            status,
            seconds,
            attempts,
            str(about.get("RequestId") or "-"),
        )

    events = client.meta.events
    events.register_first("before-call", begin, unique_id="fleetops-begin")
    events.register_last("request-created", name_request, unique_id="fleetops-name")
    events.register_last("after-call", finish, unique_id="fleetops-finish")
    events.register_last("after-call-error", fail, unique_id="fleetops-fail")


def _note_skew(account: str, date: str) -> None:
    try:
        theirs = email.utils.parsedate_to_datetime(date)
    except (TypeError, ValueError):
        return
    if theirs.tzinfo is None:
        theirs = theirs.replace(tzinfo=UTC)
    skew_seconds[account] = (now() - datetime.fromtimestamp(theirs.timestamp(), UTC)).total_seconds()
