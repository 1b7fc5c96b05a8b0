"""What deliveries count for /metrics. It is read before models are, and asks for them by name."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from django.apps import apps
from django.db.models import F, Min

from fleetops.clock import now

WHERE = {"logs": "LogDelivery", "s3": "RecordingCopy"}


def standing() -> Iterator[tuple[str, int, datetime | None]]:
    """What cannot be delivered now, by where it should go: how many sessions, and since when the first of them.

    Sessions of an account that is no longer linked wait too, but for nobody.
    """
    linked = apps.get_model("inventory", "Account").objects.values("account_id")
    for where, name in WHERE.items():
        waiting = apps.get_model("sessions_app", name).objects.filter(done_at=None, waiting_since__isnull=False)
        rows = waiting.filter(session__account_id__in=linked)
        yield where, rows.count(), rows.aggregate(since=Min("waiting_since"))["since"]


def waiting() -> Iterator[tuple[tuple[str], int]]:
    for where, count, _ in standing():
        yield (where,), count


def waiting_seconds() -> Iterator[tuple[tuple[str], float]]:
    for where, _, since in standing():
        yield (where,), (now() - since).total_seconds() if since else 0.0


def lag_seconds() -> Iterator[tuple[tuple[()], float]]:
    """The age of the oldest sealed piece of a recording that CloudWatch Logs should have and does not."""
    chunks = apps.get_model("sessions_app", "RecordingChunk").objects
    late = chunks.filter(
        session__log_delivery__done_at=None, number__gt=F("session__log_delivery__read_through")
    ).aggregate(oldest=Min("sealed_at"))["oldest"]
    yield (), (now() - late).total_seconds() if late else 0.0
