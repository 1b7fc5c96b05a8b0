"""Schedules of runs: due once, planned once, started once, whoever dies; and why a moment has no run."""

import contextlib
from datetime import timedelta
from random import Random

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetops import clock
from fleetops.audit.models import AuditEvent
from fleetops.calendars.models import Calendar
from fleetops.clock import now
from fleetops.errors import Denied, UserError
from fleetops.inventory.models import Instance
from fleetops.notify.models import Notice
from fleetops.policy.models import PolicyState, Rule
from fleetops.rollouts import plan, steering
from fleetops.rollouts.models import Run
from fleetops.rollouts.scheduling import due, services
from fleetops.rollouts.scheduling.models import Occurrence, RunSchedule
from fleetops.web.context import within
from tests.factories import make_instance, make_user
from tests.support.clock import clock_file  # noqa: F401  (a fixture)

from .fleet import make_fleet, make_owner
from .test_steering import freeze

pytestmark = pytest.mark.django_db

OFFICE = {"kind": "document", "subject": {"document": "say-it"}, "targets": "all"}


@pytest.fixture
def mei(roles):
    return make_owner(roles)


@pytest.fixture
def time(clock_file):  # noqa: F811
    """Goes on by so many minutes."""
    clock.set_shift(clock_file)
    return lambda minutes: clock.set_shift(clock_file, jump=60 * minutes)


def make_schedule(owner, **more) -> RunSchedule:
    fields = {"name": "Nightly", "expression": "rate(1 hour)"} | more
    what = plan.Wanted(**(OFFICE | fields.pop("wanted", {})))
    return services.create(what, actor=owner, **fields)


def wake() -> list[Occurrence]:
    """What beat and a worker do; the rows of all schedules, the latest first."""
    due.take_due()
    due.settle()
    for pk in due.claim_due():
        due.carry_out(pk)
    return list(Occurrence.objects.select_related("run").order_by("-due_at"))


def told() -> list[str]:
    return list(Notice.objects.filter(closed_at=None).order_by("created_at").values_list("title", flat=True))


def end(run) -> None:
    """As if every target had answered well."""
    run.targets.update(state="succeeded", ended_at=now())
    Run.objects.filter(pk=run.pk).update(state="succeeded", ended_at=now(), due_at=None)


def test_each_moment_has_one_run_for_its_owner_who_is_audited(mei, time):
    make_fleet(3)
    schedule = make_schedule(mei)
    assert wake() == []
    assert schedule.next_at - schedule.anchor == timedelta(hours=1)
    time(60)
    (row,) = wake()
    assert (row.state, row.run.state, row.run.actor, row.due_at) == ("started", "running", mei, schedule.next_at)
    assert row.run.targets.count() == 3
    assert wake() == [row], "nothing is due"
    end(row.run)
    time(60)
    later, _ = wake()
    assert later.state == "started" and later.run != row.run
    actions = (
        AuditEvent.objects.filter(action__startswith="rollouts.").order_by("id").values_list("action", "actor_name")
    )
    assert list(actions)[:3] == [
        ("rollouts.schedule.create", "mei"),
        ("rollouts.schedule.plan", "worker"),
        ("rollouts.release", "mei"),
    ]


def test_nothing_starts_beside_a_run_that_is_still_under_way_unless_the_schedule_says_so(mei, time):
    make_fleet(1)
    schedule = make_schedule(mei)
    time(60)
    wake()
    time(60)
    second, first = wake()
    assert (second.state, second.cause) == ("skipped", "overlap")
    assert second.words == f"{first.run} was still under way, and the schedule starts no second run beside it."
    services.change(schedule, actor=mei, name="Nightly", expression="rate(1 hour)", overlap="beside")
    time(60)
    assert wake()[0].state == "started" and Run.objects.open().count() == 2


def test_two_moments_that_are_planned_at_once_do_not_both_run(mei, time, monkeypatch):
    make_fleet(1)
    schedule = make_schedule(mei)
    asked = services.run_now(schedule, actor=mei)
    time(60)
    due.take_due()
    other = schedule.occurrences.exclude(pk=asked.pk).get()
    assess, went = plan.assess, []

    def meanwhile(*args, **options):
        if not went:
            went.append(1)
            due.carry_out(other.pk)
        return assess(*args, **options)

    monkeypatch.setattr(plan, "assess", meanwhile)
    Occurrence.objects.filter(pk=asked.pk).update(wanted_at=now())
    due.carry_out(asked.pk)
    asked.refresh_from_db(), other.refresh_from_db()
    assert (other.state, asked.state, asked.cause) == ("started", "skipped", "overlap")
    assert Run.objects.count() == 1


