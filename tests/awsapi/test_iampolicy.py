"""Policies: what is allowed, what is denied, and by which layer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetops.awsapi.iampolicy import (
    Caller,
    Layers,
    Owned,
    Question,
    context_keys,
    decide,
    evaluate,
    grant,
    missing_keys,
    parse,
    trusts,
)

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
    ({"StringNotLike": {"a:b": "pay-*"}}, {"a:b": ["pay-api"]}, False),
    ({"StringNotLike": {"a:b": "pay-*"}}, {"a:b": ["web"]}, True),
    ({"StringEqualsIgnoreCase": {"a:b": "Dev"}}, {"a:b": ["dEV"]}, True),
    ({"StringNotEqualsIfExists": {"a:b": "x"}}, {"a:b": ["x"]}, False),
    ({"ForAllValues:StringEquals": {"aws:TagKeys": ["a"]}}, {}, True),
    ({"ForAllValues:StringLike": {"aws:TagKeys": ["a*"]}}, {"aws:tagkeys": ["a1", "a2"]}, True),
    ({"ForAnyValue:StringNotEquals": {"aws:TagKeys": ["a"]}}, {"aws:tagkeys": ["a", "b"]}, True),
    ({"ForAllValues:StringNotEquals": {"aws:TagKeys": ["a"]}}, {"aws:tagkeys": ["a", "b"]}, False),
    ({"ArnNotLike": {"a:b": "arn:aws:iam::*:role/ops-*"}}, {"a:b": ["arn:aws:iam::1:role/ops-a"]}, False),
    ({"ArnLike": {"a:b": "arn:aws:iam::*:role/ops"}}, {"a:b": ["arn:aws:iam::1:2:role/ops"]}, False),
    ({"DateGreaterThan": {"aws:CurrentTime": "1700000000"}}, {"aws:currenttime": NOW}, True),
    ({"DateGreaterThan": {"aws:EpochTime": "2020-01-01T00:00:00Z"}}, {"aws:epochtime": ["1700000000"]}, True),
    ({"DateLessThan": {"aws:CurrentTime": "never"}}, {"aws:currenttime": NOW}, False),
    ({"NumericGreaterThan": {"a:b": "5"}, "NumericLessThan": {"a:b": "7"}}, {"a:b": ["6"]}, True),
    ({"NumericGreaterThan": {"a:b": "5"}, "NumericLessThan": {"a:b": "7"}}, {"a:b": ["8"]}, False),
    ({"NumericNotEquals": {"a:b": "5"}}, {"a:b": ["5.0"]}, False),
    ({"BinaryEquals": {"a:b": "QQ=="}}, {"a:b": ["QQ=="]}, True),
    ({"IpAddress": {"aws:SourceIp": "2001:db8::/32"}}, {"aws:sourceip": ["2001:db8::1"]}, True),
    ({"IpAddress": {"aws:SourceIp": ["10.0.0.0/8", "127.0.0.1"]}}, {"aws:sourceip": ["127.0.0.1"]}, True),
    ({"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, {"aws:sourceip": ["2001:db8::1"]}, True),
    ({"Null": {"a:b": "true"}, "StringEquals": {"c:d": "x"}}, {"c:d": ["x"]}, True),
    ({"Null": {"a:b": "true"}, "StringEquals": {"c:d": "x"}}, {"a:b": ["1"], "c:d": ["x"]}, False),
    ("not a block", {}, False),
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
ROOT = "arn:aws:iam::111122223333:root"
ROLE = "arn:aws:iam::111122223333:role/ops"
SESSION = "arn:aws:sts::111122223333:assumed-role/ops/maria"
MARIA = Caller(USER, "111122223333")
AS_OPS = Caller(SESSION, "111122223333", ROLE)


@pytest.mark.parametrize(
    ("principal", "caller", "expected"),
    [
        ({"AWS": USER}, MARIA, "direct"),
        ({"AWS": [USER, "x"]}, MARIA, "direct"),
        ({"AWS": "arn:aws:iam::111122223333:user/kofi"}, MARIA, ""),
        ({"AWS": "111122223333"}, MARIA, "delegated"),
        ({"AWS": ROOT}, AS_OPS, "delegated"),
        ({"AWS": "444455556666"}, MARIA, ""),
        ({"AWS": ROLE}, AS_OPS, "limited"),
        ({"AWS": SESSION}, AS_OPS, "direct"),
        ({"Service": "ec2.amazonaws.com"}, MARIA, ""),
        ({"Service": USER}, MARIA, ""),
        ({"AWS": "ec2.amazonaws.com"}, Caller("", service="ec2.amazonaws.com"), ""),
        ({"Service": ["ssm.amazonaws.com", "ec2.amazonaws.com"]}, Caller("", service="ec2.amazonaws.com"), "direct"),
        ({"AWS": "*"}, Caller("", service="ec2.amazonaws.com"), ""),
        ("*", MARIA, "limited"),
        ({"AWS": "*"}, MARIA, "limited"),
        ([], MARIA, ""),
    ],
)
def test_a_trust_policy_names_who_may_come(principal, caller, expected):
    document = policy({"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"})
    assert grant(document, caller, "sts:AssumeRole", {}) == expected
    assert grant(document, caller, "sts:TagSession", {}) == ""
    denying = {"Effect": "Deny", "Principal": principal, "Action": "sts:*"}
    everybody = {"Effect": "Allow", "Principal": {"AWS": [USER, SESSION]}, "Action": "sts:*"}
    assert grant(policy(everybody, denying), caller, "sts:AssumeRole", {}) == (
        "denied" if expected else grant(policy(everybody), caller, "sts:AssumeRole", {})
    )


def test_a_deny_of_one_user_holds_where_the_account_is_trusted():
    allowing = {"Effect": "Allow", "Principal": {"AWS": ROOT}, "Action": "sts:AssumeRole"}
    denying = {"Effect": "Deny", "Principal": {"AWS": USER}, "Action": "sts:AssumeRole"}
    assert grant(policy(allowing, denying), MARIA, "sts:AssumeRole", {}) == "denied"
    assert grant(policy(allowing, denying), AS_OPS, "sts:AssumeRole", {}) == "delegated"
    but_me = {"Effect": "Deny", "NotPrincipal": {"AWS": USER}, "Action": "sts:AssumeRole"}
    assert grant(policy(allowing, but_me), MARIA, "sts:AssumeRole", {}) == "delegated"
    assert grant(policy(allowing, but_me), AS_OPS, "sts:AssumeRole", {}) == "denied"


def test_an_external_id_can_be_demanded():
    condition = {"StringEquals": {"sts:ExternalId": "42"}}
    statement = {"Effect": "Allow", "Principal": "*", "Action": "sts:AssumeRole", "Condition": condition}
    assert grant(policy(statement), MARIA, "sts:AssumeRole", {"sts:externalid": ["42"]})
    assert not grant(policy(statement), MARIA, "sts:AssumeRole", {})


def test_a_service_is_trusted_by_its_name_alone():
    document = policy({"Effect": "Allow", "Principal": {"Service": "ssm.amazonaws.com"}, "Action": "sts:AssumeRole"})
    assert trusts(document, "ssm.amazonaws.com", "sts:AssumeRole")
    assert not trusts(document, "ec2.amazonaws.com", "sts:AssumeRole")


# --- variables ---


def test_nobody_widens_a_policy_by_what_they_are_called():
    mine = allow(resource="arn:aws:s3:::home/${aws:PrincipalTag/team}/*")
    layers = Layers([policy(mine)])

    def may(team, key):
        question = Question("s3:GetObject", f"arn:aws:s3:::home/{key}", {"aws:principaltag/team": [team]})
        return decide(layers, question) == "allowed"

    assert may("pay", "pay/x") and not may("pay", "data/x")
    assert not may("*", "pay/x") and may("*", "*/x") and not may("p?y", "pay/x")
    like = Layers([policy(allow(Condition={"StringLike": {"a:b": "${aws:username}-*"}}))])
    assert decide(like, Question("x:Y", "*", {"a:b": ["maria-1"], "aws:username": ["maria"]})) == "allowed"
    assert decide(like, Question("x:Y", "*", {"a:b": ["maria-1"], "aws:username": ["*"]})) == "implicitDeny"


def test_a_star_can_be_meant_and_an_older_policy_has_no_variables():
    star = Layers([policy(allow(resource="arn:aws:s3:::b/${*}"))])
    assert decide(star, Question("s3:GetObject", "arn:aws:s3:::b/*")) == "allowed"
    assert decide(star, Question("s3:GetObject", "arn:aws:s3:::b/x")) == "implicitDeny"
    default = Layers([policy(allow(resource="arn:aws:s3:::b/${aws:username, 'all'}"))])
    assert decide(default, Question("s3:GetObject", "arn:aws:s3:::b/all")) == "allowed"
    old = {"Version": "2008-10-17", "Statement": [allow(resource="arn:aws:s3:::b/${aws:username}")]}
    named = Question("s3:GetObject", "arn:aws:s3:::b/maria", {"aws:username": ["maria"]})
    assert decide(Layers([old]), named) == "implicitDeny"
    assert decide(Layers([old]), Question("s3:GetObject", "arn:aws:s3:::b/${aws:username}")) == "allowed"


# --- a resource's own policy ---

EVERYTHING, NOTHING = policy(allow()), policy()


def owned(principal, effect="Allow", *, caller=MARIA, same=True, master=False):
    statement = {"Effect": effect, "Principal": principal, "Action": "*", "Resource": "*"}
    return Owned(policy(statement), caller, same, master)


@pytest.mark.parametrize(
    ("layers", "own", "expected"),
    [
        # In the same account either policy is enough.
        (Layers([NOTHING]), owned({"AWS": USER}), "allowed"),
        (Layers([NOTHING]), owned({"AWS": ROOT}), "implicitDeny"),
        (Layers([EVERYTHING]), owned({"AWS": "444455556666"}), "allowed"),
        (Layers([EVERYTHING]), owned({"AWS": USER}, "Deny"), "explicitDeny"),
        # A boundary and a session's policies bound what a role is granted, not what the session itself is.
        (Layers([NOTHING], NOTHING), owned({"AWS": ROLE}, caller=AS_OPS), "implicitDeny"),
        (Layers([NOTHING], EVERYTHING, [NOTHING]), owned({"AWS": ROLE}, caller=AS_OPS), "implicitDeny"),
        (Layers([NOTHING], EVERYTHING, [EVERYTHING]), owned({"AWS": ROLE}, caller=AS_OPS), "allowed"),
        (Layers([NOTHING], session=[NOTHING]), owned({"AWS": SESSION}, caller=AS_OPS), "allowed"),
        # Between accounts both are needed.
        (Layers([EVERYTHING]), owned({"AWS": USER}, same=False), "allowed"),
        (Layers([EVERYTHING]), owned({"AWS": ROOT}, same=False), "allowed"),
        (Layers([NOTHING]), owned({"AWS": USER}, same=False), "implicitDeny"),
        (Layers([EVERYTHING]), owned({"AWS": "444455556666"}, same=False), "implicitDeny"),
        # A key's policy is its master: without its word the account's own policies count for nothing.
        (Layers([EVERYTHING]), owned({"AWS": "444455556666"}, master=True), "implicitDeny"),
        (Layers([EVERYTHING]), owned({"AWS": ROOT}, master=True), "allowed"),
        (Layers([NOTHING]), owned({"AWS": ROOT}, master=True), "implicitDeny"),
        (Layers([NOTHING]), owned({"AWS": USER}, master=True), "allowed"),
    ],
)
def test_a_resource_has_its_say(layers, own, expected):
    assert decide(layers, Question("kms:Decrypt", "arn:aws:kms:eu-west-1:111122223333:key/1"), own) == expected


# --- what holds for all policies ---

_ACTIONS = st.sampled_from(["ssm:StartSession", "ssm:*", "ec2:*", "*", "ssm:Send*"])
_RESOURCES = st.sampled_from(["*", INSTANCE, "arn:aws:ec2:*:*:instance/*", "arn:aws:ssm:*:*:document/x"])
_CONDITIONS = st.sampled_from(
    [None, {"StringEquals": {"a:b": "x"}}, {"Null": {"a:b": "true"}}, {"StringNotEquals": {"a:b": "x"}}]
)


@st.composite
def some_statements(draw):
    made = {"Effect": draw(st.sampled_from(["Allow", "Deny"])), "Action": draw(_ACTIONS), "Resource": draw(_RESOURCES)}
    condition = draw(_CONDITIONS)
    return made if condition is None else made | {"Condition": condition}


POLICIES = st.lists(some_statements(), max_size=4).map(lambda items: policy(*items))
QUESTIONS = st.builds(
    Question,
    st.sampled_from(["ssm:StartSession", "ssm:SendCommand", "ec2:RunInstances"]),
    st.sampled_from([INSTANCE, "arn:aws:ssm:eu-west-1:111122223333:document/x"]),
    st.sampled_from([{}, {"a:b": ["x"]}, {"a:b": ["y", "x"]}]),
)


@given(st.lists(POLICIES, max_size=3), QUESTIONS, st.randoms(use_true_random=False))
def test_the_order_does_not_matter(policies, question, random):
    mixed = [policy(*random.sample(each["Statement"], len(each["Statement"]))) for each in policies]
    random.shuffle(mixed)
    assert decide(Layers(mixed), question) == decide(Layers(policies), question)


@given(st.lists(POLICIES, max_size=3), QUESTIONS, st.sampled_from(["identity", "boundary", "session", "resource"]))
def test_a_deny_wins_wherever_it_stands(policies, question, where):
    no, own = policy(deny()), None
    layers = {
        "identity": Layers([*policies, no], EVERYTHING, [EVERYTHING]),
        "boundary": Layers([*policies, EVERYTHING], no),
        "session": Layers([*policies, EVERYTHING], session=[EVERYTHING, no]),
        "resource": Layers([*policies, EVERYTHING]),
    }[where]
    if where == "resource":
        own = owned("*", "Deny")
    assert decide(layers, question, own) == "explicitDeny"


@given(st.lists(POLICIES, max_size=3), POLICIES, QUESTIONS)
def test_neither_a_boundary_nor_a_session_policy_ever_widens(policies, more, question):
    alone = decide(Layers(policies), question)
    for layers in (Layers(policies, more), Layers(policies, session=[more]), Layers(policies, more, [more])):
        if decide(layers, question) == "allowed":
            assert alone == "allowed"
        if alone == "explicitDeny":
            assert decide(layers, question) == "explicitDeny"
    if alone == "allowed" == decide(Layers([more]), question):
        assert decide(Layers(policies, more, [more]), question) == "allowed"


@given(st.lists(POLICIES, max_size=3), POLICIES, QUESTIONS)
def test_an_answer_says_what_it_follows_from(policies, boundary, question):
    verdict = evaluate(Layers(policies, boundary), question)
    denying = [hit for hit in verdict.hits if hit.effect == "Deny"]
    assert (verdict.decision == "explicitDeny") is bool(denying)
    for hit in verdict.hits:
        held = (policies[hit.policy] if hit.layer == "identity" else boundary)["Statement"][hit.statement]
        assert held["Effect"] == hit.effect
        assert decide(Layers([policy({**held, "Effect": "Allow"})]), question) == "allowed"


def test_the_keys_that_a_policy_asks_for_are_named():
    document = policy(
        allow(resource="arn:aws:s3:::b/${aws:username}", Condition={"StringEquals": {"ssm:resourceTag/env": "x"}}),
        deny("ec2:*", Condition={"Bool": {"aws:MultiFactorAuthPresent": "false"}}),
    )
    assert context_keys([document]) == ["aws:MultiFactorAuthPresent", "aws:username", "ssm:resourceTag/env"]
    question = Question("s3:GetObject", "arn:aws:s3:::b/x", {"aws:username": ["maria"]})
    assert missing_keys([document], question) == ["ssm:resourceTag/env"]


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
