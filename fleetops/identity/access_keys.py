"""Access keys: made, found for a signed request, revoked. They are to the aws CLI what AWS's own are.

What a key lets through is AS_SCOPES, as far as its owner may have it. It counts as no second factor: where a rule of
the access policy asks for one, the browser is the way.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Collection, Iterable
from datetime import datetime

from django.db import transaction

from fleetops import vault
from fleetops.audit.record import record
from fleetops.clock import uuid7

from . import bearers
from .models import AccessKey, ApiToken, User

logger = logging.getLogger(__name__)

KEY_ID = re.compile(r"FOAK[A-Z2-7]{16}")  # as long as AWS's, whose letters these are
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_SECRET_LENGTH = 40  # as AWS's; of 64 letters: 240 bits
_SECRET_LETTERS = _LETTERS + "abcdefghijklmnopqrstuvwxyz0189+/"
MOST_KEYS = 20  # usable ones of one user
AS_SCOPES = ("fleet:read", "sessions:read", "sessions:open", "sessions:end")
SORT = bearers.Sort(
    model=AccessKey,
    noun="key",
    called="access key",
    action="identity.access_key",
    most=MOST_KEYS,
    again="make a new one under “Access keys”",
    named=lambda key: {"key_id": key.key_id},
)
_KINDS = {"revoked": "unknown_key", "expired": "expired"}


class KeyRefused(Exception):
    """The key does not let its bearer in; the text says why. `kind`: as awsapi.errors knows it."""

    def __init__(self, reason: str, *, kind: str) -> None:
        super().__init__(reason)
        self.kind = kind


def create(
    owner: User, *, name: str, expires_at: datetime, networks: Iterable[str] = (), actor: User
) -> tuple[AccessKey, str]:
    """Make a key of `owner`; returns it and its secret, which is shown this once. Raises UserError."""
    name = bearers.checked(SORT, name, expires_at)
    allowed = bearers.read_networks(networks)
    secret = "".join(secrets.choice(_SECRET_LETTERS) for _ in range(_SECRET_LENGTH))
    key = AccessKey(
        id=uuid7(),
        user=owner,
        name=name,
        key_id="FOAK" + "".join(secrets.choice(_LETTERS) for _ in range(16)),
        networks=allowed,
        expires_at=expires_at,
    )
    key.sealed_secret = vault.seal(secret, context=vault.context_of(key, "sealed_secret"))
    with transaction.atomic():
        bearers.take_place(SORT, owner)
        key.save(force_insert=True)
        record(
            "identity.access_key.create",
            actor=actor,
            target=key,
            owner=owner.username,
            key_id=key.key_id,
            networks=allowed,
            expires_at=expires_at,
        )
    logger.info("access key made user=%s key=%s", owner.username, key.key_id)
    return key, secret


def revoke(key: AccessKey, *, actor: User) -> None:
    """End the key now. Again it does nothing."""
    with transaction.atomic():
        if bearers.end(SORT, key, actor=actor):
            logger.info("access key revoked user=%s key=%s", key.user.username, key.key_id)


def find(key_id: str) -> tuple[AccessKey, str]:
    """The key of that id and its secret, to check a signature with; whether it holds, `let_in` says.

    Raises KeyRefused if there is none.
    """
    key = None
    if KEY_ID.fullmatch(key_id):
        key = AccessKey.objects.select_related("user", "user__second_factor").filter(key_id=key_id).first()
    if key is None:
        raise KeyRefused("The security token included in the request is invalid.", kind="unknown_key")
    return key, vault.open_sealed(key.sealed_secret, context=vault.context_of(key, "sealed_secret")).decode()


def let_in(key: AccessKey, *, address: str) -> None:
    """Let the bearer of a key in, who has proved to have its secret; `key.user` is limited to what a key is for.

    Raises KeyRefused, whose text says why and what to do; it is audited, once a minute.
    """
    if reason := bearers.why_not(SORT, key, address):
        words, text_for_bearer = reason
        bearers.record_refusal(SORT, key, words)
        raise KeyRefused(text_for_bearer, kind=_KINDS.get(words, "denied"))
    key.user.limit_to(list(AS_SCOPES))
    bearers.note_use(SORT, key, address)


def refused_signature(key: AccessKey, *, reason: str) -> None:
    """Write down, once a minute, that somebody named the key and had not its secret, or not the right time."""
    bearers.record_refusal(SORT, key, reason)


def bearer_name(bearer: AccessKey | ApiToken) -> str:
    """What `standing` knows a key or a token by: "key:<id>", "token:<id>"."""
    return f"{'key' if isinstance(bearer, AccessKey) else 'token'}:{bearer.pk}"


def standing(names: Collection[str]) -> set[str]:
    """Those of the keys and tokens that still hold, by their bearer_name. At most two queries; none without names."""
    found: set[str] = set()
    for kind, model in (("key", AccessKey), ("token", ApiToken)):
        ids = [name.partition(":")[2] for name in names if name.startswith(f"{kind}:")]
        if ids:
            usable = model.objects.usable().filter(pk__in=ids, user__is_active=True)
            found |= {f"{kind}:{pk}" for pk in usable.values_list("pk", flat=True)}
    return found


def may_come(bearer: AccessKey | ApiToken, *, address: str) -> bool:
    """Whether a key or token that let somebody in a moment ago still holds, and from this address too."""
    return bearer_name(bearer) in standing({bearer_name(bearer)}) and bearers.is_within(address, bearer.networks)
