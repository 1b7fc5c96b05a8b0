"""What people do to runs: who may, what comes of it, and that each of it is in the audit log."""

from datetime import timedelta

import pytest

from fleetops.approvals import services as approvals
from fleetops.approvals.models import ApprovalRequest
from fleetops.audit.models import AuditEvent
from fleetops.calendars.models import Calendar
from fleetops.clock import now
from fleetops.errors import Denied, UserError
from fleetops.notify.models import Notice
from fleetops.policy import services as policy
from fleetops.rollouts import steering
from fleetops.rollouts.models import Run
from fleetops.runcommand import services as commands
from fleetops.runcommand.models import Command
from tests.factories import make_user

from .fleet import Aws, carry_through, look, make_fleet, make_owner, make_run, states

pytestmark = pytest.mark.django_db


@pytest.fixture
def owner(roles):
    return make_owner(roles)


@pytest.fixture
def aws():
    return Aws()


def actions(run):
    return list(AuditEvent.objects.filter(target_id=str(run.pk)).order_by("id").values_list("action", flat=True))


def stopped(owner, aws, **fields):
    """A run of five whose first target failed."""
    run = make_run(owner, [make_fleet(5)], concurrency="1", **fields)
    look(run)
    aws.take().answer_all("failed")
    assert look(run).state == "stopped"
    return run


def test_a_pause_calls_back_what_aws_does_not_have_and_lets_the_rest_end(owner, aws):
    fleet = make_fleet(4)
    run = make_run(owner, [fleet], concurrency="2")
    look(run)
    aws.take()
    aws.answer_all(on=fleet[:1])
    look(run)
    look(run)
    assert states(run)["node-3"] == "sent"  # made, and not sent yet
    steering.pause(run, actor=owner, reason="the site is slow")
    aws.take()
    assert set(aws.sent) == {each.instance_id for each in fleet[:2]}
    aws.answer_all()
    look(run)
    look(run)
    assert states(run) == {"node-1": "succeeded", "node-2": "succeeded", "node-3": "queued", "node-4": "queued"}
    assert run.due_at is None  # until a person does something
    steering.resume(run, actor=owner)
    assert carry_through(run, aws).state == "succeeded"
    assert all(documents == ["say-it"] for documents in aws.sent.values())
    assert actions(run) == ["rollouts.wave.start", "rollouts.pause", "rollouts.resume", "rollouts.run.end"]


def test_who_is_prepared_when_it_is_paused_is_brought_back_and_goes_again_later(owner, aws):
    before, after = [{"document": "drain"}], [{"document": "undrain"}]
    run = make_run(owner, [make_fleet(1)], steps_before=before, steps_after=after)
    look(run)
    aws.take()
    steering.pause(run, actor=owner)
    aws.answer_all()
    look(run)
    aws.take().answer_all()
    assert states(look(run)) == {"node-1": "queued"} and aws.sent.popitem()[1] == ["drain", "undrain"]
    steering.resume(run, actor=owner)
    assert carry_through(run, aws).state == "succeeded" and run.targets.get().attempt == 2


def test_failed_targets_are_tried_again_and_the_run_goes_on(owner, aws):
    run = stopped(owner, aws)
    assert Notice.objects.filter(topic="rollouts.stopped", closed_at=None).count() == 1
    assert steering.retry_failed(run, actor=owner) == 1
    assert run.state == "running" and not Notice.objects.filter(closed_at=None).exists()
    assert carry_through(run, aws).state == "succeeded"
    assert aws.sent[run.targets.get(position=1).instance_id] == ["say-it", "say-it"]
    with pytest.raises(UserError, match="cannot be tried again"):
        steering.retry_failed(run, actor=owner)


def test_failed_targets_are_tried_again_after_the_end(owner, aws):
    run = make_run(owner, [make_fleet(3)], budget="1", concurrency="1")
    look(run)
    aws.take().answer_all("failed")
    assert carry_through(run, aws).state == "failed" and run.counts == {"failed": 1, "succeeded": 2}
    assert Notice.objects.get(topic="rollouts.ended").closed_at is None
    steering.retry_failed(run, actor=owner)
    assert run.counts == {}  # lists count the targets themselves again
    assert carry_through(run, aws).state == "succeeded"
    assert Notice.objects.get(topic="rollouts.ended").closed_at is not None


