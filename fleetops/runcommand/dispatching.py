"""A command, one step further: send what may go now, find what may have gone, follow what went, and end.

`advance` may be called at any time, any number of times, by several workers at once. What is left to do stands in the
rows: a lost message costs seconds. Nothing runs twice, by this:

  planned    → sending is committed, by one worker, before AWS is called. It is called once.
  sending    A worker that dies leaves it. It lives for 100 s at most, so after STALE it is uncertain.
  uncertain  It is looked for in ListCommands by its comment. Found: sent. Not found for LOOKED_FOR: planned again.

So a dispatch is never sent twice while AWS shows the first one. What AWS takes longer than that to show, it may get
again; nothing that it offers would tell.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import transaction
from django.db.models import Min

from fleetops.audit.record import deny
from fleetops.aws import commands as aws
from fleetops.aws.commands import MOST_TARGETS, InvocationRecord
from fleetops.aws.errors import AwsError, Unavailable
from fleetops.clock import monotonic
from fleetops.clock import now as clock_now
from fleetops.inventory.models import Region
from fleetops.transitions import LostRace, move, move_all

from . import plan
from .models import Command, Dispatch, Invocation
from .services import withdraw
from .states import (
    COMMAND_MOVES,
    DISPATCH_MOVES,
    IN_FLIGHT,
    INVOCATION_MOVES,
    OF_AWS,
    OPEN,
    UNWELL,
    CommandState,
    DispatchState,
    InvocationState,
)

logger = logging.getLogger(__name__)

# As whom the worker looks; what it sends and cancels it does as the person.
SESSION_NAME: Final = "fleetops-runcommand"
WORK_SECONDS: Final = 20.0  # of one task; what is left is done by the next
CLAIM: Final = timedelta(seconds=30)  # of a command by the task that beat asks for
GATHER: Final = timedelta(seconds=3)  # freed places are gathered for so long into one call (decision 13)
# A task may live for 100 s [settings, CELERY_TASK_TIME_LIMIT]; a call that began before that is over.
STALE: Final = timedelta(seconds=150)
LOOKED_FOR: Final = timedelta(seconds=60)  # decision 12
SKEW: Final = timedelta(minutes=10)  # our clock and AWS's; it is looked for from so long before
MOST_ATTEMPTS: Final = 5  # of SendCommand for one dispatch, if AWS answers none of them
# Between two looks at what was sent, while nothing new shows; and so many looks a second at most in one region.
PAUSES: Final = (2, 2, 3, 4, 6, 8, 11, 15)
LOOKS_A_SECOND: Final = 3.0
# The longest that AWS lets a document run (executionTimeout of AWS-RunShellScript: 48 h), and an hour.
LONGEST_RUN: Final = timedelta(hours=49)
FORGOTTEN: Final = timedelta(minutes=10)  # an id that AWS does not know after so long it will never know
_NAMED = 50
# StatusDetails of a command that say why AWS has cancelled it [SSM user guide, "Understanding command statuses"].
CANCELLED_BY_AWS: Final = {
    "RateExceeded": "RateExceeded: more of the account's commands waited for their instances than AWS lets, so it "
    "cancelled this one before any instance had it.",
}


def claim_due(*, now: datetime) -> list[Any]:
    """Take the open commands that are due, for a task each."""
    due = list(Command.objects.open().filter(due_at__lte=now).order_by("due_at").values_list("pk", "due_at")[:500])
    return [pk for pk, at in due if Command.objects.filter(pk=pk, due_at=at).update(due_at=now + CLAIM)]


def told(region: Region, details: Sequence[Mapping[str, Any]]) -> None:
    """EventBridge tells of commands of a region: look at them soon, once for what it tells within GATHER."""
    ids = {str(each.get("command-id", ""))[:36] for each in details} - {""}
    soon = clock_now() + GATHER
    found = Dispatch.objects.filter(region=region, state=DispatchState.SENT, ssm_command_id__in=ids, due_at__gt=soon)
    commands = set(found.values_list("command", flat=True))
    if found.update(due_at=soon):
        Command.objects.open().filter(pk__in=commands, due_at__gt=soon).update(due_at=soon)


def advance(command_id: Any) -> None:
    """Take one command one step further."""
    command = Command.objects.open().select_related("actor").filter(pk=command_id).first()
    if command is None:
        return
    until = monotonic() + WORK_SECONDS
    _recover(command, now=clock_now())
    if command.state == CommandState.RUNNING:
        _plan(command, now=clock_now())
    unreachable: set[tuple[Any, Any]] = set()  # account and region
    due = command.dispatches.open().filter(due_at__lte=clock_now()).order_by("due_at", "id")
    for dispatch in due.select_related("account", "region"):
        if monotonic() >= until:
            break
        place = (dispatch.account_id, dispatch.region_id)
        if place in unreachable:
            continue
        try:
            _step(command, dispatch)
        except LostRace:
            continue  # another worker is at it
        except Unavailable as error:
            unreachable.add(place)
            _put_off(dispatch, error)
    if not _finish(command, now=clock_now()):
        _set_due(command, now=clock_now())


def _step(command: Command, dispatch: Dispatch) -> None:
    if dispatch.state == DispatchState.PLANNED:
        _send(command, dispatch, now=clock_now())
    elif dispatch.state == DispatchState.UNCERTAIN:
        _look_for(command, dispatch, now=clock_now())
    elif dispatch.state == DispatchState.SENT:
        _follow(command, dispatch, now=clock_now())


def _put_off(dispatch: Dispatch, error: Unavailable) -> None:
    """AWS is away, or wants fewer calls: later."""
    later = clock_now() + timedelta(seconds=5 if error.is_throttled else 10)
    Dispatch.objects.filter(pk=dispatch.pk, state=dispatch.state).update(due_at=later, error=str(error)[:512])
    logger.warning("dispatch put off dispatch=%s code=%s", dispatch.pk, error.code)


# --- what may go now -------------------------------------------------------------------------------------------------


def _plan(command: Command, *, now: datetime) -> None:
    """Make dispatches of what may go now, by the command's own pace and its limit of failures."""
    with transaction.atomic():
        # One worker at a time: two would both count the free places, and fill them twice.
        held = Command.objects.select_for_update().filter(pk=command.pk, state=CommandState.RUNNING).first()
        waiting = command.invocations.filter(state=InvocationState.PLANNED, dispatch=None)
        if held is None or not waiting.exists():
            return
        counts = command.invocations.counts()
        failed = sum(counts[state] for state in UNWELL)
        if command.most_failed is not None and failed > command.most_failed:
            words = f"Stopped: it failed on {failed:,}, and {command.most_failed:,} was the most."
            withdraw(
                command, command.dispatches.filter(state=DispatchState.PLANNED), InvocationState.SKIPPED, words, now=now
            )
            Command.objects.filter(pk=command.pk).update(end_reason=words)
            logger.warning("command stopped command=%s failed=%d", command.pk, failed)
            return
        if command.at_once:
            under_way = sum(counts[state] for state in IN_FLIGHT)
            under_way += command.invocations.filter(state=InvocationState.PLANNED).exclude(dispatch=None).count()
            free = max(0, command.at_once - under_way)
        else:
            free = counts[InvocationState.PLANNED]
        rows = waiting.order_by("account", "region", "document_version", "instance_name", "id")[:free]
        groups: dict[tuple[Any, Any, str], list[Any]] = {}
        for pk, *key in rows.values_list("pk", "account_id", "region_id", "document_version"):
            groups.setdefault((key[0], key[1], key[2]), []).append(pk)
        for (account, region, version), ids in groups.items():
            for start in range(0, len(ids), MOST_TARGETS):
                dispatch = Dispatch.objects.create(
                    command=command, account_id=account, region_id=region, document_version=version, due_at=now
                )
                Invocation.objects.filter(pk__in=ids[start : start + MOST_TARGETS]).update(dispatch=dispatch)


