"""Which instance is meant: by AWS's id, by FleetOps's own, or by a name that one alone has."""

from __future__ import annotations

import re
from uuid import UUID

from fleetops.errors import UserError
from fleetops.identity.models import User
from fleetops.inventory.models import Instance

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_WHERE = re.compile(r"(?P<account>[0-9]{12}):(?P<region>[a-z0-9-]{1,32}):(?P<id>.+)", re.DOTALL)
_TOLD = 5


class NotFound(UserError):
    """No instance that this person may see is meant."""


class Ambiguous(UserError):
    """Several are; the text says how to choose."""


def find(target: str, *, user: User) -> Instance:
    """The one instance that is meant, of those that `user` may see. Raises NotFound, Ambiguous."""
    visible = Instance.objects.visible_to(user).select_related("account", "region")
    if _UUID.fullmatch(target):
        found = list(visible.filter(pk=UUID(target)))
    elif where := _WHERE.fullmatch(target):
        there = visible.filter(account__account_id=where["account"], region__name=where["region"])
        found = _named(there, where["id"])
    else:
        found = _named(visible, target)
    if not found:
        raise NotFound(f"No instance that you may see is called {target[:100]}.")
    if len(found) > 1:
        ways = ", ".join(address_of(each) for each in found[:_TOLD])
        more = f" and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
        raise Ambiguous(
            f"{len(found)} instances are called {target[:100]}. Name one as account:region:id: {ways}{more}."
        )
    return found[0]


def _named(instances, name: str) -> list[Instance]:
    """Those with the id; else those with the name."""
    if "\x00" in name:
        return []
    return list(instances.filter(instance_id=name)[:100]) or list(instances.filter(name=name)[:100])


def address_of(instance: Instance) -> str:
    """The form of its id that no other instance has."""
    return f"{instance.account.account_id}:{instance.region.name}:{instance.instance_id}"
