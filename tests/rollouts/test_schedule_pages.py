"""Pages and API of schedules: what they show, what they make, whom they turn away, and how many queries it takes."""

import re

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from fleetops.audit.models import AuditEvent
from fleetops.clock import now
from fleetops.policy import services as policy
from fleetops.rollouts import plan
from fleetops.rollouts.models import Run
from fleetops.rollouts.scheduling import due, when
from fleetops.rollouts.scheduling.models import Occurrence, RunSchedule
from tests.api.conftest import Bearer, make_token
from tests.factories import make_document, make_instance, make_run, make_schedule, make_user

pytestmark = pytest.mark.django_db
FORM = {
    "name": "Nightly",
    "how": "daily",
    "time": "02:30",
    "zone": "Europe/Berlin",
    "missed": "once",
    "overlap": "skip",
}


@pytest.fixture
def mei(roles, valkey):
    policy.make_defaults()
    make_document()
    return make_user("mei", role="administrator")


@pytest.fixture
def browser(client, mei):
    client.force_login(mei)
    return client


def text_of(answer) -> str:
    return re.sub(r"\s+", " ", answer.content.decode())


def draft(mei, **more) -> Run:
    asked = {"kind": "document", "subject": {"document": "say-it"}, "targets": "env=prod", "name": "Say it"} | more
    return plan.make(plan.Wanted(**asked), actor=mei)


def test_a_plan_comes_again_as_it_was_made(browser, mei):
    make_instance(name="web-1", tags={"env": "prod"})
    run = draft(mei, waves=[{"by": "canary", "value": "1", "soak_minutes": 30}, {"by": "rest"}])
    assert reverse("schedules:new") + f"?run={run.pk}" in text_of(browser.get(run.get_absolute_url()))
    form = text_of(browser.get(reverse("schedules:new"), {"run": run.pk}))
    assert "1: canary 1, then soaks 30 min" in form and "At 02:00 every day" in form
    answer = browser.post(reverse("schedules:new"), FORM | {"run": run.pk, "starts": "waits"})
    schedule = RunSchedule.objects.get()
    assert answer.status_code == 302 and answer["Location"] == schedule.get_absolute_url()
    assert (schedule.expression, schedule.zone, schedule.missed) == ("cron(30 2 * * ? *)", "Europe/Berlin", "once")
    assert (schedule.owner, schedule.starts_itself, schedule.wanted["waves"]) == (mei, False, run.wave_rules)
    page = text_of(browser.get(schedule.get_absolute_url()))
    assert "It has not been due yet" in page and "02:30 CE" in page and "by mei" in page
    assert Run.objects.get() == run, "to look whether it can be has left nothing behind"


def test_everything_is_scanned_daily_in_two_clicks(browser, mei):
    make_instance(name="web-1")
    empty = text_of(browser.get(reverse("schedules:list")))
    assert "No schedule yet" in empty and "Scan everything daily" in empty
    form = text_of(browser.get(reverse("schedules:new"), {"preset": "scan"}))
    values = dict(re.findall(r'<input class="form-control[^>]* name="(\w+)"[^>]* value="([^"]*)"', form))
    assert values["targets"] == "all" and values["name"] == "Scan everything daily"
    browser.post(reverse("schedules:new"), FORM | {"preset": "scan", "name": values["name"], "targets": "all"})
    schedule = RunSchedule.objects.get()
    assert schedule.wanted["subject"] == {"operation": "Scan"}
    page = text_of(browser.get(reverse("schedules:list")))
    assert "Scan everything daily" in page and "Patch: scan on all" in page and "at 02:30 every day" in page


def test_what_is_wrong_stands_at_its_field_and_nothing_is_kept(browser, mei):
    make_instance(tags={"env": "prod"})
    run = draft(mei)
    for more, says in (
        ({"how": "own", "expression": "cron(0 2 * * * *)"}, "exactly one is ?"),
        ({"how": "own", "expression": ""}, "Say when."),
        ({"time": "25:00"}, "Write a time of day"),
        ({"how": "rate", "hours": "0"}, "whole number from 1"),
        ({"how": "nth", "nth": "7"}, "Choose the first"),
        ({"zone": "Mars"}, "There is no time zone “Mars”"),
        ({"name": "  "}, "Give it a name"),
        ({"open_minutes": "many"}, "whole number of minutes"),
        ({"until": "2020-01-01T00:00"}, "never be due again"),
        ({"until": "tomorrow"}, "Write a moment of the schedule"),
    ):
        answer = browser.post(reverse("schedules:new"), FORM | {"run": run.pk} | more)
        assert answer.status_code == 400 and says in text_of(answer), more
    assert not RunSchedule.objects.exists()
    assert browser.get(reverse("schedules:new"), {"run": "nonsense"}).status_code == 404
    part = text_of(browser.get(reverse("schedules:when"), FORM | {"how": "nth", "nth": "2", "offset_days": "3"}))
    assert "At 02:30 on the second Sunday of the month, 3 days later" in part and part.count("<li>") == 5


