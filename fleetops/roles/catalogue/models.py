"""What IAM of each account holds for EC2, as it was last read, and the making of the standard role there.

IAM is the same in all regions of an account. Whoever may see roles sees all of it: a role is no secret of an instance.
"""

from __future__ import annotations

from typing import Any

from django.db import models
from django.urls import reverse

from fleetops.clock import now, uuid7
from fleetops.inventory.models import Account
from fleetops.roles.models import VIEW_PERMISSION

from .states import MakingState


class Reading(models.Model):
    """IAM of one account: when it was read, and by whom it is read now."""

    account = models.OneToOneField(Account, on_delete=models.CASCADE, related_name="role_reading")
    claimed_until = models.DateTimeField(null=True, help_text="a worker reads it until then; nobody else does")
    asked_at = models.DateTimeField(null=True, help_text="to be read again at once, since something was changed then")
    read_at = models.DateTimeField(null=True, help_text="when the last whole reading began")
    error = models.CharField(max_length=512, blank=True, help_text="why the last reading failed; empty if it did not")
    texts = models.JSONField(default=dict, help_text="AWS's own policies: ARN → text and when it was read")

    class Meta:
        default_permissions = ()

    @property
    def is_asked(self) -> bool:
        """Whether somebody waits for it: it is read within seconds."""
        return self.asked_at is not None and (self.read_at is None or self.asked_at > self.read_at)

    def __str__(self) -> str:
        return f"IAM of {self.account}"


class VisibleQuerySet(models.QuerySet):
    def visible_to(self, user: Any) -> VisibleQuerySet:
        return self if user.has_perm(VIEW_PERMISSION) else self.none()


class Role(models.Model):
    """A role that EC2 may assume, or that an instance profile holds."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="iam_roles")
    arn = models.CharField(max_length=256)
    name = models.CharField(max_length=64)
    trust = models.TextField()
    policies = models.JSONField(default=list, help_text="[{name, arn, text}]; of an inline one the ARN is empty")
    boundary_arn = models.CharField(max_length=256, blank=True)
    tags = models.JSONField(default=dict)
    digest = models.CharField(max_length=64, help_text="of policies and boundary: what it allows hangs on these")
    lacks = models.JSONField(default=list, help_text="actions of what SSM needs that it does not allow")
    simulated = models.CharField(max_length=64, blank=True, help_text="the digest that IAM was asked about")
    simulated_at = models.DateTimeField(null=True)
    simulation_error = models.CharField(max_length=512, blank=True)
    allows = models.CharField(max_length=256, blank=True, help_text="in words")
    read_at = models.DateTimeField()

    objects = VisibleQuerySet.as_manager()

    class Meta:
        ordering = ["name", "account__name"]
        constraints = [models.UniqueConstraint(fields=["account", "arn"], name="iam_role_once")]
        default_permissions = ()

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("roles:role", args=[self.pk])

    @property
    def is_simulated(self) -> bool:
        return bool(self.simulated) and self.simulated == self.digest


class Profile(models.Model):
    """An instance profile."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="iam_profiles")
    arn = models.CharField(max_length=256)
    name = models.CharField(max_length=128)
    role = models.ForeignKey(Role, on_delete=models.SET_NULL, null=True, related_name="profiles")
    read_at = models.DateTimeField()

    objects = VisibleQuerySet.as_manager()

    class Meta:
        ordering = ["name", "account__name"]
        constraints = [models.UniqueConstraint(fields=["account", "arn"], name="iam_profile_once")]
        default_permissions = ()

    def __str__(self) -> str:
        return self.name


class Making(models.Model):
    """The standard role of one account: the last time that somebody had it made or put right."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account = models.OneToOneField(Account, on_delete=models.CASCADE, related_name="standard_role")
    state = models.CharField(max_length=7, choices=MakingState, default=MakingState.WAITING)
    puts_right = models.BooleanField(default=False, help_text="also what differs is changed, as it was shown")
    changes = models.JSONField(default=list, help_text="what was shown, and so is to be changed")
    steps = models.JSONField(default=list, help_text="what was done, in words")
    words = models.CharField(max_length=512, blank=True, help_text="why it failed")
    asked_by_name = models.CharField(max_length=150)
    asked_at = models.DateTimeField(default=now)
    claimed_until = models.DateTimeField(null=True, help_text="a worker is at it until then")
    ended_at = models.DateTimeField(null=True)

    objects = VisibleQuerySet.as_manager()

    class Meta:
        ordering = ["account__name"]
        default_permissions = ()

    def __str__(self) -> str:
        return f"standard role of {self.account}"

    @property
    def place(self) -> tuple[str, str]:
        """Account and region, for the audit log."""
        return self.account.account_id, ""

    @property
    def is_open(self) -> bool:
        return self.state in {MakingState.WAITING, MakingState.RUNNING}
