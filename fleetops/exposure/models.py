"""Security groups that open SSH or RDP on instances, as they were last read, and what was closed of them."""

from __future__ import annotations

from typing import Any, Final

from django.db import models
from django.db.models import Q
from django.urls import reverse

from fleetops.aws.security_groups import InboundRule
from fleetops.clock import now, uuid7
from fleetops.identity.models import User
from fleetops.inventory.models import Account, Instance, Region

from . import grades
from .states import UNDER_WAY, ClosingState

SEE_PERMISSION: Final = "inventory.view_instance"
CLOSE_PERMISSION: Final = "exposure.close_port"


class VisibleQuerySet(models.QuerySet):
    def visible_to(self, user: Any) -> VisibleQuerySet:
        return self if user.has_perm(SEE_PERMISSION) else self.none()


class Reading(models.Model):
    """Security groups of one region: when they were read, and by whom they are read now."""

    region = models.OneToOneField(Region, on_delete=models.CASCADE, related_name="exposure_reading")
    claimed_until = models.DateTimeField(null=True, help_text="a worker reads them until then; nobody else does")
    asked_at = models.DateTimeField(null=True, help_text="to be read again at once, since something was changed then")
    read_at = models.DateTimeField(null=True, help_text="when the last whole reading began")
    error = models.CharField(max_length=512, blank=True, help_text="why the last reading failed; empty if it did not")

    objects = VisibleQuerySet.as_manager()

    class Meta:
        ordering = ["region__account__name", "region__name"]
        default_permissions = ()

    def __str__(self) -> str:
        return f"security groups of {self.region}"


class Group(models.Model):
    """A security group that opens SSH or RDP, and that an instance has."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="exposing_groups")
    region = models.ForeignKey(Region, on_delete=models.CASCADE, related_name="exposing_groups")
    group_id = models.CharField(max_length=32, help_text="sg-…")
    name = models.CharField(max_length=255)
    vpc_id = models.CharField(max_length=32, blank=True)
    description = models.CharField(max_length=255, blank=True)
    rules = models.JSONField(default=list, help_text="those that open SSH or RDP: aws.security_groups.InboundRule")
    rank = models.PositiveSmallIntegerField(help_text="of its worst rule; 0 for open to the world")
    others = models.JSONField(default=list, help_text="[{id, kind, description}]: interfaces of no instance we know")
    instances = models.ManyToManyField(Instance, related_name="exposing_groups")
    read_at = models.DateTimeField()

    objects = VisibleQuerySet.as_manager()

    class Meta:
        ordering = ["rank", "name", "id"]
        constraints = [models.UniqueConstraint(fields=["account", "region", "group_id"], name="exposing_group_once")]
        default_permissions = ()

    def __str__(self) -> str:
        return self.name or self.group_id

    @property
    def place(self) -> tuple[str, str]:
        """Account and region, for the audit log."""
        return self.account.account_id, self.region.name

    def inbound(self) -> list[InboundRule]:
        """Its rules, the worst first."""
        found = [InboundRule.from_json(each) for each in self.rules]
        return sorted(found, key=lambda rule: (grades.RANKS[grades.grade(rule)], rule.rule_id))


class Closing(models.Model):
    """Rules of one security group that were taken away, as they were: written down before AWS is asked."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="closings")
    region = models.ForeignKey(Region, on_delete=models.CASCADE, related_name="closings")
    group_id = models.CharField(max_length=32)
    group_name = models.CharField(max_length=255)
    rules = models.JSONField(help_text="as they were: aws.security_groups.InboundRule")
    state = models.CharField(max_length=9, choices=ClosingState, default=ClosingState.CLOSING)
    words = models.CharField(max_length=512, blank=True, help_text="what holds it up, or why it failed")
    reason = models.CharField(max_length=256, blank=True)
    asked_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+")
    asked_by_name = models.CharField(max_length=150)
    asked_at = models.DateTimeField(default=now)
    called_at = models.DateTimeField(null=True, help_text="just before AWS was asked first")
    closed_at = models.DateTimeField(null=True)
    reopened_by_name = models.CharField(max_length=150, blank=True)
    reopened_at = models.DateTimeField(null=True)
    claimed_until = models.DateTimeField(null=True, help_text="a worker is at it until then, or it rests until then")

    objects = VisibleQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["account", "region", "group_id"], name="closing_one_at_a_time", condition=Q(state__in=UNDER_WAY)
            )
        ]
        default_permissions = ()
        permissions = [("close_port", "May close SSH and RDP in security groups, and re-open them")]

    def __str__(self) -> str:
        return f"{self.group_name or self.group_id}"

    def get_absolute_url(self) -> str:
        return reverse("exposure:closings")

    @property
    def place(self) -> tuple[str, str]:
        """Account and region, for the audit log."""
        return self.account.account_id, self.region.name

    @property
    def is_under_way(self) -> bool:
        return self.state in UNDER_WAY

    def inbound(self) -> list[InboundRule]:
        return [InboundRule.from_json(each) for each in self.rules]
