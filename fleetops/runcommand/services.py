"""What people do with commands: plan one, start it, cancel it, run it again, read what it told."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.conf import settings
from django.db import transaction
from django.db.models import Q

from fleetops.audit.record import deny, record
from fleetops.aws import commands as aws
from fleetops.clock import now as clock_now
from fleetops.errors import Denied, UserError
from fleetops.identity.models import User
from fleetops.inventory.models import Instance, InstanceQuerySet
from fleetops.library import services as library
from fleetops.library.content import ContentError
from fleetops.library.models import Document
from fleetops.policy import services as policy
from fleetops.transitions import IllegalMove, LostRace, move, move_all

from . import plan
from .models import REVIEW_PERMISSION, RUN_PERMISSION, Command, Dispatch, Invocation
from .states import (
    COMMAND_MOVES,
    DISPATCH_MOVES,
    INVOCATION_MOVES,
    CommandState,
    DispatchState,
    InvocationState,
)

logger = logging.getLogger(__name__)

CANCEL_PERMISSION = "runcommand.cancel_command"
# What a person has seen is what is started; after so long they look again.
DRAFT_LIFE = timedelta(hours=1)
SHORTEST_TIMEOUT, LONGEST_TIMEOUT = aws.SHORTEST_DELIVERY, aws.LONGEST_DELIVERY
MOST_STEPS_READ: Final = 20  # whose output a page shows; each is a call
MOST_PARAMETER_BYTES: Final = 64 * 1024  # of all texts; AWS takes no more with a document
_NAMED = 50  # instances that one audit event names


class ReasonMissing(UserError):
    """The policy would allow it to whoever says why."""


# --- making a plan ---------------------------------------------------------------------------------------------------


def draft(
    document: Document,
    *,
    version: str = "",
    parameters: Mapping[str, Sequence[str]],
    instances: InstanceQuerySet,
    targets_text: str = "",
    reason: str = "",
    timeout_seconds: int = 3600,
    at_once: int = 0,
    most_failed: int | None = None,
    actor: User,
    again_of: Command | None = None,
) -> Command:
    """Write down on which of `instances` the document would run, and on which not and why. Nothing is sent.

    Raises UserError if it cannot be run at all, ReasonMissing if the policy wants to know why, AwsError.
    """
    if sum(len(text.encode()) for texts in parameters.values() for text in texts) > MOST_PARAMETER_BYTES:
        raise UserError("The parameters have more than 64 KB together; put the bulk of it into the document.")
    if any("\x00" in text for texts in parameters.values() for text in texts):
        raise UserError("A parameter has a NUL character in it, which no document can take.")
    if not SHORTEST_TIMEOUT <= timeout_seconds <= LONGEST_TIMEOUT:
        raise UserError(f"The time-out has to be {SHORTEST_TIMEOUT:,} to {LONGEST_TIMEOUT:,} seconds.")
    reason, moment = one_line(reason), clock_now()
    found = list(
        instances.filter(pk__in=Instance.objects.visible_to(actor).present().values("pk"))
        .select_related("account", "region")
        .order_by("name", "instance_id")[: plan.MOST_INSTANCES + 1]
    )
    if not found:
        raise UserError("No instance matches. Write an expression that selects at least one.")
    if len(found) > plan.MOST_INSTANCES:
        raise UserError(f"One command runs on at most {plan.MOST_INSTANCES:,} instances; select fewer.")
    context = policy.context(actor, reason=reason)
    if not reason and any(
        each.wants_only_a_reason for each in plan.decisions(actor, found, document.name, context=context)
    ):
        raise ReasonMissing("A rule of the access policy wants to know why. Say so in a few words.")
    verdicts = plan.judge(document, version, parameters, found, actor=actor, context=context, now=moment)
    with transaction.atomic():
        command = Command.objects.create(
            document_name=document.name,
            document_version=version,
            parameters={name: list(texts) for name, texts in parameters.items()},
            targets_text=targets_text[:4000],
            reason=reason,
            timeout_seconds=timeout_seconds,
            at_once=at_once,
            most_failed=most_failed,
            actor=actor,
            actor_name=actor.username,
            source_address=context.source_address,
            mfa_at=None if context.mfa_at is None else datetime.fromtimestamp(context.mfa_at, UTC),
            again_of=again_of,
            created_at=moment,
        )
        Invocation.objects.bulk_create(
            (
                Invocation(
                    command=command,
                    instance_row=each.instance,
                    account=each.instance.account,
                    region=each.instance.region,
                    instance_id=each.instance.instance_id,
                    instance_name=str(each.instance),
                    document_version=each.version,
                    state=InvocationState.SKIPPED if each.skipped else InvocationState.PLANNED,
                    details=each.skipped[:512],
                )
                for each in verdicts
            ),
            batch_size=500,
        )
    return command


def again(command: Command, *, only_unwell: bool, actor: User) -> Command:
    """A plan for the same document and parameters, on the same instances or on those where it did not end well.

    Raises UserError if there is nothing to run it on, or as draft does.
    """
    if not command.is_over:
        raise UserError("This command has not ended yet. Cancel it, or wait for its end.")
    invocations = command.invocations.exclude(instance_row=None)
    if only_unwell:
        invocations = invocations.exclude(state__in=[InvocationState.SUCCEEDED, InvocationState.SKIPPED])
    if not invocations.exists():
        raise UserError("It ended well on every instance that it ran on." if only_unwell else "Its instances are gone.")
    place = invocations.order_by("state", "id").values("account", "region").first()
    document = (
        Document.objects.runnable()
        .filter(name=command.document_name, account=place["account"], region=place["region"])
        .select_related("account", "region")
        .first()
    )
    if document is None:
        raise UserError(f"{command.document_name} is no longer there.")
    words = "where it did not end well" if only_unwell else "all of its instances"
    return draft(
        document,
        version=command.document_version,
        parameters=command.parameters,
        instances=Instance.objects.filter(pk__in=invocations.values("instance_row")),
        targets_text=f"as the command of {command.created_at:%Y-%m-%d %H:%M:%S} UTC, {words}",
        reason=command.reason,
        timeout_seconds=command.timeout_seconds,
        at_once=command.at_once,
        most_failed=command.most_failed,
        actor=actor,
        again_of=command,
    )


def one_line(reason: str) -> str:
    """A reason as every list wants it: one line of characters that show."""
    return " ".join("".join(each if each.isprintable() else " " for each in reason).split())[:256]


# --- starting and cancelling -----------------------------------------------------------------------------------------


def start(command: Command, *, actor: User) -> None:
    """Let a plan go: from now on `dispatching.advance` sends it. The policy is asked again, for each instance.

    Raises Denied, audited, if the person may not any more; UserError if the plan is old, or starts already.
    """
    if command.actor_id != actor.pk:
        raise Denied("Somebody else made this plan; make one of your own.")
    if not actor.has_perm(RUN_PERMISSION):
        deny("runcommand.start.refuse", actor=actor, target=command, reason="may not run documents")
        raise Denied(f"Your roles do not hold the permission {RUN_PERMISSION}.")
    if not command.is_draft:
        raise UserError("This command has been started already.")
    moment = clock_now()
    if command.created_at < moment - DRAFT_LIFE:
        raise UserError("This plan is older than an hour, and the fleet is another by now. Plan it again.")
    planned = list(_with_instances(command.invocations.filter(state=InvocationState.PLANNED)))
    instances = [each.instance_row for each in planned]
    context = policy.context(actor, reason=command.reason)
    answers = plan.decisions(actor, instances, command.document_name, context=context)
    denied = {each.pk: answer for each, answer in zip(planned, answers, strict=True) if not answer.allowed}
    refused = [each for each in planned if each.pk in denied]
    facts = _facts(command)
    if refused:
        _deny(command, refused, denied[refused[0].pk].text, actor=actor)
        with transaction.atomic():
            for each in refused:
                move(each, InvocationState.SKIPPED, INVOCATION_MOVES, details=denied[each.pk].text[:512])
    if len(refused) == len(planned):
        if refused:
            raise Denied(f"You may not run {command.document_name} there. {denied[refused[0].pk].text}")
        skipped = command.invocations.filter(state=InvocationState.SKIPPED).order_by("id").first()
        raise UserError(f"There is no instance that it could run on. {skipped.details if skipped else ''}".strip())
    rules = sorted({name for answer in answers if answer.allowed for name in answer.rules})
    policy.note_use({rule for answer in answers for rule in answer.rule_ids})
    try:
        with transaction.atomic():
            move(command, CommandState.RUNNING, COMMAND_MOVES, started_at=moment, due_at=moment + timedelta(seconds=5))
            record(
                "runcommand.start",
                actor=actor,
                target=command,
                reason=command.reason,
                instances=len(planned) - len(refused),
                skipped=command.invocations.filter(state=InvocationState.SKIPPED).count(),
                rules=rules,
                **facts,
            )
    except LostRace:
        raise UserError("This command has been started already.") from None
    logger.info("command started command=%s instances=%d user=%s", command.pk, len(planned) - len(refused), actor)


def _facts(command: Command) -> dict[str, Any]:
    """What the audit log keeps of a command: of its parameters the names and digests, never what they say."""
    return {
        "document": command.document_name,
        "version": command.document_version or "default",
        "targets": command.targets_text,
        "parameters": [
            {"name": name, "values": len(texts), "digest": digest(texts)}
            for name, texts in sorted(command.parameters.items())
        ],
        "at_once": command.at_once,
        "most_failed": command.most_failed,
        **({"again_of": str(command.again_of_id)} if command.again_of_id else {}),
    }


def digest(texts: Sequence[str]) -> str:
    """Tells two values of a parameter apart, and says nothing of them to who has not the audit key."""
    text = json.dumps(list(texts), ensure_ascii=True)
    return hmac.new(settings.AUDIT_KEY.encode(), text.encode(), hashlib.sha256).hexdigest()[:32]


def _deny(command: Command, refused: Sequence[Invocation], reason: str, *, actor: Any) -> None:
    deny(
        "runcommand.start.refuse",
        actor=actor,
        target=command,
        reason=reason,
        instances=[each.instance_id for each in refused[:_NAMED]],
        count=len(refused),
        document=command.document_name,
    )


def cancellable_by(user: User) -> Any:
    """The commands that `user` may cancel."""
    found = Command.objects.visible_to(user).started()
    return found if user.has_perm(CANCEL_PERMISSION) else found.filter(actor=user)


def cancel(command: Command, *, actor: User) -> bool:
    """Send it to nobody any more, and ask AWS to cancel what it has; False if it was over, or cancelled before.

    What an agent runs already may go on to its end: AWS promises no more.
    """
    with transaction.atomic():
        try:
            move(
                command,
                CommandState.CANCELLING,
                COMMAND_MOVES,
                cancelled_by=actor.username,
                end_reason=f"Cancelled by {actor.username}."[:256],
                due_at=clock_now(),
            )
        except (LostRace, IllegalMove):
            return False
        unsent = command.dispatches.filter(state=DispatchState.PLANNED)
        command.dispatches.filter(state=DispatchState.SENT).update(due_at=clock_now())
        withdraw(command, unsent, InvocationState.CANCELLED, "Cancelled before it was sent.", now=clock_now())
        record("runcommand.cancel", actor=actor, target=command, document=command.document_name)
    logger.info("command cancelled command=%s user=%s", command.pk, actor)
    return True


def withdraw(command: Command, unsent: Any, to: str, details: str, *, now: datetime) -> None:
    """Send these dispatches to nobody, nor whatever has none yet. In the caller's transaction."""
    ids = list(unsent.values_list("pk", flat=True))
    taken = [pk for pk in ids if move_all(Dispatch.objects.filter(pk=pk), DispatchState.CANCELLED, DISPATCH_MOVES)]
    waiting = command.invocations.filter(Q(dispatch=None) | Q(dispatch__in=taken), state=InvocationState.PLANNED)
    move_all(waiting, to, INVOCATION_MOVES, details=details, ended_at=now)


