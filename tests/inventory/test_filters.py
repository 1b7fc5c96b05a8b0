"""What is typed into the fleet's filter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetops.inventory.filters import parse, search
from fleetops.inventory.models import Instance
from fleetops.inventory.readiness import NEEDS_A_FIX, Status
from tests.factories import make_account, make_instance, make_region


@pytest.fixture
def fleet(db):
    stockholm = make_region("eu-north-1", account=make_account("222233334444", name="corp-it"))
    make_instance(name="pay-api-01", tags={"env": "prod", "cluster": "pay"}, private_ip="10.0.0.5", zone="eu-west-1a")
    make_instance(name="pay-api-02", tags={"env": "staging"}, ping_status="ConnectionLost")
    make_instance(
        name="pg-ledger-1", tags={"env": "prod", "owner": "a b"}, platform_name="Debian", platform_version="12"
    )
    make_instance(
        name="win-ad-1", region=stockholm, platform_type="Windows", ec2_state="stopped", instance_type="t3.large"
    )
    return Instance.objects.present()


def names(fleet, text):
    return sorted(parse(text).apply(fleet).values_list("name", flat=True))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["pay-api-01", "pay-api-02", "pg-ledger-1", "win-ad-1"]),
        ("pay", ["pay-api-01", "pay-api-02"]),
        ("PAY 02", ["pay-api-02"]),
        ("10.0.0.", ["pay-api-01"]),
        ("tag:env=prod", ["pay-api-01", "pg-ledger-1"]),
        ("tag:env", ["pay-api-01", "pay-api-02", "pg-ledger-1"]),
        ("tag:env=prod tag:env=staging", ["pay-api-01", "pay-api-02", "pg-ledger-1"]),
        ("tag:env=prod tag:cluster=pay", ["pay-api-01"]),
        ('tag:owner="a b"', ["pg-ledger-1"]),
        ('tag:env=""', []),
        ("status:online", ["pay-api-01", "pg-ledger-1"]),
        ("status:Connection-Lost", ["pay-api-02"]),
        ('status:"connection lost"', ["pay-api-02"]),
        ("status:needs-a-fix", ["pay-api-02"]),
        ("status:stopped status:connection-lost", ["pay-api-02", "win-ad-1"]),
        ("platform:debian", ["pg-ledger-1"]),
        ('platform:"debian 12"', ["pg-ledger-1"]),
        ("platform:windows", ["win-ad-1"]),
        ("account:corp", ["win-ad-1"]),
        ("account:222233334444", ["win-ad-1"]),
        ("region:eu-north-1", ["win-ad-1"]),
        ("zone:eu-west-1a", ["pay-api-01"]),
        ("type:t3", ["win-ad-1"]),
        ("name:ledger status:online tag:env=prod", ["pg-ledger-1"]),
        ("env=prod and not cluster=pay", ["pg-ledger-1"]),
        ("pay or status=stopped", ["pay-api-01", "pay-api-02", "win-ad-1"]),
        ("pay (env=staging or cluster=pay)", ["pay-api-01", "pay-api-02"]),
        ("%", []),
        ("_", []),
    ],
)
def test_a_filter_finds(fleet, text, expected):
    assert parse(text).problems == ()
    assert names(fleet, text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("role:admin", "“role:” is nothing to filter by. Use tag:, id:"),
        ("status:", "“status:” has no value"),
        ("status:happy", "“happy” is no status. Use one of needs-a-fix, online"),
        ("x" * 5000, "longer than 4,000 characters"),
        ("pay and", "Something has to follow"),
    ],
)
def test_what_cannot_be_read_is_told_and_filters_nothing(fleet, text, words):
    query = parse(text)
    assert words in query.problems[0]
    assert (bool(query), query.text, query.typed) == (False, "", text)
    assert query.apply(fleet).count() == 4


def test_a_chip_says_what_it_filters_and_goes_alone():
    query = parse(
        'tag:env=prod status:no-profile "two words" "a:b" pay pay not db not env=dev type:t3 platform:debian '
        'tag:team not tag:old region=eu*1 cluster in (a, "") (name=x or env=y) not (k=1 and l=2) id=*'
    )
    assert [(each.label, each.shown) for each in query.chips] == [
        ("env is", "prod"),
        ("status is", "no profile"),
        ("", "two words"),
        ("", "a:b"),
        ("", "pay"),
        ("not", "db"),
        ("env is not", "dev"),
        ("type begins with", "t3"),
        ("platform has", "debian"),
        ("has tag", "team"),
        ("has no tag", "old"),
        ("region is like", "eu*1"),
        ("cluster is", "a or empty"),
        ("", "name=x or env=y"),
        ("", "not (k=1 and l=2)"),
        ("id is", "anything"),
    ]
    assert query.without(query.conditions[0]).text.startswith('status=no-profile and "two words" and "a:b" and pay')


def test_a_filter_knows_the_statuses_that_it_lets_through():
    assert parse("pay").statuses == frozenset(Status)
    assert parse("pay status:needs-a-fix").statuses == NEEDS_A_FIX
    assert parse("status!=online and status!=stopped").statuses == set(Status) - {Status.ONLINE, Status.STOPPED}
    assert parse("status:online status:stopped").statuses == {Status.ONLINE, Status.STOPPED}
    assert parse("status=online or env=prod").statuses == frozenset(Status)  # no condition of statuses alone
    assert parse("pay status:online").with_status("stopped").text == "pay and status=stopped"
    assert (parse("status:online").status, parse("status:online status:stopped").status, parse("x").status) == (
        "online",
        "",
        "",
    )


def test_filters_side_by_side_are_alternatives_of_one_key():
    assert parse("pay and env=prod").beside(parse("env=dev api")).text == "pay and (env=prod or env=dev) and api"
    assert parse("").beside(parse("pay")).text == "pay"
    assert parse("").beside(parse("")).text == ""


def test_what_is_no_expression_is_looked_for_as_a_word():
    assert search("pay status:online").text == "pay and status=online"
    assert search("pay and").text == '"pay and"'
    assert search('a"b\x00\\*').text == r'"a\"b\\\*"'
    assert search("x" * 5000).error is not None


@given(st.text(alphabet=st.sampled_from('ab :"=\x00-\\%\ntagstus'), max_size=80) | st.text(max_size=80))
def test_any_text_is_read_and_what_was_read_reads_the_same_again(text):
    query = parse(text)
    again = parse(query.text)
    assert again.expression == query.expression
    assert again.problems == ()
    assert len(query.chips) == len(query.conditions)


@pytest.mark.django_db
@given(st.text(max_size=40))
def test_any_filter_is_a_query_that_the_database_takes(text):
    for query in (parse(text), parse(f'tag:"{text}"=1'), search(text)):
        assert list(query.apply(Instance.objects.present())) == []
