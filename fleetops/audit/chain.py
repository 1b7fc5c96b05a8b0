"""Sealing the audit log, and proving that it is whole.

Each row carries a digest keyed by AUDIT_KEY from the moment it is inserted. Within about a second the sealer gives it a
number and a link:

    hash(n) = SHA-256(hash(n-1) | n as 8 bytes, big-endian | the event's id, 16 bytes | its digest, 32 bytes)

and writes the last number and hash, keyed too, to the head file outside of the database. What that proves, to whoever
holds the key: no sealed row was changed (digest), removed, inserted or moved (links), and none cut off at the end
(head). What it does not prove:

- The open second: a row that is not sealed yet can be removed without a trace. It cannot be changed or forged.
- A head file that is put back together with an older state of the database. Copies elsewhere (anchors) answer that.
- Anything against whoever holds AUDIT_KEY.
"""

import hashlib
import hmac
import json
import logging
import os
import socket
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from django.conf import settings
from django.db import transaction
from django.db.models import Q

from fleetops.clock import ago, during, monotonic, now

from .models import AuditEvent, AuditSeal, SealerLease
from .record import digest

logger = logging.getLogger(__name__)

GENESIS = "0" * 64  # the hash before the first
BATCH_ROWS = 500  # one transaction each: on SQLite others wait for it, some 15 ms
READ_ROWS = 1000  # rows in memory at a time while verifying
LEASE_SECONDS = 3  # a killed sealer holds the others up for no longer
# Rows are found by id, which grows with time; a row may commit later than those after it by as long as its transaction
# lasts. Rows that are later still are found by the sweep over everything.
LATE_SECONDS = 600
SWEEP_SECONDS = 600
_LEASE_ID = 1
_PROBLEMS_KEPT = 20


# --- The head file ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Head:
    """The last link that the sealer has written."""

    number: int
    hash: str


class HeadUnreadable(Exception):
    """The head file is there and is not ours: cut short, changed, or written under another key."""


def head_path() -> Path:
    return settings.HOME / "secrets" / "audit.head"


def read_head() -> Head | None:
    """The head as the sealer left it; None if there is no file. Raises HeadUnreadable."""
    try:
        text = head_path().read_text()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise HeadUnreadable(f"{head_path()} is not text") from None
    try:
        found = json.loads(text)
        head, mac = Head(int(found["number"]), str(found["hash"])), str(found["mac"])
    except (ValueError, KeyError, TypeError):
        raise HeadUnreadable(f"{head_path()} cannot be read") from None
    if not hmac.compare_digest(mac.encode(), _head_mac(head).encode()):
        raise HeadUnreadable(f"{head_path()} was not written with this AUDIT_KEY")
    return head


def write_head(head: Head) -> None:
    """Put `head` in the file's place, whole or not at all."""
    path = head_path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f"{path.name}.{os.getpid()}.{uuid.uuid4().hex}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"number": head.number, "hash": head.hash, "mac": _head_mac(head)}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)


def _head_mac(head: Head) -> str:
    text = f"fleetops audit head {head.number} {head.hash}"
    return hmac.new(settings.AUDIT_KEY.encode(), text.encode(), hashlib.sha256).hexdigest()


# --- Sealing ---------------------------------------------------------------------------------------------------------


def link_hash(before: str, number: int, event_id: uuid.UUID, event_digest: str) -> str:
    """The hash of link `number`, in hex; see the head of this module."""
    link = bytes.fromhex(before) + number.to_bytes(8, "big") + event_id.bytes + bytes.fromhex(event_digest)
    return hashlib.sha256(link).hexdigest()


