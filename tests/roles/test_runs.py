"""Roles on many instances, as a run: planned, in waves, proven by what AWS shows."""

import pytest

from fleetops.approvals.models import ApprovalRequest
from fleetops.aws.profiles import Profile
from fleetops.errors import UserError
from fleetops.roles.models import RoleAttachment, RoleRule
from fleetops.rollouts import advancing, plan, steering
from fleetops.rollouts.models import Run
from tests.factories import make_instance

from .aws import denied
from .conftest import CORE, loop

pytestmark = pytest.mark.django_db


@pytest.fixture
def fleet(db):
    return [make_instance(name=f"bare-{n}", profile_arn="", ping_status="", tags={"env": "bare"}) for n in range(6)]


@pytest.fixture
def named(monkeypatch):
    """IAM has the profile core in every account."""
    monkeypatch.setattr(
        "fleetops.roles.kind.profiles.profile",
        lambda access, region, name, *, session_name: Profile(CORE, name, ("core",), ("arn",)),
    )


def planned(admin, subject=None, **fields) -> Run:
    wanted = plan.Wanted(
        kind="roles",
        subject={"deed": "attach", "profile_name": "core", "minutes": "30"} | (subject or {}),
        targets="tag:env=bare",
        waves=[{"by": "count", "value": "2"}, {"by": "rest"}],
        concurrency="100%",
        **fields,
    )
    return plan.make(wanted, actor=admin)


def step(run: Run) -> Run:
    Run.objects.filter(pk=run.pk).update(sends_at=None)
    run.targets.filter(state__in=["ran", "rebooted"]).update(due_at=None)
    advancing.advance(run.pk)
    run.refresh_from_db()
    return run


def ended(run: Run) -> Run:
    for _ in range(12):
        step(run)
        loop()
        if run.state not in {"running", "aborting"}:
            break
    return run


def test_a_run_attaches_to_all_in_waves_though_none_is_online(aws, admin, rule, fleet, named):
    run = planned(admin)
    assert [wave.targets.count() for wave in run.waves.all()] == [2, 4]
    steering.release(run, actor=admin, plan_hash=run.plan_hash)
    step(run)
    step(run)
    assert RoleAttachment.objects.count() == 2, "the second wave waits for the first"
    ended(run)
    assert run.state == "succeeded", (run.end_reason, list(run.targets.values("state", "reason")))
    assert {aws.profile(each.instance_id) for each in fleet} == {CORE}
    assert set(RoleAttachment.objects.values_list("state", "run", "asked_by_name")) == {("active", run.pk, "mei")}


def test_what_aws_refuses_stops_the_run_and_is_tried_again(aws, admin, rule, fleet, named):
    run = planned(admin, evidence_minutes=1)
    steering.release(run, actor=admin, plan_hash=run.plan_hash)
    step(run)
    step(run)
    aws.at["associate before"] = denied
    loop()
    (held_up,) = RoleAttachment.objects.filter(state="pending")
    assert "iam:PassRole" in held_up.words
    ended(run)
    assert run.state == "succeeded", "the loop tried again, and AWS took it"


def test_the_rules_leave_out_whom_they_do_not_hold(aws, admin, fleet, named):
    RoleRule.objects.all().delete()
    RoleRule.objects.create(name="One", targets="name=bare-0", profile_name="core", most_minutes=60)
    RoleRule.objects.create(name="Approved", targets="name=bare-1", profile_name="core", approvals=1)
    run = planned(admin)
    assert run.targets.filter(wave__isnull=False).count() == 1
    reasons = set(run.targets.filter(wave=None).values_list("reason", flat=True))
    assert reasons == {
        "No rule lets it have core for so long.",
        "Rule “Approved” wants approvals for each: ask for a lease of it alone.",
    }
    assert not ApprovalRequest.objects.exists()


def test_a_rule_that_is_taken_away_after_the_plan_is_a_failure_in_words(aws, admin, rule, fleet, named):
    run = planned(admin)
    steering.release(run, actor=admin, plan_hash=run.plan_hash)
    RoleRule.objects.all().delete()
    step(run)
    step(run)
    assert not RoleAttachment.objects.exists()
    failed = run.targets.filter(state="failed").values_list("reason", flat=True)
    assert set(failed) == {"No rule lets this instance have core. Who administers these rules can change that."}


@pytest.mark.parametrize(
    ("subject", "words"),
    [
        ({"profile_name": ""}, "Name the instance profile"),
        ({"profile_name": "arn:aws:iam::111122223333:instance-profile/core"}, "its name alone"),
        ({"minutes": "soon"}, "a number"),
        ({"minutes": "-1"}, "From 0"),
        ({"deed": "swap"}, "attach or detach"),
        ({"deed": "detach"}, "Say that this is meant"),
    ],
)
def test_bad_input_is_told(admin, rule, fleet, subject, words):
    with pytest.raises(UserError, match=words):
        planned(admin, subject)
    assert not Run.objects.exists()