def test_a_target_whose_command_aws_still_has_is_not_tried_again(owner, aws):
    fleet = make_fleet(2)
    run = make_run(owner, [fleet])
    look(run)
    aws.take()
    fleet[0].gone_at = run.started_at
    fleet[0].save()
    assert states(look(run))["node-1"] == "failed"
    with pytest.raises(UserError, match="AWS still shows"):
        steering.retry_failed(run, actor=owner)


def test_a_stop_is_not_resumed_while_the_budget_is_spent(owner, aws):
    run = stopped(owner, aws)
    with pytest.raises(UserError, match="budget bears 0"):
        steering.resume(run, actor=owner)
    steering.roll_forward(run, actor=owner, reason="that one is broken anyway")
    look(run)
    aws.take().answer_all("failed")
    assert look(run).state == "stopped"  # what was accepted is what had failed by then
    steering.roll_forward(run, actor=owner, reason="that one too")
    assert carry_through(run, aws).state == "failed" and run.counts == {"failed": 2, "succeeded": 3}


def test_accepted_failures_that_are_tried_again_are_accepted_no_more(owner, aws):
    run = stopped(owner, aws)
    steering.roll_forward(run, actor=owner, reason="go on")
    steering.retry_failed(run, actor=owner)
    look(run)
    aws.take().answer_all("failed")
    assert look(run).state == "stopped"


def test_rolling_forward_says_why(owner, aws):
    run = stopped(owner, aws)
    with pytest.raises(UserError, match="Say why"):
        steering.roll_forward(run, actor=owner, reason=" \n ")


def test_a_failed_target_that_is_left_out_counts_no_more(owner, aws):
    run = stopped(owner, aws)
    steering.skip_target(run.targets.get(position=1), actor=owner, reason="it is to be replaced")
    steering.resume(run, actor=owner)
    look(run)
    with pytest.raises(UserError, match="only what waits or failed"):
        steering.skip_target(run.targets.get(position=2), actor=owner, reason="no")
    assert carry_through(run, aws).state == "succeeded"


def test_a_wave_is_left_out_with_what_it_had_not_sent(owner, aws):
    fleet = make_fleet(4)
    run = make_run(
        owner,
        [fleet[:3], fleet[3:]],
        concurrency="1",
        wave_facts={1: {"soak_seconds": 900}},
        gates={1: [{"kind": "?"}]},
    )
    look(run)
    aws.take()
    steering.skip_wave(run.waves.first(), actor=owner, reason="only the rest is urgent")
    assert states(run) == {"node-1": "sent", "node-2": "skipped", "node-3": "skipped", "node-4": "queued"}
    assert carry_through(run, aws).state == "succeeded"


def test_an_abort_sends_nothing_more_and_awaits_what_is_out(owner, aws):
    fleet = make_fleet(3)
    run = make_run(owner, [fleet], concurrency="2", steps_after=[{"document": "undrain"}])
    look(run)
    aws.take()
    steering.abort(run, actor=owner, reason="wrong document")
    look(run)
    assert run.state == "aborting" and states(run)["node-3"] == "cancelled"
    assert carry_through(run, aws).state == "aborted"
    assert states(run) == {"node-1": "succeeded", "node-2": "succeeded", "node-3": "cancelled"}
    assert fleet[2].instance_id not in aws.sent
    for deed in (steering.pause, steering.resume, steering.abort):
        with pytest.raises(UserError, match="is aborted"):
            deed(run, actor=owner)


def test_an_abort_may_have_aws_cancel_what_it_has(owner, aws):
    run = make_run(owner, [make_fleet(1)])
    look(run)
    aws.take()
    steering.abort(run, actor=owner, cancel=True)
    assert Command.objects.get().state == "cancelling"


def test_a_command_that_a_person_cancels_by_itself_fails_its_targets(owner, aws):
    run = make_run(owner, [make_fleet(2)])
    look(run)
    commands.cancel(Command.objects.get(), actor=owner)
    look(run)
    assert run.state == "stopped" and set(states(run).values()) == {"failed"}
    assert run.targets.first().reason == "Cancelled before it was sent."


def test_nothing_is_sent_from_the_end_of_a_run_on(owner, aws):
    run = make_run(owner, [make_fleet(3)], concurrency="1", ends_by=now() + timedelta(hours=1))
    look(run)
    Run.objects.filter(pk=run.pk).update(ends_by=now())
    look(run)
    assert run.state == "failed" and run.end_reason == "3 were not reached in time."
    aws.take()
    assert not aws.sent and set(states(run).values()) == {"cancelled"}
    with pytest.raises(UserError, match="No target has failed"):
        steering.retry_failed(run, actor=owner)


