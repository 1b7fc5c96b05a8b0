"""Who somebody is, what they prove it with, and the tokens that act for them."""

from django.contrib.auth.models import AbstractUser, Group
from django.db import models

from fleetops.clock import now, uuid7

from .scopes import permissions_of


class User(AbstractUser):
    """A person who may log in. What they may do comes from the roles (groups) they are in."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    needs_second_factor = models.BooleanField(
        default=False, editable=False, help_text="a role of theirs asks for it; identity.services keeps it so"
    )

    # While an API token acts for the user: the permissions that its scopes let through. Never more than their own.
    limited_to: frozenset[str] | None = None

    class Meta(AbstractUser.Meta):
        permissions = [("administer", "May administer users, accounts and settings")]

    @property
    def display_name(self) -> str:
        return self.get_full_name() or self.username

    @property
    def initials(self) -> str:
        """Two letters for the avatar."""
        words = self.display_name.replace(".", " ").replace("_", " ").split()
        return "".join(word[0] for word in words[:2]).upper() or "?"

    def limit_to(self, scopes: list[str]) -> None:
        """From here on this object may do no more than `scopes` let through, whoever asks it."""
        self.limited_to = permissions_of(scopes)

    def has_perm(self, perm, obj=None) -> bool:
        return (self.limited_to is None or perm in self.limited_to) and super().has_perm(perm, obj)

    def has_module_perms(self, app_label) -> bool:
        if self.limited_to is None:
            return super().has_module_perms(app_label)
        return any(name.partition(".")[0] == app_label for name in self.get_all_permissions())

    def get_all_permissions(self, obj=None) -> set[str]:
        found = super().get_all_permissions(obj)
        return found if self.limited_to is None else found & self.limited_to


class BearerQuerySet(models.QuerySet):
    def visible_to(self, user) -> "BearerQuerySet":
        """One's own; everybody's for who administers."""
        if user.has_perm("identity.administer"):
            return self
        return self.filter(user_id=user.pk) if user.is_authenticated else self.none()

    def usable(self) -> "BearerQuerySet":
        return self.filter(revoked_at=None, expires_at__gt=now())


TOKEN_STATES = ("usable", "expired", "revoked")


class Bearer(models.Model):
    """What acts for its owner from where no browser is, until its end: a token or an access key."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user: models.ForeignKey  # its owner
    name = models.CharField(max_length=64, help_text="what it is for, in the owner's words")
    networks = models.JSONField(default=list, blank=True, help_text="networks it may be used from; empty: any")
    created_at = models.DateTimeField(default=now, editable=False)
    expires_at = models.DateTimeField()
    last_used_at = models.DateTimeField(null=True, help_text="to the minute")
    last_used_address = models.CharField(max_length=64, blank=True)
    revoked_at = models.DateTimeField(null=True)
    revoked_by = models.CharField(max_length=150, blank=True)

    objects = BearerQuerySet.as_manager()

    class Meta:
        abstract = True
        ordering = ["-id"]
        default_permissions = ()

    def __str__(self) -> str:
        return self.name

    @property
    def state(self) -> str:
        """One of TOKEN_STATES."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at <= now() else "usable"


class ApiToken(Bearer):
    """A key with which a program acts for its owner, within its scopes and until its end. Only a digest is kept."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="tokens")
    prefix = models.CharField(max_length=16, unique=True, help_text="how it begins, to find it and know it by")
    digest = models.CharField(max_length=64, help_text="SHA-256 of the whole token, in hex")
    scopes = models.JSONField(default=list)

    class Meta(Bearer.Meta):
        indexes = [models.Index(fields=["user", "revoked_at"], name="apitoken_user")]


class AccessKey(Bearer):
    """A key as the aws CLI has them: with it the CLI opens sessions for its owner, by signed requests.

    A signature is checked with the secret itself, so that it is kept, sealed.
    """

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="access_keys")
    key_id = models.CharField(max_length=20, unique=True, help_text="FOAK and 16 letters; what AWS_ACCESS_KEY_ID holds")
    sealed_secret = models.TextField(help_text="sealed by the vault")

    class Meta(Bearer.Meta):
        indexes = [models.Index(fields=["user", "revoked_at"], name="accesskey_user")]


class SecondFactor(models.Model):
    """A user's authenticator app: one secret that makes a code every 30 seconds (RFC 6238)."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.OneToOneField(User, on_delete=models.CASCADE, related_name="second_factor")
    sealed_secret = models.TextField(help_text="sealed by the vault")
    created_at = models.DateTimeField(default=now, editable=False)
    confirmed_at = models.DateTimeField(null=True, help_text="when a first code proved that the app has the secret")
    last_step = models.BigIntegerField(
        default=0, help_text="time step of the last code taken; none up to it counts again"
    )
    failures = models.PositiveSmallIntegerField(default=0, help_text="wrong codes since the last right one")
    locked_until = models.DateTimeField(null=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"second factor of {self.user}"


class RecoveryCode(models.Model):
    """A code that stands in once for the app. Eighty random bits, so that a plain digest keeps it safe."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="recovery_codes")
    digest = models.CharField(max_length=64, help_text="SHA-256, in hex")
    used_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "digest"], name="recovery_code_once_a_user")]
        default_permissions = ()

    def __str__(self) -> str:
        return f"recovery code of {self.user}"


class RoleSetting(models.Model):
    """What an administrator has set for a role."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    group = models.OneToOneField(Group, on_delete=models.CASCADE, related_name="setting")
    requires_second_factor = models.BooleanField(default=False)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"setting of {self.group}"
