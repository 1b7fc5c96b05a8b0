"""Access keys: made, found for a signed request, revoked. They are to the aws CLI what AWS's own are.

What a key lets through is AS_SCOPES, as far as its owner may have it. It counts as no second factor: where a rule of
the access policy asks for one, the browser is the way.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta

from django.conf import settings
from django.core.cache import cache
from django.db import transaction
from django.db.models import Q
from redis.exceptions import RedisError

from fleetops import vault
from fleetops.audit.record import deny, record
from fleetops.clock import now, uuid7
from fleetops.errors import UserError

from .models import AccessKey, ApiToken, User
from .tokens import REFUSAL_WRITTEN_SECONDS, USE_WRITTEN_EVERY, is_within, read_networks, why_not_owner

logger = logging.getLogger(__name__)

KEY_ID = re.compile(r"FOAK[A-Z2-7]{16}")  # as long as AWS's, whose letters these are
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_SECRET_LENGTH = 40  # as AWS's; of 64 letters: 240 bits
_SECRET_LETTERS = _LETTERS + "abcdefghijklmnopqrstuvwxyz0189+/"
MOST_KEYS = 20  # usable ones of one user
AS_SCOPES = ("fleet:read", "sessions:read", "sessions:open", "sessions:end")


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
    name = " ".join(name.split())
    if not name or len(name) > 64:
        raise UserError("Give the key a name of at most 64 characters that says what it is for.")
    moment = now()
    if expires_at <= moment:
        raise UserError("The key would have ended already; choose a later end.")
    if expires_at > moment + timedelta(days=settings.TOKEN_LONGEST_DAYS, minutes=1):
        raise UserError(f"A key lasts at most {settings.TOKEN_LONGEST_DAYS} days; choose an earlier end.")
    allowed = read_networks(networks)
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
        User.objects.select_for_update().get(pk=owner.pk)  # so that two at once do not both take the last place
        if AccessKey.objects.filter(user=owner).usable().count() >= MOST_KEYS:
            raise UserError(f"There are {MOST_KEYS} access keys already; revoke one that is no longer used.")
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
        changed = AccessKey.objects.filter(pk=key.pk, revoked_at=None).update(
            revoked_at=now(), revoked_by=actor.username
        )
        if changed:
            record("identity.access_key.revoke", actor=actor, target=key, owner=key.user.username, key_id=key.key_id)
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
    if reason := _why_not(key, address):
        words, text_for_bearer = reason
        _record_refusal(key, words)
        raise KeyRefused(text_for_bearer, kind=_KINDS.get(words, "denied"))
    key.user.limit_to(list(AS_SCOPES))
    moment = now()
    if key.last_used_at is None or key.last_used_at < moment - USE_WRITTEN_EVERY:
        stale = Q(last_used_at=None) | Q(last_used_at__lt=moment - USE_WRITTEN_EVERY)
        AccessKey.objects.filter(stale, pk=key.pk).update(last_used_at=moment, last_used_address=address[:64])


def refused_signature(key: AccessKey, *, reason: str) -> None:
    """Write down, once a minute, that somebody named the key and had not its secret, or not the right time."""
    _record_refusal(key, reason)


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
    return bearer_name(bearer) in standing({bearer_name(bearer)}) and is_within(address, bearer.networks)


def _why_not(key: AccessKey, address: str) -> tuple[str, str] | None:
    """Why the key does not hold: for the audit log, and for its bearer."""
    again = "make a new one under “Access keys”"
    if key.revoked_at is not None:
        return "revoked", f"The access key “{key.name}” was revoked on {key.revoked_at:%Y-%m-%d %H:%M} UTC; {again}."
    if key.expires_at <= now():
        return "expired", f"The access key “{key.name}” expired on {key.expires_at:%Y-%m-%d %H:%M} UTC; {again}."
    if not is_within(address, key.networks):
        return (
            "from another network",
            f"The access key “{key.name}” may be used from {', '.join(key.networks)} alone, and this call comes from "
            f"{address or 'nowhere'}; {again}.",
        )
    return why_not_owner(key.user, "access key")


def _record_refusal(key: AccessKey, reason: str) -> None:
    name = f"key-refused:{key.pk}:{reason.replace(' ', '-')}"
    try:
        is_first = cache.add(name, 1, timeout=REFUSAL_WRITTEN_SECONDS)
    except RedisError:
        is_first = True  # rather too many rows than none
    if is_first:
        deny("identity.access_key.refuse", actor=key.user, target=key, reason=reason, key_id=key.key_id)
