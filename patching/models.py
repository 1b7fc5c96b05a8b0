"""Patch baselines, the groups that are registered for them, and pinned patch sets."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.fields.json import KeyTextTransform
from django.urls import reverse

from fleetops.clock import now, uuid7
from fleetops.inventory.models import Account, Region

from .content import Content
from .families import OPERATING_SYSTEMS, Family, family_of
from .states import Deed, Origin, WriteState

AWS_OWNER, OWN = "AWS", "Self"


class Mirror(models.Model):
    """The baselines and groups of one region: when they were read, and by whom they are read now."""

    region = models.OneToOneField(Region, on_delete=models.CASCADE, related_name="patch_mirror")
    claimed_until = models.DateTimeField(null=True, help_text="a worker reads it until then; nobody else does")
    read_at = models.DateTimeField(null=True, help_text="when the last whole reading ended")
    error = models.CharField(max_length=512, blank=True, help_text="why the last reading failed; empty if it did not")

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"baselines of {self.region}"


class PatchBaselineQuerySet(models.QuerySet):
    def visible_to(self, user) -> PatchBaselineQuerySet:
        """Baselines that `user` may read; none without the permission."""
        return self if user.has_perm("patching.view_patchbaseline") else self.none()

    def present(self) -> PatchBaselineQuerySet:
        """Without those that AWS no longer lists."""
        return self.filter(gone_at=None)

    def own(self) -> PatchBaselineQuerySet:
        """Those that can be changed."""
        return self.filter(owner=OWN)

    def drifted(self) -> PatchBaselineQuerySet:
        """Those that were changed outside FleetOps since somebody here last wrote or accepted them."""
        return self.present().exclude(drifted_at=None)


class PatchBaseline(models.Model):
    """One patch baseline of an account and region, as AWS last told."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="patch_baselines")
    region = models.ForeignKey(Region, on_delete=models.CASCADE, related_name="patch_baselines")
    baseline_id = models.CharField(max_length=128, help_text="AWS's: pb-…, or the ARN of one of AWS's own")
    name = models.CharField(max_length=128)
    description = models.CharField(max_length=1024, blank=True)
    operating_system = models.CharField(max_length=32, choices=OPERATING_SYSTEMS.items())
    owner = models.CharField(max_length=4, help_text="AWS, or Self: the account's own")
    is_default = models.BooleanField(default=False, help_text="of its operating system, in its region")
    content = models.JSONField(default=dict, blank=True, help_text="all that GetPatchBaseline says of what it does")
    tags = models.JSONField(default=dict, blank=True)
    version = models.PositiveIntegerField(default=0, help_text="which of its versions AWS has; 0 until it was read")
    kept_version = models.PositiveIntegerField(
        default=0, help_text="the last one that was written here, or that somebody here has accepted"
    )
    drifted_at = models.DateTimeField(null=True, help_text="since when AWS has another one than the kept one")
    made_at = models.DateTimeField(null=True, help_text="AWS's CreatedDate")
    changed_at = models.DateTimeField(null=True, help_text="AWS's ModifiedDate")
    read_at = models.DateTimeField(null=True, help_text="when its content was last read")
    gone_at = models.DateTimeField(null=True, help_text="since when AWS lists it no more")

    objects = PatchBaselineQuerySet.as_manager()

    class Meta:
        ordering = ["name", "account__name", "region__name", "pk"]
        constraints = [
            models.UniqueConstraint(fields=["account", "region", "baseline_id"], name="baseline_once_a_region")
        ]
        indexes = [
            models.Index(fields=["operating_system", "name"], name="baseline_system_name", condition=Q(gone_at=None)),
        ]
        default_permissions = ("view", "change")

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("patching:baseline", args=[self.pk])

    @property
    def place(self) -> tuple[str, str]:
        """Account and region, for the audit log."""
        return self.account.account_id, self.region.name

    @property
    def is_own(self) -> bool:
        return self.owner == OWN

    @property
    def is_drifted(self) -> bool:
        return self.drifted_at is not None and self.gone_at is None

    @property
    def family(self) -> Family:
        return family_of(self.operating_system)

    @property
    def said(self) -> Content:
        """What it says."""
        return Content.of_aws(self.operating_system, self.content | {"Name": self.name})


class BaselineVersion(models.Model):
    """What a baseline said from a moment on. AWS keeps no versions; these are what FleetOps has seen and written."""

    baseline = models.ForeignKey(PatchBaseline, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField(help_text="1 for what was seen first")
    content = models.JSONField(default=dict, help_text="with its Name and Description")
    origin = models.CharField(max_length=8, choices=Origin)
    actor_name = models.CharField(max_length=150, blank=True, help_text="of one that was written here")
    seen_at = models.DateTimeField(default=now, help_text="when it was written or first read")

    class Meta:
        ordering = ["baseline", "-number"]
        constraints = [
            models.UniqueConstraint(fields=["baseline", "number"], name="version_once_a_baseline"),
        ]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.baseline} version {self.number}"

    @property
    def said(self) -> Content:
        return Content.of_aws(self.baseline.operating_system, self.content)