# --- reading ---------------------------------------------------------------------------------------------------------


def read_output(invocation: Invocation, *, actor: User) -> None:
    """Ask AWS what each step told on one instance, unless that is known already. Raises AwsError.

    Somebody else's is audited once a look. The caller has seen to it that `actor` may see the command.
    """
    command, dispatch = invocation.command, invocation.dispatch
    if dispatch is None or not dispatch.ssm_command_id:
        return
    if invocation.outputs_read_at is not None and not invocation.is_open:
        return
    found = []
    for step in _steps(invocation, actor=actor):
        output = aws.output_of(
            invocation.account.access(),
            invocation.region.name,
            command_id=dispatch.ssm_command_id,
            instance_id=invocation.instance_id,
            step=step,
            session_name=actor.username,
        )
        if output is not None:
            found.append(
                {
                    "step": step,
                    "status": output.status_details or output.status,
                    "exit_code": output.exit_code,
                    "stdout": _clean(output.stdout),
                    "stderr": _clean(output.stderr),
                    "stdout_url": output.stdout_url,
                    "stderr_url": output.stderr_url,
                }
            )
    # Of one that has not ended it is read again at the next look.
    read_at = None if invocation.is_open else clock_now()
    Invocation.objects.filter(pk=invocation.pk).update(outputs=found, outputs_read_at=read_at)
    invocation.outputs, invocation.outputs_read_at = found, read_at
    logger.debug("output read command=%s instance=%s", command.pk, invocation.instance_id)


