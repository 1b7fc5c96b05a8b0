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
