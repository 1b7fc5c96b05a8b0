"""Attach a role for a while, connect, detach afterwards: what somebody has asked for, and how far it has come."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.urls import reverse

from fleetops.clock import now, uuid7
from fleetops.inventory.models import Instance
from fleetops.roles.models import RoleAttachment
from sessions_app.models import TerminalSession

from .states import OPEN, OrderState


class ConnectOrderQuerySet(models.QuerySet):
    def visible_to(self, user: Any) -> ConnectOrderQuerySet:
        """One's own."""
        return self.filter(user_id=user.pk) if user.is_authenticated else self.none()


class ConnectOrder(models.Model):
    """A shell that somebody wants on an instance which has no role yet. The lease is the truth about the role."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="+")
    lease = models.ForeignKey(RoleAttachment, on_delete=models.CASCADE, related_name="+")
    session = models.ForeignKey(TerminalSession, on_delete=models.SET_NULL, null=True, related_name="+")
    state = models.CharField(max_length=9, choices=OrderState, default=OrderState.ATTACHING)
    reason = models.CharField(max_length=256, blank=True)
    words = models.CharField(max_length=512, blank=True, help_text="why it is where it is")
    asked_at = models.DateTimeField(default=now)
    ready_at = models.DateTimeField(null=True)
    opened_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)

    objects = ConnectOrderQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(
                fields=["user", "instance"],
                name="connect_order_once_open",
                condition=Q(state__in=["attaching", "waiting", "ready"]),
            )
        ]
        indexes = [models.Index(fields=["state"], name="connect_order_open", condition=Q(ended_at=None))]

    def __str__(self) -> str:
        return f"{self.lease.profile_name} for a shell on {self.instance}"

    def get_absolute_url(self) -> str:
        return reverse("attached:order", args=[self.pk])

    @property
    def place(self) -> tuple[str, str]:
        """Account and region, for the audit log."""
        return self.instance.account.account_id, self.instance.region.name

    @property
    def is_open(self) -> bool:
        return self.state in OPEN