# --- sending ---------------------------------------------------------------------------------------------------------


def _send(command: Command, dispatch: Dispatch, *, now: datetime) -> None:
    """Ask the policy again, commit, and call SendCommand once. Raises LostRace; Unavailable if nothing was sent."""
    targets = _still_allowed(command, dispatch, now=now)
    if not targets:
        move(dispatch, DispatchState.CANCELLED, DISPATCH_MOVES)
        return
    with transaction.atomic():
        # A cancel that came before this finds it planned, and one that comes later waits for the outcome; what AWS
        # did not take in between is planned again by then.
        held = Command.objects.open().select_for_update().filter(pk=command.pk).first()
        if held is None:
            raise LostRace(f"command {command.pk} runs no longer")
        if held.state == CommandState.CANCELLING or held.end_reason:
            _never_goes(dispatch, held.end_reason, now=now)
            return
        move(
            dispatch,
            DispatchState.SENDING,
            DISPATCH_MOVES,
            sending_at=now,
            attempts=dispatch.attempts + 1,
            due_at=now + STALE,
            error="",
        )
    try:
        command_id = aws.send_command(
            dispatch.account.access(),
            dispatch.region.name,
            document_name=command.document_name,
            document_version=dispatch.document_version,
            parameters=command.parameters,
            instance_ids=[each.instance_id for each in targets],
            comment=dispatch.comment,
            timeout_seconds=command.timeout_seconds,
            session_name=command.actor_name,
            source_identity=command.actor_name,
        )
    except Unavailable as error:
        if error.is_outcome_unknown:
            moment = clock_now()
            facts = {"uncertain_at": moment, "due_at": moment + GATHER, "error": str(error)[:512]}
            move(dispatch, DispatchState.UNCERTAIN, DISPATCH_MOVES, **facts)
            logger.warning("dispatch uncertain dispatch=%s code=%s", dispatch.pk, error.code)
            return
        move(dispatch, DispatchState.PLANNED, DISPATCH_MOVES)
        raise
    except AwsError as error:
        _refused(dispatch, targets, error, now=clock_now())
        return
    _sent(dispatch, command_id, now=clock_now())


