"""What awk decides on a node is what Python decides here, by the same baseline and the same facts."""

import re
import tempfile
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetops.endpoint.patch import windows
from fleetops.endpoint.patch.decide import decide
from fleetops.endpoint.patch.facts import LEVELS, Baseline, Candidate, Filter, Rule
from fleetops.endpoint.patch.table import Wanted, refused
from tests.endpoint.patch.scripts import AWKS, HERE, awk, decided, fact

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
each_awk = pytest.mark.parametrize("words", AWKS, ids=" ".join)

names = st.sampled_from(["openssl", "openssl-libs", "kernel", "kernel-devel", "vim", "lib+x.y"])
values = {
    "CLASSIFICATION": ["Security", "Bugfix", "security", "*"],
    "SEVERITY": ["Critical", "Important", "Low", "*"],
    "PRODUCT": ["AmazonLinux2", "AmazonLinux2.0", "Debian12", "*"],
    "PRIORITY": ["Required", "Optional", "*"],
    "SECTION": ["libs", "admin", "*"],
    "NAME": ["kernel", "vim"],
    "ARCH": ["x86_64", "noarch"],
    "EPOCH": ["0", "1"],
    "VERSION": ["1.2", "2.0"],
    "RELEASE": ["3.el9", "4.el9"],
    "ADVISORY_ID": ["ALAS-1", "ALAS-2"],
    "CVE_ID": ["CVE-2026-0001", "CVE-2026-0002"],
    "BUGZILLA_ID": ["101", "102"],
}
filters = st.sampled_from(sorted(values)).flatmap(
    lambda key: st.lists(st.sampled_from(values[key]), min_size=1, max_size=2).map(lambda got: Filter(key, tuple(got)))
)
rules = st.builds(
    Rule,
    filters=st.lists(filters, max_size=2).map(tuple),
    approve_after_days=st.sampled_from([0, 1, 7]),
    compliance_level=st.sampled_from(LEVELS),
    enable_non_security=st.booleans(),
) | st.builds(
    Rule,
    filters=st.lists(filters, max_size=1).map(tuple),
    approve_until=st.sampled_from([date(2026, 11, 20), date(2026, 11, 29), date(2026, 12, 1)]),
    compliance_level=st.sampled_from(LEVELS),
    enable_non_security=st.booleans(),
)
patterns = st.sampled_from(
    [
        *(
            "openssl",
            "openssl*",
            "*",
            "kernel.x86_64",
            "kernel-1.2-3.el9.x86_64",
            "*-devel",
            "k*l*",
            "vim-2.0",
            "vim-*4*",
        ),
        *("1:2.0-4.el9", "openssl-1:1.2-3.el9", "CVE-2026-0001", "ALAS-*", "102", "lib+x.y", "lib+x?y", "0:vim-2.0-*"),
        "kernel.x86_64:0:1.2-3.el9",
    ]
)
lists = st.lists(patterns, max_size=2, unique=True).map(tuple)
candidates = st.builds(
    Candidate,
    name=names,
    version=st.sampled_from(["1.2", "2.0"]),
    release=st.sampled_from(["3.el9", "4.el9"]),
    epoch=st.sampled_from(["", "1"]),
    arch=st.sampled_from(["x86_64", "noarch"]),
    product=st.sampled_from(["AmazonLinux2", "Debian12"]),
    classification=st.sampled_from(["Security", "Bugfix", ""]),
    severity=st.sampled_from(["Critical", "Important", "Low", ""]),
    priority=st.sampled_from(["Required", "Optional", "Extra"]),
    section=st.sampled_from(["libs", "admin"]),
    is_security=st.booleans(),
    released_at=st.none() | st.integers(0, 20 * 24).map(lambda hours: NOW - timedelta(hours=hours)),
    advisory_ids=st.sampled_from([(), ("ALAS-1",), ("ALAS-2",)]),
    cves=st.sampled_from([(), ("CVE-2026-0001",), ("CVE-2026-0001", "CVE-2026-0002")]),
    bugzilla_ids=st.sampled_from([(), ("101",), ("101", "102")]),
)


