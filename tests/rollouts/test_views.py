"""Pages of runs: who may, what they show at ten targets and at ten thousand, what they cost, what they send."""

import json
import re

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from fleetops.audit.models import AuditEvent
from fleetops.inventory.models import Instance
from fleetops.policy import services as policy
from fleetops.rollouts import listing, plan
from fleetops.rollouts.models import ClusterRule, ClusterSlot, Run, RunTarget, Wave
from fleetops.rollouts.rows import insert
from fleetops.rollouts.states import RunState, TargetState, WaveState
from tests.factories import (
    make_account,
    make_cluster_rule,
    make_document,
    make_instance,
    make_region,
    make_run,
    make_user,
)

from .test_steering import freeze

pytestmark = pytest.mark.django_db
WORD = '"word": {"type": "String", "allowedPattern": "^[a-z]+$"}'
SAY = '{"schemaVersion": "2.2", "parameters": {%s}, "mainSteps": [{"action": "aws:runShellScript", "name": "say", "inputs": {"runCommand": ["echo"]}}]}'  # noqa: E501


@pytest.fixture
def mei(roles, valkey):
    policy.make_defaults()
    make_user("priya", role="administrator")
    return make_user("mei", role="administrator")


@pytest.fixture
def browser(client, mei):
    client.force_login(mei)
    return client


def text_of(answer) -> str:
    return re.sub(r"\s+", " ", answer.content.decode())


def fill(run: Run, count: int, **states: int) -> None:
    """`count` targets of the run's only wave, of which so many are of the states named and the others wait."""
    region, wave = make_region(), run.waves.get()
    kinds = [state for state, number in states.items() for _ in range(number)] + ["queued"] * count
    columns = ("id", "run", "wave", "position", "account", "region", "instance_id", "instance_name", "state")
    rows = (
        (plan.uuid7(), run.pk, wave.pk, n, region.account_id, region.pk, f"i-{n:017x}", f"node-{n:05}", kinds[n - 1])
        for n in range(1, count + 1)
    )
    insert(RunTarget, columns, rows)


# --- the list --------------------------------------------------------------------------------------------------------


def test_the_list_shows_runs_with_their_share_by_words_states_and_pages(browser, mei):
    empty = text_of(browser.get(reverse("rollouts:runs")))
    assert "No run yet" in empty and "New run" in empty
    nodes = [make_instance(name=f"web-{n}") for n in range(2)]
    run = make_run(user=mei, instances=nodes, name="November")
    run.targets.filter(position=1).update(state=TargetState.FAILED)
    make_run(user=mei, name="Old one", state="succeeded", counts={"succeeded": 7})
    make_run(user=make_user(role="administrator"), name="Not mine", state="draft")
    page = text_of(browser.get(reverse("rollouts:runs")))
    assert "1 run</a> is going" in page and "November" in page and "wave 1 of 1" in page and "Not mine" not in page
    assert ">7 <span" in page  # of one that is over, as it was written down
    assert "November" not in text_of(browser.get(reverse("rollouts:runs"), {"q": "old"}))
    assert "Old one" not in text_of(browser.get(reverse("rollouts:runs"), {"state": "open"}))
    assert "No run matches “zzz”" in text_of(browser.get(reverse("rollouts:runs"), {"q": "zzz"}))
    for number in range(30):
        make_run(user=mei, name=f"run {number}", state="succeeded", counts={"succeeded": 1})
    page = text_of(browser.get(reverse("rollouts:runs")))
    assert "1–25 of 32" in page and 'rel="next"' in page
    assert "1–32 of 32" in text_of(browser.get(reverse("rollouts:runs"), {"rows": "50"}))
    part = text_of(browser.get(reverse("rollouts:runs"), HTTP_HX_REQUEST="true"))
    assert "<html" not in part and 'id="run-list"' in part


def test_the_list_asks_the_same_queries_however_many_runs_there_are(browser, mei):
    counts = []
    for number in (1, 20):
        for _ in range(number):
            make_run(user=mei, instances=[make_instance()])
        with CaptureQueriesContext(connection) as captured:
            browser.get(reverse("rollouts:runs"), HTTP_HX_REQUEST="true")
        counts.append(len(captured))
    assert counts[0] == counts[1] == 10