def _still_allowed(command: Command, dispatch: Dispatch, *, now: datetime) -> list[Invocation]:
    """The targets that the policy still allows to the person; the others are skipped, and it is audited."""
    targets = list(
        dispatch.invocations.filter(state=InvocationState.PLANNED).select_related(
            "instance_row__account", "instance_row__region"
        )
    )
    actor = command.actor
    skipped: dict[Any, str] = {}
    if actor is None or not actor.is_active or not actor.has_perm(command.permission):
        skipped = {each.pk: f"{command.actor_name} may no longer run documents." for each in targets}
    elif not dispatch.account.enabled or not dispatch.region.enabled:
        skipped = {each.pk: "Its account or region was turned off in FleetOps." for each in targets}
    else:
        there = [each for each in targets if each.instance_row is not None and each.instance_row.gone_at is None]
        context = plan.context_of(command, now=now)
        rows = [each.instance_row for each in there]
        answers = plan.decisions(actor, rows, command.document_name, context=context, deed=command.deed)
        skipped = {each.pk: "It is gone." for each in targets if each not in there}
        standing = plan.binding(command.bound_by)
        for each, answer in zip(there, answers, strict=True):
            if why := answer.text if not answer.allowed else plan.held(each.instance_row, standing, now, command.deed):
                skipped[each.pk] = why
    if skipped:
        named = [each for each in targets if each.pk in skipped]
        deny(
            "runcommand.dispatch.refuse",
            actor=actor or command.actor_name,
            target=command,
            reason=skipped[named[0].pk],
            account_id=dispatch.account.account_id,
            region=dispatch.region.name,
            instances=[each.instance_id for each in named[:_NAMED]],
        )
        with transaction.atomic():
            for each in named:
                move(each, InvocationState.SKIPPED, INVOCATION_MOVES, details=skipped[each.pk][:512], ended_at=now)
    return [each for each in targets if each.pk not in skipped]


