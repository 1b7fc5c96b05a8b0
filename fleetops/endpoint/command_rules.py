"""How a command goes through its targets, and what becomes of it: facts in, a decision out.

Source: Systems Manager user guide, "Understanding command statuses" (monitor-commands) and "Running commands at scale"
(send-commands-multiple).
"""

from collections import Counter
from collections.abc import Collection, Mapping

from fleetops.endpoint.states import CommandStatus

OVER = frozenset({CommandStatus.SUCCESS, CommandStatus.CANCELLED, CommandStatus.FAILED, CommandStatus.TIMED_OUT})
DEFAULT_CONCURRENCY = "50"
DEFAULT_ERRORS = "0"

# Details of a command and of an invocation, as StatusDetails spells them: all that monitor-commands lists, and
# Cancelling, which only the model's enumerations have. RateExceeded is LimitExceeded in a filter [SSM, CommandFilter].
COMMAND_DETAILS = frozenset(
    {"Pending", "InProgress", "Delayed", "Cancelling", "Success", "DeliveryTimedOut", "ExecutionTimedOut", "Failed"}
    | {"Incomplete", "Cancelled", "RateExceeded", "AccessDenied", "NoInstancesInTag"}
)
INVOCATION_DETAILS = frozenset(
    {"Pending", "InProgress", "Delayed", "Cancelling", "Success", "DeliveryTimedOut", "ExecutionTimedOut", "Failed"}
    | {"Cancelled", "Undeliverable", "Terminated", "InvalidPlatform", "AccessDenied"}
)
# Details of an invocation that has ended, and the status that the API gives it. Counted as errors are but two.
DETAILS = {
    "Success": CommandStatus.SUCCESS,
    "Failed": CommandStatus.FAILED,
    "ExecutionTimedOut": CommandStatus.TIMED_OUT,
    "DeliveryTimedOut": CommandStatus.TIMED_OUT,
    "Undeliverable": CommandStatus.FAILED,
    "InvalidPlatform": CommandStatus.FAILED,
    "AccessDenied": CommandStatus.FAILED,
    "Cancelled": CommandStatus.CANCELLED,
    "Terminated": CommandStatus.CANCELLED,
}
ERRORS = frozenset({"Failed", "ExecutionTimedOut"})


def number_of(text: str, targets: int) -> int:
    """What a MaxConcurrency or MaxErrors stands for: a number, or a percentage of the targets, rounded down."""
    if text.endswith("%"):
        return int(text[:-1]) * targets // 100
    return int(text)


def may_be_under_way(max_concurrency: str, targets: int, taken: int) -> int:
    """How many invocations may be under way when `taken` nodes have acknowledged theirs.

    It ramps: one node first, then two more, twice as many each time, up to the limit.
    """
    limit = max(1, number_of(max_concurrency, targets))
    return min(limit, 2 * taken + 1)


def is_spent(max_errors: str, targets: int, ended: Mapping[str, int]) -> bool:
    """Whether so many invocations have failed that no other is sent: at the error after MaxErrors.

    `ended` is how many have ended with which details.
    """
    return sum(ended.get(one, 0) for one in ERRORS) > number_of(max_errors, targets)


def outcome(details: Collection[str], *, max_errors: str, was_cancelled: bool) -> tuple[CommandStatus, str]:
    """(status, details) of a command all of whose invocations have ended, by their details."""
    if not details:
        return CommandStatus.SUCCESS, "NoInstancesInTag"
    counts = Counter(details)
    if was_cancelled and counts["Cancelled"]:
        return CommandStatus.CANCELLED, "Cancelled"
    if is_spent(max_errors, len(details), counts):
        if not counts["Failed"]:
            return CommandStatus.TIMED_OUT, "ExecutionTimedOut"
        return CommandStatus.FAILED, "Failed"
    if counts["AccessDenied"] == len(details):
        return CommandStatus.FAILED, "AccessDenied"
    if counts["DeliveryTimedOut"] == len(details):
        return CommandStatus.TIMED_OUT, "DeliveryTimedOut"
    # What could not be delivered at all takes nothing away from what has succeeded.
    if any(counts[one] for one in (*ERRORS, "DeliveryTimedOut", "Cancelled", "Terminated")):
        return CommandStatus.FAILED, "Incomplete"
    if counts["Success"]:
        return CommandStatus.SUCCESS, "Success"
    return CommandStatus.FAILED, "Failed"  # it reached nobody


def of_reply(document_status: str) -> str | None:
    """Details of an invocation for the status of a document in an agent's reply; None while it goes on."""
    return {
        "Success": "Success",
        "Failed": "Failed",
        "TimedOut": "ExecutionTimedOut",
        "Cancelled": "Cancelled",
    }.get(document_status)
