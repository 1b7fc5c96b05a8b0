"""The command log's process: follows the journals of this host's sessions and writes their commands down.

It only reads what terminals write, in a process of its own and niced, so that it slows no terminal. Rows and how far
they go are written in one transaction: killed at any moment, it goes on from there, loses nothing and doubles nothing.
A session that ended while it was down is read from its journal as long as that is kept, then from its sealed chunks.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError, close_old_connections, transaction
from django.db.models import Q

from fleetops.clock import now, steady
from fleetops.presence import Presence

from .. import spool
from ..journal import INPUT, OUTPUT, SIZE, STATE, size_of, state_of
from ..models import Command, CommandCursor, TerminalSession
from ..states import SessionKind, SessionState
from .follow import Gone, Piece, Tail, sealed
from .priority import stand_back
from .reader import Ended, Row, SessionReader, masked
from .reconstruct import REST_US

logger = logging.getLogger(__name__)

ROUND_SECONDS = 0.3
LOOK_SECONDS = 1.0  # for sessions that began
SAVE_SECONDS = 5.0  # the longest that read output without a command stays unsaved
STEP_BYTES = 8 << 20  # of one session in one round
FLOOD_BYTES = 64 << 10  # of output in one go that is worth being cut down
AGAIN_SECONDS = 60.0  # until a recording that could not be read is tried again
AT_ONCE = 400  # sessions
FOREIGN_AFTER = timedelta(minutes=10)  # another host had so long to read what it recorded
GIVEN_UP_AFTER = timedelta(hours=6)  # a chunk that was nowhere for so long is not coming


class Overtaken(Exception):
    """Another process has written this session's rows."""


