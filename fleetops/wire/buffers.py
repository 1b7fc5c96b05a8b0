"""What a channel keeps until the other end has it, or until it is its turn; and the estimate of the way there and back.

Every bound stands here, with its reason. Bytes count payloads; a message costs some 300 bytes more.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

# The plugin's own number for its outgoing buffer (src/config/config.go). It bounds a flood of keystrokes.
MAX_OUTGOING_MESSAGES: Final = 10_000

# At 25 MB/s this lasts 160 ms, longer than any acknowledge takes on the way through our own chain. It is also what a
# session may cost while its other end is away, and what still comes after a Ctrl-C.
MAX_OUTGOING_BYTES: Final = 4 * 1024 * 1024

# The plugin's number. Only messages that arrive behind a lost one wait here.
MAX_INCOMING_MESSAGES: Final = 10_000

# 10,000 messages of the real agent's 1,024 bytes (1,052 encrypted), and more than our own agent can have under way.
MAX_INCOMING_BYTES: Final = 12 * 1024 * 1024

# Facts that the caller has not fetched yet. It does so after each frame; this is what one frame can set free (all that
# waited behind it), so a caller that never comes costs no more than that.
MAX_EVENTS: Final = MAX_INCOMING_MESSAGES + 1
MAX_EVENT_BYTES: Final = MAX_INCOMING_BYTES

# Acknowledges that the caller has not fetched yet. One that is left out is made up for: the message is repeated.
MAX_ACKNOWLEDGES: Final = MAX_INCOMING_MESSAGES + 1

# Seconds, from both config.go: the first estimate, the first time-out, the highest, the least allowance for variation.
FIRST_ROUND_TRIP: Final = 0.1
FIRST_TIMEOUT: Final = 0.2
MAX_TIMEOUT: Final = 1.0
_CLOCK_GRANULARITY: Final = 0.01

Item = TypeVar("Item")


class RoundTrip:
    """The estimate of a round trip, in seconds. Source: P:streaming.go calculateRetransmissionTimeout."""

    __slots__ = ("mean", "timeout", "variation")

    def __init__(self) -> None:
        self.mean = FIRST_ROUND_TRIP
        self.variation = 0.0
        self.timeout = FIRST_TIMEOUT

    def sample(self, seconds: float) -> None:
        """Take in one measurement; only of a message sent once, else nobody knows which copy was answered."""
        self.variation += (abs(self.mean - seconds) - self.variation) / 4
        self.mean += (seconds - self.mean) / 8
        self.timeout = min(MAX_TIMEOUT, self.mean + max(_CLOCK_GRANULARITY, 4 * self.variation))


class Sent:
    """A stream message that is not acknowledged yet."""

    __slots__ = ("frame", "sends", "sent_at", "size")

    def __init__(self, frame: bytes, size: int) -> None:
        self.frame = frame
        self.size = size  # bytes of payload
        self.sends = 0
        self.sent_at = 0.0  # the last time, seconds since 1970 UTC


class Outgoing:
    """Stream messages on their way, by number, until each is acknowledged.

    The head is the one with the lowest number. Numbers need not be contiguous: acknowledges come in any order.
    """

    __slots__ = ("_sent", "head_sequence", "next_sequence", "size")

    def __init__(self, next_sequence: int) -> None:
        self._sent: dict[int, Sent] = {}
        self.next_sequence = next_sequence
        self.head_sequence = next_sequence  # all below it are acknowledged
        self.size = 0  # bytes of payload

    def __len__(self) -> int:
        return len(self._sent)

    def get(self, sequence: int) -> Sent | None:
        """The message with this number, if it is not acknowledged."""
        return self._sent.get(sequence)

    def has_room(self, messages: int, size: int) -> bool:
        """Whether so many more messages with so many bytes of payload fit."""
        return len(self._sent) + messages <= MAX_OUTGOING_MESSAGES and self.size + size <= MAX_OUTGOING_BYTES

    def add(self, sequence: int, sent: Sent) -> None:
        """Keep a message; its number is the next one, or one below that nobody holds."""
        self._sent[sequence] = sent
        self.size += sent.size
        if sequence >= self.next_sequence:
            self.next_sequence = sequence + 1
        elif sequence < self.head_sequence:
            self.head_sequence = sequence

    def remove(self, sequence: int) -> None:
        """Let go of a message that we hold: it is acknowledged."""
        self.size -= self._sent.pop(sequence).size
        if not self._sent:
            self.head_sequence = self.next_sequence
        elif sequence == self.head_sequence:
            # Mostly the next one. After a hole we look at what we hold, which is bounded, not at all numbers between.
            self.head_sequence = sequence + 1 if sequence + 1 in self._sent else min(self._sent)

    def head(self) -> Sent | None:
        """The message to repeat, if any is."""
        return self._sent.get(self.head_sequence)

    def clear(self) -> None:
        """Let go of everything: the channel is closed. The numbers stay as they are."""
        self._sent.clear()
        self.size = 0


class Incoming(Generic[Item]):
    """Stream messages that came before their turn, by number."""

    __slots__ = ("_waiting", "expected_sequence", "size")

    def __init__(self, expected_sequence: int) -> None:
        self._waiting: dict[int, tuple[Item, int]] = {}
        self.expected_sequence = expected_sequence
        self.size = 0  # bytes of payload

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, sequence: int) -> bool:
        return sequence in self._waiting

    def store(self, sequence: int, item: Item, size: int) -> bool:
        """Keep a message for later. False if it lies too far ahead or there is no room: do not acknowledge it then."""
        if sequence >= self.expected_sequence + MAX_INCOMING_MESSAGES or self.size + size > MAX_INCOMING_BYTES:
            return False
        self._waiting[sequence] = (item, size)
        self.size += size
        return True

    def pop(self) -> Item | None:
        """Take out the message whose turn it is; None if it is not here."""
        waiting = self._waiting.pop(self.expected_sequence, None)
        if waiting is None:
            return None
        self.size -= waiting[1]
        return waiting[0]

    def clear(self) -> None:
        """Let go of everything: the channel is closed."""
        self._waiting.clear()
        self.size = 0
