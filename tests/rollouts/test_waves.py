"""Who goes in which wave: each target once, whatever the rules; and how long that takes."""

from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetops.calendars.gate import Binding
from fleetops.errors import UserError
from fleetops.rollouts import limits
from fleetops.rollouts.timing import Span, walk, wave_minutes
from fleetops.rollouts.waves import Member, Rule, Waves, split
from fleetops.targets import TargetFacts

ZONES = ("eu-west-1a", "eu-west-1b", "")
ROLES = ("web", "db", "cache")


def member(number: int, zone: str = "", clusters: tuple[str, ...] = (), **tags: str) -> Member:
    facts = TargetFacts(f"i-{number:04}", name=f"node-{number}", zone=zone, tags=tags)
    return Member(number, facts, clusters)


@st.composite
def fleets(draw) -> list[Member]:
    zones, roles = st.sampled_from(ZONES), st.sampled_from(ROLES)
    clusters = st.lists(st.sampled_from("abcdef"), max_size=2, unique=True).map(tuple)
    sizes = st.integers(1, 40)
    return [
        member(number, draw(zones), draw(clusters), role=draw(roles), third=str(number % 3))
        for number in range(draw(sizes))
    ]


NAMED = [
    [],
    [Rule("zone")],
    [Rule("tag", "role")],
    [Rule("tag", "role=web"), Rule("tag", "role=db")],
    [Rule("list", "name=node-1 or name=node-2")],
    [Rule("list", "id=i-0000"), Rule("zone", "eu-west-1a")],
]
POOLS = [
    [],
    [Rule("rest")],
    [Rule("percent", "10"), Rule("percent", "40%"), Rule("percent", "50")],
    [Rule("count", "3"), Rule("percent", "30"), Rule("rest")],
    [Rule("percent", "33"), Rule("percent", "33"), Rule("percent", "34")],
]


@settings(max_examples=150, deadline=None)
@given(fleets(), st.sampled_from(["", "1", "4"]), st.sampled_from(NAMED), st.sampled_from(POOLS), st.text(max_size=4))
def test_each_target_is_in_one_wave_and_none_is_empty_and_the_same_seed_makes_the_same(
    members, canary, named, pool, seed
):
    rules = [*([Rule("canary", canary)] if canary else []), *named, *pool]
    made = split(members, rules, seed=seed)
    placed = [key for wave in made.splits for key in wave.keys]
    assert sorted(placed) == [each.key for each in members]
    assert all(wave.keys for wave in made.splits)
    assert [wave.rule for wave in made.splits] == sorted(wave.rule for wave in made.splits)
    assert made == split(list(reversed(members)), rules, seed=seed)
    assert len(made.notes) + len({wave.rule for wave in made.splits} - {len(rules)}) == len(rules)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.integers(2, 5), st.integers(0, 20), st.text(max_size=4))
def test_members_of_a_cluster_go_in_different_waves_while_there_are_enough(clusters, size, others, seed):
    members = [member(number, clusters=(f"c{number % clusters}",)) for number in range(clusters * size)]
    members += [member(1000 + number) for number in range(others)]
    share = len(members) // size
    made = split(members, [Rule("count", str(share)) for _ in range(size - 1)] + [Rule("rest")], seed=seed)
    mine = {each.key: each.clusters for each in members}
    for wave in made.splits:
        there = Counter(cluster for key in wave.keys for cluster in mine[key])
        assert all(count == 1 for count in there.values())


def sizes(made: Waves) -> list[tuple[str, int]]:
    return [(wave.name, len(wave.keys)) for wave in made.splits]


def test_shares_are_of_all_targets_and_what_is_left_goes_last():
    fleet = [member(number) for number in range(148)]
    assert sizes(split(fleet, [Rule("canary", "3"), Rule("percent", "30"), Rule("rest")], seed="")) == [
        ("Canary", 3),
        ("30 %", 44),
        ("Rest", 101),
    ]
    assert sizes(split(fleet, [Rule("count", "5", "First")], seed="")) == [("First", 5), ("Rest", 143)]
    assert sizes(split(fleet, [], seed="")) == [("All", 148)]
    thirds = [Rule("percent", "33"), Rule("percent", "33"), Rule("percent", "34")]
    assert sizes(split(fleet[:100], thirds, seed="")) == [("33 %", 33), ("33 %", 33), ("34 %", 34)]
    # Too few targets for all waves: a wave has at least one, or is none.
    few = split(fleet[:2], thirds, seed="")
    assert sizes(few) == [("33 %", 1), ("33 %", 1)] and few.notes == (
        "No target is left for the wave of 34 %, so it makes no wave.",
    )


