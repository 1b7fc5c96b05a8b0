"""Changes of baselines and groups, written to AWS: claimed first, ended by whoever learns what came of them.

A row of Write stands in the database before AWS is asked. Whoever dies in between leaves it open, and `heal` takes it
up again: a baseline is made under the row's id as ClientToken, and all else can be sent twice. Before anything is
changed AWS is asked what it says now: where that is not what the person saw, nothing is written over.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Q

from fleetops.audit.models import Outcome
from fleetops.audit.record import record
from fleetops.aws import patching as aws
from fleetops.aws.clients import AccountAccess
from fleetops.aws.errors import AwsError, Unavailable
from fleetops.clock import now as clock_now
from fleetops.clock import uuid7
from fleetops.errors import UserError
from fleetops.identity.models import User
from fleetops.inventory.models import Region
from fleetops.transitions import LostRace, move

from . import mirror
from .content import Content, compare
from .models import OWN, PatchBaseline, PatchGroup, Write
from .states import WRITE_MOVES, Deed, Origin, WriteState

logger = logging.getLogger(__name__)

CHANGE_PERMISSION = "patching.change_patchbaseline"
# Longer than all calls of one change may take.
CLAIM = timedelta(seconds=120)
AGAIN = timedelta(seconds=20)  # after AWS could not be asked
GIVE_UP = timedelta(hours=1)


class Conflict(UserError):
    """AWS says something else than the person saw; nothing was changed."""


class Unfinished(UserError):
    """AWS has changed something, and then an error came; `heal` does the rest."""


@dataclass(frozen=True, slots=True)
class _Call:
    """What a deed needs: where, and as whom."""

    access: AccountAccess
    region: str
    who: dict[str, str]


def begin(
    deed: Deed,
    region: Region,
    *,
    name: str,
    argument: dict[str, Any],
    actor: User,
    baseline: PatchBaseline | None = None,
    batch: uuid.UUID | None = None,
    is_claimed: bool = True,
) -> Write:
    """Put down what is to be written. Not claimed: whoever comes first carries it out.

    Raises UserError if something is being written to that baseline already, or one of that name is there or being made.
    """
    try:
        with transaction.atomic():
            write = Write.objects.create(
                batch=batch or uuid7(),
                region=region,
                baseline=baseline,
                deed=deed,
                name=name,
                argument=argument,
                actor=actor,
                actor_name=actor.username,
                claimed_until=clock_now() + CLAIM if is_claimed else None,
            )
            if deed == Deed.CREATE:
                # The open row keeps others out from here on: whoever came before it is seen.
                _require_new(write)
            return write
    except IntegrityError:
        if deed == Deed.CREATE:
            raise UserError(
                f"A baseline {name} is just being made in {region}. Look at the list of baselines in a minute."
            ) from None
        raise UserError(
            f"Another change of {baseline} is just being written. Load the page again in a minute."
        ) from None


def _require_new(write: Write) -> None:
    """Raises UserError if the place has a baseline of that name and operating system: a second click, mostly."""
    system = write.argument["operating_system"]
    same = PatchBaseline.objects.present().own().filter(region=write.region, name=write.name, operating_system=system)
    if same.exists():
        raise UserError(
            f"There is a baseline {write.name} already in {write.region}. Change that one, or choose another name."
        )


def carry_out(write: Write) -> Write:
    """Ask AWS for a claimed change, and end it. Raises UserError, AwsError: the row then says why too.

    After Unavailable without an answer, and after any error once AWS has changed something, it stays open, and `heal`
    looks again.
    """
    region = write.region
    call = _Call(
        region.account.access(),
        region.name,
        {"session_name": write.actor_name, "source_identity": write.actor_name},
    )
    try:
        finish = _DEEDS[Deed(write.deed)](write, call)
    except Conflict as error:
        _end(write, WriteState.CONFLICT, str(error))
        raise
    except UserError as error:  # AWS's refusals among them
        if write.changed_at is not None:
            text = f"AWS has done it in part, and FleetOps does the rest by itself. What it waits for: {error}"
            _leave_open(write, text)
            raise Unfinished(text) from error
        if isinstance(error, Unavailable) and (error.is_outcome_unknown or _was_tried(write)):
            text = "AWS did not answer. FleetOps looks again by itself whether it was done, and does it if not."
            _leave_open(write, text)
        else:
            _end(write, WriteState.REFUSED, str(error))
        raise
    with transaction.atomic():
        move(write, WriteState.DONE, WRITE_MOVES, ended_at=clock_now(), text="", claimed_until=None)
        finish()
    logger.info("written deed=%s name=%s account=%s region=%s", write.deed, write.name, *write.place)
    return write


def _mark_changed(write: Write, **learnt: str) -> None:
    """AWS has changed something: whatever fails from here on, the row stays open until the rest is done too."""
    write.changed_at = write.changed_at or clock_now()
    write.argument = write.argument | learnt
    Write.objects.filter(pk=write.pk).update(changed_at=write.changed_at, argument=write.argument)


def _leave_open(write: Write, text: str) -> None:
    write.text = text[:1024]
    later = clock_now() + AGAIN
    Write.objects.filter(pk=write.pk, state=WriteState.OPEN).update(text=write.text, claimed_until=later)


def _was_tried(write: Write) -> bool:
    return bool(write.text)


def _end(write: Write, state: WriteState, text: str) -> None:
    try:
        with transaction.atomic():
            move(write, state, WRITE_MOVES, ended_at=clock_now(), text=text[:1024], claimed_until=None)
            account_id, region = write.place
            record(
                ACTIONS[Deed(write.deed)],
                actor=write.actor or write.actor_name,
                target=write.baseline,
                outcome=Outcome.FAILED,
                reason=text,
                account_id=account_id,
                region=region,
                name=write.name,
            )
    except LostRace:
        logger.info("another worker has ended write=%s", write.pk)


ACTIONS = {
    Deed.CREATE: "patching.baseline.create",
    Deed.UPDATE: "patching.baseline.update",
    Deed.DELETE: "patching.baseline.delete",
    Deed.DEFAULT: "patching.baseline.default",
    Deed.REGISTER: "patching.group.register",
    Deed.DEREGISTER: "patching.group.deregister",
}


# --- what each deed asks of AWS; it returns what is then written down, in one transaction with the row's end ---------


def _create(write: Write, call: _Call) -> Callable[[], None]:
    argument = write.argument
    system = argument["operating_system"]
    wanted = Content.of_aws(system, argument["content"])
    baseline_id = argument.get("baseline_id") or aws.create_baseline(
        call.access,
        call.region,
        operating_system=system,
        content=wanted.to_aws(),
        tags=argument.get("tags", {}),
        client_token=str(write.pk),
        **call.who,
    )
    _mark_changed(write, baseline_id=baseline_id)
    told = aws.get_baseline(call.access, call.region, baseline_id=baseline_id, session_name=write.actor_name)

    def finish() -> None:
        row, _ = PatchBaseline.objects.get_or_create(
            account=write.region.account,
            region=write.region,
            baseline_id=baseline_id,
            defaults={"name": wanted.name, "operating_system": system, "owner": OWN, "tags": argument.get("tags", {})},
        )
        mirror.keep(row, told, origin=Origin.OURS, asked_at=clock_now(), actor_name=write.actor_name)
        Write.objects.filter(pk=write.pk).update(baseline=row)
        write.baseline = row
        facts = {"operating_system": system, "after": wanted.lines(), "baseline_id": baseline_id}
        record(ACTIONS[Deed.CREATE], actor=write.actor or write.actor_name, target=row, **facts)

    return finish


def _update(write: Write, call: _Call) -> Callable[[], None]:
    baseline = write.baseline
    wanted = Content.of_aws(baseline.operating_system, write.argument["content"])
    now_said = _said_now(write, call)
    if now_said.digest != wanted.digest:
        _require_unchanged(write, now_said)
        aws.update_baseline(
            call.access, call.region, baseline_id=baseline.baseline_id, content=wanted.to_aws(), **call.who
        )
    _mark_changed(write)
    told = aws.get_baseline(call.access, call.region, baseline_id=baseline.baseline_id, session_name=write.actor_name)

    def finish() -> None:
        before = baseline.said
        mirror.keep(baseline, told, origin=Origin.OURS, asked_at=clock_now(), actor_name=write.actor_name)
        changes = [{"kind": kind, "line": line.strip()} for kind, line in compare(before, baseline.said) if kind]
        facts = {"version": baseline.version, "before": before.lines(), "after": baseline.said.lines()}
        record(ACTIONS[Deed.UPDATE], actor=write.actor or write.actor_name, target=baseline, changes=changes, **facts)

    return finish


def _delete(write: Write, call: _Call) -> Callable[[], None]:
    baseline = write.baseline
    try:
        _require_unchanged(write, _said_now(write, call))
    except AwsError as error:
        if not aws.is_missing(error):
            raise
    aws.delete_baseline(call.access, call.region, baseline_id=baseline.baseline_id, **call.who)

    def finish() -> None:
        PatchBaseline.objects.filter(pk=baseline.pk).update(gone_at=clock_now(), is_default=False)
        baseline.groups.all().delete()
        actor = write.actor or write.actor_name
        record(ACTIONS[Deed.DELETE], actor=actor, target=baseline, before=baseline.said.lines())

    return finish


def _default(write: Write, call: _Call) -> Callable[[], None]:
    baseline = write.baseline
    system, before = baseline.operating_system, write.argument["before"]
    held = aws.default_baseline(call.access, call.region, operating_system=system, session_name=write.actor_name)
    if before and held not in {before, baseline.baseline_id}:
        name = (
            PatchBaseline.objects.filter(region=write.region, baseline_id=held).values_list("name", flat=True).first()
        )
        raise Conflict(
            f"The default of {baseline.get_operating_system_display()} was changed outside FleetOps: it is "
            f"{name or held} now. Nothing was changed; say it again if it is to be {baseline} all the same."
        )
    if held != baseline.baseline_id:
        aws.set_default_baseline(call.access, call.region, baseline_id=baseline.baseline_id, **call.who)

    def finish() -> None:
        same = PatchBaseline.objects.filter(region=write.region, operating_system=system)
        old = same.filter(is_default=True).exclude(pk=baseline.pk).values_list("name", flat=True).first() or ""
        same.exclude(pk=baseline.pk).update(is_default=False)
        same.filter(pk=baseline.pk).update(is_default=True)
        actor = write.actor or write.actor_name
        record(ACTIONS[Deed.DEFAULT], actor=actor, target=baseline, before=old, after=baseline.name)

    return finish


def _register(write: Write, call: _Call) -> Callable[[], None]:
    baseline, group = write.baseline, write.name
    if from_id := write.argument.get("from", ""):  # the group moves: AWS keeps one baseline of a system for it
        aws.deregister_group(call.access, call.region, group=group, baseline_id=from_id, **call.who)
        _mark_changed(write)
    try:
        aws.register_group(call.access, call.region, group=group, baseline_id=baseline.baseline_id, **call.who)
    except AwsError as error:
        if error.code != "AlreadyExistsException" or not _is_registered_elsewhere(write, call):
            raise
        raise Conflict(
            f"The group {group} was given another baseline outside FleetOps. It stays there; load the page of groups "
            "again, and move it from there if that is meant."
        ) from None

    def finish() -> None:
        system = baseline.operating_system
        old = PatchGroup.objects.filter(region=write.region, name=group, operating_system=system).first()
        before = str(old.baseline) if old else ""
        PatchGroup.objects.update_or_create(
            account=write.region.account,
            region=write.region,
            name=group,
            operating_system=system,
            defaults={"baseline": baseline, "read_at": clock_now()},
        )
        actor = write.actor or write.actor_name
        record(ACTIONS[Deed.REGISTER], actor=actor, target=baseline, group=group, before=before, after=baseline.name)

    return finish


def _is_registered_elsewhere(write: Write, call: _Call) -> bool:
    for page in aws.group_pages(call.access, call.region, session_name=write.actor_name):
        for each in page:
            if each.name == write.name and each.operating_system == write.baseline.operating_system:
                return each.baseline_id != write.baseline.baseline_id
    return False


def _deregister(write: Write, call: _Call) -> Callable[[], None]:
    baseline, group = write.baseline, write.name
    aws.deregister_group(call.access, call.region, group=group, baseline_id=baseline.baseline_id, **call.who)

    def finish() -> None:
        PatchGroup.objects.filter(region=write.region, name=group, baseline=baseline).delete()
        actor = write.actor or write.actor_name
        record(ACTIONS[Deed.DEREGISTER], actor=actor, target=baseline, group=group, before=baseline.name, after="")

    return finish


_DEEDS: dict[Deed, Callable[[Write, _Call], Callable[[], None]]] = {
    Deed.CREATE: _create,
    Deed.UPDATE: _update,
    Deed.DELETE: _delete,
    Deed.DEFAULT: _default,
    Deed.REGISTER: _register,
    Deed.DEREGISTER: _deregister,
}


def _said_now(write: Write, call: _Call) -> Content:
    told = aws.get_baseline(
        call.access, call.region, baseline_id=write.baseline.baseline_id, session_name=write.actor_name
    )
    return Content.of_aws(write.baseline.operating_system, told.content)


def _require_unchanged(write: Write, now_said: Content) -> None:
    """Raises Conflict if AWS no longer says what the change was built on."""
    if now_said.digest != write.argument["before"]:
        # The row is read anew so that the page shows what differs: the open write kept the mirror off it.
        PatchBaseline.objects.filter(pk=write.baseline_id).update(read_at=None)
        raise Conflict(
            f"{write.baseline} was changed outside FleetOps since you opened it. Nothing was written: its page shows "
            "what differs, to be accepted or changed back."
        )


# --- taking up again -------------------------------------------------------------------------------------------------


def claim(write_id: uuid.UUID, *, now: datetime) -> Write | None:
    """Take one open change that nobody carries out; None if there is none any more."""
    free = Q(claimed_until=None) | Q(claimed_until__lte=now)
    if not Write.objects.filter(free, pk=write_id, state=WriteState.OPEN).update(claimed_until=now + CLAIM):
        return None
    return Write.objects.select_related("region__account", "baseline__account", "baseline__region", "actor").get(
        pk=write_id
    )


def due(*, now: datetime) -> list[uuid.UUID]:
    """Open changes that nobody carries out: their worker has died, or AWS has not answered."""
    free = Q(claimed_until=None) | Q(claimed_until__lte=now)
    return list(Write.objects.filter(free, state=WriteState.OPEN).values_list("pk", flat=True)[:200])


def heal(write_id: uuid.UUID, *, now: datetime) -> None:
    """Carry out an open change that nobody does; its author may still do it, and it is not too old."""
    write = claim(write_id, now=now)
    if write is None:
        return
    actor = write.actor
    if actor is None or not actor.is_active or not actor.has_perm(CHANGE_PERMISSION):
        _end(write, WriteState.REFUSED, f"{write.actor_name} may no longer do this. It may have been done before.")
        return
    if now - write.started_at > GIVE_UP:
        text = "AWS could not be asked for an hour. It may have been done: what AWS says is shown when it answers."
        if write.changed_at is not None:
            text = "AWS has done it in part; the rest failed for an hour. What AWS says is shown when it answers."
        _end(write, WriteState.REFUSED, text)
        return
    try:
        carry_out(write)
    except UserError as error:
        logger.warning("not written write=%s error=%s", write.pk, error)
    except LostRace:
        logger.info("another worker has ended write=%s", write.pk)
