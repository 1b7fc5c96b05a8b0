"""The instances, for the pages of the policy. They are the inventory's, which stands above and registers itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from django.utils.module_loading import import_string

from fleetops.targets import Expression, TargetFacts

if TYPE_CHECKING:
    from fleetops.identity.models import User


@dataclass(frozen=True, slots=True)
class Found:
    """One instance that a person may have meant."""

    facts: TargetFacts
    url: str
    key: str  # what finds this one and no other: an AWS id may stand for several


class Fleet(Protocol):
    """What is asked of the inventory. Only instances that `user` may see."""

    def find(self, text: str, user: User) -> list[Found]:
        """The instance of this key, else those of exactly this id or name, else with it in them; at most eight."""
        ...

    def count(self, expression: Expression, user: User) -> int:
        """How many the expression selects at this moment."""
        ...


_registered: list[str] = []


def register(path: str) -> None:
    """Name the class that answers, "module.Class". For the inventory's apps.py, where no model can be imported yet."""
    _registered[:] = [path]


def _fleet() -> Fleet:
    made: Fleet = import_string(_registered[0])()
    return made


def find(text: str, user: User) -> list[Found]:
    return _fleet().find(text, user)


def count(expression: Expression, user: User) -> int:
    return _fleet().count(expression, user)
