"""What is typed into the fleet's filter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetops.inventory.filters import MOST_FILTERS, parse
from fleetops.inventory.models import Instance
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
        ("pay", ["pay-api-01", "pay-api-02"]),
        ("PAY 02", ["pay-api-02"]),
        ("10.0.0.", ["pay-api-01"]),
        ("tag:env=prod", ["pay-api-01", "pg-ledger-1"]),
        ("tag:env", ["pay-api-01", "pay-api-02", "pg-ledger-1"]),
        ("tag:env=prod tag:env=staging", ["pay-api-01", "pay-api-02", "pg-ledger-1"]),
        ("tag:env=prod tag:cluster=pay", ["pay-api-01"]),
        ('tag:owner="a b"', ["pg-ledger-1"]),
        ("tag:env=", []),
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
        ("%", []),
        ("_", []),
    ],
)
def test_a_filter_finds(fleet, text, expected):
    query = parse(text)
    assert query.problems == ()
    assert names(fleet, text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("role:admin", "“role:” is nothing to filter by. Use tag:, status:"),
        ("status:", "“status:” has no value"),
        ("status:happy", "“happy” is no status. Use one of needs-a-fix, online"),
        ("x" * 600, "longer than 500 characters"),
        (" ".join(f"w{n}" for n in range(20)), f"Only the first {MOST_FILTERS}"),
    ],
)
def test_what_cannot_be_read_is_told_and_left_out(text, words):
    query = parse(f"pay {text}")
    assert any(words in problem for problem in query.problems)
    assert query.filters[0].text == "pay"


def test_a_chip_says_what_it_filters_and_goes_alone():
    query = parse('tag:env=prod status:no-profile "two words" "a:b" pay pay')
    assert [(each.label, each.shown) for each in query.filters] == [
        ("tag:env is", "prod"),
        ("status is", "no profile"),
        ("", "two words"),
        ("", "a:b"),
        ("", "pay"),
    ]
    assert query.without(query.filters[0]).text == 'status:no-profile "two words" "a:b" pay'


@given(st.text(alphabet=st.sampled_from('ab :"=\x00-\\%\ntagstus'), max_size=80) | st.text(max_size=80))
def test_any_text_is_read_and_what_was_read_reads_the_same_again(text):
    query = parse(text)
    assert parse(query.text).filters == query.filters
    assert parse(query.text).problems == ()


@pytest.mark.django_db
@given(st.text(max_size=40).filter(lambda text: "\x00" not in text))
def test_any_filter_is_a_query_that_the_database_takes(text):
    assert list(parse(f"{text} tag:{text}").apply(Instance.objects.present())) == []
