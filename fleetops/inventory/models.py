"""Accounts, their regions, and the managed instances in them, as AWS last told."""

from urllib.parse import urlencode

from django.conf import settings
from django.db import models
from django.db.models import Case, Count, Exists, F, OuterRef, Q, Value, When
from django.urls import reverse

from fleetops.aws.clients import AccountAccess
from fleetops.clock import now, uuid7
from fleetops.targets import MOST_CHARACTERS

from .readiness import NEEDS_A_FIX, Status
from .states import CHECK_MOVES, CheckResult, CheckState


class AccountQuerySet(models.QuerySet):
    def visible_to(self, user) -> "AccountQuerySet":
        """Accounts whose settings `user` may see; none without the permission."""
        return self if user.has_perm("inventory.view_account") else self.none()


class Account(models.Model):
    """An AWS account, or one of the embedded endpoint: where it is reached, and as whom."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account_id = models.CharField(max_length=12, help_text="AWS's twelve digits")
    name = models.CharField(max_length=64)
    role_arn = models.CharField(max_length=256, blank=True, help_text="role to assume; empty: the base credentials")
    external_id = models.CharField(max_length=128, blank=True)
    profile = models.CharField(
        max_length=64, blank=True, help_text="base credentials: a profile of the AWS config files"
    )
    endpoint_url = models.CharField(max_length=256, blank=True, help_text="empty: AWS itself")
    ca_pem = models.TextField(blank=True, help_text="CA of endpoint_url; empty: the system's")
    stream_hosts = models.JSONField(default=list, blank=True, help_text="host:port that may appear in a StreamUrl")
    enabled = models.BooleanField(default=True, help_text="it is read, and shells are opened in it")
    is_embedded = models.BooleanField(default=False, help_text="the embedded endpoint says where it is, at each start")
    region_states = models.JSONField(default=dict, blank=True, help_text="region: whether AWS has it turned on")
    created_at = models.DateTimeField(default=now, editable=False)

    objects = AccountQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["account_id"], name="account_once")]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("accounts:account", args=[self.pk])

    @property
    def place(self) -> tuple[str, str]:
        """Account and region, for the audit log."""
        return self.account_id, ""

    def access(self) -> AccountAccess:
        """What `fleetops.aws` needs to call this account."""
        return AccountAccess(
            account_id=self.account_id,
            role_arn=self.role_arn,
            external_id=self.external_id,
            profile=self.profile,
            endpoint_url=self.endpoint_url,
            ca_pem=self.ca_pem,
            stream_hosts=tuple(self.stream_hosts),
            connect_timeout_seconds=settings.AWS_CONNECT_TIMEOUT_SECONDS,
            read_timeout_seconds=settings.AWS_READ_TIMEOUT_SECONDS,
            cache_dir=str(settings.HOME / "aws"),
        )


class Region(models.Model):
    """A region of an account that FleetOps reads."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="regions")
    name = models.CharField(max_length=32)
    enabled = models.BooleanField(default=True)
    started_at = models.DateTimeField(null=True, help_text="when the last refresh began")
    claimed_until = models.DateTimeField(null=True, help_text="a worker refreshes it until then; nobody else does")
    refreshed_at = models.DateTimeField(null=True, help_text="when the last whole refresh ended")
    error = models.CharField(max_length=512, blank=True, help_text="why the last refresh failed; empty if it did not")
    reading = models.JSONField(
        default=dict, blank=True, help_text="where a refresh goes on that took too long for one go"
    )
    queue_url = models.CharField(
        max_length=512, blank=True, help_text="SQS queue of EventBridge's events; empty: it is only polled"
    )
    queue_claimed_until = models.DateTimeField(null=True, help_text="a worker reads the queue until then")
    queue_read_at = models.DateTimeField(null=True, help_text="when the queue last answered")
    queue_error = models.CharField(max_length=512, blank=True, help_text="why the queue cannot be read")
    queue_event_at = models.DateTimeField(null=True, help_text="when the last event of an instance came from it")

    class Meta:
        ordering = ["account__name", "name"]
        constraints = [models.UniqueConstraint(fields=["account", "name"], name="region_once_an_account")]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.account} {self.name}"


