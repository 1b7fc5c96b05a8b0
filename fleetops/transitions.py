"""Moving a row from one state to the next: one table of moves, one way to move."""

from collections.abc import Mapping, Set
from typing import Any

from django.db import models


class IllegalMove(Exception):
    """No such move stands in the table: a bug of the caller."""


class LostRace(Exception):
    """Somebody else moved the row first."""


def move(row: models.Model, to: str, moves: Mapping[Any, Set[Any]], **changes: Any) -> None:
    """Set `row.state` to `to`, and `changes` with it, if the database still holds the state that we read.

    The only writer of a `state`. Of two workers one moves the row, the other gets LostRace and has changed nothing.

    Raises IllegalMove if `moves` has no such move, LostRace if the row has moved on.
    """
    was = row.state
    if to not in moves.get(was, frozenset()):
        raise IllegalMove(f"{row._meta.label} cannot move from {was!r} to {to!r}")
    changed = type(row)._default_manager.filter(pk=row.pk, state=was).update(state=to, **changes)
    if not changed:
        raise LostRace(f"{row._meta.label} {row.pk} is no longer {was!r}")
    row.state = to
    for name, value in changes.items():
        setattr(row, name, value)


def move_all(rows: models.QuerySet[Any], to: str, moves: Mapping[Any, Set[Any]], **changes: Any) -> int:
    """Set `state` of those of `rows` that may move to `to`, and `changes` with it; how many did. One query."""
    may = [state for state, ends in moves.items() if to in ends]
    return rows.filter(state__in=may).update(state=to, **changes)
