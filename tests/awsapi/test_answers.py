"""Whether an answer fits its model: what boto3 would trip over or read as something else."""

from datetime import UTC, datetime

import pytest

from fleetops.awsapi import answers
from fleetops.awsapi.models import service

MOMENT = datetime(2026, 11, 25, tzinfo=UTC)


@pytest.mark.parametrize(
    ("operation", "result", "told"),
    [
        ("StartSession", {"SessionId": "s", "StreamUrl": None}, ""),
        ("StartSession", {"SessionId": 5}, "SessionId: a int where the model has a string"),
        ("StartSession", {"Session": "s"}, "Session: there is no such member"),
        ("StartSession", [], "the body: a list where the model has a structure"),
        (
            "DescribeSessions",
            {"Sessions": [{"StartDate": MOMENT}, {"StartDate": "now"}]},
            "Sessions.2.StartDate: a str",
        ),
        ("DescribeSessions", {"Sessions": {}}, "Sessions: a dict where the model has a list"),
        ("ListTagsForResource", {"TagList": [{"Key": "a"}]}, "TagList.1.Value: it is required"),
    ],
)
def test_a_result_of_ours_is_held_to_its_model(operation, result, told):
    found = answers.misfit(service("ssm").operation(operation), result)
    assert found.startswith(told) if told else found == ""


def xml(inner: str) -> bytes:
    return f"<ListUsersResponse><ListUsersResult>{inner}</ListUsersResult></ListUsersResponse>".encode()


USER = (
    "<member><Path>/</Path><UserName>u</UserName><UserId>AIDA</UserId><Arn>arn:aws:iam::1:user/u</Arn>"
    "<CreateDate>2026-11-25T00:00:00Z</CreateDate></member>"
)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (xml(f"<Users>{USER}</Users><IsTruncated>false</IsTruncated>"), ""),
        (xml(f"<Users>{USER}</Users><More>x</More>"), ""),
        (xml(f"<Users>{USER}</Users><IsTruncated>False</IsTruncated>"), "IsTruncated: 'False' is no boolean"),
        (xml(f"<Users>{USER.replace('2026-', 'soon')}</Users>"), "Users.1.CreateDate"),
        (xml(f"<Users>{USER.replace('<Path>/</Path>', '')}</Users>"), "Users.1.Path: it is required"),
        (xml(f"<Users>{USER}</Users><Users/>"), "Users: there is more than one"),
        (xml(""), "Users: it is required"),
        (b"<ListUsersResponse/>", "there is no ListUsersResult"),
        (b"<ListUsers", "the body: it is not well-formed"),
        (b"<!DOCTYPE a><a/>", "the body: it declares a document type"),
    ],
)
def test_an_answer_in_xml_is_read_as_botocore_reads_it(body, told):
    found = answers.read_misfit(service("iam").operation("ListUsers"), "query", 200, [], body)
    assert told in found if told else found == ""


@pytest.mark.parametrize(
    ("name", "operation", "headers", "body", "told"),
    [
        ("logs", "DescribeLogGroups", [], b'{"logGroups":[{"logGroupName":"g","creationTime":1}]}', ""),
        ("logs", "DescribeLogGroups", [], b'{"logGroups":[{"creationTime":"1"}]}', "logGroups.1.creationTime"),
        ("logs", "DescribeLogGroups", [], b'{"logGroups":{}}', "logGroups: a dict"),
        ("logs", "DescribeLogGroups", [], b"[]", "not a JSON object"),
        ("kms", "Encrypt", [], b'{"CiphertextBlob":"A"}', "CiphertextBlob"),
        ("securityhub", "DescribeHub", [], b'{"AutoEnableControls":"yes"}', "AutoEnableControls"),
        ("s3", "HeadObject", [("content-length", "many")], b"", "ContentLength: 'many' is no long"),
        ("s3", "GetObject", [("content-length", "4")], b"\xff<&>", ""),
        ("s3", "ListBuckets", [], b"<ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>", ""),
        ("s3", "ListObjectsV2", [], b"<ListBucketResult><KeyCount/></ListBucketResult>", "KeyCount: '' is no integer"),
    ],
)
def test_an_answer_of_each_protocol_is_read(name, operation, headers, body, told):
    target = service(name)
    found = answers.read_misfit(target.operation(operation), target.protocol, 200, headers, body)
    assert told in found if told else found == ""


@pytest.mark.parametrize(
    ("protocol", "headers", "body", "told"),
    [
        ("json", [], b'{"__type":"E"}', ""),
        ("json", [], b'{"message":"m"}', "an error without a code"),
        ("rest-json", [("x-amzn-errortype", "E")], b"{}", ""),
        ("json", [], b"<Error/>", "it is not JSON"),
        ("ec2", [], b"<Response><Errors><Error><Code>E</Code></Error></Errors></Response>", ""),
        ("query", [], b"<ErrorResponse><Error><Code>E</Code></Error></ErrorResponse>", ""),
        ("query", [], b"<ErrorResponse><Error><Code/></Error></ErrorResponse>", "an error without a code"),
        ("rest-xml", [], b"<Error><Code>E</Code></Error>", ""),
        ("rest-xml", [], b"", ""),
        ("rest-xml", [], b"<html>", "not well-formed"),
    ],
)
def test_an_error_has_a_code(protocol, headers, body, told):
    found = answers.read_misfit(service("iam").operation("ListUsers"), protocol, 400, headers, body)
    assert told in found if told else found == ""
