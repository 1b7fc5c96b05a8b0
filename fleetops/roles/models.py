"""Who may have which role, who has it until when, what AWS holds, and what became of it.

An instance has one instance profile. Three kinds of rows say which: the *holding* of the instance remembers what was
there before us (`base`) and what we last saw (`believed`); open *attachments* say what people want; *rules* say what
they may want. reconcile.py brings AWS there, and decide.py says how.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.conf import settings
from django.contrib.auth.models import Group
from django.db import models
from django.db.models import Q
from django.urls import reverse

from fleetops.approvals.models import ApprovalRequest
from fleetops.clock import now, uuid7
from fleetops.inventory.models import Account, Instance, Region
from fleetops.rollouts.models import Run

from .states import HOLDS, OPEN, AttachmentState, FindingState

VIEW_PERMISSION = "roles.view_roleattachment"
ATTACH_PERMISSION = "roles.attach_role"
END_PERMISSION = "roles.end_roleattachment"
RULE_PERMISSION = "roles.change_rolerule"


class Mode(models.TextChoices):
    MAY = "may", "may have it"
    MUST = "must", "must have it"


class RoleRule(models.Model):
    """Instances that match may have a role for at most so long, after so many approvals; or they must have it."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=100, unique=True)
    targets = models.CharField(max_length=2000, help_text="a target expression")
    profile_name = models.CharField(max_length=128, help_text="of the instance profile; * stands for any characters")
    mode = models.CharField(max_length=4, choices=Mode, default=Mode.MAY)
    most_minutes = models.PositiveIntegerField(default=0, help_text="longest lease; 0: also permanently")
    allows_privileges = models.BooleanField(default=False, help_text="may: also policies put on this role for a while")
    approvals = models.PositiveSmallIntegerField(default=0)
    approvers = models.ManyToManyField(Group, blank=True, related_name="+", help_text="roles; none: administrators")
    is_repairing = models.BooleanField(default=False, help_text="must: put it there; else it is only reported")
    is_enabled = models.BooleanField(default=True)
    version = models.PositiveIntegerField(default=1, help_text="grows with each change; a late form is refused by it")
    created_at = models.DateTimeField(default=now, editable=False)
    changed_at = models.DateTimeField(default=now, editable=False)
    changed_by = models.CharField(max_length=150, blank=True)

    class Meta:
        ordering = ["name"]
        default_permissions = ()
        permissions = [("change_rolerule", "May change which instances may have which role")]

    def __str__(self) -> str:
        return self.name


class Kind(models.TextChoices):
    PROFILE = "profile", "instance profile"
    PRIVILEGE = "privilege", "privilege only"


class EndsWith(models.TextChoices):
    TIME = "time", "at its time"
    SESSION = "session", "with the session, at the latest at its time"


class Carrier(models.TextChoices):
    """What carries a privilege on its role."""

    INLINE = "inline"
    MANAGED = "managed"


class RoleAttachmentQuerySet(models.QuerySet):
    def visible_to(self, user: Any) -> RoleAttachmentQuerySet:
        """Those on instances that the user may see, for who may see roles."""
        if not user.has_perm(VIEW_PERMISSION):
            return self.none()
        return self.filter(instance__in=Instance.objects.visible_to(user))

    def open(self) -> RoleAttachmentQuerySet:
        return self.filter(state__in=list(OPEN))

    def leases(self) -> RoleAttachmentQuerySet:
        return self.filter(ends_at__isnull=False)

    def holding(self, at: datetime) -> RoleAttachmentQuerySet:
        """Those that say at a moment what AWS should hold."""
        return self.filter(Q(ends_at=None) | Q(ends_at__gt=at), state__in=list(HOLDS))


