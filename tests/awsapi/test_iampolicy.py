"""Policies: what is allowed, what is denied, and by which layer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetops.awsapi.iampolicy import Layers, Question, decide, parse, trusts

INSTANCE = "arn:aws:ec2:eu-west-1:111122223333:instance/i-1"


def policy(*statements):
    return {"Version": "2012-10-17", "Statement": list(statements)}


def allow(action="*", resource="*", **more):
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


def deny(action="*", resource="*", **more):
    return {"Effect": "Deny", "Action": action, "Resource": resource, **more}


def answer(*statements, action="ssm:StartSession", resource=INSTANCE, **context):
    values = {key.replace("__", ":").replace("_SLASH_", "/").lower(): value for key, value in context.items()}
    return decide(Layers([policy(*statements)]), Question(action, resource, values))


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        ([], "implicitDeny"),
        ([allow()], "allowed"),
        ([allow("SSM:startsession")], "allowed"),
        ([allow("ssm:Start?ession")], "allowed"),
        ([allow("ssm:Describe*")], "implicitDeny"),
        ([allow(resource=INSTANCE)], "allowed"),
        ([allow(resource="arn:aws:ec2:*:*:instance/*")], "allowed"),
        ([allow(resource="arn:aws:ec2:*:*:instance/i-2")], "implicitDeny"),
        ([allow(), deny(resource=INSTANCE)], "explicitDeny"),
        ([allow(), deny("ec2:*")], "allowed"),
        ([{"Effect": "Allow", "NotAction": "iam:*", "Resource": "*"}], "allowed"),
        ([{"Effect": "Allow", "NotAction": "ssm:*", "Resource": "*"}], "implicitDeny"),
        ([{"Effect": "Allow", "Action": "*", "NotResource": INSTANCE}], "implicitDeny"),
        ([allow(["iam:*", "ssm:*"], ["x", "*"])], "allowed"),
    ],
)
def test_a_statement_allows_by_action_and_resource(statements, expected):
    assert answer(*statements) == expected


NOW = ["2026-11-25T00:00:00+00:00"]
CONDITIONS = [
    ({"StringEquals": {"ssm:resourceTag/Env": "dev"}}, {"ssm:resourcetag/env": ["dev"]}, True),
    ({"StringEquals": {"ssm:resourceTag/Env": "dev"}}, {"ssm:resourcetag/env": ["prod"]}, False),
    ({"StringEquals": {"ssm:resourceTag/Env": "dev"}}, {}, False),
    ({"StringEqualsIfExists": {"ssm:resourceTag/Env": "dev"}}, {}, True),
    ({"StringNotEquals": {"a:b": "x"}}, {}, True),
    ({"StringNotEquals": {"a:b": ["x", "y"]}}, {"a:b": ["y"]}, False),
    ({"StringLike": {"a:b": "pay-*"}}, {"a:b": ["pay-api"]}, True),
    ({"Bool": {"aws:MultiFactorAuthPresent": "false"}}, {}, False),
    ({"BoolIfExists": {"aws:MultiFactorAuthPresent": "true"}}, {}, True),
    ({"Bool": {"aws:SecureTransport": True}}, {"aws:securetransport": ["true"]}, True),
    ({"Null": {"aws:TokenIssueTime": "true"}}, {}, True),
    ({"Null": {"aws:TokenIssueTime": "false"}}, {}, False),
    ({"DateLessThan": {"aws:CurrentTime": "2026-12-01T00:00:00Z"}}, {"aws:currenttime": NOW}, True),
    ({"DateLessThan": {"aws:CurrentTime": "2026-11-01T00:00:00Z"}}, {"aws:currenttime": NOW}, False),
    ({"NumericLessThanEquals": {"a:b": "5"}}, {"a:b": ["5"]}, True),
    ({"NumericLessThan": {"a:b": "5"}}, {"a:b": ["x"]}, False),
    ({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, {"aws:sourceip": ["10.1.2.3"]}, True),
    ({"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, {"aws:sourceip": ["10.1.2.3"]}, False),
    ({"ArnLike": {"a:b": "arn:aws:iam::*:role/ops-*"}}, {"a:b": ["arn:aws:iam::1:role/ops-a"]}, True),
    ({"ForAllValues:StringEquals": {"aws:TagKeys": ["a", "b"]}}, {"aws:tagkeys": ["a"]}, True),
    ({"ForAllValues:StringEquals": {"aws:TagKeys": ["a", "b"]}}, {"aws:tagkeys": ["a", "c"]}, False),
    ({"ForAnyValue:StringEquals": {"aws:TagKeys": ["a"]}}, {"aws:tagkeys": ["c", "a"]}, True),
    ({"ForAnyValue:StringEquals": {"aws:TagKeys": ["a"]}}, {}, False),
    ({"StringEquals": {"a:b": "${aws:username}"}}, {"a:b": ["maria"], "aws:username": ["maria"]}, True),
    ({"StringEquals": {"a:b": "${aws:username}"}}, {"a:b": ["maria"]}, False),
    ({"Unheard": {"a:b": "x"}}, {"a:b": ["x"]}, False),
]  # fmt: skip


@pytest.mark.parametrize(("condition", "context", "holds"), CONDITIONS)
def test_a_condition_decides(condition, context, holds):
    layers = Layers([policy(allow(Condition=condition))])
    assert (decide(layers, Question("ssm:StartSession", INSTANCE, context)) == "allowed") is holds


def test_a_boundary_and_a_session_policy_must_allow_too():
    everything, ec2_only = policy(allow()), policy(allow("ec2:*"))
    question = Question("ssm:StartSession", INSTANCE)
    assert decide(Layers([everything], boundary=ec2_only), question) == "implicitDeny"
    assert decide(Layers([everything], session=[ec2_only]), question) == "implicitDeny"
    assert decide(Layers([everything], everything, [everything]), question) == "allowed"
    assert decide(Layers([everything], session=[policy(deny())]), question) == "explicitDeny"


def test_a_resource_may_name_the_caller():
    mine = allow(resource="arn:aws:ssm:*:*:session/${aws:username}-*")
    layers = Layers([policy(mine)])
    context = {"aws:username": ["maria"]}
    arn = "arn:aws:ssm:eu-west-1:1:session/"
    assert decide(layers, Question("ssm:ResumeSession", arn + "maria-0a", context)) == "allowed"
    assert decide(layers, Question("ssm:ResumeSession", arn + "kofi-0a", context)) == "implicitDeny"
    assert decide(layers, Question("ssm:ResumeSession", arn + "maria-0a")) == "implicitDeny"


USER = "arn:aws:iam::111122223333:user/maria"


@pytest.mark.parametrize(
    ("principal", "names", "expected"),
    [
        ({"AWS": USER}, [USER], True),
        ({"AWS": [USER, "x"]}, [USER], True),
        ({"AWS": "arn:aws:iam::111122223333:user/kofi"}, [USER], False),
        ({"AWS": "111122223333"}, [USER, "111122223333"], True),
        ({"Service": "ec2.amazonaws.com"}, [USER], False),
        ("*", [USER], True),
        ({"AWS": "*"}, [USER], True),
    ],
)
def test_a_trust_policy_names_who_may_come(principal, names, expected):
    document = policy({"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"})
    assert trusts(document, names, "sts:AssumeRole", {}) is expected
    assert trusts(document, names, "sts:TagSession", {}) is False


def test_an_external_id_can_be_demanded():
    condition = {"StringEquals": {"sts:ExternalId": "42"}}
    statement = {"Effect": "Allow", "Principal": "*", "Action": "sts:AssumeRole", "Condition": condition}
    assert trusts(policy(statement), [USER], "sts:AssumeRole", {"sts:externalid": ["42"]})
    assert not trusts(policy(statement), [USER], "sts:AssumeRole", {})


@given(
    st.recursive(
        st.none() | st.text(max_size=8) | st.integers(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["Statement", "Effect", "Action", "Resource", "Condition", "StringEquals"]),
                inner,
                max_size=4,
            )
        ),
    )
)
def test_a_policy_of_any_shape_allows_nothing_by_accident(document):
    import json

    parsed = parse(json.dumps(document))
    assert decide(Layers([parsed]), Question("ssm:StartSession", INSTANCE)) in {"implicitDeny", "explicitDeny"}
