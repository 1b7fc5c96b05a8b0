"""The life of a connection check. Every move that it can make stands in CHECK_MOVES, and nowhere else."""

from django.db.models import TextChoices


class CheckState(TextChoices):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"  # it was carried out, whatever it found
    FAILED = "failed"


CHECK_MOVES = {  # a state with no row here is final
    CheckState.WAITING: {CheckState.RUNNING, CheckState.FAILED},
    CheckState.RUNNING: {CheckState.DONE, CheckState.FAILED},
}


class CheckResult(TextChoices):
    WAITING = "waiting"
    OK = "ok"
    DENIED = "denied"
    BROKEN = "broken"  # AWS was not reached, or did not take the credentials
    UNKNOWN = "unknown"  # it shows itself only when it is used
    SKIPPED = "skipped"  # what comes before it does not work