class Follower:
    """One session's reader, and its place."""

    def __init__(self, session: TerminalSession) -> None:
        self.session = session
        self.cursor, _ = CommandCursor.objects.get_or_create(session_id=session.pk)
        self.read_us = self.cursor.read_time_us
        self.offset = self.cursor.output_offset
        state = self.cursor.state
        self.started_us = int(state.get("started_us", 0))
        self.nonce: str = getattr(session, "mark_nonce", "") or ""
        self.reader = (
            SessionReader.restore(self.nonce, state["reader"], number=self.cursor.number)
            if "reader" in state
            else SessionReader(self.nonce, cols=session.cols, rows=session.rows, number=self.cursor.number)
        )
        self.reader.is_console = bool(session.windows_build)
        self._begin = min(self.reader.marks_offset, self.offset) if "reader" in state else 0
        self._is_new_here = True  # nothing was read yet, so that the beginning of a mark is to be read again
        self._tail: Tail | None = None
        self._chunks: Iterator[Piece] | None = None
        self._saved_at = steady()
        self.is_at_end = False

    def close(self) -> None:
        if self._tail is not None:
            self._tail.close()

    # Reading

    def _pieces(self) -> list[Piece]:
        """What comes next; nothing for now, or at the end."""
        begin = self._begin if self._is_new_here else self.offset
        if self._tail is None and self._chunks is None:
            try:
                self._tail = Tail(spool.session_directory(self.session.pk), begin)
                self.reader.has_input = True
            except Gone:
                self._chunks = sealed(self.session, begin)
                self.reader.has_input = False
        if self._tail is not None:
            try:
                return self._tail.read(STEP_BYTES)
            except Gone:
                self._tail, self._is_new_here = None, False
                return self._pieces()
        assert self._chunks is not None
        pieces: list[Piece] = []
        size = 0
        for piece in self._chunks:
            pieces.append(piece)
            size += len(piece.payload)
            if size >= STEP_BYTES:
                return pieces
        # What was not sealed yet when we began may be now, or the journal may be back.
        self._chunks, self._is_new_here = None, False
        return pieces

    def step(self) -> bool:
        """Read on; True if anything was there."""
        pieces = [piece for piece in self._pieces() if self._is_new(piece)]
        run: list[tuple[bytes, int, int]] = []
        for piece in pieces:
            if piece.kind == OUTPUT:
                if run and not self.reader.has_input and piece.time_us - run[-1][1] >= REST_US:
                    self._output(run)  # somebody may have typed in between; no record says so
                    run = []
                run.append((piece.payload, piece.time_us, piece.offset))
                self.offset = piece.offset + len(piece.payload)
            elif piece.kind in (INPUT, SIZE) and run:
                self._output(run)
                run = []
            if piece.kind == INPUT:
                self.reader.key(piece.time_us)
            elif piece.kind == SIZE:
                self.reader.size(*size_of(piece.payload))
            elif piece.kind == STATE and not self.started_us:
                state = state_of(piece.payload)
                self.started_us = state.started_us
                self.reader.size(state.cols, state.rows)
            self.read_us = max(self.read_us, piece.time_us)
        if run:
            self._output(run)
        self.is_at_end = not pieces
        if self.is_at_end and self.started_us and self.session.is_live:
            self.reader.settle(int(now().timestamp() * 1e6) - self.started_us)
        return bool(pieces)

    def _is_new(self, piece: Piece) -> bool:
        """Whether it was not read before the place where we went on."""
        if piece.kind == OUTPUT:
            if piece.offset >= self.offset or piece.offset + len(piece.payload) > self.offset:
                return True
            if piece.offset + len(piece.payload) > self._begin:
                skipped = max(0, self._begin - piece.offset)
                self.reader.marks_again(piece.payload[skipped:], piece.offset + skipped)
            return False
        if piece.kind == STATE:
            return not self.started_us
        return piece.offset > self.offset or piece.time_us > self.cursor.read_time_us

    def _output(self, run: list[tuple[bytes, int, int]]) -> None:
        if sum(len(data) for data, _, _ in run) > FLOOD_BYTES:
            self.reader.flood(run)
            return
        for data, time_us, offset in run:
            self.reader.output(data, time_us, offset)

    # Writing

    def save(self, *, is_done: bool = False) -> int:
        """Write what is new, and the place up to which it goes, in one transaction; returns how many rows.

        Raises Overtaken, DatabaseError.
        """
        if is_done:
            self.reader.finish()
        rows, ended = self.reader.take()
        is_due = self.read_us > self.cursor.read_time_us and steady() - self._saved_at > SAVE_SECONDS
        if not (rows or ended or is_done or is_due):
            return 0
        state = {} if is_done else {"started_us": self.started_us, "reader": self.reader.state()}
        with transaction.atomic():
            mine = CommandCursor.objects.filter(
                pk=self.session.pk, output_offset=self.cursor.output_offset, number=self.cursor.number
            )
            if not mine.update(
                output_offset=self.offset,
                number=self.reader.number,
                state=state,
                read_time_us=self.read_us,
                updated_at=now(),
            ):
                raise Overtaken(str(self.session.pk))
            self._write(rows, ended)
            if is_done:
                TerminalSession.objects.filter(pk=self.session.pk).update(commands_done_at=now())
        self.cursor.output_offset, self.cursor.number = self.offset, self.reader.number
        self.cursor.read_time_us = self.read_us
        self._saved_at = steady()
        return len(rows)

    def _write(self, rows: list[Row], ended: list[Ended]) -> None:
        new = {row.number: self._command(row) for row in rows}
        for end in ended:
            if command := new.get(end.number):
                command.ended_at, command.exit_code = self._moment(end.ended_us), end.exit_code
            else:
                Command.objects.filter(session_id=self.session.pk, number=end.number).update(
                    ended_at=self._moment(end.ended_us), exit_code=end.exit_code
                )
        Command.objects.bulk_create(new.values())

    def _command(self, row: Row) -> Command:
        session = self.session
        text = masked(row.text, settings.COMMAND_MASKS)
        return Command(
            session_id=session.pk,
            number=row.number,
            user_id=session.user_id,
            user_name=session.user_name,
            instance_id=session.instance_id,
            instance_name=session.instance_name,
            account_id=session.account_id,
            source=row.source,
            text=text,
            is_cut=row.is_cut,
            is_masked=text != row.text,
            is_disputed=row.is_disputed,
            dispute=row.dispute[:256],
            shown_text=masked(row.shown_text, settings.COMMAND_MASKS),
            started_at=self._moment(row.time_us),
            time_us=row.time_us,
            output_offset=row.offset,
            cwd=row.cwd[:1024],
            os_user=row.os_user[:64],
        )

    def _moment(self, time_us: int) -> datetime:
        started = datetime.fromtimestamp(self.started_us / 1e6, UTC) if self.started_us else self.session.created_at
        return started + timedelta(microseconds=time_us)


