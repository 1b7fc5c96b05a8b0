"""What the pages of runs show: words for states, bars, figures, phases of a target, failures by their cause."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.db.models import Count, Max, Min, Q

from fleetops.clock import now as clock_now
from fleetops.web.templatetags.fleetops import age_text

from . import limits
from .models import Run, RunTarget, RunTargetQuerySet, Wave
from .states import IN_FLIGHT, GateState, RunState, TargetState, WaveState

ROWS: Final = 100  # of one page of targets
MOST_CARDS: Final = 60  # targets of a run that are shown as cards
MOST_BUTTONS: Final = 800  # targets of a wave that are buttons; more are painted
SURE_FROM: Final = 100  # targets from which on their number has to be typed before a start
# State → (kind of glyph and colour, the word)
RUN_WORDS: Final = {
    RunState.DRAFT: ("wait", "Draft"),
    RunState.RUNNING: ("run", "Running"),
    RunState.PAUSED: ("hold", "Paused"),
    RunState.STOPPED: ("hold", "Stopped, needs you"),
    RunState.ABORTING: ("hold", "Aborting"),
    RunState.SUCCEEDED: ("ok", "Finished"),
    RunState.FAILED: ("bad", "Failed"),
    RunState.ABORTED: ("off", "Aborted"),
}
WAVE_WORDS: Final = {
    WaveState.PENDING: ("wait", "Waiting"),
    WaveState.RUNNING: ("run", "Running"),
    WaveState.SOAKING: ("run", "Soaking"),
    WaveState.GATED: ("hold", "At its gates"),
    WaveState.SUCCEEDED: ("ok", "Passed"),
    WaveState.FAILED: ("bad", "Failed"),
    WaveState.SKIPPED: ("off", "Skipped"),
    WaveState.CANCELLED: ("off", "Cancelled"),
}
GATE_WORDS: Final = {
    GateState.PENDING: ("wait", "Not asked yet"),
    GateState.WAITING: ("hold", "Waits"),
    GateState.PASSED: ("ok", "Passed"),
    GateState.FAILED: ("bad", "Says no"),
    GateState.OVERRULED: ("warn", "Overruled"),
}
TARGET_WORDS: Final = {
    TargetState.QUEUED: ("wait", "Waiting"),
    TargetState.PREPARING: ("run", "Preparing"),
    TargetState.SENT: ("run", "Running"),
    TargetState.RAN: ("warn", "Not proven yet"),
    TargetState.REBOOTED: ("warn", "Back, not proven yet"),
    TargetState.REPORTED: ("run", "Reported"),
    TargetState.PROBED: ("run", "Probed"),
    TargetState.SUCCEEDED: ("ok", "Proven"),
    TargetState.FAILED: ("bad", "Failed"),
    TargetState.SKIPPED: ("off", "Skipped"),
    TargetState.CANCELLED: ("off", "Never sent"),
}
HELD: Final = ("hold", "Held")  # it waits, and a rule or a calendar says for what
# A cell as one letter; the pages learn from here what it means.
CODES: Final = {
    "w": TARGET_WORDS[TargetState.QUEUED],
    "h": HELD,
    "e": TARGET_WORDS[TargetState.PREPARING],
    "r": TARGET_WORDS[TargetState.SENT],
    "n": TARGET_WORDS[TargetState.RAN],
    "m": TARGET_WORDS[TargetState.REBOOTED],
    "t": TARGET_WORDS[TargetState.REPORTED],
    "p": TARGET_WORDS[TargetState.PROBED],
    "o": TARGET_WORDS[TargetState.SUCCEEDED],
    "b": TARGET_WORDS[TargetState.FAILED],
    "s": TARGET_WORDS[TargetState.SKIPPED],
    "c": TARGET_WORDS[TargetState.CANCELLED],
}
CODE_OF: Final = {
    TargetState.QUEUED: "w",
    TargetState.PREPARING: "e",
    TargetState.SENT: "r",
    TargetState.RAN: "n",
    TargetState.REBOOTED: "m",
    TargetState.REPORTED: "t",
    TargetState.PROBED: "p",
    TargetState.SUCCEEDED: "o",
    TargetState.FAILED: "b",
    TargetState.SKIPPED: "s",
    TargetState.CANCELLED: "c",
}
# What the key of the grid counts, in its order: label, kind, states.
KEY: Final = (
    ("Proven", "ok", (TargetState.SUCCEEDED,)),
    ("Working", "run", (TargetState.PREPARING, TargetState.SENT, TargetState.REPORTED, TargetState.PROBED)),
    ("Not proven yet", "warn", (TargetState.RAN, TargetState.REBOOTED)),
    ("Failed", "bad", (TargetState.FAILED,)),
    ("Skipped", "off", (TargetState.SKIPPED, TargetState.CANCELLED)),
)
# Filter in the URL → its label and states. "held" besides asks for a reason.
FILTERS: Final[Mapping[str, tuple[str, tuple[TargetState, ...]]]] = {
    "failed": ("Failed", (TargetState.FAILED,)),
    "working": ("Working", tuple(sorted(IN_FLIGHT))),
    "waiting": ("Waiting", (TargetState.QUEUED,)),
    "held": ("Held", (TargetState.QUEUED,)),
    "proven": ("Proven", (TargetState.SUCCEEDED,)),
    "skipped": ("Skipped", (TargetState.SKIPPED,)),
    "cancelled": ("Never sent", (TargetState.CANCELLED,)),
}
_BAR: Final = (
    ("ok", "Proven", (TargetState.SUCCEEDED,)),
    ("bad", "Failed", (TargetState.FAILED,)),
    ("off", "Skipped", (TargetState.SKIPPED, TargetState.CANCELLED)),
    ("warn", "Not proven yet", (TargetState.RAN, TargetState.REBOOTED)),
    ("run", "Working", (TargetState.PREPARING, TargetState.SENT, TargetState.REPORTED, TargetState.PROBED)),
)
_BAR_WIDTH: Final = 1000  # of the drawing; a piece of one target is seen all the same
_LEAST_PIECE: Final = 4
_PACE_BARS: Final = 40  # points of the drawing of the throughput


Counts = Mapping[TargetState, int]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a bar."""

    css: str
    x: float
    width: float
    title: str


