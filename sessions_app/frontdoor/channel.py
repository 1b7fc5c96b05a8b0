"""The agent's end of a data channel whose other end is the plugin: a reader of the journal at its own pace.

Every message towards the client comes from a record of the journal, cut in one way alone. So its number tells where it
comes from, and who takes the session over sends the client exactly what it lacks, from what is `kept`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

from fleetops.clock import steady
from fleetops.wire import (
    Acknowledged,
    DataChannel,
    Flag,
    FlagReceived,
    HandshakeResponded,
    InputReceived,
    MessageType,
    PayloadType,
    Role,
    SizeReceived,
    State,
    payloads,
)
from fleetops.wire.datachannel import STREAM_PAYLOAD
from fleetops.wire.frames import PAYLOAD_OFFSET

from ..journal import FRAME, NOTE, OUTPUT, PASSED, Journal, Record, note_of
from ..readers import CTRL_C, KEPT_BYTES, RESTORED_BYTES, SKIP_FROM_BYTES, SKIP_TO_BYTES, SOFT_RESET
from ..states import SessionKind
from .kept import Kept, KeptFile, Place

if TYPE_CHECKING:
    from ..proxy import Proxy

logger = logging.getLogger(__name__)

# Under way to the client: 256 KiB of the plugin's messages, or more in the longer ones of our own client.
MOST_MESSAGES: Final = 256
MOST_BYTES: Final = 1 << 20
OUR_PAYLOAD: Final = 32 * 1024  # as our node sends to who names itself as ours
# So many messages may be acknowledged before it is kept: with those under way the most that is sent in vain.
KEEP_EVERY: Final = 128
# A multiplexed plugin that is told anything within milliseconds of the handshake's end goes deaf: "Plugin race".
PORT_HOLD_SECONDS: Final = 0.2
FLAG_SECONDS: Final = 3.0  # the agent is given to end a forward that its client has ended
MAX_COLS, MAX_ROWS = 1000, 500
# Notes of a shell that its client shows; a browser has other places for the rest.
SHOWN_NOTES: Final = frozenset({"message", "watch", "join", "left", "motd", "held", "moderated"})
_ACKNOWLEDGE: Final = MessageType.ACKNOWLEDGE.encode()


class ClientGone(Exception):
    """What the client has of the stream cannot be told any more."""


class ClientEnd:
    """One client of the command line, in the process that owns its session. It outlives its websocket."""

    def __init__(self, proxy: Proxy, client_id: str, *, is_ours: bool, file: KeptFile, kept: Kept) -> None:
        self.proxy = proxy
        self.journal: Journal = proxy.journal
        self.kind = SessionKind(proxy.session.kind)
        self._is_forward = self.kind == SessionKind.FORWARD
        self._file = file
        self.kept = kept
        self._records: Iterator[Record] | None = None
        self._held: Record | None = None  # a record whose time has not come
        self._planned: deque[Place] = deque()  # what was skipped before, and has to be skipped again
        self._places: deque[Place] = deque()  # of messages under way
        # What the client sent and was not handed on yet. It sends no more while there is any.
        self._waiting: deque[InputReceived | FlagReceived | HandshakeResponded] = deque()
        self._acks: list[tuple[int, bytes]] = []  # of messages that the agent does not have yet
        self._kept_at = 0  # the client had all messages below when it was last kept
        self._is_dirty = False
        self._hold_until = 0.0
        self._type = int(PayloadType.OUTPUT)
        self.wakes = asyncio.Event()
        self.peer: Any = None  # its websocket, while it has one
        self.seen = 0  # bytes of output before our place: see Listener
        self.offset = 0  # of the journal: what comes next
        is_same = kept.client_id == client_id and bool(kept.places)
        if is_same:
            first = kept.places[0]
            self.offset, self._type = first.offset, first.payload_type
            self.seen = _output_before(self.journal, self.offset)
            self._planned.extend(place for place in kept.places if place.notice)
            next_sequence, expected = first.sequence, kept.through + 1 if self._is_forward else kept.expected
        elif kept.client_id and self.kind != SessionKind.SHELL:
            raise ClientGone("This session began with another client, and cannot go on with a new one.")
        else:
            kept.client_id, kept.is_ours, kept.places = client_id, is_ours, []
            next_sequence = expected = 0
        self._limit = 1 + 12 * MOST_MESSAGES if is_same else MOST_MESSAGES  # what the client has it does not tell
        self._sure_from = next_sequence + self._limit
        self.channel = DataChannel(
            Role.AGENT,
            new_id=uuid4,
            session_id=str(proxy.session.pk),
            next_sequence=next_sequence,
            expected_sequence=expected,
            max_payload=OUR_PAYLOAD if kept.is_ours else STREAM_PAYLOAD,
            state=self._state(next_sequence, expected),
            acknowledge_stored=False,
            is_in_order=True,
        )
        if not is_same:
            self._begin()

    def _state(self, next_sequence: int, expected: int) -> State:
        if self.kind == SessionKind.SHELL:
            return State.OPEN
        if expected == 0:
            return State.HANDSHAKING if next_sequence else State.NEW
        return State.ANSWERED if next_sequence <= 1 else State.OPEN

    def _begin(self) -> None:
        """Find where a new client begins: a shell at its start, or where its screen may begin."""
        journal = self.journal
        if self.kind != SessionKind.SHELL or (not journal.output_base and journal.output_end <= KEPT_BYTES):
            return
        self._go_near_the_end(RESTORED_BYTES)

    @property
    def session_id(self) -> UUID:
        return self.proxy.session.pk

    # What the proxy does

    def wake(self) -> None:
        self.wakes.set()

    def tell(self, message: dict[str, Any]) -> None:
        """A plugin has no place for what a browser is told; the notes among it are in the journal."""

    def passed_through(self, through: int) -> None:
        """The agent has all of the client's messages through this one."""
        self._is_dirty = True
        self.wakes.set()

    # What the client does

    def connected(self) -> None:
        """It has a new websocket."""
        self.channel.reconnected(now=steady())
        self.wakes.set()

    async def take(self, frames: list[bytes]) -> None:
        """Take in messages of the client, and wait until there is room for more. Raises RemoteProtocolError."""
        moment = steady()
        try:
            for frame in frames:
                self.channel.receive(frame, now=moment)
        finally:
            self._happen()
            self.wakes.set()
        await self.go_on()

    async def go_on(self) -> None:
        """Hand on what the client sent, as there is room. Cut short it goes on where it was."""
        proxy, waiting = self.proxy, self._waiting
        while waiting:
            match waiting[0]:
                case HandshakeResponded(response=response):
                    if refusal := response.refusal:
                        proxy.end(f"The client refused: {refusal}", kind="client")
                    elif proxy.carried is not None:
                        proxy.carried.answer(response)
                case InputReceived(data=data, sequence=sequence) if proxy.carried is not None and self._is_forward:
                    await proxy.carried.pass_on(data, sequence)
                case FlagReceived(flag=flag, sequence=sequence):
                    if proxy.carried is not None and self._is_forward:
                        await proxy.carried.pass_on(b"", sequence, flag=flag)
                    if flag == Flag.TERMINATE_SESSION:
                        asyncio.get_running_loop().call_later(FLAG_SECONDS, self._ended_by_its_user)
                case InputReceived(data=data):
                    if CTRL_C in data and self.kind == SessionKind.SHELL and self.backlog > SKIP_FROM_BYTES:
                        self._skip()
                    await proxy.type(data)
            waiting.popleft()

    def _happen(self) -> None:
        for event in self.channel.events():
            match event:
                case Acknowledged():
                    self._acknowledged()
                case SizeReceived(cols=cols, rows=rows):
                    self.proxy.resize(max(1, min(cols, MAX_COLS)), max(1, min(rows, MAX_ROWS)))
                case InputReceived() | FlagReceived() | HandshakeResponded():
                    self._waiting.append(event)

    def _ended_by_its_user(self) -> None:
        self.proxy.end("Ended by its user.", kind="person")

    def _acknowledged(self) -> None:
        """Let go of places that the client has got past."""
        through = self.channel.acknowledged_through + 1
        places = self._places
        while len(places) > 1 and places[1].sequence <= through:
            places.popleft()
        if places and through == self.channel.next_sequence:
            places.clear()
        if through >= self._sure_from:
            self._limit = MOST_MESSAGES
        if self.proxy.carried is not None:
            self.proxy.carried.measure(self)

    # Towards the client

    @property
    def backlog(self) -> int:
        """Bytes of output that were not sent yet."""
        return self.journal.output_end - self.seen

    @property
    def taken_through(self) -> int:
        """The journal's offset that will not be read again."""
        return self._places[0].offset if self._places else self.offset

    @property
    def is_drained(self) -> bool:
        """The client has all that there is for it."""
        return self.offset >= self.journal.end and not self.channel.unacknowledged

    def pump(self) -> None:
        """Make messages of what the journal holds, as far as they may be under way. Raises ClientGone."""
        channel = self.channel
        while channel.unacknowledged < self._limit and channel.unacknowledged_bytes < MOST_BYTES:
            if self._planned and channel.next_sequence >= self._planned[0].sequence:
                place = self._planned.popleft()
                if channel.next_sequence > place.sequence:
                    continue
                self._notice(place)
                continue
            record = self._held or self._next_record()
            self._held = None
            if record is None:
                return
            start = self.offset
            before = channel.next_sequence
            if not self._send(record):
                self._held = record
                return
            self.offset = record.end
            if channel.next_sequence > before:
                self._places.append(Place(before, start, self._type))

    def _send(self, record: Record) -> bool:
        """Make the messages of one record; False if its time has not come."""
        channel, moment = self.channel, steady()
        if record.kind in (OUTPUT, PASSED):
            if not channel.can_send:
                return False
            channel.send_output(bytes(record.payload), now=moment, payload_type=self._type)
            self.seen += len(record.payload) if record.kind == OUTPUT else 0
        elif record.kind == FRAME and self.kind != SessionKind.SHELL:
            return self._send_frame(record.payload[0], bytes(record.payload[1:]), moment)
        elif record.kind == NOTE and self.kind == SessionKind.SHELL:
            note = note_of(record.payload)
            if note["type"] in SHOWN_NOTES:
                channel.send_output(told(note["text"]), now=moment)
        return True

    def _send_frame(self, payload_type: int, payload: bytes, moment: float) -> bool:
        channel = self.channel
        match payload_type:
            case PayloadType.HANDSHAKE_REQUEST:
                if channel.state is State.NEW:
                    request = payloads.HandshakeRequest.parse(payload)
                    actions = tuple(each for each in request.actions if each.action_type == "SessionType")
                    channel.request_handshake(payloads.HandshakeRequest(request.agent_version, actions), now=moment)
            case PayloadType.HANDSHAKE_COMPLETE:
                if channel.state is not State.ANSWERED:
                    return False
                # What the agent says here is of the encryption, which ends with us.
                channel.complete_handshake(now=moment)
                if self._is_forward:
                    self._hold_until = moment + PORT_HOLD_SECONDS
            case PayloadType.FLAG:
                if not channel.can_send:
                    return False
                channel.send_flag(payloads.parse_flag(payload), now=moment)
            case PayloadType.EXIT_CODE:
                if not channel.can_send:
                    return False
                channel.send_output(payload, now=moment, payload_type=payload_type)
            case PayloadType.OUTPUT | PayloadType.STDERR if not payload:
                self._type = payload_type
        return True

    def _next_record(self) -> Record | None:
        """The next record of the journal; None at its end for now. Raises ClientGone if what is missing matters."""
        while True:
            if self._records is None:
                journal = self.journal
                if self.offset >= journal.end:
                    return None
                if self.offset < journal.base:
                    self._gap()
                    return None
                self._records = journal.records(self.offset, journal.end)
            try:
                record = next(self._records, None)
            except (LookupError, FileNotFoundError):  # dropped under us
                record = None
            if record is not None:
                return record
            self._records = None

    def _gap(self) -> None:
        if self.kind != SessionKind.SHELL or self._planned:
            raise ClientGone("What the client has not received yet is no longer kept.")
        self._go_near_the_end(KEPT_BYTES)

    # Skipping

    def _skip(self) -> None:
        """Leave out all but the last of what was not sent yet: whoever types Ctrl-C does not want to see it."""
        if not self._planned:
            self._go_near_the_end(SKIP_TO_BYTES)
            self._is_dirty = True
            self.wakes.set()

    def _go_near_the_end(self, size: int) -> None:
        """Go to the first record within the last `size` bytes of output, and say so."""
        journal = self.journal
        target = max(journal.output_base, journal.output_end - size)
        segment = next(each for each in reversed(journal.segments) if each.output_base <= target)
        output, offset = segment.output_base, segment.base
        for record in journal.records(segment.base, journal.end):
            if output >= target:
                break
            output += len(record.payload) if record.kind == OUTPUT else 0
            offset = record.end
        skipped, self.seen = output - self.seen, output
        self._records = self._held = None
        text = f"{_size(skipped)} not shown; in the recording" if skipped > 0 else ""
        self._notice(Place(self.channel.next_sequence, offset, self._type, text or "…"))

    def _notice(self, place: Place) -> None:
        """Say what is left out, in one message, and go on behind it."""
        self.channel.send_output(SOFT_RESET + told(place.notice), now=steady())
        self._places.append(place)
        self._records = self._held = None
        self.offset, self._type = place.offset, place.payload_type

    # What may go

    def frames(self) -> list[bytes]:
        """What is to be sent now; what it promises is kept before."""
        moment = steady()
        if moment < self._hold_until:
            return []
        frames = self.channel.data_to_send()
        if self._is_forward:
            frames = self._without_early_acks(frames)
        acknowledged = self.channel.acknowledged_through
        if (
            self._is_dirty
            or self.channel.expected_sequence != self.kept.expected
            or acknowledged - self._kept_at >= KEEP_EVERY
        ):
            self._keep(acknowledged)
        return frames

    def repeat(self) -> None:
        """Send again what is due. Safe to call at any moment."""
        self.channel.handle_timeout(now=steady())

    def timeout(self) -> float | None:
        """Seconds until something is due; None if nothing is."""
        moment = steady()
        due = [at for at in (self.channel.next_timeout(),) if at is not None]
        if self._hold_until > moment:
            due = [self._hold_until]
        return max(0.0, min(due) - moment) if due else None

    def _without_early_acks(self, frames: list[bytes]) -> list[bytes]:
        """Hold acknowledges back of what the agent does not have yet: the client keeps it for us."""
        through = self.kept.through
        out: list[bytes] = []
        for frame in frames:
            if frame.startswith(_ACKNOWLEDGE, 4):
                sequence = payloads.acknowledged_sequence(frame[PAYLOAD_OFFSET:])
                if sequence > through:
                    self._acks.append((sequence, frame))
                    continue
            out.append(frame)
        if self._acks and self._acks[0][0] <= through:
            out += [frame for sequence, frame in self._acks if sequence <= through]
            self._acks = [(sequence, frame) for sequence, frame in self._acks if sequence > through]
        return out

    def _keep(self, acknowledged: int) -> None:
        kept = self.kept
        kept.expected = self.channel.expected_sequence
        here = Place(self.channel.next_sequence, self.offset, self._type)
        first, *later = self._places or [here]
        if first.notice and first.sequence <= acknowledged:
            first = Place(first.sequence + 1, first.offset, first.payload_type)
        kept.places = [first, *(place for place in later if place.notice), *self._planned]
        self._file.write(kept)
        self._kept_at, self._is_dirty = acknowledged, False


def told(text: str) -> bytes:
    """A line of ours in a client's terminal, as one message."""
    return f"\r\n\x1b[2m[FleetOps: {text}]\x1b[0m\r\n".encode()[:STREAM_PAYLOAD]


def closing(session_id: str, text: str) -> bytes:
    """The message that ends a client, which shows the text, or its own word of farewell."""
    channel = DataChannel(Role.AGENT, new_id=uuid4, session_id=session_id)
    channel.close(text, now=steady())
    return channel.data_to_send()[0]


def _output_before(journal: Journal, offset: int) -> int:
    """Bytes of output before an offset of the journal, or before what is kept of it."""
    segment = next((each for each in reversed(journal.segments) if each.base <= offset), None)
    if segment is None:
        return journal.output_base
    between = journal.records(segment.base, offset)
    return segment.output_base + sum(len(record.payload) for record in between if record.kind == OUTPUT)


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
