"""How each family names patches in lists, line by line; and what a wrong line is told."""

import pytest

from patching.families import Family
from patching.formats import entries, list_problems, problem

RIGHT = {
    Family.RPM: [
        *("kernel", "kernel.x86_64", "dbus-1.12.28", "dbus-1.12.28-1.amzn2023.0.1", "dbus-1:1.12.28-1.el9.x86_64"),
        *("dbus.x86_64:1:1.12.28-1.amzn2023.0.1", "dbus*", "dbus-*:1.12.28-1.amzn2023.0.1", "1.12.28", "gcc-c++"),
    ],
    Family.APT: ["openssl", "libssl3", "linux-image-6.8.0-90-generic", "g++", "libstdc++6", "0ad"],
    Family.SUSE: [
        *("SUSE-SLE-Example-Package-15-2026-123", "SUSE-SLE-Example-Package-15-2026-*", "example-pkg"),
        *("example-pkg-2026.15.4-46.17.1.x86_64.rpm", "example-pkg-2026.15.4-46.17.1.*.rpm"),
    ],
    Family.MACOS: ["XProtectPlistConfigData", "MRTConfigData", "Safari 17.6"],
    Family.WINDOWS: ["KB5041585", "KB890830", "MS17-010"],
}
OF_APPROVED_RPM = ["1234567", "CVE-2026-12345", "RHSA-2026:0864", "ALAS-2026-123", "ALAS2023-2026-123", "ELSA-2026-123"]
WRONG = [
    (Family.RPM, "ker nel", "Did you mean ker-nel?"),
    (Family.RPM, "*kernel*", "has 2 wildcards; AWS takes one"),
    (Family.RPM, "*", "A rule without filters approves all"),
    (Family.RPM, "openssl=3.0", "Write openssl-3.0"),
    (Family.RPM, "ker(nel", "is no package name"),
    (Family.APT, "openssl=3.0.13-0ubuntu3.9", "Write openssl alone: AWS takes no version here"),
    (Family.APT, "openssl:amd64", "Write openssl alone: AWS takes no architecture here"),
    (Family.APT, "openssl_3.0", "Write openssl alone"),
    (Family.APT, "docker-ce*", "has a wildcard, which Debian and Ubuntu do not have"),
    (Family.APT, "linux-image-6.8.0-90 generic", "Did you mean linux-image-6.8.0-90-generic?"),
    (Family.APT, "OpenSSL", "Did you mean openssl?"),
    (Family.APT, "CVE-2026-1234", "Write the packages that CVE-2026-1234 is about"),
    (Family.SUSE, "a*b*", "has 2 wildcards"),
    (Family.SUSE, "CVE-2026-1234", "Write the patch that mends CVE-2026-1234"),
    (Family.MACOS, "XProtect*", "has a wildcard, which macOS does not have"),
    (Family.WINDOWS, "5041585", "Did you mean KB5041585?"),
    (Family.WINDOWS, "kb5041585", "Did you mean KB5041585?"),
    (Family.WINDOWS, "ms17-010", "Did you mean MS17-010?"),
    (Family.WINDOWS, "KB50*", "has a wildcard, which Windows does not have"),
    (Family.WINDOWS, "openssl", "is no article"),
    (Family.APT, "a" * 101, "has 101 characters; AWS takes 100"),
]


@pytest.mark.parametrize(("family", "entry"), [(family, entry) for family in RIGHT for entry in RIGHT[family]])
def test_what_a_family_takes_is_taken_in_both_lists(family, entry):
    assert problem(entry, family, is_rejection=False) == ""
    if not entry[0].isdigit() or family != Family.RPM:
        assert problem(entry, family, is_rejection=True) == ""


@pytest.mark.parametrize("entry", OF_APPROVED_RPM)
def test_advisories_and_cves_approve_on_rpm_systems_and_reject_nothing(entry):
    assert problem(entry, Family.RPM, is_rejection=False) == ""
    assert f"Write the packages that {entry} is about" in problem(entry, Family.RPM, is_rejection=True)


@pytest.mark.parametrize(("family", "entry", "words"), WRONG)
def test_a_wrong_line_is_told_what_to_write(family, entry, words):
    assert words in problem(entry, family, is_rejection=False)


def test_a_list_is_one_a_line_or_with_commas_and_is_told_by_lines():
    found = entries("openssl\n\n  libssl3 , curl \nopenssl\n")
    assert found == ["openssl", "libssl3", "curl", "openssl"]
    told = list_problems(found, Family.APT, is_rejection=False, has_lines=True)
    assert told == ["Line 4: “openssl” is there twice. Take one of them out."]
    many = [f"package-{number}" for number in range(51)]
    assert "51 entries; AWS takes 50" in list_problems(many, Family.APT, is_rejection=True)[0]