class Sealer:
    """Numbers and chains rows. Any number of them may run: the lease lets one through at a time."""

    def __init__(self) -> None:
        self._token = uuid.uuid4().hex[:6]
        self._swept_at: float | None = None

    @property
    def holder(self) -> str:
        """Who this is, as the lease names it. Asked anew each time: a worker forks after it has made its sealer."""
        return f"{socket.gethostname()[:40]}:{os.getpid()}:{self._token}"

    def _sweep_is_due(self) -> bool:
        """The first time in this process, and now and then: for rows that stayed open for longer than LATE_SECONDS."""
        return self._swept_at is None or monotonic() - self._swept_at > SWEEP_SECONDS

    def seal(self, *, seconds: float = 5.0) -> int:
        """Seal what is not sealed, for at most about `seconds`; returns how many rows. 0 while another has the lease.

        The lease saves work; what keeps two sealers from one number is that a batch first updates the lease's row in
        its own transaction, for which the other waits, and that numbers are a primary key.
        """
        if not self._sweep_is_due() and not _unsealed(_late()).exists():
            return 0
        if not self._take_lease():
            return 0
        deadline = monotonic() + seconds
        total = 0
        try:
            while True:
                sweep = self._sweep_is_due()
                found = self._seal_batch(sweep=sweep)
                if found is None:
                    return total
                total += found
                if found < BATCH_ROWS:
                    if not sweep:
                        return total
                    self._swept_at = monotonic()
                if monotonic() > deadline:
                    return total
        finally:
            self._give_lease_back()

    def _take_lease(self) -> bool:
        moment = now()
        SealerLease.objects.bulk_create([SealerLease(id=_LEASE_ID, until=moment)], ignore_conflicts=True)
        length = during(timedelta(seconds=LEASE_SECONDS))
        mine = {"holder": self.holder, "until": moment + length}
        # An end that nobody can have meant is of a clock that was put back since.
        over = Q(until__lte=moment) | Q(until__gt=moment + 100 * length)
        free = SealerLease.objects.filter(over, id=_LEASE_ID)
        own = SealerLease.objects.filter(id=_LEASE_ID, holder=self.holder)
        return bool(free.update(**mine) or own.update(**mine))

    def _give_lease_back(self) -> None:
        SealerLease.objects.filter(id=_LEASE_ID, holder=self.holder).update(until=now())

    def _seal_batch(self, *, sweep: bool) -> int | None:
        """Seal the next rows in one transaction; None if the lease is lost."""
        with transaction.atomic():
            lease = SealerLease.objects.filter(id=_LEASE_ID, holder=self.holder)
            if not lease.update(until=now() + during(timedelta(seconds=LEASE_SECONDS))):
                return None
            last = AuditSeal.objects.order_by("-number").first()
            number, previous = (last.number, last.hash) if last else (0, GENESIS)
            before = Head(number, previous)
            rows = _unsealed(None if sweep else _late())
            seals = []
            for event_id, event_digest in rows.values_list("id", "digest")[:BATCH_ROWS]:
                number += 1
                previous = link_hash(previous, number, event_id, event_digest)
                seals.append(AuditSeal(number=number, event_id=event_id, hash=previous))
            AuditSeal.objects.bulk_create(seals)
        # After the commit: a sealer killed here leaves a head that is behind, which the next batch mends. One that is
        # ahead would accuse a chain that is whole.
        self._move_head(before, Head(number, previous))
        return len(seals)

    def _move_head(self, before: Head, after: Head) -> None:
        """Write the head, but never over one that this chain does not contain: it is the proof of what was cut off."""
        try:
            head = read_head()
        except HeadUnreadable as error:
            logger.error("audit head kept as it is reason=%s", error)
            return
        if head is None:
            if before.number:
                logger.error("audit head is missing path=%s last=%s; run audit_verify", head_path(), before.number)
                return
        elif head in (after, before):
            if head == after:
                return
        elif head.number > after.number or not _contains(head):
            logger.error("audit chain lacks its head number=%s last=%s; run audit_verify", head.number, after.number)
            return
        write_head(after)


def _unsealed(since: datetime | None = None):
    rows = AuditEvent.objects.filter(seal=None).order_by("id")
    return rows if since is None else rows.filter(id__gte=_lowest_id(since))


def _late() -> datetime:
    return ago(LATE_SECONDS)


def _lowest_id(moment: datetime) -> uuid.UUID:
    """The lowest UUIDv7 of that millisecond."""
    return uuid.UUID(int=int(moment.timestamp() * 1000) << 80)


def _contains(head: Head) -> bool:
    return head == Head(0, GENESIS) or AuditSeal.objects.filter(number=head.number, hash=head.hash).exists()


# --- Verifying -------------------------------------------------------------------------------------------------------


@dataclass
class Verification:
    """What a look over the log has shown."""

    sealed: int = 0  # links that were recomputed
    unsealed: int = 0  # rows of the open second
    first_bad: str = ""  # the first of `problems`
    problems: list[str] = field(default_factory=list)  # at most 20; in words, each with its number or event
    problem_count: int = 0
    head: Head = Head(0, GENESIS)  # the last link that was reached
    sealed_to: datetime | None = None  # moment of the last sealed event
    oldest_unsealed: datetime | None = None
    head_file: Head | None = None
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.problem_count

    def found(self, problem: str) -> None:
        self.problem_count += 1
        self.first_bad = self.first_bad or problem
        if len(self.problems) < _PROBLEMS_KEPT:
            self.problems.append(problem)


