"""The life of a request for approval. Every move that it can make stands in APPROVAL_MOVES, and nowhere else."""

from django.db.models import TextChoices


class ApprovalState(TextChoices):
    PENDING = "pending", "Waiting"
    APPROVED = "approved", "Approved"
    DENIED = "denied", "Denied"
    WITHDRAWN = "withdrawn", "Withdrawn"
    EXPIRED = "expired", "Expired"
    USED = "used", "Used"


APPROVAL_MOVES = {  # a state with no row here is final
    ApprovalState.PENDING: {
        ApprovalState.APPROVED,
        ApprovalState.DENIED,
        ApprovalState.WITHDRAWN,
        ApprovalState.EXPIRED,
    },
    ApprovalState.APPROVED: {ApprovalState.USED, ApprovalState.WITHDRAWN, ApprovalState.EXPIRED},
}
OPEN_STATES = tuple(APPROVAL_MOVES)
