"""Session documents that FleetOps makes in accounts, and the restricted shells that people define."""

from __future__ import annotations

import secrets
import string

from django.db import models
from django.urls import reverse

from fleetops.clock import now, uuid7

NONCE_LETTERS = string.ascii_letters + string.digits
NONCE_LENGTH = 32
RESTRICTED_PREFIX = "FleetOps-"


def new_nonce() -> str:
    """The secret of a session's shell: some 190 bits."""
    return "".join(secrets.choice(NONCE_LETTERS) for _ in range(NONCE_LENGTH))


class SessionDocument(models.Model):
    """What is known of one of our session documents in a region of an account, so that a click need not ask AWS.

    `name` is that of the document there, which is made of its content; empty, with a `problem`, where there is none.
    """

    account_id = models.CharField(max_length=12)
    region = models.CharField(max_length=32)
    purpose = models.CharField(max_length=96, help_text="what it is for: see session_documents.py")
    name = models.CharField(max_length=128, blank=True)
    problem = models.CharField(max_length=256, blank=True, help_text="in words, why there is none")
    preferences = models.JSONField(default=dict, help_text="the account's own inputs, of purpose “shell” alone")
    checked_at = models.DateTimeField(help_text="when AWS was last asked")
    content_checked_at = models.DateTimeField(null=True, help_text="when its content there was last compared")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["account_id", "region", "purpose"], name="session_document_once_a_region")
        ]
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.name or self.purpose} in {self.account_id} {self.region}"


class RestrictedShellQuerySet(models.QuerySet):
    def enabled(self) -> RestrictedShellQuerySet:
        return self.filter(enabled=True)


class RestrictedShell(models.Model):
    """A session that runs one program and nothing else: what is typed goes to it, and its end ends the session.

    `parameters` is a list of {"name", "description", "pattern", "values", "default"}; each has a pattern, or values.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=64, unique=True)
    note = models.CharField(max_length=256, blank=True, help_text="what it is for")
    linux = models.TextField(blank=True, help_text="what sh runs; empty: not on Linux")
    macos = models.TextField(blank=True)
    windows = models.TextField(blank=True, help_text="what follows powershell.exe")
    parameters = models.JSONField(default=list, blank=True)
    enabled = models.BooleanField(default=True)
    version = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField(default=now, editable=False)
    changed_at = models.DateTimeField(default=now)
    changed_by = models.CharField(max_length=150, blank=True)

    objects = RestrictedShellQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        default_permissions = ()
        permissions = [("change_restrictedshell", "May define restricted shells")]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("sessions:restricted_shell", args=[self.pk])

    @property
    def document(self) -> str:
        """By this name it is asked for, and policies name it. In an account its document bears a digest as well."""
        return f"{RESTRICTED_PREFIX}{self.name}"

    def commands(self, platform: str) -> str:
        """What it runs on AWS's "Linux", "MacOS", "Windows"; empty if it does not run there."""
        return {"linux": self.linux, "macos": self.macos, "windows": self.windows}.get(platform.lower(), "")
