"""Runbooks that FleetOps brings: put into an account and region, where people and other runbooks run them.

Each is a file of schema 0.3 beside this; its name in AWS is the file's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fleetops.aws.errors import AwsError
from fleetops.clock import now
from fleetops.errors import UserError
from fleetops.identity.models import User
from fleetops.inventory.models import Region
from fleetops.library import services as library
from fleetops.library.models import Document, Shelf

HERE: Final = Path(__file__).parent
NAMES: Final = ("FleetOps-AttachRole", "FleetOps-DetachRole")


@dataclass(frozen=True, slots=True)
class Standing:
    """A blueprint in one region. `state`: missing, there, older (another text is the default there)."""

    name: str
    region: Region
    state: str
    document: Document | None


def text_of(name: str) -> str:
    """Raises UserError for a name that is none of ours."""
    if name not in NAMES:
        raise UserError(f"There is no blueprint {name}; there are {' and '.join(NAMES)}.")
    return (HERE / f"{name}.yaml").read_text()


def standing(regions: list[Region]) -> list[Standing]:
    """Of each blueprint in each region, from what the library knows. Two queries."""
    rows = Document.objects.present().filter(name__in=NAMES, region__in=regions).prefetch_related("versions")
    there = {(row.region_id, row.name): row for row in rows}
    found = []
    for region in regions:
        for name in NAMES:
            row = there.get((region.pk, name))
            found.append(Standing(name, region, _state(row, text_of(name)), row))
    return found


def _state(row: Document | None, text: str) -> str:
    if row is None:
        return "missing"
    default = next((each for each in row.versions.all() if str(each.number) == row.default_version), None)
    if default is None or not default.content:
        return "there"  # not read yet: nothing speaks against it
    return "there" if default.content.strip() == text.strip() else "older"


def put(name: str, region: Region, *, actor: User) -> Document:
    """Have the blueprint there as it is here: made, given another version, or left. Raises what library does."""
    text = text_of(name)
    row = Document.objects.present().filter(region=region, name=name).first()
    if row is None:
        try:
            return library.create(
                region, name=name, text=text, document_type="Automation", document_format="YAML", actor=actor
            )
        except AwsError as error:
            if error.code != "DocumentAlreadyExists":
                raise
        # It was made since the documents of the region were last read.
        shelf, _ = Shelf.objects.get_or_create(region=region)
        library.read_shelf(shelf.pk, now=now())
        row = Document.objects.present().get(region=region, name=name)
    default = library.version(row, row.default_version, actor=actor)
    if default.content.strip() != text.strip():
        library.add_version(row, text=text, document_format="YAML", make_default=True, actor=actor)
    return row