class PatchGroup(models.Model):
    """A patch group that is registered for a baseline. Nodes are in it by their tag; see groups.py."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="patch_groups")
    region = models.ForeignKey(Region, on_delete=models.CASCADE, related_name="patch_groups")
    name = models.CharField(max_length=256)
    operating_system = models.CharField(max_length=32, choices=OPERATING_SYSTEMS.items())
    baseline = models.ForeignKey(PatchBaseline, on_delete=models.CASCADE, related_name="groups")
    read_at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["name", "operating_system"]
        constraints = [
            models.UniqueConstraint(
                fields=["account", "region", "name", "operating_system"], name="group_once_an_operating_system"
            )
        ]
        default_permissions = ()

    def __str__(self) -> str:
        return self.name


class Write(models.Model):
    """One change that is written to AWS: claimed before AWS is asked, and ended by whoever learns what came of it."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False, help_text="AWS's ClientToken too")
    batch = models.UUIDField(help_text="shared by what one click writes to several places")
    region = models.ForeignKey(Region, on_delete=models.CASCADE, related_name="patch_writes")
    baseline = models.ForeignKey(PatchBaseline, null=True, on_delete=models.CASCADE, related_name="writes")
    deed = models.CharField(max_length=12, choices=Deed)
    name = models.CharField(max_length=256, help_text="of the baseline, or of the group")
    argument = models.JSONField(default=dict, help_text="what is to stand there, and on what that was built")
    actor = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    actor_name = models.CharField(max_length=150)
    state = models.CharField(max_length=8, choices=WriteState, default=WriteState.OPEN)
    text = models.CharField(max_length=1024, blank=True, help_text="what came of it, where that was not the wish")
    started_at = models.DateTimeField(default=now)
    claimed_until = models.DateTimeField(null=True, help_text="somebody writes it until then; nobody else does")
    changed_at = models.DateTimeField(null=True, help_text="since when AWS has at least a part of it")
    ended_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.UniqueConstraint(fields=["baseline"], name="one_open_write_a_baseline", condition=Q(state="open")),
            models.UniqueConstraint(
                "region",
                "name",
                KeyTextTransform("operating_system", "argument"),
                name="one_open_making_a_name",
                condition=Q(state="open", deed="create"),
            ),
        ]
        indexes = [
            models.Index(fields=["batch"], name="write_batch"),
            models.Index(fields=["claimed_until"], name="write_open", condition=Q(state="open")),
        ]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.get_deed_display()}: {self.name}"

    @property
    def place(self) -> tuple[str, str]:
        return self.region.account.account_id, self.region.name

    @property
    def is_open(self) -> bool:
        return self.state == WriteState.OPEN

    @property
    def part(self) -> str:
        """What AWS has done of it, where it stopped half way."""
        return {
            Deed.CREATE: "AWS has made the baseline, and FleetOps could not read it back.",
            Deed.UPDATE: "AWS has changed the baseline, and FleetOps could not read it back.",
            Deed.REGISTER: "The group lost its old baseline and did not get the new one: its nodes have the default.",
        }.get(Deed(self.deed), "")


class LegalValues(models.Model):
    """What AWS takes for one filter key of an operating system [SSM, DescribePatchProperties]; kept with its age."""

    region = models.ForeignKey(Region, on_delete=models.CASCADE, related_name="patch_values")
    operating_system = models.CharField(max_length=32, choices=OPERATING_SYSTEMS.items())
    patch_set = models.CharField(max_length=12, help_text="OS or APPLICATION")
    key = models.CharField(max_length=16)
    values = models.JSONField(default=list)
    read_at = models.DateTimeField(default=now)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["region", "operating_system", "patch_set", "key"], name="values_once_a_key")
        ]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.key} of {self.operating_system} in {self.region}"


class KnownPatches(models.Model):
    """What a region knows of the patches of an operating system: for the preview of a baseline. Read when asked for."""

    region = models.ForeignKey(Region, on_delete=models.CASCADE, related_name="known_patches")
    operating_system = models.CharField(max_length=32, choices=OPERATING_SYSTEMS.items())
    patches = models.JSONField(default=list, help_text="as preview.Patch writes them")
    nodes = models.JSONField(default=dict, help_text="id of an instance -> states by patch, of those that were asked")
    is_cut = models.BooleanField(default=False, help_text="there are more patches than are kept here")
    asked_at = models.DateTimeField(null=True, help_text="when a page last wanted it fresh")
    claimed_until = models.DateTimeField(null=True)
    read_at = models.DateTimeField(null=True)
    error = models.CharField(max_length=512, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["region", "operating_system"], name="patches_once_a_region")]
        default_permissions = ()

    def __str__(self) -> str:
        return f"patches of {self.operating_system} in {self.region}"


class ListStore(models.Model):
    """Where lists of patches are put that the nodes of an account read. Without a row: see lists.py."""

    account = models.OneToOneField(Account, on_delete=models.CASCADE, primary_key=True, related_name="patch_lists")
    bucket = models.CharField(max_length=63, blank=True, help_text="of S3; empty: none, and no list can be put")
    changed_at = models.DateTimeField(default=now)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"lists of {self.account}"


class PinnedSetQuerySet(models.QuerySet):
    def visible_to(self, user) -> PinnedSetQuerySet:
        return self if user.has_perm("patching.view_patchbaseline") else self.none()


class PinnedSet(models.Model):
    """Exact patches, frozen from what nodes have installed. Never changed: nothing uses one that its digest disowns."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=128)
    operating_system = models.CharField(max_length=32, choices=OPERATING_SYSTEMS.items())
    entries = models.JSONField(help_text="id and title of each, as an InstallOverrideList takes them; sorted")
    digest = models.CharField(max_length=64, help_text="SHA-256 of the list as nodes read it, in hex")
    nodes = models.JSONField(help_text="instance, account, region, and when it had reported, of each")
    run_id = models.UUIDField(null=True, help_text="the run whose nodes these are")
    made_at = models.DateTimeField(default=now)
    actor_name = models.CharField(max_length=150)

    objects = PinnedSetQuerySet.as_manager()

    class Meta:
        ordering = ["-pk"]
        indexes = [models.Index(fields=["run_id"], name="pinned_run", condition=~Q(run_id=None))]
        default_permissions = ()

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("patching:pinned_set", args=[self.pk])
