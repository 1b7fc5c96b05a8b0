"""Target expressions on rows: the database and the expression say the same; counts, warnings, completion."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetops.clock import now
from fleetops.inventory.models import Instance, InstanceTag
from fleetops.inventory.selection import complete, facts_of, preview, select
from fleetops.targets import ExpressionError, parse
from tests.factories import make_account, make_instance, make_region, make_user
from tests.test_targets import expressions

pytestmark = pytest.mark.django_db


@pytest.fixture
def fleet(db):
    """Instances that differ in every fact, with what databases and patterns take amiss."""
    other = make_region("eu-north-1", account=make_account("222233334444", name="Corp-IT"))
    make_instance(name="Web-1", tags={"env": "prod", "k": "ab"}, zone="eu-west-1a", private_ip="10.0.0.5")
    make_instance(
        name="web-2", tags={"env": "PROD", "name": "x:y"}, profile_arn="", ec2_state="running", ping_status=""
    )
    make_instance(name="a*b", tags={"env": "", "a b": "é"}, platform_name="Debian GNU/Linux", platform_version="12")
    make_instance(name="É", tags={"k": "É", "and": "in"}, region=other, ec2_state="stopped", instance_type="t3.large")
    make_instance(name='a"b', tags={"k": "a[b]?%_\\"}, region=other, platform_type="Windows", platform_name="")
    make_instance(name="", instance_id="mi-0ab1", ec2_state="", profile_arn="", tags={"env": "axb"}, computer_name="AB")
    make_instance(name="ab", instance_id="i-0ab1", ping_status="ConnectionLost", platform_version="", agent_version="")
    make_instance(name="prod", instance_id="i-1", ping_status="", last_ping_at=None, profile_arn="arn:x/path/SSM-core")
    make_instance(name="axb", ec2_state="pending", profile_arn="bare", region=other)
    return Instance.objects.select_related("account", "region")


def holds_alike(text, instances, *, words=False):
    expression = parse(text, words=words)
    found = set(select(expression, Instance.objects.all()).values_list("pk", flat=True))
    assert found == {each.pk for each in instances if expression.matches(facts_of(each))}, str(expression)
    return found


@given(text=expressions)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
def test_the_database_and_the_expression_agree(fleet, text):
    holds_alike(text, fleet)


@given(text=st.text(alphabet=st.sampled_from('aAbé*[]?%_"\\ 1.-/x'), min_size=1, max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
def test_they_agree_on_every_sign_in_every_fact(fleet, text):
    quoted = '"{}"'.format(text.replace("\\", "\\\\").replace('"', '\\"'))
    for key in ("k", "name", "platform", "profile", "account"):
        try:
            holds_alike(f"{key}={quoted}", fleet)
        except ExpressionError as error:
            assert "stars" in str(error)
            return
    holds_alike(quoted, fleet, words=True)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("all", 9),
        ("not all", 0),
        ("env=prod", 1),
        ("env=*", 4),
        ('env=""', 1),
        ("env!=prod", 8),
        ("env in (prod, PROD)", 2),
        (r'k="a[b]?%_\\"', 1),
        ("k=a[b]*", 1),
        ("k=a?*", 0),
        ("name=web-*", 2),
        ("name=é", 0),  # beyond ASCII, case matters everywhere
        ("name=É", 1),
        ("account=corp-it", 3),
        ("account in (222233334444, account-1111)", 9),
        ("region=eu-north-1 and not status=stopped", 2),
        ("platform=linux", 8),
        ('platform="debian gnu/linux 12"', 1),
        ("platform=ubuntu", 1),  # without a version
        ("profile=ssm-core", 6),
        ("profile=bare", 1),
        ('profile=""', 2),
        ("profile=path*", 0),
        ("hybrid=yes", 1),
        ("mi-0ab1", 1),
        ("status=needs-a-fix", 3),
        ("status=online", 4),
        ("type=t3*", 1),
        ("zone=eu-west-1a and agent=3.*", 1),
    ],
)
def test_an_expression_selects(fleet, text, count):
    assert len(holds_alike(text, fleet)) == count


@pytest.mark.parametrize(
    ("text", "count"), [("web", 2), ("10.0", 1), ("0ab1", 2), ("status:needs-a-fix web", 1), ("platform:DEBIAN", 1)]
)
def test_words_of_the_filter_box_select(fleet, text, count):
    assert len(holds_alike(text, fleet, words=True)) == count


def test_one_query_selects_however_long_the_expression(fleet):
    expression = parse("env in (prod, dev) and (region=eu* or tag:k) and not (account=corp* or status=stopped)")
    with CaptureQueriesContext(connection) as queries:
        list(select(expression, Instance.objects.all()))
    assert len(queries) == 1


def test_the_longest_expression_is_a_query_that_the_database_takes(fleet):
    text = " or ".join(f"(t{n}=a* and t{n}!=ab)" for n in range(100))
    assert list(select(parse(text), Instance.objects.all())) == []


# --- a preview ---


@pytest.fixture
def viewer(roles):
    return make_user(role="viewer")


@pytest.mark.parametrize(
    ("text", "count", "warning"),
    [
        ("env=prod", 1, ""),
        ("all", 9, "This matches every instance, also each that will be launched."),
        ("env=x or env!=x", 9, "This matches every instance, also each that will be launched."),
        ("env!=nothing", 9, "At this moment this matches every instance."),
        ("env=x and env!=x", 0, "This can match no instance, whatever its facts."),
        ("env=nothing", 0, "At this moment this matches no instance."),
        ("evn=prod", 0, "No instance has a tag “evn”."),
    ],
)
def test_a_preview_counts_and_warns(fleet, viewer, text, count, warning):
    found = preview(text, viewer)
    assert (found.count, found.total, found.warning) == (count, 9, warning)
    assert len(found.first) == min(count, 8)


def test_a_preview_tells_of_no_instance_that_one_may_not_see_or_that_is_gone(fleet, viewer, roles):
    Instance.objects.filter(name="Web-1").update(gone_at=now())
    assert preview("env=prod", viewer).count == 0
    assert (preview("all", make_user()).count, preview("all", make_user()).total) == (0, 0)


def test_a_preview_takes_few_queries(fleet, viewer):
    preview("all", viewer)
    with CaptureQueriesContext(connection) as queries:
        preview("env=prod", viewer)
    assert len(queries) == 3


# --- completion ---


def options(text, user, *, words=False):
    return [each.text for each in complete(text, len(text), user, words=words).options]


def test_keys_and_values_are_offered_by_frequency(fleet, viewer):
    assert options("", viewer)[:3] == ["env=", "k=", "and="] or options("", viewer)[:2] == ["env=", "k="]
    assert options("e", viewer) == ["env="]
    assert options("n", viewer) == ["name=", "tag:name="]
    assert options("tag:", viewer)[:2] == ["env=", "k="]
    assert options("env=", viewer) == ["PROD", "axb", "prod"]
    assert options("env=P", viewer) == ["PROD", "prod"]
    assert options("env=od", viewer) == ["PROD", "prod"]  # has it in it
    assert options("region=", viewer) == ["eu-west-1", "eu-north-1"]
    assert options("account=2", viewer) == ["Corp-IT"]
    assert options("status=s", viewer) == ["starting", "stopped"]
    assert options("hybrid=", viewer) == ["yes", "no"]
    assert options("env in (prod, a", viewer) == ["axb"]
    assert options("env=prod ", viewer) == ["and ", "or "]
    assert options("env=prod o", viewer) == ["or "]
    assert options("pay e", viewer, words=True) == ["env="]
    assert options("status:on", viewer, words=True) == ["online"]


def test_what_is_offered_can_be_typed(fleet, viewer):
    for typed in ("", "tag:", "k=", "env=", "a", '"a b"=', "name=", "profile=", "platform="):
        for option in options(typed, viewer):
            found = complete(typed, len(typed), viewer)
            text = typed[: found.start] + option
            assert parse(text + ("x" if option.endswith("=") else "")) is not None


def test_nothing_is_offered_of_what_one_may_not_see(fleet, roles):
    stranger = make_user()
    assert options("env=", stranger) == options("region=", stranger) == options("account=", stranger) == []
    assert "env=" not in options("e", stranger)


def test_completion_takes_one_query(fleet, viewer):
    complete("env=", 4, viewer)
    with CaptureQueriesContext(connection) as queries:
        complete("env=pr", 6, viewer)
    assert len(queries) == 1
    assert InstanceTag.objects.exists()
