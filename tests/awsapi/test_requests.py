"""What botocore's own serializer writes is what we read, whatever the operation; what somebody changed is refused."""

import math
import random
import string
from datetime import UTC, datetime
from functools import cache
from urllib.parse import urlencode

import pytest
from botocore.awsrequest import prepare_request_dict
from botocore.model import ListShape, MapShape, StructureShape
from botocore.parsers import create_parser
from botocore.serialize import create_serializer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetops.awsapi import checks, query, rest
from fleetops.awsapi.errors import ApiError, render
from fleetops.awsapi.models import Service, _loader, service

# Services that the endpoint offers, and others for what theirs do not have: maps in queries, greedy labels, documents.
OTHERS = ["autoscaling", "cloudformation", "route53", "cloudfront", "lambda", "apigateway", "batch", "glacier"]
OFFERED = ["iam", "sts", "sns", "ec2", "securityhub", "s3"]


@cache
def any_service(name: str) -> Service:
    if name in OFFERED:
        return service(name)
    from botocore.model import ServiceModel

    return Service(name, ServiceModel(_loader().load_service_model(name, "service-2"), name))


def operations(names):
    return [(name, operation) for name in names for operation in sorted(any_service(name).operations)]


# --- Valid parameters of any operation ------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"))
WORD = st.text(string.ascii_letters + string.digits + "-", min_size=1, max_size=12)
MOMENTS = st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)).map(
    lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
)


def values(shape, *, depth: int, narrow: bool = False):
    """Values of a shape; `narrow` for what a path or header holds."""
    if getattr(shape, "is_document_type", False):
        return st.just({"any": ["thing", 1]})
    if isinstance(shape, StructureShape):
        return structures(shape, depth=depth)
    if isinstance(shape, ListShape):
        return st.lists(values(shape.member, depth=depth - 1, narrow=narrow), min_size=1, max_size=3)
    if isinstance(shape, MapShape):
        return st.dictionaries(WORD.map(str.lower), values(shape.value, depth=depth - 1), min_size=1, max_size=2)
    kind = shape.type_name
    if kind == "integer":
        return st.integers(-(2**31), 2**31 - 1)
    if kind == "long":
        return st.integers(-(2**53), 2**53)
    if kind in {"float", "double"}:
        return st.floats(-1e6, 1e6, width=32).map(float)
    if kind == "boolean":
        return st.booleans()
    if kind == "timestamp":
        return MOMENTS
    if kind == "blob":
        return st.binary(max_size=30)
    return WORD if narrow else TEXT.filter(lambda text: text == text.strip())


def structures(shape, *, depth: int):
    fixed, optional = {}, {}
    for name, member in shape.members.items():
        location = member.serialization.get("location")
        deep = isinstance(member, StructureShape | ListShape | MapShape)
        if member.serialization.get("jsonvalue") or member.serialization.get("eventstream") or (deep and depth <= 0):
            continue
        strategy = values(member, depth=depth - 1, narrow=location in {"uri", "header", "headers", "querystring"})
        if name == shape.serialization.get("payload") and member.type_name == "string":
            strategy = WORD  # an empty body is none
        (fixed if name in shape.required_members else optional)[name] = strategy
    chosen = st.fixed_dictionaries(fixed, optional=dict(list(optional.items())[:40]))
    return chosen if fixed or optional else st.just({})


def pruned(value):
    """Without empty structures and bodies, which no form and no query can say."""
    if isinstance(value, dict):
        held = {key: pruned(item) for key, item in value.items()}
        return {key: item for key, item in held.items() if item not in ({}, [], b"")}
    if isinstance(value, list):
        return [pruned(item) for item in value if pruned(item) not in ({}, [])]
    return value


def is_same(left, right) -> bool:
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(is_same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(is_same(*pair) for pair in zip(left, right, strict=True))
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=1e-6)
    return left == right


def written(target: Service, operation, parameters):
    """A request as botocore sends it: path, query, headers, body."""
    serialized = create_serializer(target.protocol, False).serialize_to_request(parameters, operation)
    prepare_request_dict(serialized, "https://host.example")
    path, _, query_string = serialized["url"].removeprefix("https://host.example").partition("?")
    body = serialized["body"]
    if isinstance(body, dict):
        body = urlencode(body).encode()
    headers = [(name.lower(), str(value)) for name, value in serialized["headers"].items()]
    return path, query_string, headers, body or b""


def read(target: Service, operation, path, query_string, headers, body):
    if target.protocol in {"query", "ec2"}:
        return query.parse(operation, query.read_form(body, query_string), ec2=target.protocol == "ec2")
    return rest.parse(operation, rest.RestRequest(path, query_string, headers, body))


