"""How far the command log is behind what is recorded. Two queries."""

from __future__ import annotations

from django.apps import apps
from django.db.models import F, Min, OuterRef, Subquery, Sum
from django.db.models.functions import Coalesce

from fleetops.clock import now

SLOW_SECONDS = 60.0  # it saves its place every five seconds, and recordings are sealed as often


def lag_seconds() -> float:
    """Age of the oldest sealed part of a recording that the command log has not read yet; 0 if there is none."""
    chunks = apps.get_model("sessions_app", "RecordingChunk").objects
    cursors = apps.get_model("sessions_app", "CommandCursor").objects.filter(session_id=OuterRef("session_id"))
    waiting = chunks.filter(session__commands_done_at=None, session__kind="shell").annotate(
        read=Coalesce(Subquery(cursors.values("read_time_us")[:1]), -1)
    )
    at = waiting.filter(last_time_us__gt=F("read")).aggregate(at=Min("sealed_at"))["at"]
    return max(0.0, (now() - at).total_seconds()) if at else 0.0


def written() -> int:
    """Rows of the command log that were ever written."""
    return apps.get_model("sessions_app", "CommandCursor").objects.aggregate(n=Sum("number"))["n"] or 0
