"""Our session documents in an account of the real endpoint: made, compared, and what a session is started with."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import boto3
import pytest

from fleetops.clock import now
from fleetops.documents.parameters import foreign_to_agents
from sessions_app import session_documents, streams, tasks
from sessions_app.commandlog.marks import MarkReader
from sessions_app.models import SessionDocument, TerminalSession
from sessions_app.session_documents import NoDocument
from sessions_app.states import SessionKind
from tests.factories import make_instance, make_restricted_shell, make_session

from .conftest import ended, opened

PREFERENCES = "SSM-SessionManagerRunShell"


@pytest.fixture(scope="module")
def admin(demo_endpoint):
    """Clients of the account's administrator."""
    given = demo_endpoint["accounts"][0]

    def client(service: str):
        return boto3.client(
            service,
            region_name=given["regions"][0],
            endpoint_url=demo_endpoint["endpoint_url"],
            verify=demo_endpoint["ca_file"],
            aws_access_key_id=given["try_credentials"]["access_key_id"],
            aws_secret_access_key=given["try_credentials"]["secret_access_key"],
        )

    return client


@pytest.fixture
def ssm(admin):
    """SSM of the administrator; preferences and documents of ours are gone afterwards."""
    client = admin("ssm")
    yield client
    for page in client.get_paginator("list_documents").paginate(Filters=[{"Key": "Owner", "Values": ["Self"]}]):
        for each in page["DocumentIdentifiers"]:
            if each["Name"] == PREFERENCES or each["Name"].startswith("FleetOps-"):
                client.delete_document(Name=each["Name"])


@pytest.fixture
def deny(admin, demo_endpoint):
    """Deny FleetOps's own role some actions on some resources."""
    role = demo_endpoint["accounts"][0]["role_arn"].rpartition("/")[2]

    def put(*actions: str, resource: str = "*") -> None:
        statement = {"Effect": "Deny", "Action": list(actions), "Resource": resource}
        document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        admin("iam").put_role_policy(RoleName=role, PolicyName="test-documents", PolicyDocument=document)

    yield put
    if "test-documents" in admin("iam").list_role_policies(RoleName=role)["PolicyNames"]:
        admin("iam").delete_role_policy(RoleName=role, PolicyName="test-documents")


def prefer(ssm, **inputs) -> None:
    """Set the account's preferences."""
    text = json.dumps({"schemaVersion": "1.0", "sessionType": "Standard_Stream", "inputs": inputs})
    ssm.create_document(Name=PREFERENCES, Content=text, DocumentType="Session", DocumentFormat="JSON")


def content(ssm, name: str) -> dict:
    return json.loads(ssm.get_document(Name=name)["Content"])


def row(purpose: str = "shell") -> SessionDocument:
    return SessionDocument.objects.get(purpose=purpose)


@pytest.fixture
def session(demo_instance, operator) -> TerminalSession:
    return make_session(user=operator, instance=demo_instance)


@pytest.fixture
def access(demo_instance):
    return demo_instance.account.access()


def test_a_click_finds_the_document_that_a_worker_has_made(ssm, session, access, demo_instance):
    assert [each.pk for each in session_documents.regions_due(now())] == [demo_instance.region_id]
    tasks.prepare_region(demo_instance.region_id)
    assert session_documents.regions_due(now()) == []
    assert [each.purpose for each in SessionDocument.objects.all()] == ["shell"]  # the others once they are asked for
    name, parameters = session_documents.for_session(session, access)
    assert name == row().name and name.startswith("FleetOps-Shell-")
    assert parameters == {"nonce": [session.mark_nonce]}
    document = content(ssm, name)
    assert document["sessionType"] == "InteractiveCommands"
    assert document["parameters"]["nonce"]["allowedPattern"] == "^[A-Za-z0-9]{32}$"
    assert ssm.describe_document(Name=name)["Document"]["DocumentType"] == "Session"
    assert len(json.dumps(document)) < 64 * 1024


def test_a_real_shell_tells_its_commands_by_genuine_marks(ssm, terminal, demo_instance, operator):
    session = opened(demo_instance, operator)
    browser = terminal.browser(session, operator)
    browser.until(r"[$#] ", seconds=15)
    browser.run("echo $((6*7))", r"[\r\n]42\r\n")
    browser.run("cd /; false", r"[$#] $")
    browser.type("exit\r")
    browser.closed()
    session = ended(session)
    assert session.no_marks == ""
    marks = MarkReader(session.mark_nonce).feed(bytes(browser.raw), 0)
    assert all(mark.is_genuine for mark in marks)
    told = [mark.fields["text"] for mark in marks if mark.kind == "command"]
    assert told == ["echo $((6*7))", "cd /; false", "exit"]
    assert [mark.fields["exit"] for mark in marks if mark.kind == "done"] == ["0", "1"]
    assert b"7717" not in browser.output


