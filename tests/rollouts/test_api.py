"""Runs over the API: planned, released, followed, steered; what cannot be is said in its field."""

import pytest
from django.urls import reverse

from fleetops.policy import services as policy
from fleetops.rollouts.models import ClusterRule, Run
from fleetops.rollouts.states import RunState, TargetState
from tests.api.conftest import Bearer, make_token
from tests.factories import make_document, make_instance, make_run, make_user

pytestmark = pytest.mark.django_db
ASKED = {"subject": {"document": "say-it"}, "targets": "env=prod", "waves": [{"by": "canary", "value": "1"}]}


@pytest.fixture
def mei(roles, valkey):
    policy.make_defaults()
    return make_user("mei", role="administrator")


@pytest.fixture
def program(mei):
    return Bearer(make_token(mei))


def call(program, method: str, name: str, *args, body=None):
    more = {} if body is None else {"data": body, "content_type": "application/json"}
    if method == "post":
        more.pop("content_type", None)  # a Bearer's own
    answer = getattr(program, method)(reverse(f"api:{name}", args=args), **more)
    return answer.status_code, answer.json() if answer.content else {}


def test_a_run_is_planned_looked_at_and_released_as_it_was_seen(program):
    nodes = [make_instance(name=f"web-{n}", tags={"env": "prod"}) for n in range(3)]
    make_instance(name="lost", tags={"env": "prod"}, ping_status="ConnectionLost")
    make_document()
    status, made = call(program, "post", "runs", body=ASKED)
    assert status == 201 and made["state"] == "draft"
    assert made["counts"]["queued"] == 3 and made["counts"]["skipped"] == 1
    assert [wave["name"] for wave in made["waves"]] == ["Canary", "Rest"]
    assert made["plan"]["skipped"] == [
        {"reason": "It cannot be reached: connection lost.", "count": 1, "denied": False}
    ]
    pk = made["id"]
    assert call(program, "get", "run_drift", pk)[1]["words"] == "The fleet is as it was planned."
    status, problem = call(program, "post", "run_release", pk, body={"plan_hash": "another"})
    assert status == 409 and "The plan is another by now" in problem["detail"]
    status, released = call(program, "post", "run_release", pk, body={"plan_hash": made["plan_hash"]})
    assert status == 200 and released["state"] == "running"
    _, listed = call(program, "get", "run_targets", pk)
    assert [each["position"] for each in listed["results"]] == [1, 2, 3, 4]
    assert {each["instance_name"] for each in listed["results"] if each["wave"]} == {each.name for each in nodes}
    _, events = call(program, "get", "run_events", pk)
    assert events["results"][0]["text"].startswith("Released by mei")
    assert call(program, "delete", "run", pk)[0] == 409
    assert [each["id"] for each in call(program, "get", "runs")[1]["results"]] == [pk]


@pytest.mark.parametrize(
    ("more", "status", "field", "words"),
    [
        ({"targets": "env=("}, 400, "targets", ""),
        ({"targets": "name=nobody"}, 409, "", "No instance matches"),
        ({"subject": {"document": "nothing"}}, 400, "document", "There is no Command document nothing"),
        ({"concurrency": "0"}, 400, "concurrency", "would send it to nobody"),
        ({"waves": [{"by": "moon"}]}, 400, "waves", ""),
        ({"waves": [{"by": "percent", "value": "90"}, {"by": "percent", "value": "20"}]}, 409, "", "overlap"),
        ({"waves": [{"by": "rest", "gates": [{"kind": "magic"}]}]}, 409, "", "of no kind that there is"),
        ({"kind": "moon"}, 409, "", "knows no kind of run"),
        ({"steps_before": [{"document": ""}]}, 400, "steps_before", ""),
        ({"subject": {"document": "say-it", "parameters": {"word": "hey"}}}, 400, "parameters", "is a list of texts"),
        ({"subject": {"document": "say-it", "parameters": {"word": 5}}}, 400, "parameters", "is a list of texts"),
        ({"subject": {"document": "say\x00it"}}, 409, "", "NUL"),
        ({"waves": [{"by": "rest", "gates": [{"kind": "alarm", "names": 5}]}]}, 409, "", "is a list of texts"),
        ({"waves": [{"by": "rest", "gates": [{"kind": "approval", "approvers": 5}]}]}, 409, "", "is a list of texts"),
        ({"cutoff_minutes": 10**15, "ends_by": "2100-01-01T00:00:00Z"}, 400, "cutoff_minutes", "at most 1,440"),
        ({"starts_at": "9999-12-31T23:59:00Z"}, 400, "starts_at", "an earlier moment"),
    ],
)
def test_what_cannot_be_planned_is_said_in_its_field(program, more, status, field, words):
    make_instance(tags={"env": "prod"})
    make_document()
    got, problem = call(program, "post", "runs", body=ASKED | more)
    assert got == status and not Run.objects.exists()
    assert words in str(problem) and any(each.startswith(field) for each in problem.get("errors", [""]))


