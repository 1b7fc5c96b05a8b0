"""The lives of sessions, grants and transfers. Every move that they can make stands here, and nowhere else."""

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
    TRANSFER = "transfer", "File transfer"  # InteractiveCommands: one file, by a document of ours


class Door(TextChoices):
    """By which door its user came."""

    BROWSER = "browser", "Browser"
    CLI = "cli", "Command line"  # the front door: aws ssm start-session, fleetops connect


class CommandSource(TextChoices):
    """Who says that a command was run."""

    MARKS = "marks", "Shell"  # the shell itself, by marks that bear the session's nonce
    SCREEN = "screen", "Screen"  # read off the screen by terminal emulation
    FORGED = "forged", "Forged mark"  # nobody whom one could believe: no command, but a notice


SESSION_MOVES = {  # a state with no row here is final
    SessionState.OPENING: {SessionState.OPEN, SessionState.FAILED, SessionState.ENDED},
    SessionState.OPEN: {SessionState.ENDED},
}


class GrantState(TextChoices):
    ASKED = "asked", "Waiting"  # its request for approval is not decided yet
    ACTIVE = "active", "Approved"  # from starts_at to ends_at sessions may be open by it
    DENIED = "denied", "Denied"
    WITHDRAWN = "withdrawn", "Withdrawn"
    EXPIRED = "expired", "Expired"  # nobody approved it in time
    ENDED = "ended", "Ended"  # its time is over
    REVOKED = "revoked", "Revoked"


GRANT_MOVES = {  # a state with no row here is final
    GrantState.ASKED: {GrantState.ACTIVE, GrantState.DENIED, GrantState.WITHDRAWN, GrantState.EXPIRED},
    GrantState.ACTIVE: {GrantState.ENDED, GrantState.REVOKED},
}


class TransferDirection(TextChoices):
    UPLOAD = "upload", "Upload"  # to the instance
    DOWNLOAD = "download", "Download"


class TransferState(TextChoices):
    WAITING = "waiting", "Waiting"  # its session has not begun, or the node has not looked at the path yet
    RUNNING = "running", "Under way"
    DONE = "done", "Done"  # all of it is there, and both ends have the same digest
    FAILED = "failed", "Failed"
    CANCELLED = "cancelled", "Cancelled"


TRANSFER_MOVES = {  # a state with no row here is final
    TransferState.WAITING: {TransferState.RUNNING, TransferState.FAILED, TransferState.CANCELLED},
    TransferState.RUNNING: {TransferState.DONE, TransferState.FAILED, TransferState.CANCELLED},
}