def verify(
    progress: Callable[[int], None] | None = None,
    *,
    after: Head | None = None,
    at_most: int | None = None,
) -> Verification:
    """Recompute every digest and every link, and compare the end with the head file. Changes nothing.

    Streams, READ_ROWS rows at a time; `progress` is told the number of links done. `after` starts behind a link that an
    earlier look has proven, and `at_most` stops after that many: then neither the head file nor unsealed rows are
    looked at, unless the end is reached. With `after`, unsealed rows are those of the last LATE_SECONDS.
    """
    started = monotonic()
    result = Verification()
    # Read before the links: the chain may grow meanwhile, so that it holds this head whatever happens.
    try:
        result.head_file = read_head()
        head_problem = ""
    except HeadUnreadable as error:
        head_problem = f"the head file is not the sealer's: {error}"
    head_seen = _walk(result, after or Head(0, GENESIS), at_most, progress)
    if at_most is None or result.sealed < at_most:
        _compare_head(result, head_problem, head_seen, after)
        _look_at_unsealed(result, _unsealed() if after is None else _unsealed(_late()))
    result.seconds = monotonic() - started
    return result


def _walk(result: Verification, start: Head, at_most: int | None, progress) -> bool:
    """Follow the links from `start`; returns whether the head file's link was among them."""
    number, previous, last_read = start.number, start.hash, start.number
    result.head = start
    head_seen = result.head_file in (start, Head(0, GENESIS))
    last_at: datetime | None = None
    while at_most is None or result.sealed < at_most:
        wanted = READ_ROWS if at_most is None else min(READ_ROWS, at_most - result.sealed)
        seals = list(AuditSeal.objects.filter(number__gt=last_read).order_by("number")[:wanted])
        if not seals:
            break
        events = AuditEvent.objects.in_bulk([seal.event_id for seal in seals])
        for seal in seals:
            number += 1
            if seal.number != number:
                gap = f"{number}" if seal.number == number + 1 else f"{number} to {seal.number - 1}"
                result.found(f"number {gap} is missing from the chain")
                number = seal.number
            event = events.get(seal.event_id)
            if event is None:
                result.found(f"number {number}: event {seal.event_id} was removed")
            else:
                if event.digest != digest(event):
                    result.found(f"number {number}: event {event.id} was changed")
                elif seal.hash != link_hash(previous, number, event.id, event.digest):
                    result.found(f"number {number}: the link does not follow from the one before; event {event.id}")
                last_at = event.at
            # Go on from what stands there: one bad row shall be named, not all that come after it.
            previous = seal.hash
            head_seen = head_seen or Head(number, seal.hash) == result.head_file
        result.sealed += len(seals)
        last_read = number
        if progress:
            progress(result.sealed)
    result.head, result.sealed_to = Head(number, previous), last_at
    return head_seen


def _compare_head(result: Verification, head_problem: str, head_seen: bool, after: Head | None) -> None:
    head, last = result.head_file, result.head.number
    if head_problem:
        result.found(head_problem)
    elif head is None:
        if last:
            result.found(f"the head file {head_path()} is missing: whether the end was cut off cannot be told")
    elif head.number > last:
        result.found(f"the end is cut off: the sealer had written number {head.number}, the chain ends at {last}")
    elif not head_seen and (after is None or head.number > after.number):
        result.found(f"number {head.number} is not the link that the sealer had written there: the end was replaced")


def _look_at_unsealed(result: Verification, rows) -> None:
    for event in _pages(rows):
        result.unsealed += 1
        result.oldest_unsealed = result.oldest_unsealed or event.at
        if event.digest != digest(event):
            result.found(f"event {event.id} is not sealed yet, and was changed or not written by FleetOps")


def _pages(rows) -> Iterator[AuditEvent]:
    """Rows ordered by id, READ_ROWS at a time."""
    last = uuid.UUID(int=0)
    while page := list(rows.filter(id__gt=last)[:READ_ROWS]):
        yield from page
        last = page[-1].id


@dataclass(frozen=True)
class Neighbour:
    """A link beside another one, recomputed."""

    number: int
    hash: str
    event_id: uuid.UUID
    matches: bool


def neighbourhood(seal: AuditSeal) -> dict[str, Neighbour | None]:
    """The links before, at and after `seal`, each recomputed from its row and the link before it."""
    numbers = range(seal.number - 2, seal.number + 2)
    seals = {each.number: each for each in AuditSeal.objects.filter(number__in=numbers).select_related("event")}

    def look(number: int) -> Neighbour | None:
        if (found := seals.get(number)) is None:
            return None
        before = GENESIS if number == 1 else seals[number - 1].hash if number - 1 in seals else ""
        right = bool(before) and found.hash == link_hash(before, number, found.event.id, digest(found.event))
        return Neighbour(number, found.hash, found.event_id, right and found.event.digest == digest(found.event))

    return {"before": look(seal.number - 1), "this": look(seal.number), "after": look(seal.number + 1)}


def renew_head() -> Head:
    """Write the head file anew from the end of the chain, for after a restore or a lost file; returns it.

    The caller has to have verified the chain, and to record that it was done: from here on the file no longer tells of
    what was cut off before.
    """
    last = AuditSeal.objects.order_by("-number").first()
    head = Head(last.number, last.hash) if last else Head(0, GENESIS)
    write_head(head)
    return head
