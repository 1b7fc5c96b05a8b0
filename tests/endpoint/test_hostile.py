"""What no client should send: each is refused in words, in a bounded time, and nothing else is disturbed."""

import base64
import hashlib
import os
import socket
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.endpoint.raw import FORM, connect, json_headers, send, signed

LIST = json_headers("AmazonSSM.DescribeInstanceInformation")


def worked(aws) -> float:
    """The processor's seconds that the endpoint has taken: how busy the rest of the machine is does not count."""
    fields = Path(f"/proc/{aws.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime [proc(5)]


def is_alive(aws) -> bool:
    began = worked(aws)
    aws.client("sts").get_caller_identity()
    aws.client("iam").list_users()
    return worked(aws) - began < 2


def code_of(call, **parameters) -> str:
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    return caught.value.response["Error"]["Code"]


@pytest.mark.parametrize(
    ("service", "headers", "body", "code"),
    [
        ("ssm", LIST, b"{", "SerializationException"),
        ("ssm", LIST, b"[]", "SerializationException"),
        ("ssm", LIST, b'{"NextToken":"\xff"}', "SerializationException"),
        ("ssm", LIST, b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "SerializationException"),
        ("ssm", LIST, b'{"Filters":' + b"[" * 800 + b"]" * 800 + b"}", "SerializationException"),
        ("ssm", LIST, b'{"NextToken":' + b"9" * 5000 + b"}", "SerializationException"),
        ("ssm", json_headers("AmazonSSM.Nope"), b"{}", "UnknownOperationException"),
        ("ssm", json_headers("Nope"), b"{}", "UnknownOperationException"),
        ("logs", json_headers("Logs_20140328.CreateLogGroup"), b"{", "SerializationException"),
        ("iam", FORM, b"%zz%%%&&&=;=", "MissingAction"),
        ("iam", FORM, b"Action=ListUsers&X=\xff\xfe", "MalformedQueryString"),
        ("iam", FORM, b"Action=Nope&Version=2010-05-08", "InvalidAction"),
        ("ec2", FORM, b"Action=Nope&Version=2016-11-15", "InvalidAction"),
        ("sts", FORM, b"Action=GetCallerIdentity&" + b"a." * 1_000_000 + b"=1", "MalformedQueryString"),
        ("sts", FORM, b"Action=GetCallerIdentity&" + b"&".join(b"a%d=1" % n for n in range(30_000)), "Malformed"),
        ("dynamodb", json_headers("DynamoDB_20120810.ListTables"), b"{}", "NotImplemented"),
        ("lambda", {}, b"{}", "does not offer the service lambda"),
        ("no/such", LIST, b"{}", "IncompleteSignature"),
    ],
)
def test_what_cannot_be_read_is_told(aws, service, headers, body, code):
    began = worked(aws)
    status, answer = send(aws, service, headers=headers, body=body)
    assert worked(aws) - began < 2
    assert 400 <= status <= 501
    assert code.encode() in answer, answer[:300]


@pytest.mark.parametrize("body", [b"<Create", b'<!DOCTYPE x [<!ENTITY a "b">]><a>&a;</a>'])
def test_bad_xml_is_told(aws, body):
    status, answer = send(aws, "s3", method="PUT", path="/bad-xml", body=body)
    assert (status, b"MalformedXML" in answer) == (400, True)


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 99999999999999999999",
        b"Content-Length: -1",
        b"Content-Length: 5\r\nContent-Length: 6",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"X: " + b"a" * 200_000,
        b"Content-Length: 10000000000",
    ],
)
def test_an_absurd_head_is_refused_before_any_body(aws, head):
    connection = connect(aws, timeout=5)
    connection.connect()
    connection.sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n")
    assert connection.sock.recv(12) in {b"HTTP/1.1 400", b"HTTP/1.1 413"}
    connection.close()
    assert is_alive(aws)


def test_much_is_read_only_of_somebody_who_exists(aws):
    """The answer comes before the body, of which not a byte was sent."""
    head = signed(aws, "s3", method="PUT", path="/any/key", body=b"x")
    key = aws.account["try_credentials"]["access_key_id"]
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items()).replace(key, "AKIAUNKNOWN000000000")
    connection = connect(aws, timeout=5)
    connection.connect()
    connection.sock.sendall(f"PUT /any/key HTTP/1.1\r\n{lines}Content-Length: 20000000\r\n\r\n".encode())
    answer = b""
    while piece := connection.sock.recv(4096):
        answer += piece
        if b"InvalidAccessKeyId" in answer:
            break
    assert answer.startswith(b"HTTP/1.1 403")
    connection.close()


def test_a_header_sent_twice_is_not_the_one_that_was_signed(aws):
    head = signed(aws, "ssm", headers=LIST, body=b"{}")
    connection = connect(aws)
    connection.putrequest("POST", "/", skip_host=True)
    for name, value in [("X-Amz-Target", "AmazonSSM.TerminateSession"), *head.items(), ("Content-Length", "2")]:
        connection.putheader(name, value)
    connection.endheaders(b"{}")
    assert b"InvalidSignatureException" in connection.getresponse().read()
    connection.close()


