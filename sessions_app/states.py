"""The life of a terminal session. Every move that it can make stands in SESSION_MOVES, and nowhere else."""

from django.db.models import TextChoices


class SessionState(TextChoices):
    OPENING = "opening", "Opening"  # the row exists; StartSession has not answered yet
    OPEN = "open", "Open"  # a data channel is, or is about to be, held by an owner
    ENDED = "ended", "Ended"
    FAILED = "failed", "Failed"  # it never became a shell


class SessionKind(TextChoices):
    """What a session carries. AWS's sessionType of its document says the same."""

    SHELL = "shell", "Shell"  # Standard_Stream, or InteractiveCommands: a terminal
    COMMAND = "command", "Command"  # NonInteractiveCommands: one command, its output and its exit code
    FORWARD = "forward", "Port forwarding"  # Port


class Door(TextChoices):
    """By which door its user came."""

    BROWSER = "browser", "Browser"
    CLI = "cli", "Command line"  # the front door: aws ssm start-session, fleetops connect


SESSION_MOVES = {  # a state with no row here is final
    SessionState.OPENING: {SessionState.OPEN, SessionState.FAILED, SessionState.ENDED},
    SessionState.OPEN: {SessionState.ENDED},
}
