"""What a user may be told."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType


class UserError(Exception):
    """The user can mend it; the text says how, and is shown as it stands."""

    # By field of what was sent, why it cannot be; empty where it lies in no field. The API answers 400 with it.
    fields: Mapping[str, str] = MappingProxyType({})


class Denied(UserError):
    """The user may not do this; the text names the permission that is missing."""


class FieldError(UserError):
    """What was sent in one field cannot be."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.fields = {field: text}


@contextmanager
def in_field(name: str) -> Iterator[None]:
    """A UserError of this block is of that field."""
    try:
        yield
    except UserError as error:
        error.fields = {name: str(error)}
        raise