def test_what_the_account_has_set_is_carried_over_and_a_change_of_it_comes_later(ssm, session, access):
    prefer(
        ssm, idleSessionTimeout="7", maxSessionDuration="90", s3BucketName="logs", s3EncryptionEnabled=True,
        kmsKeyId="alias/sessions", runAsEnabled=True, runAsDefaultUser="ops",
        shellProfile={"linux": "exec bash\ncd /tmp"},
    )  # fmt: skip
    name, _ = session_documents.for_session(session, access)
    document = content(ssm, name)
    assert document["inputs"] == {
        "idleSessionTimeout": "7", "maxSessionDuration": "90", "s3BucketName": "logs", "s3EncryptionEnabled": True,
        "kmsKeyId": "alias/sessions", "runAsEnabled": True, "runAsDefaultUser": "ops",
    }  # fmt: skip
    assert "\ncd /tmp\n" in document["properties"]["linux"]["commands"]
    text = json.dumps({"schemaVersion": "1.0", "sessionType": "Standard_Stream", "inputs": {"idleSessionTimeout": "9"}})
    latest = ssm.update_document(Name=PREFERENCES, Content=text, DocumentVersion="$LATEST")["DocumentDescription"]
    ssm.update_document_default_version(Name=PREFERENCES, DocumentVersion=latest["DocumentVersion"])
    assert session_documents.for_session(session, access)[0] == name  # believed for ten minutes
    SessionDocument.objects.update(checked_at=now() - timedelta(minutes=11))
    assert len(session_documents.regions_due(now())) == 1
    session_documents.refresh(access, session.region)
    later, _ = session_documents.for_session(session, access)
    assert later != name and content(ssm, later)["inputs"] == {"idleSessionTimeout": "9"}
    assert content(ssm, name) == document


def test_where_the_account_streams_plain_shells_they_stay_plain(ssm, session, access):
    prefer(ssm, cloudWatchLogGroupName="/ssm", cloudWatchStreamingEnabled=True)
    assert session_documents.for_session(session, access) == ("", {})
    session.refresh_from_db()
    assert "stream shells to CloudWatch Logs" in session.no_marks


@pytest.mark.parametrize("action", ["ssm:CreateDocument", "ssm:GetDocument"])
def test_a_role_that_may_not_make_documents_opens_plain_shells_and_the_session_says_why(
    ssm, session, access, deny, action
):
    deny(action)
    assert session_documents.for_session(session, access) == ("", {})
    session.refresh_from_db()
    assert action in session.no_marks
    session.run_as = "deploy"
    with pytest.raises(NoDocument, match="as deploy"):
        session_documents.for_session(session, access)


def test_a_role_that_may_not_start_them_opens_plain_shells_and_is_not_asked_again(ssm, session, access, deny):
    deny("ssm:StartSession", resource="arn:aws:ssm:*:*:document/FleetOps-*")
    stream = streams.start(session)
    session.refresh_from_db()
    assert "ssm:StartSession" in session.no_marks
    state = ssm.describe_sessions(State="Active")["Sessions"]
    assert next(each for each in state if each["SessionId"] == stream.session_id)["DocumentName"] == PREFERENCES
    ssm.terminate_session(SessionId=stream.session_id)
    assert session_documents.for_session(session, access, under=streams.under_its_role(access, session)) == ("", {})


def test_a_document_that_was_deleted_there_is_made_again(ssm, session, access):
    name, _ = session_documents.for_session(session, access)
    ssm.delete_document(Name=name)
    stream = streams.start(session)
    active = ssm.describe_sessions(State="Active")["Sessions"]
    assert next(each for each in active if each["SessionId"] == stream.session_id)["DocumentName"] == name
    ssm.terminate_session(SessionId=stream.session_id)


def test_a_document_of_our_name_with_other_content_is_not_used(ssm, session, access):
    name, _ = session_documents.for_session(session, access)
    other = content(ssm, name)
    other["properties"]["linux"]["commands"] = "exec sh # {{ nonce }}"
    latest = ssm.update_document(Name=name, Content=json.dumps(other), DocumentVersion="$LATEST")
    ssm.update_document_default_version(Name=name, DocumentVersion=latest["DocumentDescription"]["DocumentVersion"])
    SessionDocument.objects.update(content_checked_at=now() - timedelta(hours=2))
    session_documents.refresh(access, session.region)
    assert session_documents.for_session(session, access) == ("", {})
    session.refresh_from_db()
    assert "is not what FleetOps wrote" in session.no_marks