class CallCeilingQuerySet(models.QuerySet):
    def visible_to(self, user) -> "CallCeilingQuerySet":
        """Those of the accounts whose settings `user` may see."""
        return self.filter(account__in=Account.objects.visible_to(user))

    def in_force(self) -> "CallCeilingQuerySet":
        return self.exclude(per_second=None)


class CallCeiling(models.Model):
    """How often at most FleetOps calls an operation in a region of an account, as a person has said.

    The governor acts by it from Valkey, which may lose it: this row says what is in force. One that was taken away
    stays without a number until the governor has been told.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="call_ceilings")
    region = models.CharField(max_length=32)
    operation = models.CharField(max_length=96, help_text="as IAM writes it: ssm:StartSession")
    per_second = models.FloatField(null=True, help_text="calls a second; null: taken away, the governor is to be told")
    set_by = models.CharField(max_length=150)
    set_at = models.DateTimeField()
    told_at = models.DateTimeField(null=True, help_text="when the governor was told of it; null: it is yet to be")

    objects = CallCeilingQuerySet.as_manager()

    class Meta:
        ordering = ["account__name", "region", "operation"]
        constraints = [models.UniqueConstraint(fields=["account", "region", "operation"], name="call_ceiling_once")]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.operation} in {self.account}, {self.region}"

    @property
    def place(self) -> tuple[str, str]:
        """Account and region, for the audit log."""
        return self.account.account_id, self.region


class AccountCheck(models.Model):
    """One connection check of an account: what FleetOps may do there, asked of AWS."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="checks")
    state = models.CharField(max_length=8, choices=CheckState, default=CheckState.WAITING)
    asked_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(default=now, editable=False)
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    caller_arn = models.CharField(max_length=256, blank=True, help_text="the base credentials, as AWS names them")
    error = models.CharField(max_length=512, blank=True, help_text="why it could not be carried out")

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["account"],
                name="check_one_at_a_time",
                condition=models.Q(state__in=[CheckState.WAITING, CheckState.RUNNING]),
            )
        ]
        default_permissions = ()

    def __str__(self) -> str:
        return f"check of {self.account}"

    @property
    def is_open(self) -> bool:
        return self.state in CHECK_MOVES


class CheckRow(models.Model):
    """What a check found of one permission in one region."""

    parent = models.ForeignKey(AccountCheck, on_delete=models.CASCADE, related_name="rows")
    region = models.CharField(max_length=32)
    position = models.PositiveSmallIntegerField()
    action = models.CharField(max_length=64, help_text="as IAM writes it")
    purpose = models.CharField(max_length=128)
    result = models.CharField(max_length=8, choices=CheckResult, default=CheckResult.WAITING)
    text = models.CharField(max_length=1024, blank=True, help_text="what AWS said, and what to do")
    is_optional = models.BooleanField(default=False)

    class Meta:
        ordering = ["region", "position"]
        constraints = [
            models.UniqueConstraint(fields=["parent", "region", "action"], name="permission_once_a_region_of_a_check")
        ]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.action} {self.region}"