# One element stands for two members: which of them was meant cannot be read back.
TWO_READINGS = {"PutBucketNotification"}
ROUND_TRIP = settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def round_trip(name, operation_name):
    """Write and read some random parameters of one operation."""
    target = any_service(name)
    operation = target.operation(operation_name)
    shape = operation.input_shape

    @ROUND_TRIP
    @given(structures(shape, depth=4) if shape is not None else st.just({}))
    def check(parameters):
        request = written(target, operation, parameters)
        found = read(target, operation, *request)
        assert is_same(pruned(found), pruned(parameters)), (operation_name, found, request)

    check()


@pytest.mark.parametrize("name", [*OFFERED, *OTHERS])
def test_what_botocore_writes_is_read_back(name):
    for operation_name in sorted(any_service(name).operations - TWO_READINGS):
        round_trip(name, operation_name)


# --- Changed requests -----------------------------------------------------------------------------------------------

JUNK = ["", "x", "-1", "99999999999999999999", "1_0", "²", "true", "\x00", "%", "{}", "[1]", "<a/>", "é" * 300, "NaN"]


def mutated(request, chance: random.Random):
    """A request of which some part is another one: a field dropped, renamed or filled with junk, a body cut or bent."""
    path, query_string, headers, body = request
    for _ in range(chance.randint(1, 3)):
        way = chance.randrange(7)
        if way == 0 and body:
            at = chance.randrange(len(body))
            body = body[:at] + chance.choice([b"", b"<", b"}", b"[", b"=", b".", b"&", b"\xff"]) + body[at + 1 :]
        elif way == 1 and body:
            body = body[: chance.randrange(len(body))]
        elif way == 2 and body:
            words = body.split(b"&") if b"=" in body else [body]
            at = chance.randrange(len(words))
            key = words[at].partition(b"=")[0]
            words[at] = key + chance.choice([b"", b".1", b".member.1", b".entry.x", b".x.y"]) + b"="
            words[at] += urlencode({"": chance.choice(JUNK)}).encode()[1:]
            body = b"&".join(words)
        elif way == 3:
            query_string += "&" + urlencode(
                {chance.choice(["maxResults", "max-keys", "uploadId", "x"]): chance.choice(JUNK)}
            )
        elif way == 4 and headers:
            at = chance.randrange(len(headers))
            headers = [*headers[:at], (headers[at][0], chance.choice(JUNK)), *headers[at + 1 :]]
        elif way == 5:
            path += chance.choice(["/", "//", "%2F", "/x", "%"])
        elif way == 6 and body[:1] == b"{":
            body = body.replace(b'"', b"", 1) if chance.random() < 0.3 else _re_typed(body, chance)
    return path, query_string, headers, body


def _re_typed(body: bytes, chance: random.Random) -> bytes:
    """JSON with a value of another kind somewhere."""
    places = [at for at in range(len(body)) if body[at : at + 2] == b": "]
    if not places:
        return b"[]"
    at = chance.choice(places) + 2
    end = next((n for n in range(at, len(body)) if body[n] in b",}"), len(body))
    return body[:at] + chance.choice([b"null", b"5", b"true", b"[]", b"{}", b'"x"', b"1e400"]) + body[end:]


def refusals(name, operation_name) -> int:
    """How many of some changed requests of one operation are refused, each in a known code that botocore reads."""
    target = service(name)
    operation = target.operation(operation_name)
    shape = operation.input_shape
    codes = []

    @settings(ROUND_TRIP, max_examples=4)
    @given(structures(shape, depth=3), st.randoms(use_true_random=False))
    def check(parameters, chance):
        request = mutated(written(target, operation, parameters), chance)
        try:
            checks.check(name, target.protocol, operation, read(target, operation, *request))
        except ApiError as error:
            codes.append(error.code)
            assert error.code in REFUSALS[target.protocol], error
            status, _, body = render(error, target.protocol, "r")
            headers = {"x-amzn-errortype": error.code}
            answer = {"status_code": status, "headers": headers, "body": body}
            assert 400 <= status < 500
            assert create_parser(target.protocol).parse(answer, shape)["Error"]["Code"] == error.code

    check()
    return len(codes)


@pytest.mark.parametrize("name", OFFERED)
def test_a_changed_request_is_read_or_refused_in_awss_words(name):
    target = service(name)
    with_input = [key for key in sorted(target.operations) if target.operation(key).input_shape is not None]
    assert sum(refusals(name, key) for key in with_input) > len(with_input) / 2


