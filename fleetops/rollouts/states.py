"""The lives of a run, of its waves, gates and targets. Every move stands here, and nowhere else."""

from typing import Final

from django.db.models import TextChoices


class RunState(TextChoices):
    DRAFT = "draft"  # a person looks at its plan
    RUNNING = "running"  # `waits_for` says so if it waits for a window, an approval, the end of a soak
    PAUSED = "paused"  # by a person; what was sent goes on to its end
    STOPPED = "stopped"  # by its error budget or by a gate; a person decides how it goes on
    ABORTING = "aborting"  # nothing more is sent; what was sent is awaited
    SUCCEEDED = "succeeded"  # on every target that it was to reach
    FAILED = "failed"  # it came to its end, and not well everywhere
    ABORTED = "aborted"


RUN_MOVES = {  # a state with no row here is final
    RunState.DRAFT: {RunState.RUNNING},
    RunState.RUNNING: {RunState.PAUSED, RunState.STOPPED, RunState.ABORTING, RunState.SUCCEEDED, RunState.FAILED},
    RunState.PAUSED: {RunState.RUNNING, RunState.ABORTING},
    RunState.STOPPED: {RunState.RUNNING, RunState.ABORTING},
    RunState.ABORTING: {RunState.ABORTED},
    # Its failed targets may be tried again after its end.
    RunState.FAILED: {RunState.RUNNING},
}


class WaveState(TextChoices):
    PENDING = "pending"
    RUNNING = "running"
    SOAKING = "soaking"  # all of its targets are done; it is watched for a while
    GATED = "gated"  # its gates are asked
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # its budget is spent, or a gate said no
    SKIPPED = "skipped"  # by a person
    CANCELLED = "cancelled"  # the run was aborted before its end


WAVE_MOVES = {
    WaveState.PENDING: {WaveState.RUNNING, WaveState.SKIPPED, WaveState.CANCELLED},
    WaveState.RUNNING: {
        WaveState.SOAKING,
        WaveState.GATED,
        WaveState.SUCCEEDED,
        WaveState.FAILED,
        WaveState.SKIPPED,
        WaveState.CANCELLED,
    },
    WaveState.SOAKING: {
        WaveState.RUNNING,
        WaveState.GATED,
        WaveState.SUCCEEDED,
        WaveState.FAILED,
        WaveState.SKIPPED,
        WaveState.CANCELLED,
    },
    WaveState.GATED: {
        WaveState.RUNNING,
        WaveState.SUCCEEDED,
        WaveState.FAILED,
        WaveState.SKIPPED,
        WaveState.CANCELLED,
    },
    # Failed ones are tried again, or a person rolls forward.
    WaveState.FAILED: {WaveState.RUNNING, WaveState.SUCCEEDED, WaveState.SKIPPED, WaveState.CANCELLED},
    WaveState.SUCCEEDED: {WaveState.RUNNING},
}


class Readiness(TextChoices):
    """Whether a wave that waits for its turn may start, as far as its run's kind goes."""

    READY = "ready"
    OPEN = "open"  # its kind has yet to prepare it
    FAILED = "failed"  # it could not be prepared: the run stops
    WAIVED = "waived"  # a person lets it go without


class TargetState(TextChoices):
    """How far the evidence for one target goes; `Success` of a command is not an outcome."""

    QUEUED = "queued"
    PREPARING = "preparing"  # its slot is taken; the steps before run: drain, stop a service, snapshot
    SENT = "sent"  # the document is given to SSM, or about to be
    RAN = "ran"  # the command has ended well; whether the machine is back is asked
    REBOOTED = "rebooted"  # the agent has been back since, or no restart was due
    REPORTED = "reported"  # its own report, newer than the run, says so
    PROBED = "probed"  # its probes have passed; the steps after run: undrain, start a service
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"  # `reason` says why
    CANCELLED = "cancelled"  # never sent: the run was aborted, or stopped for good


class Outcome(TextChoices):
    """What a target will end as, once the steps after have brought it back; none while that is open."""

    GOOD = "good"
    BAD = "bad"  # counts against the budgets from now on
    AGAIN = "again"  # it was held or called back before the document was sent: it waits for its turn again


_OVER = {TargetState.SUCCEEDED, TargetState.FAILED}
TARGET_MOVES = {
    TargetState.QUEUED: {
        TargetState.PREPARING,
        TargetState.SENT,
        TargetState.SKIPPED,
        TargetState.CANCELLED,
        TargetState.FAILED,
    },
    TargetState.PREPARING: {TargetState.SENT, TargetState.QUEUED, TargetState.SKIPPED, TargetState.CANCELLED} | _OVER,
    TargetState.SENT: {TargetState.RAN, TargetState.QUEUED, TargetState.SKIPPED, TargetState.CANCELLED} | _OVER,
    TargetState.RAN: {TargetState.REBOOTED, TargetState.REPORTED, TargetState.PROBED} | _OVER,
    TargetState.REBOOTED: {TargetState.REPORTED, TargetState.PROBED} | _OVER,
    TargetState.REPORTED: {TargetState.PROBED} | _OVER,
    TargetState.PROBED: _OVER,
    # A person tries it again, or leaves it out.
    TargetState.FAILED: {TargetState.QUEUED, TargetState.SKIPPED},
    TargetState.CANCELLED: {TargetState.QUEUED},
    TargetState.SKIPPED: {TargetState.QUEUED},
}
# Out of service, as far as concurrency, budgets and clusters go.
IN_FLIGHT: Final = frozenset(
    {
        TargetState.PREPARING,
        TargetState.SENT,
        TargetState.RAN,
        TargetState.REBOOTED,
        TargetState.REPORTED,
        TargetState.PROBED,
    }
)
OPEN: Final = IN_FLIGHT | {TargetState.QUEUED}


class GateState(TextChoices):
    PENDING = "pending"
    WAITING = "waiting"  # for people, a command, an alarm
    PASSED = "passed"
    FAILED = "failed"
    OVERRULED = "overruled"  # a person went on in spite of it


GATE_MOVES = {
    GateState.PENDING: {GateState.WAITING, GateState.PASSED, GateState.FAILED, GateState.OVERRULED},
    GateState.WAITING: {GateState.PASSED, GateState.FAILED, GateState.OVERRULED, GateState.PENDING},
    GateState.FAILED: {GateState.PENDING, GateState.OVERRULED},
    GateState.PASSED: {GateState.PENDING},  # its wave is run again
}
