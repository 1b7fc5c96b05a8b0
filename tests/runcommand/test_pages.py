"""Pages and routes of commands: who may, what they show, what they cost with ten thousand instances."""

import re

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from fleetops.audit.models import AuditEvent
from fleetops.policy import services as policy
from fleetops.runcommand import services
from fleetops.runcommand.listing import bar
from fleetops.runcommand.models import Command, Invocation
from fleetops.runcommand.states import InvocationState
from tests.api.conftest import Bearer, make_token
from tests.endpoint.jobs import until
from tests.factories import make_account, make_command, make_document, make_instance, make_region, make_user

from .conftest import ends, started, step

SAY = '{"schemaVersion": "2.2", "parameters": {%s}, "mainSteps": [{"action": "aws:runShellScript", "name": "say", "inputs": {"runCommand": ["echo"]}}]}'  # noqa: E501
WORD = '"word": {"type": "String", "default": "hi", "allowedPattern": "^[a-z]+$"}, "lines": {"type": "StringList", "default": ["a", "b"]}, "loud": {"type": "Boolean", "default": false}, "size": {"type": "String", "allowedValues": ["s", "m"], "default": "m"}'  # noqa: E501


@pytest.fixture
def mei(roles, valkey):
    policy.make_defaults()
    return make_user("mei", role="operator")


@pytest.fixture
def browser(client, mei):
    client.force_login(mei)
    return client


def text_of(answer) -> str:
    return re.sub(r"\s+", " ", answer.content.decode())


def put_in(command: Command, count: int, **states: int) -> None:
    """`count` instances, of which so many are of the states named and the others have succeeded."""
    region = make_region()
    kinds = [state for state, number in states.items() for _ in range(number)]
    kinds += ["succeeded"] * (count - len(kinds))
    Invocation.objects.bulk_create(
        (
            Invocation(
                command=command,
                account=region.account,
                region=region,
                instance_id=f"i-{number:017x}",
                instance_name=f"node-{number:05}",
                state=state,
                details="Success" if state == "succeeded" else "Failed",
                exit_code=0 if state == "succeeded" else 3,
            )
            for number, state in enumerate(kinds)
        ),
        batch_size=1000,
    )


# --- the form, the plan, the start -----------------------------------------------------------------------------------


@pytest.mark.django_db
def test_from_the_fleet_to_the_plan_and_to_the_start(browser, mei, django_capture_on_commit_callbacks):
    nodes = [make_instance(name=f"web-{n}", tags={"env": "prod"}) for n in (1, 2)]
    make_instance(name="db-1", tags={"env": "dev"})
    make_instance(name="web-3", tags={"env": "prod"}, ping_status="ConnectionLost")
    document = make_document(text=SAY % WORD)
    fleet = browser.get(reverse("inventory:fleet"), {"q": "env=prod"})
    (link,) = re.findall(r'id="fleet-run" href="([^"]+)"', fleet.content.decode())
    chosen = browser.get(link.replace("&amp;", "&"))
    assert "say-it" in text_of(chosen) and "env=prod" in text_of(chosen)
    (link,) = re.findall(r'href="(\?document=[^"]+)"', chosen.content.decode())
    form = text_of(browser.get(reverse("runcommand:create") + link.replace("&amp;", "&")))
    assert 'value="env=prod"' in form and 'name="p_word" value="hi"' in form
    assert "a b</textarea>" in form and '<option value="m" selected>' in form

    typed = {"document": document.pk, "targets": "env=prod", "timeout_seconds": 600, "reason": "a test"}
    typed |= {"p_word": "hey", "p_lines": "x\r\ny\r\n", "p_loud": "true", "p_size": "s"}
    answer = browser.post(reverse("runcommand:create"), typed)
    command = Command.objects.get()
    assert answer["Location"] == command.get_absolute_url() and command.state == "draft"
    assert command.parameters == {"word": ["hey"], "lines": ["x", "y"], "loud": ["true"], "size": ["s"]}
    page = text_of(browser.get(answer["Location"]))
    assert "2 instances" in page and "It cannot be reached: connection lost." in page and "web-1" in page
    assert "db-1" not in page and "Run on 2 instances" in page

    with django_capture_on_commit_callbacks():
        browser.post(reverse("runcommand:start", args=[command.pk]))
    command.refresh_from_db()
    assert command.state == "running" and command.reason == "a test"
    assert {each.instance_row for each in command.invocations.filter(state="planned")} == set(nodes)
    page = browser.get(command.get_absolute_url()).content.decode()
    assert "0 of 2 instances have ended" in page and ">x\ny</pre>" in page


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ({"targets": ""}, "Say on which instances"),
        ({"targets": "env=("}, "invalid-feedback"),
        ({"targets": "name=nobody"}, "No instance matches"),
        ({"p_word": "HEY"}, "word must match ^[a-z]+$"),
        ({"p_size": "xl"}, "size must be one of: s, m"),
        ({"timeout_seconds": "5"}, "greater than or equal to 30"),
        ({"p_lines": "x" * 70_000}, "more than 64 KB"),
        ({"p_lines": "a\x00b"}, "NUL character"),
    ],
)
def test_what_is_wrong_is_told_beside_what_was_typed(browser, typed, words):
    make_instance()
    document = make_document(text=SAY % WORD)
    whole = {
        "document": document.pk,
        "targets": "all",
        "timeout_seconds": 600,
        "p_word": "hi",
        "reason": "kept",
    } | typed
    answer = browser.post(reverse("runcommand:create"), whole)
    assert answer.status_code == 400 and words in text_of(answer) and 'value="kept"' in text_of(answer)
    assert not Command.objects.exists()


