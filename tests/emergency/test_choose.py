"""Lists of patches, the canary, marks and coverage, without rows."""

from datetime import UTC, datetime, timedelta

import pytest

from patching.emergency import choose, coverage
from patching.emergency.choose import Candidate, Need
from patching.emergency.coverage import Span
from patching.emergency.marks import GROUP_TAG, Mark, mark, refresh_command

AT = datetime(2026, 11, 30, 12, tzinfo=UTC)


def need(node, version="1", *, system="DEBIAN", of="12", id_="libssl3", at=AT):
    return Need(node, system, of, id_, f"{id_}:{version}", at)


def test_the_nodes_of_a_system_share_a_list_of_all_that_any_of_them_lacks():
    made = choose.fixes([need("a"), need("b", id_="openssl"), need("b")])
    assert [each.entries for each in made] == [(("libssl3", "libssl3:1"), ("openssl", "openssl:1"))]
    assert made[0].nodes == ("a", "b") and made[0].versions == ()


def test_releases_of_a_system_that_need_other_versions_have_lists_of_their_own():
    made = choose.fixes([need("a", "deb11", of="11"), need("b", "deb12", of="12"), need("c", "deb12", of="12")])
    assert [(each.versions, each.nodes) for each in made] == [(("12",), ("b", "c")), (("11",), ("a",))]
    assert not any(each.notes for each in made)


def test_of_two_versions_on_one_release_the_one_of_the_newest_report_goes_and_that_is_said():
    made = choose.fixes([need("a", "1", at=AT), need("b", "2", at=AT - timedelta(days=3))])
    assert made[0].entries == (("libssl3", "libssl3:1"),) and made[0].nodes == ("a", "b")
    assert "the newest report names" in made[0].notes[0] and "libssl3:2" in made[0].notes[0]


def test_systems_with_the_same_list_share_one_and_others_do_not():
    same = [Need("a", "ROCKY_LINUX", "9", "x.noarch", "x:1", AT), Need("b", "ALMA_LINUX", "9", "x.noarch", "x:1", AT)]
    made = choose.fixes([*same, need("c")])
    assert [each.systems for each in made] == [("ALMA_LINUX", "ROCKY_LINUX"), ("DEBIAN",)]
    assert made[0].key != made[1].key and made == choose.fixes([need("c"), *reversed(same)])


def candidate(name, minutes=3.0, mark=Mark.ALONE, is_held=False):
    return Candidate(name, name, mark, minutes, is_held)


@pytest.mark.parametrize(
    ("candidates", "first"),
    [
        ([candidate("slow", 9), candidate("quick", 2)], "quick"),
        ([candidate("db", 1, Mark.DATA), candidate("web", 9)], "web"),
        ([candidate("frozen", 1, is_held=True), candidate("web", 9)], "web"),
        ([candidate("db", 1, Mark.DATA), candidate("frozen", 9, is_held=True)], "frozen"),
        ([candidate("db-2", 2, Mark.DATA), candidate("db-1", 1, Mark.DATA)], "db-1"),
        ([candidate("b"), candidate("a")], "a"),
    ],
)
def test_the_canary_holds_no_data_if_it_can_be_then_is_not_held_then_is_quick(candidates, first):
    found, why = choose.canary(candidates)
    assert found.key == first
    assert ("hold data" in why) == (found.mark is Mark.DATA) and ("a freeze holds" in why) == found.is_held


@pytest.mark.parametrize(
    ("spread", "nodes", "made"),
    [
        ("once", 1, ["list"]),
        ("once", 9, ["list", "rest"]),
        ("waves", 1, ["list"]),
        ("waves", 2, ["list", "rest"]),
        ("waves", 40, ["list", "percent", "percent", "rest"]),
    ],
)
def test_a_canary_of_one_goes_first_and_bears_no_failure(spread, nodes, made):
    rules = choose.wave_rules(spread, "id=i-1", nodes=nodes, soak_minutes=5)
    assert [each["by"] for each in rules] == made
    assert (rules[0]["value"], rules[0]["budget"], rules[0]["soak_minutes"]) == ("id=i-1", "0", 5 if nodes > 1 else 0)


