"""Documents mirrored from the real endpoint, and changed there."""

import contextlib
import json
from datetime import timedelta

import pytest

from fleetops.audit.models import AuditEvent
from fleetops.aws.clients import forget_clients
from fleetops.aws.errors import AwsError, Unavailable
from fleetops.clock import now
from fleetops.errors import UserError
from fleetops.library import content, services
from fleetops.library.content import ContentError
from fleetops.library.models import Document, Shelf
from tests.factories import make_user
from tests.inventory.conftest import link_all
from tests.support.endpoint import running_endpoint
from tests.support.faults import Faults

pytestmark = pytest.mark.django_db(transaction=True)

ECHO = {
    "schemaVersion": "2.2",
    "description": "Says a word",
    "parameters": {"word": {"type": "String", "default": "hi", "allowedPattern": "^[a-z]+$"}},
    "mainSteps": [{"action": "aws:runShellScript", "name": "say", "inputs": {"runCommand": ["echo {{ word }}"]}}],
}
AS_JSON = json.dumps(ECHO, indent=2)
AS_YAML = """\
schemaVersion: "2.2"
description: Says a word, in YAML
mainSteps:
  - action: aws:runShellScript
    name: say
    inputs:
      runCommand:
        - echo 2026-11-30
"""


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    with running_endpoint(tmp_path_factory.mktemp("library") / "endpoint") as running:
        yield running


@pytest.fixture
def accounts(db, roles, endpoint):
    yield link_all(endpoint)
    forget_clients()


@pytest.fixture
def region(accounts):
    return accounts[0].regions.get(name="eu-west-1")


@pytest.fixture
def chief(roles):
    return make_user("chief", role="administrator")


def read_all() -> None:
    for shelf_id in services.claim_due_shelves(now=now()):
        services.read_shelf(shelf_id, now=now())


def make(region, chief, name="say-it", text=AS_JSON, document_format="JSON", **more) -> Document:
    return services.create(
        region, name=name, text=text, document_type="Command", document_format=document_format, actor=chief, **more
    )


@pytest.fixture
def document(region, chief):
    made = make(region, chief)
    yield made
    Document.objects.filter(pk=made.pk).update(gone_at=None)
    with contextlib.suppress(AwsError, UserError):
        services.delete(made, actor=chief)


def test_every_region_is_read_and_each_has_its_own_rows(accounts):
    read_all()
    found = Document.objects.filter(name="AWS-RunShellScript")
    assert {(each.account.account_id, each.region.name) for each in found.select_related("account", "region")} == {
        ("111122223333", "eu-west-1"),
        ("111122223333", "us-east-1"),
        ("444455556666", "eu-west-1"),
    }
    one = found.first()
    assert (one.owner, one.document_type, one.is_own, one.is_runnable) == ("Amazon", "Command", False, True)
    assert "Linux" in one.platform_types and one.default_version == "1"
    assert services.claim_due_shelves(now=now()) == []
    assert len(services.claim_due_shelves(now=now() + timedelta(hours=1))) == 3
    assert services.claim_due_shelves(now=now() + timedelta(hours=1)) == []  # they are being read


def test_what_cannot_be_read_says_why_and_keeps_what_there_was(accounts, region, endpoint):
    read_all()
    before = Document.objects.count()
    faults = Faults(endpoint.handover)
    with faults.on("error", code="AccessDeniedException", status=400, match={"operation": "ListDocuments"}):
        services.read_shelf(region.shelf.pk, now=now())
    shelf = Shelf.objects.get(region=region)
    assert "ssm:ListDocuments" in shelf.error and Document.objects.present().count() == before


def test_a_document_is_made_read_changed_and_deleted_and_all_of_it_is_audited(region, chief, endpoint):
    made = make(region, chief)
    assert (made.is_own, made.default_version, made.versions.get().number) == (True, "1", 1)
    assert services.look(made, actor=chief, now=now()) == ""
    assert (made.description, made.latest_version, made.shared_with) == ("Says a word", "1", [])
    two = services.add_version(made, text=AS_YAML, document_format="YAML", make_default=False, actor=chief)
    assert two.number == 2 and services.version(made, actor=chief).number == 1
    services.look(made, actor=chief, now=now() + timedelta(minutes=1))
    assert [each.number for each in made.versions.all()] == [2, 1] and made.default_version == "1"
    services.set_default(made, 2, actor=chief)
    services.look(made, actor=chief, now=now() + timedelta(minutes=2))
    assert made.default_version == "2" and services.version(made, actor=chief).content == AS_YAML
    services.delete(made, actor=chief)
    assert not Document.objects.present().filter(pk=made.pk).exists()
    with pytest.raises(endpoint.client("ssm").exceptions.InvalidDocument):
        endpoint.client("ssm").describe_document(Name="say-it")
    trail = AuditEvent.objects.filter(action__startswith="library.").order_by("at")
    assert [(each.action, each.target_name, each.region) for each in trail] == [
        (f"library.{deed}", "say-it", "eu-west-1")
        for deed in ("document.create", "version.create", "version.default", "document.delete")
    ]
    assert "echo" not in str([each.details for each in trail])  # its digest alone
    again = make(region, chief, text=AS_YAML, document_format="YAML")
    assert again.pk == made.pk and services.version(again, "1", actor=chief).content == AS_YAML
    services.delete(again, actor=chief)