REFUSALS = {
    "query": {"ValidationError", "InvalidParameter", "MalformedInput", "MalformedQueryString"},
    "ec2": {"MissingParameter", "InvalidParameterValue", "UnknownParameter", "MalformedQueryString"},
    "rest-json": {"SerializationException", "InvalidInputException", "InvalidArgument"},
    "rest-xml": {
        "MalformedXML",
        "InvalidArgument",
        "MissingRequestBodyError",
        "InvalidStorageClass",
        "InvalidEncryptionAlgorithmError",
    },
}


# --- What each service says -----------------------------------------------------------------------------------------


def refusal(name, operation_name, *, path="/", fields="", headers=(), body=b""):
    target = service(name)
    operation = target.operation(operation_name)
    with pytest.raises(ApiError) as caught:
        checks.check(name, target.protocol, operation, read(target, operation, path, fields, headers, body))
    return caught.value


@pytest.mark.parametrize(
    ("name", "operation", "form", "code", "words"),
    [
        ("iam", "CreateUser", "", "ValidationError", "'null' at 'userName' failed to satisfy constraint"),
        ("iam", "CreateUser", "UserName=" + "u" * 65, "ValidationError", "length less than or equal to 64"),
        ("iam", "CreateUser", "UserName=a b", "ValidationError", "must satisfy regular expression pattern"),
        ("iam", "ListUsers", "MaxItems=1001", "ValidationError", "value less than or equal to 1000"),
        ("iam", "ListUsers", "MaxItems=many", "MalformedInput", "MaxItems"),
        ("iam", "ListEntitiesForPolicy", "PolicyArn=" + "a" * 20 + "&EntityFilter=X", "ValidationError", "enum value"),
        ("iam", "TagRole", "RoleName=r&Tags.member.x.Key=k", "MalformedInput", "Tags.x"),
        ("iam", "TagRole", "RoleName=r&Tags=k", "MalformedInput", "Tags"),
        ("sns", "Subscribe", "TopicArn=a", "InvalidParameter", "Protocol Reason: no value for required parameter"),
        ("ec2", "RunInstances", "MinCount=1", "MissingParameter", "must contain the parameter MaxCount"),
        ("ec2", "RunInstances", "MinCount=one&MaxCount=1", "InvalidParameterValue", "MinCount"),
        ("ec2", "RunInstances", "MinCount=1&MaxCount=1&InstanceType=t9.big", "InvalidParameterValue", "'t9.big'"),
        ("ec2", "RunInstances", "MinCount=1&MaxCount=1&Colour=red", "UnknownParameter", "parameter Colour is not"),
        ("ec2", "DescribeInstances", "Filter.1.Nome=x", "UnknownParameter", "Filter.1.Nome"),
        ("ec2", "DescribeInstances", "InstanceId.x=i-1", "UnknownParameter", "InstanceId.x"),
        ("ec2", "DescribeInstances", "InstanceId=i-1", "InvalidParameterValue", "InstanceId"),
        ("ec2", "DescribeInstances", "MaxResults=1.5", "InvalidParameterValue", "MaxResults"),
    ],
)
def test_a_form_is_refused_in_the_services_words(name, operation, form, code, words):
    error = refusal(name, operation, body=form.encode())
    assert (error.code, error.status) == (code, 400)
    assert words in error.message


def test_ec2_tells_a_number_out_of_range():
    error = refusal("ec2", "DescribeVpcs", body=b"MaxResults=4")
    assert error.code == "InvalidParameterValue"
    assert error.message.startswith("Value ( 4 ) for parameter maxResults is invalid. Expecting a value greater than 5")


