"""The life of an occurrence: one moment at which a schedule is due. Every move stands here, and nowhere else."""

from typing import Final

from django.db.models import TextChoices


class OccurrenceState(TextChoices):
    DUE = "due"  # its run is to be planned
    PLANNED = "planned"  # its run is planned, and starts by itself
    WAITING = "waiting"  # its run is planned, and its owner is to start it
    ASKED = "asked"  # it was missed; its owner says whether it is made up for
    STARTED = "started"
    SKIPPED = "skipped"  # `cause` and `words` say why
    REFUSED = "refused"  # likewise


class Cause(TextChoices):
    """Why an occurrence has no run."""

    MISSED = "missed", "Missed"  # FleetOps was not running
    OVERLAP = "overlap", "Overlap"  # the run before was still going
    PAUSED = "paused", "Paused"
    OWNER = "owner", "No owner"
    DENIED = "denied", "Denied"
    NONE = "none", "No target"
    UNFIT = "unfit", "Nobody reachable"
    HELD = "held", "Frozen"
    INVALID = "invalid", "Not possible"
    DISCARDED = "discarded", "Discarded"
    SUPERSEDED = "superseded", "Superseded"


OCCURRENCE_MOVES = {  # a state with no row here is final
    OccurrenceState.DUE: {
        OccurrenceState.PLANNED,
        OccurrenceState.WAITING,
        OccurrenceState.ASKED,
        OccurrenceState.SKIPPED,
        OccurrenceState.REFUSED,
    },
    # Back to DUE if nobody came to start it before its plan was out of date.
    OccurrenceState.PLANNED: {
        OccurrenceState.STARTED,
        OccurrenceState.DUE,
        OccurrenceState.SKIPPED,
        OccurrenceState.REFUSED,
    },
    OccurrenceState.WAITING: {OccurrenceState.STARTED, OccurrenceState.SKIPPED},
    OccurrenceState.ASKED: {OccurrenceState.DUE, OccurrenceState.SKIPPED},
}
WORK: Final = (OccurrenceState.DUE, OccurrenceState.PLANNED)  # a worker has something to do


class MissedRule(TextChoices):
    """What becomes of what was due while FleetOps was not running."""

    SKIP = "skip", "Leave it out"
    ONCE = "once", "Run once, as soon as FleetOps is back"
    ASK = "ask", "Ask whether it is to run"


class OverlapRule(TextChoices):
    SKIP = "skip", "Leave it out while the last run goes"
    BESIDE = "beside", "Start it beside the last one"
