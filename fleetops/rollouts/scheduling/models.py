"""Schedules of runs, and each moment at which one was due."""

from __future__ import annotations

from datetime import datetime

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.urls import reverse

from fleetops import schedules
from fleetops.clock import now, uuid7
from fleetops.rollouts.models import SEE_PERMISSION, Run

from .states import Cause, MissedRule, OccurrenceState, OverlapRule


class RunScheduleQuerySet(models.QuerySet):
    def visible_to(self, user) -> RunScheduleQuerySet:
        """All for who may see runs; else one's own."""
        return self.all() if user.has_perm(SEE_PERMISSION) else self.filter(owner=user)


class RunSchedule(models.Model):
    """A run that comes again: what is planned at each moment, and for whom the policy is asked."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=128)
    wanted = models.JSONField(help_text="what is planned at each moment: the fields of rollouts.plan.Wanted")
    expression = models.CharField(max_length=256, help_text="rate(…), cron(…) or at(…), as AWS writes them")
    offset_days = models.PositiveSmallIntegerField(default=0, help_text="days after the moments of a cron expression")
    zone = models.CharField(max_length=64, default="UTC", help_text="IANA")
    anchor = models.DateTimeField(default=now, help_text="a rate counts from here")
    starts_at = models.DateTimeField(null=True, help_text="not due before")
    ends_at = models.DateTimeField(null=True, help_text="not due after")
    starts_itself = models.BooleanField(default=True, help_text="else its plan waits for the owner's Start")
    missed = models.CharField(max_length=8, choices=MissedRule, default=MissedRule.SKIP)
    overlap = models.CharField(max_length=8, choices=OverlapRule, default=OverlapRule.SKIP)
    drift = models.CharField(
        max_length=8, blank=True, help_text="more targets differ from the last run's, and it waits; empty: any may"
    )
    open_minutes = models.PositiveIntegerField(
        default=0, help_text="nothing is sent so long after the moment; 0: no end"
    )
    # Whose policy is asked at each moment, and with what: see rollouts.models.Run.
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="schedules")
    owner_name = models.CharField(max_length=150)
    source_address = models.CharField(max_length=64, blank=True)
    mfa_at = models.DateTimeField(null=True)
    enabled = models.BooleanField(default=True)
    why_off = models.CharField(max_length=512, blank=True, help_text="why it is not enabled, in words")
    next_at = models.DateTimeField(null=True, help_text="when it is due next; none: never again, or not enabled")
    created_at = models.DateTimeField(default=now)

    objects = RunScheduleQuerySet.as_manager()

    class Meta:
        ordering = ["name", "id"]
        indexes = [models.Index(fields=["next_at"], name="schedule_due", condition=Q(next_at__isnull=False))]
        default_permissions = ()

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("schedules:schedule", args=[self.pk])

    def following(self, after: datetime) -> datetime | None:
        """When it is due next after that moment. Raises UserError if its words mean nothing any more."""
        if self.starts_at is not None and after < self.starts_at:
            # A moment that is exactly the beginning counts.
            after = self.starts_at - schedules.INSTANT
        found = schedules.parse(self.expression, offset_days=self.offset_days).next(
            after, self.zone, anchor=self.starts_at or self.anchor
        )
        return None if found is None or (self.ends_at is not None and found > self.ends_at) else found

    def coming(self, after: datetime, count: int) -> list[datetime]:
        found: list[datetime] = []
        while len(found) < count and (moment := self.following(found[-1] if found else after)) is not None:
            found.append(moment)
        return found

    @property
    def in_words(self) -> str:
        return schedules.parse(self.expression, offset_days=self.offset_days).in_words()


class Occurrence(models.Model):
    """One moment at which a schedule was due: its run, or why it has none."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    schedule = models.ForeignKey(RunSchedule, on_delete=models.CASCADE, related_name="occurrences")
    due_at = models.DateTimeField(help_text="the nominal moment")
    wanted_at = models.DateTimeField(help_text="when it was to run at last: later than due, if it is made up for")
    state = models.CharField(max_length=8, choices=OccurrenceState, default=OccurrenceState.DUE)
    cause = models.CharField(max_length=12, choices=Cause, blank=True)
    words = models.CharField(max_length=512, blank=True)
    asked_by = models.CharField(max_length=150, blank=True, help_text="who wanted it now; empty: the schedule")
    run = models.ForeignKey(Run, on_delete=models.SET_NULL, null=True, related_name="occurrences")
    claimed_until = models.DateTimeField(null=True, help_text="a worker is at it until then")
    created_at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["-due_at"]
        constraints = [models.UniqueConstraint(fields=["schedule", "due_at"], name="occurrence_once")]
        indexes = [
            models.Index(
                fields=["state"], name="occurrence_open", condition=Q(state__in=["due", "planned", "waiting", "asked"])
            )
        ]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.schedule} at {self.due_at:%Y-%m-%d %H:%M} UTC"
