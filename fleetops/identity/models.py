"""Who somebody is."""

from django.contrib.auth.models import AbstractUser
from django.db import models

from fleetops.clock import uuid7


class User(AbstractUser):
    """A person who may log in. What they may do comes from the roles (groups) they are in."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)

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
