"""Documents of each account and region, and their versions, as AWS last told."""

from django.db import models
from django.db.models import Q
from django.urls import reverse

from fleetops.clock import now, uuid7
from fleetops.inventory.models import Account, Region

AMAZON = "Amazon"


class Shelf(models.Model):
    """The documents of one region: when they were read, and by whom they are read now."""

    region = models.OneToOneField(Region, on_delete=models.CASCADE, related_name="shelf")
    claimed_until = models.DateTimeField(null=True, help_text="a worker reads it until then; nobody else does")
    read_at = models.DateTimeField(null=True, help_text="when the last whole reading ended")
    error = models.CharField(max_length=512, blank=True, help_text="why the last reading failed; empty if it did not")

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"documents of {self.region}"


class DocumentQuerySet(models.QuerySet):
    def visible_to(self, user) -> "DocumentQuerySet":
        """Documents that `user` may read; none without the permission."""
        return self if user.has_perm("library.view_document") else self.none()

    def present(self) -> "DocumentQuerySet":
        """Without those that AWS no longer lists."""
        return self.filter(gone_at=None)

    def runnable(self) -> "DocumentQuerySet":
        """Those that Run Command runs."""
        return self.present().filter(document_type="Command")

    def own(self) -> "DocumentQuerySet":
        """Those of the account that they lie in."""
        return self.filter(owner=models.F("account__account_id"))


class Document(models.Model):
    """One Systems Manager document of an account and region: AWS's, or the account's own."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="documents")
    region = models.ForeignKey(Region, on_delete=models.CASCADE, related_name="documents")
    name = models.CharField(max_length=256, help_text="as SendCommand takes it: of a shared one its ARN")
    owner = models.CharField(max_length=128, blank=True, help_text="Amazon, an account's number, or a publisher")
    document_type = models.CharField(max_length=32, blank=True, help_text="AWS's: Command, Automation, Session, …")
    schema_version = models.CharField(max_length=8, blank=True)
    document_format = models.CharField(max_length=8, blank=True, help_text="JSON, YAML, TEXT")
    platform_types = models.JSONField(default=list, blank=True, help_text="Windows, Linux, MacOS")
    target_type = models.CharField(max_length=200, blank=True)
    display_name = models.CharField(max_length=1024, blank=True)
    default_version = models.CharField(max_length=8, blank=True)
    latest_version = models.CharField(max_length=8, blank=True, help_text="empty until it was looked at")
    description = models.TextField(blank=True, help_text="empty until it was looked at")
    shared_with = models.JSONField(default=list, blank=True, help_text="accounts that may use it, or all")
    tags = models.JSONField(default=dict, blank=True)
    made_at = models.DateTimeField(null=True, help_text="AWS's CreatedDate, of the default version")
    read_at = models.DateTimeField(null=True, help_text="when its versions were last read")
    gone_at = models.DateTimeField(null=True, help_text="since when AWS lists it no more")

    objects = DocumentQuerySet.as_manager()

    class Meta:
        ordering = ["name", "account__name", "region__name"]
        constraints = [models.UniqueConstraint(fields=["account", "region", "name"], name="document_once_a_region")]
        indexes = [
            models.Index(fields=["document_type", "name"], name="document_type_name", condition=Q(gone_at=None)),
        ]
        default_permissions = ("view", "change")

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("library:document", args=[self.pk])

    @property
    def place(self) -> tuple[str, str]:
        """Account and region, for the audit log."""
        return self.account.account_id, self.region.name

    @property
    def is_own(self) -> bool:
        return self.owner == self.account.account_id

    @property
    def is_runnable(self) -> bool:
        return self.document_type == "Command" and self.gone_at is None


class DocumentVersion(models.Model):
    """One version. What it says never changes, so it is read once."""

    document = models.ForeignKey(Document, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField(help_text="AWS's DocumentVersion")
    name = models.CharField(max_length=128, blank=True, help_text="AWS's VersionName")
    status = models.CharField(max_length=16, blank=True, help_text="Creating, Active, Failed, …")
    document_format = models.CharField(max_length=8, blank=True)
    made_at = models.DateTimeField(null=True)
    content = models.TextField(blank=True, help_text="empty until it was looked at")
    first_read_at = models.DateTimeField(default=now)

    class Meta:
        ordering = ["document", "-number"]
        constraints = [models.UniqueConstraint(fields=["document", "number"], name="version_once_a_document")]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.document} version {self.number}"