def _sent(dispatch: Dispatch, command_id: str, *, now: datetime) -> None:
    with transaction.atomic():
        move(
            dispatch,
            DispatchState.SENT,
            DISPATCH_MOVES,
            ssm_command_id=command_id,
            sent_at=now,
            due_at=now + timedelta(seconds=PAUSES[0]),
            error="",
        )
        move_all(dispatch.invocations.all(), InvocationState.PENDING, INVOCATION_MOVES, details="Pending")
    logger.info("dispatch sent dispatch=%s command=%s ssm_command=%s", dispatch.pk, dispatch.command_id, command_id)


def _refused(dispatch: Dispatch, targets: Sequence[Invocation], error: AwsError, *, now: datetime) -> None:
    """AWS carried out nothing. If it names some of the instances, the others get it all the same."""
    words = str(error)[:512]
    named = []
    if error.code in {"InvalidInstanceId", "UnsupportedPlatformType"}:
        named = [each for each in targets if each.instance_id in error.message]
    is_all = not named or len(named) == len(targets)
    with transaction.atomic():
        failing = dispatch.invocations.filter(pk__in=[each.pk for each in (targets if is_all else named)])
        move_all(failing, InvocationState.FAILED, INVOCATION_MOVES, details=words, ended_at=now)
        to = DispatchState.REFUSED if is_all else DispatchState.PLANNED
        move(dispatch, to, DISPATCH_MOVES, error=words, due_at=now)
    logger.warning("dispatch refused dispatch=%s code=%s instances=%d", dispatch.pk, error.code, len(named or targets))


# --- what may have gone ----------------------------------------------------------------------------------------------


def _recover(command: Command, *, now: datetime) -> None:
    """Whoever sent these is dead by now: nobody knows what AWS has of them."""
    for dispatch in command.dispatches.filter(state=DispatchState.SENDING, sending_at__lte=now - STALE):
        try:
            move(dispatch, DispatchState.UNCERTAIN, DISPATCH_MOVES, uncertain_at=now, due_at=now)
        except LostRace:
            continue
        logger.warning("dispatch uncertain dispatch=%s code=worker-lost", dispatch.pk)


def _look_for(command: Command, dispatch: Dispatch, *, now: datetime) -> None:
    """Look for it in AWS's list of commands, by its comment. Raises Unavailable, and other AwsErrors as that."""
    since = (command.started_at or now) - SKEW
    try:
        recent = aws.recent(dispatch.account.access(), dispatch.region.name, since=since, session_name=SESSION_NAME)
        found = next((each for each in recent if each.comment == dispatch.comment), None)
    except Unavailable:
        raise
    except AwsError as error:  # who may not look must not send again either
        later = clock_now() + timedelta(seconds=30)
        Dispatch.objects.filter(pk=dispatch.pk).update(due_at=later, error=str(error)[:512])
        return
    if found is not None:
        _sent(dispatch, found.command_id, now=clock_now())
        return
    if dispatch.uncertain_at is None or now < dispatch.uncertain_at + LOOKED_FOR:
        Dispatch.objects.filter(pk=dispatch.pk).update(due_at=clock_now() + timedelta(seconds=5))
        return
    if command.state == CommandState.CANCELLING:
        _never_goes(dispatch, "Cancelled; AWS never had it.", now=now)
    elif dispatch.attempts >= MOST_ATTEMPTS:
        words = f"AWS answered none of {dispatch.attempts} calls, and shows no such command."
        with transaction.atomic():
            move(dispatch, DispatchState.REFUSED, DISPATCH_MOVES, error=words)
            move_all(dispatch.invocations.all(), InvocationState.FAILED, INVOCATION_MOVES, details=words, ended_at=now)
    else:
        move(dispatch, DispatchState.PLANNED, DISPATCH_MOVES, due_at=now, uncertain_at=None)
        logger.warning("dispatch is sent again dispatch=%s attempts=%d", dispatch.pk, dispatch.attempts)


