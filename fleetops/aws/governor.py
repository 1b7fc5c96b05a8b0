"""The budget of AWS calls: each attempt of each call takes a token first, from buckets that all processes share.

AWS allows so many calls a second of an operation, in an account and a region, to all callers together. A bucket for
each stands in Valkey, and `governor.lua` is the one program that touches it, in one step. What it holds to:

  rate       starts at `Budget.start`, or where it was an hour ago at most. AWS's throttle, of any attempt, takes 30 %
             off it, once a second at most, and empties the bucket; while the rate is used and all goes well it grows
             again, up to the ceiling: by 10 % a second, but by 1 % near the rate at which AWS refused the last time.
  ceiling    `Budget.ceiling`, or what a person has set.
  a person   goes even where the bucket is in debt (half of a full one), so before all that wait; then waits 2 s at
             most, and goes all the same: AWS may say no, and that is better than a page that stands still.
  a run      leaves a fifth of a full bucket for people, and a poll two fifths for both.
  nobody     starves: of runs and of polls one call goes each 5 s, if it has waited as long, whatever else is called.
  waiting    those who wait go before those of their class, or below, who come later. A run waits 20 s at most and a
             poll 15 s, all attempts of a call together; then `Unavailable` is raised, with `is_paced`.

Without Valkey, or where it takes over 0.25 s to answer, nothing is paced for 5 s: no shell waits for book-keeping.
AssumeRole queues as a person does, whoever calls: all threads of that identity wait for it, at botocore's lock.
"""

from __future__ import annotations

import logging
import mmap
import random
import threading
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from fleetops import metrics
from fleetops.clock import monotonic

from .errors import THROTTLED, Unavailable

logger = logging.getLogger(__name__)


class Priority(StrEnum):
    """Who waits for a call's answer; the order is that of precedence."""

    PERSON = "person"
    RUN = "run"
    POLL = "poll"


@dataclass(frozen=True, slots=True)
class Budget:
    """Calls a second that an operation begins with, and those that its rate may grow to."""

    start: float
    ceiling: float


# By operation, else by service. [M]: from memory, not read. Where AWS says what it allows, that is the account's whole
# allowance: others call too, so a rate starts below it.
BUDGETS: Final[Mapping[str, Budget]] = {
    # Reads that are paged or filtered: 20 a second, 100 at once, of each. EC2 developer guide, "Request throttling".
    "ec2": Budget(10, 20),
    # 600 a second of all its operations together. IAM user guide, "IAM and AWS STS quotas" [M].
    "sts": Budget(20, 100),
    # "Nearly unlimited" for standard queues. SQS developer guide, "Quotas" [M]. The ceiling is ours.
    "sqs": Budget(20, 100),
    # 300 a second in the smallest regions. SNS, "Endpoints and quotas" [M].
    "sns:Publish": Budget(20, 100),
    # CloudTrail, "Quotas": 2 a second.
    "cloudtrail:LookupEvents": Budget(1, 2),
    # Service model of securityhub: 10 a second, of reads 3.
    "securityhub:BatchImportFindings": Budget(5, 10),
    "securityhub:BatchUpdateFindings": Budget(5, 10),
    "securityhub:GetFindings": Budget(2, 3),
    # CloudWatch Logs, "Quotas", 2022.
    "logs:CreateLogGroup": Budget(3, 5),
    "logs:DescribeLogStreams": Budget(3, 5),
    "logs:FilterLogEvents": Budget(3, 5),
    "logs:GetLogEvents": Budget(5, 10),
    "logs:CreateLogStream": Budget(20, 50),
    # The same of 2022: 800 a second, 1,500 in three regions.
    "logs:PutLogEvents": Budget(50, 500),
    # 3,500 writes and 5,500 reads a second of each prefix of a bucket. S3 user guide, "Optimizing performance".
    "s3": Budget(50, 500),
}
# All others, SSM's and IAM's among them: AWS publishes no number, and accounts have seen throttles at a few calls a
# second. Both are assumed; what is allowed is learned.
_ELSE: Final = Budget(5, 20)
LOWEST, HIGHEST = 0.1, 1000.0  # calls a second that a person may set
BOUND_SECONDS: Final[Mapping[Priority, float]] = {Priority.PERSON: 2.0, Priority.RUN: 20.0, Priority.POLL: 15.0}
MOST_MINUTES: Final = 120  # that are kept

