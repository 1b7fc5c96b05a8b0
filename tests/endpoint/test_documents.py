"""SSM documents by boto3: AWS's own, and an account's, from their making to their end."""

import json

import pytest
import yaml
from botocore.exceptions import ClientError

from fleetops.documents.parameters import foreign_to_agents

CONTENT = {
    "schemaVersion": "2.2",
    "description": "Say a word",
    "parameters": {"word": {"type": "String", "default": "hello", "description": "What to say"}},
    "mainSteps": [
        {"action": "aws:runShellScript", "name": "say", "inputs": {"runCommand": ["echo {{ word }}"]}},
    ],
}
SHELL = {"schemaVersion": "1.0", "sessionType": "Standard_Stream", "inputs": {"idleSessionTimeout": "7"}}


def code(call, **parameters) -> str:
    with pytest.raises(ClientError) as refused:
        call(**parameters)
    return refused.value.response["Error"]["Code"]


def words(number: int) -> str:
    return json.dumps(CONTENT | {"description": f"Say a word, {number}"})


@pytest.fixture
def ssm(aws):
    return aws.client("ssm")


@pytest.fixture
def made(ssm, request):
    """The name of a document that goes with the test."""
    name = f"Own-{abs(hash(request.node.name)) % 10**8}"
    ssm.create_document(Name=name, Content=words(1), VersionName="first")
    yield name
    if ssm.list_documents(Filters=[{"Key": "Name", "Values": [name]}])["DocumentIdentifiers"]:
        ssm.modify_document_permission(Name=name, PermissionType="Share", AccountIdsToRemove=["all", "444455556666"])
        ssm.delete_document(Name=name)


def test_aws_has_its_documents_in_every_account(ssm):
    found = []
    for page in ssm.get_paginator("list_documents").paginate(
        Filters=[{"Key": "Owner", "Values": ["Amazon"]}], PaginationConfig={"PageSize": 3}
    ):
        found += page["DocumentIdentifiers"]
    kinds = {item["Name"]: item["DocumentType"] for item in found}
    assert kinds["AWS-RunShellScript"] == kinds["AWS-ConfigureAWSPackage"] == "Command"
    assert kinds["AWS-StartSSHSession"] == kinds["AWS-StartPortForwardingSessionToRemoteHost"] == "Session"
    assert [item["Name"] for item in found] == sorted(kinds)
    contents = [json.loads(ssm.get_document(Name=name)["Content"]) for name in kinds]
    patterns = [rule.get("allowedPattern", "") for each in contents for rule in each.get("parameters", {}).values()]
    assert any(patterns)
    assert [pattern for pattern in patterns if foreign_to_agents(pattern)] == []
    described = ssm.describe_document(Name="AWS-RunShellScript")["Document"]
    assert described["PlatformTypes"] == ["Linux", "MacOS"]
    first = described["Parameters"][0]
    assert (first["Name"], first["Type"]) == ("commands", "StringList")
    arn = "arn:aws:ssm:eu-west-1::document/AWS-RunShellScript"
    assert json.loads(ssm.get_document(Name=arn)["Content"])["schemaVersion"] == "1.2"
    assert code(ssm.get_document, Name="AWS-NoSuchDocument") == "InvalidDocument"
    assert code(ssm.get_document, Name="AWS-RunShellScript", DocumentVersion="2") == "InvalidDocumentVersion"
    assert code(ssm.update_document, Name="AWS-RunShellScript", Content=words(1)) == "InvalidDocumentOperation"
    assert code(ssm.delete_document, Name="AWS-RunShellScript") == "InvalidDocument"
    assert code(ssm.create_document, Name="aws-own", Content=words(1)) == "ValidationException"


