"""Identifiers that sort by time."""

import time

from fleetops.clock import uuid7


def test_ids_are_version_7_and_carry_the_time():
    before = time.time_ns() // 1_000_000
    made = uuid7()
    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    assert before <= made.int >> 80 <= time.time_ns() // 1_000_000


def test_ids_made_one_after_the_other_sort_in_that_order():
    made = []
    for _ in range(50):
        made.append(uuid7())
        until = time.perf_counter_ns() + 2_000  # two steps of the fraction and more
        while time.perf_counter_ns() < until:
            pass
    assert made == sorted(made)
    assert len(set(made)) == 50
