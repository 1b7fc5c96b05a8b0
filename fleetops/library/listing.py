"""Which documents a list shows, on its page and over the API."""

from collections.abc import Mapping

from django.db.models import F, Q

from .models import AMAZON, DocumentQuerySet

MOST_WORDS = 8
FILTERS = ("q", "owner", "type", "account", "region")


def filtered(found: DocumentQuerySet, asked: Mapping[str, str]) -> DocumentQuerySet:
    """Those of `found` that have the words, and are whose, of what kind and where it was asked for."""
    for word in asked["q"].split()[:MOST_WORDS]:
        found = found.filter(Q(name__icontains=word) | Q(description__icontains=word) | Q(display_name__icontains=word))
    if asked["owner"] == "own":
        found = found.own()
    elif asked["owner"] == "aws":
        found = found.filter(owner=AMAZON)
    elif asked["owner"] == "shared":
        found = found.exclude(owner=AMAZON).exclude(owner=F("account__account_id"))
    if asked["type"]:
        found = found.filter(document_type=asked["type"])
    if asked["account"]:
        found = found.filter(account__account_id=asked["account"])
    if asked["region"]:
        found = found.filter(region__name=asked["region"])
    return found
