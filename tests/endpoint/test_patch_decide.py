"""What a baseline approves. That the node's script says the same is shown in patch/test_decisions.py."""

import dataclasses
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetops.endpoint.patch import operating_systems, shapes
from fleetops.endpoint.patch.checks import is_name
from fleetops.endpoint.patch.decide import Deployment, decide
from fleetops.endpoint.patch.facts import LEVELS, Baseline, Candidate, Filter, Rule
from fleetops.endpoint.patch.operating_systems import Family
from fleetops.endpoint.patch.predefined import predefined

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)


def baseline(*rules, system="REDHAT_ENTERPRISE_LINUX", **more) -> Baseline:
    return Baseline("pb-1", "mine", system, rules=rules, **more)


def patch(**more) -> Candidate:
    made = {
        "name": "openssl",
        "epoch": "1",
        "version": "3.2.2",
        "release": "6.el9",
        "arch": "x86_64",
        "product": "RedhatEnterpriseLinux9.6",
        "classification": "Security",
        "severity": "Important",
        "released_at": NOW - timedelta(days=10),
        "cves": ("CVE-2026-1000",),
        "advisory_ids": ("RHSA-2026:1000",),
    }
    return Candidate(**(made | more))


ALL = Rule(approve_after_days=0)


@pytest.mark.parametrize(
    ("rule", "released", "status"),
    [
        (Rule(approve_after_days=10), NOW - timedelta(days=10), Deployment.APPROVED),
        (Rule(approve_after_days=10), NOW - timedelta(days=10) + timedelta(seconds=1), Deployment.PENDING_APPROVAL),
        (Rule(approve_until=date(2026, 11, 16)), datetime(2026, 11, 16, 23, 59, 59, tzinfo=UTC), Deployment.APPROVED),
        (Rule(approve_until=date(2026, 11, 16)), datetime(2026, 11, 17, tzinfo=UTC), None),
        (Rule(approve_after_days=360), None, Deployment.APPROVED),
    ],
)
def test_days_count_in_utc_from_the_release(rule, released, status):
    decision = decide(baseline(rule), patch(released_at=released), now=NOW)
    assert (decision.status if decision is not None else None) == status
    if status == Deployment.PENDING_APPROVAL:
        assert decision.approved_at == released + timedelta(days=10)


def test_rejected_goes_before_approved_and_approved_before_the_filters():
    listed = baseline(approved=("openssl",), approved_level="HIGH", global_filters=(Filter("SEVERITY", ("Low",)),))
    decision = decide(listed, patch(), now=NOW)
    assert (decision.status, decision.level) == (Deployment.EXPLICIT_APPROVED, "HIGH")
    both = dataclasses.replace(listed, rejected=("openssl",))
    assert decide(both, patch(), now=NOW).status == Deployment.EXPLICIT_REJECTED
    assert decide(baseline(ALL, global_filters=(Filter("SEVERITY", ("Low",)),)), patch(), now=NOW) is None


def test_the_gravest_of_the_rules_that_approve_gives_the_level():
    rules = (
        Rule(approve_after_days=0, compliance_level="LOW"),
        Rule(approve_after_days=0, compliance_level="HIGH"),
        Rule(approve_after_days=100, compliance_level="CRITICAL"),
    )
    assert decide(baseline(*rules), patch(), now=NOW).level == "HIGH"


def test_what_is_no_security_update_needs_a_rule_or_list_that_says_so():
    plain = patch(is_security=False, classification="", severity="")
    assert decide(baseline(ALL), plain, now=NOW) is None
    wide = Rule(approve_after_days=0, enable_non_security=True)
    assert decide(baseline(wide), plain, now=NOW).is_approved
    assert decide(baseline(approved=("openssl",)), plain, now=NOW) is None
    assert decide(baseline(approved=("openssl",), approved_enable_non_security=True), plain, now=NOW).is_approved


@pytest.mark.parametrize(
    "entry",
    [
        *("openssl", "openssl.x86_64", "openssl-3.2.2", "openssl-3.2.2-6.el9", "openssl-3.2.2-6.el9.x86_64", "3.2.2"),
        *("3.2.2-6.el9", "1:3.2.2-6.el9", "openssl-1:3.2.2-6.el9", "openssl-1:3.2.2-6.el9.x86_64"),
        *("1:openssl-3.2.2-6.el9.x86_64", "openssl.x86_64:1:3.2.2-6.el9", "openssl*", "openssl-3.2.*"),
        *("openssl-*:3.2.2-6.el9.x86_64", "CVE-2026-1000", "RHSA-2026:1000"),
    ],
)
def test_every_documented_way_of_naming_a_package_names_it(entry):
    """User guide, "Package name formats for approved and rejected patch lists"."""
    assert is_name(entry, Family.RPM, may_be_id=True)
    assert decide(baseline(approved=(entry,)), patch(), now=NOW).status == Deployment.EXPLICIT_APPROVED
    assert (
        decide(
            baseline(approved=(entry,)),
            patch(name="bash", version="5", epoch="", release="1", cves=(), advisory_ids=()),
            now=NOW,
        )
        is None
    )


