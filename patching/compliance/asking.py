"""What pages, files and the API ask of reports: who complies, now or at any moment; which patches and CVEs are open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.db.models import Count, Exists, Min, OuterRef, Q, QuerySet
from django.http import QueryDict

from fleetops.clock import now as clock_now
from fleetops.errors import FieldError
from fleetops.identity.models import User
from fleetops.inventory.models import Instance
from fleetops.inventory.selection import select
from fleetops.targets import parse

from . import standing
from .models import PatchSpan, Report, Sla, SpanCve, Standing
from .verdict import LACKING, NON_COMPLIANT

OLD: Final = timedelta(days=7)  # a report older than this says little of today
SOON: Final = timedelta(hours=48)
MOST_NAMES: Final = 50  # of the patches of one CVE
FIRST: Final = datetime(2016, 1, 1, tzinfo=UTC)  # before Patch Manager was there
# What a list can be cut down to: key → words.
STATES: Final = {
    "bad": "Not compliant",
    "good": "Compliant",
    "never": "Never scanned",
    "old": "Report older than 7 days",
    "reboot": "Waits for a restart",
    "overdue": "Past a deadline",
}


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose instances, which of them, and as of when."""

    user: User
    text: str = ""  # a target expression; empty: all
    state: str = ""  # of STATES
    moment: datetime | None = None  # none: now

    @property
    def at(self) -> datetime:
        return self.moment or clock_now()

    def instances(self) -> Any:
        """Managed instances that are there; at a past moment those that were: with those that have gone since, and
        without those that have come since."""
        found = self.ever()
        return found.present() if self.moment is None else found.filter(there_at(self.moment))

    def ever(self) -> Any:
        """All managed instances that the user may see and the expression selects, whenever they were there."""
        visible = Instance.objects.visible_to(self.user).exclude(ssm_read_at=None)
        return select(parse(self.text, words=True), visible) if self.text else visible

    def reports(self) -> QuerySet[Report]:
        """The report of each that has one, cut down to `state`; without those that were never scanned."""
        there = self.instances()
        if self.moment is None:
            found = Report.objects.filter(pk__in=Standing.objects.filter(instance__in=there).values("report"))
        else:
            found = Report.objects.at(self.moment).filter(instance__in=there)
        if self.state == "bad":
            found = found.filter(is_compliant=False)
        elif self.state == "good":
            found = found.filter(is_compliant=True)
        elif self.state == "never":
            found = found.none()
        elif self.state == "old":
            found = found.filter(ended_at__lt=self.at - OLD)
        elif self.state == "reboot":
            found = found.filter(pending_reboot__gt=0)
        elif self.state == "overdue":
            found = found.filter(instance__in=self.spans().filter(standing.overdue(at=self.at)).values("instance"))
        return found

    def never(self) -> Any:
        """Those that had reported nothing by then."""
        if self.moment is None:
            return self.instances().filter(patch_standing=None)
        return self.instances().filter(~_reported_by(self.moment))

    def spans(self) -> QuerySet[PatchSpan]:
        """How patches stood."""
        spans = PatchSpan.objects.open() if self.moment is None else PatchSpan.objects.at(self.moment)
        return spans.filter(instance__in=self.instances())


def there_at(moment: datetime) -> Q:
    """Of instances: those that were there at `moment`, as far as anybody knows.

    They had reported by then, or FleetOps had met them (their keys sort by when it did), or EC2 says that they ran; it
    tells of their last start alone, so a later one says nothing.
    """
    met = UUID(int=int((moment.timestamp() + 0.001) * 1000) << 80)
    return Q(Q(gone_at=None) | Q(gone_at__gt=moment)) & (
        Q(pk__lt=met) | Q(launched_at__lte=moment) | Q(_reported_by(moment))
    )


def _reported_by(moment: datetime) -> Exists:
    return Exists(Report.objects.filter(instance=OuterRef("pk"), ended_at__lte=moment))


def scope_of(user: User, asked: QueryDict | Mapping[str, Any]) -> Scope:
    """The scope that a query string names: q, state, at. Raises UserError for what it cannot be."""
    text = str(asked.get("q", "")).replace("\x00", "").strip()[:4000]
    state = str(asked.get("state", ""))
    if state and state not in STATES:
        raise FieldError("state", f"There is no state {state[:40]}; choose one of {', '.join(STATES)}.")
    if text:
        parse(text, words=True)
    return Scope(user, text, state, moment_in(str(asked.get("at", ""))))


def moment_in(text: str) -> datetime | None:
    """A moment as people and links write it, in UTC unless it says otherwise; none for "". Raises UserError."""
    text = text.strip()
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
        found = found if found.tzinfo else found.replace(tzinfo=UTC)
        found = found.astimezone(UTC)
        if found < FIRST:
            raise ValueError
    except (ValueError, OverflowError):
        raise FieldError("at", "Write a moment as 2026-11-01T00:00, in UTC.") from None
    if found > clock_now() + timedelta(minutes=1):
        raise FieldError("at", "That moment has not come yet.")
    return found


@dataclass(frozen=True, slots=True)
class Figures:
    """How many instances stand how."""

    instances: int
    scanned: int
    compliant: int
    never: int
    old: int
    reboot: int

    @property
    def bad(self) -> int:
        return self.scanned - self.compliant

    @property
    def share(self) -> float | None:
        """Percent of the scanned that comply; none where nothing was scanned."""
        return 100.0 * self.compliant / self.scanned if self.scanned else None


