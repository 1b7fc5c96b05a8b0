"""The owner of one session: holds its data channel, keeps its journal, and knows who is reading.

What comes from the agent is appended to the journal before it is acknowledged, and what readers see they read there, so
nothing that anybody saw is lost with this process. What goes to the agent is numbered in the journal, never written
there, before it is sent. A new owner goes on from those numbers.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

import orjson
from django.conf import settings
from django.db import DatabaseError

from fleetops import metrics
from fleetops.aws.clients import AccountAccess
from fleetops.aws.errors import AccessDenied, AwsError, TargetNotConnected, Unavailable
from fleetops.clock import is_shifted, now, steady
from fleetops.errors import UserError
from fleetops.web.context import RequestContext, current
from fleetops.wire import (
    Acknowledged,
    ChallengeReceived,
    ChannelClosed,
    DataChannel,
    HandshakeCompleted,
    HandshakeRequested,
    OutputReceived,
    RemoteProtocolError,
    RetransmissionGaveUp,
    Role,
    State,
    payloads,
)

from . import grants, live, services, streams
from .carried import STREAM_ENDS, carried, write_facts
from .encryption import Encryption
from .journal import Journal, JournalFull
from .models import TerminalSession
from .recording import Sealer
from .services import LateOwner
from .states import Door, SessionKind, SessionState
from .streams import Stream
from .strict import StrictInput
from .threads import Threads
from .upstream import CLIENT_VERSION, Upstream, UpstreamLost, dial

if TYPE_CHECKING:
    from .frontdoor.channel import ClientEnd
    from .transfers.engine import TransferEnd

logger = logging.getLogger(__name__)

# Keystrokes that wait for the channel to open or for acknowledges, all browsers together; then browsers are not read.
PENDING_BYTES = 256 * 1024
# Of them, what may be on its way: more would only wait in the agent's queue, in front of a Ctrl-C.
UNDER_WAY_BYTES = 128 * 1024
RESUME_DELAYS = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)  # seconds before each try; the last is repeated
RECONNECT_SECONDS = 300  # then the session ends in words
STEADY_SECONDS = 5.0  # a websocket that lived so long was a good one: delays begin anew
MAX_PROTOCOL_ERRORS = 3  # of the gateway in one session; it is then no gateway
FULL_RETRY_SECONDS = 0.2
SEAL_APART_SECONDS = 0.25
TERMINATE_DELAYS = (1.0, 2.0, 4.0, 8.0)  # seconds between tries; then it is the worker's, see upkeep.confirm_ends
END_SECONDS = 2.0  # until browsers are told of an end that the database has not taken yet
END_RETRY_SECONDS = 2.0
CLIENT_AWAY_SECONDS = 120  # a plugin that lost its websocket gives up in less
MAX_COLS, MAX_ROWS = 1000, 500
DATABASE_AWAY = "The database does not answer; what you type waits."

_BYTES_IN, _BYTES_OUT = metrics.TERMINAL_BYTES.labels("in"), metrics.TERMINAL_BYTES.labels("out")


def _steady_end(deadline: datetime | None) -> float:
    """When a grant ends by the clock that nobody sets: it lasts no longer, however the system's own is set meanwhile.

    A shifted clock goes at a rate of its own; then that one alone counts.
    """
    return math.inf if deadline is None or is_shifted() else steady() + (deadline - now()).total_seconds()


class Over(Exception):
    """The session ends, for this reason and of this kind. `terminate`: AWS does not know it yet, or may not."""

    def __init__(self, reason: str, *, terminate: bool = True, kind: str = "other") -> None:
        super().__init__(reason)
        self.reason = reason
        self.terminate = terminate
        self.kind = kind  # as fleetops_terminal_sessions_ended_total counts it


class Listener(Protocol):
    """A reader, as its proxy sees it. Neither call may wait."""

    seen: int  # all output before this offset is on its screen

    def wake(self) -> None:
        """The journal has grown, or the session is over."""

    def tell(self, message: dict[str, Any]) -> None:
        """A control message for the browser; a later one of the same type may take its place."""


class Proxy:
    """One session in the process that owns it."""

    def __init__(
        self,
        session: TerminalSession,
        journal: Journal,
        sealer: Sealer,
        *,
        threads: Threads,
        on_gone: Callable[[Proxy], None],
        is_new: bool,
    ) -> None:
        self.session = session
        self.journal = journal
        self.sealer = sealer
        self.listeners: set[Listener] = set()
        self.status = "opening" if is_new else "reconnecting"  # then open; ended
        self.status_text = "Starting the session" if is_new else "Getting the session back"
        self.end_reason = ""
        self._is_new = is_new
        self.threads = threads
        self._on_gone = on_gone
        self._client_id = uuid4()
        self._loop = asyncio.get_running_loop()
        state = journal.state
        self.cols, self.rows = state.cols, state.rows
        self.exit_code: int | None = None  # of a command, once it is known
        self.client: ClientEnd | None = None  # the plugin, or `fleetops connect`, that has or had the session
        self.strict: StrictInput | None = None  # where each line has to be in CloudWatch Logs first
        self.transfer: TransferEnd | None = None  # of a session that carries a file, which takes its output
        self.carried = carried(self, journal)  # what a command or a forward has that a shell has not
        self._is_forward = session.kind == SessionKind.FORWARD
        self.channel = self._new_channel(self.carried and self.carried.channel_state())
        # Numbers that the owner before us may have used and never sent: the agent would wait for them for ever.
        # Now, before anything is typed that takes the next ones.
        if not self._is_forward:  # whose client has them still
            unsure = range(state.acknowledged + 1, state.input_sequence + 1)
            self.channel.fill(unsure, self.cols, self.rows, now=steady())
        self._upstream: Upstream | None = None
        self._lost: asyncio.Event = asyncio.Event()
        self._pending = bytearray()  # keystrokes
        self._room = asyncio.Event()
        self._room.set()
        self._size_is_due = not self._is_forward  # the agent does not know the size yet
        self._is_storing_size = False
        self._unwritten: list[tuple[bytes, int]] = []  # output that found the journal full; upstream is paused
        self._held_back: list[bytes] = []  # acknowledges of it
        self._is_retrying = False
        self._is_held_back = False
        self._holds: dict[str, None] = {}  # why keystrokes wait, in words
        self._flush_is_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._protocol_errors = 0
        self._over: Over | None = None
        self._access: AccountAccess | None = None  # known once AWS has answered
        self._is_confirmed = False  # AWS knows of the end
        self._end_is_written = asyncio.Event()
        self._is_starting = False
        self._is_let_go = False
        self.task: asyncio.Task[None] | None = None
        self._live: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[Any]] = set()
        moment = self._loop.time()
        self._ends_by = _steady_end(session.deadline_at)
        self.active_at = moment  # last input or output
        self.detached_at: float | None = moment  # since when no browser is here
        self.sealed_at = moment
        self.unsealed_since: float | None = moment if self.sealer.offset < journal.end else None
        self._sealing: asyncio.Task[None] | None = None
        self._told_recorded_at = 0.0
        journal.sealed = self._droppable()
        self._people_due: list[dict[str, Any]] = []
        self._is_storing_people = False
        self.encryption = Encryption(self)
        self.people = live.People(self, tell=self._tell, keep=self._keep_people)
        self.deadlines = live.Deadlines(self, tell=self._tell)

    def _new_channel(self, state_now: State | None = None) -> DataChannel:
        """A channel that goes on from the journal's numbers; `state_now` where they do not tell how far it has come."""
        state = self.journal.state
        return DataChannel(
            Role.CLIENT,
            new_id=uuid4,
            session_id=self.session.ssm_session_id,
            next_sequence=self.carried.next_sequence if self.carried else state.input_sequence + 1,
            expected_sequence=state.output_sequence + 1,
            state=state_now,
            acknowledge_stored=False,
        )

    def run(self) -> None:
        """Begin."""
        # What it does later is not the doing of the browser that happened to attach first.
        context = contextvars.copy_context()
        about = RequestContext(
            # The session's own id: CloudTrail's StartSession bears it in its userAgent.
            self.session.pk.hex,
            self.session.source_address,
            "terminal",
            user=str(self.session.user_id),
            session=str(self.session.pk),
        )
        context.run(current.set, about)
        self.task = self._loop.create_task(self._run(), name=f"proxy {self.session.pk}", context=context)

    # For readers

    @property
    def is_over(self) -> bool:
        return self.status == "ended"

    @property
    def is_embedded(self) -> bool:
        """Its instance is behind an endpoint of ours."""
        return self._access is not None and bool(self._access.endpoint_url)

    @property
    def is_finishing(self) -> bool:
        """Its end has begun."""
        return self._over is not None

    def lag(self) -> int:
        """Bytes of output that the reader furthest behind has not shown."""
        end = self.journal.output_end
        return max((end - listener.seen for listener in list(self.listeners)), default=0)

    def add(self, listener: Listener, who: live.Person | None = None) -> None:
        """Let somebody read; without `who` it is the session's own user."""
        self.listeners.add(listener)
        # Who types is told first: their echo does not wait for watchers.
        watches = who is not None and who.mode == live.WATCH
        self.journal.listeners.insert(len(self.listeners) if watches else 0, listener.wake)
        self.detached_at = None
        self.people.came(listener, who)
        self.deadlines.tell()

    def remove(self, listener: Listener) -> None:
        self.listeners.discard(listener)
        if listener.wake in self.journal.listeners:
            self.journal.listeners.remove(listener.wake)
        if not self.listeners:
            self.detached_at = self._loop.time()
        self.people.went(listener)

    def _keep_people(self, people: list[dict[str, Any]]) -> None:
        self._people_due = people
        if not self._is_storing_people:
            self._is_storing_people = True
            self.spawn(self._store_people())

    async def _store_people(self) -> None:
        """Keep who is there in the row, one write at a time."""
        try:
            stored = None
            while stored is not self._people_due:
                stored = self._people_due
                await self.threads.database(live.keep_people, self.session.pk, stored)
        except DatabaseError as error:
            logger.warning("who is there could not be kept session=%s: %s", self.session.pk, error)
        finally:
            self._is_storing_people = False

    def _tell(self, message: dict[str, Any]) -> None:
        for listener in self.listeners:
            listener.tell(message)

    def _set_status(self, status: str, text: str) -> None:
        self.status, self.status_text = status, text
        self._tell({"type": "status", "state": status, "text": text})

    def note(self, kind: str, text: str, **facts: Any) -> None:
        """Record, and tell everybody who is there, what happened to the session besides its output, in words."""
        note = {"type": kind, "text": text, **facts}
        try:
            self.journal.append_note(orjson.dumps(note))
            self._is_unsealed()
        except JournalFull:
            logger.warning("a note found no room session=%s type=%s", self.session.pk, kind)
        self._tell({"type": "note", "note": note})

    # What people do

    async def type(self, data: bytes) -> None:
        """Send keystrokes; waits while too many of them wait already, or an Enter is held."""
        if self._is_forward or self._is_unwatched:
            return  # of a forward: they would stand in the midst of its connections
        await (self.type_now(data) if self.strict is None else self.strict.type(data))

    @property
    def _is_unwatched(self) -> bool:
        """What is typed is thrown away: it would all be done in the moment in which a moderator comes."""
        return live.NO_MODERATOR in self._holds

    async def type_now(self, data: bytes) -> None:
        """Send keystrokes; waits only while too many of them wait already."""
        while len(self._pending) >= PENDING_BYTES and self._over is None:
            self._room.clear()
            await self._room.wait()
        if self._over is None and not self._is_let_go and not self._is_unwatched:
            self.active_at = self._loop.time()
            self._pending += data
            self._send_pending()

    def send_last(self, data: bytes) -> bool:
        """Send this in the place of all that waits, though the session is ending; whether it could be."""
        self._pending.clear()
        if self.channel.state is not State.OPEN or self._upstream is None:
            return False
        try:
            self._note_input(self.channel.send_input(data, now=steady())[-1])
        except JournalFull:
            return False
        self._flush()
        return True

    def resize(self, cols: int, rows: int) -> None:
        """Set the terminal's size; the last one wins."""
        if self._over is not None or self._is_let_go or self._is_forward or (cols, rows) == (self.cols, self.rows):
            return
        self.cols, self.rows = cols, rows
        self._size_is_due = True
        if not self.can_send:
            self._note_size(-1)
        self._send_pending()
        if not self._is_storing_size:
            self._is_storing_size = True
            self.spawn(self._store_size())

    def hold_input(self, is_held: bool, why: str = DATABASE_AWAY) -> None:
        """Let keystrokes wait here for as long as `why` holds, or another reason does."""
        if is_held == (why in self._holds):
            return
        if is_held:
            self._holds[why] = None
            if self._is_unwatched:
                self._pending.clear()
                self._room.set()
        else:
            del self._holds[why]
        if self.status == "open":
            self._set_status("open", " ".join(self._holds))
        self._send_pending()

    async def _store_size(self) -> None:
        """Keep the size in the row: one write at a time, however fast a window is dragged."""
        try:
            stored = None
            while stored != (self.cols, self.rows):
                stored = (self.cols, self.rows)
                await self.threads.database(services.resize, self.session.pk, *stored)
        finally:
            self._is_storing_size = False

    def nudge(self) -> None:
        """Make full-screen programs draw themselves anew: a size that differs by a row, then the right one."""
        if self._over is None and self.can_send and self.rows > 1 and not self._is_forward:
            self._send_size(self.cols, self.rows - 1)
            self._loop.call_later(0.1, self._unnudge)

    def _droppable(self) -> int:
        """Up to where in the journal nobody needs it any more: it is sealed, and its client has it."""
        return self.sealer.offset if self.carried is None else self.carried.droppable(self.sealer.offset)

    def flush_soon(self) -> None:
        """Send what the channel has been given past `type`."""
        self.active_at = self._loop.time()
        if not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)

    def _unnudge(self) -> None:
        self._size_is_due = True
        self._send_pending()

    def end(self, reason: str, *, terminate: bool = True, kind: str = "other") -> None:
        """End the session; again it does nothing."""
        if self._over is None and not self._is_let_go:
            self._over = Over(reason, terminate=terminate, kind=kind)
            self._room.set()
            if self._live is not None and not self._is_starting:
                self._live.cancel()

    def let_go(self) -> None:
        """Another process owns the session, or will: stop without a word to AWS or to the database."""
        if not self._is_let_go:
            self._is_let_go = True
            self._room.set()
            if self.task is not None:
                self.task.cancel()

    # Sending

    @property
    def has_sent_all(self) -> bool:
        """Whether the agent has acknowledged all that was typed."""
        return not self._pending and not self.channel.unacknowledged_bytes

    @property
    def can_send(self) -> bool:
        """Whether the agent may be sent more now."""
        return (
            self.channel.state is State.OPEN and self.channel.unacknowledged_bytes < UNDER_WAY_BYTES and not self._holds
        )

    def _send_pending(self) -> None:
        """Send the size if it is due, then what was typed, as far as the channel takes it."""
        if not self.can_send or self._over is not None:
            return
        try:
            if self._size_is_due:
                self._size_is_due = False
                self._note_size(self.channel.send_size(self.cols, self.rows, now=steady()))
            room = min(self.channel.window_left, UNDER_WAY_BYTES)
            # Nothing is typed into a stream that has not begun: it may want to be encrypted first.
            if self._pending and room and self.channel.expected_sequence:
                data = bytes(self._pending[:room])
                del self._pending[:room]
                numbers = self.channel.send_input(data, now=steady())
                _BYTES_IN.inc(len(data))
                self._note_input(numbers[-1])
        except JournalFull:
            self._journal_is_full()
        if len(self._pending) < PENDING_BYTES and not self._room.is_set():
            self._room.set()
        self._flush()

    def _send_size(self, cols: int, rows: int) -> None:
        """Send a size that is no news to readers."""
        try:
            self._note_input(self.channel.send_size(cols, rows, now=steady()))
        except JournalFull:
            self._journal_is_full()
        self._flush()

    def _note_input(self, sequence: int) -> None:
        self.journal.append_input(sequence, self.channel.acknowledged_through)

    def _note_size(self, sequence: int) -> None:
        self.journal.append_size(self.cols, self.rows, sequence, self.channel.acknowledged_through)
        self._is_unsealed()

    def _flush(self) -> None:
        """Hand what the channel wants to send to the socket, and see that it wakes us for repeats."""
        self._flush_is_due = False
        if frames := self.channel.data_to_send():
            if self._unwritten:
                # Acknowledges among them speak of output that is not in the journal yet.
                self._held_back += frames
            elif self._upstream is not None:
                self._upstream.send(frames)
        if self._timer is None and (at := self.channel.next_timeout()) is not None:
            self._timer = self._loop.call_later(max(0.02, at - steady()), self._repeat)

    def _repeat(self) -> None:
        self._timer = None
        if self._upstream is None or self._is_let_go:
            return
        self.channel.handle_timeout(now=steady())
        self._happen()

    # Receiving

    def _receive(self, messages: list[bytes]) -> None:
        """Take what one read of the socket brought."""
        error = self._take(messages)
        if error is not None and self.channel.expected_sequence == 0 and self.channel.state is State.OPEN:
            # It wants a handshake after all; what was sent before, a size, has a number all the same.
            unsure = range(self.channel.acknowledged_through + 1, self.channel.next_sequence)
            self.channel = self._new_channel(State.NEW)
            self.channel.fill(unsure, self.cols, self.rows, now=steady())
            error = self._take(messages)
        self._happen()
        if error is not None:
            self._protocol_errors += 1
            logger.warning("the gateway broke the protocol session=%s: %s", self.session.pk, error)
            if self._protocol_errors >= MAX_PROTOCOL_ERRORS:
                self.end("The gateway of this session does not speak the Session Manager protocol.")
            elif self._upstream is not None:
                self._drop_upstream()

    def _take(self, messages: list[bytes]) -> RemoteProtocolError | None:
        moment, receive = steady(), self.channel.receive
        try:
            for message in messages:
                receive(message, now=moment)
        except RemoteProtocolError as error:
            return error
        return None

    def _happen(self) -> None:
        """Let what the channel learned happen: journal first, then acknowledges, then readers."""
        channel = self.channel
        outputs: list[tuple[bytes, int]] = []
        closed: ChannelClosed | None = None
        is_acknowledged = False
        for event in channel.events():
            if self.carried is not None:
                outputs += self.carried.take(event)
            elif isinstance(event, OutputReceived) and self.transfer is not None:
                self.transfer.take(event.data)
                self.active_at = self._loop.time()
            elif isinstance(event, OutputReceived):
                outputs.append((event.data, event.sequence))
            if isinstance(event, Acknowledged):
                is_acknowledged = True
            elif isinstance(event, HandshakeRequested):
                if self.carried is None or not self.carried.waits_for_client:
                    self.answer(event.request)
            elif isinstance(event, ChallengeReceived):
                self._note_handshake(channel.answer_challenge(event.challenge, now=steady()))
            elif isinstance(event, HandshakeCompleted):
                self._size_is_due = not self._is_forward  # one that came before it was dropped
                if event.customer_message:
                    self._tell({"type": "status", "state": "open", "text": event.customer_message})
            elif isinstance(event, ChannelClosed):
                closed = event
            elif isinstance(event, RetransmissionGaveUp):
                self._drop_upstream()
        if outputs:
            self.active_at = self._loop.time()
            self._is_unsealed()
            self._unwritten += outputs
            _BYTES_OUT.inc(sum(len(data) for data, _ in outputs))
        self._write_down()
        if self.carried is not None:
            self.carried.acknowledged(channel.acknowledged_through)
            self.carried.measure(self.client)
        if ((is_acknowledged or outputs) and self._pending) or self._size_is_due:
            self._send_pending()
        if not self._flush_is_due:
            # Readers were woken just now, and come first: an echo does not wait until its acknowledge is encrypted.
            self._flush_is_due = True
            self._loop.call_soon(self._flush)
        if closed is not None:
            text = closed.output.strip() or STREAM_ENDS[SessionKind(self.session.kind)]
            self.end(text, terminate=False, kind="shell")

    def _write_down(self) -> None:
        """Append what was received; on a full journal read no more until there is room."""
        try:
            if self._unwritten:
                self.journal.append_output(self._unwritten)
                self._unwritten = []
            received = self.channel.expected_sequence - 1
            if received > self.journal.state.output_sequence:
                self.journal.append_mark(received)
        except JournalFull:
            self._journal_is_full()

    def _journal_is_full(self) -> None:
        """There is no room to write: let TCP hold the agent back, and try again soon."""
        if self._upstream is not None:
            self._upstream.pause()
        if not self._is_retrying:
            self._is_retrying = True
            self._say_full()
            self._loop.call_later(FULL_RETRY_SECONDS, self._retry_writing)

    def _retry_writing(self) -> None:
        self._is_retrying = False
        if self._is_let_go or self._over is not None:
            return
        self._write_down()
        if self._unwritten:
            return
        frames, self._held_back = self._held_back, []
        if self._upstream is not None:
            self._upstream.send(frames)
        self._say_not_full()
        self._writable()
        self._send_pending()

    def _writable(self) -> None:
        """Read upstream again, if nothing else holds it back."""
        is_held = self._is_held_back or (self.carried is not None and self.carried.is_behind)
        if self._upstream is not None and self._upstream.can_write and not self._unwritten and not is_held:
            self._upstream.resume()

    def pause_reading(self, is_paused: bool) -> None:
        """Read nothing from the agent while the client of a forward is too far behind."""
        if not is_paused:
            self._writable()
        elif self._upstream is not None:
            self._upstream.pause()

    def hold_back(self, is_full: bool) -> None:
        """Read nothing from the agent while the spool is over its quota."""
        if is_full == self._is_held_back:
            return
        self._is_held_back = is_full
        if is_full:
            if self._upstream is not None:
                self._upstream.pause()
            self._say_full()
        else:
            self._say_not_full()
            self._writable()

    def _say_full(self) -> None:
        if self.status == "open":
            self._set_status("open", "Paused: the spool is full. Output goes on when recordings have been stored.")
            logger.warning("the spool is full session=%s", self.session.pk)

    def _say_not_full(self) -> None:
        if self.status == "open":
            self._set_status("open", " ".join(self._holds))

    def answer(self, request: payloads.HandshakeRequest) -> None:
        """Answer the agent's handshake; of a command by the front door, once its client is there."""
        if request.session_type == "Port":
            self.end("This document forwards a port. FleetOps forwards by AWS's own documents alone.")
        elif request.kms_key_id:
            self.spawn(self.encryption.agree(request, client_version=CLIENT_VERSION))
        else:
            self.respond(payloads.answer_handshake(request, client_version=CLIENT_VERSION))

    def respond(self, response: payloads.HandshakeResponse) -> None:
        """Send an answer to the agent's handshake."""
        self._note_handshake(self.channel.respond_handshake(response, now=steady()))
        self._flush()

    def _note_handshake(self, sequence: int) -> None:
        try:
            self._note_input(sequence)
        except JournalFull:
            self._journal_is_full()

    def _is_unsealed(self) -> None:
        if self.unsealed_since is None:
            self.unsealed_since = self._loop.time()

    # The upstream websocket

    def _upstream_lost(self, upstream: Upstream, reason: str) -> None:
        if upstream is self._upstream:
            self._upstream = None
            self._lost.set()
            logger.info("data channel lost session=%s: %s", self.session.pk, reason)

    def _drop_upstream(self) -> None:
        if self._upstream is not None:
            self._upstream.close()
            self._upstream = None
            self._lost.set()

    async def _run(self) -> None:
        """Live until the session is over, or somebody else's."""
        try:
            self._live = self._loop.create_task(self._hold())
            try:
                await self._live
            except asyncio.CancelledError:
                if self._over is None:
                    raise
            except Over as over:
                self._over = self._over or over
            except LateOwner:
                logger.info("another process owns the session session=%s", self.session.pk)
                return
            except Exception:  # the outermost loop of a session: its people are told, and the others live on
                logger.exception("the session's proxy failed session=%s", self.session.pk)
                self._over = self._over or Over("FleetOps met a fault of its own; it is in the log.")
            await self._finish(self._over or Over("The session is over."))
        except LateOwner:
            logger.info("another process owns the session session=%s", self.session.pk)
        finally:
            self._stop()

    def _stop(self) -> None:
        """Leave nothing behind; the journal's lock is free afterwards."""
        self._is_let_go = True
        self._end_is_written.set()
        if self._live is not None:
            self._live.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._drop_upstream()
        self._room.set()
        if self.carried is not None:
            self.carried.ended()
        self.journal.close()
        for listener in list(self.listeners):
            listener.wake()
        self._on_gone(self)

    @property
    def is_let_go(self) -> bool:
        return self._is_let_go

    async def _hold(self) -> None:
        """Hold a websocket towards the agent for as long as the session lives. Ends by Over or LateOwner."""
        if self._is_new:
            stream: Stream | None = await self._start()
        else:
            await self._take_over()
            stream = None
        failures, failing_since = 0, None
        while True:
            if self._over is not None:
                raise self._over
            if stream is None:
                moment = self._loop.time()
                failing_since = failing_since or moment
                if moment - failing_since > RECONNECT_SECONDS:
                    raise Over(f"The instance could not be reached again for {RECONNECT_SECONDS // 60} minutes.")
                await asyncio.sleep(RESUME_DELAYS[min(failures, len(RESUME_DELAYS) - 1)])
                failures += 1
                stream = await self._resume()
                if stream is None:
                    continue
            opened_at = await self._connect(stream)
            stream = None
            if opened_at is None:
                continue
            await self._lost.wait()
            if self._loop.time() - opened_at > STEADY_SECONDS:
                failures, failing_since = 0, None
            self._set_status("reconnecting", "The connection to the instance was lost; getting it back")

    async def _connect(self, stream: Stream) -> float | None:
        """Open the websocket; returns when it was open, None if it could not be."""
        self._lost.clear()
        try:
            upstream = await dial(
                stream.url,
                stream.token,
                ca_pem=stream.access.ca_pem,
                client_id=self._client_id,
                on_messages=self._receive,
                on_lost=self._upstream_lost,
                on_writable=self._writable,
            )
        except UpstreamLost as error:
            logger.warning("the data channel did not open session=%s: %s", self.session.pk, error)
            return None
        if self._is_let_go:
            upstream.close()
            return None
        self._upstream = upstream
        self.channel.reconnected(now=steady())
        self._send_pending()
        self._flush()
        if self._unwritten or self._is_held_back or (self.carried is not None and self.carried.is_behind):
            upstream.pause()
        self._set_status("open", " ".join(self._holds))
        return self._loop.time()

    async def _start(self) -> Stream:
        """Call StartSession, once. Raises Over, LateOwner."""
        session = self.session
        # From here to the row that knows AWS's id nothing may stop us, or a shell would run that nobody knows of.
        self._is_starting = True
        try:
            stream = await self.threads.aws(streams.start, session)
            session.ssm_session_id = stream.session_id
            metrics.TERMINAL_OPENED.inc()
            if settings.MESSAGE_OF_THE_DAY:
                self.note("motd", settings.MESSAGE_OF_THE_DAY)
            self._access = stream.access
            # A shell without a handshake takes its size before its first prompt, which then has the right width.
            is_open = stream.is_embedded and self.carried is None
            self.channel = self._new_channel(State.OPEN if is_open else None)
            try:
                await self.threads.database(services.started, session, ssm_session_id=stream.session_id)
            except LateOwner:
                self.spawn(self._terminate())
                raise
        except DatabaseError:
            logger.exception("a start could not be written session=%s", session.pk)
            raise Over("FleetOps's database does not answer, so the session was not begun. Connect again.") from None
        except UserError as error:
            is_unknown = isinstance(error, Unavailable) and error.is_outcome_unknown
            raise Over(str(error), terminate=is_unknown) from error
        finally:
            self._is_starting = False
        return stream

    async def _take_over(self) -> None:
        """Prepare to go on where another owner stopped. Raises Over, LateOwner."""
        session = self.session
        if session.state == SessionState.OPENING:
            # Whether StartSession had been called, and what it answered, died with the owner.
            raise Over("FleetOps was stopped while the session was being started. Connect again.")
        if self.journal.is_new:
            raise Over("The journal of this session is lost, so it cannot go on. What was recorded is kept.")
        try:
            await self.threads.database(services.resumed, session)
            await self.encryption.regain()
        except UserError as error:
            raise Over(str(error)) from None

    async def _resume(self) -> Stream | None:
        """Call ResumeSession; None if it should be tried again. Raises Over once AWS says that it is gone."""
        try:
            stream = await self.threads.aws(streams.resume, self.session)
            self._access = stream.access
            return stream
        except DatabaseError as error:
            logger.warning("the database does not answer session=%s: %s", self.session.pk, error)
            return None
        except Unavailable as error:
            logger.warning("ResumeSession failed session=%s: %s", self.session.pk, error)
            return None
        except TargetNotConnected:
            return None  # the agent may come back
        except AccessDenied as error:
            raise Over(str(error)) from None
        except AwsError as error:
            logger.info("ResumeSession was refused session=%s code=%s", self.session.pk, error.code)
            raise Over("AWS has ended the session.", terminate=False) from None
        except UserError as error:
            raise Over(str(error), terminate=False) from None

    # The end

    async def _finish(self, over: Over) -> None:
        """Seal the rest, write the end down, and tell everybody. Raises LateOwner."""
        self._over = over
        if self.transfer is not None:
            await self.transfer.leave(over.reason)
        self._drop_upstream()
        if over.terminate:
            self.spawn(self._terminate())
        writing = self._loop.create_task(self._write_end(over))
        try:
            # Who is told finds the end in the database, unless that is away: then it is told all the same.
            await asyncio.wait({writing}, timeout=END_SECONDS)
            self.end_reason = over.reason
            self.status = "ended"
            metrics.TERMINAL_ENDED.labels(over.kind).inc()
            for listener in list(self.listeners):
                listener.wake()
            await writing
        finally:  # let go of in its midst: the next owner ends the session
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    async def _write_end(self, over: Over) -> None:
        """Seal the rest and write the end, however long the database takes to come back. Raises LateOwner."""
        session = self.session
        while True:
            try:
                if self.carried is not None:
                    facts = self.carried.facts(self.exit_code)
                    await self.threads.database(write_facts, session.pk, facts)
                await self.threads.database(
                    services.ended,
                    session,
                    reason=over.reason,
                    sealed=await self._seal_rest(),
                    is_unconfirmed=over.terminate and not self._is_confirmed,
                )
            except DatabaseError as error:
                logger.warning("the end could not be written yet session=%s: %s", session.pk, error)
                await asyncio.sleep(END_RETRY_SECONDS)
            else:
                self._end_is_written.set()
                return

    async def _seal_rest(self) -> bool:
        """Seal what is left; False if the disk does not take it. Raises LateOwner, DatabaseError."""
        if self._sealing is not None:
            await asyncio.wait([self._sealing])
        try:
            while self.sealer.offset < self.journal.end:
                await self.threads.sealing(self.sealer.seal, self.journal.end)
        except OSError:
            logger.exception("the last chunk could not be sealed session=%s", self.session.pk)
            return False
        return True

    async def _terminate(self) -> None:
        """Tell AWS of the end; what it does not confirm in a quarter of a minute is left to the worker."""
        for delay in (*TERMINATE_DELAYS, None):
            try:
                self._is_confirmed = await self.threads.aws(streams.terminate, self.session, self._access)
                break
            except (Unavailable, DatabaseError) as error:
                logger.warning("TerminateSession failed session=%s: %s", self.session.pk, error)
            except UserError as error:
                logger.warning("TerminateSession was refused session=%s: %s", self.session.pk, error)
                break
            if delay is not None:
                await asyncio.sleep(delay)
        if self._is_confirmed:
            await self._end_is_written.wait()
            await self.threads.database(services.end_confirmed, self.session.pk)

    def spawn(self, coroutine) -> None:
        """Run this beside, for as long as it takes."""
        task = self._loop.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._spawned)

    def _spawned(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("background work failed session=%s", self.session.pk, exc_info=error)

    # Once in a while

    def check_limits(self) -> None:
        """End the session if it idled, lasted or lay alone for too long. Called each second."""
        moment = self._loop.time()
        if self.status != "open":
            return
        self.deadlines.look()
        if moment - self.active_at > settings.SESSION_IDLE_SECONDS:
            self.end(f"Ended after {in_words(settings.SESSION_IDLE_SECONDS)} without input or output.", kind="idle")
        elif self.detached_at is not None and moment - self.detached_at > self._longest_detached():
            what = "browser" if self.session.door == Door.BROWSER else "client"
            self.end(f"Ended after {in_words(self._longest_detached())} without a {what}.", kind="detached")
        elif (
            self.session.started_at is not None
            and (now() - self.session.started_at).total_seconds() > settings.SESSION_LONGEST_SECONDS
        ):
            self.end(f"Ended: a session lasts at most {in_words(settings.SESSION_LONGEST_SECONDS)}.", kind="longest")

    def _longest_detached(self) -> float:
        """Seconds. A shell can be gone on with in a browser; nobody else can take up a forward or a command."""
        longest: float = settings.SESSION_DETACHED_SECONDS
        return longest if self.carried is None else min(longest, CLIENT_AWAY_SECONDS)

    def put_off(self, deadline_at: datetime | None) -> None:
        """Another grant of its user has begun, and the session goes on by it."""
        self.session.deadline_at = deadline_at
        self._ends_by = _steady_end(deadline_at)

    def check_deadline(self) -> None:
        """End the session with its grant. Called four times a second; it asks nobody, so nothing can keep it."""
        deadline = self.session.deadline_at
        if deadline is not None and (now() >= deadline or steady() >= self._ends_by):
            self.end(f"Ended: {grants.at_its_end(deadline)}.", kind="grant")

    def seal_if_due(self) -> None:
        """Seal a chunk if there is enough, or for long enough. Called four times a second."""
        if self.unsealed_since is None or self._sealing is not None or self._over is not None or self._is_let_go:
            return
        moment = self._loop.time()
        waiting = self.journal.end - self.sealer.offset
        if waiting >= settings.SEAL_BYTES or moment - self.unsealed_since >= settings.SEAL_SECONDS:
            self.sealed_at = moment
            self._sealing = self._loop.create_task(self._seal())

    async def _seal(self) -> None:
        end = self.journal.end
        self.unsealed_since = None
        try:
            await self.threads.sealing(self.sealer.seal, end)
        except LateOwner:
            self.let_go()
            return
        except DatabaseError as error:
            logger.warning("sealing waits for the database session=%s: %s", self.session.pk, error)
        except Exception:  # the outermost loop: the journal has it, and the next try takes it along
            logger.exception("sealing failed session=%s", self.session.pk)
        finally:
            self._sealing = None
        self.journal.sealed = self._droppable()
        if self.sealer.offset < self.journal.end:
            self._is_unsealed()
        moment = self._loop.time()
        if moment - self._told_recorded_at >= 1:
            self._told_recorded_at = moment
            self._tell({"type": "recorded", "bytes": self.sealer.output_bytes})


def in_words(seconds: float) -> str:
    """A length of time: "2 hours", "1 minute", "90 seconds"."""
    units = ((3600, "hour"), (60, "minute"), (1, "second"))
    size, unit = next((each for each in units if seconds >= each[0] and seconds % each[0] == 0), units[-1])
    return f"{seconds / size:g} {unit}{'' if seconds == size else 's'}"
