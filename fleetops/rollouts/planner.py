"""What a run does next, from facts alone: no database, no clock, no AWS.

What the settings mean, all of it:

- **Waves** go one after the other: the next starts when the one before has ended well, was skipped, has soaked and all
  of its gates have let it pass.
- **Concurrency** is how many targets may be out of service at once, from the moment their slot is taken until their
  end, the steps after included: of the wave, and of the run. A target that is being brought back still counts.
- **Budget** n bears n failures: at failure n + 1 it is spent, the run stops, and no target is sent any more. A target
  that is known to have failed counts at once, not when it has been brought back. What is under way by then goes on, so
  that more may fail than the budget says.
- A **strict** budget rules that out: of targets whose end is open never more are out than the budget has left, and one.
  If each of them failed, there would be n + 1 failures in all, and that is when it stops: never more than n + 1 fail.
- Failures that a person **accepted** (rolled forward over) count no more, as long as they stand.
- Nothing is sent before the run's start, from its end on, or in the minutes of its cut-off before that end; calendars
  say the same of each target, with the same cut-off. Who is held waits, and others go.
- A wave that its run's kind **prepares** starts once it is, or a person lets it go without; if it cannot be prepared,
  the run stops.
- Of a **cluster** no more go than it has free places; who finds none waits, and others go.
- **Paused** or **stopped**, nothing is sent and no wave moves; what was sent goes on to its end. **Aborting**, the run
  ends as soon as that is so.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from .states import GateState, Readiness, RunState, WaveState

_DONE: Final = frozenset({WaveState.SUCCEEDED, WaveState.SKIPPED, WaveState.CANCELLED})
_LET_PASS: Final = frozenset({GateState.PASSED, GateState.OVERRULED})


@dataclass(frozen=True, slots=True)
class WaveFacts:
    """One wave, its limits as numbers."""

    position: int
    state: str
    queued: int = 0
    undecided: int = 0  # out of service, their end open
    returning: int = 0  # out of service, their end known: they are being brought back
    failed: int = 0  # those that have ended, and those that are being brought back
    succeeded: int = 0
    cancelled: int = 0
    concurrency: int | None = None  # none: the run's alone
    budget: int | None = None  # none: the run's alone
    accepted: int = 0
    soak_seconds: int = 0
    soak_until: datetime | None = None
    gates: tuple[tuple[str, str], ...] = ()  # state and words of each
    readiness: str = Readiness.READY
    readiness_words: str = ""

    @property
    def out(self) -> int:
        return self.undecided + self.returning

    @property
    def counted(self) -> int:
        """Failures that count against its budget."""
        return self.failed - min(self.accepted, self.failed)


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A run, its limits as numbers."""

    state: str
    waves: tuple[WaveFacts, ...]
    concurrency: int
    budget: int
    is_strict: bool = False
    starts_at: datetime | None = None
    ends_by: datetime | None = None
    cutoff: timedelta = timedelta()
    sends_at: datetime | None = None  # what is freed is gathered until then

    @property
    def out(self) -> int:
        return sum(wave.out for wave in self.waves)

    @property
    def undecided(self) -> int:
        return sum(wave.undecided for wave in self.waves)

    @property
    def queued(self) -> int:
        return sum(wave.queued for wave in self.waves)

    @property
    def counted(self) -> int:
        return sum(wave.counted for wave in self.waves)


@dataclass(frozen=True, slots=True)
class Decision:
    """One step. Where none of the first six is set, nothing moves: `room` may go, and it is looked at again."""

    stop: str = ""  # why the run stops, in words
    fail: int | None = None  # the wave that fails with it
    start: int | None = None  # the wave that starts
    soak: int | None = None  # the wave that begins to soak
    ask: int | None = None  # the wave whose gates are asked
    succeed: int | None = None  # the wave that has ended well
    end: RunState | None = None  # how the run ends
    wave: int | None = None  # the wave whose targets may go
    room: int = 0  # how many of them
    may_send: bool = False  # whether what is being prepared may be sent the document
    waits_for: str = ""
    at: datetime | None = None  # when something changes by itself

    @property
    def moves(self) -> bool:
        """Whether a row moves by it, so that the next step is to be asked for at once."""
        moved = (self.fail, self.start, self.soak, self.ask, self.succeed, self.end)
        return bool(self.stop) or any(each is not None for each in moved)


def next_step(run: RunFacts, now: datetime) -> Decision:
    """The one thing to do now."""
    if run.state == RunState.ABORTING:
        return Decision(waits_for=f"{_targets(run.out)} to end") if run.out else Decision(end=RunState.ABORTED)
    if run.state in {RunState.PAUSED, RunState.STOPPED}:
        return Decision(waits_for="a person")
    if run.state != RunState.RUNNING:
        return Decision()
    if (stop := _stop(run)) is not None:
        return stop
    if run.ends_by is not None and now >= run.ends_by and not all(wave.state in _DONE for wave in run.waves):
        # Its time is over: what is out is awaited, and what has not gone never goes.
        return Decision(waits_for=f"{_targets(run.out)} to end") if run.out else Decision(end=RunState.FAILED)
    for wave in run.waves:
        if wave.state not in _DONE:
            return _in_wave(run, wave, now)
    if run.out:
        return Decision(waits_for=f"{_targets(run.out)} to end", may_send=True)
    is_well = not any(wave.failed or wave.cancelled or wave.queued for wave in run.waves)
    return Decision(end=RunState.SUCCEEDED if is_well else RunState.FAILED)


