"""A document on instances, from the plan to the end, with the real endpoint and agents by hand."""

from datetime import timedelta

import pytest

from fleetops.audit.models import AuditEvent
from fleetops.calendars import services as calendars
from fleetops.clock import now
from fleetops.errors import Denied, UserError
from fleetops.policy import services as policy
from fleetops.policy.models import Rule
from fleetops.runcommand import services
from fleetops.runcommand.models import Command
from tests.factories import make_instance, make_user

from .conftest import ends, plan, started, states, step

pytestmark = pytest.mark.django_db(transaction=True)


def events(action: str) -> list[AuditEvent]:
    return list(AuditEvent.objects.filter(action=action).order_by("at"))


def test_a_command_runs_on_all_and_tells_what_each_said(document, fleet, operator, agents):
    command = started(document, fleet, operator, commands=["echo hi"], reason="a look around")
    assert command.state == "running" and states(command) == dict.fromkeys(["node-1", "node-2", "node-3"], "planned")
    step(command)
    assert command.dispatches.count() == 1
    assert states(command) == dict.fromkeys(["node-1", "node-2", "node-3"], "pending")
    for agent in agents[:2]:
        agent.run(agent.job(), out=f"hi from {agent.instance_id}\n")
    agents[2].run(agents[2].job(), "Failed", 3, err="failed to run commands: exit status 3")
    ends(command, "failed")
    rows = {each.instance_name: each for each in command.invocations.all()}
    assert (rows["node-1"].state, rows["node-1"].exit_code) == ("succeeded", 0)
    assert "hi from" in rows["node-1"].head and rows["node-1"].ended_at >= rows["node-1"].started_at
    assert (rows["node-3"].state, rows["node-3"].exit_code) == ("failed", 3)
    services.read_output(rows["node-3"], actor=operator)
    (output,) = rows["node-3"].outputs
    assert output["stderr"].endswith("exit status 3") and output["exit_code"] == 3
    assert command.due_at is None and command.ended_at >= command.started_at


def test_the_audit_log_has_names_and_digests_of_parameters_never_what_they_say(document, fleet, operator):
    command = started(document, fleet[:1], operator, commands=["mysql -p hunter2"], reason="night shift")
    (event,) = events("runcommand.start")
    assert event.target_id == str(command.pk) and event.reason == "night shift"
    assert event.details["parameters"] == [
        {"name": "commands", "values": 1, "digest": services.digest(["mysql -p hunter2"])}
    ]
    assert "hunter2" not in str(event.details)
    assert services.digest(["mysql -p hunter2"]) != services.digest(["mysql -p hunter3"])
    services.cancel(command, actor=operator)


def test_a_plan_says_who_is_left_out_and_why(document, region, fleet, operator):
    lost = make_instance(region=region, name="lost", ping_status="ConnectionLost")
    windows = make_instance(region=region, name="win", platform_type="Windows")
    secret = make_instance(region=region, name="vault", tags={"env": "vault"})
    policy.create_rule(
        actor="tests", name="Never the vault", effect="deny", everybody=True, deeds=["run_document"],
        targets="env=vault", documents=["*"], confirmed=True, note="",
    )  # fmt: skip
    command = plan(document, [*fleet, lost, windows, secret], operator)
    told = {each.instance_name: each.details for each in command.invocations.filter(state="skipped")}
    assert told.keys() == {"lost", "win", "vault"}
    assert "connection lost" in told["lost"] and "Windows" in told["win"] and "Never the vault" in told["vault"]
    assert command.state == "draft" and not command.dispatches.exists() and not events("runcommand.start")


def test_what_is_started_is_what_was_shown_and_asked_again(document, region, fleet, operator):
    command = plan(document, fleet, operator)
    make_instance(region=region, name="late")  # matches whatever was typed, and was not shown
    policy.create_rule(
        actor="tests", name="Not the first", effect="deny", everybody=True, deeds=["run_document"],
        targets="name=node-1", documents=["*"], confirmed=True, note="",
    )  # fmt: skip
    services.start(command, actor=operator)
    assert states(command) == {"node-1": "skipped", "node-2": "planned", "node-3": "planned"}
    (refusal,) = events("runcommand.start.refuse")
    assert refusal.outcome == "denied" and refusal.details["instances"] == [fleet[0].instance_id]
    with pytest.raises(UserError, match="already"):
        services.start(command, actor=operator)
    services.cancel(command, actor=operator)


def test_who_may_nowhere_is_denied_and_it_is_audited(document, fleet, operator):
    command = plan(document, fleet, operator)
    Rule.objects.all().delete()
    policy.create_rule(
        actor="tests", name="Shells alone", effect="allow", everybody=True, deeds=["shell"], targets="all",
        confirmed=True, note="",
    )  # fmt: skip
    with pytest.raises(Denied, match="No rule allows mei"):
        services.start(command, actor=operator)
    assert command.state == "draft"
    assert [each.details["count"] for each in events("runcommand.start.refuse")] == [3]


