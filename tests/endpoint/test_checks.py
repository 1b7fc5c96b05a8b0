"""Requests of each protocol over loopback: one that is taken, and ones that moto never sees."""

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from fleetops.awsapi.errors import ApiError
from fleetops.awsapi.models import service
from fleetops.awsapi.sigv4 import Request
from fleetops.endpoint import answers
from fleetops.endpoint.calls import Answer, Call
from tests.endpoint.jobs import until
from tests.endpoint.raw import FORM, connect, send

ROLE = '{"Version":"2012-10-17","Statement":[]}'


def refused(call, **parameters) -> tuple[str, str, int]:
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    error, metadata = caught.value.response["Error"], caught.value.response["ResponseMetadata"]
    assert metadata["RequestId"]
    return error["Code"], error["Message"], metadata["HTTPStatusCode"]


def test_query_iam(aws):
    iam = aws.client("iam")
    assert iam.create_role(RoleName="checked", AssumeRolePolicyDocument=ROLE)["Role"]["RoleName"] == "checked"
    code, message, status = refused(iam.create_role, RoleName="a b", AssumeRolePolicyDocument=ROLE)
    assert (code, status) == ("ValidationError", 400)
    assert message.startswith("1 validation error detected: Value 'a b' at 'roleName' failed to satisfy constraint")
    assert refused(iam.create_role, RoleName="r", AssumeRolePolicyDocument=ROLE, MaxSessionDuration=60)[0] == code
    assert {"r", "a b"}.isdisjoint(role["RoleName"] for role in iam.list_roles()["Roles"])
    assert refused(iam.get_role, RoleName="nobody")[0] == "NoSuchEntity"
    status, answer = send(aws, "iam", headers=FORM, body=b"Action=CreateUser&Version=2010-05-08", region="us-east-1")
    assert (status, b"<Code>ValidationError</Code>" in answer) == (400, True)


def test_query_sns(aws):
    sns = aws.client("sns")
    topic = sns.create_topic(Name="checked")["TopicArn"]
    assert sns.publish(TopicArn=topic, Message="hello")["MessageId"]
    status, answer = send(aws, "sns", headers=FORM, body=b"Action=Publish&Version=2010-03-31")
    assert (status, b"<Code>InvalidParameter</Code>" in answer) == (400, True)
    assert b"Invalid parameter: Message Reason: no value for required parameter" in answer


def test_ec2(aws):
    ec2 = aws.client("ec2")
    assert ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    assert refused(ec2.describe_vpcs, MaxResults=4)[0] == "InvalidParameterValue"
    group = ec2.create_security_group(GroupName="checked", Description="d")["GroupId"]
    assert refused(ec2.create_security_group, GroupName="other")[:2] == (
        "MissingParameter",
        "The request must contain the parameter GroupDescription",
    )
    code, message, _ = refused(ec2.run_instances, MinCount=1, MaxCount=1, InstanceType="t9.huge")
    assert (code, message) == ("InvalidParameterValue", "Invalid value 't9.huge' for InstanceType.")
    ec2.delete_security_group(GroupId=group)
    body = b"Action=DescribeVpcs&Version=2016-11-15&Colour=red"
    status, answer = send(aws, "ec2", headers=FORM, body=body)
    assert (status, b"<Code>UnknownParameter</Code>" in answer) == (400, True)
    assert b"<Errors><Error>" in answer


def test_rest_json_security_hub(aws):
    hub = aws.client("securityhub", region="eu-west-2")
    hub.enable_security_hub()
    arn = hub.describe_hub()["HubArn"]
    assert arn.endswith(":hub/default")
    code, message, status = refused(hub.get_findings, MaxResults=101)
    assert (code, status) == ("InvalidInputException", 400)
    assert "Value '101' at 'maxResults'" in message
    headers = {"Content-Type": "application/json"}
    status, answer = send(aws, "securityhub", path="/findings", headers=headers, body=b'{"Filters":[]}')
    assert (status, answer) == (400, b'{"message":"Expected a structure at \'Filters\'."}')
    with pytest.raises(hub.exceptions.InvalidInputException):
        hub.batch_import_findings(Findings=[])