# --- a new one -------------------------------------------------------------------------------------------------------


def step(browser, page, go: str, **more):
    """Send the form of a page as a browser would, with `more` typed into it."""
    html = page.content.decode()
    form = html[html.index('<form class="card" method="post"') :]
    form = form[: form.index("</form>")]
    sent: dict[str, str] = {}
    for tag in re.findall(r"<input[^>]*>", form):
        name, value = re.search(r'name="([^"]*)"', tag), re.search(r'value="([^"]*)"', tag)
        if name and ("checkbox" not in tag or " checked" in tag):
            sent[name[1]] = value[1] if value else ""
    for name, inner in re.findall(r'<select[^>]*name="([^"]*)"[^>]*>(.*?)</select>', form, re.S):
        chosen = re.search(r'value="([^"]*)" selected', inner) or re.search(r'value="([^"]*)"', inner)
        sent[name] = chosen[1]
    for name, inner in re.findall(r'<textarea[^>]*name="([^"]*)"[^>]*>\n?(.*?)</textarea>', form, re.S):
        sent[name] = inner
    sent.pop("csrfmiddlewaretoken", None)
    return browser.post(reverse("rollouts:new"), {**sent, "go": go, **more})


def test_a_step_that_there_is_not_is_the_first(browser):
    pk = str(make_document(text=SAY % WORD).pk)
    answer = browser.post(reverse("rollouts:new"), {"document": pk, "step": "moon", "go": "more", "p_word": "hey"})
    assert answer.status_code == 400 and "on which instances" in text_of(answer)


def test_from_a_document_to_its_plan_step_by_step(browser, mei, django_capture_on_commit_callbacks):
    for number in range(6):
        make_instance(name=f"web-{number}", tags={"env": "prod"})
    make_instance(name="web-lost", tags={"env": "prod"}, ping_status="ConnectionLost")
    make_document(text=SAY % WORD)
    chosen = text_of(browser.get(reverse("rollouts:new"), {"q": "env=prod"}))
    (link,) = re.findall(r'href="(\?document=[^"]+)"', chosen)
    first = browser.get(reverse("rollouts:new") + link.replace("&amp;", "&"))
    assert 'value="env=prod"' in text_of(first) and 'name="p_word"' in text_of(first)

    wrong = step(browser, first, "next", p_word="HEY")
    assert wrong.status_code == 400 and "word must match" in text_of(wrong)
    second = step(browser, first, "next", p_word="hey", name="Say hey", reason="CHG-7")
    assert second.status_code == 200 and "Wave 4" in text_of(second)
    preset = step(browser, second, "preset-canary")
    assert "Wave 2" in text_of(preset) and "Wave 3" not in text_of(preset)
    added = step(browser, preset, "add")
    assert "Wave 3" in text_of(added)
    removed = step(browser, added, "remove-3", w2_by="percent", w2_value="50")
    assert "Wave 3" not in text_of(removed)
    wrong = step(browser, removed, "next", concurrency="fast")
    assert wrong.status_code == 400 and "The concurrency is a number" in text_of(wrong)
    third = step(browser, removed, "next", concurrency="2", budget="1", is_strict="1")
    assert "Wave 1: Canary 1" in text_of(third) and 'value="15"' in text_of(third)
    back = step(browser, third, "back")
    assert 'value="2"' in text_of(back)
    more = {"w1_quorum": "1", "w1_soak": "5", "before1_document": "say-it", "before1_parameters": "word: low"}
    more = step(browser, third, "more", **more)
    assert 'name="before2_document"' in text_of(more)
    nowhere = step(browser, more, "next", probe1_document="nothing")
    assert nowhere.status_code == 400 and "no document nothing" in text_of(nowhere) and not Run.objects.exists()
    made = step(browser, more, "next")
    run = Run.objects.get()
    assert made["Location"] == run.get_absolute_url()
    assert run.subject["parameters"] == {"word": ["hey"]} and (run.concurrency, run.budget) == ("2", "1")
    assert run.is_strict and run.name == "Say hey" and run.reason == "CHG-7"
    assert run.steps_before == [{"document": "say-it", "version": "", "parameters": {"word": ["low"]}}]
    assert [wave.name for wave in run.waves.all()] == ["Canary", "50 %", "Rest"]
    canary = run.waves.first()
    assert canary.soak_seconds == 300 and canary.gates.get().settings["quorum"] == 1

    page = text_of(browser.get(run.get_absolute_url()))
    assert "Reaches <b>6 of 7</b> instances in 3 waves" in page and "Start on 6 targets" in page
    assert "It cannot be reached: connection lost." in page and f'value="{run.plan_hash}"' in page
    refused = browser.post(reverse("rollouts:start", args=[run.pk]), {"plan_hash": "another"})
    assert refused.status_code == 409
    with django_capture_on_commit_callbacks():
        browser.post(reverse("rollouts:start", args=[run.pk]), {"plan_hash": run.plan_hash})
    run.refresh_from_db()
    assert run.state == RunState.RUNNING
    assert "Start on" not in text_of(browser.get(reverse("rollouts:plan", args=[run.pk])))