_TIMEOUT_SECONDS: Final = 0.25
_AWAY_SECONDS: Final = 5.0
_PREFIX: Final = "fleetops:governor"
_CLASSES: Final = {each: str(number) for number, each in enumerate(Priority, 1)}
_GLOBAL: Final = frozenset({"iam"})  # services that have one bucket for all regions
_ASSUME_ROLE: Final = "sts:AssumeRole"
_WAITED, _MAY_GROW = "fleetops_waited", "fleetops_may_grow"
_SCRIPT: Final = Path(__file__).with_suffix(".lua").read_text()


# --- what is told ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MinuteUse:
    """The calls of one operation in the minute that began `at`, each attempt counted."""

    at: datetime
    person: int = 0
    run: int = 0
    poll: int = 0
    throttled: int = 0  # attempts that AWS refused as too many
    waited: int = 0  # attempts that had to wait
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


# --- who calls -------------------------------------------------------------------------------------------------------

_priority: ContextVar[Priority] = ContextVar("fleetops_aws_priority", default=Priority.PERSON)


@contextmanager
def acting_for(priority: Priority) -> Iterator[None]:
    """Make the calls of a block, or as a decorator of a whole function, for `priority`."""
    token = _priority.set(priority)
    try:
        yield
    finally:
        _priority.reset(token)


def act_for(priority: Priority) -> None:
    """Make all calls for `priority` from here on, in this context; for who begins and ends a task."""
    _priority.set(priority)


def acts_for() -> Priority:
    """For whom calls are made here."""
    return _priority.get()


# --- where the buckets are -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bucket:
    """What is paced on its own."""

    account_id: str
    region: str
    operation: str

    @property
    def name(self) -> str:
        return f"{self.region} {self.operation}"

    @property
    def budget(self) -> Budget:
        service = self.operation.partition(":")[0]
        return BUDGETS.get(self.operation) or BUDGETS.get(service) or Budget(_start, max(_start, _ELSE.ceiling))

    def keys(self) -> list[str]:
        """The script's KEYS, in its order."""
        account = f"{_PREFIX}:{self.account_id}"
        own = f"{account}:{self.name}"
        return [
            own,
            f"{own}:minutes",
            f"{account}:index",
            f"{account}:limits",
            f"{account}:lessons",
            *(f"{own}:{each}" for each in Priority),
        ]


class _Book:
    """The connection to Valkey, and whether it is worth asking."""

    def __init__(self, url: str) -> None:
        # One more try at once: a connection from before Valkey was restarted says nothing about Valkey.
        self.client = redis.Redis.from_url(
            url,
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 1),
            decode_responses=True,
        )
        self._script = self.client.register_script(_SCRIPT)
        self._away_until = 0.0
        self._is_away = False
        self._lock = threading.Lock()

    def ask(self, what: str, bucket: Bucket, *more: str, at: float | None = None) -> list[str] | None:
        """The script's answer; None if nothing is paced now. `at`: seconds since 1970 in the place of Valkey's."""
        if monotonic() < self._away_until:
            return None
        budget = bucket.budget
        given = [what, "" if at is None else f"{at:.6f}", bucket.name, str(budget.start), str(budget.ceiling), *more]
        try:
            answer: list[str] = self._script(keys=bucket.keys(), args=given)
        except redis.RedisError as error:
            with self._lock:
                self._away_until = monotonic() + _AWAY_SECONDS
                was_away, self._is_away = self._is_away, True
            if not was_away:
                logger.warning("AWS calls go unpaced: Valkey does not answer error=%s", type(error).__name__)
            return None
        if self._is_away:
            self._is_away = False
            logger.info("AWS calls are paced again")
        return answer


_book: _Book | None = None
_start = _ELSE.start
# Shared with the processes that are forked later: a worker's main process is told of its end, its pool is not.
_ending = mmap.mmap(-1, 1)


def configure(url: str, *, start: float = _ELSE.start) -> None:
    """Share the buckets in the Valkey at `url`; "" for no pacing. `start`: calls a second of what BUDGETS has not."""
    global _book, _start
    _book = _Book(url) if url else None
    _start = start
    _ending[0] = 0


def stop() -> None:
    """This process ends, and those that it has forked: nobody waits any more."""
    _ending[0] = 1


# --- each attempt ----------------------------------------------------------------------------------------------------


