"""Commands: a document on many instances, what was sent of it to AWS, and how it fares on each."""

from datetime import timedelta

from django.conf import settings
from django.db import models
from django.db.models import Count, Q
from django.urls import reverse

from fleetops.clock import now, uuid7
from fleetops.inventory.models import Account, Instance, Region

from .states import (
    COMMAND_MOVES,
    DISPATCH_MOVES,
    OPEN,
    CommandState,
    DispatchState,
    InvocationState,
)

REVIEW_PERMISSION = "runcommand.review_command"
RUN_PERMISSION = "runcommand.run_command"
HELD = "Held: "  # with which the details begin of what a calendar kept from being sent


class Bound(models.TextChoices):
    """What may hold a command back when a part of it is sent."""

    CALENDARS = "calendars"  # all of them
    WINDOWS = "windows"  # those that open windows: its freezes are overridden, by leave
    NOTHING = "nothing"  # it brings back what is out of service


class CommandQuerySet(models.QuerySet):
    def visible_to(self, user) -> "CommandQuerySet":
        """One's own, or everybody's with the permission to review; a draft is its maker's alone."""
        if user.has_perm(REVIEW_PERMISSION):
            return self.filter(Q(actor=user) | ~Q(state=CommandState.DRAFT))
        return self.filter(actor=user)

    def started(self) -> "CommandQuerySet":
        return self.exclude(state=CommandState.DRAFT)

    def open(self) -> "CommandQuerySet":
        return self.filter(state__in=[CommandState.RUNNING, CommandState.CANCELLING])


class Command(models.Model):
    """One document to be run on instances that are written down when it is made."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    state = models.CharField(max_length=12, choices=CommandState, default=CommandState.DRAFT)
    document_name = models.CharField(max_length=256)
    document_version = models.CharField(max_length=8, blank=True, help_text="a number; empty: each region's default")
    parameters = models.JSONField(default=dict, blank=True, help_text="name: list of texts, as SendCommand takes them")
    targets_text = models.CharField(max_length=4000, blank=True, help_text="the expression, or what it was made from")
    reason = models.CharField(max_length=256, blank=True)
    timeout_seconds = models.PositiveIntegerField(default=3600, help_text="until what no agent has taken is given up")
    at_once = models.PositiveIntegerField(default=0, help_text="instances that it may run on at once; 0: all")
    most_failed = models.PositiveIntegerField(
        null=True, help_text="sent to no more once more have failed; none: to all"
    )
    # Who asked, and what the policy is asked with when a part of it is sent.
    actor = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="commands")
    actor_name = models.CharField(max_length=150)
    source_address = models.CharField(max_length=64, blank=True)
    mfa_at = models.DateTimeField(null=True, help_text="when the log-in that made it gave a second factor")
    # Of one that a room above has made: see runcommand/orders.py.
    origin = models.CharField(max_length=64, blank=True, help_text="rollouts:<id>; empty: a person made it here")
    origin_name = models.CharField(max_length=128, blank=True)
    deed = models.CharField(max_length=24, default="run_document", help_text="policy and calendars are asked for it")
    permission = models.CharField(
        max_length=64, default=RUN_PERMISSION, help_text="that its actor holds at each sending"
    )
    bound_by = models.CharField(max_length=12, choices=Bound, default=Bound.CALENDARS)
    again_of = models.ForeignKey("self", on_delete=models.SET_NULL, null=True, related_name="repeats")
    created_at = models.DateTimeField(default=now)
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    end_reason = models.CharField(max_length=256, blank=True, help_text="why it was not sent to all")
    cancelled_by = models.CharField(max_length=150, blank=True)
    due_at = models.DateTimeField(null=True, help_text="when a worker looks at it next; none: never again")
    counts = models.JSONField(default=dict, blank=True, help_text="state: how many instances; written at its end")

    objects = CommandQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["due_at"], name="command_due", condition=Q(due_at__isnull=False)),
            models.Index(fields=["actor", "-id"], name="command_actor"),
            models.Index(fields=["origin", "-id"], name="command_origin", condition=~Q(origin="")),
        ]
        default_permissions = ()
        permissions = [
            ("run_command", "May run documents"),
            ("review_command", "May see everybody's commands and their output"),
            ("cancel_command", "May cancel anybody's command"),
        ]

    def __str__(self) -> str:
        return f"{self.document_name} by {self.actor_name}"

    def get_absolute_url(self) -> str:
        return reverse("runcommand:command", args=[self.pk])

    @property
    def is_open(self) -> bool:
        """It has been started, and has not ended."""
        return self.state in {CommandState.RUNNING, CommandState.CANCELLING}

    @property
    def is_draft(self) -> bool:
        return self.state == CommandState.DRAFT

    @property
    def is_over(self) -> bool:
        return self.state not in COMMAND_MOVES

    @property
    def run_id(self) -> str:
        """The run that it is a step of; empty if a person made it here."""
        room, _, key = self.origin.partition(":")
        return key if room == "rollouts" else ""

    @property
    def lasted(self) -> timedelta:
        """How long it ran, or runs."""
        return (self.ended_at or now()) - self.started_at if self.started_at else timedelta()


class DispatchQuerySet(models.QuerySet):
    def open(self) -> "DispatchQuerySet":
        return self.filter(state__in=list(DISPATCH_MOVES))

    def uncertain(self) -> "DispatchQuerySet":
        return self.filter(state=DispatchState.UNCERTAIN)


class Dispatch(models.Model):
    """One SendCommand. The row is committed before the call is made; its id is in the command's comment."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    command = models.ForeignKey(Command, on_delete=models.CASCADE, related_name="dispatches")
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="dispatches")
    region = models.ForeignKey(Region, on_delete=models.CASCADE, related_name="dispatches")
    document_version = models.CharField(max_length=8, help_text="the number that it was checked against")
    state = models.CharField(max_length=10, choices=DispatchState, default=DispatchState.PLANNED)
    ssm_command_id = models.CharField(max_length=36, blank=True, help_text="AWS's CommandId; empty until it is known")
    attempts = models.PositiveSmallIntegerField(default=0, help_text="calls of SendCommand")
    sending_at = models.DateTimeField(null=True, help_text="when the last call began")
    uncertain_at = models.DateTimeField(null=True, help_text="since when its outcome is not known")
    sent_at = models.DateTimeField(null=True)
    due_at = models.DateTimeField(default=now, help_text="when it is looked at next")
    quiet = models.PositiveSmallIntegerField(default=0, help_text="looks in a row that showed nothing new")
    cancel_sent_at = models.DateTimeField(null=True, help_text="when AWS took the CancelCommand")
    error = models.CharField(max_length=512, blank=True, help_text="why AWS refused, or does not answer")

    objects = DispatchQuerySet.as_manager()

    class Meta:
        ordering = ["id"]
        indexes = [models.Index(fields=["command", "state", "due_at"], name="dispatch_due")]
        constraints = [
            models.UniqueConstraint(
                fields=["account", "region", "ssm_command_id"],
                name="dispatch_once_a_region",
                condition=~Q(ssm_command_id=""),
            )
        ]
        default_permissions = ()

    def __str__(self) -> str:
        return f"dispatch {self.pk}"

    @property
    def comment(self) -> str:
        """By which AWS shows it."""
        return f"fleetops:{self.pk}"


