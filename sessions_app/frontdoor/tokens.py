"""The words that let a client into a session's stream: each once, for a minute, in place of what it proved before."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from django.db import transaction

from fleetops.clock import now
from fleetops.errors import UserError
from fleetops.identity import access_keys
from fleetops.identity.models import AccessKey, ApiToken
from fleetops.web.context import current

from .. import services
from ..models import StreamToken, TerminalSession
from ..services import Pass

LASTS = timedelta(minutes=2)  # the plugin dials at once; what it is started by may ask for its version first


class NotLetIn(UserError):
    """The word opens nothing; the text is for its bearer."""


@dataclass(frozen=True)
class LetIn:
    """Who may have the stream now, until their pass no longer holds."""

    session: TerminalSession
    admitted: Pass
    is_ours: bool
    name: str


def make(session: TerminalSession, bearer: AccessKey | ApiToken, *, is_ours: bool = False) -> str:
    """A word for the stream of `session`, for who came with `bearer`; it is given out once, and only a digest kept."""
    text = secrets.token_urlsafe(32)
    StreamToken.objects.filter(expires_at__lt=now()).delete()
    StreamToken.objects.create(
        digest=_digest(text),
        session=session,
        access_key=bearer if isinstance(bearer, AccessKey) else None,
        api_token=bearer if isinstance(bearer, ApiToken) else None,
        source_address=current.get().source_address,
        is_ours=is_ours,
        expires_at=now() + LASTS,
    )
    return text


def spend(text: str, session_id: UUID) -> LetIn:
    """Let the bearer of a word in, who cannot use it again. Raises NotLetIn, PolicyDenied."""
    with transaction.atomic():
        rows = StreamToken.objects.select_related("session__user", "access_key", "api_token")
        row = rows.filter(digest=_digest(text), session_id=session_id).first()
        if row is None or not StreamToken.objects.filter(pk=row.pk).delete()[0] or row.expires_at <= now():
            raise NotLetIn("This word for the session's stream was used already, or is too old.")
    bearer = row.access_key or row.api_token
    session, context = row.session, current.get()
    if not access_keys.may_come(bearer, address=context.source_address):
        raise NotLetIn("The key that this word was given for does not hold, or not from here.")
    short = bearer.key_id if isinstance(bearer, AccessKey) else f"{bearer.prefix}…"
    context.source, context.via = "cli", f"{bearer.name} ({short})"
    context.user, context.session = str(session.user_id), str(session.pk)
    admitted = Pass(
        session_id=session.pk,
        user_id=session.user_id,
        log_in_key="",
        log_in_hash="",
        is_own=True,
        source_address=context.source_address,
        reason=session.reason,
        since=now(),
        bearer=access_keys.bearer_name(bearer),
    )
    if session.is_live:
        session = services.admit(session.pk, user=session.user, watch=False)
    return LetIn(session, admitted, row.is_ours, session.user_name)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
