"""People with tokens, who speak JSON."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.test import Client

from fleetops.clock import now
from fleetops.identity import tokens
from fleetops.identity.models import User
from fleetops.identity.scopes import SCOPES, may_have


class Bearer(Client):
    """A program that holds a token."""

    def __init__(self, text: str, **defaults):
        super().__init__(enforce_csrf_checks=True, HTTP_AUTHORIZATION=f"Bearer {text}", **defaults)

    def post(self, path, data=None, **more):
        return super().post(path, data if data is not None else {}, content_type="application/json", **more)


def make_token(user: User, *scopes: str, days: float = 7, **fields) -> str:
    """The text of a new token of `user`; without scopes it has all that the user may give."""
    chosen = scopes or [scope for scope in SCOPES if may_have(scope, user.has_perm)]
    return tokens.create(
        user, name="pipeline", scopes=chosen, expires_at=now() + timedelta(days=days), actor=user, **fields
    )[1]


@pytest.fixture
def bearer() -> Callable[..., Bearer]:
    """`bearer(user, "fleet:read")` is a program with such a token of that user's."""
    return lambda user, *scopes, **fields: Bearer(make_token(user, *scopes, **fields))
