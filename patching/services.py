"""What pages and routes ask for: baselines made, changed, copied, accepted and deleted; defaults and groups."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from django.db import transaction

from fleetops.audit.record import record
from fleetops.clock import now as clock_now
from fleetops.clock import uuid7
from fleetops.errors import UserError
from fleetops.identity.models import User
from fleetops.inventory.models import Region
from fleetops.transitions import move

from .content import Content
from .models import PatchBaseline, PatchGroup
from .states import WRITE_MOVES, Deed, WriteState
from .writing import Conflict, begin, carry_out

MOST_PLACES = 100  # of one click


def create(region: Region, content: Content, *, tags: dict[str, str] | None = None, actor: User) -> PatchBaseline:
    """Make a baseline in AWS. Raises UserError, AwsError."""
    argument = {"operating_system": content.operating_system, "content": content.to_aws(), "tags": tags or {}}
    return carry_out(begin(Deed.CREATE, region, name=content.name, argument=argument, actor=actor)).baseline


def update(baseline: PatchBaseline, content: Content, *, based_on: int, actor: User) -> None:
    """Have a baseline say `content`, written over version `based_on`. Raises Conflict, UserError, AwsError."""
    require_own(baseline)
    if baseline.version != based_on:
        raise Conflict(
            f"{baseline} has version {baseline.version} by now, and this was written over version {based_on}. Compare "
            "the two, then write it again."
        )
    if content.digest == baseline.said.digest:
        raise UserError("Nothing is changed.")
    argument = {"content": content.to_aws(), "before": baseline.said.digest}
    carry_out(begin(Deed.UPDATE, baseline.region, name=content.name, argument=argument, actor=actor, baseline=baseline))


def accept(baseline: PatchBaseline, *, number: int, actor: User) -> None:
    """Take what somebody outside FleetOps has changed as it is; `number` is the version that the person saw."""
    with transaction.atomic():
        row = PatchBaseline.objects.select_for_update().get(pk=baseline.pk)
        if not row.is_drifted:
            return
        if row.version != number:
            raise Conflict(f"{row} was changed once more: it has version {row.version} now. Look at it first.")
        before = row.kept_version
        row.kept_version, row.drifted_at = row.version, None
        row.save(update_fields=["kept_version", "drifted_at"])
        record("patching.baseline.accept", actor=actor, target=row, before=before, after=row.version)


def delete(baseline: PatchBaseline, *, actor: User) -> None:
    """Delete a baseline for good. Raises UserError, AwsError."""
    require_own(baseline)
    if baseline.is_default:
        raise UserError(f"{baseline} is the default. Make another one the default first.")
    if names := list(baseline.groups.values_list("name", flat=True)[:6]):
        raise UserError(f"{baseline} is registered for {', '.join(names)}. Move these groups first.")
    argument = {"before": baseline.said.digest}
    carry_out(
        begin(Deed.DELETE, baseline.region, name=baseline.name, argument=argument, actor=actor, baseline=baseline)
    )


def make_default(baseline: PatchBaseline, *, actor: User) -> None:
    """Make a baseline, AWS's or the account's own, the default of its operating system in its region."""
    require_present(baseline)
    same = PatchBaseline.objects.filter(region=baseline.region, operating_system=baseline.operating_system)
    before = same.filter(is_default=True).values_list("baseline_id", flat=True).first() or ""
    argument = {"before": before}
    carry_out(
        begin(Deed.DEFAULT, baseline.region, name=baseline.name, argument=argument, actor=actor, baseline=baseline)
    )


def register(baseline: PatchBaseline, group: str, *, actor: User) -> None:
    """Register a patch group for a baseline; from another one it moves. Raises UserError, AwsError."""
    require_present(baseline)
    group = check_group_name(group)
    held = PatchGroup.objects.filter(
        region=baseline.region, name=group, operating_system=baseline.operating_system
    ).select_related("baseline")
    old = held.first()
    if old is not None and old.baseline_id == baseline.pk:
        raise UserError(f"{group} has {baseline} already.")
    argument = {"from": old.baseline.baseline_id if old else ""}
    carry_out(begin(Deed.REGISTER, baseline.region, name=group, argument=argument, actor=actor, baseline=baseline))


def deregister(baseline: PatchBaseline, group: str, *, actor: User) -> None:
    """Take a group from a baseline: its nodes then have the default one. Raises UserError, AwsError."""
    if not baseline.groups.filter(name=group).exists():
        raise UserError(f"{group} is not registered for {baseline}; somebody has taken it away.")
    carry_out(begin(Deed.DEREGISTER, baseline.region, name=group, argument={}, actor=actor, baseline=baseline))


def copy(content: Content, regions: Sequence[Region], *, tags: dict[str, str] | None = None, actor: User) -> uuid.UUID:
    """Have each of several places say `content`; the batch, whose rows tell what becomes of each.

    Where the account has a baseline of that name and operating system already, that one is changed, else one is made.
    Nothing is asked of AWS yet: workers do. Raises UserError.
    """
    if not regions:
        raise UserError("Choose at least one place.")
    if len(regions) > MOST_PLACES:
        raise UserError(f"Choose {MOST_PLACES} places at most.")
    batch = uuid7()
    there = (
        PatchBaseline.objects.present()
        .own()
        .filter(region__in=regions, name=content.name, operating_system=content.operating_system)
    )
    by_region = {row.region_id: row for row in there.select_related("account", "region")}
    with transaction.atomic():
        # In one order, whoever asks: of two clicks on the same places one waits, and neither waits for the other.
        for region in sorted(regions, key=lambda each: each.pk):
            row = by_region.get(region.pk)
            common: dict[str, Any] = {"name": content.name, "actor": actor, "batch": batch, "is_claimed": False}
            if row is None:
                argument = {
                    "operating_system": content.operating_system,
                    "content": content.to_aws(),
                    "tags": tags or {},
                }
                begin(Deed.CREATE, region, argument=argument, **common)
            elif row.said.digest != content.digest:
                argument = {"content": content.to_aws(), "before": row.said.digest}
                begin(Deed.UPDATE, region, argument=argument, baseline=row, **common)
            else:
                ended = begin(Deed.UPDATE, region, argument={}, baseline=row, **common)
                move(ended, WriteState.DONE, WRITE_MOVES, ended_at=clock_now(), text="It says so already.")
    return batch


def check_group_name(name: str) -> str:
    """As AWS takes it, or UserError."""
    name = name.strip()
    if not 1 <= len(name) <= 256 or not all(char.isalnum() or char.isspace() or char in "_.:/=+-@" for char in name):
        raise UserError("A patch group's name has 1 to 256 letters, digits, spaces and _ . : / = + - @.")
    return name


def require_present(baseline: PatchBaseline) -> None:
    if baseline.gone_at is not None:
        raise UserError(f"AWS lists {baseline} no more.")


def require_own(baseline: PatchBaseline) -> None:
    require_present(baseline)
    if not baseline.is_own:
        raise UserError(f"{baseline} is AWS's own, so it cannot be changed. Copy it under another name.")
