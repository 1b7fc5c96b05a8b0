"""AWS-RunPatchBaseline where dnf is: a repository with update notices of the tests' own, our node inside."""

import subprocess

import pytest

from tests.endpoint.patch import dnf_root
from tests.endpoint.patch.dnf_root import Notice, Rpm
from tests.endpoint.patch.machines import held, missing, node_in
from tests.endpoint.patch.test_demo_nodes import of, run, state

WHY_NOT = missing(*dnf_root.PROGRAMS)
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"no root with dnf: {WHY_NOT}")

OLD = [Rpm(name, "1.0-1.el9") for name in ("alpha", "beta", "gamma", "delta", "zeta", "broken")]
OLD += [Rpm("epoch", "1:1.0-1.el9")]
ALPHA, ALPHA_YOUNG = Rpm("alpha", "1.0-2.el9"), Rpm("alpha", "1.0-10.el9")
BETA = Rpm("beta", "1.1-1.el9", requires="zeta >= 1.5")
DELTA, EPOCH, BROKEN = Rpm("delta", "2.0-1.el9"), Rpm("epoch", "1:1.0-2.el9"), Rpm("broken", "1.1-1.el9", breaks=True)
GAMMA = Rpm("gamma", "1.2-1.el9", requires="delta >= 2.0")
NEW = [ALPHA, ALPHA_YOUNG, BETA, DELTA, EPOCH, BROKEN, GAMMA, Rpm("zeta", "1.5-1.el9")]
LONG_AGO, LATELY = "2026-03-01 10:00:00", "2200-01-01 00:00:00"  # released after any now
NOTICES = [
    Notice("RHSA-2026:0001", "security", "Important", LONG_AGO, ALPHA, ("CVE-2026-0001", "CVE-2026-0002")),
    Notice("RHSA-2026:0009", "security", "Critical", LATELY, ALPHA_YOUNG, ("CVE-2026-0009",)),
    Notice("RHSA-2026:0002", "security", "Critical", LONG_AGO, BETA, ("CVE-2026-0003",)),
    Notice("RHSA-2026:0003", "security", "Moderate", LONG_AGO, DELTA, ("CVE-2026-0004",)),
    Notice("RHBA-2026:0004", "bugfix", "", LONG_AGO, EPOCH),
    Notice("RHSA-2026:0000", "security", "Important", LONG_AGO, OLD[0], ("CVE-2025-0001",)),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    packages = dnf_root.build([*OLD, *NEW], tmp_path_factory.mktemp("rpms"))
    with held(tmp_path_factory.mktemp("dnf") / "root", dnf_root.MOUNTS) as root:
        # On Debian the database begins empty; whatever this machine's holds is put out of sight.
        root.run("sh", "-c", "rm -rf /var/lib/rpm /var/lib/dnf /var/cache/dnf /etc/yum.repos.d && rpm --initdb")
        dnf_root.publish(root, packages, NOTICES, tmp_path_factory.mktemp("notices"))
        root.run("rpm", "-i", "--nodeps", *(str(packages / package.file) for package in OLD))
        yield root


@pytest.fixture(scope="module")
def node(endpoint, root, tmp_path_factory):
    with node_in(
        endpoint,
        root,
        tmp_path_factory.mktemp("machine"),
        platform_name="Rocky Linux",
        platform_version="9.6",
    ) as instance_id:
        yield instance_id


def versions(root):
    text = root.run("rpm", "-qa", "--qf", "%{NAME}.%{ARCH}\t%|EPOCH?{%{EPOCH}}:{0}|:%{VERSION}-%{RELEASE}\n")
    return {name: version.removeprefix("0:") for name, version in (line.split("\t") for line in text.splitlines())}


def baseline(ssm, name, *classes, **more):
    rules = [
        {
            "PatchFilterGroup": {"PatchFilters": [{"Key": "CLASSIFICATION", "Values": [each]}]},
            "ComplianceLevel": "HIGH",
            "ApproveAfterDays": 7,
            "EnableNonSecurity": more.get("all", False),
        }
        for each in classes
    ]
    more.pop("all", None)
    made = ssm.create_patch_baseline(
        Name=name, OperatingSystem="ROCKY_LINUX", ApprovalRules={"PatchRules": rules}, **more
    )
    ssm.register_default_patch_baseline(BaselineId=made["BaselineId"])


def titles(patches, wanted="MISSING"):
    return {patch["Title"] for patch in patches.values() if patch["State"] == wanted}


def test_a_scan_lists_the_notices_that_dnf_lists_and_the_baseline_approves(ssm, node, root):
    baseline(ssm, "security", "Security")
    told = run(ssm, [node], Operation="Scan")[node]
    assert told["Status"] == "Success", told["StandardErrorContent"]
    _, patches = state(ssm, node)
    # alpha's newest is not old enough: the one before it is missing.
    assert titles(patches) == {"alpha.noarch:1.0-2.el9", "beta.noarch:1.1-1.el9", "delta.noarch:2.0-1.el9"}
    listed = root.run("dnf", "-q", "updateinfo", "list", "--security").split()[2::3]
    assert {f"{name}.noarch" for name in ("alpha", "beta", "delta")} == {
        item.split("-")[0] + ".noarch" for item in listed
    }
    alpha = patches["alpha.noarch"]
    assert (alpha["Classification"], alpha["Severity"]) == ("Security", "Important")
    assert alpha["CVEIds"] == "CVE-2026-0001,CVE-2026-0002"
    assert patches["epoch.noarch"]["State"] == "INSTALLED_OTHER"
    assert patches.keys() == versions(root).keys()


def test_what_no_notice_lists_is_missing_where_the_baseline_asks_for_it(ssm, node, root):
    baseline(ssm, "everything", "*", all=True)
    run(ssm, [node], Operation="Scan")
    _, patches = state(ssm, node)
    upgradable = root.run("dnf", "-q", "check-update").split()[0::3]
    assert of(patches, "MISSING") == set(upgradable)
    assert {"epoch.noarch:1:1.0-2.el9", "gamma.noarch:1.2-1.el9"} <= titles(patches)


def test_an_installation_installs_exactly_what_is_approved_and_compliance_turns(ssm, node, root):
    baseline(ssm, "security-but-delta", "Security", "Bugfix", RejectedPatches=["delta*"], RejectedPatchesAction="BLOCK")
    before = versions(root)
    told = run(ssm, [node], Operation="Install", RebootOption="NoReboot")[node]
    assert told["Status"] == "Success", told["StandardErrorContent"]
    changed = {name: version for name, version in versions(root).items() if before.get(name) != version}
    assert changed == {
        "alpha.noarch": "1.0-2.el9",
        "beta.noarch": "1.1-1.el9",
        "epoch.noarch": "1:1.0-2.el9",
        "zeta.noarch": "1.5-1.el9",  # which beta requires
    }
    _, patches = state(ssm, node)
    assert of(patches, "INSTALLED_PENDING_REBOOT") == {"alpha.noarch", "beta.noarch", "epoch.noarch"}
    assert of(patches, "INSTALLED_REJECTED") == {"delta.noarch"}
    root.restart("second")
    baseline(ssm, "delta-as-it-is", "Security", "Bugfix", RejectedPatches=["delta"])
    run(ssm, [node], Operation="Scan")
    row, patches = state(ssm, node)
    assert of(patches, "INSTALLED") == {"alpha.noarch", "beta.noarch", "epoch.noarch"}
    assert (row["MissingCount"], patches["delta.noarch"]["State"]) == (0, "INSTALLED_OTHER")


def test_a_patch_that_breaks_stops_no_other_and_what_is_blocked_comes_as_no_dependency(ssm, node, root):
    baseline(ssm, "all-but-delta", "*", all=True, RejectedPatches=["delta"], RejectedPatchesAction="BLOCK")
    told = run(ssm, [node], Operation="Install", RebootOption="NoReboot")[node]
    _, patches = state(ssm, node)
    assert told["Status"] == "Failed" and of(patches, "FAILED") == {"broken.noarch", "gamma.noarch"}
    assert versions(root)["delta.noarch"] == "1.0-1.el9"


def test_where_it_is_allowed_a_rejected_package_comes_as_a_dependency(ssm, node, root):
    baseline(ssm, "delta-if-needed", "*", all=True, RejectedPatches=["delta", "broken"])
    told = run(ssm, [node], Operation="Install", RebootOption="NoReboot")[node]
    assert told["Status"] == "Success", told["StandardErrorContent"]
    _, patches = state(ssm, node)
    assert versions(root)["delta.noarch"] == "2.0-1.el9"
    assert patches["delta.noarch"]["State"] == "INSTALLED_OTHER"
    assert "gamma.noarch" in of(patches, "INSTALLED_PENDING_REBOOT")


def test_a_baselines_own_repositories_are_used_alone_and_must_be_signed(ssm, node, root, tmp_path):
    packages = dnf_root.build([Rpm("alpha", "7.0-1.el9"), Rpm("not-here", "1-1")], tmp_path)
    dnf_root.index(packages, [], tmp_path)
    signing = dnf_root.sign(packages, tmp_path)
    # As AWS's example has it, whose repositories are all called main.
    configuration = (
        f"[main]\nname=Vendor\nbaseurl=file://{packages}\nenabled=1\ngpgcheck=0\nrepo_gpgcheck=1\n"
        f"gpgkey=file://{signing}\nmetadata_expire=0\n"
    )
    source = {"Name": "vendor", "Products": ["RockyLinux9.6"], "Configuration": configuration}
    baseline(ssm, "vendor", "*", all=True, Sources=[source])
    before = root.run("dnf", "-q", "repolist")
    told = run(ssm, [node], Operation="Install", RebootOption="NoReboot")[node]
    assert told["Status"] == "Success", told["StandardErrorContent"]
    _, patches = state(ssm, node)
    assert versions(root)["alpha.noarch"] == "7.0-1.el9"
    assert "alpha.noarch" in of(patches, "INSTALLED_PENDING_REBOOT") and not of(patches, "FAILED")
    assert versions(root)["broken.noarch"] == "1.0-1.el9" and root.run("dnf", "-q", "repolist") == before
    (packages / "repodata/repomd.xml.asc").write_text("no signature")
    told = run(ssm, [node], Operation="Scan")[node]
    assert told["Status"] == "Failed" and "No patch compliance is reported." in told["StandardOutputContent"]
    subprocess.run(["rm", "-rf", packages], check=True)