@pytest.mark.parametrize("rule", ["skip", "once", "ask"])
def test_what_was_missed_goes_by_the_rule(mei, time, rule):
    make_fleet(1)
    schedule = make_schedule(mei, missed=rule)
    time(5 * 60 + 30)
    rows = wake()
    assert len(rows) == 5, "each moment is told"
    last, *before = rows
    assert {(each.state, each.cause) for each in before} == {("skipped", "missed")}
    assert all("not running when it was due" in each.words for each in before)
    assert last.state == {"skip": "skipped", "once": "started", "ask": "asked"}[rule]
    assert Run.objects.count() == (rule == "once")
    assert told() == ([] if rule == "once" else ["Nightly was missed"])
    schedule.refresh_from_db()
    assert schedule.next_at == schedule.anchor + timedelta(hours=6), "and not all of them again"
    assert AuditEvent.objects.get(action="rollouts.schedule.miss").outcome == "failed"
    time(30)
    latest = wake()[0]
    assert latest.state == ("skipped" if rule == "once" else "started")
    if rule == "ask":
        last.refresh_from_db()
        assert (last.state, last.cause) == ("skipped", "missed"), "nobody said anything until the next was due"
    assert told() == []


def test_a_person_says_whether_a_missed_moment_is_made_up_for(mei, time):
    make_fleet(1)
    make_schedule(mei, missed="ask")
    time(90)
    (row,) = wake()
    with pytest.raises(Denied, match="Only mei"):
        services.answer(row, actor=make_user("viewer"), run=True)
    services.answer(row, actor=mei, run=True)
    assert told() == []
    with pytest.raises(UserError, match="Nothing is asked"):
        services.answer(row, actor=mei, run=False)
    (row,) = wake()
    assert (row.state, row.words) == ("started", "It was missed. mei had it run later.")


def test_a_schedule_that_comes_often_and_was_missed_for_months_is_told_of_its_last_moments(mei, time):
    make_fleet(1)
    schedule = make_schedule(mei, expression="rate(5 minutes)", missed="once")
    time(60 * 24 * 60 + 1)
    rows = wake()
    assert len(rows) == due.MOST_KEPT + 1
    assert rows[0].state == "started" and now() - rows[0].due_at < timedelta(minutes=5)
    schedule.refresh_from_db()
    assert timedelta() < schedule.next_at - now() <= timedelta(minutes=5)


def test_a_plan_that_waits_for_its_owner_is_told_and_started_by_hand(mei, time):
    make_fleet(2)
    schedule = make_schedule(mei, starts_itself=False)
    time(60)
    (row,) = wake()
    assert (row.state, row.run.state) == ("waiting", "draft")
    assert told() == [f"{row.run} waits for mei to start it"]
    time(60)
    fresh, old = wake()
    assert (old.state, old.cause, old.run) == ("skipped", "superseded", None)
    assert Run.objects.get() == fresh.run, "the old plan has made way"
    again = plan.again(fresh.run, actor=mei, and_then=services.instead_of(fresh.run))
    steering.release(again, actor=mei, plan_hash=again.plan_hash)
    fresh, _ = wake()
    assert (fresh.state, fresh.run) == ("started", again)
    assert told() == []
    end(again)
    time(60)
    plan.discard(wake()[0].run, actor=mei)
    assert (wake()[0].state, wake()[0].cause) == ("skipped", "discarded")
    schedule.refresh_from_db()
    assert schedule.enabled


def test_a_run_for_other_targets_than_the_last_waits_for_a_person(mei, time):
    fleet = make_fleet(10)
    make_schedule(mei, drift="10%")
    time(60)
    wake()
    end(Run.objects.get())
    make_instance(region=fleet[0].region, name="one-more")
    time(60)
    row = wake()[0]
    assert row.state == "started", "one of ten"
    end(row.run)
    for n in range(5):
        make_instance(region=fleet[0].region, name=f"more-{n}")
    time(60)
    row = wake()[0]
    assert (row.state, row.run.state) == ("waiting", "draft")
    assert row.words == "5 of its targets differ from the last run's 11, more than 10%. It waits for mei to start it."