@st.composite
def baselines(draw, system):
    return Baseline(
        "pb-1",
        "drawn",
        system,
        global_filters=draw(st.lists(filters, max_size=1).map(tuple)),
        rules=draw(st.lists(rules, max_size=3).map(tuple)),
        approved=draw(lists),
        approved_level=draw(st.sampled_from(LEVELS)),
        approved_enable_non_security=draw(st.booleans()),
        rejected=draw(st.just(()) | lists),
    )


@pytest.mark.parametrize(("system", "family"), [("AMAZON_LINUX_2", "rpm"), ("DEBIAN", "apt"), ("SUSE", "suse")])
@each_awk
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_awk_approves_what_python_approves_and_at_the_same_level(words, system, family, data):
    baseline = data.draw(baselines(system))
    drawn = data.draw(st.lists(candidates, min_size=1, max_size=8, unique_by=lambda patch: (patch.name, patch.arch)))
    wanted = {
        f"{patch.name}.{patch.arch}": decision.level
        for patch in drawn
        if (decision := decide(baseline, patch, now=NOW)) is not None and decision.is_approved
    }
    with tempfile.TemporaryDirectory() as directory:
        rows = decided(words, Path(directory), baseline, map(fact, drawn), now=NOW, family=family)
        plan = decided(words, Path(directory), baseline, map(fact, drawn), now=NOW, family=family, mode="plan")
    assert {row[1]: row[6] for row in rows if row[0] == "MISSING"} == wanted
    assert {f"{name}.{arch}" for name, arch, _ in plan} == wanted.keys()


SECURITY = Rule((Filter("CLASSIFICATION", ("Security",)),), 7, compliance_level="HIGH")
OLD = NOW - timedelta(days=30)


def patch(name, version, **more):
    more = {"classification": "Security", "severity": "Important", "released_at": OLD, "arch": "x86_64"} | more
    number, _, release = version.partition("-")
    return Candidate(name=name, version=number, release=release, **more)


def states(rows):
    return {row[1]: (row[0], row[2]) for row in rows}


@each_awk
def test_the_newest_version_that_is_approved_is_missing_and_not_the_newest_of_all(words, tmp_path):
    facts = [
        fact(patch("openssl", "3-1"), kind="I", rank=4),
        fact(patch("openssl", "3-2", severity="Critical", cves=("CVE-2026-0001",)), rank=3),
        fact(patch("openssl", "3-3", cves=("CVE-2026-0002",)), rank=2),
        fact(patch("openssl", "3-4", released_at=NOW - timedelta(days=2)), rank=1),
    ]
    baseline = Baseline("pb-1", "", "AMAZON_LINUX_2023", rules=(SECURITY,))
    rows = decided(words, tmp_path, baseline, facts, now=NOW, family="rpm")
    # Of all that is missing the gravest severity, and each CVE.
    assert rows == [
        ["MISSING", "openssl.x86_64", "3-3", "Security", "Critical", "", "HIGH", "CVE-2026-0001,CVE-2026-0002"]
    ]
    plan = decided(words, tmp_path, baseline, facts, now=NOW, family="rpm", mode="plan")
    assert plan == [["openssl", "x86_64", "3-3"]]


