"""What reviewers of the engine found, each held down."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from fleetops.approvals import services as approvals
from fleetops.approvals.models import ApprovalRequest
from fleetops.calendars.models import Calendar
from fleetops.clock import now
from fleetops.errors import UserError
from fleetops.policy import services as policy
from fleetops.rollouts import advancing, evidence, gates, health, plan, sending, steering
from fleetops.rollouts.documents import DocumentKind
from fleetops.rollouts.gates import Sight
from fleetops.rollouts.kinds import Proof, Verdict
from fleetops.rollouts.models import GateCheck, Run
from fleetops.runcommand.models import Command
from tests.factories import make_document, make_instance, make_region, make_user

from .fleet import Aws, carry_through, look, make_fleet, make_owner, make_run, states
from .test_steering import freeze

pytestmark = pytest.mark.django_db

ALARM = {"kind": "alarm", "names": ["api-5xx"], "account_id": "111122223333", "region": "eu-west-1"}


@pytest.fixture
def owner(roles):
    return make_owner(roles)


@pytest.fixture
def aws():
    return Aws()


# --- leave to go through freezes -------------------------------------------------------------------------------------


def let_through(run, owner, boss):
    steering.ask_override(run, actor=owner, reason="CVE-2026-1")
    approvals.vote(ApprovalRequest.objects.order_by("-created_at").first().pk, actor=boss, approve=True)


def test_a_leave_is_for_the_freezes_that_it_was_asked_for_and_not_for_ever(owner, aws):
    boss = make_user("boss", role="administrator")
    first = freeze(owner)
    run = make_run(owner, [make_fleet(3)], concurrency="1")
    look(run)
    let_through(run, owner, boss)
    look(run)
    assert states(run)["node-1"] == "sent"
    request = ApprovalRequest.objects.get()
    assert [each["calendar"] for each in request.details["freezes"]] == [str(first.pk)]
    other = Calendar.objects.create(name="Other", kind="freeze", source="upload", text=first.text, deeds=["*"])
    aws.take().answer_all()
    look(run)
    look(run)
    assert states(run)["node-2"] == "queued" and "“Other”" in run.waits_for  # nobody was asked about this one
    let_through(run, owner, boss)  # it is asked anew, though the first leave is used
    look(run)
    assert states(run)["node-2"] == "sent" and {each["name"] for each in run.override_freezes} == {"Freeze", "Other"}
    other.delete()
    aws.take().answer_all()
    ApprovalRequest.objects.update(expires_at=now())  # the leave has ended
    look(run)
    look(run)
    assert states(run)["node-3"] == "queued" and "frozen" in run.waits_for


def test_a_leave_ends_with_its_freeze_and_with_the_run(owner, aws):
    boss = make_user("boss", role="administrator")
    standing = freeze(owner)
    run = make_run(owner, [make_fleet(2)], concurrency="1", budget="1")
    look(run)
    let_through(run, owner, boss)
    look(run)
    aws.take().answer_all("failed")
    Run.objects.filter(pk=run.pk).update(
        override_freezes=[{"calendar": str(standing.pk), "name": "Freeze", "until": now().isoformat()}]
    )
    look(run)
    look(run)
    assert states(run)["node-2"] == "queued"  # what holds it now is another freeze of the same calendar
    steering.skip_target(run.targets.get(position=2), actor=owner, reason="no time")
    assert look(run).state == "failed"
    steering.retry_failed(run, actor=owner)
    assert run.override is None and run.override_freezes == []
    look(run)
    assert states(run)["node-1"] == "queued"


def test_nobody_asks_to_go_through_no_freeze(owner):
    run = make_run(owner, [make_fleet(1)])
    with pytest.raises(UserError, match="No freeze holds"):
        steering.ask_override(run, actor=owner, reason="just in case")


# --- what one look does ----------------------------------------------------------------------------------------------


def test_regions_that_are_long_in_not_answering_hold_up_no_look(owner, aws, monkeypatch):
    fleets = [make_fleet(1, region=make_region(name)) for name in ("eu-west-1", "eu-west-2", "eu-west-3")]
    run = make_run(owner, [[each for fleet in fleets for each in fleet]])
    asked, clock = [], [0.0]

    def judge(kind, run, targets):
        asked.append(targets[0].region.name)
        clock[0] += 15
        return [Verdict(Proof.WAITING, "AWS did not tell.")] * len(targets)

    monkeypatch.setattr(DocumentKind, "judge", judge)
    monkeypatch.setattr(evidence, "monotonic", lambda: clock[0])
    look(run)
    aws.take().answer_all()
    advancing.advance(run.pk)
    assert len(asked) == 2  # 30 seconds are over
    advancing.advance(run.pk)
    assert len(asked) == 3 and len(set(asked)) == 3  # the rest comes first


def test_one_look_writes_down_so_many_ends_failures_first_and_lets_nobody_go_before_all(owner, aws, monkeypatch):
    monkeypatch.setattr(evidence, "MOST_TAKEN", 2)
    fleet = make_fleet(6)
    run = make_run(owner, [fleet], concurrency="4", budget="1")
    look(run)
    aws.take().answer_all("failed", on=fleet[2:4])
    aws.answer_all()
    advancing.advance(run.pk)
    run.refresh_from_db()
    # Both failures are known although they come last, and nobody went in their place.
    assert run.state == "stopped" and states(run)["node-5"] == states(run)["node-6"] == "queued"
    for _ in range(3):
        look(run)
    assert sorted(states(run).values()) == ["failed"] * 2 + ["queued"] * 2 + ["succeeded"] * 2


def test_held_targets_are_looked_at_in_turns_and_who_may_go_is_found(owner, aws, monkeypatch):
    monkeypatch.setattr(sending, "MOST_LOOKED_AT", 4)
    monkeypatch.setattr(sending, "_LOOKED_AT", 2)
    freeze(owner, targets="tag:env=prod")
    run = make_run(owner, [make_fleet(11, tags={n: {"env": "prod"} for n in range(1, 11)})])
    seen = []
    for _ in range(3):
        look(run)
        seen.append(run.looked_through)
        if states(run)["node-11"] == "sent":
            break
    assert seen[:2] == [4, 8] and states(run)["node-11"] == "sent"
    assert list(states(run).values())[:10] == ["queued"] * 10
    aws.take().answer_all()
    for _ in range(4):
        look(run)
    Calendar.objects.all().delete()
    assert carry_through(run, aws).state == "succeeded"


# --- what the plan holds to ------------------------------------------------------------------------------------------


def test_a_default_that_changes_after_the_plan_is_not_what_is_sent(owner, aws):
    region = make_region()
    made = make_document(region=region, default_version="3")
    make_document("drain", region=region, default_version="7")
    make_instance(region=region)
    wanted = plan.Wanted(
        kind="document", subject={"document": "say-it"}, targets="all", steps_before=[{"document": "drain"}]
    )
    run = plan.make(wanted, actor=owner)
    assert run.plan["versions"] == [{"document": "drain", "version": "7"}, {"document": "say-it", "version": "3"}]
    made.default_version = "4"
    made.save()
    assert plan.make(wanted, actor=owner).plan_hash != run.plan_hash
    steering.release(run, actor=owner, plan_hash=run.plan_hash)
    assert carry_through(run, aws).state == "succeeded"
    sent = {each.document_name: each.invocations.get().document_version for each in Command.objects.all()}
    assert sent == {"drain": "7", "say-it": "3"}


def health_gate(**more) -> dict:
    return {"kind": "document", "document": "probe", "version": "", "parameters": {}, "targets": "", **more}


def planned(owner, gate, **more) -> Run:
    waves = [{"by": "count", "value": "1", "gates": [gate]}, {"by": "rest"}]
    return plan.make(
        plan.Wanted(kind="document", subject={"document": "say-it"}, targets="all", waves=waves, **more), actor=owner
    )


def test_the_policy_is_asked_about_documents_of_gates_at_the_plan_and_at_the_start(owner, monkeypatch):
    make_fleet(3)
    run = planned(owner, health_gate())
    with pytest.raises(UserError, match="would run nowhere"):
        planned(owner, health_gate(targets="name=nobody"))
    with pytest.raises(UserError, match="is not there"):
        planned(owner, health_gate(document="nowhere"))
    policy.create_rule(
        actor="tests",
        name="no probes",
        effect="deny",
        users=[owner],
        deeds=["run_document"],
        targets="all",
        documents=["probe"],
        confirmed=True,
    )
    with pytest.raises(UserError, match="no probes"):
        planned(owner, health_gate())
    with pytest.raises(UserError, match="no probes"):
        steering.release(run, actor=owner, plan_hash=run.plan_hash)
    monkeypatch.setattr(health, "MOST", 2)
    with pytest.raises(UserError, match="more than 2"):
        planned(owner, health_gate(targets="name=node-*"))


def test_a_gate_that_would_run_on_too_many_says_so(owner, aws, monkeypatch):
    monkeypatch.setattr(health, "MOST", 2)
    fleet = make_fleet(4)
    run = make_run(owner, [fleet[:1], fleet[1:]], gates={1: [health_gate(targets="name=node-*")]})
    for _ in range(4):
        look(run)
        aws.take().answer_all()
    assert run.state == "stopped" and "more than 2" in run.end_reason


# --- ends ------------------------------------------------------------------------------------------------------------


def test_what_is_left_of_a_soak_goes_on_after_an_alarm_is_overruled(owner, aws, monkeypatch):
    told = [Sight(True, "All alarms are OK.")]
    monkeypatch.setattr(gates, "_alarms", lambda gate: told[-1])
    fleet = make_fleet(2)
    run = make_run(owner, [fleet[:1], fleet[1:]], gates={1: [ALARM]}, wave_facts={1: {"soak_seconds": 3600}})
    look(run)
    aws.take().answer_all()
    for _ in range(2):
        look(run)
    run.waves.filter(position=1).update(soak_until=now() + timedelta(seconds=600))
    told.append(Sight(False, "It rings."))
    assert look(run).state == "stopped" and 590 <= run.waves.get(position=1).soak_left <= 600
    steering.overrule_gate(GateCheck.objects.get(), actor=owner, reason="a known alarm")
    look(run)
    wave = run.waves.get(position=1)
    assert wave.state == "soaking" and wave.soak_until <= now() + timedelta(seconds=600)
    assert states(run)["node-2"] == "queued" and wave.soak_seconds == 3600
    run.waves.filter(position=1).update(soak_until=now())
    look(run)
    assert run.waves.get(position=1).state == "succeeded"


def test_who_was_called_back_and_could_not_be_brought_back_has_failed(owner, aws):
    run = make_run(owner, [make_fleet(1)], steps_before=[{"document": "drain"}], steps_after=[{"document": "undrain"}])
    look(run)
    aws.take()
    steering.pause(run, actor=owner)
    aws.answer_all()
    look(run)
    aws.take().answer_all("failed", document="undrain")
    look(run)
    target = run.targets.get()
    assert target.state == "failed" and "was not brought back" in target.reason and "undrain" in target.reason


def test_what_aws_never_had_is_not_brought_back(owner, aws):
    run = make_run(owner, [make_fleet(1)], steps_after=[{"document": "undrain"}])
    look(run)
    Command.objects.get().invocations.update(state="skipped", details="A rule says no.", ended_at=now())
    look(run)
    assert states(run) == {"node-1": "failed"} and Command.objects.count() == 1


# --- doors -----------------------------------------------------------------------------------------------------------


def test_one_target_is_tried_again_and_the_others_stay(owner, aws, client):
    run = make_run(owner, [make_fleet(3)], budget="3")
    look(run)
    aws.take().answer_all("failed")
    assert look(run).state == "failed"
    client.force_login(owner)
    one = run.targets.get(position=2)
    assert client.post(f"/runs/{run.pk}/targets/{one.pk}/retry/").status_code == 302
    assert states(run) == {"node-1": "failed", "node-2": "queued", "node-3": "failed"}
    with pytest.raises(UserError, match="node-2 has not failed"):
        steering.retry_failed(run, actor=owner, target=one)
    run.refresh_from_db()
    assert carry_through(run, aws).state == "failed" and states(run)["node-2"] == "succeeded"


def test_numbers_that_no_wave_has_and_ways_back_to_elsewhere_do_no_harm(owner, aws, client):
    run = make_run(owner, [make_fleet(1)])
    client.force_login(owner)
    for digits in ("9" * 30, "9" * 5000):
        assert client.post(f"/runs/{run.pk}/retry/", {"wave": digits}).status_code == 404
        assert client.post(f"/runs/{run.pk}/waves/{digits[:30]}/skip/", {"reason": "x"}).status_code == 404
        assert client.get(f"/runs/{run.pk}/cells/{digits[:30]}/").status_code == 404
    address = f"/runs/{run.pk}/targets/{run.targets.get().pk}/"
    for elsewhere in ("//example.com/", "/\\example.com", "https://example.com"):
        assert b"example.com" not in client.get(address, {"from": elsewhere}, headers={"HX-Request": "true"}).content
    assert f"/runs/{run.pk}/".encode() in client.get(address, {"from": f"/runs/{run.pk}/"}).content


def test_a_run_that_was_paused_offers_no_rolling_forward(owner, aws, client):
    run = make_run(owner, [make_fleet(3)], budget="2", concurrency="1")
    look(run)
    aws.take().answer_all("failed")
    look(run)
    steering.pause(run, actor=owner)
    client.force_login(owner)
    assert b"Roll forward" not in client.get(f"/runs/{run.pk}/").content


def test_held_by_thousands_costs_no_more_queries_than_by_a_few(owner, monkeypatch):
    """Of a wave that is held as a whole one look reads so many rows, however many there are."""
    monkeypatch.setattr(sending, "MOST_LOOKED_AT", 20)
    monkeypatch.setattr(sending, "_LOOKED_AT", 10)
    freeze(owner)
    counts = []
    for size in (40, 120):
        run = make_run(owner, [make_fleet(size, region=make_region(f"eu-north-{size}"))])
        look(run)
        with CaptureQueriesContext(connection) as queries:
            look(run)
        counts.append(len(queries))
    assert counts[0] == counts[1]
