"""Starting runbooks, following them, answering what they wait for, stopping them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import transaction
from django.db.models import Q

from fleetops.audit.record import deny, record
from fleetops.aws import automation as aws
from fleetops.aws.errors import AwsError, Unavailable
from fleetops.clock import during, now
from fleetops.documents import InvalidParameters
from fleetops.documents import automation as runbooks
from fleetops.errors import Denied, FieldError, UserError
from fleetops.identity.models import User
from fleetops.inventory.models import Region
from fleetops.library import content as contents
from fleetops.library import services as library
from fleetops.library.models import Document, DocumentVersion
from fleetops.policy import services as policy
from fleetops.policy.decide import Deed

from .models import OPEN, REVIEW_PERMISSION, RUN_PERMISSION, STARTING, Execution, Reading

logger = logging.getLogger(__name__)

SESSION_NAME: Final = "fleetops-automation"
LOOK_EVERY, LONGEST_PAUSE = timedelta(seconds=3), timedelta(minutes=5)
LIST_EVERY: Final = timedelta(minutes=1)
LIST_BACK: Final = timedelta(days=7)  # how far the first listing of a region looks back
CLAIM: Final = timedelta(seconds=60)  # real seconds
GIVE_UP: Final = timedelta(hours=1)  # of asking AWS to start one, by the same token
MOST_AT_ONCE: Final = 200
MOST_LISTED: Final = 2000  # executions that one listing of a region takes over, the newest
MOST_TARGETS: Final = 50  # values of one target [SSM API reference, Target]
SIGNALS: Final = ("Approve", "Reject", "Resume", "StartStep", "StopStep")
_CUT: Final = 4000  # characters of one input or output that a row keeps


# --- starting --------------------------------------------------------------------------------------------------------


def read_runbook(document: Document, version: str = "", *, actor: User) -> tuple[DocumentVersion, runbooks.Runbook]:
    """A version of a runbook, read. Raises UserError if it is none, AwsError."""
    if document.document_type != "Automation" or document.gone_at is not None:
        raise UserError(f"{document} is no runbook that can be started.")
    row = library.version(document, version, actor=actor)
    data = contents.parse(row.content, row.document_format or document.document_format or "JSON")
    try:
        return row, runbooks.parse(data)
    except runbooks.InvalidDocument as error:
        where = f"At {error.path}: {error.message}" if error.path else error.message
        raise UserError(f"{document} cannot be read as a runbook. {where}.") from None


def start(
    document: Document,
    *,
    version: str = "",
    parameters: Mapping[str, Sequence[str]],
    target_parameter: str = "",
    targets: Sequence[str] = (),
    max_concurrency: str = "",
    max_errors: str = "",
    reason: str = "",
    actor: User,
) -> Execution:
    """Write an execution down; a worker has AWS start it. `targets` are values of `target_parameter`, a child for each.

    Raises Denied, audited; ReasonNeeded; FieldError and UserError for what the runbook does not take; AwsError.
    """
    where = {"account_id": document.account.account_id, "region": document.region.name}
    reason = _line(reason)
    if not actor.has_perm(RUN_PERMISSION):
        deny("automation.start.refuse", actor=actor, target=document, reason="may not run documents", **where)
        raise Denied("Starting a runbook needs the permission “May run documents”.")
    try:
        policy.require(actor, Deed.RUN_DOCUMENT, document=document.name, context=policy.context(actor, reason=reason))
    except policy.ReasonNeeded:
        raise
    except Denied as denied:
        deny("automation.start.refuse", actor=actor, target=document, reason=str(denied)[:1000], **where)
        raise
    row, runbook = read_runbook(document, version, actor=actor)
    values = [each.strip() for each in targets if each.strip()]
    given = {name: list(texts) for name, texts in parameters.items() if name != target_parameter or not values}
    _check(runbook, given, target_parameter, values, max_concurrency, max_errors)
    with transaction.atomic():
        execution = Execution.objects.create(
            account=document.account,
            region=document.region,
            document_name=document.name,
            document_version=str(row.number),
            parameters=given,
            target_parameter=target_parameter if values else "",
            targets=[{"Key": "ParameterValues", "Values": values}] if values else [],
            max_concurrency=(max_concurrency or "1") if values else "",
            max_errors=(max_errors or "0") if values else "",
            actor=actor,
            actor_name=actor.username,
            reason=reason,
            due_at=now(),
        )
        _record("automation.start", execution, actor=actor, reason=reason, targets=values)
    logger.info("runbook asked execution=%s document=%s user=%s", execution.pk, document.name, actor.username)
    return execution


def _check(
    runbook: runbooks.Runbook,
    given: Mapping[str, list[str]],
    target_parameter: str,
    values: Sequence[str],
    max_concurrency: str,
    max_errors: str,
) -> None:
    if values and target_parameter not in runbook.parameters:
        raise FieldError("target_parameter", "Choose which of the runbook's parameters takes the targets.")
    if len(values) > MOST_TARGETS:
        raise FieldError("targets", f"At most {MOST_TARGETS} targets at once; start it again for the others.")
    for field, text in (("max_concurrency", max_concurrency), ("max_errors", max_errors)):
        number, most = text.removesuffix("%"), 100 if "%" in text else 500
        if text and not (len(text) <= 4 and number.isascii() and number.isdigit() and int(number) <= most):
            raise FieldError(field, "A number up to 500, or a percentage like 10%.")
    full = dict(given) | ({target_parameter: [values[0]]} if values else {})
    try:
        runbooks.check_parameters(runbook, full)
    except InvalidParameters as error:
        raise UserError(f"The runbook does not take these parameters: {error}.") from None


def _send(execution: Execution) -> None:
    """Have AWS start it: by the row's id as ClientToken, however often it is asked."""
    access, region = execution.account.access(), execution.region.name
    name = execution.actor_name or SESSION_NAME
    # From here on AWS may have been asked: whoever stops it waits for its answer. One that was stopped is not asked.
    mine = Execution.objects.filter(pk=execution.pk, status=execution.status, execution_id="")
    if not mine.update(status="Pending"):
        return
    try:
        told = aws.start(
            access,
            region,
            document=execution.document_name,
            version=execution.document_version,
            parameters=execution.parameters,
            client_token=str(execution.pk),
            target_parameter=execution.target_parameter,
            targets=execution.targets,
            max_concurrency=execution.max_concurrency,
            max_errors=execution.max_errors,
            session_name=name,
            source_identity=name if access.role_arn else "",
        )
    except AwsError as error:
        is_over = not isinstance(error, Unavailable) or execution.asked_at + GIVE_UP < now()
        if is_over and not getattr(error, "is_outcome_unknown", False):
            _end(execution, "Failed", str(error))
        else:
            _later(execution, str(error))
        return
    with transaction.atomic():
        # Its region may have been listed meanwhile, and the execution been taken for somebody else's.
        place = {"account": execution.account, "region": execution.region, "execution_id": told}
        Execution.objects.filter(**place, is_ours=False).exclude(pk=execution.pk).delete()
        Execution.objects.filter(pk=execution.pk, execution_id="").update(
            execution_id=told, status="Pending", failure="", failures=0, due_at=now()
        )
    logger.info("runbook started execution=%s aws=%s", execution.pk, told)


