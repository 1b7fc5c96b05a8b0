"""Which baselines a list shows, on its page and over the API."""

import uuid
from collections.abc import Mapping

from django.db.models import Q

from .models import PatchBaselineQuerySet

MOST_WORDS = 8
FILTERS = ("q", "owner", "system", "account", "region", "only")


def id_of(text: str) -> uuid.UUID | None:
    """The id that a form or an address names; None for what is none."""
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


def filtered(found: PatchBaselineQuerySet, asked: Mapping[str, str]) -> PatchBaselineQuerySet:
    """Those of `found` that have the words, and are whose, for what and where it was asked for."""
    for word in asked["q"].split()[:MOST_WORDS]:
        found = found.filter(
            Q(name__icontains=word) | Q(description__icontains=word) | Q(groups__name__icontains=word)
        ).distinct()
    if asked["owner"] in {"own", "aws"}:
        found = found.filter(owner="Self" if asked["owner"] == "own" else "AWS")
    if asked["system"]:
        found = found.filter(operating_system=asked["system"])
    if asked["account"]:
        found = found.filter(account__account_id=asked["account"])
    if asked["region"]:
        found = found.filter(region__name=asked["region"])
    if asked["only"] == "drifted":
        found = found.drifted()
    elif asked["only"] == "default":
        found = found.filter(is_default=True)
    return found
