"""What somebody asks leave for, and what others say to it."""

from datetime import datetime

from django.conf import settings
from django.contrib.auth.models import Group
from django.db import models
from django.db.models import Exists, OuterRef, Q
from django.urls import reverse

from fleetops.clock import now, uuid7

from .states import OPEN_STATES, ApprovalState

VOTE_PERMISSION = "approvals.vote_approvalrequest"
VIEW_PERMISSION = "approvals.view_approvalrequest"


class ApprovalRequestQuerySet(models.QuerySet):
    def visible_to(self, user) -> "ApprovalRequestQuerySet":
        """One's own; those one may vote on; all for who may read them all."""
        if not user.is_authenticated:
            return self.none()
        if user.has_perm(VIEW_PERMISSION):
            return self
        allowed = Q(requested_by_id=user.pk)
        if user.has_perm(VOTE_PERMISSION):
            allowed |= self._meant_for(user)
        return self.filter(allowed)

    def open(self, at: datetime) -> "ApprovalRequestQuerySet":
        """Not decided or not used yet, and not past their end."""
        return self.filter(state__in=OPEN_STATES, expires_at__gt=at)

    def waiting_for(self, user, at: datetime) -> "ApprovalRequestQuerySet":
        """Those that `user` may answer now and has not."""
        if not user.has_perm(VOTE_PERMISSION):
            return self.none()
        voted = Vote.objects.filter(request=OuterRef("pk"), user_id=user.pk)
        return (
            self.filter(self._meant_for(user), ~Exists(voted), state=ApprovalState.PENDING, expires_at__gt=at)
            .exclude(requested_by_id=user.pk)
            .order_by("expires_at")
        )

    @staticmethod
    def _meant_for(user) -> Q:
        groups = ApprovalRequest.approvers.through.objects.filter(
            approvalrequest_id=OuterRef("pk"), group_id__in=user.groups.values("pk")
        )
        return Q(Exists(groups))


class ApprovalRequest(models.Model):
    """One deed that waits for the leave of others. What is approved is this content, and nothing else."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    deed = models.CharField(max_length=64, help_text="what is asked leave for, as room.thing.verb")
    summary = models.CharField(max_length=256, help_text="one line, for who is asked")
    details = models.JSONField(default=dict, help_text="what will be done; compared when the approval is used")
    subject_kind = models.CharField(max_length=64, blank=True)
    subject_id = models.CharField(max_length=128, blank=True)
    subject_name = models.CharField(max_length=256, blank=True)
    account_id = models.CharField(max_length=12, blank=True)
    region = models.CharField(max_length=32, blank=True)
    requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    requested_by_name = models.CharField(max_length=150)
    reason = models.CharField(max_length=512, blank=True)
    quorum = models.PositiveSmallIntegerField(help_text="approvals that it takes")
    approvers = models.ManyToManyField(Group, related_name="+", help_text="roles whose members may answer")
    state = models.CharField(max_length=9, choices=ApprovalState, default=ApprovalState.PENDING)
    created_at = models.DateTimeField(default=now)
    expires_at = models.DateTimeField(help_text="neither answered nor used after that")
    decided_at = models.DateTimeField(null=True)
    used_at = models.DateTimeField(null=True)

    objects = ApprovalRequestQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]
        constraints = [models.CheckConstraint(condition=Q(quorum__gte=1), name="approval_takes_somebody")]
        indexes = [
            models.Index(fields=["state", "expires_at"], name="approval_open"),
            models.Index(fields=["-created_at"], name="approval_newest"),
        ]
        default_permissions = ("view",)
        permissions = [("vote_approvalrequest", "May approve or deny what others ask for")]

    def __str__(self) -> str:
        return self.summary

    def get_absolute_url(self) -> str:
        return reverse("approvals:request", args=[self.pk])

    def is_open(self, at: datetime) -> bool:
        """Whether it can still be answered or used. The row may say so a little longer: see `expire_due`."""
        return self.state in OPEN_STATES and at < self.expires_at


class Vote(models.Model):
    """What one person said to one request; never changed."""

    request = models.ForeignKey(ApprovalRequest, on_delete=models.CASCADE, related_name="votes")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    user_name = models.CharField(max_length=150)
    approves = models.BooleanField()
    reason = models.CharField(max_length=512, blank=True)
    at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["at"]
        constraints = [models.UniqueConstraint(fields=["request", "user"], name="vote_once_a_person")]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.user_name}: {'approve' if self.approves else 'deny'}"
