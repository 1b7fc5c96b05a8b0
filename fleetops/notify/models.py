"""The outbox: notices, where they go, and what came of each way."""

from datetime import datetime

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.urls import reverse

from fleetops import vault
from fleetops.clock import now, uuid7

from .topics import EVERYTHING, SEVERITIES, TOPICS

SEVERITY_CHOICES = [(each, each.capitalize()) for each in SEVERITIES]
TOPIC_CHOICES = [(EVERYTHING, "Everything"), *TOPICS.items()]
VIEW = "notify.view_channel"


class ChannelKind(models.TextChoices):
    EMAIL = "email", "E-mail"
    WEBHOOK = "webhook", "Webhook, signed"
    SLACK = "slack", "Slack-compatible webhook"
    SNS = "sns", "Amazon SNS topic"


class SeenQuerySet(models.QuerySet):
    """Rows that are for those who may see the channels."""

    def visible_to(self, user) -> "SeenQuerySet":
        return self if user.has_perm(VIEW) else self.none()


class Channel(models.Model):
    """A way to reach people."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=80, unique=True)
    kind = models.CharField(max_length=8, choices=ChannelKind)
    # E-mail: addresses, with commas. SNS: the topic's ARN. Webhooks: the host, for the eye.
    address = models.CharField(max_length=1000)
    sealed_url = models.TextField(blank=True, help_text="of a webhook; sealed, since whoever has it may send")
    sealed_key = models.TextField(blank=True, help_text="signs a webhook's notices; sealed")
    topic = models.CharField(max_length=64, choices=TOPIC_CHOICES, default=EVERYTHING, help_text="what it carries")
    severity = models.CharField(
        max_length=8, choices=SEVERITY_CHOICES, default="info", help_text="the least it carries"
    )
    enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=now)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")

    objects = SeenQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        default_permissions = ("view", "change")

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("notify:channel", args=[self.pk])

    def url(self) -> str:
        return vault.open_sealed(self.sealed_url, context=vault.context_of(self, "sealed_url")).decode()

    def key(self) -> bytes:
        return vault.open_sealed(self.sealed_key, context=vault.context_of(self, "sealed_key"))

    def carries(self, topic: str, severity: str) -> bool:
        """Whether a notice goes this way."""
        fits = self.topic in {EVERYTHING, topic}
        return self.enabled and fits and SEVERITIES.index(severity) >= SEVERITIES.index(self.severity)


class Silence(models.Model):
    """While it lasts, notices that fit it are kept and not sent."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    topic = models.CharField(max_length=64, choices=TOPIC_CHOICES, default=EVERYTHING)
    match = models.CharField(max_length=200, blank=True, help_text="part of the title; empty: any")
    reason = models.CharField(max_length=256)
    until = models.DateTimeField()
    created_at = models.DateTimeField(default=now)
    created_by_name = models.CharField(max_length=150)

    objects = SeenQuerySet.as_manager()

    class Meta:
        ordering = ["until"]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.get_topic_display()}{f' with “{self.match}”' if self.match else ''}"

    def fits(self, topic: str, title: str, at: datetime) -> bool:
        return at < self.until and self.topic in {EVERYTHING, topic} and self.match.lower() in title.lower()


class Notice(models.Model):
    """One thing that people should know. While it stands open, the same thing makes no second one."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    topic = models.CharField(max_length=64, choices=TOPIC_CHOICES)
    dedup_key = models.CharField(max_length=200, help_text="what it is about: the same key is the same thing")
    severity = models.CharField(max_length=8, choices=SEVERITY_CHOICES)
    title = models.CharField(max_length=200)
    text = models.TextField(blank=True)
    url = models.CharField(max_length=500, blank=True, help_text="path of the page that shows it")
    account_id = models.CharField(max_length=12, blank=True)
    region = models.CharField(max_length=32, blank=True)
    created_at = models.DateTimeField(default=now)
    repeats = models.PositiveIntegerField(default=0, help_text="how often it was told again since")
    last_at = models.DateTimeField(default=now)
    closed_at = models.DateTimeField(null=True, help_text="when it was over")
    silenced_by = models.CharField(max_length=256, blank=True, help_text="the silence it fell into, in words")

    objects = SeenQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["topic", "dedup_key"], condition=Q(closed_at=None), name="notice_open_once_a_thing"
            )
        ]
        indexes = [models.Index(fields=["topic", "dedup_key", "created_at"], name="notice_about_a_thing")]
        default_permissions = ()

    def __str__(self) -> str:
        return self.title


class DeliveryState(models.TextChoices):
    PENDING = "pending", "Waiting"
    SENT = "sent", "Sent"
    FAILED = "failed", "Failed"
    DROPPED = "dropped", "Overtaken"  # by later word on the same way about the same thing


DELIVERY_MOVES = {
    DeliveryState.PENDING: {DeliveryState.SENT, DeliveryState.FAILED, DeliveryState.DROPPED},
    DeliveryState.FAILED: {DeliveryState.PENDING},  # somebody sends it again
}


class Delivery(models.Model):
    """One notice on one way. The row is the outbox: what is pending is still to be sent, whoever died."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    notice = models.ForeignKey(Notice, on_delete=models.CASCADE, related_name="deliveries")
    channel = models.ForeignKey(Channel, on_delete=models.CASCADE, related_name="deliveries")
    is_end = models.BooleanField(default=False, help_text="tells that the thing is over")
    state = models.CharField(max_length=7, choices=DeliveryState, default=DeliveryState.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_at = models.DateTimeField(default=now)
    claimed_until = models.DateTimeField(null=True, help_text="a worker sends it until then; nobody else does")
    give_up_at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True)
    error = models.CharField(max_length=512, blank=True)

    objects = SeenQuerySet.as_manager()

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint(fields=["notice", "channel", "is_end"], name="delivery_once_a_channel")]
        indexes = [
            models.Index(fields=["next_at"], name="delivery_due", condition=Q(state="pending")),
            models.Index(fields=["channel", "-id"], name="delivery_latest_of_a_channel"),
        ]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.notice} by {self.channel}"
