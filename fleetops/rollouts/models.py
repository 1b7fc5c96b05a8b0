"""Runs: a document in waves on many instances, as planned, and how far it has come."""

from datetime import timedelta

from django.conf import settings
from django.db import models
from django.db.models import Count, Q
from django.urls import reverse

from fleetops.approvals.models import ApprovalRequest
from fleetops.clock import now, uuid7
from fleetops.inventory.models import Account, Instance, Region
from fleetops.runcommand.models import Command, Invocation

from .states import (
    RUN_MOVES,
    GateState,
    Outcome,
    Readiness,
    RunState,
    TargetState,
    WaveState,
)

SEE_PERMISSION = "rollouts.view_run"
START_PERMISSION = "rollouts.start_run"
STEER_PERMISSION = "rollouts.steer_run"

_UNDER_WAY = (RunState.RUNNING, RunState.PAUSED, RunState.STOPPED, RunState.ABORTING)


class RunQuerySet(models.QuerySet):
    def visible_to(self, user) -> "RunQuerySet":
        """All that were started, for who may see runs; one's own drafts besides."""
        mine = self.filter(actor=user)
        return self.filter(Q(actor=user) | ~Q(state=RunState.DRAFT)) if user.has_perm(SEE_PERMISSION) else mine

    def started(self) -> "RunQuerySet":
        return self.exclude(state=RunState.DRAFT)

    def open(self) -> "RunQuerySet":
        """Started, and not over."""
        return self.filter(state__in=_UNDER_WAY)


class Run(models.Model):
    """One pass of a document over targets that are written down, in waves, when it is planned."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    kind = models.CharField(max_length=32, help_text="the name under which a wing registered it")
    name = models.CharField(max_length=128)
    state = models.CharField(max_length=12, choices=RunState, default=RunState.DRAFT)
    waits_for = models.CharField(max_length=512, blank=True, help_text="what it waits for, in words; empty: nothing")
    subject = models.JSONField(default=dict, blank=True, help_text="what its kind is told: document, operation, …")
    targets_text = models.CharField(max_length=4000, help_text="the target expression")
    # How it goes. A limit is "5" or "10%": of the targets of the wave or run.
    concurrency = models.CharField(max_length=8, default="10%", help_text="targets out of service at once, of the run")
    budget = models.CharField(max_length=8, default="0", help_text="failures that it bears; one more stops it")
    is_strict = models.BooleanField(default=False, help_text="never more in flight than the budget has left, plus one")
    wave_rules = models.JSONField(default=list, help_text="what the waves were made from, for planning again")
    steps_before = models.JSONField(default=list, blank=True, help_text="[{document, version, parameters}], in order")
    steps_after = models.JSONField(default=list, blank=True)
    probes = models.JSONField(default=list, blank=True, help_text="[{document, version, parameters}]: all must succeed")
    starts_at = models.DateTimeField(null=True, help_text="not before; none: at once")
    ends_by = models.DateTimeField(null=True, help_text="nothing is sent after; none: no end")
    cutoff_minutes = models.PositiveIntegerField(default=0, help_text="nothing is sent so long before a window closes")
    evidence_minutes = models.PositiveIntegerField(default=30, help_text="how long a target's proof is awaited")
    # The plan, as it was seen.
    plan = models.JSONField(default=dict, blank=True, help_text="what the plan page shows: see rollouts/plan.py")
    plan_hash = models.CharField(max_length=64, blank=True, help_text="SHA-256 of waves, targets, skips and settings")
    tolerance = models.CharField(max_length=8, default="0", help_text="how much the live targets may differ at start")
    override = models.ForeignKey(
        ApprovalRequest,
        on_delete=models.SET_NULL,
        null=True,
        related_name="+",
        help_text="that lets it run through freezes",
    )
    override_freezes = models.JSONField(
        default=list, blank=True, help_text="[{calendar, name, until}]: the freezes that `override` is about"
    )
    versions = models.JSONField(
        default=dict, blank=True, help_text="document: {account/region: version}, as they were when it was planned"
    )
    preparation = models.JSONField(
        default=dict, blank=True, help_text="what its kind has made for later waves, and waves that go without"
    )
    # Who asked, and what the policy is asked with when a part of it is sent.
    actor = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="runs")
    actor_name = models.CharField(max_length=150)
    source_address = models.CharField(max_length=64, blank=True)
    mfa_at = models.DateTimeField(null=True)
    reason = models.CharField(max_length=256, blank=True)
    again_of = models.ForeignKey("self", on_delete=models.SET_NULL, null=True, related_name="repeats")
    accepted_failures = models.PositiveIntegerField(default=0, help_text="that a person rolled forward over")
    created_at = models.DateTimeField(default=now)
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    end_reason = models.CharField(max_length=512, blank=True, help_text="why it stopped or ended, in words")
    due_at = models.DateTimeField(null=True, help_text="when a worker looks at it next; none: never again")
    sends_at = models.DateTimeField(null=True, help_text="no targets go before: what is freed is gathered until then")
    seen_at = models.DateTimeField(
        null=True, help_text="when a worker last looked: time that nobody watched is no soak"
    )
    looked_through = models.PositiveIntegerField(
        default=0, help_text="the position through which the last look came that found mostly targets that are held"
    )
    counts = models.JSONField(default=dict, blank=True, help_text="state: how many targets; written at its end")

    objects = RunQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["due_at"], name="run_due", condition=Q(due_at__isnull=False)),
            models.Index(fields=["state", "-id"], name="run_state"),
        ]
        default_permissions = ("view",)
        permissions = [
            ("start_run", "May plan runs and start them"),
            ("steer_run", "May pause, resume, retry and abort anybody's run"),
        ]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("rollouts:run", args=[self.pk])

    @property
    def is_draft(self) -> bool:
        return self.state == RunState.DRAFT

    @property
    def is_open(self) -> bool:
        return self.state in _UNDER_WAY

    @property
    def is_over(self) -> bool:
        return self.state in {RunState.SUCCEEDED, RunState.FAILED, RunState.ABORTED}

    def may_become(self, state: RunState) -> bool:
        return state in RUN_MOVES.get(RunState(self.state), set())

    @property
    def lasted(self) -> timedelta:
        """How long it ran, or runs."""
        return (self.ended_at or now()) - self.started_at if self.started_at else timedelta()


class Wave(models.Model):
    """Targets of a run that go together; the next wave waits for this one, its soak and its gates."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="waves")
    position = models.PositiveSmallIntegerField(help_text="1 for the wave that goes first")
    name = models.CharField(max_length=64, help_text="canary, 10 %, zone a, …")
    state = models.CharField(max_length=12, choices=WaveState, default=WaveState.PENDING)
    concurrency = models.CharField(max_length=8, blank=True, help_text="of its targets at once; empty: the run's alone")
    budget = models.CharField(max_length=8, blank=True, help_text="failures that it bears; empty: the run's alone")
    soak_seconds = models.PositiveIntegerField(default=0)
    soak_left = models.PositiveIntegerField(null=True, help_text="seconds of a soak that a stop cut short")
    readiness = models.CharField(max_length=8, choices=Readiness, default=Readiness.READY)
    readiness_words = models.CharField(max_length=512, blank=True, help_text="what it waits for, or why it failed")
    readiness_since = models.DateTimeField(null=True, help_text="since when its kind has been asked to prepare it")
    accepted_failures = models.PositiveIntegerField(default=0, help_text="that a person rolled forward over")
    started_at = models.DateTimeField(null=True)
    soak_until = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    reason = models.CharField(max_length=512, blank=True)

    class Meta:
        ordering = ["position"]
        constraints = [models.UniqueConstraint(fields=["run", "position"], name="wave_position_once_a_run")]
        default_permissions = ()

    def __str__(self) -> str:
        return f"wave {self.position}, {self.name}"


