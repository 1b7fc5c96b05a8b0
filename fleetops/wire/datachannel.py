"""One end of a data channel, the client's or the agent's, without a socket, a thread, a clock or a source of chance.

Frames go in by `receive`, and out by `data_to_send`; what they mean comes out of `events`. Both ends number their
stream messages from 0 and acknowledge the other's, so loss, repetition and disorder on the way do no harm.

Source: session-manager-plugin, src/datachannel/streaming.go; amazon-ssm-agent,
agent/session/datachannel/datachannel.go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Final
from uuid import UUID

from . import events, payloads
from .blockcipher import BlockCipher
from .buffers import (
    MAX_ACKNOWLEDGES,
    MAX_EVENT_BYTES,
    MAX_EVENTS,
    MAX_OUTGOING_BYTES,
    MAX_OUTGOING_MESSAGES,
    MAX_TIMEOUT,
    Incoming,
    Outgoing,
    RoundTrip,
    Sent,
)
from .errors import LocalProtocolError, RemoteProtocolError
from .events import Event
from .frames import (
    FIN,
    MAX_PAYLOAD,
    PAYLOAD_OFFSET,
    SYN,
    MessageType,
    PayloadType,
    check,
    milliseconds,
    pack,
    to_wire_id,
)

# Bytes of plain stream data in a message, as both real programs cut it; an encrypted one has 28 more. config.go, both.
STREAM_PAYLOAD: Final = 1024

# Seconds. The real programs look for something to repeat this often, so no end repeats faster. config.go, both.
SWEEP: Final = 0.1

# Seconds. The plugin gives up at the 3,001st repeat of one message, ten a second (src/config/config.go).
GIVE_UP: Final = 300.0

_MOST_DOUBLINGS: Final = 3  # of the time-out of one message: from the first estimate of 0.2 s this passes MAX_TIMEOUT


class Role(Enum):
    """Which end of the data channel this is."""

    CLIENT = "client"
    AGENT = "agent"


class State(Enum):
    """How far a channel has come."""

    NEW = "new"  # nothing of the agent's stream yet
    HANDSHAKING = "handshaking"  # the agent has asked
    ANSWERED = "answered"  # the client has answered
    CHALLENGED = "challenged"  # the agent wants to see that both have the same data key
    OPEN = "open"
    CLOSED = "closed"


class Move(Enum):
    """What can happen to a channel. "Stream" is any stream message that is no part of the handshake."""

    SEND_REQUEST = "send a handshake request"
    RECEIVE_REQUEST = "receive a handshake request"
    SEND_RESPONSE = "send a handshake response"
    RECEIVE_RESPONSE = "receive a handshake response"
    SEND_CHALLENGE = "send a challenge"
    RECEIVE_CHALLENGE = "receive a challenge"
    SEND_PROOF = "answer a challenge"
    RECEIVE_PROOF = "receive the answer to a challenge"
    SEND_COMPLETE = "send the end of the handshake"
    RECEIVE_COMPLETE = "receive the end of the handshake"
    SEND_STREAM = "send stream data"
    RECEIVE_STREAM = "receive stream data"
    CLOSE = "close"


# A move that is not in the row of the state is an error: ours if we would send, the peer's if we receive.
CLIENT_MOVES: Final[Mapping[State, Mapping[Move, State]]] = {
    State.NEW: {  # without a handshake the first output opens; before that we do not know whether one is due
        Move.RECEIVE_REQUEST: State.HANDSHAKING,
        Move.RECEIVE_STREAM: State.OPEN,
        Move.CLOSE: State.CLOSED,
    },
    State.HANDSHAKING: {  # one answer: a second blocks the real agent's reader for ever
        Move.SEND_RESPONSE: State.ANSWERED,
        Move.CLOSE: State.CLOSED,
    },
    State.ANSWERED: {  # the agent acknowledges and drops input that comes now
        Move.RECEIVE_CHALLENGE: State.CHALLENGED,
        Move.RECEIVE_COMPLETE: State.OPEN,
        Move.CLOSE: State.CLOSED,
    },
    State.CHALLENGED: {
        Move.SEND_PROOF: State.ANSWERED,
        Move.CLOSE: State.CLOSED,
    },
    State.OPEN: {
        Move.SEND_STREAM: State.OPEN,
        Move.RECEIVE_STREAM: State.OPEN,
        Move.CLOSE: State.CLOSED,
    },
    State.CLOSED: {},
}
AGENT_MOVES: Final[Mapping[State, Mapping[Move, State]]] = {
    State.NEW: {
        Move.SEND_REQUEST: State.HANDSHAKING,
        Move.SEND_STREAM: State.OPEN,
        Move.RECEIVE_STREAM: State.NEW,
        Move.CLOSE: State.CLOSED,
    },
    State.HANDSHAKING: {  # stream data is acknowledged and dropped until the handshake is complete
        Move.RECEIVE_RESPONSE: State.ANSWERED,
        Move.RECEIVE_STREAM: State.HANDSHAKING,
        Move.CLOSE: State.CLOSED,
    },
    State.ANSWERED: {
        Move.SEND_CHALLENGE: State.CHALLENGED,
        Move.SEND_COMPLETE: State.OPEN,
        Move.RECEIVE_STREAM: State.ANSWERED,
        Move.CLOSE: State.CLOSED,
    },
    State.CHALLENGED: {
        Move.RECEIVE_PROOF: State.ANSWERED,
        Move.RECEIVE_STREAM: State.CHALLENGED,
        Move.CLOSE: State.CLOSED,
    },
    State.OPEN: {
        Move.SEND_STREAM: State.OPEN,
        Move.RECEIVE_STREAM: State.OPEN,
        Move.CLOSE: State.CLOSED,
    },
    State.CLOSED: {},
}

_DROPPING: Final = frozenset({State.HANDSHAKING, State.ANSWERED, State.CHALLENGED})  # of the agent

# What is sealed under a KMS key: all that an agent streams, but of a client neither sizes nor flags.
_STREAM_TYPES: Final = frozenset({PayloadType.OUTPUT, PayloadType.STDERR, PayloadType.EXIT_CODE})
_SEALED_INPUT: Final = frozenset({PayloadType.OUTPUT})


class DataChannel:
    """One end of a data channel. See the module for the way it is driven.

    `now` is always seconds since 1970 UTC, from a clock that never steps back; it dates the messages and runs the
    timers. `new_id` gives a fresh UUID for each message. `session_id` goes into the messages that name it.

    To go on where a dead owner stopped, give its `next_sequence` (the number of the next message to send) and
    `expected_sequence` (of the next one to receive), and `fill` the numbers that it may have used in vain. `state` is
    OPEN for such a channel, unless its owner died in the handshake and says so.

    An owner that writes what it learns into a journal fetches `events`, writes, and only then sends `data_to_send`,
    where the acknowledges are. It also gives `acknowledge_stored=False`: then a message that came before its turn is
    acknowledged when it is handed out, not when it is stored, and none is lost with its owner.

    `is_in_order`: what is sent arrives in order or not at all while a transport lasts, and the other end may be silent
    about what it has already, as the plugin is. Then a new transport gets all that is not acknowledged, at once and in
    order, and an acknowledge counts for all that is numbered below.
    """

    def __init__(
        self,
        role: Role,
        *,
        new_id: Callable[[], UUID],
        session_id: str = "",
        next_sequence: int = 0,
        expected_sequence: int = 0,
        max_payload: int = STREAM_PAYLOAD,
        state: State | None = None,
        acknowledge_stored: bool = True,
        is_in_order: bool = False,
    ) -> None:
        if next_sequence < 0 or expected_sequence < 0:
            raise LocalProtocolError("sequence numbers count from 0")
        if state is None:
            begun = expected_sequence if role is Role.CLIENT else next_sequence
            state = State.OPEN if begun else State.NEW
        self.role: Final = role
        self.session_id: Final = session_id
        self._new_id = new_id
        self._is_agent = role is Role.AGENT
        self._moves = AGENT_MOVES if self._is_agent else CLIENT_MOVES
        self._sends: str = MessageType.OUTPUT_STREAM_DATA if self._is_agent else MessageType.INPUT_STREAM_DATA
        self._receives: str = MessageType.INPUT_STREAM_DATA if self._is_agent else MessageType.OUTPUT_STREAM_DATA
        self._acknowledge_stored = acknowledge_stored
        self._is_in_order = is_in_order
        self._outgoing = Outgoing(next_sequence)
        self._incoming: Incoming[tuple[Move, Event | None, bytes]] = Incoming(expected_sequence)
        self._round_trip = RoundTrip()
        self._outbox: list[bytes] = []
        self._acknowledges = 0  # of those in the outbox
        self._events: list[Event] = []
        self._event_bytes = 0
        self._paused = False
        self._unsent: deque[int] = deque()  # numbers given while paused
        self._head_since = 0.0  # when the head became the head
        self._repeated_at = 0.0
        self._lost_below = 0  # what is numbered below went out by a transport that is gone
        self._gave_up = False
        self._requested_at = 0.0
        self._cipher: BlockCipher | None = None
        self._refusals: tuple[type[Exception], ...] = ()
        self._challenge = b""  # what the client has to send back
        self._enter(state)
        self.max_payload = max_payload

    # What the owner may ask

    @property
    def state(self) -> State:
        return self._state

    @property
    def max_payload(self) -> int:
        """Bytes of stream data in one message. 1,024 unless the other end is known to take more; it may be changed."""
        return self._max_payload

    @max_payload.setter
    def max_payload(self, size: int) -> None:
        if not 0 < size <= MAX_PAYLOAD:
            raise LocalProtocolError(f"a message holds 1 to {MAX_PAYLOAD} bytes, not {size}")
        self._max_payload = size

    @property
    def next_sequence(self) -> int:
        """The number that the next message to send will bear."""
        return self._outgoing.next_sequence

    @property
    def expected_sequence(self) -> int:
        """The number of the next message to receive in order."""
        return self._incoming.expected_sequence

    @property
    def acknowledged_through(self) -> int:
        """The highest number such that it and all below are acknowledged; -1 if none is."""
        return self._outgoing.head_sequence - 1

    @property
    def unacknowledged(self) -> int:
        """Messages that we sent and nobody acknowledged yet."""
        return len(self._outgoing)

    @property
    def unacknowledged_bytes(self) -> int:
        """Bytes of payload in them."""
        return self._outgoing.size

    @property
    def is_paused(self) -> bool:
        """Whether the gateway wants no stream data for now: what is sent is kept. Only an agent obeys."""
        return self._paused

    @property
    def window_left(self) -> int:
        """Bytes that send_input or send_output takes now; one that is given more refuses it all."""
        slots = MAX_OUTGOING_MESSAGES - len(self._outgoing)
        return max(0, min(MAX_OUTGOING_BYTES - self._outgoing.size, slots * self._max_payload))

    @property
    def can_send(self) -> bool:
        """Whether stream data may be sent now: the handshake, if any, is over, and there is room for a byte."""
        return Move.SEND_STREAM in self._row and self.window_left > 0

    # What the owner does

    def send_input(self, data: bytes, *, now: float) -> list[int]:
        """Send bytes to the agent's terminal, or to its port; CR for Enter. Client only.

        Returns the numbers of the messages that hold them; write these into the journal before data_to_send.
        Raises LocalProtocolError before the agent's first output or the end of the handshake, and for more than
        window_left.
        """
        self._demand(Role.CLIENT)
        return self._send_stream(PayloadType.OUTPUT, data, now)

    def send_output(self, data: bytes, *, now: float, payload_type: int = PayloadType.OUTPUT) -> list[int]:
        """Send bytes of the stream to the client: OUTPUT, STDERR, or EXIT_CODE (payloads.exit_code). Agent only.

        Returns the numbers of the messages that hold them. Raises LocalProtocolError during the handshake, and for more
        than window_left: then read no more from the terminal.
        """
        self._demand(Role.AGENT)
        if payload_type not in _STREAM_TYPES:
            raise LocalProtocolError(f"payload type {payload_type} is no output")
        return self._send_stream(payload_type, data, now)

    def send_size(self, cols: int, rows: int, *, now: float) -> int:
        """Tell the terminal's size, in characters; returns the number used. Errors as of send_input. Client only."""
        self._demand(Role.CLIENT)
        return self._send_whole(Move.SEND_STREAM, PayloadType.SIZE, payloads.Size(cols, rows).serialize(), now)

    def send_flag(self, flag: int, *, now: float) -> int:
        """Send a frames.Flag of a port session; returns the number used. Errors as of send_input and send_output."""
        return self._send_whole(Move.SEND_STREAM, PayloadType.FLAG, payloads.flag(flag), now)

    def send_state(self, state: str, *, now: float) -> None:
        """Tell the gateway "Connected" before all else, or "Terminating" after a natural end. Agent only."""
        self._demand(Role.AGENT)
        if self._state is State.CLOSED:
            raise LocalProtocolError("the channel is closed")
        payload = payloads.AgentSessionState(state, self.session_id).serialize()
        self._outbox.append(self._pack_other(MessageType.AGENT_SESSION_STATE, SYN | FIN, payload, now))

    def request_handshake(self, request: payloads.HandshakeRequest, *, now: float) -> int:
        """Begin the handshake, as the very first stream message; returns its number. Agent only.

        The real agent gives a client 15 seconds to answer.
        """
        self._demand(Role.AGENT)
        sequence = self._send_whole(Move.SEND_REQUEST, PayloadType.HANDSHAKE_REQUEST, request.serialize(), now)
        self._requested_at = now
        return sequence

    def respond_handshake(self, response: payloads.HandshakeResponse, *, now: float) -> int:
        """Answer the handshake request, once (payloads.answer_handshake); returns the number used. Client only."""
        self._demand(Role.CLIENT)
        return self._send_whole(Move.SEND_RESPONSE, PayloadType.HANDSHAKE_RESPONSE, response.serialize(), now)

    def encrypt(self, cipher: BlockCipher, *, refusals: tuple[type[Exception], ...]) -> None:
        """Seal stream data from now on, and take in none that is not sealed. `refusals`: see BlockCipher.open.

        A client does it before respond_handshake, an agent before send_challenge. What already waits for its turn was
        sent before anybody could seal it: it is forgotten.
        """
        self._cipher = cipher
        self._refusals = refusals
        self._incoming.clear()

    def send_challenge(self, challenge: bytes, *, now: float) -> int:
        """Have the client show that it holds the data key; returns the number used. Agent only.

        `challenge`: 64 random bytes. An answer that is wrong is not acknowledged; the real agent gives a client 15
        seconds for the right one.
        """
        self._demand(Role.AGENT)
        sequence = self._send_sealed(Move.SEND_CHALLENGE, PayloadType.ENC_CHALLENGE_REQUEST, challenge, now)
        self._challenge = challenge
        return sequence

    def answer_challenge(self, challenge: bytes, *, now: float) -> int:
        """Send the bytes of a ChallengeReceived back, sealed with our own key; returns the number used. Client only."""
        self._demand(Role.CLIENT)
        return self._send_sealed(Move.SEND_PROOF, PayloadType.ENC_CHALLENGE_RESPONSE, challenge, now)

    def complete_handshake(self, customer_message: str = "", *, now: float) -> int:
        """End the handshake: all actions succeeded. Returns the number used. Agent only."""
        self._demand(Role.AGENT)
        complete = payloads.HandshakeComplete(round((now - self._requested_at) * 1e9), customer_message)
        return self._send_whole(Move.SEND_COMPLETE, PayloadType.HANDSHAKE_COMPLETE, complete.serialize(), now)

    def fill(self, sequences: Iterable[int], cols: int, rows: int, *, now: float) -> None:
        """Send numbers again that a dead owner wrote into its journal and may never have sent: each as a size.

        An agent that had the number acknowledges it and looks no further; one that waits for it goes on. The numbers
        lie below next_sequence. Raises LocalProtocolError for others, for one that is under way, or if there is no
        room. Client only.
        """
        self._demand(Role.CLIENT)
        if self._state is State.CLOSED:
            raise LocalProtocolError("the channel is closed")
        numbers = sorted(set(sequences))
        payload = payloads.Size(cols, rows).serialize()
        for sequence in numbers:
            if not 0 <= sequence < self.next_sequence or self._outgoing.get(sequence):
                raise LocalProtocolError(f"there is no gap at {sequence}")
        self._demand_room(len(numbers), len(numbers) * len(payload))
        if numbers and numbers[0] < self._outgoing.head_sequence:
            self._new_head(now)
        for sequence in numbers:
            self._put(sequence, PayloadType.SIZE, payload, now)

    def close(self, output: str = "", *, now: float) -> None:
        """Send channel_closed, as a gateway does, with a text for the user; again it does nothing.

        What was not acknowledged is forgotten. Frames in data_to_send still want to go.
        """
        if self._state is State.CLOSED:
            return
        notice = payloads.ChannelClosed(
            str(self._new_id()), payloads.iso_time(milliseconds(now)), self.session_id, output=output
        )
        self._outbox.append(self._pack_other(MessageType.CHANNEL_CLOSED, 0, notice.serialize(), now))
        self._shut()

    def reconnected(self, *, now: float) -> None:
        """The transport was replaced by a new one: a pause is over, and the head is repeated at once.

        What went out by the old transport is repeated as the head gets acknowledged, without waiting for a time-out.
        """
        if self._state is State.CLOSED:
            return
        self._gave_up = False
        self._head_since = now
        head = self._outgoing.head()
        if head is not None and head.sends:
            if self._is_in_order:
                self._repeat_all(now)
            else:
                self._lost_below = self.next_sequence
                self._repeat(head, now)
        self._end_pause(now)

    # What the owner fetches

    def data_to_send(self) -> list[bytes]:
        """Return the frames queued since the last call, in order. Each is one binary websocket message."""
        frames = self._outbox
        self._outbox = []
        self._acknowledges = 0
        return frames

    def events(self) -> list[Event]:
        """Return what has happened since the last call, in order.

        While 10,000 or 12 MiB of it wait here, what arrives is dropped as if lost; the other end repeats it.
        """
        happened = self._events
        self._events = []
        self._event_bytes = 0
        return happened

    def next_timeout(self) -> float | None:
        """Return when to call handle_timeout, on the scale of `now`; None if nothing waits."""
        head = self._outgoing.head()
        if head is None or self._paused or self._gave_up:
            return None
        repeat_at = self._repeat_at(head)
        return repeat_at if self._is_agent else min(repeat_at, self._head_since + GIVE_UP)

    def handle_timeout(self, *, now: float) -> None:
        """Repeat the head if it is time to. Safe to call at any moment."""
        head = self._outgoing.head()
        if head is None or self._paused or self._gave_up:
            return
        if not self._is_agent and now >= self._head_since + GIVE_UP:
            self._gave_up = True
            self._events.append(events.RetransmissionGaveUp())
        elif now >= self._repeat_at(head):
            self._repeat(head, now)

    def receive(self, frame: bytes, *, now: float) -> None:
        """Take in one binary websocket message.

        Raises RemoteProtocolError, and nothing else, for a frame that parse refuses, for a payload that cannot be read,
        and for a stream message that the table of this role forbids in this state. The frame is then not acknowledged
        and changes nothing, so its owner may go on; closing the channel is the safer answer. Messages of a type that
        has no meaning here are skipped, as the real programs do, and so is everything on a closed channel.
        """
        payload = frame[PAYLOAD_OFFSET:]
        message_type, _, _, sequence, _, wire_id, payload_type = check(frame, payload)
        if self._state is State.CLOSED:
            return
        if message_type == MessageType.CHANNEL_CLOSED:
            self._receive_closed(payload)
        elif len(self._events) >= MAX_EVENTS or self._event_bytes >= MAX_EVENT_BYTES:
            return
        elif message_type == self._receives:
            self._receive_stream(sequence, wire_id, payload_type, payload, now)
        elif message_type == MessageType.ACKNOWLEDGE:
            self._receive_acknowledge(payload, now)
        elif self._is_agent:
            if message_type == MessageType.START_PUBLICATION:
                self._end_pause(now)
            elif message_type == MessageType.PAUSE_PUBLICATION and not self._paused:
                self._paused = True
                self._events.append(events.PublicationPaused())
        elif message_type == MessageType.AGENT_SESSION_STATE:
            self._events.append(events.AgentStateChanged(payloads.AgentSessionState.parse(payload).state))

    # Receiving

    def _receive_stream(self, sequence: int, wire_id: bytes, payload_type: int, payload: bytes, now: float) -> None:
        incoming = self._incoming
        expected = incoming.expected_sequence
        if sequence < expected:
            if sequence < 0:
                raise RemoteProtocolError(f"the sequence number is {sequence}")
            self._acknowledge(sequence, wire_id, now)
        elif sequence in incoming:
            if self._acknowledge_stored:
                self._acknowledge(sequence, wire_id, now)
        else:
            move, event = self._read(sequence, payload_type, payload)
            if sequence > expected:
                # Not acknowledged if there is no room for it, so it will come again.
                if incoming.store(sequence, (move, event, wire_id), len(payload)) and self._acknowledge_stored:
                    self._acknowledge(sequence, wire_id, now)
            else:
                self._take(move, event)
                self._acknowledge(sequence, wire_id, now)
                if incoming:
                    self._drain(now)
        if self._paused:
            self._end_pause(now)

    def _drain(self, now: float) -> None:
        """Take in all that waited for the message just taken.

        One that the table forbids is skipped and the rest taken before the error is raised: it was acknowledged when it
        was stored, so nobody would repeat it, and the stream would stand still for ever.
        """
        incoming = self._incoming
        refused: RemoteProtocolError | None = None
        while (waiting := incoming.pop()) is not None:
            move, event, wire_id = waiting
            sequence = incoming.expected_sequence
            try:
                self._take(move, event)
            except RemoteProtocolError as error:
                refused = error
                incoming.expected_sequence = sequence + 1
            if not self._acknowledge_stored:
                self._acknowledge(sequence, wire_id, now)
        if refused is not None:
            raise refused

    def _take(self, move: Move, event: Event | None) -> None:
        """Let the message whose turn it is happen."""
        target = self._row.get(move)
        if target is None:
            raise RemoteProtocolError(f"the {self.role.value} cannot {move.value}: the channel is {self._state.value}")
        is_dropped = self._is_agent and move is Move.RECEIVE_STREAM and self._state in _DROPPING
        if target is not self._state:
            self._enter(target)
        self._incoming.expected_sequence += 1
        if event is not None and not is_dropped:
            self._events.append(event)
            if isinstance(event, (events.OutputReceived, events.InputReceived)):
                self._event_bytes += len(event.data)

    def _read(self, sequence: int, payload_type: int, payload: bytes) -> tuple[Move, Event | None]:
        """Say what a stream message means to this role; None if it means nothing, but takes its number all the same."""
        if self._cipher is not None:
            if payload_type in (_SEALED_INPUT if self._is_agent else _STREAM_TYPES):
                payload = self._cipher.open(payload, refusals=self._refusals)
            elif payload_type == PayloadType.ENC_CHALLENGE_REQUEST and not self._is_agent:
                return Move.RECEIVE_CHALLENGE, events.ChallengeReceived(self._open_challenge(payload))
            elif payload_type == PayloadType.ENC_CHALLENGE_RESPONSE and self._challenge:
                if self._open_challenge(payload) != self._challenge:
                    raise RemoteProtocolError("the answer to the challenge is wrong")
                return Move.RECEIVE_PROOF, events.ChallengeMet()
        if self._is_agent:
            return _read_input(sequence, payload_type, payload)
        return _read_output(sequence, payload_type, payload)

    def _open_challenge(self, payload: bytes) -> bytes:
        assert self._cipher is not None
        sealed = payloads.EncryptionChallenge.parse(payload).challenge
        return self._cipher.open(sealed, refusals=self._refusals)

    def _acknowledge(self, sequence: int, wire_id: bytes, now: float) -> None:
        if self._acknowledges < MAX_ACKNOWLEDGES:
            self._acknowledges += 1
            payload = payloads.acknowledge_wire_id(self._receives, wire_id, sequence)
            self._outbox.append(self._pack_other(MessageType.ACKNOWLEDGE, SYN | FIN, payload, now))

    def _receive_acknowledge(self, payload: bytes, now: float) -> None:
        sequence = payloads.acknowledged_sequence(payload)
        outgoing = self._outgoing
        sent = outgoing.get(sequence)
        if sent is not None and sent.sends:
            was_head = sequence == outgoing.head_sequence
            if self._is_in_order and not was_head:
                was_head = True
                for below in range(outgoing.head_sequence, sequence):
                    if outgoing.get(below):
                        outgoing.remove(below)
            outgoing.remove(sequence)
            if sent.sends == 1:
                self._round_trip.sample(now - sent.sent_at)
            self._events.append(events.Acknowledged(sequence))
            if was_head:
                self._new_head(now)
                head = outgoing.head()
                if head is not None and head.sends and outgoing.head_sequence < self._lost_below:
                    self._repeat(head, now)
        if self._paused:
            self._end_pause(now)

    def _receive_closed(self, payload: bytes) -> None:
        try:
            notice = payloads.ChannelClosed.parse(payload)
        except RemoteProtocolError:  # the plugin exits all the same, without a text
            self._events.append(events.ChannelClosed("", ""))
        else:
            self._events.append(events.ChannelClosed(notice.output or "", notice.session_id))
        self._shut()

    # Sending

    def _send_stream(self, payload_type: int, data: bytes, now: float) -> list[int]:
        """Cut `data` to size and send it, all or nothing."""
        target = self._allowed(Move.SEND_STREAM)
        size = len(data)
        limit = self._max_payload
        self._demand_room(-(-size // limit), size)
        if not size:
            return []  # Go cannot send an empty payload, and a peer may not expect one
        if target is not self._state:
            self._enter(target)
        first = self._outgoing.next_sequence
        cipher = self._cipher
        if size <= limit:
            self._put(first, payload_type, cipher.seal(data) if cipher else data, now)
            return [first]
        for start in range(0, size, limit):
            piece = data[start : start + limit]
            self._put(self._outgoing.next_sequence, payload_type, cipher.seal(piece) if cipher else piece, now)
        return list(range(first, self._outgoing.next_sequence))

    def _send_whole(self, move: Move, payload_type: int, payload: bytes, now: float) -> int:
        """Send one message that cannot be cut."""
        target = self._allowed(move)
        if len(payload) > MAX_PAYLOAD:
            raise LocalProtocolError(f"{len(payload)} bytes of payload are over the limit of {MAX_PAYLOAD}")
        self._demand_room(1, len(payload))
        self._enter(target)
        sequence = self._outgoing.next_sequence
        self._put(sequence, payload_type, payload, now)
        return sequence

    def _send_sealed(self, move: Move, payload_type: int, challenge: bytes, now: float) -> int:
        if self._cipher is None:
            raise LocalProtocolError("there is no key to seal a challenge with")
        self._allowed(move)  # before the cipher spends a nonce on it
        sealed = payloads.EncryptionChallenge(self._cipher.seal(challenge)).serialize()
        return self._send_whole(move, payload_type, sealed, now)

    def _put(self, sequence: int, payload_type: int, payload: bytes, now: float) -> None:
        """Keep a stream message until it is acknowledged, and send it unless we are paused."""
        outgoing = self._outgoing
        flags = SYN if sequence == 0 and self._is_agent else 0
        wire_id = to_wire_id(self._new_id())
        frame = pack(self._sends, milliseconds(now), sequence, flags, wire_id, payload_type, payload)
        sent = Sent(frame, len(payload))
        if not outgoing:
            self._new_head(now)
        outgoing.add(sequence, sent)
        if self._paused:
            self._unsent.append(sequence)
        else:
            self._transmit(sent, now)

    def _transmit(self, sent: Sent, now: float) -> None:
        sent.sends += 1
        sent.sent_at = now
        self._outbox.append(sent.frame)

    def _repeat(self, head: Sent, now: float) -> None:
        self._repeated_at = now
        self._transmit(head, now)

    def _repeat_all(self, now: float) -> None:
        """Send all again that a lost transport may not have brought."""
        self._repeated_at = now
        for sequence in range(self._outgoing.head_sequence, self._outgoing.next_sequence):
            sent = self._outgoing.get(sequence)
            if sent is not None and sent.sends:
                self._transmit(sent, now)

    def _repeat_at(self, head: Sent) -> float:
        """When the head is due again. The time-out doubles with each repeat: they make no measurements of their own."""
        timeout = min(MAX_TIMEOUT, self._round_trip.timeout * (1 << min(head.sends - 1, _MOST_DOUBLINGS)))
        return max(head.sent_at + timeout, self._repeated_at + SWEEP)

    def _new_head(self, now: float) -> None:
        self._head_since = now
        self._gave_up = False

    def _end_pause(self, now: float) -> None:
        """Send what was kept back, in order."""
        if not self._paused:
            return
        self._paused = False
        self._events.append(events.PublicationStarted())
        self._head_since = now
        while self._unsent:
            sent = self._outgoing.get(self._unsent.popleft())
            if sent is not None:
                self._transmit(sent, now)

    def _pack_other(self, message_type: str, flags: int, payload: bytes, now: float) -> bytes:
        """Write a message that is no stream data: number 0, payload type 0."""
        return pack(message_type, milliseconds(now), 0, flags, to_wire_id(self._new_id()), 0, payload)

    # States

    def _enter(self, state: State) -> None:
        self._state = state
        self._row = self._moves[state]

    def _shut(self) -> None:
        self._enter(self._row[Move.CLOSE])
        self._outgoing.clear()
        self._incoming.clear()
        self._unsent.clear()
        self._paused = False

    def _allowed(self, move: Move) -> State:
        target = self._row.get(move)
        if target is None:
            raise LocalProtocolError(f"the {self.role.value} cannot {move.value}: the channel is {self._state.value}")
        return target

    def _demand(self, role: Role) -> None:
        if self.role is not role:
            raise LocalProtocolError(f"only the {role.value} does this")

    def _demand_room(self, messages: int, size: int) -> None:
        if not self._outgoing.has_room(messages, size):
            raise LocalProtocolError(f"{size} bytes do not fit: the window has {self.window_left} left")


def _read_output(sequence: int, payload_type: int, payload: bytes) -> tuple[Move, Event | None]:
    """What a client makes of output_stream_data."""
    match payload_type:
        case PayloadType.OUTPUT | PayloadType.STDERR:
            return Move.RECEIVE_STREAM, events.OutputReceived(payload, sequence, payload_type)
        case PayloadType.HANDSHAKE_REQUEST:
            request = payloads.HandshakeRequest.parse(payload)
            return Move.RECEIVE_REQUEST, events.HandshakeRequested(request)
        case PayloadType.HANDSHAKE_COMPLETE:
            complete = payloads.HandshakeComplete.parse(payload)
            return Move.RECEIVE_COMPLETE, events.HandshakeCompleted(complete.time_ns, complete.customer_message)
        case PayloadType.FLAG:
            return Move.RECEIVE_STREAM, events.FlagReceived(payloads.parse_flag(payload), sequence)
        case PayloadType.EXIT_CODE:
            return Move.RECEIVE_STREAM, events.ExitCodeReceived(payloads.parse_exit_code(payload), sequence)
        case PayloadType.SIZE | PayloadType.HANDSHAKE_RESPONSE | PayloadType.ENC_CHALLENGE_RESPONSE:
            raise RemoteProtocolError(f"payload type {payload_type} goes from the client to the agent")
        case PayloadType.ENC_CHALLENGE_REQUEST:
            raise RemoteProtocolError("a challenge without an encryption that both agreed on")
    return Move.RECEIVE_STREAM, events.OutputReceived(payload, sequence, payload_type)


def _read_input(sequence: int, payload_type: int, payload: bytes) -> tuple[Move, Event | None]:
    """What an agent makes of input_stream_data."""
    match payload_type:
        case PayloadType.OUTPUT:
            return Move.RECEIVE_STREAM, events.InputReceived(payload, sequence)
        case PayloadType.SIZE:
            size = payloads.Size.parse(payload)
            return Move.RECEIVE_STREAM, events.SizeReceived(size.cols, size.rows)
        case PayloadType.HANDSHAKE_RESPONSE:
            return Move.RECEIVE_RESPONSE, events.HandshakeResponded(payloads.HandshakeResponse.parse(payload))
        case PayloadType.FLAG:
            return Move.RECEIVE_STREAM, events.FlagReceived(payloads.parse_flag(payload), sequence)
        case PayloadType.HANDSHAKE_REQUEST | PayloadType.HANDSHAKE_COMPLETE | PayloadType.ENC_CHALLENGE_REQUEST:
            raise RemoteProtocolError(f"payload type {payload_type} goes from the agent to the client")
        case PayloadType.ENC_CHALLENGE_RESPONSE:
            raise RemoteProtocolError("an answer to a challenge that nobody made")
    return Move.RECEIVE_STREAM, None
