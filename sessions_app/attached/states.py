"""The life of a connection that a role is attached for. Every move stands here, and nowhere else."""

from typing import Final

from django.db.models import TextChoices


class OrderState(TextChoices):
    ATTACHING = "attaching"  # the lease waits for its approval, or for AWS
    WAITING = "waiting"  # the role is there; the agent is not yet
    READY = "ready"  # the agent answers: the shell opens when its person looks
    OPENED = "opened"  # the shell was opened; the lease goes on with it, or until its time
    OVER = "over"  # the lease has ended
    FAILED = "failed"  # the role could not be attached
    CANCELLED = "cancelled"


O = OrderState  # noqa: E741

ORDER_MOVES = {  # a state with no row here is final
    O.ATTACHING: {O.WAITING, O.READY, O.OVER, O.FAILED, O.CANCELLED},
    O.WAITING: {O.READY, O.OVER, O.FAILED, O.CANCELLED},
    O.READY: {O.WAITING, O.OPENED, O.OVER, O.FAILED, O.CANCELLED},
    O.OPENED: {O.OVER},
}
OPEN: Final = frozenset(ORDER_MOVES)
BEFORE_THE_SHELL: Final = frozenset({O.ATTACHING, O.WAITING, O.READY})
