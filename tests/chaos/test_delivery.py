"""Kill -9 of whoever delivers a session to CloudWatch Logs, at random instants: every event is there, once."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from datetime import timedelta

import pytest

from fleetops.clock import now
from sessions_app.delivery.models import LogDelivery
from tests.sessions_app.delivery.conftest import *  # noqa: F403  (its fixtures, and the session that it records)
from tests.sessions_app.delivery.reading import lines, numbers, once_each, read
from tests.support.ends import ends_with_tests

pytestmark = [pytest.mark.chaos, pytest.mark.django_db(transaction=True)]

SEED = 20261130
SETTLE = "0.5"


class Deliverer:
    """The process that delivers; the child of it that is at work is killed."""

    def __init__(self, home) -> None:
        self.process = subprocess.Popen(
            ends_with_tests([sys.executable, "-m", "tests.support.deliverer"]),
            env=os.environ
            | {
                "FLEETOPS_DATABASE_URL": f"sqlite:///{home}/test.sqlite3",
                "FLEETOPS_LOGS_SETTLE_SECONDS": SETTLE,
                "FLEETOPS_AWS_BUDGET": "no",
                "PYTHONUNBUFFERED": "1",
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._next()

    def _next(self) -> int:
        return int(self.process.stdout.readline())

    def kill(self) -> None:
        """Kill the child; its claims count as over, which they are a minute later by themselves."""
        os.kill(self.pid, signal.SIGKILL)
        self.pid = self._next()
        LogDelivery.objects.filter(claim__isnull=False).update(claimed_until=now() - timedelta(seconds=1))

    def stop(self) -> None:
        self.process.terminate()
        os.kill(self.pid, signal.SIGKILL)
        self.process.wait(10)
        self.process.stdout.close()


@pytest.fixture
def deliverer(home, account):
    deliverer = Deliverer(home)
    yield deliverer
    deliverer.stop()


def check_kills(endpoint, recorded, deliverer, faults, *, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    made = recorded()
    shown = itertools.count()
    texts = []

    def go_on() -> None:
        for _ in range(chance.randrange(1, 6)):
            text = f"line {next(shown)} {'x' * chance.randrange(60)}"
            texts.append(text)
            made.show(text.encode() + chance.choice([b"\r\n", b"\n"]))
        if chance.random() < 0.2:
            made.note("a note")
        if chance.random() < 0.5:
            made.command(f"command {len(texts)}", ended_at=now() if chance.random() < 0.7 else None)
        made.seal()

    # Both sides of a call take long enough to be hit, before AWS has done its work and after.
    faults.put("slow", "latency", match={"service": "logs", "operation": "PutLogEvents"}, seconds=0.05)
    unsure = 0
    for _ in range(kills):
        until = time.monotonic() + chance.uniform(0.15, 0.6)
        while time.monotonic() < until:
            go_on()
            time.sleep(0.03)
        deliverer.kill()
        unsure += LogDelivery.objects.filter(pk=made.session.pk, sending_at__isnull=False).exists()
    go_on()
    made.end()
    deadline = time.monotonic() + 60
    while made.row.done_at is None:
        assert time.monotonic() < deadline, made.row.__dict__
        time.sleep(0.1)
    found = read(endpoint, made.row)
    once_each(found)
    assert lines(found) == texts
    assert sorted(numbers(found, "command")) == list(range(1, next(made.commands)))
    ended = made.session.commands.filter(ended_at__isnull=False).values_list("number", flat=True)
    assert sorted(numbers(found, "ended")) == sorted(ended)
    assert made.row.events == len(found)
    print(json.dumps({"seed": seed, "kills": kills, "in the midst of a put": unsure, "events": len(found)}))


def test_ten_kills_of_who_delivers_lose_nothing_and_double_nothing(endpoint, recorded, deliverer, faults):
    check_kills(endpoint, recorded, deliverer, faults, kills=10, seed=SEED)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(SEED, SEED + 10))
def test_two_hundred_kills_lose_nothing_and_double_nothing(endpoint, recorded, deliverer, faults, seed):
    check_kills(endpoint, recorded, deliverer, faults, kills=20, seed=seed)
