"""Waking the terminal process that owns a session, so that it reads at once what was asked of it."""

from __future__ import annotations

import hashlib
import logging
from uuid import UUID

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer

from .models import TerminalSession

logger = logging.getLogger(__name__)


def notify_owner(session_id: UUID) -> None:
    """Wake the owner of a session, so that it reads what was asked. Best effort: it looks each second anyway."""
    owner = TerminalSession.objects.filter(pk=session_id).values_list("owner", flat=True).first()
    if not owner:
        return
    try:
        async_to_sync(get_channel_layer().group_send)(
            group_of(owner), {"type": "session.look", "session": str(session_id)}
        )
    except OSError:  # the broker is away
        logger.warning("the owner could not be woken session=%s", session_id)


def group_of(owner: str) -> str:
    """The channel-layer group of one terminal process. Its token is not in it."""
    return "terminal." + hashlib.sha256(owner.encode()).hexdigest()[:32]