@pytest.mark.parametrize(
    ("family", "entry", "is_sound"),
    [
        (Family.APT, "libstdc++6", True),
        (Family.APT, "openssl:amd64", False),
        (Family.APT, "openssl_3.0", False),
        (Family.SUSE, "SUSE-SLE-Example-Package-12-2018-*", True),
        (Family.SUSE, "example-pkg-2018.11.4-46.17.1.x86_64.rpm", True),
        (Family.SUSE, "a*-*", False),
        (Family.WINDOWS, "KB2032276", True),
        (Family.WINDOWS, "MS10-048", True),
        (Family.WINDOWS, "2032276", False),
        (Family.MACOS, "Safari17.4VenturaAuto-17.4", True),
        (Family.MACOS, "Safari*", False),
    ],
)
def test_each_family_names_patches_in_its_own_way(family, entry, is_sound):
    assert is_name(entry, family, may_be_id=False) is is_sound


def test_apt_knows_bare_names_alone():
    made = patch(name="openssl", arch="amd64", priority="optional", product="Debian12")
    for entry, is_approved in (("openssl", True), ("openssl-3.2.2", False), ("CVE-2026-1000", False)):
        decision = decide(baseline(approved=(entry,), system="DEBIAN"), made, now=NOW)
        assert (decision is not None) is is_approved


def test_aws_s_own_baselines_approve_what_the_user_guide_says():
    urgent, bugfix = patch(), patch(classification="Bugfix", severity="")
    low, fresh = patch(severity="Low"), patch(released_at=NOW - timedelta(days=6))
    for one in predefined("eu-west-1").values():
        facts = shapes.read(
            one.content, baseline_id=one.baseline_id, name=one.name, operating_system=one.operating_system
        )
        assert (
            shapes.read(
                shapes.written(facts), baseline_id=one.baseline_id, name=one.name, operating_system=one.operating_system
            )
            == facts
        )
        if one.operating_system in {"AMAZON_LINUX_2023", "REDHAT_ENTERPRISE_LINUX", "ROCKY_LINUX"}:
            assert decide(facts, urgent, now=NOW).is_approved and decide(facts, bugfix, now=NOW).is_approved
            assert decide(facts, low, now=NOW) is None
            assert decide(facts, fresh, now=NOW).status == Deployment.PENDING_APPROVAL
        if one.operating_system == "DEBIAN":
            made = patch(priority="extra", product="Debian12", released_at=NOW)
            assert decide(facts, made, now=NOW).is_approved
            assert decide(facts, dataclasses.replace(made, is_security=False), now=NOW) is None
        if one.name == "AWS-WindowsPredefinedPatchBaseline-OS-Applications":
            office = Candidate("KB1", product_family="Office", patch_set="APPLICATION", classification="Updates")
            assert decide(facts, office, now=NOW).is_approved
            assert decide(facts, dataclasses.replace(office, patch_set="OS"), now=NOW) is None


@pytest.mark.parametrize(
    ("name", "version", "system", "product"),
    [
        ("Amazon Linux", "2023", "AMAZON_LINUX_2023", "AmazonLinux2023"),
        ("Amazon Linux", "2", "AMAZON_LINUX_2", "AmazonLinux2"),
        ("Amazon Linux AMI", "2018.03", "AMAZON_LINUX", "AmazonLinux2018.03"),
        ("Ubuntu", "22.04", "UBUNTU", "Ubuntu22.04"),
        ("Debian GNU/Linux", "12.5", "DEBIAN", "Debian12"),
        ("Red Hat Enterprise Linux", "9.6", "REDHAT_ENTERPRISE_LINUX", "RedhatEnterpriseLinux9.6"),
        ("CentOS Stream", "9", "CENTOS", "CentOS9"),
        ("Oracle Linux Server", "8.10", "ORACLE_LINUX", "OracleLinux8.10"),
        ("SLES", "15.5", "SUSE", "Suse15.5"),
        ("AlmaLinux", "9.4", "ALMA_LINUX", "AlmaLinux9.4"),
        ("Plan 9", "4", "", ""),
    ],
)
def test_a_node_s_operating_system_and_product_follow_from_its_platform(name, version, system, product):
    information = {"PlatformType": "Linux", "PlatformName": name, "PlatformVersion": version}
    assert operating_systems.of_platform(information) == system
    assert operating_systems.product_of(information) == product
    assert not product or product in operating_systems.PRODUCTS[system]
    windows = {"PlatformType": "Windows", "PlatformName": "Microsoft Windows Server 2012 R2 Datacenter"}
    assert operating_systems.product_of(windows) == "WindowsServer2012R2"