class IdentityCheck(models.Model):
    """One look at the roles under which FleetOps acts in an account: whom they trust, and what they may do."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="identity_checks")
    state = models.CharField(max_length=8, choices=CheckState, default=CheckState.WAITING)
    asked_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(default=now, editable=False)
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    caller_arn = models.CharField(max_length=256, blank=True, help_text="the base credentials, as AWS names them")
    roles = models.JSONField(default=list, blank=True, help_text="what was found of each: identity_checks.RoleFound")
    error = models.CharField(max_length=512, blank=True, help_text="why it could not be carried out")

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["account"],
                name="identity_check_one_at_a_time",
                condition=models.Q(state__in=[CheckState.WAITING, CheckState.RUNNING]),
            )
        ]
        default_permissions = ()

    def __str__(self) -> str:
        return f"identity in {self.account}"

    @property
    def is_open(self) -> bool:
        return self.state in CHECK_MOVES


# A status as the database tells it: the first condition that holds. `readiness.status_of` says the same of one row; a
# test holds them against each other.
STATUS_CONDITIONS = (
    (Status.GONE, Q(gone_at__isnull=False)),
    (Status.STOPPED, Q(ec2_state__in=["stopped", "stopping"])),
    (Status.STARTING, Q(ec2_state="pending")),
    (Status.ONLINE, Q(ping_status="Online")),
    (Status.NO_PROFILE, Q(ec2_state="running", profile_arn="")),
    (Status.LOST, Q(last_ping_at__isnull=False)),
)


class InstanceQuerySet(models.QuerySet):
    def visible_to(self, user) -> "InstanceQuerySet":
        """Instances that `user` may see; none without the permission."""
        return self if user.has_perm("inventory.view_instance") else self.none()

    def present(self) -> "InstanceQuerySet":
        """Without those that AWS no longer lists."""
        return self.filter(gone_at=None)

    def online(self) -> "InstanceQuerySet":
        return self.present().filter(ping_status="Online")

    def with_status(self) -> "InstanceQuerySet":
        """With `status_key`, a value of Status, and `status_rank`, 0 for what needs a person most."""
        ranks = {status: rank for rank, status in enumerate(Status)}
        return self.alias(
            status_key=Case(
                *(When(condition, then=Value(status.value)) for status, condition in STATUS_CONDITIONS),
                default=Value(Status.NEVER.value),
            ),
            status_rank=Case(
                *(When(condition, then=Value(ranks[status])) for status, condition in STATUS_CONDITIONS),
                default=Value(ranks[Status.NEVER]),
            ),
        )

    def needing_a_fix(self) -> "InstanceQuerySet":
        return self.with_status().filter(status_key__in=[status.value for status in NEEDS_A_FIX])

    def counts(self) -> dict[Status, int]:
        """How many there are of each status."""
        found = self.with_status().order_by().annotate(key=F("status_key")).values_list("key").annotate(Count("pk"))
        return dict.fromkeys(Status, 0) | {Status(key): count for key, count in found}


_PLATFORM_NAMES = (
    ("Amazon Linux", "AL"),
    ("Debian GNU/Linux", "Debian"),
    ("Red Hat Enterprise Linux Server", "RHEL"),
    ("Red Hat Enterprise Linux", "RHEL"),
    ("SUSE Linux Enterprise Server", "SLES"),
    ("Microsoft Windows", "Windows"),
    (" Datacenter", ""),
    (" Standard", ""),
)


class Instance(models.Model):
    """A managed instance: what EC2 says of the machine joined with what SSM says of its agent."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="instances")
    region = models.ForeignKey(Region, on_delete=models.CASCADE, related_name="instances")
    instance_id = models.CharField(max_length=64, help_text="i-… or mi-…")
    name = models.CharField(max_length=255, blank=True, help_text="the Name tag, else the computer name")
    # EC2's facts; empty for hybrid nodes
    ec2_state = models.CharField(max_length=16, blank=True)
    instance_type = models.CharField(max_length=32, blank=True)
    zone = models.CharField(max_length=32, blank=True)
    image_id = models.CharField(max_length=32, blank=True)
    private_ip = models.CharField(max_length=64, blank=True)
    profile_arn = models.CharField(max_length=256, blank=True, help_text="instance profile")
    launched_at = models.DateTimeField(null=True)
    ec2_read_at = models.DateTimeField(null=True, help_text="when EC2 last told us of it")
    # SSM's facts; empty while no agent has ever reported
    resource_type = models.CharField(max_length=16, blank=True, help_text="EC2Instance or ManagedInstance")
    ping_status = models.CharField(max_length=16, blank=True, help_text="AWS's: Online, ConnectionLost, Inactive")
    last_ping_at = models.DateTimeField(null=True)
    agent_version = models.CharField(max_length=32, blank=True)
    platform_type = models.CharField(max_length=16, blank=True, help_text="Linux, Windows, MacOS")
    platform_name = models.CharField(max_length=64, blank=True)
    platform_version = models.CharField(max_length=32, blank=True)
    computer_name = models.CharField(max_length=255, blank=True)
    ssm_read_at = models.DateTimeField(null=True, help_text="when SSM last told us of it")
    tags_read_at = models.DateTimeField(null=True, help_text="of a hybrid node, whose tags are asked for one by one")
    tags = models.JSONField(default=dict, blank=True)
    gone_at = models.DateTimeField(null=True, help_text="since when AWS lists it no more")
    changed_at = models.DateTimeField(null=True, help_text="when a refresh last found a fact changed that pages show")

    objects = InstanceQuerySet.as_manager()

    class Meta:
        ordering = ["name", "instance_id"]
        constraints = [
            models.UniqueConstraint(fields=["account", "region", "instance_id"], name="instance_once_a_region")
        ]
        indexes = [
            models.Index(fields=["name", "instance_id"], name="instance_name"),
            models.Index(fields=["instance_id"], name="instance_aws_id"),
            models.Index(fields=["ping_status"], name="instance_ping", condition=Q(gone_at=None)),
        ]
        default_permissions = ("view",)

    def __str__(self) -> str:
        return self.name or self.instance_id

    def get_absolute_url(self) -> str:
        return reverse("inventory:instance", args=[self.pk])

    @property
    def place(self) -> tuple[str, str]:
        """Account and region, for the audit log."""
        return self.account.account_id, self.region.name

    @property
    def platform(self) -> str:
        return f"{self.platform_name} {self.platform_version}".strip()

    @property
    def short_platform(self) -> str:
        """The platform in a list: "AL 2023", "Debian 12", "RHEL 9.6", "Windows Server 2022"."""
        name = self.platform_name
        for long, short in _PLATFORM_NAMES:
            name = name.replace(long, short)
        return f"{name} {self.platform_version}".strip() if self.platform_type != "Windows" else name

    @property
    def profile_name(self) -> str:
        return self.profile_arn.rpartition("/")[2]

    @property
    def is_hybrid(self) -> bool:
        """Registered by an activation: EC2 does not know it."""
        return self.instance_id.startswith("mi-")


