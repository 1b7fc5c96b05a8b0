"""Choosing people and groups of a rule where there are thousands: what is chosen, and what a search finds."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from django.contrib.auth.models import Group
from django.db.models import Q, QuerySet

from fleetops.identity.models import User
from fleetops.identity.roles import ROLE_TEXTS

from .forms import group_title

MOST_FOUND = 12  # shown at once; whoever looks for another writes more of its name
MOST_WORDS = 5
MOST_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class Choice:
    """One that may be chosen."""

    key: str
    name: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Pick:
    """One field of the form: the chosen ones, and the first of those that `text` finds besides."""

    name: str  # of the field
    title: str
    none: str
    hint: str
    text: str
    chosen: list[Choice]
    found: list[Choice]
    has_more: bool


def users(text: str, chosen: Collection[str] = ()) -> Pick:
    """Two queries."""
    found = User.objects.order_by("username")
    for word in _words(text):
        found = found.filter(
            Q(username__icontains=word)
            | Q(first_name__icontains=word)
            | Q(last_name__icontains=word)
            | Q(email__icontains=word)
        )
    keys = [key for key in chosen if _is_uuid(key)]
    return _pick("users", "People", "Nobody is chosen by name.", "Name or e-mail", text, User.objects, found, keys)


def groups(text: str, chosen: Collection[str] = ()) -> Pick:
    """Two queries."""
    found = Group.objects.order_by("name")
    for word in _words(text):
        titled = [name for name, (title, _) in ROLE_TEXTS.items() if word.lower() in title.lower()]
        found = found.filter(Q(name__icontains=word) | Q(name__in=titled))
    keys = [key for key in chosen if key.isascii() and key.isdigit() and len(key) < 10]
    return _pick("groups", "Groups", "No group is chosen.", "Name of a group", text, Group.objects, found, keys)


PICKS = {"groups": groups, "users": users}


def is_search(posted) -> bool:
    """Whether a form was sent to look for somebody: by the button, or with words that nobody has looked for yet."""
    looked = [(posted.get(f"find_{name}", ""), posted.get(f"found_{name}", "")) for name in PICKS]
    return "find" in posted or any(words_of(text) != words_of(found) for text, found in looked)


def words_of(text: str) -> str:
    return text.replace("\x00", "").strip()[:MOST_CHARACTERS]


def _pick(name: str, title: str, none: str, hint: str, text: str, every, found: QuerySet, keys: list[str]) -> Pick:
    chosen = list(every.filter(pk__in=keys).order_by("username" if name == "users" else "name")) if keys else []
    rows = list(found.exclude(pk__in=[row.pk for row in chosen])[: MOST_FOUND + 1])
    shown = [_choice(row) for row in rows[:MOST_FOUND]]
    return Pick(
        name, title, none, hint, words_of(text), [_choice(row) for row in chosen], shown, len(rows) > MOST_FOUND
    )


def _choice(row: User | Group) -> Choice:
    if isinstance(row, Group):
        return Choice(str(row.pk), group_title(row))
    notes = [row.get_full_name(), "" if row.is_active else "may not log in"]
    return Choice(str(row.pk), row.username, ", ".join(filter(None, notes)))


def _words(text: str) -> list[str]:
    return words_of(text).split()[:MOST_WORDS]


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
