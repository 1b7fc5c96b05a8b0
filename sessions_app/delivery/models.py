"""What an account wants delivered, and how far that has come for each session."""

from __future__ import annotations

from django.db import models
from django.db.models import TextChoices
from django.urls import reverse

from fleetops.aws.logs import RETENTION_DAYS
from fleetops.clock import now
from fleetops.inventory.models import Account

DEFAULT_GROUP = "/fleetops/sessions"


class Strict(TextChoices):
    """What happens to an Enter whose line CloudWatch Logs has not confirmed within 5 s."""

    OFF = "", "No line is held"
    PASS = "pass", "Let it pass, and note it in the recording"
    END = "end", "End the session"


class DeliverySettings(models.Model):
    """Where the sessions of an account are delivered. An account without a row has the defaults of `services.wanted`.

    What is changed here holds for sessions that are opened afterwards.
    """

    account = models.OneToOneField(Account, on_delete=models.CASCADE, primary_key=True, related_name="delivery")
    has_transcript = models.BooleanField(default=False, help_text="what terminals show goes to CloudWatch Logs")
    has_commands = models.BooleanField(default=False, help_text="so do commands")
    log_group = models.CharField(max_length=512, default=DEFAULT_GROUP)
    retention_days = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        choices=[(days, str(days)) for days in RETENTION_DAYS],
        help_text="empty: as the group has it",
    )
    log_kms_key = models.CharField(max_length=256, blank=True, help_text="ARN; empty: AWS's own key")
    strict = models.CharField(max_length=4, blank=True, choices=Strict, default=Strict.OFF)
    bucket = models.CharField(max_length=63, blank=True, help_text="of finished recordings; empty: none are copied")
    prefix = models.CharField(max_length=256, blank=True, default="")
    bucket_kms_key = models.CharField(max_length=256, blank=True, help_text="empty: as the bucket says")
    changed_at = models.DateTimeField(null=True)
    # The last check: when it was asked for and by whom, and [{"region", "action", "ok", "text"}] once it was made.
    check_asked_at = models.DateTimeField(null=True)
    check_asked_by = models.CharField(max_length=150, blank=True)
    checked_at = models.DateTimeField(null=True)
    check_rows = models.JSONField(default=list, blank=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"delivery of {self.account}"

    def get_absolute_url(self) -> str:
        return reverse("deliveries:account", args=[self.account_id])

    @property
    def has_logs(self) -> bool:
        return self.has_transcript or self.has_commands or bool(self.strict)


class LogDelivery(models.Model):
    """How far one session is in its stream of CloudWatch Logs. Made with the session, as the account's settings were.

    Its events come from three sources, and each is numbered in its own: "record" (start, lines shown, notes, end, in
    the order of the recording), "command" (one as it starts) and "ended" (the same once its end is known).
    """

    session = models.OneToOneField(
        "sessions_app.TerminalSession", on_delete=models.PROTECT, primary_key=True, related_name="log_delivery"
    )
    has_transcript = models.BooleanField()
    has_commands = models.BooleanField()
    strict = models.CharField(max_length=4, blank=True, choices=Strict, default=Strict.OFF)
    log_group = models.CharField(max_length=512)
    log_stream = models.CharField(max_length=512)
    retention_days = models.PositiveSmallIntegerField(null=True)
    kms_key = models.CharField(max_length=256, blank=True)
    # Where the next event of the recording begins: in this chunk, so many bytes into what it unpacks to (the start of
    # a record), and so many into the payload of that.
    chunk = models.PositiveIntegerField(default=1)
    position = models.BigIntegerField(default=0)
    skip = models.PositiveIntegerField(default=0)
    read_through = models.PositiveIntegerField(default=0, help_text="last chunk whose whole lines are all delivered")
    number = models.PositiveIntegerField(default=0, help_text="last event of the recording that is delivered")
    is_end_told = models.BooleanField(default=False, help_text="the recording's last event is delivered")
    started_us = models.BigIntegerField(default=0, help_text="the journal's start, microseconds since 1970 UTC")
    command_number = models.PositiveIntegerField(default=0, help_text="last command whose start is delivered")
    open_commands = models.JSONField(default=list, help_text="numbers of commands whose ends are not delivered")
    ended_count = models.PositiveIntegerField(default=0, help_text="commands whose ends are delivered")
    # A put that is under way, or whose outcome nobody knows: {"source", "numbers": [first, …, last] or [first, last] of
    # a recording, "from_ms", "to_ms", "place": the recording's place behind it}. It is written before AWS is called.
    sending = models.JSONField(null=True)
    sending_at = models.DateTimeField(null=True, help_text="when it was about to be called")
    events = models.PositiveIntegerField(default=0, help_text="that AWS has taken")
    late_events = models.PositiveIntegerField(default=0, help_text="of them, under a later moment than their own")
    delivered_at = models.DateTimeField(null=True, help_text="when AWS last took something")
    waiting_since = models.DateTimeField(null=True, help_text="since when it could not be delivered; empty: it can")
    error = models.CharField(max_length=512, blank=True, help_text="why not, in words")
    tries = models.PositiveSmallIntegerField(default=0, help_text="failures in a row")
    next_at = models.DateTimeField(default=now, help_text="not before")
    claim = models.UUIDField(null=True, help_text="of the worker that is at it")
    claimed_until = models.DateTimeField(null=True)
    done_at = models.DateTimeField(null=True, help_text="when all of an ended session was there")

    class Meta:
        indexes = [models.Index(fields=["next_at"], name="log_delivery_due", condition=models.Q(done_at=None))]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.session_id} in {self.log_group}"


class RecordingCopy(models.Model):
    """A finished recording on its way to the account's bucket. The same key always gets the same bytes."""

    session = models.OneToOneField(
        "sessions_app.TerminalSession", on_delete=models.PROTECT, primary_key=True, related_name="recording_copy"
    )
    bucket = models.CharField(max_length=63)
    key = models.CharField(max_length=512, help_text="of the cast; the manifest's is the same with another end")
    kms_key = models.CharField(max_length=256, blank=True)
    size = models.BigIntegerField(default=0, help_text="bytes of the cast as it lies there")
    sha256 = models.CharField(max_length=64, blank=True)
    error = models.CharField(max_length=512, blank=True)
    tries = models.PositiveSmallIntegerField(default=0)
    next_at = models.DateTimeField(default=now)
    waiting_since = models.DateTimeField(null=True)
    claimed_until = models.DateTimeField(null=True)
    done_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [models.Index(fields=["next_at"], name="recording_copy_due", condition=models.Q(done_at=None))]
        default_permissions = ()

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"
