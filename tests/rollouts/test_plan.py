"""A run planned: who, in which wave, when, who not and why; what is refused; what has changed since."""

from datetime import datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from fleetops.calendars import services as calendars
from fleetops.calendars.models import Repeat
from fleetops.clock import now
from fleetops.errors import UserError
from fleetops.inventory.models import Instance
from fleetops.policy import services as policy
from fleetops.policy.models import Rule
from fleetops.rollouts import assess, plan
from fleetops.rollouts.models import Run, RunTarget
from fleetops.rollouts.states import TargetState
from tests.factories import make_account, make_cluster_rule, make_document, make_instance, make_region, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def mei(roles):
    policy.make_defaults()
    make_user("priya", role="administrator")
    make_document()
    return make_user("mei", role="administrator")


def wanted(**more) -> plan.Wanted:
    return plan.Wanted(**({"kind": "document", "subject": {"document": "say-it"}, "targets": "all"} | more))


def names_of(run: Run) -> list[list[str]]:
    """The targets of each wave."""
    return [list(wave.targets.values_list("instance_name", flat=True).order_by("position")) for wave in run.waves.all()]


def skipped(run: Run) -> dict[str, str]:
    return dict(run.targets.filter(state=TargetState.SKIPPED).values_list("instance_name", "reason"))


def test_a_plan_says_who_goes_when_and_who_not_and_why(mei):
    here, there = make_region(), make_region("us-east-1", account=make_account("444455556666"))
    well = [make_instance(region=here, name=f"web-{n}", tags={"env": "prod", "shop": f"s{n % 2}"}) for n in range(4)]
    make_instance(region=here, name="lost", tags={"env": "prod"}, ping_status="ConnectionLost")
    make_instance(region=here, name="off", tags={"env": "prod"}, ec2_state="stopped", ping_status="ConnectionLost")
    make_instance(region=here, name="gone", tags={"env": "prod"}, gone_at=now())
    make_instance(region=here, name="win", tags={"env": "prod"}, platform_type="Windows")
    make_instance(region=there, name="elsewhere", tags={"env": "prod"})
    make_instance(region=here, name="other", tags={"env": "dev"})
    make_cluster_rule("shop")
    gate = {"kind": "approval", "quorum": 1, "approvers": ["administrator"]}
    waves = [{"by": "canary", "value": "1", "soak_minutes": 30, "gates": [gate]}, {"by": "rest"}]
    run = plan.make(wanted(targets="env=prod", waves=waves, concurrency="100%"), actor=mei)

    assert [len(wave) for wave in names_of(run)] == [1, 3]
    assert {name for wave in names_of(run) for name in wave} == {each.name for each in well}
    assert skipped(run) == {
        "lost": "It cannot be reached: connection lost.",
        "off": "It cannot be reached: stopped.",
        "win": "It runs Windows; the document is for Linux.",
        "elsewhere": "There is no document say-it in its account and region.",
    }
    made = run.plan
    assert (made["targets"], made["matched"]) == (4, 8)
    assert sum(each["count"] for each in made["skipped"]) == 4
    canary, rest = made["waves"]
    assert canary["gates"] == ["approval by administrator"] and canary["soak_minutes"] == 30
    # Two of the three share a shop, of which one may be out: twice two minutes, after the canary and its soak.
    assert rest["at_once"] == 3 and rest["minutes"] == 4.0 and rest["slowed_by"] in {"shop=s0", "shop=s1"}
    start, end = datetime.fromisoformat(made["starts_at"]), datetime.fromisoformat(made["ends_at"])
    assert end - start == timedelta(minutes=2 + 30 + 4)
    assert made["clusters"][0] | {"full": 0} == made["clusters"][0] | {"full": 0, "clusters": 2, "targets": 4}
    assert run.waves.first().gates.get().settings == {"quorum": 1, "approvers": ["administrator"]}
    assert run.targets.filter(clusters__cluster__endswith="shop=s0").count() == 2


