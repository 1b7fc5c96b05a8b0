"""Copies finished recordings into the buckets that accounts name: a cast that every player reads, and its manifest.

Both have names and bytes that follow from the recording alone, so that a copy that is made twice is the same. What
cannot be copied now stays in its table, with the reason, and is tried again until it is there.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import tempfile
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import IO, Any, Final
from uuid import UUID

import orjson
from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet

from fleetops.audit.record import record
from fleetops.aws import s3
from fleetops.clock import during, monotonic, now
from fleetops.errors import UserError

from .. import recording
from ..models import RecordingChunk, RecordingCopy, TerminalSession
from ..services import account_of

logger = logging.getLogger(__name__)

SESSION_NAME: Final = "fleetops-delivery"
CLAIM: Final = timedelta(seconds=150)  # longer than its task may live
ROUND_SECONDS: Final = 40.0
_LONGEST_WAIT: Final = timedelta(minutes=10)
_CAST, _MANIFEST = ".cast.gz", ".manifest.json"


@dataclass(frozen=True, slots=True)
class _Digested:
    size: int
    sha256: str


def due(moment: datetime) -> QuerySet[RecordingCopy]:
    """Copies that can be made now: the recording is sealed to its end, and the store has all of it."""
    unsent = RecordingChunk.objects.filter(session=OuterRef("pk"), sent_at=None)
    free = Q(claimed_until=None) | Q(claimed_until__lt=moment)
    ready = RecordingCopy.objects.filter(free, done_at=None, next_at__lte=moment, session__sealed_at__isnull=False)
    return ready.exclude(Exists(unsent)).order_by("next_at")


def copy_due(*, seconds: float = ROUND_SECONDS) -> int:
    """Make the copies that are due, for about so long; returns how many were taken up."""
    until = monotonic() + seconds
    taken = 0
    while monotonic() < until and (session_id := due(now()).values_list("pk", flat=True).first()):
        copy(session_id)
        taken += 1
    return taken


def copy(session_id: UUID) -> None:
    """Copy one recording. Does nothing if somebody is at it, or it is there."""
    moment = now()
    free = Q(claimed_until=None) | Q(claimed_until__lt=moment)
    rows = RecordingCopy.objects.filter(free, pk=session_id, done_at=None)
    if not rows.update(claimed_until=moment + during(CLAIM)):
        return
    row = RecordingCopy.objects.select_related("session").get(pk=session_id)
    if not row.session.chunks.exists():  # no shell was ever open
        RecordingCopy.objects.filter(pk=session_id).update(claimed_until=None, done_at=now())
        return
    try:
        made = _copy(row)
    except (UserError, OSError) as error:
        _failed(row, error)
        return
    with transaction.atomic():
        RecordingCopy.objects.filter(pk=row.pk).update(
            size=made.size,
            sha256=made.sha256,
            error="",
            tries=0,
            waiting_since=None,
            claimed_until=None,
            done_at=now(),
        )
        session = row.session
        record(
            "sessions.recording.copy",
            actor="worker",
            target=session,
            session=session,
            account_id=session.account_id,
            region=session.region,
            bucket=row.bucket,
            key=row.key,
            sha256=made.sha256,
            chain_head=session.chain_head,
        )
    logger.info("a recording is copied session=%s bytes=%d", row.pk, made.size)


def _copy(row: RecordingCopy) -> _Digested:
    """Put cast and manifest. Raises UserError, OSError."""
    session = row.session
    if faults := recording.verify(session).faults:
        raise UserError(f"The recording is not what was sealed, so it is not copied: {'; '.join(faults)}.")
    access = account_of(session).access()
    chunks = list(session.chunks.order_by("number"))
    directory = settings.HOME / "copies"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=directory) as file:
        made = _write_cast(session, chunks, file)
        if made.size > s3.MOST_BYTES:
            raise UserError(
                "The recording has more than 5 GiB, which FleetOps does not put into a bucket in one piece."
            )
        file.seek(0)
        _put(row, row.key, file, made, "application/x-asciicast+gzip", access)
    manifest = orjson.dumps(_manifest(row, session, chunks, made), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
    about = _Digested(len(manifest), hashlib.sha256(manifest).hexdigest())
    # Last: where a manifest is, its cast is whole.
    _put(row, row.key.removesuffix(_CAST) + _MANIFEST, manifest, about, "application/json", access)
    return made


def _put(row: RecordingCopy, key: str, body: Any, about: _Digested, content_type: str, access: Any) -> None:
    s3.put(
        access,
        row.session.region,
        bucket=row.bucket,
        key=key,
        body=body,
        sha256=about.sha256,
        session_name=SESSION_NAME,
        content_type=content_type,
        kms_key=row.kms_key,
    )


def _write_cast(session: TerminalSession, chunks: list[RecordingChunk], file: IO[bytes]) -> _Digested:
    with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
        for piece in recording.cast(session, chunks):
            packed.write(piece)
    size = file.tell()
    file.seek(0)
    return _Digested(size, hashlib.file_digest(file, "sha256").hexdigest())  # type: ignore[arg-type]


def _manifest(row: RecordingCopy, session: TerminalSession, chunks: list[RecordingChunk], made: _Digested) -> Any:
    """What proves the cast: whose it is, its digest, and the chain of what it was made from."""
    return {
        "version": 1,
        "session": {
            "id": str(session.pk),
            "ssm_session_id": session.ssm_session_id,
            "user": session.user_name,
            "instance_id": session.instance_id,
            "instance_name": session.instance_name,
            "account_id": session.account_id,
            "region": session.region,
            "reason": session.reason,
            "started_at": _iso(session.started_at),
            "ended_at": _iso(session.ended_at),
            "end_reason": session.end_reason,
        },
        "cast": {"key": row.key, "sha256": made.sha256, "size": made.size, "format": "asciicast v2, gzip"},
        "chain": {
            "rule": "sha256 of link before, number, first_offset, last_offset, first_time_us, last_time_us, "
            "output_bytes, sha256, joined by newlines; the link before the first is the session's id",
            "head": session.chain_head,
            "chunks": [
                {
                    "number": chunk.number,
                    "first_offset": chunk.first_offset,
                    "last_offset": chunk.last_offset,
                    "first_time_us": chunk.first_time_us,
                    "last_time_us": chunk.last_time_us,
                    "output_bytes": chunk.output_bytes,
                    "sha256": chunk.sha256,
                    "link": chunk.chain_hash,
                }
                for chunk in chunks
            ],
        },
    }


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def _failed(row: RecordingCopy, error: Exception) -> None:
    moment = now()
    wait = min(_LONGEST_WAIT, timedelta(seconds=2 ** min(row.tries, 10)))
    RecordingCopy.objects.filter(pk=row.pk).update(
        error=str(error)[:512],
        tries=min(row.tries + 1, 1000),
        waiting_since=row.waiting_since or moment,
        next_at=moment + during(wait),
        claimed_until=None,
    )
    logger.warning("a recording is not copied yet session=%s tries=%d: %s", row.pk, row.tries + 1, error)