@pytest.mark.parametrize(
    ("operation", "how", "code"),
    [
        ("CreateBucket", {"path": "/b", "headers": [("x-amz-acl", "everybody")]}, "InvalidArgument"),
        ("PutObject", {"path": "/b/k", "headers": [("x-amz-storage-class", "COLD")]}, "InvalidStorageClass"),
        ("PutObject", {"path": "/b/k", "headers": [("expires", "soon")]}, "InvalidArgument"),
        ("ListObjectsV2", {"path": "/b", "fields": "list-type=2&max-keys=all"}, "InvalidArgument"),
        ("ListObjectsV2", {"path": "/b", "fields": "list-type=2&encoding-type=x"}, "InvalidArgument"),
        ("PutBucketVersioning", {"path": "/b", "fields": "versioning"}, "MissingRequestBodyError"),
        ("PutBucketVersioning", {"path": "/b", "body": b"<Versioning/>"}, "MalformedXML"),
        (
            "PutBucketVersioning",
            {"path": "/b", "body": b"<VersioningConfiguration><Status>On</Status></VersioningConfiguration>"},
            "MalformedXML",
        ),
        ("DeleteObjects", {"path": "/b", "body": b"<Delete><Object/></Delete>"}, "MalformedXML"),
        ("DeleteObjects", {"path": "/b", "body": b"<Delete><Thing/></Delete>"}, "MalformedXML"),
        (
            "DeleteObjects",
            {"path": "/b", "body": b"<Delete>" + b"<a>" * 90 + b"</a>" * 90 + b"</Delete>"},
            "MalformedXML",
        ),
        ("DeleteObjects", {"path": "/b", "body": b"<!DOCTYPE a><Delete/>"}, "MalformedXML"),
        ("DeleteObjects", {"path": "/b", "body": b"<Delete>" + b"<Object/>" * 100_000 + b"</Delete>"}, "MalformedXML"),
    ],
)
def test_s3_refuses_in_its_own_codes(operation, how, code):
    assert refusal("s3", operation, **how).code == code


@pytest.mark.parametrize(
    ("operation", "how", "code", "words"),
    [
        ("GetFindings", {"body": b'{"MaxResults":101}'}, "InvalidInputException", "less than or equal to 100"),
        ("GetFindings", {"body": b'{"MaxResults":"1"}'}, "SerializationException", "maxResults"),
        ("GetFindings", {"body": b'{"Filters":[]}'}, "SerializationException", "Filters"),
        ("GetFindings", {"body": b"{"}, "SerializationException", "not JSON"),
        ("BatchImportFindings", {"body": b"{}"}, "InvalidInputException", "'findings'"),
        ("ListMembers", {"path": "/members", "fields": "OnlyAssociated=perhaps"}, "SerializationException", "perhaps"),
    ],
)
def test_security_hub_refuses_in_its_own_codes(operation, how, code, words):
    error = refusal("securityhub", operation, **how)
    assert error.code == code
    assert words in error.message


def test_an_objects_bytes_are_handed_on_as_they_are():
    body = b"x" * 1000
    put = service("s3").operation("PutObject")
    headers = [("x-amz-meta-a", "1"), ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER")]
    found = rest.parse(put, rest.RestRequest("/b/a%20b/c", "", headers, body))
    assert found["Body"] is body
    assert (found["Bucket"], found["Key"], found["Metadata"]) == ("b", "a b/c", {"a": "1"})


@pytest.mark.parametrize(
    ("host", "path", "told"),
    [
        ("records.s3.eu-west-1.amazonaws.com", "/a%20b", "/records/a%20b"),
        ("records.s3.amazonaws.com", "/", "/records/"),
        ("my.records.localhost:8443", "/k", "/my.records/k"),
        ("Records.localhost", "/k", "/records/k"),
        ("s3.eu-west-1.amazonaws.com", "/records/k", "/records/k"),
        ("s3.localhost:8443", "/records/k", "/records/k"),
        ("localhost:8443", "/records/k", "/records/k"),
        ("127.0.0.1:8443", "/records/k", "/records/k"),
    ],
)
def test_a_bucket_may_stand_in_the_host(host, path, told):
    assert rest.resource_path(path, host, is_s3=True) == told
    assert rest.resource_path(path, host, is_s3=False) == path


def test_a_slash_within_a_label_is_no_end_of_it():
    hub = service("securityhub")
    arn = "arn:aws:securityhub:eu-west-1:111122223333:hub/default"
    path = "/tags/arn%3Aaws%3Asecurityhub%3Aeu-west-1%3A111122223333%3Ahub%2Fdefault"
    assert hub.match_rest("GET", path, {}, set()) == "ListTagsForResource"
    found = rest.parse(hub.operation("ListTagsForResource"), rest.RestRequest(path, "", [], b""))
    assert found == {"ResourceArn": arn}


def test_a_signature_in_the_url_is_no_parameter():
    form = query.read_form(b"", "Action=DescribeVpcs&Version=2016-11-15&X-Amz-Signature=0&X-Amz-Security-Token=t")
    assert query.parse(service("ec2").operation("DescribeVpcs"), form, ec2=True) == {}
    assert "X-Amz-Security-Token" not in form


@pytest.mark.parametrize("name", OFFERED)
def test_every_shape_compiles(name):
    target = service(name)
    for operation_name in sorted(target.operations):
        if (shape := target.operation(operation_name).input_shape) is not None:
            checks._codec._checker(shape)