@pytest.mark.django_db
def test_more_than_a_hundred_want_their_number_typed(browser, mei, django_capture_on_commit_callbacks):
    document = make_document()
    for _ in range(101):
        make_instance()
    browser.post(reverse("runcommand:create"), {"document": document.pk, "targets": "all", "timeout_seconds": 600})
    command = Command.objects.get()
    assert "Type the number of instances" in text_of(browser.get(command.get_absolute_url()))
    start = reverse("runcommand:start", args=[command.pk])
    for wrong in ({}, {"count": "100"}):
        browser.post(start, wrong)
        command.refresh_from_db()
        assert command.is_draft
    with django_capture_on_commit_callbacks():
        browser.post(start, {"count": "101"})
    command.refresh_from_db()
    assert command.state == "running"


@pytest.mark.django_db
def test_a_document_of_another_type_or_that_cannot_be_read_is_not_run(browser):
    session = make_document("shell-prefs", document_type="Session")
    broken = make_document("broken", text='{"schemaVersion": "2.2", "mainSteps": []}')
    assert browser.get(reverse("runcommand:create"), {"document": session.pk}).status_code == 404
    answer = browser.get(reverse("runcommand:create"), {"document": broken.pk})
    assert answer.status_code == 409 and "mainSteps" in text_of(answer)
    assert browser.get(reverse("runcommand:create"), {"document": "x"}).status_code == 409


@pytest.mark.django_db
def test_two_accounts_with_documents_of_one_name(browser, mei):
    """One's own document runs elsewhere only where it says the same; AWS's may differ."""
    here, there = make_region(), make_region(account=make_account("444455556666"))
    make_instance(region=here, name="here")
    make_instance(region=there, name="there")
    ours = make_document(region=here)
    theirs = make_document(region=there)
    typed = {"document": ours.pk, "targets": "all", "timeout_seconds": 600}
    browser.post(reverse("runcommand:create"), typed)
    command = Command.objects.latest("created_at")
    assert {each.instance_name: each.state for each in command.invocations.all()} == {
        "here": "planned",
        "there": "planned",
    }
    theirs.versions.update(content=SAY % "")
    browser.post(reverse("runcommand:create"), typed)
    skipped = Command.objects.latest("created_at").invocations.get(state="skipped")
    assert skipped.instance_name == "there" and "says something else in account-4444" in skipped.details
    theirs.delete()
    browser.post(reverse("runcommand:create"), typed)
    skipped = Command.objects.latest("created_at").invocations.get(state="skipped")
    assert skipped.instance_name == "there" and "no such document" in skipped.details


