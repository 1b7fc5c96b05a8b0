"""AWS-RunPatchBaseline where zypper is: a repository with patches of the tests' own, our node inside.

zypper is the real one (Debian's package); the machine around it is this one, which says that it is SLES.
"""

import pytest

from tests.endpoint.patch import dnf_root
from tests.endpoint.patch.dnf_root import Notice, Rpm
from tests.endpoint.patch.machines import held, missing, node_in
from tests.endpoint.patch.test_demo_nodes import of, run, state
from tests.endpoint.patch.test_dnf_root import titles, versions

WHY_NOT = missing("zypper", *dnf_root.PROGRAMS[1:])
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"no root with zypper: {WHY_NOT}")

OLD = [Rpm(name, "1.0-1.1") for name in ("alpha", "beta", "gamma", "delta", "zeta", "broken")] + [
    Rpm("epoch", "1:1.0-1")
]
ALPHA, YOUNG, BETA = Rpm("alpha", "1.0-2.1"), Rpm("alpha", "1.0-10.1"), Rpm("beta", "1.1-1.1", requires="zeta >= 1.5")
DELTA, EPOCH, BROKEN = Rpm("delta", "2.0-1.1"), Rpm("epoch", "1:1.0-2"), Rpm("broken", "1.1-1.1", breaks=True)
GAMMA = Rpm("gamma", "1.2-1.1", requires="delta >= 2.0")
NEW = [ALPHA, YOUNG, BETA, DELTA, EPOCH, BROKEN, GAMMA, Rpm("zeta", "1.5-1.1"), Rpm("never-installed", "1-1")]
LONG_AGO, LATELY = "2026-03-01 10:00:00", "2200-01-01 00:00:00"  # released after any now
NOTICES = [
    Notice("SUSE-2026-1", "security", "important", LONG_AGO, ALPHA, ("CVE-2026-0001", "CVE-2026-0002"), also=[EPOCH]),
    Notice("SUSE-2026-9", "security", "critical", LATELY, YOUNG, ("CVE-2026-0009",)),
    Notice("SUSE-2026-2", "security", "critical", LONG_AGO, BETA, ("CVE-2026-0003",)),
    Notice("SUSE-2026-3", "recommended", "moderate", LONG_AGO, DELTA, also=[Rpm("never-installed", "1-1")]),
    Notice("SUSE-2026-4", "security", "low", LONG_AGO, BROKEN),
]


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    """Where the distribution's packages lie, and where somebody else's do."""
    found = []
    for packages, notices in (([*OLD, *NEW], NOTICES), ([Rpm("gamma", "3.0-1.1")], [])):
        found.append(dnf_root.build(packages, tmp_path_factory.mktemp("rpms")))
        dnf_root.index(found[-1], notices, tmp_path_factory.mktemp("notices"))
    return found


@pytest.fixture(scope="module")
def root(repositories, tmp_path_factory):
    with held(tmp_path_factory.mktemp("zypper") / "root", dnf_root.MOUNTS) as root:
        root.run("sh", "-c", "rm -rf /var/lib/rpm /var/cache/zypp /etc/zypp/repos.d && rpm --initdb")
        root.write("/etc/zypp/repos.d/tests.repo", written("tests", repositories[0]))
        root.run("rpm", "-i", "--nodeps", *(str(repositories[0] / package.file) for package in OLD))
        yield root


@pytest.fixture(scope="module")
def node(endpoint, root, tmp_path_factory):
    more = {"platform_name": "SLES", "platform_version": "15.6"}
    with node_in(endpoint, root, tmp_path_factory.mktemp("machine"), **more) as instance_id:
        yield instance_id


def written(name, packages):
    return f"[{name}]\nname={name}\nbaseurl=dir://{packages}\nenabled=1\nautorefresh=1\ngpgcheck=0\n"


