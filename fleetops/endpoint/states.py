"""The life of a session, in AWS's spelling. Every move that one can make stands in SESSION_MOVES."""

from django.db.models import TextChoices


class SessionStatus(TextChoices):
    CONNECTING = "Connecting"
    CONNECTED = "Connected"
    DISCONNECTED = "Disconnected"
    TERMINATING = "Terminating"
    TERMINATED = "Terminated"
    FAILED = "Failed"


_ENDS = {SessionStatus.TERMINATING, SessionStatus.TERMINATED, SessionStatus.FAILED}
SESSION_MOVES = {  # a state with no row here is final
    SessionStatus.CONNECTING: {SessionStatus.CONNECTED, SessionStatus.DISCONNECTED} | _ENDS,
    SessionStatus.CONNECTED: {SessionStatus.DISCONNECTED} | _ENDS,
    SessionStatus.DISCONNECTED: {SessionStatus.CONNECTED} | _ENDS,
    SessionStatus.TERMINATING: {SessionStatus.TERMINATED, SessionStatus.FAILED},
}
ACTIVE = (SessionStatus.CONNECTING, SessionStatus.CONNECTED, SessionStatus.DISCONNECTED, SessionStatus.TERMINATING)


class CommandStatus(TextChoices):
    """Of a command and of its invocations; what exactly it means stands in the details."""

    PENDING = "Pending"
    IN_PROGRESS = "InProgress"
    DELAYED = "Delayed"  # invocations alone
    CANCELLING = "Cancelling"
    SUCCESS = "Success"
    CANCELLED = "Cancelled"
    FAILED = "Failed"
    TIMED_OUT = "TimedOut"


_OVER = {CommandStatus.SUCCESS, CommandStatus.CANCELLED, CommandStatus.FAILED, CommandStatus.TIMED_OUT}
COMMAND_MOVES = {  # a state with no row here is final
    CommandStatus.PENDING: {CommandStatus.IN_PROGRESS, CommandStatus.CANCELLING} | _OVER,
    CommandStatus.IN_PROGRESS: {CommandStatus.CANCELLING} | _OVER,
    CommandStatus.CANCELLING: _OVER,
}
INVOCATION_MOVES = {
    CommandStatus.PENDING: {CommandStatus.DELAYED, CommandStatus.IN_PROGRESS, CommandStatus.CANCELLING} | _OVER,
    CommandStatus.DELAYED: {CommandStatus.PENDING, CommandStatus.IN_PROGRESS, CommandStatus.CANCELLING} | _OVER,
    CommandStatus.IN_PROGRESS: {CommandStatus.CANCELLING} | _OVER,
    CommandStatus.CANCELLING: _OVER,
}


class AutomationStatus(TextChoices):
    """Of an automation and of its steps; of AWS's words those that are used here."""

    PENDING = "Pending"
    IN_PROGRESS = "InProgress"
    WAITING = "Waiting"  # for somebody's approval or signal
    CANCELLING = "Cancelling"
    SUCCESS = "Success"
    CANCELLED = "Cancelled"
    FAILED = "Failed"
    TIMED_OUT = "TimedOut"


AUTOMATION_OVER = frozenset(
    {AutomationStatus.SUCCESS, AutomationStatus.CANCELLED, AutomationStatus.FAILED, AutomationStatus.TIMED_OUT}
)
AUTOMATION_MOVES = {  # a state with no row here is final
    AutomationStatus.PENDING: {AutomationStatus.IN_PROGRESS, AutomationStatus.WAITING} | AUTOMATION_OVER,
    AutomationStatus.IN_PROGRESS: {AutomationStatus.WAITING, AutomationStatus.CANCELLING} | AUTOMATION_OVER,
    AutomationStatus.WAITING: {AutomationStatus.IN_PROGRESS, AutomationStatus.CANCELLING} | AUTOMATION_OVER,
    AutomationStatus.CANCELLING: AUTOMATION_OVER,
}
