"""Filter patterns of CloudWatch Logs, by the examples of AWS's guide."""

import pytest

from fleetops.awsapi.errors import ApiError
from fleetops.awsapi.logpattern import compile_pattern

LINES = [
    "[ERROR 400] BAD REQUEST",
    "[ERROR 401] UNAUTHORIZED REQUEST",
    "[ERROR 419] MISSING ARGUMENTS",
    "[ERROR 420] INVALID ARGUMENTS",
    "[WARN] not found: INTERNAL SERVER ERROR",
]
EVENT = (
    '{"level": "ERROR", "code": 503, "ok": false, "gone": null, "user": {"name": "maria.k", "tags": ["a", "b"]},'
    ' "host": "web-7"}'
)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("", [0, 1, 2, 3, 4]),
        ("ERROR", [0, 1, 2, 3, 4]),
        ("error", []),
        ("ERROR ARGUMENTS", [2, 3]),
        ('"INTERNAL SERVER ERROR"', [4]),
        ("?REQUEST ?WARN", [0, 1, 4]),
        ("ERROR -ARGUMENTS", [0, 1, 4]),
        ('ERROR -"BAD REQUEST" -WARN', [1, 2, 3]),
        ("?MISSING REQUEST", [0, 1]),  # beside another term, AWS ignores the ones with a question mark
        ("%4[012]0%", [0, 3]),
        ("%^.WARN%", [4]),
        ("{ $.level = ERROR }", []),
    ],
)
def test_terms_choose_lines(pattern, found):
    matches = compile_pattern(pattern)
    assert [number for number, line in enumerate(LINES) if matches(line)] == found


@pytest.mark.parametrize(
    ("pattern", "is_found"),
    [
        ('{ $.level = "ERROR" }', True),
        ('{ $.level = "WARN" }', False),
        ('{ $.level != "WARN" }', True),
        ('{ $.absent != "WARN" }', False),
        ('{ $.user.name = "maria*" }', True),
        ('{ $.user.tags[1] = "b" }', True),
        ('{ $.user.tags[7] = "b" }', False),
        ("{ $.code >= 500 && $.code < 504 }", True),
        ("{ $.code = 503 }", True),
        ('{ $.code > 600 || ($.level = "ERROR" && $.host = %web-[0-9]%) }', True),
        ("{ $.ok IS FALSE }", True),
        ("{ $.ok IS TRUE }", False),
        ("{ $.gone IS NULL }", True),
        ("{ $.absent NOT EXISTS }", True),
        ("{ $.gone NOT EXISTS }", False),
        ('{ $[0] = "x" }', False),
    ],
)
def test_conditions_choose_events_in_json(pattern, is_found):
    matches = compile_pattern(pattern)
    assert matches(EVENT) is is_found
    assert not matches("no JSON, level = ERROR")


@pytest.mark.parametrize(
    "pattern",
    [
        "{ $.level = }",
        "{ level = 1 }",
        '{ $.a = "b" ',
        "{ ($.a = 1 }",
        '{ $.a > "b" }',
        '"unended',
        "%[%",
        "%(a+)+%",
        "a:b",
        "{" + "(" * 30 + "$.a = 1" + ")" * 30 + "}",
    ],
)
def test_what_cannot_be_read_is_refused_as_aws_does(pattern):
    with pytest.raises(ApiError) as caught:
        compile_pattern(pattern)
    assert caught.value.code == "InvalidParameterException"


def test_what_aws_knows_and_we_do_not_is_said():
    with pytest.raises(ApiError) as caught:
        compile_pattern("[ip, user, status = 5*]")
    assert caught.value.code == "NotImplemented"


def test_an_expression_that_never_ends_is_stopped():
    with pytest.raises(ApiError, match="takes too long"):
        compile_pattern("%a+a+a+a+a+a+[bc]d%")("a" * 3_000)
