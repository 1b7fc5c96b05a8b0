"""The only reader of the time: UTC for moments, monotonic for lengths, and identifiers that sort by time."""

import os
import time
import uuid
from datetime import UTC, datetime

_WALL_AT_START = time.time()
_MONOTONIC_AT_START = time.monotonic()


def now() -> datetime:
    """The moment, aware, in UTC."""
    return datetime.now(UTC)


def monotonic() -> float:
    """Seconds from an arbitrary start, for lengths and time-outs; never goes back."""
    return time.monotonic()


def steady() -> float:
    """Seconds since 1970 UTC that never go back while this process lives.

    For protocols that stamp frames and run timers off one number: the wall time at start plus what the monotonic clock
    has counted since, so that a corrected system clock neither fires nor stops a retransmission.
    """
    return _WALL_AT_START + (time.monotonic() - _MONOTONIC_AT_START)


def uuid7() -> uuid.UUID:
    """A new UUIDv7 (RFC 9562, section 5.7): 48 bits of Unix milliseconds, 12 of their fraction, 62 random bits.

    With the fraction (section 6.2, method 3; steps of 244 ns) two rows of one request sort in the order of their deeds.
    """
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    fraction = (nanoseconds << 12) // 1_000_000
    value = (milliseconds & ((1 << 48) - 1)) << 80 | fraction << 64 | int.from_bytes(os.urandom(8), "big")
    value = value | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return uuid.UUID(int=value)
