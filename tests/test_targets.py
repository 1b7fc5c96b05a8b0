"""Target expressions: what they mean, what is refused and in which words."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetops import targets
from fleetops.targets import ExpressionError, TargetFacts, all_of, comparison, parse

WEB = TargetFacts(
    instance_id="i-0abc12345",
    name="Web-1",
    account_id="111122223333",
    account_name="corp-it",
    region="eu-west-1",
    zone="eu-west-1a",
    platform="Debian GNU/Linux 12",
    platform_type="Linux",
    instance_type="t3.large",
    status="online",
    agent_version="3.3.2299.0",
    tags={"env": "prod", "cluster": "web", "owner": "a b", "Platform": "shop", "aws:stack": "x", "empty": ""},
    profile="ssm-core",
    computer_name="web-1.corp",
    private_ip="10.0.0.5",
)
HYBRID = TargetFacts(instance_id="mi-0123456789abcdef0", is_hybrid=True, status="connection-lost")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", True),
        ("env=prod and not cluster=db", True),
        ("env=prod and not cluster=web", False),
        ("(env=dev or env=prod) and platform=debian*", True),
        ("not (env=dev or env=prod)", False),
        ("not env=prod or cluster=web", True),
        ("env=PROD", False),  # tags have their case
        ("Env=prod", False),
        ("platform=LINUX", True),  # facts have none
        ("env!=dev", True),
        ("team!=dev", True),  # no such tag is not that tag
        ("team=*", False),
        ("tag:env", True),
        ("tag:team", False),
        ("empty=*", True),
        ('empty=""', True),
        ('team=""', False),
        ("env in (dev, prod)", True),
        ("env not in (dev, prod)", False),
        ("env = prod AND cluster = web", True),
        ("owner=a*b", True),
        ('owner="a b"', True),
        ('owner="a"*"b"', True),
        ("owner=a*c*b", False),
        (r"owner=a\*b", False),
        ("aws:stack=x", True),
        ("tag:Platform=shop", True),
        ('"Platform"=shop', True),
        ("i-0abc12345", True),
        ("i-0ab*", True),
        ("id=I-0ABC12345", True),
        ("mi-0123456789abcdef0", False),
        ("name=web-1", True),
        ("Name=web-*", True),
        ("account=corp-it", True),
        ("account=111122223333", True),
        ("account=corp", False),
        ("region in (eu-west-1, eu-north-1)", True),
        ("zone=eu-west-1a", True),
        ("type=t3.*", True),
        ("status=online", True),
        ("status=needs-a-fix", False),
        ("status!=connection_lost", True),
        ("agent=3.3.*", True),
        ("profile=ssm-core", True),
        ("hybrid=no", True),
        ("hybrid!=no", False),
        ("hybrid in (yes, true)", False),
        ("not not env=prod", True),
    ],
)
def test_an_expression_holds_or_not(text, expected):
    expression = parse(text)
    assert expression.matches(WEB) is expected
    assert parse(f"not ({text})").matches(WEB) is not expected
    assert parse(str(expression)) == expression


def test_a_hybrid_node_has_the_facts_that_it_has():
    assert parse("hybrid=yes and status=needs-a-fix").matches(HYBRID)
    assert parse('mi-0123456789abcdef0 and zone=""').matches(HYBRID)
    assert not parse("tag:env or zone=eu*").matches(HYBRID)


@pytest.mark.parametrize(
    ("text", "expected", "canonical"),
    [
        ("web", True, "web"),
        ("WEB corp", True, "WEB and corp"),
        ("0abc", True, "0abc"),
        ("10.0.", True, "10.0."),
        (".0.5", False, ".0.5"),
        ("w*1", True, "w*1"),
        ('"web-1"', True, "web-1"),
        ('"a:b"', False, '"a:b"'),
        ("web or db", True, "web or db"),
        ("not db", True, "not db"),
        ("platform:debian", True, "platform=*debian*"),
        ("type:t3 region:eu", True, "type=t3* and region=eu*"),
        ("platform:*12", True, "platform=*12"),
        ("status:online", True, "status=online"),
        ('status:"connection lost" web', False, "status=connection-lost and web"),
        ("tag:env=dev tag:env=prod web", True, "(env=dev or env=prod) and web"),
        ("env=prod web and (db or cluster=web)", True, "env=prod and web and (db or cluster=web)"),
        ("tag:owner", True, "owner=*"),
        ('"and" "all"', False, '"and" and "all"'),
        ("i-0abc", True, "i-0abc"),
    ],
)
def test_the_filter_box_takes_words_too(text, expected, canonical):
    expression = parse(text, words=True)
    assert expression.matches(WEB) is expected
    assert str(expression) == canonical
    assert parse(canonical, words=True) == expression


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("", 0, "empty. Write all if you mean every instance"),
        ("  ", 0, "empty"),
        ("a=1 and b=2 or c=3", 12, "Say with parentheses what belongs together"),
        ("a=1 or b=2 and c=3", 11, "Say with parentheses"),
        ("(a=1 or b=2 and c=3)", 12, "Say with parentheses"),
        ("env=prod cluster=db", 9, "Put and or or before “cluster”"),
        ("a=1 (b=2)", 4, "Put and or or before “(”"),
        ("web-1", 0, "neither an instance id nor a comparison. Write name=web-1, or a tag as KEY=VALUE"),
        ("env=prod and", 12, "Something has to follow “and”"),
        ("not", 3, "Something has to follow “not”"),
        ("and a=1", 0, "A condition is missing before and"),
        ("a=1 and or b=2", 8, "A condition is missing before or"),
        ("env=", 4, 'Write env="" for an empty one'),
        ("env=and b=1", 4, 'or write it as "and"'),
        ("=prod", 0, "Before = belongs a key"),
        ("()", 0, "Nothing stands between these parentheses"),
        ("(a=1", 0, "This parenthesis is not closed"),
        ("a=1)", 3, "closes and none is open"),
        ('env="prod', 4, "quote opens and does not close"),
        ("env='prod'", 4, "Quotes are double here"),
        ("env=a=b", 5, "in quotes"),
        ("env==prod", 3, "Write = for “is”"),
        ("env in prod", 4, "After in comes a list in parentheses"),
        ("env in (a b)", 10, "Put a comma between two values"),
        ("env in (a,)", 10, "values stand between commas"),
        ("env in (a, b", 7, "This parenthesis is not closed"),
        ("env in ()", 8, "values stand between commas"),
        ("a=1, b=2", 3, "A comma stands between values of a list alone"),
        ("a=1 && b=2", 4, "Write and instead of &&"),
        ("a=1 || b=2", 4, "Write or instead of ||"),
        ("agent>=3.3", 0, "is no key. There are =, != and in"),
        ("regoin=eu-west-1", 0, "Did you mean region=…? A tag of that name is written tag:regoin="),
        ("Platform=shop", 0, "can be read in two ways. Write platform=… for that of the instance, or tag:Platform=…"),
        ("and=1", 0, "A tag of this name is written tag:and="),
        ("e*v=prod", 0, "A * stands in values alone"),
        ("tag:", 0, "tag: has no key"),
        ("tag:=x", 0, "tag: has no key"),
        ('""=x', 0, "The key is empty"),
        ("platform:debian", 0, "Write platform=debian, or platform=*debian*"),
        ("status:online", 0, "Write status=online."),
        ("role:admin", 0, "“role:” is nothing to filter by. Use tag:, id:, name:"),
        ("status=happy", 7, "“happy” is no status. Use one of needs-a-fix, online"),
        ("status=gone", 7, "is no status"),
        ("hybrid=perhaps", 7, "hybrid is yes or no"),
        ("hybrid in (yes, no)", 0, "hybrid is yes or no"),
        (r"env=a\b", 5, r"Write \\ for the sign itself"),
        ("env=\x00", 4, "cannot be read"),
        ("env=\ud800", 4, "cannot be read"),
        ("env=a*b*c*d*e*f*g*h*i*j", 4, "more than 8 stars"),
        ("x" * 5000, 4000, "longer than 4,000 characters"),
        ("(" * 30 + "a=1" + ")" * 30, 20, "more than 20 deep"),
        ("not " * 900 + "(" * 21, 3620, "more than 20 deep"),
        (" or ".join(f"a={n}" for n in range(300)), 1692, "more than 200 conditions"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words_with_its_place(text, position, words):
    with pytest.raises(ExpressionError, match=re.escape(words)) as refused:
        parse(text)
    assert refused.value.position == position


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pay or db env=prod", "Say with parentheses"),
        ("role:admin", "or role=… for a tag, or a plain word"),
        ("status:", "“status:” has no value"),
        ('""', "These quotes are empty"),
        ("pay and", "Something has to follow “and”"),
        ("pay , db", "A comma stands between"),
    ],
)
def test_the_filter_box_refuses_in_words(text, words):
    with pytest.raises(ExpressionError, match=re.escape(words)):
        parse(text, words=True)


@pytest.mark.parametrize(
    ("text", "everything", "nothing"),
    [
        ("all", True, False),
        ("not all", False, True),
        ("all or env=prod", True, False),
        ("all and env=prod", False, False),
        ("name=*", True, False),
        ("status=*", True, False),
        ("env=*", False, False),  # an instance may lack the tag
        ("env=prod or env!=prod", True, False),
        ("env=prod and env!=prod", False, True),
        ("env in (prod, dev) or not env=prod", True, False),
        ("hybrid=yes or hybrid=no", True, False),
        ("not (a=1 and b=2) or a=1", True, False),
        ("env=prod", False, False),
        (" or ".join([*(f"a={n}" for n in range(20)), "name=*"]), True, False),
        (" or ".join(f"a={n}" for n in range(20)), False, False),
    ],
)
def test_an_expression_knows_whether_it_holds_for_everything_or_nothing(text, everything, nothing):
    expression = parse(text)
    assert expression.matches_everything is everything
    assert expression.matches_nothing is nothing


def test_a_word_of_stars_alone_holds_for_everything():
    assert parse("*", words=True).matches_everything


def test_an_expression_names_its_keys():
    assert parse("env=prod and not (region=eu* or tag:name=x)").keys() == {"tag:env", "region", "tag:name"}
    assert parse("web status:online", words=True).keys() == {"words", "status"}
    assert parse("all").keys() == set()


def test_expressions_are_made_of_parts_without_text():
    both = all_of(parse("env=prod or env=dev"), comparison("name", "a*b"), parse("all"))
    assert str(both) == r'(env=prod or env=dev) and name="a\*b"'
    assert parse(str(both)) == both
    assert str(all_of()) == "all"
    assert str(comparison("tag", "x y", tag="name")) == 'tag:name="x y"'
    assert [str(each) for each in both.conditions] == ["env=prod or env=dev", r'name="a\*b"']


def test_the_statuses_are_those_of_the_inventory():
    from fleetops.inventory.readiness import NEEDS_A_FIX, Status

    assert set(targets.STATUSES) == {status.value for status in Status} - {Status.GONE.value}
    assert set(targets.STATUS_GROUPS["needs-a-fix"]) == {status.value for status in NEEDS_A_FIX}


def test_nothing_of_django_is_needed():
    source = Path(targets.__file__).read_text()
    assert not re.search(r"^\s*(from|import) (django|fleetops\.[a-z])", source, re.MULTILINE)


# --- properties ------------------------------------------------------------------------------------------------------

_signs = st.text(alphabet=st.sampled_from("ab *\"\\()=!,:'AZéß\n&-"), max_size=6)
_values = st.builds(lambda text: '"{}"'.format(re.sub(r'([\\"])', r"\\\1", text.replace("*", r"\*"))), _signs)
_values |= st.sampled_from(["a", "b*", "*b", "a*b", "*", "x:y", "in", "all", '"and"', "!"])
_keys = st.sampled_from(["env", "k", "tag:name", 'tag:"a b"', "tag:and", "tag:env", "name", "region", "platform", "id"])
_leaves = (
    st.builds("{}={}".format, _keys, _values)
    | st.builds("{}!={}".format, _keys, _values)
    | st.builds("{} in ({})".format, _keys, st.lists(_values, min_size=1, max_size=3).map(", ".join))
    | st.builds("{} not in ({})".format, _keys, st.lists(_values, min_size=1, max_size=3).map(", ".join))
    | st.sampled_from(["all", "i-0ab*", "tag:k", "hybrid=no", "status=needs-a-fix", "status!=online"])
)
expressions = st.recursive(
    _leaves,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: "(" + " and ".join(parts) + ")")
        | st.lists(inner, min_size=1, max_size=3).map(lambda parts: "(" + " or ".join(parts) + ")")
        | inner.map(lambda part: f"not {part}")
    ),
    max_leaves=8,
)
_texts = st.sampled_from(["", "a", "b", "ab", "A", "axb", "x:y", "prod", "é", "É", "*", 'a"b', "a b", "in", "all"])
facts = st.builds(
    TargetFacts,
    instance_id=st.sampled_from(["i-0ab1", "i-1", "mi-1"]),
    name=_texts,
    region=_texts,
    platform=_texts,
    platform_type=_texts,
    status=st.sampled_from(targets.STATUSES),
    is_hybrid=st.booleans(),
    tags=st.dictionaries(st.sampled_from(["env", "k", "name", "a b", "and"]), _texts, max_size=3),
)


@given(expressions)
def test_the_text_of_an_expression_reads_as_the_same_expression(text):
    expression = parse(text)
    again = parse(str(expression))
    assert again == expression
    assert str(again) == str(expression)
    assert parse(str(expression), words=True) == expression or "i-0ab*" in text  # a word there


@given(expressions, expressions, facts)
def test_de_morgan(a, b, each):
    def holds(text):
        return parse(text).matches(each)

    assert holds(f"not ({a} and {b})") == holds(f"not {a} or not {b}")
    assert holds(f"not ({a} or {b})") == holds(f"not {a} and not {b}")
    assert holds(f"not not {a}") == holds(a)
    assert holds(f"{a} and {b}") == (holds(a) and holds(b))


@given(expressions, facts)
def test_what_holds_always_or_never_by_its_text_does(text, each):
    expression = parse(text)
    if expression.matches_everything:
        assert expression.matches(each)
    if expression.matches_nothing:
        assert not expression.matches(each)


@given(
    st.lists(
        st.sampled_from(
            [
                *"()=,*\"\\:' ab",
                "!=",
                " and ",
                " or ",
                " not ",
                " in ",
                "all",
                "tag:",
                "status:",
                "name",
                "i-0",
                "é",
                "\n",
            ]
        ),
        max_size=20,
    ).map("".join)
    | st.text(max_size=60),
    st.booleans(),
    facts,
)
def test_any_text_is_an_expression_or_an_expression_error(text, words, each):
    try:
        expression = parse(text, words=words)
    except ExpressionError as error:
        assert 0 <= error.position <= len(text)
        assert str(error).endswith((".", "…"))
        return
    assert parse(str(expression), words=words) == expression
    assert expression.matches(each) in (True, False)


@given(st.text(alphabet="ab", max_size=12), st.lists(st.sampled_from("ab*"), max_size=8).map("".join))
def test_a_star_stands_for_any_run_of_characters(value, pattern):
    expected = re.fullmatch(pattern.replace("*", ".*"), value) is not None
    assert parse(f'k="{pattern}"').matches(TargetFacts("i-1", tags={"k": value})) is expected


# --- what is being typed ---


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("", False, ("key", 0, "", "", "")),
        ("en", False, ("key", 0, "en", "", "")),
        ("env=", False, ("value", 4, "", "tag", "env")),
        ("env=pr", False, ("value", 4, "pr", "tag", "env")),
        ("env = pr", False, ("value", 6, "pr", "tag", "env")),
        ("env!=pr", False, ("value", 5, "pr", "tag", "env")),
        ('env="a b', False, ("value", 4, "a b", "tag", "env")),
        ('env="', False, ("value", 4, "", "tag", "env")),
        ("tag:name=x", False, ("value", 9, "x", "tag", "name")),
        ("region=eu", False, ("value", 7, "eu", "region", "")),
        ("env in (a, b", False, ("value", 11, "b", "tag", "env")),
        ("region not in (", False, ("value", 15, "", "region", "")),
        ("env=prod ", False, ("joiner", 9, "", "", "")),
        ("env=prod a", False, ("joiner", 9, "a", "", "")),
        ("env=prod and clu", False, ("key", 13, "clu", "", "")),
        ("(clu", False, ("key", 1, "clu", "", "")),
        ("status:on", True, ("value", 7, "on", "status", "")),
        ("pay en", True, ("key", 4, "en", "", "")),
        ("a=\x00", False, ("", 3, "", "", "")),
        ("env=a\\", False, ("value", 4, 'a"', "tag", "env")),
    ],
)
def test_what_is_being_typed_is_told(text, words, expected):
    found = targets.fragment(text, len(text), words=words)
    assert (found.role, found.start, found.typed, found.key, found.tag) == expected
    assert found.end == len(text)


@given(st.text(alphabet=st.sampled_from('ab =()",!:\\*'), max_size=30), st.integers(-5, 40), st.booleans())
def test_whatever_is_being_typed_its_place_is_in_the_text(text, at, words):
    found = targets.fragment(text, at, words=words)
    assert 0 <= found.start <= found.end <= len(text)


def test_what_stands_side_by_side_must_hold_but_of_one_key_any_value_will_do():
    joined = targets.side_by_side(parse("env=a and team=x"), parse("env=b or env=c"), parse("not team=y"), parse("all"))
    assert str(joined) == "(env=a or env=b or env=c) and team=x and team!=y"
    assert targets.side_by_side() == parse("all")
