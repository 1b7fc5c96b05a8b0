"""An emergency: one CVE or package, the nodes that it affected when it was planned, and what became of them."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.urls import reverse

from fleetops.clock import now, uuid7
from fleetops.inventory.models import Account, Instance, Region
from fleetops.rollouts.models import SEE_PERMISSION, Run

from .marks import Mark


class What(models.TextChoices):
    CVE = "cve", "CVE"
    PACKAGE = "package", "Package"


class EmergencyQuerySet(models.QuerySet):
    def visible_to(self, user: Any) -> EmergencyQuerySet:
        """All that were started, for who may see runs; one's own plans besides."""
        if user.has_perm(SEE_PERMISSION):
            return self.filter(Q(actor=user) | Q(began_at__isnull=False))
        return self.filter(actor=user)


class Emergency(models.Model):
    """What is to be mended everywhere, and how it was asked for. Its runs name it in their subject."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    what = models.CharField(max_length=8, choices=What)
    name = models.CharField(max_length=255, help_text="CVE-2026-12345, openssl")
    reason = models.CharField(max_length=256, blank=True)
    asked = models.JSONField(default=dict, help_text="spread, budget, soak_minutes, reboot_option, data, scope")
    notes = models.JSONField(default=list, help_text="what was to be said of it when it was planned")
    fixes = models.JSONField(default=list, help_text="[{key, system, label, entries, digest, nodes, canary, lists}]")
    actor = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    actor_name = models.CharField(max_length=150)
    made_at = models.DateTimeField(default=now)
    began_at = models.DateTimeField(null=True, help_text="when the first of its runs was released; none: it is a plan")

    objects = EmergencyQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        default_permissions = ()

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("emergency:page", args=[self.pk])

    def runs(self) -> models.QuerySet[Run]:
        """Those that it was planned as, and what was planned again of them."""
        return Run.objects.filter(kind="patch", subject__emergency=str(self.pk)).order_by("id")


class EmergencyTargetQuerySet(models.QuerySet):
    def visible_to(self, user: Any) -> EmergencyTargetQuerySet:
        return self.filter(instance__in=Instance.objects.visible_to(user))


class EmergencyTarget(models.Model):
    """One node that it affected when it was planned: chosen, or left out and why."""

    emergency = models.ForeignKey(Emergency, on_delete=models.CASCADE, related_name="targets")
    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="+")
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="+")
    region = models.ForeignKey(Region, on_delete=models.CASCADE, related_name="+")
    fix = models.CharField(max_length=64, help_text="key of one of Emergency.fixes; empty: nothing fixes it")
    is_chosen = models.BooleanField(default=True)
    reason = models.CharField(max_length=512, blank=True, help_text="why it is left out")
    mark = models.CharField(max_length=12, choices=[(each.value, each.words) for each in Mark])
    patches = models.JSONField(default=list, help_text="KBId of each that it lacked; empty: AWS's list alone says so")

    objects = EmergencyTargetQuerySet.as_manager()

    class Meta:
        ordering = ["pk"]
        constraints = [models.UniqueConstraint(fields=["emergency", "instance"], name="emergency_target_once")]
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.instance)
