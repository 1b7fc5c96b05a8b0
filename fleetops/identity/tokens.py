"""API tokens: made, let in, revoked. The text of one is `fo_` + ten letters to find it by + `_` + its secret."""

import hashlib
import hmac
import ipaddress
import logging
import re
import secrets
import string
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.conf import settings
from django.core.cache import cache
from django.db import transaction
from django.db.models import Q
from redis.exceptions import RedisError

from fleetops.audit.record import Target, deny, record
from fleetops.clock import now
from fleetops.errors import Denied, UserError

from .models import ApiToken, User
from .scopes import SCOPES, may_have

logger = logging.getLogger(__name__)

_LETTERS = string.digits + string.ascii_letters
_FIND_LENGTH = 10
_SECRET_LENGTH = 43  # of 62 letters: 256 bits, so that SHA-256 alone keeps it
# What a secret scanner may look for.
TOKEN = re.compile(rf"(fo_[0-9A-Za-z]{{{_FIND_LENGTH}}})_[0-9A-Za-z]{{{_SECRET_LENGTH}}}")
USE_WRITTEN_EVERY = timedelta(minutes=1)
MOST_TOKENS = 100  # usable ones of one user
MOST_NETWORKS = 20
# A program that goes on with a token that no longer holds asks each second; one row in this many seconds tells of it.
REFUSAL_WRITTEN_SECONDS = 60


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
    name = " ".join(name.split())
    scopes = sorted(set(scopes))
    if not name or len(name) > 64:
        raise UserError("Give the token a name of at most 64 characters that says what it is for.")
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
    moment = now()
    if expires_at <= moment:
        raise UserError("The token would have ended already; choose a later end.")
    if expires_at > moment + timedelta(days=settings.TOKEN_LONGEST_DAYS, minutes=1):
        raise UserError(f"A token lasts at most {settings.TOKEN_LONGEST_DAYS} days; choose an earlier end.")
    allowed = read_networks(networks)
    find, secret = (
        "".join(secrets.choice(_LETTERS) for _ in range(length)) for length in (_FIND_LENGTH, _SECRET_LENGTH)
    )
    prefix = f"fo_{find}"
    text = f"{prefix}_{secret}"
    with transaction.atomic():
        User.objects.select_for_update().get(pk=owner.pk)  # so that two at once do not both take the last place
        if ApiToken.objects.filter(user=owner).usable().count() >= MOST_TOKENS:
            raise UserError(f"There are {MOST_TOKENS} tokens already; revoke one that is no longer used.")
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
        changed = ApiToken.objects.filter(pk=token.pk, revoked_at=None).update(
            revoked_at=now(), revoked_by=actor.username
        )
        if changed:
            record("identity.token.revoke", actor=actor, target=token, owner=token.user.username, prefix=token.prefix)
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
    if reason := _why_not(token, address):
        words, text_for_bearer = reason
        _record_refusal(token, words)
        raise TokenRefused(text_for_bearer)
    token.user.limit_to(token.scopes)
    moment = now()
    if token.last_used_at is None or token.last_used_at < moment - USE_WRITTEN_EVERY:
        stale = Q(last_used_at=None) | Q(last_used_at__lt=moment - USE_WRITTEN_EVERY)
        ApiToken.objects.filter(stale, pk=token.pk).update(last_used_at=moment, last_used_address=address[:64])
    return token


def _why_not(token: ApiToken, address: str) -> tuple[str, str] | None:
    """Why the token does not hold: for the audit log, and for its bearer."""
    again = "make a new one under “API tokens”, or log in anew (`fleetops login`)"
    if token.revoked_at is not None:
        return "revoked", f"The token “{token.name}” was revoked on {token.revoked_at:%Y-%m-%d %H:%M} UTC; {again}."
    if token.expires_at <= now():
        return "expired", f"The token “{token.name}” expired on {token.expires_at:%Y-%m-%d %H:%M} UTC; {again}."
    if not is_within(address, token.networks):
        return (
            "from another network",
            f"The token “{token.name}” may be used from {', '.join(token.networks)} alone, and this call comes from "
            f"{address or 'nowhere'}; {again}.",
        )
    return why_not_owner(token.user, "token")


def why_not_owner(owner: User, what: str) -> tuple[str, str] | None:
    """Why nothing that acts for `owner` is let in, of which `what` is one: for the audit log, and for its bearer."""
    if not owner.is_active:
        return "owner deactivated", f"{owner.username}, who owns this {what}, may no longer log in."
    factor = getattr(owner, "second_factor", None)
    if owner.needs_second_factor and (factor is None or factor.confirmed_at is None):
        return (
            "no second factor",
            f"A role of {owner.username} asks for a second factor, which is not set up yet: log in to FleetOps in a "
            "browser once.",
        )
    return None


def _record_refusal(token: ApiToken, reason: str) -> None:
    key = f"token-refused:{token.pk}:{reason.replace(' ', '-')}"
    try:
        is_first = cache.add(key, 1, timeout=REFUSAL_WRITTEN_SECONDS)
    except RedisError:
        is_first = True  # rather too many rows than none
    if is_first:
        deny("identity.token.refuse", actor=token.user, target=token, reason=reason, prefix=token.prefix)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def read_networks(texts: Iterable[str]) -> list[str]:
    """Networks as they are kept. Raises UserError for what is none."""
    found = []
    for text in texts:
        try:
            found.append(str(ipaddress.ip_network(text.strip(), strict=False)))
        except ValueError:
            raise UserError(f"{text!r} is no network; write one as 10.1.0.0/16, 192.0.2.7 or 2001:db8::/32.") from None
    if len(found) > MOST_NETWORKS:
        raise UserError(f"Give at most {MOST_NETWORKS} networks.")
    return sorted(set(found))


def is_within(address: str, networks: list[str]) -> bool:
    """Whether an address lies in one of the networks; in none of none: anywhere."""
    if not networks:
        return True
    try:
        its = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(its, ipaddress.IPv6Address) and its.ipv4_mapped:
        its = its.ipv4_mapped
    return any(its in ipaddress.ip_network(network) for network in networks)