@each_awk
def test_what_is_installed_is_told_as_the_baseline_sees_it(words, tmp_path):
    facts = [
        fact(patch("openssl", "3-1"), kind="I", installed="2026-10-01T00:00:00Z"),
        fact(patch("kernel", "6-1"), kind="I", installed="2026-10-02T00:00:00Z"),
        fact(patch("vim", "9-1", released_at=NOW), kind="I"),
        fact(patch("curl", "8-1"), kind="I"),
        fact(patch("curl", "8-2"), rank=1),
    ]
    baseline = Baseline("pb-1", "", "AMAZON_LINUX_2023", rules=(SECURITY,), rejected=("curl*",))
    told = states(decided(words, tmp_path, baseline, facts, now=NOW, family="rpm"))
    assert told == {
        "openssl.x86_64": ("INSTALLED", "3-1"),
        "kernel.x86_64": ("INSTALLED", "6-1"),
        "vim.x86_64": ("INSTALLED_OTHER", "9-1"),  # approved in a week
        "curl.x86_64": ("INSTALLED_OTHER", "8-1"),
    }
    blocking = Baseline(
        "pb-1", "", "AMAZON_LINUX_2023", rules=(SECURITY,), rejected=("curl*",), rejected_action="BLOCK"
    )
    tracking = "kernel.x86_64\t6-1\t2026-11-30T11:00:00Z\t1\nopenssl.x86_64\t3-1\t2026-11-01T00:00:00Z\t0\n"
    rows = decided(words, tmp_path, blocking, facts, now=NOW, family="rpm", tracking=tracking)
    assert states(rows)["curl.x86_64"] == ("INSTALLED_REJECTED", "8-1")
    assert states(rows)["kernel.x86_64"] == ("INSTALLED_PENDING_REBOOT", "6-1")
    assert states(rows)["openssl.x86_64"] == ("INSTALLED", "3-1")  # restarted since
    assert next(row[5] for row in rows if row[1] == "kernel.x86_64") == "2026-11-30T11:00:00Z"


@each_awk
def test_an_installation_lists_what_failed_and_nothing_as_missing(words, tmp_path):
    facts = [fact(patch("openssl", "3-1"), kind="I", rank=2), fact(patch("openssl", "3-2"))]
    facts += [fact(patch("kernel", "6-1"), kind="I", rank=2), fact(patch("kernel", "6-2"))]
    baseline = Baseline("pb-1", "", "AMAZON_LINUX_2023", rules=(SECURITY,))
    rows = decided(
        words, tmp_path, baseline, facts, now=NOW, family="rpm", operation="Install", failed="kernel.x86_64\t6-2\n"
    )
    assert states(rows) == {"openssl.x86_64": ("INSTALLED", "3-1"), "kernel.x86_64": ("FAILED", "6-2")}


@each_awk
def test_a_list_of_patches_is_installed_in_the_place_of_what_the_baseline_approves(words, tmp_path):
    facts = [fact(patch("openssl", f"3-{number}", epoch="1"), rank=4 - number) for number in (1, 2, 3)]
    facts += [fact(patch("kernel", "6-2")), fact(patch("vim", "9-2"))]
    baseline = Baseline("pb-1", "", "AMAZON_LINUX_2023", rules=(SECURITY,), rejected=("vim",))

    def planned(*wanted):
        return decided(words, tmp_path, baseline, facts, now=NOW, family="rpm", mode="plan", wanted=wanted)

    assert planned(Wanted("openssl.x86_64", "1:3-2")) == [["openssl", "x86_64", "1:3-2"]]
    assert planned(Wanted("openssl", "3-1*")) == [["openssl", "x86_64", "1:3-1"]]
    assert planned(Wanted("v*")) == [["vim", "x86_64", "9-2"]]
    assert planned() == []


