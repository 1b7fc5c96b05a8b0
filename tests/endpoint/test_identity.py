"""Who is let in, and how the rest is refused, in each protocol's own words."""

import datetime as dt
import http.client
import json
import ssl
import urllib.error
import urllib.request
from unittest import mock

import boto3
import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from tests.endpoint.raw import connect, json_headers, signed

CALLS = {
    "ssm": lambda client: client.describe_instance_information(),
    "ec2": lambda client: client.describe_instances(),
    "sts": lambda client: client.get_caller_identity(),
    "iam": lambda client: client.list_roles(),
    "s3": lambda client: client.list_buckets(),
    "logs": lambda client: client.describe_log_groups(),
    "securityhub": lambda client: client.get_findings(),
}


def refusal(call, client) -> tuple[str, int]:
    with pytest.raises(ClientError) as caught:
        call(client)
    response = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def test_get_caller_identity_tells_a_user_who_they_are(aws):
    answer = aws.client("sts").get_caller_identity()
    assert answer["Account"] == "111122223333"
    assert answer["Arn"] == "arn:aws:iam::111122223333:user/admin"


@pytest.mark.parametrize(
    ("service", "code", "status"),
    [
        ("ssm", "UnrecognizedClientException", 400),
        ("ec2", "AuthFailure", 401),
        ("sts", "InvalidClientTokenId", 403),
        ("iam", "InvalidClientTokenId", 403),
        ("s3", "InvalidAccessKeyId", 403),
        ("logs", "UnrecognizedClientException", 400),
        ("securityhub", "UnrecognizedClientException", 403),
    ],
)
def test_an_unknown_key_is_refused(aws, service, code, status):
    client = aws.client(service, aws_access_key_id="AKIAUNKNOWNUNKNOWN00")
    assert refusal(CALLS[service], client) == (code, status)


@pytest.mark.parametrize(
    ("service", "code", "status"),
    [
        ("ssm", "InvalidSignatureException", 400),
        ("ec2", "AuthFailure", 401),
        ("sts", "SignatureDoesNotMatch", 403),
        ("iam", "SignatureDoesNotMatch", 403),
        ("s3", "SignatureDoesNotMatch", 403),
        ("logs", "InvalidSignatureException", 400),
        ("securityhub", "InvalidSignatureException", 403),
    ],
)
def test_a_wrong_secret_is_refused(aws, service, code, status):
    assert refusal(CALLS[service], aws.client(service, aws_secret_access_key="wrong")) == (code, status)


@pytest.mark.parametrize(
    ("service", "code"),
    [
        ("ssm", "InvalidSignatureException"),
        ("ec2", "RequestExpired"),
        ("sts", "SignatureDoesNotMatch"),
        ("s3", "RequestTimeTooSkewed"),
    ],
)
@pytest.mark.parametrize("minutes", [-6, 6])
def test_a_clock_that_is_off_by_more_than_five_minutes_is_refused(aws, service, code, minutes):
    client = aws.client(service)
    wrong = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=minutes)
    with mock.patch.object(
        botocore.auth, "get_current_datetime", lambda remove_tzinfo=True: wrong.replace(tzinfo=None)
    ):
        assert refusal(CALLS[service], client)[0] == code


def test_a_body_changed_on_the_way_is_refused(aws):
    client = aws.client("ssm")

    def tamper(request, **_):
        request.body = request.body.replace(b"50", b"49")

    client.meta.events.register("before-send.ssm", tamper)
    try:
        with pytest.raises(ClientError, match="InvalidSignatureException"):
            client.describe_instance_information(MaxResults=50)
    finally:  # other tests have the same client
        client.meta.events.unregister("before-send.ssm", tamper)


def test_a_request_caught_on_the_way_is_good_for_nothing_else_and_not_for_long(aws):
    """Signature V4 has no number used once: AWS, too, answers the same bytes again, for five minutes."""
    head = signed(aws, "ssm", headers=json_headers("AmazonSSM.DescribeActivations"), body=b"{}")

    def code(change: dict[str, str], body: bytes = b"{}", path: str = "/") -> str:
        connection = connect(aws)
        try:
            connection.request("POST", path, body=body, headers=head | change)
            return json.loads(connection.getresponse().read()).get("__type", "answered")
        finally:
            connection.close()

    assert [code({}), code({})] == ["answered", "answered"]
    wrong = "InvalidSignatureException"
    assert code({"X-Amz-Target": "AmazonSSM.DescribeSessions"}) == wrong
    assert code({"Host": f"ssm.us-east-1.amazonaws.com:{aws.url.rpartition(':')[2]}"}) == wrong
    assert code({}, body=b'{"MaxResults": 5}') == wrong
    assert code({}, path="/?x=1") == wrong
    # The moment is a part of what is signed, and an old one is refused by the test above.
    later = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=90)
    assert code({"X-Amz-Date": f"{later:%Y%m%dT%H%M%SZ}"}) == wrong