def _never_goes(dispatch: Dispatch, details: str, *, now: datetime) -> None:
    """AWS never had it, and it is wanted no more: it was cancelled, or its command is sent to no more instances."""
    with transaction.atomic():
        move(dispatch, DispatchState.CANCELLED, DISPATCH_MOVES)
        rows = dispatch.invocations.all()
        move_all(rows, InvocationState.CANCELLED, INVOCATION_MOVES, details=details, ended_at=now)


# --- what went -------------------------------------------------------------------------------------------------------


def _follow(command: Command, dispatch: Dispatch, *, now: datetime) -> None:
    """Read how it fares on each instance; cancel it first if that was asked. Raises Unavailable."""
    claimed = Dispatch.objects.filter(pk=dispatch.pk, state=DispatchState.SENT, due_at=dispatch.due_at)
    if not claimed.update(due_at=now + CLAIM):
        return
    access, region = dispatch.account.access(), dispatch.region.name
    try:
        if command.state == CommandState.CANCELLING and dispatch.cancel_sent_at is None:
            aws.cancel_command(
                access, region, command_id=dispatch.ssm_command_id, session_name=command.cancelled_by or SESSION_NAME
            )
            Dispatch.objects.filter(pk=dispatch.pk).update(cancel_sent_at=clock_now())
        told = [
            each
            for page in aws.invocations(access, region, command_id=dispatch.ssm_command_id, session_name=SESSION_NAME)
            for each in page
        ]
        why = _why_cancelled(dispatch, told)
    except Unavailable:
        raise
    except AwsError as error:
        if error.code == "InvalidCommandId" and dispatch.sent_at and now > dispatch.sent_at + FORGOTTEN:
            _give_up(dispatch, "AWS no longer knows of this command.", now=now)
            return
        later = clock_now() + timedelta(seconds=PAUSES[-1])
        Dispatch.objects.filter(pk=dispatch.pk).update(due_at=later, error=str(error)[:512])
        logger.warning("dispatch not followed dispatch=%s code=%s", dispatch.pk, error.code)
        return
    is_news = _take(dispatch, told, why_cancelled=why, now=clock_now())
    left = [each for each in dispatch.invocations.only("state", "exit_code", "dispatch") if _is_awaited(each, dispatch)]
    quiet = 0 if is_news else dispatch.quiet + 1
    if not left:
        move(dispatch, DispatchState.DONE, DISPATCH_MOVES, error="")
    elif dispatch.sent_at and now > dispatch.sent_at + timedelta(seconds=command.timeout_seconds) + LONGEST_RUN:
        _give_up(dispatch, "AWS told nothing of its end.", now=now)
    else:
        others = Dispatch.objects.filter(
            state=DispatchState.SENT, account=dispatch.account_id, region=dispatch.region_id
        ).count()
        pause = max(PAUSES[min(quiet, len(PAUSES) - 1)], others / LOOKS_A_SECOND)
        later = clock_now() + timedelta(seconds=pause)
        Dispatch.objects.filter(pk=dispatch.pk).update(due_at=later, quiet=min(quiet, 999), error="")


def _why_cancelled(dispatch: Dispatch, told: Sequence[InvocationRecord]) -> str:
    """Why AWS has cancelled now what nobody here cancelled, in words: its invocations say no more than that.

    Raises Unavailable.
    """
    cancelled = [each.instance_id for each in told if OF_AWS.get(each.status) == InvocationState.CANCELLED]
    news = dispatch.invocations.filter(instance_id__in=cancelled).exclude(state=InvocationState.CANCELLED)
    if dispatch.cancel_sent_at is not None or not cancelled or not news.exists():
        return ""
    access, region = dispatch.account.access(), dispatch.region.name
    try:
        found = aws.details_of(access, region, command_id=dispatch.ssm_command_id, session_name=SESSION_NAME)
    except Unavailable:
        raise
    except AwsError as error:  # they are cancelled all the same
        logger.warning("why a command was cancelled is not told dispatch=%s code=%s", dispatch.pk, error.code)
        return ""
    return CANCELLED_BY_AWS.get(found, "")


