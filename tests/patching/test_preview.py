"""What a baseline approves: AWS's order of deciding, the same as the endpoint's, and what a change of it changes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetops.aws.patching import NodePatch
from fleetops.endpoint.patch import decide as endpoint
from fleetops.endpoint.patch import shapes
from fleetops.endpoint.patch.decide import Deployment
from fleetops.endpoint.patch.facts import Candidate
from patching.content import Content, Filter, Rule
from patching.families import Family, family_of, traits_of
from patching.known import of_node_patch, split_title
from patching.preview import Answer, Patch, compare, decide

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
AL = "AMAZON_LINUX_2023"
SYSTEMS = [AL, "UBUNTU", "SUSE", "MACOS", "WINDOWS", "REDHAT_ENTERPRISE_LINUX"]
VALUES = {
    "PRODUCT": ["AmazonLinux2023", "AmazonLinux2023.0", "Ubuntu24.04", "WindowsServer2022", "*"],
    "CLASSIFICATION": ["Security", "Bugfix", "SecurityUpdates", "Updates", "*"],
    "SEVERITY": ["Critical", "Important", "Low"],
    "MSRC_SEVERITY": ["Critical", "Important", "Low"],
    "PATCH_SET": ["OS", "APPLICATION"],
    "PRODUCT_FAMILY": ["Windows", "Office"],
}
KEYS = {Family.WINDOWS: [*VALUES][1:2] + ["PRODUCT", "MSRC_SEVERITY", "PATCH_SET", "PRODUCT_FAMILY"]}


def patch(**facts) -> Patch:
    given = {"name": "openssl", "version": "3.0.8", "release": "1", "arch": "x86_64", "product": "AmazonLinux2023"}
    return Patch(**(given | {"classification": "Security", "severity": "Critical"} | facts))


def filters_of(system: str):
    keys = KEYS.get(family_of(system), ["PRODUCT", "CLASSIFICATION"] + ["SEVERITY"] * (system != "MACOS"))
    keys = ["PRODUCT"] if family_of(system) == Family.APT else keys
    one = st.sampled_from(keys).flatmap(
        lambda key: st.lists(st.sampled_from(VALUES[key]), min_size=1, max_size=2, unique=True).map(
            lambda values: Filter(key, tuple(sorted(values)))
        )
    )
    found = st.lists(one, max_size=3, unique_by=lambda each: each.key)
    order = traits_of(system).keys
    return found.map(lambda each: tuple(sorted(each, key=lambda one: order.index(one.key))))


@st.composite
def contents(draw):
    system = draw(st.sampled_from(SYSTEMS))
    family = family_of(system)
    names = ["KB500001", "KB500002"] if family == Family.WINDOWS else ["openssl", "kernel", "curl"]
    if family == Family.RPM:
        names += ["open*", "CVE-2026-1", "kernel.x86_64", "openssl-0:3.0.8-1", "*-1"]
    moments = st.one_of(
        st.integers(0, 20).map(lambda days: {"approve_after_days": days}),
        st.dates(datetime(2026, 11, 1).date(), datetime(2026, 12, 5).date()).map(
            lambda day: {"approve_until": day.isoformat()}
        ),
    )
    moments = st.just({}) if family == Family.APT else moments
    lets_in = st.booleans() if family in {Family.RPM, Family.APT, Family.SUSE} else st.just(False)
    rule = st.builds(
        lambda found, when, level, more: Rule(found, level=level, non_security=more, **when),
        filters_of(system),
        moments,
        st.sampled_from(["CRITICAL", "LOW", "UNSPECIFIED"]),
        lets_in,
    )
    listed = st.lists(st.sampled_from(names), max_size=2, unique=True).map(lambda found: tuple(sorted(found)))
    return Content(
        system,
        "generated",
        global_filters=draw(filters_of(system)),
        rules=tuple(draw(st.lists(rule, max_size=3))),
        approved=draw(listed),
        approved_level=draw(st.sampled_from(["HIGH", "UNSPECIFIED"])),
        approved_non_security=draw(lets_in),
        rejected=draw(listed),
    )


RELEASES = st.datetimes(datetime(2026, 11, 1), datetime(2026, 12, 5), timezones=st.just(UTC))


@st.composite
def patches(draw, system: str):
    family = family_of(system)
    windows = family == Family.WINDOWS
    return Patch(
        name=draw(st.sampled_from(["KB500001", "KB500002"] if windows else ["openssl", "kernel", "curl"])),
        version="" if windows else draw(st.sampled_from(["3.0.8", "6.1"])),
        release="" if windows or family == Family.APT else "1",
        arch="" if windows else "x86_64",
        product=draw(st.sampled_from(VALUES["PRODUCT"][:-1])),
        product_family=draw(st.sampled_from(["Windows", "Office"])),
        patch_set=draw(st.sampled_from(["OS", "APPLICATION"])),
        classification=draw(st.sampled_from(["Security", "Bugfix", "SecurityUpdates", "Updates", ""])),
        severity=draw(st.sampled_from(["Critical", "important", "Low", ""])),
        released_at=draw(
            st.none() | st.datetimes(datetime(2026, 11, 1), datetime(2026, 12, 5), timezones=st.just(UTC))
        ),
        cves=draw(st.sampled_from([(), ("CVE-2026-1",)])),
    )


def candidate(one: Patch, family: Family) -> Candidate:
    """The same patch as the endpoint knows it: what we conclude from its class, the endpoint knows from its source."""
    is_security = {
        Family.RPM: bool(one.classification),
        Family.SUSE: bool(one.classification),
        Family.APT: one.classification.startswith("Security"),
    }.get(family, True)
    names = ("name", "version", "release", "epoch", "arch", "product", "product_family", "patch_set", "classification")
    facts = {name: getattr(one, name) for name in (*names, "severity", "released_at", "cves")}
    return Candidate(**facts, is_security=is_security)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_the_preview_decides_as_the_endpoint_does_whatever_the_rules(data):
    content = data.draw(contents())
    one = data.draw(patches(content.operating_system))
    baseline = shapes.read(
        content.to_aws(), baseline_id="pb-1", name=content.name, operating_system=content.operating_system
    )
    theirs = endpoint.decide(baseline, candidate(one, family_of(content.operating_system)), now=NOW)
    ours = decide(content, one, now=NOW)
    expected = {
        None: Answer.LEFT_OUT,
        Deployment.APPROVED: Answer.APPROVED,
        Deployment.EXPLICIT_APPROVED: Answer.APPROVED,
        Deployment.PENDING_APPROVAL: Answer.WAITING,
        Deployment.EXPLICIT_REJECTED: Answer.REJECTED,
    }[theirs and theirs.status]
    assert ours.answer == expected
    if theirs is not None and ours.answer in {Answer.APPROVED, Answer.WAITING}:
        assert ours.level == theirs.level
    if ours.answer == Answer.WAITING:
        assert ours.from_at == theirs.approved_at


@settings(max_examples=60, deadline=None)
@given(contents())
def test_what_is_written_to_aws_and_read_again_is_the_same(content):
    assert Content.of_aws(content.operating_system, content.to_aws()) == content


def test_a_delay_counts_from_the_release_to_the_second_and_a_date_takes_its_whole_day_in():
    late = Content(AL, "x", rules=(Rule((), 7),))
    released = NOW - timedelta(days=7)
    assert decide(late, patch(released_at=released), now=NOW).is_approved
    waiting = decide(late, patch(released_at=released + timedelta(seconds=1)), now=NOW)
    assert (waiting.answer, waiting.from_at) == (Answer.WAITING, NOW + timedelta(seconds=1))
    until = Content(AL, "x", rules=(Rule((), approve_until="2026-11-20"),))
    for moment, answer in (("2026-11-20T23:59:59", Answer.APPROVED), ("2026-11-21T00:00:00", Answer.LEFT_OUT)):
        released = datetime.fromisoformat(moment).replace(tzinfo=UTC)
        assert decide(until, patch(released_at=released), now=NOW).answer == answer


@pytest.mark.parametrize(
    ("until", "answer"),
    [
        ("31.12.2026", Answer.LEFT_OUT),
        ("soon", Answer.LEFT_OUT),
        ("9999-12-31", Answer.APPROVED),
        ("0001-01-01", Answer.LEFT_OUT),
    ],
)
def test_no_date_of_a_rule_breaks_a_decision(until, answer):
    content = Content(AL, "x", rules=(Rule((), approve_until=until),))
    assert decide(content, patch(released_at=NOW), now=NOW).answer == answer


def test_a_comparison_counts_what_changes_and_whom_it_touches():
    old = Content(AL, "x", rules=(Rule((Filter("SEVERITY", ("Critical",)),), 0),))
    new = replace(old, rules=(Rule((Filter("SEVERITY", ("Critical", "Low")),), 0),), rejected=("kernel",))
    known = [
        patch(),
        patch(name="curl", severity="Low"),
        patch(name="kernel"),
        patch(name="bash", severity="Medium"),
        patch(name="vim", severity="Low", version="9"),
    ]
    nodes = {
        "a": {"curl": "INSTALLED_OTHER", "curl|3.0.7-1": "INSTALLED_OTHER", "openssl": "INSTALLED"},
        "b": {"curl": "INSTALLED", "curl|3.0.8-1": "INSTALLED", "openssl": "INSTALLED"},
        "c": {"curl": "INSTALLED", "curl|3.0.6-1": "INSTALLED", "kernel": "MISSING", "kernel|3.0.8-1": "MISSING"},
    }
    found = compare(old, new, known, nodes, now=NOW)
    assert (found.known, found.approved_before, found.approved, found.rejected) == (5, 2, 3, 1)
    assert [row.patch.name for row in found.newly_approved] == ["curl", "vim"]
    assert (found.newly_approved[0].needed_on, found.newly_approved[0].installed_on) == (2, 1)
    (gone,) = found.no_longer
    assert (gone.patch.name, gone.after.by, gone.needed_on) == ("kernel", "the rejected list", 1)
    assert found.fall_out == ["a"]  # c misses something already
    assert found.undated == 3
    # Of what a baseline leaves out a node tells no version, only since when it is there.
    dated = [replace(known[1], released_at=NOW - timedelta(days=9))]
    since = {"old": "2026-01-05T06:00:00+00:00", "new": NOW.isoformat()}
    nodes = {name: {"curl": f"INSTALLED_OTHER@{at}"} for name, at in since.items()} | {
        "unsaid": {"curl": "INSTALLED_OTHER"}
    }
    assert compare(old, new, dated, nodes, now=NOW).fall_out == ["old"]
    first = compare(None, new, known, {}, now=NOW)
    assert (first.approved_before, len(first.newly_approved), first.nodes) == (0, 3, 0)


@pytest.mark.parametrize(
    ("title", "kb_id", "parts"),
    [
        ("openssl.x86_64:1:3.0.8-1.amzn2023", "openssl.x86_64", ("openssl", "x86_64", "1", "3.0.8-1.amzn2023")),
        ("openssl.x86_64:3.0.8-1.amzn2023", "openssl.x86_64", ("openssl", "x86_64", "", "3.0.8-1.amzn2023")),
        ("libssl3:amd64:3.0.13-1~deb12u1", "libssl3", ("libssl3", "amd64", "", "3.0.13-1~deb12u1")),
        ("libssl3.amd64:3.0.13-1", "libssl3.amd64", ("libssl3", "amd64", "", "3.0.13-1")),
        ("bind9:1:9.18.28-1~deb12u2", "bind9", ("bind9", "", "1", "9.18.28-1~deb12u2")),
        ("python3.11:3.11.2-6", "python3.11", ("python3.11", "", "", "3.11.2-6")),
        ("bash", "bash", ("bash", "", "", "")),
    ],
)
def test_what_a_node_calls_a_patch_is_taken_apart(title, kb_id, parts):
    assert split_title(title, kb_id) == parts


def test_what_a_node_merely_has_is_no_patch_of_its_baseline():
    told = NodePatch("bash.x86_64:5-1", "bash.x86_64", "", "", "INSTALLED_OTHER")
    assert of_node_patch(told, AL) is None
    missing = NodePatch("bash.x86_64:5-1.fc", "bash.x86_64", "Security", "Low", "MISSING", cves=("CVE-1",))
    found = of_node_patch(missing, AL)
    assert (found.name, found.version, found.release, found.cves) == ("bash", "5", "1.fc", ("CVE-1",))
    assert Patch.of_json(found.to_json()) == found
