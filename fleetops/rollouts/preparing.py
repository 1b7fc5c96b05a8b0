"""Waves that their run's kind prepares: asked as soon as all waves before have come through their soak.

What is made is found again, by whoever looks next: see kinds.RunKind.prepare. Only what stands under the lock of the
run counts, so that a wave starts prepared, or not at all.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from .kinds import Preparation, RunKind
from .models import Run, RunEvent, Wave
from .states import Readiness, RunState, WaveState

logger = logging.getLogger(__name__)

LONGEST: Final = timedelta(minutes=10)  # until what cannot be made now counts as failed
_THROUGH: Final = (WaveState.GATED, WaveState.SUCCEEDED, WaveState.SKIPPED, WaveState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a kind has said of a wave."""

    wave: Any  # its key
    preparation: Preparation


def due(run: Run) -> Wave | None:
    """The wave that is to be prepared now."""
    for wave in run.waves.order_by("position"):
        if wave.state in _THROUGH:
            continue
        is_due = wave.state == WaveState.PENDING and wave.readiness == Readiness.OPEN
        return wave if is_due else None
    return None


def ask(run: Run, kind: RunKind) -> Prepared | None:
    """Have the kind prepare the wave whose turn comes next. Outside of any transaction."""
    if run.state != RunState.RUNNING or (wave := due(run)) is None:
        return None
    return Prepared(wave.pk, kind.prepare(run, wave))


def take(run: Run, prepared: Prepared | None, *, now: datetime) -> None:
    """Write down what the kind has said, unless the wave has moved since. Under the lock of the run."""
    if prepared is None or run.state != RunState.RUNNING:
        return
    wave = due(run)
    if wave is None or wave.pk != prepared.wave:
        return
    told, since = prepared.preparation, wave.readiness_since or now
    readiness, words = told.readiness, told.words
    if readiness == Readiness.OPEN and now >= since + LONGEST:
        minutes = int(LONGEST.total_seconds() // 60)
        readiness, words = Readiness.FAILED, f"{words} That was so for {minutes} minutes."
    Wave.objects.filter(pk=wave.pk).update(
        readiness=readiness, readiness_words=words[:512], readiness_since=None if readiness != Readiness.OPEN else since
    )
    if told.facts and readiness != Readiness.FAILED:
        run.preparation = {**run.preparation, **told.facts}
        Run.objects.filter(pk=run.pk).update(preparation=run.preparation)
    if readiness == Readiness.READY:
        text = f"Wave {wave.position} is prepared. {words}".strip()
        RunEvent.objects.create(run=run, wave=wave, at=now, tone="good", text=text[:512])
        logger.info("wave prepared run=%s wave=%d", run.pk, wave.position)
    elif readiness == Readiness.FAILED:
        logger.warning("wave not prepared run=%s wave=%d reason=%s", run.pk, wave.position, words)


def reopen(run: Run) -> None:
    """Have what could not be prepared tried again. Under the lock of the run."""
    failed = run.waves.filter(readiness=Readiness.FAILED)
    failed.update(readiness=Readiness.OPEN, readiness_words="", readiness_since=None)


def unready(run: Run) -> bool:
    """Whether a wave is still to be prepared, or could not be."""
    return run.waves.filter(state=WaveState.PENDING, readiness__in=[Readiness.OPEN, Readiness.FAILED]).exists()


def waive(run: Run, words: str) -> int:
    """Let all waves that are not prepared go without; how many. Under the lock of the run."""
    waves = list(run.waves.filter(state=WaveState.PENDING, readiness__in=[Readiness.OPEN, Readiness.FAILED]))
    for wave in waves:
        Wave.objects.filter(pk=wave.pk).update(
            readiness=Readiness.WAIVED, readiness_words=words[:512], readiness_since=None
        )
    waived = [*run.preparation.get("waived", ()), *(wave.position for wave in waves)]
    run.preparation = {**run.preparation, "waived": waived}
    Run.objects.filter(pk=run.pk).update(preparation=run.preparation)
    return len(waves)