def test_a_plan_is_its_makers_until_it_starts_and_more_than_a_hundred_are_typed(browser, mei):
    make_document()
    region = make_region()
    Instance.objects.bulk_create(
        Instance(account=region.account, region=region, instance_id=f"i-{n:017x}", name=f"n{n}", ping_status="Online")
        for n in range(101)
    )
    run = plan.make(plan.Wanted(kind="document", subject={"document": "say-it"}, targets="all"), actor=mei)
    page = text_of(browser.get(run.get_absolute_url()))
    assert "Type the number of targets" in page
    start = reverse("rollouts:start", args=[run.pk])
    for wrong in ({}, {"count": "100"}):
        browser.post(start, {"plan_hash": run.plan_hash, **wrong})
    assert Run.objects.get().is_draft
    browser.logout()
    browser.force_login(make_user(role="administrator"))
    for name in ("run", "targets", "plan"):
        assert browser.get(reverse(f"rollouts:{name}", args=[run.pk])).status_code == 404
    browser.force_login(mei)
    browser.post(start, {"plan_hash": run.plan_hash, "count": "101"})
    assert Run.objects.get().state == RunState.RUNNING
    assert browser.post(reverse("rollouts:discard", args=[run.pk])).status_code == 409


def test_a_plan_is_made_again_and_discarded(browser, mei):
    make_document()
    make_instance()
    run = plan.make(plan.Wanted(kind="document", subject={"document": "say-it"}, targets="all"), actor=mei)
    browser.post(reverse("rollouts:again", args=[run.pk]))
    other = Run.objects.get()
    assert other.pk != run.pk
    assert browser.post(reverse("rollouts:discard", args=[other.pk]))["Location"] == reverse("rollouts:runs")
    assert not Run.objects.exists()


# --- the dashboard ---------------------------------------------------------------------------------------------------


def test_ten_targets_are_cards_with_a_word_and_phases(browser, mei):
    run = make_run(user=mei, instances=[make_instance(name=f"web-{n}") for n in range(10)], budget="2")
    one = run.targets.get(position=1)
    run.targets.filter(position=2).update(state=TargetState.FAILED, reason="Undeliverable.", sent_at=run.started_at)
    run.targets.filter(position=3).update(reason="Waits for a place in 111122223333 shop=a.")
    RunTarget.objects.filter(pk=one.pk).update(
        state=TargetState.SUCCEEDED, went_at=run.started_at, ran_at=run.started_at, ended_at=run.started_at
    )
    page = text_of(browser.get(run.get_absolute_url()))
    assert page.count('class="fo-target is-') == 10 and "1 of 10</a> done and proven" in page
    assert '<b class="medium">Failed</b>: Undeliverable.' in page and "Held" in page
    assert "1 of 2 <small>1 left" in page and "Waits for a place" in page
    assert 'data-behaviour="cells"' not in page
    with CaptureQueriesContext(connection) as captured:
        live = text_of(browser.get(reverse("rollouts:live", args=[run.pk]), HTTP_HX_REQUEST="true"))
    assert len(captured) == 15
    assert 'id="lane-1" hx-swap-oob="true"' in live and "<html" not in live and 'hx-trigger="every 3s' in live
    Run.objects.filter(pk=run.pk).update(state=RunState.SUCCEEDED)
    assert 'hx-trigger="every 3s' not in text_of(browser.get(reverse("rollouts:live", args=[run.pk])))