def test_it_goes_off_in_words_when_its_owner_is_gone_or_denied(mei, time):
    make_fleet(1)
    schedule = make_schedule(mei)
    Rule.objects.all().delete()
    Rule.objects.create(name="none", effect="deny", deeds=["run_document"], targets="all", everybody=True)
    PolicyState.objects.update(stamp=clock.uuid7())
    time(60)
    (row,) = wake()
    assert (row.state, row.cause, row.run) == ("refused", "denied", None)
    assert row.words == "There is no instance that it could run on. Rule “none” denies it."
    schedule.refresh_from_db()
    assert (schedule.enabled, schedule.next_at, schedule.why_off) == (False, None, row.words)
    assert told() == ["Nightly did not run"]
    with pytest.raises(Denied):
        services.resume(schedule, actor=mei)

    Rule.objects.all().delete()
    Rule.objects.create(
        name="all", effect="allow", deeds=["run_document"], documents=["*"], targets="all", everybody=True
    )
    PolicyState.objects.update(stamp=clock.uuid7())
    services.resume(schedule, actor=mei)
    assert told() == []
    mei.is_active = False
    mei.save()
    time(60)
    row = wake()[0]
    assert (row.state, row.cause) == ("refused", "owner")
    assert row.words == "mei, for whom it ran, is gone. Somebody else may take it over."
    priya = make_user("priya", role="administrator")
    services.take_over(schedule, actor=priya)
    services.resume(schedule, actor=priya)
    time(60)
    row = wake()[0]
    assert (row.state, row.run.actor) == ("started", priya)


def test_a_moment_without_targets_says_so_and_the_next_is_tried(mei, time):
    make_fleet(1)
    schedule = make_schedule(mei)
    Instance.objects.update(ping_status="ConnectionLost")
    time(60)
    (row,) = wake()
    assert (row.state, row.cause) == ("refused", "unfit") and "cannot be reached" in row.words
    Instance.objects.update(gone_at=now())
    time(60)
    assert wake()[0].cause == "none"
    Instance.objects.update(gone_at=None, ping_status="Online")
    time(60)
    assert wake()[0].state == "started"
    assert told() == []
    schedule.refresh_from_db()
    assert schedule.enabled


def test_what_is_frozen_past_its_time_is_left_out_and_else_waits_as_any_run(mei, time):
    make_fleet(1)
    schedule = make_schedule(mei, open_minutes=120)
    freeze(mei)
    time(60)
    (row,) = wake()
    assert (row.state, row.cause, row.run) == ("refused", "held", None) and "“Freeze”" in row.words
    Calendar.objects.all().delete()
    time(60)
    row = wake()[0]
    assert row.state == "started" and row.run.name == "Nightly"
    assert timedelta(minutes=119) < row.run.ends_by - now() <= timedelta(minutes=120)
    with pytest.raises(UserError, match="cut-off leaves no time"):
        make_schedule(mei, open_minutes=30, wanted={"cutoff_minutes": 60})
    schedule.refresh_from_db()
    assert schedule.enabled


def test_the_policy_is_asked_with_the_address_and_the_second_factor_of_who_made_it(mei, time, monkeypatch):
    make_fleet(1)
    with within("browser", source_address="192.0.2.7") as request:
        at = now().timestamp()
        request.second_factor = lambda user_id: at if user_id == str(mei.pk) else None
        make_schedule(mei)
    time(60)
    with within("worker"):
        (row,) = wake()
    assert (row.run.source_address, row.run.mfa_at.timestamp()) == ("192.0.2.7", at)
    released = AuditEvent.objects.get(action="rollouts.release")
    assert (released.actor_name, released.source_address) == ("mei", "192.0.2.7")


def test_it_can_end_be_paused_resumed_and_deleted(mei, time):
    make_fleet(1)
    schedule = make_schedule(mei, ends_at=now() + timedelta(hours=3, minutes=30))
    services.pause(schedule, actor=mei, reason="holiday")
    assert (schedule.why_off, schedule.next_at) == ("Paused by mei. holiday", None)
    time(121)
    assert wake() == []
    services.resume(schedule, actor=mei)
    time(60)
    assert len(wake()) == 1, "what came while it was paused was not missed"
    schedule.refresh_from_db()
    assert schedule.next_at is None, "no moment before its end"
    with pytest.raises(Denied):
        services.delete(schedule, actor=make_user("viewer", role="viewer"))
    services.delete(schedule, actor=mei)
    assert Run.objects.count() == 1 and not Occurrence.objects.exists()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"expression": "rate(4 minutes)"}, "every 5 minutes at most"),
        ({"expression": "cron(0/4 * * * ? *)"}, "every 5 minutes at most"),
        ({"expression": "cron(0,58 * * * ? *)"}, "every 5 minutes at most"),
        ({"expression": "at(2020-01-01T00:00:00)"}, "never be due again"),
        ({"expression": "cron(0 0 30 2 ? *)"}, "never be due again"),
        ({"expression": "now"}, "is no schedule"),
        ({"zone": "Mars/Olympus"}, "no time zone"),
        ({"name": " \x07 "}, "Give it a name"),
        ({"missed": "all"}, "skip, once, ask"),
        ({"drift": "some"}, "The drift"),
        ({"open_minutes": 10**6}, "a week"),
        ({"wanted": {"targets": "nonsense=("}}, ""),
        ({"wanted": {"subject": {"document": ""}}}, ""),
    ],
)
def test_what_can_never_be_is_told_when_it_is_made(mei, fields, says):
    make_fleet(1)
    with pytest.raises(UserError) as told_so:
        make_schedule(mei, **fields)
    assert says in str(told_so.value)
    assert not RunSchedule.objects.exists() and not Run.objects.exists()


