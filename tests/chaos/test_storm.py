"""Minutes of kills in random order under a working shell. FLEETOPS_TEST_SEED chooses the order; the test prints it."""

import contextlib
import os
import random
import re
import time

import pytest
from websockets.exceptions import ConnectionClosed

from tests.support.stack import Terminal

from .test_kills import assert_audit_verifies, assert_recording_holds, attach_again, end, open_shell

pytestmark = [pytest.mark.chaos, pytest.mark.long]

SECONDS = 180
PARTS = ["terminal", "terminal", "web", "worker", "beat", "valkey", "moto"]


def read_on(terminal: Terminal, until: float) -> bool:
    """Read until that moment; False once the connection is lost."""
    while (left := until - time.monotonic()) > 0:
        try:
            terminal.step(left)
        except TimeoutError:
            return True
        except (ConnectionClosed, OSError):
            return False
    return True


@pytest.mark.timeout(SECONDS + 300)
def test_a_shell_counts_on_through_a_storm_of_kills_and_no_number_is_lost_or_shown_twice(stack, person):
    seed = int(os.environ.get("FLEETOPS_TEST_SEED", "20261125"))
    print(f"seed {seed}")
    chance = random.Random(seed)
    session_id, terminal = open_shell(person)
    terminal.type('n=0; while read -t 0.01 x; [ -z "$x" ]; do n=$((n+1)); echo line-$n; done; echo counted-$n\r')
    shown = bytearray()
    kills: dict[str, int] = {}
    ends_at = time.monotonic() + SECONDS
    while time.monotonic() < ends_at:
        part = chance.choice(PARTS)
        kills[part] = kills.get(part, 0) + 1
        if part == "moto":
            with contextlib.suppress(AssertionError):  # it is being started again already
                stack.kill_below("endpoint", "moto_process")
        else:
            pid = stack.pid(part)
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    stack.kill(part)
        if not read_on(terminal, time.monotonic() + chance.uniform(1, 6)):
            shown += terminal.output
            terminal = attach_again(person, session_id, start=terminal.offset, seconds=60)
    print(f"kills {kills}")
    for _ in range(20):
        try:
            terminal.type("x\r")
            terminal.until(r"counted-\d+\r", seconds=20)
            break
        except (ConnectionClosed, OSError, AssertionError):
            shown += terminal.output
            terminal = attach_again(person, session_id, start=terminal.offset, seconds=60)
    shown += terminal.output
    numbers = [int(number) for number in re.findall(rb"line-(\d+)\r", shown)]
    total = int(re.search(rb"counted-(\d+)\r", shown)[1])
    print(f"counted {total}")
    assert numbers == list(range(1, total + 1))
    assert total > SECONDS  # it went on all the time
    assert_recording_holds(person, session_id, bytes(shown))
    end(person, terminal)
    assert_audit_verifies(stack)