def test_ten_thousand_targets_are_cells_and_only_what_changed_is_told(browser, mei):
    run = make_run(user=mei, budget="1%")
    fill(run, 10_000, succeeded=4000, failed=9, sent=300, ran=12)
    with CaptureQueriesContext(connection) as captured:
        page = text_of(browser.get(run.get_absolute_url()))
    assert len(captured) == 20
    assert 'data-count="10000" data-kind="canvas"' in page and len(page) < 80_000
    assert "4,009 of 10,000" in page and "9 of 100" in page and page.count("fo-target ") == 0

    url = reverse("rollouts:cells", args=[run.pk])
    whole = browser.get(url).json()
    assert len(whole["all"]) == 10_000 and whole["all"][:4001] == "o" * 4000 + "b" and whole["open"]
    same = browser.get(url, {"since": whole["cursor"]}).json()
    assert same["changed"] == [] and same["cursor"] == whole["cursor"]
    run.targets.filter(position__in=[4010, 4320]).update(state=TargetState.SUCCEEDED)
    run.targets.filter(position=10_000).update(reason="Held: frozen.")
    with CaptureQueriesContext(connection) as captured:
        answer = browser.get(url, {"since": whole["cursor"]})
    assert answer.json()["changed"] == [[4009, "o"], [4319, "o"], [9999, "h"]] and len(answer.content) < 300
    assert len(captured) == 7
    lost = browser.get(url, {"since": "0" * 16}).json()
    assert len(lost["all"]) == 10_000  # a cursor that nobody knows any more
    codes = json.loads(re.search(r'id="run-codes" type="application/json">(.*?)</script>', page)[1])
    assert set(whole["all"]) <= set(codes) and codes["b"] == ["bad", "Failed"]
    assert set(listing.CODE_OF) == set(TargetState)

    found = browser.get(reverse("rollouts:cell", args=[run.pk, 4001])).json()
    assert (found["name"], found["kind"], found["word"]) == ("node-04001", "bad", "Failed")
    names = browser.get(reverse("rollouts:names", args=[run.pk]), {"from": "9001"}).json()
    assert len(names["names"]) == 800 and names["names"][0] == "node-09001"
    table = text_of(browser.get(reverse("rollouts:targets", args=[run.pk]), {"show": "failed"}))
    assert "1–9 of 9" in table and "node-04001" in table and "node-00001" not in table
    assert "1–100 of 10,000" in text_of(browser.get(reverse("rollouts:targets", args=[run.pk])))


def test_a_hundred_targets_are_buttons(browser, mei):
    run = make_run(user=mei)
    fill(run, 100)
    assert 'data-count="100" data-kind="buttons"' in text_of(browser.get(run.get_absolute_url()))