def test_one_that_was_made_anew_elsewhere_does_not_keep_the_old_ones_content(document, region, chief, endpoint):
    assert services.version(document, actor=chief).content == AS_JSON
    ssm = endpoint.client("ssm")
    ssm.delete_document(Name=document.name)
    ssm.create_document(Name=document.name, Content=AS_YAML, DocumentFormat="YAML", DocumentType="Command")
    services.look(document, actor=chief, now=now() + timedelta(minutes=1))
    assert services.version(document, actor=chief).content == AS_YAML


@pytest.mark.parametrize(
    ("name", "text", "document_format", "words"),
    [
        ("x", AS_JSON, "JSON", "3 to 128"),
        ("AWS-Mine", AS_JSON, "JSON", "for itself"),
        ("mine", '{"schemaVersion": "2.2",\n "mainSteps": [}', "JSON", "line 2, column 16"),
        ("mine", "schemaVersion: '2.2'\nmainSteps: [\n", "YAML", "no YAML: line 3"),
        ("mine", json.dumps(ECHO | {"schemaVersion": "9"}), "JSON", "At schemaVersion: must be one of"),
        (
            "mine",
            json.dumps(ECHO | {"mainSteps": [{"action": "aws:dance", "name": "x"}]}),
            "JSON",
            "At mainSteps.0..action: aws:dance is not a plugin",
        ),
        ("mine", json.dumps(ECHO | {"description": "x" * 70_000}), "JSON", "at most 65,536 bytes"),
    ],
)
def test_what_is_wrong_is_told_with_its_place_before_aws_is_asked(
    region, chief, endpoint, name, text, document_format, words
):
    faults = Faults(endpoint.handover)
    with faults.on("error", code="Asked", status=400, match={"operation": "CreateDocument"}):
        with pytest.raises(UserError, match=words):
            make(region, chief, name, text, document_format)
        assert faults.rules()["error"]["matched"] == 0
    assert not AuditEvent.objects.filter(action="library.document.create").exists()


def test_aws_documents_cannot_be_changed(accounts, chief):
    read_all()
    shell = Document.objects.filter(name="AWS-RunShellScript").first()
    for deed in (
        lambda: services.delete(shell, actor=chief),
        lambda: services.set_default(shell, 1, actor=chief),
        lambda: services.add_version(shell, text=AS_JSON, document_format="JSON", make_default=True, actor=chief),
    ):
        with pytest.raises(UserError, match="is Amazon's"):
            deed()


def test_a_deed_whose_answer_was_lost_is_in_the_trail_as_one_that_may_have_happened(region, chief, endpoint):
    faults = Faults(endpoint.handover)
    with faults.on("drop", when="after", match={"operation": "CreateDocument"}), pytest.raises(Unavailable):
        make(region, chief, "lost-one")
    (event,) = AuditEvent.objects.filter(action="library.document.create")
    assert (event.outcome, event.target_name) == ("failed", "lost-one") and "may have happened" in event.reason
    read_all()
    found = Document.objects.get(name="lost-one", region=region)
    assert found.is_own
    services.delete(found, actor=chief)


def test_a_version_that_there_is_not_is_told(document, chief):
    with pytest.raises(UserError, match="no version 7"):
        services.version(document, "7", actor=chief)


def test_what_a_document_says_is_its_form(document, chief):
    read = services.read(services.version(document, actor=chief))
    assert [(each.name, each.type, each.default) for each in read.parameters.values()] == [("word", "String", "hi")]
    assert read.platform_types == ("Linux", "MacOS") and [step.name for step in read.steps] == ["say"]


def test_a_yaml_text_is_what_aws_reads_in_it():
    found = content.parse(AS_YAML, "YAML")
    assert found["mainSteps"][0]["inputs"]["runCommand"] == ["echo 2026-11-30"]
    assert content.parse("day: 2026-11-30", "YAML") == {"day": "2026-11-30"}  # no date
    many = "a: &a [x]\nb: [" + ", ".join(["*a"] * 60) + "]"
    with pytest.raises(ContentError, match="aliases"):
        content.parse(many, "YAML")


def test_two_texts_side_by_side():
    left, right = "\n".join("abcdefghij"), "\n".join("abXdefghijk")
    rows = content.compare(left, right, context=1)
    assert [(row.kind, row.left, row.right) for row in rows if row.kind not in {"same", "gap"}] == [
        ("changed", "c", "X"),
        ("added", "", "k"),
    ]
    assert content.compare(left, left) == []
    changed = next(row for row in rows if row.kind == "changed")
    assert (changed.left_number, changed.right_number) == (3, 3)