@pytest.mark.parametrize(
    ("service", "code"),
    [("ssm", "UnrecognizedClientException"), ("sts", "InvalidClientTokenId"), ("s3", "InvalidAccessKeyId")],
)
def test_a_wrong_session_token_is_refused(aws, service, code):
    keys = aws.as_role()
    for token in ("nonsense", keys["aws_session_token"][:-8] + "AAAAAAAA"):
        assert refusal(CALLS[service], aws.client(service, **keys | {"aws_session_token": token}))[0] == code


def test_a_request_that_nobody_signed_is_refused(aws):
    context = ssl.create_default_context(cafile=aws.handover["ca_file"])
    for headers, data, code in [
        ({"X-Amz-Target": "AmazonSSM.StartSession"}, b"{}", "MissingAuthenticationTokenException"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"Action=ListRoles", "MissingAuthenticationToken"),
        ({}, None, "AccessDenied"),
        ({"Authorization": "Basic x"}, None, "AuthorizationHeaderMalformed"),
    ]:
        request = urllib.request.Request(aws.url + "/", headers=headers, data=data)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, context=context)
        assert code in caught.value.read().decode()
        caught.value.close()


def test_the_certificate_is_good_for_the_ca_and_nobody_else_is_believed(aws):
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(aws.url, context=ssl.create_default_context())


def test_the_product_user_may_only_assume_its_role(aws):
    keys = {"user": "fleetops"}
    assert refusal(CALLS["ssm"], aws.client("ssm", **keys))[0] == "AccessDeniedException"
    assert refusal(CALLS["ec2"], aws.client("ec2", **keys))[0] == "UnauthorizedOperation"
    assert refusal(CALLS["iam"], aws.client("iam", **keys))[0] == "AccessDenied"
    assert refusal(CALLS["s3"], aws.client("s3", **keys))[0] == "AccessDenied"
    assert aws.client("sts", **keys).get_caller_identity()["Arn"].endswith(":user/fleetops")
    assert (
        aws.client("ssm", **aws.as_role()).describe_instance_information()["ResponseMetadata"]["HTTPStatusCode"] == 200
    )


def test_an_assumed_role_carries_source_identity_and_its_name(aws):
    answer = aws.client("sts", user="fleetops").assume_role(
        RoleArn=aws.account["role_arn"],
        RoleSessionName="maria",
        SourceIdentity="maria@example.com",
        Tags=[{"Key": "SSMSessionRunAs", "Value": "maria"}],
        DurationSeconds=900,
    )
    assert answer["SourceIdentity"] == "maria@example.com"
    assert answer["AssumedRoleUser"]["Arn"].endswith(":assumed-role/FleetOpsControlPlane/maria")
    left = answer["Credentials"]["Expiration"] - dt.datetime.now(dt.UTC)
    assert dt.timedelta(minutes=14) < left <= dt.timedelta(minutes=15)
    keys = aws.as_role("maria")
    assert aws.client("sts", **keys).get_caller_identity()["Arn"] == answer["AssumedRoleUser"]["Arn"]


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"RoleArn": "arn:aws:iam::111122223333:role/NoSuchRole"}, "AccessDenied"),
        ({"RoleArn": "arn:aws:iam::111122223333:role/ssm-core"}, "AccessDenied"),
        ({"RoleArn": "arn:aws:iam::999999999999:role/FleetOpsControlPlane"}, "AccessDenied"),
        ({"RoleSessionName": "a b"}, "ValidationError"),
        ({"RoleSessionName": "x"}, "ValidationError"),
        ({"DurationSeconds": 60}, "ValidationError"),
        ({"RoleArn": "nonsense-but-long-enough"}, "ValidationError"),
    ],
)
def test_a_role_is_assumed_only_where_its_trust_allows(aws, parameters, code):
    client = aws.client("sts", user="fleetops")
    with pytest.raises(ClientError) as caught:
        client.assume_role(**{"RoleArn": aws.account["role_arn"], "RoleSessionName": "maria"} | parameters)
    assert caught.value.response["Error"]["Code"] == code


def test_a_trust_policy_that_names_another_user_or_a_condition_is_kept(aws):
    iam, admin = aws.client("iam"), aws.client("sts")

    def trust(principal, **condition):
        statement = {"Effect": "Allow", "Principal": {"AWS": principal}, "Action": "sts:AssumeRole", **condition}
        return json.dumps({"Version": "2012-10-17", "Statement": [statement]})

    root = "arn:aws:iam::111122223333:root"
    arn = iam.create_role(RoleName="trusting", AssumeRolePolicyDocument=trust(root))["Role"]["Arn"]
    assert admin.assume_role(RoleArn=arn, RoleSessionName="ab")["AssumedRoleUser"]
    with pytest.raises(ClientError, match="AccessDenied"):
        admin.assume_role(RoleArn=arn, RoleSessionName="ab", SourceIdentity="ab")
    iam.update_assume_role_policy(RoleName="trusting", PolicyDocument=trust("arn:aws:iam::111122223333:user/fleetops"))
    with pytest.raises(ClientError, match="AccessDenied"):
        admin.assume_role(RoleArn=arn, RoleSessionName="ab")
    demanded = {"Condition": {"StringEquals": {"sts:ExternalId": "42"}}}
    iam.update_assume_role_policy(RoleName="trusting", PolicyDocument=trust(root, **demanded))
    with pytest.raises(ClientError, match="AccessDenied"):
        admin.assume_role(RoleArn=arn, RoleSessionName="ab")
    assert admin.assume_role(RoleArn=arn, RoleSessionName="ab", ExternalId="42")["Credentials"]
    iam.delete_role(RoleName="trusting")