def test_a_run_is_steered_by_its_owner_and_by_nobody_who_only_sees_it(program, mei):
    run = make_run(user=mei, instances=[make_instance(), make_instance()])
    gate = run.waves.get().gates.get()
    assert call(program, "post", "run_pause", run.pk, body={"reason": "lunch"})[1]["state"] == "paused"
    assert call(program, "post", "run_resume", run.pk, body={})[1]["state"] == "running"
    target = run.targets.first()
    assert call(program, "post", "run_skip_target", run.pk, target.pk, body={})[0] == 400
    assert call(program, "post", "run_skip_target", run.pk, target.pk, body={"reason": "in repair"})[0] == 200
    assert run.targets.get(pk=target.pk).state == TargetState.SKIPPED
    run.targets.filter(position=2).update(state=TargetState.FAILED)
    assert call(program, "post", "run_retry", run.pk, body={"wave": 1})[0] == 200
    assert run.targets.get(position=2).state == TargetState.QUEUED
    assert call(program, "post", "run_retry", run.pk, body={"wave": 9})[0] == 404
    elsewhere = make_run(user=mei, instances=[make_instance()])
    assert call(program, "post", "run_overrule", elsewhere.pk, gate.pk, body={"reason": "x"})[0] == 404
    # Others were to approve what comes after this wave: who asked for the run does not set that aside.
    assert call(program, "post", "run_skip_wave", run.pk, 1, body={"reason": "x"})[0] == 403
    other = Bearer(make_token(make_user(role="administrator")))
    assert call(other, "post", "run_skip_wave", run.pk, 1, body={"reason": "x"})[0] == 200
    viewer = Bearer(make_token(make_user(role="viewer"), "runs:read"))
    assert call(viewer, "get", "run", run.pk)[0] == 200
    assert call(viewer, "post", "run_abort", run.pk, body={})[0] == 403
    assert call(program, "post", "run_abort", run.pk, body={"reason": "enough"})[1]["state"] == "aborting"


def test_a_draft_is_planned_again_and_discarded_by_its_maker_alone(program, mei):
    make_instance(tags={"env": "prod"})
    make_document()
    first = call(program, "post", "runs", body=ASKED)[1]["id"]
    status, again = call(program, "post", "run_again", first)
    assert status == 201 and again["id"] != first and Run.objects.count() == 1
    other = Bearer(make_token(make_user(role="administrator")))
    assert call(other, "get", "run", again["id"])[0] == 404
    assert call(other, "delete", "run", again["id"])[0] == 404
    assert call(program, "delete", "run", again["id"])[0] == 204 and not Run.objects.exists()


def test_runs_are_filtered_by_state_and_targets_too(program, mei):
    run = make_run(user=mei, instances=[make_instance(), make_instance()])
    make_run(user=mei, state=RunState.SUCCEEDED)
    run.targets.filter(position=1).update(state=TargetState.FAILED)
    found = program.get(reverse("api:runs"), {"state": "running"}).json()["results"]
    assert [each["id"] for each in found] == [str(run.pk)]
    assert program.get(reverse("api:runs"), {"state": "moon"}).status_code == 400
    failed = program.get(reverse("api:run_targets", args=[run.pk]), {"state": "failed"}).json()["results"]
    assert [each["position"] for each in failed] == [1]


def test_cluster_rules_are_kept_over_the_api(program):
    status, made = call(program, "post", "cluster_rules", body={"tag": "shop", "most_out": 1})
    assert status == 201 and made["values"] == "*" and made["enabled"]
    status, problem = call(program, "post", "cluster_rules", body={"tag": "shop", "most_out": 2})
    assert status == 400 and "values" in problem["errors"]
    changed = {"tag": "shop", "values": "lagos-*", "most_out": 2, "enabled": False}
    assert call(program, "put", "cluster_rule", made["id"], body=changed)[1]["values"] == "lagos-*"
    assert call(program, "put", "cluster_rule", made["id"], body=changed | {"most_out": 0})[0] == 400
    assert call(program, "get", "cluster_rules")[1]["results"][0]["most_out"] == 2
    assert call(program, "delete", "cluster_rule", made["id"])[0] == 204 and not ClusterRule.objects.exists()