def watch(client: Any, *, account: str, region: str) -> None:
    """Pace every attempt of every call of `client`, and learn from its answer."""
    service = client.meta.service_model
    prefix = str(service.endpoint_prefix)
    place = "global" if prefix in _GLOBAL else region

    def before(request: Any, operation_name: str, **_: Any) -> None:
        pace(Bucket(account, place, f"{prefix}:{operation_name}"), request.context)

    def after(parsed_response: Any, context: dict[str, Any], event_name: str, **_: Any) -> None:
        if parsed_response is not None:  # else no answer came, which says nothing
            code = str(parsed_response.get("Error", {}).get("Code") or "")
            learn(Bucket(account, place, f"{prefix}:{event_name.rpartition('.')[2]}"), context, code)

    # Named by service: botocore calls the handlers of the longer name first, and signs in one of them. A signature from
    # before the wait could be too old after it.
    name = service.service_id.hyphenize()
    client.meta.events.register_first(f"request-created.{name}", before, unique_id="fleetops-pace")
    client.meta.events.register_first(f"response-received.{name}", after, unique_id="fleetops-learn")


def pace(bucket: Bucket, context: dict[str, Any]) -> None:
    """Take a token for one attempt of a call, waiting for it if need be; `context` is botocore's, of the call.

    Raises Unavailable, with `is_paced`, if a run or a poll has waited long enough.
    """
    book = _book
    if book is None:
        return
    priority = acts_for()
    queue = Priority.PERSON if bucket.operation == _ASSUME_ROLE else priority
    bound = BOUND_SECONDS[queue]
    left = bound - float(context.get(_WAITED, 0.0))
    me = uuid.uuid4().hex
    began, waited = 0.0, 0.0
    is_waiting = False
    try:
        while True:
            is_over = waited >= left or bool(_ending[0])
            goes = is_over and queue is Priority.PERSON
            who = (_CLASSES[priority], _CLASSES[queue], me, f"{waited * 1000:.0f}", "1" if goes else "")
            answer = book.ask("take", bucket, *who)
            if answer is None:
                metrics.AWS_UNPACED.inc()
                is_waiting = False
                return
            if answer[0] == "1":
                context[_MAY_GROW] = answer[1] == "1"
                is_waiting = False
                break
            if not is_waiting:
                is_waiting, began = True, monotonic()
            if is_over:
                raise _out_of_time(bucket, float(answer[2]), context)
            # Not all at the same moment, if several wait.
            time.sleep(max(0.001, min(float(answer[1]) * random.uniform(1.0, 1.1), left - waited)))
            waited = max(0.001, monotonic() - began)
    finally:
        if waited:
            context[_WAITED] = float(context.get(_WAITED, 0.0)) + waited
            metrics.AWS_WAITS.labels(priority).observe(waited)
        if is_waiting:  # given up, or stopped in its midst
            book.ask("leave", bucket, _CLASSES[priority], _CLASSES[queue], me, f"{waited * 1000:.0f}")


def learn(bucket: Bucket, context: dict[str, Any], code: str) -> None:
    """Take note of an attempt's answer; `code` is AWS's, "" for none."""
    book = _book
    if book is None:
        return
    if code in THROTTLED:
        metrics.AWS_SLOWED.labels(bucket.account_id, bucket.region, bucket.operation).inc()
        answer = book.ask("throttled", bucket)
        if answer is not None:
            logger.info(
                "AWS asks for fewer calls operation=%s account=%s region=%s a_second=%s",
                bucket.operation,
                bucket.account_id,
                bucket.region,
                answer[2],
            )
    elif context.get(_MAY_GROW):
        book.ask("went", bucket)


def _out_of_time(bucket: Bucket, rate: float, context: dict[str, Any]) -> Unavailable:
    where = f"{bucket.operation} in {bucket.account_id} {bucket.region}"
    why = (
        f"FleetOps is stopping, so {where} was not called"
        if _ending[0]
        else f"Other calls of {where} came first: about {rate:.2g} a second may go"
    )
    text = f"{why}. It is tried again by itself."
    error = Unavailable("Paced", "", operation=bucket.operation, text=text)
    error.is_paced = True
    # An attempt of before may have reached AWS all the same.
    error.is_outcome_unknown = int(context.get("retries", {}).get("attempt", 1)) > 1
    return error


# --- for people ------------------------------------------------------------------------------------------------------