def _stop(run: RunFacts) -> Decision | None:
    current = next((wave.position for wave in run.waves if wave.state not in _DONE | {WaveState.PENDING}), None)
    if run.counted > run.budget:
        return Decision(stop=f"{_failed(run.counted)}, and the run's budget bears {run.budget:,}.", fail=current)
    for wave in run.waves:
        if wave.state == WaveState.PENDING and wave.readiness == Readiness.FAILED:
            return Decision(stop=f"Wave {wave.position} could not be prepared: {wave.readiness_words}")
        if wave.state in _DONE or wave.state == WaveState.PENDING:
            continue
        if wave.budget is not None and wave.counted > wave.budget:
            words = f"{_failed(wave.counted)} in wave {wave.position}, and its budget bears {wave.budget:,}."
            return Decision(stop=words, fail=wave.position)
        if wave.state in {WaveState.SOAKING, WaveState.GATED}:
            for state, words in wave.gates:
                if state == GateState.FAILED:
                    return Decision(stop=f"A gate of wave {wave.position} says no: {words}", fail=wave.position)
        if wave.state == WaveState.FAILED:  # a person lets the run go on without having said how this one does
            return Decision(stop=f"Wave {wave.position} has failed.")
    return None


def _in_wave(run: RunFacts, wave: WaveFacts, now: datetime) -> Decision:
    """What the first wave does that has not ended."""
    match wave.state:
        case WaveState.PENDING:
            if run.starts_at is not None and now < run.starts_at:
                return Decision(waits_for=f"its start at {run.starts_at:%Y-%m-%d %H:%M} UTC", at=run.starts_at)
            if wave.readiness == Readiness.OPEN:
                words = f"wave {wave.position} to be prepared. {wave.readiness_words}".strip()
                return Decision(waits_for=words, at=now + timedelta(seconds=2))
            return Decision(start=wave.position)
        case WaveState.RUNNING:
            if wave.queued:
                return _send(run, wave, now)
            if wave.out:
                return Decision(waits_for=f"{_targets(wave.out)} of wave {wave.position} to end", may_send=True)
            if wave.soak_seconds and wave.succeeded + wave.failed:
                return Decision(soak=wave.position)
            return _through(wave)
        case WaveState.SOAKING:
            if wave.queued or wave.out:  # a person tries some again
                return Decision(start=wave.position)
            if wave.soak_until is not None and now < wave.soak_until:
                words = f"the soak of wave {wave.position}, until {wave.soak_until:%H:%M:%S} UTC"
                return Decision(waits_for=words, at=wave.soak_until)
            return _through(wave)
        case WaveState.GATED:
            if wave.queued or wave.out:
                return Decision(start=wave.position)
            waiting = [words for state, words in wave.gates if state not in _LET_PASS]
            if waiting:
                words = "; ".join(filter(None, waiting)) or f"a gate of wave {wave.position}"
                return Decision(waits_for=words, at=now + timedelta(seconds=5))
            return Decision(succeed=wave.position)
    return Decision()


def _through(wave: WaveFacts) -> Decision:
    """To its gates, or past them."""
    if any(state not in _LET_PASS for state, _ in wave.gates):
        return Decision(ask=wave.position)
    return Decision(succeed=wave.position)


def _send(run: RunFacts, wave: WaveFacts, now: datetime) -> Decision:
    """How many targets of the wave may go."""
    if run.ends_by is not None and now >= run.ends_by - run.cutoff:
        words = f"its end at {run.ends_by:%Y-%m-%d %H:%M} UTC, before which nothing more is sent"
        return Decision(waits_for=words, may_send=True, at=run.ends_by)
    if run.sends_at is not None and now < run.sends_at and run.out:
        return Decision(wave=wave.position, may_send=True, at=run.sends_at)
    room = run.concurrency - run.out
    if wave.concurrency is not None:
        room = min(room, wave.concurrency - wave.out)
    if run.is_strict:
        room = min(room, run.budget - run.counted + 1 - run.undecided)
        if wave.budget is not None:
            room = min(room, wave.budget - wave.counted + 1 - wave.undecided)
    words = "" if room > 0 else f"{_targets(run.out)} to end"
    return Decision(wave=wave.position, room=max(0, room), may_send=True, waits_for=words)


def _targets(count: int) -> str:
    return "1 target" if count == 1 else f"{count:,} targets"


def _failed(count: int) -> str:
    return f"{_targets(count)} failed"


# --- who goes --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Candidate:
    """A target whose turn it is, if nothing holds it."""

    key: Hashable
    held: str = ""  # by a calendar, in words
    until: datetime | None = None  # when that may change
    free: Mapping[str, Sequence[int]] = field(default_factory=dict)  # by cluster the slots that it may take, in order


@dataclass(frozen=True, slots=True)
class Picked:
    """Who goes, with the slots that they take; who waits, and for what."""

    going: dict[Hashable, dict[str, int]]
    waiting: dict[Hashable, str]
    at: datetime | None  # the first moment at which a calendar lets one go


def pick(candidates: Iterable[Candidate], room: int, *, used: Mapping[str, set[int]] | None = None) -> Picked:
    """Of the candidates, in their order, those that go. `used`: slots that were given to others before in this step."""
    going: dict[Hashable, dict[str, int]] = {}
    waiting: dict[Hashable, str] = {}
    given: dict[str, set[int]] = {cluster: set(slots) for cluster, slots in (used or {}).items()}
    moments = []
    for each in candidates:
        if len(going) >= room:
            break
        if each.held:
            waiting[each.key] = each.held
            moments += [each.until] if each.until else []
            continue
        slots: dict[str, int] = {}
        for cluster, free in each.free.items():
            slot = next((slot for slot in free if slot not in given.get(cluster, ())), None)
            if slot is None:
                waiting[each.key] = f"Waits for a place in {cluster}."
                break
            slots[cluster] = slot
        else:
            for cluster, slot in slots.items():
                given.setdefault(cluster, set()).add(slot)
            going[each.key] = slots
    return Picked(going, waiting, min(moments, default=None))