def test_many_slow_connections_hold_nobody_up(aws):
    context = ssl.create_default_context(cafile=aws.handover["ca_file"])
    port = int(aws.url.rpartition(":")[2])
    slow = []
    for number in range(300):
        plain = socket.create_connection(("127.0.0.1", port))
        # A third of them never finish TLS, a third their head, a third their body.
        if number % 3:
            plain = context.wrap_socket(plain, server_hostname="127.0.0.1")
            plain.sendall(
                b"POST / HTTP/1.1\r\nHost: x\r\n" + (b"Content-Length: 100\r\n\r\nx" if number % 3 == 2 else b"")
            )
        slow.append(plain)
    assert is_alive(aws)
    for plain in slow:
        plain.close()


def test_pipelined_requests_are_answered_each(aws):
    connection = connect(aws)
    connection.connect()
    connection.sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
    answers = b""
    while answers.count(b"HTTP/1.1 403") < 20:
        piece = connection.sock.recv(65536)
        assert piece
        answers += piece
    connection.close()


def test_a_caller_that_waits_for_100_continue_gets_it(aws):
    body = b"Action=GetCallerIdentity&Version=2011-06-15"
    head = signed(aws, "sts", headers=FORM, body=body) | {"Content-Length": len(body), "Expect": "100-continue"}
    connection = connect(aws)
    connection.connect()
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    connection.sock.sendall(f"POST / HTTP/1.1\r\n{lines}\r\n".encode())
    assert connection.sock.recv(100).startswith(b"HTTP/1.1 100")
    connection.sock.sendall(body)
    assert connection.sock.recv(100).startswith(b"HTTP/1.1 200")
    connection.close()


def test_a_chunked_body_counts_as_the_signed_one(aws):
    """The real agent sends two of its calls so, without a Content-Length."""
    body = b'{"MaxResults":10}'
    connection = connect(aws)
    connection.request(
        "POST", "/", body=iter([body[:5], body[5:]]), headers=signed(aws, "ssm", headers=LIST, body=body),
        encode_chunked=True,
    )  # fmt: skip
    assert connection.getresponse().status == 200
    connection.close()


def test_a_wildcard_bomb_does_not_stop_ec2(aws):
    ec2 = aws.client("ec2")
    instance = aws.account["instance_ids"][0]
    ec2.create_tags(Resources=[instance], Tags=[{"Key": "bomb", "Value": "a" * 255}])
    assert not ec2.describe_instances(Filters=[{"Name": "tag:bomb", "Values": ["*a" * 100 + "*b"]}])["Reservations"]
    assert is_alive(aws)


def test_bad_tokens_and_filters_are_told(aws):
    ssm, trail = aws.client("ssm"), aws.client("cloudtrail")
    words, huge = (base64.urlsafe_b64encode(text).decode() for text in (b"xx", b"9" * 40))
    for token in (words, huge, "!"):
        assert code_of(ssm.describe_sessions, State="Active", NextToken=token) == "InvalidNextToken"
    bad = [{"key": "InvokedAfter", "value": "yesterday"}]
    assert code_of(ssm.describe_sessions, State="Active", Filters=bad) == "InvalidFilterKey"
    assert code_of(trail.lookup_events, NextToken=words) == "InvalidNextTokenException"
    trail.lookup_events(NextToken=huge)
    assert not trail.lookup_events(LookupAttributes=[{"AttributeKey": "EventId", "AttributeValue": "no id"}])["Events"]


def test_a_body_that_is_not_what_its_digest_says_is_refused(aws):
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="digests", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    other = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    assert code_of(s3.put_object, Bucket="digests", Key="k", Body=b"body", ChecksumSHA256=other) == "BadDigest"
    other = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    assert code_of(s3.put_object, Bucket="digests", Key="k", Body=b"body", ContentMD5=other) == "BadDigest"
    assert "Contents" not in s3.list_objects_v2(Bucket="digests")


def test_a_presigned_url_is_good_for_what_it_says(aws):
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="presigned-more", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    s3.put_object(Bucket="presigned-more", Key="a", Body=b"content of a")
    s3.put_object(Bucket="presigned-more", Key="b", Body=b"content of b")
    context = ssl.create_default_context(cafile=aws.handover["ca_file"])

    def fetch(url, method="GET", data=None) -> bytes:
        try:
            request = urllib.request.Request(url, method=method, data=data)
            with urllib.request.urlopen(request, context=context) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.read()

    url = s3.generate_presigned_url("get_object", Params={"Bucket": "presigned-more", "Key": "a"}, ExpiresIn=60)
    assert fetch(url) == b"content of a"
    for tampered in (url.replace("/a?", "/b?"), url.replace("Expires=60", "Expires=600")):
        assert b"SignatureDoesNotMatch" in fetch(tampered)
    assert b"SignatureDoesNotMatch" in fetch(url, "PUT", b"x")
    url = s3.generate_presigned_url("put_object", Params={"Bucket": "presigned-more", "Key": "c"}, ExpiresIn=60)
    fetch(url, "PUT", b"content of c")
    assert s3.get_object(Bucket="presigned-more", Key="c")["Body"].read() == b"content of c"


def test_what_a_caller_nests_or_repeats_does_not_keep_its_deed_out_of_the_trail(aws):
    nested = b'{"logGroupName":"nested","x":' + b'{"a":' * 900 + b"1" + b"}" * 901
    status, _ = send(aws, "logs", headers=json_headers("Logs_20140328.CreateLogGroup"), body=nested)
    assert status == 200
    found = aws.client("cloudtrail").lookup_events(
        LookupAttributes=[{"AttributeKey": "EventName", "AttributeValue": "CreateLogGroup"}]
    )
    assert any('"nested"' in event["CloudTrailEvent"] for event in found["Events"])
