"""Commands that a room above makes, for one step of something larger: the run of a document in waves.

Nobody drafts them and they have no pace of their own: what may go now has been decided already. They are made in the
transaction that says so, and from there on live as every command does: the policy and the calendars are asked again at
each sending, for the person who started the whole, and nothing is sent twice.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import transaction

from fleetops.identity.models import User
from fleetops.inventory.models import Instance
from fleetops.library.models import Document
from fleetops.transitions import LostRace, move

from .models import RUN_PERMISSION, Bound, Command, Invocation
from .services import withdraw
from .states import COMMAND_MOVES, CommandState, DispatchState, InvocationState

ANY_VERSION = "$DEFAULT"  # as SendCommand takes it


@dataclass(frozen=True, slots=True)
class Order:
    """What is run, for whom, and by which leave."""

    document_name: str
    origin: str  # "rollouts:<id of the run>"
    origin_name: str  # as people read it
    actor: User | None
    actor_name: str
    document_version: str = ""
    parameters: Mapping[str, Sequence[str]] = field(default_factory=dict)
    timeout_seconds: int = 3600
    deed: str = "run_document"
    permission: str = RUN_PERMISSION
    bound_by: str = Bound.CALENDARS
    reason: str = ""
    source_address: str = ""
    mfa_at: datetime | None = None


def versions(name: str, version: str, places: Collection[tuple[Any, Any]]) -> dict[tuple[Any, Any], str]:
    """By account and region, the number of the version that is sent there; without those that have no such document."""
    found = Document.objects.runnable().filter(
        name=name, account__in={account for account, _ in places}, region__in={region for _, region in places}
    )
    return {
        (each.account_id, each.region_id): version or each.default_version or ANY_VERSION
        for each in found.only("account", "region", "default_version")
    }


def place(order: Order, instances: Sequence[Instance], version: str, *, now: datetime) -> dict[Any, Invocation]:
    """Make a command of `order` on `instances`; by instance its row of it. In the caller's transaction.

    `version` is the number that all of their regions have. It goes as soon as a worker looks.
    """
    command = Command.objects.create(
        state=CommandState.DRAFT,
        document_name=order.document_name,
        document_version=order.document_version,
        parameters={name: list(texts) for name, texts in order.parameters.items()},
        targets_text=order.origin_name[:4000],
        reason=order.reason,
        timeout_seconds=order.timeout_seconds,
        actor=order.actor,
        actor_name=order.actor_name,
        source_address=order.source_address,
        mfa_at=order.mfa_at,
        origin=order.origin,
        origin_name=order.origin_name[:128],
        deed=order.deed,
        permission=order.permission,
        bound_by=order.bound_by,
        created_at=now,
    )
    rows = Invocation.objects.bulk_create(
        (
            Invocation(
                command=command,
                instance_row=each,
                account_id=each.account_id,
                region_id=each.region_id,
                instance_id=each.instance_id,
                instance_name=str(each),
                document_version=version,
                state=InvocationState.PLANNED,
            )
            for each in instances
        ),
        batch_size=500,
    )
    move(command, CommandState.RUNNING, COMMAND_MOVES, started_at=now, due_at=now)
    return dict(zip([each.pk for each in instances], rows, strict=True))


def recall(commands: Any, words: str, *, now: datetime) -> None:
    """Of these commands send nothing more that has not gone yet. In the caller's transaction.

    What AWS may have stays as it is: see `was_never_sent`.
    """
    # In one order, since two who hold what the other wants would wait for ever.
    for command in commands.filter(state=CommandState.RUNNING).order_by("pk").select_for_update():
        waiting = command.invocations.filter(state=InvocationState.PLANNED)
        if waiting.exists():
            unsent = command.dispatches.filter(state=DispatchState.PLANNED)
            withdraw(command, unsent, InvocationState.CANCELLED, words, now=now)
            Command.objects.filter(pk=command.pk).update(end_reason=words[:256], due_at=now)


def call_off(commands: Any, words: str, *, by: str, now: datetime) -> int:
    """Cancel these commands, at AWS too; how many. What an agent runs already may go on to its end. Likewise."""
    count = 0
    for command in commands.filter(state=CommandState.RUNNING).order_by("pk").select_for_update():
        unsent = command.dispatches.filter(state=DispatchState.PLANNED)
        try:
            with transaction.atomic():
                move(
                    command,
                    CommandState.CANCELLING,
                    COMMAND_MOVES,
                    cancelled_by=by[:150],
                    end_reason=words[:256],
                    due_at=now,
                )
        except LostRace:
            continue
        withdraw(command, unsent, InvocationState.CANCELLED, words, now=now)
        command.dispatches.filter(state=DispatchState.SENT).update(due_at=now)
        count += 1
    return count


def was_never_sent(invocation: Invocation) -> bool:
    """Whether it was called back, or held by a calendar, before AWS had it. Load `dispatch` with it."""
    dispatch = invocation.dispatch
    if invocation.state == InvocationState.SKIPPED:
        return invocation.is_held
    is_unsent = dispatch is None or dispatch.state == DispatchState.CANCELLED
    return invocation.state == InvocationState.CANCELLED and is_unsent


def key_of(parameters: Mapping[str, Sequence[str]]) -> str:
    """Tells whether two sets of parameters are the same."""
    return json.dumps({name: list(texts) for name, texts in parameters.items()}, sort_keys=True)