def test_a_canary_and_its_waves_keep_clusters_apart_and_the_same_seed_plans_the_same(mei):
    region = make_region()
    for number in range(12):
        make_instance(region=region, name=f"node-{number:02}", tags={"cluster": f"c{number // 3}"})
    make_cluster_rule()
    waves = [{"by": "count", "value": "4"}, {"by": "count", "value": "4"}, {"by": "rest"}]
    run = plan.make(wanted(waves=waves, seed="x"), actor=mei)
    for members in names_of(run):
        assert len({int(name[-2:]) // 3 for name in members}) == 4
    again = plan.make(wanted(waves=waves, seed="x"), actor=mei)
    assert names_of(again) == names_of(run) and again.plan_hash == run.plan_hash
    other = plan.make(wanted(waves=waves, seed="x", budget="1"), actor=mei)
    assert other.plan_hash != run.plan_hash


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"targets": "name=nobody"}, "No instance matches"),
        ({"targets": "env=("}, "missing|closed|has no|bracket|value"),
        ({"subject": {"document": "nothing-there"}}, "There is no Command document nothing-there"),
        ({"kind": "moon"}, "knows no kind of run named moon"),
        ({"waves": [{"by": "list", "value": "name=a*"}, {"by": "list", "value": "name=*1"}]}, "overlap"),
        ({"waves": [{"by": "count", "value": "1", "budget": "1"}]}, "contradict each other: wave 1"),
        ({"concurrency": "0"}, "would send it to nobody"),
        ({"concurrency": "fast"}, "The concurrency is a number"),
        ({"budget": "200%"}, "The error budget cannot be more than 100%"),
        ({"tolerance": "some"}, "The tolerance is a number"),
        ({"ends_by": datetime.fromisoformat("2020-01-01T00:00:00+00:00")}, "end before now"),
        ({"probes": [{"document": "nothing-there"}]}, "no document nothing-there to run, the probe"),
        ({"waves": [{"by": "rest", "gates": [{"kind": "approval", "quorum": 9}]}]}, "could never open: it wants 9"),
        ({"waves": [{"by": "rest", "gates": [{"kind": "approval", "approvers": ["kings"]}]}]}, "no role kings"),
        ({"waves": [{"by": "rest", "gates": [{"kind": "magic"}]}]}, "no kind that there is"),
        ({"waves": [{"by": "rest", "gates": [{"kind": "alarm", "names": []}]}]}, "1 to 20 CloudWatch alarms"),
        ({"waves": [{"by": "rest", "gates": [{"kind": "probe", "url": "ftp://x"}]}]}, "needs the address"),
        ({"waves": [{"by": "rest", "soak_minutes": "long"}]}, "The soak of wave 1 is a whole number"),
    ],
)
def test_what_cannot_be_is_refused_in_words_and_nothing_is_kept(mei, more, words):
    make_instance(name="a-1")
    with pytest.raises(UserError, match=words):
        plan.make(wanted(**more), actor=mei)
    assert not Run.objects.exists() and not RunTarget.objects.exists()


def test_who_may_not_is_left_out_with_the_rule_that_says_so(mei):
    web, db = make_instance(name="web-1", tags={"role": "web"}), make_instance(name="db-1", tags={"role": "db"})
    fields = {"effect": "deny", "everybody": True, "deeds": ["run_document"], "documents": ["*"], "targets": "role=db"}
    policy.create_rule(actor=mei, name="Hands off databases", **fields)
    run = plan.make(wanted(), actor=mei)
    assert names_of(run) == [[web.name]] and "Hands off databases" in skipped(run)[db.name]
    assert run.plan["skipped"][0]["denied"]
    with pytest.raises(UserError, match="There is no instance that it could run on"):
        plan.make(wanted(targets="role=db"), actor=mei)


def test_a_reason_that_a_rule_wants_is_asked_for(mei):
    make_instance()
    Rule.objects.filter(deeds__icontains="run_document").update(needs_reason=True)
    policy._kept = policy._Read(None, ())
    with pytest.raises(assess.ReasonMissing):
        plan.make(wanted(), actor=mei)
    assert plan.make(wanted(reason="CHG-7\x1b[0m"), actor=mei).reason == "CHG-7 [0m"


# --- calendars -------------------------------------------------------------------------------------------------------


def keep(mei, name, *, kind="freeze", start, hours=4, repeat="", targets="all"):
    made = calendars.create_calendar(
        actor=mei, name=name, kind=kind, source="own", deeds=["run_document"], targets=targets
    )
    start = start.replace(tzinfo=None, second=0, microsecond=0)
    calendars.add_entry(made, actor=mei, title=name, start=start, end=start + timedelta(hours=hours), repeat=repeat)
    return made