@dataclass(frozen=True, slots=True)
class Phase:
    """A step of a target on its way, and how far that is. `kind`: ok, run, bad, or empty for not reached."""

    name: str
    kind: str = ""
    at: datetime | None = None  # when it was done


@dataclass(frozen=True, slots=True)
class Cause:
    """Targets that failed for the same reason."""

    reason: str
    count: int
    latest: datetime | None
    first: RunTarget | None = None


def bar(counts: Counts) -> list[Piece]:
    """The share of each state, of those that are in waves."""
    total = sum(counts.values())
    pieces, x = [], 0.0
    for css, label, states in _BAR:
        count = sum(counts[state] for state in states)
        if count:
            width = min(max(_LEAST_PIECE, _BAR_WIDTH * count / total), _BAR_WIDTH - x)
            pieces.append(Piece(css, round(x, 2), round(width, 2), f"{label}: {count:,} of {total:,}"))
            x += width
    return pieces


def figures(counts: Counts) -> dict[str, int]:
    """The numbers of the sentence below the title; of targets in waves."""
    return {
        "total": sum(counts.values()),
        "proven": counts[TargetState.SUCCEEDED],
        "failed": counts[TargetState.FAILED],
        "out": sum(counts[state] for state in IN_FLIGHT),
        "waiting": counts[TargetState.QUEUED],
        "skipped": counts[TargetState.SKIPPED],
        "cancelled": counts[TargetState.CANCELLED],
        "ended": counts[TargetState.SUCCEEDED] + counts[TargetState.FAILED],
    }


def with_words(run: Run) -> Run:
    run.kind_of_state, run.word = RUN_WORDS[RunState(run.state)]
    if run.state == RunState.FAILED and (failed := run.counts.get(TargetState.FAILED)):
        run.word = f"Finished with {failed:,} failed"
    return run


def target_with_words(target: RunTarget) -> RunTarget:
    kind, word = TARGET_WORDS[TargetState(target.state)]
    if target.state == TargetState.QUEUED and target.reason:
        kind, word = HELD
    target.kind, target.word = kind, word
    return target


def said(target: RunTarget) -> str:
    """One line below a target's name."""
    if target.reason:
        return target.reason
    if target.state == TargetState.SUCCEEDED:
        return "Its report says so." if target.reported_at else ""
    if target.step:
        what, _, number = target.step.partition(" ")
        return {"before": "Step before", "after": "Step after", "probe": "Probe"}.get(what, what) + f" {number}"
    return ""


