"""What a user may be told."""

from collections.abc import Mapping
from types import MappingProxyType


class UserError(Exception):
    """The user can mend it; the text says how, and is shown as it stands."""

    # By field of what was sent, why it cannot be; empty where it lies in no field. The API answers 400 with it.
    fields: Mapping[str, str] = MappingProxyType({})


class Denied(UserError):
    """The user may not do this; the text names the permission that is missing."""
