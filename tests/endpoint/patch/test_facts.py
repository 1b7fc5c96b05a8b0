"""What the package managers print becomes facts: words of real programs, shortened, and each awk."""

import itertools
import shutil
import subprocess

import pytest

from tests.endpoint.patch.scripts import AWKS, HERE, awk, files_of

each_awk = pytest.mark.parametrize("words", AWKS, ids=" ".join)

RELEASES = """Package files:
 100 /var/lib/dpkg/status
     release a=now
 500 http://deb.example/debian bookworm-security/main amd64 Packages
     release v=12,o=Debian,a=stable-security,n=bookworm-security,l=Debian-Security,c=main,b=amd64
     origin deb.example
 500 http://deb.example/debian bookworm/main amd64 Packages
     release v=12.9,o=Debian,a=stable,n=bookworm,l=Debian,c=main,b=amd64
     origin deb.example
 100 http://deb.example/debian bookworm-backports/main amd64 Packages
     release o=Debian Backports,a=stable-backports,n=bookworm-backports,l=Debian Backports,c=main,b=amd64
     origin deb.example
Pinned packages:
"""
VERSIONS = """openssl:
  Installed: 3.0.15-1
  Candidate: 3.0.17-1
  Version table:
     3.5.0-1~bpo12+1 100
        100 http://deb.example/debian bookworm-backports/main amd64 Packages
     3.0.17-1 500
        500 http://deb.example/debian bookworm/main amd64 Packages
     3.0.16-1 500
        500 http://deb.example/debian bookworm-security/main amd64 Packages
 *** 3.0.15-1 500
        500 http://deb.example/debian bookworm-security/main amd64 Packages
        100 /var/lib/dpkg/status
libc6:i386:
  Installed: 2.36-9
  Candidate: 2.36-9
  Version table:
 *** 2.36-9 100
        100 /var/lib/dpkg/status
"""
INSTALLED = "openssl\topenssl\tamd64\t3.0.15-1\toptional\tutils\nlibc6:i386\tlibc6\ti386\t2.36-9\toptional\tlibs\n"
SHOWN = "Package: openssl\nVersion: 3.0.16-1\nPriority: important\nSection: net\nDescription: x\n y\n\n"


