"""The life of a change that is written to AWS. Every move that it can make stands in WRITE_MOVES, and nowhere else."""

from django.db.models import TextChoices


class WriteState(TextChoices):
    OPEN = "open", "Being written"
    DONE = "done", "Written"
    REFUSED = "refused", "Refused"
    CONFLICT = "conflict", "Changed elsewhere"


WRITE_MOVES = {  # a state with no row here is final
    WriteState.OPEN: {WriteState.DONE, WriteState.REFUSED, WriteState.CONFLICT},
}


class Deed(TextChoices):
    """What is written."""

    CREATE = "create", "Make the baseline"
    UPDATE = "update", "Change the baseline"
    DELETE = "delete", "Delete the baseline"
    DEFAULT = "default", "Make the baseline the default"
    REGISTER = "register", "Register the patch group"
    DEREGISTER = "deregister", "Deregister the patch group"


class Origin(TextChoices):
    """Who has written a version."""

    AWS = "aws", "outside FleetOps"
    OURS = "fleetops", "with FleetOps"
