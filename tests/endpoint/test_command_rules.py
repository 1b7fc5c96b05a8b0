"""How a command goes through its targets, and what becomes of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetops.endpoint import command_rules as rules
from fleetops.endpoint.states import CommandStatus


def test_numbers_and_percentages():
    assert rules.number_of("7", 1000) == 7
    assert rules.number_of("10%", 50) == 5
    assert rules.number_of("10%", 9) == 0


def test_it_ramps_to_its_limit():
    assert [rules.may_be_under_way("50", 1000, taken) for taken in (0, 1, 3, 7, 15, 31)] == [1, 3, 7, 15, 31, 50]
    assert rules.may_be_under_way("10%", 5, 0) == 1


@pytest.mark.parametrize(
    ("max_errors", "failed", "spent"), [("0", 0, False), ("0", 1, True), ("3", 3, False), ("3", 4, True)]
)
def test_sending_ends_at_the_error_after_the_last_allowed(max_errors, failed, spent):
    assert rules.is_spent(max_errors, 50, {"Failed": failed, "Undeliverable": 9}) is spent


def test_ten_per_cent_of_fifty_ends_at_the_sixth():
    assert not rules.is_spent("10%", 50, {"ExecutionTimedOut": 5})
    assert rules.is_spent("10%", 50, {"Failed": 4, "ExecutionTimedOut": 2})


@pytest.mark.parametrize(
    ("details", "max_errors", "cancelled", "expected"),
    [
        ([], "0", False, ("Success", "NoInstancesInTag")),
        (["Success", "Success"], "0", False, ("Success", "Success")),
        (["Undeliverable"] * 4 + ["Success"], "0", False, ("Success", "Success")),
        (["Failed", "Success"], "0", False, ("Failed", "Failed")),
        (["Failed", "Success"], "1", False, ("Failed", "Incomplete")),
        (["ExecutionTimedOut"], "0", False, ("TimedOut", "ExecutionTimedOut")),
        (["DeliveryTimedOut", "DeliveryTimedOut"], "0", False, ("TimedOut", "DeliveryTimedOut")),
        (["DeliveryTimedOut", "Success"], "0", False, ("Failed", "Incomplete")),
        (["AccessDenied", "AccessDenied"], "0", False, ("Failed", "AccessDenied")),
        (["InvalidPlatform"], "0", False, ("Failed", "Failed")),
        (["Undeliverable"], "0", False, ("Failed", "Failed")),
        (["AccessDenied"] * 4 + ["Success"], "0", False, ("Success", "Success")),
        (["Cancelled", "Success"], "0", True, ("Cancelled", "Cancelled")),
        (["Cancelled", "Success"], "0", False, ("Failed", "Incomplete")),
        (["Success"], "0", True, ("Success", "Success")),
    ],
)
def test_what_becomes_of_a_command(details, max_errors, cancelled, expected):
    state, words = rules.outcome(details, max_errors=max_errors, was_cancelled=cancelled)
    assert (str(state), words) == expected


@given(st.lists(st.sampled_from(sorted(rules.DETAILS))), st.integers(0, 5), st.booleans())
def test_every_end_is_an_end_and_no_order_matters(details, max_errors, cancelled):
    one = rules.outcome(details, max_errors=str(max_errors), was_cancelled=cancelled)
    other = rules.outcome(details[::-1], max_errors=str(max_errors), was_cancelled=cancelled)
    assert one == other
    assert one[0] in rules.OVER
    if one[0] == CommandStatus.SUCCESS and details:
        assert not set(details) & rules.ERRORS