def figures(scope: Scope) -> Figures:
    """Three queries."""
    counted = scope.reports().aggregate(
        scanned=Count("pk"),
        compliant=Count("pk", filter=Q(is_compliant=True)),
        old=Count("pk", filter=Q(ended_at__lt=scope.at - OLD)),
        reboot=Count("pk", filter=Q(pending_reboot__gt=0)),
    )
    return Figures(instances=scope.instances().count(), never=scope.never().count(), **counted)


@dataclass(frozen=True, slots=True)
class Deadline:
    """How the open patches of a severity stand to their SLA."""

    severity: str
    days: int
    past: int
    soon: int
    later: int

    @property
    def total(self) -> int:
        return self.past + self.soon + self.later


def deadlines(scope: Scope) -> list[Deadline]:
    """One query for each SLA."""
    found = []
    for sla in Sla.objects.all():
        lacking = scope.spans().filter(state__in=LACKING, severity__iexact=sla.severity)
        limit = scope.at - timedelta(days=sla.days)
        counts = lacking.aggregate(
            past=Count("pk", filter=Q(lacks_since__lte=limit)),
            soon=Count("pk", filter=Q(lacks_since__gt=limit, lacks_since__lte=limit + SOON)),
            later=Count("pk", filter=Q(lacks_since__gt=limit + SOON)),
        )
        found.append(Deadline(sla.severity, sla.days, **counts))
    return found


def slas() -> dict[str, int]:
    """Severity in small letters → days."""
    return {each.severity.lower(): each.days for each in Sla.objects.all()}


@dataclass(frozen=True, slots=True)
class Clock:
    """The time that is left for a patch, or by which it is past."""

    due_at: datetime
    left: timedelta
    percent: int  # of the time that has passed, at most 100

    @property
    def tone(self) -> str:
        if self.left <= timedelta():
            return "bad"
        return "warn" if self.left <= SOON else ""


def clock(severity: str, since: datetime | None, *, at: datetime, days: Mapping[str, int]) -> Clock | None:
    """None where no SLA counts."""
    length = days.get(severity.lower())
    if length is None or since is None:
        return None
    whole = timedelta(days=length)
    due = since + whole
    passed = 100 if not length else round(100 * ((at - since) / whole))
    return Clock(due, due - at, max(0, min(100, passed)))


SEVERITIES: Final = ("critical", "important", "high", "moderate", "medium", "low")


def rank(severity: str) -> int:
    """The gravest first."""
    return SEVERITIES.index(severity.lower()) if severity.lower() in SEVERITIES else len(SEVERITIES)


def open_cves(scope: Scope, words: str = "") -> QuerySet[Any]:
    """Each CVE that instances lack a patch of: cve, instances, patches, since; the most widespread first."""
    lacking = scope.spans().filter(state__in=LACKING)
    rows = SpanCve.objects.filter(span__in=lacking)
    for word in words.split()[:8]:
        rows = rows.filter(Q(cve__icontains=word) | Q(span__kb_id__icontains=word) | Q(span__title__icontains=word))
    return (
        rows.order_by()
        .values("cve")
        .annotate(
            instances=Count("span__instance", distinct=True),
            patches=Count("span__kb_id", distinct=True),
            since=Min("span__lacks_since"),
        )
        .order_by("-instances", "cve")
    )


def details_of(scope: Scope, cves: list[str]) -> dict[str, dict[str, Any]]:
    """For these CVEs, the gravest severity and the names of their open patches. One query."""
    rows = SpanCve.objects.filter(cve__in=cves, span__in=scope.spans().filter(state__in=LACKING))
    found: dict[str, dict[str, Any]] = {}
    for cve, severity, kb_id in rows.values_list("cve", "span__severity", "span__kb_id").distinct():
        entry = found.setdefault(cve, {"severity": severity, "patches": []})
        if rank(severity) < rank(entry["severity"]):
            entry["severity"] = severity
        if kb_id not in entry["patches"]:
            entry["patches"].append(kb_id)
    return found


def patches(scope: Scope, words: str = "", state: str = "", *, only_overdue: bool = False) -> QuerySet[Any]:
    """Each patch that keeps instances from complying (or, with `state`, that stands so): how many, since when."""
    rows = scope.spans().filter(state=state) if state else scope.spans().filter(state__in=NON_COMPLIANT)
    if only_overdue:
        rows = rows.filter(standing.overdue(at=scope.at))
    for word in words.split()[:8]:
        rows = rows.filter(Q(kb_id__icontains=word) | Q(title__icontains=word) | Q(cves__cve__icontains=word))
    return (
        rows.order_by()
        .values("kb_id", "title", "classification", "severity", "state")
        .annotate(instances=Count("instance", distinct=True), since=Min("lacks_since"))
        .order_by("-instances", "kb_id", "title", "state")
    )


# By what instances are grouped, besides a tag (`tag:KEY`).
GROUPINGS: Final = {
    "group": "Patch group",
    "account": "Account",
    "region": "Region",
    "system": "Operating system",
    "platform": "Platform",
    "baseline": "Baseline",
}
