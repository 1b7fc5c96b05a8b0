"""The heat map: ends of weeks, who counts in which, and colours with words."""

from datetime import UTC, datetime, timedelta

import pytest

from fleetops.clock import now
from fleetops.targets import parse
from patching.compliance import heat, reading
from patching.compliance.asking import Scope
from patching.families import OPERATING_SYSTEMS
from tests.compliance.conftest import summary
from tests.factories import make_instance, make_user

MONDAY = datetime(2026, 11, 30, tzinfo=UTC)


def test_weeks_end_between_sunday_and_monday_and_the_last_column_is_the_moment():
    for at in (MONDAY + timedelta(hours=21), MONDAY + timedelta(days=6, hours=23), MONDAY + timedelta(microseconds=1)):
        moments = heat.ends_of_weeks(at)
        assert len(moments) == 12 and moments[-1] == at and moments[-2] == MONDAY
        assert {each.weekday() for each in moments[:-1]} == {0} and moments[0] == MONDAY - timedelta(weeks=10)
    assert heat.ends_of_weeks(MONDAY)[-2] == MONDAY - timedelta(weeks=1)


@pytest.mark.parametrize(
    ("scanned", "bad", "warmth", "shown"),
    [
        (0, 0, 0, "–"),
        (10, 0, 0, "0"),
        (1000, 1, 1, "<1"),
        (100, 4, 1, "4"),
        (100, 5, 2, "5"),
        (100, 9, 3, "9"),
        (100, 15, 4, "15"),
        (100, 26, 5, "26"),
        (1000, 999, 5, "99"),
        (10, 10, 5, "100"),
    ],
)
def test_a_cell_says_in_a_number_what_its_colour_says(scanned, bad, warmth, shown):
    cell = heat.Cell(MONDAY, False, scanned, bad)
    assert (cell.warmth, cell.shown) == (warmth, shown)
    assert ("nothing was scanned" in cell.words) == (not scanned)


@pytest.mark.parametrize(
    ("by", "name"),
    [
        ("group", 'web "eu" or *'),
        ("tag:cost center", "a=b"),
        ("account", "pay prod"),
        ("platform", "Amazon Linux"),
    ],
)
def test_a_groups_expression_can_be_read_and_one_without_a_name_has_none(by, name):
    assert parse(heat.expression_of(by, name), words=True)
    assert heat.expression_of(by, "") == "" and heat.expression_of("baseline", "pb-1") == ""


@pytest.mark.django_db
def test_an_instance_counts_where_it_stands_now_from_its_first_report_until_it_is_gone(
    roles, django_assert_max_num_queries
):
    moments = heat.ends_of_weeks(now())
    user = make_user(role="viewer")

    def node(name, *reports, **facts):
        made = make_instance(name=name, ssm_read_at=now(), **facts)
        for at, missing in reports:
            told = summary(made, ended_at=at - timedelta(hours=1), missing=missing, patch_group=name[0])
            reading.keep_summaries([(made, told)])
        return made

    node("a1", (moments[2], 1), (moments[5], 0), tags={"env": "prod"})
    node("a2", (moments[5], 1), tags={"env": "dev"})
    node("b1", (moments[0], 1), gone_at=moments[6] - timedelta(minutes=1), tags={"env": "prod"})
    node("c1")
    with django_assert_max_num_queries(3):  # whether the user may see instances, and one
        rows = {row.name: row for row in heat.heat(Scope(user), "group").rows}
    assert [(each.scanned, each.bad) for each in rows["a"].cells] == ([(0, 0)] * 2 + [(1, 1)] * 3 + [(2, 1)] * 7)
    assert [(each.scanned, each.bad) for each in rows["b"].cells] == [(1, 1)] * 6 + [(0, 0)] * 6
    assert set(rows) == {"a", "b"} and [row.name for row in heat.heat(Scope(user), "group").rows] == ["a", "b"]
    by_tag = {row.name: row.now for row in heat.heat(Scope(user), "tag:env").rows}
    assert {name: (each.scanned, each.bad) for name, each in by_tag.items()} == {"prod": (1, 0), "dev": (1, 1)}
    past = heat.heat(Scope(user, moment=moments[4]), "region").rows
    assert [(each.now.scanned, each.now.bad) for each in past] == [(2, 2)]
    assert heat.heat(Scope(make_user()), "group").rows == ()


@pytest.mark.django_db
def test_every_operating_system_that_the_api_knows_has_its_row(roles):
    platforms = {
        "Amazon Linux 2023": ("Linux", "Amazon Linux", "2023"),
        "Amazon Linux 2022": ("Linux", "Amazon Linux", "2022"),
        "Amazon Linux 2": ("Linux", "Amazon Linux", "2"),
        "Amazon Linux 1": ("Linux", "Amazon Linux AMI", "2018.03"),
        "Ubuntu": ("Linux", "Ubuntu", "24.04"),
        "Debian": ("Linux", "Debian GNU/Linux", "12"),
        "Raspbian": ("Linux", "Raspbian GNU/Linux", "11"),
        "Red Hat Enterprise Linux": ("Linux", "Red Hat Enterprise Linux", "9.6"),
        "CentOS": ("Linux", "CentOS Linux", "7"),
        "Rocky Linux": ("Linux", "Rocky Linux", "9.5"),
        "AlmaLinux": ("Linux", "AlmaLinux", "9.5"),
        "Oracle Linux": ("Linux", "Oracle Linux Server", "9.4"),
        "SUSE Linux Enterprise": ("Linux", "SLES", "15.6"),
        "macOS": ("MacOS", "macOS", "14.5"),
        "Windows": ("Windows", "Microsoft Windows Server 2022 Datacenter", "10.0.20348"),
        heat.UNKNOWN_SYSTEM: ("Linux", "Plan 9", "4"),
    }
    assert set(platforms) == {*OPERATING_SYSTEMS.values(), heat.UNKNOWN_SYSTEM}
    for kind, name, version in platforms.values():
        facts = {"platform_type": kind, "platform_name": name, "platform_version": version}
        made = make_instance(ssm_read_at=now(), **facts)
        reading.keep_summaries([(made, summary(made))])
    rows = heat.heat(Scope(make_user(role="viewer")), "system").rows
    assert {row.name: row.now.scanned for row in rows} == dict.fromkeys(platforms, 1)
