"""The audit log: events that are only ever inserted, and the chain that seals them."""

from django.db import models

from fleetops.clock import now, uuid7


class Outcome(models.TextChoices):
    DONE = "done", "Done"
    DENIED = "denied", "Denied"
    FAILED = "failed", "Failed"


class AuditEvent(models.Model):
    """One deed. Names are copied, so that the trail outlives the rows that it names. Never updated, never deleted."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    at = models.DateTimeField(default=now, editable=False)
    action = models.CharField(max_length=64, help_text="room.thing.verb, from ACTIONS in audit/record.py")
    outcome = models.CharField(max_length=8, choices=Outcome, default=Outcome.DONE)
    actor_kind = models.CharField(max_length=16, help_text="user, system or anonymous")
    actor_id = models.CharField(max_length=64, blank=True)
    actor_name = models.CharField(max_length=150)
    source_address = models.CharField(max_length=64, blank=True)
    source = models.CharField(max_length=16, blank=True, help_text="browser, worker, command")
    request_id = models.CharField(max_length=64, blank=True)
    target_kind = models.CharField(max_length=64, blank=True, help_text="the model's label in lower case")
    target_id = models.CharField(max_length=128, blank=True)
    target_name = models.CharField(max_length=255, blank=True)
    account_id = models.CharField(max_length=12, blank=True, help_text="AWS account, where the deed has one")
    region = models.CharField(max_length=32, blank=True)
    session_id = models.CharField(max_length=36, blank=True, help_text="our TerminalSession's id, where there is one")
    reason = models.CharField(max_length=256, blank=True)
    details = models.JSONField(default=dict, blank=True)
    digest = models.CharField(max_length=64, help_text="HMAC-SHA256 of the row under AUDIT_KEY, in hex")

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["at"], name="audit_event_at"),
            models.Index(fields=["action", "at"], name="audit_event_action"),
            models.Index(fields=["actor_name", "at"], name="audit_event_actor"),
            models.Index(fields=["outcome", "at"], name="audit_event_outcome"),
            models.Index(fields=["target_id", "at"], name="audit_event_target"),
            models.Index(fields=["session_id"], name="audit_event_session"),
        ]
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.action} by {self.actor_name}"


class AuditSeal(models.Model):
    """One link of the chain: number, event, and the hash over the link before and the event's digest."""

    number = models.BigIntegerField(primary_key=True)
    event = models.OneToOneField(AuditEvent, on_delete=models.PROTECT, related_name="seal")
    hash = models.CharField(max_length=64)
    sealed_at = models.DateTimeField(default=now, editable=False)

    class Meta:
        ordering = ["number"]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.number} {self.hash[:12]}"


class SealerLease(models.Model):
    """Who may seal now. One row; taken by compare-and-set, so that two sealers never number the same rows."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    holder = models.CharField(max_length=64, blank=True)
    until = models.DateTimeField()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.holder} until {self.until:%H:%M:%S}"
