"""How far the evidence for each target goes: its commands' ends, its kind's word, its probes. `Success` is no outcome.

    queued → preparing (the steps before) → sent → ran → rebooted → reported → probed (the steps after) → its end

A target whose end is known before it has come to it keeps its state while the steps after bring it back, and its
`outcome` says what it will be. All of this happens under the lock of its run; see advancing.py.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from django.db.models import Case, Q, When

from fleetops.aws.errors import AwsError
from fleetops.clock import during, monotonic
from fleetops.runcommand import orders
from fleetops.runcommand.models import Invocation
from fleetops.runcommand.states import OPEN as COMMAND_OPEN
from fleetops.runcommand.states import InvocationState
from fleetops.transitions import move

from . import clusters
from .kinds import Proof, RunKind, Verdict
from .models import Run, RunEvent, RunTarget
from .states import IN_FLIGHT, TARGET_MOVES, Outcome, RunState, TargetState

logger = logging.getLogger(__name__)

MOST_JUDGED: Final = 500  # targets that one look asks their kind about
LONGEST_JUDGED: Final = 20.0  # seconds after which one look asks no further region: some may be long in not answering
MOST_TAKEN: Final = 1000  # ends of commands that one look writes down
FIRST_PAUSE: Final = timedelta(seconds=5)  # between two looks at a proof that is not there
LONGEST_PAUSE: Final = timedelta(seconds=30)
BEFORE, MAIN, PROBE, AFTER = "before", "", "probe", "after"
# AWS's StatusDetails of an invocation that did not end well, in words [SSM user guide, "Understanding command
# statuses"]. All are failures here, whatever AWS counts them as.
WORDS: Final = {
    "Undeliverable": "Undeliverable: AWS could not hand it to the agent.",
    "DeliveryTimedOut": "Delivery timed out: no agent took it in time.",
    "ExecutionTimedOut": "Execution timed out: it was not done in time.",
    "InvalidPlatform": "Invalid platform: the document is not for this machine.",
    "AccessDenied": "Access denied: AWS did not let it run there.",
    "Terminated": "Terminated: AWS stopped the command.",
    "Cancelled": "Cancelled in AWS.",
}


@dataclass(slots=True)
class Due:
    """Targets that are to be given their next step, by what it is: ("before", 2), ("", 0), ("after", 1)."""

    steps: dict[tuple[str, int], list[RunTarget]] = field(default_factory=lambda: defaultdict(list))
    ran: int = 0  # targets whose document has just ended well
    ended: list[Any] = field(default_factory=list)  # keys of targets whose places in clusters are free again
    is_more: bool = False  # ends that are not written down yet: whoever knows not of all failures sends nothing

    def add(self, target: RunTarget, kind: str, number: int = 0) -> None:
        self.steps[kind, number].append(target)

    def settle(self) -> None:
        """Give back the places of those that have ended; before others go."""
        clusters.release(self.ended)
        self.ended.clear()


@dataclass(frozen=True, slots=True)
class Judged:
    """A kind's word, and the state and attempt that it is about: a target that has moved since is not meant."""

    attempt: int
    verdict: Verdict


# --- asked of AWS, outside of a transaction --------------------------------------------------------------------------


def judge(run: Run, kind: RunKind, *, now: datetime) -> dict[Any, Judged]:
    """Ask the kind about the targets whose turn it is; by their keys. No two workers ask about one at the same time."""
    waiting = run.targets.filter(state__in=[TargetState.RAN, TargetState.REBOOTED], outcome="", step="")
    waiting = waiting.filter(Q(due_at__lte=now) | Q(due_at__gt=now + during(timedelta(minutes=10))) | Q(due_at=None))
    rows = list(
        waiting.select_related(
            *("invocation", "instance_row__account", "instance_row__region", "account", "region", "wave")
        ).order_by("due_at", "position")[:MOST_JUDGED]
    )
    if not rows:
        return {}
    claimed = now + during(timedelta(seconds=30))
    run.targets.filter(pk__in=[each.pk for each in rows], state__in=[TargetState.RAN, TargetState.REBOOTED]).update(
        due_at=claimed
    )
    places: dict[Any, list[RunTarget]] = defaultdict(list)
    for each in rows:
        places[each.account_id, each.region_id].append(each)
    found: dict[Any, Judged] = {}
    began = monotonic()
    for number, mine in enumerate(places.values()):
        if number and monotonic() - began > LONGEST_JUDGED:
            # Their turn comes first at the next look: those that were asked about come later.
            run.targets.filter(pk__in=[each.pk for each in mine], due_at=claimed).update(due_at=now)
            continue
        try:
            verdicts = kind.judge(run, mine)
        except AwsError as error:  # asked again later; the time that is left for a proof goes on
            logger.warning("targets not judged run=%s code=%s", run.pk, error.code)
            verdicts = [Verdict(Proof.WAITING, f"AWS did not tell: {error}"[:512])] * len(mine)
        found |= {each.pk: Judged(each.attempt, verdict) for each, verdict in zip(mine, verdicts, strict=True)}
    return found


