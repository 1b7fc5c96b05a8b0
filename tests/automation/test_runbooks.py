"""Runbooks against the real endpoint: started once, followed step by step, answered, stopped; blueprints that work."""

import json

import pytest

from fleetops.audit.models import AuditEvent
from fleetops.automation import blueprints, services
from fleetops.automation.models import Execution, Reading
from fleetops.aws.clients import forget_clients
from fleetops.clock import now
from fleetops.errors import Denied, FieldError, UserError
from fleetops.library import services as library
from fleetops.library.models import Document, Shelf
from fleetops.policy import services as policy
from tests.factories import make_user
from tests.inventory.conftest import link_all
from tests.support.endpoint import running_endpoint, until
from tests.support.faults import Faults

pytestmark = pytest.mark.django_db

# As which FleetOps acts there, whoever presses the button.
ROLE = "arn:aws:iam::111122223333:role/FleetOpsControlPlane"
ASKS = {
    "schemaVersion": "0.3",
    "description": "Asks somebody, then tells the time.",
    "parameters": {"Word": {"type": "String", "default": "hello", "allowedPattern": "^[a-z]+$"}},
    "mainSteps": [
        {"name": "Ask", "action": "aws:approve", "inputs": {"Approvers": [ROLE], "Message": "{{ Word }}?"}},
        {"name": "Sleep", "action": "aws:sleep", "inputs": {"Duration": "PT1S"}},
    ],
}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    with running_endpoint(tmp_path_factory.mktemp("automation") / "endpoint", "demo") as running:
        yield running


@pytest.fixture
def faults(endpoint):
    made = Faults(endpoint.handover)
    yield made
    made.delete()


@pytest.fixture
def region(roles, endpoint):
    policy.make_defaults()
    account, *_ = link_all(endpoint)
    yield account.regions.get(name="eu-west-1")
    forget_clients()


@pytest.fixture
def admin(region):
    return make_user("mei", role="administrator")


@pytest.fixture
def asks(region, admin):
    """A runbook that waits for an answer."""
    shelf, _ = Shelf.objects.get_or_create(region=region)
    library.read_shelf(shelf.pk, now=now())
    row = Document.objects.filter(region=region, name="ask-first").first()
    return row or library.create(
        region,
        name="ask-first",
        text=json.dumps(ASKS),
        document_type="Automation",
        document_format="JSON",
        actor=admin,
    )


def look(execution: Execution) -> Execution:
    services.advance(execution.pk)
    execution.refresh_from_db()
    return execution


def ends(execution: Execution, status: str) -> Execution:
    until(lambda: not look(execution).is_open, seconds=60)
    assert execution.status == status, execution.failure
    return execution


def waits(execution: Execution) -> Execution:
    until(lambda: look(execution).status == "Waiting" or not execution.is_open, seconds=30)
    assert execution.status == "Waiting", execution.failure
    return execution


def test_a_runbook_is_started_waits_is_approved_and_ends(asks, admin):
    execution = services.start(asks, parameters={"Word": ["ready"]}, reason="INC-1", actor=admin)
    assert execution.status == "Starting" and not execution.execution_id
    waits(execution)
    assert execution.steps[0]["name"] == "Ask"
    services.signal(execution, "Approve", comment="go on", actor=admin)
    ends(execution, "Success")
    assert {step["status"] for step in execution.steps} == {"Success"}
    told = AuditEvent.objects.filter(action__startswith="automation.").order_by("id").values_list("action", flat=True)
    assert list(told) == ["automation.start", "automation.signal", "automation.end"]
    with pytest.raises(UserError, match="It is over"):
        services.signal(execution, "Approve", actor=admin)


def test_what_is_rejected_fails_and_what_is_cancelled_stops(asks, admin):
    execution = waits(services.start(asks, parameters={}, actor=admin))
    services.signal(execution, "Reject", comment="not today", actor=admin)
    assert not ends_any(execution).is_open and execution.status != "Success"
    execution = waits(services.start(asks, parameters={}, actor=admin))
    services.stop(execution, actor=admin)
    ends(execution, "Cancelled")


def ends_any(execution: Execution) -> Execution:
    until(lambda: not look(execution).is_open, seconds=30)
    return execution


def test_a_lost_answer_starts_none_twice(asks, admin, endpoint, faults):
    execution = services.start(asks, parameters={"Word": ["once"]}, actor=admin)
    with faults.on("drop", when="after", match={"operation": "StartAutomationExecution"}):
        look(execution)
    assert execution.is_open and not execution.execution_id and execution.failures
    waits(execution)
    listed = endpoint.client("ssm").describe_automation_executions(
        Filters=[{"Key": "DocumentNamePrefix", "Values": ["ask-first"]}]
    )["AutomationExecutionMetadataList"]
    mine = [each for each in listed if each["AutomationExecutionId"] == execution.execution_id]
    assert len(mine) == 1
    ours = Execution.objects.exclude(execution_id="").values_list("execution_id", flat=True)
    assert len({each["AutomationExecutionId"] for each in listed} - set(ours)) == len(listed) - len(
        {each["AutomationExecutionId"] for each in listed} & set(ours)
    )
    services.stop(execution, actor=admin)
    ends(execution, "Cancelled")