def test_a_document_through_its_versions(ssm, made):
    assert ssm.describe_document(Name=made)["Document"]["LatestVersion"] == "1"
    second = ssm.update_document(Name=made, Content=words(2), DocumentVersion="$LATEST", VersionName="second")
    assert (second["DocumentDescription"]["DocumentVersion"], second["DocumentDescription"]["DefaultVersion"]) == (
        "2",
        "1",
    )
    assert ssm.get_document(Name=made)["Content"] == words(1)
    assert ssm.get_document(Name=made, DocumentVersion="$LATEST")["Content"] == words(2)
    assert ssm.get_document(Name=made, VersionName="second")["DocumentVersion"] == "2"
    ssm.update_document_default_version(Name=made, DocumentVersion="2")
    assert ssm.get_document(Name=made)["Content"] == words(2)
    versions = ssm.list_document_versions(Name=made)["DocumentVersions"]
    assert [(item["DocumentVersion"], item["IsDefaultVersion"]) for item in versions] == [("2", True), ("1", False)]
    page = ssm.list_document_versions(Name=made, MaxResults=1)
    rest = ssm.list_document_versions(Name=made, MaxResults=1, NextToken=page["NextToken"])
    assert [item["DocumentVersion"] for item in rest["DocumentVersions"]] == ["1"]
    ssm.delete_document(Name=made, DocumentVersion="1")
    assert code(ssm.get_document, Name=made, DocumentVersion="1") == "InvalidDocumentVersion"


def test_what_would_spoil_the_versions_is_refused(ssm, made):
    assert code(ssm.create_document, Name=made, Content=words(9)) == "DocumentAlreadyExists"
    assert code(ssm.update_document, Name=made, Content=words(1)) == "DuplicateDocumentContent"
    assert code(ssm.update_document, Name=made, Content=words(2), DocumentVersion="7") == "InvalidDocumentVersion"
    again = {"Name": made, "Content": words(2), "VersionName": "first"}
    assert code(ssm.update_document, **again) == "DuplicateDocumentVersionName"
    assert code(ssm.update_document_default_version, Name=made, DocumentVersion="7") == "InvalidDocumentVersion"
    assert code(ssm.delete_document, Name=made, DocumentVersion="1") == "InvalidDocumentOperation"
    assert code(ssm.update_document, Name="Own-nobody", Content=words(2)) == "InvalidDocument"
    assert len(ssm.list_document_versions(Name=made)["DocumentVersions"]) == 1


@pytest.mark.parametrize(
    ("content", "kind", "document_format", "expected"),
    [
        ("{", "Command", "JSON", "InvalidDocumentContent"),
        ("[]", "Command", "JSON", "InvalidDocumentContent"),
        ("a: &x [1]\nb: *x", "Command", "YAML", "InvalidDocumentContent"),
        (json.dumps(CONTENT | {"schemaVersion": "3.0"}), "Command", "JSON", "InvalidDocumentSchemaVersion"),
        (json.dumps(CONTENT | {"mainSteps": []}), "Command", "JSON", "InvalidDocumentContent"),
        (json.dumps(CONTENT), "Session", "JSON", "InvalidDocumentSchemaVersion"),
        (json.dumps(SHELL | {"sessionType": "Telnet"}), "Session", "JSON", "InvalidDocumentContent"),
        (json.dumps({"schemaVersion": "0.3", "mainSteps": []}), "Automation", "JSON", "InvalidDocumentContent"),
        (json.dumps(CONTENT | {"description": "x" * 65_536}), "Command", "JSON", "MaxDocumentSizeExceeded"),
        ("anything", "ChangeCalendar", "TEXT", "NotImplemented"),
    ],
)
def test_what_is_no_document_is_refused(ssm, content, kind, document_format, expected):
    made = {"Name": "Own-unsound", "Content": content, "DocumentType": kind, "DocumentFormat": document_format}
    assert code(ssm.create_document, **made) == expected
    assert code(ssm.get_document, Name="Own-unsound") == "InvalidDocument"


def test_yaml_is_kept_as_given_and_read_in_either_format(ssm):
    text = yaml.safe_dump(CONTENT, sort_keys=False)
    ssm.create_document(Name="Own-yaml", Content=text, DocumentFormat="YAML")
    assert ssm.get_document(Name="Own-yaml")["Content"] == text
    assert json.loads(ssm.get_document(Name="Own-yaml", DocumentFormat="JSON")["Content"]) == CONTENT
    assert ssm.describe_document(Name="Own-yaml")["Document"]["Parameters"][0]["DefaultValue"] == "hello"
    ssm.delete_document(Name="Own-yaml")
    assert code(ssm.describe_document, Name="Own-yaml") == "InvalidDocument"


