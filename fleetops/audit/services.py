"""Proving the log, and writing down that it was done."""

import logging
from collections.abc import Callable
from typing import Any

from . import chain
from .models import Outcome
from .record import record

logger = logging.getLogger(__name__)


def verify_and_record(*, actor: Any, progress: Callable[[int], None] | None = None) -> chain.Verification:
    """Recompute the whole chain; the event of it says how far it was whole, for pages to go on from."""
    result = chain.verify(progress)
    record(
        "audit.verify",
        actor=actor,
        outcome=Outcome.DONE if result.ok else Outcome.FAILED,
        reason=result.first_bad,
        sealed=result.sealed,
        unsealed=result.unsealed,
        number=result.head.number,
        hash=result.head.hash,
        problems=result.problem_count,
        seconds=round(result.seconds, 3),
    )
    if not result.ok:
        logger.error("audit chain does not verify problems=%s first=%s", result.problem_count, result.first_bad)
    return result