def baseline(ssm, name, *classes, **more):
    rules = [
        {
            "PatchFilterGroup": {"PatchFilters": [{"Key": "CLASSIFICATION", "Values": list(classes)}]},
            "ComplianceLevel": "HIGH",
            "ApproveAfterDays": 7,
            "EnableNonSecurity": more.pop("all", False),
        }
    ]
    made = ssm.create_patch_baseline(Name=name, OperatingSystem="SUSE", ApprovalRules={"PatchRules": rules}, **more)
    ssm.register_default_patch_baseline(BaselineId=made["BaselineId"])


def test_what_is_approved_is_found_and_installed_and_nothing_else(ssm, node, root):
    baseline(ssm, "security", "Security")
    told = run(ssm, [node], Operation="Scan")[node]
    assert told["Status"] == "Success", told["StandardErrorContent"]
    _, patches = state(ssm, node)
    # alpha's newest is not old enough: the one before it is missing.
    wanted = {"alpha.noarch:1.0-2.1", "beta.noarch:1.1-1.1", "epoch.noarch:1:1.0-2", "broken.noarch:1.1-1.1"}
    assert titles(patches) == wanted
    needed = root.run("zypper", "-q", "lp", "--category", "security")
    assert {f"SUSE-2026-{number}" for number in (1, 2, 4, 9)} == {word for word in needed.split() if "SUSE-" in word}
    alpha = patches["alpha.noarch"]
    assert (alpha["Classification"], alpha["Severity"]) == ("Security", "Important")
    assert alpha["CVEIds"] == "CVE-2026-0001,CVE-2026-0002"
    assert patches.keys() == versions(root).keys() and patches["delta.noarch"]["State"] == "INSTALLED_OTHER"

    # gamma wants delta, which may come as no dependency either; broken fails, and stops nothing.
    lists = {"RejectedPatches": ["delta"], "RejectedPatchesAction": "BLOCK"}
    baseline(ssm, "all-but-delta", "*", all=True, **lists)
    before = versions(root)
    told = run(ssm, [node], Operation="Install", RebootOption="NoReboot")[node]
    changed = {name: version for name, version in versions(root).items() if before[name] != version}
    assert changed == {
        "alpha.noarch": "1.0-2.1",
        "beta.noarch": "1.1-1.1",
        "epoch.noarch": "1:1.0-2",
        "zeta.noarch": "1.5-1.1",
    }
    _, patches = state(ssm, node)
    assert told["Status"] == "Failed" and of(patches, "FAILED") == {"broken.noarch", "gamma.noarch"}
    assert of(patches, "INSTALLED_PENDING_REBOOT") == changed.keys()
    assert of(patches, "INSTALLED_REJECTED") == {"delta.noarch"}
    assert root.run("sh", "-c", "cat /etc/zypp/locks 2>/dev/null; true").count("delta") == 0

    root.restart("second")
    baseline(ssm, "without", "*", all=True, RejectedPatches=["broken", "gamma"])
    told = run(ssm, [node], Operation="Install", RebootOption="NoReboot")[node]
    assert told["Status"] == "Success", told["StandardErrorContent"]
    row, patches = state(ssm, node)
    assert of(patches, "INSTALLED_PENDING_REBOOT") == {"delta.noarch"} and row["MissingCount"] == 0
    assert of(patches, "INSTALLED") == changed.keys()


def test_a_baselines_own_repositories_are_used_alone_and_the_nodes_stay_as_they_are(ssm, node, root, repositories):
    configuration = written("main", repositories[1])  # as AWS's example has it
    source = {"Name": "third-party", "Products": ["Suse15.6"], "Configuration": configuration}
    baseline(ssm, "third-party", "*", all=True, Sources=[source])
    before = root.run("zypper", "lr", "-u")
    told = run(ssm, [node], Operation="Scan")[node]
    assert told["Status"] == "Success", told["StandardErrorContent"]
    assert titles(state(ssm, node)[1]) == {"gamma.noarch:3.0-1.1"}  # nothing of the distribution's
    run(ssm, [node], Operation="Install", RebootOption="NoReboot")
    assert versions(root)["gamma.noarch"] == "3.0-1.1"
    assert root.run("zypper", "lr", "-u") == before
