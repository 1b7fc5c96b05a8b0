"""The query and ec2 protocols, against botocore's own serializer and parser."""

from urllib.parse import urlencode

import pytest
from botocore.parsers import create_parser
from botocore.serialize import create_serializer

from fleetops.awsapi import query
from fleetops.awsapi.errors import ApiError, render
from fleetops.awsapi.models import service

EC2 = service("ec2").operation("DescribeInstances")
ASSUME = service("sts").operation("AssumeRole")


def form(operation, protocol, parameters):
    body = create_serializer(protocol).serialize_to_request(parameters, operation)["body"]
    return query.read_form(urlencode(body).encode())


def test_what_botocore_writes_for_ec2_is_read_back():
    parameters = {
        "InstanceIds": ["i-1", "i-2"],
        "Filters": [{"Name": "tag:env", "Values": ["prod", "dev"]}],
        "MaxResults": 7,
        "DryRun": False,
    }
    assert query.parse(EC2, form(EC2, "ec2", parameters), ec2=True) == parameters


def test_what_botocore_writes_for_query_is_read_back():
    parameters = {
        "RoleArn": "arn:aws:iam::111122223333:role/r",
        "RoleSessionName": "maria",
        "Tags": [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}],
        "DurationSeconds": 900,
    }
    assert query.parse(ASSUME, form(ASSUME, "query", parameters), ec2=False) == parameters


def test_an_answer_is_what_botocore_reads():
    result = {
        "Reservations": [
            {
                "ReservationId": "r-1",
                "Groups": [],
                "Instances": [
                    {
                        "InstanceId": "i-1",
                        "State": {"Code": 16, "Name": "running"},
                        "Tags": [{"Key": "a", "Value": "<&> \x01 é"}],
                        "EbsOptimized": True,
                    }
                ],
            }
        ]
    }
    body = query.write(EC2, result, "req-1", ec2=True)
    parsed = create_parser("ec2").parse({"headers": {}, "status_code": 200, "body": body}, EC2.output_shape)
    instance = parsed["Reservations"][0]["Instances"][0]
    assert instance["State"] == {"Code": 16, "Name": "running"}
    assert instance["Tags"] == [{"Key": "a", "Value": "<&>  é"}]
    assert instance["EbsOptimized"] is True
    assert parsed["ResponseMetadata"]["RequestId"] == "req-1"


@pytest.mark.parametrize("body", [b"", b"Action=", b"Action=a%20b", b"\xff=\xff"])
def test_a_form_without_an_action_is_refused(body):
    with pytest.raises(ApiError):
        query.read_action(query.read_form(body))


def test_a_form_of_too_many_fields_is_refused():
    with pytest.raises(ApiError) as caught:
        query.read_form(b"&".join(b"a%d=1" % n for n in range(30_000)))
    assert caught.value.code == "MalformedQueryString"


@pytest.mark.parametrize("text", ["x", "1.5", ""])
def test_a_number_that_is_none_is_refused(text):
    with pytest.raises(ApiError) as caught:
        query.parse(EC2, {"MaxResults": text}, ec2=True)
    assert caught.value.code == "InvalidParameterValue"


@pytest.mark.parametrize("protocol", ["json", "rest-json", "query", "ec2", "rest-xml"])
def test_botocore_reads_an_error_of_each_protocol(protocol):
    model = {"json": "ssm", "rest-json": "securityhub", "query": "iam", "ec2": "ec2", "rest-xml": "s3"}[protocol]
    operation = next(iter(service(model).operations))
    error = ApiError("SomethingWrong", "because <of> this", 400)
    status, _, body = render(error, protocol, "req-1")
    headers = {"x-amzn-errortype": error.code}
    shape = service(model).operation(operation).output_shape
    parsed = create_parser(protocol).parse({"headers": headers, "status_code": status, "body": body}, shape)
    assert parsed["Error"]["Code"] == "SomethingWrong"
    assert parsed["Error"]["Message"] == "because <of> this"
