"""The rules, every change that was made to them, and by what a process sees that there was one."""

from zoneinfo import ZoneInfo

from django.conf import settings
from django.contrib.auth.models import Group
from django.db import models
from django.urls import reverse

from fleetops.clock import now, uuid7

from .decide import DEED_WORDS, Hours


class Effect(models.TextChoices):
    ALLOW = "allow", "Allow"
    DENY = "deny", "Deny"


class Whose(models.TextChoices):
    ANY = "any", "Anybody's"
    OWN = "own", "Their own"
    OTHERS = "others", "Other people's"


class Rule(models.Model):
    """Who may, or may not, do what on which instances. What the fields mean together is said in decide.py."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=100, unique=True)
    note = models.CharField(max_length=500, blank=True, help_text="why it is there; shown to whom it denies")
    effect = models.CharField(max_length=5, choices=Effect)
    enabled = models.BooleanField(default=True)
    everybody = models.BooleanField(default=False)
    users = models.ManyToManyField(settings.AUTH_USER_MODEL, blank=True, related_name="+")
    groups = models.ManyToManyField(Group, blank=True, related_name="+")
    deeds = models.JSONField(default=list, help_text="values of decide.Deed")
    whose = models.CharField(max_length=6, choices=Whose, default=Whose.ANY, help_text="of sessions and recordings")
    targets = models.CharField(max_length=4000, help_text="an expression; all for every instance")
    documents = models.JSONField(default=list, blank=True, help_text="names, with * for any run of characters")
    run_as = models.JSONField(default=list, blank=True, help_text="OS users, with *")
    shell_user = models.CharField(max_length=64, blank=True, help_text="OS user that its shells run as; one, no *")
    session_documents = models.JSONField(default=list, blank=True, help_text="documents that open shells, with *")
    destinations = models.JSONField(default=list, blank=True, help_text="of forwarded ports: host:port, with *")
    days = models.JSONField(default=list, blank=True, help_text="0 is Monday; empty: at any time")
    starts_at = models.TimeField(null=True, blank=True)
    ends_at = models.TimeField(null=True, blank=True, help_text="on the next day if not later than starts_at")
    zone = models.CharField(max_length=64, blank=True, help_text="IANA name")
    networks = models.JSONField(default=list, blank=True, help_text="CIDR; empty: from anywhere")
    needs_mfa = models.BooleanField(default=False)
    mfa_minutes = models.PositiveSmallIntegerField(default=0, help_text="how old a second factor may be; 0: any age")
    needs_reason = models.BooleanField(default=False)
    needs_moderator = models.BooleanField(default=False, help_text="input of its shells waits for somebody to watch")
    approvals = models.PositiveSmallIntegerField(default=0)
    approvers = models.ManyToManyField(
        Group, blank=True, related_name="+", help_text="who may approve; empty: administrators"
    )
    grant_minutes = models.PositiveIntegerField(default=0, help_text="longest grant; 0: as the installation has it")
    role_arn = models.CharField(max_length=256, blank=True, help_text="IAM role that the session is opened under")
    valid_from = models.DateTimeField(null=True, blank=True)
    valid_until = models.DateTimeField(null=True, blank=True)
    version = models.PositiveIntegerField(default=1, help_text="grows with each change; a late form is refused by it")
    created_at = models.DateTimeField(default=now, editable=False)
    changed_at = models.DateTimeField(default=now, editable=False)
    changed_by = models.CharField(max_length=150, blank=True)
    last_used_at = models.DateTimeField(null=True, help_text="when it last decided at a door, to the minute")

    class Meta:
        ordering = ["name"]
        default_permissions = ()
        permissions = [("view_rule", "May read the access policy"), ("change_rule", "May change the access policy")]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("policy:rule", args=[self.pk])

    @property
    def hours(self) -> Hours | None:
        """Its hours; None if it holds at any time."""
        if not self.days or self.starts_at is None or self.ends_at is None:
            return None
        return Hours(frozenset(self.days), self.starts_at, self.ends_at, zone_of(self.zone))

    @property
    def deed_words(self) -> list[str]:
        return [words for deed, words in DEED_WORDS.items() if deed in self.deeds]


def zone_of(name: str) -> ZoneInfo | None:
    """The time zone of that name; None if this machine knows none."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # one that tzdata has not, no name at all, or a directory
        return None


class RuleRevision(models.Model):
    """One change of one rule. It outlives the rule, and is never changed."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    rule_id = models.UUIDField()
    rule_name = models.CharField(max_length=100, help_text="after the change; of a deleted rule, before")
    change = models.CharField(max_length=8, help_text="create, update, enable, disable, delete")
    at = models.DateTimeField(default=now)
    by = models.CharField(max_length=150)
    before = models.JSONField(default=dict, blank=True, help_text="all of the rule; empty where there was none")
    after = models.JSONField(default=dict, blank=True)

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["rule_id", "-id"], name="rule_revision_rule")]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.change} {self.rule_name} by {self.by}"


class PolicyState(models.Model):
    """One row. Its stamp is new after each change of a rule, so that processes know when to read the rules again."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    # A number would come back after a rolled-back transaction, with other rules behind it.
    stamp = models.UUIDField(default=uuid7)
    version = models.PositiveBigIntegerField(default=0, help_text="how many changes there have been")
    defaults_made = models.JSONField(default=list, help_text="keys of the rules that were made once and for all")

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"version {self.version}"
