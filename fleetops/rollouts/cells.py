"""The cells of a run as an open page has them: a letter for each target, and what changed since it asked last.

A cell's place is the target's position; letters: listing.CODES. What a page was told is kept for two minutes under a
cursor, so that an answer holds the cells alone that differ; a page whose cursor is gone gets all of them.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from django.core.cache import cache
from django.db.models import BooleanField, Case, Q, Value, When
from redis.exceptions import RedisError

from . import listing
from .models import Run
from .states import TargetState

KEPT_SECONDS: Final = 120
_MOST_CHANGES: Final = 1500  # more are told as a whole


def letters(run: Run) -> str:
    """One letter for each target that is in a wave, in the order of their positions. One query."""
    is_held = Case(
        When(Q(state=TargetState.QUEUED) & ~Q(reason=""), then=Value(True)),
        default=Value(False),
        output_field=BooleanField(),
    )
    rows = run.targets.exclude(wave=None).order_by("position").annotate(is_held=is_held)
    codes = {state.value: code for state, code in listing.CODE_OF.items()}
    return "".join("h" if waits else codes[state] for state, waits in rows.values_list("state", "is_held"))


def delta(run: Run, since: str) -> dict[str, Any]:
    """{cursor, all} or {cursor, changed: [[place from 0, letter], …]}."""
    now = letters(run)
    cursor = hashlib.blake2b(now.encode(), digest_size=8).hexdigest()
    if since == cursor:
        return {"cursor": cursor, "changed": []}
    before = _kept(run, since) if since else None
    _keep(run, cursor, now)
    if before is None or len(before) != len(now):
        return {"cursor": cursor, "all": now}
    changed = [[place, new] for place, (old, new) in enumerate(zip(before, now, strict=True)) if old != new]
    if len(changed) > _MOST_CHANGES:
        return {"cursor": cursor, "all": now}
    return {"cursor": cursor, "changed": changed}


def _key(run: Run, cursor: str) -> str:
    return f"rollouts.cells:{run.pk}:{cursor[:32]}"


def _kept(run: Run, cursor: str) -> str | None:
    try:
        found = cache.get(_key(run, cursor))
    except RedisError:  # the page gets all of it
        return None
    return found if isinstance(found, str) else None


def _keep(run: Run, cursor: str, text: str) -> None:
    try:
        cache.set(_key(run, cursor), text, KEPT_SECONDS)
    except RedisError:
        return