# --- ten thousand ----------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_pages_cost_the_same_with_ten_thousand_instances(browser, mei, django_assert_max_num_queries):
    small, large = make_command(user=mei), make_command(user=mei)
    put_in(small, 3, failed=1, running=1)
    put_in(large, 10_000, failed=37, running=1200, planned=800)
    browser.get(small.get_absolute_url())  # warms what is kept
    costs = []
    for command in (small, large):
        with CaptureQueriesContext(
            connection,
        ) as whole:
            page = text_of(browser.get(command.get_absolute_url()))
        with CaptureQueriesContext(connection) as part:
            browser.get(
                reverse("runcommand:live", args=[command.pk]), {"show": "unwell"}, headers={"HX-Request": "true"}
            )
        costs.append((len(whole), len(part)))
    assert costs[0] == costs[1] and costs[0][1] <= 9, costs
    assert "8,000 of 10,000 instances have ended" in page and "1–100 of 10,000" in page and page.count("node-0") == 100
    with django_assert_max_num_queries(costs[0][0] + 1):  # what the words match is counted
        last = text_of(browser.get(large.get_absolute_url(), {"show": "unwell", "q": "node-0003"}))
    assert "1–7 of 7" in last


@pytest.mark.django_db
def test_the_list_costs_the_same_with_many_and_filters(browser, mei, django_assert_num_queries):
    for number in range(60):
        command = make_command(user=mei, document_name=f"doc-{number % 2}", reason="spring" if number == 7 else "")
        put_in(command, 2, failed=1)
    browser.get(reverse("runcommand:list"))
    with CaptureQueriesContext(connection) as few:
        assert text_of(browser.get(reverse("runcommand:list"), {"q": "spring"})).count("<tr>") == 2
    with CaptureQueriesContext(connection) as many:
        page = text_of(browser.get(reverse("runcommand:list")))
    assert len(few) == len(many) and "1–50 of 60" in page and "60 commands" in page
    assert "No command matches" in text_of(browser.get(reverse("runcommand:list"), {"q": "winter"}))
    assert "1 <span" in page and "of 2" in page


@pytest.mark.django_db
def test_a_bar_is_whole_and_shows_the_least_piece():
    counts = dict.fromkeys(InvocationState, 0) | {InvocationState.SUCCEEDED: 9_999, InvocationState.FAILED: 1}
    good, bad = bar(counts)
    assert (good.css, bad.css) == ("ok", "bad") and bad.width > 0 and good.x == 0
    assert good.width + bad.width <= 1000 and bad.title == "Failed: 1 of 10,000"


# --- who may see what ------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_output_is_for_the_person_and_for_who_reviews_whose_look_is_audited(client, mei, roles):
    instance = make_instance()
    command = make_command(user=mei, instances=[instance])
    row = command.invocations.get()
    Invocation.objects.filter(pk=row.pk).update(state="succeeded", head="the secret word", details="Success")
    other, auditor = make_user(role="operator"), make_user("vera", role="auditor")
    for user, status in ((mei, 200), (other, 404), (auditor, 200)):
        client.force_login(user)
        answer = client.get(row.get_absolute_url())
        assert answer.status_code == status and ("the secret word" in answer.content.decode()) == (status == 200)
        assert client.get(command.get_absolute_url()).status_code == status
        panel = text_of(client.get(reverse("runcommand:panel", args=[instance.pk])))
        assert (f'href="{row.get_absolute_url()}"' in panel) == (status == 200)
    (look,) = AuditEvent.objects.filter(action="runcommand.output.view")
    assert look.actor_name == "vera" and look.details["instance"] == instance.instance_id


@pytest.mark.django_db
def test_what_an_instance_says_is_text(browser, mei):
    command = make_command(user=mei, instances=[make_instance()])
    row = command.invocations.get()
    script = "<script>alert(1)</script>"
    step = {"step": script, "status": "Success", "exit_code": 0, "stdout": script, "stderr": script}
    Invocation.objects.filter(pk=row.pk).update(state="failed", head=script, details=script, outputs=[step])
    for path in (row.get_absolute_url(), command.get_absolute_url()):
        page = browser.get(path).content.decode()
        assert script not in page and "&lt;script&gt;alert" in page


