"""A recording as an answer: streamed, for a page's player or as a file, for pages and API alike."""

from __future__ import annotations

import contextvars
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

from asgiref.sync import sync_to_async
from channels.db import database_sync_to_async
from django.http import StreamingHttpResponse

from fleetops.clock import monotonic
from fleetops.identity.models import User
from fleetops.web.context import current

from . import recording, services
from .models import RecordingChunk, TerminalSession

ASCIICAST = "application/x-asciicast"
RECHECK_SECONDS = 1.0  # as often as open terminals are asked about


def stream(
    session: TerminalSession, chunks: Sequence[RecordingChunk], *, actor: User, version: int, reason: str = ""
) -> StreamingHttpResponse:
    """The recording as an asciicast of format 2 or 3; it ends, in words, once `actor` may no longer read it."""
    context = contextvars.copy_context()  # of the request, which has been answered when the pieces are taken

    def recheck() -> str:
        return services.recheck_reader(session, actor=actor, stands=current.get().stands(), reason=reason)

    pieces = _in_threads(recording.cast(session, chunks, version=version))
    response = StreamingHttpResponse(
        _while_allowed(pieces, database_sync_to_async(lambda: context.run(recheck)), version), content_type=ASCIICAST
    )
    response["Cache-Control"] = "no-store"
    return response


def download(
    session: TerminalSession, chunks: Sequence[RecordingChunk], *, actor: User, version: int, reason: str = ""
) -> StreamingHttpResponse:
    """The same as a file to keep; audited."""
    services.record_download(session, actor=actor, version=version, reason=reason)
    response = stream(session, chunks, actor=actor, version=version, reason=reason)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{session.instance_name}-{session.created_at:%Y%m%d-%H%M%S}")
    response["Content-Disposition"] = f'attachment; filename="{name}.cast"'
    return response


async def _while_allowed(
    pieces: AsyncIterator[bytes], recheck: Callable[[], Awaitable[str]], version: int
) -> AsyncIterator[bytes]:
    """Give out `pieces`; asked before the next is made, and at most once in RECHECK_SECONDS, `recheck` may end it."""
    asked_at = monotonic()
    async for piece in pieces:
        yield piece
        if monotonic() - asked_at < RECHECK_SECONDS:
            continue
        if why := await recheck():
            yield recording.cut_off(piece, why, version=version)
            return
        asked_at = monotonic()


async def _in_threads(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Give out `pieces`, each made in a thread: reading and decompressing must not hold up the event loop."""
    take = sync_to_async(lambda: next(pieces, None), thread_sensitive=False)
    while (piece := await take()) is not None:
        yield piece
