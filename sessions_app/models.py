"""Terminal sessions, their owners, and the chunks of their recordings."""

from datetime import timedelta

from django.conf import settings
from django.db import models
from django.urls import reverse

from fleetops.clock import now, uuid7
from fleetops.inventory.models import Instance

from .states import Door, SessionKind, SessionState


class TerminalSessionQuerySet(models.QuerySet):
    def visible_to(self, user) -> "TerminalSessionQuerySet":
        """One's own sessions; everybody's for who may review them."""
        if user.has_perm("sessions_app.review_terminalsession"):
            return self
        return self.filter(user_id=user.pk) if user.is_authenticated else self.none()

    def live(self) -> "TerminalSessionQuerySet":
        return self.filter(state__in=[SessionState.OPENING, SessionState.OPEN])


class TerminalSession(models.Model):
    """One Session Manager session. The row exists before StartSession is called. It never holds a token."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    user_name = models.CharField(max_length=150)
    # Not `instance`: its column would be called instance_id, which is AWS's id here.
    instance_row = models.ForeignKey(Instance, on_delete=models.SET_NULL, null=True, related_name="terminal_sessions")
    # Copied, so that the session outlives its instance's row.
    instance_id = models.CharField(max_length=64)
    instance_name = models.CharField(max_length=255)
    account_id = models.CharField(max_length=12)
    region = models.CharField(max_length=32)
    reason = models.CharField(max_length=256, blank=True)
    kind = models.CharField(max_length=8, choices=SessionKind, default=SessionKind.SHELL)
    door = models.CharField(max_length=8, choices=Door, default=Door.BROWSER)
    document = models.CharField(max_length=128, blank=True, help_text="session document that was asked for, by name")
    parameters = models.JSONField(default=dict, blank=True, help_text="of the document, as StartSession takes them")
    run_as = models.CharField(max_length=64, blank=True, help_text="OS user that was asked for; empty: the account's")
    state = models.CharField(max_length=8, choices=SessionState, default=SessionState.OPENING)
    ssm_session_id = models.CharField(max_length=96, blank=True, help_text="AWS's SessionId; empty until it answered")
    source_address = models.CharField(max_length=64, blank=True)
    mfa_at = models.DateTimeField(null=True, help_text="when the log-in that opened it gave a second factor")
    role_arn = models.CharField(max_length=256, blank=True, help_text="by policy; empty: the account's own role")
    created_at = models.DateTimeField(default=now, editable=False)
    started_at = models.DateTimeField(null=True, help_text="when StartSession answered")
    ended_at = models.DateTimeField(null=True)
    end_reason = models.CharField(max_length=256, blank=True, help_text="in words, for the user")
    end_requested_at = models.DateTimeField(null=True, help_text="somebody asked for the end; the owner carries it out")
    end_requested_by = models.CharField(max_length=150, blank=True)
    terminate_due_at = models.DateTimeField(
        null=True, help_text="AWS has not confirmed the end yet; when it is asked again"
    )
    # Who holds the data channel. The epoch grows with each owner, so that a late one knows that it is late.
    owner = models.CharField(max_length=128, blank=True, help_text="host:port:token of a terminal process")
    owner_host = models.CharField(max_length=128, blank=True, help_text="where the journal lies")
    owner_epoch = models.PositiveIntegerField(default=0)
    owner_seen_at = models.DateTimeField(null=True)
    cols = models.PositiveSmallIntegerField(default=80)
    rows = models.PositiveSmallIntegerField(default=24)
    output_bytes = models.BigIntegerField(default=0)
    chain_head = models.CharField(max_length=64, blank=True, help_text="hash of the last sealed chunk, in hex")
    sealed_at = models.DateTimeField(null=True, help_text="when the last chunk of an ended session was sealed")

    objects = TerminalSessionQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["state", "owner_seen_at"], name="session_state"),
            models.Index(fields=["user", "-created_at"], name="session_user"),
            models.Index(
                fields=["terminate_due_at"],
                name="session_unconfirmed",
                condition=models.Q(terminate_due_at__isnull=False),
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["account_id", "region", "ssm_session_id"],
                name="session_once_a_region",
                condition=~models.Q(ssm_session_id=""),
            )
        ]
        default_permissions = ()
        permissions = [
            ("open_terminalsession", "May open a shell"),
            ("review_terminalsession", "May see everybody's sessions and recordings"),
            ("end_terminalsession", "May end anybody's session"),
        ]

    def __str__(self) -> str:
        return f"{self.user_name} on {self.instance_name}"

    def get_absolute_url(self) -> str:
        return reverse("sessions:terminal" if self.is_live else "sessions:replay", args=[self.pk])

    @property
    def is_live(self) -> bool:
        return self.state in {SessionState.OPENING, SessionState.OPEN}

    @property
    def lasted(self) -> timedelta:
        """How long it was, or is, open; nothing if no shell ever was."""
        if self.started_at is None:
            return timedelta()
        return (self.ended_at or now()) - self.started_at


class RecordingChunk(models.Model):
    """A sealed piece of a recording: where it lies in the journal, and its link of the hash chain."""

    session = models.ForeignKey(TerminalSession, on_delete=models.PROTECT, related_name="chunks")
    number = models.PositiveIntegerField(help_text="1 for the first")
    first_offset = models.BigIntegerField(help_text="bytes of journal before it")
    last_offset = models.BigIntegerField(help_text="first_offset of the next")
    first_time_us = models.BigIntegerField(help_text="microseconds from the session's start to its first record")
    last_time_us = models.BigIntegerField()
    output_bytes = models.BigIntegerField(default=0, help_text="shown bytes in it")
    size = models.PositiveIntegerField(help_text="compressed bytes")
    sha256 = models.CharField(max_length=64, help_text="of the compressed bytes; its name in the store")
    chain_hash = models.CharField(max_length=64, help_text="SHA-256 of the link before and this chunk's facts")
    sealed_at = models.DateTimeField(default=now, editable=False)
    sent_at = models.DateTimeField(null=True, help_text="when the recording store had it")

    class Meta:
        ordering = ["session", "number"]
        constraints = [models.UniqueConstraint(fields=["session", "number"], name="chunk_number_once_a_session")]
        indexes = [models.Index(fields=["sent_at"], name="chunk_unsent", condition=models.Q(sent_at=None))]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.session_id} chunk {self.number}"