def test_rest_xml_s3(aws):
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="checked", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    s3.put_bucket_versioning(Bucket="checked", VersioningConfiguration={"Status": "Enabled"})
    assert s3.get_bucket_versioning(Bucket="checked")["Status"] == "Enabled"
    assert (
        refused(s3.put_bucket_versioning, Bucket="checked", VersioningConfiguration={"Status": "On"})[0]
        == "MalformedXML"
    )
    assert refused(s3.put_object, Bucket="checked", Key="k", Body=b"x", ACL="everybody")[0] == "InvalidArgument"
    assert refused(s3.put_object, Bucket="checked", Key="k", Body=b"x", StorageClass="ICE")[0] == "InvalidStorageClass"
    assert refused(s3.list_objects_v2, Bucket="checked", MaxKeys="all")[0] == "InvalidArgument"
    assert "Contents" not in s3.list_objects_v2(Bucket="checked")
    s3.put_object(Bucket="checked", Key="a", Body=b"x", StorageClass="STANDARD_IA", Metadata={"k": "v"})
    s3.delete_objects(Bucket="checked", Delete={"Objects": [{"Key": "a"}]})
    status, answer = send(aws, "s3", method="PUT", path="/checked?versioning", body=b"<Versioning/>")
    assert (status, b"<Code>MalformedXML</Code>" in answer) == (400, True)
    status, answer = send(aws, "s3", method="PUT", path="/checked?versioning")
    assert (status, b"<Code>MissingRequestBodyError</Code>" in answer) == (400, True)


def test_json_kms(aws):
    kms = aws.client("kms")
    assert kms.list_keys(Limit=10)["Keys"] is not None
    assert refused(kms.list_keys, Limit=5000)[0] == "ValidationException"


def test_s3_by_the_buckets_own_name(aws):
    """botocore's virtual-host style: the bucket is signed as part of the host, and its key is all of the path."""
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="by-host", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    s3.put_object(Bucket="by-host", Key="a b/c", Body=b"content")
    pair = aws.account["try_credentials"]
    host = "by-host.s3.eu-west-1.amazonaws.com"
    request = AWSRequest("GET", f"https://{host}/a%20b/c", headers={"Host": host})
    S3SigV4Auth(Credentials(pair["access_key_id"], pair["secret_access_key"]), "s3", "eu-west-1").add_auth(request)
    connection = connect(aws)
    connection.request("GET", "/a%20b/c", headers=dict(request.headers))
    response = connection.getresponse()
    assert (response.status, response.read()) == (200, b"content")
    connection.close()
    asked = [{"AttributeKey": "ResourceName", "AttributeValue": "arn:aws:s3:::by-host/a b/c"}]

    def told():  # the event of a read is written behind its answer
        found = aws.client("cloudtrail").lookup_events(LookupAttributes=asked)["Events"]
        return {event["EventName"] for event in found} == {"PutObject", "GetObject"}

    until(told)


def test_a_refused_request_is_in_the_trail_and_not_in_motos_journal(aws):
    before = {path: path.stat().st_size for path in (aws.home / "moto").glob("journal-*")}
    assert refused(aws.client("iam").create_user, UserName="x" * 65)[0] == "ValidationError"
    assert {path: path.stat().st_size for path in (aws.home / "moto").glob("journal-*")} == before
    found = aws.client("cloudtrail").lookup_events(
        LookupAttributes=[{"AttributeKey": "EventName", "AttributeValue": "CreateUser"}]
    )
    assert any('"ValidationError"' in event["CloudTrailEvent"] for event in found["Events"])


def call_of(name, operation):
    call = Call(Request("POST", "/", "", []), "r", None, "")
    call.service, call.operation = service(name), operation
    return call


def test_an_answer_that_does_not_fit_is_a_warning_and_fails_a_test(monkeypatch, caplog):
    call = call_of("iam", "ListUsers")
    bad = Answer(200, b"<ListUsersResponse/>", "text/xml")
    monkeypatch.setattr(answers, "MODE", "log")
    answers.hold_answer(call, bad)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "operation=iam:ListUsers misfit=the body: there is no ListUsersResult" in record.getMessage()
    monkeypatch.setattr(answers, "MODE", "fail")
    with pytest.raises(ApiError, match="does not fit its model"):
        answers.hold_answer(call, bad)
    with pytest.raises(ApiError, match="there is no such member"):
        answers.hold_result(service("ssm").operation("StartSession"), {"Nope": 1})
    monkeypatch.setattr(answers, "MODE", "off")
    answers.hold_answer(call, bad)
    assert len(caplog.records) == 3
