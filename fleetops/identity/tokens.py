"""API tokens: made, let in, revoked. The text of one is `fo_` + ten letters to find it by + `_` + its secret."""

import hashlib
import hmac
import logging
import re
import secrets
import string
from collections.abc import Iterable
from datetime import datetime

from django.db import transaction

from fleetops.audit.record import Target, deny, record
from fleetops.errors import Denied, UserError

from . import bearers
from .models import ApiToken, User
from .scopes import SCOPES, may_have

logger = logging.getLogger(__name__)

_LETTERS = string.digits + string.ascii_letters
_FIND_LENGTH = 10
_SECRET_LENGTH = 43  # of 62 letters: 256 bits, so that SHA-256 alone keeps it
# What a secret scanner may look for.
TOKEN = re.compile(rf"(fo_[0-9A-Za-z]{{{_FIND_LENGTH}}})_[0-9A-Za-z]{{{_SECRET_LENGTH}}}")
MOST_TOKENS = 100  # usable ones of one user
SORT = bearers.Sort(
    model=ApiToken,
    noun="token",
    called="token",
    action="identity.token",
    most=MOST_TOKENS,
    again="make a new one under “API tokens”, or log in anew (`fleetops login`)",
    named=lambda token: {"prefix": token.prefix},
)


class TokenRefused(Exception):
    """The token does not let its bearer in; the text says why."""


def create(
    owner: User,
    *,
    name: str,
    scopes: Iterable[str],
    expires_at: datetime,
    networks: Iterable[str] = (),
    actor: User,
    how: str = "page",
) -> tuple[ApiToken, str]:
    """Make a token of `owner`; returns it and its text, which is shown this once.

    Raises Denied, audited, if a scope goes beyond what the owner may do; UserError for what else cannot be.
    """
    name = bearers.checked(SORT, name, expires_at)
    scopes = sorted(set(scopes))
    if not scopes:
        raise UserError(f"Choose at least one scope: {', '.join(SCOPES)}.")
    if unknown := [scope for scope in scopes if scope not in SCOPES]:
        raise UserError(f"There is no scope {unknown[0]}; choose among {', '.join(SCOPES)}.")
    if beyond := [scope for scope in scopes if not may_have(scope, owner.has_perm)]:
        target = Target(ApiToken._meta.label_lower, "", name)
        deny("identity.token.create.refuse", actor=actor, target=target, reason="beyond its owner", scopes=beyond)
        raise Denied(
            f"A token never exceeds its owner, and your roles do not allow {', '.join(beyond)}. "
            "Leave that out, or ask an administrator for a role that does."
        )
    allowed = bearers.read_networks(networks)
    find, secret = (
        "".join(secrets.choice(_LETTERS) for _ in range(length)) for length in (_FIND_LENGTH, _SECRET_LENGTH)
    )
    prefix = f"fo_{find}"
    text = f"{prefix}_{secret}"
    with transaction.atomic():
        bearers.take_place(SORT, owner)
        token = ApiToken.objects.create(
            user=owner,
            name=name,
            prefix=prefix,
            digest=_digest(text),
            scopes=scopes,
            networks=allowed,
            expires_at=expires_at,
        )
        record(
            "identity.token.create",
            actor=actor,
            target=token,
            owner=owner.username,
            prefix=prefix,
            scopes=scopes,
            networks=allowed,
            expires_at=expires_at,
            how=how,
        )
    logger.info("api token made user=%s prefix=%s", owner.username, prefix)
    return token, text


def revoke(token: ApiToken, *, actor: User) -> None:
    """End the token now. Again it does nothing."""
    with transaction.atomic():
        if bearers.end(SORT, token, actor=actor):
            logger.info("api token revoked user=%s prefix=%s", token.user.username, token.prefix)


def admit(text: str, *, address: str) -> ApiToken:
    """The token that `text` is, with its `user` limited to its scopes.

    Raises TokenRefused, whose text says why and what to do; a known token's refusal is audited, once a minute.
    """
    found = TOKEN.fullmatch(text)
    token = None
    if found:
        rows = ApiToken.objects.select_related("user", "user__second_factor")
        token = rows.filter(prefix=found[1]).first()
    # The digest is compared even where there is nothing to compare with: the time taken says nothing.
    is_right = hmac.compare_digest(_digest(text), token.digest if token else "0" * 64)
    if token is None or not is_right:
        raise TokenRefused(
            "This is no token of FleetOps, or it was cut short. Log in anew (`fleetops login`), or make one "
            "under “API tokens”."
        )
    if reason := bearers.why_not(SORT, token, address):
        words, text_for_bearer = reason
        bearers.record_refusal(SORT, token, words)
        raise TokenRefused(text_for_bearer)
    token.user.limit_to(token.scopes)
    bearers.note_use(SORT, token, address)
    return token


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
