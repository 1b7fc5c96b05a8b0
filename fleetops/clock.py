"""The only reader of the time: UTC for moments, monotonic for lengths, and identifiers that sort by time.

FLEETOPS_CLOCK_FILE names a JSON file, {"offset_seconds": 0, "rate": 1, "since": 0}, that shifts the moments of every
process that is given it: product, endpoint and nodes, so that in a test a month passes in a minute. Production refuses
it. Without it nothing here costs more than the system's own clock. It is written by `set_shift`, which also notes in it
what was in force shortly before: a jump then surprises nobody who was at work.

What is shifted and what is not:

  now(), uuid7()        shifted: what is written down, what has an end (credentials, leases, grants), what is due
  passed(), sleep()     shifted: to wait for a moment of the shifted clock
  during()              how far now() goes in real seconds: ends of claims, which must outlive real work
  ago()                 where now() stood at the lowest in the last real seconds: who gave no sign of life since
  lately()              the moment of somebody who was on the way for real seconds: a signed request
  monotonic(), steady() never shifted: time-outs, watchdogs, retransmissions, paces. A frame takes its milliseconds
                        however fast the month passes; a timer 40,000 times as fast would repeat all of them
  real_now()            never shifted: for what somebody else measures by the system's clock (TLS certificates, Django's
                        log-ins, processes on other machines)

Not ours, and never shifted: Django's log-ins and their locks, Celery's schedule, TTLs in Valkey, the shells' own clock,
browsers, and programs that know nothing of the file: what an AWS CLI signs is refused by a shifted endpoint.
"""

import asyncio
import contextlib
import json
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, Final

_WALL_AT_START = time.time()
_MONOTONIC_AT_START = time.monotonic()
_LONGEST_LOOK: Final = 0.5  # real seconds between two looks at the file, while somebody sleeps
_SHORTEST_LOOK: Final = 0.05  # a loop that sleeps for a shifted minute does not become a busy one at a high rate
# How long a shift that is over is remembered, and how many of them: for `ago` and `lately`; real seconds.
_REMEMBERED_SECONDS: Final = 1200.0
_REMEMBERED: Final = 200
# Years that datetime and AWS's formats can still write, in seconds since 1970: a rate left running stops there.
_EARLIEST, _LATEST = 0.0, 4_102_444_800.0  # 1970 and 2100


@dataclass(frozen=True, slots=True)
class Shift:
    """A shifted clock: since the real moment `since` it goes `rate` times as fast, from `offset_seconds` beside it."""

    offset_seconds: float = 0.0
    rate: float = 1.0
    since: float = 0.0  # real seconds since 1970; 0: it was always so
    before: tuple["Shift", ...] = ()  # those in force until then, the latest first, each until that after it began

    def moment(self, real: float) -> float:
        """Where this clock stands at the real moment `real`, both in seconds since 1970."""
        return min(_LATEST, max(_EARLIEST, real + self.offset_seconds + (real - self.since) * (self.rate - 1.0)))


_NONE: Final = Shift()
_file: Path | None = Path(os.environ["FLEETOPS_CLOCK_FILE"]) if os.environ.get("FLEETOPS_CLOCK_FILE") else None
_read: tuple[tuple[Path, int, int, int], Shift] | None = None


def follow(path: Path | None) -> None:
    """Go by this clock file from now on, or by the system's clock; for tests, and `main`."""
    global _file
    _file = path


def is_shifted() -> bool:
    """Whether there is a clock file, whatever it says."""
    return _file is not None


def shift() -> Shift:
    """The shift in force now. The file is read again when it has changed; one that is missing or broken is no shift."""
    global _read
    path = _file
    if path is None:
        return _NONE
    try:
        stat = path.stat()
        stamp = (path, stat.st_mtime_ns, stat.st_size, stat.st_ino)
        read = _read
        if read is None or read[0] != stamp:
            read = (stamp, _parse(path.read_text()))
            _read = read
        return read[1]
    except OSError:
        return _NONE


def _parse(text: str) -> Shift:
    try:
        given = json.loads(text)
        return _shift(given, tuple(_shift(each) for each in given.get("before", ())))
    except (ValueError, TypeError, AttributeError):
        return _NONE


def _shift(given: dict[str, Any], before: tuple[Shift, ...] = ()) -> Shift:
    offset_seconds, rate, since = (float(given.get(name, default)) for name, default in _DEFAULTS.items())
    return Shift(offset_seconds, rate, since, before)


_DEFAULTS: Final = {"offset_seconds": 0.0, "rate": 1.0, "since": 0.0}


def set_shift(path: Path, *, jump: float = 0.0, rate: float | None = None) -> Shift:
    """Write a clock file: go on from where it stands, `jump` seconds further (or back), at `rate` from now on.

    Written whole and renamed, so that no reader sees half of it.
    """
    try:
        last = _parse(path.read_text())
    except OSError:
        last = _NONE
    real = time.time()
    offset = last.moment(real) - real + jump
    after = Shift(offset, last.rate if rate is None else rate, real, _remembered(last, real))
    facts = {name: getattr(after, name) for name in _DEFAULTS}
    facts["before"] = [{name: getattr(each, name) for name in _DEFAULTS} for each in after.before]
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps(facts))
    os.replace(fresh, path)
    return after


def _remembered(last: Shift, real: float) -> tuple[Shift, ...]:
    """The shifts that were in force within the last minutes, `last` the first of them."""
    kept: list[Shift] = []
    for each in (last, *last.before)[:_REMEMBERED]:
        kept.append(Shift(each.offset_seconds, each.rate, each.since))
        if each.since < real - _REMEMBERED_SECONDS:
            break
    return tuple(kept)


