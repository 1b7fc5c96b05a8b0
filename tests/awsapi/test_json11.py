"""JSON 1.1 by botocore's models: what is refused, and in which words."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetops.awsapi.errors import ApiError
from fleetops.awsapi.json11 import Codec, dump
from fleetops.awsapi.models import service

CODEC = Codec()
SSM = service("ssm")


def parse(operation: str, **parameters):
    return CODEC.parse(SSM.operation(operation), json.dumps(parameters).encode())


def refused(operation: str, **parameters) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(operation, **parameters)
    return caught.value


def test_a_good_request_comes_back_without_members_that_nobody_knows():
    assert parse("StartSession", Target="i-1", Reason="x", Colour="red") == {"Target": "i-1", "Reason": "x"}


@pytest.mark.parametrize(
    ("operation", "parameters", "words"),
    [
        ("StartSession", {}, "Value 'null' at 'target' failed to satisfy constraint: Member must not be null"),
        (
            "DescribeInstanceInformation",
            {"MaxResults": 51},
            "Value '51' at 'maxResults' failed to satisfy constraint: Member must have value less than or equal to 50",
        ),
        ("StartSession", {"Target": "i-1", "Reason": "r" * 257}, "Member must have length less than or equal to 256"),
        ("StartSession", {"Target": "i-1", "DocumentName": "a b"}, "Member must satisfy regular expression pattern: "),
        ("DescribeSessions", {"State": "Open"}, "Member must satisfy enum value set: [Active, History]"),
        (
            "DescribeInstanceInformation",
            {"Filters": [{"Key": "x", "Values": []}]},
            "at 'filters.1.member.values' failed",
        ),
    ],
)
def test_a_broken_constraint_is_told_in_awss_words(operation, parameters, words):
    error = refused(operation, **parameters)
    assert error.code == "ValidationException"
    assert re.match(r"\d validation errors? detected: ", error.message)
    assert words in error.message


def test_all_failures_are_told_at_once():
    error = refused("StartSession", Target="", DocumentName="!", Reason="r" * 300)
    assert error.message.startswith("4 validation errors detected: ") or error.message.startswith("3 validation")
    assert error.message.count("; ") >= 2


@pytest.mark.parametrize("value", [5, True, [], {}])
def test_a_value_of_another_kind_is_a_serialization_exception(value):
    assert refused("StartSession", Target=value).code == "SerializationException"


@given(st.binary(max_size=60))
def test_no_body_does_more_than_be_refused(body):
    try:
        CODEC.parse(SSM.operation("StartSession"), body)
    except ApiError as error:
        assert error.code in {"SerializationException", "ValidationException"}


def test_every_shape_of_ssm_compiles():
    for name in sorted(SSM.operations):
        shape = SSM.operation(name).input_shape
        if shape is not None:
            CODEC._checker(shape)


def test_moments_are_written_as_seconds_and_nothing_as_nothing():
    from datetime import UTC, datetime

    written = dump({"A": datetime(2026, 11, 25, 12, tzinfo=UTC), "B": None, "C": [{"D": None, "E": 1}]})
    assert json.loads(written) == {"A": 1795608000.0, "C": [{"E": 1}]}