def _end(execution: Execution, status: str, why: str) -> None:
    with transaction.atomic():
        changed = Execution.objects.filter(pk=execution.pk, status__in=OPEN).update(
            status=status, failure=why, ended_at=now(), due_at=None
        )
        if changed:
            execution.status = status
            _record("automation.end", execution, actor="worker", reason=why[:500], status=status)


def _later(execution: Execution, why: str) -> None:
    failures = min(execution.failures + 1, 1000)
    pause = min(LOOK_EVERY * 2 ** min(failures, 8), LONGEST_PAUSE)
    Execution.objects.filter(pk=execution.pk).update(failures=failures, failure=why[:_CUT], due_at=now() + pause)


# --- following -------------------------------------------------------------------------------------------------------


def claim_due(*, at: datetime) -> list[Any]:
    """Keys of executions to be looked at; nobody else looks at them for a minute."""
    keys = list(Execution.objects.filter(due_at__lte=at).order_by("due_at").values_list("pk", flat=True)[:MOST_AT_ONCE])
    taken = []
    for key in keys:
        if Execution.objects.filter(pk=key, due_at__lte=at).update(due_at=at + during(CLAIM)):
            taken.append(key)
    return taken


def advance(pk: Any) -> None:
    """Start it, or read how far it has come. May be called at any time, any number of times."""
    execution = Execution.objects.select_related("account", "region", "actor").filter(pk=pk).first()
    if execution is None or not execution.is_open:
        return
    if not execution.execution_id:
        _send(execution)
        return
    try:
        told = aws.get(
            execution.account.access(), execution.region.name, execution.execution_id, session_name=SESSION_NAME
        )
    except AwsError as error:
        if error.code == "AutomationExecutionNotFoundException":
            _end(execution, "Failed", "AWS knows this execution no more.")
        else:
            _later(execution, str(error))
        return
    take(execution, told)