def use(account_ids: Collection[str], *, minutes: int = 60) -> list[OperationUse]:
    """What was called in these accounts in the last `minutes` (at most 120). Raises Unavailable without Valkey."""
    client = _client()
    accounts = sorted(set(account_ids))
    with _told():
        seconds, microseconds = client.time()
        now = seconds + microseconds / 1_000_000
        pipe = client.pipeline(transaction=False)
        for account in accounts:
            pipe.zrange(f"{_PREFIX}:{account}:index", 0, -1)
            pipe.hgetall(f"{_PREFIX}:{account}:limits")
        answers = iter(pipe.execute())
        found: list[tuple[Bucket, float | None]] = []
        pipe = client.pipeline(transaction=False)
        for account in accounts:
            called, limits = next(answers), next(answers)
            for name in sorted({*called, *limits}):
                region, _, operation = name.partition(" ")
                bucket = Bucket(account, region, operation)
                found.append((bucket, float(limits[name]) if name in limits else None))
                keys = bucket.keys()
                pipe.hmget(keys[0], "rate", "learned_at")
                pipe.hvals(keys[1])
                for key in keys[5:]:
                    pipe.zcount(key, f"({now}", "+inf")
        answers = iter(pipe.execute())
    told = []
    for bucket, limit in found:
        (rate, learned_at), counted = next(answers), next(answers)
        waiting = {each: int(next(answers)) for each in Priority}
        budget = bucket.budget
        ceiling = budget.ceiling if limit is None else limit
        told.append(
            OperationUse(
                account_id=bucket.account_id,
                region=bucket.region,
                operation=bucket.operation,
                rate=min(float(rate or budget.start), ceiling),
                ceiling=ceiling,
                learned_at=_moment(float(learned_at)) if learned_at else None,
                waiting=waiting,
                minutes=tuple(_minutes(counted, int(now // 60) - min(minutes, MOST_MINUTES))),
                limit=limit,
            )
        )
    return told


def _minutes(counted: Collection[str], after: int) -> Iterator[MinuteUse]:
    """Those of the script's minutes that began after the one of that number since 1970; oldest first."""
    for each in sorted(tuple(map(int, value.split(","))) for value in counted):
        minute, person, run, poll, throttled, person_waited, run_waited, poll_waited, waited_ms = each
        if minute > after:
            waits = (person_waited, run_waited, poll_waited)
            yield MinuteUse(_moment(minute * 60), person, run, poll, throttled, sum(waits), waited_ms, *waits)


def lessons(account_ids: Collection[str], *, limit: int = 20) -> list[Lesson]:
    """What was learned lately in these accounts, the newest first. Raises Unavailable without Valkey."""
    client = _client()
    found = []
    with _told():
        pipe = client.pipeline(transaction=False)
        accounts = sorted(set(account_ids))
        for account in accounts:
            pipe.lrange(f"{_PREFIX}:{account}:lessons", 0, limit - 1)
        for account, told in zip(accounts, pipe.execute(), strict=True):
            for each in told:
                at, name, before, after = each.split(",")
                region, _, operation = name.partition(" ")
                found.append(Lesson(_moment(float(at)), account, region, operation, float(before), float(after)))
    return sorted(found, key=lambda each: each.at, reverse=True)[:limit]


def set_ceiling(account_id: str, region: str, operation: str, per_second: float | None) -> None:
    """Let an operation's rate grow to `per_second`, as a person wants it, and not to what BUDGETS says; None: as there.

    It is forgotten 30 days after the last call of the account.

    Raises Unavailable without Valkey, ValueError for a number outside 0.1 to 1000.
    """
    if per_second is not None and not LOWEST <= per_second <= HIGHEST:
        raise ValueError(f"a limit is from {LOWEST:g} to {HIGHEST:g} calls a second")
    client = _client()
    key, name = f"{_PREFIX}:{account_id}:limits", Bucket(account_id, region, operation).name
    with _told():
        if per_second is None:
            client.hdel(key, name)
        else:
            client.hset(key, name, str(per_second))
            client.expire(key, 30 * 24 * 3600)


def _client() -> Any:
    if _book is None:
        raise Unavailable("NoGovernor", "", text="AWS calls are not paced here, so nothing is counted.")
    return _book.client


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise Unavailable(
            type(error).__name__,
            "",
            text="Valkey, which counts AWS calls, does not answer; they go unpaced until it does.",
        ) from None


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