# --- under the lock of the run ---------------------------------------------------------------------------------------


def take(run: Run, judged: Mapping[Any, Judged], *, now: datetime) -> Due:
    """Write down what commands and kinds have told, and collect who is to go on with which step."""
    due = Due()
    rows = run.targets.filter(state__in=list(IN_FLIGHT))
    rows = rows.select_related("invocation__dispatch", "invocation__command", "instance_row", "wave")
    rows = rows.order_by("position")
    rows = rows.defer(
        "invocation__head", "invocation__outputs", "invocation__command__parameters", "instance_row__tags"
    )
    gone = Q(instance_row=None) | Q(instance_row__gone_at__isnull=False)
    told = ~Q(step="") | Q(state__in=[TargetState.PREPARING, TargetState.SENT])
    ended = Q(invocation__isnull=False) & ~Q(invocation__state__in=list(COMMAND_OPEN))
    vanished = list(_of(run, rows.filter(gone)[: MOST_TAKEN + 1]))
    for target in vanished[:MOST_TAKEN]:
        finish(target, Outcome.BAD, "The instance is gone.", due, now=now)
    # Failures first: they count before anybody else goes.
    is_well = Case(When(invocation__state=InvocationState.SUCCEEDED, then=1), default=0)
    over = rows.filter(told, ended).exclude(gone).order_by(is_well, "position")
    done = list(_of(run, over[: MOST_TAKEN + 1]))
    for target in done[:MOST_TAKEN]:
        _take_end(run, target, due, now=now)
    due.is_more = max(len(vanished), len(done)) > MOST_TAKEN
    for target in _of(run, rows.filter(pk__in=list(judged)).exclude(gone)) if judged else ():
        mine = judged[target.pk]
        is_meant = target.attempt == mine.attempt and not target.outcome and not target.step
        if is_meant and target.state in {TargetState.RAN, TargetState.REBOOTED}:
            _take_verdict(run, target, mine.verdict, due, now=now)
    due.settle()
    return due


def _of(run: Run, rows: Iterable[RunTarget]) -> Iterable[RunTarget]:
    """The rows, each with the run as it stands under the lock."""
    for target in rows:
        target.run = run
        yield target


def _take_end(run: Run, target: RunTarget, due: Due, *, now: datetime) -> None:
    """A command of the target has ended."""
    invocation = target.invocation
    step, number = step_of(target)
    is_well = invocation.state == InvocationState.SUCCEEDED
    if step == AFTER:
        if not is_well:
            step_words = f"step after {number}, {_document(run.steps_after, number)}. {words_of(invocation)}"
            not_brought_back(target, step_words)
        bring_back(run, target, number + 1, due, now=now)
    elif (
        step != PROBE  # what was done before a probe is done: it cannot be called off
        and orders.was_never_sent(invocation)
        and (run.state == RunState.ABORTING or not invocation.command.cancelled_by)
    ):
        decide(run, target, Outcome.AGAIN, invocation.details, due, now=now)
    elif not is_well:
        named = {
            BEFORE: f"Step before {number}, {_document(run.steps_before, number)}: ",
            PROBE: f"Probe {number}, {_document(run.probes, number)}: ",
        }.get(step, "")
        decide(run, target, Outcome.BAD, f"{named}{words_of(invocation)}", due, now=now)
    elif step == BEFORE:
        if number < len(run.steps_before):
            due.add(target, BEFORE, number + 1)
        else:
            due.add(target, MAIN)
    elif step == PROBE:
        if number < len(run.probes):
            due.add(target, PROBE, number + 1)
        else:
            move(target, TargetState.PROBED, TARGET_MOVES, probed_at=now)
            decide(run, target, Outcome.GOOD, "", due, now=now)
    else:
        move(
            target,
            TargetState.RAN,
            TARGET_MOVES,
            ran_at=now,
            due_at=now,
            proof_by=now + timedelta(minutes=run.evidence_minutes),
            reason="",
        )
        due.ran += 1


def not_brought_back(target: RunTarget, words: str) -> None:
    """A step after could not be done: whoever would count as well, or go again, has failed."""
    if target.outcome == Outcome.GOOD:
        target.outcome, target.reason = Outcome.BAD, f"It is well, but was not brought back: {words}"[:512]
    elif target.outcome == Outcome.AGAIN:
        said = f"It was called back before the document was sent, and was not brought back: {words}"
        target.outcome, target.reason = Outcome.BAD, said[:512]


