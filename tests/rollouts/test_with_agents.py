"""Runs against the real endpoint, with agents by hand: what is lost, throttled or a lie does no harm."""

from datetime import timedelta

import pytest

from fleetops.clock import now
from fleetops.rollouts import advancing, steering
from fleetops.rollouts.models import GateCheck, Run
from fleetops.runcommand import dispatching
from fleetops.runcommand.models import Command, Dispatch
from tests.endpoint.jobs import until
from tests.runcommand.conftest import (  # noqa: F401
    agents,
    document,
    endpoint,
    faults,
    fleet,
    ids,
    region,
)

from .fleet import make_owner, make_run, states

pytestmark = pytest.mark.django_db(transaction=True)

SUBJECT = {"document": "AWS-RunShellScript", "parameters": {"commands": ["true"]}, "timeout_seconds": 600}


@pytest.fixture
def owner(roles):
    return make_owner(roles)


def step(run: Run) -> Run:
    """One look at the run and at all of its commands, as if everything were due now."""
    moment = now()
    Run.objects.filter(pk=run.pk).update(sends_at=None)
    run.targets.filter(state__in=["ran", "rebooted"]).update(due_at=None)
    advancing.advance(run.pk)
    Dispatch.objects.exclude(state="sending").update(due_at=moment)
    for command in Command.objects.open():
        dispatching.advance(command.pk)
    run.refresh_from_db()
    return run


def ends(run: Run, state: str) -> Run:
    until(lambda: step(run).state not in {"running", "aborting"}, seconds=30)
    assert run.state == state, (run.end_reason, list(run.targets.values("state", "reason")))
    return run


def sent(endpoint) -> int:  # noqa: F811
    """How many commands AWS has of the runs of this test."""
    comments = {f"fleetops:{pk}" for pk in Dispatch.objects.values_list("pk", flat=True)}
    listed = endpoint.client("ssm").list_commands(MaxResults=50)["Commands"]
    return sum(each["Comment"] in comments for each in listed)


def test_a_wave_is_one_call_and_ends_when_all_have_answered(owner, document, fleet, agents, endpoint):  # noqa: F811
    run = make_run(owner, [fleet], subject=SUBJECT)
    step(run)
    for agent in agents:
        agent.run(agent.job())
    ends(run, "succeeded")
    assert sent(endpoint) == 1 and Dispatch.objects.count() == 1
    assert set(states(run).values()) == {"succeeded"}
    assert run.targets.first().facts["exit_code"] == 0


def test_a_throttle_and_a_lost_answer_send_nothing_twice(owner, document, fleet, agents, endpoint, faults):  # noqa: F811
    run = make_run(owner, [fleet[:1]], subject=SUBJECT)
    with faults.on("error", code="ThrottlingException", status=400, match={"operation": "SendCommand"}):
        step(run)
        assert sent(endpoint) == 0 and states(run) == {"node-1": "sent"}
    with faults.on("drop", when="after", match={"operation": "SendCommand"}):
        step(run)
    assert Dispatch.objects.get().state == "uncertain" and sent(endpoint) == 1
    step(run)
    assert Dispatch.objects.get().state == "sent"
    agents[0].run(agents[0].job())
    ends(run, "succeeded")
    assert sent(endpoint) == 1 and agents[0].is_quiet(0.3)


def test_what_aws_refuses_is_a_failure_of_the_wave(owner, document, fleet, faults):  # noqa: F811
    run = make_run(owner, [fleet], subject=SUBJECT, concurrency="1")
    with faults.on("error", code="AccessDeniedException", status=400, match={"operation": "SendCommand"}):
        step(run)
        ends(run, "stopped")
    assert states(run) == {"node-1": "failed", "node-2": "queued", "node-3": "queued"}
    assert "ssm:SendCommand" in run.targets.first().reason


def test_a_node_that_says_success_and_is_not_heard_of_again_fails(owner, document, fleet, agents):  # noqa: F811
    run = make_run(owner, [fleet[:1], fleet[1:]], subject=SUBJECT | {"wants_agent": True}, evidence_minutes=5)
    step(run)
    agents[0].run(agents[0].job())
    until(lambda: step(run).targets.first().state == "ran")
    target = run.targets.first()
    assert target.proof_by - target.ran_at == timedelta(minutes=5)
    step(run)
    assert run.targets.first().reason == "Its agent has not been heard of since the command."
    run.targets.filter(pk=target.pk).update(proof_by=now())
    ends(run, "stopped")
    assert run.targets.first().reason.startswith("No proof within 5 minutes after the command.")
    assert states(run) == {"node-1": "failed", "node-2": "queued", "node-3": "queued"}


def test_an_agent_that_is_heard_of_again_is_the_proof(owner, document, fleet, agents):  # noqa: F811
    run = make_run(owner, [fleet[:1]], subject=SUBJECT | {"wants_agent": True})
    step(run)
    agents[0].run(agents[0].job())
    until(lambda: step(run).targets.first().state == "ran")
    fleet[0].last_ping_at = now()
    fleet[0].save()
    ends(run, "succeeded")
    assert run.targets.get().rebooted_at is not None and "agent_at" in run.targets.get().facts


def test_a_gate_asks_cloudwatch(owner, document, fleet, agents, endpoint, region):  # noqa: F811
    cloudwatch = endpoint.client("cloudwatch")
    cloudwatch.put_metric_alarm(
        AlarmName="api-5xx",
        MetricName="errors",
        Namespace="api",
        Period=60,
        EvaluationPeriods=1,
        Threshold=1.0,
        ComparisonOperator="GreaterThanThreshold",
        Statistic="Sum",
    )

    def is_told(state: str) -> None:
        cloudwatch.set_alarm_state(AlarmName="api-5xx", StateValue=state, StateReason="a test")

    gate = {"kind": "alarm", "names": ["api-5xx"], "account_id": region.account.account_id, "region": region.name}
    run = make_run(owner, [fleet[:1], fleet[1:2]], subject=SUBJECT, gates={1: [gate], 2: [gate]})
    is_told("INSUFFICIENT_DATA")
    step(run)
    agents[0].run(agents[0].job())
    until(lambda: "too little data" in step(run).waits_for)
    is_told("OK")
    until(lambda: step(run).targets.last().state == "sent")
    is_told("ALARM")
    agents[1].run(agents[1].job())
    ends(run, "stopped")
    assert run.end_reason == "A gate of wave 2 says no: The alarm api-5xx rings."
    assert list(GateCheck.objects.order_by("wave__position").values_list("state", flat=True)) == ["passed", "failed"]


def test_what_nobody_knows_of_waits_with_a_paused_run(owner, document, fleet, agents, endpoint, faults):  # noqa: F811
    run = make_run(owner, [fleet[:1]], subject=SUBJECT)
    with faults.on("drop", when="before", match={"operation": "SendCommand"}):
        step(run)
    assert Dispatch.objects.get().state == "uncertain"
    steering.pause(run, actor=owner)
    Dispatch.objects.update(uncertain_at=now() - dispatching.LOOKED_FOR)
    for _ in range(4):
        step(run)
    assert sent(endpoint) == 0 and Dispatch.objects.get().state == "cancelled"
    assert states(run) == {"node-1": "queued"}
    steering.resume(run, actor=owner)
    step(run)
    agents[0].run(agents[0].job())
    ends(run, "succeeded")
    assert sent(endpoint) == 1
