"""Gates: what has to be true after a wave, before the next one starts.

    approval    others say yes: {quorum, approvers [role], hours}; a no, or no answer in that time, fails it
    document    a health document succeeds on all of its targets: {document, version, parameters, targets: an
                expression; empty: those of the wave that are well}
    alarm       CloudWatch alarms are all OK: {names, account_id, region, minutes}; one that rings fails it at once,
                during the soak too; what CloudWatch does not know is waited for so many minutes
    probe       an address answers 2xx: {url, minutes}; it is asked again for so many minutes

What asks AWS, or an address, is `look`, outside of any transaction; the rest is under the lock of the run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from fleetops.approvals import services as approvals
from fleetops.approvals.states import ApprovalState
from fleetops.aws import cloudwatch
from fleetops.aws.errors import AwsError, Unavailable
from fleetops.errors import UserError
from fleetops.fetch import fetch
from fleetops.identity.models import User
from fleetops.inventory.models import Account, Instance
from fleetops.notify import services as notify
from fleetops.policy.decide import Deed
from fleetops.runcommand import orders
from fleetops.runcommand.models import Bound, Command
from fleetops.runcommand.states import InvocationState
from fleetops.transitions import move

from . import health, versions
from .models import START_PERMISSION, GateCheck, Run, RunEvent, RunTarget, Wave
from .sending import STEP_SECONDS, bound_of, origin_of
from .states import GATE_MOVES, GateState, TargetState, WaveState

logger = logging.getLogger(__name__)

DEED: Final = "rollouts.gate"
TOPIC: Final = "rollouts.approval"
HOURS: Final = 72  # until nobody has answered, if the gate does not say
MINUTES: Final = 10  # until an alarm or an address that does not answer fails its gate, likewise
SESSION_NAME: Final = "fleetops-rollouts"
_OPEN: Final = (GateState.PENDING, GateState.WAITING)


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen of a gate; `passed` is None while that is open."""

    passed: bool | None
    words: str


# --- asked elsewhere, outside of a transaction -----------------------------------------------------------------------


def look(run: Run) -> dict[Any, Sight]:
    """Look at the alarms and addresses of the gates that are asked, and at the alarms of a wave that soaks."""
    gates = GateCheck.objects.filter(wave__run=run, state__in=_OPEN, kind__in=["alarm", "probe"])
    found: dict[Any, Sight] = {}
    for gate in gates.filter(wave__state__in=[WaveState.SOAKING, WaveState.GATED]).select_related("wave"):
        if gate.kind == "alarm":
            found[gate.pk] = _alarms(gate)
        elif gate.wave.state == WaveState.GATED:
            found[gate.pk] = _address(gate)
    return found


def _alarms(gate: GateCheck) -> Sight:
    names, account_id = list(gate.settings["names"]), gate.settings["account_id"]
    account = Account.objects.filter(account_id=account_id, enabled=True).first()
    if account is None:
        return Sight(False, f"FleetOps is not connected with the account {account_id}, whose alarms it asks for.")
    try:
        states = cloudwatch.alarm_states(
            account.access(), gate.settings["region"], names=names, session_name=SESSION_NAME
        )
    except Unavailable as error:
        return Sight(None, f"CloudWatch does not answer: {error}")
    except AwsError as error:
        return Sight(None, f"CloudWatch does not say: {error}")
    if rings := sorted(name for name, state in states.items() if state == cloudwatch.RINGS):
        return Sight(False, f"The alarm {rings[0]} rings." if len(rings) == 1 else f"Alarms ring: {', '.join(rings)}.")
    if missing := [name for name in names if name not in states]:
        return Sight(None, f"There is no alarm {missing[0]} in {account} {gate.settings['region']}.")
    if unknown := sorted(name for name, state in states.items() if state != cloudwatch.OK):
        return Sight(None, f"CloudWatch has too little data for {', '.join(unknown)}.")
    return Sight(True, "All alarms are OK.")


def _address(gate: GateCheck) -> Sight:
    try:
        status = fetch(gate.settings["url"], max_bytes=1 << 16).status
    except UserError as error:
        return Sight(None, str(error))
    return Sight(True, f"It answers {status}.") if 200 <= status < 300 else Sight(None, f"It answers {status}.")


# --- under the lock of the run ---------------------------------------------------------------------------------------


def ask(run: Run, wave: Wave, *, now: datetime) -> list[Any]:
    """Begin with all gates of a wave that are still open; the keys of the commands that it makes."""
    commands = []
    for gate in wave.gates.filter(state=GateState.PENDING):
        try:
            if gate.kind == "approval":
                _ask_people(run, gate, now=now)
            elif gate.kind == "document":
                commands.append(_run_document(run, wave, gate, now=now))
            elif gate.kind in {"alarm", "probe"}:
                move(gate, GateState.WAITING, GATE_MOVES, began_at=now, words="Is looked at.")
            else:
                raise UserError(f"This installation knows no gate of the kind {gate.kind}.")
        except UserError as error:
            _end(run, gate, GateState.FAILED, str(error), now=now)
    return commands