def test_one_account_sees_what_another_shares_with_it(aws, ssm, made):
    keys = aws.staging["try_credentials"]
    other = aws.client("ssm", aws_access_key_id=keys["access_key_id"], aws_secret_access_key=keys["secret_access_key"])
    arn = f"arn:aws:ssm:eu-west-1:111122223333:document/{made}"
    assert code(other.get_document, Name=arn) == "InvalidDocument"
    ssm.modify_document_permission(Name=made, PermissionType="Share", AccountIdsToAdd=["444455556666"])
    assert other.get_document(Name=arn)["Content"] == words(1)
    ssm.update_document(Name=made, Content=words(2))
    assert code(other.get_document, Name=arn, DocumentVersion="2") == "InvalidDocumentVersion"
    assert code(other.get_document, Name=made) == "InvalidDocument"
    assert ssm.describe_document_permission(Name=made, PermissionType="Share")["AccountIds"] == ["444455556666"]
    assert code(ssm.delete_document, Name=made) == "InvalidDocumentOperation"
    ssm.modify_document_permission(Name=made, PermissionType="Share", AccountIdsToRemove=["444455556666"])
    assert code(other.get_document, Name=arn) == "InvalidDocument"


def test_what_is_shared_with_all_is_so_no_more_however_it_is_spelled(aws, ssm, made):
    keys = aws.staging["try_credentials"]
    other = aws.client("ssm", aws_access_key_id=keys["access_key_id"], aws_secret_access_key=keys["secret_access_key"])
    arn = f"arn:aws:ssm:eu-west-1:111122223333:document/{made}"
    mine = {"Filters": [{"Key": "Name", "Values": [made]}]}
    ssm.modify_document_permission(Name=made, PermissionType="Share", AccountIdsToAdd=["All"])
    assert other.get_document(Name=arn)["Content"] == words(1)
    assert [item["Owner"] for item in other.list_documents(**mine)["DocumentIdentifiers"]] == ["111122223333"]
    ssm.modify_document_permission(Name=made, PermissionType="Share", AccountIdsToRemove=["All"])
    assert code(other.get_document, Name=arn) == "InvalidDocument"
    assert other.list_documents(**mine)["DocumentIdentifiers"] == []


def test_the_latest_version_is_the_last_that_there_is(ssm, made):
    ssm.update_document(Name=made, Content=words(2))
    ssm.update_document(Name=made, Content=words(3), DocumentVersion="$LATEST")
    ssm.delete_document(Name=made, DocumentVersion="3")
    assert ssm.get_document(Name=made, DocumentVersion="$LATEST")["Content"] == words(2)
    fresh = ssm.update_document(Name=made, Content=words(4), DocumentVersion="$LATEST")["DocumentDescription"]
    assert fresh["DocumentVersion"] == "4"  # who has written down that it is to be the third does not get it
    assert ssm.get_document(Name=made, DocumentVersion="$LATEST")["Content"] == words(4)


def test_tags_of_a_document(ssm, made):
    place = {"ResourceType": "Document", "ResourceId": made}
    ssm.add_tags_to_resource(**place, Tags=[{"Key": "team", "Value": "pay"}, {"Key": "age", "Value": "new"}])
    assert {"Key": "team", "Value": "pay"} in ssm.list_tags_for_resource(**place)["TagList"]
    found = ssm.list_documents(Filters=[{"Key": "tag:team", "Values": ["pay"]}])["DocumentIdentifiers"]
    assert [item["Name"] for item in found] == [made]
    ssm.remove_tags_from_resource(**place, TagKeys=["team"])
    assert ssm.list_tags_for_resource(**place)["TagList"] == [{"Key": "age", "Value": "new"}]
    assert code(ssm.add_tags_to_resource, ResourceType="Document", ResourceId="AWS-RunShellScript", Tags=[]) in {
        "InvalidDocument"
    }


def test_preferences_are_a_document_of_the_account_once_saved(ssm):
    name = "SSM-SessionManagerRunShell"
    assert code(ssm.get_document, Name=name) == "InvalidDocument"
    ssm.create_document(Name=name, Content=json.dumps(SHELL), DocumentType="Session")
    assert json.loads(ssm.get_document(Name=name)["Content"]) == SHELL
    ssm.delete_document(Name=name)
