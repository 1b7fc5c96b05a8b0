"""What is done is what was authorised: however a request is written, moto sees the operation that we have read."""

from pathlib import Path

import pytest

from fleetops.awsapi.models import query_keys, service
from fleetops.endpoint.api.moto import _UNKNOWN_PARTS
from tests.endpoint.raw import FORM, json_headers, send

READ = b"Action=ListUsers&Version=2010-05-08"


def users(aws) -> set[str]:
    return {user["UserName"] for user in aws.client("iam").list_users()["Users"]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/", b"Action=CreateUser&UserName=eve&Version=2010-05-08&Action=ListUsers"),
        ("/?Action=CreateUser&UserName=eve", READ),
        ("/?UserName=eve", READ),
        ("/moto-api/reset", READ),
        ("/moto-api/data.json", READ),
    ],
)
def test_a_form_has_one_action(aws, path, body):
    before = users(aws)
    status, answer = send(aws, "iam", path=path, headers=FORM, body=body, region="us-east-1")
    assert status == 200
    assert answer.startswith(b"<ListUsersResponse")
    assert users(aws) == before


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", "application/x-amz-json-1.1"),
        ("/?Action=CreateLogGroup", "application/x-amz-json-1.1"),
        ("/moto-api/reset", "application/x-amz-json-1.1"),
        ("/", "application/x-www-form-urlencoded"),
        ("/", "multipart/form-data; boundary=x"),
    ],
)
def test_a_json_call_has_the_operation_of_its_target(aws, path, content_type):
    headers = json_headers("Logs_20140328.DescribeLogGroups") | {"Content-Type": content_type}
    body = b'{"logGroupName":"smuggled","more":"&Action=CreateLogGroup&x="}'  # members that the model lacks pass
    status, answer = send(aws, "logs", path=path, headers=headers, body=body)
    assert (status, b'"logGroups"' in answer) == (200, True)
    assert not aws.client("logs").describe_log_groups(logGroupNamePrefix="smuggled")["logGroups"]
    assert users(aws)


def test_a_rest_call_has_the_operation_of_its_path(aws):
    hub = aws.client("securityhub", region="eu-north-1")
    send(aws, "securityhub", method="GET", path="/accounts?Action=EnableSecurityHub", region="eu-north-1")
    with pytest.raises(hub.exceptions.ClientError):
        hub.describe_hub()


@pytest.mark.parametrize(
    "path", ["/moto-api/data.json", "/latest/meta-data/iam/security-credentials/x", "/favicon.ico"]
)
def test_motos_own_pages_are_buckets_that_do_not_exist(aws, path):
    status, answer = send(aws, "s3", method="GET", path=path)
    assert (status, b"NoSuchBucket" in answer) == (404, True)


def test_the_region_is_the_one_that_was_signed(aws):
    headers = FORM | {"User-Agent": "x region/us-west-2 "}
    _, answer = send(aws, "ec2", headers=headers, body=b"Action=DescribeAvailabilityZones&Version=2016-11-15")
    assert b"eu-west-1a" in answer
    assert b"us-west-2" not in answer


def test_an_s3_request_has_one_sub_resource(aws):
    aws.client("s3").create_bucket(Bucket="one", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    for query in ("?acl&tagging", "?select&select-type=2&uploads", "?uploadId=u&restore"):
        method = "POST" if "select" in query or "restore" in query else "PUT"
        status, answer = send(aws, "s3", method=method, path=f"/one/k{query}", headers={"Content-Type": "text/xml"})
        assert (status, b"Conflicting query string parameters" in answer) == (400, True), answer


def test_a_part_that_moto_does_not_know_is_not_taken_for_the_whole(aws):
    """moto would delete the bucket, and the object, and put the rename's body in the object's place."""
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="whole", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    s3.put_object(Bucket="whole", Key="k", Body=b"x")
    for method, path in (
        ("DELETE", "/whole/k?annotation&annotationName=a"),
        ("PUT", "/whole/k?renameObject"),
        ("DELETE", "/whole?metrics&id=1"),
        ("DELETE", "/whole?analytics&id=1"),
        ("GET", "/whole/k?torrent"),
    ):
        headers = {"x-amz-rename-source": "whole/other"} if method == "PUT" else {}
        status, answer = send(aws, "s3", method=method, path=path, headers=headers)
        assert (status, b"NotImplemented" in answer) == (501, True), (path, answer)
    assert s3.get_object(Bucket="whole", Key="k")["Body"].read() == b"x"


def test_every_part_of_s3_is_known_to_moto_or_refused():
    import moto.s3.responses

    source = Path(moto.s3.responses.__file__).read_text()
    target = service("s3")
    parts = set().union(*(query_keys(target.operation(name)) for name in target.operations)) - {"x-id"}
    unknown = {part for part in parts if f'"{part}"' not in source} - {"select-type"}  # beside "select" alone
    assert unknown == set(_UNKNOWN_PARTS)


def test_a_copy_needs_the_right_to_read_its_source(aws):
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="source", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    s3.create_bucket(Bucket="target", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    s3.put_object(Bucket="source", Key="secret key", Body=b"x")
    iam = aws.client("iam")
    policy = (
        '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"arn:aws:s3:::target/*"},'
        '{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::source/public"}]}'
    )
    iam.create_user(UserName="copier")
    iam.put_user_policy(UserName="copier", PolicyName="p", PolicyDocument=policy)
    pair = iam.create_access_key(UserName="copier")["AccessKey"]
    copier = aws.client("s3", aws_access_key_id=pair["AccessKeyId"], aws_secret_access_key=pair["SecretAccessKey"])
    copier.put_object(Bucket="target", Key="k", Body=b"mine")
    for source in ("source/secret key", "source/secret%20key"):
        with pytest.raises(copier.exceptions.ClientError, match="AccessDenied"):
            copier.copy_object(Bucket="target", Key="k", CopySource=source)
    s3.put_object(Bucket="source", Key="public", Body=b"x")
    copier.copy_object(Bucket="target", Key="k", CopySource="source/public")
    assert s3.get_object(Bucket="target", Key="k")["Body"].read() == b"x"