def test_who_may_not_start_runs_makes_no_schedule_and_is_audited(mei):
    make_fleet(1)
    with pytest.raises(Denied):
        make_schedule(make_user("olga", role="viewer"))
    assert AuditEvent.objects.get(action="rollouts.schedule.deny").actor_name == "olga"


# --- workers that die ------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The worker is gone at this line."""


class Undone(BaseException):
    """Ends an example, and with it its rows."""


PLACES = [
    (due, "_rows"),
    (due, "_leave_unanswered"),
    (due, "record"),
    (due, "move"),
    (due, "_keep"),
    (due, "_supersede"),
    (due, "_well"),
    (plan, "assess"),
    (plan, "_write"),
    (steering, "record"),
    (steering, "tell"),
    (steering, "move"),
]


@pytest.mark.parametrize("place", PLACES, ids=[name for _, name in PLACES])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_a_worker_that_dies_at_any_line_leaves_one_run_to_the_next(mei, time, monkeypatch, place, before):
    make_fleet(1)
    make_schedule(mei)
    time(60)
    where, name = place
    real = getattr(where, name)

    def work(*args, **options):
        if before:
            raise Killed
        real(*args, **options)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(where, name, work)
        with contextlib.suppress(Killed):
            wake()
    time(due.CLAIM.total_seconds() / 60 + 0.1)
    (row,) = wake()
    assert (row.state, row.run.state) == ("started", "running")
    assert Run.objects.count() == 1


def test_of_two_workers_with_one_moment_one_plans_and_one_starts(mei, time, monkeypatch):
    make_fleet(1)
    make_schedule(mei)
    time(60)
    due.take_due()
    (pk,) = due.claim_due()
    assert due.claim_due() == [], "it is taken"
    real, went = plan.assess, []

    def meanwhile(*args, **options):
        if not went:
            went.append(1)
            assert due.carry_out(pk) is not None
        return real(*args, **options)

    monkeypatch.setattr(plan, "assess", meanwhile)
    assert due.carry_out(pk) is None
    assert due.carry_out(pk) is None
    row = Occurrence.objects.get()
    assert row.state == "started" and Run.objects.get() == row.run


@given(st.randoms(use_true_random=False))
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
def test_whoever_dies_whenever_no_moment_is_lost_and_none_runs_twice(mei, time, monkeypatch, random: Random):
    try:
        with transaction.atomic():
            _play(mei, time, monkeypatch, random)
            raise Undone
    except Undone:
        pass


def _play(mei, time, monkeypatch, random):
    make_fleet(1)
    rules = {"missed": random.choice(["skip", "once", "ask"]), "overlap": random.choice(["skip", "beside"])}
    schedule = make_schedule(mei, expression="rate(30 minutes)", **rules)
    began = now()
    for _ in range(14):
        match random.randrange(4):
            case 0:
                time(random.choice([1, 5, 30, 95]))
            case 1:
                for run in Run.objects.open():
                    end(run)
            case 2:
                wake()
            case _:
                where, name = random.choice(PLACES)
                real, left = getattr(where, name), random.randint(0, 2)

                def work(*args, real=real, **options):
                    nonlocal left
                    left -= 1
                    answer = real(*args, **options)
                    if left < 0:
                        raise Killed
                    return answer

                with monkeypatch.context() as patch:
                    patch.setattr(where, name, work)
                    with contextlib.suppress(Killed):
                        wake()
        runs = list(Occurrence.objects.exclude(run=None).values_list("run", flat=True))
        assert len(runs) == len(set(runs)) == Run.objects.count(), "each run has its moment, and no moment two"
        if rules["overlap"] == "skip":
            assert Run.objects.open().count() <= 1
    time(due.CLAIM.total_seconds() / 60 + 0.1)
    wake()
    moments = set(Occurrence.objects.values_list("due_at", flat=True))
    count = (now() - began) // timedelta(minutes=30)
    assert moments == {schedule.anchor + timedelta(minutes=30) * n for n in range(1, count + 1)}
    assert not Occurrence.objects.filter(state__in=["due", "planned"]).exists()
