"""The making of the standard role in one account: what it is at, and which moves there are."""

from django.db.models import TextChoices


class MakingState(TextChoices):
    WAITING = "waiting"  # for a worker
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"  # in words; asked again it goes on where it stopped


MAKING_MOVES = {
    MakingState.WAITING: {MakingState.RUNNING, MakingState.FAILED},
    MakingState.RUNNING: {MakingState.DONE, MakingState.FAILED, MakingState.RUNNING},
    MakingState.DONE: {MakingState.WAITING},
    MakingState.FAILED: {MakingState.WAITING},
}
