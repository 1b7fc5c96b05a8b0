"""The budget of AWS calls: every call takes a token first, from a bucket that all processes share in Valkey."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Priority(StrEnum):
    """Who waits for a call's answer; the order is that of precedence."""

    PERSON = "person"
    RUN = "run"
    POLL = "poll"


@dataclass(frozen=True, slots=True)
class MinuteUse:
    """The calls of one operation in the minute that began `at`."""

    at: datetime
    person: int = 0
    run: int = 0
    poll: int = 0
    throttled: int = 0  # attempts that AWS refused as too many
    waited: int = 0  # calls that had to wait
    waited_ms: int = 0  # all their waits together
    person_waited: int = 0  # of `waited`
    run_waited: int = 0
    poll_waited: int = 0


@dataclass(frozen=True, slots=True)
class OperationUse:
    """How an operation stands in one account and region."""

    account_id: str
    region: str  # "global" for IAM
    operation: str  # "ssm:StartSession"
    rate: float  # calls a second that are let through now
    ceiling: float  # calls a second that the rate may grow to; a person's limit, if there is one
    learned_at: datetime | None  # None: nothing has been learned, the rate is the one to start with
    waiting: Mapping[Priority, int]  # calls that wait at this moment
    minutes: tuple[MinuteUse, ...]  # oldest first; a minute without a call is not in it
    limit: float | None = None  # set by a person


@dataclass(frozen=True, slots=True)
class Lesson:
    """A rate that was changed by what AWS answered: down by a throttle, up by going well."""

    at: datetime
    account_id: str
    region: str
    operation: str
    before: float  # calls a second
    after: float


_priority: ContextVar[Priority] = ContextVar("fleetops_aws_priority", default=Priority.PERSON)


def configure(url: str) -> None:
    """Share the buckets in the Valkey at `url`; "" for no pacing."""


@contextmanager
def acting_for(priority: Priority) -> Iterator[None]:
    """Make the calls of a block, or as a decorator of a whole function, for `priority`."""
    token = _priority.set(priority)
    try:
        yield
    finally:
        _priority.reset(token)


def use(account_ids: Collection[str], *, minutes: int = 60) -> list[OperationUse]:
    """What was called in these accounts in the last `minutes` (at most 120). Raises Unavailable without Valkey."""
    return []


def lessons(account_ids: Collection[str], *, limit: int = 20) -> list[Lesson]:
    """What was learned lately in these accounts, the newest first. Raises Unavailable without Valkey."""
    return []


def set_ceiling(account_id: str, region: str, operation: str, per_second: float | None) -> None:
    """Hold an operation below `per_second`, as a person wants it; None takes the limit away.

    Raises Unavailable without Valkey, ValueError for a number outside 0.1 to 1000.
    """