@each_awk
def test_apt_tells_versions_newest_first_and_which_come_from_a_security_repository(words, tmp_path):
    files = {
        "times": "openssl.list 1700000000.123\nlibc6:i386.list 1600000000.5\n",
        "shown": SHOWN,
        "installed": INSTALLED,
        "releases": RELEASES,
        "versions": VERSIONS,
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    told = awk(
        words,
        *("-v", "product=Debian12", "-f", str(HERE / "time.awk"), "-f", str(HERE / "apt.awk")),
        *("what=times", f"{tmp_path}/times", "what=shown", f"{tmp_path}/shown", r"FS=\t"),
        *("what=installed", f"{tmp_path}/installed", "FS= ", "what=releases", f"{tmp_path}/releases"),
        *("what=versions", f"{tmp_path}/versions"),
    )
    assert [line.split("\t") for line in told.splitlines()] == [
        # not the one from backports, which apt itself would not choose
        ["U", "openssl", "amd64", "3.0.17-1", "2", "Other", "Optional", "Optional", "utils", "Debian12"]
        + ["", "", "0", "", "", ""],
        ["U", "openssl", "amd64", "3.0.16-1", "3", "Security", "Important", "Important", "net", "Debian12"]
        + ["", "", "1", "", "", ""],
        ["I", "openssl", "amd64", "3.0.15-1", "4", "Security", "Optional", "Optional", "utils", "Debian12"]
        + ["", "", "1", "2023-11-14T22:13:20Z", "", ""],
        ["I", "libc6", "i386", "2.36-9", "1", "", "Optional", "Optional", "libs", "Debian12"]
        + ["", "", "0", "2020-09-13T12:26:40Z", "", ""],
    ]


INFO = """===============================================================================
  openssl update
===============================================================================
  Update ID: RHSA-2026:0002
       Type: security
    Updated: 2026-11-03 10:11:12
       Bugs: 1234 - a hole: in it
           : 1235 - another
       CVEs: CVE-2026-0001
           : CVE-2026-0002
Description: Type: bugfix
           : Severity: Low
   Severity: Important

===============================================================================
  vim update
===============================================================================
  Update ID: RHBA-2026:0003
       Type: bugfix
    Updated: 2026-11-04 00:00:00
Description: x
   Severity: None
"""


@each_awk
def test_rpm_tells_notices_by_version_and_updates_that_no_notice_lists(words, tmp_path):
    files = {
        "info": INFO,
        "installed": "openssl\tx86_64\t1:3.0-9.el9\t1700000000\nvim\tnoarch\t9.0-1\t1\nvim\tnoarch\t9.0-10\t2\n"
        "gpg-pubkey\t(none)\tx-y\t1\n",
        "old": "RHSA-2026:0001 Moderate/Sec. openssl-1:3.0-8.el9.x86_64\n",
        "new": "RHSA-2026:0002 Important/Sec. openssl-1:3.0-10.el9.x86_64\nRHBA-2026:0003 bugfix vim-9.0-2.noarch\n",
        "updates": "\nopenssl.x86_64   1:3.0-11.el9   base\nother.x86_64  1-1  base\n"
        "Obsoleting Packages\nvim.noarch 10-1 base\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    told = awk(
        words,
        *("-v", "product=RedhatEnterpriseLinux9.6", *files_of("time.awk", "notices.awk", "rpm.awk")),
        *("what=info", f"{tmp_path}/info", r"FS=\t", "what=installed", f"{tmp_path}/installed", "FS= "),
        *("what=old", f"{tmp_path}/old", "what=new", f"{tmp_path}/new", "what=updates", f"{tmp_path}/updates"),
    )
    product = "RedhatEnterpriseLinux9.6"
    assert [line.split("\t") for line in told.splitlines()] == [
        ["I", "openssl", "x86_64", "1:3.0-9.el9", "3", "", "", "", "", product, "", "", "0"]
        + ["2023-11-14T22:13:20Z", "", ""],
        ["U", "openssl", "x86_64", "1:3.0-10.el9", "2", "Security", "Important", "", "", product]
        + ["2026-11-03T10:11:12Z", "CVE-2026-0001,CVE-2026-0002", "1", "", "RHSA-2026:0002", "1234,1235"],
        ["U", "openssl", "x86_64", "1:3.0-11.el9", "1", "", "", "", "", product, "", "", "0", "", "", ""],
        # the notice of 9.0-2 is older than what is installed
        ["I", "vim", "noarch", "9.0-10", "1", "", "", "", "", product, "", "", "0", "1970-01-01T00:00:02Z", "", ""],
    ]


PATCHES = (
    """<?xml version='1.0'?><update-list><update kind="patch" name="SUSE-SLE-15-2026-7" status="needed" """
    """category="security" severity="important"><summary>x &lt; y</summary><issue-date time_t="1" """
    """text="2026-11-03T10:11:12Z"/><issue-list><issue type="cve" id="CVE-2026-0001"><title>x</title></issue>"""
    """<issue type="bugzilla" id="1234"><title>x</title></issue></issue-list></update><update kind="patch" """
    """name="SUSE-SLE-15-2026-8" status="needed" category="recommended" severity="unspecified"><issue-date """
    """text="2026-11-04T00:00:00Z"/></update></update-list>"""
)
CONFLICTS = """
Information for patch SUSE-SLE-15-2026-7:
-----------------------------------------
Name        : SUSE-SLE-15-2026-7
Summary     : x
Description :
    Conflicts : vim < 99-1
Conflicts   : [3]
    libfoo.x86_64 < 1:3.0-10.1
    vim < 9.0-10
    not-here.x86_64 < 2-1

Information for patch SUSE-SLE-15-2026-8:
-----------------------------------------
Name        : SUSE-SLE-15-2026-8
Conflicts   : libfoo.x86_64 < 0:0.9-1
"""
LISTED = (
    """<update-list><update kind="package" name="libfoo" edition="1:3.0-11.1" arch="x86_64"/>"""
    """<update kind="package" name="other" edition="1-1" arch="x86_64"/></update-list>"""
)


@each_awk
def test_zypper_tells_patches_by_the_packages_that_they_mend(words, tmp_path):
    files = {
        "installed": "libfoo\tx86_64\t1:3.0-9.1\t1700000000\nvim\tnoarch\t9.0-10\t2\ngpg-pubkey\t(none)\tx-y\t1\n",
        "patches": PATCHES.replace("<", "\n"),
        "info": CONFLICTS,
        "updates": LISTED.replace("<", "\n"),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    told = awk(
        words,
        *("-v", "product=Suse15.6", *files_of("time.awk", "notices.awk", "zypper.awk"), r"FS=\t"),
        *("what=installed", f"{tmp_path}/installed", "FS= ", "what=patches", f"{tmp_path}/patches"),
        *("what=info", f"{tmp_path}/info", "what=updates", f"{tmp_path}/updates"),
    )
    notice = ["Security", "Important", "", "", "Suse15.6", "2026-11-03T10:11:12Z", "CVE-2026-0001", "1"]
    assert [line.split("\t") for line in told.splitlines()] == [
        ["I", "libfoo", "x86_64", "1:3.0-9.1", "3", "", "", "", "", "Suse15.6", "", "", "0"]
        + ["2023-11-14T22:13:20Z", "", ""],
        ["U", "libfoo", "x86_64", "1:3.0-10.1", "2", *notice, "", "SUSE-SLE-15-2026-7", "1234"],
        ["U", "libfoo", "x86_64", "1:3.0-11.1", "1", "", "", "", "", "Suse15.6", "", "", "0", "", "", ""],
        ["I", "vim", "noarch", "9.0-10", "1", *notice, "1970-01-01T00:00:02Z", "SUSE-SLE-15-2026-7", "1234"],
    ]


ORDERED = [
    *("1.0~rc1-1", "1.0~rc2-1", "1.0-1", "1.0-1.el9", "1.0-2", "1.0^git1-1", "1.0a-1", "1.0.1-1", "1.5-1", "1.05.1-1"),
    *("1.10-1", "2-1", "2.0-1", "10-1", "1:0.1-1", "1:0.1-1.2", "2:0-0"),
]


@each_awk
def test_versions_are_ordered_as_rpm_orders_them(words):
    program = (HERE / "notices.awk").read_text() + "\n{ print compare($1, $2) }\n"
    pairs = [(a, b) for a in ORDERED for b in ORDERED]
    told = awk(words, program, stdin="".join(f"{a} {b}\n" for a, b in pairs)).split()
    for (a, b), answer in zip(pairs, told, strict=True):
        wanted = (ORDERED.index(a) > ORDERED.index(b)) - (ORDERED.index(a) < ORDERED.index(b))
        assert int(answer) == wanted, (a, b)


@pytest.mark.skipif(shutil.which("rpm") is None, reason="rpm is not here to be asked (Debian's package rpm)")
def test_the_order_of_the_versions_is_rpms_own():
    for a, b in itertools.pairwise(ORDERED):
        if ":" not in a + b:
            first, second = (text.rsplit("-", 1) for text in (a, b))
            pair = (first[0], second[0]) if first[0] != second[0] else (first[1], second[1])
            program = f"%{{lua: print(rpm.vercmp('{pair[0]}', '{pair[1]}'))}}"
            told = subprocess.run(["rpm", "--eval", program], capture_output=True, text=True).stdout.strip()
            assert told == "-1", pair
