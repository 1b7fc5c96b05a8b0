"""What can be written into a baseline, and how contradictions are refused."""

from dataclasses import replace

import pytest

from patching.content import Content, Filter, Rule, Source
from patching.families import OPERATING_SYSTEMS, operating_system_of, traits_of
from patching.sound import problems

LEGAL = {
    "PRODUCT": ["AmazonLinux2023", "AmazonLinux2023.0"],
    "CLASSIFICATION": ["Security", "Bugfix"],
    "SEVERITY": ["Critical", "Important", "Medium", "Low"],
}
SECURITY = Filter("CLASSIFICATION", ("Security",))
BUGFIX = Filter("CLASSIFICATION", ("Bugfix",))
GOOD = Content("AMAZON_LINUX_2023", "al-standard", rules=(Rule((SECURITY,), 7, level="HIGH"),), approved=("openssl",))
APT = Content("UBUNTU", "ubuntu-standard", rules=(Rule((Filter("PRIORITY", ("Required",)),)),))
WINDOWS = Content("WINDOWS", "windows-standard", rules=(Rule((Filter("MSRC_SEVERITY", ("Critical",)),), 3),))


def rules(*found: Rule, of: Content = GOOD) -> Content:
    return replace(of, rules=found)


def ruled(*filters: Filter, **facts) -> Rule:
    return Rule(filters, **({"approve_after_days": 7} | facts))


WRONG = [
    (replace(GOOD, name="a"), "name", "3 to 128 letters"),
    (replace(GOOD, name="AWS-mine"), "name", "AWS keeps names that begin with aws"),
    (replace(GOOD, description="x" * 1025), "description", "1,024 characters"),
    (replace(GOOD, security_updates="COMPLIANT"), "security_updates", "Windows alone"),
    (rules(ruled(SECURITY, approve_after_days=None)), "rule-0", "Say when it approves"),
    (rules(ruled(SECURITY, approve_until="2026-12-01")), "rule-0", "days and a date. Keep one"),
    (rules(ruled(SECURITY, approve_after_days=361)), "rule-0", "Days are 0 to 360"),
    (rules(ruled(SECURITY, approve_after_days=None, approve_until="1.12.2026")), "rule-0", "is no date"),
    (rules(ruled(SECURITY, level="HUGE")), "rule-0", "A level is one of CRITICAL"),
    (rules(ruled(Filter("PRIORITY", ("Required",)))), "rule-0", "has no filter PRIORITY"),
    (rules(ruled(Filter("SEVERITY", ("Moderate",)))), "rule-0", "AWS knows no “Moderate”"),
    (rules(ruled(Filter("PRODUCT", ("amazonlinux 2023",)))), "rule-0", "Did you mean AmazonLinux2023?"),
    (rules(ruled(Filter("SEVERITY", ("*", "Low")))), "rule-0", "* is any, so take the others out"),
    (rules(ruled(Filter("SEVERITY", ()))), "rule-0", "names nothing"),
    (rules(ruled(SECURITY, BUGFIX)), "rule-0", "is filtered twice"),
    (rules(ruled(SECURITY), ruled(SECURITY)), "rule-1", "It says the same as rule 1"),
    (rules(ruled(SECURITY), ruled(SECURITY, level="LOW")), "rule-1", "It contradicts rule 1"),
    (
        rules(ruled(SECURITY), ruled(SECURITY, approve_after_days=0)),
        "rule-1",
        "the other at once",
    ),
    (rules(*(ruled(Filter("CVE_ID", (str(n),))) for n in range(11))), "", "There are 11 rules; AWS takes 10"),
    (replace(rules(ruled(BUGFIX)), global_filters=(SECURITY,)), "rule-0", "It can never match"),
    (replace(GOOD, rejected=("openssl",)), "rejected", "openssl is approved and rejected"),
    (replace(GOOD, rejected=("open*",)), "rejected", "open* rejects openssl too"),
    (rules(ruled(Filter("PRIORITY", ("Required",))), of=APT), "rule-0", "AWS takes no days and no date"),
    (replace(APT, rules=(Rule((), approve_until="2026-12-01"),)), "rule-0", "approved at once"),
    (rules(ruled(non_security=True), of=WINDOWS), "rule-0", "Linux alone, not on Windows"),
    (replace(WINDOWS, approved_non_security=True), "approved", "Linux alone"),
    (replace(WINDOWS, sources=(Source("mine", ("*",), "x"),)), "sources", "for Linux alone"),
    (rules(ruled(Filter("PRODUCT_FAMILY", ("Office",))), of=WINDOWS), "rule-0", "Choose the patch set APPLICATION"),
    (
        rules(ruled(Filter("PATCH_SET", ("APPLICATION",)), Filter("PRODUCT", ("WindowsServer2022",))), of=WINDOWS),
        "rule-0",
        "WindowsServer2022 is no application",
    ),
    (replace(GOOD, sources=(Source("my repo", ("*",), "x"),)), "source-0", "3 to 50 letters"),
    (replace(GOOD, sources=(Source("mine", (), "x"),)), "source-0", "for which products"),
    (replace(GOOD, sources=(Source("mine", ("*",), ""),)), "source-0", "1 to 1,024 characters"),
    (replace(GOOD, sources=(Source("mine", ("*",), "x"),) * 2), "source-1", "is there twice"),
    (replace(GOOD, operating_system="BEOS"), "", "knows no operating system BEOS"),
]