def test_failures_are_grouped_by_their_cause_and_a_target_shows_its_way(browser, mei):
    run = make_run(user=mei, instances=[make_instance(name=f"web-{n}") for n in range(4)])
    moment = run.started_at
    run.targets.filter(position__lte=3).update(
        state=TargetState.FAILED, reason="The command failed, exit code 1.", went_at=moment, sent_at=moment, attempt=1
    )
    run.targets.filter(position=3).update(reason="<b>lock</b> held", facts={"exit_code": 3})
    page = text_of(browser.get(reverse("rollouts:failures", args=[run.pk])))
    assert "3</b> targets have failed, for 2 reasons" in page and "&lt;b&gt;lock&lt;/b&gt; held" in page
    assert "Retry all 3" in page
    target = run.targets.get(position=1)
    url = reverse("rollouts:target", args=[run.pk, target.pk])
    drawer = text_of(browser.get(url, HTTP_HX_REQUEST="true"))
    assert '<div id="drawer"><aside' in drawer and "Command, failed here" in drawer and "Back, not reached" in drawer
    assert "1 other target failed the same way" in drawer and "Skip web-0" in drawer
    assert "web-0" in text_of(browser.get(url))
    facts = text_of(browser.get(reverse("rollouts:target", args=[run.pk, run.targets.get(position=3).pk])))
    assert '<dt>exit_code</dt><dd class="fo-anywhere">3</dd>' in facts
    elsewhere = make_run(user=mei, instances=[make_instance()])
    assert browser.get(reverse("rollouts:target", args=[elsewhere.pk, target.pk])).status_code == 404


def test_phases_tell_how_far_a_target_is(mei):
    run = make_run(
        user=mei, instances=[make_instance()], steps_before=[{"document": "drain"}], probes=[{"document": "p"}]
    )
    target = run.targets.get()

    def seen(**fields) -> str:
        for name, value in fields.items():
            setattr(target, name, value)
        return " ".join(f"{each.name}:{each.kind}" for each in listing.phases(run, target))

    moment = run.started_at
    assert seen() == "Steps before: Command: Back: Report: Probes:"
    assert seen(state="preparing", went_at=moment) == "Steps before:run Command: Back: Report: Probes:"
    assert seen(state="sent", sent_at=moment) == "Steps before:ok Command:run Back: Report: Probes:"
    assert seen(state="reported", ran_at=moment, rebooted_at=moment, reported_at=moment) == (
        "Steps before:ok Command:ok Back:ok Report:ok Probes:run"
    )
    assert seen(state="failed") == "Steps before:ok Command:ok Back:ok Report:ok Probes:bad"
    assert seen(state="succeeded", probed_at=moment).count(":ok") == 5


def test_a_run_is_steered_from_its_page_and_each_deed_wants_what_it_needs(browser, mei):
    run = make_run(user=mei, instances=[make_instance(name=f"web-{n}") for n in range(3)])
    run.waves.get().gates.all().delete()

    def post(name, *more, **form):
        answer = browser.post(reverse(f"rollouts:{name}", args=[run.pk, *more]), form)
        run.refresh_from_db()
        return answer.status_code

    assert "Pause" in text_of(browser.get(run.get_absolute_url()))
    assert post("pause", reason="lunch") == 302 and run.state == RunState.PAUSED
    page = text_of(browser.get(run.get_absolute_url()))
    assert "Resume" in page and "Pause</button>" not in page
    assert post("resume") == 302 and run.state == RunState.RUNNING
    target = run.targets.get(position=1)
    assert post("skip_target", target.pk) == 409
    assert post("skip_target", target.pk, reason="in repair") == 302
    target.refresh_from_db()
    assert target.state == TargetState.SKIPPED and "in repair" in target.reason
    run.targets.filter(position=2).update(state=TargetState.FAILED)
    assert post("retry") == 302 and run.targets.get(position=2).state == TargetState.QUEUED
    run.targets.filter(position=2).update(state=TargetState.FAILED)
    Run.objects.filter(pk=run.pk).update(state=RunState.STOPPED)
    Wave.objects.filter(run=run).update(state=WaveState.FAILED)
    page = text_of(browser.get(run.get_absolute_url()))
    assert "Stopped, needs you" in page and "Accept 1 and go on" in page and "Retry it" in page
    assert post("forward", reason="known") == 302 and run.state == RunState.RUNNING
    assert post("abort", reason="enough") == 302 and run.state == RunState.ABORTING
    assert AuditEvent.objects.filter(action__startswith="rollouts.", actor_name="mei").count() >= 6
    browser.force_login(make_user(role="viewer"))
    page = text_of(browser.get(run.get_absolute_url()))
    assert "/abort/" not in page and "/skip/" not in page and "/resume/" not in page


