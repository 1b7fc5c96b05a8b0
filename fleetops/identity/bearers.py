"""What API tokens and access keys have in common: an end, networks, an owner to whom they are bound, a last use."""

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.core.cache import cache
from django.db.models import Q
from redis.exceptions import RedisError

from fleetops.audit.record import deny, record
from fleetops.clock import now
from fleetops.errors import UserError

from .models import Bearer, User

USE_WRITTEN_EVERY = timedelta(minutes=1)
MOST_NETWORKS = 20
# A program that goes on with one that no longer holds asks each second; one row in this many seconds tells of it.
REFUSAL_WRITTEN_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Sort:
    """What differs between the two in words and in the audit log."""

    model: type[Bearer]
    noun: str  # "token"
    called: str  # with which a refusal names it: "access key"
    action: str  # "identity.token": with .revoke and .refuse behind it
    most: int  # usable ones of one user
    again: str  # how to come by another
    named: Callable[[Any], dict[str, str]]  # how the audit log knows one


def checked(sort: Sort, name: str, expires_at: datetime) -> str:
    """The name of a new one, on one line. Raises UserError for a name or an end that cannot be."""
    name = " ".join(name.split())
    if not name or len(name) > 64:
        raise UserError(f"Give the {sort.noun} a name of at most 64 characters that says what it is for.")
    moment = now()
    if expires_at <= moment:
        raise UserError(f"The {sort.noun} would have ended already; choose a later end.")
    if expires_at > moment + timedelta(days=settings.TOKEN_LONGEST_DAYS, minutes=1):
        raise UserError(f"A {sort.noun} lasts at most {settings.TOKEN_LONGEST_DAYS} days; choose an earlier end.")
    return name


def take_place(sort: Sort, owner: User) -> None:
    """See to it, in the caller's transaction, that `owner` has room for one more. Raises UserError."""
    User.objects.select_for_update().get(pk=owner.pk)  # so that two at once do not both take the last place
    if sort.model.objects.filter(user=owner).usable().count() >= sort.most:
        raise UserError(f"There are {sort.most} {sort.called}s already; revoke one that is no longer used.")


def end(sort: Sort, bearer: Bearer, *, actor: User) -> bool:
    """Revoke it, in the caller's transaction; False if it was revoked already."""
    standing = sort.model.objects.filter(pk=bearer.pk, revoked_at=None)
    if not standing.update(revoked_at=now(), revoked_by=actor.username):
        return False
    record(f"{sort.action}.revoke", actor=actor, target=bearer, owner=bearer.user.username, **sort.named(bearer))
    return True


def note_use(sort: Sort, bearer: Bearer, address: str) -> None:
    """Write down that it was used, to the minute."""
    moment = now()
    if bearer.last_used_at is None or bearer.last_used_at < moment - USE_WRITTEN_EVERY:
        stale = Q(last_used_at=None) | Q(last_used_at__lt=moment - USE_WRITTEN_EVERY)
        sort.model.objects.filter(stale, pk=bearer.pk).update(last_used_at=moment, last_used_address=address[:64])


def why_not(sort: Sort, bearer: Bearer, address: str) -> tuple[str, str] | None:
    """Why it does not hold: for the audit log, and for its bearer."""
    called = f"The {sort.called} “{bearer.name}”"
    if bearer.revoked_at is not None:
        return "revoked", f"{called} was revoked on {bearer.revoked_at:%Y-%m-%d %H:%M} UTC; {sort.again}."
    if bearer.expires_at <= now():
        return "expired", f"{called} expired on {bearer.expires_at:%Y-%m-%d %H:%M} UTC; {sort.again}."
    if not is_within(address, bearer.networks):
        return (
            "from another network",
            f"{called} may be used from {', '.join(bearer.networks)} alone, and this call comes from "
            f"{address or 'nowhere'}; {sort.again}.",
        )
    owner = bearer.user
    if not owner.is_active:
        return "owner deactivated", f"{owner.username}, who owns this {sort.called}, may no longer log in."
    factor = getattr(owner, "second_factor", None)
    if owner.needs_second_factor and (factor is None or factor.confirmed_at is None):
        return (
            "no second factor",
            f"A role of {owner.username} asks for a second factor, which is not set up yet: log in to FleetOps in a "
            "browser once.",
        )
    return None


def record_refusal(sort: Sort, bearer: Bearer, reason: str) -> None:
    """Write down that it was turned away, once a minute for each reason."""
    name = f"{sort.noun}-refused:{bearer.pk}:{reason.replace(' ', '-')}"
    try:
        is_first = cache.add(name, 1, timeout=REFUSAL_WRITTEN_SECONDS)
    except RedisError:
        is_first = True  # rather too many rows than none
    if is_first:
        deny(f"{sort.action}.refuse", actor=bearer.user, target=bearer, reason=reason, **sort.named(bearer))


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