def _stood(seconds: float) -> tuple[float, float]:
    """The lowest and the highest that this clock stood within the last `seconds` real ones, in seconds since 1970."""
    real = end = time.time()
    begin = real - seconds
    current = shift()
    found = [current.moment(real)]
    for each in (current, *current.before):
        start = max(begin, each.since)
        if start <= end:
            found += [each.moment(start), each.moment(end)]
        if each.since <= begin:
            break
        end = min(end, each.since)
    return min(found), max(found)


def now() -> datetime:
    """The moment, aware, in UTC."""
    if _file is None:
        return datetime.now(UTC)
    return datetime.fromtimestamp(shift().moment(time.time()), UTC)


def real_now() -> datetime:
    """The moment by the system's clock, whatever the clock file says; aware, in UTC."""
    return datetime.now(UTC)


def naive_now(remove_tzinfo: bool = True) -> datetime:
    """`now` with the signature of botocore.compat.get_current_datetime, for which it stands in where we sign."""
    moment = now()
    return moment.replace(tzinfo=None) if remove_tzinfo else moment


def sign_by_this(botocore_auth: ModuleType) -> None:
    """Have botocore's signers take their time from here, if there is a clock file; else leave them as they are.

    `botocore_auth` is the module botocore.auth, which whoever signs by it hands in. All its signatures of version 4
    take their moment by calling its global get_current_datetime; there is no parameter, event or method to override for
    it that would be more public. Raises LookupError if that has moved: else requests would bear two times.
    """
    if not is_shifted():
        return
    if not callable(getattr(botocore_auth, "get_current_datetime", None)):
        raise LookupError(f"{botocore_auth.__name__} has no get_current_datetime; see fleetops/clock.py")
    botocore_auth.get_current_datetime = naive_now  # type: ignore[attr-defined]


def during(length: timedelta) -> timedelta:
    """How far `now` goes while `length` really passes; never less than it is."""
    return length * max(1.0, shift().rate)


def ago(seconds: float) -> datetime:
    """The moment `seconds` real seconds ago, or the lowest at which `now` stood since.

    What bears an earlier one was written before that, however fast the clock went and wherever it was put.
    """
    if _file is None:
        return datetime.now(UTC) - timedelta(seconds=seconds)
    return datetime.fromtimestamp(_stood(seconds)[0], UTC)


def lately(moment: datetime, seconds: float = 5.0) -> datetime:
    """`moment`, an aware one, if this clock is shifted and stood there within the last `seconds` real ones; else now().

    To judge by it what was on its way meanwhile, such as a signed request: it is not late because the clock goes fast
    or was put.
    """
    if _file is None:
        return now()
    low, high = _stood(seconds)
    return moment if low - 1.0 <= moment.timestamp() <= high else now()  # 1.0: who writes whole seconds cuts the rest


def monotonic() -> float:
    """Real seconds from an arbitrary start, for lengths and time-outs; never goes back."""
    return time.monotonic()


def steady() -> float:
    """Real seconds since 1970 UTC that never go back while this process lives.

    For protocols that stamp frames and run timers off one number: the wall time at start plus what the monotonic clock
    has counted since, so that a corrected system clock neither fires nor stops a retransmission.
    """
    return _WALL_AT_START + (time.monotonic() - _MONOTONIC_AT_START)


def passed(seconds: float) -> Callable[[], bool]:
    """A question: have `seconds` passed by the shifted clock since now? Also true once the clock was put back."""
    began = now()
    end = began + timedelta(seconds=seconds)
    return lambda: not began <= now() < end


async def sleep(seconds: float) -> None:
    """Sleep for `seconds` of the shifted clock: a jump past the end wakes the sleeper, as does one back."""
    if _file is None:
        return await asyncio.sleep(seconds)
    is_over = passed(seconds)
    while True:
        rate = shift().rate
        left = seconds / rate if rate > 0 else _LONGEST_LOOK
        await asyncio.sleep(min(_LONGEST_LOOK, max(_SHORTEST_LOOK, left)))
        if is_over():
            return None


def uuid7() -> uuid.UUID:
    """A new UUIDv7 (RFC 9562, section 5.7): 48 bits of Unix milliseconds, 12 of their fraction, 62 random bits.

    With the fraction (section 6.2, method 3; steps of 244 ns) two rows of one request sort in the order of their deeds.
    """
    moment = time.time_ns() if _file is None else int(shift().moment(time.time()) * 1_000_000) * 1000
    milliseconds, nanoseconds = divmod(moment, 1_000_000)
    fraction = (nanoseconds << 12) // 1_000_000
    value = (milliseconds & ((1 << 48) - 1)) << 80 | fraction << 64 | int.from_bytes(os.urandom(8), "big")
    value = value | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return uuid.UUID(int=value)


def main(arguments: list[str]) -> int:
    """`python -m fleetops.clock FILE [+SECONDS|-SECONDS] [xRATE]`: set a clock file, or show where it stands."""
    jump, rate = 0.0, None
    try:
        path = Path(arguments[0])
        for word in arguments[1:]:
            if word.startswith("x"):
                rate = float(word[1:])
            else:
                jump += float(word)
    except (IndexError, ValueError):
        print(main.__doc__)
        return 2
    if len(arguments) > 1:
        set_shift(path, jump=jump, rate=rate)
    follow(path)
    print(f"{now().isoformat(timespec='seconds')} x{shift().rate:g}")
    return 0


if __name__ == "__main__":
    import sys

    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
