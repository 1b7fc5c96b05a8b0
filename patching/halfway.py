"""Changes of which AWS took a part and refused the rest for an hour: a person goes on with them, or takes them back.

Either is a change like any other, with its own row, audit event and healing; the old row stays as it ended.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db.models import Q, QuerySet

from fleetops.errors import UserError
from fleetops.identity.models import User

from .content import Content
from .models import OWN, PatchBaseline, Write
from .states import Deed, WriteState
from .writing import begin

MOST_SHOWN = 20
HALVES = (Deed.CREATE, Deed.UPDATE, Deed.REGISTER)  # the deeds that take more than one call


def pending(rows: QuerySet[Write]) -> list[Write]:
    """Of these changes those that stand half way, the newest first, MOST_SHOWN at most."""
    half = rows.filter(state=WriteState.REFUSED, deed__in=HALVES).exclude(changed_at=None)
    found = list(half.select_related("region__account", "baseline").order_by("-pk")[: MOST_SHOWN * 2])
    over = settled(found)
    return [each for each in found if each.pk not in over][:MOST_SHOWN]


def settled(rows: Iterable[Write]) -> set[Any]:
    """The keys of those that somebody has had gone on with, or taken back: it is done, or under way. One query."""
    by_text = {str(each.pk): each.pk for each in rows}
    if not by_text:
        return set()
    # One that stands half way itself is the one to go on with.
    counts = Q(state__in=(WriteState.OPEN, WriteState.DONE)) | Q(changed_at__isnull=False)
    later = Write.objects.filter(counts, argument__settles__in=list(by_text))
    return {by_text[text] for text in later.values_list("argument__settles", flat=True)}


def resume(write: Write, *, actor: User) -> Write:
    """Have the rest done; workers do. Raises UserError."""
    _require_half(write)
    argument = {**write.argument, "settles": str(write.pk)}
    deed, baseline = Deed(write.deed), write.baseline
    if deed == Deed.CREATE and (made := _made(write)) is not None:
        # The mirror has met it: what is left is to have it down as ours.
        said = Content.of_aws(made.operating_system, write.argument["content"])
        argument = {"content": said.to_aws(), "before": said.digest, "settles": str(write.pk)}
        deed, baseline = Deed.UPDATE, made
    return _begin(write, deed, write.name, argument, baseline, actor)


def roll_back(write: Write, *, actor: User) -> Write:
    """Have things put back as they were before; workers do. Raises UserError."""
    _require_half(write)
    settles = {"settles": str(write.pk)}
    if write.deed == Deed.CREATE:
        system = write.argument["operating_system"]
        said = Content.of_aws(system, write.argument["content"])
        baseline, _ = PatchBaseline.objects.get_or_create(
            account=write.region.account,
            region=write.region,
            baseline_id=write.argument["baseline_id"],
            defaults={"name": write.name, "operating_system": system, "owner": OWN},
        )
        return _begin(write, Deed.DELETE, write.name, {"before": said.digest, **settles}, baseline, actor)
    if write.deed == Deed.UPDATE:
        before = next(
            (each.said for each in write.baseline.versions.all() if each.said.digest == write.argument["before"]), None
        )
        if before is None:
            raise UserError(f"What {write.baseline} said before is not known. Change it by hand.")
        now = Content.of_aws(write.baseline.operating_system, write.argument["content"])
        argument = {"content": before.to_aws(), "before": now.digest, **settles}
        return _begin(write, Deed.UPDATE, before.name, argument, write.baseline, actor)
    old = PatchBaseline.objects.present().filter(region=write.region, baseline_id=write.argument["from"]).first()
    if old is None:
        raise UserError(f"The baseline that {write.name} had before is gone. Give the group another one.")
    argument = {"from": write.baseline.baseline_id, **settles}
    return _begin(write, Deed.REGISTER, write.name, argument, old, actor)


def _begin(
    write: Write, deed: Deed, name: str, argument: dict[str, Any], baseline: PatchBaseline | None, actor: User
) -> Write:
    return begin(
        deed,
        write.region,
        name=name,
        argument=argument,
        actor=actor,
        baseline=baseline,
        batch=write.batch,
        is_claimed=False,
    )


def _require_half(write: Write) -> None:
    if write.state != WriteState.REFUSED or write.changed_at is None or write.deed not in HALVES:
        raise UserError("This change does not stand half way. Load the page again.")
    if settled([write]):
        raise UserError("Somebody has had this gone on with or taken back already. Load the page again.")


def _made(write: Write) -> PatchBaseline | None:
    return (
        PatchBaseline.objects.present()
        .filter(region=write.region, baseline_id=write.argument.get("baseline_id", ""))
        .first()
    )
