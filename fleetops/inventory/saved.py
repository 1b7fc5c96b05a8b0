"""Filters of the fleet under a name: saving, changing, deleting, beginning with one. Each is audited but the last."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import IntegrityError, transaction

from fleetops.audit.record import record
from fleetops.errors import UserError
from fleetops.identity.models import User

from .models import FilterStar, SavedFilter

MOST_FILTERS = 100  # of one owner; a menu of more is no menu


def save_filter(*, name: str, text: str, is_shared: bool, actor: User) -> SavedFilter:
    """Raises UserError if `actor` has one of this name, or too many."""
    if actor.saved_filters.count() >= MOST_FILTERS:
        raise UserError(
            f"You have {MOST_FILTERS} saved filters, which is the most. Delete one that you no longer need."
        )
    with _name_once(name), transaction.atomic():
        made = SavedFilter.objects.create(owner=actor, name=name, text=text, is_shared=is_shared)
        record("inventory.filter.save", actor=actor, target=made, text=text, shared=is_shared)
    return made


def change_filter(found: SavedFilter, *, name: str, text: str, is_shared: bool, actor: User) -> None:
    """Raises UserError if its owner has another of this name."""
    facts = {"name": name, "text": text, "is_shared": is_shared}
    before = {key: getattr(found, key) for key in facts}
    if before == facts:
        return
    for key, value in facts.items():
        setattr(found, key, value)
    with _name_once(name), transaction.atomic():
        found.save(update_fields=list(facts))
        if not is_shared:
            found.stars.exclude(user=found.owner_id).delete()
        record("inventory.filter.change", actor=actor, target=found, before=before, after=facts)


def delete_filter(found: SavedFilter, *, actor: User) -> None:
    with transaction.atomic():
        record("inventory.filter.delete", actor=actor, target=found, text=found.text, owner=str(found.owner))
        found.delete()


def star_filter(found: SavedFilter, *, user: User) -> bool:
    """Let the fleet open with `found` for `user`, or no longer if it did; says which."""
    removed, _ = FilterStar.objects.filter(user=user, filter=found).delete()
    if not removed:
        FilterStar.objects.update_or_create(user=user, defaults={"filter": found})
    return not removed


@contextmanager
def _name_once(name: str) -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise UserError(f"There is a saved filter named {name} already. Choose another name.") from None
