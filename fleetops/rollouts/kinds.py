"""What a wing gives to the engine: a kind of run (decision 14).

A wing registers its kind in `apps.py` `ready()`; a run stores the kind's name. The engine knows waves, budgets and
evidence; a kind knows what is sent to a target, and when that counts as done.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from django.utils.module_loading import import_string

from fleetops.errors import UserError

from .states import Readiness

if TYPE_CHECKING:
    from fleetops.inventory.models import Instance, InstanceQuerySet

    from .models import Run, RunTarget, Wave


@dataclass(frozen=True, slots=True)
class Call:
    """A document to be run on targets, all with the same parameters; equal calls share one SendCommand."""

    document_name: str
    parameters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    document_version: str = ""  # a number; empty: each region's default
    timeout_seconds: int = 3600  # until what no agent has taken is given up

    @property
    def key(self) -> tuple[Any, ...]:
        return (
            self.document_name,
            self.document_version,
            self.timeout_seconds,
            tuple(sorted((name, tuple(texts)) for name, texts in self.parameters.items())),
        )


@dataclass(frozen=True, slots=True)
class Fitness:
    """Whether a kind can be run on an instance at all; asked when a plan is made."""

    skipped: str = ""  # why not; empty: it can
    minutes: float = 2.0  # what it is expected to take on it, restart and report included
    reboots: bool = False  # whether it may restart the machine


class Proof(StrEnum):
    """What is known of a target after its command has ended well."""

    WAITING = "waiting"
    REBOOTED = "rebooted"  # back after a restart, or none was due; its report is not there yet
    GOOD = "good"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A kind's word on one target, with its reason and the facts that it rests on (JSON)."""

    proof: Proof
    reason: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Preparation:
    """A kind's word on a wave before its turn.

    `facts` (JSON) are kept in `run.preparation`, over those of the same name, unless it failed. What they say under
    `shown` the run's page shows: [{label, text, url}].
    """

    readiness: Readiness  # READY; OPEN: asked again later; FAILED
    words: str = ""  # what it waits for, or why it failed
    facts: Mapping[str, Any] = field(default_factory=dict)


class RunKind(Protocol):
    """All methods may read the database; `judge` and `prepare` may call AWS. Only `prepare` changes anything there."""

    name: str  # stored in runs
    label: str  # as people read it
    deed: str  # the policy's, asked at the plan, at the start and before each sending
    url_name: str  # of the page where a new run of this kind is asked for
    needs_agent: bool  # whether a target has to be online
    carries_out: bool  # by itself: nothing is sent to a target, see carry_out

    def check(self, subject: Mapping[str, Any]) -> dict[str, Any]:
        """`subject`, what the kind is told of a run, completed and checked. Raises UserError."""
        ...

    def narrow(self, subject: Mapping[str, Any], instances: "InstanceQuerySet") -> "InstanceQuerySet":
        """Of the instances that an expression selects those that the run is about; most kinds leave none out."""
        ...

    def fitness(self, run: "Run", instances: Sequence["Instance"]) -> list[Fitness]:
        """Of each instance, in the order given."""
        ...

    def check_waves(self, run: "Run", waves: Sequence[Sequence["Instance"]]) -> list[str]:
        """Notes on who would go in which wave, for the plan. Raises UserError for waves that the run cannot have."""
        ...

    def prepares(self, run: "Run", position: int) -> bool:
        """Whether the wave with that position is prepared before it starts."""
        ...

    def prepare(self, run: "Run", wave: "Wave") -> Preparation:
        """Make what a wave needs, once all waves before it have come through their soak.

        Outside of any transaction, by any number of workers, any number of times: what was made is found again.
        """
        ...

    def call_for(self, run: "Run", target: "RunTarget") -> Call:
        """What is sent to a target. Raises UserError if nothing can be: the target fails with its words."""
        ...

    def carry_out(self, run: "Run", targets: Sequence["RunTarget"]) -> dict[Any, str]:
        """In the place of a command: write down what is to be done with the targets, for another room to do it.

        In the transaction in which they go, so that both stand or none; AWS is not called. Why nothing can be done
        with a target, by its key. The others are judged from then on. Only asked of a kind that `carries_out`.
        """
        ...

    def judge(self, run: "Run", targets: Sequence["RunTarget"]) -> list[Verdict]:
        """Of targets whose command has ended well, in the order given. Raises AwsError: asked again later."""
        ...

    def finished(self, run: "Run") -> None:
        """The run is over; in the transaction of its last move."""
        ...


_paths: dict[str, str] = {}
_made: dict[str, RunKind] = {}


def register(name: str, path: str) -> None:
    """Called by a wing's `ready()` with its kind's name and dotted name: kinds import models, which are not there yet.

    Raises LookupError for a second kind of the same name.
    """
    if _paths.setdefault(name, path) != path:
        raise LookupError(f"the kind {name!r} is registered twice")


def all_kinds() -> list[RunKind]:
    return sorted((find(name) for name in _paths), key=lambda kind: kind.label)


def find(name: str) -> RunKind:
    """The kind of a run. Raises UserError if no wing of this installation knows it: the run is parked."""
    if name not in _made:
        if name not in _paths:
            raise UserError(f"This installation knows no kind of run named {name}; the run waits until it does.")
        _made[name] = import_string(_paths[name])()
    return _made[name]