class GateCheck(models.Model):
    """What has to be true before the wave after this one starts."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    wave = models.ForeignKey(Wave, on_delete=models.CASCADE, related_name="gates")
    position = models.PositiveSmallIntegerField()
    kind = models.CharField(max_length=16, help_text="approval, document, alarm: see rollouts/gates.py")
    settings = models.JSONField(default=dict, help_text="quorum, approvers; document, parameters, targets; alarm names")
    state = models.CharField(max_length=12, choices=GateState, default=GateState.PENDING)
    approval = models.ForeignKey(ApprovalRequest, on_delete=models.SET_NULL, null=True, related_name="+")
    command = models.ForeignKey(Command, on_delete=models.SET_NULL, null=True, related_name="+")
    began_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    words = models.CharField(max_length=512, blank=True, help_text="what it waits for, or how it ended")

    class Meta:
        ordering = ["wave", "position"]
        constraints = [models.UniqueConstraint(fields=["wave", "position"], name="gate_position_once_a_wave")]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.kind} gate of {self.wave}"


class RunTargetQuerySet(models.QuerySet):
    def counts(self) -> dict[TargetState, int]:
        """How many there are of each state."""
        found = self.order_by().values_list("state").annotate(Count("pk"))
        return dict.fromkeys(TargetState, 0) | {TargetState(state): count for state, count in found}


class RunTarget(models.Model):
    """One instance in a run: its wave, how far its evidence goes, or why it is left out."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="targets")
    wave = models.ForeignKey(Wave, on_delete=models.CASCADE, null=True, related_name="targets")  # none: skipped
    position = models.PositiveIntegerField(help_text="the order in which they go, of the run")
    instance_row = models.ForeignKey(Instance, on_delete=models.SET_NULL, null=True, related_name="run_targets")
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="+")
    region = models.ForeignKey(Region, on_delete=models.CASCADE, related_name="+")
    instance_id = models.CharField(max_length=64)
    instance_name = models.CharField(max_length=255)
    zone = models.CharField(max_length=32, blank=True)
    state = models.CharField(max_length=12, choices=TargetState, default=TargetState.QUEUED)
    step = models.CharField(max_length=32, blank=True, help_text="within the state: before 1, probe 2, …")
    outcome = models.CharField(max_length=8, choices=Outcome, blank=True, help_text="what it will end as, if decided")
    attempt = models.PositiveSmallIntegerField(default=0, help_text="how often it has been sent")
    invocation = models.ForeignKey(Invocation, on_delete=models.SET_NULL, null=True, related_name="run_targets")
    due_at = models.DateTimeField(null=True, help_text="when its evidence is looked at next")
    went_at = models.DateTimeField(null=True, help_text="when its slot was taken, in this attempt")
    sent_at = models.DateTimeField(null=True)
    ran_at = models.DateTimeField(null=True)
    proof_by = models.DateTimeField(null=True, help_text="it fails if its evidence is not there by then")
    rebooted_at = models.DateTimeField(null=True)
    reported_at = models.DateTimeField(null=True)
    probed_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    reason = models.CharField(max_length=512, blank=True, help_text="why it failed, is skipped, or waits")
    facts = models.JSONField(default=dict, blank=True, help_text="what its verdict rests on")

    objects = RunTargetQuerySet.as_manager()

    class Meta:
        ordering = ["run", "position"]
        constraints = [
            models.UniqueConstraint(fields=["run", "account", "region", "instance_id"], name="target_once_a_run")
        ]
        indexes = [
            models.Index(fields=["run", "state", "due_at"], name="target_state"),
            models.Index(fields=["wave", "state"], name="target_of_wave"),
        ]
        default_permissions = ()

    def __str__(self) -> str:
        return self.instance_name or self.instance_id


