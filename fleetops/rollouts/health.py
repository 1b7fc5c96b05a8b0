"""Health documents of gates: on which instances they run, and whether they may; asked at the plan and at the start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fleetops.errors import UserError
from fleetops.identity.models import User
from fleetops.inventory.models import Instance
from fleetops.inventory.selection import select
from fleetops.policy.decide import Context, Deed
from fleetops.runcommand import orders
from fleetops.runcommand import plan as commands
from fleetops.targets import parse

from .assess import ReasonMissing

MOST: Final = 1000  # instances besides the wave's own that one health document runs on


def elsewhere(settings: Mapping[str, Any], actor: User | None) -> list[Instance]:
    """The instances that a gate names besides those of its wave. Raises UserError if they are too many."""
    present = Instance.objects.present().select_related("account", "region")
    seen = present.visible_to(actor) if actor else present.none()
    text = str(settings.get("targets") or "").strip()
    rows = list(select(parse(text, words=True), seen).order_by("name", "instance_id")[: MOST + 1])
    if len(rows) > MOST:
        raise UserError(f"The health document {settings['document']} would run on more than {MOST:,}: select fewer.")
    return rows


def check(
    run: Any, waves: Sequence[tuple[Sequence[Mapping[str, Any]], Sequence[Instance]]], *, actor: User, context: Context
) -> list[Instance]:
    """Whether the health documents of a plan could run, by the gates and members of each wave; their other instances.

    Raises UserError, or assess.ReasonMissing.
    """
    others: list[Instance] = []
    for number, (gates, members) in enumerate(waves, 1):
        for gate in gates:
            if gate["kind"] != "document":
                continue
            what = f"A gate of wave {number}: the health document {gate['document']}"
            rows = list(members)
            if gate.get("targets"):
                rows = elsewhere(gate, actor)
                others += rows
            if not rows:
                raise UserError(f"{what} would run nowhere: “{gate['targets']}” selects no instance.")
            places = {(each.account_id, each.region_id) for each in rows}
            if len(orders.versions(str(gate["document"]), "", places)) < len(places):
                raise UserError(f"{what} is not there in the account and region of each of its targets.")
            answers = commands.decisions(
                actor, rows, str(gate["document"]), context=context, deed=Deed.RUN_DOCUMENT.value
            )
            for each, answer in zip(rows, answers, strict=True):
                if not answer.allowed:
                    if answer.wants_only_a_reason:
                        raise ReasonMissing("A rule of the access policy wants to know why. Say so in a few words.")
                    raise UserError(f"{what} may not be run on {each}. {answer.text}")
    return others