def record_look(invocation: Invocation, *, actor: User) -> None:
    """Somebody looks at the output of another's command."""
    if invocation.command.actor_id != actor.pk:
        with transaction.atomic():
            record(
                "runcommand.output.view",
                actor=actor,
                target=invocation.command,
                account_id=invocation.account.account_id,
                region=invocation.region.name,
                instance=invocation.instance_id,
            )


def _steps(invocation: Invocation, *, actor: User) -> list[str]:
    """Names of the document's steps, by which AWS tells their output; [""] where there can be but one."""
    document = (
        Document.objects.filter(
            account=invocation.account, region=invocation.region, name=invocation.command.document_name
        )
        .select_related("account", "region")
        .first()
    )
    if document is None:
        return [""]
    try:
        steps = library.read(library.version(document, invocation.document_version, actor=actor)).steps
    except (ContentError, UserError):
        return [""]
    return [step.name for step in steps][:MOST_STEPS_READ] or [""]


def _clean(text: str) -> str:
    """Without NUL, which PostgreSQL refuses."""
    return text.replace("\x00", "\ufffd")


def may_see_all(user: User) -> bool:
    return user.has_perm(REVIEW_PERMISSION)


def drop_old_drafts(*, now: datetime) -> int:
    """Delete plans that nobody started."""
    old = Command.objects.filter(state=CommandState.DRAFT, created_at__lt=now - DRAFT_LIFE)
    return old.delete()[0]


def _with_instances(invocations: Any) -> Any:
    return invocations.exclude(instance_row=None).select_related(
        "instance_row__account", "instance_row__region", "account", "region"
    )