def test_a_refusal_ends_it_in_words_and_a_throttle_is_tried_again(asks, admin, faults):
    execution = services.start(asks, parameters={}, actor=admin)
    match = {"operation": "StartAutomationExecution"}
    with faults.on("error", code="ThrottlingException", status=400, match=match):
        assert look(execution).is_open and execution.due_at > now()
    with faults.on("error", code="AccessDeniedException", status=400, match=match):
        look(execution)
    assert execution.status == "Failed" and "StartAutomationExecution" in execution.failure


def test_one_that_others_started_is_shown_and_said_to_be(asks, admin, region, endpoint):
    told = endpoint.client("ssm").start_automation_execution(DocumentName="ask-first")["AutomationExecutionId"]
    for pk in services.claim_regions(at=now()):
        services.list_region(pk)
    assert not Reading.objects.exclude(error="").exists()
    found = Execution.objects.get(execution_id=told)
    assert not found.is_ours and found.document_name == "ask-first"
    waits(found)
    services.stop(found, actor=admin)
    ends(found, "Cancelled")
    assert services.claim_regions(at=now()) == [], "not before a minute has passed"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"parameters": {"Word": ["UPPER"]}}, "does not take"),
        ({"parameters": {"Strange": ["x"]}}, "does not take"),
        ({"parameters": {}, "targets": ["a"], "target_parameter": "Nothing"}, "Choose which"),
        ({"parameters": {}, "targets": ["a"] * 51, "target_parameter": "Word"}, "At most 50"),
        ({"parameters": {}, "targets": ["a"], "target_parameter": "Word", "max_errors": "many"}, "A number"),
    ],
)
def test_bad_input_is_told_and_nothing_is_kept(asks, admin, given, words):
    with pytest.raises(UserError, match=words):
        services.start(asks, actor=admin, **given)
    assert not Execution.objects.exists()


def test_who_may_not_run_documents_starts_and_answers_nothing(asks, admin):
    execution = waits(services.start(asks, parameters={}, actor=admin))
    viewer = make_user(role="viewer")
    for deed in (
        lambda: services.start(asks, parameters={}, actor=viewer),
        lambda: services.signal(execution, "Approve", actor=viewer),
        lambda: services.stop(execution, actor=viewer),
    ):
        with pytest.raises(Denied):
            deed()
    assert AuditEvent.objects.filter(action__endswith=".refuse", outcome="denied").count() == 3
    services.stop(execution, actor=admin)
    ends(execution, "Cancelled")


def test_targets_run_one_after_the_other_and_their_progress_is_told(asks, admin, region):
    asked = library.create(
        region,
        name="nap",
        text=json.dumps(ASKS | {"mainSteps": [{"name": "Nap", "action": "aws:sleep", "inputs": {"Duration": "PT1S"}}]}),
        document_type="Automation",
        document_format="JSON",
        actor=admin,
    )
    execution = services.start(
        asked, parameters={}, target_parameter="Word", targets=["one", "two", "three"], max_concurrency="2", actor=admin
    )
    ends(execution, "Success")
    from fleetops.automation.listing import progress

    assert progress(execution) == {"total": 3, "done": 3, "failed": 0, "percent": 100}
    Reading.objects.update(read_at=None)
    for pk in services.claim_regions(at=now()):
        services.list_region(pk)
    assert {child.document_name for child in services.children(execution)} == {"nap"}
    assert len(services.children(execution)) == 3


# --- blueprints ---


def profile(endpoint, instance_id: str) -> str:
    answer = endpoint.client("ec2").describe_iam_instance_profile_associations(
        Filters=[{"Name": "instance-id", "Values": [instance_id]}, {"Name": "state", "Values": ["associated"]}]
    )["IamInstanceProfileAssociations"]
    return answer[0]["IamInstanceProfile"]["Arn"].rpartition("/")[2] if answer else ""