def took(target: RunTarget) -> timedelta | None:
    """How long it is, or was, out of service."""
    if target.went_at is None:
        return None
    return (target.ended_at or clock_now()) - target.went_at


def length(seconds: float | timedelta | None) -> str:
    """40 s, 9 min, 2 h, 1 h 30 min."""
    if seconds is None:
        return ""
    whole = seconds if isinstance(seconds, timedelta) else timedelta(seconds=seconds)
    hours, rest = divmod(int(whole.total_seconds()), 3600)
    if 0 < hours < 48 and rest >= 60:
        return f"{hours} h {rest // 60} min"
    return age_text(whole)


# --- phases ----------------------------------------------------------------------------------------------------------

_REACHED: Final = {
    TargetState.PREPARING: "Steps before",
    TargetState.SENT: "Command",
    TargetState.RAN: "Back",
    TargetState.REBOOTED: "Report",
    TargetState.REPORTED: "Probes",
    TargetState.PROBED: "Steps after",
}


def phases(run: Run, target: RunTarget) -> list[Phase]:
    """The way of a target in this run, each part with when it was done."""
    done: list[tuple[str, datetime | None]] = [
        *([("Steps before", target.sent_at)] if run.steps_before else []),
        ("Command", target.ran_at),
        ("Back", target.rebooted_at),
        ("Report", target.reported_at),
        *([("Probes", target.probed_at)] if run.probes else []),
        *([("Steps after", target.ended_at)] if run.steps_after else []),
    ]
    state = TargetState(target.state)
    if state == TargetState.SUCCEEDED:
        return [Phase(name, "ok", at) for name, at in done]
    if state in {TargetState.QUEUED, TargetState.SKIPPED, TargetState.CANCELLED}:
        return [Phase(name) for name, _ in done]
    names = [name for name, _ in done]
    is_bad = state == TargetState.FAILED or target.outcome == "bad"
    if is_bad:
        where = next((at for at, (_, moment) in enumerate(done) if moment is None), len(done) - 1)
    else:
        current = _REACHED[state]
        later = names[names.index(current) :] if current in names else names[-1:]
        where = names.index(later[0])
    made = []
    for at, (name, moment) in enumerate(done):
        if at < where:
            made.append(Phase(name, "ok", moment))
        elif at == where:
            made.append(Phase(name, "bad" if is_bad else "run"))
        elif name == "Steps after" and is_bad:
            back = "run" if state != TargetState.FAILED else ("ok" if target.sent_at else "")
            made.append(Phase(name, back, target.ended_at if back == "ok" else None))
        else:
            made.append(Phase(name))
    return made


# --- a run as a whole ------------------------------------------------------------------------------------------------


def wave_counts(run: Run) -> dict[Any, dict[TargetState, int]]:
    """By wave: how many targets there are of each state. One query."""
    found: dict[Any, dict[TargetState, int]] = {}
    rows = run.targets.exclude(wave=None).order_by().values_list("wave", "state").annotate(Count("pk"))
    for wave, state, count in rows:
        found.setdefault(wave, dict.fromkeys(TargetState, 0))[TargetState(state)] = count
    return found


def held(targets: RunTargetQuerySet) -> list[dict[str, Any]]:
    """What waiting targets wait for, with how many."""
    rows = targets.filter(state=TargetState.QUEUED).exclude(reason="").order_by().values("reason")
    return list(rows.annotate(count=Count("pk")).order_by("-count", "reason")[:6])


def causes(run: Run, most: int = 6) -> tuple[list[Cause], int]:
    """Failures by their reason, the most frequent first, each with a target; and how many reasons there are."""
    failed = run.targets.filter(state=TargetState.FAILED)
    rows = list(
        failed.order_by()
        .values("reason")
        .annotate(count=Count("pk"), latest=Max("ended_at"), position=Min("position"))
        .order_by("-count", "-latest")[: most + 50]
    )
    shown = rows[:most]
    firsts = {
        each.position: each
        for each in failed.filter(position__in=[row["position"] for row in shown]).select_related("invocation")
    }
    made = [
        Cause(row["reason"] or "It failed.", row["count"], row["latest"], firsts.get(row["position"])) for row in shown
    ]
    return made, len(rows)