def test_a_rule_that_wants_a_reason_gets_one(document, fleet, operator):
    Rule.objects.all().delete()
    policy.create_rule(
        actor="tests", name="Say why", effect="allow", everybody=True, deeds=["run_document"], targets="all",
        documents=["AWS-Run*"], needs_reason=True, confirmed=True, note="",
    )  # fmt: skip
    with pytest.raises(services.ReasonMissing):
        plan(document, fleet, operator)
    command = plan(document, fleet, operator, reason="ticket 4711")
    assert set(states(command).values()) == {"planned"}


def test_a_freeze_holds_it(document, fleet, operator):
    chief = make_user("chief", role="administrator")
    calendar = calendars.create_calendar(
        actor=chief, name="Christmas", kind="freeze", source="own", zone="UTC", note="", enabled=True,
        deeds=["run_document"], targets="name=node-2",
    )  # fmt: skip
    start = now().replace(tzinfo=None) - timedelta(hours=1)
    calendars.add_entry(calendar, actor=chief, title="no changes", start=start, end=start + timedelta(hours=3))
    command = plan(document, fleet, operator)
    told = {each.instance_name: each.details for each in command.invocations.filter(state="skipped")}
    assert told.keys() == {"node-2"} and "Christmas" in told["node-2"]


@pytest.mark.parametrize(
    ("parameters", "words"),
    [({}, "commands is required"), ({"commands": ["x"], "color": ["red"]}, "color is not a parameter")],
)
def test_parameters_are_held_against_the_document(document, fleet, operator, parameters, words):
    from fleetops.inventory.models import Instance

    with pytest.raises(UserError, match=words):
        services.draft(document, parameters=parameters, instances=Instance.objects.all(), actor=operator)
    assert not Command.objects.exists()


def test_a_cancel_reaches_what_runs_and_what_was_not_sent(document, fleet, operator, agents):
    command = started(document, fleet, operator, at_once=1)
    step(command)
    job = agents[0].job()
    agents[0].take(job)
    agents[0].reply(job.job.job_id, "InProgress")
    assert services.cancel(command, actor=operator) and not services.cancel(command, actor=operator)
    assert sorted(states(command).values()) == ["cancelled", "cancelled", "pending"]
    step(command)
    cancel = agents[0].job()
    assert cancel.job.is_cancel
    agents[0].take(cancel)
    agents[0].reply(job.job.job_id, "Cancelled")
    ends(command, "cancelled")
    assert command.end_reason == "Cancelled by mei."
    assert [each.actor_name for each in events("runcommand.cancel")] == ["mei"]
    assert all(agent.is_quiet(0.3) for agent in agents[1:])


def test_it_goes_at_its_own_pace_and_stops_at_its_limit_of_failures(document, fleet, operator, agents):
    command = started(document, fleet, operator, at_once=1, most_failed=0)
    step(command)
    step(command)
    assert sorted(states(command).values()) == ["pending", "planned", "planned"]
    agents[0].run(agents[0].job(), "Failed", 1)
    ends(command, "failed")
    assert states(command) == {"node-1": "failed", "node-2": "skipped", "node-3": "skipped"}
    assert "it failed on 1" in command.end_reason


def test_again_where_it_did_not_end_well(document, fleet, operator, agents):
    command = started(document, fleet, operator)
    step(command)
    for agent, end in zip(agents, ("Success", "Failed", "Success"), strict=True):
        agent.run(agent.job(), end, 0 if end == "Success" else 2)
    ends(command, "failed")
    repeat = services.again(command, only_unwell=True, actor=operator)
    assert (states(repeat), repeat.again_of, repeat.parameters) == (
        {"node-2": "planned"},
        command,
        {"commands": ["true"]},
    )
    assert len(states(services.again(command, only_unwell=False, actor=operator))) == 3
    services.start(repeat, actor=operator)
    step(repeat)
    agents[1].run(agents[1].job())
    ends(repeat, "succeeded")
    with pytest.raises(UserError, match="ended well"):
        services.again(repeat, only_unwell=True, actor=operator)


def test_at_the_dispatch_the_policy_is_asked_once_more_for_its_person(document, fleet, operator):
    command = started(document, fleet, operator)
    operator.is_active = False
    operator.save()
    step(command)
    assert set(states(command).values()) == {"skipped"} and command.state == "failed"
    (event,) = events("runcommand.dispatch.refuse")
    assert event.outcome == "denied" and len(event.details["instances"]) == 3


def test_plans_that_nobody_started_are_forgotten(document, fleet, operator):
    old, new = plan(document, fleet, operator), plan(document, fleet, operator)
    Command.objects.filter(pk=old.pk).update(created_at=now() - timedelta(hours=2))
    old.refresh_from_db()
    with pytest.raises(UserError, match="older than an hour"):
        services.start(old, actor=operator)
    services.drop_old_drafts(now=now())
    assert list(Command.objects.all()) == [new]


def test_a_command_is_seen_by_its_person_and_by_who_reviews(document, fleet, operator):
    command = plan(document, fleet, operator)
    others = make_user(role="operator"), make_user(role="auditor"), make_user(role="administrator")
    assert [Command.objects.visible_to(each).count() for each in (operator, *others)] == [1, 0, 0, 0]
    services.start(command, actor=operator)
    assert [Command.objects.visible_to(each).count() for each in (operator, *others)] == [1, 0, 1, 1]
    assert [services.cancellable_by(each).count() for each in (operator, *others)] == [1, 0, 0, 1]
    services.cancel(command, actor=operator)