def test_zones_and_tags_make_a_wave_each_and_a_list_comes_before_them():
    fleet = [member(n, ZONES[n % 2], role=ROLES[n % 3]) for n in range(12)]
    by_zone = split(fleet, [Rule("canary", "2"), Rule("zone")], seed="x")
    assert [wave.name for wave in by_zone.splits] == ["Canary", "Zone eu-west-1a", "Zone eu-west-1b"]
    zones = {each.key: each.facts.zone for each in fleet}
    assert {zones[key] for key in by_zone.splits[0].keys} == set(ZONES[:2])  # a canary of both
    assert {zones[key] for key in by_zone.splits[1].keys} == {"eu-west-1a"}
    named = split(fleet, [Rule("list", "id=i-0001", "One"), Rule("tag", "role=db"), Rule("rest")], seed="x")
    assert sizes(named) == [("One", 1), ("role=db", 3), ("Rest", 8)]


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ([Rule("list", "name=node-1"), Rule("list", "name=node-1*")], "Waves 1 and 2 overlap: node-1 would go in both"),
        ([Rule("tag", "role=web"), Rule("zone")], "Waves 1 and 2 overlap: node-0, node-3, node-6 and 1 more would"),
        ([Rule("percent", "60"), Rule("percent", "41")], "The waves by percent overlap: together they are 101 %"),
        ([Rule("percent", "0")], "Wave 1 goes by percent: give it a number, 1 to 100"),
        ([Rule("count", "many")], "Wave 1 goes by count: give it a number, 1 or more"),
        ([Rule("count", "²")], "Wave 1 goes by count"),
        ([Rule("rest"), Rule("count", "3")], "Wave 1 takes the rest"),
        ([Rule("count", "3"), Rule("canary", "1")], "A canary goes first"),
        ([Rule("tag", "=web")], "Wave 1 goes by a tag: name it"),
        ([Rule("list", "env=(")], "Wave 1: "),
        ([Rule("moon", "full")], "Wave 1 is made by “moon”"),
        ([Rule("count", "1")] * 101, "A run has at most 100 waves"),
        ([Rule("tag", "id")], "These rules make 120 waves"),
    ],
)
def test_rules_that_overlap_or_say_nothing_are_refused_in_words(rules, words):
    fleet = [member(n, "eu-west-1a", role=ROLES[n % 3]) for n in range(12)]
    if rules == [Rule("tag", "id")]:
        fleet = [member(n, id=str(n)) for n in range(120)]
    with pytest.raises(UserError, match="^" + words.replace("(", r"\(")):
        split(fleet, rules, seed="")


def test_a_limit_is_a_number_or_a_share_rounded_as_run_command_does():
    assert limits.budget("10%", 50) == 5 and limits.budget("10%", 59) == 5 and limits.budget("10 %", 9) == 0
    assert limits.budget("3", 50) == 3 and limits.budget("3", 2) == 2
    assert limits.concurrency("10%", 5) == 1 and limits.concurrency("0", 5) == 1 and limits.concurrency("100%", 7) == 7
    assert str(limits.parse(" 5 % ")) == "5%"
    for wrong in ("", "-1", "5%%", "half", "101%", "20001", "1.5"):
        with pytest.raises(UserError, match=r"^The error budget"):
            limits.budget(wrong, 10)


# --- when ------------------------------------------------------------------------------------------------------------

NIGHTS = """BEGIN:VCALENDAR
VERSION:2.0
PRODID:-//test//EN
BEGIN:VEVENT
UID:1
DTSTAMP:20260101T000000Z
SUMMARY:night
DTSTART:20261101T010000Z
DTEND:20261101T050000Z
RRULE:FREQ=DAILY
END:VEVENT
END:VCALENDAR
"""
NIGHT = Binding("Nights", False, NIGHTS, "UTC")
FREEZE = Binding("Sale", True, NIGHTS.replace("RRULE:FREQ=DAILY\n", "").replace("T050000Z", "T220000Z"), "UTC")
OVER = Binding("Once", False, NIGHTS.replace("RRULE:FREQ=DAILY\n", ""), "UTC")


def at(day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 11, day, hour, minute, tzinfo=UTC)


def test_work_waits_for_its_window_goes_on_in_the_next_and_knows_when_there_is_none():
    assert walk([], at(1, 0), 90) == Span(at(1, 0), at(1, 1, 30))
    assert walk([NIGHT], at(1, 6), 90) == Span(at(2, 1), at(2, 2, 30))
    assert walk([NIGHT], at(1, 4), 90) == Span(at(1, 4), at(2, 1, 30))
    assert walk([NIGHT], at(1, 4), 90, cutoff_minutes=30) == Span(at(1, 4), at(2, 2))
    assert walk([NIGHT], at(1, 4, 45), 90, cutoff_minutes=30) == Span(at(2, 1), at(2, 2, 30))
    assert walk([NIGHT], at(1, 4), 60, cutoff_minutes=240) is None
    assert walk([FREEZE, NIGHT], at(1, 2), 30) == Span(at(2, 1), at(2, 1, 30))
    assert walk([OVER], at(2, 0), 30) is None
    assert walk([OVER], at(1, 4), 120) == Span(at(1, 4), None)
    assert walk([NIGHT], at(1, 6), 10, ends_by=at(2, 0)) is None
    assert walk([NIGHT], at(1, 4), 600, ends_by=at(2, 2)) == Span(at(1, 4), None)


def test_a_wave_takes_as_long_as_its_batches_or_its_largest_cluster():
    assert wave_minutes([], 5) == 0
    assert wave_minutes([10] * 10, 5) == 20
    assert wave_minutes([10] * 11, 5) == 30
    assert wave_minutes([10] * 10, 10, [(60, 1), (40, 2)]) == 60
    assert wave_minutes([1, 1, 30], 3) == 30
    assert walk([], at(1, 0), 0) == Span(at(1, 0), at(1, 0))