# --- with the real endpoint ------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_the_page_follows_the_command_and_shows_what_each_said(client, document, fleet, operator, agents, valkey):
    client.force_login(operator)
    command = started(document, fleet, operator, commands=["hostname"])
    step(command)
    live = reverse("runcommand:live", args=[command.pk])
    assert "0 of 3 instances have ended" in text_of(client.get(live, headers={"HX-Request": "true"}))
    agents[0].run(agents[0].job(), out="web-1\n")
    agents[1].run(agents[1].job(), "Failed", 3, out="before\n", err="failed to run commands: exit status 3")
    job = agents[2].job()
    agents[2].take(job)
    agents[2].reply(job.job.job_id, "InProgress")
    until(lambda: step(command) and command.invocations.filter(state__in=["succeeded", "failed"]).count() == 2)
    page = text_of(client.get(live, headers={"HX-Request": "true"}))
    assert "2 of 3 instances have ended" in page and "1 failed" in page and "every 3s" in page
    failed = command.invocations.get(instance_name="node-2")
    output = text_of(client.get(failed.get_absolute_url()))
    assert "exit status 3" in output and "before" in output and "exit code 3" in output
    client.post(reverse("runcommand:cancel", args=[command.pk]))
    step(command)
    cancel = agents[2].job()
    agents[2].take(cancel)
    agents[2].reply(job.job.job_id, "Cancelled")
    ends(command, "cancelled")
    done = text_of(client.get(command.get_absolute_url()))
    assert "hx-get" not in done.split('id="command-live"')[1].split(">")[0]
    assert "Run again where it did not end well" in done
    answer = client.post(reverse("runcommand:again", args=[command.pk]), {"only": "unwell"})
    repeat = Command.objects.get(again_of=command)
    assert answer["Location"] == repeat.get_absolute_url()
    assert set(repeat.invocations.values_list("instance_name", flat=True)) == {"node-2", "node-3"}


@pytest.mark.django_db(transaction=True)
def test_while_aws_is_away_the_page_shows_what_was_known(client, document, fleet, operator, agents, faults, valkey):
    client.force_login(operator)
    command = started(document, fleet[:1], operator)
    step(command)
    agents[0].run(agents[0].job(), out="kept\n")
    ends(command, "succeeded")
    row = command.invocations.get()
    with faults.on("error", code="InternalServerError", status=500, match={"operation": "GetCommandInvocation"}):
        page = text_of(client.get(row.get_absolute_url()))
        assert "could not be read now" in page and "kept" in page
    assert "could not be read" not in text_of(client.get(row.get_absolute_url()))


@pytest.mark.django_db(transaction=True)
def test_a_program_runs_a_document_and_reads_what_it_said(document, fleet, operator, agents, valkey):
    program = Bearer(make_token(operator, "commands:run", "commands:read", "documents:read"))
    asked = {"document": str(document.pk), "parameters": {"commands": ["uptime"]}, "targets": "name=node-1"}
    assert program.post(reverse("api:commands"), {**asked, "targets": "env=("}).status_code == 400
    answer = program.post(reverse("api:commands"), asked)
    assert answer.status_code == 201, answer.content
    made = answer.json()
    assert (made["state"], made["counts"]["planned"]) == ("running", 1)
    command = Command.objects.get(pk=made["id"])
    step(command)
    agents[0].run(agents[0].job(), out="up 3 days\n")
    ends(command, "succeeded")
    assert program.get(reverse("api:command", args=[command.pk])).json()["state"] == "succeeded"
    listed = program.get(reverse("api:invocations", args=[command.pk]), {"state": "succeeded"}).json()["results"]
    assert [(each["instance_name"], each["exit_code"]) for each in listed] == [("node-1", 0)]
    output = program.get(reverse("api:invocation", args=[command.pk, listed[0]["id"]])).json()
    assert output["outputs"][0]["stdout"] == "up 3 days\n"
    again = program.post(reverse("api:command_again", args=[command.pk]), {"only_unwell": False})
    assert again.status_code == 201
    assert program.post(reverse("api:command_cancel", args=[again.json()["id"]]), {}).status_code == 202
    assert services.cancellable_by(operator).filter(state="cancelling").exists()
    planned = program.post(reverse("api:commands"), {**asked, "start": False}).json()
    assert planned["state"] == "draft"
    assert program.post(reverse("api:command_start", args=[planned["id"]]), {}).json()["state"] == "running"
    for other in Command.objects.open():
        services.cancel(other, actor=operator)
    reader = Bearer(make_token(operator, "commands:read"))
    assert reader.post(reverse("api:commands"), asked).status_code == 403
