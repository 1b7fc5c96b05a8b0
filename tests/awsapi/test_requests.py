"""What botocore's own serializer writes is what we read, whatever the operation; what somebody changed is refused."""

import math
import re
import string
from datetime import UTC, datetime
from functools import cache
from urllib.parse import parse_qsl, quote, urlencode

import pytest
from botocore.awsrequest import prepare_request_dict
from botocore.model import ListShape, MapShape, StructureShape
from botocore.serialize import create_serializer
from hypothesis import HealthCheck, assume, given, settings
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