def _values(*values):
    return st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True).map(tuple)


_FILTERS = {
    "RPM": {
        "PRODUCT": _values("RedhatEnterpriseLinux9.6", "RedhatEnterpriseLinux8", "*"),
        "CLASSIFICATION": _values("Security", "Bugfix", "*"),
        "SEVERITY": _values("Critical", "Important", "Low", "*"),
    },
    "APT": {
        "PRODUCT": _values("Debian12", "*"),
        "PRIORITY": _values("Required", "Optional", "*"),
        "SECTION": _values("libs", "net", "*"),
    },
}
_DAYS = st.integers(0, 30)


@st.composite
def _cases(draw):
    family = draw(st.sampled_from(["RPM", "APT"]))
    keys = st.sampled_from(sorted(_FILTERS[family]))

    def filters():
        chosen = draw(st.lists(keys, max_size=2, unique=True))
        return tuple(Filter(key, draw(_FILTERS[family][key])) for key in chosen)

    def rule():
        days = until = None
        if family == "RPM":
            days = draw(st.none() | _DAYS)
            until = date(2026, 11, 30) - timedelta(days=draw(_DAYS)) if days is None else None
        return Rule(filters(), days, until, draw(st.sampled_from(LEVELS)), draw(st.booleans()))

    names = st.sampled_from(["openssl", "curl", "kernel", "bash"] + (["cur*", "CVE-2026-1"] if family == "RPM" else []))
    made = Baseline(
        "pb-1",
        "mine",
        "REDHAT_ENTERPRISE_LINUX" if family == "RPM" else "DEBIAN",
        global_filters=filters() if draw(st.booleans()) else (),
        rules=tuple(rule() for _ in range(draw(st.integers(0, 3)))),
        approved=tuple(draw(st.lists(names, max_size=1))),
        approved_level=draw(st.sampled_from(LEVELS)),
        approved_enable_non_security=draw(st.booleans()),
        rejected=tuple(draw(st.lists(names, max_size=1))),
    )
    patches = []
    for name in ("openssl", "curl", "kernel", "bash"):
        is_security = draw(st.booleans())
        is_rpm = family == "RPM"
        has_notice = is_security or not is_rpm
        patches.append(
            Candidate(
                name=name,
                version="2",
                release="1",
                arch="x86_64",
                product="RedhatEnterpriseLinux9.6" if is_rpm else "Debian12",
                classification=draw(st.sampled_from(["Security", "Bugfix"])) if is_rpm and has_notice else "",
                severity=draw(st.sampled_from(["Critical", "important", "Low", ""])) if is_rpm and has_notice else "",
                priority="" if is_rpm else draw(st.sampled_from(["required", "optional", "extra"])),
                section="" if is_rpm else draw(st.sampled_from(["libs", "net"])),
                is_security=is_security,
                released_at=NOW - timedelta(days=draw(_DAYS), seconds=draw(st.integers(-1, 1)))
                if is_rpm and draw(st.booleans())
                else None,
                cves=("CVE-2026-1",) if is_rpm and is_security and draw(st.booleans()) else (),
            )
        )
    return made, patches


@settings(max_examples=60, deadline=None)
@given(_cases(), st.integers(0, 400))
def test_time_and_rules_only_add_to_what_is_approved_and_a_rejection_takes_it_away(case, days):
    made, patches = case
    wide = Rule(approve_after_days=0, enable_non_security=True, compliance_level="INFORMATIONAL")
    for one in patches:
        decision = decide(made, one, now=NOW)
        later = decide(made, one, now=NOW + timedelta(days=days))
        if decision is not None and decision.is_approved:
            assert later.is_approved and LEVELS.index(later.level) <= LEVELS.index(decision.level)
        if decision is not None and decision.status == Deployment.PENDING_APPROVAL:
            assert decision.approved_at > NOW
            assert decide(made, one, now=decision.approved_at).status == Deployment.APPROVED
        more = decide(dataclasses.replace(made, global_filters=(), rules=(*made.rules, wide)), one, now=NOW)
        assert more.status == Deployment.EXPLICIT_REJECTED or more.is_approved
        rejected = decide(dataclasses.replace(made, rejected=(*made.rejected, one.name)), one, now=NOW)
        assert rejected.status == Deployment.EXPLICIT_REJECTED