class CommandLog:
    """All sessions of this host that are not read to their end."""

    def __init__(self) -> None:
        self._followers: dict[UUID, Follower] = {}
        self._looked_at = -LOOK_SECONDS
        self._not_before: dict[UUID, float] = {}  # of sessions whose recording cannot be read now

    def round(self) -> bool:
        """Read on in every session once; True if there may be more at once."""
        if steady() - self._looked_at >= LOOK_SECONDS:
            self._looked_at = steady()
            self._look()
        is_behind = False
        for follower in list(self._followers.values()):
            try:
                is_behind |= self._read(follower)
            except Overtaken:
                logger.warning("another process writes these commands session=%s", follower.session.pk)
                self._drop(follower)
            except DatabaseError:
                self._drop(follower)  # what it knows is not what is written; it begins from there again
                raise
            except (OSError, ValueError) as error:
                self._unreadable(follower, error)
            except Exception as error:  # the outermost loop of a session: the others go on
                logger.exception("commands cannot be read session=%s", follower.session.pk)
                self._unreadable(follower, error)
        return is_behind

    def close(self) -> None:
        for follower in list(self._followers.values()):
            self._drop(follower)

    def _read(self, follower: Follower) -> bool:
        is_more = follower.step()
        is_done = False
        if not is_more and not follower.session.is_live:
            is_done = self._is_over(follower)
        rows = follower.save(is_done=is_done)
        if rows:
            logger.debug("commands written session=%s rows=%d", follower.session.pk, rows)
        if is_done:
            logger.info("commands done session=%s commands=%d", follower.session.pk, follower.reader.number)
            self._drop(follower)
        return is_more

    def _unreadable(self, follower: Follower, error: Exception) -> None:
        """A chunk is nowhere, or damaged, or not understood; it may come back, and after hours what there is has to do.

        Raises DatabaseError.
        """
        session = follower.session
        if session.is_live or now() - (session.ended_at or session.created_at) < GIVEN_UP_AFTER:
            logger.warning("a recording cannot be read for its commands session=%s: %s", session.pk, error)
            self._put_off(follower)
            return
        logger.error("commands are read as far as the recording goes session=%s: %s", session.pk, error)
        self._drop(follower)
        try:
            follower.save(is_done=True)
        except DatabaseError:
            raise
        except Overtaken:
            logger.warning("another process writes these commands session=%s", session.pk)
        except Exception:  # what it was read to is written; nobody waits for the rest of it for ever
            logger.exception("the rest of the commands is left out session=%s", session.pk)
            TerminalSession.objects.filter(pk=session.pk).update(commands_done_at=now())

    def _put_off(self, follower: Follower) -> None:
        self._not_before[follower.session.pk] = steady() + AGAIN_SECONDS
        self._drop(follower)

    def _is_over(self, follower: Follower) -> bool:
        """Whether no more can come of an ended session."""
        session = follower.session
        if session.sealed_at is not None or not session.owner_host:
            return True
        ended_at = session.ended_at or session.created_at
        return session.owner_host != spool.host_name() and now() - ended_at > FOREIGN_AFTER

    def _look(self) -> None:
        """Find sessions that are to be followed, and how those that are stand now."""
        here = spool.host_name()
        due = TerminalSession.objects.filter(commands_done_at=None).exclude(state=SessionState.OPENING)
        # A forward shows nothing, and a command is told by its session.
        ended = due.filter(state__in=[SessionState.ENDED, SessionState.FAILED])
        if (others := ended.exclude(kind=SessionKind.SHELL)).exists():
            others.update(commands_done_at=now())
        is_ours = Q(owner_host=here) | Q(owner_host="") | Q(ended_at__lt=now() - FOREIGN_AFTER)
        mine = due.filter(is_ours, kind=SessionKind.SHELL)
        found = {session.pk: session for session in mine.filter(state=SessionState.OPEN)}
        for session in islice(mine.exclude(state=SessionState.OPEN).order_by("-id"), max(0, AT_ONCE - len(found))):
            found[session.pk] = session
        for pk, follower in list(self._followers.items()):
            if pk not in found:
                self._drop(follower)
        for pk, session in found.items():
            if follower := self._followers.get(pk):
                follower.session = session
            elif steady() >= self._not_before.get(pk, 0):
                self._not_before.pop(pk, None)
                self._followers[pk] = Follower(session)

    def _drop(self, follower: Follower) -> None:
        follower.close()
        self._followers.pop(follower.session.pk, None)


@contextlib.contextmanager
def alone(directory: Path, stop: threading.Event) -> Iterator[bool]:
    """Hold this spool's command log for this process; False if we are to stop before another gives it free."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (directory / ".commandlog.lock").open("a") as file:
        is_told = False
        while not stop.is_set():
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not is_told:
                    logger.info("another process keeps this host's command log; waiting for it to end")
                    is_told = True
                stop.wait(1.0)
                pulse()
                continue
            yield True
            return
        yield False


def pulse() -> None:
    """Say that this process is alive, if FLEETOPS_PULSE_FILE names where."""
    if settings.PULSE_FILE:
        with contextlib.suppress(OSError):
            Path(settings.PULSE_FILE).touch()


def run(on_ready: Callable[[], None] = lambda: None) -> None:
    """Follow until SIGTERM or SIGINT."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    stand_back()
    presence = Presence("commandlog")
    on_ready()
    with alone(settings.SPOOL_DIR, stop) as is_ours:
        log = CommandLog()
        while is_ours and not stop.is_set():
            is_behind = False
            try:
                is_behind = log.round()
            except DatabaseError:
                logger.exception("the database does not take commands; trying again")
                close_old_connections()
                stop.wait(1.0)
            pulse()
            presence.tell()
            if not is_behind:
                stop.wait(ROUND_SECONDS)
        log.close()
    presence.end()
