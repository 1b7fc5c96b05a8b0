"""Executions of runbooks: those that people start here, and those that AWS tells of."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.urls import reverse

from fleetops.clock import now, uuid7
from fleetops.inventory.models import Account, Region

RUN_PERMISSION = "runcommand.run_command"
REVIEW_PERMISSION = "runcommand.review_command"
STARTING = "Starting"  # ours: AWS has not been asked yet, or its answer is not there
# AWS's AutomationExecutionStatus that are no end [SSM API reference].
OPEN = (
    STARTING,
    "Pending",
    "InProgress",
    "Waiting",
    "Cancelling",
    "PendingApproval",
    "Approved",
    "Scheduled",
    "RunbookInProgress",
    "PendingChangeCalendarOverride",
    "ChangeCalendarOverrideApproved",
)
# Status → (kind of glyph, word) for lists and pages.
WORDS = {
    STARTING: ("run", "Starting"),
    "Pending": ("wait", "Pending"),
    "InProgress": ("run", "In progress"),
    "Waiting": ("hold", "Waiting"),
    "Success": ("ok", "Success"),
    "CompletedWithSuccess": ("ok", "Completed"),
    "CompletedWithFailure": ("bad", "Completed with failures"),
    "TimedOut": ("bad", "Timed out"),
    "Cancelling": ("run", "Cancelling"),
    "Cancelled": ("off", "Cancelled"),
    "Failed": ("bad", "Failed"),
    "Rejected": ("bad", "Rejected"),
    "Exited": ("off", "Exited"),
    "Skipped": ("off", "Skipped"),
}


class ExecutionQuerySet(models.QuerySet):
    def visible_to(self, user: Any) -> ExecutionQuerySet:
        """All for who reviews commands; else one's own, and for who may run documents those started elsewhere."""
        if user.has_perm(REVIEW_PERMISSION):
            return self
        if user.has_perm(RUN_PERMISSION):
            return self.filter(Q(actor=user) | Q(is_ours=False, actor_name=""))
        return self.none()

    def open(self) -> ExecutionQuerySet:
        return self.filter(status__in=OPEN)


class Execution(models.Model):
    """One execution. Its row stands before AWS is asked; its id is the ClientToken, by which AWS starts none twice."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="+")
    region = models.ForeignKey(Region, on_delete=models.CASCADE, related_name="+")
    execution_id = models.CharField(max_length=64, blank=True, help_text="AWS's; empty until it has answered")
    parent_id = models.CharField(max_length=64, blank=True, help_text="AWS's, of the execution that started it")
    document_name = models.CharField(max_length=256)
    document_version = models.CharField(max_length=8, blank=True)
    parameters = models.JSONField(default=dict, blank=True)
    target_parameter = models.CharField(max_length=64, blank=True)
    targets = models.JSONField(default=list, blank=True)
    target = models.CharField(max_length=256, blank=True, help_text="of a child: what it is for")
    max_concurrency = models.CharField(max_length=8, blank=True)
    max_errors = models.CharField(max_length=8, blank=True)
    status = models.CharField(max_length=32, default=STARTING)
    current_step = models.CharField(max_length=128, blank=True)
    failure = models.TextField(blank=True)
    outputs = models.JSONField(default=dict, blank=True)
    progress = models.JSONField(default=dict, blank=True, help_text="AWS's ProgressCounters, of a run over targets")
    steps = models.JSONField(default=list, blank=True, help_text="as AWS last told them")
    is_ours = models.BooleanField(default=True, help_text="started here; else AWS told of it")
    started_by = models.CharField(max_length=256, blank=True, help_text="ARN, as AWS tells it")
    actor = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    actor_name = models.CharField(max_length=150, blank=True)
    reason = models.CharField(max_length=256, blank=True)
    asked_at = models.DateTimeField(default=now)
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    due_at = models.DateTimeField(null=True, help_text="when it is looked at next; none: it is over")
    read_at = models.DateTimeField(null=True)
    failures = models.PositiveSmallIntegerField(default=0, help_text="of asking AWS, in a row")

    objects = ExecutionQuerySet.as_manager()

    class Meta:
        ordering = ["-asked_at", "-id"]
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(
                fields=["account", "region", "execution_id"],
                name="execution_once_a_region",
                condition=~Q(execution_id=""),
            )
        ]
        indexes = [
            models.Index(fields=["due_at"], name="execution_due", condition=Q(due_at__isnull=False)),
            models.Index(fields=["-asked_at"], name="execution_asked"),
            models.Index(fields=["parent_id"], name="execution_parent", condition=~Q(parent_id="")),
        ]

    def __str__(self) -> str:
        return self.document_name

    def get_absolute_url(self) -> str:
        return reverse("automation:execution", args=[self.pk])

    @property
    def place(self) -> tuple[str, str]:
        """Account and region, for the audit log."""
        return self.account.account_id, self.region.name

    @property
    def is_open(self) -> bool:
        return self.status in OPEN

    @property
    def glyph(self) -> tuple[str, str]:
        return WORDS.get(self.status, ("run" if self.is_open else "off", self.status))


class Reading(models.Model):
    """When the executions of a region were last listed."""

    region = models.OneToOneField(Region, on_delete=models.CASCADE, related_name="+")
    read_at = models.DateTimeField(null=True)
    claimed_until = models.DateTimeField(null=True)
    error = models.CharField(max_length=512, blank=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"executions of {self.region}"
