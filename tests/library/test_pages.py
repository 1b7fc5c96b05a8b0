"""Pages and routes of documents: what they show, who may change what, and what they cost."""

import json
import re

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from fleetops.library.models import Document, Shelf
from tests.api.conftest import Bearer, make_token
from tests.factories import make_account, make_document, make_region, make_user

from .test_services import AS_JSON, AS_YAML, accounts, chief, document, endpoint, region  # noqa: F401  (fixtures)

pytestmark = pytest.mark.django_db(transaction=True)


def text_of(answer) -> str:
    return re.sub(r"\s+", " ", answer.content.decode())


def test_the_list_is_filtered_paged_and_costs_the_same(client, roles):
    client.force_login(make_user(role="viewer"))
    home, abroad = make_region(), make_region(account=make_account("444455556666", name="lab"))
    Shelf.objects.create(region=home, error="AWS refused ssm:ListDocuments")
    make_document("own-patch", region=home, description="Patches hosts")
    make_document("AWS-RunThing", region=abroad, owner="Amazon")
    make_document("arn:aws:ssm:eu-west-1:9:document/theirs", region=home, owner="999999999999")
    with CaptureQueriesContext(connection) as few:
        page = text_of(client.get(reverse("library:list")))
    assert all(name in page for name in ("own-patch", "AWS-RunThing", "theirs")) and "could not be read" in page
    Document.objects.bulk_create(
        Document(account=home.account, region=home, name=f"doc-{n:03}", owner="Amazon", document_type="Automation")
        for n in range(250)
    )
    with CaptureQueriesContext(connection) as many:
        page = text_of(client.get(reverse("library:list")))
    assert len(few) == len(many) <= 14 and "1–100 of 253" in page
    for query, names in (
        ({"owner": "own"}, {"own-patch"}),
        ({"owner": "shared"}, {"theirs"}),
        ({"owner": "aws", "type": "Command"}, {"AWS-RunThing"}),
        ({"q": "patches HOSTS"}, {"own-patch"}),
        ({"account": "444455556666"}, {"AWS-RunThing"}),
        ({"page": "3", "type": "Automation"}, {"doc-249"}),
    ):
        page = text_of(client.get(reverse("library:list"), query))
        shown = {name for name in ("own-patch", "AWS-RunThing", "theirs", "doc-249") if f"{name}</a>" in page}
        assert shown == names, query
    assert "No document matches" in text_of(client.get(reverse("library:list"), {"q": "nothing"}))


def test_a_document_shows_its_text_versions_and_form_and_what_changed(client, document, chief):  # noqa: F811
    client.force_login(chief)
    path = document.get_absolute_url()
    page = text_of(client.get(path))
    assert "Says a word" in page and "Must match <code>^[a-z]+$</code>" in page and "echo {{ word }}" in page
    form = text_of(client.get(reverse("library:edit", args=[document.pk])))
    assert "&quot;schemaVersion&quot;: &quot;2.2&quot;" in form
    changed = AS_JSON.replace("Says a word", "Says another word")
    typed = {"text": changed.replace("\n", "\r\n"), "document_format": "JSON", "version_name": "two"}
    answer = client.post(reverse("library:edit", args=[document.pk]), typed)
    assert answer["Location"] == f"{path}?version=2"
    assert "two" in text_of(client.get(answer["Location"]))
    page = text_of(client.get(reverse("library:compare", args=[document.pk]), {"left": 1, "right": 2}))
    assert '<tr class="is-changed">' in page and "Says another word" in page and "echo {{ word }}" not in page
    client.post(reverse("library:set_default", args=[document.pk]), {"version": "2"})
    document.refresh_from_db()
    assert document.default_version == "2"


def test_what_is_wrong_in_a_text_is_told_beside_it_and_the_text_stays(client, region, chief):  # noqa: F811
    client.force_login(chief)
    typed = {"name": "mine", "region": region.pk, "document_type": "Command", "document_format": "JSON"}
    broken = AS_JSON.replace("aws:runShellScript", "aws:dance")
    answer = client.post(reverse("library:create"), typed | {"text": broken})
    page = text_of(answer)
    assert answer.status_code == 400 and "At mainSteps[0].action: aws:dance is not a plugin" in page
    assert "aws:dance&quot;" in page and 'id="id_text-error"' in page and not Document.objects.exists()
    made = client.post(reverse("library:create"), typed | {"text": AS_YAML, "document_format": "YAML"})
    mine = Document.objects.get(name="mine")
    assert made["Location"] == mine.get_absolute_url()
    ask = reverse("library:delete", args=[mine.pk])
    assert "Type the document's name" in text_of(client.get(ask)).replace("&#x27;", "'")
    assert client.post(ask, {"name": "other"}).status_code == 400
    assert client.post(ask, {"name": "mine"})["Location"] == reverse("library:list")
    assert not Document.objects.present().exists()


def test_where_aws_is_away_what_was_read_is_shown(client, roles):
    client.force_login(make_user(role="viewer"))
    document = make_document(read_at=None)  # noqa: F811
    page = text_of(client.get(document.get_absolute_url()))
    assert "Not all of it could be read now" in page and "echo hi" in page


def test_a_program_makes_changes_and_deletes_a_document(region, chief):  # noqa: F811
    program = Bearer(make_token(chief, "documents:read", "documents:write"))
    asked = {"name": "by-program", "account_id": region.account.account_id, "region": region.name}
    wrong = program.post(reverse("api:documents"), asked | {"content": "{}"})
    assert wrong.status_code == 409 and "schemaVersion" in wrong.json()["detail"]
    made = program.post(reverse("api:documents"), asked | {"content": AS_JSON}).json()
    one = [made["id"]]
    assert program.get(reverse("api:document", args=one)).json()["description"] == "Says a word"
    added = program.post(
        reverse("api:document_versions", args=one),
        {"content": AS_YAML, "document_format": "YAML", "make_default": True},
    )
    assert added.status_code == 201 and added.json()["number"] == 2
    version = program.get(reverse("api:document_version", args=[*one, 1])).json()
    assert version["content"] == AS_JSON and version["parameters"][0]["name"] == "word"
    back = program.post(reverse("api:document_default", args=one), {"version": 1})
    assert back.json()["default_version"] == "1"
    listed = program.get(reverse("api:documents"), {"owner": "own"}).json()["results"]
    assert [each["name"] for each in listed] == ["by-program"] and json.dumps(listed)
    assert program.delete(reverse("api:document", args=one)).status_code == 204
