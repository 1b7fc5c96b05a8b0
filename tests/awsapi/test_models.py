"""Which service and operation a request is for."""

import boto3
import pytest

from fleetops.awsapi.errors import ApiError
from fleetops.awsapi.models import service

SESSION = boto3.Session("a", "b", region_name="eu-west-1")
CLIENTS = {
    "ssm": "ssm",
    "ec2": "ec2",
    "iam": "iam",
    "sts": "sts",
    "logs": "logs",
    "kms": "kms",
    "s3": "s3",
    "cloudtrail": "cloudtrail",
    "securityhub": "securityhub",
    "sns": "sns",
    "sqs": "sqs",
    "events": "events",
    "tagging": "resourcegroupstaggingapi",
}


@pytest.mark.parametrize(("signing_name", "client_name"), CLIENTS.items())
def test_we_expect_the_protocol_that_boto3_speaks(signing_name, client_name):
    client = SESSION.client(client_name)
    assert service(signing_name).protocol == client.meta.service_model.resolved_protocol
    assert client.meta.service_model.signing_name == signing_name


@pytest.mark.parametrize("name", ["nope", "../ssm", "", "SSM"])
def test_an_unknown_service_is_refused(name):
    with pytest.raises(ApiError):
        service(name)


@pytest.mark.parametrize(
    ("method", "path", "query", "headers", "operation"),
    [
        ("GET", "/", {}, (), "ListBuckets"),
        ("PUT", "/b", {}, (), "CreateBucket"),
        ("PUT", "/b/k", {}, (), "PutObject"),
        ("PUT", "/b/k", {}, ("x-amz-copy-source",), "CopyObject"),
        ("PUT", "/b/k", {"partNumber": "1", "uploadId": "u"}, (), "UploadPart"),
        ("POST", "/b/k", {"uploads": ""}, (), "CreateMultipartUpload"),
        ("POST", "/b", {"delete": ""}, (), "DeleteObjects"),
        ("GET", "/b", {"list-type": "2"}, (), "ListObjectsV2"),
        ("GET", "/b/k%2Fx/", {}, (), "GetObject"),
        ("HEAD", "/b/k", {}, (), "HeadObject"),
    ],
)
def test_s3s_operations_are_told_apart(method, path, query, headers, operation):
    assert service("s3").match_rest(method, path, query, set(headers)) == operation


@pytest.mark.parametrize(
    ("name", "operation", "reads"),
    [
        ("ec2", "DescribeInstances", True),
        ("ec2", "RunInstances", False),
        ("kms", "Encrypt", True),
        ("kms", "CreateKey", False),
        ("kms", "GetParametersForImport", False),
        ("sqs", "ReceiveMessage", False),
        ("iam", "GetRole", True),
        ("s3", "GetObject", True),
        ("s3", "PutObject", False),
    ],
)
def test_what_changes_something_is_known(name, operation, reads):
    assert service(name).is_read(operation) is reads