def test_the_blueprints_attach_and_detach_a_role(region, admin, endpoint):
    bare = endpoint.instance_id("kafka-events-eu1c-3")
    assert {each.state for each in blueprints.standing([region])} == {"missing"}
    attach, detach = (blueprints.put(name, region, actor=admin) for name in blueprints.NAMES)
    assert blueprints.put(attach.name, region, actor=admin).pk == attach.pk, "again it changes nothing"
    assert {each.state for each in blueprints.standing([region])} == {"there"}

    wrong = {"InstanceId": [bare], "ExpectedInstanceProfileName": ["ssm-core"]}
    ends(services.start(detach, parameters=wrong, actor=admin), "Failed")

    given = {"InstanceId": [bare], "InstanceProfileName": ["ssm-core"]}
    execution = ends(services.start(attach, parameters=given, actor=admin), "Success")
    assert profile(endpoint, bare) == "ssm-core"
    assert execution.steps[-1]["name"] == "WaitForAgent"
    ends(services.start(attach, parameters=given, actor=admin), "Success")  # it is there already

    iam = endpoint.client("iam")
    iam.create_instance_profile(InstanceProfileName="other")
    iam.add_role_to_instance_profile(InstanceProfileName="other", RoleName="ssm-core")
    other = given | {"InstanceProfileName": ["other"]}
    ends(services.start(attach, parameters=other, actor=admin), "Failed")
    assert profile(endpoint, bare) == "ssm-core"
    ends(services.start(attach, parameters=other | {"Replace": ["true"]}, actor=admin), "Success")
    assert profile(endpoint, bare) == "other"

    ends(services.start(detach, parameters=wrong, actor=admin), "Failed")
    assert profile(endpoint, bare) == "other"
    right = wrong | {"ExpectedInstanceProfileName": ["other"]}
    ends(services.start(detach, parameters=right, actor=admin), "Success")
    assert profile(endpoint, bare) == ""


def test_a_blueprint_with_another_text_is_told_and_put_right(region, admin):
    row = blueprints.put("FleetOps-DetachRole", region, actor=admin)
    text = blueprints.text_of(row.name) + "\n# changed\n"
    library.add_version(row, text=text, document_format="YAML", make_default=True, actor=admin)
    states = {each.name: each.state for each in blueprints.standing([region])}
    assert states["FleetOps-DetachRole"] == "older"
    with pytest.raises(UserError, match="There is no blueprint"):
        blueprints.put("FleetOps-Nothing", region, actor=admin)


# --- pages ---


def test_the_pages_lead_from_the_runbook_to_its_end(asks, admin, client):
    client.force_login(admin, backend="django.contrib.auth.backends.ModelBackend")
    assert "No runbook has run yet" in client.get("/runbooks/").content.decode()
    assert "ask-first" in client.get("/runbooks/new/?find=ask").content.decode()
    address = f"/runbooks/new/?document={asks.pk}"
    assert "Word" in client.get(address).content.decode()
    answer = client.post("/runbooks/new/", {"document": asks.pk, "p_Word": "UPPER"})
    assert answer.status_code == 400 and "does not take" in answer.content.decode()
    page = client.post("/runbooks/new/", {"document": asks.pk, "p_Word": "page", "reason": "INC-2"}, follow=True)
    execution = Execution.objects.get()
    assert page.redirect_chain[-1][0] == execution.get_absolute_url()
    waits(execution)
    part = client.get(execution.get_absolute_url(), headers={"HX-Request": "true"}).content.decode()
    assert "Approve" in part and "<html" not in part and "page?" in part
    client.post(f"{execution.get_absolute_url()}signal/", {"signal": "Approve", "comment": "yes"})
    ends(execution, "Success")
    page = client.get(execution.get_absolute_url()).content.decode()
    assert "Success" in page and "hx-trigger" not in page.partition('id="execution"')[2][:400]
    assert "ask-first" in client.get("/runbooks/?q=ask&state=").content.decode()
    assert "page" in client.get(f"{address}&of={execution.pk}").content.decode()
    client.force_login(make_user(role="viewer"), backend="django.contrib.auth.backends.ModelBackend")
    assert client.get("/runbooks/").status_code == 403
    assert client.post(f"{execution.get_absolute_url()}stop/").status_code in {403, 404}


def test_the_page_of_blueprints_puts_one_there(region, admin, client):
    client.force_login(admin, backend="django.contrib.auth.backends.ModelBackend")
    assert "FleetOps-AttachRole" in client.get("/runbooks/blueprints/").content.decode()
    page = client.post(
        "/runbooks/blueprints/put/", {"name": "FleetOps-AttachRole", "region": region.pk}, follow=True
    ).content.decode()
    assert "FleetOps-AttachRole is in" in page
    assert client.post("/runbooks/blueprints/put/", {"name": "x", "region": region.pk}).status_code == 409


def test_a_list_of_a_thousand_takes_as_many_queries(region, admin, client, django_assert_max_num_queries):
    Execution.objects.bulk_create(
        Execution(account=region.account, region=region, document_name=f"doc-{n}", status="Success", actor=admin)
        for n in range(1000)
    )
    client.force_login(admin, backend="django.contrib.auth.backends.ModelBackend")
    client.get("/runbooks/")
    with django_assert_max_num_queries(22):
        client.get("/runbooks/")


def test_a_field_error_names_its_field(asks, admin):
    with pytest.raises(FieldError) as caught:
        services.start(asks, parameters={}, targets=["a"], target_parameter="", actor=admin)
    assert "target_parameter" in caught.value.fields