def take(run: Run, sights: Mapping[Any, Sight], *, now: datetime) -> None:
    """Write down how the gates fare that are asked, and alarms that ring during a soak."""
    gates = GateCheck.objects.filter(wave__run=run, state__in=_OPEN).select_related("wave", "approval", "command")
    for gate in gates.filter(wave__state__in=[WaveState.SOAKING, WaveState.GATED]):
        sight = sights.get(gate.pk)
        if gate.wave.state == WaveState.SOAKING or gate.state == GateState.PENDING:
            if sight is not None and sight.passed is False:
                _end(run, gate, GateState.FAILED, sight.words, now=now)
        elif gate.kind == "approval":
            _count_votes(run, gate, now=now)
        elif gate.kind == "document":
            _take_command(run, gate, now=now)
        elif sight is not None:
            _take_sight(run, gate, sight, now=now)


def _take_sight(run: Run, gate: GateCheck, sight: Sight, *, now: datetime) -> None:
    minutes = int(gate.settings.get("minutes") or MINUTES)
    if sight.passed:
        _end(run, gate, GateState.PASSED, sight.words, now=now)
    elif sight.passed is False:
        _end(run, gate, GateState.FAILED, sight.words, now=now)
    elif gate.began_at is not None and now >= gate.began_at + timedelta(minutes=minutes):
        _end(run, gate, GateState.FAILED, f"{sight.words} That was so for {minutes} minutes.", now=now)
    else:
        GateCheck.objects.filter(pk=gate.pk).update(words=sight.words[:512])


# Approvals


def _ask_people(run: Run, gate: GateCheck, *, now: datetime) -> None:
    """Raises UserError if too few people could ever approve it."""
    if run.actor is None:
        raise UserError(f"{run.actor_name} is gone, for whom it would be asked.")
    quorum = int(gate.settings.get("quorum") or 1)
    approvers = gate.settings.get("approvers") or approvals.DEFAULT_APPROVERS
    request = approvals.ask(
        deed=DEED,
        summary=f"Let {run} go on after {gate.wave}",
        requested_by=run.actor,
        expires_at=now + timedelta(hours=int(gate.settings.get("hours") or HOURS)),
        details=_details(run, gate),
        quorum=quorum,
        approvers=approvers,
        subject=_subject(run),
        reason=run.reason,
    )
    words = f"Waits for {quorum} of {', '.join(approvers)}." if quorum > 1 else f"Waits for {', '.join(approvers)}."
    move(gate, GateState.WAITING, GATE_MOVES, began_at=now, approval=request, words=words[:512])
    notify.notify(
        TOPIC,
        dedup_key=str(gate.pk),
        title=f"{run} waits for an approval after {gate.wave}",
        text=words,
        url=request.get_absolute_url(),
        severity="warning",
    )


def _details(run: Run, gate: GateCheck) -> dict[str, Any]:
    return {"run": str(run.pk), "plan": run.plan_hash, "gate": str(gate.pk)}


def _subject(run: Run) -> approvals.Target:
    return approvals.Target(run._meta.label_lower, str(run.pk), str(run))


def _count_votes(run: Run, gate: GateCheck, *, now: datetime) -> None:
    request = gate.approval
    if request is None:
        _end(run, gate, GateState.FAILED, "The request for an approval is gone.", now=now)
    elif request.state == ApprovalState.PENDING and now < request.expires_at:
        return
    elif request.state in {ApprovalState.APPROVED, ApprovalState.USED}:
        names = ", ".join(request.votes.filter(approves=True).values_list("user_name", flat=True))
        try:
            if request.state == ApprovalState.APPROVED and run.actor is not None:
                approvals.take(request.pk, deed=DEED, details=_details(run, gate), actor=run.actor)
        except UserError as error:
            _end(run, gate, GateState.FAILED, str(error), now=now)
        else:
            _end(run, gate, GateState.PASSED, f"Approved by {names}.", now=now)
    elif request.state == ApprovalState.DENIED:
        vote = request.votes.filter(approves=False).first()
        words = f"Denied by {vote.user_name}: {vote.reason}" if vote else "Denied."
        _end(run, gate, GateState.FAILED, words, now=now)
    elif request.state == ApprovalState.WITHDRAWN:
        _end(run, gate, GateState.FAILED, "The request for an approval was taken back.", now=now)
    else:
        _end(run, gate, GateState.FAILED, "Nobody answered in time.", now=now)


