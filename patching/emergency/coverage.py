"""How far the fixing has come: the share of affected nodes that are fixed by their own reports, over time. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 820, 240, 44, 20, 6


@dataclass(frozen=True, slots=True)
class Span:
    """From when to when one patch stood in one state on a node."""

    kb_id: str
    title: str
    state: str
    from_at: datetime
    to_at: datetime | None


_LACKING = frozenset({"MISSING", "FAILED", "AVAILABLE_SECURITY_UPDATE"})
_WORDS = {
    "MISSING": "Its last report says that it lacks the patch.",
    "AVAILABLE_SECURITY_UPDATE": "Its last report says that it lacks the patch.",
    "FAILED": "Its last report says that the patch could not be installed.",
    "INSTALLED_PENDING_REBOOT": "Installed; it waits for a restart.",
}


def fixed(patches: Iterable[tuple[str, str]], spans: Sequence[Span]) -> tuple[datetime | None, str]:
    """Since when a node has all `patches` (KBId and title) that it lacked, by its reports; else why it is not fixed.

    It is if it has told of a version installed, of each package, since it last told that it lacked the one in question.
    """
    moments = []
    for kb_id, title in patches:
        mine = [each for each in spans if each.kb_id == kb_id]
        now = [each for each in mine if each.to_at is None]
        lacks = [each for each in mine if each.title == title and each.state in _LACKING]
        if still := [each for each in lacks if each.to_at is None]:
            return None, _WORDS[still[0].state]
        since = max((each.to_at for each in lacks if each.to_at), default=None)
        has = [
            each.from_at
            for each in mine
            if each.state == "INSTALLED" and (since is None or each.to_at is None or each.to_at > since)
        ]
        if not has:
            if waiting := [each for each in now if each.state == "INSTALLED_PENDING_REBOOT"]:
                return None, _WORDS[waiting[0].state]
            return None, "Its reports tell of this patch no more, and of no other version that is installed. Scan it."
        moments.append(max(min(has), since) if since else min(has))
    return (max(moments), "") if moments else (None, "No report of it names the patch.")


@dataclass(frozen=True, slots=True)
class Coverage:
    """The curve, and its two marks."""

    total: int
    fixed: int
    began_at: datetime
    half_after: timedelta | None  # from the beginning until half of them were; none: they are not
    full_after: timedelta | None
    points: tuple[tuple[datetime, int], ...]  # how many were, from each of these moments on

    @property
    def left(self) -> int:
        return self.total - self.fixed

    @property
    def percent(self) -> float:
        return 100.0 * self.fixed / self.total if self.total else 0.0


def coverage(moments: Iterable[datetime | None], *, began_at: datetime) -> Coverage:
    """Of all affected nodes, when each was fixed (none: it is not). What was before the beginning counts as at it."""
    every = list(moments)
    done = sorted(max(each, began_at) for each in every if each is not None)
    points = [(began_at, sum(each == began_at for each in done))]
    for number, at in enumerate(done, 1):
        if at == points[-1][0]:
            points[-1] = (at, number)
        else:
            points.append((at, number))
    half = -(-len(every) // 2)

    def after(count: int) -> timedelta | None:
        return done[count - 1] - began_at if 0 < count <= len(done) else None

    return Coverage(len(every), len(done), began_at, after(half), after(len(every)), tuple(points))


@dataclass(frozen=True, slots=True)
class Chart:
    """Where things are drawn, in an SVG of 820 by 250."""

    line: str
    area: str
    last: tuple[float, float]
    levels: tuple[tuple[float, str], ...]
    moments: tuple[tuple[float, str], ...]
    half_y: float


def draw(found: Coverage, *, until: datetime) -> Chart:
    """The curve in steps, from the beginning until `until` (or a little after all were fixed)."""
    end = until if found.full_after is None else found.points[-1][0] + max(found.full_after / 10, timedelta(minutes=1))
    span = max(end - found.began_at, timedelta(minutes=1))
    floor = HEIGHT - BOTTOM + TOP

    def x(at: datetime) -> float:
        return round(LEFT + (WIDTH - LEFT - 8) * min(1.0, (at - found.began_at) / span), 1)

    def y(count: float) -> float:
        return round(TOP + (HEIGHT - BOTTOM) * (1 - (count / found.total if found.total else 0)), 1)

    drawn: list[tuple[float, float]] = []
    for at, count in found.points:
        if drawn:
            drawn.append((x(at), drawn[-1][1]))
        drawn.append((x(at), y(count)))
    drawn.append((x(end), drawn[-1][1]))
    line = " ".join(f"{at},{level}" for at, level in drawn)
    form = "%H:%M" if span < timedelta(days=1) else "%-d %b %H:%M"
    return Chart(
        line=line,
        area=f"{drawn[0][0]},{floor} {line} {drawn[-1][0]},{floor}",
        last=drawn[-1],
        levels=tuple((y(found.total * part / 4), f"{25 * part}%") for part in range(5)) if found.total else (),
        moments=tuple(
            (x(found.began_at + span * part / 4), f"{found.began_at + span * part / 4:{form}}") for part in range(4)
        ),
        half_y=y(found.total / 2),
    )
