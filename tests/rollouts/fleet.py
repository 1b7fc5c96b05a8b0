"""Runs made by hand, and an AWS that answers only what a test tells it to: who has which command, and how it ends."""

from collections import defaultdict

from fleetops.clock import now
from fleetops.policy import services as policy
from fleetops.rollouts import advancing
from fleetops.rollouts.models import GateCheck, Run, RunTarget, Wave
from fleetops.rollouts.states import RunState
from fleetops.runcommand.models import Command, Dispatch, Invocation
from fleetops.runcommand.states import COMMAND_MOVES, DISPATCH_MOVES, INVOCATION_MOVES
from fleetops.transitions import move
from tests.factories import make_document, make_instance, make_region, make_user


def make_owner(roles, name="mei"):
    """Somebody who may start runs, and run documents everywhere."""
    policy.make_defaults()
    return make_user(name, role="administrator")


def make_run(actor, waves, *, gates=None, state=RunState.RUNNING, wave_facts=None, **fields) -> Run:
    """A run of the document say-it that has been started; `waves` are lists of instances, `gates` by position."""
    moment = now()
    facts = {
        "kind": "document",
        "name": "say it everywhere",
        "subject": {"document": "say-it", "version": "", "parameters": {}, "timeout_seconds": 600},
        "targets_text": "all",
        "concurrency": "100%",
        "budget": "0",
        "actor": actor,
        "actor_name": actor.username,
        "plan_hash": "0" * 64,
    }
    if state != RunState.DRAFT:
        facts |= {"started_at": moment, "seen_at": moment, "due_at": moment}
    run = Run.objects.create(state=state, **(facts | fields))
    position = 0
    for number, members in enumerate(waves, 1):
        more = (wave_facts or {}).get(number, {})
        wave = Wave.objects.create(run=run, position=number, name=f"wave {number}", **more)
        for order, gate in enumerate((gates or {}).get(number, ()), 1):
            kept = {name: value for name, value in gate.items() if name != "kind"}
            GateCheck.objects.create(wave=wave, position=order, kind=gate["kind"], settings=kept)
        for each in members:
            position += 1
            RunTarget.objects.create(
                run=run,
                wave=wave,
                position=position,
                instance_row=each,
                account=each.account,
                region=each.region,
                instance_id=each.instance_id,
                instance_name=str(each),
            )
    return run


def make_fleet(count, *, tags=None, region=None):
    """Instances of one region that has the documents of these tests."""
    region = region or make_region()
    for name in ("say-it", "drain", "undrain", "probe"):
        make_document(name, region=region)
    return [make_instance(region=region, name=f"node-{n}", tags=(tags or {}).get(n)) for n in range(1, count + 1)]


class Aws:
    """What AWS has of the commands that were made, without calling it: a test answers for the agents."""

    def __init__(self):
        self.sent = defaultdict(list)  # by instance: the documents that reached it

    def take(self):
        """Send all that waits, as runcommand would."""
        for command in Command.objects.open().filter(state="running"):
            rows = list(command.invocations.filter(state="planned", dispatch=None))
            for row in rows:
                self.sent[row.instance_id].append(command.document_name)
            if rows:
                dispatch = Dispatch.objects.create(
                    command=command, account=rows[0].account, region=rows[0].region, document_version="1"
                )
                move(dispatch, "sending", DISPATCH_MOVES)
                move(dispatch, "sent", DISPATCH_MOVES, sent_at=now())
                for row in rows:
                    move(row, "pending", INVOCATION_MOVES, dispatch=dispatch)
        return self

    def open(self):
        return list(Invocation.objects.filter(state__in=["pending", "running"]).select_related("command"))

    def answer(self, invocation, state="succeeded", details="", code=None):
        facts = {"details": details, "ended_at": now(), "exit_code": code}
        move(invocation, state, INVOCATION_MOVES, **facts)
        command = invocation.command
        if not command.invocations.filter(state__in=["planned", "pending", "running"]).exists():
            unwell = command.invocations.exclude(state="succeeded").exists()
            command.refresh_from_db()
            if command.is_open:
                move(command, "failed" if unwell else "succeeded", COMMAND_MOVES, ended_at=now(), due_at=None)

    def answer_all(self, state="succeeded", details="", *, document="", on=None):
        """Answer all that is open, of one document or on these instances; how many there were."""
        count = 0
        for each in self.open():
            is_meant = not document or each.command.document_name == document
            if is_meant and (on is None or each.instance_row_id in {one.pk for one in on}):
                self.answer(each, state, details)
                count += 1
        return count


def look(run) -> Run:
    """One look at the run, as if nothing had to be gathered."""
    Run.objects.filter(pk=run.pk).update(sends_at=None)
    run.targets.filter(state__in=["ran", "rebooted"]).update(due_at=None)
    advancing.advance(run.pk)
    run.refresh_from_db()
    return run


def states(run) -> dict[str, str]:
    return dict(run.targets.order_by("position").values_list("instance_name", "state"))


def carry_through(run, aws, looks=60) -> Run:
    """Everything answers well until the run is over, or waits for a person."""
    for _ in range(looks):
        look(run)
        aws.take().answer_all()
        if run.is_over or (run.state in {"paused", "stopped"} and not aws.open()):
            break
    return look(run)
