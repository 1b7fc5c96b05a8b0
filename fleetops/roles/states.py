"""The lives of a role attachment and of what was found outside FleetOps. Every move stands here, and nowhere else."""

from typing import Final

from django.db.models import TextChoices


class AttachmentState(TextChoices):
    ASKED = "asked"  # waits for the approval of others
    PENDING = "pending"  # to be put in place; `words` says what holds it up
    ACTIVE = "active"  # AWS holds it
    ENDING = "ending"  # to be taken away
    ENDED = "ended"
    CONFLICT = "conflict"  # AWS holds something else than was left there: reported, not touched
    FAILED = "failed"  # could not be put in place; nothing is left behind
    DENIED = "denied"
    CANCELLED = "cancelled"  # ended before it was put in place


S = AttachmentState

ATTACHMENT_MOVES = {  # a state with no row here is final
    S.ASKED: {S.PENDING, S.DENIED, S.CANCELLED},
    S.PENDING: {S.ACTIVE, S.ENDING, S.ENDED, S.CONFLICT, S.FAILED, S.CANCELLED},
    S.ACTIVE: {S.ENDING, S.ENDED, S.CONFLICT},
    S.ENDING: {S.ENDED, S.CONFLICT},
    S.CONFLICT: {S.PENDING, S.ENDING, S.ENDED},
}

# Those that say what AWS should hold; one that is past its end says nothing any more.
HOLDS: Final = frozenset({S.PENDING, S.ACTIVE, S.CONFLICT})
OPEN: Final = frozenset(ATTACHMENT_MOVES)


class FindingState(TextChoices):
    OPEN = "open"  # a person has to say what becomes of it
    PUT_BACK = "put_back"
    ACCEPTED = "accepted"
    GONE = "gone"  # it is again as it should be, by somebody else's hand


FINDING_MOVES = {FindingState.OPEN: {FindingState.PUT_BACK, FindingState.ACCEPTED, FindingState.GONE}}