def test_windows_and_freezes_are_counted_in_and_what_never_opens_is_refused(mei):
    make_instance(name="web-1", tags={"role": "web"})
    make_instance(name="db-1", tags={"role": "db"})
    moment = now()
    opens = moment + timedelta(hours=6)
    keep(mei, "Nights", kind="window", start=opens, repeat=Repeat.DAILY, targets="role=db")
    run = plan.make(wanted(), actor=mei)
    window = run.plan["calendars"][0]
    assert (window["name"], window["is_freeze"], window["targets"], window["is_open"]) == ("Nights", False, 1, False)
    assert abs(datetime.fromisoformat(window["opens_at"]) - opens) < timedelta(minutes=2)
    assert datetime.fromisoformat(run.plan["ends_at"]) > opens

    late = plan.make(wanted(ends_by=moment + timedelta(hours=2)), actor=mei)
    assert skipped(late) == {"db-1": "Held by “Nights” until after the run has to end."}
    assert late.plan["spare_minutes"] in {117, 118}
    short = plan.make(wanted(cutoff_minutes=600), actor=mei)
    assert skipped(short) == {"db-1": "No window of “Nights” is longer than the cut-off of 600 minutes."}
    with pytest.raises(UserError, match="No window of “Nights” is longer"):
        plan.make(wanted(targets="role=db", cutoff_minutes=600), actor=mei)

    keep(mei, "Once", kind="window", start=moment - timedelta(days=3), targets="role=web")
    with pytest.raises(UserError, match="No window of “Once” opens in sight"):
        plan.make(wanted(targets="role=web"), actor=mei)


# --- what has changed since ------------------------------------------------------------------------------------------


def test_drift_counts_who_came_and_who_went_against_the_tolerance(mei):
    first, second = make_instance(name="web-1"), make_instance(name="web-2")
    run = plan.make(wanted(tolerance="1"), actor=mei)
    assert plan.differences(run).words == "The fleet is as it was planned."
    make_instance(name="web-3")
    drift = plan.differences(run)
    assert drift.new == ("web-3",) and not drift.is_too_much
    Instance.objects.filter(pk=second.pk).update(ping_status="ConnectionLost")
    drift = plan.differences(run)
    assert (drift.count, drift.tolerated, drift.is_too_much) == (2, 1, True)
    assert [(each.name, each.pk) for each in drift.gone] == [("web-2", run.targets.get(instance_row=second).pk)]
    assert drift.words == (
        "2 targets differ from the plan: web-3 is new; web-2: It cannot be reached: connection lost."
    )
    Instance.objects.filter(pk=first.pk).update(gone_at=now())
    assert "the expression does not select it any more" in plan.differences(run).words
    assert plan.differences(plan.make(wanted(targets="name=web-3", tolerance="50%"), actor=mei)).tolerated == 0


def test_planning_again_makes_way_for_the_draft_and_keeps_what_was_asked_for(mei):
    make_instance(name="web-1")
    waves = [{"by": "canary", "value": "1", "soak_minutes": 5}, {"by": "rest"}]
    draft = plan.make(
        wanted(waves=waves, budget="2", steps_after=[{"document": "say-it", "on_failure": True}]), actor=mei
    )
    made = plan.again(draft, actor=mei)
    assert not Run.objects.filter(pk=draft.pk).exists()
    assert (made.wave_rules, made.budget, made.steps_after) == (draft.wave_rules, "2", draft.steps_after)
    assert made.plan_hash == draft.plan_hash  # the fleet is the same
    Run.objects.filter(pk=made.pk).update(state="running")
    other = plan.again(Run.objects.get(pk=made.pk), actor=mei)
    assert other.again_of_id == made.pk and Run.objects.filter(pk=made.pk).exists()
    with pytest.raises(UserError, match="started already"):
        plan.discard(made, actor=mei)
    with pytest.raises(UserError, match="Somebody else"):
        plan.discard(other, actor=make_user(role="administrator"))
    Run.objects.filter(pk=other.pk).update(created_at=now() - timedelta(days=8))
    assert plan.drop_old_drafts(now=now()) == 1 and not Run.objects.filter(pk=other.pk).exists()


def test_a_plan_takes_the_same_queries_for_three_hundred_targets_as_for_three(mei):
    region = make_region()
    make_cluster_rule("shop")
    for number in range(3):
        make_instance(region=region, tags={"shop": f"s{number}"})
    plan.make(wanted(), actor=mei)  # the rules of the policy are read once
    with CaptureQueriesContext(connection) as few:
        plan.make(wanted(), actor=mei)
    for number in range(297):
        make_instance(region=region, tags={"shop": f"s{number // 3}"})
    with CaptureQueriesContext(connection) as many:
        run = plan.make(wanted(), actor=mei)
    assert len(many) == len(few) == 18 and run.targets.count() == 300