def _is_awaited(invocation: Invocation, dispatch: Dispatch) -> bool:
    """Whether there is more to come. The last replies of an agent come in any order: a code may come after the end."""
    if invocation.state in OPEN:
        return True
    has_run = invocation.state in {InvocationState.SUCCEEDED, InvocationState.FAILED}
    return has_run and invocation.exit_code is None and dispatch.quiet < 2


def _take(dispatch: Dispatch, told: Sequence[InvocationRecord], *, why_cancelled: str, now: datetime) -> bool:
    """Write down what AWS told; whether anything was new."""
    rows = {each.instance_id: each for each in dispatch.invocations.all()}
    is_news = False
    with transaction.atomic():
        for record in told:
            row = rows.get(record.instance_id)
            state = OF_AWS.get(record.status)
            if row is None or state is None:
                continue
            facts: dict[str, Any] = {
                "details": (record.trace or record.status_details or record.status)[:512],
                "exit_code": record.exit_code,
                "head": record.output.replace("\x00", "\ufffd"),
                "started_at": record.started_at or row.started_at,
            }
            if state == InvocationState.CANCELLED:
                facts["details"] = row.details if row.state == state else (why_cancelled or facts["details"])
            if state not in OPEN:
                facts["ended_at"] = row.ended_at or record.ended_at or now
            changed = {name: value for name, value in facts.items() if getattr(row, name) != value}
            if row.state != state and state in INVOCATION_MOVES.get(row.state, frozenset()):
                try:
                    move(row, state, INVOCATION_MOVES, **changed)
                except LostRace:
                    continue
                is_news = True
            elif row.state == state and changed:
                Invocation.objects.filter(pk=row.pk, state=state).update(**changed)
                is_news = True
    return is_news


def _give_up(dispatch: Dispatch, words: str, *, now: datetime) -> None:
    with transaction.atomic():
        move(dispatch, DispatchState.DONE, DISPATCH_MOVES, error=words)
        move_all(dispatch.invocations.all(), InvocationState.TIMED_OUT, INVOCATION_MOVES, details=words, ended_at=now)
    logger.warning("dispatch given up dispatch=%s", dispatch.pk)


# --- the end ---------------------------------------------------------------------------------------------------------


def _finish(command: Command, *, now: datetime) -> bool:
    """End it if nothing of it is left to happen."""
    counts = command.invocations.counts()
    if any(counts[state] for state in OPEN) or command.dispatches.open().exists():
        return False
    held = Command.objects.filter(pk=command.pk).first()
    if held is None or not held.is_open:
        return True
    ran = counts[InvocationState.SUCCEEDED]
    unwell = sum(counts[state] for state in UNWELL)
    if held.state == CommandState.CANCELLING and (counts[InvocationState.CANCELLED] or not ran + unwell):
        end = CommandState.CANCELLED
    elif unwell or counts[InvocationState.CANCELLED] or held.end_reason or not ran:
        end = CommandState.FAILED
    else:
        end = CommandState.SUCCEEDED
    if held.state == CommandState.CANCELLING and end != CommandState.CANCELLED and not unwell:
        end = CommandState.SUCCEEDED  # the cancel came too late
    try:
        kept = {state.value: count for state, count in counts.items() if count}
        move(held, end, COMMAND_MOVES, ended_at=now, due_at=None, counts=kept)
    except LostRace:
        return True
    logger.info("command ended command=%s state=%s ran=%d failed=%d", command.pk, end, ran, unwell)
    return True


def _set_due(command: Command, *, now: datetime) -> None:
    """When it is looked at next: at the first thing to do, within 2 to 15 s."""
    first = command.dispatches.open().aggregate(at=Min("due_at"))["at"]
    soonest, latest = now + timedelta(seconds=2), now + timedelta(seconds=15)
    at = max(soonest, min(first or soonest, latest))
    if command.invocations.filter(state=InvocationState.PLANNED, dispatch=None).exists():
        at = max(soonest, min(at, now + GATHER))
    Command.objects.open().filter(pk=command.pk).update(due_at=at)
