"""The lives of a command, of its dispatches, and of its invocations. Every move stands here, and nowhere else."""

from typing import Final

from django.db.models import TextChoices


class CommandState(TextChoices):
    DRAFT = "draft"  # a person looks at its plan
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"  # on every instance that it was to run on
    FAILED = "failed"  # not on all of them
    CANCELLED = "cancelled"


_ENDS = {CommandState.SUCCEEDED, CommandState.FAILED, CommandState.CANCELLED}
COMMAND_MOVES = {  # a state with no row here is final
    CommandState.DRAFT: {CommandState.RUNNING},
    CommandState.RUNNING: {CommandState.CANCELLING} | _ENDS,
    CommandState.CANCELLING: _ENDS,
}


class DispatchState(TextChoices):
    """Of one SendCommand: at most 50 instances of one account and region."""

    PLANNED = "planned"
    SENDING = "sending"  # committed; AWS is being asked, or was when the worker died
    UNCERTAIN = "uncertain"  # AWS may have it: it is looked for in its lists
    SENT = "sent"
    DONE = "done"  # ended on all its instances
    REFUSED = "refused"  # AWS said no
    CANCELLED = "cancelled"  # never sent


DISPATCH_MOVES = {
    DispatchState.PLANNED: {DispatchState.SENDING, DispatchState.CANCELLED},
    DispatchState.SENDING: {
        DispatchState.PLANNED,
        DispatchState.SENT,
        DispatchState.UNCERTAIN,
        DispatchState.REFUSED,
    },
    # Sent again at last, if AWS does not show it; refused, if that has gone wrong too often.
    DispatchState.UNCERTAIN: {
        DispatchState.SENT,
        DispatchState.PLANNED,
        DispatchState.CANCELLED,
        DispatchState.REFUSED,
    },
    DispatchState.SENT: {DispatchState.DONE},
}


class InvocationState(TextChoices):
    """Of a command on one instance."""

    SKIPPED = "skipped"  # it does not run there, and `details` says why
    PLANNED = "planned"
    PENDING = "pending"  # AWS has it, the agent not yet
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"


_OVER = {InvocationState.SUCCEEDED, InvocationState.FAILED, InvocationState.TIMED_OUT, InvocationState.CANCELLED}
INVOCATION_MOVES = {
    InvocationState.PLANNED: {InvocationState.PENDING, InvocationState.SKIPPED, InvocationState.RUNNING} | _OVER,
    InvocationState.PENDING: {InvocationState.RUNNING, InvocationState.CANCELLING} | _OVER,
    InvocationState.RUNNING: {InvocationState.CANCELLING} | _OVER,
    InvocationState.CANCELLING: _OVER,
}
OPEN: Final = frozenset(INVOCATION_MOVES)
IN_FLIGHT: Final = frozenset({InvocationState.PENDING, InvocationState.RUNNING, InvocationState.CANCELLING})
# Those that a command's end counts as not well.
UNWELL: Final = frozenset({InvocationState.FAILED, InvocationState.TIMED_OUT})

# AWS's Status → ours; StatusDetails says more, and is kept as AWS spells it.
OF_AWS: Final = {
    "Pending": InvocationState.PENDING,
    "Delayed": InvocationState.PENDING,
    "InProgress": InvocationState.RUNNING,
    "Cancelling": InvocationState.CANCELLING,
    "Success": InvocationState.SUCCEEDED,
    "Failed": InvocationState.FAILED,
    "TimedOut": InvocationState.TIMED_OUT,
    "Cancelled": InvocationState.CANCELLED,
}
