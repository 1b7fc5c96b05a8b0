"""The row of one file that goes to an instance, or comes from one."""

from __future__ import annotations

from datetime import timedelta

from django.db import models

from fleetops.clock import now, uuid7

from ..states import TransferDirection, TransferState


class TransferQuerySet(models.QuerySet):
    def visible_to(self, user) -> TransferQuerySet:
        """Of one's own sessions; everybody's for who may review them."""
        if user.has_perm("sessions_app.review_terminalsession"):
            return self
        return self.filter(session__user_id=user.pk) if user.is_authenticated else self.none()

    def open(self) -> TransferQuerySet:
        return self.filter(state__in=[TransferState.WAITING, TransferState.RUNNING])


class Transfer(models.Model):
    """One file, carried by a session of its own. What is in it is kept nowhere: only its size and its digest."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    session = models.OneToOneField("sessions_app.TerminalSession", on_delete=models.PROTECT, related_name="transfer")
    parent = models.ForeignKey(
        "sessions_app.TerminalSession",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="transfers",
        help_text="the shell that it was begun from, and ends with; empty: none",
    )
    direction = models.CharField(max_length=8, choices=TransferDirection)
    state = models.CharField(max_length=9, choices=TransferState, default=TransferState.WAITING)
    path = models.TextField(help_text="as it was asked for; from `running` on as the node understood it")
    name = models.CharField(max_length=255, help_text="of the file at the person's end")
    overwrite = models.BooleanField(default=False, help_text="a file that is there may be replaced")
    size = models.BigIntegerField(null=True, help_text="bytes; of a download known once the node has told it")
    sha256 = models.CharField(max_length=64, blank=True, help_text="in hex, as both ends had it")
    error = models.CharField(max_length=256, blank=True, help_text="in words, why it failed or who cancelled it")
    created_at = models.DateTimeField(default=now, editable=False)
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)

    objects = TransferQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["parent", "-id"], name="transfer_parent")]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.get_direction_display()} of {self.shown_path}"

    @property
    def shown_path(self) -> str:
        """The path on one line, whatever is in it."""
        return "".join(each if each.isprintable() else "�" for each in self.path)

    @property
    def is_open(self) -> bool:
        return self.state in {TransferState.WAITING, TransferState.RUNNING}

    @property
    def lasted(self) -> timedelta:
        if self.started_at is None:
            return timedelta()
        return (self.ended_at or now()) - self.started_at
