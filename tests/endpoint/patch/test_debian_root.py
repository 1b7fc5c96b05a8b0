"""AWS-RunPatchBaseline where apt is: a real Debian root, a signed repository of the tests' own, our node inside."""

import re

import pytest

from tests.endpoint.patch import debian_root
from tests.endpoint.patch.debian_root import Deb
from tests.endpoint.patch.machines import held, missing, node_in
from tests.endpoint.patch.test_demo_nodes import of, run, state
from tests.support.endpoint import until

WHY_NOT = missing(*debian_root.PROGRAMS) or ("" if debian_root.mirror()[0] else "apt has no Debian mirror here")
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"no Debian root: {WHY_NOT}")

OLD = [Deb(name, "1.0") for name in ("alpha", "beta", "gamma", "delta", "epsilon", "zeta")]
OLD += [Deb("broken", "1.0")]
SECURITY = [
    Deb("alpha", "1.1"),
    Deb("beta", "1.0+sec2", depends="zeta (>= 1.5)"),  # zeta comes along, from the other repository
    Deb("delta", "1.1"),
    Deb("epsilon", "1.1"),
]
STABLE = [*OLD, Deb("epsilon", "2.0"), Deb("gamma", "1.2"), Deb("zeta", "1.5"), Deb("never-installed", "1.0")]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("debian") / "root"
    debian_root.make(path)
    with held(path) as root:
        debian_root.publish(
            root,
            tmp_path_factory.mktemp("debs"),
            {"stable": ("Debian", STABLE), "stable-security": ("Debian-Security", SECURITY)},
        )
        root.run("apt-get", "-q", "update")
        root.run("apt-get", "-q", "-y", "install", *(f"{deb.name}={deb.version}" for deb in OLD))
        yield root


@pytest.fixture(scope="module")
def node(endpoint, root, tmp_path_factory):
    with node_in(
        endpoint,
        root,
        tmp_path_factory.mktemp("machine"),
        platform_name="Debian GNU/Linux",
        platform_version="12",
    ) as instance_id:
        yield instance_id


def versions(root):
    text = root.run("dpkg-query", "-W", "-f", "${Package}.${Architecture}\t${Version}\n")
    return dict(line.split("\t") for line in text.splitlines())


def baseline(ssm, name, **more):
    """Make a baseline that takes all of apt's packages, security's alone unless told otherwise, and obey it."""
    rule = {
        "PatchFilterGroup": {"PatchFilters": [{"Key": "PRODUCT", "Values": ["Debian12"]}]},
        "ComplianceLevel": "CRITICAL",
    }
    rule |= more.pop("rule", {})
    made = ssm.create_patch_baseline(Name=name, OperatingSystem="DEBIAN", ApprovalRules={"PatchRules": [rule]}, **more)
    ssm.register_default_patch_baseline(BaselineId=made["BaselineId"])


def test_a_scan_lists_what_apt_itself_lists_from_security(ssm, node, root):
    baseline(ssm, "security")
    told = run(ssm, [node], Operation="Scan")[node]
    assert told["Status"] == "Success", told["StandardErrorContent"]
    _, patches = state(ssm, node)
    titles = {patch["Title"] for patch in patches.values() if patch["State"] == "MISSING"}
    # Of epsilon apt's own choice is 2.0, which no security repository has.
    assert titles == {"alpha.all:1.1", "beta.all:1.0+sec2", "delta.all:1.1", "epsilon.all:1.1"}
    simulated = root.run("apt-get", "-s", "upgrade")
    chosen = re.findall(r"^Inst (\S+) \[\S+\] \((\S+) Debian-Security:", simulated, re.MULTILINE)
    assert {f"{name}.all:{version}" for name, version in chosen} == titles - {"epsilon.all:1.1"}
    assert patches.keys() == versions(root).keys()
    alpha = patches["alpha.all"]
    assert (alpha["Classification"], alpha["Severity"]) == ("Security", "Optional")
    assert patches["gamma.all"]["State"] == "INSTALLED_OTHER"