@each_awk
def test_windows_nodes_tell_how_each_update_stands_as_the_service_has_decided(words, tmp_path):
    """The month before is installed, and the last one waits; SQL Server is there, and Office is not."""
    september, october, november = ("KB5065432", "KB5066782", "KB5068787")
    server, applications = Filter("PRODUCT", ("WindowsServer2022",)), Filter("PATCH_SET", ("APPLICATION",))
    baseline = Baseline(
        "pb-1",
        "",
        "WINDOWS",
        rules=(Rule((server,), approve_until=date(2026, 11, 1), compliance_level="HIGH"), Rule((applications,), 0)),
        rejected=("KB890830",),
        rejected_action="BLOCK",
    )
    at = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)

    def told(*installed, now=at, **more):
        facts = [f"{name}\t2026-09-08\t2026-10-01T00:00:00Z\n" for name in (*installed, "Microsoft SQL Server 2019")]
        more["updates"] = windows.updates(more.pop("baseline", baseline), taken_at=now, now=now)
        kept = {"family": "windows", "product": "WindowsServer2022", "script": "decide-windows.awk"}
        return decided(words, tmp_path, baseline, facts, now=now, **kept, **more)

    rows = {row[1]: row for row in told(september, "KB890830", "KB4000001")}
    assert rows[october][0] == "MISSING" and rows[october][6] == "HIGH" and rows[october][2].endswith("(KB5066782)")
    assert rows["KB5065222"][0] == "MISSING"  # of SQL Server; Office's is not applicable
    assert (rows[november][0], rows["KB5002794"][0]) == ("AVAILABLE_SECURITY_UPDATE", "NOT_APPLICABLE")
    assert [rows[name][0] for name in (september, "KB890830", "KB4000001")] == [
        *("INSTALLED", "INSTALLED_REJECTED", "INSTALLED_OTHER"),
    ]
    assert states(told())[september][0] == "NOT_APPLICABLE"  # october's holds it
    assert states(told(october))[september][0] == "NOT_APPLICABLE"
    assert states(told(november))[october][0] == "NOT_APPLICABLE"
    # A list is obeyed as far as the baseline goes.
    plan = told(september, mode="plan", wanted=[Wanted(october), Wanted(november)])
    assert plan == [[october, "x64", "2026-10-13"]]
    assert {row[0] for row in told(september, mode="plan")} >= {october, "KB5065222"}
    tracking, failed = f"{september}.x64\t2026-09-08\t2026-11-30T11:00:00Z\t1\n", f"{october}.x64\t2026-10-13\n"
    rows = states(told(september, operation="Install", tracking=tracking, failed=failed))
    assert rows[september][0] == "INSTALLED_PENDING_REBOOT" and rows[october][0] == "FAILED"
    assert "KB5065222" not in rows  # an installation lists nothing as missing


def test_what_microsoft_will_have_released_follows_from_the_month():
    later = datetime(2027, 3, 1, tzinfo=UTC)
    found = [patch for patch in windows.patches(later) if patch.product == "WindowsServer2025"]
    days = sorted(f"{patch.released_at:%Y-%m-%d}" for patch in found)
    # Second Tuesdays; that of March is still to come.
    assert days == [f"2026-{day}" for day in ("09-08", "10-13", "11-10", "12-08")] + ["2027-01-12", "2027-02-09"]
    assert len({patch.name for patch in found}) == len(found)
    updates = windows.updates(Baseline("pb-1", "", "WINDOWS"), taken_at=later, now=later)
    assert max(update.patch.released_at for update in updates) <= later


@each_awk
def test_values_cannot_leave_their_field_or_end_the_script(words, tmp_path):
    nasty = "x\tapproved\t*\nEND_OF_TABLE\n$(reboot) `id` '\" {{ Operation }} é"
    facts = [fact(patch("openssl", "3-2", is_security=False, classification="Other"))]
    baseline = Baseline("pb-1", nasty, "DEBIAN", rules=(SECURITY,), approved=(nasty,), rejected=(nasty,))
    assert decided(words, tmp_path, baseline, facts, now=NOW, family="apt", patch_group=nasty) == []
    table = (tmp_path / "table").read_text()
    assert not re.search(r"[`$'\"{}\\]", table) and "\nEND_OF" not in table
    assert refused(nasty).count("\n") == 1


@each_awk
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 4_102_444_800))
def test_moments_are_written_without_strftime(words, seconds):
    told = awk(words, "-v", f"at={seconds}", "-f", str(HERE / "time.awk"), "-f", str(HERE / "now.awk"))
    assert told.strip() == f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
