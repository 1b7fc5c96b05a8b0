"""A recording as an answer: streamed, for a page's player or as a file, for pages and API alike."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Sequence

from asgiref.sync import sync_to_async
from django.http import StreamingHttpResponse

from fleetops.identity.models import User

from . import recording, services
from .models import RecordingChunk, TerminalSession

ASCIICAST = "application/x-asciicast"


def stream(session: TerminalSession, chunks: Sequence[RecordingChunk], *, version: int) -> StreamingHttpResponse:
    """The recording as an asciicast of format 2 or 3."""
    pieces = _in_threads(recording.cast(session, chunks, version=version))
    response = StreamingHttpResponse(pieces, content_type=ASCIICAST)
    response["Cache-Control"] = "no-store"
    return response


def download(
    session: TerminalSession, chunks: Sequence[RecordingChunk], *, actor: User, version: int, reason: str = ""
) -> StreamingHttpResponse:
    """The same as a file to keep; audited."""
    services.record_download(session, actor=actor, version=version, reason=reason)
    response = stream(session, chunks, version=version)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{session.instance_name}-{session.created_at:%Y%m%d-%H%M%S}")
    response["Content-Disposition"] = f'attachment; filename="{name}.cast"'
    return response


async def _in_threads(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Give out `pieces`, each made in a thread: reading and decompressing must not hold up the event loop."""
    take = sync_to_async(lambda: next(pieces, None), thread_sensitive=False)
    while (piece := await take()) is not None:
        yield piece
