"""Approvals that a person holds already, for pages that say what they may do.

Grants are of a room above, which registers itself; whoever does the deed asks for them there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from django.utils.module_loading import import_string

from fleetops.targets import TargetFacts

if TYPE_CHECKING:
    from fleetops.identity.models import User

Place = tuple[str, str, str]  # account, region, instance


class Held(Protocol):
    """What `user` holds for a plain shell on these: how many approved it, and the reason that was given."""

    def __call__(self, user: User, targets: Sequence[TargetFacts]) -> Mapping[Place, tuple[int, str]]: ...


_registered: list[str] = []


def register(path: str) -> None:
    """Name the function that answers, "module.function"; for an apps.py, where no model can be imported yet."""
    _registered[:] = [path]


def held(user: User, targets: Sequence[TargetFacts]) -> Mapping[Place, tuple[int, str]]:
    if not targets or not _registered:
        return {}
    answer: Held = import_string(_registered[0])
    return answer(user, targets)


def place_of(target: TargetFacts) -> Place:
    return target.account_id, target.region, target.instance_id