def test_with_all_of_the_repositories_a_scan_lists_all_that_apt_would_upgrade(ssm, node, root):
    baseline(ssm, "everything", rule={"EnableNonSecurity": True})
    run(ssm, [node], Operation="Scan")
    titles = {patch["Title"] for patch in state(ssm, node)[1].values() if patch["State"] == "MISSING"}
    chosen = re.findall(r"^Inst (\S+) \[\S+\] \((\S+) ", root.run("apt-get", "-s", "upgrade"), re.MULTILINE)
    assert {f"{name}.all:{version}" for name, version in chosen} == titles and len(titles) == 6


def test_an_installation_installs_exactly_what_is_approved_and_compliance_turns(ssm, node, root):
    baseline(ssm, "security-but-delta", RejectedPatches=["delta"], RejectedPatchesAction="BLOCK")
    before = versions(root)
    told = run(ssm, [node], Operation="Install", RebootOption="NoReboot")[node]
    assert told["Status"] == "Success", told["StandardErrorContent"]
    changed = {name: version for name, version in versions(root).items() if before.get(name) != version}
    # What beta depends on came along; delta is rejected and stays; gamma's and epsilon's newest are no security.
    assert changed == {"alpha.all": "1.1", "beta.all": "1.0+sec2", "epsilon.all": "1.1", "zeta.all": "1.5"}
    _, patches = state(ssm, node)
    assert of(patches, "INSTALLED_PENDING_REBOOT") == {"alpha.all", "beta.all", "epsilon.all"}
    assert of(patches, "INSTALLED_REJECTED") == {"delta.all"}
    assert not of(patches, "MISSING") | of(patches, "FAILED")

    baseline(ssm, "security-and-delta-as-it-is", RejectedPatches=["delta"])
    root.restart("second")
    run(ssm, [node], Operation="Scan")
    row, patches = state(ssm, node)
    assert of(patches, "INSTALLED") >= {"alpha.all", "beta.all", "epsilon.all"}
    assert patches["delta.all"]["State"] == "INSTALLED_OTHER" and row["MissingCount"] == 0
    summary = ssm.list_resource_compliance_summaries(
        Filters=[{"Key": "ComplianceType", "Values": ["Patch"]}, {"Key": "Status", "Values": ["COMPLIANT"]}]
    )["ResourceComplianceSummaryItems"]
    assert node in {item["ResourceId"] for item in summary}


def test_a_patch_that_breaks_stops_no_other_and_what_is_blocked_comes_as_no_dependency(ssm, node, root, tmp_path):
    more = [Deb("broken", "1.1", breaks=True), Deb("alpha", "1.2"), Deb("gamma", "1.3", depends="delta (>= 1.1)")]
    root.run("rm", "-rf", "/repository")
    debian_root.publish(
        root, tmp_path, {"stable": ("Debian", STABLE), "stable-security": ("Debian-Security", [*SECURITY, *more])}
    )
    baseline(ssm, "delta-never", RejectedPatches=["delta"], RejectedPatchesAction="BLOCK")
    told = run(ssm, [node], Operation="Install", RebootOption="NoReboot")[node]
    row, patches = state(ssm, node)
    assert told["Status"] == "Failed" and of(patches, "FAILED") == {"broken.all", "gamma.all"}
    assert versions(root)["alpha.all"] == "1.2" and versions(root)["delta.all"] == "1.0"
    assert row["FailedCount"] == 2 and patches["alpha.all"]["State"] == "INSTALLED_PENDING_REBOOT"


def test_a_machine_is_restarted_and_the_run_goes_on_where_it_was(ssm, node, root, tmp_path):
    root.run("rm", "-rf", "/repository")
    fresh = Deb("alpha", "1.3")
    debian_root.publish(
        root, tmp_path, {"stable": ("Debian", STABLE), "stable-security": ("Debian-Security", [*SECURITY, fresh])}
    )
    baseline(ssm, "security-only-alpha", RejectedPatches=["delta", "gamma"])
    before = root.run("cat", "/boot-id")
    told = run(ssm, [node], Operation="Install")[node]
    assert told["Status"] == "Success", told["StandardErrorContent"]
    assert "Going on after the restart of this node." in told["StandardOutputContent"]
    assert root.run("cat", "/boot-id") != before
    row, patches = state(ssm, node)
    assert patches["alpha.all"]["State"] == "INSTALLED" and versions(root)["alpha.all"] == "1.3"
    assert (row["RebootOption"], row["InstalledPendingRebootCount"]) == ("RebootIfNeeded", 0)