def take(execution: Execution, told: aws.Execution) -> None:
    """Write down what AWS tells of one."""
    was_open = execution.is_open
    for name, value in _facts(told).items():
        setattr(execution, name, value)
    if told.steps:
        execution.steps = [_plain(asdict(step)) for step in told.steps]
    execution.read_at, execution.failures = now(), 0
    execution.due_at = now() + LOOK_EVERY if execution.is_open else None
    with transaction.atomic():
        execution.save(force_update=True)
        if was_open and not execution.is_open and execution.is_ours:
            _record("automation.end", execution, actor="worker", status=execution.status, reason=told.failure[:500])


def _facts(told: aws.Execution) -> dict[str, Any]:
    return {
        "execution_id": told.execution_id,
        "parent_id": told.parent_id,
        "document_name": told.document_name,
        "document_version": told.document_version,
        "status": told.status,
        "current_step": told.current_step,
        "failure": told.failure,
        "outputs": _plain(dict(told.outputs)),
        "progress": dict(told.progress),
        "target": told.target[:256],
        "started_by": told.executed_by[:256],
        "started_at": told.started_at,
        "ended_at": told.ended_at,
    }


def _plain(value: Any) -> Any:
    """JSON of it, long texts cut: outputs may be megabytes, and a page shows none of that."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value[:200]]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str):
        return value if len(value) <= _CUT else f"{value[:_CUT]}…"
    return value


def claim_regions(*, at: datetime) -> list[int]:
    """Regions whose executions are to be listed."""
    for region in Region.objects.filter(enabled=True, account__enabled=True).exclude(
        pk__in=Reading.objects.values("region")
    ):
        Reading.objects.get_or_create(region=region)
    free = Q(claimed_until=None) | Q(claimed_until__lte=at) | Q(claimed_until__gt=at + 2 * during(CLAIM))
    due = Reading.objects.filter(free, region__enabled=True, region__account__enabled=True)
    due = due.filter(Q(read_at=None) | Q(read_at__lte=at - LIST_EVERY))
    taken = []
    for pk in due.values_list("pk", flat=True):
        if Reading.objects.filter(free, pk=pk).update(claimed_until=at + during(CLAIM)):
            taken.append(pk)
    return taken


def list_region(pk: int) -> None:
    """Take over what a region has begun since it was last listed: children of ours, and what others started."""
    reading = Reading.objects.select_related("region__account").get(pk=pk)
    region, moment = reading.region, now()
    since = (reading.read_at or moment - LIST_BACK) - timedelta(minutes=5)
    try:
        found: list[aws.Execution] = []
        for page in aws.pages(region.account.access(), region.name, since=since, session_name=SESSION_NAME):
            found += page
            if len(found) >= MOST_LISTED:
                break
    except AwsError as error:
        # Read again from where it was: what began meanwhile is not left out.
        rest = moment + during(LIST_EVERY)
        Reading.objects.filter(pk=pk).update(error=str(error)[:512], claimed_until=rest)
        return
    for told in reversed(found):  # parents before their children
        _take_listed(region, told)
    Reading.objects.filter(pk=pk).update(error="", claimed_until=None, read_at=moment)


def _take_listed(region: Region, told: aws.Execution) -> None:
    facts = _facts(told)
    place = {"account": region.account, "region": region}
    # A child is seen by whoever started its parent: it shows what that was given.
    parent = Execution.objects.filter(**place, execution_id=told.parent_id).first() if told.parent_id else None
    row, is_new = Execution.objects.get_or_create(
        account=region.account,
        region=region,
        execution_id=told.execution_id,
        defaults=facts
        | {
            "is_ours": False,
            "actor": parent.actor if parent is not None else None,
            "actor_name": parent.actor_name if parent is not None else "",
            "asked_at": told.started_at or now(),
            "due_at": now() if told.status in OPEN else None,
        },
    )
    if not is_new and not row.is_open and not row.steps and row.read_at is None:
        Execution.objects.filter(pk=row.pk).update(**facts)


def read_now(execution: Execution) -> None:
    """Read one that is over and whose steps were never read, when somebody looks. What AWS refuses is no error."""
    if execution.steps or not execution.execution_id:
        return
    try:
        told = aws.get(
            execution.account.access(), execution.region.name, execution.execution_id, session_name=SESSION_NAME
        )
    except AwsError as error:
        logger.info("execution not read execution=%s code=%s", execution.pk, error.code)
        return
    take(execution, told)


# --- answering and stopping ------------------------------------------------------------------------------------------


def signal(execution: Execution, kind: str, *, step: str = "", comment: str = "", actor: User) -> None:
    """Approve or reject what it waits for, resume it, start or stop a step.

    Raises Denied, audited; UserError if it is over; AwsError.
    """
    _require(execution, actor, "automation.signal")
    if kind not in SIGNALS:
        raise UserError(f"A signal is one of {', '.join(SIGNALS)}.")
    payload: dict[str, list[str]] = {}
    if kind in {"Approve", "Reject"} and comment:
        payload["Comment"] = [_line(comment)]
    if kind == "StartStep" and step:
        payload["StepName"] = [step]
    if kind in {"Resume", "StopStep"} and step:
        payload["StepExecutionId"] = [step]
    _carry_out(
        execution,
        actor,
        "automation.signal",
        lambda asked: aws.signal(
            execution.account.access(), execution.region.name, execution.execution_id, kind, payload=payload, **asked
        ),
        signal=kind,
        comment=_line(comment),
    )


def stop(execution: Execution, *, kind: str = "Cancel", actor: User) -> None:
    """Cancel it where it is, or Complete it after the step that runs. Raises as signal does."""
    _require(execution, actor, "automation.stop")
    if kind not in {"Cancel", "Complete"}:
        raise UserError("Choose Cancel or Complete.")
    if not execution.execution_id:
        with transaction.atomic():
            why = f"Stopped by {actor.username} before AWS was asked to start it."
            waiting = Execution.objects.filter(pk=execution.pk, status=STARTING, execution_id="")
            if not waiting.update(status="Cancelled", failure=why, ended_at=now(), due_at=None):
                raise UserError("AWS is being asked to start it; try again in a moment.")
            _record("automation.stop", execution, actor=actor, kind=kind)
        return
    _carry_out(
        execution,
        actor,
        "automation.stop",
        lambda asked: aws.stop(
            execution.account.access(), execution.region.name, execution.execution_id, kind=kind, **asked
        ),
        kind=kind,
    )


def may_steer(execution: Execution, user: User) -> bool:
    """Whether its buttons are for this person."""
    return user.has_perm(RUN_PERMISSION) and (execution.actor_id == user.pk or user.has_perm(REVIEW_PERMISSION))


def _require(execution: Execution, actor: User, deed: str) -> None:
    where = {"account_id": execution.account.account_id, "region": execution.region.name}
    context = policy.context(actor, reason=execution.reason)
    try:
        if not actor.has_perm(RUN_PERMISSION):
            raise Denied("It needs the permission “May run documents”.")
        if not may_steer(execution, actor):
            raise Denied("What others have started is answered and stopped by who may review commands.")
        policy.require(actor, Deed.RUN_DOCUMENT, document=execution.document_name, context=context)
    except policy.ReasonNeeded:
        raise
    except Denied as denied:
        deny("automation.signal.refuse", actor=actor, target=execution, reason=str(denied)[:1000], deed=deed, **where)
        raise
    if not execution.is_open:
        raise UserError(f"It is over: {execution.glyph[1].lower()}.")
    if not execution.execution_id and deed != "automation.stop":
        raise UserError("AWS has not started it yet; try again in a moment.")


def _carry_out(execution: Execution, actor: User, action: str, call: Any, **details: Any) -> None:
    access = execution.account.access()
    name = actor.username
    call({"session_name": name, "source_identity": name if access.role_arn else ""})
    with transaction.atomic():
        _record(action, execution, actor=actor, **{key: text for key, text in details.items() if text})
        Execution.objects.filter(pk=execution.pk, status__in=OPEN).update(due_at=now())


# --- for all of them -------------------------------------------------------------------------------------------------


def children(execution: Execution) -> list[Execution]:
    """What it has started, as far as it is known."""
    if not execution.execution_id:
        return []
    rows = Execution.objects.filter(
        account=execution.account, region=execution.region, parent_id=execution.execution_id
    )
    return list(rows.select_related("account", "region__account").order_by("asked_at")[:200])


def _record(action: str, execution: Execution, *, actor: User | str, reason: str = "", **details: Any) -> None:
    record(
        action,
        actor=actor,
        target=execution,
        reason=reason,
        document=execution.document_name,
        version=execution.document_version,
        execution=execution.execution_id,
        **details,
    )


def _line(text: str) -> str:
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())[:256]