# Health documents


def _run_document(run: Run, wave: Wave, gate: GateCheck, *, now: datetime) -> Any:
    """Make its command; its key. Raises UserError if there is nothing to run, or nothing to run it on."""
    instances = _instances(run, wave, gate)
    if not instances:
        raise UserError("There is no instance to run the health document on.")
    name, version = str(gate.settings["document"]), str(gate.settings.get("version") or "")
    places = {(each.account_id, each.region_id) for each in instances}
    found = versions.resolved(run, name, version, places)
    if len(found) < len(places):
        raise UserError(f"There is no document {name} in the account and region of each of its targets.")
    if len(set(found.values())) > 1:
        raise UserError(f"The default version of {name} is not the same everywhere; name one.")
    bound = Bound.NOTHING  # its own targets were let out of service, and it looks whether they are well
    if gate.settings.get("targets"):  # of others nobody has asked the calendars
        bound = bound_of(run, now=now)
    order = orders.Order(
        document_name=name,
        document_version=version,
        parameters=gate.settings.get("parameters") or {},
        timeout_seconds=int(gate.settings.get("timeout_seconds") or STEP_SECONDS),
        origin=origin_of(run),
        origin_name=f"{run}, {gate}",
        actor=run.actor,
        actor_name=run.actor_name,
        deed=Deed.RUN_DOCUMENT.value,
        permission=START_PERMISSION,
        bound_by=bound,
        reason=run.reason,
        source_address=run.source_address,
        mfa_at=run.mfa_at,
    )
    made = orders.place(order, instances, next(iter(found.values())), now=now)
    command = Command.objects.get(pk=next(iter(made.values())).command_id)
    move(gate, GateState.WAITING, GATE_MOVES, began_at=now, command=command, words=f"Runs on {len(instances):,}.")
    return command.pk


def _instances(run: Run, wave: Wave, gate: GateCheck) -> list[Instance]:
    """Raises UserError if it names too many."""
    if str(gate.settings.get("targets") or "").strip():
        return health.elsewhere(gate.settings, run.actor)
    well = RunTarget.objects.filter(wave=wave, state=TargetState.SUCCEEDED)
    present = Instance.objects.present().select_related("account", "region")
    return list(present.filter(pk__in=well.values("instance_row")).order_by("name", "instance_id"))


def _take_command(run: Run, gate: GateCheck, *, now: datetime) -> None:
    if gate.command is None:
        _end(run, gate, GateState.FAILED, "Its command is gone.", now=now)
    elif gate.command.is_over:
        rows = gate.command.invocations.exclude(state=InvocationState.SUCCEEDED)
        unwell = rows.order_by("instance_name").first()
        if unwell is None:
            words = f"Well on all {gate.command.invocations.count():,}."
            _end(run, gate, GateState.PASSED, words, now=now)
        else:
            count = rows.count()
            more = f", and on {count - 1:,} more" if count > 1 else ""
            details = unwell.details or unwell.state
            _end(run, gate, GateState.FAILED, f"Not well on {unwell.instance_name}{more}: {details}", now=now)


# Ends


def _end(run: Run, gate: GateCheck, to: str, words: str, *, now: datetime) -> None:
    began = {} if gate.began_at else {"began_at": now}
    move(gate, to, GATE_MOVES, ended_at=now, words=words[:512], **began)
    tone = "bad" if to == GateState.FAILED else "good"
    text = f"The {gate} {'says no' if to == GateState.FAILED else 'is open'}: {words}"
    RunEvent.objects.create(run=run, wave=gate.wave, at=now, tone=tone, text=text[:512])
    notify.resolve(TOPIC, dedup_key=str(gate.pk))
    logger.info("gate ended run=%s wave=%s kind=%s state=%s", run.pk, gate.wave.position, gate.kind, to)


def reset(wave: Wave, *, actor: User) -> None:
    """Have all gates of a wave asked anew, once it comes to them."""
    for gate in wave.gates.exclude(state__in=[GateState.PENDING, GateState.OVERRULED]).select_related("approval"):
        withdraw(gate, actor=actor)
        move(
            gate,
            GateState.PENDING,
            GATE_MOVES,
            approval=None,
            command=None,
            began_at=None,
            ended_at=None,
            words="",
        )


def withdraw(gate: GateCheck, *, actor: User) -> None:
    """Nobody is asked any more. Only who asked takes a request back; another's stays until it ends by itself."""
    request = gate.approval
    if request is not None and request.state == ApprovalState.PENDING and request.requested_by_id == actor.pk:
        approvals.withdraw(request.pk, actor=actor)
    notify.resolve(TOPIC, dedup_key=str(gate.pk))