def test_repositories_that_cannot_be_read_leave_the_node_unreported(ssm, node, root):
    before = state(ssm, node)
    root.run("sh", "-c", "mv /repository /hidden")
    try:
        told = run(ssm, [node], Operation="Scan")[node]
    finally:
        root.run("sh", "-c", "mv /hidden /repository")
    assert told["Status"] == "Failed" and "No patch compliance is reported." in told["StandardOutputContent"]
    assert state(ssm, node) == before


def test_a_baselines_own_repositories_are_used_alone_and_the_nodes_are_there_after_a_kill(ssm, node, root, tmp_path):
    before = root.run("sh", "-c", "cat /etc/apt/sources.list; find /etc/apt /var/lib/apt/lists -type f | sort")
    theirs = Deb("delta", "9.0")
    lines = debian_root.publish(root, tmp_path, {"vendor": ("Vendor", [theirs])}, is_source=False)
    source = {"Name": "vendor", "Products": ["Debian12"], "Configuration": lines}
    baseline(ssm, "vendor", rule={"EnableNonSecurity": True}, Sources=[source])
    run(ssm, [node], Operation="Scan")
    titles = {patch["Title"] for patch in state(ssm, node)[1].values() if patch["State"] == "MISSING"}
    assert titles == {"delta.all:9.0"}  # and nothing of Debian's, of which there is a lot

    # A run that is killed half way leaves the node's own repositories as they were: it never took them away.
    root.write("/etc/dpkg/dpkg.cfg.d/slow", "pre-invoke=touch /begun; sleep 60\n")
    sent = ssm.send_command(
        InstanceIds=[node],
        DocumentName="AWS-RunPatchBaseline",
        Parameters={"Operation": ["Install"], "RebootOption": ["NoReboot"]},
    )["Command"]["CommandId"]
    until(lambda: root.run("sh", "-c", "ls /begun 2>/dev/null; true"), seconds=60)
    ssm.cancel_command(CommandId=sent)
    until(lambda: ssm.list_commands(CommandId=sent)["Commands"][0]["Status"] == "Cancelled", seconds=60)
    root.run("rm", "/etc/dpkg/dpkg.cfg.d/slow")
    assert root.run("sh", "-c", "cat /etc/apt/sources.list; find /etc/apt /var/lib/apt/lists -type f | sort") == before
    told = run(ssm, [node], Operation="Install", RebootOption="NoReboot")[node]
    assert told["Status"] == "Success", told["StandardErrorContent"]
    assert versions(root)["delta.all"] == "9.0"
    assert root.run("sh", "-c", "cat /etc/apt/sources.list; find /etc/apt /var/lib/apt/lists -type f | sort") == before


def test_three_thousand_packages_report_whole(ssm, node, root):
    stanza = (
        "Package: made-{0:04}-of-many\nStatus: install ok installed\nPriority: optional\nSection: misc\n"
        "Architecture: all\nVersion: 1:{1}.{0}.{2}-{1}+deb12u{2}\nMaintainer: x <x@example.invalid>\nDescription: x\n\n"
    )
    made = "".join(stanza.format(number, number * 7919 % 97, number * 104_729 % 89) for number in range(3000))
    root.run("sh", "-c", "cat >>/var/lib/dpkg/status", input=made)
    told = run(ssm, [node], Operation="Scan")[node]
    assert told["Status"] == "Success", told["StandardErrorContent"]
    row, patches = state(ssm, node)
    assert patches.keys() == versions(root).keys() and len(patches) > 3000
    assert f"InstalledOtherCount           : {row['InstalledOtherCount']}\n" in told["StandardOutputContent"]
