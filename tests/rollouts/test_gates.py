"""Gates: what lets the next wave start, and what stops the run."""

from datetime import timedelta

import pytest

from fleetops.approvals import services as approvals
from fleetops.approvals.models import ApprovalRequest
from fleetops.clock import now
from fleetops.errors import Denied
from fleetops.notify.models import Notice
from fleetops.rollouts import gates, steering
from fleetops.rollouts.gates import Sight
from fleetops.rollouts.models import GateCheck
from tests.factories import make_user

from .fleet import Aws, carry_through, look, make_fleet, make_owner, make_run, states

pytestmark = pytest.mark.django_db

APPROVAL = {"kind": "approval", "quorum": 2, "approvers": ["administrator"]}
ALARM = {"kind": "alarm", "names": ["api-5xx"], "account_id": "111122223333", "region": "eu-west-1"}
DOCUMENT = {"kind": "document", "document": "probe", "version": "", "parameters": {}, "targets": ""}


@pytest.fixture
def owner(roles):
    return make_owner(roles)


@pytest.fixture
def aws():
    return Aws()


def gated(owner, aws, *of_first, soak=0):
    """A run of two waves whose first is done, and whose gates are asked."""
    fleet = make_fleet(3)
    run = make_run(owner, [fleet[:2], fleet[2:]], gates={1: of_first}, wave_facts={1: {"soak_seconds": soak}})
    look(run)
    aws.take().answer_all()
    look(run)
    look(run)
    return run


def gate(run):
    return GateCheck.objects.get(wave__run=run)


def test_an_approval_waits_for_as_many_people_as_it_says(owner, aws):
    one, two = make_user(role="administrator"), make_user(role="administrator")
    run = gated(owner, aws, APPROVAL)
    assert run.waits_for == "Waits for 2 of administrator." and states(run)["node-3"] == "queued"
    assert Notice.objects.get(topic="rollouts.approval").closed_at is None
    request = ApprovalRequest.objects.get()
    approvals.vote(request.pk, actor=one, approve=True)
    assert look(run).waves.first().state == "gated"
    approvals.vote(request.pk, actor=two, approve=True)
    look(run)
    assert gate(run).state == "passed" and states(run)["node-3"] == "sent"
    assert Notice.objects.get(topic="rollouts.approval").closed_at is not None
    assert carry_through(run, aws).state == "succeeded"


def test_a_no_stops_the_run_and_a_person_may_overrule_it(owner, aws):
    one = make_user(role="administrator")
    other = make_user(role="administrator")
    run = gated(owner, aws, APPROVAL)
    approvals.vote(ApprovalRequest.objects.get().pk, actor=one, approve=False, reason="not before Monday")
    assert look(run).state == "stopped" and "not before Monday" in run.end_reason
    assert run.waves.first().state == "failed"
    with pytest.raises(Denied, match="only somebody else than"):
        steering.overrule_gate(gate(run), actor=owner, reason="it is Monday")
    with pytest.raises(Denied, match="only somebody else than"):
        steering.skip_wave(run.waves.first(), actor=owner, reason="it is Monday")
    assert gate(run).state == "failed"
    steering.overrule_gate(gate(run), actor=other, reason="it is Monday")
    assert carry_through(run, aws).state == "succeeded" and gate(run).state == "overruled"


def test_nobody_who_answers_in_time_stops_the_run_and_it_may_be_asked_anew(owner, aws):
    for _ in range(2):
        make_user(role="administrator")
    run = gated(owner, aws, APPROVAL)
    ApprovalRequest.objects.update(expires_at=now() - timedelta(seconds=1))
    approvals.expire_due()
    assert look(run).state == "stopped" and "Nobody answered in time" in run.end_reason
    steering.resume(run, actor=owner)
    look(run)
    assert gate(run).state == "waiting" and ApprovalRequest.objects.count() == 2


def test_too_few_people_for_an_approval_are_told_and_nothing_hangs(owner, aws):
    run = gated(owner, aws, APPROVAL)
    assert run.state == "stopped" and "would have to approve" in run.end_reason


def test_a_health_document_has_to_succeed_on_all_targets_of_its_wave(owner, aws):
    run = gated(owner, aws, DOCUMENT)
    aws.take()
    assert len(aws.open()) == 2 and all(documents[-1] == "probe" for documents in aws.sent.values())
    aws.answer(aws.open()[0])
    assert look(run).state == "running"
    aws.answer_all("failed", "Failed")
    assert look(run).state == "stopped" and "Not well on node-" in run.end_reason


def test_a_health_document_that_succeeds_lets_the_next_wave_start(owner, aws):
    run = gated(owner, aws, DOCUMENT)
    assert carry_through(run, aws).state == "succeeded" and gate(run).words == "Well on all 2."


def test_a_health_document_may_run_elsewhere(owner, aws):
    gated(owner, aws, DOCUMENT | {"targets": "name=node-3"})
    aws.take()
    assert [each.instance_name for each in aws.open()] == ["node-3"]
    assert aws.open()[0].command.bound_by == "calendars"  # nobody has asked them of what is no target of the wave


def test_a_health_document_on_its_own_targets_is_held_by_nothing(owner, aws):
    gated(owner, aws, DOCUMENT)
    aws.take()
    assert {each.command.bound_by for each in aws.open()} == {"nothing"}


@pytest.mark.parametrize(
    ("sight", "state"),
    [
        (Sight(True, "All alarms are OK."), "passed"),
        (Sight(None, "too little data"), "waiting"),
        (Sight(False, "It rings."), "failed"),
    ],
)
def test_alarms_decide(owner, aws, monkeypatch, sight, state):
    monkeypatch.setattr(gates, "_alarms", lambda gate: sight)
    run = gated(owner, aws, ALARM)
    look(run)
    assert gate(run).state == state
    assert run.state == ("stopped" if state == "failed" else "running")


def test_what_cloudwatch_does_not_know_is_not_waited_for_for_ever(owner, aws, monkeypatch):
    monkeypatch.setattr(gates, "_alarms", lambda gate: Sight(None, "too little data"))
    run = gated(owner, aws, ALARM)
    look(run)
    GateCheck.objects.update(began_at=now() - timedelta(minutes=11))
    assert look(run).state == "stopped" and "for 10 minutes" in run.end_reason


def test_an_alarm_that_rings_during_the_soak_stops_the_run_at_once(owner, aws, monkeypatch):
    told = [Sight(True, "All alarms are OK.")]
    monkeypatch.setattr(gates, "_alarms", lambda gate: told[-1])
    run = gated(owner, aws, ALARM, soak=3600)
    assert run.waves.first().state == "soaking" and gate(run).state == "pending"
    told.append(Sight(False, "It rings."))
    assert look(run).state == "stopped" and run.waves.first().state == "failed"


def test_an_unknown_kind_of_gate_says_no(owner, aws):
    assert "no gate of the kind horoscope" in gated(owner, aws, {"kind": "horoscope"}).end_reason