class TargetCluster(models.Model):
    """A cluster that a target is a member of, by one rule. A target may be in several."""

    target = models.ForeignKey(RunTarget, on_delete=models.CASCADE, related_name="clusters")
    cluster = models.CharField(max_length=400, help_text="account id, tag and value: see rollouts/clusters.py")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["target", "cluster"], name="cluster_once_a_target")]
        indexes = [models.Index(fields=["cluster"], name="cluster_targets")]
        default_permissions = ()

    def __str__(self) -> str:
        return self.cluster


class ClusterRule(models.Model):
    """Never more than so many members of a cluster are out of service at once, whatever a run says."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tag = models.CharField(max_length=128, help_text="its value names the cluster")
    values = models.CharField(max_length=256, default="*", help_text="values that it holds for; * in a pattern")
    most_out = models.PositiveSmallIntegerField(default=1, help_text="members out of service at once")
    enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["tag", "values"]
        constraints = [models.UniqueConstraint(fields=["tag", "values"], name="cluster_rule_once")]
        default_permissions = ()
        permissions = [("change_clusterrule", "May say how many members of a cluster may be out of service")]

    def __str__(self) -> str:
        return f"at most {self.most_out} of {self.tag}={self.values}"


class ClusterSlot(models.Model):
    """A place among the members of a cluster that are out of service, of all runs; taken by insert."""

    cluster = models.CharField(max_length=400)
    slot = models.PositiveSmallIntegerField(help_text="0 to most_out - 1")
    target = models.ForeignKey(RunTarget, on_delete=models.CASCADE, related_name="slots")
    taken_at = models.DateTimeField(default=now)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["cluster", "slot"], name="cluster_slot_once"),
            models.UniqueConstraint(fields=["cluster", "target"], name="cluster_slot_once_a_target"),
        ]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.cluster} {self.slot}"


class RunEvent(models.Model):
    """A line of a run's timeline, in words. What people did stands in the audit log as well."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="events")
    wave = models.ForeignKey(Wave, on_delete=models.CASCADE, null=True, related_name="events")
    target = models.ForeignKey(RunTarget, on_delete=models.CASCADE, null=True, related_name="events")
    at = models.DateTimeField(default=now)
    tone = models.CharField(max_length=8, default="info", help_text="info, good, bad, wait")
    text = models.CharField(max_length=512)

    class Meta:
        ordering = ["-at", "-id"]
        indexes = [models.Index(fields=["run", "-at"], name="run_event_at")]
        default_permissions = ()

    def __str__(self) -> str:
        return self.text
