"""What has to be done for sessions that nobody holds any more, and for recordings after they are sealed.

All of it runs on the host whose spool has the journal, may be done twice, and takes the journal's lock first.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from django.db.models import Exists, OuterRef

from fleetops.aws.errors import Unavailable
from fleetops.clock import now, steady
from fleetops.errors import UserError

from . import grants, services, spool, streams
from .journal import Journal, JournalBusy
from .models import RecordingChunk, TerminalSession
from .recording import Sealer
from .services import LateOwner
from .states import SessionState
from .store import recording_store

logger = logging.getLogger(__name__)

SHIP_AT_ONCE = 200  # chunks; the next round takes the next ones
KEEP_SPOOL = timedelta(hours=1)  # after the end: a reload still finds the whole scroll-back
ASK_SECONDS = 30.0  # of one round, for telling AWS of ends; the task that it is part of has 90


def ship_chunks() -> int:
    """Bring sealed chunks of this host into the store; returns how many."""
    store = recording_store()
    shipped = 0
    waiting = RecordingChunk.objects.filter(sent_at=None, session__owner_host=spool.host_name()).order_by("pk")
    for chunk in waiting[:SHIP_AT_ONCE]:
        path = spool.chunk_path(chunk.session_id, chunk.number, chunk.sha256)
        try:
            store.put(chunk.sha256, path)
        except FileNotFoundError:
            if not RecordingChunk.objects.filter(pk=chunk.pk, sent_at=None).exists():
                continue  # another worker of this host has just shipped it
            logger.error("a sealed chunk is missing session=%s chunk=%d", chunk.session_id, chunk.number)
            continue
        except OSError:
            logger.exception("the recording store does not take chunks")
            break
        RecordingChunk.objects.filter(pk=chunk.pk, sent_at=None).update(sent_at=now())
        path.unlink(missing_ok=True)
        shipped += 1
    return shipped


def tidy() -> None:
    """End what nobody will go on with, seal what an owner left unsealed, and give disk space free."""
    for session in services.never_opened():
        _end_unopened(session)
    for session in services.lost_hosts():
        _end_lost(session)
    for session in TerminalSession.objects.filter(
        state__in=[SessionState.ENDED, SessionState.FAILED], sealed_at=None, owner_host=spool.host_name()
    ).select_related("user")[:100]:
        _seal_rest(session)
    _clear_spool()
    confirm_ends(now())


def _end_unopened(session: TerminalSession) -> None:
    try:
        services.claim(session, owner="", host="")
        services.ended(session, reason="Nobody opened its terminal for five minutes.", actor="worker", sealed=True)
    except LateOwner:
        pass  # its browser came after all


def _end_lost(session: TerminalSession) -> None:
    """End a session whose owner has been gone for minutes, as far as this host can."""
    is_here = session.owner_host == spool.host_name()
    journal = None
    try:
        if is_here:
            journal = Journal(spool.session_directory(session.pk))
        services.claim(session, owner="", host=session.owner_host)
        if journal is not None:
            _seal_all(session, journal)
        over = grants.why_over(session.grant, now()) if session.grant is not None else ""
        services.ended(
            session,
            reason=f"Ended: {over}."
            if over
            else "The process that held the session did not come back."
            if is_here
            else "The host that held the session is gone. What it had recorded until then is kept.",
            actor="worker",
            sealed=is_here,
            is_unconfirmed=True,
        )
    except (JournalBusy, LateOwner):
        pass  # somebody has it, alive
    finally:
        if journal is not None:
            journal.close()


def confirm_ends(moment: datetime) -> None:
    """Tell AWS again of ends that it has not confirmed; where it cannot be reached, once a round is enough."""
    until = steady() + ASK_SECONDS
    away: dict[tuple[str, str], str] = {}
    for session in services.unconfirmed(moment):
        place = (session.account_id, session.region)
        if reason := away.get(place):
            services.end_not_confirmed(session, moment, reason=reason)
            continue
        if steady() > until:
            break
        try:
            is_confirmed = streams.terminate(session)
        except UserError as error:
            logger.warning("an ended session may still be open at AWS session=%s: %s", session.pk, error)
            services.end_not_confirmed(session, moment, reason=str(error))
            if isinstance(error, Unavailable):
                away[place] = str(error)
            continue
        ended_at = session.ended_at or moment
        if is_confirmed or (not session.ssm_session_id and moment - ended_at > services.UNANSWERED_SHOWS):
            services.end_confirmed_late(session)
            logger.info("AWS has confirmed an end late session=%s", session.pk)
        else:
            services.end_not_confirmed(session, moment, reason="AWS does not show the session.")


def _seal_rest(session: TerminalSession) -> None:
    """Seal what the owner of an ended session could not."""
    try:
        journal = Journal(spool.session_directory(session.pk))
    except JournalBusy:
        return
    try:
        _seal_all(session, journal)
        services.sealed_late(session)
    except LateOwner:
        pass
    finally:
        journal.close()


def _seal_all(session: TerminalSession, journal: Journal) -> None:
    sealer = Sealer(session, journal)
    if journal.is_new:
        return  # its spool was lost; there is nothing to seal
    while sealer.offset < journal.end:
        sealer.seal(journal.end)


def _clear_spool() -> None:
    """Remove the directories of sessions that ended long ago, once the store has all of them."""
    here = spool.spooled()
    old = TerminalSession.objects.filter(ended_at__lt=now() - KEEP_SPOOL)
    for start in range(0, len(here), 500):
        found = old.filter(pk__in=here[start : start + 500]).exclude(sealed_at=None, owner_host=spool.host_name())
        unsent = RecordingChunk.objects.filter(session=OuterRef("pk"), sent_at=None)
        for session_id in found.exclude(Exists(unsent)).values_list("pk", flat=True):
            spool.remove(session_id)
            logger.info("spool cleared session=%s", session_id)
