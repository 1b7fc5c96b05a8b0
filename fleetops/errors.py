"""What a user may be told."""


class UserError(Exception):
    """The user can mend it; the text says how, and is shown as it stands."""


class Denied(UserError):
    """The user may not do this; the text names the permission that is missing."""