def pace(run: Run, *, now: datetime) -> dict[str, Any]:
    """Ends an hour, of the last hour, and a drawing of them since the start: points "x,y" of a box of 120 by 20."""
    if run.started_at is None:
        return {"per_hour": 0, "points": ""}
    end = run.ended_at or now
    length = max((end - run.started_at).total_seconds(), 1.0)
    done = run.targets.filter(
        state__in=[TargetState.SUCCEEDED, TargetState.FAILED], ended_at__isnull=False, ended_at__gte=run.started_at
    )
    moments = [(moment - run.started_at).total_seconds() for moment in done.values_list("ended_at", flat=True)]
    window = min(3600.0, length)
    lately = sum(moment >= length - window for moment in moments)
    bars = [0] * _PACE_BARS
    for moment in moments:
        bars[min(_PACE_BARS - 1, int(_PACE_BARS * moment / length))] += 1
    top = max(bars, default=0) or 1
    points = [(120 * at / (_PACE_BARS - 1), 19 - 18 * count / top) for at, count in enumerate(bars)]
    return {
        "per_hour": round(lately * 3600 / window),
        "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in points) if len(moments) > 1 else "",
    }


def eta(run: Run, waves: Sequence[Wave], counts: Mapping[Any, Counts], *, now: datetime) -> datetime | None:
    """When it would be done at the pace seen and planned; none while a person decides, or nothing is known."""
    if run.state != RunState.RUNNING:
        return None
    planned = {each["position"]: each for each in run.plan.get("waves", [])}
    at = max(now, run.starts_at) if run.starts_at else now
    for wave in waves:
        mine = counts.get(wave.pk, {})
        total = sum(mine.values()) if mine else 0
        left = sum(mine.get(state, 0) for state in (TargetState.QUEUED, *IN_FLIGHT))
        minutes = float(planned.get(wave.position, {}).get("minutes", 0)) or 1.0
        if wave.state in {WaveState.PENDING, WaveState.RUNNING}:
            ended = total - left
            if wave.state == WaveState.RUNNING and ended and wave.started_at:
                seconds = (now - wave.started_at).total_seconds() / ended * left
            else:
                seconds = 60 * minutes * left / max(total, 1)
            at += timedelta(seconds=seconds + wave.soak_seconds)
        elif wave.state == WaveState.SOAKING and wave.soak_until:
            at = max(at, wave.soak_until)
        elif wave.state == WaveState.FAILED:
            return None
    return at


def budget(run: Run, counts: Counts) -> dict[str, int | bool]:
    """Failures that count, those that are borne, and whether that is used up."""
    total = sum(counts.values())
    failed = max(0, counts[TargetState.FAILED] - run.accepted_failures)
    most = limits.budget(run.budget, total)
    return {
        "failed": failed,
        "most": most,
        "left": max(0, most - failed),
        "is_spent": failed > most,
        "accepted": min(run.accepted_failures, counts[TargetState.FAILED]),
    }


def shown_rows(run: Run, show: str, text: str) -> RunTargetQuerySet:
    """The targets that a filter and a few words let through."""
    rows = run.targets.select_related("account", "region", "wave", "invocation")
    if show in FILTERS:
        rows = rows.filter(state__in=list(FILTERS[show][1]))
        if show == "held":
            rows = rows.exclude(reason="")
    if text:
        rows = rows.filter(Q(instance_name__icontains=text) | Q(instance_id__icontains=text))
    return rows.order_by("position")


def tabs(counts: Counts, held_count: int, active: str) -> list[tuple[str, str, int, bool]]:
    """Filters of the table: key, label, how many, whether it is the one shown."""
    made = [("", "All", sum(counts.values()), not active)]
    for key, (label, states) in FILTERS.items():
        count = held_count if key == "held" else sum(counts[state] for state in states)
        if count or key == active:
            made.append((key, label, count, key == active))
    return made


def counts_of_runs(runs: Iterable[Run]) -> dict[Any, dict[TargetState, int]]:
    """By run: how many targets in waves there are of each state. One query for all that are not over."""
    found: dict[Any, dict[TargetState, int]] = {}
    live = []
    for run in runs:
        found[run.pk] = dict.fromkeys(TargetState, 0)
        if run.counts:
            found[run.pk] |= {TargetState(state): count for state, count in run.counts.items() if state in TargetState}
        else:
            live.append(run.pk)
    rows = RunTarget.objects.filter(run__in=live).exclude(wave=None).order_by()
    for run_pk, state, count in rows.values_list("run", "state").annotate(Count("pk")):
        found[run_pk][TargetState(state)] = count
    return found