class InvocationQuerySet(models.QuerySet):
    def counts(self) -> dict[InvocationState, int]:
        """How many there are of each state."""
        found = self.order_by().values_list("state").annotate(Count("pk"))
        return dict.fromkeys(InvocationState, 0) | {InvocationState(state): count for state, count in found}

    def of_commands(self, commands: list) -> dict:
        """By command: how many there are of each state. One query."""
        counts: dict = {pk: {} for pk in commands}
        found = self.filter(command__in=commands).order_by().values_list("command", "state").annotate(Count("pk"))
        for command, state, count in found:
            counts[command][state] = count
        return counts


class Invocation(models.Model):
    """A command on one instance; or why it does not run there."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    command = models.ForeignKey(Command, on_delete=models.CASCADE, related_name="invocations")
    dispatch = models.ForeignKey(Dispatch, on_delete=models.SET_NULL, null=True, related_name="invocations")
    instance_row = models.ForeignKey(Instance, on_delete=models.SET_NULL, null=True, related_name="invocations")
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="+")
    region = models.ForeignKey(Region, on_delete=models.CASCADE, related_name="+")
    instance_id = models.CharField(max_length=64)
    instance_name = models.CharField(max_length=255)
    document_version = models.CharField(max_length=8, blank=True, help_text="the number that it was checked against")
    state = models.CharField(max_length=10, choices=InvocationState, default=InvocationState.PLANNED)
    details = models.CharField(max_length=512, blank=True, help_text="AWS's StatusDetails, or why it was skipped")
    exit_code = models.IntegerField(null=True)
    head = models.TextField(blank=True, help_text="the first 2,500 characters of each step's output")
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    # What GetCommandInvocation told when somebody looked: 24,000 and 8,000 characters of each step.
    outputs = models.JSONField(default=list, blank=True)
    outputs_read_at = models.DateTimeField(null=True)

    objects = InvocationQuerySet.as_manager()

    class Meta:
        ordering = ["command", "instance_name", "id"]
        constraints = [
            models.UniqueConstraint(
                fields=["command", "account", "region", "instance_id"], name="invocation_once_a_command"
            )
        ]
        indexes = [
            models.Index(fields=["command", "state", "instance_name"], name="invocation_state"),
            models.Index(fields=["instance_row", "-id"], name="invocation_instance"),
        ]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.command} on {self.instance_name}"

    def get_absolute_url(self) -> str:
        return reverse("runcommand:invocation", args=[self.command_id, self.pk])

    @property
    def is_open(self) -> bool:
        return self.state in OPEN

    @property
    def is_held(self) -> bool:
        """A calendar kept it from being sent."""
        return self.state == InvocationState.SKIPPED and self.details.startswith(HELD)

    @property
    def took(self) -> timedelta | None:
        """From its start to its end, or to now; nothing if it never started."""
        return (self.ended_at or now()) - self.started_at if self.started_at else None