def test_of_two_people_the_second_is_told_what_the_first_did(owner, aws):
    run = make_run(owner, [make_fleet(1)])
    mine, yours = Run.objects.get(pk=run.pk), Run.objects.get(pk=run.pk)
    steering.pause(mine, actor=owner)
    with pytest.raises(UserError, match="is paused"):
        steering.pause(yours, actor=owner)
    steering.abort(mine, actor=owner)
    with pytest.raises(UserError, match="is abort"):
        steering.resume(yours, actor=owner)


@pytest.mark.parametrize("role", ["viewer", "operator", "auditor"])
def test_who_may_not_steer_is_turned_away_and_that_is_audited(owner, aws, role):
    run, other = stopped(owner, aws), make_user(role=role)
    target, wave = run.targets.first(), run.waves.first()
    deeds = [
        lambda: steering.pause(run, actor=other),
        lambda: steering.resume(run, actor=other),
        lambda: steering.abort(run, actor=other),
        lambda: steering.retry_failed(run, actor=other),
        lambda: steering.roll_forward(run, actor=other, reason="x"),
        lambda: steering.skip_target(target, actor=other, reason="x"),
        lambda: steering.skip_wave(wave, actor=other, reason="x"),
        lambda: steering.ask_override(run, actor=other, reason="x"),
    ]
    for deed in deeds:
        with pytest.raises(Denied):
            deed()
    refused = AuditEvent.objects.filter(action="rollouts.steer.refuse", outcome="denied", actor_id=str(other.pk))
    assert refused.count() == len(deeds)
    assert not steering.may_steer(run, other) and steering.may_steer(run, make_user(role="patch_owner"))


def test_the_policy_is_asked_of_whoever_has_more_sent(owner, aws):
    run, other = stopped(owner, aws), make_user(role="patch_owner")
    policy.create_rule(
        actor="tests",
        name="not by them",
        effect="deny",
        users=[other],
        deeds=["run_document"],
        targets="all",
        documents=["*"],
        confirmed=True,
    )
    with pytest.raises(Denied, match="not by them"):
        steering.retry_failed(run, actor=other)
    steering.abort(run, actor=other)  # to stop is always allowed
    assert run.state == "aborting"


def test_others_may_let_it_run_through_a_freeze(owner, aws):
    boss = make_user("boss", role="administrator")
    freeze(owner)
    run = make_run(owner, [make_fleet(1)])
    look(run)
    assert states(run) == {"node-1": "queued"} and "frozen" in run.waits_for
    steering.ask_override(run, actor=owner, reason="CVE-2026-1")
    request = ApprovalRequest.objects.get(deed="override_freeze")
    look(run)
    assert states(run) == {"node-1": "queued"}
    approvals.vote(request.pk, actor=boss, approve=True)
    look(run)
    assert states(run) == {"node-1": "sent"} and Command.objects.get().bound_by == "windows"
    request.refresh_from_db()
    assert request.state == "used"
    assert carry_through(run, aws).state == "succeeded"


def test_a_freeze_holds_some_and_others_go(owner, aws):
    freeze(owner, targets="tag:env=prod")
    run = make_run(owner, [make_fleet(3, tags={1: {"env": "prod"}})])
    look(run)
    assert states(run) == {"node-1": "queued", "node-2": "sent", "node-3": "sent"}
    assert run.targets.first().reason.startswith("Held: frozen by")


def freeze(owner, *, targets="all", deeds=("*",)):
    stamps = "DTSTART:20200101T000000Z\r\nDTEND:20600101T000000Z"
    text = (
        "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//tests//\r\nBEGIN:VEVENT\r\nUID:1\r\nDTSTAMP:20200101T000000Z\r\n"
        f"{stamps}\r\nSUMMARY:year's end\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"
    )
    return Calendar.objects.create(
        name="Freeze", kind="freeze", source="upload", text=text, deeds=list(deeds), targets=targets, created_by=owner
    )


def test_an_aborted_run_whose_probe_is_cancelled_before_it_was_sent_ends(owner, aws):
    run = make_run(owner, [make_fleet(1)], probes=[{"document": "probe", "version": "", "parameters": {}}])
    look(run)
    aws.take().answer_all()
    look(run)
    look(run)
    steering.abort(run, actor=owner)
    commands.cancel(Command.objects.order_by("-id").first(), actor=owner)
    for _ in range(3):
        look(run)
    run.refresh_from_db()
    assert run.state == "aborted"