def test_a_restricted_shell_that_is_changed_is_opened_as_it_is_now(ssm, session, access):
    row = make_restricted_shell(
        "logs", linux="exec tail -f {{ file }}", parameters=[{"name": "file", "pattern": "^a$"}]
    )
    session.document, session.parameters = row.document, {"file": ["a"]}
    name, parameters = session_documents.for_session(session, access)
    assert name.startswith("FleetOps-logs-") and parameters == {"file": ["a"]}
    assert content(ssm, name)["properties"] == {
        "linux": {"commands": "exec tail -f {{ file }}", "runAsElevated": False}
    }
    row.parameters[0]["pattern"] = "^b$"
    row.save()
    later, _ = session_documents.for_session(session, access)
    assert later != name and content(ssm, later)["parameters"]["file"]["allowedPattern"] == "^b$"
    row.parameters[0]["pattern"] = "^c$"
    row.save()
    with pytest.raises(NoDocument):  # AWS is away: the one of before is not opened
        session_documents.for_session(session, replace(access, endpoint_url="https://127.0.0.1:1"))
    row.enabled = False
    row.save()
    with pytest.raises(NoDocument, match="no restricted shell"):
        session_documents.for_session(session, access)
    with pytest.raises(ssm.exceptions.InvalidParameters):  # the service holds the pattern as well
        ssm.start_session(Target=session.instance_id, DocumentName=later, Parameters={"file": ["a"]})


def test_an_os_user_goes_into_a_document_that_takes_one(ssm, session, access):
    session.run_as = "deploy"
    name, parameters = session_documents.for_session(session, access)
    assert parameters == {"nonce": [session.mark_nonce], "runAs": ["deploy"]}
    inputs = content(ssm, name)["inputs"]
    assert (inputs["runAsEnabled"], inputs["runAsDefaultUser"]) == (True, "{{ runAs }}")
    session.kind, session.document = SessionKind.COMMAND, "AWS-StartNonInteractiveCommand"
    session.parameters = {"command": ["id -un"]}
    name, parameters = session_documents.for_session(session, access)
    assert parameters == {"command": ["id -un"], "runAs": ["deploy"]}
    assert content(ssm, name)["sessionType"] == "NonInteractiveCommands"
    session.document = "Somebodys-Own"
    with pytest.raises(NoDocument, match="as deploy"):
        session_documents.for_session(session, access)


def test_other_documents_go_as_they_are_and_ours_not_by_their_names_in_the_account(session, access):
    session.document, session.parameters = "AWS-StartInteractiveCommand", {"command": ["top"]}
    assert session_documents.for_session(session, access) == (session.document, {"command": ["top"]})
    session.kind, session.document = SessionKind.FORWARD, "AWS-StartPortForwardingSession"
    session.parameters = {"portNumber": ["80"]}
    assert session_documents.for_session(session, access) == (session.document, {"portNumber": ["80"]})
    session.kind, session.document, session.parameters = SessionKind.SHELL, "FleetOps-Shell-0123456789ab", {}
    with pytest.raises(NoDocument, match="no restricted shell"):
        session_documents.for_session(session, access)
    assert SessionDocument.objects.count() == 0


def test_an_account_that_does_not_answer_keeps_what_was_known(db, operator):
    instance = make_instance()
    access = instance.account.access()  # nothing listens at its endpoint, and it has no credentials
    session = make_session(user=operator, instance=instance)
    assert session_documents.for_session(session, access) == ("", {})
    assert session.no_marks
    name = session_documents.shell({}, run_as=False).name
    SessionDocument.objects.update_or_create(
        account_id=session.account_id,
        region=session.region,
        purpose="shell",
        defaults={"name": name, "problem": "", "checked_at": now()},
    )
    assert session_documents.for_session(session, access)[0] == name
    session.refresh_from_db()
    assert session.no_marks == ""


def test_the_secret_of_the_marks_is_on_no_page_and_in_no_answer(client, demo_instance, operator):
    session = make_session(user=operator, instance=demo_instance)
    client.force_login(operator)
    for path in ("", "replay/", "events/"):
        assert session.mark_nonce not in client.get(f"/sessions/{session.pk}/{path}", follow=True).content.decode()
    answer = client.get(f"/api/v1/sessions/{session.pk}/")
    assert answer.status_code == 200 and session.mark_nonce not in answer.content.decode()


def test_a_nonce_has_the_form_that_the_document_takes_and_is_each_sessions_own(operator, demo_instance):
    nonces = {make_session(user=operator, instance=demo_instance).mark_nonce for _ in range(20)}
    assert len(nonces) == 20 and all(len(each) == 32 and each.isalnum() and each.isascii() for each in nonces)


def test_every_pattern_of_ours_is_one_that_agents_can_read(db):
    make_restricted_shell("logs")
    patterns = [
        parameter["allowedPattern"]
        for wanted in session_documents._all_wanted({})
        for parameter in wanted.content.get("parameters", {}).values()
        if "allowedPattern" in parameter
    ]
    assert len(patterns) > 5
    assert [pattern for pattern in patterns if foreign_to_agents(pattern)] == []