def test_the_page_shows_why_a_moment_has_no_run_and_asks_of_what_was_missed(browser, mei):
    make_instance(name="web-1")
    schedule = make_schedule(owner=mei)
    Occurrence.objects.create(
        schedule=schedule,
        due_at="2026-01-01T02:00Z",
        wanted_at=now(),
        state="refused",
        cause="unfit",
        words="All away.",
    )
    page = text_of(browser.get(schedule.get_absolute_url()))
    assert "All away." in page and "Nobody reachable" in page and "Is it to run now?" in page
    assert 'aria-label="Last 2: ' in page
    asked = schedule.occurrences.get(state="asked")
    browser.post(reverse("schedules:answer", args=[schedule.pk, asked.pk]), {"go": "run"})
    due.carry_out(asked.pk)
    page = text_of(browser.get(schedule.get_absolute_url()))
    run = Run.objects.get()
    assert run.get_absolute_url() in page and "Is it to run now?" not in page
    browser.post(reverse("schedules:pause", args=[schedule.pk]))
    assert "Paused by mei." in text_of(browser.get(schedule.get_absolute_url()))
    browser.post(reverse("schedules:resume", args=[schedule.pk]))
    answer = browser.post(reverse("schedules:change", args=[schedule.pk]), FORM | {"how": "weekly", "day": "TUE"})
    schedule.refresh_from_db()
    assert answer.status_code == 302 and schedule.expression == "cron(30 2 ? * TUE *)" and schedule.enabled
    browser.post(reverse("schedules:delete", args=[schedule.pk]))
    assert not RunSchedule.objects.exists() and Run.objects.exists()
    done = AuditEvent.objects.filter(action__startswith="rollouts.schedule.").order_by("id")
    assert [each.rpartition(".")[2] for each in done.values_list("action", flat=True)] == [
        *("run", "plan", "pause", "resume", "change", "delete")
    ]


def test_what_documents_are_given_stays_with_the_owner_and_reviewers(client, roles, valkey):
    policy.make_defaults()
    owner, other = make_user("owner", role="administrator"), make_user("pat", role="patch_owner")
    secret = {"kind": "document", "subject": {"document": "say-it", "parameters": {"Word": ["hush"]}}, "targets": "all"}
    schedule = make_schedule(owner=owner, wanted=secret)
    client.force_login(other)
    assert "hush" not in text_of(client.get(schedule.get_absolute_url()))
    told = Bearer(make_token(other)).get(reverse("api:schedule", args=[schedule.pk])).json()
    assert told["wanted"] == {"kind": "document", "subject": {"document": "say-it"}, "targets": "all"}
    assert client.post(reverse("schedules:take", args=[schedule.pk])).status_code == 403
    client.force_login(owner)
    assert "hush" in text_of(client.get(schedule.get_absolute_url()))


def test_the_list_costs_the_same_however_many_there_are(browser, mei):
    def queries(count):
        for n in range(count):
            schedule = make_schedule(owner=mei, name=f"Nightly {n}")
            run = make_run(user=mei, instances=[])
            Occurrence.objects.create(
                schedule=schedule, due_at="2026-01-01T02:00Z", wanted_at=now(), state="started", run=run
            )
        with CaptureQueriesContext(connection) as caught:
            assert browser.get(reverse("schedules:list")).status_code == 200
        return len(caught)

    assert queries(2) == queries(20)


def test_the_api_makes_shows_and_steers_them(mei):
    make_instance(name="web-1", tags={"env": "prod"})
    program = Bearer(make_token(mei))

    def post(route, *args, **body):
        answer = program.post(reverse(f"api:{route}", args=args), data=body)
        return answer.status_code, answer.json()

    what = {"subject": {"document": "say-it"}, "targets": "env=prod"}
    status, problem = post("schedules", name="Nightly", expression="rate(1 hours)", wanted=what)
    assert status == 400 and "rate(1 hour)" in str(problem)
    assert post("schedules", name="Nightly", expression="rate(1 hour)")[0] == 400
    status, made = post("schedules", name="Nightly", expression="rate(1 hour)", wanted=what, missed="ask")
    assert status == 201 and made["in_words"] == "every hour" and len(made["coming"]) == 5
    assert (made["owner"], made["wanted"]["targets"], made["next_at"]) == ("mei", "env=prod", made["coming"][0])
    pk = made["id"]
    assert post("schedule_pause", pk, reason="holiday")[1]["why_off"] == "Paused by mei. holiday"
    assert post("schedule_pause", pk)[0] == 409
    assert post("schedule_resume", pk)[1]["enabled"] is True
    status, moment = post("schedule_run", pk)
    assert status == 201 and moment["asked_by"] == "mei"
    due.carry_out(moment["id"])
    (row,) = program.get(reverse("api:schedule_moments", args=[pk])).json()["results"]
    assert (row["state"], row["run_state"]) == ("started", "running")
    run = row["run"]
    assert post("schedules", name="Again", expression="at(2090-01-01T00:00:00)", run=run)[0] == 201
    changed = program.put(
        reverse("api:schedule", args=[pk]),
        data={"name": "Weekly", "expression": "cron(0 2 ? * SUN *)"},
        content_type="application/json",
    )
    assert changed.json()["in_words"] == "at 02:00 on Sunday"
    assert program.delete(reverse("api:schedule", args=[pk])).status_code == 204


@pytest.mark.parametrize("how", when.INPUTS)
def test_each_way_to_say_when_is_read_back_as_it_was_written(how):
    values = when.values_of({"how": how, "expression": "cron(0/20 3 ? * * *)", "offset_days": "2", "hours": "1"})
    text, offset = when.expression_of(values)
    again = when.parts_of(text, offset)
    assert again["how"] == how and when.expression_of(again) == (text, offset)
