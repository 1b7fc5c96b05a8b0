"""The life of a closing: rules of one security group that are taken away, and maybe put there again."""

from typing import Final

from django.db.models import TextChoices


class ClosingState(TextChoices):
    CLOSING = "closing"  # asked for; AWS may have done it already
    CLOSED = "closed"
    REOPENING = "reopening"
    OPEN = "open"  # as it was before
    FAILED = "failed"  # nothing was taken away: `words` say why


C = ClosingState

CLOSING_MOVES = {  # a state with no row here is final
    C.CLOSING: {C.CLOSED, C.FAILED},
    C.CLOSED: {C.REOPENING},
    C.REOPENING: {C.OPEN, C.CLOSED},
}
UNDER_WAY: Final = frozenset({C.CLOSING, C.REOPENING})