def test_a_session_policy_and_a_changed_role_policy_act_at_once(aws):
    policy = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}'
    narrow = aws.as_role(Policy=policy)
    assert refusal(CALLS["ssm"], aws.client("ssm", **narrow))[0] == "AccessDeniedException"
    assert aws.client("s3", **narrow).list_buckets()["Buckets"] is not None
    wide = aws.as_role()
    denying = '{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"ssm:*","Resource":"*"}]}'
    aws.client("iam").put_role_policy(RoleName="FleetOpsControlPlane", PolicyName="stop", PolicyDocument=denying)
    try:
        assert refusal(CALLS["ssm"], aws.client("ssm", **wide))[0] == "AccessDeniedException"
    finally:
        aws.client("iam").delete_role_policy(RoleName="FleetOpsControlPlane", PolicyName="stop")
    assert aws.client("ssm", **wide).describe_instance_information()


def test_a_new_user_and_an_inactive_key(aws):
    iam = aws.client("iam")
    iam.create_user(UserName="kofi")
    key = iam.create_access_key(UserName="kofi")["AccessKey"]
    keys = {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}
    assert aws.client("sts", **keys).get_caller_identity()["Arn"].endswith(":user/kofi")
    iam.update_access_key(UserName="kofi", AccessKeyId=key["AccessKeyId"], Status="Inactive")
    assert refusal(CALLS["sts"], aws.client("sts", **keys))[0] == "InvalidClientTokenId"


def test_a_presigned_url_works_until_somebody_changes_it(aws):
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="presigned", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    s3.put_object(Bucket="presigned", Key="a b/ü", Body=b"content")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": "presigned", "Key": "a b/ü"}, ExpiresIn=60)
    context = ssl.create_default_context(cafile=aws.handover["ca_file"])
    assert urllib.request.urlopen(url, context=context).read() == b"content"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(url.replace("X-Amz-Expires=60", "X-Amz-Expires=6000"), context=context)
    assert b"SignatureDoesNotMatch" in caught.value.read()
    caught.value.close()


def test_a_request_over_the_bound_is_refused_and_the_next_one_is_served(aws):
    client = aws.client("ssm")
    with pytest.raises(ClientError) as caught:
        client.start_session(Target="i-1", Reason="x" * (17 * 2**20))
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 413
    assert client.describe_instance_information()


def test_a_chunked_body_without_a_length_is_read(aws):
    """As the agent sends RequestManagedInstanceRoleToken: Transfer-Encoding chunked, no Content-Length."""
    body = b'{"Target": "i-1"}'
    host = aws.url.removeprefix("https://")
    headers = {
        "Content-Type": "application/x-amz-json-1.1",
        "X-Amz-Target": "AmazonSSM.GetConnectionStatus",
        "Host": host,
    }
    signing = AWSRequest("POST", aws.url + "/", headers=headers, data=body)
    keys = aws.account["try_credentials"]
    botocore.auth.SigV4Auth(Credentials(keys["access_key_id"], keys["secret_access_key"]), "ssm", "eu-west-1").add_auth(
        signing
    )
    context = ssl.create_default_context(cafile=aws.handover["ca_file"])
    connection = http.client.HTTPSConnection(host, context=context)
    connection.request("POST", "/", iter([body[:5], body[5:]]), dict(signing.headers), encode_chunked=True)
    response = connection.getresponse()
    assert (response.status, b"notconnected" in response.read()) == (200, True)
    connection.close()


def test_boto3s_default_retries_are_not_needed_for_a_refusal(aws):
    keys = aws.account["try_credentials"]
    client = boto3.client(
        "inspector2",
        region_name="eu-west-1",
        endpoint_url=aws.url,
        verify=aws.handover["ca_file"],
        aws_access_key_id=keys["access_key_id"],
        aws_secret_access_key=keys["secret_access_key"],
        config=Config(inject_host_prefix=False),
    )
    with pytest.raises(ClientError) as caught:
        client.list_findings()
    assert caught.value.response["Error"]["Code"] == "NotImplemented"
    assert caught.value.response["ResponseMetadata"]["RetryAttempts"] == 0
