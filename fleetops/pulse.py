"""Worker and beat touch a file while they live, for a health check that needs neither network nor broker."""

from __future__ import annotations

import contextlib
from pathlib import Path

from celery.beat import PersistentScheduler
from django.conf import settings


def touch() -> None:
    """Say that this process is alive, if FLEETOPS_PULSE_FILE names where; a full disk is told by the file's age."""
    if settings.PULSE_FILE:
        with contextlib.suppress(OSError):
            Path(settings.PULSE_FILE).touch()


class Scheduler(PersistentScheduler):
    """Celery's own, with a pulse. The schedule has a task for each second, so that a tick is never far."""

    def tick(self, *args, **kwargs):
        delay = super().tick(*args, **kwargs)
        touch()
        return delay