def _take_verdict(run: Run, target: RunTarget, verdict: Verdict, due: Due, *, now: datetime) -> None:
    facts = {**target.facts, **verdict.facts}
    if verdict.proof == Proof.GOOD:
        back = {} if target.rebooted_at else {"rebooted_at": now}
        move(target, TargetState.REPORTED, TARGET_MOVES, reported_at=now, facts=facts, reason="", **back)
        if run.probes:
            due.add(target, PROBE, 1)
        else:
            decide(run, target, Outcome.GOOD, verdict.reason, due, now=now)
    elif verdict.proof == Proof.BAD:
        target.facts = facts
        decide(run, target, Outcome.BAD, verdict.reason or "Its report says that it failed.", due, now=now)
    elif target.proof_by is not None and now >= target.proof_by:
        words = f"No proof within {run.evidence_minutes} minutes after the command."
        target.facts = facts
        decide(run, target, Outcome.BAD, f"{words} {verdict.reason}".strip(), due, now=now)
    else:
        if verdict.proof == Proof.REBOOTED and target.state == TargetState.RAN:
            move(target, TargetState.REBOOTED, TARGET_MOVES, rebooted_at=now)
        since = now - (target.ran_at or now)
        pause = min(LONGEST_PAUSE, max(FIRST_PAUSE, since / 10))
        at = min(now + pause, max(target.proof_by or now, now + timedelta(seconds=1)))
        RunTarget.objects.filter(pk=target.pk, state=target.state).update(
            due_at=at, facts=facts, reason=verdict.reason[:512]
        )


def decide(run: Run, target: RunTarget, outcome: str, words: str, due: Due, *, now: datetime) -> None:
    """Its end is known: bring it back, or end it at once if there is nothing to bring back."""
    target.outcome, target.reason = outcome, words[:512]
    if outcome == Outcome.BAD:
        logger.info("target failed run=%s instance=%s reason=%s", run.pk, target.instance_id, target.reason)
    if not _was_touched(target):
        finish(target, outcome, words, due, now=now)
    else:
        bring_back(run, target, 1, due, now=now)


def _was_touched(target: RunTarget) -> bool:
    """Whether a command of this attempt may have reached the machine."""
    step, number = step_of(target)
    invocation = target.invocation
    is_first = number == 1 if step == BEFORE else step == MAIN and not target.run.steps_before
    if target.state not in {TargetState.PREPARING, TargetState.SENT} or not is_first:
        return True
    if invocation is None or invocation.state == InvocationState.SKIPPED:  # AWS never had it
        return False
    return not orders.was_never_sent(invocation)


def bring_back(run: Run, target: RunTarget, number: int, due: Due, *, now: datetime) -> None:
    """The step after with that number, or the first later one that is for such an end; without one, its end."""
    for at in range(number, len(run.steps_after) + 1):
        if target.outcome != Outcome.BAD or run.steps_after[at - 1].get("on_failure", True):
            due.add(target, AFTER, at)
            return
    finish(target, target.outcome, target.reason, due, now=now)


def finish(target: RunTarget, outcome: str, words: str, due: Due, *, now: datetime) -> None:
    """End the target, or put it back in the queue; its places in clusters are free once `due` is settled."""
    facts: dict[str, Any] = {"step": "", "outcome": "", "reason": words[:512], "due_at": None, "facts": target.facts}
    if outcome == Outcome.AGAIN and target.run.state != RunState.ABORTING:
        move(target, TargetState.QUEUED, TARGET_MOVES, **facts, invocation=None, went_at=None, sent_at=None)
    elif outcome == Outcome.AGAIN:
        facts["reason"] = "The run was aborted before it was sent."
        move(target, TargetState.CANCELLED, TARGET_MOVES, **facts, ended_at=now)
    else:
        to = TargetState.SUCCEEDED if outcome == Outcome.GOOD else TargetState.FAILED
        move(target, to, TARGET_MOVES, **facts, ended_at=now)
        if to == TargetState.FAILED:
            RunEvent.objects.create(
                run_id=target.run_id,
                wave_id=target.wave_id,
                target=target,
                at=now,
                tone="bad",
                text=f"{target} failed: {words}"[:512],
            )
    due.ended.append(target.pk)


# --- words -----------------------------------------------------------------------------------------------------------


def step_of(target: RunTarget) -> tuple[str, int]:
    """("before", 2) of the step "before 2"; ("", 0) of the document itself."""
    name, _, number = target.step.partition(" ")
    return (name, int(number or 0)) if name else (MAIN, 0)


def words_of(invocation: Invocation) -> str:
    """Why a command did not end well on an instance."""
    details = invocation.details.strip()
    if words := WORDS.get(details):
        return words
    code = f", exit code {invocation.exit_code}" if invocation.exit_code is not None else ""
    if invocation.state == InvocationState.FAILED and details in {"", "Failed"}:
        return f"The command failed{code}."
    return details or f"The command ended as {invocation.state}{code}."


def _document(steps: Sequence[Mapping[str, Any]], number: int) -> str:
    return str(steps[number - 1].get("document", "")) if 0 < number <= len(steps) else ""


def counts_of(rows: Iterable[tuple[str, str, int]]) -> dict[str, int]:
    """What the planner wants of rows of (state, outcome, count)."""
    found = dict.fromkeys(("queued", "undecided", "returning", "failed", "succeeded", "cancelled"), 0)
    for state, outcome, count in rows:
        if state in IN_FLIGHT:
            found["returning" if outcome else "undecided"] += count
            found["failed"] += count if outcome == Outcome.BAD else 0
        elif state in found:
            found[state] += count
    return found