class InstanceTag(models.Model):
    """One tag, as rows, to filter by."""

    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="tag_rows")
    key = models.CharField(max_length=128)
    value = models.CharField(max_length=256, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["instance", "key"], name="tag_key_once_an_instance")]
        indexes = [models.Index(fields=["key", "value"], name="instance_tag_key_value")]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.key}={self.value}"


class SavedFilterQuerySet(models.QuerySet):
    def visible_to(self, user) -> "SavedFilterQuerySet":
        """One's own, and what others share."""
        if not user.has_perm("inventory.view_instance"):
            return self.none()
        return self.filter(Q(owner=user) | Q(is_shared=True))

    def usable_by(self, user) -> "SavedFilterQuerySet":
        """Those for menus, by name, with their owners and with `is_default`: whether `user` begins with it."""
        starred = FilterStar.objects.filter(user=user, filter=OuterRef("pk"))
        return self.visible_to(user).annotate(is_default=Exists(starred)).select_related("owner").order_by("name", "pk")


class SavedFilter(models.Model):
    """A filter of the fleet under a name: its owner's, or shared with everybody who sees instances."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="saved_filters")
    name = models.CharField(max_length=64)
    text = models.CharField(max_length=MOST_CHARACTERS, help_text="a target expression, with words of the filter box")
    is_shared = models.BooleanField(default=False)
    created_at = models.DateTimeField(default=now, editable=False)

    objects = SavedFilterQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["owner", "name"], name="filter_name_once_an_owner")]
        default_permissions = ()

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return f"{reverse('inventory:fleet')}?{urlencode({'q': self.text})}"


class FilterStar(models.Model):
    """The filter with which the fleet opens for a user."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, primary_key=True, related_name="filter_star"
    )
    filter = models.ForeignKey(SavedFilter, on_delete=models.CASCADE, related_name="stars")

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.user} begins with {self.filter}"