def test_marks_say_what_may_be_done_and_data_outweighs_a_group():
    group = {GROUP_TAG: "web; rm"}
    assert mark(group, [], holds_data=False).mark is Mark.REPLACEABLE
    assert mark({}, [], holds_data=False).mark is Mark.ALONE
    both = mark(group, ["1111 cluster=pg"], holds_data=False)
    assert both.mark is Mark.DATA and "protected cluster, cluster=pg" in both.why and "web; rm as well" in both.why
    assert mark(group, [], holds_data=True).mark is Mark.DATA
    assert "--auto-scaling-group-name 'web; rm' --region eu-west-1" in refresh_command("web; rm", "eu-west-1")


PATCH = ("libssl3", "libssl3:2")


def span(state, start, end=None, title="libssl3:2", kb="libssl3"):
    moment = [None if each is None else AT + timedelta(minutes=each) for each in (start, end)]
    return Span(kb, title, state, moment[0], moment[1])


@pytest.mark.parametrize(
    ("spans", "minute", "words"),
    [
        ([span("MISSING", 0)], None, "lacks the patch"),
        ([span("FAILED", 0)], None, "could not be installed"),
        ([span("MISSING", 0, 5), span("INSTALLED", 5)], 5, ""),
        ([span("MISSING", 0, 5), span("INSTALLED_PENDING_REBOOT", 5)], None, "waits for a restart"),
        ([span("MISSING", 0, 5), span("INSTALLED_PENDING_REBOOT", 5, 8), span("INSTALLED", 8)], 8, ""),
        # Its baseline no longer speaks of it: that proves nothing.
        ([span("MISSING", 0, 5)], None, "no more"),
        # What was installed before it was missed is an older version.
        ([span("INSTALLED", -9, 0, "libssl3:1"), span("MISSING", 0, 5)], None, "no more"),
        # A newer version came, was missed, and was installed in its stead; then a still newer one is missed.
        ([span("MISSING", 0, 5), span("MISSING", 5, 9, "libssl3:3"), span("INSTALLED", 9, None, "libssl3:3")], 9, ""),
        ([span("MISSING", 0, 5), span("INSTALLED", 5, 9), span("MISSING", 9, None, "libssl3:3")], 5, ""),
        ([], None, "no more"),
    ],
)
def test_a_node_is_fixed_when_its_own_reports_say_so(spans, minute, words):
    at, why = coverage.fixed([PATCH], spans)
    assert at == (None if minute is None else AT + timedelta(minutes=minute))
    assert words in why and bool(why) == (minute is None)


def test_a_node_that_lacked_two_is_fixed_with_the_last_of_them():
    other = ("openssl", "openssl:2")
    spans = [span("MISSING", 0, 5), span("INSTALLED", 5), span("MISSING", 0, 7, "openssl:2", "openssl")]
    assert coverage.fixed([PATCH, other], spans)[0] is None
    spans.append(span("INSTALLED", 7, None, "openssl:2", "openssl"))
    assert coverage.fixed([PATCH, other], spans)[0] == AT + timedelta(minutes=7)


def minutes(*numbers):
    return [None if each is None else AT + timedelta(minutes=each) for each in numbers]


@pytest.mark.parametrize(
    ("moments", "half", "full"),
    [
        ((None, None), None, None),
        ((4, None), 4, None),
        ((9, 4), 4, 9),
        ((2, 4, None), 4, None),  # half of three is two
        ((-5, 3), 0, 3),  # what was before it began counts as at its beginning
        ((), None, None),
    ],
)
def test_time_to_half_and_to_all(moments, half, full):
    found = coverage.coverage(minutes(*moments), began_at=AT)
    told = [None if each is None else each.total_seconds() / 60 for each in (found.half_after, found.full_after)]
    assert told == [half, full]
    assert found.left == sum(each is None for each in moments)
    counts = [count for _, count in found.points]
    assert counts == sorted(counts) and found.points[-1][1] == found.fixed
    chart = coverage.draw(found, until=AT + timedelta(minutes=30))
    assert all(44 <= float(point.split(",")[0]) <= 812 for point in chart.line.split())