def test_who_made_a_run_asks_others_to_let_it_go_through_freezes(browser, mei):
    run = make_run(user=mei, instances=[make_instance()])
    run.targets.update(reason="Held: frozen by “Year's end” until 2027-01-02 00:00 UTC: sale.")
    freeze(mei)
    url = reverse("rollouts:override", args=[run.pk])
    page = text_of(browser.get(run.get_absolute_url()))
    assert "Ask to go through freezes" in page and "frozen by “Year&#x27;s end”" in page
    assert browser.post(url).status_code == 409  # without a reason
    assert browser.post(url, {"reason": "CVE-2026-1"}).status_code == 302
    page = text_of(browser.get(run.get_absolute_url()))
    assert "Leave to go through freezes: waiting" in page and "Ask to go through freezes" not in page
    browser.force_login(make_user(role="viewer"))
    page = text_of(browser.get(run.get_absolute_url()))
    assert "Leave to go through freezes: waiting" in page and "/approvals/" not in page.split('id="run-side"')[1]


def test_a_large_run_is_aborted_by_who_typed_its_number(browser, mei):
    run = make_run(user=mei)
    fill(run, 101)
    url = reverse("rollouts:abort", args=[run.pk])
    for wrong in ({}, {"count": "100"}):
        browser.post(url, wrong)
        run.refresh_from_db()
        assert run.state == RunState.RUNNING
    browser.post(url, {"count": "101", "reason": "enough"})
    run.refresh_from_db()
    assert run.state == RunState.ABORTING


# --- cluster rules ---------------------------------------------------------------------------------------------------


def test_cluster_rules_are_kept_audited_and_count_the_clusters_of_each_account_apart(browser, mei):
    assert "No cluster is protected" in text_of(browser.get(reverse("rollouts:clusters")))
    bad = browser.post(reverse("rollouts:create_cluster"), {"tag": "shop", "values": "*", "most_out": "0"})
    assert bad.status_code == 400 and "At least 1 member" in text_of(bad)
    form = {"tag": "shop", "values": "lagos-*", "most_out": "1", "enabled": "1"}
    assert browser.post(reverse("rollouts:create_cluster"), form).status_code == 302
    rule = ClusterRule.objects.get()
    twice = browser.post(reverse("rollouts:create_cluster"), form)
    assert twice.status_code == 400 and "a rule for this tag and these values already" in text_of(twice)
    here, there = make_region(), make_region(account=make_account("444455556666"))
    nodes = [make_instance(region=region, tags={"shop": "lagos-1"}) for region in (here, here, there)]
    make_instance(region=here, tags={"shop": "lagos-1"}, ping_status="ConnectionLost")
    make_instance(region=here, tags={"shop": "accra-1"}, ping_status="ConnectionLost")
    make_run(user=mei, instances=nodes[2:])
    slot = RunTarget.objects.get()
    page = text_of(browser.get(reverse("rollouts:clusters")))
    assert 'In <b class="hold">1 cluster</b> nobody more may go now; 1 member is out of service' in page
    ClusterSlot.objects.create(cluster="444455556666 shop=lagos-1", slot=0, target=slot)
    with CaptureQueriesContext(connection) as captured:
        page = text_of(browser.get(reverse("rollouts:clusters"), HTTP_HX_REQUEST="true"))
    assert '<b class="tnum">2</b> members' in page and len(captured) == 8
    url = reverse("rollouts:cluster", args=[rule.pk])
    assert 'value="lagos-*"' in text_of(browser.get(url))
    browser.post(url, form | {"most_out": "2"})
    rule.refresh_from_db()
    assert rule.most_out == 2
    make_cluster_rule("role")
    browser.post(reverse("rollouts:delete_cluster", args=[rule.pk]))
    assert ClusterRule.objects.get().tag == "role"
    actions = list(AuditEvent.objects.filter(action__startswith="rollouts.cluster").order_by("id"))
    assert [each.action.rpartition(".")[2] for each in actions] == ["create", "change", "delete"]
    assert actions[1].details["before"] == {"most_out": 1} and actions[1].details["after"] == {"most_out": 2}
