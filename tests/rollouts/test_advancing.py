"""Runs advanced over the rows of the database, one look after the other."""

from datetime import timedelta

import pytest

from fleetops.doctor.checks import Visit, runs
from fleetops.notify.models import Notice
from fleetops.rollouts import advancing
from fleetops.rollouts.models import ClusterRule, ClusterSlot
from fleetops.runcommand.models import Command

from .fleet import Aws, carry_through, look, make_fleet, make_owner, make_run, states

pytestmark = pytest.mark.django_db


@pytest.fixture
def owner(roles):
    return make_owner(roles)


@pytest.fixture
def aws():
    return Aws()


def step(name, **more):
    return {"document": name, "version": "", "parameters": {}} | more


def test_a_run_goes_through_its_waves_and_ends_well(owner, aws):
    fleet = make_fleet(5)
    run = make_run(owner, [fleet[:1], fleet[1:]])
    look(run)
    assert states(run) == {"node-1": "sent"} | {f"node-{n}": "queued" for n in range(2, 6)}
    aws.take()
    look(run)
    assert Command.objects.count() == 1  # looking again sends nothing again
    aws.answer_all()
    look(run)
    look(run)
    assert list(run.waves.values_list("state", flat=True)) == ["succeeded", "running"]
    assert carry_through(run, aws).state == "succeeded"
    assert set(states(run).values()) == {"succeeded"} and run.counts == {"succeeded": 5}
    assert all(documents == ["say-it"] for documents in aws.sent.values()) and len(aws.sent) == 5
    assert [command.invocations.count() for command in Command.objects.order_by("id")] == [1, 4]


def test_a_command_of_a_run_says_whose_it_is(owner, aws):
    run = make_run(owner, [make_fleet(1)], reason="CHG-7")
    look(run)
    command = Command.objects.get()
    assert command.origin == f"rollouts:{run.pk}" and command.actor == owner and command.reason == "CHG-7"
    assert command.permission == "rollouts.start_run" and command.bound_by == "calendars"


def test_each_target_is_prepared_probed_and_brought_back(owner, aws):
    run = make_run(
        owner,
        [make_fleet(2)],
        steps_before=[step("drain")],
        probes=[step("probe")],
        steps_after=[step("undrain")],
    )
    look(run)
    assert set(states(run).values()) == {"preparing"}
    assert carry_through(run, aws).state == "succeeded"
    assert set(map(tuple, aws.sent.values())) == {("drain", "say-it", "probe", "undrain")}
    target = run.targets.first()
    stamps = [target.went_at, target.sent_at, target.ran_at, target.rebooted_at, target.reported_at, target.probed_at]
    assert stamps == sorted(stamps) and target.ended_at >= target.probed_at


@pytest.mark.parametrize(
    ("document", "documents", "words"),
    [
        ("drain", ["drain", "undrain"], "Step before 1, drain: The command failed"),
        ("say-it", ["drain", "say-it", "undrain"], "The command failed"),
        ("probe", ["drain", "say-it", "probe", "undrain"], "Probe 1, probe: The command failed"),
        ("undrain", ["drain", "say-it", "probe", "undrain"], "It is well, but was not brought back"),
    ],
)
def test_whatever_fails_the_target_is_brought_back_and_says_what_it_was(owner, aws, document, documents, words):
    run = make_run(
        owner, [make_fleet(1)], steps_before=[step("drain")], probes=[step("probe")], steps_after=[step("undrain")]
    )
    for _ in range(12):
        look(run)
        aws.take()
        aws.answer_all("failed", document=document)
        aws.answer_all()
    assert states(look(run)) == {"node-1": "failed"} and run.state == "stopped"
    assert next(iter(aws.sent.values())) == documents
    assert run.targets.get().reason.startswith(words)


def test_a_failure_counts_before_the_target_has_been_brought_back(owner, aws):
    run = make_run(owner, [make_fleet(3)], concurrency="1", steps_after=[step("undrain")])
    look(run)
    aws.take().answer_all("failed")
    look(run)
    assert run.state == "stopped" and states(run)["node-1"] == "sent" and run.targets.get(position=1).outcome == "bad"
    aws.take().answer_all()
    assert states(look(run)) == {"node-1": "failed", "node-2": "queued", "node-3": "queued"}


@pytest.mark.parametrize(
    ("state", "details", "words"),
    [
        ("failed", "Undeliverable", "Undeliverable"),
        ("failed", "AccessDenied", "Access denied"),
        ("failed", "InvalidPlatform", "Invalid platform"),
        ("timed_out", "DeliveryTimedOut", "Delivery timed out"),
        ("timed_out", "ExecutionTimedOut", "Execution timed out"),
        ("cancelled", "Cancelled", "Cancelled in AWS"),
        ("failed", "Terminated", "Terminated"),
    ],
)
def test_what_aws_counts_as_no_error_is_one_here(owner, aws, state, details, words):
    run = make_run(owner, [make_fleet(2)], concurrency="1")
    look(run)
    aws.take().answer_all(state, details)
    assert look(run).state == "stopped"
    assert run.targets.get(position=1).reason.startswith(words)
    assert run.end_reason == "1 target failed, and the run's budget bears 0."