class RoleAttachment(models.Model):
    """A role asked for on one instance: its instance profile, or a privilege on the role that it keeps.

    With an end it is a lease. Without one it says what the instance has when no lease is open; an empty profile is a
    detachment.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="role_attachments")
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="+")
    region = models.ForeignKey(Region, on_delete=models.CASCADE, related_name="+")
    instance_name = models.CharField(max_length=255)
    kind = models.CharField(max_length=9, choices=Kind, default=Kind.PROFILE)
    profile_arn = models.CharField(max_length=256, blank=True, help_text="of a privilege: the profile that it needs")
    role_name = models.CharField(max_length=128, blank=True, help_text="of a privilege: the role that carries it")
    policy = models.TextField(blank=True, help_text="of a privilege: as it was asked for, without our conditions")
    policy_name = models.CharField(max_length=128, blank=True, help_text="what the privilege is called, in words")
    carrier = models.CharField(max_length=7, choices=Carrier, default=Carrier.INLINE)
    carried_until = models.DateTimeField(null=True, help_text="the end that the policy in AWS bears; none: not there")
    state = models.CharField(max_length=9, choices=AttachmentState, default=AttachmentState.PENDING)
    words = models.CharField(max_length=512, blank=True, help_text="why it is where it is")
    reason = models.CharField(max_length=512, blank=True)
    asked_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    asked_by_name = models.CharField(max_length=150)
    rule = models.ForeignKey(RoleRule, on_delete=models.SET_NULL, null=True, related_name="attachments")
    rule_name = models.CharField(max_length=100, blank=True)
    approval = models.ForeignKey(ApprovalRequest, on_delete=models.SET_NULL, null=True, related_name="+")
    run = models.ForeignKey(Run, on_delete=models.SET_NULL, null=True, related_name="role_attachments")
    minutes = models.PositiveIntegerField(null=True, help_text="of a lease, from its approval on")
    ends_at = models.DateTimeField(null=True, help_text="none: permanent, or a lease that waits for its approval")
    ends_with = models.CharField(max_length=7, choices=EndsWith, default=EndsWith.TIME)
    session_id = models.UUIDField(null=True, help_text="of the TerminalSession that it ends with")
    asked_at = models.DateTimeField(default=now)
    applied_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    ended_by_name = models.CharField(max_length=150, blank=True)
    due_at = models.DateTimeField(null=True, help_text="when the loop looks at it next; none: when something happens")
    failures = models.PositiveSmallIntegerField(default=0)

    objects = RoleAttachmentQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        default_permissions = ("view",)
        permissions = [
            ("attach_role", "May ask for roles on instances"),
            ("end_roleattachment", "May end what others have asked for, and say what becomes of changes from outside"),
        ]
        indexes = [
            models.Index(fields=["due_at"], name="role_attachment_due", condition=Q(due_at__isnull=False)),
            models.Index(fields=["state", "ends_at"], name="role_attachment_state"),
        ]

    def __str__(self) -> str:
        return f"{self.what} on {self.instance_name}"

    def get_absolute_url(self) -> str:
        return reverse("roles:attachment", args=[self.pk])

    @property
    def place(self) -> tuple[str, str]:
        """Account and region, for the audit log."""
        return self.account.account_id, self.region.name

    @property
    def profile_name(self) -> str:
        return self.profile_arn.rpartition("/")[2]

    @property
    def what(self) -> str:
        """ "ssm-core", "no role", "read invoices on ssm-core"."""
        if self.kind == Kind.PRIVILEGE:
            return f"{self.policy_name} on {self.role_name}"
        return self.profile_name or "no role"

    @property
    def is_lease(self) -> bool:
        return self.minutes is not None

    @property
    def is_open(self) -> bool:
        return self.state in OPEN


class HoldingQuerySet(models.QuerySet):
    def visible_to(self, user: Any) -> HoldingQuerySet:
        if not user.has_perm(VIEW_PERMISSION):
            return self.none()
        return self.filter(instance__in=Instance.objects.visible_to(user))


class Holding(models.Model):
    """One instance under our care. ARNs are of instance profiles; "" is none, null is not known yet.

    `intent` is written before AWS is called and cleared once AWS has shown it: whoever finds one after a crash looks
    whether it happened.
    """

    instance = models.OneToOneField(Instance, on_delete=models.CASCADE, related_name="holding", primary_key=True)
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="+")
    region = models.ForeignKey(Region, on_delete=models.CASCADE, related_name="+")
    base = models.CharField(max_length=256, null=True, help_text="what it has without a lease")
    believed = models.CharField(max_length=256, null=True, help_text="what AWS held when we last looked")
    intent = models.CharField(max_length=256, null=True, help_text="what we are about to put there")
    intent_at = models.DateTimeField(null=True)
    looked_at = models.DateTimeField(null=True)
    due_at = models.DateTimeField(null=True, help_text="when the loop looks at it next; none: when something happens")
    claimed_until = models.DateTimeField(null=True, help_text="a worker is at it until then")
    failures = models.PositiveSmallIntegerField(default=0)
    words = models.CharField(max_length=512, blank=True, help_text="what holds it up")

    objects = HoldingQuerySet.as_manager()

    class Meta:
        default_permissions = ()
        indexes = [models.Index(fields=["due_at"], name="role_holding_due", condition=Q(due_at__isnull=False))]

    def __str__(self) -> str:
        return str(self.instance)


class RoleFindingQuerySet(models.QuerySet):
    def visible_to(self, user: Any) -> RoleFindingQuerySet:
        if not user.has_perm(VIEW_PERMISSION):
            return self.none()
        return self.filter(instance__in=Instance.objects.visible_to(user))


class RoleFinding(models.Model):
    """Something that AWS holds and nobody asked for here, or that a rule wants and that is not there."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="role_findings")
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="+")
    region = models.ForeignKey(Region, on_delete=models.CASCADE, related_name="+")
    rule = models.ForeignKey(RoleRule, on_delete=models.CASCADE, null=True, related_name="findings")
    expected = models.CharField(max_length=256, help_text="ARN; empty: no profile")
    found = models.CharField(max_length=256)
    by = models.CharField(max_length=256, blank=True, help_text="who did it, where CloudTrail tells")
    done_at = models.DateTimeField(null=True, help_text="when, where CloudTrail tells")
    looked_up_at = models.DateTimeField(null=True, help_text="when CloudTrail was last asked")
    state = models.CharField(max_length=8, choices=FindingState, default=FindingState.OPEN)
    found_at = models.DateTimeField(default=now)
    decided_at = models.DateTimeField(null=True)
    decided_by_name = models.CharField(max_length=150, blank=True)

    objects = RoleFindingQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        default_permissions = ()
        constraints = [
            # One of AWS's own and one of a rule: whatever else is found there is the same question.
            models.UniqueConstraint(
                fields=["instance"], name="role_finding_once_open", condition=Q(state="open", rule=None)
            ),
            models.UniqueConstraint(
                fields=["instance", "rule"], name="role_finding_of_rule_once_open", condition=Q(state="open")
            ),
        ]

    def __str__(self) -> str:
        return f"{self.found_name} on {self.instance}"

    @property
    def place(self) -> tuple[str, str]:
        return self.account.account_id, self.region.name

    @property
    def found_name(self) -> str:
        return self.found.rpartition("/")[2] or "no role"

    @property
    def expected_name(self) -> str:
        return self.expected.rpartition("/")[2] or "no role"


class RoleChangeQuerySet(models.QuerySet):
    def visible_to(self, user: Any) -> RoleChangeQuerySet:
        if not user.has_perm(VIEW_PERMISSION):
            return self.none()
        return self.filter(instance__in=Instance.objects.visible_to(user))


class RoleChange(models.Model):
    """One change of what an instance has: made by us, or seen. Never changed, and kept when attachments are not."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="role_changes")
    at = models.DateTimeField(default=now)
    before = models.CharField(max_length=256, blank=True)
    after = models.CharField(max_length=256, blank=True)
    privilege = models.CharField(max_length=300, blank=True, help_text="what was put on the role or taken from it")
    is_ours = models.BooleanField(default=True)
    by = models.CharField(max_length=256, blank=True)
    attachment = models.ForeignKey(RoleAttachment, on_delete=models.SET_NULL, null=True, related_name="changes")

    objects = RoleChangeQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.before_name} → {self.after_name}"

    @property
    def before_name(self) -> str:
        return self.before.rpartition("/")[2] or "no role"

    @property
    def after_name(self) -> str:
        return self.after.rpartition("/")[2] or "no role"
