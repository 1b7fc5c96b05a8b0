"""Freezes and windows: calendars that are kept here, uploaded, or fetched from elsewhere."""

from datetime import datetime, timedelta

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.urls import reverse

from fleetops import vault
from fleetops.clock import now, uuid7

from .deeds import DEEDS, EVERYTHING
from .periods import calendar_text, event_text

# A copy that is older than this is told as stale: somebody should look why.
STALE_AFTER = timedelta(hours=24)


class CalendarKind(models.TextChoices):
    FREEZE = "freeze", "Freeze"
    WINDOW = "window", "Window"


class CalendarSource(models.TextChoices):
    OWN = "own", "Kept here"
    URL = "url", "Fetched from an address"
    UPLOAD = "upload", "Uploaded"


class CalendarQuerySet(models.QuerySet):
    def visible_to(self, user) -> "CalendarQuerySet":
        return self if user.has_perm("calendars.view_calendar") else self.none()

    def enabled(self) -> "CalendarQuerySet":
        return self.filter(enabled=True)

    def due(self, at: datetime) -> "CalendarQuerySet":
        """Those to be fetched now, that nobody is fetching."""
        return self.enabled().filter(
            Q(fetch_at=None) | Q(fetch_at__lte=at),
            Q(claimed_until=None) | Q(claimed_until__lte=at),
            source=CalendarSource.URL,
        )


class Calendar(models.Model):
    """Periods in which some deeds on some instances are held (freeze), or in which alone they are let go (window)."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=80, unique=True)
    kind = models.CharField(max_length=6, choices=CalendarKind, default=CalendarKind.FREEZE)
    source = models.CharField(max_length=6, choices=CalendarSource, default=CalendarSource.OWN)
    note = models.CharField(max_length=512, blank=True)
    enabled = models.BooleanField(default=True)
    deeds = models.JSONField(default=list, help_text='of calendars/deeds.py; ["*"] for all')
    targets = models.CharField(max_length=4000, default="all", help_text="target expression")
    zone = models.CharField(max_length=64, default="UTC", help_text="IANA; of days and times that name none")
    sealed_url = models.TextField(blank=True, help_text="sealed: such an address often bears a key")
    host = models.CharField(max_length=255, blank=True, help_text="of the address; for the eye")
    text = models.TextField(blank=True, help_text="iCalendar; the last good copy of a fetched one")
    read_at = models.DateTimeField(null=True, help_text="when `text` was last found to be current")
    fetch_at = models.DateTimeField(null=True, help_text="when to fetch next")
    claimed_until = models.DateTimeField(null=True, help_text="a worker fetches it until then; nobody else does")
    failures = models.PositiveIntegerField(default=0, help_text="fetches in a row that failed")
    error = models.CharField(max_length=512, blank=True, help_text="why the last fetch failed; empty if it did not")
    created_at = models.DateTimeField(default=now)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")

    objects = CalendarQuerySet.as_manager()

    class Meta:
        ordering = [F("kind"), F("name")]
        default_permissions = ("view", "change")

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("calendars:calendar", args=[self.pk])

    @property
    def is_freeze(self) -> bool:
        return self.kind == CalendarKind.FREEZE

    @property
    def binds_everything(self) -> bool:
        return EVERYTHING in self.deeds

    @property
    def deed_titles(self) -> list[str]:
        return ["Everything"] if self.binds_everything else [DEEDS.get(deed, deed) for deed in self.deeds]

    def is_stale(self, at: datetime) -> bool:
        """Fetched from elsewhere, and not for a day."""
        return self.source == CalendarSource.URL and (self.read_at is None or at - self.read_at > STALE_AFTER)

    def url(self) -> str:
        """The address it is fetched from. Raises vault.VaultError if it cannot be opened."""
        if not self.sealed_url:
            return ""
        return vault.open_sealed(self.sealed_url, context=vault.context_of(self, "sealed_url")).decode()


class Repeat(models.TextChoices):
    NEVER = "", "Once"
    DAILY = "DAILY", "Every day"
    WEEKDAYS = "WEEKDAYS", "Monday to Friday"
    WEEKLY = "WEEKLY", "Every week"
    MONTHLY = "MONTHLY", "Every month, on that day"
    MONTHLY_WEEKDAY = "MONTHLY_WEEKDAY", "Every month, on that weekday of it"
    YEARLY = "YEARLY", "Every year"


_DAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")


class Entry(models.Model):
    """One period of a calendar that is kept here, and how it repeats. Times are of the calendar's zone."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    calendar = models.ForeignKey(Calendar, on_delete=models.CASCADE, related_name="entries")
    title = models.CharField(max_length=120)
    # Text, and not DateTimeField: a time of day in a zone, which is no moment until its day is known.
    starts = models.CharField(max_length=16, help_text="2026-12-20T18:00")
    ends = models.CharField(max_length=16)
    repeat = models.CharField(max_length=16, choices=Repeat, blank=True)
    until = models.DateField(null=True, blank=True, help_text="last day on which it may begin")

    class Meta:
        ordering = ["starts", "id"]
        default_permissions = ()

    def __str__(self) -> str:
        return self.title

    @property
    def start(self) -> datetime:
        """A time of the calendar's zone, without a zone."""
        return datetime.fromisoformat(self.starts)

    @property
    def end(self) -> datetime:
        return datetime.fromisoformat(self.ends)

    @property
    def rule(self) -> str:
        """Its RRULE; empty if it does not repeat."""
        day = _DAYS[self.start.weekday()]
        return {
            Repeat.NEVER: "",
            Repeat.DAILY: "FREQ=DAILY",
            Repeat.WEEKDAYS: "FREQ=WEEKLY;BYDAY=MO,TU,WE,TH,FR",
            Repeat.WEEKLY: "FREQ=WEEKLY",
            Repeat.MONTHLY: "FREQ=MONTHLY",
            Repeat.MONTHLY_WEEKDAY: f"FREQ=MONTHLY;BYDAY={(self.start.day - 1) // 7 + 1}{day}",
            Repeat.YEARLY: "FREQ=YEARLY",
        }[Repeat(self.repeat)]

    def event(self, zone: str) -> str:
        """The entry as a VEVENT."""
        return event_text(
            f"{self.pk}@fleetops", self.title, self.start, self.end, zone, repeat=self.rule, until=self.until
        )


def text_of(calendar: Calendar) -> str:
    """The iCalendar of a calendar that is kept here, from its entries."""
    return calendar_text(calendar.name, (entry.event(calendar.zone) for entry in calendar.entries.all()))