def test_a_stop_is_told_once_and_is_over_when_it_goes_on(owner, aws):
    run = make_run(owner, [make_fleet(2)], concurrency="1")
    look(run)
    aws.take().answer_all("failed")
    look(run)
    look(run)
    notice = Notice.objects.get(topic="rollouts.stopped")
    assert notice.closed_at is None and notice.repeats == 0


def test_a_stop_calls_back_what_aws_does_not_have(owner, aws):
    fleet = make_fleet(3)
    run = make_run(owner, [fleet], concurrency="2")
    look(run)
    aws.take().answer_all(on=fleet[:1])
    look(run)
    assert states(run)["node-3"] == "sent"  # made, and not sent yet
    aws.answer_all("failed", on=fleet[1:2])
    look(run)
    aws.take()
    look(run)
    assert run.state == "stopped" and states(run)["node-3"] == "queued"
    assert fleet[2].instance_id not in aws.sent


def test_the_doctor_tells_of_runs_that_have_stopped_and_that_no_worker_takes(owner, aws):
    visit = Visit(has_database=True)
    run = make_run(owner, [make_fleet(1)])
    assert [each.state for each in runs(visit)] == ["ok"]
    run.due_at -= timedelta(minutes=5)
    run.save()
    assert [each.state for each in runs(visit)] == ["failed"]
    look(run)
    aws.take().answer_all("failed")
    look(run)
    assert [each.state for each in runs(visit)] == ["warning"]


def test_an_instance_that_is_gone_fails_without_being_sent(owner, aws):
    fleet = make_fleet(2)
    fleet[0].gone_at = advancing.clock_now()
    fleet[0].save()
    run = make_run(owner, [fleet])
    look(run)
    assert run.state == "stopped" and states(run) == {"node-1": "failed", "node-2": "queued"}
    assert Command.objects.count() == 0


def test_a_document_that_is_nowhere_fails_its_targets_in_words(owner, aws):
    run = make_run(owner, [make_fleet(2)], subject={"document": "nowhere"})
    look(run)
    assert run.state == "stopped" and set(states(run).values()) == {"failed"}
    assert "no document nowhere" in run.targets.first().reason


def test_an_unknown_kind_parks_the_run(owner):
    run = make_run(owner, [make_fleet(1)], kind="unheard-of")
    look(run)
    assert run.state == "running" and "unheard-of" in run.waits_for and states(run) == {"node-1": "queued"}


def test_never_more_members_of_a_cluster_are_out_than_its_rule_lets_whatever_the_runs_say(owner, aws):
    fleet = make_fleet(4, tags={1: {"cluster": "db"}, 2: {"cluster": "db"}, 3: {"cluster": "db"}})
    ClusterRule.objects.create(tag="cluster", most_out=1)
    one, two = make_run(owner, [fleet[:2]]), make_run(owner, [fleet[2:]])
    look(one)
    look(two)
    assert states(one) == {"node-1": "sent", "node-2": "queued"}
    assert states(two) == {"node-3": "queued", "node-4": "sent"}
    assert "Waits for a place in" in two.targets.get(position=1).reason
    assert ClusterSlot.objects.count() == 1
    for _ in range(12):
        assert ClusterSlot.objects.count() <= 1
        aws.take().answer_all()
        look(one)
        look(two)
    assert one.state == two.state == "succeeded" and not ClusterSlot.objects.exists()


def test_a_member_that_is_offline_takes_a_place_of_its_cluster_and_not_against_itself(owner, aws):
    fleet = make_fleet(3, tags={n: {"cluster": "db"} for n in (1, 2, 3)})
    ClusterRule.objects.create(tag="cluster", values="d*", most_out=1)
    fleet[2].ping_status = "ConnectionLost"
    fleet[2].save()
    run = make_run(owner, [fleet])
    look(run)
    # The one that is away anyhow may go: nobody else is out.
    assert states(run) == {"node-1": "queued", "node-2": "queued", "node-3": "sent"}


def test_a_clock_that_is_put_forward_does_not_end_a_soak(owner, aws, tmp_path, monkeypatch):
    from fleetops import clock

    path = tmp_path / "clock.json"
    clock.set_shift(path)
    monkeypatch.setattr(clock, "_file", path)
    fleet = make_fleet(2)
    run = make_run(owner, [fleet[:1], fleet[1:]], wave_facts={1: {"soak_seconds": 600}})
    for _ in range(3):
        look(run)
        aws.take().answer_all()
    assert run.waves.first().state == "soaking"
    clock.set_shift(path, jump=3600)
    look(run)
    assert run.waves.first().state == "soaking"
    for _ in range(11):
        clock.set_shift(path, jump=60)
        look(run)
    assert run.waves.first().state == "succeeded"
    clock.set_shift(path, jump=-3600)
    assert advancing.claim_due(now=clock.now()) == [run.pk]  # what was due then is not due in an hour