@pytest.mark.parametrize(("content", "field", "words"), WRONG)
def test_what_cannot_be_meant_is_refused_in_words(content, field, words):
    assert any(each.field == field and words in each.text for each in problems(content, legal=LEGAL)), problems(
        content, legal=LEGAL
    )


@pytest.mark.parametrize("content", [GOOD, replace(GOOD, rules=()), replace(GOOD, rejected=("kernel*",))])
def test_what_can_be_meant_is_let_pass(content):
    assert problems(content, legal=LEGAL) == []


@pytest.mark.parametrize("content", [APT, WINDOWS])
def test_where_the_legal_values_are_not_known_aws_has_the_last_word(content):
    assert problems(content, legal={}) == []


@pytest.mark.parametrize("system", OPERATING_SYSTEMS)
def test_every_operating_system_has_a_baseline_that_can_be_meant(system):
    traits = traits_of(system)
    rule = Rule((Filter(traits.keys[0], ("*",)),), 7 if traits.has_delay else None)
    assert problems(Content(system, "standard", rules=(rule,)), legal={}) == []
    assert "PRODUCT" in traits.keys and traits.list_hint


@pytest.mark.parametrize(
    ("platform", "system"),
    [
        (("Linux", "Amazon Linux", "2023"), "AMAZON_LINUX_2023"),
        (("Linux", "Amazon Linux", "2023.6.20250107"), "AMAZON_LINUX_2023"),
        (("Linux", "Amazon Linux", "2022"), "AMAZON_LINUX_2022"),
        (("Linux", "Amazon Linux", "2"), "AMAZON_LINUX_2"),
        (("Linux", "Amazon Linux AMI", "2018.03"), "AMAZON_LINUX"),
        (("Linux", "Ubuntu", "24.04"), "UBUNTU"),
        (("Linux", "Debian GNU/Linux", "12"), "DEBIAN"),
        (("Linux", "Raspbian GNU/Linux", "11"), "RASPBIAN"),
        (("Linux", "Red Hat Enterprise Linux", "9.6"), "REDHAT_ENTERPRISE_LINUX"),
        (("Linux", "CentOS Stream", "9"), "CENTOS"),
        (("Linux", "Rocky Linux", "9.4"), "ROCKY_LINUX"),
        (("Linux", "AlmaLinux", "9.4"), "ALMA_LINUX"),
        (("Linux", "Oracle Linux Server", "9.4"), "ORACLE_LINUX"),
        (("Linux", "SLES", "15.5"), "SUSE"),
        (("MacOS", "macOS", "14.5"), "MACOS"),
        (("Windows", "Microsoft Windows Server 2022 Datacenter", "10.0.20348"), "WINDOWS"),
        (("Linux", "Arch Linux", ""), ""),
        (("", "", ""), ""),
    ],
)
def test_what_agents_report_tells_the_operating_system(platform, system):
    assert operating_system_of(*platform) == system
